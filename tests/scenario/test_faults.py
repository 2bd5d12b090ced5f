#!/usr/bin/python3
"""Bad input: a wrong password, strangers, a hostile peer, unknown users, damaged mailboxes, bad settings. What is bad
ends with a reason; everything else goes on syncing."""
import contextlib
import fcntl
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import hostile
import plain
from node import BUILD, PASSWORD, Pair, dovecot_config, eventually, need

USER, OTHER, VICTIM = "one@example.org", "other@example.org", "victim@example.org"
MEMORY_MAX_KB = 40 * 1024  # a dsyncd with three users has 10 MB


def root(node, user=USER):
    return node.home(user) + "/Maildir"


def setup(pair, *users):
    for user in users:
        plain.make_home(pair.a, user)
        plain.make_maildir(root(pair.a, user))


def same(pair, user=USER, folder="", timeout=20):
    def check():
        left, right = (plain.files(root(node, user) + folder) for node in pair.nodes)
        assert left == right, sorted(set(left.items()) ^ set(right.items()))
        return True

    eventually(f"{user}{folder} is the same on both", check, timeout)


def goes_on(pair, user, subject, timeout=10):
    """A mail goes from each node to the other."""
    bases = [plain.deliver(root(pair.a, user), subject)]
    eventually(f"{subject} on b", lambda: bases[0] in plain.files(root(pair.b, user)), timeout)
    bases.append(plain.deliver(root(pair.b, user), subject))
    eventually(f"{subject} on a", lambda: bases[1] in plain.files(root(pair.a, user)), timeout)
    return bases


def log_has(node, *texts, since=0):
    def check():
        with open(node.log, encoding="utf-8", errors="replace") as file:
            file.seek(since)
            return any(all(text in line for text in texts) for line in file)

    eventually(f"{node.host}'s log: {texts}", check)


def log_size(node):
    return os.path.getsize(node.log)


def memory_kb(node):
    with open(f"/proc/{node.pid('dsyncd')}/status", encoding="ascii") as file:
        return int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1))


def uids(node, folder="", user=USER):
    """{base name: uid} and UIDVALIDITY, from dovecot-uidlist."""
    with open(root(node, user) + folder + "/dovecot-uidlist", encoding="utf-8") as file:
        header, *lines = file.read().splitlines()
    return {line.partition(" :")[2]: int(line.split()[0]) for line in lines}, re.search(r" V(\d+)", header).group(1)


# --- the peer's port

def wrong_password(pair):
    settings = pair.b.settings
    with open(settings, encoding="utf-8") as file:
        good = file.read()
    pair.b.kill("dsyncd", 15)
    with open(settings, "w", encoding="utf-8") as file:
        file.write(good.replace(PASSWORD, "something else"))
    marks = [log_size(node) for node in pair.nodes]
    pair.b.start_dsyncd()
    base = plain.deliver(root(pair.a), "not through")
    back = plain.deliver(root(pair.b), "not back")
    for node, mark in zip(pair.nodes, marks):
        log_has(node, "peer cannot be used", "refused doveadm_password", since=mark)
        log_has(node, "connection refused: wrong password", since=mark)
        eventually(f"status of {node.host} says why",
                   lambda node=node: "refused doveadm_password" in node.status()["verdict"])
    assert base not in plain.files(root(pair.b)) and back not in plain.files(root(pair.a))
    assert PASSWORD not in open(pair.a.log, encoding="utf-8").read(), "a password in the log"
    pair.b.kill("dsyncd", 15)
    with open(settings, "w", encoding="utf-8") as file:
        file.write(good)
    pair.b.start_dsyncd()
    eventually("through after the correction", lambda: base in plain.files(root(pair.b)))
    eventually("back after the correction", lambda: back in plain.files(root(pair.a)))
    eventually("status is well again", lambda: all(node.status()["in_sync"] for node in pair.nodes))


def strangers(pair):
    random.seed(1)
    mark = log_size(pair.b)
    noise = hostile.connect(pair.b)
    noise.sendall(random.randbytes(900).replace(b"\n", b"x"))
    time.sleep(0.1)
    noise.close()
    log_has(pair.b, "connection refused", "10.77.0.1", since=mark)

    mark = log_size(pair.b)
    line = hostile.connect(pair.b)
    piece, sent = b"x" * 1_000_000, 0
    try:
        while sent < 100_000_000:
            line.sendall(piece)
            sent += len(piece)
    except OSError:
        pass
    assert sent < 50_000_000, "100 MB were taken"
    log_has(pair.b, "connection refused", "too long", since=mark)

    # As long a line behind the password, and on a session's stream.
    peer = hostile.Master(pair.b, USER.encode())
    assert peer.accepted and peer.reply == b"+", peer.reply
    mark = log_size(pair.b)
    sent = 0
    try:
        while sent < 100_000_000:
            peer.send(piece)
            sent += len(piece)
    except OSError:
        pass
    assert sent < 50_000_000, "100 MB were taken"
    log_has(pair.b, "session of a peer failed", "too long", since=mark)

    mark = log_size(pair.b)
    many = [hostile.connect(pair.b) for _ in range(250)]
    half = hostile.connect(pair.b)
    half.sendall(b"VERSION\tdoveadm-server\t1\t0\n")
    goes_on(pair, OTHER, "beside 250 strangers")
    log_has(pair.b, "too many connections without a password", since=mark)
    assert hostile.closed(half, 15), "a half-open connection stays"
    assert all(hostile.closed(client, 15) for client in many)
    goes_on(pair, OTHER, "after 250 strangers")
    assert memory_kb(pair.b) < MEMORY_MAX_KB, memory_kb(pair.b)


def unknown_users(pair):
    before = sorted(os.listdir(pair.b.dir)), sorted(os.listdir(pair.b.backing))
    names = (b"../../x@example.org", b"..@example.org", b"x@..", b"/etc@example.org", b"a/b@example.org", b"nobody", b"@",
             b"x@", b"@example.org", b"new\nline@example.org", b"tab\tbed@example.org", b"\xff\xfe@example.org",
             b"%d@example.org", b".hidden@example.org")
    for user in names:
        mark = log_size(pair.b)
        peer = hostile.Master(pair.b, user)
        if user not in (b"\xff\xfe@example.org", b"%d@example.org"):
            assert peer.reply.startswith(b"-"), (user, peer.reply)
            log_has(pair.b, "session refused" if user != b"" else "", since=mark)
        peer.close()
    peer = hostile.Master(pair.b, b"x" * 600 + b"@example.org")
    assert not peer.reply.startswith(b"+")
    peer.close()
    assert sorted(os.listdir(pair.b.dir)) == before[0]
    assert sorted(os.listdir(pair.b.backing)) == before[1], os.listdir(pair.b.backing)
    goes_on(pair, USER, "after unknown users")


def tree_of(path, but):
    found = set()
    for directory, subdirs, names in os.walk(path):
        if directory.startswith(but):
            subdirs.clear()
            continue
        found.update(os.path.join(directory, name) for name in names + subdirs)
    return found


def hostile_names(pair):
    bad = [hostile.name(*parts) for parts in (
        (b"..", b"..", b"x"), (b"../../x",), (b"/etc/x",), (b"", b"etc"), (b"..",), (b".",), (b"a", b"..", b"..", b"..", b"y"),
        (b"a\0b",), (b"a\nb",), (b"a\x1b[2J",), (b"x" * 5000,), (b"d",) * 2000, (b"cur",), (b"new", b"x"), (b"~root",),
        (b"\xff\xfe",), (b"INBOX", b"..", b"z"), (b"a/b",), (b"*",), (b"%2e%2e",), (b"",), (b"dovecot-uidlist",))]
    outside = tree_of(pair.b.dir, pair.b.home(USER, backing=True))
    for number, wire_name in enumerate(bad):
        peer = hostile.Master(pair.b, USER.encode())
        assert peer.reply == b"+", peer.reply
        peer.begin()
        peer.tree([wire_name], first=number)
        peer.rest(0.15)
        peer.close()
    mount_home = pair.b.home(USER)
    new = {path for path in tree_of(pair.b.dir, pair.b.home(USER, backing=True)) - outside
           if not path.startswith((mount_home, pair.b.dir + "/state"))}
    assert not new, new
    assert not os.path.exists("/etc/x") and not os.path.exists("/x")
    # Below the home the maildir alone, and in it nothing that is no folder.
    assert os.listdir(mount_home) == ["Maildir"], os.listdir(mount_home)
    goes_on(pair, USER, "after hostile names")


def hostile_mails(pair):
    setup(pair, VICTIM)
    goes_on(pair, VICTIM, "before hostile mails")
    outside = tree_of(pair.b.dir, pair.b.home(VICTIM, backing=True))
    body = b"From: x@example.org\nSubject: hostile\n\nHello.\n"
    for guid, keywords, text in ((b"0123456789abcdef0123456789abcdef", b"+hostile", body),  # one that is good
                                 (b"../../../evil", b"", body), (b"/etc/evil", b"", body), (b"g" * 1500, b"", body),
                                 (b"a\x01tb", b"", body), (b"name:2,S", b"", body), (b"\xff\xfe", b"", body), (b"", b"", body),
                                 (b"key1", b"+../x", body), (b"key2", b"+a b", body), (b"key3", b"+" + b"k" * 5000, body),
                                 (b"key4", b"+\\Evil", body), (b"key5", b"?x", body), (b"zero", b"", b"a\0b\n" * 10),
                                 (b"none", b"", b""), (b"long", b"", b"x" * 3_000_000), (b".hidden", b"", body), (b"..", b"", body)):
        peer = hostile.Master(pair.b, VICTIM.encode())
        peer.begin()
        with contextlib.suppress(OSError):
            peer.mails(peer.inbox(), [(guid, keywords, text)])
        peer.rest(0.1)
        peer.close()
    new = {path for path in tree_of(pair.b.dir, pair.b.home(VICTIM, backing=True)) - outside
           if not path.startswith((pair.b.home(VICTIM), pair.b.dir + "/state"))}
    assert not new, new
    assert not os.path.exists("/etc/evil")
    assert any(plain.subject(plain.find(root(pair.b, VICTIM), base)) == "hostile" for base in plain.files(root(pair.b, VICTIM)))
    for base in plain.files(root(pair.b, VICTIM)):
        assert re.fullmatch(r"[^\x00-\x20/:.][^\x00-\x20/:]*", base) and len(base) < 200, base
    goes_on(pair, VICTIM, "after hostile mails")


def many_mailboxes(pair):
    """100,000 names: an end with a reason or a long work, but bounded, and others go on."""
    peer = hostile.Master(pair.b, OTHER.encode())
    peer.begin()
    peer.socket.settimeout(20)
    try:
        peer.tree([hostile.name(b"flood%d" % number) for number in range(100_000)])
    except OSError:
        pass
    goes_on(pair, USER, "beside 100,000 names", timeout=20)
    eventually("some are made", lambda: sum(name.startswith(".flood") for name in os.listdir(root(pair.b, OTHER))) > 100)
    goes_on(pair, USER, "while 100,000 names are made", timeout=20)
    out = subprocess.run(["pgrep", "-P", str(pair.b.pid("dsyncd"))], capture_output=True, text=True, check=False).stdout
    for pid in out.split():
        try:
            with open(f"/proc/{pid}/status", encoding="ascii") as file:
                peak = int(re.search(r"VmHWM:\s+(\d+)", file.read()).group(1))
        except OSError:
            continue
        assert peak < 256 * 1024, f"a worker took {peak} kB"
    assert memory_kb(pair.b) < MEMORY_MAX_KB, memory_kb(pair.b)
    peer.close()
    for node in pair.nodes:
        node.kill("dsyncd")  # they would go on with it for a while


# --- damaged mailboxes

def damage(pair, name, folder):
    """Garbage over a file of a mailbox on b, while mail comes in on both sides."""
    maildir = root(pair.b) + folder
    before, validity = uids(pair.b, folder)
    assert before
    mark = log_size(pair.b)
    with open(f"{maildir}/{name}", "r+b") as file:
        size = os.fstat(file.fileno()).st_size
        file.write(random.randbytes(max(size // 2, 40)))
    new = [plain.deliver(maildir, "into the damaged"), plain.deliver(root(pair.a) + folder, "to the damaged")]
    goes_on(pair, OTHER, f"another user beside a damaged {name}")
    log_has(pair.b, "one@example.org", "rebuilding", since=mark)
    same(pair, folder=folder)
    for node in pair.nodes:
        def whole(node=node):
            after, validity_after = uids(node, folder)
            assert set(new) <= set(after), "not taken in yet"
            return after, validity_after
        after, validity_after = eventually(f"uidlist of {node.host} is whole", whole)
        assert validity_after == validity, f"{node.host}: UIDVALIDITY {validity} became {validity_after}"
        if name != "dovecot-uidlist":
            moved = {base for base in before if after[base] != before[base]}
            assert not moved, f"{node.host}: {len(moved)} of {len(before)} were renumbered"

    def agree():
        left, right = (uids(node, folder) for node in pair.nodes)
        assert left == right, (left, right)
        return True
    eventually(f"{folder or 'INBOX'} has the same UIDs on both after damage to {name}", agree)


def damaged_mailboxes(pair):
    for folder in ("", "/.Work"):
        maildir = root(pair.a) + folder
        plain.make_maildir(maildir)
        for number in range(6):
            plain.deliver(maildir, f"before {number}")
    eventually("folder on b", lambda: os.path.isdir(root(pair.b) + "/.Work/cur"))
    for folder in ("", "/.Work"):
        same(pair, folder=folder)
        eventually("UIDs on b", lambda folder=folder: len(uids(pair.b, folder)[0]) >= 6)
    damage(pair, "dovecot-uidlist", "/.Work")
    damage(pair, "dovecot.index.log", "/.Work")
    damage(pair, "dovecot-uidlist", "")
    damage(pair, "dovecot.index.log", "")
    eventually("both in sync", lambda: all(node.status()["in_sync"] for node in pair.nodes))


# --- settings

def run_with_settings(text, programs=("dsyncd", "dsyncfs", "dsyncctl")):
    with tempfile.TemporaryDirectory(prefix="dsyncfs-settings-") as directory:
        path = directory + "/dsyncfs.conf"
        with open(path, "w", encoding="utf-8") as file:
            file.write(text.replace("STATE", directory))
        results = {}
        for argv in (["dsyncd", "-F", "-c", path], ["dsyncfs", "-f", "-o", f"config={path}", directory, directory],
                     ["dsyncctl", "-c", path, "showconf"]):
            if argv[0] not in programs:
                continue
            done = subprocess.run([f"{BUILD}/tools/{argv[0]}", *argv[1:]], capture_output=True, text=True, timeout=20,
                                  check=False)
            results[argv[0]] = (done.returncode, done.stdout, done.stderr.replace(path, "FILE"))
        return results


def pasted_dovecot(text, base):
    """What Dovecot 2.3 prints is taken, but for a format that is not; that is named with its line. 2.4's syntax is another."""
    if dovecot_config.is_24():
        for program, (code, _, err) in run_with_settings(base + text).items():
            assert code == 78 and re.search(r"FILE:\d+: dovecot_config_version: .*Dovecot 2\.4", err), (program, code, err)
        return
    place = re.compile(r"^(mail_location = ).*$", re.M)
    results = run_with_settings(base + place.sub(r"\1mbox:~/mail:INBOX=/var/mail/%u", text))
    for program, (code, _, err) in results.items():
        assert code == 78 and re.search(r"FILE:\d+: mail_location = mbox:", err), (program, code, err)
    code, out, err = run_with_settings(base + place.sub(r"\1maildir:~/Maildir", text), ["dsyncctl"])["dsyncctl"]
    assert code == 0 and "mail_root = /var/mail/vhosts" in out, (code, err)
    assert len(err.splitlines()) <= 8, err  # a notice, not one for each line


def settings(_):
    base = "mail_root = /var/mail/vhosts\nstate_dir = STATE/state\n"
    for line, *reasons in (("mail_replicas = tcp:b:1", "mail_replicas", "mail_replica"),
                           ("doveadm_port = many", "doveadm_port", "many"),
                           ("doveadm_port = 99999", "doveadm_port", "99999"),
                           ("mail_replica = b:1", "mail_replica"),
                           ("replication_full_sync_interval = 3 fortnights", "fortnights"),
                           ("mail_location = mbox:~/mail", "mbox"),
                           ("plugin {", "never closed"),
                           ("}", "}"),
                           ("no equals sign", "no")):
        for program, (code, _, err) in run_with_settings(base + line + "\n").items():
            assert code == 78, (program, line, code, err)
            assert re.search(r"FILE:[34]\b", err) and all(reason in err for reason in reasons), (program, line, err)
    if shutil.which("doveconf", path=os.environ["PATH"] + ":/usr/bin"):
        for option in ("-n", "-a"):
            pasted_dovecot(subprocess.run(["doveconf", option], capture_output=True, text=True, check=True).stdout, base)


def told(systemd, last):
    """What systemd hears of a daemon up to that message."""
    said = []
    while not said or not said[-1].startswith(last):
        said.append(systemd.recv(200).decode())
    return said


def service_manager(pair):
    """dsyncd tells systemd that it is ready, alive, reading its settings again, and ending."""
    pair.b.kill("dsyncd", signal.SIGTERM)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(pair.b.dir + "/notify")
        systemd.settimeout(10)
        os.environ.update(NOTIFY_SOCKET=pair.b.dir + "/notify", WATCHDOG_USEC="400000")
        try:
            pair.b.start_dsyncd()
        finally:
            del os.environ["NOTIFY_SOCKET"], os.environ["WATCHDOG_USEC"]
        assert told(systemd, "WATCHDOG=1") == ["READY=1", "WATCHDOG=1"]
        goes_on(pair, OTHER, "told by a service")
        os.kill(pair.b.pid("dsyncd"), signal.SIGHUP)
        told(systemd, "RELOADING=1\nMONOTONIC_USEC=")
        told(systemd, "READY=1")
        pair.b.kill("dsyncd", signal.SIGTERM)
        told(systemd, "STOPPING=1")
    pair.b.start_dsyncd()
    goes_on(pair, OTHER, "after the service")


def locks_on_a_dead_mount(pair):
    """Who waits for a lock when the mount dies does not wait until the lock's own time is over: the holder may be a process
    that waits on that mount, too."""
    mailbox = root(pair.a)
    plain.deliver(mailbox, "before")
    same(pair)
    pair.a.kill("dsyncd", signal.SIGTERM)
    with open(mailbox + "/dovecot.index.log", "rb+") as held, tempfile.TemporaryDirectory() as copy:
        fcntl.lockf(held, fcntl.LOCK_EX)
        plain.deliver(mailbox, "to be taken in")
        waits = subprocess.Popen([f"{BUILD}/tools/dsync", "-o", f"mail_location=maildir:{mailbox}", "mirror", f"maildir:{copy}/Maildir"],
                                 stderr=subprocess.PIPE, text=True, env={**os.environ, "HOME": copy})
        time.sleep(4)
        assert waits.poll() is None, (waits.returncode, waits.stderr.read())
        pair.a.kill("dsyncfs")
        died = time.monotonic()
        _, said = waits.communicate(timeout=100)
        assert time.monotonic() - died < 30 and waits.returncode == 1 and "not connected" in said, (waits.returncode, said)
    pair.a.start_dsyncfs()
    pair.a.start_dsyncd()
    goes_on(pair, USER, "after that", timeout=30)


PARTS = [settings, service_manager, wrong_password, unknown_users, hostile_names, hostile_mails, damaged_mailboxes, strangers,
         locks_on_a_dead_mount, many_mailboxes]


def main():
    need("pgrep")
    parts = [part for part in PARTS if len(sys.argv) < 2 or part.__name__ in sys.argv[1:]]
    with Pair(dovecot=False) as pair:
        setup(pair, USER, OTHER)
        for user in (USER, OTHER):
            goes_on(pair, user, "at first")
        for part in parts:
            start = time.monotonic()
            part(pair)
            print(f"{part.__name__}: ok, {time.monotonic() - start:.1f} s", flush=True)
    print("ok")


if __name__ == "__main__":
    main()
