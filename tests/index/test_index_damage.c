/*
 * Damaged files: every one is either read or refused with a text that names it; never a crash (run
 * it under the sanitizers), never an endless loop, never messages out of order.
 */
#include "tests/index/index_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "store/index/index_cache.h"
#include "store/index/index_format.h"

static const char *const files[] = {"dovecot.index", "dovecot.index.log", "dovecot.index.log.2",
				    "dovecot.index.cache"};
#define FILES (sizeof(files) / sizeof(files[0]))

struct damaged {
	const struct fixture *fx;
	struct index_options options;
	struct buf original[FILES];
	unsigned opened, refused;
};

static void path_of(const struct damaged *damaged, size_t file, char *path_r, size_t size)
{
	snprintf(path_r, size, "%s/%s", damaged->fx->dir, files[file]);
}

/* Uses everything that a view can be asked. */
static void read_all(const struct damaged *damaged)
{
	struct index_record record;
	struct index_changes changes;
	struct index_iter iter;
	struct index *index;
	struct error err = {0};
	uint32_t previous = 0;
	int ret = index_open(damaged->fx->dirfd, &damaged->options, &index, &err);

	if (ret < 0) {
		if (ret != -EUCLEAN && ret != -ENOENT)
			print_error("%d: %s\n", ret, err.text);
		assert_true(ret == -EUCLEAN || ret == -ENOENT);
		assert_non_null(strstr(err.text, "box/dovecot.index"));
		((struct damaged *)damaged)->refused++;
		return;
	}
	((struct damaged *)damaged)->opened++;
	index_iter_init(index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		const char *names[64];
		int64_t saved;
		uint8_t data[64];

		assert_true(record.uid > previous);
		previous = record.uid;
		index_record_keywords(index, &record, names, 64);
		index_record_ext(index, &record, "cache", data, sizeof(data));
		index_cache_get_save_date(index, &record, &saved);
	}
	ret = index_changes(index, 1, NULL, &changes, &err);
	if (ret == 0 || ret == -ERANGE)
		index_changes_free(&changes);
	ret = index_refresh(index, &err);
	assert_true(ret <= 0);
	index_close(&index);
}

static void restore(const struct damaged *damaged, size_t file)
{
	char path[512];

	path_of(damaged, file, path, sizeof(path));
	write_bytes(path, damaged->original[file].data, damaged->original[file].len);
}

static void begin_damage(struct damaged *damaged, const struct fixture *fx)
{
	char path[512];

	memset(damaged, 0, sizeof(*damaged));
	damaged->fx = fx;
	damaged->options = fx->options;
	damaged->options.once = true;
	unpack_sample(fx, "maildir-2.3.19-rotated");
	shell("cd '%s' && mv Maildir/dovecot.index* .", fx->dir);
	for (size_t i = 0; i < FILES; i++) {
		path_of(damaged, i, path, sizeof(path));
		read_bytes(path, &damaged->original[i]);
	}
	read_all(damaged);
	assert_int_equal(damaged->opened, 1);
}

static void end_damage(struct damaged *damaged)
{
	print_message("%u read, %u refused\n", damaged->opened, damaged->refused);
	assert_true(damaged->opened > 0 && damaged->refused > 0);
	for (size_t i = 0; i < FILES; i++)
		buf_free(&damaged->original[i]);
}

static void any_byte_may_be_wrong(void **state)
{
	static const uint8_t values[] = {0x00, 0xff, 0x80, 0x01};
	struct damaged damaged;

	begin_damage(&damaged, *state);
	for (size_t file = 0; file < FILES; file++) {
		const struct buf *original = &damaged.original[file];
		char path[512];
		int fd;

		path_of(&damaged, file, path, sizeof(path));
		fd = open(path, O_WRONLY | O_CLOEXEC);
		assert_true(fd >= 0);
		for (size_t at = 0; at < original->len; at++) {
			uint8_t wrong = values[at % 4];

			if ((uint8_t)original->data[at] == wrong)
				wrong ^= 0x55;
			assert_int_equal(pwrite(fd, &wrong, 1, (off_t)at), 1);
			read_all(&damaged);
			assert_int_equal(pwrite(fd, original->data + at, 1, (off_t)at), 1);
		}
		close(fd);
	}
	end_damage(&damaged);
}

static void any_file_may_be_cut_off_or_missing(void **state)
{
	struct damaged damaged;

	begin_damage(&damaged, *state);
	for (size_t file = 0; file < FILES; file++) {
		char path[512];

		path_of(&damaged, file, path, sizeof(path));
		for (size_t len = 0; len < damaged.original[file].len; len += 3) {
			write_bytes(path, damaged.original[file].data, len);
			read_all(&damaged);
		}
		unlink(path);
		read_all(&damaged);
		restore(&damaged, file);
	}
	end_damage(&damaged);
}

static void random_bytes_may_be_anywhere(void **state)
{
	struct damaged damaged;
	uint32_t seed = 5;

	begin_damage(&damaged, *state);
	for (unsigned round = 0; round < 3000; round++) {
		size_t file = round % 3;
		const struct buf *original = &damaged.original[file];
		struct buf copy = BUF_INIT(1 << 20);
		char path[512];

		buf_append(&copy, original->data, original->len);
		for (unsigned i = 0; i < 1 + round % 6; i++) {
			seed = seed * 1664525 + 1013904223;
			copy.data[(seed >> 8) % copy.len] = (char)(seed >> 3);
		}
		path_of(&damaged, file, path, sizeof(path));
		write_bytes(path, copy.data, copy.len);
		read_all(&damaged);
		restore(&damaged, file);
		buf_free(&copy);
	}
	end_damage(&damaged);
}

/* A transaction written onto whatever could be opened leaves something that can be opened. */
static void what_can_be_opened_can_be_written(void **state)
{
	const struct fixture *fx = *state;
	struct damaged damaged;
	uint32_t seed = 9;
	unsigned written = 0;

	begin_damage(&damaged, fx);
	for (unsigned round = 0; round < 300; round++) {
		size_t file = round % 3;
		struct index *index;
		struct index_txn *txn;
		struct index_status status;
		struct error err = {0};
		char path[512];
		uint8_t byte;
		int fd, ret;

		seed = seed * 1664525 + 1013904223;
		byte = (uint8_t)(seed >> 3);
		path_of(&damaged, file, path, sizeof(path));
		fd = open(path, O_WRONLY | O_CLOEXEC);
		assert_int_equal(
			pwrite(fd, &byte, 1, (off_t)((seed >> 8) % damaged.original[file].len)), 1);
		close(fd);
		if (index_open(fx->dirfd, &damaged.options, &index, &err) == 0) {
			index_status(index, &status);
			ret = index_begin(index, 100, &txn, &err);
			if (ret == 0 && status.next_uid < UINT32_MAX) {
				index_append(txn, status.next_uid, 0, &err);
				index_update_keyword(txn, status.next_uid, "new", true, &err);
				ret = index_commit(&txn, false, &err);
				written += ret == 0;
			} else if (ret == 0) {
				index_abort(&txn);
			}
			if (ret == 0)
				ret = index_write_snapshot(index, 100, &err);
			index_close(&index);
			if (ret == 0)
				must(index_open(fx->dirfd, &damaged.options, &index, &err), &err);
			index_close(&index);
		}
		for (size_t i = 0; i < FILES; i++)
			restore(&damaged, i);
	}
	print_message("%u written\n", written);
	assert_true(written > 50);
	for (size_t i = 0; i < FILES; i++)
		buf_free(&damaged.original[i]);
}

/* A mailbox that stays open sees that its log is not the one any more, and writes nothing there. */
static void an_open_log_may_be_overwritten(void **state)
{
	const struct fixture *fx = *state;
	const uint8_t garbage[64] = {1, 3, 40, 0, 7, 7, 7, 7};
	struct index_txn *txn = NULL;
	struct error err = {0};
	struct buf after = BUF_INIT(100000);
	struct index *index;
	char path[512];
	size_t size;
	int fd;

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	append_uid(index, 2, 0);
	must(index_refresh(index, &err), &err);
	snprintf(path, sizeof(path), "%s/dovecot.index.log", fx->dir);
	read_bytes(path, &after);
	size = after.len;
	buf_free(&after);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, garbage, sizeof(garbage)), sizeof(garbage));
	close(fd);
	assert_int_equal(index_begin(index, 100, &txn, &err), -EUCLEAN);
	assert_non_null(strstr(err.text, "dovecot.index.log"));
	assert_int_equal(index_refresh(index, &err), -EUCLEAN);
	read_bytes(path, &after);
	assert_int_equal(after.len, size);
	buf_free(&after);
	index_close(&index);
}

/* A view that is kept for long notices that the log's header was overwritten where it is, as
 * Dovecot does to mark the log as corrupted. */
static void damage_under_an_open_view_is_noticed(void **state)
{
	const struct fixture *fx = *state;
	static const unsigned char no_indexid[4] = {0};
	struct damaged damaged;
	struct error err = {0};
	struct index *index;
	char path[512];
	int fd;

	begin_damage(&damaged, fx);
	must(index_open(fx->dirfd, &damaged.options, &index, &err), &err);
	must(index_refresh(index, &err), &err);
	path_of(&damaged, 1, path, sizeof(path));
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, no_indexid, sizeof(no_indexid), LOG_HDR_OFF_INDEXID),
			 sizeof(no_indexid));
	close(fd);
	assert_int_equal(index_refresh(index, &err), -EUCLEAN);
	restore(&damaged, 1);
	must(index_refresh(index, &err), &err);
	index_close(&index);
	for (size_t i = 0; i < FILES; i++)
		buf_free(&damaged.original[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(any_byte_may_be_wrong),	      TEST(any_file_may_be_cut_off_or_missing),
		TEST(random_bytes_may_be_anywhere),   TEST(what_can_be_opened_can_be_written),
		TEST(an_open_log_may_be_overwritten), TEST(damage_under_an_open_view_is_noticed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
