#!/usr/bin/python3
"""mdbox under Dovecot on both mounts, and mdbox on one and Maildir on the other: what a client does on one node, a client sees on
the other."""
from node import need
from test_dovecot import run


def main():
    need("dovecot")
    run("mdbox:~/mdbox")
    run(("mdbox:~/mdbox", "maildir:~/Maildir"))
    print("ok")


if __name__ == "__main__":
    main()
