/*
 * Subscriptions, and directories that are no mailboxes. Both are known by name only.
 *
 * Subscriptions: the newer change wins; at equal or unknown times a name is subscribed.
 * Directories: made where the other side has one, unless it was removed here since; removed where
 * the other side removed it since, or where everything in it was moved away and the other side has
 * it no more.
 */
#include "sync/merge_tree_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int name_cmp(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static bool is_directory(const struct mailbox_node *node)
{
	return node != NULL && node->exists && guid_is_empty(&node->guid);
}

/* Names sorted by strcmp: is there one at or below the path? */
static bool has_at_or_below(const char **names, size_t count, const char *path)
{
	size_t low = 0, high = count, len = strlen(path);

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (strcmp(names[mid], path) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	/* "path-x" sorts between "path" and "path/x". */
	for (; low < count && strncmp(names[low], path, len) == 0; low++) {
		if (names[low][len] == '\0' || names[low][len] == '/')
			return true;
	}
	return false;
}

static int list_targets(const struct tree_work *work, const char ***names_r, size_t *count_r)
{
	const char **names = calloc(work->entry_count + 1, sizeof(const char *));
	size_t count = 0;

	if (names == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < work->entry_count; i++) {
		if (work->entries[i].target != NULL)
			names[count++] = work->entries[i].target;
	}
	if (count > 0)
		qsort(names, count, sizeof(const char *), name_cmp);
	*names_r = names;
	*count_r = count;
	return 0;
}

/* Whether the side has mailboxes in the directory now. */
static bool holds_mailboxes(const struct tree_work *work, int side, const char *path)
{
	const struct mailbox_tree *tree = work->tree[side];
	size_t len = strlen(path);

	for (const struct mailbox_node *node = tree_find(tree, path);
	     node != NULL && node < tree->nodes + tree->node_count; node++) {
		if (strncmp(node->name, path, len) != 0)
			break;
		if (node->name[len] == '/' && node->exists && !guid_is_empty(&node->guid))
			return true;
	}
	return false;
}

struct directories {
	const char **targets;
	size_t target_count;
	const char **deleted;
	size_t deleted_count;
};

/* A directory of one side: what happens to it here. */
static int decide_directory(struct tree_work *work, struct directories *dirs, int side,
			    const struct mailbox_node *node)
{
	const struct mailbox_node *there = tree_find(work->tree[1 - side], node->name);
	const struct mailbox_deletion *deletion;
	bool needed = has_at_or_below(dirs->targets, dirs->target_count, node->name);
	bool goes;
	int ret;

	if (there != NULL && there->exists)
		return 0;
	ret = tree_name_deletion(work, 1 - side, DELETED_DIRECTORY, node->name, &deletion);
	if (ret < 0)
		return ret;
	goes = deletion != NULL && deletion->time > node->last_renamed_or_created;
	/* Everything in it was moved away, and the other side does not have it. */
	goes |= !needed && holds_mailboxes(work, side, node->name);
	if (goes && side == work->own && !needed)
		dirs->deleted[dirs->deleted_count++] = node->name;
	if (goes || side == work->own || needed || work->in->own_has_no_directories ||
	    work->in->own_incomplete)
		return 0;
	return tree_add_action(work, MERGE_TREE_CREATE_DIR, node->name) == NULL ? -ENOMEM : 0;
}

static int decide_directories(struct tree_work *work, struct directories *dirs)
{
	int ret;

	for (int side = 0; side < 2; side++) {
		const struct mailbox_tree *tree = work->tree[side];

		for (size_t i = 0; i < tree->node_count; i++) {
			if (!is_directory(&tree->nodes[i]))
				continue;
			ret = decide_directory(work, dirs, side, &tree->nodes[i]);
			if (ret < 0)
				return ret;
		}
	}
	/* Children first. */
	for (size_t i = dirs->deleted_count; i > 0; i--) {
		if (tree_add_action(work, MERGE_TREE_DELETE_DIR, dirs->deleted[i - 1]) == NULL)
			return -ENOMEM;
	}
	return 0;
}

int merge_tree_directories(struct tree_work *work)
{
	struct directories dirs = {NULL, 0, NULL, 0};
	int ret = list_targets(work, &dirs.targets, &dirs.target_count);

	if (ret == 0) {
		dirs.deleted = calloc(work->tree[work->own]->node_count + 1, sizeof(const char *));
		ret = dirs.deleted == NULL ? -ENOMEM : decide_directories(work, &dirs);
	}
	free(dirs.targets);
	free(dirs.deleted);
	return ret;
}

/* When the side, which is not subscribed to the name, unsubscribed; 0: unknown, or never was. */
static int unsubscribed_at(const struct tree_work *work, int side, const char *name,
			   const struct mailbox_node *node, int64_t *time_r)
{
	const struct mailbox_deletion *deletion;
	int ret;

	*time_r = node != NULL ? node->last_subscription_change : 0;
	ret = tree_name_deletion(work, side, DELETED_SUBSCRIPTION, name, &deletion);
	if (ret == 0 && deletion != NULL && deletion->time > *time_r)
		*time_r = deletion->time;
	return ret;
}

/* node: of the side that is subscribed. */
static int decide_subscription(struct tree_work *work, int side, const struct mailbox_node *node)
{
	const struct mailbox_node *there = tree_find(work->tree[1 - side], node->name);
	enum merge_tree_kind kind = MERGE_TREE_SUBSCRIBE;
	int64_t unsubscribed;
	int ret;

	if (there != NULL && there->subscribed)
		return 0;
	ret = unsubscribed_at(work, 1 - side, node->name, there, &unsubscribed);
	if (ret < 0)
		return ret;
	if (unsubscribed > node->last_subscription_change)
		kind = MERGE_TREE_UNSUBSCRIBE;
	/* The one goes to the side that has it not, the other to the side that has it. */
	if ((kind == MERGE_TREE_UNSUBSCRIBE) != (side == work->own))
		return 0;
	return tree_add_action(work, kind, node->name) == NULL ? -ENOMEM : 0;
}

int merge_tree_subscriptions(struct tree_work *work)
{
	int ret;

	for (int side = 0; side < 2; side++) {
		const struct mailbox_tree *tree = work->tree[side];

		for (size_t i = 0; i < tree->node_count; i++) {
			if (!tree->nodes[i].subscribed)
				continue;
			ret = decide_subscription(work, side, &tree->nodes[i]);
			if (ret < 0)
				return ret;
		}
	}
	return 0;
}
