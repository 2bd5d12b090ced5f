#!/usr/bin/python3
"""Holds the tree to its dependency direction, by the #include lines.

    store/base <- store/body, store/index, store/journal <- store/maildir, store/dbox <- store <- fs, sync <- tools

fs and sync never include each other. store/maildir and store/dbox implement store/mailbox_private.h and are called
through it, so they may include the contracts (headers) of store that describe users, mailboxes and UIDVALIDITY, and nothing else of
store. lmdb.h is the business of store/journal alone.
"""
import os
import re
import sys

TOP = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

# folder -> folders whose headers it may include, beside its own
ALLOWED = {
    "store/base": [],
    "store/index": ["store/base"],
    "store/journal": ["store/base"],
    "store/body": ["store/base"],
    "store/maildir": ["store/base", "store/body", "store/index"],
    "store/dbox": ["store/base", "store/body", "store/index"],
    "store": ["store/base", "store/body", "store/index", "store/journal", "store/maildir", "store/dbox"],
    "fs": ["store", "store/base", "store/journal"],
    "sync": ["store", "store/base", "store/journal"],
    "tools": ["fs", "sync", "store", "store/base", "store/journal"],
}
# plain data and contracts of store that lower folders may know
FORMAT_CONTRACTS = ["store/mail.h", "store/mail_event.h", "store/mailbox.h", "store/mailbox_private.h",
                    "store/mailbox_name.h", "store/mail_user.h", "store/mail_location.h", "store/uidvalidity.h"]
CONTRACTS = {
    "store/index": ["store/mail.h"],
    "store/journal": ["store/mail_event.h"],
    "store/maildir": FORMAT_CONTRACTS,
    "store/dbox": FORMAT_CONTRACTS,
}
INCLUDE = re.compile(r'^\s*#\s*include\s+["<]([^">]+)[">]')


def folder_of(path):
    parts = path.split("/")
    if parts[0] == "store" and len(parts) > 2:
        return "/".join(parts[:2])
    return parts[0]


def problems():
    for folder in ("fs", "store", "sync", "tools"):
        for directory, _, files in os.walk(os.path.join(TOP, folder)):
            for name in files:
                if not name.endswith((".c", ".h")):
                    continue
                path = os.path.relpath(os.path.join(directory, name), TOP)
                yield from problems_of(path)


def problems_of(path):
    own = folder_of(path)
    if own not in ALLOWED:
        yield f"{path}: folder {own} has no place in the direction"
        return
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            found = INCLUDE.match(line)
            if not found:
                continue
            header = found.group(1)
            where = f"{path}:{number}: {header}"
            if header == "lmdb.h" and own != "store/journal":
                yield f"{where}: only store/journal includes it"
            if "/" not in header or header.split("/")[0] not in ("fs", "store", "sync", "tools"):
                continue
            other = folder_of(header)
            if other != own and other not in ALLOWED[own] and header not in CONTRACTS.get(own, []):
                yield f"{where}: {own} may not depend on {other}"
            if not os.path.exists(os.path.join(TOP, header)):
                yield f"{where}: no such header"


def main():
    found = list(problems())
    print("\n".join(found) or "the dependency direction holds")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
