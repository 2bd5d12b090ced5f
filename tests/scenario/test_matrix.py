#!/usr/bin/python3
"""The matrix: {our dsync, our dsyncd} x {Dovecot 2.3, 2.4} x {command pipe, tcp, tcps} x {we start, they start} x {mirror,
backup, backup -R} x {maildir, mdbox}. After each, doveadm shows the same on both sides, and one more run changes nothing.

Without arguments so many cells that each pair of values occurs; `all`: every one. Cells with 2.4 are run where there is a tree
with it (dovecot24.py); else they are counted as skipped."""
import collections
import concurrent.futures
import hashlib
import itertools
import json
import os
import shutil
import signal
import sys
import time

from certificates import Authority
from dovecot24 import Dovecot24, bridge_script, close_bridges, tree_words
from dsync_sides import DSYNC, MAIL_UID, USER, Directory, Dovecot, deliver, run, until_done
from dsyncd_here import Dsyncd
from node import eventually, need

Cell = collections.namedtuple("Cell", "ours version transport start mode store")
LOCATIONS = {"maildir": "maildir:~/Maildir", "mdbox": "mdbox:~/mdbox"}
ATTRIBUTES = "mail_attribute_dict = file:%h/attributes\n"
NO_MAILS = " 0 mails sent, 0 received"
PROGRAM, DAEMON = "dsync", "dsyncd"


# --- which cells there are

def exists(cell):
    if cell.ours == PROGRAM:
        # The command has no port to be called at.
        return cell.start == "we" or cell.transport == "pipe"
    # The daemon starts two-way sessions alone, and is called at its port.
    return cell.mode == "mirror" if cell.start == "we" else cell.transport != "pipe"


def all_cells(versions):
    return [cell for cell in itertools.starmap(Cell, itertools.product(
        (PROGRAM, DAEMON), versions, ("pipe", "tcp", "tcps"), ("we", "they"), ("mirror", "backup", "backup -R"), LOCATIONS))
        if exists(cell)]


def pairs_of(cell):
    return set(itertools.combinations(enumerate(cell), 2))


def some_cells(cells):
    """Few of them in which every pair of values occurs that occurs in any."""
    missing, chosen = set().union(*map(pairs_of, cells)), []
    while missing:
        best = max(cells, key=lambda cell: len(missing & pairs_of(cell)))
        chosen.append(best)
        missing -= pairs_of(best)
    # Neighbours share what is started for them.
    return sorted(chosen, key=lambda cell: (cell.version, cell.store, cell.transport == "tcps", cell.ours, cell))


# --- the accounts

def copy_home(template, home):
    if os.path.lexists(home):
        shutil.rmtree(home)
    run(["cp", "-a", template, home])


class Account:
    """A user's mail as doveadm of that side shows it."""

    def __init__(self, side, user):
        self.side, self.user = side, user

    def doveadm(self, *args, **options):
        formats = args[:2] if args[0] == "-f" else ()
        args = args[len(formats):]
        words = {"mailbox": 3 if args[1] == "metadata" else 2, "flags": 2, "sieve": 2}.get(args[0], 1)
        return self.side.doveadm(*formats, *args[:words], "-u", self.user, *args[words:], **options).stdout

    def mails(self):
        fields = "mailbox mailbox-guid uid guid flags date.received date.saved size.physical size.virtual modseq body"
        return json.loads(self.doveadm("-f", "json", "fetch", fields, "ALL") or "[]")

    def modseqs(self):
        return {(mail["mailbox"], int(mail["uid"])): int(mail["modseq"]) for mail in
                json.loads(self.doveadm("-f", "json", "fetch", "mailbox uid modseq", "ALL") or "[]")}

    def value(self, box, key):
        lines = self.doveadm("-f", "tab", "mailbox", "metadata", "get", box, key, expect=(0, 68)).splitlines()
        return lines[1] if len(lines) > 1 else None

    def view(self, saved):
        """What both sides have to show, and the MODSEQs apart: ({what: ...}, {(mailbox, uid): modseq})."""
        mails, modseqs = [], {}
        for mail in self.mails():
            modseqs[mail["mailbox"], int(mail["uid"])] = int(mail.pop("modseq"))
            mail["flags"] = sorted(set(mail["flags"].split()) - {r"\Recent"})
            if not saved(mail["mailbox"]):
                del mail["date.saved"]
            mail["body"] = (len(mail["body"]), mail["body"][:20], hashlib.sha1(mail["body"].encode()).hexdigest())
            mails.append(str(mail))
        status = self.doveadm("-f", "tab", "mailbox", "status", "guid uidvalidity uidnext messages vsize", "*").splitlines()
        return {"mails": sorted(mails), "mailboxes": sorted(status),
                "subscriptions": sorted(self.doveadm("mailbox", "list", "-s").splitlines()),
                "metadata": [self.value("INBOX", "/private/comment"), self.value("Work/äö", "/shared/comment")],
                "scripts": sorted(self.doveadm("sieve", "list").splitlines()),
                "script": self.doveadm("sieve", "get", "main", expect=(0, 68))}, modseqs


def swapped(one, other):
    """Messages that changed in another order on the two sides, by MODSEQ."""
    boxes = collections.defaultdict(list)
    for box, uid in one:
        boxes[box].append(uid)
    return [(box, x, y) for box, uids in boxes.items() for x, y in itertools.combinations(sorted(uids), 2)
            if (one[box, x] - one[box, y]) * (other[box, x] - other[box, y]) < 0]


def make_templates(directory):
    """Two homes with all kinds of mail, made by a Dovecot as Maildir and mdbox: copies of them are the accounts."""
    side = Dovecot(directory, "templates")
    with open(side.conf, "a", encoding="utf-8") as file:
        file.write(ATTRIBUTES)
    with side.start():
        return [make_template(side, tag) for tag in ("a", "b")]


def make_template(side, tag):
    home, account = f"{side.homes}/{tag}", Account(side, tag)
    for number, (text, flags) in enumerate((("one\n", "FS"), (".dot\n..\n.\n", ""), ("no end", "R"), ("x" * 70000 + "\n", "T"))):
        file_name = f"17000000{number:02}.M{tag}P1.here"
        deliver(home + "/Maildir", file_name, f"Subject: {tag} {number}\n\n{text}", flags=flags)
        os.utime(f"{home}/Maildir/cur/{file_name}:2,{flags}", (1600000000 + number, 1600000000 + number))
    account.doveadm("mailbox", "create", "-s", "Work/äö", f"Only {tag}", "Gone")
    account.doveadm("save", "-m", f"Only {tag}", input="Subject: only here\n\nx\n")
    for number in range(3):
        account.doveadm("save", "-m", "Work/äö", input=f"Subject: {tag} work {number}\n\nx\n")
    account.doveadm("flags", "add", rf"$Label1 {tag}-word", "mailbox", "INBOX", "1:2")
    account.doveadm("flags", "add", r"\Flagged", "mailbox", "Work/äö", "2")
    account.doveadm("expunge", "mailbox", "Work/äö", "1")
    account.doveadm("mailbox", "delete", "-s", "Gone")
    account.doveadm("mailbox", "metadata", "set", "INBOX", "/private/comment", f"of {tag}")
    account.doveadm("mailbox", "metadata", "set", "Work/äö", "/shared/comment", f"line\tof {tag}")
    account.doveadm("sieve", "put", "-a", "main", input="keep;\n")
    account.doveadm("backup", f"mdbox:{home}/mdbox")
    return home


# --- one side and the other

class Sides:
    """Everything that runs for the cells of one version, store and TLS: their Dovecot, and ours, which shows what is here."""

    def __init__(self, directory, version, store, tls, authority):
        self.store, self.tls, self.authority, self.version = store, tls, authority, version
        self.dir = f"{directory}/{version}-{store}-{'tls' if tls else 'plain'}"
        os.mkdir(self.dir)
        os.chmod(self.dir, 0o755)
        self.ours = self.configured(Dovecot(self.dir, "ours"))
        if version == "2.4":
            self.theirs = Dovecot24(mdbox=store == "mdbox", tls=authority if tls else None, sieve=True)
        else:
            self.theirs = self.configured(Dovecot(self.dir, "theirs", tls=authority if tls else None))
        self.pem, self.key = authority.certify("ours-here", "127.0.0.1")
        self.daemon, self.count, self.bridges = None, 0, []

    def configured(self, side):
        with open(side.conf, "a", encoding="utf-8") as file:
            file.write(f"mail_location = {LOCATIONS[self.store]}\n" + ATTRIBUTES)
        return side

    def __enter__(self):
        self.theirs.start()
        self.ours.start()
        return self

    def __exit__(self, *_):
        self.stop_daemon()
        close_bridges(self.bridges)
        # A Dovecot takes a second to end: both in the same one.
        self.ours.process.send_signal(signal.SIGTERM)
        self.theirs.__exit__()
        self.ours.__exit__()

    def stop_daemon(self, kind=None):
        if self.daemon:
            self.daemon.__exit__(kind)
        self.daemon = None

    def scheme(self):
        return "tcps" if self.tls else "tcp"

    # Their dsync-server behind a script for any user: the last word but Dovecot's own is the user.
    def their_command(self, user):
        argv = [*getattr(self.theirs, "command", []), "doveadm", "-c", self.theirs.conf, "dsync-server", "-u", user]
        return bridge_script(self.theirs.dir, f"theirs-{user}", argv, self.bridges)

    def our_command(self, user):
        return bridge_script(self.theirs.dir, f"ours-{user}", [DSYNC, "-c", self.ours.conf, "-u", user, "server"], self.bridges)

    def trust(self):
        return ["-o", f"ssl_client_ca_file={self.authority.ca}"] if self.tls else []

    # --- dsync

    def dsync(self, cell, user):
        verb = cell.mode.split()
        where = self.their_command(user) if cell.transport == "pipe" else f"{self.scheme()}:127.0.0.1:{self.theirs.port}"
        return lambda *more: run([DSYNC, "-c", self.ours.conf, "-u", user, "-v", *self.trust(), *more, *verb[1:], verb[0], where],
                                 expect=(0, 2), root=True)

    def they_start(self, cell, user):
        verb = ["sync"] if cell.mode == "mirror" else cell.mode.split()
        where = self.our_command(user) if cell.transport == "pipe" else f"{self.scheme()}:127.0.0.1:{self.daemon.port}"
        return lambda *more: self.theirs.doveadm(*verb, *more, "-u", user, where, expect=(0, 2))

    # --- dsyncd

    def forget_users(self):
        """What ours had of the cells before is no part of this one."""
        for name in os.listdir(self.ours.homes):
            shutil.rmtree(f"{self.ours.homes}/{name}")
        shutil.rmtree(self.ours.dir + "/dsyncd-state", ignore_errors=True)

    def start_daemon(self, cell, user):
        """One that calls their port or command, or one that is called."""
        settings = "replication_poll_interval = 1h\n"
        if cell.start == "we":
            settings += (f"mail_replica = remote:vmail@there\ndsync_remote_cmd = {self.their_command(user)}\n"
                         if cell.transport == "pipe" else f"mail_replica = {self.scheme()}:127.0.0.1:{self.theirs.port}\n")
        if self.tls:
            settings += f"ssl = yes\nssl_cert = <{self.pem}\nssl_key = <{self.key}\nssl_client_ca_file = {self.authority.ca}\n"
        self.daemon = Dsyncd(self.ours, LOCATIONS[self.store], settings)
        self.daemon.__enter__()

    def daemon_syncs(self, user):
        """dsyncd's own runs, until it says that all is done."""
        def sync(*more):
            done = self.daemon.dsyncctl("replicate", *more, user)
            assert done.returncode == 0, done
            eventually("in sync", self.daemon.in_sync)
            time.sleep(0.05)
            eventually("still in sync", self.daemon.in_sync)
            return done
        return sync

    # --- a cell

    def prepare(self, cell, templates):
        """The accounts on both sides, and how they are synced: (source or ours, the other, sync)."""
        self.count += 1
        user = f"{USER}{self.count}"
        backup_here = cell.mode != "mirror" and (cell.start == "we") == (cell.mode == "backup -R")
        here, there = f"{self.ours.homes}/{user}", f"{self.theirs.homes}/{user}"
        copy_home(templates[1 if backup_here else 0], there if backup_here else here)
        empty = here if backup_here else there
        if cell.mode == "mirror":
            copy_home(templates[1], empty)
        else:
            os.mkdir(empty)
            os.chown(empty, MAIL_UID, MAIL_UID)
        ours, theirs = Account(self.ours, user), Account(self.theirs, user)
        return (theirs, ours) if backup_here else (ours, theirs), user

    def run_cell(self, cell, templates):
        needs_daemon = cell.ours == DAEMON
        self.stop_daemon()
        if needs_daemon:
            self.forget_users()
        (source, other), user = self.prepare(cell, templates)
        if needs_daemon:
            self.start_daemon(cell, user)
        if cell.start == "they":
            sync = self.they_start(cell, user)
        else:
            sync = self.daemon_syncs(user) if needs_daemon else self.dsync(cell, user)
        self.check(cell, source, other, sync)

    def check(self, cell, source, other, sync):
        def saved(mailbox):
            """A Maildir has no place for it: it is the time of the file. And where both had mails under one UID, a Dovecot saves
            its own anew."""
            return self.store == "mdbox" and (cell.mode != "mirror" or mailbox.startswith("Only"))

        untouched = source.view(saved)[0] if cell.mode != "mirror" else None
        until_done(sync, runs=6)
        first = self.same(source, other, saved)
        assert untouched is None or untouched == first, f"the source has changed: {untouched} {first}"
        assert "'flags': ['$Label1'" in str(first["mails"]) and "main ACTIVE" in first["scripts"], first
        assert first["metadata"][0] and first["metadata"][1], first
        second = sync()
        assert second.returncode == 0 and "mails sent" not in second.stderr or NO_MAILS in second.stderr, second
        # Dovecot's MODSEQs take a run or two more than its mails.
        full = ("-f",) if cell.ours == DAEMON else ()
        for _ in range(2):
            until_done(lambda: sync(*full))
        before = source.modseqs(), other.modseqs()
        result = sync(*full)
        assert result.returncode == 0, result
        assert "mails sent" not in result.stderr or NO_MAILS + ", 0 changes" in result.stderr, result.stderr
        after = self.both(source, other, saved)
        assert before == (after[0][1], after[1][1]), (before, after[0][1], after[1][1])
        for view, _ in after:
            assert view == first, [(view[what], first[what]) for what in first if view[what] != first[what]]
        # A Dovecot that is a backup's destination gives its own MODSEQs.
        if cell.mode == "mirror" or other.side is self.ours:
            assert not swapped(after[0][1], after[1][1]), (swapped(after[0][1], after[1][1]), after[0][1], after[1][1])

    @staticmethod
    def both(source, other, saved):
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return list(pool.map(lambda account: account.view(saved), (source, other)))

    def same(self, source, other, saved):
        (one, _), (two, _) = self.both(source, other, saved)
        for what, value in one.items():
            assert value == two[what], "\n".join([f"{what}:", *map(str, value or []), "---", *map(str, two[what] or [])])
        return one


def has_24():
    return tree_words() is not None


def run_cells(cells, directory, authority):
    templates = make_templates(directory)
    key = lambda cell: (cell.version, cell.store, cell.transport == "tcps")  # noqa: E731
    for (version, store, tls), group in itertools.groupby(sorted(cells, key=key), key):
        with Sides(directory, version, store, tls, authority) as sides:
            for cell in group:
                start = time.monotonic()
                try:
                    sides.run_cell(cell, templates)
                except BaseException:
                    print("FAILED:", *cell)
                    sides.stop_daemon(True)
                    raise
                print("ok:", *cell, f"({time.monotonic() - start:.1f} s)", flush=True)


def main():
    need("dovecot", "openssl")
    every = all_cells(("2.3", "2.4"))
    versions = ("2.3", "2.4") if has_24() else ("2.3",)
    cells = all_cells(versions)
    if "all" not in sys.argv[1:]:
        cells = some_cells(cells)
    words = [word for word in sys.argv[1:] if word != "all"]
    cells = [cell for cell in cells if all(word in cell for word in words)]
    with Directory() as directory, Authority() as authority:
        run_cells(cells, directory, authority)
    print(f"{len(cells)} of {len(every)} cells" + ("" if has_24() else "; those with Dovecot 2.4 skipped: no tools/debian13_tree"))


if __name__ == "__main__":
    main()
