/*
 * Large mailboxes between two dsyncfs nodes: one that is filled as a stream, and two that are
 * compared by blocks. Stores are in memory; random histories of both kinds are in
 * test_brain_random.c.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/sync/fake_pair.h"

#define MAILS 2500

static struct fake_box *inbox(struct fake_account *account)
{
	return box_of(account, "INBOX");
}

/* guid says the UID. */
static void deliver(struct fake_account *account, unsigned count)
{
	char guid[32];

	for (unsigned i = 0; i < count; i++) {
		snprintf(guid, sizeof(guid), "guid-%u", inbox(account)->status.uid_next);
		fake_deliver(account, inbox(account), guid, "Subject: x\n\nbody\n");
	}
}

static void expect_own_uids(struct fake_account *account, unsigned first, unsigned last)
{
	char guid[32];

	for (unsigned uid = first; uid <= last; uid++) {
		const struct fake_mail *mail = fake_find_mail(inbox(account), uid);

		assert_non_null(mail);
		snprintf(guid, sizeof(guid), "guid-%u", uid);
		assert_string_equal(mail->guid, guid);
	}
}

static void expect_idle(struct fake_pair *f)
{
	unsigned begins = f->a->begin_count + f->b->begin_count;

	for (int full = 0; full < 2; full++) {
		run_session(&f->node_a, &f->node_b, full ? SYNC_FULL : SYNC_CHANGED, &f->results);
		assert_int_equal(f->results.master.outcome, SYNC_DONE);
		assert_int_equal(f->results.master.mails_sent + f->results.slave.mails_sent, 0);
		assert_int_equal(f->a->begin_count + f->b->begin_count, begins);
	}
}

/* Messages with MODSEQs that the empty mailbox has passed by then get others, on both sides. */
static void an_empty_one_is_filled(void **state)
{
	struct fake_pair *f = *state;

	deliver(f->a, MAILS);
	for (size_t i = 0; i < MAILS / 2; i++)
		inbox(f->a)->mails[i].modseq = 2;
	for (uint32_t uid = 1; uid <= MAILS; uid += 7)
		fake_flags(inbox(f->a), uid, MAIL_SEEN, 0);
	for (uint32_t uid = 2; uid <= MAILS; uid += 100)
		fake_keyword(inbox(f->a), uid, "work", true);
	uint64_t late = fake_find_mail(inbox(f->a), MAILS - 3)->modseq;
	uint64_t highest = inbox(f->a)->status.highest_modseq;
	run_session(&f->node_b, &f->node_a, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	assert_int_equal(f->results.slave.mails_sent, MAILS);
	assert_null(fake_accounts_differ(f->a, f->b, true));
	expect_own_uids(f->b, 1, MAILS);
	/* No client of the giver is told of changes that are none. */
	assert_int_equal(fake_find_mail(inbox(f->a), MAILS - 3)->modseq, late);
	assert_int_equal(inbox(f->a)->status.highest_modseq, highest);
	expect_idle(f);
}

static void deliver_at_second_part(struct fake_account *account, const char *mailbox)
{
	if (account->begin_count < 2)
		return;
	account->on_begin = NULL;
	fake_deliver(account, fake_find_box(account, mailbox), "foreign", "came in between\n");
}

/* A delivery into the mailbox that is being filled ends that, and only what has the same UID moves.
 */
static void a_delivery_in_between(void **state)
{
	struct fake_pair *f = *state;

	f->node_a.block_uids = f->node_b.block_uids = 100;
	sync_until_equal(f, SYNC_CHANGED);
	deliver(f->a, MAILS);
	f->b->begin_count = 0;
	f->b->on_begin = deliver_at_second_part;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_AGAIN);
	assert_int_equal(f->results.slave.outcome, SYNC_AGAIN);
	assert_int_equal(inbox(f->b)->mail_count, 1001);
	uint64_t bytes = f->results.bytes;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.master.mails_sent, MAILS - 1000);
	assert_int_equal(f->results.slave.mails_sent, 1);
	/* What had come was not listed again. */
	assert_in_range(f->results.bytes, 1, bytes * 5 / 6);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(inbox(f->a)->mail_count, MAILS + 1);
	expect_own_uids(f->a, 1, 1000);
	expect_own_uids(f->a, 1002, MAILS);
	expect_idle(f);
}

static void flag_at_body(struct fake_account *account, const char *mailbox)
{
	account->on_body = NULL;
	fake_flags(fake_find_box(account, mailbox), 5, MAIL_FLAGGED, 0);
}

/* What changes at the giver meanwhile is still owed when the giver has written itself. */
static void a_change_at_the_giver(void **state)
{
	struct fake_pair *f = *state;

	deliver(f->a, MAILS);
	inbox(f->a)->mails[0].modseq = 1;
	f->a->on_body = flag_at_body;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	assert_int_equal(fake_find_mail(inbox(f->b), 5)->flags, 0);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(fake_find_mail(inbox(f->b), 5)->flags, MAIL_FLAGGED);
	expect_idle(f);
}

/* A side that cannot read its mailbox to the end: UIDNEXT stays below what has not come. */
static void the_giver_fails(void **state)
{
	struct fake_pair *f = *state;

	sync_until_equal(f, SYNC_CHANGED);
	deliver(f->a, MAILS);
	f->a->reads_left = 1500;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_FAILED);
	assert_int_equal(inbox(f->b)->status.uid_next, 1001);
	f->a->reads_left = -1;
	sync_until_equal(f, SYNC_CHANGED);
	expect_own_uids(f->b, 1, MAILS);
	expect_idle(f);
}

/* Whenever it ends: what has come stays as it is, and nothing gets another UID. */
static void cut_anywhere(void **state)
{
	for (uint64_t at = 5000; at < 400000; at += 23456) {
		fake_pair_teardown(state);
		fake_pair_setup(state);
		struct fake_pair *f = *state;

		deliver(f->a, MAILS);
		run_session_cut(&f->node_a, &f->node_b, SYNC_CHANGED, true, at, &f->results);
		size_t there = inbox(f->b)->mail_count;
		sync_until_equal(f, SYNC_CHANGED);
		assert_true(there <= MAILS);
		expect_own_uids(f->a, 1, MAILS);
		expect_own_uids(f->b, 1, MAILS);
		expect_idle(f);
	}
}

/* The disk is full for a while: UIDNEXT stays below what has not come. */
static void full_disk(void **state)
{
	struct fake_pair *f = *state;

	deliver(f->a, MAILS);
	f->b->spool_bytes_left = 1500 * 17;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.slave.outcome, SYNC_FAILED);
	assert_int_equal(inbox(f->b)->status.uid_next, 1001);
	f->b->spool_bytes_left = -1;
	sync_until_equal(f, SYNC_CHANGED);
	expect_own_uids(f->b, 1, MAILS);
	expect_idle(f);
}

static void lose_states(struct fake_pair *f)
{
	f->node_a.state_count = f->node_b.state_count = 0;
}

/* Without any state, two mailboxes that are equal cost a line for each block. */
static void blocks_that_are_equal(void **state)
{
	struct fake_pair *f = *state;

	deliver(f->a, MAILS);
	sync_until_equal(f, SYNC_CHANGED);
	lose_states(f);
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	assert_in_range(f->results.bytes, 1, 6000);
	expect_idle(f);
}

/* And what differs is found, in whatever it does, and nothing else is listed. */
static void blocks_that_differ(void **state)
{
	struct fake_pair *f = *state;

	f->node_a.block_uids = f->node_b.block_uids = 10;
	deliver(f->a, MAILS);
	sync_until_equal(f, SYNC_CHANGED);
	lose_states(f);
	fake_flags(inbox(f->a), 777, MAIL_FLAGGED, 0);
	fake_keyword(inbox(f->b), 1234, "work", true);
	fake_expunge(inbox(f->a), 2000);
	deliver(f->b, 1);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(fake_find_mail(inbox(f->b), 777)->flags, MAIL_FLAGGED);
	assert_int_equal(fake_find_mail(inbox(f->a), 1234)->keywords.count, 1);
	assert_null(fake_find_mail(inbox(f->b), 2000));
	expect_own_uids(f->a, MAILS + 1, MAILS + 1);
	expect_idle(f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_pair_setup, fake_pair_teardown)
	const struct CMUnitTest tests[] = {
		TEST(an_empty_one_is_filled), TEST(a_delivery_in_between),
		TEST(a_change_at_the_giver),  TEST(the_giver_fails),
		TEST(cut_anywhere),	      TEST(full_disk),
		TEST(blocks_that_are_equal),  TEST(blocks_that_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
