/* The small parts: file names, keywords, dotlocks, name table. */
#include "tests/maildir/maildir_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "store/base/mounted.h"
#include "store/maildir/dotlock.h"
#include "store/maildir/maildir_keywords.h"
#include "store/maildir/maildir_name.h"
#include "store/maildir/name_table.h"
#include "store/maildir/new_files.h"

/* ---- names ---- */

static void test_name_is_parsed(void **state)
{
	struct maildir_name name;

	assert_true(maildir_name_parse("123.M4P5.host,S=6,W=7:2,DFac", &name));
	assert_int_equal(name.base_len, 21);
	assert_int_equal(name.flags, MAIL_DRAFT | MAIL_FLAGGED);
	assert_int_equal(name.letters, 1 << 0 | 1 << 2);
	assert_true(maildir_name_parse("123.host", &name));
	assert_false(name.has_info);
	assert_true(maildir_name_parse("123.host:1,exp", &name));
	assert_false(name.has_info);
	assert_int_equal(name.base_len, 8);
	assert_true(maildir_name_parse("123.host:2,S,zz", &name));
	assert_int_equal(name.flags, MAIL_SEEN);
	assert_int_equal(name.letters, 0);
	assert_false(maildir_name_parse(".hidden", &name));
	assert_false(maildir_name_parse(":2,S", &name));
}

static void test_name_is_built_and_keeps_what_is_unknown(void **state)
{
	struct maildir_name old;
	char name[NAME_MAX + 1], longest[NAME_MAX + 1];

	assert_int_equal(
		maildir_name_build("b", 1, MAIL_SEEN | MAIL_ANSWERED, 1 << 25 | 1, NULL, name), 0);
	assert_string_equal(name, "b:2,RSaz");
	maildir_name_parse("b:2,PSXc,other,sets", &old);
	assert_int_equal(maildir_name_build("b", 1, MAIL_FLAGGED, 1 << 1, &old, name), 0);
	assert_string_equal(name, "b:2,FPXb,other,sets");
	memset(longest, 'x', NAME_MAX);
	longest[NAME_MAX] = '\0';
	assert_int_equal(maildir_name_build(longest, NAME_MAX - 3, 0, 0, NULL, name), 0);
	assert_int_equal(maildir_name_build(longest, NAME_MAX - 3, MAIL_SEEN, 0, NULL, name),
			 -ENAMETOOLONG);
}

static void test_sizes_and_guids_of_names(void **state)
{
	uint64_t size = 0;
	const char *base = "1.M2P3.host,S=17,W=19";

	assert_true(maildir_name_size_field(base, strlen(base), 'S', &size));
	assert_int_equal(size, 17);
	assert_true(maildir_name_size_field(base, strlen(base), 'W', &size));
	assert_int_equal(size, 19);
	assert_false(maildir_name_size_field("a,S=", 4, 'S', &size));
	assert_false(maildir_name_size_field("a,S=5x", 6, 'S', &size));
	assert_true(maildir_name_guid_is_usable(base));
	assert_true(maildir_name_guid_is_usable("7931a82b8585026be40b000083ecc375"));
	assert_false(maildir_name_guid_is_usable(""));
	assert_false(maildir_name_guid_is_usable(".x"));
	assert_false(maildir_name_guid_is_usable("a/b"));
	assert_false(maildir_name_guid_is_usable("a:b"));
	assert_false(maildir_name_guid_is_usable("a b"));
	assert_false(maildir_name_guid_is_usable("a\nb"));
}

/* All names, shuffled, and each once more with flags; as a pass over new/ and cur/ gives them. */
static void add_all(struct new_files *files, unsigned count)
{
	for (unsigned i = 0; i < 2 * count; i++) {
		struct maildir_name name;
		char file[64];

		snprintf(file, sizeof file, "%u.M%uP1.host%s", 1000 + i * 7 % count / 10,
			 i * 7 % count % 10, i < count ? "" : ":2,Fb");
		assert_true(maildir_name_parse(file, &name));
		assert_int_equal(new_files_add(files, &name, i * 7 % count + 1), 0);
	}
}

static void test_new_files_come_in_parts(void **state)
{
	for (unsigned max = 1; max < 60; max++) {
		struct new_files files;
		unsigned seen = 0, passes = 0;
		bool more = true;

		new_files_init(&files, max);
		while (more) {
			add_all(&files, 50);
			assert_int_equal(new_files_select(&files), 0);
			assert_true(files.count <= max);
			for (size_t i = 0; i < files.count; i++) {
				struct maildir_name name;
				char base[64];

				assert_int_equal(new_files_get(&files, i, &name), ++seen);
				snprintf(base, sizeof base, "%u.M%uP1.host", 1000 + (seen - 1) / 10,
					 (seen - 1) % 10);
				assert_string_equal(name.base, base);
				assert_int_equal(name.base_len, strlen(base));
				/* The first that was seen. */
				assert_int_equal(name.flags, 0);
				assert_int_equal(name.letters, 0);
			}
			assert_int_equal(new_files_next(&files, &more), 0);
			passes++;
		}
		assert_int_equal(seen, 50);
		assert_int_equal(passes, (50 + max - 1) / max);
		new_files_free(&files);
	}
}

static void test_order_of_new_files(void **state)
{
	assert_true(maildir_name_cmp("9.x", "10.x") < 0);
	assert_true(maildir_name_cmp("10.M9P1.x", "10.M10P1.x") < 0);
	assert_true(maildir_name_cmp("10.M9P1.x", "10.M9P2.x") < 0);
	assert_int_equal(maildir_name_cmp("10.M9P1.x", "10.M9P1.x"), 0);
	assert_true(maildir_name_cmp("abc", "abd") < 0);
	/* Never 0 for two. */
	assert_true(maildir_name_cmp("7.x", "007.x") > 0);
	assert_true(maildir_name_cmp("10.M9P1.x", "10.M09P1.x") != 0);
	assert_true(maildir_name_cmp("20261129210553123451.h", "20261129210553123452.h") < 0);
}

static void test_generated_names_differ(void **state)
{
	char a[NAME_MAX + 1], b[NAME_MAX + 1];
	struct maildir_name name;

	maildir_name_generate(a);
	maildir_name_generate(b);
	assert_string_not_equal(a, b);
	assert_true(maildir_name_parse(a, &name));
	assert_int_equal(name.base_len, strlen(a));
}

static void test_name_table_grows(void **state)
{
	struct name_table table;
	static char names[5000][16];

	assert_int_equal(name_table_init(&table, 2), 0);
	for (uint32_t i = 0; i < 5000; i++) {
		struct name_slot *slot;

		snprintf(names[i], sizeof names[i], "name-%u", i);
		slot = name_table_put(&table, names[i], strlen(names[i]));
		assert_non_null(slot);
		assert_int_equal(slot->value, 0);
		slot->value = i + 1;
	}
	assert_int_equal(table.count, 5000);
	for (uint32_t i = 0; i < 5000; i++)
		assert_int_equal(name_table_get(&table, names[i], strlen(names[i]))->value, i + 1);
	assert_null(name_table_get(&table, "name-5000", 9));
	name_table_free(&table);
}

/* ---- keywords ---- */

static int open_dir(struct fixture *fx)
{
	int fd;

	fixture_make_maildir(fx);
	fd = open(fx->maildir, O_PATH | O_DIRECTORY);
	assert_true(fd >= 0);
	return fd;
}

/* Its maker died; whoever writes now has dovecot-uidlist.lock. */
static void test_a_keywords_lock_that_was_left_is_taken_over(void **state)
{
	struct fixture *fx = *state;
	struct maildir_keywords keywords = {0};
	const char *name = "$Label1";
	struct error err = {0};
	int fd = open_dir(fx);
	char path[400];

	snprintf(path, sizeof path, "%s/dovecot-keywords.lock", fx->maildir);
	write_file(path, "0 Oth", 5);
	must(maildir_keywords_refresh(&keywords, fd, "box", &err), &err);
	must(maildir_keywords_assign(&keywords, fd, "box", &name, 1, 0, &err), &err);
	assert_int_equal(maildir_keywords_find(&keywords, "$Label1"), 0);
	assert_false(path_exists("%s", path));
	maildir_keywords_free(&keywords);
	close(fd);
}

static void test_keywords_are_read_and_assigned(void **state)
{
	struct fixture *fx = *state;
	struct maildir_keywords keywords = {0};
	const char *names[] = {"NonJunk", "$label1", "New"};
	struct error err = {0};
	int fd = open_dir(fx);
	char path[400], *text;

	snprintf(path, sizeof path, "%s/dovecot-keywords", fx->maildir);
	write_file(path, "0 $Label1\n2 Other\nnonsense\n30 Beyond\n", 37);
	must(maildir_keywords_refresh(&keywords, fd, "box", &err), &err);
	assert_int_equal(maildir_keywords_find(&keywords, "$LABEL1"), 0);
	assert_int_equal(maildir_keywords_find(&keywords, "Other"), 2);
	assert_int_equal(maildir_keywords_find(&keywords, "Beyond"), -1);
	/* Letter b is in use by a file whose keyword nobody knows. */
	must(maildir_keywords_assign(&keywords, fd, "box", names, 3, 1 << 1, &err), &err);
	text = read_file(path);
	assert_string_equal(text, "0 $Label1\n2 Other\n3 NonJunk\n4 New\n");
	assert_false(path_exists("%s/dovecot-keywords.lock", fx->maildir));
	free(text);
	maildir_keywords_free(&keywords);
	close(fd);
}

static void test_keywords_mtime_grows_in_whole_seconds(void **state)
{
	struct fixture *fx = *state;
	struct maildir_keywords keywords = {0}, reader = {0};
	const char *name = "A";
	struct error err = {0};
	struct stat before, after;
	int fd = open_dir(fx);
	char path[400];

	snprintf(path, sizeof path, "%s/dovecot-keywords", fx->maildir);
	write_file(path, "0 X\n", 4);
	must(maildir_keywords_refresh(&keywords, fd, "box", &err), &err);
	must(maildir_keywords_refresh(&reader, fd, "box", &err), &err);
	assert_int_equal(stat(path, &before), 0);
	must(maildir_keywords_assign(&keywords, fd, "box", &name, 1, 0, &err), &err);
	assert_int_equal(stat(path, &after), 0);
	assert_true(after.st_mtim.tv_sec > before.st_mtim.tv_sec);
	must(maildir_keywords_refresh(&reader, fd, "box", &err), &err);
	assert_int_equal(maildir_keywords_find(&reader, "A"), 1);
	maildir_keywords_free(&keywords);
	maildir_keywords_free(&reader);
	close(fd);
}

static void test_only_26_keywords_get_letters(void **state)
{
	struct fixture *fx = *state;
	struct maildir_keywords keywords = {0};
	char text[30][8];
	const char *names[30];
	struct error err = {0};
	int fd = open_dir(fx);

	for (int i = 0; i < 30; i++) {
		snprintf(text[i], sizeof text[i], "K%d", i);
		names[i] = text[i];
	}
	must(maildir_keywords_assign(&keywords, fd, "box", names, 30, 0, &err), &err);
	assert_int_equal(maildir_keywords_find(&keywords, "K25"), 25);
	assert_int_equal(maildir_keywords_find(&keywords, "K26"), -1);
	maildir_keywords_free(&keywords);
	close(fd);
}

/* ---- dotlocks ---- */

static void test_lock_excludes_and_is_released(void **state)
{
	struct fixture *fx = *state;
	struct dotlock *lock, *second;
	struct error err = {0};
	int fd = open_dir(fx);
	bool waited;
	char path[400], *text, expected[300], host[200];

	must(dotlock_acquire(fd, "box", "dovecot-uidlist", 0, &lock, &err), &err);
	snprintf(path, sizeof path, "%s/dovecot-uidlist.lock", fx->maildir);
	text = read_file(path);
	gethostname(host, sizeof host);
	snprintf(expected, sizeof expected, "%d:%s", (int)getpid(), host);
	assert_string_equal(text, expected);
	/* In this process, too. */
	assert_int_equal(dotlock_acquire(fd, "box", "dovecot-uidlist", 30, &second, &err), -EAGAIN);
	assert_non_null(strstr(err.text, expected));
	assert_int_equal(dotlock_wait(fd, "box", "dovecot-uidlist", 30, &waited, &err), -EAGAIN);
	dotlock_release(&lock);
	assert_null(lock);
	assert_false(path_exists("%s", path));
	must(dotlock_wait(fd, "box", "dovecot-uidlist", 30, &waited, &err), &err);
	assert_false(waited);
	free(text);
	close(fd);
}

static void put_lock(struct fixture *fx, long pid, const char *host, int age_s)
{
	char path[400], text[300];
	struct timespec times[2] = {{.tv_sec = time(NULL) - age_s}, {.tv_sec = time(NULL) - age_s}};

	snprintf(path, sizeof path, "%s/dovecot-uidlist.lock", fx->maildir);
	snprintf(text, sizeof text, "%ld:%s", pid, host);
	write_file(path, text, strlen(text));
	assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
}

/* In the place of the C library's: done just before. */
static void (*before_rename)(const char *from);

int renameat(int from_dir, const char *from, int to_dir, const char *to)
{
	if (before_rename)
		before_rename(from);
	return (int)syscall(SYS_renameat2, from_dir, from, to_dir, to, 0);
}

/* A text of the same length for every process. */
static void write_lock(const char *path, pid_t pid)
{
	char text[300], host[200];

	gethostname(host, sizeof host);
	snprintf(text, sizeof text, "%010d:%s", (int)pid, host);
	write_file(path, text, strlen(text));
}

static char lock_path[400];

static void lock_by_another(const char *from)
{
	before_rename = NULL;
	assert_string_equal(from, "dovecot-uidlist.lock");
	write_lock(lock_path, getppid());
}

/* Another process was as fast, and the filesystem gave its lock the inode of the stale one. */
static void test_the_lock_of_who_was_faster_is_put_back(void **state)
{
	struct fixture *fx = *state;
	struct dotlock *lock;
	struct error err = {0};
	int fd = open_dir(fx);
	pid_t dead = fork();
	char *text;

	if (dead == 0)
		_exit(0);
	assert_int_equal(waitpid(dead, NULL, 0), dead);
	snprintf(lock_path, sizeof lock_path, "%s/dovecot-uidlist.lock", fx->maildir);
	write_lock(lock_path, dead);
	must_shell("touch -d '10 seconds ago' '%s'", lock_path);
	usleep(2100000); /* its status has changed now, too */
	before_rename = lock_by_another;
	assert_int_equal(dotlock_acquire(fd, "box", "dovecot-uidlist", 0, &lock, &err), -EAGAIN);
	assert_null(before_rename);
	text = read_file(lock_path);
	assert_int_equal(strtol(text, NULL, 10), getppid());
	free(text);
	close(fd);
}

static void test_lock_of_a_dead_process_is_overridden(void **state)
{
	struct fixture *fx = *state;
	struct dotlock *lock;
	struct error err = {0};
	int fd = open_dir(fx), status;
	char host[200];
	pid_t dead = fork();

	if (dead == 0)
		_exit(0);
	waitpid(dead, &status, 0);
	gethostname(host, sizeof host);
	put_lock(fx, dead, host, 100);
	/* Its ctime is new: younger than 2 s it is left alone. */
	assert_int_equal(dotlock_acquire(fd, "box", "dovecot-uidlist", 100, &lock, &err), -EAGAIN);
	must(dotlock_acquire(fd, "box", "dovecot-uidlist", 6000, &lock, &err), &err);
	dotlock_release(&lock);
	close(fd);
}

static void test_lock_of_a_living_process_is_never_overridden(void **state)
{
	struct fixture *fx = *state;
	struct dotlock *lock;
	struct error err = {0};
	int fd = open_dir(fx);
	char host[200];

	gethostname(host, sizeof host);
	put_lock(fx, (long)getppid(), host, 1000);
	assert_int_equal(dotlock_acquire(fd, "box", "dovecot-uidlist", 3500, &lock, &err), -EAGAIN);
	close(fd);
}

/* Whoever took it has lost its files with the former mount, and could not remove it. */
static void test_lock_from_before_the_mount_is_overridden(void **state)
{
	struct fixture *fx = *state;
	struct dotlock *lock;
	struct error err = {0};
	int fd = open_dir(fx);
	char host[200];

	gethostname(host, sizeof host);
	mounted_set((int64_t)(time(NULL) - 100) * 1000);
	put_lock(fx, (long)getppid(), host, 1000);
	assert_int_equal(dotlock_acquire(fd, "box", "dovecot-uidlist", 4000, &lock, &err), -EAGAIN);
	/* It is given some time to notice. */
	mounted_set((int64_t)time(NULL) * 1000);
	assert_int_equal(dotlock_acquire(fd, "box", "dovecot-uidlist", 4000, &lock, &err), -EAGAIN);
	must(dotlock_acquire(fd, "box", "dovecot-uidlist", 14000, &lock, &err), &err);
	assert_true(dotlock_was_stale(lock));
	dotlock_release(&lock);
	mounted_set(0);
	close(fd);
}

/* kill -9 between making the file and writing the pid into it. */
static void test_an_empty_lock_is_stale_soon(void **state)
{
	struct fixture *fx = *state;
	struct dotlock *lock;
	struct error err = {0};
	int fd = open_dir(fx);
	char path[400];

	snprintf(path, sizeof path, "%s/dovecot-uidlist.lock", fx->maildir);
	write_file(path, "", 0);
	assert_int_equal(dotlock_acquire(fd, "box", "dovecot-uidlist", 3000, &lock, &err), -EAGAIN);
	must(dotlock_acquire(fd, "box", "dovecot-uidlist", 14000, &lock, &err), &err);
	dotlock_release(&lock);
	close(fd);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_name_is_parsed),
		cmocka_unit_test(test_name_is_built_and_keeps_what_is_unknown),
		cmocka_unit_test(test_sizes_and_guids_of_names),
		cmocka_unit_test(test_order_of_new_files),
		cmocka_unit_test(test_new_files_come_in_parts),
		cmocka_unit_test(test_generated_names_differ),
		cmocka_unit_test(test_name_table_grows),
		UNIT(test_a_keywords_lock_that_was_left_is_taken_over),
		UNIT(test_keywords_are_read_and_assigned),
		UNIT(test_keywords_mtime_grows_in_whole_seconds),
		UNIT(test_only_26_keywords_get_letters),
		UNIT(test_lock_excludes_and_is_released),
		UNIT(test_the_lock_of_who_was_faster_is_put_back),
		UNIT(test_lock_of_a_dead_process_is_overridden),
		UNIT(test_lock_of_a_living_process_is_never_overridden),
		UNIT(test_lock_from_before_the_mount_is_overridden),
		UNIT(test_an_empty_lock_is_stale_soon),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
