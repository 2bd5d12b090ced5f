/* The command that reaches another machine: dsync_remote_cmd, or ssh. Pure. */
#ifndef DSYNCFS_SYNC_DSYNC_REMOTE_H
#define DSYNCFS_SYNC_DSYNC_REMOTE_H

#include <stddef.h>
#include "store/base/error.h"

#define DSYNC_ARGS_MAX 256

struct dsync_remote {
	const char *login; /* "": ssh's own choice */
	const char *host;
	const char *user; /* "": the login's own mail */
};

/* The words of a command, malloc'ed as they are. */
struct dsync_args {
	char *arg[DSYNC_ARGS_MAX + 1]; /* ends with NULL */
	size_t count;
};

int dsync_args_add(struct dsync_args *args, const char *text, size_t len, struct error *err);
void dsync_args_free(struct dsync_args *args);

/* template: dsync_remote_cmd. Split at spaces, then %{login}, %{host}, %{user} (%u), %{username}
 * (%n), %{domain} (%d) and %% are replaced in each word; a word all of whose variables are empty
 * goes, as in Dovecot. "": ssh, and there our dsync, Dovecot's or doveadm, whichever it finds. */
int dsync_remote_args(const char *template, const struct dsync_remote *remote,
		      struct dsync_args *args, struct error *err);

#endif
