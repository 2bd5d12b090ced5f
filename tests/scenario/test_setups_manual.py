#!/usr/bin/python3
"""The replication set-ups of Dovecot 2.3's own manual ("Replication with dsync": tcp, SSL, a wrapper script for root), with
the manual's lines, values and places, pasted whole into our settings file: `dsyncctl showconf` shows what was understood,
and a user is synced with a real Dovecot by it.

Its host names, users, certificate files and programs are there: in a mount and a network namespace of the test's own."""
import os
import shutil
import sys

from certificates import Authority, openssl
from dsync_sides import MAIL_UID, Directory, Dovecot, run
from node import need, skip
from test_setups import BEFORE, synced

ENABLE = """
mail_plugins = $mail_plugins notify replication

service replicator {
  process_min_avail = 1
}
"""

SOCKETS = """
service aggregator {
  fifo_listener replication-notify-fifo {
    user = vmail
  }
  unix_listener replication-notify {
    user = vmail
  }
}

service replicator {
  unix_listener replicator-doveadm {
    mode = 0600
    user = vmail
  }
}

replication_max_conns = 10

plugin {
  # asynchronous but for new mail, which waits so many seconds
  replication_sync_timeout = 2
}
"""

TCP = ENABLE + SOCKETS + """
service doveadm {
  inet_listener {
    port = 12345
  }
}

doveadm_port = 12345

doveadm_password = secret

plugin {
  mail_replica = tcp:anotherhost.example.com # use doveadm_port
  #mail_replica = tcp:anotherhost.example.com:12345 # use port 12345 explicitly
}
"""

TCPS = ENABLE + SOCKETS + """
service doveadm {
  inet_listener {
    port = 12345
    ssl = yes
  }
}

doveadm_port = 12345

doveadm_password = secret

ssl_cert = </etc/ssl/dovecot.pem
ssl_key = </etc/ssl/dovecot.pem

protocol imap {
  ssl_cert = </etc/ssl/certs/imap.pem
  ssl_key = </etc/ssl/private/imap.pem
}
protocol pop3 {
  ssl_cert = </etc/ssl/certs/pop3.pem
  ssl_key = </etc/ssl/private/pop3.pem
}

ssl_client_ca_dir = /etc/ssl/certs # Debian/Ubuntu

plugin {
  mail_replica = tcps:anotherhost.example.com:12345
}
"""

WRAPPED = ENABLE + """
dsync_remote_cmd = /usr/bin/ssh -i /root/.ssh/id_dsa.dsync %{host} /usr/local/bin/dsync-in-wrapper.sh
plugin {
  mail_replica = remoteprefix:vmail@anotherhost.example.com
}
""" + SOCKETS + """
replication_dsync_parameters = -d -N -l 30 -U
"""

# For sshd's command=: no program of its own.
WRAPPER = """read username
ulimit -c unlimited # for debugging any crashes
/usr/local/bin/doveadm dsync-server -u $username
"""

SSH = """#!/bin/sh
[ "$1 $2 $3 $4 $#" = "-i /root/.ssh/id_dsa.dsync anotherhost.example.com /usr/local/bin/dsync-in-wrapper.sh 4" ] || exit 64
exec sh "$4"
"""

SETUPS = (
    (TCP, ("mail_replica = tcp:anotherhost.example.com", "doveadm_port = 12345", "replication_max_conns = 10",
           "replication_sync_timeout = 2 secs")),
    (TCPS, ("mail_replica = tcps:anotherhost.example.com:12345", "ssl_cert = </etc/ssl/dovecot.pem",
            "ssl_client_ca_dir = /etc/ssl/certs")),
    (WRAPPED, ("mail_replica = remoteprefix:vmail@anotherhost.example.com",
               "dsync_remote_cmd = /usr/bin/ssh -i /root/.ssh/id_dsa.dsync %{host} /usr/local/bin/dsync-in-wrapper.sh")),
)


def write(path, text, mode=0o644):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


def append(path, text):
    with open(path, "a", encoding="utf-8") as file:
        file.write(text)


def lay_over(directory, place):
    """What is written there from now on is seen by this test alone."""
    upper = f"{directory}/{place.replace('/', '-')}"
    for path in (upper, upper + "/upper", upper + "/work"):
        os.mkdir(path)
    run(["mount", "-t", "overlay", "overlay", "-o", f"lowerdir={place},upperdir={upper}/upper,workdir={upper}/work", place],
        root=True)


def furnish(directory, authority, conf):
    run(["mount", "-t", "tmpfs", "none", directory], root=True)
    os.chmod(directory, 0o755)
    for place in ("/etc", "/usr/local/bin", "/usr/bin"):
        lay_over(directory, place)
    run(["ip", "link", "set", "lo", "up"], root=True)
    append("/etc/hosts", "\n127.0.0.1 anotherhost.example.com\n")
    append("/etc/passwd", f"vmail:x:{MAIL_UID}:{MAIL_UID}::/nonexistent:/bin/false\n")
    append("/etc/group", f"vmail:x:{MAIL_UID}:\n")
    pem, key = authority.certify("anotherhost", "anotherhost.example.com")
    with open(pem, encoding="utf-8") as chain, open(key, encoding="utf-8") as private:
        write("/etc/ssl/dovecot.pem", chain.read() + private.read(), 0o600)
    shutil.copy(authority.ca, "/etc/ssl/certs/our-ca.pem")
    openssl("rehash", "/etc/ssl/certs")
    write("/usr/local/bin/doveadm", f'#!/bin/sh\nexec /usr/bin/doveadm -c {conf} "$@"\n', 0o755)
    write("/usr/local/bin/dsync-in-wrapper.sh", WRAPPER)
    if os.path.lexists("/usr/bin/ssh"):
        os.unlink("/usr/bin/ssh")
    write("/usr/bin/ssh", SSH, 0o755)


def their_settings(theirs, tls):
    with open(theirs.conf, encoding="utf-8") as file:
        conf = file.read().replace(f"port = {theirs.port}", "port = 12345").replace("between-the-ends", "secret")
    if tls:
        conf = conf.replace("ssl = no\n", "ssl = yes\n").replace("port = 12345\n", "port = 12345\n    ssl = yes\n")
        conf += "ssl_cert = </etc/ssl/dovecot.pem\nssl_key = </etc/ssl/dovecot.pem\n"
    write(theirs.conf, conf)


class Side(Dovecot):
    def settings_for(self, args):
        return {}  # its doveadm is a wrapper here, which says other ones


def inside():
    with Authority() as authority, Directory() as directory:
        overlays = directory + "/over"
        os.mkdir(overlays)
        for number, (text, expected) in enumerate(SETUPS):
            path = f"{directory}/{number}"
            os.mkdir(path)
            os.chmod(path, 0o755)
            ours, theirs = Side(path, "ours"), Side(path, "theirs")
            their_settings(theirs, text is TCPS)
            if number == 0:
                furnish(overlays, authority, f"{directory}/2/theirs/dovecot.conf")
            before = BEFORE.format(uid=MAIL_UID, homes=ours.homes, dir=ours.dir)
            with theirs.start():
                synced(ours, theirs, before + text, expected)
        run(["umount", "-l", "/etc", "/usr/local/bin", "/usr/bin", overlays], root=True)


def main():
    need("dovecot", "openssl", "unshare", "mount")
    if sys.argv[1:] == ["inside"]:
        inside()
        return
    with Directory() as directory:
        probe = run(["unshare", "--mount", "sh", "-c", f"cd {directory} && mount -t tmpfs none . && cd {directory} && "
                     "mkdir u w && mount -t overlay overlay -o lowerdir=/etc,upperdir=u,workdir=w /etc"], expect=range(256),
                    root=True)
    if probe.returncode != 0:
        skip("needs overlayfs")
    os.execvp("unshare", ["unshare", "--mount", "--net", sys.executable, __file__, "inside"])


if __name__ == "__main__":
    main()
