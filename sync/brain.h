/*
 * One dsync session of one user, in either role, over a stream.
 *
 * The brain knows the wire, the merge and the store's mailbox interface. It knows no journal:
 * whoever runs it (dsyncd's worker, the dsync command) answers the questions of struct sync_host.
 */
#ifndef DSYNCFS_SYNC_BRAIN_H
#define DSYNCFS_SYNC_BRAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/mail_user.h"
#include "store/mailbox.h"
#include "sync/mail_filter.h"

struct stream; /* sync/stream.h: the line and value stream to the peer */

enum sync_role { SYNC_MASTER, SYNC_SLAVE };

enum sync_type {
	SYNC_FULL,    /* looks into every mailbox, with an empty state */
	SYNC_CHANGED, /* every mailbox whose numbers differ, using the state where both have one */
	SYNC_BOXES,   /* between two dsyncfs nodes: only the listed mailboxes, no tree */
};

enum sync_way {
	SYNC_BOTH_WAYS,
	SYNC_TO_PEER,	/* backup: the peer becomes what we are, and nothing is written here */
	SYNC_FROM_PEER, /* and the other way round */
};

/* Who the peer is, known after its handshake. */
struct sync_peer {
	char id[128]; /* node id in hex of a dsyncfs node, else "dovecot:<hostname>" */
	char hostname[256];
	bool is_dsyncfs;
};

/* What the two sides agreed on in one mailbox at the end of the last session. */
struct sync_mailbox_state {
	struct guid guid;
	uint32_t uid_validity;
	uint32_t common_uid;
	uint64_t acked_modseq; /* own changes up to here are durable at the peer */
	uint64_t peer_modseq;
	uint32_t messages;
	/* Above common_uid: up to here this side had done its part, and said so, in a session since
	 * that did not come to its end; whether the peer had done its own is not known. 0: none. */
	uint32_t reached_uid;
};

struct sync_state {
	struct sync_mailbox_state *boxes;
	size_t count;
};
void sync_state_free(struct sync_state *state);

/* A message that was expunged here. */
struct sync_expunge {
	uint32_t uid;
	struct guid guid; /* of the message, in 128-bit form; empty: not known */
	uint64_t modseq;
};

struct box_cache; /* sync/box_cache.h */

enum sync_begin { SYNC_BEGIN_OK, SYNC_BEGIN_BUSY };

/* What the import of one mailbox comes to. */
struct sync_planned {
	size_t new_mails, expunges, flag_changes, uid_changes;
	bool made_anew; /* deleted, and everything fetched again */
};

/* How far a master is. */
struct sync_progress {
	unsigned boxes_done, boxes_total;
	unsigned mails; /* sent and received so far */
	/* By the UIDs of all mailboxes; total 0: not known. */
	uint64_t work_done, work_total;
};

struct sync_host {
	void *ctx;
	/* After the handshake: may this session run (one sync per user and node at a time), and
	 * what is the state with this peer? A slave calls it before it sends its own handshake.
	 * state_r is freed by the brain. */
	int (*begin)(void *ctx, const struct sync_peer *peer, enum sync_begin *answer_r,
		     struct sync_state *state_r, struct error *err);
	/* May this mailbox be synced? Not while it is known that its index lacks something that
	 * happened to its mail. May be NULL. */
	bool (*may_sync)(void *ctx, const char *mailbox);
	/* Files of this mailbox are missing, and its directories were synced since: takes from
	 * mailbox_missing() what the mount saw somebody remove or rename. 0; 1: that cannot be
	 * known now; negative. NULL: nobody can tell, and nothing is put back. */
	int (*explain_missing)(void *ctx, const char *name, struct mailbox *mailbox,
			       struct error *err);
	/* 1: the mount saw somebody remove a message with one of these GUIDs from the mailbox, and
	 * its index may not tell yet. 0: not, or it is not known; negative. NULL: nobody can tell.
	 * Called with the mailbox locked, for the new messages of a transaction. */
	int (*was_removed)(void *ctx, const char *name, struct mailbox *mailbox,
			   const char *const *guids, size_t count, struct error *err);
	/* Whether all that programs did to directories up to this call is in the list's logs;
	 * makes_again: a mailbox is to be made that was here, and may be one that somebody is
	 * removing. 0; 1: something is on its way; negative. NULL: nobody can tell. */
	int (*tree_is_told)(void *ctx, bool makes_again, struct error *err);
	/* One mailbox is done: all of it is durable here, and there. Must be durable before it is
	 * used again. */
	void (*save)(void *ctx, const struct sync_peer *peer,
		     const struct sync_mailbox_state *state);
	/* state: as begin() gave it, with reached_uid: the peer is going to be told that. It
	 * outlives a kill of this node's processes when this returns. May be NULL. */
	void (*reached)(void *ctx, const struct sync_peer *peer,
			const struct sync_mailbox_state *state);
	/* The state of this mailbox is worth nothing: the next session compares all of it. gone:
	 * the mailbox itself is gone on both sides. */
	void (*forget)(void *ctx, const struct sync_peer *peer, const struct guid *guid, bool gone);
	/* What was saved and forgotten is durable when it returns 0. NULL: it is all durable only
	 * when the session is over. */
	int (*settle)(void *ctx, struct error *err);
	/* The expunges that a peer has not passed yet, of a mailbox whose index log does not tell
	 * of all of them. *list_r is freed by the brain. May be NULL. */
	int (*expunged)(void *ctx, const struct guid *mailbox, struct sync_expunge **list_r,
			size_t *count_r, struct error *err);
	/* The mailbox has this name; moved: it gets it in a moment. Told before a rename, of all
	 * after the list was changed, and of those without a state before the peer hears of them.
	 * May be NULL. */
	void (*mailbox_placed)(void *ctx, const char *mailbox, const struct guid *guid, bool moved);
	/* Progress, for logs and terminals. May be NULL. */
	void (*mailbox_done)(void *ctx, const char *mailbox, unsigned sent, unsigned received);
	/* The mailbox was listed, or left, as this says; NULL: somebody changed it meanwhile. May
	 * be NULL. */
	void (*mailbox_settled)(void *ctx, const char *mailbox,
				const struct mailbox_status *status);
	/* Often. May be NULL. */
	void (*progress)(void *ctx, const struct sync_progress *progress);
	/* With check_only: what would be done to it here. May be NULL. */
	void (*mailbox_planned)(void *ctx, const char *mailbox, const struct sync_planned *planned);
	/* A mailbox is created, renamed (to new_name, else NULL), ... here. guid is empty where it
	 * is about a name alone. May be NULL. */
	void (*tree_changed)(void *ctx, const char *what, const char *mailbox, const char *new_name,
			     const struct guid *guid);
};

struct sync_box {
	struct guid guid;
	const char *name;
};

struct sync_options {
	enum sync_role role;
	enum sync_type type; /* master only; a slave adopts what the master says */
	/* Master; a slave adopts it where allow_one_way is set. Only between ends that do not know
	 * each other as dsyncfs nodes, and without a saved state. */
	enum sync_way way;
	bool allow_one_way;
	/* Master, one way: the destination loses nothing that it has (dsync's -1). */
	bool keeps;
	/* Master; NULL: none. A slave takes it from the master. No state is kept of such a session.
	 */
	const struct mail_filter *filter;
	/* Nothing is changed here; what could not be done makes it fail. The peer does what it
	 * does with what we send. */
	bool check_only;
	/* Master, to the peer: it changes nothing either, and fails where it could not do all of
	 * it. result_r->checked tells whether it knows how to: else the session is a real one. */
	bool check_peer;
	const struct sync_box *boxes; /* SYNC_BOXES */
	size_t box_count;
	struct guid node_id;  /* this node's; empty: do not introduce ourselves as dsyncfs */
	const char *hostname; /* ours, as sent */
	char alt_char;	      /* '_' */
	int64_t now;	      /* 0: what the system's clock says */
	/* Master: only mailboxes whose name matches this pattern, and none of those (TAB-separated,
	 * escaped). NULL: all. */
	const char *only_box, *exclude;
	struct guid only_guid; /* empty: any */
	bool tree_only;	       /* master: no mail is synced */
	bool purge_peer;       /* master: result_r->purge of the peer's */
	/* PROTOCOL.md: fill_from and block_uids of B. 0: what suits large mailboxes. */
	uint32_t fill_from, block_uids;
	/* Where open mailboxes are taken from and left; NULL: opened for the session alone. */
	struct box_cache *cache;
};

enum sync_outcome {
	SYNC_DONE,	/* in sync */
	SYNC_AGAIN,	/* done, but something changed underneath: run again */
	SYNC_NEED_TREE, /* SYNC_BOXES met a mailbox that the peer does not have: run SYNC_CHANGED */
	SYNC_BUSY,	/* the peer is syncing this user: try again shortly */
	SYNC_FAILED,
};

struct sync_result {
	enum sync_outcome outcome;
	struct sync_peer peer;
	unsigned mailboxes; /* opened for syncing (skipped ones do not count) */
	unsigned mails_sent, mails_received;
	unsigned changes_applied;
	bool checked;	  /* with check_peer */
	bool incomplete;  /* own mailboxes could not be read, and were left out */
	bool purge;	  /* a slave's master asks for the expunged mail's room afterwards */
	bool said;	  /* what failed is in the log already, mailbox by mailbox */
	char reason[512]; /* why not SYNC_DONE */
};

/* Runs one session. The stream stays usable for another when it returns SYNC_DONE, SYNC_AGAIN,
 * SYNC_NEED_TREE or SYNC_BUSY and result_r->peer.is_dsyncfs; else the caller closes it. Returns 0,
 * or a negative errno with outcome SYNC_FAILED: one mailbox that fails does not fail the others,
 * and is named in reason. */
int sync_run(struct stream *stream, const struct mail_user *user,
	     const struct sync_options *options, const struct sync_host *host,
	     struct sync_result *result_r, struct error *err);

#endif
