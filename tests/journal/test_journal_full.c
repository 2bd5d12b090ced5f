/* A disk that is full: nobody waits, the marker stands in, and when there is room again everything
 * that was promised is durable. On a small tmpfs; needs root. */
#include "tests/journal/journal_test.h"

#include <signal.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include "store/journal/journal_private.h"
#include "store/journal/slot_file.h"

#define SKIPPED 77

static char root[64];

static int mount_small(void **state)
{
	state_dir_make(root);
	assert_int_equal(
		mount("dsyncfs-test", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0700"), 0);
	return 0;
}

static int unmount_small(void **state)
{
	assert_int_equal(umount(root), 0);
	state_dir_remove(root);
	return 0;
}

/* Takes all room that is left. */
static void fill_disk(void)
{
	char path[128], block[4096] = {1};
	int fd;

	snprintf(path, sizeof path, "%s/ballast", root);
	fd = open(path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	while (write(fd, block, sizeof block) > 0)
		;
	close(fd);
}

static void free_disk(void)
{
	char path[128];

	snprintf(path, sizeof path, "%s/ballast", root);
	assert_int_equal(unlink(path), 0);
}

static bool marker_is_set(void)
{
	uint8_t payload[SLOT_PAYLOAD];
	char path[128];
	int fd;

	snprintf(path, sizeof path, "%s/journal", root);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(slot_read_at(fd, JOURNAL_MARKER, payload), 0);
	close(fd);
	return payload[0] != 0;
}

/* Events until the journal cannot take more. */
static unsigned push_until_broken(struct journal *journal)
{
	char name[160];
	unsigned n = 0;

	while (!marker_is_set() && n < 20000) {
		snprintf(name, sizeof name, "%u.%0100u", n, n);
		push(journal, MAIL_EVENT_REMOVED, "h", "box", name);
		if (++n % 20 == 0)
			barrier(journal);
	}
	assert_true(marker_is_set());
	return n;
}

static void test_full_disk_delays_nobody_and_loses_nothing(void **state)
{
	struct journal *journal;
	struct timespec begin, end;
	struct seen seen;
	bool clean;
	unsigned pushed;
	size_t removed = 0;

	journal = open_journal(root, &clean);
	fill_disk();
	pushed = push_until_broken(journal);
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (int i = 0; i < 1000; i++)
		barrier(journal);
	clock_gettime(CLOCK_MONOTONIC, &end);
	assert_in_range(end.tv_sec - begin.tv_sec, 0, 1);
	free_disk();
	for (int i = 0; i < 150 && marker_is_set(); i++)
		usleep(100000);
	assert_false(marker_is_set());
	journal_close(&journal);
	read_all(root, 0, &seen);
	for (size_t i = 0; i < seen.count; i++) {
		removed += seen.events[i].kind == MAIL_EVENT_REMOVED;
		assert_true(i == 0 || seen.events[i].seq > seen.events[i - 1].seq);
	}
	assert_int_equal(removed, pushed);
	free(seen.events);
}

static void test_crash_on_a_full_disk_makes_readers_scan_everything(void **state)
{
	struct journal *journal;
	struct seen before, after;
	bool clean;
	pid_t pid;

	journal = open_journal(root, &clean);
	push(journal, MAIL_EVENT_REMOVED, "h", "box", "first");
	journal_close(&journal);
	read_all(root, 0, &before);
	free(before.events);
	pid = fork();
	if (pid == 0) {
		journal = open_journal(root, &clean);
		fill_disk();
		push_until_broken(journal);
		kill(getpid(), SIGKILL);
	}
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_true(marker_is_set());
	free_disk();
	journal = open_journal(root, &clean);
	assert_false(clean);
	assert_false(marker_is_set());
	journal_close(&journal);
	read_all(root, 0, &after);
	/* The id is what tells them; the evidence of removals is kept all the same. */
	assert_false(guid_equal(&before.id, &after.id));
	assert_true(after.count > 0);
	assert_string_equal(after.events[0].name, "first");
	free(after.events);
}

static void test_dsyncd_keeps_its_changes_until_there_is_room(void **state)
{
	struct peer_mailbox_state box = {.guid = {{1}}, .uid_validity = 1};
	struct peer_journal *journal;
	struct peer_user user = {.priority = SYNC_PRIORITY_LOW}, got;
	struct error err = {0};
	char name[64];
	unsigned n;
	int rc = 0;

	assert_int_equal(peer_journal_open(root, &journal, &err), 0);
	fill_disk();
	for (n = 0; n < 20000 && rc == 0; n++) {
		snprintf(name, sizeof name, "user%u", n);
		assert_int_equal(peer_journal_put_state(journal, name, "peer", &box, &err), 0);
		assert_int_equal(peer_journal_put_user(journal, name, "peer", &user, &err), 0);
		if (n % 10 == 9)
			rc = peer_journal_commit(journal, &err);
	}
	assert_true(rc == -ENOSPC || rc == -EIO);
	assert_true(err.text[0] != '\0');
	/* Still seen, and still owed. */
	assert_int_equal(peer_journal_get_user(journal, name, "peer", &got, &err), 0);
	free_disk();
	assert_int_equal(peer_journal_commit(journal, &err), 0);
	peer_journal_close(&journal);
	assert_int_equal(peer_journal_open(root, &journal, &err), 0);
	for (unsigned i = 0; i < n; i++) {
		snprintf(name, sizeof name, "user%u", i);
		assert_int_equal(peer_journal_get_user(journal, name, "peer", &got, &err), 0);
	}
	peer_journal_close(&journal);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_full_disk_delays_nobody_and_loses_nothing,
						mount_small, unmount_small),
		cmocka_unit_test_setup_teardown(
			test_crash_on_a_full_disk_makes_readers_scan_everything, mount_small,
			unmount_small),
		cmocka_unit_test_setup_teardown(test_dsyncd_keeps_its_changes_until_there_is_room,
						mount_small, unmount_small),
	};

	state_dir_make(root);
	if (geteuid() != 0 ||
	    mount("dsyncfs-test", root, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m") < 0) {
		printf("skipped: needs root and the right to mount a tmpfs\n");
		rmdir(root);
		return SKIPPED;
	}
	umount(root);
	rmdir(root);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
