#!/usr/bin/python3
"""dsync -t, -e, -I, -O and -1 beside doveadm sync with the same options: two Dovecots, and the same two accounts with our
dsync at one end, whoever starts and in either direction; the first run comes to the same mails. A second run of ours takes
nothing away (Dovecot's does: what the other side did not want is gone after it)."""
import json
import os
import sys

from dsync_sides import DSYNC, MAIL_UID, USER, Directory, Dovecot, deliver, run, until_done

OLD, NEW = 1600000000, 1750000000
SINCE = "1700000000"


class Account(Dovecot):
    def add(self, name, date, size=10, flags="", folder=None):
        maildir = f"{self.homes}/{USER}/Maildir"
        deliver(maildir, name, f"Subject: {name}\n\n{'x' * size}\n", folder=folder, flags=flags)
        path = f"{maildir}/.{folder}" if folder else maildir
        os.utime(f"{path}/cur/{name}:2,{flags}", (date, date))

    def server(self):
        return ["env", f"HOME={self.homes}/{USER}", "doveadm", "-c", self.conf, "dsync-server"]

    def mails(self):
        """{(folder, subject): (uid, flags)}"""
        found = json.loads(self.own("-f", "json", "fetch", "mailbox uid flags hdr.subject", "ALL").stdout or "[]")
        return {(mail["mailbox"], mail["hdr.subject"]):
                (int(mail["uid"]), *sorted(set(mail["flags"].split()) - {r"\Recent"})) for mail in found}


def fill(ours, theirs, both):
    """Mail of all kinds on both (or on ours), and a folder each; INBOXes of one origin."""
    ours.add("both", NEW, flags="S")
    until_done(lambda: ours.own("sync", *theirs.server(), expect=(0, 2)))
    for side, tag in ((ours, "o"), (theirs, "t"))[:2 if both else 1]:
        side.add(tag + "-old", OLD)
        side.add(tag + "-new", NEW, flags="F")
        side.add(tag + "-big", NEW, size=5000)
        side.add(tag + "-folder-old", OLD, folder="Folder" + tag)
        side.add(tag + "-folder-new", NEW, folder="Folder" + tag)
        side.mails()


def pair(directory, name, both=True):
    path = f"{directory}/{name}"
    os.mkdir(path)
    os.chown(path, MAIL_UID, MAIL_UID)
    sides = Account(path, "ours"), Account(path, "theirs")
    fill(*sides, both)
    return sides


def dsync(ours, theirs, *words):
    return run([DSYNC, "-c", ours.conf, "-u", USER, *words, *theirs.server()], expect=(0, 2), root=True)


def ways(options, verb):
    """name, and who starts what between (ours, theirs); `ours` is where the direction starts."""
    backup = verb == "backup"
    ours_verb = "backup" if backup else "mirror"
    yield "two Dovecots", lambda ours, theirs: ours.own(verb, *options, *theirs.server(), expect=(0, 2))
    yield "we start", lambda ours, theirs: dsync(ours, theirs, *options, ours_verb)
    if backup or "-1" in options:
        # The other end's account is the source, so the sides change places.
        yield "we start, -R", lambda ours, theirs: dsync(theirs, ours, "-R", *options, ours_verb)
        yield "they start, -R", lambda ours, theirs: theirs.own(
            verb, "-R", *options, DSYNC, "-c", ours.conf, "-o", f"mail_location=maildir:{ours.homes}/{USER}/Maildir", "server",
            expect=(0, 2))
    yield "they start", lambda ours, theirs: ours.own(
        verb, *options, DSYNC, "-c", theirs.conf, "-o", f"mail_location=maildir:{theirs.homes}/{USER}/Maildir", "server",
        expect=(0, 2))
    location = f"maildir:{{homes}}/{USER}/Maildir"
    yield "two of ours", lambda ours, theirs: run(
        [DSYNC, "-c", ours.conf, "-u", USER, *options, ours_verb, location.format(homes=theirs.homes)], expect=(0, 2), root=True)


# -f: else two Dovecots skip a mailbox in which both have as many new mails.
CASES = (
    (("-I", "1k"), "sync"),
    (("-O", r"-\Flagged"), "sync"),
    (("-1",), "sync"),
    (("-t", SINCE), "sync"),
    (("-1", "-t", SINCE, "-O", r"\Flagged"), "sync"),
    (("-t", SINCE, "-I", "1k"), "backup"),
)


def content(side):
    """Without UIDs: of two mails that want one UID either order is right."""
    return {key: value[1:] for key, value in side.mails().items()}


def beside_doveadm(directory):
    for number, (options, verb) in enumerate(CASES if "all" in sys.argv else CASES[-3:]):
        options = ("-f", *options)
        wanted = None
        for place, (name, sync) in enumerate(ways(options, verb)):
            ours, theirs = pair(directory, f"{number}-{place}", verb == "sync")
            sync(ours, theirs)
            found = content(ours), content(theirs)
            if wanted is None:
                wanted = found
                continue
            assert found == wanted, (options, name, [(set(a.items()) ^ set(b.items())) for a, b in zip(found, wanted)])
            if name in ("they start", "they start, -R"):
                continue
            before = ours.mails(), theirs.mails()
            for _ in range(2):
                sync(ours, theirs)
            after = ours.mails(), theirs.mails()
            if verb == "sync":
                assert set(before[0]) <= set(after[0]) and set(before[1]) <= set(after[1]), (options, name, before, after)
            else:
                assert before == after, (options, name, before, after)
        print("ok:", verb, *options)


def what_both_hold_stays(directory):
    """Nothing is removed at either end by a filter, however often: also not at a Dovecot that takes what is not listed for
    expunged."""
    for name, sync in list(ways(("-t", SINCE), "sync"))[1:2] + list(ways(("-t", SINCE), "sync"))[-1:]:
        ours, theirs = pair(directory, "stay-" + name.replace(" ", "-"))
        for run_number in range(3):
            sync(ours, theirs)
            ours.add(f"o-more-{run_number}", NEW)
            theirs.add(f"t-more-{run_number}", NEW)
            theirs.add(f"t-older-{run_number}", OLD)
            ours.mails(), theirs.mails()
        until_done(lambda: sync(ours, theirs))
        for side, tag in ((ours, "o"), (theirs, "t")):
            mails = side.mails()
            assert ("INBOX", tag + "-old") in mails and (f"Folder{tag}", tag + "-folder-old") in mails, (name, mails)
            for number in range(3):
                assert ("INBOX", f"o-more-{number}") in mails and ("INBOX", f"t-more-{number}") in mails, (name, mails)
            assert (("INBOX", "t-older-1") in mails) == (tag == "t"), (name, mails)
        until_done(lambda: dsync(ours, theirs, "mirror"))
        assert content(ours) == content(theirs) and len(content(ours)) == 11 + 9, (name, content(ours), content(theirs))
    print("ok: what_both_hold_stays")


def refused(directory):
    ours, theirs = pair(directory, "refused")
    # What a Dovecot before 2.4.3 sends for -e is not what it was told.
    for options in (("-e", SINCE), ("-t", SINCE, "-e", str(NEW))):
        result = theirs.own("sync", *options, DSYNC, "-c", ours.conf, "server", expect=(75,))
        assert "sync_until_timestamp" in result.stderr or "-e" in result.stderr, result.stderr
    # Where it is the destination, it goes by what it was told itself.
    ours.add("o-between", int(SINCE) + 1000)
    ours.add("o-after", NEW + 1000)
    copies = [Account(directory, "copy-" + name) for name in ("ours", "theirs")]
    for copy, server in zip(copies, ([DSYNC, "-c", ours.conf, "-o", f"mail_location=maildir:{ours.homes}/{USER}/Maildir", "server"],
                                     ours.server())):
        copy.own("backup", "-R", "-t", SINCE, "-e", str(NEW + 500), *server)
    assert content(copies[0]) == content(copies[1]), (content(copies[0]), content(copies[1]))
    assert {("INBOX", "both"), ("INBOX", "o-between")} <= set(content(copies[0])), content(copies[0])
    assert not {("INBOX", "o-old"), ("INBOX", "o-after")} & set(content(copies[0])), content(copies[0])
    before = content(theirs)
    dsync(ours, theirs, "-e", SINCE, "mirror")
    assert set(content(theirs)) - set(before) == {("INBOX", "o-old"), ("Foldero", "o-folder-old")}, content(theirs)
    print("ok: refused")


def folders(side):
    return {folder for folder, _ in side.mails()} - {"INBOX"}


def special_use(directory):
    """-x '\\Junk' and -m '\\Junk': the mailbox that the settings of who starts say it of. (A 2.3.19 that starts finds none by that.)"""
    for name, sync in ways(("-x", r"\Junk"), "sync"):
        if name not in ("we start", "two of ours"):
            until_done(lambda: sync(*pair(directory, "special " + name)))
            continue
        ours, theirs = pair(directory, "special " + name)
        for side in (ours, theirs):
            with open(side.conf, "a", encoding="utf-8") as file:
                file.write("namespace inbox {\n  mailbox Foldero {\n    special_use = \\Junk\n  }\n"
                           "  mailbox Foldert {\n    special_use = \\Archive \\Flagged\n  }\n}\n")
        until_done(lambda: sync(ours, theirs))
        assert folders(ours) == {"Foldero", "Foldert"} and folders(theirs) == {"Foldert"}, (name, folders(ours), folders(theirs))
        if name == "we start":
            theirs.add("t-new-2", NEW)
            for mailbox in (r"\junk", r"\Flagged"):
                until_done(lambda: dsync(ours, theirs, "-m", mailbox, "mirror"))
            assert folders(theirs) == {"Foldero", "Foldert"} and ("INBOX", "t-new-2") not in content(ours), name
    print("ok: special_use")


def main():
    with Directory() as directory:
        beside_doveadm(directory)
        special_use(directory)
        what_both_hold_stays(directory)
        refused(directory)


if __name__ == "__main__":
    main()
