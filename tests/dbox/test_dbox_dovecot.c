/*
 * mdbox and sdbox beside a real Dovecot: what it wrote is read as it reads it, what we write it
 * takes without a warning, and a forced resync by it changes nothing. Every procedure of the
 * format's reference: append, flags, expunge, folders, UIDs, changes, copies.
 *
 * Needs root (mail belongs to another uid) and Dovecot's doveadm and imap; skipped elsewhere.
 */
#include "tests/maildir/dovecot_view.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "store/mail_purge.h"
#include "store/mailbox_list.h"
#include "tests/dovecot_config.h"

#define BODY "From: a@example.org\nSubject: x\n\nline one\nline two\n"

static int setup_mdbox(void **state)
{
	int rc = dovecot_setup(state);

	if (rc == 0)
		dovecot_set_location(*state, "mdbox:~/mdbox", '/');
	return rc;
}

static int setup_sdbox(void **state)
{
	int rc = dovecot_setup(state);

	if (rc == 0)
		dovecot_set_location(*state, "sdbox:~/sdbox", '/');
	return rc;
}

/* The test runs as root; a worker has the user's own uid. */
static void give_to_user(struct fixture *fx)
{
	must_shell("chown -R %d:%d '%s'", MAIL_UID, MAIL_UID, fx->home);
}

static struct mailbox *make_inbox(struct fixture *fx)
{
	struct error err = {0};

	must(mailbox_list_create(&fx->user, "INBOX", NULL, 0, &err), &err);
	give_to_user(fx);
	return must_open(fx, "INBOX");
}

static bool is_mdbox(const struct fixture *fx)
{
	return fx->user.location.driver == MAIL_DRIVER_MDBOX;
}

/* ---- tests ---- */

static void test_appended_messages(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
	struct mailbox_txn *txn;
	struct error err = {0};
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
	if (!strstr(text, "5\t2017-07-14 02:40:00\tuidl5\t17\t50\t55"))
		fail_msg("Dovecot sees %s", text);
	free(text);
	/* They stay with the message under another UID. */
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, 5, 40, 0, &err), &err);
	must(mailbox_copy(txn, 5, &(struct mail){.uid = 41, .guid = ""}, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_agrees(fx, box);
	text = doveadm(fx, "-f tab fetch 'uid pop3.uidl pop3.order' mailbox INBOX uid 40:*");
	if (!strstr(text, "40\tuidl5\t17\n41\tuidl5\t17"))
		fail_msg("Dovecot sees %s", text);
	free(text);
	mailbox_close(&box);
}

static void test_dovecot_writes_behind_us_and_we_behind_it(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
	char path[400];

	snprintf(path, sizeof path, "%s/mail.txt", fx->root);
	write_file(path, BODY, strlen(BODY));
	for (int i = 0; i < 3; i++) {
		append_mail(box, &(struct new_mail){.body = BODY, .keywords = {"K"}});
		free(doveadm_with(fx, path, "save -m INBOX"));
	}
	assert_agrees(fx, box);
	assert_int_equal(mailbox_status(box)->messages, 6);
	/* All of it is in one file. */
	if (is_mdbox(fx)) {
		assert_true(path_exists("%s/mdbox/storage/m.1", fx->home));
		assert_false(path_exists("%s/mdbox/storage/m.2", fx->home));
	}
	mailbox_close(&box);
}

static void test_changes_and_expunges(void **state)
{
	struct fixture *fx = *state;
	const char *keywords[] = {"$Label1", "Custom"};
	struct mailbox *box = make_inbox(fx);
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
	must(mailbox_copy(txn, 2, &(struct mail){.uid = 41, .guid = "another", .flags = MAIL_SEEN},
			  &err),
	     &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_agrees(fx, box);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 2, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	free(doveadm(fx, "purge"));
	assert_agrees(fx, box);
	mailbox_close(&box);
}

static void test_new_guid_and_uidvalidity(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
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

static void test_an_imap_session(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
	char *text;

	append_mail(box, &(struct new_mail){.guid = "1.a", .body = BODY, .flags = MAIL_SEEN});
	append_mail(box, &(struct new_mail){.guid = "2.b", .body = BODY, .keywords = {"K1"}});
	text = imap(fx, "a SELECT INBOX\r\nb STORE 1 +FLAGS (\\Flagged K2)\r\n"
			"c UID FETCH 1:* (FLAGS MODSEQ BODY.PEEK[])\r\nd COPY 1 INBOX\r\n"
			"e STORE 2 +FLAGS (\\Deleted)\r\nf EXPUNGE\r\ng LOGOUT\r\n");
	assert_non_null(strstr(text, "line two"));
	assert_non_null(strstr(text, "f OK"));
	free(text);
	assert_agrees(fx, box);
	assert_int_equal(mailbox_status(box)->messages, 2);
	mailbox_close(&box);
}

static void test_changes_since_a_modseq(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
	struct mailbox_changes changes;
	struct error err = {0};
	uint64_t before;

	for (int i = 0; i < 4; i++)
		append_mail(box, &(struct new_mail){.body = BODY});
	before = mailbox_status(box)->highest_modseq;
	free(doveadm(fx, "flags add '\\Seen K' mailbox INBOX uid 2"));
	free(doveadm(fx, "expunge mailbox INBOX uid 3"));
	must(mailbox_refresh(box, &err), &err);
	must(mailbox_changes(box, before, &changes, &err), &err);
	assert_int_equal(changes.count, 2);
	assert_int_equal(changes.change[0].uid, 2);
	assert_int_equal(changes.change[0].add_flags, MAIL_SEEN);
	assert_int_equal(changes.change[1].uid, 3);
	assert_true(changes.change[1].expunged);
	/* Dovecot's sdbox says none. */
	assert_int_equal(changes.change[1].has_guid, is_mdbox(fx));
	mailbox_changes_free(&changes);
	mailbox_close(&box);
}

static char *folders(struct fixture *fx)
{
	return doveadm(fx, "-f flow mailbox status 'messages uidvalidity guid' '*'");
}

static void test_folders(void **state)
{
	static const struct guid guid = {{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}};
	static const char expected[] = "messages=1 uidvalidity=4242 "
				       "guid=0102030405060708090a0b0c0d0e0f10";
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx), *work;
	struct error err = {0};
	char *text;

	/* So that there is a list index that has to be told. */
	free(doveadm(fx, "mailbox list"));
	must(mailbox_list_create(&fx->user, "Work/日本語", &guid, 4242, &err), &err);
	give_to_user(fx);
	work = must_open(fx, "Work/日本語");
	append_mail(work, &(struct new_mail){.body = BODY, .guid = "w"});
	mailbox_close(&work);
	text = folders(fx);
	assert_non_null(strstr(text, "Work/日本語 "));
	assert_non_null(strstr(text, expected));
	free(text);
	must(mailbox_list_rename(&fx->user, "Work", "Old", 0, &err), &err);
	must(mailbox_list_subscribe(&fx->user, "Old/日本語", true, &err), &err);
	give_to_user(fx);
	text = folders(fx);
	assert_non_null(strstr(text, "Old/日本語 "));
	assert_null(strstr(text, "Work"));
	assert_non_null(strstr(text, expected));
	free(text);
	text = doveadm(fx, "mailbox list -s");
	assert_non_null(strstr(text, "Old/日本語"));
	free(text);
	must(mailbox_list_create(&fx->user, "Old", NULL, 0, &err), &err);
	must(mailbox_list_delete(&fx->user, "Old/日本語", &guid, &err), &err);
	give_to_user(fx);
	text = folders(fx);
	assert_null(strstr(text, "日本語"));
	assert_non_null(strstr(text, "Old "));
	free(text);
	/* Nothing refers to its message any more, and a rebuild does not bring it back. */
	free(doveadm(fx, "purge"));
	free(doveadm(fx, "mailbox create Sub/Made"));
	assert_no_complaints(fx);
	free(doveadm(fx, "force-resync INBOX"));
	forget_rebuild(fx);
	text = doveadm(fx, "-f flow mailbox status messages INBOX");
	assert_non_null(strstr(text, "messages=0"));
	free(text);
	assert_no_complaints(fx);
	mailbox_close(&box);
}

static void test_a_torn_tail_is_cut_off(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);

	append_mail(box, &(struct new_mail){.body = BODY});
	if (is_mdbox(fx))
		must_shell("printf 'torn' >> '%s/mdbox/storage/m.1'", fx->home);
	else
		must_shell("printf 'torn' > '%s/sdbox/mailboxes/INBOX/dbox-Mails/u.2'", fx->home);
	append_mail(box, &(struct new_mail){.body = BODY});
	assert_agrees(fx, box);
	assert_int_equal(mailbox_status(box)->messages, 2);
	mailbox_close(&box);
}

/* Files become full, logs long. */
static void test_rotation(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
	size_t size = 3 << 20;
	char *body = malloc(size + 1);

	assert_non_null(body);
	memset(body, 'x', size);
	memcpy(body, "Subject: x\n\n", 12);
	for (size_t i = 70; i < size; i += 70)
		body[i] = '\n';
	body[size] = '\0';
	for (int i = 0; i < 5; i++)
		append_mail(box, &(struct new_mail){.body = body});
	assert_agrees(fx, box);
	if (is_mdbox(fx)) {
		assert_true(path_exists("%s/mdbox/storage/m.2", fx->home));
		assert_false(path_exists("%s/mdbox/storage/m.3", fx->home));
	}
	free(body);
	mailbox_close(&box);
}

/* Which files are added to is decided as Dovecot does. */
static void test_rotation_by_age(void **state)
{
	static const unsigned intervals[] = {0, 300, 7200, 86400, 129600};
	static const unsigned ages[] = {0, 350, 4000, 80000, 100000, 200000};
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
	char path[400], save[100];

	setenv("TZ", "UTC", 1);
	snprintf(path, sizeof path, "%s/mail.txt", fx->root);
	write_file(path, BODY, strlen(BODY));
	for (size_t i = 0; i < sizeof intervals / sizeof intervals[0]; i++) {
		for (size_t a = 0; a < sizeof ages / sizeof ages[0]; a++) {
			char *ours, *theirs;

			mailbox_close(&box);
			must_shell("rm -rf '%s'/mdbox", fx->home);
			fx->user.location.rotate_interval = intervals[i];
			box = make_inbox(fx);
			append_mail(box, &(struct new_mail){.body = BODY});
			must_shell("cd '%s'/mdbox/storage && sed -i "
				   "\"1s/C.*/C$(printf %%08x $(($(date +%%s) - %u)))/\" m.1 && "
				   "cp -a ../../mdbox ../../before",
				   fx->home, ages[a]);
			append_mail(box, &(struct new_mail){.body = BODY});
			ours = shell_output("cd '%s'/mdbox/storage && ls m.*", fx->home);
			must_shell("cd '%s' && rm -rf mdbox && mv before mdbox", fx->home);
			give_to_user(fx);
			snprintf(save, sizeof save, "-o mdbox_rotate_interval=%us save -m INBOX",
				 intervals[i]);
			free(doveadm_with(fx, path, save));
			theirs = shell_output("cd '%s'/mdbox/storage && ls m.*", fx->home);
			if (strcmp(ours, theirs) != 0)
				fail_msg("interval %u, age %u: %s not %s", intervals[i], ages[a],
					 ours, theirs);
			free(ours);
			free(theirs);
		}
	}
	mailbox_close(&box);
}

/* Of the disk's room, and not of the file's size: nobody has to know about it. */
static void test_preallocation(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	char path[400];
	struct stat st;

	fx->user.location.rotate_size = 1 << 20;
	fx->user.location.preallocate = true;
	box = make_inbox(fx);
	for (int i = 0; i < 2; i++)
		append_mail(box, &(struct new_mail){.body = BODY});
	snprintf(path, sizeof path, "%s/mdbox/storage/m.1", fx->home);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_size < 1000);
	assert_true(st.st_blocks >= (1 << 20) / 512);
	snprintf(path, sizeof path, "%s/mail.txt", fx->root);
	write_file(path, BODY, strlen(BODY));
	give_to_user(fx);
	free(doveadm_with(fx, path, "-o mdbox_preallocate_space=yes save -m INBOX"));
	append_mail(box, &(struct new_mail){.body = BODY});
	assert_false(path_exists("%s/mdbox/storage/m.2", fx->home));
	assert_agrees(fx, box);
	mailbox_close(&box);
}

static void test_separate_index_directory(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	struct error err = {0};
	char path[400];

	dovecot_set_location(
		fx, is_mdbox(fx) ? "mdbox:~/mdbox:INDEX=~/idx" : "sdbox:~/sdbox:INDEX=~/idx", '/');
	box = make_inbox(fx);
	append_mail(box, &(struct new_mail){.guid = "a", .body = BODY, .keywords = {"K"}});
	give_to_user(fx);
	assert_agrees(fx, box);
	snprintf(path, sizeof path, "%s/mail.txt", fx->root);
	write_file(path, BODY, strlen(BODY));
	free(doveadm_with(fx, path, "save -m INBOX"));
	append_mail(box, &(struct new_mail){.guid = "b", .body = BODY});
	assert_agrees(fx, box);
	must(mailbox_list_create(&fx->user, "A/B", NULL, 0, &err), &err);
	give_to_user(fx);
	char *text = folders(fx);
	assert_non_null(strstr(text, "A/B "));
	free(text);
	assert_no_complaints(fx);
	mailbox_close(&box);
}

/* Dovecot reads what we compressed, and we what it did; files of the size that is set. */
static void test_compressed_messages(void **state)
{
	static const enum compress_method methods[] = {COMPRESS_GZIP, COMPRESS_BZIP2, COMPRESS_ZSTD,
						       COMPRESS_LZ4};
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
	size_t size = 300000;
	char *body = malloc(size + 1), *text;

	assert_non_null(body);
	for (size_t i = 0; i < size; i++)
		body[i] = (char)(i % 71 == 70 ? '\n' : 'a' + (int)(i * i / 13 % 25));
	memcpy(body, "Subject: x\n\n", 12);
	body[size] = '\0';
	for (size_t i = 0; i < sizeof methods / sizeof methods[0]; i++) {
		mailbox_close(&box);
		fx->user.location.save_compress = methods[i];
		fx->user.location.rotate_size = 2000;
		box = must_open(fx, "INBOX");
		append_mail(box, &(struct new_mail){.body = body});
		append_mail(box, &(struct new_mail){.body = BODY});
		text = body_of(box, (uint32_t)(2 * i + 1), NULL);
		assert_string_equal(text, body);
		free(text);
	}
	assert_agrees(fx, box);
	text = doveadm(fx, "-f tab fetch 'uid size.physical size.virtual' mailbox INBOX uid 1,2,7");
	if (!strstr(text, "1\t300000\t304"))
		fail_msg("Dovecot sees %s", text);
	assert_non_null(strstr(text, "2\t50\t55"));
	assert_non_null(strstr(text, "7\t300000\t304"));
	free(text);
	for (unsigned uid = 1; uid < 8; uid += 2) {
		char command[100];

		snprintf(command, sizeof command, "fetch body mailbox INBOX uid %u", uid);
		text = doveadm(fx, command);
		assert_true(strlen(text) > size - 100);
		free(text);
	}
	assert_no_complaints(fx);
	if (is_mdbox(fx))
		assert_true(path_exists("%s/mdbox/storage/m.2", fx->home));
	free(body);
	mailbox_close(&box);
}

/* A message of 3 attachments, two of them in base64: lines of 76 and 60 characters. */
static void write_mail_with_attachments(const char *path)
{
	must_shell("{ printf 'Subject: a\\nContent-Type: multipart/mixed; boundary=x\\n\\n"
		   "--x\\n\\nhello\\n'; "
		   "for columns in 76 60; do "
		   "printf -- '--x\\nContent-Type: application/octet-stream\\n"
		   "Content-Transfer-Encoding: base64\\nContent-Disposition: attachment\\n\\n'; "
		   "head -c 5000 /dev/urandom | base64 -w $columns; done; "
		   "printf -- '--x\\nContent-Type: image/png\\n"
		   "Content-Disposition: attachment\\n\\n'; seq 1000; printf -- '--x--\\n'; } "
		   "> '%s'",
		   path);
}

static void assert_attachments(struct fixture *fx, unsigned files)
{
	char *text = shell_output("find '%s/attachments' -type f ! -path '*/hashes/*' | wc -l",
				  fx->home);

	assert_int_equal(atoi(text), files);
	free(text);
}

/* From here on they are in a directory of their own. */
static char *use_attachment_dir(struct fixture *fx)
{
	char *dir;

	assert_true(asprintf(&dir, "%s/attachments", fx->home) > 0);
	fx->user.location.attachments = dir;
	must_shell("mkdir '%s' && printf '%s = %s\\n%s = 1k\\n%s' >> '%s'/dovecot.conf", dir,
		   dovecot_is_24() ? "mail_ext_attachment_path" : "mail_attachment_dir", dir,
		   dovecot_is_24() ? "mail_ext_attachment_min_size" : "mail_attachment_min_size",
		   dovecot_is_24() ? "mail_ext_attachment {\\n  fs posix {\\n  }\\n}\\n" : "",
		   fx->root);
	give_to_user(fx);
	return dir;
}

/* They are read, have their message's UID with sdbox, and go with it. */
static void test_attachments_elsewhere(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx), *work;
	struct guid guid;
	struct mailbox_txn *txn;
	struct mail_purged purged;
	struct error err = {0};
	char path[400], *text, *expected, *dir;

	snprintf(path, sizeof path, "%s/mail.txt", fx->root);
	mailbox_close(&box);
	dir = use_attachment_dir(fx);
	box = must_open(fx, "INBOX");
	for (int i = 0; i < 2; i++) {
		write_mail_with_attachments(path);
		free(doveadm_with(fx, path, "save -m INBOX"));
	}
	assert_attachments(fx, 6);
	assert_agrees(fx, box);
	expected = shell_output("cat '%s'", path);
	text = body_of(box, 2, NULL);
	assert_string_equal(text, expected);
	free(text);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, 2, 8, 0, &err), &err);
	must(mailbox_copy(txn, 2, &(struct mail){.uid = 9, .guid = ""}, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	for (uint32_t uid = 8; uid <= 9; uid++) {
		text = body_of(box, uid, NULL);
		assert_string_equal(text, expected);
		free(text);
	}
	free(expected);
	assert_agrees(fx, box);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 1, &err), &err);
	must(mailbox_expunge(txn, 8, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	must(mail_purge(&fx->user, &purged, &err), &err);
	give_to_user(fx);
	assert_attachments(fx, 3);
	assert_agrees(fx, box);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 9, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	must(mailbox_list_create(&fx->user, "Work", NULL, 0, &err), &err);
	give_to_user(fx);
	free(doveadm_with(fx, path, "save -m Work"));
	work = must_open(fx, "Work");
	guid = mailbox_status(work)->guid;
	mailbox_close(&work);
	must(mailbox_list_delete(&fx->user, "Work", &guid, &err), &err);
	must(mail_purge(&fx->user, &purged, &err), &err);
	text = shell_output("ls -A '%s'", dir);
	assert_string_equal(text, "");
	free(text);
	mailbox_close(&box);
}

static void give_guid(struct mailbox *box, bool copied)
{
	struct mailbox_txn *txn;
	struct error err = {0};
	struct guid guid;

	guid_generate(&guid);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_set_guid(txn, &guid, copied, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

static void assert_body(struct mailbox *box, uint32_t uid, const char *expected)
{
	char *text = body_of(box, uid, NULL);

	assert_string_equal(text, expected);
	free(text);
}

/* The names of an sdbox mailbox's attachments end in its GUID. */
static void test_attachments_of_a_mailbox_with_another_guid(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_inbox(fx);
	struct mailbox_txn *txn;
	struct error err = {0};
	char path[400], *expected;

	snprintf(path, sizeof path, "%s/mail.txt", fx->root);
	mailbox_close(&box);
	use_attachment_dir(fx);
	write_mail_with_attachments(path);
	expected = shell_output("cat '%s'", path);
	box = must_open(fx, "INBOX");
	for (int i = 0; i < 2; i++)
		free(doveadm_with(fx, path, "save -m INBOX"));

	/* By us: Dovecot finds them, and nothing is left under the old names. */
	give_guid(box, false);
	give_to_user(fx);
	assert_attachments(fx, 6);
	assert_agrees(fx, box);
	assert_body(box, 2, expected);
	/* One that was copied as a directory: the names belong to the other mailbox. */
	give_guid(box, true);
	assert_attachments(fx, 12);

	/* By Dovecot, which does not find them any more. */
	free(doveadm(fx, "mailbox update --mailbox-guid 0123456789abcdef0123456789abcdef INBOX"));
	must(mailbox_refresh(box, &err), &err);
	assert_body(box, 1, expected);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, 1, 8, 0, &err), &err);
	must(mailbox_copy(txn, 2, &(struct mail){.uid = 9, .guid = ""}, &err), &err);
	must(mailbox_expunge(txn, 2, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	give_to_user(fx);
	assert_body(box, 8, expected);
	assert_body(box, 9, expected);
	assert_agrees(fx, box);

	/* An index that is lost, and the GUID with it. */
	mailbox_close(&box);
	must_shell("rm '%s'/sdbox/mailboxes/INBOX/dbox-Mails/dovecot.index*", fx->home);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	give_to_user(fx);
	box = must_open(fx, "INBOX");
	assert_body(box, 8, expected);
	assert_agrees(fx, box);
	free(expected);
	mailbox_close(&box);
}

#define UNIT(name)                                                                                 \
	{#name " (mdbox)", name, setup_mdbox, fixture_teardown, NULL},                             \
	{                                                                                          \
#name " (sdbox)", name, setup_sdbox, fixture_teardown, NULL                        \
	}

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_appended_messages),
		UNIT(test_dovecot_writes_behind_us_and_we_behind_it),
		UNIT(test_changes_and_expunges),
		UNIT(test_new_guid_and_uidvalidity),
		UNIT(test_an_imap_session),
		UNIT(test_changes_since_a_modseq),
		UNIT(test_folders),
		UNIT(test_a_torn_tail_is_cut_off),
		UNIT(test_rotation),
		{"test_rotation_by_age", test_rotation_by_age, setup_mdbox, fixture_teardown, NULL},
		{"test_preallocation", test_preallocation, setup_mdbox, fixture_teardown, NULL},
		UNIT(test_separate_index_directory),
		UNIT(test_compressed_messages),
		UNIT(test_attachments_elsewhere),
		{"test_attachments_of_a_mailbox_with_another_guid",
		 test_attachments_of_a_mailbox_with_another_guid, setup_sdbox, fixture_teardown,
		 NULL},
	};

	if (!dovecot_is_there()) {
		printf("skipped: needs root and Dovecot\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
