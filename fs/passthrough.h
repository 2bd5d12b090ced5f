/*
 * Kernel pass-through of file data, where library and kernel have it.
 *
 * An inode is either passed through or cached by all its openers at a time, so that is chosen once
 * an inode, by its place: everything passes through but the logs, whose appends must be seen, and
 * files with suid or sgid, which writes with the daemon's credentials would keep. Openers of one
 * inode share a backing id.
 */
#ifndef DSYNCFS_FS_PASSTHROUGH_H
#define DSYNCFS_FS_PASSTHROUGH_H

#include "fs/ops.h"

/* Sets fi up for pass-through if the inode is one. Failure means that it is copied. */
void passthrough_open(fuse_req_t req, struct fs *fs, struct open_file *file,
		      struct fuse_file_info *fi);
void passthrough_release(fuse_req_t req, struct fs *fs, struct open_file *file);

#endif
