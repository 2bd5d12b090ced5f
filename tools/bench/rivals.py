"""Two nodes that replicate: by dsyncfs, by Dovecot's own replicator, or not at all."""
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tests/scenario"))
import node as nodes  # noqa: E402
import plain  # noqa: E402,F401
from network import Network  # noqa: E402

TICKS = os.sysconf("SC_CLK_TCK")
BODY = "".join(f"Line {n:03} of a message that is about two kilobytes long, as many are.\r\n" for n in range(27))

REPLICATION_CONF = """
mail_plugins = notify replication
doveadm_password = {password}
doveadm_port = 4711
plugin {{
  mail_replica = tcp:{peer}:4711
}}
service doveadm {{
  inet_listener {{
    port = 4711
  }}
}}
service aggregator {{
  fifo_listener replication-notify-fifo {{
    mode = 0666
  }}
  unix_listener replication-notify {{
    mode = 0666
  }}
}}
service replicator {{
  process_min_avail = 1
  unix_listener replicator-doveadm {{
    mode = 0666
  }}
}}
"""


class PlainNode(nodes.Node):
    """Dovecot on a plain directory, with its own replication or with none."""

    def __init__(self, network, host, replicate):
        super().__init__(network, host)
        with open(self.dir + "/dovecot.conf", "a", encoding="utf-8") as file:
            if replicate:
                peer = network.addresses["b" if host == "a" else "a"]
                file.write(REPLICATION_CONF.format(password=nodes.PASSWORD, peer=peer))

    def start_all(self, dovecot=True):
        self.start_dovecot()


class Rival:
    def __init__(self, kind, start=True):
        self.kind, self.network = kind, Network()
        make = nodes.Node if kind == "dsyncfs" else lambda net, host: PlainNode(net, host, kind == "dovecot")
        self.a, self.b = (make(self.network, host) for host in "ab")
        if start:
            self.start()

    def start(self):
        for each in (self.a, self.b):
            each.start_all()

    def close(self):
        for each in (self.a, self.b):
            each.close()
        self.network.close()

    def prepare(self, users):
        """Each user gets a first mail, and has it on both."""
        for user in users:
            self.a.deliver(user, "first")
        if self.kind != "none":
            for user in users:
                # A Dovecot whose first try fails waits for five minutes.
                nodes.eventually(f"{user} has mail on b", lambda user=user: self.b.imap(user).select()[1][0] != b"0", 400)
        time.sleep(3)

    def cpu_seconds(self):
        """Of dsyncfs and dsyncd with their workers; or of all of Dovecot."""
        names = ("dsyncfs", "dsyncd") if self.kind == "dsyncfs" else ("dovecot",)
        return sum(tree_cpu_seconds(each.pid(name)) for each in (self.a, self.b) for name in names)


def tree_cpu_seconds(root):
    """User and system time of a process, of its living descendants, and of those it has waited for."""
    children = {}
    stats = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                fields = file.read().rpartition(") ")[2].split()
        except OSError:
            continue
        stats[int(entry)] = sum(int(n) for n in fields[11:15])
        children.setdefault(int(fields[1]), []).append(int(entry))
    total, todo = 0, [root]
    while todo:
        pid = todo.pop()
        total += stats.get(pid, 0)
        todo += children.get(pid, [])
    return total / TICKS
