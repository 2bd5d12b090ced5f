#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "tests/sync/fake_pair.h"

int fake_pair_setup(void **state)
{
	struct fake_pair *pair = calloc(1, sizeof(*pair));

	pair->a = fake_account_new("alice", &pair->clock);
	pair->b = fake_account_new("alice", &pair->clock);
	test_node_init(&pair->node_a, &pair->a->user, "a.example.org");
	test_node_init(&pair->node_b, &pair->b->user, "b.example.org");
	*state = pair;
	return 0;
}

int fake_pair_teardown(void **state)
{
	struct fake_pair *pair = *state;

	fake_account_free(&pair->a);
	fake_account_free(&pair->b);
	free(pair);
	return 0;
}

struct fake_box *box_of(struct fake_account *account, const char *name)
{
	struct fake_box *box = fake_find_box(account, name);

	assert_non_null(box);
	return box;
}

void expect_equal(struct fake_pair *pair)
{
	const char *differ = fake_accounts_differ(pair->a, pair->b, true);

	if (differ != NULL)
		fail_msg("the accounts differ: %s", differ);
}

void sync_until_equal(struct fake_pair *pair, enum sync_type type)
{
	if (run_until_done(&pair->node_a, &pair->node_b, type, &pair->results) < 0)
		fail_msg("no end: master %d '%s' %s, slave %d '%s' %s",
			 pair->results.master.outcome, pair->results.master_err.text,
			 pair->results.master.reason, pair->results.slave.outcome,
			 pair->results.slave_err.text, pair->results.slave.reason);
	expect_equal(pair);
}

void expect_quiet(struct fake_pair *pair)
{
	unsigned begins = pair->a->begin_count + pair->b->begin_count;

	run_session(&pair->node_a, &pair->node_b, SYNC_CHANGED, &pair->results);
	assert_int_equal(pair->results.master.outcome, SYNC_DONE);
	assert_int_equal(pair->results.slave.outcome, SYNC_DONE);
	assert_int_equal(pair->results.master.mailboxes, 0);
	assert_int_equal(pair->results.master.mails_sent + pair->results.slave.mails_sent, 0);
	assert_int_equal(pair->a->begin_count + pair->b->begin_count, begins);
	/* Also when nothing may be skipped. */
	run_session(&pair->node_a, &pair->node_b, SYNC_FULL, &pair->results);
	assert_int_equal(pair->results.master.outcome, SYNC_DONE);
	assert_int_equal(pair->results.master.mails_sent + pair->results.slave.mails_sent, 0);
	assert_int_equal(pair->a->begin_count + pair->b->begin_count, begins);
}
