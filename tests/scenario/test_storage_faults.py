#!/usr/bin/python3
"""Bad luck: a full disk, a read-only backing, a missing home, a full or lost state_dir, a lost backing directory. What
cannot be done is reported and tried again, nothing is lost, and afterwards both nodes are the same."""
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time

import plain
from node import BUILD, Pair, eventually, need
from test_faults import OTHER, USER, goes_on, log_has, log_size, root, same, setup


def run(*argv):
    subprocess.run(argv, check=True)


@contextlib.contextmanager
def pair_on(backing_b=None, state_a=None):
    """A pair whose b has its backing, or a its state_dir, on a tmpfs of that size."""
    pair = Pair(dovecot=False, start=False)
    mounts = []
    try:
        for path, size, owner in ((pair.b.backing, backing_b, "5000"), (pair.a.dir + "/state", state_a, "0")):
            if size:
                os.makedirs(path, exist_ok=True)
                run("mount", "-t", "tmpfs", "-o", f"size={size},uid={owner},gid={owner},mode=755", "tmpfs", path)
                mounts.append(path)
        with pair:
            for node in pair.nodes:
                node.start_all(dovecot=False)
            setup(pair, USER, OTHER)
            for user in (USER, OTHER):
                goes_on(pair, user, "at first")
            yield pair
            for node in pair.nodes:
                node.close_processes()
            for path in mounts:
                run("umount", path)
            mounts.clear()
    finally:
        for path in mounts:
            subprocess.run(["umount", "-l", path], check=False)
        for node in pair.nodes:
            shutil.rmtree(node.dir, ignore_errors=True)  # what the mounts kept from being removed


def reported(node, user, *words):
    """The status names the user with a reason."""
    def check():
        for line in node.status()["users"]:
            if line["user"] == user and any(word in line["reason"] for word in words):
                return True
        raise AssertionError(node.status())
    eventually(f"status of {node.host} names {user}: {words}", check)


def in_sync(pair, *users, timeout=20):
    for user in users:
        same(pair, user, timeout=timeout)
    eventually("both in sync", lambda: all(node.status()["in_sync"] for node in pair.nodes), timeout)


def replicate(pair):
    """As an admin does who has put something right: no waiting for the next try."""
    for node in pair.nodes:
        node.dsyncctl("replicate", "*")


def fill(path):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    with contextlib.suppress(OSError):
        while os.write(fd, b"x" * 4096):
            pass
    os.close(fd)


def disk_full():
    with pair_on(backing_b="3m") as pair:
        filler = pair.b.backing + "/filler"
        mark = log_size(pair.b)
        fill(filler)
        big = "x" * 70 + "\n"
        sent = [plain.deliver(root(pair.a), f"while full {n}", big * 300) for n in range(5)]
        log_has(pair.b, USER, "No space left", since=mark)
        reported(pair.a, USER, "No space left")
        got = plain.files(root(pair.b))
        assert not all(base in got for base in sent)
        os.unlink(filler)
        replicate(pair)
        in_sync(pair, USER, OTHER)
        assert set(sent) <= set(plain.files(root(pair.b)))
        for base in sent:
            with open(plain.find(root(pair.b), base), encoding="utf-8") as file:
                assert file.read().endswith(big * 300), "a part of a mail"
        eventually("nothing is left in tmp/", lambda: not os.listdir(root(pair.b) + "/tmp"))


def read_only_and_missing_home():
    with pair_on(backing_b="30m") as pair:
        # Refused while a worker has a log open for writing.
        mark = log_size(pair.b)
        eventually("read-only", lambda: subprocess.run(["mount", "-o", "remount,ro", pair.b.backing], check=False,
                                                       capture_output=True).returncode == 0, every=0.2)
        sent = [plain.deliver(root(pair.a), "while read-only")]
        try:
            plain.deliver(root(pair.b), "cannot be")
            raise SystemExit("a delivery into a read-only backing went through")
        except OSError as error:
            assert error.strerror == "Read-only file system", error
        log_has(pair.b, USER, "Read-only file system", since=mark)
        reported(pair.a, USER, "Read-only file system")
        run("mount", "-o", "remount,rw", pair.b.backing)
        replicate(pair)
        in_sync(pair, USER)
        assert set(sent) <= set(plain.files(root(pair.b)))

        # A home that goes away under a running b, mail for it, and the home comes back.
        before = plain.files(root(pair.a))
        away = os.path.dirname(pair.b.home(USER)) + "/.one"
        os.rename(pair.b.home(USER), away)
        sent.append(plain.deliver(root(pair.a), "while the home is missing"))
        goes_on(pair, OTHER, "beside a missing home")
        reported(pair.a, USER, "does not know this user", "No such file", "home")
        log_has(pair.b, USER, "No such file or directory")
        assert not os.path.exists(pair.b.home(USER)), "a home was made"
        os.rename(away, pair.b.home(USER))
        replicate(pair)
        in_sync(pair, USER, OTHER)
        assert set(sent) | set(before) <= set(plain.files(root(pair.a))), "a lost mail with b's home"


def nothing_below_the_mount():
    """A user who is new comes from a in the moment when b's mount has just gone: no home is made below it."""
    with pair_on() as pair:
        pair.b.kill("dsyncfs", signal.SIGTERM)
        maildir = plain.make_home(pair.a, "new@example.org") + "/Maildir"
        plain.make_maildir(maildir)
        base = plain.deliver(maildir, "first")
        time.sleep(3)
        assert os.listdir(pair.b.mount) == [], os.listdir(pair.b.mount)
        pair.b.start_dsyncfs()
        eventually("the new user's mail is on b", lambda: base in plain.files(pair.b.home("new@example.org") + "/Maildir"))
        in_sync(pair, USER, OTHER, "new@example.org")


def state_dir_full():
    with pair_on(state_a="24m") as pair:
        fill(pair.a.dir + "/state/filler")
        slowest, sent = 0, []
        for number in range(60):
            start = time.monotonic()
            sent.append(plain.deliver(root(pair.a, (USER, OTHER)[number % 2]), f"journal full {number}"))
            if number % 3 == 0:
                plain.make_maildir(f"{root(pair.a)}/.F{number}")
                sent.append(plain.deliver(f"{root(pair.a)}/.F{number}", "into a folder"))
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 2, f"a delivery took {slowest:.1f} s"
        os.unlink(pair.a.dir + "/state/filler")
        in_sync(pair, USER, OTHER, timeout=40)
        for number in range(0, 60, 3):
            same(pair, USER, f"/.F{number}")
        there = set(plain.files(root(pair.b))) | set(plain.files(root(pair.b, OTHER)))
        for number in range(0, 60, 3):
            there |= set(plain.files(f"{root(pair.b)}/.F{number}"))
        assert set(sent) <= there, set(sent) - there


def empty(directory, below):
    """Removes what is in a directory that this test made."""
    assert directory.startswith(below + "/") and below.startswith("/tmp/dsyncfs-") and not os.path.ismount(directory)
    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)


def accounts(pair):
    return {(user, folder): plain.files(root(pair.a, user) + folder) for user in (USER, OTHER) for folder in ("", "/.Work")}


def refused_until_accepted(pair, *words):
    """An empty backing directory may be a disk that is not mounted, and a full one an older copy: nothing is put there,
    taken or removed before an admin says so."""
    mark = log_size(pair.b)
    before = os.listdir(pair.b.backing)
    daemon = pair.b.start("dsyncfs", [f"{BUILD}/tools/dsyncfs", "-f", "-o", f"config={pair.b.settings}", pair.b.backing,
                                      pair.b.mount], network=False)
    assert daemon.wait(timeout=10) == os.EX_NOINPUT
    log_has(pair.b, *words, "accept-store", since=mark)
    pair.b.start_dsyncd()
    eventually("status says it", lambda: "not mounted" in pair.b.dsyncctl("status").stdout.partition("\n")[0])
    time.sleep(1)
    assert os.listdir(pair.b.backing) == before and not os.listdir(pair.b.mount), "something was put there"
    pair.b.kill("dsyncd", signal.SIGTERM)
    assert pair.b.dsyncctl("accept-store").returncode == 0


def lost(state_too):
    with pair_on() as pair:
        for user in (USER, OTHER):
            plain.make_maildir(root(pair.a, user) + "/.Work")
            for number in range(5):
                plain.deliver(root(pair.a, user) + ("", "/.Work")[number % 2], f"number {number}")
        in_sync(pair, USER, OTHER)
        for user in (USER, OTHER):
            same(pair, user, "/.Work")
        before = accounts(pair)
        for name in ("dsyncd", "dsyncfs"):
            pair.b.kill(name, signal.SIGTERM)
        empty(pair.b.backing, pair.b.dir)
        os.removexattr(pair.b.backing, "trusted.dsyncfs.store")
        if state_too:
            empty(pair.b.dir + "/state", pair.b.dir)
        if not state_too:
            refused_until_accepted(pair, "Is its disk mounted?")
        pair.b.start_all(dovecot=False)
        if state_too:  # nobody knows that a new node is there, until the first change of any user
            plain.deliver(root(pair.a), "to the new node")
            before = accounts(pair)
        for user in (USER, OTHER):
            eventually(f"{user} is refilled", lambda user=user: os.path.isdir(root(pair.b, user) + "/.Work/cur"))
            same(pair, user)
            same(pair, user, "/.Work")
        assert accounts(pair) == before, "a lost mail with b's disk"
        in_sync(pair, USER, OTHER)


def older_copy():
    """b's backing directory is replaced by a copy of it from before."""
    with pair_on() as pair:
        kept = [plain.deliver(root(pair.a), f"kept {n}") for n in range(3)]
        gone = plain.deliver(root(pair.a), "expunged since")
        in_sync(pair, USER)
        for name in ("dsyncd", "dsyncfs"):
            pair.b.kill(name, signal.SIGTERM)
        run("cp", "-a", pair.b.backing, pair.b.dir + "/older")
        pair.b.start_all(dovecot=False)
        since = [plain.deliver(root(node), f"since, on {node.host}") for node in pair.nodes]
        plain.set_flags(root(pair.b), kept[0], "FS")
        os.unlink(plain.find(root(pair.b), gone))
        plain.make_maildir(root(pair.b) + "/.New")
        since_there = plain.deliver(root(pair.b) + "/.New", "in a new folder")
        in_sync(pair, USER)
        same(pair, USER, "/.New")
        before = plain.files(root(pair.a))
        assert before[kept[0]] == "FS" and gone not in before and set(since) <= set(before)
        for name in ("dsyncd", "dsyncfs"):
            pair.b.kill(name, signal.SIGTERM)
        os.rename(pair.b.backing, pair.b.dir + "/lost")
        os.rename(pair.b.dir + "/older", pair.b.backing)
        refused_until_accepted(pair, "an older copy")
        pair.b.start_all(dovecot=False)
        eventually("b has the new folder again", lambda: since_there in plain.files(root(pair.b) + "/.New"))
        in_sync(pair, USER, OTHER)
        assert plain.files(root(pair.a)) == before, "not as it was"


def lost_backing():
    lost(state_too=False)


def lost_backing_and_state():
    lost(state_too=True)


def lost_state():
    """a's state_dir is gone, while both are down and both were written to before and after."""
    with pair_on() as pair:
        kept = [plain.deliver(root(pair.a), f"kept {n}") for n in range(4)]
        removed = [plain.deliver(root(pair.a), f"removed {n}") for n in range(2)]
        in_sync(pair, USER)
        os.unlink(plain.find(root(pair.b), removed[0]))
        in_sync(pair, USER)
        for node in pair.nodes:
            node.kill("dsyncd", signal.SIGTERM)
        only_a, only_b = plain.deliver(root(pair.a), "only a"), plain.deliver(root(pair.b), "only b")
        os.unlink(plain.find(root(pair.b), removed[1]))  # b's state is whole: it is known there
        for node in pair.nodes:
            node.kill("dsyncfs", signal.SIGTERM)
        empty(pair.a.dir + "/state", pair.a.dir)
        for node in pair.nodes:
            node.start_all(dovecot=False)
        eventually("exchanged", lambda: only_a in plain.files(root(pair.b)) and only_b in plain.files(root(pair.a)))
        in_sync(pair, USER, OTHER)
        left = plain.files(root(pair.a))
        assert {*kept, only_a, only_b} <= set(left), "lost"
        subjects = [plain.subject(plain.find(root(pair.a), base)) for base in left]
        # "at first" goes once in each direction.
        assert len(subjects) == len(set(subjects)) + 1, ("doubled", subjects)
        assert removed[0] not in left, "an expunge that both had taken in came back"
        if removed[1] in left:
            print("an expunge while a was down, whose state was lost, came back: it may")


PARTS = [disk_full, read_only_and_missing_home, nothing_below_the_mount, state_dir_full, older_copy, lost_backing,
         lost_backing_and_state, lost_state]


def main():
    need("pgrep")
    for part in PARTS:
        if len(sys.argv) > 1 and part.__name__ not in sys.argv[1:]:
            continue
        start = time.monotonic()
        part()
        print(f"{part.__name__}: ok, {time.monotonic() - start:.1f} s", flush=True)
    print("ok")


if __name__ == "__main__":
    main()
