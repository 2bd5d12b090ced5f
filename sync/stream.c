/*
 * The transport below the dsync protocol: descriptors, queues, lines.
 *
 * The descriptors never block us but in poll(). Output collects in a queue and is sent before we
 * wait for anything; whenever we wait for the peer to read, we also take in what it sends, up to
 * max_ahead_bytes. Values are in stream_value.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/clock.h"
#include "store/base/file.h"
#include "sync/link_check.h"
#include "sync/raw_log.h"
#include "sync/stream_private.h"

#define TIMEOUT_SECS_DEFAULT 600
#define LINE_BYTES_DEFAULT   ((size_t)1024 * 1024)
#define AHEAD_BYTES_DEFAULT  ((size_t)16 * 1024 * 1024)
#define MEMORY_OUT_MAX	     ((size_t)256 * 1024 * 1024)
#define LAST_WORDS_SECS	     1
#define FRAME_HEADER_SIZE    5
#define NO_FRAME	     SIZE_MAX

int stream_fail(struct stream *stream, struct error *err, int code, const char *what)
{
	if (stream->error.code == 0)
		error_errno(&stream->error, code, "%s: %s (last sent=%s, last received=%s)",
			    stream->peer_name, what, stream->last_sent, stream->last_received);
	return stream_check(stream, err);
}

int stream_set_failed(struct stream *stream, int code, struct error *err)
{
	/* What the stream itself reported is told already. */
	if (stream->error.code != 0)
		return code;
	error_set(&stream->error, code, "%s: %.600s (last sent=%s, last received=%s)",
		  stream->peer_name, err != NULL ? err->text : strerror(-code), stream->last_sent,
		  stream->last_received);
	return stream_check(stream, err);
}

int stream_check(const struct stream *stream, struct error *err)
{
	if (stream->error.code != 0 && err != NULL)
		*err = stream->error;
	return stream->error.code;
}

static struct stream *stream_alloc(const struct stream_settings *settings)
{
	static const struct stream_settings defaults;
	struct stream *stream = calloc(1, sizeof(*stream));
	const struct stream_settings *set = settings != NULL ? settings : &defaults;

	if (stream == NULL)
		return NULL;
	stream->fd_in = stream->fd_out = -1;
	stream->fl_in = stream->fl_out = -1;
	stream->timeout_secs = set->timeout_secs != 0 ? set->timeout_secs : TIMEOUT_SECS_DEFAULT;
	stream->max_line_bytes =
		set->max_line_bytes != 0 ? set->max_line_bytes : LINE_BYTES_DEFAULT;
	stream->max_ahead_bytes =
		set->max_ahead_bytes != 0 ? set->max_ahead_bytes : AHEAD_BYTES_DEFAULT;
	stream_set_peer_name(stream, set->peer_name != NULL ? set->peer_name : "peer");
	stream->last_sent = stream->last_received = "none";
	stream->frame_at = NO_FRAME;
	/* A line that is just too long is only noticed once it has been read. */
	buf_init(&stream->in,
		 stream->max_line_bytes + stream->max_ahead_bytes + 4 * STREAM_READ_SIZE);
	buf_init(&stream->out, SIZE_MAX / 2);
	buf_init(&stream->memory_out, MEMORY_OUT_MAX);
	return stream;
}

/* Sockets are asked not to block with each call; a pipe needs the flag. */
static int make_nonblocking(int fd, bool *is_socket_r, int *old_flags_r, struct error *err)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		return error_errno(err, -errno, "fstat of the peer's descriptor %d", fd);
	*is_socket_r = S_ISSOCK(st.st_mode);
	if (*is_socket_r)
		return 0;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0)
		return error_errno(err, -errno, "flags of the peer's descriptor %d", fd);
	if ((flags & O_NONBLOCK) != 0)
		return 0;
	if (fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return error_errno(err, -errno, "O_NONBLOCK on the peer's descriptor %d", fd);
	*old_flags_r = flags;
	return 0;
}

/* The flags belong to the open file, which others (a shell) may share. */
static void restore_flags(struct stream *stream)
{
	if (stream->fl_in >= 0)
		(void)fcntl(stream->fd_in, F_SETFL, stream->fl_in);
	if (stream->fl_out >= 0)
		(void)fcntl(stream->fd_out, F_SETFL, stream->fl_out);
	stream->fl_in = stream->fl_out = -1;
}

void stream_set_transport(struct stream *stream, const struct stream_transport *transport)
{
	stream->transport = *transport;
	stream->read_events = POLLIN;
	stream->write_events = POLLOUT;
}

static void free_memory(struct stream *stream)
{
	if (stream->free_session != NULL && stream->session != NULL)
		stream->free_session(stream->session);
	buf_free(&stream->in);
	buf_free(&stream->out);
	buf_free(&stream->memory_out);
	free(stream);
}

int stream_new(int fd_in, int fd_out, const struct stream_settings *settings,
	       struct stream **stream_r, struct error *err)
{
	struct stream *stream = stream_alloc(settings);

	if (stream == NULL)
		return error_errno(err, -ENOMEM, "stream to the peer");
	stream->fd_in = fd_in;
	stream->fd_out = fd_out;
	int ret = make_nonblocking(fd_in, &stream->in_is_socket, &stream->fl_in, err);
	if (ret == 0)
		ret = make_nonblocking(fd_out, &stream->out_is_socket, &stream->fl_out, err);
	if (ret < 0) {
		restore_flags(stream);
		free_memory(stream);
		return ret;
	}
	*stream_r = stream;
	return 0;
}

int stream_new_pair(const struct stream_settings *settings, struct stream **a_r,
		    struct stream **b_r, struct error *err)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) < 0)
		return error_errno(err, -errno, "socketpair");
	int ret = stream_new(fds[0], fds[0], settings, a_r, err);
	if (ret < 0) {
		close(fds[0]);
		close(fds[1]);
		return ret;
	}
	ret = stream_new(fds[1], fds[1], settings, b_r, err);
	if (ret < 0) {
		stream_free(a_r);
		close(fds[1]);
	}
	return ret;
}

int stream_new_memory(const void *data, size_t len, const struct stream_settings *settings,
		      struct stream **stream_r, struct error *err)
{
	struct stream *stream = stream_alloc(settings);

	if (stream == NULL)
		return error_errno(err, -ENOMEM, "stream");
	stream->memory = true;
	stream->eof = true;
	stream->in.max = SIZE_MAX / 2;
	int ret = buf_append(&stream->in, data, len);
	if (ret < 0) {
		free_memory(stream);
		return error_errno(err, ret, "stream");
	}
	*stream_r = stream;
	return 0;
}

const struct buf *stream_written(const struct stream *stream)
{
	return &stream->memory_out;
}

void stream_free(struct stream **_stream)
{
	struct stream *stream = *_stream;

	if (stream == NULL)
		return;
	*_stream = NULL;
	restore_flags(stream);
	if (stream->transport.ctx != NULL)
		stream->transport.close(stream->transport.ctx);
	if (stream->fd_out != stream->fd_in)
		file_close(&stream->fd_out);
	file_close(&stream->fd_in);
	free_memory(stream);
}

void stream_release(struct stream **_stream, int *fd_in_r, int *fd_out_r, struct buf *unread)
{
	struct stream *stream = *_stream;

	*_stream = NULL;
	restore_flags(stream);
	*fd_in_r = stream->fd_in;
	*fd_out_r = stream->fd_out;
	if (unread != NULL && stream_in_len(stream) > 0)
		(void)buf_append(unread, stream->in.data + stream->in_pos, stream_in_len(stream));
	free_memory(stream);
}

int stream_push_input(struct stream *stream, const void *data, size_t len, struct error *err)
{
	int ret = buf_append(&stream->in, data, len);

	if (ret < 0)
		return stream_fail(stream, err, ret, "early input");
	stream->bytes_in += len;
	return 0;
}

void stream_set_timeout(struct stream *stream, unsigned timeout_secs)
{
	stream->timeout_secs = timeout_secs != 0 ? timeout_secs : TIMEOUT_SECS_DEFAULT;
}

void stream_set_peer_name(struct stream *stream, const char *name)
{
	snprintf(stream->peer_name, sizeof(stream->peer_name), "%s", name);
}

void stream_set_deadline(struct stream *stream, unsigned ms)
{
	stream->deadline_ms = ms != 0 ? clock_ms(CLOCK_MONOTONIC) + ms : 0;
}

const char *stream_peer_name(const struct stream *stream)
{
	return stream->peer_name;
}

int stream_fd_in(const struct stream *stream)
{
	return stream->fd_in;
}

void stream_note_sent(struct stream *stream, const char *item)
{
	stream->last_sent = item;
}

void stream_note_received(struct stream *stream, const char *item)
{
	stream->last_received = item;
}

void stream_set_raw_log(struct stream *stream, struct raw_log *log)
{
	stream->raw_log = log;
}

uint64_t stream_bytes_in(const struct stream *stream)
{
	return stream->bytes_in;
}

uint64_t stream_bytes_out(const struct stream *stream)
{
	return stream->bytes_out;
}

void stream_set_session(struct stream *stream, void *session, void (*free_session)(void *))
{
	if (stream->free_session != NULL && stream->session != NULL)
		stream->free_session(stream->session);
	stream->session = session;
	stream->free_session = free_session;
}

void *stream_session(const struct stream *stream)
{
	return stream->session;
}

void stream_consume(struct stream *stream, size_t len)
{
	stream->in_pos += len;
	if (stream->in_scan < stream->in_pos)
		stream->in_scan = stream->in_pos;
	if (stream->in_pos == stream->in.len) {
		buf_clear(&stream->in);
		stream->in_pos = stream->in_scan = 0;
	}
}

/* The consumed front is dropped only when it is worth the move. */
static void compact_input(struct stream *stream)
{
	if (stream->in_pos == 0 ||
	    (stream->in_pos < STREAM_READ_SIZE && stream->in_pos < stream->in.len))
		return;
	buf_consume(&stream->in, stream->in_pos);
	stream->in_scan -= stream->in_pos;
	stream->in_pos = 0;
}

/* As recv(): -1 and errno. */
static ssize_t receive_bytes(struct stream *stream, void *space, size_t size)
{
	const struct stream_transport *transport = &stream->transport;

	if (transport->ctx != NULL) {
		ssize_t n = transport->read(transport->ctx, space, size);

		if (n == -EAGAIN)
			stream->read_events = transport->events(transport->ctx);
		if (n >= 0)
			return n;
		errno = (int)-n;
		return -1;
	}
	return stream->in_is_socket ? recv(stream->fd_in, space, size, MSG_DONTWAIT)
				    : read(stream->fd_in, space, size);
}

/* Reads once. 1: something, or the end; 0: nothing there. */
static int receive_some(struct stream *stream, struct error *err)
{
	if (stream->eof)
		return 0;
	compact_input(stream);
	void *space = buf_reserve(&stream->in, STREAM_READ_SIZE);
	if (space == NULL)
		return stream_fail(stream, err, -ENOBUFS, "too much input");
	ssize_t n = receive_bytes(stream, space, STREAM_READ_SIZE);
	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		return stream_fail(stream, err, -errno, "read failed");
	}
	if (n == 0)
		stream->eof = true;
	raw_log_add(stream->raw_log, RAW_LOG_IN, space, (size_t)n);
	buf_commit(&stream->in, (size_t)n);
	stream->bytes_in += (uint64_t)n;
	return 1;
}

/* Fills in the length of the packet that is being collected. */
static void close_frame(struct stream *stream)
{
	if (stream->frame_at == NO_FRAME)
		return;
	size_t len = stream->out.len - stream->frame_at - FRAME_HEADER_SIZE;
	unsigned char *header = (unsigned char *)stream->out.data + stream->frame_at;

	header[0] = 0;
	header[1] = (unsigned char)(len >> 24);
	header[2] = (unsigned char)(len >> 16);
	header[3] = (unsigned char)(len >> 8);
	header[4] = (unsigned char)len;
	stream->frame_at = NO_FRAME;
}

static ssize_t send_bytes(struct stream *stream, const char *data, size_t len)
{
	if (stream->memory) {
		int ret = buf_append(&stream->memory_out, data, len);
		if (ret < 0) {
			errno = -ret;
			return -1;
		}
		return (ssize_t)len;
	}
	if (stream->transport.ctx != NULL) {
		const struct stream_transport *transport = &stream->transport;
		ssize_t n = transport->write(transport->ctx, data, len);

		if (n == -EAGAIN)
			stream->write_events = transport->events(transport->ctx);
		if (n >= 0)
			return n;
		errno = (int)-n;
		return -1;
	}
	if (stream->out_is_socket)
		return send(stream->fd_out, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	return write(stream->fd_out, data, len);
}

/* Sends once. 1: something was sent; 0: not possible now. */
static int send_some(struct stream *stream, struct error *err)
{
	close_frame(stream);
	size_t len = stream_out_len(stream);
	if (len == 0)
		return 0;
	ssize_t n = send_bytes(stream, stream->out.data + stream->out_pos, len);
	if (n < 0) {
		if (errno == EAGAIN || errno == EINTR)
			return 0;
		return stream_fail(stream, err, -errno, "write failed");
	}
	raw_log_add(stream->raw_log, RAW_LOG_OUT, stream->out.data + stream->out_pos, (size_t)n);
	stream->bytes_out += (uint64_t)n;
	stream->out_pos += (size_t)n;
	if (stream->out_pos == stream->out.len) {
		buf_clear(&stream->out);
		stream->out_pos = 0;
	} else if (stream->out_pos > STREAM_OUT_BLOCK) {
		buf_consume(&stream->out, stream->out_pos);
		stream->out_pos = 0;
	}
	return 1;
}

static bool may_receive(const struct stream *stream)
{
	return !stream->eof && stream_in_len(stream) < stream->max_ahead_bytes;
}

int stream_pump(struct stream *stream, struct error *err)
{
	int ret = stream_check(stream, err);

	if (ret < 0)
		return ret;
	do {
		ret = send_some(stream, err);
	} while (ret > 0 && stream_out_len(stream) > 0);
	if (ret >= 0 && may_receive(stream))
		ret = receive_some(stream, err);
	return ret < 0 ? ret : 0;
}

static int fail_stalled(struct stream *stream, struct error *err)
{
	char what[80];

	if (stream->deadline_ms != 0 && clock_ms(CLOCK_MONOTONIC) >= stream->deadline_ms)
		return stream_fail(stream, err, -ETIMEDOUT, "no answer in time");
	snprintf(what, sizeof(what), "I/O has stalled, no activity for %u seconds",
		 stream->timeout_secs);
	return stream_fail(stream, err, -ETIMEDOUT, what);
}

/* How long to wait for a byte; 0: no longer. */
static int wait_ms(const struct stream *stream)
{
	int64_t timeout_ms = (int64_t)stream->timeout_secs * 1000;
	int64_t left_ms;

	if (stream->deadline_ms == 0)
		return (int)timeout_ms;
	left_ms = stream->deadline_ms - clock_ms(CLOCK_MONOTONIC);
	return left_ms <= 0 ? 0 : (int)(left_ms < timeout_ms ? left_ms : timeout_ms);
}

/* As poll(); -ENOTCONN: the link was cut meanwhile. */
static int wait_for_either(const struct stream *stream, struct pollfd fds[2])
{
	int left_ms = wait_ms(stream);

	for (;;) {
		int slice_ms = left_ms < LINK_CHECK_MS ? left_ms : LINK_CHECK_MS;
		int n = poll(fds, 2, slice_ms);

		left_ms -= slice_ms;
		if (n != 0 || left_ms == 0)
			return n;
		if (link_is_dead(stream->fd_out))
			return -ENOTCONN;
	}
}

/* Waits until the peer reads or sends, and lets it. */
static int wait_once(struct stream *stream, struct error *err)
{
	bool receive = may_receive(stream), transmit = stream_out_len(stream) > 0;
	bool plain = stream->transport.ctx == NULL;
	/* poll() skips negative descriptors. */
	struct pollfd fds[2] = {
		{.fd = receive ? stream->fd_in : -1,
		 .events = plain ? POLLIN : stream->read_events},
		{.fd = transmit ? stream->fd_out : -1,
		 .events = plain ? POLLOUT : stream->write_events},
	};

	if (!receive && !transmit)
		return stream->eof ? stream_fail(stream, err, -EPIPE, "unexpected end of input")
				   : stream_fail(stream, err, -ENOBUFS,
						 "sends more than can be buffered");
	int n = wait_for_either(stream, fds);
	if (n == -ENOTCONN)
		return stream_fail(stream, err, -ETIMEDOUT, "the peer does not answer any more");
	if (n < 0 && errno == EINTR)
		return 0;
	if (n < 0)
		return stream_fail(stream, err, -errno, "poll");
	if (n == 0)
		return fail_stalled(stream, err);
	/* What the peer still said comes first: it may be the reason why it no longer reads. */
	int ret = 0;
	if (fds[0].revents != 0)
		ret = receive_some(stream, err);
	if (ret >= 0 && fds[1].revents != 0)
		ret = send_some(stream, err);
	return ret < 0 ? ret : 0;
}

int stream_poll(struct stream *stream, struct error *err)
{
	int ret = stream_check(stream, err);

	if (ret < 0)
		return ret;
	ret = send_some(stream, err);
	if (ret < 0)
		return ret;
	if (ret > 0)
		return 0;
	return wait_once(stream, err);
}

int stream_fill(struct stream *stream, struct error *err)
{
	size_t before = stream_in_len(stream);
	int ret = stream_check(stream, err);

	while (ret == 0 && stream_in_len(stream) == before) {
		if (stream->eof)
			return stream_fail(stream, err, -EPIPE, "unexpected end of input");
		ret = send_some(stream, err);
		if (ret >= 0)
			ret = wait_once(stream, err);
	}
	return ret;
}

/* The LF of the next line, NULL if it has not come yet. */
static char *find_line_end(struct stream *stream)
{
	if (stream->in_scan >= stream->in.len)
		return NULL;
	char *end =
		memchr(stream->in.data + stream->in_scan, '\n', stream->in.len - stream->in_scan);
	stream->in_scan = end != NULL ? (size_t)(end - stream->in.data) : stream->in.len;
	return end;
}

int stream_read_line(struct stream *stream, char **line_r, size_t *len_r, struct error *err)
{
	int ret = stream_check(stream, err);
	char *end = NULL;

	while (ret == 0 && (end = find_line_end(stream)) == NULL) {
		if (stream_in_len(stream) > stream->max_line_bytes)
			break;
		ret = stream_fill(stream, err);
	}
	if (ret < 0)
		return ret;
	char *line = stream->in.data + stream->in_pos;
	size_t len = end != NULL ? (size_t)(end - line) : stream_in_len(stream);
	if (len > stream->max_line_bytes)
		return stream_fail(stream, err, -EMSGSIZE, "line too long");
	/* Not stream_consume(): the caller works on the line in the buffer. */
	stream->in_pos += len + 1;
	stream->in_scan = stream->in_pos;
	if (len > 0 && line[len - 1] == '\r')
		len--;
	line[len] = '\0';
	*line_r = line;
	*len_r = len;
	return 0;
}

bool stream_can_read(struct stream *stream, bool in_value)
{
	if (stream->error.code != 0)
		return true;
	if (in_value)
		return stream_value_ready(stream);
	return find_line_end(stream) != NULL || stream->eof ||
	       stream_in_len(stream) > stream->max_line_bytes;
}

bool stream_can_write(const struct stream *stream)
{
	return stream->error.code != 0 || stream_out_len(stream) < STREAM_OUT_MARK;
}

int stream_write(struct stream *stream, const void *data, size_t len, struct error *err)
{
	int ret = stream_check(stream, err);

	if (ret < 0)
		return ret;
	if (stream->framing && stream->frame_at == NO_FRAME) {
		stream->frame_at = stream->out.len;
		(void)buf_append(&stream->out, "\0\0\0\0", FRAME_HEADER_SIZE);
	}
	ret = buf_append(&stream->out, data, len);
	if (ret < 0)
		return stream_fail(stream, err, ret, "output");
	if (stream_out_len(stream) > STREAM_OUT_MARK)
		ret = stream_pump(stream, err);
	while (ret == 0 && stream_out_len(stream) > STREAM_OUT_BLOCK)
		ret = wait_once(stream, err);
	return ret;
}

int stream_write_str(struct stream *stream, const char *str, struct error *err)
{
	return stream_write(stream, str, strlen(str), err);
}

int stream_flush(struct stream *stream, struct error *err)
{
	int ret = stream_check(stream, err);

	while (ret == 0 && stream_out_len(stream) > 0) {
		ret = send_some(stream, err);
		if (ret == 0)
			ret = wait_once(stream, err);
		else if (ret > 0)
			ret = 0;
	}
	return ret;
}

void stream_close_with(struct stream *stream, const char *lines)
{
	struct error why = stream->error;
	unsigned timeout_secs = stream->timeout_secs;

	if (stream->write_in_value)
		return;
	stream->error.code = 0;
	stream->timeout_secs = LAST_WORDS_SECS;
	/* Nobody reads here any more; a peer that only sends must not keep us. */
	stream->max_ahead_bytes = 0;
	(void)stream_write_str(stream, lines, NULL);
	(void)stream_flush(stream, NULL);
	stream->timeout_secs = timeout_secs;
	if (why.code != 0)
		stream->error = why;
}

int stream_set_output_framing(struct stream *stream, bool on, struct error *err)
{
	int ret = stream_flush(stream, err);

	if (ret == 0)
		stream->framing = on;
	return ret;
}
