#!/usr/bin/python3
"""IMAP METADATA and Sieve scripts, the active one included: between two nodes, and with a real Dovecot at the other end."""
import os
import subprocess

from dsync_sides import DSYNC, USER as DSYNC_USER, Directory, Dovecot, run, until_done
from node import VMAIL, Pair, dovecot_config, eventually, need, skip

USER = "alice@example.org"
DICT = "mail_attribute_dict = file:%h/Maildir/dovecot-attributes\n"


# For libraries that are not where the system has them.
LIBRARIES = "import_environment = $import_environment LD_LIBRARY_PATH\n"

# --- two nodes

def doveadm(node, *args, expect=(0,)):
    return run([*node.network.command(node.host), "doveadm", "-c", node.dir + "/dovecot.conf", *args], expect=expect,
               root=True).stdout


def metadata(node, mailbox, key):
    """The value, or None."""
    lines = doveadm(node, "-f", "tab", "mailbox", "metadata", "get", "-u", USER, mailbox, key, expect=(0, 68)).splitlines()
    return lines[1] if len(lines) > 1 and lines[1] else None


def change(node, action, mailbox, key, *value):
    doveadm(node, "mailbox", "metadata", action, "-u", USER, mailbox, key, *value)


def scripts(node):
    home = node.home(USER)
    found = {}
    for name in os.listdir(home + "/sieve") if os.path.isdir(home + "/sieve") else []:
        if name.endswith(".sieve"):
            with open(f"{home}/sieve/{name}", encoding="utf-8") as file:
                found[name] = (file.read(), int(os.stat(f"{home}/sieve/{name}").st_mtime))
    active = home + "/.dovecot.sieve"
    return found, os.readlink(active) if os.path.lexists(active) else None


def put_script(node, name, text, active=False):
    """As a person does with an editor, who owns the mail."""
    home = node.home(USER)
    script = (f"mkdir -p sieve && printf '%s' '{text}' > 'sieve/{name}.sieve'" +
              (f" && ln -sf 'sieve/{name}.sieve' .dovecot.sieve" if active else ""))
    subprocess.run(["sh", "-c", script], cwd=home, check=True, user=VMAIL, group=VMAIL, extra_groups=[])


def full_sync(pair):
    pair.a.dsyncctl("replicate", "-f", USER)


def two_nodes():
    with Pair(settings=DICT, start=False) as pair:
        for node in pair.nodes:
            with open(node.dir + "/dovecot.conf", "a", encoding="utf-8") as file:
                file.write(DICT)
            node.start_all()
        pair.a.deliver(USER, "first")
        change(pair.a, "set", "INBOX", "/private/comment", "hello wörld")
        eventually("the mail's comment on b", lambda: metadata(pair.b, "INBOX", "/private/comment") == "hello wörld")
        # A folder that comes with it; what was there before; the other way; both ways at once.
        doveadm(pair.a, "mailbox", "create", "-u", USER, "Work")
        change(pair.a, "set", "Work", "/shared/comment", "shared")
        eventually("a folder's comment on b", lambda: metadata(pair.b, "Work", "/shared/comment") == "shared")
        change(pair.b, "set", "Work", "/shared/comment", "changed on b")
        change(pair.a, "set", "Work", "/private/vendor/x", "from a")
        change(pair.b, "set", "Work", "/private/vendor/y", "from b")
        eventually("a change of b's on a", lambda: metadata(pair.a, "Work", "/shared/comment") == "changed on b")
        eventually("both", lambda: [metadata(pair.a, "Work", "/private/vendor/y"),
                                    metadata(pair.b, "Work", "/private/vendor/x")] == ["from b", "from a"])
        change(pair.b, "unset", "Work", "/private/vendor/x")
        eventually("a removal", lambda: metadata(pair.a, "Work", "/private/vendor/x") is None)
        assert metadata(pair.a, "Work", "/private/vendor/y") == "from b"

        put_script(pair.a, "main", "keep;")
        put_script(pair.a, "holiday ä", 'discard; # "', active=True)
        full_sync(pair)
        eventually("scripts on b", lambda: len(scripts(pair.a)[0]) == 2 and scripts(pair.a) == scripts(pair.b))
        assert scripts(pair.b)[1] == "sieve/holiday ä.sieve"
        os.utime(f"{pair.b.home(USER)}/sieve/main.sieve", (2000000000, 2000000000))
        put_script(pair.b, "main", "stop;", active=True)
        full_sync(pair)
        eventually("a changed one, and another active", lambda: scripts(pair.a)[0]["main.sieve"][0] == "stop;" and
                   scripts(pair.a) == scripts(pair.b))
        eventually("in sync", lambda: pair.a.dsyncctl("status").stdout.startswith("in sync"))
        for node in pair.nodes:
            assert not node.dovecot_log_problems(), node.dovecot_log_problems()
    print("ok: two_nodes")


# --- a Dovecot

class Side(Dovecot):
    def __init__(self, directory, name):
        super().__init__(directory, name)
        with open(self.conf, "a", encoding="utf-8") as file:
            file.write(DICT + LIBRARIES)

    def set(self, mailbox, key, value):
        self.own("mailbox", "metadata", "set", mailbox, key, value)

    def get(self, mailbox, key):
        lines = self.own("-f", "tab", "mailbox", "metadata", "get", mailbox, key, expect=(0, 68)).stdout.splitlines()
        return lines[1] if len(lines) > 1 and lines[1] else None

    def sieve(self, *args, **options):
        return self.own("sieve", *args, **options).stdout

    def scripts(self):
        return sorted(self.sieve("list").splitlines())


def with_dovecot(directory):
    sieve = os.path.exists("/usr/lib/dovecot/modules/doveadm/lib10_doveadm_sieve_plugin.so")
    ours, theirs = Side(directory, "ours"), Side(directory, "theirs")
    ways = {"we": lambda *more: run([DSYNC, "-c", ours.conf, "-u", DSYNC_USER, "-v", *more, "mirror", "doveadm", "-c",
                                    theirs.conf, "dsync-server", "-u", DSYNC_USER], expect=(0, 2), root=True),
            "they": lambda *more: theirs.doveadm("sync", *more, "-u", DSYNC_USER,
                                                 f"{DSYNC} -c {ours.conf} -u {DSYNC_USER} server", expect=(0, 2))}
    with theirs.start(), ours.start():
        # Two INBOXes made independently: one gets the other's GUID, by which a Dovecot loses what it had of its own.
        for side in (ours, theirs):
            side.deliver("Subject: before\n\nx\n")
        until_done(ways["we"])
        for tag, sync in ways.items():
            for side, name in ((ours, "ours"), (theirs, "theirs")):
                side.deliver(f"Subject: {tag} {name}\n\nx\n")
                side.set("INBOX", f"/private/vendor/{tag}/{name}", f"{tag} by {name}")
                side.set("INBOX", f"/shared/vendor/{tag}/{name}", "line\nline\ttab")
                if sieve:
                    side.sieve("put", f"{tag}-{name}", input="keep;\n")
            if sieve:
                side, active = (theirs, "we-theirs") if tag == "we" else (ours, "they-ours")
                side.sieve("activate", active)
            until_done(sync)
            for side in (ours, theirs):
                for name in ("ours", "theirs"):
                    assert side.get("INBOX", f"/private/vendor/{tag}/{name}") == f"{tag} by {name}", (tag, side.dir, name)
                    assert side.get("INBOX", f"/shared/vendor/{tag}/{name}"), (tag, side.dir, name)
            if sieve:
                assert ours.scripts() == theirs.scripts() and len(ours.scripts()) >= 2, (ours.scripts(), theirs.scripts())
                assert f"{active} ACTIVE" in ours.scripts(), ours.scripts()
            before = theirs.get("INBOX", f"/private/vendor/{tag}/ours")
            result = sync("-f")
            assert result.returncode == 0 and before == f"{tag} by ours"
        if sieve:
            theirs.sieve("deactivate")
            theirs.sieve("delete", "we-ours")
            until_done(ways["we"])
            assert ours.scripts() == theirs.scripts() and not any("ACTIVE" in line for line in ours.scripts())
        theirs.own("mailbox", "metadata", "unset", "INBOX", "/private/vendor/we/ours")
        until_done(ways["they"])
        assert ours.get("INBOX", "/private/vendor/we/ours") is None
        assert not theirs.complaints(), theirs.complaints()
    print("ok: with_dovecot", "" if sieve else "(without sieve: Pigeonhole is not installed)")


def main():
    need("dovecot")
    if dovecot_config.is_24():
        skip("the settings are those of Dovecot 2.3")
    two_nodes()
    with Directory() as directory:
        with_dovecot(directory)


if __name__ == "__main__":
    main()
