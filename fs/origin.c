/* The processes that have announced an origin, each held by a pidfd. See origin.h. */
#include "fs/origin.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ORIGIN_MAX 512

struct origin {
	pid_t pid;
	int pidfd;
	uint32_t token;
};

struct origins {
	pthread_mutex_t lock;
	unsigned count; /* read without the lock by origins_find() */
	struct origin list[ORIGIN_MAX];
};

struct origins *origins_create(void)
{
	struct origins *origins = calloc(1, sizeof *origins);

	if (origins)
		pthread_mutex_init(&origins->lock, NULL);
	return origins;
}

static void drop(struct origins *origins, unsigned i)
{
	close(origins->list[i].pidfd);
	origins->list[i] = origins->list[origins->count - 1];
	__atomic_store_n(&origins->count, origins->count - 1, __ATOMIC_RELEASE);
}

void origins_free(struct origins **origins)
{
	if (!*origins)
		return;
	while ((*origins)->count)
		drop(*origins, 0);
	pthread_mutex_destroy(&(*origins)->lock);
	free(*origins);
	*origins = NULL;
}

/* A pidfd becomes readable when its process has exited, also when the number is in use again. */
static bool has_exited(int pidfd)
{
	struct pollfd pfd = {.fd = pidfd, .events = POLLIN};

	return poll(&pfd, 1, 0) != 0;
}

static int parse_token(const char *value, size_t len, uint32_t *token_r)
{
	uint64_t token = 0;

	if (len == 0 || len > 10)
		return -EINVAL;
	for (size_t i = 0; i < len; i++) {
		if (value[i] < '0' || value[i] > '9')
			return -EINVAL;
		token = token * 10 + (unsigned)(value[i] - '0');
	}
	if (token > UINT32_MAX)
		return -EINVAL;
	*token_r = (uint32_t)token;
	return 0;
}

int origins_announce(struct origins *origins, pid_t pid, const char *value, size_t len)
{
	uint32_t token;
	int pidfd, rc = parse_token(value, len, &token);

	if (rc < 0)
		return rc;
	if (pid <= 0)
		return -EINVAL;
	pthread_mutex_lock(&origins->lock);
	for (unsigned i = 0; i < origins->count;) {
		if (origins->list[i].pid == pid || has_exited(origins->list[i].pidfd))
			drop(origins, i);
		else
			i++;
	}
	if (token == 0)
		goto out;
	rc = -ENOSPC;
	if (origins->count == ORIGIN_MAX)
		goto out;
	pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	rc = pidfd < 0 ? -EINVAL : 0;
	if (rc < 0)
		goto out;
	origins->list[origins->count] = (struct origin){pid, pidfd, token};
	__atomic_store_n(&origins->count, origins->count + 1, __ATOMIC_RELEASE);
out:
	pthread_mutex_unlock(&origins->lock);
	return rc;
}

uint32_t origins_find(struct origins *origins, pid_t pid)
{
	uint32_t token = 0;

	if (__atomic_load_n(&origins->count, __ATOMIC_ACQUIRE) == 0)
		return 0;
	pthread_mutex_lock(&origins->lock);
	for (unsigned i = 0; i < origins->count; i++) {
		if (origins->list[i].pid != pid)
			continue;
		if (has_exited(origins->list[i].pidfd))
			drop(origins, i);
		else
			token = origins->list[i].token;
		break;
	}
	pthread_mutex_unlock(&origins->lock);
	return token;
}
