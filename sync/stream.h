/*
 * The byte stream to a peer: lines and dot-stuffed values in both directions, over one connected
 * socket or a pair of pipes.
 *
 * Promises:
 *  - It never deadlocks against a peer that reads: while a write would block, what the peer sends
 * is read into a bounded buffer. A caller with much to send in both directions uses
 *    stream_can_write(), stream_can_read() and stream_poll() and so keeps that buffer small.
 *  - Memory is bounded: line length, read-ahead and output queue have maxima.
 *  - A stalled peer, an early end or an oversized line are errors that name the peer and the last
 * item sent and received. The first error sticks: later calls return it again.
 *
 * It knows no items (sync/items.h) and no handshake. One thread at a time.
 */
#ifndef DSYNCFS_SYNC_STREAM_H
#define DSYNCFS_SYNC_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/buf.h"
#include "store/base/error.h"

struct stream;

struct stream_settings {
	unsigned timeout_secs;	/* without a byte moving while we wait; 0: 600 */
	size_t max_line_bytes;	/* of a received line; 0: 1 MiB */
	size_t max_ahead_bytes; /* received while a write was blocked; 0: 16 MiB */
	const char *peer_name;	/* for messages until stream_set_peer_name(); NULL: "peer" */
};

/* fd_in and fd_out may be the same socket. The descriptors become non-blocking and are closed by
 * stream_free(). settings may be NULL. SIGPIPE must be ignored by the process when fd_out is a
 * pipe. */
int stream_new(int fd_in, int fd_out, const struct stream_settings *settings,
	       struct stream **stream_r, struct error *err);
/* Two ends connected in memory, for tests. */
int stream_new_pair(const struct stream_settings *settings, struct stream **a_r,
		    struct stream **b_r, struct error *err);
/* Reads these bytes, then end of file; keeps what is written, see stream_written(). For tests and
 * fuzzing. */
int stream_new_memory(const void *data, size_t len, const struct stream_settings *settings,
		      struct stream **stream_r, struct error *err);
const struct buf *stream_written(const struct stream *stream);
/* Closes the descriptors. What was not flushed is lost. */
void stream_free(struct stream **stream);

/* What carries the bytes in the descriptor's place (TLS over it). Each gives -EAGAIN where it would
 * have to wait; events() then says for what. close() is called before the descriptor is closed. */
struct stream_transport {
	void *ctx;
	ssize_t (*read)(void *ctx, void *data, size_t size);
	ssize_t (*write)(void *ctx, const void *data, size_t len);
	short (*events)(const void *ctx);
	void (*close)(void *ctx);
};
/* To be set before anything is read or written. The descriptor must not block. */
void stream_set_transport(struct stream *stream, const struct stream_transport *transport);

/* Bytes that somebody has read from the descriptor already; they come before what is read next. */
int stream_push_input(struct stream *stream, const void *data, size_t len, struct error *err);
/* Takes the stream apart: the descriptors (not closed, blocking as they were) and the bytes
 * received but not consumed are the caller's. Output must have been flushed. unread may be NULL.
 * Not of one with a transport of its own. */
void stream_release(struct stream **stream, int *fd_in_r, int *fd_out_r, struct buf *unread);

void stream_set_timeout(struct stream *stream, unsigned timeout_secs);
/* Whatever waits fails (-ETIMEDOUT) so long from now, even if bytes move; 0: no such limit. */
void stream_set_deadline(struct stream *stream, unsigned ms);
void stream_set_peer_name(struct stream *stream, const char *name);
const char *stream_peer_name(const struct stream *stream);
int stream_fd_in(const struct stream *stream);
/* Packs all further output into doveadm's multiplex packets on channel 0 (server to a client that
 * announced minor >= 1). What was written before is flushed as it is. */
int stream_set_output_framing(struct stream *stream, bool on, struct error *err);

/* Reads a line without its LF (and a CR before that). It is NUL-terminated, may be changed, and is
 * valid until the next call that reads. -EPIPE at the end of the stream, -ETIMEDOUT, -EMSGSIZE. */
int stream_read_line(struct stream *stream, char **line_r, size_t *len_r, struct error *err);
/* Reads a piece of a value, unstuffed: its length, 0 at the value's end, or a negative errno. After
 * the end the next call starts another value. */
ssize_t stream_read_value(struct stream *stream, void *data, size_t size, struct error *err);

/* Queues bytes; sends when more than 64 KiB wait. */
int stream_write(struct stream *stream, const void *data, size_t len, struct error *err);
int stream_write_str(struct stream *stream, const char *str, struct error *err);
/* A piece of a value (dot-stuffed on the way), and its end. */
int stream_write_value(struct stream *stream, const void *data, size_t len, struct error *err);
int stream_end_value(struct stream *stream, struct error *err);
/* True inside a value that was begun and not ended: nothing but the value can be sent. */
bool stream_in_value(const struct stream *stream);
int stream_flush(struct stream *stream, struct error *err);

/* For callers that send and receive at once. */
bool stream_can_write(const struct stream *stream); /* the queue is below its mark */
/* stream_read_line() (or stream_read_value(), when in_value) will not wait. */
bool stream_can_read(struct stream *stream, bool in_value);
/* Sends and receives what is possible; waits until anything moved. */
int stream_poll(struct stream *stream, struct error *err);
/* Sends what can be sent and receives what is there, without waiting. */
int stream_pump(struct stream *stream, struct error *err);

/* What messages name. The strings must be literals. */
void stream_note_sent(struct stream *stream, const char *item);
void stream_note_received(struct stream *stream, const char *item);

/* What came over the stream makes no sense: it fails for good, with err's text (which gets the
 * peer's name and the last items) or, where err is NULL, with code alone. Returns code. */
int stream_set_failed(struct stream *stream, int code, struct error *err);
/* The last words on a stream that has failed: sent if the peer takes them within a second, and if
 * they would not end up inside a value. */
void stream_close_with(struct stream *stream, const char *lines);

/* All that goes over it from now on; NULL: nothing any more. It has to outlive its use here. */
struct raw_log;
void stream_set_raw_log(struct stream *stream, struct raw_log *log);

uint64_t stream_bytes_in(const struct stream *stream);
uint64_t stream_bytes_out(const struct stream *stream);

/* Something that lives as long as the connection: what the first session on it learned of the
 * peer. Set once; freed with the stream. */
void stream_set_session(struct stream *stream, void *session, void (*free_session)(void *));
void *stream_session(const struct stream *stream);

#endif
