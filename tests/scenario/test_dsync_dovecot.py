#!/usr/bin/python3
"""dsync with a real Dovecot 2.3 at the other end: whoever starts, over a pipe, a script or its doveadm port, both
accounts show the same to doveadm, and the second run sends nothing. `all`: each way with each kind of change; else some have
all of it, and the others are shown to reach the other end."""
import os
import sys
import threading
import time

from dsync_sides import DSYNC, MAIL_UID, USER, Directory, Dovecot, deliver, run, until_done

THEIR_DSYNC = "/usr/bin/dsync"
ALL = "all" in sys.argv[1:]


class Sides:
    """Two accounts, each with a Dovecot's configuration: ours is read by dsync, theirs is a running server's."""

    def __init__(self, directory):
        self.ours, self.theirs = Dovecot(directory, "ours"), Dovecot(directory, "theirs")
        self.script = directory + "/wrapper"

    # --- who starts, and how; each gives the finished process

    def dsync(self, *args, **options):
        return run([DSYNC, "-c", self.ours.conf, "-u", USER, "-v", *args], expect=(0, 2), root=True, **options)

    def we_by_pipe(self, *options):
        return self.dsync(*options, "mirror", "doveadm", "-c", self.theirs.conf, "dsync-server", "-u", USER)

    def we_by_quoted_line(self, *options):
        return self.dsync(*options, "mirror", f"doveadm -c {self.theirs.conf} dsync-server -u {USER}")

    def we_by_script(self, *options):
        self.write_script(f'[ "$*" = server ] || exit 64; exec doveadm -c {self.theirs.conf} dsync-server -u {USER}')
        return self.dsync(*options, "mirror", self.script)

    def we_by_remoteprefix(self, *options):
        self.write_script(f'read -r user; exec doveadm -c {self.theirs.conf} dsync-server -u "$user"')
        return self.dsync("-o", f"dsync_remote_cmd={self.script} %{{login}} %{{host}}", *options, "mirror",
                          "remoteprefix:vmail@example.org")

    def we_by_remote_cmd(self, *options):
        self.write_script(f'[ "$1 $2" = "example.org -u{USER}" ] || exit 64; '
                          f'exec doveadm -c {self.theirs.conf} dsync-server -u {USER}')
        return self.dsync("-o", f"dsync_remote_cmd={self.script} %{{login}} %{{host}} -u%{{user}}", *options, "mirror",
                          f"{USER}@example.org")

    def we_by_ssh(self, *options):
        """Its place is taken by a script: what comes is the login's line for the shell there."""
        bin_dir = os.path.dirname(self.script) + "/bin"
        os.makedirs(bin_dir, exist_ok=True)
        self.write_script(f'[ "$1 $2 $3 $#" = "-l vmail example.org 4" ] || exit 64; PATH={bin_dir}:$PATH exec sh -c "$4"',
                          bin_dir + "/ssh")
        self.write_script(f'[ "$*" = "-u {USER} server" ] || exit 64; '
                          f'exec doveadm -c {self.theirs.conf} dsync-server -u {USER}', bin_dir + "/dsync")
        return self.dsync(*options, "mirror", "remote:vmail@example.org",
                          env={**os.environ, "PATH": bin_dir + ":" + os.environ["PATH"]})

    def we_by_tcp(self, *options):
        return self.dsync(*options, "mirror", f"tcp:127.0.0.1:{self.theirs.port}")

    def we_by_mail_replica(self, *options):
        return self.dsync("-o", f"mail_replica=tcp:127.0.0.1:{self.theirs.port}", "-d", *options, "mirror")

    def we_to_their_dsync(self, *options):
        """Dovecot 2.3 still has its own command of that name, which is what ssh's line finds on such a machine."""
        return self.dsync(*options, "mirror", THEIR_DSYNC, "-c", self.theirs.conf, "-u", USER)

    def their_dsync(self, *options):
        return run([THEIR_DSYNC, "-c", self.theirs.conf, *options, "-u", USER, "mirror", DSYNC, "-c", self.ours.conf,
                    "-u", USER], expect=(0, 2), root=True)

    def they_by_pipe(self, *options):
        return self.theirs.doveadm("sync", *options, "-u", USER, f"{DSYNC} -c {self.ours.conf} -u {USER} server",
                                   expect=(0, 2))

    def they_by_words(self, *options):
        return self.theirs.doveadm("sync", *options, "-u", USER, DSYNC, "-c", self.ours.conf, "-u", USER, expect=(0, 2))

    def write_script(self, text, path=None):
        path = path or self.script
        # Written anew: a running one must not change.
        if os.path.exists(path):
            os.unlink(path)
        with open(path, "w", encoding="utf-8") as file:
            file.write(f"#!/bin/sh\n{text}\n")
        os.chmod(path, 0o755)

    def same(self):
        ours, theirs = Dovecot.views(self.ours, self.theirs)
        for a, b in zip(ours, theirs):
            assert a == b, "\n".join(["ours:", *a, "theirs:", *b])
        return ours


def total(result):
    return [line for line in result.stderr.splitlines() if " mailboxes, " in line][-1]


def first_sync(sides, sync):
    """Both have mail of their own, in INBOX and in folders; the INBOXes were made independently."""
    sides.ours.deliver("Subject: 1\n\n.one\n")
    sides.ours.deliver("Subject: 2\n\ntwo")
    sides.theirs.deliver("Subject: 3\n\nthree\n")
    sides.ours.own("mailbox", "create", "-s", "Ours/äö")
    sides.ours.deliver("Subject: 4\n\nfour\n", mailbox="Ours/äö")
    sides.theirs.own("mailbox", "create", "-s", "Theirs")
    sides.theirs.deliver("Subject: 5\n\nfive\n", mailbox="Theirs")
    until_done(sync)
    sides.same()


def changes(sides, sync, tag):
    """New mails, flags, keywords, expunges and folders in both directions at once."""
    for side, name in ((sides.ours, "ours"), (sides.theirs, "theirs")):
        side.deliver(f"Subject: {tag}\n\nnew at {name}\n")
        side.deliver(f"Subject: {tag}\n\nanother at {name}\n", mailbox="Ours/äö")
        side.own("mailbox", "create", "-s", f"{tag}-{name}")
        side.deliver(f"Subject: {tag}\n\nin a folder\n", mailbox=f"{tag}-{name}")
    until_done(sync)
    sides.same()
    sides.ours.own("flags", "add", r"\Seen $Label1", "mailbox", "INBOX", "1")
    sides.theirs.own("flags", "add", r"\Flagged work", "mailbox", "INBOX", "1:2")
    sides.ours.own("expunge", "mailbox", "Ours/äö", "1")
    sides.theirs.own("expunge", "mailbox", "INBOX", "2")
    sides.theirs.own("mailbox", "rename", f"{tag}-ours", f"{tag}-renamed")
    sides.ours.own("mailbox", "delete", f"{tag}-theirs")
    sides.ours.own("mailbox", "unsubscribe", f"{tag}-theirs")
    until_done(sync)
    until_done(sync)  # a rename moves its subscription at one side: heard of in the next session
    mails, boxes, _ = sides.same()
    assert any(f"{tag}-renamed" in line for line in boxes) and not any(f"{tag}-theirs" in line for line in boxes), boxes
    assert any(f"new at theirs" in line for line in mails)


def reaches(sides, sync, name):
    """It is the other end: a mail goes over each way."""
    for side in (sides.ours, sides.theirs):
        side.deliver(f"Subject: {name}\n\nby {name}\n")
    until_done(sync)
    for side in (sides.ours, sides.theirs):
        found = side.own("fetch", "uid", "mailbox", "INBOX", "body", f"by {name}").stdout
        assert found.count("uid:") == 2, (name, found)


def quiet(sides, sync, what):
    """Nothing is sent any more, by a fast sync or a full one. (Dovecot's MODSEQs need a run more than its mails.)"""
    before = sides.same()
    for options, nothing in (((), "0 mails sent, 0 received"), ((), "0 mails sent, 0 received, 0 changes"),
                             (("-f",), "0 mails sent, 0 received, 0 changes")):
        result = sync(*options)
        assert result.returncode == 0, (what, result)
        if "mailboxes, " in result.stderr:
            assert nothing in total(result), (what, options, result.stderr)
    assert sides.same() == before


# --- one way

def backup_ways(sides):
    """(name, source, destination, how it is run)"""
    pipe = ["doveadm", "-c", sides.theirs.conf, "dsync-server", "-u", USER]
    port = [f"tcp:127.0.0.1:{sides.theirs.port}"]
    server = [f"{DSYNC} -c {sides.ours.conf} -u {USER} server"]

    def theirs(*args):
        return sides.theirs.doveadm("backup", "-u", USER, *args, *server, expect=(0, 2))

    return (("we start, to them", sides.ours, sides.theirs, lambda: sides.dsync("backup", *pipe)),
            ("we start, from them", sides.theirs, sides.ours, lambda: sides.dsync("-R", "backup", *pipe)),
            ("they start, to us", sides.theirs, sides.ours, theirs),
            ("they start, from us", sides.ours, sides.theirs, lambda: theirs("-R")),
            ("tcp, to them", sides.ours, sides.theirs, lambda: sides.dsync("backup", *port)),
            ("tcp, from them", sides.theirs, sides.ours, lambda: sides.dsync("-R", "-f", "backup", *port)))


def one_way(sides):
    ways = backup_ways(sides) if ALL else [way for way in backup_ways(sides) if way[0] in ("we start, to them", "they start, to us")]
    for number, (name, source, destination, sync) in enumerate(ways):
        folder = f"Backup{number}"
        source.own("mailbox", "create", "-s", folder, folder + "/sub")
        for text in ("one", "two", "three"):
            source.deliver(f"Subject: {name}\n\n{text}\n", mailbox=folder + "/sub")
        source.deliver(f"Subject: {name}\n\nnew\n")
        destination.own("flags", "add", r"\Seen only-there", "mailbox", "INBOX", "1")
        destination.own("mailbox", "subscribe", "Nothing")
        if destination is sides.ours:
            # What a Dovecot as the destination meets with a failed run.
            destination.own("mailbox", "create", f"Stray{number}", "Theirs/below")
            destination.deliver("Subject: stray\n\nstray\n", mailbox="Theirs")
        until_done(sync)
        before = source.view()
        until_done(sync)
        assert before == sides.same(), name
        source.own("expunge", "mailbox", folder + "/sub", "2")
        source.own("flags", "replace", r"\Answered work", "mailbox", folder + "/sub", "1")
        source.own("mailbox", "rename", folder, folder + "-renamed")
        if number:
            source.own("mailbox", "delete", f"Backup{number - 1}-renamed/sub")
        until_done(sync)
        before = source.view()
        until_done(sync)
        assert before == sides.same(), name
        print("ok:", name)


def their_inbox_is_kept(sides):
    """A Dovecot as the destination would delete an INBOX that is ahead, or lacks a message: a Maildir's it can only empty."""
    def is_refused(text):
        before = sides.theirs.view()
        result = run([DSYNC, "-c", sides.ours.conf, "-u", USER, "backup", "doveadm", "-c", sides.theirs.conf, "dsync-server",
                      "-u", USER], expect=(1,), root=True)
        assert text in result.stderr and "a Dovecot would delete it" in result.stderr, result.stderr
        assert sides.theirs.view() == before

    sides.theirs.deliver("Subject: ahead\n\nahead\n")
    sides.ours.deliver("Subject: new\n\nnew\n", mailbox="Theirs")
    is_refused("INBOX has UIDNEXT")
    until_done(sides.we_by_pipe)
    sides.theirs.own("expunge", "mailbox", "INBOX", "1")
    is_refused("messages below its UIDNEXT")
    until_done(sides.we_by_pipe)
    sides.same()
    print("ok: their_inbox_is_kept")


def while_mail_arrives(sides):
    """The conversion of a live account: mirror, again for the rest, once more when nothing arrives any more."""
    stop, count = threading.Event(), [0, 0]

    def arrive():
        while not stop.is_set():
            deliver(f"{sides.ours.homes}/{USER}/Maildir", f"1700000000.M{count[0]}P7.here", "Subject: arrived\n\nhere\n")
            count[0] += 1
            time.sleep(0.05)
            if count[0] % 4 == 0:
                sides.theirs.deliver("Subject: arrived\n\nthere\n")
                count[1] += 1

    def arrived(side):
        mails = [mail for mail in side.view()[0] if "'mailbox': 'INBOX'" in mail]
        return [sum(f"'body': '{where}" in mail for mail in mails) for where in ("here", "there")]

    thread = threading.Thread(target=arrive)
    thread.start()
    statuses = [sync().returncode for sync in (sides.we_by_pipe, sides.they_by_pipe, sides.we_by_tcp) * 4]
    stop.set()
    thread.join()
    until_done(sides.we_by_pipe)
    sides.same()
    # A Dovecot that takes a delivery in the middle of its import gives messages new UIDs afterwards, and may keep both.
    found = arrived(sides.ours)
    assert found[0] >= count[0] and found[1] >= count[1], (found, count)
    print(f"ok: while_mail_arrives: {count} mails, {sum(found) - sum(count)} twice, exit status {statuses}")


def saved_states(sides):
    """-s with a Dovecot: one string, whoever prints it and whoever is told it next."""
    def ours(state):
        result = sides.dsync("-s", state, "mirror", "doveadm", "-c", sides.theirs.conf, "dsync-server", "-u", USER)
        return result.stdout.strip(), result

    def theirs(state):
        result = sides.theirs.doveadm("sync", "-s", state, "-u", USER, f"{DSYNC} -c {sides.ours.conf} -u {USER} server",
                                      expect=(0, 2))
        return result.stdout.strip(), result

    state, _ = ours("")
    for sync in (ours, theirs, ours, theirs):
        sides.ours.deliver("Subject: stateful\n\nours\n")
        sides.theirs.deliver("Subject: stateful\n\ntheirs\n", mailbox="Theirs")
        # A Dovecot that starts with a state looks only into what changed at its own side.
        sides.theirs.deliver("Subject: stateful\n\ntheirs\n")
        for _ in range(3):
            state, result = sync(state)
            assert "invalid" not in result.stderr and "damaged" not in result.stderr, result
        sides.same()
    print("ok: saved_states")


def a_new_user(sides):
    """Whom only the Dovecot knows: the home is made here."""
    server = f"{DSYNC} -c {sides.ours.conf} -u bob server"
    for path in (sides.theirs.homes + "/bob", sides.theirs.homes + "/bob/Maildir"):
        os.mkdir(path)
        os.chown(path, MAIL_UID, MAIL_UID)
    sides.theirs.doveadm("save", "-u", "bob", input="Subject: for bob\n\nx\n")
    until_done(lambda: sides.theirs.doveadm("sync", "-u", "bob", server, expect=(0, 2)))
    assert os.stat(sides.ours.homes + "/bob").st_uid == MAIL_UID
    assert "for bob" in sides.ours.doveadm("fetch", "-u", "bob", "hdr.subject", "ALL").stdout


def fails_clearly(sides):
    for words, text in ((["-o", "doveadm_password=wrong", "mirror", f"tcp:127.0.0.1:{sides.theirs.port}"], "password"),
                        (["mirror", "tcp:127.0.0.1:1"], "refused"),
                        (["mirror", "doveadm", "-c", sides.theirs.conf, "dsync-server", "-u", "no/body"], "no/body")):
        result = run([DSYNC, "-c", sides.ours.conf, "-u", USER, *words], expect=(1,), root=True)
        assert text in result.stderr, result.stderr


def main():
    with Directory() as directory:
        sides = Sides(directory)
        with sides.theirs.start(), sides.ours.start():
            first_sync(sides, sides.we_by_pipe)
            their_dsync = ("we_to_their_dsync", "their_dsync") if os.path.exists(THEIR_DSYNC) else ()
            for name in ("we_by_pipe", "they_by_pipe", "we_by_tcp", *(their_dsync if ALL else ())):
                sync = getattr(sides, name)
                changes(sides, sync, name)
                quiet(sides, sync, name)
                print("ok:", name)
            for name in ("we_by_quoted_line", "we_by_script", "we_by_remoteprefix", "we_by_remote_cmd", "we_by_ssh",
                         "we_by_mail_replica", "they_by_words", *(() if ALL else their_dsync)):
                reaches(sides, getattr(sides, name), name)
                print("ok:", name)
            one_way(sides)
            until_done(sides.we_by_pipe)
            their_inbox_is_kept(sides)
            saved_states(sides)
            while_mail_arrives(sides)
            a_new_user(sides)
            fails_clearly(sides)
            assert not sides.ours.complaints(), sides.ours.complaints()
            print("ok: fails_clearly")
            log = [line for line in sides.theirs.complaints() if "no/body" not in line and "wrong password" not in line]
            assert not log, log


if __name__ == "__main__":
    main()
