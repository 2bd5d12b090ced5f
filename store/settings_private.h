/*
 * Settings, inside: the table of ours, the draft that reading a file fills, and the way from the
 * draft to struct settings.
 *
 *   settings_file.c           syntax
 *   settings_draft.c          what each line means: into the draft, into the notice, or an error
 *   settings_dovecot_names.c  the names that Dovecot knows, most of them in settings_dovecot_list.c
 *   settings_value.c          text to numbers, times, peers
 *   settings.c                draft to settings: defaults, checks between settings
 *   settings_print.c          settings to text
 */
#ifndef DSYNCFS_SETTINGS_PRIVATE_H
#define DSYNCFS_SETTINGS_PRIVATE_H

#include <uthash.h>
#include "store/base/buf.h"
#include "store/settings.h"
#include "store/settings_file.h"

/* ---- the table ---- */

enum setting_type {
	SETTING_TEXT,
	SETTING_PATH,	/* absolute, without '/' at its end */
	SETTING_FILE,	/* a file's name, written as </path */
	SETTING_BOOL,	/* bool: yes or no */
	SETTING_NUMBER, /* unsigned */
	SETTING_PORT,	/* uint16_t */
	SETTING_TIME,	/* unsigned, seconds */
	SETTING_SIZE,	/* unsigned, bytes */
	SETTING_WORDS,	/* listen: addresses */
	SETTING_SECRET, /* text, not printed */
};

struct setting_def {
	const char *name;
	enum setting_type type;
	size_t offset;	   /* in struct settings */
	const char *value; /* the default, as text */
	unsigned min, max; /* of numbers */
	const char *help;
};
extern const struct setting_def settings_table[];
extern const size_t settings_table_count;
/* NULL: none of ours. */
const struct setting_def *settings_table_find(const char *name);

/* ---- values; each fails with -EINVAL and the reason ---- */

int settings_parse_bool(const char *text, bool *value_r, struct error *err);
int settings_parse_number(const char *text, unsigned min, unsigned max, unsigned *value_r,
			  struct error *err);
/* "30", "30s", "5 mins", "24h", "1d", "2 weeks"; msecs are refused. */
int settings_parse_secs(const char *text, unsigned max, unsigned *value_r, struct error *err);
/* "10M", "64 k". */
int settings_parse_size(const char *text, uint64_t max, uint64_t *value_r, struct error *err);
int settings_parse_mode(const char *text, mode_t *mode_r, struct error *err);
/* Absolute, no "." or ".." in it; '/' at its end is cut. Appends to out. */
int settings_parse_path(const char *text, struct buf *out, struct error *err);

/* ---- names ---- */

enum settings_dovecot_name {
	SETTINGS_DOVECOT_NO,
	SETTINGS_DOVECOT_23, /* Dovecot 2.3 knows it (2.4 may, too) */
	SETTINGS_DOVECOT_24, /* only 2.4 knows it */
};
/* What doveconf -a shows, sorted; made by tools/dovecot_setting_names. */
extern const char *const settings_dovecot_list[];
extern const size_t settings_dovecot_list_count;
/* path: types of the blocks and the name, "service/inet_listener/port". */
enum settings_dovecot_name settings_dovecot_find(const char *path);
/* Calls each() for every name. */
void settings_dovecot_each(void (*each)(void *ctx, const char *path), void *ctx);
/* The known name that is nearest to an unknown one; NULL: none is near. path: as above; candidates
 * lie in the same kind of block. */
const char *settings_nearest(const char *path);

/* ---- the draft ---- */

#define SETTINGS_TABLE_MAX   32
#define SETTINGS_REPLICA_MAX 16

/* One value as it was written, with its place; text NULL: not set. */
struct raw_value {
	char *text;
	char place[256];
	bool by_protocol; /* said for doveadm alone, which wins */
};

struct raw_socket {
	struct raw_value user, group, mode;
};

enum raw_socket_id { RAW_NOTIFY_SOCKET, RAW_NOTIFY_FIFO, RAW_DOVEADM_SOCKET, RAW_SOCKETS };

struct raw_namespace {
	bool inbox;
	char title[128]; /* blocks of one title are one namespace */
	struct raw_value separator, prefix, location;
	struct buf special_uses;
};

struct raw_listener {
	bool seen;
	struct raw_value port, ssl, address;
};

/* What a userdb block says of every user: "uid=vmail gid=vmail home=/var/vmail/%d/%n". */
struct raw_userdb {
	struct raw_value driver, args, default_fields, override_fields;
};

struct settings_draft {
	struct raw_value values[SETTINGS_TABLE_MAX]; /* by place in the table */
	struct raw_value replicas[SETTINGS_REPLICA_MAX];
	struct raw_value global_ssl;
	struct raw_listener listener, current_listener;
	struct raw_socket sockets[RAW_SOCKETS];
	struct raw_namespace inbox, current_namespace;
	struct buf other_prefixes; /* of those that are not the inbox's, a line each */
	struct raw_userdb current_userdb;
	struct raw_value user_fields; /* of the first userdb that says any */
	struct draft_name *variables; /* every value so far, for $name */
	struct draft_name *ignored;   /* names of Dovecot's with no meaning here */
	unsigned flags;
	unsigned overriding; /* the command line is being read: no notices */
};

#define SPECIAL_USES_MAX 65536
#define SETTINGS_DRAFT_INIT(with_flags)                                                            \
	{                                                                                          \
		.flags = (with_flags), .other_prefixes = BUF_INIT(SPECIAL_USES_MAX),               \
		.inbox.special_uses = BUF_INIT(SPECIAL_USES_MAX),                                  \
		.current_namespace.special_uses = BUF_INIT(SPECIAL_USES_MAX)                       \
	}

extern const struct settings_handler settings_draft_handler; /* ctx is to be set to the draft */

void settings_draft_free(struct settings_draft *draft);
/* One "name=value" of a command line; name may be "plugin/name". */
int settings_draft_override(struct settings_draft *draft, const char *text, struct error *err);
/* Logs the one notice. */
void settings_draft_notice(const struct settings_draft *draft, const char *file);

/* Puts "file:line: name = value" in front of err; returns code. Secrets are not shown. */
int settings_raw_error(const struct raw_value *raw, const char *name, int code, struct error *err);

/* Appends a value so that the file's syntax reads it back. */
void settings_append_quoted(struct buf *out, const char *value);

#endif
