/*
 * Catch-up: events become records; a second run writes nothing and takes no lock; a commit that is
 * cut at any step heals.
 */
#include "tests/maildir/maildir_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "store/base/buf.h"
#include "store/index/index_txn.h"
#include "store/maildir/maildir_private.h"

#define BODY "Subject: x\n\nbody\n"

static void assert_described(struct mailbox *box, const char *expected)
{
	char *text = describe(box, false);

	assert_string_equal(text, expected);
	free(text);
}

/* Runs the events again with the lock held by a living process elsewhere: taking it, or waiting for
 * it, would end in -EAGAIN or a hang. */
static void assert_nothing_to_do(struct fixture *fx, struct mailbox *box,
				 const struct mail_event *events, size_t count)
{
	struct file_stamp log = stamp_of(fx, "dovecot.index.log"), log_after;
	struct file_stamp list = stamp_of(fx, "dovecot-uidlist"), list_after;

	must_shell("echo 1:elsewhere > '%s/dovecot-uidlist.lock'", fx->maildir);
	assert_false(catch_up(box, events, count));
	must_shell("rm '%s/dovecot-uidlist.lock'", fx->maildir);
	log_after = stamp_of(fx, "dovecot.index.log");
	list_after = stamp_of(fx, "dovecot-uidlist");
	assert_memory_equal(&log, &log_after, sizeof log);
	assert_memory_equal(&list, &list_after, sizeof list);
}

static void test_deliveries_get_uids(void **state)
{
	struct fixture *fx = *state;
	struct mail_event events[3];
	struct mailbox *box;
	char path[400];

	fixture_make_maildir(fx);
	snprintf(path, sizeof path, "%s/dovecot-keywords", fx->maildir);
	write_file(path, "1 $Label1\n", 10);
	box = must_open(fx, "INBOX");
	deliver(fx, "new", "10.M1P1.h", BODY);
	deliver(fx, "cur", "11.M1P1.h:2,Sbz", BODY);
	events[0] = event_delivered("10.M1P1.h");
	events[1] = event_delivered("11.M1P1.h:2,Sbz");
	events[2] = event_touched();
	assert_true(catch_up(box, events, 3));
	assert_described(box, "1 10.M1P1.h \n2 11.M1P1.h S $Label1\n");
	assert_int_equal(mailbox_status(box)->uid_next, 3);
	assert_nothing_to_do(fx, box, events, 3);
	mailbox_close(&box);
	box = must_open(fx, "INBOX");
	assert_nothing_to_do(fx, box, events, 3);
	mailbox_close(&box);
}

static void test_a_delivery_that_is_gone_again_gets_none(void **state)
{
	struct fixture *fx = *state;
	struct mail_event events[2] = {event_delivered("a"), event_removed("a")};
	struct mailbox *box;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	assert_nothing_to_do(fx, box, events, 2);
	assert_nothing_to_do(fx, box, events, 1);
	assert_described(box, "");
	mailbox_close(&box);
}

/* A peer has it, since its worker brought it or Dovecot told it, and neither line nor record is
 * left of it here, or a record that does not say which message it was. */
static void test_a_removal_that_nothing_tells_of_is_recorded(void **state)
{
	struct fixture *fx = *state;
	struct mail_event events[2] = {event_removed("ghost:2,S"), event_delivered("a")};
	struct mailbox_changes changes;
	struct mailbox *box;
	struct error err = {0};
	struct guid guid;
	uint64_t before;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	before = mailbox_status(box)->highest_modseq;
	assert_true(catch_up(box, events, 1));
	assert_described(box, "");
	must(mailbox_changes(box, before, &changes, &err), &err);
	assert_int_equal(changes.count, 1);
	assert_int_equal(changes.change[0].uid, 1);
	assert_true(changes.change[0].expunged && changes.change[0].has_guid);
	guid_from_message_guid("ghost", &guid);
	assert_true(guid_equal(&changes.change[0].guid, &guid));
	mailbox_changes_free(&changes);
	/* Once, and the UID is nobody else's. */
	assert_nothing_to_do(fx, box, events, 1);
	deliver(fx, "new", "a", BODY);
	assert_true(catch_up(box, events + 1, 1));
	assert_described(box, "2 a \n");
	/* Our own worker records what it removes before it does. */
	events[0] = event_removed("other");
	events[0].origin = 7;
	assert_nothing_to_do(fx, box, events, 1);
	mailbox_close(&box);
}

/* A copy that Dovecot made has the GUID of the message that it is one of, which only its line
 * tells. Dovecot finds the file gone, records that without a GUID, and drops the line. */
static void test_a_removal_is_recorded_by_the_list_that_was(void **state)
{
	struct fixture *fx = *state;
	struct mail_event touched = event_touched(), removed = event_removed("copy");
	struct mailbox_changes changes;
	struct mailbox *box;
	struct index_txn *txn;
	struct error err = {0};
	struct guid guid;
	uint64_t before;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "copy", .body = BODY});
	append_mail(box, &(struct new_mail){.guid = "b", .body = BODY});
	must_shell("sed -i 's/^1 .*:copy/1 Goriginal :copy/' '%s/dovecot-uidlist'", fx->maildir);
	catch_up(box, &touched, 1);
	before = mailbox_status(box)->highest_modseq;
	must_shell("rm '%s'/*/copy*; sed -i '/:copy$/d' '%s/dovecot-uidlist'", fx->maildir,
		   fx->maildir);
	must(index_begin(maildir_of(box)->index, -1, &txn, &err), &err);
	must(index_expunge(txn, 1, &(struct guid){0}, &err), &err);
	must(index_commit(&txn, false, &err), &err);
	must(mailbox_refresh(box, &err), &err);
	assert_true(catch_up(box, &removed, 1));
	must(mailbox_changes(box, before, &changes, &err), &err);
	guid_from_message_guid("original", &guid);
	assert_int_equal(changes.count, 1);
	assert_int_equal(changes.change[0].uid, 1);
	assert_true(changes.change[0].expunged && changes.change[0].has_guid);
	assert_true(guid_equal(&changes.change[0].guid, &guid));
	mailbox_changes_free(&changes);
	mailbox_close(&box);
}

static void test_renames_are_flag_changes(void **state)
{
	struct fixture *fx = *state;
	struct mail_event events[3];
	struct mailbox *box;

	fixture_make_maildir(fx);
	deliver(fx, "new", "a", BODY);
	deliver(fx, "cur", "b:2,S", BODY);
	box = must_open(fx, "INBOX");
	must_shell("cd '%s' && mv new/a cur/a:2,F && mv cur/b:2,S cur/b:2,", fx->maildir);
	events[0] = event_renamed("a", "a:2,F");
	events[1] = event_renamed("b:2,S", "b:2,");
	assert_true(catch_up(box, events, 2));
	assert_described(box, "1 a F\n2 b \n");
	assert_nothing_to_do(fx, box, events, 2);
	/* new/ to cur/ alone is none. */
	deliver(fx, "new", "c", BODY);
	events[0] = event_delivered("c");
	assert_true(catch_up(box, events, 1));
	must_shell("cd '%s' && mv new/c cur/c:2,", fx->maildir);
	events[0] = event_renamed("c", "c:2,");
	assert_nothing_to_do(fx, box, events, 1);
	/* Renamed twice, and only the first event is here. */
	must_shell("cd '%s' && mv cur/c:2, cur/c:2,RS", fx->maildir);
	events[0] = event_renamed("c:2,", "c:2,S");
	assert_nothing_to_do(fx, box, events, 1);
	events[1] = event_renamed("c:2,S", "c:2,RS");
	assert_true(catch_up(box, events, 2));
	assert_described(box, "1 a F\n2 b \n3 c RS\n");
	mailbox_close(&box);
}

static void request_flag(struct mailbox *box, uint32_t uid, uint8_t flag)
{
	struct index_txn *txn;
	struct error err = {0};

	must(index_begin(maildir_of(box)->index, -1, &txn, &err), &err);
	index_txn_internal(txn);
	must(index_update_flags(txn, uid, flag, 0, &err), &err);
	must(index_commit(&txn, false, &err), &err);
}

/* Where Dovecot has still to give a file the flags that a client has set, its name is out of date:
 * but not those of others. */
static void test_a_request_is_about_its_own_message(void **state)
{
	struct fixture *fx = *state;
	struct mail_event events[2] = {event_renamed("a:2,", "a:2,R"),
				       event_renamed("b:2,", "b:2,R")};
	struct mailbox *box;
	struct error err = {0};
	bool changed;
	size_t missing;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	for (int i = 0; i < 3; i++)
		deliver(fx, "cur", (const char *[]){"a:2,", "b:2,", "c:2,"}[i], BODY);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	request_flag(box, 1, MAIL_FLAGGED);
	must_shell("cd '%s/cur' && mv a:2, a:2,R && mv b:2, b:2,R", fx->maildir);
	assert_true(catch_up(box, events, 2));
	assert_described(box, "1 a F\n2 b R\n3 c \n");
	must_shell("cd '%s/cur' && mv c:2, c:2,S", fx->maildir);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_described(box, "1 a F\n2 b R\n3 c S\n");
	mailbox_close(&box);
}

static void test_removals_are_expunges_when_the_file_is_gone(void **state)
{
	struct fixture *fx = *state;
	struct mail_event events[3];
	struct mailbox *box;
	struct mailbox_changes changes;
	struct error err = {0};
	uint64_t since;

	fixture_make_maildir(fx);
	deliver(fx, "new", "1.a", BODY);
	deliver(fx, "new", "2.b", BODY);
	deliver(fx, "new", "3.c", BODY);
	box = must_open(fx, "INBOX");
	since = mailbox_status(box)->highest_modseq;
	/* b was renamed by link and unlink; only its removal is told. c was moved by two names. */
	must_shell("cd '%s' && rm new/1.a && mv new/2.b cur/2.b:2,S && mv new/3.c cur/3.c:2,PT",
		   fx->maildir);
	events[0] = event_removed("1.a");
	events[1] = event_removed("2.b");
	assert_true(catch_up(box, events, 2));
	assert_described(box, "2 2.b S\n3 3.c \n");
	must(mailbox_changes(box, since, &changes, &err), &err);
	assert_int_equal(changes.count, 2);
	assert_true(changes.change[0].expunged && changes.change[0].has_guid);
	mailbox_changes_free(&changes);
	assert_nothing_to_do(fx, box, events, 2);
	events[0] = event_delivered("3.c:2,PT");
	events[1] = event_removed("3.c");
	assert_true(catch_up(box, events, 2));
	assert_described(box, "2 2.b S\n3 3.c T\n");
	assert_nothing_to_do(fx, box, events, 2);
	mailbox_close(&box);
}

static void test_a_file_that_is_only_missing_is_no_expunge(void **state)
{
	struct fixture *fx = *state;
	struct mail_event events[2] = {event_touched(), event_renamed("a", "a:2,S")};
	struct mailbox *box;

	fixture_make_maildir(fx);
	deliver(fx, "new", "a", BODY);
	box = must_open(fx, "INBOX");
	must_shell("rm '%s/new/a'", fx->maildir);
	assert_false(catch_up(box, events, 2));
	assert_described(box, "1 a \n");
	mailbox_close(&box);
}

static void test_an_expunged_message_that_reappears_gets_a_new_uid(void **state)
{
	struct fixture *fx = *state;
	struct mail_event event = event_removed("a");
	struct mailbox *box;
	char *text;

	fixture_make_maildir(fx);
	deliver(fx, "new", "a", BODY);
	box = must_open(fx, "INBOX");
	must_shell("rm '%s/new/a'", fx->maildir);
	assert_true(catch_up(box, &event, 1));
	deliver(fx, "cur", "a:2,S", BODY);
	event = event_delivered("a:2,S");
	assert_true(catch_up(box, &event, 1));
	assert_described(box, "2 a S\n");
	assert_nothing_to_do(fx, box, &event, 1);
	text = shell_output("grep -c ':a$' '%s/dovecot-uidlist'", fx->maildir);
	assert_string_equal(text, "1\n");
	free(text);
	mailbox_close(&box);
}

static void test_lines_without_a_record_are_completed(void **state)
{
	struct fixture *fx = *state;
	struct mail_event event = event_touched();
	struct mailbox *box;

	fixture_make_maildir(fx);
	deliver(fx, "new", "a", BODY);
	box = must_open(fx, "INBOX");
	deliver(fx, "cur", "b:2,F", BODY);
	must_shell("printf '5 Gguid-of-b :b\\n6 :gone\\n' >> '%s/dovecot-uidlist'", fx->maildir);
	assert_true(catch_up(box, &event, 1));
	assert_described(box, "1 a \n5 guid-of-b F\n");
	assert_int_equal(mailbox_status(box)->uid_next, 7);
	assert_nothing_to_do(fx, box, &event, 1);
	mailbox_close(&box);
}

/* Dovecot: the file appears, then its line and record, while it holds the lock. */
static void test_the_holder_of_the_lock_is_waited_for(void **state)
{
	struct fixture *fx = *state;
	struct mail_event event = event_delivered("b");
	struct file_stamp log, log_after;
	struct mailbox *box;
	char *text;
	int status;
	pid_t child;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	deliver(fx, "new", "b", BODY);
	must_shell("cp -a '%s' '%s.other'", fx->maildir, fx->maildir);
	child = fork();
	if (child == 0) {
		struct error err;
		struct mailbox *other;
		struct mailbox_txn *txn;

		/* Holds the lock for a while, and records the message at the end. */
		if (mailbox_open(&fx->user, "INBOX", &other, &err) < 0 ||
		    mailbox_begin(other, &txn, &err) < 0)
			_exit(1);
		usleep(300000);
		mailbox_abort(&txn);
		bool changed;
		_exit(mailbox_catch_up(other, &event, 1, &changed, &err) < 0);
	}
	while (!path_exists("%s/dovecot-uidlist.lock", fx->maildir))
		usleep(1000);
	catch_up(box, &event, 1);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	log = stamp_of(fx, "dovecot.index.log");
	assert_false(catch_up(box, &event, 1));
	log_after = stamp_of(fx, "dovecot.index.log");
	assert_memory_equal(&log, &log_after, sizeof log);
	/* One UID, whoever was first. */
	assert_described(box, "1 b \n");
	text = shell_output("grep -c ':b$' '%s/dovecot-uidlist'", fx->maildir);
	assert_string_equal(text, "1\n");
	free(text);
	mailbox_close(&box);
}

static void test_many_events_at_once(void **state)
{
	enum { COUNT = 500 };
	struct fixture *fx = *state;
	static char names[COUNT][64];
	static struct mail_event events[COUNT];
	struct mailbox *box;
	struct error err = {0};
	struct mail mail;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	for (int i = 0; i < COUNT; i++) {
		snprintf(names[i], sizeof names[i], "100.M%dP1.h", i);
		deliver(fx, "new", names[i], BODY);
		events[i] = event_delivered(names[i]);
	}
	assert_true(catch_up(box, events, COUNT));
	assert_int_equal(mailbox_status(box)->messages, COUNT);
	for (uint32_t uid = 1; uid <= COUNT; uid++) {
		must(mailbox_find(box, uid, &mail, &err), &err);
		assert_string_equal(mail.guid, names[uid - 1]);
	}
	assert_nothing_to_do(fx, box, events, COUNT);
	mailbox_close(&box);
}

/* ---- crashes ---- */

static const char *die_at;

static int check_uid(void *ctx, const struct mail *mail)
{
	unsigned *expected = ctx;
	char name[64];

	snprintf(name, sizeof name, "1600000000.M%06uP1.host", ++*expected);
	assert_int_equal(mail->uid, *expected);
	assert_string_equal(mail->guid, name);
	return 0;
}

/* More than one transaction takes, and one pass over the directories: UIDs in the order of the
 * names all the same. */
static void test_a_scan_of_very_many_new_files(void **state)
{
	struct fixture *fx = *state;
	struct error err;
	unsigned seen = 0;
	size_t missing;
	bool changed;

	fixture_make_maildir(fx);
	struct mailbox *box = must_open(fx, "INBOX");
	must_shell("cd '%s/new' && seq -f '1600000000.M%%06gP1.host' 70001 | xargs touch",
		   fx->maildir);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_true(changed);
	assert_int_equal(missing, 0);
	must(mailbox_each(box, 1, UINT32_MAX, check_uid, &seen, &err), &err);
	assert_int_equal(seen, 70001);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(changed);
	mailbox_close(&box);
}

static int note_guid(void *ctx, const struct mail *mail)
{
	snprintf(ctx, 64, "%u %s", mail->uid, mail->guid);
	return 1;
}

/* One that was expunged comes back among many new ones: it stays the message that it was, and has
 * one line in the end. */
static void test_many_new_files_and_one_that_reappears(void **state)
{
	static const char name[] = "1500000000.M1P1.host";
	struct fixture *fx = *state;
	struct mailbox_txn *txn;
	struct error err;
	char path[400], first[64] = "";
	size_t missing;
	bool changed;

	fixture_make_maildir(fx);
	snprintf(path, sizeof path, "%s/dovecot-uidlist", fx->maildir);
	must_shell("printf '3 V77 N2 G7931a82b8585026be40b000083ecc375\n1 Gmine :%s\n' > '%s'",
		   name, path);
	must_shell("cd '%s/new' && touch %s", fx->maildir, name);
	struct mailbox *box = must_open(fx, "INBOX");
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 1, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	must_shell(
		"cd '%s/new' && touch %s && seq -f '1600000000.M%%06gP1.host' 25001 | xargs touch",
		fx->maildir, name);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_true(changed);
	assert_int_equal(mailbox_status(box)->messages, 25002);
	assert_int_equal(mailbox_each(box, 1, UINT32_MAX, note_guid, first, &err), 1);
	assert_string_equal(first, "2 mine");
	must_shell("test $(grep -c '^[0-9]* .*:%s' '%s') = 1", name, path);
	must_shell("test $(wc -l < '%s') = 25003", path);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(changed);
	mailbox_close(&box);
}

static void die(const char *step)
{
	if (strcmp(step, die_at) == 0)
		_exit(42);
}

static void run_and_die(struct fixture *fx, const char *step)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct new_mail mail = {.uid = 3, .guid = "new", .body = BODY, .flags = MAIL_SEEN};
		struct mailbox *box = must_open(fx, "INBOX");
		struct mail_spool *spool = spool_mail(box, &mail);
		struct mailbox_txn *txn;
		struct error err;

		die_at = step;
		maildir_test_step = die;
		if (mailbox_begin(box, &txn, &err) < 0)
			_exit(1);
		txn_append(txn, spool, &mail, 3);
		mailbox_set_flags(txn, 1, MAIL_FLAGGED, (struct keyword_set){0}, 0, &err);
		mailbox_expunge(txn, 2, &err);
		mailbox_commit(&txn, NULL, &err);
		_exit(2);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 42);
}

static void check_healed(struct fixture *fx, const char *step, bool by_scan)
{
	/* What the mount saw up to there: events of everything, harmless where it did not happen.
	 */
	const struct mail_event events[] = {event_delivered("new:2,S"),
					    event_renamed("1.a", "1.a:2,F"), event_removed("2.b"),
					    event_touched()};
	struct mailbox *box = must_open(fx, "INBOX");
	struct mailbox_txn *txn;
	struct error err = {0};
	struct mail mail;
	size_t missing;
	bool changed;

	if (by_scan)
		must(mailbox_scan(box, &changed, &missing, &err), &err);
	else
		catch_up(box, events, 4);
	/* The one who asked for it does so again: idempotent by GUID. */
	if (mailbox_find(box, 3, &mail, NULL) < 0)
		append_mail(box,
			    &(struct new_mail){
				    .uid = 3, .guid = "new", .body = BODY, .flags = MAIL_SEEN});
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_flags(txn, 1, MAIL_FLAGGED, (struct keyword_set){0}, 0, &err), &err);
	if (mailbox_find(box, 2, &mail, NULL) == 0)
		must(mailbox_expunge(txn, 2, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_described(box, "1 1.a F\n3 new S\n");
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_int_equal(missing, 0);
	if (changed)
		fail_msg("cut after %s: the scan still finds something", step);
	assert_true(path_exists("%s/cur/1.a:2,F", fx->maildir));
	mailbox_close(&box);
}

static void crash_at(void **state, const char *step, bool by_scan)
{
	struct fixture *fx = *state;
	struct mailbox *box;

	fixture_make_maildir(fx);
	deliver(fx, "new", "1.a", BODY);
	deliver(fx, "new", "2.b", BODY);
	box = must_open(fx, "INBOX");
	mailbox_close(&box);
	run_and_die(fx, step);
	/* Nobody waits two seconds for a lock whose owner is dead in a test. */
	must_shell("rm '%s/dovecot-uidlist.lock'", fx->maildir);
	check_healed(fx, step, by_scan);
}

static void test_cut_after_placing_files(void **state)
{
	crash_at(state, "placed", false);
}

static void test_cut_after_placing_files_then_scan(void **state)
{
	crash_at(state, "placed", true);
}

static void test_cut_after_the_uidlist(void **state)
{
	crash_at(state, "uidlist", false);
}

static void test_cut_after_the_uidlist_then_scan(void **state)
{
	crash_at(state, "uidlist", true);
}

static void test_cut_after_renames_and_unlinks(void **state)
{
	crash_at(state, "changed", false);
}

static void test_cut_after_renames_and_unlinks_then_scan(void **state)
{
	crash_at(state, "changed", true);
}

static void test_cut_after_the_index(void **state)
{
	crash_at(state, "index", false);
}

/* The log tells that the UID is gone, and of no message. */
static void check_uid_is_gone(struct mailbox *box, uint64_t before, uint32_t uid, const char *guid)
{
	struct mailbox_changes changes;
	struct error err = {0};
	struct guid named;
	size_t i = 0;

	guid_from_message_guid(guid, &named);
	must(mailbox_changes(box, before, &changes, &err), &err);
	while (i < changes.count && changes.change[i].uid != uid)
		i++;
	assert_true(i < changes.count);
	assert_true(changes.change[i].expunged);
	assert_true(changes.change[i].has_guid);
	assert_false(guid_equal(&changes.change[i].guid, &named));
	mailbox_changes_free(&changes);
}

/* The line has the new UID, the index still the old one. */
static void change_uid_and_die(struct fixture *fx)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		struct mailbox *box = must_open(fx, "INBOX");
		struct mailbox_txn *txn;
		struct error err;

		die_at = "uidlist";
		maildir_test_step = die;
		if (mailbox_begin(box, &txn, &err) < 0)
			_exit(1);
		mailbox_change_uid(txn, 1, 5, 0, &err);
		mailbox_commit(&txn, NULL, &err);
		_exit(2);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(WEXITSTATUS(status), 42);
	must_shell("rm '%s/dovecot-uidlist.lock'", fx->maildir);
}

enum heals { HEALS_BY_SCAN, HEALS_BY_CATCH_UP, HEALS_BY_CHANGE };

static void cut_change_of_a_uid(void **state, enum heals heals)
{
	struct fixture *fx = *state;
	const struct mail_event event = event_touched();
	struct mailbox_txn *txn;
	struct mailbox *box;
	struct error err = {0};
	uint64_t before;
	size_t missing;
	bool changed;

	fixture_make_maildir(fx);
	deliver(fx, "new", "1.a", BODY);
	deliver(fx, "cur", "2.b:2,S", BODY);
	box = must_open(fx, "INBOX");
	before = mailbox_status(box)->highest_modseq;
	mailbox_close(&box);
	change_uid_and_die(fx);
	box = must_open(fx, "INBOX");
	if (heals == HEALS_BY_SCAN) {
		must(mailbox_scan(box, &changed, &missing, &err), &err);
		assert_true(changed);
		assert_int_equal(missing, 0);
	} else if (heals == HEALS_BY_CATCH_UP) {
		assert_true(catch_up(box, &event, 1));
	} else {
		must(mailbox_begin(box, &txn, &err), &err);
		mailbox_abort(&txn);
	}
	assert_described(box, "2 2.b S\n5 1.a \n");
	assert_int_equal(mailbox_status(box)->messages, 2);
	check_uid_is_gone(box, before, 1, "1.a");
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(changed);
	mailbox_close(&box);
}

static void test_cut_change_of_a_uid_then_scan(void **state)
{
	cut_change_of_a_uid(state, HEALS_BY_SCAN);
}

static void test_cut_change_of_a_uid_then_catch_up(void **state)
{
	cut_change_of_a_uid(state, HEALS_BY_CATCH_UP);
}

static void test_cut_change_of_a_uid_then_another_change(void **state)
{
	cut_change_of_a_uid(state, HEALS_BY_CHANGE);
}

/* Where the power went events come again that were taken in before: it did not come only now, a
 * peer may have been told of it. */
static void test_what_was_removed_after_a_cut_change_of_its_uid_is_recorded(void **state)
{
	struct fixture *fx = *state;
	struct mail_event events[2] = {event_delivered("1.a"), event_removed("1.a")};
	struct mailbox_changes changes;
	struct mailbox *box;
	struct error err = {0};
	struct guid guid;
	uint64_t before;
	size_t named = 0;

	fixture_make_maildir(fx);
	deliver(fx, "new", "1.a", BODY);
	deliver(fx, "cur", "2.b:2,S", BODY);
	box = must_open(fx, "INBOX");
	before = mailbox_status(box)->highest_modseq;
	mailbox_close(&box);
	change_uid_and_die(fx);
	must_shell("rm '%s/new/1.a'", fx->maildir);
	box = must_open(fx, "INBOX");
	assert_true(catch_up(box, events, 2));
	assert_described(box, "2 2.b S\n");
	guid_from_message_guid("1.a", &guid);
	must(mailbox_changes(box, before, &changes, &err), &err);
	for (size_t i = 0; i < changes.count; i++)
		named += changes.change[i].expunged && guid_equal(&changes.change[i].guid, &guid);
	assert_int_equal(named, 1);
	mailbox_changes_free(&changes);
	assert_nothing_to_do(fx, box, events, 2);
	mailbox_close(&box);
}

/* As it is where the line's new UID was completed and the old one was left. */
static void test_a_record_without_a_line_goes_by_a_scan(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	struct error err = {0};
	uint64_t before;
	size_t missing;
	bool changed;

	fixture_make_maildir(fx);
	deliver(fx, "new", "1.a", BODY);
	deliver(fx, "cur", "2.b:2,S", BODY);
	deliver(fx, "cur", "3.c:2,", BODY);
	box = must_open(fx, "INBOX");
	before = mailbox_status(box)->highest_modseq;
	must_shell("cd '%s' && rm new/1.a cur/3.c:2, && sed -i -e '/^[13] :/d' dovecot-uidlist",
		   fx->maildir);
	must(mailbox_refresh(box, &err), &err);
	assert_int_equal(mailbox_status(box)->messages, 3);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_true(changed);
	assert_int_equal(missing, 0);
	assert_described(box, "2 2.b S\n");
	assert_int_equal(mailbox_status(box)->messages, 1);
	check_uid_is_gone(box, before, 1, "1.a");
	check_uid_is_gone(box, before, 3, "3.c");
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(changed);
	mailbox_close(&box);
}

/* The peer may say that it expunged a message of which its last session with us, whose process
 * died, left only the file. So it has to be known before the mailbox is told to the peer: when it
 * is opened, or else before the first change, which then does not fit any more. */
static void test_what_a_dead_holder_left_is_taken_in_first(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box, *opened_before;
	struct mailbox_txn *txn;
	struct error err = {0};
	struct mail mail;

	fixture_make_maildir(fx);
	deliver(fx, "new", "1.a", BODY);
	deliver(fx, "new", "2.b", BODY);
	opened_before = must_open(fx, "INBOX");
	must(mailbox_settle(opened_before, &err), &err); /* nobody died */
	run_and_die(fx, "placed");
	box = must_open(fx, "INBOX");
	assert_int_equal(mailbox_find(box, 3, &mail, NULL), -ENOENT);
	must(mailbox_settle(box, &err), &err);
	assert_false(path_exists("%s/dovecot-uidlist.lock", fx->maildir));
	must(mailbox_find(box, 3, &mail, &err), &err);
	assert_string_equal(mail.guid, "new");
	mailbox_close(&box);

	/* The same again, found out only by a change. */
	must_shell("mv '%s/cur/new:2,S' '%s/cur/other:2,S'", fx->maildir, fx->maildir);
	must_shell("printf 999999:%%s \"$(uname -n)\" >'%s/dovecot-uidlist.lock'", fx->maildir);
	must(mailbox_refresh(opened_before, &err), &err);
	assert_int_equal(mailbox_begin(opened_before, &txn, &err), -ESTALE);
	must(mailbox_find(opened_before, 4, &mail, &err), &err);
	assert_string_equal(mail.guid, "other");
	mailbox_close(&opened_before);
}

/* Nor is the log that a dead holder was making waited for. */
static void test_a_log_that_a_dead_holder_was_making_is_made(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;

	fixture_make_maildir(fx);
	deliver(fx, "new", "1.a", BODY);
	must_shell("printf 999999:%%s \"$(uname -n)\" >'%s/dovecot-uidlist.lock'; "
		   "echo of a log >'%s/dovecot.index.log.newlock'",
		   fx->maildir, fx->maildir);
	box = must_open(fx, "INBOX");
	assert_int_equal(mailbox_status(box)->messages, 1);
	assert_false(path_exists("%s/dovecot.index.log.newlock", fx->maildir));
	mailbox_close(&box);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_deliveries_get_uids),
		UNIT(test_a_delivery_that_is_gone_again_gets_none),
		UNIT(test_a_removal_that_nothing_tells_of_is_recorded),
		UNIT(test_a_removal_is_recorded_by_the_list_that_was),
		UNIT(test_renames_are_flag_changes),
		UNIT(test_a_request_is_about_its_own_message),
		UNIT(test_removals_are_expunges_when_the_file_is_gone),
		UNIT(test_a_file_that_is_only_missing_is_no_expunge),
		UNIT(test_an_expunged_message_that_reappears_gets_a_new_uid),
		UNIT(test_lines_without_a_record_are_completed),
		UNIT(test_the_holder_of_the_lock_is_waited_for),
		UNIT(test_many_events_at_once),
		UNIT(test_a_scan_of_very_many_new_files),
		UNIT(test_many_new_files_and_one_that_reappears),
		UNIT(test_what_was_removed_after_a_cut_change_of_its_uid_is_recorded),
		UNIT(test_cut_after_placing_files),
		UNIT(test_cut_after_placing_files_then_scan),
		UNIT(test_cut_after_the_uidlist),
		UNIT(test_cut_after_the_uidlist_then_scan),
		UNIT(test_cut_after_renames_and_unlinks),
		UNIT(test_cut_after_renames_and_unlinks_then_scan),
		UNIT(test_cut_after_the_index),
		UNIT(test_cut_change_of_a_uid_then_scan),
		UNIT(test_cut_change_of_a_uid_then_catch_up),
		UNIT(test_cut_change_of_a_uid_then_another_change),
		UNIT(test_a_record_without_a_line_goes_by_a_scan),
		UNIT(test_what_a_dead_holder_left_is_taken_in_first),
		UNIT(test_a_log_that_a_dead_holder_was_making_is_made),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
