/* What the files of a worker share. See worker.h. */
#ifndef DSYNCFS_SYNC_WORKER_PRIVATE_H
#define DSYNCFS_SYNC_WORKER_PRIVATE_H

#include <stdbool.h>
#include "store/mail_user.h"
#include "store/mailbox.h"
#include "store/settings.h"
#include "sync/box_cache.h"
#include "sync/doveadm_protocol.h"
#include "sync/dsync_connect.h"
#include "sync/stream.h"
#include "sync/tls.h"
#include "sync/worker.h"
#include "sync/worker_protocol.h"

#define WORKER_KEPT_USERS	16
#define WORKER_KEEP_INCOMING_MS 10000 /* longer than the other side keeps its end */
#define WORKER_STREAM_SECS	120   /* without a byte from the peer */

struct worker_process {
	enum worker_kind kind;
	int socket_fd;
	struct settings *set;
	struct guid node_id;
	char hostname[256];
	struct buf in, out;  /* messages */
	int64_t progress_ms; /* when dsyncd last heard that mails move */

	/* Those worked for, the last one first; the cache has mailboxes of theirs. */
	struct {
		struct mail_user *user;
	} users[WORKER_KEPT_USERS];
	unsigned user_count;
	struct mail_user *user; /* the one worked for: that of users[0] */
	struct box_cache boxes;
	/* Directories of its mailboxes that this session leaves alone. */
	char **unsettled;
	size_t unsettled_count;
	bool all_unsettled;

	/* Outgoing: the connection of the last session, if it can be used again. */
	struct stream *peer_stream;
	char *peer_address;
	struct tls_client *tls; /* made with the first tcps: peer */
	struct stream *awaited; /* a command's, until its first answer */

	/* Incoming. */
	struct stream *client_stream;
	struct doveadm_server client;
	int64_t client_until_ms;
};

/* Sends w->out. A failure ends the process: dsyncd is gone, or takes us for broken. */
void worker_reply(struct worker_process *w);
/* The next message, of this type. Anything else ends the process. */
void worker_expect(struct worker_process *w, enum worker_message_type type,
		   struct worker_reader *reader_r);
/* The next message of any type. Ends the process at the end of the socket. */
void worker_next(struct worker_process *w, struct worker_reader *reader_r);
/* "The other side does not keep to the protocol": ends the process. */
void worker_broken(const char *what) __attribute__((noreturn));

/* Makes name the user worked for. -ESTALE: the mail belongs to another uid. */
int worker_use_user(struct worker_process *w, const char *name, struct error *err);

/* ---- worker_catchup.c ---- */

struct worker_events {
	struct worker_event *list;
	size_t count, size;
};
/* Those of one EVENTS message, whose strings they point to. -EPROTO, -ENOMEM (also: too many). */
int worker_append_events(struct worker_reader *reader, struct worker_events *events);
/* The mailbox's directory relative to the home, as events name it; malloc'ed, NULL if elsewhere. */
char *worker_dir_of(const struct worker_process *w, const char *name);
/* Sends PLACED. */
void worker_report_place(struct worker_process *w, const char *dir, const struct guid *guid,
			 bool moved);
/* Takes the events into the mailboxes, reports BOX and BOX_GONE. result_r->reason points into err.
 */
void worker_catch_up(struct worker_process *w, const struct worker_events *events, bool scan,
		     struct worker_caught_up *result_r, struct error *err);
/* mail_look_for_unclaimed(). What is damaged is found, and told, elsewhere. */
void worker_look_for_unclaimed(const struct worker_process *w);

/* ---- worker_unsettled.c: mailboxes of which dsyncd knows more than their index ---- */

void worker_clear_unsettled(struct worker_process *w);
/* Takes UNSETTLED. */
void worker_add_unsettled(struct worker_process *w, struct worker_reader *reader);
/* What the engine asks (struct sync_host). */
bool worker_host_may_sync(void *ctx, const char *mailbox);
int worker_host_was_removed(void *ctx, const char *name, struct mailbox *mailbox,
			    const char *const *guids, size_t count, struct error *err);
int worker_host_explain_missing(void *ctx, const char *name, struct mailbox *mailbox,
				struct error *err);
int worker_host_tree_is_told(void *ctx, bool makes_again, struct error *err);

/* ---- worker_expunges.c ---- */

/* Answers LIST_EXPUNGES. */
void worker_list_expunges(struct worker_process *w, struct worker_reader *reader);
/* What the engine asks (struct sync_host): of dsyncd. */
int worker_host_expunged(void *ctx, const struct guid *mailbox, struct sync_expunge **list_r,
			 size_t *count_r, struct error *err);

/* ---- worker_session.c ---- */

void worker_run_job(struct worker_process *w, struct worker_reader *reader);
/* The command of a peer whose connection just came (fd, closed here), and of one that is kept. */
void worker_run_session(struct worker_process *w, struct worker_reader *reader, int fd);
void worker_next_command(struct worker_process *w);
void worker_drop_client(struct worker_process *w);

/* ---- worker_command.c ---- */

struct worker_command {
	struct dsync_peer end;
	int stderr_fd;
};
/* Starts what leads to the peer, for w->user. */
int worker_command_start(const struct worker_process *w, const struct settings_peer *peer,
			 struct worker_command *command_r, struct error *err);
/* Ends it. err: why the session failed, to which is added what the command said; NULL: it did not.
 * Returns whose fault that was. */
enum worker_failure worker_command_end(struct worker_command *command, struct error *err);

/* ---- worker_helper.c ---- */

/* NULL: not in the settings (any more). */
const struct settings_peer *worker_find_peer(const struct worker_process *w, const char *address);

void worker_help(struct worker_process *w, struct worker_reader *reader);
/* A connection to the peer with this address (as configured), past the password. */
int worker_connect_peer(struct worker_process *w, const char *address, struct stream **stream_r,
			char address_text_r[64], enum worker_failure *failure_r, struct error *err);

#endif
