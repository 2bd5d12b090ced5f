/* Where peers reach us. See listener.h. */
#include "sync/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <event2/event.h>
#include <utlist.h>

#include "store/base/file.h"
#include "store/base/log.h"
#include "sync/doveadm_protocol.h"
#include "sync/replicator.h"
#include "sync/tcp.h"
#include "sync/tls_relay.h"

#define INPUT_MAX	  (DOVEADM_LINE_MAX * 2)
#define LOG_LINES	  10 /* about strangers, a minute */
#define LOG_MINUTE_MS	  60000
#define ACCEPT_PAUSE_SECS 1 /* when the process has no descriptors left */

struct stranger {
	struct stranger *prev, *next;
	struct listener *listener;
	int fd;
	struct sockaddr_storage address;
	struct doveadm_server server;
	struct buf in;
	struct event *event; /* readable, or its time is over */
	int64_t start_ms;
};

struct listen_socket {
	int fd;
	struct event *accept_event;
};

struct listener {
	struct event_base *base;
	struct tls_server *tls; /* NULL: the port speaks plainly */
	struct tls_relays relays;
	const struct settings *set;
	struct replicator *replicator;
	struct listen_socket *sockets;
	size_t count;
	struct stranger *strangers; /* oldest first */
	unsigned stranger_count;
	struct event *resume_timer;
	int64_t log_minute_ms;
	unsigned log_lines;
};

static void free_stranger(struct stranger *stranger)
{
	DL_DELETE(stranger->listener->strangers, stranger);
	stranger->listener->stranger_count--;
	if (stranger->event)
		event_free(stranger->event);
	file_close(&stranger->fd);
	buf_free(&stranger->in);
	free(stranger);
}

static void log_refused(struct listener *listener, const struct sockaddr_storage *from,
			const char *text)
{
	char address[TCP_ADDRESS_SIZE];
	int64_t now_ms = tcp_now_ms();

	if (now_ms - listener->log_minute_ms >= LOG_MINUTE_MS) {
		if (listener->log_lines > LOG_LINES)
			log_warning("%u more connections were refused",
				    listener->log_lines - LOG_LINES);
		listener->log_minute_ms = now_ms;
		listener->log_lines = 0;
	}
	if (listener->log_lines++ < LOG_LINES)
		log_warning("connection refused: %s peer=%s", text,
			    tcp_address_text(from, address));
}

static void log_stranger(const struct stranger *stranger, const char *text)
{
	log_refused(stranger->listener, &stranger->address, text);
}

static void on_tls_refused(void *ctx, const struct sockaddr_storage *address, const char *text)
{
	log_refused(ctx, address, text);
}

/* Some bytes into an empty socket. Whoever does not take them does not read. */
static void send_all(struct stranger *stranger, const struct buf *out)
{
	if (out->len)
		(void)!send(stranger->fd, out->data, out->len, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void hand_over(struct stranger *stranger, const struct doveadm_command *command)
{
	int fd = stranger->fd;

	/* The event must be gone before another process has the descriptor. */
	event_free(stranger->event);
	stranger->event = NULL;
	stranger->fd = -1;
	replicator_serve(stranger->listener->replicator, fd, &stranger->address, &stranger->server,
			 command, buf_str(&stranger->in), stranger->in.len);
	free_stranger(stranger);
}

static void on_input(struct stranger *stranger)
{
	const char *password = stranger->listener->set->doveadm_password;
	AUTO_BUF struct buf out = BUF_INIT(8192);
	struct doveadm_command command;
	struct error err = {0};
	enum doveadm_event event;

	event = doveadm_server_input(&stranger->server, password, &stranger->in, &out, &command,
				     &err);
	send_all(stranger, &out);
	if (event == DOVEADM_COMMAND) {
		hand_over(stranger, &command);
	} else if (event == DOVEADM_CLOSE) {
		log_stranger(stranger, err.text);
		free_stranger(stranger);
	}
}

static void on_stranger(evutil_socket_t fd, short what, void *ctx)
{
	struct stranger *stranger = ctx;
	ssize_t n;
	void *room;

	/* A byte now and then does not buy time. */
	if ((what & EV_TIMEOUT) ||
	    tcp_now_ms() - stranger->start_ms > LISTENER_HANDSHAKE_SECS * 1000) {
		log_stranger(stranger, "no password and command in time");
		free_stranger(stranger);
		return;
	}
	room = buf_reserve(&stranger->in, 4096);
	if (!room) {
		log_stranger(stranger, "too much input");
		free_stranger(stranger);
		return;
	}
	n = recv(stranger->fd, room, 4096, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		/* Without a byte it was a probe, or a port scan: not worth a line. */
		if (stranger->in.len)
			log_stranger(stranger, "it ended in the middle of a line");
		free_stranger(stranger);
		return;
	}
	buf_commit(&stranger->in, (size_t)n);
	on_input(stranger);
}

static void add_stranger(struct listener *listener, int fd, const struct sockaddr_storage *address)
{
	struct timeval deadline = {.tv_sec = LISTENER_HANDSHAKE_SECS};
	struct stranger *stranger = calloc(1, sizeof *stranger);

	if (!stranger) {
		close(fd);
		return;
	}
	stranger->listener = listener;
	stranger->fd = fd;
	stranger->address = *address;
	stranger->in = (struct buf)BUF_INIT(INPUT_MAX);
	doveadm_server_init(&stranger->server);
	DL_APPEND(listener->strangers, stranger);
	listener->stranger_count++;
	stranger->start_ms = tcp_now_ms();
	stranger->event =
		event_new(listener->base, fd, EV_READ | EV_PERSIST, on_stranger, stranger);
	if (!stranger->event || event_add(stranger->event, &deadline) < 0) {
		free_stranger(stranger);
		return;
	}
	if (listener->stranger_count > LISTENER_STRANGERS_MAX) {
		log_stranger(listener->strangers, "too many connections without a password");
		free_stranger(listener->strangers);
	}
}

/* Puts the plain end of a relay in the descriptor's place. */
static bool wrap_in_tls(struct listener *listener, int *fd, const struct sockaddr_storage *address)
{
	struct error err = {0};

	if (!listener->tls)
		return true;
	if (tls_relay_new(&listener->relays, listener->tls, *fd, address, fd, &err) == 0)
		return true;
	log_error("%s", err.text);
	return false;
}

static void on_accept(evutil_socket_t fd, short what, void *ctx)
{
	struct listener *listener = ctx;
	struct timeval pause = {.tv_sec = ACCEPT_PAUSE_SECS};

	for (unsigned i = 0; i < 16; i++) {
		struct sockaddr_storage address = {0};
		socklen_t len = sizeof address;
		int client = accept4(fd, (struct sockaddr *)&address, &len,
				     SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (client >= 0) {
			tcp_set_options(client);
			if (wrap_in_tls(listener, &client, &address))
				add_stranger(listener, client, &address);
			continue;
		}
		if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS)
			return;
		log_error("accept: %s", strerror(errno));
		for (size_t j = 0; j < listener->count; j++)
			event_del(listener->sockets[j].accept_event);
		event_add(listener->resume_timer, &pause);
		return;
	}
}

static void on_resume(evutil_socket_t fd, short what, void *ctx)
{
	struct listener *listener = ctx;

	for (size_t i = 0; i < listener->count; i++)
		event_add(listener->sockets[i].accept_event, NULL);
}

static int listen_on(struct listener *listener, const char *address, struct error *err)
{
	struct listen_socket *socket = &listener->sockets[listener->count];
	int rc = tcp_listen(address, listener->set->doveadm_port, &socket->fd, err);

	if (rc < 0)
		return rc;
	socket->accept_event =
		event_new(listener->base, socket->fd, EV_READ | EV_PERSIST, on_accept, listener);
	if (!socket->accept_event || event_add(socket->accept_event, NULL) < 0) {
		if (socket->accept_event)
			event_free(socket->accept_event);
		close(socket->fd);
		return error_errno(err, -ENOMEM, "listener");
	}
	listener->count++;
	return 0;
}

int listener_new(struct event_base *base, const struct settings *set, struct replicator *replicator,
		 struct listener **listener_r, struct error *err)
{
	struct listener *listener = calloc(1, sizeof *listener);
	int rc = 0;

	if (!listener)
		return error_errno(err, -ENOMEM, "listener");
	listener->base = base;
	listener->set = set;
	listener->replicator = replicator;
	listener->relays =
		(struct tls_relays){.base = base, .refused = on_tls_refused, .ctx = listener};
	if (set->doveadm_port && set->listen_ssl)
		rc = tls_server_new(set, &listener->tls, err);
	listener->sockets = calloc(set->listen_count + 1, sizeof *listener->sockets);
	listener->resume_timer = evtimer_new(base, on_resume, listener);
	if (rc == 0 && (!listener->sockets || !listener->resume_timer))
		rc = error_errno(err, -ENOMEM, "listener");
	for (size_t i = 0; rc == 0 && set->doveadm_port && i < set->listen_count; i++) {
		rc = listen_on(listener, set->listen[i], err);
		/* A machine without IPv6 is told so by nobody's "::". */
		if (rc == -EAFNOSUPPORT && set->listen_count > 1) {
			log_notice("%s", err->text);
			rc = 0;
		}
	}
	if (rc == 0 && set->doveadm_port && listener->count == 0)
		rc = error_set(err, -EADDRNOTAVAIL,
			       "doveadm_port is set, but no address of listen "
			       "can be used");
	if (rc < 0) {
		listener_free(&listener);
		return rc;
	}
	if (listener->count && set->doveadm_password[0] == '\0')
		log_warning("doveadm_password is not set: no peer gets in");
	*listener_r = listener;
	return 0;
}

void listener_stop(struct listener *l)
{
	while (l->strangers)
		free_stranger(l->strangers);
	for (size_t i = 0; i < l->count; i++) {
		event_free(l->sockets[i].accept_event);
		close(l->sockets[i].fd);
	}
	l->count = 0;
	if (l->resume_timer)
		event_del(l->resume_timer);
}

void listener_free(struct listener **listener)
{
	struct listener *l = *listener;

	if (!l)
		return;
	*listener = NULL;
	listener_stop(l);
	tls_relays_free(&l->relays);
	tls_server_free(&l->tls);
	if (l->resume_timer)
		event_free(l->resume_timer);
	free(l->sockets);
	free(l);
}

int listener_set_settings(struct listener *listener, const struct settings *set, struct error *err)
{
	struct tls_server *tls = NULL;
	int rc = 0;

	/* A certificate is renewed in its file, so it is read again in any case. */
	if (listener->tls && set->listen_ssl)
		rc = tls_server_new(set, &tls, err);
	if (rc < 0)
		return rc;
	if (tls) {
		tls_server_free(&listener->tls);
		listener->tls = tls;
	}
	listener->set = set;
	return 0;
}
