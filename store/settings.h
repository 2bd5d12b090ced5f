/*
 * Settings: a file in Dovecot 2.3's syntax, read into one typed, read-only struct.
 *
 * Each line is one of: ours (store/settings_table.c holds name, type, default and help); Dovecot's
 * with a meaning here (service doveadm/replicator/aggregator, namespace); Dovecot's without one
 * (taken, and named in one notice); unknown (an error with file, line, reason and the nearest known
 * name). What is not built yet is refused by name where its value asks for something.
 *
 * A program whose settings_load() fails with -EINVAL logs err->text and exits 78 (EX_CONFIG). A
 * struct settings never changes after it was loaded, so threads share it without a lock.
 */
#ifndef DSYNCFS_SETTINGS_H
#define DSYNCFS_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/buf.h"
#include "store/base/error.h"

#define SETTINGS_DEFAULT_PATH "/etc/dsyncfs/dsyncfs.conf"
#define SETTINGS_EXIT_CONFIG  78 /* EX_CONFIG: what a program exits with on bad settings */
#define SETTINGS_DOVEADM_PORT                                                                      \
	12345 /* a peer's port where neither mail_replica nor doveadm_port says */

/* What mail_replica names. */
enum settings_transport {
	SETTINGS_TRANSPORT_TCP,
	SETTINGS_TRANSPORT_TCPS,
	SETTINGS_TRANSPORT_REMOTE,
	SETTINGS_TRANSPORT_REMOTEPREFIX,
};

struct settings_peer {
	enum settings_transport transport;
	const char *address; /* as written: "tcp:mx2.example.org:12345", for logs and peer ids */
	const char *login;   /* of remote:, "" when not given */
	const char *host;    /* an IPv6 address without its brackets */
	uint16_t port; /* of tcp: and tcps:; doveadm_port or SETTINGS_DOVEADM_PORT when not given */
};

/* Owner and mode of a unix socket or fifo in state_dir, from `service replicator` and `service
 * aggregator`. "" user or group: root. */
struct settings_socket {
	const char *user, *group;
	mode_t mode;
};

/* "tcp:host:port" in its parts; the strings are appended to out, each with its NUL. port 0: not
 * given. */
struct settings_peer_text {
	enum settings_transport transport;
	size_t login, host; /* offsets in out */
	uint16_t port;
};
int settings_parse_peer(const char *text, struct settings_peer_text *peer_r, struct buf *out,
			struct error *err);

/* Strings are never NULL; "" where nothing is set and nothing is the default. */
struct settings {
	/* Who has mail, and where. */
	const char *mail_root;	   /* absolute, no '/' at the end */
	const char *mail_home;	   /* with variables; default "<mail_root>/%d/%n" */
	const char *mail_location; /* with variables; "": found per user */
	const char *mail_uid;	   /* a number or a name; "": the owner of the home */
	const char *mail_gid;
	const char *mail_attribute_dict; /* "file:PATH"; other dictionaries are not read */
	const char *sieve, *sieve_dir;
	const char *mail_attachment_dir; /* with variables; "": none */
	/* How new messages of dbox are stored. */
	const char *zlib_save;		/* "gz", "bz2", "zstd", "lz4"; "": not compressed */
	unsigned mdbox_rotate_size;	/* bytes */
	unsigned mdbox_rotate_interval; /* seconds; 0: none */
	bool mdbox_preallocate_space;
	char separator; /* of visible mailbox names; 0: the layout's own ('.' Maildir++, '/' fs) */
	const char *prefix;	    /* of the inbox namespace, "" as a rule */
	const char *special_uses;   /* of its mailboxes: special_use.h */
	const char *other_prefixes; /* of the other namespaces, a line each */

	/* Peers. */
	const struct settings_peer *peers;
	size_t peer_count;

	/* Where peers reach us: doveadm protocol on each address of listen; 0: nowhere. */
	const char *const *listen; /* "*" is every IPv4, "::" every IPv6 address */
	size_t listen_count;
	uint16_t doveadm_port;
	const char *doveadm_password; /* never log it */
	uint16_t doveadm_peer_port; /* doveadm_port as written; each peer's port is resolved already
				     */
	bool listen_ssl;

	/* TLS. */
	const char *ssl_cert; /* a file's name */
	const char *ssl_key;
	const char *ssl_client_ca_file;
	const char *ssl_client_ca_dir;
	const char *ssl_min_protocol;

	/* Replication. */
	const char *dsync_remote_cmd;
	unsigned replication_max_conns;
	unsigned replication_sync_timeout_secs;
	unsigned replication_full_sync_interval_secs;
	const char *replication_dsync_parameters;
	unsigned replication_poll_interval_secs;

	/* Ours. */
	const char *state_dir;		       /* absolute, no '/' at the end */
	struct settings_socket notify_socket;  /* replication-notify */
	struct settings_socket notify_fifo;    /* replication-notify-fifo */
	struct settings_socket doveadm_socket; /* replicator-doveadm */
};

/* One `name=value` from a command line (-o), stronger than the file. */
enum settings_flags {
	SETTINGS_QUIET = 0x01, /* no warnings and notices in the log */
	/* For a program that runs one sync: what only dsyncd has to be able to do is not refused.
	 */
	SETTINGS_ONE_SYNC = 0x02,
};

/* path NULL: the defaults alone. overrides: "name=value" strings (dsync -o), stronger than the
 * file. -ENOENT: no such file. -EINVAL: a mistake in the settings; err->text has file:line and
 * reason. -EPROTONOSUPPORT: a configuration of Dovecot 2.4. */
int settings_load(const char *path, const char *const *overrides, size_t override_count,
		  unsigned flags, struct settings **set_r, struct error *err);
/* The same from memory; name stands for the file in messages. Includes are relative to the
 * directory of name. */
int settings_parse(const char *text, size_t len, const char *name, unsigned flags,
		   struct settings **set_r, struct error *err);
/* The same with a command line's overrides. */
int settings_load_text(const char *text, size_t len, const char *name, const char *const *overrides,
		       size_t override_count, unsigned flags, struct settings **set_r,
		       struct error *err);
void settings_free(struct settings **set);

/* Appends what was understood, in the syntax of the file, so that settings_parse() reads it back as
 * the same settings. Without secrets the password's value is "# hidden, use -P to show it" (which
 * reads back as an empty one). only_set: leaves out what is at its default. */
int settings_print(const struct settings *set, bool secrets, bool only_set, struct buf *out);

#endif
