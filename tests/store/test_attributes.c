/* Attributes: Dovecot's file dictionary and Pigeonhole's scripts, read and written. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "store/attribute_place.h"
#include "store/attributes.h"
#include "store/base/file.h"
#include "store/settings.h"

/* As Dovecot 2.3.19 writes it. */
static const char dict[] = "shared/5b33b92781450b6b721b000083ecc375/comment\n"
			   "shared \xc3\xbc\n"
			   "priv/30ffe12881450b6b731b000083ecc375/vendor/x/y\n"
			   "v\n"
			   "priv/5b33b92781450b6b721b000083ecc375/comment\n"
			   "hello\001nline2\001ttab\n";

static char home[64];
static struct mail_user user;
static struct guid work, inbox;

static void write_file(const char *name, const char *text)
{
	char path[256];
	FILE *file;

	snprintf(path, sizeof path, "%s/%s", home, name);
	file = fopen(path, "w");
	assert_non_null(file);
	fputs(text, file);
	fclose(file);
}

static void expect_file(const char *name, const char *text)
{
	AUTO_BUF struct buf content = BUF_INIT(1 << 20);
	char path[256];

	snprintf(path, sizeof path, "%s/%s", home, name);
	if (!text) {
		assert_int_equal(access(path, F_OK), -1);
		return;
	}
	assert_int_equal(file_read_at(AT_FDCWD, path, &content), 0);
	assert_string_equal(buf_str(&content), text);
}

static void find_places(const char *text)
{
	struct settings *set = NULL;
	struct error err = {0};

	free(user.attribute_file);
	free(user.sieve_dir);
	free(user.sieve_active);
	user.attribute_file = user.sieve_dir = user.sieve_active = NULL;
	assert_int_equal(settings_parse(text, strlen(text), "test", SETTINGS_QUIET, &set, &err), 0);
	if (attribute_place_find(set, &user, &err) < 0)
		fail_msg("%s", err.text);
	settings_free(&set);
}

static int setup(void **state)
{
	static char name[] = "alice@example.org", rel[] = "";

	snprintf(home, sizeof home, "/tmp/test-attributes-XXXXXX");
	assert_non_null(mkdtemp(home));
	user = (struct mail_user){.name = name, .home = home, .home_rel = rel};
	assert_int_equal(guid_from_hex("5b33b92781450b6b721b000083ecc375", &work), 0);
	assert_int_equal(guid_from_hex("30ffe12881450b6b731b000083ecc375", &inbox), 0);
	find_places("mail_attribute_dict = file:%h/attributes\n");
	return 0;
}

static int teardown(void **state)
{
	AUTO_CLOSE int tmp = open("/tmp", O_RDONLY | O_DIRECTORY);

	find_places("sieve = ldap:x\n");
	return file_remove_tree(tmp, home + strlen("/tmp/"));
}

static struct attribute_list read_all(const char *mailbox, const struct guid *guid)
{
	struct attribute_list list;
	struct error err = {0};

	if (attributes_read(&user, mailbox, guid, &list, &err) < 0)
		fail_msg("%s", err.text);
	return list;
}

static int set(const char *mailbox, bool shared, const char *key, const char *value)
{
	struct attribute attribute = {.shared = shared,
				      .key = (char *)key,
				      .value = (char *)value,
				      .len = value ? strlen(value) : 0,
				      .last_change = 1700000000};
	struct error err = {0};
	int rc = attributes_set(&user, mailbox, strcmp(mailbox, "INBOX") == 0 ? &inbox : &work,
				&attribute, &err);

	if (rc < 0)
		print_message("%s\n", err.text);
	return rc;
}

static void expect(const struct attribute_list *list, size_t at, const char *key, const char *value)
{
	assert_true(at < list->count);
	assert_string_equal(list->list[at].key, key);
	assert_int_equal(list->list[at].len, strlen(value));
	assert_memory_equal(list->list[at].value, value, strlen(value));
}

static void test_places(void **state)
{
	char path[128];

	snprintf(path, sizeof path, "%s/attributes", home);
	assert_string_equal(user.attribute_file, path);
	snprintf(path, sizeof path, "%s/sieve", home);
	assert_string_equal(user.sieve_dir, path);
	find_places("plugin {\n sieve = file:/srv/%d/%n/scripts/;active=~/active\n}\n");
	assert_null(user.attribute_file);
	assert_string_equal(user.sieve_dir, "/srv/example.org/alice/scripts");
	snprintf(path, sizeof path, "%s/active", home);
	assert_string_equal(user.sieve_active, path);
	find_places("sieve = ~/.s\nsieve_dir = ~/d\nmail_attribute_dict = redis:host=x\n");
	assert_null(user.attribute_file);
	snprintf(path, sizeof path, "%s/d", home);
	assert_string_equal(user.sieve_dir, path);
	find_places("mail_attribute_dict = file:%h/attributes\n");
}

static void test_dictionary(void **state)
{
	struct attribute_list list;

	write_file("attributes", dict);
	list = read_all("Work", &work);
	assert_int_equal(list.count, 2);
	expect(&list, 0, "comment", "hello\nline2\ttab");
	assert_false(list.list[0].shared);
	expect(&list, 1, "comment", "shared \xc3\xbc");
	assert_true(list.list[1].shared);
	attributes_free(&list);
	list = read_all("INBOX", &inbox);
	assert_int_equal(list.count, 1);
	expect(&list, 0, "vendor/x/y", "v");
	attributes_free(&list);

	assert_int_equal(set("Work", false, "comment", "one\r\ntwo"), 0);
	assert_int_equal(set("Work", true, "comment", NULL), 0);
	assert_int_equal(set("Work", true, "new", ""), 0);
	expect_file("attributes",
		    "priv/30ffe12881450b6b731b000083ecc375/vendor/x/y\nv\n"
		    "priv/5b33b92781450b6b721b000083ecc375/comment\none\001r\001ntwo\n"
		    "shared/5b33b92781450b6b721b000083ecc375/new\n\n");
	expect_file("attributes.lock", NULL);
	assert_int_equal(set("Work", false, "a\nb", "x"), -EINVAL);
	assert_int_equal(set("Work", false, "", "x"), -EINVAL);
	/* The mailbox gets the inbox's GUID. */
	assert_int_equal(attributes_move(&user, &work, &inbox, &(struct error){0}), 0);
	expect_file("attributes",
		    "priv/30ffe12881450b6b731b000083ecc375/vendor/x/y\nv\n"
		    "priv/30ffe12881450b6b731b000083ecc375/comment\none\001r\001ntwo\n"
		    "shared/30ffe12881450b6b731b000083ecc375/new\n\n");
	find_places("");
	assert_int_equal(set("Work", false, "comment", "x"), -EOPNOTSUPP);
	find_places("mail_attribute_dict = file:%h/attributes\n");
}

static void test_scripts(void **state)
{
	struct attribute_list list;
	char path[128], target[128];
	struct stat st;
	ssize_t len;

	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_ACTIVE, "Lmain"), -ENOENT);
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_FILES "main", "keep;\r\n"), 0);
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_FILES "\xc3\xa4 b", ""), 0);
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_ACTIVE, "Lmain"), 0);
	expect_file("sieve/main.sieve", "keep;\r\n");
	snprintf(path, sizeof path, "%s/.dovecot.sieve", home);
	len = readlink(path, target, sizeof target);
	assert_int_equal(len, strlen("sieve/main.sieve"));
	assert_memory_equal(target, "sieve/main.sieve", (size_t)len);
	snprintf(path, sizeof path, "%s/sieve/main.sieve", home);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mtime, 1700000000);

	list = read_all("INBOX", &inbox);
	assert_int_equal(list.count, 6);
	expect(&list, 4, ATTRIBUTE_SIEVE_ACTIVE, "Lmain");
	assert_false(list.list[4].is_text);
	for (unsigned i = 2; i < 4; i++) {
		assert_true(list.list[i].is_text);
		assert_int_equal(list.list[i].last_change, 1700000000);
	}
	attributes_free(&list);
	list = read_all("Work", &work);
	assert_int_equal(list.count, 0);
	attributes_free(&list);

	/* A binary goes with its script's text; the active one may be a file of its own. */
	write_file("sieve/main.svbin", "x");
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_FILES "main", "discard;"), 0);
	expect_file("sieve/main.svbin", NULL);
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_ACTIVE, "Sstop;"), 0);
	expect_file(".dovecot.sieve", "stop;");
	expect_file("sieve/main.sieve", "discard;");
	list = read_all("INBOX", &inbox);
	expect(&list, 4, ATTRIBUTE_SIEVE_ACTIVE, "Sstop;");
	attributes_free(&list);
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_ACTIVE, NULL), 0);
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_ACTIVE, NULL), 0);
	expect_file(".dovecot.sieve", NULL);
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_FILES "main", NULL), 0);
	expect_file("sieve/main.sieve", NULL);
}

static void test_names_that_lead_elsewhere(void **state)
{
	static const char *const names[] = {"../x", "a/b", ".", "..", "", ".hidden"};

	for (unsigned i = 0; i < sizeof names / sizeof names[0]; i++) {
		char key[128], link[128];

		snprintf(key, sizeof key, ATTRIBUTE_SIEVE_FILES "%s", names[i]);
		snprintf(link, sizeof link, "L%s", names[i]);
		assert_int_equal(set("INBOX", false, key, "x"), -EINVAL);
		assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_ACTIVE, link), -EINVAL);
	}
	assert_int_equal(set("INBOX", false, ATTRIBUTE_SIEVE_ACTIVE, "Xmain"), -EINVAL);
	assert_int_equal(set("Work", false, ATTRIBUTE_SIEVE_FILES "main", "x"), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_places),
		cmocka_unit_test(test_dictionary),
		cmocka_unit_test(test_scripts),
		cmocka_unit_test(test_names_that_lead_elsewhere),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
