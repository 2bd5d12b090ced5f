/*
 * The own side's actions on mailboxes, in an order in which they can be done: deletions free names,
 * GUIDs change hands, renames go to names that are free by then (parents first, since they take
 * their children along), and what is missing is created. Only names that change places in a ring
 * need a passing name, which the same list takes away again; if it is cut off before, the next run
 * does (merge_tree_names.c).
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
		if (ret == 0)
			action->time = tree_newest_time(slot->entry);
	}
	free(from);
	return ret;
}

static bool is_pending(const struct slot *slot)
{
	return strcmp(slot->name, slot->entry->target) != 0;
}

/* Out of the way, to a name that nobody has or wants: short and at the top, so that every store can
 * hold it and it is never below what moves next. */
static int step_aside(struct tree_work *work, struct slots *slots, struct slot *slot)
{
	char name[TREE_PASSING_NAME_SIZE + 16];
	bool done = false;
	int ret = 0;

	tree_passing_name(&slot->entry->final_guid, name);
	/* Halves of a split INBOX, or a name made to be in the way. */
	for (size_t i = 0, len = strlen(name); slots_find(slots, name) != NULL; i++)
		snprintf(name + len, sizeof(name) - len, "-%zu", i);
	ret = try_rename(work, slots, slot, name, &done);
	if (ret == 0 && !done)
		ret = error_set(work->err, -EINVAL, "mailbox %s cannot be renamed to %s",
				slot->name, name);
	return ret;
}

/* Whether the rename of something above it will bring it to its target. A detour of its own would
 * be a newer rename than anybody's wish, if the run is cut off there. */
static bool is_carried(const struct slots *slots, const struct slot *slot)
{
	char *path = strdup(slot->name), *slash;
	bool carried = false;

	while (path != NULL && !carried && (slash = strrchr(path, '/')) != NULL) {
		const struct slot *parent;
		const char *target;
		size_t len;

		*slash = '\0';
		parent = slots_find(slots, path);
		if (parent == NULL || !is_pending(parent))
			continue;
		target = parent->entry->target;
		len = strlen(target);
		carried = strncmp(slot->entry->target, target, len) == 0 &&
			  strcmp(slot->entry->target + len, slot->name + strlen(path)) == 0;
	}
	free(path);
	return carried;
}

/* Renames that can be done as they are, parents first, since they take their children along; what
 * is left then is in a ring, of which one steps aside. *settled_r false: children that are carried
 * to and fro need too many. */
static int rename_greedily(struct tree_work *work, struct slots *slots, bool *settled_r)
{
	const size_t most = work->plan->action_count + slots->count * 2 + 8;
	int ret = 0;

	*settled_r = false;
	while (ret == 0 && !*settled_r && work->plan->action_count < most) {
		struct slot *blocked = NULL;
		bool progress = false;

		for (size_t i = 0; ret == 0 && i < slots->count; i++) {
			struct slot *slot = &slots->list[i];
			bool done;

			if (!is_pending(slot) || is_carried(slots, slot))
				continue;
			ret = try_rename(work, slots, slot, slot->entry->target, &done);
			progress |= done;
			if (blocked == NULL && !done)
				blocked = slot;
		}
		*settled_r = blocked == NULL && !progress;
		if (ret == 0 && blocked != NULL && !progress)
			ret = step_aside(work, slots, blocked);
	}
	return ret;
}

static bool is_below_pending(const struct slots *slots, const struct slot *slot)
{
	for (size_t i = 0; i < slots->count; i++) {
		const struct slot *parent = &slots->list[i];

		if (is_pending(parent) && is_below(slot->name, parent->name))
			return true;
	}
	return false;
}

/* Always comes to an end: all that has to move, and all below it, steps aside one by one, children
 * first. Then nothing moves along with another, and every name that is wanted is free. */
static int rename_singly(struct tree_work *work, struct slots *slots)
{
	int ret = 0;

	/* Sorting moves the elements that the hash points to. */
	HASH_CLEAR(hh, slots->by_name);
	qsort(slots->list, slots->count, sizeof(*slots->list), slot_cmp);
	for (size_t i = 0; i < slots->count; i++)
		slots_hash(slots, &slots->list[i]);
	for (size_t i = slots->count; ret == 0 && i > 0; i--) {
		struct slot *slot = &slots->list[i - 1];

		if (is_pending(slot) || is_below_pending(slots, slot))
			ret = step_aside(work, slots, slot);
	}
	for (size_t i = 0; ret == 0 && i < slots->count; i++) {
		struct slot *slot = &slots->list[i];
		bool done;

		if (!is_pending(slot))
			continue;
		ret = try_rename(work, slots, slot, slot->entry->target, &done);
		if (ret == 0 && !done)
			ret = error_set(work->err, -EINVAL, "mailbox %s cannot be renamed to %s",
					slot->name, slot->entry->target);
	}
	return ret;
}

static int add_renames(struct tree_work *work)
{
	struct slots slots = {NULL, NULL, 0};
	int ret = slots_fill(work, &slots);
	bool settled;

	if (ret == 0)
		ret = rename_greedily(work, &slots, &settled);
	if (ret == 0 && !settled)
		ret = rename_singly(work, &slots);
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
