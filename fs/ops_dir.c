/* Reading directories. See ops.h.
 *
 * What one reader lists comes from one moment, as far as a read of the backing directory is one: a
 * listing put together from two lacks mail that was renamed between them, and Dovecot then gives
 * that mail a new UID. So each open directory has a large buffer of its own, names that are gone by
 * the time they are told are told all the same, the kernel keeps listings only as
 * inode_listing_open() allows, and OPENDIR is answered (without it each listing would be a request
 * less, but two readers at one offset could not be told apart).
 *
 * Most opens of a directory never read it, since the kernel has its listing: the backing directory
 * is opened at the first read. */
#include "fs/ops.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Some 3,000 mails; a C library's is 32 KiB. */
#define ENTRIES_BYTES (256U * 1024)

static void close_dir(struct fs *fs, uint64_t fh)
{
	const struct open_file *file = open_file_get(fs->files, fh);

	if (file && file->kept)
		inode_listing_close(fs->inodes, file->nodeid);
	open_files_remove(fs->files, fh);
}

void fs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct open_file *file = open_files_add(fs->files, -1, &fi->fh);

	if (!file) {
		fs_reply_err(req, "opendir", -ENOMEM);
		return;
	}
	file->nodeid = ino;
	file->kept = inode_listing_open(fs->inodes, ino);
	fi->cache_readdir = file->kept;
	fi->keep_cache = 1;
	if (fuse_reply_open(req, fi) == -ENOENT)
		close_dir(fs, fi->fh);
}

void fs_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	close_dir(fs_of(req), fi->fh);
	fuse_reply_err(req, 0);
}

/* Opens the backing directory if nobody has, and goes to the offset that the kernel asks for. */
static int go_to(struct fs *fs, struct open_file *file, off_t off)
{
	if (file->fd < 0) {
		int fd = inode_open(fs->inodes, file->nodeid, O_RDONLY | O_DIRECTORY);

		if (fd < 0)
			return fd;
		file->fd = fd;
	}
	if (!file->entries) {
		file->entries = malloc(ENTRIES_BYTES);
		if (!file->entries)
			return -ENOMEM;
	}
	if (off == file->offset && off != 0)
		return 0;
	/* From the start it is read anew: a program that rewinds wants to see what has changed. */
	if (lseek(file->fd, off, SEEK_SET) < 0)
		return -errno;
	file->entries_len = file->entries_pos = 0;
	file->offset = off;
	return 0;
}

/* The entry at the position, or NULL at the end (rc_r 0) and on failure. */
static const struct dirent64 *next_entry(struct open_file *file, int *rc_r)
{
	*rc_r = 0;
	if (file->entries_pos >= file->entries_len) {
		ssize_t len = getdents64(file->fd, file->entries, ENTRIES_BYTES);

		if (len <= 0) {
			*rc_r = len < 0 ? -errno : 0;
			return NULL;
		}
		file->entries_len = (size_t)len;
		file->entries_pos = 0;
	}
	return (const struct dirent64 *)(file->entries + file->entries_pos);
}

static bool is_dots(const char *name)
{
	return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

/* Adds one entry with its attributes. Returns its size, more than room if it does not fit. */
static ssize_t add_plus(fuse_req_t req, const struct dir_hold *dir, char *buf, size_t room,
			const struct dirent64 *d)
{
	struct fs *fs = fs_of(req);
	struct fuse_entry_param entry = {0};
	size_t need = fuse_add_direntry_plus(req, NULL, 0, d->d_name, NULL, 0);
	int rc;

	/* A lookup that is counted must be told. */
	if (need > room)
		return (ssize_t)need;
	entry.attr.st_ino = d->d_ino;
	entry.attr.st_mode = (mode_t)d->d_type << 12;
	if (!is_dots(d->d_name)) {
		rc = fs_enter_child(fs, dir, d->d_name, &entry);
		if (rc < 0) {
			/* The name alone, also of what is gone since getdents64: were it left out,
			   a mail that has just been renamed would be listed under neither name. */
			memset(&entry, 0, sizeof entry);
			entry.attr.st_ino = d->d_ino;
			entry.attr.st_mode = (mode_t)d->d_type << 12;
		}
	}
	return (ssize_t)fuse_add_direntry_plus(req, buf, room, d->d_name, &entry, d->d_off);
}

static ssize_t add_name(fuse_req_t req, char *buf, size_t room, const struct dirent64 *d)
{
	struct stat st = {.st_ino = d->d_ino, .st_mode = (mode_t)d->d_type << 12};

	return (ssize_t)fuse_add_direntry(req, buf, room, d->d_name, &st, d->d_off);
}

static int fill(fuse_req_t req, struct open_file *file, const struct dir_hold *dir, bool plus,
		char *buf, size_t size, size_t *used_r)
{
	const struct dirent64 *d;
	int rc;

	*used_r = 0;
	while ((d = next_entry(file, &rc)) != NULL) {
		size_t room = size - *used_r;
		ssize_t n = plus ? add_plus(req, dir, buf + *used_r, room, d)
				 : add_name(req, buf + *used_r, room, d);

		if (n < 0)
			return (int)n;
		if ((size_t)n > room)
			break;
		*used_r += (size_t)n;
		file->entries_pos += d->d_reclen;
		file->offset = d->d_off;
	}
	/* What was read before a failure is told; the failure comes again at the next call. */
	return *used_r ? 0 : rc;
}

static void read_dir(fuse_req_t req, size_t size, off_t off, const struct fuse_file_info *fi,
		     bool plus)
{
	struct fs *fs = fs_of(req);
	struct open_file *file = open_file_get(fs->files, fi->fh);
	AUTO_DIR_HOLD struct dir_hold dir = {0};
	char *buf;
	size_t used = 0;
	int rc;

	if (!file) {
		fs_reply_err(req, "readdir", -EBADF);
		return;
	}
	buf = malloc(size);
	rc = buf ? fs_dir_get(fs, file->nodeid, &dir) : -ENOMEM;
	if (rc == 0) {
		pthread_mutex_lock(&file->lock);
		rc = go_to(fs, file, off);
		if (rc == 0)
			rc = fill(req, file, &dir, plus, buf, size, &used);
		pthread_mutex_unlock(&file->lock);
	}
	if (rc < 0)
		fs_reply_err(req, "readdir", rc);
	else
		fuse_reply_buf(req, buf, used);
	free(buf);
}

void fs_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	read_dir(req, size, off, fi, false);
}

void fs_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi)
{
	read_dir(req, size, off, fi, true);
}
