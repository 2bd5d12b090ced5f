/*
 * Two mailbox trees in memory, with the logs that a store keeps of them, and a session between
 * them. For the tests of the tree merge. Like Maildir++: no directories that are no mailboxes.
 */
#ifndef DSYNCFS_TESTS_TREE_MODEL_H
#define DSYNCFS_TESTS_TREE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "sync/merge_tree.h"

#define TREE_MAX  256
#define TREE_LOG  2048
#define TREE_NAME 512

struct tree_box {
	char name[TREE_NAME];
	struct guid guid;
	uint32_t uid_validity;
};

struct tree_stamp {
	char name[TREE_NAME];
	int64_t time;
	bool subscribed;
};

struct tree_side {
	struct tree_box boxes[TREE_MAX];
	size_t count;
	struct tree_stamp renames[TREE_LOG], subs[TREE_MAX];
	size_t rename_count, sub_count;
	struct mailbox_deletion deletions[TREE_LOG];
	size_t deletion_count;
};

struct tree_alias {
	struct guid from, to;
};

struct tree_model {
	struct tree_side *side[2];
	enum merge_mode mode;
	int64_t clock;
	uint32_t random, next_guid;
	size_t actions[2];
	struct guid *deleted; /* by users */
	size_t deleted_count;
	struct tree_alias *aliases; /* merged into another */
	size_t alias_count;
};

/* INBOX on both sides, the same or one each. */
void tree_model_init(struct tree_model *model, enum merge_mode mode, uint32_t seed);
void tree_model_init_apart(struct tree_model *model, enum merge_mode mode, uint32_t seed);
void tree_model_free(struct tree_model *model);

void tree_create(struct tree_model *model, int side, const char *name);
void tree_delete(struct tree_model *model, int side, const char *name);
void tree_rename(struct tree_model *model, int side, const char *from, const char *to);
void tree_subscribe(struct tree_model *model, int side, const char *name, bool subscribed);
void tree_swap_guids(struct tree_model *model, int side, const char *name, const char *other);

bool tree_has(const struct tree_model *model, int side, const char *name);
const struct guid *tree_guid(const struct tree_model *model, int side, const char *name);
size_t tree_count(const struct tree_model *model, int side);
bool tree_is_subscribed(const struct tree_model *model, int side, const char *name);

/* Merges, and applies at most that many actions on either side. Fails the test when an action
 * cannot be done. */
void tree_model_sync(struct tree_model *model, size_t master_max, size_t slave_max);
/* One way: side 1 becomes what side 0 is. */
void tree_model_backup(struct tree_model *model);
const char *tree_model_difference(const struct tree_model *model);
void tree_model_print(const struct tree_model *model);
/* A random history. */
void tree_model_backup_history(uint32_t seed, bool print);
void tree_model_history(enum merge_mode mode, uint32_t seed, bool print);

#endif
