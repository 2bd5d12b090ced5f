#!/usr/bin/python3
"""sdbox on one node and mdbox on the other, and purge beside Dovecot.

Usage: test_dbox.py [24]      24: beside a Dovecot 2.4 on both nodes, and beside one on either (dovecot24.py)
"""
import json
import os
import sys

import view
from dovecot24 import Node24
from node import Node, Pair, need
from test_dovecot import USER, run


def purge(kinds):
    """By dsyncctl, beside Dovecot on the mount: the room is back, and nothing else changed at either node."""
    with Pair(location="mdbox:~/mdbox", kinds=kinds) as pair:
        for number in range(20):
            pair.a.deliver(USER, f"mail {number}", body="x" * 70 + "\r\n" * 20)
        view.eventually_same(pair, USER)
        client = pair.a.imap(USER)
        client.store("1:15", "+FLAGS", r"(\Deleted)")
        client.expunge()
        before = view.eventually_same(pair, USER)
        for node in pair.nodes:
            result = node.dsyncctl("--json", "purge", "alice@*")
            assert result.returncode == 0, result
            user = json.loads(result.stdout)["users"][0]
            assert user["messages"] == 15 and user["corrected"] == 0, user
            left = [name for name in os.listdir(node.home(USER) + "/mdbox/storage") if name.startswith("m.")]
            assert left == ["m.2"], left
        client.noop()
        assert len(client.fetch("1:*", "(BODY.PEEK[])")[1]) >= 5
        pair.b.deliver(USER, "after")
        after = view.eventually_same(pair, USER)
        assert len(after[0]["INBOX"][1]) == len(before[0]["INBOX"][1]) + 1
        client.logout()
        for node in pair.nodes:
            assert not node.dovecot_log_problems(), node.dovecot_log_problems()


def main(version="23"):
    need("dovecot")
    kinds_of = {"23": [(Node, Node)], "24": [(Node24, Node24), (Node, Node24), (Node24, Node)]}[version]
    for kinds in kinds_of:
        run(("sdbox:~/sdbox", "mdbox:~/mdbox"), kinds=kinds)
    purge(kinds_of[0])
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
