/*
 * Kernel pass-through of file data, where library and kernel have it: reads, writes and mappings go
 * to the backing file, and only open, fsync, close and attributes come here.
 *
 * Everything is passed through but
 * - files whose writes are events or are read record by record (logs, uidlist, keywords,
 *   subscriptions): what is not seen cannot be told;
 * - the files that mdbox's writers append to under a lock: see place_file_is_ours();
 * - files with suid or sgid, which writes with our credentials would keep (one that gets them
 *   while it is open does keep them; the mount is nosuid).
 * An inode is passed through or copied by all its openers at a time: the kernel refuses to mix them
 * (EIO). So the first opener decides by the name that the file has, and a rename changes nothing
 * until the last one is gone. Openers of one inode share a backing id.
 */
#ifndef DSYNCFS_FS_PASSTHROUGH_H
#define DSYNCFS_FS_PASSTHROUGH_H

#include "fs/ops.h"

/* Whether the library can ask for it, and the kernel has said yes: for fs_init(). */
void passthrough_negotiate(struct fs *fs, struct fuse_conn_info *conn);
/* The file was opened: sets fi up for pass-through if its inode is. Failure means that it is
 * copied. */
void passthrough_open(fuse_req_t req, struct fs *fs, uint64_t nodeid, struct open_file *file,
		      struct fuse_file_info *fi);
/* It is closed. */
void passthrough_release(fuse_req_t req, struct fs *fs, struct open_file *file);
/* The file may have been written to by this opener, without a word, under a name whose writes are
 * events now: it got the name while it was open. */
bool passthrough_was_unseen(struct fs *fs, const struct open_file *file, int flags);

#endif
