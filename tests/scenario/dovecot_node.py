"""A node that knows nothing of us: a Dovecot with its mail in plain directories and a doveadm port; and a pair with it."""
import os

from network import Network
from node import PASSWORD, Node, dovecot_config, eventually, skip

DOVEADM = """
doveadm_password = {password}
service doveadm {{
  inet_listener {{
    port = 4711
  }}
}}
"""

# As its manual has it, with our dsyncd as the other node.
REPLICATION = """
mail_plugins = $mail_plugins notify replication
service replicator {{
  process_min_avail = 1
  unix_listener replicator-doveadm {{
    mode = 0600
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
service doveadm {{
  user = root
}}
plugin {{
  mail_replica = tcp:{peer}:4711
}}
"""


def need_settings_of_23():
    if dovecot_config.is_24():
        skip("the settings of a node that is a Dovecot's are those of Dovecot 2.3")


class DovecotNode(Node):
    """Its `mount` is a directory."""

    def __init__(self, network, host, location="maildir:~/Maildir", replicates=False, settings=""):
        super().__init__(network, host, location)
        peer = network.addresses["b" if host == "a" else "a"]
        with open(self.dir + "/dovecot.conf", "a", encoding="utf-8") as file:
            file.write(DOVEADM.format(password=PASSWORD))
            if replicates:
                file.write(REPLICATION.format(uid=5000, peer=peer))
            file.write(settings)

    def start_all(self, dovecot=True):
        self.start_dovecot()

    def doveadm(self, *args, **options):
        from dsync_sides import run  # pylint: disable=import-outside-toplevel,cyclic-import
        return run([*self.network.command(self.host), "doveadm", "-c", self.dir + "/dovecot.conf", *args], root=True, **options)

    def log_problems(self, but=()):
        return [line for line in self.dovecot_log_problems() if not any(text in line for text in but)]


class MixedPair:
    """a is ours, b a Dovecot; a context manager like node.Pair."""

    def __init__(self, location="maildir:~/Maildir", settings="", replicates=False, theirs=None):
        need_settings_of_23()
        self.network = Network()
        self.nodes = []
        try:
            self.a = Node(self.network, "a", location, settings)
            self.nodes.append(self.a)
            self.b = theirs(self.network, "b") if theirs else DovecotNode(self.network, "b", replicates=replicates)
            self.nodes.append(self.b)
            self.b.start_all()
            self.a.start_all()
        except BaseException:
            self.__exit__(True, None, None)
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            for path in (self.a.log, self.b.dir + "/dovecot/log", self.a.dir + "/dovecot/log"):
                print(f"--- {path}")
                if os.path.exists(path):
                    with open(path, encoding="utf-8", errors="replace") as file:
                        print("".join([line for line in file if ": Info: " not in line][-60:]))
            print(f"--- dsyncctl status\n{self.a.dsyncctl('status', '*').stdout}")
        bad = [] if kind else self.a.sanitizer_lines()
        for node in self.nodes:
            node.close()
        self.network.close()
        assert not bad, "".join(bad)


def eventually_in_sync(node):
    eventually("dsyncd says that all is in sync", lambda: node.dsyncctl("status").stdout.startswith("in sync"))
