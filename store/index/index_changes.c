/*
 * Changes since a modseq, from the log's records alone.
 *
 * Every record with a counter above the modseq becomes events, one for each message that it
 * touched. Sorting brings those of a message together; the later ones win. Since one record may
 * touch a million messages, the events are merged whenever their number has doubled.
 *
 * Dovecot's record of an expunge in a maildir often has no GUID, but its request for it, which it
 * wrote before, has. Such a request says nothing else: it may never have been carried out.
 */
#include "store/index/index_changes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/index/index_private.h"

#define EVENTS_BYTES_MAX   (512UL << 20)
#define REQUESTS_BYTES_MAX (64UL << 20)
#define MERGE_FIRST	   65536U

enum { EVENT_MESSAGE, EVENT_KEYWORD };

struct event {
	uint32_t uid, order;
	uint32_t keyword; /* its number in the view */
	uint8_t kind;
	uint8_t add, remove; /* flags; of a keyword: add is 0 or 1 */
	bool appended, expunged, has_guid;
	struct guid guid;
	uint64_t modseq;
};

/* Somebody asked for this message to be expunged, or expunged it. */
struct request {
	uint32_t uid;
	struct guid guid;
};

struct walk {
	const struct index *index;
	uint64_t since;
	struct buf events;
	struct buf requests;
	bool with_nameless; /* expunges without a GUID are put there as well, with an empty one */
	bool saw_nameless;
	uint32_t order;
	size_t merge_at;
};

static struct event *walk_events(const struct walk *walk)
{
	return (struct event *)(void *)walk->events.data;
}

static size_t walk_count(const struct walk *walk)
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
		into->appended = into->appended || later->appended;
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
static void walk_merge(struct walk *walk)
{
	struct event *events = walk_events(walk);
	size_t count = walk_count(walk), kept = 0;

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
	if (walk_count(walk) >= walk->merge_at)
		walk_merge(walk);
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
				      .appended = true,
				      .modseq = record->modseq};

		ret = walk_add(walk, &event);
	}
	return ret;
}

/* Ranges of an old EXPUNGE may name uids that never were; the log tells no more. */
static int walk_expunge_range(struct walk *walk, const struct index_log_record *record,
			      const struct index_log_range *range)
{
	uint32_t next_uid = index_get32(walk->index->state.hdr + HDR_NEXT_UID);
	int ret = 0;

	for (uint32_t uid = range->first; ret == 0 && uid <= range->last && uid < next_uid; uid++) {
		struct event event = {.uid = uid, .expunged = true, .modseq = record->modseq};

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
	struct event event = {.expunged = true, .modseq = record->modseq};
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
	default:
		return 0;
	}
}

static int walk_record(void *ctx, const struct index_log_record *record, struct error *err)
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

/* ---- which parts of which logs ---- */

static int walk_log(struct walk *walk, const struct index_log *log, uint64_t offset, uint64_t end,
		    struct index_log_counter counter, struct error *err)
{
	return index_log_walk(log, &offset, end, &counter, walk_record, walk, err);
}

/* From a position of the past. -ESTALE without a text: it is of no use. */
static int walk_from_position(struct walk *walk, const struct index_position *near,
			      const struct index_log *older, struct error *err)
{
	const struct index *index = walk->index;
	struct index_log_counter counter = {.counting = true};
	int ret;

	if (near == NULL || near->indexid != index->log.indexid || near->modseq > walk->since ||
	    near->modseq == 0)
		return -ESTALE;
	counter.modseq = near->modseq;
	if (near->file_seq == index->log.file_seq && near->offset >= index->log.hdr_size &&
	    near->offset <= index->state.offset)
		return walk_log(walk, &index->log, near->offset, index->state.offset, counter, err);
	if (older->fd < 0 || near->file_seq != older->file_seq || near->offset < older->hdr_size ||
	    near->offset > index->log.prev_file_offset)
		return -ESTALE;
	ret = walk_log(walk, older, near->offset, index->log.prev_file_offset, counter, err);
	index_log_counter_init(&index->log, &counter);
	if (ret == 0)
		ret = walk_log(walk, &index->log, index->log.hdr_size, index->state.offset, counter,
			       err);
	return ret;
}

/* From where the view passed by on its way to its position. -ESTALE without a text: it came by only
 * later, or never. */
static int walk_from_mark(struct walk *walk, struct error *err)
{
	const struct index *index = walk->index;
	struct index_log_counter counter = {.counting = true};
	uint64_t offset;

	if (!index_state_mark(&index->state, index->log.file_seq, walk->since, &offset,
			      &counter.modseq))
		return -ESTALE;
	return walk_log(walk, &index->log, offset, index->state.offset, counter, err);
}

static int walk_all(struct walk *walk, const struct index_log *older, bool *complete_r,
		    struct error *err)
{
	const struct index *index = walk->index;
	struct index_log_counter counter;
	uint64_t oldest = index->log.initial_modseq;
	int ret = 0;

	if (older->fd >= 0) {
		oldest = older->initial_modseq;
		index_log_counter_init(older, &counter);
		ret = walk_log(walk, older, older->hdr_size, index->log.prev_file_offset, counter,
			       err);
	}
	index_log_counter_init(&index->log, &counter);
	if (ret == 0)
		ret = walk_log(walk, &index->log, index->log.hdr_size, index->state.offset, counter,
			       err);
	*complete_r = oldest <= walk->since && oldest != 0;
	return ret;
}

/* .log.2 is needed where the newer log begins above the modseq. */
static int open_older(const struct index *index, uint64_t since, struct index_log *older_r,
		      struct error *err)
{
	char file[NAME_MAX + 1];
	uint64_t size;
	int ret;

	older_r->fd = -1;
	if (index->log.prev_file_seq == 0 || index->log.initial_modseq <= since)
		return 0;
	index_file_name(index, ".log.2", file, sizeof(file));
	ret = index_log_open(index->dirfd, index->label, file, false, older_r, err);
	if (ret == -ENOENT)
		return 0;
	if (ret < 0)
		return ret == -EUCLEAN ? 0 : ret; /* as if it was lost */
	ret = index_log_size(older_r, &size, err);
	if (ret == 0 &&
	    (older_r->indexid != index->log.indexid ||
	     older_r->file_seq != index->log.prev_file_seq || size < index->log.prev_file_offset))
		index_log_close(older_r);
	return ret;
}

static int walk_logs(struct walk *walk, const struct index_position *near, bool *complete_r,
		     struct error *err)
{
	struct index_log older;
	int ret = open_older(walk->index, walk->since, &older, err);

	if (ret < 0)
		return ret;
	*complete_r = true;
	ret = walk_from_position(walk, near, &older, err);
	if (ret == -ESTALE)
		ret = walk_from_mark(walk, err);
	if (ret == -ESTALE || ret == -EUCLEAN) {
		walk->events.len = walk->requests.len = 0;
		ret = walk_all(walk, &older, complete_r, err);
	}
	index_log_close(&older);
	return ret;
}

/* ---- the result ---- */

struct pool {
	const char **names; /* of keywords, all sets one after the other */
	char **strings;	    /* by keyword number */
	unsigned string_count;
};

static void pool_free(struct pool *pool)
{
	if (pool == NULL)
		return;
	for (unsigned i = 0; i < pool->string_count; i++)
		free(pool->strings[i]);
	free(pool->strings);
	free(pool->names);
	free(pool);
}

static struct pool *pool_new(const struct index *index, size_t names)
{
	struct pool *pool = calloc(1, sizeof(*pool));
	unsigned count = index_keyword_count(index);

	if (pool == NULL)
		return NULL;
	pool->names = calloc(names + 1, sizeof(*pool->names));
	pool->strings = calloc((size_t)count + 1, sizeof(*pool->strings));
	if (pool->names == NULL || pool->strings == NULL)
		goto failed;
	for (; pool->string_count < count; pool->string_count++) {
		pool->strings[pool->string_count] =
			strdup(index_keyword_name(index, pool->string_count));
		if (pool->strings[pool->string_count] == NULL)
			goto failed;
	}
	return pool;
failed:
	pool_free(pool);
	return NULL;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Takes the keywords with this direction out of a message's events. */
static void fill_keywords(struct pool *pool, size_t *used, const struct event *events, size_t count,
			  uint8_t add, struct keyword_set *set_r)
{
	const char **names = pool->names + *used;

	set_r->names = names;
	set_r->count = 0;
	for (size_t i = 0; i < count; i++) {
		if (events[i].kind == EVENT_KEYWORD && events[i].add == add)
			names[set_r->count++] = pool->strings[events[i].keyword];
	}
	*used += set_r->count;
	if (set_r->count > 1)
		qsort(names, set_r->count, sizeof(*names), compare_names);
}

/* events: all of one message, merged. False: nothing to tell. */
static bool fill_change(const struct index *index, struct pool *pool, size_t *used,
			const struct event *events, size_t count, struct index_change *change_r)
{
	struct index_record record;
	bool there = index_find(index, events[0].uid, &record) == 0;

	*change_r = (struct index_change){.uid = events[0].uid};
	for (size_t i = 0; i < count; i++) {
		if (events[i].modseq > change_r->modseq)
			change_r->modseq = events[i].modseq;
	}
	if (events[0].kind == EVENT_MESSAGE) {
		change_r->appended = events[0].appended;
		change_r->expunged = events[0].expunged && !there;
		change_r->has_guid = events[0].has_guid;
		change_r->guid = events[0].guid;
		change_r->add_flags = events[0].add;
		change_r->remove_flags = events[0].remove;
	}
	fill_keywords(pool, used, events, count, 1, &change_r->add_keywords);
	fill_keywords(pool, used, events, count, 0, &change_r->remove_keywords);
	return there || change_r->expunged;
}

static int walk_result(struct walk *walk, struct index_changes *changes_r)
{
	const struct event *events;
	size_t count, used = 0;
	struct pool *pool;

	walk_merge(walk);
	events = walk_events(walk);
	count = walk_count(walk);
	pool = pool_new(walk->index, count);
	changes_r->change = calloc(count + 1, sizeof(*changes_r->change));
	changes_r->pool = pool;
	if (pool == NULL || changes_r->change == NULL) {
		index_changes_free(changes_r);
		return -ENOMEM;
	}
	for (size_t i = 0; i < count;) {
		size_t end = i + 1;

		while (end < count && events[end].uid == events[i].uid)
			end++;
		if (fill_change(walk->index, pool, &used, events + i, end - i,
				&changes_r->change[changes_r->count]))
			changes_r->count++;
		i = end;
	}
	return 0;
}

static int compare_requests(const void *a, const void *b)
{
	const struct request *x = a, *y = b;

	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

/* Gives the expunges that lack a GUID that of the request for them. Returns how many still lack
 * it. */
static size_t add_requested_guids(struct walk *walk, struct index_changes *changes)
{
	struct request *requests = (struct request *)(void *)walk->requests.data;
	size_t count = walk->requests.len / sizeof(*requests), lacking = 0;

	if (count != 0)
		qsort(requests, count, sizeof(*requests), compare_requests);
	for (size_t i = 0; i < changes->count; i++) {
		struct index_change *change = &changes->change[i];
		const struct request key = {.uid = change->uid}, *found = NULL;

		if (!change->expunged || change->has_guid)
			continue;
		if (count != 0)
			found = bsearch(&key, requests, count, sizeof(*requests), compare_requests);
		if (found == NULL) {
			lacking++;
			continue;
		}
		change->has_guid = true;
		change->guid = found->guid;
	}
	return lacking;
}

/* All requests and expunges with a GUID that the logs still have. */
static int walk_requests(struct walk *walk, struct error *err)
{
	struct index_log older;
	bool complete;
	int ret = open_older(walk->index, 0, &older, err);

	if (ret == 0)
		ret = walk_all(walk, &older, &complete, err);
	index_log_close(&older);
	return ret;
}

/* The request may be older than the changes that were asked for. */
static int find_older_requests(struct index *index, struct index_changes *changes,
			       struct error *err)
{
	struct walk walk = {.index = index, .since = UINT64_MAX};
	int ret;

	buf_init(&walk.requests, REQUESTS_BYTES_MAX);
	ret = walk_requests(&walk, err);
	if (ret == 0)
		add_requested_guids(&walk, changes);
	buf_free(&walk.requests);
	return ret;
}

static int compare_request_guids(const void *a, const void *b)
{
	const struct request *x = a, *y = b;

	return guid_cmp(&x->guid, &y->guid);
}

/* Whether some expunge has a GUID in none of its records. requests: ascending by UID. */
static bool has_nameless(const struct request *requests, size_t count)
{
	for (size_t i = 0, end; i < count; i = end) {
		bool named = false;

		for (end = i; end < count && requests[end].uid == requests[i].uid; end++)
			named = named || !guid_is_empty(&requests[end].guid);
		if (!named)
			return true;
	}
	return false;
}

int index_find_expunges(struct index *index, struct index_expunge_query *queries, size_t count,
			bool *nameless_r, struct error *err)
{
	struct walk walk = {.index = index, .since = UINT64_MAX, .with_nameless = true};
	struct request *requests;
	size_t found;
	int ret;

	buf_init(&walk.requests, REQUESTS_BYTES_MAX);
	ret = walk_requests(&walk, err);
	requests = (struct request *)(void *)walk.requests.data;
	found = walk.requests.len / sizeof(*requests);
	*nameless_r = walk.saw_nameless;
	if (ret == 0 && found != 0) {
		qsort(requests, found, sizeof(*requests), compare_requests);
		*nameless_r = *nameless_r || has_nameless(requests, found);
		qsort(requests, found, sizeof(*requests), compare_request_guids);
		for (size_t i = 0; i < count; i++) {
			const struct request key = {.guid = queries[i].guid};

			queries[i].known = bsearch(&key, requests, found, sizeof(*requests),
						   compare_request_guids) != NULL;
		}
	}
	buf_free(&walk.requests);
	return ret;
}

int index_changes(struct index *index, uint64_t since, const struct index_position *near,
		  struct index_changes *changes_r, struct error *err)
{
	struct walk walk = {.index = index, .since = since, .merge_at = MERGE_FIRST};
	bool complete = false;
	int ret = 0;

	memset(changes_r, 0, sizeof(*changes_r));
	buf_init(&walk.events, EVENTS_BYTES_MAX);
	buf_init(&walk.requests, REQUESTS_BYTES_MAX);
	/* Nothing happened since: the common case reads nothing. */
	if (since < index->state.counter.modseq)
		ret = walk_logs(&walk, near, &complete, err);
	else /* a modseq that we never had is one of another history */
		complete = since <= 1 || since == index->state.counter.modseq;
	if (ret == 0) {
		ret = walk_result(&walk, changes_r);
		if (ret < 0)
			error_errno(err, ret, "%s: changes", index_text(index));
		else if (add_requested_guids(&walk, changes_r) != 0)
			ret = find_older_requests(index, changes_r, err);
	}
	buf_free(&walk.events);
	buf_free(&walk.requests);
	if (ret < 0) {
		index_changes_free(changes_r);
		return ret;
	}
	changes_r->complete = complete;
	if (!complete)
		return error_set(err, -ERANGE, "%s: the log does not reach back to modseq %" PRIu64,
				 index_text(index), since);
	return 0;
}

void index_changes_free(struct index_changes *changes)
{
	pool_free(changes->pool);
	free(changes->change);
	memset(changes, 0, sizeof(*changes));
}
