/* TLS at dsyncd's listener. See tls_relay.h. */
#include "sync/tls_relay.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <event2/event.h>
#include <utlist.h>

#include "store/base/buf.h"
#include "store/base/file.h"
#include "sync/link_check.h"

#define BUFFER_MAX   ((size_t)64 * 1024)
#define PIECE_MAX    ((size_t)16 * 1024)
#define PIECES_A_RUN 16 /* then others get their turn */
#define LINGER_SECS  10 /* for the peer to take the last bytes */

struct tls_relay {
	struct tls_relay *prev, *next;
	struct tls_relays *relays;
	struct tls *tls;
	struct sockaddr_storage address;
	int tls_fd, plain_fd;
	bool handshaken;
	bool tls_ended, plain_ended; /* nothing more comes from there */
	bool lingers;
	struct buf to_plain, to_tls;
	short tls_read_events, tls_write_events; /* what the last -EAGAIN waits for */
	struct event *tls_event, *plain_event, *linger_timer, *look_timer;
};

static void free_event(struct event *event)
{
	if (event)
		event_free(event);
}

static void free_relay(struct tls_relay *relay)
{
	DL_DELETE(relay->relays->list, relay);
	free_event(relay->tls_event);
	free_event(relay->plain_event);
	free_event(relay->linger_timer);
	free_event(relay->look_timer);
	if (relay->tls)
		tls_close(relay->tls);
	tls_free(&relay->tls);
	file_close(&relay->tls_fd);
	file_close(&relay->plain_fd);
	buf_free(&relay->to_plain);
	buf_free(&relay->to_tls);
	free(relay);
}

void tls_relays_free(struct tls_relays *relays)
{
	while (relays->list)
		free_relay(relays->list);
}

/* ---- bytes; each gives 1 when something moved, 0, or a negative errno ---- */

static int tls_to_buffer(struct tls_relay *relay)
{
	ssize_t n;
	void *room;

	if (relay->tls_ended || relay->to_plain.len + PIECE_MAX > BUFFER_MAX)
		return 0;
	room = buf_reserve(&relay->to_plain, PIECE_MAX);
	if (!room)
		return relay->to_plain.failed;
	n = tls_read(relay->tls, room, PIECE_MAX);
	if (n == -EAGAIN)
		relay->tls_read_events = tls_events(relay->tls);
	if (n < 0)
		return n == -EAGAIN ? 0 : (int)n;
	if (n == 0)
		relay->tls_ended = true;
	buf_commit(&relay->to_plain, (size_t)n);
	return 1;
}

static int buffer_to_plain(struct tls_relay *relay)
{
	ssize_t n;

	if (!relay->to_plain.len)
		return 0;
	n = send(relay->plain_fd, relay->to_plain.data, relay->to_plain.len,
		 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	buf_consume(&relay->to_plain, (size_t)n);
	return 1;
}

static int plain_to_buffer(struct tls_relay *relay)
{
	ssize_t n;
	void *room;

	if (relay->plain_ended || relay->to_tls.len + PIECE_MAX > BUFFER_MAX)
		return 0;
	room = buf_reserve(&relay->to_tls, PIECE_MAX);
	if (!room)
		return relay->to_tls.failed;
	n = recv(relay->plain_fd, room, PIECE_MAX, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (n == 0)
		relay->plain_ended = true;
	buf_commit(&relay->to_tls, (size_t)n);
	return 1;
}

static int buffer_to_tls(struct tls_relay *relay)
{
	ssize_t n;

	if (!relay->to_tls.len)
		return 0;
	n = tls_write(relay->tls, relay->to_tls.data, relay->to_tls.len);
	if (n == -EAGAIN)
		relay->tls_write_events = tls_events(relay->tls);
	if (n < 0)
		return n == -EAGAIN ? 0 : (int)n;
	buf_consume(&relay->to_tls, (size_t)n);
	return 1;
}

static int move_bytes(struct tls_relay *relay)
{
	int (*const steps[])(struct tls_relay *) = {tls_to_buffer, buffer_to_plain, plain_to_buffer,
						    buffer_to_tls};
	int moved = 1;

	for (unsigned run = 0; moved > 0 && run < PIECES_A_RUN; run++) {
		moved = 0;
		for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
			int rc = steps[i](relay);

			if (rc < 0)
				return rc;
			moved |= rc;
		}
	}
	return moved;
}

/* ---- events ---- */

static void on_event(evutil_socket_t fd, short what, void *ctx);

/* Has this event wait for these poll() events, and be called at once where there is more to do. */
static int wait_on(struct tls_relay *relay, struct event **event, int fd, short events, bool now)
{
	short what = (short)((events & POLLIN ? EV_READ : 0) | (events & POLLOUT ? EV_WRITE : 0));

	if (*event)
		event_del(*event);
	if (!what && !now)
		return 0;
	if (!*event)
		*event = event_new(relay->relays->base, fd, what, on_event, relay);
	else if (event_assign(*event, relay->relays->base, fd, what, on_event, relay) < 0)
		return -ENOMEM;
	if (!*event || event_add(*event, NULL) < 0)
		return -ENOMEM;
	if (now)
		event_active(*event, EV_READ, 0);
	return 0;
}

static int wait_for_more(struct tls_relay *relay, bool now)
{
	short tls = 0, plain = 0;
	int rc;

	if (!relay->handshaken) {
		tls = tls_events(relay->tls);
		/* The end of who gave up on the peer. */
		plain = POLLIN;
	} else {
		if (!relay->tls_ended && relay->to_plain.len + PIECE_MAX <= BUFFER_MAX)
			tls |= relay->tls_read_events;
		if (relay->to_tls.len)
			tls |= relay->tls_write_events;
		if (!relay->plain_ended && relay->to_tls.len + PIECE_MAX <= BUFFER_MAX)
			plain |= POLLIN;
		if (relay->to_plain.len)
			plain |= POLLOUT;
	}
	rc = wait_on(relay, &relay->tls_event, relay->tls_fd, tls, now);
	return rc < 0 ? rc : wait_on(relay, &relay->plain_event, relay->plain_fd, plain, false);
}

/* 0: the handshake is done. */
static int step_handshake(struct tls_relay *relay)
{
	struct tls_relays *relays = relay->relays;
	struct error err = {0};
	char byte;
	int rc;

	if (relay->handshaken)
		return 0;
	if (recv(relay->plain_fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) == 0)
		return -EPIPE;
	rc = tls_handshake(relay->tls, &err);
	if (rc == 0) {
		relay->handshaken = true;
		relay->tls_read_events = POLLIN;
		relay->tls_write_events = POLLOUT;
	} else if (rc != -EAGAIN && rc != -EPIPE && rc != -ECONNRESET) {
		/* One that closed was a probe, or a port scan: not worth a line. */
		relays->refused(relays->ctx, &relay->address, err.text);
	}
	return rc;
}

/* The peer takes its last bytes, within a time; what it still sends, nobody reads. */
static int end_soon(struct tls_relay *relay)
{
	struct timeval linger = {.tv_sec = LINGER_SECS};

	if (!relay->to_tls.len)
		return -EPIPE;
	if (relay->lingers)
		return 0;
	relay->lingers = true;
	relay->tls_ended = true;
	buf_clear(&relay->to_plain);
	return event_add(relay->linger_timer, &linger) < 0 ? -ENOMEM : 0;
}

static void run(struct tls_relay *relay)
{
	int moved = 0, rc = step_handshake(relay);

	if (rc == 0) {
		moved = rc = move_bytes(relay);
		if (rc > 0)
			rc = 0;
	} else if (rc == -EAGAIN) {
		rc = 0;
	}
	/* Either end may say that it sends no more before it has read everything; only who has gone
	 * altogether ends it. dsync's sessions end by both. */
	if (rc == 0 && relay->plain_ended)
		rc = end_soon(relay);
	if (rc == 0 && relay->tls_ended && !relay->lingers && !relay->to_plain.len)
		shutdown(relay->plain_fd, SHUT_WR);
	if (rc == 0)
		rc = wait_for_more(relay, moved > 0);
	if (rc < 0)
		free_relay(relay);
}

static void on_event(evutil_socket_t fd, short what, void *ctx)
{
	run(ctx);
}

/* The next read from it finds the end. */
static void on_look(evutil_socket_t fd, short what, void *ctx)
{
	const struct tls_relay *relay = ctx;

	if (link_is_dead(relay->tls_fd))
		shutdown(relay->tls_fd, SHUT_RDWR);
}

static void on_linger(evutil_socket_t fd, short what, void *ctx)
{
	free_relay(ctx);
}

int tls_relay_new(struct tls_relays *relays, const struct tls_server *server, int fd,
		  const struct sockaddr_storage *address, int *plain_fd_r, struct error *err)
{
	const struct timeval look = {.tv_sec = LINK_CHECK_MS / 1000};
	struct tls_relay *relay = calloc(1, sizeof *relay);
	int pair[2] = {-1, -1}, rc;

	if (!relay) {
		close(fd);
		return error_errno(err, -ENOMEM, "TLS connection");
	}
	relay->relays = relays;
	relay->tls_fd = fd;
	relay->plain_fd = -1;
	relay->address = *address;
	relay->to_plain = (struct buf)BUF_INIT(BUFFER_MAX);
	relay->to_tls = (struct buf)BUF_INIT(BUFFER_MAX);
	DL_APPEND(relays->list, relay);
	rc = tls_accept(server, fd, &relay->tls, err);
	if (rc == 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) < 0)
		rc = error_errno(err, -errno, "TLS connection");
	if (rc < 0) {
		free_relay(relay);
		return rc;
	}
	relay->plain_fd = pair[0];
	relay->linger_timer = evtimer_new(relays->base, on_linger, relay);
	relay->look_timer = event_new(relays->base, -1, EV_PERSIST, on_look, relay);
	/* Its first step is taken by the loop, not by who accepted. */
	if (!relay->linger_timer || !relay->look_timer || event_add(relay->look_timer, &look) < 0 ||
	    wait_on(relay, &relay->tls_event, relay->tls_fd, POLLIN, false) < 0 ||
	    wait_on(relay, &relay->plain_event, relay->plain_fd, POLLIN, false) < 0) {
		close(pair[1]);
		free_relay(relay);
		return error_errno(err, -ENOMEM, "TLS connection");
	}
	*plain_fd_r = pair[1];
	return 0;
}
