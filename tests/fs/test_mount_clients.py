"""Several processes on one mount: uids, locks, mappings, files replaced and removed while open, large folders that
change while they are read."""
import errno
import fcntl
import mmap
import os
import random
import select
import signal
import subprocess
import time

from mount_fixture import Mount, as_user, deliver, eventually, make_maildir, run_tests, write_file


class Parent:
    """What a child sees of the process that started it."""

    def __init__(self, read, write):
        self.read, self.write = read, write

    def say(self):
        os.write(self.write, b"\n")

    def wait(self):
        os.read(self.read, 1)

    def has_spoken(self):
        return select.select([self.read], [], [], 0)[0]


class Child:
    """Runs call() in a child beside this process, which gives it a line to go on and waits for its end."""

    def __init__(self, call, *args):
        self.from_child, write = os.pipe()
        read, self.to_child = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                call(Parent(read, write), *args)
                status = 0
            except BaseException as error:  # the parent tells
                os.write(write, repr(error).encode())
            finally:
                os._exit(status)
        os.close(write)
        os.close(read)

    def wait(self):
        """Until it says that it has got somewhere."""
        said = os.read(self.from_child, 4096)
        assert said == b"\n", said

    def go(self):
        try:
            os.write(self.to_child, b"\n")
        except BrokenPipeError:
            raise AssertionError(os.read(self.from_child, 4096)) from None

    def end(self):
        os.close(self.to_child)
        said = os.read(self.from_child, 4096)
        os.close(self.from_child)
        assert os.waitpid(self.pid, 0)[1] == 0, said


def refused(number, call):
    try:
        call()
    except OSError as error:
        assert error.errno == number, error
        return
    raise AssertionError(f"it should have failed with {errno.errorcode[number]}")


def content(path):
    with open(path, "rb") as file:
        return file.read()


def mail_uids_at_once():
    """Eight users' processes deliver at once; each file is its owner's, and nobody reads another's."""
    with Mount() as mount:
        users = range(5000, 5008)
        os.mkdir(f"{mount.mount}/example.org")
        for uid in users:
            make_maildir(f"{mount.mount}/example.org/u{uid}", uid)
            os.chmod(f"{mount.mount}/example.org/u{uid}", 0o700)

        def work(parent, uid):
            os.setgroups([9000])
            os.setgid(uid)
            os.setuid(uid)
            parent.say()
            parent.wait()
            for n in range(200):
                deliver(f"{mount.mount}/example.org/u{uid}", f"{n}.x")
            other = 5000 + (uid + 1) % 8
            refused(errno.EACCES, lambda: os.listdir(f"{mount.mount}/example.org/u{other}/new"))
            refused(errno.EACCES, lambda: write_file(f"{mount.mount}/example.org/u{other}/tmp/x"))

        children = [Child(work, uid) for uid in users]
        for child in children:
            child.wait()
        for child in children:
            child.go()
        for child in children:
            child.end()
        for uid in users:
            names = os.listdir(f"{mount.backing}/example.org/u{uid}/new")
            assert len(names) == 200
            for name in names:
                st = os.stat(f"{mount.backing}/example.org/u{uid}/new/{name}")
                assert (st.st_uid, st.st_gid) == (uid, uid), (uid, name, st)


def group_by_supplementary_groups_only():
    """A shared folder: its group is none of the callers' own; the setgid bit hands it on."""
    with Mount() as mount:
        box = f"{mount.mount}/example.org/shared"
        make_maildir(box)
        for path in (f"{mount.mount}/example.org", box, f"{box}/cur", f"{box}/new", f"{box}/tmp"):
            os.chown(path, 4000, 9000)
            os.chmod(path, 0o2770)
        os.umask(0o007)
        for uid in (5000, 6000):
            as_user(uid, uid, lambda n=uid: deliver(box, f"{n}.x"), groups=[8000, 9000])
            st = os.stat(f"{mount.backing}/example.org/shared/new/{uid}.x")
            assert (st.st_uid, st.st_gid) == (uid, 9000), st
        # Another member takes it away; a stranger does not get in.
        as_user(6000, 6000, lambda: os.rename(f"{box}/new/5000.x", f"{box}/cur/5000.x:2,S"), groups=[9000])
        as_user(7000, 7000, lambda: refused(errno.EACCES, lambda: os.listdir(f"{box}/cur")), groups=[8000])
        os.umask(0o022)


def locks_of_two_processes():
    """fcntl ranges, flock and OFD locks between two processes; a lock goes with its process."""
    with Mount() as mount:
        path = mount.mount + "/dovecot.index.log"
        write_file(path, b"x" * 100)

        def holder(parent):
            file = os.open(path, os.O_RDWR)
            fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
            fcntl.flock(file, fcntl.LOCK_SH)
            parent.say()
            parent.wait()
            parent.say()  # and is killed

        child = Child(holder)
        child.wait()
        file = os.open(path, os.O_RDWR)
        refused(errno.EAGAIN, lambda: fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5))
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 50)
        refused(errno.EWOULDBLOCK, lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB))
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.kill(child.pid, signal.SIGKILL)
        os.waitpid(child.pid, 0)
        start = time.monotonic()
        fcntl.lockf(file, fcntl.LOCK_EX, 100, 0)
        fcntl.flock(file, fcntl.LOCK_EX)
        assert time.monotonic() - start < 1
        os.close(file)


def waiting_for_a_lock_blocks_nobody():
    """More processes wait for one lock than the mount has threads; it serves on."""
    with Mount() as mount:
        path = mount.mount + "/lock"
        write_file(path)
        file = os.open(path, os.O_RDWR)
        fcntl.lockf(file, fcntl.LOCK_EX)

        def waiter(parent):
            own = os.open(path, os.O_RDWR)
            parent.say()
            fcntl.lockf(own, fcntl.LOCK_EX)
            os.pwrite(own, bytes([os.pread(own, 1, 0)[0] + 1]), 0)
            fcntl.lockf(own, fcntl.LOCK_UN)

        os.pwrite(file, b"\0", 0)
        children = [Child(waiter) for _ in range(20)]
        for child in children:
            child.wait()
        time.sleep(0.1)
        for n in range(100):
            write_file(f"{mount.mount}/{n}")
        fcntl.lockf(file, fcntl.LOCK_UN)
        for child in children:
            child.end()
        assert content(path)[0] == 20
        os.close(file)


def shared_mappings():
    """Two processes map one file; what one stores the other loads, reads, and finds on the disk."""
    with Mount() as mount:
        for name in ("dovecot.index", "dovecot.index.log", "dovecot-uidlist"):
            path = f"{mount.mount}/{name}"
            write_file(path, b"\0" * 8192)

            def other(parent, path=path):
                with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapping:
                    parent.say()
                    parent.wait()
                    assert mapping[4096:4101] == b"first"
                    mapping[100:106] = b"second"
                    # The file may also be written where it is mapped.
                    os.pwrite(file.fileno(), b"third", 200)
                    mapping.flush()
                    parent.say()
                    parent.wait()

            child = Child(other)
            child.wait()
            with open(path, "r+b") as file, mmap.mmap(file.fileno(), 8192) as mapping:
                mapping[4096:4101] = b"first"
                child.go()
                child.wait()
                assert mapping[100:106] == b"second" and mapping[200:205] == b"third"
                assert os.pread(file.fileno(), 6, 100) == b"second"
                mapping.flush()
                data = content(f"{mount.backing}/{name}")
                assert data[100:106] == b"second" and data[200:205] == b"third" and data[4096:4101] == b"first", name
                # Appending grows what the other sees, as with an index log.
                os.pwrite(file.fileno(), b"tail", 8192)
                child.go()
            child.end()
            assert content(path)[8192:] == b"tail"


def replaced_while_open():
    """As Dovecot replaces its files: readers of the old one keep it, and can tell."""
    with Mount() as mount:
        path = mount.mount + "/dovecot-uidlist"
        write_file(path, b"old")
        old = os.open(path, os.O_RDWR)
        for n in range(20):
            write_file(path + ".tmp", b"new %d" % n)
            os.rename(path + ".tmp", path)
            # A reader asks whether its descriptor is still the file of that name.
            st, by_name = os.fstat(old), os.stat(path)
            assert st.st_nlink == 0 and st.st_ino != by_name.st_ino and by_name.st_nlink == 1
            assert content(path) == b"new %d" % n
            assert os.pread(old, 10, 0) == b"old" if n == 0 else True
            os.pwrite(old, b"changed", 0)
            os.fsync(old)
            os.fchmod(old, 0o640)
            os.ftruncate(old, 7)
            os.utime(old, ns=(1, 2))
            assert os.fstat(old).st_mtime_ns == 2 and os.pread(old, 10, 0) == b"changed"
        os.close(old)
        assert os.listdir(mount.backing) == ["dovecot-uidlist"]


def removed_while_open():
    """A message is expunged while somebody reads, maps or holds it."""
    with Mount() as mount:
        path = mount.mount + "/m"
        write_file(path, b"x" * 100000)
        reader, holder = os.open(path, os.O_RDONLY), os.open(path, os.O_PATH)
        mapping = mmap.mmap(reader, 100000, prot=mmap.PROT_READ)

        def remover(parent):
            os.unlink(path)

        Child(remover).end()
        refused(errno.ENOENT, lambda: os.stat(path))
        refused(errno.ENOENT, lambda: os.open(path, os.O_RDONLY))
        assert os.read(reader, 100000) == b"x" * 100000 == mapping[:]
        assert os.fstat(reader).st_nlink == 0 and os.fstat(holder).st_nlink == 0
        again = os.open(f"/proc/self/fd/{reader}", os.O_RDONLY)
        assert os.read(again, 10) == b"x" * 10
        os.close(reader)
        os.close(again)
        assert mapping[99990:] == b"x" * 10
        mapping.close()
        os.close(holder)
        # The place is free again.
        write_file(path, b"new")
        assert content(path) == b"new"


def nameless_and_not_opened():
    """What is known by an O_PATH descriptor only, or is a working directory, outlives its name as on a local filesystem."""
    with Mount() as mount:
        path, folder = mount.mount + "/m", mount.mount + "/a/b"
        write_file(path, b"old")
        removed = os.open(path, os.O_PATH)
        os.unlink(path)
        write_file(path, b"old")
        write_file(path + ".new", b"new")
        replaced = os.open(path, os.O_PATH)
        os.rename(path + ".new", path)
        for fd in (removed, replaced):
            assert os.fstat(fd).st_nlink == 0
            assert content(f"/proc/self/fd/{fd}") == b"old"
            os.close(fd)
        os.makedirs(folder)
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        os.chdir(folder)
        os.rmdir(folder)
        try:
            assert os.stat(".").st_nlink == 0 and os.listdir(".") == [] == os.listdir(directory)
            refused(errno.ENOENT, lambda: os.mkdir("x"))
            refused(errno.ENOENT, lambda: write_file("x"))
            refused(errno.ENOENT, lambda: os.stat("x"))
            assert os.listdir("..") == []
        finally:
            os.chdir("/")
            os.close(directory)
        # Nothing is held for longer than it is known.
        for n in range(300):
            write_file(f"{mount.mount}/{n}")
            os.unlink(f"{mount.mount}/{n}")
        descriptors = f"/proc/{mount.process.pid}/fd"
        eventually("descriptors are let go of", lambda: len(os.listdir(descriptors)) < 64)


def filesystem_figures():
    with Mount() as mount:
        ours, theirs = os.statvfs(mount.mount), os.statvfs(mount.backing)
        for field in ("f_bsize", "f_frsize", "f_blocks", "f_files", "f_namemax"):
            assert getattr(ours, field) == getattr(theirs, field), field
        before = os.statvfs(mount.mount).f_bavail
        fd = os.open(mount.mount + "/large", os.O_CREAT | os.O_RDWR)
        os.posix_fallocate(fd, 0, 64 << 20)
        used = (before - os.statvfs(mount.mount).f_bavail) * ours.f_frsize
        assert used > 32 << 20, used
        assert os.fstat(fd).st_blocks * 512 >= 64 << 20
        os.close(fd)
        # Neither name nor path is longer here than there.
        name = "n" * ours.f_namemax
        write_file(f"{mount.mount}/{name}")
        refused(errno.ENAMETOOLONG, lambda: write_file(f"{mount.mount}/{name}n"))


def large_folder_read_while_it_changes():
    """100,000 names: each that is there all the time is listed once, however the others change."""
    count, rounds = 100000, 6
    with Mount() as mount:
        mount.kill(signal.SIGTERM)
        box = f"{mount.backing}/example.org/alice"
        make_maildir(box)
        for n in range(count):
            os.mknod(f"{box}/cur/{n}.stays:2,S")
        mount.start()
        box = f"{mount.mount}/example.org/alice"

        def change(parent):
            rand = random.Random(1)
            gone, there = [], []
            parent.say()
            n = 0
            while not parent.has_spoken():
                for _ in range(50):
                    n += 1
                    os.mknod(f"{box}/cur/{n}.comes:2,")
                    there.append(f"{n}.comes:2,")
                for _ in range(25):
                    name = there.pop(rand.randrange(len(there)))
                    os.rename(f"{box}/cur/{name}", f"{box}/cur/{name}S")
                    gone.append(name + "S")
                if len(gone) > 500:
                    for name in gone:
                        os.unlink(f"{box}/cur/{name}")
                    gone = []

        child = Child(change)
        child.wait()
        for n in range(rounds):
            names = []
            with os.scandir(f"{box}/cur") as entries:
                for entry in entries:
                    if n % 2 and len(names) % 100 == 0 and entry.name.endswith(".stays:2,S"):
                        entry.stat(follow_symlinks=False)
                    names.append(entry.name)
            stays = [name for name in names if name.endswith(".stays:2,S")]
            assert len(stays) == count and len(set(stays)) == count, (n, len(stays), len(set(stays)))
            assert len(set(names)) == len(names), n
        child.go()
        child.end()
        assert len(os.listdir(f"{box}/cur")) == len(os.listdir(f"{mount.backing}/example.org/alice/cur"))


def flags_change_while_listed():
    """A folder that one read of the backing directory lists: no mail is missed or doubled while others rename it."""
    count = 1500
    with Mount() as mount:
        box = f"{mount.mount}/example.org/alice"
        make_maildir(box)
        names = [f"1795878518.M{n:06d}P16689.host,S=252,W=261" for n in range(count)]
        for name in names:
            os.mknod(f"{box}/cur/{name}:2,")
        time.sleep(1.2)  # the kernel keeps the listing of a folder that is quiet

        def change(parent):
            """For a moment, again and again: in between the kernel keeps listings again, and readers are in the middle of them."""
            rand = random.Random(0)
            flags = dict.fromkeys(names, "")
            parent.say()
            while not parent.has_spoken():
                end = time.monotonic() + rand.choice([0.02, 0.05, 0.5])
                while time.monotonic() < end:
                    name = rand.choice(names)
                    old, flags[name] = flags[name], "" if flags[name] else "S"
                    os.rename(f"{box}/cur/{name}:2,{old}", f"{box}/cur/{name}:2,{flags[name]}")
                time.sleep(1.15)

        def read(parent):
            parent.say()
            while not parent.has_spoken():
                listed = [name.split(":")[0] for name in os.listdir(f"{box}/cur")]
                assert len(listed) == count == len(set(listed)), (len(listed), len(set(listed)))

        children = [Child(read) for _ in range(6)] + [Child(change)]
        for child in children:
            child.wait()
        time.sleep(6)
        for child in children:
            child.go()
        for child in children:
            child.end()


def removed_while_read():
    """rm -r, as doveadm does it: names go away under the listing."""
    with Mount() as mount:
        for n in range(20000):
            os.mknod(f"{mount.mount}/{n}")
        seen = 0
        with os.scandir(mount.mount) as entries:
            for entry in entries:
                os.unlink(entry.path)
                seen += 1
        assert seen == 20000 and os.listdir(mount.mount) == []
        os.makedirs(mount.mount + "/a/b/c/d")
        for n in range(500):
            os.mknod(f"{mount.mount}/a/b/c/{n}")
        subprocess.run(["rm", "-r", mount.mount + "/a"], check=True)
        assert os.listdir(mount.backing) == []


if __name__ == "__main__":
    run_tests([
        mail_uids_at_once,
        group_by_supplementary_groups_only,
        locks_of_two_processes,
        waiting_for_a_lock_blocks_nobody,
        shared_mappings,
        replaced_while_open,
        removed_while_open,
        nameless_and_not_opened,
        filesystem_figures,
        large_folder_read_while_it_changes,
        flags_change_while_listed,
        removed_while_read,
    ])
