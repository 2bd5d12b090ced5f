#!/usr/bin/python3
"""One very large mailbox: its first sync, one more mail, and a restart; time, and peak memory of each process.

Node a has the mailbox as files only, as a mail server without Dovecot leaves it; node b is empty.

Usage: large_mailbox.py [--mails N]     needs root, /dev/fuse, ip; a mail takes one block of the disk on each node
"""
import argparse
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/scenario"))
import node as nodes  # noqa: E402
import plain  # noqa: E402

USER = "large@example.org"


def make_mailbox(maildir, count):
    for path in (os.path.dirname(os.path.dirname(maildir)), os.path.dirname(maildir)):
        os.makedirs(path, exist_ok=True)
        os.chown(path, nodes.VMAIL, nodes.VMAIL)
    plain.make_maildir(maildir)
    for number in range(count):
        path = f"{maildir}/cur/{1600000000 + number // 100}.M{number:07}P1.old:2,S"
        with open(path, "w", encoding="ascii") as file:
            file.write(f"From: <sender@example.org>\nSubject: mail {number}\n\nHello.\n")
        os.chown(path, nodes.VMAIL, nodes.VMAIL)


def count_files(maildir):
    return sum(len(os.listdir(f"{maildir}/{sub}")) for sub in ("new", "cur")) if os.path.isdir(maildir) else 0


class Memory:
    """The peak of each process of both nodes in a phase, also of those that have ended; and of it what is not a
    file's pages, as far as it was seen."""

    def __init__(self, pair):
        self.pair, self.peak, self.own = pair, {}, {}

    def processes(self):
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                        parents[int(entry)] = int(file.read().rpartition(") ")[2].split()[1])
                except OSError:
                    pass
        for each in self.pair.nodes:
            for name in ("dsyncfs", "dsyncd"):
                if name not in each.processes:
                    continue
                pid = each.pid(name)
                yield f"{name} {each.host}", pid
                for child, parent in parents.items():
                    if parent == pid:
                        yield f"worker {each.host}", child

    def look(self):
        for name, pid in self.processes():
            try:
                with open(f"/proc/{pid}/status", encoding="utf-8") as file:
                    kib = dict(line.split()[:2] for line in file if line.startswith(("VmHWM", "Rss")))
            except OSError:
                continue
            self.peak[name] = max(self.peak.get(name, 0), int(kib.get("VmHWM:", 0)))
            self.own[name] = max(self.own.get(name, 0), int(kib.get("RssAnon:", 0)) + int(kib.get("RssShmem:", 0)))

    def begin(self):
        self.peak, self.own = {}, {}
        for _, pid in self.processes():
            try:
                with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as file:
                    file.write("5")
            except OSError:
                pass

    def wait(self, what, check, timeout=7200):
        start = time.monotonic()
        self.begin()

        def looking():
            self.look()
            return check()
        nodes.eventually(what, looking, timeout, every=0.2)
        took = time.monotonic() - start
        peaks = ", ".join(f"{name} {kib / 1024:.0f} ({self.own[name] / 1024:.0f})"
                          for name, kib in sorted(self.peak.items()))
        print(f"{what:24} {took:8.1f} s   peak MiB (not of files): {peaks}", flush=True)
        return took


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mails", type=int, default=1000000)
    args = parser.parse_args()
    nodes.need()
    with nodes.Pair(dovecot=False, start=False) as pair:
        start = time.monotonic()
        make_mailbox(pair.a.home(USER, backing=True) + "/Maildir", args.mails)
        print(f"{args.mails} mails made in {time.monotonic() - start:.0f} s", flush=True)
        root_a, root_b = (each.home(USER) + "/Maildir" for each in pair.nodes)
        memory = Memory(pair)

        def in_sync(count):
            return all(each.dsyncctl("status").stdout.startswith("in sync") for each in pair.nodes) \
                and count_files(root_b) == count

        for each in pair.nodes:
            each.start_all(dovecot=False)
        memory.wait("first sync", lambda: in_sync(args.mails))
        base = plain.deliver(root_a, "one more")
        memory.wait("one more mail", lambda: os.path.exists(f"{root_b}/new/{base}"))
        memory.wait("and in sync", lambda: in_sync(args.mails + 1))
        for each in pair.nodes:
            each.close_processes()
        for each in pair.nodes:
            each.start_all(dovecot=False)
        base = plain.deliver(root_a, "after the restart")
        memory.wait("restart, and one mail", lambda: os.path.exists(f"{root_b}/new/{base}"))
        memory.wait("and in sync", lambda: in_sync(args.mails + 2))


if __name__ == "__main__":
    main()
