/* Keys and values under peer_journal.c. See peer_store.h. */
#include "store/journal/peer_store.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include "store/base/crash_point.h"
#include "store/base/log.h"

/* What a disk that stays full may cost in memory. */
#define CHANGES_MAX 200000
/* A transaction takes this many changes; more are committed on the way. */
#define CHANGES_PER_TXN 20000
#define BATCH_RECORDS	256
#define BATCH_BYTES	((size_t)256 << 10)
#define ATTEMPTS	3

struct peer_change {
	UT_hash_handle hh;
	bool del;
	size_t value_len;
	uint8_t *value; /* into key, behind it */
	unsigned key_len;
	uint8_t key[]; /* the database's number, then the key */
};

int peer_store_open(struct peer_store *store, const char *dir, struct error *err)
{
	bool fresh;

	memset(store, 0, sizeof *store);
	return lmdb_env_open_writer(dir, &peer_layout, &store->env, &fresh, err);
}

static void drop_changes(struct peer_store *store)
{
	struct peer_change *change, *next;

	HASH_ITER (hh, store->changes, change, next) {
		HASH_DEL(store->changes, change);
		free(change);
	}
}

static void abort_txn(struct peer_store *store)
{
	if (store->txn)
		mdb_txn_abort(store->txn);
	store->txn = NULL;
}

void peer_store_close(struct peer_store *store)
{
	abort_txn(store);
	lmdb_env_close(&store->env);
	drop_changes(store);
}

static int apply(struct peer_store *store, const struct peer_change *change)
{
	MDB_val key = {change->key_len - 1, (void *)(uintptr_t)(change->key + 1)};
	MDB_val value = {change->value_len, change->value};
	MDB_dbi dbi = store->env.dbi[change->key[0]];
	int rc;

	if (!change->del)
		return mdb_put(store->txn, dbi, &key, &value, 0);
	rc = mdb_del(store->txn, dbi, &key, NULL);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Begins a transaction that holds all changes since the last commit. LMDB's code. */
static int begin_with_changes(struct peer_store *store)
{
	struct peer_change *change, *next;
	int rc = mdb_txn_begin(store->env.env, NULL, 0, &store->txn);

	if (rc) {
		store->txn = NULL;
		return rc;
	}
	HASH_ITER (hh, store->changes, change, next) {
		rc = apply(store, change);
		if (rc) {
			abort_txn(store);
			return rc;
		}
	}
	return 0;
}

/* After a failure that left no transaction. 0: worth another attempt. */
static int recover(struct peer_store *store, int rc, struct error *err)
{
	char dir[PATH_MAX];
	bool fresh;
	int code;

	if (rc == MDB_MAP_FULL && lmdb_env_grow(&store->env) == 0)
		return 0;
	if (!lmdb_is_damage(rc))
		return error_set(err, lmdb_errno(rc), "%s: %s", store->env.dir, mdb_strerror(rc));
	log_error("%s: %s", store->env.dir, mdb_strerror(rc));
	memcpy(dir, store->env.dir, sizeof dir);
	lmdb_env_close(&store->env);
	code = lmdb_env_open_writer(dir, &peer_layout, &store->env, &fresh, err);
	if (code == 0 && fresh)
		store->made_anew = true;
	return code;
}

/* Makes sure that a transaction with all changes is open. */
static int need_txn(struct peer_store *store, struct error *err)
{
	int rc = 0;

	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		if (store->txn)
			return 0;
		rc = store->env.env ? begin_with_changes(store) : MDB_PANIC;
		if (rc) {
			int code = recover(store, rc, err);

			if (code < 0)
				return code;
		}
	}
	return store->txn
		       ? 0
		       : error_set(err, lmdb_errno(rc), "%s: %s", store->env.dir, mdb_strerror(rc));
}

static int remember(struct peer_store *store, enum peer_db db, const void *key, size_t key_len,
		    const struct buf *value, struct peer_change **change_r)
{
	size_t value_len = value ? value->len : 0;
	struct peer_change *change = malloc(sizeof *change + 1 + key_len + value_len), *old;

	if (!change)
		return -ENOMEM;
	change->del = value == NULL;
	change->key_len = (unsigned)key_len + 1;
	change->key[0] = (uint8_t)db;
	memcpy(change->key + 1, key, key_len);
	change->value = change->key + 1 + key_len;
	change->value_len = value_len;
	if (value_len)
		memcpy(change->value, value->data, value_len);
	HASH_FIND(hh, store->changes, change->key, change->key_len, old);
	if (old) {
		HASH_DEL(store->changes, old);
		free(old);
	}
	HASH_ADD_KEYPTR(hh, store->changes, change->key, change->key_len, change);
	*change_r = change;
	return 0;
}

static int store_change(struct peer_store *store, enum peer_db db, const void *key, size_t key_len,
			const struct buf *value, struct error *err)
{
	struct peer_change *change;
	bool had_txn = store->txn != NULL;
	int rc;

	if (HASH_COUNT(store->changes) >= CHANGES_MAX)
		return error_set(err, -ENOSPC, "%s: too many changes wait for a disk that is full",
				 store->env.dir);
	if (HASH_COUNT(store->changes) && HASH_COUNT(store->changes) % CHANGES_PER_TXN == 0) {
		rc = peer_store_commit(store, err);
		if (rc < 0 && rc != -EUCLEAN)
			return rc;
		/* The caller's own commit is to tell. */
		store->made_anew |= rc == -EUCLEAN;
		had_txn = false;
	}
	rc = remember(store, db, key, key_len, value, &change);
	if (rc < 0)
		return error_errno(err, rc, "%s", store->env.dir);
	if (had_txn) {
		rc = apply(store, change);
		if (!rc)
			return 0;
		abort_txn(store);
		rc = recover(store, rc, err);
		if (rc < 0)
			return rc;
	}
	return need_txn(store, err);
}

int peer_store_put(struct peer_store *store, enum peer_db db, const void *key, size_t key_len,
		   const struct buf *value, struct error *err)
{
	if (value->failed)
		return error_errno(err, value->failed, "%s", store->env.dir);
	return store_change(store, db, key, key_len, value, err);
}

int peer_store_del(struct peer_store *store, enum peer_db db, const void *key, size_t key_len,
		   struct error *err)
{
	return store_change(store, db, key, key_len, NULL, err);
}

/* A transaction to read in: the open one, or one of its own, to be given back. */
static int begin_read(struct peer_store *store, MDB_txn **txn_r, struct error *err)
{
	int rc;

	if (store->changes || !store->env.env) {
		rc = need_txn(store, err);
		*txn_r = store->txn;
		return rc;
	}
	rc = mdb_txn_begin(store->env.env, NULL, MDB_RDONLY, txn_r);
	return rc ? error_set(err, lmdb_errno(rc), "%s: %s", store->env.dir, mdb_strerror(rc)) : 0;
}

static void end_read(struct peer_store *store, MDB_txn *txn)
{
	if (txn != store->txn)
		mdb_txn_abort(txn);
}

int peer_store_get(struct peer_store *store, enum peer_db db, const void *key, size_t key_len,
		   struct buf *value, struct error *err)
{
	MDB_val k = {key_len, (void *)(uintptr_t)key}, v;
	MDB_txn *txn;
	int rc = begin_read(store, &txn, err);

	if (rc < 0)
		return rc;
	rc = mdb_get(txn, store->env.dbi[db], &k, &v);
	if (!rc)
		buf_append(value, v.mv_data, v.mv_size);
	end_read(store, txn);
	if (rc == MDB_NOTFOUND)
		return error_set(err, -ENOENT, "%s: no such record", store->env.dir);
	if (rc)
		return error_set(err, lmdb_errno(rc), "%s: %s", store->env.dir, mdb_strerror(rc));
	return value->failed ? error_errno(err, value->failed, "%s", store->env.dir) : 0;
}

/* Records of one batch: key length, value length, key, value, and so on. */
struct batch {
	struct buf bytes;
	unsigned count;
	uint8_t last[PEER_KEY_MAX]; /* the key to go on behind */
	size_t last_len;
	bool end;
};

/* LMDB's code. */
static int read_batch(struct peer_store *store, MDB_txn *txn, enum peer_db db, const void *prefix,
		      size_t prefix_len, struct batch *batch)
{
	MDB_val key = {prefix_len, (void *)(uintptr_t)prefix}, value;
	MDB_cursor *cursor;
	MDB_cursor_op op = prefix_len ? MDB_SET_RANGE : MDB_FIRST;
	int rc = mdb_cursor_open(txn, store->env.dbi[db], &cursor);

	if (rc)
		return rc;
	if (batch->last_len) {
		key.mv_size = batch->last_len;
		key.mv_data = batch->last;
		op = MDB_SET_RANGE;
	}
	buf_clear(&batch->bytes);
	batch->count = 0;
	for (; (rc = mdb_cursor_get(cursor, &key, &value, op)) == 0; op = MDB_NEXT) {
		size_t lens[2] = {key.mv_size, value.mv_size};

		if (key.mv_size < prefix_len || memcmp(key.mv_data, prefix, prefix_len) != 0) {
			rc = MDB_NOTFOUND;
			break;
		}
		/* The one that the batch before ended with, if it is still there. */
		if (op == MDB_SET_RANGE && batch->last_len == key.mv_size &&
		    memcmp(batch->last, key.mv_data, key.mv_size) == 0)
			continue;
		if (batch->count == BATCH_RECORDS ||
		    (batch->count && batch->bytes.len + value.mv_size > BATCH_BYTES))
			break;
		buf_append(&batch->bytes, lens, sizeof lens);
		buf_append(&batch->bytes, key.mv_data, key.mv_size);
		buf_append(&batch->bytes, value.mv_data, value.mv_size);
		batch->count++;
	}
	mdb_cursor_close(cursor);
	batch->end = rc == MDB_NOTFOUND;
	if (rc && rc != MDB_NOTFOUND)
		return rc;
	return batch->bytes.failed ? ENOMEM : 0;
}

static int give_batch(struct batch *batch, peer_store_fn *each, void *ctx)
{
	const uint8_t *p = (const uint8_t *)batch->bytes.data;
	int rc = 0;

	for (unsigned i = 0; i < batch->count && rc == 0; i++) {
		size_t lens[2];
		const uint8_t *key;

		memcpy(lens, p, sizeof lens);
		key = p + sizeof lens;
		p = key + lens[0] + lens[1];
		memcpy(batch->last, key, lens[0]);
		batch->last_len = lens[0];
		rc = each(ctx, key, lens[0], key + lens[0], lens[1]);
	}
	return rc;
}

int peer_store_each(struct peer_store *store, enum peer_db db, const void *prefix,
		    size_t prefix_len, peer_store_fn *each, void *ctx, struct error *err)
{
	struct batch batch = {.bytes = BUF_INIT(BATCH_BYTES * 2)};
	int rc = 0;

	while (rc == 0 && !batch.end) {
		MDB_txn *txn;
		int code = begin_read(store, &txn, err);

		if (code < 0) {
			rc = code;
			break;
		}
		code = read_batch(store, txn, db, prefix, prefix_len, &batch);
		end_read(store, txn);
		rc = code ? error_set(err, lmdb_errno(code), "%s: %s", store->env.dir,
				      mdb_strerror(code))
			  : give_batch(&batch, each, ctx);
	}
	buf_free(&batch.bytes);
	return rc;
}

int peer_store_commit(struct peer_store *store, struct error *err)
{
	int rc = 0;

	for (int attempt = 0; store->changes && attempt < ATTEMPTS; attempt++) {
		rc = need_txn(store, err);
		if (rc < 0)
			return rc;
		crash_point("peer journal: before a commit");
		rc = mdb_txn_commit(store->txn);
		crash_point("peer journal: after a commit");
		store->txn = NULL;
		if (!rc) {
			drop_changes(store);
			break;
		}
		rc = recover(store, rc, err);
		if (rc < 0)
			return rc;
	}
	if (store->changes)
		return error_set(err, -EIO, "%s: cannot be written", store->env.dir);
	if (store->made_anew) {
		store->made_anew = false;
		return error_set(err, -EUCLEAN,
				 "%s was damaged and has been made anew: every mailbox has to be "
				 "compared with every peer",
				 store->env.dir);
	}
	return 0;
}
