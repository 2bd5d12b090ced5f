#!/usr/bin/python3
"""Two nodes, and one finds its mdbox or sdbox damaged when it starts: a file of each user, in every way that disks and admins know,
while both had mail that the other has not. No mail whose bytes are at either node is lost at either, what is damaged is named, and
nothing crashes.

Usage: test_damage_node.py [CASES [SEED [FILES]]]      CASES: of each format, else all. FILES: a pattern, else all, of names like
"sdbox/mailboxes/INBOX/dbox-Mails/u.1"
"""
import imaplib
import itertools
import os
import random
import re
import shutil
import signal
import stat
import subprocess
import sys

import view
from node import VMAIL, Pair, eventually, need
from test_damage import (CRASHES, DAMAGES, FILES, SUBJECT, Store, dangling, directory, empty, fifo, link, readable,
                         unreadable)

FIRST = "v0@example.org"
MAILS = 10
FOLDERS = ["INBOX", "Work"]
SETTINGS = "\nmdbox_rotate_size = 2k\nmail_index_rewrite_min_log_bytes = 1\nmail_index_rewrite_max_log_bytes = 2\n"


def text(subject):
    return f"Subject: n{subject}\r\n\r\n".encode() + f"line {subject}\r\n".encode() * (subject * 7 % 60)


def subjects(node, user):
    """{folder: numbers of its mails} as a client sees it."""
    boxes, _ = view.account(node, user)
    found = {}
    for folder, (_, mails) in boxes.items():
        lines = [SUBJECT.search(mail[4].replace(b"\r", b"")) for mail in mails.values()]
        found[folder] = {int(line[1]) for line in lines if line}
    return found


class Victim:
    """A user whose store at a is damaged in one file."""

    def __init__(self, node, kind, number, damage, seed):
        self.node, self.kind, self.damage, self.seed = node, kind, damage, seed
        self.user = f"v{number}@example.org"
        self.path = f"{node.home(self.user, backing=True)}/{kind}"
        self.name, self.there, self.only_here, self.mode = None, set(), set(), None

    def __str__(self):
        return f"{self.user} {self.kind} {self.name}: {self.damage.__name__} ({self.seed})"

    def files(self):
        return sorted(os.path.relpath(f"{top}/{name}", self.path) for top, _, names in os.walk(self.path) for name in names)

    def spoil(self, group, older):
        """False: there is no such file, or no older one."""
        rng = random.Random(self.seed)
        files = [name for name in self.files() if group_of(name) == group and re.search(FILE_PATTERNS[self.kind], name)]
        if not files:
            return False
        self.name = rng.choice(files)
        parts = {}
        for name in self.files():
            if re.fullmatch(r"[mu]\.\d+", os.path.basename(name)):
                parts.update(Store.messages(f"{self.path}/{name}"))
        path = f"{self.path}/{self.name}"
        # Dovecot writes it now and then only. Where it is there it shows that the log is shorter.
        if path.endswith("/dovecot.index.log") and self.seed % 2 and os.path.exists(path[:-4]):
            os.unlink(path[:-4])
        try:
            self.damage(path, rng, f"{older}/{self.name}")
        except FileNotFoundError:
            return False
        if os.path.lexists(path):
            os.lchown(path, VMAIL, VMAIL)
        left = b"".join(readable(f"{self.path}/{name}") for name in self.files())
        self.there = {number for number, data in parts.items() if data in left}
        return True

    def unspoil(self):
        """As an admin does, or neither we nor Dovecot could: what is still in a file's place goes, and it is readable again."""
        path = f"{self.node.home(self.user)}/{self.kind}/{self.name}"
        if not os.path.lexists(path):
            return
        mode = os.lstat(path).st_mode
        if stat.S_ISDIR(mode):
            os.rmdir(path)
        elif not stat.S_ISREG(mode):
            os.unlink(path)
        else:
            os.chmod(path, 0o600)

    def must_be_named(self):
        """Damage that nobody can take for a change that somebody made."""
        return group_of(self.name) in ("m.N", "u.N", "dovecot.index.log", "dovecot.map.index.log") and \
            self.damage in (empty, directory, fifo, link, dangling, unreadable)


FILE_PATTERNS = {kind: "|".join(f"^(?:{pattern})$" for pattern in patterns) for kind, patterns in FILES.items()}


def group_of(name):
    return re.sub(r"\d+", "N", os.path.basename(name))


def fill(node):
    """A user's store, of which all others are copies, and an older one."""
    node.start_dsyncfs()
    node.start_dovecot()
    client = node.imap(FIRST)
    client.create("Work")
    client.subscribe("Work")
    older = node.dir + "/older"
    for number in range(MAILS):
        if number == MAILS // 2:
            shutil.copytree(os.path.join(node.home(FIRST)), older, symlinks=True)
        client.append(FOLDERS[number % 2], r"(\Seen)" if number % 3 else "", None, text(number))
    client.logout()
    node.kill("dovecot", signal.SIGTERM)
    node.kill("dsyncfs", signal.SIGTERM)
    return older


def stop(node):
    for name in ("dovecot", "dsyncd", "dsyncfs"):
        node.kill(name, signal.SIGTERM)


def complaint(node, user):
    """What the status says of a user who cannot be synced."""
    return " ".join(line["reason"] for line in node.status()["users"] if line["user"] == user)


def settle(pair, victims):
    """All are in sync, but for those of whom the status says why not."""
    def check():
        for node in pair.nodes:
            status = node.status()
            waiting = [line for line in status["users"] if not line["reason"]]
            assert status["peer"]["connected"] if "peer" in status else True
            assert not waiting, waiting
        return True

    eventually("everything is in sync, or is said why not", check, timeout=60, every=0.2)
    return {victim.user: complaint(pair.a, victim.user) for victim in victims}


def told_of(node, victim):
    """Messages that are in the files alone, as after an mdbox mailbox's log was cut short, are kept and told of."""
    name = victim.user.split("@", maxsplit=1)[0]
    with open(node.log, encoding="utf-8", errors="replace") as file:
        return any(f"/{name}/mdbox/storage: no mailbox has" in line for line in file)


def must_have(node, victim, folders, numbers):
    """Gives what is not there, as texts."""
    def there():
        now = subjects(node, victim.user)
        for folder, expected in folders.items():
            assert expected <= now.get(folder, set()), f"{folder} lacks {sorted(expected - now.get(folder, set()))}: {now}"
        lacking = numbers - set().union(*now.values())
        assert not lacking, f"no folder has {sorted(lacking)}: {now}"
        return True
    try:
        eventually("all is there", there, timeout=60, every=0.5)  # what was said why not may be from before
        return []
    except AssertionError as error:
        return [f"{victim}: {node.host}: {error}"]


def damaged_while_off(kind, cases, seed, pattern):
    rng = random.Random(seed)
    with Pair(start=False, location=(f"{kind}:~/{kind}", "maildir:~/Maildir")) as pair:
        a, b = pair.nodes
        with open(a.dir + "/dovecot.conf", "a", encoding="utf-8") as file:
            file.write(SETTINGS)
        older = fill(a) + "/" + kind
        first = Victim(a, kind, 0, None, 0)
        groups = sorted({group_of(name) for name in first.files()
                         if re.search(FILE_PATTERNS[kind], name) and re.search(pattern, f"{kind}/{name}")})
        pairs = list(itertools.product(groups, dict.fromkeys(DAMAGES)))
        rng.shuffle(pairs)
        victims = [Victim(a, kind, number, damage, rng.randrange(1 << 30))
                   for number, (_, damage) in enumerate(pairs[:cases], 1)]
        for victim in victims:
            subprocess.run(["cp", "-a", a.home(FIRST, backing=True), a.home(victim.user, backing=True)], check=True)
        for node in pair.nodes:
            node.start_all()
        a.dsyncctl("replicate", "-f", "*")
        for victim in victims:
            eventually(f"{victim.user} is on b", lambda user=victim.user: subjects(b, user) == subjects(a, user), timeout=60)
        settle(pair, victims)
        pair.cut()
        for victim in victims:
            a.deliver(victim.user, "n100", body="only on a\r\n")
            b.deliver(victim.user, "n200", body="only on b\r\n")
        before = {victim.user: subjects(b, victim.user) for victim in victims}
        stop(a)
        done = [victim for victim, (group, _) in zip(victims, pairs) if victim.spoil(group, older)]
        mark = os.path.getsize(a.log)
        pair.heal()
        a.start_all(dovecot=False)
        said = settle(pair, done)
        # Nothing looked at some of it yet, which a client would do before we do.
        wrong = [found for victim in done for found in must_have(b, victim, before[victim.user], set())]
        a.dsyncctl("replicate", "-f", "*")
        said_then = settle(pair, done)
        for victim in done:
            victim.unspoil()
        a.dsyncctl("replicate", "-f", "*")
        settle(pair, done)
        a.start_dovecot()
        for victim in done:
            for node in pair.nodes:
                wrong += must_have(node, victim, before[victim.user], set() if told_of(a, victim) else victim.there)
        with open(a.log, encoding="utf-8", errors="replace") as file:
            file.seek(mark)
            log = file.read().splitlines()
        for victim in done:
            lines = [line for line in log if re.search(rf"\b{re.escape(victim.user)}\b|/{victim.user.split('@')[0]}/", line)
                     and not re.search("info: (synced|served)", line)]
            named = any(os.path.basename(victim.name) in line for line in [*lines, said[victim.user], said_then[victim.user]])
            print(f"{victim}: {len(victim.there)} there; at the start {said[victim.user] or 'in sync'}, then "
                  f"{said_then[victim.user] or 'in sync'}; {len(lines)} lines in the log"
                  f"{'' if named else ', not named'}", flush=True)
            if victim.must_be_named() and not named:
                wrong.append(f"{victim}: neither log nor status names it")
            if os.environ.get("VERBOSE"):
                print("".join(f"    {line}\n" for line in lines))
        crashed = [line for line in log if CRASHES.search(line)]
        assert not crashed, crashed
        return wrong


def main(cases="1000", seed="1", pattern="."):
    need("dovecot")
    wrong = [found for kind in ("mdbox", "sdbox") for found in damaged_while_off(kind, int(cases), int(seed), pattern)]
    assert not wrong, "\n".join(wrong)
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
