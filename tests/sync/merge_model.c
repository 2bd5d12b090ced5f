/* See merge_model.h. */
#include "merge_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *const keyword_names[MODEL_KEYWORDS] = {"$Junk", "$Work", "later", "todo"};

static void *check_alloc(void *ptr)
{
	assert_non_null(ptr);
	return ptr;
}

const char *model_guid(unsigned guid)
{
	static char names[MODEL_GUIDS_MAX][32];

	assert_true(guid < MODEL_GUIDS_MAX);
	/* Not in the order of delivery. */
	if (names[guid][0] == '\0')
		snprintf(names[guid], sizeof(names[guid]), "%03x.M%u", (guid * 2654435761U) >> 20,
			 guid);
	return names[guid];
}

static struct guid guid128(unsigned guid)
{
	static struct guid cache[MODEL_GUIDS_MAX];

	if (guid_is_empty(&cache[guid]))
		guid_from_message_guid(model_guid(guid), &cache[guid]);
	return cache[guid];
}

static struct keyword_set keyword_set(uint8_t bits)
{
	static const char *sets[1 << MODEL_KEYWORDS][MODEL_KEYWORDS];
	unsigned count = 0;

	for (unsigned i = 0; i < MODEL_KEYWORDS; i++) {
		if ((bits & (1U << i)) != 0)
			sets[bits][count++] = keyword_names[i];
	}
	return (struct keyword_set){.names = sets[bits], .count = count};
}

static uint8_t keyword_bits(struct keyword_set set)
{
	uint8_t bits = 0;

	for (unsigned i = 0; i < MODEL_KEYWORDS; i++) {
		if (keyword_set_has(set, keyword_names[i]))
			bits |= (uint8_t)(1U << i);
	}
	return bits;
}

uint32_t model_random(struct model *model, uint32_t below)
{
	model->random ^= model->random << 13;
	model->random ^= model->random >> 17;
	model->random ^= model->random << 5;
	return below == 0 ? 0 : (model->random >> 3) % below;
}

void model_init(struct model *model, enum merge_mode mode, uint32_t seed)
{
	memset(model, 0, sizeof(*model));
	model->mode = mode;
	model->random = seed * 2654435761U + 88172645U;
	if (model->random == 0)
		model->random = 1;
	for (int side = 0; side < 2; side++) {
		model->box[side].uid_validity = 1700000000;
		model->box[side].uid_next = 1;
		model->box[side].first_recent_uid = 1;
		model->box[side].highest_modseq = 1;
	}
}

void model_box_free(struct model_box *box)
{
	free(box->mails);
	free(box->log);
	memset(box, 0, sizeof(*box));
}

void model_free(struct model *model)
{
	model_box_free(&model->box[0]);
	model_box_free(&model->box[1]);
}

void model_box_copy(struct model_box *box_r, const struct model_box *from)
{
	*box_r = *from;
	box_r->mails = check_alloc(calloc(from->count + 1, sizeof(*from->mails)));
	box_r->log = check_alloc(calloc(from->log_count + 1, sizeof(*from->log)));
	if (from->count > 0)
		memcpy(box_r->mails, from->mails, from->count * sizeof(*from->mails));
	if (from->log_count > 0)
		memcpy(box_r->log, from->log, from->log_count * sizeof(*from->log));
}

static struct model_record *add_record(struct model_box *box, const struct model_mail *mail)
{
	struct model_record *record;

	if ((box->log_count & (box->log_count + 1)) == 0 || box->log_count == 0)
		box->log = check_alloc(
			realloc(box->log, (box->log_count * 2 + 2) * sizeof(*box->log)));
	record = &box->log[box->log_count++];
	memset(record, 0, sizeof(*record));
	record->modseq = box->highest_modseq;
	record->uid = mail->uid;
	record->guid = mail->guid;
	return record;
}

static void touch(struct model_box *box, struct model_mail *mail)
{
	if (mail->modseq < box->highest_modseq)
		mail->modseq = box->highest_modseq;
}

struct model_mail *model_find(struct model_box *box, uint32_t uid)
{
	for (size_t i = 0; i < box->count; i++) {
		if (box->mails[i].uid == uid)
			return &box->mails[i];
	}
	return NULL;
}

static struct model_mail *insert(struct model_box *box, uint32_t uid, unsigned guid)
{
	struct model_mail *mail;

	assert_true(uid >= box->uid_next);
	box->mails = check_alloc(realloc(box->mails, (box->count + 1) * sizeof(*box->mails)));
	mail = &box->mails[box->count++];
	memset(mail, 0, sizeof(*mail));
	mail->uid = uid;
	mail->guid = guid;
	mail->append_modseq = box->highest_modseq;
	box->uid_next = uid + 1;
	touch(box, mail);
	return mail;
}

static void take_out(struct model_box *box, struct model_mail *mail)
{
	size_t index = (size_t)(mail - box->mails);

	uint64_t append_modseq = mail->append_modseq;
	struct model_record *record = add_record(box, mail);

	record->expunge = true;
	record->append_modseq = append_modseq;
	memmove(mail, mail + 1, (box->count - index - 1) * sizeof(*mail));
	box->count--;
}

void model_deliver(struct model_box *box, unsigned first_guid, unsigned count)
{
	box->highest_modseq++;
	for (unsigned i = 0; i < count; i++)
		insert(box, box->uid_next, first_guid + i);
}

static void change_flags(struct model_box *box, struct model_mail *mail, uint8_t flags)
{
	struct model_record *record = add_record(box, mail);

	record->add = flags & ~mail->flags;
	record->remove = mail->flags & ~flags;
	mail->flags = flags;
	touch(box, mail);
}

static void change_keyword(struct model_box *box, struct model_mail *mail, uint8_t bit, bool add)
{
	struct model_record *record = add_record(box, mail);

	record->add_keywords = add ? bit : 0;
	record->remove_keywords = add ? 0 : bit;
	mail->keywords = add ? mail->keywords | bit : mail->keywords & (uint8_t)~bit;
	touch(box, mail);
}

void model_set_flags(struct model_box *box, size_t index, uint8_t flags)
{
	box->highest_modseq++;
	change_flags(box, &box->mails[index], flags);
}

void model_set_keywords(struct model_box *box, size_t index, uint8_t keywords)
{
	struct model_mail *mail = &box->mails[index];

	for (unsigned i = 0; i < MODEL_KEYWORDS; i++) {
		uint8_t bit = (uint8_t)(1U << i);

		if (((mail->keywords ^ keywords) & bit) == 0)
			continue;
		box->highest_modseq++;
		change_keyword(box, mail, bit, (keywords & bit) != 0);
	}
}

void model_expunge(struct model_box *box, size_t index)
{
	box->highest_modseq++;
	take_out(box, &box->mails[index]);
}

/* A list as an exporter makes it. */
struct list {
	struct merge_item *items;
	size_t count;
};

struct change {
	bool expunged;
	uint64_t modseq; /* of the last one */
	uint64_t append_modseq, expunge_modseq;
	unsigned guid;
	uint8_t add, remove, add_keywords, remove_keywords;
};

static struct change *changes_since(const struct model_box *box, uint64_t since)
{
	struct change *changes = check_alloc(calloc(box->uid_next + 1, sizeof(*changes)));

	for (size_t i = 0; i < box->log_count; i++) {
		const struct model_record *record = &box->log[i];
		struct change *change = &changes[record->uid];

		if (record->modseq <= since)
			continue;
		change->guid = record->guid;
		change->modseq = record->modseq;
		if (record->expunge && !change->expunged)
			change->expunge_modseq = record->modseq;
		change->expunged |= record->expunge;
		if (record->append_modseq != 0)
			change->append_modseq = record->append_modseq;
		change->add = (uint8_t)((change->add & ~record->remove) | record->add);
		change->remove = (uint8_t)((change->remove & ~record->add) | record->remove);
		change->add_keywords = (uint8_t)((change->add_keywords & ~record->remove_keywords) |
						 record->add_keywords);
		change->remove_keywords =
			(uint8_t)((change->remove_keywords & ~record->add_keywords) |
				  record->remove_keywords);
	}
	return changes;
}

static void fill_item(struct merge_item *item, char type, const struct model_mail *mail,
		      const struct change *change)
{
	memset(item, 0, sizeof(*item));
	item->type = type;
	item->uid = mail->uid;
	item->guid = model_guid(mail->guid);
	item->flags.modseq = mail->modseq;
	item->flags.final = mail->flags;
	item->flags.final_keywords = keyword_set(mail->keywords);
	if (change == NULL)
		return;
	item->flags.add = change->add;
	item->flags.remove = change->remove;
	item->flags.add_keywords = keyword_set(change->add_keywords);
	item->flags.remove_keywords = keyword_set(change->remove_keywords);
}

static const struct guid nobodys = {{0xff}};

static void make_list(struct model_box *box, uint32_t common_uid, uint64_t since, struct list *list)
{
	struct change *changes = changes_since(box, since);

	list->items = check_alloc(calloc(box->uid_next + 1, sizeof(*list->items)));
	list->count = 0;
	for (uint32_t uid = 1; uid < box->uid_next; uid++) {
		struct model_mail *mail = model_find(box, uid);
		struct merge_item *item = &list->items[list->count];

		if (mail == NULL) {
			if (!changes[uid].expunged)
				continue;
			item->type = 'e';
			item->uid = uid;
			item->has_guid128 = true;
			item->guid128 = changes[uid].guid < MODEL_GUIDS_MAX
						? guid128(changes[uid].guid)
						: nobodys;
			item->flags.modseq = changes[uid].modseq;
			item->expunged = changes[uid].expunge_modseq;
			item->appended =
				changes[uid].append_modseq > since ? changes[uid].append_modseq : 0;
		} else if (uid > common_uid) {
			fill_item(item, 's', mail, &changes[uid]);
			item->appended = mail->append_modseq > since ? mail->append_modseq : 0;
		} else if (mail->modseq > since) {
			fill_item(item, 'f', mail, &changes[uid]);
		} else {
			continue;
		}
		list->count++;
	}
	free(changes);
}

static void make_found(struct model_box *box, uint32_t common_uid, const struct list *own,
		       const struct list *peer, struct list *found)
{
	found->items = check_alloc(calloc(peer->count + 1, sizeof(*found->items)));
	found->count = 0;
	for (size_t i = 0; i < peer->count; i++) {
		struct model_mail *mail = model_find(box, peer->items[i].uid);
		bool listed = false;

		if (peer->items[i].uid > common_uid || mail == NULL)
			continue;
		for (size_t j = 0; j < own->count; j++)
			listed |= own->items[j].uid == mail->uid;
		if (!listed)
			fill_item(&found->items[found->count++], 's', mail, NULL);
	}
}

static void fill_side(struct merge_side *side, const struct model_box *box)
{
	*side = (struct merge_side){
		.uid_validity = box->uid_validity,
		.uid_next = box->uid_next,
		.messages = (uint32_t)box->count,
		.first_recent_uid = box->first_recent_uid,
		.highest_modseq = box->highest_modseq,
		.have_guids = true,
		.have_save_guids = true,
	};
}

static void raise_modseq(struct model_box *box, uint64_t modseq)
{
	if (box->highest_modseq < modseq)
		box->highest_modseq = modseq;
}

static void apply_flag_records(struct model_box *box, const struct merge_mailbox_plan *plan)
{
	bool any = false;

	for (size_t i = 0; i < plan->expunge_start; i++) {
		const struct merge_action *action = &plan->actions[i];
		struct model_mail *mail;

		if (action->kind != MERGE_SET_FLAGS)
			continue;
		mail = model_find(box, action->uid);
		assert_non_null(mail);
		assert_non_null(action->own);
		if (mail->flags == action->flags)
			continue;
		box->highest_modseq += any ? 0 : 1;
		any = true;
		change_flags(box, mail, action->flags);
	}
	for (unsigned bit = 0; bit < MODEL_KEYWORDS * 2; bit++) {
		uint8_t mask = (uint8_t)(1U << (bit / 2));
		bool add = bit % 2 == 0;

		any = false;
		for (size_t i = 0; i < plan->expunge_start; i++) {
			const struct merge_action *action = &plan->actions[i];
			struct model_mail *mail;

			if (action->kind != MERGE_SET_FLAGS)
				continue;
			mail = model_find(box, action->uid);
			if (((keyword_bits(action->keywords) & mask) != 0) != add ||
			    ((mail->keywords & mask) != 0) == add)
				continue;
			box->highest_modseq += any ? 0 : 1;
			any = true;
			change_keyword(box, mail, mask, add);
		}
	}
}

static bool is_new(const struct merge_action *action)
{
	return action->kind == MERGE_APPEND || action->kind == MERGE_COPY ||
	       action->kind == MERGE_CHANGE_UID;
}

static unsigned number_of(const char *guid)
{
	unsigned number;

	assert_int_equal(sscanf(guid, "%*x.M%u", &number), 1);
	return number;
}

static void apply_new_records(struct model_box *box, struct model_box *peer,
			      const struct merge_mailbox_plan *plan)
{
	bool any = false, any_moved = false;

	for (size_t i = 0; i < plan->expunge_start; i++) {
		const struct merge_action *action = &plan->actions[i];
		struct model_mail *source, *mail;

		if (!is_new(action))
			continue;
		box->highest_modseq += any ? 0 : 1;
		any = true;
		source = action->kind == MERGE_APPEND ? model_find(peer, action->peer_uid)
						      : model_find(box, action->source_uid);
		assert_non_null(source);
		assert_string_equal(model_guid(source->guid), action->guid);
		if (action->kind == MERGE_CHANGE_UID) {
			/* It keeps what it has. */
			assert_int_equal(source->flags, action->flags);
			assert_int_equal(source->keywords, keyword_bits(action->keywords));
		}
		mail = insert(box, action->uid, number_of(action->guid));
		mail->flags = action->flags;
	}
	for (unsigned bit = 0; bit < MODEL_KEYWORDS; bit++) {
		uint8_t mask = (uint8_t)(1U << bit);
		bool any_keyword = false;

		for (size_t i = 0; i < plan->expunge_start; i++) {
			const struct merge_action *action = &plan->actions[i];

			if (!is_new(action) || (keyword_bits(action->keywords) & mask) == 0)
				continue;
			box->highest_modseq += any_keyword ? 0 : 1;
			any_keyword = true;
			change_keyword(box, model_find(box, action->uid), mask, true);
		}
	}
	for (size_t i = 0; i < plan->expunge_start; i++) {
		const struct merge_action *action = &plan->actions[i];

		if (action->kind != MERGE_CHANGE_UID)
			continue;
		box->highest_modseq += any_moved ? 0 : 1;
		any_moved = true;
		take_out(box, model_find(box, action->source_uid));
	}
}

static bool is_somebodys(const struct merge_action *action)
{
	return action->told && !guid_equal(&action->guid128, &nobodys);
}

/* The number of the GUID that is to be told; MODEL_GUIDS_MAX: nobody's. */
static unsigned buried_guid(const struct merge_action *action)
{
	static struct guid known[MODEL_GUIDS_MAX];
	static unsigned count;

	for (unsigned i = 0; i < MODEL_GUIDS_MAX && is_somebodys(action); i++) {
		if (i == count)
			known[count++] = guid128(i);
		if (guid_equal(&known[i], &action->guid128))
			return i;
	}
	assert_false(is_somebodys(action));
	return MODEL_GUIDS_MAX;
}

static void bury(struct model_box *box, const struct merge_action *action)
{
	const struct model_mail mail = {.uid = action->uid, .guid = buried_guid(action)};

	add_record(box, &mail)->expunge = true;
}

static void apply_plan(struct model *model, struct model_box *box, struct model_box *peer,
		       const struct merge_mailbox_plan *plan)
{
	const uint64_t before = box->highest_modseq;
	bool new_first = plan->uid_changes == 0 && model_random(model, 2) == 0;

	if (plan->adopt_uid_validity)
		box->uid_validity = plan->uid_validity;
	raise_modseq(box, plan->first_modseq);
	/* The order of the records within a transaction is the store's. */
	if (new_first)
		apply_new_records(box, peer, plan);
	apply_flag_records(box, plan);
	if (!new_first)
		apply_new_records(box, peer, plan);
	for (size_t i = 0; i < plan->expunge_start; i++) {
		const struct merge_action *action = &plan->actions[i];
		struct model_mail *mail = model_find(box, action->uid);

		if (action->modseq == 0)
			continue;
		assert_non_null(mail);
		if (action->modseq > before || mail->modseq < action->modseq)
			mail->modseq = action->modseq;
		raise_modseq(box, action->modseq);
	}
	if (plan->expunge_start < plan->action_count) {
		raise_modseq(box, plan->expunge_modseq > 0 ? plan->expunge_modseq - 1 : 0);
		box->highest_modseq++;
	}
	for (size_t i = plan->expunge_start; i < plan->action_count; i++) {
		const struct merge_action *action = &plan->actions[i];
		struct model_mail *mail = model_find(box, action->uid);

		if (action->kind == MERGE_BURY) {
			assert_null(mail);
			assert_true(action->uid < plan->uid_next);
			bury(box, action);
			continue;
		}
		assert_int_equal(action->kind, MERGE_EXPUNGE);
		assert_non_null(mail);
		take_out(box, mail);
	}
	raise_modseq(box, plan->highest_modseq);
	if (box->uid_next < plan->uid_next)
		box->uid_next = plan->uid_next;
	if (box->first_recent_uid < plan->first_recent_uid)
		box->first_recent_uid = plan->first_recent_uid;
}

static void print_plan(int side, const struct merge_mailbox_plan *plan)
{
	static const char *const names[] = {"flags",	  "append",  "copy",
					    "change-uid", "expunge", "bury"};

	print_message("plan of side %d: first=%llu highest=%llu uid_next=%u common=%u full=%d\n",
		      side, (unsigned long long)plan->first_modseq,
		      (unsigned long long)plan->highest_modseq, plan->uid_next, plan->common_uid,
		      plan->need_full);
	for (size_t i = 0; i < plan->action_count; i++) {
		const struct merge_action *action = &plan->actions[i];

		print_message("  %s uid=%u source=%u guid=%s flags=%x keywords=%x modseq=%llu\n",
			      names[action->kind], action->uid, action->source_uid,
			      action->guid != NULL ? action->guid : "", action->flags,
			      keyword_bits(action->keywords), (unsigned long long)action->modseq);
	}
}

void model_sync(struct model *model, struct model_session *session)
{
	struct merge_side side[2];
	struct merge_mailbox_plan plan[2];
	struct model_box before[2];
	struct list list[2], found[2];
	uint32_t saved[2];

	for (int i = 0; i < 2; i++) {
		fill_side(&side[i], &model->box[i]);
		if (model->box[i].highest_modseq < model->state[i].acked_modseq)
			model->state[i].valid = false;
		saved[i] = model->state[i].valid ? model->state[i].common_uid : 0;
		if (model->state[i].valid) {
			side[i].acked_modseq = model->state[i].acked_modseq;
			side[i].peer_modseq = model->state[i].peer_modseq;
			side[i].agreed_uid = saved[i];
		}
	}
	session->common_uid = merge_mailbox_common_uid(&side[0], saved[0], &side[1], saved[1]);
	for (int i = 0; i < 2; i++) {
		make_list(&model->box[i], session->common_uid,
			  model->state[i].valid ? model->state[i].acked_modseq : 0, &list[i]);
		side[i].items = list[i].items;
		side[i].item_count = list[i].count;
		model_box_copy(&before[i], &model->box[i]);
	}
	session->need_full = false;
	session->uid_changes = session->appends = session->expunges = 0;
	if (model->dump)
		model_print(model);
	for (int i = 0; i < 2; i++) {
		struct merge_mailbox_input input = {
			.mode = model->mode,
			.role = i == 0 ? MERGE_MASTER : MERGE_SLAVE,
			.common_uid = session->common_uid,
			.stateful = session->common_uid > 0,
			.absence_counts = true,
			.own = side[i],
			.peer = side[1 - i],
		};
		struct error err = {0};

		make_found(&model->box[i], session->common_uid, &list[i], &list[1 - i], &found[i]);
		input.found = found[i].items;
		input.found_count = found[i].count;
		if (merge_mailbox(&input, &plan[i], &err) < 0)
			fail_msg("merge of side %d failed: %s", i, err.text);
		if (model->dump)
			print_plan(i, &plan[i]);
		session->actions[i] = plan[i].action_count;
		session->need_full |= plan[i].need_full;
		session->uid_changes += plan[i].uid_changes;
		session->appends += plan[i].appends;
		session->expunges += plan[i].expunges;
	}
	for (int i = 0; i < 2; i++) {
		if (session->apply[i] && !plan[i].need_full)
			apply_plan(model, &model->box[i], &before[1 - i], &plan[i]);
	}
	for (int i = 0; i < 2; i++) {
		if (plan[i].need_full)
			model->state[i].common_uid = 0;
		else if (session->save[i] && !session->need_full)
			model->state[i] = (struct model_state){
				.valid = true,
				.common_uid = plan[i].common_uid,
				.acked_modseq = model->box[i].highest_modseq,
				.peer_modseq = model->box[1 - i].highest_modseq,
			};
	}
	for (int i = 0; i < 2; i++) {
		merge_mailbox_plan_free(&plan[i]);
		model_box_free(&before[i]);
		free(list[i].items);
		free(found[i].items);
	}
}

void model_sync_fully(struct model *model, struct model_session *session)
{
	for (int tries = 0; tries < 3; tries++) {
		*session = (struct model_session){.apply = {true, true}, .save = {true, true}};
		model_sync(model, session);
		if (!session->need_full)
			return;
	}
	fail_msg("the state is found unusable again and again");
}

const char *model_difference(const struct model *model)
{
	const struct model_box *a = &model->box[0], *b = &model->box[1];

	if (a->count != b->count)
		return "number of messages";
	if (a->uid_next != b->uid_next)
		return "UIDNEXT";
	if (a->uid_validity != b->uid_validity)
		return "UIDVALIDITY";
	for (size_t i = 0; i < a->count; i++) {
		const struct model_mail *x = &a->mails[i], *y = &b->mails[i];

		if (x->uid != y->uid || x->guid != y->guid)
			return "messages";
		if (x->flags != y->flags || x->keywords != y->keywords)
			return "flags or keywords";
		if (model->mode == MERGE_DSYNCFS && x->modseq != y->modseq)
			return "MODSEQs";
	}
	if (model->mode == MERGE_DSYNCFS && a->highest_modseq != b->highest_modseq)
		return "HIGHESTMODSEQ";
	return NULL;
}

void model_print(const struct model *model)
{
	for (int side = 0; side < 2; side++) {
		const struct model_box *box = &model->box[side];

		print_message("side %d: uid_next=%u highest=%llu state: valid=%d common=%u "
			      "acked=%llu\n",
			      side, box->uid_next, (unsigned long long)box->highest_modseq,
			      model->state[side].valid, model->state[side].common_uid,
			      (unsigned long long)model->state[side].acked_modseq);
		for (size_t i = 0; i < box->count; i++)
			print_message("  uid=%u guid=%s flags=%x keywords=%x modseq=%llu\n",
				      box->mails[i].uid, model_guid(box->mails[i].guid),
				      box->mails[i].flags, box->mails[i].keywords,
				      (unsigned long long)box->mails[i].modseq);
		for (size_t i = 0; i < box->log_count; i++) {
			if (box->log[i].expunge)
				print_message("  expunged uid=%u guid=%s modseq=%llu\n",
					      box->log[i].uid,
					      box->log[i].guid < MODEL_GUIDS_MAX
						      ? model_guid(box->log[i].guid)
						      : "nobody's",
					      (unsigned long long)box->log[i].modseq);
		}
	}
}
