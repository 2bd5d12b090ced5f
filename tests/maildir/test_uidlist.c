/* dovecot-uidlist: reading, looking up, appending, rewriting, salvaging. */
#include "tests/maildir/maildir_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/buf.h"
#include "store/base/file.h"
#include "store/maildir/uidlist.h"
#include "store/maildir/uidlist_private.h"

#define GUID_HEX "7931a82b8585026be40b000083ecc375"

struct list_dir {
	struct fixture *fx;
	int fd;
	char path[400];
};

static struct list_dir make_list(void **state, const char *text)
{
	struct list_dir dir = {.fx = *state};

	fixture_make_maildir(dir.fx);
	dir.fd = open(dir.fx->maildir, O_PATH | O_DIRECTORY);
	assert_true(dir.fd >= 0);
	snprintf(dir.path, sizeof dir.path, "%s/" UIDLIST_NAME, dir.fx->maildir);
	if (text)
		write_file(dir.path, text, strlen(text));
	return dir;
}

static struct uidlist *open_list(const struct list_dir *dir)
{
	struct uidlist *list;
	struct error err = {0};

	must(uidlist_open(dir->fd, "box", &list, &err), &err);
	return list;
}

static void assert_base(const struct uidlist_record *record, const char *base)
{
	assert_int_equal(record->base_len, strlen(base));
	assert_memory_equal(record->base, base, record->base_len);
}

static void test_header_and_last_line_give_the_next_uid(void **state)
{
	struct list_dir dir = make_list(state, "3 V1795327367 N7 G" GUID_HEX " Pxyz\n"
					       "1 :a,S=1,W=2\n9 W5 Gsome-guid :b\n");
	struct uidlist_header header;
	struct error err = {0};
	char hex[GUID_HEX_SIZE];

	must(uidlist_read_header(dir.fd, "box", &header, &err), &err);
	assert_int_equal(header.version, 3);
	assert_int_equal(header.uid_validity, 1795327367);
	assert_int_equal(header.next_uid, 10);
	assert_string_equal(guid_to_hex(&header.guid, hex), GUID_HEX);
	close(dir.fd);
}

static void test_records_are_found_by_uid_and_by_base(void **state)
{
	struct list_dir dir = make_list(state, "3 V5 N1 G" GUID_HEX "\n"
					       "1 :a\n3 W5 Gsome-guid :b\n10 Pu:idl :c :d\n");
	struct uidlist *list = open_list(&dir);
	struct uidlist_query query[3] = {{.base = "b", .base_len = 1},
					 {.base = "d", .base_len = 1},
					 {.base = "c :d", .base_len = 4}};
	struct uidlist_record record;
	struct error err = {0};
	size_t len;

	must(uidlist_find(list, 3, &record, &err), &err);
	assert_base(&record, "b");
	assert_memory_equal(uidlist_guid(&record, &len), "some-guid", 9);
	assert_int_equal(len, 9);
	assert_memory_equal(uidlist_field(&record, 'W', &len), "5", 1);
	assert_null(uidlist_field(&record, 'S', &len));
	must(uidlist_find(list, 1, &record, &err), &err);
	assert_memory_equal(uidlist_guid(&record, &len), "a", 1);
	assert_int_equal(uidlist_find(list, 2, &record, &err), -ENOENT);
	assert_int_equal(uidlist_find(list, 11, &record, &err), -ENOENT);
	must(uidlist_find_bases(list, 0, query, 3, &err), &err);
	assert_int_equal(query[0].uid, 3);
	assert_int_equal(query[1].uid, 0); /* only the end of a name */
	assert_int_equal(query[2].uid, 10);
	for (int i = 0; i < 3; i++) {
		uint32_t expected = query[i].uid;

		must(uidlist_find_bases(list, 0, &query[i], 1, &err), &err);
		assert_int_equal(query[i].uid, expected);
	}
	uidlist_close(&list);
	close(dir.fd);
}

static void test_a_hundred_thousand_lines(void **state)
{
	struct list_dir dir = make_list(state, NULL);
	struct buf text = BUF_INIT(16 << 20);
	struct uidlist_query queries[300];
	char names[300][64];
	struct uidlist *list;
	struct uidlist_record record;
	struct uidlist_iter iter;
	struct error err = {0};
	uint32_t uid = 0;
	int rc;

	buf_printf(&text, "3 V5 N1 G%s\n", GUID_HEX);
	for (uint32_t i = 1; i <= 100000; i++)
		buf_printf(&text, "%u :17953273%05u.M7464P3044.vm,S=164,W=172\n", i * 3, i);
	write_file(dir.path, text.data, text.len);
	list = open_list(&dir);
	for (uint32_t i = 1; i <= 100000; i += 997) {
		char name[64];

		must(uidlist_find(list, i * 3, &record, &err), &err);
		snprintf(name, sizeof name, "17953273%05u.M7464P3044.vm,S=164,W=172", i);
		assert_base(&record, name);
		assert_int_equal(uidlist_find(list, i * 3 + 1, &record, &err), -ENOENT);
	}
	for (uint32_t i = 0; i < 300; i++) {
		snprintf(names[i], sizeof names[i], "17953273%05u.M7464P3044.vm,S=164,W=172",
			 i * 400);
		queries[i] = (struct uidlist_query){.base = names[i], .base_len = strlen(names[i])};
	}
	must(uidlist_find_bases(list, 0, queries, 300, &err), &err);
	for (uint32_t i = 0; i < 300; i++)
		assert_int_equal(queries[i].uid, i <= 250 && i > 0 ? i * 400 * 3 : 0);
	must(uidlist_seek(list, 150001, &iter, &err), &err);
	while ((rc = uidlist_next(&iter, &record, &err)) > 0)
		uid = record.uid;
	assert_int_equal(rc, 0);
	assert_int_equal(uid, 300000);
	uidlist_close(&list);
	buf_free(&text);
	close(dir.fd);
}

static bool keep_odd(void *ctx, const struct uidlist_record *record)
{
	return record->uid % 2 == 1;
}

static uint32_t find_name(struct uidlist *list, const char *name)
{
	struct uidlist_query query = {.base = name, .base_len = strlen(name)};
	struct error err = {0};

	must(uidlist_find_bases(list, 0, &query, 1, &err), &err);
	return query.uid;
}

/* A list that is asked often gets a table of its names, which goes along with the file. */
static void test_many_searches_find_what_one_finds(void **state)
{
	struct list_dir dir = make_list(state, "3 V5 N1 G" GUID_HEX "\n1 :a\n2 :twice\n");
	struct uidlist *list = open_list(&dir);
	struct uidlist_query late = {.base = "a", .base_len = 1};
	struct error err = {0};
	char name[32];

	for (int i = 0; i < 10; i++) {
		assert_int_equal(find_name(list, "a"), 1);
		assert_int_equal(find_name(list, "twice"), 2);
		assert_int_equal(find_name(list, "none"), 0);
	}
	for (uint32_t uid = 3; uid < 9000; uid += 3) {
		AUTO_BUF struct buf lines = BUF_INIT(1000);

		snprintf(name, sizeof name, "name.%u", uid);
		must(uidlist_format_line(&lines, uid, "", 0, name, strlen(name)), NULL);
		if (uid == 300)
			must(uidlist_format_line(&lines, uid + 1, "", 0, "twice", 5), NULL);
		must(uidlist_append(list, &lines, &err), &err);
		assert_int_equal(find_name(list, name), uid);
		assert_int_equal(find_name(list, "twice"), uid < 300 ? 2 : 301);
		assert_int_equal(find_name(list, "none"), 0);
	}
	for (uint32_t uid = 3; uid < 9000; uid += 3) {
		snprintf(name, sizeof name, "name.%u", uid);
		assert_int_equal(find_name(list, name), uid);
	}
	/* Only behind an offset. */
	must(uidlist_find_bases(list, uidlist_size(list) - 5, &late, 1, &err), &err);
	assert_int_equal(late.uid, 0);
	must(uidlist_rewrite(list, uidlist_header(list), keep_odd, NULL, NULL, &err), &err);
	for (int i = 0; i < 10; i++) {
		assert_int_equal(find_name(list, "a"), 1);
		assert_int_equal(find_name(list, "twice"), 301);
		assert_int_equal(find_name(list, "name.6"), 0);
		assert_int_equal(find_name(list, "name.9"), 9);
	}
	uidlist_close(&list);
	close(dir.fd);
}

static void test_append_is_seen_by_an_open_reader(void **state)
{
	struct list_dir dir = make_list(state, "3 V5 N4 G" GUID_HEX "\n1 :a\n");
	struct uidlist *list = open_list(&dir), *reader = open_list(&dir);
	struct buf lines = BUF_INIT(1000);
	struct uidlist_record record;
	struct error err = {0};
	uint64_t generation = uidlist_generation(reader);
	size_t seen = uidlist_size(reader);
	struct uidlist_query query = {.base = "new", .base_len = 3};
	bool replaced;
	char *text;

	assert_int_equal(uidlist_header(list)->next_uid, 4);
	must(uidlist_format_line(&lines, 4, "Gx", 2, "new", 3), NULL);
	must(uidlist_append(list, &lines, &err), &err);
	must(uidlist_refresh(reader, &replaced, &err), &err);
	assert_false(replaced);
	assert_int_equal(uidlist_generation(reader), generation);
	must(uidlist_find(reader, 4, &record, &err), &err);
	assert_int_equal(uidlist_header(reader)->next_uid, 5);
	must(uidlist_find_bases(reader, seen, &query, 1, &err), &err);
	assert_int_equal(query.uid, 4);
	query = (struct uidlist_query){.base = "a", .base_len = 1};
	must(uidlist_find_bases(reader, seen, &query, 1, &err), &err);
	assert_int_equal(query.uid, 0); /* it is before `seen` */
	text = read_file(dir.path);
	assert_string_equal(text, "3 V5 N4 G" GUID_HEX "\n1 :a\n4 Gx :new\n");
	free(text);
	buf_free(&lines);
	uidlist_close(&list);
	uidlist_close(&reader);
	close(dir.fd);
}

static void test_a_torn_last_line_is_not_seen_and_overwritten(void **state)
{
	struct list_dir dir = make_list(state, "3 V5 N1 G" GUID_HEX "\n1 :a\n2 :torn");
	struct uidlist *list = open_list(&dir);
	struct buf lines = BUF_INIT(1000);
	struct error err = {0};
	char *text;

	assert_int_equal(uidlist_header(list)->next_uid, 2);
	must(uidlist_format_line(&lines, 2, "", 0, "b", 1), NULL);
	must(uidlist_append(list, &lines, &err), &err);
	text = read_file(dir.path);
	assert_string_equal(text, "3 V5 N1 G" GUID_HEX "\n1 :a\n2 :b\n");
	free(text);
	buf_free(&lines);
	uidlist_close(&list);
	close(dir.fd);
}

static void test_rewrite_keeps_unknown_keys_and_fields(void **state)
{
	struct list_dir dir = make_list(state, "3 V5 N9 Zkey G" GUID_HEX "\n"
					       "1 Afoo W5 :a\n2 :b\n3 :c\n");
	struct uidlist *list = open_list(&dir), *reader = open_list(&dir);
	struct uidlist_header header = *uidlist_header(list);
	struct buf lines = BUF_INIT(1000);
	struct error err = {0};
	bool replaced;
	char *text;

	header.uid_validity = 6;
	header.next_uid = 11;
	must(uidlist_format_line(&lines, 10, "", 0, "b", 1), NULL);
	must(uidlist_rewrite(list, &header, keep_odd, NULL, &lines, &err), &err);
	text = read_file(dir.path);
	assert_string_equal(text, "3 V6 N11 G" GUID_HEX " Zkey\n1 Afoo W5 :a\n3 :c\n10 :b\n");
	assert_int_equal(uidlist_header(list)->next_uid, 11);
	must(uidlist_refresh(reader, &replaced, &err), &err);
	assert_true(replaced);
	assert_int_equal(uidlist_header(reader)->uid_validity, 6);
	assert_false(path_exists("%s/" UIDLIST_TMP_NAME, dir.fx->maildir));
	free(text);
	buf_free(&lines);
	uidlist_close(&list);
	uidlist_close(&reader);
	close(dir.fd);
}

static void test_version_1_is_read(void **state)
{
	struct list_dir dir = make_list(state, "1 77 5\n1 a:2,S\n4 b\n");
	struct uidlist *list = open_list(&dir);
	struct uidlist_query query = {.base = "a", .base_len = 1};
	struct uidlist_record record;
	struct error err = {0};

	assert_int_equal(uidlist_header(list)->version, 1);
	assert_int_equal(uidlist_header(list)->uid_validity, 77);
	assert_int_equal(uidlist_header(list)->next_uid, 5);
	assert_true(guid_is_empty(&uidlist_header(list)->guid));
	must(uidlist_find(list, 1, &record, &err), &err);
	assert_base(&record, "a");
	must(uidlist_find_bases(list, 0, &query, 1, &err), &err);
	assert_int_equal(query.uid, 1);
	uidlist_close(&list);
	close(dir.fd);
}

static void test_damage_is_told(void **state)
{
	static const char *const headers[] = {"",
					      "garbage\n",
					      "2 V1 N1\n",
					      ("3 V0 N1 G" GUID_HEX "\n"),
					      ("3 V1 G" GUID_HEX "\n"),
					      "3 V1 N1 Gxyz\n",
					      "3 V99999999999 N1\n",
					      ("3 V1 N1 G" GUID_HEX)};
	static const char *const lines[] = {"0 :a\n", "4294967295 :a\n", "x :a\n", "2\n",
					    "2 :\n",  "2 :a/b\n",	 "2 a\n",  "2 :.hidden\n"};
	struct list_dir dir = make_list(state, NULL);
	struct uidlist *list;
	struct error err;
	char text[200];

	for (size_t i = 0; i < sizeof headers / sizeof headers[0]; i++) {
		write_file(dir.path, headers[i], strlen(headers[i]));
		err = (struct error){0};
		assert_int_equal(uidlist_open(dir.fd, "box", &list, &err), -EUCLEAN);
		assert_non_null(strstr(err.text, "box/dovecot-uidlist"));
	}
	for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++) {
		/* In the middle, where only a look at it finds it. */
		snprintf(text, sizeof text, "3 V1 N1 G" GUID_HEX "\n1 :z\n%s9 :y\n", lines[i]);
		write_file(dir.path, text, strlen(text));
		list = open_list(&dir);
		assert_int_equal(uidlist_check(list, &err), -EUCLEAN);
		uidlist_close(&list);
	}
	write_file(dir.path, "3 V1 N1 G" GUID_HEX "\n5 :a\n4 :b\n9 :c\n", 58);
	list = open_list(&dir);
	assert_int_equal(uidlist_check(list, &err), -EUCLEAN);
	uidlist_close(&list);
	must_shell("rm '%s'; mkfifo '%s'", dir.path, dir.path);
	assert_int_equal(uidlist_open(dir.fd, "box", &list, &err), -EUCLEAN);
	must_shell("rm '%s'", dir.path);
	assert_int_equal(uidlist_open(dir.fd, "box", &list, &err), -ENOENT);
	close(dir.fd);
}

static void test_an_open_list_may_be_overwritten(void **state)
{
	struct list_dir dir = make_list(state, "3 V5 N4 G" GUID_HEX "\n1 :a\n2 :b\n");
	struct uidlist *list = open_list(&dir);
	struct error err = {0};
	bool replaced;
	int fd;

	must(uidlist_refresh(list, &replaced, &err), &err);
	fd = open(dir.path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(write(fd, "garbage ", 8), 8);
	close(fd);
	assert_int_equal(uidlist_refresh(list, &replaced, &err), -EUCLEAN);
	assert_non_null(strstr(err.text, "dovecot-uidlist"));
	uidlist_close(&list);
	close(dir.fd);
}

static void test_lines_that_would_damage_the_list_are_refused(void **state)
{
	struct buf lines = BUF_INIT(1000);

	assert_int_equal(uidlist_format_line(&lines, 0, "", 0, "a", 1), -EINVAL);
	assert_int_equal(uidlist_format_line(&lines, 1, "", 0, "", 0), -EINVAL);
	assert_int_equal(uidlist_format_line(&lines, 1, "", 0, "a\nb", 3), -EINVAL);
	assert_int_equal(uidlist_format_line(&lines, 1, "", 0, "a:b", 3), -EINVAL);
	assert_int_equal(uidlist_format_line(&lines, 1, "", 0, "a/b", 3), -EINVAL);
	assert_int_equal(uidlist_format_line(&lines, 1, "Gx y", 4, "a", 1), -EINVAL);
	assert_int_equal(uidlist_format_line(&lines, 1, "G\n", 2, "a", 1), -EINVAL);
	assert_int_equal(lines.len, 0);
	assert_int_equal(uidlist_format_line(&lines, 1, "Gx S5", 5, "a", 1), 0);
	assert_string_equal(lines.data, "1 Gx S5 :a\n");
	buf_free(&lines);
}

static void test_salvage_keeps_what_can_be_read(void **state)
{
	struct list_dir dir = make_list(state, "3 V5 Nbroken G" GUID_HEX "\n"
					       "7 :seven\n1 Gone :a\nnonsense\n2 :b\n2 :twice\n"
					       "9 :b\n5 :/\n6 :tor");
	struct uidlist_header fallback = {.version = 3, .uid_validity = 99, .next_uid = 3};
	struct error err = {0};
	size_t dropped;
	char *text;

	guid_generate(&fallback.guid);
	must(uidlist_salvage(dir.fd, "box", &fallback, &dropped, &err), &err);
	text = read_file(dir.path);
	/* 2 and 9 name the same file: the later UID is the right one. */
	assert_string_equal(text, "3 V5 N10 G" GUID_HEX "\n1 Gone :a\n7 :seven\n9 :b\n");
	assert_int_equal(dropped, 4);
	free(text);
	/* Nothing readable at all. */
	write_file(dir.path, "\0\0\0\n\0", 5);
	must(uidlist_salvage(dir.fd, "box", &fallback, &dropped, &err), &err);
	text = read_file(dir.path);
	assert_non_null(strstr(text, "3 V99 N3 G"));
	free(text);
	close(dir.fd);
}

static void test_create_refuses_an_existing_list(void **state)
{
	struct list_dir dir = make_list(state, NULL);
	struct uidlist_header header = {.version = 3, .uid_validity = 4, .next_uid = 2};
	struct error err = {0};

	guid_generate(&header.guid);
	must(uidlist_create(dir.fd, "box", &header, &err), &err);
	assert_int_equal(uidlist_create(dir.fd, "box", &header, &err), -EEXIST);
	assert_false(path_exists("%s/" UIDLIST_TMP_NAME, dir.fx->maildir));
	close(dir.fd);
}

/* As a rename leaves it that was cut between link and unlink. */
static void test_rewrite_spares_a_list_whose_other_name_is_the_temporary_one(void **state)
{
	struct list_dir dir = make_list(state, "3 V5 N4 G" GUID_HEX "\n1 :a\n2 :b\n3 :c\n");
	struct uidlist *list = open_list(&dir), *reader = open_list(&dir);
	struct uidlist_record record;
	struct error err = {0};
	char *text;

	assert_int_equal(linkat(dir.fd, UIDLIST_NAME, dir.fd, UIDLIST_TMP_NAME, 0), 0);
	must(uidlist_rewrite(list, uidlist_header(list), keep_odd, NULL, NULL, &err), &err);
	must(uidlist_find(reader, 2, &record, &err), &err);
	assert_base(&record, "b");
	text = read_file(dir.path);
	assert_string_equal(text, "3 V5 N4 G" GUID_HEX "\n1 :a\n3 :c\n");
	assert_false(path_exists("%s/" UIDLIST_TMP_NAME, dir.fx->maildir));
	free(text);
	uidlist_close(&list);
	uidlist_close(&reader);
	close(dir.fd);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_header_and_last_line_give_the_next_uid),
		UNIT(test_records_are_found_by_uid_and_by_base),
		UNIT(test_a_hundred_thousand_lines),
		UNIT(test_many_searches_find_what_one_finds),
		UNIT(test_append_is_seen_by_an_open_reader),
		UNIT(test_a_torn_last_line_is_not_seen_and_overwritten),
		UNIT(test_rewrite_keeps_unknown_keys_and_fields),
		UNIT(test_version_1_is_read),
		UNIT(test_damage_is_told),
		UNIT(test_an_open_list_may_be_overwritten),
		UNIT(test_lines_that_would_damage_the_list_are_refused),
		UNIT(test_salvage_keeps_what_can_be_read),
		UNIT(test_create_refuses_an_existing_list),
		UNIT(test_rewrite_spares_a_list_whose_other_name_is_the_temporary_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
