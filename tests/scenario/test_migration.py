#!/usr/bin/python3
"""Two Dovecot 2.3 nodes under their own replication become two dsyncfs nodes, one at a time, as README says it: deliveries
go on at the node that serves, no mail is lost or doubled, and no UID changes."""
import threading
import time

import view
from dovecot_node import DovecotNode, need_settings_of_23
from network import Network
from node import dovecot_config, eventually, need, skip

USERS = ["alice@example.org", "bob@example.org", "carol@example.net"]
PLAIN_END = "\ndoveadm_password ="


class Migrating(DovecotNode):
    """Mail in `mount`, which is a directory until dsyncfs mounts it over itself."""

    def __init__(self, network, host):
        super().__init__(network, host, replicates=True)
        self.backing = self.mount

    def take_over(self):
        """What the section says, for one node."""
        self.kill("dovecot", 15)
        # dsyncfs over the existing tree, then dsyncd on the port where the Dovecot listened.
        self.start_dsyncfs()
        self.start_dsyncd()
        # Dovecot again, without replication and without a doveadm port.
        with open(self.dir + "/dovecot.conf", encoding="utf-8") as file:
            conf = file.read()
        with open(self.dir + "/dovecot.conf", "w", encoding="utf-8") as file:
            file.write(conf[:conf.index(PLAIN_END)] + "\n")
        self.start_dovecot()

    def start_all(self, dovecot=True):
        self.start_dovecot()


class Deliveries(threading.Thread):
    """Mail for all users at the node that serves, until stopped; notes the UID that each mail got there."""

    def __init__(self, node):
        super().__init__()
        self.node, self.number, self.stopped, self.error = node, 0, False, None
        self.pause_secs = 0.05
        self.subjects = []

    def run(self):
        try:
            while not self.stopped:
                for user in USERS:
                    subject = f"mail {self.number} {user}"
                    self.node.deliver(user, subject)
                    self.subjects.append((user, subject))
                    self.number += 1
                time.sleep(self.pause_secs)
        except Exception as error:  # pylint: disable=broad-except
            self.error = error

    def serve_at(self, node):
        """The other node takes the mail from now on."""
        self.node = node
        number = self.number
        eventually("deliveries at the other node", lambda: self.error or self.number > number + 2 * len(USERS))

    def stop(self):
        self.stopped = True
        self.join()
        assert not self.error, repr(self.error)


def inbox(node, user):
    """UIDVALIDITY and {UID: subject}."""
    (validity, _, _), mails = view.account(node, user)[0]["INBOX"]
    subjects = {}
    for uid, mail in mails.items():
        line = next(line for line in mail[-1].split(b"\r\n") if line.startswith(b"Subject: "))
        subjects[uid] = line[9:].decode()
    return validity, subjects


def same(a, b):
    def check():
        for user in USERS:
            difference = view.difference(view.account(a, user), view.account(b, user), modseqs=False, highest=False)
            assert not difference, (user, difference)
        return True

    eventually("both nodes show the same", check, timeout=60)


def in_sync(node, deliveries):
    """With pauses between the mails: where one is always on its way, a slow machine is never in sync."""
    deliveries.pause_secs = 0.5
    eventually("in sync", lambda: node.dsyncctl("status").stdout.startswith("in sync"), timeout=60, every=0.1)
    deliveries.pause_secs = 0.05


def migrate(a, b):
    for user in USERS:
        a.deliver(user, f"before {user}")
    client = a.imap(USERS[0])
    client.create("Work")
    client.subscribe("Work")
    client.uid("COPY", b"1", "Work")
    client.uid("STORE", b"1", "+FLAGS", r"(\Flagged $Label1)")
    client.logout()
    same(a, b)
    before = {user: inbox(a, user) for user in USERS}

    deliveries = Deliveries(b)
    deliveries.start()
    try:
        # a's clients and mail have gone to b; what a still had is there by now.
        deliveries.serve_at(b)
        a.take_over()
        in_sync(a, deliveries)
        print("a is migrated after", deliveries.number, "mails")
        noted = {user: inbox(b, user)[1] for user in USERS}
        deliveries.serve_at(a)
        in_sync(a, deliveries)
        b.take_over()
        eventually("a has met the new b", lambda: "another node than before" in log_of(a))
        deliveries.serve_at(b)
        time.sleep(0.5)
    finally:
        deliveries.stop()
    same(a, b)
    in_sync(a, deliveries)
    in_sync(b, deliveries)
    print("both are migrated after", deliveries.number, "mails")
    for user in USERS:
        validity, subjects = inbox(a, user)
        assert validity == before[user][0]
        expected = [f"before {user}"] + [subject for who, subject in deliveries.subjects if who == user]
        assert sorted(subjects.values()) == sorted(expected), set(expected) ^ set(subjects.values())
        for known in (before[user][1], noted[user]):
            for uid, subject in known.items():
                assert subjects.get(uid) == subject, (user, uid, subject, subjects.get(uid))
    # Two dsyncfs nodes from now on.
    b.deliver(USERS[0], "after")
    eventually("at once", lambda: "after" in inbox(a, USERS[0])[1].values())
    for node in (a, b):
        ids = [peer["id"] for peer in node.status()["peers"]]
        assert all(not one.startswith("dovecot:") for one in ids), ids


def log_of(node):
    with open(node.log, encoding="utf-8", errors="replace") as file:
        return file.read()


def main():
    need("dovecot")
    need_settings_of_23()
    if dovecot_config.is_24():
        skip("Dovecot 2.4 has no replication to come from")
    network = Network()
    nodes = []
    try:
        nodes = [Migrating(network, host) for host in "ab"]
        for node in nodes:
            node.start_all()
        migrate(*nodes)
        print("ok")
    except BaseException:
        for node in nodes:
            print("---", node.host, "".join(log_of(node).splitlines(True)[-40:]), sep="\n")
            print("".join(node.log_problems()[-30:]))
        raise
    finally:
        for node in nodes:
            node.close()
        network.close()


if __name__ == "__main__":
    main()
