#!/usr/bin/python3
"""Full syncs, which look for lost files, while a program moves mail between folders: what it has just moved is not taken for lost."""
import os
import threading
import time

import plain
from node import Pair, eventually

USER = "full@example.org"
MAILS = 100


def in_sync(pair):
    return all(node.status()["in_sync"] for node in pair.nodes)


def accounts(pair):
    """Of each node the base names in INBOX and in Archive."""
    return [[sorted(plain.files(node.home(USER) + "/Maildir" + folder)) for folder in ("", "/.Archive")] for node in pair.nodes]


def main():
    with Pair(dovecot=False) as pair:
        maildir = plain.make_home(pair.a, USER) + "/Maildir"
        plain.make_maildir(maildir)
        plain.make_maildir(maildir + "/.Archive")
        bases = sorted(plain.deliver(maildir, f"mail {n}") for n in range(MAILS))
        eventually("both have them", lambda: os.path.isdir(pair.b.home(USER) + "/Maildir/.Archive/cur")
                   and accounts(pair) == [[bases, []]] * 2 and in_sync(pair))
        stop = threading.Event()

        def full_syncs():
            while not stop.is_set():
                for node in pair.nodes:
                    node.dsyncctl("replicate", "-f", USER)
                time.sleep(0.02)

        syncs = threading.Thread(target=full_syncs)
        syncs.start()
        try:
            for base in bases:
                os.rename(plain.find(maildir, base), f"{maildir}/.Archive/cur/{base}:2,S")
                time.sleep(0.01)
        finally:
            stop.set()
            syncs.join()

        def moved_once():
            there = accounts(pair)
            assert there == [[[], bases]] * 2, [[len(folder) for folder in node] for node in there]
            return in_sync(pair)

        eventually("all moved, and once", moved_once, 60)


if __name__ == "__main__":
    main()
