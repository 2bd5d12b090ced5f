/*
 * The replicator's outgoing jobs: one user's events into its mailboxes, then what is owed to a
 * peer.
 *
 * The user's slot (one sync per user and node at a time) is taken in the order of the node ids: the
 * node with the smaller id takes its own first, before it connects; the other takes its own last,
 * when the peer has agreed. Whoever finds a slot taken gives way at once, so nobody waits for
 * anybody.
 */
#include "sync/replicator_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#define EVENTS_A_JOB 5000
#define EVENT_ROOM   64 /* bytes of an event in a message, beside its strings */

static void free_job(struct job *job)
{
	struct replicator *r = job->task.replicator;

	for (unsigned i = 0; job->states && i < r->queue.peer_count; i++)
		state_list_free(&job->states[i]);
	free(job->states);
	free(job->reason);
	DL_DELETE(r->jobs, job);
	free(job);
}

static void leave_slot(struct job *job)
{
	if (job->holds_slot)
		job->user->slot = QUEUE_SLOT_FREE;
	job->holds_slot = false;
}

/* The worker is free, or gone; so is the user. */
static void end_job(struct job *job)
{
	struct replicator *r = job->task.replicator;
	struct queue_user *user = job->user;

	leave_slot(job);
	user->job = NULL;
	worker_release(&job->task.worker);
	free_job(job);
	queue_user_update(&r->queue, user);
	replicator_dirty(r);
	replicator_sessions_wake(r);
	replicator_look_at_waits(r, user);
	replicator_poll_peers(r);
	replicator_kick(r);
	replicator_drained(r);
}

/* ---- the first half: what the mount saw ---- */

void replicator_begin_events(struct replicator *r)
{
	worker_put_begin(&r->out, WORKER_EVENTS);
}

void replicator_put_event(struct replicator *r, struct worker *worker,
			  const struct worker_event *event)
{
	size_t len = strlen(event->event.dir) + strlen(event->event.name) +
		     strlen(event->event.name2) + EVENT_ROOM;

	if (len > WORKER_MESSAGE_MAX / 2)
		return; /* no file system has such names */
	if (r->out.len + len > WORKER_MESSAGE_MAX) {
		worker_tell(worker, &r->out, -1);
		replicator_begin_events(r);
	}
	worker_put_event(&r->out, event);
}

static void send_events(struct job *job)
{
	struct replicator *r = job->task.replicator;
	const struct queue_event *event;

	replicator_begin_events(r);
	DL_FOREACH (job->user->taken, event) {
		struct worker_event message = {.event = event->event, .guid = event->guid};
		struct peer_place place = {0};

		if (event->event.kind == MAIL_EVENT_DIR_REMOVED ||
		    event->event.kind == MAIL_EVENT_DIR_RENAMED)
			(void)peer_journal_get_place(r->journal, job->user->name, event->event.dir,
						     &place, NULL);
		/* One that was made and went before any worker had reported it. */
		if (guid_is_empty(&message.guid))
			message.guid = place.guid;
		replicator_put_event(r, job->task.worker, &message);
		/* With a directory goes what it was before it became another mailbox. */
		for (unsigned i = 0;
		     event->event.kind == MAIL_EVENT_DIR_REMOVED && i < place.before_count; i++) {
			message.guid = place.before[i];
			replicator_put_event(r, job->task.worker, &message);
		}
	}
	worker_tell(job->task.worker, &r->out, -1);
	worker_put_begin(&r->out, WORKER_RUN);
	worker_tell(job->task.worker, &r->out, -1);
}

int replicator_start_job(struct replicator *r, struct queue_user *user, int peer, struct error *err)
{
	struct job *job = calloc(1, sizeof *job);
	/* With one peer its token covers what this worker writes itself, too: nobody else needs
	 * to hear of that. With several each has a worker of its own. */
	struct worker_key key = {
		.kind = WORKER_OUTGOING,
		.uid = user->uid,
		.gid = user->gid,
		.token = peer >= 0		    ? r->peers[peer].token
			 : r->queue.peer_count == 1 ? r->peers[0].token
						    : 0,
	};
	struct worker_job message = {.user = user->name, .peer = ""};
	int rc;

	if (!job)
		return error_errno(err, -ENOMEM, "dsyncd");
	job->task = (struct task){.kind = TASK_JOB, .replicator = r};
	job->states = calloc(r->queue.peer_count + 1, sizeof *job->states);
	if (!job->states) {
		free(job);
		return error_errno(err, -ENOMEM, "dsyncd");
	}
	rc = replicator_take_worker(r, &key, user->name, &job->task, &job->task.worker, err);
	if (rc < 0) {
		free(job->states);
		free(job);
		return rc;
	}
	job->user = user;
	job->peer = peer;
	job->start_ms = tcp_now_ms();
	DL_APPEND(r->jobs, job);
	user->job = job;
	/* After a failure in the store the next look is taken when its time has come. */
	if (user->store_not_before_ms <= job->start_ms) {
		queue_events_take(&r->queue, user, EVENTS_A_JOB);
		job->scan = user->want_scan;
	}
	if (peer >= 0)
		message.peer = r->peers[peer].address;
	if (job->scan)
		message.flags |= WORKER_JOB_SCAN;
	worker_put_job(&r->out, &message);
	worker_tell(job->task.worker, &r->out, -1);
	send_events(job);
	worker_expect_within(job->task.worker, REPLICATOR_HANG_MS);
	queue_user_update(&r->queue, user);
	return 0;
}

static void on_box(struct job *job, struct worker_reader *reader)
{
	struct replicator *r = job->task.replicator;
	const char *user = job->user->name;
	struct queue_clock clock = replicator_clock();
	struct worker_box box;

	if (worker_get_box(reader, &box) < 0)
		return;
	queue_events_in_index(job->user, box.dir, &box.guid);
	if (box.dir[0] != '\0')
		replicator_place_is(r, job->user, box.dir, &box.guid, false);
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		const char *id = r->peers[i].id;
		const struct peer_mailbox_state *state = NULL;

		if (box.incomplete)
			replicator_doubt_box(r, user, id, &box.guid);
		else
			state = state_list_find(r, &job->states[i], user, id, &box.guid);
		queue_box_seen(job->user, i, &box, state, clock.now);
	}
	replicator_box_expunges(job, &box);
}

static void on_box_gone(struct job *job, struct worker_reader *reader)
{
	struct replicator *r = job->task.replicator;
	const char *dir = worker_get_str(reader, WORKER_NAME_MAX);
	struct guid guid;
	bool removed;

	worker_get_guid(reader, &guid);
	removed = worker_get_u8(reader) != 0;
	if (worker_get_end(reader) == 0)
		replicator_place_gone(r, job->user, dir, &guid, removed);
}

/* The second half of the job, or nothing. */
static void decide(struct job *job)
{
	struct replicator *r = job->task.replicator;
	struct queue_user *user = job->user;
	struct queue_clock clock = replicator_clock();
	struct worker_go go = {.connect = false, .type = SYNC_CHANGED};

	if (job->peer >= 0 && !r->draining) {
		const struct replicator_peer *peer = &r->peers[job->peer];
		const struct queue_entry *entry = &user->entries[job->peer];
		struct guid id;

		go.connect = r->up[job->peer] && queue_entry_wants(entry) &&
			     entry->not_before_ms <= clock.now_ms && user->slot == QUEUE_SLOT_FREE;
		job->poll = !queue_entry_owes(entry);
		if (go.connect) {
			queue_entry_plan(entry, peer->is_dsyncfs, &go);
			if (!peer->is_dsyncfs || guid_from_hex(peer->id, &id) < 0 ||
			    guid_cmp(peer_journal_node_id(r->journal), &id) < 0) {
				user->slot = QUEUE_SLOT_OUT;
				job->holds_slot = true;
			}
		}
	}
	job->type = go.type;
	job->went = go.connect;
	worker_put_go(&r->out, &go);
	worker_tell(job->task.worker, &r->out, -1);
}

/* The first half is over: everything that it had to tell is there. */
static void finish_first_half(struct job *job)
{
	struct replicator *r = job->task.replicator;
	struct queue_user *user = job->user;
	struct queue_clock clock = replicator_clock();

	job->caught_up = true;
	if (job->tree_changed) {
		for (unsigned i = 0; i < r->queue.peer_count; i++)
			queue_want(user, i, SYNC_PRIORITY_HIGH, false, true, clock.now);
	}
	if (job->failed || job->lists_failed) {
		const char *reason = job->failed ? job->reason : "its tombstones cannot be kept";

		worker_retire(job->task.worker);
		if (user->store_failures == 0)
			log_error("mail cannot be taken in: %s user=%s mailboxes=%u", reason,
				  user->name, job->failed);
		queue_store_failed(user, reason, &clock);
		queue_events_put_back(&r->queue, user);
	} else {
		if (user->taken || job->scan)
			user->store_failures = 0;
		queue_events_done(&r->queue, user);
		if (job->scan) {
			user->want_scan = false;
			user->scan_unsaved = true;
		}
	}
	replicator_dirty(r);
	decide(job);
	replicator_sessions_wake(r);
}

/* Expunges that are not tombstones yet come first. */
static void on_caught_up(struct job *job, struct worker_reader *reader)
{
	struct worker_caught_up result;

	if (worker_get_caught_up(reader, &result) < 0)
		return;
	job->listed = true;
	job->tree_changed = result.tree_changed;
	job->failed = result.failed;
	job->reason = strdup(result.reason);
	if (!job->reason)
		reader->failed = true;
	else if (job->lists == 0)
		finish_first_half(job);
}

static void on_expunges(struct job *job, struct worker_reader *reader)
{
	if (replicator_take_expunges(job, reader) < 0)
		reader->failed = true;
	else if (job->lists == 0 && job->listed)
		finish_first_half(job);
}

/* ---- the second half: the session ---- */

static void on_begin(struct job *job, struct worker_reader *reader)
{
	struct replicator *r = job->task.replicator;
	struct queue_user *user = job->user;
	struct sync_peer peer;
	bool busy;

	if (worker_get_peer(reader, &peer) < 0 || job->peer < 0)
		return;
	replicator_peer_id(r, (unsigned)job->peer, &peer);
	replicator_peer_met(r, (unsigned)job->peer, &peer);
	busy = !job->holds_slot && user->slot != QUEUE_SLOT_FREE;
	if (!busy) {
		user->slot = QUEUE_SLOT_OUT;
		job->holds_slot = true;
	}
	replicator_send_states(r, job->task.worker, user, peer.id, 0, busy);
}

static void on_failure(struct job *job, const struct worker_done *done,
		       const struct queue_clock *clock)
{
	struct replicator *r = job->task.replicator;
	struct queue_user *user = job->user;
	unsigned peer = (unsigned)job->peer;
	const char *address = job->peer >= 0 ? r->peers[peer].address : "-";

	switch (done->failure) {
	case WORKER_FAILURE_STALE:
		/* Asked for anew; with a pause, should the two answers never agree. */
		user->uid_known = false;
		queue_store_failed(user, done->reason, clock);
		if (job->peer >= 0)
			queue_sync_busy(user, peer, clock);
		return;
	case WORKER_FAILURE_STORE:
		if (user->store_failures == 0)
			log_error("%s user=%s", done->reason, user->name);
		queue_store_failed(user, done->reason, clock);
		if (job->peer >= 0 && queue_entry_owes(&user->entries[peer]))
			queue_sync_failed(user, peer, done->reason, clock);
		return;
	case WORKER_FAILURE_CONNECT:
	case WORKER_FAILURE_REFUSED:
		if (job->peer >= 0)
			replicator_peer_down(r, peer, done->failure == WORKER_FAILURE_REFUSED,
					     done->reason);
		return;
	default:
		break;
	}
	if (job->peer < 0)
		return;
	/* Once, and again when it is for another reason. */
	if (strcmp(user->entries[peer].standing.reason, done->reason) != 0)
		log_warning("sync failed: %s user=%s peer=%s", done->reason, user->name, address);
	queue_sync_failed(user, peer, done->reason, clock);
}

static void on_outcome(struct job *job, const struct worker_done *done)
{
	static const char *const types[] = {"full", "changed", "mailboxes"};
	struct replicator *r = job->task.replicator;
	struct queue_user *user = job->user;
	struct queue_clock clock = replicator_clock();
	unsigned peer = (unsigned)job->peer;
	bool moved = done->sent + done->received + done->applied > 0;

	if (done->outcome == SYNC_FAILED) {
		if (done->failure == WORKER_FAILURE_SESSION ||
		    done->failure == WORKER_FAILURE_STORE)
			worker_retire(job->task.worker);
		on_failure(job, done, &clock);
		return;
	}
	if (!job->went)
		return;
	replicator_peer_up(r, peer);
	switch (done->outcome) {
	case SYNC_DONE:
		if (user->entries[peer].standing.failures)
			log_notice("sync works again user=%s peer=%s", user->name,
				   r->peers[peer].address);
		queue_sync_done(user, peer, job->type, &clock);
		break;
	case SYNC_AGAIN:
		queue_sync_again(user, peer, false, done->reason, &clock);
		break;
	case SYNC_NEED_TREE:
		queue_sync_again(user, peer, true, done->reason, &clock);
		break;
	default:
		queue_sync_busy(user, peer, &clock);
		return;
	}
	log_at(job->poll && !moved ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO,
	       "synced user=%s peer=%s type=%s mailboxes=%u sent=%u received=%u ms=%lld%s%s",
	       user->name, r->peers[peer].address, types[job->type], done->mailboxes, done->sent,
	       done->received, (long long)(clock.now_ms - job->start_ms),
	       done->outcome == SYNC_DONE ? "" : " again: ",
	       done->outcome == SYNC_DONE ? "" : done->reason);
}

static void on_done(struct job *job, struct worker_reader *reader)
{
	struct replicator *r = job->task.replicator;
	struct worker_done done;

	if (worker_get_done(reader, &done) < 0)
		return;
	/* What failed before it was caught up has not taken anything in. */
	if (!job->caught_up)
		queue_events_put_back(&r->queue, job->user);
	queue_echoes_settle(&r->queue, job->user, true, tcp_now_ms());
	on_outcome(job, &done);
	end_job(job);
}

void replicator_job_message(struct task *task, struct worker_reader *reader)
{
	struct job *job = (struct job *)task;
	struct replicator *r = task->replicator;
	bool first = !job->caught_up;
	/* The handlers leave the reader unfinished when a message is malformed. */
	bool known = true;

	worker_expect_within(task->worker, REPLICATOR_HANG_MS);
	if (reader->type == WORKER_DONE) {
		struct worker_reader copy = *reader;
		struct worker_done done;

		if (worker_get_done(&copy, &done) == 0) {
			on_done(job, reader);
			return;
		}
		known = false;
	} else if (first && !job->listed && reader->type == WORKER_BOX) {
		on_box(job, reader);
	} else if (first && !job->listed && reader->type == WORKER_BOX_GONE) {
		on_box_gone(job, reader);
	} else if (first && !job->listed && reader->type == WORKER_CAUGHT_UP) {
		on_caught_up(job, reader);
	} else if (first && reader->type == WORKER_EXPUNGES) {
		on_expunges(job, reader);
	} else if (job->holds_slot && reader->type == WORKER_WANT_TOMBSTONES) {
		replicator_send_tombstones(r, job->task.worker, job->user->name, reader);
	} else if (job->holds_slot && reader->type == WORKER_WANT_REMOVALS) {
		replicator_send_removals(r, job->task.worker, job->user, reader);
	} else if (job->holds_slot && reader->type == WORKER_WANT_TREE_TOLD) {
		replicator_send_tree_told(r, job->task.worker, job->user, reader);
	} else if (job->holds_slot && reader->type == WORKER_WANT_SETTLED) {
		if (worker_get_end(reader) == 0)
			replicator_send_settled(r, job->task.worker);
	} else if (job->went && reader->type == WORKER_CONNECTED) {
		replicator_peer_host(r, (unsigned)job->peer,
				     worker_get_str(reader, TCP_ADDRESS_SIZE));
		replicator_peer_up(r, (unsigned)job->peer);
	} else if (job->went && reader->type == WORKER_BEGIN) {
		on_begin(job, reader);
	} else if (job->holds_slot && reader->type == WORKER_SAVE) {
		replicator_save_state(r, job->user, r->peers[job->peer].id, reader);
	} else if (job->holds_slot && reader->type == WORKER_REACHED) {
		replicator_note_reached(r, task->worker, job->user, r->peers[job->peer].id, reader);
	} else if (job->holds_slot && reader->type == WORKER_FORGET) {
		replicator_forget_state(r, job->user, r->peers[job->peer].id, reader);
	} else if ((job->holds_slot || (first && !job->listed)) && reader->type == WORKER_PLACED) {
		replicator_note_place(r, job->user, reader);
	} else if (job->went && reader->type == WORKER_PROGRESS) {
		return;
	} else {
		known = false;
	}
	if (known && worker_get_end(reader) == 0)
		return;
	worker_kill(&task->worker);
	replicator_job_gone(task, "the worker broke its protocol");
}

void replicator_job_gone(struct task *task, const char *why)
{
	struct job *job = (struct job *)task;
	struct replicator *r = task->replicator;
	struct queue_clock clock = replicator_clock();

	log_error("%s user=%s", why, job->user->name);
	queue_events_put_back(&r->queue, job->user);
	queue_echoes_settle(&r->queue, job->user, false, clock.now_ms);
	queue_store_failed(job->user, why, &clock);
	if (job->peer >= 0 && job->went)
		queue_sync_failed(job->user, (unsigned)job->peer, why, &clock);
	end_job(job);
}
