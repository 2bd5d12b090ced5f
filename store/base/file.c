/* File helpers. See file.h. */
#include "store/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "store/base/crash_point.h"

void file_close(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

int file_write_all(int fd, const void *data, size_t len)
{
	const char *p = data;

	while (len) {
		ssize_t n = write(fd, p, len);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int file_pwrite_all(int fd, const void *data, size_t len, off_t offset)
{
	const char *p = data;

	while (len) {
		ssize_t n = pwrite(fd, p, len, offset);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		p += n;
		offset += n;
		len -= (size_t)n;
	}
	return 0;
}

int file_pread_all(int fd, void *data, size_t len, off_t offset)
{
	char *p = data;

	while (len) {
		ssize_t n = pread(fd, p, len, offset);

		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		if (n == 0)
			return -ENODATA;
		p += n;
		offset += n;
		len -= (size_t)n;
	}
	return 0;
}

ssize_t file_read_some(int fd, void *data, size_t len)
{
	size_t have = 0;

	while (have < len) {
		ssize_t n = read(fd, (char *)data + have, len - have);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

ssize_t file_pread_some(int fd, void *data, size_t len, uint64_t offset)
{
	size_t have = 0;

	while (have < len) {
		ssize_t n = pread(fd, (char *)data + have, len - have, (off_t)(offset + have));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		have += (size_t)n;
	}
	return (ssize_t)have;
}

int file_read(int fd, struct buf *buf)
{
	for (;;) {
		/* One byte more than is left shows that a file is too large. */
		size_t left = buf->max - buf->len;
		size_t want = left < 16384 ? left : 16384;
		char over;
		char *room;
		ssize_t n;

		if (want == 0) {
			n = read(fd, &over, 1);
			if (n < 0 && errno == EINTR)
				continue;
			return n < 0 ? -errno : n == 0 ? 0 : -EMSGSIZE;
		}
		room = buf_reserve(buf, want);
		if (!room)
			return buf->failed;
		n = read(fd, room, want);
		if (n < 0) {
			if (errno == EINTR)
				continue;
			return -errno;
		}
		buf_commit(buf, (size_t)n);
		if (n == 0)
			return 0;
	}
}

int file_open_regular(int dirfd, const char *path, int flags)
{
	int fd = openat(dirfd, path, flags | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat st;
	int code;

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		code = -errno;
	else if (S_ISREG(st.st_mode))
		return fd;
	else
		code = S_ISDIR(st.st_mode) ? -EISDIR : -ENXIO;
	close(fd);
	return code;
}

int file_read_at(int dirfd, const char *path, struct buf *buf)
{
	AUTO_CLOSE int fd = file_open_regular(dirfd, path, O_RDONLY);

	return fd < 0 ? fd : file_read(fd, buf);
}

bool file_name_is_safe(const char *name)
{
	if (name[0] == '\0' || strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return false;
	return strchr(name, '/') == NULL && strlen(name) <= NAME_MAX;
}

/* Calls step for every component but the last, with the directory it is in; leaves the last in
 * *last. */
static int walk(int dirfd, const char *path, mode_t mkdir_mode, bool make, char *last,
		int *parent_r)
{
	int parent = dup(dirfd);

	if (parent < 0)
		return -errno;
	fcntl(parent, F_SETFD, FD_CLOEXEC);
	for (;;) {
		size_t len = strcspn(path, "/");
		int next;

		if (len > NAME_MAX) {
			close(parent);
			return -ENAMETOOLONG;
		}
		memcpy(last, path, len);
		last[len] = '\0';
		if (!file_name_is_safe(last)) {
			close(parent);
			return -EINVAL;
		}
		if (make && mkdirat(parent, last, mkdir_mode) < 0 && errno != EEXIST) {
			int code = -errno;

			close(parent);
			return code;
		}
		if (path[len] == '\0') {
			*parent_r = parent;
			return 0;
		}
		path += len + 1;
		next = openat(parent, last, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0) {
			int code = -errno;

			close(parent);
			return code;
		}
		close(parent);
		parent = next;
	}
}

int file_open_beneath(int dirfd, const char *path, int flags, mode_t mode)
{
	char last[NAME_MAX + 1];
	int parent = -1, fd;
	int rc = walk(dirfd, path, 0, false, last, &parent);

	if (rc < 0)
		return rc;
	fd = openat(parent, last, flags | O_NOFOLLOW | O_CLOEXEC, mode);
	rc = fd < 0 ? -errno : fd;
	close(parent);
	return rc;
}

int file_mkdirs_beneath(int dirfd, const char *path, mode_t mode)
{
	char last[NAME_MAX + 1];
	int parent = -1;
	int rc = walk(dirfd, path, mode, true, last, &parent);

	if (rc < 0)
		return rc;
	close(parent);
	return 0;
}

int file_remove_tree(int dirfd, const char *name)
{
	AUTO_DIR DIR *dir = NULL;
	struct dirent *entry;
	int fd;

	if (!file_name_is_safe(name))
		return -EINVAL;
	if (unlinkat(dirfd, name, 0) == 0 || errno == ENOENT)
		return 0;
	if (errno != EISDIR && errno != EPERM)
		return -errno;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		int code = -errno;

		close(fd);
		return code;
	}
	while ((errno = 0, entry = readdir(dir)) != NULL) {
		int rc;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0)
			continue;
		rc = file_remove_tree(fd, entry->d_name);
		if (rc < 0)
			return rc;
	}
	if (errno)
		return -errno;
	if (unlinkat(dirfd, name, AT_REMOVEDIR) < 0 && errno != ENOENT)
		return -errno;
	return 0;
}

int file_rename_new(int dirfd, const char *from, const char *to)
{
	if (renameat2(dirfd, from, dirfd, to, RENAME_NOREPLACE) == 0)
		return 0;
	if (errno != EINVAL && errno != ENOSYS)
		return -errno;
	/* A file system that does not know the flag. */
	if (linkat(dirfd, from, dirfd, to, 0) < 0)
		return -errno;
	crash_point("file: has two names");
	return unlinkat(dirfd, from, 0) < 0 ? -errno : 0;
}

int file_sync_dir(int dirfd, const char *path)
{
	AUTO_CLOSE int fd = openat(dirfd, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

int file_is_served(int fd)
{
	struct statx st;

	return statx(fd, "", AT_EMPTY_PATH | AT_STATX_FORCE_SYNC, STATX_TYPE, &st) < 0 ? -errno : 0;
}
