#!/usr/bin/python3
"""A daemon ends at its n-th crash point, for every n: journal commits, catch-up, applying, renames in the mount, and so on
(store/base/crash_point.h). It is started again, and in the end both nodes are as they would be without.

  crash_points.py [--every N] [--seconds N]     every N-th point only; stop after so many seconds for each program

Needs a build with -Dcrash_points=true; skips otherwise. One pair of nodes for all: each n is another round of the same
work, in which programs on both nodes deliver, flag, move and remove mail and make, rename and remove folders."""
import argparse
import os
import threading
import time

import plain
from node import BUILD, Pair, eventually, need, skip

USER = "crash@example.org"
# Who crashes, on which node, as it calls itself in the log.
VICTIMS = [("dsyncfs", "a"), ("dsyncd", "a"), ("dsyncd-worker", "a"), ("dsyncfs", "b"), ("dsyncd-worker", "b")]
# An index log that had been written and not yet put in its place when its mount died is a lock without an owner, as Dovecot's is:
# for three minutes nobody makes another. Seldom.
TAKEN_OVER_SECS = 240


def has_crash_points():
    with open(f"{BUILD}/tools/dsyncfs", "rb") as file:
        return b"DSYNCFS_CRASH" in file.read()


def persist(call, *accept):
    """As a mail program does while the mount is away: again, until it is done (or, after a crash, was done before)."""
    end = time.monotonic() + 20
    while True:
        try:
            return call()
        except accept:
            return None
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


class Round:
    """The work, on mails and folders of its own, and what is there afterwards."""

    def __init__(self, pair, number):
        self.pair, self.number = pair, number
        self.a, self.b = (node.home(USER) + "/Maildir" for node in pair.nodes)
        self.kept, self.removed = {}, set()  # {(folder, base): flags}

    def before(self):
        self.bases = [persist(lambda n=n: plain.deliver(self.a, f"round {self.number} mail {n}")) for n in range(4)]
        # A folder that is renamed while a session of its user looks at it may be renamed back: it is there before.
        self.folder, self.other = f"/.R{self.number}", f"/.S{self.number}"
        plain.make_maildir(self.a + self.folder)
        eventually("mails on b", lambda: set(self.bases) <= set(plain.files(self.b)), 30)
        eventually("folder on b", lambda: os.path.isdir(self.b + self.folder + "/cur"), 30)
        eventually("in sync before", lambda: all(node.status()["in_sync"] for node in self.pair.nodes), 30)

    def flag(self, maildir, base, flags):
        persist(lambda: plain.set_flags(maildir, base, flags))

    def work(self):
        """Each program asks for its thing once; what was answered counts."""
        flagged, gone, moved, kept = self.bases
        folder, new, made = self.folder, self.other, f"/.T{self.number}"
        here = persist(lambda: plain.deliver(self.a, f"round {self.number} late a"))
        there = persist(lambda: plain.deliver(self.b, f"round {self.number} late b", by_link=True))
        self.flag(self.a, flagged, "FS")
        persist(lambda: os.unlink(plain.find(self.a, gone)), FileNotFoundError)
        persist(lambda: plain.make_maildir(self.a + made))
        persist(lambda: os.rename(plain.find(self.a, moved), f"{self.a}{folder}/cur/{moved}:2,S"), FileNotFoundError)
        self.flag(self.b, kept, "R")
        eventually("moved on b", lambda: moved in plain.files(self.b + folder), 30)
        persist(lambda: os.rename(self.b + folder, self.b + new), FileNotFoundError)
        eventually("made on b", lambda: os.path.isdir(self.b + made + "/cur"), 30)
        self.kept = {("", flagged): "FS", ("", kept): "R", ("", here): "", ("", there): "", (new, moved): "S"}
        self.removed = {gone}

    def check(self):
        found = []
        for maildir in (self.a, self.b):
            there = {}
            for folder in sorted(name for name in os.listdir(maildir) if name.startswith(".") and name[1] in "RST"):
                there.update({("/" + folder, base): flags for base, flags in plain.files(f"{maildir}/{folder}").items()})
            there.update({("", base): flags for base, flags in plain.files(maildir).items()})
            found.append(there)
        assert found[0] == found[1], sorted(set(found[0].items()) ^ set(found[1].items()))
        for key, flags in self.kept.items():
            where = {place: flags for place, flags in found[0].items() if place[1] == key[1]}
            assert where == {key: flags}, (key, flags, "is", where)
        assert not self.removed & {base for _, base in found[0]}, "an expunged mail is back"
        return True


def uids(node):
    """{folder: uidlist} of a node."""
    maildir, result = node.home(USER) + "/Maildir", {}
    for folder in [""] + ["/" + name for name in os.listdir(maildir) if name.startswith(".") and name[1] in "RST"]:
        with open(f"{maildir}{folder}/dovecot-uidlist", encoding="utf-8") as file:
            header, *lines = file.read().splitlines()
        there = set(plain.files(maildir + folder))
        result[folder] = (header.split()[1], {line.partition(" :")[2]: line.split()[0] for line in lines
                                              if line.partition(" :")[2] in there})
    return result


def clean_up(pair, number):
    """Keeps the account small; an operation under crash points like any other."""
    maildir = pair.a.home(USER) + "/Maildir"
    for name in os.listdir(maildir):
        if name.startswith(".S") and int(name[2:]) <= number:
            for sub in ("cur", "new"):
                for file in os.listdir(f"{maildir}/{name}/{sub}"):
                    os.unlink(f"{maildir}/{name}/{sub}/{file}")


class Order:
    """An armed crash: the node's file."""

    def __init__(self, node):
        self.node, self.path = node, node.dir + "/crash/order"
        os.mkdir(node.dir + "/crash")
        os.chmod(node.dir + "/crash", 0o777)  # a worker of the mail's uid removes it
        node.environment["DSYNCFS_CRASH"] = self.path

    def arm(self, program, point):
        with open(self.path + ".new", "w", encoding="ascii") as file:
            file.write(f"{program} {point}\n")
        os.rename(self.path + ".new", self.path)

    def disarm(self):
        """The point's name, or None where nobody came so far."""
        for path in (self.path, self.path + ".done"):
            if os.path.exists(path):
                with open(path, encoding="ascii") as file:
                    text = file.read().strip()
                os.unlink(path)
                if path.endswith(".done"):
                    return text
        return None


def revive(pair):
    """What a supervisor does."""
    for node in pair.nodes:
        for name, start in (("dsyncfs", node.start_dsyncfs), ("dsyncd", node.start_dsyncd)):
            if node.processes[name].poll() is not None:
                node.processes.pop(name)
                start()


def run_round(pair, order, program, number, point):
    work = Round(pair, number)
    work.before()
    order.arm(program, point)

    def supervised(check, timeout):
        def step():
            revive(pair)
            return check()
        return eventually(f"{program} of {order.node.host} at point {point}", step, timeout)

    failure = []

    def do():
        try:
            work.work()
        except BaseException as error:  # pylint: disable=broad-exception-caught
            failure.append(error)

    worker = threading.Thread(target=do)
    worker.start()
    while worker.is_alive():
        revive(pair)
        time.sleep(0.01)
    worker.join()
    if failure:
        raise failure[0]

    def in_sync():
        work.check()
        return all(node.status()["in_sync"] for node in pair.nodes)

    supervised(in_sync, TAKEN_OVER_SECS)
    reached = order.disarm()
    supervised(in_sync, 60)

    def same_uids():
        left, right = (uids(node) for node in pair.nodes)
        assert left == right, (left, right)
        return True

    supervised(same_uids, 30)
    return reached


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1e9)
    parser.add_argument("--victim", default="")
    options = parser.parse_args()
    need()
    if not has_crash_points():
        skip("needs a build with -Dcrash_points=true")
    with Pair(dovecot=False, start=False) as pair:
        orders = {}
        for node in pair.nodes:
            orders[node.host] = Order(node)
            node.start_all(dovecot=False)
        plain.make_maildir(plain.make_home(pair.a, USER) + "/Maildir")
        number = 0
        for program, host in VICTIMS:
            if options.victim and options.victim != f"{program}@{host}":
                continue
            begun, seen, point = time.monotonic(), [], 1
            while time.monotonic() - begun < options.seconds:
                number += 1
                reached = run_round(pair, orders[host], program, number, point)
                clean_up(pair, number - 1)
                if not reached:
                    break
                seen.append(reached)
                point += options.every
            print(f"{program} on {host}: ended at {len(seen)} points, of {len(set(seen))} kinds", flush=True)
            assert seen, f"{program} on {host} never came to a crash point"
        left = [name for node in pair.nodes for name in os.listdir(node.home(USER) + "/Maildir/tmp") if "dsyncfs." in name]
        assert not left, left
    print("ok")


if __name__ == "__main__":
    main()
