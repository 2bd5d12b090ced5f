#!/usr/bin/python3
"""dsync between the formats, of mails and names that nobody writes by hand: maildir -> mdbox -> sdbox -> maildir keeps each byte,
GUID, UID, date and flag. So it is with attachments in a directory of their own."""
import base64
import gzip
import os
import random
import re

from dsync_sides import Directory, Dovecot, give, maildir_view
from test_convert import Stores, dsync, until_done

RANDOM = random.Random(1)
MAGIC = b"\x01\x02N  00000000000000AA\n"
TRAILER = b"\n\x01\x03\nR5f000000\nG00000000000000000000000000000000\n\n"
ODD = {
    "empty": b"",
    "a newline": b"\n",
    "a CRLF": b"\r\n",
    "a byte": b"x",
    "header only": b"Subject: header only\n",
    "header without end": b"Subject: header without end",
    "header and blank line": b"Subject: header and blank line\n\n",
    "body only": b"\nno header\n",
    "no final newline": b"Subject: no final newline\n\nbody",
    "final CR": b"Subject: final CR\n\nbody\r",
    "CRLF": b"Subject: CRLF\r\n\r\nline\r\nline\r\n",
    "line ends of all kinds": b"Subject: mixed\r\nX-Y: z\n\nline\r\nline\n\r\r\n\n\rbare\rCR\n\r",
    "8 bits": "Subject: ä\n\nGrüße, 日本語\n".encode() + b"Subject: \xe4\xff\xfe\n" + bytes(range(128, 256)),
    "NUL": b"Subject: \0nul\0\n\0: \0\n\n\0\0\0body\0\n\0",
    "only NUL": bytes(3000),
    "every byte": b"Subject: every byte\n\n" + bytes(range(256)) * 300,
    "a long line": b"Subject: long line\n\n" + b"x" * 1_000_000,
    "a long header": b"Subject: " + b"y" * 200_000 + b"\n\nbody\n",
    "many headers": b"".join(b"X-%d: y\n" % n for n in range(5000)) + b"\n",
    "From": b"From someone Mon Jan  1 00:00:00 2024\nSubject: From\n\nFrom here\n>From there\n\nFrom \n",
    "a dbox message": b"Subject: dbox\n\n" + MAGIC + b"\nSubject: inner\n\n" + TRAILER + MAGIC + TRAILER,
    "a dbox message first": MAGIC + TRAILER * 3,
    "a dbox trailer": TRAILER,
    "a dbox file": b"2 M1e C5f0e1f2a\n" + MAGIC + b"a: b\n\nc" + TRAILER,
    "lone dbox bytes": b"\x01\x02\x01\x03\n\x01\x02N\n\x01",
    "dots": b".\n\n.\r\n..\n.\n",
    "escapes": b"\x001\t0r0n\x01\r1\n" * 100,
    "noise": RANDOM.randbytes(300_000),
    "gzip": b"\x1f\x8b\x08" + RANDOM.randbytes(100),
}
SPECIAL = "!\"#$'()+,-:;<=>?@[]^_`{|}"  # and below, what needs care
NAMES = [*(f"x{char}y" for char in SPECIAL), "a&b", "&", "&-", "a%b", "a*b", "50%", "~tilde", "a~", "back\\slash", "sp ace", "-", "--help",
         "inbox2", "Entwürfe", "日本語/メール", "😀/👨‍👩‍👧", "e\u0301", "\u05d0\u05d1", "ΑΒΓ", "ﬁ", "&AOQ-", "x" * 60, "/".join("abcdefghijklmnop"),
         "cur2", "new2", "INBOX/below", "dbox", "mailboxes", "u-1", "storage"]
FIELDS = "mailbox uid guid flags date.received date.saved size.physical size.virtual"


def dbox_bodies(root):
    """The bytes of each message in all files, sorted."""
    found = []
    for top, _, names in os.walk(root):
        for name in names:
            if not re.fullmatch(r"[mu]\.\d+", name):
                continue
            with open(f"{top}/{name}", "rb") as file:
                data = file.read()
            at = data.find(b"\n") + 1
            while at < len(data):
                assert data[at:at + 3] == b"\x01\x02N", (name, at)
                body_end = at + 30 + int(data[at + 13:at + 29], 16)
                found.append(data[at + 30:body_end])
                at = data.index(b"\n\n", body_end + 4) + 2
    return sorted(found)


def put(folder, number, data):
    """A mail in a Maildir folder that is there. What begins like compressed data says its size, as Dovecot has all mails do."""
    size = f",S={len(data)}" if data.startswith(b"\x1f\x8b") else ""
    path = f"{folder}/cur/{1600000000 + number}.M{number}P1.host{size}:2,{['', 'S', 'FS', 'RSa', 'DTab'][number % 5]}"
    with open(path, "wb") as file:
        file.write(data)
    os.utime(path, (1500000000 + number, 1500000000 + number))
    give(path)


def metadata(stores, name):
    """What Dovecot says of each mail. Of Maildir and sdbox a saved date of just now is the file's own."""
    lines = stores.doveadm(name, "-f", "tab", "fetch", FIELDS, "ALL").stdout.splitlines()[1:]
    without_now = [re.sub(r"\t(20\d\d-[^\t]*)(?=\t\d+\t\d+$)", lambda saved: saved[0] if saved[1] < stores.started else "\tjust now", line)
                   for line in lines]
    return sorted(re.sub(r"\\Recent ?", "", line) for line in without_now)


def round_trip(stores, numbers):
    """-> mdbox -> sdbox -> maildir: the bytes, and what Dovecot shows, stay."""
    before = maildir_view(stores.home + "/maildir")
    mails = sorted(text for messages, _ in before.values() for _, _, text in messages.values())
    assert len(mails) == numbers, (len(mails), numbers)
    for source, target in (("maildir", "mdbox"), ("mdbox", "sdbox"), ("sdbox", "maildir2")):
        until_done(lambda: dsync(stores.home, stores.location(source), stores.location(target)))
        if "dbox" in target:
            bodies = dbox_bodies(f"{stores.home}/{target}")
            assert bodies == mails, (target, [body[:40] for body in bodies if body not in mails])
    after = maildir_view(stores.home + "/maildir2")
    assert set(before) == set(after), set(before) ^ set(after)
    for folder, (messages, header) in before.items():
        others, other_header = after[folder]
        assert header == other_header, (folder, header, other_header)
        assert {uid: (flags, text) for uid, (_, flags, text) in messages.items()} == \
            {uid: (flags, text) for uid, (_, flags, text) in others.items()}, (folder, messages.keys(), others.keys())
    shown = [metadata(stores, name) for name in ("maildir", "mdbox", "sdbox", "maildir2")]
    for name, other in zip(("mdbox", "sdbox", "maildir2"), shown[1:]):
        assert shown[0] == other, (name, [pair for pair in zip(shown[0], other) if pair[0] != pair[1]][:5])
    for name in ("mdbox", "sdbox", "maildir2"):
        result = dsync(stores.home, stores.location("maildir"), stores.location(name), expect=(0,))
        assert " 0 mails sent, 0 received" in result.stderr, (name, result.stderr)


def odd_mails_and_names(stores):
    made = [name for name in NAMES
            if stores.doveadm("maildir", "mailbox", "create", "--", name, expect=range(0, 256)).returncode == 0]
    print("names that Dovecot does not make:", [name for name in NAMES if name not in made])
    assert len(made) > len(NAMES) * 3 // 4
    stores.doveadm("maildir", "mailbox", "subscribe", "--", *made)
    root = stores.home + "/maildir"
    for number, data in enumerate(ODD.values()):
        put(root, number, data)
    number = len(ODD)
    for entry in sorted(os.listdir(root)):
        if entry.startswith(".") and os.path.isdir(f"{root}/{entry}/cur"):
            put(f"{root}/{entry}", number, b"Subject: in a folder\n\n" + entry.encode() + b"\n")
            number += 1
    stores.doveadm("maildir", "fetch", "uid", "ALL")
    round_trip(stores, number)
    for options in ([], ["-s"]):
        boxes = [set(stores.doveadm(name, "mailbox", "list", *options).stdout.splitlines())
                 for name in ("maildir", "mdbox", "sdbox", "maildir2")]
        for other in boxes[1:]:
            assert other == boxes[0], other ^ boxes[0]


def damaged_halfway(stores):
    """What shows in the middle of a mail that something is missing costs nothing but that mail, and is named."""
    root = stores.home + "/maildir9"
    stores.doveadm("maildir9", "mailbox", "create", "Work")
    for folder in (root, root + "/.Work"):
        for number in range(6):
            data = f"Subject: {number}\n\n".encode() + base64.encodebytes(RANDOM.randbytes(100_000))
            packed = gzip.compress(data)
            path = f"{folder}/cur/{number}.M{number}P1.host,S={len(data)}:2,S"
            with open(path, "wb") as file:
                file.write({2: packed, 3: packed[:60_000], 4: packed[:50_000] + b"x" * 10 + packed[50_010:]}.get(number, data))
            give(path)
    names = ["3.M3P1.host", "4.M4P1.host"]
    said = dsync(stores.home, stores.location("maildir9"), stores.location("mdbox9"), expect=(1,)).stderr
    assert all(f"maildir9/{folder}cur/{name}" in said for folder in ("", ".Work/") for name in names[:1]), said
    assert len(dbox_bodies(stores.home + "/mdbox9")) == 8
    dsync(stores.home, stores.location("mdbox9"), stores.location("maildir10"), "-o", "zlib_save=gz", expect=(0, 2))


def attachments(stores):
    """mdbox and sdbox whose attachments Dovecot put into files beside them."""
    directory = stores.home + "/attachments"
    settings = ["-o", f"mail_attachment_dir={directory}", "-o", "mail_attachment_min_size=1k", "-o", "mail_attachment_fs=posix",
                "-o", "mail_attachment_hash=%{sha1}"]
    sent = []
    for number, data in enumerate([RANDOM.randbytes(5000), b"x" * 100_000, RANDOM.randbytes(200_000), b"x" * 100_000]):
        text = base64.encodebytes(data).decode() if number != 2 else data.hex()
        sent.append(f"From: a@example.org\nSubject: {number}\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b\n\n--b\n"
                    f"Content-Type: text/plain\n\nhello\n--b\nContent-Type: application/octet-stream\nContent-Disposition: attachment\n"
                    f"Content-Transfer-Encoding: {'base64' if number != 2 else '7bit'}\n\n{text}\n--b--\n")
    for name in ("mdbox7", "sdbox7"):
        for text in sent:
            stores.doveadm(name, *settings, "save", input=text)
    assert sum(len(names) for _, _, names in os.walk(directory)) >= 6
    for name in ("mdbox7", "sdbox7"):
        other = "sdbox8" if name == "mdbox7" else "mdbox8"
        target = "maildir" + ("7" if name == "mdbox7" else "8")
        option = ["-o", f"mail_attachment_dir={directory}"]
        until_done(lambda: dsync(stores.home, stores.location(name), stores.location(other), *option))
        until_done(lambda: dsync(stores.home, stores.location(other), stores.location(target), *option))
        got = [text.decode() for messages, _ in maildir_view(f"{stores.home}/{target}").values() for _, _, text in messages.values()]
        assert sorted(got) == sorted(sent), (name, [len(text) for text in got], [len(text) for text in sent])


def main():
    with Directory() as directory, Dovecot(directory, "doveadm") as dovecot:
        stores = Stores(dovecot)
        for test in (odd_mails_and_names, damaged_halfway, attachments):
            test(stores)
            print("ok", test.__name__)
        bad = dovecot.complaints()
        assert not bad, bad


if __name__ == "__main__":
    main()
