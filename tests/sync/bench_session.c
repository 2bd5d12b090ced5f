/*
 * What a session costs over real Maildirs: bytes on the wire and CPU of both sides, for one new
 * mail, one flag, one expunge, and nothing, in mailboxes of growing size. It should not grow.
 *
 * Usage: bench_session [MESSAGES ... | collision MESSAGES]
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/mailbox.h"
#include "tests/sync/brain_pair.h"
#include "tests/sync/maildir_user.h"

#define MAIL_BYTES 2100

struct bench {
	char root[256];
	struct mail_user users[2];
	struct test_node nodes[2];
	struct stream *streams[2];
	struct session_results results;
	char body[MAIL_BYTES + 1];
};

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void fill(struct bench *b, int node, unsigned messages)
{
	char path[600];
	struct mailbox *box = NULL;
	struct error err = {0};
	bool changed;
	size_t missing;

	for (unsigned i = 0; i < messages; i++) {
		snprintf(path, sizeof(path), "%s/Maildir/cur/1795327226.M%uP%d.host,S=%d:2,",
			 b->users[node].home, i, node, MAIL_BYTES);
		int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (fd < 0 || file_write_all(fd, b->body, MAIL_BYTES) < 0)
			die(path);
		close(fd);
	}
	if (mailbox_open(&b->users[node], "INBOX", &box, &err) < 0 ||
	    mailbox_scan(box, &changed, &missing, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		exit(1);
	}
	mailbox_close(&box);
}

/* The other node gets the very same mailbox. */
static void copy(struct bench *b)
{
	char command[1400];

	snprintf(command, sizeof(command), "cp -a '%s/Maildir/.' '%s/Maildir/'", b->users[0].home,
		 b->users[1].home);
	if (system(command) != 0) // NOLINT(cert-env33-c): our own directories
		die("cp");
}

static double cpu_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
	return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

static void measure(struct bench *b, const char *what, enum sync_type type)
{
	struct mailbox *box = NULL;
	struct error err = {0};

	if (mailbox_open(&b->users[0], "INBOX", &box, &err) < 0)
		die(err.text);
	struct sync_box boxes[1] = {{.guid = mailbox_status(box)->guid, .name = "INBOX"}};
	mailbox_close(&box);
	double before = cpu_ms();
	run_session_on(b->streams[0], b->streams[1], &b->nodes[0], &b->nodes[1], type, boxes,
		       type == SYNC_BOXES ? 1 : 0, &b->results);
	printf("  %-28s %8.2f ms CPU %8lu bytes  outcome %d %s\n", what, cpu_ms() - before,
	       (unsigned long)b->results.bytes, b->results.master.outcome,
	       b->results.master.reason);
}

static struct bench *new_bench(void)
{
	struct bench *b = calloc(1, sizeof(*b));
	char home[300];

	snprintf(b->root, sizeof(b->root), "%s/bench-session.XXXXXX",
		 getenv("TMPDIR") != NULL ? getenv("TMPDIR") : "/tmp");
	if (mkdtemp(b->root) == NULL)
		die(b->root);
	memset(b->body, 'x', MAIL_BYTES);
	static const char header[] = "Subject: x\n\n";
	memcpy(b->body, header, sizeof(header) - 1);
	for (int i = 0; i < 2; i++) {
		snprintf(home, sizeof(home), "%s/%c", b->root, 'a' + i);
		maildir_user_init(&b->users[i], home);
		test_node_init(&b->nodes[i], &b->users[i],
			       i == 0 ? "mx1.example.org" : "mx2.example.org");
	}
	return b;
}

static void free_bench(struct bench *b)
{
	for (int i = 0; i < 2; i++) {
		stream_free(&b->streams[i]);
		maildir_user_free(&b->users[i]);
	}
	maildir_user_remove_root(b->root);
	free(b);
}

static void run(unsigned messages)
{
	struct bench *b = new_bench();
	struct error err = {0};
	char guid[64];

	fill(b, 0, messages);
	copy(b);
	if (stream_new_pair(NULL, &b->streams[0], &b->streams[1], &err) < 0)
		die("streams");
	printf("%u messages\n", messages);
	measure(b, "first, all are there", SYNC_CHANGED);
	for (int i = 0; i < 3; i++) {
		snprintf(guid, sizeof(guid), "1795327300.M49225%dP31607.host", i);
		maildir_user_deliver(&b->users[0], "INBOX", guid, b->body);
		measure(b, "one mail of 2.1 kB", SYNC_BOXES);
	}
	maildir_user_deliver(&b->users[1], "INBOX", "1795327300.M5P31607.host", b->body);
	measure(b, "one mail from the slave", SYNC_BOXES);
	maildir_user_flags(&b->users[0], "INBOX", 1, MAIL_SEEN, NULL);
	measure(b, "one flag", SYNC_BOXES);
	maildir_user_expunge(&b->users[0], "INBOX", 2);
	measure(b, "one expunge", SYNC_BOXES);
	maildir_user_deliver(&b->users[0], "INBOX", "1795327300.M6P31607.host", b->body);
	measure(b, "one mail, with the tree", SYNC_CHANGED);
	measure(b, "nothing, with the tree", SYNC_CHANGED);
	measure(b, "nothing", SYNC_BOXES);
	free_bench(b);
}

/* The worst first sync: as many messages on each side, none in common, and all UIDs collide. */
static void run_collision(unsigned messages)
{
	struct bench *b = new_bench();
	struct error err = {0};

	fill(b, 0, messages);
	fill(b, 1, messages);
	if (stream_new_pair(NULL, &b->streams[0], &b->streams[1], &err) < 0)
		die("streams");
	printf("%u messages on each side, all different\n", messages);
	measure(b, "first", SYNC_CHANGED);
	measure(b, "second", SYNC_CHANGED);
	free_bench(b);
}

int main(int argc, char **argv)
{
	if (argc == 3 && strcmp(argv[1], "collision") == 0) {
		run_collision((unsigned)strtoul(argv[2], NULL, 10));
		return 0;
	}
	if (argc < 2) {
		run(1000);
		run(10000);
	}
	for (int i = 1; i < argc; i++)
		run((unsigned)strtoul(argv[i], NULL, 10));
	return 0;
}
