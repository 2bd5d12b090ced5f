"""A mail server node: dsyncfs over a backing directory, dsyncd, and Dovecot on the mount."""
import glob
import imaplib
import json
import os
import poplib
import re
import shutil
import signal
import smtplib
import subprocess
import sys
import tempfile
import time

from network import Network

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import dovecot_config  # noqa: E402 pylint: disable=wrong-import-position

VMAIL = 5000  # uid and gid that own the mail
PASSWORD = "between-the-nodes"
BUILD = os.environ.get("DSYNCFS_BUILD", os.path.join(os.path.dirname(__file__), "../../build"))

DOVECOT_CONF = """
base_dir = {dir}/dovecot/run
state_dir = {dir}/dovecot/state
log_path = {dir}/dovecot/log
protocols = imap lmtp pop3
listen = {address}
ssl = no
auth_mechanisms = plain
mail_max_userip_connections = 100
first_valid_uid = 1
namespace inbox {{
  inbox = yes
  separator = /
}}
service anvil {{
  client_limit = 1000
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = 143
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = 110
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = 24
  }}
}}
service stats {{
  client_limit = 1000
}}
"""

SETTINGS = """
mail_root = {mount}
mail_location = {location}
mail_uid = {uid}
mail_gid = {uid}
mail_replica = {scheme}:{peer}:4711
listen = {address}
doveadm_port = 4711
doveadm_password = {password}
state_dir = {dir}/state
"""


# A Dovecot that adopts a file takes the next UID of its uidlist, and sees only then that the index's is higher: a message
# that only the peer ever had was expunged there. Nobody has seen that UID.
TAKEN = "Expunged message reappeared, giving a new UID"


def skip(reason):
    print(f"skipped: {reason}")
    raise SystemExit(77)


def need(*programs):
    """Skips the test, with the reason, where it cannot run."""
    if os.geteuid() != 0:
        skip("needs root")
    if not os.path.exists("/dev/fuse"):
        skip("needs /dev/fuse")
    for program in ("ip", "nsenter", *programs):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            skip(f"needs {program}")


def eventually(what, check, timeout=20.0, every=0.02):
    """Calls check() until it gives something true, and gives that back; fails with `what` after the timeout."""
    end = time.monotonic() + timeout
    last = None
    while True:
        try:
            last = check()
            if last:
                return last
        except (OSError, imaplib.IMAP4.error, AssertionError) as error:
            last = error
        if time.monotonic() > end:
            raise AssertionError(f"not within {timeout} s: {what} (last: {last!r})")
        time.sleep(every)


def other_clock(hours):
    """Environment of a process that lives on a machine whose clock is so many hours off."""
    if not hours:
        return {}
    # (The sanitizers' library wants to be first, and need not.)
    asan = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
    return {"LD_PRELOAD": os.path.abspath(os.path.join(BUILD, "tests/scenario/other_clock.so")), "CLOCK_OFFSET": f"{round(hours * 3600)}",
            "ASAN_OPTIONS": asan}


class ImapClient(imaplib.IMAP4):
    """One that never goes on after a NO: what a test asked for has happened."""

    def _command_complete(self, name, tag):
        typ, data = super()._command_complete(name, tag)
        if typ not in ("OK", "BYE"):
            raise self.error(f"{name}: {typ} {data}")
        return typ, data


class Node:
    def __init__(self, network, host, location="maildir:~/Maildir", settings="", tls=None, clock=0):
        self.network, self.host = network, host
        self.clock = other_clock(clock)
        self.address = network.addresses[host]
        self.dir = self.make_dir()
        os.chmod(self.dir, 0o755)
        self.backing, self.mount = self.dir + "/backing", self.dir + "/mount"
        for path in (self.backing, self.mount):
            os.mkdir(path)
            os.chown(path, VMAIL, VMAIL)
        self.log = self.dir + "/log"
        self.processes = {}
        self.dsyncd_options, self.environment = [], {}
        peer = network.addresses["b" if host == "a" else "a"]
        values = dict(dir=self.dir, mount=self.mount, address=self.address, peer=peer, uid=VMAIL,
                      location=location, password=PASSWORD, scheme="tcps" if tls else "tcp")
        self.settings = self.dir + "/dsyncfs.conf"
        with open(self.settings, "w", encoding="utf-8") as file:
            file.write(SETTINGS.format(**values) + settings + (tls.settings(host, self.address) if tls else ""))
        os.makedirs(self.dir + "/dovecot/run")
        os.makedirs(self.dir + "/dovecot/state")
        with open(self.dir + "/dovecot.conf", "w", encoding="utf-8") as file:
            file.write(dovecot_config.beginning(location, VMAIL, self.mount) + DOVECOT_CONF.format(**values))
            if self.clock:
                file.write(dovecot_config.environment(self.clock))

    def make_dir(self):
        return tempfile.mkdtemp(prefix=f"dsyncfs-{self.host}-")

    # --- processes

    def start(self, name, argv, network=True):
        prefix = self.network.command(self.host) if network else []
        with open(self.log, "ab") as log:
            environment = {**os.environ, **self.environment, **(self.clock if name != "dsyncfs" else {})}
            self.processes[name] = subprocess.Popen(prefix + argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                    env=environment)
        return self.processes[name]

    def start_dsyncfs(self):
        self.start("dsyncfs", [f"{BUILD}/tools/dsyncfs", "-f", "-o", f"config={self.settings}", self.backing, self.mount],
                   network=False)
        eventually("mounted", lambda: os.path.ismount(self.mount))

    def start_dsyncd(self):
        self.start("dsyncd", [f"{BUILD}/tools/dsyncd", "-F", *self.dsyncd_options, "-c", self.settings])

    def start_dovecot(self):
        self.start("dovecot", ["dovecot", "-F", "-c", self.dir + "/dovecot.conf"])
        eventually("dovecot answers", lambda: self.imap("probe@example.org", login=False).shutdown() or True)

    def start_all(self, dovecot=True):
        self.start_dsyncfs()
        self.start_dsyncd()
        if dovecot:
            self.start_dovecot()

    def pid(self, name):
        return self.processes[name].pid

    def kill(self, name, sig=signal.SIGKILL):
        process = self.processes.pop(name)
        process.send_signal(sig)
        process.wait(timeout=30)

    def dsyncctl(self, *args):
        return subprocess.run([f"{BUILD}/tools/dsyncctl", "-c", self.settings, *args], capture_output=True, text=True,
                              check=False)

    def status(self):
        run = self.dsyncctl("--json", "status")
        assert run.stdout, f"no status of {self.host}: {run.stderr}"
        return json.loads(run.stdout)

    def close_processes(self):
        for name in ("dovecot", "dsyncd", "dsyncfs"):
            if name in self.processes:
                try:
                    self.kill(name, signal.SIGTERM)
                except subprocess.TimeoutExpired:
                    self.processes.pop(name, None)

    def close(self):
        self.close_processes()
        if os.path.ismount(self.mount):
            subprocess.run(["umount", "-l", self.mount], check=False)
        if not os.environ.get("KEEP"):
            shutil.rmtree(self.dir, ignore_errors=True)

    # --- clients

    def home(self, user, backing=False):
        name, domain = user.split("@")
        return f"{self.backing if backing else self.mount}/{domain}/{name}"

    def imap(self, user, login=True, select=True):
        with self.network.on(self.host):
            client = ImapClient(self.address, 143, timeout=30)
        if login:
            client.login(user, "x")
            if select:
                client.select()
        return client

    def pop3(self, user):
        with self.network.on(self.host):
            client = poplib.POP3(self.address, 110, timeout=30)
        client.user(user)
        client.pass_("x")
        return client

    def deliver(self, user, subject, body="Hello.\r\n", sender="sender@example.org"):
        """By Dovecot's LMTP; returns when it has acknowledged."""
        with self.network.on(self.host):
            client = smtplib.LMTP(self.address, 24, local_hostname="localhost")
        text = (f"From: <{sender}>\r\nTo: <{user}>\r\nSubject: {subject}\r\n"
                f"Message-ID: <{subject.replace(' ', '.')}@example.org>\r\n\r\n{body}")
        client.sendmail(sender, [user], text)
        client.quit()

    def sanitizer_lines(self):
        """What a build with sanitizers has found so far."""
        if not os.path.exists(self.log):
            return []
        with open(self.log, encoding="utf-8", errors="replace") as file:
            return [line for line in file if "Sanitizer" in line or "runtime error:" in line]

    def dovecot_log_problems(self):
        """But for a busy machine's, on which a timer comes late."""
        with open(self.dir + "/dovecot/log", encoding="utf-8", errors="replace") as file:
            return [line for line in file if any(w in line for w in ("Error:", "Warning:", "Panic:", "Fatal:"))
                    and "Warning: Time moved forward by 0." not in line]


def where_it_waits(pid):
    """A line for each task of a process: its name, and the kernel functions in which it waits."""
    lines = []
    for task in sorted(glob.glob(f"/proc/{pid}/task/*")):
        try:
            with open(f"{task}/comm", encoding="utf-8", errors="replace") as comm, open(f"{task}/stack", encoding="ascii") as stack:
                calls = re.findall(r"\] (\w+)", stack.read())
                lines.append(f"{os.path.basename(task)} {comm.read().strip()}: {' '.join(calls[:8])}")
        except OSError:
            pass
    return lines


def children(pid):
    found = []
    for task in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(task, encoding="ascii") as file:
                found += [int(child) for child in file.read().split()]
        except OSError:
            pass
    return found


def descendants(pid):
    return [child for direct in children(pid) for child in [direct, *descendants(direct)]]


class Pair:
    """Both nodes, as a context manager that says where the logs are when a test fails. location: of both, or of each; kinds: the
    class of each."""

    def __init__(self, dovecot=True, location="maildir:~/Maildir", settings="", start=True, tls=None, clock_b=0, kinds=(Node, Node)):
        self.network = Network()
        self.nodes = []
        try:
            locations = (location, location) if isinstance(location, str) else location
            for host, where, kind in zip("ab", locations, kinds):
                self.nodes.append(kind(self.network, host, where, settings, tls, clock_b if host == "b" else 0))
            self.a, self.b = self.nodes
            if start:
                for node in self.nodes:
                    node.start_all(dovecot)
        except BaseException:
            self.__exit__(True, None, None)
            raise

    def __enter__(self):
        return self

    def __exit__(self, kind, value, trace):
        if kind:
            for node in self.nodes:
                print(f"--- log of {node.host}")
                if os.path.exists(node.log):
                    with open(node.log, encoding="utf-8", errors="replace") as file:
                        print("".join(file.readlines()[-60:]))
                print(f"--- dsyncctl status of {node.host}\n{node.dsyncctl('status').stdout}")
                for name, process in node.processes.items():
                    for pid in [process.pid, *descendants(process.pid)]:
                        print("\n".join(f"{name} {line}" for line in where_it_waits(pid)))
                if os.path.exists(node.dir + "/dovecot/log"):
                    print(f"--- what dovecot of {node.host} complains of\n" + "".join(node.dovecot_log_problems()[-20:]))
        bad = [] if kind else [line for node in self.nodes for line in node.sanitizer_lines()]
        for node in self.nodes:
            node.close()
        self.network.close()
        assert not bad, "".join(bad)

    def cut(self):
        self.network.cut()

    def heal(self):
        self.network.heal()

