"""A Dovecot 2.4 beside the machine's own: in a tree that another distribution was installed into.

That of tools/debian13_tree, where it was made; or another one: DOVECOT24_RUN is a command that runs its arguments there as root,
with this network, and DOVECOT24_ROOT is the tree's root as seen from here. For what runs beside a mount of ours
it has to let mounts below the tree be seen in it."""
import os
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

from dovecot_node import DovecotNode
from dsync_sides import DSYNC, MAIL_UID, USER, Dovecot, run
from node import DOVECOT_CONF, PASSWORD, VMAIL, Node, dovecot_config, eventually, skip

TREE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/debian13_tree")

CONF = """
dovecot_config_version = 2.4.0
dovecot_storage_version = 2.4.0
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/dovecot.log
protocols =
ssl = {ssl}
stats_writer_socket_path =
mail_driver = {driver}
mail_path = ~/{path}
mailbox_list_layout = {layout}
mail_home = {homes}/%{{user}}
mail_uid = {uid}
mail_gid = {uid}
first_valid_uid = 1
doveadm_password = between-the-ends
mail_attribute {{
  dict file {{
    path = %{{home}}/attributes
  }}
}}
namespace inbox {{
  inbox = yes
  separator = /
}}
passdb static {{
  fields {{
    nopassword = yes
  }}
}}
userdb static {{
  fields {{
    uid = {uid}
    gid = {uid}
    home = {homes}/%{{user}}
  }}
}}
service doveadm {{
  inet_listener doveadm {{
    listen = 127.0.0.1
    port = {port}
    ssl = {ssl}
  }}
}}
"""

SIEVE = """
sieve_script personal {
  driver = file
  path = ~/sieve
  active_path = ~/.dovecot.sieve
}
"""

# At the other end of a command: the tree is entered by root alone, and dsync runs a command as the mail's owner.
BRIDGE = """#!/usr/bin/python3
import os, socket, sys, threading
side = socket.socket(socket.AF_UNIX)
side.connect({path!r})
def pump(read, write, end):
    while True:
        data = read(65536)
        if not data:
            break
        try:
            write(data)
        except BrokenPipeError:
            break
    end()
def out():
    pump(side.recv, lambda data: os.write(1, data), lambda: os._exit(0))
threading.Thread(target=out).start()
pump(lambda size: os.read(0, size), side.sendall, lambda: side.shutdown(socket.SHUT_WR))
"""


def bridge_script(directory, name, argv, bridges):
    """A script that leads to a program which is run by us, as root; for a command that is run as somebody else, or in the
    tree. The directory has to have one name in both."""
    path, script = f"{directory}/{name}.sock", f"{directory}/{name}-bridge"
    if os.path.exists(script):
        return script
    bridge = socket.socket(socket.AF_UNIX)
    bridge.bind(path)
    os.chmod(path, 0o666)
    bridge.listen(8)
    bridges.append(bridge)
    threading.Thread(target=_serve, args=(bridge, argv, directory + "/bridge.log"), daemon=True).start()
    with open(script, "w", encoding="utf-8") as file:
        file.write(BRIDGE.format(path=path))
    os.chmod(script, 0o755)
    return script


def _serve(bridge, argv, log_path):
    while True:
        try:
            client, _ = bridge.accept()
        except OSError:
            return
        with client, open(log_path, "ab") as log:
            subprocess.run(argv, stdin=client, stdout=client, stderr=log, check=False)


def close_bridges(bridges):
    """Their threads end with them."""
    for bridge in bridges:
        bridge.shutdown(socket.SHUT_RDWR)
        bridge.close()
    bridges.clear()


def tree_words():
    """(the command's words, the tree's root), or None: there is no tree."""
    command, root = os.environ.get("DOVECOT24_RUN"), os.environ.get("DOVECOT24_ROOT")
    if command and root:
        return shlex.split(command), root
    made = subprocess.run([TREE, "path"], capture_output=True, text=True, check=False)
    return ([TREE, "run"], made.stdout.strip()) if made.returncode == 0 else None


def run_there():
    """What tree_words() gives; skips the test where there is nothing, or no Dovecot 2.4 in it."""
    if os.geteuid() != 0:
        skip("needs root")
    tree = tree_words()
    if not tree:
        skip("needs a tree with Dovecot 2.4: tools/debian13_tree make")
    version = subprocess.run([*tree[0], "dovecot", "--version"], capture_output=True, text=True, check=False).stdout
    if not version.startswith("2.4."):
        skip(f"{shlex.join(tree[0])} runs no Dovecot 2.4, but {version.strip() or 'nothing'}")
    return tree


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def end(process, sig=signal.SIGTERM):
    """Something may stand between us and Dovecot that gives no signal on (unshare --fork)."""
    pid = process.pid
    while read(f"/proc/{pid}/comm").strip() != "dovecot":
        pid = int(read(f"/proc/{pid}/task/{pid}/children").split()[0])
    os.kill(pid, sig)
    process.wait(timeout=30)


def make_dir(root):
    """(directory in the tree, its name there, which is a link here)"""
    real = tempfile.mkdtemp(prefix="dsyncfs-dovecot24-", dir=root + "/tmp")
    name = "/tmp/" + os.path.basename(real)
    os.symlink(real, name)
    os.chmod(real, 0o755)
    return real, name


def command_with(args, *options):
    """Options of all its commands about mail come behind the command's words."""
    formats = args[:2] if args[0] == "-f" else ()
    args = args[len(formats):]
    words = 2 if args[0] in ("mailbox", "flags", "sieve") else 1
    return [*formats, *args[:words], *options, *args[words:]]


class Dovecot24(Dovecot):
    """Its directory has the same name in the tree and here (by a link)."""

    def __init__(self, mdbox=False, tls=None, sieve=False):  # pylint: disable=super-init-not-called
        self.command, root = run_there()
        self.real, self.dir = make_dir(root)
        self.homes, self.conf = self.dir + "/homes", self.dir + "/dovecot.conf"
        for path in (self.homes, f"{self.homes}/{USER}"):
            os.mkdir(path)
            os.chown(path, MAIL_UID, MAIL_UID)
        for path in (self.dir + "/run", self.dir + "/state"):
            os.mkdir(path)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        conf = CONF.format(dir=self.dir, homes=self.homes, uid=MAIL_UID, port=self.port, ssl="yes" if tls else "no",
                           driver="mdbox" if mdbox else "maildir", path="mdbox" if mdbox else "Maildir",
                           layout="fs" if mdbox else "maildir++")
        if tls:
            pem, key = tls.certify("theirs24", "127.0.0.1", "localhost")
            for path in (pem, key, tls.ca):
                shutil.copy(path, self.real)
            conf += (f"ssl_server_cert_file = {self.dir}/{os.path.basename(pem)}\n"
                     f"ssl_server_key_file = {self.dir}/{os.path.basename(key)}\n"
                     f"ssl_client_ca_file = {self.dir}/{os.path.basename(tls.ca)}\n")
        if sieve:
            conf += SIEVE
        with open(self.conf, "w", encoding="utf-8") as file:
            file.write(conf)
        self.process, self.bridges = None, []

    def __exit__(self, *_):
        close_bridges(self.bridges)
        if self.process:
            end(self.process)
        if os.environ.get("KEEP"):
            return
        os.unlink(self.dir)
        shutil.rmtree(self.real)

    def start(self):
        with open(self.dir + "/start.log", "ab") as log:
            self.process = subprocess.Popen([*self.command, "dovecot", "-F", "-c", self.conf], stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log)
        eventually("dovecot 2.4 runs", lambda: os.path.exists(self.dir + "/run/auth-userdb"))
        return self

    def doveadm(self, *args, expect=(0,), **options):
        return run([*self.command, "doveadm", "-c", self.conf, *args], expect=expect, root=True, **options)

    def own(self, *args, **options):
        """On the account: as root, by the userdb."""
        return self.doveadm(*command_with(args, "-u", USER), **options)

    def as_owner(self):
        return [*self.command, *super().as_owner()]

    def location_options(self, location):
        driver, path = location.split(":")
        layout = "maildir++" if driver == "maildir" else "fs"
        return ["-o", f"mail_driver={driver}", "-o", f"mail_path={path}", "-o", f"mailbox_list_layout={layout}"]

    def without_userdb(self, args):
        return command_with(args, "--no-userdb-lookup")

    def script(self):
        """A script for LOCATION2 that leads to its dsync-server."""
        return bridge_script(self.dir, "theirs", [*self.command, "doveadm", "-c", self.conf, "dsync-server", "-u", USER],
                             self.bridges)

    def script_to(self, conf):
        """The same for its doveadm, which leads to our `dsync server`."""
        return bridge_script(self.dir, "ours", [DSYNC, "-c", conf, "-u", USER, "server"], self.bridges)


DOVEADM = """
doveadm_password = {password}
service doveadm {{
  inet_listener doveadm {{
    port = 4711
  }}
}}
"""


class DovecotNode24(DovecotNode):
    def __init__(self, network, host):
        self.command, self.root = run_there()
        super().__init__(network, host)
        with open(self.dir + "/dovecot.conf", "w", encoding="utf-8") as file:
            file.write(dovecot_config.beginning_24("maildir:~/Maildir", VMAIL, self.mount) +
                       DOVECOT_CONF.format(dir=self.dir, address=self.address) + DOVEADM.format(password=PASSWORD))

    def make_dir(self):
        self.real, name = make_dir(self.root)
        return name

    def start(self, name, argv, network=True):
        return super().start(name, [*self.command, *argv], network)

    def kill(self, name, sig=signal.SIGKILL):
        end(self.processes.pop(name), sig)

    def close(self):
        super().close()
        if os.environ.get("KEEP"):
            return
        os.unlink(self.dir)
        shutil.rmtree(self.real)


class Node24(Node):
    """A node of ours beside it: its directory is in the tree; mount and daemons run here, Dovecot there."""

    def __init__(self, network, host, location="maildir:~/Maildir", *options):
        self.command, self.root = run_there()
        super().__init__(network, host, location, *options)
        text = dovecot_config.beginning_24(location, VMAIL, self.mount) + DOVECOT_CONF.format(dir=self.dir, address=self.address)
        with open(self.dir + "/dovecot.conf", "w", encoding="utf-8") as file:
            file.write(text.replace(self.dir, self.there()))

    def there(self):
        return self.dir[len(self.root):]

    def make_dir(self):
        return tempfile.mkdtemp(prefix=f"dsyncfs-{self.host}-", dir=self.root + "/tmp")

    def start(self, name, argv, network=True):
        if name != "dovecot":
            return super().start(name, argv, network)
        if subprocess.run([*self.command, "mountpoint", "-q", self.there() + "/mount"], check=False).returncode != 0:
            skip("mounts below the tree with Dovecot 2.4 are not seen in it")
        return super().start(name, [*self.command, *(word.replace(self.dir, self.there()) for word in argv)], network)

    def kill(self, name, sig=signal.SIGKILL):
        if name == "dovecot":
            end(self.processes.pop(name), sig)
        else:
            super().kill(name, sig)
