/* The files of an index without any Dovecot: who may write, torn tails and damage, rotation and
 * snapshots. */
#include "tests/index/index_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "store/index/index_private.h"
#include "store/mail.h"

/* What a rotation that was killed leaves is taken over as soon as it cannot be anybody else's. */
static void a_rotation_goes_on_where_one_was_killed(void **state)
{
	struct fixture *fx = *state;
	struct error err = {0};
	struct index *index;
	int fd, ret;

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	fd = openat(fx->dirfd, "dovecot.index.log.newlock", O_WRONLY | O_CREAT | O_EXCL, 0600);
	assert_int_equal(write(fd, "half", 4), 4);
	close(fd);
	assert_int_equal(index_rotate(index, 1000, &err), -EAGAIN);
	/* Nobody waits for it: the index can be used. */
	append_uid(index, 2, 0);
	for (int i = 0; i < 100 && (ret = index_rotate(index, 1000, &err)) == -EAGAIN; i++)
		usleep(200000);
	must(ret, &err);
	assert_false(file_exists(fx, "dovecot.index.log.newlock"));
	assert_described(index, false, "1 00\n2 00\n");
	index_close(&index);
}

/* Until there is one, no log goes that it would have to be made from. */
static void no_log_goes_that_no_snapshot_has(struct fixture *fx, bool old_snapshot)
{
	struct error err = {0};
	struct index *index, *fresh;

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	if (old_snapshot)
		must(index_write_snapshot(index, 1000, &err), &err);
	append_uid(index, 2, 0);
	shell("mkdir '%s/dovecot.index.tmp'", fx->dir);
	assert_int_equal(index_rotate(index, 1000, &err), -EEXIST); /* without its snapshot */
	assert_int_equal(index->log.file_seq, 3);
	append_uid(index, 3, 0);
	assert_int_equal(index_rotate(index, 1000, &err), -EEXIST); /* not at all */
	assert_int_equal(index->log.file_seq, 3);
	fresh = open_index(fx);
	assert_described(fresh, false, "1 00\n2 00\n3 00\n");
	index_close(&fresh);

	shell("rmdir '%s/dovecot.index.tmp'", fx->dir);
	must(index_rotate(index, 1000, &err), &err);
	assert_int_equal(index->log.file_seq, 4);
	fresh = open_index(fx);
	assert_described(fresh, false, "1 00\n2 00\n3 00\n");
	index_close(&fresh);
	index_close(&index);
}

static void rotations_without_a_first_snapshot(void **state)
{
	no_log_goes_that_no_snapshot_has(*state, false);
}

static void rotations_with_an_old_snapshot(void **state)
{
	no_log_goes_that_no_snapshot_has(*state, true);
}

static void a_replaced_index_is_begun_afresh(void **state)
{
	struct fixture *fx = *state;
	struct index_create create = {
		.uid_validity = 43, .next_uid = 1, .initial_modseq = 50, .replace = true};
	struct index *index, *fresh;
	struct error err = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	must(index_rotate(index, 1000, &err), &err);
	must(index_create(fx->dirfd, &fx->options, &create, &err), &err);
	fresh = open_index(fx);
	assert_described(fresh, false, "");
	assert_int_equal(highest(fresh), 50);
	assert_int_equal(index_refresh(index, &err), -ESTALE);
	assert_described(index, false, "");
	must(index_refresh(index, &err), &err);
	append_uid(index, 1, MAIL_SEEN);
	must(index_refresh(fresh, &err), &err);
	assert_described(fresh, false, "1 08\n");
	/* Also when the old log cannot even be read. */
	shell("printf garbage > '%s/dovecot.index.log'", fx->dir);
	must(index_create(fx->dirfd, &fx->options, &create, &err), &err);
	assert_int_equal(index_refresh(index, &err), -ESTALE);
	assert_described(index, false, "");
	index_close(&fresh);
	index_close(&index);
}

/* Tries Dovecot's kind of lock from another process. */
static bool posix_lock_is_free(const struct fixture *fx)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		int fd = openat(fx->dirfd, "dovecot.index.log", O_RDWR);

		_exit(fcntl(fd, F_SETLK, &lock) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WEXITSTATUS(status) == 0;
}

static void only_one_can_write(void **state)
{
	struct fixture *fx = *state;
	struct index *a, *b;
	struct index_txn *txn, *other;
	struct timespec start, end;
	struct error err = {0};

	make_index(fx, 1, 1);
	a = open_index(fx);
	b = open_index(fx);
	assert_true(posix_lock_is_free(fx));
	txn = begin(a);
	assert_false(posix_lock_is_free(fx));
	clock_gettime(CLOCK_MONOTONIC, &start);
	assert_int_equal(index_begin(b, 100, &other, &err), -EAGAIN);
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_null(other);
	assert_true((end.tv_sec - start.tv_sec) * 1000 + (end.tv_nsec - start.tv_nsec) / 1000000 >=
		    99);
	assert_int_equal(index_begin(a, 100, &other, &err), -EBUSY);
	must(index_append(txn, 1, 0, &err), &err);
	commit(&txn);
	assert_true(posix_lock_is_free(fx));
	append_uid(b, 2, 0);
	assert_described(b, false, "1 00\n2 00\n");
	index_close(&a);
	index_close(&b);
}

static void flock_is_a_lock_of_its_own(void **state)
{
	struct fixture *fx = *state;
	struct index *a, *b;
	struct index_txn *txn, *other;
	struct error err = {0};

	fx->options.lock_method = INDEX_LOCK_FLOCK;
	make_index(fx, 1, 1);
	a = open_index(fx);
	b = open_index(fx);
	txn = begin(a);
	assert_int_equal(index_begin(b, 0, &other, &err), -EAGAIN);
	assert_true(posix_lock_is_free(fx));
	index_abort(&txn);
	txn = begin(b);
	index_abort(&txn);
	index_close(&a);
	index_close(&b);
}

static void check_torn_tail(struct fixture *fx, const void *tail, size_t len)
{
	struct index *index = open_index(fx);
	uint64_t offset = log_offset(index);
	struct index_txn *txn;
	struct error err = {0};
	struct stat st;
	char *before = describe(index, true), *after;

	append_bytes(fx, "dovecot.index.log", tail, len);
	/* A reader waits for the rest. */
	must(index_refresh(index, &err), &err);
	assert_int_equal(log_offset(index), offset);
	index_close(&index);
	index = open_index(fx);
	after = describe(index, true);
	assert_string_equal(before, after);
	/* A writer knows that nobody is writing it. */
	txn = begin(index);
	assert_int_equal(fstatat(fx->dirfd, "dovecot.index.log", &st, 0), 0);
	assert_int_equal(st.st_size, offset);
	index_abort(&txn);
	free(before);
	free(after);
	index_close(&index);
}

static void torn_tails_are_cut_off_by_the_next_writer(void **state)
{
	struct fixture *fx = *state;
	/* A boundary over 40 bytes, of which only the first record is there. */
	static const uint8_t boundary[] = {0x80, 0x80, 0x80, 0x83, 0,	 0,    0x08, 0x10, 40, 0,
					   0,	 0,    0x80, 0x80, 0x80, 0x84, 2,    0,	   0,  0x10,
					   9,	 0,    0,    0,	   0,	 0,    0,    0};
	static const uint8_t cut[] = {0x80, 0x80, 0x80, 0x84, 2, 0, 0, 0x10, 9, 0, 0};
	static const uint8_t zeros[64];
	struct index *index;

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	index_close(&index);
	check_torn_tail(fx, boundary, sizeof(boundary));
	check_torn_tail(fx, cut, sizeof(cut));
	check_torn_tail(fx, cut, 3);
	check_torn_tail(fx, zeros, sizeof(zeros));
	index = open_index(fx);
	append_uid(index, 2, 0);
	assert_described(index, false, "1 00\n2 00\n");
	index_close(&index);
}

static void damage_inside_the_log_is_reported(void **state)
{
	struct fixture *fx = *state;
	/* An append of uid 1, which is there already. */
	static const uint8_t low[] = {0x80, 0x80, 0x80, 0x84, 2, 0, 0, 0x10,
				      1,    0,	  0,	0,    0, 0, 0, 0};
	static const uint8_t unknown[] = {0x80, 0x80, 0x80, 0x83, 8, 0, 0, 0x10, 1, 0, 0, 0};
	struct index *index;
	struct error err = {0};
	uint64_t offset;
	char expected[64], path[300];

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	offset = log_offset(index);
	append_bytes(fx, "dovecot.index.log", low, sizeof(low));
	assert_int_equal(index_refresh(index, &err), -EUCLEAN);
	snprintf(expected, sizeof(expected), "box/dovecot.index.log: damaged at offset %llu",
		 (unsigned long long)offset);
	assert_non_null(strstr(err.text, expected));
	snprintf(path, sizeof(path), "%s/dovecot.index.log", fx->dir);
	assert_int_equal(truncate(path, (off_t)offset), 0);
	must(index_refresh(index, &err), &err);
	assert_described(index, false, "1 00\n");
	append_bytes(fx, "dovecot.index.log", unknown, sizeof(unknown));
	assert_int_equal(index_refresh(index, &err), -EUCLEAN);
	index_close(&index);
	assert_int_equal(index_open(fx->dirfd, &fx->options, &index, &err), -EUCLEAN);
}

static void a_mailbox_being_deleted_is_not_written(void **state)
{
	struct fixture *fx = *state;
	struct index_status status;
	struct index *index, *other;
	struct index_txn *txn;
	struct error err = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	other = open_index(fx);
	append_uid(index, 1, 0);
	txn = begin(index);
	must(index_set_deleted(txn, &err), &err);
	commit(&txn);
	assert_int_equal(index_begin(other, 100, &txn, &err), -ESTALE);
	must(index_refresh(other, &err), &err);
	index_status(other, &status);
	assert_true(status.deleted);
	must(index_undelete(index, 1000, &err), &err);
	append_uid(other, 2, 0);
	index_status(other, &status);
	assert_false(status.deleted);
	index_close(&index);
	index_close(&other);
}

/* What was done to a mailbox since it was opened need not stay in memory once a snapshot has it. */
static void a_snapshot_takes_the_place_of_what_the_log_did(void **state)
{
	static const struct index_ext_def ref = {
		.name = "ref", .record_size = 2, .record_align = 2};
	struct fixture *fx = *state;
	struct index_position before, after;
	struct index_record record;
	struct index_status status;
	struct index *index, *other;
	struct index_txn *txn;
	struct error err = {0};
	uint8_t data[2];

	make_index(fx, 1, 5);
	index = open_index(fx);
	for (unsigned round = 0; round < 4; round++) {
		uint32_t uid = 3 * round + 1;
		char *text, *expected;

		txn = begin(index);
		for (uint32_t i = 0; i < 3; i++)
			must(index_append(txn, uid + i, MAIL_SEEN, &err), &err);
		must(index_update_keyword(txn, uid, "k", true, &err), &err);
		must(index_update_modseq(txn, uid + 1, 100 + round, &err), &err);
		must(index_inc_ext(txn, &ref, 1, 2, &err), &err);
		if (round > 0)
			must(index_expunge(txn, uid - 1, NULL, &err), &err);
		commit(&txn);
		expected = describe(index, true);
		index_position(index, &before);
		must(round % 2 ? index_rotate(index, 1000, &err)
			       : index_write_snapshot(index, 1000, &err),
		     &err);
		assert_int_equal(index->state.overlay.appended.count, 0);
		assert_int_equal(index->state.overlay.modified.count, 0);
		assert_described(index, true, expected);
		index_position(index, &after);
		assert_int_equal(before.modseq, after.modseq);
		index_status(index, &status);
		assert_int_equal(status.messages, 3 * (round + 1) - round);
		assert_false(status.pending);
		must(index_find(index, 1, &record), NULL);
		assert_int_equal(index_record_ext(index, &record, "ref", data, 2), 0);
		assert_int_equal(index_get16(data), 2 * (round + 1));
		other = open_index(fx);
		text = describe(other, true);
		assert_string_equal(text, expected);
		index_position(other, &before);
		assert_true(index_position_equal(&before, &after));
		index_close(&other);
		free(expected);
		free(text);
	}
	index_close(&index);
}

static void housekeeping_waits_until_it_is_due(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct index_position position;
	struct error err = {0};
	char *before, *after;

	make_index(fx, 1, 1);
	index = open_index(fx);
	for (uint32_t uid = 1; uid <= 100; uid++)
		append_uid(index, uid, 0);
	must(index_housekeep(index, 1000, &err), &err);
	assert_false(file_exists(fx, "dovecot.index"));
	for (uint32_t i = 0; i < 7000; i++)
		set_flags(index, i % 100 + 1, i % 2 == 0 ? MAIL_SEEN : 0,
			  i % 2 == 0 ? 0 : MAIL_SEEN);
	before = describe(index, true);
	must(index_housekeep(index, 1000, &err), &err);
	assert_true(file_exists(fx, "dovecot.index"));
	assert_false(file_exists(fx, "dovecot.index.log.2"));
	index_close(&index);
	index = open_index(fx);
	after = describe(index, true);
	assert_string_equal(before, after);
	free(before);
	free(after);
	while (log_offset(index) <= 1U << 20) {
		struct index_txn *txn = begin(index);

		for (uint32_t uid = 1; uid <= 100; uid += 2)
			must(index_update_flags(txn, uid, MAIL_FLAGGED, 0, &err), &err);
		commit(&txn);
	}
	before = describe(index, true);
	must(index_housekeep(index, 1000, &err), &err);
	assert_true(file_exists(fx, "dovecot.index.log.2"));
	index_position(index, &position);
	assert_int_equal(position.offset, 40);
	assert_int_equal(position.file_seq, 3);
	append_uid(index, 101, 0);
	expunge_uid(index, 101);
	index_close(&index);
	index = open_index(fx);
	after = describe(index, false);
	free(after);
	assert_int_equal(highest(index), position.modseq + 2);
	free(before);
	index_close(&index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(a_rotation_goes_on_where_one_was_killed),
		TEST(rotations_without_a_first_snapshot),
		TEST(rotations_with_an_old_snapshot),
		TEST(a_replaced_index_is_begun_afresh),
		TEST(only_one_can_write),
		TEST(flock_is_a_lock_of_its_own),
		TEST(torn_tails_are_cut_off_by_the_next_writer),
		TEST(damage_inside_the_log_is_reported),
		TEST(a_mailbox_being_deleted_is_not_written),
		TEST(a_snapshot_takes_the_place_of_what_the_log_did),
		TEST(housekeeping_waits_until_it_is_due),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
