/*
 * The saved state of `dsync -s`, in the string that Dovecot's dsync prints and takes: what both
 * ends agreed on in each mailbox, Base64 of a versioned list with a CRC. Pure.
 */
#ifndef DSYNCFS_SYNC_DSYNC_STATE_H
#define DSYNCFS_SYNC_DSYNC_STATE_H

#include "store/base/buf.h"
#include "store/base/error.h"
#include "sync/brain.h"

/* "" and what an older Dovecot printed are an empty state. -EINVAL: what is wrong with it. Free
 * with sync_state_free(). */
int dsync_state_parse(const char *text, struct sync_state *state_r, struct error *err);
/* Appends the string, without a line's end. */
int dsync_state_print(const struct sync_state *state, struct buf *out);

/* Puts this mailbox's in, in the place of what is there. -ENOMEM */
int dsync_state_put(struct sync_state *state, const struct sync_mailbox_state *box);
void dsync_state_drop(struct sync_state *state, const struct guid *guid);
int dsync_state_copy(const struct sync_state *state, struct sync_state *copy_r);

#endif
