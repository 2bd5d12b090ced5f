/*
 * Whose changes a process applies (design invariant 5).
 *
 * The contract with workers: a process that applies a peer's changes through the mount says so,
 * while it is still root, with
 *
 *     setxattr(MOUNTPOINT, "trusted.dsyncfs.origin", "17", 2, 0)
 *
 * where the value is a decimal token from 1 to 4294967295. From then on the events of this process
 * (its main thread: the kernel names the calling thread) carry the token, whatever uid it takes on,
 * until it says "0" or exits. The mount takes the attribute for itself; it is never stored. Only
 * root can set trusted attributes, so nobody else can pass for a worker. A process whose number the
 * mount cannot see (another pid namespace) gets EINVAL, and its changes echo.
 *
 * getxattr(MOUNTPOINT, "trusted.dsyncfs.version") answers dsyncfs's version as text, and
 * trusted.dsyncfs.origin the caller's own token: so a program can tell that it is on a dsyncfs
 * mount.
 *
 * Thread-safe.
 */
#ifndef DSYNCFS_FS_ORIGIN_H
#define DSYNCFS_FS_ORIGIN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define ORIGIN_XATTR	     "trusted.dsyncfs.origin"
#define ORIGIN_VERSION_XATTR "trusted.dsyncfs.version"

struct origins;

/* NULL when out of memory. */
struct origins *origins_create(void);
void origins_free(struct origins **origins);

/* value: the attribute's, not NUL-terminated. -EINVAL: no token, or no process the mount can see.
 * -ENOSPC: too many processes have announced themselves. */
int origins_announce(struct origins *origins, pid_t pid, const char *value, size_t len);
/* The token of a process's changes; 0 for everybody else. Costs a load while nobody has announced.
 */
uint32_t origins_find(struct origins *origins, pid_t pid);

#endif
