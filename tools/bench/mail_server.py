#!/usr/bin/python3
"""What the mount costs a mail server: Dovecot on the mount beside the same Dovecot on a plain directory of the same disk.

LMTP deliveries of messages of about 2 kB, one after the other, and IMAP FETCH of all bodies of a mailbox, to Maildir
and mdbox, in turns, as a ratio of speeds (1.00: as fast). Nobody replicates. Nothing else should run on the machine.

Usage: mail_server.py [--rounds N] [--messages N]     needs root, /dev/fuse, ip, Dovecot
"""
import argparse
import os
import smtplib
import statistics
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/scenario"))
import node as nodes  # noqa: E402
from network import Network  # noqa: E402

USER, READER = "writer@example.org", "reader@example.org"
MESSAGE = ("From: <sender@example.org>\r\nTo: <writer@example.org>\r\nSubject: a message\r\n\r\n" +
           "".join(f"Line {n:03} of a message that is about two kilobytes long, as many are.\r\n" for n in range(27)))
LOCATIONS = {"Maildir": "maildir:~/Maildir", "mdbox": "mdbox:~/mdbox"}
FETCHES = 5  # in a round; one is too short to be timed


class Side:
    """A Dovecot on the mount (host a) or on a plain directory (host b)."""

    def __init__(self, network, host, location):
        self.node = nodes.Node(network, host, location)

    def start(self):
        if self.node.host == "a":
            self.node.start_dsyncfs()
        self.node.start_dovecot()

    def lmtp(self):
        with self.node.network.on(self.node.host):
            return smtplib.LMTP(self.node.address, 24, local_hostname="localhost")

    def deliver(self, user, count):
        """Returns the seconds that it took."""
        client = self.lmtp()
        start = time.monotonic()
        for _ in range(count):
            client.sendmail("sender@example.org", [user], MESSAGE)
        took = time.monotonic() - start
        client.quit()
        return took

    def fetch(self, count):
        client = self.node.imap(READER)
        start = time.monotonic()
        for _ in range(FETCHES):
            _, data = client.fetch("1:*", "(UID FLAGS BODY.PEEK[])")
        took = time.monotonic() - start
        client.logout()
        seen = sum(isinstance(part, tuple) for part in data)
        if seen != count:
            raise SystemExit(f"{seen} messages instead of {count}")
        return took


def compare(name, location, rounds, messages):
    network = Network()
    sides = []
    try:
        sides += [Side(network, host, location) for host in "ab"]
        for side in sides:
            side.start()
            side.deliver(READER, messages)
            side.fetch(messages)
        works = {"LMTP delivery": lambda side: side.deliver(USER, messages), "IMAP FETCH": lambda side: side.fetch(messages)}
        for work, run in works.items():
            mounts, plains, ratios = [], [], []
            for _ in range(rounds):
                mount, plain = (run(side) for side in sides)
                mounts.append(mount)
                plains.append(plain)
                ratios.append(plain / mount)
            print(f"{work + ', ' + name:28} {statistics.median(ratios):8.2f} {1e3 * statistics.median(plains):7.0f} ms "
                  f"{1e3 * statistics.median(mounts):7.0f} ms", flush=True)
    finally:
        for side in sides:
            side.node.close()
        network.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--messages", type=int, default=200)
    args = parser.parse_args()
    nodes.need("dovecot")
    print(f"{'':28} {'ratio':>8} {'plain':>10} {'mount':>10}")
    for name, location in LOCATIONS.items():
        compare(name, location, args.rounds, args.messages)


if __name__ == "__main__":
    main()
