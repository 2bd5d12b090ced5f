#!/usr/bin/python3
"""TLS between two nodes, and with a real Dovecot as client and as server: mail gets there in both directions; a
certificate that does not fit is refused with the reason, and mail gets there once it fits."""
import shutil
import signal

import view
from certificates import Authority
from dsync_sides import DSYNC, USER as DSYNC_USER, Directory, Dovecot, run, until_done
from node import PASSWORD, Pair, eventually, need

USER = "alice@example.org"


def peer_reason(node):
    assert node.dsyncctl("status").stdout, "dsyncd does not answer yet"
    peer = node.status()["peers"][0]
    return "" if peer["up"] else peer["reason"]


def two_nodes(authority):
    with Pair(tls=authority) as pair:
        for here, there in ((pair.a, pair.b), (pair.b, pair.a)):
            here.deliver(USER, f"from {here.host}")
            there.deliver(USER, f"also from {there.host}", body="x" * 70 + "\r\n" + "long line. " * 30000)
        view.eventually_same(pair, USER)
        boxes, _ = view.eventually_same(pair, USER)
        assert len(boxes["INBOX"][1]) == 4, boxes

        # A renewed certificate is read on SIGHUP; here it is for another machine.
        shutil.copy(f"{authority.dir}/b.pem", f"{authority.dir}/b.pem.good")
        shutil.copy(f"{authority.dir}/b.key", f"{authority.dir}/b.key.good")
        authority.certify("b", "mx3.example.org", "10.77.0.9")
        pair.b.processes["dsyncd"].send_signal(signal.SIGHUP)
        # The connections that stand are used until they end.
        pair.a.kill("dsyncd", signal.SIGTERM)
        pair.a.start_dsyncd()
        pair.a.deliver(USER, "to nobody")
        reason = eventually("a refuses b's certificate", lambda: peer_reason(pair.a))
        for text in ("its name", "mx3.example.org, 10.77.0.9", "not for 10.77.0.2"):
            assert text in reason, reason
        # One that cannot be read changes nothing.
        with open(f"{authority.dir}/b.pem", "w", encoding="utf-8") as file:
            file.write("nothing\n")
        pair.b.processes["dsyncd"].send_signal(signal.SIGHUP)
        eventually("b keeps what it has", lambda: "the old settings stay: ssl_cert" in log_of(pair.b))
        for name in ("b.pem", "b.key"):
            shutil.copy(f"{authority.dir}/{name}.good", f"{authority.dir}/{name}")
        pair.b.processes["dsyncd"].send_signal(signal.SIGHUP)
        view.eventually_same(pair, USER)
        print("ok: two_nodes")

        dovecot_calls_dsyncd(pair, authority)


def log_of(node):
    with open(node.log, encoding="utf-8", errors="replace") as file:
        return file.read()


def dovecot_calls_dsyncd(pair, authority):
    """Dovecot's doveadm on b, beside no dsyncd of ours."""
    pair.b.kill("dsyncd", signal.SIGTERM)
    pair.a.deliver(USER, "for doveadm")
    pair.b.deliver(USER, "by doveadm")

    def sync():
        return run([*pair.network.command("b"), "doveadm", "-c", pair.b.dir + "/dovecot.conf",
                    "-o", f"doveadm_password={PASSWORD}", "-o", "ssl=yes", "-o", f"ssl_client_ca_file={authority.ca}",
                    "sync", "-u", USER, f"tcps:{pair.a.address}:4711"], expect=(0, 2, 75), root=True)

    until_done(sync, runs=10)
    assert len(view.eventually_same(pair, USER, modseqs=False, highest=False)[0]["INBOX"][1]) == 7
    print("ok: dovecot_calls_dsyncd")


def dsync_calls_dovecot(authority):
    with Directory() as directory:
        ours, theirs = Dovecot(directory, "ours"), Dovecot(directory, "theirs", tls=authority)
        with theirs.start():
            ours.deliver("Subject: 1\n\none\n")
            theirs.deliver("Subject: 2\n\n" + "two. " * 50000)

            def dsync(host, *args, expect=(0, 2)):
                return run([DSYNC, "-c", ours.conf, "-u", DSYNC_USER, "-v", *args, "mirror",
                            f"tcps:{host}:{theirs.port}"], expect=expect, root=True)

            for host in ("127.0.0.1", "localhost"):
                until_done(lambda host=host: dsync(host, "-o", f"ssl_client_ca_file={authority.ca}"))
                assert ours.view() == theirs.view()
            refused = dsync("127.0.0.1", expect=(1,)).stderr
            assert "its chain" in refused and "Test middle" in refused, refused
            refused = dsync("127.1", "-o", f"ssl_client_ca_file={authority.ca}", expect=(1,)).stderr
            assert "its name: it is for 127.0.0.1, localhost, not for 127.1" in refused, refused
            # It was told why.
            assert all("alert" in line for line in theirs.complaints()), theirs.complaints()
    print("ok: dsync_calls_dovecot")


def main():
    need("dovecot", "openssl")
    with Authority() as authority:
        dsync_calls_dovecot(authority)
        two_nodes(authority)


if __name__ == "__main__":
    main()
