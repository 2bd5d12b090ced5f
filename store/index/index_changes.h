/*
 * What the index log tells since a modseq (reference 7f).
 *
 * Costs O(log since then) where the caller gives a position, else O(log). The state of messages
 * that were changed is in the view; here is what changed.
 */
#ifndef DSYNCFS_INDEX_CHANGES_H
#define DSYNCFS_INDEX_CHANGES_H

#include "store/index/index.h"
#include "store/mail.h"

struct index_changes {
	struct mailbox_change *change; /* ascending uid */
	size_t count;
	struct mailbox_attribute *attribute; /* the last change of each */
	size_t attribute_count;
	/* Only header fields may have changed: uid_validity, next_uid and first_recent_uid are in
	 * the view. */
	bool complete; /* the log reaches back to `since` */
	void *pool;
};

/* Changes with modseq > since, up to the view's position. near (may be NULL): a position of the
 * past whose modseq is <= since; reading begins there if it is still in the log at hand. -ERANGE:
 * the log does not reach back that far; then changes_r holds what it does tell, and expunges may be
 * missing. Free with index_changes_free(), also after -ERANGE. */
int index_changes(struct index *index, uint64_t since, const struct index_position *near,
		  struct index_changes *changes_r, struct error *err);
void index_changes_free(struct index_changes *changes);
/* Whether all that is still there of the log can be read: opening an index reads but what came
 * after its snapshot. -EUCLEAN: it cannot. */
int index_check_history(struct index *index, struct error *err);

/* Whether the logs tell of the expunge (or of a request for it) of messages with these GUIDs, and
 * whether they tell of any without saying its GUID. Reads all that there is of the logs. */
struct index_expunge_query {
	struct guid guid;
	/* Its last one. A record with a lower one tells of a UID that the message had before: a
	 * change of the UID is an expunge in the log. 0: not known; then a record without GUID
	 * above the last with this one may be the message's. */
	uint32_t uid;
	bool known;
};
int index_find_expunges(struct index *index, struct index_expunge_query *queries, size_t count,
			bool *nameless_r, struct error *err);

#endif
