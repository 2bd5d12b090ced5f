/* What dsyncctl's subcommands share. One file each; dsyncctl.c has the table. */
#ifndef DSYNCFS_TOOLS_DSYNCCTL_H
#define DSYNCFS_TOOLS_DSYNCCTL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <jansson.h>
#include "store/base/error.h"
#include "store/settings.h"

struct dsyncctl {
	const struct settings *set;
	bool json;
};

/* Each gets its own arguments (argv[0] is the subcommand) and returns an exit status. */
int dsyncctl_status(const struct dsyncctl *ctl, int argc, char **argv);
int dsyncctl_replicate(const struct dsyncctl *ctl, int argc, char **argv);
int dsyncctl_dsync_status(const struct dsyncctl *ctl, int argc, char **argv);
int dsyncctl_users(const struct dsyncctl *ctl, int argc, char **argv);
int dsyncctl_accept_store(const struct dsyncctl *ctl, int argc, char **argv);
int dsyncctl_purge(const struct dsyncctl *ctl, int argc, char **argv);
int dsyncctl_showconf(const struct dsyncctl *ctl, int argc, char **argv);

/* Prints the error and returns the exit status for it. */
int dsyncctl_fail(const struct error *err);
/* Prints and frees root. */
int dsyncctl_print_json(json_t *root);
/* "3 s", "12 min", "5 h", "2 days". Returns text_r. */
const char *dsyncctl_ago(int64_t seconds, char text_r[32]);

#endif
