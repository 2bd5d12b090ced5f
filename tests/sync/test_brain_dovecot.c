/*
 * The brain over a Maildir against a real Dovecot: as master against "doveadm dsync-server", as
 * slave under "doveadm sync". Both ends show the same mail afterwards, and Dovecot logs nothing.
 *
 * Needs root (Dovecot refuses mail owned by root) and Dovecot; skipped elsewhere.
 * With --serve HOME STATEFILE the program is the slave on stdin and stdout.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>
#include "store/base/file.h"
#include "store/mailbox_list.h"
#include "tests/dovecot_config.h"
#include "tests/sync/brain_pair.h"
#include "tests/sync/maildir_user.h"

#define MAIL_UID     65534
#define MESSAGES_MAX 200

static const char *self;

struct fixture {
	char root[256], ours[300], theirs[300], state[300];
	struct mail_user user;
	struct test_node node;
	struct sync_result result;
	struct error err;
};

static void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void shell(const char *fmt, ...)
{
	char command[4096];
	va_list args;

	va_start(args, fmt);
	// NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): clang 14 misses the va_start
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	if (system(command) != 0) // NOLINT(cert-env33-c): the commands are the tests' own
		fail_msg("command failed: %s", command);
}

static void write_text(const char *path, const char *text)
{
	AUTO_CLOSE int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(file_write_all(fd, text, strlen(text)), 0);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const char *tmp = getenv("TMPDIR");

	snprintf(f->root, sizeof(f->root), "%s/brain-dovecot.XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(f->root) == NULL || chmod(f->root, 0755) < 0)
		return -1;
	snprintf(f->ours, sizeof(f->ours), "%s/ours", f->root);
	snprintf(f->theirs, sizeof(f->theirs), "%s/theirs", f->root);
	snprintf(f->state, sizeof(f->state), "%s/state", f->root);
	if (dovecot_config_write(f->root, f->theirs, "maildir:~/Maildir", '/') < 0)
		return -1;
	shell("mkdir -p '%s' '%s' '%s/run' && touch '%s/dovecot.log' '%s' && "
	      "chown -R %d:%d '%s'",
	      f->ours, f->theirs, f->root, f->root, f->state, MAIL_UID, MAIL_UID, f->root);
	maildir_user_init(&f->user, f->ours);
	shell("chown -R %d:%d '%s'", MAIL_UID, MAIL_UID, f->root);
	test_node_init(&f->node, &f->user, "ours.example.org");
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	maildir_user_remove_root(f->root);
	maildir_user_free(&f->user);
	free(f);
	return 0;
}

/* The exit status; what it said is shown when that is neither 0 nor 2. */
static int doveadm_status(struct fixture *f, const char *command)
{
	char line[4096];

	snprintf(line, sizeof(line),
		 "cd '%s' && setpriv --reuid=%d --regid=%d --clear-groups env HOME='%s' USER=alice "
		 "'%s/doveadm' %s >>'%s/doveadm.out' 2>&1",
		 f->theirs, MAIL_UID, MAIL_UID, f->theirs, f->root, command, f->root);
	int status = system(line); // NOLINT(cert-env33-c): the commands are the tests' own
	status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
	if (status != 0 && status != 2)
		shell("cat '%s/doveadm.out' '%s/dovecot.log' >&2", f->root, f->root);
	return status;
}

static void doveadm(struct fixture *f, const char *command)
{
	int status = doveadm_status(f, command);

	if (status != 0)
		fail_msg("doveadm %s: exit status %d", command, status);
}

static void dovecot_deliver(struct fixture *f, const char *mailbox, const char *body)
{
	char path[400], command[600];

	snprintf(path, sizeof(path), "%s/mail.txt", f->root);
	write_text(path, body);
	snprintf(command, sizeof(command), "save -m '%s' <'%s'", mailbox, path);
	doveadm(f, command);
}

/* ---- comparing ---- */

/* One mailbox of Dovecot's account as our store reads it: Dovecot's own files. */
static void dump_both(struct fixture *f, bool modseqs, struct buf *ours, struct buf *theirs)
{
	struct mail_user other;

	maildir_user_init(&other, f->theirs);
	maildir_user_dump(&f->user, modseqs, ours);
	maildir_user_dump(&other, modseqs, theirs);
	maildir_user_free(&other);
}

static void expect_equal(struct fixture *f)
{
	AUTO_BUF struct buf ours = BUF_INIT((size_t)16 << 20);
	AUTO_BUF struct buf theirs = BUF_INIT((size_t)16 << 20);

	dump_both(f, false, &ours, &theirs);
	if (strcmp(buf_str(&ours), buf_str(&theirs)) == 0)
		return;
	fprintf(stderr, "ours:\n%s\nDovecot's:\n%s\n", buf_str(&ours), buf_str(&theirs));
	fail_msg("the accounts differ");
}

static void expect_no_complaints(struct fixture *f)
{
	AUTO_BUF struct buf log = BUF_INIT((size_t)16 << 20);
	char path[400];

	snprintf(path, sizeof(path), "%s/dovecot.log", f->root);
	assert_int_equal(file_read_at(AT_FDCWD, path, &log), 0);
	if (strstr(buf_str(&log), "Error") != NULL || strstr(buf_str(&log), "Panic") != NULL ||
	    strstr(buf_str(&log), "Fatal") != NULL || strstr(buf_str(&log), "Warning") != NULL)
		fail_msg("Dovecot complained:\n%s", buf_str(&log));
}

/* ---- we are the master ---- */

static pid_t start_dsync_server(struct fixture *f, int *fd_r)
{
	int fds[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		char log[400], program[400];

		snprintf(log, sizeof(log), "%s/doveadm.out", f->root);
		snprintf(program, sizeof(program), "%s/doveadm", f->root);
		int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
		if (dup2(fds[1], 0) < 0 || dup2(fds[1], 1) < 0 || dup2(out, 2) < 0 ||
		    setgid(MAIL_UID) < 0 || setuid(MAIL_UID) < 0 || chdir(f->theirs) < 0)
			_exit(111);
		close(fds[0]);
		setenv("HOME", f->theirs, 1);
		setenv("USER", "alice", 1);
		execl(program, program, "dsync-server", NULL);
		_exit(112);
	}
	close(fds[1]);
	*fd_r = fds[0];
	return pid;
}

static void master_session(struct fixture *f, enum sync_type type)
{
	const struct stream_settings set = {.timeout_secs = 30};
	struct stream *stream;
	int fd, status;
	pid_t pid = start_dsync_server(f, &fd);

	assert_int_equal(stream_new(fd, fd, &set, &stream, &f->err), 0);
	memset(&f->err, 0, sizeof(f->err));
	int ret = run_node(&f->node, stream, SYNC_MASTER, type, &f->result, &f->err);
	stream_free(&stream);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (ret < 0)
		fail_msg("session failed: %s (dsync-server %x)", f->err.text, status);
	assert_true(WIFEXITED(status));
}

static void master_until_done(struct fixture *f, enum sync_type type)
{
	for (int i = 0; i < 6; i++) {
		master_session(f, type);
		if (f->result.outcome == SYNC_DONE)
			return;
	}
	fail_msg("no end: %s", f->result.reason);
}

static void as_master(void **state)
{
	struct fixture *f = *state;
	struct error err;

	maildir_user_deliver(&f->user, "INBOX", "1795327226.M1P1.ours", "Subject: 1\n\n.one\n");
	maildir_user_deliver(&f->user, "INBOX", "1795327226.M2P1.ours", "Subject: 2\n\ntwo");
	dovecot_deliver(f, "INBOX", "Subject: 3\n\nthree\n");
	master_until_done(f, SYNC_CHANGED);
	expect_equal(f);
	assert_string_equal(f->result.peer.is_dsyncfs ? "dsyncfs" : "dovecot", "dovecot");

	/* New mail, flags, keywords and expunges in both directions. */
	maildir_user_deliver(&f->user, "INBOX", "1795327226.M4P1.ours", "Subject: 4\n\nfour\n");
	master_until_done(f, SYNC_CHANGED);
	assert_int_equal(f->result.mails_sent, 1);
	expect_equal(f);
	dovecot_deliver(f, "INBOX", ".Subject: 5\n\n..five\n.\n");
	master_until_done(f, SYNC_CHANGED);
	assert_int_equal(f->result.mails_received, 1);
	expect_equal(f);
	maildir_user_flags(&f->user, "INBOX", maildir_user_uid(&f->user, 0), MAIL_SEEN, "$Label1");
	doveadm(f, "flags add '\\Flagged work' mailbox INBOX 2");
	master_until_done(f, SYNC_CHANGED);
	expect_equal(f);
	maildir_user_expunge(&f->user, "INBOX", maildir_user_uid(&f->user, 0));
	doveadm(f, "expunge mailbox INBOX 3");
	master_until_done(f, SYNC_CHANGED);
	expect_equal(f);

	/* Folders. */
	assert_int_equal(mailbox_list_create(&f->user, "Work/\xc3\xa4\xc3\xb6", NULL, 0, &err), 0);
	maildir_user_deliver(&f->user, "Work/\xc3\xa4\xc3\xb6", "1795327226.M6P1.ours", "six\n");
	doveadm(f, "mailbox create -s Theirs/Sub");
	dovecot_deliver(f, "Theirs/Sub", "Subject: 7\n\nseven\n");
	master_until_done(f, SYNC_CHANGED);
	expect_equal(f);
	/* Dovecot's dsync moves a subscription with the mailbox: we hear of it in the next session.
	 */
	doveadm(f, "mailbox rename Theirs/Sub Theirs/New");
	master_until_done(f, SYNC_CHANGED);
	master_until_done(f, SYNC_CHANGED);
	expect_equal(f);
	doveadm(f, "mailbox delete Theirs/New");
	master_until_done(f, SYNC_CHANGED);
	expect_equal(f);

	/* A full sync finds nothing to do. */
	master_session(f, SYNC_FULL);
	assert_int_equal(f->result.mails_sent + f->result.mails_received, 0);
	assert_int_equal(f->result.outcome, SYNC_DONE);
	expect_equal(f);
	expect_no_complaints(f);
}

/* Both delivered: equal numbers, and a UID conflict. */
static void as_master_both_delivered(void **state)
{
	struct fixture *f = *state;

	maildir_user_deliver(&f->user, "INBOX", "1795327226.M1P1.ours", "Subject: 1\n\none\n");
	master_until_done(f, SYNC_CHANGED);
	master_until_done(f, SYNC_CHANGED);
	maildir_user_deliver(&f->user, "INBOX", "1795327226.M2P1.ours", "Subject: 2\n\ntwo\n");
	dovecot_deliver(f, "INBOX", "Subject: 3\n\nthree\n");
	master_until_done(f, SYNC_CHANGED);
	expect_equal(f);
	expect_no_complaints(f);
}

/* ---- Dovecot is the master ---- */

/* Exit status 2 says "run again": Dovecot 2.3.19 may swap the GUIDs of two mailboxes of one name in
 * its first run, and misses a mailbox then. */
static void slave_session(struct fixture *f, const char *options)
{
	char command[1500];
	int status = 2;

	snprintf(command, sizeof(command), "sync %s '%s' --serve '%s' '%s'", options, self, f->ours,
		 f->state);
	for (int i = 0; i < 3 && status == 2; i++)
		status = doveadm_status(f, command);
	if (status != 0)
		fail_msg("doveadm %s: exit status %d", command, status);
}

static void as_slave(void **state)
{
	struct fixture *f = *state;
	struct error err;

	maildir_user_deliver(&f->user, "INBOX", "1795327226.M1P1.ours", "Subject: 1\n\n.one\n");
	dovecot_deliver(f, "INBOX", "Subject: 3\n\nthree\n");
	slave_session(f, "");
	expect_equal(f);
	maildir_user_deliver(&f->user, "INBOX", "1795327226.M2P1.ours", "Subject: 2\n\ntwo\n");
	slave_session(f, "");
	expect_equal(f);
	dovecot_deliver(f, "INBOX", "Subject: 4\n\nfour\n");
	slave_session(f, "");
	expect_equal(f);
	doveadm(f, "flags add '\\Flagged work' mailbox INBOX 1");
	maildir_user_flags(&f->user, "INBOX", maildir_user_uid(&f->user, 1), MAIL_SEEN, "$Label1");
	slave_session(f, "-f");
	expect_equal(f);
	doveadm(f, "mailbox create -s Theirs/Sub");
	assert_int_equal(mailbox_list_create(&f->user, "Ours", NULL, 0, &err), 0);
	slave_session(f, "");
	expect_equal(f);
	expect_no_complaints(f);
}

static uint32_t count_messages(struct fixture *f)
{
	struct mailbox *box;
	struct error err;

	assert_int_equal(mailbox_open(&f->user, "INBOX", &box, &err), 0);
	uint32_t count = mailbox_status(box)->messages;
	mailbox_close(&box);
	return count;
}

/* It keeps no state between its runs: it must be told of our expunges, and its own are not undone.
 */
static void as_slave_expunges(void **state)
{
	struct fixture *f = *state;

	for (unsigned i = 1; i <= 5; i++) {
		char guid[64];

		snprintf(guid, sizeof(guid), "1795327226.M%uP1.ours", i);
		maildir_user_deliver(&f->user, "INBOX", guid, "Subject: x\n\ntext\n");
	}
	slave_session(f, "");
	slave_session(f, "");
	expect_equal(f);
	maildir_user_expunge(&f->user, "INBOX", maildir_user_uid(&f->user, 1));
	slave_session(f, "");
	expect_equal(f);
	assert_int_equal(count_messages(f), 4);
	doveadm(f, "expunge mailbox INBOX 1");
	slave_session(f, "");
	expect_equal(f);
	assert_int_equal(count_messages(f), 3);
	/* Both at once, and the last one: nothing in the list shows that it was there. */
	doveadm(f, "expunge mailbox INBOX 1");
	maildir_user_expunge(&f->user, "INBOX", maildir_user_uid(&f->user, 2));
	slave_session(f, "");
	expect_equal(f);
	assert_int_equal(count_messages(f), 1);
	expect_no_complaints(f);
}

/* One delivery on each side: all numbers are equal, and Dovecot would skip the mailbox. */
static void as_slave_both_delivered(void **state)
{
	struct fixture *f = *state;

	maildir_user_deliver(&f->user, "INBOX", "1795327226.M1P1.ours", "Subject: 1\n\none\n");
	for (int i = 0; i < 3; i++)
		slave_session(f, "");
	expect_equal(f);
	maildir_user_deliver(&f->user, "INBOX", "1795327226.M2P1.ours", "Subject: 2\n\ntwo\n");
	dovecot_deliver(f, "INBOX", "Subject: 3\n\nthree\n");
	slave_session(f, "");
	expect_equal(f);
	assert_int_equal(count_messages(f), 3);
	expect_no_complaints(f);
}

static int serve(const char *home, const char *state_file)
{
	struct mail_user user;
	struct test_node node;
	struct stream *stream;
	struct sync_result result;
	struct error err = {0};
	FILE *file;

	signal(SIGPIPE, SIG_IGN);
	maildir_user_init(&user, home);
	test_node_init(&node, &user, "slave.example.org");
	file = fopen(state_file, "rb");
	if (file != NULL) {
		node.state_count =
			fread(node.states, sizeof(node.states[0]), NODE_STATES_MAX, file);
		fclose(file);
	}
	if (stream_new(0, 1, NULL, &stream, &err) < 0)
		return 1;
	int ret = run_node(&node, stream, SYNC_SLAVE, SYNC_CHANGED, &result, &err);
	if (ret < 0)
		fprintf(stderr, "slave: %s\n", err.text);
	stream_free(&stream);
	file = fopen(state_file, "wb");
	if (file != NULL) {
		fwrite(node.states, sizeof(node.states[0]), node.state_count, file);
		fclose(file);
	}
	maildir_user_free(&user);
	return ret < 0 ? 1 : 0;
}

int main(int argc, char **argv)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
	const struct CMUnitTest tests[] = {
		TEST(as_master),	 TEST(as_master_both_delivered), TEST(as_slave),
		TEST(as_slave_expunges), TEST(as_slave_both_delivered),
	};

	/* Dovecot adds "dsync-server" to the command. */
	if (argc >= 4 && strcmp(argv[1], "--serve") == 0)
		return serve(argv[2], argv[3]);
	if (geteuid() != 0 || access("/usr/bin/doveadm", X_OK) < 0) {
		printf("skipped: needs root and Dovecot\n");
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	self = realpath(argv[0], NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
