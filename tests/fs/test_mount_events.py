"""Programs deliver, flag, move and remove mail on a real mount; the journal says what they did."""
import os
import shutil
import subprocess
import threading

from mount_fixture import Mount, as_user, deliver, make_maildir, run_tests, write_file

ALICE = "example.org/alice"


def start(mount, box="Maildir", uid=None):
    home = f"{mount.mount}/{ALICE}"
    make_maildir(f"{home}/{box}" if box else home, uid)
    if uid is not None:
        os.chown(home, uid, uid)
    mount.events()
    return f"{home}/{box}" if box else home


def delivery_by_rename_and_link():
    with Mount() as mount:
        box = start(mount)
        deliver(box, "1.a")
        write_file(f"{box}/tmp/2.b")
        os.link(f"{box}/tmp/2.b", f"{box}/new/2.b")
        os.unlink(f"{box}/tmp/2.b")
        write_file(f"{box}/new/3.c")
        assert mount.events() == [
            ("DELIVERED", ALICE, "Maildir", "1.a", ""),
            ("DELIVERED", ALICE, "Maildir", "2.b", ""),
            ("DELIVERED", ALICE, "Maildir", "3.c", ""),
        ]
        with open(f"{mount.backing}/{ALICE}/Maildir/new/1.a", "rb") as file:
            assert file.read() == b"Subject: x\n\nx\n"


def delivery_by_a_shell():
    """It opens the file, makes it the command's output, and closes what it opened before the command writes."""
    with Mount() as mount:
        box = start(mount)
        with subprocess.Popen(["sh", "-c", f"(echo ready >&2; read word; echo \"$word\") > {box}/new/1.a"],
                              stdin=subprocess.PIPE, stderr=subprocess.PIPE) as shell:
            assert shell.stderr.readline() == b"ready\n"
            assert mount.events() == []
            shell.stdin.write(b"mail\n")
        assert mount.take(bool) and mount.events() == []
        with open(f"{mount.backing}/{ALICE}/Maildir/new/1.a", "rb") as file:
            assert file.read() == b"mail\n"
        # Nothing at all is a delivery as well.
        subprocess.run(["sh", "-c", f": > {box}/new/2.b"], check=True)
        events = mount.take(bool)
        assert [event[1:] for event in events] == [("DELIVERED", 0, ALICE, "Maildir", "2.b", "")], events


def delivery_written_to_after_a_close():
    with Mount() as mount:
        box = start(mount)
        fd = os.open(f"{box}/new/1.a", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, b"half")
        os.close(os.dup(fd))
        told = ("DELIVERED", ALICE, "Maildir", "1.a", "")
        assert mount.events() == [told]
        os.utime(fd, (1000, 1000))
        os.close(os.dup(fd))
        assert mount.events() == []
        os.write(fd, b"whole")
        os.close(fd)
        assert mount.events() == [told]
        with open(mount.log, encoding="utf-8") as file:
            lines = [line for line in file if "written to" in line]
        assert len(lines) == 1 and f"home={ALICE} directory=Maildir file=1.a" in lines[0], lines


def home_is_the_maildir():
    with Mount() as mount:
        box = start(mount, box="")
        deliver(box, "1.a")
        assert mount.events() == [("DELIVERED", ALICE, "", "1.a", "")]


def flags_seen_expunge_move():
    with Mount() as mount:
        box = start(mount)
        make_maildir(f"{box}/.Work")
        assert mount.events() == [("DIR_CREATED", ALICE, "Maildir/.Work", "", "")]
        for name in ("1.a", "2.b", "3.c"):
            deliver(box, name)
        mount.events()
        os.rename(f"{box}/new/1.a", f"{box}/cur/1.a:2,")
        os.rename(f"{box}/cur/1.a:2,", f"{box}/cur/1.a:2,S")
        os.rename(f"{box}/new/2.b", f"{box}/.Work/cur/2.b:2,")
        os.rename(f"{box}/new/3.c", f"{box}/cur/1.a:2,S")
        os.unlink(f"{box}/cur/1.a:2,S")
        assert mount.events() == [
            ("RENAMED", ALICE, "Maildir", "1.a", "1.a:2,"),
            ("RENAMED", ALICE, "Maildir", "1.a:2,", "1.a:2,S"),
            ("REMOVED", ALICE, "Maildir", "2.b", ""),
            ("DELIVERED", ALICE, "Maildir/.Work", "2.b:2,", ""),
            ("REMOVED", ALICE, "Maildir", "1.a:2,S", ""),
            ("RENAMED", ALICE, "Maildir", "3.c", "1.a:2,S"),
            ("REMOVED", ALICE, "Maildir", "1.a:2,S", ""),
        ]


def rename_between_links_of_one_file_is_nothing():
    with Mount() as mount:
        box = start(mount)
        deliver(box, "1.a")
        os.link(f"{box}/new/1.a", f"{box}/cur/1.a:2,S")
        mount.events()
        os.rename(f"{box}/new/1.a", f"{box}/cur/1.a:2,S")
        assert os.path.exists(f"{box}/new/1.a")
        assert mount.events() == []


def what_failed_is_not_observed():
    with Mount() as mount:
        box = start(mount)
        for call in (lambda: os.rename(f"{box}/tmp/none", f"{box}/new/none"), lambda: os.unlink(f"{box}/cur/none"),
                     lambda: os.rmdir(f"{box}/none"), lambda: os.rmdir(box)):
            try:
                call()
            except OSError:
                continue
            raise AssertionError("it should have failed")
        assert mount.events() == []


def uidlist_keywords_logs_and_lists():
    with Mount() as mount:
        box = start(mount)
        write_file(f"{box}/dovecot-uidlist.lock")
        mount.events()
        os.rename(f"{box}/dovecot-uidlist.lock", f"{box}/dovecot-uidlist")
        assert mount.events() == [("TOUCHED", ALICE, "Maildir", "", "")]
        with open(f"{box}/dovecot-uidlist", "ab", buffering=0) as file:
            file.write(b"1 :1.a\n")
        assert mount.events() == [("TOUCHED", ALICE, "Maildir", "", "")]
        write_file(f"{box}/dovecot-uidlist.lock")
        mount.events()
        os.unlink(f"{box}/dovecot-uidlist.lock")
        assert mount.events() == [("TOUCHED", ALICE, "Maildir", "", "")]
        # Dovecot makes .log.newlock, renames it and goes on to write by the descriptor it has.
        log = os.open(f"{box}/dovecot.index.log.newlock", os.O_RDWR | os.O_CREAT, 0o600)
        os.rename(f"{box}/dovecot.index.log.newlock", f"{box}/dovecot.index.log")
        mount.events()
        os.write(log, b"x" * 40)
        assert mount.events() == [("TOUCHED", ALICE, "Maildir", "", "")]
        os.close(log)
        write_file(f"{box}/subscriptions.tmp")
        os.rename(f"{box}/subscriptions.tmp", f"{box}/subscriptions")
        assert mount.events() == [("LIST_TOUCHED", ALICE, "Maildir", "", "")]
        # What is no mail.
        for name in ("dovecot.index.cache", "dovecot.index", "dovecot.list.index.log", "x"):
            write_file(f"{box}/{name}")
        assert mount.events() == []


def log_of_a_renamed_folder():
    with Mount() as mount:
        box = start(mount)
        make_maildir(f"{box}/.Work")
        log = os.open(f"{box}/.Work/dovecot.index.log", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(log, b"x")
        mount.events()
        os.rename(f"{box}/.Work", f"{box}/.Play")
        os.write(log, b"y")
        deliver(f"{box}/.Play", "1.a")
        assert mount.events() == [
            ("DIR_RENAMED", ALICE, "Maildir/.Work", "Maildir/.Play", ""),
            ("TOUCHED", ALICE, "Maildir/.Play", "", ""),
            ("DELIVERED", ALICE, "Maildir/.Play", "1.a", ""),
        ]
        os.close(log)


def rename_of_a_parent_moves_all_below():
    with Mount() as mount:
        box = start(mount, "mail")
        for path in ("a/b/c", "a/b/d"):
            make_maildir(f"{box}/{path}")
        fd = os.open(f"{box}/a/b/c/new", os.O_RDONLY)  # known to the kernel, also by descriptor
        mount.events()
        os.rename(f"{box}/a", f"{box}/z")
        deliver(f"{box}/z/b/c", "1.a")
        os.rename(f"{box}/z/b", f"{box}/y")
        deliver(f"{box}/y/d", "2.b")
        write_file(f"/proc/self/fd/{fd}/3.c")
        os.close(fd)
        assert mount.events() == [
            ("DIR_RENAMED", ALICE, "mail/a", "mail/z", ""),
            ("DELIVERED", ALICE, "mail/z/b/c", "1.a", ""),
            ("DIR_RENAMED", ALICE, "mail/z/b", "mail/y", ""),
            ("DELIVERED", ALICE, "mail/y/d", "2.b", ""),
            ("DELIVERED", ALICE, "mail/y/c", "3.c", ""),
        ]


def folders_removed_and_homes_renamed():
    with Mount() as mount:
        box = start(mount)
        make_maildir(f"{box}/.Work")
        deliver(f"{box}/.Work", "1.a")
        mount.events()
        os.rename(f"{box}/.Work", f"{box}/..DOVECOT-TRASHED")
        shutil.rmtree(f"{box}/..DOVECOT-TRASHED")
        events = mount.events()
        assert events == [
            ("DIR_RENAMED", ALICE, "Maildir/.Work", "Maildir/..DOVECOT-TRASHED", ""),
            ("REMOVED", ALICE, "Maildir/..DOVECOT-TRASHED", "1.a", ""),
            ("DIR_REMOVED", ALICE, "Maildir/..DOVECOT-TRASHED", "", ""),
        ], events
        os.rename(f"{mount.mount}/{ALICE}", f"{mount.mount}/example.org/alicia")
        assert mount.events() == [("RESCAN_HOME", ALICE, "", "", ""), ("RESCAN_HOME", "example.org/alicia", "", "", "")]
        os.rename(f"{mount.mount}/example.org", f"{mount.mount}/example.net")
        assert mount.events() == [("RESCAN_HOME", "example.org/alicia", "", "", ""),
                                  ("RESCAN_HOME", "example.net/alicia", "", "", "")]
        shutil.rmtree(f"{mount.mount}/example.net/alicia")
        assert mount.events()[-1] == ("RESCAN_HOME", "example.net/alicia", "", "", "")


def moves_of_homes_outlive_a_crash():
    """They are in the journal when they are answered: no mailbox is dirty that would say so at the next start."""
    for old, new in ((ALICE, "example.org/alicia"), ("example.org", "example.net")):
        with Mount() as mount:
            start(mount)
            os.rename(f"{mount.mount}/{old}", f"{mount.mount}/{new}")
            mount.kill()
            homes = [event[3] for event in mount.read_events() if event[1] == "RESCAN_HOME"]
            assert homes == [ALICE, ALICE.replace(old, new)], homes


def removals_while_their_folder_is_renamed():
    """Each event names what the folder is called at that position of the journal."""
    with Mount() as mount:
        box = start(mount)
        make_maildir(f"{box}/.Work")
        names = [f"{number}.x" for number in range(500)]
        for name in names:
            write_file(f"{box}/.Work/cur/{name}")
        cur = os.open(f"{box}/.Work/cur", os.O_RDONLY)
        mount.events()
        done = threading.Event()

        def rename():
            at, to = ".Work", ".Play"
            while not done.is_set():
                os.rename(f"{box}/{at}", f"{box}/{to}")
                at, to = to, at

        renamer = threading.Thread(target=rename)
        renamer.start()
        try:
            for name in names:
                os.unlink(name, dir_fd=cur)
        finally:
            done.set()
            renamer.join()
            os.close(cur)
        at, removed = "Maildir/.Work", []
        for kind, home, directory, name, _ in mount.events():
            if kind == "DIR_RENAMED":
                assert directory == at, (directory, at)
                at = name
            elif kind == "REMOVED":
                assert directory == at, (name, directory, at)
                removed.append(name)
        assert removed == names


def origin_of_a_worker():
    with Mount() as mount:
        box = start(mount, uid=5000)

        def work():
            os.setxattr(mount.mount, "trusted.dsyncfs.origin", b"17")
            os.setgid(5000)
            os.setuid(5000)
            deliver(box, "1.a")

        as_user(0, 0, work)
        deliver(box, "2.b")
        assert mount.origins() == [17, 0]

        def pretend():
            try:
                os.setxattr(mount.mount, "trusted.dsyncfs.origin", b"18")
            except PermissionError:
                return
            raise AssertionError("only root may announce an origin")

        as_user(5000, 5000, pretend)
        assert os.getxattr(mount.mount, "trusted.dsyncfs.version")
        assert "trusted.dsyncfs.origin" not in os.listxattr(mount.backing)
        for value in (b"x", b"", b"99999999999"):
            try:
                os.setxattr(mount.mount, "trusted.dsyncfs.origin", value)
            except OSError:
                continue
            raise AssertionError(f"taken: {value}")


if __name__ == "__main__":
    run_tests([
        delivery_by_rename_and_link,
        delivery_by_a_shell,
        delivery_written_to_after_a_close,
        home_is_the_maildir,
        flags_seen_expunge_move,
        rename_between_links_of_one_file_is_nothing,
        what_failed_is_not_observed,
        uidlist_keywords_logs_and_lists,
        log_of_a_renamed_folder,
        rename_of_a_parent_moves_all_below,
        folders_removed_and_homes_renamed,
        moves_of_homes_outlive_a_crash,
        removals_while_their_folder_is_renamed,
        origin_of_a_worker,
    ])
