"""Certificates of an authority of the test's own, made with openssl's command."""
import os
import shutil
import subprocess
import tempfile


def openssl(*args):
    subprocess.run(["openssl", *args], check=True, capture_output=True)


class Authority:
    """A root, an authority below it, and what they sign; as a context manager that removes all of it."""

    def __enter__(self):
        self.dir = tempfile.mkdtemp(prefix="dsyncfs-certificates-")
        os.chmod(self.dir, 0o755)
        self.ca = f"{self.dir}/root.pem"
        self._make("root", "/CN=Test root", "basicConstraints=critical,CA:TRUE")
        self._make("middle", "/CN=Test middle", "basicConstraints=critical,CA:TRUE", "root")
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.dir)

    def _make(self, name, subject, extension, issuer=None):
        key, pem = f"{self.dir}/{name}.key", f"{self.dir}/{name}.pem"
        openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key)
        if issuer is None:
            openssl("req", "-x509", "-new", "-key", key, "-subj", subject, "-days", "2", "-addext", extension, "-out", pem)
            return
        openssl("req", "-new", "-key", key, "-subj", subject, "-out", f"{pem}.csr")
        with open(f"{pem}.ext", "w", encoding="utf-8") as file:
            file.write(extension + "\n")
        openssl("x509", "-req", "-in", f"{pem}.csr", "-CA", f"{self.dir}/{issuer}.pem", "-CAkey",
                f"{self.dir}/{issuer}.key", "-CAcreateserial", "-days", "2", "-extfile", f"{pem}.ext", "-out", pem)

    def certify(self, name, *names):
        """A certificate for these names and addresses, with its chain in the file, and its key: (pem, key)."""
        alternatives = ",".join(("IP:" if n.replace(".", "").isdigit() else "DNS:") + n for n in names)
        self._make(name, f"/CN={name}", f"subjectAltName={alternatives}", "middle")
        with open(f"{self.dir}/middle.pem", encoding="utf-8") as file:
            middle = file.read()
        with open(f"{self.dir}/{name}.pem", "a", encoding="utf-8") as file:
            file.write(middle)
        return f"{self.dir}/{name}.pem", f"{self.dir}/{name}.key"

    def settings(self, name, *names):
        """What a node's or a Dovecot's settings say: its own certificate for these names, and whom it trusts."""
        pem, key = self.certify(name, *names)
        return f"ssl = yes\nssl_cert = <{pem}\nssl_key = <{key}\nssl_client_ca_file = {self.ca}\n"
