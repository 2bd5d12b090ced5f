/*
 * Who has to be synced, with whom, when: the replicator's memory.
 *
 * For every user that is heard of: the events of the mount that no worker has taken in yet, and for
 * each peer what is owed to it. What must outlive this process (struct peer_user) is marked
 * `unsaved` when it changes; the caller writes it to the peer journal.
 *
 * Pure: no input or output, no clock, no chance of its own, no logging. Memory is bounded by
 * QUEUE_EVENTS_MAX for all events together (the caller stops reading the journal there) and
 * QUEUE_USER_EVENTS_MAX for those of one user, beyond which they coalesce.
 */
#ifndef DSYNCFS_SYNC_QUEUE_H
#define DSYNCFS_SYNC_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <uthash.h>
#include "store/base/guid.h"
#include "store/journal/peer_journal.h"
#include "store/mail_event.h"
#include "sync/brain.h"
#include "sync/worker_protocol.h"

#define QUEUE_EVENTS_MAX      100000
#define QUEUE_USER_EVENTS_MAX 20000
#define QUEUE_AGAIN_MAX	      10 /* syncs in a row that found new changes, before a pause */

struct queue_event {
	struct queue_event *prev, *next;
	struct mail_event event; /* home is ""; the strings are behind the struct, but for: */
	char *moved_dir;	 /* where event.dir was taken to by a rename after the event */
	struct guid guid;	 /* of the mailbox that dir was then; empty: not known */
	bool in_index;		 /* though the job failed, for another mailbox's sake */
	bool echo;		 /* of a worker that applies this peer's changes: nothing to do */
};

/* A mailbox with changes that a peer does not have. */
struct queue_box {
	struct guid guid;
	uint32_t uid_validity, uid_next;
	uint64_t highest_modseq;
	char *name;
};

struct queue_entry {
	struct peer_user standing;
	bool unsaved;
	int64_t not_before_ms;
	unsigned busy;	/* tries in a row that met a busy peer */
	unsigned again; /* syncs in a row after which something was owed still */
	bool poll;	/* nothing is owed, but the peer is to be asked what it has */
	struct queue_box *boxes;
	size_t box_count;
};

enum queue_slot { QUEUE_SLOT_FREE, QUEUE_SLOT_OUT, QUEUE_SLOT_IN };

struct queue_user {
	UT_hash_handle hh_name, hh_home;
	struct queue_user *prev, *next; /* in the list of active users */
	bool active;
	char *name;
	char *home; /* relative to mail_root; "" while it is not known */

	struct queue_event *events;	   /* in order of seq */
	struct queue_event *taken;	   /* those that a job has in hand */
	unsigned event_count, fresh_count; /* of events; fresh: not echoes */
	unsigned tree_count;	   /* directories made, renamed or removed in events and taken */
	uint64_t failed_seq;	   /* up to here a job has tried, and failed */
	int64_t distrust_until_ms; /* a worker died: its events are not taken for echoes */

	bool want_scan; /* durable: every mailbox has to be compared with its files */
	bool scan_unsaved;
	unsigned store_failures;
	int64_t store_not_before_ms;
	char store_reason[256];

	int64_t replaced_until_ms; /* what was a mailbox may be about to go (replicator_place.c) */

	bool removed; /* an admin wants it out of sight; until something is owed */
	bool uid_known, finding;
	bool make_home; /* the store was lost: its home is made again */
	uid_t uid;
	gid_t gid;

	void *job; /* the caller's: an outgoing job is running */
	enum queue_slot slot;
	unsigned sessions_in; /* workers that serve a peer's session for this user */
	struct queue_entry entries[];
};

struct queue {
	unsigned peer_count;
	struct queue_user *by_name, *by_home;
	struct queue_user *active;
	size_t event_count;
};

void queue_init(struct queue *queue, unsigned peer_count);
void queue_free(struct queue *queue);

struct queue_user *queue_user_find(const struct queue *queue, const char *name);
struct queue_user *queue_user_find_home(const struct queue *queue, const char *home);
/* Found or made; NULL without memory. home may be NULL. */
struct queue_user *queue_user_get(struct queue *queue, const char *name, const char *home);
/* Puts the user into the list of active ones, or takes it out when nothing is left to do. */
void queue_user_update(struct queue *queue, struct queue_user *user);

/* ---- events ---- */

/* guid: the mailbox that the event's directory was then, or NULL. A directory's rename takes the
 * events before it along. */
int queue_event_add(struct queue *queue, struct queue_user *user, const struct mail_event *event,
		    const struct guid *guid, bool echo, int64_t now_ms);
/* Where the directory was before all events that no job has done with, or where a worker put it
 * (or one above it) since: malloc'ed. -ENOENT: nowhere, one of them made it; or nobody knows, since
 * one is a look at the whole home. */
int queue_dir_before(const struct queue_user *user, const char *dir, char **dir_r);
/* Moves up to max events to user->taken (all of a user's coalesced ones belong together, in order).
 */
void queue_events_take(struct queue *queue, struct queue_user *user, size_t max);
/* The seq of the last event that no job has done with and that is no echo; 0: there is none. */
uint64_t queue_events_pending(const struct queue_user *user);
/* Whether there is one up to that seq. */
bool queue_events_pend_until(const struct queue_user *user, uint64_t seq);
/* Directories of mailboxes with removals or flags that are not in the index though they should be:
 * up to seq, or tried by a job that failed. Gives each once, at most max, and returns how many
 * there are (max + 1: more than that). The names live until an event is added or done with. */
size_t queue_unsettled_dirs(const struct queue_user *user, uint64_t seq, const char **dirs,
			    size_t max);
/* What was removed from the mailbox of this directory, or renamed in it, and is not in the index as
 * far as we know. False: there may be more, which only a scan finds. */
bool queue_each_removal(const struct queue_user *user, const char *dir, const struct guid *guid,
			void (*each)(void *ctx, const struct mail_event *event), void *ctx);
/* Whether jobs have done with all that programs did to directories: renamed or removed them, or it
 * takes a full comparison to know. */
bool queue_tree_is_told(const struct queue_user *user);
/* Those of this mailbox are in its index, whatever becomes of the job. */
void queue_events_in_index(struct queue_user *user, const char *dir, const struct guid *guid);
void queue_events_free(struct queue_user *user);
/* The job has taken them in. */
void queue_events_done(struct queue *queue, struct queue_user *user);
/* It has not: they are first in line again. */
void queue_events_put_back(struct queue *queue, struct queue_user *user);
/* A session of this user ended: well, then its echoes need nothing more; its worker died, then they
 * count like anybody's events, also those that come within the next seconds. */
void queue_echoes_settle(struct queue *queue, struct queue_user *user, bool trusted,
			 int64_t now_ms);
/* Up to where events are done with, given how far the journal was read. */
uint64_t queue_consumed(const struct queue *queue, uint64_t read_seq);

/* ---- what is owed ---- */

/* A worker has seen the mailbox like this; state is what the peer has of it, NULL when not known.
 * Adds it to what is owed where it is not just that: it has more, or has gone back. */
void queue_box_seen(struct queue_user *user, unsigned peer, const struct worker_box *box,
		    const struct peer_mailbox_state *state, int64_t now);
/* The peer has this much now: no longer owed, if that is all. */
void queue_box_acked(struct queue_user *user, unsigned peer,
		     const struct sync_mailbox_state *state);
void queue_want(struct queue_user *user, unsigned peer, enum sync_priority priority, bool full,
		bool tree, int64_t now);
/* Drops what is owed, without its having been sent. */
void queue_forget(struct queue_user *user, unsigned peer);
bool queue_entry_owes(const struct queue_entry *entry);
/* Asks the peer, when nothing else is to be done. */
void queue_poll(struct queue *queue, struct queue_user *user, unsigned peer);
/* A sync with the peer is wanted, for either reason. */
bool queue_entry_wants(const struct queue_entry *entry);
/* Fills go_r (but for connect) with the smallest sync that settles what is owed. Names point into
 * the entry. */
void queue_entry_plan(const struct queue_entry *entry, bool peer_is_dsyncfs,
		      struct worker_go *go_r);

/* ---- scheduling ---- */

struct queue_clock {
	int64_t now_ms; /* monotonic */
	int64_t now;	/* UTC seconds */
	uint32_t chance;
};

/* The user whose turn it is, and the peer to sync with (or -1: catch up only). up[peer]: can be
 * reached. connections: whether one more outgoing connection is allowed. NULL: nobody now;
 * *wait_ms_r is when to ask again, -1: when something happens. */
struct queue_user *queue_next(const struct queue *queue, const bool *up, bool connections,
			      const struct queue_clock *clock, int *peer_r, int64_t *wait_ms_r);

/* The end of a sync with the peer. */
void queue_sync_done(struct queue_user *user, unsigned peer, enum sync_type type,
		     const struct queue_clock *clock);
/* The reason is the status's where it happens again and again. */
void queue_sync_again(struct queue_user *user, unsigned peer, bool need_tree, const char *reason,
		      const struct queue_clock *clock);
void queue_sync_busy(struct queue_user *user, unsigned peer, const struct queue_clock *clock);
/* own_fault false: the link broke or the peer is away; the pause ends when it is back. */
void queue_sync_failed(struct queue_user *user, unsigned peer, const char *reason,
		       const struct queue_clock *clock);
void queue_store_failed(struct queue_user *user, const char *reason,
			const struct queue_clock *clock);
/* The peer is back: nobody waits for it any longer. */
void queue_peer_up(struct queue *queue, unsigned peer);

#endif
