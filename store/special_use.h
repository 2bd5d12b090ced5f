/*
 * Mailboxes by what they are for (RFC 6154): `special_use` of the settings' mailbox blocks.
 */
#ifndef DSYNCFS_SPECIAL_USE_H
#define DSYNCFS_SPECIAL_USE_H

#include <stdbool.h>
#include "store/base/buf.h"

/* Adds what a mailbox's block says: a line "ATTRIBUTES TAB MAILBOX". -EINVAL: it cannot be kept. */
int special_use_add(struct buf *lines, const char *attributes, const char *mailbox);
/* The next mailbox that has the attribute ("\Trash"; case does not count), from *pos on, which is
 * NULL or the lines at first, and is moved behind it: appended to name, as the settings say it.
 * False: there is no more. */
bool special_use_next(const char **pos, const char *attribute, struct buf *name);

#endif
