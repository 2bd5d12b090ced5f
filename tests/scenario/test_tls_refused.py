#!/usr/bin/python3
"""What `dsync mirror tcps:` says on stderr, and `dsyncctl status`, of a server whose certificate does not fit: which of name,
chain, date or protocol is wrong, and which names the certificate has. openssl's s_server is the other end. And what our
own listener does: TLS 1.2 and up, the whole chain sent, no key that is not the certificate's."""
import os
import shutil
import signal
import subprocess

from certificates import Authority, openssl
from dsync_sides import DSYNC, MAIL_UID, USER, Directory, run
from dsyncd_here import Dsyncd, free_port
from node import BUILD, eventually, need

CA_CONF = """
[ca]
default_ca = test
[test]
dir = {dir}
database = $dir/{name}.index
new_certs_dir = $dir
serial = $dir/{name}.serial
default_md = sha256
policy = any
x509_extensions = leaf
[any]
commonName = supplied
[leaf]
subjectAltName = {names}
"""


def certify_between(authority, name, begins, ends):
    """A certificate for 127.0.0.1 that is valid between these dates."""
    base = f"{authority.dir}/{name}"
    for suffix, text in (("conf", CA_CONF.format(dir=authority.dir, name=name, names="IP:127.0.0.1")), ("index", ""),
                         ("serial", "01\n")):
        with open(f"{base}.{suffix}", "w", encoding="utf-8") as file:
            file.write(text)
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{base}.key")
    openssl("req", "-new", "-key", f"{base}.key", "-subj", f"/CN={name}", "-out", f"{base}.csr")
    openssl("ca", "-batch", "-notext", "-config", f"{base}.conf", "-startdate", begins, "-enddate", ends, "-in", f"{base}.csr",
            "-cert", f"{authority.dir}/middle.pem", "-keyfile", f"{authority.dir}/middle.key", "-out", f"{base}.pem")
    return f"{base}.pem", f"{base}.key"


class Server:
    """openssl's s_server with a certificate, on a port of loopback."""

    def __init__(self, port, chain, certificate, *options):
        self.process = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", certificate[0], "-key",
                                         certificate[1], "-cert_chain", chain, "-quiet", *options], stdin=subprocess.PIPE,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.port = port

    def __enter__(self):
        with open("/dev/null", "rb") as null:
            eventually("s_server listens", lambda: subprocess.run(
                ["openssl", "s_client", "-connect", f"127.0.0.1:{self.port}", "-cipher", "ALL:@SECLEVEL=0"], stdin=null,
                capture_output=True, check=False).stdout.find(b"CONNECTED") >= 0)
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=10)


def cases(authority, foreign):
    """(what is wrong, s_server's certificate, its options, what has to be said)"""
    other = authority.certify("other", "mx3.example.org", "10.77.0.9")
    good = authority.certify("good", "127.0.0.1")
    old_tls = ("-tls1_1", "-cipher", "ALL:@SECLEVEL=0")
    return (("name", other, (), ("its name: it is for mx3.example.org, 10.77.0.9, not for 127.0.0.1",)),
            ("chain", foreign.certify("foreign", "127.0.0.1"), (), ("its chain", "Test middle", "ssl_client_ca_file")),
            ("chain and name", foreign.certify("both", "mx4.example.org"), (), ("its chain", "its name: it is for mx4.example.org")),
            ("expired", certify_between(authority, "expired", "20200101000000Z", "20200201000000Z"), (),
             ("its date", "/CN=expired", "expired 2020-02-01")),
            ("not yet valid", certify_between(authority, "early", "20490101000000Z", "20490201000000Z"), (),
             ("its date", "/CN=early", "is not valid before 2049-01-01")),
            ("TLS 1.1", good, old_tls, ("TLS", "protocol")))


def refused_everywhere(authority, foreign, ours, port):
    settings = f"mail_replica = tcps:127.0.0.1:{port}\nssl_client_ca_file = {authority.ca}\n"
    with Dsyncd(ours, "maildir:~/Maildir", settings=settings) as daemon:
        def reason():
            daemon.dsyncctl("replicate", USER)
            return (daemon.status()["peers"] or [{}])[0].get("reason") or ""

        for what, certificate, options, texts in cases(authority, foreign):
            chain = f"{(foreign if certificate[0].startswith(foreign.dir) else authority).dir}/middle.pem"
            with Server(port, chain, certificate, *options):
                result = run([DSYNC, "-c", daemon.settings, "-u", USER, "mirror", f"tcps:127.0.0.1:{port}"], expect=(1,),
                             root=True)
                for text in texts:
                    assert text in result.stderr, (what, text, result.stderr)
                eventually(f"status says it: {what}", lambda texts=texts: all(text in reason() for text in texts))
                shown = daemon.dsyncctl("status").stdout
                assert all(text in shown for text in texts), (what, shown)
            print("ok:", what, "-", result.stderr.strip().splitlines()[-1])


def fits(authority, ours, port):
    """What is said of these is not about the certificate any more: the server speaks no doveadm protocol."""
    hashed = authority.dir + "/hashed"
    os.mkdir(hashed)
    # s_server sends no chain with a certificate that it takes by name.
    for name in ("root.pem", "middle.pem"):
        shutil.copy(f"{authority.dir}/{name}", f"{hashed}/{name}")
    openssl("rehash", hashed)
    with open(hashed + "/both", "wb") as file:
        for name in ("root.pem", "middle.pem"):
            with open(f"{authority.dir}/{name}", "rb") as part:
                file.write(part.read())
    wrong, right = authority.certify("wrong", "mx5.example.org"), authority.certify("right", "localhost")
    by_name = ("-servername", "localhost", "-cert2", right[0], "-key2", right[1])

    def said(host, setting):
        # s_server never says a word: that ends by -T.
        return run([DSYNC, "-c", ours.conf, "-o", setting, "-u", USER, "-T", "1", "mirror", f"tcps:{host}:{port}"], expect=(1,),
                   root=True, timeout=10).stderr

    with Server(port, f"{authority.dir}/middle.pem", wrong, *by_name):
        # By the name that the client sends (SNI) the server takes the certificate for it.
        for setting in (f"ssl_client_ca_file={hashed}/both", f"ssl_client_ca_dir={hashed}"):
            text = said("localhost", setting)
            assert "certificate" not in text and "its name" not in text and "its chain" not in text, text
        assert "its name: it is for mx5.example.org" in said("127.0.0.1", f"ssl_client_ca_dir={hashed}")
    print("ok: SNI and a hashed directory")


def our_listener(authority, ours):
    pem, key = authority.certify("mx1", "127.0.0.1")
    own = f"ssl = yes\nssl_cert = <{pem}\nssl_key = <{key}\n"
    with Dsyncd(ours, "maildir:~/Maildir", settings=own) as daemon:
        def client(*options):
            return subprocess.run(["openssl", "s_client", "-connect", f"127.0.0.1:{daemon.port}", "-CAfile", authority.ca,
                                   "-verify_return_error", "-showcerts", *options], input=b"", capture_output=True, check=False)

        result = client()
        assert result.returncode == 0 and result.stdout.count(b"BEGIN CERTIFICATE") == 2, result
        assert client("-tls1_2").returncode == 0
        assert client("-tls1_1", "-cipher", "ALL:@SECLEVEL=0").returncode != 0
    # Somebody else's key.
    with open(daemon.settings, "a", encoding="utf-8") as file:
        file.write(f"ssl_key = <{authority.certify('mx2', '127.0.0.1')[1]}\n")
    result = run([f"{BUILD}/tools/dsyncd", "-F", "-c", daemon.settings], expect=range(1, 256), root=True)
    assert "ssl_key" in result.stderr and "mx2.key" in result.stderr and "key values mismatch" in result.stderr, result
    print("ok: our listener")


class Ours:
    """A directory with homes, and settings for dsync; no server."""

    def __init__(self, directory):
        self.dir, self.homes, self.conf = directory, directory + "/homes", directory + "/dsync.conf"
        for path in (self.homes, f"{self.homes}/{USER}", f"{self.homes}/{USER}/Maildir"):
            os.mkdir(path)
            os.chown(path, MAIL_UID, MAIL_UID)
        for part in ("cur", "new", "tmp"):
            os.mkdir(f"{self.homes}/{USER}/Maildir/{part}")
            os.chown(f"{self.homes}/{USER}/Maildir/{part}", MAIL_UID, MAIL_UID)
        with open(self.conf, "w", encoding="utf-8") as file:
            file.write(f"mail_home = {self.homes}/%u\nmail_location = maildir:~/Maildir\nmail_uid = {MAIL_UID}\n"
                       f"mail_gid = {MAIL_UID}\ndoveadm_password = between-the-ends\n")


def main():
    need("openssl")
    with Authority() as authority, Authority() as foreign, Directory() as directory:
        ours = Ours(directory)
        port = free_port()
        refused_everywhere(authority, foreign, ours, port)
        fits(authority, ours, port)
        our_listener(authority, ours)


if __name__ == "__main__":
    main()
