/* MODSEQs that are wished for: given exactly where nobody can have seen more, and made to exist. */
#include "tests/index/index_fixture.h"

#include <stdlib.h>
#include <string.h>
#include "store/mail.h"

static void assert_stored(struct fixture *fx, const char *expected)
{
	struct index *index = open_index(fx);

	assert_described(index, true, expected);
	index_close(&index);
}

/* Two messages, the second with a MODSEQ of its own. */
static struct index *make_two(struct fixture *fx)
{
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	txn = begin(index);
	must(index_append(txn, 2, 0, &err), &err);
	must(index_update_modseq(txn, 2, 4, &err), &err);
	must(index_switch_on_modseqs(txn, &err), &err);
	must(index_commit(&txn, true, &err), &err);
	return index;
}

/* Without the extension every reader makes up another MODSEQ for the same message. */
static void switched_on_every_message_has_one(void **state)
{
	struct fixture *fx = *state;
	struct index *index = make_two(fx);
	struct index_status status;
	struct index_txn *txn;
	struct error err = {0};

	index_status(index, &status);
	assert_true(status.has_modseqs);
	assert_int_equal(status.highest_modseq, 4);
	assert_stored(fx, "1 00 3\n2 00 4\n");
	/* Once it is on there is nothing to do. */
	txn = begin(index);
	must(index_switch_on_modseqs(txn, &err), &err);
	must(index_commit(&txn, true, &err), &err);
	assert_stored(fx, "1 00 3\n2 00 4\n");
	index_close(&index);
}

static void switched_on_beside_an_expunge(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct index_txn *txn;
	struct error err = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	append_uid(index, 2, 0);
	txn = begin(index);
	must(index_expunge(txn, 1, NULL, &err), &err);
	must(index_append(txn, 3, 0, &err), &err);
	must(index_switch_on_modseqs(txn, &err), &err);
	must(index_commit(&txn, true, &err), &err);
	assert_stored(fx, "2 00 5\n3 00 5\n");
	index_close(&index);
}

/* A replica writes more records than there were: the counter is ahead of the MODSEQs it copies. */
static void a_replica_keeps_low_modseqs(void **state)
{
	struct fixture *fx = *state;
	struct index *index = make_two(fx);
	struct index_txn *txn = begin(index);
	struct error err = {0};

	must(index_append(txn, 3, 0, &err), &err);
	must(index_append(txn, 4, 0, &err), &err);
	must(index_update_keyword(txn, 4, "a", true, &err), &err);
	must(index_update_keyword(txn, 4, "b", true, &err), &err);
	must(index_update_modseq(txn, 3, 5, &err), &err);
	must(index_update_modseq(txn, 4, 7, &err), &err);
	must(index_commit(&txn, true, &err), &err);
	assert_int_equal(highest(index), 7);
	assert_stored(fx, "1 00 3\n2 00 4\n3 00 5\n4 00 7 a b\n");
	index_close(&index);
}

static void a_change_is_never_hidden(void **state)
{
	struct fixture *fx = *state;
	struct index *index = make_two(fx);
	struct index_txn *txn = begin(index);
	struct error err = {0};

	must(index_update_flags(txn, 1, MAIL_SEEN, 0, &err), &err);
	must(index_update_modseq(txn, 1, 4, &err), &err); /* a client may have seen 4 */
	must(index_commit(&txn, true, &err), &err);
	assert_stored(fx, "1 08 5\n2 00 4\n");
	index_close(&index);
}

static void an_unchanged_message_takes_any(void **state)
{
	struct fixture *fx = *state;
	struct index *index = make_two(fx);
	struct index_txn *txn = begin(index);
	struct error err = {0};

	must(index_correct_modseq(txn, 2, 2, &err), &err);
	must(index_correct_modseq(txn, 1, 9, &err), &err);
	must(index_commit(&txn, true, &err), &err);
	assert_int_equal(highest(index), 9);
	assert_stored(fx, "1 00 9\n2 00 2\n");
	index_close(&index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(switched_on_every_message_has_one), TEST(switched_on_beside_an_expunge),
		TEST(a_replica_keeps_low_modseqs),	 TEST(a_change_is_never_hidden),
		TEST(an_unchanged_message_takes_any),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
