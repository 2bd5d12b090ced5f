/* Writing and reading an index without any Dovecot: what a transaction says, and what views show of
 * it. */
#include "tests/index/index_fixture.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include "store/index/index_cache.h"
#include "store/index/index_format.h"
#include "store/index/index_private.h"
#include "store/mail.h"

static void size_encoding_is_seven_bits_a_byte(void **state)
{
	static const uint8_t eight[] = {0x80, 0x80, 0x80, 0x82}, forty[] = {0x80, 0x80, 0x80, 0x8a};
	static const uint8_t unwritten[] = {0x80, 0x00, 0x80, 0x82};
	uint8_t bytes[4];

	(void)state;
	index_size_encode(8, bytes);
	assert_memory_equal(bytes, eight, 4);
	index_size_encode(40, bytes);
	assert_memory_equal(bytes, forty, 4);
	assert_int_equal(index_size_decode(unwritten), 0);
	for (uint32_t size = 4; size < LOG_SIZE_MAX - 4; size += size / 7 * 4 + 4) {
		index_size_encode(size, bytes);
		assert_int_equal(index_size_decode(bytes), size);
	}
}

static void a_new_index_has_what_it_was_created_with(void **state)
{
	struct fixture *fx = *state;
	struct index_create again = {.uid_validity = 1};
	struct index_status status;
	struct error err = {0};
	struct index *index;

	make_index(fx, 5, 7);
	assert_int_equal(index_create(fx->dirfd, &fx->options, &again, &err), -EEXIST);
	assert_false(file_exists(fx, "dovecot.index.log.newlock"));
	index = open_index(fx);
	index_status(index, &status);
	assert_int_equal(status.uid_validity, 42);
	assert_int_equal(status.next_uid, 5);
	assert_int_equal(status.first_recent_uid, 1);
	assert_int_equal(status.messages, 0);
	assert_int_equal(status.highest_modseq, 7);
	assert_false(status.has_modseqs);
	assert_false(status.pending);
	index_close(&index);
}

static void without_a_log_there_is_no_index(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct error err = {0};

	assert_int_equal(index_open(fx->dirfd, &fx->options, &index, &err), -ENOENT);
	assert_null(index);
	assert_non_null(strstr(err.text, "box/dovecot.index.log"));
}

static void new_files_have_the_mode_of_their_directory(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct error err = {0};
	struct stat st;

	assert_int_equal(chmod(fx->dir, 0770), 0);
	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	must(index_rotate(index, 1000, &err), &err);
	index_close(&index);
	assert_int_equal(fstatat(fx->dirfd, "dovecot.index.log", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
	assert_int_equal(fstatat(fx->dirfd, "dovecot.index", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
}

static void a_commit_shows_at_once_and_after_reopening(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	txn = begin(index);
	must(index_append(txn, 3, MAIL_SEEN, &err), &err);
	must(index_append(txn, 7, 0, &err), &err);
	must(index_update_keyword(txn, 3, "$Label1", true, &err), &err);
	must(index_update_keyword(txn, 7, "$Label1", true, &err), &err);
	must(index_update_keyword(txn, 7, "Work", true, &err), &err);
	/* APPEND 1, two keywords 2 */
	assert_int_equal(index_txn_modseq(txn), 4);
	assert_int_equal(index_txn_next_uid(txn), 8);
	must(index_commit(&txn, true, &err), &err);
	assert_described(index, true, "3 08 4 $Label1\n7 00 4 $Label1 Work\n");
	assert_int_equal(highest(index), 4);
	set_flags(index, 7, MAIL_FLAGGED, 0);
	assert_described(index, true, "3 08 5 $Label1\n7 02 5 $Label1 Work\n");
	index_close(&index);
	index = open_index(fx);
	assert_described(index, true, "3 08 5 $Label1\n7 02 5 $Label1 Work\n");
	index_close(&index);
}

static void nothing_collected_writes_nothing(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct index_txn *txn;
	uint64_t offset;

	make_index(fx, 1, 1);
	index = open_index(fx);
	offset = log_offset(index);
	txn = begin(index);
	commit(&txn);
	assert_int_equal(log_offset(index), offset);
	/* Messages that are not there are left out. */
	set_flags(index, 9, MAIL_SEEN, 0);
	set_keyword(index, 9, "x", true);
	expunge_uid(index, 9);
	assert_int_equal(log_offset(index), offset);
	txn = begin(index);
	index_abort(&txn);
	assert_int_equal(log_offset(index), offset);
	index_close(&index);
}

static void exact_modseqs_switch_the_extension_on(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	append_uid(index, 2, 0);
	assert_int_equal(highest(index), 3);
	txn = begin(index);
	must(index_append(txn, 3, 0, &err), &err);
	must(index_append(txn, 4, 0, &err), &err);
	must(index_update_modseq(txn, 3, 100, &err), &err);
	must(index_update_modseq(txn, 4, 2, &err), &err); /* too low: the lowest possible */
	must(index_update_flags(txn, 1, MAIL_SEEN, 0, &err), &err);
	must(index_update_modseq(txn, 1, 90, &err), &err);
	assert_int_equal(index_txn_modseq(txn), 5);
	commit(&txn);
	assert_described(index, true, "1 08 90\n2 00 3\n3 00 100\n4 00 5\n");
	assert_int_equal(highest(index), 100);
	set_flags(index, 2, MAIL_SEEN, 0);
	assert_described(index, true, "1 08 90\n2 08 101\n3 00 100\n4 00 5\n");
	/* Only the highest. */
	txn = begin(index);
	must(index_update_modseq(txn, 0, 500, &err), &err);
	commit(&txn);
	assert_int_equal(highest(index), 500);
	/* Never lowered. */
	txn = begin(index);
	must(index_update_modseq(txn, 0, 400, &err), &err);
	commit(&txn);
	assert_int_equal(highest(index), 500);
	index_close(&index);
	index = open_index(fx);
	assert_described(index, true, "1 08 90\n2 08 101\n3 00 100\n4 00 5\n");
	assert_int_equal(highest(index), 500);
	index_close(&index);
}

static void the_later_change_of_a_message_wins(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, MAIL_SEEN | MAIL_DRAFT);
	txn = begin(index);
	must(index_update_flags(txn, 1, MAIL_FLAGGED, MAIL_SEEN, &err), &err);
	must(index_update_flags(txn, 1, MAIL_SEEN | MAIL_ANSWERED, MAIL_FLAGGED, &err), &err);
	must(index_update_keyword(txn, 1, "a", true, &err), &err);
	must(index_update_keyword(txn, 1, "b", true, &err), &err);
	must(index_update_keyword(txn, 1, "A", false, &err), &err); /* the same keyword */
	commit(&txn);
	assert_described(index, false, "1 19 b\n");
	index_close(&index);
}

static void bad_arguments_fail_the_commit(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};
	uint64_t offset;

	make_index(fx, 10, 1);
	index = open_index(fx);
	offset = log_offset(index);
	txn = begin(index);
	assert_int_equal(index_append(txn, 9, 0, &err), -EINVAL);
	assert_int_equal(index_commit(&txn, false, &err), -EINVAL);
	txn = begin(index);
	must(index_append(txn, 10, 0, &err), &err);
	assert_int_equal(index_update_keyword(txn, 10, "two words", true, &err), -EINVAL);
	assert_int_equal(index_update_keyword(txn, 10, "", true, &err), -EINVAL);
	assert_int_equal(index_commit(&txn, false, &err), -EINVAL);
	assert_int_equal(log_offset(index), offset);
	append_uid(index, 10, 0);
	assert_described(index, false, "10 00\n");
	index_close(&index);
}

static void headers_are_raised_and_never_lowered(void **state)
{
	struct fixture *fx = *state;
	struct index_status status;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};

	make_index(fx, 5, 1);
	index = open_index(fx);
	txn = begin(index);
	must(index_set_next_uid(txn, 20, &err), &err);
	must(index_set_first_recent_uid(txn, 15, &err), &err);
	must(index_set_uid_validity(txn, 77, &err), &err);
	commit(&txn);
	txn = begin(index);
	must(index_set_next_uid(txn, 10, &err), &err);
	must(index_set_first_recent_uid(txn, 3, &err), &err);
	commit(&txn);
	index_status(index, &status);
	assert_int_equal(status.next_uid, 20);
	assert_int_equal(status.first_recent_uid, 15);
	assert_int_equal(status.uid_validity, 77);
	index_close(&index);
}

static void another_view_follows_incrementally(void **state)
{
	struct fixture *fx = *state;
	struct index *writer, *reader;
	struct index_position before, after;
	struct index_txn *txn;
	struct error err = {0};

	make_index(fx, 1, 1);
	writer = open_index(fx);
	reader = open_index(fx);
	append_uid(writer, 1, 0);
	append_uid(writer, 2, 0);
	assert_described(reader, false, "");
	index_position(reader, &before);
	must(index_refresh(reader, &err), &err);
	index_position(reader, &after);
	assert_false(index_position_equal(&before, &after));
	assert_int_equal(before.file_seq, after.file_seq);
	assert_true(before.offset < after.offset);
	assert_described(reader, false, "1 00\n2 00\n");
	must(index_refresh(reader, &err), &err);
	index_position(reader, &before);
	assert_true(index_position_equal(&before, &after));
	/* Over a rotation. */
	expunge_uid(writer, 1);
	must(index_rotate(writer, 1000, &err), &err);
	set_flags(writer, 2, MAIL_SEEN, 0);
	must(index_refresh(reader, &err), &err);
	assert_described(reader, false, "2 08\n");
	assert_int_equal(highest(reader), highest(writer));
	/* Over two at once: the view is loaded again. */
	must(index_rotate(writer, 1000, &err), &err);
	set_flags(writer, 2, MAIL_FLAGGED, 0);
	must(index_rotate(writer, 1000, &err), &err);
	must(index_refresh(reader, &err), &err);
	assert_described(reader, false, "2 0a\n");
	/* Who writes learns that somebody else has written. */
	txn = begin(reader);
	assert_false(index_txn_foreign(txn));
	index_abort(&txn);
	set_flags(writer, 2, MAIL_DRAFT, 0);
	txn = begin(reader);
	assert_true(index_txn_foreign(txn));
	assert_described(reader, false, "2 1a\n");
	index_abort(&txn);
	index_close(&writer);
	index_close(&reader);
}

static void requests_wait_until_they_are_carried_out(void **state)
{
	struct fixture *fx = *state;
	struct index_status status;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};
	uint8_t tail[16] = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	assert_false(index_has_request(index, 1));
	txn = begin(index);
	index_txn_internal(txn);
	must(index_expunge(txn, 1, NULL, &err), &err);
	must(index_update_flags(txn, 1, MAIL_DELETED, 0, &err), &err);
	assert_int_equal(index_txn_modseq(txn), 3); /* the request itself does not count */
	commit(&txn);
	assert_described(index, false, "1 04\n");
	assert_int_equal(highest(index), 3);
	index_status(index, &status);
	assert_true(status.pending);
	assert_true(index_has_request(index, 1));
	assert_false(index_has_request(index, 2));
	assert_int_equal(index_write_snapshot(index, 1000, &err), -EBUSY);
	must(index_housekeep(index, 1000, &err), &err);
	/* Whoever carries it out writes the external one and moves the tail. */
	expunge_uid(index, 1);
	index_size_encode(sizeof(tail), tail);
	index_put32(tail + 4, LOG_HEADER_UPDATE | LOG_EXTERNAL);
	index_put16(tail + 8, HDR_LOG_TAIL);
	index_put16(tail + 10, 4);
	index_put32(tail + 12, (uint32_t)log_offset(index) + 16);
	append_bytes(fx, "dovecot.index.log", tail, sizeof(tail));
	must(index_refresh(index, &err), &err);
	index_status(index, &status);
	assert_false(status.pending);
	assert_false(index_has_request(index, 1));
	assert_int_equal(status.messages, 0);
	must(index_write_snapshot(index, 1000, &err), &err);
	/* What is carried out is none any more where another is pending. */
	append_uid(index, 2, 0);
	txn = begin(index);
	index_txn_internal(txn);
	must(index_update_flags(txn, 2, MAIL_SEEN, 0, &err), &err);
	commit(&txn);
	assert_true(index_has_request(index, 2));
	assert_false(index_has_request(index, 1));
	index_close(&index);
}

static void extensions_are_kept_by_name(void **state)
{
	static const struct index_ext_def mdbox = {
		.name = "mdbox", .record_size = 8, .record_align = 4};
	static const struct index_ext_def ref = {
		.name = "ref", .record_size = 2, .record_align = 2};
	static const struct index_ext_def hdr = {.name = "mdbox-hdr", .hdr_size = 24};
	static const uint8_t mapped[8] = {1, 2, 3, 4, 5, 6, 7, 8}, guid[16] = "0123456789abcde";
	struct fixture *fx = *state;
	struct index_record record;
	struct index_ext ext;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};
	uint8_t data[10];

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	must(index_write_snapshot(index, 1000, &err), &err);
	index_close(&index);
	index = open_index(fx);
	txn = begin(index);
	must(index_append(txn, 2, 0, &err), &err);
	must(index_update_ext(txn, &mdbox, 2, mapped, &err), &err);
	must(index_update_ext(txn, &mdbox, 1, mapped, &err), &err);
	must(index_inc_ext(txn, &ref, 1, 3, &err), &err);
	must(index_update_ext_hdr(txn, &hdr, 4, guid, sizeof(guid), &err), &err);
	commit(&txn);
	txn = begin(index);
	must(index_inc_ext(txn, &ref, 1, -1, &err), &err);
	must(index_update_keyword(txn, 1, "k", true, &err), &err);
	commit(&txn);
	for (int round = 0; round < 3; round++) {
		must(index_find(index, 1, &record), NULL);
		assert_int_equal(index_record_ext(index, &record, "mdbox", data, 10), 0);
		assert_memory_equal(data, mapped, 8);
		assert_int_equal(data[8] | data[9], 0);
		assert_int_equal(index_record_ext(index, &record, "ref", data, 2), 0);
		assert_int_equal(index_get16(data), 2);
		must(index_find(index, 2, &record), NULL);
		assert_int_equal(index_record_ext(index, &record, "ref", data, 2), 0);
		assert_int_equal(index_get16(data), 0);
		assert_int_equal(index_record_ext(index, &record, "none", data, 2), -ENOENT);
		must(index_ext_find(index, "mdbox-hdr", &ext), NULL);
		assert_int_equal(ext.hdr_size, 24);
		assert_memory_equal((const uint8_t *)ext.hdr + 4, guid, 16);
		assert_described(index, false, "1 00 k\n2 00\n");
		index_close(&index);
		index = open_index(fx);
		if (round == 1) {
			must(index_rotate(index, 1000, &err), &err);
			index_close(&index);
			index = open_index(fx);
		}
	}
	index_close(&index);
}

static void saved_dates_go_through_the_cache(void **state)
{
	struct fixture *fx = *state;
	const struct index_save_date first[] = {{1, 1675252801}, {2, 1675252802}};
	const struct index_save_date second[] = {{2, 1675252999}, {3, 1675253003}};
	struct index_record record;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};
	int64_t saved;

	make_index(fx, 1, 1);
	index = open_index(fx);
	txn = begin(index);
	for (uint32_t uid = 1; uid <= 3; uid++)
		must(index_append(txn, uid, 0, &err), &err);
	must(index_cache_set_save_dates(txn, first, 2, &err), &err);
	commit(&txn);
	must(index_find(index, 1, &record), NULL);
	must(index_cache_get_save_date(index, &record, &saved), NULL);
	assert_int_equal(saved, 1675252801);
	must(index_find(index, 3, &record), NULL);
	assert_int_equal(index_cache_get_save_date(index, &record, &saved), -ENOENT);
	txn = begin(index);
	must(index_cache_set_save_dates(txn, second, 2, &err), &err);
	commit(&txn);
	must(index_find(index, 2, &record), NULL);
	must(index_cache_get_save_date(index, &record, &saved), NULL);
	assert_int_equal(saved, 1675252999);
	must(index_find(index, 3, &record), NULL);
	must(index_cache_get_save_date(index, &record, &saved), NULL);
	assert_int_equal(saved, 1675253003);
	/* A lost or damaged cache is only not known, and is made anew when something is to be kept.
	 */
	shell("printf garbage > '%s/dovecot.index.cache'", fx->dir);
	index_close(&index);
	index = open_index(fx);
	must(index_find(index, 2, &record), NULL);
	assert_int_equal(index_cache_get_save_date(index, &record, &saved), -ENOENT);
	txn = begin(index);
	must(index_cache_set_save_dates(txn, first, 2, &err), &err);
	commit(&txn);
	must(index_find(index, 2, &record), NULL);
	must(index_cache_get_save_date(index, &record, &saved), NULL);
	assert_int_equal(saved, 1675252802);
	must(index_find(index, 3, &record), NULL);
	assert_int_equal(index_cache_get_save_date(index, &record, &saved), -ENOENT);
	index_close(&index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(size_encoding_is_seven_bits_a_byte),
		TEST(a_new_index_has_what_it_was_created_with),
		TEST(without_a_log_there_is_no_index),
		TEST(new_files_have_the_mode_of_their_directory),
		TEST(a_commit_shows_at_once_and_after_reopening),
		TEST(nothing_collected_writes_nothing),
		TEST(exact_modseqs_switch_the_extension_on),
		TEST(the_later_change_of_a_message_wins),
		TEST(bad_arguments_fail_the_commit),
		TEST(headers_are_raised_and_never_lowered),
		TEST(another_view_follows_incrementally),
		TEST(requests_wait_until_they_are_carried_out),
		TEST(extensions_are_kept_by_name),
		TEST(saved_dates_go_through_the_cache),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
