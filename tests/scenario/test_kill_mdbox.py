#!/usr/bin/python3
"""mdbox under Dovecot's LMTP on both nodes, while a mount, the replicator and workers are killed: what was acknowledged is there,
once, on both nodes, and to be read without a rebuild.

Usage: test_kill_mdbox.py [LOCATION LOCATION]      of each node
"""
import os
import signal
import smtplib
import subprocess
import sys
import threading
import time

import view
from node import Pair, need
from test_kill import workers

USER = "alice@example.org"


class Load(threading.Thread):
    """Delivers by LMTP, and expunges now and then, until it is told to stop."""

    def __init__(self, node):
        super().__init__()
        self.node = node
        self.stop = threading.Event()
        self.acknowledged, self.uncertain = [], []

    def run(self):
        number = 0
        while not self.stop.is_set():
            number += 1
            subject = f"{self.node.host} {number}"
            try:
                self.node.deliver(USER, subject, body="line\r\n" * (number % 40))
                self.acknowledged.append(subject)
            except (OSError, smtplib.SMTPException):
                # Without the mount; or the answer was cut off, and the mail may be there.
                self.uncertain.append(subject)
                time.sleep(0.05)
            time.sleep(0.02)


def subjects(account):
    found = []
    for _flags, _date, _size, _modseq, body in account[0]["INBOX"][1].values():
        found.append(next(line for line in body.splitlines() if line.startswith(b"Subject: "))[9:].decode())
    return sorted(found)


def check(found, loads):
    for load in loads:
        missing = set(load.acknowledged) - set(found)
        assert not missing, missing
        doubled = [subject for subject in load.acknowledged if found.count(subject) != 1]
        assert not doubled, doubled


def purge_needs_rebuild(node):
    """Dovecot adds behind a whole message that is in no map: what a process of it was writing when the mount died under it. A
    purge takes none of it for garbage, nor does Dovecot's."""
    result = node.dsyncctl("purge", "alice@*")
    rebuild = "the storage has to be rebuilt" in result.stderr
    if rebuild:
        print(result.stderr)
        subprocess.run(["doveadm", "-c", node.dir + "/dovecot.conf", "force-resync", "-u", USER, "INBOX"], check=True)
        result = node.dsyncctl("purge", "alice@*")
    assert result.returncode == 0, result
    return rebuild


def main(*locations):
    need("dovecot")
    with Pair(location=locations or "mdbox:~/mdbox") as pair:
        pair.a.deliver(USER, "first")
        view.eventually_same(pair, USER)
        loads = [Load(node) for node in pair.nodes]
        for load in loads:
            load.start()
        try:
            for _ in range(2):
                time.sleep(0.5)
                for pid in workers(pair.a)[:1] + workers(pair.b)[:1]:
                    try:
                        os.kill(pid, 9)
                    except ProcessLookupError:
                        pass
                time.sleep(0.5)
                pair.b.kill("dsyncd")
                pair.b.start_dsyncd()
                time.sleep(0.5)
                pair.a.kill("dsyncfs")
                pair.a.start_dsyncfs()
        finally:
            time.sleep(0.5)
            for load in loads:
                load.stop.set()
            for load in loads:
                load.join()
        # A process of Dovecot that met a dead mount goes on with an index in its memory, and complains when it finds
        # another in the files; one that reads a mapped file dies of it. What counts is what new ones say.
        pair.a.kill("dovecot", signal.SIGTERM)
        pair.a.start_dovecot()
        said = [len(node.dovecot_log_problems()) for node in pair.nodes]
        account = view.eventually_same(pair, USER, timeout=60)
        found = subjects(account)
        check(found, loads)
        if any([purge_needs_rebuild(node) for node in pair.nodes]):
            before = set(found)
            found = subjects(view.eventually_same(pair, USER, timeout=60))
            check(found, loads)
            brought = set(found) - before
            assert all(any(subject in load.uncertain for load in loads) for subject in brought), brought
            said = [len(node.dovecot_log_problems()) for node in pair.nodes]
        for node in pair.nodes:
            node.deliver(USER, f"after all on {node.host}")
        assert len(subjects(view.eventually_same(pair, USER))) == len(found) + 2
        for node, before in zip(pair.nodes, said):
            assert not node.dovecot_log_problems()[before:], node.dovecot_log_problems()[before:]
        print(f"{len(found)} mails, {sum(len(load.uncertain) for load in loads)} without an answer")
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
