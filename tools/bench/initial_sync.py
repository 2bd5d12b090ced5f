#!/usr/bin/python3
"""The first sync of a mailbox over tcp, beside `doveadm backup`, with the same data on the same machine: seconds and peak memory.

Node a has the mails as files that nobody has looked at yet, node b has nothing. dsyncfs: two mounts with dsyncd, from the start of
both until they are in sync. doveadm: Dovecot on plain directories.

Usage: initial_sync.py [--mails N] [--bytes PER_MAIL] [rival ...]     Rivals: dsyncfs, doveadm. Needs root, /dev/fuse, ip, Dovecot 2.3
"""
import argparse
import os
import resource
import subprocess
import time

from large_mailbox import USER, Memory, count_files
from rivals import PlainNode, nodes, plain
from rivals import Network


def make_mails(maildir, count, size):
    for path in (os.path.dirname(os.path.dirname(maildir)), os.path.dirname(maildir)):
        os.makedirs(path, exist_ok=True)
        os.chown(path, nodes.VMAIL, nodes.VMAIL)
    plain.make_maildir(maildir)
    line = "0123456789 " * 6 + "\n"
    for number in range(count):
        path = f"{maildir}/cur/{1600000000 + number}.M{number}P1.old:2,S"
        with open(path, "w", encoding="ascii") as file:
            file.write(f"From: <sender@example.org>\nSubject: mail {number}\n\n" + line * (size // len(line)))
        os.chown(path, nodes.VMAIL, nodes.VMAIL)
    os.sync()


def dsyncfs(mails, size):
    with nodes.Pair(dovecot=False, start=False) as pair:
        make_mails(pair.a.home(USER, backing=True) + "/Maildir", mails, size)
        memory = Memory(pair)
        backing = pair.b.home(USER, backing=True) + "/Maildir"
        start = time.monotonic()
        for each in pair.nodes:
            each.start_all(dovecot=False)
        nodes.eventually("the mails are on b", lambda: memory.look() or count_files(backing) == mails, 3600, every=0.1)
        nodes.eventually("in sync", lambda: all(each.dsyncctl("status").stdout.startswith("in sync") for each in pair.nodes), 600,
                         every=0.1)
        took = time.monotonic() - start
        memory.look()
        return took, max(memory.peak.values()) / 1024


def doveadm(mails, size):
    network = Network()
    a, b = PlainNode(network, "a", False), PlainNode(network, "b", True)
    try:
        make_mails(a.home(USER) + "/Maildir", mails, size)
        a.start_dovecot()
        b.start_dovecot()
        start = time.monotonic()
        run = subprocess.run([*network.command("a"), "doveadm", "-c", a.dir + "/dovecot.conf", "-o",
                              f"doveadm_password={nodes.PASSWORD}", "backup", "-u", USER, f"tcp:{network.addresses['b']}:4711"],
                             capture_output=True, text=True, check=False)
        took = time.monotonic() - start
        there = count_files(b.home(USER) + "/Maildir")
        if run.returncode != 0 or there != mails:
            raise SystemExit(f"doveadm backup: {run.returncode}, {there} mails: {run.stderr}")
        return took, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    finally:
        a.close()
        b.close()
        network.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mails", type=int, default=10000)
    parser.add_argument("--bytes", type=int, default=107000)
    parser.add_argument("rivals", nargs="*", default=["dsyncfs", "doveadm"])
    args = parser.parse_args()
    nodes.need("dovecot")
    print(f"{args.mails} mails of {args.bytes} bytes: seconds, peak MiB of a process", flush=True)
    for name in args.rivals:
        took, peak = {"dsyncfs": dsyncfs, "doveadm": doveadm}[name](args.mails, args.bytes)
        print(f"{name:8}  {took:8.1f}  {peak:8.0f}", flush=True)


if __name__ == "__main__":
    main()
