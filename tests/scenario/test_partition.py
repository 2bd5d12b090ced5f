#!/usr/bin/python3
"""The link is cut, both sides deliver, flag, move and expunge, the link heals: merged, nothing lost, doubled or back.

Usage: test_partition.py [LOCATION [LOCATION]]      of both nodes, or of each
"""
import sys
import time

import plain
import view
from node import Pair, eventually, need

USER = "bob@example.org"


def subject(body):
    return next(l for l in body.splitlines() if l.startswith(b"Subject: "))[9:].decode()


def subjects(account, folder):
    return sorted((subject(body), flags) for flags, _date, _size, _modseq, body in account[0][folder][1].values())


def uids_by_number(account):
    """Of the mails in INBOX. Dovecot gives a mail that it delivers while somebody has the uidlist no UID, and its next one may
    have one before it."""
    return [str(uid) for _text, uid in sorted((subject(mail[4]), uid) for uid, mail in account[0]["INBOX"][1].items())]


def expunge_by_the_old_uid(pair):
    """A client has not heard yet that the merge gave its mail another UID, and expunges it by the one that it knows."""
    both = view.eventually_same(pair, USER)
    uid = str(both[0]["INBOX"][0][1])
    pair.cut()
    pair.a.deliver(USER, "gone")
    pair.b.deliver(USER, "stays")
    client = pair.a.imap(USER)
    client.uid("STORE", uid, "+FLAGS", r"(\Deleted)")
    pair.heal()
    eventually("the UID was changed", lambda: uid.encode() not in pair.a.imap(USER).uid("SEARCH", "ALL")[1][0].split())
    client.uid("EXPUNGE", uid)
    eventually("it is gone", lambda: "gone" not in dict(subjects(view.account(pair.a, USER), "INBOX")))
    after = dict(subjects(view.eventually_same(pair, USER), "INBOX"))
    assert "stays" in after and "gone" not in after, after


def main(location="maildir:~/Maildir", other=None):
    need("dovecot")
    with Pair(location=(location, other or location)) as pair:
        for number in range(8):
            pair.a.deliver(USER, f"mail {number}")
        pair.a.imap(USER).create("Kept")
        uids = uids_by_number(view.eventually_same(pair, USER))

        pair.cut()
        a, b = pair.a.imap(USER), pair.b.imap(USER)
        a.uid("STORE", uids[0], "+FLAGS", r"(\Seen)")
        b.uid("STORE", uids[0], "+FLAGS", r"(\Answered work)")
        a.uid("STORE", uids[1], "+FLAGS", r"(\Deleted)")
        a.expunge()
        b.uid("STORE", uids[1], "+FLAGS", r"(\Flagged)")  # expunge wins over a flag
        b.uid("STORE", uids[2], "+FLAGS", r"(\Deleted)")
        b.expunge()
        a.uid("MOVE", uids[3], "Kept")
        b.uid("MOVE", uids[4], "Kept")
        for number in range(3):
            pair.a.deliver(USER, f"from a {number}")
            pair.b.deliver(USER, f"from b {number}")
        a.create('"Made on a"')
        b.create('"Made on b"')
        a.create('"Made on both"')
        b.create('"Made on both"')
        pair.a.imap(USER).append('"Made on both"', None, None, b"Subject: both a\r\n\r\nx\r\n")
        pair.b.imap(USER).append('"Made on both"', None, None, b"Subject: both b\r\n\r\nx\r\n")
        time.sleep(1)
        eventually("a knows that the peer is away", lambda: "unreachable" in pair.a.dsyncctl("status").stdout)
        # files are where they were delivered
        if location.startswith("maildir:"):
            assert len(plain.files(pair.a.home(USER) + "/Maildir")) == 6 + 3

        pair.heal()
        healed = time.monotonic()
        merged = view.eventually_same(pair, USER, timeout=30)
        print(f"merged {time.monotonic() - healed:.1f} s after the link healed")

        expected = {"mail 0": ("\\Answered", "\\Seen", "work"), "mail 5": (), "mail 6": (), "mail 7": ()}
        expected.update({f"from {side} {n}": () for side in "ab" for n in range(3)})
        assert subjects(merged, "INBOX") == sorted(expected.items()), subjects(merged, "INBOX")
        assert [s for s, _ in subjects(merged, "Kept")] == ["mail 3", "mail 4"], subjects(merged, "Kept")
        assert [s for s, _ in subjects(merged, "Made on both")] == ["both a", "both b"]
        assert {"Made on a", "Made on b"} <= set(merged[0])
        expunge_by_the_old_uid(pair)
        for node in pair.nodes:
            assert not node.dovecot_log_problems(), node.dovecot_log_problems()
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
