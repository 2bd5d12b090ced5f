#!/usr/bin/python3
"""What happened in a folder is of that folder, wherever it is by the time anyone is told: mail is removed and delivered, then
the folder is renamed and another takes its name, or it is removed; while dsyncd is down, so that all is told at once, and while it runs;
and while the mount is dead."""
import os
import shutil
import signal
import time

import plain
from node import Pair, eventually

USER = "renamed@example.org"


def in_sync(pair):
    return all(node.status()["in_sync"] for node in pair.nodes)


def folders(pair):
    """Of each node {folder: its base names}."""
    found = []
    for node in pair.nodes:
        maildir = node.home(USER) + "/Maildir"
        names = [name for name in os.listdir(maildir) if os.path.isdir(f"{maildir}/{name}/cur")]
        found.append({name: sorted(plain.files(f"{maildir}/{name}")) for name in names})
    return found


def both_have(pair, expected):
    def have():
        there = folders(pair)
        assert there == [expected] * 2, there
        return in_sync(pair)

    eventually(f"both have {expected}", have, 30)


def shuffle(maildir, kept, removed):
    """In .Old: one mail goes, one comes; then it is .Moved, and there is a new .Old with another mail."""
    os.unlink(plain.find(maildir + "/.Old", removed))
    come = plain.deliver(maildir + "/.Old", "before the rename")
    os.rename(maildir + "/.Old", maildir + "/.Moved")
    plain.make_maildir(maildir + "/.Old")
    other = plain.deliver(maildir + "/.Old", "in the new one")
    return {".Moved": sorted([kept, come]), ".Old": [other]}


def follow(pair, maildir):
    """A folder is renamed to where another was a moment ago, and that one twice: what the other node did after us is no later
    wish of its own."""
    names = {name: plain.files(f"{maildir}/{name}") for name in (".Old", ".Moved")}
    pair.a.kill("dsyncd", signal.SIGTERM)
    os.rename(maildir + "/.Moved", maildir + "/.First")
    os.rename(maildir + "/.Old", maildir + "/.Second")
    os.rename(maildir + "/.First", maildir + "/.Old")
    pair.a.start_dsyncd()
    expected = {".Second": sorted(names[".Old"]), ".Old": sorted(names[".Moved"])}
    both_have(pair, expected)
    # The other node has taken in what the sync did there when it has told of this one.
    mail = plain.deliver(pair.b.home(USER) + "/Maildir", "there")
    eventually("the mail is here", lambda: mail in plain.files(maildir))
    os.rename(maildir + "/.Second", maildir + "/.Third")
    expected[".Third"] = expected.pop(".Second")
    both_have(pair, expected)
    # As it was.
    os.rename(maildir + "/.Old", maildir + "/.Moved")
    os.rename(maildir + "/.Third", maildir + "/.Old")
    return {".Moved": expected[".Old"], ".Old": expected[".Third"]}


def remove(folder):
    """As rm -r: dsyncd may write in the folder meanwhile."""
    eventually("it is removed", lambda: not shutil.rmtree(folder), 10)


def replace(maildir):
    """.Old becomes .Gone, which is removed, and there is a new .Old; and .Kept is removed and made again."""
    os.rename(maildir + "/.Old", maildir + "/.Gone")
    remove(maildir + "/.Gone")
    plain.make_maildir(maildir + "/.Old")
    remove(maildir + "/.Kept")
    plain.make_maildir(maildir + "/.Kept")
    return {".Old": [plain.deliver(maildir + "/.Old", "new")], ".Kept": [plain.deliver(maildir + "/.Kept", "new, too")]}


def half_removed(pair, maildir):
    """.Old becomes .Gone, and a sync comes when rm -r has taken all of its files but not yet the mail."""
    pair.a.kill("dsyncd", signal.SIGTERM)
    os.rename(maildir + "/.Old", maildir + "/.Gone")
    for name in os.listdir(maildir + "/.Gone"):
        if os.path.isfile(f"{maildir}/.Gone/{name}"):
            os.unlink(f"{maildir}/.Gone/{name}")
    mail = plain.deliver(maildir, "meanwhile")
    pair.a.start_dsyncd()
    eventually("the mail is there", lambda: mail in plain.files(pair.b.home(USER) + "/Maildir"))
    remove(maildir + "/.Gone")


def removals(pair, maildir):
    for name in os.listdir(maildir):
        if os.path.isdir(f"{maildir}/{name}/cur"):
            remove(f"{maildir}/{name}")
    both_have(pair, {})
    expected = {}
    for name in (".Old", ".Kept"):
        plain.make_maildir(maildir + "/" + name)
        expected[name] = sorted(plain.deliver(maildir + "/" + name, f"mail {n}") for n in range(3))
    both_have(pair, expected)
    pair.a.kill("dsyncd", signal.SIGTERM)
    expected = replace(maildir)
    pair.a.start_dsyncd()
    both_have(pair, expected)
    expected = replace(maildir)
    both_have(pair, expected)
    half_removed(pair, maildir)
    del expected[".Old"]
    both_have(pair, expected)


def renamed_unseen(pair, maildir):
    """The mount dies between a rename and the word of it."""
    plain.make_maildir(maildir + "/.Seen")
    mail = plain.deliver(maildir + "/.Seen", "before")
    both = {**folders(pair)[0], ".Seen": [mail]}
    both_have(pair, both)
    late = plain.deliver(maildir + "/.Seen", "just before")
    pair.a.kill("dsyncfs", signal.SIGKILL)
    behind = maildir.replace(pair.a.mount, pair.a.backing)
    os.rename(behind + "/.Seen", behind + "/.Unseen")
    pair.a.start_dsyncfs()
    del both[".Seen"]
    both_have(pair, {**both, ".Unseen": sorted([mail, late])})


def renamed_back(pair, maildir):
    """The sync undoes a rename, since the other node has made one of that name; mail that is removed at once from the one that
    is back is not taken for the other's."""
    there = maildir.replace(pair.a.mount, pair.b.mount)
    both = folders(pair)[0]
    for number in range(8):
        plain.make_maildir(f"{maildir}/.Back{number}")
        mails = both[f".Back{number}"] = sorted(plain.deliver(f"{maildir}/.Back{number}", f"mail {n}") for n in range(2))
        both_have(pair, both)
        pair.b.kill("dsyncd", signal.SIGTERM)
        plain.make_maildir(f"{maildir}/.Taken{number}")
        both[f".Taken{number}"] = [plain.deliver(f"{maildir}/.Taken{number}", "another")]
        time.sleep(1.1)  # the time of what happens to folders is told in seconds
        os.rename(f"{there}/.Back{number}", f"{there}/.Taken{number}")
        pair.b.start_dsyncd()
        eventually("it is back", lambda n=number: os.path.isdir(f"{there}/.Back{n}/cur"))
        time.sleep(0.004 * number)
        os.unlink(plain.find(f"{there}/.Back{number}", mails.pop()))
        both_have(pair, both)


def main():
    with Pair(dovecot=False) as pair:
        maildir = plain.make_home(pair.a, USER) + "/Maildir"
        plain.make_maildir(maildir)
        plain.make_maildir(maildir + "/.Old")
        kept, removed = sorted(plain.deliver(maildir + "/.Old", f"mail {n}") for n in range(2))
        both_have(pair, {".Old": [kept, removed]})

        pair.a.kill("dsyncd", signal.SIGTERM)
        expected = shuffle(maildir, kept, removed)
        pair.a.start_dsyncd()
        both_have(pair, expected)
        both_have(pair, follow(pair, maildir))

        # Again, while dsyncd runs and as it may meet it: with .Moved out of the way, and its mails the ones at stake.
        for number in range(5):
            os.rename(maildir + "/.Old", f"{maildir}/.Other{number}")
            os.rename(maildir + "/.Moved", maildir + "/.Old")
            expected[f".Other{number}"] = expected.pop(".Old")
            kept, removed = expected.pop(".Moved")
            both_have(pair, {**expected, ".Old": [kept, removed]})
            time.sleep(0.02 * number)
            expected.update(shuffle(maildir, kept, removed))
            both_have(pair, expected)
        removals(pair, maildir)
        renamed_unseen(pair, maildir)
        renamed_back(pair, maildir)


if __name__ == "__main__":
    main()
