/*
 * Flags and keywords of one message that both sides have: which values both end up with.
 *
 * Pure. Both sides call it with the same two states, each with its own as `own`, and get the same
 * answer: a change beats no change; of two opposite changes the one with the higher MODSEQ wins, at
 * equal MODSEQs the master's. A bit that differs although neither side reports a change is decided
 * the same way. Keywords that differ only in case are one keyword, since a store keeps one of them.
 */
#ifndef DSYNCFS_SYNC_MERGE_FLAGS_H
#define DSYNCFS_SYNC_MERGE_FLAGS_H

#include <stdbool.h>
#include <stdint.h>
#include "store/mail.h"

enum merge_role { MERGE_MASTER, MERGE_SLAVE };

/* Present flags and keywords of a message, and what changed of them since both sides agreed. The
 * sets have no duplicates; add and remove should be disjoint. MAIL_RECENT and unknown bits are
 * ignored. */
struct merge_flags {
	uint64_t modseq;
	uint8_t final, add, remove;
	struct keyword_set final_keywords, add_keywords, remove_keywords;
};

struct merge_flags_result {
	uint8_t flags;		     /* wanted by both */
	struct keyword_set keywords; /* wanted by both; the strings are the inputs', and where it
					equals one of their sets, the array is too */
	bool own_changed;	     /* wanted differs from own->final, own->final_keywords */
	bool peer_changed;	     /* and from the peer's (the protocol's remote_changed) */
	const char **allocated;	     /* the array of keywords, or NULL; free() it */
};

/* 0 or -ENOMEM. */
int merge_flags(enum merge_role own_role, const struct merge_flags *own,
		const struct merge_flags *peer, struct merge_flags_result *result_r);

/* The same names, in any order and case. */
bool keyword_set_equal(struct keyword_set a, struct keyword_set b);
bool keyword_set_has(struct keyword_set set, const char *name);

#endif
