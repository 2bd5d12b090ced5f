"""Kernel pass-through: the data of mail goes past the daemon, what it must see does not, and nobody can tell the two
apart. Where library or kernel have no pass-through there is nothing to test."""
import errno
import fcntl
import mmap
import os
import platform
import random
import subprocess
import threading
import time

from mount_fixture import Mount, deliver, eventually, make_maildir, need_mounts, run_tests, skip, write_file

ALICE = "example.org/alice"
COPIED = ("dovecot.index.log", "dovecot.list.index.log", "dovecot.mailbox.log", "dovecot-uidlist", "dovecot-keywords",
          "subscriptions")


def need_passthrough():
    need_mounts()
    library = subprocess.run(["pkg-config", "--modversion", "fuse3"], capture_output=True, text=True, check=True).stdout
    if tuple(int(part) for part in library.split(".")[:2]) < (3, 17):
        skip(f"libfuse {library.strip()} has no pass-through, 3.17 has")
    if tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2]) < (6, 9):
        skip(f"Linux {platform.release()} has no pass-through, 6.9 has")


def start(mount):
    box = f"{mount.mount}/{ALICE}/Maildir"
    make_maildir(box)
    mount.events()
    return box


def data_goes_past_the_daemon():
    """An open file that is passed through needs no daemon any more; one that is copied does."""
    with Mount() as mount:
        box = start(mount)
        deliver(box, "1.a", b"hello")
        mail = os.open(f"{box}/new/1.a", os.O_RDWR)
        made = os.open(f"{box}/tmp/2.b", os.O_RDWR | os.O_CREAT, 0o600)
        unnamed = os.open(f"{box}/tmp", os.O_RDWR | os.O_TMPFILE, 0o600)
        copied = [os.open(f"{box}/{name}", os.O_RDWR | os.O_CREAT, 0o600) for name in COPIED]
        mount.kill()
        for fd in (mail, made, unnamed):
            assert os.pwrite(fd, b"J", 0) == 1 and os.pread(fd, 1, 0) == b"J"
        with open(f"{mount.backing}/{ALICE}/Maildir/new/1.a", "rb") as file:
            assert file.read() == b"Jello"
        for name, fd in zip(COPIED, copied):
            try:
                os.write(fd, b"x")
            except OSError as error:
                assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED), (name, error)
                continue
            raise AssertionError(f"{name} is written to without a word to the daemon")


def files_that_writers_share_are_never_passed_through():
    """mdbox's m.N are appended to under a lock that is the mount's. A process that outlives its mount has lost it and
    cannot write any more, whoever opened the file first and under whatever name, when the next one gets the lock."""
    with Mount() as mount:
        storage = f"{mount.mount}/{ALICE}/mdbox/storage"
        os.makedirs(storage)
        writers = {}
        writers["m.1"] = os.open(f"{storage}/m.1", os.O_RDWR | os.O_CREAT, 0o600)
        # Somebody reads it already.
        write_file(f"{storage}/m.2", b"")
        reader = os.open(f"{storage}/m.2", os.O_RDONLY)
        writers["m.2"] = os.open(f"{storage}/m.2", os.O_RDWR)
        # As Dovecot makes one, which it goes on writing to.
        made = f"{storage}/.temp.1795.P44Q1M2.host"
        writers["m.3"] = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.rename(made, f"{storage}/m.3")
        for fd in writers.values():
            fcntl.flock(fd, fcntl.LOCK_EX)
            assert os.write(fd, b"one") == 3
        mount.kill()
        mount.start()
        for name, old in writers.items():
            fd = os.open(f"{storage}/{name}", os.O_RDWR | os.O_APPEND)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert os.write(fd, b" two") == 4
            for attempt in ((os.write, b" LATE"), (os.pwrite, b"LATE", 0), (os.ftruncate, 0)):
                try:
                    attempt[0](old, *attempt[1:])
                except OSError as error:
                    assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED), (name, error)
                    continue
                raise AssertionError(f"{name} is written to by a process that has lost its lock")
            os.close(old)
            os.close(fd)
            with open(f"{mount.backing}/{ALICE}/mdbox/storage/{name}", "rb") as file:
                assert file.read() == b"one two", name
        os.close(reader)


def no_request_for_data():
    with Mount(options="debug") as mount:
        box = start(mount)
        deliver(box, "1.a", b"x" * 3_000_000)
        for _ in range(3):
            with open(f"{box}/new/1.a", "rb") as file:
                assert len(file.read()) == 3_000_000
        with open(mount.log, encoding="utf-8", errors="replace") as file:
            text = file.read()
        assert "opcode: READ (" not in text and "opcode: WRITE (" not in text
        write_file(f"{box}/dovecot.index.log")
        eventually("the log's write", lambda: "opcode: WRITE (" in open(mount.log, encoding="utf-8", errors="replace").read())


def deliveries_are_seen():
    with Mount() as mount:
        box = start(mount)
        fd = os.open(f"{box}/tmp/1.a", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(fd, b"Subject: x\n\n")
        os.fsync(fd)
        os.rename(f"{box}/tmp/1.a", f"{box}/new/1.a")
        os.close(fd)
        write_file(f"{box}/new/2.b")
        os.rename(f"{box}/new/1.a", f"{box}/cur/1.a:2,S")
        os.unlink(f"{box}/new/2.b")
        assert mount.events() == [
            ("DELIVERED", ALICE, "Maildir", "1.a", ""),
            ("DELIVERED", ALICE, "Maildir", "2.b", ""),
            ("RENAMED", ALICE, "Maildir", "1.a", "1.a:2,S"),
            ("REMOVED", ALICE, "Maildir", "2.b", ""),
        ]


def all_see_what_is_written():
    with Mount() as mount:
        path, backing = f"{mount.mount}/a", f"{mount.backing}/a"
        one, other = os.open(path, os.O_RDWR | os.O_CREAT, 0o600), os.open(path, os.O_RDWR | os.O_APPEND)

        def same(text):
            with open(path, "rb") as file, open(backing, "rb") as behind:
                assert os.pread(one, 100, 0) == os.pread(other, 100, 0) == file.read() == behind.read() == text
            assert os.stat(path).st_size == os.fstat(one).st_size == os.fstat(other).st_size == len(text)
            assert os.stat(path).st_mtime_ns == os.stat(backing).st_mtime_ns
            assert os.stat(path).st_blocks == os.stat(backing).st_blocks

        os.write(one, b"0123456789")
        same(b"0123456789")
        os.write(other, b"abc")
        same(b"0123456789abc")
        os.truncate(path, 4)
        same(b"0123")
        os.ftruncate(one, 6)
        same(b"0123\0\0")
        os.pwrite(one, b"45", 4)
        os.posix_fadvise(one, 0, 0, os.POSIX_FADV_WILLNEED)
        same(b"012345")
        with mmap.mmap(one, 6) as mapped:
            assert mapped[:] == b"012345"
            mapped[0:2] = b"ab"
            assert os.pread(other, 6, 0) == b"ab2345"
        os.fsync(one)
        os.posix_fallocate(one, 0, 9)
        same(b"ab2345\0\0\0")
        copy = os.open(f"{mount.mount}/b", os.O_RDWR | os.O_CREAT, 0o600)
        assert os.copy_file_range(one, copy, 4, 0, 0) == 4
        assert os.lseek(copy, 0, os.SEEK_END) == 4 and os.sendfile(copy, one, 4, 2) == 2
        assert os.pread(copy, 10, 0) == b"ab2345"
        os.close(os.open(path, os.O_RDWR | os.O_TRUNC))
        same(b"")
        with open(backing, "wb") as behind:
            behind.write(b"past the mount")
        assert os.pread(one, 100, 0) == b"past the mount"


def a_rename_does_not_mix_the_two():
    with Mount() as mount:
        box = start(mount)
        log = f"{box}/dovecot.index.log"
        # Passed through, and a log's name since.
        fd = os.open(f"{box}/x", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, b"1")
        os.rename(f"{box}/x", log)
        mount.events()
        second = os.open(log, os.O_RDWR | os.O_APPEND)
        os.write(second, b"2")
        os.pwrite(fd, b"3", 2)
        with open(log, "rb") as file:
            assert file.read() == b"123"
        os.close(fd)
        os.close(second)
        # What was not seen is told when they are closed.
        eventually("the writes are told", lambda: ("TOUCHED", ALICE, "Maildir", "", "") in mount.events())
        with open(log, "ab", buffering=0) as file:
            file.write(b"4")
            assert mount.events() == [("TOUCHED", ALICE, "Maildir", "", "")]
            # Copied, and no log's name since.
            os.rename(log, f"{box}/y")
            mount.events()
            with open(f"{box}/y", "ab", buffering=0) as other:
                other.write(b"5")
            file.write(b"6")
        with open(f"{box}/y", "rb") as file:
            assert file.read() == b"123456"
        # Passed through now, and what was kept of it before is not seen again.
        with open(f"{box}/y", "r+b", buffering=0) as file:
            file.write(b"abc")
        os.rename(f"{box}/y", log)
        with open(log, "rb") as file:
            assert file.read() == b"abc456"


def many_openers_and_renames():
    """Whoever opens, at whatever moment: no call fails, and no byte is lost."""
    with Mount() as mount:
        box = start(mount)
        names = [f"{box}/dovecot.index.log", f"{box}/y"]
        write_file(names[0], b"")
        written, trouble, end = [0] * 4, [], time.monotonic() + 2

        def use(number):
            rand = random.Random(number)
            try:
                while time.monotonic() < end:
                    try:
                        fd = os.open(rand.choice(names), os.O_RDWR | os.O_APPEND)
                    except FileNotFoundError:
                        continue
                    written[number] += os.write(fd, b"x")
                    os.pread(fd, 10, 0)
                    os.close(fd)
            except OSError as error:
                trouble.append(error)

        threads = [threading.Thread(target=use, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        while time.monotonic() < end:
            os.rename(*names)
            names.reverse()
            time.sleep(0.001)
        for thread in threads:
            thread.join()
        assert not trouble, trouble
        with open(names[0], "rb") as file:
            assert len(file.read()) == sum(written) > 100, written


def what_cannot_be_passed_through_is_copied():
    """A mount that is passed through itself is one layer too many for the kernel: it refuses, once for all files."""
    with Mount() as below:
        above = Mount()
        above.backing = below.mount + "/backing"
        os.mkdir(above.backing)
        with above:
            box = start(above)
            for number in range(3):
                deliver(box, f"{number}.a", b"hello")
                with open(f"{box}/new/{number}.a", "rb") as file:
                    assert file.read() == b"hello"
            with open(above.log, encoding="utf-8") as file:
                text = file.read()
            assert text.count("they are copied") == 1, text
            assert len(above.events()) == 3
            mail = os.open(f"{box}/new/0.a", os.O_RDWR)
            above.kill()
            try:
                os.write(mail, b"x")
            except OSError:
                return
            raise AssertionError("it is passed through all the same")


if __name__ == "__main__":
    need_passthrough()
    run_tests([
        data_goes_past_the_daemon,
        files_that_writers_share_are_never_passed_through,
        no_request_for_data,
        deliveries_are_seen,
        all_see_what_is_written,
        a_rename_does_not_mix_the_two,
        many_openers_and_renames,
        what_cannot_be_passed_through_is_copied,
    ])
