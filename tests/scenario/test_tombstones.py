#!/usr/bin/python3
"""What is expunged while the other node is away stays expunged there, too, though Dovecot has rotated its index log twice
and more meanwhile; nothing else goes, and the journal keeps nothing of it afterwards. An argument: another location, or "dovecot": that is the other node."""
import os
import signal
import struct
import subprocess
import sys

import plain
import view
from dovecot_node import MixedPair
from node import BUILD, Pair, eventually, need

USER = "kept@example.org"
FOLDERS = ("INBOX", "Work")
ROTATE_SOON = """
mail_index_log_rotate_min_size = 1k
mail_index_log_rotate_min_age = 0
mail_index_log_rotate_max_size = 2k
"""


def tombstones(node):
    """{(mailbox, uid)} that the node keeps for its peer."""
    run = subprocess.run([f"{BUILD}/tests/journal/list_tombstones", node.dir + "/state"], capture_output=True, text=True,
                         check=False)
    assert run.returncode == 0, run.stderr
    return {tuple(line.split()[1:3]) for line in run.stdout.splitlines()}


def log_number(node, folder):
    """How often the folder's index log was rotated."""
    home = node.home(USER)
    where = {"maildir": home + "/Maildir" + ("" if folder == "INBOX" else f"/.{folder}"),
             "mdbox": f"{home}/mdbox/mailboxes/{folder}/dbox-Mails"}
    path = next(path for path in where.values() if os.path.exists(path)) + "/dovecot.index.log"
    with open(path, "rb") as file:
        return struct.unpack("<BBHII", file.read(12))[4]


def rotate(node, folder, times=3):
    """Changes flags until the log has been rotated so often."""
    client = node.imap(USER, select=False)
    client.select(folder)
    first, round_number = log_number(node, folder), 0
    while log_number(node, folder) < first + times:
        round_number += 1
        assert round_number < 5000, "Dovecot does not rotate its log"
        client.uid("STORE", "1:*", "+FLAGS" if round_number % 2 else "-FLAGS", f"(Round{round_number % 7})")
        if round_number % 20 == 0:
            client.select(folder)
    client.uid("STORE", "1:*", "-FLAGS", "(" + " ".join(f"Round{n}" for n in range(7)) + ")")
    client.logout()


def expunge(node, folder, uids):
    client = node.imap(USER, select=False)
    client.select(folder)
    client.uid("STORE", ",".join(map(str, uids)), "+FLAGS", r"(\Deleted)")
    client.expunge()
    client.logout()


def subjects(account):
    return {folder: sorted(next(line for line in mail[4].splitlines() if line.startswith(b"Subject: "))[9:].decode()
                           for mail in mails.values())
            for folder, (_, mails) in account[0].items()}


def fill(pair, count):
    client = pair.a.imap(USER)
    client.create("Work")
    for folder in FOLDERS:
        for number in range(count):
            client.append(folder, None, None, f"Subject: {folder} {number}\r\n\r\nHello.\r\n".encode())
    client.logout()
    wanted = {folder: sorted(f"{folder} {number}" for number in range(count)) for folder in FOLDERS}
    merged = view.eventually_same(pair, USER)
    assert subjects(merged) == wanted, subjects(merged)
    return wanted


def drop(wanted, *names):
    for name in names:
        wanted[name.rpartition(" ")[0]].remove(name)


def all_are_tombstones(node, count):
    eventually(f"{count} tombstones", lambda: len(tombstones(node)) == count)


def away(pair, wanted, unlink):
    """b's dsyncd is away; both are changed."""
    pair.b.kill("dsyncd", signal.SIGTERM)
    expunge(pair.a, "INBOX", [3, 7, 8])
    expunge(pair.a, "Work", [1, 12])
    drop(wanted, "INBOX 2", "INBOX 6", "INBOX 7", "Work 0", "Work 11")
    count = 5
    if unlink:
        root = pair.a.home(USER) + "/Maildir"
        path = next(plain.find(root, base) for base in plain.files(root)
                    if plain.subject(plain.find(root, base)) == "INBOX 9")
        os.unlink(path)
        drop(wanted, "INBOX 9")
        count += 1
    all_are_tombstones(pair.a, count)
    for folder in FOLDERS:
        rotate(pair.a, folder)
    # More of it, with what is kept of before; and a's dsyncd, too, may end.
    pair.a.kill("dsyncd")
    expunge(pair.a, "INBOX", [5])
    drop(wanted, "INBOX 4")
    pair.a.start_dsyncd()
    all_are_tombstones(pair.a, count + 1)
    rotate(pair.a, "INBOX")
    # The other node goes on, with what is gone here, too.
    client = pair.b.imap(USER)
    client.uid("STORE", "3,5,6", "+FLAGS", r"(\Flagged)")
    client.append("INBOX", None, None, b"Subject: INBOX from b\r\n\r\nHello.\r\n")
    client.logout()
    expunge(pair.b, "INBOX", [2])
    drop(wanted, "INBOX 1")
    wanted["INBOX"].append("INBOX from b")
    wanted["INBOX"].sort()


def settle(pair, wanted):
    def check():
        left, right = (subjects(view.account(node, USER)) for node in pair.nodes)
        assert left == right == wanted, (left, right)
        return True

    eventually("the same on both, without what was expunged", check, 30)
    merged = view.eventually_same(pair, USER, modseqs=False, highest=False)
    assert subjects(merged) == wanted, subjects(merged)
    for node in pair.nodes:
        eventually(f"no tombstones are left on {node.host}", lambda node=node: not tombstones(node))
        # The client that looks may have the folder open in the moment when it is deleted.
        problems = [line for line in node.dovecot_log_problems()
                    if "Killed with signal 15" not in line and ("Work" in wanted or "/.Work/" not in line)]
        assert not problems, problems


def back_with_its_state(pair, wanted, unlink):
    away(pair, wanted, unlink)
    pair.b.start_dsyncd()
    settle(pair, wanted)
    flagged = [uid for uid, mail in view.account(pair.a, USER)[0]["INBOX"][1].items() if r"\Flagged" in mail[0]]
    assert flagged == [6], flagged


def back_without_its_state(pair, wanted):
    """b has lost its state_dir: everything is compared."""
    pair.b.kill("dsyncd", signal.SIGTERM)
    expunge(pair.a, "Work", [2, 3])
    drop(wanted, "Work 1", "Work 2")
    all_are_tombstones(pair.a, 2)
    rotate(pair.a, "Work")
    pair.b.kill("dovecot", signal.SIGTERM)
    pair.b.kill("dsyncfs", signal.SIGTERM)
    os.rename(pair.b.dir + "/state", pair.b.dir + "/state.lost")
    pair.b.start_all()
    settle(pair, wanted)


def deleted_folder(pair, wanted):
    """What a folder had goes with it."""
    pair.cut()
    expunge(pair.a, "Work", [4])
    all_are_tombstones(pair.a, 1)
    client = pair.a.imap(USER)
    client.delete("Work")
    client.logout()
    eventually("no tombstones are left", lambda: not tombstones(pair.a))
    pair.heal()
    wanted.pop("Work")
    settle(pair, wanted)


def beside_a_dovecot():
    """A Dovecot of the other node is away, and hears of it from our list."""
    with MixedPair(settings="replication_poll_interval = 1s\n") as pair:
        pair.a.kill("dovecot", signal.SIGTERM)
        with open(pair.a.dir + "/dovecot.conf", "a", encoding="utf-8") as file:
            file.write(ROTATE_SOON)
        pair.a.start_dovecot()
        client = pair.a.imap(USER)
        for number in range(8):
            client.append("INBOX", None, None, f"Subject: INBOX {number}\r\n\r\nHello.\r\n".encode())
        client.logout()
        view.eventually_same(pair, USER, modseqs=False, highest=False)
        pair.b.kill("dovecot", signal.SIGTERM)
        expunge(pair.a, "INBOX", [3, 4, 8])
        all_are_tombstones(pair.a, 3)
        rotate(pair.a, "INBOX")
        pair.b.start_dovecot()
        wanted = {"INBOX": [f"INBOX {number}" for number in (0, 1, 4, 5, 6)]}

        def check():
            left, right = (subjects(view.account(node, USER)) for node in pair.nodes)
            assert left == right == wanted, (left, right)
            return True

        eventually("the same on both, without what was expunged", check, 30)
        eventually("no tombstones are left", lambda: not tombstones(pair.a))


def main():
    need("dovecot")
    if sys.argv[1:] == ["dovecot"]:
        beside_a_dovecot()
        print("ok")
        return
    location = sys.argv[1] if len(sys.argv) > 1 else "maildir:~/Maildir"
    with Pair(location=location, start=False) as pair:
        for node in pair.nodes:
            with open(node.dir + "/dovecot.conf", "a", encoding="utf-8") as file:
                file.write(ROTATE_SOON)
            node.start_all()
        plain.make_home(pair.a, USER)
        wanted = fill(pair, 14)
        back_with_its_state(pair, wanted, unlink=location.startswith("maildir"))
        back_without_its_state(pair, wanted)
        deleted_folder(pair, wanted)
    print("ok")


if __name__ == "__main__":
    main()
