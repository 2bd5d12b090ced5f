/* Open files: create, open, read, release. What may wait for a disk is in ops_io.c. See ops.h. */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include "fs/credentials.h"
#include "fs/lead.h"
#include "fs/passthrough.h"
#include "store/base/log.h"

/* The flags of the backing file. Names are the kernel's business; appending too, which gives us the
 * offset; and direct I/O would need buffers aligned as the disk wants. */
static int backing_flags(int flags)
{
	return (flags & ~(O_CREAT | O_EXCL | O_NOCTTY | O_APPEND | O_DIRECT | O_NOFOLLOW)) |
	       O_CLOEXEC;
}

/* Enters the open file into the table, and answers how the kernel may treat it. */
static struct open_file *finish_open(fuse_req_t req, fuse_ino_t ino, int fd,
				     struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct open_file *file = open_files_add(fs->files, fd, &fi->fh);

	if (!file)
		return NULL;
	/* Nobody else changes the file, so what is cached stays right. Closing means nothing, but
	   for deliveries: see expect_delivery(). */
	fi->keep_cache = 1;
	fi->noflush = 1;
	passthrough_open(req, fs, ino, file, fi);
	return file;
}

static void forget_delivery(struct fs *fs, struct open_file *file)
{
	dirty_leave(fs->observer.dirty, file->box);
	file->box = NULL;
	place_unref(fs->places, file->place);
	file->place = NULL;
}

static void drop_open(fuse_req_t req, struct fs *fs, uint64_t fh)
{
	struct open_file *file = open_file_get(fs->files, fh);

	if (!file)
		return;
	passthrough_release(req, fs, file);
	forget_delivery(fs, file);
	open_files_remove(fs->files, fh);
}

/* A message made in cur/ or new/ itself is delivered when it is closed: the kernel shall tell. */
static void expect_delivery(struct fs *fs, struct open_file *file, struct observed *op,
			    pid_t creator, struct fuse_file_info *fi)
{
	if (op->names[0].kind != PLACE_FILE_MESSAGE)
		return;
	file->name = strdup(op->names[0].name);
	if (!file->name)
		return;
	file->place = op->names[0].dir;
	file->origin = op->origin;
	file->creator = creator;
	file->box = op->names[0].box;
	op->names[0].box = NULL;
	place_ref(fs->places, file->place);
	fi->noflush = 0;
}

/* An older time is one that somebody has given it. */
static bool is_written_since_told(const struct open_file *file, const struct stat *st)
{
	const struct timespec *now = &st->st_mtim, *told = &file->told_time;

	return st->st_size != file->told_size || now->tv_sec > told->tv_sec ||
	       (now->tv_sec == told->tv_sec && now->tv_nsec > told->tv_nsec);
}

/* last: nobody has it open any more. An empty file whose creator closes a descriptor is no mail
 * yet: a shell that makes it its command's output closes the first one before the command writes.
 */
static void tell_delivery(struct fs *fs, struct open_file *file, bool last)
{
	struct observed op;
	struct stat st = {0};
	bool known = fstat(file->fd, &st) == 0;

	if (file->told ? !known || !is_written_since_told(file, &st) : !last && st.st_size == 0)
		return;
	observe_begin(&op, &fs->observer, 0);
	op.origin = file->origin;
	observe_name(&op, file->place, file->name);
	if (file->told)
		log_warning("a mail was written to after its writer had closed it; the other node "
			    "may have it as it was home=%s directory=%s file=%s",
			    op.names[0].at.home, op.names[0].at.dir, file->name);
	observe_dirty(&op);
	observe_made(&op);
	observe_end(&op);
	file->told = true;
	file->told_size = st.st_size;
	file->told_time = st.st_mtim;
}

/* made_r: there was no such file. */
static int open_created(const struct dir_hold *dir, const char *name, int flags, mode_t mode,
			bool *made_r)
{
	int backing = backing_flags(flags) | O_CREAT | O_NOFOLLOW;
	int fd = openat(dir->fd, name, backing | O_EXCL, mode);

	*made_r = fd >= 0;
	if (fd < 0 && errno == EEXIST && !(flags & O_EXCL))
		fd = openat(dir->fd, name, backing, mode);
	return fd < 0 ? -errno : fd;
}

static int do_create(fuse_req_t req, const struct dir_hold *dir, const char *name, mode_t mode,
		     struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct fuse_entry_param entry = {0};
	struct open_file *file;
	struct observed op;
	bool made;
	int fd, rc;

	observe_begin(&op, &fs->observer, fuse_req_ctx(req)->pid);
	observe_name(&op, dir->place, name);
	observe_ahead(&op);
	if (op.names[0].kind == PLACE_FILE_MESSAGE)
		observe_dirty(&op);
	fs_credentials_take(req);
	fd = open_created(dir, name, fi->flags, mode, &made);
	credentials_drop();
	if (fd < 0) {
		observe_end(&op);
		return fd;
	}
	fs_dir_changed(dir);
	rc = fs_enter_fd(fs, dir, name, fd, &entry);
	file = rc < 0 ? NULL : finish_open(req, entry.ino, fd, fi);
	if (!file) {
		if (rc == 0)
			fs_forget_one(fs, entry.ino);
		/* Who is told that it failed leaves no empty mail. */
		if (made)
			unlinkat(dir->fd, name, 0);
		close(fd);
		observe_end(&op);
		return rc < 0 ? rc : -ENOMEM;
	}
	observe_created(&op);
	expect_delivery(fs, file, &op, fuse_req_ctx(req)->pid, fi);
	observe_end(&op);
	if (fuse_reply_create(req, &entry, fi) == -ENOENT) {
		drop_open(req, fs, fi->fh);
		fs_forget_one(fs, entry.ino);
	}
	return 0;
}

/* A file without a name (O_TMPFILE). */
static int do_tmpfile(fuse_req_t req, const struct dir_hold *dir, mode_t mode,
		      struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct fuse_entry_param entry = {0};
	int fd, rc;

	fs_credentials_take(req);
	fd = openat(dir->fd, ".", backing_flags(fi->flags) | O_TMPFILE | (fi->flags & O_EXCL),
		    mode);
	rc = fd < 0 ? -errno : 0;
	credentials_drop();
	if (rc == 0)
		rc = fs_enter_fd(fs, dir, "", fd, &entry);
	if (rc == 0 && !finish_open(req, entry.ino, fd, fi)) {
		fs_forget_one(fs, entry.ino);
		rc = -ENOMEM;
	}
	if (rc < 0) {
		if (fd >= 0)
			close(fd);
		return rc;
	}
	if (fuse_reply_create(req, &entry, fi) == -ENOENT) {
		drop_open(req, fs, fi->fh);
		fs_forget_one(fs, entry.ino);
	}
	return 0;
}

void fs_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *fi)
{
	AUTO_DIR_HOLD struct dir_hold dir = {0};
	int rc = fs_dir_get(fs_of(req), parent, &dir);

	if (rc == 0 && strcmp(name, FS_TMPFILE_NAME) == 0)
		rc = do_tmpfile(req, &dir, mode, fi);
	else if (rc == 0)
		rc = do_create(req, &dir, name, mode, fi);
	if (rc < 0)
		fs_reply_err(req, "create", rc);
}

void fs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	const struct fuse_ctx *ctx = fuse_req_ctx(req);
	bool truncates = (fi->flags & O_TRUNC) != 0;
	struct observed op;
	int fd;

	if (truncates)
		fs_watch_begin(fs, &op, ino, ctx->pid);
	fd = inode_open(fs->inodes, ino, backing_flags(fi->flags));
	if (truncates) {
		if (fd >= 0)
			fs_clear_privs(fs, ino, fd, ctx->uid);
		fs_watch_end(&op, fd >= 0);
	}
	if (fd < 0) {
		fs_reply_err(req, "open", fd);
		return;
	}
	if (!finish_open(req, ino, fd, fi)) {
		close(fd);
		fs_reply_err(req, "open", -ENOMEM);
		return;
	}
	if (fuse_reply_open(req, fi) == -ENOENT)
		drop_open(req, fs, fi->fh);
}

/* Of a serving thread; as large as the largest read it has served. */
static _Thread_local char *read_buf;
static _Thread_local size_t read_buf_size;

void fs_thread_end(void)
{
	free(read_buf);
	read_buf = NULL;
	read_buf_size = 0;
}

static ssize_t read_some(int fd, char *buf, size_t size, off_t off)
{
	const struct iovec part = {.iov_base = buf, .iov_len = size};
	/* What is in memory already, and at the end of the file that is all. */
	ssize_t n = preadv2(fd, &part, 1, off, RWF_NOWAIT);

	if (n == (ssize_t)size || n == 0)
		return n;
	if (n < 0)
		lead_yield();
	do {
		n = pread(fd, buf, size, off);
	} while (n < 0 && errno == EINTR);
	return n < 0 ? -errno : n;
}

void fs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	const struct open_file *file = open_file_get(fs_of(req)->files, fi->fh);
	ssize_t n;

	if (!file) {
		fs_reply_err(req, "read", -EBADF);
		return;
	}
	if (size > read_buf_size) {
		char *larger = realloc(read_buf, size);

		if (!larger) {
			fs_reply_err(req, "read", -ENOMEM);
			return;
		}
		read_buf = larger;
		read_buf_size = size;
	}
	n = read_some(file->fd, read_buf, size, off);
	if (n < 0)
		fs_reply_err(req, "read", (int)n);
	else
		fuse_reply_buf(req, read_buf, (size_t)n);
}

/* Somebody closed a descriptor of the file. A child that its creator forks closes an inherited one
 * while the mail is still being written, so only the creator's own close says that it is done;
 * where another thread or process does the last one, the release tells. */
void fs_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct open_file *file = open_file_get(fs->files, fi->fh);

	if (file && file->place && fuse_req_ctx(req)->pid == file->creator)
		tell_delivery(fs, file, false);
	fuse_reply_err(req, 0);
}

void fs_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	struct open_file *file = open_file_get(fs->files, fi->fh);

	if (file && file->place)
		tell_delivery(fs, file, true);
	if (file && passthrough_was_unseen(fs, file, fi->flags)) {
		struct observed op;

		fs_watch_begin(fs, &op, ino, 0);
		fs_watch_end(&op, true);
	}
	drop_open(req, fs, fi->fh);
	fuse_reply_err(req, 0);
}

static void close_delivery(void *ctx, struct open_file *file)
{
	struct fs *fs = ctx;
	struct observed op;

	if (!file->place)
		return;
	observe_begin(&op, &fs->observer, 0);
	observe_name(&op, file->place, file->name);
	observe_uncertain(&op);
	observe_end(&op);
	forget_delivery(fs, file);
}

void fs_close_deliveries(struct fs *fs)
{
	open_files_each(fs->files, close_delivery, fs);
}

void fs_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	const struct open_file *file = open_file_get(fs_of(req)->files, fi->fh);
	off_t pos = file ? lseek(file->fd, off, whence) : -1;

	if (!file)
		fs_reply_err(req, "lseek", -EBADF);
	else if (pos < 0)
		fs_reply_err(req, "lseek", -errno);
	else
		fuse_reply_lseek(req, pos);
}
