/*
 * Tombstones: the expunges of a mailbox that some peer has not passed yet, kept beyond the life of
 * the index log that tells of them.
 *
 * A job's worker says how each mailbox is that changed. Where messages may have been expunged since
 * the mailbox's mark, it is asked for them before its events count as taken in; tombstones, mark
 * and the position in dsyncfs's journal are committed together or in this order. They go when all
 * peers' states have passed them. What is asked for and kept is proportional to what was expunged.
 */
#include "sync/replicator_private.h"

#include <errno.h>
#include <string.h>
#include <time.h>

/* What all peers have acknowledged of the mailbox; 0 where one of them has no state. */
static uint64_t acked_by_all(struct replicator *r, const char *user, const struct guid *guid)
{
	uint64_t acked = UINT64_MAX;

	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		struct peer_mailbox_state state;

		if (r->peers[i].id[0] == '\0' ||
		    peer_journal_get_state(r->journal, user, r->peers[i].id, guid, &state, NULL) <
			    0)
			return 0;
		if (state.acked_modseq < acked)
			acked = state.acked_modseq;
	}
	return acked;
}

static void put_mark(struct replicator *r, const char *user, const struct tombstone_mark *mark)
{
	struct error err = {0};

	if (peer_journal_put_tombstone_mark(r->journal, user, mark, &err) < 0)
		log_error("%s", err.text);
	replicator_dirty(r);
}

/* Where no UID was given out but to a message that is there, none was expunged. */
static bool nothing_was_expunged(const struct tombstone_mark *mark, const struct worker_box *box)
{
	return box->uid_next >= mark->uid_next && box->messages >= mark->messages &&
	       box->uid_next - mark->uid_next == box->messages - mark->messages;
}

/* An older copy, or made anew: its expunges of before are of another history. */
static bool went_back(const struct tombstone_mark *mark, const struct worker_box *box)
{
	return mark->uid_validity != box->uid_validity || mark->uid_next > box->uid_next ||
	       mark->modseq > box->highest_modseq;
}

void replicator_box_expunges(struct job *job, const struct worker_box *box)
{
	struct replicator *r = job->task.replicator;
	const char *user = job->user->name;
	struct worker_list_expunges task = {.guid = box->guid, .name = box->name};
	struct tombstone_mark mark, now = {.mailbox = box->guid,
					   .uid_validity = box->uid_validity,
					   .uid_next = box->uid_next,
					   .messages = box->messages,
					   .modseq = box->highest_modseq};
	bool marked;

	if (r->queue.peer_count == 0)
		return;
	task.since = acked_by_all(r, user, &box->guid);
	marked = peer_journal_get_tombstone_mark(r->journal, user, &box->guid, &mark, NULL) == 0;
	if (marked && went_back(&mark, box)) {
		replicator_forget_expunges(r, user, &box->guid);
		marked = false;
	}
	/* From now on: what was before the first sync is nobody's. */
	if (!marked && task.since == 0)
		task.since = box->highest_modseq;
	if (marked && mark.modseq > task.since)
		task.since = mark.modseq;
	if (marked && mark.modseq == box->highest_modseq)
		return;
	if (task.since >= box->highest_modseq || (marked && nothing_was_expunged(&mark, box))) {
		put_mark(r, user, &now);
		return;
	}
	worker_put_list_expunges(&r->out, &task);
	worker_tell(job->task.worker, &r->out, -1);
	job->lists++;
}

int replicator_take_expunges(struct job *job, struct worker_reader *reader)
{
	struct replicator *r = job->task.replicator;
	const char *user = job->user->name;
	struct worker_expunges head;
	struct error err = {0};
	int rc = job->lists ? worker_get_expunges(reader, &head) : -EPROTO;

	while (rc == 0 && reader->left) {
		struct sync_expunge expunge;
		struct tombstone tombstone = {.mailbox = head.guid, .time = time(NULL)};

		if (worker_get_expunge(reader, &expunge) < 0)
			return -EPROTO;
		tombstone.message = expunge.guid;
		tombstone.uid = expunge.uid;
		tombstone.modseq = expunge.modseq;
		if (peer_journal_put_tombstone(r->journal, user, &tombstone, &err) < 0) {
			/* Without a mark they are asked for again. */
			if (!job->lists_failed)
				log_error("%s", err.text);
			job->lists_failed = true;
		}
	}
	if (rc < 0 || head.more)
		return rc;
	job->lists--;
	if (!head.failed && !job->lists_failed) {
		struct tombstone_mark mark = {.mailbox = head.guid,
					      .uid_validity = head.uid_validity,
					      .uid_next = head.uid_next,
					      .messages = head.messages,
					      .modseq = head.highest_modseq};

		put_mark(r, user, &mark);
	}
	replicator_dirty(r);
	return 0;
}

void replicator_expunges_passed(struct replicator *r, const char *user, const struct guid *guid)
{
	uint64_t acked = acked_by_all(r, user, guid);
	struct error err = {0};

	if (acked && peer_journal_prune_tombstones(r->journal, user, guid, acked, &err) < 0)
		log_error("%s", err.text);
}

void replicator_forget_expunges(struct replicator *r, const char *user, const struct guid *guid)
{
	struct error err = {0};

	if (peer_journal_del_tombstones(r->journal, user, guid, &err) < 0)
		log_error("%s", err.text);
	replicator_dirty(r);
}

/* ---- to a session's worker ---- */

struct sender {
	struct replicator *r;
	struct worker *worker;
	unsigned count; /* in the message */
};

static void begin_message(struct replicator *r, bool more, bool failed)
{
	worker_put_begin(&r->out, WORKER_TOMBSTONES);
	worker_put_u8(&r->out, more);
	worker_put_u8(&r->out, failed);
}

static int send_tombstone(void *ctx, const struct tombstone *tombstone)
{
	struct sender *sender = ctx;
	struct sync_expunge expunge = {
		.uid = tombstone->uid, .guid = tombstone->message, .modseq = tombstone->modseq};

	if (sender->count == 0)
		begin_message(sender->r, true, false);
	worker_put_expunge(&sender->r->out, &expunge);
	if (++sender->count == WORKER_EXPUNGES_A_MESSAGE) {
		worker_tell(sender->worker, &sender->r->out, -1);
		sender->count = 0;
	}
	return 0;
}

void replicator_send_tombstones(struct replicator *r, struct worker *worker, const char *user,
				struct worker_reader *reader)
{
	struct sender sender = {.r = r, .worker = worker};
	struct error err = {0};
	struct guid guid;
	int rc;

	worker_get_guid(reader, &guid);
	if (worker_get_end(reader) < 0)
		return;
	rc = peer_journal_each_tombstone(r->journal, user, &guid, send_tombstone, &sender, &err);
	if (rc < 0)
		log_error("%s", err.text);
	if (sender.count)
		worker_tell(worker, &r->out, -1);
	begin_message(r, false, rc < 0);
	worker_tell(worker, &r->out, -1);
}
