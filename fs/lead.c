/* One thread waits for requests, and hands that over. See lead.h. */
#include "fs/lead.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>

/* Whether requests queue up is asked once in so many; a call of its own each time would be felt. */
#define ASK_EVERY 16
/* Without a request for so long the watching thread sleeps; waking it costs the next one. */
#define QUIET_TICKS 4

struct lead {
	pthread_mutex_t lock;
	pthread_cond_t follow; /* where those wait that do not lead */
	pthread_cond_t watch;
	pthread_t watcher;
	bool led;
	bool serving; /* the leader has a request in hand */
	bool watching;
	bool stopping;
	uint64_t term;	/* goes up with each leader */
	uint64_t taken; /* requests that leaders have taken */
};

static _Thread_local struct lead *own; /* what this thread leads, or did in own_term */
static _Thread_local uint64_t own_term;

#define LOAD(field)	    __atomic_load_n(&(field), __ATOMIC_ACQUIRE)
#define STORE(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELEASE)

static bool leads(const struct lead *lead)
{
	return own == lead && LOAD(lead->led) && LOAD(lead->term) == own_term;
}

/* With the lock held. */
static void depose(struct lead *lead)
{
	STORE(lead->led, false);
	STORE(lead->serving, false);
	pthread_cond_signal(&lead->follow);
}

/* Sleeps until there is work. False: it is time to end. seen: of `taken`; whoever took a request
 * since may have met us still awake, and not have woken us. */
static bool wait_for_work(struct lead *lead, uint64_t seen)
{
	bool stopping;

	pthread_mutex_lock(&lead->lock);
	__atomic_store_n(&lead->watching, false, __ATOMIC_SEQ_CST);
	if (__atomic_load_n(&lead->taken, __ATOMIC_SEQ_CST) != seen)
		STORE(lead->watching, true);
	while (!lead->watching && !lead->stopping)
		pthread_cond_wait(&lead->watch, &lead->lock);
	stopping = lead->stopping;
	pthread_mutex_unlock(&lead->lock);
	return !stopping;
}

static void *watch(void *arg)
{
	const struct timespec tick = {.tv_nsec = LEAD_STUCK_MS * 1000000L};
	struct lead *lead = arg;
	uint64_t seen = 0;

	while (wait_for_work(lead, seen)) {
		unsigned quiet = 0;

		seen = LOAD(lead->taken);
		while (quiet < QUIET_TICKS && !LOAD(lead->stopping)) {
			uint64_t taken;

			nanosleep(&tick, NULL);
			taken = LOAD(lead->taken);
			quiet = taken == seen ? quiet + 1 : 0;
			if (taken == seen && LOAD(lead->serving)) {
				pthread_mutex_lock(&lead->lock);
				if (LOAD(lead->taken) == seen && LOAD(lead->serving))
					depose(lead);
				pthread_mutex_unlock(&lead->lock);
			}
			seen = taken;
		}
	}
	return NULL;
}

struct lead *lead_create(void)
{
	struct lead *lead = calloc(1, sizeof *lead);

	if (!lead)
		return NULL;
	pthread_mutex_init(&lead->lock, NULL);
	pthread_cond_init(&lead->follow, NULL);
	pthread_cond_init(&lead->watch, NULL);
	if (pthread_create(&lead->watcher, NULL, watch, lead) == 0)
		return lead;
	free(lead);
	return NULL;
}

void lead_free(struct lead **lead)
{
	struct lead *l = *lead;

	if (!l)
		return;
	lead_stop(l);
	pthread_join(l->watcher, NULL);
	pthread_cond_destroy(&l->watch);
	pthread_cond_destroy(&l->follow);
	pthread_mutex_destroy(&l->lock);
	free(l);
	*lead = NULL;
}

void lead_wait(struct lead *lead, lead_more_fn *more, void *ctx)
{
	if (leads(lead) || (own_term && more(ctx)))
		return;
	pthread_mutex_lock(&lead->lock);
	while (lead->led && !lead->stopping)
		pthread_cond_wait(&lead->follow, &lead->lock);
	STORE(lead->led, true);
	own_term = lead->term + 1;
	STORE(lead->term, own_term);
	pthread_mutex_unlock(&lead->lock);
	own = lead;
}

void lead_begin(struct lead *lead, lead_more_fn *more, void *ctx)
{
	uint64_t taken = __atomic_add_fetch(&lead->taken, 1, __ATOMIC_SEQ_CST);

	if (leads(lead))
		STORE(lead->serving, true);
	if (!__atomic_load_n(&lead->watching, __ATOMIC_SEQ_CST)) {
		pthread_mutex_lock(&lead->lock);
		STORE(lead->watching, true);
		pthread_cond_signal(&lead->watch);
		pthread_mutex_unlock(&lead->lock);
	}
	if (taken % ASK_EVERY == 0 && more(ctx))
		lead_yield();
}

void lead_end(struct lead *lead)
{
	if (leads(lead))
		STORE(lead->serving, false);
}

void lead_yield(void)
{
	struct lead *lead = own;

	if (!lead || !leads(lead))
		return;
	pthread_mutex_lock(&lead->lock);
	if (lead->led && lead->term == own_term)
		depose(lead);
	pthread_mutex_unlock(&lead->lock);
	own = NULL;
}

void lead_stop(struct lead *lead)
{
	pthread_mutex_lock(&lead->lock);
	STORE(lead->stopping, true);
	pthread_cond_broadcast(&lead->follow);
	pthread_cond_broadcast(&lead->watch);
	pthread_mutex_unlock(&lead->lock);
}
