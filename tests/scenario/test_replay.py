#!/usr/bin/python3
"""Recorded sessions of two Dovecots, replayed: our `dsync server` is told what the recorded master said, on a Maildir to which the
same is done between the sessions as to the recorded slave's, and its answers are compared with the recorded ones.

These may differ, and nothing else:
  H     hostname
  D     escape_char (we have none); the times in the lists
  N     mere parents
  N, C, M, S   the order within a list; times; in C \\Recent, virtual_size, whether an expunge has its GUID, whether what is set was added now, and flags and
        expunges that the master knows (a Dovecot keeps back some of what a sync changed; ours leaves that to the MODSEQs,
        which here are the recorded ones)
  B     first_recent_uid and cache_fields (we keep no such cache)
  MODSEQs everywhere: ours are the master's after one session, a Dovecot's after two or three"""
import collections
import os
import re
import subprocess
import time

from dsync_sides import DSYNC, MAIL_UID, USER, Directory, Dovecot, as_mail_user
from node import eventually

TRANSCRIPTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../sync/transcripts")
RECENT = 0x20
Item = collections.namedtuple("Item", "code fields body", defaults=({}, b""))

# What both say of one thing; what is not here may differ.
COMPARED = {
    "N": ("name", "existence", "mailbox_guid", "uid_validity", "uid_next", "subscribed"),
    "D": ("hierarchy_sep",),
    "B": ("mailbox_guid", "uid_validity", "uid_next", "messages_count", "mailbox_lost", "have_guids", "have_save_guids"),
    "A": ("type", "key", "value", "deleted"),
    "C": ("type", "uid", "add_flags", "remove_flags", "final_flags", "keyword_changes"),
    "R": ("guid", "uid"),
    "M": ("guid",),
    "S": ("mailbox_guid", "last_uidvalidity", "last_common_uid", "last_messages_count", "changes_during_sync"),
    "F": ("error", "require_full_resync"),
}


def parse(data):
    """The items of one direction."""
    lines, keys, items = iter(data.split(b"\n")), {}, []
    for line in lines:
        if line == b".":
            break
        if not line.startswith(b"VERSION"):
            keys[line[:1]] = line[1:].decode().split("\t")
    for line in lines:
        if not line:
            continue
        fields = {}
        for key, value in zip(keys.get(line[:1], ()), line[1:].split(b"\t")):
            if value != b"\x02":
                fields[key] = value.decode("utf-8", "surrogateescape")
        body = []
        if "stream" in fields:
            for text in lines:
                if text.rstrip(b"\r") == b".":
                    break
                body.append(text)
        items.append(Item(line[:1].decode(), fields, b"\n".join(body)))
    return items


def flags_of(fields, key):
    return int(fields.get(key, "0"), 16) & ~RECENT


def keywords_of(fields):
    """What the message has afterwards."""
    return {word[1:] for word in fields.get("keyword_changes", "").split("\x01t") if word and word[0] in "+=&"}


def comparable(items):
    """{code: what is said, as a sorted list}"""
    said = collections.defaultdict(list)
    for item in items:
        fields = dict(item.fields)
        if item.code == "N" and fields["existence"] == "n" and "subscribed" not in fields:
            continue
        if item.code == "C":
            for key in ("add_flags", "remove_flags", "final_flags"):
                fields[key] = flags_of(fields, key)
            removed = [word for word in fields.get("keyword_changes", "").split("\x01t") if word.startswith("-")]
            fields["keyword_changes"] = sorted(keywords_of(fields)) + sorted(removed)
            # Added or set before: what there is now says the same.
            fields["add_flags"] &= ~fields["final_flags"]
        what = [fields.get(key) for key in COMPARED.get(item.code, ())]
        if item.code == "C" and fields["type"] != "e":
            what.append(fields["guid"])
        if item.code in "AM":
            what.append(item.body)
        if item.code == "D":
            what.append(sorted(word for word in (fields.get("mailboxes") or "").split() if len(word) == 32))
        said[item.code].append(what)
    return {code: sorted(what, key=repr) for code, what in said.items()}


class Known:
    """What the sides have said, session by session, of each message's flags and of expunges (all of them in INBOX)."""

    def __init__(self):
        self.final, self.gone = {}, set()

    def add(self, items):
        for item in items:
            if item.code == "C" and item.fields["type"] == "e":
                self.gone.add(item.fields["uid"])
            elif item.code == "C":
                self.final[item.fields["guid"]] = (flags_of(item.fields, "final_flags"), keywords_of(item.fields))

    def is_news(self, item):
        if item.code != "C" or item.fields["type"] == "s":
            return True
        if item.fields["type"] == "e":
            return item.fields["uid"] not in self.gone
        return self.final.get(item.fields["guid"]) != (flags_of(item.fields, "final_flags"), keywords_of(item.fields))


def feed(process, path):
    """The master's bytes; a body only when we have asked for it, as the recorded master waited."""
    with open(path, "rb") as file:
        data = file.read()
    # In front of the first body after each end of a list.
    cuts = [match.start() + 2 for match in re.finditer(rb"\n\.\nM", data)]
    for begin, end in zip([0] + cuts, cuts + [len(data)]):
        if begin:
            eventually("we have asked", lambda: re.search(rb"\nB[^\n]*\n([^B\n][^\n]*\n)*?(?:(?:[ACR][^\n]*\n)*\.\n){3}", process.said()))
        process.stdin.write(data[begin:end])
        process.stdin.flush()
    process.stdin.close()


class Server(subprocess.Popen):
    """Our `dsync server` with its output in a file, so that it never waits for us."""

    def __init__(self, side, directory):
        self.path = directory + "/said"
        home = f"{side.homes}/{USER}"
        with open(self.path, "wb") as out, open(directory + "/log", "wb") as log:
            super().__init__([DSYNC, "-v", "-c", side.conf, "server"], stdin=subprocess.PIPE, stdout=out, stderr=log, cwd=home,
                             env={**os.environ, "HOME": home, "USER": USER}, **as_mail_user())

    def said(self):
        with open(self.path, "rb") as file:
            return file.read()


def recorded(pair, case, who):
    names = [name for name in os.listdir(TRANSCRIPTS) if name.endswith(f".{who}.raw") and f"-{case}-" in f"-{name}"]
    name, = [name for name in names if name.startswith(pair + "-")] or [name for name in names if name.startswith(case)]
    return os.path.join(TRANSCRIPTS, name)


def items_of(path):
    with open(path, "rb") as file:
        return parse(file.read())


def serve(side, directory, path):
    """Our answers. (Exit status 2: to be run again, as for a folder that somebody has renamed in this moment.)"""
    for _ in range(5):
        with Server(side, directory) as process:
            feed(process, path)
            process.wait(timeout=30)
        if process.returncode != 2:
            break
        time.sleep(0.5)
    with open(directory + "/log", encoding="utf-8") as log:
        assert process.returncode == 0, (path, process.returncode, log.read())
    return parse(process.said())


def replay(side, directory, pair, case, known):
    said = serve(side, directory, recorded(pair, case, "master"))
    ours, theirs = (comparable(filter(known.is_news, items))
                    for items in (said, items_of(recorded(pair, case, "slave"))))
    for code in sorted(set(ours) | set(theirs), reverse=True):
        assert ours.get(code) == theirs.get(code), "\n".join(
            [f"{pair} {case} {code}, ours:", *map(str, ours.get(code, ())), "recorded:", *map(str, theirs.get(code, ()))])
    known.add(items_of(recorded(pair, case, "master")))
    # What the master took from the slave.
    known.add(items_of(recorded(pair, case, "slave")))


# --- what was done to the recorded slave before a session

def new_mails(side, pair, case, folder=""):
    """Files with the GUIDs and texts that the recorded slave said."""
    for item in items_of(recorded(pair, case, "slave")):
        if item.code == "M":
            path = f"{side.homes}/{USER}/Maildir{folder}/new/{item.fields['guid']}"
            with open(path, "wb") as mail:
                # The last line end belongs to the end of the stream.
                mail.write(item.body.replace(b"\n..", b"\n.").removesuffix(b"\r"))
            os.chown(path, MAIL_UID, MAIL_UID)


def make_folder(side, pair, case, name):
    """With the GUID and UIDVALIDITY that the recorded slave's had."""
    node, = [item for item in items_of(recorded(pair, case, "slave"))
             if item.code == "N" and item.fields["name"].replace("\x01t", ".") == name]
    path = f"{side.homes}/{USER}/Maildir/.{name}"
    for each in ("", "/cur", "/new", "/tmp"):
        os.mkdir(path + each)
    with open(path + "/dovecot-uidlist", "w", encoding="utf-8") as file:
        file.write(f"3 V{node.fields['uid_validity']} N1 G{node.fields['mailbox_guid']}\n")
    for each in ("", "/cur", "/new", "/tmp", "/dovecot-uidlist"):
        os.chown(path + each, MAIL_UID, MAIL_UID)


BEFORE = {
    "06": new_mails,
    "08": lambda side, *_: side.own("flags", "add", r"\Answered", "mailbox", "INBOX", "uid", "2"),
    "09": lambda side, *_: side.own("flags", "remove", "$Label1", "mailbox", "INBOX", "uid", "2"),
    "11": lambda side, pair, case: make_folder(side, pair, case, "Sub.Child"),
    # A Dovecot has made a mailbox of the other's directory meanwhile, as ours never does.
    "13": lambda side, pair, case: make_folder(side, pair, case, "Sub"),
    "14": lambda side, *_: side.own("mailbox", "unsubscribe", "Work2"),
    "16": new_mails,
}
# Not 04: the recorded slave skips the mailbox, since by then its MODSEQ is the recorded master's.
CASES = ["01", "02", "03", "05", "06", "07", "08", "09", "10", "11", "12", "13", "14", "15", "16", "17", "18"]


def main():
    for pair in ("2319-2319", "241-2319", "2319-241", "241-241"):
        with Directory() as directory:
            side, known = Dovecot(directory, "ours"), Known()
            for case in CASES:
                if case in BEFORE:
                    BEFORE[case](side, pair, case)
                replay(side, directory, pair, case, known)
                print("ok:", pair, case)


if __name__ == "__main__":
    main()
