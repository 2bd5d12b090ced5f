#!/usr/bin/python3
"""fuzz_seeds.py NAME DRIVER [OPTION...]: makes the fuzzer's seeds from the test samples and runs the driver over them.

With a directory in place of the driver the seeds are written there and kept, for libFuzzer.
"""
import os
import struct
import subprocess
import sys
import tarfile
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LOGIN = b"VERSION\tdoveadm-server\t1\t%d\nPLAIN\tAGRvdmVhZG0Ac2VjcmV0cHc=\n"


def archived(directory, wanted):
    """{folder in the archive: {name: bytes}} of the sample archives."""
    for name in sorted(os.listdir(directory)):
        if not name.endswith(".tar.gz"):
            continue
        folders = {}
        with tarfile.open(os.path.join(directory, name)) as archive:
            for member in archive:
                folder, base = os.path.split(member.name)
                if member.isfile() and base in wanted:
                    folders.setdefault(folder, {})[base] = archive.extractfile(member).read()
        yield from folders.values()


def wire(directory):
    for name in sorted(os.listdir(directory)):
        with open(os.path.join(directory, name), "rb") as file:
            yield file.read()


def index(directory):
    names = ("dovecot.index", "dovecot.index.log.2", "dovecot.index.log")
    for files in archived(directory, names):
        snapshot, older, log = (files.get(name, b"") for name in names)
        if max(len(snapshot), len(older), len(log)) < 20000:
            yield struct.pack("<HH", len(snapshot), len(older)) + snapshot + older + log


def uidlist(directory):
    for files in archived(directory, ("dovecot-uidlist",)):
        yield files["dovecot-uidlist"]


def dbox(directory):
    """The map, INBOX and the messages of each mdbox."""
    for name in sorted(os.listdir(directory)):
        if not name.startswith("mdbox") or not name.endswith(".tar.gz"):
            continue
        files = {}
        with tarfile.open(os.path.join(directory, name)) as archive:
            for member in archive:
                if member.isfile():
                    files[member.name.split("/", 1)[1]] = archive.extractfile(member).read()
        parts = [files.get("mdbox/" + path, b"") for path in (
            "storage/dovecot.map.index.log", "mailboxes/INBOX/dbox-Mails/dovecot.index.log", "storage/m.1")]
        if max(len(part) for part in parts) < 60000:
            yield struct.pack("<HH", len(parts[0]), len(parts[1])) + b"".join(parts)


def doveadm(_):
    for minor in (0, 1, 3):
        yield b"\x20" + LOGIN % minor + b"\talice\tdsync-server\t-ualice\nVERSION\tdsync\t3\t5\n"
    yield b"\x20" + LOGIN % 3 + b"D\tbob\tOPTION\tlog-passthrough\nDx\tip\tbob\tdsync-server\t-u\tbob\t-U\t-E\n"
    yield b"\x21-\n+\n\n+\nVERSION\tdsync\t3\t5\n"
    yield b"\x21VERSION\tdoveadm-client\t1\t3\n+\n\n-NOUSER\n"


def settings(directory):
    for name in sorted(os.listdir(directory)):
        if name.endswith(".conf"):
            with open(os.path.join(directory, name), "rb") as file:
                yield file.read()
    yield (b"mail_root = /var/mail/vhosts\nmail_location = maildir:~/Maildir:LAYOUT=fs\nmail_replica = tcp:mx2:1\n"
           b"listen = *, ::\ndoveadm_port = 12345\ndoveadm_password = \"a # \\\"b\"\n"
           b"namespace inbox {\n  separator = /\n  inbox = yes\n}\nplugin {\n  mail_replica2 = tcp:[::1]:3\n}\n"
           b"replication_full_sync_interval = 2 hours\n$root = /x\n")


    yield b"mail_root = /\n"


MAKERS = {"wire": ("sync/transcripts", wire), "index": ("samples", index), "uidlist": ("samples", uidlist), "dbox": ("samples", dbox),
          "doveadm": (".", doveadm), "settings": ("store/samples", settings)}


def write_seeds(name, directory):
    source, maker = MAKERS[name]
    paths = []
    for number, seed in enumerate(maker(os.path.join(HERE, "..", source))):
        paths.append(os.path.join(directory, f"seed-{number:03}"))
        with open(paths[-1], "wb") as file:
            file.write(seed)
    return paths


def main():
    name, target = sys.argv[1:3]
    if os.path.isdir(target):
        write_seeds(name, target)
        return 0
    with tempfile.TemporaryDirectory(prefix="dsyncfs-seeds-") as directory:
        paths = write_seeds(name, directory)
        assert paths, "no seeds"
        return subprocess.run([target, *sys.argv[3:], *paths], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
