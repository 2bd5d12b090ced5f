/*
 * Who waits for the next request: one thread, the leader. It serves what is quick itself and waits
 * again, so a client's calls are answered by a thread whose caches are warm, and often on the
 * client's own processor; a dozen threads that wait in turn cost two to three times as much a call.
 *
 * Another thread takes over when the leader says that it may have to wait (lead_yield()), when
 * requests queue up behind it, and, for what nobody foresaw (a cold directory, a stalled disk),
 * when it has been at one request for LEAD_STUCK_MS: a thread of the module's own watches while
 * there is work. More than one thread may read requests at a time; that costs time and no more.
 *
 * Thread-safe.
 */
#ifndef DSYNCFS_FS_LEAD_H
#define DSYNCFS_FS_LEAD_H

#include <stdbool.h>

#define LEAD_STUCK_MS 2

struct lead;

/* Starts the watching thread, with the caller's signal mask. NULL: no memory or no thread. */
struct lead *lead_create(void);
void lead_free(struct lead **lead);

/* Whether requests are waiting to be read. */
typedef bool lead_more_fn(void *ctx);

/* Returns when the calling thread leads or may help, since more() says so; or after lead_stop(). */
void lead_wait(struct lead *lead, lead_more_fn *more, void *ctx);
/* The thread has taken a request. more() is asked now and then. */
void lead_begin(struct lead *lead, lead_more_fn *more, void *ctx);
/* It has served it, as the leader or not. */
void lead_end(struct lead *lead);
/* The calling thread may have to wait now: if it leads, another one takes over. */
void lead_yield(void);
/* All threads may read requests from here on, to serve what is left. */
void lead_stop(struct lead *lead);

#endif
