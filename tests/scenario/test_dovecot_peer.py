#!/usr/bin/python3
"""dsyncd with a real Dovecot as the other node: by its doveadm port, by a command, and with its own replicator calling us.
Deliveries, flags, expunges, folders and subscriptions on both; both show the same to IMAP clients."""
import imaplib
import os
import sys
import threading

import view
from dovecot24 import DovecotNode24
from dovecot_node import MixedPair, eventually_in_sync
from dsync_sides import DSYNC
from node import VMAIL, eventually, need

USER = "alice@example.org"


def uids(client, criterion="ALL"):
    client.noop()
    return client.uid("SEARCH", criterion)[1][0].split()


def same(pair):
    return view.eventually_same(pair, USER, modseqs=False, highest=False)


def changes(pair, here):
    """What a client does on one node is on the other soon."""
    tag = here.host
    client = here.imap(USER)
    for number in range(3):
        here.deliver(USER, f"{tag} {number}")
    client.noop()
    client.append("INBOX", r"(\Flagged $Label1)", imaplib.Time2Internaldate(1700000000),
                  f"Subject: {tag} appended\r\n\r\n.dot\r\n".encode())
    same(pair)
    ids = uids(client)
    client.uid("STORE", ids[0], "+FLAGS", rf"(\Seen $Forwarded {tag}-word)")
    client.uid("STORE", ids[-1], "-FLAGS", r"($Label1)")
    same(pair)
    client.create(f'"{tag}"')
    client.create(f'"{tag}/sub"')
    client.subscribe(f'"{tag}"')
    client.uid("COPY", ids[0], f'"{tag}"')
    client.uid("MOVE", ids[1], f'"{tag}/sub"')
    boxes, subscribed = same(pair)
    assert tag in boxes and tag in subscribed, (list(boxes), subscribed)
    assert len(boxes[f"{tag}/sub"][1]) == 1
    client.uid("STORE", ids[2], "+FLAGS", r"(\Deleted)")
    client.expunge()
    client.rename(f'"{tag}"', f'"{tag} renamed"')
    client.unsubscribe(f'"{tag}"')
    boxes, _ = same(pair)
    assert f"{tag} renamed" in boxes and tag not in boxes, list(boxes)
    client.delete(f'"{tag} renamed/sub"')
    boxes, _ = same(pair)
    assert f"{tag} renamed/sub" not in boxes, list(boxes)
    client.logout()
    eventually_in_sync(pair.a)


def both_at_once(pair, count=10):
    """Deliveries on both nodes at the same time: none is lost, and a UID is one message's."""
    before = len(same(pair)[0]["INBOX"][1])
    threads = [threading.Thread(target=lambda node=node: [node.deliver(USER, f"at once {node.host} {n}") for n in range(count)])
               for node in pair.nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    def all_there():
        mails = same(pair)[0]["INBOX"][1]
        for node in pair.nodes:
            for number in range(count):
                subject = f"Subject: at once {node.host} {number}\r\n".encode()
                assert any(subject in mail[-1] for mail in mails.values()), (node.host, number)
        return len(mails)

    after = eventually("every mail is on both", all_there)
    # A Dovecot that takes a delivery in the middle of its import keeps some mails under two UIDs.
    assert before + 2 * count <= after <= before + 3 * count, (before, after)
    print(f"both at once: {after - before - 2 * count} of {2 * count} twice")


def equal_counts(pair):
    """One change on each side, by which all numbers stay equal: it is found by asking."""
    same(pair)
    clients = [node.imap(USER) for node in pair.nodes]
    ids = uids(clients[0])
    clients[0].uid("STORE", ids[0], "+FLAGS", r"(\Answered)")
    clients[1].uid("STORE", ids[1], "+FLAGS", r"(\Draft)")
    for client in clients:
        client.logout()
    mails = same(pair)[0]["INBOX"][1]
    assert r"\Answered" in mails[int(ids[0])][0] and r"\Draft" in mails[int(ids[1])][0], mails


def reach_by_command(pair, replica, program="doveadm -c {conf} dsync-server -u"):
    """dsync_remote_cmd: a script in ssh's place. It is run as the mail's owner."""
    script, prefix = pair.b.dir + "/remote", replica.startswith("remoteprefix:")
    with open(script, "w", encoding="utf-8") as file:
        file.write(f"""#!/bin/sh
[ "$1 $2 $(id -u)" = "vmail b.example.org {VMAIL}" ] || exit 64
[ -e {pair.b.dir}/dovecot/run/master.pid ] || {{ echo "ssh: no route to it" >&2; exit 255; }}
{'read -r user' if prefix else 'user=$3'}
exec {program.format(conf=pair.b.dir + "/dovecot.conf")} "$user"
""")
    os.chmod(script, 0o755)
    pair.a.kill("dsyncd", 15)
    with open(pair.a.settings, "a", encoding="utf-8") as file:
        file.write(f"mail_replica = {replica}\ndsync_remote_cmd = {script} %{{login}} %{{host}} %{{user}}\n")
    pair.a.start_dsyncd()


def restart(pair):
    """dsyncd comes back, and knows what the Dovecot has; a Dovecot that was away gets what it missed."""
    pair.a.kill("dsyncd")
    pair.a.deliver(USER, "while dsyncd was away")
    pair.b.deliver(USER, "while dsyncd was away, there")
    pair.a.start_dsyncd()
    same(pair)
    eventually_in_sync(pair.a)
    pair.b.kill("dovecot", 15)
    pair.a.deliver(USER, "while Dovecot was away")
    eventually("down", lambda: not pair.a.status()["peers"][0]["up"])
    pair.b.start_dovecot()
    same(pair)
    eventually_in_sync(pair.a)


# What its log has of our part, and of its own ways.
EXPECTED = ("EOF", "Connection refused", "Killed with signal", "Disconnected", "desync", "Broken pipe", "Connection reset",
            "Expunged message reappeared", "Duplicate file entry", "iterate users", "User listing", "listing users",
            # A client renames and deletes a mailbox that a session, ours or its replicator's own, is opening.
            "Mailbox doesn't exist", "Mailbox was deleted under us", "was deleted (locked 0 secs ago")


def scenario(name, settings="", command=None, **options):
    if len(sys.argv) > 1 and name not in sys.argv[1:]:
        return
    with MixedPair(settings=settings, **options) as pair:
        if command:
            command(pair)
        pair.a.deliver(USER, "first")
        same(pair)
        changes(pair, pair.a)
        changes(pair, pair.b)
        equal_counts(pair)
        both_at_once(pair)
        restart(pair)
        assert view.uidls(pair.a, USER) == view.uidls(pair.b, USER)
        assert not pair.a.dovecot_log_problems(), pair.a.dovecot_log_problems()
        bad = pair.b.log_problems(EXPECTED)
        assert not bad, bad
    print("ok:", name)


POLLED = "replication_poll_interval = 1s\n"


def main():
    need("dovecot")
    scenario("port", POLLED)
    if len(sys.argv) > 1 and sys.argv[1] == "24":
        scenario("24", POLLED, theirs=DovecotNode24)
    scenario("replicator", "replication_poll_interval = 1h\n", replicates=True)
    scenario("command", POLLED, command=lambda pair: reach_by_command(pair, "remote:vmail@b.example.org"))
    # What ssh finds first where both are installed; it serves the Dovecot's mail.
    scenario("dsync", POLLED, command=lambda pair: reach_by_command(pair, "remote:vmail@b.example.org",
                                                                    DSYNC + " server -c {conf} -u"))
    scenario("wrapper", POLLED, command=lambda pair: reach_by_command(pair, "remoteprefix:vmail@b.example.org"))


if __name__ == "__main__":
    main()
