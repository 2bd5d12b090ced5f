/*
 * Two real dsyncd on loopback, over plain directories: no mount, the test itself says to the
 * journals what happened, as dsyncfs would. Needs root (workers take on the mail's uid).
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <spawn.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <netinet/in.h>
#include <unistd.h>
#include <cmocka.h>

#include "store/base/file.h"
#include "store/journal/journal.h"
#include "sync/control.h"
#include "sync/tcp.h"

#define MAIL_UID 5017
#define HOME	 "example.org/alice"
#define PASSWORD "secretpw"

struct node {
	char dir[256];
	uint16_t port;
	pid_t pid;
	struct journal *journal;
};

static char base[200];
static struct node nodes[2];

/* ---- nodes ---- */

static uint16_t free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof address;
	AUTO_CLOSE int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&address, len), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&address, &len), 0);
	return ntohs(address.sin_port);
}

static void make_dirs(const char *path, uid_t owner)
{
	char copy[512];

	snprintf(copy, sizeof copy, "%s", path);
	for (char *end = copy + 1;; end++) {
		char saved = *end;

		if (saved != '/' && saved != '\0')
			continue;
		*end = '\0';
		if (mkdir(copy, 0755) == 0 && owner)
			assert_int_equal(chown(copy, owner, owner), 0);
		*end = saved;
		if (saved == '\0')
			break;
	}
}

static void write_settings(const struct node *node, const struct node *other)
{
	char path[640];
	FILE *file;

	snprintf(path, sizeof path, "%s/conf", node->dir);
	file = fopen(path, "w");
	assert_non_null(file);
	fprintf(file,
		"mail_root = %s/mail\n"
		"mail_home = %s/mail/%%d/%%n\n"
		"mail_location = maildir:~/Maildir\n"
		"mail_uid = %d\nmail_gid = %d\n"
		"mail_replica = tcp:127.0.0.1:%u\n"
		"listen = 127.0.0.1\ndoveadm_port = %u\ndoveadm_password = " PASSWORD "\n"
		"state_dir = %s/state\n",
		node->dir, node->dir, MAIL_UID, MAIL_UID, other->port, node->port, node->dir);
	fclose(file);
}

static void start(struct node *node)
{
	char program[] = "dsyncd", foreground[] = "-F", option[] = "-c", config[512];
	char *argv[] = {program, foreground, option, config, NULL};

	snprintf(config, sizeof config, "%s/conf", node->dir);
	assert_int_equal(posix_spawn(&node->pid, getenv("DSYNCD"), NULL, NULL, argv, environ), 0);
	for (unsigned i = 0; i < 300; i++) {
		struct error err;
		int fd;

		if (tcp_connect("127.0.0.1", node->port, 100, &fd, NULL, &err) == 0) {
			close(fd);
			return;
		}
		usleep(10000);
	}
	fail_msg("dsyncd does not listen");
}

static int stop(struct node *node)
{
	int status;

	if (!node->pid)
		return 0;
	kill(node->pid, SIGTERM);
	assert_int_equal(waitpid(node->pid, &status, 0), node->pid);
	node->pid = 0;
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static int setup(void **state)
{
	struct error err;
	bool clean;

	snprintf(base, sizeof base, "/tmp/dsyncd-test-XXXXXX");
	assert_non_null(mkdtemp(base));
	assert_int_equal(chmod(base, 0755), 0);
	for (unsigned i = 0; i < 2; i++) {
		char path[640];

		snprintf(nodes[i].dir, sizeof nodes[i].dir, "%s/%c", base, 'a' + i);
		nodes[i].port = free_port();
		snprintf(path, sizeof path, "%s/mail/example.org", nodes[i].dir);
		make_dirs(path, 0);
		assert_int_equal(chown(path, MAIL_UID, MAIL_UID), 0);
		snprintf(path, sizeof path, "%s/state", nodes[i].dir);
		make_dirs(path, 0);
		if (journal_open(path, &nodes[i].journal, &clean, &err) < 0)
			fail_msg("%s", err.text);
	}
	write_settings(&nodes[0], &nodes[1]);
	write_settings(&nodes[1], &nodes[0]);
	start(&nodes[0]);
	start(&nodes[1]);
	return 0;
}

static int teardown(void **state)
{
	for (unsigned i = 0; i < 2; i++) {
		stop(&nodes[i]);
		journal_close(&nodes[i].journal);
	}
	if (!getenv("KEEP")) {
		AUTO_CLOSE int tmp = open("/tmp", O_RDONLY | O_DIRECTORY);

		return file_remove_tree(tmp, base + strlen("/tmp/"));
	}
	return 0;
}

/* ---- mail ---- */

static void push(struct node *node, enum mail_event_kind kind, const char *dir, const char *name)
{
	struct mail_event event = {
		.kind = kind, .home = HOME, .dir = dir, .name = name, .name2 = ""};

	journal_push(node->journal, &event, 0);
}

static void deliver(struct node *node, const char *name)
{
	char path[512], target[512];
	FILE *file;

	snprintf(path, sizeof path, "%s/mail/" HOME "/Maildir", node->dir);
	if (access(path, F_OK) < 0) {
		static const char *const parts[] = {"cur", "new", "tmp"};

		for (unsigned i = 0; i < 3; i++) {
			snprintf(path, sizeof path, "%s/mail/" HOME "/Maildir/%s", node->dir,
				 parts[i]);
			make_dirs(path, MAIL_UID);
		}
		push(node, MAIL_EVENT_DIR_CREATED, "Maildir", "");
	}
	snprintf(path, sizeof path, "%s/mail/" HOME "/Maildir/tmp/%s", node->dir, name);
	snprintf(target, sizeof target, "%s/mail/" HOME "/Maildir/new/%s", node->dir, name);
	file = fopen(path, "w");
	assert_non_null(file);
	fprintf(file, "From: a@example.org\nSubject: %s\n\nbody of %s\n", name, name);
	fclose(file);
	assert_int_equal(chown(path, MAIL_UID, MAIL_UID), 0);
	assert_int_equal(rename(path, target), 0);
	push(node, MAIL_EVENT_DELIVERED, "Maildir", name);
}

/* How many files in new/ and cur/ hold this text. */
static unsigned count_mails(const struct node *node, const char *text)
{
	static const char *const parts[] = {"new", "cur"};
	unsigned count = 0;

	for (unsigned i = 0; i < 2; i++) {
		char path[640];
		AUTO_DIR DIR *dir = NULL;
		struct dirent *entry;

		snprintf(path, sizeof path, "%s/mail/" HOME "/Maildir/%s", node->dir, parts[i]);
		dir = opendir(path);
		while (dir && (entry = readdir(dir))) {
			AUTO_BUF struct buf content = BUF_INIT(1 << 20);

			if (entry->d_name[0] != '.' &&
			    file_read_at(dirfd(dir), entry->d_name, &content) == 0 &&
			    strstr(buf_str(&content), text))
				count++;
		}
	}
	return count;
}

static int64_t wait_for_mail(const struct node *node, const char *text, unsigned wanted,
			     unsigned limit_ms)
{
	int64_t start_ms = tcp_now_ms();

	while (tcp_now_ms() - start_ms < limit_ms) {
		if (count_mails(node, text) >= wanted)
			return tcp_now_ms() - start_ms;
		usleep(1000);
	}
	fail_msg("%s: %u of %u mails with \"%s\" after %u ms", node->dir, count_mails(node, text),
		 wanted, text, limit_ms);
	return -1;
}

static void test_a_delivery_reaches_the_peer(void **state)
{
	deliver(&nodes[0], "1700000001.M1P1.test");
	wait_for_mail(&nodes[1], "body of 1700000001.M1P1.test", 1, 5000);
	/* And back. */
	deliver(&nodes[1], "1700000002.M2P1.test");
	wait_for_mail(&nodes[0], "body of 1700000002.M2P1.test", 1, 5000);
	/* A warm pair is fast. */
	for (unsigned i = 0; i < 10; i++) {
		char name[64];

		snprintf(name, sizeof name, "17000001%02u.M1P1.test", i);
		deliver(&nodes[0], name);
		print_message("latency %lld ms\n",
			      (long long)wait_for_mail(&nodes[1], name, 1, 5000));
	}
	usleep(300000);
	assert_int_equal(count_mails(&nodes[0], "body of"), 12);
	assert_int_equal(count_mails(&nodes[1], "body of"), 12);
}

/* ---- strangers ---- */

static int dial(const struct node *node)
{
	struct error err;
	int fd;

	assert_int_equal(tcp_connect("127.0.0.1", node->port, 1000, &fd, NULL, &err), 0);
	return fd;
}

/* What the node answers to text, up to its closing or the end of the time. */
static void converse(const struct node *node, const char *text, size_t len, unsigned ms,
		     struct buf *in)
{
	AUTO_CLOSE int fd = dial(node);
	struct buf out = BUF_INIT(1 << 20);

	buf_append(&out, text, len);
	(void)tcp_send(fd, &out, tcp_now_ms() + ms);
	while (tcp_receive(fd, in, tcp_now_ms() + ms) == 0)
		continue;
	buf_free(&out);
}

static void test_strangers_are_refused_and_others_go_on(void **state)
{
	static const char wrong[] = "VERSION\tdoveadm-server\t1\t0\nPLAIN\tAGRvdmVhZG0Abm9wZQ==\n";
	static const char unknown[] = "VERSION\tdoveadm-server\t1\t0\n"
				      "PLAIN\tAGRvdmVhZG0Ac2VjcmV0cHc=\n"
				      "\t../../etc@x\tdsync-server\t-u../../etc@x\n";
	AUTO_BUF struct buf in = BUF_INIT(1 << 20);
	char garbage[60000];
	int slow[20];

	for (unsigned i = 0; i < 20; i++) {
		slow[i] = dial(&nodes[0]);
		assert_int_equal(write(slow[i], "VERS", 4), 4);
	}
	converse(&nodes[0], wrong, strlen(wrong), 2000, &in);
	assert_string_equal(buf_str(&in), "-\n-\n");
	buf_clear(&in);
	converse(&nodes[0], unknown, strlen(unknown), 5000, &in);
	assert_string_equal(buf_str(&in), "-\n+\n\n-NOUSER\n");
	memset(garbage, 'x', sizeof garbage);
	buf_clear(&in);
	converse(&nodes[0], garbage, sizeof garbage, 2000, &in);
	assert_int_equal(in.len, 0);
	deliver(&nodes[1], "1700000200.M1P1.test");
	wait_for_mail(&nodes[0], "1700000200", 1, 5000);
	for (unsigned i = 0; i < 20; i++)
		close(slow[i]);
}

/* ---- trouble ---- */

static unsigned kill_workers(const struct node *node)
{
	char path[64], line[4096] = "";
	unsigned killed = 0;
	FILE *file;

	snprintf(path, sizeof path, "/proc/%d/task/%d/children", (int)node->pid, (int)node->pid);
	file = fopen(path, "r");
	assert_non_null(file);
	if (fgets(line, sizeof line, file)) {
		for (char *word = strtok(line, " \n"); word; word = strtok(NULL, " \n")) {
			kill((pid_t)strtol(word, NULL, 10), SIGKILL);
			killed++;
		}
	}
	fclose(file);
	return killed;
}

static void test_killed_workers_lose_and_double_nothing(void **state)
{
	unsigned killed = 0;

	for (unsigned i = 0; i < 60; i++) {
		char name[64];

		snprintf(name, sizeof name, "17000003%02u.M1P1.killed", i);
		deliver(&nodes[0], name);
		usleep(3000);
		if (i % 20 == 10)
			killed += kill_workers(&nodes[i / 20 % 2]);
	}
	assert_true(killed > 0);
	wait_for_mail(&nodes[1], ".killed\n\n", 60, 20000);
	usleep(500000);
	assert_int_equal(count_mails(&nodes[1], ".killed\n\n"), 60);
	assert_int_equal(count_mails(&nodes[0], ".killed\n\n"), 60);
}

static int on_status(void *ctx, char *const *field, unsigned count)
{
	if (field[0][0] == 'P' && count == 8)
		*(bool *)ctx = field[3][0] == '1';
	return 0;
}

static bool peer_is_up(const struct node *node)
{
	static const char *const request[] = {"STATUS", NULL};
	struct error err;
	char state_dir[300];
	bool up = false;

	snprintf(state_dir, sizeof state_dir, "%s/state", node->dir);
	assert_int_equal(control_request(state_dir, request, on_status, &up, &err), 0);
	return up;
}

static void test_the_peer_away_and_back(void **state)
{
	assert_int_equal(stop(&nodes[1]), 0);
	deliver(&nodes[0], "1700000400.M1P1.away");
	for (unsigned i = 0; i < 300 && peer_is_up(&nodes[0]); i++)
		usleep(10000);
	assert_false(peer_is_up(&nodes[0]));
	deliver(&nodes[0], "1700000401.M1P1.away");
	usleep(300000);
	start(&nodes[1]);
	print_message("back after %lld ms\n",
		      (long long)wait_for_mail(&nodes[1], ".away\n\n", 2, 4000));
	assert_true(peer_is_up(&nodes[0]));
}

static void test_a_killed_dsyncd_goes_on_where_it_was(void **state)
{
	int status;

	for (unsigned i = 0; i < 20; i++) {
		char name[64];

		snprintf(name, sizeof name, "17000005%02u.M1P1.crash", i);
		deliver(&nodes[0], name);
	}
	usleep(5000);
	kill(nodes[0].pid, SIGKILL);
	assert_int_equal(waitpid(nodes[0].pid, &status, 0), nodes[0].pid);
	start(&nodes[0]);
	wait_for_mail(&nodes[1], ".crash\n\n", 20, 20000);
	usleep(500000);
	assert_int_equal(count_mails(&nodes[1], ".crash\n\n"), 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_delivery_reaches_the_peer),
		cmocka_unit_test(test_strangers_are_refused_and_others_go_on),
		cmocka_unit_test(test_killed_workers_lose_and_double_nothing),
		cmocka_unit_test(test_the_peer_away_and_back),
		cmocka_unit_test(test_a_killed_dsyncd_goes_on_where_it_was),
	};

	if (geteuid() != 0) {
		print_message("skipped: needs root, to run workers as the mail's owner\n");
		return 77;
	}
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, setup, teardown);
}
