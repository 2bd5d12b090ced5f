/*
 * A filter (-t, -e, -I, -O) in one mailbox: which of both lists the merge gets to see.
 *
 * A message that only one side has, and that the filter does not take, is left out of both lists:
 * it stays where it is, and no more is said of it. Between two ends of dsyncfs both come to the
 * same lists. A Dovecot takes for expunged what we do not list and have never had, also what it
 * knows we would not take: so in a session both ways we wait for its list, and say that those
 * messages are here, under its UIDs. They are `absent`, and what the plan would do to them is
 * dropped.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "sync/brain_private.h"

bool box_filter_waits(const struct box *box)
{
	const struct brain *brain = box->brain;

	return mail_filter_is_set(&brain->filter) && brain->way == SYNC_BOTH_WAYS &&
	       !items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs_program");
}

static int virtual_size(struct mail_body *body, uint64_t *size_r, struct error *err)
{
	char data[16384], last = '\0';
	ssize_t n;

	*size_r = 0;
	while ((n = mailbox_body_read(body, data, sizeof(data), err)) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			if (data[i] == '\n' && last != '\r')
				(*size_r)++;
			last = data[i];
		}
		*size_r += (uint64_t)n;
	}
	return (int)n;
}

static int look_at_file(struct box *box, struct merge_item *item, struct error *err)
{
	struct mail_body_info info;
	struct mail_body *body = NULL;
	int ret = mailbox_body_open(box->mailbox, item->uid, &body, &info, err);

	/* It vanished, and its record goes with the next session. */
	if (ret == -ENOENT)
		return 0;
	if (ret < 0)
		return ret;
	item->received = info.received;
	if (mail_filter_wants_size(&box->brain->filter))
		ret = virtual_size(body, &item->size, err);
	mailbox_body_close(&body);
	return ret;
}

int box_filter_own(struct box *box, struct error *err)
{
	const struct mail_filter *filter = &box->brain->filter;
	struct item_list *list = &box->export.list;
	int ret = 0;

	if (!mail_filter_wants_date(filter) && !mail_filter_wants_size(filter))
		return 0;
	for (size_t i = 0; i < list->count && ret == 0; i++) {
		if (list->items[i].type != 'e')
			ret = look_at_file(box, &list->items[i], err);
	}
	return ret;
}

static int guid_order(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

struct guids {
	const char **list;
	size_t count;
};

static const char *guid_of(const struct merge_item *item)
{
	return item->guid != NULL && item->guid[0] != '\0' ? item->guid : item->hdr_hash;
}

/* Of the messages in the list. -ENOMEM */
static int guids_fill(struct guids *guids, const struct item_list *list)
{
	guids->list = calloc(list->count + 1, sizeof(*guids->list));
	if (guids->list == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < list->count; i++) {
		const char *guid = list->items[i].type != 'e' ? guid_of(&list->items[i]) : NULL;

		if (guid != NULL)
			guids->list[guids->count++] = guid;
	}
	qsort(guids->list, guids->count, sizeof(*guids->list), guid_order);
	return 0;
}

static bool guids_have(const struct guids *guids, const char *guid)
{
	return guid != NULL &&
	       bsearch(&guid, guids->list, guids->count, sizeof(*guids->list), guid_order) != NULL;
}

/* Does it stay on its side alone? */
static bool is_left_out(const struct box *box, const struct merge_item *item,
			const struct guids *other)
{
	return item->type == 's' && !item->absent && !guids_have(other, guid_of(item)) &&
	       !mail_filter_takes(&box->brain->filter, item->received, item->size,
				  item->flags.final, item->flags.final_keywords);
}

/* What a Dovecot has and we do not take, in the own list: where no own message has the UID. From
 * the own UIDNEXT on nothing is listed above it, so it is not missed there. -ENOMEM */
static int pretend(struct box *box, const struct guids *own)
{
	const struct item_list *peer = &box->import.list;
	struct item_list *list = &box->export.list;

	for (size_t i = 0; i < peer->count; i++) {
		if (peer->items[i].uid >= box->own.uid_next ||
		    !is_left_out(box, &peer->items[i], own))
			continue;
		int ret = item_list_insert_absent(list, &peer->items[i]);
		if (ret < 0)
			return ret;
	}
	return 0;
}

static int copy_taken(const struct box *box, const struct item_list *list,
		      const struct guids *other, struct filtered_list *taken)
{
	taken->items = calloc(list->count + 1, sizeof(*taken->items));
	if (taken->items == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < list->count; i++) {
		if (!is_left_out(box, &list->items[i], other))
			taken->items[taken->count++] = list->items[i];
	}
	return 0;
}

static int filter_lists(struct box *box, struct guids *own, struct guids *peer)
{
	struct import *import = &box->import;
	int ret = guids_fill(own, &box->export.list);

	if (ret == 0 && box_filter_waits(box)) {
		ret = pretend(box, own);
		/* With what has been added: the peer's of these are wanted in the merge. */
		free(own->list);
		*own = (struct guids){.list = NULL};
		if (ret == 0)
			ret = guids_fill(own, &box->export.list);
	}
	if (ret == 0)
		ret = guids_fill(peer, &import->list);
	if (ret == 0)
		ret = copy_taken(box, &box->export.list, peer, &import->own_taken);
	if (ret == 0)
		ret = copy_taken(box, &import->list, own, &import->peer_taken);
	return ret;
}

int box_filter_lists(struct box *box, struct error *err)
{
	struct guids own = {.list = NULL}, peer = {.list = NULL};
	int ret = filter_lists(box, &own, &peer);

	free(own.list);
	free(peer.list);
	return ret < 0 ? error_errno(err, ret, "filter of mailbox %s", box->name) : 0;
}

static bool is_about_absent(const struct import *import, const struct merge_action *action)
{
	const struct merge_item *source;

	if (action->own != NULL && action->own->absent)
		return true;
	if (action->kind != MERGE_COPY)
		return false;
	source = merge_items_find(import->own_taken.items, import->own_taken.count,
				  action->source_uid);
	return source != NULL && source->absent;
}

void box_filter_plan(struct box *box)
{
	struct import *import = &box->import;
	struct merge_mailbox_plan *plan = &import->plan;
	size_t kept = 0, kept_before = 0;

	for (size_t i = 0; i < plan->action_count; i++) {
		if (is_about_absent(import, &plan->actions[i]))
			continue;
		kept_before += i < plan->expunge_start;
		plan->actions[kept++] = plan->actions[i];
	}
	plan->action_count = kept;
	plan->expunge_start = kept_before;
}
