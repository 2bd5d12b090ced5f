/* Threads for operations that wait for a disk. See io_pool.h. */
#include "fs/io_pool.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include "fs/credentials.h"

struct queued {
	struct queued *next;
	io_job_fn *run;
	void *job;
};

struct io_pool {
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct queued *first, **last;
	bool stopping;
	unsigned inline_max;
	unsigned inline_now;
	unsigned threads;
	pthread_t thread[];
};

static _Thread_local bool is_worker;

bool io_pool_is_worker(void)
{
	return is_worker;
}

static void *work(void *arg)
{
	struct io_pool *pool = arg;

	is_worker = true;
	credentials_prepare_thread();
	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct queued *item = pool->first;

		if (!item && pool->stopping)
			break;
		if (!item) {
			pthread_cond_wait(&pool->wake, &pool->lock);
			continue;
		}
		pool->first = item->next;
		if (!pool->first)
			pool->last = &pool->first;
		pthread_mutex_unlock(&pool->lock);
		item->run(item->job);
		free(item);
		pthread_mutex_lock(&pool->lock);
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

struct io_pool *io_pool_create(unsigned threads, unsigned inline_max)
{
	struct io_pool *pool = calloc(1, sizeof *pool + threads * sizeof pool->thread[0]);
	sigset_t all, old;

	if (!pool)
		return NULL;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->wake, NULL);
	pool->last = &pool->first;
	pool->inline_max = inline_max;
	/* Signals are the main thread's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	while (pool->threads < threads &&
	       pthread_create(&pool->thread[pool->threads], NULL, work, pool) == 0)
		pool->threads++;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (pool->threads == 0)
		io_pool_free(&pool);
	return pool;
}

void io_pool_free(struct io_pool **pool)
{
	struct io_pool *p = *pool;

	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stopping = true;
	pthread_cond_broadcast(&p->wake);
	pthread_mutex_unlock(&p->lock);
	for (unsigned i = 0; i < p->threads; i++)
		pthread_join(p->thread[i], NULL);
	pthread_cond_destroy(&p->wake);
	pthread_mutex_destroy(&p->lock);
	free(p);
	*pool = NULL;
}

bool io_pool_enter(struct io_pool *pool)
{
	if (__atomic_add_fetch(&pool->inline_now, 1, __ATOMIC_ACQ_REL) <= pool->inline_max)
		return true;
	io_pool_leave(pool);
	return false;
}

void io_pool_leave(struct io_pool *pool)
{
	__atomic_sub_fetch(&pool->inline_now, 1, __ATOMIC_ACQ_REL);
}

void io_pool_submit(struct io_pool *pool, io_job_fn *run, void *job)
{
	struct queued *item = calloc(1, sizeof *item);

	if (!item) {
		run(job);
		return;
	}
	item->run = run;
	item->job = job;
	pthread_mutex_lock(&pool->lock);
	*pool->last = item;
	pool->last = &item->next;
	pthread_cond_signal(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
}
