#!/usr/bin/python3
"""maildir -> mdbox -> sdbox -> maildir of 10,000 mails, by dsync and by doveadm sync: seconds, CPU and peak memory of each step.

Usage: convert.py [MAILS]      needs root and Dovecot 2.3; DSYNCFS_BUILD says where dsync was built
"""
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time

BUILD = os.path.abspath(os.environ.get("DSYNCFS_BUILD", os.path.join(os.path.dirname(__file__), "../../build")))
MAIL_UID = 65534
USER = dict(user=MAIL_UID, group=MAIL_UID, extra_groups=[])
CONF = """
base_dir = {dir}/run
state_dir = {dir}/run
log_path = {dir}/dovecot.log
protocols =
ssl = no
stats_writer_socket_path =
mail_home = {dir}/home
first_valid_uid = 1
namespace inbox {{
  inbox = yes
  separator = /
}}
"""

FILL = """
import os, sys
root, mails = sys.argv[1], int(sys.argv[2])
for part in "cur", "new", "tmp":
    os.makedirs(os.path.join(root, part))
for i in range(mails):
    name = "%s/cur/%d.M%dP1.host:2,%s" % (root, 1600000000 + i, i, "S" if i % 3 else "")
    with open(name, "w") as file:
        file.write("From: a@example.org\\nSubject: %d\\n\\n" % i + ("0123456789 " * 6 + "\\n") * (i % 120))
"""


def timed(argv, environment):
    """Seconds, CPU seconds and peak kB of the command and what it starts."""
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(["/usr/bin/time", "-f", "%M", *argv], env=environment, cwd=environment["HOME"],
                            capture_output=True, text=True, check=False, **USER)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode not in (0, 2):
        raise SystemExit(f"{argv}: {result.stderr}")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - start, cpu, int(result.stderr.split()[-1])


def main():
    mails = int(sys.argv[1]) if len(sys.argv) > 1 else 10000
    directory = tempfile.mkdtemp(prefix="bench-convert-")
    try:
        for name in ("home", "run"):
            os.mkdir(f"{directory}/{name}")
        with open(directory + "/dovecot.conf", "w", encoding="utf-8") as file:
            file.write(CONF.format(dir=directory))
        open(directory + "/dovecot.log", "w", encoding="utf-8").close()
        for base, dirs, files in os.walk(directory):
            for name in ("", *dirs, *files):
                os.chown(os.path.join(base, name), MAIL_UID, MAIL_UID)
        home = directory + "/home"
        environment = {**os.environ, "HOME": home, "USER": "alice"}
        subprocess.run(["/usr/bin/python3", "-c", FILL, home + "/maildir", str(mails)], check=True, **USER)
        os.sync()

        def location(name):
            return f"{name.split('-')[0]}:{home}/{name}"

        print(f"{mails} mails          seconds    CPU s   peak MB")
        for tool in ("dsync", "doveadm"):
            steps = [("maildir", f"mdbox-{tool}"), (f"mdbox-{tool}", f"sdbox-{tool}"),
                     (f"sdbox-{tool}", f"maildir-{tool}")]
            total = 0
            for source, target in steps:
                if tool == "dsync":
                    argv = [f"{BUILD}/tools/dsync", "-c", "/dev/null", "-o", f"mail_location={location(source)}", "mirror",
                            location(target)]
                else:
                    argv = ["doveadm", "-c", directory + "/dovecot.conf", "-o", f"mail_location={location(source)}",
                            "sync", location(target)]
                seconds, cpu, peak = timed(argv, environment)
                total += seconds
                print(f"{tool:8} {source.split('-')[0]:>8}->{target.split('-')[0]:8} {seconds:7.2f}  {cpu:7.2f}  {peak / 1024:8.1f}")
            print(f"{tool:8} {'all':18} {total:7.2f}  {mails * 3 / total:7.0f} mails/s")
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
