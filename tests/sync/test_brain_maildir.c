/*
 * Two brains over real Maildirs: whole sessions, random histories with cuts, and what is left
 * behind.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>
#include "store/base/file.h"
#include "store/index/index_txn.h"
#include "store/mailbox_list.h"
#include "store/mailbox_log.h"
#include "tests/sync/brain_pair.h"
#include "tests/sync/maildir_user.h"

#define DELIVERIES_MAX 512

struct fixture {
	char root[256];
	struct mail_user users[2];
	struct test_node nodes[2];
	struct box_cache caches[2];
	struct session_results results;
	uint32_t seed, history;
	unsigned delivered;
	bool expunged[DELIVERIES_MAX]; /* by the number of the delivery */
};

static int setup(void **state)
{
	/* Shared with a program that changes mail beside the sessions. */
	struct fixture *f =
		mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	const char *tmp = getenv("TMPDIR");
	char home[300];

	if (f == MAP_FAILED)
		return -1;
	snprintf(f->root, sizeof(f->root), "%s/brain-test.XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(f->root) == NULL)
		return -1;
	for (int i = 0; i < 2; i++) {
		snprintf(home, sizeof(home), "%s/%c", f->root, 'a' + i);
		maildir_user_init(&f->users[i], home);
		test_node_init(&f->nodes[i], &f->users[i],
			       i == 0 ? "a.example.org" : "b.example.org");
		f->nodes[i].cache = &f->caches[i];
	}
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	maildir_user_remove_root(f->root);
	for (int i = 0; i < 2; i++) {
		box_cache_forget(&f->caches[i], &f->users[i], NULL);
		maildir_user_free(&f->users[i]);
	}
	munmap(f, sizeof(*f));
	return 0;
}

static void expect_equal(struct fixture *f)
{
	AUTO_BUF struct buf a = BUF_INIT((size_t)64 << 20);
	AUTO_BUF struct buf b = BUF_INIT((size_t)64 << 20);

	maildir_user_dump(&f->users[0], true, &a);
	maildir_user_dump(&f->users[1], true, &b);
	if (strcmp(buf_str(&a), buf_str(&b)) != 0)
		fail_msg("history %u: the accounts differ:\n%s\n%s", f->history, buf_str(&a),
			 buf_str(&b));
}

static void sync_until_equal(struct fixture *f)
{
	if (run_until_done(&f->nodes[0], &f->nodes[1], SYNC_CHANGED, &f->results) < 0)
		fail_msg("no end: master %d '%s' %s, slave %d '%s' %s", f->results.master.outcome,
			 f->results.master_err.text, f->results.master.reason,
			 f->results.slave.outcome, f->results.slave_err.text,
			 f->results.slave.reason);
	expect_equal(f);
}

/* The second sync writes nothing: not a byte of any log has changed. */
static void expect_quiet(struct fixture *f)
{
	struct stat before[2], after[2];
	char path[400];

	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%c/Maildir/dovecot.index.log", f->root, 'a' + i);
		assert_int_equal(stat(path, &before[i]), 0);
	}
	run_session(&f->nodes[1], &f->nodes[0], SYNC_CHANGED, &f->results);
	if (f->results.master.outcome != SYNC_DONE || f->results.master.mailboxes != 0)
		fail_msg("history %u: not idle: outcome %d, %u mailboxes, %s", f->history,
			 f->results.master.outcome, f->results.master.mailboxes,
			 f->results.master.reason);
	assert_int_equal(f->results.master.mails_sent + f->results.slave.mails_sent, 0);
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%c/Maildir/dovecot.index.log", f->root, 'a' + i);
		assert_int_equal(stat(path, &after[i]), 0);
		assert_int_equal(before[i].st_size, after[i].st_size);
		assert_int_equal(before[i].st_mtime, after[i].st_mtime);
	}
}

static void deliver(struct fixture *f, int node, const char *mailbox)
{
	char guid[80], body[200];

	assert_true(f->delivered + 1 < DELIVERIES_MAX);
	snprintf(guid, sizeof(guid), "1795327226.M%uP31607.node%d", ++f->delivered, node);
	snprintf(body, sizeof(body), "Subject: %u\n\n.dot\n..\nbody %d\n", f->delivered, node);
	maildir_user_deliver(&f->users[node], mailbox, guid, body);
}

static struct mail_event removal_of(const char *name)
{
	return (struct mail_event){.kind = MAIL_EVENT_REMOVED,
				   .home = "",
				   .dir = "Maildir",
				   .name = name,
				   .name2 = ""};
}

static unsigned delivery_number(const char *guid)
{
	unsigned number = 0;

	assert_int_equal(sscanf(guid, "1795327226.M%uP", &number), 1);
	assert_in_range(number, 1, DELIVERIES_MAX - 1);
	return number;
}

static void expunge(struct fixture *f, int node, uint32_t uid)
{
	struct mailbox *box;
	struct mail mail;
	struct error err;

	assert_int_equal(mailbox_open(&f->users[node], "INBOX", &box, &err), 0);
	assert_int_equal(mailbox_find(box, uid, &mail, &err), 0);
	f->expunged[delivery_number(mail.guid)] = true;
	mailbox_close(&box);
	maildir_user_expunge(&f->users[node], "INBOX", uid);
}

static int count_mail(void *ctx, const struct mail *mail)
{
	((unsigned *)ctx)[delivery_number(mail->guid)]++;
	return 0;
}

/* Nothing is lost, doubled or brought back. */
static void expect_what_was_delivered(struct fixture *f)
{
	unsigned counts[DELIVERIES_MAX] = {0};
	struct mailbox *box;
	struct error err;

	assert_int_equal(mailbox_open(&f->users[0], "INBOX", &box, &err), 0);
	assert_int_equal(mailbox_each(box, 1, UINT32_MAX, count_mail, counts, &err), 0);
	mailbox_close(&box);
	for (unsigned i = 1; i <= f->delivered; i++) {
		if (counts[i] != (f->expunged[i] ? 0 : 1))
			fail_msg("history %u: delivery %u is there %u times%s", f->history, i,
				 counts[i], f->expunged[i] ? ", was expunged" : "");
	}
}

static void mail_flags_expunges_and_folders(void **state)
{
	struct fixture *f = *state;
	struct error err;

	deliver(f, 0, "INBOX");
	deliver(f, 0, "INBOX");
	deliver(f, 0, "INBOX");
	sync_until_equal(f);
	expect_quiet(f);

	maildir_user_flags(&f->users[0], "INBOX", 1, MAIL_SEEN | MAIL_FLAGGED, "$Label1");
	sync_until_equal(f);
	expect_quiet(f);
	maildir_user_expunge(&f->users[1], "INBOX", 2);
	deliver(f, 1, "INBOX");
	sync_until_equal(f);
	expect_quiet(f);

	assert_int_equal(mailbox_list_create(&f->users[0], "Work/\xc3\xa4\xc3\xb6", NULL, 0, &err),
			 0);
	assert_int_equal(mailbox_list_create(&f->users[1], "Other", NULL, 0, &err), 0);
	assert_int_equal(mailbox_list_subscribe(&f->users[1], "Other", true, &err), 0);
	deliver(f, 0, "Work/\xc3\xa4\xc3\xb6");
	sync_until_equal(f);
	expect_quiet(f);
}

static void both_delivered_the_same_uid(void **state)
{
	struct fixture *f = *state;

	deliver(f, 0, "INBOX");
	sync_until_equal(f);
	deliver(f, 0, "INBOX");
	deliver(f, 1, "INBOX");
	sync_until_equal(f);
	expect_quiet(f);
}

static void many_mails(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 300; i++)
		deliver(f, i % 7 == 0 ? 1 : 0, "INBOX");
	sync_until_equal(f);
	expect_quiet(f);
}

static uint32_t pick(struct fixture *f, uint32_t below)
{
	f->seed = f->seed * 1664525 + 1013904223;
	return (f->seed >> 8) % below;
}

/* A message of the INBOX, 0 if there is none. */
static uint32_t pick_uid(struct fixture *f, int node)
{
	struct mailbox *box;
	struct error err;

	assert_int_equal(mailbox_open(&f->users[node], "INBOX", &box, &err), 0);
	uint32_t count = mailbox_status(box)->messages;
	mailbox_close(&box);
	return count > 0 ? maildir_user_uid(&f->users[node], pick(f, count)) : 0;
}

static void random_change(struct fixture *f)
{
	int node = (int)pick(f, 2);
	uint32_t uid = pick_uid(f, node);

	switch (pick(f, 5)) {
	case 0:
		if (uid != 0)
			expunge(f, node, uid);
		break;
	case 1:
	case 2:
		if (uid != 0)
			maildir_user_flags(&f->users[node], "INBOX", uid, (uint8_t)pick(f, 32),
					   pick(f, 2) != 0 ? "work" : NULL);
		break;
	default:
		deliver(f, node, "INBOX");
	}
}

static void random_histories(void **state)
{
	for (uint32_t seed = 1; seed <= 25; seed++) {
		teardown(state);
		assert_int_equal(setup(state), 0);
		struct fixture *f = *state;

		f->history = seed;
		f->seed = seed * 2654435761U;
		for (int step = 0; step < 3; step++) {
			for (uint32_t i = pick(f, 8); i > 0; i--)
				random_change(f);
			uint32_t master = pick(f, 2);
			run_session_cut(&f->nodes[master], &f->nodes[1 - master], SYNC_CHANGED,
					pick(f, 2) != 0, 1 + pick(f, 4000), &f->results);
			for (uint32_t i = pick(f, 3); i > 0; i--)
				random_change(f);
			sync_until_equal(f);
			expect_what_was_delivered(f);
			expect_quiet(f);
		}
	}
}

struct nth {
	uint32_t left, uid;
	unsigned number;
};

static int take_nth(void *ctx, const struct mail *mail)
{
	struct nth *nth = ctx;

	nth->uid = mail->uid;
	nth->number = delivery_number(mail->guid);
	return nth->left-- == 0 ? 1 : 0;
}

/* Picks and changes a message under the locks: a session may move or remove it at any time. */
static void change_one(struct fixture *f, int node)
{
	struct mailbox *box;
	struct mailbox_txn *txn;
	struct error err;

	assert_int_equal(mailbox_open(&f->users[node], "INBOX", &box, &err), 0);
	assert_int_equal(mailbox_begin(box, &txn, &err), 0);
	uint32_t count = mailbox_status(box)->messages;
	if (count > 0) {
		const char *keyword = "work";
		struct keyword_set keywords = {.names = &keyword, .count = pick(f, 2)};
		struct nth nth = {.left = pick(f, count)};

		assert_int_equal(mailbox_each(box, 1, UINT32_MAX, take_nth, &nth, &err), 1);
		if (pick(f, 3) == 0) {
			assert_int_equal(mailbox_expunge(txn, nth.uid, &err), 0);
			f->expunged[nth.number] = true;
		} else {
			assert_int_equal(mailbox_set_flags(txn, nth.uid, (uint8_t)pick(f, 32),
							   keywords, 0, &err),
					 0);
		}
	}
	assert_int_equal(mailbox_commit(&txn, NULL, &err), 0);
	mailbox_close(&box);
}

#define BUSY_CHANGES 250

static void be_a_busy_program(struct fixture *f)
{
	for (int i = 0; i < BUSY_CHANGES; i++) {
		int node = (int)pick(f, 2);

		if (pick(f, 2) == 0)
			deliver(f, node, "INBOX");
		else
			change_one(f, node);
		if (pick(f, 50) == 0)
			usleep(20000);
	}
}

/* A program changes both nodes while session follows session. */
static void busy_mailboxes(void **state)
{
	struct fixture *f = *state;
	unsigned sessions = 0, again = 0;
	int status = 0;

	f->seed = 4711;
	for (int i = 0; i < 10; i++)
		deliver(f, i % 2, "INBOX");
	sync_until_equal(f);
	unsigned forgets = f->nodes[0].forgets + f->nodes[1].forgets;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		/* A failed assertion must not go on with the tests in here. */
		setenv("CMOCKA_TEST_ABORT", "1", 1);
		be_a_busy_program(f);
		_exit(0);
	}
	while (waitpid(pid, &status, WNOHANG) == 0) {
		unsigned master = sessions++ % 2;

		run_session(&f->nodes[master], &f->nodes[1 - master], SYNC_CHANGED, &f->results);
		if (f->results.master_ret < 0 || f->results.slave_ret < 0)
			fail_msg("session %u: %s / %s", sessions, f->results.master_err.text,
				 f->results.slave_err.text);
		again += f->results.master.outcome == SYNC_AGAIN;
	}
	assert_int_equal(status, 0);
	/* Nobody doubted a state, which costs a comparison of everything, and some evidence. */
	assert_int_equal(f->nodes[0].forgets + f->nodes[1].forgets, forgets);
	print_message("%u sessions, %u of them to be run again\n", sessions, again);
	sync_until_equal(f);
	expect_what_was_delivered(f);
	expect_quiet(f);
}

/* A record whose file never came to the disk, or was taken away behind the mount, and that
 * no peer has: it ends, instead of being offered and given another UID in each session. */
static void a_record_without_a_file_ends(void **state)
{
	struct fixture *f = *state;
	char path[700];

	deliver(f, 0, "INBOX");
	sync_until_equal(f);
	deliver(f, 0, "INBOX");
	snprintf(path, sizeof(path),
		 "rm '%s'/a/Maildir/new/1795327226.M2P* '%s'/a/Maildir/cur/1795327226.M2P* "
		 "2>/dev/null; true",
		 f->root, f->root);
	assert_int_equal(system(path), 0); // NOLINT(cert-env33-c)
	sync_until_equal(f);
	expect_quiet(f);
	deliver(f, 1, "INBOX");
	sync_until_equal(f);
}

static void remove_files(struct fixture *f, int node, const char *pattern)
{
	char command[700];

	snprintf(command, sizeof(command), "cd '%s/%c/Maildir' && rm -f new/%s cur/%s", f->root,
		 'a' + node, pattern, pattern);
	assert_int_equal(system(command), 0); // NOLINT(cert-env33-c)
}

static unsigned count_files(struct fixture *f, int node)
{
	char path[700], line[80];
	unsigned count = 0;

	snprintf(path, sizeof(path), "ls '%s'/%c/Maildir/new '%s'/%c/Maildir/cur | grep -c node",
		 f->root, 'a' + node, f->root, 'a' + node);
	FILE *out = popen(path, "r"); // NOLINT(cert-env33-c)
	assert_non_null(out);
	if (fgets(line, sizeof(line), out) != NULL)
		count = (unsigned)strtoul(line, NULL, 10);
	pclose(out);
	return count;
}

/* As the daemon does it for a mailbox that is incomplete. */
static void doubt_states(struct fixture *f)
{
	for (int i = 0; i < 2; i++) {
		for (size_t j = 0; j < f->nodes[i].state_count; j++)
			f->nodes[i].states[j].common_uid = 0;
	}
}

/* Files went and their records did not: what the power leaves. With the state in doubt or forgotten
 * the bodies come from the peer, and nothing a client sees has changed. In blocks, and in whole
 * lists; from either side. */
static void files_that_went_come_back(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 40; i++)
		deliver(f, i % 2, "INBOX");
	sync_until_equal(f);
	maildir_user_flags(&f->users[0], "INBOX", maildir_user_uid(&f->users[0], 0), MAIL_SEEN,
			   "work");
	sync_until_equal(f);
	for (uint32_t blocks = 8; blocks <= 1024; blocks *= 128) {
		for (int node = 0; node < 2; node++) {
			AUTO_BUF struct buf before = BUF_INIT((size_t)64 << 20);
			AUTO_BUF struct buf after = BUF_INIT((size_t)64 << 20);

			for (int i = 0; i < 2; i++) {
				if (blocks == 8)
					f->nodes[i].state_count = 0;
				f->nodes[i].block_uids = blocks;
			}
			doubt_states(f);
			maildir_user_dump(&f->users[node], true, &before);
			remove_files(f, node, "1795327226.M[1-3]P*");
			assert_int_equal(count_files(f, node), 37);
			run_session(&f->nodes[node], &f->nodes[1 - node], SYNC_CHANGED,
				    &f->results);
			assert_int_equal(f->results.master.outcome, SYNC_DONE);
			assert_int_equal(f->results.slave.mails_sent, 3);
			assert_int_equal(count_files(f, node), 40);
			maildir_user_dump(&f->users[node], true, &after);
			assert_string_equal(buf_str(&before), buf_str(&after));
			expect_equal(f);
			expect_quiet(f);
		}
	}
}

/* A client on Dovecot found the file gone: its record says of which UID, not which message. */
static void expunge_without_a_name(struct fixture *f, int node, uint32_t uid)
{
	const struct index_options options = {.name = INDEX_NAME_MAIL, .label = "INBOX"};
	struct index *index;
	struct index_txn *txn;
	struct error err;
	char path[700];

	snprintf(path, sizeof(path), "%s/%c/Maildir", f->root, 'a' + node);
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(index_open(fd, &options, &index, &err), 0);
	assert_int_equal(index_begin(index, -1, &txn, &err), 0);
	assert_int_equal(index_expunge(txn, uid, NULL, &err), 0);
	assert_int_equal(index_commit(&txn, false, &err), 0);
	index_close(&index);
	snprintf(path, sizeof(path), "sed -i '/^%u /d' '%s/%c/Maildir/dovecot-uidlist'", uid,
		 f->root, 'a' + node);
	assert_int_equal(system(path), 0); // NOLINT(cert-env33-c)
}

/* Both nodes miss a file, so that nothing is agreed on; what one was told to be removed since they
 * last agreed stays away, also where its log knows it under another UID. */
static void removals_are_news_while_files_are_missing(void **state)
{
	struct fixture *f = *state;
	struct mail_event event = removal_of("1795327226.M2P31607.node0:2,S");
	struct mailbox *box;
	struct error err;
	bool changed;

	for (int i = 0; i < 5; i++)
		deliver(f, 0, "INBOX");
	sync_until_equal(f);
	remove_files(f, 1, "1795327226.M2P*");
	expunge_without_a_name(f, 1, 2);
	assert_int_equal(mailbox_open(&f->users[1], "INBOX", &box, &err), 0);
	assert_int_equal(mailbox_catch_up(box, &event, 1, &changed, &err), 0);
	mailbox_close(&box);
	remove_files(f, 0, "1795327226.M3P*");
	remove_files(f, 1, "1795327226.M4P*");
	doubt_states(f);
	sync_until_equal(f);
	for (int i = 0; i < 2; i++)
		assert_int_equal(count_files(f, i), 4);
	expect_quiet(f);
}

/* What one node's Dovecot found removed, or lost the line of and gave another UID, neither comes
 * back nor is doubled because nothing is compared from what was agreed on. */
static void expunges_without_a_name_count_while_one_state_is_in_doubt(void **state)
{
	struct fixture *f = *state;

	for (int full = 0; full < 2; full++) {
		for (int i = 0; i < 5; i++)
			deliver(f, 0, "INBOX");
		sync_until_equal(f);
		remove_files(f, 1, full ? "1795327226.M7P*" : "1795327226.M2P*");
		expunge_without_a_name(f, 1, full ? 8 : 2);
		expunge_without_a_name(f, 1, full ? 9 : 4);
		if (!full) {
			for (size_t i = 0; i < f->nodes[1].state_count; i++)
				f->nodes[1].states[i].common_uid = 0;
		}
		run_session(&f->nodes[1], &f->nodes[0], full ? SYNC_FULL : SYNC_CHANGED,
			    &f->results);
		sync_until_equal(f);
		for (int i = 0; i < 2; i++)
			assert_int_equal(count_files(f, i), full ? 8 : 4);
		expect_quiet(f);
	}
}

/* A node is killed when its peer has saved what both agreed on, before it has: of a mail that came
 * or went in that session, and whose GUID nobody knows any more here, the UID says which it is. */
static void expunges_without_a_name_count_after_a_kill(void **state)
{
	struct fixture *f = *state;

	for (int giver = 0; giver < 2; giver++) {
		deliver(f, giver, "INBOX");
		sync_until_equal(f);
		test_node_settle(&f->nodes[1]);
		deliver(f, giver, "INBOX");
		sync_until_equal(f);
		test_node_killed(&f->nodes[1]);
		remove_files(f, 1, giver ? "1795327226.M4P*" : "1795327226.M2P*");
		expunge_without_a_name(f, 1, giver ? 4 : 2);
		sync_until_equal(f);
		for (int i = 0; i < 2; i++)
			assert_int_equal(count_files(f, i), 1 + giver);
		expect_quiet(f);
	}
}

static void shell(const struct fixture *f, const char *commands)
{
	char command[1000];

	snprintf(command, sizeof(command), "cd '%s' && %s", f->root, commands);
	assert_int_equal(system(command), 0); // NOLINT(cert-env33-c)
}

/* b's mailbox is an older copy of itself, which lacks three mails, and its state is of now. */
static void put_older_copy_back(struct fixture *f)
{
	sync_until_equal(f);
	shell(f, "cp -a b/Maildir b/before");
	for (int i = 0; i < 3; i++)
		deliver(f, 0, "INBOX");
	sync_until_equal(f);
	shell(f, "rm -r b/Maildir && mv b/before b/Maildir");
	test_node_settle(&f->nodes[1]);
}

/* A mailbox is an older copy of itself, and the session that fills it up cannot bring everything:
 * what was agreed on before is not true again since its numbers are. */
static void a_filled_up_copy_does_not_bring_its_old_state_back(void **state)
{
	struct fixture *f = *state;

	put_older_copy_back(f);
	test_damaged_text = "Subject: 2";
	run_session_cut(&f->nodes[1], &f->nodes[0], SYNC_CHANGED, true, UINT64_MAX, &f->results);
	test_damaged_text = NULL;
	assert_int_equal(f->results.master.outcome, SYNC_AGAIN);
	assert_int_equal(count_files(f, 1), 2);
	/* Not even to a dsyncd that was killed meanwhile. */
	test_node_killed(&f->nodes[1]);
	sync_until_equal(f);
	assert_int_equal(count_files(f, 1), 3);
	expect_quiet(f);
}

/* What was expunged since the copy was made stays away, also where only one node knows that the
 * other has gone back. */
static void an_older_copy_does_not_bring_back_what_was_expunged(void **state)
{
	struct fixture *f = *state;

	for (int both = 0; both < 2; both++) {
		for (int i = 0; i < 3; i++)
			deliver(f, 0, "INBOX");
		sync_until_equal(f);
		shell(f, "cp -a b/Maildir b/before");
		if (both)
			test_node_settle(&f->nodes[1]);
		maildir_user_expunge(&f->users[0], "INBOX", maildir_user_uid(&f->users[0], 1));
		sync_until_equal(f);
		shell(f, "rm -r b/Maildir && mv b/before b/Maildir");
		if (both)
			test_node_killed(&f->nodes[1]);
		sync_until_equal(f);
		assert_int_equal(count_files(f, 1), both ? 4 : 2);
		expect_quiet(f);
	}
}

/* As long as that may come true again, nothing is filled up. */
static void a_copy_is_not_filled_up_while_its_old_state_cannot_be_forgotten(void **state)
{
	struct fixture *f = *state;

	put_older_copy_back(f);
	f->nodes[1].settle_error = -ENOSPC;
	run_session_cut(&f->nodes[1], &f->nodes[0], SYNC_CHANGED, true, UINT64_MAX, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_FAILED);
	assert_non_null(strstr(f->results.master.reason, "journal: No space left on device"));
	assert_int_equal(count_files(f, 1), 0);
	test_node_killed(&f->nodes[1]);
	f->nodes[1].settle_error = 0;
	sync_until_equal(f);
	assert_int_equal(count_files(f, 1), 3);
	expect_quiet(f);
}

/* The file went, and its message has another UID at the peer by now. */
static void a_file_comes_back_under_another_uid(void **state)
{
	struct fixture *f = *state;
	struct mailbox *box;
	struct mailbox_txn *txn;
	struct error err;

	for (int i = 0; i < 3; i++)
		deliver(f, 0, "INBOX");
	sync_until_equal(f);
	assert_int_equal(mailbox_open(&f->users[1], "INBOX", &box, &err), 0);
	assert_int_equal(mailbox_begin(box, &txn, &err), 0);
	assert_int_equal(mailbox_change_uid(txn, 2, 9, 0, &err), 0);
	assert_int_equal(mailbox_commit(&txn, NULL, &err), 0);
	mailbox_close(&box);
	remove_files(f, 0, "1795327226.M2P*");
	for (int i = 0; i < 2; i++)
		f->nodes[i].state_count = 0;
	sync_until_equal(f);
	assert_int_equal(count_files(f, 0), 3);
	expect_what_was_delivered(f);
	expect_quiet(f);
}

/* The uidlist has a message's new UID, and the index was not told: the old UID is no message. */
static void a_change_of_a_uid_that_was_cut_costs_no_message(void **state)
{
	struct fixture *f = *state;

	for (int with_state = 1; with_state >= 0; with_state--) {
		for (int i = 0; i < 3; i++)
			deliver(f, 0, "INBOX");
		sync_until_equal(f);
		shell(f, with_state ? "sed -i -E '$s/^[0-9]+ /20 /' b/Maildir/dovecot-uidlist"
				    : "sed -i -E '$s/^[0-9]+ /40 /' b/Maildir/dovecot-uidlist");
		for (int i = 0; !with_state && i < 2; i++)
			f->nodes[i].state_count = 0;
		run_session(&f->nodes[1], &f->nodes[0], SYNC_FULL, &f->results);
		sync_until_equal(f);
		assert_int_equal(count_files(f, 0), with_state ? 3 : 6);
		assert_int_equal(count_files(f, 1), with_state ? 3 : 6);
		expect_what_was_delivered(f);
		expect_quiet(f);
	}
}

/* Somebody may have just removed them: what the host knows to be removed stays away, and while it
 * does not know, all of it, and the mailbox is looked at again. */
static void files_that_were_removed_stay_away(void **state)
{
	struct fixture *f = *state;
	struct mail_event event = removal_of("1795327226.M2P31607.node0:2,S");

	for (int i = 0; i < 4; i++)
		deliver(f, 0, "INBOX");
	sync_until_equal(f);
	remove_files(f, 0, "1795327226.M[23]P*");
	for (int i = 0; i < 2; i++)
		f->nodes[i].state_count = 0;
	f->nodes[0].removals_unknown = true;
	for (int i = 0; i < 2; i++) {
		run_session(&f->nodes[i], &f->nodes[1 - i], SYNC_FULL, &f->results);
		assert_int_equal(f->results.master.outcome, SYNC_AGAIN);
		assert_int_equal(count_files(f, 0), 2);
		assert_int_equal(f->nodes[0].state_count, 0);
	}
	f->nodes[0].removals_unknown = false;
	f->nodes[0].cannot_explain = true;
	run_session(&f->nodes[0], &f->nodes[1], SYNC_FULL, &f->results);
	assert_int_equal(count_files(f, 0), 2);
	f->nodes[0].cannot_explain = false;
	f->nodes[0].removals = &event;
	f->nodes[0].removal_count = 1;
	run_session(&f->nodes[0], &f->nodes[1], SYNC_FULL, &f->results);
	assert_int_equal(f->results.master.outcome, SYNC_DONE);
	assert_int_equal(count_files(f, 0), 3);
	f->nodes[0].removal_count = 0;
	run_session(&f->nodes[0], &f->nodes[1], SYNC_FULL, &f->results);
	assert_int_equal(count_files(f, 0), 4);
	expect_what_was_delivered(f);
}

/* Neither uidlist nor index of the first node know the message, but the mount has seen its file go:
 * it is not brought until that has been taken in. */
static void what_was_just_removed_is_not_brought(void **state)
{
	struct fixture *f = *state;
	struct mail_event event = removal_of("1795327226.M3P31607.node1:2,S");

	deliver(f, 0, "INBOX");
	sync_until_equal(f);
	deliver(f, 1, "INBOX");
	deliver(f, 1, "INBOX");
	f->nodes[0].removals = &event;
	f->nodes[0].removal_count = 1;
	for (int i = 0; i < 2; i++) {
		run_session(&f->nodes[i], &f->nodes[1 - i], SYNC_CHANGED, &f->results);
		assert_int_equal(f->results.master.outcome, SYNC_AGAIN);
		assert_int_equal(count_files(f, 0), 1);
	}
	event.name = "1795327226.M9P31607.node1:2,S"; /* of another */
	sync_until_equal(f);
	assert_int_equal(count_files(f, 0), 3);
	f->nodes[0].removal_count = 0;
	expect_what_was_delivered(f);
	expect_quiet(f);
}

/* An expunge meanwhile wins; of what the peer does not have either the record ends. */
static void a_file_that_neither_has_ends(void **state)
{
	struct fixture *f = *state;

	for (int i = 0; i < 3; i++)
		deliver(f, 0, "INBOX");
	sync_until_equal(f);
	for (int i = 0; i < 2; i++) {
		remove_files(f, i, "1795327226.M1P*");
		f->nodes[i].state_count = 0;
	}
	f->expunged[1] = true;
	sync_until_equal(f);
	expect_what_was_delivered(f);
	expect_quiet(f);
}

static bool has_folder(const struct mail_user *user, const char *name)
{
	return mailbox_list_has(user, name);
}

static void delete_unlogged(struct fixture *f, const char *name, const struct guid *guid)
{
	struct error err = {0};
	char path[400];

	assert_int_equal(mailbox_list_delete(&f->users[0], name, guid, &err), 0);
	/* As dsyncd's worker does for a removal that the mount saw. */
	assert_int_equal(mailbox_log_keep(&f->users[0], guid, time(NULL), &err), 0);
	snprintf(path, sizeof(path), "%s/a/Maildir/dovecot.mailbox.log", f->root);
	assert_int_equal(unlink(path), 0);
}

/* Dovecot's log of deletions has come around twice while the peer was away. */
static void deletions_that_dovecot_forgot(void **state)
{
	struct fixture *f = *state;
	struct error err = {0};
	struct guid guids[3];
	char name[32];

	for (int i = 0; i < 3; i++) {
		guid_generate(&guids[i]);
		snprintf(name, sizeof(name), "Folder %d", i);
		assert_int_equal(mailbox_list_create(&f->users[0], name, &guids[i], 0, &err), 0);
		deliver(f, 0, name);
	}
	sync_until_equal(f);
	delete_unlogged(f, "Folder 0", &guids[0]);
	delete_unlogged(f, "Folder 1", &guids[1]);
	/* One is there again with its GUID: what was kept of it before does not count. */
	assert_int_equal(mailbox_list_create(&f->users[0], "Folder 1", &guids[1], 0, &err), 0);
	/* A session that ends before the peer has done it is no reason to forget. */
	run_session_cut(&f->nodes[0], &f->nodes[1], SYNC_CHANGED, true, 600, &f->results);
	sync_until_equal(f);
	assert_false(has_folder(&f->users[1], "Folder 0"));
	assert_true(has_folder(&f->users[0], "Folder 1") && has_folder(&f->users[1], "Folder 1"));
	assert_true(has_folder(&f->users[1], "Folder 2"));
	expect_quiet(f);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(mail_flags_expunges_and_folders),
		TEST(both_delivered_the_same_uid),
		TEST(a_record_without_a_file_ends),
		TEST(files_that_went_come_back),
		TEST(removals_are_news_while_files_are_missing),
		TEST(expunges_without_a_name_count_while_one_state_is_in_doubt),
		TEST(expunges_without_a_name_count_after_a_kill),
		TEST(a_filled_up_copy_does_not_bring_its_old_state_back),
		TEST(an_older_copy_does_not_bring_back_what_was_expunged),
		TEST(a_copy_is_not_filled_up_while_its_old_state_cannot_be_forgotten),
		TEST(a_file_comes_back_under_another_uid),
		TEST(a_change_of_a_uid_that_was_cut_costs_no_message),
		TEST(files_that_were_removed_stay_away),
		TEST(what_was_just_removed_is_not_brought),
		TEST(a_file_that_neither_has_ends),
		TEST(deletions_that_dovecot_forgot),
		TEST(many_mails),
		TEST(random_histories),
		TEST(busy_mailboxes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
