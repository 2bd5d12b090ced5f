/* Dotlocks. See dotlock.h. */
#include "store/maildir/dotlock.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/clock.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/mounted.h"
#include "store/base/owned_file.h"
#include "store/base/process.h"

#define LOCAL_STALE_MS 2000
#define EMPTY_STALE_MS 10000 /* its holder died between making and filling it */
#define BEREFT_MS      10000 /* for who had it when its mount died to notice that */
#define TOUCH_S	       10
#define WAIT_FIRST_US  300
#define WAIT_MAX_US    20000
#define JUDGE_MS       500 /* between two judgements whether the holder is dead */

struct dotlock {
	int dirfd;
	char *what;
	char name[NAME_MAX + 1];
	dev_t dev;
	ino_t ino;
	dev_t dir_dev;
	ino_t dir_ino;
	time_t touched;
	bool was_stale;
	struct dotlock *next;
};

static pthread_mutex_t held_mutex = PTHREAD_MUTEX_INITIALIZER;
static struct dotlock *held;

static const char *host_name(void)
{
	static _Thread_local char name[HOST_NAME_MAX + 1];

	if (gethostname(name, sizeof name) < 0)
		snprintf(name, sizeof name, "localhost");
	name[sizeof name - 1] = '\0';
	return name;
}

static int lock_name(const char *file, char name[NAME_MAX + 1])
{
	int len = snprintf(name, NAME_MAX + 1, "%s.lock", file);

	return len < 0 || len > NAME_MAX ? -ENAMETOOLONG : 0;
}

/* Enters the lock into the table; false when somebody in this process has it. */
static bool table_enter(struct dotlock *lock)
{
	bool free_now = true;

	pthread_mutex_lock(&held_mutex);
	for (const struct dotlock *other = held; other && free_now; other = other->next) {
		free_now = other->dir_dev != lock->dir_dev || other->dir_ino != lock->dir_ino ||
			   strcmp(other->name, lock->name) != 0;
	}
	if (free_now) {
		lock->next = held;
		held = lock;
	}
	pthread_mutex_unlock(&held_mutex);
	return free_now;
}

static void table_leave(struct dotlock *lock)
{
	pthread_mutex_lock(&held_mutex);
	for (struct dotlock **pos = &held; *pos; pos = &(*pos)->next) {
		if (*pos == lock) {
			*pos = lock->next;
			break;
		}
	}
	pthread_mutex_unlock(&held_mutex);
}

static int create_lock_file(struct dotlock *lock)
{
	char text[HOST_NAME_MAX + 32];
	struct stat st = {0};
	int len, rc;
	AUTO_CLOSE int fd = owned_file_create(lock->dirfd, lock->name, O_WRONLY | O_EXCL);

	if (fd < 0)
		return fd;
	len = snprintf(text, sizeof text, "%d:%s", (int)getpid(), host_name());
	rc = file_write_all(fd, text, (size_t)len);
	if (rc == 0 && fstat(fd, &st) < 0)
		rc = -errno;
	/* Somebody took the empty file for a dead process's. */
	if (rc == 0 && st.st_nlink == 0)
		return -EEXIST;
	if (rc < 0) {
		unlinkat(lock->dirfd, lock->name, 0);
		return rc;
	}
	lock->dev = st.st_dev;
	lock->ino = st.st_ino;
	lock->touched = time(NULL);
	return 0;
}

static int try_lock(struct dotlock *lock)
{
	int rc;

	if (!table_enter(lock))
		return -EEXIST;
	rc = create_lock_file(lock);
	if (rc < 0)
		table_leave(lock);
	return rc;
}

static int64_t last_change_ms(const struct stat *st)
{
	int64_t written = timespec_ms(st->st_mtim), changed = timespec_ms(st->st_ctim);

	return written > changed ? written : changed;
}

/* 1: a process of this host that is gone; 0: one that lives; -1: cannot be said. */
static int holder_is_gone(int dirfd, const char *name)
{
	AUTO_BUF struct buf text = BUF_INIT(512);
	const char *host;
	char *end;
	long pid;

	if (file_read_at(dirfd, name, &text) < 0)
		return -1;
	pid = strtol(buf_str(&text), &end, 10);
	if (pid <= 0 || pid > INT_MAX || *end != ':')
		return -1;
	host = end + 1;
	if (strcmp(host, host_name()) != 0)
		return -1;
	/* Ours, but not in the table of held locks: a leftover of a process that had our pid. */
	if (pid == getpid())
		return 1;
	return process_is_alive((pid_t)pid) ? 0 : 1;
}

/* Another process of this one's pid cannot hold it, but another thread may. */
static bool held_here(int dirfd, const char *name)
{
	struct stat dir;
	bool found = false;

	if (fstat(dirfd, &dir) < 0)
		return true;
	pthread_mutex_lock(&held_mutex);
	for (const struct dotlock *other = held; other && !found; other = other->next) {
		found = other->dir_dev == dir.st_dev && other->dir_ino == dir.st_ino &&
			strcmp(other->name, name) == 0;
	}
	pthread_mutex_unlock(&held_mutex);
	return found;
}

static bool lock_is_stale(int dirfd, const char *name, const char *file, struct stat *lock_st)
{
	struct stat file_st;
	int64_t now, changed;
	int gone;

	if (held_here(dirfd, name) || fstatat(dirfd, name, lock_st, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	now = clock_ms(CLOCK_REALTIME);
	changed = last_change_ms(lock_st);
	if (now - changed <= LOCAL_STALE_MS)
		return false;
	if (lock_st->st_size == 0)
		return now - changed > EMPTY_STALE_MS;
	gone = holder_is_gone(dirfd, name);
	if (gone >= 0)
		return gone == 1 || (changed < mounted_at() && now - mounted_at() > BEREFT_MS);
	if (fstatat(dirfd, file, &file_st, AT_SYMLINK_NOFOLLOW) == 0 &&
	    last_change_ms(&file_st) > changed)
		changed = last_change_ms(&file_st);
	return now - changed > DOTLOCK_STALE_S * 1000;
}

/* The inode may have become that of another lock, with a holder's text of the same length. */
static bool is_same_lock(const struct stat *a, const struct stat *b)
{
	return a->st_ino == b->st_ino && a->st_dev == b->st_dev && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

/* Moves a stale lock away. Two who judge at once must not remove the lock that the faster one has
 * made meanwhile: so it is renamed first, looked at, and put back if it is another. */
static void remove_stale(int dirfd, const char *what, const char *name, const struct stat *judged)
{
	char aside[NAME_MAX + 1];
	struct stat st;

	snprintf(aside, sizeof aside, ".temp.%.64s.%d.%llx", host_name(), (int)getpid(),
		 (unsigned long long)clock_ms(CLOCK_MONOTONIC));
	if (renameat(dirfd, name, dirfd, aside) < 0)
		return;
	if (fstatat(dirfd, aside, &st, AT_SYMLINK_NOFOLLOW) == 0 && !is_same_lock(&st, judged)) {
		if (linkat(dirfd, aside, dirfd, name, 0) < 0)
			log_warning("%s/%s: the lock could not be put back: %s", what, name,
				    strerror(errno));
	} else {
		log_warning("%s/%s: removed a stale lock", what, name);
	}
	unlinkat(dirfd, aside, 0);
}

/* One wait of growing length; looks now and then whether the holder is dead. */
struct waiting {
	int64_t end_ms, judge_ms;
	useconds_t step_us;
	bool keep_stale; /* it is not for this caller to remove */
	bool found_stale;
	int rc; /* why there is no use in waiting */
};

static void waiting_begin(struct waiting *wait, int timeout_ms)
{
	*wait = (struct waiting){.end_ms = clock_ms(CLOCK_MONOTONIC) + timeout_ms,
				 .step_us = WAIT_FIRST_US};
}

static bool waiting_step(struct waiting *wait, int dirfd, const char *what, const char *name,
			 const char *file)
{
	int64_t now = clock_ms(CLOCK_MONOTONIC);
	struct stat st;

	if (now >= wait->judge_ms) {
		wait->judge_ms = now + JUDGE_MS;
		wait->rc = file_is_served(dirfd);
		if (wait->rc < 0)
			return false;
		if (lock_is_stale(dirfd, name, file, &st)) {
			wait->found_stale = true;
			if (!wait->keep_stale)
				remove_stale(dirfd, what, name, &st);
			return !wait->keep_stale;
		}
	}
	if (now >= wait->end_ms)
		return false;
	usleep(wait->step_us);
	wait->step_us += wait->step_us / 2;
	if (wait->step_us > WAIT_MAX_US)
		wait->step_us = WAIT_MAX_US;
	return true;
}

static int busy_error(const struct waiting *wait, int dirfd, const char *what, const char *name,
		      int timeout_ms, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(512);

	if (wait->rc < 0)
		return error_errno(err, wait->rc, "%s/%s", what, name);
	if (file_read_at(dirfd, name, &text) < 0)
		buf_clear(&text);
	return error_set(err, -EAGAIN, "%s/%s: still held after %d ms by \"%s\"", what, name,
			 timeout_ms, buf_str(&text));
}

int dotlock_acquire(int dirfd, const char *what, const char *file, int timeout_ms,
		    struct dotlock **lock_r, struct error *err)
{
	struct dotlock *lock = calloc(1, sizeof *lock);
	struct waiting wait;
	struct stat dir;
	int rc = -ENOMEM;

	*lock_r = NULL;
	if (!lock || !(lock->what = strdup(what)))
		goto failed;
	lock->dirfd = dirfd;
	rc = lock_name(file, lock->name);
	if (rc < 0)
		goto failed;
	if (fstat(dirfd, &dir) < 0) {
		rc = -errno;
		goto failed;
	}
	lock->dir_dev = dir.st_dev;
	lock->dir_ino = dir.st_ino;
	waiting_begin(&wait, timeout_ms);
	while ((rc = try_lock(lock)) == -EEXIST) {
		if (!waiting_step(&wait, dirfd, what, lock->name, file)) {
			rc = busy_error(&wait, dirfd, what, lock->name, timeout_ms, err);
			goto failed_told;
		}
	}
	if (rc < 0)
		goto failed;
	lock->was_stale = wait.found_stale;
	*lock_r = lock;
	return 0;
failed:
	error_errno(err, rc, "%s/%s.lock", what, file);
failed_told:
	if (lock)
		free(lock->what);
	free(lock);
	return rc;
}

bool dotlock_was_stale(const struct dotlock *lock)
{
	return lock->was_stale;
}

bool dotlock_is_abandoned(int dirfd, const char *file)
{
	char name[NAME_MAX + 1];
	struct stat st;

	return lock_name(file, name) == 0 && fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
	       st.st_size > 0 && !held_here(dirfd, name) && holder_is_gone(dirfd, name) == 1;
}

void dotlock_release(struct dotlock **lock_ptr)
{
	struct dotlock *lock = *lock_ptr;
	struct stat st;

	if (!lock)
		return;
	*lock_ptr = NULL;
	if (fstatat(lock->dirfd, lock->name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
	    st.st_ino != lock->ino || st.st_dev != lock->dev)
		log_warning("%s/%s: somebody took our lock away", lock->what, lock->name);
	else if (unlinkat(lock->dirfd, lock->name, 0) < 0)
		log_error("%s/%s: unlink: %s", lock->what, lock->name, strerror(errno));
	table_leave(lock);
	free(lock->what);
	free(lock);
}

void dotlock_touch(struct dotlock *lock)
{
	time_t now = time(NULL);

	if (now - lock->touched < TOUCH_S)
		return;
	lock->touched = now;
	if (utimensat(lock->dirfd, lock->name, NULL, AT_SYMLINK_NOFOLLOW) < 0)
		log_warning("%s/%s: touch: %s", lock->what, lock->name, strerror(errno));
}

int dotlock_wait(int dirfd, const char *what, const char *file, int timeout_ms, bool *waited_r,
		 struct error *err)
{
	char name[NAME_MAX + 1];
	struct waiting wait;
	struct stat st;
	int rc = lock_name(file, name);

	*waited_r = false;
	if (rc < 0)
		return error_errno(err, rc, "%s/%s.lock", what, file);
	waiting_begin(&wait, timeout_ms);
	wait.keep_stale = true;
	while (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		*waited_r = true;
		if (waiting_step(&wait, dirfd, what, name, file))
			continue;
		return wait.found_stale ? 0 : busy_error(&wait, dirfd, what, name, timeout_ms, err);
	}
	if (errno != ENOENT)
		return error_errno(err, -errno, "%s/%s", what, name);
	return 0;
}
