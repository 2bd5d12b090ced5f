#!/usr/bin/python3
"""One new mail into a mailbox of 1,000, 10,000 and 100,000: what its replication costs, beside Dovecot's own replicator.

Both nodes begin with the same mailbox. Mails of about 2 kB are delivered by LMTP on node a, one after the other, each after
the one before has arrived on b and everything is quiet. Printed are CPU milliseconds and bytes on the link for each.

CPU: as in replication.py.

Usage: mailbox_size.py [--mails N] [--sizes N,N,...] [rival ...]    Rivals: dsyncfs, dovecot.
"""
import argparse
import os
import shutil
import time

from rivals import BODY, Rival, nodes

USER = "big@example.org"
VMAIL = nodes.VMAIL


def make_mailbox(maildir, size):
    """Files and a uidlist, as Dovecot leaves them. Everything seen, so nothing moves at the first look."""
    text = ("From: <sender@example.org>\nTo: <big@example.org>\nSubject: old mail\n\n" + BODY.replace("\r\n", "\n")).encode()
    for sub in ("", "cur", "new", "tmp"):
        os.makedirs(os.path.join(maildir, sub), exist_ok=True)
    names = [f"1700000000.M{number:06}P1.old,S={len(text)},W={len(text) + text.count(10)}" for number in range(size)]
    for name in names:
        with open(f"{maildir}/cur/{name}:2,S", "wb") as file:
            file.write(text)
    with open(maildir + "/dovecot-uidlist", "w", encoding="utf-8") as file:
        file.write(f"3 V1700000000 N{size + 1} G0123456789abcdef0123456789abcdef\n")
        file.writelines(f"{uid} :{name}\n" for uid, name in enumerate(names, 1))


def prefill(rival, size):
    homes = [node.home(USER, backing=rival.kind == "dsyncfs") for node in (rival.a, rival.b)]
    os.makedirs(homes[0])
    make_mailbox(homes[0] + "/Maildir", size)
    os.makedirs(os.path.dirname(homes[1]), exist_ok=True)
    shutil.copytree(homes[0], homes[1])
    for home in homes:
        for path, _, files in os.walk(os.path.dirname(home)):
            for name in ["."] + files:
                os.chown(os.path.join(path, name), VMAIL, VMAIL)


def messages(node):
    return int(node.imap(USER).select()[1][0])


def settle(rival, seconds=1.0):
    """Until nothing is done any more."""
    before = -1.0
    while True:
        now = rival.cpu_seconds()
        if now - before < 0.02:
            return
        before = now
        time.sleep(seconds)


def measure(kind, size, mails):
    """(CPU seconds, bytes on the link) of `mails` deliveries."""
    rival = Rival(kind, start=False)
    try:
        prefill(rival, size)
        rival.start()
        rival.a.deliver(USER, "the first one", BODY)
        for node in (rival.a, rival.b) if kind != "none" else (rival.a,):
            nodes.eventually("the mailbox is there", lambda node=node: messages(node) == size + 1, 600, every=1)
        # The listing that the IMAP sessions asked for, and what it leaves to be forgotten, is not what is measured.
        for number in range(3):
            rival.a.deliver(USER, f"warming up {number}", BODY)
        size += 3
        settle(rival, 3)
        cpu, link = rival.cpu_seconds(), rival.network.bytes()
        for number in range(mails):
            rival.a.deliver(USER, f"mail {number}", BODY)
            time.sleep(1.5)
        if kind != "none":  # looked at past the mount, which would pay for the listing
            maildir = rival.b.home(USER, backing=kind == "dsyncfs") + "/Maildir"
            nodes.eventually("all there", lambda: sum(len(os.listdir(f"{maildir}/{sub}")) for sub in ("new", "cur")) ==
                             size + 1 + mails, 60, every=1)
        settle(rival)
        return rival.cpu_seconds() - cpu, rival.network.bytes() - link
    finally:
        rival.close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mails", type=int, default=10)
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("rivals", nargs="*", default=["dsyncfs", "dovecot"])
    args = parser.parse_args()
    nodes.need("dovecot")
    print("rival     messages  CPU ms/mail  bytes/mail", flush=True)
    for kind in args.rivals:
        for size in (int(text) for text in args.sizes.split(",")):
            control = measure("none", size, args.mails)[0] if kind == "dovecot" else 0.0
            cpu, link = measure(kind, size, args.mails)
            print(f"{kind:8}  {size:8}  {(cpu - control) * 1000 / args.mails:11.1f}  {link / args.mails:10.0f}", flush=True)


if __name__ == "__main__":
    main()
