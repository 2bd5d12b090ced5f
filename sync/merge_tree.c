/*
 * The tree merge: checks both trees, finds the mailboxes they share by GUID and applies deletions.
 * See merge_tree_private.h for the parts.
 */
#include "sync/merge_tree_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool tree_is_inbox(const char *name)
{
	return strcmp(name, "INBOX") == 0;
}

const struct mailbox_node *tree_find(const struct mailbox_tree *tree, const char *name)
{
	size_t low = 0, high = tree->node_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int ret = strcmp(tree->nodes[mid].name, name);

		if (ret == 0)
			return &tree->nodes[mid];
		if (ret < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

struct tree_entry *tree_entry_at(const struct tree_work *work, int side, const char *name)
{
	const struct mailbox_node *node = tree_find(work->tree[side], name);

	return node == NULL ? NULL : work->by_node[side][node - work->tree[side]->nodes];
}

static bool is_mailbox(const struct mailbox_node *node)
{
	return node->exists && !guid_is_empty(&node->guid);
}

struct merge_tree_action *tree_add_action(struct tree_work *work, enum merge_tree_kind kind,
					  const char *name)
{
	struct merge_tree_plan *plan = work->plan;
	struct merge_tree_action *action;

	if (plan->action_count == work->plan_size) {
		size_t size = work->plan_size == 0 ? 16 : work->plan_size * 2;
		struct merge_tree_action *list = realloc(plan->actions, size * sizeof(*list));

		if (list == NULL)
			return NULL;
		plan->actions = list;
		work->plan_size = size;
	}
	action = &plan->actions[plan->action_count];
	memset(action, 0, sizeof(*action));
	action->kind = kind;
	action->name = strdup(name);
	if (action->name == NULL)
		return NULL;
	plan->action_count++;
	return action;
}

static bool name_is_sane(const char *name)
{
	const char *part = name;

	if (name == NULL)
		return false;
	for (;;) {
		size_t len = strcspn(part, "/");

		if (len == 0 || (len == 1 && part[0] == '.') ||
		    (len == 2 && part[0] == '.' && part[1] == '.'))
			return false;
		if (part[len] == '\0')
			break;
		part += len + 1;
	}
	for (; *name != '\0'; name++) {
		if ((unsigned char)*name < 0x20 || *name == 0x7f)
			return false;
	}
	return true;
}

static int check_tree(const struct mailbox_tree *tree, const char *whose, struct error *err)
{
	for (size_t i = 0; i < tree->node_count; i++) {
		if (!name_is_sane(tree->nodes[i].name))
			return error_set(err, -EINVAL, "%s mailbox tree has an impossible name",
					 whose);
		if (i > 0 && strcmp(tree->nodes[i - 1].name, tree->nodes[i].name) >= 0)
			return error_set(err, -EINVAL, "%s mailbox tree: %s is out of order", whose,
					 tree->nodes[i].name);
	}
	return 0;
}

static int node_guid_cmp(const void *a, const void *b)
{
	const struct mailbox_node *x = *(const struct mailbox_node *const *)a;
	const struct mailbox_node *y = *(const struct mailbox_node *const *)b;

	return guid_cmp(&x->guid, &y->guid);
}

/* The side's mailboxes by GUID. */
static int list_mailboxes(const struct tree_work *work, int side,
			  const struct mailbox_node ***list_r, size_t *count_r)
{
	const struct mailbox_tree *tree = work->tree[side];
	const struct mailbox_node **list =
		calloc(tree->node_count + 1, sizeof(const struct mailbox_node *));
	size_t count = 0;

	if (list == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < tree->node_count; i++) {
		if (is_mailbox(&tree->nodes[i]))
			list[count++] = &tree->nodes[i];
	}
	qsort(list, count, sizeof(const struct mailbox_node *), node_guid_cmp);
	*list_r = list;
	*count_r = count;
	for (size_t i = 1; i < count; i++) {
		if (guid_equal(&list[i - 1]->guid, &list[i]->guid))
			return error_set(work->err, -EINVAL,
					 "%s mailboxes %s and %s have the same GUID",
					 side == work->own ? "the own" : "the peer's",
					 list[i - 1]->name, list[i]->name);
	}
	return 0;
}

/* The newest rename of the node or of anything above it, which moved it as well. */
static int64_t effective_time(const struct mailbox_tree *tree, const struct mailbox_node *node)
{
	int64_t newest = node->last_renamed_or_created;
	char *path = strdup(node->name), *slash;

	if (path == NULL)
		return newest;
	while ((slash = strrchr(path, '/')) != NULL) {
		const struct mailbox_node *parent;

		*slash = '\0';
		parent = tree_find(tree, path);
		if (parent != NULL && parent->last_renamed_or_created > newest)
			newest = parent->last_renamed_or_created;
	}
	free(path);
	return newest;
}

static void set_node(struct tree_work *work, struct tree_entry *entry, int side,
		     const struct mailbox_node *node)
{
	entry->node[side] = node;
	entry->guid = node->guid;
	entry->final_guid = node->guid;
	entry->time[side] = effective_time(work->tree[side], node);
	work->by_node[side][node - work->tree[side]->nodes] = entry;
}

static int make_entries(struct tree_work *work)
{
	const struct mailbox_node **list[2] = {NULL, NULL};
	size_t count[2] = {0, 0}, i = 0, j = 0;
	int ret;

	ret = list_mailboxes(work, 0, &list[0], &count[0]);
	if (ret == 0)
		ret = list_mailboxes(work, 1, &list[1], &count[1]);
	for (int side = 0; side < 2; side++) {
		work->by_node[side] =
			calloc(work->tree[side]->node_count + 1, sizeof(struct tree_entry *));
		if (work->by_node[side] == NULL)
			ret = -ENOMEM;
	}
	work->entries = calloc(count[0] + count[1] + 1, sizeof(*work->entries));
	if (work->entries == NULL)
		ret = -ENOMEM;
	while (ret == 0 && (i < count[0] || j < count[1])) {
		struct tree_entry *entry = &work->entries[work->entry_count++];
		int cmp;

		if (i == count[0])
			cmp = 1;
		else if (j == count[1])
			cmp = -1;
		else
			cmp = guid_cmp(&list[0][i]->guid, &list[1][j]->guid);
		if (cmp <= 0)
			set_node(work, entry, 0, list[0][i++]);
		if (cmp >= 0)
			set_node(work, entry, 1, list[1][j++]);
	}
	free(list[0]);
	free(list[1]);
	return ret;
}

static int deletion_cmp(const struct mailbox_deletion *x, enum mailbox_deletion_kind kind,
			const struct guid *guid)
{
	if (x->kind != kind)
		return x->kind < kind ? -1 : 1;
	return guid_cmp(&x->guid, guid);
}

static int deletion_sort(const void *a, const void *b)
{
	const struct mailbox_deletion *x = *(const struct mailbox_deletion *const *)a;
	const struct mailbox_deletion *y = *(const struct mailbox_deletion *const *)b;
	int ret = deletion_cmp(x, y->kind, &y->guid);

	if (ret != 0)
		return ret;
	/* The newest first. */
	return x->time > y->time ? -1 : x->time < y->time;
}

static int list_deletions(struct tree_work *work, int side)
{
	const struct mailbox_tree *tree = work->tree[side];

	work->gone[side] =
		calloc(tree->deletion_count + 1, sizeof(const struct mailbox_deletion *));
	if (work->gone[side] == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < tree->deletion_count; i++)
		work->gone[side][i] = &tree->deletions[i];
	qsort(work->gone[side], tree->deletion_count, sizeof(const struct mailbox_deletion *),
	      deletion_sort);
	return 0;
}

const struct mailbox_deletion *tree_deletion(const struct tree_work *work, int side,
					     enum mailbox_deletion_kind kind,
					     const struct guid *guid)
{
	size_t low = 0, high = work->tree[side]->deletion_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (deletion_cmp(work->gone[side][mid], kind, guid) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	if (low == work->tree[side]->deletion_count ||
	    deletion_cmp(work->gone[side][low], kind, guid) != 0)
		return NULL;
	return work->gone[side][low];
}

int tree_name_deletion(const struct tree_work *work, int side, enum mailbox_deletion_kind kind,
		       const char *name, const struct mailbox_deletion **deletion_r)
{
	static const char digits[] = "0123456789abcdef";
	const char separator =
		work->tree[side]->separator != '\0' ? work->tree[side]->separator : '/';
	const char escape = work->escape[side];
	char *vname, *out;
	struct guid hash;

	*deletion_r = NULL;
	if (work->tree[side]->deletion_count == 0)
		return 0;
	vname = malloc(strlen(name) * 3 + 1);
	if (vname == NULL)
		return -ENOMEM;
	out = vname;
	for (; *name != '\0'; name++) {
		unsigned char c = (unsigned char)*name;

		if (c == '/') {
			*out++ = separator;
		} else if (escape != '\0' && (*name == separator || *name == escape)) {
			*out++ = escape;
			*out++ = digits[c >> 4];
			*out++ = digits[c & 15];
		} else {
			*out++ = *name;
		}
	}
	*out = '\0';
	guid_from_name(vname, &hash);
	free(vname);
	*deletion_r = tree_deletion(work, side, kind, &hash);
	return 0;
}

/* A mailbox that one side deleted goes on the other, whatever it was renamed to. */
static void apply_deletions(struct tree_work *work)
{
	for (size_t i = 0; i < work->entry_count; i++) {
		struct tree_entry *entry = &work->entries[i];
		int has = entry->node[0] != NULL ? 0 : 1;

		if (entry->node[1 - has] != NULL || tree_is_inbox(entry->node[has]->name))
			continue;
		if (tree_deletion(work, 1 - has, DELETED_MAILBOX, &entry->guid) == NULL)
			continue;
		/* Dovecot drops its own deletion when it has the name again, and will offer the new
		 * mailbox for merging: doing otherwise here would only take mail away. */
		if (work->in->mode == MERGE_DOVECOT &&
		    tree_entry_at(work, 1 - has, entry->node[has]->name) != NULL)
			continue;
		entry->deleted = true;
	}
}

int merge_tree(const struct merge_tree_input *input, struct merge_tree_plan *plan_r,
	       struct error *err)
{
	struct tree_work work = {.in = input, .plan = plan_r, .err = err};
	int ret;

	memset(plan_r, 0, sizeof(*plan_r));
	work.own = input->role == MERGE_MASTER ? 0 : 1;
	work.other = 1 - work.own;
	work.tree[work.own] = input->own;
	work.tree[work.other] = input->peer;
	work.escape[work.own] = input->own_escape;
	work.escape[work.other] = input->peer_escape;

	ret = check_tree(input->own, "the own", err);
	if (ret == 0)
		ret = check_tree(input->peer, "the peer's", err);
	if (ret == 0)
		ret = make_entries(&work);
	for (int side = 0; ret == 0 && side < 2; side++)
		ret = list_deletions(&work, side);
	if (ret == 0) {
		apply_deletions(&work);
		ret = merge_tree_names(&work);
	}
	if (ret == 0)
		ret = merge_tree_mailboxes(&work);
	if (ret == 0)
		ret = merge_tree_directories(&work);
	if (ret == 0)
		ret = merge_tree_subscriptions(&work);

	for (size_t i = 0; i < work.entry_count; i++)
		free(work.entries[i].target);
	free(work.entries);
	for (int side = 0; side < 2; side++) {
		free(work.by_node[side]);
		free(work.gone[side]);
	}
	if (ret < 0) {
		merge_tree_plan_free(plan_r);
		if (ret == -ENOMEM)
			return error_set(err, ret, "out of memory while merging mailbox trees");
	}
	return ret;
}

void merge_tree_plan_free(struct merge_tree_plan *plan)
{
	if (plan == NULL)
		return;
	for (size_t i = 0; i < plan->action_count; i++) {
		free(plan->actions[i].name);
		free(plan->actions[i].new_name);
	}
	free(plan->actions);
	memset(plan, 0, sizeof(*plan));
}
