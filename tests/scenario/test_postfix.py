#!/usr/bin/python3
"""A real Postfix delivers by virtual(8) where the user's home is the Maildir; read over IMAP on the other node."""
import os
import shutil
import smtplib
import subprocess

import plain
from node import VMAIL, Pair, eventually, need

USER = "carol@example.org"

MAIN_CF = """
compatibility_level = 3.6
queue_directory = {dir}/postfix/queue
data_directory = {dir}/postfix/data
command_directory = /usr/sbin
daemon_directory = /usr/lib/postfix/sbin
mail_owner = postfix
setgid_group = postdrop
inet_interfaces = {address}
inet_protocols = ipv4
myhostname = {host}.example.net
mydestination =
mynetworks = 10.77.0.0/24
smtpd_recipient_restrictions = permit_mynetworks, reject
virtual_mailbox_domains = example.org
virtual_mailbox_base = {mount}
virtual_mailbox_maps = inline:{{ {{ {user} = example.org/carol/ }} }}
virtual_uid_maps = static:{uid}
virtual_gid_maps = static:{uid}
virtual_minimum_uid = 1
maillog_file = {dir}/postfix.log
maillog_file_prefixes = {dir}
alias_maps =
alias_database =
"""


def start_postfix(node):
    base = node.dir + "/postfix"
    for name in ("etc", "queue", "data"):
        os.makedirs(f"{base}/{name}")
    shutil.chown(f"{base}/data", "postfix")
    with open(f"{base}/etc/main.cf", "w", encoding="utf-8") as file:
        file.write(MAIN_CF.format(dir=node.dir, address=node.address, host=node.host, mount=node.mount, uid=VMAIL,
                                  user=USER))
    source = next(p for p in ("/etc/postfix/master.cf", "/usr/share/postfix/master.cf.dist") if os.path.exists(p))
    with open(source, encoding="utf-8") as file, open(f"{base}/etc/master.cf", "w", encoding="utf-8") as out:
        for line in file:
            # nothing chrooted: the jail would need files that this instance does not set up
            fields = line.split()
            if len(fields) >= 8 and not line.startswith(("#", " ", "\t")):
                fields[4] = "n"
                line = " ".join(fields) + "\n"
            out.write(line)
    with open(f"{base}/etc/dynamicmaps.cf", "w", encoding="utf-8"):
        pass
    shutil.copy("/etc/postfix/postfix-files", f"{base}/etc/") if os.path.exists("/etc/postfix/postfix-files") else None
    subprocess.run(node.network.command(node.host) + ["postfix", "-c", f"{base}/etc", "start"], check=True,
                   capture_output=True)


def stop_postfix(node):
    subprocess.run(node.network.command(node.host) + ["postfix", "-c", f"{node.dir}/postfix/etc", "stop"], check=False,
                   capture_output=True)


def send(node, subject):
    with node.network.on(node.host):
        client = smtplib.SMTP(node.address, 25, "localhost", timeout=20)
    client.sendmail("sender@example.net", [USER], f"Subject: {subject}\r\n\r\nHello.\r\n")
    client.quit()


def main():
    need("postfix", "dovecot")
    with Pair(location="maildir:~/") as pair:
        started = []
        try:
            for node in pair.nodes:
                start_postfix(node)
                started.append(node)
            roots = [node.home(USER) for node in pair.nodes]
            for number in range(3):
                send(pair.a, f"from a {number}")
            eventually("three mails on a", lambda: len(plain.files(roots[0])) == 3)
            eventually("the same base names on b", lambda: plain.files(roots[0]) == plain.files(roots[1]))
            send(pair.b, "from b")
            eventually("four mails on a", lambda: len(plain.files(roots[0])) == 4)
            eventually("the same base names on b again", lambda: plain.files(roots[0]) == plain.files(roots[1]))
            client = pair.b.imap(USER)
            _, data = client.fetch("1:*", "(BODY.PEEK[HEADER.FIELDS (SUBJECT)])")
            subjects = sorted(part[1].decode().split(": ")[1].strip() for part in data if isinstance(part, tuple))
            assert subjects == ["from a 0", "from a 1", "from a 2", "from b"], subjects
            for node in pair.nodes:
                assert not node.dovecot_log_problems(), node.dovecot_log_problems()
        finally:
            for node in started:
                stop_postfix(node)
    print("ok")


if __name__ == "__main__":
    main()
