/*
 * The replicator's incoming sessions: a peer's connection goes to a worker of the user's uid.
 *
 * At most replication_max_conns run at a time; others wait some seconds for their turn. Between two
 * sessions the worker keeps the connection of a dsyncfs peer; such idle ones are bounded, too, and
 * the oldest gives way.
 */
#include "sync/replicator_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "store/base/file.h"

#define WAIT_SECS     10  /* for a worker, or the user's slot */
#define CATCH_UP_SECS 4	  /* for what the mount saw; the peer waits longer */
#define SESSIONS_MAX  512 /* waiting and running */

static void free_session(struct session *session)
{
	struct replicator *r = session->task.replicator;

	if (session->timer)
		event_free(session->timer);
	file_close(&session->fd);
	buf_free(&session->unread);
	free(session->name);
	DL_DELETE(r->sessions, session);
	free(session);
}

void replicator_sessions_free(struct replicator *r)
{
	while (r->sessions) {
		worker_kill(&r->sessions->task.worker);
		free_session(r->sessions);
	}
	r->sessions_running = 0;
}

static void answer_and_close(int fd, const struct doveadm_server *server, const char *code,
			     const char *text)
{
	AUTO_BUF struct buf reply = BUF_INIT(4096);

	doveadm_reply_fail(server, code, text, &reply);
	/* Some bytes into an empty socket: if they do not fit, the peer does not read. */
	(void)!send(fd, reply.data, reply.len, MSG_NOSIGNAL | MSG_DONTWAIT);
	close(fd);
}

static void refuse(struct session *session, const char *code, const char *text)
{
	char address[TCP_ADDRESS_SIZE];

	log_warning("session refused: %s user=%s peer=%s", text, session->name,
		    tcp_address_text(&session->address, address));
	answer_and_close(session->fd, &session->server, code, text);
	session->fd = -1;
	free_session(session);
}

/* ---- the user's slot ---- */

static void mark_running(struct session *session, struct queue_user *user)
{
	session->user = user;
	session->running = true;
	session->start_ms = tcp_now_ms();
	session->peer = (struct sync_peer){0};
	user->sessions_in++;
	session->task.replicator->sessions_running++;
}

static void mark_ended(struct session *session)
{
	struct replicator *r = session->task.replicator;
	struct queue_user *user = session->user;

	if (!session->running)
		return;
	if (session->holds_slot)
		user->slot = QUEUE_SLOT_FREE;
	session->holds_slot = session->begin_waits = session->running = false;
	session->start_ms = tcp_now_ms();
	event_del(session->timer);
	user->sessions_in--;
	r->sessions_running--;
	queue_user_update(&r->queue, user);
	replicator_look_at_waits(r, user);
	replicator_dirty(r);
	replicator_kick(r);
}

static void answer_begin(struct session *session, bool busy)
{
	struct replicator *r = session->task.replicator;

	session->begin_waits = false;
	if (!busy) {
		session->user->slot = QUEUE_SLOT_IN;
		session->holds_slot = true;
		queue_user_update(&r->queue, session->user);
	}
	replicator_send_states(r, session->task.worker, session->user, session->peer.id,
			       session->wait_seq, busy);
}

/* Whose states are used, and who is known to have what was sent: a peer, never somebody at its
 * address who runs doveadm or dsync on another store. */
static void name_client(struct session *session)
{
	struct sync_peer *peer = &session->peer;

	if (peer->is_dsyncfs)
		return;
	if (session->replicator && session->source >= 0 &&
	    !session->task.replicator->peers[session->source].is_dsyncfs)
		replicator_peer_id(session->task.replicator, (unsigned)session->source, peer);
	else
		snprintf(peer->id, sizeof peer->id, REPLICATOR_CLIENT "%.110s", peer->hostname);
}

/* A store that fails is not waited for: what can be synced is. */
static bool is_caught_up(const struct session *session)
{
	return session->user->store_failures > 0 ||
	       !queue_events_pend_until(session->user, session->wait_seq);
}

/* False: it goes on waiting. */
static bool try_begin(struct session *session)
{
	bool free_now = session->user->slot == QUEUE_SLOT_FREE;

	if (free_now ? !is_caught_up(session) : !session->peer.is_dsyncfs)
		return false;
	answer_begin(session, !free_now);
	return true;
}

static void on_begin(struct session *session, struct worker_reader *reader)
{
	struct timeval wait = {.tv_sec = WAIT_SECS};

	if (worker_get_peer(reader, &session->peer) < 0)
		return;
	name_client(session);
	(void)replicator_read_journal(session->task.replicator);
	session->wait_seq = queue_events_pending(session->user);
	session->begin_waits = true;
	if (try_begin(session))
		return;
	if (session->user->slot == QUEUE_SLOT_FREE)
		wait.tv_sec = CATCH_UP_SECS;
	event_add(session->timer, &wait);
}

/* ---- waiting for a worker ---- */

static unsigned limit(const struct replicator *r)
{
	return r->set->replication_max_conns;
}

/* Idle connections beyond the limit: the oldest ends. Its worker says so by ending. */
static void make_room(struct replicator *r)
{
	struct session *session, *oldest = NULL;
	unsigned idle = 0;

	DL_FOREACH (r->sessions, session) {
		if (!session->task.worker || session->running)
			continue;
		idle++;
		if (!oldest || session->start_ms < oldest->start_ms)
			oldest = session;
	}
	if (idle < limit(r) || !oldest)
		return;
	worker_put_begin(&r->out, WORKER_QUIT);
	worker_tell(oldest->task.worker, &r->out, -1);
}

static void start_session(struct session *session)
{
	struct replicator *r = session->task.replicator;
	struct queue_user *user = session->user;
	struct worker_key key = {
		.kind = WORKER_INCOMING,
		.uid = user->uid,
		.gid = user->gid,
		.token = session->source >= 0 ? r->peers[session->source].token : 0,
	};
	struct worker_session message = {
		.user = user->name,
		.client_minor = session->server.client_minor,
		.log_passthrough = session->server.log_passthrough,
		.debug = session->debug,
		.unread = buf_str(&session->unread),
		.unread_len = session->unread.len,
	};
	struct error err = {0};

	make_room(r);
	if (replicator_take_worker(r, &key, user->name, &session->task, &session->task.worker,
				   &err) < 0) {
		log_error("%s", err.text);
		refuse(session, "TEMPFAIL", "no worker could be started");
		return;
	}
	worker_put_session(&r->out, &message);
	worker_tell(session->task.worker, &r->out, session->fd);
	worker_expect_within(session->task.worker, REPLICATOR_HANG_MS);
	file_close(&session->fd);
	buf_free(&session->unread);
	event_del(session->timer);
	mark_running(session, user);
}

void replicator_sessions_wake(struct replicator *r)
{
	struct session *session, *next;

	DL_FOREACH_SAFE(r->sessions, session, next)
	{
		if (session->begin_waits) {
			if (try_begin(session))
				event_del(session->timer);
		} else if (!session->task.worker && session->user &&
			   r->sessions_running < limit(r) && !r->draining && !r->away) {
			start_session(session);
		}
	}
}

void replicator_sessions_found(struct replicator *r, const char *name, struct queue_user *user,
			       int code, const char *text)
{
	struct session *session, *next;

	DL_FOREACH_SAFE(r->sessions, session, next)
	{
		if (!session->finding || (name && strcmp(session->name, name) != 0))
			continue;
		session->finding = false;
		session->user = user;
		if (!user)
			refuse(session,
			       code == -ENOENT || code == -EINVAL || code == -EPERM ? "NOUSER"
										    : "TEMPFAIL",
			       text);
	}
	replicator_sessions_wake(r);
}

static void on_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct session *session = ctx;

	if (session->begin_waits)
		answer_begin(session, session->user->slot != QUEUE_SLOT_FREE);
	else if (!session->task.worker)
		refuse(session, "TEMPFAIL", "too many sessions, or the mail store does not answer");
}

void replicator_serve(struct replicator *r, int fd, const struct sockaddr_storage *address,
		      const struct doveadm_server *server, const struct doveadm_command *command,
		      const void *unread, size_t unread_len)
{
	struct timeval wait = {.tv_sec = WAIT_SECS};
	struct session *session, *other;
	struct queue_user *user;
	unsigned count = 0;

	if (r->away) {
		answer_and_close(fd, server, "TEMPFAIL", REPLICATOR_AWAY);
		return;
	}
	DL_COUNT(r->sessions, other, count);
	session = count < SESSIONS_MAX && !r->draining ? calloc(1, sizeof *session) : NULL;
	if (session) {
		session->name = strdup(command->user);
		session->timer = evtimer_new(r->base, on_timer, session);
	}
	if (!session || !session->name || !session->timer) {
		if (session) {
			if (session->timer)
				event_free(session->timer);
			free(session->name);
			free(session);
		}
		answer_and_close(fd, server, "TEMPFAIL", "too many sessions");
		return;
	}
	session->task = (struct task){.kind = TASK_SESSION, .replicator = r};
	session->fd = fd;
	session->address = *address;
	session->server = *server;
	session->debug = command->debug;
	session->replicator = command->replicator;
	session->unread = (struct buf)BUF_INIT(DOVEADM_LINE_MAX * 2);
	session->source = replicator_peer_by_host(r, address);
	session->start_ms = tcp_now_ms();
	DL_APPEND(r->sessions, session);
	if (buf_append(&session->unread, unread, unread_len) < 0) {
		refuse(session, "TEMPFAIL", "too much was sent before the answer");
		return;
	}
	event_add(session->timer, &wait);
	user = queue_user_find(&r->queue, command->user);
	if (user && user->uid_known) {
		session->user = user;
		replicator_sessions_wake(r);
		return;
	}
	session->finding = true;
	replicator_find_user(r, command->user, true);
}

/* ---- a session's messages ---- */

/* The worker of a kept connection serves this user as a new one would. */
static bool is_served_here(const struct session *session, const struct queue_user *user)
{
	const struct worker *worker = session->task.worker;
	const struct worker_key *key = worker_key(worker);

	return user && user->uid_known && user->uid == key->uid && user->gid == key->gid &&
	       !worker_is_outdated(worker);
}

/* A connection that a worker keeps asks for another session. Who is refused comes anew. */
static void on_command(struct session *session, const char *name)
{
	struct replicator *r = session->task.replicator;
	struct queue_user *user = queue_user_find(&r->queue, name);
	char *copy = strdup(name);
	bool allowed;

	replicator_note_mounted(r);
	allowed = copy && is_served_here(session, user) && !r->draining && !r->away &&
		  r->sessions_running < limit(r);
	worker_put_begin(&r->out, WORKER_COMMAND_ANSWER);
	worker_put_u8(&r->out, allowed);
	worker_put_str(&r->out, allowed ? "" : DOVEADM_CODE_REFERRAL);
	worker_tell(session->task.worker, &r->out, -1);
	worker_expect_within(session->task.worker, REPLICATOR_HANG_MS);
	if (!allowed) {
		free(copy);
		return;
	}
	free(session->name);
	session->name = copy;
	mark_running(session, user);
}

/* What the peer brought counts as its own (an echo to it) when it is who its address said. If not,
 * the one whose token the changes carry has to be told of them after all. */
static void check_source(struct session *session, const struct worker_done *done)
{
	struct replicator *r = session->task.replicator;
	struct queue_user *user = session->user;

	if (session->source < 0 || (done->applied == 0 && done->received == 0))
		return;
	if (strcmp(r->peers[session->source].id, session->peer.id) == 0)
		return;
	queue_want(user, (unsigned)session->source, SYNC_PRIORITY_HIGH, false, true,
		   replicator_clock().now);
}

/* The peer called us, and nothing of ours is left that it does not have. */
static void check_owed(struct session *session, const struct worker_done *done)
{
	struct replicator *r = session->task.replicator;
	struct queue_user *user = session->user;
	int peer = replicator_peer_by_id(r, session->peer.id);
	struct queue_entry *entry;
	struct queue_clock clock = replicator_clock();

	if (peer < 0 || done->outcome != SYNC_DONE)
		return;
	entry = &user->entries[peer];
	entry->standing.last_try = entry->standing.last_success = clock.now;
	entry->poll = false;
	entry->unsaved = true;
	if (queue_entry_owes(entry) && entry->box_count == 0 && !entry->standing.want_tree &&
	    !entry->standing.want_full)
		queue_sync_done(user, (unsigned)peer, SYNC_BOXES, &clock);
}

static void on_done(struct session *session, const struct worker_done *done)
{
	struct replicator *r = session->task.replicator;
	char address[TCP_ADDRESS_SIZE];

	tcp_address_text(&session->address, address);
	if (done->failure == WORKER_FAILURE_STALE)
		session->user->uid_known = false;
	if (done->outcome == SYNC_FAILED) {
		worker_retire(session->task.worker);
		log_warning("session of a peer failed: %s user=%s peer=%s", done->reason,
			    session->name, address);
	} else if (done->outcome != SYNC_BUSY)
		log_info("served user=%s peer=%s mailboxes=%u sent=%u received=%u ms=%lld",
			 session->name, address, done->mailboxes, done->sent, done->received,
			 (long long)(tcp_now_ms() - session->start_ms));
	check_source(session, done);
	check_owed(session, done);
	queue_echoes_settle(&r->queue, session->user, true, tcp_now_ms());
	mark_ended(session);
	if (!done->kept) {
		worker_release(&session->task.worker);
		free_session(session);
	} else {
		worker_expect_within(session->task.worker, 0);
	}
	replicator_sessions_wake(r);
	replicator_drained(r);
}

void replicator_session_message(struct task *task, struct worker_reader *reader)
{
	struct session *session = (struct session *)task;
	struct replicator *r = task->replicator;
	struct worker_done done;
	const char *name;

	if (session->running)
		worker_expect_within(task->worker, REPLICATOR_HANG_MS);
	switch (reader->type) {
	case WORKER_BEGIN:
		if (!session->running || session->holds_slot || session->begin_waits)
			break;
		on_begin(session, reader);
		if (worker_get_end(reader) < 0)
			break;
		return;
	case WORKER_SAVE:
		if (!session->holds_slot)
			break;
		replicator_save_state(r, session->user, session->peer.id, reader);
		return;
	case WORKER_REACHED:
		if (!session->holds_slot)
			break;
		replicator_note_reached(r, task->worker, session->user, session->peer.id, reader);
		return;
	case WORKER_PLACED:
		if (!session->holds_slot)
			break;
		replicator_note_place(r, session->user, reader);
		return;
	case WORKER_FORGET:
		if (!session->holds_slot)
			break;
		replicator_forget_state(r, session->user, session->peer.id, reader);
		return;
	case WORKER_WANT_TOMBSTONES:
		if (!session->holds_slot)
			break;
		replicator_send_tombstones(r, task->worker, session->user->name, reader);
		return;
	case WORKER_WANT_REMOVALS:
		if (!session->holds_slot)
			break;
		replicator_send_removals(r, task->worker, session->user, reader);
		return;
	case WORKER_WANT_TREE_TOLD:
		if (!session->holds_slot)
			break;
		replicator_send_tree_told(r, task->worker, session->user, reader);
		return;
	case WORKER_WANT_SETTLED:
		if (!session->holds_slot || worker_get_end(reader) < 0)
			break;
		replicator_send_settled(r, task->worker);
		return;
	case WORKER_PROGRESS:
		return;
	case WORKER_DONE:
		if (!session->running || worker_get_done(reader, &done) < 0)
			break;
		on_done(session, &done);
		return;
	case WORKER_COMMAND:
		name = worker_get_str(reader, WORKER_NAME_MAX);
		if (session->running || worker_get_end(reader) < 0)
			break;
		on_command(session, name);
		return;
	case WORKER_CLOSED:
		if (session->running)
			break;
		worker_release(&task->worker);
		free_session(session);
		return;
	default:
		break;
	}
	worker_kill(&task->worker);
	replicator_session_gone(task, "the worker broke its protocol");
}

void replicator_session_gone(struct task *task, const char *why)
{
	struct session *session = (struct session *)task;
	struct replicator *r = task->replicator;

	if (session->running) {
		log_error("%s user=%s", why, session->name);
		queue_echoes_settle(&r->queue, session->user, false, tcp_now_ms());
		mark_ended(session);
	}
	free_session(session);
	replicator_sessions_wake(r);
	replicator_drained(r);
}
