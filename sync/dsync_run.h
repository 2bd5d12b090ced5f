/* The dsync command's sessions: as master with LOCATION2, or as the other end. */
#ifndef DSYNCFS_SYNC_DSYNC_RUN_H
#define DSYNCFS_SYNC_DSYNC_RUN_H

#include "store/base/error.h"
#include "store/mail_user.h"
#include "store/settings.h"
#include "sync/brain.h"
#include "sync/dsync_location.h"
#include "sync/dsync_options.h"

/* Of the process: 0 in sync, 2 done but to be run again, else it failed. */
#define DSYNC_EXIT_DONE	  0
#define DSYNC_EXIT_FAILED 1
#define DSYNC_EXIT_AGAIN  2

struct dsync_run {
	const struct dsync_options *options;
	const struct settings *set;
	const struct mail_user *user;
	struct sync_state *state; /* of -s; NULL: none */
	const char *side;	  /* what its changes are told of as */
};

/* One session; with -m one for each. The process is the user's by now. Errors are logged. */
int dsync_run_master(const struct dsync_run *run, const struct dsync_location *location);
/* One session on these descriptors, which are closed. */
int dsync_run_server(const struct dsync_run *run, int fd_in, int fd_out);

#endif
