/*
 * The own side's actions on mailboxes, in an order in which they can be done: deletions free names,
 * GUIDs change hands, renames go to names that are free by then (parents first, since they take
 * their children along), and what is missing is created. Only names that change places in a ring
 * need a passing name, which the same list takes away again.
 */
#include "sync/merge_tree_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

/* An own mailbox while the renames are played through. */
struct slot {
	struct tree_entry *entry;
	char *name; /* now */
	bool moves; /* with the rename that is looked at */
	UT_hash_handle hh;
};

struct slots {
	struct slot *list, *by_name;
	size_t count;
};

static int add_deletions(struct tree_work *work)
{
	for (size_t i = 0; i < work->entry_count; i++) {
		const struct tree_entry *entry = &work->entries[i];
		struct merge_tree_action *action;

		if (!entry->deleted || entry->node[work->own] == NULL)
			continue;
		action = tree_add_action(work, MERGE_TREE_DELETE, entry->node[work->own]->name);
		if (action == NULL)
			return -ENOMEM;
		action->guid = entry->guid;
	}
	return 0;
}

/* First those that make room for a GUID (a split INBOX), then those that merge. */
static int add_guids(struct tree_work *work, bool merged)
{
	for (size_t i = 0; i < work->entry_count; i++) {
		const struct tree_entry *entry = &work->entries[i];
		const struct mailbox_node *node = entry->node[work->own];
		struct merge_tree_action *action;

		if (entry->deleted || node == NULL || (entry->merged != NULL) != merged ||
		    guid_equal(&node->guid, &entry->final_guid))
			continue;
		action = tree_add_action(work, MERGE_TREE_ADOPT_GUID, node->name);
		if (action == NULL)
			return -ENOMEM;
		action->guid = entry->final_guid;
		action->own_guid = node->guid;
	}
	return 0;
}

static void slots_hash(struct slots *slots, struct slot *slot)
{
	HASH_ADD_KEYPTR(hh, slots->by_name, slot->name, strlen(slot->name), slot);
}

static struct slot *slots_find(const struct slots *slots, const char *name)
{
	struct slot *slot;

	HASH_FIND(hh, slots->by_name, name, strlen(name), slot);
	return slot;
}

static int slot_cmp(const void *a, const void *b)
{
	const struct slot *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static void slots_free(struct slots *slots)
{
	HASH_CLEAR(hh, slots->by_name);
	for (size_t i = 0; i < slots->count; i++)
		free(slots->list[i].name);
	free(slots->list);
}

static int slots_fill(struct tree_work *work, struct slots *slots)
{
	slots->list = calloc(work->entry_count + 1, sizeof(*slots->list));
	if (slots->list == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < work->entry_count; i++) {
		struct tree_entry *entry = &work->entries[i];
		struct slot *slot = &slots->list[slots->count];

		if (entry->deleted || entry->node[work->own] == NULL)
			continue;
		slot->entry = entry;
		slot->name = strdup(entry->node[work->own]->name);
		if (slot->name == NULL)
			return -ENOMEM;
		slots->count++;
	}
	/* Parents before children. */
	qsort(slots->list, slots->count, sizeof(*slots->list), slot_cmp);
	for (size_t i = 0; i < slots->count; i++)
		slots_hash(slots, &slots->list[i]);
	return 0;
}

static bool is_below(const char *name, const char *parent)
{
	size_t len = strlen(parent);

	return strncmp(name, parent, len) == 0 && name[len] == '/';
}

/* Renames in the played tree. *done_r false: something is in the way. */
static int play_rename(struct slots *slots, const char *from, const char *to, bool *done_r)
{
	char **names = calloc(slots->count + 1, sizeof(char *));
	int ret = names == NULL ? -ENOMEM : 0;
	bool blocked = is_below(to, from);

	for (size_t i = 0; ret == 0 && i < slots->count; i++) {
		struct slot *slot = &slots->list[i];

		slot->moves = strcmp(slot->name, from) == 0 || is_below(slot->name, from);
		if (slot->moves && asprintf(&names[i], "%s%s", to, slot->name + strlen(from)) < 0) {
			names[i] = NULL;
			ret = -ENOMEM;
		}
	}
	for (size_t i = 0; ret == 0 && !blocked && i < slots->count; i++) {
		struct slot *occupant = names[i] == NULL ? NULL : slots_find(slots, names[i]);

		blocked = occupant != NULL && !occupant->moves;
	}
	if (ret == 0 && !blocked) {
		for (size_t i = 0; i < slots->count; i++) {
			if (names[i] != NULL)
				HASH_DEL(slots->by_name, &slots->list[i]);
		}
		for (size_t i = 0; i < slots->count; i++) {
			if (names[i] == NULL)
				continue;
			free(slots->list[i].name);
			slots->list[i].name = names[i];
			names[i] = NULL;
			slots_hash(slots, &slots->list[i]);
		}
	}
	for (size_t i = 0; names != NULL && i < slots->count; i++)
		free(names[i]);
	free(names);
	*done_r = ret == 0 && !blocked;
	return ret;
}

static int try_rename(struct tree_work *work, struct slots *slots, struct slot *slot,
		      const char *to, bool *done_r)
{
	char *from = strdup(slot->name);
	struct merge_tree_action *action;
	int ret;

	*done_r = false;
	if (from == NULL)
		return -ENOMEM;
	ret = play_rename(slots, from, to, done_r);
	if (ret == 0 && *done_r) {
		action = tree_add_action(work, MERGE_TREE_RENAME, from);
		if (action != NULL)
			action->new_name = strdup(to);
		if (action == NULL || action->new_name == NULL)
			ret = -ENOMEM;
		else
			action->guid = slot->entry->guid;
	}
	free(from);
	return ret;
}

static bool is_pending(const struct slot *slot)
{
	return strcmp(slot->name, slot->entry->target) != 0;
}

/* Out of the way, to a name that nobody has or wants. */
static int step_aside(struct tree_work *work, struct slots *slots, struct slot *slot)
{
	char hex[GUID_HEX_SIZE], *name;
	bool done;
	int ret;

	/* Beside where it is, so that it is not below itself. */
	if (asprintf(&name, "%s-%s", slot->name, guid_to_hex(&slot->entry->final_guid, hex)) < 0)
		return -ENOMEM;
	ret = try_rename(work, slots, slot, name, &done);
	free(name);
	if (ret == 0 && !done)
		work->plan->run_again = true;
	return ret;
}

static int add_renames(struct tree_work *work)
{
	struct slots slots = {NULL, NULL, 0};
	size_t rounds;
	int ret = slots_fill(work, &slots);

	/* A round settles at least one name or breaks one ring. */
	for (rounds = slots.count * 2 + 8; ret == 0 && rounds > 0; rounds--) {
		struct slot *pending = NULL;
		bool progress = false;

		for (size_t i = 0; ret == 0 && i < slots.count; i++) {
			struct slot *slot = &slots.list[i];
			bool done;

			if (!is_pending(slot))
				continue;
			ret = try_rename(work, &slots, slot, slot->entry->target, &done);
			progress |= done;
			if (pending == NULL && !done)
				pending = slot;
		}
		if (ret < 0 || (pending == NULL && !progress))
			break;
		if (!progress)
			ret = step_aside(work, &slots, pending);
		if (work->plan->run_again)
			break;
	}
	if (rounds == 0)
		work->plan->run_again = true;
	slots_free(&slots);
	return ret;
}

static int entry_target_cmp(const void *a, const void *b)
{
	const struct tree_entry *x = *(struct tree_entry *const *)a;
	const struct tree_entry *y = *(struct tree_entry *const *)b;

	return strcmp(x->target, y->target);
}

static int add_creations(struct tree_work *work)
{
	struct tree_entry **list = calloc(work->entry_count + 1, sizeof(struct tree_entry *));
	size_t count = 0;
	int ret = list == NULL ? -ENOMEM : 0;

	for (size_t i = 0; ret == 0 && i < work->entry_count; i++) {
		struct tree_entry *entry = &work->entries[i];

		if (!entry->deleted && entry->node[work->own] == NULL && entry->merged == NULL)
			list[count++] = entry;
	}
	if (count > 0)
		qsort(list, count, sizeof(struct tree_entry *), entry_target_cmp);
	for (size_t i = 0; ret == 0 && i < count; i++) {
		struct merge_tree_action *action =
			tree_add_action(work, MERGE_TREE_CREATE, list[i]->target);

		if (action == NULL) {
			ret = -ENOMEM;
			break;
		}
		action->guid = list[i]->final_guid;
		action->uid_validity = list[i]->node[work->other]->uid_validity;
	}
	free(list);
	return ret;
}

int merge_tree_mailboxes(struct tree_work *work)
{
	int ret = add_deletions(work);

	if (ret == 0)
		ret = add_guids(work, false);
	if (ret == 0)
		ret = add_guids(work, true);
	/* Where own mailboxes are missing in the tree, a free name may not be free, and a missing
	 * mailbox may be there. */
	if (work->in->own_incomplete) {
		work->plan->run_again = true;
		return ret;
	}
	if (ret == 0)
		ret = add_renames(work);
	return ret == 0 ? add_creations(work) : ret;
}
