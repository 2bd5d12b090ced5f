#!/usr/bin/python3
"""Plain programs on either side, no mail server anywhere: the same base names and flags on both mounts."""
import os
import shutil

import plain
from node import Pair, eventually, need

USER = "plain@example.org"


def same(pair, folder=""):
    def check():
        left = plain.files(pair.a.home(USER) + "/Maildir" + folder)
        right = plain.files(pair.b.home(USER) + "/Maildir" + folder)
        assert left == right, (left, right)
        return True

    eventually(f"maildir{folder} is the same on both", check)


def remove_folder(path):
    """As "rm -r" does it, which somebody repeats when the folder's index was just written to."""
    for _ in range(20):
        try:
            shutil.rmtree(path)
            return
        except OSError:
            if not os.path.exists(path):
                return
    raise AssertionError(f"{path} cannot be removed")


def main():
    need()
    with Pair(dovecot=False) as pair:
        root_a = plain.make_home(pair.a, USER) + "/Maildir"
        root_b = pair.b.home(USER) + "/Maildir"
        plain.make_maildir(root_a)

        first = plain.deliver(root_a, "first")
        eventually("first mail on b", lambda: first in plain.files(root_b))
        assert plain.subject(plain.find(root_b, first)) == "first"
        second = plain.deliver(root_b, "second", by_link=True)
        eventually("second mail on a", lambda: second in plain.files(root_a))

        plain.set_flags(root_a, first, "S")
        eventually("seen on b", lambda: plain.files(root_b)[first] == "S")
        plain.set_flags(root_b, second, "FRS")
        eventually("flags on a", lambda: plain.files(root_a)[second] == "FRS")

        os.unlink(plain.find(root_b, first))
        eventually("removed on a", lambda: first not in plain.files(root_a))
        assert second in plain.files(root_a)

        plain.make_maildir(root_a + "/.Work")
        moved = plain.deliver(root_a, "to be moved")
        eventually("third mail on b", lambda: moved in plain.files(root_b))
        eventually("folder on b", lambda: os.path.isdir(root_b + "/.Work/cur"))
        os.rename(plain.find(root_b, moved), f"{root_b}/.Work/cur/{moved}:2,S")
        eventually("moved on a", lambda: plain.files(root_a + "/.Work") == {moved: "S"})
        same(pair)

        os.rename(root_a + "/.Work", root_a + "/.Archive")
        eventually("folder renamed on b", lambda: plain.files(root_b + "/.Archive") == {moved: "S"})
        eventually("old name gone on b", lambda: not os.path.exists(root_b + "/.Work"))

        remove_folder(root_b + "/.Archive")
        eventually("folder gone on a", lambda: not os.path.exists(root_a + "/.Archive"))
        same(pair)
    print("ok")


if __name__ == "__main__":
    main()
