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

/* Takes down dead dsyncfs mounts on the path. -EBUSY: a dsyncfs that lives is mounted there.
 * Another filesystem there is left alone. Never call it from a serving thread. */
int mount_clear_stale(const char *path, struct error *err);

/* Mounts the descriptor. flags: MS_* in addition to nosuid and nodev. source: what mount(8) shows.
 */
int mount_attach(const char *path, int dev_fd, mode_t root_mode, unsigned long flags,
		 const char *source, struct error *err);

/* Unmounts; lazily where files are open. Returns 0 also when it is not mounted any more. */
int mount_detach(const char *path, struct error *err);

#endif
