/*
 * What one side has to do to its mailbox so that both sides end up equal.
 *
 * Pure: no I/O, no clock, no log. Both sides call it with the same two lists (their own as they
 * sent it, the peer's as they received it) and compute the same result without negotiation. What
 * comes from the peer may be hostile: lists that are out of order or contradict themselves are
 * refused with -EINVAL, never trusted.
 *
 * Promises (MERGE_DSYNCFS): a UID never means two messages; absence is never an expunge; an expunge
 * wins over a concurrent flag change; a message is not doubled when a session died half way;
 * MODSEQs and HIGHESTMODSEQ are equal on both sides afterwards, and no client that knows an earlier
 * MODSEQ misses a change, also one that comes from the other side. Two things are restored that
 * were expunged: a message that a broken session gave another UID on one side only, was expunged
 * under one of the two, and then meets a session for which neither side has a state; and one that
 * went and came again on one side, which a broken session took for a change of its UID on the other
 * side alone, where it was then expunged. They look like one that was moved out and in again.
 *
 * MERGE_DOVECOT: Dovecot's rules, as the other end computes them.
 * MERGE_ONCE: own messages keep their UIDs; by evidence only, and without state.
 *
 * MERGE_BACKUP: afterwards the own mailbox has the peer's messages under the peer's UIDs and with
 * its flags, and no others. Only without state, and only called by the side that takes.
 */
#ifndef DSYNCFS_SYNC_MERGE_MAILBOX_H
#define DSYNCFS_SYNC_MERGE_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/mail.h"
#include "sync/merge_flags.h"

enum merge_mode {
	MERGE_DOVECOT, /* the peer is Dovecot */
	MERGE_DSYNCFS, /* both are dsyncfs nodes: evidence only */
	MERGE_BACKUP,  /* one way, whoever the peer is: own becomes what the peer's is */
	MERGE_ONCE,    /* one way: what the peer has comes, and nothing of the own is undone */
};

/* Room for every record that could ever be added to it. */
#define MERGE_MODSEQ_MAX (UINT64_MAX / 4)

/* One C item. */
struct merge_item {
	char type;	      /* 's', 'f' or 'e' */
	bool has_guid128;     /* 'e': guid128 is known */
	uint32_t uid;	      /* strictly ascending within a list, never 0 */
	const char *guid;     /* 's', 'f': the message GUID string. NULL or "": unknown */
	const char *hdr_hash; /* used where GUIDs cannot be; else NULL */
	struct guid guid128;
	/* Of an 'e' the modseq alone, where this side's log tells of it; 0: unknown. */
	struct merge_flags flags;
	/* 's', 'e': the MODSEQ of this side's log where it tells of its arrival; 0: it does not,
	 * or of an 's' that of flags. */
	uint64_t appended;
	/* 'e': the MODSEQ of this side's log where it first tells of it, of what the list is of; 0:
	 * that of flags. */
	uint64_t expunged;
	/* For a filter (mail_filter.h), where one is in effect; the merge does not look at them. */
	int64_t received;
	uint64_t size;
	const char *from; /* a mailbox that had it before (items.h); NULL: unknown */
	int64_t saved;
	bool absent; /* only said to be in the own mailbox */
};

/* One side: its B item and its C list. */
struct merge_side {
	uint32_t uid_validity, uid_next, messages, first_recent_uid;
	uint64_t highest_modseq;
	/* By its saved state (0: none): its changes up to here have reached the other side, and the
	 * other's up to there have come. */
	uint64_t acked_modseq, peer_modseq;
	/* By the same: up to this UID both had the same messages then. 0: none, or the state is in
	 * doubt. */
	uint32_t agreed_uid;
	/* A higher one that this side has said since, when it had done its part, in a session that
	 * did not come to its end: the other side may have done its own. 0: none. */
	uint32_t reached_uid;
	bool have_guids, have_save_guids, have_only_guid128;
	const struct merge_item *items;
	size_t item_count;
};

struct merge_mailbox_input {
	enum merge_mode mode;
	enum merge_role role; /* own */
	/* U0 of both sides, from merge_mailbox_common_uid(). The lists were made for it: above it
	 * an 's' for every message, up to it 'f' and 'e' for what changed. 0: no state, all are
	 * 's'. */
	uint32_t common_uid;
	/* MERGE_DOVECOT: U0 or M0 is not 0. */
	bool stateful;
	/* MERGE_DOVECOT without state: may it count as an expunge that the peer, below the last
	 * common UID, does not list a message? Only while its mailbox has not gone back (GUID,
	 * UIDVALIDITY, UIDNEXT, HIGHESTMODSEQ against what we saw last). */
	bool absence_counts;
	struct merge_side own, peer;
	/* The present state of own messages with uid <= common_uid that the peer's 'f' and 'e'
	 * items name and that are not in own.items as 'f' (as type 's', ascending uid; no
	 * add/remove). A uid that does not exist is left out. */
	const struct merge_item *found;
	size_t found_count;
};

enum merge_action_kind {
	/* mailbox_set_flags(uid, flags, keywords, modseq). flags and keywords may equal what is
	 * there: then only the MODSEQ moves. own->flags is what it was based on: if the message has
	 * changed since, apply only the bits and keywords in which the action differs from that. */
	MERGE_SET_FLAGS,
	/* Request guid (peer_uid), then mailbox_append() at uid. If the body does not come, go on
	 * without it, report a common UID below uid, and run again. */
	MERGE_APPEND,
	/* mailbox_copy(source_uid) to uid. The source may be one that was appended by an earlier
	 * action of this list. */
	MERGE_COPY,
	/* mailbox_change_uid(source_uid, uid, modseq). */
	MERGE_CHANGE_UID,
	MERGE_EXPUNGE,
	/* mailbox_bury(uid): no message here has it, but clients may know one. */
	MERGE_BURY,
};

struct merge_action {
	enum merge_action_kind kind;
	uint32_t uid;	     /* the message; for APPEND, COPY, CHANGE_UID the new UID */
	uint32_t source_uid; /* COPY, CHANGE_UID: own UID it comes from */
	uint32_t peer_uid;   /* APPEND: the peer's UID of it now */
	const char *guid;    /* NULL where unknown */
	uint8_t flags;
	struct keyword_set keywords;
	uint64_t modseq; /* wished; 0: the next one */
	/* MERGE_BURY: the own log tells of the expunge of this message already; it may be empty:
	 * unknown. */
	bool told;
	struct guid guid128;
	const struct merge_item *own;  /* may be NULL */
	const struct merge_item *peer; /* may be NULL */
};

/*
 * How to apply a plan, so that MODSEQs come out equal:
 *   1. if first_modseq is not 0: mailbox_raise(highest_modseq = first_modseq), committed alone;
 *   2. the actions before expunge_start, in this order, in one transaction. (Many appends may be
 *      committed in batches of MERGE_APPEND_BATCH or more with modseq 0, and get their MODSEQ with
 *      mailbox_set_flags() at the end.) If no expunge follows: step 4 in the same transaction;
 *   3. if expunges (or burials) follow and HIGHESTMODSEQ is below expunge_modseq - 1, or UIDNEXT
 * not above all of them: raise both, committed; then the expunges in one transaction, with step 4;
 *   4. mailbox_raise(uid_next, highest_modseq, first_recent_uid).
 * Assumed of the store: a transaction writes one FLAG_UPDATE, one APPEND, one EXPUNGE_GUID record
 * and one KEYWORD_UPDATE per keyword and direction. With more than that MODSEQs are sound, but not
 * equal.
 */
#define MERGE_APPEND_BATCH 1000

struct merge_mailbox_plan {
	/* The lists contradict U0 (a message up to it is missing or is another one): nothing else
	 * in the plan is valid. Forget the common UID, run again without (U0 = 0). */
	bool need_full;
	/* MERGE_BACKUP: the mailbox can only become the peer's if it is made anew, since the peer
	 * has a message at conflict_uid that cannot be put there (or may give that UID to one).
	 * Nothing else in the plan is valid. */
	bool need_new;
	uint32_t conflict_uid;
	struct merge_action *actions;
	size_t action_count;
	size_t expunge_start; /* actions from here on are MERGE_EXPUNGE, then MERGE_BURY */
	uint64_t first_modseq, expunge_modseq;
	uint32_t uid_next;
	uint64_t highest_modseq;
	uint32_t first_recent_uid;
	uint32_t common_uid;	 /* what to report in S and to save */
	uint32_t uid_validity;	 /* of both, afterwards */
	bool adopt_uid_validity; /* it is the peer's: mailbox_set_uid_validity() first */
	bool run_again;		 /* a message had to be put back: another session carries it over */
	size_t appends, copies, expunges, flag_changes, uid_changes, touched, burials;
	void *pool; /* private */
};

/* Both sides' saved common UIDs and B items -> the U0 both use; 0 where any of them shows that the
 * state is not of these mailboxes. Call it before the lists are made. */
uint32_t merge_mailbox_common_uid(const struct merge_side *own, uint32_t own_common_uid,
				  const struct merge_side *peer, uint32_t peer_common_uid);

/* Strings in the plan are the input's, which must live as long. -EINVAL: what is wrong with the
 * lists, in err; -ENOMEM. Free with merge_mailbox_plan_free(). */
int merge_mailbox(const struct merge_mailbox_input *input, struct merge_mailbox_plan *plan_r,
		  struct error *err);
void merge_mailbox_plan_free(struct merge_mailbox_plan *plan);

/* The item with this UID, or NULL. */
const struct merge_item *merge_items_find(const struct merge_item *items, size_t count,
					  uint32_t uid);

#endif
