/*
 * mailboxes.lock in the index root, with VOLATILEDIR= there: held while mailboxes are created,
 * renamed or deleted. The first lock in the order of all (reference 0.1). The file exists only
 * while somebody holds or wants it.
 */
#ifndef DSYNCFS_LIST_LOCK_H
#define DSYNCFS_LIST_LOCK_H

#include <stdbool.h>
#include "store/base/error.h"

struct mail_user;

/* Waits up to a minute; -EAGAIN. Makes the index root where it is missing (its parent has to
 * exist). The lock is the descriptor in *fd_r; list_unlock() releases it and sets it to -1. */
int list_lock(const struct mail_user *user, int *fd_r, struct error *err);
/* As list_lock(), and -EAGAIN at once: also where the caller has the lock. */
int list_lock_try(const struct mail_user *user, int *fd_r, struct error *err);
void list_unlock(const struct mail_user *user, int *fd);

/* Whether somebody holds the lock, or is about to take or release it. */
bool list_lock_is_held(const struct mail_user *user);

/* Returns when nobody is in the middle of creating, renaming or deleting a mailbox. Not while the
 * lock is held by the caller. Errors as list_lock(). */
int list_lock_wait(const struct mail_user *user, struct error *err);

#endif
