/* Ends the process at the n-th point. See crash_point.h. */
#include "store/base/crash_point.h"

#ifdef DSYNCFS_CRASH_POINTS

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/log.h"

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

/* Whether the file asks for a crash of this program, and at which point. */
static bool read_order(const char *path, unsigned *point_r)
{
	FILE *file = fopen(path, "re");
	char program[64];
	bool ours;

	if (!file)
		return false;
	ours = fscanf(file, "%63s %u", program, point_r) == 2 && // NOLINT(cert-err34-c)
	       strcmp(program, log_ident()) == 0;
	fclose(file);
	return ours;
}

static void crash(const char *path, const char *name)
{
	char done[4096];
	FILE *file;

	/* Another process was first. */
	if (unlink(path) < 0)
		return;
	snprintf(done, sizeof done, "%s.done", path);
	file = fopen(done, "we");
	if (file) {
		fprintf(file, "%s\n", name);
		fclose(file);
	}
	kill(getpid(), SIGKILL);
}

void crash_point(const char *name)
{
	static unsigned passed;
	const char *path = getenv("DSYNCFS_CRASH"); // NOLINT(concurrency-mt-unsafe)
	unsigned point;

	if (!path)
		return;
	pthread_mutex_lock(&mutex);
	/* Counted from when it was armed. */
	if (!read_order(path, &point))
		passed = 0;
	else if (++passed == point)
		crash(path, name);
	pthread_mutex_unlock(&mutex);
}

#else

/* An empty translation unit is none. */
typedef int crash_points_are_off;

#endif
