"""Two mail stores for the dsync command: plain Maildirs, and the account of a running Dovecot."""
import concurrent.futures
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from node import BUILD, eventually, skip

MAIL_UID = 65534
USER = "alice"
DSYNC = f"{BUILD}/tools/dsync"

DOVECOT_CONF = """
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/dovecot.log
protocols =
ssl = no
stats_writer_socket_path =
mail_home = {homes}/%u
mail_location = maildir:~/Maildir
mail_uid = {uid}
mail_gid = {uid}
first_valid_uid = 1
doveadm_password = between-the-ends
namespace inbox {{
  inbox = yes
  separator = /
}}
passdb {{
  driver = static
  args = nopassword=yes
}}
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={homes}/%u
}}
service doveadm {{
  inet_listener {{
    address = 127.0.0.1
    port = {port}
  }}
}}
service anvil {{
  client_limit = 1000
}}
service stats {{
  client_limit = 1000
}}
"""


def as_mail_user():
    """Arguments of subprocess.run: as the mail's owner where the test is root."""
    return dict(user=MAIL_UID, group=MAIL_UID, extra_groups=[]) if os.geteuid() == 0 else {}


def run(argv, expect=(0,), root=False, timeout=60, **options):
    """Runs a program as the mail's owner and gives its result; fails on another exit status."""
    result = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=timeout,
                            **({} if root else as_mail_user()), **options)
    assert result.returncode in expect, (argv, result.returncode, result.stdout, result.stderr)
    return result


class Directory:
    """A temporary directory that the mail's owner can write to."""

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="dsync-command-")
        os.chmod(self.path, 0o755)
        if os.geteuid() == 0:
            os.chown(self.path, MAIL_UID, MAIL_UID)
        return self.path

    def __exit__(self, *_):
        shutil.rmtree(self.path)


# --- a Maildir without a server

def make_directory(path):
    """With what is above it, as the mail's owner's."""
    if not os.path.isdir(path):
        make_directory(os.path.dirname(path))
        os.mkdir(path, 0o755)
        give(path)


def give(path):
    if os.geteuid() == 0:
        os.chown(path, MAIL_UID, MAIL_UID)


def deliver(maildir, name, text, folder=None, flags=None, **_):
    """Puts a message file there, as a program does: into new/, or with flags into cur/."""
    path = os.path.join(maildir, "." + folder) if folder else maildir
    base, tail = ("new", "") if flags is None else ("cur", ":2," + flags)
    for part in ("cur", "new", "tmp"):
        make_directory(f"{path}/{part}")
    with open(f"{path}/tmp/{name}", "wb") as file:
        file.write(text.encode())
    give(f"{path}/tmp/{name}")
    os.rename(f"{path}/tmp/{name}", f"{path}/{base}/{name}{tail}")


def mailbox_of(path):
    """({uid: (file name without flags, flags, text)}, uidlist's numbers) of one Maildir directory."""
    files = {}
    for part in ("new", "cur"):
        for name in os.listdir(os.path.join(path, part)):
            base, _, flags = name.partition(":2,")
            with open(os.path.join(path, part, name), "rb") as file:
                files[base] = (flags, file.read())
    mails = {}
    with open(os.path.join(path, "dovecot-uidlist"), encoding="utf-8", errors="surrogateescape") as file:
        header = [word for word in file.readline().split() if word[0] in "VNG"]
        for line in file:
            uid, name = int(line.split()[0]), line.rstrip("\n").split(" :", 1)[1].partition(":2,")[0]
            if name in files:
                mails[uid] = (name, *files[name])
    return mails, header


def maildir_view(path):
    """{folder: mailbox}, "" for the inbox."""
    folders = {"": mailbox_of(path)}
    for entry in os.listdir(path):
        if entry.startswith(".") and os.path.isdir(os.path.join(path, entry, "cur")):
            folders[entry[1:]] = mailbox_of(os.path.join(path, entry))
    return folders


# --- a Dovecot

@functools.cache
def dovecot_version():
    return subprocess.run(["dovecot", "--version"], capture_output=True, text=True, check=True).stdout


class Dovecot:
    """Its configuration, a running server for users and the doveadm port, and what doveadm shows."""

    FIELDS = "mailbox mailbox-guid uid guid flags date.received size.physical body"

    def __init__(self, directory, name, tls=None):
        if os.geteuid() != 0:
            skip("needs root")
        for program in ("dovecot", "doveadm"):
            if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
                skip(f"needs {program}")
        version = dovecot_version()
        if not version.startswith("2.3."):
            skip(f"needs Dovecot 2.3, has {version.split()[0]}")
        self.dir = os.path.join(directory, name)
        self.homes = self.dir + "/homes"
        self.conf = self.dir + "/dovecot.conf"
        for path in (self.dir, self.homes, f"{self.homes}/{USER}"):
            os.mkdir(path)
            os.chown(path, MAIL_UID, MAIL_UID)
        for path in (self.dir + "/run", self.dir + "/state"):
            os.mkdir(path)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        conf = DOVECOT_CONF.format(dir=self.dir, homes=self.homes, uid=MAIL_UID, port=self.port)
        if tls:
            conf = conf.replace("ssl = no\n", "ssl = yes\n").replace(f"port = {self.port}\n",
                                                                     f"port = {self.port}\n    ssl = yes\n")
            conf += tls.settings(name, "127.0.0.1", "localhost")
        with open(self.conf, "w", encoding="utf-8") as file:
            file.write(conf)
        self.process = None
        self.settings, self.settings_of = {}, None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(timeout=30)

    def start(self):
        with open(self.dir + "/start.log", "ab") as log:
            self.process = subprocess.Popen(["dovecot", "-F", "-c", self.conf], stdin=subprocess.DEVNULL, stdout=log,
                                            stderr=log)
        eventually("dovecot runs", lambda: os.path.exists(self.dir + "/run/auth-userdb"))
        return self

    def doveadm(self, *args, expect=(0,), env=None, **options):
        return run(["doveadm", "-c", self.conf, *args], expect=expect, root=True,
                   env={**(env or os.environ), **self.settings_for(args)}, **options)

    def read_settings(self):
        """The configuration as doveconf hands it to a program, which need not start doveconf itself then: half of its time."""
        changed = os.stat(self.conf).st_mtime_ns
        if self.settings_of != changed:
            found = subprocess.run(["doveconf", "-c", self.conf, "-e", "/usr/bin/env", "-0"], capture_output=True, text=True, check=True)
            self.settings = dict(entry.split("=", 1) for entry in found.stdout.split("\0") if entry)
            self.settings_of = changed
        return self.settings

    def settings_for(self, args):
        # What a sync starts must not take them for its own.
        return {} if {"sync", "backup"} & set(args) else self.read_settings()

    def own(self, *args, **options):
        """doveadm on this account without a server: as its owner, in its home."""
        home = f"{self.homes}/{USER}"
        environment = {**os.environ, **self.settings_for(args), "HOME": home, "USER": USER}
        return run(["doveadm", "-c", self.conf, *args], env=environment, cwd=home,
                   **options)

    def at(self, location, home, *args, **options):
        """doveadm on a store anywhere, without a server: as its owner, in that home, by UTC."""
        environment = {**os.environ, "HOME": home, "USER": USER, "TZ": "UTC"}
        return run([*self.as_owner(), "doveadm", "-c", self.conf, *self.location_options(location), *self.without_userdb(args)],
                   env=environment, cwd=home, root=True, **options)

    def as_owner(self):
        return ["setpriv", f"--reuid={MAIL_UID}", f"--regid={MAIL_UID}", "--clear-groups"]

    def location_options(self, location):
        return ["-o", f"mail_location={location}"]

    def without_userdb(self, args):
        return args

    def deliver(self, text, mailbox="INBOX"):
        self.own("save", "-m", mailbox, input=text)

    def view(self):
        """What doveadm shows, but for \\Recent, which belongs to a session. (The saved date of a Maildir is its files' ctime.)"""
        mails = json.loads(self.own("-f", "json", "fetch", self.FIELDS, "ALL").stdout or "[]")
        for mail in mails:
            mail["flags"] = " ".join(sorted(set(mail["flags"].split()) - {r"\Recent"}))
        boxes = self.own("-f", "tab", "mailbox", "status", "guid uidvalidity uidnext messages", "*").stdout
        subscribed = self.own("mailbox", "list", "-s").stdout
        return sorted(map(str, mails)), sorted(boxes.splitlines()), sorted(subscribed.splitlines())

    @staticmethod
    def views(*sides):
        """Of several, at once."""
        with concurrent.futures.ThreadPoolExecutor() as pool:
            return list(pool.map(lambda side: side.view(), sides))

    def complaints(self):
        """Errors in its log, but for those of a session that was cut."""
        if not os.path.exists(self.dir + "/dovecot.log"):
            return []
        with open(self.dir + "/dovecot.log", encoding="utf-8", errors="replace") as file:
            return [line for line in file if any(word in line for word in ("Error", "Panic", "Fatal"))]


def next_second():
    """For what is logged in whole seconds: of two opposite changes in one, the log cannot tell which came last."""
    time.sleep(1.1 - time.time() % 1)


def until_done(command, runs=4):
    """Exit status 2 says that it wants to be run again. Gives the last run's result."""
    for _ in range(runs):
        result = command()
        if result.returncode == 0:
            return result
        time.sleep(0.01)
    raise AssertionError(f"no end: {result}")
