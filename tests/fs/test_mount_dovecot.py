"""A whole Dovecot on the mount, maildir and mdbox: some thousand operations by several clients at once, after which every
acknowledged mail is there once and Dovecot's log holds no complaint."""
import imaplib
import os
import random
import shutil
import signal
import smtplib
import socket
import subprocess
import sys
import threading

from mount_fixture import Mount, eventually, run_tests, skip

sys.path.append(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import dovecot_config  # noqa: E402 pylint: disable=wrong-import-position

VMAIL = 5000
USERS = ("alice@example.org", "bob@example.org")
DELIVERIES = 120  # of each LMTP client
LMTP_CLIENTS = 3
IMAP_CLIENTS = 4
IMAP_ROUNDS = 60
CONFIG = """
base_dir = {dir}/run
state_dir = {dir}/state
log_path = {dir}/log
protocols = imap lmtp
listen = 127.0.0.1
ssl = no
mail_fsync = always
lock_method = {lock}
first_valid_uid = 1
mail_max_userip_connections = 100
namespace inbox {{
  inbox = yes
  separator = /
}}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service lmtp {{
  unix_listener lmtp {{
    mode = 0666
  }}
}}
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Dovecot:
    def __init__(self, mount, location, lock):
        self.dir, self.mount, self.port = mount.dir + "/dovecot", mount, free_port()
        os.makedirs(self.dir + "/run")
        os.makedirs(self.dir + "/state")
        with open(self.dir + "/conf", "w", encoding="utf-8") as file:
            file.write(dovecot_config.beginning(location, VMAIL, mount.mount)
                       + CONFIG.format(dir=self.dir, imap=self.port, lock=lock))

    def __enter__(self):
        self.process = subprocess.Popen(["dovecot", "-F", "-c", self.dir + "/conf"], stdin=subprocess.DEVNULL)
        eventually("dovecot answers", self.answers)
        return self

    def __exit__(self, kind, value, trace):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=30)
        if kind:
            print("--- dovecot, the end of its log, and what it complains of\n" + "".join(self.log()[-20:] + self.problems()))

    def answers(self):
        try:
            imaplib.IMAP4("127.0.0.1", self.port, timeout=10).shutdown()
        except OSError:
            return False
        return os.path.exists(self.dir + "/run/lmtp")

    def log(self):
        with open(self.dir + "/log", encoding="utf-8", errors="replace") as file:
            return file.readlines()

    def problems(self):
        return [line for line in self.log() if any(w in line for w in ("Error:", "Warning:", "Panic:", "Fatal:"))]

    def imap(self, user, mailbox="INBOX"):
        client = imaplib.IMAP4("127.0.0.1", self.port, timeout=60)
        client.login(user, "x")
        client.select(mailbox)
        return client

    def lmtp(self):
        return smtplib.LMTP(self.dir + "/run/lmtp", local_hostname="localhost")


class Work(threading.Thread):
    """Keeps what went wrong for the test."""

    def __init__(self, call, *args):
        super().__init__()
        self.call, self.args, self.trouble, self.result = call, args, None, None
        self.start()

    def run(self):
        try:
            self.result = self.call(*self.args)
        except BaseException as error:
            self.trouble = error

    def end(self):
        self.join()
        if self.trouble:
            raise self.trouble
        return self.result


def deliver(dovecot, number):
    """Returns the tags that were acknowledged, by user."""
    done = {user: [] for user in USERS}
    for n in range(DELIVERIES):
        user, tag = USERS[n % len(USERS)], f"tag-{number}-{n}-"
        client = dovecot.lmtp()
        client.sendmail("sender@example.org", [user], f"Subject: {tag}\r\n\r\n" + "body\r\n" * (n * 7 % 500))
        client.quit()
        done[user].append(tag)
    return done


def ok(answer):
    assert answer[0] == "OK", answer
    return answer[1]


def tags(client):
    """How often each tag is in the selected mailbox."""
    found = {}
    for part in ok(client.uid("FETCH", "1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")):
        if isinstance(part, tuple):
            tag = part[1].decode().split(":", 1)[1].strip()
            found[tag] = found.get(tag, 0) + 1
    return found


def use(dovecot, user, number):
    """A client that reads, flags, files and throws away. Returns what it threw away and what it appended."""
    rand = random.Random(number)
    removed, appended = [], []
    client = dovecot.imap(user)
    for n in range(IMAP_ROUNDS):
        ok(client.noop())
        uids = ok(client.uid("SEARCH", "UNDELETED"))[0].split()
        if uids:
            uid = rand.choice(uids)
            # The mail may be gone by another client's hand: then nothing is answered.
            client.uid("FETCH", uid, "(FLAGS BODY[])")
            client.uid("STORE", uid, "+FLAGS", rand.choice((r"(\Answered)", r"(\Flagged)", "($Label1)", "(own%d)" % (n % 5))))
            client.uid("STORE", uid, "-FLAGS", r"(\Answered $Label1)")
            client.uid("COPY", uid, f"box{number}")
        if n % 4 == 0:
            tag = f"tag-appended-{number}-{n}-"
            ok(client.append("INBOX", r"(\Seen)", None, f"Subject: {tag}\r\n\r\nx\r\n".encode()))
            appended.append(tag)
        if n % 5 == 0 and appended:
            tag = appended.pop(rand.randrange(len(appended)))
            ok(client.noop())
            for uid in ok(client.uid("SEARCH", "SUBJECT", f'"{tag}"'))[0].split():
                ok(client.uid("STORE", uid, "+FLAGS", r"(\Deleted)"))
            ok(client.expunge())
            removed.append(tag)
        if n % 20 == 19:
            client.logout()
            client = dovecot.imap(user)
    ok(client.select(f"box{number}"))
    ok(client.uid("FETCH", "1:*", "(FLAGS BODY.PEEK[])"))
    client.logout()
    return removed, appended


def run(location, lock):
    with Mount() as mount:
        os.mkdir(f"{mount.mount}/example.org")
        os.chown(f"{mount.mount}/example.org", VMAIL, VMAIL)
        with Dovecot(mount, location, lock) as dovecot:
            # One after the other: Dovecot 2.3.19 locks itself up, for a minute and on any filesystem, when several
            # processes make an mdbox user's first mailboxes at once.
            for n in range(IMAP_CLIENTS):
                ok(dovecot.imap(USERS[n % len(USERS)]).create(f"box{n}"))
            deliveries = [Work(deliver, dovecot, n) for n in range(LMTP_CLIENTS)]
            uses = [Work(use, dovecot, USERS[n % len(USERS)], n) for n in range(IMAP_CLIENTS)]
            expected = {user: set() for user in USERS}
            for work in deliveries:
                for user, done in work.end().items():
                    expected[user].update(done)
            for n, work in enumerate(uses):
                removed, appended = work.end()
                expected[USERS[n % len(USERS)]].update(appended)
                expected[USERS[n % len(USERS)]].difference_update(removed)
            for user in USERS:
                found = tags(dovecot.imap(user))
                assert set(found) == expected[user], (user, set(found) ^ expected[user])
                assert set(found.values()) == {1}, found
            if location.startswith("mdbox"):
                for user in USERS:
                    subprocess.run(["doveadm", "-c", dovecot.dir + "/conf", "purge", "-u", user], check=True)
            problems = dovecot.problems()
            assert not problems, "".join(problems)
        told = {event[0] for event in mount.events()}
        assert "TOUCHED" in told and ("DELIVERED" in told or location.startswith("mdbox")), told
        with open(mount.log, encoding="utf-8") as file:
            text = file.read()
        assert " error: " not in text and " warning: " not in text, text
        # The backing tree is Dovecot's own: it goes on there without the mount.
        assert mount.kill(signal.SIGTERM) == 0


def maildir_with_fcntl():
    run("maildir:~/Maildir", "fcntl")


def maildir_with_dotlocks():
    run("maildir:~/Maildir", "dotlock")


def mdbox_with_flock():
    run("mdbox:~/mdbox", "flock")


if __name__ == "__main__":
    if not shutil.which("dovecot", path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        skip("needs dovecot")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    run_tests([maildir_with_fcntl, maildir_with_dotlocks, mdbox_with_flock])
