/*
 * What others ask the replicator for: a sync of some users, the word when one has ended, that a
 * user be forgotten.
 */
#include "sync/replicator_private.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <utlist.h>

struct replicator_wait {
	struct replicator_wait *prev, *next;
	struct replicator *replicator;
	struct queue_user *user;
	bool one_more; /* the sync that ran when it was asked for has maybe passed the change */
	void (*done)(void *ctx, bool ok);
	void *ctx;
};

int replicator_replicate(struct replicator *r, const char *mask, enum sync_priority priority,
			 bool full)
{
	struct queue_user *user, *next;
	int64_t now = time(NULL);
	int count = 0;

	if (strpbrk(mask, "*?") == NULL && !queue_user_find(&r->queue, mask)) {
		/* Never heard of: a helper says whether there is such a user. */
		user = replicator_user(r, mask, NULL);
		if (!user)
			return -ENOMEM;
	}
	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		if (fnmatch(mask, user->name, 0) != 0)
			continue;
		for (unsigned i = 0; i < r->queue.peer_count; i++) {
			queue_want(user, i, priority, full, true, now);
			user->entries[i].not_before_ms = 0;
		}
		user->removed = false;
		queue_user_update(&r->queue, user);
		count++;
	}
	replicator_dirty(r);
	replicator_kick(r);
	return count;
}

static void want_with_all(struct replicator *r, struct queue_user *user,
			  enum sync_priority priority)
{
	for (unsigned i = 0; i < r->queue.peer_count; i++)
		queue_want(user, i, priority, false, true, time(NULL));
	queue_user_update(&r->queue, user);
	replicator_dirty(r);
	replicator_kick(r);
}

void replicator_notice(struct replicator *r, const char *name, enum sync_priority priority)
{
	struct queue_user *user = queue_user_find(&r->queue, name);

	if (user)
		want_with_all(r, user, priority);
}

int replicator_remove(struct replicator *r, const char *name)
{
	struct queue_user *user = queue_user_find(&r->queue, name);

	if (!user || user->removed)
		return -ENOENT;
	for (unsigned i = 0; i < r->queue.peer_count; i++)
		queue_forget(user, i);
	user->removed = true;
	queue_user_update(&r->queue, user);
	replicator_dirty(r);
	return 0;
}

void replicator_note_synced(struct replicator *r, const char *name, bool full)
{
	struct queue_user *user = queue_user_find(&r->queue, name);
	int64_t now = time(NULL);

	for (unsigned i = 0; user && i < r->queue.peer_count; i++) {
		struct peer_user *standing = &user->entries[i].standing;

		standing->last_try = now;
		if (full)
			standing->last_full = now;
		user->entries[i].unsaved = true;
		queue_user_update(&r->queue, user);
		replicator_dirty(r);
	}
}

/* ---- waiting for a sync ---- */

static void end_wait(struct replicator_wait *wait, bool ok)
{
	void (*done)(void *ctx, bool ok) = wait->done;
	void *ctx = wait->ctx;

	DL_DELETE(wait->replicator->waits, wait);
	free(wait);
	done(ctx, ok);
}

enum standing { STANDS_WELL, STANDS_OWED, STANDS_BADLY };

static enum standing stands(const struct replicator *r, const struct queue_user *user)
{
	enum standing standing = STANDS_WELL;

	if (user->store_failures)
		return STANDS_BADLY;
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		if (!queue_entry_owes(&user->entries[i]))
			continue;
		if (!r->up[i] || user->entries[i].standing.failures)
			return STANDS_BADLY;
		standing = STANDS_OWED;
	}
	return standing;
}

/* true: it may be asked about others. */
static bool look_at(struct replicator *r, struct replicator_wait *wait, bool sync_ended)
{
	enum standing standing = stands(r, wait->user);

	if (standing == STANDS_BADLY || r->draining) {
		end_wait(wait, false);
		return false;
	}
	if (wait->one_more && sync_ended) {
		wait->one_more = false;
		want_with_all(r, wait->user, SYNC_PRIORITY_SYNC);
		return true;
	}
	if (standing == STANDS_OWED || wait->one_more || wait->user->job)
		return true;
	end_wait(wait, true);
	return false;
}

void replicator_look_at_waits(struct replicator *r, const struct queue_user *user)
{
	struct replicator_wait *wait = r->waits;

	/* A callback may cancel others: it begins anew then, where one_more is no longer set. */
	while (wait) {
		bool concerned = !user || wait->user == user;

		wait = concerned && !look_at(r, wait, user != NULL) ? r->waits : wait->next;
	}
}

int replicator_wait_for_sync(struct replicator *r, const char *name,
			     void (*done)(void *ctx, bool ok), void *ctx,
			     struct replicator_wait **wait_r)
{
	struct queue_user *user = queue_user_find(&r->queue, name);
	struct replicator_wait *wait;

	if (!user || r->draining || r->away)
		return -ENOENT;
	/* A delivery is not to wait for who is not there. */
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		if (!r->up[i])
			return -EHOSTUNREACH;
	}
	wait = calloc(1, sizeof *wait);
	if (!wait)
		return -ENOMEM;
	*wait = (struct replicator_wait){.replicator = r,
					 .user = user,
					 .one_more = user->job != NULL,
					 .done = done,
					 .ctx = ctx};
	DL_APPEND(r->waits, wait);
	want_with_all(r, user, SYNC_PRIORITY_SYNC);
	*wait_r = wait;
	return 0;
}

void replicator_wait_cancel(struct replicator_wait **wait)
{
	if (*wait) {
		DL_DELETE((*wait)->replicator->waits, *wait);
		free(*wait);
	}
	*wait = NULL;
}
