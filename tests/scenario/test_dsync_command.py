#!/usr/bin/python3
"""dsync between plain Maildirs, as nobody special: LOCATION2 on this machine, and behind a command."""
import json
import os
import pty
import pwd
import re
import subprocess
import time

from dsync_sides import DSYNC, MAIL_UID, Directory, as_mail_user, deliver, mailbox_of, maildir_view, run, until_done

SETTINGS = ["-c", "/dev/null"]


def dsync(home, *args, expect=(0, 2), **options):
    return run([DSYNC, *SETTINGS, "-v", *args], expect=expect, env={**os.environ, "HOME": home}, **options)


def make_home(path):
    os.mkdir(path)
    os.chown(path, *[as_mail_user().get("user", -1)] * 2)


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
    make_home(home)
    make_home(backup)
    location = f"maildir:{backup}/not/there/yet"
    both_ways(home, lambda **options: dsync(home, "mirror", location, **options), home + "/Maildir",
              backup + "/not/there/yet")
    # -f looks everywhere, and finds nothing.
    assert moved(dsync(home, "-f", "mirror", location, expect=(0,))) == (0, 0, 0)


def behind_a_command(directory):
    home, there = directory + "/here", directory + "/there"
    make_home(home)
    make_home(there)
    words = ["env", f"HOME={there}", DSYNC, *SETTINGS]
    both_ways(home, lambda **options: dsync(home, "mirror", *words, **options), home + "/Maildir", there + "/Maildir")
    # The same in one word, and with the verb of Dovecot's peers.
    for line in (" ".join(words), " ".join(words) + " dsync-server", " ".join(words) + " server -D"):
        assert moved(dsync(home, "mirror", line, expect=(0,))) == (0, 0, 0)


def only_some(directory):
    home, backup = directory + "/some", directory + "/some-backup"
    make_home(home)
    make_home(backup)
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


def removed_by_a_program(directory):
    """rm is an expunge, as it is for Dovecot; a mailbox without one file is a lost disk."""
    home, backup = directory + "/rm", directory + "/rm-copy"
    make_home(home)
    source, location = home + "/Maildir", f"maildir:{backup}"
    for number in range(3):
        deliver(source, f"170000000{number}.M1P1.x", f"Subject: {number}\n\nx\n")
        deliver(source, f"170000001{number}.M1P1.x", f"Subject: {number}\n\nx\n", folder="Work")
    make_home(backup)
    for verb in ("mirror", "backup"):
        os.unlink(source + "/new/" + sorted(os.listdir(source + "/new"))[0])
        until_done(lambda: dsync(home, verb, location))
        view = maildir_view(source)
        assert maildir_view(backup) == view, (verb, view)
        assert moved(dsync(home, verb, location, expect=(0,)))[:2] == (0, 0)
    assert len(view[""][0]) == 1
    for name in os.listdir(source + "/.Work/new"):
        os.unlink(f"{source}/.Work/new/{name}")
    result = dsync(home, "mirror", location, expect=(0, 2))
    assert "none is taken for expunged" in result.stderr, result.stderr
    assert len(maildir_view(backup)["Work"][0]) == 3


def snapshot(path):
    """Every file but indexes and locks: what must not change where nothing may be written."""
    found = {}
    for base, _, names in os.walk(path):
        for name in names:
            if "index" not in name and "lock" not in name:
                with open(os.path.join(base, name), "rb") as file:
                    found[os.path.join(base, name)] = file.read()
    return found


def one_way(directory):
    home, backup = directory + "/source", directory + "/copies"
    make_home(home)
    make_home(backup)
    source, copy = home + "/Maildir", backup + "/Maildir"
    location = f"maildir:{copy}"

    def run_backup(*options, **expect):
        return dsync(home, *options, "backup", location, **expect)

    def is_equal():
        before = snapshot(source)
        run_backup(expect=(0,))
        assert maildir_view(copy) == maildir_view(source)
        assert snapshot(source) == before
        kept = snapshot(copy)
        assert moved(run_backup(expect=(0,))) == (0, 0, 0)
        assert snapshot(copy) == kept

    deliver(source, "1700000001.M1P1.x", "Subject: 1\n\none\n")
    deliver(source, "1700000002.M1P1.x", "Subject: 2\n\ntwo\n", flags="S")
    deliver(source, "1700000003.M1P1.x", "Subject: 3\n\nthree\n", folder="Work")
    deliver(source, "1700000004.M1P1.x", "Subject: 4\n\nfour\n", folder="Work")
    run_backup(expect=(0,))  # the source's files get their UIDs
    is_equal()
    # A restored, an emptied and a flagged message at the copy; a new folder, mails and flags at the source.
    os.rename(f"{copy}/cur/1700000002.M1P1.x:2,S", f"{copy}/cur/1700000002.M1P1.x:2,FT")
    deliver(copy, "1700000005.M1P1.x", "Subject: 5\n\nonly here\n", folder="Stray")
    deliver(copy, "1700000006.M1P1.x", "Subject: 6\n\nonly here\n", folder="Work")
    deliver(source, "1700000007.M1P1.x", "Subject: 7\n\nseven\n", folder="New")
    deliver(source, "1700000008.M1P1.x", "Subject: 8\n\neight\n")
    run_backup(expect=(0,))
    is_equal()
    assert set(maildir_view(copy)) == {"", "Work", "New"}
    # The copy's INBOX has given a UID away that the source will give to another mail: nothing is touched.
    deliver(copy, "1700000009.M1P1.x", "Subject: 9\n\nonly here\n")
    deliver(source, "1700000010.M1P1.x", "Subject: 10\n\nten\n", folder="Work")
    run([DSYNC, *SETTINGS, "mirror", f"maildir:{directory}/elsewhere/Maildir"],
        env={**os.environ, "HOME": backup})  # gives it its UID
    kept = snapshot(copy)
    result = run_backup(expect=(1,))
    assert "INBOX" in result.stderr and "nothing was changed" in result.stderr, result.stderr
    assert snapshot(copy) == kept
    # And the other way: the copy is the truth, after the source was lost; but an empty copy empties nothing.
    result = dsync(home, "-R", "backup", f"maildir:{directory}/empty/Maildir", expect=(1,))
    assert "no mailboxes" in result.stderr, result.stderr
    restored = directory + "/restored"
    make_home(restored)
    dsync(restored, "-R", "backup", location, expect=(0,))
    assert maildir_view(restored + "/Maildir") == maildir_view(copy)
    assert moved(dsync(restored, "-R", "backup", location, expect=(0,))) == (0, 0, 0)
    # Behind a command, the other end is the destination.
    command = ["env", f"HOME={directory}/by-command", DSYNC, *SETTINGS]
    make_home(directory + "/by-command")
    for _ in range(2):
        result = dsync(home, "backup", *command, expect=(0,))
    assert moved(result) == (0, 0, 0)
    assert maildir_view(directory + "/by-command/Maildir") == maildir_view(source)
    # -m touches no other mailbox.
    deliver(directory + "/by-command/Maildir", "1700000011.M1P1.x", "Subject: 11\n\n11\n", folder="Stays")
    deliver(source, "1700000012.M1P1.x", "Subject: 12\n\n12\n", folder="Work")
    dsync(home, "-m", "Work", "backup", *command, expect=(0,))
    view = maildir_view(directory + "/by-command/Maildir")
    assert len(view["Work"][0]) == 4 and "Stays" in view, view


def refused_before_anything(directory):
    """A message is missing in the middle of the copy's INBOX, and cannot be put back there: whatever the copy is behind, it
    stays as it is, though other folders of it could become the source's. So it is for what is found in the tree."""
    for name in ("local", "command"):
        home, backup = f"{directory}/refused-{name}", f"{directory}/refused-{name}-copies"
        make_home(home)
        make_home(backup)
        source, copy = home + "/Maildir", backup + "/Maildir"
        words = [f"maildir:{copy}"] if name == "local" else ["env", f"HOME={backup}", DSYNC, *SETTINGS, "server"]
        for number in range(1, 4):
            deliver(source, f"170000000{number}.M1P1.x", f"Subject: {number}\n\nx\n")
            deliver(source, f"170000001{number}.M1P1.x", f"Subject: {number}\n\nx\n", folder="Work")
        dsync(home, "backup", *words, expect=(0,))
        dsync(home, "backup", *words, expect=(0,))

        def scan(home, name=name):
            run([DSYNC, *SETTINGS, "mirror", f"maildir:{directory}/refused-{name}-{os.path.basename(home)}/Maildir"],
                env={**os.environ, "HOME": home})

        def is_refused(text, home=home, copy=copy, words=words):
            kept = snapshot(copy)
            result = dsync(home, "backup", *words, expect=(1,))
            assert "INBOX" in result.stderr and text in result.stderr and "nothing was changed" in result.stderr, result.stderr
            assert " sent, " not in result.stderr and "mailboxes, " not in result.stderr, result.stderr
            assert snapshot(copy) == kept

        hole, = [file for part in ("new", "cur") for file in os.listdir(f"{copy}/{part}") if file.startswith("1700000002")]
        for part in ("new", "cur"):
            if os.path.exists(f"{copy}/{part}/{hole}"):
                os.unlink(f"{copy}/{part}/{hole}")
        deliver(copy, "1700000020.M1P1.x", "Subject: stray\n\nx\n", folder="Stray")
        deliver(source, "1700000021.M1P1.x", "Subject: new\n\nx\n", folder="New")
        deliver(source, "1700000022.M1P1.x", "Subject: new\n\nx\n", folder="Work")
        scan(backup)
        is_refused("")
        # What a user has to do is what README says: move it away.
        os.rename(copy, copy + ".old")
        dsync(home, "backup", *words, expect=(0,))
        assert maildir_view(copy) == maildir_view(source)
        deliver(copy, "1700000030.M1P1.x", "Subject: ahead\n\nx\n")
        deliver(copy, "1700000031.M1P1.x", "Subject: stray\n\nx\n", folder="Stray")
        scan(backup)
        is_refused("its UIDNEXT is ")


def made_independently(directory):
    """The copy's mailboxes have the source's names, and nothing else of it. A folder is made anew; an INBOX cannot be, and
    that is found before a folder is touched. Where the mails are the same, the copy's INBOX becomes the source's."""
    formats = {"maildir:~/Maildir": ("local", "command", "reverse"), "mdbox:~/mdbox": ("local",), "sdbox:~/sdbox": ("command",)}

    def other_files(side):
        return {name: data for name, data in snapshot(side).items() if "/mdbox/storage/dovecot.map" not in name}

    for number, (location, ways) in enumerate(formats.items()):
        homes = [f"{directory}/own{number}-{side}" for side in ("source", "copy", "twin")]
        for home, folder in zip(homes, ("Work", "Work", None)):
            make_home(home)
            make_home(home + "-mails")
            for mail in range(2 if home == homes[1] else 3):
                name = os.path.basename(homes[0] if home == homes[2] else home)
                deliver(home + "-mails", f"17000000{number}{mail}.M1P1.{name}", f"Subject: {mail}\n\n{name}\n")
            if folder:
                deliver(home + "-mails", f"1700000101.M1P1.{os.path.basename(home)}", "Subject: x\n\nx\n", folder=folder)
            # Each is mirrored from a Maildir of its own, and has its GUIDs.
            dsync(home + "-mails", "-o", f"mail_location=maildir:{home}-mails", "mirror", location.replace("~", home), expect=(0,))
        source, copy, twin = homes

        def backup(to, way, *options, location=location, source=source, **expect):
            """The source's owner sends, to a directory or to a command; or the copy's owner takes."""
            words = {"local": [location.replace("~", to)], "reverse": [location.replace("~", source)],
                     "command": ["env", f"HOME={to}", DSYNC, "-o", f"mail_location={location}", "server"]}[way]
            home = to if way == "reverse" else source
            return dsync(home, "-o", f"mail_location={location}", *options, *(["-R"] if way == "reverse" else []), "backup", *words,
                         **expect)

        for way in ways:
            kept = other_files(copy)
            result = backup(copy, way, expect=(1,))
            assert "INBOX cannot become" in result.stderr and "nothing was changed" in result.stderr, (way, result.stderr)
            assert "made anew: " not in result.stderr and " sent, " not in result.stderr, (way, result.stderr)
            assert other_files(copy) == kept, (location, way)
        planned = backup(twin, "local", "--dry-run", expect=(0,)).stdout
        assert "take the GUID of INBOX" in planned and "create Work" in planned and "INBOX would" not in planned, planned
        for _ in range(2):
            result = backup(twin, ways[-1], expect=(0,))
        assert moved(result) == (0, 0, 0)
        # Without INBOX nothing is in the way, and Work becomes the source's.
        backup(copy, "local", "-m", "Work", expect=(0,))
        assert moved(backup(copy, "local", "-m", "Work", expect=(0,))) == (0, 0, 0)


def saved_states(directory):
    """-s: what is printed is what the next run is told, and then only what changed is looked for."""
    home, copy = directory + "/state", directory + "/state-copy"
    make_home(home)
    make_home(copy)
    deliver(home + "/Maildir", "1700000000.M1P1.x", "Subject: 0\n\nx\n")
    server = [DSYNC, "-o", "mail_location=maildir:" + copy, "server"]

    def sync(state, expect=(0, 2)):
        for _ in range(5):
            result = dsync(home, "-s", state, "-v", "mirror", *server, expect=expect)
            state = result.stdout.strip()
            if result.returncode == 0:
                return state, result.stderr
        raise AssertionError("no end")

    state, _ = sync("")
    deliver(home + "/Maildir", "1700000001.M1P1.x", "Subject: 1\n\nx\n")
    deliver(copy, "1700000002.M1P1.x", "Subject: 2\n\nx\n")
    os.unlink(f"{copy}/new/1700000000.M1P1.x")
    state, _ = sync(state)
    mails = [sorted(name for name, _, _ in mailbox_of(path)[0].values()) for path in (home + "/Maildir", copy)]
    assert mails[0] == mails[1] == ["1700000001.M1P1.x", "1700000002.M1P1.x"], mails
    settled, _ = sync(state)
    again, said = sync(settled)
    assert again == settled and "0 mails sent, 0 received, 0 changes" in said, (settled, again, said)
    _, said = sync("nonsense")
    assert "everything is compared" in said and "0 mails sent" in said, said


def dry_run(directory):
    """Says what it would do at either side, and does nothing."""
    home, backup = directory + "/dry", directory + "/dry-copy"
    make_home(home)
    make_home(backup)
    source, location = home + "/Maildir", f"maildir:{backup}"
    for number in range(3):
        deliver(source, f"170000000{number}.M1P1.x", f"Subject: {number}\n\nx\n")
    until_done(lambda: dsync(home, "mirror", location))
    deliver(source, "1700000010.M1P1.x", "Subject: new\n\nx\n", folder="New")
    deliver(source, "1700000011.M1P1.x", "Subject: new\n\nx\n")
    os.unlink(f"{backup}/new/1700000000.M1P1.x")
    dsync(home, "--dry-run", "mirror", location, expect=(0,))  # now each side has taken its own in
    kept = snapshot(directory)
    result = dsync(home, "--dry-run", "mirror", location, expect=(0,))
    assert snapshot(directory) == kept
    assert sorted(result.stdout.splitlines()) == [
        f"{backup}: INBOX would get 1 mails, lose 0, change flags of 0 and UIDs of 0",
        f"{backup}: New would get 1 mails, lose 0, change flags of 0 and UIDs of 0",
        f"{backup}: would create New",
        "here: INBOX would get 0 mails, lose 1, change flags of 0 and UIDs of 0"], result.stdout
    objects = [json.loads(line) for line in dsync(home, "--dry-run", "--json", "mirror", location, expect=(0,)).stdout.splitlines()]
    assert snapshot(directory) == kept
    assert {(one["side"], one["action"], one["mailbox"], one.get("new_mails"), one.get("expunges")) for one in objects} == {
        (backup, "change", "INBOX", 1, 0), (backup, "create", "New", None, None), (backup, "change", "New", 1, 0),
        ("here", "change", "INBOX", 0, 1)}, objects
    result = dsync(home, "--dry-run", "-R", "backup", location, expect=(1,))
    assert snapshot(directory) == kept and "INBOX cannot become" in result.stderr, result
    dsync(home, "--dry-run", "mirror", "sh", "-c", "exit 1", expect=(1,))
    until_done(lambda: dsync(home, "mirror", location))
    for verb in ("mirror", "backup"):
        assert dsync(home, "--dry-run", verb, location, expect=(0,)).stdout == ""
    os.rename(f"{backup}/new/1700000011.M1P1.x", f"{backup}/cur/1700000011.M1P1.x:2,F")
    assert dsync(home, "--dry-run", "backup", location, expect=(0,)).stdout == \
        f"{backup}: INBOX would get 0 mails, lose 0, change flags of 1 and UIDs of 0\n"


def lost_uidlist(directory):
    """A uidlist, or all indexes, lost at one side, and a file that got another base name: mails get new UIDs where nobody knows
    their old ones, the same on both sides, and none is lost or twice."""
    home, copy = directory + "/uidlist", directory + "/uidlist-copy"
    make_home(home)
    make_home(copy)
    source, location = home + "/Maildir", f"maildir:{copy}"
    for number in range(5):
        deliver(source, f"170000000{number}.M1P1.x", f"Subject: {number}\n\nx\n")

    def same(count=5):
        until_done(lambda: dsync(home, "mirror", location))
        view = maildir_view(source)
        assert {uid: mail for uid, mail in view[""][0].items()} == maildir_view(copy)[""][0] and len(view[""][0]) == count, view
        assert moved(dsync(home, "mirror", location, expect=(0,))) == (0, 0, 0)
        return {mail[0]: uid for uid, mail in view[""][0].items()}

    before = same()
    os.unlink(copy + "/dovecot-uidlist")
    after = same()
    assert set(before) == set(after) and min(after.values()) > max(before.values()), (before, after)
    os.rename(f"{source}/new/1700000002.M1P1.x", f"{source}/new/1700000099.M1P1.renamed")
    assert set(same()) == set(before) - {"1700000002.M1P1.x"} | {"1700000099.M1P1.renamed"}
    for name in os.listdir(copy):
        if name.startswith("dovecot"):
            os.unlink(f"{copy}/{name}")
    same()


SLOW_LINE = """
import subprocess, sys, time
end = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
while data := sys.stdin.buffer.raw.read(65536):
    end.stdin.write(data)
    end.stdin.flush()
    time.sleep(0.02)
end.stdin.close()
sys.exit(end.wait())
"""


def progress(directory):
    """A run that takes longer than a second says on a terminal how far it is, and how long it will take; nothing elsewhere."""
    home, source = directory + "/long", directory + "/long/Maildir"
    make_home(home)
    for folder, count, size in (("", 60, 65536), *((f"/.F{number}", 1, 10) for number in range(10))):
        for part in ("cur", "new", "tmp"):
            os.makedirs(f"{source}{folder}/{part}")
        for number in range(count):
            with open(f"{source}{folder}/new/1700000000.M{number}P1.x", "w", encoding="ascii") as file:
                file.write("Subject: x\n\n" + "x" * size)
    if os.geteuid() == 0:
        run(["chown", "-R", f"{MAIL_UID}:{MAIL_UID}", source], root=True)

    def long_run(there, *options, terminal):
        make_home(home + there)
        reader, writer = pty.openpty() if terminal else os.pipe()
        command = [DSYNC, *SETTINGS, *options, "mirror", "/usr/bin/python3", "-c", SLOW_LINE, "env", f"HOME={home}{there}", DSYNC,
                   *SETTINGS]
        with subprocess.Popen(command, stderr=writer, stdin=subprocess.DEVNULL, env={**os.environ, "HOME": home},
                              **as_mail_user()) as process:
            os.close(writer)
            start, said = time.monotonic(), []
            while data := read_some(reader):
                said.append((time.monotonic() - start, data))
        os.close(reader)
        assert process.returncode == 0, said
        return time.monotonic() - start, said

    def read_some(reader):
        try:
            return os.read(reader, 4096)
        except OSError:  # a terminal's other end is closed
            return b""

    took, said = long_run("-seen", terminal=True)
    assert said and said[-1][1].endswith(b"\r\033[K"), said
    shown = [(at, *map(int, found)) for at, text in said for found in re.findall(
        rb"\r\033\[K(\d+) of (\d+) mailboxes, (\d+) mails, (\d+)/s, about (\d+) s left", text)]
    assert len(shown) >= 2 and shown[0][0] > 0.8, said
    assert [line[3] for line in shown] == sorted(line[3] for line in shown) and shown[-1][3] <= 70, shown
    # The one large mailbox counts for more than each of the others.
    assert all(line[2] == 11 and line[4] > 0 and line[5] < 3 * took for line in shown), (took, shown)
    assert long_run("-piped", terminal=False)[1] == []
    text = b"".join(data for _, data in long_run("-verbose", "-v", terminal=True)[1])
    assert b"\033" not in text and b"INBOX: 60 sent" in text, text
    assert maildir_view(home + "-seen/Maildir") == maildir_view(source)


def what_may_not_be_read_or_written(directory):
    """A mailbox that cannot be read is left out of a mirror, which has failed then; a backup is not begun without it."""
    if os.geteuid() == 0 and not as_mail_user():
        return
    home, copy = directory + "/closed", directory + "/closed-copy"
    make_home(home)
    deliver(home + "/Maildir", "1700000001.M1P1.x", "Subject: x\n\nx\n")
    deliver(home + "/Maildir", "1700000002.M1P1.x", "Subject: x\n\nx\n", folder="Work")
    os.chmod(home + "/Maildir/.Work", 0)
    for verb, text in (("mirror", "left out"), ("backup", "nothing was changed")):
        result = dsync(home, verb, f"maildir:{copy}-{verb}", expect=(1,))
        assert text in result.stderr and "mailbox=Work" in result.stderr and "Permission denied" in result.stderr, result.stderr
    assert set(maildir_view(copy + "-mirror")) == {""} and not os.path.exists(copy + "-backup/new")
    os.chmod(home + "/Maildir/.Work", 0o700)
    os.mkdir(copy, 0o500)
    os.chown(copy, *[as_mail_user().get("user", -1)] * 2)
    result = dsync(home, "mirror", f"maildir:{copy}/a/b", expect=(1,))
    assert f"{copy}/a cannot be made: Permission denied" in result.stderr, result.stderr


def secrets_of_the_machine(directory):
    """Its settings are for all to read, the password in them is not: that stops nobody who does not need it."""
    user = pwd.getpwuid(as_mail_user().get("user", os.getuid())).pw_name
    home = f"{directory}/{user}"
    make_home(home)
    deliver(home + "/Maildir", "1700000001.M1P1.x", "Subject: x\n\nx\n")
    with open(directory + "/machine.conf", "w", encoding="ascii") as file:
        file.write("mail_location = maildir:~/Maildir\ndoveadm_password = <machine.secret\n")
    with open(directory + "/machine.secret", "w", encoding="ascii") as file:
        os.chmod(file.fileno(), 0)
        file.write("secret\n")

    def as_user(where, expect):
        return run([DSYNC, "-c", directory + "/machine.conf", "-o", f"mail_home={directory}/%n", "-u", user, "-v", "mirror", where],
                   expect=expect, env={**os.environ, "HOME": home}).stderr

    assert "so it is not set" in as_user(f"maildir:{home}/copy", expect=(0,))
    assert "needs the setting doveadm_password" in as_user("tcp:localhost:1", expect=(64,))


def only_the_tree(directory):
    """-m '' or -g '': mailboxes and subscriptions, and no mail."""
    home, copy = directory + "/tree", directory + "/tree-copy"
    make_home(home)
    deliver(home + "/Maildir", "1700000001.M1P1.x", "Subject: x\n\nx\n", folder="Work")
    for option in ("-m", "-g"):
        make_home(copy + option)
        dsync(home, option, "", "mirror", f"maildir:{copy}{option}", expect=(0,))
        assert os.listdir(f"{copy}{option}/.Work/new") == [] == os.listdir(f"{copy}{option}/.Work/cur")


def raw_log(directory):
    """-r, at either end: what went over, both ways, for its owner's eyes."""
    home, copy = directory + "/logged", directory + "/logged-copy"
    make_home(home)
    make_home(copy)
    deliver(home + "/Maildir", "1700000001.M1P1.x", "Subject: logged\n\nx\n")
    ours, theirs = home + "/raw", copy + "/raw"
    dsync(home, "-r", ours, "mirror", "env", f"HOME={copy}", DSYNC, *SETTINGS, "-r", theirs, "server", expect=(0,))
    sides = []
    for path in (ours, theirs):
        assert os.stat(path).st_mode & 0o777 == 0o600
        with open(path, encoding="utf-8") as file:
            lines = [re.fullmatch(r"\d{10}\.\d{6} ([IO]): (.*)\n", line).groups() for line in file]
        sides.append({direction: [text for way, text in lines if way == direction] for direction in "IO"})
    assert sides[0]["I"] == sides[1]["O"] and sides[0]["O"] == sides[1]["I"], sides
    assert sides[0]["O"][0] == "VERSION\tdsync\t3\t5" and "Subject: logged" in "".join(sides[0]["O"]), sides[0]["O"]
    result = dsync(home, "-r", home + "/none/raw", "mirror", f"maildir:{copy}/Maildir", expect=(1,))
    assert "none/raw: No such file" in result.stderr, result.stderr


def purges_the_other_end(directory):
    """-P: what was expunged takes no room there any more."""
    home, copy = directory + "/purging", directory + "/purging-copy"
    make_home(home)
    make_home(copy)
    source = home + "/Maildir"
    for number in range(2):
        deliver(source, f"170000000{number}.M1P1.x", "Subject: x\n\n" + str(number) * 100000)
    server = ["env", f"HOME={copy}", DSYNC, "-o", "mail_location=mdbox:~/mdbox", "server"]

    def room():
        return sum(os.path.getsize(f"{copy}/mdbox/storage/{name}") for name in os.listdir(copy + "/mdbox/storage")
                   if name.startswith("m."))

    until_done(lambda: dsync(home, "mirror", *server))
    os.unlink(source + "/new/1700000000.M1P1.x")
    until_done(lambda: dsync(home, "mirror", *server))
    assert room() > 200000
    until_done(lambda: dsync(home, "-P", "mirror", *server))
    assert 100000 < room() < 110000, room()


def failures(directory):
    home = directory + "/failing"
    make_home(home)
    deliver(home + "/Maildir", "1700000001.M1P1.x", "Subject: x\n\nx\n")
    for status, words, text in ((64, [], "LOCATION2 is missing"),
                                (64, ["mbox:/tmp/x"], "mbox: is not supported"),
                                (1, ["/no/such/script"], "No such file"),
                                (1, ["sh", "-c", "echo oops >&2; exit 7"], "oops"),
                                (1, ["sh", "-c", "echo hello; cat >/dev/null"], "hello"),
                                (1, ["maildir:/proc/nothing/here"], "/proc/nothing"),
                                (1, ["maildir:" + home + "/Maildir"], "itself"),
                                (64, ["tcp:localhost"], "-u"),
                                (64, ["maildir:/x", "-R"], "options stand before"),
                                (64, ["tcp:localhost:1", "-u", "x"], "options stand before")):
        result = dsync(home, "mirror", *words, expect=(status, 1))
        assert text in result.stderr, (words, result.stderr)
    assert "mail_locaton" in dsync(home, "-o", "mail_locaton=x", "mirror", "maildir:/x", expect=(78,)).stderr
    dsync(home, "-u", "nobody-such", "mirror", "maildir:/x", expect=(67,))


def main():
    with Directory() as directory:
        for step in (local_location, behind_a_command, only_some, removed_by_a_program, one_way, refused_before_anything,
                     made_independently, saved_states, dry_run, lost_uidlist, progress,
                     what_may_not_be_read_or_written, secrets_of_the_machine, only_the_tree, raw_log, purges_the_other_end, failures):
            step(directory)
            print("ok:", step.__name__)


if __name__ == "__main__":
    main()
