/* Operations that may wait for a disk: write, fsync, fallocate, copy. See ops.h and io_pool.h.
 *
 * The file of a request stays open until the request is answered, so a job may use its descriptor.
 */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "fs/credentials.h"
#include "fs/lead.h"

/* Writes from this size on may have to wait for the disk to take older ones. */
#define LARGE_WRITE_BYTES (128U * 1024)
/* Longer copies are done in several requests. */
#define COPY_MAX_BYTES (64U << 20)

struct io_job {
	void (*run)(struct io_job *job);
	fuse_req_t req;
	fuse_ino_t ino;	   /* whose content changes */
	struct place *dir; /* which is synced */
	int fd;
	int own_fd; /* closed when done; -1: none */
	int mode;   /* datasync, or fallocate's mode */
	int fd_in;
	off_t off_in;
	off_t off;
	size_t len;
	const char *data;
	char copy[];
};

static void run_queued(void *arg)
{
	struct io_job *job = arg;

	job->run(job);
	free(job);
}

/* Runs the job here while few threads wait, else in the pool. */
static void start(struct fs *fs, struct io_job *job)
{
	size_t copied = job->data ? job->len : 0;
	struct io_job *queued;

	if (io_pool_enter(fs->pool)) {
		lead_yield();
		job->run(job);
		io_pool_leave(fs->pool);
		return;
	}
	queued = malloc(sizeof *queued + copied);
	if (!queued) {
		job->run(job);
		return;
	}
	*queued = *job;
	if (job->data) {
		/* The library uses its buffer again as soon as the handler returns. */
		memcpy(queued->copy, job->data, copied);
		queued->data = queued->copy;
	}
	io_pool_submit(fs->pool, run_queued, queued);
}

void fs_watch_begin(struct fs *fs, struct observed *op, fuse_ino_t ino, pid_t pid)
{
	enum place_file kind;
	struct place *dir = inode_watch_get(fs->inodes, fs->places, ino, &kind);

	op->observer = &fs->observer;
	op->count = 0;
	if (!dir)
		return;
	if (place_file_is_watched(kind)) {
		observe_begin(op, &fs->observer, pid);
		observe_file(op, dir, kind);
		observe_dirty(op);
	}
	place_unref(fs->places, dir);
}

void fs_watch_end(struct observed *op, bool written)
{
	if (op->count == 0)
		return;
	if (written)
		observe_written(op);
	observe_end(op);
}

static ssize_t write_all(int fd, const char *data, size_t len, off_t off)
{
	size_t done = 0;

	while (done < len) {
		ssize_t n = pwrite(fd, data + done, len - done, off + (off_t)done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return done ? (ssize_t)done : -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* Writes with the caller's uid, so that the blocks reserved for root stay root's. */
static void write_job(struct io_job *job)
{
	struct fs *fs = fs_of(job->req);
	const struct fuse_ctx *ctx = fuse_req_ctx(job->req);
	struct observed op;
	ssize_t n;

	fs_watch_begin(fs, &op, job->ino, ctx->pid);
	if (ctx->uid != 0)
		credentials_take(ctx->uid, ctx->gid, 0);
	n = write_all(job->fd, job->data, job->len, job->off);
	if (ctx->uid != 0)
		credentials_drop();
	if (n > 0)
		fs_clear_privs(fs, job->ino, job->fd, ctx->uid);
	fs_watch_end(&op, n > 0);
	if (n < 0)
		fs_reply_err(job->req, "write", (int)n);
	else
		fuse_reply_write(job->req, (size_t)n);
}

void fs_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
	      struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	const struct open_file *file = open_file_get(fs->files, fi->fh);
	struct io_job job = {.run = write_job, .req = req, .ino = ino, .off = off, .len = size};

	if (!file) {
		fs_reply_err(req, "write", -EBADF);
		return;
	}
	job.fd = file->fd;
	job.data = data;
	/* A watched file's mailbox may have to become dirty first. */
	if (size < LARGE_WRITE_BYTES && !place_file_is_watched(inode_kind(fs->inodes, ino)))
		write_job(&job);
	else
		start(fs, &job);
}

static void fsync_job(struct io_job *job)
{
	int rc = job->mode ? fdatasync(job->fd) : fsync(job->fd);

	rc = rc < 0 ? -errno : 0;
	if (job->own_fd >= 0)
		close(job->own_fd);
	if (job->dir)
		observe_sync(&fs_of(job->req)->observer, job->dir);
	fs_reply_err(job->req, "fsync", rc);
}

static void start_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, bool is_dir,
			const struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	const struct open_file *file = open_file_get(fs->files, fi->fh);
	struct io_job job = {.run = fsync_job, .req = req, .mode = datasync, .own_fd = -1};
	int open_flags = is_dir ? O_RDONLY | O_DIRECTORY : O_RDONLY;

	if (!file) {
		fs_reply_err(req, "fsync", -EBADF);
		return;
	}
	job.fd = file->fd;
	if (is_dir)
		job.dir = inode_place(fs->inodes, ino);
	if (job.fd < 0) {
		/* A directory that nobody has read. */
		job.fd = job.own_fd = inode_open(fs->inodes, ino, open_flags);
		if (job.fd < 0) {
			fs_reply_err(req, "fsync", job.fd);
			return;
		}
	}
	start(fs, &job);
}

void fs_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	start_fsync(req, ino, datasync, false, fi);
}

void fs_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	start_fsync(req, ino, datasync, true, fi);
}

static void fallocate_job(struct io_job *job)
{
	struct fs *fs = fs_of(job->req);
	const struct fuse_ctx *ctx = fuse_req_ctx(job->req);
	struct observed op;
	int rc;

	fs_watch_begin(fs, &op, job->ino, ctx->pid);
	if (ctx->uid != 0)
		credentials_take(ctx->uid, ctx->gid, 0);
	rc = fallocate(job->fd, job->mode, job->off, (off_t)job->len) < 0 ? -errno : 0;
	if (ctx->uid != 0)
		credentials_drop();
	if (rc == 0)
		fs_clear_privs(fs, job->ino, job->fd, ctx->uid);
	fs_watch_end(&op, rc == 0);
	fs_reply_err(job->req, "fallocate", rc);
}

void fs_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
		  struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	const struct open_file *file = open_file_get(fs->files, fi->fh);
	struct io_job job = {.run = fallocate_job,
			     .req = req,
			     .ino = ino,
			     .mode = mode,
			     .off = offset,
			     .len = (size_t)length};

	if (!file) {
		fs_reply_err(req, "fallocate", -EBADF);
		return;
	}
	job.fd = file->fd;
	start(fs, &job);
}

static void copy_job(struct io_job *job)
{
	struct fs *fs = fs_of(job->req);
	const struct fuse_ctx *ctx = fuse_req_ctx(job->req);
	struct observed op;
	ssize_t n;

	fs_watch_begin(fs, &op, job->ino, ctx->pid);
	if (ctx->uid != 0)
		credentials_take(ctx->uid, ctx->gid, 0);
	n = copy_file_range(job->fd_in, &job->off_in, job->fd, &job->off, job->len, 0);
	if (n < 0)
		n = -errno;
	if (ctx->uid != 0)
		credentials_drop();
	if (n > 0)
		fs_clear_privs(fs, job->ino, job->fd, ctx->uid);
	fs_watch_end(&op, n > 0);
	if (n < 0)
		fs_reply_err(job->req, "copy_file_range", (int)n);
	else
		fuse_reply_write(job->req, (size_t)n);
}

void fs_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
			struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
			struct fuse_file_info *fi_out, size_t len, int flags)
{
	struct fs *fs = fs_of(req);
	const struct open_file *in = open_file_get(fs->files, fi_in->fh);
	const struct open_file *out = open_file_get(fs->files, fi_out->fh);
	struct io_job job = {.run = copy_job,
			     .req = req,
			     .ino = ino_out,
			     .off_in = off_in,
			     .off = off_out,
			     .len = len < COPY_MAX_BYTES ? len : COPY_MAX_BYTES};

	if (!in || !out || flags) {
		fs_reply_err(req, "copy_file_range", flags ? -EINVAL : -EBADF);
		return;
	}
	job.fd_in = in->fd;
	job.fd = out->fd;
	start(fs, &job);
}
