/*
 * The mailboxes of a user: names, GUIDs, subscriptions, and what the mailbox log knows of their
 * past.
 *
 * Names are hierarchy parts in UTF-8 joined by '/'; a part never contains '/', NUL or control
 * characters and is never "", "." or "..". INBOX is "INBOX".
 */
#ifndef DSYNCFS_MAILBOX_LIST_H
#define DSYNCFS_MAILBOX_LIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"

struct mail_user;

struct mailbox_node {
	char *name;
	bool exists;	  /* false: only subscribed, or only a parent */
	struct guid guid; /* empty: not selectable */
	uint32_t uid_validity, uid_next;
	int64_t last_renamed_or_created; /* UTC seconds, 0 unknown */
	bool subscribed;
	int64_t last_subscription_change; /* 0 unknown */
};

enum mailbox_deletion_kind { DELETED_MAILBOX, DELETED_DIRECTORY, DELETED_SUBSCRIPTION };

struct mailbox_deletion {
	enum mailbox_deletion_kind kind;
	struct guid guid; /* of the mailbox; else the name hash */
	int64_t time;
	bool kept; /* known from our own log alone (mailbox_log.h) */
};

struct mailbox_tree {
	struct mailbox_node *nodes; /* sorted by name, bytewise */
	size_t node_count;
	struct mailbox_deletion *deletions;
	size_t deletion_count;
	char separator; /* of the visible names, for name hashes */
};

/* Reads names, subscriptions and the mailbox log; looks each mailbox's GUID up.
 * A mailbox that cannot be read is logged and left out, with *incomplete_r true: then its absence
 * proves nothing. */
int mailbox_list_read(const struct mail_user *user, struct mailbox_tree *tree_r, bool *incomplete_r,
		      struct error *err);
/* Adds what our own log tells of mailboxes that the tree neither has nor knows as deleted, and that
 * are wanted. */
int mailbox_list_add_kept(const struct mail_user *user, struct mailbox_tree *tree,
			  bool (*wanted)(void *ctx, const struct guid *guid), void *ctx,
			  struct error *err);
void mailbox_tree_free(struct mailbox_tree *tree);
/* Whether there is a mailbox of that name. */
bool mailbox_list_has(const struct mail_user *user, const char *name);

/* Under mailboxes.lock, durable, and visible to running Dovecot sessions (list index refresh flag).
 * Each is recorded in the mailbox log as Dovecot does. */
/* guid NULL and uid_validity 0: new ones. -EEXIST when the name is taken. */
int mailbox_list_create(const struct mail_user *user, const char *name, const struct guid *guid,
			uint32_t uid_validity, struct error *err);
/* Only while it still has this GUID (-ESTALE otherwise). Children stay. */
int mailbox_list_delete(const struct mail_user *user, const char *name, const struct guid *guid,
			struct error *err);
/* With children. time: when it was renamed, for the mailbox log: of two names the newer one wins.
 * 0, or one that is not yet: now. */
int mailbox_list_rename(const struct mail_user *user, const char *from, const char *to,
			int64_t time, struct error *err);
int mailbox_list_subscribe(const struct mail_user *user, const char *name, bool subscribed,
			   struct error *err);

/* What a program did to directories, without Dovecot, is put into the mailbox log here. guid: the
 * one the removed mailbox had. */
int mailbox_list_log_deleted(const struct mail_user *user, const char *name,
			     const struct guid *guid, int64_t time, struct error *err);
/* The record is newer than that of the old name, also where two renames share a second. time 0: it
 * is not known when; then any record of the new name that is newer than the old one's will do. */
int mailbox_list_log_renamed(const struct mail_user *user, const char *from, const char *to,
			     int64_t time, struct error *err);

/* Whether the name can be stored, and the closest one that can: bad characters become alt_char.
 * name_r is malloc'ed. Never leaves the user's mail root. */
int mailbox_name_storable(const struct mail_user *user, const char *name, char alt_char,
			  char **name_r);

/* Maps a directory of an event (relative to the home) to a mailbox name: malloc'ed name, or -ENOENT
 * where the directory is none of a mailbox (nor its CONTROL or INDEX directory). */
int mailbox_name_from_dir(const struct mail_user *user, const char *dir, char **name_r);

#endif
