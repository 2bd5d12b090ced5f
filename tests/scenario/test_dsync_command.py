#!/usr/bin/python3
"""dsync between plain Maildirs, as nobody special: LOCATION2 on this machine, and behind a command."""
import os

from dsync_sides import DSYNC, Directory, as_mail_user, deliver, maildir_view, run, until_done

SETTINGS = ["-c", "/dev/null"]


def dsync(home, *args, expect=(0, 2), **options):
    return run([DSYNC, *SETTINGS, "-v", *args], expect=expect, env={**os.environ, "HOME": home}, **options)


def moved(result):
    """Mails sent, received and changes, as the last line says."""
    words = [line for line in result.stderr.splitlines() if " mailboxes, " in line][-1].replace(",", "").split()
    return int(words[words.index("mails") - 1]), int(words[words.index("received") - 1]), \
        int(words[words.index("changes") - 1])


def both_ways(home, mirror, ours, theirs):
    deliver(ours, "1700000001.M1P1.here", "Subject: 1\n\none\n")
    deliver(ours, "1700000002.M1P1.here", "Subject: 2\n\n.two\n", flags="FS")
    deliver(ours, "1700000003.M1P1.here", "Subject: 3\n\nthree", folder="Work.&AOQ-")
    until_done(mirror)
    assert maildir_view(ours) == maildir_view(theirs)
    assert moved(mirror(expect=(0,))) == (0, 0, 0)

    deliver(theirs, "1700000004.M1P1.there", "Subject: 4\n\nfour\n")
    deliver(ours, "1700000005.M1P1.here", "Subject: 5\n\nfive\n")
    deliver(theirs, "1700000006.M1P1.there", "Subject: 6\n\nsix\n", folder="Theirs")
    os.rename(f"{theirs}/cur/1700000002.M1P1.here:2,FS", f"{theirs}/cur/1700000002.M1P1.here:2,RS")
    until_done(mirror)
    view = maildir_view(ours)
    assert view == maildir_view(theirs)
    assert len(view[""][0]) == 4 and set(view) == {"", "Work.&AOQ-", "Theirs"}, view
    assert "RS" in [flags for _, flags, _ in view[""][0].values()], view
    assert moved(mirror(expect=(0,))) == (0, 0, 0)


def local_location(directory):
    home, backup = directory + "/local", directory + "/backup"
    for path in (home, backup):
        os.mkdir(path)
        os.chown(path, *[as_mail_user().get("user", -1)] * 2)
    location = f"maildir:{backup}/not/there/yet"
    both_ways(home, lambda **options: dsync(home, "mirror", location, **options), home + "/Maildir",
              backup + "/not/there/yet")
    # -f looks everywhere, and finds nothing.
    assert moved(dsync(home, "-f", "mirror", location, expect=(0,))) == (0, 0, 0)


def behind_a_command(directory):
    home, there = directory + "/here", directory + "/there"
    for path in (home, there):
        os.mkdir(path)
        os.chown(path, *[as_mail_user().get("user", -1)] * 2)
    words = ["env", f"HOME={there}", DSYNC, *SETTINGS]
    both_ways(home, lambda **options: dsync(home, "mirror", *words, **options), home + "/Maildir", there + "/Maildir")
    # The same in one word, and with the verb of Dovecot's peers.
    for line in (" ".join(words), " ".join(words) + " dsync-server", " ".join(words) + " server -D"):
        assert moved(dsync(home, "mirror", line, expect=(0,))) == (0, 0, 0)


def only_some(directory):
    home, backup = directory + "/some", directory + "/some-backup"
    for path in (home, backup):
        os.mkdir(path)
        os.chown(path, *[as_mail_user().get("user", -1)] * 2)
    for number, folder in enumerate((None, "Work", "Junk", "Lists.c")):
        deliver(home + "/Maildir", f"170000000{number}.M1P1.x", "Subject: x\n\nx\n", folder=folder)
    location = f"maildir:{backup}/Maildir"
    until_done(lambda: dsync(home, "-m", "Work", "-m", "Lists/*", "mirror", location))
    folders = {name for name in os.listdir(backup + "/Maildir") if os.path.isdir(f"{backup}/Maildir/{name}/cur")}
    assert folders == {".Work", ".Lists.c"}, folders
    until_done(lambda: dsync(home, "-x", "Junk", "mirror", location))
    assert set(maildir_view(backup + "/Maildir")) == {"", "Work", "Lists.c"}
    until_done(lambda: dsync(home, "mirror", location))
    assert maildir_view(backup + "/Maildir") == maildir_view(home + "/Maildir")


def failures(directory):
    home = directory + "/failing"
    os.mkdir(home)
    os.chown(home, *[as_mail_user().get("user", -1)] * 2)
    deliver(home + "/Maildir", "1700000001.M1P1.x", "Subject: x\n\nx\n")
    for status, words, text in ((64, [], "LOCATION2 is missing"),
                                (64, ["mbox:/tmp/x"], "mbox: is not supported"),
                                (1, ["/no/such/script"], "No such file"),
                                (1, ["sh", "-c", "echo oops >&2; exit 7"], "oops"),
                                (1, ["sh", "-c", "echo hello; cat >/dev/null"], "hello"),
                                (1, ["maildir:/proc/nothing/here"], "/proc/nothing"),
                                (64, ["tcp:localhost"], "-u")):
        result = dsync(home, "mirror", *words, expect=(status, 1))
        assert text in result.stderr, (words, result.stderr)
    assert "mail_locaton" in dsync(home, "-o", "mail_locaton=x", "mirror", "maildir:/x", expect=(78,)).stderr
    dsync(home, "-u", "nobody-such", "mirror", "maildir:/x", expect=(67,))


def main():
    with Directory() as directory:
        for step in (local_location, behind_a_command, only_some, failures):
            step(directory)
            print("ok:", step.__name__)


if __name__ == "__main__":
    main()
