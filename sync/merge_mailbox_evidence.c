/*
 * MERGE_DSYNCFS: the merged mailbox of two dsyncfs nodes, by evidence only.
 *
 * Up to the common UID both sides had the same messages, so what is not listed is there and
 * unchanged, and 'f' and 'e' are all there is to merge. Above it both list every message and every
 * expunge since they last agreed. A message one side lacks without an expunge of it is put back
 * there.
 */
#include "sync/merge_mailbox_private.h"

#include <errno.h>
#include <string.h>

/* Is what this side has under a UID that both agreed on not what the peer's item means? */
static bool contradicts(const struct merge_item *found, const struct merge_item *peer_item)
{
	/* Already gone is what an 'e' wants; but there are no flags of a missing message to change,
	 * and only a run without state can put it back. */
	if (found == NULL)
		return peer_item->type == 'f';
	if (found->guid == NULL)
		return true;
	if (peer_item->type == 'f')
		return strcmp(found->guid, peer_item->guid) != 0;
	return peer_item->has_guid128 && !merge_item_names(peer_item, found->guid);
}

/* Only one side lists the message: it is at the other as it was. */
static int add_one_sided(struct merge_work *work, int side, const struct merge_item *item)
{
	struct merged *m;
	const struct merge_item *found = NULL;

	if (side == work->other) {
		found = merge_items_find(work->in->found, work->in->found_count, item->uid);
		if (contradicts(found, item)) {
			work->plan->need_full = true;
			return 0;
		}
	}
	m = merge_work_add(work);
	if (m == NULL)
		return -ENOMEM;
	m->final_uid = item->uid;
	m->uid[1 - side] = item->uid;
	if (item->type == 'e') {
		m->gone = true;
		m->guid = found != NULL ? found->guid : NULL;
		return 0;
	}
	m->item[side] = item;
	m->uid[side] = item->uid;
	m->guid = item->guid;
	m->flags = item->flags.final & MAIL_FLAGS_MASK;
	m->keywords = item->flags.final_keywords;
	/* The side that does not list it has no say, so that the other can know the result. */
	m->differs[1 - side] = true;
	return 0;
}

static bool same_message(const struct merge_item *x, const struct merge_item *y)
{
	if (x->type == 'f' && y->type == 'f')
		return strcmp(x->guid, y->guid) == 0;
	/* Whatever they were: where both sides gave the UID away, each took its own away again, and
	 * may tell so once more. */
	if (x->type == 'e' && y->type == 'e')
		return true;
	if (x->type == 'f') {
		const struct merge_item *swap = x;

		x = y;
		y = swap;
	}
	return !x->has_guid128 || merge_item_names(x, y->guid);
}

static int add_two_sided(struct merge_work *work, const struct merge_item *x,
			 const struct merge_item *y)
{
	struct merged *m;

	if (!same_message(x, y)) {
		work->plan->need_full = true;
		return 0;
	}
	if (x->type == 'e' && y->type == 'e')
		return 0;
	m = merge_work_add(work);
	if (m == NULL)
		return -ENOMEM;
	m->final_uid = x->uid;
	m->item[0] = x->type == 'f' ? x : NULL;
	m->item[1] = y->type == 'f' ? y : NULL;
	m->uid[0] = x->type == 'f' ? x->uid : 0;
	m->uid[1] = y->type == 'f' ? y->uid : 0;
	m->guid = x->type == 'f' ? x->guid : y->guid;
	/* An expunge wins over a flag change. */
	m->gone = x->type == 'e' || y->type == 'e';
	return m->gone ? 0 : merge_both_flags(work, m);
}

static int merge_agreed(struct merge_work *work)
{
	const struct merge_side *a = work->side[0], *b = work->side[1];
	const uint32_t limit = work->in->common_uid;
	size_t i = 0, j = 0;
	int ret = 0;

	while (ret == 0 && !work->plan->need_full) {
		const struct merge_item *x = i < a->item_count ? &a->items[i] : NULL;
		const struct merge_item *y = j < b->item_count ? &b->items[j] : NULL;

		if (x != NULL && x->uid > limit)
			x = NULL;
		if (y != NULL && y->uid > limit)
			y = NULL;
		if (x == NULL && y == NULL)
			break;
		if (y == NULL || (x != NULL && x->uid < y->uid)) {
			ret = add_one_sided(work, 0, x);
			i++;
		} else if (x == NULL || y->uid < x->uid) {
			ret = add_one_sided(work, 1, y);
			j++;
		} else {
			ret = add_two_sided(work, x, y);
			i++;
			j++;
		}
	}
	return ret;
}

int merge_evidence(struct merge_work *work)
{
	int ret = merge_agreed(work);

	if (ret < 0 || work->plan->need_full)
		return ret;
	for (int side = 0; side < 2; side++) {
		ret = merge_work_list_insts(work, side, work->in->common_uid);
		if (ret < 0)
			return ret;
	}
	ret = merge_pair(work);
	if (ret == 0)
		ret = merge_assign_uids(work);
	if (ret == 0)
		ret = merge_add_insts(work);
	if (ret == 0)
		ret = merge_list_burials(work);
	return ret == 0 ? merge_modseqs(work) : ret;
}
