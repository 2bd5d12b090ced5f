/* The mailbox merge, case by case: what has a name in dsync's list of defects has one here. */
#include "merge_model.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

static struct model model;
static struct model_session session;

static int set_up(void **state)
{
	model_init(&model, MERGE_DSYNCFS, 1);
	return 0;
}

static int tear_down(void **state)
{
	model_free(&model);
	return 0;
}

static void sync_and_compare(void)
{
	const char *difference;

	model_sync_fully(&model, &session);
	difference = model_difference(&model);
	if (difference != NULL) {
		model_print(&model);
		fail_msg("the sides differ in %s", difference);
	}
}

static void sync_one_side_only(int side)
{
	struct model_session broken = {.apply = {side == 0, side == 1}};

	model_sync(&model, &broken);
}

static size_t count_of(int side, unsigned guid)
{
	size_t count = 0;

	for (size_t i = 0; i < model.box[side].count; i++)
		count += model.box[side].mails[i].guid == guid;
	return count;
}

static void empty_mailboxes_need_nothing(void **state)
{
	sync_and_compare();
	assert_int_equal(session.actions[0] + session.actions[1], 0);
	assert_int_equal(model.box[0].highest_modseq, 1);
}

static void a_delivery_is_copied_with_its_modseq(void **state)
{
	model_deliver(&model.box[0], 0, 3);
	sync_and_compare();
	model_deliver(&model.box[1], 3, 1);
	model_deliver(&model.box[1], 4, 1);
	sync_and_compare();
	assert_int_equal(session.actions[0], 2);
	/* The side that delivered writes nothing. */
	assert_int_equal(session.actions[1], 0);
	assert_int_equal(model.box[1].mails[3].modseq, 3);
	assert_int_equal(model.box[1].mails[4].modseq, 4);
	assert_int_equal(model.box[0].highest_modseq, 4);
}

static void one_flag_change_costs_one_action(void **state)
{
	model_deliver(&model.box[0], 0, 100);
	sync_and_compare();
	model_set_flags(&model.box[1], 40, MAIL_SEEN);
	sync_and_compare();
	assert_int_equal(session.actions[0], 1);
	assert_int_equal(session.actions[1], 0);
	assert_int_equal(model.box[0].mails[40].flags, MAIL_SEEN);
}

static void an_expunge_is_copied_and_the_other_side_writes_nothing(void **state)
{
	model_deliver(&model.box[0], 0, 3);
	sync_and_compare();
	model_expunge(&model.box[0], 1);
	sync_and_compare();
	assert_int_equal(session.actions[0], 0);
	assert_int_equal(session.actions[1], 1);
	assert_int_equal(model.box[1].count, 2);
}

static bool tells_expunge_at(int side, uint32_t uid, uint64_t modseq)
{
	const struct model_box *box = &model.box[side];

	for (size_t i = 0; i < box->log_count; i++) {
		if (box->log[i].expunge && box->log[i].uid == uid && box->log[i].modseq == modseq)
			return true;
	}
	return false;
}

/* Both logs tell of it above every MODSEQ that a client of either had before. */
static void an_expunge_is_told_to_clients_that_change_sides(void **state)
{
	model_deliver(&model.box[0], 0, 4);
	sync_and_compare();
	/* One expunge, and then something else; and at the other side more happens meanwhile. */
	model_expunge(&model.box[0], 1);
	model_set_flags(&model.box[0], 0, MAIL_SEEN);
	for (uint8_t flags = 1; flags < 6; flags++)
		model_set_flags(&model.box[1], 2, flags);
	/* A message that the other side never had. */
	model_deliver(&model.box[1], 4, 1);
	model_expunge(&model.box[1], 4);
	sync_and_compare();
	for (int side = 0; side < 2; side++) {
		assert_true(tells_expunge_at(side, 2, model.box[0].highest_modseq));
		assert_true(tells_expunge_at(side, 5, model.box[0].highest_modseq));
	}
	assert_int_equal(model.box[0].uid_next, 6);
	model_sync_fully(&model, &session);
	assert_int_equal(session.actions[0] + session.actions[1], 0);
	/* Nor where a state was lost: it has been told. */
	model.state[0].valid = false;
	model_sync_fully(&model, &session);
	assert_int_equal(session.actions[0] + session.actions[1], 0);
}

/* What is told for clients is no evidence against a message. */
static void a_burial_is_no_evidence(void **state)
{
	model_deliver(&model.box[0], 0, 1);
	sync_and_compare();
	/* Moved out and in again, by a program that keeps its name. */
	model_deliver(&model.box[0], 1, 1);
	model_expunge(&model.box[0], 1);
	model_deliver(&model.box[0], 1, 1);
	/* The other side has buried the first instance; then the session breaks off, and its copy
	 * of the second has not come. */
	sync_one_side_only(1);
	for (size_t i = 0; i < model.box[1].count; i++) {
		if (model.box[1].mails[i].guid == 1) {
			memmove(&model.box[1].mails[i], &model.box[1].mails[i + 1],
				(model.box[1].count - i - 1) * sizeof(model.box[1].mails[0]));
			model.box[1].count--;
		}
	}
	sync_and_compare();
	assert_int_equal(count_of(0, 1), 1);
	assert_int_equal(count_of(1, 1), 1);
}

static void expunge_wins_over_a_flag_change(void **state)
{
	model_deliver(&model.box[0], 0, 2);
	sync_and_compare();
	model_expunge(&model.box[0], 0);
	model_set_flags(&model.box[1], 0, MAIL_FLAGGED);
	sync_and_compare();
	assert_int_equal(model.box[0].count, 1);
}

/* Defect 11: Dovecot renumbers both; so do we where both delivered, but never what has no rival. */
static void both_deliver_one_uid_and_only_those_move(void **state)
{
	model_deliver(&model.box[0], 0, 5);
	sync_and_compare();
	model_deliver(&model.box[0], 5, 1);
	model_deliver(&model.box[1], 6, 1);
	sync_and_compare();
	assert_int_equal(session.uid_changes, 2);
	assert_int_equal(model.box[0].count, 7);
	assert_int_equal(model.box[0].mails[4].uid, 5);
	assert_int_equal(model.box[0].mails[5].uid, 7);
	assert_int_equal(model.box[0].mails[6].uid, 8);
}

/* Defect 12: without state, after a UID mismatch, Dovecot doubles or revives. */
static void lost_state_after_a_conflict_doubles_nothing(void **state)
{
	model_deliver(&model.box[0], 0, 5);
	sync_and_compare();
	model_deliver(&model.box[0], 5, 2);
	model_deliver(&model.box[1], 7, 3);
	sync_and_compare();
	model_expunge(&model.box[0], 6);
	model.state[0].valid = false;
	sync_and_compare();
	assert_int_equal(model.box[1].count, 9);
	for (unsigned guid = 0; guid < 10; guid++)
		assert_true(count_of(1, guid) <= 1);
	model.state[0].valid = model.state[1].valid = false;
	sync_and_compare();
	assert_int_equal(session.actions[0] + session.actions[1], 0);
}

/* Defect 13: an expunge whose GUID is unknown is no evidence against a message above the common
 * UID. */
static void an_expunge_without_guid_removes_nothing_new(void **state)
{
	const struct merge_item own = {.type = 's', .uid = 6, .guid = "a"};
	const struct merge_item peer = {.type = 'e', .uid = 6};
	struct merge_mailbox_input input = {
		.mode = MERGE_DSYNCFS,
		.common_uid = 5,
		.own = {.uid_next = 7, .highest_modseq = 9, .items = &own, .item_count = 1},
		.peer = {.uid_next = 7, .highest_modseq = 9, .items = &peer, .item_count = 1},
	};
	struct merge_mailbox_plan plan;
	struct error err;

	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_int_equal(plan.expunges, 0);
	assert_int_equal(plan.uid_changes, 1);
	merge_mailbox_plan_free(&plan);
}

/* Defect 14: a change log that is lost on one side is not an expunge of everything. */
/* The own side is an older copy of itself, its saved state too: UID 6 was given to another message
 * here than there since, and expunged without anybody knowing which it was. */
static void an_expunge_without_guid_in_an_older_copy_removes_nothing(void **state)
{
	const struct merge_item own = {.type = 'e', .uid = 6, .flags.modseq = 21};
	const struct merge_item peer = {.type = 's', .uid = 6, .guid = "new", .flags.modseq = 15};
	struct merge_mailbox_input input = {
		.mode = MERGE_DSYNCFS,
		.common_uid = 5,
		.own = {.uid_next = 8,
			.highest_modseq = 22,
			.acked_modseq = 9,
			.peer_modseq = 9,
			.agreed_uid = 5,
			.items = &own,
			.item_count = 1},
		.peer = {.uid_next = 8,
			 .highest_modseq = 20,
			 .acked_modseq = 19,
			 .peer_modseq = 19,
			 .agreed_uid = 7,
			 .items = &peer,
			 .item_count = 1},
	};
	struct merge_mailbox_plan plan;
	struct error err;

	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_int_equal(plan.appends, 1);
	merge_mailbox_plan_free(&plan);
	/* Its state is in doubt, and what the other says is of a time that it has not reached. */
	input.own.agreed_uid = 0;
	input.own.highest_modseq = 18;
	input.own.items = &(struct merge_item){.type = 'e', .uid = 6, .flags.modseq = 18};
	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_int_equal(plan.appends, 1);
	merge_mailbox_plan_free(&plan);
	/* In doubt alone: it is the message that both had. */
	input.own.highest_modseq = 22;
	input.own.items = &own;
	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_int_equal(plan.appends, 0);
	merge_mailbox_plan_free(&plan);
	/* What the other has only said since is what this one may have failed to do. */
	input.peer.agreed_uid = 5;
	input.peer.reached_uid = 7;
	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_int_equal(plan.appends, 1);
	merge_mailbox_plan_free(&plan);
	input.own.agreed_uid = 5;
	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_int_equal(plan.appends, 1);
	merge_mailbox_plan_free(&plan);
	/* Both have, the one in its state. */
	input.own.agreed_uid = 6;
	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_int_equal(plan.appends, 0);
	merge_mailbox_plan_free(&plan);
}

static void an_empty_side_empties_nobody(void **state)
{
	model_deliver(&model.box[0], 0, 20);
	sync_and_compare();
	model_box_free(&model.box[1]);
	model.box[1].uid_validity = 1700000000;
	model.box[1].uid_next = 1;
	model.box[1].highest_modseq = 1;
	sync_and_compare();
	assert_int_equal(model.box[1].count, 20);
	assert_int_equal(model.box[1].mails[19].uid, 20);
	assert_int_equal(session.expunges, 0);
}

static void an_older_copy_of_a_mailbox_is_filled_up_again(void **state)
{
	struct model_box old;

	model_deliver(&model.box[0], 0, 5);
	sync_and_compare();
	model_box_copy(&old, &model.box[1]);
	model_deliver(&model.box[0], 5, 5);
	sync_and_compare();
	model_box_free(&model.box[1]);
	model.box[1] = old;
	sync_and_compare();
	assert_int_equal(model.box[1].count, 10);
	assert_int_equal(session.expunges, 0);
}

/* Defect 19: both sides' MODSEQs are equal after the first session, not after some. */
static void modseqs_settle_in_one_session(void **state)
{
	model_deliver(&model.box[0], 0, 4);
	sync_and_compare();
	model_set_flags(&model.box[0], 0, MAIL_SEEN);
	model_set_keywords(&model.box[0], 1, 0x5);
	model_deliver(&model.box[0], 4, 1);
	model_set_flags(&model.box[1], 1, MAIL_FLAGGED);
	model_deliver(&model.box[1], 5, 2);
	model_expunge(&model.box[1], 2);
	sync_and_compare();
	model_sync_fully(&model, &session);
	assert_int_equal(session.actions[0] + session.actions[1], 0);
}

static void a_broken_session_is_finished_by_the_next(void **state)
{
	for (int side = 0; side < 2; side++) {
		tear_down(state);
		set_up(state);
		model_deliver(&model.box[0], 0, 3);
		sync_and_compare();
		model_deliver(&model.box[0], 3, 2);
		model_deliver(&model.box[1], 5, 2);
		model_expunge(&model.box[1], 0);
		sync_one_side_only(side);
		model_deliver(&model.box[1 - side], 7, 1);
		sync_and_compare();
		for (unsigned guid = 1; guid < 8; guid++)
			assert_int_equal(count_of(0, guid), 1);
		assert_int_equal(count_of(0, 0), 0);
	}
}

/* Both sides changed something, and only one could carry the plan out. A client that knows the
 * other one as it is now has not heard of what is the same on both: the message has to come after
 * all that both have told. */
static void what_one_side_alone_carried_out_is_told_anew(void **state)
{
	for (int side = 0; side < 2; side++) {
		uint64_t told = 0;

		tear_down(state);
		set_up(state);
		model_deliver(&model.box[0], 0, 3);
		sync_and_compare();
		model_set_flags(&model.box[1 - side], 0, MAIL_SEEN);
		model_set_flags(&model.box[side], 1, MAIL_FLAGGED);
		sync_one_side_only(side);
		for (int i = 0; i < 8; i++)
			model_set_flags(&model.box[1 - side], 2, i % 2 ? 0 : MAIL_ANSWERED);
		for (int i = 0; i < 2; i++) {
			if (model.box[i].highest_modseq > told)
				told = model.box[i].highest_modseq;
		}
		sync_and_compare();
		assert_true(model.box[0].mails[0].modseq > told);
	}
}

static void expunge_of_a_half_renumbered_message_counts(void **state)
{
	model_deliver(&model.box[0], 0, 3);
	sync_and_compare();
	model_deliver(&model.box[0], 3, 1);
	model_deliver(&model.box[1], 4, 1);
	sync_one_side_only(1);
	/* On the side that still has it under the old UID. */
	model_expunge(&model.box[0], 3);
	sync_and_compare();
	assert_int_equal(count_of(0, 3), 0);
	assert_int_equal(count_of(0, 4), 1);
}

/* A later change of flags does not make it one that came after its own expunge. */
static void expunge_of_a_renumbered_and_flagged_message_counts(void **state)
{
	model_deliver(&model.box[0], 0, 3);
	sync_and_compare();
	/* Each side alone gives the message a UID of its own. */
	model_deliver(&model.box[0], 3, 1);
	model_deliver(&model.box[1], 4, 1);
	sync_one_side_only(1);
	model_deliver(&model.box[0], 5, 2);
	sync_one_side_only(0);
	for (size_t i = 0; i < model.box[0].count; i++) {
		if (model.box[0].mails[i].guid == 3)
			model_set_flags(&model.box[0], i, MAIL_FLAGGED);
	}
	for (size_t i = 0; i < model.box[1].count; i++) {
		if (model.box[1].mails[i].guid == 3)
			model_expunge(&model.box[1], i);
	}
	sync_and_compare();
	assert_int_equal(count_of(0, 3), 0);
	assert_int_equal(count_of(0, 4), 1);
	assert_int_equal(count_of(0, 5), 1);
}

struct told {
	uint32_t uid;
	uint64_t appended, expunged, modseq;
};

static size_t tell(const struct told told[2], struct merge_item items_r[3])
{
	size_t count = 0;

	for (; count < 2 && told[count].uid != 0; count++) {
		items_r[count] = (struct merge_item){.type = 'e',
						     .uid = told[count].uid,
						     .has_guid128 = true,
						     .appended = told[count].appended,
						     .expunged = told[count].expunged,
						     .flags.modseq = told[count].modseq};
		guid_from_message_guid("moved", &items_r[count].guid128);
	}
	return count;
}

/* We have the message as UID 9, which came at a MODSEQ of 30. Whether it stays, by what both logs
 * tell of the UIDs that it had, and up to where we have heard of the peer's. */
static bool it_stays(const struct told own[2], const struct told peer[2], uint64_t heard)
{
	struct merge_item own_items[3], peer_items[3];
	size_t own_count = tell(own, own_items);
	struct merge_mailbox_input input = {
		.mode = MERGE_DSYNCFS,
		.common_uid = 2,
		.own = {.uid_next = 10,
			.highest_modseq = 40,
			.peer_modseq = heard,
			.items = own_items},
		/* The peer's own state is older. */
		.peer = {.uid_next = 8,
			 .highest_modseq = 40,
			 .acked_modseq = heard > 0 ? 5 : 0,
			 .items = peer_items},
	};
	struct merge_mailbox_plan plan;
	struct error err;
	bool stays;

	own_items[own_count++] = (struct merge_item){
		.type = 's', .uid = 9, .guid = "moved", .appended = 30, .flags.modseq = 30};
	input.own.item_count = own_count;
	input.peer.item_count = tell(peer, peer_items);
	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	stays = plan.expunges == 0;
	merge_mailbox_plan_free(&plan);
	return stays;
}

/* Nothing counts but whether it went here, which the UID does each time that a session gives it
 * another one. */
static void an_expunge_does_not_count_against_what_came_again(void **state)
{
	static const struct told nothing[2], peer[2] = {{4, 10, 0, 20}},
					     twice[2] = {{3, 10, 0, 12}, {4, 13, 0, 20}},
					     renumbered_there[2] = {{3, 10, 0, 14}, {4, 13, 0, 20}},
					     unknown_there[2] = {{3, 0, 0, 14}, {4, 0, 0, 20}};
	static const struct {
		struct told own[2];
		const struct told *peer;
		bool stays;
	} cases[] = {
		{{{0}}, peer, false},
		/* Renumbered once, or twice. */
		{{{6, 15, 0, 31}}, peer, false},
		{{{6, 15, 0, 18}, {7, 17, 0, 31}}, peer, false},
		/* Gone, back, and renumbered. */
		{{{6, 15, 0, 18}, {7, 19, 0, 31}}, peer, true},
		/* Gone, and told of once more since. */
		{{{6, 15, 18, 35}}, peer, true},
		{{{6, 15, 18, 35}, {7, 19, 31, 35}}, peer, true},
		/* Twice on both sides. */
		{{{3, 10, 0, 12}, {4, 13, 0, 20}}, twice, true},
		{{{3, 10, 12, 35}, {4, 13, 20, 35}}, twice, true},
		{{{3, 10, 0, 12}}, twice, false},
		{{{3, 0, 0, 12}, {4, 0, 0, 20}}, twice, true},
		/* Two copies that went at once. */
		{{{3, 10, 0, 20}, {4, 11, 0, 20}}, twice, true},
		/* Gone and back at the peer, which we took for a change of the UID. */
		{{{3, 10, 0, 14}, {4, 13, 0, 20}}, twice, true},
		{{{3, 10, 0, 14}, {4, 13, 0, 31}}, twice, false},
		/* One removal. */
		{{{3, 10, 0, 12}}, renumbered_there, true},
		{{{3, 10, 0, 14}, {4, 13, 0, 20}}, renumbered_there, true},
		{{{3, 10, 0, 14}, {4, 13, 0, 20}}, unknown_there, true},
		{{{0}}, renumbered_there, false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		if (it_stays(cases[i].own, cases[i].peer, 0) != cases[i].stays)
			fail_msg("case %zu: stays=%d", i, !cases[i].stays);
	}
	assert_true(it_stays(nothing, nothing, 0));
}

/* The peer did it at our word, in a session of which only we know, or we have taken it in. */
static void an_expunge_that_was_heard_of_is_no_news(void **state)
{
	static const struct told nothing[2], once[2] = {{4, 10, 0, 20}},
					     again[2] = {{4, 10, 20, 35}},
					     twice[2] = {{3, 10, 0, 12}, {4, 13, 0, 20}};

	(void)state;
	assert_false(it_stays(nothing, once, 19));
	assert_true(it_stays(nothing, once, 20));
	assert_true(it_stays(nothing, again, 20));
	assert_false(it_stays(nothing, twice, 12));
	assert_true(it_stays(nothing, twice, 20));
}

static void a_copy_of_an_expunged_message_stays(void **state)
{
	model_deliver(&model.box[0], 0, 2);
	sync_and_compare();
	model_deliver(&model.box[1], 0, 1);
	sync_and_compare();
	assert_int_equal(count_of(0, 0), 2);
	model_expunge(&model.box[0], 0);
	sync_and_compare();
	assert_int_equal(count_of(1, 0), 1);
	model.state[0].valid = false;
	sync_and_compare();
	assert_int_equal(count_of(1, 0), 1);
}

static void a_message_that_came_back_is_not_killed_by_its_old_expunge(void **state)
{
	model_deliver(&model.box[0], 0, 2);
	sync_and_compare();
	/* Moved out, and long after moved in again, with its GUID. */
	model_expunge(&model.box[0], 0);
	sync_and_compare();
	model_deliver(&model.box[1], 0, 1);
	model.state[0].valid = model.state[1].valid = false;
	sync_and_compare();
	assert_int_equal(count_of(0, 0), 1);
	assert_int_equal(count_of(1, 0), 1);
}

static void a_message_moved_to_and_fro_on_both_sides_is_not_lost(void **state)
{
	model_deliver(&model.box[0], 0, 2);
	sync_and_compare();
	/* In and out again there; here in, out, and in. */
	model_deliver(&model.box[0], 2, 1);
	model_expunge(&model.box[0], 2);
	model_deliver(&model.box[1], 2, 1);
	model_expunge(&model.box[1], 2);
	model_deliver(&model.box[1], 2, 1);
	sync_and_compare();
	assert_int_equal(count_of(0, 2), 1);
}

static void uidvalidity_of_the_fuller_side_wins(void **state)
{
	model.box[0].uid_validity = 1800000000;
	model_deliver(&model.box[0], 0, 1);
	model_deliver(&model.box[1], 1, 2);
	sync_and_compare();
	assert_int_equal(model.box[0].uid_validity, 1700000000);
	assert_int_equal(model.box[0].count, 3);
	model.box[0].uid_validity = 1800000000;
	sync_and_compare();
	assert_int_equal(model.box[1].uid_validity, 1800000000);
	assert_int_equal(model.box[1].count, 3);
}

/* Both delivered at UID 3, and both moved theirs. One side was told to send its changes again. */
static void expunges_of_two_messages_of_one_uid_do_not_contradict(void **state)
{
	const struct merge_item own = {
		.type = 'e', .uid = 3, .has_guid128 = true, .guid128 = {.bytes = {1}}};
	const struct merge_item peer = {
		.type = 'e', .uid = 3, .has_guid128 = true, .guid128 = {.bytes = {2}}};
	struct merge_mailbox_input input = {
		.mode = MERGE_DSYNCFS,
		.common_uid = 5,
		.own = {.uid_next = 6, .highest_modseq = 9, .items = &own, .item_count = 1},
		.peer = {.uid_next = 6, .highest_modseq = 9, .items = &peer, .item_count = 1},
	};
	struct merge_mailbox_plan plan;
	struct error err;

	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_false(plan.need_full);
	assert_int_equal(plan.action_count, 0);
	merge_mailbox_plan_free(&plan);
}

static void a_state_that_does_not_fit_is_thrown_away(void **state)
{
	const struct merge_item own = {.type = 'f', .uid = 3, .guid = "a"};
	const struct merge_item peer = {.type = 'f', .uid = 3, .guid = "b"};
	struct merge_mailbox_input input = {
		.mode = MERGE_DSYNCFS,
		.common_uid = 5,
		.own = {.uid_next = 7, .highest_modseq = 9, .items = &own, .item_count = 1},
		.peer = {.uid_next = 7, .highest_modseq = 9, .items = &peer, .item_count = 1},
	};
	struct merge_mailbox_plan plan;
	struct error err;

	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_true(plan.need_full);
	merge_mailbox_plan_free(&plan);
	/* A message that both agreed on is missing here without a trace. */
	input.own.item_count = 0;
	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_true(plan.need_full);
	merge_mailbox_plan_free(&plan);

	struct merge_side a = {.uid_validity = 1, .uid_next = 9}, b = a;

	assert_int_equal(merge_mailbox_common_uid(&a, 8, &b, 7), 7);
	b.uid_next = 7;
	assert_int_equal(merge_mailbox_common_uid(&a, 8, &b, 7), 0);
	b.uid_next = 9;
	b.uid_validity = 2;
	assert_int_equal(merge_mailbox_common_uid(&a, 8, &b, 7), 0);
}

static void hostile_lists_are_refused(void **state)
{
	static const char *const names[1025] = {"x"};
	struct merge_item items[2] = {{.type = 's', .uid = 6, .guid = "a"},
				      {.type = 's', .uid = 7, .guid = "b"}};
	struct merge_mailbox_input input = {
		.mode = MERGE_DSYNCFS,
		.common_uid = 5,
		.own = {.uid_next = 6, .highest_modseq = 1},
		.peer = {.uid_next = 8, .highest_modseq = 9, .items = items, .item_count = 2},
	};
	const struct merge_item good[2] = {items[0], items[1]};
	struct merge_mailbox_plan plan;
	struct error err;

	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	assert_int_equal(plan.appends, 2);
	merge_mailbox_plan_free(&plan);
	for (int i = 0; i < 9; i++) {
		memcpy(items, good, sizeof(items));
		input.peer.uid_next = 8;
		input.peer.highest_modseq = 9;
		switch (i) {
		case 0:
			items[1].uid = 6;
			break;
		case 1:
			items[0].uid = 0;
			break;
		case 2:
			items[0].uid = 5;
			break;
		case 3:
			items[0].type = 'x';
			break;
		case 4:
			items[0].type = 'f';
			break;
		case 5:
			items[1].guid = "";
			break;
		case 6:
			input.peer.uid_next = 7;
			break;
		case 7:
			items[1].flags.modseq = UINT64_MAX;
			break;
		case 8:
			items[1].flags.final_keywords = (struct keyword_set){names, 1025};
			break;
		}
		if (merge_mailbox(&input, &plan, &err) != -EINVAL)
			fail_msg("hostile list %d was taken", i);
		assert_true(strlen(err.text) > 0);
	}
	memcpy(items, good, sizeof(items));
	items[0].uid = UINT32_MAX - 2;
	items[1].uid = UINT32_MAX - 1;
	input.peer.uid_next = UINT32_MAX;
	input.own.uid_next = UINT32_MAX;
	assert_int_equal(merge_mailbox(&input, &plan, &err), -EOVERFLOW);
}

static void a_hundred_thousand_messages_merge_in_a_second(void **state)
{
	enum { COUNT = 100000 };
	struct merge_item *own = calloc(COUNT, sizeof(*own)), *peer = calloc(COUNT, sizeof(*peer));
	char(*names)[24] = calloc(2L * COUNT, sizeof(*names));
	struct merge_mailbox_input input = {
		.mode = MERGE_DSYNCFS,
		.own = {.uid_next = COUNT + 1, .highest_modseq = COUNT + 1},
		.peer = {.uid_next = COUNT + 1, .highest_modseq = COUNT + 1},
	};
	struct merge_mailbox_plan plan;
	struct timespec start, end;
	struct error err;

	assert_non_null(own);
	assert_non_null(peer);
	assert_non_null(names);
	for (uint32_t i = 0; i < COUNT; i++) {
		snprintf(names[2 * i], 24, "%08x.own", i * 2654435761U);
		snprintf(names[2 * i + 1], 24, "%08x.peer", i * 2654435761U);
		own[i] = (struct merge_item){.type = 's', .uid = i + 1, .guid = names[2 * i]};
		peer[i] = own[i];
		own[i].flags.modseq = peer[i].flags.modseq = i + 2;
		/* The second half is different messages under the same UIDs: all of them move. */
		if (i > COUNT / 2)
			peer[i].guid = names[2 * i + 1];
	}
	input.own.items = own;
	input.own.item_count = COUNT;
	input.peer.items = peer;
	input.peer.item_count = COUNT;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &start);
	assert_int_equal(merge_mailbox(&input, &plan, &err), 0);
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
	assert_int_equal(plan.uid_changes, COUNT / 2 - 1);
	assert_int_equal(plan.appends, COUNT / 2 - 1);
	print_message("%.0f ms\n", (double)(end.tv_sec - start.tv_sec) * 1e3 +
					   (double)(end.tv_nsec - start.tv_nsec) / 1e6);
	/* Generous: sanitizers and a busy machine. Quadratic code takes minutes. */
	assert_true(end.tv_sec - start.tv_sec < 10);
	merge_mailbox_plan_free(&plan);
	free(own);
	free(peer);
	free(names);
}

int main(void)
{
#define CASE(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
	const struct CMUnitTest tests[] = {
		CASE(empty_mailboxes_need_nothing),
		CASE(a_delivery_is_copied_with_its_modseq),
		CASE(one_flag_change_costs_one_action),
		CASE(an_expunge_is_copied_and_the_other_side_writes_nothing),
		CASE(an_expunge_is_told_to_clients_that_change_sides),
		CASE(a_burial_is_no_evidence),
		CASE(expunge_wins_over_a_flag_change),
		CASE(both_deliver_one_uid_and_only_those_move),
		CASE(lost_state_after_a_conflict_doubles_nothing),
		CASE(an_expunge_without_guid_removes_nothing_new),
		CASE(an_expunge_without_guid_in_an_older_copy_removes_nothing),
		CASE(an_empty_side_empties_nobody),
		CASE(an_older_copy_of_a_mailbox_is_filled_up_again),
		CASE(modseqs_settle_in_one_session),
		CASE(what_one_side_alone_carried_out_is_told_anew),
		CASE(a_broken_session_is_finished_by_the_next),
		CASE(expunge_of_a_half_renumbered_message_counts),
		CASE(expunge_of_a_renumbered_and_flagged_message_counts),
		CASE(an_expunge_does_not_count_against_what_came_again),
		CASE(an_expunge_that_was_heard_of_is_no_news),
		CASE(a_copy_of_an_expunged_message_stays),
		CASE(a_message_that_came_back_is_not_killed_by_its_old_expunge),
		CASE(a_message_moved_to_and_fro_on_both_sides_is_not_lost),
		CASE(uidvalidity_of_the_fuller_side_wins),
		CASE(expunges_of_two_messages_of_one_uid_do_not_contradict),
		CASE(a_state_that_does_not_fit_is_thrown_away),
		CASE(hostile_lists_are_refused),
		CASE(a_hundred_thousand_messages_merge_in_a_second),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
