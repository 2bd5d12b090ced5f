/*
 * The command line of dsync, read into one struct. Pure: no files, no settings.
 *
 *   dsync [options] mirror|backup LOCATION2
 *   dsync [options] server [options]
 *
 * What stands behind LOCATION2's first word belongs to it. The letters that old scripts and Dovecot
 * pass and that mean nothing here are taken.
 */
#ifndef DSYNCFS_SYNC_DSYNC_OPTIONS_H
#define DSYNCFS_SYNC_DSYNC_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include "store/base/buf.h"
#include "store/base/error.h"
#include "store/base/guid.h"
#include "sync/mail_filter.h"

#define DSYNC_WORDS_MAX 64 /* of a repeatable option */

enum dsync_verb { DSYNC_MIRROR, DSYNC_BACKUP, DSYNC_SERVER };

struct dsync_words {
	const char *word[DSYNC_WORDS_MAX];
	size_t count;
};

struct dsync_options {
	enum dsync_verb verb;
	bool help;
	const char *config;	       /* -c; NULL: the default ones */
	struct dsync_words overrides;  /* -o name=value */
	const char *user;	       /* -u; NULL: the caller */
	struct dsync_words boxes;      /* -m */
	struct dsync_words namespaces; /* -n, but the empty prefix */
	struct guid only_guid;	       /* -g; empty: any mailbox */
	const char *state;	       /* -s; NULL: none is wanted */
	struct buf excludes;	       /* -x, as dsync's handshake has them */
	char *names[DSYNC_WORDS_MAX];  /* of boxes, where an option says a special use */
	size_t name_count;
	char alt_char; /* -C */
	bool full, reverse, verbose, debug;
	const char *raw_log;	   /* -r */
	bool tree_only;		   /* -m '', -g '': no mail is synced */
	bool purge;		   /* -P: the other end's */
	bool once;		   /* -1: one way, and the destination loses nothing */
	struct mail_filter filter; /* -t, -e, -I, -O */
	bool dry_run;		   /* --dry-run */
	bool json;		   /* --json */
	bool use_replica;	   /* -d: LOCATION2 is the user's mail_replica */
	unsigned timeout_secs;	   /* -T; 0: the default */
	char *const *location;	   /* LOCATION2, within argv */
	size_t location_count;
};

#define DSYNC_USAGE                                                                                \
	"usage: dsync [-c FILE] [-o SETTING=VALUE] [-u USER] [-m MAILBOX] [-x MAILBOX] [-C "       \
	"CHAR]\n"                                                                                  \
	"             [-g GUID] [-s STATE] [-t SINCE] [-e UNTIL] [-I SIZE] [-O [-]FLAG]\n"         \
	"             [-1fPRvD] [-r FILE] [--dry-run [--json]] mirror|backup LOCATION2\n"          \
	"       dsync [-c FILE] [-o SETTING=VALUE] [-u USER] [-r FILE] server\n"

struct mail_user;
struct settings;

/* Adds a pattern to excludes. */
#define DSYNC_EXCLUDES_MAX 65536
int dsync_excludes_append(struct buf *excludes, const char *pattern);

/* Whether what -n says is the namespace that is synced: its prefix, or one that no other namespace
 * has, so that the one without a prefix has those mailboxes. -EOPNOTSUPP, -EINVAL: it is not. */
int dsync_options_namespaces(const struct dsync_options *options, const struct settings *set,
			     struct error *err);
/* Puts the mailboxes that the user's settings say it of into the place of "\Trash" in -m and -x.
 * -ENOENT: of none, for -m. */
int dsync_options_special(struct dsync_options *options, const struct mail_user *user,
			  struct error *err);

/* -EINVAL: a mistake. Free with dsync_options_free() in any case. */
int dsync_options_parse(int argc, char **argv, struct dsync_options *options_r, struct error *err);
void dsync_options_free(struct dsync_options *options);

#endif
