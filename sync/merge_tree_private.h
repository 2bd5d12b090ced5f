/*
 * What the files of the tree merge share. The order of work:
 *
 *   merge_tree.c       checks both trees, finds which mailbox here is which there, applies
 * deletions merge_tree_names.c the name that each mailbox has afterwards, on both sides
 *   merge_tree_plan.c  the own side's actions to get there, in an order in which they can be done
 *   merge_tree_subs.c  subscriptions, and directories that are no mailboxes
 *
 * Sides are numbered by role (0 master, 1 slave), so that both ends run through the same steps.
 */
#ifndef DSYNCFS_SYNC_MERGE_TREE_PRIVATE_H
#define DSYNCFS_SYNC_MERGE_TREE_PRIVATE_H

#include "sync/merge_tree.h"

/* One mailbox of the merged tree. */
struct tree_entry {
	struct guid guid;
	const struct mailbox_node *node[2]; /* NULL: that side does not have it */
	int64_t time[2];		    /* newest rename of it or of a parent there */
	bool deleted;
	struct tree_entry *merged; /* the other side's mailbox of this name: they become one */
	struct guid final_guid;
	char *target; /* its name afterwards; NULL when deleted */
	bool visiting;
	bool lost; /* another one has the name it wanted */
};

struct tree_work {
	const struct merge_tree_input *in;
	const struct mailbox_tree *tree[2];
	char escape[2];
	int own, other;
	struct tree_entry *entries;
	size_t entry_count;
	struct tree_entry **by_node[2];		 /* by index of the node; NULL: no mailbox */
	const struct mailbox_deletion **gone[2]; /* sorted by kind and GUID */
	struct merge_tree_plan *plan;
	size_t plan_size;
	struct error *err;
};

const struct mailbox_node *tree_find(const struct mailbox_tree *tree, const char *name);
/* The mailbox that the side has under this name, or NULL. */
struct tree_entry *tree_entry_at(const struct tree_work *work, int side, const char *name);
bool tree_is_inbox(const char *name);
/* The newest deletion of this kind that the side reports, or NULL. */
const struct mailbox_deletion *tree_deletion(const struct tree_work *work, int side,
					     enum mailbox_deletion_kind kind,
					     const struct guid *guid);
/* The same of a name, hashed as that side writes it. -ENOMEM. */
int tree_name_deletion(const struct tree_work *work, int side, enum mailbox_deletion_kind kind,
		       const char *name, const struct mailbox_deletion **deletion_r);

/* The name of a mailbox for the moment between two renames of one plan. */
#define TREE_PASSING_PREFIX    "renaming-"
#define TREE_PASSING_NAME_SIZE (sizeof(TREE_PASSING_PREFIX) + GUID_HEX_LEN)
/* When somebody last renamed or made it, on either side. */
int64_t tree_newest_time(const struct tree_entry *entry);
void tree_passing_name(const struct guid *guid, char name_r[TREE_PASSING_NAME_SIZE]);
/* Also of what was carried along. */
bool tree_is_passing_name(const char *name);

/* Adds an action; NULL: out of memory. */
struct merge_tree_action *tree_add_action(struct tree_work *work, enum merge_tree_kind kind,
					  const char *name);

int merge_tree_names(struct tree_work *work);
int merge_tree_mailboxes(struct tree_work *work);
int merge_tree_directories(struct tree_work *work);
int merge_tree_subscriptions(struct tree_work *work);

#endif
