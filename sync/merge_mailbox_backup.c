/*
 * MERGE_BACKUP: the own mailbox becomes what the peer's is, with its UIDs, flags and keywords. What
 * is only here goes.
 *
 * UIDs ascend, so a message can only come at or above the own UIDNEXT. Where the peer has one below
 * it that is not here under that UID, or where the own UIDNEXT is above the peer's, the mailbox
 * cannot get there: the plan says need_new, and nothing else in it counts.
 */
#include "sync/merge_mailbox_private.h"

#include <errno.h>

static bool has_peers_flags(const struct merge_item *own, const struct merge_item *peer)
{
	return ((own->flags.final ^ peer->flags.final) & MAIL_FLAGS_MASK) == 0 &&
	       keyword_set_equal(own->flags.final_keywords, peer->flags.final_keywords);
}

/* One of the peer's messages: here already, here under another UID, or to come. */
static int add_peers(struct merge_work *work, const struct inst *inst)
{
	const struct merge_item *peer = inst->item;
	const struct merge_item *own = inst->link != NULL ? inst->link->item : NULL;
	struct merged *m;

	if (!inst->exact && peer->uid < work->in->own.uid_next) {
		work->plan->need_new = true;
		work->plan->conflict_uid = peer->uid;
		return 0;
	}
	m = merge_work_add(work);
	if (m == NULL)
		return -ENOMEM;
	m->item[work->other] = peer;
	m->uid[work->other] = peer->uid;
	m->final_uid = peer->uid;
	m->guid = peer->guid;
	m->flags = peer->flags.final & MAIL_FLAGS_MASK;
	m->keywords = peer->flags.final_keywords;
	m->modseq = peer->flags.modseq;
	if (own != NULL) {
		m->item[work->own] = own;
		m->uid[work->own] = own->uid;
		m->differs[work->own] = !has_peers_flags(own, peer);
	}
	return 0;
}

static int add_only_here(struct merge_work *work, const struct inst *inst)
{
	struct merged *m = merge_work_add(work);

	if (m == NULL)
		return -ENOMEM;
	m->item[work->own] = inst->item;
	m->uid[work->own] = inst->item->uid;
	m->guid = inst->item->guid;
	m->gone = true;
	return 0;
}

static int list_both(struct merge_work *work)
{
	const struct insts *own = &work->insts[work->own], *peer = &work->insts[work->other];
	int ret = 0;

	for (size_t i = 0; i < peer->count && ret == 0 && !work->plan->need_new; i++)
		ret = add_peers(work, &peer->list[i]);
	for (size_t i = 0; i < own->count && ret == 0; i++) {
		if (own->list[i].link == NULL)
			ret = add_only_here(work, &own->list[i]);
	}
	return ret;
}

int merge_backup(struct merge_work *work)
{
	const struct merge_mailbox_input *in = work->in;
	struct merge_mailbox_plan *plan = work->plan;
	int ret = merge_work_list_insts(work, 0, 0);

	if (ret == 0)
		ret = merge_work_list_insts(work, 1, 0);
	if (ret == 0)
		ret = merge_pair(work);
	if (ret < 0)
		return ret;
	plan->need_new = in->own.uid_next > in->peer.uid_next;
	plan->conflict_uid = plan->need_new ? in->peer.uid_next : 0;
	plan->common_uid = in->peer.uid_next - 1;
	plan->highest_modseq = in->peer.highest_modseq > in->own.highest_modseq
				       ? in->peer.highest_modseq
				       : in->own.highest_modseq;
	work->next = in->peer.uid_next;
	return plan->need_new ? 0 : list_both(work);
}
