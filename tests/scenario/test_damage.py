#!/usr/bin/python3
"""mdbox and sdbox stores that a Dovecot made, damaged in one file in every way that disks and admins know: `dsync mirror` to an
empty Maildir keeps each mail whose bytes are still there, or fails and names the file; a replica loses nothing by it, whether by
mirror or by backup; a purge removes none; nothing crashes. Beside it, what Dovecot's own force-resync keeps of the same copy.

Usage: test_damage.py [CASES [SEED [FILES]]]      CASES: of each format, else 40. FILES: a pattern, else all,
of names like "sdbox/mailboxes/INBOX/dbox-Mails/u.1"
"""
import collections
import os
import random
import re
import shutil
import stat
import subprocess
import sys

from dsync_sides import DSYNC, MAIL_UID, Directory, Dovecot, as_mail_user, maildir_view, run
from node import BUILD

MAILS = 60
FOLDERS = ["INBOX", "Work", "Work/ä", "Lists/c/d"]
CRASHES = re.compile(r"AddressSanitizer|runtime error|LeakSanitizer|Assertion|core dumped")
SUBJECT = re.compile(rb"^Subject: n(\d+)$", re.M)
FILES = {"mdbox": [r"storage/m\.\d+", r"storage/dovecot\.map\.index(\.log|)", r".*/dbox-Mails/dovecot\.index(\.log|\.cache|)",
                   r"dovecot\.list\.index\.log", r"dovecot\.mailbox\.log", r"dovecot-uidvalidity", r"subscriptions"],
         "sdbox": [r".*/dbox-Mails/u\.\d+", r".*/dbox-Mails/dovecot\.index(\.log|\.cache|)", r"dovecot\.list\.index\.log",
                   r"dovecot\.mailbox\.log", r"dovecot-uidvalidity", r"subscriptions"]}


# --- the stores

class Store:
    """One in the making by doveadm, with an older copy of it, and what is in it."""

    def __init__(self, dovecot, directory, kind):
        self.dovecot, self.kind = dovecot, kind
        self.home = f"{directory}/{kind}-made"
        self.path = f"{self.home}/{kind}"
        self.older = f"{directory}/{kind}-older"
        run(["mkdir", self.home])
        for folder in FOLDERS:
            self.doveadm("mailbox", "create", folder) if folder != "INBOX" else None
        self.number = 0
        self.save(MAILS // 2)
        self.doveadm("mailbox", "subscribe", "Work")
        self.doveadm("flags", "add", r"\Seen $Label1", "mailbox", "*", "uid", "2:4")
        run(["cp", "-a", self.path, self.older])
        self.save(MAILS - MAILS // 2)
        self.doveadm("expunge", "mailbox", "Work", "uid", "3")
        self.doveadm("copy", "Lists/c/d", "mailbox", "INBOX", "uid", "1:3")
        self.doveadm("flags", "add", r"\Flagged Other", "mailbox", "*", "uid", "3:6")
        self.doveadm("fetch", "hdr.subject date.saved", "ALL")
        self.mails = self.listed(self.home)
        self.parts = {name: self.messages(f"{self.path}/{name}") for name in self.files()}

    def doveadm(self, *args, home=None, **options):
        home = home or self.home
        return self.dovecot.at(f"{self.kind}:{home}/{self.kind}", home, "-o", "mdbox_rotate_size=8k", *args, **options)

    SNAPSHOT = ["-o", "mail_index_rewrite_min_log_bytes=1", "-o", "mail_index_rewrite_max_log_bytes=2"]

    def save(self, count):
        """With the snapshots of a mailbox and the map, in the end."""
        for last in reversed(range(count)):
            number, self.number = self.number, self.number + 1
            self.doveadm(*(self.SNAPSHOT if last == 0 else []), "save", "-m", FOLDERS[number % len(FOLDERS)],
                         input=f"From: a@example.org\nSubject: n{number}\n\n" + f"line {number}\n" * (number * 7 % 60))
        self.doveadm(*self.SNAPSHOT, "flags", "add", f"After{self.number}", "mailbox", "Work", "uid", "1")

    def listed(self, home):
        """(folder, number) of each mail that Dovecot shows."""
        text = self.doveadm("-f", "tab", "fetch", "mailbox hdr.subject", "ALL", home=home).stdout
        return sorted((folder, int(subject[1:])) for folder, subject in
                      (line.split("\t") for line in text.splitlines()[1:]) if re.fullmatch(r"n\d+", subject))

    def files(self):
        found = []
        for top, _, names in os.walk(self.path):
            for name in names:
                name = os.path.relpath(f"{top}/{name}", self.path)
                if any(re.fullmatch(pattern, name) for pattern in FILES[self.kind]):
                    found.append(name)
        return sorted(found)

    @staticmethod
    def messages(path):
        """The bytes of each message in a file: {its number: bytes}."""
        found = {}
        with open(path, "rb") as file:
            data = file.read()
        at = data.find(b"\n") + 1
        while data[at:at + 4] == b"\x01\x02N ":
            body_end = at + 30 + int(data[at + 13:at + 29], 16)
            end = data.index(b"\n\n", body_end + 4) + 2
            found[int(SUBJECT.search(data, at)[1])] = data[at:end]
            at = end
        return found


# --- damage

def readable(path):
    """A file's bytes as the mail's owner reads them; none where it is something else."""
    try:
        info = os.lstat(path)
        if stat.S_ISREG(info.st_mode) and info.st_mode & 0o400:
            with open(path, "rb") as file:
                return file.read()
    except OSError:
        pass
    return b""


def rewrite(path, change):
    info = os.stat(path)
    with open(path, "r+b") as file:
        data = bytearray(file.read())
        data = change(data)
        file.seek(0)
        file.write(data)
        file.truncate()
    os.utime(path, (info.st_atime, info.st_mtime))


def truncate(path, rng, _):
    rewrite(path, lambda data: data[:rng.randrange(len(data) + 1)])


def flip(path, rng, _):
    def change(data):
        for _ in range(rng.choice([1, 1, 2, 20])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        return data
    rewrite(path, change)


def zero(path, rng, _):
    def change(data):
        start = rng.randrange(len(data))
        size = rng.choice([16, 512, len(data)])
        end = min(start + size, len(data))
        data[start:end] = bytes(end - start)
        return data
    rewrite(path, change)


def garbage(path, rng, _):
    rewrite(path, lambda data: data + rng.randbytes(rng.choice([1, 40, 1000])))


def empty(path, *_):
    rewrite(path, lambda data: b"")


def remove(path, *_):
    os.unlink(path)


def older(path, _, other):
    if not os.path.exists(other):
        raise FileNotFoundError
    shutil.copy2(other, path)


def directory(path, *_):
    os.unlink(path)
    os.mkdir(path)


def fifo(path, *_):
    os.unlink(path)
    os.mkfifo(path)


def link(path, *_):
    os.unlink(path)
    os.symlink("/etc/passwd", path)


def dangling(path, *_):
    os.unlink(path)
    os.symlink("nowhere", path)


def unreadable(path, *_):
    os.chmod(path, 0)


DAMAGES = [truncate, truncate, flip, flip, flip, zero, zero, garbage, empty, remove, older, directory, fifo, link, dangling, unreadable]


# --- what is done with the damaged store

class Case:
    def __init__(self, store, directory, name, damage, seed):
        self.store, self.name, self.damage, self.seed = store, name, damage, seed
        self.home = f"{directory}/alice"
        self.path = f"{self.home}/{store.kind}"
        self.conf = f"{directory}/{store.kind}.conf"
        self.what = f"{store.kind} {name}: {damage.__name__} ({seed})"
        self.intact = set()
        self.said = ""

    def spoil(self):
        """A new copy of the store with the damage."""
        subprocess.run(["rm", "-rf", self.home], check=True)
        os.mkdir(self.home)
        os.chown(self.home, MAIL_UID, MAIL_UID)
        subprocess.run(["cp", "-a", self.store.path, self.path], check=True)
        path = f"{self.path}/{self.name}"
        self.damage(path, random.Random(self.seed), f"{self.store.older}/{self.name}")
        os.lchown(path, MAIL_UID, MAIL_UID) if os.path.lexists(path) else None
        left = b"".join(readable(f"{self.path}/{name}") for name in self.store.files())
        self.intact = {number for parts in self.store.parts.values() for number, data in parts.items() if data in left}

    def dsync(self, *args, expect=None):
        environment = {**os.environ, "HOME": self.home, "USER": "alice"}
        for _ in range(4):
            result = subprocess.run([DSYNC, "-c", "/dev/null", "-o", f"mail_location={self.store.kind}:{self.path}", *args],
                                    capture_output=True, text=True, errors="replace", env=environment, cwd=self.home, timeout=60,
                                    check=False, **as_mail_user())
            self.said += result.stderr
            self.check(result)
            if result.returncode != 2:
                break
        assert expect is None or result.returncode in expect, (self.what, result)
        return result

    def check(self, result):
        assert result.returncode >= 0 and not CRASHES.search(result.stderr), (self.what, result.returncode, result.stderr)

    def kept(self, maildir):
        """(folder, number) of each mail there."""
        if not os.path.isdir(maildir + "/cur"):
            return []
        mails = []
        for folder, (messages, _) in maildir_view(maildir).items():
            name = folder.replace("&AOQ-", "ä").replace(".", "/") or "INBOX"
            mails += [(name, int(SUBJECT.search(text)[1])) for _, _, text in messages.values() if SUBJECT.search(text)]
        return sorted(mails)

    def is_shorter_log(self):
        return self.name.endswith("dbox-Mails/dovecot.index.log") and self.damage in (truncate, zero, older, empty, flip, remove)

    # Each begins with a damaged copy of its own.

    def mirror_to_nothing(self):
        self.spoil()
        result = self.dsync("mirror", f"maildir:{self.home}/Maildir")
        kept = self.kept(f"{self.home}/Maildir")
        there = {number for _, number in kept}
        missing = {number for _, number in self.store.mails if number in self.intact} - there
        # What it cannot read it names, and it does not say that all is well. A mailbox's log that ends earlier, or an older one,
        # cannot be told from one that was never longer; that messages of the storage are in no mailbox can.
        if missing and "no mailbox has" not in self.said:
            assert result.returncode != 0 and os.path.basename(self.name) in self.said, \
                (self.what, "lost silently", sorted(missing), result.returncode, self.said)
        return kept, result.returncode, missing

    def mirror_to_a_replica(self, replica, verb, *options):
        """Nothing that was in the replica is gone."""
        self.spoil()
        subprocess.run(["cp", "-a", replica, f"{self.home}/Maildir"], check=True)
        before = self.kept(f"{self.home}/Maildir")
        result = self.dsync(*options, verb, f"maildir:{self.home}/Maildir")
        after = self.kept(f"{self.home}/Maildir")
        gone = collections.Counter(before) - collections.Counter(after)
        doubled = collections.Counter(after) - collections.Counter(before)
        # What is damaged so that nothing shows it is another mail, of which a backup is the copy.
        if verb == "backup" and self.damage in (flip, zero) and re.search(r"/[mu]\.\d+$", self.name):
            gone = {mail: count for mail, count in gone.items() if mail[1] in self.intact}
        # An mdbox whose log was cut short is a source that has less: a folder becomes that (README).
        if verb == "backup" and self.store.kind == "mdbox" and self.is_shorter_log():
            folder = os.path.dirname(os.path.dirname(self.name)).removeprefix("mailboxes/").replace("&AOQ-", "ä")
            gone = {mail: count for mail, count in gone.items() if mail[0] != folder}
        assert not gone, (self.what, verb, options, "gone from the replica", gone, result.returncode, self.said)
        return result.returncode, doubled

    def purge(self):
        self.spoil()
        result = subprocess.run([f"{BUILD}/tools/dsyncctl", "-c", self.conf, "purge", "alice"], capture_output=True, text=True,
                                errors="replace", check=False, timeout=120)
        self.check(result)
        left = b"".join(readable(f"{top}/{name}") for top, _, names in os.walk(self.path) for name in names)
        for name, parts in self.store.parts.items():
            for number, data in parts.items():
                body = data[30:data.rindex(b"\n\x01\x03\n")]
                if number in self.intact and any(mail == number for _, mail in self.store.mails):
                    assert body in left, (self.what, "purged", name, number, result)

    def dovecot(self):
        """What it lists; None where its repair aborts or finds no end (a damaged map)."""
        self.spoil()
        try:
            for _ in range(2):
                self.store.doveadm("force-resync", "*", home=self.home, expect=range(-64, 256), timeout=20)
            return self.store.listed(self.home)
        except (AssertionError, subprocess.TimeoutExpired):
            return None


def conf(directory, kind):
    with open(f"{directory}/{kind}.conf", "w", encoding="utf-8") as file:
        file.write(f"mail_root = {directory}\nmail_home = {directory}/%n\nmail_location = {kind}:~/{kind}\n"
                   f"mail_uid = {MAIL_UID}\nmail_gid = {MAIL_UID}\nstate_dir = {directory}/state\n")


def examine(case, replica, state):
    """What becomes of it in each way, as a text."""
    kept, code, missing = case.mirror_to_nothing()
    with_state = case.mirror_to_a_replica(replica, "mirror", "-s", state)
    without = case.mirror_to_a_replica(replica, "mirror")
    backup = case.mirror_to_a_replica(replica, "backup")
    if case.store.kind == "mdbox":
        case.purge()
    theirs = case.dovecot()
    lacking = {n for _, n in theirs or []} & case.intact - {n for _, n in kept}
    return (f"{len(case.intact)} of {sum(map(len, case.store.parts.values()))} intact; mirror {code}, {len(kept)} kept"
            f"{', named: ' + str(sorted(missing)) if missing else ''}; replica {with_state} {without} backup {backup}; "
            f"Dovecot keeps {'nothing readable' if theirs is None else len(theirs)}"
            f"{' MORE: ' + str(sorted(lacking)) if lacking else ''}")


def damage_one_by_one(dovecot, directory, kind, cases, seed, pattern):
    """Gives what was found wrong."""
    store = Store(dovecot, directory, kind)
    conf(directory, kind)
    assert len(store.mails) == MAILS - 1 + 3 and len(store.parts) > 3, store.mails
    replica = f"{directory}/{kind}-replica"
    whole = Case(store, directory, "subscriptions", lambda *_: None, 0)
    whole.spoil()
    state = whole.dsync("-s", "", "mirror", f"maildir:{whole.home}/Maildir", expect=(0,)).stdout.strip()
    state = whole.dsync("-s", state, "mirror", f"maildir:{whole.home}/Maildir", expect=(0,)).stdout.strip()
    assert whole.kept(f"{whole.home}/Maildir") == store.mails
    subprocess.run(["cp", "-a", f"{whole.home}/Maildir", replica], check=True)
    rng = random.Random(seed)
    groups = collections.defaultdict(list)
    for name in store.files():
        if re.search(pattern, f"{kind}/{name}"):
            groups[re.sub(r"\d+", "N", os.path.basename(name))].append(name)
    reached, findings = collections.Counter(), []
    for number in range(cases if groups else 0):
        group, damage = sorted(groups)[number % len(groups)], DAMAGES[(number // len(groups)) % len(DAMAGES)]
        names = [name for name in groups[group] if damage is not older or os.path.exists(f"{store.older}/{name}")]
        case = Case(store, directory, rng.choice(names or groups[group]), damage, rng.randrange(1 << 30))
        try:
            case.spoil()
        except FileNotFoundError:
            continue
        try:
            print(f"{case.what}: {examine(case, replica, state)}", flush=True)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            print(f"{case.what}: FOUND {error}", flush=True)
            findings.append(f"{case.what}: {error}")
        reached[group, case.damage.__name__] += 1
    kinds = list(dict.fromkeys(damage.__name__ for damage in DAMAGES))
    for group in sorted(groups):
        print(f"{kind} {group}:", *(f"{name} {reached[group, name]}" for name in kinds))
        has_older = any(os.path.exists(f"{store.older}/{name}") for name in groups[group])
        can_be = [name for name in kinds if name != "older" or has_older]
        never = [name for name in can_be if not reached[group, name]]
        if cases >= len(groups) * len(DAMAGES) and never:
            findings.append(f"{kind} {group}: never reached: {never}")
    return findings


def main(cases="40", seed="1", pattern="."):
    with Directory() as top, Dovecot(top, "doveadm") as dovecot:
        findings = [found for kind in ("mdbox", "sdbox")
                    for found in damage_one_by_one(dovecot, top, kind, int(cases), int(seed), pattern)]
    assert not findings, "\n".join(findings)


if __name__ == "__main__":
    main(*sys.argv[1:])
