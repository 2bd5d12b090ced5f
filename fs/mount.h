/*
 * Attaching to and detaching from the directory tree.
 *
 * We mount by mount(2), as root, with our own /dev/fuse descriptor: no helper program, and the
 * descriptor can be handed over later.
 */
#ifndef DSYNCFS_FS_MOUNT_H
#define DSYNCFS_FS_MOUNT_H

#include <sys/types.h>
#include "store/base/error.h"

#define MOUNT_FSTYPE "fuse.dsyncfs"

/* The absolute path of a mount point, also where a dead mount covers it. malloc'ed. */
int mount_point_resolve(const char *path, char **path_r, struct error *err);

/* 1: the path is covered by the mount of a dsyncfs that died. 0: it is not; another filesystem may
 * be there. -EBUSY: a dsyncfs that lives is mounted there. Never call these two from a serving
 * thread.
 *
 * A dead mount is best left where it is until a new one takes its place: what it hides is a bare
 * directory, into which mail would be delivered that nobody ever sees again. */
int mount_is_dead(const char *path, struct error *err);
/* Takes all dead ones down that are on each other. */
int mount_clear_dead(const char *path, struct error *err);

/* A connection's own root inode is made before the kernel knows that we have ACLs, and on kernels
 * from 6.2 its ACLs are then never cached: each path that anybody but its owner walks through it
 * asks for them, 32 requests for one delivery of Dovecot's. So the connection is mounted aside, on
 * a directory made for the moment (mount_aside()), the tree begins one level below its root, and
 * that is what is bound to the mount point (mount_bind(), which ends the mount aside). */

/* flags: MS_* in addition to nosuid and nodev. source: what mount(8) shows. */
int mount_aside(const char *aside, int dev_fd, mode_t root_mode, unsigned long flags,
		const char *source, struct error *err);
/* The connection is being served. */
int mount_bind(const char *aside, const char *tree_name, const char *path, struct error *err);
/* Takes away what mount_aside() may have left, also one of a process that died. */
void mount_aside_end(const char *aside);

/* Unmounts; lazily where files are open. Returns 0 also when it is not mounted any more. */
int mount_detach(const char *path, struct error *err);

#endif
