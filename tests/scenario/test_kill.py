#!/usr/bin/python3
"""kill -9 of dsyncd, of a worker and of dsyncfs under load, then restart: the same end state as without."""
import os
import re
import socket
import subprocess
import threading
import time

import plain
from node import Pair, eventually, need

USERS = [f"user{n}@example.org" for n in range(4)]
QUIET_USER = "quiet@example.org"
CLEAN_SECS = 9  # a mailbox has left the dirty set by then


class Load(threading.Thread):
    """Delivers, flags and removes on a node; remembers what was acknowledged."""

    def __init__(self, node):
        super().__init__()
        self.node, self.stop = node, threading.Event()
        self.delivered, self.removed = {user: set() for user in USERS}, {user: set() for user in USERS}

    def run(self):
        count = 0
        while not self.stop.is_set():
            user = USERS[count % len(USERS)]
            count += 1
            maildir = self.node.home(user) + "/Maildir"
            try:
                base = plain.deliver(maildir, f"{self.node.host} {count}")
                self.delivered[user].add(base)
                if count % 3 == 0:
                    plain.set_flags(maildir, base, "S")
                if count % 7 == 0:
                    os.unlink(plain.find(maildir, base))
                    self.removed[user].add(base)
            except OSError:  # the mount is away: an MDA would try again later
                time.sleep(0.05)
            time.sleep(0.02)


def scanned_at_start(node):
    """How many mailboxes were scanned, of each start after a crash."""
    with open(node.log, encoding="utf-8") as file:
        return [int(n) for n in re.findall(r"being changed when the mount died are scanned count=(\d+)", file.read())]


def workers(node):
    out = subprocess.run(["pgrep", "-P", str(dsyncd_pid(node))], capture_output=True, text=True, check=False).stdout
    return [int(pid) for pid in out.split()]


def dsyncd_pid(node):
    return node.pid("dsyncd")


def a_lock_that_could_not_be_removed(pair):
    """Its holder lives, as an LMTP server does that was in the middle of a delivery when its mount died: mail comes all the same."""
    user = QUIET_USER
    maildir = pair.a.home(user) + "/Maildir"
    with subprocess.Popen(["sleep", "1000"]) as holder:
        try:
            with open(maildir + "/dovecot-uidlist.lock", "w", encoding="ascii") as file:
                file.write(f"{holder.pid}:{socket.gethostname()}")
            time.sleep(1.5)
            pair.a.kill("dsyncfs")
            pair.a.start_dsyncfs()
            base = plain.deliver(pair.b.home(user) + "/Maildir", "while its holder lives")
            eventually("the mail came", lambda: plain.find(maildir, base), timeout=60)
            assert holder.poll() is None
        finally:
            holder.kill()


def main():
    need("pgrep")
    with Pair(dovecot=False) as pair:
        for node in pair.nodes:
            for user in USERS:
                plain.make_maildir(plain.make_home(node, user) + "/Maildir")
        quiet = plain.make_home(pair.a, QUIET_USER) + "/Maildir"
        plain.make_maildir(quiet)
        plain.deliver(quiet, "long ago")
        time.sleep(CLEAN_SECS)
        loads = [Load(node) for node in pair.nodes]
        for load in loads:
            load.start()
        try:
            for _ in range(3):
                time.sleep(0.7)
                for pid in workers(pair.a)[:1]:
                    os.kill(pid, 9)
                time.sleep(0.7)
                pair.b.kill("dsyncd")
                pair.b.start_dsyncd()
                time.sleep(0.7)
                pair.a.kill("dsyncfs")
                pair.a.start_dsyncfs()
        finally:
            for load in loads:
                load.stop.set()
            for load in loads:
                load.join()

        for user in USERS:
            delivered = set().union(*(load.delivered[user] for load in loads))
            removed = set().union(*(load.removed[user] for load in loads))

            def same(user=user, delivered=delivered, removed=removed):
                left = plain.files(pair.a.home(user) + "/Maildir")
                right = plain.files(pair.b.home(user) + "/Maildir")
                assert left == right, sorted(set(left.items()) ^ set(right.items()))
                assert delivered - removed <= set(left), ("lost", delivered - removed - set(left))
                assert not removed & set(left), ("back", removed & set(left))
                return True

            eventually(f"{user} is the same on both, nothing lost or back", same, timeout=40)
        scans = scanned_at_start(pair.a)
        assert len(scans) == 3 and all(0 < count <= len(USERS) for count in scans), scans

        def swept():
            for node in pair.nodes:
                for user in USERS:
                    # What a delivery left whose mount went away is its own business.
                    left = [n for n in os.listdir(node.home(user) + "/Maildir/tmp") if not n.endswith(".plain")]
                    assert not left, (user, left)
            return True

        eventually("nothing is left in tmp/", swept, timeout=20)
        for user in USERS:
            assert plain.files(pair.a.home(user) + "/Maildir") == plain.files(pair.b.home(user) + "/Maildir"), user
        a_lock_that_could_not_be_removed(pair)
    print("ok")


if __name__ == "__main__":
    main()
