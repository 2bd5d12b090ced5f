/*
 * From the log's records to events.
 *
 * Every record with a counter above the modseq becomes events, one for each message that it
 * touched. Sorting brings those of a message together; the later ones win. Since one record may
 * touch a million messages, the events are merged whenever their number has doubled.
 */
#include "store/index/index_changes_walk.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define RANGED_MAX 1000000

struct event *index_walk_events(const struct walk *walk)
{
	return (struct event *)(void *)walk->events.data;
}

size_t index_walk_count(const struct walk *walk)
{
	return walk->events.len / sizeof(struct event);
}

static int compare_events(const void *a, const void *b)
{
	const struct event *x = a, *y = b;

	if (x->uid != y->uid)
		return x->uid < y->uid ? -1 : 1;
	if (x->kind != y->kind)
		return x->kind < y->kind ? -1 : 1;
	if (x->keyword != y->keyword)
		return x->keyword < y->keyword ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

static void event_merge(struct event *into, const struct event *later)
{
	if (into->kind == EVENT_MESSAGE) {
		into->add = (uint8_t)((into->add & ~later->remove) | later->add);
		into->remove = (uint8_t)((into->remove & ~later->add) | later->remove);
		if (later->append_modseq != 0)
			into->append_modseq = later->append_modseq;
		/* It may be told again, for clients. */
		if (!into->expunged)
			into->expunge_modseq = later->expunge_modseq;
		into->expunged = into->expunged || later->expunged;
		if (later->has_guid) {
			into->has_guid = true;
			into->guid = later->guid;
		}
	} else {
		into->add = later->add;
	}
	into->order = later->order;
	if (later->modseq > into->modseq)
		into->modseq = later->modseq;
}

/* One event for each message and one for each of its keywords. */
void index_walk_merge(struct walk *walk)
{
	struct event *events = index_walk_events(walk);
	size_t count = index_walk_count(walk), kept = 0;

	if (count == 0)
		return;
	qsort(events, count, sizeof(*events), compare_events);
	for (size_t i = 0; i < count; i++) {
		struct event *last = kept > 0 ? &events[kept - 1] : NULL;

		if (last != NULL && last->uid == events[i].uid && last->kind == events[i].kind &&
		    last->keyword == events[i].keyword)
			event_merge(last, &events[i]);
		else
			events[kept++] = events[i];
	}
	walk->events.len = kept * sizeof(*events);
	walk->merge_at = kept * 2 > MERGE_FIRST ? kept * 2 : MERGE_FIRST;
}

static int walk_add(struct walk *walk, struct event *event)
{
	event->order = walk->order++;
	if (index_walk_count(walk) >= walk->merge_at)
		index_walk_merge(walk);
	return buf_append(&walk->events, event, sizeof(*event));
}

/* The event for every message of the view in the range. Those that are gone have been, or will be,
 * expunged by a record of their own. */
static int walk_add_range(struct walk *walk, const struct index_log_range *range,
			  struct event *event)
{
	struct index_record record;
	struct index_iter iter;
	int ret = 0;

	index_iter_init(walk->index, range->first, &iter);
	while (ret == 0 && index_iter_next(&iter, &record) && record.uid <= range->last) {
		event->uid = record.uid;
		ret = walk_add(walk, event);
	}
	return ret != 0 ? ret : iter.failed;
}

static int walk_append(struct walk *walk, const struct index_log_record *record)
{
	int ret = 0;

	for (uint32_t pos = 0; ret == 0 && pos < record->size; pos += 8) {
		struct event event = {.uid = index_get32(record->data + pos),
				      .append_modseq = record->modseq,
				      .modseq = record->modseq};

		ret = walk_add(walk, &event);
	}
	return ret;
}

/* Ranges of an old EXPUNGE may name uids that never were; the log tells no more. A few bytes may so
 * say four thousand million. */
static int walk_expunge_range(struct walk *walk, const struct index_log_record *record,
			      const struct index_log_range *range)
{
	uint32_t next_uid = index_get32(walk->index->state.hdr + HDR_NEXT_UID);
	int ret = 0;

	for (uint32_t uid = range->first; ret == 0 && uid <= range->last && uid < next_uid; uid++) {
		struct event event = {.uid = uid,
				      .expunged = true,
				      .modseq = record->modseq,
				      .expunge_modseq = record->modseq};

		if (walk->ranged++ == RANGED_MAX) {
			walk->ranged = RANGED_MAX;
			walk->cut = true;
			break;
		}
		ret = walk_add(walk, &event);
	}
	return ret;
}

static int walk_request(struct walk *walk, const struct index_log_record *record)
{
	struct request request;
	uint32_t pos = 0;
	int ret = 0;

	if (record->kind == LOG_EXPUNGE && record->external)
		walk->saw_nameless = true; /* it never has one */
	if (record->kind != LOG_EXPUNGE_GUID)
		return 0;
	while (ret == 0 && index_log_next_expunge_guid(record, &pos, &request.uid, &request.guid)) {
		if (!guid_is_empty(&request.guid) || (record->external && walk->with_nameless))
			ret = buf_append(&walk->requests, &request, sizeof(request));
	}
	return ret;
}

static int walk_expunge(struct walk *walk, const struct index_log_record *record)
{
	struct event event = {
		.expunged = true, .modseq = record->modseq, .expunge_modseq = record->modseq};
	struct index_log_range range;
	uint32_t pos = 0;
	int ret = 0;

	if (record->kind == LOG_EXPUNGE) {
		while (ret == 0 && index_log_next_range(record, &pos, &range))
			ret = walk_expunge_range(walk, record, &range);
		return ret;
	}
	while (ret == 0 && index_log_next_expunge_guid(record, &pos, &event.uid, &event.guid)) {
		event.has_guid = !guid_is_empty(&event.guid);
		ret = walk_add(walk, &event);
	}
	return ret;
}

static int walk_flags(struct walk *walk, const struct index_log_record *record)
{
	struct index_log_range range;
	uint32_t pos = 0;
	int ret = 0;

	while (ret == 0 && index_log_next_range(record, &pos, &range)) {
		struct event event = {.modseq = record->modseq};

		if (!range.counted)
			continue;
		/* What is in both is set: removal comes first. */
		event.add = range.add & MAIL_FLAGS_MASK;
		event.remove = (uint8_t)(range.remove & MAIL_FLAGS_MASK & ~range.add);
		ret = walk_add_range(walk, &range, &event);
	}
	return ret;
}

static int walk_keyword(struct walk *walk, const struct index_log_record *record)
{
	struct event event = {.kind = EVENT_KEYWORD, .modseq = record->modseq};
	struct index_log_keyword keyword;
	char name[INDEX_KEYWORD_NAME_MAX + 1];
	struct index_log_range range;
	uint32_t pos;
	int ret = 0;

	index_log_get_keyword(record, &keyword);
	memcpy(name, keyword.name, keyword.name_size);
	name[keyword.name_size] = '\0';
	if (index_keyword_find(walk->index, name, &event.keyword) < 0)
		return 0; /* the view has lost it together with all messages that had it */
	event.add = keyword.add ? 1 : 0;
	pos = keyword.ranges_pos;
	while (ret == 0 && index_log_next_range(record, &pos, &range))
		ret = walk_add_range(walk, &range, &event);
	return ret;
}

static int walk_keyword_reset(struct walk *walk, const struct index_log_record *record)
{
	struct event event = {.kind = EVENT_KEYWORD, .modseq = record->modseq};
	unsigned count = index_keyword_count(walk->index);
	struct index_log_range range;
	uint32_t pos = 0;
	int ret = 0;

	while (ret == 0 && index_log_next_range(record, &pos, &range)) {
		for (event.keyword = 0; ret == 0 && event.keyword < count; event.keyword++)
			ret = walk_add_range(walk, &range, &event);
	}
	return ret;
}

static int walk_modseq(struct walk *walk, const struct index_log_record *record)
{
	struct event event = {0};
	uint32_t pos = 0;
	int ret = 0;

	while (ret == 0 && index_log_next_modseq(record, &pos, &event.uid, &event.modseq)) {
		if (event.uid != 0 && event.modseq > walk->since)
			ret = walk_add(walk, &event);
	}
	return ret;
}

static int walk_attributes(struct walk *walk, const struct index_log_record *record)
{
	struct index_log_attribute attribute = {.times_pos = 0};
	uint32_t pos = 0;
	int ret = 0;

	while (ret == 0 && index_log_next_attribute(record, &pos, &attribute)) {
		struct attribute_event event = {.attribute = {.removed = attribute.removed,
							      .shared = attribute.shared,
							      .time = attribute.time,
							      .modseq = record->modseq},
						.key = walk->keys.len};

		ret = buf_append(&walk->keys, attribute.key, strlen(attribute.key) + 1);
		if (ret == 0)
			ret = buf_append(&walk->attributes, &event, sizeof(event));
	}
	return ret;
}

/* A record with a counter above the modseq. */
static int walk_counted(struct walk *walk, const struct index_log_record *record)
{
	switch (record->kind) {
	case LOG_APPEND:
		return walk_append(walk, record);
	case LOG_EXPUNGE:
	case LOG_EXPUNGE_GUID:
		return record->external ? walk_expunge(walk, record) : 0;
	case LOG_FLAG_UPDATE:
		return walk_flags(walk, record);
	case LOG_KEYWORD_UPDATE:
		return walk_keyword(walk, record);
	case LOG_KEYWORD_RESET:
		return walk_keyword_reset(walk, record);
	case LOG_MODSEQ_UPDATE:
		return walk_modseq(walk, record);
	case LOG_ATTRIBUTE_UPDATE:
		return walk_attributes(walk, record);
	default:
		return 0;
	}
}

int index_walk_record(void *ctx, const struct index_log_record *record, struct error *err)
{
	struct walk *walk = ctx;
	int ret = walk_request(walk, record);

	if (ret == 0 && record->modseq > walk->since)
		ret = walk_counted(walk, record);
	if (ret < 0)
		return error_errno(err, ret, "%s: changes at offset %" PRIu64,
				   index_text(walk->index), record->offset);
	return 0;
}
