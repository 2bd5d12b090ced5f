/*
 * What the files that change the mailbox list share.
 */
#ifndef DSYNCFS_MAILBOX_LIST_PRIVATE_H
#define DSYNCFS_MAILBOX_LIST_PRIVATE_H

#include <stdbool.h>
#include <sys/stat.h>
#include "store/base/error.h"

struct mail_user;

#define INDEX_LOCK_TIMEOUT_MS 60000
#define INDEX_LOCK_SHORT_MS   50

/* Fills err and returns the code. */
int list_failed(struct error *err, const struct mail_user *user, const char *name, int code,
		const char *call, const char *path);
/* -EINVAL for a name that cannot be stored. */
int list_check_name(const struct mail_user *user, const char *name, struct error *err);
/* Tells running Dovecot sessions to look at the directories again. The change itself is done: a
 * failure here is worth a warning, no more. */
void list_refresh_index(const struct mail_user *user);
/* Does the same and lets go of mailboxes.lock, in that order if it can be: Dovecot, which may make
 * the inbox while it holds the list index's lock, waits for mailboxes.lock then. */
void list_unlock_changed(const struct mail_user *user, int *lock);

bool list_path_exists(const char *path);
int list_make_directory(int dirfd, const char *name, const struct stat *like);
/* Makes the directories of path that are missing below base, each like base. */
int list_make_directories(const char *base, const char *path);
/* sdbox with ALT=: the mailbox's directory in the alternative storage goes along. */
int list_move_alt(const struct mail_user *user, const char *from, const char *to,
		  struct error *err);
int list_remove_alt(const struct mail_user *user, const char *name, struct error *err);
/* Root, CONTROL and INDEX: of a user who has no mail yet, none of them need be there. */
int list_make_roots(const struct mail_user *user, const char *name, struct error *err);

#endif
