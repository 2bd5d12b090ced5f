/*
 * Messages that were moved between mailboxes, between two dsyncfs nodes (PROTOCOL.md: `from`): the
 * body does not travel again.
 *
 * The master, where as a rule the move was made, knows from its logs what the mailboxes of this
 * session have lost, and says with a new message of the same GUID where that was. Mailboxes that
 * lost something come last, so the other end still has the body there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/log.h"
#include "sync/box_cache.h"
#include "sync/brain_private.h"

/* A session of more is no move by a client, and each is opened once more. */
#define BOXES_MAX 16
#define LOST_MAX  100000

struct lost {
	struct guid guid;
	const char *mailbox;
};

static int lost_cmp(const void *a, const void *b)
{
	const struct lost *x = a, *y = b;

	return guid_cmp(&x->guid, &y->guid);
}

/* ---- the master: what went where from ---- */

static int add_lost(struct moves *moves, const struct guid *guid, const char *mailbox)
{
	if (moves->count == moves->size) {
		size_t size = moves->size != 0 ? moves->size * 2 : 64;
		struct lost *bigger = realloc(moves->lost, size * sizeof(*bigger));

		if (bigger == NULL)
			return -ENOMEM;
		moves->lost = bigger;
		moves->size = size;
	}
	moves->lost[moves->count++] = (struct lost){.guid = *guid, .mailbox = mailbox};
	return 0;
}

/* What the log tells since the peer has heard of it. True: something was lost. */
static bool list_lost(struct brain *brain, struct moves *moves, const char *name)
{
	struct mailbox_changes changes = {.count = 0};
	struct mailbox *mailbox = NULL;
	const struct sync_mailbox_state *saved;
	struct error err = {0};
	size_t before = moves->count;
	int ret = box_cache_take(brain->options->cache, brain->user, name, &mailbox, &err);

	if (ret < 0)
		return false;
	saved = brain_saved_state(brain, &mailbox_status(mailbox)->guid);
	if (saved != NULL)
		ret = mailbox_changes(mailbox, saved->acked_modseq, &changes, &err);
	/* As far as it goes back. */
	if (ret == -ERANGE)
		ret = 0;
	for (size_t i = 0; i < changes.count && ret == 0 && moves->count < LOST_MAX; i++) {
		if (changes.change[i].expunged && changes.change[i].has_guid)
			ret = add_lost(moves, &changes.change[i].guid, name);
	}
	mailbox_changes_free(&changes);
	box_cache_put(brain->options->cache, brain->user, &mailbox);
	return moves->count > before;
}

void moves_prepare(struct brain *brain, bool last_r[])
{
	const struct sync_options *options = brain->options;
	struct moves *moves = &brain->moves;

	memset(last_r, 0, options->box_count * sizeof(*last_r));
	if (options->box_count < 2 || options->box_count > BOXES_MAX ||
	    !items_peer_has_key(brain->items, ITEM_CHANGE, "from"))
		return;
	for (size_t i = 0; i < options->box_count; i++)
		last_r[i] = list_lost(brain, moves, options->boxes[i].name);
	if (moves->count > 0)
		qsort(moves->lost, moves->count, sizeof(*moves->lost), lost_cmp);
}

void moves_mark(struct box *box)
{
	const struct moves *moves = &box->brain->moves;
	struct item_list *list = &box->export.list;

	for (size_t i = 0; i < list->count && moves->count > 0; i++) {
		struct merge_item *item = &list->items[i];
		struct mail_body_info info;
		struct mail_body *body = NULL;
		struct lost wanted;

		if (item->type != 's')
			continue;
		guid_from_message_guid(item->guid, &wanted.guid);
		const struct lost *lost =
			bsearch(&wanted, moves->lost, moves->count, sizeof(*moves->lost), lost_cmp);
		if (lost == NULL || strcmp(lost->mailbox, box->name) == 0 ||
		    mailbox_body_open(box->mailbox, item->uid, &body, &info, NULL) < 0)
			continue;
		/* A POP3 UIDL goes with the body alone. */
		if (info.pop3_uidl == NULL || info.pop3_uidl[0] == '\0') {
			item->from = lost->mailbox;
			item->saved = info.saved;
		}
		mailbox_body_close(&body);
	}
}

void moves_free(struct moves *moves)
{
	free(moves->lost);
	*moves = (struct moves){.lost = NULL};
}

/* ---- the other end: a body that is here already ---- */

struct search {
	struct box *box;
	const char *from;
	struct mailbox *mailbox;
	size_t *wanted; /* requests, by the GUIDs of their messages */
	uint32_t *uids; /* of those that are found */
	size_t count;
};

static const struct merge_action *action_of(const struct box *box, size_t request)
{
	return &box->import.plan.actions[box->import.requests[request].action];
}

static const char *from_of(const struct box *box, size_t request)
{
	const struct merge_action *action = action_of(box, request);

	return action->peer != NULL ? action->peer->from : NULL;
}

static int find_wanted(void *ctx, const struct mail *mail)
{
	struct search *search = ctx;

	for (size_t i = 0; i < search->count; i++) {
		const char *guid = action_of(search->box, search->wanted[i])->guid;

		if (guid != NULL && strcmp(guid, mail->guid) == 0)
			search->uids[i] = mail->uid;
	}
	return 0;
}

static int copy_body(struct box *box, struct mail_body *body, struct mail_spool *spool,
		     struct error *err)
{
	char data[16384];
	ssize_t n;

	while ((n = mailbox_body_read(body, data, sizeof(data), err)) > 0) {
		int ret = mailbox_spool_write(spool, data, (size_t)n, err);
		if (ret < 0)
			return ret;
		box->import.spooled_bytes += (uint64_t)n;
	}
	return (int)n;
}

/* What does not work is asked for. */
static void take_body(struct search *search, size_t index)
{
	struct box *box = search->box;
	struct import_request *request = &box->import.requests[search->wanted[index]];
	const struct merge_action *action = action_of(box, search->wanted[index]);
	struct mail_body_info info;
	struct mail_body *body = NULL;
	struct error err = {0};
	int ret = mailbox_body_open(search->mailbox, search->uids[index], &body, &info, &err);

	if (ret == 0)
		ret = mailbox_spool_open(box->mailbox, action->guid, info.received, &request->spool,
					 &err);
	if (ret == 0)
		ret = copy_body(box, body, request->spool, &err);
	mailbox_body_close(&body);
	if (ret < 0) {
		log_debug("%s", err.text);
		mailbox_spool_discard(&request->spool);
		return;
	}
	request->saved = action->peer->saved;
	request->received = true;
	box->import.spooled_count++;
}

/* All that are wanted from one mailbox. -ENOMEM */
static int take_from(struct box *box, size_t first)
{
	struct import *import = &box->import;
	struct search search = {.box = box, .from = from_of(box, first)};
	struct error err = {0};

	search.wanted = calloc(import->request_count, sizeof(*search.wanted));
	search.uids = calloc(import->request_count, sizeof(*search.uids));
	if (search.wanted == NULL || search.uids == NULL) {
		free(search.wanted);
		free(search.uids);
		return -ENOMEM;
	}
	for (size_t i = first; i < import->request_count && search.count < MOVES_AT_ONCE; i++) {
		const char *from = from_of(box, i);

		if (from != NULL && strcmp(from, search.from) == 0)
			search.wanted[search.count++] = i;
	}
	if (mailbox_open(box->brain->user, search.from, &search.mailbox, &err) == 0 &&
	    mailbox_each(search.mailbox, 1, UINT32_MAX, find_wanted, &search, &err) == 0) {
		for (size_t i = 0; i < search.count; i++) {
			if (search.uids[i] != 0)
				take_body(&search, i);
		}
	}
	mailbox_close(&search.mailbox);
	free(search.wanted);
	free(search.uids);
	return 0;
}

void moves_take(struct box *box)
{
	struct import *import = &box->import;
	const char *before = NULL;

	/* One look into one mailbox: a client moves from one. */
	for (size_t i = 0; i < import->request_count && before == NULL; i++) {
		const char *from = from_of(box, i);

		if (from == NULL || strcmp(from, box->name) == 0)
			continue;
		before = from;
		if (take_from(box, i) < 0)
			return;
	}
}
