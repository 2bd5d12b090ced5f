/*
 * Dotlocks, as Dovecot makes and judges them (reference 1.4): <file>.lock with "<pid>:<hostname>".
 *
 * Made with O_CREAT|O_EXCL. Excludes other processes and, by a table of its own, other users of the
 * same directory in this process, which would look like a stale lock of their own pid to each
 * other.
 *
 * A lock of this host whose process is gone is overridden when it is older than 2 s; one whose
 * process lives only if it was taken before the mail was mounted (store/base/mounted.h), more than
 * 10 s after that: an LMTP server that could not remove its lock may live for long. Any other
 * (another host, unreadable) when neither it nor the file it protects changed for DOTLOCK_STALE_S.
 */
#ifndef DSYNCFS_MAILDIR_DOTLOCK_H
#define DSYNCFS_MAILDIR_DOTLOCK_H

#include <stdbool.h>
#include "store/base/error.h"

#define DOTLOCK_STALE_S		   120
#define DOTLOCK_TIMEOUT_MS_DEFAULT 125000

struct dotlock;

/* file: the protected file below dirfd, which stays open as long as the lock. what: the directory,
 * for messages. -EAGAIN: held by someone else for all of timeout_ms. */
int dotlock_acquire(int dirfd, const char *what, const char *file, int timeout_ms,
		    struct dotlock **lock_r, struct error *err);
/* It was overridden: its last holder died, and may have left its work half done. */
bool dotlock_was_stale(const struct dotlock *lock);
/* Whether a process of this host that is gone has left the lock. Costs one failed look-up when it
 * is free. */
bool dotlock_is_abandoned(int dirfd, const char *file);
/* Removes the lock file if it is still ours; says so in the log if it is not. */
void dotlock_release(struct dotlock **lock);
/* Tells others that we are alive; does something at most every 10 s. To be called in long loops. */
void dotlock_touch(struct dotlock *lock);

/* Waits until nobody holds the lock, or only a process that is gone, without taking it. waited_r:
 * somebody did hold it. -EAGAIN after timeout_ms. Costs one failed look-up when it is free. */
int dotlock_wait(int dirfd, const char *what, const char *file, int timeout_ms, bool *waited_r,
		 struct error *err);

#endif
