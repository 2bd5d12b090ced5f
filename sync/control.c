/* The control socket, dsyncd's end. See control.h. */
#include "sync/control.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <event2/event.h>
#include <utlist.h>

#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/tabescape.h"
#include "sync/local_socket.h"
#include "sync/replicator.h"

#define CLIENTS_MAX 16
#define CLIENT_SECS 30

struct client {
	struct client *prev, *next;
	struct control *control;
	int fd;
	bool greeted;
	bool answered;
	struct buf in, out;
	struct event *read_event, *write_event;
};

struct control {
	struct event_base *base;
	struct replicator *replicator;
	char path[sizeof((struct sockaddr_un *)NULL)->sun_path];
	int fd;
	struct event *accept_event;
	struct client *clients;
	unsigned count;
};

static void free_client(struct client *client)
{
	DL_DELETE(client->control->clients, client);
	client->control->count--;
	if (client->read_event)
		event_free(client->read_event);
	if (client->write_event)
		event_free(client->write_event);
	file_close(&client->fd);
	buf_free(&client->in);
	buf_free(&client->out);
	free(client);
}

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

static const char *replicate(struct client *client, char *const *field)
{
	enum sync_priority priority;
	int count;

	if (parse_priority(field[1], &priority) < 0)
		return "invalid priority: low, high or sync";
	if (field[2][0] != '\0' && strcmp(field[2], "f") != 0)
		return "unknown flags";
	if (field[3][0] == '\0')
		return "no user";
	count = replicator_replicate(client->control->replicator, field[3], priority,
				     field[2][0] == 'f');
	if (count < 0)
		return strerror(-count);
	buf_printf(&client->out, "C\t%d\n", count);
	return NULL;
}

/* NULL, or why not. */
static const char *answer(struct client *client, char *const *field, unsigned count)
{
	struct replicator *replicator = client->control->replicator;
	struct buf *out = &client->out;

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
		return replicate(client, field);
	} else {
		return "unknown request";
	}
	return NULL;
}

/* ---- lines ---- */

static void send_answer(struct client *client)
{
	while (client->out.len) {
		ssize_t n = send(client->fd, client->out.data, client->out.len,
				 MSG_NOSIGNAL | MSG_DONTWAIT);
		struct timeval wait = {.tv_sec = CLIENT_SECS};

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN) {
			event_add(client->write_event, &wait);
			return;
		}
		if (n < 0) {
			free_client(client);
			return;
		}
		buf_consume(&client->out, (size_t)n);
	}
	if (client->answered)
		free_client(client);
}

static void request(struct client *client, char *line)
{
	char *field[CONTROL_FIELDS_MAX];
	unsigned count = 0;
	const char *refusal = NULL;

	for (char *next = line; next && count < CONTROL_FIELDS_MAX;) {
		char *tab = strchr(next, '\t');

		if (tab)
			*tab = '\0';
		field[count++] = next;
		tabunescape(next, strlen(next));
		next = tab ? tab + 1 : NULL;
	}
	refusal = answer(client, field, count);
	if (client->out.failed) {
		buf_clear(&client->out);
		refusal = "the answer is too long: ask for fewer users";
	}
	if (refusal)
		buf_printf(&client->out, "-%s\n", refusal);
	else
		buf_append_str(&client->out, "+\n");
	client->answered = true;
}

/* false: the client is gone. */
static bool handle_lines(struct client *client)
{
	char *lf;

	while (!client->answered && client->in.len &&
	       (lf = memchr(client->in.data, '\n', client->in.len)) != NULL) {
		size_t len = (size_t)(lf - client->in.data);

		*lf = '\0';
		if (strlen(client->in.data) != len)
			return false;
		if (!client->greeted && strcmp(client->in.data, CONTROL_VERSION) != 0)
			return false;
		if (client->greeted)
			request(client, client->in.data);
		client->greeted = true;
		buf_consume(&client->in, len + 1);
	}
	return true;
}

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
	struct client *client = ctx;
	char *room;
	ssize_t n;

	if (what & EV_TIMEOUT) {
		free_client(client);
		return;
	}
	room = buf_reserve(&client->in, 1024);
	n = room ? recv(client->fd, room, 1024, MSG_DONTWAIT) : 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		free_client(client);
		return;
	}
	buf_commit(&client->in, (size_t)n);
	if (!handle_lines(client)) {
		free_client(client);
		return;
	}
	if (client->answered)
		event_del(client->read_event);
	send_answer(client);
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
	if (what & EV_TIMEOUT)
		free_client(ctx);
	else
		send_answer(ctx);
}

static void add_client(struct control *control, int fd)
{
	struct timeval wait = {.tv_sec = CLIENT_SECS};
	struct client *client = calloc(1, sizeof *client);

	if (!client) {
		close(fd);
		return;
	}
	client->control = control;
	client->fd = fd;
	client->in = (struct buf)BUF_INIT(CONTROL_LINE_MAX + 1024);
	client->out = (struct buf)BUF_INIT(CONTROL_ANSWER_MAX);
	DL_APPEND(control->clients, client);
	control->count++;
	client->read_event =
		event_new(control->base, fd, EV_READ | EV_PERSIST, on_readable, client);
	client->write_event = event_new(control->base, fd, EV_WRITE, on_writable, client);
	if (!client->read_event || !client->write_event ||
	    event_add(client->read_event, &wait) < 0) {
		free_client(client);
		return;
	}
	buf_append_str(&client->out, CONTROL_VERSION "\n");
	send_answer(client);
}

static void on_accept(evutil_socket_t fd, short what, void *ctx)
{
	struct control *control = ctx;
	int client = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct ucred who;
	socklen_t len = sizeof who;

	if (client < 0)
		return;
	if (getsockopt(client, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 ||
	    (who.uid != 0 && who.uid != geteuid()) || control->count >= CLIENTS_MAX) {
		close(client);
		return;
	}
	add_client(control, client);
}

/* ---- life ---- */

int control_new(struct event_base *base, const char *state_dir, struct replicator *replicator,
		struct control **control_r, struct error *err)
{
	static const struct settings_socket owner = {.user = "", .group = "", .mode = 0600};
	struct control *control = calloc(1, sizeof *control);
	int rc;

	if (!control)
		return error_errno(err, -ENOMEM, "control socket");
	control->base = base;
	control->replicator = replicator;
	control->fd = -1;
	rc = snprintf(control->path, sizeof control->path, "%s/" CONTROL_SOCKET, state_dir);
	if (rc >= (int)sizeof control->path) {
		free(control);
		return error_set(err, -ENAMETOOLONG, "state_dir %s: too long for a socket's name",
				 state_dir);
	}
	rc = local_socket_open(control->path, &owner, &control->fd, err);
	if (rc == 0) {
		control->accept_event =
			event_new(base, control->fd, EV_READ | EV_PERSIST, on_accept, control);
		if (!control->accept_event || event_add(control->accept_event, NULL) < 0)
			rc = error_errno(err, -ENOMEM, "control socket");
	} else {
		control->path[0] = '\0'; /* not ours to remove */
	}
	if (rc < 0) {
		control_free(&control);
		return rc;
	}
	*control_r = control;
	return 0;
}

void control_free(struct control **control)
{
	struct control *c = *control;

	if (!c)
		return;
	*control = NULL;
	while (c->clients)
		free_client(c->clients);
	if (c->accept_event)
		event_free(c->accept_event);
	file_close(&c->fd);
	if (c->path[0] != '\0')
		unlink(c->path);
	free(c);
}
