#!/usr/bin/python3
"""UIDs that clients see change while both nodes take deliveries for the same users, beside Dovecot's own replicator.

Two messages that reach the two nodes at the same moment get the same UID, and at least one of them has to get another. An
IMAP session for each user on each node polls and writes down which UIDs each message had there. With cuts, the link is down for a while
again and again. At the end each message is on both nodes once, with one UID, or the program says what is not.

Usage: uid_changes.py [--messages N] [--rate PER_SECOND_AND_NODE] [--users N] [--cut SECONDS] [rival ...]
Rivals: dsyncfs, dovecot. Needs root, /dev/fuse, ip, Dovecot 2.3. Results are printed as a table.
"""
import argparse
import random
import re
import threading
import time

from rivals import Rival, nodes

CUT_EVERY = 10  # seconds between two cuts
SETTLE = 400  # seconds; Dovecot tries again after five minutes


class Watcher(threading.Thread):
    """All users of one node: {(user, subject): UIDs it was seen under, in their order}."""

    def __init__(self, node, users):
        super().__init__(daemon=True)
        self.clients = {user: node.imap(user) for user in users}
        self.last = dict.fromkeys(users, 0)
        self.seen = {}
        self.ending = threading.Event()

    def look(self, user):
        client = self.clients[user]
        client.noop()
        _, data = client.uid("FETCH", f"{self.last[user] + 1}:*", "(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
        for part in data:
            if not isinstance(part, tuple):
                continue
            uid = int(re.search(rb"UID (\d+)", part[0]).group(1))
            subject = part[1].decode().partition(":")[2].strip()
            uids = self.seen.setdefault((user, subject), [])
            if uid not in uids:
                uids.append(uid)
            self.last[user] = max(self.last[user], uid)

    def run(self):
        while not self.ending.is_set():
            for user in self.clients:
                self.look(user)
            time.sleep(0.005)

    def stop(self):
        self.ending.set()
        self.join()

    def changes(self):
        return sum(len(uids) - 1 for uids in self.seen.values())


def deliver_all(node, users, messages, rate, seed, problems):
    """At random moments, as mail comes."""
    chance = random.Random(seed)
    when = time.monotonic()
    for number in range(messages):
        when += chance.expovariate(rate)
        time.sleep(max(0, when - time.monotonic()))
        try:
            node.deliver(chance.choice(users), f"{node.host} {number}")
        except OSError as error:
            problems.append(f"{node.host} {number}: {error}")


def view(node, user):
    """{subject: UIDs} as a new session sees it."""
    watcher = Watcher(node, [user])
    watcher.look(user)
    watcher.clients[user].logout()
    return watcher.seen


def both_equal(rival, users):
    for user in users:
        if view(rival.a, user) != view(rival.b, user):
            return False
    return True


def traffic(rival, users, messages, rate, cut):
    """Returns UID changes that were seen, on both nodes together."""
    problems = []
    watchers = [Watcher(node, users) for node in (rival.a, rival.b)]
    writers = [threading.Thread(target=deliver_all, args=(node, users, messages // 2, rate, node.host, problems))
               for node in (rival.a, rival.b)]
    for thread in watchers + writers:
        thread.start()
    while cut and any(writer.is_alive() for writer in writers):
        time.sleep(CUT_EVERY - cut)
        rival.network.cut()
        time.sleep(cut)
        rival.network.heal()
    for writer in writers:
        writer.join()
    nodes.eventually("both nodes show the same", lambda: both_equal(rival, users), SETTLE, every=1)
    time.sleep(1)
    for watcher in watchers:
        watcher.stop()
    count = sum(len(view(rival.a, user)) for user in users)
    doubled = sum(len(uids) - 1 for user in users for uids in view(rival.a, user).values())
    expected = messages // 2 * 2 + len(users)
    if problems or doubled or count != expected:
        print(f"{rival.kind}: {count} messages of {expected}, {doubled} doubled {problems[:3]}")
    return sum(watcher.changes() for watcher in watchers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=10)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--cut", type=float, default=0)
    parser.add_argument("rivals", nargs="*", default=["dsyncfs", "dovecot"])
    args = parser.parse_args()
    nodes.need("dovecot")
    users = [f"user{n}@example.org" for n in range(args.users)]
    print("rival     UID changes seen per 1,000 messages (a message is seen on two nodes)", flush=True)
    for kind in args.rivals:
        rival = Rival(kind)
        try:
            rival.prepare(users)
            changes = traffic(rival, users, args.messages, args.rate, args.cut)
            print(f"{kind:8}  {changes * 1000 / args.messages:8.1f}", flush=True)
        finally:
            rival.close()


if __name__ == "__main__":
    main()
