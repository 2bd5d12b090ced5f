/*
 * The operations of the mount: what they share. One file holds one kind: ops_inode.c lookup and
 * attributes, ops_dir.c directories, ops_name.c names, ops_file.c open files, ops_xattr.c extended
 * attributes. ops.c puts them together and speaks with the kernel at start.
 *
 * Names are single components, used with *at() calls below a directory's descriptor and never
 * followed: the kernel resolves symbolic links in the caller's namespace. Permissions are the
 * kernel's (default_permissions). No handler calls into the mount.
 */
#ifndef DSYNCFS_FS_OPS_H
#define DSYNCFS_FS_OPS_H

#define FUSE_USE_VERSION 312
#include <fuse_lowlevel.h>

#include "fs/inode_table.h"
#include "fs/io_pool.h"
#include "fs/observe.h"
#include "fs/open_file.h"

/* Kernel pass-through of file data: Debian 13's library has it, Debian 12's has not. */
#define FS_HAVE_PASSTHROUGH (FUSE_VERSION >= FUSE_MAKE_VERSION(3, 17))

struct fs {
	int root_fd;
	struct inode_table *inodes;
	struct places *places;
	struct open_files *files;
	struct io_pool *pool;
	struct observer observer;
	bool caller_umask;    /* the kernel leaves the umask to us (needed for default ACLs) */
	bool passthrough;     /* the kernel does it; see passthrough.h for which files */
	bool backing_refused; /* atomic: it did not for one, and is not asked again */
};

/* The name under which O_TMPFILE arrives at fs_create(): no file can have it. See session.c. */
#define FS_TMPFILE_NAME "/"

/* Below the connection's own root, under this name, the mounted tree begins: see mount.h. */
#define FS_TREE_NAME ".dsyncfs"

/* How long the kernel may rely on names and attributes: nobody else touches the backing directory.
 */
#define FS_TIMEOUT_S 3600.0

extern const struct fuse_lowlevel_ops fs_operations;

static inline struct fs *fs_of(fuse_req_t req)
{
	return fuse_req_userdata(req);
}

/* ino is what is mounted. */
bool fs_is_root(struct fs *fs, fuse_ino_t ino);
/* Answers with rc, 0 or a negative errno. Trouble of the backing filesystem (read-only, full, I/O
 * error) is logged, once a minute a kind. op: the operation's name. */
void fs_reply_err(fuse_req_t req, const char *op, int rc);
/* Only the logging. */
void fs_note_trouble(const char *op, int rc);

/* A directory's O_PATH descriptor for the length of a handler. */
struct dir_hold {
	struct inode_table *inodes;
	fuse_ino_t ino;
	unsigned ref;
	int fd;
	struct place *place;
};
#define AUTO_DIR_HOLD __attribute__((cleanup(fs_dir_put)))
int fs_dir_get(struct fs *fs, fuse_ino_t ino, struct dir_hold *hold_r);
void fs_dir_put(const struct dir_hold *hold);
/* A name in it was made or removed. */
void fs_dir_changed(const struct dir_hold *hold);
/* A descriptor of what `name` is, for inode_keep() when the name is gone; -1: there is no such
 * name. */
int fs_hold_name(const struct dir_hold *dir, const char *name);

/* Looks name up in the directory for the kernel: counts the lookup, and gives directories and
 * watched files their places. */
int fs_enter_child(struct fs *fs, const struct dir_hold *dir, const char *name,
		   struct fuse_entry_param *entry_r);
/* As fs_enter_child for a file that was just created as name and is open. */
int fs_enter_fd(struct fs *fs, const struct dir_hold *dir, const char *name, int fd,
		struct fuse_entry_param *entry_r);
/* As fs_enter_child for what was looked up already; where it fails the lookup is taken back. Of a
 * file it does not fail. */
int fs_enter_entry(struct fs *fs, const struct dir_hold *dir, const char *name,
		   const struct inode_entry *entry, struct fuse_entry_param *entry_r);
/* What the kernel is told of it. */
struct fuse_entry_param fs_entry(const struct inode_entry *entry);
/* The reply did not reach the kernel: takes the lookup back. */
void fs_forget_one(struct fs *fs, fuse_ino_t ino);
/* Answers with the entry. */
void fs_reply_entry(fuse_req_t req, const struct fuse_entry_param *entry);
/* After a rename: name in the directory may be another kind of file now (dovecot.index.log.newlock
 * is no log's name, dovecot.index.log is). nodeid: name's, by inode_peek(). */
void fs_rename_place(struct fs *fs, const struct dir_hold *dir, const char *name, uint64_t nodeid);

/* Creates for the caller of req until credentials_drop(). */
void fs_credentials_take(fuse_req_t req);
/* A caller without CAP_FSETID wrote to, or truncated, the file: its suid and sgid go. */
void fs_clear_privs(struct fs *fs, fuse_ino_t ino, int fd, uid_t caller);

/* ops_again.c: makes the mailboxes of an operation dirty, waiting for that if need be. False: it
 * has to wait, and so many serving threads wait already that this one must not; the handler gives
 * up what it holds, and is begun again in the pool by fs_again(). */
bool fs_dirty(struct fs *fs, struct observed *op);

/* A request on names, to be begun again. The names are copied. */
struct fs_again {
	fuse_req_t req;
	fuse_ino_t parent, other; /* other: the new parent, or the linked inode */
	const char *name, *new_name;
	unsigned flags;
	mode_t mode;
	dev_t rdev;
};
typedef void fs_again_fn(const struct fs_again *args);
/* False: out of memory. */
bool fs_again(fs_again_fn *run, const struct fs_again *args);

/* ops_inode.c */
void fs_lookup(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_forget(fuse_req_t req, fuse_ino_t ino, uint64_t count);
void fs_forget_multi(fuse_req_t req, size_t count, struct fuse_forget_data *forgets);
void fs_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *attr, int to_set,
		struct fuse_file_info *fi);
void fs_readlink(fuse_req_t req, fuse_ino_t ino);
void fs_statfs(fuse_req_t req, fuse_ino_t ino);
/* ops_name.c */
void fs_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev);
void fs_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode);
void fs_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name);
void fs_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name);
void fs_unlink(fuse_req_t req, fuse_ino_t parent, const char *name);
void fs_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name);
/* ops_rename.c */
void fs_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	       const char *new_name, unsigned flags);
/* ops_dir.c */
void fs_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		    struct fuse_file_info *fi);
void fs_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
/* ops_file.c */
void fs_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *fi);
void fs_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi);
void fs_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi);
void fs_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi);
/* Of a serving thread that ends. */
void fs_thread_end(void);
/* At the end: deliveries that were never closed have to be looked at. */
void fs_close_deliveries(struct fs *fs);
/* ops_io.c: what may wait for a disk */
void fs_write(fuse_req_t req, fuse_ino_t ino, const char *data, size_t size, off_t off,
	      struct fuse_file_info *fi);
void fs_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void fs_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi);
void fs_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t offset, off_t length,
		  struct fuse_file_info *fi);
void fs_copy_file_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in,
			struct fuse_file_info *fi_in, fuse_ino_t ino_out, off_t off_out,
			struct fuse_file_info *fi_out, size_t len, int flags);
/* The inode was written to, if it is one whose writes are events. Called before (dirty) and after.
 */
void fs_watch_begin(struct fs *fs, struct observed *op, fuse_ino_t ino, pid_t pid);
void fs_watch_end(struct observed *op, bool written);
/* ops_xattr.c */
void fs_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		 int flags);
void fs_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size);
void fs_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size);
void fs_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name);

#endif
