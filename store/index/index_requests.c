/* Changes that a program asks for in the log, for whoever syncs the mail files next
 * (reference 3.6). */
#include "store/index/index_private.h"

bool index_log_is_request(const struct index_log_record *record)
{
	switch (record->kind) {
	case LOG_EXPUNGE:
	case LOG_EXPUNGE_GUID:
	case LOG_FLAG_UPDATE:
	case LOG_KEYWORD_UPDATE:
	case LOG_KEYWORD_RESET:
		return !record->external;
	default:
		return false;
	}
}

struct search {
	uint32_t uid;
	uint64_t tail;
};

static bool names_uid(const struct index_log_record *record, uint32_t uid)
{
	struct index_log_keyword keyword;
	struct index_log_range range;
	struct guid guid;
	uint32_t pos = 0, expunged;

	if (record->kind == LOG_EXPUNGE_GUID) {
		while (index_log_next_expunge_guid(record, &pos, &expunged, &guid)) {
			if (expunged == uid)
				return true;
		}
		return false;
	}
	if (record->kind == LOG_KEYWORD_UPDATE) {
		index_log_get_keyword(record, &keyword);
		pos = keyword.ranges_pos;
	}
	while (index_log_next_range(record, &pos, &range)) {
		if (range.first <= uid && uid <= range.last)
			return true;
	}
	return false;
}

static int look_at_record(void *ctx, const struct index_log_record *record, struct error *err)
{
	const struct search *search = ctx;

	(void)err;
	return record->offset >= search->tail && index_log_is_request(record) &&
	       names_uid(record, search->uid);
}

bool index_has_request(const struct index *index, uint32_t uid)
{
	const struct index_state *state = &index->state;
	struct search search = {uid, state->tail};
	struct index_log_counter counter;
	uint64_t offset = index->log.hdr_size;
	struct index_status status;
	struct error ignored;
	int ret;

	index_status(index, &status);
	if (!status.pending)
		return false;
	index_log_counter_init(&index->log, &counter);
	ret = index_log_walk(&index->log, &offset, state->offset, &counter, look_at_record, &search,
			     &ignored);
	return ret != 0 || offset != state->offset;
}
