#!/usr/bin/python3
"""One mailbox under live load on both nodes: LMTP, three IMAP sessions each that flag, copy and expunge, and dsyncctl purge, while
the replicator writes into it what happens on the other node. Nothing is lost or doubled, and Dovecot has nothing to say.

Usage: test_live.py [LOCATION [SECONDS [24]]]      24: beside a Dovecot 2.4 (dovecot24.py)
"""
import imaplib
import random
import sys
import threading
import time

import view
from dovecot24 import Node24
from node import TAKEN, Node, Pair, need

USER = "busy@example.org"


class Part(threading.Thread):
    """A client that does something again and again until it is told to stop."""

    def __init__(self, step, pause):
        super().__init__()
        self.step, self.pause = step, pause
        self.stop = threading.Event()
        self.error, self.steps = None, 0

    def run(self):
        try:
            while not self.stop.is_set():
                self.step()
                self.steps += 1
                time.sleep(self.pause)
        except BaseException as error:  # pylint: disable=broad-exception-caught
            self.error = error


class History:
    """What was delivered, and which of it somebody wanted to expunge."""

    def __init__(self):
        self.lock = threading.Lock()
        self.delivered, self.doomed = set(), set()

    def deliver(self, node, numbers):
        def step():
            subject = f"{node.host} {next(numbers)}"
            node.deliver(USER, subject, body="line\r\n" * random.randrange(60))
            with self.lock:
                self.delivered.add(subject)
        return step

    def session(self, node, chance):
        client = node.imap(USER)

        def subject_of(uid):
            data = client.uid("FETCH", uid, "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]
            part = next((part for part in data if isinstance(part, tuple)), None)
            return part and part[1].split(b":", 1)[1].strip().decode()

        def step():
            try:
                command()
            except imaplib.IMAP4.error as error:
                # Another session was faster.
                assert "EXPUNGEISSUED" in str(error), error

        def command():
            client.noop()
            uids = client.uid("SEARCH", "ALL")[1][0].split()
            if not uids:
                return
            uid = chance.choice(uids)
            what = chance.randrange(10)
            if what < 5:
                flag = chance.choice([r"\Seen", r"\Flagged", r"\Answered", "work", "$Label1"])
                client.uid("STORE", uid, chance.choice(["+FLAGS", "-FLAGS"]), f"({flag})")
            elif what < 7:
                client.uid("COPY", uid, "Copies")
            elif what < 9 and len(uids) > 5:
                subject = subject_of(uid)
                if subject is None:
                    return
                with self.lock:
                    self.doomed.add(subject)
                client.uid("STORE", uid, "+FLAGS", r"(\Deleted)")
                client.uid("EXPUNGE", uid)
            else:
                client.uid("FETCH", uid, "(BODY.PEEK[] FLAGS)")
        return step


def subjects(account):
    return [next(line for line in mail[4].splitlines() if line.startswith(b"Subject: "))[9:].decode()
            for mail in account[0]["INBOX"][1].values()]


def purge(node):
    def step():
        result = node.dsyncctl("purge", "busy@*")
        assert result.returncode == 0, result
    return step


def main(location="mdbox:~/mdbox", seconds="3", version="23"):
    need("dovecot")
    imaplib.Commands.setdefault("EXPUNGE", ("SELECTED",))
    with Pair(location=location, kinds=(Node24, Node24) if version == "24" else (Node, Node)) as pair:
        pair.a.deliver(USER, "first")
        pair.a.imap(USER).create("Copies")
        view.eventually_same(pair, USER)
        history, parts = History(), []
        for node in pair.nodes:
            parts.append(Part(history.deliver(node, iter(range(1000000))), 0.03))
            parts += [Part(history.session(node, random.Random(number)), 0.02) for number in range(3)]
            if location.startswith("mdbox:"):
                parts.append(Part(purge(node), 0.3))
        for part in parts:
            part.start()
        time.sleep(float(seconds))
        for part in parts:
            part.stop.set()
        for part in parts:
            part.join()
        assert not [part.error for part in parts if part.error], [part.error for part in parts if part.error]
        found = subjects(view.eventually_same(pair, USER, timeout=60))
        lost = history.delivered - history.doomed - set(found)
        assert not lost, lost
        assert len(found) == len(set(found)), sorted(found)
        for node in pair.nodes:
            problems = [line for line in node.dovecot_log_problems() if TAKEN not in line]
            assert not problems, problems
        print(f"{len(history.delivered)} delivered, {len(found)} left, {sum(part.steps for part in parts)} commands")
    print("ok")


if __name__ == "__main__":
    main(*sys.argv[1:])
