/* What the files of the replicator share. See replicator.h. */
#ifndef DSYNCFS_SYNC_REPLICATOR_PRIVATE_H
#define DSYNCFS_SYNC_REPLICATOR_PRIVATE_H

#include <event2/event.h>
#include "store/journal/journal.h"
#include "sync/queue.h"
#include "sync/replicator.h"
#include "sync/tcp.h"
#include "sync/worker_pool.h"

#define REPLICATOR_LOCAL_PEER "local" /* key of a user's own standing: a scan that is owed */
#define REPLICATOR_AWAY	      "dsyncfs does not run, so the mail is not mounted"
#define REPLICATOR_DOVECOT    "dovecot:"
#define REPLICATOR_CLIENT     "client:" /* somebody's doveadm sync or dsync: no peer of ours */
#define REPLICATOR_HANG_MS    300000	/* a worker that says nothing for so long is killed */

/* Whoever holds a worker. */
enum task_kind { TASK_JOB, TASK_SESSION, TASK_FINDER, TASK_PROBE };
struct task {
	enum task_kind kind;
	struct replicator *replicator;
	struct worker *worker;
};

struct replicator_peer {
	char *address;	/* as configured */
	uint32_t token; /* origin of the changes that come from it */
	char id[160];	/* the node id of a dsyncfs node, else REPLICATOR_DOVECOT and the address */
	bool is_dsyncfs;
	bool met;	 /* so it is known which of the two it is */
	bool by_command; /* remote: and remoteprefix:, which nobody but the mail's owner may try */
	bool host_known;
	struct sockaddr_storage host;
	bool up;	 /* until the contrary is known */
	bool noticed;	 /* the log has said that it is down */
	bool refused;	 /* and that it answers, but refuses us */
	int64_t since;	 /* UTC seconds */
	unsigned failed; /* probes in a row */
	char reason[512];
	struct event *timer;
	struct task *prober;
	struct replicator *replicator;
};

/* The states that a peer has of one user, sorted by GUID. */
struct state_list {
	bool loaded;
	struct peer_mailbox_state *states;
	size_t count, size;
};

/* An outgoing sync of one user. */
struct job {
	struct task task;
	struct job *prev, *next;
	struct queue_user *user;
	int peer; /* -1: catch up only */
	bool scan;
	bool listed;	/* CAUGHT_UP has come */
	unsigned lists; /* of expunges that are awaited; then it counts */
	bool lists_failed;
	bool tree_changed; /* as CAUGHT_UP says */
	unsigned failed;
	char *reason;
	bool caught_up; /* the first half is over */
	bool went;	/* the second half was begun */
	bool holds_slot;
	bool poll; /* nothing is owed */
	enum sync_type type;
	int64_t start_ms;
	struct state_list *states; /* by peer */
};

/* A peer's session, or its connection between two. */
struct session {
	struct task task;
	struct session *prev, *next;
	int fd; /* while it waits for a worker */
	struct sockaddr_storage address;
	struct doveadm_server server;
	char *name;
	bool debug;
	bool replicator; /* a Dovecot peer's replicator, not somebody's command */
	struct buf unread;
	int source;		 /* the peer it seems to be, by its address; -1 */
	struct queue_user *user; /* once found */
	bool running;		 /* not: waiting, or idle connection */
	bool finding;
	bool holds_slot;
	/* For the user's slot: a Dovecot peer, which cannot be told "busy". Or for what the mount
	 * saw of the user up to wait_seq: the peer's word against a change that only an event tells
	 * of would undo it. */
	bool begin_waits;
	uint64_t wait_seq;
	struct sync_peer peer;
	int64_t start_ms;
	struct event *timer; /* of the wait for a worker or a slot */
};

struct replicator {
	struct event_base *base;
	const struct settings *set;
	struct peer_journal *journal;
	struct worker_pool *pool;
	struct queue queue;
	struct replicator_peer *peers;
	bool *up; /* by peer, as queue_next() wants it */
	struct event *dispatch_timer, *commit_timer, *poll_timer, *full_timer, *child_event;
	struct event *peer_poll_timer;
	struct queue_user *poll_from; /* whose turn it is to be asked for; NULL: the first */
	bool dirty;		      /* something waits for a commit */

	/* The mount's journal. */
	struct journal_reader *reader;
	struct event *wake_event;
	struct guid reader_id;
	uint64_t read_seq, consumed_seq;
	bool consumed_known; /* read_seq belongs to reader_id */
	bool first_pass;     /* what was there before us: no worker vouches for it */
	int64_t start_ms;
	char trouble[256];

	/* Users. */
	struct task *finder;
	unsigned finds; /* not answered yet */
	bool listing, list_wanted;
	bool store_unchecked; /* since the start: it may have been lost meanwhile */
	int64_t list_not_before_ms;
	size_t listed;

	struct replicator_wait *waits;
	struct job *jobs;
	struct session *sessions;
	unsigned sessions_running;

	bool draining;
	/* dsyncfs does not run: where the mail should be is an empty directory, or a store that
	   dsyncfs refuses. Nothing is taken in, made, sent or received. */
	bool away;
	struct event *drain_timer;
	void (*drain_finished)(void *ctx);
	void *drain_ctx;

	struct buf out; /* messages to workers */
};

struct queue_clock replicator_clock(void);
/* The pool learns since when the mail is mounted: as work comes up, since nobody says so. */
void replicator_note_mounted(struct replicator *r);
/* worker_pool_take() of one that knows of the mount as it is now. */
int replicator_take_worker(struct replicator *r, const struct worker_key *key, const char *user,
			   void *owner, struct worker **worker_r, struct error *err);
/* Something may be done now. */
void replicator_kick(struct replicator *r);
/* Something has to be written soon. */
void replicator_dirty(struct replicator *r);
/* Writes it now. On a failure, which was logged, it is tried again later. */
int replicator_commit(struct replicator *r);
void replicator_drained(struct replicator *r);

/* replicator_journal.c */
/* True: nothing is left in it that is not in the queue. */
bool replicator_read_journal(struct replicator *r);
/* Sees when dsyncfs has gone; replicator_read_journal() sees when it is back. */
void replicator_check_mount(struct replicator *r);
void replicator_open_reader(struct replicator *r);
void replicator_close_reader(struct replicator *r);

/* replicator_users.c */
/* The user with everything that the peer journal knows of it. NULL without memory. */
struct queue_user *replicator_user(struct replicator *r, const char *name, const char *home);
int replicator_load_users(struct replicator *r, struct error *err);
void replicator_save_user(struct replicator *r, struct queue_user *user);
/* Asks a helper; the answer sets uid, gid and home, and wakes who waits. */
void replicator_find_user(struct replicator *r, const char *name, bool make);
void replicator_list_users(struct replicator *r);
/* A full sync of everybody, with one peer; with all of them (-1). */
void replicator_want_all(struct replicator *r, int peer);
void replicator_finder_message(struct task *task, struct worker_reader *reader);
void replicator_finder_gone(struct task *task, const char *why);

/* replicator_peer.c */
int replicator_init_peers(struct replicator *r, struct error *err);
void replicator_free_peers(struct replicator *r);
void replicator_peer_met(struct replicator *r, unsigned peer, const struct sync_peer *who);
void replicator_peer_host(struct replicator *r, unsigned peer, const char *address_text);
void replicator_peer_down(struct replicator *r, unsigned peer, bool refused, const char *reason);
void replicator_peer_up(struct replicator *r, unsigned peer);
/* The id under which the peer's states are kept: its own where it is a dsyncfs node. */
void replicator_peer_id(const struct replicator *r, unsigned peer, struct sync_peer *who);
/* The peer with this id, or (by address) that a connection comes from; -1: none, or not certain. */
int replicator_peer_by_id(const struct replicator *r, const char *id);
int replicator_peer_by_host(const struct replicator *r, const struct sockaddr_storage *host);
void replicator_probe_message(struct task *task, struct worker_reader *reader);
void replicator_probe_gone(struct task *task, const char *why);
const struct peer_mailbox_state *state_list_find(struct replicator *r, struct state_list *list,
						 const char *user, const char *peer_id,
						 const struct guid *guid);
void state_list_free(struct state_list *list);

/* replicator_poll.c: peers that do not tell what happens there are asked. */
int replicator_init_poll(struct replicator *r);
void replicator_poll_peers(struct replicator *r);

/* replicator_request.c: tells those who wait for this user's sync, if it has come to an end; of all
 * users (NULL) those for whom it cannot any more. */
void replicator_look_at_waits(struct replicator *r, const struct queue_user *user);

/* replicator_job.c */
int replicator_start_job(struct replicator *r, struct queue_user *user, int peer,
			 struct error *err);
/* Events for a worker, in as many messages as they need; the last one is the caller's to tell. */
void replicator_begin_events(struct replicator *r);
void replicator_put_event(struct replicator *r, struct worker *worker,
			  const struct worker_event *event);
void replicator_job_message(struct task *task, struct worker_reader *reader);
void replicator_job_gone(struct task *task, const char *why);

/* replicator_expunges.c: tombstones */

/* The worker has seen the mailbox like this: asks it for the expunges that are no tombstones yet.
 */
void replicator_box_expunges(struct job *job, const struct worker_box *box);
/* The answer. -EPROTO: malformed, or not asked for. */
int replicator_take_expunges(struct job *job, struct worker_reader *reader);
/* A peer's state of the mailbox has moved: what all have passed goes. */
void replicator_expunges_passed(struct replicator *r, const char *user, const struct guid *guid);
/* All of the mailbox go: it is gone. */
void replicator_forget_expunges(struct replicator *r, const char *user, const struct guid *guid);
/* Answers WANT_TOMBSTONES. */
void replicator_send_tombstones(struct replicator *r, struct worker *worker, const char *user,
				struct worker_reader *reader);

/* replicator_place.c */
/* This mailbox is in that directory; moved: it was taken there, else somebody found it there. */
void replicator_place_is(struct replicator *r, struct queue_user *user, const char *dir,
			 const struct guid *guid, bool moved);
/* The same; the reader is behind WORKER_PLACED. */
void replicator_note_place(struct replicator *r, struct queue_user *user,
			   struct worker_reader *reader);
/* Which one: guid, if it is or was that, or, where it is empty, whichever is known. removed: not
 * only from this place. */
void replicator_place_gone(struct replicator *r, struct queue_user *user, const char *dir,
			   const struct guid *guid, bool removed);

/* replicator_session.c */
void replicator_session_message(struct task *task, struct worker_reader *reader);
void replicator_session_gone(struct task *task, const char *why);
/* The helper's answer about the name; user NULL: text says why not. */
void replicator_sessions_found(struct replicator *r, const char *name, struct queue_user *user,
			       int code, const char *text);
/* The user's slot, or a worker's place, has become free. */
void replicator_sessions_wake(struct replicator *r);
void replicator_sessions_free(struct replicator *r);

/* What jobs and sessions do alike. wait_seq: what the mount saw up to there should have been taken
 * in.
 */
void replicator_send_states(struct replicator *r, struct worker *worker,
			    const struct queue_user *user, const char *peer_id, uint64_t wait_seq,
			    bool busy);
void replicator_save_state(struct replicator *r, struct queue_user *user, const char *peer_id,
			   struct worker_reader *reader);
/* Answers REACHED. */
void replicator_note_reached(struct replicator *r, struct worker *worker,
			     const struct queue_user *user, const char *peer_id,
			     struct worker_reader *reader);
/* Answers WANT_TREE_TOLD. */
void replicator_send_tree_told(struct replicator *r, struct worker *worker,
			       const struct queue_user *user, struct worker_reader *reader);
/* Answers WANT_SETTLED. */
void replicator_send_settled(struct replicator *r, struct worker *worker);
/* Answers WANT_REMOVALS. */
void replicator_send_removals(struct replicator *r, struct worker *worker,
			      const struct queue_user *user, struct worker_reader *reader);
/* With that peer: the next sync of the mailbox compares all of it. What each side has heard of the
 * other stays known, and with it which expunges are news. */
void replicator_doubt_box(struct replicator *r, const char *user, const char *peer_id,
			  const struct guid *guid);
/* And nothing is known any more. */
void replicator_forget_box(struct replicator *r, const char *user, const char *peer_id,
			   const struct guid *guid);
void replicator_forget_state(struct replicator *r, struct queue_user *user, const char *peer_id,
			     struct worker_reader *reader);

#endif
