/* Rename, with all its flags: the operation that delivers mail, changes flags and moves folders.
 * See ops.h. */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include "store/base/crash_point.h"
#include "store/base/file.h"

struct rename_op {
	struct fs *fs;
	struct dir_hold from, to;
	const char *name, *new_name;
	struct observed op;
};

static bool same_file(const struct rename_op *r)
{
	struct stat a, b;

	return fstatat(r->from.fd, r->name, &a, AT_SYMLINK_NOFOLLOW) == 0 &&
	       fstatat(r->to.fd, r->new_name, &b, AT_SYMLINK_NOFOLLOW) == 0 &&
	       a.st_dev == b.st_dev && a.st_ino == b.st_ino;
}

static int rename_plain(const struct rename_op *r, unsigned flags)
{
	return renameat2(r->from.fd, r->name, r->to.fd, r->new_name, flags) < 0 ? -errno : 0;
}

/* A rename whose target is a message. Learns in the same call whether there was one under that name
 * (the usual answer, no, costs nothing). noop_r: both names are links of one file, and rename(2)
 * leaves both. */
static int rename_to_message(const struct rename_op *r, bool *replaced_r, bool *noop_r)
{
	struct stat st;
	int rc = rename_plain(r, RENAME_NOREPLACE);

	if (rc == -EEXIST) {
		*noop_r = same_file(r);
		*replaced_r = !*noop_r;
		return rename_plain(r, 0);
	}
	if (rc != -EINVAL && rc != -ENOSYS)
		return rc;
	/* The filesystem does not know the flag, or the rename is wrong in itself. */
	*noop_r = same_file(r);
	*replaced_r = !*noop_r && fstatat(r->to.fd, r->new_name, &st, AT_SYMLINK_NOFOLLOW) == 0;
	return rename_plain(r, 0);
}

/* In these directories no name matters to its inode, and a directory is not looked at. */
static bool is_part(enum place_role role)
{
	return place_role_is_part(role) && role != PLACE_MAILS;
}

static bool is_remembered(enum place_file kind)
{
	return place_file_is_ours(kind);
}

/* What the kernel calls `name` in the directory; is_dir_r also where it has forgotten it. */
static uint64_t find_node(const struct rename_op *r, const struct dir_hold *dir, const char *name,
			  bool *is_dir_r)
{
	uint64_t nodeid = inode_peek(r->fs->inodes, dir->fd, name);
	struct stat st;

	if (nodeid)
		*is_dir_r = inode_is_dir(r->fs->inodes, nodeid);
	else
		*is_dir_r = fstatat(dir->fd, name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
			    S_ISDIR(st.st_mode);
	return nodeid;
}

static void renamed(struct rename_op *r, bool replaced)
{
	enum place_file from = r->op.names[0].kind, to = r->op.names[1].kind;
	uint64_t nodeid;
	bool is_dir;

	if (is_part(r->op.names[0].at.role) && is_part(r->op.names[1].at.role)) {
		observe_renamed(&r->op, replaced);
		return;
	}
	nodeid = find_node(r, &r->to, r->new_name, &is_dir);
	if (is_dir) {
		int rc = observe_dir_renamed(
			&r->op, nodeid ? inode_place(r->fs->inodes, nodeid) : NULL, r->to.fd);

		/* The old place is left: events name the old path, which a scan finds gone. */
		if (rc < 0)
			fs_note_trouble("rename", rc);
		return;
	}
	if (nodeid && (is_remembered(from) || is_remembered(to)))
		fs_rename_place(r->fs, &r->to, r->new_name, nodeid);
	observe_renamed(&r->op, replaced);
}

static void exchanged(struct rename_op *r)
{
	bool a_dir, b_dir;
	uint64_t a = find_node(r, &r->to, r->new_name, &a_dir);
	uint64_t b = find_node(r, &r->from, r->name, &b_dir);
	struct place *a_place = a && a_dir ? inode_place(r->fs->inodes, a) : NULL;
	struct place *b_place = b && b_dir ? inode_place(r->fs->inodes, b) : NULL;

	if (a && !a_dir)
		fs_rename_place(r->fs, &r->to, r->new_name, a);
	if (b && !b_dir)
		fs_rename_place(r->fs, &r->from, r->name, b);
	if (!a_dir && !b_dir)
		observe_exchanged(&r->op);
	else if (observe_dirs_exchanged(&r->op, a_place, b_place,
					(const int[]){r->from.fd, r->to.fd}) < 0)
		fs_note_trouble("rename", -ENOMEM);
}

static int do_rename(struct rename_op *r, unsigned flags)
{
	AUTO_CLOSE int target = flags ? -1 : fs_hold_name(&r->to, r->new_name);
	bool replaced = false, noop = false;
	int rc;

	observe_removal_ahead(&r->op);
	if (flags == 0 && r->op.names[1].kind == PLACE_FILE_MESSAGE)
		rc = rename_to_message(r, &replaced, &noop);
	else
		rc = rename_plain(r, flags);
	crash_point("rename: done, not observed");
	if (rc < 0 || noop)
		return rc;
	fs_dir_changed(&r->from);
	fs_dir_changed(&r->to);
	if (target >= 0)
		inode_keep(r->fs->inodes, &target);
	if (flags & RENAME_EXCHANGE)
		exchanged(r);
	else
		renamed(r, replaced);
	return 0;
}

static void run_rename(const struct fs_again *args)
{
	struct rename_op r;
	bool again = false;
	int rc;

	r.fs = fs_of(args->req);
	r.name = args->name;
	r.new_name = args->new_name;
	r.to.ref = 0;
	rc = fs_dir_get(r.fs, args->parent, &r.from);
	if (rc == 0)
		rc = fs_dir_get(r.fs, args->other, &r.to);
	if (rc == 0) {
		observe_begin(&r.op, &r.fs->observer, fuse_req_ctx(args->req)->pid);
		observe_name(&r.op, r.from.place, r.name);
		observe_name(&r.op, r.to.place, r.new_name);
		again = !fs_dirty(r.fs, &r.op);
		crash_point("rename: dirty, not done");
		if (!again)
			rc = do_rename(&r, args->flags);
		observe_end(&r.op);
		crash_point("rename: observed, not answered");
	}
	fs_dir_put(&r.from);
	if (r.to.ref)
		fs_dir_put(&r.to);
	if (again && fs_again(run_rename, args))
		return;
	fs_reply_err(args->req, "rename", again ? -ENOMEM : rc);
}

void fs_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	       const char *new_name, unsigned flags)
{
	run_rename(&(struct fs_again){.req = req,
				      .parent = parent,
				      .other = new_parent,
				      .name = name,
				      .new_name = new_name,
				      .flags = flags});
}
