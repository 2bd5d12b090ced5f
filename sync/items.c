/*
 * The exchange of items over a stream: VERSION and header lines, then one line per item.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/log.h"
#include "store/base/tabescape.h"
#include "sync/items_private.h"
#include "sync/stream.h"

#define PROTOCOL_NAME  "dsync"
#define PROTOCOL_MAJOR 3
#define LINE_MAX_BYTES ((size_t)64 * 1024 * 1024)

struct items *items_new(struct stream *stream)
{
	struct items *items = calloc(1, sizeof(*items));

	if (items == NULL)
		return NULL;
	items->stream = stream;
	items->alt_char = '_';
	buf_init(&items->line, LINE_MAX_BYTES);
	buf_init(&items->name, (size_t)4 * ITEMS_NAME_BYTES_MAX);
	buf_init(&items->out, LINE_MAX_BYTES);
	buf_init(&items->scratch, LINE_MAX_BYTES);
	return items;
}

void items_free(struct items **_items)
{
	struct items *items = *_items;

	if (items == NULL)
		return;
	*_items = NULL;
	buf_free(&items->line);
	buf_free(&items->name);
	buf_free(&items->out);
	buf_free(&items->scratch);
	free(items->keywords);
	free(items);
}

struct stream *items_stream(struct items *items)
{
	return items->stream;
}

void items_set_alt_char(struct items *items, char alt_char)
{
	items->alt_char = alt_char;
}

unsigned items_peer_minor(const struct items *items)
{
	return items->peer_minor;
}

const char *items_type_name(enum item_type type)
{
	if (type == ITEM_END)
		return "end-of-list";
	if (type == ITEM_CLOSE)
		return "close";
	return item_descs[type].name;
}

bool items_peer_has_key(const struct items *items, enum item_type type, const char *key)
{
	const struct item_layout *layout = &items->peer[type];
	const struct item_desc *desc = &item_descs[type];

	for (unsigned i = 0; i < layout->count; i++) {
		if (layout->key_at[i] >= 0 && strcmp(desc->keys[layout->key_at[i]].name, key) == 0)
			return true;
	}
	return false;
}

static int put_header_line(struct buf *out, enum item_type type, const struct item_layout *layout)
{
	const struct item_desc *desc = &item_descs[type];

	(void)buf_append_byte(out, (unsigned char)desc->code);
	for (unsigned i = 0; i < layout->count; i++) {
		if (i > 0)
			(void)buf_append_byte(out, '\t');
		(void)buf_append_str(out, desc->keys[layout->key_at[i]].name);
	}
	return buf_append_byte(out, '\n');
}

int items_send_header(struct items *items, bool extensions, struct error *err)
{
	struct buf *out = &items->out;

	buf_clear(out);
	(void)buf_printf(out, "VERSION\t%s\t%d\t%d\n", PROTOCOL_NAME, PROTOCOL_MAJOR, ITEMS_MINOR);
	for (enum item_type type = 0; type < ITEM_TYPE_COUNT; type++) {
		items_layout_own(&items->own[type], type, extensions);
		(void)put_header_line(out, type, &items->own[type]);
	}
	(void)buf_append(out, ".\n", 2);
	items->extensions = extensions;
	if (out->failed < 0)
		return error_errno(err, out->failed, "header lines");
	stream_note_sent(items->stream, "handshake header");
	return stream_write(items->stream, out->data, out->len, err);
}

static int parse_version(struct items *items, const char *line, struct error *err)
{
	unsigned major, minor;
	int len = 0;

	if (sscanf(line, "VERSION\t" PROTOCOL_NAME "\t%9u\t%9u%n", &major, &minor, &len) != 2 ||
	    line[len] != '\0')
		return error_set(err, -EPROTO, "not a dsync peer: it sent '%.100s'", line);
	if (major != PROTOCOL_MAJOR)
		return error_set(err, -EPROTO, "speaks dsync %u.%u, we %d.%d", major, minor,
				 PROTOCOL_MAJOR, ITEMS_MINOR);
	items->peer_minor = minor;
	return 0;
}

static int find_type(char code)
{
	for (int type = 0; type < ITEM_TYPE_COUNT; type++) {
		if (item_descs[type].code == code)
			return type;
	}
	return -1;
}

static int check_header(struct items *items, struct error *err)
{
	for (int type = 0; type < ITEM_TYPE_COUNT; type++) {
		if (items->peer[type].present || item_descs[type].min_minor > items->peer_minor)
			continue;
		return error_set(err, -EPROTO, "Remote didn't handshake deserializer for %s",
				 item_descs[type].name);
	}
	return 0;
}

/* The received line has to outlive what we send while it is looked at. */
static int keep_line(struct items *items, const char *line, size_t len, struct error *err)
{
	buf_clear(&items->line);
	int ret = buf_append(&items->line, line, len);
	if (ret < 0)
		return error_errno(err, ret, "a line of %zu bytes", len);
	return 0;
}

static int receive_header_lines(struct items *items, struct error *err)
{
	memset(items->peer, 0, sizeof(items->peer));
	for (unsigned count = 0; count < ITEMS_HEADERS_MAX; count++) {
		char *line;
		size_t len;
		int ret = stream_read_line(items->stream, &line, &len, err);

		if (ret < 0)
			return ret;
		if (strcmp(line, ".") == 0)
			return check_header(items, err);
		int type = find_type(line[0]);
		if (type < 0)
			continue;
		ret = items_layout_parse(&items->peer[type], (enum item_type)type, line + 1, err);
		if (ret < 0)
			return ret;
	}
	return error_set(err, -EPROTO, "more than %d header lines", ITEMS_HEADERS_MAX);
}

int items_receive_header(struct items *items, struct error *err)
{
	char *line;
	size_t len;
	int ret = stream_read_line(items->stream, &line, &len, err);

	if (ret < 0)
		return ret;
	/* A later session on one connection begins with H. */
	if (items->peer_known && line[0] == item_descs[ITEM_HANDSHAKE].code) {
		items->line_pending = true;
		ret = keep_line(items, line, len, err);
		return ret < 0 ? ret : 1;
	}
	ret = parse_version(items, line, err);
	if (ret < 0)
		return stream_set_failed(items->stream, ret, err);
	ret = receive_header_lines(items, err);
	if (ret < 0)
		return stream_set_failed(items->stream, ret, err);
	stream_note_received(items->stream, "handshake header");
	items->peer_known = true;
	return 0;
}

int items_send(struct items *items, const struct item *item, struct error *err)
{
	struct buf *out = &items->out;

	buf_clear(out);
	int ret = items_encode(items, item, out, err);
	if (ret < 0)
		return ret;
	ret = buf_append_byte(out, '\n');
	if (ret < 0)
		return error_errno(err, ret, "%s", item_descs[item->type].name);
	if (item->type == ITEM_CHANGE)
		items->sent_change_uid = item->change.uid;
	stream_note_sent(items->stream, item_descs[item->type].name);
	return stream_write(items->stream, out->data, out->len, err);
}

int items_send_end(struct items *items, struct error *err)
{
	items->sent_change_uid = 0;
	stream_note_sent(items->stream, items_type_name(ITEM_END));
	return stream_write(items->stream, ".\n", 2, err);
}

int items_send_close(struct items *items, struct error *err)
{
	stream_note_sent(items->stream, items_type_name(ITEM_CLOSE));
	return stream_write(items->stream, "X\n", 2, err);
}

/* Puts the next line into items->line. */
static int next_line(struct items *items, struct error *err)
{
	char *line;
	size_t len;

	if (items->line_pending) {
		items->line_pending = false;
		return 0;
	}
	int ret = stream_read_line(items->stream, &line, &len, err);
	if (ret < 0)
		return ret;
	return keep_line(items, line, len, err);
}

int items_receive(struct items *items, struct item *item_r, struct error *err)
{
	for (unsigned skipped = 0;; skipped++) {
		int ret = next_line(items, err);
		if (ret < 0)
			return ret;
		const char *line = buf_str(&items->line);
		size_t len = items->line.len;

		if (skipped > ITEMS_SKIPPED_MAX) {
			ret = error_set(err, -EPROTO, "nothing but unknown items");
			return stream_set_failed(items->stream, ret, err);
		}
		if (len == 1 && (line[0] == '.' || line[0] == 'X')) {
			*item_r = (struct item){.type = line[0] == '.' ? ITEM_END : ITEM_CLOSE};
			if (item_r->type == ITEM_END)
				items->received_change_uid = 0;
			stream_note_received(items->stream, items_type_name(item_r->type));
			return 0;
		}
		int type = len > 0 ? find_type(line[0]) : -1;
		if (type < 0 || !items->peer[type].present)
			continue;
		ret = items_decode(items, (enum item_type)type, items->line.data + 1, len - 1,
				   item_r, err);
		if (ret < 0)
			return stream_set_failed(items->stream, ret, err);
		stream_note_received(items->stream, item_descs[type].name);
		return 0;
	}
}

int items_receive_type(struct items *items, enum item_type wanted, bool end_ok, struct item *item_r,
		       struct error *err)
{
	int ret = items_receive(items, item_r, err);

	if (ret < 0)
		return ret;
	if (item_r->type == wanted || (end_ok && item_r->type == ITEM_END))
		return 0;
	return items_unexpected(items, item_r, wanted, err);
}

int items_unexpected(struct items *items, const struct item *item, enum item_type wanted,
		     struct error *err)
{
	int ret;

	if (item->type == ITEM_CLOSE)
		ret = error_set(err, -ECONNABORTED,
				"the peer ended the session; the reason is in its log");
	else if (item->type == ITEM_FINISH && item->finish.error != NULL)
		ret = error_set(err, -ECONNABORTED, "the peer ended the session: %.400s",
				item->finish.error);
	else
		ret = error_set(err, -EPROTO, "Received unexpected input %s != %s",
				items_type_name(item->type), items_type_name(wanted));
	return stream_set_failed(items->stream, ret, err);
}

int items_format_failure(struct items *items, const char *reason, char *line_r, size_t size)
{
	/* Dovecot takes F only at the end. */
	if (!items->peer_known || !items_peer_has_key(items, ITEM_HANDSHAKE, "dsyncfs") ||
	    !items->extensions)
		return -EOPNOTSUPP;
	const struct item item = {.type = ITEM_FINISH,
				  .finish = {.error = reason, .mail_error = 1}};
	buf_clear(&items->out);
	int ret = items_encode(items, &item, &items->out, NULL);
	if (ret < 0)
		return ret;
	int len = snprintf(line_r, size, "%s\nX\n", buf_str(&items->out));
	return len > 0 && (size_t)len < size ? 0 : -EMSGSIZE;
}
