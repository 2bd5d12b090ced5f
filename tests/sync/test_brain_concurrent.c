/*
 * Two brains over stores in memory: what others do to a mailbox in the middle of a session, and the
 * same UID given on both sides. Nothing of it is lost, and the next session finds it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/sync/fake_pair.h"

static void busy_ends_in_agreement(void **state)
{
	struct fake_pair *f = *state;
	struct error err;
	struct stream *a, *b;

	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	assert_int_equal(stream_new_pair(NULL, &a, &b, &err), 0);
	for (int round = 0; round < 2; round++) {
		f->node_b.busy = round == 0;
		f->node_a.busy = round == 1;
		run_session_on(a, b, &f->node_a, &f->node_b, SYNC_CHANGED, NULL, 0, &f->results);
		assert_int_equal(f->results.master_ret, 0);
		assert_int_equal(f->results.slave_ret, 0);
		assert_int_equal(f->results.master.outcome, SYNC_BUSY);
		assert_int_equal(f->results.slave.outcome, SYNC_BUSY);
	}
	f->node_a.busy = f->node_b.busy = false;
	run_session_on(a, b, &f->node_a, &f->node_b, SYNC_CHANGED, NULL, 0, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	expect_equal(f);
	stream_free(&a);
	stream_free(&b);
}

static void a_mail_that_is_renamed_all_the_time_waits(void **state)
{
	struct fake_pair *f = *state;

	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "one\n");
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "two\n");
	f->a->busy_bodies = 1;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_AGAIN);
	assert_int_equal(box_of(f->a, "INBOX")->mail_count, 2);
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 1);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 2);
	expect_quiet(f);
}

static void deliver_at_begin(struct fake_account *account, const char *mailbox)
{
	account->on_begin = NULL;
	fake_deliver(account, fake_find_box(account, mailbox), "foreign-1", "came in between\n");
}

/* A UID that was planned for the peer's message is taken by a delivery: the peer has seen neither.
 */
static void delivery_in_between(void **state)
{
	struct fake_pair *f = *state;

	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	f->b->on_begin = deliver_at_begin;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.slave.outcome, SYNC_AGAIN);
	assert_int_equal(f->results.master.outcome, SYNC_AGAIN);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "INBOX")->mail_count, 2);
	expect_quiet(f);
}

static void flag_at_begin(struct fake_account *account, const char *mailbox)
{
	account->on_begin = NULL;
	fake_flags(fake_find_box(account, mailbox), 1, MAIL_ANSWERED, 0);
}

/* A change that does not collide is kept, and owed to the peer. */
static void flag_in_between(void **state)
{
	struct fake_pair *f = *state;

	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	sync_until_equal(f, SYNC_CHANGED);
	fake_flags(box_of(f->a, "INBOX"), 1, MAIL_SEEN, 0);
	f->b->on_begin = flag_at_begin;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(box_of(f->b, "INBOX")->mails[0].flags, MAIL_SEEN | MAIL_ANSWERED);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "INBOX")->mails[0].flags, MAIL_SEEN | MAIL_ANSWERED);
	expect_quiet(f);
}

static uint64_t seen_modseq;

static void see_at_begin(struct fake_account *account, const char *mailbox)
{
	struct fake_box *box = fake_find_box(account, mailbox);

	account->on_begin = NULL;
	for (int i = 0; i < 20; i++)
		fake_flags(box, 1, i % 2 ? 0 : MAIL_FLAGGED, i % 2 ? MAIL_FLAGGED : 0);
	fake_flags(box, 1, MAIL_SEEN, 0);
	seen_modseq = box->mails[0].modseq;
}

/* A client sets here, meanwhile, just what the peer's client has set: who knows the MODSEQ before
 * that has to be told of it, by a MODSEQ that does not go back. */
static void the_same_flag_in_between(void **state)
{
	struct fake_pair *f = *state;

	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	sync_until_equal(f, SYNC_CHANGED);
	fake_flags(box_of(f->a, "INBOX"), 1, MAIL_SEEN, 0);
	f->b->on_begin = see_at_begin;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_true(box_of(f->b, "INBOX")->mails[0].modseq >= seen_modseq);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "INBOX")->mails[0].flags, MAIL_SEEN);
	expect_quiet(f);
}

static void answer_second_at_begin(struct fake_account *account, const char *mailbox)
{
	account->on_begin = NULL;
	fake_flags(fake_find_box(account, mailbox), 2, MAIL_ANSWERED, 0);
}

static void expunge_second_at_begin(struct fake_account *account, const char *mailbox)
{
	account->on_begin = NULL;
	fake_expunge(fake_find_box(account, mailbox), 2);
}

static void both_deliver_uid_2(struct fake_pair *f)
{
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "first\n");
	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->a, box_of(f->a, "INBOX"), "from-a", "from a\n");
	fake_deliver(f->b, box_of(f->b, "INBOX"), "from-b", "from b\n");
}

/* Both messages get another UID; what happens to one under the old UID is not lost. */
static void flag_on_a_message_that_moves(void **state)
{
	struct fake_pair *f = *state;

	both_deliver_uid_2(f);
	f->b->on_begin = answer_second_at_begin;
	sync_until_equal(f, SYNC_CHANGED);
	struct fake_box *inbox = box_of(f->a, "INBOX");
	assert_int_equal(inbox->mail_count, 3);
	for (size_t i = 0; i < inbox->mail_count; i++)
		assert_int_equal(inbox->mails[i].flags,
				 strcmp(inbox->mails[i].guid, "from-b") == 0 ? MAIL_ANSWERED : 0);
	expect_quiet(f);
}

static void expunge_of_a_message_that_moves(void **state)
{
	struct fake_pair *f = *state;

	both_deliver_uid_2(f);
	f->b->on_begin = expunge_second_at_begin;
	sync_until_equal(f, SYNC_CHANGED);
	struct fake_box *inbox = box_of(f->a, "INBOX");
	assert_int_equal(inbox->mail_count, 2);
	assert_string_equal(inbox->mails[1].guid, "from-a");
	expect_quiet(f);
}

/* Its MODSEQ is taken when the new message comes: the numbers agree in the end. */
static void flag_while_a_message_comes(void **state)
{
	struct fake_pair *f = *state;

	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "first\n");
	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	f->b->on_begin = flag_at_begin;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "INBOX")->mails[0].flags, MAIL_ANSWERED);
	expect_quiet(f);
}

/* A client has seen both messages that have one UID: under new ones they are not recent again. */
static void what_was_seen_is_not_recent_again(void **state)
{
	struct fake_pair *f = *state;

	both_deliver_uid_2(f);
	box_of(f->a, "INBOX")->status.first_recent_uid = 3;
	box_of(f->b, "INBOX")->status.first_recent_uid = 3;
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "INBOX")->status.first_recent_uid,
			 box_of(f->a, "INBOX")->status.uid_next);
	expect_quiet(f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_pair_setup, fake_pair_teardown)
	const struct CMUnitTest tests[] = {
		TEST(busy_ends_in_agreement),
		TEST(a_mail_that_is_renamed_all_the_time_waits),
		TEST(delivery_in_between),
		TEST(flag_in_between),
		TEST(the_same_flag_in_between),
		TEST(flag_on_a_message_that_moves),
		TEST(expunge_of_a_message_that_moves),
		TEST(flag_while_a_message_comes),
		TEST(what_was_seen_is_not_recent_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
