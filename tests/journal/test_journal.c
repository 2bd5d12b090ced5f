/* The journal, dsyncfs's side: what is pushed is read, in order, whatever is killed or damaged. */
#include "tests/journal/journal_test.h"

#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include "store/base/log.h"
#include "store/journal/journal_private.h"

static void test_events_come_back_in_order(void **state)
{
	struct mail_event event = {.kind = MAIL_EVENT_RENAMED,
				   .origin = 7,
				   .home = "example.org/alice",
				   .dir = "Maildir/.Work",
				   .name = "old:2,",
				   .name2 = "old:2,S"};
	char dir[64];
	struct journal *journal;
	struct seen seen;
	bool clean;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	assert_false(clean);
	push(journal, MAIL_EVENT_DELIVERED, "example.org/alice", "Maildir", "1.M1.host");
	journal_push(journal, &event, 0);
	push(journal, MAIL_EVENT_REMOVED, "example.org/alice", "", "1.M1.host:2,");
	journal_close(&journal);
	assert_null(journal);
	read_all(dir, 0, &seen);
	assert_int_equal(seen.count, 3);
	assert_false(guid_is_empty(&seen.id));
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(seen.events[i].seq, i + 1);
	assert_int_equal(seen.events[1].kind, MAIL_EVENT_RENAMED);
	assert_int_equal(seen.events[1].origin, 7);
	assert_string_equal(seen.events[1].home, "example.org/alice");
	assert_string_equal(seen.events[1].dir, "Maildir/.Work");
	assert_string_equal(seen.events[1].name, "old:2,");
	assert_string_equal(seen.events[1].name2, "old:2,S");
	assert_string_equal(seen.events[2].dir, "");
	free(seen.events);
	read_all(dir, 2, &seen);
	assert_int_equal(seen.count, 1);
	free(seen.events);
	state_dir_remove(dir);
}

static void test_a_closed_journal_is_clean_and_keeps_its_id(void **state)
{
	char dir[64];
	struct journal *journal;
	struct seen before, after;
	bool clean;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	journal_recovered(journal);
	journal_close(&journal);
	read_all(dir, 0, &before);
	journal = open_journal(dir, &clean);
	assert_true(clean);
	journal_close(&journal);
	read_all(dir, 0, &after);
	assert_true(guid_equal(&before.id, &after.id));
	state_dir_remove(dir);
}

static void test_touched_of_one_mailbox_is_kept_once(void **state)
{
	char dir[64];
	struct journal *journal;
	struct seen seen;
	bool clean;
	size_t touched = 0;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	for (int i = 0; i < 100000; i++)
		push(journal, MAIL_EVENT_TOUCHED, "h", "box", "");
	journal_close(&journal);
	read_all(dir, 0, &seen);
	for (size_t i = 0; i < seen.count; i++)
		touched += seen.events[i].kind == MAIL_EVENT_TOUCHED;
	assert_in_range(touched, 1, 20000);
	free(seen.events);
	state_dir_remove(dir);
}

static void test_second_writer_is_refused(void **state)
{
	char dir[64];
	struct journal *journal, *second;
	struct error err = {0};
	bool clean;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	assert_int_equal(journal_open(dir, &second, &clean, &err), -EBUSY);
	assert_non_null(strstr(err.text, "another dsyncfs"));
	assert_null(second);
	journal_close(&journal);
	state_dir_remove(dir);
}

static int64_t boot_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void test_the_writer_says_since_when_it_runs(void **state)
{
	char dir[64];
	int64_t before = boot_ms(), first;
	struct journal *journal;
	bool clean;

	state_dir_make(dir);
	assert_int_equal(journal_writer_began(dir), -1);
	journal = open_journal(dir, &clean);
	first = journal_writer_began(dir);
	assert_in_range(first, before, boot_ms());
	journal_close(&journal);
	assert_int_equal(journal_writer_began(dir), -1);
	usleep(2000);
	journal = open_journal(dir, &clean);
	assert_true(journal_writer_began(dir) > first);
	assert_true(journal_has_writer(dir));
	journal_close(&journal);
	assert_false(journal_has_writer(dir));
	state_dir_remove(dir);
}

/* In a child: pushes names and tells over the pipe which of them are durable. Never ends. */
static void write_until_killed(const char *dir, int pipe_fd, unsigned first)
{
	struct journal *journal;
	struct error err = {0};
	bool clean;
	char name[32];

	if (journal_open(dir, &journal, &clean, &err) != 0) {
		fprintf(stderr, "%s\n", err.text);
		_exit(1);
	}
	for (unsigned n = first;; n++) {
		snprintf(name, sizeof name, "n%u", n);
		push(journal, MAIL_EVENT_DELIVERED, "h", "box", name);
		barrier(journal);
		if (write(pipe_fd, &n, sizeof n) != sizeof n)
			_exit(1);
	}
}

static void test_killed_writer_loses_nothing_and_reuses_no_seq(void **state)
{
	char dir[64];
	unsigned durable = 0, missing = 0;
	size_t found = 0;
	struct seen seen;

	state_dir_make(dir);
	for (unsigned round = 0; round < 25; round++) {
		int fds[2];
		unsigned n;
		pid_t pid;

		assert_int_equal(pipe(fds), 0);
		pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			write_until_killed(dir, fds[1], durable + 1000 * round);
		close(fds[1]);
		/* However slow the disk is: some are durable, then it is killed at any point. */
		for (unsigned i = 0; i < 2; i++)
			durable += read(fds[0], &n, sizeof n) == sizeof n;
		usleep((round * 7919) % 20000);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		while (read(fds[0], &n, sizeof n) == sizeof n)
			durable++;
		close(fds[0]);
	}
	read_all(dir, 0, &seen);
	for (size_t i = 0; i < seen.count; i++) {
		found += seen.events[i].kind == MAIL_EVENT_DELIVERED;
		if (i && seen.events[i].seq <= seen.events[i - 1].seq)
			missing++;
	}
	assert_int_equal(missing, 0);
	assert_true(durable >= 50);
	/* What was not told to be durable may be there, too: one a round at most. */
	assert_in_range(found, durable, durable + 25);
	free(seen.events);
	state_dir_remove(dir);
}

static int count_dirty(void *ctx, const char *home, const char *dir)
{
	struct buf *names = ctx;

	return buf_printf(names, "%s/%s ", home, dir);
}

static void test_dirty_set_outlives_a_kill(void **state)
{
	struct buf names = BUF_INIT(256);
	char dir[64];
	struct journal *journal;
	struct error err = {0};
	bool clean;
	pid_t pid;
	int status;

	state_dir_make(dir);
	pid = fork();
	if (pid == 0) {
		journal = open_journal(dir, &clean);
		journal_wait(journal, journal_dirty_begin(journal, "h", "a"));
		journal_wait(journal, journal_dirty_begin(journal, "h", "b"));
		if (journal_dirty_begin(journal, "h", "b") != 0)
			_exit(1); /* it is durable: nothing to wait for */
		journal_clean(journal, "h", "a", NULL);
		journal_wait(journal, journal_dirty_begin(journal, "h", "c"));
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	journal = open_journal(dir, &clean);
	assert_false(clean);
	assert_int_equal(journal_each_dirty(journal, count_dirty, &names, &err), 0);
	assert_null(strstr(buf_str(&names), "h/a "));
	assert_non_null(strstr(buf_str(&names), "h/b "));
	assert_non_null(strstr(buf_str(&names), "h/c "));
	journal_clean(journal, "h", "b", NULL);
	journal_clean(journal, "h", "c", NULL);
	journal_recovered(journal);
	journal_close(&journal);
	buf_clear(&names);
	journal = open_journal(dir, &clean);
	assert_true(clean);
	assert_int_equal(journal_each_dirty(journal, count_dirty, &names, &err), 0);
	assert_string_equal(buf_str(&names), "");
	journal_close(&journal);
	state_dir_remove(dir);
	buf_free(&names);
}

static void count_removal(void *ctx, const struct mail_event *event, uint64_t removal)
{
	unsigned *count = ctx;

	*count += strcmp(event->name, "1.a") == 0;
}

/* A start that opened it and came no further has not seen what the crash has left. */
static void test_a_start_that_fails_leaves_what_the_crash_left(void **state)
{
	const struct mail_event removal = event_of(MAIL_EVENT_REMOVED, "h", "a", "1.a");
	struct buf names = BUF_INIT(256);
	char dir[64];
	struct journal *journal;
	struct error err = {0};
	unsigned removals = 0;
	bool clean;
	pid_t pid;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	journal_recovered(journal);
	journal_close(&journal);
	pid = fork();
	if (pid == 0) {
		journal = open_journal(dir, &clean);
		if (!clean)
			_exit(1);
		journal_wait(journal, journal_dirty_begin(journal, "h", "a"));
		journal_removal_ahead(journal, &removal);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	for (unsigned i = 0; i < 2; i++) {
		journal = open_journal(dir, &clean);
		assert_false(clean);
		journal_close(&journal);
	}
	journal = open_journal(dir, &clean);
	assert_false(clean);
	assert_int_equal(journal_each_dirty(journal, count_dirty, &names, &err), 0);
	assert_string_equal(buf_str(&names), "h/a ");
	journal_each_removal(journal, count_removal, &removals);
	assert_int_equal(removals, 1);
	journal_recovered(journal);
	journal_close(&journal);
	journal = open_journal(dir, &clean);
	assert_true(clean);
	journal_close(&journal);
	state_dir_remove(dir);
	buf_free(&names);
}

/* A second process reads while this one writes, woken by datagrams. */
static void read_until(const char *dir, const char *last_name, int report_fd)
{
	struct journal_reader *reader;
	struct error err = {0};
	struct seen seen = {0};
	uint64_t after = 0;

	while (journal_reader_open(dir, &reader, &err) == -ENOENT)
		usleep(1000);
	if (!reader || journal_reader_wake_fd(reader) < 0)
		_exit(2);
	if (write(report_fd, "r", 1) != 1)
		_exit(2);
	for (;;) {
		struct pollfd pfd = {.fd = journal_reader_wake_fd(reader), .events = POLLIN};

		if (poll(&pfd, 1, 5000) <= 0)
			_exit(3);
		journal_reader_drain(reader);
		for (;;) {
			size_t before = seen.count;

			if (journal_reader_each(reader, after, 50, see_event, &seen, &err) != 0)
				_exit(4);
			if (seen.count == before)
				break;
			for (size_t i = before; i < seen.count; i++) {
				if (seen.events[i].seq <= after)
					_exit(5);
				after = seen.events[i].seq;
			}
			if (strcmp(seen.events[seen.count - 1].name, last_name) == 0)
				_exit(seen.count == 3000 ? 0 : 6);
		}
	}
}

static void note_removal(void *ctx, const struct mail_event *event, uint64_t removal)
{
	assert_true(removal != 0);
	buf_printf(ctx, "%s ", event->name);
}

/* Only what was not told, or not done, when the process ended. */
static void test_removals_that_were_not_told_outlive_a_kill(void **state)
{
	static const char *const names[] = {"told", "failed", "done"};
	struct buf found = BUF_INIT(256);
	char dir[64];
	struct journal *journal;
	bool clean;
	pid_t pid;
	int status;

	state_dir_make(dir);
	pid = fork();
	if (pid == 0) {
		uint64_t removals[3];

		journal = open_journal(dir, &clean);
		for (int i = 0; i < 3; i++) {
			struct mail_event event = {.kind = MAIL_EVENT_REMOVED,
						   .home = "h",
						   .dir = "Maildir",
						   .name = names[i],
						   .name2 = ""};

			removals[i] = journal_removal_ahead(journal, &event);
			if (i == 0)
				journal_wait(journal,
					     journal_push_removal(journal, &event, 0, removals[i]));
		}
		journal_removal_failed(journal, removals[1]);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSIGNALED(status));
	journal = open_journal(dir, &clean);
	assert_false(clean);
	journal_each_removal(journal, note_removal, &found);
	assert_string_equal(buf_str(&found), "done ");
	journal_close(&journal);
	buf_free(&found);
	state_dir_remove(dir);
}

static void test_reader_sees_every_commit_as_it_happens(void **state)
{
	char dir[64], name[32], byte;
	struct journal *journal;
	bool clean;
	int fds[2], status;
	pid_t pid;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	journal_close(&journal);
	assert_int_equal(pipe(fds), 0);
	pid = fork();
	if (pid == 0)
		read_until(dir, "m2999", fds[1]);
	assert_int_equal(read(fds[0], &byte, 1), 1);
	journal = open_journal(dir, &clean);
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof name, "m%d", i);
		push(journal, MAIL_EVENT_DELIVERED, "h", "box", name);
		if (i % 100 == 0)
			usleep(500);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
	journal_close(&journal);
	close(fds[0]);
	close(fds[1]);
	state_dir_remove(dir);
}

/* How many events there are behind a position while the journal is open here: another process
 * looks, since LMDB must not be open twice in one. */
static int events_behind(const char *dir, uint64_t after)
{
	struct seen seen;
	int status, count, pipes[2];

	assert_int_equal(pipe(pipes), 0);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		read_all(dir, after, &seen);
		count = (int)seen.count;
		_exit(write(pipes[1], &count, sizeof count) == sizeof count ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(read(pipes[0], &count, sizeof count), sizeof count);
	close(pipes[0]);
	close(pipes[1]);
	return count;
}

static int say_stamp(void *ctx, const char *home, const char *dir,
		     const struct journal_stamp *stamp)
{
	buf_printf(ctx, "%s|%s|%02x ", home, dir, stamp->bytes[JOURNAL_STAMP_SIZE - 1]);
	return 0;
}

static void stamps_are(struct journal *journal, const char *expected)
{
	AUTO_BUF struct buf text = BUF_INIT(1000);

	assert_int_equal(journal_each_stamp(journal, say_stamp, &text), 0);
	assert_string_equal(buf_str(&text), expected);
}

static void test_stamps_are_of_clean_mailboxes(void **state)
{
	struct journal_stamp stamp = {{0}};
	char dir[64];
	struct journal *journal;
	bool clean;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	stamps_are(journal, "");
	journal_recovered(journal);
	stamp.bytes[JOURNAL_STAMP_SIZE - 1] = 0xab;
	journal_wait(journal, journal_dirty_begin(journal, "h", "box"));
	journal_clean(journal, "h", "box", &stamp);
	journal_close(&journal);
	journal = open_journal(dir, &clean);
	assert_true(clean);
	stamps_are(journal, "h|box|ab ");
	/* Dirty again: what it looked like is no proof of anything. */
	journal_wait(journal, journal_dirty_begin(journal, "h", "box"));
	journal_close(&journal);
	journal = open_journal(dir, &clean);
	stamps_are(journal, "");
	journal_clean(journal, "h", "box", NULL);
	journal_close(&journal);
	journal = open_journal(dir, &clean);
	stamps_are(journal, "");
	journal_close(&journal);
	state_dir_remove(dir);
}

/* What may wait is committed with the next that may not, or when its time has come. */
static void test_events_that_may_wait_are_committed_together(void **state)
{
	struct mail_event event = event_of(MAIL_EVENT_REMOVED, "h", "box", "patient");
	struct mail_event same = event_of(MAIL_EVENT_RESCAN_HOME, "h", "", "");
	char dir[64];
	struct journal *journal;
	struct seen seen;
	bool clean;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	journal_push(journal, &event, 800);
	usleep(100000);
	assert_int_equal(events_behind(dir, 0), 0);
	push(journal, MAIL_EVENT_REMOVED, "h", "box", "urgent");
	barrier(journal);
	assert_int_equal(events_behind(dir, 0), 2);

	/* Who waits for one does not wait for its time. */
	journal_wait(journal, journal_push(journal, &event, 60000));
	assert_int_equal(events_behind(dir, 2), 1);

	/* Nor for that of one which says the same and is queued already. */
	journal_push(journal, &same, 60000);
	journal_wait(journal, journal_push(journal, &same, 60000));
	assert_int_equal(events_behind(dir, 3), 1);

	/* A shorter wait counts, whoever comes first. */
	journal_push(journal, &event, 60000);
	journal_push(journal, &event, 1);
	for (int ms = 0; ms < 5000 && events_behind(dir, 4) < 2; ms += 10)
		usleep(10000);
	assert_int_equal(events_behind(dir, 4), 2);
	journal_close(&journal);
	read_all(dir, 0, &seen);
	assert_int_equal(seen.count, 6);
	assert_string_equal(seen.events[0].name, "patient");
	assert_string_equal(seen.events[1].name, "urgent");
	free(seen.events);
	state_dir_remove(dir);
}

static void *wait_for_each(void *ctx)
{
	struct mail_event event = event_of(MAIL_EVENT_REMOVED, "h", "box", "x");

	for (int i = 0; i < 300; i++)
		journal_wait(ctx, journal_push(ctx, &event, i % 3));
	return NULL;
}

/* Who waits for what is just being written leaves the thread able to be woken. (Else this hangs.)
 */
static void test_waiting_never_hangs(void **state)
{
	pthread_t threads[3];
	char dir[64];
	struct journal *journal;
	bool clean;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_create(&threads[i], NULL, wait_for_each, journal), 0);
	for (int i = 0; i < 3; i++)
		assert_int_equal(pthread_join(threads[i], NULL), 0);
	journal_close(&journal);
	assert_int_equal(events_behind(dir, 0), 900);
	state_dir_remove(dir);
}

static void test_consumed_events_are_forgotten_but_not_their_numbers(void **state)
{
	char dir[64];
	struct journal *journal;
	struct peer_journal *peer;
	struct error err = {0};
	struct seen seen;
	bool clean;

	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	for (int i = 0; i < 10; i++)
		push(journal, MAIL_EVENT_REMOVED, "h", "box", "x");
	journal_close(&journal);
	read_all(dir, 0, &seen);
	assert_int_equal(seen.count, 10);
	assert_int_equal(peer_journal_open(dir, &peer, &err), 0);
	assert_int_equal(peer_journal_set_consumed(peer, &seen.id, 10, &err), 0);
	assert_int_equal(peer_journal_commit(peer, &err), 0);
	peer_journal_close(&peer);
	free(seen.events);

	journal = open_journal(dir, &clean);
	push(journal, MAIL_EVENT_REMOVED, "h", "box", "y");
	journal_close(&journal);
	read_all(dir, 0, &seen);
	assert_int_equal(seen.count, 1);
	assert_int_equal(seen.events[0].seq, 11);
	free(seen.events);
	state_dir_remove(dir);
}

static void test_another_journals_position_forgets_nothing(void **state)
{
	char dir[64];
	struct journal *journal;
	struct peer_journal *peer;
	struct error err = {0};
	struct guid other;
	struct seen seen;
	bool clean;

	state_dir_make(dir);
	guid_generate(&other);
	assert_int_equal(peer_journal_open(dir, &peer, &err), 0);
	assert_int_equal(peer_journal_set_consumed(peer, &other, 1000, &err), 0);
	assert_int_equal(peer_journal_commit(peer, &err), 0);
	peer_journal_close(&peer);
	journal = open_journal(dir, &clean);
	push(journal, MAIL_EVENT_REMOVED, "h", "box", "x");
	barrier(journal);
	usleep(1200000);
	push(journal, MAIL_EVENT_REMOVED, "h", "box", "y");
	journal_close(&journal);
	read_all(dir, 0, &seen);
	assert_int_equal(seen.count, 2);
	free(seen.events);
	state_dir_remove(dir);
}

static void test_events_of_an_absent_dsyncd_are_folded_but_evidence_stays(void **state)
{
	struct journal_limits old = journal_limits;
	size_t removed = 0, delivered = 0, rescans = 0, renamed = 0;
	char dir[64], box[32], name[32];
	struct journal *journal;
	struct seen seen;
	bool clean;

	journal_limits.events_max = 500;
	state_dir_make(dir);
	journal = open_journal(dir, &clean);
	push(journal, MAIL_EVENT_DELIVERED, "h", "before", "x");
	push(journal, MAIL_EVENT_DELIVERED, "h", "before", "y");
	push(journal, MAIL_EVENT_DIR_RENAMED, "h", "before", "after");
	push(journal, MAIL_EVENT_DELIVERED, "h", "before", "z");
	push(journal, MAIL_EVENT_DELIVERED, "h", "lonely", "x");
	for (int i = 0; i < 3000; i++) {
		snprintf(box, sizeof box, "box%d", i % 7);
		snprintf(name, sizeof name, "m%d", i);
		push(journal, i % 30 ? MAIL_EVENT_DELIVERED : MAIL_EVENT_REMOVED, "h", box, name);
	}
	barrier(journal);
	for (int ms = 0; ms < 20000 && events_behind(dir, 0) > (int)journal_limits.events_max;
	     ms += 50)
		usleep(50000);
	journal_close(&journal);
	read_all(dir, 0, &seen);
	for (size_t i = 0; i < seen.count; i++) {
		removed += seen.events[i].kind == MAIL_EVENT_REMOVED;
		delivered += seen.events[i].kind == MAIL_EVENT_DELIVERED;
		rescans += seen.events[i].kind == MAIL_EVENT_RESCAN;
		renamed += seen.events[i].kind == MAIL_EVENT_DIR_RENAMED;
		assert_true(i == 0 || seen.events[i].seq > seen.events[i - 1].seq);
	}
	assert_int_equal(removed, 100);
	assert_int_equal(renamed, 1);
	/* One for each of the seven, and one for what "before" was before it was renamed. */
	assert_int_equal(rescans, 8);
	/* A single event is as good as a rescan and cheaper. */
	assert_int_equal(delivered, 2);
	free(seen.events);
	state_dir_remove(dir);
	journal_limits = old;
}

static void damage_file(const char *dir, off_t offset, size_t len, unsigned seed)
{
	char path[128], junk[4096];
	int fd;

	snprintf(path, sizeof path, "%s/journal/fs/data.mdb", dir);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	for (size_t i = 0; i < len; i++) {
		seed = seed * 1103515245 + 12345;
		junk[i] = (char)(seed >> 16);
	}
	assert_int_equal(pwrite(fd, junk, len, offset), (ssize_t)len);
	close(fd);
}

/* In one commit, so that the pages are the same each time. */
static void fill(const char *dir)
{
	char name[128];
	struct journal *journal;
	bool clean;

	journal = open_journal(dir, &clean);
	for (int i = 0; i < 300; i++) {
		struct mail_event event =
			event_of(MAIL_EVENT_REMOVED, "example.org/user", "Maildir/.Folder", name);

		snprintf(name, sizeof name, "1700000000.M%dP1.host.example.org,S=1000,W=1020:2,",
			 i);
		journal_push(journal, &event, 60000);
	}
	journal_close(&journal);
}

static void test_damaged_environment_is_moved_aside_and_made_anew(void **state)
{
	char dir[64], path[128];
	struct seen before, after;
	struct journal *journal;
	bool clean;

	state_dir_make(dir);
	fill(dir);
	read_all(dir, 0, &before);
	free(before.events);
	damage_file(dir, 0, 4096, 1);
	damage_file(dir, 4096, 4096, 2);
	journal = open_journal(dir, &clean);
	assert_false(clean);
	push(journal, MAIL_EVENT_DELIVERED, "h", "box", "new");
	journal_close(&journal);
	assert_int_equal(count_names(dir, "fs.damaged."), 1);
	read_all(dir, 0, &after);
	assert_int_equal(after.count, 1);
	assert_false(guid_equal(&before.id, &after.id));
	free(after.events);

	/* Cut short: pages in use are missing. */
	fill(dir);
	snprintf(path, sizeof path, "%s/journal/fs/data.mdb", dir);
	assert_int_equal(truncate(path, 3 * 4096), 0);
	journal = open_journal(dir, &clean);
	assert_false(clean);
	journal_close(&journal);
	assert_int_equal(count_names(dir, "fs.damaged."), 2);
	state_dir_remove(dir);
}

static void test_random_damage_never_stops_the_journal(void **state)
{
	size_t damaged = 0;

	for (unsigned round = 0; round < 40; round++) {
		char dir[64], path[128];
		struct stat st;
		struct journal *journal;
		struct seen seen;
		bool clean;

		state_dir_make(dir);
		fill(dir);
		snprintf(path, sizeof path, "%s/journal/fs/data.mdb", dir);
		assert_int_equal(stat(path, &st), 0);
		damage_file(dir, (off_t)((round * 2654435761U) % (unsigned)(st.st_size - 64)),
			    1 + round % 64, round);
		journal = open_journal(dir, &clean);
		push(journal, MAIL_EVENT_REMOVED, "h", "box", "last");
		journal_close(&journal);
		read_all(dir, 0, &seen);
		assert_true(seen.count > 0);
		assert_string_equal(seen.events[seen.count - 1].name, "last");
		free(seen.events);
		damaged += count_names(dir, "fs.damaged.");
		state_dir_remove(dir);
	}
	assert_in_range(damaged, 1, 40);
}

/* LMDB reads past a wrong page head, and ends the process when it writes there. */
static void test_damaged_page_heads_are_found(void **state)
{
	enum { PAGE = 4096, HEAD = 16 };
	unsigned found = 0, cases = 0;
	off_t pages = 3;

	for (off_t pgno = 2; pgno < pages; pgno += 3) {
		for (unsigned at = 0; at < HEAD; at += 2, cases++) {
			char dir[64], path[128];
			unsigned char byte;
			struct journal *journal;
			struct stat st;
			bool clean;
			int fd;

			state_dir_make(dir);
			fill(dir);
			fill(dir);
			snprintf(path, sizeof path, "%s/journal/fs/data.mdb", dir);
			fd = open(path, O_RDWR | O_CLOEXEC);
			assert_int_equal(fstat(fd, &st), 0);
			pages = st.st_size / PAGE;
			assert_int_equal(pread(fd, &byte, 1, pgno * PAGE + at), 1);
			byte ^= 0x41;
			assert_int_equal(pwrite(fd, &byte, 1, pgno * PAGE + at), 1);
			close(fd);
			journal = open_journal(dir, &clean);
			for (unsigned i = 0; i < 40; i++)
				push(journal, MAIL_EVENT_REMOVED, "h", "box", "last");
			journal_close(&journal);
			const size_t damaged = count_names(dir, "fs.damaged.");
			found += damaged;
			/* And what is sound is not. */
			fill(dir);
			assert_int_equal(count_names(dir, "fs.damaged."), damaged);
			state_dir_remove(dir);
		}
	}
	/* The rest is in free pages, or in bytes that mean nothing. */
	assert_true(found > cases / 2);
}

/* A disk that damages all that is written does not fill up with it. */
static void test_few_damaged_copies_are_kept(void **state)
{
	struct journal *journal;
	char dir[64];
	bool clean;

	state_dir_make(dir);
	for (int i = 0; i < 7; i++) {
		fill(dir);
		damage_file(dir, 0, 4096, 1);
		damage_file(dir, 4096, 4096, 2);
		journal = open_journal(dir, &clean);
		journal_close(&journal);
	}
	assert_int_equal(count_names(dir, "fs.damaged."), 4);
	state_dir_remove(dir);
}

/* In the place of the C library's, which LMDB uses: while it is so, its meta pages cannot be
 * written. */
static atomic_bool meta_fails;
static atomic_uint meta_failures;

static bool is_meta_page(int fd, off_t offset)
{
	static const char data[] = "/fs/data.mdb";
	char link[64], path[256];
	ssize_t len;

	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	len = readlink(link, path, sizeof path);
	return offset < 2 * 4096 && len > (ssize_t)strlen(data) &&
	       strncmp(path + len - strlen(data), data, strlen(data)) == 0;
}

static ssize_t pwrite_or_fail(int fd, const void *data, size_t len, off_t offset)
{
	if (meta_fails && is_meta_page(fd, offset)) {
		meta_failures++;
		errno = EIO;
		return -1;
	}
	return syscall(SYS_pwrite64, fd, data, len, offset);
}

/* By the name that it has here (pwrite64), and by the one that it has in an LMDB that was built
 * without large offsets. */
ssize_t pwrite(int fd, const void *data, size_t len, off_t offset)
{
	return pwrite_or_fail(fd, data, len, offset);
}

ssize_t pwrite_of_lmdb(int fd, const void *data, size_t len, off_t offset) __asm__("pwrite");

ssize_t pwrite_of_lmdb(int fd, const void *data, size_t len, off_t offset)
{
	return pwrite_or_fail(fd, data, len, offset);
}

/* LMDB gives up an environment whose meta page it could not write. It is as sound as before. */
static void test_a_disk_that_fails_is_no_damage(void **state)
{
	struct seen before, after;
	struct journal *journal;
	char dir[64];
	bool clean;

	state_dir_make(dir);
	fill(dir);
	read_all(dir, 0, &before);
	journal = open_journal(dir, &clean);
	meta_fails = true;
	push(journal, MAIL_EVENT_REMOVED, "h", "box", "meanwhile");
	barrier(journal);
	for (int i = 0; i < 300 && meta_failures < 10; i++)
		usleep(100000);
	assert_true(meta_failures >= 10);
	meta_fails = false;
	journal_close(&journal);
	assert_int_equal(count_names(dir, "fs.damaged."), 0);
	read_all(dir, 0, &after);
	assert_true(guid_equal(&before.id, &after.id));
	assert_true(after.count > before.count);
	for (size_t i = 0; i < before.count; i++)
		assert_int_equal(after.events[i].seq, before.events[i].seq);
	assert_string_equal(after.events[after.count - 1].name, "meanwhile");
	free(before.events);
	free(after.events);
	state_dir_remove(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events_come_back_in_order),
		cmocka_unit_test(test_a_closed_journal_is_clean_and_keeps_its_id),
		cmocka_unit_test(test_touched_of_one_mailbox_is_kept_once),
		cmocka_unit_test(test_second_writer_is_refused),
		cmocka_unit_test(test_the_writer_says_since_when_it_runs),
		cmocka_unit_test(test_killed_writer_loses_nothing_and_reuses_no_seq),
		cmocka_unit_test(test_dirty_set_outlives_a_kill),
		cmocka_unit_test(test_a_start_that_fails_leaves_what_the_crash_left),
		cmocka_unit_test(test_removals_that_were_not_told_outlive_a_kill),
		cmocka_unit_test(test_reader_sees_every_commit_as_it_happens),
		cmocka_unit_test(test_stamps_are_of_clean_mailboxes),
		cmocka_unit_test(test_events_that_may_wait_are_committed_together),
		cmocka_unit_test(test_waiting_never_hangs),
		cmocka_unit_test(test_consumed_events_are_forgotten_but_not_their_numbers),
		cmocka_unit_test(test_another_journals_position_forgets_nothing),
		cmocka_unit_test(test_events_of_an_absent_dsyncd_are_folded_but_evidence_stays),
		cmocka_unit_test(test_damaged_environment_is_moved_aside_and_made_anew),
		cmocka_unit_test(test_random_damage_never_stops_the_journal),
		cmocka_unit_test(test_damaged_page_heads_are_found),
		cmocka_unit_test(test_few_damaged_copies_are_kept),
		cmocka_unit_test(test_a_disk_that_fails_is_no_damage),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
