/*
 * What one change costs in a mailbox of many mails: CPU time must not grow with the mailbox. Each
 * change is made in a small and in a large mailbox, a few times; the medians are compared.
 *
 * DSYNCFS_TEST_MAILS=100000 prints the figures of a larger one.
 */
#include "tests/maildir/maildir_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>
#include "store/base/file.h"

#define BODY   "Subject: x\n\nline one\nline two\n"
#define SMALL  500
#define LARGE  20000
#define ROUNDS 21
/* Noise, and what the system does for larger directories and files. */
#define FACTOR	 3
#define SLACK_US 300

struct place {
	struct fixture *fx;
	struct mailbox *box;
	unsigned mails, made, flips;
	uint64_t since; /* a MODSEQ shortly before the highest */
	char name[100], other[100];
	struct mail_spool *spool;
};

static int64_t cpu_us(void)
{
	struct rusage use;

	getrusage(RUSAGE_SELF, &use);
	return (use.ru_utime.tv_sec + use.ru_stime.tv_sec) * 1000000 + use.ru_utime.tv_usec +
	       use.ru_stime.tv_usec;
}

/* A file that the index knows, flags S. */
static void known_name(const struct place *place, unsigned i, char name_r[100])
{
	snprintf(name_r, 100, "%u.M%uP1.host,S=%zu,W=%zu:2,S", 1600000000 + i, i, strlen(BODY),
		 strlen(BODY) + 4);
}

static void fill(struct place *place)
{
	char path[600], name[100];
	bool changed;
	struct error err = {0};
	size_t missing;

	fixture_make_maildir(place->fx);
	for (unsigned i = 0; i < place->mails; i++) {
		int fd;

		known_name(place, i, name);
		snprintf(path, sizeof path, "%s/cur/%s", place->fx->maildir, name);
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		assert_true(fd >= 0);
		close(fd);
	}
	place->box = must_open(place->fx, "INBOX");
	must(mailbox_scan(place->box, &changed, &missing, &err), &err);
	assert_int_equal(mailbox_status(place->box)->messages, place->mails);
}

/* ---- the changes: prepared without being measured, then carried out ---- */

static void prepare_nothing(struct place *place)
{
}

static void open_and_close(struct place *place)
{
	struct mailbox *box = must_open(place->fx, "INBOX");

	mailbox_close(&box);
}

static void prepare_delivery(struct place *place)
{
	snprintf(place->name, sizeof place->name, "%u.M%uP2.host", 1700000000 + place->made,
		 place->made);
	place->made++;
	deliver(place->fx, "new", place->name, BODY);
}

static void catch_up_with_a_delivery(struct place *place)
{
	struct mail_event event = event_delivered(place->name);

	assert_true(catch_up(place->box, &event, 1));
}

static void prepare_rename(struct place *place)
{
	char from[600], to[600];

	known_name(place, 7 * place->made++ % place->mails, place->name);
	snprintf(place->other, sizeof place->other, "%.*s:2,FS", (int)strcspn(place->name, ":"),
		 place->name);
	snprintf(from, sizeof from, "%s/cur/%s", place->fx->maildir, place->name);
	snprintf(to, sizeof to, "%s/cur/%s", place->fx->maildir, place->other);
	assert_int_equal(rename(from, to), 0);
}

static void catch_up_with_a_rename(struct place *place)
{
	struct mail_event event = event_renamed(place->name, place->other);

	assert_true(catch_up(place->box, &event, 1));
}

static void prepare_removal(struct place *place)
{
	char path[600];

	known_name(place, 250 + place->made++, place->name);
	snprintf(path, sizeof path, "%s/cur/%s", place->fx->maildir, place->name);
	assert_int_equal(unlink(path), 0);
}

static void catch_up_with_a_removal(struct place *place)
{
	struct mail_event event = event_removed(place->name);

	assert_true(catch_up(place->box, &event, 1));
}

static void prepare_save(struct place *place)
{
	place->spool = spool_mail(place->box, &(struct new_mail){.body = BODY});
}

static void save(struct place *place)
{
	struct new_mail mail = {.body = BODY, .flags = MAIL_SEEN};
	struct mailbox_txn *txn;
	struct error err = {0};
	char guid[40];

	snprintf(guid, sizeof guid, "guid.%u", place->made++);
	mail.guid = guid;
	must(mailbox_begin(place->box, &txn, &err), &err);
	txn_append(txn, place->spool, &mail, mailbox_status(place->box)->uid_next);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

static void set_flags(struct place *place)
{
	const char *keyword = place->flips++ % 2 ? "One" : "Two";
	struct mailbox_txn *txn;
	struct error err = {0};

	must(mailbox_begin(place->box, &txn, &err), &err);
	must(mailbox_set_flags(txn, 100, MAIL_FLAGGED, (struct keyword_set){&keyword, 1}, 0, &err),
	     &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

static void expunge(struct place *place)
{
	struct mailbox_txn *txn;
	struct error err = {0};

	must(mailbox_begin(place->box, &txn, &err), &err);
	must(mailbox_expunge(txn, 150 + place->made++, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

/* Not so much that the log is rotated. */
static void prepare_a_long_log(struct place *place)
{
	for (int i = 0; i < 4 * 4096 / ROUNDS; i++)
		set_flags(place);
}

static void prepare_changes(struct place *place)
{
	place->since = mailbox_status(place->box)->highest_modseq;
	set_flags(place);
}

static void ask_for_changes(struct place *place)
{
	struct mailbox_changes changes;
	struct error err = {0};

	must(mailbox_refresh(place->box, &err), &err);
	must(mailbox_changes(place->box, place->since, &changes, &err), &err);
	assert_int_equal(changes.count, 1);
	mailbox_changes_free(&changes);
}

static void refresh(struct place *place)
{
	struct error err = {0};

	must(mailbox_refresh(place->box, &err), &err);
}

static const struct {
	const char *name;
	void (*prepare)(struct place *place);
	void (*run)(struct place *place);
} changes[] = {
	{"refresh", prepare_nothing, refresh},
	{"open and close", prepare_nothing, open_and_close},
	{"catch up with a delivery", prepare_delivery, catch_up_with_a_delivery},
	{"catch up with a rename", prepare_rename, catch_up_with_a_rename},
	{"catch up with a removal", prepare_removal, catch_up_with_a_removal},
	{"save", prepare_save, save},
	{"set flags", prepare_nothing, set_flags},
	{"expunge", prepare_nothing, expunge},
	{"changes since a MODSEQ", prepare_changes, ask_for_changes},
	{"flags in a long log", prepare_a_long_log, set_flags},
	{"changes in a long log", prepare_changes, ask_for_changes},
	{"open with a long log", prepare_nothing, open_and_close},
};
#define CHANGES (sizeof changes / sizeof changes[0])

static int compare_times(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return x < y ? -1 : x > y;
}

static void measure(struct place *place, int64_t medians_r[CHANGES])
{
	for (size_t i = 0; i < CHANGES; i++) {
		int64_t times[ROUNDS];

		place->made = 0;
		for (int round = 0; round < ROUNDS; round++) {
			int64_t start;

			changes[i].prepare(place);
			start = cpu_us();
			changes[i].run(place);
			times[round] = cpu_us() - start;
		}
		qsort(times, ROUNDS, sizeof times[0], compare_times);
		medians_r[i] = times[ROUNDS / 2];
	}
}

static void measure_in_a_mailbox_of(unsigned mails, int64_t medians_r[CHANGES])
{
	struct place place = {.mails = mails};
	void *state;

	assert_int_equal(fixture_setup(&state), 0);
	place.fx = state;
	fill(&place);
	measure(&place, medians_r);
	mailbox_close(&place.box);
	fixture_teardown(&state);
}

static void test_costs_do_not_grow_with_the_mailbox(void **state)
{
	const char *more = getenv("DSYNCFS_TEST_MAILS");
	unsigned large = more ? (unsigned)strtoul(more, NULL, 10) : LARGE;
	int64_t in_small[CHANGES], in_large[CHANGES];
	bool grown = false;

	measure_in_a_mailbox_of(SMALL, in_small);
	measure_in_a_mailbox_of(large, in_large);
	for (size_t i = 0; i < CHANGES; i++) {
		bool too_much = in_large[i] > FACTOR * in_small[i] + SLACK_US;

		print_message("%-28s %6lld us of %u mails, %6lld us of %u%s\n", changes[i].name,
			      (long long)in_small[i], SMALL, (long long)in_large[i], large,
			      too_much ? "  GROWS" : "");
		grown = grown || too_much;
	}
	assert_false(grown);
}

/* CPU time of one of count messages that are changed together. */
static int64_t bulk_ns(struct place *place, unsigned count, uint8_t flags)
{
	int64_t start = cpu_us();
	struct mailbox_txn *txn;
	struct error err = {0};

	must(mailbox_begin(place->box, &txn, &err), &err);
	for (uint32_t uid = 1; uid <= count; uid++)
		must(mailbox_set_flags(txn, uid, flags, (struct keyword_set){0}, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	return (cpu_us() - start) * 1000 / count;
}

static int64_t append_ns(struct place *place, unsigned count)
{
	struct mail_spool **spools = calloc(count, sizeof(struct mail_spool *));
	struct new_mail mail = {.body = BODY, .flags = MAIL_SEEN};
	struct mailbox_txn *txn;
	struct error err = {0};
	uint32_t uid;
	int64_t start;

	assert_non_null(spools);
	for (unsigned i = 0; i < count; i++)
		spools[i] = spool_mail(place->box, &mail);
	must(mailbox_begin(place->box, &txn, &err), &err);
	start = cpu_us();
	uid = mailbox_status(place->box)->uid_next;
	for (unsigned i = 0; i < count; i++) {
		snprintf(place->name, sizeof place->name, "bulk.%u", place->made++);
		mail.guid = place->name;
		txn_append(txn, spools[i], &mail, uid + i);
	}
	must(mailbox_commit(&txn, NULL, &err), &err);
	start = cpu_us() - start;
	free(spools);
	return start * 1000 / count;
}

static void test_many_changes_cost_as_many_times_one(void **state)
{
	struct place place = {.mails = LARGE};
	int64_t few, many;
	void *fx;

	assert_int_equal(fixture_setup(&fx), 0);
	place.fx = fx;
	fill(&place);
	few = bulk_ns(&place, 1000, MAIL_FLAGGED);
	many = bulk_ns(&place, LARGE, MAIL_ANSWERED);
	print_message("flags of one of 1000: %lld ns, of %d: %lld ns\n", (long long)few, LARGE,
		      (long long)many);
	assert_true(many < FACTOR * few + 10000);
	few = append_ns(&place, 100);
	many = append_ns(&place, 5000);
	print_message("append of one of 100: %lld ns, of 5000: %lld ns\n", (long long)few,
		      (long long)many);
	assert_true(many < FACTOR * few + 20000);
	mailbox_close(&place.box);
	fixture_teardown(&fx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_costs_do_not_grow_with_the_mailbox),
		cmocka_unit_test(test_many_changes_cost_as_many_times_one),
	};

	/* A disk's file system has costs of its own: ext4 looks for an inode for each lock file,
	 * the longer the more were deleted a moment ago. */
	if (access("/dev/shm", W_OK) == 0)
		setenv("TMPDIR", "/dev/shm", 0);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
