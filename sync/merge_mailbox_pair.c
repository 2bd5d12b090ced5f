/*
 * Which message of one side is which of the other, above the common UID, and the UIDs they get.
 *
 * Pairing: equal (UID, GUID) first; then, among the instances of one GUID, those that one side
 * moved to a higher UID (it expunged the old one), then the rest in UID order. UIDs: dsync's merge
 * (both lists walked in parallel, heads compared by GUID): a UID is kept where the other side
 * cannot have given it to something else, everything else goes above both UIDNEXTs in the order of
 * the walk.
 */
#include "sync/merge_mailbox_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void pair_exact(struct insts *a, struct insts *b)
{
	size_t i = 0, j = 0;

	while (i < a->count && j < b->count) {
		struct inst *x = &a->list[i], *y = &b->list[j];

		if (x->item->uid < y->item->uid) {
			i++;
		} else if (x->item->uid > y->item->uid) {
			j++;
		} else {
			if (strcmp(x->key, y->key) == 0) {
				x->link = y;
				y->link = x;
				x->exact = y->exact = true;
			}
			i++;
			j++;
		}
	}
}

/* What a side's state says of the other's UIDs is worth nothing where the other has gone back. */
static uint32_t said_uid(const struct merge_side *side, const struct merge_side *other)
{
	return side->peer_modseq <= other->highest_modseq ? side->agreed_uid : 0;
}

static uint32_t higher(uint32_t a, uint32_t b)
{
	return a > b ? a : b;
}

/* Up to where a UID means the same message on both sides: where nothing is compared from it, be it
 * that files are missing on one side (whose state then says 0), it is true all the same. Of two
 * states the older one counts: a side may be an older copy of itself, state and all, and have given
 * these UIDs to other messages since. Nothing does where a side has lost its state. What a side has
 * said since counts only where the other says as much: that may not have done its part. */
static uint32_t agreed_uid(const struct merge_work *work)
{
	const struct merge_side *a = work->side[0], *b = work->side[1];
	uint32_t uid = said_uid(a, b), other = said_uid(b, a);

	if (uid != 0 && other != 0) {
		uid = higher(uid, a->reached_uid);
		other = higher(other, b->reached_uid);
		uid = uid < other ? uid : other;
	} else {
		uid = higher(uid, other);
	}
	if (work->in->mode != MERGE_DSYNCFS || a->acked_modseq == 0 || b->acked_modseq == 0 ||
	    a->uid_validity != b->uid_validity || uid >= a->uid_next || uid >= b->uid_next)
		return 0;
	return uid;
}

/* Dovecot may record that a message was removed and not know its GUID any more: then its UID says
 * which it was, where both agreed on that and the expunge has come since. */
static bool means_by_uid(const struct merge_work *work, const struct merge_side *side,
			 const struct merge_item *expunge)
{
	return expunge->type == 'e' && !expunge->has_guid128 && expunge->uid <= agreed_uid(work) &&
	       expunge->flags.modseq > side->acked_modseq;
}

/* Marks the messages that the other side has expunged under this UID. */
static void mark_expunged(const struct merge_work *work, struct insts *insts,
			  const struct merge_side *other)
{
	size_t i = 0, j = 0;

	while (i < insts->count && j < other->item_count) {
		struct inst *inst = &insts->list[i];
		const struct merge_item *item = &other->items[j];

		if (inst->item->uid < item->uid) {
			i++;
		} else if (inst->item->uid > item->uid) {
			j++;
		} else {
			inst->expunged_there = merge_item_names(item, inst->item->guid) ||
					       means_by_uid(work, other, item);
			i++;
			j++;
		}
	}
}

static int inst_cmp(const void *a, const void *b)
{
	const struct inst *x = *(struct inst *const *)a, *y = *(struct inst *const *)b;
	int ret = strcmp(x->key, y->key);

	if (ret != 0)
		return ret;
	if (x->side != y->side)
		return x->side - y->side;
	return x->item->uid < y->item->uid ? -1 : x->item->uid > y->item->uid;
}

static void link_insts(struct inst *x, struct inst *y)
{
	x->link = y;
	y->link = x;
}

/* x: instances of which some were expunged at the other side, y: the other side's of the same GUID.
 * An expunge together with a higher UID is a move: the message got a new UID there. Both lists
 * ascend, so what is too low for one x is too low for all that follow. */
static void link_moved(struct inst **x, size_t x_count, struct inst **y, size_t y_count)
{
	size_t j = 0;

	for (size_t i = 0; i < x_count; i++) {
		if (!x[i]->expunged_there || x[i]->link != NULL)
			continue;
		while (j < y_count && (y[j]->link != NULL || y[j]->item->uid <= x[i]->item->uid))
			j++;
		if (j == y_count)
			return;
		link_insts(x[i], y[j]);
	}
}

static void link_rest(struct inst **x, size_t x_count, struct inst **y, size_t y_count)
{
	size_t i = 0, j = 0;

	while (i < x_count && j < y_count) {
		if (x[i]->link != NULL || x[i]->expunged_there)
			i++;
		else if (y[j]->link != NULL || y[j]->expunged_there)
			j++;
		else
			link_insts(x[i++], y[j++]);
	}
}

/* The 'e' items above the common UID, by GUID and UID. */
struct expunges {
	const struct merge_item **list;
	bool *used;	/* looked at for a message of the other side, or for none */
	bool *answered; /* there is one of the other side for it */
	size_t *end;	/* the last UID that the message had, where it was only renumbered */
	size_t count;
};

static int expunge_cmp(const void *a, const void *b)
{
	const struct merge_item *x = *(const struct merge_item *const *)a;
	const struct merge_item *y = *(const struct merge_item *const *)b;
	int ret = guid_cmp(&x->guid128, &y->guid128);

	if (ret != 0)
		return ret;
	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

static bool same_guid(const struct expunges *expunges, size_t i, const struct guid *guid)
{
	return i < expunges->count && guid_equal(&expunges->list[i]->guid128, guid);
}

/* A burial tells of it once more. */
static uint64_t gone_at(const struct merge_item *expunge)
{
	return expunge->expunged != 0 ? expunge->expunged : expunge->flags.modseq;
}

/* The message was given another UID: it got that before it lost this one. Of two instances that
 * went at once neither was the other. */
static bool handed_over(const struct merge_item *expunge, const struct merge_item *next)
{
	return next->appended != 0 && next->appended <= gone_at(expunge) &&
	       gone_at(expunge) < gone_at(next);
}

/* Since the other side heard of this one last, by the state of either. Where neither has one that
 * is not known. What is told once more for clients is no news. */
static bool is_news(const struct merge_work *work, int side, const struct merge_item *expunge)
{
	const struct merge_side *own = work->side[side], *other = work->side[1 - side];
	uint64_t heard = merge_heard_modseq(work, side);

	if (other->peer_modseq <= own->highest_modseq && other->peer_modseq > heard)
		heard = other->peer_modseq;
	return heard > 0 ? gone_at(expunge) > heard : work->in->common_uid > 0;
}

/*
 * What says nothing about another message of the other side: where that has the very message, or
 * has heard of it, and where the next one of the GUID was there already: it was renumbered then, or
 * there twice. What is not known is taken for that, since a message that comes back is better than
 * one that is lost.
 */
static void use_needless(const struct merge_work *work, int side, struct expunges *expunges)
{
	const struct merge_side *other = work->side[1 - side];

	for (size_t i = 0; i < expunges->count; i++) {
		const struct merge_item *item = expunges->list[i];
		const struct merge_item *there =
			merge_items_find(other->items, other->item_count, item->uid);

		expunges->used[i] = !is_news(work, side, item) ||
				    (there != NULL && there->type == 's' &&
				     merge_item_names(item, there->guid)) ||
				    (same_guid(expunges, i + 1, &item->guid128) &&
				     expunges->list[i + 1]->appended <= gone_at(item));
	}
}

static void find_ends(struct expunges *expunges)
{
	for (size_t i = expunges->count; i-- > 0;) {
		const struct merge_item *item = expunges->list[i];

		expunges->end[i] = i;
		if (same_guid(expunges, i + 1, &item->guid128) &&
		    handed_over(item, expunges->list[i + 1]))
			expunges->end[i] = expunges->end[i + 1];
	}
}

/* Into a zeroed list. */
static int expunges_list(const struct merge_work *work, int number, struct expunges *expunges_r)
{
	const struct merge_side *side = work->side[number];
	const uint32_t above_uid = work->in->common_uid;
	size_t count = 0;

	for (size_t i = 0; i < side->item_count; i++)
		count += side->items[i].type == 'e';
	if (count == 0)
		return 0;
	expunges_r->list = calloc(count, sizeof(const struct merge_item *));
	expunges_r->used = calloc(count, sizeof(*expunges_r->used));
	expunges_r->answered = calloc(count, sizeof(*expunges_r->answered));
	expunges_r->end = calloc(count, sizeof(*expunges_r->end));
	if (expunges_r->list == NULL || expunges_r->used == NULL || expunges_r->answered == NULL ||
	    expunges_r->end == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < side->item_count; i++) {
		const struct merge_item *item = &side->items[i];

		if (item->type == 'e' && item->uid > above_uid && item->has_guid128)
			expunges_r->list[expunges_r->count++] = item;
	}
	qsort(expunges_r->list, expunges_r->count, sizeof(const struct merge_item *), expunge_cmp);
	use_needless(work, number, expunges_r);
	find_ends(expunges_r);
	return 0;
}

static void expunges_free(struct expunges *expunges)
{
	free(expunges->list);
	free(expunges->used);
	free(expunges->answered);
	free(expunges->end);
}

/* The first of that GUID, or of what follows. */
static size_t expunges_find(const struct expunges *expunges, const struct guid *guid)
{
	size_t low = 0, high = expunges->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (guid_cmp(&expunges->list[mid]->guid128, guid) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

/* Where the log no longer tells of x's arrival only its last change is known. */
static bool came_after(const struct merge_item *x, const struct merge_item *expunge)
{
	uint64_t came = x->appended != 0 ? x->appended : x->flags.modseq;

	return expunge->uid < x->uid && gone_at(expunge) < came;
}

/* What both sides' logs tell of one UID is one removal, though one of them may have taken it for a
 * change of the UID: x came again after that. */
static void answer_the_same(struct expunges *there, struct expunges *own, const struct guid *guid,
			    const struct merge_item *x)
{
	size_t k = expunges_find(own, guid);

	for (size_t i = expunges_find(there, guid); same_guid(there, i, guid); i++) {
		while (same_guid(own, k, guid) && own->list[k]->uid < there->list[i]->uid)
			k++;
		if (!same_guid(own, k, guid))
			return;
		if (own->list[k]->uid == there->list[i]->uid && !there->used[i] &&
		    !own->answered[k] && came_after(x, own->list[own->end[k]]))
			there->used[i] = own->answered[k] = true;
	}
}

/* Takes one of x's GUID that x came after. One that was renumbered did not go, also where that
 * happens time after time since sessions break off. */
static bool expunges_answer(struct expunges *expunges, const struct guid *guid,
			    const struct merge_item *x)
{
	for (size_t i = expunges_find(expunges, guid); same_guid(expunges, i, guid); i++) {
		if (expunges->answered[i] || expunges->end[i] != i ||
		    !came_after(x, expunges->list[i]))
			continue;
		expunges->answered[i] = true;
		return true;
	}
	return false;
}

/*
 * x: a message that the other side does not have, where the other side expunged this GUID under
 * another UID, which this side does not have (any more): they are the same message, carried over or
 * renumbered here in a session that broke off. Only one that is news counts, else an old record
 * would take a message that came back to the mailbox. Where this side has expunged it, too, and x
 * has come since, x is another: a message that is moved to and fro on both sides would be lost.
 */
static bool expunged_elsewhere(const struct inst *x, struct expunges *there, struct expunges *own)
{
	struct guid guid;

	if (there->count == 0)
		return false;
	guid_from_message_guid(x->item->guid, &guid);
	answer_the_same(there, own, &guid, x->item);
	for (size_t i = expunges_find(there, &guid);
	     i < there->count && guid_equal(&there->list[i]->guid128, &guid); i++) {
		/* Each record is looked at for one message. */
		if (there->used[i])
			continue;
		there->used[i] = true;
		if (!expunges_answer(own, &guid, x->item))
			return true;
	}
	return false;
}

static void pair_group(struct merge_work *work, struct inst **a, size_t a_count, struct inst **b,
		       size_t b_count, struct expunges there[2])
{
	link_moved(a, a_count, b, b_count);
	link_moved(b, b_count, a, a_count);
	link_rest(a, a_count, b, b_count);
	for (size_t i = 0; i < a_count + b_count; i++) {
		struct inst *x = i < a_count ? a[i] : b[i - a_count];

		if (x->link != NULL) {
			/* Moved there, and expunged here under the new UID. */
			x->gone = x->expunged_there && x->link->expunged_there;
		} else if (x->expunged_there) {
			x->gone = true;
		} else if (a_count == 0 || b_count == 0) {
			x->gone = expunged_elsewhere(x, &there[x->side], &there[1 - x->side]);
		}
	}
}

int merge_pair(struct merge_work *work)
{
	struct insts *a = &work->insts[0], *b = &work->insts[1];
	struct expunges there[2] = {{0}};
	struct inst **rest;
	size_t count = 0, end, split;
	int ret = 0;

	pair_exact(a, b);
	if (work->in->mode == MERGE_DSYNCFS || work->in->mode == MERGE_ONCE) {
		mark_expunged(work, a, work->side[1]);
		mark_expunged(work, b, work->side[0]);
	}
	rest = calloc(a->count + b->count + 1, sizeof(struct inst *));
	if (rest == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < a->count; i++) {
		if (!a->list[i].exact)
			rest[count++] = &a->list[i];
	}
	for (size_t i = 0; i < b->count; i++) {
		if (!b->list[i].exact)
			rest[count++] = &b->list[i];
	}
	qsort(rest, count, sizeof(struct inst *), inst_cmp);
	if (count > 0 && work->in->mode == MERGE_DSYNCFS) {
		ret = expunges_list(work, 1, &there[0]);
		if (ret == 0)
			ret = expunges_list(work, 0, &there[1]);
	}
	for (size_t i = 0; ret == 0 && i < count; i = end) {
		for (end = i; end < count && strcmp(rest[end]->key, rest[i]->key) == 0; end++)
			;
		for (split = i; split < end && rest[split]->side == 0; split++)
			;
		pair_group(work, rest + i, split - i, rest + split, end - split, there);
	}
	expunges_free(&there[0]);
	expunges_free(&there[1]);
	free(rest);
	return ret;
}

/* Whether the instance can keep its UID: the other side cannot have given it away. */
static bool uid_usable(const struct merge_work *work, const struct inst *inst)
{
	return inst->exact ||
	       (!inst->expunged_there && inst->item->uid >= work->side[1 - inst->side]->uid_next);
}

static int assign_uid(struct merge_work *work, struct inst *inst)
{
	uint32_t uid;

	if (inst->final_uid != 0)
		return 0;
	if (uid_usable(work, inst)) {
		uid = inst->item->uid;
	} else if (inst->link != NULL && uid_usable(work, inst->link)) {
		uid = inst->link->item->uid;
	} else {
		if (work->next == UINT32_MAX)
			return error_set(work->err, -EOVERFLOW, "no UIDs are left");
		uid = work->next++;
	}
	inst->final_uid = uid;
	if (inst->link != NULL)
		inst->link->final_uid = uid;
	return 0;
}

static bool head_is_first(const struct inst *x, const struct inst *y)
{
	int ret = strcmp(x->key, y->key);

	return ret < 0 || (ret == 0 && x->item->uid <= y->item->uid);
}

int merge_assign_uids(struct merge_work *work)
{
	struct insts *a = &work->insts[0], *b = &work->insts[1];
	size_t i = 0, j = 0;
	int ret;

	for (;;) {
		struct inst *inst;

		while (i < a->count && a->list[i].gone)
			i++;
		while (j < b->count && b->list[j].gone)
			j++;
		if (i == a->count && j == b->count)
			return 0;
		/* What both have under one UID is one entry: it is passed on both sides at once. */
		if (i < a->count && j < b->count && a->list[i].exact &&
		    a->list[i].link == &b->list[j]) {
			inst = &a->list[i++];
			j++;
		} else if (j == b->count ||
			   (i < a->count && head_is_first(&a->list[i], &b->list[j]))) {
			inst = &a->list[i++];
		} else {
			inst = &b->list[j++];
		}
		ret = assign_uid(work, inst);
		if (ret < 0)
			return ret;
	}
}

int merge_both_flags(struct merge_work *work, struct merged *m)
{
	struct merge_flags_result result;
	int ret;

	ret = merge_flags(MERGE_MASTER, &m->item[0]->flags, &m->item[1]->flags, &result);
	if (ret < 0)
		return ret;
	m->flags = result.flags;
	m->keywords = result.keywords;
	m->differs[0] = result.own_changed;
	m->differs[1] = result.peer_changed;
	return merge_work_keep(work, result.allocated);
}

static int add_inst(struct merge_work *work, const struct inst *inst)
{
	struct merged *m = merge_work_add(work);

	if (m == NULL)
		return -ENOMEM;
	m->item[inst->side] = inst->item;
	m->uid[inst->side] = inst->item->uid;
	m->guid = inst->item->guid;
	m->gone = inst->gone;
	m->final_uid = inst->final_uid;
	m->flags = inst->item->flags.final & MAIL_FLAGS_MASK;
	m->keywords = inst->item->flags.final_keywords;
	if (inst->link == NULL)
		return 0;
	m->item[1 - inst->side] = inst->link->item;
	m->uid[1 - inst->side] = inst->link->item->uid;
	return m->gone ? 0 : merge_both_flags(work, m);
}

int merge_add_insts(struct merge_work *work)
{
	int ret;

	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < work->insts[side].count; i++) {
			const struct inst *inst = &work->insts[side].list[i];

			/* Linked ones come with the first side. */
			if (side == 1 && inst->link != NULL)
				continue;
			ret = add_inst(work, inst);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}
