/*
 * mailboxes.lock. See list_lock.h.
 *
 * Released by unlinking the file while the lock is still held, so whoever gets a lock looks whether
 * the file it locked is the one that the name means.
 */
#include "store/list_lock.h"

#include "store/base/file.h"
#include "store/base/owned_file.h"
#include "store/mail_user.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_WAIT_MS 60000

static const char *lock_dir(const struct mail_user *user)
{
	const struct mail_location *location = &user->location;

	return location->volatile_dir ? location->volatile_dir : location->index;
}

static char *lock_path(const struct mail_user *user)
{
	char *path;

	return asprintf(&path, "%s/mailboxes.lock%s", lock_dir(user),
			user->location.volatile_suffix) < 0
		       ? NULL
		       : path;
}

/* As Dovecot does: the whole path of a volatile directory, which a restart of the machine may have
 * emptied. */
static int make_lock_dir(const struct mail_user *user)
{
	int fd;

	if (!user->location.volatile_dir)
		return mkdir(user->location.index, 0700) < 0 ? -errno : 0;
	fd = owned_dir_open(user->location.volatile_dir, true);
	if (fd < 0)
		return fd;
	close(fd);
	return 0;
}

static int open_lock(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	return fd < 0 ? -errno : fd;
}

/* One try at least. */
static int lock_within(const struct mail_user *user, int wait_ms, int *fd_r, struct error *err)
{
	struct timespec pause = {0, 1000 * 1000};
	AUTO_FREE char *path = lock_path(user);
	int waited_ms = 0;

	if (!path)
		return error_set(err, -ENOMEM, "user=%s: out of memory", user->name);
	for (;;) {
		struct flock whole = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
		struct stat mine, named;
		int fd = open_lock(path);

		if (fd == -ENOENT && make_lock_dir(user) == 0)
			fd = open_lock(path);
		if (fd < 0)
			return error_errno(err, fd, "user=%s: open(%s)", user->name, path);
		if (fcntl(fd, F_OFD_SETLK, &whole) == 0) {
			if (fstat(fd, &mine) == 0 && stat(path, &named) == 0 &&
			    mine.st_ino == named.st_ino && mine.st_dev == named.st_dev) {
				*fd_r = fd;
				return 0;
			}
			/* The holder before us unlinked it: at once again. */
			close(fd);
			continue;
		}
		if (errno != EAGAIN && errno != EACCES && errno != EINTR) {
			int code = -errno;

			close(fd);
			return error_errno(err, code, "user=%s: lock(%s)", user->name, path);
		}
		close(fd);
		if (waited_ms >= wait_ms)
			return error_set(err, -EAGAIN, "user=%s: %s is locked by somebody else",
					 user->name, path);
		nanosleep(&pause, NULL);
		waited_ms += (int)(pause.tv_nsec / 1000000);
		if (pause.tv_nsec < 50 * 1000 * 1000)
			pause.tv_nsec *= 2;
	}
}

int list_lock(const struct mail_user *user, int *fd_r, struct error *err)
{
	return lock_within(user, LOCK_WAIT_MS, fd_r, err);
}

int list_lock_try(const struct mail_user *user, int *fd_r, struct error *err)
{
	return lock_within(user, 0, fd_r, err);
}

void list_unlock(const struct mail_user *user, int *fd)
{
	AUTO_FREE char *path = lock_path(user);

	if (*fd < 0)
		return;
	if (path)
		unlink(path);
	file_close(fd);
}

bool list_lock_is_held(const struct mail_user *user)
{
	AUTO_FREE char *path = lock_path(user);

	return !path || access(path, F_OK) == 0 || errno != ENOENT;
}

int list_lock_wait(const struct mail_user *user, struct error *err)
{
	int fd = -1, rc;

	if (!list_lock_is_held(user))
		return 0;
	rc = list_lock(user, &fd, err);
	list_unlock(user, &fd);
	return rc;
}
