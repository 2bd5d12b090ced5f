/*
 * One LMDB environment: opened, checked, moved aside when it is damaged, made anew.
 *
 * LMDB trusts what its pages hold, so a damaged file could crash whoever walks it. The writer
 * therefore checks it first in a child process, which may crash in its place: all pages reachable,
 * keys in order, counts right.
 *
 * Caveats of LMDB that the callers keep: one open per process and environment; none open across a
 * fork whose child goes on without exec; no long read transactions; never on a network or FUSE
 * filesystem. MDB_NOSYNC is never used: a power cut may then destroy the file.
 */
#ifndef DSYNCFS_JOURNAL_LMDB_ENV_H
#define DSYNCFS_JOURNAL_LMDB_ENV_H

#include <limits.h>
#include <lmdb.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include "store/base/error.h"

#define LMDB_DBS_MAX 8

/* Checks one record, in the child; false: damaged. db is the index into names. */
typedef bool lmdb_record_check_fn(unsigned db, const MDB_val *key, const MDB_val *value);

/* What an environment is made of; a constant of its owner. */
struct lmdb_layout {
	const char *names[LMDB_DBS_MAX]; /* up to the first NULL */
	lmdb_record_check_fn *check;	 /* may be NULL */
};

struct lmdb_env {
	const struct lmdb_layout *layout;
	MDB_env *env; /* NULL: not open */
	MDB_dbi dbi[LMDB_DBS_MAX];
	char dir[PATH_MAX];
	dev_t dev; /* of data.mdb, so that a reader sees that another took its place */
	ino_t ino;
};

/* Opens for writing; makes the directory (0700) and whatever is missing. A damaged environment is
 * moved aside to "<dir>.damaged.<time>" with an error in the log. fresh_r: it was made anew. */
int lmdb_env_open_writer(const char *dir, const struct lmdb_layout *layout, struct lmdb_env *env_r,
			 bool *fresh_r, struct error *err);
/* -ENOENT: there is none. -EUCLEAN: damaged. */
int lmdb_env_open_reader(const char *dir, const struct lmdb_layout *layout, struct lmdb_env *env_r,
			 struct error *err);
void lmdb_env_close(struct lmdb_env *env);
/* Closes, and moves the environment aside though it looks sound: it does not work. */
int lmdb_env_discard(struct lmdb_env *env, struct error *err);
/* True when dir holds another file than the one that is open. */
bool lmdb_env_replaced(const struct lmdb_env *env);
/* Doubles the map after MDB_MAP_FULL; no transaction may be open. */
int lmdb_env_grow(struct lmdb_env *env);

/* LMDB's return value as a negative errno: -ENOSPC for a full map, -EUCLEAN for damage. */
int lmdb_errno(int rc);
bool lmdb_is_damage(int rc);

#endif
