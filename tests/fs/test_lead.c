/* One thread leads, and another when it waits, says so, or is stuck. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <time.h>
#include "fs/lead.h"

#define THREADS 4
#define LONG_MS 10000

static bool backlog;

static bool more(void *ctx)
{
	return __atomic_load_n(&backlog, __ATOMIC_ACQUIRE);
}

static void sleep_ms(int ms)
{
	const struct timespec pause = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};

	nanosleep(&pause, NULL);
}

static bool comes_true(const int *value, int wanted)
{
	for (int ms = 0; ms < LONG_MS; ms++) {
		if (__atomic_load_n(value, __ATOMIC_ACQUIRE) == wanted)
			return true;
		sleep_ms(1);
	}
	return false;
}

/* A thread that leads once and then does what the test says until it may go on. */
struct server {
	struct lead *lead;
	enum { STUCK, YIELDS, BLOCKS_IN_READ } way;
	int *leaders; /* how many have led */
	int *go_on;
};

static void *serve_once(void *arg)
{
	struct server *server = arg;

	lead_wait(server->lead, more, NULL);
	__atomic_add_fetch(server->leaders, 1, __ATOMIC_ACQ_REL);
	if (server->way != BLOCKS_IN_READ)
		lead_begin(server->lead, more, NULL);
	if (server->way == YIELDS)
		lead_yield();
	comes_true(server->go_on, 1);
	lead_end(server->lead);
	lead_yield();
	return NULL;
}

/* Runs THREADS servers. Returns how many led before any was let go on. */
static int run(int way, int wanted)
{
	struct lead *lead = lead_create();
	int leaders = 0, go_on = 0, before;
	struct server server = {.lead = lead, .way = way, .leaders = &leaders, .go_on = &go_on};
	pthread_t thread[THREADS];

	assert_non_null(lead);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, serve_once, &server), 0);
	assert_true(comes_true(&leaders, wanted));
	sleep_ms(20 * LEAD_STUCK_MS);
	before = __atomic_load_n(&leaders, __ATOMIC_ACQUIRE);
	__atomic_store_n(&go_on, 1, __ATOMIC_RELEASE);
	/* Each hands over as it ends. */
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	assert_int_equal(leaders, THREADS);
	lead_free(&lead);
	assert_null(lead);
	return before;
}

static void one_waits_for_requests(void **state)
{
	assert_int_equal(run(BLOCKS_IN_READ, 1), 1);
}

static void who_says_that_it_waits_is_followed(void **state)
{
	assert_int_equal(run(YIELDS, THREADS), THREADS);
}

static void who_is_stuck_is_followed(void **state)
{
	assert_int_equal(run(STUCK, THREADS), THREADS);
}

static void a_backlog_is_followed(void **state)
{
	struct lead *lead = lead_create();
	int leaders = 0, go_on = 1;
	struct server server = {
		.lead = lead, .way = BLOCKS_IN_READ, .leaders = &leaders, .go_on = &go_on};
	pthread_t thread;

	lead_wait(lead, more, NULL);
	__atomic_store_n(&backlog, true, __ATOMIC_RELEASE);
	for (int i = 0; i < 100; i++) {
		lead_begin(lead, more, NULL);
		lead_end(lead);
	}
	/* We do not lead any more, but may help as long as there is work. */
	lead_wait(lead, more, NULL);
	__atomic_store_n(&backlog, false, __ATOMIC_RELEASE);
	assert_int_equal(pthread_create(&thread, NULL, serve_once, &server), 0);
	assert_true(comes_true(&leaders, 1));
	pthread_join(thread, NULL);
	lead_free(&lead);
}

static void all_may_read_at_the_end(void **state)
{
	struct lead *lead = lead_create();
	int leaders = 0, go_on = 0;
	struct server server = {
		.lead = lead, .way = BLOCKS_IN_READ, .leaders = &leaders, .go_on = &go_on};
	pthread_t thread[THREADS];

	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&thread[i], NULL, serve_once, &server), 0);
	assert_true(comes_true(&leaders, 1));
	lead_stop(lead);
	assert_true(comes_true(&leaders, THREADS));
	__atomic_store_n(&go_on, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < THREADS; i++)
		pthread_join(thread[i], NULL);
	lead_free(&lead);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_waits_for_requests),
		cmocka_unit_test(who_says_that_it_waits_is_followed),
		cmocka_unit_test(who_is_stuck_is_followed),
		cmocka_unit_test(a_backlog_is_followed),
		cmocka_unit_test(all_may_read_at_the_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
