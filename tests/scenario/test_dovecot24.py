#!/usr/bin/python3
"""dsync with a Dovecot 2.4 at the other end: we start, over a pipe, its doveadm port plain and with TLS, and backups in both
directions; both accounts show the same to doveadm, and the second run sends nothing."""
import sys

from certificates import Authority
from dovecot24 import Dovecot24
from dsync_sides import DSYNC, USER, Directory, Dovecot, run, until_done
from test_dsync_dovecot import changes, first_sync, quiet


class Sides:
    def __init__(self, directory, theirs, ca):
        self.ours, self.theirs, self.ca = Dovecot(directory, "ours"), theirs, ca
        self.command, self.to_ours = theirs.script(), theirs.script_to(self.ours.conf)

    def dsync(self, *args):
        return run([DSYNC, "-c", self.ours.conf, "-u", USER, "-v", "-o", f"ssl_client_ca_file={self.ca}", *args],
                   expect=(0, 2), root=True)

    def pipe(self, *options):
        return self.dsync(*options, "mirror", self.command)

    def port(self, *options):
        return self.dsync(*options, "mirror", f"{self.scheme}:127.0.0.1:{self.theirs.port}")

    def they_start(self, *options):
        return self.theirs.doveadm("sync", *options, "-u", USER, self.to_ours, expect=(0, 2))

    scheme = "tcp"

    def same(self):
        ours, theirs = self.ours.view(), self.theirs.view()
        for a, b in zip(ours, theirs):
            assert a == b, "\n".join(["ours:", *a, "theirs:", *b])
        return ours


def backups(sides):
    for number, (source, destination, sync) in enumerate((
            (sides.ours, sides.theirs, lambda: sides.dsync("backup", sides.command)),
            (sides.theirs, sides.ours, lambda: sides.dsync("-R", "backup", sides.command)),
            (sides.ours, sides.theirs, lambda: sides.dsync("backup", f"{sides.scheme}:127.0.0.1:{sides.theirs.port}")),
            (sides.theirs, sides.ours, lambda: sides.theirs.doveadm("backup", "-u", USER, sides.to_ours, expect=(0, 2))))):
        folder = f"Backup{number}"
        source.own("mailbox", "create", "-s", folder)
        for text in ("one", "two"):
            source.deliver(f"Subject: {number}\n\n{text}\n", mailbox=folder)
        destination.own("flags", "add", r"\Seen only-there", "mailbox", "INBOX", "1")
        until_done(sync)
        before = source.view()
        until_done(sync)
        assert source.view() == before == sides.same()
        source.own("expunge", "mailbox", folder, "1")
        until_done(sync)
        sides.same()
    print("ok: backups")


def scenario(directory, theirs, name, ca=""):
    with theirs:
        theirs.start()
        sides = Sides(directory, theirs, ca)
        with sides.ours:
            sides.scheme = "tcps" if ca else "tcp"
            first_sync(sides, sides.pipe)
            for way in ("pipe", "port", "they_start"):
                sync = getattr(sides, way)
                changes(sides, sync, way)
                quiet(sides, sync, way)
                print("ok:", name, way)
            backups(sides)
            assert not theirs.complaints(), theirs.complaints()


def main():
    with Authority() as authority:
        if len(sys.argv) < 2 or sys.argv[1] == "tcp":
            with Directory() as directory:
                scenario(directory, Dovecot24(), "maildir")
        if len(sys.argv) < 2 or sys.argv[1] == "tcps":
            with Directory() as directory:
                scenario(directory, Dovecot24(mdbox=True, tls=authority), "mdbox with TLS", authority.ca)


if __name__ == "__main__":
    main()
