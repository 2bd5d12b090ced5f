/*
 * Random histories of two mailboxes: users change both, sessions work, break off on one side, lose
 * their state. After every session that worked both are equal; nothing is lost, doubled or comes
 * back; a UID keeps its meaning; no client with an older MODSEQ misses a change, also one that
 * comes from the other side; a second session has nothing to do.
 *
 * DSYNCFS_TEST_SEED=n runs one history and prints it, DSYNCFS_TEST_RUNS=n that many.
 */
#include "merge_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define UIDS_MAX  4096
#define SNAPSHOTS 8
#define ROUNDS	  7

/* What a client knew. */
struct snapshot {
	struct model_box box;
};

struct history {
	struct model model;
	uint32_t seed;
	bool copies; /* one GUID may be there several times */
	unsigned guids;
	unsigned created[MODEL_GUIDS_MAX];  /* instances ever made by users */
	unsigned expunged[MODEL_GUIDS_MAX]; /* instances expunged by users */
	/* A session that broke off gave it another UID on one side: where no side has a state
	 * nothing ties an expunge of the one to the other. */
	bool half_moved[MODEL_GUIDS_MAX];
	/* Such a message met a session without any state that broke off as well. */
	bool untied[MODEL_GUIDS_MAX];
	unsigned meaning[2][UIDS_MAX]; /* guid + 1 */
	struct snapshot snapshots[2][SNAPSHOTS];
	size_t snapshot_count[2];
};

#define CHECK(history, condition, ...)                                                             \
	do {                                                                                       \
		if (!(condition)) {                                                                \
			print_message("seed %u: ", (history)->seed);                               \
			print_message(__VA_ARGS__);                                                \
			print_message("\n");                                                       \
			model_print(&(history)->model);                                            \
			fail_msg("seed %u", (history)->seed);                                      \
		}                                                                                  \
	} while (0)

static void note_uids(struct history *h)
{
	for (int side = 0; side < 2; side++) {
		const struct model_box *box = &h->model.box[side];

		for (size_t i = 0; i < box->count; i++) {
			unsigned *meaning = &h->meaning[side][box->mails[i].uid];

			assert_true(box->mails[i].uid < UIDS_MAX);
			CHECK(h, *meaning == 0 || *meaning == box->mails[i].guid + 1,
			      "side %d: uid=%u means two messages", side, box->mails[i].uid);
			*meaning = box->mails[i].guid + 1;
		}
	}
}

static void take_snapshot(struct history *h, int side)
{
	size_t at = h->snapshot_count[side]++ % SNAPSHOTS;
	struct snapshot *snapshot = &h->snapshots[side][at];

	model_box_free(&snapshot->box);
	model_box_copy(&snapshot->box, &h->model.box[side]);
}

static bool log_tells_expunge(const struct model_box *box, uint32_t uid, uint64_t since)
{
	for (size_t i = 0; i < box->log_count; i++) {
		if (box->log[i].expunge && box->log[i].uid == uid && box->log[i].modseq > since)
			return true;
	}
	return false;
}

/* CHANGEDSINCE and VANISHED tell everything that is not as the client knew it. side: where it is
 * now. */
static void check_snapshot(struct history *h, int side, struct snapshot *snapshot)
{
	struct model_box *now = &h->model.box[side];
	const uint64_t since = snapshot->box.highest_modseq;

	for (size_t i = 0; i < now->count; i++) {
		const struct model_mail *mail = &now->mails[i];
		const struct model_mail *old = model_find(&snapshot->box, mail->uid);

		CHECK(h,
		      mail->modseq > since || (old != NULL && old->flags == mail->flags &&
					       old->keywords == mail->keywords),
		      "side %d: a client with modseq %llu misses a change of uid=%u", side,
		      (unsigned long long)since, mail->uid);
		CHECK(h, mail->modseq <= now->highest_modseq, "uid=%u is above the highest",
		      mail->uid);
	}
	for (size_t i = 0; i < snapshot->box.count; i++) {
		uint32_t uid = snapshot->box.mails[i].uid;

		CHECK(h, model_find(now, uid) != NULL || log_tells_expunge(now, uid, since),
		      "side %d: a client with modseq %llu misses the expunge of uid=%u", side,
		      (unsigned long long)since, uid);
	}
	CHECK(h, now->highest_modseq >= since && now->uid_next >= snapshot->box.uid_next,
	      "side %d went back", side);
}

static void check_snapshots(struct history *h)
{
	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < SNAPSHOTS && i < h->snapshot_count[side]; i++)
			check_snapshot(h, side, &h->snapshots[side][i]);
	}
}

/* Also of clients that come from the other side. */
static void check_movers(struct history *h)
{
	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < SNAPSHOTS && i < h->snapshot_count[side]; i++)
			check_snapshot(h, 1 - side, &h->snapshots[side][i]);
	}
}

static unsigned instances(const struct model_box *box, unsigned guid)
{
	unsigned count = 0;

	for (size_t i = 0; i < box->count; i++)
		count += box->mails[i].guid == guid;
	return count;
}

static void check_messages(struct history *h)
{
	const char *difference = model_difference(&h->model);

	CHECK(h, difference == NULL, "the sides differ in %s", difference);
	for (unsigned guid = 0; guid < h->guids; guid++) {
		unsigned count = instances(&h->model.box[0], guid);
		bool gone = h->expunged[guid] > 0;

		CHECK(h, count <= h->created[guid], "guid %s: %u of %u", model_guid(guid), count,
		      h->created[guid]);
		CHECK(h, gone || count > 0, "guid %s is lost", model_guid(guid));
		if (h->copies || !gone || count == 0)
			continue;
		CHECK(h, h->untied[guid] || h->half_moved[guid], "guid %s came back",
		      model_guid(guid));
		/* It is a message again. */
		h->expunged[guid] = 0;
	}
}

static void random_change(struct history *h, int side)
{
	struct model *model = &h->model;
	struct model_box *box = &model->box[side];
	size_t index = model_random(model, (uint32_t)box->count);
	uint32_t what = model_random(model, 100);
	unsigned count;

	if (what < 40 || box->count == 0) {
		count = 1 + model_random(model, 3) / 2;
		for (unsigned i = 0; i < count; i++)
			h->created[h->guids + i] = 1;
		model_deliver(box, h->guids, count);
		h->guids += count;
	} else if (what < 60) {
		model_set_flags(box, index, (uint8_t)model_random(model, 32));
	} else if (what < 70) {
		model_set_keywords(box, index, (uint8_t)model_random(model, 16));
	} else if (what < 92 || !h->copies) {
		h->expunged[box->mails[index].guid]++;
		model_expunge(box, index);
	} else {
		unsigned guid = box->mails[index].guid;

		h->created[guid]++;
		model_deliver(box, guid, 1);
	}
	note_uids(h);
	if (model_random(model, 4) == 0)
		take_snapshot(h, side);
}

/* Which messages do not have the same UID on both sides. */
static void note_half_moved(struct history *h)
{
	for (size_t i = 0; i < h->model.box[0].count; i++) {
		const struct model_mail *mail = &h->model.box[0].mails[i];
		const struct model_mail *other = model_find(&h->model.box[1], mail->uid);

		if ((other == NULL || other->guid != mail->guid) &&
		    instances(&h->model.box[1], mail->guid) > 0)
			h->half_moved[mail->guid] = true;
	}
}

static void check_second_session(struct history *h)
{
	struct model_session session;

	if (h->model.mode == MERGE_DSYNCFS && model_random(&h->model, 3) == 0)
		h->model.state[model_random(&h->model, 2)].valid = false;
	model_sync_fully(&h->model, &session);
	CHECK(h, session.actions[0] == 0 && session.actions[1] == 0,
	      "a second session has something to do");
	CHECK(h, model_difference(&h->model) == NULL, "a second session broke it");
}

static void random_session(struct history *h, bool must_work)
{
	struct model *model = &h->model;
	uint32_t what = must_work ? 0 : model_random(model, 100);
	struct model_session session = {.apply = {true, true}, .save = {true, true}};
	bool without_state;

	if (model->mode == MERGE_DOVECOT) {
		/* With Dovecot a broken session or a lost state has its own rules. */
		what = what < 55 ? what : 99;
	} else if (!must_work && model_random(model, 12) == 0) {
		model->state[model_random(model, 2)].valid = false;
	}
	without_state = !model->state[0].valid && !model->state[1].valid;
	if (what < 55) {
		model_sync_fully(model, &session);
		note_uids(h);
		check_snapshots(h);
		if (model->mode == MERGE_DSYNCFS)
			check_movers(h);
		check_messages(h);
		memset(h->half_moved, 0, sizeof(h->half_moved));
		memset(h->untied, 0, sizeof(h->untied));
		check_second_session(h);
	} else if (what < 85) {
		/* Broke off: after one side had applied its part, or after both, but before both
		 * had saved. */
		if (what < 70)
			session.apply[what % 2] = false;
		session.save[0] = what >= 70 && what % 3 == 0;
		session.save[1] = what >= 70 && what % 3 == 1;
		model_sync(model, &session);
		for (unsigned guid = 0; without_state && guid < h->guids; guid++)
			h->untied[guid] |= h->half_moved[guid];
		note_half_moved(h);
		note_uids(h);
		check_snapshots(h);
	}
	/* Else the link is cut. */
}

static void run_history(enum merge_mode mode, uint32_t seed, bool copies, bool print)
{
	struct history *h = calloc(1, sizeof(*h));

	assert_non_null(h);
	model_init(&h->model, mode, seed);
	h->model.dump = print;
	h->seed = seed;
	h->copies = copies;
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (int side = 0; side < 2; side++) {
			uint32_t changes =
				model_random(&h->model, 3) == 0 ? 0 : model_random(&h->model, 7);

			take_snapshot(h, side);
			for (uint32_t i = 0; i < changes; i++)
				random_change(h, side);
		}
		random_session(h, false);
	}
	random_session(h, true);
	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < SNAPSHOTS; i++)
			model_box_free(&h->snapshots[side][i].box);
	}
	model_free(&h->model);
	free(h);
}

static void run_histories(enum merge_mode mode, bool copies, uint32_t runs)
{
	const char *seed = getenv("DSYNCFS_TEST_SEED"), *count = getenv("DSYNCFS_TEST_RUNS");

	if (seed != NULL) {
		run_history(mode, (uint32_t)strtoul(seed, NULL, 10), copies, true);
		return;
	}
	if (count != NULL)
		runs = (uint32_t)strtoul(count, NULL, 10);
	for (uint32_t i = 1; i <= runs; i++)
		run_history(mode, i, copies, false);
	print_message("%u histories, seeds 1 to %u\n", runs, runs);
}

static void random_histories_converge_without_loss(void **state)
{
	run_histories(MERGE_DSYNCFS, false, 4000);
}

static void random_histories_with_copies_converge(void **state)
{
	run_histories(MERGE_DSYNCFS, true, 4000);
}

static void random_histories_by_dovecots_rules_converge(void **state)
{
	run_histories(MERGE_DOVECOT, false, 2000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_histories_converge_without_loss),
		cmocka_unit_test(random_histories_with_copies_converge),
		cmocka_unit_test(random_histories_by_dovecots_rules_converge),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
