/*
 * Looks for damage in an LMDB environment, in a child process that may crash or hang in place of
 * the caller, since LMDB trusts what pages hold. Reads every record; no open environment in this
 * process is touched. Private to store/journal.
 */
#ifndef DSYNCFS_JOURNAL_LMDB_CHECK_H
#define DSYNCFS_JOURNAL_LMDB_CHECK_H

#include "store/journal/lmdb_env.h"

/* UNKNOWN: it could not be looked at (no memory, no process); not evidence of damage. */
enum lmdb_check_result { LMDB_CHECK_OK = 0, LMDB_CHECK_DAMAGED = 1, LMDB_CHECK_UNKNOWN = 2 };

enum lmdb_check_result lmdb_check(const char *dir, const struct lmdb_layout *layout);

/* Shared with lmdb_env.c. Returns LMDB's code. */
int lmdb_env_create(const char *dir, unsigned flags, MDB_env **env_r);

#endif
