#!/usr/bin/python3
"""Two nodes of ours, of which one runs beside Dovecot 2.3 and the other beside 2.4: deliveries, flags, expunges, folders and
subscriptions on both, also at once; both show the same to IMAP and POP3 clients. Needs a tree with Dovecot 2.4 (dovecot24.py)."""
import sys

import view
from dovecot24 import Node24
from dovecot_node import eventually_in_sync
from node import Node, Pair, need
from test_dovecot_peer import uids

USER = "alice@example.org"


def changes(pair, here):
    tag, client = here.host, here.imap(USER)
    for number in range(3):
        here.deliver(USER, f"{tag} {number}")
    client.noop()
    client.append("INBOX", r"(\Flagged $Label1)", None, f"Subject: {tag} appended\r\n\r\n.dot\r\n".encode())
    view.eventually_same(pair, USER)
    ids = uids(client)
    client.uid("STORE", ids[0], "+FLAGS", rf"(\Seen {tag}-word)")
    client.create(f'"{tag}"')
    client.create(f'"{tag}/sub"')
    client.subscribe(f'"{tag}"')
    client.uid("COPY", ids[0], f'"{tag}"')
    client.uid("MOVE", ids[1], f'"{tag}/sub"')
    boxes, subscribed = view.eventually_same(pair, USER)
    assert tag in boxes and tag in subscribed and len(boxes[f"{tag}/sub"][1]) == 1, (list(boxes), subscribed)
    client.uid("STORE", ids[2], "+FLAGS", r"(\Deleted)")
    client.expunge()
    client.rename(f'"{tag}"', f'"{tag} renamed"')
    boxes, _ = view.eventually_same(pair, USER)
    assert f"{tag} renamed/sub" in boxes and tag not in boxes, list(boxes)
    client.delete(f'"{tag} renamed/sub"')
    view.eventually_same(pair, USER)
    client.logout()


def at_once(pair):
    """Each node's own mails and flags while the link is cut."""
    before = len(view.eventually_same(pair, USER)[0]["INBOX"][1])
    pair.cut()
    for node in pair.nodes:
        for number in range(5):
            node.deliver(USER, f"cut {node.host} {number}")
        client = node.imap(USER)
        client.uid("STORE", uids(client)[0], "+FLAGS", rf"(cut-{node.host})")
        client.logout()
    pair.heal()
    boxes, _ = view.eventually_same(pair, USER)
    assert len(boxes["INBOX"][1]) == before + 10, (before, len(boxes["INBOX"][1]))


def scenario(location):
    with Pair(location=location, kinds=(Node, Node24)) as pair:
        pair.a.deliver(USER, "first")
        view.eventually_same(pair, USER)
        for node in pair.nodes:
            changes(pair, node)
        at_once(pair)
        for node in pair.nodes:
            eventually_in_sync(node)
        assert view.uidls(pair.a, USER) == view.uidls(pair.b, USER)
        for node in pair.nodes:
            assert not node.dovecot_log_problems(), node.dovecot_log_problems()
    print("ok:", location)


def main():
    need("dovecot")
    for location in sys.argv[1:] or ("maildir:~/Maildir", "mdbox:~/mdbox"):
        scenario(location)


if __name__ == "__main__":
    main()
