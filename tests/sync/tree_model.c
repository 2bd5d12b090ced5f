/* See tree_model.h. */
#include "tree_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define ROUNDS 6

static uint32_t random_below(struct tree_model *model, uint32_t below)
{
	model->random ^= model->random << 13;
	model->random ^= model->random >> 17;
	model->random ^= model->random << 5;
	return below == 0 ? 0 : (model->random >> 3) % below;
}

static struct guid new_guid(struct tree_model *model)
{
	struct guid guid;
	char text[32];

	snprintf(text, sizeof(text), "mailbox %u", model->next_guid++);
	guid_from_name(text, &guid);
	return guid;
}

static struct tree_box *find(const struct tree_model *model, int side, const char *name)
{
	struct tree_side *tree = model->side[side];

	for (size_t i = 0; i < tree->count; i++) {
		if (strcmp(tree->boxes[i].name, name) == 0)
			return &tree->boxes[i];
	}
	return NULL;
}

static struct tree_box *find_guid(const struct tree_model *model, int side, const struct guid *guid)
{
	struct tree_side *tree = model->side[side];

	for (size_t i = 0; i < tree->count; i++) {
		if (guid_equal(&tree->boxes[i].guid, guid))
			return &tree->boxes[i];
	}
	return NULL;
}

static void add_box(struct tree_model *model, int side, const char *name, const struct guid *guid,
		    uint32_t uid_validity)
{
	struct tree_side *tree = model->side[side];
	struct tree_box *box;

	assert_null(find(model, side, name));
	assert_null(find_guid(model, side, guid));
	assert_true(tree->count < TREE_MAX && strlen(name) < TREE_NAME);
	box = &tree->boxes[tree->count++];
	snprintf(box->name, sizeof(box->name), "%s", name);
	box->guid = *guid;
	box->uid_validity = uid_validity;
}

void tree_model_init_apart(struct tree_model *model, enum merge_mode mode, uint32_t seed)
{
	memset(model, 0, sizeof(*model));
	model->mode = mode;
	model->clock = 1800000000;
	model->random = seed * 2654435761U + 88172645U;
	if (model->random == 0)
		model->random = 1;
	model->next_guid = seed * 1000;
	model->deleted = calloc(TREE_LOG, sizeof(*model->deleted));
	model->aliases = calloc(TREE_LOG, sizeof(*model->aliases));
	assert_non_null(model->deleted);
	assert_non_null(model->aliases);
	for (int side = 0; side < 2; side++) {
		struct guid guid = new_guid(model);

		model->side[side] = calloc(1, sizeof(*model->side[side]));
		assert_non_null(model->side[side]);
		add_box(model, side, "INBOX", &guid, 1700000000);
	}
}

void tree_model_init(struct tree_model *model, enum merge_mode mode, uint32_t seed)
{
	tree_model_init_apart(model, mode, seed);
	model->side[1]->boxes[0].guid = model->side[0]->boxes[0].guid;
}

void tree_model_free(struct tree_model *model)
{
	free(model->side[0]);
	free(model->side[1]);
	free(model->deleted);
	free(model->aliases);
	memset(model, 0, sizeof(*model));
}

static void log_rename(struct tree_model *model, int side, const char *name)
{
	struct tree_side *tree = model->side[side];
	struct tree_stamp *stamp;

	assert_true(tree->rename_count < TREE_LOG);
	stamp = &tree->renames[tree->rename_count++];
	snprintf(stamp->name, sizeof(stamp->name), "%s", name);
	stamp->time = model->clock;
}

static void log_deletion(struct tree_model *model, int side, enum mailbox_deletion_kind kind,
			 const struct guid *guid)
{
	struct tree_side *tree = model->side[side];

	assert_true(tree->deletion_count < TREE_LOG);
	tree->deletions[tree->deletion_count++] =
		(struct mailbox_deletion){.kind = kind, .guid = *guid, .time = model->clock};
}

static void drop_box(struct tree_model *model, int side, struct tree_box *box)
{
	struct tree_side *tree = model->side[side];

	assert_string_not_equal(box->name, "INBOX");
	log_deletion(model, side, DELETED_MAILBOX, &box->guid);
	*box = tree->boxes[--tree->count];
}

static bool is_below(const char *name, const char *parent)
{
	size_t len = strlen(parent);

	return strncmp(name, parent, len) == 0 && name[len] == '/';
}

/* Whether the store could: nothing in the way, for the children neither. */
static bool can_rename(const struct tree_model *model, int side, const char *from, const char *to)
{
	struct tree_side *tree = model->side[side];
	char name[TREE_NAME * 2];

	if (find(model, side, from) == NULL || strcmp(from, "INBOX") == 0 || is_below(to, from))
		return false;
	for (size_t i = 0; i < tree->count; i++) {
		const char *old = tree->boxes[i].name;
		struct tree_box *there;

		if (strcmp(old, from) != 0 && !is_below(old, from))
			continue;
		snprintf(name, sizeof(name), "%s%s", to, old + strlen(from));
		there = find(model, side, name);
		if (there != NULL && strcmp(there->name, from) != 0 && !is_below(there->name, from))
			return false;
	}
	return strcmp(from, to) != 0;
}

static void do_rename(struct tree_model *model, int side, const char *from, const char *to)
{
	struct tree_side *tree = model->side[side];
	char name[TREE_NAME * 2], old[TREE_NAME];

	snprintf(old, sizeof(old), "%s", from);
	for (size_t i = 0; i < tree->count; i++) {
		struct tree_box *box = &tree->boxes[i];

		if (strcmp(box->name, old) != 0 && !is_below(box->name, old))
			continue;
		snprintf(name, sizeof(name), "%s%s", to, box->name + strlen(old));
		assert_true(strlen(name) < TREE_NAME);
		memcpy(box->name, name, strlen(name) + 1);
	}
	log_rename(model, side, to);
}

static struct tree_stamp *find_sub(const struct tree_model *model, int side, const char *name)
{
	struct tree_side *tree = model->side[side];

	for (size_t i = 0; i < tree->sub_count; i++) {
		if (strcmp(tree->subs[i].name, name) == 0)
			return &tree->subs[i];
	}
	return NULL;
}

static void set_subscribed(struct tree_model *model, int side, const char *name, bool subscribed)
{
	struct tree_side *tree = model->side[side];
	struct tree_stamp *sub = find_sub(model, side, name);

	if (sub == NULL) {
		assert_true(tree->sub_count < TREE_MAX);
		sub = &tree->subs[tree->sub_count++];
		snprintf(sub->name, sizeof(sub->name), "%s", name);
	}
	sub->subscribed = subscribed;
	sub->time = model->clock;
}

void tree_create(struct tree_model *model, int side, const char *name)
{
	struct guid guid = new_guid(model);

	add_box(model, side, name, &guid, 1700000000 + model->next_guid);
	model->clock++;
}

void tree_delete(struct tree_model *model, int side, const char *name)
{
	struct tree_box *box = find(model, side, name);

	assert_non_null(box);
	assert_true(model->deleted_count < TREE_LOG);
	model->deleted[model->deleted_count++] = box->guid;
	drop_box(model, side, box);
	model->clock++;
}

void tree_rename(struct tree_model *model, int side, const char *from, const char *to)
{
	assert_true(can_rename(model, side, from, to));
	do_rename(model, side, from, to);
	model->clock++;
}

void tree_subscribe(struct tree_model *model, int side, const char *name, bool subscribed)
{
	set_subscribed(model, side, name, subscribed);
	model->clock++;
}

void tree_swap_guids(struct tree_model *model, int side, const char *name, const char *other)
{
	struct tree_box *a = find(model, side, name), *b = find(model, side, other);
	struct guid swap = a->guid;

	a->guid = b->guid;
	b->guid = swap;
}

bool tree_has(const struct tree_model *model, int side, const char *name)
{
	return find(model, side, name) != NULL;
}

const struct guid *tree_guid(const struct tree_model *model, int side, const char *name)
{
	struct tree_box *box = find(model, side, name);

	assert_non_null(box);
	return &box->guid;
}

size_t tree_count(const struct tree_model *model, int side)
{
	return model->side[side]->count;
}

bool tree_is_subscribed(const struct tree_model *model, int side, const char *name)
{
	struct tree_stamp *sub = find_sub(model, side, name);

	return sub != NULL && sub->subscribed;
}

/* The tree as the list module would read it. */

static int node_cmp(const void *a, const void *b)
{
	const struct mailbox_node *x = a, *y = b;

	return strcmp(x->name, y->name);
}

static struct mailbox_node *node_at(struct mailbox_tree *tree, const char *name)
{
	struct mailbox_node *node;

	for (size_t i = 0; i < tree->node_count; i++) {
		if (strcmp(tree->nodes[i].name, name) == 0)
			return &tree->nodes[i];
	}
	node = &tree->nodes[tree->node_count++];
	memset(node, 0, sizeof(*node));
	node->name = strdup(name);
	assert_non_null(node->name);
	return node;
}

static void render(const struct tree_model *model, int side, struct mailbox_tree *tree)
{
	const struct tree_side *from = model->side[side];
	size_t max = from->count * 8 + from->sub_count + 1;

	memset(tree, 0, sizeof(*tree));
	tree->nodes = calloc(max, sizeof(*tree->nodes));
	tree->deletions =
		calloc(from->deletion_count + from->sub_count + 1, sizeof(*tree->deletions));
	assert_non_null(tree->nodes);
	assert_non_null(tree->deletions);
	tree->separator = '.';
	for (size_t i = 0; i < from->count; i++) {
		struct mailbox_node *node = node_at(tree, from->boxes[i].name);

		node->exists = true;
		node->guid = from->boxes[i].guid;
		node->uid_validity = from->boxes[i].uid_validity;
		node->uid_next = 1;
	}
	for (size_t i = 0; i < from->count; i++) {
		char path[TREE_NAME], *slash;

		snprintf(path, sizeof(path), "%s", from->boxes[i].name);
		while ((slash = strrchr(path, '/')) != NULL) {
			*slash = '\0';
			assert_true(tree->node_count + 1 < max);
			node_at(tree, path);
		}
	}
	for (size_t i = 0; i < from->sub_count; i++) {
		const struct tree_stamp *sub = &from->subs[i];
		bool known = false;

		for (size_t j = 0; j < tree->node_count; j++)
			known |= strcmp(tree->nodes[j].name, sub->name) == 0;
		if (known || sub->subscribed) {
			struct mailbox_node *node = node_at(tree, sub->name);

			node->subscribed = sub->subscribed;
			node->last_subscription_change = sub->time;
		} else {
			struct mailbox_deletion *gone = &tree->deletions[tree->deletion_count++];
			char vname[TREE_NAME];

			snprintf(vname, sizeof(vname), "%s", sub->name);
			for (char *c = vname; *c != '\0'; c++)
				*c = *c == '/' ? '.' : *c;
			gone->kind = DELETED_SUBSCRIPTION;
			guid_from_name(vname, &gone->guid);
			gone->time = sub->time;
		}
	}
	for (size_t i = 0; i < from->rename_count; i++) {
		for (size_t j = 0; j < tree->node_count; j++) {
			if (strcmp(tree->nodes[j].name, from->renames[i].name) == 0)
				tree->nodes[j].last_renamed_or_created = from->renames[i].time;
		}
	}
	for (size_t i = 0; i < from->deletion_count; i++) {
		if (find_guid(model, side, &from->deletions[i].guid) == NULL)
			tree->deletions[tree->deletion_count++] = from->deletions[i];
	}
	qsort(tree->nodes, tree->node_count, sizeof(*tree->nodes), node_cmp);
}

static void render_free(struct mailbox_tree *tree)
{
	for (size_t i = 0; i < tree->node_count; i++)
		free(tree->nodes[i].name);
	free(tree->nodes);
	free(tree->deletions);
}

static void apply(struct tree_model *model, int side, const struct merge_tree_action *action)
{
	struct tree_box *box = find(model, side, action->name);

	switch (action->kind) {
	case MERGE_TREE_CREATE:
		add_box(model, side, action->name, &action->guid, action->uid_validity);
		break;
	case MERGE_TREE_DELETE:
		assert_non_null(box);
		assert_true(guid_equal(&box->guid, &action->guid));
		drop_box(model, side, box);
		break;
	case MERGE_TREE_RENAME:
		assert_true(can_rename(model, side, action->name, action->new_name));
		do_rename(model, side, action->name, action->new_name);
		break;
	case MERGE_TREE_ADOPT_GUID:
		assert_non_null(box);
		assert_true(guid_equal(&box->guid, &action->own_guid));
		assert_null(find_guid(model, side, &action->guid));
		assert_true(model->alias_count < TREE_LOG);
		model->aliases[model->alias_count++] =
			(struct tree_alias){.from = action->own_guid, .to = action->guid};
		box->guid = action->guid;
		break;
	case MERGE_TREE_SUBSCRIBE:
	case MERGE_TREE_UNSUBSCRIBE:
		assert_true(tree_is_subscribed(model, side, action->name) !=
			    (action->kind == MERGE_TREE_SUBSCRIBE));
		set_subscribed(model, side, action->name, action->kind == MERGE_TREE_SUBSCRIBE);
		break;
	case MERGE_TREE_CREATE_DIR:
	case MERGE_TREE_DELETE_DIR:
		fail_msg("a directory in a tree without directories");
	}
}

void tree_model_sync(struct tree_model *model, size_t master_max, size_t slave_max)
{
	const size_t max[2] = {master_max, slave_max};
	struct mailbox_tree tree[2];
	struct merge_tree_plan plan[2];
	struct error err = {0};

	render(model, 0, &tree[0]);
	render(model, 1, &tree[1]);
	for (int side = 0; side < 2; side++) {
		struct merge_tree_input input = {
			.mode = model->mode,
			.role = side == 0 ? MERGE_MASTER : MERGE_SLAVE,
			.own = &tree[side],
			.peer = &tree[1 - side],
			.own_has_no_directories = true,
		};

		if (merge_tree(&input, &plan[side], &err) < 0)
			fail_msg("merge of side %d failed: %s", side, err.text);
		if (plan[side].run_again)
			fail_msg("the renames could not be ordered");
		model->actions[side] = plan[side].action_count;
	}
	model->clock++;
	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < plan[side].action_count && i < max[side]; i++)
			apply(model, side, &plan[side].actions[i]);
	}
	model->clock++;
	for (int side = 0; side < 2; side++) {
		merge_tree_plan_free(&plan[side]);
		render_free(&tree[side]);
	}
}

void tree_model_backup(struct tree_model *model)
{
	struct mailbox_tree tree[2];
	struct merge_tree_plan plan;
	struct error err = {0};

	render(model, 0, &tree[0]);
	render(model, 1, &tree[1]);
	struct merge_tree_input input = {
		.role = random_below(model, 2) == 0 ? MERGE_MASTER : MERGE_SLAVE,
		.own = &tree[1],
		.peer = &tree[0],
		.own_has_no_directories = true,
	};
	if (merge_tree_backup(&input, &plan, &err) < 0)
		fail_msg("merge failed: %s", err.text);
	assert_false(plan.run_again);
	model->actions[0] = 0;
	model->actions[1] = plan.action_count;
	model->clock++;
	for (size_t i = 0; i < plan.action_count; i++)
		apply(model, 1, &plan.actions[i]);
	model->clock++;
	merge_tree_plan_free(&plan);
	render_free(&tree[0]);
	render_free(&tree[1]);
}

const char *tree_model_difference(const struct tree_model *model)
{
	const struct tree_side *a = model->side[0], *b = model->side[1];

	if (a->count != b->count)
		return "number of mailboxes";
	for (size_t i = 0; i < a->count; i++) {
		struct tree_box *other = find(model, 1, a->boxes[i].name);

		if (other == NULL)
			return "names";
		if (!guid_equal(&other->guid, &a->boxes[i].guid))
			return "GUIDs";
	}
	for (int side = 0; side < 2; side++) {
		const struct tree_side *tree = model->side[side];

		for (size_t i = 0; i < tree->sub_count; i++) {
			if (tree->subs[i].subscribed &&
			    !tree_is_subscribed(model, 1 - side, tree->subs[i].name))
				return "subscriptions";
		}
	}
	return NULL;
}

void tree_model_print(const struct tree_model *model)
{
	for (int side = 0; side < 2; side++) {
		const struct tree_side *tree = model->side[side];
		char hex[GUID_HEX_SIZE];

		print_message("side %d:\n", side);
		for (size_t i = 0; i < tree->count; i++)
			print_message("  %s %s\n", guid_to_hex(&tree->boxes[i].guid, hex),
				      tree->boxes[i].name);
		for (size_t i = 0; i < tree->rename_count; i++)
			print_message("  rename to %s at %lld\n", tree->renames[i].name,
				      (long long)tree->renames[i].time);
		for (size_t i = 0; i < tree->sub_count; i++)
			print_message("  %s %s at %lld\n",
				      tree->subs[i].subscribed ? "subscribed" : "unsubscribed",
				      tree->subs[i].name, (long long)tree->subs[i].time);
	}
}

static void random_name(struct tree_model *model, char *name, size_t size)
{
	static const char *const parts[] = {"A", "B", "C", "A-b", "Work"};
	uint32_t depth = 1 + random_below(model, 3);
	size_t len = 0;

	for (uint32_t i = 0; i < depth; i++)
		len += (size_t)snprintf(name + len, size - len, "%s%s", i > 0 ? "/" : "",
					parts[random_below(model, 5)]);
}

static void random_change(struct tree_model *model, int side)
{
	struct tree_side *tree = model->side[side];
	const struct tree_box *box = &tree->boxes[random_below(model, (uint32_t)tree->count)];
	uint32_t what = random_below(model, 100);
	char name[TREE_NAME], from[TREE_NAME];

	random_name(model, name, sizeof(name));
	memcpy(from, box->name, sizeof(from));
	if (what < 35) {
		if (find(model, side, name) == NULL)
			tree_create(model, side, name);
	} else if (what < 70) {
		if (can_rename(model, side, from, name))
			tree_rename(model, side, from, name);
	} else if (what < 80) {
		if (strcmp(from, "INBOX") != 0)
			tree_delete(model, side, from);
	} else {
		tree_subscribe(model, side, what % 2 == 0 ? name : from,
			       random_below(model, 2) == 0);
	}
	/* Clocks have seconds: sometimes much happens in one. */
	if (random_below(model, 4) == 0)
		model->clock--;
}

static bool was_deleted(const struct tree_model *model, const struct guid *guid)
{
	for (size_t i = 0; i < model->deleted_count; i++) {
		if (guid_equal(&model->deleted[i], guid))
			return true;
	}
	return false;
}

/* The GUID that the mailbox has after it was merged into others. */
static struct guid follow(const struct tree_model *model, const struct guid *guid)
{
	struct guid now = *guid;

	for (size_t i = 0; i < model->alias_count; i++) {
		if (guid_equal(&model->aliases[i].from, &now))
			now = model->aliases[i].to;
	}
	return now;
}

/* Every name is one mailbox's. */
static void check_names(const struct tree_model *model, uint32_t seed)
{
	for (int side = 0; side < 2; side++) {
		const struct tree_side *tree = model->side[side];

		for (size_t i = 0; i < tree->count; i++) {
			if (find(model, side, tree->boxes[i].name) != &tree->boxes[i])
				fail_msg("seed %u: two mailboxes are named %s", seed,
					 tree->boxes[i].name);
		}
	}
}

/* The mailboxes of a side, without its logs. */
struct boxes {
	struct tree_box *list;
	size_t count;
};

static struct boxes copy_boxes(const struct tree_side *side)
{
	struct boxes copy = {.list = malloc((side->count + 1) * sizeof(*copy.list)),
			     .count = side->count};

	assert_non_null(copy.list);
	memcpy(copy.list, side->boxes, side->count * sizeof(*copy.list));
	return copy;
}

static void check(struct tree_model *model, const struct boxes before[2], uint32_t seed)
{
	const char *difference = tree_model_difference(model);
	char hex[GUID_HEX_SIZE];

	if (difference != NULL) {
		tree_model_print(model);
		fail_msg("seed %u: the trees differ in %s", seed, difference);
	}
	if (!tree_has(model, 0, "INBOX"))
		fail_msg("seed %u: INBOX is gone", seed);
	check_names(model, seed);
	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < before[side].count; i++) {
			const struct guid *old = &before[side].list[i].guid;
			struct guid now = follow(model, old);

			if (was_deleted(model, old) || was_deleted(model, &now))
				continue;
			if (find_guid(model, 0, &now) == NULL) {
				tree_model_print(model);
				fail_msg("seed %u: mailbox %s (%s) is lost", seed,
					 guid_to_hex(old, hex), before[side].list[i].name);
			}
		}
	}
	for (size_t i = 0; model->mode == MERGE_DSYNCFS && i < model->deleted_count; i++) {
		if (find_guid(model, 0, &model->deleted[i]) != NULL) {
			tree_model_print(model);
			fail_msg("seed %u: mailbox %s came back", seed,
				 guid_to_hex(&model->deleted[i], hex));
		}
	}
}

static void complete_session(struct tree_model *model, uint32_t seed)
{
	struct boxes before[2] = {copy_boxes(model->side[0]), copy_boxes(model->side[1])};

	tree_model_sync(model, SIZE_MAX, SIZE_MAX);
	check(model, before, seed);
	tree_model_sync(model, SIZE_MAX, SIZE_MAX);
	if (model->actions[0] + model->actions[1] > 0) {
		tree_model_print(model);
		fail_msg("seed %u: a second run has something to do", seed);
	}
	free(before[0].list);
	free(before[1].list);
}

/* Users change the source, and sometimes the copy. */
void tree_model_backup_history(uint32_t seed, bool print)
{
	struct tree_model model;
	const char *difference;

	if (seed % 2 == 0)
		tree_model_init(&model, MERGE_DSYNCFS, seed);
	else
		tree_model_init_apart(&model, MERGE_DSYNCFS, seed);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (int side = 0; side < 2; side++) {
			for (uint32_t i = random_below(&model, side == 0 ? 8 : 4); i > 0; i--)
				random_change(&model, side);
		}
		if (print)
			tree_model_print(&model);
		tree_model_backup(&model);
		difference = tree_model_difference(&model);
		if (difference != NULL) {
			tree_model_print(&model);
			fail_msg("seed %u: the trees differ in %s", seed, difference);
		}
		tree_model_backup(&model);
		if (model.actions[1] > 0)
			fail_msg("seed %u: a second run has something to do", seed);
	}
	tree_model_free(&model);
}

void tree_model_history(enum merge_mode mode, uint32_t seed, bool print)
{
	struct tree_model model;

	tree_model_init(&model, mode, seed);
	for (unsigned round = 0; round < ROUNDS; round++) {
		for (int side = 0; side < 2; side++) {
			for (uint32_t i = random_below(&model, 6); i > 0; i--)
				random_change(&model, side);
		}
		if (print)
			tree_model_print(&model);
		switch (random_below(&model, 4)) {
		case 0: /* the link is cut */
			break;
		case 1: /* broke off somewhere */
			tree_model_sync(&model, random_below(&model, 8), random_below(&model, 8));
			break;
		default:
			complete_session(&model, seed);
		}
	}
	complete_session(&model, seed);
	tree_model_free(&model);
}
