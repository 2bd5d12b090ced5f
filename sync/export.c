/*
 * Own changes and bodies to the peer.
 *
 * The list is made once, from the mailbox as it was opened; the merge gets the very same list. Up
 * to the common UID it holds what the log says has changed, above it every message. Bodies are sent
 * in pieces, as the stream takes them.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/digest.h"
#include "store/base/log.h"
#include "sync/brain_private.h"
#include "sync/header_hash.h"

#define BODY_PIECE_BYTES 16384

/* Walks messages and log changes, both ascending, into one ascending list. */
struct list_builder {
	struct box *box;
	struct item_list *list;
	size_t next_change;
	bool with_expunges;
};

struct part_builder {
	struct item_list *list;
	size_t count;
};

static const struct mailbox_change *change_at(const struct list_builder *builder)
{
	const struct mailbox_changes *changes = &builder->box->changes;

	return builder->next_change < changes->count ? &changes->change[builder->next_change]
						     : NULL;
}

/* Expunges below uid; what the log says of other messages that are gone means nothing. */
static int add_expunges_below(struct list_builder *builder, uint64_t uid)
{
	const struct mailbox_change *change;
	int ret = 0;

	while (ret == 0 && (change = change_at(builder)) != NULL && change->uid < uid) {
		if (change->expunged && builder->with_expunges && change->uid != 0)
			ret = item_list_add_expunge(builder->list, change);
		builder->next_change++;
	}
	return ret;
}

static int add_message(void *ctx, const struct mail *mail)
{
	struct list_builder *builder = ctx;
	int ret = add_expunges_below(builder, mail->uid);

	if (ret < 0)
		return ret;
	const struct mailbox_change *change = change_at(builder);
	if (blocks_have(&builder->box->blocks, mail->uid))
		return 0;
	if (change == NULL || change->uid != mail->uid)
		return item_list_add_mail(builder->list, 's', mail, NULL, NULL);
	builder->next_change++;
	/* Expunged and there again under its UID: it was put back. */
	return item_list_add_mail(builder->list, 's', mail, change->expunged ? NULL : change, NULL);
}

/* Up to the common UID: only what changed. */
static int add_changes(struct list_builder *builder, struct error *err)
{
	struct box *box = builder->box;
	const struct mailbox_change *change;
	int ret = 0;

	while (ret == 0 && (change = change_at(builder)) != NULL &&
	       change->uid <= box->common_uid) {
		struct mail mail;

		builder->next_change++;
		ret = mailbox_find(box->mailbox, change->uid, &mail, err);
		if (ret == 0)
			ret = item_list_add_mail(builder->list, 'f', &mail,
						 change->expunged ? NULL : change, NULL);
		else if (ret == -ENOENT)
			ret = change->expunged ? item_list_add_expunge(builder->list, change) : 0;
	}
	return ret;
}

static int hash_message(struct box *box, uint32_t uid, char hex_r[HEADER_HASH_HEX_SIZE],
			struct error *err)
{
	struct mail_body_info info;
	struct mail_body *body = NULL;
	struct header_hash hash;
	char data[4096];
	ssize_t n = 0;
	int ret = mailbox_body_open(box->mailbox, uid, &body, &info, err);

	if (ret < 0)
		return ret;
	header_hash_init(&hash);
	do {
		n = mailbox_body_read(body, data, sizeof(data), err);
	} while (n > 0 && !header_hash_update(&hash, data, (size_t)n));
	mailbox_body_close(&body);
	ret = n < 0 ? (int)n
		    : header_hash_finish(&hash,
					 items_peer_minor(box->brain->items) >= 4 ? HEADER_HASH_V3
										  : HEADER_HASH_V1,
					 box->brain->hashed_headers, hex_r);
	header_hash_free(&hash);
	return ret;
}

/* A peer that cannot set GUIDs knows messages by their headers. */
static int add_header_hashes(struct box *box, struct error *err)
{
	struct item_list *list = &box->export.list;

	if (box->peer.have_save_guids || box->peer.messages_count == 0)
		return 0;
	for (size_t i = 0; i < list->count; i++) {
		char hex[HEADER_HASH_HEX_SIZE];

		if (list->items[i].type == 'e')
			continue;
		int ret = hash_message(box, list->items[i].uid, hex, err);
		if (ret < 0 && ret != -ENOENT)
			return ret;
		list->items[i].hdr_hash = item_list_strdup(list, ret == 0 ? hex : "");
		if (list->items[i].hdr_hash == NULL)
			return -ENOMEM;
	}
	return 0;
}

int export_build(struct box *box, struct error *err)
{
	bool dovecot = brain_mode(box->brain) == MERGE_DOVECOT;
	struct list_builder builder = {
		.box = box,
		.list = &box->export.list,
		/* Dovecot: an 'e' above a stateful common UID may be left out. */
		.with_expunges = !dovecot || !box->stateful,
	};
	int ret = 0;

	if (box->stateful)
		ret = add_changes(&builder, err);
	if (ret == 0 && box->common_uid < UINT32_MAX && box->status.messages > 0 &&
	    box->status.uid_next > box->common_uid + 1)
		ret = mailbox_each(box->mailbox, box->common_uid + 1, UINT32_MAX, add_message,
				   &builder, err);
	if (ret == 0)
		ret = add_expunges_below(&builder, UINT64_MAX);
	if (ret == 0)
		ret = add_header_hashes(box, err);
	if (ret == 0)
		ret = box_filter_own(box, err);
	if (ret == 0)
		moves_mark(box);
	if (ret == -ENOMEM)
		return error_errno(err, ret, "list of changes");
	return ret;
}

static int add_to_part(void *ctx, const struct mail *mail)
{
	struct part_builder *builder = ctx;
	int ret = item_list_add_mail(builder->list, 's', mail, NULL, NULL);

	if (ret < 0)
		return ret;
	return builder->list->count == builder->count ? 1 : 0;
}

int export_build_part(struct box *box, uint32_t first_uid, size_t count, struct error *err)
{
	struct part_builder builder = {.list = &box->export.list, .count = count};
	uint32_t last_uid = box->status.uid_next - 1;

	if (first_uid > last_uid)
		return 0;
	int ret = mailbox_each(box->mailbox, first_uid, last_uid, add_to_part, &builder, err);
	if (ret == -ENOMEM)
		return error_errno(err, ret, "list of messages");
	return ret < 0 ? ret : 0;
}

void export_end_part(struct export *export)
{
	item_list_free(&export->list);
	export->next_change = 0;
	export->request_count = 0;
	export->next_request = 0;
}

int export_send_changes(struct box *box, struct error *err)
{
	struct export *export = &box->export;
	bool dovecot = brain_mode(box->brain) == MERGE_DOVECOT;

	for (; export->next_change < export->list.count; export->next_change++) {
		struct item item = {.type = ITEM_CHANGE};
		char hex[GUID_HEX_SIZE];

		if (!stream_can_write(box->brain->stream))
			return 0;
		int ret = item_list_to_change(&export->list.items[export->next_change], dovecot,
					      &box->brain->filter, &export->scratch, hex,
					      &item.change);
		if (ret == 0)
			ret = items_send(box->brain->items, &item, err);
		if (ret < 0)
			return ret;
	}
	int ret = items_send_end(box->brain->items, err);
	return ret < 0 ? ret : 1;
}

static int push_request(struct export *export, uint32_t uid, const char *guid, bool by_uid)
{
	if (export->request_count == export->request_size) {
		size_t size = export->request_size != 0 ? export->request_size * 2 : 16;
		struct export_request *bigger =
			realloc(export->requests, size * sizeof(*export->requests));

		if (bigger == NULL)
			return -ENOMEM;
		export->requests = bigger;
		export->request_size = size;
	}
	export->requests[export->request_count++] =
		(struct export_request){.uid = uid, .guid = guid, .by_uid = by_uid};
	return 0;
}

static const struct merge_item *find_uid(const struct item_list *list, uint32_t uid)
{
	size_t low = 0, high = list->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (list->items[mid].uid == uid)
			return &list->items[mid];
		if (list->items[mid].uid < uid)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

static bool is_offered(const struct merge_item *item)
{
	return item->type != 'e' && !item->absent;
}

/* The message of the list that is asked for. The UID says where to look first. */
static const struct merge_item *find_requested(const struct item_list *list,
					       const struct item_request *request)
{
	const struct merge_item *item = find_uid(list, request->uid);

	if (request->guid == NULL)
		return item != NULL && is_offered(item) ? item : NULL;
	if (item != NULL && is_offered(item) && strcmp(item->guid, request->guid) == 0)
		return item;
	for (size_t i = 0; i < list->count; i++) {
		item = &list->items[i];
		if (is_offered(item) && strcmp(item->guid, request->guid) == 0)
			return item;
	}
	return NULL;
}

int export_add_request(struct box *box, const struct item_request *request, struct error *err)
{
	struct export *export = &box->export;

	/* What we could not list cannot be asked for, but such a mailbox sends no M. */
	if (box->failed != 0 && export->list.count == 0)
		return 0;
	const struct merge_item *item = find_requested(&export->list, request);
	if (item == NULL) {
		int ret = error_set(err, -EPROTO, "Remote requested unexpected %s %.200s%u",
				    request->guid != NULL ? "GUID" : "UID",
				    request->guid != NULL ? request->guid : "",
				    request->guid != NULL ? 0 : request->uid);
		return stream_set_failed(box->brain->stream, ret, err);
	}
	if (export->request_count > export->list.count) {
		int ret = error_set(err, -EPROTO, "Remote requested more mails than there are");
		return stream_set_failed(box->brain->stream, ret, err);
	}
	int ret = push_request(export, item->uid, item->guid, request->guid == NULL);
	if (ret < 0)
		return error_errno(err, ret, "mail requests");
	return 0;
}

int export_request_all(struct box *box, struct error *err)
{
	for (size_t i = 0; i < box->export.list.count; i++) {
		const struct merge_item *item = &box->export.list.items[i];

		if (item->type != 's' || item->absent)
			continue;
		int ret = push_request(&box->export, item->uid, item->guid, *item->guid == '\0');
		if (ret < 0)
			return error_errno(err, ret, "mails to send");
	}
	return 0;
}

/* The peer asks for a message of which we have the record and no file: the power went, or somebody
 * took the file away behind the mount. Where a second look does not find it either there is no such
 * message on either side, and with the record it would be offered again in each session. */
static void drop_lost(struct box *box, uint32_t uid)
{
	struct mailbox_txn *txn = NULL;
	struct mail_body_info info;
	struct mail_body *body = NULL;
	struct error err = {0};
	size_t missing = 0;
	bool changed;
	int ret = mailbox_scan(box->mailbox, &changed, &missing, &err);

	if (ret == 0 && missing > 0) {
		ret = mailbox_body_open(box->mailbox, uid, &body, &info, &err);
		mailbox_body_close(&body);
		if (ret != -ENOENT)
			return;
		ret = mailbox_begin(box->mailbox, &txn, &err);
		if (ret == 0)
			ret = mailbox_expunge(txn, uid, &err);
		if (ret == 0)
			ret = mailbox_commit(&txn, NULL, &err);
		else if (txn != NULL)
			mailbox_abort(&txn);
		if (ret == 0)
			log_warning("a message has no file here and is not at the peer either: its "
				    "record is removed uid=%u user=%s mailbox=%s",
				    uid, box->brain->user->name, box->name);
	}
	if (ret < 0)
		log_warning("%s user=%s mailbox=%s", err.text, box->brain->user->name, box->name);
}

/* The M item. Without a body: it has vanished, is renamed faster than we look (-EAGAIN), or cannot
 * be read; the peer goes on without. */
static int send_mail_item(struct box *box, const struct export_request *request, struct error *err)
{
	struct export *export = &box->export;
	struct mail_body_info info = {.pop3_uidl = ""};
	uint32_t uid = import_current_uid(box, request->uid);
	struct error body_err = {0};
	int ret = mailbox_body_open_whole(box->mailbox, uid, &export->body, &info, &body_err);

	if (ret < 0) {
		export->body = NULL;
		if (ret != -ENOENT && ret != -EAGAIN)
			brain_failed(box->brain, box->name, ret, &body_err);
		else if (ret == -ENOENT && brain_mode(box->brain) == MERGE_DSYNCFS)
			drop_lost(box, uid);
		box_again(box, ret == -EAGAIN ? "a message's file is renamed all the time"
					      : "a message vanished before it was sent");
	}
	if (brain_has_digests(box->brain) && digest_sum_begin(&export->sum) < 0)
		return error_errno(err, -ENOMEM, "digest of a body");
	struct item item = {
		.type = ITEM_MAIL,
		.mail = {.guid = request->by_uid ? "" : request->guid,
			 .uid = request->by_uid ? request->uid : 0,
			 .pop3_uidl = info.pop3_uidl != NULL ? info.pop3_uidl : "",
			 .pop3_order = info.pop3_order,
			 .received_date = info.received,
			 .saved_date = info.saved,
			 .stream = export->body != NULL},
	};
	return items_send(box->brain->items, &item, err);
}

/* So that what is damaged on its way, or by either end, is asked for again. */
static int send_digest(struct box *box, struct error *err)
{
	uint8_t sha1[DIGEST_SHA1_SIZE];
	char hex[2 * DIGEST_SHA1_SIZE + 1];
	struct item item = {.type = ITEM_MAIL, .mail = {.body_digest = hex}};

	digest_sum_end(box->export.sum, sha1);
	digest_to_hex(sha1, sizeof(sha1), hex);
	return items_send(box->brain->items, &item, err);
}

static int end_body(struct box *box, bool digests, struct error *err)
{
	struct export *export = &box->export;
	int ret = stream_end_value(box->brain->stream, err);

	if (ret == 0 && digests)
		ret = send_digest(box, err);
	if (ret < 0)
		return ret;
	mailbox_body_close(&export->body);
	export->mails_sent++;
	brain_progress(box);
	return 1;
}

/* Sends the rest of the open body. 1: all of it; 0: the stream is full. */
static int send_body(struct box *box, struct error *err)
{
	struct export *export = &box->export;
	bool digests = brain_has_digests(box->brain);
	struct stream *stream = box->brain->stream;
	char data[BODY_PIECE_BYTES];

	while (stream_can_write(stream)) {
		ssize_t n = mailbox_body_read(export->body, data, sizeof(data), err);

		if (n < 0) {
			/* Half a message is on the wire: nothing can follow it. */
			error_prefix(err, "user=%s mailbox=%s", box->brain->user->name, box->name);
			return stream_set_failed(stream, (int)n, err);
		}
		if (n == 0)
			return end_body(box, digests, err);
		if (digests)
			digest_sum_add(export->sum, data, (size_t)n);
		int ret = stream_write_value(stream, data, (size_t)n, err);
		if (ret < 0)
			return ret;
	}
	return 0;
}

int export_send_mails(struct box *box, struct error *err)
{
	struct export *export = &box->export;

	for (;;) {
		if (export->body != NULL) {
			int ret = send_body(box, err);
			if (ret <= 0)
				return ret;
		}
		if (!stream_can_write(box->brain->stream))
			return 0;
		if (export->next_request == export->request_count)
			break;
		int ret = send_mail_item(box, &export->requests[export->next_request++], err);
		if (ret < 0)
			return ret;
	}
	int ret = items_send_end(box->brain->items, err);
	return ret < 0 ? ret : 1;
}

void export_free(struct export *export)
{
	mailbox_body_close(&export->body);
	digest_sum_free(&export->sum);
	item_list_free(&export->list);
	free(export->requests);
	free(export->scratch.words);
	memset(export, 0, sizeof(*export));
}
