/*
 * dovecot.index, the snapshot: opened, checked and left where it is. Its records are read in place.
 *
 * A snapshot is only ever replaced by rename, so a mapping of it does not change. Small ones are
 * read into memory, which is cheaper than a mapping; of very large ones only a part is resident at
 * a time. The order of uids is checked at once in small ones; in large ones by whoever walks over
 * them. Private to store/index/.
 */
#ifndef DSYNCFS_INDEX_SNAPSHOT_H
#define DSYNCFS_INDEX_SNAPSHOT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/map_window.h"

struct index_snapshot {
	uint8_t *data; /* NULL: there is none */
	size_t size;
	bool mapped;
	struct map_window *window; /* NULL: all of it may be resident */
	uint32_t base_size, header_size, record_size, count;
	char name[512];
};

/* -ENOENT without a text: there is none, and *snapshot_r is an empty one. */
int index_snapshot_open(int dirfd, const char *label, const char *file,
			struct index_snapshot *snapshot_r, struct error *err);
void index_snapshot_close(struct index_snapshot *snapshot);

static inline const uint8_t *index_snapshot_record(const struct index_snapshot *snapshot,
						   uint32_t pos)
{
	size_t offset = snapshot->header_size + (size_t)pos * snapshot->record_size;

	map_window_touch(snapshot->window, offset);
	return snapshot->data + offset;
}

/* Position of the first record with a uid >= the given one; the count if there is none. */
uint32_t index_snapshot_lower_bound(const struct index_snapshot *snapshot, uint32_t uid);
/* NULL: not there. */
const uint8_t *index_snapshot_find(const struct index_snapshot *snapshot, uint32_t uid);
/* 0 for an empty one. */
uint32_t index_snapshot_last_uid(const struct index_snapshot *snapshot);

struct index_snapshot_ext {
	const uint8_t *name; /* name_size bytes, no NUL inside */
	uint16_t name_size;
	uint32_t reset_id, hdr_size;
	uint16_t record_offset, record_size, record_align;
	const uint8_t *hdr;
};
/* Steps through the extension area; *pos begins at 0. 1: ext_r is filled. 0: the end. */
int index_snapshot_next_ext(const struct index_snapshot *snapshot, size_t *pos,
			    struct index_snapshot_ext *ext_r, struct error *err);

#endif
