/* A Maildir mailbox without Dovecot: open, transactions, bodies, scan, rebuild. */
#include "tests/maildir/maildir_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* 49 bytes, 54 with CRLF. */
#define BODY "From: a@example.org\nSubject: x\n\nline one\nline 2.\n"

static char *uidlist_of(const struct fixture *fx)
{
	char path[400];

	snprintf(path, sizeof path, "%s/dovecot-uidlist", fx->maildir);
	return read_file(path);
}

static void assert_described(struct mailbox *box, const char *expected)
{
	char *text = describe(box, false);

	assert_string_equal(text, expected);
	free(text);
}

static void test_open_makes_a_mailbox_of_a_directory(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	struct mailbox_status first;
	struct error err = {0};

	assert_int_equal(mailbox_open(&fx->user, "INBOX", &box, &err), -ENOENT);
	assert_non_null(strstr(err.text, "alice@example.org"));
	assert_non_null(strstr(err.text, "INBOX"));
	must_shell("mkdir -p '%s'", fx->maildir);
	box = must_open(fx, "INBOX");
	first = *mailbox_status(box);
	assert_false(guid_is_empty(&first.guid));
	assert_true(first.uid_validity != 0);
	assert_int_equal(first.uid_next, 1);
	assert_int_equal(first.messages, 0);
	assert_int_equal(first.highest_modseq, 1);
	mailbox_close(&box);
	assert_true(path_exists("%s/tmp", fx->maildir));
	box = must_open(fx, "INBOX");
	assert_memory_equal(&first, mailbox_status(box), sizeof first);
	mailbox_close(&box);
	assert_false(path_exists("%s/dovecot-uidlist.lock", fx->maildir));
}

static void test_open_gives_uids_in_the_order_of_delivery(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	char path[400];

	fixture_make_maildir(fx);
	snprintf(path, sizeof path, "%s/dovecot-keywords", fx->maildir);
	write_file(path, "0 $Label1\n", 10);
	deliver(fx, "new", "100.M9P1.host", BODY);
	deliver(fx, "cur", "100.M10P1.host:2,FSa", BODY);
	deliver(fx, "new", "20.M1P1.host", BODY);
	box = must_open(fx, "INBOX");
	assert_described(box, "1 20.M1P1.host \n2 100.M9P1.host \n3 100.M10P1.host FS $Label1\n");
	mailbox_close(&box);
}

static void test_append_stores_everything(void **state)
{
	struct fixture *fx = *state;
	struct mail_body_info info;
	struct mailbox *box;
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.uid = 5,
					    .guid = "1.M2P3.host,S=49,W=54",
					    .body = BODY,
					    .flags = MAIL_SEEN | MAIL_FLAGGED,
					    .keywords = {"$Label1", "NonJunk"},
					    .modseq = 77,
					    .saved = 1500000000,
					    .pop3 = {"uidl:5", 17}});
	append_mail(box,
		    &(struct new_mail){.guid = "has/slash", .body = "a\r\nb\n", .recent = true});
	assert_int_equal(mailbox_status(box)->uid_next, 7);
	assert_int_equal(mailbox_status(box)->messages, 2);
	assert_int_equal(mailbox_status(box)->highest_modseq, 78);
	assert_int_equal(mailbox_status(box)->first_recent_uid, 6);
	assert_described(box, "5 1.M2P3.host,S=49,W=54 FS $Label1 NonJunk\n6 has/slash \n");
	assert_true(path_exists("%s/cur/1.M2P3.host,S=49,W=54:2,FSab", fx->maildir));
	text = body_of(box, 5, &info);
	assert_string_equal(text, BODY);
	assert_int_equal(info.received, 1675252801);
	assert_int_equal(info.saved, 1500000000);
	assert_string_equal(info.pop3_uidl, "uidl:5");
	assert_int_equal(info.pop3_order, 17);
	free(text);
	text = body_of(box, 6, NULL);
	assert_string_equal(text, "a\r\nb\n");
	free(text);
	text = uidlist_of(fx);
	assert_non_null(strstr(text, "\n5 Puidl:5 O17 :1.M2P3.host,S=49,W=54\n6 Ghas/slash :"));
	assert_non_null(strstr(text, ",S=5,W=6\n"));
	free(text);
	/* The view of somebody else. */
	mailbox_close(&box);
	box = must_open(fx, "INBOX");
	assert_described(box, "5 1.M2P3.host,S=49,W=54 FS $Label1 NonJunk\n6 has/slash \n");
	mailbox_close(&box);
	text = shell_output("find '%s/tmp' '%s/new' -type f | wc -l", fx->maildir, fx->maildir);
	assert_string_equal(text, "1\n");
	free(text);
}

static void test_a_guid_with_other_sizes_is_not_taken_for_a_name(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "1.x,S=5,W=5", .body = BODY});
	assert_described(box, "1 1.x,S=5,W=5 \n");
	assert_false(path_exists("%s/cur/1.x,S=5,W=5:2,", fx->maildir));
	/* A name without sizes: they are in the line. */
	append_mail(box,
		    &(struct new_mail){.guid = "0123456789abcdef0123456789abcdef", .body = BODY});
	assert_true(path_exists("%s/cur/0123456789abcdef0123456789abcdef:2,", fx->maildir));
	text = uidlist_of(fx);
	assert_non_null(strstr(text, "\n2 S49 W54 :0123456789abcdef0123456789abcdef\n"));
	free(text);
	mailbox_close(&box);
}

static void test_two_messages_with_one_guid(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "same", .body = BODY});
	append_mail(box, &(struct new_mail){.guid = "same", .body = BODY});
	assert_described(box, "1 same \n2 same \n");
	text = body_of(box, 2, NULL);
	assert_string_equal(text, BODY);
	free(text);
	mailbox_close(&box);
}

static void test_a_message_that_comes_back_after_an_expunge(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_txn *txn;
	struct mailbox *box;
	struct error err = {0};
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "back", .body = BODY});
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 1, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_false(path_exists("%s/cur/back:2,", fx->maildir));
	append_mail(box, &(struct new_mail){.guid = "back", .body = BODY});
	assert_described(box, "2 back \n");
	text = uidlist_of(fx);
	assert_null(strstr(text, "\n1 ")); /* no second line for the name */
	assert_true(path_exists("%s/cur/back:2,", fx->maildir));
	free(text);
	mailbox_close(&box);
}

static void test_a_file_left_by_a_crash_is_reused(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	deliver(fx, "cur", "left:2,", BODY);
	deliver(fx, "cur", "other:2,", "something else\n");
	append_mail(box, &(struct new_mail){.guid = "left", .body = BODY});
	append_mail(box, &(struct new_mail){.guid = "other", .body = BODY});
	assert_described(box, "1 left \n2 other \n");
	text = body_of(box, 2, NULL);
	assert_string_equal(text, BODY);
	free(text);
	text = shell_output("ls '%s/cur' | wc -l; ls '%s/tmp' | wc -l", fx->maildir, fx->maildir);
	assert_string_equal(text, "3\n0\n");
	free(text);
	mailbox_close(&box);
}

static void test_flags_and_keywords_are_set_and_renamed(void **state)
{
	struct fixture *fx = *state;
	const char *first[] = {"$Label1"}, *second[] = {"NonJunk"};
	struct mailbox_txn *txn;
	struct mailbox *box;
	struct mail mail;
	struct error err = {0};
	uint64_t modseq;

	fixture_make_maildir(fx);
	deliver(fx, "new", "a", BODY);
	deliver(fx, "cur", "b:2,PS", BODY);
	box = must_open(fx, "INBOX");
	modseq = mailbox_status(box)->highest_modseq;
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_flags(txn, 1, MAIL_SEEN, (struct keyword_set){first, 1}, 0, &err), &err);
	must(mailbox_set_flags(txn, 2, MAIL_DRAFT, (struct keyword_set){0}, modseq + 100, &err),
	     &err);
	assert_int_equal(mailbox_set_flags(txn, 9, 0, (struct keyword_set){0}, 0, &err), -ENOENT);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_described(box, "1 a S $Label1\n2 b D\n");
	assert_true(path_exists("%s/cur/a:2,Sa", fx->maildir));
	assert_true(path_exists("%s/cur/b:2,DP", fx->maildir));
	must(mailbox_find(box, 2, &mail, &err), &err);
	assert_int_equal(mail.modseq, modseq + 100);
	/* Twice in one transaction: the later counts. */
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_flags(txn, 1, MAIL_DELETED, (struct keyword_set){0}, 0, &err), &err);
	must(mailbox_set_flags(txn, 1, MAIL_FLAGGED, (struct keyword_set){second, 1}, 0, &err),
	     &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_described(box, "1 a F NonJunk\n2 b D\n");
	assert_true(path_exists("%s/cur/a:2,Fb", fx->maildir));
	mailbox_close(&box);
}

/* A base name of the length that leaves no room for a flag. */
#define LONG_BASE_LEN (NAME_MAX - 3)

static void set_one(struct mailbox *box, uint32_t uid, uint8_t flags)
{
	struct mailbox_txn *txn;
	struct error err = {0};

	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_flags(txn, uid, flags, (struct keyword_set){0}, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

/* The mailbox has these messages, and the file of the long name is called so; and no scan finds
 * anything to be recorded. */
static void check_long(struct fixture *fx, struct mailbox *box, const char *expected,
		       const char *file)
{
	struct error err = {0};
	size_t missing;
	bool changed;
	char *text;

	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(changed);
	assert_int_equal(missing, 0);
	text = describe(box, false);
	assert_string_equal(text, expected);
	free(text);
	assert_true(path_exists("%s/%s", fx->maildir, file));
}

/* Others' flags are set all the same, and the message's as far as the index. */
static void test_a_name_that_is_too_long_for_flags(void **state)
{
	struct fixture *fx = *state;
	char base[LONG_BASE_LEN + 1], in_new[300], in_cur[300], expected[400];
	struct mailbox_txn *txn;
	struct mailbox *box;
	struct error err = {0};

	memset(base, 'x', LONG_BASE_LEN);
	memcpy(base, "1.", 2);
	base[LONG_BASE_LEN] = '\0';
	snprintf(in_new, sizeof in_new, "new/%s", base);
	snprintf(in_cur, sizeof in_cur, "cur/%s:2,", base);
	fixture_make_maildir(fx);
	deliver(fx, "new", base, BODY);
	deliver(fx, "new", "2.b", BODY);
	box = must_open(fx, "INBOX");
	must(mailbox_begin(box, &txn, &err), &err);
	for (uint32_t uid = 1; uid <= 2; uid++)
		must(mailbox_set_flags(txn, uid, MAIL_SEEN, (struct keyword_set){0}, 0, &err),
		     &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_true(path_exists("%s/cur/2.b:2,S", fx->maildir));
	snprintf(expected, sizeof expected, "1 %s S\n2 2.b S\n", base);
	check_long(fx, box, expected, in_new);

	/* So it stays under another UID, and with other flags. */
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, 1, 5, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	snprintf(expected, sizeof expected, "2 2.b S\n5 %s S\n", base);
	check_long(fx, box, expected, in_new);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_flags(txn, 5, MAIL_FLAGGED, (struct keyword_set){0}, 0, &err), &err);
	must(mailbox_change_uid(txn, 5, 6, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	snprintf(expected, sizeof expected, "2 2.b S\n6 %s F\n", base);
	check_long(fx, box, expected, in_new);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, 6, 7, 0, &err), &err);
	must(mailbox_set_flags(txn, 7, MAIL_DRAFT, (struct keyword_set){0}, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	snprintf(expected, sizeof expected, "2 2.b S\n7 %s D\n", base);
	check_long(fx, box, expected, in_new);

	/* Its file is lost. */
	must_shell("rm '%s/%s'", fx->maildir, in_new);
	append_mail(box, &(struct new_mail){.uid = 7, .guid = base, .body = BODY});
	snprintf(in_new, sizeof in_new, "cur/%s", base);
	check_long(fx, box, expected, in_new);

	/* The name says it again as soon as it can. */
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, 7, 8, 0, &err), &err);
	must(mailbox_set_flags(txn, 8, 0, (struct keyword_set){0}, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	snprintf(expected, sizeof expected, "2 2.b S\n8 %s \n", base);
	check_long(fx, box, expected, in_cur);
	must_shell("mv '%s/%s' '%s/cur/8.short:2,F'", fx->maildir, in_cur, fx->maildir);
	must_shell("sed -i 's/%s/8.short/' '%s/dovecot-uidlist'", base, fx->maildir);
	must(mailbox_scan(box, &(bool){false}, &(size_t){0}, &err), &err);
	check_long(fx, box, "2 2.b S\n8 8.short F\n", "cur/8.short:2,F");
	set_one(box, 8, MAIL_SEEN);
	check_long(fx, box, "2 2.b S\n8 8.short S\n", "cur/8.short:2,S");
	mailbox_close(&box);
}

static void test_change_uid_keeps_the_file(void **state)
{
	struct fixture *fx = *state;
	const char *keyword[] = {"$Label1"};
	struct mailbox_txn *txn;
	struct mailbox *box;
	struct error err = {0};
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY, .keywords = {"K"}});
	append_mail(box, &(struct new_mail){.guid = "b", .body = BODY, .flags = MAIL_SEEN});
	must(mailbox_begin(box, &txn, &err), &err);
	assert_int_equal(mailbox_change_uid(txn, 1, 2, 0, &err), -EINVAL);
	mailbox_abort(&txn);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, 1, 10, 500, &err), &err);
	must(mailbox_change_uid(txn, 2, 11, 501, &err), &err);
	/* Flags before and after a change of UID in one transaction. */
	must(mailbox_set_flags(txn, 11, MAIL_FLAGGED, (struct keyword_set){keyword, 1}, 0, &err),
	     &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_described(box, "10 a  K\n11 b F $Label1\n");
	assert_int_equal(mailbox_status(box)->uid_next, 12);
	assert_true(path_exists("%s/cur/b:2,Fb", fx->maildir));
	text = uidlist_of(fx);
	assert_non_null(strstr(text, "\n10 S49 W54 :a\n11 S49 W54 :b\n"));
	assert_null(strstr(text, "\n1 "));
	free(text);
	mailbox_close(&box);
}

static void test_copy_is_a_second_instance(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_txn *txn;
	struct mailbox *box;
	struct error err = {0};
	struct mail mail = {.uid = 4, .flags = MAIL_SEEN, .guid = "1.x,S=49,W=54"};
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "1.x,S=49,W=54", .body = BODY});
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_copy(txn, 1, &mail, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_described(box, "1 1.x,S=49,W=54 \n4 1.x,S=49,W=54 S\n");
	text = body_of(box, 4, NULL);
	assert_string_equal(text, BODY);
	free(text);
	text = shell_output("stat -c %%h '%s/cur/1.x,S=49,W=54:2,'", fx->maildir);
	assert_string_equal(text, "2\n");
	free(text);
	mailbox_close(&box);
}

static void test_header_values_are_set_and_raised(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_txn *txn;
	struct mailbox *box;
	struct guid guid;
	struct error err = {0};

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY, .recent = true});
	guid_generate(&guid);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_uid_validity(txn, 4242, &err), &err);
	must(mailbox_set_guid(txn, &guid, false, &err), &err);
	must(mailbox_raise(txn, 50, 1000, 2, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(mailbox_status(box)->uid_validity, 4242);
		assert_true(guid_equal(&mailbox_status(box)->guid, &guid));
		assert_int_equal(mailbox_status(box)->uid_next, 50);
		assert_int_equal(mailbox_status(box)->highest_modseq, 1000);
		assert_int_equal(mailbox_status(box)->first_recent_uid, 2);
		assert_described(box, "1 a \n");
		mailbox_close(&box);
		box = must_open(fx, "INBOX");
	}
	/* Never lowered. */
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_raise(txn, 10, 10, 1, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_int_equal(mailbox_status(box)->uid_next, 50);
	assert_int_equal(mailbox_status(box)->highest_modseq, 1000);
	mailbox_close(&box);
}

static void test_abort_leaves_nothing(void **state)
{
	struct fixture *fx = *state;
	struct new_mail mail = {.guid = "a", .body = BODY};
	struct mailbox_txn *txn;
	struct mail_spool *spool;
	struct mailbox *box;
	struct error err = {0};
	struct file_stamp before, after;
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	before = stamp_of(fx, "dovecot.index.log");
	spool = spool_mail(box, &mail);
	must(mailbox_begin(box, &txn, &err), &err);
	txn_append(txn, spool, &mail, 1);
	mailbox_abort(&txn);
	spool = spool_mail(box, &mail);
	mailbox_spool_discard(&spool);
	after = stamp_of(fx, "dovecot.index.log");
	assert_memory_equal(&before, &after, sizeof before);
	text = shell_output("find '%s' -type f | grep -v dovecot | wc -l; ls '%s'/*.lock 2>&1 | "
			    "grep -c 'No such'",
			    fx->maildir, fx->maildir);
	assert_string_equal(text, "0\n1\n");
	free(text);
	mailbox_close(&box);
}

static void test_foreign_changes_are_told(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_txn *txn;
	struct mailbox *box, *other;
	struct error err = {0};
	bool foreign;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_commit(&txn, &foreign, &err), &err);
	assert_false(foreign);
	other = must_open(fx, "INBOX");
	append_mail(other, &(struct new_mail){.guid = "a", .body = BODY});
	must(mailbox_begin(box, &txn, &err), &err);
	assert_int_equal(mailbox_status(box)->messages, 1);
	must(mailbox_commit(&txn, &foreign, &err), &err);
	assert_true(foreign);
	mailbox_close(&other);
	mailbox_close(&box);
}

/* Gives the file dir/base flags and takes them, until it is killed. */
static pid_t begin_renaming(const char *dir, const char *base)
{
	char one[500], two[500];
	pid_t pid;

	snprintf(one, sizeof one, "%s/%s:2,", dir, base);
	snprintf(two, sizeof two, "%s/%s:2,S", dir, base);
	pid = fork();
	assert_true(pid >= 0);
	while (pid == 0) {
		rename(one, two);
		rename(two, one);
	}
	return pid;
}

static void end_renaming(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* What happens in new/ hides no message: who is not found meanwhile is missing. What is renamed in
 * cur/ all the time may be found or not, and is never missing. */
static void test_absence_in_a_busy_mailbox(void **state)
{
	struct fixture *fx = *state;
	struct mail_body_info info;
	struct mail_body *body;
	struct error err = {0};
	struct mailbox *box;
	char dir[400], busy[500];

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.uid = 1, .guid = "a", .body = BODY});
	append_mail(box, &(struct new_mail){.uid = 2, .guid = "b", .body = BODY});
	must_shell("rm '%s'/cur/a*", fx->maildir);
	snprintf(dir, sizeof dir, "%s/new", fx->maildir);
	snprintf(busy, sizeof busy, "%s/busy:2,", dir);
	write_file(busy, "x", 1);
	pid_t pid = begin_renaming(dir, "busy");
	int rc = mailbox_body_open(box, 1, &body, &info, &err);
	end_renaming(pid);
	assert_int_equal(rc, -ENOENT);
	snprintf(dir, sizeof dir, "%s/cur", fx->maildir);
	pid = begin_renaming(dir, "b");
	for (int i = 0; i < 200 && rc != 0; i++) {
		rc = mailbox_body_open(box, 2, &body, &info, &err);
		if (rc == 0)
			mailbox_body_close(&body);
		else if (rc == -ENOENT)
			break;
		rc = -EAGAIN;
	}
	end_renaming(pid);
	assert_int_equal(rc, -EAGAIN);
	mailbox_close(&box);
}

static void test_a_scan_clears_what_a_dead_process_spooled(void **state)
{
	struct fixture *fx = *state;
	struct error err = {0};
	struct mailbox *box;
	char dead[400], alive[400];
	size_t missing;
	bool changed;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0)
		_exit(0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	snprintf(dead, sizeof dead, "%s/tmp/dsyncfs.%ld.1.M1P1.host", fx->maildir, (long)pid);
	snprintf(alive, sizeof alive, "%s/tmp/dsyncfs.%ld.1.M1P1.host", fx->maildir,
		 (long)getpid());
	write_file(dead, "x", 1);
	write_file(alive, "x", 1);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(path_exists("%s", dead));
	assert_true(path_exists("%s", alive));
	mailbox_close(&box);
}

static void test_a_missing_file_is_put_back(void **state)
{
	struct fixture *fx = *state;
	struct new_mail mail = {.uid = 1, .guid = "a", .body = BODY, .flags = MAIL_SEEN};
	struct mailbox *box;
	struct mail_body *body;
	struct mail_body_info info;
	struct mailbox_txn *txn;
	struct mail_spool *spool;
	struct mail other = {.uid = 1, .guid = "b"};
	struct error err = {0};
	size_t missing;
	bool changed;
	char *text;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &mail);
	must_shell("rm '%s/cur/a:2,S'", fx->maildir);
	assert_int_equal(mailbox_body_open(box, 1, &body, &info, &err), -ENOENT);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(changed);
	assert_int_equal(missing, 1);
	assert_described(box, "1 a S\n"); /* absence is no expunge */
	append_mail(box, &mail);
	text = body_of(box, 1, NULL);
	assert_string_equal(text, BODY);
	free(text);
	assert_true(path_exists("%s/cur/a:2,S", fx->maildir));
	assert_int_equal(mailbox_status(box)->messages, 1);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_int_equal(missing, 0);
	/* Another message under this UID is refused. */
	spool = spool_mail(box, &mail);
	must(mailbox_begin(box, &txn, &err), &err);
	assert_int_equal(mailbox_append(txn, &spool, &other, 0, (struct mail_pop3){0}, &err),
			 -EEXIST);
	mailbox_abort(&txn);
	mailbox_close(&box);
}

static void test_scan_records_what_nobody_told(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	struct error err = {0};
	struct file_stamp before, after;
	size_t missing;
	bool changed;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY});
	append_mail(box, &(struct new_mail){.guid = "b", .body = BODY});
	deliver(fx, "new", "30.M1P1.h", BODY);
	deliver(fx, "new", "4.M1P1.h", BODY);
	must_shell("mv '%s/cur/a:2,' '%s/cur/a:2,FT'", fx->maildir, fx->maildir);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_true(changed);
	assert_int_equal(missing, 0);
	assert_described(box, "1 a FT\n2 b \n3 4.M1P1.h \n4 30.M1P1.h \n");
	before = stamp_of(fx, "dovecot.index.log");
	/* A second one finds nothing to do and takes no lock, so that a held one does not matter.
	 */
	must_shell("echo 1:elsewhere > '%s/dovecot-uidlist.lock'", fx->maildir);
	changed = false;
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(changed);
	after = stamp_of(fx, "dovecot.index.log");
	assert_memory_equal(&before, &after, sizeof before);
	mailbox_close(&box);
}

static void test_refresh_sees_others_and_a_replaced_directory(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box, *other;
	struct error err = {0};

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	other = must_open(fx, "INBOX");
	append_mail(other, &(struct new_mail){.guid = "a", .body = BODY});
	must(mailbox_refresh(box, &err), &err);
	assert_described(box, "1 a \n");
	must_shell("mv '%s' '%s.old'; mkdir '%s'", fx->maildir, fx->maildir, fx->maildir);
	assert_int_equal(mailbox_refresh(box, &err), -ESTALE);
	mailbox_close(&box);
	mailbox_close(&other);
}

static void test_changes_since_a_modseq(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_changes changes;
	struct mailbox_txn *txn;
	struct mailbox *box;
	struct guid guid;
	struct error err = {0};
	uint64_t since;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY});
	append_mail(box, &(struct new_mail){.guid = "b", .body = BODY});
	since = mailbox_status(box)->highest_modseq;
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_flags(txn, 1, MAIL_SEEN, (struct keyword_set){0}, 0, &err), &err);
	must(mailbox_expunge(txn, 2, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	must(mailbox_changes(box, since, &changes, &err), &err);
	assert_int_equal(changes.count, 2);
	assert_int_equal(changes.change[0].uid, 1);
	assert_int_equal(changes.change[0].add_flags, MAIL_SEEN);
	assert_true(changes.change[1].expunged);
	assert_true(changes.change[1].has_guid);
	guid_from_message_guid("b", &guid);
	assert_true(guid_equal(&changes.change[1].guid, &guid));
	mailbox_changes_free(&changes);
	must(mailbox_changes(box, mailbox_status(box)->highest_modseq, &changes, &err), &err);
	assert_int_equal(changes.count, 0);
	mailbox_changes_free(&changes);
	mailbox_close(&box);
}

static void test_rebuild_keeps_uids_of_a_damaged_uidlist(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_status status;
	struct mailbox *box;
	struct error err = {0};

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.uid = 3, .guid = "a", .body = BODY});
	append_mail(box,
		    &(struct new_mail){.uid = 7, .guid = "b", .body = BODY, .flags = MAIL_SEEN});
	append_mail(box, &(struct new_mail){.uid = 9, .guid = "c", .body = BODY});
	status = *mailbox_status(box);
	mailbox_close(&box);
	/* The line of b is lost, and the last line cannot be read. */
	must_shell("sed -i -e 's/^7 .*/7 nonsense/' -e '$a x :y' '%s/dovecot-uidlist'",
		   fx->maildir);
	assert_int_equal(mailbox_open(&fx->user, "INBOX", &box, &err), -EUCLEAN);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	box = must_open(fx, "INBOX");
	assert_described(box, "3 a \n9 c \n10 b S\n");
	assert_int_equal(mailbox_status(box)->uid_validity, status.uid_validity);
	assert_true(guid_equal(&mailbox_status(box)->guid, &status.guid));
	assert_int_equal(mailbox_status(box)->messages, 3);
	mailbox_close(&box);
}

static void test_rebuild_after_a_damaged_index(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_status status;
	struct mailbox *box;
	struct error err = {0};

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){
				 .uid = 3, .guid = "a", .body = BODY, .keywords = {"$Label1"}});
	append_mail(box,
		    &(struct new_mail){.uid = 7, .guid = "b", .body = BODY, .flags = MAIL_SEEN});
	status = *mailbox_status(box);
	mailbox_close(&box);
	must_shell("head -c 300 /dev/zero | tr '\\0' x > '%s/dovecot.index.log'", fx->maildir);
	assert_int_equal(mailbox_open(&fx->user, "INBOX", &box, &err), -EUCLEAN);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	box = must_open(fx, "INBOX");
	assert_described(box, "3 a  $Label1\n7 b S\n");
	assert_int_equal(mailbox_status(box)->uid_validity, status.uid_validity);
	assert_int_equal(mailbox_status(box)->uid_next, status.uid_next);
	assert_true(mailbox_status(box)->highest_modseq > status.highest_modseq);
	mailbox_close(&box);
}

static void test_an_index_that_is_lost_is_made_from_the_uidlist(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.uid = 3, .guid = "a", .body = BODY});
	append_mail(box,
		    &(struct new_mail){.uid = 7, .guid = "b", .body = BODY, .flags = MAIL_SEEN});
	mailbox_close(&box);
	must_shell("rm '%s'/dovecot.index*", fx->maildir);
	box = must_open(fx, "INBOX");
	assert_described(box, "3 a \n7 b S\n");
	assert_int_equal(mailbox_status(box)->uid_next, 8);
	mailbox_close(&box);
}

static void test_separate_index_and_control_directories(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;

	fixture_make_maildir(fx);
	free(fx->user.location.index);
	free(fx->user.location.control);
	assert_true(asprintf(&fx->user.location.index, "%s/idx", fx->home) > 0);
	assert_true(asprintf(&fx->user.location.control, "%s/ctl", fx->home) > 0);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY, .keywords = {"K"}});
	assert_described(box, "1 a  K\n");
	mailbox_close(&box);
	/* As Dovecot places them: below its own name, INBOX too. */
	assert_true(path_exists("%s/ctl/.INBOX/dovecot-uidlist", fx->home));
	assert_true(path_exists("%s/ctl/.INBOX/dovecot-keywords", fx->home));
	assert_true(path_exists("%s/idx/.INBOX/dovecot.index.log", fx->home));
	assert_false(path_exists("%s/dovecot-uidlist", fx->maildir));
}

/* While Dovecot saves, the uidlist has a line that the index does not have yet. A replica takes
 * what is below UIDNEXT and not listed for expunged. */
static void test_uidnext_counts_only_what_the_index_knows(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	struct error err = {0};
	char path[400];
	FILE *file;

	fixture_make_maildir(fx);
	box = must_open(fx, "INBOX");
	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY});
	snprintf(path, sizeof path, "%s/dovecot-uidlist", fx->maildir);
	file = fopen(path, "a");
	assert_non_null(file);
	assert_true(fputs("2 :1700000000.M1P1.host\n", file) >= 0);
	assert_int_equal(fclose(file), 0);
	must(mailbox_refresh(box, &err), &err);
	assert_int_equal(mailbox_status(box)->messages, 1);
	assert_int_equal(mailbox_status(box)->uid_next, 2);
	mailbox_close(&box);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_open_makes_a_mailbox_of_a_directory),
		UNIT(test_open_gives_uids_in_the_order_of_delivery),
		UNIT(test_append_stores_everything),
		UNIT(test_a_guid_with_other_sizes_is_not_taken_for_a_name),
		UNIT(test_two_messages_with_one_guid),
		UNIT(test_a_message_that_comes_back_after_an_expunge),
		UNIT(test_a_file_left_by_a_crash_is_reused),
		UNIT(test_flags_and_keywords_are_set_and_renamed),
		UNIT(test_a_name_that_is_too_long_for_flags),
		UNIT(test_change_uid_keeps_the_file),
		UNIT(test_copy_is_a_second_instance),
		UNIT(test_header_values_are_set_and_raised),
		UNIT(test_abort_leaves_nothing),
		UNIT(test_foreign_changes_are_told),
		UNIT(test_uidnext_counts_only_what_the_index_knows),
		UNIT(test_absence_in_a_busy_mailbox),
		UNIT(test_a_scan_clears_what_a_dead_process_spooled),
		UNIT(test_a_missing_file_is_put_back),
		UNIT(test_scan_records_what_nobody_told),
		UNIT(test_refresh_sees_others_and_a_replaced_directory),
		UNIT(test_changes_since_a_modseq),
		UNIT(test_rebuild_keeps_uids_of_a_damaged_uidlist),
		UNIT(test_rebuild_after_a_damaged_index),
		UNIT(test_an_index_that_is_lost_is_made_from_the_uidlist),
		UNIT(test_separate_index_and_control_directories),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
