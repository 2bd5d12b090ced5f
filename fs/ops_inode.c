/* Lookup, forgetting, attributes. See ops.h. */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "store/base/file.h"

/* The directory itself, once more, as the root of the mounted tree. */
static int enter_tree(struct fs *fs, const struct dir_hold *root, struct fuse_entry_param *entry_r)
{
	struct inode_entry entry;
	int rc = inode_lookup(fs->inodes, root->fd, ".", &entry);

	if (rc < 0)
		return rc;
	place_ref(fs->places, root->place);
	if (!inode_set_place(fs->inodes, entry.nodeid, root->place, PLACE_FILE_OTHER))
		place_unref(fs->places, root->place);
	*entry_r = fs_entry(&entry);
	return 0;
}

void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fs *fs = fs_of(req);
	AUTO_DIR_HOLD struct dir_hold dir = {0};
	struct fuse_entry_param entry;
	int rc = fs_dir_get(fs, parent, &dir);

	if (rc == 0 && parent == FUSE_ROOT_ID && strcmp(name, FS_TREE_NAME) == 0)
		rc = enter_tree(fs, &dir, &entry);
	else if (rc == 0)
		rc = fs_enter_child(fs, &dir, name, &entry);
	if (rc < 0)
		fs_reply_err(req, "lookup", rc);
	else
		fs_reply_entry(req, &entry);
}

void fs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count)
{
	struct fs *fs = fs_of(req);

	place_unref(fs->places, inode_forget(fs->inodes, ino, count));
	fuse_reply_none(req);
}

void fs_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets)
{
	struct fs *fs = fs_of(req);

	for (size_t i = 0; i < count; i++)
		place_unref(fs->places,
			    inode_forget(fs->inodes, forgets[i].ino, forgets[i].nlookup));
	fuse_reply_none(req);
}

/* A descriptor for attributes: the open file's, or one made for the purpose (*own_r, to be closed).
 */
static int attr_fd(struct fs *fs, fuse_ino_t ino, const struct fuse_file_info *fi, int *own_r)
{
	const struct open_file *file = fi ? open_file_get(fs->files, fi->fh) : NULL;

	if (file && file->fd >= 0)
		return file->fd;
	*own_r = inode_open(fs->inodes, ino, O_PATH);
	return *own_r;
}

static void reply_attr(fuse_req_t req, fuse_ino_t ino, int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0) {
		fs_reply_err(req, "stat", -errno);
		return;
	}
	if (st.st_mode & (S_ISUID | S_ISGID))
		inode_note_mode(fs_of(req)->inodes, ino, st.st_mode);
	fuse_reply_attr(req, &st, FS_TIMEOUT_S);
}

void fs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	AUTO_DIR_HOLD struct dir_hold dir = {0};
	AUTO_CLOSE int own = -1;
	int fd;

	if (inode_is_dir(fs->inodes, ino)) {
		int rc = fs_dir_get(fs, ino, &dir);

		fd = rc < 0 ? rc : dir.fd;
	} else {
		fd = attr_fd(fs, ino, fi, &own);
	}
	if (fd < 0)
		fs_reply_err(req, "stat", fd);
	else
		reply_attr(req, ino, fd);
}

static int set_mode(int fd, mode_t mode)
{
	char path[64];

	/* fchmod() takes no O_PATH descriptor. */
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return chmod(path, mode) < 0 ? -errno : 0;
}

static int set_size(struct fs *fs, fuse_ino_t ino, off_t size, const struct fuse_file_info *fi,
		    const struct fuse_ctx *ctx)
{
	const struct open_file *file = fi ? open_file_get(fs->files, fi->fh) : NULL;
	AUTO_CLOSE int own = -1;
	struct observed op;
	int fd, rc;

	if (file) {
		fd = file->fd;
	} else {
		own = inode_open(fs->inodes, ino, O_WRONLY | O_NONBLOCK);
		fd = own;
	}
	if (fd < 0)
		return fd;
	fs_watch_begin(fs, &op, ino, ctx->pid);
	rc = ftruncate(fd, size) < 0 ? -errno : 0;
	if (rc == 0)
		fs_clear_privs(fs, ino, fd, ctx->uid);
	fs_watch_end(&op, rc == 0);
	return rc;
}

static int set_times(int fd, const struct stat *attr, int to_set)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};

	if (to_set & FUSE_SET_ATTR_ATIME_NOW)
		times[0].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_ATIME)
		times[0] = attr->st_atim;
	if (to_set & FUSE_SET_ATTR_MTIME_NOW)
		times[1].tv_nsec = UTIME_NOW;
	else if (to_set & FUSE_SET_ATTR_MTIME)
		times[1] = attr->st_mtim;
	return utimensat(fd, "", times, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

void fs_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		struct fuse_file_info *fi)
{
	struct fs *fs = fs_of(req);
	AUTO_CLOSE int fd = inode_open(fs->inodes, ino, O_PATH);
	int rc = fd < 0 ? fd : 0;

	if (rc == 0 && (to_set & FUSE_SET_ATTR_MODE)) {
		rc = set_mode(fd, attr->st_mode & 07777);
		if (rc == 0)
			inode_note_mode(fs->inodes, ino, attr->st_mode);
	}
	if (rc == 0 && (to_set & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID))) {
		uid_t uid = to_set & FUSE_SET_ATTR_UID ? attr->st_uid : (uid_t)-1;
		gid_t gid = to_set & FUSE_SET_ATTR_GID ? attr->st_gid : (gid_t)-1;

		rc = fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
	}
	if (rc == 0 && (to_set & FUSE_SET_ATTR_SIZE))
		rc = set_size(fs, ino, attr->st_size, fi, fuse_req_ctx(req));
	if (rc == 0 && (to_set & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_ATIME_NOW |
				  FUSE_SET_ATTR_MTIME | FUSE_SET_ATTR_MTIME_NOW)))
		rc = set_times(fd, attr, to_set);
	if (rc < 0)
		fs_reply_err(req, "setattr", rc);
	else
		reply_attr(req, ino, fd);
}

void fs_readlink(fuse_req_t req, fuse_ino_t ino)
{
	AUTO_CLOSE int fd = inode_open(fs_of(req)->inodes, ino, O_PATH);
	char target[PATH_MAX + 1];
	ssize_t len;

	if (fd < 0) {
		fs_reply_err(req, "readlink", fd);
		return;
	}
	len = readlinkat(fd, "", target, sizeof target - 1);
	if (len < 0) {
		fs_reply_err(req, "readlink", -errno);
		return;
	}
	target[len] = '\0';
	fuse_reply_readlink(req, target);
}

void fs_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;

	if (fstatvfs(fs_of(req)->root_fd, &st) < 0)
		fs_reply_err(req, "statfs", -errno);
	else
		fuse_reply_statfs(req, &st);
}
