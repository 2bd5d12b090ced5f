/*
 * Keys and values under peer_journal.c: one write transaction kept open between commits, so that
 * changes are seen at once and become durable together; and a list of what was changed since the
 * last commit, so that a transaction that fails (disk full, damage) takes nothing with it: the
 * changes go into the next one. Private to store/journal.
 */
#ifndef DSYNCFS_JOURNAL_PEER_STORE_H
#define DSYNCFS_JOURNAL_PEER_STORE_H

#include "store/journal/lmdb_env.h"
#include "store/journal/peer_codec.h"

struct peer_change;

struct peer_store {
	struct lmdb_env env;
	MDB_txn *txn;		     /* NULL: none is open */
	struct peer_change *changes; /* since the last commit, by database and key */
	bool made_anew;		     /* damage was met since the last commit */
};

int peer_store_open(struct peer_store *store, const char *dir, struct error *err);
/* Drops what was not committed. */
void peer_store_close(struct peer_store *store);

int peer_store_put(struct peer_store *store, enum peer_db db, const void *key, size_t key_len,
		   const struct buf *value, struct error *err);
int peer_store_del(struct peer_store *store, enum peer_db db, const void *key, size_t key_len,
		   struct error *err);
/* Appends the value. -ENOENT. */
int peer_store_get(struct peer_store *store, enum peer_db db, const void *key, size_t key_len,
		   struct buf *value, struct error *err);
/* Every record whose key starts with the prefix, in order, in batches copied out first: each() may
 * change the store. Stops when each() returns non-zero and returns that. */
typedef int peer_store_fn(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value,
			  size_t value_len);
int peer_store_each(struct peer_store *store, enum peer_db db, const void *prefix,
		    size_t prefix_len, peer_store_fn *each, void *ctx, struct error *err);
/* Durable when it returns 0. */
int peer_store_commit(struct peer_store *store, struct error *err);

#endif
