/* Stamps: what changes them is mail, or a mailbox; nothing else does. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/stamp.h"
#include "store/base/file.h"

#define HOME "example.org/alice"

struct fixture {
	char top[64];
	int root_fd;
};

static int setup(void **state)
{
	static struct fixture fx;

	strcpy(fx.top, "/tmp/dsyncfs-stamp.XXXXXX");
	assert_non_null(mkdtemp(fx.top));
	fx.root_fd = open(fx.top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fx.root_fd >= 0);
	assert_int_equal(file_mkdirs_beneath(fx.root_fd, HOME "/Maildir/new", 0700), 0);
	assert_int_equal(file_mkdirs_beneath(fx.root_fd, HOME "/Maildir/cur", 0700), 0);
	*state = &fx;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *fx = *state;
	AUTO_CLOSE int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	close(fx->root_fd);
	return file_remove_tree(tmp, strrchr(fx->top, '/') + 1);
}

static void make_file(struct fixture *fx, const char *path, const char *text)
{
	int fd = openat(fx->root_fd, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

/* What has become different since `before`, which is then as it is now. */
static enum stamp_difference change(struct fixture *fx, struct journal_stamp *before)
{
	struct journal_stamp now;
	enum stamp_difference difference;

	assert_int_equal(stamp_take(fx->root_fd, HOME, "Maildir", &now), 0);
	difference = stamp_compare(before, &now);
	*before = now;
	usleep(10000); /* the file system's clock ticks */
	return difference;
}

static void mail_and_its_lists_change_it(void **state)
{
	static const char *const files[] = {"new/1.a", "cur/2.b:2,S", "dovecot-uidlist",
					    "dovecot.index.log"};
	struct fixture *fx = *state;
	struct journal_stamp stamp;
	char path[256];

	assert_int_equal(stamp_take(fx->root_fd, HOME, "Maildir", &stamp), 0);
	usleep(10000);
	assert_int_equal(change(fx, &stamp), STAMP_SAME);
	for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
		strcpy(path, HOME "/Maildir/");
		make_file(fx, strcat(path, files[i]), "x");
		assert_int_equal(change(fx, &stamp), STAMP_OTHER_MAIL);
	}
	make_file(fx, HOME "/Maildir/dovecot-uidlist", "1 :a\n");
	assert_int_equal(change(fx, &stamp), STAMP_OTHER_MAIL);
	assert_int_equal(renameat(fx->root_fd, HOME "/Maildir/cur/2.b:2,S", fx->root_fd,
				  HOME "/Maildir/cur/2.b:2,FS"),
			 0);
	assert_int_equal(change(fx, &stamp), STAMP_OTHER_MAIL);
	assert_int_equal(unlinkat(fx->root_fd, HOME "/Maildir/new/1.a", 0), 0);
	assert_int_equal(change(fx, &stamp), STAMP_OTHER_MAIL);
	make_file(fx, HOME "/Maildir/dovecot.index.cache", "x");
	make_file(fx, HOME "/Maildir/subscriptions", "x");
	assert_int_equal(change(fx, &stamp), STAMP_SAME);
}

static void a_new_directory_is_told(void **state)
{
	struct fixture *fx = *state;
	struct journal_stamp stamp;
	struct stat st;

	assert_int_equal(fstat(fx->root_fd, &st), 0);
	if (st.st_nlink < 2)
		skip(); /* a file system that does not count directories */
	assert_int_equal(stamp_take(fx->root_fd, HOME, "Maildir", &stamp), 0);
	assert_int_equal(mkdirat(fx->root_fd, HOME "/Maildir/.New", 0700), 0);
	assert_int_equal(change(fx, &stamp), STAMP_OTHER_DIRS);
	assert_int_equal(unlinkat(fx->root_fd, HOME "/Maildir/.New", AT_REMOVEDIR), 0);
	assert_int_equal(change(fx, &stamp), STAMP_OTHER_DIRS);
}

static void what_is_not_there_has_none(void **state)
{
	struct fixture *fx = *state;
	struct journal_stamp stamp;

	assert_int_equal(stamp_take(fx->root_fd, HOME, "", &stamp), 0);
	assert_int_equal(stamp_take(fx->root_fd, "", "", &stamp), 0);
	assert_int_equal(stamp_take(fx->root_fd, HOME, "Gone", &stamp), -ENOENT);
	assert_int_equal(symlinkat("Maildir", fx->root_fd, HOME "/Link"), 0);
	assert_true(stamp_take(fx->root_fd, HOME, "Link", &stamp) < 0);
	assert_true(stamp_take(fx->root_fd, HOME, "../../..", &stamp) < 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(mail_and_its_lists_change_it),
		TEST(a_new_directory_is_told),
		TEST(what_is_not_there_has_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
