/*
 * The mark of a rebuild that is going on: a file in the storage, locked by whoever rebuilds. Map
 * and mailboxes are written one after the other; a mark that nobody holds says that somebody was
 * killed in between, and that it has to be done again.
 */
#include "store/dbox/mdbox_storage.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"

#define MARK "dsyncfs.rebuild"

bool mdbox_rebuild_is_unfinished(const struct mdbox_storage *storage)
{
	AUTO_CLOSE int fd =
		openat(storage->dirfd, MARK, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	return fd >= 0 && flock(fd, LOCK_SH | LOCK_NB) == 0;
}

static int lock_mark(int fd)
{
	while (flock(fd, LOCK_EX) < 0) {
		if (errno != EINTR)
			return -errno;
	}
	return 0;
}

static bool is_in_place(const struct mdbox_storage *storage, int fd)
{
	struct stat mine, there;

	return fstat(fd, &mine) == 0 &&
	       fstatat(storage->dirfd, MARK, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	       mine.st_ino == there.st_ino && mine.st_dev == there.st_dev;
}

int mdbox_rebuild_mark(const struct mdbox_storage *storage, int *mark_r, struct error *err)
{
	int fd = owned_file_create(storage->dirfd, MARK, O_RDWR), rc;

	*mark_r = -1;
	rc = fd < 0 ? fd : lock_mark(fd);
	/* Another one did it while we waited. */
	if (rc == 0 && !is_in_place(storage, fd)) {
		close(fd);
		return 1;
	}
	if (rc == 0)
		rc = file_sync_dir(storage->dirfd, ".");
	if (rc < 0) {
		file_close(&fd);
		return error_errno(err, rc, "%s/" MARK, storage->path);
	}
	*mark_r = fd;
	return 0;
}

void mdbox_rebuild_unmark(const struct mdbox_storage *storage, int *mark, bool done)
{
	if (*mark >= 0 && done && unlinkat(storage->dirfd, MARK, 0) < 0)
		log_warning("%s/" MARK ": unlink: %s", storage->path, strerror(errno));
	file_close(mark);
}
