/*
 * Pools of touched records, and the hash over those that come from the snapshot.
 */
#include "store/index/index_overlay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/index/index.h"

#define TABLE_FIRST_SIZE 64U
/* No mailbox needs more; a hostile log might. */
#define POOL_BYTES_MAX (1UL << 30)

void index_overlay_init(struct index_overlay *overlay)
{
	memset(overlay, 0, sizeof(*overlay));
	overlay->stride = OVERLAY_DATA;
}

void index_overlay_free(struct index_overlay *overlay)
{
	free(overlay->modified.data);
	free(overlay->appended.data);
	free(overlay->table);
	index_overlay_init(overlay);
}

static int pool_widen(struct index_pool *pool, uint32_t stride, uint32_t more)
{
	const size_t wide = (size_t)stride + more;
	uint8_t *grown;

	if (pool->allocated == 0)
		return 0;
	if (pool->allocated > POOL_BYTES_MAX / wide)
		return -ENOMEM;
	grown = realloc(pool->data, pool->allocated * wide);
	if (grown == NULL)
		return -ENOMEM;
	pool->data = grown;
	for (uint32_t pos = pool->count; pos-- > 0;) {
		memmove(grown + pos * wide, grown + (size_t)pos * stride, stride);
		memset(grown + pos * wide + stride, 0, more);
	}
	return 0;
}

int index_overlay_widen(struct index_overlay *overlay, uint32_t more)
{
	struct index_pool *modified = &overlay->modified;

	/* The two have one stride, so neither may be widened alone: an empty one costs nothing, and
	 * when the second one fails the view is given up as a whole. */
	if (pool_widen(modified, overlay->stride, more) < 0 ||
	    pool_widen(&overlay->appended, overlay->stride, more) < 0) {
		index_overlay_free(overlay);
		return -ENOMEM;
	}
	overlay->stride += more;
	return 0;
}

static uint8_t *pool_add(const struct index_overlay *overlay, struct index_pool *pool, uint32_t uid)
{
	uint8_t *record;

	if (pool->count == pool->allocated) {
		uint32_t allocated = pool->allocated == 0 ? 16 : pool->allocated * 2;
		uint8_t *grown;

		if (allocated > POOL_BYTES_MAX / overlay->stride)
			return NULL;
		grown = realloc(pool->data, (size_t)allocated * overlay->stride);
		if (grown == NULL)
			return NULL;
		pool->data = grown;
		pool->allocated = allocated;
	}
	record = index_pool_at(overlay, pool, pool->count++);
	memset(record, 0, overlay->stride);
	index_put32(record + OVERLAY_UID, uid);
	return record;
}

static uint32_t table_slot(uint32_t table_size, uint32_t uid)
{
	/* Multiplication by the golden ratio spreads neighbouring uids; the table is a power of 2.
	 */
	return (uint32_t)((uid * 0x9e3779b97f4a7c15ULL) >> 32) & (table_size - 1);
}

static void table_insert(const struct index_overlay *overlay, uint32_t *table, uint32_t table_size,
			 uint32_t pos)
{
	const uint8_t *record = index_pool_at(overlay, &overlay->modified, pos);
	uint32_t slot = table_slot(table_size, index_get32(record + OVERLAY_UID));

	while (table[slot] != 0)
		slot = (slot + 1) & (table_size - 1);
	table[slot] = pos + 1;
}

static int table_reserve(struct index_overlay *overlay)
{
	uint32_t size = overlay->table_size == 0 ? TABLE_FIRST_SIZE : overlay->table_size * 2;
	uint32_t *table;

	if ((uint64_t)(overlay->modified.count + 1) * 4 <= (uint64_t)overlay->table_size * 3)
		return 0;
	table = calloc(size, sizeof(*table));
	if (table == NULL)
		return -ENOMEM;
	for (uint32_t pos = 0; pos < overlay->modified.count; pos++)
		table_insert(overlay, table, size, pos);
	free(overlay->table);
	overlay->table = table;
	overlay->table_size = size;
	return 0;
}

uint8_t *index_overlay_find_modified(const struct index_overlay *overlay, uint32_t uid)
{
	uint32_t slot;

	if (overlay->modified.count == 0)
		return NULL;
	slot = table_slot(overlay->table_size, uid);
	while (overlay->table[slot] != 0) {
		uint8_t *record =
			index_pool_at(overlay, &overlay->modified, overlay->table[slot] - 1);

		if (index_get32(record + OVERLAY_UID) == uid)
			return record;
		slot = (slot + 1) & (overlay->table_size - 1);
	}
	return NULL;
}

uint8_t *index_overlay_add_modified(struct index_overlay *overlay, uint32_t uid)
{
	uint8_t *record;

	if (table_reserve(overlay) < 0)
		return NULL;
	record = pool_add(overlay, &overlay->modified, uid);
	if (record != NULL)
		table_insert(overlay, overlay->table, overlay->table_size,
			     overlay->modified.count - 1);
	return record;
}

uint32_t index_overlay_lower_bound(const struct index_overlay *overlay, uint32_t uid)
{
	uint32_t low = 0, high = overlay->appended.count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;
		const uint8_t *record = index_pool_at(overlay, &overlay->appended, middle);

		if (index_get32(record + OVERLAY_UID) < uid)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

uint8_t *index_overlay_find_appended(const struct index_overlay *overlay, uint32_t uid)
{
	uint32_t pos = index_overlay_lower_bound(overlay, uid);
	uint8_t *record;

	if (pos == overlay->appended.count)
		return NULL;
	record = index_pool_at(overlay, &overlay->appended, pos);
	return index_get32(record + OVERLAY_UID) == uid ? record : NULL;
}

uint8_t *index_overlay_add_appended(struct index_overlay *overlay, uint32_t uid)
{
	return pool_add(overlay, &overlay->appended, uid);
}
