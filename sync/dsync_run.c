/*
 * The dsync command's sessions. See dsync_run.h.
 *
 * There is no daemon and no journal: each end first takes in what programs did to its files, and no
 * state is kept from one run to the next but by who called, with -s. So nothing is skipped on equal
 * numbers, and no absence is taken for an expunge that a log does not show.
 *
 * A backup whose destination is ours is run twice: at first nothing is changed, and what cannot
 * become the source's ends it there.
 */
#include "sync/dsync_run.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/base/buf.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/mail_purge.h"
#include "sync/brain.h"
#include "sync/dsync_connect.h"
#include "sync/dsync_state.h"
#include "sync/dsync_take_in.h"
#include "sync/dsync_tell.h"
#include "sync/dsync_user.h"
#include "sync/raw_log.h"
#include "sync/stream.h"

#define HOSTNAME_SIZE  256
#define STATE_TEXT_MAX ((size_t)64 * 1024 * 1024)

/* ---- what the engine asks ---- */

struct session {
	struct dsync_tell tell;
	struct sync_state *state; /* of -s; NULL: none is kept */
	/* Where the mail of a mailbox that would be created is; NULL: not on this machine. */
	const struct mail_user *other;
	struct dsync_settled settled;
};

static int host_begin(void *ctx, const struct sync_peer *peer, enum sync_begin *answer_r,
		      struct sync_state *state_r, struct error *err)
{
	const struct session *session = ctx;
	int rc = 0;

	*answer_r = SYNC_BEGIN_OK;
	*state_r = (struct sync_state){.boxes = NULL};
	if (session->state)
		rc = dsync_state_copy(session->state, state_r);
	return rc < 0 ? error_errno(err, rc, "saved state") : 0;
}

static void host_save(void *ctx, const struct sync_peer *peer,
		      const struct sync_mailbox_state *state)
{
	const struct session *session = ctx;

	/* Of one that is missing the next run compares more. */
	if (session->state)
		(void)dsync_state_put(session->state, state);
}

static void host_forget(void *ctx, const struct sync_peer *peer, const struct guid *guid, bool gone)
{
	const struct session *session = ctx;

	if (session->state)
		dsync_state_drop(session->state, guid);
}

static void host_mailbox_done(void *ctx, const char *mailbox, unsigned sent, unsigned received)
{
	log_info("%s: %u sent, %u received", mailbox, sent, received);
}

/* Of a mailbox that is not there nothing can be compared: all of it would come. */
static void tell_mail_to_come(const struct session *session, const char *name,
			      const struct guid *guid)
{
	struct sync_planned planned = {0};
	struct mailbox *box = NULL;
	struct error err;

	if (mailbox_open(session->other, name, &box, &err) == 0 &&
	    guid_equal(&mailbox_status(box)->guid, guid))
		planned.new_mails = mailbox_status(box)->messages;
	mailbox_close(&box);
	dsync_tell_plan(&session->tell, name, &planned);
}

static void host_tree_changed(void *ctx, const char *what, const char *mailbox,
			      const char *new_name, const struct guid *guid)
{
	const struct session *session = ctx;

	dsync_tell_tree(&session->tell, what, mailbox, new_name, guid);
	if (session->other && strcmp(what, "create") == 0)
		tell_mail_to_come(session, mailbox, guid);
}

static void host_mailbox_planned(void *ctx, const char *mailbox, const struct sync_planned *planned)
{
	const struct session *session = ctx;

	dsync_tell_plan(&session->tell, mailbox, planned);
}

static void host_mailbox_settled(void *ctx, const char *mailbox,
				 const struct mailbox_status *status)
{
	struct session *session = ctx;

	dsync_settled_add(&session->settled, mailbox, status);
}

static void host_progress(void *ctx, const struct sync_progress *progress)
{
	struct session *session = ctx;

	dsync_tell_progress(&session->tell, progress);
}

/* ---- both roles ---- */

/* Of a LOCATION2 on this machine the end that was started logs. */
static int open_raw_log(const struct dsync_options *options, bool master, struct raw_log **log_r,
			struct error *err)
{
	*log_r = NULL;
	if (!options->raw_log || (!master && options->verb != DSYNC_SERVER))
		return 0;
	return raw_log_open(options->raw_log, log_r, err);
}

static int exit_status(int rc, const struct sync_result *result, bool quiet,
		       const struct error *err)
{
	if (rc < 0) {
		if (!result->said)
			log_error("%s", err->text[0] ? err->text : strerror(-rc));
		return DSYNC_EXIT_FAILED;
	}
	/* In the log already. Another run would not read them either. */
	if (result->incomplete)
		return DSYNC_EXIT_FAILED;
	switch (result->outcome) {
	case SYNC_DONE:
		return DSYNC_EXIT_DONE;
	case SYNC_AGAIN:
	case SYNC_NEED_TREE:
		if (!quiet)
			log_info("to be run again: %s", result->reason);
		return DSYNC_EXIT_AGAIN;
	case SYNC_BUSY:
	case SYNC_FAILED:
		break;
	}
	log_error("%s", result->reason);
	return DSYNC_EXIT_FAILED;
}

/* Mail that arrived during the session is in no list of it. */
static void look_again(const struct dsync_run *run, const struct dsync_settled *settled,
		       struct sync_result *result)
{
	const char *changed = dsync_settled_changed(settled, run->user);

	if (!changed)
		return;
	result->outcome = SYNC_AGAIN;
	snprintf(result->reason, sizeof result->reason, "mailbox %.400s: it was changed meanwhile",
		 changed);
}

/* options: what is not the same for all sessions. quiet: nothing is done, so only failures are
 * said. other: whose mail is at the other end, where that is known. */
static int run_session(const struct dsync_run *run, struct stream *stream,
		       struct sync_options options, bool quiet, const struct mail_user *other,
		       struct sync_result *result_r)
{
	const struct dsync_options *command = run->options;
	bool master = options.role == SYNC_MASTER;
	struct session session = {
		.tell = {.side = run->side,
			 .dry_run = command->dry_run,
			 .json = command->dry_run && command->json,
			 .progress = master && !quiet && !command->dry_run && !command->verbose &&
				     isatty(STDERR_FILENO)},
		.state = master ? run->state : NULL,
		.other = command->dry_run && !mail_filter_is_set(&command->filter) ? other : NULL,
	};
	struct sync_host host = {
		.ctx = &session,
		.begin = host_begin,
		.save = host_save,
		.forget = host_forget,
		/* One side says it, for both. */
		.mailbox_done = master && !quiet ? host_mailbox_done : NULL,
		.tree_changed = quiet && !command->dry_run ? NULL : host_tree_changed,
		.mailbox_planned = command->dry_run ? host_mailbox_planned : NULL,
		.mailbox_settled = options.check_only || quiet ? NULL : host_mailbox_settled,
		.progress = host_progress,
	};
	char hostname[HOSTNAME_SIZE] = "localhost";
	struct sync_result result = {0};
	struct error err = {0};
	struct raw_log *raw_log;
	int rc = open_raw_log(command, master, &raw_log, &err), status;

	stream_set_raw_log(stream, raw_log);
	if (rc == 0)
		rc = dsync_take_in(run->user, &err);
	(void)gethostname(hostname, sizeof hostname - 1);
	options.hostname = hostname;
	options.type = command->full ? SYNC_FULL : SYNC_CHANGED;
	options.alt_char = command->alt_char;
	options.tree_only = command->tree_only;
	options.purge_peer = command->purge && !quiet;
	options.exclude = command->excludes.len > 0 ? buf_str(&command->excludes) : NULL;
	if (rc == 0)
		rc = sync_run(stream, run->user, &options, &host, &result, &err);
	dsync_tell_end(&session.tell);
	stream_set_raw_log(stream, NULL);
	raw_log_close(&raw_log);
	if (rc == 0 && result.outcome == SYNC_DONE)
		look_again(run, &session.settled, &result);
	dsync_settled_free(&session.settled);
	quiet |= result.checked;
	if (rc == 0 && master && !quiet)
		log_info("%s: %u mailboxes, %u mails sent, %u received, %u changes",
			 run->user->name, result.mailboxes, result.mails_sent,
			 result.mails_received, result.changes_applied);
	status = exit_status(rc, &result, quiet, &err);
	*result_r = result;
	return status;
}

/* ---- the other end ---- */

/* Where its mail cannot be purged nothing is lost but room. */
static void purge(const struct mail_user *user)
{
	struct mail_purged purged = {0};
	struct error err = {0};

	if (mail_purge(user, &purged, &err) < 0)
		log_error("purge: %s user=%s", err.text, user->name);
}

static int serve(const struct dsync_run *run, int fd_in, int fd_out, bool check_only,
		 const struct mail_user *other)
{
	struct stream_settings settings = {.timeout_secs = run->options->timeout_secs,
					   .peer_name = "the other end"};
	struct sync_options options = {
		.role = SYNC_SLAVE, .allow_one_way = true, .check_only = check_only};
	struct stream *stream = NULL;
	struct sync_result result = {0};
	struct error err = {0};
	int status;

	guid_generate(&options.node_id);

	if (stream_new(fd_in, fd_out, &settings, &stream, &err) < 0) {
		log_error("%s", err.text);
		return DSYNC_EXIT_FAILED;
	}
	status = run_session(run, stream, options, check_only, other, &result);
	stream_free(&stream);
	if (status != DSYNC_EXIT_FAILED && result.purge)
		purge(run->user);
	return status;
}

int dsync_run_server(const struct dsync_run *run, int fd_in, int fd_out)
{
	return serve(run, fd_in, fd_out, false, NULL);
}

/* What the sessions of a command share. */
struct local_end {
	const struct dsync_run *run;
	const struct mail_user *user; /* LOCATION2's, where that is mail of this machine */
	bool check_only;
	bool done; /* the other end cannot check, and has done it */
};

static int serve_local(void *ctx, int fd)
{
	const struct local_end *end = ctx;
	struct dsync_run run = *end->run;

	run.user = end->user;
	run.state = NULL;
	run.side = end->user->location.root;
	int status = serve(&run, fd, fd, end->check_only, end->run->user);

	/* The process ends without the library's own end. */
	return fflush(stdout) == 0 ? status : DSYNC_EXIT_FAILED;
}

/* ---- the master ---- */

static enum sync_way way_of(const struct dsync_options *options)
{
	if (options->verb != DSYNC_BACKUP && !options->once)
		return SYNC_BOTH_WAYS;
	return options->reverse ? SYNC_FROM_PEER : SYNC_TO_PEER;
}

static int sync_with(const struct dsync_run *run, const struct dsync_location *location,
		     struct local_end *end, const char *box, bool check_only)
{
	struct sync_options options = {
		.role = SYNC_MASTER,
		.way = way_of(run->options),
		.keeps = run->options->once,
		.filter = &run->options->filter,
		.only_box = box,
		.only_guid = run->options->only_guid,
	};
	struct dsync_peer peer;
	struct sync_result result = {0};
	struct error err = {0};
	bool local = location->place == DSYNC_PLACE_LOCAL;
	int status, peer_status;

	options.check_only = check_only && options.way != SYNC_TO_PEER;
	options.check_peer = check_only && options.way == SYNC_TO_PEER && !local;
	end->check_only = check_only && options.way != SYNC_FROM_PEER;
	/* Behind a doveadm port may be a dsyncd, which keeps states for the nodes that it knows: we
	   are none, and come without an id. One way, there is nothing that dsyncfs nodes add. And
	   a state that only one end keeps is told as to a Dovecot. */
	if (location->place != DSYNC_PLACE_TCP && options.way == SYNC_BOTH_WAYS && !run->state)
		guid_generate(&options.node_id);
	if (dsync_connect(location, run->set, run->options->timeout_secs, serve_local, end, &peer,
			  &err) < 0) {
		log_error("%s", err.text);
		return DSYNC_EXIT_FAILED;
	}
	status = run_session(run, peer.stream, options, check_only && !options.check_peer,
			     end->user, &result);
	end->done |= options.check_peer && !result.checked;
	peer_status = dsync_disconnect(&peer);
	if (location->place == DSYNC_PLACE_COMMAND && peer_status != 0)
		log_at(status == DSYNC_EXIT_DONE || peer_status == DSYNC_EXIT_AGAIN
			       ? LOG_LEVEL_INFO
			       : LOG_LEVEL_ERROR,
		       "the command ended with status %d: %s", peer_status, location->text);
	/* It has mail that came during the session, which is no failure. */
	if (status == DSYNC_EXIT_DONE && peer_status == DSYNC_EXIT_AGAIN)
		status = DSYNC_EXIT_AGAIN;
	return status;
}

/* A failure is worth more than "run again". */
static int worse(int a, int b)
{
	if (a == DSYNC_EXIT_FAILED || b == DSYNC_EXIT_FAILED)
		return DSYNC_EXIT_FAILED;
	return a > b ? a : b;
}

/* One session for each -m, or one for all. */
static int sync_all(const struct dsync_run *run, const struct dsync_location *location,
		    struct local_end *end, bool check_only)
{
	const struct dsync_words *boxes = &run->options->boxes;
	int status = DSYNC_EXIT_DONE;

	if (boxes->count == 0)
		return sync_with(run, location, end, NULL, check_only);
	for (size_t i = 0; i < boxes->count; i++)
		status = worse(status, sync_with(run, location, end, boxes->word[i], check_only));
	return status;
}

/* With -1 nothing can be in the way. */
static bool checks_first(const struct dsync_run *run)
{
	return way_of(run->options) != SYNC_BOTH_WAYS && !run->options->once;
}

/* Of what another end would do to itself, only that end knows. */
static int dry_run(const struct dsync_run *run, const struct dsync_location *location,
		   struct local_end *end)
{
	int status;

	if (location->place != DSYNC_PLACE_LOCAL && way_of(run->options) != SYNC_FROM_PEER) {
		log_error("--dry-run: the other end would be changed");
		return DSYNC_EXIT_FAILED;
	}
	status = sync_all(run, location, end, true);
	return status == DSYNC_EXIT_FAILED ? status : DSYNC_EXIT_DONE;
}

/* What -s brought; what it cannot be used for is compared in full. */
static void load_state(const struct dsync_options *options, struct sync_state *state)
{
	struct error err = {0};

	if (dsync_state_parse(options->state, state, &err) < 0)
		log_error("%s, so everything is compared", err.text);
}

static int print_state(const struct sync_state *state)
{
	AUTO_BUF struct buf text = BUF_INIT(STATE_TEXT_MAX);

	if (dsync_state_print(state, &text) < 0 || puts(buf_str(&text)) < 0 || fflush(stdout) != 0)
		return DSYNC_EXIT_FAILED;
	return DSYNC_EXIT_DONE;
}

static int run_master(const struct dsync_run *run, const struct dsync_location *location);

int dsync_run_master(const struct dsync_run *run, const struct dsync_location *location)
{
	struct sync_state state = {.boxes = NULL};
	struct dsync_run with_state = *run;
	int status;

	if (!run->options->state || run->options->dry_run)
		return run_master(run, location);
	/* A backup keeps nothing back: each compares everything. */
	if (way_of(run->options) == SYNC_BOTH_WAYS) {
		load_state(run->options, &state);
		with_state.state = &state;
	}
	status = run_master(&with_state, location);
	if (status != DSYNC_EXIT_FAILED && print_state(&state) == DSYNC_EXIT_FAILED)
		status = DSYNC_EXIT_FAILED;
	sync_state_free(&state);
	return status;
}

static int run_master(const struct dsync_run *asked, const struct dsync_location *location)
{
	enum sync_way copies = asked->options->once ? SYNC_BOTH_WAYS : way_of(asked->options);
	struct mail_user user = *asked->user;
	struct dsync_run own = *asked;
	const struct dsync_run *run = &own;
	struct local_end end = {.run = run};
	struct mail_user *other = NULL;
	struct error err = {0};
	int status = DSYNC_EXIT_DONE;

	/* What a rebuild does not find would be removed from the copy. */
	user.as_it_is = copies == SYNC_TO_PEER;
	own.user = &user;

	if (location->place == DSYNC_PLACE_LOCAL) {
		int rc = dsync_user_at(run->user, location->mail, &other, &err);

		if (rc == 0)
			rc = dsync_user_make_root(other, &err);
		if (rc == 0 && dsync_user_same_root(run->user, other))
			rc = error_set(&err, -EINVAL, "is the user's mail itself");
		if (rc < 0) {
			log_error("LOCATION2 %s: %s", location->text, err.text);
			mail_user_free(&other);
			return DSYNC_EXIT_FAILED;
		}
		other->as_it_is = copies == SYNC_FROM_PEER;
		end.user = other;
	}
	if (run->options->dry_run) {
		status = dry_run(run, location, &end);
		mail_user_free(&other);
		return status;
	}
	if (checks_first(run))
		status = sync_all(run, location, &end, true);
	if (status == DSYNC_EXIT_FAILED && !end.done)
		log_error("nothing was changed");
	else if (!end.done)
		status = sync_all(run, location, &end, false);
	mail_user_free(&other);
	return status;
}
