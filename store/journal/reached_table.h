/*
 * Up to which UID a mailbox was made equal to a peer's and the peer told so, in the moments until
 * the state of the session is durable: a mapped file of state_dir that outlives a kill -9 of dsyncd
 * (boot_file.h). The peer that was told saves it; without this the node that was killed would know
 * less than its peer does, and an expunge whose GUID nobody knows any more, only its UID, would
 * name nothing.
 *
 * A place for each hash of a key: what is pushed out by another is only missing.
 */
#ifndef DSYNCFS_JOURNAL_REACHED_TABLE_H
#define DSYNCFS_JOURNAL_REACHED_TABLE_H

#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"

struct reached_table;

struct reached {
	/* Of the state that the session began with. */
	uint64_t acked_modseq, peer_modseq;
	uint32_t uid_validity, common_uid;
	uint32_t uid; /* 0: none */
};

/* Without space for it *table_r is NULL, which all calls accept, and err says why. */
int reached_table_open(int dir_fd, struct reached_table **table_r, struct error *err);
void reached_table_close(struct reached_table **table);
/* key: of the state (peer_codec.h). */
void reached_table_put(struct reached_table *table, const void *key, size_t key_len,
		       const struct reached *reached);
/* What was put last, or all 0. */
void reached_table_get(const struct reached_table *table, const void *key, size_t key_len,
		       struct reached *reached_r);

#endif
