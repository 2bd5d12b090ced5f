/*
 * Values inside the stream: raw bytes with a dot before every dot that starts a line, ended by
 * CR LF "." CR LF (reference: dsync-protocol 1.6).
 *
 * The first byte of a value counts as the start of a line in both directions. The line break in
 * front of the ending dot is not part of the value, so a line break is held back until the byte
 * after it is known. The ending is also taken with bare LFs.
 */
#include <errno.h>
#include <string.h>
#include "sync/stream_private.h"

enum piece {
	PIECE_MORE, /* cannot tell yet */
	PIECE_DATA, /* the first emit_len bytes belong to the value */
	PIECE_END,
};

struct value_piece {
	size_t consume;
	size_t emit_len;
};

/* Is there CR LF or LF at p? Its length, 0: no, -1: cannot tell yet. */
static int line_break_len(const char *p, size_t len)
{
	if (len == 0)
		return -1;
	if (p[0] == '\n')
		return 1;
	if (p[0] != '\r')
		return 0;
	if (len < 2)
		return -1;
	return p[1] == '\n' ? 2 : 0;
}

/* p is the start of a line that begins with a dot: the value's end, or a stuffed dot? `before` is
 * the length of the line break in front of it. */
static enum piece piece_at_dot(const char *p, size_t len, size_t before, struct value_piece *piece)
{
	int brk = line_break_len(p + 1, len - 1);

	if (brk < 0)
		return PIECE_MORE;
	if (brk > 0) {
		piece->consume = before + 1 + (size_t)brk;
		return PIECE_END;
	}
	piece->consume = before + 1;
	piece->emit_len = before;
	return PIECE_DATA;
}

/* Looks at the next bytes of a value. With at_start p is the value's first byte. */
static enum piece value_next(const char *p, size_t len, bool at_start, struct value_piece *piece)
{
	*piece = (struct value_piece){0};
	if (len == 0)
		return PIECE_MORE;
	if (at_start && p[0] == '.')
		return piece_at_dot(p, len, 0, piece);
	int brk = line_break_len(p, len);
	if (brk < 0)
		return PIECE_MORE;
	if (brk == 0) {
		/* A run without line breaks; a CR that is none counts as an ordinary byte. */
		size_t n = 1;
		while (n < len && p[n] != '\n' && p[n] != '\r')
			n++;
		piece->consume = piece->emit_len = n;
		return PIECE_DATA;
	}
	size_t before = (size_t)brk;
	if (len == before)
		return PIECE_MORE;
	if (p[before] == '.')
		return piece_at_dot(p + before, len - before, before, piece);
	piece->consume = piece->emit_len = before;
	return PIECE_DATA;
}

bool stream_value_ready(const struct stream *stream)
{
	struct value_piece piece;

	if (stream->eof)
		return true;
	if (stream_in_len(stream) == 0)
		return false;
	return value_next(stream->in.data + stream->in_pos, stream_in_len(stream),
			  stream->read_in_value ? stream->read_at_bol : true, &piece) != PIECE_MORE;
}

/* Copies what is decoded already, as much as fits. *end_r: the value's end is next. */
static size_t copy_ready_pieces(struct stream *stream, char *out, size_t size, bool *end_r)
{
	size_t done = 0;

	*end_r = false;
	while (done < size && stream_in_len(stream) > 0) {
		struct value_piece piece;
		const char *p = stream->in.data + stream->in_pos;
		enum piece kind = value_next(p, stream_in_len(stream), stream->read_at_bol, &piece);

		if (kind == PIECE_MORE)
			break;
		if (kind == PIECE_END) {
			*end_r = true;
			/* What comes before the end is given out first: 0 is for the end only. */
			if (done == 0) {
				stream_consume(stream, piece.consume);
				stream->read_in_value = false;
			}
			break;
		}
		if (piece.emit_len > size - done) {
			/* A run may be cut anywhere, a line break (with a dot) may not. */
			if (line_break_len(p, piece.emit_len) > 0)
				break;
			piece.emit_len = piece.consume = size - done;
		}
		if (piece.emit_len > 0)
			memcpy(out + done, p, piece.emit_len);
		done += piece.emit_len;
		stream_consume(stream, piece.consume);
		stream->read_at_bol = false;
	}
	return done;
}

ssize_t stream_read_value(struct stream *stream, void *data, size_t size, struct error *err)
{
	int ret = stream_check(stream, err);

	if (ret < 0)
		return ret;
	if (size < 2)
		return error_set(err, -EINVAL, "stream_read_value: no room");
	if (!stream->read_in_value) {
		stream->read_in_value = true;
		stream->read_at_bol = true;
	}
	for (;;) {
		bool end;
		size_t done = copy_ready_pieces(stream, data, size, &end);

		if (done > 0 || end)
			return (ssize_t)done;
		ret = stream_fill(stream, err);
		if (ret < 0)
			return ret;
	}
}

int stream_write_value(struct stream *stream, const void *data, size_t len, struct error *err)
{
	const char *p = data, *end = p + len;
	int ret = stream_check(stream, err);

	if (!stream->write_in_value) {
		stream->write_in_value = true;
		stream->write_at_bol = true;
	}
	while (ret == 0 && p < end) {
		if (stream->write_at_bol && *p == '.')
			ret = stream_write(stream, ".", 1, err);
		/* Up to the next LF that a dot or the unknown follows, in one go. */
		const char *q = p;
		while ((q = memchr(q, '\n', (size_t)(end - q))) != NULL && q + 1 < end &&
		       q[1] != '.')
			q++;
		const char *stop = q != NULL ? q + 1 : end;
		if (ret == 0)
			ret = stream_write(stream, p, (size_t)(stop - p), err);
		stream->write_at_bol = stop[-1] == '\n';
		p = stop;
	}
	return ret;
}

int stream_end_value(struct stream *stream, struct error *err)
{
	/* An empty value has no piece before its end. */
	stream->write_in_value = false;
	return stream_write(stream, "\r\n.\r\n", 5, err);
}
