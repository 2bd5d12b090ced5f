/*
 * What dsyncd and its workers say to each other, over a SOCK_SEQPACKET socket pair: one message,
 * one packet, at most WORKER_MESSAGE_MAX bytes, with a version byte. A descriptor may travel with
 * one.
 *
 * Neither side trusts the other's bytes: a worker runs with a mail user's uid and reads what a peer
 * sends. Every message is parsed with bounds, completely (nothing may be left over), and dsyncd
 * never takes from a message for whom or for which peer it is: it knows that from the job.
 *
 * A job (an outgoing sync), as messages:
 *   dsyncd  JOB, EVENTS..., RUN
 *   worker  BOX..., BOX_GONE..., PLACED..., CAUGHT_UP      the events are in uidlist and index
 *   dsyncd  LIST_EXPUNGES...                    of mailboxes with some that are no tombstones yet
 *   worker  EXPUNGES...
 *   dsyncd  GO                                  what is owed to the peer (or nothing: DONE follows)
 *   worker  CONNECTED, BEGIN
 *   dsyncd  STATES..., UNSETTLED..., BEGUN
 *   worker  SAVE..., FORGET..., PROGRESS..., WANT_TOMBSTONES, DONE
 *   dsyncd  TOMBSTONES...                       after each WANT_TOMBSTONES
 *   worker  WANT_REMOVALS                       between BEGUN and DONE, too
 *   dsyncd  EVENTS..., REMOVALS                 after each WANT_REMOVALS
 *   worker  WANT_TREE_TOLD                      and that
 *   dsyncd  TREE_TOLD
 *   worker  WANT_SETTLED                        and that
 *   dsyncd  SETTLED
 * A session of a peer: SESSION (with the connection); BEGIN ... DONE as above. While the worker
 * keeps the connection: COMMAND, answered by COMMAND_ANSWER, then BEGIN ... DONE again.
 * A helper (root) answers FIND by FOUND, EACH by USERS... EACH_DONE, PROBE by PROBED.
 */
#ifndef DSYNCFS_SYNC_WORKER_PROTOCOL_H
#define DSYNCFS_SYNC_WORKER_PROTOCOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/buf.h"
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/mail_event.h"
#include "sync/brain.h"

#define WORKER_PROTOCOL_VERSION 3
#define WORKER_MESSAGE_MAX	32768
#define WORKER_NAME_MAX		4096 /* bytes of a user, directory, file or mailbox name */
#define WORKER_BOXES_MAX	64   /* mailboxes of a GO; more: the whole tree */

enum worker_message_type {
	/* to a worker */
	WORKER_JOB = 1,
	WORKER_EVENTS,
	WORKER_RUN,
	WORKER_GO,
	WORKER_STATES,
	WORKER_BEGUN,
	WORKER_SESSION,
	WORKER_COMMAND_ANSWER,
	WORKER_QUIT, /* when the present work is done */
	WORKER_FIND,
	WORKER_EACH,
	WORKER_PROBE,
	WORKER_LIST_EXPUNGES,
	WORKER_TOMBSTONES,
	WORKER_UNSETTLED, /* u8: all mailboxes; then directories of mailboxes */
	WORKER_REMOVALS,  /* u8: the events before it are all */
	WORKER_TREE_TOLD, /* u8 */
	WORKER_SETTLED,	  /* u8: 0: what was saved and forgotten is not durable */
	WORKER_NOTED,	  /* of a WORKER_REACHED */
	/* from a worker */
	WORKER_BOX = 64,
	WORKER_BOX_GONE, /* directory, GUID or an empty one, u8: not only from there */
	WORKER_PLACED,	 /* directory, GUID, u8: it was moved there */
	WORKER_CAUGHT_UP,
	WORKER_CONNECTED,
	WORKER_BEGIN,
	WORKER_SAVE,
	WORKER_FORGET,
	WORKER_PROGRESS,
	WORKER_DONE,
	WORKER_COMMAND,
	WORKER_CLOSED, /* the kept connection of a peer is gone */
	WORKER_FOUND,
	WORKER_USERS,
	WORKER_EACH_DONE,
	WORKER_PROBED,
	WORKER_EXPUNGES,
	WORKER_WANT_TOMBSTONES,
	WORKER_WANT_REMOVALS,  /* str: directory of a mailbox, its guid */
	WORKER_WANT_TREE_TOLD, /* u8: a mailbox is to be made again */
	WORKER_WANT_SETTLED,
	WORKER_REACHED, /* as WORKER_SAVE, with reached_uid */
};

/* ---- fields ---- */

void worker_put_begin(struct buf *message, enum worker_message_type type);
void worker_put_u8(struct buf *message, uint8_t value);
void worker_put_u32(struct buf *message, uint32_t value);
void worker_put_u64(struct buf *message, uint64_t value);
void worker_put_bytes(struct buf *message, const void *data, size_t len);
void worker_put_str(struct buf *message, const char *str);
void worker_put_guid(struct buf *message, const struct guid *guid);

struct worker_reader {
	enum worker_message_type type;
	const uint8_t *data;
	size_t left;
	bool failed;
};

/* -EPROTO: no message of this version. */
int worker_get_begin(struct worker_reader *reader, const struct buf *message);
uint8_t worker_get_u8(struct worker_reader *reader);
uint32_t worker_get_u32(struct worker_reader *reader);
uint64_t worker_get_u64(struct worker_reader *reader);
const void *worker_get_bytes(struct worker_reader *reader, size_t *len_r);
/* Points into the message; never NULL, and "" once the reader has failed. At most max bytes. */
const char *worker_get_str(struct worker_reader *reader, size_t max);
void worker_get_guid(struct worker_reader *reader, struct guid *guid_r);
/* 0 when everything was there and nothing is left, else -EPROTO. */
int worker_get_end(const struct worker_reader *reader);

/* ---- messages of more than a field or two; get functions include worker_get_end() ---- */

/* Of WORKER_FIND, after the name. */
enum worker_find {
	WORKER_FIND_ONLY,
	WORKER_FIND_MAKE,	  /* a home for one who has none */
	WORKER_FIND_MAKE_MOUNTED, /* only where mail_root is a mount */
};

enum worker_job_flags {
	WORKER_JOB_SCAN = 0x01, /* scan every mailbox, whatever the events say */
	WORKER_JOB_DEBUG = 0x02,
};

struct worker_job {
	const char *user;
	const char *peer; /* as configured; "": catch up only */
	unsigned flags;
};
void worker_put_job(struct buf *message, const struct worker_job *job);
int worker_get_job(struct worker_reader *reader, struct worker_job *job_r);

/* An event, and the GUID of the mailbox that its directory was then; empty where nobody knows. */
struct worker_event {
	struct mail_event event; /* home is "" */
	struct guid guid;
};
void worker_put_event(struct buf *message, const struct worker_event *event);
/* Until nothing is left. */
int worker_get_event(struct worker_reader *reader, struct worker_event *event_r);

struct worker_box {
	const char *dir, *name;
	struct guid guid;
	uint32_t uid_validity, uid_next, messages;
	uint64_t highest_modseq;
	bool incomplete; /* there are messages without a file: only a full comparison finds them */
};
void worker_put_box(struct buf *message, const struct worker_box *box);
int worker_get_box(struct worker_reader *reader, struct worker_box *box_r);

/* The expunges with a MODSEQ above since. */
struct worker_list_expunges {
	struct guid guid;
	const char *name;
	uint64_t since;
};
void worker_put_list_expunges(struct buf *message, const struct worker_list_expunges *task);
int worker_get_list_expunges(struct worker_reader *reader, struct worker_list_expunges *task_r);

/* The head of an EXPUNGES, which is followed by any number of expunges. The numbers are those of
 * the moment up to which all are told once the last message (not more) is there. */
struct worker_expunges {
	struct guid guid;
	bool more;
	bool failed; /* the mailbox cannot be read now, or is another one */
	uint32_t uid_validity, uid_next, messages;
	uint64_t highest_modseq;
};
void worker_put_expunges(struct buf *message, const struct worker_expunges *head);
int worker_get_expunges(struct worker_reader *reader, struct worker_expunges *head_r);
/* In EXPUNGES, and in TOMBSTONES behind two bytes: more, failed. */
#define WORKER_EXPUNGES_A_MESSAGE 1000
void worker_put_expunge(struct buf *message, const struct sync_expunge *expunge);
/* Until nothing is left. */
int worker_get_expunge(struct worker_reader *reader, struct sync_expunge *expunge_r);

struct worker_caught_up {
	bool tree_changed;
	unsigned failed; /* mailboxes whose events were not taken in */
	const char *reason;
};
void worker_put_caught_up(struct buf *message, const struct worker_caught_up *result);
int worker_get_caught_up(struct worker_reader *reader, struct worker_caught_up *result_r);

struct worker_go {
	bool connect; /* false: nothing is owed, or the peer is away */
	enum sync_type type;
	size_t box_count; /* of SYNC_BOXES */
	struct sync_box boxes[WORKER_BOXES_MAX];
};
void worker_put_go(struct buf *message, const struct worker_go *go);
int worker_get_go(struct worker_reader *reader, struct worker_go *go_r);

void worker_put_peer(struct buf *message, const struct sync_peer *peer);
int worker_get_peer(struct worker_reader *reader, struct sync_peer *peer_r);

/* Several in STATES, one in SAVE. */
void worker_put_state(struct buf *message, const struct sync_mailbox_state *state);
int worker_get_state(struct worker_reader *reader, struct sync_mailbox_state *state_r);

struct worker_session {
	const char *user;
	unsigned client_minor;
	bool log_passthrough, debug;
	const void *unread;
	size_t unread_len;
};
void worker_put_session(struct buf *message, const struct worker_session *session);
int worker_get_session(struct worker_reader *reader, struct worker_session *session_r);

/* Why a job failed decides whether it is the peer or the user that waits. */
enum worker_failure {
	WORKER_FAILURE_NONE,
	WORKER_FAILURE_STORE,	/* this node's mail */
	WORKER_FAILURE_CONNECT, /* the peer cannot be reached */
	WORKER_FAILURE_REFUSED, /* the peer does not take our password */
	WORKER_FAILURE_USER,	/* the peer refused this user */
	WORKER_FAILURE_SESSION,
	WORKER_FAILURE_STALE, /* the home's owner is not the worker's uid (any more) */
};

struct worker_done {
	enum sync_outcome outcome;
	enum worker_failure failure;
	bool kept; /* a peer's session: the connection waits for its next command */
	uint32_t mailboxes, sent, received, applied;
	const char *peer_id;
	const char *reason;
};
void worker_put_done(struct buf *message, const struct worker_done *done);
int worker_get_done(struct worker_reader *reader, struct worker_done *done_r);

struct worker_found {
	int code; /* 0 or a negative errno */
	uid_t uid;
	gid_t gid;
	const char *user; /* as asked for */
	const char *name; /* as the home says it: one user has one name */
	const char *home_rel, *text;
};
void worker_put_found(struct buf *message, const struct worker_found *found);
int worker_get_found(struct worker_reader *reader, struct worker_found *found_r);

/* ---- sending ---- */

/* One packet, with a descriptor unless fd is -1. -EAGAIN from a non-blocking socket, -EPIPE when
 * the other end is gone. */
int worker_send(int socket_fd, const struct buf *message, int fd);
/* One packet into message (emptied first). 1, or 0 at the end, or a negative errno. *fd_r: the
 * descriptor that came with it (close-on-exec), else -1; NULL: any is closed. */
int worker_receive(int socket_fd, struct buf *message, int *fd_r);

#endif
