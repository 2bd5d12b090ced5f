/*
 * What each kind of log record does to the state (reference 3.2, 3.5, 3.6, 3.7).
 *
 * Records about uids that are not there are ignored, as Dovecot does. -EUCLEAN only for what makes
 * the rest of the log unreadable.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "store/index/index_private.h"

struct change {
	const struct index_log_record *record;
	struct index_log_range range;
	unsigned keyword;
	bool add;
};

static int apply_failed(const struct index *index, const struct index_log_record *record, int ret,
			struct error *err)
{
	if (ret == -ENOMEM)
		return error_set(err, ret, "%s: offset %" PRIu64 ": out of memory", index->log.name,
				 record->offset);
	return index_log_damaged(&index->log, record->offset, err,
				 "more extensions, keywords or bytes than an index can have");
}

/* Never lowers. */
static void raise_modseq(const struct index_state *state, uint8_t *message, uint64_t modseq)
{
	const struct index_extension *ext;

	if (state->ext_modseq < 0)
		return;
	ext = &state->exts[state->ext_modseq];
	if (ext->record_size >= 8 && modseq > index_state_modseq(state, NULL, message))
		index_put64(message + ext->overlay_offset, modseq);
}

static int apply_append(struct index *index, const struct index_log_record *record,
			struct error *err)
{
	struct index_state *state = &index->state;

	for (uint32_t pos = 0; pos < record->size; pos += 8) {
		uint32_t uid = index_get32(record->data + pos);
		uint32_t next_uid = index_get32(state->hdr + HDR_NEXT_UID);
		uint8_t *message;

		if (uid < next_uid || uid == UINT32_MAX)
			return index_log_damaged(&index->log, record->offset, err,
						 "uid %u is appended while the next uid is %u", uid,
						 next_uid);
		message = index_overlay_add_appended(&state->overlay, uid);
		if (message == NULL)
			return apply_failed(index, record, -ENOMEM, err);
		message[OVERLAY_FLAGS] = record->data[pos + 4];
		raise_modseq(state, message, record->modseq);
		index_late_see_append(&state->late, record, uid);
		index_put32(state->hdr + HDR_NEXT_UID, uid + 1);
		state->messages++;
	}
	return 0;
}

static void expunge_message(struct index_state *state, uint8_t *message, const void *ctx)
{
	(void)ctx;
	message[OVERLAY_EXPUNGED] = 1;
	state->messages--;
}

static int see_requests(struct index_state *state, const struct index_log_record *record)
{
	uint32_t pos = 0, uid;
	struct guid guid;
	int ret = 0;

	while (record->kind == LOG_EXPUNGE_GUID && ret == 0 &&
	       index_log_next_expunge_guid(record, &pos, &uid, &guid))
		ret = index_late_see_request(&state->late, uid, &guid);
	return ret;
}

static int apply_expunge(struct index *index, const struct index_log_record *record)
{
	struct index_state *state = &index->state;
	struct index_log_range range;
	uint32_t pos = 0, uid;
	struct guid guid;
	int ret = 0;

	if (!record->external) /* a request: whoever carries it out writes the external one */
		return see_requests(state, record);
	if (record->kind == LOG_EXPUNGE) {
		while (ret == 0 && index_log_next_range(record, &pos, &range))
			ret = index_state_touch_range(state, range.first, range.last,
						      expunge_message, NULL);
		return ret;
	}
	while (ret == 0 && index_log_next_expunge_guid(record, &pos, &uid, &guid)) {
		uint8_t *message;

		ret = index_state_touch(state, uid, &message);
		if (message != NULL)
			expunge_message(state, message, NULL);
		if (message != NULL && ret == 0)
			ret = index_late_see_expunge(&state->late, record, uid, &guid);
	}
	return ret;
}

static void change_flags(struct index_state *state, uint8_t *message, const void *ctx)
{
	const struct change *change = ctx;

	message[OVERLAY_FLAGS] =
		(uint8_t)((message[OVERLAY_FLAGS] & ~change->range.remove) | change->range.add);
	if (change->range.counted)
		raise_modseq(state, message, change->record->modseq);
}

static int apply_flags(struct index *index, const struct index_log_record *record)
{
	struct change change = {.record = record};
	uint32_t pos = 0;
	int ret = 0;

	while (ret == 0 && index_log_next_range(record, &pos, &change.range))
		ret = index_state_touch_range(&index->state, change.range.first, change.range.last,
					      change_flags, &change);
	return ret;
}

static void change_keyword(struct index_state *state, uint8_t *message, const void *ctx)
{
	const struct change *change = ctx;
	const struct index_extension *ext = &state->exts[state->ext_keywords];
	uint8_t *byte = message + ext->overlay_offset + change->keyword / 8;
	uint8_t bit = (uint8_t)(1U << (change->keyword % 8));

	*byte = (uint8_t)(change->add ? *byte | bit : *byte & ~bit);
	raise_modseq(state, message, change->record->modseq);
}

static int apply_keyword(struct index *index, const struct index_log_record *record)
{
	struct change change = {.record = record};
	struct index_log_keyword keyword;
	uint32_t pos;
	int ret;

	index_log_get_keyword(record, &keyword);
	change.add = keyword.add;
	ret = index_state_keyword(&index->state, keyword.name, keyword.name_size, &change.keyword);
	pos = keyword.ranges_pos;
	while (ret == 0 && index_log_next_range(record, &pos, &change.range))
		ret = index_state_touch_range(&index->state, change.range.first, change.range.last,
					      change_keyword, &change);
	return ret;
}

static void reset_keywords(struct index_state *state, uint8_t *message, const void *ctx)
{
	const struct index_log_record *record = ctx;

	if (state->ext_keywords >= 0) {
		const struct index_extension *ext = &state->exts[state->ext_keywords];

		memset(message + ext->overlay_offset, 0, ext->record_size);
	}
	raise_modseq(state, message, record->modseq);
}

static int apply_keyword_reset(struct index *index, const struct index_log_record *record)
{
	struct index_log_range range;
	uint32_t pos = 0;
	int ret = 0;

	while (ret == 0 && index_log_next_range(record, &pos, &range))
		ret = index_state_touch_range(&index->state, range.first, range.last,
					      reset_keywords, record);
	return ret;
}

static int apply_modseq(struct index *index, const struct index_log_record *record)
{
	uint64_t modseq;
	uint32_t pos = 0, uid;
	uint8_t *message;
	int ret;

	while (index_log_next_modseq(record, &pos, &uid, &modseq)) {
		if (uid == 0 || index->state.ext_modseq < 0)
			continue;
		ret = index_state_touch(&index->state, uid, &message);
		if (ret < 0)
			return ret;
		if (message != NULL)
			raise_modseq(&index->state, message, modseq);
	}
	return 0;
}

static int apply_header(struct index *index, const struct index_log_record *record,
			struct error *err)
{
	struct index_state *state = &index->state;
	const uint64_t end = record->offset + LOG_RECORD_HDR + record->size;
	uint32_t pos = 0, offset, size;
	const uint8_t *data;

	while (index_log_next_header(record, &pos, &offset, &size, &data)) {
		uint32_t next_uid = index_get32(state->hdr + HDR_NEXT_UID);

		if (offset > INDEX_HDR_SIZE || size > INDEX_HDR_SIZE - offset)
			return index_log_damaged(&index->log, record->offset, err,
						 "a header update of bytes %u to %u", offset,
						 offset + size);
		memcpy(state->hdr + offset, data, size);
		if (index_get32(state->hdr + HDR_NEXT_UID) < next_uid)
			index_put32(state->hdr + HDR_NEXT_UID, next_uid);
		if (offset <= HDR_LOG_TAIL && offset + size >= HDR_LOG_TAIL + 4) {
			uint64_t tail = index_get32(state->hdr + HDR_LOG_TAIL);

			if (tail > state->tail)
				state->tail = tail < end ? tail : end;
		}
	}
	return 0;
}

static int apply_intro_one(struct index *index, const struct index_log_record *record,
			   const struct index_log_intro *intro, struct error *err)
{
	struct index_state *state = &index->state;
	const bool by_name = intro->ext_id == UINT32_MAX;
	struct index_extension *ext;
	uint32_t hdr_size = intro->hdr_size, record_size = intro->record_size;
	int id, ret;
	bool created;

	id = by_name ? index_state_ext_find(state, intro->name, intro->name_size)
		     : (int)(intro->ext_id & INT32_MAX);
	if (!by_name && (intro->ext_id > INT32_MAX || id >= state->ext_count))
		return index_log_damaged(&index->log, record->offset, err,
					 "the extension number %u is not known", intro->ext_id);
	created = id < 0;
	if (created)
		id = index_state_ext_add(state, intro->name, intro->name_size);
	if (id < 0)
		return apply_failed(index, record, id, err);
	ext = &state->exts[id];
	if (created) {
		ext->reset_id = intro->reset_id;
		ext->record_align = intro->record_align;
	}
	state->ext_current = id;
	state->ext_record_size = intro->record_size;
	/* Keywords have records of their own; nobody introduces them. */
	state->ext_ignored = ext->reset_id != intro->reset_id || id == state->ext_keywords;
	if (state->ext_ignored)
		return 0;
	if ((intro->flags & LOG_EXT_NO_SHRINK) != 0) {
		hdr_size = hdr_size > ext->hdr_size ? hdr_size : ext->hdr_size;
		record_size = record_size > ext->record_size ? record_size : ext->record_size;
	}
	ret = index_state_ext_resize(state, id, hdr_size, record_size);
	if (ret < 0)
		return apply_failed(index, record, ret, err);
	if (intro->record_align != 0)
		ext->record_align = intro->record_align;
	if (created && id == state->ext_modseq) {
		state->modseq_floor = record->modseq;
		state->modseq_floor_open = true;
	}
	return 0;
}

static int apply_intro(struct index *index, const struct index_log_record *record,
		       struct error *err)
{
	struct index_log_intro intro;
	uint32_t pos = 0;
	int ret = 0;

	while (ret == 0 && index_log_next_intro(record, &pos, &intro))
		ret = apply_intro_one(index, record, &intro, err);
	return ret;
}

static int apply_ext_reset(struct index *index, const struct index_log_record *record)
{
	struct index_state *state = &index->state;

	if (record->size < 4 || state->ext_ignored)
		return 0;
	state->exts[state->ext_current].reset_id = index_get32(record->data);
	if (record->size < 5 || record->data[4] != 1)
		index_state_ext_clear(state, state->ext_current);
	return 0;
}

static int apply_ext_header(struct index *index, const struct index_log_record *record,
			    struct error *err)
{
	struct index_state *state = &index->state;
	struct index_extension *ext = &state->exts[state->ext_current];
	uint32_t pos = 0, offset, size;
	const uint8_t *data;

	while (index_log_next_header(record, &pos, &offset, &size, &data)) {
		if (state->ext_ignored)
			continue;
		if (offset > ext->hdr_size || size > ext->hdr_size - offset)
			return index_log_damaged(&index->log, record->offset, err,
						 "bytes %u to %u of the header of %s, which has %u",
						 offset, offset + size, ext->name, ext->hdr_size);
		if (size > 0)
			memcpy(ext->hdr + offset, data, size);
		if (state->ext_current == state->ext_modseq && state->modseq_floor_open &&
		    ext->hdr_size >= 8) {
			uint64_t floor = index_get64(ext->hdr);

			if (floor != 0 && floor < record->modseq)
				state->modseq_floor = floor;
			state->modseq_floor_open = false;
		}
	}
	return 0;
}

static int apply_ext_records(struct index *index, const struct index_log_record *record,
			     struct error *err)
{
	struct index_state *state = &index->state;
	const struct index_extension *ext = &state->exts[state->ext_current];
	uint32_t entry = (uint32_t)index_pad4(4 + (size_t)state->ext_record_size);
	uint32_t copy = state->ext_record_size < ext->record_size ? state->ext_record_size
								  : ext->record_size;
	int ret;

	if (state->ext_ignored)
		return 0;
	if (state->ext_record_size == 0 || record->size % entry != 0)
		return index_log_damaged(&index->log, record->offset, err,
					 "%u bytes of records of %u for the extension %s",
					 record->size, state->ext_record_size, ext->name);
	for (uint32_t pos = 0; pos < record->size; pos += entry) {
		uint32_t uid = index_get32(record->data + pos);
		uint8_t *message;

		if (uid == 0)
			return index_log_damaged(&index->log, record->offset, err,
						 "uid 0 in records of the extension %s", ext->name);
		ret = index_state_touch(state, uid, &message);
		if (ret < 0)
			return apply_failed(index, record, ret, err);
		if (message != NULL && copy > 0)
			memcpy(message + ext->overlay_offset, record->data + pos + 4, copy);
	}
	return 0;
}

static void add_to_value(uint8_t *data, uint32_t size, int32_t diff)
{
	uint64_t value = 0;

	for (uint32_t i = 0; i < size; i++)
		value |= (uint64_t)data[i] << (8 * i);
	value += (uint64_t)(int64_t)diff;
	for (uint32_t i = 0; i < size; i++)
		data[i] = (uint8_t)(value >> (8 * i));
}

static int apply_ext_inc(struct index *index, const struct index_log_record *record,
			 struct error *err)
{
	struct index_state *state = &index->state;
	const struct index_extension *ext = &state->exts[state->ext_current];
	uint32_t size = ext->record_size;
	int ret;

	if (state->ext_ignored)
		return 0;
	if (size != 1 && size != 2 && size != 4 && size != 8)
		return index_log_damaged(&index->log, record->offset, err,
					 "an addition to %s, whose records have %u bytes",
					 ext->name, size);
	for (uint32_t pos = 0; pos < record->size; pos += 8) {
		uint8_t *message;

		ret = index_state_touch(state, index_get32(record->data + pos), &message);
		if (ret < 0)
			return apply_failed(index, record, ret, err);
		if (message != NULL)
			add_to_value(message + ext->overlay_offset, size,
				     (int32_t)index_get32(record->data + pos + 4));
	}
	return 0;
}

static bool record_needs_ext(const struct index_log_record *record)
{
	switch (record->kind) {
	case LOG_EXT_RESET:
	case LOG_EXT_HDR_UPDATE:
	case LOG_EXT_HDR_UPDATE32:
	case LOG_EXT_REC_UPDATE:
	case LOG_EXT_ATOMIC_INC:
		return true;
	default:
		return false;
	}
}

static int apply_kind(struct index *index, const struct index_log_record *record, struct error *err)
{
	int ret = 0;

	switch (record->kind) {
	case LOG_APPEND:
		return apply_append(index, record, err);
	case LOG_EXPUNGE:
	case LOG_EXPUNGE_GUID:
		ret = apply_expunge(index, record);
		break;
	case LOG_FLAG_UPDATE:
		ret = apply_flags(index, record);
		break;
	case LOG_KEYWORD_UPDATE:
		ret = apply_keyword(index, record);
		break;
	case LOG_KEYWORD_RESET:
		ret = apply_keyword_reset(index, record);
		break;
	case LOG_MODSEQ_UPDATE:
		ret = apply_modseq(index, record);
		break;
	case LOG_HEADER_UPDATE:
		return apply_header(index, record, err);
	case LOG_EXT_INTRO:
		return apply_intro(index, record, err);
	case LOG_EXT_RESET:
		return apply_ext_reset(index, record);
	case LOG_EXT_HDR_UPDATE:
	case LOG_EXT_HDR_UPDATE32:
		return apply_ext_header(index, record, err);
	case LOG_EXT_REC_UPDATE:
		return apply_ext_records(index, record, err);
	case LOG_EXT_ATOMIC_INC:
		return apply_ext_inc(index, record, err);
	case LOG_INDEX_DELETED:
		index->state.deleted = true;
		return 0;
	case LOG_INDEX_UNDELETED:
		index->state.deleted = false;
		return 0;
	default: /* attributes are not part of the index */
		return 0;
	}
	return ret < 0 ? apply_failed(index, record, ret, err) : 0;
}

int index_apply_record(void *ctx, const struct index_log_record *record, struct error *err)
{
	struct index *index = ctx;
	struct index_state *state = &index->state;
	const uint64_t end = record->offset + LOG_RECORD_HDR + record->size;
	const uint64_t counter_before = state->counter.modseq;
	int ret;

	if (record_needs_ext(record) && state->ext_current < 0)
		return index_log_damaged(&index->log, record->offset, err,
					 "data of an extension (kind %#x) without an introduction",
					 record->kind);
	if (record->offset == record->transaction ||
	    record->offset == record->transaction + LOG_BOUNDARY_SIZE)
		index_state_pass(state, index->log.file_seq, record->transaction);
	/* Without the extension every message shows the counter, so it has to be right while the
	 * record is applied. */
	state->counter.modseq = record->modseq;
	ret = apply_kind(index, record, err);
	if (ret < 0) {
		state->counter.modseq = counter_before;
		return ret;
	}
	if (state->tail == record->offset || state->tail == record->transaction) {
		if (record->external)
			state->tail = end;
	}
	if (index_log_is_request(record))
		state->pending_offset = record->offset;
	return 0;
}
