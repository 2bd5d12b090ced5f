/*
 * The list index (dovecot.list.index): Dovecot's memory of which mailboxes there are.
 *
 * While its refresh flag is 0 Dovecot does not look at the directories. After creating, renaming or
 * deleting a mailbox the flag has to be set, then running sessions see the change at once.
 */
#ifndef DSYNCFS_LIST_INDEX_H
#define DSYNCFS_LIST_INDEX_H

#include "store/index/index.h"

/* dirfd: the index root. Nothing to do (0) when there is no list index or the flag is set already.
 */
int list_index_set_refresh(int dirfd, const char *label, enum index_lock_method lock_method,
			   int timeout_ms, struct error *err);

#endif
