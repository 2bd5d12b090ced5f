/*
 * A moment at which nobody is in the middle of changing the list of mailboxes.
 *
 * Dovecot renames a directory away or the subscriptions file into place first and tells the mailbox
 * log afterwards (reference 6.3, 6.4). Who reads in between sees a mailbox that is missing without
 * having been deleted, and a replica would make it again.
 */
#ifndef DSYNCFS_LIST_MOMENT_H
#define DSYNCFS_LIST_MOMENT_H

#include <stdbool.h>
#include <sys/stat.h>
#include "store/base/error.h"

struct mail_user;

struct list_moment {
	struct stat log, subscriptions;
};

/* Waits for the moment: until mailboxes.lock is free, and the mailbox log is as new as the
 * subscriptions, the latter for a second at most: not everybody writes the log. Not while the
 * caller holds the lock. */
int list_moment_wait(const struct mail_user *user, struct list_moment *moment_r, struct error *err);

/* The present state, whatever is going on. */
int list_moment_look(const struct mail_user *user, struct list_moment *moment_r, struct error *err);

/* Whether nothing was changed and nobody has begun to: what was read since is of one piece. */
bool list_moment_lasts(const struct mail_user *user, const struct list_moment *moment);

/* Programs that are not a mail server take a mailbox's directory away, or rename it, and write no
 * mailbox log. Whether that may have happened within the last two seconds: then the mount's word of
 * it is still to come, and the list does not mean what it says. For who cannot ask the replicator
 * whether the mount has told of everything: the dsync command. */
bool list_removed_just_now(const struct mail_user *user, const char *name);
bool list_renamed_just_now(const struct mail_user *user, const char *name);

#endif
