/*
 * TLS at dsyncd's listener: a relay between an accepted connection and one end of a socket pair,
 * whose other end is used, and handed to a worker, as if the peer had come without TLS.
 *
 * So the key stays with dsyncd, and a session's state, which cannot travel to another process, need
 * not. The relay lives in dsyncd's event loop and never blocks it; each direction buffers some
 * kilobytes. It ends when either side does, and then frees itself.
 */
#ifndef DSYNCFS_SYNC_TLS_RELAY_H
#define DSYNCFS_SYNC_TLS_RELAY_H

#include <sys/socket.h>
#include "store/base/error.h"
#include "sync/tls.h"

struct event_base;
struct tls_relay;

/* All relays of one listener. */
struct tls_relays {
	struct event_base *base;
	struct tls_relay *list;
	/* The handshake failed. */
	void (*refused)(void *ctx, const struct sockaddr_storage *address, const char *text);
	void *ctx;
};

/* fd is the relay's from here on, whatever comes of it. The plain end is non-blocking. */
int tls_relay_new(struct tls_relays *relays, const struct tls_server *server, int fd,
		  const struct sockaddr_storage *address, int *plain_fd_r, struct error *err);
/* Cuts every connection. */
void tls_relays_free(struct tls_relays *relays);

#endif
