/* What the operations share, and their table. See ops.h. */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include "fs/credentials.h"
#include "fs/passthrough.h"
#include "store/base/log.h"

#define TROUBLE_EVERY_S 60
#define MAX_WRITE	(1U << 20)

void fs_note_trouble(const char *op, int rc)
{
	/* One line a minute for each: a full disk fails thousands of calls a second. */
	static const int worth[] = {EROFS, EIO, ENOSPC, EDQUOT, EMFILE, ENFILE, ENOMEM, EUCLEAN};
	static int64_t last_s[sizeof worth / sizeof worth[0]];

	for (size_t i = 0; i < sizeof worth / sizeof worth[0]; i++) {
		int64_t now_s = dirty_now_ms() / 1000 + TROUBLE_EVERY_S;
		int64_t last = __atomic_load_n(&last_s[i], __ATOMIC_RELAXED);

		if (rc != -worth[i])
			continue;
		if (now_s - last < TROUBLE_EVERY_S)
			return;
		if (__atomic_compare_exchange_n(&last_s[i], &last, now_s, false, __ATOMIC_RELAXED,
						__ATOMIC_RELAXED))
			log_error("%s failed on the backing directory: %s", op, strerror(-rc));
		return;
	}
}

void fs_reply_err(fuse_req_t req, const char *op, int rc)
{
	if (rc < 0)
		fs_note_trouble(op, rc);
	fuse_reply_err(req, -rc);
}

bool fs_is_root(struct fs *fs, fuse_ino_t ino)
{
	/* A file that is watched has its directory's place. */
	return inode_is_dir(fs->inodes, ino) &&
	       inode_place(fs->inodes, ino) == place_root(fs->places);
}

int fs_dir_get(struct fs *fs, fuse_ino_t ino, struct dir_hold *hold_r)
{
	hold_r->inodes = fs->inodes;
	hold_r->ino = ino;
	hold_r->ref = 0;
	hold_r->place = NULL;
	hold_r->fd = inode_dir_get(fs->inodes, ino, &hold_r->ref);
	if (hold_r->fd < 0)
		return hold_r->fd;
	hold_r->place = inode_place(fs->inodes, ino);
	/* Every directory got its place when it was looked up. */
	return hold_r->place ? 0 : -ESTALE;
}

void fs_dir_put(const struct dir_hold *hold)
{
	inode_dir_put(hold->inodes, hold->ref);
}

void fs_dir_changed(const struct dir_hold *hold)
{
	inode_dir_changed(hold->inodes, hold->ino);
}

int fs_hold_name(const struct dir_hold *dir, const char *name)
{
	return openat(dir->fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
}

/* The kind of `name` if it is one whose inode has to remember it, as seen in its directory. */
static enum place_file remembered_kind(struct fs *fs, struct place *dir, const char *name)
{
	enum place_file kind = place_file_kind(PLACE_DIR, name);
	struct place_path path;

	if (!place_file_is_ours(kind))
		return PLACE_FILE_OTHER;
	place_locate(fs->places, dir, &path);
	if (path.role != PLACE_DIR && path.role != PLACE_MAILS)
		kind = PLACE_FILE_OTHER;
	place_release(fs->places, &path);
	return kind;
}

static int give_place(struct fs *fs, const struct dir_hold *dir, const char *name,
		      const struct inode_entry *entry)
{
	enum place_file kind = PLACE_FILE_OTHER;
	struct place *place;

	if (S_ISDIR(entry->stat.st_mode)) {
		if (inode_place(fs->inodes, entry->nodeid))
			return 0;
		place = place_child(fs->places, dir->place, name);
		if (!place)
			return -ENOMEM;
	} else {
		kind = remembered_kind(fs, dir->place, name);
		if (kind == PLACE_FILE_OTHER || inode_place(fs->inodes, entry->nodeid))
			return 0;
		place = dir->place;
		place_ref(fs->places, place);
	}
	if (!inode_set_place(fs->inodes, entry->nodeid, place, kind))
		place_unref(fs->places, place);
	return 0;
}

struct fuse_entry_param fs_entry(const struct inode_entry *entry)
{
	return (struct fuse_entry_param){
		.ino = entry->nodeid,
		.generation = entry->generation,
		.attr = entry->stat,
		.attr_timeout = FS_TIMEOUT_S,
		.entry_timeout = FS_TIMEOUT_S,
	};
}

int fs_enter_entry(struct fs *fs, const struct dir_hold *dir, const char *name,
		   const struct inode_entry *entry, struct fuse_entry_param *entry_r)
{
	int rc = give_place(fs, dir, name, entry);

	if (rc < 0) {
		fs_forget_one(fs, entry->nodeid);
		return rc;
	}
	*entry_r = fs_entry(entry);
	return 0;
}

int fs_enter_child(struct fs *fs, const struct dir_hold *dir, const char *name,
		   struct fuse_entry_param *entry_r)
{
	struct inode_entry entry;
	int rc = inode_lookup(fs->inodes, dir->fd, name, &entry);

	return rc < 0 ? rc : fs_enter_entry(fs, dir, name, &entry, entry_r);
}

int fs_enter_fd(struct fs *fs, const struct dir_hold *dir, const char *name, int fd,
		struct fuse_entry_param *entry_r)
{
	struct inode_entry entry;
	int rc = inode_lookup_fd(fs->inodes, fd, &entry);

	return rc < 0 ? rc : fs_enter_entry(fs, dir, name, &entry, entry_r);
}

void fs_forget_one(struct fs *fs, fuse_ino_t ino)
{
	place_unref(fs->places, inode_forget(fs->inodes, ino, 1));
}

void fs_reply_entry(fuse_req_t req, const struct fuse_entry_param *entry)
{
	/* The request was interrupted: the kernel will never forget what it was not told. */
	if (fuse_reply_entry(req, entry) == -ENOENT)
		fs_forget_one(fs_of(req), entry->ino);
}

void fs_rename_place(struct fs *fs, const struct dir_hold *dir, const char *name, uint64_t nodeid)
{
	enum place_file kind = remembered_kind(fs, dir->place, name);
	struct place *place = NULL;

	if (kind != PLACE_FILE_OTHER) {
		place = dir->place;
		place_ref(fs->places, place);
	}
	place_unref(fs->places, inode_replace_place(fs->inodes, nodeid, place, kind));
}

void fs_credentials_take(fuse_req_t req)
{
	const struct fuse_ctx *ctx = fuse_req_ctx(req);

	credentials_take(ctx->uid, ctx->gid, fs_of(req)->caller_umask ? ctx->umask : 0);
}

void fs_clear_privs(struct fs *fs, fuse_ino_t ino, int fd, uid_t caller)
{
	struct stat st;
	mode_t mode;

	if (caller == 0 || !inode_may_have_privs(fs->inodes, ino) || fstat(fd, &st) < 0)
		return;
	mode = st.st_mode & 07777 & ~S_ISUID;
	/* Without group execute the bit means mandatory locking, and stays. */
	if (mode & S_IXGRP)
		mode &= ~S_ISGID;
	if (S_ISREG(st.st_mode) && mode != (st.st_mode & 07777) && fchmod(fd, mode) == 0)
		inode_note_mode(fs->inodes, ino, mode);
}

static void fs_init(void *userdata, struct fuse_conn_info *conn)
{
	struct fs *fs = userdata;

	/* Nobody else changes the files, so what the kernel has cached stays right. */
	conn->want &= ~(unsigned)(FUSE_CAP_AUTO_INVAL_DATA | FUSE_CAP_EXPORT_SUPPORT |
				  FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE |
				  FUSE_CAP_SPLICE_MOVE | FUSE_CAP_WRITEBACK_CACHE);
	conn->want |= conn->capable &
		      (FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO | FUSE_CAP_PARALLEL_DIROPS |
		       FUSE_CAP_ASYNC_READ | FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_CACHE_SYMLINKS);
	if ((conn->capable & FUSE_CAP_POSIX_ACL) && (conn->capable & FUSE_CAP_DONT_MASK)) {
		conn->want |= FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK;
		fs->caller_umask = true;
	}
	passthrough_negotiate(fs, conn);
	conn->max_write = MAX_WRITE;
	conn->time_gran = 1;
}

const struct fuse_lowlevel_ops fs_operations = {
	.init = fs_init,
	.lookup = fs_lookup,
	.forget = fs_forget,
	.forget_multi = fs_forget_multi,
	.getattr = fs_getattr,
	.setattr = fs_setattr,
	.readlink = fs_readlink,
	.statfs = fs_statfs,
	.mknod = fs_mknod,
	.mkdir = fs_mkdir,
	.symlink = fs_symlink,
	.link = fs_link,
	.unlink = fs_unlink,
	.rmdir = fs_rmdir,
	.rename = fs_rename,
	.opendir = fs_opendir,
	.readdir = fs_readdir,
	.readdirplus = fs_readdirplus,
	.releasedir = fs_releasedir,
	.fsyncdir = fs_fsyncdir,
	.create = fs_create,
	.open = fs_open,
	.read = fs_read,
	.write = fs_write,
	.flush = fs_flush,
	.release = fs_release,
	.fsync = fs_fsync,
	.fallocate = fs_fallocate,
	.lseek = fs_lseek,
	.copy_file_range = fs_copy_file_range,
	.setxattr = fs_setxattr,
	.getxattr = fs_getxattr,
	.listxattr = fs_listxattr,
	.removexattr = fs_removexattr,
	/* No lock handlers: the kernel's own locks hold between all clients of the mount. */
};
