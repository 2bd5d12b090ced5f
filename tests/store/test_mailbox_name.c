/* Mailbox names: modified UTF-7, storage names of both layouts, and what a hostile peer may not
 * reach. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/mail_user.h"
#include "store/mailbox_list.h"
#include "store/mailbox_name.h"

static char root[] = "/mail/Maildir";
static struct mail_user user(enum mail_layout layout)
{
	static char name[] = "alice", home[] = "/mail", home_rel[] = "alice";

	return (struct mail_user){
		.name = name,
		.home = home,
		.home_rel = home_rel,
		.location = {.driver = MAIL_DRIVER_MAILDIR,
			     .layout = layout,
			     .root = root,
			     .index = root,
			     .control = root,
			     .inbox = root},
		.separator = '/',
	};
}

static const struct {
	const char *utf8, *mutf7;
} names[] = {
	{"", ""},
	{"INBOX", "INBOX"},
	{"A&B", "A&-B"},
	{"Entwürfe", "Entw&APw-rfe"},
	{"Ünïcode", "&ANw-n&AO8-code"},
	{"日本語", "&ZeVnLIqe-"},
	{"台北", "&U,BTFw-"},
	{"x\xf0\x9f\x98\x80y", "x&2D3eAA-y"}, /* U+1F600, a surrogate pair */
	{"a b~!\"#$%'()*+,-./:;<=>?@[\\]^_`{|}", "a b~!\"#$%'()*+,-./:;<=>?@[\\]^_`{|}"},
};

static void mutf7_known_names(void **state)
{
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		struct buf out = BUF_INIT(200), back = BUF_INIT(200);

		assert_int_equal(mutf7_encode(names[i].utf8, strlen(names[i].utf8), &out), 0);
		assert_string_equal(buf_str(&out), names[i].mutf7);
		assert_int_equal(mutf7_decode(names[i].mutf7, strlen(names[i].mutf7), &back), 0);
		assert_string_equal(buf_str(&back), names[i].utf8);
		buf_free(&out);
		buf_free(&back);
	}
}

static void mutf7_refuses_what_is_not_canonical(void **state)
{
	static const char *const bad[] = {
		"&",	      "&AGE-",	    "a&APw", /* open; ASCII in base64; not closed */
		"&2D0-",      "&3gA-",		     /* lone surrogates */
		"&AAA-&AAA-", "&APw-&APw-",	     /* two groups in a row */
		"&APx-",      "&A-",		     /* padding that is not zero, too short */
		"\xc3\xbc",   "a\tb",		     /* 8-bit, control */
		"&AP/-",			     /* '/' is none of the digits */
	};

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct buf out = BUF_INIT(200);

		if (mutf7_decode(bad[i], strlen(bad[i]), &out) != -EILSEQ)
			fail_msg("taken: %s", bad[i]);
		buf_free(&out);
	}
}

static void mutf7_random_round_trips(void **state)
{
	unsigned seed = 1;

	for (int round = 0; round < 20000; round++) {
		struct buf text = BUF_INIT(400), out = BUF_INIT(400), back = BUF_INIT(400);

		for (int i = (int)(rand_r(&seed) % 12); i > 0; i--) {
			switch (rand_r(&seed) % 5) {
			case 0:
				buf_append_byte(&text,
						(unsigned char)(0x20 + rand_r(&seed) % 0x5f));
				break;
			case 1:
				buf_append_byte(&text, '&');
				break;
			case 2:
				buf_append_str(&text, "é");
				break;
			case 3:
				buf_append_str(&text, "語");
				break;
			default:
				buf_append_str(&text, "\xf0\x9f\x98\x80");
			}
		}
		assert_int_equal(mutf7_encode(buf_str(&text), text.len, &out), 0);
		assert_int_equal(mutf7_decode(buf_str(&out), out.len, &back), 0);
		assert_string_equal(buf_str(&text), buf_str(&back));
		buf_free(&text);
		buf_free(&out);
		buf_free(&back);
	}
}

static void storage_names_of_both_layouts(void **state)
{
	struct mail_user maildirpp = user(MAIL_LAYOUT_MAILDIRPP), fs = user(MAIL_LAYOUT_FS);
	struct mailbox_paths paths;
	char *text;

	assert_int_equal(mailbox_name_to_storage(&maildirpp.location, "Work/日本語", &text), 0);
	assert_string_equal(text, "Work.&ZeVnLIqe-");
	free(text);
	assert_int_equal(mailbox_name_to_storage(&fs.location, "Work/日本語", &text), 0);
	assert_string_equal(text, "Work/&ZeVnLIqe-");
	free(text);
	assert_int_equal(mailbox_name_from_storage(&maildirpp.location, "Work.&ZeVnLIqe-", &text),
			 0);
	assert_string_equal(text, "Work/日本語");
	free(text);
	assert_int_equal(mailbox_paths_get(&maildirpp.location, "Work/Sub", &paths), 0);
	assert_string_equal(paths.mail, "/mail/Maildir/.Work.Sub");
	assert_string_equal(paths.control, paths.mail);
	mailbox_paths_free(&paths);
	assert_int_equal(mailbox_paths_get(&fs.location, "Work/Sub", &paths), 0);
	assert_string_equal(paths.mail, "/mail/Maildir/Work/Sub");
	mailbox_paths_free(&paths);
	assert_int_equal(mailbox_paths_get(&fs.location, "INBOX", &paths), 0);
	assert_string_equal(paths.mail, "/mail/Maildir");
	mailbox_paths_free(&paths);
}

static void separate_control_and_index(void **state)
{
	struct mail_user u = user(MAIL_LAYOUT_MAILDIRPP);
	char control[] = "/control", index[] = "/index";
	struct mailbox_paths paths;

	u.location.control = control;
	u.location.index = index;
	assert_int_equal(mailbox_paths_get(&u.location, "INBOX", &paths), 0);
	assert_string_equal(paths.mail, "/mail/Maildir");
	assert_string_equal(paths.control, "/control/.INBOX");
	assert_string_equal(paths.index, "/index/.INBOX");
	mailbox_paths_free(&paths);
}

static const char *const hostile[] = {
	"",	    ".",     "..",    "../x",	 "a/..",	 "a/../../etc/passwd",
	"/abs",	    "a//b",  "a/",    "a\nb",	 "a\tb",	 "a\x7f",
	"\xff\xfe", "~root", "inbox", "Inbox/x", "\xed\xa0\x80", "\xc0\xaf",
};

static void hostile_names_are_invalid(void **state)
{
	struct mail_user maildirpp = user(MAIL_LAYOUT_MAILDIRPP), fs = user(MAIL_LAYOUT_FS);

	for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
		if (mailbox_name_is_valid(&maildirpp.location, hostile[i]) ||
		    mailbox_name_is_valid(&fs.location, hostile[i]))
			fail_msg("taken: %s", hostile[i]);
	}
	assert_false(mailbox_name_is_valid(&maildirpp.location, "we.ird"));
	assert_true(mailbox_name_is_valid(&fs.location, "we.ird"));
	assert_true(mailbox_name_is_valid(&maildirpp.location, "cur"));
	assert_false(mailbox_name_is_valid(&fs.location, "a/cur"));
	assert_false(mailbox_name_is_valid(&fs.location, "subscriptions"));
	assert_false(mailbox_name_is_valid(&fs.location, "dovecot.index.log"));
}

static void stored(const struct mail_user *u, const char *name, const char *expected)
{
	char *out;

	assert_int_equal(mailbox_name_storable(u, name, '_', &out), 0);
	if (expected)
		assert_string_equal(out, expected);
	assert_true(mailbox_name_is_valid(&u->location, out));
	free(out);
}

static void every_name_becomes_storable(void **state)
{
	struct mail_user maildirpp = user(MAIL_LAYOUT_MAILDIRPP), fs = user(MAIL_LAYOUT_FS);
	char name[3000];

	for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
		stored(&maildirpp, hostile[i], NULL);
		stored(&fs, hostile[i], NULL);
	}
	stored(&maildirpp, "we.ird", "we_ird");
	stored(&maildirpp, "Work/日本語", "Work/日本語");
	stored(&maildirpp, "a/../b", "a/__/b");
	stored(&maildirpp, "~x", "_~x");
	stored(&fs, "a/cur", "a/_cur");
	stored(&maildirpp, "inbox", "INBOX");
	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = '\0';
	stored(&maildirpp, name, NULL);
	stored(&fs, name, NULL);
	for (size_t i = 1; i < sizeof name - 1; i += 2)
		name[i] = '/';
	stored(&maildirpp, name, NULL);
	stored(&fs, name, NULL);
}

static void directories_of_events(void **state)
{
	struct mail_user maildirpp = user(MAIL_LAYOUT_MAILDIRPP), fs = user(MAIL_LAYOUT_FS);
	char *name;

	assert_int_equal(mailbox_name_from_dir(&maildirpp, "Maildir", &name), 0);
	assert_string_equal(name, "INBOX");
	free(name);
	assert_int_equal(mailbox_name_from_dir(&maildirpp, "Maildir/.Work.Sub", &name), 0);
	assert_string_equal(name, "Work/Sub");
	free(name);
	assert_int_equal(mailbox_name_from_dir(&fs, "Maildir/Work/Sub", &name), 0);
	assert_string_equal(name, "Work/Sub");
	free(name);
	assert_int_equal(mailbox_name_from_dir(&maildirpp, "Maildir/..DOVECOT-TRASHED", &name),
			 -ENOENT);
	assert_int_equal(mailbox_name_from_dir(&maildirpp, "", &name), -ENOENT);
	assert_int_equal(mailbox_name_from_dir(&maildirpp, "Maildirx", &name), -ENOENT);
	assert_int_equal(mailbox_name_from_dir(&maildirpp, "Maildir/temp.host.1.2", &name),
			 -ENOENT);
}

static void home_that_is_the_maildir(void **state)
{
	struct mail_user u = user(MAIL_LAYOUT_MAILDIRPP);
	char *name;

	u.home = root;
	assert_int_equal(mailbox_name_from_dir(&u, "", &name), 0);
	assert_string_equal(name, "INBOX");
	free(name);
	assert_int_equal(mailbox_name_from_dir(&u, ".Work", &name), 0);
	assert_string_equal(name, "Work");
	free(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(mutf7_known_names),
		cmocka_unit_test(mutf7_refuses_what_is_not_canonical),
		cmocka_unit_test(mutf7_random_round_trips),
		cmocka_unit_test(storage_names_of_both_layouts),
		cmocka_unit_test(separate_control_and_index),
		cmocka_unit_test(hostile_names_are_invalid),
		cmocka_unit_test(every_name_becomes_storable),
		cmocka_unit_test(directories_of_events),
		cmocka_unit_test(home_that_is_the_maildir),
	};

	return cmocka_run_group_tests_name("mailbox_name", tests, NULL, NULL);
}
