/*
 * Damaged files, maps and mailboxes of mdbox and sdbox: what can be read is kept, and what cannot
 * is told of and no expunge.
 *
 * Needs root and Dovecot; skipped elsewhere.
 */
#include "tests/dbox/dbox_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/mail_purge.h"
#include "store/mailbox_list.h"

/* Nobody expunged them: the mailbox is what was damaged. A count that is only too high is put
 * right. */
static void test_purge_keeps_what_a_mailbox_has_lost(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX"), *work = make_box(fx, "Work");
	struct mail_purged purged;
	struct mailbox_txn *txn;
	struct error err = {0};
	uint32_t unclaimed;
	char *text;

	fill(box, 6);
	fill_with(work, "work", 1);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_copy(txn, 2, &(struct mail){.uid = 20, .guid = ""}, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 1, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	mailbox_close(&box);
	mailbox_close(&work);
	must(mail_look_for_unclaimed(&fx->user, &unclaimed, &err), &err);
	assert_int_equal(unclaimed, 0);
	/* The messages 4 to 6, the copy and the expunge. */
	must_shell("cd '%s/mdbox/mailboxes/INBOX/dbox-Mails' && "
		   "truncate -s $(($(stat -c %%s dovecot.index.log) * 5 / 10)) dovecot.index.log",
		   fx->home);
	box = must_open(fx, "INBOX");
	assert_in_range(mailbox_status(box)->messages, 2, 5);
	mailbox_close(&box);
	must(mail_look_for_unclaimed(&fx->user, &unclaimed, &err), &err);
	assert_true(unclaimed > 0);
	must(mail_purge(&fx->user, &purged, &err), &err);
	assert_int_equal(purged.unclaimed, unclaimed);
	assert_int_equal(purged.corrected, 1);
	give_to_user(fx);
	free(doveadm(fx, "force-resync '*' || true"));
	text = doveadm(fx, "fetch body ALL | grep 'body of' | sort -u | wc -l");
	assert_int_equal(atoi(text), 6);
	free(text);
}

/* Not one message after the other is missing then: the way out is a rebuild, which finds them. */
static void test_a_damaged_map_is_not_missing_mail(void **state)
{
	static const char *const commands[] = {
		"rm dovecot.map.index*",
		"truncate -s 60 dovecot.map.index.log",
		"printf XXXXXXXX | dd of=m.1 bs=1 seek=16 conv=notrunc 2>/dev/null",
	};
	struct fixture *fx = *state;

	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		struct mailbox *box = make_box(fx, "INBOX");
		struct mailbox_txn *txn = NULL;
		struct error err = {0};
		size_t missing;
		bool changed;

		fill(box, 4);
		mailbox_close(&box);
		must_shell("cd '%s/mdbox/storage' && %s", fx->home, commands[i]);
		box = must_open(fx, "INBOX");
		assert_int_equal(mailbox_scan(box, &changed, &missing, &err), -EUCLEAN);
		if (i == 0) {
			/* No other map is begun behind the back of what is there. */
			assert_int_equal(mailbox_begin(box, &txn, &err), -EUCLEAN);
			assert_non_null(strstr(err.text, "the map is missing"));
		}
		mailbox_close(&box);
		must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
		box = must_open(fx, "INBOX");
		must(mailbox_scan(box, &changed, &missing, &err), &err);
		assert_int_equal(missing, 0);
		assert_int_equal(mailbox_status(box)->messages, i < 2 ? 4 : 3);
		mailbox_close(&box);
		must_shell("rm -rf '%s/mdbox'", fx->home);
	}
}

static int note_guid(void *ctx, const struct mail *mail)
{
	char **guids = ctx;

	assert_true(strlen(mail->guid) > 0);
	assert_in_range(mail->uid, 1, 3);
	guids[mail->uid] = strdup(mail->guid);
	assert_non_null(guids[mail->uid]);
	return 0;
}

/* The message is all there, and has a GUID: the one of which the index knows the 128 bits, or
 * always the same. */
static void test_a_message_without_its_guid(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	struct error err = {0};
	char *before[4] = {NULL}, *after[4] = {NULL}, *rebuilt[4] = {NULL};
	size_t missing;
	bool changed;

	fill(box, 3);
	must(mailbox_each(box, 1, UINT32_MAX, note_guid, before, &err), &err);
	mailbox_close(&box);
	must_shell("cd '%s'/?dbox/%s && sed -i 's/^G/Q/' %s", fx->home,
		   is_mdbox(fx) ? "storage" : "mailboxes/INBOX/dbox-Mails",
		   is_mdbox(fx) ? "m.1" : "u.2");
	box = must_open(fx, "INBOX");
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_int_equal(missing, 0);
	must(mailbox_each(box, 1, UINT32_MAX, note_guid, after, &err), &err);
	mailbox_close(&box);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	box = must_open(fx, "INBOX");
	assert_int_equal(mailbox_status(box)->messages, 3);
	must(mailbox_each(box, 1, UINT32_MAX, note_guid, rebuilt, &err), &err);
	mailbox_close(&box);
	for (size_t uid = 1; uid <= 3; uid++) {
		struct guid was, is;

		guid_from_message_guid(before[uid], &was);
		guid_from_message_guid(after[uid], &is);
		assert_true(guid_equal(&was, &is) || (!is_mdbox(fx) && uid == 2));
		assert_string_equal(rebuilt[uid], after[uid]);
		free(before[uid]);
		free(after[uid]);
		free(rebuilt[uid]);
	}
}

/* The map says that a message is in a file that is missing, and it is in another: no message is
 * missing, which would be taken for expunged. */
static void test_a_message_in_another_file(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box_of_many_files(fx, 5);
	struct error err = {0};
	size_t missing;
	bool changed;

	mailbox_close(&box);
	must_shell("cd '%s/mdbox/storage' && mv m.2 m.9", fx->home);
	box = must_open(fx, "INBOX");
	assert_int_equal(mailbox_scan(box, &changed, &missing, &err), -EUCLEAN);
	mailbox_close(&box);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	box = must_open(fx, "INBOX");
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_int_equal(missing, 0);
	assert_int_equal(mailbox_status(box)->messages, 5);
	mailbox_close(&box);
	/* One that is lost is. */
	must_shell("rm '%s/mdbox/storage/m.3'", fx->home);
	box = must_open(fx, "INBOX");
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_int_equal(missing, 1);
	mailbox_close(&box);
}

static void test_damage_before_the_snapshot(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	char index_dir[400];

	fill(box, 5);
	mailbox_close(&box);
	give_to_user(fx);
	snprintf(index_dir, sizeof index_dir, "%s/%s/mailboxes/INBOX/dbox-Mails", fx->home,
		 is_mdbox(fx) ? "mdbox" : "sdbox");
	check_damage_before_the_snapshot(fx, index_dir);
}

/* And says nothing of what it has let go. */
static void test_a_body_that_cannot_be_opened(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	struct mail_body *body;
	struct mail_body_info info;
	struct error err = {0};

	fill(box, 1);
	mailbox_close(&box);
	must_shell("cd '%s'/?dbox/%s && sed -i 's/^R/X/' %s", fx->home,
		   is_mdbox(fx) ? "storage" : "mailboxes/INBOX/dbox-Mails",
		   is_mdbox(fx) ? "m.1" : "u.1");
	box = must_open(fx, "INBOX");
	assert_int_equal(mailbox_body_open(box, 1, &body, &info, &err), -EBADMSG);
	assert_null(body);
	assert_string_equal(info.pop3_uidl, "");
	mailbox_close(&box);
}

/* A rebuild may not find what the copy still has. */
static void test_a_backups_source_is_not_rebuilt(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "Work");
	struct mailbox_tree tree;
	struct error err = {0};
	bool incomplete = false;

	fill(box, 2);
	mailbox_close(&box);
	must_shell("cd '%s'/?dbox/mailboxes/Work/dbox-Mails && rm dovecot.index.log && "
		   "mkfifo dovecot.index.log",
		   fx->home);
	fx->user.as_it_is = true;
	must(mailbox_list_read(&fx->user, &tree, &incomplete, &err), &err);
	assert_true(incomplete);
	mailbox_tree_free(&tree);
	must_shell("test -p '%s'/?dbox/mailboxes/Work/dbox-Mails/dovecot.index.log", fx->home);
	fx->user.as_it_is = false;
	incomplete = false;
	must(mailbox_list_read(&fx->user, &tree, &incomplete, &err), &err);
	assert_false(incomplete);
	mailbox_tree_free(&tree);
	must_shell("test -f '%s'/?dbox/mailboxes/Work/dbox-Mails/dovecot.index.log", fx->home);
}

/* What has a message's file's name and is none costs nothing but what was in that file. */
static void test_a_directory_in_a_files_place(void **state)
{
	static const char *const made[] = {"mkdir", "mkfifo"};
	struct fixture *fx = *state;

	for (size_t i = 0; i < 2; i++) {
		struct mailbox *box =
			is_mdbox(fx) ? make_box_of_many_files(fx, 5) : make_box(fx, "INBOX");
		struct error err = {0};
		size_t missing;
		bool changed;

		if (!is_mdbox(fx))
			fill(box, 5);
		must_shell("cd '%s'/?dbox/%s && rm %s.2 && %s %s.2", fx->home,
			   is_mdbox(fx) ? "storage" : "mailboxes/INBOX/dbox-Mails",
			   is_mdbox(fx) ? "m" : "u", made[i], is_mdbox(fx) ? "m" : "u");
		mailbox_close(&box);
		box = must_open(fx, "INBOX");
		must(mailbox_scan(box, &changed, &missing, &err), &err);
		assert_int_equal(missing, 1);
		mailbox_close(&box);
		must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
		box = must_open(fx, "INBOX");
		assert_int_equal(mailbox_status(box)->messages, 4);
		mailbox_close(&box);
		must_shell("rm -rf '%s'/?dbox", fx->home);
	}
}

/* Each record keeps its own, also where the map tells nothing any more but the place. */
static void test_equal_guids_are_not_one_message(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	char *before, *after;

	append_mail(box, &(struct new_mail){.guid = "same", .body = "Subject: a\n\nlonger\n"});
	append_mail(box, &(struct new_mail){.guid = "same", .body = "Subject: b\n\nb\n"});
	append_mail(box,
		    &(struct new_mail){.guid = "same", .body = "Subject: c\n\nlongest of all\n"});
	for (uint32_t uid = 1; uid <= 3; uid++) {
		before = body_of(box, uid, NULL);
		damage(fx, &box, "printf garbage >> mdbox/storage/m.1");
		after = body_of(box, uid, NULL);
		assert_string_equal(before, after);
		free(before);
		free(after);
	}
	assert_int_equal(mailbox_status(box)->messages, 3);
	mailbox_close(&box);
}

/* A file that is there and cannot be read now is no lost message, and one that is damaged keeps its
 * name: nothing is put in its place. */
static void test_sdbox_rebuild_leaves_no_mail_out(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	struct error err = {0};

	fill(box, 5);
	mailbox_close(&box);
	must_shell("cd '%s'/sdbox/mailboxes/INBOX/dbox-Mails && mv u.3 elsewhere && "
		   "ln -s elsewhere u.3 && printf garbage > dovecot.index.log",
		   fx->home);
	assert_int_equal(mailbox_rebuild(&fx->user, "INBOX", &err), -ELOOP);
	must_shell("cd '%s'/sdbox/mailboxes/INBOX/dbox-Mails && mv elsewhere u.3 && "
		   "printf garbage > u.5 && rm dovecot.index*",
		   fx->home);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	box = must_open(fx, "INBOX");
	assert_int_equal(mailbox_status(box)->messages, 4);
	assert_int_equal(mailbox_status(box)->uid_next, 6);
	mailbox_close(&box);
}

static void test_damaged_messages(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	char *text;

	fill(box, 6);
	damage(fx, &box,
	       "sed -i 's/body of 2/BODY of 2 and then/; s/^Gmail.4$/Gmail.4\\x00/' "
	       "mdbox/storage/m.1");
	text = describe(box, false);
	assert_null(strstr(text, "mail.2"));
	assert_null(strstr(text, "mail.4"));
	assert_non_null(strstr(text, "1 mail.0  L\n2 mail.1 S K\n4 mail.3  K\n6 mail.5 S K\n"));
	free(text);
	assert_files(fx, "m.1.broken m.2 ");
	assert_agrees(fx, box);
	mailbox_close(&box);
}

/* Restored by whoever still has it. */
static void test_a_lost_body_is_put_back(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	struct new_mail mail = {.guid = "mail.1", .body = BODY};
	struct mail_spool *spool;
	struct mailbox_txn *txn;
	struct error err = {0};
	char *text;

	fill(box, 3);
	mailbox_close(&box);
	if (is_mdbox(fx))
		must_shell("rm '%s/mdbox/storage/m.1'", fx->home);
	else
		must_shell("rm '%s/sdbox/mailboxes/INBOX/dbox-Mails/u.2'", fx->home);
	box = must_open(fx, "INBOX");
	spool = spool_mail(box, &mail);
	must(mailbox_begin(box, &txn, &err), &err);
	txn_append(txn, spool, &mail, 2);
	must(mailbox_commit(&txn, NULL, &err), &err);
	give_to_user(fx);
	text = body_of(box, 2, NULL);
	assert_string_equal(text, BODY);
	free(text);
	text = doveadm(fx, "fetch body mailbox INBOX uid 2");
	assert_non_null(strstr(text, "line two"));
	free(text);
	mailbox_close(&box);
}

static void test_damaged_map(void **state)
{
	static const char *const commands[] = {
		"printf garbage > mdbox/storage/dovecot.map.index.log",
		"rm mdbox/storage/dovecot.map.index*",
		"truncate -s -100 mdbox/storage/dovecot.map.index.log",
	};
	struct fixture *fx = *state;

	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		struct mailbox *box = make_box(fx, "INBOX"), *work = make_box(fx, "Work");
		char *before, *after;

		fill(box, 6);
		append_mail(work, &(struct new_mail){.guid = "w", .body = BODY});
		before = describe(box, false);
		damage(fx, &box, commands[i]);
		after = describe(box, false);
		assert_string_equal(before, after);
		free(before);
		free(after);
		assert_agrees(fx, box);
		mailbox_close(&box);
		mailbox_close(&work);
		work = must_open(fx, "Work");
		after = describe(work, false);
		assert_string_equal(after, "1 w \n");
		free(after);
		mailbox_close(&work);
		must_shell("rm -rf '%s/mdbox'", fx->home);
	}
}

/* What the map has lost is not removed with the rest of its file; other files are purged. */
static void test_purge_leaves_a_damaged_file(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	struct mailbox_txn *txn;
	struct mail_purged purged;
	struct error err = {0};

	fx->user.location.rotate_size = 270;
	box = make_box(fx, "INBOX");
	fill(box, 6);
	assert_files(fx, "m.1 m.2 m.3 ");
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 1, &err), &err);
	must(mailbox_expunge(txn, 3, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	mailbox_close(&box);
	must_shell("cd '%s/mdbox/storage' && sed -i 's/^2 M1e/2 M1e X0/' m.1", fx->home);
	assert_int_equal(mail_purge(&fx->user, &purged, &err), -EUCLEAN);
	assert_non_null(strstr(err.text, "storage/m.1: damaged"));
	assert_files(fx, "m.1 m.3 m.4 ");
	assert_int_equal(purged.messages, 1);
}

/* What the log has lost is no room for new mail, and is put back. */
static void test_sdbox_log_cut_short(void **state)
{
	struct fixture *fx = *state;

	for (int look = 0; look < 2; look++) {
		struct mailbox *box = make_box(fx, "INBOX");
		struct new_mail mail = {.guid = "next", .body = BODY};
		struct mail_spool *spool;
		struct mailbox_txn *txn;
		struct error err = {0};
		size_t missing;
		bool changed;

		fill(box, 6);
		mailbox_close(&box);
		must_shell("cd '%s/sdbox/mailboxes/INBOX/dbox-Mails' && truncate -s "
			   "$(($(stat -c %%s dovecot.index.log) * 8 / 10)) dovecot.index.log",
			   fx->home);
		box = must_open(fx, "INBOX");
		assert_in_range(mailbox_status(box)->uid_next, 2, 6);
		if (look) {
			assert_int_equal(mailbox_scan(box, &changed, &missing, &err), -EUCLEAN);
		} else {
			spool = spool_mail(box, &mail);
			must(mailbox_begin(box, &txn, &err), &err);
			txn_append(txn, spool, &mail, mailbox_status(box)->uid_next);
			assert_int_equal(mailbox_commit(&txn, NULL, &err), -EUCLEAN);
		}
		mailbox_close(&box);
		must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
		give_to_user(fx);
		box = must_open(fx, "INBOX");
		must(mailbox_scan(box, &changed, &missing, &err), &err);
		assert_int_equal(mailbox_status(box)->messages, 6);
		append_mail(box, &mail);
		assert_agrees(fx, box);
		mailbox_close(&box);
		must_shell("rm -rf '%s/sdbox'", fx->home);
	}
}

/* When the message is back under another UID, or gone everywhere, its record goes. */
static void test_a_lost_message_is_buried(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = is_mdbox(fx) ? make_box_of_many_files(fx, 3) : make_box(fx, "INBOX");
	struct mailbox_txn *txn;
	struct error err = {0};
	size_t missing;
	bool changed;

	if (!is_mdbox(fx))
		fill(box, 3);
	mailbox_close(&box);
	must_shell("rm '%s'/%s.2", fx->home,
		   is_mdbox(fx) ? "mdbox/storage/m" : "sdbox/mailboxes/INBOX/dbox-Mails/u");
	box = must_open(fx, "INBOX");
	must(mailbox_begin(box, &txn, &err), &err);
	assert_int_equal(mailbox_bury(txn, 3, NULL, &err), -EEXIST);
	must(mailbox_bury(txn, 2, NULL, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_int_equal(missing, 0);
	assert_int_equal(mailbox_status(box)->messages, 2);
	give_to_user(fx);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		SDBOX(test_sdbox_log_cut_short),
		MDBOX(test_a_lost_message_is_buried),
		SDBOX(test_a_lost_message_is_buried),
		MDBOX(test_damaged_map),
		MDBOX(test_purge_leaves_a_damaged_file),
		MDBOX(test_purge_keeps_what_a_mailbox_has_lost),
		MDBOX(test_damaged_messages),
		MDBOX(test_a_damaged_map_is_not_missing_mail),
		MDBOX(test_a_message_in_another_file),
		MDBOX(test_damage_before_the_snapshot),
		SDBOX(test_damage_before_the_snapshot),
		MDBOX(test_a_message_without_its_guid),
		SDBOX(test_a_message_without_its_guid),
		MDBOX(test_a_body_that_cannot_be_opened),
		SDBOX(test_a_body_that_cannot_be_opened),
		MDBOX(test_a_backups_source_is_not_rebuilt),
		SDBOX(test_a_backups_source_is_not_rebuilt),
		MDBOX(test_a_directory_in_a_files_place),
		SDBOX(test_a_directory_in_a_files_place),
		MDBOX(test_equal_guids_are_not_one_message),
		SDBOX(test_sdbox_rebuild_leaves_no_mail_out),
		MDBOX(test_a_lost_body_is_put_back),
		SDBOX(test_a_lost_body_is_put_back),
	};

	if (!dovecot_is_there()) {
		printf("skipped: needs root and Dovecot\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
