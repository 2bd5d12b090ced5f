/*
 * The worker's sessions with a peer: as master for a job, as slave for a peer that called.
 *
 * What the engine asks (struct sync_host) is passed on to dsyncd, which alone knows the states and
 * who may sync this user now.
 */
#include "sync/worker_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sysexits.h>

#include "store/base/file.h"
#include "store/base/log.h"
#include "sync/peer_connect.h"
#include "sync/tcp.h"

#define PROGRESS_EVERY_MS 10000
#define STATES_MAX	  1000000
#define EVENTS_MAX	  1000000
#define REPLY_MS	  15000 /* for the answer to a command: the peer may wait for a worker */
#define REUSED_REPLY_MS	  3000
#define COMMAND_SECS	  5 /* for the rest of a command line that began */

/* ---- what the engine asks ---- */

static int append_state(struct sync_state *state, size_t *size,
			const struct sync_mailbox_state *box)
{
	if (state->count == *size) {
		size_t grown_size = *size ? *size * 2 : 16;
		struct sync_mailbox_state *grown;

		if (grown_size > STATES_MAX)
			return -EMSGSIZE;
		grown = realloc(state->boxes, grown_size * sizeof *grown);
		if (!grown)
			return -ENOMEM;
		state->boxes = grown;
		*size = grown_size;
	}
	state->boxes[state->count++] = *box;
	return 0;
}

static int host_begin(void *ctx, const struct sync_peer *peer, enum sync_begin *answer_r,
		      struct sync_state *state_r, struct error *err)
{
	struct worker_process *w = ctx;
	struct worker_reader reader;
	size_t size = 0;

	*state_r = (struct sync_state){0};
	worker_clear_unsettled(w);
	if (w->awaited)
		stream_set_deadline(w->awaited, 0);
	worker_put_peer(&w->out, peer);
	worker_reply(w);
	for (;;) {
		worker_next(w, &reader);
		if (reader.type == WORKER_BEGUN)
			break;
		if (reader.type == WORKER_UNSETTLED) {
			worker_add_unsettled(w, &reader);
			continue;
		}
		if (reader.type != WORKER_STATES)
			worker_broken("a message out of order");
		while (reader.left) {
			struct sync_mailbox_state state;
			int rc;

			if (worker_get_state(&reader, &state) < 0)
				worker_broken("a malformed state");
			rc = append_state(state_r, &size, &state);
			if (rc < 0)
				return error_errno(err, rc, "user %s: states of the peer",
						   w->user->name);
		}
	}
	*answer_r = worker_get_u8(&reader) ? SYNC_BEGIN_BUSY : SYNC_BEGIN_OK;
	if (worker_get_end(&reader) < 0)
		worker_broken("a malformed message");
	return 0;
}

static void host_save(void *ctx, const struct sync_peer *peer,
		      const struct sync_mailbox_state *state)
{
	struct worker_process *w = ctx;

	worker_put_begin(&w->out, WORKER_SAVE);
	worker_put_state(&w->out, state);
	worker_reply(w);
}

static void host_reached(void *ctx, const struct sync_peer *peer,
			 const struct sync_mailbox_state *state)
{
	struct worker_process *w = ctx;
	struct worker_reader reader;

	worker_put_begin(&w->out, WORKER_REACHED);
	worker_put_state(&w->out, state);
	worker_reply(w);
	worker_expect(w, WORKER_NOTED, &reader);
	if (worker_get_end(&reader) < 0)
		worker_broken("a malformed message");
}

static void host_forget(void *ctx, const struct sync_peer *peer, const struct guid *guid, bool gone)
{
	struct worker_process *w = ctx;

	worker_put_begin(&w->out, WORKER_FORGET);
	worker_put_guid(&w->out, guid);
	worker_put_u8(&w->out, gone);
	worker_reply(w);
}

static int host_settle(void *ctx, struct error *err)
{
	struct worker_process *w = ctx;
	struct worker_reader reader;
	bool settled;

	worker_put_begin(&w->out, WORKER_WANT_SETTLED);
	worker_reply(w);
	worker_next(w, &reader);
	settled = worker_get_u8(&reader) != 0;
	if (reader.type != WORKER_SETTLED || worker_get_end(&reader) < 0)
		worker_broken("a message out of order");
	return settled ? 0
		       : error_set(err, -EIO, "user %s: the journal cannot be written now",
				   w->user->name);
}

static void host_mailbox_done(void *ctx, const char *mailbox, unsigned sent, unsigned received)
{
	struct worker_process *w = ctx;

	worker_put_begin(&w->out, WORKER_PROGRESS);
	worker_put_str(&w->out, strlen(mailbox) <= WORKER_NAME_MAX ? mailbox : "");
	worker_put_u32(&w->out, sent);
	worker_put_u32(&w->out, received);
	worker_reply(w);
}

/* A large mailbox takes longer than dsyncd waits for a word. */
static void host_progress(void *ctx, const struct sync_progress *progress)
{
	struct worker_process *w = ctx;
	int64_t now_ms = tcp_now_ms();

	if (now_ms < w->progress_ms + PROGRESS_EVERY_MS)
		return;
	w->progress_ms = now_ms;
	worker_put_begin(&w->out, WORKER_PROGRESS);
	worker_put_str(&w->out, "");
	worker_put_u32(&w->out, progress->mails);
	worker_put_u32(&w->out, 0);
	worker_reply(w);
}

static void host_mailbox_placed(void *ctx, const char *mailbox, const struct guid *guid, bool moved)
{
	struct worker_process *w = ctx;
	AUTO_FREE char *dir = worker_dir_of(w, mailbox);

	if (dir && strlen(dir) <= WORKER_NAME_MAX)
		worker_report_place(w, dir, guid, moved);
}

static struct sync_host host_of(struct worker_process *w)
{
	return (struct sync_host){
		.ctx = w,
		.begin = host_begin,
		.may_sync = worker_host_may_sync,
		.explain_missing = worker_host_explain_missing,
		.was_removed = worker_host_was_removed,
		.tree_is_told = worker_host_tree_is_told,
		.save = host_save,
		.reached = host_reached,
		.forget = host_forget,
		.settle = host_settle,
		.expunged = worker_host_expunged,
		.mailbox_placed = host_mailbox_placed,
		.mailbox_done = host_mailbox_done,
		.progress = host_progress,
	};
}

static void report_done(struct worker_process *w, const struct worker_done *done)
{
	worker_put_done(&w->out, done);
	worker_reply(w);
}

static void report_failure(struct worker_process *w, enum worker_failure failure,
			   const struct error *err)
{
	struct worker_done done = {
		.outcome = SYNC_FAILED,
		.failure = failure,
		.peer_id = "",
		.reason = err->text,
	};

	report_done(w, &done);
}

static void report_result(struct worker_process *w, int rc, const struct sync_result *result,
			  bool kept, const struct error *err)
{
	struct worker_done done = {
		.outcome = rc < 0 ? SYNC_FAILED : result->outcome,
		.failure = WORKER_FAILURE_NONE,
		.kept = kept,
		.mailboxes = result->mailboxes,
		.sent = result->mails_sent,
		.received = result->mails_received,
		.applied = result->changes_applied,
		.peer_id = result->peer.id,
		.reason = result->reason,
	};

	if (done.outcome == SYNC_FAILED) {
		done.failure = WORKER_FAILURE_SESSION;
		if (rc < 0 && err->text[0] != '\0')
			done.reason = err->text;
	}
	report_done(w, &done);
}

static bool stream_is_reusable(int rc, const struct sync_result *result)
{
	return rc == 0 && result->peer.is_dsyncfs && result->outcome != SYNC_FAILED;
}

/* ---- outgoing ---- */

static int open_connection(struct worker_process *w, const char *address,
			   enum worker_failure *failure_r, struct error *err)
{
	char text[TCP_ADDRESS_SIZE];
	int rc = worker_connect_peer(w, address, &w->peer_stream, text, failure_r, err);

	if (rc < 0)
		return rc;
	stream_set_timeout(w->peer_stream, WORKER_STREAM_SECS);
	free(w->peer_address);
	w->peer_address = strdup(address);
	if (!w->peer_address) {
		stream_free(&w->peer_stream);
		return error_errno(err, -ENOMEM, "connection to %s", address);
	}
	worker_put_begin(&w->out, WORKER_CONNECTED);
	worker_put_str(&w->out, text);
	worker_reply(w);
	return 0;
}

/* A connection on which the peer waits for this user's session: the kept one, or a new one where
 * that turns out to be closed, or is for another uid's users. */
static int get_connection(struct worker_process *w, const char *address, const char *user,
			  enum worker_failure *failure_r, struct error *err)
{
	char code[32];
	int rc;

	if (w->peer_stream && strcmp(w->peer_address, address) != 0)
		stream_free(&w->peer_stream);
	if (w->peer_stream) {
		/* The worker at its other end is idle, so it answers at once or not at all. */
		rc = peer_ask_session(w->peer_stream, user, REUSED_REPLY_MS, code, sizeof code,
				      err);
		if (rc == 0)
			return 0;
		stream_free(&w->peer_stream);
		if (rc == -EREMOTEIO && strcmp(code, DOVEADM_CODE_REFERRAL) != 0) {
			*failure_r = WORKER_FAILURE_USER;
			return rc;
		}
	}
	rc = open_connection(w, address, failure_r, err);
	if (rc < 0)
		return rc;
	rc = peer_ask_session(w->peer_stream, user, REPLY_MS, code, sizeof code, err);
	if (rc < 0) {
		/* The peer is there, it took the password: what is wrong is this user's. */
		*failure_r = rc == -EREMOTEIO ? WORKER_FAILURE_USER : WORKER_FAILURE_SESSION;
		stream_free(&w->peer_stream);
	}
	return rc;
}

static struct sync_options master_options(struct worker_process *w, const struct worker_go *go)
{
	return (struct sync_options){
		.role = SYNC_MASTER,
		.type = go->type,
		.boxes = go->boxes,
		.box_count = go->box_count,
		.node_id = w->node_id,
		.hostname = w->hostname,
		.alt_char = '_',
		.cache = &w->boxes,
	};
}

static void sync_with_port(struct worker_process *w, const char *address,
			   const struct worker_go *go)
{
	struct sync_host host = host_of(w);
	struct sync_options options = master_options(w, go);
	struct sync_result result = {0};
	struct error err = {0};
	enum worker_failure failure;
	bool reusable;
	int rc = get_connection(w, address, w->user->name, &failure, &err);

	if (rc < 0) {
		report_failure(w, failure, &err);
		return;
	}
	rc = sync_run(w->peer_stream, w->user, &options, &host, &result, &err);
	reusable = stream_is_reusable(rc, &result);
	if (!reusable)
		stream_free(&w->peer_stream);
	report_result(w, rc, &result, reusable, &err);
}

static void sync_with_command(struct worker_process *w, const struct settings_peer *peer,
			      const struct worker_go *go)
{
	struct sync_host host = host_of(w);
	struct sync_options options = master_options(w, go);
	struct worker_command command;
	struct sync_result result = {0};
	enum worker_failure failure;
	struct error err = {0};
	int rc = worker_command_start(w, peer, &command, &err);

	if (rc < 0) {
		report_failure(w, WORKER_FAILURE_CONNECT, &err);
		return;
	}
	memset(&options.node_id, 0, sizeof options.node_id);
	w->awaited = command.end.stream;
	rc = sync_run(command.end.stream, w->user, &options, &host, &result, &err);
	w->awaited = NULL;
	failure = worker_command_end(&command, rc < 0 ? &err : NULL);
	if (rc < 0 && failure != WORKER_FAILURE_SESSION)
		report_failure(w, failure, &err);
	else
		report_result(w, rc, &result, false, &err);
}

static void sync_with_peer(struct worker_process *w, const char *address,
			   const struct worker_go *go)
{
	const struct settings_peer *peer = worker_find_peer(w, address);

	if (peer && (peer->transport == SETTINGS_TRANSPORT_REMOTE ||
		     peer->transport == SETTINGS_TRANSPORT_REMOTEPREFIX))
		sync_with_command(w, peer, go);
	else
		sync_with_port(w, address, go);
}

int worker_append_events(struct worker_reader *reader, struct worker_events *events)
{
	while (reader->left) {
		if (events->count == events->size) {
			size_t size = events->size ? events->size * 2 : 16;
			struct worker_event *list =
				size > EVENTS_MAX ? NULL
						  : realloc(events->list, size * sizeof *list);

			if (!list)
				return -ENOMEM;
			events->list = list;
			events->size = size;
		}
		if (worker_get_event(reader, &events->list[events->count]) < 0)
			return -EPROTO;
		events->count++;
	}
	return 0;
}

/* Reads the job's events into memory of their own. Returns the RUN that ends them. */
static void read_events(struct worker_process *w, struct worker_events *events_r,
			struct buf **texts_r, size_t *text_count_r)
{
	struct worker_reader reader;

	for (;;) {
		struct buf *grown, *text;

		worker_next(w, &reader);
		if (reader.type == WORKER_RUN)
			return;
		if (reader.type != WORKER_EVENTS)
			worker_broken("a message out of order");
		/* The strings point into the message, so it is kept. */
		grown = realloc(*texts_r, (*text_count_r + 1) * sizeof *grown);
		if (!grown)
			worker_broken("out of memory");
		*texts_r = grown;
		text = &grown[(*text_count_r)++];
		*text = w->in;
		w->in = (struct buf)BUF_INIT(WORKER_MESSAGE_MAX);
		if (worker_append_events(&reader, events_r) < 0)
			worker_broken("too many events, or a malformed one");
	}
}

static void run_job(struct worker_process *w, const struct worker_job *job,
		    const struct worker_events *events)
{
	struct worker_caught_up caught_up = {.reason = ""};
	AUTO_BUF struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);
	struct worker_reader reader;
	struct worker_go go;
	struct error err = {0};
	int rc = worker_use_user(w, job->user, &err);

	if (rc < 0) {
		report_failure(w, rc == -ESTALE ? WORKER_FAILURE_STALE : WORKER_FAILURE_STORE,
			       &err);
		return;
	}
	if (events->count || (job->flags & WORKER_JOB_SCAN))
		worker_catch_up(w, events, job->flags & WORKER_JOB_SCAN, &caught_up, &err);
	worker_put_caught_up(&w->out, &caught_up);
	worker_reply(w);
	for (worker_next(w, &reader); reader.type == WORKER_LIST_EXPUNGES; worker_next(w, &reader))
		worker_list_expunges(w, &reader);
	if (reader.type != WORKER_GO)
		worker_broken("a message out of order");
	if (worker_get_go(&reader, &go) < 0)
		worker_broken("a malformed message");
	if (!go.connect) {
		struct worker_done done = {.outcome = SYNC_DONE, .peer_id = "", .reason = ""};

		report_done(w, &done);
		return;
	}
	/* The mailbox names of go point into the message, and others follow. */
	message = w->in;
	w->in = (struct buf)BUF_INIT(WORKER_MESSAGE_MAX);
	/* As an admin asks for who looks for mail. */
	if (go.type == SYNC_FULL)
		worker_look_for_unclaimed(w);
	sync_with_peer(w, job->peer, &go);
}

void worker_run_job(struct worker_process *w, struct worker_reader *reader)
{
	AUTO_BUF struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);
	struct worker_events events = {0};
	struct buf *texts = NULL;
	size_t text_count = 0;
	struct worker_job job;

	if (w->kind != WORKER_OUTGOING || worker_get_job(reader, &job) < 0)
		worker_broken("a malformed job");
	message = w->in;
	w->in = (struct buf)BUF_INIT(WORKER_MESSAGE_MAX);
	read_events(w, &events, &texts, &text_count);
	run_job(w, &job, &events);
	for (size_t i = 0; i < text_count; i++)
		buf_free(&texts[i]);
	free(texts);
	free(events.list);
}

/* ---- incoming ---- */

void worker_drop_client(struct worker_process *w)
{
	stream_free(&w->client_stream);
	worker_put_begin(&w->out, WORKER_CLOSED);
	worker_reply(w);
}

/* The answer to a command goes out as it is, whatever packing the session had. */
static int answer(struct worker_process *w, const struct buf *reply, struct error *err)
{
	int rc = stream_set_output_framing(w->client_stream, false, err);

	if (rc == 0)
		rc = stream_write(w->client_stream, reply->data, reply->len, err);
	if (rc == 0)
		rc = stream_flush(w->client_stream, err);
	return rc;
}

static void refuse(struct worker_process *w, const char *code, const char *text)
{
	AUTO_BUF struct buf reply = BUF_INIT(4096);
	struct error err;

	doveadm_reply_fail(&w->client, code, text, &reply);
	if (answer(w, &reply, &err) < 0)
		log_debug("%s", err.text);
}

/* One session on w->client_stream. Reports DONE, and keeps the stream where it can be used again.
 */
static void serve(struct worker_process *w, const char *user)
{
	struct sync_host host = host_of(w);
	struct sync_options options = {
		.role = SYNC_SLAVE,
		.allow_one_way = true,
		.node_id = w->node_id,
		.hostname = w->hostname,
		.alt_char = '_',
		.cache = &w->boxes,
	};
	AUTO_BUF struct buf reply = BUF_INIT(4096);
	struct sync_result result = {0};
	struct error err = {0};
	bool kept;
	int rc = worker_use_user(w, user, &err);

	if (rc < 0) {
		refuse(w, rc == -ENOENT || rc == -EINVAL ? "NOUSER" : "TEMPFAIL", err.text);
		stream_free(&w->client_stream);
		report_failure(w, rc == -ESTALE ? WORKER_FAILURE_STALE : WORKER_FAILURE_STORE,
			       &err);
		return;
	}
	stream_set_timeout(w->client_stream, WORKER_STREAM_SECS);
	doveadm_reply_ok(&w->client, &reply);
	rc = answer(w, &reply, &err);
	if (rc == 0 && doveadm_server_is_framed(&w->client))
		rc = stream_set_output_framing(w->client_stream, true, &err);
	if (rc == 0)
		rc = sync_run(w->client_stream, w->user, &options, &host, &result, &err);
	kept = stream_is_reusable(rc, &result);
	if (!kept)
		stream_free(&w->client_stream);
	w->client_until_ms = tcp_now_ms() + WORKER_KEEP_INCOMING_MS;
	report_result(w, rc, &result, kept, &err);
}

void worker_run_session(struct worker_process *w, struct worker_reader *reader, int fd)
{
	AUTO_BUF struct buf message = BUF_INIT(WORKER_MESSAGE_MAX);
	struct worker_session session;
	struct error err = {0};
	int rc;

	if (w->kind != WORKER_INCOMING || fd < 0 || worker_get_session(reader, &session) < 0)
		worker_broken("a malformed session");
	message = w->in;
	w->in = (struct buf)BUF_INIT(WORKER_MESSAGE_MAX);
	stream_free(&w->client_stream);
	doveadm_server_init_authenticated(&w->client, session.client_minor,
					  session.log_passthrough);
	rc = stream_new(fd, fd, NULL, &w->client_stream, &err);
	if (rc < 0)
		close(fd);
	if (rc == 0)
		rc = stream_push_input(w->client_stream, session.unread, session.unread_len, &err);
	if (rc < 0) {
		stream_free(&w->client_stream);
		report_failure(w, WORKER_FAILURE_SESSION, &err);
		return;
	}
	serve(w, session.user);
}

/* Asks dsyncd whether this worker may serve the user. */
static bool ask_command(struct worker_process *w, const char *user, char *code, size_t code_size)
{
	struct worker_reader reader;
	bool allowed;

	worker_put_begin(&w->out, WORKER_COMMAND);
	worker_put_str(&w->out, user);
	worker_reply(w);
	worker_expect(w, WORKER_COMMAND_ANSWER, &reader);
	allowed = worker_get_u8(&reader) == 1;
	snprintf(code, code_size, "%s", worker_get_str(&reader, code_size - 1));
	if (worker_get_end(&reader) < 0)
		worker_broken("a malformed message");
	return allowed;
}

/* -EPIPE: the peer has closed. */
static int read_command(struct worker_process *w, struct doveadm_command *command_r,
			struct error *err)
{
	AUTO_BUF struct buf in = BUF_INIT(DOVEADM_LINE_MAX * 2);
	AUTO_BUF struct buf out = BUF_INIT(4096);

	stream_set_timeout(w->client_stream, COMMAND_SECS);
	for (;;) {
		enum doveadm_event event;
		char *line;
		size_t len;
		int rc = stream_read_line(w->client_stream, &line, &len, err);

		if (rc < 0)
			return rc;
		buf_append(&in, line, len);
		buf_append_byte(&in, '\n');
		event = doveadm_server_input(&w->client, "", &in, &out, command_r, err);
		if (event == DOVEADM_COMMAND)
			return 0;
		if (event == DOVEADM_CLOSE) {
			struct error ignored;

			if (out.len)
				(void)answer(w, &out, &ignored);
			return err->code;
		}
	}
}

void worker_next_command(struct worker_process *w)
{
	struct doveadm_command command;
	struct error err = {0};
	char code[32];
	int rc = read_command(w, &command, &err);

	if (rc < 0) {
		if (rc != -EPIPE)
			log_debug("%s", err.text);
		worker_drop_client(w);
		return;
	}
	if (!ask_command(w, command.user, code, sizeof code)) {
		refuse(w, code, "not on this connection");
		worker_drop_client(w);
		return;
	}
	serve(w, command.user);
}
