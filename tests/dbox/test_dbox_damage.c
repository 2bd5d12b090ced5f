/*
 * What goes wrong with mdbox and sdbox: writers that are killed between two steps, damaged files,
 * maps and indexes. Nothing that can be read is lost, and Dovecot has nothing to say afterwards.
 *
 * Needs root and Dovecot; skipped elsewhere.
 */
#include "tests/dbox/dbox_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include "store/mail_purge.h"
#include "store/mailbox_list.h"

extern void (*dbox_test_step)(const char *step);

/* ---- purge ---- */

static void test_purge(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	struct mailbox_txn *txn;
	struct error err = {0};

	fill(box, 10);
	must(mailbox_begin(box, &txn, &err), &err);
	for (uint32_t uid = 1; uid <= 4; uid++)
		must(mailbox_expunge(txn, uid, &err), &err);
	must(mailbox_copy(txn, 5, &(struct mail){.uid = 20, .guid = ""}, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	assert_files(fx, "m.1 ");
	purge(fx, 4, 0);
	assert_files(fx, "m.2 ");
	assert_agrees(fx, box);
	purge(fx, 0, 0);
	/* Dovecot finds nothing to do, and goes on in our file. */
	free(doveadm(fx, "purge"));
	assert_files(fx, "m.2 ");
	append_mail(box, &(struct new_mail){.body = BODY});
	assert_agrees(fx, box);
	/* All of it. */
	must(mailbox_begin(box, &txn, &err), &err);
	for (uint32_t uid = 5; uid <= 30; uid++) {
		if (mailbox_expunge(txn, uid, &err) < 0)
			err = (struct error){0};
	}
	must(mailbox_commit(&txn, NULL, &err), &err);
	purge(fx, 7, 0);
	assert_files(fx, "");
	append_mail(box, &(struct new_mail){.body = BODY});
	assert_files(fx, "m.3 ");
	assert_agrees(fx, box);
	mailbox_close(&box);
}

/* What is in the alternative storage stays there, as with `doveadm purge`. */
static void test_purge_of_the_alternative_storage(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box;
	struct mailbox_txn *txn;
	struct error err = {0};

	dovecot_set_location(fx, "mdbox:~/mdbox:ALT=~/alt", '/');
	must_shell("mkdir '%s/alt'", fx->home);
	box = make_box(fx, "INBOX");
	fill(box, 6);
	free(doveadm(fx, "altmove mailbox INBOX uid 1:4"));
	free(doveadm(fx, "purge"));
	must_shell("cd '%s' && [ \"$(ls alt/storage mdbox/storage | grep ^m | tr '\\n' ' ')\" = "
		   "'m.2 mdbox/storage: m.3 ' ]",
		   fx->home);
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 2, &err), &err);
	must(mailbox_expunge(txn, 5, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	purge(fx, 2, 0);
	must_shell("cd '%s' && [ \"$(ls alt/storage mdbox/storage | grep ^m | tr '\\n' ' ')\" = "
		   "'m.4 mdbox/storage: m.5 ' ]",
		   fx->home);
	assert_agrees(fx, box);
	must(mailbox_begin(box, &txn, &err), &err);
	for (uint32_t uid = 1; uid <= 4; uid++) {
		if (uid != 2)
			must(mailbox_expunge(txn, uid, &err), &err);
	}
	must(mailbox_commit(&txn, NULL, &err), &err);
	purge(fx, 3, 0);
	must_shell("cd '%s' && ! ls alt/storage | grep .", fx->home);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

/* ---- kill at every step ---- */

static const char *kill_after;

static void end_here(const char *step)
{
	if (strcmp(step, kill_after) == 0)
		_exit(77);
}

/* One transaction that does everything. False: there is no such step. */
static bool killed_at(struct fixture *fx, const char *step)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct mailbox_txn *txn;
		struct mailbox *box;
		struct mail_spool *spool;
		struct error err = {0};
		struct new_mail mail = {.guid = "new", .body = BODY};

		kill_after = step;
		dbox_test_step = end_here;
		box = must_open(fx, "INBOX");
		spool = spool_mail(box, &mail);
		must(mailbox_begin(box, &txn, &err), &err);
		txn_append(txn, spool, &mail, 20);
		must(mailbox_copy(txn, 4, &(struct mail){.uid = 21, .guid = ""}, &err), &err);
		must(mailbox_change_uid(txn, 3, 22, 0, &err), &err);
		must(mailbox_expunge(txn, 1, &err), &err);
		must(mailbox_commit(&txn, NULL, &err), &err);
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	give_to_user(fx);
	return WEXITSTATUS(status) == 77;
}

static void test_killed_between_two_steps(void **state)
{
	static const char *const steps[] = {"placed", "map", "index", "dropped"};
	struct fixture *fx = *state;
	unsigned killed = 0;

	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
		struct mailbox *box = make_box(fx, "INBOX");
		uint32_t messages;

		fill(box, 5);
		if (killed_at(fx, steps[i])) {
			struct error err = {0};

			killed++;
			/* Nothing of it, or all. */
			must(mailbox_refresh(box, &err), &err);
			messages = mailbox_status(box)->messages;
			assert_int_equal(messages, strcmp(steps[i], "placed") == 0 ||
								   strcmp(steps[i], "map") == 0
							   ? 5
							   : 6);
			/* The next writer cleans up. */
			mailbox_close(&box);
			box = must_open(fx, "INBOX");
			append_mail(box, &(struct new_mail){.body = BODY, .guid = "next"});
			give_to_user(fx);
			if (is_mdbox(fx))
				purge(fx, strcmp(steps[i], "placed") == 0 ? 0 : 1, 0);
			assert_agrees(fx, box);
			assert_int_equal(mailbox_status(box)->messages, messages + 1);
		}
		mailbox_close(&box);
		must_shell("rm -rf '%s'/?dbox", fx->home);
	}
	assert_int_equal(killed, is_mdbox(fx) ? 4 : 2);
}

/* Dovecot's own rebuild finds nothing that it did not know. */
static void assert_rebuild_finds_nothing(struct fixture *fx, unsigned messages)
{
	char *text;

	give_to_user(fx);
	text = doveadm(fx, "force-resync '*'");
	free(text);
	text = doveadm(fx, "fetch uid ALL | grep -c uid");
	assert_int_equal(atoi(text), messages);
	free(text);
}

static void test_killed_before_the_map_knows_a_new_file(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box_of_many_files(fx, 5);

	assert_true(killed_at(fx, "placed"));
	assert_files(fx, "m.1 m.2 m.3 m.4 m.5 m.6 ");
	mailbox_close(&box);
	purge(fx, 0, 0);
	assert_files(fx, "m.1 m.2 m.3 m.4 m.5 ");
	assert_rebuild_finds_nothing(fx, 5);
}

static void test_purge_killed_between_two_steps(void **state)
{
	static const char *const steps[] = {"purge placed", "purge map"};
	struct fixture *fx = *state;

	for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
		struct mailbox *box;
		struct mailbox_txn *txn;
		struct error err = {0};
		pid_t pid;
		int status;

		fx->user.location.rotate_size = 0;
		box = make_box(fx, "INBOX");
		fill(box, 4);
		must(mailbox_begin(box, &txn, &err), &err);
		must(mailbox_expunge(txn, 2, &err), &err);
		must(mailbox_commit(&txn, NULL, &err), &err);
		mailbox_close(&box);
		pid = fork();
		if (pid == 0) {
			struct mail_purged purged;

			kill_after = steps[i];
			dbox_test_step = end_here;
			mail_purge(&fx->user, &purged, &err);
			_exit(0);
		}
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(WEXITSTATUS(status), 77);
		assert_files(fx, "m.1 m.2 ");
		give_to_user(fx);
		purge(fx, i == 0 ? 1 : 0, 0);
		assert_files(fx, "m.2 ");
		assert_rebuild_finds_nothing(fx, 3);
		must_shell("rm -rf '%s/mdbox'", fx->home);
	}
}

/* ---- damage ---- */

static void test_damaged_index(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	struct guid guid = mailbox_status(box)->guid;
	uint32_t uid_validity = mailbox_status(box)->uid_validity;
	char *before, *after;

	fill(box, 6);
	before = describe(box, false);
	damage(fx, &box,
	       "cd ?dbox/mailboxes/INBOX/dbox-Mails && printf XXXXXXXXXXXXXXXX | "
	       "dd of=dovecot.index.log bs=1 seek=$(($(stat -c %s dovecot.index.log) - 200)) "
	       "conv=notrunc 2>/dev/null");
	after = describe(box, false);
	if (is_mdbox(fx))
		/* The last one's record was in what cannot be read: it is back, as a new one. */
		assert_int_equal(mailbox_status(box)->messages, 6);
	else
		assert_int_equal(strncmp(before, after, 20), 0);
	assert_true(guid_equal(&guid, &mailbox_status(box)->guid));
	assert_int_equal(uid_validity, mailbox_status(box)->uid_validity);
	assert_int_equal(mailbox_status(box)->messages, 6);
	free(before);
	free(after);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

/* The mailbox is what it was, so that the next one begins where this one did. */
static void test_rebuild_killed(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_box(fx, "INBOX");
	struct error err = {0};
	char *before, *after;
	int status;
	pid_t pid;

	fill(box, 6);
	before = describe(box, false);
	mailbox_close(&box);
	must_shell("cd '%s'/?dbox/mailboxes/INBOX/dbox-Mails && printf XXXXXXXXXXXXXXXX | "
		   "dd of=dovecot.index.log bs=1 seek=$(($(stat -c %%s dovecot.index.log) - 200)) "
		   "conv=notrunc 2>/dev/null",
		   fx->home);
	pid = fork();
	if (pid == 0) {
		kill_after = "rebuilt";
		dbox_test_step = end_here;
		mailbox_rebuild(&fx->user, "INBOX", &err);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(WEXITSTATUS(status), 77);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	give_to_user(fx);
	box = must_open(fx, "INBOX");
	after = describe(box, false);
	/* The last records were damaged. */
	assert_int_equal(strncmp(before, after, 36), 0);
	assert_int_equal(mailbox_status(box)->messages, 6);
	must_shell("cd '%s'/?dbox/mailboxes/INBOX/dbox-Mails && ! ls | grep rebuild", fx->home);
	free(before);
	free(after);
	assert_agrees(fx, box);
	mailbox_close(&box);
}

/* ---- a rebuild of an mdbox storage that is killed at each of its steps ---- */

static bool rebuild_killed_at(struct fixture *fx, const char *step)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		struct error err;

		kill_after = step;
		dbox_test_step = end_here;
		mailbox_rebuild(&fx->user, "INBOX", &err);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WEXITSTATUS(status) == 77;
}

/* Nobody reads, appends or purges by what is half done: all are told to rebuild. */
static void assert_rebuild_is_asked_for(struct fixture *fx)
{
	struct mailbox *box = NULL;
	struct mailbox_txn *txn = NULL;
	struct mail_purged purged;
	struct error err = {0};
	int rc = mailbox_open(&fx->user, "Work", &box, &err);

	if (rc == 0)
		rc = mailbox_begin(box, &txn, &err);
	assert_int_equal(rc, -EUCLEAN);
	mailbox_close(&box);
	assert_int_equal(mail_purge(&fx->user, &purged, &err), -EUCLEAN);
}

static void assert_bodies(struct fixture *fx, const char *name, unsigned count)
{
	struct mailbox *box = must_open(fx, name);

	assert_int_equal(mailbox_status(box)->messages, count);
	for (unsigned i = 0; i < count; i++) {
		char expected[100], *text = body_of(box, i + 1, NULL);

		snprintf(expected, sizeof expected, "Subject: %u\n\nbody of %u\n", i, i);
		assert_string_equal(text, expected);
		free(text);
	}
	mailbox_close(&box);
}

static void test_storage_rebuild_killed_at_each_step(void **state)
{
	static const char *const steps[] = {"rebuild: begun", "rebuild: map written",
					    "rebuild: map placed", "rebuild: mailbox written",
					    "rebuild: mailboxes written"};
	static const char *const commands[] = {
		"printf garbage > dovecot.map.index.log",
		"rm dovecot.map.index*",
		"truncate -s -100 dovecot.map.index.log",
		/* Nothing knows of the last message that was put into Work. */
		"truncate -s -100 ../mailboxes/Work/dbox-Mails/dovecot.index.log",
		/* What of it can be read goes into another file. */
		"printf XXXX | dd of=m.1 bs=1 seek=$(stat -c %%s m.1) 2>/dev/null; "
		"rm dovecot.map.index*",
	};
	struct fixture *fx = *state;
	unsigned killed = 0;

	for (size_t i = 0; i < sizeof commands / sizeof commands[0] * 5; i++) {
		struct mailbox *box = make_box(fx, "INBOX"), *work = make_box(fx, "Work");
		struct error err = {0};
		char command[200];

		fill(box, 5);
		fill_with(work, "work", 3);
		mailbox_close(&box);
		mailbox_close(&work);
		snprintf(command, sizeof command, "cd '%%s/mdbox/storage' && %s", commands[i / 5]);
		must_shell(command, fx->home);
		if (rebuild_killed_at(fx, steps[i % 5])) {
			give_to_user(fx);
			assert_rebuild_is_asked_for(fx);
			killed++;
		}
		must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
		give_to_user(fx);
		assert_bodies(fx, "INBOX", 5);
		assert_bodies(fx, "Work", 3);
		if (i % 5 == i / 5) { /* one step of each damage: Dovecot takes its time */
			box = must_open(fx, "INBOX");
			assert_agrees(fx, box);
			mailbox_close(&box);
		}
		must_shell("cd '%s/mdbox/storage' && ! ls -A | grep -e rebuild -e log.new",
			   fx->home);
		if (i < sizeof commands / sizeof commands[0] * 5 - 1)
			must_shell("rm -rf '%s/mdbox'", fx->home);
	}
	assert_rebuild_finds_nothing(fx, 8);
	/* A map that only lost its end is sound, and not placed. */
	assert_int_equal(killed, 25 - 2);
}

static struct fixture *delivered_to;

static void deliver_meanwhile(const char *step)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char path[400];
	int fd;

	if (strcmp(step, "rebuild: begun") != 0)
		return;
	dbox_test_step = NULL;
	snprintf(path, sizeof path, "%s/mdbox/storage/dovecot.map.index.log", delivered_to->home);
	fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_OFD_SETLK, &lock), -1);
	close(fd);
	must_shell("cd '%s' && (printf 'Subject: meanwhile\n\nx\n' | setpriv --reuid=%d --regid=%d "
		   "--clear-groups env HOME='%s' USER=alice '%s/doveadm' save -m INBOX "
		   ">/dev/null 2>> '%s/dovecot.log'; echo $? > '%s/done') & sleep 1",
		   delivered_to->home, MAIL_UID, MAIL_UID, delivered_to->home, delivered_to->root,
		   delivered_to->root, delivered_to->root);
}

/* Dovecot saves a message while the storage is rebuilt: it is there once, or Dovecot says that it
 * is not. */
static void test_a_delivery_during_a_rebuild(void **state)
{
	static const char *const commands[] = {
		/* A writer died before it had said in the map's log that it had finished. */
		"printf '(\\0\\0\\0' | dd of=mdbox/storage/dovecot.map.index.log bs=1 conv=notrunc "
		"seek=$(($(stat -c %%s mdbox/storage/dovecot.map.index.log) - 4)) 2>/dev/null",
		"printf garbage > mdbox/storage/dovecot.map.index.log",
		"printf 'garbage in the middle' | dd of=mdbox/storage/dovecot.map.index.log bs=1 "
		"conv=notrunc seek=100 2>/dev/null",
		"truncate -s -100 mdbox/storage/dovecot.map.index.log",
	};
	struct fixture *fx = *state;

	delivered_to = fx;
	for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++) {
		struct mailbox *box = make_box(fx, "INBOX");
		char *text, command[400];
		struct error err = {0};
		bool saved;

		fill(box, 6);
		mailbox_close(&box);
		give_to_user(fx);
		snprintf(command, sizeof command, "cd '%%s' && rm -f '%%s/done' && %s",
			 commands[i]);
		must_shell(command, fx->home, fx->root);
		dbox_test_step = deliver_meanwhile;
		must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
		assert_null(dbox_test_step);
		must_shell(
			"for i in $(seq 100); do [ -s '%s/done' ] && exit; sleep 0.1; done; exit 1",
			fx->root);
		give_to_user(fx);
		text = shell_output("cat '%s/done'", fx->root);
		saved = strcmp(text, "0\n") == 0;
		free(text);
		box = must_open(fx, "INBOX");
		assert_int_equal(mailbox_status(box)->messages, 6 + saved);
		assert_true(saved || i > 0);
		if (i > 0) /* it has seen the damage itself */
			must_shell("truncate -s 0 '%s/dovecot.log'", fx->root);
		assert_agrees(fx, box);
		mailbox_close(&box);
		must_shell("rm -rf '%s/mdbox'", fx->home);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		MDBOX(test_purge),
		MDBOX(test_purge_of_the_alternative_storage),
		MDBOX(test_killed_between_two_steps),
		SDBOX(test_killed_between_two_steps),
		MDBOX(test_killed_before_the_map_knows_a_new_file),
		MDBOX(test_purge_killed_between_two_steps),
		MDBOX(test_damaged_index),
		SDBOX(test_damaged_index),
		MDBOX(test_rebuild_killed),
		MDBOX(test_storage_rebuild_killed_at_each_step),
		SDBOX(test_rebuild_killed),
		MDBOX(test_a_delivery_during_a_rebuild),
	};

	if (!dovecot_is_there()) {
		printf("skipped: needs root and Dovecot\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
