/*
 * dovecot.index.cache, as far as a saved date is in it (Maildir and sdbox). Best effort: Dovecot
 * drops fields that nobody asks for, and losing the file loses no mail.
 */
#ifndef DSYNCFS_INDEX_CACHE_H
#define DSYNCFS_INDEX_CACHE_H

#include "store/index/index_txn.h"

/* The saved date of a message. -ENOENT: not known (also where the cache is missing or damaged). */
int index_cache_get_save_date(struct index *index, const struct index_record *record,
			      int64_t *time_r);
/* Writes saved dates into the cache and their offsets into the transaction, taking and releasing
 * the cache's lock. A failure leaves the transaction as it was. */
struct index_save_date {
	uint32_t uid;
	int64_t time;
};
int index_cache_set_save_dates(struct index_txn *txn, const struct index_save_date *dates,
			       size_t count, struct error *err);

/* Those of a transaction. All zero: none. */
struct index_save_dates {
	struct index_save_date *dates;
	size_t count, room;
};
/* Without a cache record the file's ctime is the saved date, which is now: a date that says about
 * the same (or 0) is left out. -ENOMEM. */
int index_save_dates_add(struct index_save_dates *dates, uint32_t uid, int64_t saved);
/* Writes them, and warns where that fails: no message is worse for it. what: for messages. */
void index_save_dates_write(const struct index_save_dates *dates, struct index_txn *txn,
			    const char *what);
void index_save_dates_free(struct index_save_dates *dates);

#endif
