/*
 * Writing to an index: one lock, one transaction, one write().
 *
 * index_begin() locks the log, follows it to its end, repairs a torn tail that a dead writer left
 * (we hold the lock, so nobody is writing it), and refuses a mailbox that is being deleted
 * (-ESTALE). The view then shows what the transaction is based on. The calls only collect; commit
 * sorts them by kind, so that a transaction has at most one APPEND, one FLAG_UPDATE, one EXPUNGE
 * record and one per keyword and direction, and thus raises the modseq counter as little as
 * possible. After commit the view shows the result without reading anything.
 *
 * Order of application: extension switch-on, appends, extension data, flags, keywords, expunges,
 * modseqs, header. Two changes of one flag or keyword of one message: the later call wins.
 *
 * Locks that come before the log's (uidlist, m.N, map) are the caller's business, as is having done
 * to the mail files what an external record says was done.
 */
#ifndef DSYNCFS_INDEX_TXN_H
#define DSYNCFS_INDEX_TXN_H

#include "store/index/index.h"

struct index_txn;

/* timeout_ms bounds the wait for the lock; 0: do not wait; negative: the default. -EAGAIN. */
int index_begin(struct index *index, int timeout_ms, struct index_txn **txn_r, struct error *err);
/* True if the log had moved on when the lock was got: somebody else wrote since the view's last
 * refresh. */
bool index_txn_foreign(const struct index_txn *txn);
/* The index's view under the lock. */
struct index *index_txn_index(struct index_txn *txn);

/* Default: external records (done to the mail files already). With this the flag, keyword and
 * expunge records are internal: requests to whoever syncs the storage next. */
void index_txn_internal(struct index_txn *txn);

/* Failures of these are kept and returned by commit as well, so callers may check once. */
/* uid >= next_uid of the view and above every earlier append of the transaction. */
int index_append(struct index_txn *txn, uint32_t uid, uint8_t flags, struct error *err);
/* new = (old & ~remove) | add. A uid that is neither there nor appended here is left out. */
int index_update_flags(struct index_txn *txn, uint32_t uid, uint8_t add, uint8_t remove,
		       struct error *err);
/* A name: 1 to 255 bytes, no NUL, control character, space or any of (){%*"\]. -EINVAL. */
int index_update_keyword(struct index_txn *txn, uint32_t uid, const char *name, bool add,
			 struct error *err);
/* guid NULL: not known (another message's must never be given). */
int index_expunge(struct index_txn *txn, uint32_t uid, const struct guid *guid, struct error *err);
/* An expunge of a message that is not there. guid NULL: of nobody, so that it is no evidence;
 * empty: not known. -EEXIST: it is; -EINVAL: its uid is not below next_uid. Neither ends the
 * transaction. */
int index_bury(struct index_txn *txn, uint32_t uid, const struct guid *guid, struct error *err);
/* Exact modseq of a message touched here; uid 0 raises only HIGHESTMODSEQ. Switches the modseq
 * extension on first where it is missing. A value not above HIGHESTMODSEQ as it was before the
 * transaction becomes index_txn_modseq(): nobody would see the change. */
int index_update_modseq(struct index_txn *txn, uint32_t uid, uint64_t modseq, struct error *err);
/* The modseq of a message that the transaction does not change: any value, also a lower one. */
int index_correct_modseq(struct index_txn *txn, uint32_t uid, uint64_t modseq, struct error *err);
/* Call last. Where the modseq extension is missing: switches it on, and writes down for every
 * message what is true without it, the highest. Else every reader derives another modseq for the
 * same message, from the log files it happens to find (reference 3.7), and two nodes never agree.
 */
int index_switch_on_modseqs(struct index_txn *txn, struct error *err);
/* The modseq counter after the change records collected so far, that is without the
 * index_update_modseq() ones: the lowest exact modseq possible. Grows with further calls. */
uint64_t index_txn_modseq(const struct index_txn *txn);
/* What next_uid will be after commit, from appends and index_set_next_uid(). */
uint32_t index_txn_next_uid(const struct index_txn *txn);

int index_set_uid_validity(struct index_txn *txn, uint32_t uid_validity, struct error *err);
/* These two raise, never lower. */
int index_set_next_uid(struct index_txn *txn, uint32_t next_uid, struct error *err);
int index_set_first_recent_uid(struct index_txn *txn, uint32_t uid, struct error *err);
/* Any other field of the base header. */
int index_set_header(struct index_txn *txn, uint16_t offset, const void *data, uint16_t size,
		     struct error *err);

/* Extension data. def says the sizes with which the extension is introduced (it is never shrunk);
 * reset_id must be the extension's present one (0 but for "cache") or the data is ignored by
 * readers. reset: the reset_id changes from the present one to def's and all data is zeroed first.
 */
struct index_ext_def {
	const char *name;
	uint32_t reset_id;
	uint32_t hdr_size;
	uint16_t record_size, record_align;
	bool reset;
};
int index_update_ext_hdr(struct index_txn *txn, const struct index_ext_def *def, uint32_t offset,
			 const void *data, uint32_t size, struct error *err);
/* data has def's record_size bytes. */
int index_update_ext(struct index_txn *txn, const struct index_ext_def *def, uint32_t uid,
		     const void *data, struct error *err);
/* EXT_ATOMIC_INC: adds diff to the record's value (mdbox map: "ref"). */
int index_inc_ext(struct index_txn *txn, const struct index_ext_def *def, uint32_t uid,
		  int32_t diff, struct error *err);

/* INDEX_DELETED: the mailbox is about to be removed. Then no other record may be in the
 * transaction. index_undelete() takes it back and is the one thing allowed after INDEX_DELETED. */
int index_set_deleted(struct index_txn *txn, struct error *err);
int index_undelete(struct index *index, int timeout_ms, struct error *err);

/* Both unlock and free, also on failure. sync: fdatasync before unlocking (wanted when messages
 * were added or removed). Nothing collected: nothing is written. After a failed commit the log is
 * as before. */
int index_commit(struct index_txn **txn, bool sync, struct error *err);
/* Writes what was collected, and stays: locked, and empty for more. After a failure only
 * index_abort() is left. */
int index_commit_part(struct index_txn *txn, bool sync, struct error *err);
void index_abort(struct index_txn **txn);

#endif
