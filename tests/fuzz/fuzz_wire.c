/*
 * Fuzzer of everything that reads what a peer sends before the merge does: lines, header lines,
 * items of all types, values. What decodes is encoded again, so the encoder meets odd values too.
 *
 * Built with clang -fsanitize=fuzzer. Seeds: the transcripts in tests/sync/transcripts.
 */
#include <stdint.h>
#include <string.h>
#include "sync/items_private.h"
#include "sync/stream_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int read_value(struct stream *stream, struct error *err)
{
	char piece[64];
	ssize_t n;

	while ((n = stream_read_value(stream, piece, sizeof(piece), err)) > 0) {
		if (stream_write_value(stream, piece, (size_t)n, err) < 0)
			return -1;
	}
	return n < 0 ? -1 : stream_end_value(stream, err);
}

static void walk_deletes(const char *list)
{
	struct guid guid;
	int64_t time;

	while (items_next_delete(&list, &guid, &time) > 0)
		;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct stream_settings set = {.max_line_bytes = 4096};
	struct stream *stream;
	struct error err = {0};

	if (stream_new_memory(data, size, &set, &stream, &err) < 0)
		return 0;
	struct items *items = items_new(stream);
	if (items != NULL && items_receive_header(items, &err) == 0) {
		struct item item;

		(void)items_send_header(items, true, &err);
		while (items_receive(items, &item, &err) == 0) {
			if (item.type >= ITEM_TYPE_COUNT)
				continue;
			(void)items_send(items, &item, &err);
			if (item.type == ITEM_DELETES)
				walk_deletes(item.deletes.mailboxes);
			if (((item.type == ITEM_MAIL && item.mail.stream) ||
			     (item.type == ITEM_ATTRIBUTE && item.attribute.stream)) &&
			    read_value(stream, &err) < 0)
				break;
		}
	}
	items_free(&items);
	stream_free(&stream);
	return 0;
}
