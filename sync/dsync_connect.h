/* The other end of the dsync command: started or called, and ended. */
#ifndef DSYNCFS_SYNC_DSYNC_CONNECT_H
#define DSYNCFS_SYNC_DSYNC_CONNECT_H

#include <sys/types.h>
#include "store/base/error.h"
#include "store/settings.h"
#include "sync/dsync_location.h"
#include "sync/stream.h"

struct dsync_peer {
	struct stream *stream;
	pid_t pid; /* of a command or of the local other end; 0: none */
};

/* Runs the other end of a local location on this descriptor, in a process of its own; returns that
 * process's exit status. */
typedef int dsync_serve_fn(void *ctx, int fd);

/* SIGPIPE has to be ignored. timeout_secs 0: the stream's own. */
int dsync_connect(const struct dsync_location *location, const struct settings *set,
		  unsigned timeout_secs, dsync_serve_fn *serve, void *ctx,
		  struct dsync_peer *peer_r, struct error *err);
/* A command alone. stderr_fd: where its error output goes; -1: to ours. */
int dsync_connect_command(const struct dsync_location *location, unsigned timeout_secs,
			  int stderr_fd, struct dsync_peer *peer_r, struct error *err);
/* Closes the stream and waits for the process, which is ended when it does not end by itself.
 * Returns its exit status; above 128: the signal that ended it, and 128. */
int dsync_disconnect(struct dsync_peer *peer);

#endif
