"""What a random history may have left: for each mail how often it can be there, and a readable record of what was done.

A mail is known by its subject, a token used once. Within a round the operations on a mail are kept; at the round's end, when
both nodes are the same, the count of the mail is compared with what those operations allow, and the next round starts from
what is there. An operation that was answered counts as done, one that failed may have been done or not. Where two clients
moved or expunged a mail in one round, more than one outcome is right; where one client did, there is one. (So it is with two clients
of one node: a file can go from under Dovecot after it has answered.)"""
import collections
import re
import threading
import time


class Mail:
    def __init__(self):
        self.start = 0  # copies at the round's start
        self.operations = []  # (who, kind, certain)
        self.may_be_twice = False  # ever
        self.removable = False  # it is or was in a folder that may be removed as a whole
        self.flaggers, self.flags = set(), set()  # who set flags; what it must have if that was one node


class Model:
    """Thread-safe. Operations: deliver, copy, move, expunge (one copy of the mail each)."""

    def __init__(self, path):
        self.lock = threading.Lock()
        self.mails = collections.defaultdict(Mail)  # (user, token)
        self.removed_folder = set()  # users of whom a folder was removed in this round
        self.counter = 0
        self.log = open(path, "w", encoding="utf-8")  # pylint: disable=consider-using-with
        self.path, self.begun = path, time.monotonic()
        self.identities = {}  # (host, user, uidvalidity, uid) -> token
        self.count = collections.Counter()
        self.starts = collections.Counter()  # mails by user at the round's start
        self.mount_kills = collections.Counter()  # by host, counted before it is killed

    def token(self, host):
        with self.lock:
            self.counter += 1
            return f"t{self.counter:06}{host}"

    def note(self, *words):
        with self.lock:
            self.log.write(f"{time.monotonic() - self.begun:9.3f} {' '.join(str(w) for w in words)}\n")
            self.log.flush()

    def done(self, who, user, token, kind, certain, detail=""):
        """An operation on a mail has ended; certain: it was answered."""
        self.note(who, user, token, kind, detail, "" if certain else "IN DOUBT")
        with self.lock:
            self.count[kind if certain else "in doubt"] += 1
            mail = self.mails[user, token]
            mail.operations.append((who, kind, certain))
            mail.may_be_twice |= kind in ("copy", "move")
            if kind == "copy" or not certain:
                mail.flaggers.add("doubt")  # which copy has them, or is \\Deleted set

    def started_with(self, user):
        """How many mails the user had at the round's start."""
        with self.lock:
            return self.starts[user]

    def may_be_twice(self, user, token):
        """By a copy, or by moves on both nodes before they heard of each other."""
        with self.lock:
            return self.mails[user, token].may_be_twice

    def in_removable(self, user, token):
        with self.lock:
            self.mails[user, token].removable = True

    def remove_folder(self, user):
        """Told before it is tried."""
        with self.lock:
            self.removed_folder.add(user)

    def flags(self, who, user, token, add, remove, certain):
        self.note(who, user, token, "flags", f"+{add} -{remove}", "" if certain else "IN DOUBT")
        with self.lock:
            mail = self.mails[user, token]
            mail.flaggers.add(who)
            if not certain:
                mail.flaggers.add("doubt")
            mail.flags = (mail.flags | set(add)) - set(remove)
            self.count["flags"] += 1

    def saw(self, host, user, validity, uid, token):
        """A client saw this mail under this UID: no other may ever have it there."""
        with self.lock:
            before = self.identities.setdefault((host, user, validity, uid), token)
        assert before == token, f"{host}: {user}: UID {uid} of UIDVALIDITY {validity} was {before}, is {token}"

    # --- the round's end

    def bounds(self, user, mail):
        low = high = mail.start
        clients = {who for who, kind, _ in mail.operations if kind in ("move", "expunge")}
        moves = sum(kind == "move" for _, kind, _ in mail.operations)
        copies = sum(kind in ("copy", "deliver") for _, kind, _ in mail.operations)
        expunges = sum(kind == "expunge" for _, kind, _ in mail.operations)
        if len(clients) < 2:
            for _, kind, certain in mail.operations:
                if kind in ("copy", "deliver"):
                    low, high = low + certain, high + 1
                elif kind == "expunge":
                    low, high = low - 1, high - certain
                elif not certain:  # a move
                    high += 1
        else:
            sure = sum(certain for _, kind, certain in mail.operations if kind == "expunge")
            low = low + sum(c for _, kind, c in mail.operations if kind in ("copy", "deliver")) - expunges
            # The same copy may have been expunged on both.
            high = high + copies + moves - (1 if sure and not moves else 0)
        # What both nodes put into one folder before they hear of each other is one message: of one GUID, as what a broken
        # session carried over is.
        put = collections.Counter(who[-1] for who, kind, _ in mail.operations if kind in ("copy", "move"))
        low -= min(put["a"], put["b"])
        if mail.removable and user in self.removed_folder:
            low = 0
        return max(low, 0), max(high, 0)

    def check(self, user, account):
        """account: as view.account() gives it. Returns what is wrong, and starts the next round from what is there."""
        there, flags, places = collections.Counter(), collections.defaultdict(list), collections.defaultdict(list)
        removable = set()
        for folder, (_, mails) in account[0].items():
            for uid, (mail_flags, _date, _size, _modseq, body) in mails.items():
                token = subject_of(body)
                places[token].append(f"{folder} uid {uid}")
                there[token] += 1
                flags[token].append(set(mail_flags))
                if folder.startswith("D"):
                    removable.add(token)
        wrong = []
        with self.lock:
            for (owner, token), mail in self.mails.items():
                if owner != user:
                    continue
                low, high = self.bounds(user, mail)
                if not low <= there[token] <= high:
                    what = "lost" if there[token] < low else "doubled or back"
                    wrong.append(f"{user} {token}: {what}: there {there[token]} times ({', '.join(places[token])}), "
                                 f"allowed {low} to {high}: {mail.operations}")
                elif there[token] == 1 and mail.flaggers:
                    if 1 == len(mail.flaggers | {who for who, _, _ in mail.operations}) and flags[token][0] != mail.flags:
                        wrong.append(f"{user} {token}: flags {flags[token][0]}, set were {mail.flags}")
                    # Where others moved it meanwhile, without what was flagged on the other node, this is what it has now.
                    mail.flags = flags[token][0]
                mail.start, mail.operations, mail.removable = there[token], [], token in removable
                if there[token] != 1:
                    mail.flaggers.add("several")
            for token in there:
                if (user, token) not in self.mails:
                    wrong.append(f"{user}: a mail that nobody delivered: {token}")
            self.starts[user] = sum(there.values())
            self.removed_folder.discard(user)
        return wrong

    def about(self, tokens):
        """The lines of the history that name one of these mails, or a folder or a fault."""
        with open(self.path, encoding="utf-8") as file:
            return [line.rstrip() for line in file
                    if any(token in line for token in tokens) or not re.search(r" t\d{6}[ab]", line)]


def subject_of(body):
    line = next((line for line in body.splitlines() if line.startswith(b"Subject: ")), b"Subject: none")
    return line[9:].decode().strip()
