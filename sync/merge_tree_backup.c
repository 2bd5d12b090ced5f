/*
 * The tree merge one way: the own tree becomes the peer's.
 *
 * The two-way merge does the work, on trees in which the peer is always right: its renames are the
 * newest, it has deleted every mailbox that it does not have, and we remember nothing. What that
 * cannot express comes in front: a mailbox that has the peer's name for it under another GUID takes
 * the peer's, and one that has given out UIDs which the peer has yet to give is made anew.
 */
#include "sync/merge_tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct one_way {
	const struct merge_tree_input *in;
	struct mailbox_tree own, peer; /* as the merge is to see them */
	struct merge_tree_plan before; /* has to be done first */
	struct error *err;
};

static bool is_mailbox(const struct mailbox_node *node)
{
	return node != NULL && node->exists && !guid_is_empty(&node->guid);
}

static const struct mailbox_node *by_name(const struct mailbox_tree *tree, const char *name)
{
	size_t low = 0, high = tree->node_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int cmp = strcmp(tree->nodes[mid].name, name);

		if (cmp == 0)
			return &tree->nodes[mid];
		if (cmp < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

static const struct mailbox_node *by_guid(const struct mailbox_tree *tree, const struct guid *guid)
{
	for (size_t i = 0; i < tree->node_count; i++) {
		if (is_mailbox(&tree->nodes[i]) && guid_equal(&tree->nodes[i].guid, guid))
			return &tree->nodes[i];
	}
	return NULL;
}

/* ---- actions ---- */

static struct merge_tree_action *add_action(struct merge_tree_plan *plan, enum merge_tree_kind kind,
					    const char *name)
{
	struct merge_tree_action *grown =
		realloc(plan->actions, (plan->action_count + 1) * sizeof(*grown));
	char *copy = strdup(name);

	if (grown != NULL)
		plan->actions = grown;
	if (grown == NULL || copy == NULL) {
		free(copy);
		return NULL;
	}
	grown[plan->action_count] = (struct merge_tree_action){.kind = kind, .name = copy};
	return &grown[plan->action_count++];
}

/* The actions of `more` behind those of plan; more is empty afterwards. */
static int move_actions(struct merge_tree_plan *plan, struct merge_tree_plan *more)
{
	size_t count = plan->action_count + more->action_count;
	struct merge_tree_action *grown = realloc(plan->actions, (count + 1) * sizeof(*grown));

	if (grown == NULL)
		return -ENOMEM;
	if (more->action_count > 0)
		memcpy(grown + plan->action_count, more->actions,
		       more->action_count * sizeof(*grown));
	plan->actions = grown;
	plan->action_count = count;
	plan->run_again |= more->run_again;
	more->action_count = 0;
	return 0;
}

static int delete_first(struct one_way *way, const struct mailbox_node *node)
{
	struct merge_tree_action *action = add_action(&way->before, MERGE_TREE_DELETE, node->name);

	if (action == NULL)
		return -ENOMEM;
	action->guid = node->guid;
	return 0;
}

static int adopt_first(struct one_way *way, const struct mailbox_node *node,
		       const struct guid *guid)
{
	struct merge_tree_action *action =
		add_action(&way->before, MERGE_TREE_ADOPT_GUID, node->name);

	if (action == NULL)
		return -ENOMEM;
	action->own_guid = node->guid;
	action->guid = *guid;
	return 0;
}

/* ---- what the merge is to see ---- */

/* The mailbox is the peer's of this name, made independently: then it is to be that one. */
static bool takes_guid(const struct one_way *way, const struct mailbox_node *own,
		       const struct mailbox_node *peer)
{
	if (!is_mailbox(peer) || guid_equal(&own->guid, &peer->guid))
		return false;
	return strcmp(own->name, "INBOX") == 0 || (by_guid(way->in->peer, &own->guid) == NULL &&
						   by_guid(way->in->own, &peer->guid) == NULL);
}

/* *keep_r false: the merge is not to see it, since it goes first. */
static int look_at_own(struct one_way *way, struct mailbox_node *own, bool *keep_r)
{
	const struct mailbox_node *same_name = by_name(way->in->peer, own->name), *peer;
	const struct mailbox_node *inbox = by_name(way->in->peer, "INBOX");
	bool is_inbox = strcmp(own->name, "INBOX") == 0;
	bool takes = takes_guid(way, own, same_name);

	*keep_r = true;
	peer = takes || is_inbox ? same_name : by_guid(way->in->peer, &own->guid);
	if (is_inbox && !is_mailbox(peer))
		return error_set(way->err, -EOPNOTSUPP,
				 "the source has no INBOX, and the one here cannot be deleted");
	if (is_inbox && own->uid_next > peer->uid_next)
		return error_set(way->err, -EOPNOTSUPP,
				 "INBOX cannot become the source's: its UIDNEXT is %u here and %u "
				 "there; move it away to have it made anew",
				 own->uid_next, peer->uid_next);
	/* A folder that has the GUID of the peer's INBOX, or UIDs the peer has not given yet. */
	if (!is_inbox && ((is_mailbox(inbox) && guid_equal(&own->guid, &inbox->guid)) ||
			  (is_mailbox(peer) && own->uid_next > peer->uid_next))) {
		*keep_r = false;
		return delete_first(way, own);
	}
	if (!takes || peer == NULL)
		return 0;
	int ret = adopt_first(way, own, &peer->guid);
	own->guid = peer->guid;
	return ret;
}

static int copy_nodes(const struct mailbox_tree *tree, struct mailbox_tree *copy_r)
{
	*copy_r = (struct mailbox_tree){.separator = tree->separator};
	copy_r->nodes = calloc(tree->node_count + 1, sizeof(*copy_r->nodes));
	if (copy_r->nodes == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < tree->node_count; i++) {
		struct mailbox_node *node = &copy_r->nodes[copy_r->node_count++];

		*node = tree->nodes[i];
		/* Subscriptions are no matter of the newer one here. */
		node->subscribed = false;
		node->last_subscription_change = 0;
		node->last_renamed_or_created = 0;
	}
	return 0;
}

static int show_own(struct one_way *way)
{
	size_t kept = 0;
	int ret = copy_nodes(way->in->own, &way->own);

	for (size_t i = 0; ret == 0 && i < way->own.node_count; i++) {
		struct mailbox_node node = way->own.nodes[i];
		bool keep = true;

		if (is_mailbox(&node))
			ret = look_at_own(way, &node, &keep);
		if (keep)
			way->own.nodes[kept++] = node;
	}
	way->own.node_count = kept;
	return ret;
}

/* The peer has deleted all that it does not have, and renamed the rest just now. */
static int show_peer(struct one_way *way)
{
	int ret = copy_nodes(way->in->peer, &way->peer);

	if (ret < 0)
		return ret;
	way->peer.deletions = calloc(way->own.node_count + 1, sizeof(*way->peer.deletions));
	if (way->peer.deletions == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < way->peer.node_count; i++)
		way->peer.nodes[i].last_renamed_or_created = 1;
	for (size_t i = 0; i < way->own.node_count; i++) {
		const struct mailbox_node *node = &way->own.nodes[i];

		if (is_mailbox(node) && by_guid(&way->peer, &node->guid) == NULL)
			way->peer.deletions[way->peer.deletion_count++] = (struct mailbox_deletion){
				.kind = DELETED_MAILBOX, .guid = node->guid, .time = 1};
	}
	return 0;
}

static int add_subscriptions(const struct one_way *way, struct merge_tree_plan *plan)
{
	const struct mailbox_tree *tree[2] = {way->in->own, way->in->peer};

	for (int side = 0; side < 2; side++) {
		for (size_t i = 0; i < tree[side]->node_count; i++) {
			const struct mailbox_node *node = &tree[side]->nodes[i];
			const struct mailbox_node *other = by_name(tree[1 - side], node->name);

			if (!node->subscribed || (other != NULL && other->subscribed))
				continue;
			if (add_action(plan,
				       side == 0 ? MERGE_TREE_UNSUBSCRIBE : MERGE_TREE_SUBSCRIBE,
				       node->name) == NULL)
				return -ENOMEM;
		}
	}
	return 0;
}

static int check_source(const struct mailbox_tree *source, struct error *err)
{
	for (size_t i = 0; i < source->node_count; i++) {
		if (is_mailbox(&source->nodes[i]))
			return 0;
	}
	return error_set(err, -EOPNOTSUPP,
			 "the source has no mailboxes: nothing is deleted because of that");
}

static int merge(struct one_way *way, struct merge_tree_plan *plan_r)
{
	struct merge_tree_input input = *way->in;
	struct merge_tree_plan merged = {0};
	int ret = check_source(way->in->peer, way->err);

	if (ret == 0)
		ret = show_own(way);
	if (ret == 0)
		ret = show_peer(way);
	if (ret < 0)
		return ret;
	input.mode = MERGE_DSYNCFS;
	input.own = &way->own;
	input.peer = &way->peer;
	ret = merge_tree(&input, &merged, way->err);
	if (ret == 0)
		ret = move_actions(plan_r, &way->before);
	if (ret == 0)
		ret = move_actions(plan_r, &merged);
	if (ret == 0)
		ret = add_subscriptions(way, plan_r);
	merge_tree_plan_free(&merged);
	return ret;
}

int merge_tree_backup(const struct merge_tree_input *input, struct merge_tree_plan *plan_r,
		      struct error *err)
{
	struct one_way way = {.in = input, .err = err};
	int ret;

	memset(plan_r, 0, sizeof(*plan_r));
	ret = merge(&way, plan_r);
	/* The names are the input's. */
	free(way.own.nodes);
	free(way.peer.nodes);
	free(way.peer.deletions);
	merge_tree_plan_free(&way.before);
	if (ret < 0) {
		merge_tree_plan_free(plan_r);
		if (ret == -ENOMEM)
			return error_set(err, ret, "out of memory while merging mailbox trees");
	}
	return ret;
}

int merge_tree_backup_to_dovecot(const struct mailbox_tree *own, const struct mailbox_tree *peer,
				 bool restricted, struct error *err)
{
	const struct mailbox_node *source = by_name(own, "INBOX"), *inbox = by_name(peer, "INBOX");
	static const char remedy[] = "a Dovecot would delete it; move it away to have it made anew";

	if (!restricted && check_source(own, err) < 0)
		return -EOPNOTSUPP;
	if (!is_mailbox(inbox) || inbox->uid_next <= 1)
		return 0;
	if (!is_mailbox(source))
		return restricted ? 0
				  : error_set(err, -EOPNOTSUPP,
					      "INBOX: the source has none, and %s", remedy);
	if (!guid_equal(&source->guid, &inbox->guid))
		return error_set(err, -EOPNOTSUPP,
				 "INBOX there was not made from the source's, and %s", remedy);
	if (source->uid_validity != inbox->uid_validity)
		return error_set(err, -EOPNOTSUPP,
				 "INBOX has UIDVALIDITY %u there and %u here, and %s",
				 inbox->uid_validity, source->uid_validity, remedy);
	if (inbox->uid_next > source->uid_next)
		return error_set(err, -EOPNOTSUPP, "INBOX has UIDNEXT %u there and %u here, and %s",
				 inbox->uid_next, source->uid_next, remedy);
	return 0;
}
