/*
 * The doveadm protocol, as far as dsync sessions over TCP need it: handshake, password, one command
 * line, its reply. After the reply the dsync stream follows on the same connection.
 *
 * Both sides are state machines over buffers: they do no input or output, never block, and can be
 * driven by dsyncd's event loop as well as by a worker's blocking loop. Bytes that they do not
 * consume belong to what follows.
 *
 * The client announces minor 0, so no server packs its output. The server takes clients of minor 0
 * to 3 and says from 1 on that what follows the password's "+" is packed (channel, length, data);
 * whoever writes the reply and the stream does the packing (doveadm_reply_*(), stream.h).
 *
 * What is bounded: a line before the password DOVEADM_LINE_MAX_AUTH bytes, after it
 * DOVEADM_LINE_MAX.
 */
#ifndef DSYNCFS_SYNC_DOVEADM_PROTOCOL_H
#define DSYNCFS_SYNC_DOVEADM_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/buf.h"
#include "store/base/error.h"

#define DOVEADM_LINE_MAX_AUTH 1024
#define DOVEADM_LINE_MAX      8192
#define DOVEADM_USER_MAX      512 /* bytes of a user name, with its NUL */

/* The refusal of a command for a user of another uid on a connection that a worker holds: the
 * client opens a new one (PROTOCOL.md). */
#define DOVEADM_CODE_REFERRAL "REFERRAL"

/* ---- server ---- */

enum doveadm_server_state {
	DOVEADM_SERVER_VERSION,
	DOVEADM_SERVER_AUTH,
	DOVEADM_SERVER_COMMAND,
	DOVEADM_SERVER_CLOSED
};

struct doveadm_server {
	enum doveadm_server_state state;
	unsigned client_minor;
	bool log_passthrough; /* the client asked for log lines (minor 3) */
};

struct doveadm_command {
	char user[DOVEADM_USER_MAX];
	bool debug;
	bool replicator; /* a Dovecot's replicator calls (-U), not somebody's command */
};

enum doveadm_event {
	DOVEADM_MORE,	 /* needs more input */
	DOVEADM_COMMAND, /* a dsync-server command; the rest of the input is the session's */
	DOVEADM_CLOSE,	 /* send what is in out, then close; err says why */
};

void doveadm_server_init(struct doveadm_server *server);
/* A server behind the password: for the next command on a connection that had one. */
void doveadm_server_init_authenticated(struct doveadm_server *server, unsigned client_minor,
				       bool log_passthrough);
/* True when output is packed from here on. */
bool doveadm_server_is_framed(const struct doveadm_server *server);
/* Consumes whole lines from in and appends what has to be sent to out. After DOVEADM_COMMAND the
 * caller answers with doveadm_reply_ok() or doveadm_reply_fail(). err->code -EACCES: the password
 * was wrong. An empty password lets nobody in. */
enum doveadm_event doveadm_server_input(struct doveadm_server *server, const char *password,
					struct buf *in, struct buf *out,
					struct doveadm_command *command_r, struct error *err);

/* The answer to a command. text becomes a log line at the client, if it takes them. */
void doveadm_reply_ok(const struct doveadm_server *server, struct buf *out);
void doveadm_reply_fail(const struct doveadm_server *server, const char *code, const char *text,
			struct buf *out);

/* ---- client ---- */

enum doveadm_client_state {
	DOVEADM_CLIENT_GREETING,
	DOVEADM_CLIENT_AUTH,
	DOVEADM_CLIENT_READY, /* takes a command */
	DOVEADM_CLIENT_REPLY_OUTPUT,
	DOVEADM_CLIENT_REPLY_STATUS,
	DOVEADM_CLIENT_STREAM, /* the dsync stream begins with the next byte in either direction */
	DOVEADM_CLIENT_FAILED
};

struct doveadm_client {
	enum doveadm_client_state state;
	char code[32]; /* of a refused command: "NOUSER", ...; "" when none was given */
};

/* Appends the first line to out. */
void doveadm_client_start(struct doveadm_client *client, struct buf *out);
/* Consumes whole lines. 0: look at client->state. -EACCES: the password was refused. -EPROTO: not a
 * doveadm server. -EREMOTEIO: the command was refused; client->code and err say how. */
int doveadm_client_input(struct doveadm_client *client, const char *password, struct buf *in,
			 struct buf *out, struct error *err);
/* In state READY: asks for a session of this user. */
int doveadm_client_command(struct doveadm_client *client, const char *user, struct buf *out);
/* After a session between two dsyncfs nodes: READY again. */
void doveadm_client_reuse(struct doveadm_client *client);

#endif
