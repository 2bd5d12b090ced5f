/*
 * The events of a job, by mailbox.
 */
#ifndef DSYNCFS_SYNC_WORKER_GROUPS_H
#define DSYNCFS_SYNC_WORKER_GROUPS_H

#include <stdbool.h>
#include <stddef.h>
#include "store/base/guid.h"
#include "store/mail_event.h"
#include "store/mail_user.h"
#include "sync/worker_protocol.h"

/* Those of one directory that are of one mailbox, or of one that is not known, in order. */
struct worker_group {
	const char *dir;
	struct guid guid; /* of the mailbox that it was then; empty: not known */
	char *name;	  /* of the mailbox that is there now; NULL: the directory is none's */
	bool scan;
	bool unseen; /* something may have happened that no event tells of, a rename among it */
	struct mail_event *events;
	size_t count, size;
};

/* In the order in which their first events came. */
struct worker_groups {
	struct worker_group *list;
	size_t count, size;
};

/* The event's strings have to outlive the groups. */
int worker_groups_add(struct worker_groups *groups, const struct mail_user *user,
		      const struct worker_event *event);
void worker_groups_free(struct worker_groups *groups);

#endif
