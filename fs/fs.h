/*
 * The mount, as a whole: a FUSE filesystem over a backing directory that journals what happens to
 * mail in it.
 *
 * What others may rely on: the backing directory is a plain tree at every moment; an event is in
 * the journal only after the operation succeeded; a mailbox is durably in the journal's dirty set
 * before its first modification is answered. Workers announce themselves as fs/origin.h says.
 */
#ifndef DSYNCFS_FS_FS_H
#define DSYNCFS_FS_FS_H

#include <stdbool.h>
#include "store/base/error.h"

struct fs_options {
	const char *source;	   /* the backing directory; may be the mount point */
	const char *mount_point;   /* absolute, without symbolic links */
	const char *fsname;	   /* what mount(8) shows as the source */
	const char *state_dir;	   /* the journal's; outside the mount */
	unsigned home_depth;	   /* components of a home's path below the root */
	unsigned long mount_flags; /* MS_* beside nosuid and nodev */
	unsigned threads;	   /* that serve; 0: the default */
	bool debug;		   /* every request on stderr */
};

/* Opens what is needed, takes a stale mount of ours down, mounts, calls ready() and serves until
 * SIGTERM or SIGINT, or until somebody unmounts. Then: detached (lazily where files are open), what
 * is in flight finished, the journal committed. Returns 0 after a clean end. Needs root. The
 * calling process must have no other threads. */
int fs_run(const struct fs_options *options, void (*ready)(void *ctx), void *ctx,
	   struct error *err);

#endif
