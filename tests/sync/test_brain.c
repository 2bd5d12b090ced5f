/*
 * Two brains against each other over stores in memory: each kind of change, each kind of session,
 * and what happens when something goes wrong. Changes in the middle of a session are in
 * test_brain_concurrent.c, lost states in test_brain_evidence.c, random histories in
 * test_brain_random.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include "tests/sync/fake_pair.h"

static void one_new_mail(void **state)
{
	struct fake_pair *f = *state;

	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: one\n\n.body\n..\n.\nend\n");
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 1);
	expect_quiet(f);
}

static void new_mail_on_both(void **state)
{
	struct fake_pair *f = *state;

	for (int i = 0; i < 3; i++) {
		fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: a\n\nx\n");
		fake_deliver(f->b, box_of(f->b, "INBOX"), NULL, "Subject: b\n\ny");
	}
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 6);
	expect_quiet(f);
}

/* Dovecot's defect 10: both sides made equally many changes, so all numbers are equal. */
static void equal_numbers_hide_nothing(void **state)
{
	struct fake_pair *f = *state;

	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: a\n\nx\n");
	fake_deliver(f->b, box_of(f->b, "INBOX"), NULL, "Subject: b\n\ny");
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "INBOX")->mail_count, 2);
	fake_flags(box_of(f->a, "INBOX"), box_of(f->a, "INBOX")->mails[0].uid, MAIL_SEEN, 0);
	fake_flags(box_of(f->b, "INBOX"), box_of(f->b, "INBOX")->mails[1].uid, MAIL_FLAGGED, 0);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "INBOX")->mails[0].flags, MAIL_SEEN);
	assert_int_equal(box_of(f->a, "INBOX")->mails[1].flags, MAIL_FLAGGED);
	expect_quiet(f);
}

static void flags_keywords_and_expunges(void **state)
{
	struct fake_pair *f = *state;

	for (int i = 0; i < 4; i++)
		fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: a\n\nx\n");
	sync_until_equal(f, SYNC_CHANGED);
	fake_flags(box_of(f->a, "INBOX"), 1, MAIL_SEEN | MAIL_FLAGGED, 0);
	fake_keyword(box_of(f->b, "INBOX"), 1, "$Label1", true);
	fake_keyword(box_of(f->b, "INBOX"), 2, "work", true);
	fake_expunge(box_of(f->a, "INBOX"), 3);
	fake_expunge(box_of(f->b, "INBOX"), 4);
	fake_flags(box_of(f->a, "INBOX"), 4, MAIL_SEEN, 0);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 2);
	assert_int_equal(box_of(f->b, "INBOX")->mails[0].flags, MAIL_SEEN | MAIL_FLAGGED);
	assert_int_equal(box_of(f->a, "INBOX")->mails[0].keywords.count, 1);
	fake_keyword(box_of(f->a, "INBOX"), 2, "work", false);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->b, "INBOX")->mails[1].keywords.count, 0);
	expect_quiet(f);
}

static void folders(void **state)
{
	struct fake_pair *f = *state;
	struct error err;

	assert_int_equal(mailbox_list_create(&f->a->user, "Work/\xc3\xa4\xc3\xb6", NULL, 0, &err),
			 0);
	assert_int_equal(mailbox_list_create(&f->b->user, "Other", NULL, 0, &err), 0);
	assert_int_equal(mailbox_list_create(&f->a->user, "Same", NULL, 0, &err), 0);
	assert_int_equal(mailbox_list_create(&f->b->user, "Same", NULL, 0, &err), 0);
	fake_deliver(f->a, box_of(f->a, "Same"), NULL, "from a\n");
	fake_deliver(f->b, box_of(f->b, "Same"), NULL, "from b\n");
	assert_int_equal(mailbox_list_subscribe(&f->a->user, "Other", true, &err), 0);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->a, "Same")->mail_count, 2);
	assert_int_equal(f->b->subscription_count, 1);
	assert_int_equal(mailbox_list_rename(&f->b->user, "Other", "Else", 0, &err), 0);
	struct guid guid = box_of(f->a, "Same")->status.guid;
	assert_int_equal(mailbox_list_delete(&f->a->user, "Same", &guid, &err), 0);
	sync_until_equal(f, SYNC_CHANGED);
	assert_null(fake_find_box(f->b, "Same"));
	assert_non_null(fake_find_box(f->a, "Else"));
	/* Nothing is remembered of what is gone on both sides. */
	for (size_t i = 0; i < f->node_a.state_count; i++)
		assert_false(guid_equal(&f->node_a.states[i].guid, &guid));
	for (size_t i = 0; i < f->node_b.state_count; i++)
		assert_false(guid_equal(&f->node_b.states[i].guid, &guid));
	expect_quiet(f);
}

static void only_the_changed_boxes(void **state)
{
	struct fake_pair *f = *state;
	struct error err;
	struct stream *a, *b;

	assert_int_equal(mailbox_list_create(&f->a->user, "Work", NULL, 0, &err), 0);
	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->a, box_of(f->a, "Work"), NULL, "new\n");
	struct sync_box boxes[1] = {{.guid = box_of(f->a, "Work")->status.guid, .name = "Work"}};
	assert_int_equal(stream_new_pair(NULL, &a, &b, &err), 0);
	unsigned opens = f->b->open_count;
	run_session_on(a, b, &f->node_a, &f->node_b, SYNC_BOXES, boxes, 1, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	assert_int_equal(f->results.slave.outcome, SYNC_DONE);
	assert_int_equal(f->results.master.mails_sent, 1);
	assert_int_equal(f->b->open_count, opens + 1);
	expect_equal(f);
	stream_free(&a);
	stream_free(&b);
	expect_quiet(f);
}

/* A client moves messages into another folder: their bodies are there already. What a log cannot
 * tell about, or is not there any more, is sent. */
static void moved_messages_do_not_travel(void **state)
{
	struct fake_pair *f = *state;
	struct error err;
	struct stream *a, *b;

	assert_int_equal(mailbox_list_create(&f->a->user, "Archive", NULL, 0, &err), 0);
	for (int i = 0; i < 5; i++)
		fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: moved\n\nbody\n");
	sync_until_equal(f, SYNC_CHANGED);
	for (int i = 0; i < 3; i++) {
		const struct fake_mail *mail = &box_of(f->a, "INBOX")->mails[0];
		uint32_t uid = fake_deliver(f->a, box_of(f->a, "Archive"), mail->guid, mail->body);

		fake_find_mail(box_of(f->a, "Archive"), uid)->received = mail->received;
		fake_expunge(box_of(f->a, "INBOX"), mail->uid);
	}
	fake_deliver(f->a, box_of(f->a, "Archive"), NULL, "Subject: new\n\nx\n");
	/* The peer has lost one of them meanwhile. */
	fake_expunge(box_of(f->b, "INBOX"), box_of(f->b, "INBOX")->mails[0].uid);
	struct sync_box boxes[2] = {
		{.guid = box_of(f->a, "INBOX")->status.guid, .name = "INBOX"},
		{.guid = box_of(f->a, "Archive")->status.guid, .name = "Archive"}};
	assert_int_equal(stream_new_pair(NULL, &a, &b, &err), 0);
	run_session_on(a, b, &f->node_a, &f->node_b, SYNC_BOXES, boxes, 2, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	assert_int_equal(f->results.slave.outcome, SYNC_DONE);
	assert_int_equal(f->results.master.mails_sent, 2);
	assert_int_equal(box_of(f->b, "Archive")->mail_count, 4);
	expect_equal(f);
	stream_free(&a);
	stream_free(&b);
	expect_quiet(f);
}

/* The wire of a small mail between two nodes that know each other. */
static void repeated_sessions_are_small(void **state)
{
	struct fake_pair *f = *state;
	struct error err;
	struct stream *a, *b;
	char body[2101];

	memset(body, 'x', sizeof(body) - 1);
	body[sizeof(body) - 1] = '\0';
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(stream_new_pair(NULL, &a, &b, &err), 0);
	for (int i = 0; i < 3; i++) {
		fake_deliver(f->a, box_of(f->a, "INBOX"),
			     "1795327226.M492258P31607.host,S=2100,W=2150", body);
		struct sync_box boxes[1] = {
			{.guid = box_of(f->a, "INBOX")->status.guid, .name = "INBOX"}};
		if (i > 0)
			snprintf(box_of(f->a, "INBOX")->mails[i].guid, 64,
				 "1795327226.M49225%dP31607.host,S=2100,W=2150", i);
		run_session_on(a, b, &f->node_a, &f->node_b, SYNC_BOXES, boxes, 1, &f->results);
		assert_int_equal(f->results.master.outcome, SYNC_DONE);
		assert_int_equal(f->results.slave.outcome, SYNC_DONE);
		expect_equal(f);
		print_message("session %d: %lu bytes on the wire\n", i,
			      (unsigned long)f->results.bytes);
		if (i > 0)
			assert_true(f->results.bytes < 3000);
	}
	/* The other direction, and an empty one, on the same connection. */
	fake_deliver(f->b, box_of(f->b, "INBOX"), NULL, body);
	run_session_on(a, b, &f->node_a, &f->node_b, SYNC_CHANGED, NULL, 0, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	expect_equal(f);
	run_session_on(a, b, &f->node_a, &f->node_b, SYNC_CHANGED, NULL, 0, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	print_message("nothing to do: %lu bytes\n", (unsigned long)f->results.bytes);
	stream_free(&a);
	stream_free(&b);
}

static void box_that_the_peer_lacks(void **state)
{
	struct fake_pair *f = *state;
	struct error err;
	struct stream *a, *b;

	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(mailbox_list_create(&f->a->user, "New", NULL, 0, &err), 0);
	fake_deliver(f->a, box_of(f->a, "New"), NULL, "new\n");
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	struct sync_box boxes[2] = {{.guid = box_of(f->a, "New")->status.guid, .name = "New"},
				    {.guid = box_of(f->a, "INBOX")->status.guid, .name = "INBOX"}};
	assert_int_equal(stream_new_pair(NULL, &a, &b, &err), 0);
	run_session_on(a, b, &f->node_a, &f->node_b, SYNC_BOXES, boxes, 2, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_NEED_TREE);
	/* The other one was synced all the same, and the connection is good for the next. */
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 1);
	run_session_on(a, b, &f->node_a, &f->node_b, SYNC_CHANGED, NULL, 0, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	expect_equal(f);
	stream_free(&a);
	stream_free(&b);
}

/* Listed under a GUID that it has no more: the list is old, and only a look at the tree ends that.
 */
static void box_that_was_replaced(void **state)
{
	struct fake_pair *f = *state;
	struct sync_box listed = {.guid = {{1, 2, 3}}, .name = "INBOX"};
	struct stream *a, *b;
	struct error err = {0};

	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(stream_new_pair(NULL, &a, &b, &err), 0);
	run_session_on(a, b, &f->node_a, &f->node_b, SYNC_BOXES, &listed, 1, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_NEED_TREE);
	stream_free(&a);
	stream_free(&b);
}

/* ---- bad luck ---- */

static void full_disk_is_told_and_others_go_on(void **state)
{
	struct fake_pair *f = *state;
	struct error err;

	assert_int_equal(mailbox_list_create(&f->a->user, "Alpha", NULL, 0, &err), 0);
	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->a, box_of(f->a, "Alpha"), NULL, "a large message, larger than the disk\n");
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "small\n");
	f->b->spool_bytes_left = 10;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->results.slave.outcome, SYNC_FAILED);
	assert_int_equal(f->results.slave_ret, -ENOSPC);
	assert_non_null(strstr(f->results.slave.reason, "Alpha"));
	/* The other side is told why. */
	assert_int_equal(f->results.master.outcome, SYNC_FAILED);
	assert_non_null(strstr(f->results.master.reason, "no space"));
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 1);
	assert_int_equal(box_of(f->b, "Alpha")->mail_count, 0);
	f->b->spool_bytes_left = -1;
	sync_until_equal(f, SYNC_CHANGED);
	expect_quiet(f);
}

static void damaged_mailbox_is_rebuilt_once(void **state)
{
	struct fake_pair *f = *state;

	sync_until_equal(f, SYNC_CHANGED);
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	box_of(f->b, "INBOX")->damaged = true;
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(f->b->rebuild_count, 1);
}

static void many_mails_in_batches(void **state)
{
	struct fake_pair *f = *state;

	for (int i = 0; i < 2500; i++) {
		fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: x\n\nbody\n");
		if (i % 3 == 0)
			fake_flags(box_of(f->a, "INBOX"), (uint32_t)i + 1, MAIL_SEEN, 0);
	}
	fake_deliver(f->b, box_of(f->b, "INBOX"), NULL, "from b\n");
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 2501);
	expect_quiet(f);
}

/* What a session looks at follows from what changed, not from what is there. */
static void a_session_reads_what_changed(void **state)
{
	struct fake_pair *f = *state;

	for (int i = 0; i < 1000; i++)
		fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: x\n\nbody\n");
	sync_until_equal(f, SYNC_CHANGED);
	f->a->mails_read = f->b->mails_read = 0;
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: new\n\nbody\n");
	fake_flags(box_of(f->b, "INBOX"), 500, MAIL_SEEN, 0);
	fake_expunge(box_of(f->a, "INBOX"), 20);
	sync_until_equal(f, SYNC_CHANGED);
	assert_in_range(f->a->mails_read + f->b->mails_read, 1, 20);
	f->a->mails_read = f->b->mails_read = 0;
	run_session(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results);
	assert_int_equal(f->a->mails_read + f->b->mails_read, 0);
}

/* A plain dsync peer (both brains say nothing of dsyncfs): Dovecot's rules on the wire. */
static void without_extensions(void **state)
{
	struct fake_pair *f = *state;

	f->node_a.plain = f->node_b.plain = true;
	for (int i = 0; i < 3; i++)
		fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "new\n");
	if (run_until_done(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results) < 0)
		fail_msg("no end: %s / %s", f->results.master.reason, f->results.slave.reason);
	fake_flags(box_of(f->b, "INBOX"), 1, MAIL_SEEN, 0);
	fake_expunge(box_of(f->a, "INBOX"), 2);
	fake_deliver(f->b, box_of(f->b, "INBOX"), NULL, "new on b\n");
	if (run_until_done(&f->node_a, &f->node_b, SYNC_CHANGED, &f->results) < 0)
		fail_msg("no end: %s / %s", f->results.master.reason, f->results.slave.reason);
	const char *differ = fake_accounts_differ(f->a, f->b, false);
	if (differ != NULL)
		fail_msg("the accounts differ: %s", differ);
	assert_int_equal(box_of(f->a, "INBOX")->mail_count, 3);
}

/* ---- bad peers ---- */

static void garbage_ends_the_session_with_a_reason(void **state)
{
	static const char *const inputs[] = {
		"",
		"\n",
		"GET / HTTP/1.1\r\n\r\n",
		"VERSION\tdsync\t4\t0\n.\n",
		"VERSION\tdsync\t3\t5\n.\n",
		"VERSION\tdsync\t3\t5\nHhostname\n",
		"VERSION\tdsync\t3\t5\nHsync_type\n.\n",
	};
	struct fake_pair *f = *state;
	struct sync_host host = {0};
	struct sync_options options = {
		.role = SYNC_SLAVE, .hostname = "x", .node_id = f->node_a.id};

	for (size_t i = 0; i < sizeof(inputs) / sizeof(inputs[0]); i++) {
		struct stream *stream;
		struct error err = {0};
		struct sync_result result;

		assert_int_equal(
			stream_new_memory(inputs[i], strlen(inputs[i]), NULL, &stream, &err), 0);
		assert_true(sync_run(stream, &f->a->user, &options, &host, &result, &err) < 0);
		assert_int_equal(result.outcome, SYNC_FAILED);
		assert_true(strlen(result.reason) > 0);
		const struct buf *written = stream_written(stream);
		assert_true(written->len > 2);
		assert_string_equal(written->data + written->len - 2, "X\n");
		stream_free(&stream);
	}
}

static void cut_anywhere_then_clean(void **state)
{
	struct fake_pair *f = *state;

	(void)f;
	for (int direction = 0; direction < 2; direction++) {
		for (uint64_t at = 1; at < 4000; at += 61) {
			fake_pair_teardown(state);
			fake_pair_setup(state);
			f = *state;
			fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "one\n");
			sync_until_equal(f, SYNC_CHANGED);
			fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "two\n");
			fake_deliver(f->b, box_of(f->b, "INBOX"), NULL, "three\n");
			fake_flags(box_of(f->b, "INBOX"), 1, MAIL_SEEN, 0);
			run_session_cut(&f->node_a, &f->node_b, SYNC_CHANGED, direction == 0, at,
					&f->results);
			sync_until_equal(f, SYNC_CHANGED);
			assert_int_equal(box_of(f->a, "INBOX")->mail_count, 3);
			assert_int_equal(box_of(f->a, "INBOX")->mails[0].flags, MAIL_SEEN);
			expect_quiet(f);
		}
	}
}

/* Of what comes over a broken line nothing is kept: the next session brings it. */
static void a_body_damaged_on_its_way(void **state)
{
	struct fake_pair *f = *state;

	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: whole\n\nx\n");
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: broken\n\nfragile\n");
	fake_deliver(f->a, box_of(f->a, "INBOX"), NULL, "Subject: whole\n\ny\n");
	test_damaged_text = "fragile";
	run_session_cut(&f->node_a, &f->node_b, SYNC_CHANGED, true, UINT64_MAX, &f->results);
	assert_null(test_damaged_text);
	assert_int_equal(f->results.slave.outcome, SYNC_AGAIN);
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 2);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(box_of(f->b, "INBOX")->mail_count, 3);
	expect_quiet(f);
}

/* a's clock is right, b's an hour ahead. What a does later wins all the same, whoever starts. */
static void renames_by_clocks_that_differ(void **state)
{
	struct fake_pair *f = *state;
	struct guid guid;

	f->clock = 1700000000;
	guid_generate(&guid);
	assert_int_equal(mailbox_list_create(&f->b->user, "Before", &guid, 7, NULL), 0);
	sync_until_equal(f, SYNC_CHANGED);
	assert_int_equal(mailbox_list_rename(&f->b->user, "Before", "By b", 0, NULL), 0);
	fake_find_box(f->b, "By b")->renamed = 1700000010 + 3600;
	assert_int_equal(mailbox_list_rename(&f->a->user, "Before", "By a", 0, NULL), 0);
	fake_find_box(f->a, "By a")->renamed = 1700000020;
	f->node_a.now = 1700000030;
	f->node_b.now = 1700000030 + 3600;
	sync_until_equal(f, SYNC_CHANGED);
	assert_non_null(fake_find_box(f->a, "By a"));
	assert_null(fake_find_box(f->a, "By b"));

	assert_int_equal(mailbox_list_rename(&f->a->user, "By a", "Again a", 0, NULL), 0);
	fake_find_box(f->a, "Again a")->renamed = 1700000040;
	assert_int_equal(mailbox_list_rename(&f->b->user, "By a", "Again b", 0, NULL), 0);
	fake_find_box(f->b, "Again b")->renamed = 1700000035 + 3600;
	if (run_until_done(&f->node_b, &f->node_a, SYNC_CHANGED, &f->results) < 0)
		fail_msg("no end: %s", f->results.master.reason);
	expect_equal(f);
	assert_non_null(fake_find_box(f->b, "Again a"));
}

/* A clock, or a time of a folder, that no machine has: the session ends as any other. */
static void clocks_that_cannot_be(void **state)
{
	struct fake_pair *f = *state;

	f->clock = 1700000000;
	assert_int_equal(mailbox_list_create(&f->b->user, "Far", NULL, 7, NULL), 0);
	assert_int_equal(mailbox_list_create(&f->a->user, "Far a", NULL, 7, NULL), 0);
	fake_find_box(f->b, "Far")->renamed = INT64_MAX;
	fake_find_box(f->a, "Far a")->renamed = INT64_MAX;
	f->node_a.now = 1700000000 + 7200;
	f->node_b.now = 1700000000;
	sync_until_equal(f, SYNC_CHANGED);
	f->node_a.now = 1700000000;
	f->node_b.now = INT64_MAX;
	sync_until_equal(f, SYNC_FULL);
	f->node_a.now = INT64_MAX;
	f->node_b.now = 1;
	sync_until_equal(f, SYNC_FULL);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fake_pair_setup, fake_pair_teardown)
	const struct CMUnitTest tests[] = {
		TEST(one_new_mail),
		TEST(renames_by_clocks_that_differ),
		TEST(clocks_that_cannot_be),
		TEST(a_body_damaged_on_its_way),
		TEST(moved_messages_do_not_travel),
		TEST(new_mail_on_both),
		TEST(equal_numbers_hide_nothing),
		TEST(flags_keywords_and_expunges),
		TEST(folders),
		TEST(only_the_changed_boxes),
		TEST(repeated_sessions_are_small),
		TEST(box_that_the_peer_lacks),
		TEST(box_that_was_replaced),
		TEST(full_disk_is_told_and_others_go_on),
		TEST(damaged_mailbox_is_rebuilt_once),
		TEST(many_mails_in_batches),
		TEST(a_session_reads_what_changed),
		TEST(without_extensions),
		TEST(garbage_ends_the_session_with_a_reason),
		TEST(cut_anywhere_then_clean),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
