/* The replicator: its life, commits, and whose turn it is. See replicator.h. */
#include "sync/replicator_private.h"

#include <errno.h>
#include <fnmatch.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <openssl/rand.h>
#include <utlist.h>

#include "sync/backoff.h"

#define COMMIT_MS     100  /* changes of so long go into one commit */
#define POLL_MS	      2000 /* the journal is looked at without being told, too */
#define FULL_CHECK_MS 60000
#define DRAIN_MS      10000

static struct timeval timeval_ms(int64_t ms)
{
	return (struct timeval){.tv_sec = ms / 1000, .tv_usec = (suseconds_t)(ms % 1000) * 1000};
}

struct queue_clock replicator_clock(void)
{
	struct queue_clock clock = {.now_ms = tcp_now_ms(), .now = time(NULL)};

	if (RAND_bytes((unsigned char *)&clock.chance, sizeof clock.chance) != 1)
		clock.chance = (uint32_t)clock.now_ms;
	return clock;
}

/* ---- commits ---- */

/* The peer journal was damaged: what peers have is not known any more. */
static void want_everything(struct replicator *r)
{
	struct queue_user *user, *next;

	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		user->scan_unsaved = true;
		for (unsigned i = 0; i < r->queue.peer_count; i++) {
			queue_want(user, i, SYNC_PRIORITY_LOW, true, true, time(NULL));
			user->entries[i].unsaved = true;
		}
		queue_user_update(&r->queue, user);
	}
	r->consumed_seq = UINT64_MAX; /* written again */
	replicator_kick(r);
}

int replicator_commit(struct replicator *r)
{
	struct queue_user *user, *next;
	struct error err = {0};
	uint64_t consumed = queue_consumed(&r->queue, r->read_seq);
	int rc;

	r->dirty = false;
	DL_FOREACH_SAFE(r->queue.active, user, next)
	replicator_save_user(r, user);
	if (r->consumed_known && consumed != r->consumed_seq) {
		if (peer_journal_set_consumed(r->journal, &r->reader_id, consumed, &err) < 0)
			log_error("%s", err.text);
		else
			r->consumed_seq = consumed;
	}
	rc = peer_journal_commit(r->journal, &err);
	if (rc < 0) {
		struct timeval later = timeval_ms(POLL_MS);

		log_error("%s", err.text);
		if (rc == -EUCLEAN)
			want_everything(r);
		r->dirty = true;
		event_add(r->commit_timer, &later);
	}
	return rc;
}

static void on_commit(evutil_socket_t fd, short what, void *ctx)
{
	replicator_commit(ctx);
}

void replicator_dirty(struct replicator *r)
{
	struct timeval soon = timeval_ms(COMMIT_MS);

	if (r->dirty)
		return;
	r->dirty = true;
	event_add(r->commit_timer, &soon);
}

void replicator_note_mounted(struct replicator *r)
{
	int64_t began = journal_writer_began(r->set->state_dir);

	if (began > 0)
		worker_pool_set_mounted(r->pool, began);
}

int replicator_take_worker(struct replicator *r, const struct worker_key *key, const char *user,
			   void *owner, struct worker **worker_r, struct error *err)
{
	replicator_note_mounted(r);
	return worker_pool_take(r->pool, key, user, owner, worker_r, err);
}

/* ---- whose turn it is ---- */

static void dispatch(struct replicator *r)
{
	for (;;) {
		struct queue_clock clock = replicator_clock();
		bool connections =
			worker_pool_busy(r->pool, WORKER_OUTGOING) < r->set->replication_max_conns;
		struct queue_user *user;
		struct error err = {0};
		int64_t wait_ms;
		int peer;

		/* Mail that was taken in waits for a connection; taking it in needs a worker. */
		if (r->draining || r->away || !connections)
			return;
		user = queue_next(&r->queue, r->up, connections, &clock, &peer, &wait_ms);
		if (!user) {
			struct timeval wait = timeval_ms(wait_ms);

			if (wait_ms >= 0)
				event_add(r->dispatch_timer, &wait);
			return;
		}
		if (!user->uid_known) {
			user->finding = true;
			replicator_find_user(r, user->name, user->make_home);
			continue;
		}
		if (replicator_start_job(r, user, peer, &err) < 0) {
			log_error("%s", err.text);
			queue_store_failed(user, err.text, &clock);
			if (peer >= 0)
				queue_sync_failed(user, (unsigned)peer, err.text, &clock);
		}
	}
}

static void on_dispatch(evutil_socket_t fd, short what, void *ctx)
{
	dispatch(ctx);
}

void replicator_kick(struct replicator *r)
{
	event_active(r->dispatch_timer, EV_TIMEOUT, 0);
}

static void on_poll(evutil_socket_t fd, short what, void *ctx)
{
	struct replicator *r = ctx;

	replicator_check_mount(r);
	if (!r->reader)
		replicator_open_reader(r);
	replicator_read_journal(r);
	if ((r->list_wanted || r->store_unchecked) && !r->listing && !r->away &&
	    tcp_now_ms() >= r->list_not_before_ms)
		replicator_list_users(r);
}

/* Every user gets a full sync once an interval, at a time of its own. */
static void on_full(evutil_socket_t fd, short what, void *ctx)
{
	struct replicator *r = ctx;
	uint32_t interval = r->set->replication_full_sync_interval_secs;
	struct queue_clock clock = replicator_clock();
	struct queue_user *user, *next;

	if (interval == 0 || r->draining)
		return;
	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		for (unsigned i = 0; i < r->queue.peer_count; i++) {
			const struct peer_user *standing = &user->entries[i].standing;
			int64_t due = standing->last_full + interval -
				      backoff_spread(user->name, interval / 4);

			if (standing->last_full == 0 || standing->want_full || clock.now < due)
				continue;
			queue_want(user, i, SYNC_PRIORITY_LOW, true, false, clock.now);
			queue_user_update(&r->queue, user);
			replicator_dirty(r);
		}
	}
	replicator_kick(r);
}

/* ---- workers ---- */

static void on_message(void *owner, struct worker *worker, struct worker_reader *reader)
{
	struct task *task = owner;

	switch (task->kind) {
	case TASK_JOB:
		replicator_job_message(task, reader);
		break;
	case TASK_SESSION:
		replicator_session_message(task, reader);
		break;
	case TASK_FINDER:
		replicator_finder_message(task, reader);
		break;
	case TASK_PROBE:
		replicator_probe_message(task, reader);
		break;
	}
}

static void on_gone(void *owner, struct worker *worker, const char *why)
{
	struct task *task = owner;

	task->worker = NULL;
	switch (task->kind) {
	case TASK_JOB:
		replicator_job_gone(task, why);
		break;
	case TASK_SESSION:
		replicator_session_gone(task, why);
		break;
	case TASK_FINDER:
		replicator_finder_gone(task, why);
		break;
	case TASK_PROBE:
		replicator_probe_gone(task, why);
		break;
	}
}

static void on_child(evutil_socket_t fd, short what, void *ctx)
{
	struct replicator *r = ctx;

	worker_pool_reap(r->pool);
}

/* ---- life ---- */

static int make_events(struct replicator *r)
{
	struct timeval poll = timeval_ms(POLL_MS), full = timeval_ms(FULL_CHECK_MS);

	r->dispatch_timer = evtimer_new(r->base, on_dispatch, r);
	r->commit_timer = evtimer_new(r->base, on_commit, r);
	r->poll_timer = event_new(r->base, -1, EV_PERSIST, on_poll, r);
	r->full_timer = event_new(r->base, -1, EV_PERSIST, on_full, r);
	r->child_event = evsignal_new(r->base, SIGCHLD, on_child, r);
	if (!r->dispatch_timer || !r->commit_timer || !r->poll_timer || !r->full_timer ||
	    !r->child_event)
		return -ENOMEM;
	event_add(r->poll_timer, &poll);
	event_add(r->full_timer, &full);
	event_add(r->child_event, NULL);
	return replicator_init_poll(r);
}

static int start(struct replicator *r, enum log_target target, enum log_level level,
		 struct error *err)
{
	static const struct worker_pool_handlers handlers = {on_message, on_gone};
	int rc = peer_journal_open(r->set->state_dir, &r->journal, err);

	if (rc < 0)
		return rc;
	if (make_events(r) < 0)
		return error_errno(err, -ENOMEM, "dsyncd");
	r->pool = worker_pool_new(r->base, peer_journal_node_id(r->journal), &handlers, target,
				  level);
	if (!r->pool)
		return error_errno(err, -ENOMEM, "dsyncd");
	rc = worker_pool_set_settings(r->pool, r->set, err);
	if (rc == 0)
		rc = replicator_init_peers(r, err);
	if (rc == 0)
		rc = replicator_load_users(r, err);
	if (rc < 0)
		return rc;
	r->store_unchecked = HASH_CNT(hh_name, r->queue.by_name) > 0;
	replicator_check_mount(r);
	event_active(r->poll_timer, EV_TIMEOUT, 0);
	replicator_kick(r);
	return 0;
}

int replicator_new(struct event_base *base, const struct settings *set, enum log_target target,
		   enum log_level level, struct replicator **replicator_r, struct error *err)
{
	struct replicator *r = calloc(1, sizeof *r);
	int rc;

	if (!r)
		return error_errno(err, -ENOMEM, "dsyncd");
	r->base = base;
	r->set = set;
	r->start_ms = tcp_now_ms();
	r->first_pass = true;
	r->out = (struct buf)BUF_INIT(WORKER_MESSAGE_MAX);
	rc = start(r, target, level, err);
	if (rc < 0) {
		replicator_free(&r);
		return rc;
	}
	*replicator_r = r;
	return 0;
}

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

void replicator_free(struct replicator **replicator)
{
	struct replicator *r = *replicator;
	struct job *job, *next;

	if (!r)
		return;
	*replicator = NULL;
	DL_FOREACH_SAFE(r->jobs, job, next)
	{
		worker_kill(&job->task.worker);
		queue_events_put_back(&r->queue, job->user);
		for (unsigned i = 0; job->states && i < r->queue.peer_count; i++)
			state_list_free(&job->states[i]);
		free(job->states);
		free(job);
	}
	replicator_sessions_free(r);
	if (r->pool && r->peers)
		replicator_commit(r);
	replicator_free_peers(r);
	if (r->finder)
		worker_kill(&r->finder->worker);
	free(r->finder);
	worker_pool_free(&r->pool);
	replicator_close_reader(r);
	free_event(r->dispatch_timer);
	free_event(r->commit_timer);
	free_event(r->poll_timer);
	free_event(r->full_timer);
	free_event(r->peer_poll_timer);
	free_event(r->child_event);
	free_event(r->drain_timer);
	queue_free(&r->queue);
	peer_journal_close(&r->journal);
	buf_free(&r->out);
	free(r);
}

static bool same_peers(const struct replicator *r, const struct settings *set)
{
	if (set->peer_count != r->queue.peer_count)
		return false;
	for (size_t i = 0; i < set->peer_count; i++) {
		if (strcmp(r->peers[i].address, set->peers[i].address) != 0)
			return false;
	}
	return true;
}

int replicator_set_settings(struct replicator *r, const struct settings *set, struct error *err)
{
	if (!same_peers(r, set) || strcmp(set->state_dir, r->set->state_dir) != 0)
		return error_set(err, -EBUSY,
				 "mail_replica or state_dir changed: dsyncd has to be restarted");
	if (worker_pool_set_settings(r->pool, set, err) < 0)
		return err->code;
	r->set = set;
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		/* The password may be right now. */
		if (!r->peers[i].up)
			event_active(r->peers[i].timer, EV_TIMEOUT, 0);
	}
	replicator_kick(r);
	return 0;
}

/* ---- drain ---- */

void replicator_drained(struct replicator *r)
{
	if (!r->draining || !r->drain_finished || r->jobs || r->sessions_running)
		return;
	event_active(r->drain_timer, EV_TIMEOUT, 0);
}

static void on_drained(evutil_socket_t fd, short what, void *ctx)
{
	struct replicator *r = ctx;
	void (*finished)(void *ctx) = r->drain_finished;

	if (!finished)
		return;
	if (r->jobs || r->sessions_running)
		log_warning("syncs that are still running are broken off");
	r->drain_finished = NULL;
	finished(r->drain_ctx);
}

void replicator_drain(struct replicator *r, void (*finished)(void *ctx), void *ctx)
{
	struct timeval limit = timeval_ms(DRAIN_MS);

	if (r->draining)
		return;
	r->draining = true;
	replicator_look_at_waits(r, NULL);
	r->drain_finished = finished;
	r->drain_ctx = ctx;
	r->drain_timer = evtimer_new(r->base, on_drained, r);
	if (!r->drain_timer) {
		finished(ctx);
		return;
	}
	event_add(r->drain_timer, &limit);
	replicator_drained(r);
}

/* ---- control ---- */

void replicator_each_peer(const struct replicator *r,
			  bool (*each)(void *ctx, const struct replicator_peer_info *info),
			  void *ctx)
{
	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		const struct replicator_peer *peer = &r->peers[i];
		struct replicator_peer_info info = {
			.address = peer->address,
			.id = peer->met ? peer->id : "",
			.up = peer->up,
			.since = peer->since,
			.reason = peer->reason,
		};
		const struct queue_user *user;

		DL_FOREACH (r->queue.active, user) {
			const struct queue_entry *entry = &user->entries[i];
			int64_t since = entry->standing.queued_since;

			if (!queue_entry_owes(entry) && !user->events && !user->taken)
				continue;
			if (user->taken && (since == 0 || user->taken->event.time < since))
				since = user->taken->event.time;
			else if (user->events && (since == 0 || user->events->event.time < since))
				since = user->events->event.time;
			info.users_queued++;
			if (info.oldest_change == 0 || since < info.oldest_change)
				info.oldest_change = since;
		}
		if (!each(ctx, &info))
			return;
	}
}

void replicator_each_user(const struct replicator *r, const char *mask,
			  bool (*each)(void *ctx, const struct replicator_user_info *info),
			  void *ctx)
{
	struct queue_user *user, *next;
	int64_t now_ms = tcp_now_ms();

	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		if (fnmatch(mask, user->name, 0) != 0)
			continue;
		for (unsigned i = 0; i < r->queue.peer_count && !user->removed; i++) {
			struct replicator_user_info info = {
				.user = user->name,
				.peer = r->peers[i].address,
				.standing = &user->entries[i].standing,
				.store_reason = user->store_failures ? user->store_reason : "",
				.events = user->event_count,
				.running = user->job || user->slot != QUEUE_SLOT_FREE,
				.waits = user->entries[i].not_before_ms > now_ms,
			};

			if (!each(ctx, &info))
				return;
		}
	}
}

void replicator_each_sync(const struct replicator *r,
			  bool (*each)(void *ctx, const struct replicator_sync_info *info),
			  void *ctx)
{
	const struct job *job;
	const struct session *session;
	int64_t now_ms = tcp_now_ms();
	char text[TCP_ADDRESS_SIZE];

	DL_FOREACH (r->jobs, job) {
		struct replicator_sync_info info = {
			.user = job->user->name,
			.peer = job->peer >= 0 ? r->peers[job->peer].address : "",
			.what = job->went ? "syncing" : "catching up",
			.type = !job->went		    ? "-"
				: job->type == SYNC_FULL    ? "full"
				: job->type == SYNC_CHANGED ? "normal"
							    : "incremental",
			.since_ms = now_ms - job->start_ms,
		};

		if (!each(ctx, &info))
			return;
	}
	DL_FOREACH (r->sessions, session) {
		struct replicator_sync_info info = {
			.user = session->name,
			.peer = tcp_address_text(&session->address, text),
			.incoming = true,
			.type = "-",
			.what = session->running       ? "syncing"
				: session->task.worker ? "idle connection"
						       : "waiting for a worker",
			.since_ms = now_ms - session->start_ms,
		};

		if (!each(ctx, &info))
			return;
	}
}

const char *replicator_journal_trouble(const struct replicator *r)
{
	return r->trouble;
}
