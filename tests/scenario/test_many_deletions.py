#!/usr/bin/python3
"""More folders are deleted while the other node is away than Dovecot's mailbox log remembers (340): none comes back."""
import view
from node import Pair, need
from dovecot_node import eventually_in_sync

USER = "alice@example.org"
FOLDERS = 380


def main():
    need("dovecot")
    with Pair() as pair:
        pair.a.deliver(USER, "first")
        client = pair.a.imap(USER)
        for number in range(FOLDERS):
            client.create(f'"Folder {number}"')
        for node in pair.nodes:
            eventually_in_sync(node)
        assert len(view.eventually_same(pair, USER)[0]) == FOLDERS + 1
        pair.cut()
        for number in range(FOLDERS):
            client.delete(f'"Folder {number}"')
        pair.b.deliver(USER, "meanwhile")
        pair.heal()
        boxes, _ = view.eventually_same(pair, USER, timeout=60)
        assert list(boxes) == ["INBOX"] and len(boxes["INBOX"][1]) == 2, list(boxes)
        for node in pair.nodes:
            eventually_in_sync(node)
        assert list(view.account(pair.b, USER)[0]) == ["INBOX"]
    print("ok")


if __name__ == "__main__":
    main()
