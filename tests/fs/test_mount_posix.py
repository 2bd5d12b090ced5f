"""A complete local filesystem: several uids, supplementary groups, links, attributes, locks, mappings, rename flags."""
import ctypes
import errno
import fcntl
import mmap
import os
import shutil
import stat
import subprocess
import threading

from mount_fixture import Mount, as_user, run_tests, write_file

LIBC = ctypes.CDLL(None, use_errno=True)
RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2


def refused(number, call):
    try:
        call()
    except OSError as error:
        assert error.errno == number, error
        return
    raise AssertionError(f"it should have failed with {errno.errorcode[number]}")


def renameat2(old, new, flags):
    if LIBC.renameat2(-100, old.encode(), -100, new.encode(), flags):
        raise OSError(ctypes.get_errno(), "renameat2")


def link_by_descriptor(fd, path):
    # os.link() follows a symbolic link only where it is given a directory: CPython calls link(2) else.
    if LIBC.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, path.encode(), 0x400):
        raise OSError(ctypes.get_errno(), "linkat")


def owners_and_umask():
    with Mount() as mount:
        top = mount.mount + "/d"
        os.mkdir(top)
        os.chmod(top, 0o777)
        names = {}

        def work(uid):
            def make():
                os.umask(0o027)
                os.mkdir(f"{top}/dir{uid}", 0o777)
                os.symlink("x", f"{top}/link{uid}")
                os.mkfifo(f"{top}/fifo{uid}", 0o666)
                os.close(os.open(f"{top}/file{uid}", os.O_CREAT | os.O_WRONLY, 0o666))
                os.link(f"{top}/file{uid}", f"{top}/dir{uid}/file")
            return make

        threads = [threading.Thread(target=as_user, args=(uid, uid + 1, work(uid))) for uid in (5000, 6000, 7000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for uid in (5000, 6000, 7000):
            for name, mode in (("dir", 0o750), ("fifo", 0o640), ("file", 0o640), ("link", 0o777)):
                for root in (mount.mount, mount.backing):
                    st = os.lstat(f"{root}/d/{name}{uid}")
                    names[name] = st
                    assert (st.st_uid, st.st_gid, stat.S_IMODE(st.st_mode)) == (uid, uid + 1, mode), (name, uid, st)
            assert os.stat(f"{top}/file{uid}").st_nlink == 2
            refused(errno.EACCES, lambda: as_user_error(8000, lambda: os.open(f"{top}/file{uid}", os.O_RDONLY)))


def as_user_error(uid, call):
    """Runs call() as uid and raises its OSError here."""
    result = []

    def run():
        try:
            call()
        except OSError as error:
            os._exit(error.errno)

    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        run()
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code:
        raise OSError(code, os.strerror(code))
    return result


def supplementary_group_may_write():
    with Mount() as mount:
        top = mount.mount + "/shared"
        os.mkdir(top)
        os.chown(top, 0, 9000)
        os.chmod(top, 0o2770)
        as_user(5000, 5000, lambda: write_file(f"{top}/a"), groups=[9000])
        st = os.stat(f"{mount.backing}/shared/a")
        assert (st.st_uid, st.st_gid) == (5000, 9000), st
        refused(errno.EACCES, lambda: as_user_error(5000, lambda: write_file(f"{top}/b")))


def hard_links_and_stable_inodes():
    with Mount() as mount:
        write_file(mount.mount + "/a")
        os.link(mount.mount + "/a", mount.mount + "/b")
        a, b = os.stat(mount.mount + "/a"), os.stat(mount.mount + "/b")
        assert a.st_ino == b.st_ino == os.stat(mount.backing + "/a").st_ino and a.st_nlink == 2
        os.unlink(mount.mount + "/a")
        assert os.stat(mount.mount + "/b").st_nlink == 1
        os.utime(mount.mount + "/b", ns=(1234567890123456789, 1111111111987654321))
        st = os.stat(mount.backing + "/b")
        assert (st.st_atime_ns, st.st_mtime_ns) == (1234567890123456789, 1111111111987654321)


def rename_flags():
    with Mount() as mount:
        a, b = mount.mount + "/a", mount.mount + "/b"
        write_file(a, b"a")
        write_file(b, b"b")
        refused(errno.EEXIST, lambda: renameat2(a, b, RENAME_NOREPLACE))
        renameat2(a, b, RENAME_EXCHANGE)
        with open(a, "rb") as file:
            assert file.read() == b"b"
        os.makedirs(mount.mount + "/u/v/new")
        os.makedirs(mount.mount + "/u/w/cur")
        renameat2(mount.mount + "/u/v", mount.mount + "/u/w", RENAME_EXCHANGE)
        assert os.listdir(mount.mount + "/u/v") == ["cur"]
        os.makedirs(mount.mount + "/u/v/cur/x")
        refused(errno.EINVAL, lambda: os.rename(mount.mount + "/u", mount.mount + "/u/v/z"))


def extended_attributes_and_acls():
    with Mount() as mount:
        path = mount.mount + "/a"
        write_file(path)
        try:
            os.setxattr(mount.backing, "user.probe", b"1")
        except OSError:
            print("(the backing filesystem has no user attributes)", end=" ")
            return
        os.setxattr(path, "user.x", b"value")
        assert os.getxattr(mount.backing + "/a", "user.x") == b"value"
        assert os.listxattr(path) == ["user.x"]
        refused(errno.EEXIST, lambda: os.setxattr(path, "user.x", b"y", os.XATTR_CREATE))
        os.removexattr(path, "user.x")
        refused(errno.ENODATA, lambda: os.getxattr(path, "user.x"))
        if not shutil.which("setfacl"):
            return
        os.chmod(path, 0o600)
        os.mkdir(mount.mount + "/d")
        subprocess.run(["setfacl", "-m", "u:5000:r", path], check=True)
        subprocess.run(["setfacl", "-d", "-m", "u:5000:rw,o::-", mount.mount + "/d"], check=True)
        as_user_error(5000, lambda: os.open(path, os.O_RDONLY))
        refused(errno.EACCES, lambda: as_user_error(5000, lambda: os.open(path, os.O_RDWR)))
        os.umask(0o022)
        os.close(os.open(mount.mount + "/d/f", os.O_CREAT | os.O_WRONLY, 0o666))
        as_user_error(5000, lambda: os.open(mount.mount + "/d/f", os.O_RDWR) and None)


def paths_of_others_cost_no_attributes():
    """The kernel keeps the ACLs of the directories on a path, the mount's root among them."""
    with Mount(options="debug") as mount:
        os.makedirs(mount.mount + "/d/e")
        write_file(mount.mount + "/d/e/f")
        os.chmod(mount.mount + "/d/e/f", 0o644)

        def use():
            for _ in range(200):
                os.stat(mount.mount + "/d/e/f")
                # Reading it would change its time of access, and where the kernel passes it through that makes the
                # file's own attributes, not those of its path, be asked for again.
                os.close(os.open(mount.mount + "/d/e/f", os.O_RDONLY))

        as_user(5000, 5000, use)
        with open(mount.log, encoding="utf-8", errors="replace") as file:
            asked = file.read().count("opcode: GETXATTR")
        assert asked < 30, asked


def unlinked_and_unnamed_files():
    with Mount() as mount:
        fd = os.open(mount.mount + "/a", os.O_RDWR | os.O_CREAT, 0o600)
        os.write(fd, b"hello")
        os.unlink(mount.mount + "/a")
        os.write(fd, b" world")
        os.fsync(fd)
        assert os.pread(fd, 100, 0) == b"hello world" and os.fstat(fd).st_nlink == 0
        os.fchmod(fd, 0o640)
        assert os.fstat(fd).st_size == 11
        os.close(fd)
        try:
            fd = os.open(mount.mount, os.O_TMPFILE | os.O_RDWR, 0o600)
        except OSError as error:
            assert error.errno in (errno.EOPNOTSUPP, errno.ENOSYS), error
            print("(this kernel has no O_TMPFILE on FUSE)", end=" ")
            return
        os.write(fd, b"unnamed")
        assert os.listdir(mount.mount) == []
        link_by_descriptor(fd, mount.mount + "/named")
        os.close(fd)
        with open(mount.backing + "/named", "rb") as file:
            assert file.read() == b"unnamed"


def data_in_every_way():
    with Mount() as mount:
        path = mount.mount + "/a"
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.pwrite(fd, b"x" * 3000000, 0)
        os.ftruncate(fd, 4096)
        with mmap.mmap(fd, 4096) as mapping:
            mapping[0:5] = b"hello"
            mapping.flush()
        assert os.pread(fd, 6, 0) == b"hellox"
        with open(mount.backing + "/a", "rb") as file:
            assert file.read(6) == b"hellox"
        os.posix_fallocate(fd, 0, 1 << 20)
        assert os.fstat(fd).st_size == 1 << 20
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
        other = os.open(mount.mount + "/b", os.O_RDWR | os.O_CREAT, 0o600)
        assert os.copy_file_range(fd, other, 4096, 0, 0) == 4096
        assert os.pread(other, 6, 0) == b"hellox"
        os.ftruncate(other, 1 << 30)
        assert os.lseek(other, 0, os.SEEK_DATA) == 0
        assert 0 < os.lseek(other, 0, os.SEEK_HOLE) <= 1 << 20
        appender = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.write(appender, b"end")
        assert os.stat(path).st_size == (1 << 20) + 3
        assert os.pread(fd, 10, 1 << 20) == b"end"
        direct = os.open(path, os.O_RDONLY | os.O_DIRECT)
        buffer = mmap.mmap(-1, 4096)
        assert os.preadv(direct, [buffer], 0) == 4096 and buffer[:5] == b"hello"
        for each in (fd, other, appender, direct):
            os.close(each)
        with open(path, "wb"):
            pass
        assert os.stat(mount.backing + "/a").st_size == 0


def locks_hold_between_clients():
    with Mount() as mount:
        path = mount.mount + "/a"
        write_file(path)
        with open(path, "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX)

            def second():
                with open(path, "r+b") as other:
                    refused(errno.EAGAIN, lambda: fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB))

            as_user(0, 0, second)
            fcntl.lockf(file, fcntl.LOCK_UN)
            fcntl.flock(file, fcntl.LOCK_EX)

            def third():
                with open(path, "r+b") as other:
                    refused(errno.EWOULDBLOCK, lambda: fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB))

            as_user(0, 0, third)


def suid_is_cleared_by_others_writes():
    with Mount() as mount:
        path = mount.mount + "/a"
        write_file(path)
        for change in (lambda: os.write(os.open(path, os.O_WRONLY), b"x"), lambda: os.truncate(path, 1),
                       lambda: os.open(path, os.O_WRONLY | os.O_TRUNC)):
            os.chmod(path, 0o6777)
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o6777
            as_user_error(5000, lambda call=change: call() and None)
            assert stat.S_IMODE(os.stat(mount.backing + "/a").st_mode) == 0o777
            assert stat.S_IMODE(os.stat(path).st_mode) == 0o777


def other_filesystems_below_are_refused():
    with Mount() as mount:
        mount.kill(15)
        os.mkdir(mount.backing + "/other")
        os.mkdir(mount.backing + "/mine")
        subprocess.run(["mount", "-t", "tmpfs", "none", mount.backing + "/other"], check=True)
        try:
            mount.start()
            refused(errno.EXDEV, lambda: os.stat(mount.mount + "/other"))
            assert sorted(os.listdir(mount.mount)) == ["mine", "other"]
            with os.scandir(mount.mount) as entries:
                assert sorted(entry.name for entry in entries) == ["mine", "other"]
            assert mount.kill(15) == 0
        finally:
            subprocess.run(["umount", "-l", mount.backing + "/other"], check=True)


def symbolic_links_are_the_clients():
    with Mount() as mount:
        os.symlink("/etc/passwd", mount.mount + "/s")
        assert os.readlink(mount.mount + "/s") == "/etc/passwd"
        with open(mount.mount + "/s", "rb") as through, open("/etc/passwd", "rb") as itself:
            assert through.read() == itself.read()
        refused(errno.ELOOP, lambda: os.open(mount.mount + "/s", os.O_RDONLY | os.O_NOFOLLOW))
        long = "x" * 4000
        os.symlink(long, mount.mount + "/l")
        assert os.readlink(mount.mount + "/l") == long


def listings_see_what_changes():
    with Mount() as mount:
        for n in range(3000):
            os.mknod(f"{mount.mount}/{n}")
        assert len(os.listdir(mount.mount)) == 3000
        assert len(os.listdir(mount.mount)) == 3000
        os.unlink(f"{mount.mount}/7")
        os.rename(f"{mount.mount}/8", f"{mount.mount}/x")
        names = set(os.listdir(mount.mount))
        assert len(names) == 2999 and "7" not in names and "8" not in names and "x" in names
        refused(errno.ENOENT, lambda: os.stat(f"{mount.mount}/7"))
        # Removal while reading.
        with os.scandir(mount.mount) as entries:
            for entry in entries:
                os.unlink(entry.path)
        assert os.listdir(mount.mount) == []


if __name__ == "__main__":
    run_tests([
        owners_and_umask,
        supplementary_group_may_write,
        hard_links_and_stable_inodes,
        rename_flags,
        extended_attributes_and_acls,
        paths_of_others_cost_no_attributes,
        unlinked_and_unnamed_files,
        data_in_every_way,
        locks_hold_between_clients,
        suid_is_cleared_by_others_writes,
        other_filesystems_below_are_refused,
        symbolic_links_are_the_clients,
        listings_see_what_changes,
    ])
