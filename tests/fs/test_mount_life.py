"""The mount's beginning and end: over itself, killed and started over the dead mount, SIGTERM under open files."""
import errno
import os
import resource
import signal
import socket
import subprocess
import threading
import time

from mount_fixture import DSYNCFS, Mount, dead, deliver, eventually, make_maildir, run_tests, write_file

ALICE = "example.org/alice"
CLEAN_SECS = 9  # a mailbox has left the dirty set by then


def over_itself():
    with Mount(over_itself=True) as mount:
        box = f"{mount.mount}/{ALICE}/Maildir"
        make_maildir(box)
        mount.events()
        deliver(box, "1.a")
        assert mount.events() == [("DELIVERED", ALICE, "Maildir", "1.a", "")]
        assert mount.kill(signal.SIGTERM) == 0
        # The plain tree is there.
        assert os.listdir(f"{box}/new") == ["1.a"]


def second_start_is_refused():
    with Mount() as mount:
        again = subprocess.run([DSYNCFS, "-f", "-o", f"state_dir={mount.state}2,home_depth=2", mount.backing,
                                mount.mount], capture_output=True, text=True, check=False, timeout=20)
        assert again.returncode == 69, again
        assert "already" in again.stderr, again.stderr
        assert mount.alive()


def killed_and_started_again(over_itself=False):
    with Mount(over_itself=over_itself) as mount:
        box = f"{mount.mount}/{ALICE}/Maildir"
        quiet = f"{mount.mount}/{ALICE}/Maildir/.Quiet"
        make_maildir(quiet)
        make_maildir(f"{mount.mount}/example.org/bob")
        mount.events()
        time.sleep(7)  # all of them leave the dirty set
        make_maildir(box)
        deliver(box, "1.a")
        mount.events()
        deliver(box, "1.b")  # on a slow machine the mailbox may have left the dirty set by now
        mount.kill()
        eventually("the mount is dead", lambda: dead(mount.mount))
        mount.start()
        events = mount.events()
        # Only what was being changed is scanned.
        rescans = {event[1:3] for event in events if event[0] == "RESCAN"}
        assert (ALICE, "Maildir") in rescans, events
        assert (ALICE, "Maildir/.Quiet") not in rescans and ("example.org/bob", "") not in rescans, events
        deliver(box, "2.b")
        assert mount.events() == [("DELIVERED", ALICE, "Maildir", "2.b", "")]
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            assert sum(f" {mount.mount} " in line for line in file) == 1


def killed_and_started_again_over_itself():
    killed_and_started_again(over_itself=True)


def nothing_gets_below_the_mount_when_it_is_started_again():
    """A program that goes on writing meanwhile must not reach the bare directory, where nobody would find its mail."""
    with Mount() as mount:
        halt, made = threading.Event(), []

        def write():
            number = 0
            while not halt.is_set():
                try:
                    os.close(os.open(f"{mount.mount}/{number}", os.O_WRONLY | os.O_CREAT))
                    made.append(str(number))
                except OSError:
                    pass
                number += 1

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(3):
                before = len(made)
                eventually("something is written", lambda: len(made) > before)
                mount.kill()
                eventually("the mount is dead", lambda: dead(mount.mount))
                mount.start()
        finally:
            halt.set()
            writer.join()
        lost = set(made) - set(os.listdir(mount.backing))
        assert not lost, lost
        mount.kill(signal.SIGTERM)
        assert os.listdir(mount.mount) == [], os.listdir(mount.mount)


def what_a_start_left_half_done_is_taken_down():
    """Killed between mounting aside and binding to the mount point."""
    with Mount() as mount:
        mount.kill(signal.SIGTERM)
        aside = mount.state + "/mount"
        assert not os.path.exists(aside)
        os.mkdir(aside)
        subprocess.run(["mount", "-t", "tmpfs", "none", aside], check=True)
        mount.start()
        # The tree is there a moment before.
        eventually("nothing is left aside", lambda: not os.path.exists(aside))
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            assert sum(mount.dir in line for line in file) == 1


def clean_end_needs_no_scan():
    with Mount() as mount:
        box = f"{mount.mount}/{ALICE}/Maildir"
        make_maildir(box)
        deliver(box, "1.a")
        mount.events()
        assert mount.kill(signal.SIGTERM) == 0
        assert not os.path.ismount(mount.mount)
        mount.start()
        events = mount.events()
        assert events == [], events


def service_manager_is_told():
    with Mount(start=False) as mount, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(mount.dir + "/notify")
        systemd.settimeout(10)
        os.environ.update(NOTIFY_SOCKET=mount.dir + "/notify", WATCHDOG_USEC="1000000")
        try:
            mount.start()
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]
        assert systemd.recv(100) == b"READY=1"
        assert systemd.recv(100) == b"WATCHDOG=1"
        assert mount.kill(signal.SIGTERM) == 0
        said = b"WATCHDOG=1"
        while said == b"WATCHDOG=1":
            said = systemd.recv(100)
        assert said == b"STOPPING=1"


def what_was_written_while_nothing_was_mounted():
    for cut in (False, True):
        with Mount() as mount:
            for folder in ("", "/.Work", "/.Flags", "/.Quiet"):
                make_maildir(f"{mount.mount}/{ALICE}/Maildir{folder}")
                deliver(f"{mount.mount}/{ALICE}/Maildir{folder}", "1.a")
            make_maildir(f"{mount.mount}/example.org/bob/Maildir")
            deliver(f"{mount.mount}/example.org/bob/Maildir", "1.a")
            mount.events()
            if cut:
                time.sleep(CLEAN_SECS)
            mount.kill(signal.SIGKILL if cut else signal.SIGTERM)
            if cut:  # what the next start does first
                subprocess.run(["umount", "-l", mount.mount], check=True)
            maildir = f"{mount.backing}/{ALICE}/Maildir"
            with open(f"{maildir}/.Quiet/dovecot.index.cache", "wb") as file:
                file.write(b"no mail")
            deliver(f"{maildir}/.Work", "2.b")
            os.rename(f"{maildir}/.Flags/new/1.a", f"{maildir}/.Flags/cur/1.a:2,S")
            os.unlink(f"{mount.backing}/example.org/bob/Maildir/new/1.a")
            mount.start()
            expected = {("RESCAN", ALICE, "Maildir/.Work"), ("RESCAN", ALICE, "Maildir/.Flags"),
                        ("RESCAN", "example.org/bob", "Maildir")}
            # The marker may have changed after the start, and before its stamp was compared.
            mount.take(lambda events: {(event[1], *event[3:5]) for event in events if event[3] != "marker/marker"} == expected)
            # The stamps are those of now.
            mount.kill(signal.SIGTERM)
            mount.start()
            time.sleep(0.3)
            assert not [event for event in mount.events() if event[1] != "marker/marker"]
            # A folder that nobody saw being made.
            mount.kill(signal.SIGTERM)
            make_maildir(f"{maildir}/.New")
            mount.start()
            mount.take(lambda events: ("RESCAN_HOME", ALICE, "", "", "") in [(event[1], *event[3:]) for event in events])


def sigterm_with_open_files():
    with Mount() as mount:
        box = f"{mount.mount}/{ALICE}/Maildir"
        make_maildir(box)
        deliver(box, "1.a", b"hello")
        file = os.open(f"{box}/new/1.a", os.O_RDWR)
        directory = os.open(f"{box}/new", os.O_RDONLY | os.O_DIRECTORY)
        direct = os.open(f"{box}/new/2.b", os.O_WRONLY | os.O_CREAT, 0o600)
        mount.events()
        start = time.monotonic()
        assert mount.kill(signal.SIGTERM) == 0
        assert time.monotonic() - start < 5
        assert not os.path.ismount(mount.mount)
        assert os.listdir(mount.mount) == []
        for call in (lambda: os.fsync(file), lambda: os.stat("x", dir_fd=directory), lambda: os.fsync(direct)):
            try:
                call()
            except OSError as error:
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
                continue
            raise AssertionError("a call on an old descriptor succeeded")
        try:
            os.write(direct, b"x")
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED), error
        else:  # the kernel passes it through to where it belongs
            with open(f"{mount.backing}/{ALICE}/Maildir/new/2.b", "rb") as behind:
                assert behind.read() == b"x"
        for fd in (file, directory, direct):
            try:
                os.close(fd)
            except OSError:
                pass
        mount.start()
        # The delivery that was cut short is looked at.
        assert ("RESCAN", ALICE, "Maildir", "", "") in mount.events()


def sigterm_under_load():
    """What was acknowledged is there and in the journal; nothing hangs."""
    with Mount() as mount:
        done = [[] for _ in range(4)]
        for i in range(4):
            make_maildir(f"{mount.mount}/example.org/u{i}")
        mount.events()

        def work(i):
            try:
                for n in range(100000):
                    deliver(f"{mount.mount}/example.org/u{i}", f"{n}.x")
                    done[i].append(f"{n}.x")
            except OSError:
                pass

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        assert mount.kill(signal.SIGTERM) == 0
        for thread in threads:
            thread.join(timeout=20)
            assert not thread.is_alive()
        told = {(event[3], event[5]) for event in mount.read_events() if event[1] == "DELIVERED"}
        for i in range(4):
            assert done[i]
            for name in done[i]:
                assert os.path.exists(f"{mount.backing}/example.org/u{i}/new/{name}"), name
                assert (f"example.org/u{i}", name) in told, name


def options_of_mount_hold():
    with Mount(options="ro,noexec,noatime") as mount:
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            options = next(line.split()[5] for line in file if f" {mount.mount} " in line)
        assert {"ro", "noexec", "noatime", "nosuid", "nodev"} <= set(options.split(",")), options
        try:
            os.mkdir(mount.mount + "/x")
        except OSError as error:
            assert error.errno == errno.EROFS, error
        else:
            raise AssertionError("written to a read-only mount")


def unmounted_by_hand():
    with Mount() as mount:
        subprocess.run(["umount", mount.mount], check=True)
        assert mount.process.wait(timeout=20) == 0
        mount.process = None


def background_start_returns_when_mounted():
    with Mount() as mount:
        mount.kill(signal.SIGTERM)
        subprocess.run([DSYNCFS, "-o", f"state_dir={mount.state},home_depth=2", mount.backing, mount.mount], check=True,
                       timeout=20)
        assert os.getxattr(mount.mount, "trusted.dsyncfs.version")
        subprocess.run(["umount", mount.mount], check=True)
        eventually("the daemon has ended", lambda: not lock_is_held(mount.state))


def lock_is_held(state):
    with open("/proc/locks", encoding="utf-8") as file:
        inode = str(os.stat(f"{state}/journal/fs.lock").st_ino)
        return any(line.split()[-3].split(":")[-1] == inode for line in file)


def bad_arguments():
    with Mount() as mount:
        mount.kill(signal.SIGTERM)
        for arguments, status, text in (
                ([mount.backing], 64, "usage"),
                (["-o", "nonsense", mount.backing, mount.mount], 64, "nonsense"),
                (["-o", "home_depth=x", mount.backing, mount.mount], 78, "home_depth"),
                (["-o", f"state_dir={mount.mount}/state", mount.backing, mount.mount], 78, "inside the mount"),
                (["-o", f"state_dir={mount.state}", mount.dir + "/none", mount.mount], 66, "none"),
                (["-o", f"state_dir={mount.state}", mount.backing, mount.dir + "/none"], 66, "none")):
            run = subprocess.run([DSYNCFS, "-f", *arguments], capture_output=True, text=True, check=False, timeout=20)
            assert (run.returncode, text in run.stderr) == (status, True), (arguments, run)


def many_files_and_few_descriptors():
    with Mount(files=256) as mount:
        count = 20000
        os.makedirs(f"{mount.backing}/{ALICE}")
        # Made before the mount knows of them, as an existing store is.
        mount.kill(signal.SIGTERM)
        make_maildir(f"{mount.backing}/{ALICE}/Maildir")
        for n in range(count):
            os.mknod(f"{mount.backing}/{ALICE}/Maildir/cur/{n}.x:2,S")
        for n in range(500):
            make_maildir(f"{mount.backing}/{ALICE}/Maildir/.f{n}")
        mount.start()
        for _ in range(2):
            with os.scandir(f"{mount.mount}/{ALICE}/Maildir/cur") as entries:
                assert sum(entry.stat().st_size == 0 for entry in entries) == count
            for n in range(500):
                assert os.listdir(f"{mount.mount}/{ALICE}/Maildir/.f{n}/cur") == []
        descriptors = len(os.listdir(f"/proc/{mount.process.pid}/fd"))
        assert descriptors < 128, descriptors
        assert os.listdir(f"{mount.mount}/{ALICE}/Maildir/.f499") != []


def a_name_is_made_and_said_to_be_or_neither():
    """Without file handles a known file costs a descriptor, which there may be none of when its name has been made."""
    with Mount(start=False, files=256) as mount:
        subprocess.run(["mount", "-t", "ramfs", "none", mount.backing], check=True)
        try:
            mount.start()
            box = f"{mount.mount}/{ALICE}/Maildir"
            make_maildir(box)
            write_file(f"{box}/tmp/1.a")
            made = set()

            def make(name, call):
                try:
                    call(f"{box}/new/{name}")
                except OSError as error:
                    assert error.errno == errno.EMFILE, error
                    return False
                made.add(name)
                return True

            count = 0
            while make(f"{count}.x", write_file):
                count += 1
            for n in range(4):
                make(f"{n}.link", lambda path: os.link(f"{box}/tmp/1.a", path))
                make(f"{n}.y", write_file)
            assert set(os.listdir(f"{mount.backing}/{ALICE}/Maildir/new")) == made
            assert count > 100
            for n in range(20):
                os.unlink(f"{box}/new/{n}.x")
            eventually("there are descriptors again", lambda: make("last.link",
                       lambda path: os.link(f"{box}/tmp/1.a", path)))
            assert os.stat(f"{box}/new/last.link").st_nlink == os.stat(f"{box}/tmp/1.a").st_nlink
            assert os.stat(f"{box}/new/last.link").st_nlink == 1 + sum(name.endswith(".link") for name in made)
            eventually("all that was made is told, and no more", lambda: made == {
                event[5] for event in mount.read_events() if event[1] == "DELIVERED"})
            assert mount.kill(signal.SIGTERM) == 0
        finally:
            subprocess.run(["umount", "-l", mount.backing], check=True)


def read_only_backing_is_said():
    with Mount() as mount:
        mount.kill(signal.SIGTERM)
        subprocess.run(["mount", "--bind", mount.backing, mount.backing], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", mount.backing], check=True)
        try:
            mount.start()
            try:
                os.mkdir(mount.mount + "/x")
            except OSError as error:
                assert error.errno == errno.EROFS
            else:
                raise AssertionError("written to a read-only directory")
            with open(mount.log, encoding="utf-8") as file:
                text = file.read()
            assert "the backing directory is read-only" in text, text
            assert mount.kill(signal.SIGTERM) == 0
        finally:
            subprocess.run(["umount", "-l", mount.backing], check=True)


def full_disk_is_said_and_passes():
    with Mount(start=False) as mount:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", mount.backing], check=True)
        try:
            mount.start()
            box = f"{mount.mount}/{ALICE}/Maildir"
            make_maildir(box)
            # A log's write comes to the daemon, even where the kernel passes mail through.
            for name in ("tmp/1.big", "dovecot.index.log"):
                try:
                    write_file(f"{box}/{name}", b"x" * (2 << 20))
                except OSError as error:
                    assert error.errno == errno.ENOSPC, error
                else:
                    raise AssertionError("more was written than there is room for")
            for name in ("tmp/1.big", "dovecot.index.log"):
                os.unlink(f"{box}/{name}")
            # The kernel tells of the last close and of the end of an inode after the calls have returned.
            eventually("there is room again", lambda: os.statvfs(mount.backing).f_bavail > 0)
            deliver(box, "2.b")
            with open(mount.log, encoding="utf-8") as file:
                text = file.read()
            assert "No space left on device" in text, text
            events = mount.events()
            assert ("DELIVERED", ALICE, "Maildir", "2.b", "") in events and not any(e[3] == "1.big" for e in events)
            assert mount.kill(signal.SIGTERM) == 0
        finally:
            subprocess.run(["umount", "-l", mount.backing], check=True)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    run_tests([
        over_itself,
        second_start_is_refused,
        killed_and_started_again,
        killed_and_started_again_over_itself,
        nothing_gets_below_the_mount_when_it_is_started_again,
        what_a_start_left_half_done_is_taken_down,
        clean_end_needs_no_scan,
        service_manager_is_told,
        what_was_written_while_nothing_was_mounted,
        sigterm_with_open_files,
        sigterm_under_load,
        options_of_mount_hold,
        unmounted_by_hand,
        background_start_returns_when_mounted,
        bad_arguments,
        many_files_and_few_descriptors,
        a_name_is_made_and_said_to_be_or_neither,
        read_only_backing_is_said,
        full_disk_is_said_and_passes,
    ])
