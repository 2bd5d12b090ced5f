"""dsyncd on a mount over the homes of one of dsync_sides' Dovecots, on loopback: the other node is whatever Dovecot the
settings name."""
import json
import os
import signal
import socket
import subprocess

from dsync_sides import MAIL_UID
from node import BUILD, eventually

SETTINGS = """
mail_root = {homes}
mail_home = {homes}/%u
mail_location = {location}
mail_attribute_dict = file:%h/attributes
mail_uid = {uid}
mail_gid = {uid}
listen = 127.0.0.1
doveadm_port = {port}
doveadm_password = between-the-ends
state_dir = {dir}/dsyncd-state
"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Dsyncd:
    def __init__(self, side, location, settings="", whole=False):
        """side: the Dovecot whose homes it mounts. whole: the settings are all there are. Nothing of it runs yet."""
        self.dir, self.homes, self.port = side.dir, side.homes, free_port()
        self.settings, self.log = side.dir + "/dsyncfs.conf", side.dir + "/dsyncd.log"
        self.processes = []
        with open(self.settings, "w", encoding="utf-8") as file:
            if not whole:
                file.write(SETTINGS.format(homes=self.homes, location=location, uid=MAIL_UID, port=self.port, dir=self.dir))
            file.write(settings)

    def _start(self, *argv):
        with open(self.log, "ab") as log:
            self.processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def __enter__(self):
        try:
            self._start(f"{BUILD}/tools/dsyncfs", "-f", "-o", f"config={self.settings}", self.homes, self.homes)
            eventually("mounted", lambda: os.path.ismount(self.homes))
            self._start(f"{BUILD}/tools/dsyncd", "-F", "-c", self.settings)
            eventually("dsyncd answers", self.status)
        except BaseException:
            self.__exit__(True, None, None)
            raise
        return self

    def __exit__(self, kind, *_):
        if kind and os.path.exists(self.log):
            with open(self.log, encoding="utf-8", errors="replace") as file:
                print("--- log of dsyncd\n" + "".join(file.readlines()[-40:]))
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.processes = []
        if os.path.ismount(self.homes):
            subprocess.run(["umount", "-l", self.homes], check=False)

    def dsyncctl(self, *args):
        return subprocess.run([f"{BUILD}/tools/dsyncctl", "-c", self.settings, *args], capture_output=True, text=True, check=False)

    def status(self):
        return json.loads(self.dsyncctl("--json", "status").stdout or "null")

    def in_sync(self):
        return self.dsyncctl("status").stdout.startswith("in sync")
