/* The replicator's users: their standing in the peer journal, and the helper that finds them. */
#include "sync/replicator_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/journal/store_id.h"

#define FIND_MS	      60000
#define LIST_MS	      600000
#define LIST_RETRY_MS 30000
#define NOUSER_FAILURES                                                                            \
	3 /* then its events are let go: there is nothing they could be put into                   \
	   */

/* ---- standing ---- */

static void load_entry(struct queue_entry *entry, const struct peer_user *standing)
{
	entry->standing = *standing;
	/* Which mailboxes it was is not kept: the tree tells. */
	if (standing->priority != SYNC_PRIORITY_NONE)
		entry->standing.want_tree = true;
}

static int load_user(void *ctx, const char *name, const char *peer,
		     const struct peer_user *standing)
{
	struct replicator *r = ctx;
	struct queue_user *user = queue_user_get(&r->queue, name, NULL);

	if (!user)
		return -ENOMEM;
	if (strcmp(peer, REPLICATOR_LOCAL_PEER) == 0)
		user->want_scan = standing->want_full;
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		if (strcmp(peer, r->peers[i].address) == 0)
			load_entry(&user->entries[i], standing);
	}
	queue_user_update(&r->queue, user);
	return 0;
}

int replicator_load_users(struct replicator *r, struct error *err)
{
	struct queue_user *user, *next;
	int rc = peer_journal_each_user(r->journal, load_user, r, err);

	if (rc < 0)
		return rc;
	/* A peer that was added to the settings has nothing yet. */
	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		for (unsigned i = 0; i < r->queue.peer_count; i++) {
			const struct peer_user *standing = &user->entries[i].standing;

			if (standing->last_try == 0 && standing->priority == SYNC_PRIORITY_NONE)
				queue_want(user, i, SYNC_PRIORITY_LOW, true, false, time(NULL));
		}
		queue_user_update(&r->queue, user);
	}
	return 0;
}

struct queue_user *replicator_user(struct replicator *r, const char *name, const char *home)
{
	struct queue_user *user = queue_user_find(&r->queue, name);

	if (user)
		return queue_user_get(&r->queue, name, home);
	user = queue_user_get(&r->queue, name, home);
	if (!user)
		return NULL;
	/* Never heard of, so nobody knows what was there before: all of it is looked at. */
	user->want_scan = user->scan_unsaved = true;
	for (unsigned i = 0; i < r->queue.peer_count; i++)
		queue_want(user, i, SYNC_PRIORITY_HIGH, true, false, time(NULL));
	queue_user_update(&r->queue, user);
	return user;
}

void replicator_save_user(struct replicator *r, struct queue_user *user)
{
	struct error err = {0};

	if (user->scan_unsaved) {
		struct peer_user local = {.want_full = user->want_scan};

		if (peer_journal_put_user(r->journal, user->name, REPLICATOR_LOCAL_PEER, &local,
					  &err) < 0)
			log_error("%s", err.text);
		else
			user->scan_unsaved = false;
	}
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		struct queue_entry *entry = &user->entries[i];

		if (!entry->unsaved)
			continue;
		if (peer_journal_put_user(r->journal, user->name, r->peers[i].address,
					  &entry->standing, &err) < 0)
			log_error("%s", err.text);
		else
			entry->unsaved = false;
	}
	queue_user_update(&r->queue, user);
}

/* ---- the helper ---- */

static int get_finder(struct replicator *r, struct error *err)
{
	struct worker_key key = {.kind = WORKER_HELPER};
	int rc;

	if (r->finder)
		return 0;
	r->finder = calloc(1, sizeof *r->finder);
	if (!r->finder)
		return error_errno(err, -ENOMEM, "dsyncd");
	*r->finder = (struct task){.kind = TASK_FINDER, .replicator = r};
	rc = worker_pool_take(r->pool, &key, "", r->finder, &r->finder->worker, err);
	if (rc < 0) {
		free(r->finder);
		r->finder = NULL;
	}
	return rc;
}

static void release_finder(struct replicator *r)
{
	if (!r->finder || r->finds || r->listing)
		return;
	worker_release(&r->finder->worker);
	free(r->finder);
	r->finder = NULL;
}

/* Nothing came of looking for them; those who wait try again after a pause. */
static void fail_finding(struct replicator *r, const char *text)
{
	struct queue_clock clock = replicator_clock();
	struct queue_user *user, *next;

	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		if (!user->finding)
			continue;
		user->finding = false;
		queue_store_failed(user, text, &clock);
	}
	replicator_sessions_found(r, NULL, NULL, -EAGAIN, text);
	r->finds = 0;
	if (r->listing) {
		r->listing = false;
		r->list_not_before_ms = clock.now_ms + LIST_RETRY_MS;
	}
	replicator_kick(r);
}

void replicator_find_user(struct replicator *r, const char *name, bool make)
{
	enum worker_find how = WORKER_FIND_ONLY;
	struct error err = {0};

	if (get_finder(r, &err) < 0) {
		log_error("%s", err.text);
		fail_finding(r, err.text);
		return;
	}
	worker_put_begin(&r->out, WORKER_FIND);
	worker_put_str(&r->out, name);
	if (make)
		how = store_id_is_known(r->set->state_dir) ? WORKER_FIND_MAKE_MOUNTED
							   : WORKER_FIND_MAKE;
	worker_put_u8(&r->out, how);
	r->finds++;
	worker_tell(r->finder->worker, &r->out, -1);
	worker_expect_within(r->finder->worker, r->listing ? LIST_MS : FIND_MS);
}

void replicator_list_users(struct replicator *r)
{
	struct error err = {0};

	if (get_finder(r, &err) < 0) {
		log_error("%s", err.text);
		r->list_not_before_ms = tcp_now_ms() + LIST_RETRY_MS;
		return;
	}
	worker_put_begin(&r->out, WORKER_EACH);
	r->listing = true;
	r->listed = 0;
	worker_tell(r->finder->worker, &r->out, -1);
	worker_expect_within(r->finder->worker, LIST_MS);
}

/* A home that is not there (any more): what was seen in it has gone with it. */
static void user_not_found(struct replicator *r, struct queue_user *user, const char *text)
{
	struct queue_clock clock = replicator_clock();

	user->uid_known = false;
	if (user->store_failures == 0)
		log_warning("%s user=%s", text, user->name);
	queue_store_failed(user, text, &clock);
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		if (queue_entry_owes(&user->entries[i]))
			queue_sync_failed(user, i, text, &clock);
	}
	if (user->store_failures < NOUSER_FAILURES)
		return;
	queue_events_take(&r->queue, user, SIZE_MAX);
	queue_events_done(&r->queue, user);
	replicator_dirty(r);
}

/* A user of whom a peer told us first: its session compares everything. What that could not see
 * (files that are in no uidlist yet) a scan finds, and what the peer lacks then is owed. */
static struct queue_user *user_of_peer(struct replicator *r, const char *name, const char *home)
{
	struct queue_user *user = queue_user_find(&r->queue, name);
	bool known = user != NULL;

	user = queue_user_get(&r->queue, name, home);
	if (!user || known)
		return user;
	user->want_scan = user->scan_unsaved = true;
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		user->entries[i].standing.last_full = time(NULL);
		user->entries[i].standing.last_try = time(NULL);
		user->entries[i].unsaved = true;
	}
	queue_user_update(&r->queue, user);
	replicator_dirty(r);
	return user;
}

static void on_found(struct replicator *r, const struct worker_found *found)
{
	struct queue_user *user = queue_user_find(&r->queue, found->user);

	if (user && user->finding && found->code == 0 && strcmp(found->name, found->user) != 0) {
		user->finding = false;
		user_not_found(r, user, "this is not how the user's name is written");
	}
	if (found->code == 0) {
		user = user_of_peer(r, found->name, found->home_rel);
		if (user) {
			user->uid_known = true;
			user->uid = found->uid;
			user->gid = found->gid;
			user->finding = user->make_home = false;
		}
	} else if (user && user->finding) {
		user->finding = false;
		user_not_found(r, user, found->text);
	}
	replicator_sessions_found(r, found->user, found->code == 0 ? user : NULL, found->code,
				  found->text);
	replicator_kick(r);
}

void replicator_want_all(struct replicator *r, int peer)
{
	struct queue_user *user, *next;

	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		for (unsigned i = 0; i < r->queue.peer_count; i++) {
			if (peer < 0 || (unsigned)peer == i)
				queue_want(user, i, SYNC_PRIORITY_LOW, true, false, time(NULL));
		}
		queue_user_update(&r->queue, user);
	}
	replicator_dirty(r);
	replicator_kick(r);
}

/* Everybody had mail here, and nobody has a home any more. That was no user's doing: a disk was
 * lost, or replaced. One home that is missing proves nothing, an account may have been removed. */
static void store_was_lost(struct replicator *r)
{
	struct queue_user *user, *next;

	log_error(
		"mail_root has no user's home any more, but %u users had mail: the store was lost, "
		"and is filled again from the peers mail_root=%s",
		HASH_CNT(hh_name, r->queue.by_name), r->set->mail_root);
	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		user->uid_known = false;
		user->make_home = true;
	}
	replicator_want_all(r, -1);
}

static void on_users(struct replicator *r, struct worker_reader *reader)
{
	while (reader->left && !reader->failed) {
		const char *name = worker_get_str(reader, WORKER_NAME_MAX);
		struct queue_user *user;

		if (reader->failed || name[0] == '\0')
			break;
		r->listed++;
		if (!r->list_wanted)
			continue; /* only whether there is any */
		user = replicator_user(r, name, NULL);
		if (!user)
			return;
		user->want_scan = user->scan_unsaved = true;
		for (unsigned i = 0; i < r->queue.peer_count; i++)
			queue_want(user, i, SYNC_PRIORITY_LOW, true, false, time(NULL));
		queue_user_update(&r->queue, user);
	}
	replicator_dirty(r);
	replicator_kick(r);
}

/* watched: mail_root is a dsyncfs mount. If not, it is empty because nothing is mounted yet. */
static void on_listed(struct replicator *r, int code, bool watched, const char *text)
{
	r->listing = false;
	if (code < 0) {
		log_error("cannot list the users of mail_root: %s", text);
		r->list_not_before_ms = tcp_now_ms() + LIST_RETRY_MS;
		return;
	}
	if (watched && r->listed == 0 && r->store_unchecked)
		store_was_lost(r);
	if (watched)
		r->store_unchecked = false;
	else
		r->list_not_before_ms = tcp_now_ms() + LIST_RETRY_MS;
	if (!r->list_wanted)
		return;
	log_notice("all users are queued for a full sync users=%zu", r->listed);
	r->list_wanted = false;
	r->consumed_known = true;
	r->consumed_seq = UINT64_MAX; /* written at the next commit, whatever it is */
	replicator_dirty(r);
}

void replicator_finder_message(struct task *task, struct worker_reader *reader)
{
	struct replicator *r = task->replicator;
	struct worker_found found;
	int code;
	bool watched;
	const char *text;

	switch (reader->type) {
	case WORKER_FOUND:
		if (worker_get_found(reader, &found) < 0 || r->finds == 0)
			break;
		r->finds--;
		on_found(r, &found);
		release_finder(r);
		return;
	case WORKER_USERS:
		on_users(r, reader);
		return;
	case WORKER_EACH_DONE:
		code = (int)worker_get_u32(reader);
		watched = worker_get_u8(reader) == 1;
		text = worker_get_str(reader, ERROR_TEXT_MAX);
		on_listed(r, code, watched, text);
		release_finder(r);
		return;
	default:
		break;
	}
	log_error("a helper broke its protocol");
	worker_kill(&task->worker);
	replicator_finder_gone(task, "a helper broke its protocol");
}

void replicator_finder_gone(struct task *task, const char *why)
{
	struct replicator *r = task->replicator;

	log_error("the helper that finds users is gone: %s", why);
	free(r->finder);
	r->finder = NULL;
	fail_finding(r, why);
}
