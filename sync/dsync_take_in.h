/*
 * What programs did to a user's files while nobody watched, taken into the indexes before a session
 * of the dsync command: new files get UIDs, renamed ones their flags, and a message whose file is
 * gone is expunged, as Dovecot would do when it opens the mailbox next.
 *
 * Where not one message of a mailbox has a file, the disk is lost rather than the mail: then
 * nothing is taken for expunged.
 */
#ifndef DSYNCFS_SYNC_DSYNC_TAKE_IN_H
#define DSYNCFS_SYNC_DSYNC_TAKE_IN_H

#include <stdbool.h>
#include "store/base/error.h"
#include "store/mail_user.h"
#include "store/mailbox.h"

/* A mailbox that cannot be read here is left to the session, which names it. */
int dsync_take_in(const struct mail_user *user, struct error *err);

/* As a session left the mailboxes. */
struct dsync_settled {
	struct dsync_settled_box *boxes;
	size_t count, size;
	bool incomplete; /* one could not be remembered */
};

/* status NULL: somebody changed it meanwhile. */
void dsync_settled_add(struct dsync_settled *settled, const char *mailbox,
		       const struct mailbox_status *status);
/* The name of a mailbox that somebody has changed since, or during the session; NULL: none. It
 * belongs to settled. */
const char *dsync_settled_changed(const struct dsync_settled *settled,
				  const struct mail_user *user);
void dsync_settled_free(struct dsync_settled *settled);

#endif
