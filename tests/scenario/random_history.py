#!/usr/bin/python3
"""A random history on two real mounts: Dovecot and plain programs on both nodes deliver, flag, move, copy and expunge mail,
make, rename, remove and subscribe folders, while the link is cut, daemons and whole nodes are killed and started again,
and disks fill up. In rounds: at the end of each all is mended, and then both nodes must be the same, with every mail
acknowledged there once, none that was expunged, nothing left in tmp/, and another full sync must change nothing.

  random_history.py [--seed N] [--seconds N] [--round SECONDS] [--faults link,worker,dsyncd,dsyncfs,node,disk,state]
                    [--clients dovecot,plain] [--clocks HOURS] [--growth]

The clients and faults of a seed are the same each time, what meets what is not. On failure the seed and the history of the mails
concerned are printed. A disk that is full is not among the default faults: Dovecot then loses lines of its uidlist
and gives mails new UIDs, which is no longer told from a copy when the sync breaks off as well; use it with
--clients plain. --clocks: node b's clock is so many hours off.
--growth: fails where descriptors or memory of a daemon that was not restarted grow from round to round."""
import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import view
from history_load import DovecotClient, PlainClient, make_user
from history_model import Model
from node import Pair, children, descendants, eventually, need

USERS = ["one@example.org", "two@example.org"]
FAULTS = ["link", "worker", "dsyncd", "dsyncfs", "node", "disk", "state"]
SETTLE_SECS = 180  # a Dovecot waits two minutes for an empty lock file, which one that was killed has left
DISK, STATE = "48m", "64m"  # of b's backing directory, and of a's state_dir
# ("indexid changed" is said of a folder that was removed and made again while it was open. "Duplicate file entry" is not
# among them: Dovecot warns of it where it gave a UID of its own to a file that came back before the line of its old UID was
# taken out, and takes the new one.)
TROUBLE_IN_LOG = re.compile(r"Panic|Assert|orrupt(?!.*indexid changed)|UIDVALIDITY changed|"
                            r"Expunged GUID mismatch|out of memory")
# Dovecot's own way to meet a full disk while it saves a mail.
PANIC_OF_A_FULL_DISK = "maildir_save_sync_index): assertion failed: (first_uid != 0)"
# And to be asked for the GUID of a folder that somebody removes at this moment.
PANIC_OF_A_GUID = "mailbox_get_metadata): assertion failed: ((items & MAILBOX_METADATA_GUID) == 0"
MARKED_LIST_INDEX = "Mailbox list index marked corrupted"


def session_of(line):
    """Of a line of Dovecot's log: "imap(user)<pid><session id>"."""
    return re.search(r" [\w-]+(\(.*?\))?(<[^ ]*>)?: |$", line).group(0)


def kill(pids):
    for pid in pids:
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            pass


def state_of(pid):
    """proc(5): T once it has stopped, Z once it has ended."""
    with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
        return file.read().rsplit(")", 1)[1].split()[0]


class Faults:
    """Breaks something, waits, mends it; one at a time or two at once."""

    def __init__(self, pair, model, rng, kinds):
        self.pair, self.model, self.random, self.kinds = pair, model, rng, kinds
        self.filled = []

    def step(self):
        kind = self.random.choice(self.kinds)
        node = self.random.choice(self.pair.nodes)
        secs = self.random.choice([0.2, 0.5, 1, 2])
        self.model.note("FAULT", kind, node.host, secs)
        self.model.count[f"fault {kind}"] += 1
        getattr(self, kind)(node, secs)
        self.model.note("mended", kind, node.host)

    def link(self, _node, secs):
        self.pair.cut()
        time.sleep(secs * 2)
        self.pair.heal()

    def worker(self, node, secs):
        kill(self.random.sample(children(node.pid("dsyncd")), 1) if children(node.pid("dsyncd")) else [])
        time.sleep(secs / 4)

    def dsyncd(self, node, secs):
        node.kill("dsyncd")
        time.sleep(secs)
        node.start_dsyncd()

    def dsyncfs(self, node, secs):
        self.model.mount_kills[node.host] += 1
        node.kill("dsyncfs")
        time.sleep(secs / 2)
        node.start_dsyncfs()

    def node(self, node, secs):
        """All of its processes at once, and its link."""
        self.pair.cut()
        self.model.mount_kills[node.host] += 1
        parents = [process.pid for process in node.processes.values()]
        for pid in parents:  # who forks meanwhile leaves a child that nobody kills, and Dovecot's holds its sockets
            os.kill(pid, signal.SIGSTOP)
        for pid in parents:
            eventually("it has stopped", lambda pid=pid: state_of(pid) in "TZ")
        pids = [child for pid in parents for child in [pid, *descendants(pid)]]
        kill(pids)
        for name in list(node.processes):
            node.processes.pop(name).wait(timeout=30)
        eventually("its processes are gone", lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in pids))
        time.sleep(secs)
        self.pair.heal()
        node.start_all()

    def fill(self, path, secs):
        """Full but for a few blocks, which the clients soon use up."""
        self.filled.append(path)
        with open(path, "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 65536) == 65536:
                    pass
            except OSError:
                pass
            if self.random.random() < 0.5:
                os.ftruncate(file.fileno(), max(os.path.getsize(path) - 65536, 0))
        time.sleep(secs)
        os.unlink(path)
        self.filled.remove(path)

    def disk(self, _node, secs):
        self.fill(self.pair.b.backing + "/filler", secs)

    def state(self, _node, secs):
        self.fill(self.pair.a.dir + "/state/filler", secs)


class History:
    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.model = Model(os.path.join(tempfile.mkdtemp(prefix="dsyncfs-history-"), "history"))
        self.pair = Pair(start=False, clock_b=options.clocks)
        self.mounts, self.daemon_sizes = [], []

    def begin(self):
        for path, size, owner in ((self.pair.b.backing, DISK, 5000), (self.pair.a.dir + "/state", STATE, 0)):
            os.makedirs(path, exist_ok=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},uid={owner},gid={owner},mode=755", "tmpfs", path],
                           check=True)
            self.mounts.append(path)
        for node in self.pair.nodes:
            node.dsyncd_options = ["-D"]
            node.start_all()
        for user in USERS:
            make_user(self.pair.a, user)
        eventually("users on b", lambda: all(os.path.isdir(self.pair.b.home(user) + "/Maildir/cur") for user in USERS))
        # Until a first sync is done nobody knows what the other has seen, and what is removed in the middle of it comes back.
        eventually("in sync at first", lambda: all(node.status()["in_sync"] for node in self.pair.nodes), SETTLE_SECS)

    def end(self):
        for node in self.pair.nodes:
            node.close_processes()
        if os.environ.get("KEEP"):
            print("kept:", *self.mounts)
            self.mounts.clear()
        for path in self.mounts:
            subprocess.run(["umount", "-l", path], check=False)
        self.mounts.clear()
        for node in self.pair.nodes:
            if not os.environ.get("KEEP"):
                shutil.rmtree(node.dir, ignore_errors=True)  # what the mounts kept from being removed

    def load(self, seconds):
        """Clients and faults for a while; the link is up and every daemon runs afterwards."""
        clients = [kind(node, self.model, USERS, random.Random(self.random.random()), self.options.pause)
                   for node in self.pair.nodes for kind in self.options.clients]
        faults = Faults(self.pair, self.model, self.random, self.options.faults)
        for client in clients:
            client.start()
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                time.sleep(self.random.uniform(0.2, 1.5))
                if self.options.faults:
                    faults.step()
        finally:
            for client in clients:
                client.halt.set()
            for client in clients:
                client.join(timeout=60)
                if isinstance(client, DovecotClient):
                    for user in USERS:
                        client.reconnect(user)
        for client in clients:
            assert not client.is_alive(), f"{type(client).__name__} on {client.node.host} hangs"
            if client.failure:
                raise client.failure

    def settle(self):
        """Waits until both nodes say that they are in sync and show the same; gives the accounts."""
        def in_sync():
            for node in self.pair.nodes:
                for name, process in node.processes.items():
                    if process.poll() is not None:
                        raise SystemExit(f"{name} of {node.host} ended with {process.returncode}")
                try:
                    status = node.status()
                except ValueError as error:
                    raise AssertionError(f"{node.host} says no status") from error
                assert status["in_sync"], (node.host, status)
            return True

        for node in self.pair.nodes:
            node.dsyncctl("replicate", "*")
        began = time.monotonic()
        eventually("both in sync", in_sync, SETTLE_SECS, every=0.2)
        accounts = {user: view.eventually_same(self.pair, user, SETTLE_SECS) for user in USERS}
        eventually("both in sync after clients looked", in_sync, SETTLE_SECS, every=0.2)
        self.model.note("settled", f"{time.monotonic() - began:.1f} s")
        return accounts

    def files(self):
        """What a sync might change: every file of mail, its size and its time."""
        found = {}
        for node in self.pair.nodes:
            for directory, _, names in os.walk(node.backing):
                for name in names:
                    path = os.path.join(directory, name)
                    if not re.search(r"\.lock$|dovecot\.index\.cache|/tmp/", path):
                        info = os.stat(path)
                        found[path] = (info.st_size, info.st_mtime_ns)
        return found

    def nothing_more_to_send(self):
        time.sleep(1.5)  # what Dovecot's last clients still write as they end
        before = self.files()
        for node in self.pair.nodes:
            node.dsyncctl("replicate", "-f", "*")
        time.sleep(0.5)
        eventually("both in sync again", lambda: all(node.status()["in_sync"] for node in self.pair.nodes), SETTLE_SECS)
        after = self.files()
        changed = [f"{path}: {before.get(path)} -> {after.get(path)}" for path in sorted(set(before) | set(after))
                   if before.get(path) != after.get(path)]
        assert not changed, "another sync changed something:\n  " + "\n  ".join(changed)

    def left_in_tmp(self):
        """What we left. A mail program that was killed leaves its own, and cleans up itself."""
        left = []
        for node in self.pair.nodes:
            for directory, _, names in os.walk(node.backing):
                left += [os.path.join(directory, name) for name in names
                         if "dsyncfs." in name and not name.startswith(("dsyncfs.conf", "dsyncfs.mailbox.log"))]
        return left

    def dovecot_trouble(self, node):
        lines = node.dovecot_log_problems()
        # Dovecot's sessions do not all survive the death of their mount: some end in a panic, others take the index log for
        # corrupt that lacks what they could not write, and mark their list index, which the next one then makes anew.
        bereft = {session_of(line) for line in lines if "Transport endpoint is not connected" in line}
        return [line for line in lines
                if TROUBLE_IN_LOG.search(line) and PANIC_OF_A_GUID not in line and session_of(line) not in bereft
                and not (bereft and MARKED_LIST_INDEX in line)
                and not (self.model.count["fault disk"] and PANIC_OF_A_FULL_DISK in line)]

    def check(self):
        accounts = self.settle()
        wrong = []
        for user, account in accounts.items():
            wrong += self.model.check(user, account)
        assert not wrong, "\n".join(wrong)
        self.nothing_more_to_send()
        assert not self.left_in_tmp(), self.left_in_tmp()
        for node in self.pair.nodes:
            trouble = node.sanitizer_lines() + self.dovecot_trouble(node)
            assert not trouble, f"{node.host}: " + "".join(trouble[:20])
        return {user: sum(len(mails) for _, mails in account[0].values()) for user, account in accounts.items()}

    def sizes(self):
        """{daemon: (pid, descriptors, resident kB)}"""
        found = {}
        for node in self.pair.nodes:
            for name in ("dsyncfs", "dsyncd"):
                pid = node.pid(name)
                with open(f"/proc/{pid}/status", encoding="ascii") as file:
                    resident = int(re.search(r"VmRSS:\s+(\d+)", file.read()).group(1))
                found[f"{name} of {node.host}"] = (pid, len(os.listdir(f"/proc/{pid}/fd")), resident)
        return found


def growth(sizes):
    """What grew over at least ten rounds in one process: more descriptors, or a quarter more memory."""
    found = []
    for name in sizes[-1]:
        rounds = [one[name] for one in sizes if one[name][0] == sizes[-1][name][0]]
        if len(rounds) < 10:
            continue
        early, late = rounds[len(rounds) // 4:len(rounds) // 2], rounds[-len(rounds) // 4:]
        for number, what, margin in ((1, "descriptors", 8), (2, "kB", 4096)):
            first, last = (sorted(one[number] for one in part)[len(part) // 2] for part in (early, late))
            if last > first * 1.25 + margin:
                found.append(f"{name}: {first} {what} became {last} over {len(rounds)} rounds")
    return found


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--round", type=float, default=8)
    parser.add_argument("--pause", type=float, default=0.06)
    parser.add_argument("--faults", default=",".join(kind for kind in FAULTS if kind != "disk"))
    parser.add_argument("--clients", default="dovecot,plain")
    parser.add_argument("--clocks", type=float, default=0)
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    options.faults = [kind for kind in options.faults.split(",") if kind]
    options.clients = [kind for kind in (DovecotClient, PlainClient) if kind.kind in options.clients.split(",")]
    for kind in options.faults:
        if kind not in FAULTS:
            parser.error(f"no such fault: {kind}")
    return options


def concerned(error):
    return sorted(set(re.findall(r"t\d{6}[ab]", str(error))))


def main():
    need("dovecot")
    options = arguments()
    print(f"seed {options.seed}", flush=True)
    history = History(options)
    begun = time.monotonic()
    try:
        with history.pair:
            history.begin()
            done = 0.0
            while done < options.seconds:
                secs = min(options.round, options.seconds - done)
                history.model.note("ROUND", f"{done:.0f} s")
                history.load(secs)
                mails = history.check()
                done += secs
                history.daemon_sizes.append(history.sizes())
                if options.seconds > options.round:
                    print(f"{done:.0f} s of load, {time.monotonic() - begun:.0f} s in all: {mails}, "
                          f"{history.daemon_sizes[-1]}", flush=True)
            if options.growth:
                assert not growth(history.daemon_sizes), growth(history.daemon_sizes)
            history.end()
    except BaseException as error:
        print(f"FAILED with seed {options.seed}: history in {history.model.path}")
        lines = history.model.about(concerned(error))
        print("\n".join(lines[-200:]))
        raise
    finally:
        history.end()
    print("ok:", ", ".join(f"{count} {kind}" for kind, count in sorted(history.model.count.items())))
    shutil.rmtree(os.path.dirname(history.model.path))


if __name__ == "__main__":
    sys.exit(main())
