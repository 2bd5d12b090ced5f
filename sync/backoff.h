/*
 * When to try again: pauses that grow and are spread, so that many users who failed together do not
 * come back together. Pure: the caller brings clock and chance.
 */
#ifndef DSYNCFS_SYNC_BACKOFF_H
#define DSYNCFS_SYNC_BACKOFF_H

#include <stdint.h>

struct backoff {
	uint32_t first_ms;
	uint32_t max_ms;
};

/* One user's own trouble (a refused user, a broken session). */
#define BACKOFF_USER ((struct backoff){.first_ms = 1000, .max_ms = 300000})
/* A peer that cannot be reached: one connection a try, so it can stay frequent; when the link heals
 * mail has to flow within two seconds. */
#define BACKOFF_PEER ((struct backoff){.first_ms = 500, .max_ms = 1500})
/* The other end was syncing this user: not a failure. */
#define BACKOFF_BUSY ((struct backoff){.first_ms = 15, .max_ms = 1000})

/* The pause after `failures` tries in a row that failed (1 and up): doubled each time up to the
 * maximum, then between 3/4 and 5/4 of that by `chance` (any number). */
uint32_t backoff_pause_ms(struct backoff backoff, uint32_t failures, uint32_t chance);

/* Spreads a periodic event of a name evenly: an offset below `interval`, always the same for the
 * name. */
uint32_t backoff_spread(const char *name, uint32_t interval);

#endif
