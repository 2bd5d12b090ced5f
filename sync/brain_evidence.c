/*
 * One mailbox: what it tells of its changes.
 *
 * The index log says what changed since the peer was last in sync with us. A log that was rotated
 * twice meanwhile says too little, and what it leaves out may be an expunge: of those the host
 * keeps tombstones. They are put into the list as if the log still told of them; only the rest
 * (which flags were changed) has to be found by comparing everything.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "sync/brain_private.h"

static int change_cmp(const void *a, const void *b)
{
	const struct mailbox_change *x = a, *y = b;

	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

/* 1: to be listed. A message that is there (it was put back under its UID) is not expunged, and a
 * mailbox that has gone back was never at that point. */
static int is_expunged(struct box *box, const struct sync_expunge *expunge, struct error *err)
{
	const struct mailbox_changes *changes = &box->changes;
	const struct mailbox_change key = {.uid = expunge->uid};
	struct mail mail;

	if (expunge->uid == 0 || expunge->uid >= box->status.uid_next ||
	    expunge->modseq > box->status.highest_modseq || expunge->modseq <= box->since ||
	    (changes->count > 0 &&
	     bsearch(&key, changes->change, changes->count, sizeof(key), change_cmp) != NULL))
		return 0;
	int ret = mailbox_find(box->mailbox, expunge->uid, &mail, err);
	return ret == -ENOENT ? 1 : ret;
}

/* Those of the list that are news: at its front, in the form of changes. */
static int select_expunges(struct box *box, const struct sync_expunge *list, size_t count,
			   struct mailbox_change *changes, size_t *count_r, struct error *err)
{
	*count_r = 0;
	for (size_t i = 0; i < count; i++) {
		int ret = is_expunged(box, &list[i], err);

		if (ret < 0)
			return ret;
		if (ret == 0)
			continue;
		changes[(*count_r)++] = (struct mailbox_change){
			.uid = list[i].uid,
			.modseq = list[i].modseq,
			.expunged = true,
			.expunge_modseq = list[i].modseq,
			.has_guid = !guid_is_empty(&list[i].guid),
			.guid = list[i].guid,
		};
	}
	return 0;
}

static void drop_doubles(struct mailbox_changes *changes)
{
	size_t kept = 0;

	for (size_t i = 0; i < changes->count; i++) {
		if (kept == 0 || changes->change[kept - 1].uid != changes->change[i].uid)
			changes->change[kept++] = changes->change[i];
	}
	changes->count = kept;
}

static int add_expunges(struct box *box, const struct sync_expunge *list, size_t count,
			struct error *err)
{
	struct mailbox_changes *changes = &box->changes;
	struct mailbox_change *all = calloc(changes->count + count, sizeof(*all));
	size_t added = 0;

	if (all == NULL)
		return error_errno(err, -ENOMEM, "expunges");
	int ret = select_expunges(box, list, count, all, &added, err);
	if (ret < 0 || added == 0) {
		free(all);
		return ret;
	}
	if (changes->count > 0)
		memcpy(all + added, changes->change, changes->count * sizeof(*all));
	qsort(all, added + changes->count, sizeof(*all), change_cmp);
	free(changes->change);
	changes->change = all;
	changes->count += added;
	drop_doubles(changes);
	return 0;
}

static int recall_expunges(struct box *box, struct error *err)
{
	const struct sync_host *host = box->brain->host;
	struct sync_expunge *list = NULL;
	size_t count = 0;

	if (host->expunged == NULL)
		return 0;
	int ret = host->expunged(host->ctx, &box->status.guid, &list, &count, err);
	if (ret == 0 && count > 0)
		ret = add_expunges(box, list, count, err);
	free(list);
	return ret;
}

int box_load_changes(struct box *box, bool *reaches_r, struct error *err)
{
	*reaches_r = true;
	if (box->since != 0 && box->status.highest_modseq <= box->since)
		return 0;
	int ret = mailbox_changes(box->mailbox, box->since, &box->changes, err);
	if (ret != -ERANGE)
		return ret;
	*reaches_r = false;
	return recall_expunges(box, err);
}
