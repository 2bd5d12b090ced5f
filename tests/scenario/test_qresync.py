#!/usr/bin/python3
"""IMAP clients with QRESYNC that go from one node to the other and back, all the time, while both are written to and
merged: each ends up with exactly what the server has, from nothing but the changes that it was told of.
Arguments: episodes (traffic, then quiet, then all is compared), a seed, a location."""
import random
import re
import sys
import threading
import time

import view
from node import TAKEN, Pair, need

USER = "moving@example.org"
FLAGS = (r"\Seen", r"\Flagged", r"\Answered", "$Work", "$Junk")


def number_set(text):
    numbers = set()
    for part in text.split(","):
        first, _, last = part.partition(":")
        numbers.update(range(int(first), int(last or first) + 1))
    return numbers


def compact(numbers):
    """As a client says what it knows."""
    parts, numbers = [], sorted(numbers)
    for number in numbers:
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(a) if a == b else f"{a}:{b}" for a, b in parts)


class Session:
    """Raw IMAP: a command, and all untagged lines until it is done."""

    def __init__(self, node):
        self.client = node.imap(USER, select=False)
        self.tag = 0

    def command(self, text):
        self.tag += 1
        tag = f"Q{self.tag}".encode()
        self.client.send(tag + b" " + text.encode() + b"\r\n")
        lines = []
        while True:
            line = self.client.readline().rstrip(b"\r\n").decode()
            assert line or lines, "the server has closed"
            if line.startswith(tag.decode() + " "):
                assert line.split()[1] == "OK", f"{text}: {line}"
                return lines
            lines.append(line)

    def close(self):
        self.client.logout()


def fetched(lines):
    """{uid: flags} and {uid: modseq} of FETCH lines; the first one of each UID."""
    flags, modseqs = {}, {}
    for line in lines:
        uid, found = re.search(r"UID (\d+)", line), re.search(r"FLAGS \((.*?)\)", line)
        if " FETCH " not in line or not uid or not found:
            continue
        flags.setdefault(int(uid[1]), frozenset(found[1].split()) - {r"\Recent"})
        modseq = re.search(r"MODSEQ \((\d+)\)", line)
        if modseq:
            modseqs.setdefault(int(uid[1]), int(modseq[1]))
    return flags, modseqs


class Client:
    """Knows what it was told of, and asks for what happened since. says: which UIDs it names as known, "each" of those that
    it knows, a "range" up to the last that it has seen, or "none"."""

    def __init__(self, says):
        self.name = self.says = says
        self.mails, self.uid_validity, self.uid_next, self.modseq = {}, 0, 1, 0
        self.modseqs = {}
        self.history = []

    def resync(self, node):
        """What the server has at this moment, which is what the client should know afterwards."""
        session = Session(node)
        session.command("ENABLE QRESYNC")
        last = max([self.uid_next - 1, *self.mails])  # the other node's UIDNEXT may have been higher
        known = {"each": compact(self.mails), "range": f"1:{last}" if last else "", "none": ""}[self.says]
        what = f"({self.uid_validity} {self.modseq}{' ' + known if known else ''})"
        lines = session.command(f"SELECT INBOX (QRESYNC {what})" if self.modseq else "SELECT INBOX")
        text = "\n".join(lines)
        uid_validity = int(re.search(r"UIDVALIDITY (\d+)", text)[1])
        highest = int(re.search(r"HIGHESTMODSEQ (\d+)", text)[1])
        uid_next = int(re.search(r"UIDNEXT (\d+)", text)[1])
        if uid_validity != self.uid_validity:
            self.mails, self.uid_validity, self.modseq = {}, uid_validity, 0
        if not self.modseq:
            self.mails = {}
            lines = session.command("UID FETCH 1:* (UID FLAGS)")
            self.mails, _ = fetched(lines)
        elif uid_next > self.uid_next:
            lines += session.command(f"UID FETCH {self.uid_next}:{uid_next - 1} (UID FLAGS)")
        vanished = set()
        for line in lines:
            if line.startswith("* VANISHED"):
                vanished |= number_set(line.split()[-1])
        news, _ = fetched(lines)
        before = self.modseq
        for uid in vanished:
            self.mails.pop(uid, None)
        self.mails.update(news)
        self.modseq, self.uid_next = highest, uid_next
        there, modseqs = fetched(session.command("UID FETCH 1:* (UID FLAGS MODSEQ)"))
        self.modseqs = modseqs
        self.history.append(f"on {node.host}: since {before}, now {highest}, UIDNEXT {uid_next}, known {known}, vanished "
                            f"{compact(vanished)}, news {compact(news)}, there {compact(modseqs)}")
        session.close()
        return there

    def differences(self, there):
        return [f"{self.name}: uid {uid}: has {sorted(self.mails[uid]) if uid in self.mails else None}, server "
                f"{sorted(there[uid]) if uid in there else None} of modseq {self.modseqs.get(uid)}"
                for uid in sorted(set(there) | set(self.mails)) if there.get(uid) != self.mails.get(uid)]


def traffic(node, chance, end, errors):
    """What happens on one node."""
    try:
        client, number = node.imap(USER), 0
        while time.monotonic() < end:
            number += 1
            kind = chance.random()
            if kind < 0.4:
                node.deliver(USER, f"{node.host} {time.monotonic_ns()}")
            else:
                client.noop()
                uids = client.uid("SEARCH", "ALL")[1][0].split()
                if len(uids) < 10:
                    continue
                uid = chance.choice(uids).decode()
                if kind < 0.7:
                    client.uid("STORE", uid, chance.choice(("+FLAGS", "-FLAGS")), f"({chance.choice(FLAGS)})")
                else:
                    for uid in chance.sample(uids, min(len(uids), chance.randint(1, 3))):
                        client.uid("STORE", uid.decode(), "+FLAGS", r"(\Deleted)")
                    client.expunge()
            time.sleep(chance.random() * 0.04)
        client.logout()
    except BaseException as error:  # pylint: disable=broad-exception-caught
        errors.append(error)


def mover(client, pair, chance, end, errors):
    try:
        nodes = list(pair.nodes)
        chance.shuffle(nodes)
        while time.monotonic() < end:
            client.resync(nodes[0])
            nodes.reverse()
            time.sleep(chance.random() * 0.1)
    except BaseException as error:  # pylint: disable=broad-exception-caught
        errors.append(error)


def episode(pair, clients, chance, seconds):
    errors, end = [], time.monotonic() + seconds
    threads = [threading.Thread(target=traffic, args=(node, random.Random(chance.random()), end, errors))
               for node in pair.nodes]
    threads += [threading.Thread(target=mover, args=(client, pair, random.Random(chance.random()), end, errors))
                for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors
    view.eventually_same(pair, USER, timeout=60)
    wrong = []
    for client in clients:
        for node in chance.sample(pair.nodes, 2):
            found = client.differences(client.resync(node))
            if found:
                wrong += [f"on {node.host}, of modseq {client.modseq}"] + found
                wrong += [f"  {entry}" for entry in client.history[-6:]]
                client.modseq = client.uid_validity = 0
                client.resync(node)
    return wrong


def main():
    need("dovecot")
    episodes = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    location = sys.argv[3] if len(sys.argv) > 3 else "maildir:~/Maildir"
    chance = random.Random(seed)
    wrong, bad = [], 0
    with Pair(location=location) as pair:
        for number in range(5):
            pair.a.deliver(USER, f"at first {number}")
        view.eventually_same(pair, USER)
        clients = [Client(says) for says in ("each", "range", "none")]
        for number in range(episodes):
            found = episode(pair, clients, chance, 1.5)
            bad += bool(found)
            wrong += [f"episode {number}:"] + found if found else []
        moves = sum(len(client.history) for client in clients)
        print(f"{moves} moves in {episodes} episodes, {bad} of them with a difference", *wrong, sep="\n")
        assert not wrong
        for node in pair.nodes:
            problems = [line for line in node.dovecot_log_problems() if TAKEN not in line]
            assert not problems, problems
    print("ok")


if __name__ == "__main__":
    main()
