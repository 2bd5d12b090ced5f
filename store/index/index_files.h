/*
 * The files of an index: making a log, replacing a damaged one, rotation, snapshots.
 *
 * New files get the owner, group and mode (& 0666) of their directory, and appear by rename.
 */
#ifndef DSYNCFS_INDEX_FILES_H
#define DSYNCFS_INDEX_FILES_H

#include "store/index/index.h"

struct index_create {
	uint32_t uid_validity;	 /* 0: not yet set */
	uint32_t next_uid;	 /* 0: 1 */
	uint64_t initial_modseq; /* 0: 1 */
	/* With replace: an existing index is forgotten (its log's successor says "start from the
	 * empty state"), whatever its condition; else -EEXIST. */
	bool replace;
	/* mdbox map: the log's tail is its end from the start, as index_is_synced() wants. */
	bool synced;
	/* Who held the lock under which this is called has died: what he may have been making is
	 * not waited for. */
	bool maker_died;
};
/* The new log is durable when this returns (but the directory entry: that is synced too). */
int index_create(int dirfd, const struct index_options *options, const struct index_create *create,
		 struct error *err);

/* Puts the log of the index `from` (closed, in the same directory, without a snapshot) in the place
 * of the index that options name, whatever that one's condition, as its successor that starts from
 * the empty state. What is replaced is there, unchanged, until all of the new one is. */
int index_adopt(int dirfd, const struct index_options *options, const char *from,
		struct error *err);
/* Removes the log of an index that was not adopted. */
void index_discard(int dirfd, const char *name);

/* To be called after a commit, without any lock of this index. Does nothing, and makes no system
 * call, while the log is short: a snapshot once 128 kB of log have gathered since the last, a
 * rotation at 1 MB. Waits at most timeout_ms for the lock and gives up quietly (0) when it is busy.
 */
int index_housekeep(struct index *index, int timeout_ms, struct error *err);
/* The same, whatever the sizes. -EBUSY while requests are pending (reference 3.6). */
int index_write_snapshot(struct index *index, int timeout_ms, struct error *err);
int index_rotate(struct index *index, int timeout_ms, struct error *err);

#endif
