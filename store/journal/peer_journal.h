/*
 * The journal, dsyncd's side: what the replicator still owes. An LMDB environment in
 * state_dir/journal/peer that only dsyncd writes and reads. How far events were consumed is also
 * published in the small file state_dir/journal/consumed, so that dsyncfs, which prunes up to
 * there, waits for no lock of dsyncd's and trusts no page of its.
 *
 * Every value has a format version byte. Peers are known by an id string: the node id (32 hex
 * digits) of a dsyncfs node, or "dovecot:<address as configured>". Nothing here assumes one peer.
 *
 * Calls are grouped: changes are seen by reads of this process at once and become durable at the
 * next peer_journal_commit(), which syncs. Damage: moved aside and made anew; then every mailbox is
 * compared completely with every peer, and nothing is taken for expunged.
 */
#ifndef DSYNCFS_PEER_JOURNAL_H
#define DSYNCFS_PEER_JOURNAL_H

#include <stdbool.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"

struct peer_journal;

int peer_journal_open(const char *state_dir, struct peer_journal **journal_r, struct error *err);
void peer_journal_close(struct peer_journal **journal);
/* Durable when it returns 0. On failure (full disk) nothing is forgotten: what was changed is still
 * seen and goes into the next commit. -EUCLEAN: committed, but the environment was damaged and has
 * been made anew: everything before is forgotten, so queue every user for a full sync. */
int peer_journal_commit(struct peer_journal *journal, struct error *err);

/* This node's id: made at first open, kept for good (in state_dir/journal/node-id, so that it
 * outlives the environment). */
const struct guid *peer_journal_node_id(const struct peer_journal *journal);

/* How far dsyncfs's events were consumed, of which journal. */
int peer_journal_set_consumed(struct peer_journal *journal, const struct guid *journal_id,
			      uint64_t seq, struct error *err);
/* Nothing consumed yet: 0, an empty id and seq 0. */
int peer_journal_get_consumed(struct peer_journal *journal, struct guid *journal_id_r,
			      uint64_t *seq_r, struct error *err);
/* For dsyncfs: what was published. -ENOENT when dsyncd has never consumed anything. */
int peer_journal_read_consumed(const char *state_dir, struct guid *journal_id_r, uint64_t *seq_r,
			       struct error *err);

/* What a peer is known to have of one mailbox (invariant 9: per peer from the start). */
struct peer_mailbox_state {
	struct guid guid;
	uint32_t uid_validity;
	uint32_t common_uid;   /* both sides agree on every message up to here */
	uint64_t acked_modseq; /* our changes up to here are durable at the peer */
	uint64_t peer_modseq;  /* the peer's HIGHESTMODSEQ when the last sync ended: theirs up to
				  here are here */
	uint32_t messages;     /* our count when the last sync ended */
	/* Above common_uid: up to here we told the peer that all is equal, in a session since that
	 * state (peer_journal_note_reached). 0: in none. Not written with the state. */
	uint32_t reached_uid;
	uint64_t reserved_uid_owner; /* place for a UID lease; 0 */
};
int peer_journal_put_state(struct peer_journal *journal, const char *user, const char *peer,
			   const struct peer_mailbox_state *state, struct error *err);
/* state: as it is there, with reached_uid. Outlives this process, not a reboot, and is said by the
 * calls below until there is another state. */
int peer_journal_note_reached(struct peer_journal *journal, const char *user, const char *peer,
			      const struct peer_mailbox_state *state, struct error *err);
int peer_journal_del_state(struct peer_journal *journal, const char *user, const char *peer,
			   const struct guid *guid, struct error *err);
/* Forgets all states of the user with the peer: the next sync compares completely. */
int peer_journal_del_states(struct peer_journal *journal, const char *user, const char *peer,
			    struct error *err);
/* -ENOENT: nothing known. */
int peer_journal_get_state(struct peer_journal *journal, const char *user, const char *peer,
			   const struct guid *guid, struct peer_mailbox_state *state_r,
			   struct error *err);
typedef int peer_journal_state_fn(void *ctx, const struct peer_mailbox_state *state);
int peer_journal_each_state(struct peer_journal *journal, const char *user, const char *peer,
			    peer_journal_state_fn *each, void *ctx, struct error *err);

/* Which mailbox a directory (relative to the home) is, for the GUID of one that a program removed,
 * and which ones it was before, the oldest first. */
#define PEER_PLACE_BEFORE_MAX 8
struct peer_place {
	struct guid guid;
	unsigned before_count;
	struct guid before[PEER_PLACE_BEFORE_MAX];
};
int peer_journal_put_place(struct peer_journal *journal, const char *user, const char *dir,
			   const struct peer_place *place, struct error *err);
int peer_journal_del_place(struct peer_journal *journal, const char *user, const char *dir,
			   struct error *err);
/* -ENOENT: nothing known; *place_r is then all zero. */
int peer_journal_get_place(struct peer_journal *journal, const char *user, const char *dir,
			   struct peer_place *place_r, struct error *err);

/* A user's standing with one peer; the durable queue is the users with a non-zero priority. */
enum sync_priority {
	SYNC_PRIORITY_NONE = 0,
	SYNC_PRIORITY_LOW = 1,
	SYNC_PRIORITY_HIGH = 2,
	SYNC_PRIORITY_SYNC = 3
};
struct peer_user {
	enum sync_priority priority;
	bool want_full;	      /* the next sync is a full one */
	bool want_tree;	      /* mailboxes were made, renamed, removed, (un)subscribed */
	int64_t queued_since; /* UTC seconds of the oldest change not at the peer; 0 when in sync */
	int64_t last_try, last_success, last_full;
	uint32_t failures; /* in a row */
	char reason[256];  /* of the last failure */
};
/* -ENOENT: never heard of; *user_r is then all zero. */
int peer_journal_get_user(struct peer_journal *journal, const char *user, const char *peer,
			  struct peer_user *user_r, struct error *err);
int peer_journal_put_user(struct peer_journal *journal, const char *user, const char *peer,
			  const struct peer_user *value, struct error *err);
typedef int peer_journal_user_fn(void *ctx, const char *user, const char *peer,
				 const struct peer_user *value);
int peer_journal_each_user(struct peer_journal *journal, peer_journal_user_fn *each, void *ctx,
			   struct error *err);

/* Tombstones: expunges that some peer has not passed yet. They outlive the index log. */
struct tombstone {
	struct guid mailbox;
	struct guid message; /* 128-bit form; empty: not known */
	uint32_t uid;
	uint64_t modseq;
	int64_t time;
};
int peer_journal_put_tombstone(struct peer_journal *journal, const char *user,
			       const struct tombstone *tombstone, struct error *err);
typedef int peer_journal_tombstone_fn(void *ctx, const struct tombstone *tombstone);
int peer_journal_each_tombstone(struct peer_journal *journal, const char *user,
				const struct guid *mailbox, peer_journal_tombstone_fn *each,
				void *ctx, struct error *err);
/* Drops those of the mailbox up to modseq: every peer has passed them. */
int peer_journal_prune_tombstones(struct peer_journal *journal, const char *user,
				  const struct guid *mailbox, uint64_t modseq, struct error *err);

/* Up to where a mailbox's expunges have been made tombstones, and what it was like there. */
struct tombstone_mark {
	struct guid mailbox;
	uint32_t uid_validity, uid_next, messages;
	uint64_t modseq;
};
int peer_journal_put_tombstone_mark(struct peer_journal *journal, const char *user,
				    const struct tombstone_mark *mark, struct error *err);
/* -ENOENT: none yet. */
int peer_journal_get_tombstone_mark(struct peer_journal *journal, const char *user,
				    const struct guid *mailbox, struct tombstone_mark *mark_r,
				    struct error *err);
/* The mailbox is gone, or is not the one that it was: its tombstones and its mark go. */
int peer_journal_del_tombstones(struct peer_journal *journal, const char *user,
				const struct guid *mailbox, struct error *err);

#endif
