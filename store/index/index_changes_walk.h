/*
 * From the log's records to events: what index_changes.c makes changes of. Private to it and to
 * index_changes_walk.c.
 */
#ifndef DSYNCFS_INDEX_CHANGES_WALK_H
#define DSYNCFS_INDEX_CHANGES_WALK_H

#include "store/index/index_changes.h"
#include "store/index/index_private.h"

#define MERGE_FIRST 65536U /* events before they are merged for the first time */

enum { EVENT_MESSAGE, EVENT_KEYWORD };

struct event {
	uint32_t uid, order;
	uint32_t keyword; /* its number in the view */
	uint8_t kind;
	uint8_t add, remove; /* flags; of a keyword: add is 0 or 1 */
	bool expunged, has_guid;
	struct guid guid;
	uint64_t modseq, append_modseq, expunge_modseq;
};

/* Somebody asked for this message to be expunged, or expunged it. */
struct request {
	uint32_t uid;
	struct guid guid;
};

struct attribute_event {
	struct mailbox_attribute attribute;
	size_t key; /* in keys */
};

struct walk {
	const struct index *index;
	uint64_t since;
	struct buf events;
	struct buf requests;
	bool with_nameless; /* expunges without a GUID are put there as well, with an empty one */
	bool saw_nameless;
	uint32_t ranged;       /* events of old EXPUNGEs */
	bool cut;	       /* there were too many */
	struct buf attributes; /* struct attribute_event */
	struct buf keys;       /* their keys, each with its NUL */
	uint32_t order;
	size_t merge_at;
};
struct event *index_walk_events(const struct walk *walk);
size_t index_walk_count(const struct walk *walk);
/* One event for each message and one for each of its keywords. */
void index_walk_merge(struct walk *walk);
/* For index_log_walk(). */
int index_walk_record(void *ctx, const struct index_log_record *record, struct error *err);

#endif
