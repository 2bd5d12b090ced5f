/* Connections to a peer's doveadm port. See peer_connect.h. */
#include "sync/peer_connect.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "store/base/file.h"
#include "sync/doveadm_protocol.h"
#include "sync/tcp.h"

/* ---- TLS as a stream's transport ---- */

static ssize_t transport_read(void *ctx, void *data, size_t size)
{
	return tls_read(ctx, data, size);
}

static ssize_t transport_write(void *ctx, const void *data, size_t len)
{
	return tls_write(ctx, data, len);
}

static short transport_events(const void *ctx)
{
	return tls_events(ctx);
}

static void transport_close(void *ctx)
{
	struct tls *tls = ctx;

	tls_close(tls);
	tls_free(&tls);
}

/* fd and tls become the stream's, or are closed. */
static int new_stream(int fd, struct tls *tls, const struct peer_place *place,
		      struct stream **stream_r, struct error *err)
{
	struct stream_settings settings = {.peer_name = place->text};
	struct stream_transport transport = {
		.ctx = tls,
		.read = transport_read,
		.write = transport_write,
		.events = transport_events,
		.close = transport_close,
	};
	int rc = stream_new(fd, fd, &settings, stream_r, err);

	if (rc < 0) {
		tls_free(&tls);
		close(fd);
		return rc;
	}
	if (tls)
		stream_set_transport(*stream_r, &transport);
	return 0;
}

static int open_stream(const struct peer_place *place, const struct settings *set,
		       struct tls_client **client, int64_t deadline_ms,
		       struct sockaddr_storage *address_r, struct stream **stream_r,
		       struct error *err)
{
	AUTO_CLOSE int fd = -1;
	struct tls *tls = NULL;
	int owned, rc = 0;

	/* What is wrong with our own settings does not need the peer. */
	if (place->tls && !*client)
		rc = tls_client_new(set, client, err);
	if (rc == 0)
		rc = tcp_connect(place->host, place->port, TCP_CONNECT_TIMEOUT_MS, &fd, address_r,
				 err);
	if (rc == 0 && place->tls)
		rc = tls_connect(*client, fd, place->host, deadline_ms, &tls, err);
	if (rc < 0)
		return rc;
	owned = fd;
	fd = -1;
	return new_stream(owned, tls, place, stream_r, err);
}

/* ---- the doveadm protocol on it ---- */

/* Sends what is in out, and lets the client work on the next line. */
static int converse(struct stream *stream, struct doveadm_client *client, const char *password,
		    struct buf *out, struct error *err)
{
	AUTO_BUF struct buf in = BUF_INIT(DOVEADM_LINE_MAX * 2);
	char *line = NULL;
	size_t len = 0;
	int rc = out->failed ? error_errno(err, out->failed, "doveadm protocol") : 0;

	if (rc == 0)
		rc = stream_write(stream, out->data, out->len, err);
	buf_clear(out);
	if (rc == 0)
		rc = stream_flush(stream, err);
	if (rc == 0)
		rc = stream_read_line(stream, &line, &len, err);
	if (rc < 0)
		return rc;
	buf_append(&in, line, len);
	buf_append_byte(&in, '\n');
	if (in.failed)
		return error_set(err, -EPROTO, "the peer's answer is not that of a doveadm server");
	return doveadm_client_input(client, password, &in, out, err);
}

static int log_in(struct stream *stream, const char *password, struct error *err)
{
	AUTO_BUF struct buf out = BUF_INIT(DOVEADM_LINE_MAX);
	struct doveadm_client client;
	int rc = 0;

	doveadm_client_start(&client, &out);
	while (rc == 0 && client.state != DOVEADM_CLIENT_READY)
		rc = converse(stream, &client, password, &out, err);
	return rc;
}

int peer_connect(const struct peer_place *place, const struct settings *set,
		 struct tls_client **tls, unsigned handshake_ms, struct sockaddr_storage *address_r,
		 struct stream **stream_r, struct error *err)
{
	struct stream *stream = NULL;
	/* Names are resolved and addresses tried before it begins. */
	int64_t deadline_ms = tcp_now_ms() + TCP_CONNECT_TIMEOUT_MS + handshake_ms;
	int rc = open_stream(place, set, tls, deadline_ms, address_r, &stream, err);

	if (rc == 0) {
		stream_set_deadline(stream, handshake_ms);
		rc = log_in(stream, set->doveadm_password, err);
	}
	if (rc < 0) {
		stream_free(&stream);
		return rc;
	}
	stream_set_deadline(stream, 0);
	*stream_r = stream;
	return 0;
}

int peer_ask_session(struct stream *stream, const char *user, unsigned reply_ms, char *code_r,
		     size_t code_size, struct error *err)
{
	struct doveadm_client client = {.state = DOVEADM_CLIENT_READY};
	AUTO_BUF struct buf out = BUF_INIT(DOVEADM_LINE_MAX);
	int rc = doveadm_client_command(&client, user, &out);

	code_r[0] = '\0';
	if (rc < 0)
		return error_errno(err, rc, "user %s: the name cannot be sent", user);
	stream_set_deadline(stream, reply_ms);
	while (rc == 0 && client.state != DOVEADM_CLIENT_STREAM)
		rc = converse(stream, &client, "", &out, err);
	snprintf(code_r, code_size, "%s", client.code);
	stream_set_deadline(stream, 0);
	return rc;
}
