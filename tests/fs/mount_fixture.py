"""A dsyncfs mount over a temporary directory, and what its journal says."""
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time

BUILD = os.environ.get("DSYNCFS_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))
DSYNCFS = os.path.join(BUILD, "tools/dsyncfs")
DUMP = os.path.join(BUILD, "tests/fs/journal_dump")


def skip(reason):
    print(f"skipped: {reason}")
    raise SystemExit(77)


def need_mounts():
    if os.geteuid() != 0:
        skip("needs root")
    if not os.path.exists("/dev/fuse"):
        skip("needs /dev/fuse")


def eventually(what, check, timeout=10.0):
    end = time.monotonic() + timeout
    while True:
        result = check()
        if result:
            return result
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.01)


def dead(path):
    """The mount's daemon is gone: every call fails with ENOTCONN."""
    try:
        os.getxattr(path, "trusted.dsyncfs.version")
    except OSError as error:
        return error.strerror == "Transport endpoint is not connected"
    return False


class Mount:
    """over_itself: the backing directory is the mount point. files: RLIMIT_NOFILE of the daemon."""

    def __init__(self, over_itself=False, files=None, options="", start=True):
        self.dir = tempfile.mkdtemp(prefix="dsyncfs-test-")
        os.chmod(self.dir, 0o755)
        self.backing = self.dir + "/backing"
        self.mount = self.backing if over_itself else self.dir + "/mount"
        self.state = self.dir + "/state"
        for path in {self.backing, self.mount}:
            os.mkdir(path)
        self.files, self.options, self.start_at_once = files, options, start
        self.process, self.seq = None, 0
        self.log = self.dir + "/log"

    def __enter__(self):
        if self.start_at_once:
            self.start()
        return self

    def __exit__(self, kind, value, trace):
        code = 0
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            try:
                code = self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                code = self.process.wait()
        if kind or code:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                print("--- log\n" + "".join(file.readlines()[-40:]), file=sys.stderr)
        for _ in range(4):
            if subprocess.run(["umount", "-l", self.mount], capture_output=True, check=False).returncode:
                break
        shutil.rmtree(self.dir, ignore_errors=True)
        if not kind and code:
            raise AssertionError(f"dsyncfs ended with {code}")

    def start(self):
        def limit():
            if self.files:
                resource.setrlimit(resource.RLIMIT_NOFILE, (self.files, self.files))

        options = f"state_dir={self.state},home_depth=2" + (f",{self.options}" if self.options else "")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen([DSYNCFS, "-f", "-o", options, self.backing, self.mount],
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=limit)
        eventually("mounted", self.alive)

    def alive(self):
        if self.process.poll() is not None:
            raise AssertionError(f"dsyncfs ended with {self.process.returncode}")
        try:
            return os.getxattr(self.mount, "trusted.dsyncfs.version")
        except OSError:
            return False

    def kill(self, sig=signal.SIGKILL):
        self.process.send_signal(sig)
        code = self.process.wait(timeout=20)
        self.process = None
        return code

    def read_events(self):
        run = subprocess.run([DUMP, self.state, str(self.seq)], capture_output=True, text=True, check=True)
        events = [line.split("\t") for line in run.stdout.splitlines()]
        events = [(int(event[0]), event[1], int(event[2]), *event[3:]) for event in events]
        # A start may find that the marker below has changed: that says nothing, and may come behind it.
        return [event for event in events if event[3] != "marker/marker" or event[1] not in ("RESCAN", "RESCAN_HOME")]

    def skip_events(self):
        """Forgets what has happened so far. A marker says when the journal has it all."""
        self.take(lambda events: events and events[-1][1] == "DIR_CREATED" and events[-1][3] == "marker/marker",
                  self.mark)

    def mark(self):
        os.makedirs(self.mount + "/marker/marker/cur")
        os.rmdir(self.mount + "/marker/marker/cur")

    def take(self, check, do=None):
        if do:
            do()
        events = []

        def done():
            events[:] = self.read_events()
            return check(events)

        eventually("the journal has the events", done)
        self.seq = max([self.seq] + [event[0] for event in events])
        return events

    def events(self):
        """What has happened since the last call, without times and numbers: (kind, home, dir, name, name2)."""
        events = self.take(lambda events: events and events[-1][1] == "DIR_CREATED"
                           and events[-1][3] == "marker/marker", self.mark)
        return [(event[1], *event[3:]) for event in events[:-1]]

    def origins(self):
        events = self.take(lambda events: events and events[-1][1] == "DIR_CREATED"
                           and events[-1][3] == "marker/marker", self.mark)
        return [event[2] for event in events[:-1]]


def as_user(uid, gid, call, groups=()):
    """Runs call() in a child with these ids; raises here what it raised there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.setgroups(list(groups))
            os.setgid(gid)
            os.setuid(uid)
            call()
            status = 0
        except BaseException as error:  # the parent tells
            os.write(write, repr(error).encode())
        finally:
            os._exit(status)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        text = file.read().decode()
    if os.waitpid(pid, 0)[1]:
        raise AssertionError(f"as uid {uid}: {text}")


def make_maildir(path, uid=None):
    os.makedirs(path, exist_ok=True)
    for part in ("cur", "new", "tmp"):
        os.mkdir(f"{path}/{part}")
        if uid is not None:
            os.chown(f"{path}/{part}", uid, uid)
    if uid is not None:
        os.chown(path, uid, uid)


def write_file(path, data=b"Subject: x\n\nx\n"):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        while data:
            data = data[os.write(fd, data):]
        os.fsync(fd)
    finally:
        os.close(fd)


def deliver(box, name, data=b"Subject: x\n\nx\n"):
    write_file(f"{box}/tmp/{name}", data)
    os.rename(f"{box}/tmp/{name}", f"{box}/new/{name}")


def run_tests(tests):
    need_mounts()
    for test in tests:
        start = time.monotonic()
        print(f"{test.__name__} ...", end=" ", flush=True)
        test()
        print(f"ok ({time.monotonic() - start:.1f} s)")
