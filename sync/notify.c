/* Dovecot's notify socket and fifo. See notify.h. */
#include "sync/notify.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <event2/event.h>
#include <utlist.h>

#include "store/base/file.h"
#include "store/base/tabescape.h"
#include "sync/line_server.h"
#include "sync/local_socket.h"
#include "sync/replicator.h"

#define CLIENTS_MAX   1000 /* mail processes keep theirs */
#define ANSWERS_MAX   4096
#define WAITS_MAX     16 /* of one client */
#define READS_AT_ONCE 16

/* A client that waits for a sync's end. */
struct waiting {
	struct waiting *prev, *next;
	struct notify *notify;
	struct line_client *client;
	struct replicator_wait *wait;
};

struct notify {
	struct replicator *replicator;
	struct line_server *server;
	int fifo_fd;
	struct event *fifo_event;
	struct buf fifo_in;
	struct waiting *waiting;
};

static void free_waiting(struct waiting *waiting)
{
	DL_DELETE(waiting->notify->waiting, waiting);
	replicator_wait_cancel(&waiting->wait);
	free(waiting);
}

static void answer(struct line_client *client, bool ok)
{
	buf_append_str(line_client_answer(client), ok ? "+\n" : "-\n");
}

static void on_synced(void *ctx, bool ok)
{
	struct waiting *waiting = ctx;
	struct line_client *client = waiting->client;

	waiting->wait = NULL;
	free_waiting(waiting);
	answer(client, ok);
	line_client_send(client);
}

static unsigned count_waits(const struct notify *notify, const struct line_client *client)
{
	const struct waiting *waiting;
	unsigned count = 0;

	DL_FOREACH (notify->waiting, waiting)
		count += waiting->client == client;
	return count;
}

static void wait_for_sync(struct notify *notify, struct line_client *client, const char *user)
{
	struct waiting *waiting =
		count_waits(notify, client) < WAITS_MAX ? calloc(1, sizeof *waiting) : NULL;

	if (waiting) {
		waiting->notify = notify;
		waiting->client = client;
		DL_APPEND(notify->waiting, waiting);
		if (replicator_wait_for_sync(notify->replicator, user, on_synced, waiting,
					     &waiting->wait) == 0)
			return;
		free_waiting(waiting);
	}
	answer(client, false);
}

/* false: not a notification. */
static bool split(char *line, const char **priority_r)
{
	char *tab = strchr(line, '\t');

	if (!tab || tab == line)
		return false;
	*tab = '\0';
	*priority_r = tab + 1;
	tabunescape(line, strlen(line));
	return true;
}

static bool note(struct notify *notify, const char *user, const char *priority)
{
	if (strcmp(priority, "low") == 0)
		replicator_notice(notify->replicator, user, SYNC_PRIORITY_LOW);
	else if (strcmp(priority, "high") == 0)
		replicator_notice(notify->replicator, user, SYNC_PRIORITY_HIGH);
	else
		return false;
	return true;
}

static bool on_line(void *ctx, struct line_client *client, char *line)
{
	struct notify *notify = ctx;
	const char *priority;

	if (!split(line, &priority))
		return false;
	if (strcmp(priority, "sync") != 0)
		return note(notify, line, priority);
	wait_for_sync(notify, client, line);
	return true;
}

static void on_gone(void *ctx, struct line_client *client)
{
	struct notify *notify = ctx;
	struct waiting *waiting, *next;

	DL_FOREACH_SAFE(notify->waiting, waiting, next)
	{
		if (waiting->client == client)
			free_waiting(waiting);
	}
}

/* ---- the fifo ---- */

/* Every writer's line is one write, so lines are whole; one that is none is left out. */
static void take_fifo_lines(struct notify *notify)
{
	struct buf *in = &notify->fifo_in;
	char *lf;

	while (in->len && (lf = memchr(in->data, '\n', in->len)) != NULL) {
		const char *priority;

		*lf = '\0';
		if (split(in->data, &priority))
			(void)note(notify, in->data, priority);
		buf_consume(in, (size_t)(lf - in->data) + 1);
	}
	if (in->len > LINE_SERVER_LINE_MAX)
		buf_clear(in);
}

static void on_fifo(evutil_socket_t fd, short what, void *ctx)
{
	struct notify *notify = ctx;

	for (unsigned i = 0; i < READS_AT_ONCE; i++) {
		void *room = buf_reserve(&notify->fifo_in, PIPE_BUF);
		ssize_t n = room ? read(notify->fifo_fd, room, PIPE_BUF) : -1;

		if (n <= 0)
			return;
		buf_commit(&notify->fifo_in, (size_t)n);
		take_fifo_lines(notify);
	}
}

static int open_fifo(struct notify *notify, struct event_base *base, const struct settings *set,
		     struct error *err)
{
	char path[PATH_MAX];
	int rc;

	if (snprintf(path, sizeof path, "%s/" NOTIFY_FIFO, set->state_dir) >= (int)sizeof path)
		return error_set(err, -ENAMETOOLONG, "state_dir %s", set->state_dir);
	rc = local_fifo_open(path, &set->notify_fifo, &notify->fifo_fd, err);
	if (rc < 0)
		return rc;
	notify->fifo_event =
		event_new(base, notify->fifo_fd, EV_READ | EV_PERSIST, on_fifo, notify);
	if (!notify->fifo_event || event_add(notify->fifo_event, NULL) < 0)
		return error_errno(err, -ENOMEM, "fifo %s", path);
	return 0;
}

int notify_new(struct event_base *base, const struct settings *set, struct replicator *replicator,
	       struct notify **notify_r, struct error *err)
{
	static const struct line_protocol protocol = {
		.clients_max = CLIENTS_MAX,
		.answer_max = ANSWERS_MAX,
		.line = on_line,
		.gone = on_gone,
	};
	const struct settings_socket *const owners[] = {&set->notify_socket, &set->notify_fifo};
	struct notify *notify = calloc(1, sizeof *notify);
	char path[PATH_MAX];
	int rc;

	if (!notify)
		return error_errno(err, -ENOMEM, "notify socket");
	notify->replicator = replicator;
	notify->fifo_fd = -1;
	notify->fifo_in = (struct buf)BUF_INIT(LINE_SERVER_LINE_MAX + 2 * PIPE_BUF);
	snprintf(path, sizeof path, "%s/" NOTIFY_SOCKET, set->state_dir);
	rc = local_socket_admit(set->state_dir, owners, 2, err);
	if (rc == 0)
		rc = line_server_new(base, path, &set->notify_socket, &protocol, notify,
				     &notify->server, err);
	if (rc == 0)
		rc = open_fifo(notify, base, set, err);
	if (rc < 0) {
		notify_free(&notify);
		return rc;
	}
	*notify_r = notify;
	return 0;
}

/* The fifo stays: who writes into it while nobody reads keeps what it has to say. */
void notify_free(struct notify **_notify)
{
	struct notify *notify = *_notify;

	if (!notify)
		return;
	*_notify = NULL;
	line_server_free(&notify->server);
	while (notify->waiting)
		free_waiting(notify->waiting);
	if (notify->fifo_event)
		event_free(notify->fifo_event);
	file_close(&notify->fifo_fd);
	buf_free(&notify->fifo_in);
	free(notify);
}
