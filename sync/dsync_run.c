/*
 * The dsync command's sessions. See dsync_run.h.
 *
 * There is no daemon and no journal: each end first takes in what programs did to its files, and no
 * state is kept from one run to the next. So nothing is skipped on equal numbers, and no absence is
 * taken for an expunge that a log does not show.
 *
 * A backup whose destination is ours is run twice: at first nothing is changed, and what cannot
 * become the source's ends it there.
 */
#include "sync/dsync_run.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "store/base/log.h"
#include "sync/brain.h"
#include "sync/dsync_connect.h"
#include "sync/dsync_take_in.h"
#include "sync/dsync_user.h"
#include "sync/stream.h"

#define HOSTNAME_SIZE 256

/* ---- what the engine asks ---- */

static int host_begin(void *ctx, const struct sync_peer *peer, enum sync_begin *answer_r,
		      struct sync_state *state_r, struct error *err)
{
	*answer_r = SYNC_BEGIN_OK;
	*state_r = (struct sync_state){.boxes = NULL};
	return 0;
}

static void host_save(void *ctx, const struct sync_peer *peer,
		      const struct sync_mailbox_state *state)
{
}

static void host_forget(void *ctx, const struct sync_peer *peer, const struct guid *guid)
{
}

/* Whose doing is told. */
struct side {
	const char *name;
	bool dry_run;
};

static void host_mailbox_done(void *ctx, const char *mailbox, unsigned sent, unsigned received)
{
	log_info("%s: %u sent, %u received", mailbox, sent, received);
}

static void host_tree_changed(void *ctx, const char *what, const char *mailbox,
			      const char *new_name, const struct guid *guid)
{
	const struct side *side = ctx;
	const char *to = new_name ? " to " : "";
	char hex[GUID_HEX_SIZE];

	if (!new_name)
		new_name = "";
	if (side->dry_run)
		printf("%s: would %s %s%s%s\n", side->name, what, mailbox, to, new_name);
	else if (guid_is_empty(guid))
		log_info("%s: %s %s", side->name, what, mailbox);
	else
		log_info("%s: %s %s%s%s guid=%s", side->name, what, mailbox, to, new_name,
			 guid_to_hex(guid, hex));
}

static void host_mailbox_planned(void *ctx, const char *mailbox, const struct sync_planned *planned)
{
	const struct side *side = ctx;

	if (planned->made_anew)
		printf("%s: %s would be made anew\n", side->name, mailbox);
	else if (planned->new_mails + planned->expunges + planned->flag_changes +
		 planned->uid_changes)
		printf("%s: %s would get %zu mails, lose %zu, change flags of %zu and UIDs of "
		       "%zu\n",
		       side->name, mailbox, planned->new_mails, planned->expunges,
		       planned->flag_changes, planned->uid_changes);
}

/* ---- both roles ---- */

static int exit_status(int rc, const struct sync_result *result, bool quiet,
		       const struct error *err)
{
	if (rc < 0) {
		log_error("%s", err->text[0] ? err->text : strerror(-rc));
		return DSYNC_EXIT_FAILED;
	}
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

/* options: what is not the same for all sessions. quiet: nothing is done, so only failures are
 * said. */
static int run_session(const struct dsync_run *run, struct stream *stream,
		       struct sync_options options, bool quiet)
{
	const struct dsync_options *command = run->options;
	bool master = options.role == SYNC_MASTER;
	struct side side = {.name = run->side, .dry_run = command->dry_run};
	struct sync_host host = {
		.ctx = &side,
		.begin = host_begin,
		.save = host_save,
		.forget = host_forget,
		/* One side says it, for both. */
		.mailbox_done = master && !quiet ? host_mailbox_done : NULL,
		.tree_changed = quiet && !side.dry_run ? NULL : host_tree_changed,
		.mailbox_planned = side.dry_run ? host_mailbox_planned : NULL,
	};
	char hostname[HOSTNAME_SIZE] = "localhost";
	struct sync_result result = {0};
	struct error err = {0};
	int rc = dsync_take_in(run->user, &err);

	(void)gethostname(hostname, sizeof hostname - 1);
	options.hostname = hostname;
	options.type = command->full ? SYNC_FULL : SYNC_CHANGED;
	options.alt_char = command->alt_char;
	options.exclude = command->excludes.len > 0 ? buf_str(&command->excludes) : NULL;
	if (rc == 0)
		rc = sync_run(stream, run->user, &options, &host, &result, &err);
	if (rc == 0 && master && !quiet)
		log_info("%s: %u mailboxes, %u mails sent, %u received, %u changes",
			 run->user->name, result.mailboxes, result.mails_sent,
			 result.mails_received, result.changes_applied);
	return exit_status(rc, &result, quiet, &err);
}

/* ---- the other end ---- */

static int serve(const struct dsync_run *run, int fd_in, int fd_out, bool check_only)
{
	struct stream_settings settings = {.timeout_secs = run->options->timeout_secs,
					   .peer_name = "the other end"};
	struct sync_options options = {
		.role = SYNC_SLAVE, .allow_one_way = true, .check_only = check_only};
	struct stream *stream = NULL;
	struct error err = {0};
	int status;

	guid_generate(&options.node_id);

	if (stream_new(fd_in, fd_out, &settings, &stream, &err) < 0) {
		log_error("%s", err.text);
		return DSYNC_EXIT_FAILED;
	}
	status = run_session(run, stream, options, check_only);
	stream_free(&stream);
	return status;
}

int dsync_run_server(const struct dsync_run *run, int fd_in, int fd_out)
{
	return serve(run, fd_in, fd_out, false);
}

struct local_end {
	const struct dsync_run *run;
	const struct mail_user *user;
	bool check_only;
};

static int serve_local(void *ctx, int fd)
{
	const struct local_end *end = ctx;
	struct dsync_run run = *end->run;

	run.user = end->user;
	run.side = end->user->location.root;
	int status = serve(&run, fd, fd, end->check_only);

	/* The process ends without the library's own end. */
	return fflush(stdout) == 0 ? status : DSYNC_EXIT_FAILED;
}

/* ---- the master ---- */

static enum sync_way way_of(const struct dsync_options *options)
{
	if (options->verb != DSYNC_BACKUP)
		return SYNC_BOTH_WAYS;
	return options->reverse ? SYNC_FROM_PEER : SYNC_TO_PEER;
}

static int sync_with(const struct dsync_run *run, const struct dsync_location *location,
		     struct local_end *end, const char *box, bool check_only)
{
	struct sync_options options = {
		.role = SYNC_MASTER,
		.way = way_of(run->options),
		.only_box = box,
	};
	struct dsync_peer peer;
	struct error err = {0};
	int status, peer_status;

	options.check_only = check_only && options.way != SYNC_TO_PEER;
	end->check_only = check_only && options.way != SYNC_FROM_PEER;
	/* Behind a doveadm port may be a dsyncd, which keeps states for the nodes that it knows: we
	   are none, and come without an id. One way, there is nothing that dsyncfs nodes add. */
	if (location->place != DSYNC_PLACE_TCP && options.way == SYNC_BOTH_WAYS)
		guid_generate(&options.node_id);
	if (dsync_connect(location, run->set, run->options->timeout_secs, serve_local, end, &peer,
			  &err) < 0) {
		log_error("%s", err.text);
		return DSYNC_EXIT_FAILED;
	}
	status = run_session(run, peer.stream, options, check_only);
	peer_status = dsync_disconnect(&peer);
	if (location->place == DSYNC_PLACE_COMMAND && peer_status != 0)
		log_at(status == DSYNC_EXIT_DONE ? LOG_LEVEL_INFO : LOG_LEVEL_ERROR,
		       "the command ended with status %d: %s", peer_status, location->text);
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

/* Of a destination at another end only that end can know. */
static bool can_check_first(const struct dsync_run *run, const struct dsync_location *location)
{
	enum sync_way way = way_of(run->options);

	return way == SYNC_FROM_PEER ||
	       (way == SYNC_TO_PEER && location->place == DSYNC_PLACE_LOCAL);
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

int dsync_run_master(const struct dsync_run *run, const struct dsync_location *location)
{
	struct local_end end = {.run = run};
	struct mail_user *other = NULL;
	struct error err = {0};
	int status = DSYNC_EXIT_DONE;

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
		end.user = other;
	}
	if (run->options->dry_run) {
		status = dry_run(run, location, &end);
		mail_user_free(&other);
		return status;
	}
	if (can_check_first(run, location))
		status = sync_all(run, location, &end, true);
	if (status == DSYNC_EXIT_FAILED)
		log_error("nothing was changed");
	else
		status = sync_all(run, location, &end, false);
	mail_user_free(&other);
	return status;
}
