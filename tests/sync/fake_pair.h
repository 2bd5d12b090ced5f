/*
 * A cmocka fixture of two nodes that have one user in memory, and what the tests of sessions ask
 * of them. Its state is a struct fake_pair.
 */
#ifndef DSYNCFS_TESTS_FAKE_PAIR_H
#define DSYNCFS_TESTS_FAKE_PAIR_H

#include "tests/sync/brain_pair.h"
#include "tests/sync/fake_store.h"

struct fake_pair {
	int64_t clock; /* of both stores */
	struct fake_account *a, *b;
	struct test_node node_a, node_b;
	struct session_results results; /* of the last session */
};

int fake_pair_setup(void **state);
int fake_pair_teardown(void **state);
/* A mailbox that has to be there. */
struct fake_box *box_of(struct fake_account *account, const char *name);
void expect_equal(struct fake_pair *pair);
/* Sessions, a being the master, until neither side wants another; then both show the same. */
void sync_until_equal(struct fake_pair *pair, enum sync_type type);
/* Two syncs in a row: the second sends no mail, opens no transaction and no mailbox for syncing. */
void expect_quiet(struct fake_pair *pair);

#endif
