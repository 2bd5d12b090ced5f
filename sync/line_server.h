/*
 * A unix socket for a line protocol, in dsyncd's event loop: connections, lines in, answers out.
 * Bounded: connections, a line's length, the answer that waits for a client, its silence.
 */
#ifndef DSYNCFS_SYNC_LINE_SERVER_H
#define DSYNCFS_SYNC_LINE_SERVER_H

#include <stdbool.h>
#include "store/base/buf.h"
#include "store/base/error.h"
#include "store/settings.h"

#define LINE_SERVER_LINE_MAX 8192

struct event_base;
struct line_client;
struct line_server;

struct line_protocol {
	const char *greeting; /* sent first; NULL: none */
	const char *opening;  /* a client's first line, which has to be this; NULL: it has none */
	bool root_only;	      /* the kernel's word: no one else but our own user */
	unsigned clients_max; /* one more ends the oldest */
	unsigned idle_secs;   /* without a line; 0: any time */
	size_t answer_max;
	/* A line without its LF, which may be changed. false: the client is to go, once its answer
	 * is sent. */
	bool (*line)(void *ctx, struct line_client *client, char *line);
	/* The client goes now; NULL: nobody cares. */
	void (*gone)(void *ctx, struct line_client *client);
};

int line_server_new(struct event_base *base, const char *path, const struct settings_socket *owner,
		    const struct line_protocol *protocol, void *ctx, struct line_server **server_r,
		    struct error *err);
void line_server_free(struct line_server **server);

/* To be appended to; then line_client_send(), if not from line(). */
struct buf *line_client_answer(struct line_client *client);
void line_client_send(struct line_client *client);

#endif
