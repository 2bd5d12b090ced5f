/*
 * MERGE_DOVECOT: the merged mailbox as a real Dovecot at the other end computes it.
 *
 * With state, 'f' and 'e' up to the common UID are applied and the rest is new. Without, both lists
 * are walked from the first UID for the last one that still matches: below it Dovecot takes what is
 * on one side only for expunged on the other, above it for new. Where the peer's absence must not
 * count (input's absence_counts), what Dovecot's rule would remove or refuse here gets a UID above
 * everything this session gives out, so that the next session carries it over as new.
 */
#include "sync/merge_mailbox_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct walk {
	const struct merge_item **maybe_expunge, **maybe_save;
	size_t maybe_expunge_count, maybe_save_count;
	uint32_t common_uid;
	size_t found_at; /* index of the peer's item where the walk ended */
};

static void walk_free(struct walk *walk)
{
	free(walk->maybe_expunge);
	free(walk->maybe_save);
}

static struct merged *add_own(struct merge_work *work, const struct merge_item *own)
{
	struct merged *m = merge_work_add(work);

	if (m == NULL)
		return NULL;
	m->uid[work->own] = own->uid;
	m->final_uid = own->uid;
	m->guid = own->guid;
	m->item[work->own] = own;
	m->flags = own->flags.final & MAIL_FLAGS_MASK;
	m->keywords = own->flags.final_keywords;
	return m;
}

static int add_expunge(struct merge_work *work, const struct merge_item *own)
{
	struct merged *m = add_own(work, own);

	if (m == NULL)
		return -ENOMEM;
	m->gone = true;
	return 0;
}

/* An own message and the peer's item of it. */
static int add_match(struct merge_work *work, const struct merge_item *own,
		     const struct merge_item *peer)
{
	struct merged *m;

	if (peer->type == 'e')
		return add_expunge(work, own);
	m = add_own(work, own);
	if (m == NULL)
		return -ENOMEM;
	m->item[work->other] = peer;
	m->uid[work->other] = peer->uid;
	return merge_both_flags(work, m);
}

/* An 'f' or 'e' of the peer up to the common UID. */
static int apply_change(struct merge_work *work, const struct merge_item *peer)
{
	const struct merge_mailbox_input *in = work->in;
	const struct merge_item *own =
		merge_items_find(in->own.items, in->own.item_count, peer->uid);
	const char *own_key, *peer_key;

	if (own == NULL)
		own = merge_items_find(in->found, in->found_count, peer->uid);
	if (own == NULL) {
		/* Missing here without a record of an expunge: only a run without state can tell.
		 */
		if (peer->type == 'f' && !in->absence_counts)
			work->plan->need_full = true;
		return 0;
	}
	if (own->type == 'e')
		return 0;
	if (peer->type == 'e') {
		if (peer->has_guid128 && own->guid != NULL && !merge_item_names(peer, own->guid)) {
			work->plan->need_full = true;
			return 0;
		}
		return add_expunge(work, own);
	}
	if (merge_work_key(work, own, &own_key) < 0 || merge_work_key(work, peer, &peer_key) < 0)
		return -ENOMEM;
	if (own_key != NULL && peer_key != NULL && strcmp(own_key, peer_key) != 0) {
		work->plan->need_full = true;
		return 0;
	}
	return add_match(work, own, peer);
}

enum log_says { LOG_NOTHING, LOG_SAME, LOG_OTHER };

/* What the own log tells about an expunge of this UID. */
static enum log_says ask_log(const struct merge_work *work, const struct merge_item *peer)
{
	const struct merge_side *own = &work->in->own;
	const struct merge_item *item = merge_items_find(own->items, own->item_count, peer->uid);

	if (item == NULL || item->type != 'e' || !item->has_guid128)
		return LOG_NOTHING;
	if (peer->type == 'e') {
		if (!peer->has_guid128)
			return LOG_NOTHING;
		return guid_equal(&item->guid128, &peer->guid128) ? LOG_SAME : LOG_OTHER;
	}
	if (peer->guid == NULL || peer->guid[0] == '\0')
		return LOG_NOTHING;
	return merge_item_names(item, peer->guid) ? LOG_SAME : LOG_OTHER;
}

/* Both have a message under this UID. Returns true when the walk ends here. */
static int match_same_uid(struct merge_work *work, struct walk *walk, const struct merge_item *own,
			  const struct merge_item *peer, bool *end_r)
{
	const char *own_key, *peer_key;
	bool match;

	*end_r = false;
	if (peer->type == 'e') {
		if (!peer->has_guid128 || own->guid == NULL || own->guid[0] == '\0') {
			walk->maybe_expunge[walk->maybe_expunge_count++] = own;
			return 0;
		}
		match = merge_item_names(peer, own->guid);
	} else {
		if (merge_work_key(work, own, &own_key) < 0 ||
		    merge_work_key(work, peer, &peer_key) < 0)
			return -ENOMEM;
		if (own_key == NULL || peer_key == NULL)
			return 0; /* undecided */
		match = strcmp(own_key, peer_key) == 0;
	}
	if (!match) {
		*end_r = true;
		return 0;
	}
	walk->common_uid = peer->uid;
	return add_match(work, own, peer);
}

static const struct merge_item *next_message(const struct merge_side *side, size_t *pos)
{
	while (*pos < side->item_count && side->items[*pos].type == 'e')
		(*pos)++;
	return *pos < side->item_count ? &side->items[*pos] : NULL;
}

static int walk_lists(struct merge_work *work, struct walk *walk)
{
	const struct merge_side *own = &work->in->own, *peer = &work->in->peer;
	size_t cursor = 0;
	bool end = false;
	int ret = 0;

	walk->maybe_expunge = calloc(own->item_count + 1, sizeof(const struct merge_item *));
	walk->maybe_save = calloc(peer->item_count + 1, sizeof(const struct merge_item *));
	if (walk->maybe_expunge == NULL || walk->maybe_save == NULL)
		return -ENOMEM;
	for (walk->found_at = 0; walk->found_at < peer->item_count; walk->found_at++) {
		const struct merge_item *item = &peer->items[walk->found_at];
		const struct merge_item *local;
		enum log_says log;

		while ((local = next_message(own, &cursor)) != NULL && local->uid < item->uid) {
			walk->maybe_expunge[walk->maybe_expunge_count++] = local;
			cursor++;
		}
		if (local != NULL && local->uid == item->uid) {
			ret = match_same_uid(work, walk, local, item, &end);
			if (ret < 0 || end)
				return ret;
			cursor++;
			continue;
		}
		if (local == NULL && item->type == 'e')
			continue;
		if (local == NULL && item->uid >= own->uid_next)
			return 0;
		log = ask_log(work, item);
		/* Behind the last own message another one's expunge ends the walk; before it, two
		 * that were expunged under one UID say nothing about those that follow. */
		if (log == LOG_SAME)
			walk->common_uid = item->uid;
		else if (local == NULL)
			return 0;
		else if (item->type == 's')
			walk->maybe_save[walk->maybe_save_count++] = item;
	}
	return 0;
}

/* Messages that Dovecot's rule drops although nothing says that they were expunged. They get their
 * UIDs after everything else. */
struct put_back {
	const struct merge_item **own, **peer;
	size_t own_count, peer_count;
};

static int settle_maybes(struct merge_work *work, struct walk *walk, struct put_back *back)
{
	const struct merge_side *peer = &work->in->peer;
	size_t kept = 0;

	for (size_t i = 0; i < walk->maybe_expunge_count; i++) {
		const struct merge_item *own = walk->maybe_expunge[i];
		const struct merge_item *item =
			merge_items_find(peer->items, peer->item_count, own->uid);

		if (own->uid > walk->common_uid)
			continue;
		if (work->in->absence_counts || (item != NULL && item->type == 'e')) {
			if (add_expunge(work, own) < 0)
				return -ENOMEM;
		} else {
			back->own[back->own_count++] = own;
		}
	}
	for (size_t i = 0; i < walk->maybe_save_count; i++) {
		const struct merge_item *item = walk->maybe_save[i];
		const struct merge_item *own =
			merge_items_find(work->in->own.items, work->in->own.item_count, item->uid);
		bool expunged = own != NULL && own->type == 'e' && ask_log(work, item) != LOG_OTHER;

		if (item->uid > walk->common_uid)
			walk->maybe_save[kept++] = item;
		else if (!work->in->absence_counts && !expunged)
			back->peer[back->peer_count++] = item;
	}
	walk->maybe_save_count = kept;
	return 0;
}

static int list_peer_news(struct merge_work *work, const struct walk *walk)
{
	const struct merge_side *peer = &work->in->peer;
	struct insts *insts = &work->insts[work->other];
	size_t max = walk->maybe_save_count + (peer->item_count - walk->found_at);

	insts->list = calloc(max + 1, sizeof(*insts->list));
	if (insts->list == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < max; i++) {
		size_t after = walk->found_at + i - walk->maybe_save_count;
		const struct merge_item *item =
			i < walk->maybe_save_count ? walk->maybe_save[i] : &peer->items[after];
		struct inst *inst = &insts->list[insts->count];

		if (item->type != 's')
			continue;
		inst->item = item;
		inst->side = work->other;
		if (merge_work_key(work, item, &inst->key) < 0)
			return -ENOMEM;
		if (inst->key == NULL)
			return error_set(work->err, -EINVAL,
					 "the peer's message uid=%u has nothing to identify it by",
					 item->uid);
		insts->count++;
	}
	return 0;
}

static int put_back(struct merge_work *work, const struct put_back *back)
{
	for (size_t i = 0; i < back->own_count + back->peer_count; i++) {
		bool own = i < back->own_count;
		const struct merge_item *item =
			own ? back->own[i] : back->peer[i - back->own_count];
		struct merged *m = add_own(work, item);

		if (m == NULL)
			return -ENOMEM;
		if (work->next == UINT32_MAX)
			return error_set(work->err, -EOVERFLOW, "no UIDs are left");
		if (!own) {
			m->uid[work->own] = 0;
			m->item[work->own] = NULL;
			m->uid[work->other] = item->uid;
			m->item[work->other] = item;
		}
		m->final_uid = work->next++;
		work->plan->run_again = true;
	}
	return 0;
}

/* A message gets at least the peer's MODSEQ; one the peer will change, one above all of the peer's.
 */
static void set_modseqs(struct merge_work *work)
{
	const struct merge_mailbox_input *in = work->in;

	for (size_t i = 0; i < work->merged_count; i++) {
		struct merged *m = &work->merged[i];
		const struct merge_item *own = m->item[work->own], *peer = m->item[work->other];

		if (own != NULL)
			m->modseq = own->flags.modseq;
		if (peer != NULL && m->modseq < peer->flags.modseq)
			m->modseq = peer->flags.modseq;
		if (own != NULL && peer != NULL && m->differs[work->other] &&
		    m->modseq <= in->peer.highest_modseq)
			m->modseq = in->peer.highest_modseq + 1;
	}
	work->plan->highest_modseq = in->own.highest_modseq > in->peer.highest_modseq
					     ? in->own.highest_modseq
					     : in->peer.highest_modseq;
}

static int merge_walked(struct merge_work *work, struct walk *walk, struct put_back *back)
{
	const struct merge_side *peer = &work->in->peer;
	int ret = 0;

	if (work->in->stateful) {
		walk->common_uid = work->in->common_uid;
		for (; ret == 0 && walk->found_at < peer->item_count &&
		       peer->items[walk->found_at].uid <= walk->common_uid;
		     walk->found_at++)
			ret = apply_change(work, &peer->items[walk->found_at]);
	} else {
		ret = walk_lists(work, walk);
	}
	if (ret < 0 || work->plan->need_full)
		return ret;
	back->own = calloc(walk->maybe_expunge_count + 1, sizeof(const struct merge_item *));
	back->peer = calloc(walk->maybe_save_count + 1, sizeof(const struct merge_item *));
	if (back->own == NULL || back->peer == NULL)
		return -ENOMEM;
	ret = settle_maybes(work, walk, back);
	if (ret == 0)
		ret = merge_work_list_insts(work, work->own, walk->common_uid);
	if (ret == 0)
		ret = list_peer_news(work, walk);
	if (ret == 0)
		ret = merge_pair(work);
	if (ret == 0)
		ret = merge_assign_uids(work);
	if (ret == 0)
		ret = merge_add_insts(work);
	work->plan->common_uid = work->next - 1;
	if (ret == 0)
		ret = put_back(work, back);
	set_modseqs(work);
	return ret;
}

int merge_dovecot(struct merge_work *work)
{
	struct walk walk = {0};
	struct put_back back = {0};
	int ret = merge_walked(work, &walk, &back);

	walk_free(&walk);
	free(back.own);
	free(back.peer);
	return ret;
}
