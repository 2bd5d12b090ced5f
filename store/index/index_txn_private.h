/*
 * What a transaction has collected. Private to store/index/.
 *
 * The lists are buffers of structs; they are sorted and merged only when they are written.
 */
#ifndef DSYNCFS_INDEX_TXN_PRIVATE_H
#define DSYNCFS_INDEX_TXN_PRIVATE_H

#include "store/base/buf.h"
#include "store/index/index_private.h"
#include "store/index/index_txn.h"

struct txn_append {
	uint32_t uid;
	uint8_t flags;
};

/* order: two changes of one message keep the order of the calls. */
struct txn_flags {
	uint32_t uid, order;
	uint8_t add, remove;
};

struct txn_keyword {
	uint32_t name, uid, order;
	bool add;
};

/* With how many changes in each direction, as collected. */
struct txn_keyword_name {
	char *name;
	uint32_t adds, removes;
};

struct txn_expunge {
	uint32_t uid;
	struct guid guid;
};

struct txn_modseq {
	uint32_t uid;
	bool exact; /* whatever HIGHESTMODSEQ is */
	uint64_t modseq;
};

struct txn_ext {
	char *name;
	struct index_ext_def def; /* its name is `name` */
	struct buf headers;	  /* EXT_HDR_UPDATE32 entries, as they are in the log */
	struct buf records;	  /* EXT_REC_UPDATE entries */
	struct buf increments;	  /* EXT_ATOMIC_INC entries */
	bool wide;		  /* a header entry does not fit 16 bits */
};

struct index_txn {
	struct index *index;
	bool external, foreign, deleted, undeleted;
	int failed;
	struct error error; /* of the first failure */

	struct buf appends, flags, keywords, keyword_names, expunges, modseqs, exts;
	struct buf headers; /* HEADER_UPDATE records, whole */
	bool flags_counted;
	uint32_t uid_validity, next_uid, first_recent_uid; /* 0: not set */
};

#define TXN_LIST(txn, list, type)  ((struct type *)(void *)(txn)->list.data)
#define TXN_COUNT(txn, list, type) ((txn)->list.len / sizeof(struct type))

/* index_txn.c */
uint64_t index_txn_bumps(const struct index_txn *txn);
/* Of two struct txn_expunge, by uid: for qsort() and bsearch(). */
int index_txn_expunge_cmp(const void *a, const void *b);

/* index_txn_build.c: appends the whole transaction, BOUNDARY and all, as it goes into the log.
 * Nothing to write: nothing is appended. Sorts the lists. */
int index_txn_build(struct index_txn *txn, struct buf *buf);

#endif
