/*
 * The conversation with the kernel: the threads that serve requests.
 *
 * A thread reads a request, serves it and answers; lead.h says which one reads. All are alike and
 * kept (a thread that ends would be made again at the next request). The library parses requests
 * and builds answers; reading and writing the descriptor is ours, which lets us take part in what
 * this library version does not know yet (see session.c).
 */
#ifndef DSYNCFS_FS_SESSION_H
#define DSYNCFS_FS_SESSION_H

#include <stdbool.h>
#include "fs/ops.h"
#include "store/base/error.h"

struct session;

/* Sent to the process (which blocks it) when the connection has ended, since somebody unmounted. */
#define SESSION_ENDED_SIGNAL SIGUSR2

/* dev_fd: of /dev/fuse, mounted or about to be. The session owns it from here on. debug: the
 * library prints every request. */
int session_create(struct fs *fs, int dev_fd, bool debug, struct session **session_r,
		   struct error *err);
int session_start(struct session *session, unsigned threads, struct error *err);
/* Serves what has arrived, for some seconds at most, and ends the threads. */
void session_stop(struct session *session);
/* Closes the connection: later calls of clients fail with ENOTCONN. */
void session_free(struct session **session);

#endif
