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

#include "store/base/error.h"
#include "store/mail_user.h"

/* A mailbox that cannot be read here is left to the session, which names it. */
int dsync_take_in(const struct mail_user *user, struct error *err);

#endif
