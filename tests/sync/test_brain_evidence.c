/*
 * Two brains over stores in memory: what counts as an expunge once the index log, a tombstone, or
 * the state of the last session is gone.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/sync/fake_pair.h"

static void lost_state_restores_rather_than_removes(void **state)
{
	struct fake_pair *f = *state;

	for (int i = 0; i < 3; i++)
		fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	sync_until_equal(f, SYNC_CHANGED);
	/* One message is gone here without any evidence, and nobody remembers anything. */
	struct fake_box *inbox = box_of(f->b, "INBOX");
	fake_expunge(inbox, 2);
	inbox->log_count = 0;
	inbox->log_start = inbox->status.highest_modseq;
	f->node_a.state_count = f->node_b.state_count = 0;
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "INBOX")->mail_count, 3);
	expect_quiet(f);
}

static void a_peer_that_just_renamed_it_has_not_lost_it(void **state)
{
	struct fake_pair *f = *state;
	unsigned forgets;

	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->b, box_of(f->b, "INBOX"), NULL, "new\n");
	forgets = f->node_a.forgets + f->node_b.forgets;
	f->a->hidden = "INBOX";
	run_session(&f->node_b, &f->node_a, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_AGAIN);
	assert_int_equal(f->node_a.forgets + f->node_b.forgets, forgets);
	f->a->hidden = NULL;
	sync_until_equal(f, SYNC_CHANGED);
	expect_quiet(f);
}

/* The log of a box tells of nothing that has happened so far. */
static void rotate(struct fake_box *box)
{
	box->log_count = 0;
	box->log_start = box->status.highest_modseq;
}

/* As dsyncd's journal would have it, before the log forgets it. */
static struct sync_expunge bury(struct fake_box *box, uint32_t uid)
{
	struct sync_expunge expunge = {.uid = uid};

	guid_from_message_guid(fake_find_mail(box, uid)->guid, &expunge.guid);
	fake_expunge(box, uid);
	expunge.modseq = box->status.highest_modseq;
	return expunge;
}

static void tombstones_outlive_the_log(void **state)
{
	struct fake_pair *f = *state;
	struct fake_box *a = box_of(f->a, "INBOX"), *b = box_of(f->b, "INBOX");
	struct sync_expunge buried[4];

	for (int i = 0; i < 8; i++)
		fake_deliver(f->a, a, NULL, "new\n");
	sync_until_equal(f, SYNC_CHANGED);
	buried[0] = bury(a, 5);
	buried[1] = bury(a, 2);
	buried[2] = bury(a, 8);
	fake_flags(a, 4, MAIL_SEEN, 0);
	/* One that the log still tells, too; and one whose message is there again. */
	rotate(a);
	buried[3] = bury(a, 6);
	f->node_a.expunges = buried;
	f->node_a.expunge_count = 4;
	fake_flags(b, 2, MAIL_FLAGGED, 0);
	fake_flags(b, 3, MAIL_FLAGGED, 0);
	fake_deliver(f->b, b, NULL, "new at the other side\n");
	sync_until_equal(f, SYNC_CHANGED);
	assert_true(f->node_a.expunge_asks > 0);
	assert_int_equal(a->mail_count, 5);
	for (uint32_t uid = 1; uid <= 9; uid++) {
		bool gone = uid == 2 || uid == 5 || uid == 6 || uid == 8;

		assert_int_equal(fake_find_mail(b, uid) == NULL, gone);
	}
	assert_int_equal(fake_find_mail(a, 3)->flags, MAIL_FLAGGED);
	assert_int_equal(fake_find_mail(b, 4)->flags, MAIL_SEEN);
	f->node_a.expunge_count = 0;
	expect_quiet(f);
}

/* The other node has lost its state: all is compared, and the expunge counts there as well. */
static void tombstones_count_where_a_state_was_lost(void **state)
{
	struct fake_pair *f = *state;
	struct fake_box *a = box_of(f->a, "INBOX"), *b = box_of(f->b, "INBOX");
	struct sync_expunge buried;

	for (int i = 0; i < 3; i++)
		fake_deliver(f->a, a, NULL, "new\n");
	sync_until_equal(f, SYNC_CHANGED);
	buried = bury(a, 2);
	rotate(a);
	rotate(b);
	f->node_a.expunges = &buried;
	f->node_a.expunge_count = 1;
	f->node_b.state_count = 0;
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(b->mail_count, 2);
	assert_null(fake_find_mail(b, 2));
}

/* Of a mailbox that has gone back, or a message that has been put back, they say nothing. */
static void tombstones_of_another_history_do_not_count(void **state)
{
	struct fake_pair *f = *state;
	struct fake_box *a = box_of(f->a, "INBOX"), *b = box_of(f->b, "INBOX");
	struct sync_expunge others[4];

	for (int i = 0; i < 3; i++)
		fake_deliver(f->a, a, NULL, "new\n");
	sync_until_equal(f, SYNC_CHANGED);
	fake_flags(a, 1, MAIL_SEEN, 0);
	rotate(a);
	for (unsigned i = 0; i < 4; i++) {
		others[i] = (struct sync_expunge){.uid = i < 3 ? i + 1 : 7,
						  .modseq = a->status.highest_modseq};
		if (i < 3)
			guid_from_message_guid(fake_find_mail(a, i + 1)->guid, &others[i].guid);
	}
	others[1].modseq += 100;
	f->node_a.expunges = others;
	f->node_a.expunge_count = 4;
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(a->mail_count, 3);
	assert_int_equal(b->mail_count, 3);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_pair_setup, fake_pair_teardown)
	const struct CMUnitTest tests[] = {
		TEST(lost_state_restores_rather_than_removes),
		TEST(a_peer_that_just_renamed_it_has_not_lost_it),
		TEST(tombstones_outlive_the_log),
		TEST(tombstones_count_where_a_state_was_lost),
		TEST(tombstones_of_another_history_do_not_count),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
