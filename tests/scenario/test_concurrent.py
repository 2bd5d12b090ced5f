#!/usr/bin/python3
"""The first login of a new user on both nodes at once, and both delivering to one mailbox all the time: merged."""
import imaplib
import threading

import view
from node import Pair, need


def at_once(*calls):
    errors = []

    def guard(call):
        try:
            call()
        except BaseException as error:  # pylint: disable=broad-exception-caught
            errors.append(error)

    threads = [threading.Thread(target=guard, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors


def subjects(account):
    return sorted(next(l for l in mail[4].splitlines() if l.startswith(b"Subject: ")).decode()[9:]
                  for mail in account[0]["INBOX"][1].values())


def main():
    need("dovecot")
    with Pair() as pair:
        user = "new@example.org"
        clients = {}

        def login(node):
            def call():
                client = clients[node.host] = node.imap(user)
                try:
                    client.create("Folder")
                except imaplib.IMAP4.error as error:  # the other node's was here first, milliseconds after it was made
                    assert "ALREADYEXISTS" in str(error), error
                client.append("Folder", None, None, f"Subject: first {node.host}\r\n\r\nx\r\n".encode())
            return call

        at_once(login(pair.a), login(pair.b))
        merged = view.eventually_same(pair, user)
        assert len(merged[0]["Folder"][1]) == 2, merged[0]["Folder"]
        assert merged[0]["Folder"][0][0], "UIDVALIDITY"

        user = "busy@example.org"

        def load(node):
            def call():
                for number in range(25):
                    node.deliver(user, f"{node.host} {number:02}")
            return call

        at_once(load(pair.a), load(pair.b))
        merged = view.eventually_same(pair, user, timeout=40)
        assert subjects(merged) == sorted(f"{host} {n:02}" for host in "ab" for n in range(25)), subjects(merged)
        for node in pair.nodes:
            assert not node.dovecot_log_problems(), node.dovecot_log_problems()
    print("ok")


if __name__ == "__main__":
    main()
