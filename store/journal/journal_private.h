/*
 * dsyncfs's side of the journal, inside: the state shared by journal.c (the callers' functions),
 * journal_commit.c (the commit thread) and journal_prune.c (forgetting and folding).
 */
#ifndef DSYNCFS_JOURNAL_PRIVATE_H
#define DSYNCFS_JOURNAL_PRIVATE_H

#include <limits.h>
#include <pthread.h>
#include <time.h>
#include <uthash.h>
#include "store/base/buf.h"
#include "store/journal/journal.h"
#include "store/journal/journal_codec.h"
#include "store/journal/journal_queue.h"
#include "store/journal/lmdb_env.h"

/* Bounds; tests use smaller ones. */
struct journal_limits {
	size_t queue_count, queue_bytes;
	size_t events_max;   /* above it events of one mailbox are folded into a rescan */
	size_t evidence_max; /* above it even proofs of removals are folded, the oldest first */
};
extern struct journal_limits journal_limits;

struct journal_dirty {
	UT_hash_handle hh;
	uint64_t ticket;
	bool of_last_run;
	struct journal_key key;
	const char *dir; /* into home */
	char home[];	 /* home NUL dir NUL */
};

struct journal {
	char state_dir[PATH_MAX];
	struct removal_ring *removals; /* NULL: there was no room for it */
	int state_fd, dir_fd, lock_fd, marker_fd, wake_fd;

	pthread_t thread;
	pthread_mutex_t mutex;
	pthread_cond_t work; /* for the commit thread */
	pthread_cond_t done; /* for journal_wait() */

	/* Under the mutex. */
	struct journal_queue queue;
	bool recovered; /* of the last run nothing is left to be taken up */
	bool renew;	/* a new id is due, although nothing was lost */
	bool urgent;	/* something in the queue should not wait for company */
	bool has_due;
	struct timespec due; /* of what may wait, the first that is to be committed */
	struct journal_dirty *dirty;
	uint64_t next_ticket, durable_ticket;
	unsigned waiters;
	struct buf stamps; /* of the last run: stamp, home NUL dir NUL, and so on */
	bool stop, broken; /* broken: the marker stands in for what is not committed */

	/* Of the commit thread alone, once it runs. */
	struct lmdb_env env;
	struct guid id;
	bool id_is_new; /* to be written with the next group */
	uint64_t last_seq;
	size_t entries; /* events in the environment */
	uint64_t pruned_seq, prune_to_seq;
	struct timespec next_prune, next_try;
	unsigned failures, damages; /* in a row */
	size_t folded_entries;	    /* as many were left by the last fold */
	time_t next_reader_check;
};

void *journal_commit_thread(void *journal);
/* Writes id, last_seq and whether the journal is in use, in a transaction of its own. LMDB's code.
 */
int journal_put_meta(struct journal *journal, MDB_txn *txn, bool clean);

/* Reads dsyncd's position when it is time to; true: there is something to delete. */
bool journal_prune_is_due(struct journal *journal);
/* Deletes a bounded number of consumed events within txn. LMDB's code. */
int journal_prune(struct journal *journal, MDB_txn *txn);
/* When too many events are kept: folds them, in transactions of its own. LMDB's code. */
int journal_fold(struct journal *journal);

struct timespec journal_now(void);
struct timespec journal_later(unsigned ms);
bool journal_is_past(const struct timespec *when);
bool journal_is_before(const struct timespec *a, const struct timespec *b);

#define JOURNAL_MARKER	 "scan-everything"
#define JOURNAL_CONSUMED "consumed"
#define JOURNAL_NODE_ID	 "node-id"
#define JOURNAL_WAKE	 "journal-wake"
#define JOURNAL_LOCK	 "fs.lock"

#endif
