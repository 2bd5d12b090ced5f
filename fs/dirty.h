/*
 * Write-ahead dirt: before the first modifying operation on a mailbox since it was last clean is
 * answered, the mailbox is durably in the journal's dirty set.
 *
 * A mailbox that is known to be dirty costs an operation one mutex. A file made in tmp/ starts the
 * commit and does not wait for it, so it runs beside the client's own write and fsync; the rename
 * that follows finds it done. A mailbox that has been quiet for DIRTY_QUIET_MS, with nothing in
 * flight, leaves the set; dirty_sweep() does that and wants to be called about once a second.
 *
 * Thread-safe. dirty_wait() blocks for a commit of the journal.
 */
#ifndef DSYNCFS_FS_DIRTY_H
#define DSYNCFS_FS_DIRTY_H

#include <stddef.h>
#include "fs/place.h"

#define DIRTY_QUIET_MS 5000

struct dirty;
struct journal;

/* root_fd: the backing directory, for the stamps; -1: none are kept. NULL when out of memory. */
struct dirty *dirty_create(struct places *places, struct journal *journal, int root_fd);
void dirty_free(struct dirty **dirty);

/* An operation on the mailbox path->home, path->dir begins; it stays in flight until dirty_leave().
 * in: the place that path is of: the mailbox's own, path->box, then remembers the result, and where
 * that has been renamed since its new name counts; NULL: only the text does. NULL when out of
 * memory: nothing is remembered, and a next operation tries again. */
struct dirty_box *dirty_enter(struct dirty *dirty, const struct place_path *path, struct place *in);
/* Returns when the mailbox is durably dirty, or the journal has given up on it. */
void dirty_wait(struct dirty *dirty, struct dirty_box *box);
/* dirty_wait() would return at once. True for NULL. */
bool dirty_is_durable(const struct dirty_box *box);
void dirty_leave(struct dirty *dirty, struct dirty_box *box);

/* Somebody has taken the mailbox's uidlist lock, or let go of it. A lock that was left behind stays
 * held here until the mailbox leaves the set. NULL is accepted. */
void dirty_set_locked(struct dirty_box *box, bool locked);
bool dirty_is_locked(const struct dirty_box *box);

/* The directory `top` was renamed: mailboxes at and below it have new names, under which they are
 * not dirty yet. The old names stay in the set until they have been quiet. each() is called,
 * without a lock, for those with an operation in flight, whose events may still carry the old name.
 */
typedef void dirty_place_fn(void *ctx, struct place *place);
void dirty_rename(struct dirty *dirty, const struct place *top, dirty_place_fn *each, void *ctx);

/* While they are kept no mailbox leaves the set. So it is at first: its new stamp would say that
 * all of it was seen, and what was written while nothing was mounted may not have been found yet.
 */
void dirty_keep_all(struct dirty *dirty, bool keep);
/* Something has happened to the mailbox since it was clean. */
bool dirty_has(struct dirty *dirty, const char *home, const char *dir);

/* Takes the mailboxes out of the set that have been quiet since now_ms - DIRTY_QUIET_MS, with a
 * stamp of what they look like. Returns how many are left. For one thread at a time. */
size_t dirty_sweep(struct dirty *dirty, int64_t now_ms);
/* A monotonic clock for dirty_sweep(). */
int64_t dirty_now_ms(void);

#endif
