/* The replicator's memory and its pauses, with a clock of the test's own. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#include <utlist.h>

#include "sync/backoff.h"
#include "sync/queue.h"

static const bool all_up[2] = {true, true};
static const struct guid nobody;
static const bool none_up[2] = {false, false};
static struct queue_clock now = {.now_ms = 1000000, .now = 1700000000, .chance = 7};

static struct mail_event event(uint64_t seq, enum mail_event_kind kind, const char *dir,
			       const char *name)
{
	return (struct mail_event){.seq = seq,
				   .time = 1700000000,
				   .kind = kind,
				   .home = "",
				   .dir = dir,
				   .name = name,
				   .name2 = ""};
}

static void add(struct queue *queue, struct queue_user *user, uint64_t seq, bool echo)
{
	struct mail_event e = event(seq, MAIL_EVENT_DELIVERED, "Maildir", "a");

	assert_int_equal(queue_event_add(queue, user, &e, NULL, echo, now.now_ms), 0);
}

static struct worker_box box(uint8_t id, uint32_t uid_next, uint64_t modseq)
{
	return (struct worker_box){.dir = "Maildir",
				   .name = "INBOX",
				   .guid = {{id}},
				   .uid_validity = 5,
				   .uid_next = uid_next,
				   .highest_modseq = modseq};
}

static struct queue_user *next(struct queue *queue, const bool *up, int *peer, int64_t *wait)
{
	return queue_next(queue, up, true, &now, peer, wait);
}

static void test_backoff(void **state)
{
	/* Doubled, bounded, and within a quarter of that. */
	for (uint32_t chance = 0; chance < 1000; chance += 37) {
		for (uint32_t failures = 1; failures < 40; failures++) {
			uint32_t full = failures > 9 ? 300000 : 1000U << (failures - 1);
			uint32_t pause;

			if (full > 300000)
				full = 300000;
			pause = backoff_pause_ms(BACKOFF_USER, failures, chance * 1237);
			assert_in_range(pause, full * 3 / 4, full * 5 / 4);
		}
		assert_in_range(backoff_pause_ms(BACKOFF_PEER, 1000000, chance * 977), 1000, 2000);
	}
	assert_true(backoff_pause_ms(BACKOFF_USER, 5, 1) != backoff_pause_ms(BACKOFF_USER, 5, 999));
	assert_int_equal(backoff_spread("alice", 1000), backoff_spread("alice", 1000));
	assert_true(backoff_spread("alice", 86400) < 86400);
	assert_int_equal(backoff_spread("alice", 0), 0);
}

static void test_a_delivery_is_due_at_once(void **state)
{
	struct queue queue;
	struct queue_user *user;
	int64_t wait;
	int peer;

	queue_init(&queue, 1);
	user = queue_user_get(&queue, "alice", "d/alice");
	assert_ptr_equal(queue_user_find_home(&queue, "d/alice"), user);
	assert_null(next(&queue, all_up, &peer, &wait));
	assert_int_equal(wait, -1);
	add(&queue, user, 10, false);
	assert_ptr_equal(next(&queue, all_up, &peer, &wait), user);
	assert_int_equal(peer, 0);
	/* While the peer is away mail is taken in all the same. */
	assert_ptr_equal(next(&queue, none_up, &peer, &wait), user);
	assert_int_equal(peer, -1);
	queue_free(&queue);
}

static void test_events_are_consumed_only_when_taken_in(void **state)
{
	struct queue queue;
	struct queue_user *a, *b;

	queue_init(&queue, 1);
	a = queue_user_get(&queue, "a", "d/a");
	b = queue_user_get(&queue, "b", "d/b");
	add(&queue, a, 10, false);
	add(&queue, b, 11, false);
	add(&queue, a, 12, false);
	assert_int_equal(queue_consumed(&queue, 20), 9);
	queue_events_take(&queue, a, 1);
	assert_int_equal(queue_consumed(&queue, 20), 9);
	queue_events_done(&queue, a);
	assert_int_equal(queue_consumed(&queue, 20), 10);
	queue_events_take(&queue, a, 10);
	queue_events_take(&queue, b, 10);
	queue_events_done(&queue, b);
	assert_int_equal(queue_consumed(&queue, 20), 11);
	/* The job failed: what it had is first in line again, in order. */
	add(&queue, a, 13, false);
	queue_events_put_back(&queue, a);
	assert_int_equal(a->event_count, 2);
	assert_int_equal(a->fresh_count, 2);
	assert_int_equal(a->events->event.seq, 12);
	assert_int_equal(a->events->next->event.seq, 13);
	assert_int_equal(queue.event_count, 2);
	queue_events_take(&queue, a, 10);
	queue_events_done(&queue, a);
	assert_int_equal(queue_consumed(&queue, 20), 20);
	assert_int_equal(queue.event_count, 0);
	assert_false(a->active);
	queue_free(&queue);
}

/* Removals and flags that could not be taken in: their mailboxes are left out of syncs, and no
 * others. */
static void test_what_is_left_out_of_a_sync(void **state)
{
	struct mail_event events[] = {
		event(10, MAIL_EVENT_REMOVED, "Maildir", "a"),
		event(11, MAIL_EVENT_DELIVERED, "Maildir/.A", "b"),
		event(12, MAIL_EVENT_RENAMED, "Maildir/.B", "c"),
		event(13, MAIL_EVENT_REMOVED, "Maildir", "d"),
		event(14, MAIL_EVENT_REMOVED, "Maildir/.C", "e"),
		event(15, MAIL_EVENT_REMOVED, "Maildir/.D", "f"),
	};
	struct queue queue;
	struct queue_user *a;
	const char *dirs[3];

	queue_init(&queue, 1);
	a = queue_user_get(&queue, "a", "d/a");
	events[4].origin = 7; /* the peer's own */
	for (unsigned i = 0; i < 5; i++)
		assert_int_equal(queue_event_add(&queue, a, &events[i], NULL, i == 4, 0), 0);
	/* A session that begins knows that they are on their way. */
	assert_int_equal(queue_unsettled_dirs(a, 0, dirs, 3), 0);
	assert_int_equal(queue_unsettled_dirs(a, 11, dirs, 3), 1);
	assert_string_equal(dirs[0], "Maildir");
	/* The job failed, though one mailbox was done. */
	queue_events_take(&queue, a, 10);
	queue_events_in_index(a, "Maildir/.B", &nobody);
	queue_events_put_back(&queue, a);
	assert_int_equal(queue_event_add(&queue, a, &events[5], NULL, false, 0), 0);
	assert_int_equal(queue_unsettled_dirs(a, 0, dirs, 3), 1);
	assert_string_equal(dirs[0], "Maildir");
	assert_int_equal(queue_unsettled_dirs(a, 15, dirs, 3), 2);
	assert_string_equal(dirs[1], "Maildir/.D");
	assert_int_equal(queue_unsettled_dirs(a, 15, dirs, 1), 2);
	queue_events_take(&queue, a, 10);
	queue_events_done(&queue, a);
	assert_int_equal(queue_unsettled_dirs(a, 15, dirs, 3), 0);
	queue_free(&queue);
}

/* A session of the peer waits for what the mount saw before it began, and for nothing else. */
static void test_what_a_session_waits_for(void **state)
{
	struct mail_event echo = event(14, MAIL_EVENT_DELIVERED, "Maildir", "a");
	struct queue queue;
	struct queue_user *a;

	queue_init(&queue, 1);
	a = queue_user_get(&queue, "a", "d/a");
	assert_int_equal(queue_events_pending(a), 0);
	add(&queue, a, 10, false);
	add(&queue, a, 12, false);
	assert_int_equal(queue_events_pending(a), 12);
	assert_true(queue_events_pend_until(a, 12));
	assert_false(queue_events_pend_until(a, 9));
	queue_events_take(&queue, a, 1);
	add(&queue, a, 13, false); /* came later */
	assert_true(queue_events_pend_until(a, 12));
	queue_events_done(&queue, a);
	assert_true(queue_events_pend_until(a, 12));
	queue_events_take(&queue, a, 1);
	assert_true(queue_events_pend_until(a, 12));
	queue_events_done(&queue, a);
	assert_false(queue_events_pend_until(a, 12));
	queue_events_take(&queue, a, 1);
	queue_events_done(&queue, a);
	/* What a worker did itself. */
	echo.origin = 5;
	assert_int_equal(queue_event_add(&queue, a, &echo, NULL, true, now.now_ms), 0);
	assert_int_equal(queue_events_pending(a), 0);
	assert_false(queue_events_pend_until(a, 14));
	queue_free(&queue);
}

static void note_removal(void *ctx, const struct mail_event *e)
{
	char *names = ctx;

	snprintf(names + strlen(names), 2, "%s", e->name);
}

static void test_removals_that_the_index_lacks(void **state)
{
	struct mail_event gone = event(1, MAIL_EVENT_REMOVED, "Maildir", "a");
	struct mail_event renamed = event(2, MAIL_EVENT_RENAMED, "Maildir", "b");
	struct mail_event others[] = {event(3, MAIL_EVENT_REMOVED, "Maildir/.X", "x"),
				      event(4, MAIL_EVENT_DELIVERED, "Maildir", "n"),
				      event(5, MAIL_EVENT_REMOVED, "Maildir", "w"),
				      event(6, MAIL_EVENT_RESCAN, "Maildir/.X", "")};
	struct mail_event rescan = event(7, MAIL_EVENT_RESCAN, "Maildir", "");
	char names[16] = "";
	struct queue queue;
	struct queue_user *a;

	others[2].origin = 5; /* a worker did it, and recorded it */
	queue_init(&queue, 1);
	a = queue_user_get(&queue, "a", "d/a");
	assert_int_equal(queue_event_add(&queue, a, &gone, NULL, false, now.now_ms), 0);
	queue_events_take(&queue, a, 1);
	assert_int_equal(queue_event_add(&queue, a, &renamed, NULL, false, now.now_ms), 0);
	for (size_t i = 0; i < 4; i++)
		assert_int_equal(queue_event_add(&queue, a, &others[i], NULL, false, now.now_ms),
				 0);
	assert_true(queue_each_removal(a, "Maildir", &nobody, note_removal, names));
	assert_string_equal(names, "ab");
	queue_events_in_index(a, "Maildir", &nobody);
	names[0] = '\0';
	assert_true(queue_each_removal(a, "Maildir", &nobody, note_removal, names));
	assert_string_equal(names, "b");
	/* A scan stands for what is not told one by one. */
	names[0] = '\0';
	assert_false(queue_each_removal(a, "Maildir/.X", &nobody, note_removal, names));
	assert_int_equal(queue_event_add(&queue, a, &rescan, NULL, false, now.now_ms), 0);
	assert_false(queue_each_removal(a, "Maildir", &nobody, note_removal, names));
	queue_free(&queue);
}

/* The waiting event of that name is of this mailbox. */
static void expect_removal(const struct queue_user *user, const char *dir, const struct guid *guid,
			   const char *expected)
{
	char names[16] = "";

	assert_true(queue_each_removal(user, dir, guid, note_removal, names));
	assert_string_equal(names, expected);
}

static void expect_before(const struct queue_user *user, const char *dir, const char *expected)
{
	char *before;

	assert_int_equal(queue_dir_before(user, dir, &before), expected ? 0 : -ENOENT);
	if (expected)
		assert_string_equal(before, expected);
	free(before);
}

static void test_a_rename_takes_events_along(void **state)
{
	const struct guid first = {{1}}, second = {{2}};
	struct mail_event events[] = {
		event(1, MAIL_EVENT_REMOVED, "Maildir/.D2", "a"),
		event(2, MAIL_EVENT_REMOVED, "Maildir/.D22", "b"),
		event(3, MAIL_EVENT_REMOVED, "Maildir/.D2/below", "c"),
		event(4, MAIL_EVENT_DIR_RENAMED, "Maildir/.D2", "Maildir/.D0"),
		event(5, MAIL_EVENT_REMOVED, "Maildir/.D2", "d"),
		event(6, MAIL_EVENT_DIR_RENAMED, "Maildir/.D0", "Maildir/.Longer"),
	};
	const struct mail_event home = event(7, MAIL_EVENT_RESCAN_HOME, "", "");
	const char *dirs[8];
	struct queue queue;
	struct queue_user *a;

	queue_init(&queue, 1);
	a = queue_user_get(&queue, "a", "d/a");
	for (size_t i = 0; i < 4; i++) {
		const struct guid *guid = i == 0 ? &first : NULL;

		expect_before(a, "Maildir/.D2", "Maildir/.D2");
		assert_int_equal(queue_event_add(&queue, a, &events[i], guid, false, 0), 0);
		if (i == 1)
			queue_events_take(&queue, a, 1); /* one that a worker has in hand */
	}
	expect_before(a, "Maildir/.D2", NULL);
	expect_before(a, "Maildir/.D0/below", "Maildir/.D2/below");
	expect_before(a, "Maildir/.D22", "Maildir/.D22");
	expect_before(a, "Maildir", "Maildir");
	for (size_t i = 4; i < 6; i++)
		assert_int_equal(queue_event_add(&queue, a, &events[i], NULL, false, 0), 0);
	expect_before(a, "Maildir/.Longer", "Maildir/.D2");
	expect_before(a, "Maildir/.D0", NULL);
	expect_removal(a, "Maildir/.D2", &nobody, "d");
	expect_removal(a, "Maildir/.D22", &nobody, "b");
	expect_removal(a, "Maildir/.D0", &nobody, "");
	expect_removal(a, "Maildir/.Longer", &nobody, "a");
	expect_removal(a, "Maildir/.Longer/below", &nobody, "c");
	/* Which mailbox it was says more than where. */
	expect_removal(a, "Maildir/.Elsewhere", &first, "a");
	expect_removal(a, "Maildir/.Longer", &second, "");
	assert_int_equal(queue_unsettled_dirs(a, 10, dirs, 8), 4);
	assert_string_equal(dirs[0], "Maildir/.Longer");
	queue_events_in_index(a, "Maildir/.Elsewhere", &first);
	assert_int_equal(queue_unsettled_dirs(a, 10, dirs, 8), 3);
	queue_events_done(&queue, a);
	queue_events_take(&queue, a, 100);
	queue_events_done(&queue, a);
	expect_before(a, "Maildir/.D2", "Maildir/.D2");
	/* A look at the home stands for renames that nobody tells of. */
	assert_int_equal(queue_event_add(&queue, a, &home, NULL, false, 0), 0);
	expect_before(a, "Maildir/.D2", NULL);
	queue_free(&queue);
}

/* What a worker renames is known where it put it: others may have come to where it was. */
static void test_a_rename_by_a_worker_is_where_it_ends(void **state)
{
	struct mail_event events[] = {
		event(1, MAIL_EVENT_DIR_RENAMED, "Maildir/.D2", "Maildir/.D1"),
		event(2, MAIL_EVENT_DIR_RENAMED, "Maildir/.D1", "Maildir/.D3"),
	};
	struct queue queue;
	struct queue_user *a;

	events[0].origin = 5;
	queue_init(&queue, 1);
	a = queue_user_get(&queue, "a", "d/a");
	assert_int_equal(queue_event_add(&queue, a, &events[0], NULL, true, 0), 0);
	expect_before(a, "Maildir/.D1", "Maildir/.D1");
	expect_before(a, "Maildir/.D2", NULL);
	expect_before(a, "Maildir/.D1/below", "Maildir/.D1/below");
	expect_before(a, "Maildir/.D2/below", NULL);
	queue_events_take(&queue, a, 1);
	assert_int_equal(queue_event_add(&queue, a, &events[1], NULL, false, 0), 0);
	expect_before(a, "Maildir/.D3", "Maildir/.D1");
	expect_before(a, "Maildir/.D3/below", "Maildir/.D1/below");
	queue_free(&queue);
}

static void test_echoes(void **state)
{
	struct queue queue;
	struct queue_user *user;
	int64_t wait;
	int peer;

	queue_init(&queue, 1);
	user = queue_user_get(&queue, "a", "d/a");
	add(&queue, user, 10, true);
	now.now_ms += 100;
	assert_null(next(&queue, all_up, &peer, &wait)); /* no work by itself */
	assert_int_equal(queue_consumed(&queue, 20), 9);
	queue_echoes_settle(&queue, user, true, now.now_ms);
	assert_int_equal(queue_consumed(&queue, 20), 20);
	/* Of a worker that died they count, also those that come after its death. */
	add(&queue, user, 21, true);
	queue_echoes_settle(&queue, user, false, now.now_ms);
	add(&queue, user, 22, true);
	assert_int_equal(user->fresh_count, 2);
	now.now_ms += 100;
	assert_ptr_equal(next(&queue, all_up, &peer, &wait), user);
	queue_events_take(&queue, user, 10);
	queue_events_done(&queue, user);
	now.now_ms += 60000;
	add(&queue, user, 23, true);
	assert_int_equal(user->fresh_count, 0);
	queue_free(&queue);
}

static void test_coalescing(void **state)
{
	struct mail_event touched = event(0, MAIL_EVENT_TOUCHED, "Maildir", "");
	struct queue queue;
	struct queue_user *user;

	queue_init(&queue, 1);
	user = queue_user_get(&queue, "a", "d/a");
	for (uint64_t seq = 1; seq <= 100; seq++) {
		touched.seq = seq;
		assert_int_equal(queue_event_add(&queue, user, &touched, NULL, false, now.now_ms),
				 0);
	}
	assert_int_equal(user->event_count, 1);
	assert_int_equal(queue_consumed(&queue, 200), 0);
	queue_events_take(&queue, user, 1);
	queue_events_done(&queue, user);
	/* Beyond the maximum: one look at everything, and still nothing consumed. */
	for (uint64_t seq = 101; seq <= 101 + QUEUE_USER_EVENTS_MAX; seq++)
		add(&queue, user, seq, false);
	assert_in_range(user->event_count, 1, 2);
	assert_int_equal(user->events->event.kind, MAIL_EVENT_RESCAN_HOME);
	assert_int_equal(queue_consumed(&queue, 900000), 100);
	assert_int_equal(queue.event_count, user->event_count);
	queue_free(&queue);
}

static void test_what_is_owed(void **state)
{
	struct peer_mailbox_state has = {
		.guid = {{1}}, .uid_validity = 5, .common_uid = 9, .acked_modseq = 20};
	struct sync_mailbox_state acked = {
		.guid = {{1}}, .uid_validity = 5, .common_uid = 9, .acked_modseq = 21};
	struct worker_box b = box(1, 10, 20);
	struct worker_go go;
	struct queue queue;
	struct queue_user *user;
	struct queue_entry *entry;

	queue_init(&queue, 1);
	user = queue_user_get(&queue, "a", "d/a");
	entry = &user->entries[0];
	queue_box_seen(user, 0, &b, &has, now.now);
	assert_false(queue_entry_owes(entry)); /* nothing, so no connection */
	b = box(1, 10, 21);
	queue_box_seen(user, 0, &b, &has, now.now);
	assert_true(queue_entry_owes(entry));
	assert_true(entry->unsaved);
	assert_int_equal(entry->standing.queued_since, now.now);
	queue_entry_plan(entry, true, &go);
	assert_int_equal(go.type, SYNC_BOXES);
	assert_int_equal(go.box_count, 1);
	queue_entry_plan(entry, false, &go); /* a Dovecot peer knows no such thing */
	assert_int_equal(go.type, SYNC_CHANGED);
	queue_box_acked(user, 0, &acked); /* the peer called us meanwhile */
	assert_int_equal(entry->box_count, 0);
	/* A UID that the peer has not. */
	b = box(1, 11, 20);
	queue_box_seen(user, 0, &b, &has, now.now);
	assert_int_equal(entry->box_count, 1);
	queue_sync_done(user, 0, SYNC_BOXES, &now);
	/* One that has gone back. */
	b = box(1, 9, 20);
	queue_box_seen(user, 0, &b, &has, now.now);
	assert_int_equal(entry->box_count, 1);
	queue_sync_done(user, 0, SYNC_BOXES, &now);
	b = box(1, 10, 19);
	queue_box_seen(user, 0, &b, &has, now.now);
	assert_int_equal(entry->box_count, 1);
	/* A mailbox that it was never told of. */
	b = box(2, 1, 1);
	queue_box_seen(user, 0, &b, NULL, now.now);
	assert_true(entry->standing.want_tree);
	queue_entry_plan(entry, true, &go);
	assert_int_equal(go.type, SYNC_CHANGED);
	queue_want(user, 0, SYNC_PRIORITY_LOW, true, false, now.now);
	queue_entry_plan(entry, true, &go);
	assert_int_equal(go.type, SYNC_FULL);
	queue_sync_done(user, 0, SYNC_FULL, &now);
	assert_false(queue_entry_owes(entry));
	assert_int_equal(entry->standing.last_full, now.now);
	assert_int_equal(entry->standing.queued_since, 0);
	/* More mailboxes than a message holds: the tree. */
	for (unsigned i = 0; i < WORKER_BOXES_MAX + 1; i++) {
		b = box((uint8_t)(i + 1), 11, 20);
		has.guid = b.guid;
		queue_box_seen(user, 0, &b, &has, now.now);
	}
	queue_entry_plan(entry, true, &go);
	assert_int_equal(go.type, SYNC_CHANGED);
	queue_free(&queue);
}

static void test_failures_wait_and_come_back_with_the_peer(void **state)
{
	struct queue queue;
	struct queue_user *user;
	int64_t wait;
	int peer;

	queue_init(&queue, 1);
	user = queue_user_get(&queue, "a", "d/a");
	queue_want(user, 0, SYNC_PRIORITY_HIGH, false, true, now.now);
	queue_user_update(&queue, user);
	assert_ptr_equal(next(&queue, all_up, &peer, &wait), user);
	queue_sync_failed(user, 0, "no", &now);
	assert_null(next(&queue, all_up, &peer, &wait));
	assert_in_range(wait, 750, 1250);
	assert_string_equal(user->entries[0].standing.reason, "no");
	queue_sync_failed(user, 0, "no", &now);
	assert_null(next(&queue, all_up, &peer, &wait));
	assert_in_range(wait, 1500, 2500);
	assert_null(next(&queue, none_up, &peer, &wait)); /* nobody connects */
	assert_int_equal(wait, -1);
	queue_peer_up(&queue, 0);
	assert_ptr_equal(next(&queue, all_up, &peer, &wait), user);
	/* Busy is no failure, and soon over. */
	queue_sync_busy(user, 0, &now);
	assert_null(next(&queue, all_up, &peer, &wait));
	assert_in_range(wait, 10, 50);
	assert_int_equal(user->entries[0].standing.failures, 2);
	now.now_ms += 50;
	queue_sync_done(user, 0, SYNC_CHANGED, &now);
	assert_int_equal(user->entries[0].standing.failures, 0);
	/* Again and again, then a pause. */
	for (unsigned i = 0; i < QUEUE_AGAIN_MAX; i++) {
		queue_sync_again(user, 0, false, "changed meanwhile", &now);
		queue_user_update(&queue, user);
		assert_ptr_equal(next(&queue, all_up, &peer, &wait), user);
	}
	assert_string_equal(user->entries[0].standing.reason, "");
	queue_sync_again(user, 0, true, "a mailbox cannot be read", &now);
	assert_string_equal(user->entries[0].standing.reason, "a mailbox cannot be read");
	assert_null(next(&queue, all_up, &peer, &wait));
	assert_true(wait > 500);
	assert_true(user->entries[0].standing.want_tree);
	queue_free(&queue);
}

static void test_one_sync_per_user_and_priorities(void **state)
{
	struct queue queue;
	struct queue_user *low, *high;
	int64_t wait;
	int peer;

	queue_init(&queue, 2);
	low = queue_user_get(&queue, "low", NULL);
	high = queue_user_get(&queue, "high", NULL);
	queue_want(low, 0, SYNC_PRIORITY_LOW, true, false, now.now);
	queue_user_update(&queue, low);
	queue_want(high, 1, SYNC_PRIORITY_HIGH, false, true, now.now);
	queue_user_update(&queue, high);
	assert_ptr_equal(next(&queue, all_up, &peer, &wait), high);
	assert_int_equal(peer, 1);
	high->job = &queue;
	assert_ptr_equal(next(&queue, all_up, &peer, &wait), low);
	assert_int_equal(peer, 0);
	low->slot = QUEUE_SLOT_IN; /* its peer is syncing it */
	assert_null(next(&queue, all_up, &peer, &wait));
	low->slot = QUEUE_SLOT_FREE;
	assert_null(queue_next(&queue, all_up, false, &now, &peer, &wait));
	high->job = NULL;
	queue_free(&queue);
}

static void test_store_failures_pause_only_the_store(void **state)
{
	struct queue queue;
	struct queue_user *user;
	int64_t wait;
	int peer;

	queue_init(&queue, 1);
	user = queue_user_get(&queue, "a", "d/a");
	add(&queue, user, 1, false);
	now.now_ms += 10;
	queue_store_failed(user, "disk full", &now);
	assert_null(next(&queue, all_up, &peer, &wait));
	assert_in_range(wait, 750, 1250);
	assert_int_equal(queue_consumed(&queue, 5), 0);
	now.now_ms += 1300;
	assert_ptr_equal(next(&queue, all_up, &peer, &wait), user);
	queue_free(&queue);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_backoff),
		cmocka_unit_test(test_a_delivery_is_due_at_once),
		cmocka_unit_test(test_events_are_consumed_only_when_taken_in),
		cmocka_unit_test(test_what_is_left_out_of_a_sync),
		cmocka_unit_test(test_what_a_session_waits_for),
		cmocka_unit_test(test_removals_that_the_index_lacks),
		cmocka_unit_test(test_a_rename_takes_events_along),
		cmocka_unit_test(test_a_rename_by_a_worker_is_where_it_ends),
		cmocka_unit_test(test_echoes),
		cmocka_unit_test(test_coalescing),
		cmocka_unit_test(test_what_is_owed),
		cmocka_unit_test(test_failures_wait_and_come_back_with_the_peer),
		cmocka_unit_test(test_one_sync_per_user_and_priorities),
		cmocka_unit_test(test_store_failures_pause_only_the_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
