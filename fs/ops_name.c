/* Making and removing names: mknod, mkdir, symlink, link, unlink, rmdir. See ops.h. */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include "fs/credentials.h"
#include "store/base/crash_point.h"
#include "store/base/file.h"

/* One name about to change: its directory held, the observer told. */
struct name_op {
	struct dir_hold dir;
	struct observed op;
};

static int name_op_begin(fuse_req_t req, fuse_ino_t parent, const char *name, struct name_op *n)
{
	struct fs *fs = fs_of(req);
	int rc = fs_dir_get(fs, parent, &n->dir);

	observe_begin(&n->op, &fs->observer, fuse_req_ctx(req)->pid);
	if (rc == 0)
		observe_name(&n->op, n->dir.place, name);
	return rc;
}

static void name_op_end(struct name_op *n)
{
	observe_end(&n->op);
	fs_dir_put(&n->dir);
}

/* The mailbox has to be dirty first. False: the request goes on in the pool, and is not ours any
 * more. */
static bool name_op_dirty(struct name_op *n, fs_again_fn *run, const struct fs_again *args)
{
	if (fs_dirty(fs_of(args->req), &n->op))
		return true;
	name_op_end(n);
	if (!fs_again(run, args))
		fuse_reply_err(args->req, ENOMEM);
	return false;
}

static void reply_entry(fuse_req_t req, const char *what, struct name_op *n,
			const struct fuse_entry_param *entry, int rc)
{
	name_op_end(n);
	if (rc < 0)
		fs_reply_err(req, what, rc);
	else
		fs_reply_entry(req, entry);
}

/* Answers a request that made name, or failed with rc. */
static void reply_made(fuse_req_t req, const char *what, struct name_op *n, const char *name,
		       int rc)
{
	struct fuse_entry_param entry;

	if (rc == 0) {
		fs_dir_changed(&n->dir);
		rc = fs_enter_child(fs_of(req), &n->dir, name, &entry);
	}
	reply_entry(req, what, n, &entry, rc);
}

static void do_mknod(const struct fs_again *args)
{
	struct name_op n;
	int rc = name_op_begin(args->req, args->parent, args->name, &n);

	if (rc == 0) {
		observe_ahead(&n.op);
		if (!name_op_dirty(&n, do_mknod, args))
			return;
		fs_credentials_take(args->req);
		rc = mknodat(n.dir.fd, args->name, args->mode, args->rdev) < 0 ? -errno : 0;
		credentials_drop();
	}
	if (rc == 0)
		observe_made(&n.op);
	reply_made(args->req, "mknod", &n, args->name, rc);
}

void fs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	do_mknod(&(struct fs_again){
		.req = req, .parent = parent, .name = name, .mode = mode, .rdev = rdev});
}

void fs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	struct name_op n;
	int rc = name_op_begin(req, parent, name, &n);

	if (rc == 0) {
		fs_credentials_take(req);
		rc = mkdirat(n.dir.fd, name, mode) < 0 ? -errno : 0;
		crash_point("mkdir: done, not observed");
		credentials_drop();
	}
	if (rc == 0)
		observe_dir_made(&n.op);
	reply_made(req, "mkdir", &n, name, rc);
}

void fs_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	struct name_op n;
	int rc = name_op_begin(req, parent, name, &n);

	if (rc == 0) {
		observe_dirty(&n.op);
		fs_credentials_take(req);
		rc = symlinkat(target, n.dir.fd, name) < 0 ? -errno : 0;
		credentials_drop();
	}
	if (rc == 0)
		observe_made(&n.op);
	reply_made(req, "symlink", &n, name, rc);
}

/* The inode is entered first, which may fail: who is told that a link failed delivers again. */
static int make_link(struct fs *fs, const struct name_op *n, fuse_ino_t ino, const char *name,
		     struct fuse_entry_param *entry_r)
{
	AUTO_CLOSE int fd = inode_open(fs->inodes, ino, O_PATH);
	struct inode_entry entry;
	int rc = fd < 0 ? fd : inode_lookup_fd(fs->inodes, fd, &entry);

	if (rc < 0)
		return rc;
	if (linkat(fd, "", n->dir.fd, name, AT_EMPTY_PATH) < 0) {
		rc = -errno;
		fs_forget_one(fs, entry.nodeid);
		return rc;
	}
	fs_dir_changed(&n->dir);
	/* It has a link more. */
	fstat(fd, &entry.stat);
	return fs_enter_entry(fs, &n->dir, name, &entry, entry_r);
}

static void do_link(const struct fs_again *args)
{
	struct fuse_entry_param entry;
	struct name_op n;
	int rc = name_op_begin(args->req, args->parent, args->name, &n);

	if (rc == 0) {
		observe_ahead(&n.op);
		if (!name_op_dirty(&n, do_link, args))
			return;
		rc = make_link(fs_of(args->req), &n, args->other, args->name, &entry);
		crash_point("link: done, not observed");
	}
	if (rc == 0)
		observe_made(&n.op);
	reply_entry(args->req, "link", &n, &entry, rc);
}

void fs_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	do_link(&(struct fs_again){.req = req, .parent = parent, .other = ino, .name = name});
}

static int remove_name(struct fs *fs, const struct name_op *n, const char *name, int flags)
{
	AUTO_CLOSE int fd = fs_hold_name(&n->dir, name);
	int rc = unlinkat(n->dir.fd, name, flags) < 0 ? -errno : 0;

	crash_point("unlink: done, not observed");
	if (rc < 0)
		return rc;
	fs_dir_changed(&n->dir);
	if (fd >= 0)
		inode_keep(fs->inodes, &fd);
	return 0;
}

static void do_unlink(const struct fs_again *args)
{
	struct name_op n;
	int rc = name_op_begin(args->req, args->parent, args->name, &n);

	if (rc == 0) {
		if (!name_op_dirty(&n, do_unlink, args))
			return;
		observe_removal_ahead(&n.op);
		rc = remove_name(fs_of(args->req), &n, args->name, 0);
	}
	if (rc == 0)
		observe_unlinked(&n.op);
	name_op_end(&n);
	fs_reply_err(args->req, "unlink", rc);
}

void fs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	do_unlink(&(struct fs_again){.req = req, .parent = parent, .name = name});
}

void fs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct name_op n;
	int rc = name_op_begin(req, parent, name, &n);

	if (rc == 0) {
		observe_dir_removal_ahead(&n.op);
		rc = remove_name(fs_of(req), &n, name, AT_REMOVEDIR);
	}
	if (rc == 0)
		observe_dir_removed(&n.op);
	name_op_end(&n);
	fs_reply_err(req, "rmdir", rc);
}
