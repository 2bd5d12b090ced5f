/*
 * Which mailbox each directory is: of one that a program removes or renames nobody else knows that.
 *
 * A directory that becomes another mailbox in its place has lost its uidlist, and whoever looked
 * next gave it a new GUID. That may be all (then the mailboxes of this name become one again), or
 * rm -r at work, which may take files before directories: the mailbox that the peer has goes with
 * the directory, though that is another one by then, and perhaps not for the first time. So they
 * are remembered with the directory, and for a while no mailbox that was here is made again.
 *
 * What programs did counts here when a job has taken it in; what a session does, as soon as it
 * tells, which for a rename is before it. So where a session's rename ended is what to look up, not
 * where it began: another mailbox may be there by then, and the place known to be its.
 */
#include "sync/replicator_private.h"

#include "store/base/log.h"

#define REPLACED_WAIT_MS 30000

static bool was_before(const struct peer_place *place, const struct guid *guid)
{
	for (unsigned i = 0; i < place->before_count; i++) {
		if (guid_equal(&place->before[i], guid))
			return true;
	}
	return false;
}

/* Beyond what there is room for, the one that was remembered last goes. */
static void remember(struct queue_user *user, struct peer_place *place)
{
	user->replaced_until_ms = tcp_now_ms() + REPLACED_WAIT_MS;
	if (was_before(place, &place->guid))
		return;
	if (place->before_count == PEER_PLACE_BEFORE_MAX)
		place->before_count--;
	place->before[place->before_count++] = place->guid;
}

void replicator_place_is(struct replicator *r, struct queue_user *user, const char *dir,
			 const struct guid *guid, bool moved)
{
	struct peer_place place;
	struct error err = {0};

	if (peer_journal_get_place(r->journal, user->name, dir, &place, NULL) == 0) {
		if (guid_equal(&place.guid, guid))
			return;
		if (!moved)
			remember(user, &place);
	}
	place.guid = *guid;
	if (peer_journal_put_place(r->journal, user->name, dir, &place, &err) < 0)
		log_error("%s", err.text);
	replicator_dirty(r);
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

void replicator_place_gone(struct replicator *r, struct queue_user *user, const char *dir,
			   const struct guid *guid, bool removed)
{
	struct peer_place place;

	if (peer_journal_get_place(r->journal, user->name, dir, &place, NULL) < 0)
		return;
	/* It went, and another has come there since. */
	if (!guid_is_empty(guid) && !guid_equal(&place.guid, guid) && !was_before(&place, guid))
		return;
	if (removed)
		replicator_forget_expunges(r, user->name, &place.guid);
	for (unsigned i = 0; i < place.before_count; i++) {
		if (removed)
			replicator_forget_expunges(r, user->name, &place.before[i]);
		user->replaced_until_ms = 0;
	}
	(void)peer_journal_del_place(r->journal, user->name, dir, NULL);
	replicator_dirty(r);
}
