/*
 * Acting for a caller: what is created belongs to the caller's uid and gid, and takes the caller's
 * umask (or the directory's default ACL) as on any local filesystem.
 *
 * The kernel has checked the caller's permissions already (default_permissions), supplementary
 * groups included, which a request does not carry. So a serving thread keeps its capabilities while
 * it has the caller's filesystem uid (SECBIT_NO_SETUID_FIXUP): it decides who owns, not who may.
 */
#ifndef DSYNCFS_FS_CREDENTIALS_H
#define DSYNCFS_FS_CREDENTIALS_H

#include <sys/types.h>
#include "store/base/error.h"

/* In the main thread, before others are made: they inherit it. Gives up CAP_SYS_RESOURCE too, so
 * that mail cannot fill the blocks reserved for root or pass a user's quota. */
int credentials_prepare(struct error *err);
/* In each serving thread: it gets a umask of its own. Negative errno. */
int credentials_prepare_thread(void);

/* From here to credentials_drop() the thread creates for this caller. */
void credentials_take(uid_t uid, gid_t gid, mode_t mask);
void credentials_drop(void);

#endif
