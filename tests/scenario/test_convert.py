#!/usr/bin/python3
"""dsync between the formats: maildir -> mdbox -> sdbox -> maildir of some hundred mails, and every other pair, equal in everything
that doveadm shows; the delta of a second run; names that the other format cannot hold.

Usage: test_convert.py [24] [MAILS]      24: beside a Dovecot 2.4 (dovecot24.py); with a number: that many mails once around
"""
import json
import os
import re
import subprocess
import sys
import threading
import time

from dovecot24 import Dovecot24
from dsync_sides import DSYNC, Directory, Dovecot, as_mail_user, deliver, run, until_done

SETTINGS = ["-c", "/dev/null", "-o", "mail_plugins="]
MAILS = 300
FIELDS = "mailbox mailbox-guid uid guid flags modseq date.received date.saved size.physical size.virtual pop3.uidl pop3.order body"
PEAK_MB = 64

FILL = """
import os, sys
root, mails = sys.argv[1], int(sys.argv[2])
folders = ["", "Work", "Work.&AOQ-", "Lists.c.d"]
flags = ["", "S", "FS", "RSa", "DTab", "b"]
lines = {}
for folder in folders:
    path = os.path.join(root, "." + folder) if folder else root
    for part in "cur", "new", "tmp":
        os.makedirs(os.path.join(path, part), exist_ok=True)
    with open(path + "/dovecot-keywords", "w") as file:
        file.write("0 $Label1\\n1 Custom\\n")
for i in range(mails):
    folder = folders[i % len(folders)]
    path = os.path.join(root, "." + folder) if folder else root
    name = "%s/cur/%d.M%dP1.host:2,%s" % (path, 1600000000 + i, i, flags[i % len(flags)])
    with open(name, "w") as file:
        file.write("From: a@example.org\\nSubject: %d\\n\\n%s\\n" % (i, ("line %d\\n" % i) * (i % 50)))
    os.utime(name, (1500000000 + i * 1000, 1500000000 + i * 1000))
    # (Dovecot does not keep an order without a UIDL in dbox.)
    pop3 = ["", "Puidl.%d " % i, "Puidl.%d O%d " % (i, mails - i), ""][i // 5 % 4]
    lines.setdefault(path, []).append(pop3 + ":" + os.path.basename(name).split(":")[0])
for number, path in enumerate(lines):
    with open(path + "/dovecot-uidlist", "w") as file:
        file.write("3 V%d N%d G%032x\\n" % (1600000000 + number, 3 * mails, 12345 + number))
        file.writelines("%d %s\\n" % (2 * uid + 1, line) for uid, line in enumerate(lines[path]))
"""


def dsync(home, source, target, *options, expect=(0, 2)):
    environment = {**os.environ, "HOME": home, "USER": "alice"}
    result = run(["/usr/bin/time", "-f", "peak %M kB", DSYNC, *SETTINGS, "-o", f"mail_location={source}", "-v", *options,
                  "mirror", target], expect=expect, env=environment, cwd=home, timeout=300)
    peak = int(re.search(r"^peak (\d+) kB$", result.stderr, re.M)[1]) // 1024
    assert peak < PEAK_MB, f"{source} -> {target}: {peak} MB"
    return result


def moved(result):
    words = [line for line in result.stderr.splitlines() if " mailboxes, " in line][-1].replace(",", "").split()
    return int(words[words.index("mails") - 1]), int(words[words.index("received") - 1]), \
        int(words[words.index("changes") - 1])


class Stores:
    """Stores in one home, and what doveadm shows of each."""

    def __init__(self, dovecot):
        self.home = dovecot.dir + "/home"
        self.dovecot = dovecot
        self.started = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
        os.mkdir(self.home)
        os.chown(self.home, *[as_mail_user()["user"]] * 2)

    def location(self, name):
        return f"{name.rstrip('0123456789')}:{self.home}/{name}"

    def doveadm(self, name, *args, **options):
        return self.dovecot.at(self.location(name), self.home, *args, **options)

    def fetch(self, name):
        """Every mail's fields. (2.4.1 panics now and then where bodies are to be JSON.)"""
        text = self.doveadm(name, "-f", "pager", "fetch", FIELDS, "ALL").stdout
        mails = []
        for record in filter(None, text.split("\f\n")):
            head, body = record.split("\nbody:\n", 1)
            mails.append({**dict(line.split(": ", 1) for line in head.split("\n")), "body": body})
        return mails

    def view(self, name):
        mails = self.fetch(name)
        for mail in mails:
            mail["flags"] = " ".join(sorted(set(mail["flags"].split()) - {r"\Recent"}))
            # Of Maildir and sdbox a date of just now is the file's own.
            if mail["date.saved"] >= self.started:
                mail["date.saved"] = "just now"
        boxes = self.doveadm(name, "-f", "tab", "mailbox", "status",
                             "guid uidvalidity uidnext messages highestmodseq vsize", "*").stdout
        subscribed = self.doveadm(name, "mailbox", "list", "-s").stdout
        return sorted(map(str, mails)), sorted(boxes.splitlines()), sorted(subscribed.splitlines())

    def must_equal(self, one, other):
        first, second = self.view(one), self.view(other)
        assert first[0] and first[1], one
        for left, right in zip(first, second):
            assert len(left) == len(right), (one, other, len(left), len(right))
            for a, b in zip(left, right):
                assert a == b, (one, a, other, b)
        return first

    def convert(self, source, target):
        until_done(lambda: dsync(self.home, self.location(source), self.location(target)))
        self.must_equal(source, target)
        again = dsync(self.home, self.location(source), self.location(target), expect=(0,))
        assert moved(again) == (0, 0, 0), again.stderr


def once_around(stores, mails):
    subprocess.run(["/usr/bin/python3", "-c", FILL, stores.home + "/maildir", str(mails)], check=True, **as_mail_user())
    stores.doveadm("maildir", "mailbox", "subscribe", "Work", "Lists/c")
    stores.convert("maildir", "mdbox")
    stores.convert("mdbox", "sdbox")
    stores.convert("sdbox", "maildir2")
    view = stores.must_equal("maildir", "maildir2")
    assert len(view[0]) == mails
    assert sum("uidl." in mail for mail in view[0]) == mails // 2, mails


def round_trip(stores):
    once_around(stores, MAILS)
    # The other pairs, from the stores that are full.
    stores.convert("sdbox", "mdbox2")
    stores.convert("mdbox2", "maildir3")
    stores.convert("maildir3", "sdbox2")
    stores.convert("mdbox", "mdbox3")
    stores.convert("sdbox", "sdbox3")


def delta(stores):
    """Mirror, mirror again for what changed, in both directions."""
    stores.doveadm("maildir", "flags", "add", r"\Flagged New", "mailbox", "INBOX", "uid", "1:5")
    stores.doveadm("mdbox", "flags", "remove", r"\Seen", "mailbox", "Work", "uid", "2:9")
    stores.doveadm("mdbox", "expunge", "mailbox", "INBOX", "uid", "10:12")
    stores.doveadm("maildir", "save", "-m", "Work", input="Subject: new\n\nnew\n")
    stores.doveadm("mdbox", "save", "-m", "Lists/c/d", input="Subject: new too\n\nnew\n")
    stores.doveadm("mdbox", "copy", "Work", "mailbox", "INBOX", "uid", "1:3")
    stores.doveadm("mdbox", "mailbox", "create", "Made")
    result = until_done(lambda: dsync(stores.home, stores.location("maildir"), stores.location("mdbox")))
    del result
    view = stores.must_equal("maildir", "mdbox")
    assert len(view[0]) == MAILS - 1 + 1 + 1 + 2, len(view[0])
    assert any("Made" in line for line in view[1])
    again = dsync(stores.home, stores.location("mdbox"), stores.location("maildir"), expect=(0,))
    assert moved(again) == (0, 0, 0), again.stderr
    for name in ("mdbox", "sdbox"):
        stores.doveadm(name, "purge")
        before = stores.view(name)[0]
        stores.doveadm(name, "force-resync", "*")
        assert len(stores.view(name)[0]) == len(before)


def names(stores):
    """What Maildir++ cannot hold is stored under the nearest name, and stays one mailbox."""
    stores.doveadm("mdbox4", "mailbox", "create", "a.b", "cur", "Sub/x.y")
    stores.doveadm("mdbox4", "save", "-m", "a.b", input="Subject: dotted\n\nx\n")
    until_done(lambda: dsync(stores.home, stores.location("mdbox4"), stores.location("maildir4"), "-C", "_"))
    boxes = stores.doveadm("maildir4", "mailbox", "list").stdout.split("\n")
    assert {"a_b", "cur", "Sub/x_y"} <= set(boxes), boxes
    again = dsync(stores.home, stores.location("mdbox4"), stores.location("maildir4"), "-C", "_", expect=(0,))
    assert moved(again) == (0, 0, 0), again.stderr
    mails = json.loads(stores.doveadm("maildir4", "-f", "json", "fetch", "mailbox guid", "ALL").stdout)
    assert [mail["mailbox"] for mail in mails] == ["a_b"], mails


def interrupted(stores):
    """Killed again and again, and run again: what is there in the end is the same, and nothing is left over."""
    subprocess.run(["/usr/bin/python3", "-c", FILL, stores.home + "/maildir5", str(3 * MAILS)], check=True, **as_mail_user())
    environment = {**os.environ, "HOME": stores.home, "USER": "alice"}
    for target in ("mdbox5", "sdbox5"):
        killed = 0
        for number in range(12):
            process = subprocess.Popen([DSYNC, *SETTINGS, "-o", f"mail_location={stores.location('maildir5')}", "mirror",
                                        stores.location(target)], env=environment, cwd=stores.home, stderr=subprocess.DEVNULL,
                                       **as_mail_user())
            try:
                process.wait(timeout=0.01 * (number + 1))
            except subprocess.TimeoutExpired:
                process.kill()
                killed += 1
            process.wait()
        assert killed > 0, killed
        # A log that was being begun: Dovecot, and so we, wait three minutes before it is taken for abandoned.
        for directory, _, names in os.walk(stores.home):
            for name in names:
                if name.endswith(".newlock"):
                    os.unlink(os.path.join(directory, name))
        stores.convert("maildir5", target)
        stores.doveadm(target, "purge")
        before = stores.view(target)
        assert len(before[0]) == 3 * MAILS, len(before[0])
        stores.doveadm(target, "force-resync", "*")
        assert len(stores.view(target)[0]) == 3 * MAILS


def while_mail_arrives(stores):
    """The manual's conversion of a live user: mirror, again for what came meanwhile (exit status 2 says that some did), switch
    the user's location, and once more."""
    stop, count = threading.Event(), [0]
    maildir = stores.home + "/maildir6"
    subprocess.run(["/usr/bin/python3", "-c", FILL, maildir, str(MAILS)], check=True, **as_mail_user())

    def arrive():
        # As a program does, into new/, and once in a while by Dovecot's own delivery.
        while not stop.is_set():
            deliver(maildir, f"1700000000.M{count[0]}P7.here", "Subject: arrived\n\nx\n")
            count[0] += 1
            if count[0] % 4 == 0:
                stores.doveadm("maildir6", "save", "-m", "Work", input="Subject: arrived\n\nx\n")
                count[0] += 1

    thread = threading.Thread(target=arrive)
    thread.start()
    statuses = []
    # Whether mail comes in the middle of a run is a matter of luck.
    while len(statuses) < 3 or (2 not in statuses and len(statuses) < 60):
        statuses.append(dsync(stores.home, stores.location("maildir6"), stores.location("mdbox6")).returncode)
    stop.set()
    thread.join()
    assert 2 in statuses, statuses
    # Switched: what is delivered from now on goes to the mdbox.
    stores.doveadm("mdbox6", "save", input="Subject: to the mdbox\n\nx\n")
    stores.convert("maildir6", "mdbox6")
    view = stores.must_equal("maildir6", "mdbox6")
    assert len(view[0]) == MAILS + count[0] + 1, (len(view[0]), count)
    print(f"{count[0]} mails arrived, exit status {statuses}")


def main(*args):
    args = list(args)
    version = args.pop(0) if args[:1] == ["24"] else "23"
    with Directory() as directory, Dovecot24() if version == "24" else Dovecot(directory, "doveadm") as dovecot:
        stores = Stores(dovecot)
        for mails in args:
            once_around(stores, int(mails))
            print("ok", mails, "mails")
        for test in () if args else (round_trip, delta, names, while_mail_arrives, interrupted):
            test(stores)
            print("ok", test.__name__)
        bad = [line for line in dovecot.complaints()]
        assert not bad, bad


if __name__ == "__main__":
    main(*sys.argv[1:])
