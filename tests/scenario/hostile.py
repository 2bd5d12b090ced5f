"""Clients and a master that mean no good, over the doveadm protocol and dsync's."""
import base64
import socket

from node import PASSWORD

PORT = 4711
KEYS = {
    "H": "hostname sync_ns_prefix sync_box sync_box_guid sync_type debug sync_visible_namespaces exclude_mailboxes "
         "send_mail_requests backup_send backup_recv lock_timeout no_mail_sync no_backup_overwrite purge_remote no_notify "
         "sync_since_timestamp sync_max_size sync_flags sync_until_timestamp virtual_all_box empty_hdr_workaround "
         "import_commit_msgs_interval hashed_headers alt_char",
    "S": "mailbox_guid last_uidvalidity last_common_uid last_common_modseq last_common_pvt_modseq last_messages_count "
         "changes_during_sync",
    "N": "name existence mailbox_guid uid_validity uid_next last_renamed_or_created subscribed last_subscription_change",
    "D": "hierarchy_sep escape_char mailboxes dirs unsubscribes",
    "B": "mailbox_guid uid_validity uid_next messages_count first_recent_uid highest_modseq highest_pvt_modseq mailbox_lost "
         "mailbox_ignore cache_fields have_guids have_save_guids have_only_guid128",
    "A": "type key value stream deleted last_change modseq",
    "C": "type uid guid hdr_hash modseq pvt_modseq add_flags remove_flags final_flags keywords_reset keyword_changes "
         "received_timestamp virtual_size",
    "R": "guid uid",
    "M": "guid uid pop3_uidl pop3_order received_date saved_date stream",
    "F": "error mail_error require_full_resync",
    "c": "name decision last_used",
}


def escape(part):
    for byte, code in ((b"\1", b"1"), (b"\0", b"0"), (b"\t", b"t"), (b"\r", b"r"), (b"\n", b"n")):
        part = part.replace(byte, b"\1" + code)
    return part


def name(*parts):
    """A mailbox name as N has it: its parts, escaped and joined by TAB, escaped again as a field."""
    return escape(b"\t".join(escape(part) for part in parts))


def connect(node):
    with node.network.on("b" if node.host == "a" else "a"):
        client = socket.create_connection((node.address, PORT), timeout=20)
    return client


def closed(client, timeout=20):
    """Whether the server ends the connection; what it said is thrown away."""
    client.settimeout(timeout)
    try:
        while client.recv(65536):
            pass
    except TimeoutError:
        return False
    except OSError:
        pass
    return True


class Master:
    """A dsync master with the right password, which says it is a Dovecot."""

    def __init__(self, node, user, password=PASSWORD):
        self.socket = connect(node)
        self.file = self.socket.makefile("rb")
        login = base64.b64encode(b"\0doveadm\0" + password.encode())
        self.send(b"VERSION\tdoveadm-server\t1\t0\n")
        self.greeting = self.line()
        self.send(b"PLAIN\t" + login + b"\n")
        self.accepted = self.line() == b"+"
        if self.accepted:
            self.send(b"\t" + escape(user) + b"\tdsync-server\t-u" + escape(user) + b"\n")
            self.line()
            self.reply = self.line()

    def send(self, data):
        self.socket.sendall(data)

    def line(self):
        return self.file.readline().rstrip(b"\n")

    def begin(self):
        """Up to where the master sends its mailbox names."""
        header = b"VERSION\tdsync\t3\t5\n"
        header += b"".join(code.encode() + keys.replace(" ", "\t").encode() + b"\n" for code, keys in KEYS.items())
        handshake = [b"fake"] + [b"\2"] * 3 + [b"f"] + [b"\2"] * 3 + [b""] + [b"\2"] * 14 + [b"Date\x01tMessage-ID\x01t", b"_"]
        self.send(header + b".\nH" + b"\t".join(handshake) + b"\n")

    def tree(self, names, first=0):
        for number, wire_name in enumerate(names):
            guid = b"%032x" % (0xabc00000000 + first + number)
            self.send(b"N" + wire_name + b"\ty\t" + guid + b"\t1700000000\t1\t1700000000\n")
        self.send(b".\nD/\t%\n")

    def inbox(self):
        """GUID and UIDVALIDITY of the slave's INBOX, from its N, which comes after ours."""
        self.tree([])
        while True:
            line = self.line()
            if line.startswith(b"NINBOX\t"):
                fields = line.split(b"\t")
                return fields[2], fields[3]
            assert line, "the slave sent no INBOX"

    def mails(self, inbox, mails):
        """INBOX with these new mails: (guid as on the wire, keywords as on the wire, body)."""
        guid, validity = inbox
        lines = [b"B" + b"\t".join((guid, validity, b"2000", b"%d" % len(mails), b"1", b"900", b"0", b"\2", b"\2",
                                   b"\2", b"", b"")) + b"\n.\n"]
        for uid, (mail_guid, keywords, _) in enumerate(mails, 1000):
            lines.append(b"\t".join((b"Cs", b"%d" % uid, mail_guid, b"\2", b"800", b"\2", b"\2", b"\2", b"20", b"\2",
                                     keywords, b"\2", b"ff")) + b"\n")
        lines.append(b".\n.\n")
        for mail_guid, _, body in mails:
            lines.append(b"M" + mail_guid + b"\t\2\t\t\2\t1700000000\t1700000000\t\n" + body + b"\r\n.\r\n")
        lines.append(b".\nS" + guid + b"\t" + validity + b"\t1999\t900\t0\t5\n.\n")
        self.send(b"".join(lines))

    def rest(self, timeout=20):
        """What the slave said until it ended the connection, or until it waits for more."""
        self.socket.settimeout(timeout)
        data = b""
        try:
            while True:
                piece = self.socket.recv(65536)
                if not piece:
                    return data
                data += piece
        except OSError:
            return data

    def close(self):
        self.file.close()
        self.socket.close()
