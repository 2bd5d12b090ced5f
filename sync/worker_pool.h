/*
 * dsyncd's workers: started, given messages, watched, ended.
 *
 * A worker belongs to one uid, gid, direction and origin token for life. One that is released waits
 * idle for some seconds for more work of the same kind, then its socket is closed, which it takes
 * as the word to end. One that says nothing until its deadline is killed. Whoever holds a worker
 * hears of its messages and of its death through the callbacks, exactly once of the death.
 *
 * Nothing here waits. The callbacks run from the event loop, never from within a call.
 */
#ifndef DSYNCFS_SYNC_WORKER_POOL_H
#define DSYNCFS_SYNC_WORKER_POOL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/buf.h"
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/base/log.h"
#include "store/settings.h"
#include "sync/worker.h"
#include "sync/worker_protocol.h"

struct event_base;
struct worker;
struct worker_pool;

struct worker_pool_handlers {
	/* reader is at the message's first field. A descriptor that came with it is closed: workers
	 * have none to give. */
	void (*message)(void *owner, struct worker *worker, struct worker_reader *reader);
	/* The worker has died, was killed, or broke the protocol. It is no longer to be used. */
	void (*gone)(void *owner, struct worker *worker, const char *why);
};

struct worker_key {
	enum worker_kind kind;
	uid_t uid;
	gid_t gid;
	uint32_t token; /* of the peer whose changes it applies; 0: none known */
};

/* log_target: what workers get for log_open(). */
struct worker_pool *worker_pool_new(struct event_base *base, const struct guid *node_id,
				    const struct worker_pool_handlers *handlers,
				    enum log_target target, enum log_level level);
/* Kills what is left. */
void worker_pool_free(struct worker_pool **pool);
/* New workers get these settings; idle ones with others end, busy ones when they are released. */
int worker_pool_set_settings(struct worker_pool *pool, const struct settings *set,
			     struct error *err);
/* When the mail was mounted (journal_writer_began). New workers are told; those that were told
 * something else end as with new settings: what they have open is worthless. */
void worker_pool_set_mounted(struct worker_pool *pool, int64_t began);
/* An idle worker of this key, rather one that worked for this user last, or a new one. */
int worker_pool_take(struct worker_pool *pool, const struct worker_key *key, const char *user,
		     void *owner, struct worker **worker_r, struct error *err);
void worker_release(struct worker **worker);
/* It was told of other settings, or of an earlier mount, than a new one would be: it takes no work
 * anew. */
bool worker_is_outdated(const struct worker *worker);
/* Once it is released it ends: what it has open may be worthless, as after a restart of the mount.
 */
void worker_retire(struct worker *worker);
/* Kills it; its owner is not told. */
void worker_kill(struct worker **worker);

void *worker_owner(const struct worker *worker);
const struct worker_key *worker_key(const struct worker *worker);
pid_t worker_pid(const struct worker *worker);
/* Sends the message, now or when the socket takes it; the descriptor stays the caller's. */
void worker_tell(struct worker *worker, const struct buf *message, int fd);
/* To be killed unless it says something within this time; 0: no longer. */
void worker_expect_within(struct worker *worker, unsigned ms);

/* Workers of the kind that are held by somebody. */
unsigned worker_pool_busy(const struct worker_pool *pool, enum worker_kind kind);
/* All processes that are left. */
unsigned worker_pool_count(const struct worker_pool *pool);
/* Ends idle workers now. */
void worker_pool_end_idle(struct worker_pool *pool);
/* To be called on SIGCHLD. */
void worker_pool_reap(struct worker_pool *pool);

#endif
