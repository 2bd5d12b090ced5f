/*
 * Items: every transcript of real peers decodes and encodes to the same bytes; garbled ones never
 * crash; what would abort a real peer is not sent.
 *
 * Usage: test_items TRANSCRIPTS-DIRECTORY
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>
#include "store/base/file.h"
#include "store/mail.h"
#include "sync/items_private.h"
#include "sync/stream_private.h"

#define FILE_BYTES_MAX ((size_t)16 * 1024 * 1024)

static const char *transcripts;

/* ---- transcripts ---- */

/* Copies a value as it passes. */
static int copy_value(struct stream *stream, struct error *err)
{
	char data[1000];
	ssize_t n;

	while ((n = stream_read_value(stream, data, sizeof(data), err)) > 0) {
		int ret = stream_write_value(stream, data, (size_t)n, err);
		if (ret < 0)
			return ret;
	}
	return n < 0 ? (int)n : stream_end_value(stream, err);
}

static int copy_item(struct items *items, const struct item *item, struct error *err)
{
	switch (item->type) {
	case ITEM_END:
		return items_send_end(items, err);
	case ITEM_CLOSE:
		return items_send_close(items, err);
	default: {
		int ret = items_send(items, item, err);
		bool value = (item->type == ITEM_MAIL && item->mail.stream) ||
			     (item->type == ITEM_ATTRIBUTE && item->attribute.stream);
		return ret == 0 && value ? copy_value(items_stream(items), err) : ret;
	}
	}
}

/* Decodes and encodes all of data, by the sender's key lists. *header_len_r: where the items begin.
 */
static int pass_through(const void *data, size_t len, struct buf *out, size_t *header_len_r,
			struct error *err)
{
	struct stream *stream;
	int ret = stream_new_memory(data, len, NULL, &stream, err);

	if (ret < 0)
		return ret;
	struct items *items = items_new(stream);
	ret = items_receive_header(items, err);
	if (ret == 0) {
		*header_len_r = stream->in_pos;
		memcpy(items->own, items->peer, sizeof(items->own));
		items->extensions = false;
	}
	while (ret == 0 && stream_in_len(stream) > 0) {
		struct item item;

		ret = items_receive(items, &item, err);
		if (ret == 0)
			ret = copy_item(items, &item, err);
		if (ret == 0)
			ret = stream_flush(stream, err);
	}
	const struct buf *written = stream_written(stream);
	if (written->len > 0)
		buf_append(out, written->data, written->len);
	items_free(&items);
	stream_free(&stream);
	return ret;
}

static void read_file(const char *path, struct buf *data)
{
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || file_read(fd, data) < 0)
		fail_msg("cannot read %s", path);
}

/* A client's side of a TCP session has the doveadm protocol in front. */
static const char *dsync_part(const struct buf *data, size_t *len_r)
{
	const char *start =
		data->len > 0 ? memmem(data->data, data->len, "VERSION\tdsync", 13) : NULL;

	if (start == NULL)
		return NULL;
	*len_r = data->len - (size_t)(start - data->data);
	return start;
}

typedef void each_transcript_fn(const char *name, const char *data, size_t len);

static unsigned each_transcript(each_transcript_fn *each)
{
	AUTO_DIR DIR *dir = opendir(transcripts);
	struct dirent *entry;
	unsigned count = 0;

	assert_non_null(dir);
	while ((entry = readdir(dir)) != NULL) {
		AUTO_BUF struct buf data = BUF_INIT(FILE_BYTES_MAX);
		char path[1024];
		size_t len;

		if (strstr(entry->d_name, ".raw") == NULL)
			continue;
		snprintf(path, sizeof(path), "%s/%s", transcripts, entry->d_name);
		read_file(path, &data);
		const char *start = dsync_part(&data, &len);
		if (start == NULL)
			continue;
		each(entry->d_name, start, len);
		count++;
	}
	return count;
}

static void expect_same(const char *name, const char *data, size_t len)
{
	AUTO_BUF struct buf out = BUF_INIT(FILE_BYTES_MAX);
	struct error err = {0};
	size_t header_len = 0;
	int ret = pass_through(data, len, &out, &header_len, &err);

	if (ret < 0)
		fail_msg("%s: %s", name, err.text);
	if (out.len == len - header_len && memcmp(out.data, data + header_len, out.len) == 0)
		return;
	size_t at = 0;
	while (at < out.len && at < len - header_len && out.data[at] == data[header_len + at])
		at++;
	fail_msg("%s: differs at byte %zu of the items: '%.80s' became '%.80s'", name, at,
		 data + header_len + at, buf_str(&out) + at);
}

static void transcripts_survive(void **state)
{
	(void)state;
	unsigned count = each_transcript(expect_same);

	print_message("%u transcripts\n", count);
	assert_true(count >= 20);
}

static uint32_t next_random(uint32_t *seed)
{
	*seed = *seed * 1664525 + 1013904223;
	return *seed >> 8;
}

static void garble(const char *name, const char *data, size_t len)
{
	uint32_t seed = (uint32_t)len;

	(void)name;
	for (int round = 0; round < 40; round++) {
		AUTO_BUF struct buf out = BUF_INIT(FILE_BYTES_MAX);
		struct error err = {0};
		size_t header_len, size = round % 4 == 0 ? next_random(&seed) % len : len;
		char *copy = malloc(len + 1);

		memcpy(copy, data, len);
		for (int i = 0; i < round; i++)
			copy[next_random(&seed) % len] = (char)next_random(&seed);
		(void)pass_through(copy, size, &out, &header_len, &err);
		free(copy);
	}
}

static void garbled_transcripts_do_not_crash(void **state)
{
	(void)state;
	each_transcript(garble);
}

/* Our own header lines are those of 2.3, but for the words that say whose program it is. */
static void header_lines_are_dovecots(void **state)
{
	(void)state;
	AUTO_BUF struct buf data = BUF_INIT(FILE_BYTES_MAX);
	struct stream *stream;
	struct error err = {0};
	char path[1024];

	snprintf(path, sizeof(path), "%s/%s", transcripts, "05-new-mail-on-master.master.raw");
	read_file(path, &data);
	assert_int_equal(stream_new_memory("", 0, NULL, &stream, &err), 0);
	struct items *items = items_new(stream);
	assert_int_equal(items_send_header(items, false, &err), 0);
	assert_int_equal(stream_flush(stream, &err), 0);
	const struct buf *written = stream_written(stream);
	static const char word[] = "\tdsyncfs_program\tdsyncfs_check";
	size_t word_len = sizeof(word) - 1;
	char *at = memmem(written->data, written->len, word, word_len);
	assert_non_null(at);
	size_t before = (size_t)(at - written->data), after = written->len - before - word_len;
	assert_true(before + after < data.len);
	assert_memory_equal(written->data, data.data, before);
	assert_memory_equal(at + word_len, data.data + before, after);
	items_free(&items);
	stream_free(&stream);
}

/* ---- single items ---- */

static const char header[] =
	"VERSION\tdsync\t3\t99\n"
	"Zunknown\n"
	"Hnew_key\thostname\n"
	"Slast_common_pvt_modseq\tlast_common_modseq\tlast_common_uid\t"
	"last_uidvalidity\tmailbox_guid\n"
	"Nexistence\tname\n"
	"Dhierarchy_sep\n"
	"Bmailbox_guid\tuid_validity\tuid_next\tmessages_count\tfirst_recent_uid\t"
	"highest_modseq\thighest_pvt_modseq\n"
	"Atype\tkey\tvalue\n"
	"Ctype\tuid\tguid\tkeyword_changes\tfinal_flags\n"
	"Rguid\tuid\n"
	"Mguid\n"
	"F\n"
	"cname\tdecision\n"
	".\n";

/* Decodes one line after the header above. */
static int decode(const char *line, struct item *item_r, struct items **items_r,
		  struct stream **stream_r, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(100000);

	memset(item_r, 0, sizeof(*item_r));
	buf_append_str(&text, header);
	buf_append_str(&text, line);
	assert_int_equal(stream_new_memory(text.data, text.len, NULL, stream_r, err), 0);
	*items_r = items_new(*stream_r);
	int ret = items_receive_header(*items_r, err);
	return ret < 0 ? ret : items_receive(*items_r, item_r, err);
}

static void expect_refused(const char *line)
{
	struct items *items;
	struct stream *stream;
	struct item item;
	struct error err = {0};
	int ret = decode(line, &item, &items, &stream, &err);

	if (ret != -EBADMSG)
		fail_msg("'%s' was taken: %d %s", line, ret, err.text);
	assert_true(err.text[0] != '\0');
	items_free(&items);
	stream_free(&stream);
}

static void invalid_values_are_refused(void **state)
{
	(void)state;
	expect_refused("Nfoo\tname\n");	       /* existence is one byte */
	expect_refused("Ny\t\n");	       /* empty name */
	expect_refused("Nq\tname\n");	       /* unknown existence */
	expect_refused("D//\n");	       /* separator of two bytes */
	expect_refused("Cs\t0\tg\n");	       /* no UID */
	expect_refused("Cs\t4294967296\tg\n"); /* more than 32 bits */
	expect_refused("Cs\t-1\tg\n");
	expect_refused("Cs\t\tg\n");
	expect_refused("Cx\t1\tg\n");		 /* unknown type */
	expect_refused("Cs\t1\tg\t\x02\t100\n"); /* flags of more than a byte */
	expect_refused("Cs\t1\tg\t*word\n");	 /* unknown operation */
	expect_refused("Cs\t1\tg\t+two words\n");
	expect_refused("Cs\t1\tg\t+a\x01"
		       "1nb\n");		   /* LF in a keyword */
	expect_refused("Cs\t1\ta\x01nb\n");	   /* LF in a GUID */
	expect_refused("B00\t1\t1\t1\t1\t1\t1\n"); /* no GUID */
	expect_refused("B\x02\t1\t1\t1\t1\t1\t1\n");
	expect_refused("S1\t1\t1\t1\n"); /* required key missing */
	expect_refused("H\x02\t\x02\n");
}

static void lenient_where_peers_differ(void **state)
{
	struct items *items;
	struct stream *stream;
	struct item item;
	struct error err = {0};

	(void)state;
	/* Any order of keys, unknown keys and items, upper-case GUIDs. */
	assert_int_equal(
		decode("Zwhat\tever\nS0\t5\t4\t3\t8C81221AA28A026BA205000083ECC375\tmore\r\n",
		       &item, &items, &stream, &err),
		0);
	assert_int_equal(item.type, ITEM_STATE);
	assert_int_equal(item.state.last_common_uid, 4);
	assert_int_equal(item.state.last_uidvalidity, 3);
	assert_int_equal(items_peer_minor(items), 99);
	assert_false(items_peer_has_key(items, ITEM_HANDSHAKE, "dsyncfs"));
	items_free(&items);
	stream_free(&stream);
}

static void null_and_empty_differ(void **state)
{
	struct items *items;
	struct stream *stream;
	struct item item;
	struct error err = {0};

	(void)state;
	assert_int_equal(decode("R\x02\t7\nR\t7\nFx\nR\n", &item, &items, &stream, &err), 0);
	assert_null(item.request.guid);
	assert_int_equal(item.request.uid, 7);
	assert_int_equal(items_receive(items, &item, &err), 0);
	assert_string_equal(item.request.guid, "");
	/* The peer's header line says nothing of F's keys. */
	assert_int_equal(items_receive(items, &item, &err), 0);
	assert_int_equal(item.type, ITEM_FINISH);
	assert_null(item.finish.error);
	assert_int_equal(items_receive(items, &item, &err), 0);
	assert_null(item.request.guid);
	items_free(&items);
	stream_free(&stream);
}

static void names_cannot_leave(void **state)
{
	struct items *items;
	struct stream *stream;
	struct item item;
	struct error err = {0};

	(void)state;
	assert_int_equal(decode("Ny\t..\x01t..\x01tetc/passwd\x01t\x01ta\x01"
				"1nb\n",
				&item, &items, &stream, &err),
			 0);
	assert_string_equal(item.node.name, "_../_../etc_passwd/_/a_b");
	items_free(&items);
	stream_free(&stream);
}

static void keywords_and_lists(void **state)
{
	struct items *items;
	struct stream *stream;
	struct item item;
	struct error err = {0};
	const char *list =
		"8c81221aa28a026ba205000083ecc375 17 b818431af6b1ff56d7e667bb2acf06ff 18";
	struct guid guid;
	int64_t time;

	(void)state;
	assert_int_equal(
		decode("Cf\t9\tg\t&$Label1\x01t-work\x01t=x\t2a\n", &item, &items, &stream, &err),
		0);
	assert_int_equal(item.change.keyword_count, 3);
	if (item.change.keywords == NULL) {
		fail();
		return;
	}
	assert_int_equal(item.change.keywords[0].op, '&');
	assert_string_equal(item.change.keywords[0].name, "$Label1");
	assert_string_equal(item.change.keywords[1].name, "work");
	assert_int_equal(item.change.final_flags, 0x2a);
	items_free(&items);
	stream_free(&stream);

	assert_int_equal(items_next_delete(&list, &guid, &time), 1);
	assert_int_equal(time, 17);
	assert_int_equal(items_next_delete(&list, &guid, &time), 1);
	assert_int_equal(time, 18);
	assert_int_equal(items_next_delete(&list, &guid, &time), 0);
	list = "8c81221aa28a026ba205000083ecc375";
	assert_int_equal(items_next_delete(&list, &guid, &time), -EBADMSG);
}

static void uids_must_ascend(void **state)
{
	(void)state;
	struct items *items;
	struct stream *stream;
	struct item item;
	struct error err = {0};

	assert_int_equal(decode("Cs\t7\tg\nCs\t7\th\n", &item, &items, &stream, &err), 0);
	assert_int_equal(items_receive(items, &item, &err), -EBADMSG);
	items_free(&items);
	stream_free(&stream);
	assert_int_equal(decode("Cs\t7\tg\n.\nCs\t7\th\n", &item, &items, &stream, &err), 0);
	assert_int_equal(items_receive(items, &item, &err), 0);
	assert_int_equal(items_receive(items, &item, &err), 0);
	items_free(&items);
	stream_free(&stream);
}

/* dsync-protocol 1.8. */
static void what_aborts_a_peer_is_not_sent(void **state)
{
	(void)state;
	const struct item bad[] = {
		{.type = ITEM_ATTRIBUTE, .attribute = {.type = 'p', .key = "k"}},
		{.type = ITEM_CHANGE, .change = {.type = 's', .uid = 1}},
		{.type = ITEM_CHANGE, .change = {.type = 's', .guid = "g"}},
		{.type = ITEM_CHANGE, .change = {.type = 'e', .uid = 1, .guid = "not hex"}},
		{.type = ITEM_CHANGE,
		 .change = {.type = 'f', .uid = 1, .guid = "g", .add_flags = 3, .remove_flags = 1}},
		{.type = ITEM_NODE, .node = {.name = "", .existence = "y"}},
		{.type = ITEM_DELETES, .deletes = {.hierarchy_sep = ""}},
	};
	struct stream *stream;
	struct error err = {0};

	assert_int_equal(stream_new_memory("", 0, NULL, &stream, &err), 0);
	struct items *items = items_new(stream);
	assert_int_equal(items_send_header(items, true, &err), 0);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		assert_int_equal(items_send(items, &bad[i], &err), -EINVAL);
	struct item change = {.type = ITEM_CHANGE, .change = {.type = 's', .uid = 5, .guid = ""}};
	assert_int_equal(items_send(items, &change, &err), 0);
	assert_int_equal(items_send(items, &change, &err), -EINVAL);
	assert_int_equal(items_send_end(items, &err), 0);
	assert_int_equal(items_send(items, &change, &err), 0);
	items_free(&items);
	stream_free(&stream);
}

static void header_lines_are_checked(void **state)
{
	static const char *const bad[] = {
		"VERSION\tdsync\t2\t0\n",
		"VERSION\tother\t3\t5\n",
		"VERSION\tdsync\t3\t5\nHdebug\n",
		"VERSION\tdsync\t3\t5\nHhostname\n.\n",
	};
	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct stream *stream;
		struct error err = {0};

		assert_int_equal(stream_new_memory(bad[i], strlen(bad[i]), NULL, &stream, &err), 0);
		struct items *items = items_new(stream);
		assert_true(items_receive_header(items, &err) < 0);
		assert_true(err.text[0] != '\0');
		items_free(&items);
		stream_free(&stream);
	}
}

int main(int argc, char **argv)
{
	if (argc != 2) {
		fprintf(stderr, "usage: test_items TRANSCRIPTS-DIRECTORY\n");
		return 64;
	}
	transcripts = argv[1];
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(transcripts_survive),
		cmocka_unit_test(garbled_transcripts_do_not_crash),
		cmocka_unit_test(header_lines_are_dovecots),
		cmocka_unit_test(invalid_values_are_refused),
		cmocka_unit_test(lenient_where_peers_differ),
		cmocka_unit_test(null_and_empty_differ),
		cmocka_unit_test(names_cannot_leave),
		cmocka_unit_test(keywords_and_lists),
		cmocka_unit_test(uids_must_ascend),
		cmocka_unit_test(what_aborts_a_peer_is_not_sent),
		cmocka_unit_test(header_lines_are_checked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
