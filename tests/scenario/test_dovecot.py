#!/usr/bin/python3
"""Dovecot with LMTP, IMAP and POP3 on both mounts: what a client does on one node, a client sees on the other."""
import imaplib
import time

import view
from node import Pair, eventually, need

USER = "alice@example.org"


def utf7(name):
    """Modified UTF-7, for the names that this test uses."""
    return {"Entwürfe": "Entw&APw-rfe", "日本語": "&ZeVnLIqe-"}.get(name, name)


def uids(client, criterion="ALL"):
    client.noop()
    return client.uid("SEARCH", criterion)[1][0].split()


def idle_sees_delivery(pair):
    pair.a.deliver(USER, "before")
    eventually("first mail on b", lambda: uids(pair.b.imap(USER)))
    client = pair.b.imap(USER)
    tag = client._new_tag()
    client.send(tag + b" IDLE\r\n")
    assert client.readline().startswith(b"+")
    pair.a.deliver(USER, "while idling")
    client.sock.settimeout(10)
    while b"2 EXISTS" not in client.readline():
        pass
    client.send(b"DONE\r\n")
    client.shutdown()


def both_directions(pair, here, there):
    prefix = here.host
    client = here.imap(USER)
    for number in range(3):
        here.deliver(USER, f"{prefix} {number}")
    client.noop()
    client.append("INBOX", r"(\Flagged $Label1)", imaplib.Time2Internaldate(1700000000),
                  f"Subject: {prefix} appended\r\n\r\nText.\r\n".encode())
    view.eventually_same(pair, USER)
    ids = uids(client)
    client.uid("STORE", ids[0], "+FLAGS", r"(\Seen $Forwarded)")
    client.uid("STORE", ids[-1], "-FLAGS", r"($Label1)")
    view.eventually_same(pair, USER)

    folder = f"{prefix}-{utf7('Entwürfe')}"
    client.create(f'"{folder}"')
    client.create(f'"{folder}/{utf7("日本語")}"')
    client.subscribe(f'"{folder}"')
    client.uid("COPY", ids[0], f'"{folder}"')
    client.uid("MOVE", ids[1], f'"{folder}/{utf7("日本語")}"')
    boxes, subscribed = view.eventually_same(pair, USER)
    assert folder in boxes and folder in subscribed, (list(boxes), subscribed)
    assert len(boxes[folder][1]) == 1 and len(boxes[f"{folder}/{utf7('日本語')}"][1]) == 1

    client.uid("STORE", ids[2], "+FLAGS", r"(\Deleted)")
    client.expunge()
    client.rename(f'"{folder}"', f'"{prefix} renamed"')
    client.unsubscribe(f'"{folder}"')
    view.eventually_without(pair, USER, folder)
    boxes, subscribed = view.eventually_same(pair, USER)
    assert f"{prefix} renamed" in boxes and folder not in boxes, list(boxes)
    client.delete(f'"{prefix} renamed/{utf7("日本語")}"')
    client.create(f'"{prefix} kept"')
    view.eventually_without(pair, USER, f"{prefix} renamed/{utf7('日本語')}")
    boxes, _ = view.eventually_same(pair, USER)
    assert f"{prefix} kept" in boxes and f"{prefix} renamed/{utf7('日本語')}" not in boxes, list(boxes)
    client.logout()


def run(location, **options):
    with Pair(location=location, **options) as pair:
        idle_sees_delivery(pair)
        both_directions(pair, pair.a, pair.b)
        both_directions(pair, pair.b, pair.a)
        assert view.uidls(pair.a, USER) == view.uidls(pair.b, USER)
        time.sleep(1)
        for node in pair.nodes:
            assert not node.dovecot_log_problems(), node.dovecot_log_problems()


def main():
    need("dovecot")
    run("maildir:~/Maildir")
    run("maildir:~/Maildir:LAYOUT=fs")
    print("ok")


if __name__ == "__main__":
    main()
