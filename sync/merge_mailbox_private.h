/*
 * What the files of the mailbox merge share. The order of work:
 *
 *   merge_mailbox.c          checks the lists, runs one of the two modes, puts the plan together
 *   merge_mailbox_evidence.c MERGE_DSYNCFS: which messages exist afterwards, with which flags
 *   merge_mailbox_dovecot.c  MERGE_DOVECOT: the same by Dovecot's rules
 *   merge_mailbox_backup.c   MERGE_BACKUP: the peer's, whatever is here
 *   merge_mailbox_once.c   MERGE_ONCE: what the peer has, and the own
 *   merge_mailbox_pair.c     both: which instance here is which there, and their UIDs
 *   merge_mailbox_burials.c  MERGE_DSYNCFS: which UIDs both logs have to tell the expunge of
 *   merge_mailbox_modseq.c   MERGE_DSYNCFS: the MODSEQs that both sides can reach
 *
 * Sides are numbered by role (0 master, 1 slave), not own and peer, so that both ends run through
 * the same steps with the same numbers.
 */
#ifndef DSYNCFS_SYNC_MERGE_MAILBOX_PRIVATE_H
#define DSYNCFS_SYNC_MERGE_MAILBOX_PRIVATE_H

#include "sync/merge_mailbox.h"

/* A message above the common UID as one side lists it. */
struct inst {
	const struct merge_item *item;
	const char *key;   /* what identifies it: GUID or header hash */
	struct inst *link; /* the same message on the other side */
	int side;
	bool exact;	     /* linked, and the UIDs are equal */
	bool expunged_there; /* the other side expunged just this (UID, GUID), or the agreed UID */
	bool gone;	     /* the other side expunged it: it has to go */
	uint32_t final_uid;  /* 0 until assigned */
};

struct insts {
	struct inst *list; /* ascending UID */
	size_t count;
};

/* One message of the merged mailbox, or one that leaves it. */
struct merged {
	const struct merge_item *item[2]; /* as listed; NULL: not there, or not listed */
	const char *guid;
	uint32_t uid[2]; /* where it is now; 0: not there */
	uint32_t final_uid;
	bool gone;
	bool differs[2]; /* flags or keywords of that side are not the wanted ones */
	uint8_t flags;
	struct keyword_set keywords;
	uint64_t modseq; /* wanted of the own side, of both in MERGE_DSYNCFS */
};

/* A UID that is gone, or gets another meaning for nobody. */
struct burial {
	uint32_t uid;
	bool owed, needless;
	uint64_t modseq[2]; /* at which that side's log tells of its expunge; 0: it does not */
	bool told[2];	    /* it does, or will; of the message with this GUID (empty: unknown) */
	struct guid guid[2];
};

struct burials {
	struct burial *list; /* ascending UID */
	size_t count, size;
};

struct merge_work {
	const struct merge_mailbox_input *in;
	const struct merge_side *side[2];
	int own, other;
	bool by_guid;
	struct insts insts[2];
	struct merged *merged;
	size_t merged_count, merged_size;
	uint32_t next; /* the next UID to give out */
	struct burials burials;
	struct merge_mailbox_plan *plan;
	struct error *err;
};

/* Keeps an allocation until the plan is freed. Frees it itself when that fails. NULL is ignored. */
int merge_work_keep(struct merge_work *work, void *allocated);
/* Adds a zeroed record. NULL: out of memory. The pointer is good until the next call. */
struct merged *merge_work_add(struct merge_work *work);
/* The side's messages of type 's' above the UID, with room for exactly those. */
int merge_work_list_insts(struct merge_work *work, int side, uint32_t above_uid);
/* The key of an item by which the sides' messages are compared; *key_r may become NULL: unknown. */
int merge_work_key(struct merge_work *work, const struct merge_item *item, const char **key_r);

/* What the side tells up to this MODSEQ the other has heard of; 0: unknown. */
uint64_t merge_heard_modseq(const struct merge_work *work, int side);
/* Whether an 'e' that has a GUID means this message. */
bool merge_item_names(const struct merge_item *expunge, const char *guid);

/* Which of insts[0] is which of insts[1]; in MERGE_DSYNCFS also which are gone. */
int merge_pair(struct merge_work *work);
/* Gives every instance that stays its final UID, starting at work->next. */
int merge_assign_uids(struct merge_work *work);
/* Turns instances into merged records, with flags. */
int merge_add_insts(struct merge_work *work);
/* Wanted flags of a message that both sides list. */
int merge_both_flags(struct merge_work *work, struct merged *m);

/* From the lists and the merged records. */
int merge_list_burials(struct merge_work *work);
/* Whether the side has to tell of it at the final MODSEQ (where it does not expunge it then). */
bool merge_must_bury(const struct burial *burial, int side, uint64_t final_modseq);
/* Of any. */
bool merge_buries(const struct merge_work *work, int side, uint64_t final_modseq);
/* Behind the expunges. */
int merge_add_burial_actions(struct merge_work *work);

int merge_evidence(struct merge_work *work);
int merge_dovecot(struct merge_work *work);
int merge_backup(struct merge_work *work);
int merge_once(struct merge_work *work);
int merge_modseqs(struct merge_work *work);

#endif
