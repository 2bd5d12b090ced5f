/* The observer's frame: names, the dirty set, pushing. What operations mean is in
 * observe_maildir.c and observe_dir.c. See observe.h. */
#include "fs/observe.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <string.h>
#include "fs/stamp.h"
#include "store/base/log.h"
#include "store/journal/journal.h"

#define APPLIED_WAIT_MS 50

void observe_begin(struct observed *op, struct observer *observer, pid_t pid)
{
	op->observer = observer;
	op->origin = origins_find(observer->origins, pid);
	op->removal = 0;
	op->count = 0;
}

void observe_name(struct observed *op, struct place *dir, const char *name)
{
	struct observed_name *n = &op->names[op->count++];

	assert(op->count <= 2);
	place_locate(op->observer->places, dir, &n->at);
	n->dir = dir;
	n->name = name;
	n->kind = place_file_kind(n->at.role, name);
	n->box = NULL;
}

void observe_file(struct observed *op, struct place *dir, enum place_file kind)
{
	observe_name(op, dir, "");
	if (op->names[op->count - 1].at.role == PLACE_DIR ||
	    op->names[op->count - 1].at.role == PLACE_MAILS)
		op->names[op->count - 1].kind = kind;
}

void observe_end(struct observed *op)
{
	for (unsigned i = 0; i < op->count; i++) {
		dirty_leave(op->observer->dirty, op->names[i].box);
		place_release(op->observer->places, &op->names[i].at);
	}
	op->count = 0;
	if (op->removal)
		journal_removal_failed(op->observer->journal, op->removal);
	op->removal = 0;
}

static bool is_mail(const struct observed_name *n)
{
	return n->kind == PLACE_FILE_MESSAGE || n->kind == PLACE_FILE_UIDLIST_LOCK ||
	       place_file_is_watched(n->kind);
}

bool observe_is_mail(const struct observed *op)
{
	for (unsigned i = 0; i < op->count; i++) {
		if (is_mail(&op->names[i]))
			return true;
	}
	return false;
}

static void enter(struct observed *op, struct observed_name *n)
{
	if (!n->box && n->at.box)
		n->box = dirty_enter(op->observer->dirty, &n->at, n->dir);
}

void observe_ahead(struct observed *op)
{
	for (unsigned i = 0; i < op->count; i++) {
		struct observed_name *n = &op->names[i];

		if (n->kind == PLACE_FILE_TMP || n->kind == PLACE_FILE_UIDLIST_LOCK)
			enter(op, n);
	}
}

void observe_enter(struct observed *op, unsigned i)
{
	enter(op, &op->names[i]);
}

bool observe_is_dirty(struct observed *op)
{
	bool durable = true;

	/* Both begin before either is waited for: one commit takes them. */
	for (unsigned i = 0; i < op->count; i++) {
		if (!is_mail(&op->names[i]))
			continue;
		enter(op, &op->names[i]);
		durable = durable && dirty_is_durable(op->names[i].box);
	}
	return durable;
}

void observe_dirty(struct observed *op)
{
	if (observe_is_dirty(op))
		return;
	for (unsigned i = 0; i < op->count; i++) {
		if (is_mail(&op->names[i]))
			dirty_wait(op->observer->dirty, op->names[i].box);
	}
}

static uint64_t push(const struct observed *op, unsigned wait_ms, enum mail_event_kind kind,
		     const char *home, const char *dir, const char *name, const char *name2,
		     uint64_t removal)
{
	struct mail_event event = {
		.origin = op->origin,
		.kind = kind,
		.home = home,
		.dir = dir,
		.name = name,
		.name2 = name2,
	};

	/* What a peer's worker does is known to dsyncd. */
	if (op->origin && wait_ms < APPLIED_WAIT_MS)
		wait_ms = APPLIED_WAIT_MS;
	return journal_push_removal(op->observer->journal, &event, wait_ms, removal);
}

uint64_t observe_push(const struct observed *op, enum mail_event_kind kind, const char *home,
		      const char *dir, const char *name, const char *name2)
{
	return push(op, 0, kind, home, dir, name, name2, 0);
}

/* A directory above may have been renamed since the operation began, and an event that comes after
 * that rename's with the old name would be another mailbox's, or nobody's. What is no part of a
 * mailbox any more, or of another kind of directory, is told by its old name. */
static uint64_t push_within(const struct observed *op, unsigned i, unsigned wait_ms,
			    enum mail_event_kind kind, const char *name, const char *name2,
			    uint64_t removal)
{
	const struct observed_name *n = &op->names[i];
	struct places *places = op->observer->places;
	const struct place_path *at = &n->at;
	struct place_path now;
	uint64_t ticket;

	places_names_lock(places);
	place_locate(places, n->dir, &now);
	if (now.role == n->at.role)
		at = &now;
	ticket = push(op, wait_ms, kind, at->home, at->dir, name, name2, removal);
	places_names_unlock(places);
	place_release(places, &now);
	return ticket;
}

uint64_t observe_push_within(const struct observed *op, unsigned i, unsigned wait_ms,
			     enum mail_event_kind kind, const char *name, const char *name2)
{
	return push_within(op, i, wait_ms, kind, name, name2, 0);
}

static uint64_t take_removal(struct observed *op)
{
	uint64_t removal = op->removal;

	op->removal = 0;
	return removal;
}

uint64_t observe_push_removed(struct observed *op, unsigned wait_ms, const char *name)
{
	return push_within(op, 0, wait_ms, MAIL_EVENT_REMOVED, name, "", take_removal(op));
}

uint64_t observe_push_dir_removed(struct observed *op, const char *home, const char *dir)
{
	return push(op, 0, MAIL_EVENT_DIR_REMOVED, home, dir, "", "", take_removal(op));
}

/* A worker need not wait: the index log and its peer know of the removal. */
void observe_removed(const struct observed *op, unsigned i, uint64_t ticket)
{
	if (op->names[i].dir && !op->origin)
		atomic_store(&op->names[i].dir->removal, ticket);
}

void observe_sync(const struct observer *observer, const struct place *dir)
{
	journal_wait(observer->journal, atomic_load(&dir->removal));
}

struct recovery {
	struct observer *observer;
	bool clean;
	size_t count;
};

static int recover_one(void *ctx, const char *home, const char *dir)
{
	struct recovery *recovery = ctx;
	struct dirty *dirty = recovery->observer->dirty;
	struct observed op = {.observer = recovery->observer};
	struct place_path path = {.role = PLACE_DIR, .home = home, .dir = dir};

	if (!recovery->clean) {
		observe_push(&op, MAIL_EVENT_RESCAN, home, dir, "", "");
		/* What was under way may also have been a folder or a subscription. */
		observe_push(&op, MAIL_EVENT_LIST_TOUCHED, home, dir, "", "");
		recovery->count++;
	}
	/* It leaves the set as any mailbox does, when these are durable. */
	dirty_leave(dirty, dirty_enter(dirty, &path, NULL));
	return 0;
}

static void recover_removal(void *ctx, const struct mail_event *event, uint64_t removal)
{
	const struct observed *op = ctx;

	push(op, 0, event->kind, event->home, event->dir, event->name, "", removal);
}

int observe_recover(struct observer *observer, bool clean, struct error *err)
{
	struct recovery recovery = {.observer = observer, .clean = clean};
	int rc = journal_each_dirty(observer->journal, recover_one, &recovery, err);

	if (!clean)
		journal_each_removal(observer->journal, recover_removal,
				     &(struct observed){.observer = observer});
	if (recovery.count)
		log_notice("mailboxes that were being changed when the mount died are scanned "
			   "count=%zu",
			   recovery.count);
	if (rc == 0)
		journal_recovered(observer->journal);
	return rc;
}

struct stamp_check {
	struct observer *observer;
	int root_fd;
	const bool *ending;
	size_t count;
};

static int check_stamp(void *ctx, const char *home, const char *dir,
		       const struct journal_stamp *stamp)
{
	struct stamp_check *check = ctx;
	struct dirty *dirty = check->observer->dirty;
	struct observed op = {.observer = check->observer};
	struct place_path path = {.role = PLACE_DIR, .home = home, .dir = dir};
	struct journal_stamp now;
	struct dirty_box *box;
	int rc;

	if (__atomic_load_n(check->ending, __ATOMIC_ACQUIRE) && !dirty_has(dirty, home, dir))
		return 0;
	rc = stamp_take(check->root_fd, home, dir, &now);
	if (rc == 0 && stamp_compare(&now, stamp) == STAMP_SAME)
		return 0;
	/* In the dirty set, so that a crash now does not lose it; it leaves with a new stamp, or
	   with none when it is not there any more. */
	box = dirty_enter(dirty, &path, NULL);
	if (rc < 0 && rc != -ENOENT)
		log_warning("cannot look whether a mailbox was changed: %s home=%s directory=%s",
			    strerror(-rc), home, dir);
	if (rc == 0 && stamp_compare(&now, stamp) == STAMP_OTHER_DIRS)
		observe_push(&op, MAIL_EVENT_RESCAN_HOME, home, "", "", "");
	else if (rc != -ENOENT)
		observe_push(&op, MAIL_EVENT_RESCAN, home, dir, "", "");
	dirty_leave(dirty, box);
	check->count++;
	return 0;
}

void observe_check_stamps(struct observer *observer, int root_fd, const bool *ending)
{
	struct stamp_check check = {.observer = observer, .root_fd = root_fd, .ending = ending};

	journal_each_stamp(observer->journal, check_stamp, &check);
	dirty_keep_all(observer->dirty, false);
	if (check.count)
		log_notice("mailboxes that changed while nothing was mounted are scanned count=%zu",
			   check.count);
}
