/*
 * What one side has to do to its mailbox tree so that both sides end up equal.
 *
 * Pure: no I/O, no clock, no log. Both sides call it with the same two trees (their own as they
 * sent it, the peer's as they received it) and reach the same tree without negotiation.
 *
 * Promises: a mailbox the peer merely lacks is created there, never deleted here; INBOX is never
 * deleted or renamed; content is never dropped by a clash of names: two mailboxes of one name made
 * independently become one (both take the greater GUID, and their messages merge).
 * MERGE_DSYNCFS also: a mailbox whose GUID the peer deleted is deleted although the name exists
 * again; no temporary name is left in the tree, nor after a run that was cut off, unless both ends
 * were, between two renames of the same mailbox; a directory never becomes a mailbox.
 * Times are compared as given, with one second's resolution: two hosts' clocks decide between two
 * renames of one mailbox, or a subscription and its opposite, made on both sides while apart.
 */
#ifndef DSYNCFS_SYNC_MERGE_TREE_H
#define DSYNCFS_SYNC_MERGE_TREE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/mailbox_list.h"
#include "sync/merge_flags.h"
#include "sync/merge_mailbox.h"

struct merge_tree_input {
	enum merge_mode mode;
	enum merge_role role; /* own */
	/* Nodes sorted by name bytewise, names unique; '/'-joined as in store/mailbox_list.h. The
	 * peer's parts must already be storable here. */
	const struct mailbox_tree *own, *peer;
	char peer_escape; /* from the peer's D, 0 none: for its name hashes */
	char own_escape;
	/* Some own mailboxes could not be read: a name that is missing in the tree may still exist.
	 * Nothing is created. */
	bool own_incomplete;
	/* The peer changes nothing: of two mailboxes of one name it is the own that takes a GUID.
	 */
	bool peer_stays;
	/* Own storage cannot hold a directory that is no mailbox (Maildir++). */
	bool own_has_no_directories;
};

enum merge_tree_kind {
	MERGE_TREE_CREATE,     /* mailbox name with guid and uid_validity */
	MERGE_TREE_DELETE,     /* mailbox name, while it has guid; children stay */
	MERGE_TREE_RENAME,     /* name -> new_name, with children */
	MERGE_TREE_ADOPT_GUID, /* mailbox name, which has own_guid, takes guid */
	MERGE_TREE_CREATE_DIR, /* directory without a mailbox; only where those exist */
	MERGE_TREE_DELETE_DIR, /* directory without mailbox and children */
	MERGE_TREE_SUBSCRIBE,
	MERGE_TREE_UNSUBSCRIBE,
};

struct merge_tree_action {
	enum merge_tree_kind kind;
	char *name;
	char *new_name; /* RENAME */
	int64_t time;	/* RENAME: when somebody did it, by the clock of the trees; 0 not known */
	struct guid guid, own_guid;
	uint32_t uid_validity;
};

/* In the order in which they have to be done. */
struct merge_tree_plan {
	struct merge_tree_action *actions;
	size_t action_count;
	/* The trees cannot become equal in this run (own_incomplete): run again. */
	bool run_again;
};

/* -EINVAL: what is wrong with a tree (duplicate GUIDs, unsorted or malformed names), in err;
 * -ENOMEM. Free with merge_tree_plan_free(). */
int merge_tree(const struct merge_tree_input *input, struct merge_tree_plan *plan_r,
	       struct error *err);
/* One way: the own tree becomes the peer's, with its names, GUIDs and subscriptions; mode is not
 * looked at. -EOPNOTSUPP, with the reason, where that cannot be: an INBOX that the peer does not
 * have, or with a UIDNEXT above the peer's; and where the peer has no mailboxes at all. */
int merge_tree_backup(const struct merge_tree_input *input, struct merge_tree_plan *plan_r,
		      struct error *err);
/* What a Dovecot would do to become our tree, own. It deletes each mailbox that is another one than
 * ours or ahead of it, and where its INBOX cannot be deleted, as in a Maildir, that leaves it empty
 * in every run. -EOPNOTSUPP, with the reason, where its INBOX would be deleted with what it has
 * had, or all of its mailboxes. restricted: own is not all that there is. */
int merge_tree_backup_to_dovecot(const struct mailbox_tree *own, const struct mailbox_tree *peer,
				 bool restricted, struct error *err);
void merge_tree_plan_free(struct merge_tree_plan *plan);

#endif
