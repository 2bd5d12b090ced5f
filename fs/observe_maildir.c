/* What operations on files meant for mail: messages by their names in cur/ and new/, and the files
 * beside them that hold UIDs, flags and lists. See observe.h. */
#include "fs/observe.h"

#include <string.h>
#include "store/journal/journal.h"

/* Deliveries and flags often come in rows, by one program or several; a commit takes longer than
 * each of them. */
#define MESSAGE_WAIT_MS 2
/* A change goes on in other files: a record of the log in a name, a name in the uidlist. */
#define TOUCHED_WAIT_MS 5
/* Catch-up would wait for the uidlist's lock, so its events wait for the unlink. */
#define LOCKED_WAIT_MS 20

static unsigned wait_of(const struct observed *op, unsigned i, enum mail_event_kind kind)
{
	return dirty_is_locked(op->names[i].box) ? LOCKED_WAIT_MS
	       : kind == MAIL_EVENT_TOUCHED	 ? TOUCHED_WAIT_MS
						 : MESSAGE_WAIT_MS;
}

static void push_here(const struct observed *op, unsigned i, enum mail_event_kind kind,
		      const char *name, const char *name2)
{
	observe_push_within(op, i, wait_of(op, i, kind), kind, name, name2);
}

/* Of names[0] it was told ahead. */
static uint64_t push_removed(struct observed *op, unsigned i, const char *name)
{
	unsigned wait_ms = wait_of(op, i, MAIL_EVENT_REMOVED);
	uint64_t ticket =
		i == 0 ? observe_push_removed(op, wait_ms, name)
		       : observe_push_within(op, i, wait_ms, MAIL_EVENT_REMOVED, name, "");

	observe_removed(op, i, ticket);
	return ticket;
}

static void unlocked(const struct observed *op, unsigned i)
{
	dirty_set_locked(op->names[i].box, false);
	observe_push_within(op, i, 0, MAIL_EVENT_TOUCHED, "",
			    ""); /* whoever waits for it may go on */
}

static bool is_message(const struct observed *op, unsigned i)
{
	return op->names[i].kind == PLACE_FILE_MESSAGE;
}

/* The event of a change to a file that is no message; false: none. */
static bool touch_kind(enum place_file kind, enum mail_event_kind *event_r)
{
	switch (kind) {
	case PLACE_FILE_UIDLIST:
	case PLACE_FILE_KEYWORDS:
	case PLACE_FILE_INDEX_LOG:
		*event_r = MAIL_EVENT_TOUCHED;
		return true;
	case PLACE_FILE_SUBSCRIPTIONS:
	case PLACE_FILE_MAILBOX_LOG:
		*event_r = MAIL_EVENT_LIST_TOUCHED;
		return true;
	default:
		return false;
	}
}

static void touch(const struct observed *op, unsigned i)
{
	enum mail_event_kind event;

	if (touch_kind(op->names[i].kind, &event))
		push_here(op, i, event, "", "");
}

static bool same_box(const struct observed *op)
{
	return op->names[0].at.box == op->names[1].at.box;
}

void observe_created(struct observed *op)
{
	if (op->names[0].kind == PLACE_FILE_UIDLIST_LOCK)
		dirty_set_locked(op->names[0].box, true);
}

void observe_made(struct observed *op)
{
	observe_created(op);
	if (is_message(op, 0))
		push_here(op, 0, MAIL_EVENT_DELIVERED, op->names[0].name, "");
	else
		touch(op, 0);
}

void observe_delivered(struct observed *op)
{
	observe_made(op);
}

void observe_written(struct observed *op)
{
	touch(op, 0);
}

void observe_removal_ahead(struct observed *op)
{
	const struct observed_name *n = &op->names[0];
	const struct mail_event event = {
		.kind = MAIL_EVENT_REMOVED,
		.home = n->at.home,
		.dir = n->at.dir,
		.name = n->name,
	};

	if (is_message(op, 0) && (op->count < 2 || !is_message(op, 1) || !same_box(op)))
		op->removal = journal_removal_ahead(op->observer->journal, &event);
}

void observe_unlinked(struct observed *op)
{
	if (is_message(op, 0))
		push_removed(op, 0, op->names[0].name);
	else if (op->names[0].kind == PLACE_FILE_UIDLIST_LOCK)
		unlocked(op, 0);
	else
		touch(op, 0);
}

static void observe_message_renamed(struct observed *op, bool replaced)
{
	const char *old = op->names[0].name, *name = op->names[1].name;

	/* What is gone is told before what is there: a name that was another mail's is this one's
	   from now on. */
	if (replaced && is_message(op, 1))
		push_removed(op, 1, name);
	if (is_message(op, 0) && is_message(op, 1) && same_box(op)) {
		push_here(op, 0, MAIL_EVENT_RENAMED, old, name);
		return;
	}
	/* Where the message went is synced as well by who moves it, and perhaps nothing else. */
	if (is_message(op, 0))
		observe_removed(op, 1, push_removed(op, 0, old));
	if (is_message(op, 1))
		push_here(op, 1, MAIL_EVENT_DELIVERED, name, "");
}

void observe_renamed(struct observed *op, bool replaced)
{
	enum mail_event_kind from = MAIL_EVENT_TOUCHED, to = MAIL_EVENT_TOUCHED;
	bool unlocks = op->names[0].kind == PLACE_FILE_UIDLIST_LOCK;
	bool has_from = touch_kind(op->names[0].kind, &from);
	bool has_to = touch_kind(op->names[1].kind, &to);
	/* dovecot-uidlist.lock becoming dovecot-uidlist is one change of one mailbox. */
	bool is_one = has_to && to == from && same_box(op);

	observe_message_renamed(op, replaced);
	if (op->names[1].kind == PLACE_FILE_UIDLIST_LOCK)
		dirty_set_locked(op->names[1].box, true);
	if (has_from && !is_one)
		push_here(op, 0, from, "", "");
	if (has_to && !(unlocks && is_one))
		push_here(op, 1, to, "", "");
	if (unlocks)
		unlocked(op, 0);
}

void observe_exchanged(struct observed *op)
{
	for (unsigned i = 0; i < 2; i++) {
		if (is_message(op, i))
			push_here(op, i, MAIL_EVENT_RESCAN, "", "");
		else
			touch(op, i);
	}
}

void observe_uncertain(struct observed *op)
{
	if (op->names[0].at.box)
		push_here(op, 0, MAIL_EVENT_RESCAN, "", "");
}
