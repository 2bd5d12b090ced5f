/*
 * Dovecot's replicator-doveadm socket. See replicator_socket.h.
 *
 * Of a user with several peers one line is told: the highest priority, the oldest success, a
 * failure with any of them.
 */
#include "sync/replicator_socket.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/tabescape.h"
#include "sync/line_server.h"
#include "sync/local_socket.h"
#include "sync/replicator.h"

#define CLIENT_VERSION "VERSION\treplicator-doveadm-client\t1\t"
#define GREETING       "VERSION\treplicator-doveadm-server\t1\t0\n"
#define CLIENTS_MAX    16
#define IDLE_SECS      300
#define ANSWER_MAX     ((size_t)32 * 1024 * 1024)
#define FIELDS_MAX     5

struct replicator_socket {
	struct replicator *replicator;
	struct line_server *server;
};

/* ---- STATUS ---- */

/* A user over all its peers. */
struct user_line {
	char name[512];
	enum sync_priority priority;
	bool full, failed, waits;
	int64_t last_fast, last_full, last_success;
};

struct status {
	struct user_line user; /* the one whose peers come */
	struct buf *out;       /* one line a user; NULL: counted only */
	unsigned sync, high, low, failed, full, waiting, total;
};

static void end_user(struct status *status)
{
	static const char *const priorities[] = {"none", "low", "high", "sync"};
	const struct user_line *user = &status->user;

	if (!user->name[0])
		return;
	status->total++;
	status->sync += user->priority == SYNC_PRIORITY_SYNC;
	status->high += user->priority == SYNC_PRIORITY_HIGH;
	status->low += user->priority == SYNC_PRIORITY_LOW;
	status->full += user->full;
	status->failed += user->failed && !user->waits;
	status->waiting += user->failed && user->waits;
	if (status->out) {
		tabescape_append(status->out, user->name, strlen(user->name));
		buf_printf(status->out, "\t%s\t%" PRId64 "\t%" PRId64 "\t%d\t%" PRId64 "\n",
			   priorities[user->priority], user->last_fast, user->last_full,
			   user->failed, user->last_success);
	}
}

static int64_t older(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static bool add_user(void *ctx, const struct replicator_user_info *info)
{
	struct status *status = ctx;
	struct user_line *user = &status->user;
	const struct peer_user *standing = info->standing;

	if (strcmp(user->name, info->user) != 0) {
		end_user(status);
		*user = (struct user_line){
			.last_fast = INT64_MAX, .last_full = INT64_MAX, .last_success = INT64_MAX};
		snprintf(user->name, sizeof user->name, "%s", info->user);
	}
	if (standing->priority > user->priority)
		user->priority = standing->priority;
	user->full |= standing->want_full;
	user->failed |= standing->failures > 0 || info->store_reason[0] != '\0';
	user->waits |= info->waits;
	user->last_fast = older(user->last_fast, standing->last_try);
	user->last_full = older(user->last_full, standing->last_full);
	user->last_success = older(user->last_success, standing->last_success);
	return true;
}

static void put_status(struct replicator *replicator, const char *mask, struct buf *out)
{
	struct status status = {.out = mask ? out : NULL};

	replicator_each_user(replicator, mask ? mask : "*", add_user, &status);
	end_user(&status);
	if (!mask)
		buf_printf(out,
			   "Queued 'sync' requests\t%u\nQueued 'high' requests\t%u\n"
			   "Queued 'low' requests\t%u\nQueued 'failed' requests\t%u\n"
			   "Queued 'full resync' requests\t%u\nWaiting 'failed' requests\t%u\n"
			   "Total number of known users\t%u\n",
			   status.sync, status.high, status.low, status.failed, status.full,
			   status.waiting, status.total);
	buf_append_byte(out, '\n');
}

/* ---- STATUS-DSYNC ---- */

static bool put_sync(void *ctx, const struct replicator_sync_info *info)
{
	struct buf *out = ctx;

	if (info->incoming)
		return true;
	tabescape_append(out, info->user, strlen(info->user));
	buf_printf(out, "\t%s\tWaiting for dsync to finish\n", info->type);
	return true;
}

static bool put_peer(void *ctx, const struct replicator_peer_info *info)
{
	struct buf *out = ctx;

	if (info->up) {
		buf_append_str(out, "\t-\tIdle\n");
		return true;
	}
	buf_append_str(out, "\t-\tFailed to connect to '");
	tabescape_append(out, info->address, strlen(info->address));
	buf_append_str(out, "' - ");
	tabescape_append(out, info->reason, strlen(info->reason));
	buf_append_byte(out, '\n');
	return true;
}

/* ---- commands ---- */

static bool parse_priority(const char *text, enum sync_priority *priority_r)
{
	static const char *const names[] = {
		[SYNC_PRIORITY_LOW] = "low",
		[SYNC_PRIORITY_HIGH] = "high",
		[SYNC_PRIORITY_SYNC] = "sync",
	};

	for (unsigned i = SYNC_PRIORITY_LOW; i <= SYNC_PRIORITY_SYNC; i++) {
		if (strcmp(names[i], text) == 0) {
			*priority_r = (enum sync_priority)i;
			return true;
		}
	}
	return false;
}

static void replicate(struct replicator *replicator, const char *priority_text, const char *flags,
		      const char *mask, struct buf *out)
{
	enum sync_priority priority;
	int count;

	if (!parse_priority(priority_text, &priority)) {
		buf_append_str(out, "-Invalid priority\n");
		return;
	}
	count = replicator_replicate(replicator, mask, priority, strchr(flags, 'f') != NULL);
	if (count < 0)
		buf_printf(out, "-%s\n", strerror(-count));
	else
		buf_printf(out, "+%d\n", count);
}

static void put_result(int rc, struct buf *out)
{
	if (rc == -ENOENT)
		buf_append_str(out, "-User not found\n");
	else if (rc < 0)
		buf_printf(out, "-%s\n", strerror(-rc));
	else
		buf_append_str(out, "+\n");
}

static bool command(struct replicator *replicator, char *const *field, unsigned count,
		    struct buf *out)
{
	const char *name = field[0];

	if (strcmp(name, "STATUS") == 0 && count <= 2) {
		put_status(replicator, count == 2 ? field[1] : NULL, out);
	} else if (strcmp(name, "STATUS-DSYNC") == 0 && count == 1) {
		replicator_each_sync(replicator, put_sync, out);
		replicator_each_peer(replicator, put_peer, out);
		buf_append_byte(out, '\n');
	} else if (strcmp(name, "REPLICATE") == 0 && count == 4) {
		replicate(replicator, field[1], field[2], field[3], out);
	} else if (strcmp(name, "ADD") == 0 && count == 2) {
		int rc = replicator_replicate(replicator, field[1], SYNC_PRIORITY_LOW, false);

		put_result(rc < 0 ? rc : 0, out);
	} else if (strcmp(name, "REMOVE") == 0 && count == 2) {
		put_result(replicator_remove(replicator, field[1]), out);
	} else if (strcmp(name, "NOTIFY") == 0 && count == 4) {
		replicator_note_synced(replicator, field[1], field[2][0] == 'f');
		buf_append_str(out, "+\n");
	} else {
		return false;
	}
	return true;
}

static bool on_line(void *ctx, struct line_client *client, char *line)
{
	struct replicator_socket *socket = ctx;
	char *field[FIELDS_MAX];
	unsigned count = 0;

	if (strncmp(line, "VERSION\t", 8) == 0)
		return strncmp(line, CLIENT_VERSION, strlen(CLIENT_VERSION)) == 0;
	for (char *next = line; next; count++) {
		char *tab = strchr(next, '\t');

		if (count == FIELDS_MAX)
			return false;
		if (tab)
			*tab = '\0';
		field[count] = next;
		tabunescape(next, strlen(next));
		next = tab ? tab + 1 : NULL;
	}
	return command(socket->replicator, field, count, line_client_answer(client));
}

int replicator_socket_new(struct event_base *base, const struct settings *set,
			  struct replicator *replicator, struct replicator_socket **socket_r,
			  struct error *err)
{
	static const struct line_protocol protocol = {
		.greeting = GREETING,
		.clients_max = CLIENTS_MAX,
		.idle_secs = IDLE_SECS,
		.answer_max = ANSWER_MAX,
		.line = on_line,
	};
	const struct settings_socket *const owners[] = {&set->doveadm_socket};
	struct replicator_socket *socket = calloc(1, sizeof *socket);
	char path[PATH_MAX];
	int rc;

	if (!socket)
		return error_errno(err, -ENOMEM, REPLICATOR_SOCKET);
	socket->replicator = replicator;
	snprintf(path, sizeof path, "%s/" REPLICATOR_SOCKET, set->state_dir);
	rc = local_socket_admit(set->state_dir, owners, 1, err);
	if (rc == 0)
		rc = line_server_new(base, path, &set->doveadm_socket, &protocol, socket,
				     &socket->server, err);
	if (rc < 0) {
		free(socket);
		return rc;
	}
	*socket_r = socket;
	return 0;
}

void replicator_socket_free(struct replicator_socket **socket)
{
	if (*socket)
		line_server_free(&(*socket)->server);
	free(*socket);
	*socket = NULL;
}
