#!/usr/bin/python3
"""mdbox under Dovecot's LMTP on both nodes, while a mount, the replicator and workers are killed: what was acknowledged is there,
once, on both nodes, and nobody has to rebuild anything."""
import os
import smtplib
import threading
import time

import view
from node import Pair, eventually, need
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


def main():
    need("dovecot")
    with Pair(location="mdbox:~/mdbox") as pair:
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
        # A session that began on a mount that is gone is not one to look with.
        eventually("a answers", lambda: pair.a.imap(USER).logout())
        account = view.eventually_same(pair, USER, timeout=60)
        found = subjects(account)
        for load in loads:
            missing = set(load.acknowledged) - set(found)
            assert not missing, missing
            doubled = [subject for subject in load.acknowledged if found.count(subject) != 1]
            assert not doubled, doubled
        for node in pair.nodes:
            result = node.dsyncctl("purge", "alice@*")
            assert result.returncode == 0, result
            # A process of Dovecot that reads a mapped file of a mount that is gone dies of it.
            bad = [line for line in node.dovecot_log_problems() if "killed with signal" not in line and any(
                word in line for word in ("orrupt", "ebuild", "fsck", "Panic", "Fatal", "nconsisten"))]
            assert not bad, bad
        assert subjects(view.eventually_same(pair, USER)) == found
        print(f"{len(found)} mails, {sum(len(load.uncertain) for load in loads)} without an answer")
    print("ok")


if __name__ == "__main__":
    main()
