/*
 * What the dsync command says while it works: what is done, or would be, to the mailboxes of one
 * side, and on a terminal how far it is.
 */
#ifndef DSYNCFS_SYNC_DSYNC_TELL_H
#define DSYNCFS_SYNC_DSYNC_TELL_H

#include <stdbool.h>
#include <stdint.h>
#include "sync/brain.h"

struct dsync_tell {
	const char *side; /* whose mailboxes */
	bool dry_run;	  /* what would be done is printed, one line each */
	bool json;	  /* and each line is an object */
	bool progress;	  /* to a terminal */
	int64_t start_ms, shown_ms;
};

void dsync_tell_tree(const struct dsync_tell *tell, const char *what, const char *mailbox,
		     const char *new_name, const struct guid *guid);
void dsync_tell_plan(const struct dsync_tell *tell, const char *mailbox,
		     const struct sync_planned *planned);
/* Some times a second. */
void dsync_tell_progress(struct dsync_tell *tell, const struct sync_progress *progress);
/* Takes the line of the progress away. */
void dsync_tell_end(struct dsync_tell *tell);

#endif
