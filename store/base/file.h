/*
 * Files: cleanup attributes, whole reads and writes, and walking below a directory descriptor
 * without following symbolic links.
 */
#ifndef DSYNCFS_BASE_FILE_H
#define DSYNCFS_BASE_FILE_H

#include <dirent.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/types.h>
#include <unistd.h>
#include "store/base/buf.h"

/* Variables with these attributes are released when they go out of scope. */
#define AUTO_CLOSE __attribute__((cleanup(file_close_auto)))
#define AUTO_FREE  __attribute__((cleanup(file_free_auto)))
#define AUTO_BUF   __attribute__((cleanup(buf_free)))
#define AUTO_DIR   __attribute__((cleanup(file_closedir_auto)))

static inline void file_close_auto(const int *fd)
{
	if (*fd >= 0)
		close(*fd);
}

static inline void file_free_auto(void *ptr)
{
	free(*(void **)ptr);
}

static inline void file_closedir_auto(DIR **dir)
{
	if (*dir)
		closedir(*dir);
}

/* Closes *fd if it is open and sets it to -1. */
void file_close(int *fd);

/* Writes or reads all of len bytes, over EINTR and short counts. read: -ENODATA at an early end. */
int file_write_all(int fd, const void *data, size_t len);
int file_pwrite_all(int fd, const void *data, size_t len, off_t offset);
int file_pread_all(int fd, void *data, size_t len, off_t offset);
/* As many bytes as there are, up to len: how many, or a negative errno. */
ssize_t file_read_some(int fd, void *data, size_t len);
ssize_t file_pread_some(int fd, void *data, size_t len, uint64_t offset);

/* Opens what is a file, and waits for nobody who may never come: -ENXIO for a FIFO, a socket or a
 * device in its place, -EISDIR for a directory, -ELOOP for a symbolic link. */
int file_open_regular(int dirfd, const char *path, int flags);

/* Appends the whole content of the file to buf. -EMSGSIZE beyond buf's maximum. */
int file_read(int fd, struct buf *buf);
/* As file_read for a name below dirfd, opened by file_open_regular(). */
int file_read_at(int dirfd, const char *path, struct buf *buf);

/* True for a single path component that is safe to use below a directory: not empty, not "." or
 * "..", no '/', no NUL, at most NAME_MAX bytes. */
bool file_name_is_safe(const char *name);

/* Opens a relative path component by component below dirfd, never through a symbolic link or "..".
 * flags as open(2) for the last component. Returns the descriptor or a negative errno (-EINVAL for
 * a path that would leave dirfd, -ELOOP or -ENOTDIR at a symbolic link). */
int file_open_beneath(int dirfd, const char *path, int flags, mode_t mode);

/* Makes each missing directory of the relative path. Existing ones are left alone. */
int file_mkdirs_beneath(int dirfd, const char *path, mode_t mode);

/* Removes the tree `name` below dirfd, without following symbolic links. Missing is not an error.
 */
int file_remove_tree(int dirfd, const char *name);

/* 0 while whoever serves the file's filesystem answers, else what it comes to (-ENOTCONN where a
 * FUSE daemon died). What the kernel remembers of the file does not count, and its locks on it go
 * on. */
int file_is_served(int fd);

/* Renames a file below dirfd without replacing anything: -EEXIST. On a filesystem that cannot do it
 * at once it has both names for a moment, and keeps them where it is cut there. */
int file_rename_new(int dirfd, const char *from, const char *to);

/* fsync of a directory given by descriptor or path below dirfd ("." for itself). */
int file_sync_dir(int dirfd, const char *path);

#endif
