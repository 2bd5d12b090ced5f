/*
 * Connections to a peer's doveadm port, as streams: tcp: or, with TLS, tcps:. Blocking, with
 * deadlines, for workers and the dsync command.
 */
#ifndef DSYNCFS_SYNC_PEER_CONNECT_H
#define DSYNCFS_SYNC_PEER_CONNECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include "store/base/error.h"
#include "store/settings.h"
#include "sync/stream.h"
#include "sync/tls.h"

struct peer_place {
	const char *text; /* as written, for messages */
	const char *host;
	uint16_t port;
	bool tls;
};

/* Connects and proves the password; the stream then takes peer_ask_session(). *tls: made where it
 * is needed and NULL, and kept by the caller for the next time. address_r may be NULL. -EACCES: the
 * password was refused. TLS_REFUSED: the certificate is not acceptable. */
int peer_connect(const struct peer_place *place, const struct settings *set,
		 struct tls_client **tls, unsigned handshake_ms, struct sockaddr_storage *address_r,
		 struct stream **stream_r, struct error *err);

/* Asks for this user's session. 0: the dsync stream begins. -EREMOTEIO: refused; code_r says how
 * ("NOUSER", ...; "" when nothing was said). */
int peer_ask_session(struct stream *stream, const char *user, unsigned reply_ms, char *code_r,
		     size_t code_size, struct error *err);

#endif
