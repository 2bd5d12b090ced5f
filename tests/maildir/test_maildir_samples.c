/*
 * Maildirs that Dovecot 2.3 and 2.4 wrote, read as Dovecot read them: status, messages, flags,
 * modseqs, dates, sizes, and bodies in every compression.
 */
#include "tests/maildir/sample_check.h"

#include <errno.h>
#include <string.h>

static void test_basic_2_3(void **state)
{
	check_sample(*state, "maildir-2.3.19-basic");
}

static void test_rotated_2_3(void **state)
{
	check_sample(*state, "maildir-2.3.19-rotated");
}

static void test_compressed_2_3(void **state)
{
	check_sample(*state, "maildir-2.3.19-compressed");
}

static void test_basic_2_4(void **state)
{
	check_sample(*state, "maildir-2.4.1-basic");
}

static void test_rotated_2_4(void **state)
{
	check_sample(*state, "maildir-2.4.1-rotated");
}

static void test_compressed_2_4(void **state)
{
	check_sample(*state, "maildir-2.4.1-compressed");
}

static void test_reading_changes_nothing(void **state)
{
	check_unchanged(*state, "maildir-2.3.19-basic");
}

static void test_reading_a_rotated_store_changes_nothing(void **state)
{
	check_unchanged(*state, "maildir-2.4.1-rotated");
}

static void test_damaged_compression_is_told(void **state)
{
	struct fixture *fx = *state;
	struct mail_body_info info;
	struct mail_body *body;
	struct mailbox *box;
	struct error err = {0};
	char data[4096];
	ssize_t n;

	fixture_unpack_sample(fx, "maildir-2.3.19-compressed");
	must_shell("cd '%s/new' && for f in *; do truncate -s -20 \"$f\"; done", fx->maildir);
	box = must_open(fx, "INBOX");
	for (uint32_t uid = 1; uid <= 4; uid++) {
		must(mailbox_body_open(box, uid, &body, &info, &err), &err);
		while ((n = mailbox_body_read(body, data, sizeof data, &err)) > 0)
			continue;
		assert_int_equal(n, -EBADMSG);
		assert_non_null(strstr(err.text, "alice@example.org"));
		mailbox_body_close(&body);
	}
	mailbox_close(&box);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_basic_2_3),
		UNIT(test_rotated_2_3),
		UNIT(test_compressed_2_3),
		UNIT(test_basic_2_4),
		UNIT(test_rotated_2_4),
		UNIT(test_compressed_2_4),
		UNIT(test_reading_changes_nothing),
		UNIT(test_reading_a_rotated_store_changes_nothing),
		UNIT(test_damaged_compression_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
