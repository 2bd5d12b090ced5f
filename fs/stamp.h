/*
 * Stamps: what the directory of a clean mailbox looks like, so that mail which somebody puts into
 * the backing directory while nothing is mounted is found at the next start (design invariant 2).
 *
 * A stamp holds inode, size, mtime and ctime of new/, cur/, the uidlist and the index log, and the
 * number of directories beside them: one more is a mailbox that nobody saw being made.
 */
#ifndef DSYNCFS_FS_STAMP_H
#define DSYNCFS_FS_STAMP_H

#include <stdbool.h>
#include "store/journal/journal.h"

/* home is relative to root_fd, dir to home, as in mail_event.h. -ENOENT: no such directory. */
int stamp_take(int root_fd, const char *home, const char *dir, struct journal_stamp *stamp_r);

enum stamp_difference { STAMP_SAME, STAMP_OTHER_MAIL, STAMP_OTHER_DIRS };
enum stamp_difference stamp_compare(const struct journal_stamp *a, const struct journal_stamp *b);

#endif
