#!/usr/bin/python3
"""Replication beside Dovecot's own replicator, measured the same way on the same machine.

For each rival: two nodes in network namespaces, Dovecot with LMTP and IMAP on both. Messages of about 2 kB are delivered by
LMTP on node a; for each, the time from LMTP's acknowledgement until a polling IMAP session on node b shows it,
and until its file is there on b. Then CPU seconds of replication per 1,000 messages, bytes on the link per message,
and the time until mail flows again after a link was cut for a while.

CPU: for dsyncfs, all of dsyncfs, dsyncd and its workers on both nodes. For Dovecot's replicator, whatever all of
Dovecot's processes used beyond a run of the same deliveries without replication.

Usage: replication.py [--messages N] [--rate PER_SECOND] [--users N] [--cut SECONDS] [rival ...]
Rivals: dsyncfs, dovecot. Needs root, /dev/fuse, ip, Dovecot 2.3. Results are printed as a table.
"""
import argparse
import os
import queue
import threading
import time

from rivals import BODY, Rival, nodes


class Watcher(threading.Thread):
    """Sees when a mailbox on node b has its next message: over IMAP (SELECT), or as a file in new/ or cur/."""

    def __init__(self, node, user, by_file):
        super().__init__(daemon=True)
        self.node, self.user, self.by_file = node, user, by_file
        self.seen = queue.Queue()
        self.ending = threading.Event()
        self.client = None if by_file else node.imap(user)

    def count(self):
        if self.by_file:
            maildir = self.node.home(self.user) + "/Maildir"
            return sum(len(os.listdir(f"{maildir}/{sub}")) for sub in ("new", "cur"))
        _, data = self.client.select()
        return int(data[0])

    def run(self):
        known = self.count()
        while not self.ending.is_set():
            now = self.count()
            for _ in range(now - known):
                self.seen.put(time.monotonic())
            known = max(now, known)
            time.sleep(0.001)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def idle_latency(rival, user, messages, by_file):
    watcher = Watcher(rival.b, user, by_file)
    watcher.start()
    time.sleep(0.3)
    taken = []
    for number in range(messages):
        rival.a.deliver(user, f"latency {number}", BODY)
        acknowledged = time.monotonic()
        taken.append((watcher.seen.get(timeout=60) - acknowledged) * 1000)
        time.sleep(0.05)
    watcher.ending.set()
    watcher.join()
    return taken


def load(rival, users, messages, rate):
    """Delivers at the rate; returns (CPU seconds, bytes on the link), settled."""
    cpu, link = rival.cpu_seconds(), rival.network.bytes()
    start = time.monotonic()
    for number in range(messages):
        rival.a.deliver(users[number % len(users)], f"load {number}", BODY)
        time.sleep(max(0, start + (number + 1) / rate - time.monotonic()))
    if rival.kind != "none":
        def arrived():
            return all(rival.b.imap(user).select()[1] == rival.a.imap(user).select()[1] for user in users)
        nodes.eventually("all mail on b", arrived, 120, every=0.5)
    time.sleep(2)
    return rival.cpu_seconds() - cpu, rival.network.bytes() - link


def heal_time(rival, user, seconds):
    rival.network.cut()
    rival.a.deliver(user, "while the link is cut", BODY)
    time.sleep(seconds)
    before = int(rival.b.imap(user).select()[1][0])
    rival.network.heal()
    healed = time.monotonic()
    nodes.eventually("mail flows again", lambda: int(rival.b.imap(user).select()[1][0]) > before, 400, every=0.05)
    return time.monotonic() - healed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", type=int, default=300)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--cut", type=float, default=20)
    parser.add_argument("rivals", nargs="*", default=["dsyncfs", "dovecot"])
    args = parser.parse_args()
    nodes.need("dovecot")
    users = [f"user{n}@example.org" for n in range(max(3, args.users))]

    control_cpu = 0.0
    if "dovecot" in args.rivals:
        control = Rival("none")
        try:
            control.prepare(users)
            control_cpu, _ = load(control, users, args.messages, args.rate)
        finally:
            control.close()
    print("rival     idle p50/p99 ms (IMAP)  idle p50/p99 ms (file)  CPU s/1000  bytes/message  heal s", flush=True)
    for kind in args.rivals:
        rival = Rival(kind)
        try:
            rival.prepare(users)
            imap = idle_latency(rival, users[0], args.messages, by_file=False)
            files = idle_latency(rival, users[1], args.messages, by_file=True)
            cpu, link = load(rival, users, args.messages, args.rate)
            if kind == "dovecot":
                cpu -= control_cpu
            healed = heal_time(rival, users[2], args.cut)
            print(f"{kind:8}  {percentile(imap, .5):9.1f} /{percentile(imap, .99):8.1f}   "
                  f"{percentile(files, .5):9.1f} /{percentile(files, .99):8.1f}   "
                  f"{cpu * 1000 / args.messages:10.2f}  {link / args.messages:13.0f}  {healed:6.1f}", flush=True)
        finally:
            rival.close()


if __name__ == "__main__":
    main()
