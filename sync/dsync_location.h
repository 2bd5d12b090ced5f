/*
 * LOCATION2 of the dsync command: what the words on the command line mean. Pure: nothing is opened.
 *
 *   maildir:/backup/user/Maildir         a mail location on this machine
 *   tcp:host[:port], tcps:host[:port]    a doveadm port, plain or with TLS
 *   host, user@host, remote:[login@]host, remoteprefix:[login@]host
 *                                        dsync_remote_cmd there, by default over ssh
 *   /path/script, "a whole command", or several words
 *                                        a command; `server` is put behind it where it is missing
 */
#ifndef DSYNCFS_SYNC_DSYNC_LOCATION_H
#define DSYNCFS_SYNC_DSYNC_LOCATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/settings.h"

enum dsync_place { DSYNC_PLACE_LOCAL, DSYNC_PLACE_COMMAND, DSYNC_PLACE_TCP };

/* All malloc'ed; NULL where the place has no use for one. */
struct dsync_location {
	enum dsync_place place;
	char *text;	    /* as written, for messages */
	char *mail;	    /* LOCAL: the mail location, variables not expanded */
	char *host;	    /* TCP */
	uint16_t port;	    /* TCP */
	bool tls;	    /* TCP */
	char **argv;	    /* COMMAND, ends with NULL */
	char *user;	    /* whose mail it is there; NULL: the other end's own choice */
	bool user_on_stdin; /* COMMAND: the user's name is its first line of input */
};

/* user: of -u, or NULL. -EINVAL: what is wrong with it. */
int dsync_location_parse(char *const *words, size_t count, const struct settings *set,
			 const char *user, struct dsync_location *location_r, struct error *err);
void dsync_location_free(struct dsync_location *location);

#endif
