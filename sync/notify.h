/*
 * Dovecot's notify socket and fifo in state_dir: its replication plugin says there which user's
 * mail it has changed.
 *
 * What happens in the mount is seen without it; a notification only has the user synced. The
 * socket's `sync` is answered when that sync has ended, so a delivery can wait for it.
 *
 *   replication-notify-fifo   <user> TAB low|high
 *   replication-notify        <user> TAB low|high|sync; "+" or "-" answers sync
 *
 * A user that dsyncd has not heard of is none: anybody whom the mode lets in can write here.
 */
#ifndef DSYNCFS_SYNC_NOTIFY_H
#define DSYNCFS_SYNC_NOTIFY_H

#include "store/base/error.h"
#include "store/settings.h"

#define NOTIFY_SOCKET "replication-notify"
#define NOTIFY_FIFO   "replication-notify-fifo"

struct event_base;
struct notify;
struct replicator;

int notify_new(struct event_base *base, const struct settings *set, struct replicator *replicator,
	       struct notify **notify_r, struct error *err);
void notify_free(struct notify **notify);

#endif
