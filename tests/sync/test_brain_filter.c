/*
 * Sessions that carry over only some messages (-t, -e, -I, -O), and one way without undoing
 * anything
 * (-1): what is left out stays where it is, a second session has nothing to do, and one without the
 * filter brings the rest.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/sync/fake_pair.h"

#define OLD "Subject: old\n\nx\n"
#define NEW "Subject: new\n\nx\n"
#define BIG "Subject: big\n\nxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"

static int setup(void **state)
{
	fake_pair_setup(state);
	struct fake_pair *f = *state;
	f->node_b.allow_one_way = true;
	return 0;
}

static struct fake_box *inbox(struct fake_account *account)
{
	return box_of(account, "INBOX");
}

static size_t count(struct fake_account *account, const char *body)
{
	const struct fake_box *box = inbox(account);
	size_t found = 0;

	for (size_t i = 0; i < box->mail_count; i++)
		found += strcmp(box->mails[i].body, body) == 0;
	return found;
}

static void sync_pair(struct fake_pair *f)
{
	if (run_until_done(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results) < 0)
		fail_msg("no end: %s %s, %s %s", f->results.master_err.text,
			 f->results.master.reason, f->results.slave_err.text,
			 f->results.slave.reason);
}

/* The same session again, looking everywhere. (By Dovecot's rules MODSEQs take one more.) */
static void expect_nothing_to_do(struct fake_pair *f)
{
	if (f->node_a.plain)
		sync_pair(f);
	unsigned begins = f->a->begin_count + f->b->begin_count;

	run_session(&f->node_a, &f->node_b, SYNC_FULL, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	assert_int_equal(f->results.master.mails_sent + f->results.slave.mails_sent, 0);
	assert_int_equal(f->a->begin_count + f->b->begin_count, begins);
}

/* Both ends of dsyncfs, as nodes that know each other or not. */
static void set_plain(struct fake_pair *f, bool plain)
{
	f->node_a.plain = f->node_b.plain = plain;
}

static void by_date(struct fake_pair *f)
{
	for (int i = 0; i < 3; i++) {
		fake_deliver(f->a, inbox(f->a), NULL, OLD);
		fake_deliver(f->b, inbox(f->b), NULL, OLD);
	}
	f->node_a.filter.since = f->clock + 1;
	fake_deliver(f->a, inbox(f->a), NULL, NEW);
	fake_deliver(f->b, inbox(f->b), NULL, NEW);
	f->node_a.filter.until = f->clock;
	fake_deliver(f->b, inbox(f->b), NULL, BIG);
	sync_pair(f);
	assert_int_equal(count(f->a, OLD) + count(f->a, NEW) * 10 + count(f->a, BIG) * 100, 23);
	assert_int_equal(count(f->b, OLD) + count(f->b, NEW) * 10 + count(f->b, BIG) * 100, 123);
	expect_nothing_to_do(f);
	/* Flags of what both have go over; of the others nothing is known there. */
	fake_flags(inbox(f->a), inbox(f->a)->mails[0].uid, MAIL_FLAGGED, 0);
	fake_flags(inbox(f->a), inbox(f->a)->mails[4].uid, MAIL_SEEN, 0);
	sync_pair(f);
	assert_int_equal(inbox(f->b)->mails[inbox(f->b)->mail_count - 1].flags |
				 inbox(f->b)->mails[inbox(f->b)->mail_count - 2].flags,
			 MAIL_SEEN);
	f->node_a.filter = (struct mail_filter){.since = 0};
	sync_pair(f);
	assert_int_equal(count(f->a, OLD), 6);
	assert_null(fake_accounts_differ(f->a, f->b, false));
}

static void nodes_by_date(void **state)
{
	by_date(*state);
}

static void two_commands_by_date(void **state)
{
	set_plain(*state, true);
	by_date(*state);
}

static void by_size_and_flag(void **state)
{
	struct fake_pair *f = *state;
	struct fake_box *box = inbox(f->a);

	fake_deliver(f->a, box, NULL, BIG);
	fake_deliver(f->a, box, NULL, OLD);
	fake_keyword(box, fake_deliver(f->a, box, NULL, NEW), "work", true);
	/* With CRLF it has three bytes more. */
	f->node_a.filter = (struct mail_filter){.max_size = strlen(OLD) + 3, .flag = "-Work"};
	sync_pair(f);
	assert_int_equal(count(f->b, OLD), 1);
	assert_int_equal(inbox(f->b)->mail_count, 1);
	expect_nothing_to_do(f);
	f->node_a.filter = (struct mail_filter){.max_size = strlen(OLD) + 2};
	sync_pair(f);
	assert_int_equal(inbox(f->b)->mail_count, 1);
	f->node_a.filter = (struct mail_filter){.flag = "work"};
	sync_pair(f);
	assert_int_equal(count(f->b, NEW), 1);
	assert_int_equal(inbox(f->b)->mail_count, 2);
	assert_int_equal(inbox(f->a)->mail_count, 3);
}

/* A saved state says what both have, which a session with a filter does not bring about. */
static void no_state_is_saved(void **state)
{
	struct fake_pair *f = *state;

	fake_deliver(f->a, inbox(f->a), NULL, OLD);
	sync_pair(f);
	unsigned saves = f->node_a.saves + f->node_b.saves;

	fake_deliver(f->a, inbox(f->a), NULL, BIG);
	fake_deliver(f->a, inbox(f->a), NULL, NEW);
	f->node_a.filter.max_size = strlen(OLD) + 10;
	sync_pair(f);
	assert_int_equal(f->node_a.saves + f->node_b.saves, saves);
	assert_int_equal(inbox(f->b)->mail_count, 2);
	f->node_a.filter.max_size = 0;
	sync_pair(f);
	assert_null(fake_accounts_differ(f->a, f->b, false));
	assert_int_equal(inbox(f->b)->mail_count, 3);
}

/* -1: from and to are the fixture's accounts, whoever is the master. */
static void once(struct fake_pair *f, struct fake_account *from, struct fake_account *to,
		 enum sync_way way)
{
	set_plain(f, true);
	f->node_a.keeps = true;
	f->node_a.way = way;
	fake_deliver(from, inbox(from), NULL, OLD);
	fake_deliver(from, inbox(from), NULL, NEW);
	uint32_t own = fake_deliver(to, inbox(to), NULL, BIG);
	struct fake_box before = *inbox(from);

	sync_pair(f);
	assert_int_equal(count(to, BIG) + count(to, OLD) * 10 + count(to, NEW) * 100, 111);
	assert_string_equal(fake_find_mail(inbox(to), own)->body, BIG);
	assert_string_equal(fake_find_mail(inbox(to), 2)->body, NEW);
	assert_true(guid_equal(&inbox(to)->status.guid, &inbox(from)->status.guid));
	assert_int_equal(inbox(from)->version, before.version);
	assert_int_equal(inbox(from)->mail_count, 2);
	expect_nothing_to_do(f);

	/* Not undone: a mail that the source lacks, one removed here, flags set here. */
	fake_flags(inbox(to), 2, MAIL_FLAGGED, 0);
	fake_expunge(inbox(to), 3);
	fake_deliver(to, inbox(to), NULL, BIG);
	fake_deliver(from, inbox(from), NULL, "Subject: third\n\nx\n");
	fake_flags(inbox(from), 1, MAIL_SEEN, 0);
	sync_pair(f);
	assert_int_equal(count(to, BIG), 2);
	assert_int_equal(count(to, OLD), 0);
	assert_int_equal(count(to, "Subject: third\n\nx\n"), 1);
	assert_int_equal(fake_find_mail(inbox(to), 2)->flags, MAIL_FLAGGED);
	assert_int_equal(inbox(from)->mail_count, 3);
	expect_nothing_to_do(f);
	/* What was removed at the source goes. */
	fake_expunge(inbox(from), 2);
	sync_pair(f);
	assert_int_equal(count(to, NEW), 0);
	assert_int_equal(count(to, BIG), 2);
}

static void once_to_the_slave(void **state)
{
	struct fake_pair *f = *state;

	once(f, f->a, f->b, SYNC_TO_PEER);
}

static void once_to_the_master(void **state)
{
	struct fake_pair *f = *state;

	once(f, f->b, f->a, SYNC_FROM_PEER);
}

/* A mailbox that only the destination has stays, and is no trouble. */
static void once_with_a_folder_of_its_own(void **state)
{
	struct fake_pair *f = *state;
	struct guid guid;

	guid_generate(&guid);
	set_plain(f, true);
	f->node_a.keeps = true;
	f->node_a.way = SYNC_FROM_PEER;
	assert_int_equal(mailbox_list_create(&f->a->user, "Own", &guid, 7, NULL), 0);
	fake_deliver(f->a, fake_find_box(f->a, "Own"), NULL, OLD);
	sync_pair(f);
	assert_non_null(fake_find_box(f->a, "Own"));
	assert_null(fake_find_box(f->b, "Own"));
	assert_int_equal(fake_find_box(f->a, "Own")->mail_count, 1);
	expect_nothing_to_do(f);
}

/* A backup with a filter takes nothing away that the source has and the filter does not take. */
static void backup_by_date(void **state)
{
	struct fake_pair *f = *state;

	set_plain(f, true);
	f->node_a.way = SYNC_TO_PEER;
	fake_deliver(f->a, inbox(f->a), NULL, OLD);
	sync_pair(f);
	fake_deliver(f->a, inbox(f->a), NULL, OLD);
	f->node_a.filter.since = f->clock + 1;
	fake_deliver(f->a, inbox(f->a), NULL, NEW);
	sync_pair(f);
	assert_int_equal(count(f->b, OLD) + count(f->b, NEW) * 10, 11);
	expect_nothing_to_do(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(nodes_by_date, setup, fake_pair_teardown),
		cmocka_unit_test_setup_teardown(two_commands_by_date, setup, fake_pair_teardown),
		cmocka_unit_test_setup_teardown(by_size_and_flag, setup, fake_pair_teardown),
		cmocka_unit_test_setup_teardown(no_state_is_saved, setup, fake_pair_teardown),
		cmocka_unit_test_setup_teardown(once_to_the_slave, setup, fake_pair_teardown),
		cmocka_unit_test_setup_teardown(once_to_the_master, setup, fake_pair_teardown),
		cmocka_unit_test_setup_teardown(once_with_a_folder_of_its_own, setup,
						fake_pair_teardown),
		cmocka_unit_test_setup_teardown(backup_by_date, setup, fake_pair_teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
