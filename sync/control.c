/* The control socket, dsyncd's end. See control.h. */
#include "sync/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "store/base/tabescape.h"
#include "sync/line_server.h"
#include "sync/replicator.h"

#define CLIENTS_MAX 16
#define CLIENT_SECS 30

struct control {
	struct replicator *replicator;
	struct line_server *server;
};

/* ---- answers ---- */

static void put_str(struct buf *out, const char *str)
{
	buf_append_byte(out, '\t');
	tabescape_append(out, str, strlen(str));
}

static void put_number(struct buf *out, long long number)
{
	buf_printf(out, "\t%lld", number);
}

static bool put_peer(void *ctx, const struct replicator_peer_info *info)
{
	struct buf *out = ctx;

	buf_append_byte(out, 'P');
	put_str(out, info->address);
	put_str(out, info->id);
	put_number(out, info->up);
	put_number(out, info->since);
	put_number(out, info->users_queued);
	put_number(out, info->oldest_change);
	put_str(out, info->reason);
	buf_append_byte(out, '\n');
	return !out->failed;
}

struct user_lines {
	struct buf *out;
	bool all;
};

static bool put_user(void *ctx, const struct replicator_user_info *info)
{
	struct user_lines *lines = ctx;
	struct buf *out = lines->out;
	const struct peer_user *standing = info->standing;

	if (!lines->all && standing->priority == SYNC_PRIORITY_NONE && info->events == 0 &&
	    info->store_reason[0] == '\0')
		return true;
	buf_append_byte(out, 'U');
	put_str(out, info->user);
	put_str(out, info->peer);
	put_number(out, standing->priority);
	put_number(out, standing->want_full);
	put_number(out, standing->want_tree);
	put_number(out, standing->queued_since);
	put_number(out, standing->last_try);
	put_number(out, standing->last_success);
	put_number(out, standing->last_full);
	put_number(out, standing->failures);
	put_str(out, standing->reason);
	put_str(out, info->store_reason);
	put_number(out, info->events);
	put_number(out, info->running);
	buf_append_byte(out, '\n');
	return !out->failed;
}

static bool put_sync(void *ctx, const struct replicator_sync_info *info)
{
	struct buf *out = ctx;

	buf_append_byte(out, 'S');
	put_str(out, info->user);
	put_str(out, info->peer);
	put_number(out, info->incoming);
	put_str(out, info->what);
	put_number(out, info->since_ms);
	buf_append_byte(out, '\n');
	return !out->failed;
}

static int parse_priority(const char *text, enum sync_priority *priority_r)
{
	if (strcmp(text, "low") == 0)
		*priority_r = SYNC_PRIORITY_LOW;
	else if (strcmp(text, "high") == 0)
		*priority_r = SYNC_PRIORITY_HIGH;
	else if (strcmp(text, "sync") == 0)
		*priority_r = SYNC_PRIORITY_SYNC;
	else
		return -EINVAL;
	return 0;
}

static const char *replicate(struct replicator *replicator, char *const *field, struct buf *out)
{
	enum sync_priority priority;
	int count;

	if (parse_priority(field[1], &priority) < 0)
		return "invalid priority: low, high or sync";
	if (field[2][0] != '\0' && strcmp(field[2], "f") != 0)
		return "unknown flags";
	if (field[3][0] == '\0')
		return "no user";
	count = replicator_replicate(replicator, field[3], priority, field[2][0] == 'f');
	if (count < 0)
		return strerror(-count);
	buf_printf(out, "C\t%d\n", count);
	return NULL;
}

/* NULL, or why not. */
static const char *answer(struct replicator *replicator, char *const *field, unsigned count,
			  struct buf *out)
{
	if (strcmp(field[0], "STATUS") == 0 && count <= 2) {
		struct user_lines lines = {.out = out, .all = count == 2};

		buf_append_byte(out, 'J');
		put_str(out, replicator_journal_trouble(replicator));
		buf_append_byte(out, '\n');
		replicator_each_peer(replicator, put_peer, out);
		replicator_each_user(replicator, count == 2 ? field[1] : "*", put_user, &lines);
	} else if (strcmp(field[0], "SYNCS") == 0 && count == 1) {
		replicator_each_sync(replicator, put_sync, out);
	} else if (strcmp(field[0], "REPLICATE") == 0 && count == 4) {
		return replicate(replicator, field, out);
	} else {
		return "unknown request";
	}
	return NULL;
}

/* One request, and its client goes. */
static bool on_line(void *ctx, struct line_client *client, char *line)
{
	const struct control *control = ctx;
	struct buf *out = line_client_answer(client);
	char *field[CONTROL_FIELDS_MAX] = {line};
	unsigned count = 1;
	const char *refusal;
	char *tab;

	while (count < CONTROL_FIELDS_MAX && (tab = strchr(field[count - 1], '\t')) != NULL) {
		*tab = '\0';
		field[count++] = tab + 1;
	}
	for (unsigned i = 0; i < count; i++)
		tabunescape(field[i], strlen(field[i]));
	refusal = answer(control->replicator, field, count, out);
	if (out->failed) {
		buf_clear(out);
		refusal = "the answer is too long: ask for fewer users";
	}
	if (refusal)
		buf_printf(out, "-%s\n", refusal);
	else
		buf_append_str(out, "+\n");
	return false;
}

/* ---- life ---- */

int control_new(struct event_base *base, const char *state_dir, struct replicator *replicator,
		struct control **control_r, struct error *err)
{
	static const struct settings_socket owner = {.user = "", .group = "", .mode = 0600};
	static const struct line_protocol protocol = {
		.greeting = CONTROL_VERSION "\n",
		.opening = CONTROL_VERSION,
		.root_only = true,
		.clients_max = CLIENTS_MAX,
		.idle_secs = CLIENT_SECS,
		.answer_max = CONTROL_ANSWER_MAX,
		.line = on_line,
	};
	char path[sizeof((struct sockaddr_un *)NULL)->sun_path];
	struct control *control;
	int rc = snprintf(path, sizeof path, "%s/" CONTROL_SOCKET, state_dir);

	if (rc >= (int)sizeof path)
		return error_set(err, -ENAMETOOLONG, "state_dir %s: too long for a socket's name",
				 state_dir);
	control = calloc(1, sizeof *control);
	if (!control)
		return error_errno(err, -ENOMEM, "control socket");
	control->replicator = replicator;
	rc = line_server_new(base, path, &owner, &protocol, control, &control->server, err);
	if (rc < 0)
		control_free(&control);
	*control_r = control;
	return rc;
}

void control_free(struct control **control)
{
	if (!*control)
		return;
	line_server_free(&(*control)->server);
	free(*control);
	*control = NULL;
}
