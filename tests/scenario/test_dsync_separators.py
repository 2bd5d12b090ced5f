#!/usr/bin/python3
"""dsync with a real Dovecot 2.3 whose namespace has another separator than ours, with folders, subscriptions and subscribed
names that were deleted on either side: 2.3.19 never ends where it is told another separator with deletions. Each session
ends, both sides have the same, and a second run sends nothing."""
from dsync_sides import Directory, next_second, until_done
from test_dsync_dovecot import Sides

SEPARATORS = {"ours": "/", "theirs": "."}


def with_separator(side, separator):
    with open(side.conf, encoding="utf-8") as file:
        conf = file.read()
    assert "separator = /" in conf
    with open(side.conf, "w", encoding="utf-8") as file:
        file.write(conf.replace("separator = /", f"separator = {separator}"))


class Names:
    """A side's mailboxes by names that do not know its separator: parts, joined by '|'."""

    def __init__(self, side, separator):
        self.side, self.separator = side, separator

    def __call__(self, *args):
        return self.side.own(*(arg.replace("|", self.separator) for arg in args)).stdout

    def lines(self, *args):
        return sorted(line.replace(self.separator, "|") for line in self(*args).splitlines())

    def view(self):
        """Mailboxes with GUIDs (of the mailboxes themselves), and subscriptions."""
        return self.lines("-o", "mailbox_list_index=no", "-f", "tab", "mailbox", "status", "guid", "*"), self.lines("mailbox", "list", "-s")


def same(ours, theirs):
    one, two = ours.view(), theirs.view()
    assert one == two, (one, two)
    return one


def main():
    for name in ("we_by_pipe", "they_by_pipe"):
        with Directory() as directory:
            sides = Sides(directory)
            for key, separator in SEPARATORS.items():
                with_separator(getattr(sides, key), separator)
            ours, theirs = (Names(getattr(sides, key), separator) for key, separator in SEPARATORS.items())
            sync = getattr(sides, name)
            with sides.theirs.start(), sides.ours.start():
                for here, tag in ((ours, "Ours"), (theirs, "Theirs")):
                    here("mailbox", "create", "-s", f"{tag}|deep|one", f"{tag}|deep|two", f"{tag}|kept", f"{tag}|gone")
                    here("mailbox", "subscribe", f"{tag}|only|subscribed")
                until_done(sync)
                same(ours, theirs)
                # Subscriptions have whole seconds: a name that is subscribed and unsubscribed in one stays subscribed.
                next_second()
                # Each on the side that did not make it, and one that both delete.
                for here, tag in ((theirs, "Ours"), (ours, "Theirs")):
                    here("mailbox", "delete", f"{tag}|deep|one", f"{tag}|deep|two")
                    here("mailbox", "unsubscribe", f"{tag}|deep|one", f"{tag}|deep|two")
                    here("mailbox", "unsubscribe", f"{tag}|only|subscribed")
                for here in (ours, theirs):
                    here("mailbox", "delete", "Ours|gone")
                    here("mailbox", "unsubscribe", "Ours|gone")
                until_done(sync)
                until_done(sync)
                boxes, subscribed = same(ours, theirs)
                boxes = [line.split("\t")[0] for line in boxes]
                assert not [box for box in boxes if "deep" in box or box == "Ours|gone"], boxes
                assert {"Ours|kept", "Theirs|kept", "Theirs|gone"} <= set(boxes), boxes
                assert not [box for box in subscribed if "deep" in box or "only" in box or box == "Ours|gone"], subscribed
                for options in ((), ("-f",)):
                    result = sync(*options)
                    assert result.returncode == 0, result
                    assert "mailboxes, " not in result.stderr or " 0 mails sent, 0 received, 0 changes" in result.stderr, result
                same(ours, theirs)
                assert not theirs.side.complaints(), theirs.side.complaints()
                print("ok:", name)


if __name__ == "__main__":
    main()
