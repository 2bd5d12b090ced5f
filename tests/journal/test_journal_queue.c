/* The queue of the commit thread: order, coalescing, and what a full one gives up first. */
#include "tests/journal/journal_test.h"

#include "store/journal/journal_queue.h"

static void add(struct journal_queue *queue, enum mail_event_kind kind, const char *dir,
		const char *name)
{
	struct mail_event event = event_of(kind, "h", dir, name);

	journal_queue_event(queue, &event, 0, 0);
}

static unsigned count(const struct journal_queue *queue, enum mail_event_kind kind)
{
	unsigned n = 0;

	for (const struct journal_op *op = queue->head; op; op = op->next)
		n += op->kind == JOURNAL_OP_EVENT && op->event.kind == kind;
	return n;
}

static void test_order_is_kept_and_touched_merges(void **state)
{
	struct journal_queue queue;
	struct journal_op *ops;

	journal_queue_init(&queue, 100, 1 << 20);
	add(&queue, MAIL_EVENT_TOUCHED, "a", "");
	add(&queue, MAIL_EVENT_REMOVED, "a", "x");
	add(&queue, MAIL_EVENT_TOUCHED, "a", "");
	add(&queue, MAIL_EVENT_TOUCHED, "b", "");
	assert_int_equal(queue.count, 3);
	ops = journal_queue_take(&queue, 2);
	assert_int_equal(ops->event.kind, MAIL_EVENT_TOUCHED);
	assert_string_equal(ops->event.dir, "a");
	assert_int_equal(ops->next->event.kind, MAIL_EVENT_REMOVED);
	assert_null(ops->next->next);
	/* What was taken may be written already: a new one has to follow it. */
	add(&queue, MAIL_EVENT_TOUCHED, "a", "");
	assert_int_equal(queue.count, 4);
	journal_queue_put_back(&queue, ops);
	assert_int_equal(count(&queue, MAIL_EVENT_TOUCHED), 3);
	/* Now it is not: the one that waits says it all. */
	add(&queue, MAIL_EVENT_TOUCHED, "a", "");
	assert_int_equal(queue.count, 4);
	ops = journal_queue_take(&queue, 100);
	assert_null(queue.head);
	journal_queue_done(&queue, ops);
	assert_int_equal(queue.count, 0);
	assert_int_equal(queue.bytes, 0);
	journal_queue_free(&queue);
}

static void test_nothing_merges_across_a_rename(void **state)
{
	struct journal_queue queue;

	journal_queue_init(&queue, 100, 1 << 20);
	add(&queue, MAIL_EVENT_TOUCHED, "a", "");
	add(&queue, MAIL_EVENT_DIR_RENAMED, "a", "b");
	add(&queue, MAIL_EVENT_TOUCHED, "a", "");
	assert_int_equal(count(&queue, MAIL_EVENT_TOUCHED), 2);
	journal_queue_free(&queue);
}

static void test_different_origins_do_not_merge(void **state)
{
	struct mail_event event = event_of(MAIL_EVENT_TOUCHED, "h", "a", "");
	struct journal_queue queue;

	journal_queue_init(&queue, 100, 1 << 20);
	journal_queue_event(&queue, &event, 0, 0);
	event.origin = 5;
	journal_queue_event(&queue, &event, 0, 0);
	assert_int_equal(queue.count, 2);
	journal_queue_free(&queue);
}

static void test_full_queue_gives_up_details_then_evidence_then_all(void **state)
{
	struct journal_queue queue;
	char name[32];

	journal_queue_init(&queue, 100, 1 << 20);
	for (int i = 0; i < 150; i++) {
		snprintf(name, sizeof name, "m%d", i);
		add(&queue, MAIL_EVENT_DELIVERED, "a", name);
	}
	assert_int_equal(count(&queue, MAIL_EVENT_DELIVERED), 100);
	assert_int_equal(count(&queue, MAIL_EVENT_RESCAN), 1);
	for (int i = 0; i < 150; i++)
		add(&queue, MAIL_EVENT_REMOVED, "a", "x");
	assert_int_equal(count(&queue, MAIL_EVENT_REMOVED), 99);
	assert_int_equal(count(&queue, MAIL_EVENT_RESCAN_HOME), 1);
	assert_false(queue.lost_all);
	for (int i = 0; i < 200; i++) {
		struct mail_event event = event_of(MAIL_EVENT_REMOVED, "h", "a", "x");

		snprintf(name, sizeof name, "home%d", i);
		event.home = name;
		journal_queue_event(&queue, &event, 0, 0);
	}
	assert_true(queue.lost_all);
	assert_int_equal(queue.count, 300);
	journal_queue_free(&queue);
	assert_int_equal(queue.count, 0);
}

static void test_bytes_are_bounded(void **state)
{
	struct journal_queue queue;
	char name[256];

	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = '\0';
	journal_queue_init(&queue, 1000000, 100000);
	for (int i = 0; i < 10000; i++)
		add(&queue, MAIL_EVENT_REMOVED, "a", name);
	assert_in_range(queue.bytes, 100000, 400000);
	journal_queue_free(&queue);
}

static void test_names_that_are_too_long_become_a_rescan(void **state)
{
	struct journal_queue queue;
	char *name = malloc(100000);

	memset(name, 'x', 99999);
	name[99999] = '\0';
	journal_queue_init(&queue, 100, 1 << 20);
	add(&queue, MAIL_EVENT_DELIVERED, "a", name);
	assert_int_equal(count(&queue, MAIL_EVENT_RESCAN_HOME), 1);
	assert_int_equal(journal_queue_dirty(&queue, "h", name, 1), -EMSGSIZE);
	journal_queue_free(&queue);
	free(name);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_order_is_kept_and_touched_merges),
		cmocka_unit_test(test_nothing_merges_across_a_rename),
		cmocka_unit_test(test_different_origins_do_not_merge),
		cmocka_unit_test(test_full_queue_gives_up_details_then_evidence_then_all),
		cmocka_unit_test(test_bytes_are_bounded),
		cmocka_unit_test(test_names_that_are_too_long_become_a_rescan),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
