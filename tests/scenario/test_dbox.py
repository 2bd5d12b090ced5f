#!/usr/bin/python3
"""sdbox on one node and mdbox on the other, and purge beside Dovecot."""
import json
import os

import view
from node import Pair, need
from test_dovecot import USER, run


def purge():
    """By dsyncctl, beside Dovecot on the mount: the room is back, and nothing else changed at either node."""
    with Pair(location="mdbox:~/mdbox") as pair:
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


def main():
    need("dovecot")
    run(("sdbox:~/sdbox", "mdbox:~/mdbox"))
    purge()
    print("ok")


if __name__ == "__main__":
    main()
