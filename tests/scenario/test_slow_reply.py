#!/usr/bin/python3
"""The mount has told of a removal or a rename, and the replicator looks, before the kernel has heard that it is done."""
import os

import plain
from node import BUILD, Pair, eventually, need

USER = "plain@example.org"


def main():
    need()
    with Pair(dovecot=False, start=False) as pair:
        slow = pair.a.dir + "/slow"
        for node in pair.nodes:
            if node is pair.a:
                node.environment = {"LD_PRELOAD": os.path.abspath(BUILD + "/tests/scenario/slow_reply.so"), "SLOW_REPLY": slow}
            node.start_dsyncfs()
            node.environment = {}
            node.start_dsyncd()
        root_a = plain.make_home(pair.a, USER) + "/Maildir"
        root_b = pair.b.home(USER) + "/Maildir"
        plain.make_maildir(root_a)
        gone, flagged, kept = (plain.deliver(root_a, text) for text in ("gone", "flagged", "kept"))
        eventually("mails on b", lambda: len(plain.files(root_b)) == 3)
        eventually("in sync", lambda: pair.a.status()["in_sync"] and pair.b.status()["in_sync"])

        with open(slow, "wb"):
            os.unlink(plain.find(root_a, gone))
            plain.set_flags(root_a, flagged, "F")
        os.unlink(slow)
        eventually("removed on b", lambda: set(plain.files(root_b)) == {flagged, kept})
        eventually("flagged on b", lambda: plain.files(root_b)[flagged] == "F")
        # Nor is it taken for a file that was lost.
        for node in pair.nodes:
            node.dsyncctl("replicate", "-f", "*")
        eventually("in sync again", lambda: pair.a.status()["in_sync"] and pair.b.status()["in_sync"])
        assert plain.files(root_a) == plain.files(root_b) == {flagged: "F", kept: ""}, (plain.files(root_a), plain.files(root_b))
    print("ok")


if __name__ == "__main__":
    main()
