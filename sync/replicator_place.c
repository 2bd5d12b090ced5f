/*
 * Which mailbox each directory is: of one that a program removes or renames nobody else knows that.
 *
 * A directory that becomes another mailbox in its place has lost its uidlist, and whoever looked
 * next gave it a new GUID. That may be all (then the mailboxes of this name become one again), or
 * rm -r at work, which may take files before directories: the mailbox that the peer has goes with
 * the directory, though that is another one by then, and perhaps not for the first time. So they
 * are remembered (beside the directory's own record, under its name with '/' behind it), and for a
 * while no mailbox that was here is made again.
 */
#include "sync/replicator_private.h"

#include <stdio.h>
#include <string.h>

#include "store/base/log.h"

#define REPLACED_WAIT_MS 30000
#define BEFORE_MAX	 8
#define KEY_SIZE	 (WORKER_NAME_MAX + BEFORE_MAX + 1)

static void before_key(const char *dir, unsigned number, char key_r[KEY_SIZE])
{
	snprintf(key_r, KEY_SIZE, "%.*s%.*s", WORKER_NAME_MAX, dir, (int)number + 1, "////////");
}

static void put(struct replicator *r, const struct queue_user *user, const char *dir,
		const struct guid *guid)
{
	struct error err = {0};

	if (peer_journal_put_mailbox(r->journal, user->name, dir, guid, &err) < 0)
		log_error("%s", err.text);
	replicator_dirty(r);
}

bool replicator_place_before(struct replicator *r, const struct queue_user *user, const char *dir,
			     unsigned number, struct guid *guid_r)
{
	char key[KEY_SIZE];

	if (number >= BEFORE_MAX)
		return false;
	before_key(dir, number, key);
	return peer_journal_get_mailbox(r->journal, user->name, key, guid_r, NULL) == 0;
}

static void remember(struct replicator *r, struct queue_user *user, const char *dir,
		     const struct guid *guid)
{
	char key[KEY_SIZE];
	unsigned number = 0;
	struct guid before;

	user->replaced_until_ms = tcp_now_ms() + REPLACED_WAIT_MS;
	while (replicator_place_before(r, user, dir, number, &before)) {
		if (guid_equal(&before, guid))
			return;
		number++;
	}
	if (number == BEFORE_MAX)
		number--;
	before_key(dir, number, key);
	put(r, user, key, guid);
}

void replicator_place_is(struct replicator *r, struct queue_user *user, const char *dir,
			 const struct guid *guid, bool moved)
{
	struct guid known;

	if (peer_journal_get_mailbox(r->journal, user->name, dir, &known, NULL) == 0) {
		if (guid_equal(&known, guid))
			return;
		if (!moved)
			remember(r, user, dir, &known);
	}
	put(r, user, dir, guid);
}

void replicator_note_place(struct replicator *r, struct queue_user *user,
			   struct worker_reader *reader)
{
	const char *dir = worker_get_str(reader, WORKER_NAME_MAX);
	struct guid guid;
	bool moved;

	worker_get_guid(reader, &guid);
	moved = worker_get_u8(reader) != 0;
	if (worker_get_end(reader) == 0)
		replicator_place_is(r, user, dir, &guid, moved);
}

static void forget(struct replicator *r, struct queue_user *user, const char *key, bool removed)
{
	struct guid guid;

	if (peer_journal_get_mailbox(r->journal, user->name, key, &guid, NULL) < 0)
		return;
	if (removed)
		replicator_forget_expunges(r, user->name, &guid);
	(void)peer_journal_del_mailbox(r->journal, user->name, key, NULL);
	replicator_dirty(r);
}

void replicator_place_gone(struct replicator *r, struct queue_user *user, const char *dir,
			   bool removed)
{
	char key[KEY_SIZE];
	struct guid before;

	for (unsigned i = 0; replicator_place_before(r, user, dir, i, &before); i++) {
		before_key(dir, i, key);
		forget(r, user, key, removed);
		user->replaced_until_ms = 0;
	}
	forget(r, user, dir, removed);
}
