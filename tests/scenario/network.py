"""Two hosts on one machine: network namespaces joined by a veth pair that can be cut and healed."""
import contextlib
import ctypes
import os
import subprocess

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000


def run(*argv, **kwargs):
    return subprocess.run([str(a) for a in argv], check=True, **kwargs)


def _setns(fd):
    if _libc.setns(fd, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Network:
    """Namespaces `<prefix>a` and `<prefix>b` with addresses 10.77.0.1 and 10.77.0.2 on a link of their own."""

    addresses = {"a": "10.77.0.1", "b": "10.77.0.2"}

    def __init__(self):
        self.prefix = f"dsfs{os.getpid()}"
        for host in "ab":
            run("ip", "netns", "add", self.namespace(host))
            run("ip", "-n", self.namespace(host), "link", "set", "lo", "up")
        run("ip", "link", "add", "eth0", "netns", self.namespace("a"),
            "type", "veth", "peer", "name", "eth0", "netns", self.namespace("b"))
        for host in "ab":
            run("ip", "-n", self.namespace(host), "addr", "add", self.addresses[host] + "/24", "dev", "eth0")
            run("ip", "-n", self.namespace(host), "link", "set", "eth0", "up")

    def namespace(self, host):
        return self.prefix + host

    def command(self, host):
        """Prefix of a command line that runs on the host (same mounts, other network)."""
        return ["nsenter", f"--net=/run/netns/{self.namespace(host)}", "--"]

    @contextlib.contextmanager
    def on(self, host):
        """Sockets made inside belong to the host's network."""
        own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        other = os.open(f"/run/netns/{self.namespace(host)}", os.O_RDONLY)
        try:
            _setns(other)
            yield
        finally:
            _setns(own)
            os.close(own)
            os.close(other)

    def cut(self):
        run("ip", "-n", self.namespace("a"), "link", "set", "eth0", "down")

    def heal(self):
        run("ip", "-n", self.namespace("a"), "link", "set", "eth0", "up")

    def bytes(self):
        """Bytes that crossed the link so far, both directions."""
        total = 0
        for host in "ab":
            out = run(*self.command(host), "cat", "/proc/net/dev", capture_output=True, text=True).stdout
            for line in out.splitlines():
                name, _, rest = line.strip().partition(":")
                if name == "eth0":
                    total += int(rest.split()[0])
        return total

    def close(self):
        for host in "ab":
            subprocess.run(["ip", "netns", "del", self.namespace(host)], check=False)
