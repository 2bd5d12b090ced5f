#!/usr/bin/python3
"""An idle pair exchanges nothing, and a second sync sends no mail and takes no mailbox lock."""
import ctypes
import os
import struct
import time

import plain
from node import Pair, eventually, need

USER = "idle@example.org"
_IN_CREATE, _IN_MOVED_TO, _IN_MODIFY = 0x100, 0x80, 0x2


class Watch:
    """What is made, moved in or written in a directory (inotify)."""

    def __init__(self, path):
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = libc.inotify_init1(os.O_NONBLOCK)
        assert libc.inotify_add_watch(self.fd, path.encode(), _IN_CREATE | _IN_MOVED_TO | _IN_MODIFY) > 0

    def names(self):
        found = []
        try:
            while True:
                data = os.read(self.fd, 65536)
                while data:
                    _, _, _, length = struct.unpack_from("iIII", data)
                    found.append(data[16:16 + length].rstrip(b"\0").decode())
                    data = data[16 + length:]
        except BlockingIOError:
            return found


def main():
    need()
    with Pair(dovecot=False) as pair:
        root_a = plain.make_home(pair.a, USER) + "/Maildir"
        root_b = pair.b.home(USER) + "/Maildir"
        plain.make_maildir(root_a)
        bases = [plain.deliver(root_a, f"mail {n}") for n in range(5)]
        eventually("mails on b", lambda: set(bases) <= set(plain.files(root_b)))
        eventually("in sync", lambda: all(n.dsyncctl("status").stdout.startswith("in sync") for n in pair.nodes))
        time.sleep(7)  # connections are kept for some seconds
        before = pair.network.bytes()
        time.sleep(5)
        idle = pair.network.bytes() - before
        assert idle < 300, f"an idle pair exchanged {idle} bytes"  # neighbour discovery of the link itself

        watches = [Watch(root) for root in (root_a, root_b)]
        for node in pair.nodes:
            before = pair.network.bytes()
            out = node.dsyncctl("replicate", USER)
            assert out.returncode == 0, out
            time.sleep(1.5)
            assert pair.network.bytes() - before < 6000, "the second sync sent mail"
        names = [name for watch in watches for name in watch.names()]
        assert not names, f"the second sync touched {names}"
    print("ok")


if __name__ == "__main__":
    main()
