/*
 * Changes since a modseq, from the log's records alone (index_changes_walk.c).
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
#include "store/index/index_changes_walk.h"

#define EVENTS_BYTES_MAX     (512UL << 20)
#define REQUESTS_BYTES_MAX   (64UL << 20)
#define ATTRIBUTES_BYTES_MAX (16UL << 20)

/* ---- which parts of which logs ---- */

static int walk_log(struct walk *walk, const struct index_log *log, uint64_t offset, uint64_t end,
		    struct index_log_counter counter, struct error *err)
{
	return index_log_walk(log, &offset, end, &counter, index_walk_record, walk, err);
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
		walk->attributes.len = walk->keys.len = 0;
		ret = walk_all(walk, &older, complete_r, err);
	}
	index_log_close(&older);
	return ret;
}

/* ---- the result ---- */

struct pool {
	char *keys;	    /* of attributes */
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
	free(pool->keys);
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
			const struct event *events, size_t count, struct mailbox_change *change_r)
{
	struct index_record record;
	bool there = index_find(index, events[0].uid, &record) == 0;

	*change_r = (struct mailbox_change){.uid = events[0].uid};
	for (size_t i = 0; i < count; i++) {
		if (events[i].modseq > change_r->modseq)
			change_r->modseq = events[i].modseq;
	}
	if (events[0].kind == EVENT_MESSAGE) {
		change_r->append_modseq = events[0].append_modseq;
		change_r->expunged = events[0].expunged && !there;
		change_r->expunge_modseq = events[0].expunge_modseq;
		change_r->has_guid = events[0].has_guid;
		change_r->guid = events[0].guid;
		change_r->add_flags = events[0].add;
		change_r->remove_flags = events[0].remove;
	}
	fill_keywords(pool, used, events, count, 1, &change_r->add_keywords);
	fill_keywords(pool, used, events, count, 0, &change_r->remove_keywords);
	return there || change_r->expunged;
}

/* The later of two changes of one attribute counts. */
static int attributes_result(struct walk *walk, struct pool *pool, struct index_changes *changes_r)
{
	const struct attribute_event *events =
		(const struct attribute_event *)(const void *)walk->attributes.data;
	size_t count = walk->attributes.len / sizeof(*events), used = 0;

	if (count == 0)
		return 0;
	pool->keys = malloc(walk->keys.len);
	changes_r->attribute = calloc(count, sizeof(*changes_r->attribute));
	if (pool->keys == NULL || changes_r->attribute == NULL)
		return -ENOMEM;
	memcpy(pool->keys, walk->keys.data, walk->keys.len);
	for (size_t i = 0; i < count; i++) {
		const char *key = pool->keys + events[i].key;
		size_t at = 0;

		while (at < used &&
		       (changes_r->attribute[at].shared != events[i].attribute.shared ||
			strcmp(changes_r->attribute[at].key, key) != 0))
			at++;
		if (at == used)
			used++;
		changes_r->attribute[at] = events[i].attribute;
		changes_r->attribute[at].key = key;
	}
	changes_r->attribute_count = used;
	return 0;
}

static int walk_result(struct walk *walk, struct index_changes *changes_r)
{
	const struct event *events;
	size_t count, used = 0;
	struct pool *pool;

	index_walk_merge(walk);
	events = index_walk_events(walk);
	count = index_walk_count(walk);
	pool = pool_new(walk->index, count);
	changes_r->change = calloc(count + 1, sizeof(*changes_r->change));
	changes_r->pool = pool;
	if (pool == NULL || changes_r->change == NULL ||
	    attributes_result(walk, pool, changes_r) < 0) {
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
		struct mailbox_change *change = &changes->change[i];
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

/* The last expunge that has a GUID in none of its records; 0: each has. requests: ascending by UID.
 */
static uint32_t last_nameless(const struct request *requests, size_t count)
{
	uint32_t uid = 0;

	for (size_t i = 0, end; i < count; i = end) {
		bool named = false;

		for (end = i; end < count && requests[end].uid == requests[i].uid; end++)
			named = named || !guid_is_empty(&requests[end].guid);
		if (!named)
			uid = requests[i].uid;
	}
	return uid;
}

/* requests: ascending by GUID. */
static bool has_expunge(const struct request *requests, size_t count, const struct guid *guid,
			uint32_t uid)
{
	const struct request key = {.guid = *guid};
	const struct request *request =
		bsearch(&key, requests, count, sizeof(*requests), compare_request_guids);

	if (request == NULL)
		return false;
	while (request > requests && guid_equal(&request[-1].guid, guid))
		request--;
	for (; request < requests + count && guid_equal(&request->guid, guid); request++) {
		if (request->uid >= uid)
			return true;
	}
	return false;
}

int index_find_expunges(struct index *index, struct index_expunge_query *queries, size_t count,
			bool *nameless_r, struct error *err)
{
	struct walk walk = {.index = index, .since = UINT64_MAX, .with_nameless = true};
	struct request *requests;
	uint32_t nameless = 0;
	size_t found;
	int ret;

	buf_init(&walk.requests, REQUESTS_BYTES_MAX);
	ret = walk_requests(&walk, err);
	requests = (struct request *)(void *)walk.requests.data;
	found = walk.requests.len / sizeof(*requests);
	*nameless_r = walk.saw_nameless;
	if (ret == 0 && found != 0) {
		qsort(requests, found, sizeof(*requests), compare_requests);
		nameless = walk.saw_nameless ? UINT32_MAX : last_nameless(requests, found);
		*nameless_r = nameless != 0;
		qsort(requests, found, sizeof(*requests), compare_request_guids);
		for (size_t i = 0; i < count; i++) {
			/* With its UID forgotten, each later one without name may be it. */
			queries[i].known = has_expunge(requests, found, &queries[i].guid,
						       queries[i].uid ? queries[i].uid : nameless);
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
	buf_init(&walk.attributes, ATTRIBUTES_BYTES_MAX);
	buf_init(&walk.keys, ATTRIBUTES_BYTES_MAX);
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
	buf_free(&walk.attributes);
	buf_free(&walk.keys);
	if (ret < 0) {
		index_changes_free(changes_r);
		return ret;
	}
	changes_r->complete = complete && !walk.cut;
	if (!complete)
		return error_set(err, -ERANGE, "%s: the log does not reach back to modseq %" PRIu64,
				 index_text(index), since);
	if (walk.cut)
		return error_set(err, -ERANGE,
				 "%s: the log says that more messages were expunged than can be",
				 index_text(index));
	return 0;
}

int index_check_history(struct index *index, struct error *err)
{
	struct index_changes changes;
	int ret = index_changes(index, 0, NULL, &changes, err);

	if (ret == 0 || ret == -ERANGE)
		index_changes_free(&changes);
	return ret == -ERANGE ? 0 : ret;
}

void index_changes_free(struct index_changes *changes)
{
	pool_free(changes->pool);
	free(changes->change);
	free(changes->attribute);
	memset(changes, 0, sizeof(*changes));
}
