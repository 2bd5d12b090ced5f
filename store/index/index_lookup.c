/*
 * Looking messages up in a view: by uid, in order, their keywords and extension data.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "store/index/index_private.h"

static void record_fill(const struct index *index, const uint8_t *snapshot_record,
			const uint8_t *overlay_record, struct index_record *record_r)
{
	const struct index_state *state = &index->state;
	const uint8_t *record = overlay_record != NULL ? overlay_record : snapshot_record;
	uint32_t keywords_size;

	assert(record != NULL);
	record_r->uid = index_get32(record);
	record_r->flags = record[OVERLAY_FLAGS]; /* at the same place in both */
	record_r->modseq = index_state_modseq(state, snapshot_record, overlay_record);
	record_r->keywords = index_state_ext_data(state, state->ext_keywords, snapshot_record,
						  overlay_record, &keywords_size);
	record_r->keywords_size = keywords_size;
	record_r->priv[0] = snapshot_record;
	record_r->priv[1] = overlay_record;
}

int index_find(const struct index *index, uint32_t uid, struct index_record *record_r)
{
	const uint8_t *snapshot_record, *overlay_record;

	index_state_locate(&index->state, uid, &snapshot_record, &overlay_record);
	if (snapshot_record == NULL && overlay_record == NULL)
		return -ENOENT;
	record_fill(index, snapshot_record, overlay_record, record_r);
	return 0;
}

int index_find_from(const struct index *index, uint32_t uid, struct index_record *record_r)
{
	struct index_iter iter;

	index_iter_init(index, uid, &iter);
	return index_iter_next(&iter, record_r) ? 0 : -ENOENT;
}

void index_iter_init(const struct index *index, uint32_t first_uid, struct index_iter *iter_r)
{
	iter_r->index = index;
	iter_r->last_uid = 0;
	iter_r->failed = 0;
	iter_r->snapshot_pos = index_snapshot_lower_bound(&index->state.snapshot, first_uid);
	iter_r->appended_pos = index_overlay_lower_bound(&index->state.overlay, first_uid);
}

static bool iter_next_snapshot(struct index_iter *iter, struct index_record *record_r)
{
	const struct index_state *state = &iter->index->state;

	while (iter->snapshot_pos < state->snapshot.count) {
		const uint8_t *record =
			index_snapshot_record(&state->snapshot, iter->snapshot_pos++);
		uint32_t uid = index_get32(record);
		const uint8_t *copy = index_overlay_find_modified(&state->overlay, uid);

		if (uid <= iter->last_uid) {
			iter->failed = -EUCLEAN;
			return false;
		}
		iter->last_uid = uid;
		if (copy != NULL && copy[OVERLAY_EXPUNGED] != 0)
			continue;
		record_fill(iter->index, record, copy, record_r);
		return true;
	}
	return false;
}

bool index_iter_next(struct index_iter *iter, struct index_record *record_r)
{
	const struct index_overlay *overlay = &iter->index->state.overlay;

	if (iter_next_snapshot(iter, record_r))
		return true;
	while (iter->failed == 0 && iter->appended_pos < overlay->appended.count) {
		const uint8_t *record =
			index_pool_at(overlay, &overlay->appended, iter->appended_pos++);

		if (record[OVERLAY_EXPUNGED] != 0)
			continue;
		record_fill(iter->index, NULL, record, record_r);
		return true;
	}
	return false;
}

unsigned index_keyword_count(const struct index *index)
{
	return index->state.keyword_count;
}

const char *index_keyword_name(const struct index *index, unsigned keyword)
{
	return keyword < index->state.keyword_count ? index->state.keywords[keyword] : NULL;
}

int index_keyword_find(const struct index *index, const char *name, unsigned *keyword_r)
{
	for (unsigned i = 0; i < index->state.keyword_count; i++) {
		if (strcasecmp(index->state.keywords[i], name) == 0) {
			*keyword_r = i;
			return 0;
		}
	}
	return -ENOENT;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

unsigned index_record_keywords(const struct index *index, const struct index_record *record,
			       const char **names, unsigned max)
{
	unsigned count = 0, filled;

	for (unsigned byte = 0; byte < record->keywords_size; byte++) {
		for (unsigned bit = 0; record->keywords[byte] >> bit != 0; bit++) {
			const char *name = index_keyword_name(index, byte * 8 + bit);

			if ((record->keywords[byte] >> bit & 1) == 0 || name == NULL)
				continue;
			if (count < max)
				names[count] = name;
			count++;
		}
	}
	filled = count < max ? count : max;
	if (filled > 1)
		qsort(names, filled, sizeof(*names), compare_names);
	return count;
}

static void ext_fill(const struct index_extension *ext, struct index_ext *ext_r)
{
	ext_r->name = ext->name;
	ext_r->reset_id = ext->reset_id;
	ext_r->hdr_size = ext->hdr_size;
	ext_r->record_size = ext->record_size;
	ext_r->record_align = ext->record_align;
	ext_r->hdr = ext->hdr;
}

int index_ext_find(const struct index *index, const char *name, struct index_ext *ext_r)
{
	int id = index_state_ext_find(&index->state, (const uint8_t *)name, strlen(name));

	if (id < 0)
		return -ENOENT;
	ext_fill(&index->state.exts[id], ext_r);
	return 0;
}

int index_record_ext(const struct index *index, const struct index_record *record, const char *name,
		     void *data, size_t size)
{
	int id = index_state_ext_find(&index->state, (const uint8_t *)name, strlen(name));
	const uint8_t *from;
	uint32_t from_size;

	memset(data, 0, size);
	if (id < 0)
		return -ENOENT;
	from = index_state_ext_data(&index->state, id, record->priv[0], record->priv[1],
				    &from_size);
	if (from != NULL)
		memcpy(data, from, from_size < size ? from_size : size);
	return 0;
}

bool index_ext_is_sound(const struct index *index, const char *name, uint32_t hdr_size,
			uint16_t record_size)
{
	struct index_ext ext;

	return index_ext_find(index, name, &ext) < 0 ||
	       (ext.reset_id == 0 && ext.hdr_size >= hdr_size && ext.record_size == record_size);
}
