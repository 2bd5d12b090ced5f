#!/usr/bin/python3
"""dsync over a real ssh to a real sshd on loopback: user@host, remote:, a command line, remoteprefix: with a wrapper that runs
as root by its key, and a Dovecot that starts; both accounts show the same, and a second run sends nothing."""
import os
import shutil
import socket
import subprocess

from dsync_sides import DSYNC, MAIL_UID, USER, Directory, Dovecot, run, until_done
from node import eventually, skip
from test_dsync_dovecot import total

SSHD = "/usr/sbin/sshd"
HOST = "mx2.example.org"
NOTHING = "0 mails sent, 0 received"


def make_key(path):
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    with open(path + ".pub", encoding="utf-8") as file:
        return file.read().strip()


def write(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


class Sshd:
    """Host key, configuration, keys and log in a directory; /run is its own (sshd wants a directory there)."""

    def __init__(self, directory, programs):
        """programs: a directory that is searched first for the commands of a login."""
        self.dir = directory + "/ssh"
        os.mkdir(self.dir)
        host = make_key(self.dir + "/host")
        # ssh wants a private key to be its user's alone.
        self.key, self.wrapper_key = self.dir + "/key", self.dir + "/wrapper-key"
        self.public = {key: make_key(key) for key in (self.key, self.wrapper_key)}
        for key in self.public:
            os.chown(key, MAIL_UID, MAIL_UID)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        write(self.dir + "/known_hosts", f"[127.0.0.1]:{self.port} {host}\n{HOST} {host}\n")
        write(self.dir + "/sshd_config", f"""
Port {self.port}
ListenAddress 127.0.0.1
HostKey {self.dir}/host
AuthorizedKeysFile {self.dir}/authorized_keys
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
PermitRootLogin prohibit-password
SetEnv PATH={programs}:/usr/sbin:/usr/bin:/sbin:/bin
""")
        write(self.dir + "/config", f"""
Host {HOST}
  HostName 127.0.0.1
  HostKeyAlias {HOST}
  Port {self.port}
  User root
  IdentityFile {self.key}
Host *
  BatchMode yes
  IdentitiesOnly yes
  UserKnownHostsFile {self.dir}/known_hosts
""")

    def allow(self, wrapper):
        """One key may do anything, the other run the wrapper alone."""
        write(self.dir + "/authorized_keys", f'{self.public[self.key]}\n'
              f'restrict,command="{wrapper}" {self.public[self.wrapper_key]}\n')

    def __enter__(self):
        self.log = self.dir + "/log"
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "-m", "sh", "-c", 'mount -t tmpfs none /run && mkdir -m 755 /run/sshd && exec "$@"', "sh",
                 SSHD, "-D", "-e", "-f", self.dir + "/sshd_config"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        eventually("sshd listens", lambda: socket.create_connection(("127.0.0.1", self.port)).close() or True)
        return self

    def __exit__(self, kind, *_):
        self.process.terminate()
        self.process.wait(timeout=30)
        if kind:
            with open(self.log, encoding="utf-8", errors="replace") as file:
                print("--- log of sshd\n" + "".join(file.readlines()[-30:]))


def main():
    if os.geteuid() != 0 or not os.path.exists(SSHD) or not shutil.which("ssh"):
        skip("needs root, ssh and sshd (openssh-server)")
    with Directory() as directory:
        ours, theirs = Dovecot(directory, "ours"), Dovecot(directory, "theirs")
        here, there = directory + "/here", directory + "/there"
        os.mkdir(here)
        os.mkdir(there)
        sshd = Sshd(directory, there)
        # Here ssh is the real one with a configuration of the test's own.
        write(here + "/ssh", f'#!/bin/sh\nexec /usr/bin/ssh -F {sshd.dir}/config "$@"\n', 0o755)
        # There dsync finds its configuration.
        write(there + "/dsync", f'#!/bin/sh\nexec {DSYNC} -c {theirs.conf} "$@"\n', 0o755)
        write(there + "/wrapper", f'#!/bin/sh\n[ "$(id -u)" = 0 ] || exit 64\nread -r user\n'
              f'exec doveadm -c {theirs.conf} dsync-server -u "$user"\n', 0o755)
        sshd.allow(there + "/wrapper")
        environment = {**os.environ, "PATH": here + ":" + os.environ["PATH"]}

        def dsync(*words):
            return run([DSYNC, "-c", ours.conf, "-u", USER, "-v", *words], expect=(0, 2), root=True, env=environment)

        ssh = ["ssh", "-p", str(sshd.port), "-i", sshd.key, "-o", f"UserKnownHostsFile={sshd.dir}/known_hosts"]
        ways = {
            "user@host": lambda *more: dsync(*more, "mirror", f"{USER}@{HOST}"),
            "remote:": lambda *more: dsync(*more, "mirror", f"remote:root@{HOST}"),
            "command line": lambda *more: dsync(*more, "mirror", *ssh, "root@127.0.0.1", "dsync", "-u", USER),
            "their doveadm there": lambda *more: dsync(*more, "mirror", *ssh, "root@127.0.0.1", "doveadm", "-c", theirs.conf,
                                                       "dsync-server", "-u", USER),
            "remoteprefix:": lambda *more: dsync("-o", f"dsync_remote_cmd=ssh -i {sshd.wrapper_key} -l%{{login}} %{{host}} wrapper",
                                                 *more, "mirror", f"remoteprefix:root@{HOST}"),
            "a Dovecot starts": lambda *more: ours.doveadm("sync", *more, "-u", USER, *ssh, "root@127.0.0.1", "dsync", "-u", USER,
                                                           expect=(0, 2), env=environment),
        }
        with theirs.start(), ours.start(), sshd:
            for name, sync in ways.items():
                for side, tag in ((ours, "ours"), (theirs, "theirs")):
                    side.deliver(f"Subject: {tag}, {name}\n\n.dot\n{'x' * 100000}\n")
                until_done(sync)
                assert ours.view() == theirs.view(), name
                # A login takes a second.
                if name in ("user@host", "command line"):
                    result = sync()
                    assert result.returncode == 0 and NOTHING in total(result), (name, result)
                print("ok:", name)
            assert len(ours.view()[0]) == 2 * len(ways)
            # What ssh says is what one gets to see.
            wrong = run([DSYNC, "-c", ours.conf, "-u", USER, "mirror", *ssh[:5], "-o", "BatchMode=yes", "-o",
                         "UserKnownHostsFile=/dev/null", "-o", "StrictHostKeyChecking=yes", "root@127.0.0.1", "dsync"],
                        expect=(1,), root=True)
            assert "Host key verification failed" in wrong.stderr, wrong.stderr
            assert not theirs.complaints(), theirs.complaints()


if __name__ == "__main__":
    main()
