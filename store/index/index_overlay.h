/*
 * The records that the log has touched since the snapshot, apart from the snapshot's own.
 *
 * Two arrays of records of one stride: copies of snapshot records, found by a hash of the uid, and
 * records appended by the log, whose uids only ascend and so are found by bisection. A record is
 * {u32 uid, u8 flags, u8 expunged, 2 bytes unused, extension data}. Pointers are valid until the
 * next call that adds or widens. Private to store/index/.
 */
#ifndef DSYNCFS_INDEX_OVERLAY_H
#define DSYNCFS_INDEX_OVERLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	OVERLAY_UID = 0,
	OVERLAY_FLAGS = 4,
	OVERLAY_EXPUNGED = 5,
	OVERLAY_DATA = 8,
};

struct index_pool {
	uint8_t *data;
	uint32_t count, allocated;
};

struct index_overlay {
	uint32_t stride;
	struct index_pool modified, appended;
	uint32_t *table; /* position in modified + 1; 0 is free */
	uint32_t table_size;
};

void index_overlay_init(struct index_overlay *overlay);
void index_overlay_free(struct index_overlay *overlay);
/* Makes records wider by `more` bytes of zeros at their end. */
int index_overlay_widen(struct index_overlay *overlay, uint32_t more);

static inline uint8_t *index_pool_at(const struct index_overlay *overlay,
				     const struct index_pool *pool, uint32_t pos)
{
	return pool->data + (size_t)pos * overlay->stride;
}

/* NULL: not there. */
uint8_t *index_overlay_find_modified(const struct index_overlay *overlay, uint32_t uid);
uint8_t *index_overlay_find_appended(const struct index_overlay *overlay, uint32_t uid);
/* Position of the first appended record with a uid >= the given one; the count if there is none. */
uint32_t index_overlay_lower_bound(const struct index_overlay *overlay, uint32_t uid);
/* Zeroed but for the uid. NULL: out of memory. The uid must not be there yet; for appended ones it
 * must be above all others. */
uint8_t *index_overlay_add_modified(struct index_overlay *overlay, uint32_t uid);
uint8_t *index_overlay_add_appended(struct index_overlay *overlay, uint32_t uid);

#endif
