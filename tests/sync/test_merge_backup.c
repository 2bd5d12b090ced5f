/*
 * The one-way merge: random histories of a mailbox and of its copy. A plan that can be carried out
 * makes the copy equal, and then there is nothing more to do; one that cannot says so exactly then
 * when a message would have to be put below UIDNEXT.
 *
 * DSYNCFS_TEST_SEED=n runs one history.
 */
#include "sync/merge_mailbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MAILS_MAX 64
#define GUIDS	  40
#define SEEDS	  20000

struct mail_model {
	uint32_t uid;
	unsigned guid;
	uint8_t flags;
	unsigned keywords; /* a bit for each of the names */
	uint64_t modseq;
};

struct box_model {
	struct mail_model mail[MAILS_MAX];
	size_t count;
	uint32_t uid_validity, uid_next;
	uint64_t modseq;
};

static uint32_t state;
static char guid_names[GUIDS][16];
static const char *const keyword_names[] = {"$Label1", "work", "NonJunk"};
static const char *keyword_lists[8][3];
static unsigned keyword_counts[8];

static unsigned roll(unsigned sides)
{
	state = state * 1664525u + 1013904223u;
	return (state >> 8) % sides;
}

static void init_names(void)
{
	for (unsigned i = 0; i < GUIDS; i++)
		snprintf(guid_names[i], sizeof(guid_names[i]), "1700.M%02uP1", i);
	for (unsigned bits = 0; bits < 8; bits++) {
		for (unsigned i = 0; i < 3; i++) {
			if (bits & (1u << i))
				keyword_lists[bits][keyword_counts[bits]++] = keyword_names[i];
		}
	}
}

static unsigned keyword_bits(struct keyword_set set)
{
	unsigned bits = 0;

	for (unsigned i = 0; i < 3; i++)
		bits |= keyword_set_has(set, keyword_names[i]) ? 1u << i : 0;
	return bits;
}

/* ---- what users and programs do ---- */

static struct mail_model *find(struct box_model *box, uint32_t uid)
{
	for (size_t i = 0; i < box->count; i++) {
		if (box->mail[i].uid == uid)
			return &box->mail[i];
	}
	return NULL;
}

static void append(struct box_model *box, uint32_t uid, unsigned guid, uint8_t flags,
		   unsigned keywords)
{
	assert_true(box->count < MAILS_MAX);
	/* As the store demands it. */
	assert_true(uid >= box->uid_next);
	box->mail[box->count++] = (struct mail_model){.uid = uid,
						      .guid = guid,
						      .flags = flags,
						      .keywords = keywords,
						      .modseq = ++box->modseq};
	box->uid_next = uid + 1;
}

static void expunge(struct box_model *box, uint32_t uid)
{
	struct mail_model *mail = find(box, uid);

	assert_non_null(mail);
	box->count--;
	memmove(mail, mail + 1, (size_t)(box->mail + box->count - mail) * sizeof(*mail));
	box->modseq++;
}

static void change(struct box_model *box)
{
	struct mail_model *mail = box->count > 0 ? &box->mail[roll((unsigned)box->count)] : NULL;

	switch (roll(5)) {
	case 0:
	case 1:
		if (box->count < MAILS_MAX / 3)
			append(box, box->uid_next + (roll(8) == 0 ? 2 : 0), roll(GUIDS),
			       (uint8_t)roll(32), roll(8));
		break;
	case 2:
		if (mail != NULL)
			expunge(box, mail->uid);
		break;
	case 3:
		if (mail != NULL) {
			mail->flags = (uint8_t)roll(32);
			mail->modseq = ++box->modseq;
		}
		break;
	default:
		if (mail != NULL) {
			mail->keywords = roll(8);
			mail->modseq = ++box->modseq;
		}
		break;
	}
}

/* ---- the merge ---- */

static void fill_side(const struct box_model *box, struct merge_item *items,
		      struct merge_side *side_r)
{
	for (size_t i = 0; i < box->count; i++) {
		const struct mail_model *mail = &box->mail[i];

		items[i] = (struct merge_item){
			.type = 's',
			.uid = mail->uid,
			.guid = guid_names[mail->guid],
			.flags = {.final = mail->flags,
				  .modseq = mail->modseq,
				  .final_keywords = {.names = keyword_lists[mail->keywords],
						     .count = keyword_counts[mail->keywords]}}};
	}
	*side_r = (struct merge_side){.uid_validity = box->uid_validity,
				      .uid_next = box->uid_next,
				      .messages = (uint32_t)box->count,
				      .highest_modseq = box->modseq,
				      .have_guids = true,
				      .have_save_guids = true,
				      .items = items,
				      .item_count = box->count};
}

static bool can_follow(struct box_model *own, struct box_model *peer)
{
	if (own->uid_next > peer->uid_next)
		return false;
	for (size_t i = 0; i < peer->count; i++) {
		const struct mail_model *mail = &peer->mail[i];
		const struct mail_model *here = find(own, mail->uid);

		if (mail->uid < own->uid_next && (here == NULL || here->guid != mail->guid))
			return false;
	}
	return true;
}

static void carry_out(const struct merge_action *action, struct box_model *own,
		      struct box_model *peer)
{
	struct mail_model *mail = find(own, action->uid);
	unsigned guid = GUIDS;

	for (unsigned i = 0; action->guid != NULL && i < GUIDS; i++)
		guid = strcmp(guid_names[i], action->guid) == 0 ? i : guid;
	switch (action->kind) {
	case MERGE_SET_FLAGS:
		assert_non_null(mail);
		if (mail->flags != action->flags ||
		    mail->keywords != keyword_bits(action->keywords))
			own->modseq++;
		mail->flags = action->flags;
		mail->keywords = keyword_bits(action->keywords);
		/* A MODSEQ alone can be any; a change takes one above all. */
		mail->modseq = action->modseq > mail->modseq ? action->modseq : mail->modseq;
		break;
	case MERGE_APPEND:
		assert_non_null(find(peer, action->peer_uid));
		assert_int_equal(find(peer, action->peer_uid)->guid, guid);
		append(own, action->uid, guid, action->flags, keyword_bits(action->keywords));
		break;
	case MERGE_COPY:
		assert_non_null(find(own, action->source_uid));
		assert_int_equal(find(own, action->source_uid)->guid, guid);
		append(own, action->uid, guid, action->flags, keyword_bits(action->keywords));
		break;
	case MERGE_CHANGE_UID: {
		struct mail_model moved = *find(own, action->source_uid);

		expunge(own, action->source_uid);
		append(own, action->uid, moved.guid, moved.flags, moved.keywords);
		break;
	}
	case MERGE_BURY:
		fail_msg("a backup buries nothing");
		break;
	case MERGE_EXPUNGE:
		expunge(own, action->uid);
		break;
	}
}

static void make_plan(const struct box_model *own, const struct box_model *peer,
		      enum merge_role role, struct merge_mailbox_plan *plan)
{
	static struct merge_item own_items[MAILS_MAX], peer_items[MAILS_MAX];
	struct merge_mailbox_input in = {.mode = MERGE_BACKUP, .role = role};
	struct error err = {0};

	fill_side(own, own_items, &in.own);
	fill_side(peer, peer_items, &in.peer);
	if (merge_mailbox(&in, plan, &err) < 0)
		fail_msg("%s", err.text);
}

static bool same(const struct box_model *a, const struct box_model *b)
{
	if (a->count != b->count || a->uid_next != b->uid_next ||
	    a->uid_validity != b->uid_validity)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		const struct mail_model *x = &a->mail[i], *y = &b->mail[i];

		if (x->uid != y->uid || x->guid != y->guid || x->flags != y->flags ||
		    x->keywords != y->keywords)
			return false;
	}
	return true;
}

/* 1: it was carried out. */
static int back_up(struct box_model *own, struct box_model *peer)
{
	enum merge_role role = roll(2) ? MERGE_MASTER : MERGE_SLAVE;
	struct merge_mailbox_plan plan;
	bool expected = can_follow(own, peer);

	make_plan(own, peer, role, &plan);
	if (plan.need_new == expected)
		fail_msg("need_new=%d at uid %u", plan.need_new, plan.conflict_uid);
	if (plan.need_new) {
		assert_int_not_equal(plan.conflict_uid, 0);
		merge_mailbox_plan_free(&plan);
		return 0;
	}
	assert_int_equal(plan.uid_validity, peer->uid_validity);
	assert_true(plan.adopt_uid_validity == (own->uid_validity != peer->uid_validity));
	own->uid_validity = plan.uid_validity;
	for (size_t i = 0; i < plan.action_count; i++) {
		if (plan.actions[i].kind == MERGE_EXPUNGE)
			assert_true(i >= plan.expunge_start);
		carry_out(&plan.actions[i], own, peer);
	}
	if (plan.uid_next > own->uid_next)
		own->uid_next = plan.uid_next;
	if (plan.highest_modseq > own->modseq)
		own->modseq = plan.highest_modseq;
	merge_mailbox_plan_free(&plan);
	return 1;
}

static int run_history(uint32_t seed)
{
	struct box_model peer = {.uid_validity = 7, .uid_next = 1, .modseq = 1}, own;
	struct merge_mailbox_plan plan;
	int done = 0;

	state = seed * 2654435761u + 1;
	for (unsigned i = roll(40); i > 0; i--)
		change(&peer);
	own = peer;
	if (roll(4) == 0)
		own.uid_validity = 8;
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = roll(12); i > 0; i--)
			change(&peer);
		/* Most copies are left alone. */
		for (unsigned i = roll(3) == 0 ? roll(4) : 0; i > 0; i--)
			change(&own);
		if (!back_up(&own, &peer)) {
			own = peer; /* made anew */
			continue;
		}
		done++;
		if (!same(&own, &peer))
			fail_msg("seed %u: the copy differs", seed);
		make_plan(&own, &peer, MERGE_MASTER, &plan);
		for (size_t i = 0; i < plan.action_count; i++) {
			/* At most MODSEQs that were taken already. */
			assert_int_equal(plan.actions[i].kind, MERGE_SET_FLAGS);
			assert_true(plan.flag_changes == 0);
		}
		merge_mailbox_plan_free(&plan);
	}
	return done;
}

static void random_histories(void **ctx)
{
	const char *one = getenv("DSYNCFS_TEST_SEED");
	int done = 0;

	if (one != NULL) {
		(void)run_history((uint32_t)strtoul(one, NULL, 10));
		return;
	}
	for (uint32_t seed = 1; seed <= SEEDS; seed++)
		done += run_history(seed);
	/* Both ends of the test are reached. */
	assert_true(done > SEEDS && done < SEEDS * 4);
}

static void what_is_only_here_goes(void **ctx)
{
	struct box_model peer = {.uid_validity = 7, .uid_next = 9, .modseq = 5}, own;

	peer.uid_next = 1;
	append(&peer, 1, 0, 0, 0);
	append(&peer, 2, 1, 0, 0);
	append(&peer, 3, 2, 0, 0);
	own = peer;
	expunge(&peer, 2);
	assert_int_equal(back_up(&own, &peer), 1);
	assert_true(same(&own, &peer));
}

static void a_message_below_uidnext_cannot_be_put_back(void **ctx)
{
	struct box_model peer = {.uid_validity = 7, .uid_next = 1, .modseq = 5}, own;
	struct merge_mailbox_plan plan;

	append(&peer, 1, 0, 0, 0);
	append(&peer, 2, 1, 0, 0);
	own = peer;
	expunge(&own, 1);
	make_plan(&own, &peer, MERGE_SLAVE, &plan);
	assert_true(plan.need_new);
	assert_int_equal(plan.conflict_uid, 1);
	assert_int_equal(plan.action_count, 0);
	merge_mailbox_plan_free(&plan);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_histories),
		cmocka_unit_test(what_is_only_here_goes),
		cmocka_unit_test(a_message_below_uidnext_cannot_be_put_back),
	};

	init_names();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
