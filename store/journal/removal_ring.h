/*
 * The last removals of messages and folders that the mount began, in a mapped file of state_dir:
 * what a kill -9 cannot take away, at the cost of a memory copy each.
 *
 * An event is pushed when its operation is done, and committed some milliseconds later; a dsyncfs
 * that is killed between has removed a file and nobody has seen it. So each removal is noted here
 * before it is done, and forgotten when its event is durable. What the crash has left is told again
 * as events. Told twice it would be evidence against a message that was brought back meanwhile.
 *
 * After a reboot nothing of it counts: then a file may be missing because the disk never got it.
 */
#ifndef DSYNCFS_JOURNAL_REMOVAL_RING_H
#define DSYNCFS_JOURNAL_REMOVAL_RING_H

#include <stdbool.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/mail_event.h"

struct removal_ring;

/* Makes the file where it is missing, of another version, or of another boot of the machine; clean:
 * the last run told all of them, they are forgotten. Without space for it *ring_r is NULL, which
 * all calls accept, and err says why. */
int removal_ring_open(int dir_fd, bool clean, struct removal_ring **ring_r, struct error *err);
void removal_ring_close(struct removal_ring **ring);
/* kind, home, dir and name count. Strings that are too long are not kept. Returns what the removal
 * is forgotten by. Any thread. */
uint64_t removal_ring_put(struct removal_ring *ring, const struct mail_event *event);
/* It was told, or has not happened. 0 and what later ones have pushed out are accepted. Any thread.
 */
void removal_ring_forget(struct removal_ring *ring, uint64_t removal);
/* Those of the last run, the oldest first; before the first put. */
typedef void removal_ring_fn(void *ctx, const struct mail_event *event, uint64_t removal);
void removal_ring_each(const struct removal_ring *ring, removal_ring_fn *each, void *ctx);

#endif
