/*
 * MERGE_ONCE: what the peer has comes here, and nothing of the own mailbox is undone (dsync's -1).
 *
 * Own messages keep their UIDs, whatever the peer has under them: it stays as it is and would meet
 * the same clash each time. The peer's keep theirs where they are free. Flags merge as in both
 * ways, and what the peer's log shows as expunged goes.
 */
#include "sync/merge_mailbox_private.h"

#include <errno.h>
#include <stdlib.h>

static int add_own(struct merge_work *work, const struct inst *inst)
{
	const struct merge_item *own = inst->item;
	const struct merge_item *peer = inst->link != NULL ? inst->link->item : NULL;
	struct merged *m = merge_work_add(work);

	if (m == NULL)
		return -ENOMEM;
	m->item[work->own] = own;
	m->uid[work->own] = m->final_uid = own->uid;
	m->guid = own->guid;
	/* Also one that was moved there to another UID: it is here already. */
	m->gone = inst->gone || (inst->expunged_there && peer == NULL);
	m->flags = own->flags.final & MAIL_FLAGS_MASK;
	m->keywords = own->flags.final_keywords;
	m->modseq = own->flags.modseq;
	if (peer == NULL || m->gone)
		return 0;
	m->item[work->other] = peer;
	m->uid[work->other] = peer->uid;
	if (m->modseq < peer->flags.modseq)
		m->modseq = peer->flags.modseq;
	return merge_both_flags(work, m);
}

/* What was expunged here, under whatever UID: the peer is not told, so it goes on listing it. */
struct expunged {
	struct guid *list;
	size_t count;
};

static int guid_order(const void *a, const void *b)
{
	return guid_cmp(a, b);
}

/* -ENOMEM */
static int list_expunged(const struct merge_side *own, struct expunged *expunged)
{
	expunged->list = calloc(own->item_count + 1, sizeof(*expunged->list));
	if (expunged->list == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < own->item_count; i++) {
		if (own->items[i].type == 'e' && own->items[i].has_guid128)
			expunged->list[expunged->count++] = own->items[i].guid128;
	}
	qsort(expunged->list, expunged->count, sizeof(*expunged->list), guid_order);
	return 0;
}

static bool was_expunged(const struct expunged *expunged, const struct merge_item *peer)
{
	struct guid guid;

	guid_from_message_guid(peer->guid, &guid);
	return bsearch(&guid, expunged->list, expunged->count, sizeof(guid), guid_order) != NULL;
}

static int add_peers(struct merge_work *work, const struct inst *inst,
		     const struct expunged *expunged)
{
	const struct merge_item *peer = inst->item;
	struct merged *m;

	if (inst->link != NULL || inst->gone || was_expunged(expunged, peer))
		return 0;
	m = merge_work_add(work);
	if (m == NULL)
		return -ENOMEM;
	m->item[work->other] = peer;
	m->uid[work->other] = peer->uid;
	m->guid = peer->guid;
	m->flags = peer->flags.final & MAIL_FLAGS_MASK;
	m->keywords = peer->flags.final_keywords;
	m->modseq = peer->flags.modseq;
	if (peer->uid >= work->in->own.uid_next) {
		m->final_uid = peer->uid;
		return 0;
	}
	if (work->next == UINT32_MAX)
		return error_set(work->err, -EOVERFLOW, "no UIDs are left");
	m->final_uid = work->next++;
	return 0;
}

int merge_once(struct merge_work *work)
{
	const struct merge_mailbox_input *in = work->in;
	const struct insts *own = &work->insts[work->own], *peer = &work->insts[work->other];
	struct expunged expunged = {.list = NULL};
	int ret = list_expunged(&in->own, &expunged);

	if (ret == 0)
		ret = merge_work_list_insts(work, 0, 0);

	if (ret == 0)
		ret = merge_work_list_insts(work, 1, 0);
	if (ret == 0)
		ret = merge_pair(work);
	for (size_t i = 0; i < own->count && ret == 0; i++)
		ret = add_own(work, &own->list[i]);
	for (size_t i = 0; i < peer->count && ret == 0; i++)
		ret = add_peers(work, &peer->list[i], &expunged);
	free(expunged.list);
	work->plan->common_uid = work->next - 1;
	work->plan->highest_modseq = in->peer.highest_modseq > in->own.highest_modseq
					     ? in->peer.highest_modseq
					     : in->own.highest_modseq;
	return ret;
}
