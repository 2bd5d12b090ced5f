"""Plain programs on a maildir: deliver, rename flags, unlink, make, rename and remove folders. No mail server."""
import itertools
import os
import time

from node import VMAIL

_counter = itertools.count(1)


def make_maildir(path):
    for sub in ("", "cur", "new", "tmp"):
        os.makedirs(os.path.join(path, sub), exist_ok=True)
        os.chown(os.path.join(path, sub), VMAIL, VMAIL)


def make_home(node, user):
    home = node.home(user)
    for path in (os.path.dirname(home), home):
        os.makedirs(path, exist_ok=True)
        os.chown(path, VMAIL, VMAIL)
    return home


def new_base():
    return f"{int(time.time())}.M{time.time_ns() // 1000 % 1000000}P{os.getpid()}Q{next(_counter)}.plain"


def deliver(maildir, subject, body="Hello.\n", by_link=False):
    """As Maildir says: written to tmp/, synced, moved to new/. Returns the base name."""
    base = new_base()
    tmp, new = f"{maildir}/tmp/{base}", f"{maildir}/new/{base}"
    with open(tmp, "w", encoding="utf-8") as file:
        file.write(f"From: <plain@example.org>\nSubject: {subject}\n\n{body}")
        file.flush()
        os.fsync(file.fileno())
        os.fchown(file.fileno(), VMAIL, VMAIL)
    if by_link:
        os.link(tmp, new)
        os.unlink(tmp)
    else:
        os.rename(tmp, new)
    return base


def files(maildir):
    """{base name: flags} of a maildir, new/ and cur/ alike."""
    result = {}
    for sub in ("new", "cur"):
        for name in os.listdir(f"{maildir}/{sub}"):
            base, _, flags = name.partition(":2,")
            result[base] = flags
    return result


def find(maildir, base):
    for sub in ("new", "cur"):
        for name in os.listdir(f"{maildir}/{sub}"):
            if name.partition(":2,")[0] == base:
                return f"{maildir}/{sub}/{name}"
    raise FileNotFoundError(base)


def set_flags(maildir, base, flags):
    os.rename(find(maildir, base), f"{maildir}/cur/{base}:2,{flags}")


def subject(path):
    with open(path, encoding="utf-8") as file:
        return next(line for line in file if line.startswith("Subject: "))[9:].strip()
