#!/usr/bin/python3
"""Mailbox names with a % and two hex digits, with a real Dovecot 2.3.19 at the other end, which takes them for escape
sequences: whoever starts, and whichever side made them, both have the names that were given; a second run sends nothing."""
import sys

from dovecot24 import Dovecot24
from dsync_sides import USER, Directory, until_done
from test_dsync_dovecot import Sides, backup_ways, quiet

# With all that an escape sequence may stand for: a letter, the separator, the character itself, a control character; in
# a parent, in a child, in both. "%4" and "100%" are none.
NAMES = ["50%20off", "a%41b", "%25", "deep/a%2fb", "par%41/kid%42", "x%0ay", "100%", "no%4", "%e4%b6"]


def boxes(side):
    """{name: (GUID, messages)}"""
    lines = side.own("-f", "tab", "mailbox", "status", "guid messages", "*").stdout.splitlines()[1:]
    return {name: (guid, messages) for name, guid, messages in (line.split("\t") for line in lines)}


def make(side, tag, names=NAMES):
    for name in names:
        name = f"{tag}{name}"
        side.own("mailbox", "create", "-s", name)
        side.deliver(f"Subject: in it\n\n{name}\n", mailbox=name)


def mirror(sides, sync, what):
    make(sides.ours, "ours-")
    make(sides.theirs, "theirs-")
    until_done(sync)
    sides.same()
    expected = {f"{tag}{name}" for tag in ("ours-", "theirs-") for name in NAMES}
    expected.add("INBOX")
    for side in (sides.ours, sides.theirs):
        assert set(boxes(side)) == expected, (what, expected ^ set(boxes(side)))
    quiet(sides, sync, what)
    # Below what the other side has by now, renamed to and from such names, deleted, unsubscribed.
    for side, tag in ((sides.ours, "ours-"), (sides.theirs, "theirs-")):
        other = "theirs-" if tag == "ours-" else "ours-"
        side.own("mailbox", "create", "-s", f"{other}par%41/new%43", f"{other}50%20off/sub")
        side.deliver("Subject: below\n\nbelow\n", mailbox=f"{other}par%41/new%43")
        # Its dsync does not find what its log says of a rename to such a name.
        side.own("mailbox", "rename", f"{other}a%41b", f"{other}renamed%44" if side is sides.ours else f"{other}renamed")
        side.own("mailbox", "rename", f"{other}x%0ay", f"{other}plain")
        side.own("mailbox", "delete", f"{other}%25")
        side.own("mailbox", "unsubscribe", f"{other}%25")
        side.own("mailbox", "unsubscribe", f"{other}%e4%b6")
        side.own("mailbox", "subscribe", f"{tag}only%45subscribed")
    until_done(sync)
    until_done(sync)  # a rename moves its subscription at one side: heard of in the next session
    sides.same()
    for tag in ("ours-", "theirs-"):
        expected -= {f"{tag}a%41b", f"{tag}x%0ay", f"{tag}%25"}
        expected |= {f"{tag}{name}" for name in ("par%41/new%43", "50%20off/sub", "plain")}
    expected |= {"ours-renamed", "theirs-renamed%44"}
    for side in (sides.ours, sides.theirs):
        assert set(boxes(side)) == expected, (what, expected ^ set(boxes(side)))
    quiet(sides, sync, what)
    print("ok: mirror,", what)


def one_way(sides):
    for number, (name, source, destination, sync) in enumerate(backup_ways(sides)):
        tag = f"backup{number}-"
        make(source, tag)
        until_done(sync)
        assert {tag + name for name in NAMES} <= set(boxes(destination)), (name, boxes(destination))
        source.own("mailbox", "rename", f"{tag}a%41b", f"{tag}b%42b")
        source.own("mailbox", "delete", f"{tag}%25")
        until_done(sync)
        before = source.view()
        until_done(sync)
        assert source.view() == before == sides.same(), name
        print("ok: backup,", name)


# --- with a 2.4, which says its names unescaped

# What it can say so.
NAMES_24 = [name for name in NAMES if "%2f" not in name and "%0a" not in name and "%e4" not in name]


def with_24(directory):
    """What was made here has its name at both ends, and in both directions a second run sends nothing. What was made there
    cannot be told from what it stands for: there it stays, here it is that."""
    sides = Sides(directory)
    with sides.ours.start(), Dovecot24() as theirs:
        sides.theirs = theirs.start()
        make(sides.ours, "ours-", NAMES_24)
        names = {f"ours-{name}" for name in NAMES_24} | {"INBOX"}
        script = theirs.script_to(sides.ours.conf)
        ways = (lambda: sides.dsync("mirror", f"tcp:127.0.0.1:{theirs.port}"),
                lambda: theirs.doveadm("sync", "-u", USER, script, expect=(0, 2)))
        for sync in ways:
            until_done(sync)
            for side in (sides.ours, theirs):
                assert set(boxes(side)) == names, names ^ set(boxes(side))
            until_done(sync)
            for _ in range(2):
                result = sync()
                assert result.returncode == 0, result
                assert "mailboxes, " not in result.stderr or " 0 mails sent, 0 received, 0 changes" in result.stderr, result
        # Below a name that it has. (It may put a new one elsewhere where what its parent stands for comes first in order.)
        sides.ours.own("mailbox", "create", "ours-par%41/kid%42/new%43")
        sides.ours.own("flags", "add", r"\Flagged", "mailbox", "ours-50%20off", "1")
        theirs.own("flags", "add", r"\Answered", "mailbox", "ours-a%41b", "1")
        theirs.own("mailbox", "create", "ours-50%20off/theirs", "theirs-50%20off")
        until_done(ways[0])
        until_done(ways[0])
        names |= {"ours-par%41/kid%42/new%43", "ours-50%20off/theirs"}
        assert set(boxes(sides.ours)) == names | {"theirs-50 off"}, names ^ set(boxes(sides.ours))
        assert set(boxes(theirs)) == names | {"theirs-50%20off"}, names ^ set(boxes(theirs))
        assert sides.ours.view()[0][:-1] == theirs.view()[0][:-1]
        # It takes its own name for another one where it starts, and wants to be run again for ever.
        ways[1]()
        until_done(ways[0])
        assert set(boxes(sides.ours)) == names | {"theirs-50 off"}, names ^ set(boxes(sides.ours))
        assert set(boxes(theirs)) == names | {"theirs-50%20off"}, names ^ set(boxes(theirs))
        print("ok: 2.4")


def main(way):
    if way == "24":
        with Directory() as directory:
            return with_24(directory)
    for name in ("we_by_pipe", "we_by_tcp", "they_by_pipe"):
        with Directory() as directory:
            sides = Sides(directory)
            with sides.theirs.start(), sides.ours.start():
                mirror(sides, getattr(sides, name), name)
    with Directory() as directory:
        sides = Sides(directory)
        with sides.theirs.start(), sides.ours.start():
            one_way(sides)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "23")
