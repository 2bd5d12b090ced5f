/* Places: where a directory is relative to its home, what names in it are, and that a rename moves
 * all below. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "fs/place.h"

/* "role home|dir" of a directory. */
static const char *where(struct places *places, struct place *place)
{
	static const char *const roles[] = {"above", "dir", "cur", "new", "tmp", "mails", "inside"};
	static char text[PLACE_PATH_MAX + 64];
	struct place_path path;

	place_locate(places, place, &path);
	snprintf(text, sizeof text, "%s %s|%s", roles[path.role], path.home, path.dir);
	place_release(places, &path);
	return text;
}

/* Makes the path's places below the root; the caller lets go of the last. */
static struct place *walk(struct places *places, const char *path)
{
	struct place *place = place_root(places);
	char *copy = strdup(path), *rest = copy, *name;

	place_ref(places, place);
	while ((name = strsep(&rest, "/")) != NULL) {
		struct place *child = place_child(places, place, name);

		assert_non_null(child);
		place_unref(places, place);
		place = child;
	}
	free(copy);
	return place;
}

static void check(struct places *places, const char *path, const char *expected)
{
	struct place *place = walk(places, path);

	assert_string_equal(where(places, place), expected);
	place_unref(places, place);
}

static void home_is_two_levels_below_the_root(void **state)
{
	struct places *places = places_create(2);

	assert_string_equal(where(places, place_root(places)), "above |");
	check(places, "example.org", "above example.org|");
	check(places, "example.org/alice", "dir example.org/alice|");
	check(places, "example.org/alice/Maildir", "dir example.org/alice|Maildir");
	check(places, "example.org/alice/Maildir/.Work", "dir example.org/alice|Maildir/.Work");
	check(places, "example.org/alice/Maildir/cur", "cur example.org/alice|Maildir");
	check(places, "example.org/alice/Maildir/.Work/new", "new example.org/alice|Maildir/.Work");
	check(places, "example.org/alice/mail/a/b/tmp", "tmp example.org/alice|mail/a/b");
	places_free(&places);
}

static void dbox_has_its_own_part(void **state)
{
	struct places *places = places_create(1);

	check(places, "alice/mdbox/mailboxes/Work", "dir alice|mdbox/mailboxes/Work");
	check(places, "alice/mdbox/mailboxes/Work/dbox-Mails", "mails alice|mdbox/mailboxes/Work");
	/* There a mailbox may be called as a part of Maildir. */
	check(places, "alice/mdbox/mailboxes/cur/dbox-Mails", "mails alice|mdbox/mailboxes/cur");
	check(places, "alice/mdbox/storage", "dir alice|mdbox/storage");
	places_free(&places);
}

static void home_can_be_the_maildir(void **state)
{
	struct places *places = places_create(2);

	check(places, "example.org/alice/new", "new example.org/alice|");
	check(places, "example.org/alice/.Sent/cur", "cur example.org/alice|.Sent");
	places_free(&places);
}

static void users_may_be_called_like_parts(void **state)
{
	struct places *places = places_create(2);

	check(places, "new/cur", "dir new/cur|");
	check(places, "new/cur/tmp", "tmp new/cur|");
	places_free(&places);
}

static void nothing_below_a_part_is_mail(void **state)
{
	struct places *places = places_create(2);

	check(places, "example.org/alice/new/x", "inside |");
	check(places, "example.org/alice/new/cur", "inside |");
	places_free(&places);
}

static void other_depths_of_homes(void **state)
{
	struct places *places = places_create(1);

	check(places, "alice/Maildir/cur", "cur alice|Maildir");
	places_free(&places);
	places = places_create(0);
	assert_string_equal(where(places, place_root(places)), "dir |");
	check(places, "cur", "cur |");
	places_free(&places);
}

static void rename_moves_all_below(void **state)
{
	struct places *places = places_create(2);
	struct place *home = walk(places, "example.org/alice");
	struct place *box = place_child(places, home, ".Work");
	struct place *sub = place_child(places, box, "deep");
	struct place *cur = place_child(places, sub, "cur");
	struct place *other = walk(places, "example.net/bob");

	assert_string_equal(where(places, cur), "cur example.org/alice|.Work/deep");
	assert_int_equal(place_move(places, box, home, ".Play"), 0);
	assert_string_equal(where(places, cur), "cur example.org/alice|.Play/deep");
	assert_int_equal(place_move(places, box, other, "x"), 0);
	assert_string_equal(where(places, cur), "cur example.net/bob|x/deep");
	assert_true(place_is_below(places, cur, box));
	assert_true(place_is_below(places, box, box));
	assert_false(place_is_below(places, home, box));
	place_unref(places, home);
	/* The rest is held by what is below it. */
	place_unref(places, box);
	place_unref(places, sub);
	assert_string_equal(where(places, cur), "cur example.net/bob|x/deep");
	place_unref(places, cur);
	place_unref(places, other);
	places_free(&places);
}

static void exchange_swaps(void **state)
{
	struct places *places = places_create(1);
	struct place *a = walk(places, "alice/a");
	struct place *b = walk(places, "bob/b");
	struct place *cur = place_child(places, a, "cur");

	place_swap(places, a, b);
	assert_string_equal(where(places, a), "dir bob|b");
	assert_string_equal(where(places, b), "dir alice|a");
	assert_string_equal(where(places, cur), "cur bob|b");
	place_unref(places, cur);
	place_unref(places, a);
	place_unref(places, b);
	places_free(&places);
}

static void too_long_is_inside(void **state)
{
	struct places *places = places_create(1);
	struct place *place = walk(places, "alice");
	char name[256];

	memset(name, 'x', 255);
	name[255] = '\0';
	for (int i = 0; i < 40; i++) {
		struct place *child = place_child(places, place, name);

		place_unref(places, place);
		place = child;
	}
	assert_string_equal(where(places, place), "inside |");
	place_unref(places, place);
	place = walk(places, "alice");
	for (int i = 0; i < 1000; i++) {
		struct place *child = place_child(places, place, "d");

		place_unref(places, place);
		place = child;
	}
	assert_string_equal(where(places, place), "inside |");
	place_unref(places, place);
	places_free(&places);
}

static void child_by_name(void **state)
{
	struct places *places = places_create(2);
	struct place *box = walk(places, "example.org/alice/.Work");
	struct place_path path;

	place_locate_child(places, box, "cur", &path);
	assert_int_equal(path.role, PLACE_CUR);
	assert_ptr_equal(path.box, box);
	assert_string_equal(path.dir, ".Work");
	place_release(places, &path);
	place_locate_child(places, box, "sub", &path);
	assert_int_equal(path.role, PLACE_DIR);
	assert_string_equal(path.dir, ".Work/sub");
	assert_int_equal(path.depth, 2);
	place_release(places, &path);
	place_locate_child(places, place_root(places), "example.org", &path);
	assert_int_equal(path.role, PLACE_ABOVE);
	assert_string_equal(path.home, "example.org");
	place_release(places, &path);
	place_unref(places, box);
	places_free(&places);
}

static void names_say_what_files_are(void **state)
{
	assert_int_equal(place_file_kind(PLACE_CUR, "1.a:2,S"), PLACE_FILE_MESSAGE);
	assert_int_equal(place_file_kind(PLACE_NEW, ".nfs123"), PLACE_FILE_OTHER);
	assert_int_equal(place_file_kind(PLACE_TMP, "1.a"), PLACE_FILE_TMP);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot-uidlist"), PLACE_FILE_UIDLIST);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot-uidlist.lock"),
			 PLACE_FILE_UIDLIST_LOCK);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot-uidlist.tmp"), PLACE_FILE_OTHER);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot-keywords"), PLACE_FILE_KEYWORDS);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot.index.log"), PLACE_FILE_INDEX_LOG);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot.index.log.newlock"),
			 PLACE_FILE_INDEX_LOG);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot.list.index.log"),
			 PLACE_FILE_OTHER_LOG);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot.index.cache"), PLACE_FILE_OTHER);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot.index"), PLACE_FILE_OTHER);
	assert_int_equal(place_file_kind(PLACE_DIR, "subscriptions"), PLACE_FILE_SUBSCRIPTIONS);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot.mailbox.log"), PLACE_FILE_MAILBOX_LOG);
	assert_int_equal(place_file_kind(PLACE_ABOVE, "dovecot-uidlist"), PLACE_FILE_OTHER);
	assert_int_equal(place_file_kind(PLACE_INSIDE, "1.a"), PLACE_FILE_OTHER);
	assert_int_equal(place_file_kind(PLACE_MAILS, "dovecot.index.log"), PLACE_FILE_INDEX_LOG);
	assert_int_equal(place_file_kind(PLACE_MAILS, "u.17"), PLACE_FILE_OTHER);
	assert_int_equal(place_file_kind(PLACE_DIR, "m.17"), PLACE_FILE_SHARED);
	assert_int_equal(place_file_kind(PLACE_DIR, "m.17a"), PLACE_FILE_OTHER);
	assert_int_equal(place_file_kind(PLACE_DIR, ".temp.1795.P44Q1M2.host"), PLACE_FILE_SHARED);
	assert_int_equal(place_file_kind(PLACE_DIR, "dovecot.map.index.log"), PLACE_FILE_OTHER_LOG);
	assert_true(place_file_is_ours(PLACE_FILE_SHARED));
	assert_true(place_file_is_log(PLACE_FILE_OTHER_LOG));
	assert_false(place_file_is_watched(PLACE_FILE_OTHER_LOG));
	assert_true(place_file_is_watched(PLACE_FILE_UIDLIST));
	assert_false(place_file_is_log(PLACE_FILE_UIDLIST));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(home_is_two_levels_below_the_root),
		cmocka_unit_test(dbox_has_its_own_part),
		cmocka_unit_test(home_can_be_the_maildir),
		cmocka_unit_test(users_may_be_called_like_parts),
		cmocka_unit_test(nothing_below_a_part_is_mail),
		cmocka_unit_test(other_depths_of_homes),
		cmocka_unit_test(rename_moves_all_below),
		cmocka_unit_test(exchange_swaps),
		cmocka_unit_test(too_long_is_inside),
		cmocka_unit_test(child_by_name),
		cmocka_unit_test(names_say_what_files_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
