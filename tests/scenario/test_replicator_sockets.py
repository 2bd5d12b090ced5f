#!/usr/bin/python3
"""Dovecot 2.3's replicator sockets on dsyncd: its doveadm shows and asks, its replication plugin notifies, and a delivery
waits until the other node has it."""
import os
import socket
import time

import view
from dsync_sides import run
from node import Pair, dovecot_config, eventually, need, skip

USER = "alice@example.org"
SETTINGS = """
service aggregator {
  fifo_listener replication-notify-fifo {
    mode = 0666
  }
  unix_listener replication-notify {
    user = nobody
    mode = 0666
  }
}
service replicator {
  unix_listener replicator-doveadm {
    mode = 0600
  }
}
"""
# Of the node's own Dovecot: it waits for us, at most so long.
PLUGIN = """
mail_plugins = $mail_plugins notify replication
plugin {
  replication_sync_timeout = 5
  mail_replica = tcp:10.77.0.2:4711
}
"""


class Doveadm:
    def __init__(self, node):
        self.node = node

    def __call__(self, *args, expect=(0,)):
        path = self.node.dir + "/state/replicator-doveadm"
        return run(["doveadm", "-c", self.node.dir + "/dovecot.conf", "-f", "tab", "replicator", args[0], "-a", path,
                    *args[1:]], expect=expect, root=True)

    def rows(self, *args):
        lines = self(*args).stdout.splitlines()
        return [dict(zip(lines[0].split("\t"), line.split("\t"))) for line in lines[1:]]

    def counts(self):
        return {row["field"]: int(row["value"]) for row in self.rows("status")}


def shown_and_asked(pair):
    doveadm = Doveadm(pair.a)
    pair.a.deliver(USER, "first")
    view.eventually_same(pair, USER)
    eventually("in sync", lambda: pair.a.dsyncctl("status").stdout.startswith("in sync"))
    counts = doveadm.counts()
    assert list(counts) == ["Queued 'sync' requests", "Queued 'high' requests", "Queued 'low' requests",
                            "Queued 'failed' requests", "Queued 'full resync' requests", "Waiting 'failed' requests",
                            "Total number of known users"], counts
    assert counts["Total number of known users"] == 1 and sum(counts.values()) == 1, counts
    row, = doveadm.rows("status", "*")
    assert row["username"] == USER and row["priority"] == "none" and row["failed"] == "-", row
    assert row["success sync"] < "00:01:00", row
    assert not doveadm.rows("status", "nobody*")
    assert doveadm.rows("dsync-status")[-1] == {"username": "", "type": "-", "status": "Idle"}

    assert doveadm("replicate", "-f", "*").stdout.strip().endswith("1 users updated")
    eventually("a full sync by doveadm's wish", lambda: "type=full" in log_of(pair.a).split("mailboxes=1 sent=1", 1)[-1])
    assert "Invalid priority" in doveadm("replicate", "-p", "bogus", USER, expect=(64,)).stderr
    assert "User not found" in doveadm("remove", "zzz", expect=(64,)).stderr
    doveadm("remove", USER)
    assert not doveadm.rows("status", "*")
    doveadm("add", USER)
    assert doveadm.rows("status", "*")[0]["username"] == USER

    # With the other node away.
    pair.b.kill("dsyncd")
    pair.a.deliver(USER, "while b was away")
    eventually("down", lambda: "Failed to connect" in doveadm.rows("dsync-status")[-1]["status"])
    assert doveadm.rows("status", "*")[0]["priority"] == "high"
    assert doveadm.counts()["Queued 'high' requests"] == 1
    pair.b.start_dsyncd()
    view.eventually_same(pair, USER)
    print("ok: shown_and_asked")


def log_of(node):
    with open(node.log, encoding="utf-8", errors="replace") as file:
        return file.read()


def as_nobody(script):
    """Run as a user whom only the sockets' mode lets in."""
    return run(["/usr/bin/python3", "-c", script])


def ask(node, line):
    """(answer, seconds)"""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        client.connect(node.dir + "/state/replication-notify")
        start = time.monotonic()
        client.sendall(line.encode())
        return client.recv(100), time.monotonic() - start


def notified(pair):
    state = pair.a.dir + "/state"
    assert os.stat(state + "/replication-notify").st_uid == 65534
    before = log_of(pair.a).count("synced user")
    as_nobody(f"open({state + '/replication-notify-fifo'!r}, 'w').write('{USER}\\tlow\\nno line\\nmallory\\thigh\\n')")
    eventually("synced after a notification", lambda: log_of(pair.a).count("synced user") > before)
    as_nobody(f"import socket; s = socket.socket(socket.AF_UNIX); s.connect({state + '/replication-notify'!r}); "
              f"s.sendall(b'{USER}\\tsync\\n'); assert s.recv(10) == b'+\\n'")
    assert ask(pair.a, f"{USER}\tsync\n")[0] == b"+\n"
    assert ask(pair.a, "mallory\tsync\n")[0] == b"-\n"
    assert ask(pair.a, f"{USER}\tbogus\n")[0] == b""
    assert pair.a.dsyncctl("status", "mallory").stdout.count("mallory") == 0
    pair.cut()
    answer, seconds = ask(pair.a, f"{USER}\tsync\n")
    assert answer == b"-\n" and seconds < 18, (answer, seconds)
    eventually("down", lambda: not pair.a.status()["peers"][0]["up"])
    # Nobody waits for who is known to be away.
    answer, seconds = ask(pair.a, f"{USER}\tsync\n")
    assert answer == b"-\n" and seconds < 1, (answer, seconds)
    pair.heal()
    view.eventually_same(pair, USER)
    eventually("up", lambda: pair.a.status()["peers"][0]["up"])
    print("ok: notified")


def delivery_waits(pair):
    """The node's own Dovecot, with the replication plugin pointed at dsyncd's sockets."""
    for name in ("replication-notify", "replication-notify-fifo"):
        path = f"{pair.a.dir}/dovecot/run/{name}"
        if os.path.lexists(path):
            os.unlink(path)
    pair.a.kill("dovecot", 15)
    with open(pair.a.dir + "/dovecot.conf", "a", encoding="utf-8") as file:
        file.write(PLUGIN)
    pair.a.start_dovecot()
    for name in ("replication-notify", "replication-notify-fifo"):
        path = f"{pair.a.dir}/dovecot/run/{name}"
        if os.path.lexists(path):
            os.unlink(path)
        os.symlink(f"{pair.a.dir}/state/{name}", path)
    new = pair.b.home(USER) + "/Maildir"
    for number in range(10):
        before = count_files(new)
        pair.a.deliver(USER, f"waited for {number}")
        assert count_files(new) == before + 1, number
    view.eventually_same(pair, USER)
    print("ok: delivery_waits")


def count_files(maildir):
    return sum(len(os.listdir(f"{maildir}/{part}")) for part in ("new", "cur"))


def main():
    need("dovecot")
    if dovecot_config.is_24():
        skip("Dovecot 2.4 has neither replicator nor plugin")
    with Pair(settings=SETTINGS) as pair:
        shown_and_asked(pair)
        delivery_waits(pair)
        notified(pair)
        for node in pair.nodes:
            bad = [line for line in node.dovecot_log_problems() if "Killed with signal" not in line]
            assert not bad, bad


if __name__ == "__main__":
    main()
