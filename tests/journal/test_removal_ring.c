/* What the mount was about to remove: it survives the process, the oldest give way, and a clean end
 * or another boot forgets it. */
#include "tests/journal/journal_test.h"

#include <stdio.h>
#include <sys/wait.h>
#include "store/journal/removal_ring.h"

#define SLOTS 1024

struct found {
	unsigned count;
	char first[64], last[64];
};

static int setup(void **state)
{
	static char top[64];

	state_dir_make(top);
	*state = top;
	return 0;
}

static int teardown(void **state)
{
	state_dir_remove(*state);
	return 0;
}

static struct removal_ring *ring_open(const char *top, bool clean)
{
	int fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct removal_ring *ring;
	struct error err = {0};

	assert_true(fd >= 0);
	assert_int_equal(removal_ring_open(fd, clean, &ring, &err), 0);
	close(fd);
	return ring;
}

static uint64_t put(struct removal_ring *ring, const char *name)
{
	return removal_ring_put(ring, &(struct mail_event){.kind = MAIL_EVENT_REMOVED,
							   .home = "example.org/alice",
							   .dir = "Maildir",
							   .name = name});
}

static void note(void *ctx, const struct mail_event *event, uint64_t removal)
{
	struct found *found = ctx;

	assert_true(removal > 0);
	assert_int_equal(event->kind, MAIL_EVENT_REMOVED);
	assert_string_equal(event->home, "example.org/alice");
	assert_string_equal(event->dir, "Maildir");
	if (found->count++ == 0)
		snprintf(found->first, sizeof found->first, "%s", event->name);
	snprintf(found->last, sizeof found->last, "%s", event->name);
}

static struct found look(const char *top, bool clean)
{
	struct removal_ring *ring = ring_open(top, clean);
	struct found found = {0};

	removal_ring_each(ring, note, &found);
	removal_ring_close(&ring);
	return found;
}

static void test_it_survives_the_process(void **state)
{
	const char *top = *state;
	struct found found;
	pid_t child = fork();

	if (child == 0) {
		struct removal_ring *ring = ring_open(top, true);

		for (unsigned i = 0; i < SLOTS + 10; i++) {
			char name[32];

			snprintf(name, sizeof name, "mail%u", i);
			put(ring, name);
		}
		_exit(0); /* nothing is closed */
	}
	assert_int_equal(waitpid(child, NULL, 0), child);
	found = look(top, false);
	assert_int_equal(found.count, SLOTS);
	assert_string_equal(found.first, "mail10");
	assert_string_equal(found.last, "mail1033");
	/* It goes on where it was. */
	struct removal_ring *ring = ring_open(top, false);
	put(ring, "one more");
	removal_ring_close(&ring);
	assert_string_equal(look(top, false).last, "one more");
	assert_int_equal(look(top, true).count, 0);
	assert_int_equal(look(top, false).count, 0);
}

static void test_what_was_told_is_forgotten(void **state)
{
	const char *top = *state;
	struct removal_ring *ring = ring_open(top, true);
	uint64_t first = put(ring, "first"), second = put(ring, "second");
	struct found found;

	put(ring, "third");
	removal_ring_forget(ring, second);
	removal_ring_forget(ring, 0);
	removal_ring_close(&ring);
	found = look(top, false);
	assert_int_equal(found.count, 2);
	assert_string_equal(found.first, "first");
	assert_string_equal(found.last, "third");
	/* Whose place another has by now stays forgotten, and takes nothing with it. */
	ring = ring_open(top, false);
	for (unsigned i = 0; i < SLOTS; i++)
		put(ring, "later");
	removal_ring_forget(ring, first);
	removal_ring_close(&ring);
	assert_int_equal(look(top, false).count, SLOTS);
}

static void test_of_another_boot_nothing_counts(void **state)
{
	const char *top = *state;
	struct removal_ring *ring = ring_open(top, true);
	char path[96];
	int fd;

	put(ring, "mail");
	removal_ring_close(&ring);
	snprintf(path, sizeof path, "%s/removals", top);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, "another", 7, 32), 7);
	close(fd);
	assert_int_equal(look(top, false).count, 0);
}

static void test_too_long_a_name_is_left_out(void **state)
{
	const char *top = *state;
	struct removal_ring *ring = ring_open(top, true);
	struct found found;
	char name[1024];

	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = '\0';
	put(ring, "before");
	put(ring, name);
	put(ring, "after");
	removal_ring_close(&ring);
	found = look(top, false);
	assert_int_equal(found.count, 2);
	assert_string_equal(found.last, "after");
	put(NULL, "no ring");
	removal_ring_each(NULL, note, &found);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_it_survives_the_process),
		UNIT(test_what_was_told_is_forgotten),
		UNIT(test_of_another_boot_nothing_counts),
		UNIT(test_too_long_a_name_is_left_out),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
