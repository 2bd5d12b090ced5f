"""What an IMAP or POP3 client sees of a user's mail, as plain values that two nodes can be compared by."""
import re


def _number(data, key):
    found = re.search(key.encode() + rb" (\d+)", data)
    return int(found.group(1)) if found else None


def folders(client):
    _, lines = client.list()
    names = []
    for line in lines:
        if not line:
            continue
        # (flags) "/" name
        if isinstance(line, tuple):
            names.append(line[1].decode())
            continue
        if rb"\Noselect" in line or rb"\NonExistent" in line:
            continue
        names.append(re.match(rb'\(.*?\) "." (.*)', line).group(1).decode().strip('"'))
    return sorted(names)


def subscriptions(client):
    _, lines = client.lsub()
    return sorted(re.match(rb'\(.*?\) "." (.*)', line).group(1).decode().strip('"') for line in lines if line)


def mails(client, folder):
    """{uid: (flags, internaldate, size, body)} and (uidvalidity, uidnext, highestmodseq)."""
    client.select('"INBOX"' if folder == "INBOX" else f'"{folder}"', readonly=True)
    _, status = client.status(f'"{folder}"', "(UIDVALIDITY UIDNEXT MESSAGES HIGHESTMODSEQ)")
    numbers = tuple(_number(status[0], key) for key in ("UIDVALIDITY", "UIDNEXT", "HIGHESTMODSEQ"))
    result = {}
    _, data = client.uid("FETCH", "1:*", "(UID FLAGS INTERNALDATE RFC822.SIZE MODSEQ BODY.PEEK[])")
    tail = None
    for part in data:
        if not isinstance(part, tuple):
            continue
        head, body = part
        tail = head
        uid = _number(tail, "UID")
        flags = re.search(rb"FLAGS \((.*?)\)", tail).group(1).decode().split()
        result[uid] = (tuple(sorted(f for f in flags if f != r"\Recent")),
                       re.search(rb'INTERNALDATE "(.*?)"', tail).group(1).decode(),
                       _number(tail, "RFC822.SIZE"), int(re.search(rb"MODSEQ \((\d+)\)", tail).group(1)), body)
    return numbers, result


def account(node, user):
    """Everything: {folder: (numbers, mails)}, subscriptions."""
    client = node.imap(user, select=False)
    try:
        client.enable("CONDSTORE")
        return ({folder: mails(client, folder) for folder in folders(client)}, subscriptions(client))
    finally:
        client.logout()


def uidls(node, user):
    client = node.pop3(user)
    try:
        return client.uidl()[1]
    finally:
        client.quit()


def difference(one, other, modseqs=True, highest=True):
    """What differs between two accounts, readable; empty when they are the same. modseqs: also of each mail; highest:
    also of each folder."""
    lines = []
    boxes_one, subs_one = one
    boxes_other, subs_other = other
    if subs_one != subs_other:
        lines.append(f"subscriptions {subs_one} != {subs_other}")
    for folder in sorted(set(boxes_one) | set(boxes_other)):
        if folder not in boxes_one or folder not in boxes_other:
            lines.append(f"{folder}: only on {'one' if folder in boxes_one else 'the other'}")
            continue
        (numbers_one, mails_one), (numbers_other, mails_other) = boxes_one[folder], boxes_other[folder]
        if not highest:
            numbers_one, numbers_other = numbers_one[:2], numbers_other[:2]
        if numbers_one != numbers_other:
            lines.append(f"{folder}: (uidvalidity, uidnext, highestmodseq) {numbers_one} != {numbers_other}")
        for uid in sorted(set(mails_one) | set(mails_other)):
            left, right = mails_one.get(uid), mails_other.get(uid)
            if not modseqs and left and right:
                left = (*left[:3], right[3], *left[4:])
            if left != right:
                lines.append(f"{folder}: uid {uid}: {left and left[:4]} != {right and right[:4]}")
    return lines


def eventually_without(pair, user, folder):
    """Waits until neither node lists the folder. A session that reads a dbox folder which is renamed meanwhile says in
    Dovecot's log that it has lost its mails: so they are looked at only then."""
    from node import eventually  # pylint: disable=import-outside-toplevel,cyclic-import
    clients = [node.imap(user, select=False) for node in pair.nodes]
    for client in clients:
        eventually(f"{folder} of {user} is gone", lambda client=client: folder not in folders(client))
        client.logout()


def eventually_same(pair, user, timeout=20.0, modseqs=True, highest=True):
    """Waits until both nodes show the same account; returns it. A Dovecot's MODSEQs take some syncs more."""
    from node import eventually  # pylint: disable=import-outside-toplevel,cyclic-import
    state = {}

    def check():
        state["a"], state["b"] = account(pair.a, user), account(pair.b, user)
        state["difference"] = difference(state["a"], state["b"], modseqs, highest)
        assert not state["difference"], state["difference"]
        return True

    eventually(f"{user} is the same on both nodes", check, timeout, every=0.2)
    return state["a"]
