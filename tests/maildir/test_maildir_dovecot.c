/*
 * Beside a real Dovecot: what it wrote is read as it reads it, what we write it takes without a
 * warning, and a forced resync by it changes nothing.
 *
 * Needs root (mail belongs to another uid) and Dovecot's doveadm and imap; skipped elsewhere.
 */
#include "tests/maildir/dovecot_view.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BODY "From: a@example.org\nSubject: x\n\nline one\nline two\n"

/* ---- tests ---- */

static void test_appended_messages(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");
	char *text;

	append_mail(box, &(struct new_mail){.uid = 5,
					    .guid = "1.M2P3.host,S=50,W=55",
					    .body = BODY,
					    .flags = MAIL_SEEN | MAIL_FLAGGED,
					    .keywords = {"$Label1", "NonJunk"},
					    .modseq = 77,
					    .saved = 1500000000,
					    .pop3 = {"uidl5", 17}});
	append_mail(box, &(struct new_mail){.guid = "2.M2P3.host", .body = BODY, .recent = true});
	append_mail(box, &(struct new_mail){.uid = 20, .guid = "has/slash", .body = BODY});
	append_mail(box, &(struct new_mail){.guid = "0123456789abcdef0123456789abcdef",
					    .body = BODY,
					    .flags = MAIL_DRAFT});
	assert_agrees(fx, box);
	text = doveadm(
		fx, "-f tab fetch 'uid date.saved pop3.uidl pop3.order size.physical size.virtual' "
		    "mailbox INBOX uid 5");
	assert_non_null(strstr(text, "5\t2017-07-14 02:40:00\tuidl5\t17\t50\t55"));
	free(text);
	mailbox_close(&box);
}

static void test_a_message_without_index_records(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");

	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY});
	deliver(fx, "new", "b", BODY);
	must_shell("printf '9 Gother :b\\n' >> '%s/dovecot-uidlist'; chown %d:%d '%s'/new/b",
		   fx->maildir, MAIL_UID, MAIL_UID, fx->maildir);
	catch_up(
		box,
		&(struct mail_event){
			.kind = MAIL_EVENT_TOUCHED, .home = "", .dir = "", .name = "", .name2 = ""},
		1);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

static void test_changes_and_expunges(void **state)
{
	struct fixture *fx = *state;
	const char *keywords[] = {"$Label1", "Custom"};
	struct mailbox *box = must_open(fx, "INBOX");
	struct mailbox_txn *txn;
	struct error err = {0};
	char name[32];

	for (int i = 1; i <= 8; i++) {
		snprintf(name, sizeof name, "%d.a", i);
		append_mail(box,
			    &(struct new_mail){.guid = name, .body = BODY, .recent = i % 2 == 0});
	}
	assert_agrees(fx, box);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_flags(txn, 1, MAIL_SEEN, (struct keyword_set){keywords, 2}, 0, &err),
	     &err);
	must(mailbox_set_flags(txn, 2, MAIL_ANSWERED, (struct keyword_set){keywords, 1}, 400, &err),
	     &err);
	must(mailbox_expunge(txn, 3, &err), &err);
	must(mailbox_change_uid(txn, 4, 30, 401, &err), &err);
	must(mailbox_raise(txn, 40, 500, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_agrees(fx, box);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_flags(txn, 1, 0, (struct keyword_set){0}, 0, &err), &err);
	must(mailbox_copy(txn, 2, &(struct mail){.uid = 40, .guid = "2.a"}, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

static void test_new_guid_and_uidvalidity(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");
	struct mailbox_txn *txn;
	struct guid guid;
	struct error err = {0};

	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY, .flags = MAIL_SEEN});
	append_mail(box, &(struct new_mail){.guid = "b", .body = BODY});
	assert_agrees(fx, box);
	guid_generate(&guid);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_guid(txn, &guid, false, &err), &err);
	must(mailbox_set_uid_validity(txn, 1900000000, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

/* Dovecot delivers, flags and expunges; we only look. */
static void test_what_dovecot_does_is_seen_without_a_lock(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");
	struct mail_event touched = event_touched();
	struct file_stamp log, log_after;
	char path[400], *own, *theirs;

	snprintf(path, sizeof path, "%s/mail.txt", fx->root);
	write_file(path, BODY, strlen(BODY));
	for (int i = 0; i < 5; i++)
		free(doveadm_with(fx, path, "save -m INBOX"));
	free(doveadm(fx, "flags add '\\Seen $Label1 Custom' mailbox INBOX uid 2:3"));
	free(doveadm(fx, "flags remove 'Custom' mailbox INBOX uid 3"));
	free(doveadm(fx, "expunge mailbox INBOX uid 4"));
	theirs = dovecot_view(fx);
	log = stamp_of(fx, "dovecot.index.log");
	must_shell("echo 1:elsewhere > '%s/dovecot-uidlist.lock'", fx->maildir);
	assert_false(catch_up(box, &touched, 1));
	must_shell("rm '%s/dovecot-uidlist.lock'", fx->maildir);
	own = own_view(box);
	assert_string_equal(own, theirs);
	log_after = stamp_of(fx, "dovecot.index.log");
	assert_memory_equal(&log, &log_after, sizeof log);
	free(own);
	free(theirs);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

static void test_an_imap_session_and_plain_programs(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");
	struct mail_event events[3];
	char *text;

	append_mail(box, &(struct new_mail){.guid = "1.a", .body = BODY, .flags = MAIL_SEEN});
	append_mail(box, &(struct new_mail){.guid = "2.b", .body = BODY, .keywords = {"K1"}});
	text = imap(fx, "a SELECT INBOX\r\nb STORE 1 +FLAGS (\\Flagged K2)\r\n"
			"c UID FETCH 1:* (FLAGS MODSEQ)\r\nd LOGOUT\r\n");
	assert_non_null(strstr(text, "b OK"));
	free(text);
	assert_agrees(fx, box);
	/* Postfix, mutt and rm. */
	deliver(fx, "new", "3.c", BODY);
	must_shell("cd '%s' && chown %d:%d new/3.c && mv cur/2.b:2,a cur/2.b:2,Ta && "
		   "rm cur/1.a:2,*",
		   fx->maildir, MAIL_UID, MAIL_UID);
	events[0] = event_delivered("3.c");
	events[1] = event_renamed("2.b:2,a", "2.b:2,Ta");
	events[2] = event_removed("1.a:2,FSb");
	assert_true(catch_up(box, events, 3));
	assert_int_equal(mailbox_status(box)->messages, 2);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

/* Dovecot finds the file gone and records that without its GUID; what the log tells of the UID that
 * the message had before is not its end. */
static void expect_removal_recorded(struct fixture *fx, bool has_line)
{
	struct mail_event event = {
		.kind = MAIL_EVENT_REMOVED, .home = "", .dir = "", .name = "a:2,", .name2 = ""};
	struct mailbox *box = must_open(fx, "INBOX");
	struct mailbox_changes changes;
	struct mailbox_txn *txn;
	struct error err = {0};
	struct guid guid;
	size_t told = 0;
	uint64_t before;

	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY});
	for (int i = 0; i < 8; i++)
		append_mail(box,
			    &(struct new_mail){.guid = (char[]){(char)('b' + i), 0}, .body = BODY});
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, 1, 10, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	before = mailbox_status(box)->highest_modseq;
	must_shell("rm '%s'/*/a*", fx->maildir);
	free(doveadm(fx, "-f tab fetch uid mailbox INBOX"));
	if (!has_line) /* it writes the list anew when many of its lines are of no message */
		must_shell("sed -i '/:a$/d' '%s/dovecot-uidlist'", fx->maildir);
	catch_up(box, &event, 1);
	assert_agrees(fx, box);
	guid_from_message_guid("a", &guid);
	must(mailbox_changes(box, before, &changes, &err), &err);
	for (size_t i = 0; i < changes.count; i++)
		told += changes.change[i].expunged && changes.change[i].has_guid &&
			changes.change[i].uid == (has_line ? 10 : 11) &&
			guid_equal(&changes.change[i].guid, &guid);
	assert_int_equal(told, 1);
	mailbox_changes_free(&changes);
	mailbox_close(&box);
}

static void test_a_removal_after_a_change_of_uid_is_recorded(void **state)
{
	expect_removal_recorded(*state, true);
}

static void test_a_removal_is_recorded_that_the_uidlist_forgot(void **state)
{
	expect_removal_recorded(*state, false);
}

/* What the mount saw is still on its way. */
static void test_an_expunge_of_a_missing_file_is_named(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");
	struct mailbox_changes changes;
	struct error err = {0};
	struct guid guid;
	uint64_t before;

	for (int i = 0; i < 8; i++) /* so that Dovecot keeps the message's line */
		append_mail(box,
			    &(struct new_mail){.guid = (char[]){(char)('a' + i), 0}, .body = BODY});
	before = mailbox_status(box)->highest_modseq;
	must_shell("rm '%s'/*/c*", fx->maildir);
	free(doveadm(fx, "-f tab fetch uid mailbox INBOX"));
	mailbox_close(&box);
	box = must_open(fx, "INBOX");
	assert_int_equal(mailbox_status(box)->messages, 7);
	must(mailbox_changes(box, before, &changes, &err), &err);
	guid_from_message_guid("c", &guid);
	assert_int_equal(changes.count, 1);
	assert_true(changes.change[0].expunged && changes.change[0].has_guid);
	assert_true(guid_equal(&changes.change[0].guid, &guid));
	mailbox_changes_free(&changes);
	mailbox_close(&box);
}

static void test_crashed_index_is_rebuilt_and_taken(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");
	struct error err = {0};

	append_mail(box, &(struct new_mail){.uid = 3, .guid = "a", .body = BODY});
	append_mail(box,
		    &(struct new_mail){.uid = 8, .guid = "b", .body = BODY, .keywords = {"K"}});
	mailbox_close(&box);
	must_shell("printf garbage > '%s/dovecot.index.log'; sed -i 's/^3 V[0-9]*/3 Vx/' "
		   "'%s/dovecot-uidlist'",
		   fx->maildir, fx->maildir);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	box = must_open(fx, "INBOX");
	assert_agrees(fx, box);
	mailbox_close(&box);
}

static void test_damage_before_the_snapshot(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");

	for (int i = 0; i < 5; i++)
		append_mail(box,
			    &(struct new_mail){.guid = (char[]){(char)('a' + i), 0}, .body = BODY});
	mailbox_close(&box);
	check_damage_before_the_snapshot(fx, fx->maildir);
}

static void test_separate_index_and_control_directories(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	char path[400];

	dovecot_set_location(fx, "maildir:~/Maildir:INDEX=~/idx:CONTROL=~/ctl", '/');
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY, .keywords = {"K"}});
	must_shell("chown -R %d:%d '%s/idx' '%s/ctl'", MAIL_UID, MAIL_UID, fx->home, fx->home);
	assert_agrees(fx, box);
	snprintf(path, sizeof path, "%s/mail.txt", fx->root);
	write_file(path, BODY, strlen(BODY));
	free(doveadm_with(fx, path, "save -m INBOX"));
	free(doveadm(fx, "flags add 'K L' mailbox INBOX uid 2"));
	assert_agrees(fx, box);
	append_mail(box, &(struct new_mail){.guid = "b", .body = BODY, .keywords = {"L"}});
	assert_agrees(fx, box);
	mailbox_close(&box);
}

/* A client that was on the other node knows a MODSEQ that this one's log leaves out, by the last
 * change that is in it. */
static void test_a_client_knows_a_modseq_that_is_left_out(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");
	struct mailbox_txn *txn;
	struct error err = {0};
	char commands[200], *text;
	uint64_t known;

	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY});
	text = imap(fx, "a ENABLE QRESYNC\r\nb SELECT INBOX\r\n"
			"c UID STORE 1 +FLAGS (\\Flagged)\r\nd LOGOUT\r\n");
	free(text);
	must(mailbox_refresh(box, &err), &err);
	must(mailbox_begin(box, &txn, &err), &err);
	known = mailbox_status(box)->highest_modseq + 2;
	must(mailbox_raise(txn, 0, known + 2, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	snprintf(commands, sizeof commands,
		 "a ENABLE QRESYNC\r\nb SELECT INBOX (QRESYNC (%u %" PRIu64 "))\r\nc LOGOUT\r\n",
		 mailbox_status(box)->uid_validity, known);
	text = imap(fx, commands);
	assert_non_null(strstr(text, "b OK"));
	free(text);
	assert_no_complaints(fx);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

static void test_ownership_follows_the_directory(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = must_open(fx, "INBOX");
	char *text;

	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY, .keywords = {"K"}});
	text = shell_output("find '%s' ! -uid %d", fx->maildir, MAIL_UID);
	assert_string_equal(text, "");
	free(text);
	mailbox_close(&box);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, dovecot_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_appended_messages),
		UNIT(test_a_message_without_index_records),
		UNIT(test_changes_and_expunges),
		UNIT(test_new_guid_and_uidvalidity),
		UNIT(test_what_dovecot_does_is_seen_without_a_lock),
		UNIT(test_an_imap_session_and_plain_programs),
		UNIT(test_a_removal_after_a_change_of_uid_is_recorded),
		UNIT(test_a_removal_is_recorded_that_the_uidlist_forgot),
		UNIT(test_an_expunge_of_a_missing_file_is_named),
		UNIT(test_crashed_index_is_rebuilt_and_taken),
		UNIT(test_damage_before_the_snapshot),
		UNIT(test_separate_index_and_control_directories),
		UNIT(test_a_client_knows_a_modseq_that_is_left_out),
		UNIT(test_ownership_follows_the_directory),
	};

	if (!dovecot_is_there()) {
		printf("skipped: needs root and Dovecot\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
