"""Clients of a random history: one mail program of each kind a node, that does what people's programs do, at random, and
tells the model of it. Folders: INBOX, R* (made and renamed, never removed) and D* (removed as well, with all their mail)."""
import ctypes
import imaplib
import os
import re
import shutil
import smtplib
import threading

import plain
from history_model import subject_of
from node import VMAIL

FAILURES = (OSError, imaplib.IMAP4.error, smtplib.SMTPException, EOFError)
FLAGS = {r"\Seen": "S", r"\Flagged": "F", r"\Answered": "R"}
KEYWORDS = ["$Forwarded", "work", "$Label1"]
MANY = 1000  # mails of a user: what is more is expunged, so that an hour is like its tenth minute
NAMES = [f"R{n}" for n in range(5)] + [f"D{n}" for n in range(3)]


class Client(threading.Thread):
    """Repeats a step until told to stop. What fails is tried again later, as mail programs do."""

    kind, weights = "", {}

    def __init__(self, node, model, users, random, pause):
        super().__init__(daemon=True)
        self.node, self.model, self.users, self.random, self.pause = node, model, users, random, pause
        self.halt, self.failure = threading.Event(), None
        self.who = f"{self.kind} of {node.host}"

    def run(self):
        names, weights = list(self.weights), list(self.weights.values())
        try:
            while not self.halt.wait(self.pause * self.random.expovariate(1)):
                user = self.random.choice(self.users)
                step = self.random.choices(names, weights)[0]
                if step in ("deliver", "append") and self.model.started_with(user) > MANY:
                    step = "expunge"
                try:
                    getattr(self, step)(user)
                except FAILURES as error:
                    self.failed(user, error)
        except BaseException as error:  # pylint: disable=broad-exception-caught
            self.failure = error

    def failed(self, user, error):
        pass

    def done(self, user, token, kind, certain, detail=""):
        self.model.done(self.who, user, token, kind, certain, detail)

    def attempt(self, user, token, kind, detail, call):
        """Runs call and records the operation, answered or in doubt."""
        try:
            result = call()
        except FAILURES as error:
            self.done(user, token, kind, False, f"{detail} ({error})")
            raise
        self.done(user, token, kind, True, detail)
        return result

    def entering(self, user, token, folder):
        if folder.startswith("D"):
            self.model.in_removable(user, token)

    def new_name(self, taken, first=None):
        free = [name for name in NAMES if name not in taken and name.startswith(first or "")]
        return self.random.choice(free) if free else None


class DovecotClient(Client):
    """LMTP and IMAP."""

    kind = "dovecot"
    weights = {"deliver": 25, "append": 8, "set_flags": 20, "move": 8, "copy": 5, "expunge": 10, "create": 4, "rename": 3,
               "delete": 1, "subscribe": 4, "reconnect": 4}

    def __init__(self, *args):
        super().__init__(*args)
        self.connections = {}
        self.mount_kills = {}  # at the start of each connection

    def failed(self, user, error):
        self.reconnect(user)

    def reconnect(self, user):
        client = self.connections.pop(user, None)
        if client:
            try:
                client.shutdown()
            except OSError:
                pass

    def imap(self, user):
        if user not in self.connections:
            self.mount_kills[user] = self.model.mount_kills[self.node.host]
            self.connections[user] = self.node.imap(user, select=False)
        return self.connections[user]

    def is_written(self, user):
        """Whether what a session changed in an index is in a file: when the mount dies, Dovecot goes on with an index in
        memory ("write_full() failed", "Transport endpoint is not connected") and answers OK."""
        return self.mount_kills[user] == self.model.mount_kills[self.node.host]

    def folders(self, user):
        found = []
        for line in self.imap(user).list()[1]:
            if line and rb"\Noselect" not in line and rb"\NonExistent" not in line:
                found.append(re.match(rb'\(.*?\) "." (.*)', line).group(1).decode().strip('"'))
        return found

    @staticmethod
    def guid(client, folder):
        """The mailbox that has this name now."""
        found = re.search(rb"X-GUID ([0-9a-f]{32})", client.status(f'"{folder}"', "(X-GUID)")[1][0] or b"")
        return found and found.group(1).decode()

    def open(self, user):
        """Selects a folder, mostly INBOX, and gives (client, folder, [(uid, token)])."""
        client, folder = self.imap(user), "INBOX"
        if self.random.random() < 0.4:
            folder = self.random.choice(self.folders(user) or ["INBOX"])
        guid = self.guid(client, folder)
        client.select(f'"{folder}"')
        validity = int(client.response("UIDVALIDITY")[1][0])
        mails = []
        for part in client.uid("FETCH", "1:*", "(UID BODY.PEEK[HEADER.FIELDS (SUBJECT)])")[1]:
            if isinstance(part, tuple):
                uid, token = int(re.search(rb"UID (\d+)", part[0]).group(1)), subject_of(part[1])
                if token != "none":  # expunged meanwhile
                    mails.append((uid, token))
        # Two nodes may give two mailboxes one UIDVALIDITY in one second, and each its name in turn.
        if guid and guid == self.guid(client, folder):
            for uid, token in mails:
                self.model.saw(self.node.host, user, f"{guid} {validity}", uid, token)
        return client, folder, mails

    def pick(self, user):
        client, folder, mails = self.open(user)
        if not mails:
            return client, folder, None, None
        return client, folder, *self.random.choice(mails)

    def deliver(self, user):
        token = self.model.token(self.node.host)
        size = self.random.choice([1, 1, 10, 300])
        self.attempt(user, token, "deliver", "LMTP", lambda: self.node.deliver(user, token, "A line of mail.\r\n" * size))

    def append(self, user):
        token, folder = self.model.token(self.node.host), self.random.choice(self.folders(user) or ["INBOX"])
        self.entering(user, token, folder)
        text = f"From: <x@example.org>\r\nSubject: {token}\r\n\r\nAppended.\r\n".encode()
        self.attempt(user, token, "deliver", f"APPEND {folder}", lambda: self.imap(user).append(f'"{folder}"', None, None, text))

    @staticmethod
    def store(client, uid, flag):
        """Whether it was there: one that was expunged meanwhile is no error."""
        answers = client.uid("STORE", str(uid), "+FLAGS", f"({flag})")[1]
        return any(answer and re.search(rb"UID %d\b" % uid, answer) and flag.encode() in answer for answer in answers)

    def set_flags(self, user):
        client, _, uid, token = self.pick(user)
        if not uid:
            return
        add, remove = self.random.choice(list(FLAGS) + KEYWORDS), self.random.choice(list(FLAGS) + KEYWORDS)
        certain = False
        try:
            certain = self.store(client, uid, add)
            if certain and add != remove and self.random.random() < 0.4:
                certain = client.uid("STORE", str(uid), "-FLAGS", f"({remove})")[1] is not None
            else:
                remove = None
        finally:
            self.model.flags(self.who, user, token, [add], [remove] if remove else [], certain and self.is_written(user))

    def to_other(self, user, kind, command):
        client, folder, uid, token = self.pick(user)
        others = [name for name in self.folders(user) if name != folder]
        if not uid or not others:
            return
        target = self.random.choice(others)
        self.entering(user, token, target)
        certain = False
        try:
            client.uid(command, str(uid), f'"{target}"')
            # One that is gone is no error: COPYUID says that it was there.
            certain = client.response("COPYUID")[1] != [None]
        finally:
            self.done(user, token, kind, certain and self.is_written(user), f"{folder} -> {target} uid {uid}")

    def move(self, user):
        self.to_other(user, "move", "MOVE")

    def copy(self, user):
        self.to_other(user, "copy", "COPY")

    def expunge(self, user):
        client, folder, uid, token = self.pick(user)
        if not uid:
            return
        certain = False
        try:
            stored = self.store(client, uid, r"\Deleted")
            client.response("EXPUNGE")
            client.uid("EXPUNGE", str(uid))
            certain = stored and client.response("EXPUNGE")[1] != [None]
        finally:
            self.done(user, token, "expunge", certain and self.is_written(user), f"{folder} uid {uid}")

    def create(self, user):
        name = self.new_name(self.folders(user))
        if name:
            self.model.note(self.who, user, "create", name)
            self.imap(user).create(f'"{name}"')

    def rename(self, user):
        folders = self.folders(user)
        old = [name for name in folders if name[0] in "RD" and len(name) < 4]
        if old:
            old = self.random.choice(old)
            new = self.new_name(folders, old[0])
            if new:
                self.model.note(self.who, user, "rename", old, new)
                self.imap(user).rename(f'"{old}"', f'"{new}"')

    def delete(self, user):
        names = [name for name in self.folders(user) if name.startswith("D")]
        if names:
            name = self.random.choice(names)
            self.model.note(self.who, user, "delete", name)
            self.model.remove_folder(user)
            self.imap(user).delete(f'"{name}"')

    def subscribe(self, user):
        name = self.random.choice(self.folders(user) or ["INBOX"])
        getattr(self.imap(user), self.random.choice(["subscribe", "subscribe", "unsubscribe"]))(f'"{name}"')


class PlainClient(Client):
    """Programs that know a maildir and nothing else."""

    kind = "plain"
    weights = {"deliver": 40, "set_flags": 20, "expunge": 10, "move": 8, "copy": 4, "create": 3, "rename": 2, "delete": 1}

    def run(self):
        # This thread's alone. Root would leave a folder that only root can use where the mount dies before the chown.
        libc = ctypes.CDLL(None)
        libc.setfsgid(VMAIL)
        libc.setfsuid(VMAIL)
        super().run()

    def root(self, user):
        return self.node.home(user) + "/Maildir"

    def folders(self, user):
        return [name[1:] for name in os.listdir(self.root(user)) if re.fullmatch(r"\.[RD].*", name)]

    def path(self, user, folder):
        return self.root(user) + ("" if folder == "INBOX" else "/." + folder)

    def any_folder(self, user):
        if self.random.random() < 0.6:
            return "INBOX"
        return self.random.choice(["INBOX"] + self.folders(user))

    def pick(self, user):
        """A message file: (folder, directory, name, token), or None."""
        folder = self.any_folder(user)
        sub = self.random.choice(["new", "cur", "cur"])
        directory = f"{self.path(user, folder)}/{sub}"
        names = os.listdir(directory)
        if not names:
            return None
        name = self.random.choice(names)
        with open(f"{directory}/{name}", "rb") as file:
            return folder, directory, name, subject_of(file.read(4096))

    def deliver(self, user):
        token, folder = self.model.token(self.node.host), self.any_folder(user)
        self.entering(user, token, folder)
        self.attempt(user, token, "deliver", f"to {folder}",
                     lambda: plain.deliver(self.path(user, folder), token, "A plain line.\n" * self.random.choice([1, 10, 300]),
                                           by_link=self.random.random() < 0.3))

    def certainly(self, call):
        """A file system call on a name: done, or known not to be done (False)."""
        try:
            call()
        except FileNotFoundError:
            return False
        return True

    def set_flags(self, user):
        picked = self.pick(user)
        if not picked:
            return
        folder, directory, name, token = picked
        base, _, old = name.partition(":2,")
        flag = self.random.choice(list(FLAGS))
        new = "".join(sorted(set(old) | {FLAGS[flag]}))
        certain = False
        try:
            if not self.certainly(lambda: os.rename(f"{directory}/{name}", f"{self.path(user, folder)}/cur/{base}:2,{new}")):
                return
            certain = True
        finally:
            # What Dovecot's index says and the name does not yet is not known here.
            self.model.flags(self.who, user, token, [flag], [], certain)

    def expunge(self, user):
        picked = self.pick(user)
        if not picked:
            return
        folder, directory, name, token = picked
        try:
            if self.certainly(lambda: os.unlink(f"{directory}/{name}")):
                self.done(user, token, "expunge", True, f"unlink {folder} {name}")
        except OSError as error:
            self.done(user, token, "expunge", False, f"unlink {folder} {name} ({error})")
            raise

    def move(self, user):
        picked = self.pick(user)
        if not picked:
            return
        folder, directory, name, token = picked
        target = self.any_folder(user)
        if target == folder:
            return
        self.entering(user, token, target)
        base, _, flags = name.partition(":2,")
        if self.model.may_be_twice(user, token):
            base = plain.new_base()  # the other one has the same name, and would be replaced by this one
        new = f"{base}:2,{''.join(flag for flag in flags if flag.isupper())}"
        try:
            if self.certainly(lambda: os.rename(f"{directory}/{name}", f"{self.path(user, target)}/cur/{new}")):
                self.done(user, token, "move", True, f"{folder} -> {target} {name}")
                self.model.flags("keywords of", user, token, [], [], False)
        except OSError as error:
            self.done(user, token, "move", False, f"{folder} -> {target} {name} ({error})")
            raise

    def copy(self, user):
        picked = self.pick(user)
        if not picked:
            return
        _, directory, name, token = picked
        target = self.any_folder(user)
        with open(f"{directory}/{name}", encoding="utf-8") as file:
            body = file.read().partition("\n\n")[2]
        self.entering(user, token, target)
        self.attempt(user, token, "copy", f"to {target}", lambda: plain.deliver(self.path(user, target), token, body))

    def create(self, user):
        name = self.new_name(self.folders(user))
        if name:
            self.model.note(self.who, user, "create", name)
            plain.make_maildir(self.path(user, name))

    def rename(self, user):
        folders = self.folders(user)
        old = [name for name in folders if len(name) < 4]
        if old:
            old = self.random.choice(old)
            new = self.new_name(folders, old[0])
            if new:
                self.model.note(self.who, user, "rename", old, new)
                os.rename(self.path(user, old), self.path(user, new))

    def delete(self, user):
        names = [name for name in self.folders(user) if name.startswith("D")]
        if names:
            name = self.random.choice(names)
            self.model.note(self.who, user, "rm -r", name)
            self.model.remove_folder(user)
            for _ in range(5):
                shutil.rmtree(self.path(user, name), ignore_errors=True)
            os.stat(self.root(user), dir_fd=None)


def make_user(node, user):
    plain.make_maildir(plain.make_home(node, user) + "/Maildir")
    os.chown(node.home(user), VMAIL, VMAIL)
