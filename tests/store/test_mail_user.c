/* Users and their mail: names to homes and back, locations, hostile names. */
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
#include "store/base/file.h"
#include "store/mail_home.h"
#include "store/mail_user.h"
#include "store/mail_variables.h"
#include "store/settings.h"

struct fixture {
	char root[64];
	struct settings *set;
};

/* Settings for users below a directory of our own; extra: more lines. */
static struct settings *settings_for(const char *root, const char *shape, const char *extra)
{
	char text[1024];
	struct settings *set;
	struct error err = {0};
	int len = snprintf(text, sizeof text,
			   "mail_root = %s\nmail_home = %s/%s\nstate_dir = /var/lib/x\n%s\n", root,
			   root, shape, extra);

	if (settings_parse(text, (size_t)len, "test.conf", SETTINGS_QUIET, &set, &err) != 0)
		fail_msg("%s", err.text);
	return set;
}

static void make_root(char root_r[64])
{
	strcpy(root_r, "/tmp/dsyncfs-users.XXXXXX");
	assert_non_null(mkdtemp(root_r));
}

static void remove_root(const char *root)
{
	int tmp = open("/tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(file_remove_tree(tmp, strrchr(root, '/') + 1), 0);
	close(tmp);
}

static void make_dirs(const char *root, const char *path)
{
	int fd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	assert_int_equal(file_mkdirs_beneath(fd, path, 0700), 0);
	close(fd);
}

/* As root, homes that are root's need mail_uid. */
static const char *owner_line(void)
{
	return geteuid() == 0 ? "mail_uid = 0" : "";
}

static void test_found_by_home(void **state)
{
	char root[64], path[128];
	struct settings *set;
	struct mail_user *user;
	struct error err = {0};

	make_root(root);
	make_dirs(root, "example.org/alice/Maildir/cur");
	set = settings_for(root, "%d/%n", owner_line());
	assert_int_equal(mail_user_home_depth(set), 2);
	if (mail_user_find(set, "alice@example.org", &user, &err) != 0)
		fail_msg("%s", err.text);
	assert_string_equal(user->name, "alice@example.org");
	assert_string_equal(user->home_rel, "example.org/alice");
	snprintf(path, sizeof path, "%s/example.org/alice", root);
	assert_string_equal(user->home, path);
	assert_int_equal(user->uid, geteuid());
	assert_int_equal(user->location.driver, MAIL_DRIVER_MAILDIR);
	strcat(path, "/Maildir");
	assert_string_equal(user->location.root, path);
	assert_string_equal(user->location.index, path);
	assert_string_equal(user->location.control, path);
	assert_string_equal(user->location.inbox, path);
	assert_int_equal(user->separator, '.');
	mail_user_free(&user);
	assert_null(user);
	assert_int_equal(mail_user_find(set, "bob@example.org", &user, &err), -ENOENT);
	assert_null(user);
	settings_free(&set);
	remove_root(root);
}

static void test_hostile_names_are_refused(void **state)
{
	static const char *const names[] = {"",
					    "@",
					    "alice@",
					    "@example.org",
					    "../alice@example.org",
					    "..@example.org",
					    "alice@..",
					    "a/b@example.org",
					    "alice@example.org/x",
					    "alice@a@b",
					    ".hidden@x",
					    "alice@.x",
					    "a\nb@example.org",
					    "a\x7f@example.org",
					    "alice",
					    ".",
					    "..",
					    "/etc/passwd@x"};
	char root[64], long_name[400];
	struct settings *set;
	struct mail_user *user;
	struct error err;

	make_root(root);
	make_dirs(root, "example.org/alice");
	set = settings_for(root, "%d/%n", owner_line());
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		memset(&err, 0, sizeof err);
		if (mail_user_find(set, names[i], &user, &err) != -EINVAL)
			fail_msg("'%s' was not refused", names[i]);
		assert_true(err.text[0] != '\0');
		assert_int_equal(mail_user_create(set, names[i], &user, &err), -EINVAL);
	}
	memset(long_name, 'a', sizeof long_name - 1);
	long_name[sizeof long_name - 1] = '\0';
	assert_int_equal(mail_user_find(set, long_name, &user, &err), -EINVAL);
	settings_free(&set);
	remove_root(root);
}

static void test_symbolic_links_are_no_homes(void **state)
{
	char root[64], path[128];
	struct settings *set;
	struct mail_user *user;
	struct error err = {0};

	make_root(root);
	make_dirs(root, "example.org");
	snprintf(path, sizeof path, "%s/example.org/eve", root);
	assert_int_equal(symlink("/etc", path), 0);
	set = settings_for(root, "%d/%n", owner_line());
	assert_true(mail_user_find(set, "eve@example.org", &user, &err) < 0);
	assert_true(mail_user_create(set, "eve@example.org", &user, &err) < 0);
	settings_free(&set);
	remove_root(root);
}

static void check_name(const char *shape, const char *home, const char *name)
{
	AUTO_FREE char *got = NULL;
	AUTO_BUF struct buf back = BUF_INIT(4096);
	int rc = mail_home_to_name(shape, home, &got);

	if (!name) {
		assert_int_equal(rc, -EINVAL);
		assert_null(got);
		return;
	}
	if (rc != 0)
		fail_msg("%s in %s is no home", home, shape);
	assert_string_equal(got, name);
	assert_int_equal(mail_home_from_name(shape, name, &back, NULL), 0);
	assert_string_equal(buf_str(&back), home);
}

static void test_names_and_homes_are_inverse(void **state)
{
	check_name("%d/%n", "example.org/alice", "alice@example.org");
	check_name("%u", "alice@example.org", "alice@example.org");
	check_name("%u", "alice", "alice");
	check_name("%n", "alice", "alice");
	check_name("%d/users/%n/mail", "example.org/users/alice/mail", "alice@example.org");
	check_name("%1n/%n", "a/alice", "alice");
	check_name("%Ld/%1Ln/%Ln", "x.org/a/alice", "alice@x.org");
	check_name("%Ld/%L1n/%Ln", "x.org/a/alice", "alice@x.org");
	check_name("%d/u-%n", "x.org/u-alice", "alice@x.org");
	check_name("%{domain}/%{username}", "x.org/alice", "alice@x.org");
	check_name("%1n/%n", "b/alice", NULL); /* another's hash directory */
	check_name("%Ln", "Alice", NULL);      /* the name would lead to "alice" */
	check_name("%d/%n", "alice", NULL);
	check_name("%d/%n", "example.org/alice/Maildir", NULL);
	check_name("%d/%n", "example.org/.ssh", NULL);
	check_name("%d/%n", "example.org/a@b", NULL);
	check_name("%d/users/%n", "x.org/groups/alice", NULL);
	check_name("%d/u-%n", "x.org/alice", NULL);
	check_name("%d/%n", "", NULL);
	check_name("%d/%n", "../x", NULL);
}

static void test_shapes(void **state)
{
	struct error err = {0};

	assert_int_equal(mail_home_check("%d/%n", &err), 0);
	assert_int_equal(mail_home_check("%u", &err), 0);
	assert_int_equal(mail_home_check("%1n/%n/x", &err), 0);
	assert_int_equal(mail_home_check("%d", &err), -EINVAL);
	assert_int_equal(mail_home_check("%1n", &err), -EINVAL);
	assert_int_equal(mail_home_check("%n%n", &err), -EINVAL);
	assert_int_equal(mail_home_check("%d/../%n", &err), -EINVAL);
	assert_int_equal(mail_home_check("%d//%n", &err), -EINVAL);
	assert_int_equal(mail_home_check("%h/%n", &err), -EINVAL);
	assert_int_equal(mail_home_check("%q/%n", &err), -EINVAL);
	assert_int_equal(mail_home_depth("%1n/%n/x"), 3);
}

static int collect(void *ctx, const char *name)
{
	char *names = ctx;

	strcat(names, "[");
	strcat(names, name);
	strcat(names, "]");
	return 0;
}

static int stop_at_first(void *ctx, const char *name)
{
	(*(int *)ctx)++;
	return 42;
}

static void test_all_users(void **state)
{
	char root[64], names[512] = "", path[128];
	struct settings *set;
	struct error err = {0};
	int calls = 0, fd;

	make_root(root);
	make_dirs(root, "a.org/alice/Maildir/cur");
	make_dirs(root, "a.org/bob");
	make_dirs(root, "b.org/alice");
	make_dirs(root, ".Trash/x");
	make_dirs(root, "lost+found/x");
	make_dirs(root, "empty.org");
	snprintf(path, sizeof path, "%s/a.org/file", root);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	close(fd);
	set = settings_for(root, "%d/%n", owner_line());
	assert_int_equal(mail_user_each(set, collect, names, &err), 0);
	assert_int_equal(strlen(names), strlen("[alice@a.org][bob@a.org][alice@b.org]"));
	assert_non_null(strstr(names, "[alice@a.org]"));
	assert_non_null(strstr(names, "[bob@a.org]"));
	assert_non_null(strstr(names, "[alice@b.org]"));
	assert_int_equal(mail_user_each(set, stop_at_first, &calls, &err), 42);
	assert_int_equal(calls, 1);
	settings_free(&set);
	remove_root(root);
	set = settings_for("/nonexistent/root", "%d/%n", owner_line());
	assert_int_equal(mail_user_each(set, collect, names, &err), -ENOENT);
	settings_free(&set);
}

static void test_homes_are_made_for_new_users(void **state)
{
	char root[64], path[128];
	struct settings *set;
	struct mail_user *user;
	struct error err = {0};
	struct stat st;

	if (geteuid() != 0) {
		print_message("skipped: needs root\n");
		skip();
	}
	make_root(root);
	set = settings_for(root, "%d/%n", "");
	/* Nobody says whose it would be. */
	assert_int_equal(mail_user_create(set, "alice@example.org", &user, &err), -EPERM);
	make_dirs(root, "example.org");
	assert_int_equal(mail_user_create(set, "alice@example.org", &user, &err), -EPERM);
	snprintf(path, sizeof path, "%s/example.org", root);
	assert_int_equal(chown(path, 5001, 5002), 0);
	if (mail_user_create(set, "alice@example.org", &user, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(user->uid, 5001);
	assert_int_equal(user->gid, 5002);
	assert_int_equal(stat(user->home, &st), 0);
	assert_int_equal(st.st_uid, 5001);
	assert_int_equal(st.st_gid, 5002);
	assert_int_equal(st.st_mode & 07777, 0700);
	assert_non_null(strstr(user->location.root, "/alice/Maildir"));
	mail_user_free(&user);
	assert_int_equal(mail_user_create(set, "alice@example.org", &user, &err), 0);
	mail_user_free(&user);
	settings_free(&set);

	set = settings_for(root, "%d/%1n/%n", "mail_uid = 5003\nmail_gid = 5004");
	if (mail_user_create(set, "bob@new.org", &user, &err) != 0)
		fail_msg("%s", err.text);
	assert_int_equal(stat(user->home, &st), 0);
	assert_int_equal(st.st_uid, 5003);
	assert_int_equal(st.st_gid, 5004);
	snprintf(path, sizeof path, "%s/new.org", root);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_uid, 5003);
	mail_user_free(&user);
	settings_free(&set);
	remove_root(root);
}

static void test_roots_home_needs_a_word(void **state)
{
	char root[64];
	struct settings *set;
	struct mail_user *user;
	struct error err = {0};

	if (geteuid() != 0) {
		print_message("skipped: needs root\n");
		skip();
	}
	make_root(root);
	make_dirs(root, "example.org/alice");
	set = settings_for(root, "%d/%n", "");
	assert_int_equal(mail_user_find(set, "alice@example.org", &user, &err), -EPERM);
	assert_non_null(strstr(err.text, "mail_uid"));
	settings_free(&set);
	set = settings_for(root, "%d/%n", "mail_uid = no-such-user-here");
	assert_int_equal(mail_user_find(set, "alice@example.org", &user, &err), -EINVAL);
	settings_free(&set);
	remove_root(root);
}

static void test_locations(void **state)
{
	struct mail_location l;
	struct error err = {0};

	assert_int_equal(mail_location_parse("maildir:~/Maildir", "/h", &l, &err), 0);
	assert_string_equal(l.root, "/h/Maildir");
	assert_int_equal(l.layout, MAIL_LAYOUT_MAILDIRPP);
	mail_location_free(&l);
	assert_int_equal(mail_location_parse("maildir:~", "/h", &l, &err), 0);
	assert_string_equal(l.root, "/h");
	mail_location_free(&l);
	assert_int_equal(mail_location_parse("maildir:/m/a::b/:LAYOUT=fs:INDEX=/i/x:CONTROL=~/c:"
					     "INBOX=~/in:UTF-8:NO-NOSELECT",
					     "/h", &l, &err),
			 0);
	assert_string_equal(l.root, "/m/a:b");
	assert_string_equal(l.index, "/i/x");
	assert_string_equal(l.control, "/h/c");
	assert_string_equal(l.inbox, "/h/in");
	assert_int_equal(l.layout, MAIL_LAYOUT_FS);
	assert_true(l.utf8);
	mail_location_free(&l);
	assert_int_equal(mail_location_parse("mdbox:~/mdbox", "/h", &l, &err), 0);
	assert_int_equal(l.driver, MAIL_DRIVER_MDBOX);
	assert_int_equal(l.layout, MAIL_LAYOUT_FS);
	mail_location_free(&l);
	assert_int_equal(mail_location_parse("maildir", "/h", &l, &err), -EINVAL);
	assert_int_equal(mail_location_parse("maildir:", "/h", &l, &err), -EINVAL);
	assert_int_equal(mail_location_parse("maildir:~/../x", "/h", &l, &err), -EINVAL);
	assert_int_equal(mail_location_parse("maildir:~/x:LAYOUT=index", "/h", &l, &err), -EINVAL);
	assert_int_equal(mail_location_parse("maildir:~/x:INDEX=MEMORY", "/h", &l, &err), -EINVAL);
	assert_int_equal(mail_location_parse("maildir:~/x:INDEX=", "/h", &l, &err), -EINVAL);
	assert_int_equal(mail_location_parse("maildir:~/x:DIRNAME=y", "/h", &l, &err), -EINVAL);
	assert_int_equal(mail_location_parse("mbox:~/x", "/h", &l, &err), -EINVAL);
	assert_null(l.root);
}

static void test_detected_locations(void **state)
{
	char root[64], home[128];
	struct mail_location l;
	struct error err = {0};

	make_root(root);
	make_dirs(root, "a/Maildir/cur");
	make_dirs(root, "b/mdbox/mailboxes");
	make_dirs(root, "c/cur");
	make_dirs(root, "d");
	snprintf(home, sizeof home, "%s/a", root);
	assert_int_equal(mail_location_detect(home, &l, &err), 0);
	assert_int_equal(l.driver, MAIL_DRIVER_MAILDIR);
	assert_non_null(strstr(l.root, "/a/Maildir"));
	mail_location_free(&l);
	snprintf(home, sizeof home, "%s/b", root);
	assert_int_equal(mail_location_detect(home, &l, &err), 0);
	assert_int_equal(l.driver, MAIL_DRIVER_MDBOX);
	mail_location_free(&l);
	snprintf(home, sizeof home, "%s/c", root);
	assert_int_equal(mail_location_detect(home, &l, &err), 0);
	assert_string_equal(l.root, home);
	mail_location_free(&l);
	snprintf(home, sizeof home, "%s/d", root);
	assert_int_equal(mail_location_detect(home, &l, &err), -ENOENT);
	remove_root(root);
}

static void test_a_name_is_no_location_option(void **state)
{
	char root[64];
	struct settings *set;
	struct mail_user *user;
	struct error err = {0};

	make_root(root);
	make_dirs(root, "x.org/eve:INDEX=");
	set = settings_for(root, "%d/%n",
			   geteuid() == 0 ? "mail_uid = 0\nmail_location = maildir:%h/M"
					  : "mail_location = maildir:%h/M");
	if (mail_user_find(set, "eve:INDEX=@x.org", &user, &err) != 0)
		fail_msg("%s", err.text);
	assert_non_null(strstr(user->location.root, "/eve:INDEX=/M"));
	assert_string_equal(user->location.root, user->location.index);
	mail_user_free(&user);
	settings_free(&set);
	remove_root(root);
}

static void test_variables(void **state)
{
	static const struct {
		const char *text, *expanded;
	} cases[] = {
		{"/x/%d/%n", "/x/Example.ORG/Alice"},
		{"%u", "Alice@Example.ORG"},
		{"%Lu|%Ud", "alice@example.org|EXAMPLE.ORG"},
		{"%1n%2.2n", "Aic"},
		{"%{user}%{domain}%{username}", "Alice@Example.ORGExample.ORGAlice"},
		{"%h/%%n", "/home/%n"},
		{"%9.3n.", "."},
		{"%{home}", "/home"},
	};
	struct mail_variables variables = {.user = "Alice@Example.ORG", .home = "/home"};
	struct error err = {0};

	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		AUTO_BUF struct buf out = BUF_INIT(1000);

		assert_int_equal(mail_variables_expand(cases[i].text, &variables, &out, &err), 0);
		assert_string_equal(buf_str(&out), cases[i].expanded);
	}
	assert_int_equal(mail_variables_check("%", true, &err), -EINVAL);
	assert_int_equal(mail_variables_check("%{nosuch}", true, &err), -EINVAL);
	assert_int_equal(mail_variables_check("%{user", true, &err), -EINVAL);
	assert_int_equal(mail_variables_check("%9999n", true, &err), -EINVAL);
	assert_int_equal(mail_variables_check("%h", false, &err), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_found_by_home),
		cmocka_unit_test(test_hostile_names_are_refused),
		cmocka_unit_test(test_symbolic_links_are_no_homes),
		cmocka_unit_test(test_names_and_homes_are_inverse),
		cmocka_unit_test(test_shapes),
		cmocka_unit_test(test_all_users),
		cmocka_unit_test(test_homes_are_made_for_new_users),
		cmocka_unit_test(test_roots_home_needs_a_word),
		cmocka_unit_test(test_locations),
		cmocka_unit_test(test_detected_locations),
		cmocka_unit_test(test_a_name_is_no_location_option),
		cmocka_unit_test(test_variables),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
