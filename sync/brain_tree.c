/*
 * The tree phase: own N and D to the peer, its to us, and carrying out what merge_tree decides.
 *
 * Both sides send without waiting, but we to a Dovecot: 2.3.19 never ends where the other side
 * announces another separator than its own and has deletions, so we say ours by its separator. A
 * mailbox for which an action fails is left as it is: the next session tries again. Names from the
 * peer become storable ones first, so nothing it sends can name anything outside the user's mail.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/tabescape.h"
#include "store/list_moment.h"
#include "sync/brain_names.h"
#include "sync/brain_private.h"
#include "sync/merge_tree.h"

#define NAME_BYTES_MAX 4096

/* Only of a mailbox that the peer may still have. */
static bool had_state(void *ctx, const struct guid *guid)
{
	return brain_saved_state(ctx, guid) != NULL;
}

int brain_read_tree(struct brain *brain, struct error *err)
{
	mailbox_tree_free(&brain->tree);
	memset(&brain->tree, 0, sizeof(brain->tree));
	brain->have_tree = false;
	int ret = list_moment_look(brain->user, &brain->tree_moment, err);
	if (ret == 0)
		ret = mailbox_list_read(brain->user, &brain->tree, &brain->tree_incomplete, err);
	if (ret == 0)
		ret = mailbox_list_add_kept(brain->user, &brain->tree, had_state, brain, err);
	brain->have_tree = ret == 0;
	return ret;
}

/* Dovecot's list patterns: '*' anything, '%' anything within a level. The pattern is the peer's:
 * its cost must not explode, so all positions of the name that it can have reached are followed at
 * once. */
static bool pattern_matches(const char *pattern, const char *name)
{
	bool reached[NAME_BYTES_MAX + 1] = {true};
	size_t len = strlen(name);

	if (len > NAME_BYTES_MAX)
		return false;
	for (; *pattern != '\0'; pattern++) {
		if (*pattern == '*' || *pattern == '%') {
			for (size_t i = 0; i < len; i++) {
				if (reached[i] && (*pattern == '*' || name[i] != '/'))
					reached[i + 1] = true;
			}
			continue;
		}
		for (size_t i = len; i > 0; i--)
			reached[i] = reached[i - 1] && name[i - 1] == *pattern;
		reached[0] = false;
	}
	return reached[len];
}

static bool is_excluded(const struct brain *brain, const char *name)
{
	const char *p = brain->exclude;

	while (p != NULL && *p != '\0') {
		AUTO_FREE char *pattern = strndup(p, strcspn(p, "\t"));

		p += strcspn(p, "\t");
		if (*p == '\t')
			p++;
		if (pattern == NULL)
			return true;
		(void)tabunescape(pattern, strlen(pattern));
		if (pattern_matches(pattern, name))
			return true;
	}
	return false;
}

bool brain_box_is_wanted(const struct brain *brain, const char *name, const struct guid *guid)
{
	if (brain->only_box != NULL && !pattern_matches(brain->only_box, name))
		return false;
	if (brain->has_only_guid && !guid_equal(&brain->only_guid, guid))
		return false;
	return !is_excluded(brain, name);
}

static bool is_restricted(const struct brain *brain)
{
	return brain->only_box != NULL || brain->has_only_guid || brain->exclude != NULL;
}

/* What a source cannot read would be deleted at the destination. */
static int check_complete(const struct brain *brain, struct error *err)
{
	if (brain->way != SYNC_TO_PEER || !brain->tree_incomplete)
		return 0;
	int ret = error_set(err, -EIO, "a mailbox of user %s cannot be read: no backup without it",
			    brain->user->name);
	return stream_set_failed(brain->stream, ret, err);
}

/* What a program did to directories without a word in the mailbox log, or a mail server has logged
 * since, the tree does not tell: a merge may do the opposite. One way, that does not count. */
static int check_told(const struct brain *brain, bool makes_again, struct error *err)
{
	int ret = 0;

	if (brain->host->tree_is_told == NULL || brain->way == SYNC_FROM_PEER)
		return 0;
	ret = brain->host->tree_is_told(brain->host->ctx, makes_again, err);
	if (ret == 0 && list_moment_lasts(brain->user, &brain->tree_moment))
		return 0;
	return ret < 0 ? ret : error_set(err, -ESTALE, "mailboxes were changed here just now");
}

/* Who watches the store knows a directory by the mailbox that it was. */
static void tell_place(const struct brain *brain, const char *name, const struct guid *guid,
		       bool moved)
{
	if (brain->host->mailbox_placed != NULL && !guid_is_empty(guid))
		brain->host->mailbox_placed(brain->host->ctx, name, guid, moved);
}

/* What the peer hears of now may be gone in a moment. With a mailbox that has lost its uidlist it
 * is the only word of the GUID that it has got, which the peer's takes, too. */
static void tell_new_places(const struct brain *brain)
{
	for (size_t i = 0; i < brain->tree.node_count; i++) {
		const struct mailbox_node *node = &brain->tree.nodes[i];

		if (node->exists && brain_saved_state(brain, &node->guid) == NULL)
			tell_place(brain, node->name, &node->guid, false);
	}
}

static int send_tree(struct brain *brain, const struct peer_tree *peer, struct error *err)
{
	struct error untold;

	tell_new_places(brain);
	brain->untold = check_told(brain, false, &untold) < 0;
	return brain_send_tree(brain, peer, err);
}

/* ---- receiving ---- */

struct tree_builder {
	struct mailbox_tree tree;
	size_t node_size, deletion_size;
	struct peer_names names;
	bool untold;
};

static int add_node(struct brain *brain, struct tree_builder *builder, const struct item_node *item)
{
	struct mailbox_tree *tree = &builder->tree;

	if (tree->node_count >= BRAIN_NODES_MAX)
		return -EMSGSIZE;
	if (tree->node_count == builder->node_size) {
		size_t size = builder->node_size != 0 ? builder->node_size * 2 : 64;
		struct mailbox_node *bigger = realloc(tree->nodes, size * sizeof(*bigger));

		if (bigger == NULL)
			return -ENOMEM;
		tree->nodes = bigger;
		builder->node_size = size;
	}
	struct mailbox_node node = {
		.exists = item->existence[0] == 'y',
		.uid_validity = item->uid_validity,
		.uid_next = item->uid_next,
		.last_renamed_or_created = item->last_renamed_or_created,
		.subscribed = item->subscribed,
		.last_subscription_change = item->last_subscription_change,
	};
	if (item->has_guid)
		node.guid = item->mailbox_guid;
	int ret = mailbox_name_storable(brain->user, item->name, brain->alt_char, &node.name);
	if (ret < 0)
		return ret;
	tree->nodes[tree->node_count++] = node;
	return 0;
}

static int add_deletions(struct tree_builder *builder, enum mailbox_deletion_kind kind,
			 const char *list)
{
	struct mailbox_tree *tree = &builder->tree;
	struct mailbox_deletion deletion = {.kind = kind};
	int ret;

	while ((ret = items_next_delete(&list, &deletion.guid, &deletion.time)) > 0) {
		if (tree->deletion_count == builder->deletion_size) {
			size_t size = builder->deletion_size != 0 ? builder->deletion_size * 2 : 64;
			struct mailbox_deletion *bigger =
				realloc(tree->deletions, size * sizeof(*bigger));

			if (bigger == NULL)
				return -ENOMEM;
			tree->deletions = bigger;
			builder->deletion_size = size;
		}
		tree->deletions[tree->deletion_count++] = deletion;
	}
	return ret;
}

static int node_cmp(const void *a, const void *b)
{
	const struct mailbox_node *x = a, *y = b;
	int ret = strcmp(x->name, y->name);

	return ret != 0 ? ret : guid_cmp(&y->guid, &x->guid);
}

/* Those from one on; what is before it and not kept has been moved, or its name freed. */
static void drop_nodes(struct mailbox_tree *tree, size_t kept, size_t from)
{
	for (size_t i = from; i < tree->node_count; i++)
		free(tree->nodes[i].name);
	tree->node_count = kept;
}

/* Two names of the peer may become one here: a mailbox then gets its GUID into the name, what is
 * none is dropped. */
static int resolve_clashes(struct mailbox_tree *tree)
{
	bool clash = true;

	while (clash) {
		size_t kept = 0;

		clash = false;
		if (tree->node_count > 0)
			qsort(tree->nodes, tree->node_count, sizeof(*tree->nodes), node_cmp);
		for (size_t i = 0; i < tree->node_count; i++) {
			struct mailbox_node *node = &tree->nodes[i];
			struct mailbox_node *before = kept > 0 ? &tree->nodes[kept - 1] : NULL;

			if (before == NULL || strcmp(before->name, node->name) != 0) {
				tree->nodes[kept++] = *node;
				continue;
			}
			before->subscribed |= node->subscribed;
			if (guid_is_empty(&node->guid) || guid_equal(&node->guid, &before->guid)) {
				free(node->name);
				continue;
			}
			char hex[GUID_HEX_SIZE];
			char *name = NULL;
			if (asprintf(&name, "%s-%s", node->name, guid_to_hex(&node->guid, hex)) <
			    0) {
				drop_nodes(tree, kept, i);
				return -ENOMEM;
			}
			free(node->name);
			node->name = name;
			tree->nodes[kept++] = *node;
			clash = true;
		}
		tree->node_count = kept;
	}
	return 0;
}

static int receive_nodes(struct brain *brain, struct tree_builder *builder, bool *ended_r,
			 struct error *err)
{
	struct item item;
	int ret = items_receive(brain->items, &item, err);

	if (ret < 0)
		return ret;
	if (item.type == ITEM_CLOSE && brain->peer.is_dsyncfs && brain->role == SYNC_SLAVE) {
		*ended_r = true;
		return 0;
	}
	while (item.type == ITEM_NODE) {
		ret = add_node(brain, builder, &item.node);
		if (ret < 0) {
			error_errno(err, ret, "mailbox tree: node %zu", builder->tree.node_count);
			return stream_set_failed(brain->stream, ret, err);
		}
		ret = items_receive_type(brain->items, ITEM_NODE, true, &item, err);
		if (ret < 0)
			return ret;
	}
	if (item.type == ITEM_END)
		return 0;
	return items_unexpected(brain->items, &item, ITEM_NODE, err);
}

/* Only a Dovecot has an escape character. */
static void set_names(const struct brain *brain, const struct item_deletes *deletes,
		      struct peer_names *names_r)
{
	*names_r = (struct peer_names){
		.escape = deletes->escape_char != NULL ? deletes->escape_char[0] : '\0',
		/* What 2.3 has and 2.4 has not. */
		.unescaped = !items_peer_has_key(brain->items, ITEM_HANDSHAKE,
						 "import_commit_msgs_interval"),
	};
}

static int receive_tree(struct brain *brain, struct tree_builder *builder, bool *ended_r,
			struct error *err)
{
	struct item item;
	int ret = receive_nodes(brain, builder, ended_r, err);

	if (ret < 0 || *ended_r)
		return ret;
	ret = items_receive_type(brain->items, ITEM_DELETES, false, &item, err);
	if (ret < 0)
		return ret;
	builder->tree.separator = item.deletes.hierarchy_sep[0];
	builder->untold = item.deletes.dsyncfs_untold;
	set_names(brain, &item.deletes, &builder->names);
	ret = add_deletions(builder, DELETED_MAILBOX, item.deletes.mailboxes);
	if (ret == 0)
		ret = add_deletions(builder, DELETED_DIRECTORY, item.deletes.dirs);
	if (ret == 0)
		ret = add_deletions(builder, DELETED_SUBSCRIPTION, item.deletes.unsubscribes);
	if (ret == 0)
		ret = names_from_peer(&builder->names, &brain->tree, &builder->tree);
	if (ret == 0)
		ret = resolve_clashes(&builder->tree);
	if (ret < 0) {
		error_errno(err, ret, "mailbox tree");
		return stream_set_failed(brain->stream, ret, err);
	}
	return 0;
}

/* ---- applying ---- */

static int adopt_guid(struct brain *brain, const struct merge_tree_action *action,
		      struct error *err)
{
	struct mailbox *box = NULL;
	struct mailbox_txn *txn = NULL;
	int ret = mailbox_open(brain->user, action->name, &box, err);

	if (ret == 0)
		ret = mailbox_begin(box, &txn, err);
	if (ret == 0 && !guid_equal(&mailbox_status(box)->guid, &action->own_guid))
		ret = error_set(err, -ESTALE, "mailbox %s has another GUID now", action->name);
	if (ret == 0)
		ret = mailbox_set_guid(txn, &action->guid, false, err);
	if (ret == 0)
		ret = mailbox_commit(&txn, NULL, err);
	mailbox_abort(&txn);
	mailbox_close(&box);
	if (ret < 0)
		return ret;
	brain->host->forget(brain->host->ctx, &brain->peer, &action->own_guid, true);
	/* Its attributes have the GUID in their names. */
	return attributes_move(brain->user, &action->own_guid, &action->guid, err);
}

static void tell_all_places(const struct brain *brain)
{
	for (size_t i = 0; i < brain->tree.node_count; i++) {
		const struct mailbox_node *node = &brain->tree.nodes[i];

		if (node->exists)
			tell_place(brain, node->name, &node->guid, false);
	}
}

static int apply_action(struct brain *brain, const struct merge_tree_action *action,
			struct error *err)
{
	const struct mail_user *user = brain->user;
	int ret;

	switch (action->kind) {
	case MERGE_TREE_CREATE:
		/* One that we had, and a program that writes no mailbox log took away a moment ago:
		 * what the mount saw of it is on its way to us. */
		if (brain->host->tree_is_told == NULL &&
		    brain_saved_state(brain, &action->guid) != NULL &&
		    list_removed_just_now(user, action->name))
			return error_set(err, -ESTALE, "it was removed here just now");
		return mailbox_list_create(user, action->name, &action->guid, action->uid_validity,
					   err);
	case MERGE_TREE_DELETE:
		ret = mailbox_list_delete(user, action->name, &action->guid, err);
		if (ret == 0 && brain->way == SYNC_BOTH_WAYS)
			brain->host->forget(brain->host->ctx, &brain->peer, &action->guid, true);
		return ret;
	case MERGE_TREE_RENAME:
		/* One way, what a program does here does not count. */
		if (brain->host->tree_is_told == NULL && brain->way != SYNC_FROM_PEER &&
		    list_renamed_just_now(user, action->name))
			return error_set(err, -ESTALE, "it was renamed here just now");
		/* Before anybody can remove it under its new name. */
		tell_place(brain, action->new_name, &action->guid, true);
		return mailbox_list_rename(user, action->name, action->new_name,
					   action->time ? action->time + brain->own_ahead : 0, err);
	case MERGE_TREE_ADOPT_GUID:
		return adopt_guid(brain, action, err);
	case MERGE_TREE_SUBSCRIBE:
		return mailbox_list_subscribe(user, action->name, true, err);
	case MERGE_TREE_UNSUBSCRIBE:
		return mailbox_list_subscribe(user, action->name, false, err);
	case MERGE_TREE_CREATE_DIR:
	case MERGE_TREE_DELETE_DIR:
		/* A directory that holds no mailbox holds no mail: it comes and goes with its
		 * children. */
		return 0;
	}
	return 0;
}

static const char *action_name(enum merge_tree_kind kind)
{
	static const char *const names[] = {
		[MERGE_TREE_CREATE] = "create",	      [MERGE_TREE_DELETE] = "delete",
		[MERGE_TREE_RENAME] = "rename",	      [MERGE_TREE_ADOPT_GUID] = "take the GUID of",
		[MERGE_TREE_CREATE_DIR] = "make dir", [MERGE_TREE_DELETE_DIR] = "remove dir",
		[MERGE_TREE_SUBSCRIBE] = "subscribe", [MERGE_TREE_UNSUBSCRIBE] = "unsubscribe",
	};

	return names[kind];
}

static bool changes_places(const struct merge_tree_action *action)
{
	return action->kind == MERGE_TREE_CREATE || action->kind == MERGE_TREE_DELETE ||
	       action->kind == MERGE_TREE_RENAME || action->kind == MERGE_TREE_ADOPT_GUID;
}

/* Whether mailboxes may be made, renamed and removed here, now that the plan is known. */
static int check_places(const struct brain *brain, bool peer_untold, bool makes_again,
			struct error *err)
{
	if (peer_untold)
		return error_set(err, -ESTALE, "mailboxes were changed at the peer just now");
	if (brain->untold)
		return error_set(err, -ESTALE, "mailboxes were changed here just now");
	return check_told(brain, makes_again, err);
}

/* Whether one is to be made that we had, though nobody said that it went. Somebody may be at it: rm
 * -r has taken the uidlist, and the directory has got another GUID from whoever looked next. */
static bool makes_again(const struct brain *brain, const struct merge_tree_plan *plan)
{
	for (size_t i = 0; i < plan->action_count; i++) {
		if (plan->actions[i].kind == MERGE_TREE_CREATE &&
		    brain_saved_state(brain, &plan->actions[i].guid) != NULL)
			return true;
	}
	return false;
}

static void apply_plan(struct brain *brain, const struct merge_tree_plan *plan, bool peer_untold)
{
	struct error untold = {0};
	int told = 1; /* not asked yet */

	for (size_t i = 0; i < plan->action_count; i++) {
		struct error err = {0};
		const struct merge_tree_action *action = &plan->actions[i];

		if (changes_places(action) && !brain->check_only && told > 0)
			told = check_places(brain, peer_untold, makes_again(brain, plan), &untold);
		if (changes_places(action) && told < 0) {
			brain_again(brain, action->name, untold.text);
			continue;
		}
		if (brain->host->tree_changed != NULL && !brain_is_asked(brain))
			brain->host->tree_changed(brain->host->ctx, action_name(action->kind),
						  action->name, action->new_name, &action->guid);
		int ret = brain->check_only ? 0 : apply_action(brain, action, &err);
		/* To create one, nothing of it has to be there: what is missing is the place. */
		bool no_place = ret == -ENOENT && plan->actions[i].kind == MERGE_TREE_CREATE;

		if ((ret == -EEXIST || ret == -ENOENT || ret == -ESTALE) && !no_place)
			brain_again(brain, plan->actions[i].name, err.text);
		else if (ret < 0)
			brain_failed(brain, plan->actions[i].name, ret, &err);
		else
			brain->result->changes_applied++;
	}
	if (plan->run_again)
		brain_again(brain, "the tree", "some mailboxes could not be read (see the log)");
}

static bool tree_has(const struct mailbox_tree *tree, const struct guid *guid)
{
	for (size_t i = 0; i < tree->node_count; i++) {
		if (guid_equal(&tree->nodes[i].guid, guid))
			return true;
	}
	return false;
}

static bool is_deleted(const struct mailbox_tree *tree, const struct guid *guid)
{
	for (size_t i = 0; i < tree->deletion_count; i++) {
		const struct mailbox_deletion *deletion = &tree->deletions[i];

		/* One that is known as long as its state is has to be told until the peer has done
		 * it. */
		if (deletion->kind == DELETED_MAILBOX && !deletion->kept &&
		    guid_equal(&deletion->guid, guid))
			return true;
	}
	return false;
}

/* What is known of mailboxes that neither side has any more, or that the peer deletes now since
 * they were deleted here. */
static void forget_gone(struct brain *brain, const struct mailbox_tree *peer)
{
	if (brain->tree_incomplete || is_restricted(brain))
		return;
	for (size_t i = 0; i < brain->state.count; i++) {
		const struct guid *guid = &brain->state.boxes[i].guid;

		if (!tree_has(&brain->tree, guid) &&
		    (!tree_has(peer, guid) || is_deleted(&brain->tree, guid)))
			brain->host->forget(brain->host->ctx, &brain->peer, guid, true);
	}
}

/* Dovecot ends the session at a mailbox whose UIDVALIDITY is not the one in the state it was given:
 * such a mailbox is not announced, and the state forgotten. */
static void distrust_states(struct brain *brain, const struct mailbox_tree *peer)
{
	for (size_t i = 0; i < brain->wire_state_count; i++) {
		struct item_state *wire = &brain->wire_states[i];

		for (size_t n = 0; n < peer->node_count; n++) {
			const struct mailbox_node *node = &peer->nodes[n];

			if (guid_equal(&node->guid, &wire->mailbox_guid) &&
			    node->uid_validity != wire->last_uidvalidity)
				wire->last_uidvalidity = 0;
		}
	}
}

/* Where the tree stays as it is: only what both have can be compared. */
static void keep_known(struct mailbox_tree *tree, const struct mailbox_tree *peer)
{
	size_t kept = 0;

	for (size_t i = 0; i < tree->node_count; i++) {
		if (tree_has(peer, &tree->nodes[i].guid))
			tree->nodes[kept++] = tree->nodes[i];
		else
			free(tree->nodes[i].name);
	}
	tree->node_count = kept;
}

/* The mailbox gets the GUID in this session's tree alone, so that it is compared as the one that it
 * would be. One that has the GUID now would be gone. */
static void pretend_guid(struct mailbox_tree *tree, const struct merge_tree_action *action)
{
	size_t kept = 0;

	for (size_t i = 0; i < tree->node_count; i++) {
		struct mailbox_node *node = &tree->nodes[i];

		if (guid_equal(&node->guid, &action->guid)) {
			free(node->name);
			continue;
		}
		if (guid_equal(&node->guid, &action->own_guid))
			node->guid = action->guid;
		tree->nodes[kept++] = *node;
	}
	tree->node_count = kept;
}

/* Nothing was done: what there is to compare is what both have, and what would be the peer's. */
static void pretend_plan(struct brain *brain, const struct merge_tree_plan *plan,
			 const struct mailbox_tree *peer)
{
	for (size_t i = 0; i < plan->action_count; i++) {
		if (plan->actions[i].kind == MERGE_TREE_ADOPT_GUID)
			pretend_guid(&brain->tree, &plan->actions[i]);
	}
	keep_known(&brain->tree, peer);
}

/* The own tree as the peer got it. The names belong to brain->tree. */
static int wanted_tree(const struct brain *brain, struct mailbox_tree *tree_r)
{
	*tree_r = brain->tree;
	tree_r->node_count = 0;
	tree_r->nodes = calloc(brain->tree.node_count + 1, sizeof(*tree_r->nodes));
	tree_r->deletions = calloc(brain->tree.deletion_count + 1, sizeof(*tree_r->deletions));
	if (tree_r->nodes == NULL || tree_r->deletions == NULL) {
		free(tree_r->nodes);
		free(tree_r->deletions);
		return -ENOMEM;
	}
	for (size_t i = 0; i < brain->tree.deletion_count; i++)
		tree_r->deletions[i] = brain->tree.deletions[i];
	for (size_t i = 0; i < brain->tree.node_count; i++) {
		const struct mailbox_node *node = &brain->tree.nodes[i];

		if (brain_box_is_wanted(brain, node->name, &node->guid))
			tree_r->nodes[tree_r->node_count++] = *node;
	}
	return 0;
}

static int merge_trees(struct brain *brain, struct tree_builder *builder, struct error *err)
{
	struct mailbox_tree own;
	struct merge_tree_plan plan = {0};
	int ret = wanted_tree(brain, &own);

	if (ret < 0)
		return error_errno(err, ret, "mailbox tree");
	brain_set_clocks(brain, &own, &builder->tree);
	struct merge_tree_input input = {
		.mode = brain_mode(brain),
		.role = brain_merge_role(brain),
		.own = &own,
		.peer = &builder->tree,
		.peer_escape = builder->names.escape,
		.own_incomplete = brain->tree_incomplete,
		.own_has_no_directories = brain->user->location.layout == MAIL_LAYOUT_MAILDIRPP,
		.peer_stays = brain->way == SYNC_FROM_PEER,
	};
	ret = brain->way == SYNC_FROM_PEER && !brain->keeps ? merge_tree_backup(&input, &plan, err)
							    : merge_tree(&input, &plan, err);
	free(own.nodes);
	free(own.deletions);
	if (ret < 0)
		return stream_set_failed(brain->stream, ret, err);
	apply_plan(brain, &plan, builder->untold);
	if (brain->check_only) {
		pretend_plan(brain, &plan, &builder->tree);
	} else if (plan.action_count > 0) {
		ret = brain_read_tree(brain, err);
		if (ret == 0)
			tell_all_places(brain);
	}
	merge_tree_plan_free(&plan);
	return ret;
}

/* A Dovecot that is the destination has said its tree, and not heard ours: what it would do to its
 * INBOX without getting anywhere is not begun. Where it has started the session, it is its own. */
static int check_dovecot(const struct brain *brain, const struct mailbox_tree *peer,
			 struct error *err)
{
	struct mailbox_tree own;

	if (brain->way != SYNC_TO_PEER || brain->keeps || brain->role != SYNC_MASTER)
		return 0;
	int ret = wanted_tree(brain, &own);
	if (ret < 0)
		return error_errno(err, ret, "mailbox tree");
	ret = merge_tree_backup_to_dovecot(&own, peer, is_restricted(brain), err);
	free(own.nodes);
	free(own.deletions);
	return ret;
}

static int exchange_trees(struct brain *brain, struct tree_builder *builder, bool *ended_r,
			  struct error *err)
{
	/* Two of us, neither of them introduced, would wait for each other. */
	bool dovecot = !items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs_program");
	int ret = dovecot ? 0 : send_tree(brain, NULL, err);

	if (ret == 0)
		ret = receive_tree(brain, builder, ended_r, err);
	const struct peer_tree peer = {&builder->tree, builder->names};
	if (ret == 0 && dovecot)
		ret = check_dovecot(brain, &builder->tree, err);
	if (ret == 0 && dovecot)
		ret = send_tree(brain, &peer, err);
	return ret;
}

int brain_sync_tree(struct brain *brain, bool *ended_r, struct error *err)
{
	struct tree_builder builder = {0};
	int ret = check_complete(brain, err);

	*ended_r = false;
	if (ret == 0)
		ret = exchange_trees(brain, &builder, ended_r, err);
	/* A source's tree stays as it is. */
	if (ret == 0 && !*ended_r && brain->way != SYNC_TO_PEER)
		ret = merge_trees(brain, &builder, err);
	if (ret == 0 && !*ended_r && brain->way == SYNC_BOTH_WAYS) {
		forget_gone(brain, &builder.tree);
		if (brain->role == SYNC_MASTER)
			distrust_states(brain, &builder.tree);
	}
	if (ret == 0 && !*ended_r && brain->role == SYNC_MASTER &&
	    brain_weigh(brain, &builder.tree) < 0)
		ret = error_errno(err, -ENOMEM, "mailbox tree");
	mailbox_tree_free(&builder.tree);
	return ret;
}
