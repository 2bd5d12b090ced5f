/*
 * Which backing directory a state_dir belongs to (design invariant 7).
 *
 * The backing directory carries an id in an attribute, and state_dir knows it. The id is a new one
 * from each start and each clean stop of the mount on, so that a copy, a snapshot or a backup that
 * takes the directory's place is told from it: what the journal and the peers' states say of its
 * mail would be taken for removals.
 *
 * Neither knows an id: a first start. Only the directory has one: state_dir was lost, and
 * everything will be scanned. Only state_dir has one, or they differ: a disk that is not mounted,
 * or another copy; then the mount does not start before an admin has said that this is the store
 * (store_id_accept()).
 */
#ifndef DSYNCFS_STORE_ID_H
#define DSYNCFS_STORE_ID_H

#include <stdbool.h>
#include "store/base/error.h"

/* Of the backing directory: the id in 32 hex digits. A filesystem without such attributes carries
 * none, and a warning says what that means. */
#define STORE_ID_XATTR "trusted.dsyncfs.store"

/* root_fd: the backing directory; root: its path, for texts. Writes nothing. accepted_r: it is
 * another one than state_dir knows, and an admin has accepted it: nothing that was observed of the
 * old one holds. -ESTALE: it is not the one. */
int store_id_check(const char *state_dir, int root_fd, const char *root, bool *accepted_r,
		   struct error *err);
/* Gives both a new id, durably; state_dir/journal exists. A crash at any point leaves them
 * agreeing; so does a failure (a read-only or full disk), after which the old id goes on. */
int store_id_renew(const char *state_dir, int root_fd, const char *root, struct error *err);
/* The next store_id_check() takes whatever directory it finds. -ENOENT: no mount has ever run with
 * this state_dir. */
int store_id_accept(const char *state_dir, struct error *err);

/* A mount has run with this state_dir, so mail belongs into one. */
bool store_id_is_known(const char *state_dir);

#endif
