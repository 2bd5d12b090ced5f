/*
 * Sessions in one direction over real Maildirs: random histories of a source and its copy, with
 * cuts. The copy becomes what the source is, and the source stays what it was, whichever of them
 * starts and wherever a session breaks off.
 *
 * DSYNCFS_TEST_SEED=n runs one history.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>
#include "store/base/file.h"
#include "store/mailbox_list.h"
#include "tests/sync/brain_pair.h"
#include "tests/sync/maildir_user.h"

#define HISTORIES  12
#define ROUNDS	   6
#define DUMP_BYTES ((size_t)64 << 20)

enum { SOURCE, COPY };

struct fixture {
	char root[256];
	struct mail_user users[2];
	struct test_node nodes[2];
	struct session_results results;
	uint32_t random;
	unsigned delivered;
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const char *tmp = getenv("TMPDIR");
	char home[300];

	snprintf(f->root, sizeof(f->root), "%s/brain-backup.XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(f->root) == NULL)
		return -1;
	for (int i = 0; i < 2; i++) {
		snprintf(home, sizeof(home), "%s/%s", f->root, i == SOURCE ? "source" : "copy");
		maildir_user_init(&f->users[i], home);
		test_node_init(&f->nodes[i], &f->users[i],
			       i == 0 ? "a.example.org" : "b.example.org");
		f->nodes[i].plain = true;
		f->nodes[i].allow_one_way = true;
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	maildir_user_remove_root(f->root);
	for (int i = 0; i < 2; i++)
		maildir_user_free(&f->users[i]);
	free(f);
	return 0;
}

static unsigned roll(struct fixture *f, unsigned sides)
{
	f->random = f->random * 1664525u + 1013904223u;
	return (f->random >> 8) % sides;
}

/* ---- what programs do ---- */

static void deliver(struct fixture *f, int side, const char *mailbox)
{
	char guid[64], body[64];

	snprintf(guid, sizeof(guid), "1795327226.M%uP%d.x", f->delivered, side);
	snprintf(body, sizeof(body), ".Subject: %u\n\ntext %u\n.\n", f->delivered, f->delivered);
	f->delivered++;
	maildir_user_deliver(&f->users[side], mailbox, guid, body);
}

static int collect_uid(void *ctx, const struct mail *mail)
{
	uint32_t *left_and_uid = ctx;

	left_and_uid[1] = mail->uid;
	return left_and_uid[0]-- == 0;
}

/* A message of the mailbox by its position from 0, 0: there is none. */
static uint32_t uid_at(struct fixture *f, int side, const char *mailbox, uint32_t position)
{
	uint32_t left_and_uid[2] = {position, 0};
	struct mailbox *box;
	struct error err;

	assert_int_equal(mailbox_open(&f->users[side], mailbox, &box, &err), 0);
	int found = mailbox_each(box, 1, UINT32_MAX, collect_uid, left_and_uid, &err);
	mailbox_close(&box);
	return found == 1 ? left_and_uid[1] : 0;
}

static bool has_mailbox(struct fixture *f, int side, const char *name, struct guid *guid_r)
{
	struct mailbox_tree tree;
	struct error err;
	bool incomplete, found = false;

	assert_int_equal(mailbox_list_read(&f->users[side], &tree, &incomplete, &err), 0);
	for (size_t i = 0; i < tree.node_count && !found; i++) {
		found = tree.nodes[i].exists && strcmp(tree.nodes[i].name, name) == 0;
		*guid_r = tree.nodes[i].guid;
	}
	mailbox_tree_free(&tree);
	return found;
}

static void change_messages(struct fixture *f, int side, const char *mailbox, bool may_expunge)
{
	uint32_t uid = uid_at(f, side, mailbox, roll(f, 6));
	static const char *const keywords[] = {NULL, "work", "$Label1"};

	if (uid == 0)
		return;
	if (may_expunge && roll(f, 3) == 0) {
		struct mailbox *box;
		struct mailbox_txn *txn;
		struct error err;

		assert_int_equal(mailbox_open(&f->users[side], mailbox, &box, &err), 0);
		assert_int_equal(mailbox_begin(box, &txn, &err), 0);
		assert_int_equal(mailbox_expunge(txn, uid, &err), 0);
		assert_int_equal(mailbox_commit(&txn, NULL, &err), 0);
		mailbox_close(&box);
	} else {
		maildir_user_flags(&f->users[side], mailbox, uid, (uint8_t)roll(f, 32),
				   keywords[roll(f, 3)]);
	}
}

static void change_folders(struct fixture *f, int side)
{
	static const char *const names[] = {"Work", "Work/sub", "Lists", "Old"};
	const char *name = names[roll(f, 4)], *other = names[roll(f, 4)];
	const struct mail_user *user = &f->users[side];
	struct error err;
	struct guid guid;

	if (!has_mailbox(f, side, name, &guid))
		assert_int_equal(mailbox_list_create(user, name, NULL, 0, &err), 0);
	else if (roll(f, 3) == 0)
		(void)mailbox_list_rename(user, name, other, 0, &err); /* may not be possible */
	else if (roll(f, 4) == 0)
		(void)mailbox_list_subscribe(user, name, roll(f, 2) == 0, &err);
	else if (roll(f, 4) == 0)
		assert_int_equal(mailbox_list_delete(user, name, &guid, &err), 0);
	else if (roll(f, 2) == 0)
		deliver(f, side, name);
	else
		change_messages(f, side, name, true);
}

static void change(struct fixture *f, int side)
{
	switch (roll(f, 4)) {
	case 0:
		/* What the copy's INBOX gives out cannot be taken back. */
		if (side == SOURCE)
			deliver(f, side, "INBOX");
		break;
	case 1:
		change_messages(f, side, "INBOX", side == SOURCE);
		break;
	default:
		change_folders(f, side);
	}
}

/* ---- sessions ---- */

static void dump(struct fixture *f, int side, bool modseqs, struct buf *out)
{
	maildir_user_dump(&f->users[side], modseqs, out);
}

/* The first message that is recent belongs to who opens a mailbox, not to the mail. */
static void forget_recent(struct buf *text)
{
	for (char *p = text->data; p != NULL && (p = strstr(p, " recent=")) != NULL;) {
		for (p += strlen(" recent="); *p >= '0' && *p <= '9'; p++)
			*p = '#';
	}
}

static void expect_equal(struct fixture *f, uint32_t seed)
{
	AUTO_BUF struct buf source = BUF_INIT(DUMP_BYTES);
	AUTO_BUF struct buf copy = BUF_INIT(DUMP_BYTES);

	dump(f, SOURCE, false, &source);
	dump(f, COPY, false, &copy);
	forget_recent(&source);
	forget_recent(&copy);
	if (strcmp(buf_str(&source), buf_str(&copy)) != 0)
		fail_msg("seed %u: the copy differs:\n%s\n%s", seed, buf_str(&source),
			 buf_str(&copy));
}

/* Either may start; cut_after 0: not cut. */
static void back_up(struct fixture *f, uint64_t cut_after)
{
	int master = roll(f, 2) == 0 ? SOURCE : COPY;
	struct test_node *first = &f->nodes[master], *second = &f->nodes[1 - master];
	enum sync_type type = roll(f, 2) == 0 ? SYNC_FULL : SYNC_CHANGED;
	AUTO_BUF struct buf before = BUF_INIT(DUMP_BYTES);
	AUTO_BUF struct buf after = BUF_INIT(DUMP_BYTES);

	first->way = master == SOURCE ? SYNC_TO_PEER : SYNC_FROM_PEER;
	second->way = SYNC_BOTH_WAYS;
	dump(f, SOURCE, true, &before);
	if (cut_after > 0)
		run_session_cut(first, second, type, roll(f, 2) == 0, cut_after, &f->results);
	else
		run_session(first, second, type, &f->results);
	dump(f, SOURCE, true, &after);
	assert_string_equal(buf_str(&before), buf_str(&after));
}

static void run_history(struct fixture *f, uint32_t seed)
{
	f->random = seed;
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (unsigned i = roll(f, 10); i > 0; i--)
			change(f, SOURCE);
		for (unsigned i = roll(f, 2) * roll(f, 4); i > 0; i--)
			change(f, COPY);
		for (unsigned i = roll(f, 3); i > 0; i--)
			back_up(f, 400 + roll(f, 4000));
		back_up(f, 0);
		if (f->results.master_ret < 0 || f->results.slave_ret < 0)
			fail_msg("seed %u: %s / %s", seed, f->results.master_err.text,
				 f->results.slave_err.text);
		expect_equal(f, seed);
		back_up(f, 0);
		assert_int_equal(f->results.master.mails_received + f->results.slave.mails_received,
				 0);
		assert_int_equal(f->results.master.outcome, SYNC_DONE);
		assert_int_equal(f->results.slave.outcome, SYNC_DONE);
	}
}

static void random_histories(void **state)
{
	const char *one = getenv("DSYNCFS_TEST_SEED");

	for (uint32_t seed = 1; seed <= (one != NULL ? 1 : HISTORIES); seed++) {
		/* Each with accounts of its own. */
		assert_int_equal(teardown(state), 0);
		assert_int_equal(setup(state), 0);
		run_history(*state, one != NULL ? (uint32_t)strtoul(one, NULL, 10) : seed);
	}
}

/* ---- what is refused ---- */

static void expect_refused(struct fixture *f, const char *why)
{
	AUTO_BUF struct buf before = BUF_INIT(DUMP_BYTES);
	AUTO_BUF struct buf after = BUF_INIT(DUMP_BYTES);

	dump(f, COPY, true, &before);
	f->nodes[SOURCE].way = SYNC_TO_PEER;
	run_session(&f->nodes[SOURCE], &f->nodes[COPY], SYNC_CHANGED, &f->results);
	assert_true(f->results.master_ret < 0 && f->results.slave_ret < 0);
	if (strstr(f->results.slave_err.text, why) == NULL)
		fail_msg("%s", f->results.slave_err.text);
	dump(f, COPY, true, &after);
	assert_string_equal(buf_str(&before), buf_str(&after));
}

static void a_slave_that_does_not_allow_it_refuses(void **state)
{
	struct fixture *f = *state;

	deliver(f, SOURCE, "INBOX");
	deliver(f, COPY, "INBOX");
	f->nodes[COPY].allow_one_way = false;
	expect_refused(f, "one-way");
}

/* Defect 15: the messages of such an INBOX would all be expunged, and every run would fail. */
static void an_inbox_that_is_ahead_is_left_alone(void **state)
{
	struct fixture *f = *state;

	deliver(f, SOURCE, "INBOX");
	deliver(f, COPY, "INBOX");
	deliver(f, COPY, "INBOX");
	expect_refused(f, "INBOX cannot become");
}

/* Defect 16: one message is missing in the middle. */
static void an_inbox_with_a_hole_is_left_alone(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 0; i < 3; i++)
		deliver(f, SOURCE, "INBOX");
	back_up(f, 0);
	expect_equal(f, 0);
	maildir_user_expunge(&f->users[COPY], "INBOX", 2);
	expect_refused(f, "UID 2");
}

static void a_folder_with_a_hole_is_made_anew(void **state)
{
	struct fixture *f = *state;
	struct error err;

	assert_int_equal(mailbox_list_create(&f->users[SOURCE], "Work", NULL, 0, &err), 0);
	for (unsigned i = 0; i < 3; i++)
		deliver(f, SOURCE, "Work");
	back_up(f, 0);
	struct mailbox *box;
	struct mailbox_txn *txn;
	assert_int_equal(mailbox_open(&f->users[COPY], "Work", &box, &err), 0);
	assert_int_equal(mailbox_begin(box, &txn, &err), 0);
	assert_int_equal(mailbox_expunge(txn, 2, &err), 0);
	assert_int_equal(mailbox_commit(&txn, NULL, &err), 0);
	mailbox_close(&box);
	back_up(f, 0);
	assert_int_equal(f->results.master.mails_received + f->results.slave.mails_received, 3);
	expect_equal(f, 0);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		CASE(a_slave_that_does_not_allow_it_refuses),
		CASE(an_inbox_that_is_ahead_is_left_alone),
		CASE(an_inbox_with_a_hole_is_left_alone),
		CASE(a_folder_with_a_hole_is_made_anew),
		CASE(random_histories),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
