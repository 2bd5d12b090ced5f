/*
 * The mailbox merge: checks both lists, runs the mode, and turns the merged mailbox into the own
 * side's actions in an order in which the store can do them. See merge_mailbox_private.h for the
 * parts.
 */
#include "sync/merge_mailbox_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A mailbox has as many keywords; a list that says more is not one of a mailbox. */
#define KEYWORDS_MAX 1024

struct merge_pool {
	void **list;
	size_t count, size;
};

int merge_work_keep(struct merge_work *work, void *allocated)
{
	struct merge_pool *pool = work->plan->pool;

	if (allocated == NULL)
		return 0;
	if (pool->count == pool->size) {
		size_t size = pool->size == 0 ? 64 : pool->size * 2;
		void **list = realloc(pool->list, size * sizeof(void *));

		if (list == NULL) {
			free(allocated);
			return -ENOMEM;
		}
		pool->list = list;
		pool->size = size;
	}
	pool->list[pool->count++] = allocated;
	return 0;
}

struct merged *merge_work_add(struct merge_work *work)
{
	struct merged *m;

	if (work->merged_count == work->merged_size) {
		size_t size = work->merged_size == 0 ? 64 : work->merged_size * 2;
		struct merged *list = realloc(work->merged, size * sizeof(*list));

		if (list == NULL)
			return NULL;
		work->merged = list;
		work->merged_size = size;
	}
	m = &work->merged[work->merged_count++];
	memset(m, 0, sizeof(*m));
	return m;
}

int merge_work_key(struct merge_work *work, const struct merge_item *item, const char **key_r)
{
	struct guid guid;
	char *hex;

	*key_r = work->by_guid ? item->guid : item->hdr_hash;
	if (*key_r != NULL && (*key_r)[0] == '\0')
		*key_r = NULL;
	if (*key_r == NULL || !work->by_guid ||
	    (!work->side[0]->have_only_guid128 && !work->side[1]->have_only_guid128))
		return 0;
	hex = malloc(GUID_HEX_SIZE);
	if (hex == NULL || merge_work_keep(work, hex) < 0)
		return -ENOMEM;
	guid_from_message_guid(item->guid, &guid);
	*key_r = guid_to_hex(&guid, hex);
	return 0;
}

int merge_work_list_insts(struct merge_work *work, int side, uint32_t above_uid)
{
	const struct merge_side *from = work->side[side];
	struct insts *insts = &work->insts[side];
	size_t count = 0;

	for (size_t i = 0; i < from->item_count; i++)
		count += from->items[i].type == 's' && from->items[i].uid > above_uid;
	insts->list = calloc(count + 1, sizeof(*insts->list));
	if (insts->list == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < from->item_count; i++) {
		const struct merge_item *item = &from->items[i];
		struct inst *inst = &insts->list[insts->count];

		if (item->type != 's' || item->uid <= above_uid)
			continue;
		inst->item = item;
		inst->side = side;
		if (merge_work_key(work, item, &inst->key) < 0)
			return -ENOMEM;
		if (inst->key == NULL)
			return error_set(work->err, -EINVAL,
					 "the %s message uid=%u has nothing to identify it by",
					 side == work->own ? "own" : "peer's", item->uid);
		insts->count++;
	}
	return 0;
}

const struct merge_item *merge_items_find(const struct merge_item *items, size_t count,
					  uint32_t uid)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (items[mid].uid == uid)
			return &items[mid];
		if (items[mid].uid < uid)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

uint64_t merge_heard_modseq(const struct merge_work *work, int side)
{
	const struct merge_side *own = work->side[side], *other = work->side[1 - side];

	/* Of a side that lost its state the other knows, unless it has also gone back. */
	if (own->acked_modseq == 0 && own->uid_validity == other->uid_validity &&
	    other->peer_modseq <= own->highest_modseq)
		return other->peer_modseq;
	return own->acked_modseq;
}

bool merge_item_names(const struct merge_item *expunge, const char *guid)
{
	struct guid guid128;

	if (expunge->type != 'e' || !expunge->has_guid128 || guid == NULL || guid[0] == '\0')
		return false;
	guid_from_message_guid(guid, &guid128);
	return guid_equal(&expunge->guid128, &guid128);
}

uint32_t merge_mailbox_common_uid(const struct merge_side *own, uint32_t own_common_uid,
				  const struct merge_side *peer, uint32_t peer_common_uid)
{
	uint32_t uid = own_common_uid < peer_common_uid ? own_common_uid : peer_common_uid;

	if (own->uid_validity != peer->uid_validity)
		return 0;
	/* One of the mailboxes went back behind what both agreed on, or with its state behind what
	 * the other knows of it: what happened since then is in neither list. */
	if (uid >= own->uid_next || uid >= peer->uid_next || own_common_uid >= peer->uid_next ||
	    peer_common_uid >= own->uid_next || own->peer_modseq > peer->highest_modseq ||
	    peer->peer_modseq > own->highest_modseq)
		return 0;
	return uid;
}

/* What is wrong with the item in this list, or NULL. */
static const char *item_fault(const struct merge_mailbox_input *in, const struct merge_side *side,
			      const struct merge_item *item, uint32_t last_uid)
{
	const struct merge_flags *flags = &item->flags;

	if (item->type != 's' && item->type != 'f' && item->type != 'e')
		return "has an unknown type";
	if (item->uid <= last_uid)
		return "is out of order";
	if (flags->modseq > MERGE_MODSEQ_MAX)
		return "has an impossible MODSEQ";
	if (flags->final_keywords.count > KEYWORDS_MAX ||
	    flags->add_keywords.count > KEYWORDS_MAX || flags->remove_keywords.count > KEYWORDS_MAX)
		return "has too many keywords";
	if (item->type == 's' && item->uid <= in->common_uid)
		return "is a new message up to the common UID";
	if (item->type == 'f' && item->uid > in->common_uid)
		return "is a change above the common UID";
	if (item->type != 'e' && item->uid >= side->uid_next)
		return "is not below UIDNEXT";
	if ((in->mode == MERGE_DSYNCFS || in->mode == MERGE_ONCE) && item->type != 'e' &&
	    (item->guid == NULL || item->guid[0] == '\0'))
		return "has no GUID";
	return NULL;
}

static int check_side(const struct merge_mailbox_input *in, const struct merge_side *side,
		      const char *whose, struct error *err)
{
	uint32_t last_uid = 0;

	if (side->uid_next == 0 || side->highest_modseq > MERGE_MODSEQ_MAX)
		return error_set(err, -EINVAL, "%s mailbox has an impossible %s", whose,
				 side->uid_next == 0 ? "UIDNEXT" : "HIGHESTMODSEQ");
	for (size_t i = 0; i < side->item_count; i++) {
		const struct merge_item *item = &side->items[i];
		const char *fault = item_fault(in, side, item, last_uid);

		if (fault != NULL)
			return error_set(err, -EINVAL, "%s change list: the item uid=%u %s", whose,
					 item->uid, fault);
		last_uid = item->uid;
	}
	return 0;
}

/* The own message that the action is about, as it was listed or found. */
static const struct merge_item *own_item(const struct merge_work *work, const struct merged *m)
{
	if (m->item[work->own] != NULL)
		return m->item[work->own];
	if (m->uid[work->own] == 0)
		return NULL;
	return merge_items_find(work->in->found, work->in->found_count, m->uid[work->own]);
}

static struct merge_action *add_action(struct merge_work *work, enum merge_action_kind kind,
				       const struct merged *m)
{
	struct merge_mailbox_plan *plan = work->plan;
	struct merge_action *action = &plan->actions[plan->action_count++];

	*action = (struct merge_action){
		.kind = kind,
		.uid = m->uid[work->own],
		.peer_uid = m->uid[work->other],
		.guid = m->guid,
		.flags = m->flags,
		.keywords = m->keywords,
		.modseq = m->modseq,
		.own = own_item(work, m),
		.peer = m->item[work->other],
	};
	return action;
}

static void add_flag_action(struct merge_work *work, const struct merged *m)
{
	const struct merge_item *own = own_item(work, m);
	bool changes = m->differs[work->own], moves;
	struct merge_action *action;

	if (own == NULL)
		return;
	/* What the peer changed may be here already. */
	if (changes && m->item[work->own] == NULL &&
	    ((own->flags.final ^ m->flags) & MAIL_FLAGS_MASK) == 0 &&
	    keyword_set_equal(own->flags.final_keywords, m->keywords))
		changes = false;
	moves = m->uid[work->own] != m->final_uid;
	if (!changes && (moves || own->flags.modseq >= m->modseq))
		return;
	action = add_action(work, MERGE_SET_FLAGS, m);
	/* The MODSEQ comes with the new UID. */
	if (moves)
		action->modseq = 0;
	if (changes)
		work->plan->flag_changes++;
	else
		work->plan->touched++;
}

/* By GUID; those that are here before those that have to come, then by UID. */
static int copy_cmp(const struct merged *x, const struct merged *y, int own)
{
	int ret = strcmp(x->guid, y->guid);

	if (ret != 0)
		return ret;
	if ((x->uid[own] != 0) != (y->uid[own] != 0))
		return x->uid[own] != 0 ? -1 : 1;
	return x->final_uid < y->final_uid ? -1 : x->final_uid > y->final_uid;
}

static int copy_cmp_0(const void *a, const void *b)
{
	return copy_cmp(*(struct merged *const *)a, *(struct merged *const *)b, 0);
}

static int copy_cmp_1(const void *a, const void *b)
{
	return copy_cmp(*(struct merged *const *)a, *(struct merged *const *)b, 1);
}

static int new_cmp(const void *a, const void *b)
{
	const struct merge_action *x = a, *y = b;

	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

/* What gets a new UID here: moved, copied from an instance that is here, or requested. */
static void add_new_action(struct merge_work *work, const struct merged *m,
			   const struct merged *source)
{
	struct merge_mailbox_plan *plan = work->plan;
	struct merge_action *action;

	if (m->uid[work->own] != 0) {
		action = add_action(work, MERGE_CHANGE_UID, m);
		action->source_uid = m->uid[work->own];
		plan->uid_changes++;
	} else if (source == NULL || source == m) {
		action = add_action(work, MERGE_APPEND, m);
		plan->appends++;
	} else {
		uint32_t source_uid = source->uid[work->own];

		action = add_action(work, MERGE_COPY, m);
		/* By then it has its new UID, or not yet. */
		if (source_uid == 0 || source->final_uid < m->final_uid)
			source_uid = source->final_uid;
		action->source_uid = source_uid;
		plan->copies++;
	}
	action->uid = m->final_uid;
}

static bool is_new_here(const struct merge_work *work, const struct merged *m)
{
	return !m->gone && m->uid[work->own] != m->final_uid;
}

static int add_new_actions(struct merge_work *work)
{
	struct merge_mailbox_plan *plan = work->plan;
	size_t start = plan->action_count, count = 0, news = 0, end;
	struct merged **list;

	for (size_t i = 0; i < work->merged_count; i++)
		news += is_new_here(work, &work->merged[i]);
	if (news == 0)
		return 0;
	list = calloc(work->merged_count, sizeof(struct merged *));
	if (list == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < work->merged_count; i++) {
		struct merged *m = &work->merged[i];

		if (m->gone)
			continue;
		/* Header hashes do not say that two are copies of one message. */
		if (!work->by_guid || m->guid == NULL) {
			if (is_new_here(work, m))
				add_new_action(work, m, NULL);
			continue;
		}
		list[count++] = m;
	}
	qsort(list, count, sizeof(struct merged *), work->own == 0 ? copy_cmp_0 : copy_cmp_1);
	for (size_t i = 0; i < count; i = end) {
		for (end = i; end < count && strcmp(list[end]->guid, list[i]->guid) == 0; end++) {
			if (is_new_here(work, list[end]))
				add_new_action(work, list[end], list[i]);
		}
	}
	free(list);
	qsort(plan->actions + start, plan->action_count - start, sizeof(*plan->actions), new_cmp);
	return 0;
}

static int make_actions(struct merge_work *work)
{
	struct merge_mailbox_plan *plan = work->plan;
	size_t start;
	int ret;

	/* At most flags and a new UID for each. */
	plan->actions =
		calloc(work->merged_count * 2 + work->burials.count + 1, sizeof(*plan->actions));
	if (plan->actions == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < work->merged_count; i++) {
		const struct merged *m = &work->merged[i];

		if (!m->gone && m->uid[work->own] != 0)
			add_flag_action(work, m);
	}
	qsort(plan->actions, plan->action_count, sizeof(*plan->actions), new_cmp);
	ret = add_new_actions(work);
	if (ret < 0)
		return ret;
	start = plan->expunge_start = plan->action_count;
	for (size_t i = 0; i < work->merged_count; i++) {
		const struct merged *m = &work->merged[i];

		if (!m->gone || own_item(work, m) == NULL)
			continue;
		add_action(work, MERGE_EXPUNGE, m);
		plan->expunges++;
	}
	qsort(plan->actions + start, plan->action_count - start, sizeof(*plan->actions), new_cmp);
	return merge_add_burial_actions(work);
}

/* A message that some client has seen as recent is not recent again under a new UID. */
static uint32_t first_recent_uid(const struct merge_work *work)
{
	uint32_t first = 0;

	for (int side = 0; side < 2; side++) {
		uint32_t here = work->side[side]->first_recent_uid;

		if (here > first)
			first = here;
		if (work->in->mode != MERGE_DSYNCFS)
			continue;
		for (size_t i = 0; i < work->merged_count; i++) {
			const struct merged *m = &work->merged[i];

			if (!m->gone && m->uid[side] != 0 && m->uid[side] < here &&
			    m->uid[side] != m->final_uid && m->final_uid >= first)
				first = m->final_uid + 1;
		}
	}
	return first < work->next ? first : work->next;
}

static void set_numbers(struct merge_work *work)
{
	const struct merge_side *own = &work->in->own, *peer = &work->in->peer;
	struct merge_mailbox_plan *plan = work->plan;

	plan->uid_next = work->next;
	plan->first_recent_uid = first_recent_uid(work);
	plan->adopt_uid_validity =
		own->uid_validity != peer->uid_validity &&
		(work->in->mode == MERGE_BACKUP || peer->messages > own->messages ||
		 (peer->messages == own->messages && peer->uid_validity > own->uid_validity));
	plan->uid_validity = plan->adopt_uid_validity ? peer->uid_validity : own->uid_validity;
}

static int merge_run(struct merge_work *work)
{
	const struct merge_mailbox_input *in = work->in;
	int ret;

	ret = check_side(in, &in->own, "the own", work->err);
	if (ret == 0)
		ret = check_side(in, &in->peer, "the peer's", work->err);
	if (ret < 0)
		return ret;
	if (in->mode == MERGE_DSYNCFS) {
		ret = merge_evidence(work);
		work->plan->common_uid = work->next - 1;
	} else if (in->mode == MERGE_BACKUP) {
		ret = merge_backup(work);
	} else if (in->mode == MERGE_ONCE) {
		ret = merge_once(work);
	} else {
		ret = merge_dovecot(work);
	}
	if (ret < 0 || work->plan->need_full || work->plan->need_new)
		return ret;
	set_numbers(work);
	return make_actions(work);
}

int merge_mailbox(const struct merge_mailbox_input *input, struct merge_mailbox_plan *plan_r,
		  struct error *err)
{
	struct merge_work work = {.in = input, .plan = plan_r, .err = err};
	int ret;

	memset(plan_r, 0, sizeof(*plan_r));
	work.own = input->role == MERGE_MASTER ? 0 : 1;
	work.other = 1 - work.own;
	work.side[work.own] = &input->own;
	work.side[work.other] = &input->peer;
	work.by_guid = input->mode == MERGE_DSYNCFS || input->mode == MERGE_ONCE ||
		       (input->own.have_save_guids &&
			(input->peer.have_save_guids ||
			 (input->mode == MERGE_BACKUP && input->peer.have_guids)));
	work.next = input->own.uid_next > input->peer.uid_next ? input->own.uid_next
							       : input->peer.uid_next;
	plan_r->pool = calloc(1, sizeof(struct merge_pool));
	ret = plan_r->pool == NULL ? -ENOMEM : merge_run(&work);
	free(work.insts[0].list);
	free(work.insts[1].list);
	free(work.merged);
	free(work.burials.list);
	if (ret < 0) {
		merge_mailbox_plan_free(plan_r);
		if (ret == -ENOMEM)
			return error_set(err, ret, "out of memory while merging");
	}
	return ret;
}

void merge_mailbox_plan_free(struct merge_mailbox_plan *plan)
{
	struct merge_pool *pool;

	if (plan == NULL)
		return;
	pool = plan->pool;
	if (pool != NULL) {
		for (size_t i = 0; i < pool->count; i++)
			free(pool->list[i]);
		free(pool->list);
		free(pool);
	}
	free(plan->actions);
	memset(plan, 0, sizeof(*plan));
}
