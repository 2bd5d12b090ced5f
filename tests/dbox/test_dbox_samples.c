/*
 * mdbox and sdbox stores that Dovecot 2.3 and 2.4 wrote, read as Dovecot read them: status,
 * messages, flags, modseqs, dates, sizes, and bodies in every compression.
 */
#include "tests/maildir/sample_check.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/mailbox_list.h"

static void check(struct fixture *fx, const char *sample)
{
	fixture_set_location(fx, *sample == 'm' ? "mdbox:~/mdbox" : "sdbox:~/sdbox");
	check_sample(fx, sample);
}

#define SAMPLE(name, sample)                                                                       \
	static void test_##name(void **state)                                                      \
	{                                                                                          \
		check(*state, sample);                                                             \
	}

SAMPLE(mdbox_basic_2_3, "mdbox-2.3.19-basic")
SAMPLE(mdbox_rotated_2_3, "mdbox-2.3.19-rotated")
SAMPLE(mdbox_compressed_2_3, "mdbox-2.3.19-compressed")
SAMPLE(mdbox_basic_2_4, "mdbox-2.4.1-basic")
SAMPLE(mdbox_rotated_2_4, "mdbox-2.4.1-rotated")
SAMPLE(mdbox_compressed_2_4, "mdbox-2.4.1-compressed")
SAMPLE(sdbox_2_3, "sdbox-2.3.19")
SAMPLE(sdbox_2_4, "sdbox-2.4.1")

static void test_reading_changes_nothing(void **state)
{
	fixture_set_location(*state, "mdbox:~/mdbox");
	check_unchanged(*state, "mdbox-2.4.1-basic");
}

static void test_list(void **state)
{
	static const char *const names[] = {"A&B",	    "Archiv 2023", "Archiv 2023/Kid",
					    "Entwürfe",	    "INBOX",	   "Work",
					    "Work/Ünïcode", "Work/日本語"};
	struct fixture *fx = *state;
	struct mailbox_tree tree;
	struct error err = {0};
	bool incomplete;

	fixture_set_location(fx, "mdbox:~/mdbox");
	fixture_unpack_sample(fx, "mdbox-2.3.19-basic");
	must(mailbox_list_read(&fx->user, &tree, &incomplete, &err), &err);
	assert_false(incomplete);
	assert_int_equal(tree.node_count, sizeof names / sizeof names[0]);
	for (size_t i = 0; i < tree.node_count; i++) {
		assert_string_equal(tree.nodes[i].name, names[i]);
		assert_true(tree.nodes[i].exists);
	}
	assert_true(tree.nodes[0].subscribed);
	mailbox_tree_free(&tree);
}

/* A file that was moved to the alternative storage is found there. */
static void test_alternative_storage(void **state)
{
	struct fixture *fx = *state;

	fixture_unpack_sample(fx, "mdbox-2.3.19-basic");
	must_shell("mkdir -p '%s/alt/storage' && mv '%s/mdbox/storage/m.1' '%s/alt/storage/'",
		   fx->home, fx->home, fx->home);
	fixture_set_location(fx, "mdbox:~/mdbox:ALT=~/alt");
	struct mailbox *box = must_open(fx, "INBOX");
	char *body = body_of(box, 1, NULL);
	assert_int_equal(strlen(body), 164);
	free(body);
	mailbox_close(&box);
	fixture_unpack_sample(fx, "sdbox-2.3.19");
	must_shell(
		"mkdir -p '%s/alt2/mailboxes/INBOX/dbox-Mails' && "
		"mv '%s/sdbox/mailboxes/INBOX/dbox-Mails/u.1' '%s/alt2/mailboxes/INBOX/dbox-Mails'",
		fx->home, fx->home, fx->home);
	fixture_set_location(fx, "sdbox:~/sdbox:ALT=~/alt2");
	box = must_open(fx, "INBOX");
	body = body_of(box, 1, NULL);
	assert_int_equal(strlen(body), 29);
	free(body);
	mailbox_close(&box);
}

/* What lies there is not taken for lost while it is not mounted. */
static void test_alternative_storage_is_away(void **state)
{
	static const char *const samples[][2] = {{"mdbox-2.3.19-basic", "mdbox:~/mdbox:ALT=~/alt"},
						 {"sdbox-2.3.19", "sdbox:~/sdbox:ALT=~/alt"}};
	struct fixture *fx = *state;

	for (size_t i = 0; i < 2; i++) {
		struct mailbox *box;
		struct mail mail;
		struct error err = {0};

		fixture_unpack_sample(fx, samples[i][0]);
		must_shell(
			"cd '%s' && rm -rf alt && mkdir -p away/storage "
			"away/mailboxes/INBOX/dbox-Mails && "
			"if [ -d mdbox ]; then mv mdbox/storage/m.1 away/storage; else "
			"mv sdbox/mailboxes/INBOX/dbox-Mails/u.1 away/mailboxes/INBOX/dbox-Mails; "
			"fi",
			fx->home);
		fixture_set_location(fx, samples[i][1]);
		box = must_open(fx, "INBOX");
		assert_int_equal(mailbox_find(box, 1, &mail, &err), -ENODEV);
		assert_non_null(strstr(err.text, "not mounted"));
		must_shell("cd '%s' && mv away alt && rm -rf mdbox/storage/none", fx->home);
		must(mailbox_find(box, 1, &mail, &err), &err);
		mailbox_close(&box);
		must_shell("rm -rf '%s/mdbox'", fx->home);
	}
}

/* A message whose body is gone is left out and told about; the others are there. */
static void test_missing_bodies(void **state)
{
	struct fixture *fx = *state;
	struct mail_event touched = event_touched();
	struct mailbox *box;
	struct error err = {0};
	size_t missing;
	bool changed;
	char *text;

	fixture_unpack_sample(fx, "sdbox-2.3.19");
	fixture_set_location(fx, "sdbox:~/sdbox");
	must_shell("rm '%s/sdbox/mailboxes/INBOX/dbox-Mails/u.1'", fx->home);
	box = must_open(fx, "INBOX");
	text = describe(box, false);
	assert_int_equal(strncmp(text, "3 ", 2), 0);
	free(text);
	assert_false(catch_up(box, &touched, 1));
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_int_equal(missing, 1);
	assert_int_equal(mailbox_status(box)->messages, 2);
	mailbox_close(&box);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_mdbox_basic_2_3),
		UNIT(test_mdbox_rotated_2_3),
		UNIT(test_mdbox_compressed_2_3),
		UNIT(test_mdbox_basic_2_4),
		UNIT(test_mdbox_rotated_2_4),
		UNIT(test_mdbox_compressed_2_4),
		UNIT(test_sdbox_2_3),
		UNIT(test_sdbox_2_4),
		UNIT(test_reading_changes_nothing),
		UNIT(test_list),
		UNIT(test_alternative_storage),
		UNIT(test_alternative_storage_is_away),
		UNIT(test_missing_bodies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
