/*
 * A small pool of threads for operations that wait for a disk, so that no serving thread does: the
 * job itself answers the request.
 *
 * A hand-over costs a wake-up, so a job runs in the calling thread as long as few of the serving
 * threads are so occupied: the rest are always free to serve what needs no disk.
 */
#ifndef DSYNCFS_FS_IO_POOL_H
#define DSYNCFS_FS_IO_POOL_H

#include <stdbool.h>

struct io_pool;

typedef void io_job_fn(void *job);

/* inline_max: how many callers may be occupied at once. 0: every job goes to the pool. NULL: no
 * memory or no thread. */
struct io_pool *io_pool_create(unsigned threads, unsigned inline_max);
/* Runs what is queued, then ends the threads. */
void io_pool_free(struct io_pool **pool);

/* True: the caller may wait for the disk itself, and says io_pool_leave() afterwards. */
bool io_pool_enter(struct io_pool *pool);
void io_pool_leave(struct io_pool *pool);
/* The calling thread is one of the pool's, and may wait anyway. */
bool io_pool_is_worker(void);

/* Runs run(job) in a thread of the pool; in the caller where there is no memory to queue it. run()
 * frees job. */
void io_pool_submit(struct io_pool *pool, io_job_fn *run, void *job);

#endif
