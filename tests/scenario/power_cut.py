#!/usr/bin/python3
"""The power goes: what a node had not synced is gone, and what it had claimed or acknowledged is there.

  power_cut.py [--seed N] [--rounds N] [--removals]

Backing directory and state_dir of each node are on an ext4 of its own, which commits by itself only every five minutes. In
each round, at a random moment under load on both nodes, the filesystem of one node or of both is shut down without writing
anything (EXT4_IOC_SHUTDOWN, as xfstests do it), all that runs on the node is killed, and it is mounted and started again. In the
end both nodes are the same, and every mail that was acknowledged (file and directory synced) is there once.

With --removals the programs remove mail as well, and no mail may be back whose removal was synced."""
import argparse
import fcntl
import itertools
import os
import random
import shutil
import struct
import subprocess
import threading
import time

import plain
from node import VMAIL, Pair, eventually, need, skip

USER = "power@example.org"
IMAGE_BYTES = 96 << 20
SHUTDOWN, NO_LOG_FLUSH = 0x8004587D, 2  # EXT4_IOC_SHUTDOWN


def run(*argv):
    subprocess.run(argv, check=True, capture_output=True)


class Disk:
    """The node's ext4, with backing/ and state/."""

    def __init__(self, node):
        self.node, self.image, self.path = node, node.dir + "/image", node.dir + "/disk"
        self.numbers = itertools.count(1)
        with open(self.image, "wb") as file:
            file.truncate(IMAGE_BYTES)
        run("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", self.image)
        os.mkdir(self.path)
        os.makedirs(node.dir + "/state", exist_ok=True)
        self.attach()
        for name in ("backing", "state"):
            self.detach_one(f"{node.dir}/{name}")
            os.mkdir(f"{self.path}/{name}")
        os.chown(self.path + "/backing", VMAIL, VMAIL)
        run("sync", "-f", self.path)
        self.bind()

    def attach(self):
        run("mount", "-o", "loop,commit=300", self.image, self.path)

    def bind(self):
        for name in ("backing", "state"):
            run("mount", "--bind", f"{self.path}/{name}", f"{self.node.dir}/{name}")

    @staticmethod
    def detach_one(path):
        if os.path.ismount(path):
            subprocess.run(["umount", "-l", path], check=False)

    def cut(self):
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def detach(self):
        for name in ("backing", "state"):
            self.detach_one(f"{self.node.dir}/{name}")
        # Not lazily: it has to be gone before it is mounted again.
        eventually("the disk is free", lambda: subprocess.run(["umount", self.path], check=False,
                                                              capture_output=True).returncode == 0, every=0.05)

    def power_on(self):
        """What was on the disk is copied: where somebody's mount namespace still has the old filesystem, its loop device stays,
        and what that remembers of the disk would be mounted again."""
        self.detach()
        old, self.image = self.image, f"{self.node.dir}/image{next(self.numbers)}"
        run("cp", "--sparse=always", old, self.image)
        os.unlink(old)
        self.attach()
        self.bind()

    def close(self):
        for path in (self.node.dir + "/backing", self.node.dir + "/state", self.path):
            self.detach_one(path)


def sync_directory(path):
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Load(threading.Thread):
    """Delivers and removes on a node as careful programs do: what is noted was synced first, while there was power.
    (The disk goes before the processes do, which no power cut does.)"""

    def __init__(self, node, rng, removals):
        super().__init__(daemon=True)
        self.powered = True
        self.node, self.random, self.halt, self.removals = node, rng, threading.Event(), removals
        self.delivered, self.removing, self.removed, self.flagged = set(), set(), set(), {}

    def run(self):
        maildir = self.node.home(USER) + "/Maildir"
        own = []
        while not self.halt.is_set():
            try:
                base = plain.deliver(maildir, f"from {self.node.host}", "A line.\n" * self.random.choice([1, 50, 400]))
                sync_directory(maildir + "/new")
                if not self.powered:
                    break
                self.delivered.add(base)
                own.append(base)
                if self.random.random() < (0.3 if self.removals else 0):
                    victim = own.pop(self.random.randrange(len(own)))
                    path = plain.find(maildir, victim)
                    self.removing.add(victim)
                    os.unlink(path)
                    sync_directory(os.path.dirname(path))
                    if self.powered:
                        self.removed.add(victim)
            except OSError:
                time.sleep(0.05)
            time.sleep(0.01)


class Test:
    def __init__(self, pair, rng, removals):
        self.pair, self.random, self.removals = pair, rng, removals
        self.disks = {node.host: Disk(node) for node in pair.nodes}
        self.delivered, self.removing, self.removed = set(), set(), set()

    def stop_node(self, node):
        """All of it, with the workers, which end when their socket does."""
        for name in list(node.processes):
            node.kill(name)

    def round(self, number):
        hosts = self.random.choice(["b", "a", "ab"])
        loads = [Load(node, random.Random(self.random.random()), self.removals) for node in self.pair.nodes]
        for load in loads:
            load.start()
        time.sleep(self.random.uniform(0.1, 1.2))
        cut = [node for node in self.pair.nodes if node.host in hosts]
        for load in loads:
            load.powered = load.node not in cut
        for node in cut:
            self.disks[node.host].cut()
        for load in loads:
            load.halt.set()
        for load in loads:
            load.join(timeout=30)
            assert not load.is_alive()
        for node in cut:
            self.stop_node(node)
        for node in cut:
            self.disks[node.host].power_on()
            node.start_all(dovecot=False)
        for load in loads:
            self.delivered |= load.delivered
            self.removing |= load.removing
            self.removed |= load.removed
        for node in self.pair.nodes:
            node.dsyncctl("replicate", "*")
        eventually(f"round {number} after a cut of {hosts}: the same, and nothing lost", self.check, 60, every=0.1)
        print(f"round {number}: power cut of {hosts}: {len(self.delivered)} mails acknowledged so far, "
              f"{len(self.removed)} removed", flush=True)

    def check(self):
        left, right = (plain.files(node.home(USER) + "/Maildir") for node in self.pair.nodes)
        assert left == right, sorted(set(left.items()) ^ set(right.items()))
        assert self.delivered - self.removing <= set(left), ("lost", self.delivered - self.removing - set(left))
        # A removal in doubt may be either.
        assert not self.removed & set(left), ("back", self.removed & set(left))
        for node in self.pair.nodes:
            assert node.status()["in_sync"], node.host
        return True

    def close(self):
        for node in self.pair.nodes:
            node.close_processes()
        for disk in self.disks.values():
            disk.close()


def can_shut_down(disk):
    try:
        disk.cut()
    except OSError:
        return False
    disk.power_on()
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--removals", action="store_true")
    options = parser.parse_args()
    need("mkfs.ext4")
    if not os.path.exists("/dev/loop-control"):
        skip("needs loop devices")
    print(f"seed {options.seed}", flush=True)
    pair, test = Pair(dovecot=False, start=False), None
    try:
        with pair:
            test = Test(pair, random.Random(options.seed), options.removals)
            if not can_shut_down(test.disks["b"]):
                skip("needs an ext4 that can be shut down")
            for node in pair.nodes:
                node.dsyncd_options = ["-D"]
                node.start_all(dovecot=False)
            maildir = plain.make_home(pair.a, USER) + "/Maildir"
            plain.make_maildir(maildir)
            plain.deliver(maildir, "first")
            eventually("user on b", lambda: plain.files(pair.b.home(USER) + "/Maildir"))
            run("sync", "-f", test.disks["a"].path)
            run("sync", "-f", test.disks["b"].path)
            for number in range(1, options.rounds + 1):
                test.round(number)
            test.close()
    finally:
        if test:
            test.close()
        for node in pair.nodes:
            if not os.environ.get("KEEP"):
                shutil.rmtree(node.dir, ignore_errors=True)
    print("ok")


if __name__ == "__main__":
    main()
