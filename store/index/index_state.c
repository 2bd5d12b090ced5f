/*
 * The state that an index is in: extensions, keywords, and where each message's record is.
 *
 * A record is read from the snapshot until the log touches it; then it has a copy in the overlay.
 * The two have different layouts: the overlay only ever gets wider, an extension that outgrows its
 * place moves to the end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "store/index/index_private.h"

void index_state_init(struct index_state *state)
{
	memset(state, 0, sizeof(*state));
	index_overlay_init(&state->overlay);
	state->ext_modseq = -1;
	state->ext_keywords = -1;
	state->ext_current = -1;
}

void index_state_free(struct index_state *state)
{
	index_snapshot_close(&state->snapshot);
	index_overlay_free(&state->overlay);
	for (int i = 0; i < state->ext_count; i++) {
		free(state->exts[i].name);
		free(state->exts[i].hdr);
	}
	free(state->exts);
	for (unsigned i = 0; i < state->keyword_count; i++)
		free(state->keywords[i]);
	free(state->keywords);
	index_late_free(&state->late);
	index_state_init(state);
}

void index_state_set_empty(struct index_state *state, uint32_t indexid)
{
	uint8_t *hdr = state->hdr;

	memset(hdr, 0, sizeof(state->hdr));
	hdr[HDR_MAJOR] = INDEX_MAJOR_VERSION;
	hdr[HDR_MINOR] = INDEX_MINOR_VERSION;
	index_put16(hdr + HDR_BASE_SIZE, INDEX_HDR_SIZE);
	index_put32(hdr + HDR_SIZE, INDEX_HDR_SIZE);
	index_put32(hdr + HDR_RECORD_SIZE, 8);
	hdr[HDR_COMPAT] = INDEX_COMPAT_LITTLE_ENDIAN;
	index_put32(hdr + HDR_INDEXID, indexid);
	index_put32(hdr + HDR_NEXT_UID, 1);
	index_put32(hdr + HDR_FIRST_RECENT_UID, 1);
}

int index_state_ext_find(const struct index_state *state, const uint8_t *name, size_t name_size)
{
	for (int i = 0; i < state->ext_count; i++) {
		if (strlen(state->exts[i].name) == name_size &&
		    memcmp(state->exts[i].name, name, name_size) == 0)
			return i;
	}
	return -1;
}

int index_state_ext_add(struct index_state *state, const uint8_t *name, size_t name_size)
{
	struct index_extension *exts, *ext;

	if ((unsigned)state->ext_count >= INDEX_EXT_MAX)
		return -EUCLEAN;
	exts = reallocarray(state->exts, (size_t)state->ext_count + 1, sizeof(*exts));
	if (exts == NULL)
		return -ENOMEM;
	state->exts = exts;
	ext = &exts[state->ext_count];
	memset(ext, 0, sizeof(*ext));
	ext->name = strndup((const char *)name, name_size);
	if (ext->name == NULL)
		return -ENOMEM;
	if (strcmp(ext->name, "modseq") == 0)
		state->ext_modseq = state->ext_count;
	if (strcmp(ext->name, "keywords") == 0)
		state->ext_keywords = state->ext_count;
	return state->ext_count++;
}

/* Makes the bytes zero in every record. */
static void overlay_clear(struct index_overlay *overlay, uint32_t offset, uint32_t size)
{
	const struct index_pool *pools[] = {&overlay->modified, &overlay->appended};

	for (unsigned i = 0; i < 2; i++) {
		for (uint32_t pos = 0; pos < pools[i]->count; pos++)
			memset(index_pool_at(overlay, pools[i], pos) + offset, 0, size);
	}
}

/* Gives the extension a place of `size` bytes in the overlay's records and moves what they hold. */
static int ext_place_in_overlay(struct index_state *state, struct index_extension *ext,
				uint32_t size)
{
	struct index_overlay *overlay = &state->overlay;
	const struct index_pool *pools[] = {&overlay->modified, &overlay->appended};
	const uint32_t offset = overlay->stride;
	int ret;

	if (size <= ext->overlay_capacity)
		return 0;
	ret = index_overlay_widen(overlay, size);
	if (ret < 0)
		return ret;
	for (unsigned i = 0; ext->overlay_capacity > 0 && i < 2; i++) {
		for (uint32_t pos = 0; pos < pools[i]->count; pos++) {
			uint8_t *record = index_pool_at(overlay, pools[i], pos);

			memcpy(record + offset, record + ext->overlay_offset,
			       ext->overlay_capacity);
		}
	}
	ext->overlay_offset = offset;
	ext->overlay_capacity = size;
	return 0;
}

int index_state_ext_resize(struct index_state *state, int ext_id, uint32_t hdr_size,
			   uint32_t record_size)
{
	struct index_extension *ext = &state->exts[ext_id];
	uint8_t *hdr;
	int ret;

	if (hdr_size > INDEX_EXT_HDR_MAX || record_size > INDEX_EXT_RECORD_MAX)
		return -EUCLEAN;
	if (hdr_size > ext->hdr_size) {
		hdr = realloc(ext->hdr, hdr_size);
		if (hdr == NULL)
			return -ENOMEM;
		memset(hdr + ext->hdr_size, 0, hdr_size - ext->hdr_size);
		ext->hdr = hdr;
	}
	ext->hdr_size = hdr_size;
	if (record_size > ext->record_size) {
		ret = ext_place_in_overlay(state, ext, record_size);
		if (ret < 0)
			return ret;
	}
	/* What is cut off must not come back when it grows again. */
	if (record_size < ext->record_size)
		overlay_clear(&state->overlay, ext->overlay_offset + record_size,
			      ext->record_size - record_size);
	if (ext->snapshot_size > record_size)
		ext->snapshot_size = (uint16_t)record_size;
	ext->record_size = (uint16_t)record_size;
	return 0;
}

void index_state_ext_clear(struct index_state *state, int ext_id)
{
	struct index_extension *ext = &state->exts[ext_id];

	if (ext->hdr_size > 0)
		memset(ext->hdr, 0, ext->hdr_size);
	ext->snapshot_size = 0;
	if (ext->overlay_capacity > 0)
		overlay_clear(&state->overlay, ext->overlay_offset, ext->overlay_capacity);
}

static int keyword_add(struct index_state *state, const uint8_t *name, size_t name_size)
{
	char **keywords;

	if (state->keyword_count >= INDEX_KEYWORD_MAX)
		return -EUCLEAN;
	keywords = reallocarray(state->keywords, state->keyword_count + 1, sizeof(*keywords));
	if (keywords == NULL)
		return -ENOMEM;
	state->keywords = keywords;
	keywords[state->keyword_count] = strndup((const char *)name, name_size);
	if (keywords[state->keyword_count] == NULL)
		return -ENOMEM;
	state->keyword_count++;
	return 0;
}

int index_state_keyword(struct index_state *state, const uint8_t *name, size_t name_size,
			unsigned *keyword_r)
{
	uint32_t bytes;
	int ret;

	for (unsigned i = 0; i < state->keyword_count; i++) {
		if (strlen(state->keywords[i]) == name_size &&
		    strncasecmp(state->keywords[i], (const char *)name, name_size) == 0) {
			*keyword_r = i;
			return 0;
		}
	}
	if (state->ext_keywords < 0) {
		ret = index_state_ext_add(state, (const uint8_t *)"keywords", 8);
		if (ret < 0)
			return ret;
		state->exts[ret].record_align = 1;
	}
	ret = keyword_add(state, name, name_size);
	if (ret < 0)
		return ret;
	bytes = (state->keyword_count + 7) / 8;
	if (bytes > state->exts[state->ext_keywords].record_size) {
		ret = index_state_ext_resize(state, state->ext_keywords,
					     state->exts[state->ext_keywords].hdr_size, bytes);
		if (ret < 0)
			return ret;
	}
	*keyword_r = state->keyword_count - 1;
	return 0;
}

static int snapshot_keywords(struct index_state *state, const struct index_snapshot_ext *ext,
			     struct error *err)
{
	const uint8_t *names;
	uint32_t count, names_size;
	int ret;

	if (ext->hdr_size < 4)
		return 0;
	count = index_get32(ext->hdr);
	if (count > INDEX_KEYWORD_MAX || count > (ext->hdr_size - 4) / 8)
		return error_set(err, -EUCLEAN, "%s: damaged: %u keywords in a header of %u bytes",
				 state->snapshot.name, count, ext->hdr_size);
	if (count > ext->record_size * 8U)
		return error_set(err, -EUCLEAN, "%s: damaged: %u keywords in records of %u bytes",
				 state->snapshot.name, count, ext->record_size);
	names = ext->hdr + 4 + (size_t)count * 8;
	names_size = ext->hdr_size - 4 - count * 8;
	for (uint32_t i = 0; i < count; i++) {
		uint32_t offset = index_get32(ext->hdr + 4 + (size_t)i * 8 + 4);
		const uint8_t *end = NULL;

		if (offset < names_size)
			end = memchr(names + offset, '\0', names_size - offset);
		if (end == NULL || end == names + offset ||
		    (size_t)(end - names) - offset > INDEX_KEYWORD_NAME_MAX)
			return error_set(err, -EUCLEAN, "%s: damaged: the name of keyword %u",
					 state->snapshot.name, i);
		ret = keyword_add(state, names + offset, (size_t)(end - names) - offset);
		if (ret < 0)
			return error_errno(err, ret, "%s: keywords", state->snapshot.name);
	}
	return 0;
}

static int snapshot_ext(struct index_state *state, const struct index_snapshot_ext *from,
			struct error *err)
{
	struct index_extension *ext;
	int id, ret;

	if (index_state_ext_find(state, from->name, from->name_size) >= 0)
		return error_set(err, -EUCLEAN, "%s: damaged: the extension %.*s is there twice",
				 state->snapshot.name, from->name_size, (const char *)from->name);
	id = index_state_ext_add(state, from->name, from->name_size);
	ret = id < 0 ? id : index_state_ext_resize(state, id, from->hdr_size, from->record_size);
	if (ret < 0)
		return error_errno(err, ret, "%s: the extension %.*s", state->snapshot.name,
				   from->name_size, (const char *)from->name);
	ext = &state->exts[id];
	ext->reset_id = from->reset_id;
	ext->record_align = from->record_align;
	ext->snapshot_offset = from->record_offset;
	ext->snapshot_size = from->record_size;
	if (from->hdr_size > 0)
		memcpy(ext->hdr, from->hdr, from->hdr_size);
	return id == state->ext_keywords ? snapshot_keywords(state, from, err) : 0;
}

int index_state_set_snapshot(struct index_state *state, struct index_snapshot *snapshot,
			     struct error *err)
{
	struct index_snapshot_ext ext;
	size_t pos = 0;
	int ret;

	state->snapshot = *snapshot;
	memset(snapshot, 0, sizeof(*snapshot));
	memcpy(state->hdr, state->snapshot.data, INDEX_HDR_SIZE);
	state->messages = state->snapshot.count;
	while ((ret = index_snapshot_next_ext(&state->snapshot, &pos, &ext, err)) > 0) {
		ret = snapshot_ext(state, &ext, err);
		if (ret < 0)
			break;
	}
	if (ret == 0 && state->ext_modseq >= 0 && state->exts[state->ext_modseq].hdr_size >= 8)
		state->modseq_floor = index_get64(state->exts[state->ext_modseq].hdr);
	return ret;
}

void index_state_locate(const struct index_state *state, uint32_t uid, const uint8_t **snapshot_r,
			const uint8_t **overlay_r)
{
	const uint8_t *record;

	*snapshot_r = NULL;
	*overlay_r = NULL;
	if (uid > index_snapshot_last_uid(&state->snapshot))
		record = index_overlay_find_appended(&state->overlay, uid);
	else
		record = index_overlay_find_modified(&state->overlay, uid);
	if (record != NULL) {
		if (record[OVERLAY_EXPUNGED] == 0)
			*overlay_r = record;
		return;
	}
	*snapshot_r = index_snapshot_find(&state->snapshot, uid);
}

const uint8_t *index_state_ext_data(const struct index_state *state, int ext_id,
				    const uint8_t *snapshot_record, const uint8_t *overlay_record,
				    uint32_t *size_r)
{
	const struct index_extension *ext = ext_id < 0 ? NULL : &state->exts[ext_id];

	*size_r = 0;
	if (ext == NULL)
		return NULL;
	if (overlay_record != NULL && ext->record_size > 0) {
		*size_r = ext->record_size;
		return overlay_record + ext->overlay_offset;
	}
	if (overlay_record == NULL && snapshot_record != NULL && ext->snapshot_size > 0) {
		*size_r = ext->snapshot_size;
		return snapshot_record + ext->snapshot_offset;
	}
	return NULL;
}

static uint8_t *touch_snapshot_record(struct index_state *state, const uint8_t *record)
{
	uint32_t uid = index_get32(record);
	uint8_t *copy = index_overlay_find_modified(&state->overlay, uid);

	if (copy != NULL)
		return copy;
	copy = index_overlay_add_modified(&state->overlay, uid);
	if (copy == NULL)
		return NULL;
	copy[OVERLAY_FLAGS] = record[4];
	for (int i = 0; i < state->ext_count; i++) {
		const struct index_extension *ext = &state->exts[i];

		if (ext->snapshot_size > 0)
			memcpy(copy + ext->overlay_offset, record + ext->snapshot_offset,
			       ext->snapshot_size);
	}
	return copy;
}

int index_state_touch(struct index_state *state, uint32_t uid, uint8_t **record_r)
{
	uint8_t *record;

	*record_r = NULL;
	if (uid > index_snapshot_last_uid(&state->snapshot)) {
		record = index_overlay_find_appended(&state->overlay, uid);
	} else {
		const uint8_t *from = index_snapshot_find(&state->snapshot, uid);

		if (from == NULL)
			return 0;
		record = touch_snapshot_record(state, from);
		if (record == NULL)
			return -ENOMEM;
	}
	if (record != NULL && record[OVERLAY_EXPUNGED] == 0)
		*record_r = record;
	return 0;
}

int index_state_touch_range(struct index_state *state, uint32_t first, uint32_t last,
			    index_state_touch_fn *fn, const void *ctx)
{
	const struct index_overlay *overlay = &state->overlay;
	uint32_t pos = index_snapshot_lower_bound(&state->snapshot, first);

	for (; pos < state->snapshot.count; pos++) {
		const uint8_t *from = index_snapshot_record(&state->snapshot, pos);
		uint8_t *record;

		if (index_get32(from) > last)
			return 0;
		record = touch_snapshot_record(state, from);
		if (record == NULL)
			return -ENOMEM;
		if (record[OVERLAY_EXPUNGED] == 0)
			fn(state, record, ctx);
	}
	pos = index_overlay_lower_bound(overlay, first);
	for (; pos < overlay->appended.count; pos++) {
		uint8_t *record = index_pool_at(overlay, &overlay->appended, pos);

		if (index_get32(record) > last)
			return 0;
		if (record[OVERLAY_EXPUNGED] == 0)
			fn(state, record, ctx);
	}
	return 0;
}

uint64_t index_state_modseq(const struct index_state *state, const uint8_t *snapshot_record,
			    const uint8_t *overlay_record)
{
	uint64_t modseq = 0;
	uint32_t size;
	const uint8_t *data;

	if (state->ext_modseq < 0)
		return state->counter.modseq;
	data = index_state_ext_data(state, state->ext_modseq, snapshot_record, overlay_record,
				    &size);
	if (size >= 8)
		modseq = index_get64(data);
	return modseq != 0 ? modseq : state->modseq_floor;
}

/* ---- marks ---- */

#define MARK_DISTANCE 4096

static void thin_out_marks(struct index_marks *marks)
{
	for (unsigned i = 0; i < INDEX_MARKS_MAX / 2; i++)
		marks->mark[i] = marks->mark[2 * i];
	marks->count = INDEX_MARKS_MAX / 2;
	marks->distance *= 2;
}

void index_state_pass(struct index_state *state, uint32_t file_seq, uint64_t offset)
{
	struct index_marks *marks = &state->marks;

	/* A log that does not count yet has no modseqs to be found by. */
	if (!state->counter.counting)
		return;
	if (marks->file_seq != file_seq) {
		marks->file_seq = file_seq;
		marks->count = 0;
		marks->distance = MARK_DISTANCE;
	}
	if (marks->count > 0 && offset < marks->mark[marks->count - 1].offset + marks->distance)
		return;
	if (marks->count == INDEX_MARKS_MAX)
		thin_out_marks(marks);
	marks->mark[marks->count].offset = offset;
	marks->mark[marks->count++].modseq = state->counter.modseq;
}

bool index_state_mark(const struct index_state *state, uint32_t file_seq, uint64_t modseq,
		      uint64_t *offset_r, uint64_t *modseq_r)
{
	const struct index_marks *marks = &state->marks;
	unsigned count = marks->file_seq == file_seq ? marks->count : 0;

	while (count > 0 && marks->mark[count - 1].modseq > modseq)
		count--;
	if (count == 0)
		return false;
	*offset_r = marks->mark[count - 1].offset;
	*modseq_r = marks->mark[count - 1].modseq;
	return true;
}
