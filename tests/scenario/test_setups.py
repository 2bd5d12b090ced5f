#!/usr/bin/python3
"""Replication set-ups of Dovecot 2.3 in the shapes that are published (its documentation, distributions' handbooks, mail panels),
pasted whole into our settings file: `dsyncctl showconf` shows what was understood and reads back as itself, and a user is synced
with a real Dovecot by it."""
import os

from certificates import Authority
from dsync_sides import MAIL_UID, USER, Directory, Dovecot, run
from dsyncd_here import Dsyncd
from node import BUILD, eventually, need

# What comes before it in each: the site's mail. (Of ours: where we listen, and our state.)
BEFORE = """
# 10-mail.conf
mail_location = maildir:~/Maildir
mail_privileged_group = mail
first_valid_uid = 1
namespace inbox {{
  inbox = yes
  separator = /
}}
# auth-static.conf.ext
userdb {{
  driver = static
  args = uid={uid} gid={uid} home={homes}/%u
}}
listen = 127.0.0.2
state_dir = {dir}/dsyncd-state
"""

# A port with a password: the blocks one by one, the replicator's in two parts.
TCP = """
mail_plugins = $mail_plugins notify replication
service replicator {{
  process_min_avail = 1
}}
service aggregator {{
  fifo_listener replication-notify-fifo {{
    user = {mail_user}
  }}
  unix_listener replication-notify {{
    user = {mail_user}
  }}
}}
service replicator {{
  unix_listener replicator-doveadm {{
    mode = 0600
    user = {mail_user}
  }}
}}
service doveadm {{
  inet_listener {{
    port = {port}
  }}
}}
doveadm_port = {port}
doveadm_password = between-the-ends
plugin {{
  mail_replica = tcp:127.0.0.1
}}
replication_max_conns = 50
"""

# TLS, as one file in conf.d, for a panel: everything at once, with plugin's timeout and the certificate of that port alone.
TCPS = """
ssl = required
ssl_cert = </etc/ssl/certs/no-such-web-server.pem
ssl_key = </etc/ssl/private/no-such-web-server.key
ssl_min_protocol = TLSv1.2
protocol lmtp {{
  mail_plugins = $mail_plugins sieve notify replication
}}
service doveadm {{
	user = {mail_user}
	inet_listener {{
		port = {port}
		ssl = yes # the other node says tcps:
	}}
}}
protocol doveadm {{
	ssl_cert = <{pem}
	ssl_key = <{key}
	ssl_client_ca_file = {ca}
}}
instance_name = mx1
doveadm_ssl = ssl
doveadm_port = {port}
doveadm_password = between-the-ends
service config {{
    unix_listener config {{
        user = {mail_user}
    }}
}}
service replicator {{
	process_min_avail = 1
	unix_listener replicator-doveadm {{
		mode = 0666
	}}
}}
service aggregator {{
	fifo_listener replication-notify-fifo {{
		user = {mail_user}
        mode = 0666
	}}
	unix_listener replication-notify {{
		user = {mail_user}
        mode = 0666
	}}
}}
plugin {{
  replication_sync_timeout = 2
  mail_replica = tcps:127.0.0.1:{port}
}}
"""

# ssh to root, whose key runs one wrapper: that gets the user's name on its first line.
REMOTEPREFIX = """
mail_plugins = $mail_plugins notify replication
service replicator {{
  process_min_avail = 1
  unix_listener replicator-doveadm {{
    mode = 0600
  }}
}}
dsync_remote_cmd = {ssh} -i /root/.ssh/id_dsa.dovecot %{{host}} /usr/local/bin/dsync-in-wrapper.sh
replication_dsync_parameters = -d -N -l 30 -U
replication_full_sync_interval = 12 hours
plugin {{
  mail_replica = remoteprefix:{mail_user}@mx2.example.org
}}
service aggregator {{
  fifo_listener replication-notify-fifo {{
    mode = 0666
  }}
  unix_listener replication-notify {{
    mode = 0666
  }}
}}
"""

WRAPPER = """#!/bin/sh
[ "$1 $2 $3 $4 $#" = "-i /root/.ssh/id_dsa.dovecot mx2.example.org /usr/local/bin/dsync-in-wrapper.sh 4" ] || exit 64
read username
ulimit -c unlimited # for debugging any crashes
exec doveadm -c {conf} dsync-server -u $username
"""


def synced(ours, theirs, settings, expected):
    with Dsyncd(ours, "", settings=settings, whole=True) as daemon:
        shown = daemon.dsyncctl("showconf", "-P").stdout
        for line in expected:
            assert line in shown.splitlines(), (line, shown)
        again = ours.dir + "/shown.conf"
        with open(again, "w", encoding="utf-8") as file:
            file.write(shown)
        assert run([f"{BUILD}/tools/dsyncctl", "-c", again, "showconf", "-P"], root=True).stdout == shown
        # Not into a session of the first sync: Dovecot doubles what it renumbers just as it arrives ("Expunged message
        # reappeared, giving a new UID").
        eventually("in sync at first", daemon.in_sync)
        theirs.deliver("Subject: theirs\n\nx\n")
        ours.deliver("Subject: ours\n\nx\n")
        assert daemon.dsyncctl("replicate", USER).returncode == 0
        eventually("both have both", lambda: len(ours.view()[0]) == 2 and ours.view() == theirs.view())
        eventually("in sync", daemon.in_sync)
        print("ok:", expected[0])


def main():
    need("dovecot", "openssl")
    with Authority() as authority, Directory() as directory:
        pem, key = authority.certify("mx1", "127.0.0.1")
        for number, (text, expected) in enumerate(((TCP, ("mail_replica = tcp:127.0.0.1", "doveadm_port = {port}",
                                                          "replication_max_conns = 50")),
                                                   (TCPS, ("mail_replica = tcps:127.0.0.1:{port}", "ssl_cert = <{pem}",
                                                           "replication_sync_timeout = 2 secs")),
                                                   (REMOTEPREFIX, ("mail_replica = remoteprefix:{mail_user}@mx2.example.org",
                                                                   "replication_full_sync_interval = 12 hours")))):
            path = f"{directory}/{number}"
            os.mkdir(path)
            ours, theirs = Dovecot(path, "ours"), Dovecot(path, "theirs", tls=authority if text is TCPS else None)
            values = dict(uid=MAIL_UID, mail_user="nobody", homes=ours.homes, dir=ours.dir, port=theirs.port,
                          pem=pem, key=key, ca=authority.ca, ssh=path + "/ssh")
            with open(path + "/ssh", "w", encoding="utf-8") as file:
                file.write(WRAPPER.format(conf=theirs.conf))
            os.chmod(path + "/ssh", 0o755)
            with theirs.start():
                synced(ours, theirs, (BEFORE + text).format(**values), [line.format(**values) for line in expected])


if __name__ == "__main__":
    main()
