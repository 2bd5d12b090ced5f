/*
 * Expunges that came too late: of a UID that the message does not have any more.
 *
 * A program's request for an expunge names the UID that its view has. Where the message gets
 * another UID before the request is carried out (an append and an expunge in one transaction,
 * reference (e)), nobody carries it out, and what a client expunged, or moved elsewhere, stays. The
 * log tells of both, so that it can be made good.
 */
#ifndef DSYNCFS_INDEX_LATE_H
#define DSYNCFS_INDEX_LATE_H

#include "store/index/index.h"

/* The message with this GUID whose UID is first_uid to last_uid: those are what was appended where
 * its UID was changed. There may be none (any more). */
struct index_late_expunge {
	struct guid guid;
	uint32_t first_uid, last_uid;
};

/* What was seen in the log since it was opened or last taken. Of many thousands of requests or
 * changes of UIDs since then not all are known. */
bool index_has_late_expunges(const struct index *index);
/* The caller's, to be freed; NULL where there are none. */
struct index_late_expunge *index_take_late_expunges(struct index *index, size_t *count_r);

#endif
