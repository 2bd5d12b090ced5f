/*
 * Changes since a modseq. Random histories, with the state after each transaction kept: the changes
 * since any of them, applied to what was then, must give what is now.
 */
#include "tests/index/index_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "store/mail.h"

#define UIDS	 60
#define KEYWORDS 4
#define STEPS	 250

static const char *const keyword_names[KEYWORDS] = {"$Forwarded", "Junk", "later", "Work"};

struct message {
	bool exists;
	uint8_t flags, keywords;
};

struct moment {
	struct index_position position;
	struct message messages[UIDS + 1];
};

static void view_messages(const struct index *index, struct message *messages)
{
	struct index_record record;
	struct index_iter iter;

	memset(messages, 0, sizeof(*messages) * (UIDS + 1));
	index_iter_init(index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		const char *names[KEYWORDS];
		unsigned count = index_record_keywords(index, &record, names, KEYWORDS);

		assert_true(record.uid <= UIDS);
		messages[record.uid].exists = true;
		messages[record.uid].flags = record.flags & MAIL_FLAGS_MASK;
		for (unsigned i = 0; i < count; i++) {
			for (unsigned k = 0; k < KEYWORDS; k++) {
				if (strcmp(names[i], keyword_names[k]) == 0)
					messages[record.uid].keywords |= (uint8_t)(1U << k);
			}
		}
	}
}

static uint8_t keyword_bits(struct keyword_set set)
{
	uint8_t bits = 0;

	for (unsigned i = 0; i < set.count; i++) {
		if (i > 0)
			assert_true(strcmp(set.names[i - 1], set.names[i]) < 0);
		for (unsigned k = 0; k < KEYWORDS; k++) {
			if (strcmp(set.names[i], keyword_names[k]) == 0)
				bits |= (uint8_t)(1U << k);
		}
	}
	return bits;
}

static void apply_change(struct message *messages, const struct mailbox_change *change,
			 const struct message *now)
{
	struct message *message = &messages[change->uid];

	assert_int_equal(change->add_flags & change->remove_flags, 0);
	assert_true(change->append_modseq <= change->modseq);
	if (change->append_modseq != 0 && !change->expunged)
		*message = *now; /* the caller takes a new message from the view */
	if (change->expunged) {
		memset(message, 0, sizeof(*message));
		return;
	}
	assert_true(message->exists);
	message->flags = (uint8_t)((message->flags & ~change->remove_flags) | change->add_flags);
	message->keywords = (uint8_t)((message->keywords & ~keyword_bits(change->remove_keywords)) |
				      keyword_bits(change->add_keywords));
}

/* Messages whose modseq is above `since` are exactly those that are told about and exist. */
static void check_modseqs(struct index *index, uint64_t since, const struct index_changes *changes)
{
	struct index_record record;
	struct index_iter iter;
	size_t i = 0;

	index_iter_init(index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		while (i < changes->count && changes->change[i].uid < record.uid)
			i++;
		if (i < changes->count && changes->change[i].uid == record.uid)
			assert_true(record.modseq > since);
		else
			assert_true(record.modseq <= since);
	}
}

static void check_since(struct index *index, const struct moment *then, bool with_position,
			bool must_reach)
{
	struct message was[UIDS + 1], now[UIDS + 1];
	struct index_changes changes;
	struct error err = {0};
	int ret = index_changes(index, then->position.modseq,
				with_position ? &then->position : NULL, &changes, &err);

	if (ret == -ERANGE && !must_reach) {
		assert_false(changes.complete);
		index_changes_free(&changes);
		return;
	}
	must(ret, &err);
	assert_true(changes.complete);
	memcpy(was, then->messages, sizeof(was));
	view_messages(index, now);
	for (size_t i = 0; i < changes.count; i++) {
		if (i > 0)
			assert_true(changes.change[i - 1].uid < changes.change[i].uid);
		assert_true(changes.change[i].modseq > then->position.modseq);
		apply_change(was, &changes.change[i], &now[changes.change[i].uid]);
	}
	assert_memory_equal(was, now, sizeof(was));
	index_changes_free(&changes);
}

static uint32_t random_below(uint32_t *seed, uint32_t below)
{
	*seed = *seed * 1664525 + 1013904223;
	return (*seed >> 8) % below;
}

static void random_change(struct index *index, struct index_txn *txn, uint32_t *seed,
			  uint32_t *next_uid)
{
	uint32_t uid = 1 + random_below(seed, *next_uid);
	struct error err = {0};

	switch (random_below(seed, 8)) {
	case 0:
	case 1:
		if (*next_uid <= UIDS) {
			must(index_append(txn, *next_uid, (uint8_t)random_below(seed, 32), &err),
			     &err);
			(*next_uid)++;
		}
		break;
	case 2: {
		struct guid guid;

		guid_generate(&guid);
		must(index_expunge(txn, uid, &guid, &err), &err);
		break;
	}
	case 3:
	case 4:
		must(index_update_keyword(txn, uid, keyword_names[random_below(seed, KEYWORDS)],
					  random_below(seed, 2) == 0, &err),
		     &err);
		break;
	default:
		must(index_update_flags(txn, uid, (uint8_t)(1U << random_below(seed, 5)),
					(uint8_t)(1U << random_below(seed, 5)), &err),
		     &err);
		break;
	}
}

static void random_step(struct index *index, uint32_t *seed, uint32_t *next_uid, bool exact)
{
	struct index_txn *txn = begin(index);
	uint32_t changes = 1 + random_below(seed, 4);
	struct error err = {0};

	while (changes-- > 0)
		random_change(index, txn, seed, next_uid);
	if (exact && random_below(seed, 3) == 0)
		must(index_update_modseq(txn, 1 + random_below(seed, *next_uid),
					 index_txn_modseq(txn) + random_below(seed, 5), &err),
		     &err);
	commit(&txn);
}

static void run_history(struct fixture *fx, uint32_t seed, bool exact, bool rotations)
{
	static struct moment moments[STEPS + 1];
	uint32_t next_uid = 1, last_rotation = 0, rotation_before = 0;
	uint64_t switched_on = UINT64_MAX; /* then every message got this modseq */
	struct index_status status;
	struct index *index;
	struct error err = {0};

	make_index(fx, 1, 1);
	index = open_index(fx);
	for (uint32_t step = 0; step <= STEPS; step++) {
		index_position(index, &moments[step].position);
		view_messages(index, moments[step].messages);
		if (step == STEPS)
			break;
		random_step(index, &seed, &next_uid, exact);
		index_status(index, &status);
		if (status.has_modseqs && switched_on == UINT64_MAX)
			switched_on = moments[step].position.modseq;
		if (rotations && random_below(&seed, 60) == 0) {
			must(index_rotate(index, 1000, &err), &err);
			rotation_before = last_rotation;
			last_rotation = step + 1;
		}
		if (random_below(&seed, 40) == 0) {
			must(index_write_snapshot(index, 1000, &err), &err);
			index_close(&index);
			index = open_index(fx);
		}
	}
	for (uint32_t step = 0; step <= STEPS; step++) {
		struct index_changes changes;

		check_since(index, &moments[step], false, step >= rotation_before);
		check_since(index, &moments[step], true, step >= rotation_before);
		if (moments[step].position.modseq < switched_on)
			continue;
		if (index_changes(index, moments[step].position.modseq, NULL, &changes, NULL) == 0)
			check_modseqs(index, moments[step].position.modseq, &changes);
		index_changes_free(&changes);
	}
	index_close(&index);
}

static void changes_lead_from_every_state_to_the_present(void **state)
{
	run_history(*state, 1, false, false);
}

static void changes_with_exact_modseqs(void **state)
{
	run_history(*state, 2, true, false);
}

static void changes_over_rotations(void **state)
{
	run_history(*state, 3, true, true);
}

static void changes_over_rotations_without_modseqs(void **state)
{
	run_history(*state, 4, false, true);
}

/* The log is long, so it is read from near the modseq: what that gives is what its start gives. */
static void changes_in_a_long_log(void **state)
{
	struct index_position start;
	struct index *index;
	struct error err = {0};

	make_index(*state, 1, 1);
	index = open_index(*state);
	index_position(index, &start);
	for (uint32_t uid = 1; uid <= 100; uid++)
		append_uid(index, uid, 0);
	for (uint32_t i = 0; i < 16000; i++)
		set_flags(index, 1 + i % 97, i / 97 % 2 ? 0 : 1, i / 97 % 2 ? 1 : 0);
	assert_true(log_offset(index) > 64 * 4096);
	for (uint64_t since = 1; since <= highest(index); since += 131) {
		struct index_changes near, all;

		must(index_changes(index, since, NULL, &near, &err), &err);
		must(index_changes(index, since, &start, &all, &err), &err);
		assert_true(near.complete && all.complete);
		assert_int_equal(near.count, all.count);
		for (size_t i = 0; i < all.count; i++) {
			assert_int_equal(near.change[i].uid, all.change[i].uid);
			assert_int_equal(near.change[i].modseq, all.change[i].modseq);
			assert_int_equal(near.change[i].add_flags, all.change[i].add_flags);
		}
		index_changes_free(&near);
		index_changes_free(&all);
	}
	index_close(&index);
}

static void expunges_come_with_their_guid(void **state)
{
	struct fixture *fx = *state;
	struct index *index;
	struct index_txn *txn;
	struct index_changes changes;
	struct error err = {0};
	struct guid guid;
	uint64_t requested_at;

	make_index(fx, 1, 1);
	index = open_index(fx);
	append_uid(index, 1, 0);
	append_uid(index, 2, 0);
	append_uid(index, 3, 0);
	guid_generate(&guid);
	txn = begin(index);
	must(index_expunge(txn, 2, &guid, &err), &err);
	must(index_expunge(txn, 1, NULL, &err), &err);
	commit(&txn);
	/* A request is no expunge. */
	txn = begin(index);
	index_txn_internal(txn);
	must(index_expunge(txn, 3, &guid, &err), &err);
	commit(&txn);
	must(index_changes(index, 4, NULL, &changes, &err), &err);
	assert_int_equal(changes.count, 2);
	assert_true(changes.change[0].expunged);
	assert_false(changes.change[0].has_guid);
	assert_true(changes.change[1].expunged);
	assert_true(changes.change[1].has_guid);
	assert_true(guid_equal(&changes.change[1].guid, &guid));
	index_changes_free(&changes);
	must(index_changes(index, highest(index), NULL, &changes, &err), &err);
	assert_int_equal(changes.count, 0);
	index_changes_free(&changes);
	/* Carried out, with a record that has no GUID, as Dovecot writes it for a maildir: the
	 * request says which, also where it is older than what is asked for. */
	requested_at = highest(index);
	set_flags(index, 3, MAIL_SEEN, 0);
	expunge_uid(index, 3);
	for (uint64_t since = requested_at - 1; since <= requested_at + 1; since++) {
		must(index_changes(index, since, NULL, &changes, &err), &err);
		assert_true(changes.count > 0);
		assert_int_equal(changes.change[changes.count - 1].uid, 3);
		assert_true(changes.change[changes.count - 1].expunged);
		assert_true(changes.change[changes.count - 1].has_guid);
		assert_true(guid_equal(&changes.change[changes.count - 1].guid, &guid));
		index_changes_free(&changes);
	}
	/* A modseq that this index never had. */
	assert_int_equal(index_changes(index, highest(index) + 1, NULL, &changes, &err), -ERANGE);
	index_changes_free(&changes);
	index_close(&index);
}

/* Sixteen bytes that say 200 million messages: neither time nor memory goes into them. */
static void test_a_range_that_cannot_be(void **state)
{
	static const uint8_t record[] = {0x80, 0x80, 0x80, 0x84, 0x91, 0xcd, 0x00, 0x10,
					 1,    0,    0,	   0,	 0xff, 0xc1, 0xeb, 0x0b};
	struct fixture *fx = *state;
	struct index_changes changes;
	struct index *index;
	struct error err = {0};

	make_index(fx, 200000000, 1);
	for (int i = 0; i < 1000; i++)
		append_bytes(fx, "dovecot.index.log", record, sizeof(record));
	index = open_index(fx);
	assert_int_equal(index_changes(index, 1, NULL, &changes, &err), -ERANGE);
	assert_non_null(strstr(err.text, "more messages were expunged than can be"));
	assert_true(changes.count <= 1000000);
	index_changes_free(&changes);
	index_close(&index);
}

/* The log tells of an expunge for whoever reads it, and the view stays as it is. */
static void burials_are_told(void **state)
{
	const struct guid guid = {{7}}, unknown = {{0}};
	const struct fixture *fx = *state;
	struct index_changes changes;
	struct index_txn *txn;
	struct error err = {0};
	struct index *index;
	uint64_t before, gone;

	make_index(fx, 1, 1);
	index = open_index(fx);
	for (uint32_t uid = 1; uid <= 4; uid++)
		append_uid(index, uid, 0);
	expunge_uid(index, 2);
	gone = highest(index);
	expunge_uid(index, 3);
	before = highest(index);
	txn = begin(index);
	assert_int_equal(index_bury(txn, 1, NULL, &err), -EEXIST);
	assert_int_equal(index_bury(txn, 5, NULL, &err), -EINVAL);
	must(index_bury(txn, 2, &guid, &err), &err);
	must(index_bury(txn, 3, NULL, &err), &err);
	commit(&txn);
	index_close(&index);
	index = open_index(fx);
	assert_true(highest(index) == before + 1);
	must(index_changes(index, before, NULL, &changes, &err), &err);
	assert_int_equal(changes.count, 2);
	assert_true(changes.change[0].expunged && changes.change[1].expunged);
	assert_int_equal(changes.change[0].uid, 2);
	assert_true(changes.change[0].expunge_modseq == before + 1);
	assert_true(changes.change[0].has_guid && guid_equal(&changes.change[0].guid, &guid));
	/* Nobody's, which is no message's. */
	assert_int_equal(changes.change[1].uid, 3);
	assert_true(changes.change[1].has_guid);
	index_changes_free(&changes);
	/* Without a word of whose it was, the log's earlier word stays. */
	before = highest(index);
	txn = begin(index);
	must(index_bury(txn, 2, &unknown, &err), &err);
	commit(&txn);
	must(index_changes(index, 1, NULL, &changes, &err), &err);
	for (size_t i = 0; i < changes.count; i++) {
		if (changes.change[i].uid != 2)
			continue;
		assert_true(guid_equal(&changes.change[i].guid, &guid));
		/* It went when the log first told of it. */
		assert_true(changes.change[i].expunge_modseq == gone);
		assert_true(changes.change[i].modseq == highest(index));
	}
	index_changes_free(&changes);
	index_close(&index);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(changes_lead_from_every_state_to_the_present),
		TEST(changes_with_exact_modseqs),
		TEST(changes_over_rotations),
		TEST(changes_over_rotations_without_modseqs),
		TEST(changes_in_a_long_log),
		TEST(expunges_come_with_their_guid),
		TEST(burials_are_told),
		TEST(test_a_range_that_cannot_be),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
