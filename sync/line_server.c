/* A unix socket for a line protocol. See line_server.h. */
#include "sync/line_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <event2/event.h>
#include <utlist.h>

#include "store/base/file.h"
#include "sync/local_socket.h"

#define SEND_SECS 30 /* for a client to take its answer */

struct line_client {
	struct line_client *prev, *next;
	struct line_server *server;
	int fd;
	bool opened; /* it has said the opening */
	bool ending; /* once its answer is sent */
	struct buf in, out;
	struct event *read_event, *write_event;
};

struct line_server {
	struct event_base *base;
	struct line_protocol protocol;
	void *ctx;
	char *path;
	int fd;
	struct event *accept_event;
	struct line_client *clients; /* oldest first */
	unsigned count;
};

static void free_client(struct line_client *client)
{
	struct line_server *server = client->server;

	DL_DELETE(server->clients, client);
	server->count--;
	if (server->protocol.gone)
		server->protocol.gone(server->ctx, client);
	if (client->read_event)
		event_free(client->read_event);
	if (client->write_event)
		event_free(client->write_event);
	file_close(&client->fd);
	buf_free(&client->in);
	buf_free(&client->out);
	free(client);
}

struct buf *line_client_answer(struct line_client *client)
{
	return &client->out;
}

/* false: the client is gone. */
static bool send_out(struct line_client *client)
{
	struct timeval wait = {.tv_sec = SEND_SECS};

	while (client->out.len && !client->out.failed) {
		ssize_t n = send(client->fd, client->out.data, client->out.len,
				 MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0) {
			buf_consume(&client->out, (size_t)n);
			continue;
		}
		if (errno == EINTR)
			continue;
		if (errno == EAGAIN && event_add(client->write_event, &wait) == 0)
			return true;
		free_client(client);
		return false;
	}
	if (client->ending || client->out.failed) {
		free_client(client);
		return false;
	}
	return true;
}

void line_client_send(struct line_client *client)
{
	(void)send_out(client);
}

/* false: the client is to go. */
static bool handle_line(struct line_client *client, char *line)
{
	const struct line_protocol *protocol = &client->server->protocol;

	if (client->opened || !protocol->opening)
		return protocol->line(client->server->ctx, client, line);
	client->opened = true;
	return strcmp(line, protocol->opening) == 0;
}

static void handle_lines(struct line_client *client)
{
	char *lf;

	while (!client->ending && client->in.len &&
	       (lf = memchr(client->in.data, '\n', client->in.len)) != NULL) {
		size_t len = (size_t)(lf - client->in.data);

		*lf = '\0';
		client->ending = strlen(client->in.data) != len || len > LINE_SERVER_LINE_MAX ||
				 !handle_line(client, client->in.data);
		buf_consume(&client->in, len + 1);
	}
	if (client->in.len > LINE_SERVER_LINE_MAX)
		client->ending = true;
	if (client->ending)
		event_del(client->read_event);
	(void)send_out(client);
}

static void on_readable(evutil_socket_t fd, short what, void *ctx)
{
	struct line_client *client = ctx;
	void *room = buf_reserve(&client->in, 1024);
	ssize_t n;

	if (what & EV_TIMEOUT) {
		free_client(client);
		return;
	}
	n = room ? recv(client->fd, room, 1024, MSG_DONTWAIT) : 0;
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		free_client(client);
		return;
	}
	buf_commit(&client->in, (size_t)n);
	handle_lines(client);
}

static void on_writable(evutil_socket_t fd, short what, void *ctx)
{
	if (what & EV_TIMEOUT)
		free_client(ctx);
	else
		(void)send_out(ctx);
}

static bool may_connect(const struct line_server *server, int fd)
{
	struct ucred who;
	socklen_t len = sizeof who;

	return !server->protocol.root_only ||
	       (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 &&
		(who.uid == 0 || who.uid == geteuid()));
}

static void on_accept(evutil_socket_t listen_fd, short what, void *ctx)
{
	struct line_server *server = ctx;
	struct timeval idle = {.tv_sec = server->protocol.idle_secs};
	int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct line_client *client;

	if (fd < 0)
		return;
	client = may_connect(server, fd) ? calloc(1, sizeof *client) : NULL;
	if (!client) {
		close(fd);
		return;
	}
	client->server = server;
	client->fd = fd;
	client->in = (struct buf)BUF_INIT(LINE_SERVER_LINE_MAX * 2);
	client->out = (struct buf)BUF_INIT(server->protocol.answer_max);
	DL_APPEND(server->clients, client);
	server->count++;
	client->read_event = event_new(server->base, fd, EV_READ | EV_PERSIST, on_readable, client);
	client->write_event = event_new(server->base, fd, EV_WRITE, on_writable, client);
	if (!client->read_event || !client->write_event ||
	    event_add(client->read_event, server->protocol.idle_secs ? &idle : NULL) < 0) {
		free_client(client);
		return;
	}
	if (server->count > server->protocol.clients_max)
		free_client(server->clients);
	if (server->protocol.greeting) {
		buf_append_str(&client->out, server->protocol.greeting);
		(void)send_out(client);
	}
}

int line_server_new(struct event_base *base, const char *path, const struct settings_socket *owner,
		    const struct line_protocol *protocol, void *ctx, struct line_server **server_r,
		    struct error *err)
{
	struct line_server *server = calloc(1, sizeof *server);
	int rc = 0;

	if (!server)
		return error_errno(err, -ENOMEM, "socket %s", path);
	server->base = base;
	server->protocol = *protocol;
	server->ctx = ctx;
	server->fd = -1;
	rc = local_socket_open(path, owner, &server->fd, err);
	if (rc == 0) {
		server->path = strdup(path);
		server->accept_event =
			event_new(base, server->fd, EV_READ | EV_PERSIST, on_accept, server);
		if (!server->path || !server->accept_event ||
		    event_add(server->accept_event, NULL) < 0)
			rc = error_errno(err, -ENOMEM, "socket %s", path);
	}
	if (rc < 0) {
		line_server_free(&server);
		return rc;
	}
	*server_r = server;
	return 0;
}

void line_server_free(struct line_server **_server)
{
	struct line_server *server = *_server;

	if (!server)
		return;
	*_server = NULL;
	while (server->clients)
		free_client(server->clients);
	if (server->accept_event)
		event_free(server->accept_event);
	file_close(&server->fd);
	if (server->path)
		unlink(server->path);
	free(server->path);
	free(server);
}
