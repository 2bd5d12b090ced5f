/*
 * Names in state_dir through which programs of this machine reach dsyncd: unix sockets and a fifo,
 * with an owner and a mode.
 */
#ifndef DSYNCFS_SYNC_LOCAL_SOCKET_H
#define DSYNCFS_SYNC_LOCAL_SOCKET_H

#include "store/base/error.h"
#include "store/settings.h"

/* Bound, listening and non-blocking. One that a dead process left is taken over; -EADDRINUSE: a
 * living one answers there. */
int local_socket_open(const char *path, const struct settings_socket *owner, int *fd_r,
		      struct error *err);
/* For reading, without ever coming to its end. What else has the name is -EEXIST. */
int local_fifo_open(const char *path, const struct settings_socket *owner, int *fd_r,
		    struct error *err);
/* Lets those in who may use any of these: the directory's own mode is for root. */
int local_socket_admit(const char *dir, const struct settings_socket *const *owners, size_t count,
		       struct error *err);

#endif
