/*
 * MERGE_DSYNCFS: UIDs that are gone for clients of either side.
 *
 * A client with QRESYNC asks for what happened above the MODSEQ that it knows, of whichever node it
 * was on last. So each side's log has to tell of an expunge above every MODSEQ that a client had
 * while it saw the message: also where the message was expunged before the merge, at a MODSEQ that
 * is below the other side's, and where it never was. Such UIDs are buried: their expunge is told,
 * or told once more, at the final HIGHESTMODSEQ, which no client has seen.
 *
 * That is for clients. It is no evidence of an expunge: a log that tells of one again names the
 * same message, and one that tells of it for the first time names none.
 */
#include "sync/merge_mailbox_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static struct burial *add(struct merge_work *work, uint32_t uid)
{
	struct burials *burials = &work->burials;

	if (burials->count == burials->size) {
		size_t size = burials->size == 0 ? 64 : burials->size * 2;
		struct burial *list = realloc(burials->list, size * sizeof(*list));

		if (list == NULL)
			return NULL;
		burials->list = list;
		burials->size = size;
	}
	struct burial *burial = &burials->list[burials->count++];
	*burial = (struct burial){.uid = uid};
	return burial;
}

static int add_expunges(struct merge_work *work, int side)
{
	const uint64_t heard = merge_heard_modseq(work, side);

	for (size_t i = 0; i < work->side[side]->item_count; i++) {
		const struct merge_item *item = &work->side[side]->items[i];

		if (item->type != 'e' || item->flags.modseq == 0 || item->uid >= work->next)
			continue;
		struct burial *burial = add(work, item->uid);
		if (burial == NULL)
			return -ENOMEM;
		burial->modseq[side] = item->flags.modseq;
		burial->told[side] = true;
		/* The other side may not have heard of it, nor its clients. */
		burial->owed = item->flags.modseq > heard;
		if (item->has_guid128)
			burial->guid[side] = item->guid128;
	}
	return 0;
}

/* UIDs that messages lose now: they go, or get another one. */
static int add_lost(struct merge_work *work)
{
	for (size_t i = 0; i < work->merged_count; i++) {
		const struct merged *m = &work->merged[i];

		for (int side = 0; side < 2; side++) {
			if (m->uid[side] == 0 || m->item[side] == NULL ||
			    (!m->gone && m->uid[side] == m->final_uid))
				continue;
			struct burial *burial = add(work, m->uid[side]);
			if (burial == NULL)
				return -ENOMEM;
			burial->told[side] = burial->owed = true;
			guid_from_message_guid(m->item[side]->guid, &burial->guid[side]);
		}
	}
	return 0;
}

static int burial_cmp(const void *a, const void *b)
{
	const struct burial *x = a, *y = b;

	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

/* One of each UID. */
static void unite(struct burials *burials)
{
	size_t kept = 0;

	if (burials->count > 0)
		qsort(burials->list, burials->count, sizeof(*burials->list), burial_cmp);
	for (size_t i = 0; i < burials->count; i++) {
		const struct burial *burial = &burials->list[i];
		struct burial *last = kept > 0 ? &burials->list[kept - 1] : NULL;

		if (last == NULL || last->uid != burial->uid) {
			burials->list[kept++] = *burial;
			continue;
		}
		for (int side = 0; side < 2; side++) {
			if (!burial->told[side])
				continue;
			last->owed = last->owed || burial->owed;
			last->modseq[side] = burial->modseq[side];
			last->told[side] = true;
			last->guid[side] = burial->guid[side];
		}
	}
	burials->count = kept;
}

static struct burial *find(const struct burials *burials, uint32_t uid)
{
	const struct burial key = {.uid = uid};

	return burials->count == 0 ? NULL
				   : bsearch(&key, burials->list, burials->count,
					     sizeof(*burials->list), burial_cmp);
}

/* Not those of which a message is there afterwards, and not what both logs tell at one MODSEQ, as a
 * merge leaves it. */
static void drop_needless(struct merge_work *work)
{
	struct burials *burials = &work->burials;
	size_t kept = 0;

	for (size_t i = 0; i < work->merged_count; i++) {
		const struct merged *m = &work->merged[i];
		struct burial *burial = m->gone ? NULL : find(burials, m->final_uid);

		if (burial != NULL)
			burial->needless = true;
	}
	for (size_t i = 0; i < burials->count; i++) {
		const struct burial *burial = &burials->list[i];
		bool told = burial->modseq[0] != 0 && burial->modseq[0] == burial->modseq[1];

		if (burial->owed && !burial->needless && !told)
			burials->list[kept++] = *burial;
	}
	burials->count = kept;
}

int merge_list_burials(struct merge_work *work)
{
	int ret = add_expunges(work, 0);

	if (ret == 0)
		ret = add_expunges(work, 1);
	if (ret == 0)
		ret = add_lost(work);
	if (ret < 0)
		return ret;
	unite(&work->burials);
	drop_needless(work);
	return 0;
}

bool merge_must_bury(const struct burial *burial, int side, uint64_t final_modseq)
{
	return burial->modseq[side] != final_modseq;
}

bool merge_buries(const struct merge_work *work, int side, uint64_t final_modseq)
{
	for (size_t i = 0; i < work->burials.count; i++) {
		if (merge_must_bury(&work->burials.list[i], side, final_modseq))
			return true;
	}
	return false;
}

int merge_add_burial_actions(struct merge_work *work)
{
	struct merge_mailbox_plan *plan = work->plan;
	size_t expunges = plan->action_count, next = plan->expunge_start;

	/* Expunges and burials ascend. */
	for (size_t i = 0; i < work->burials.count; i++) {
		const struct burial *burial = &work->burials.list[i];

		while (next < expunges && plan->actions[next].uid < burial->uid)
			next++;
		if ((next < expunges && plan->actions[next].uid == burial->uid) ||
		    !merge_must_bury(burial, work->own, plan->expunge_modseq))
			continue;
		plan->actions[plan->action_count++] = (struct merge_action){
			.kind = MERGE_BURY,
			.uid = burial->uid,
			.told = burial->told[work->own],
			.guid128 = burial->guid[work->own],
		};
		plan->burials++;
	}
	return 0;
}
