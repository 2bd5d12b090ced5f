/*
 * The log's lock, and what has to be true before anyone may append (reference 0.1, 3.3).
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/clock.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/index/index_private.h"

#define POLL_FIRST_MS 1
#define POLL_MAX_MS   50
#define LOOK_MS	      1000 /* between two looks whether the mount lives */
/* Somebody may rotate the log each time we have got it, but not for ever. */
#define REOPEN_TRIES 10

/* 0, -EAGAIN, or another failure. Open file description locks, since the traditional ones are lost
 * when any descriptor of the file is closed. */
static int lock_try(enum index_lock_method method, int fd)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	int ret;

	ret = method == INDEX_LOCK_FLOCK ? flock(fd, LOCK_EX | LOCK_NB)
					 : fcntl(fd, F_OFD_SETLK, &lock);
	if (ret == 0)
		return 0;
	if (errno == EWOULDBLOCK || errno == EACCES || errno == EINTR)
		return -EAGAIN;
	return -errno;
}

int index_lock_fd(enum index_lock_method method, int fd, int timeout_ms)
{
	const int64_t deadline = clock_ms(CLOCK_MONOTONIC) +
				 (timeout_ms < 0 ? INDEX_LOCK_TIMEOUT_MS_DEFAULT : timeout_ms);
	int64_t pause_ms = POLL_FIRST_MS, look_ms = clock_ms(CLOCK_MONOTONIC) + LOOK_MS;

	for (;;) {
		struct timespec pause;
		int64_t now, left;
		int ret = lock_try(method, fd);

		if (ret != -EAGAIN)
			return ret;
		now = clock_ms(CLOCK_MONOTONIC);
		left = deadline - now;
		if (left <= 0)
			return -EAGAIN;
		/* Somebody else who waits on a mount that is gone holds its locks for ever. */
		if (now >= look_ms) {
			ret = file_is_served(fd);
			if (ret < 0)
				return ret;
			look_ms = now + LOOK_MS;
		}
		if (pause_ms > left)
			pause_ms = left;
		pause.tv_sec = 0;
		pause.tv_nsec = pause_ms * 1000000;
		nanosleep(&pause, NULL);
		pause_ms = pause_ms * 2 < POLL_MAX_MS ? pause_ms * 2 : POLL_MAX_MS;
	}
}

static void unlock_fd(enum index_lock_method method, int fd)
{
	struct flock lock = {.l_type = F_UNLCK, .l_whence = SEEK_SET};

	if (method == INDEX_LOCK_FLOCK)
		flock(fd, LOCK_UN);
	else
		fcntl(fd, F_OFD_SETLK, &lock);
}

/* Nobody else writes while we hold the lock: what is behind the last complete transaction was left
 * by a writer that died. Dovecot would take it for corruption. */
static int repair_tail(struct index *index, struct error *err)
{
	uint64_t size;
	int ret = index_log_size(&index->log, &size, err);

	if (ret < 0 || size == index->state.offset)
		return ret;
	log_warning("%s: cutting off %" PRIu64 " bytes at offset %" PRIu64
		    " that a dead writer left",
		    index_text(index), size - index->state.offset, index->state.offset);
	if (ftruncate(index->log.fd, (off_t)index->state.offset) < 0)
		return error_errno(err, -errno, "%s: truncate to offset %" PRIu64,
				   index_text(index), index->state.offset);
	return 0;
}

/* True when the locked file is still the one that the path names. */
static int lock_is_current(const struct index *index, bool *current_r, struct error *err)
{
	char file[NAME_MAX + 1];
	struct stat st;

	index_file_name(index, ".log", file, sizeof(file));
	if (fstatat(index->dirfd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, -errno, "%s: stat", index_text(index));
	*current_r = st.st_ino == index->log.ino && st.st_dev == index->log.dev;
	return 0;
}

static int lock_current_log(struct index *index, int timeout_ms, struct error *err)
{
	for (int try = 0; try < REOPEN_TRIES; try++) {
		bool current;
		int ret;

		if (!index->log.writable)
			return error_set(err, -EROFS, "%s: may not be written", index_text(index));
		ret = index_lock_fd(index->lock_method, index->log.fd, timeout_ms);
		if (ret == -EAGAIN)
			return error_set(err, ret, "%s: the lock could not be had in time",
					 index_text(index));
		if (ret < 0)
			return error_errno(err, ret, "%s: lock", index_text(index));
		ret = lock_is_current(index, &current, err);
		if (ret == 0 && current)
			return 0;
		unlock_fd(index->lock_method, index->log.fd);
		if (ret == 0)
			ret = index_refresh(index, err);
		if (ret < 0)
			return ret;
	}
	return error_set(err, -EAGAIN, "%s: is replaced again and again", index_text(index));
}

int index_lock_log(int dirfd, const struct index_options *options, struct error *err)
{
	const char *label = options->label;
	char file[NAME_MAX + 1];

	snprintf(file, sizeof(file), "%s.log", options->name);
	for (int try = 0; try < REOPEN_TRIES; try++) {
		AUTO_CLOSE int fd =
			openat(dirfd, file, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		struct stat own, named;
		int ret;

		if (fd < 0)
			return errno == ENOENT ? -ENOENT
					       : error_errno(err, -errno, "%s/%s", label, file);
		ret = index_lock_fd(options->lock_method, fd, -1);
		if (ret == 0 && fstat(fd, &own) < 0)
			ret = -errno;
		if (ret == 0 && fstatat(dirfd, file, &named, AT_SYMLINK_NOFOLLOW) < 0)
			ret = -errno;
		if (ret < 0 && ret != -ENOENT)
			return error_errno(err, ret, "%s/%s: lock", label, file);
		if (ret == 0 && own.st_ino == named.st_ino && own.st_dev == named.st_dev) {
			const int locked = fd;

			fd = -1;
			return locked;
		}
	}
	return error_set(err, -EAGAIN, "%s/%s: is replaced again and again", label, file);
}

int index_lock(struct index *index, int timeout_ms, struct error *err)
{
	int ret;

	if (!index->usable) {
		ret = index_refresh(index, err);
		if (ret < 0)
			return ret;
	}
	ret = lock_current_log(index, timeout_ms, err);
	if (ret < 0)
		return ret;
	index->locked = true;
	/* From here on the path cannot change, so reading the open file to its end is all. */
	ret = index_replay(index, err);
	if (ret == 0)
		ret = repair_tail(index, err);
	if (ret < 0) {
		index->usable = false;
		index_unlock(index);
	}
	return ret;
}

void index_unlock(struct index *index)
{
	if (!index->locked)
		return;
	index->locked = false;
	unlock_fd(index->lock_method, index->log.fd);
}
