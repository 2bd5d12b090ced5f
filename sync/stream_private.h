/* The inside of struct stream, shared by stream.c (transport and lines) and stream_value.c. */
#ifndef DSYNCFS_SYNC_STREAM_PRIVATE_H
#define DSYNCFS_SYNC_STREAM_PRIVATE_H

#include "sync/stream.h"

#define STREAM_OUT_MARK	 ((size_t)64 * 1024)  /* stream_can_write() is true below this */
#define STREAM_OUT_BLOCK ((size_t)128 * 1024) /* stream_write() waits above this */
#define STREAM_READ_SIZE ((size_t)64 * 1024)

struct stream {
	int fd_in, fd_out;
	bool in_is_socket, out_is_socket;
	int fl_in, fl_out; /* file status flags before we changed them, -1: unchanged */
	bool memory;
	struct buf memory_out;
	struct stream_transport transport; /* ctx NULL: none */
	short read_events, write_events;   /* what its last -EAGAIN waits for */

	struct buf in;
	size_t in_pos;	/* consumed up to here */
	size_t in_scan; /* no LF between in_pos and here */
	bool eof;

	struct buf out;
	size_t out_pos; /* sent up to here */
	bool framing;
	size_t frame_at; /* where the open packet's header is; SIZE_MAX: none is open */

	bool read_in_value, read_at_bol;
	bool write_in_value, write_at_bol;

	struct error error; /* code != 0: sticks */
	unsigned timeout_secs;
	int64_t deadline_ms; /* CLOCK_MONOTONIC; 0: none */
	size_t max_line_bytes, max_ahead_bytes;
	char peer_name[256];
	const char *last_sent, *last_received;
	uint64_t bytes_in, bytes_out;
	struct raw_log *raw_log; /* not ours */
	void *session;
	void (*free_session)(void *);
};

/* Bytes received and not consumed. */
static inline size_t stream_in_len(const struct stream *stream)
{
	return stream->in.len - stream->in_pos;
}

static inline size_t stream_out_len(const struct stream *stream)
{
	return stream->out.len - stream->out_pos;
}

/* Records the first error and copies it to err. Returns its code. */
int stream_fail(struct stream *stream, struct error *err, int code, const char *what);
/* Gives back the recorded error, 0 if there is none. */
int stream_check(const struct stream *stream, struct error *err);
/* Waits until there is more input than before; -EPIPE at the end. */
int stream_fill(struct stream *stream, struct error *err);
void stream_consume(struct stream *stream, size_t len);
/* True when the next piece of a value can be decoded from what was received. */
bool stream_value_ready(const struct stream *stream);

#endif
