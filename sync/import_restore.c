/*
 * Messages of which we have the record and no file (the power went between the file and its record,
 * or somebody removed files behind the mount): where the peer has the same message, its body is put
 * back. Absence is no expunge, so nothing else changes: the merge sees the message on both sides.
 *
 * Found by a scan, when no saved state shortens the lists (brain_box.c). The bodies are asked for
 * behind those of the plan.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/log.h"
#include "sync/brain_private.h"

static bool is_message(const struct merge_item *item, const char *guid)
{
	return item->type == 's' && item->guid != NULL && strcmp(item->guid, guid) == 0;
}

/* As a rule under the same UID; under another one if the UIDs were at odds. */
static bool peer_has(const struct item_list *peer, const struct merge_item *own)
{
	const struct merge_item *item = merge_items_find(peer->items, peer->count, own->uid);

	if (item != NULL && is_message(item, own->guid))
		return true;
	for (size_t i = 0; i < peer->count; i++) {
		if (is_message(&peer->items[i], own->guid))
			return true;
	}
	return false;
}

bool import_restore_wants(const struct box *box, uint32_t uid)
{
	size_t count, low = 0;
	const uint32_t *missing = mailbox_missing(box->mailbox, &count);

	for (size_t high = count; box->scanned && low < high;) {
		size_t mid = low + (high - low) / 2;

		if (missing[mid] == uid)
			return true;
		if (missing[mid] < uid)
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

int import_restore_plan(struct box *box, struct error *err)
{
	struct import *import = &box->import;
	size_t count = 0;
	const uint32_t *missing = box->scanned ? mailbox_missing(box->mailbox, &count) : NULL;

	if (count == 0 || brain_mode(box->brain) != MERGE_DSYNCFS)
		return 0;
	import->restores = calloc(count, sizeof(*import->restores));
	if (import->restores == NULL)
		return error_errno(err, -ENOMEM, "messages to put back");
	for (size_t i = 0; i < count; i++) {
		const struct merge_item *own = merge_items_find(box->export.list.items,
								box->export.list.count, missing[i]);

		if (own == NULL || own->type != 's' || own->guid == NULL || *own->guid == '\0' ||
		    !peer_has(&import->list, own))
			continue;
		import->restores[import->restore_count++] =
			(struct import_restore){.uid = own->uid, .guid = own->guid};
	}
	return 0;
}

int import_restore_send_requests(struct box *box, struct error *err)
{
	struct import *import = &box->import;

	for (; import->restores_sent < import->restore_count; import->restores_sent++) {
		struct item item = {
			.type = ITEM_REQUEST,
			.request = {.guid = import->restores[import->restores_sent].guid},
		};

		if (!stream_can_write(box->brain->stream))
			return 0;
		int ret = items_send(box->brain->items, &item, err);
		if (ret < 0)
			return ret;
	}
	return 1;
}

struct import_restore *import_restore_find(struct box *box, const struct item_mail *mail)
{
	struct import *import = &box->import;

	/* They come in the order in which they were asked for, as a rule. */
	for (size_t i = 0; mail->guid != NULL && i < import->restore_count; i++) {
		size_t index = (import->restores_next + i) % import->restore_count;
		struct import_restore *restore = &import->restores[index];

		if (!restore->received && strcmp(restore->guid, mail->guid) == 0) {
			import->restores_next = index + 1;
			return restore;
		}
	}
	return NULL;
}

void import_restore_begin(struct box *box, struct import_restore *restore,
			  const struct item_mail *mail)
{
	struct error err = {0};

	restore->received = true;
	restore->saved = mail->saved_date;
	restore->pop3_order = mail->pop3_order;
	if (mail->pop3_uidl != NULL && *mail->pop3_uidl != '\0')
		restore->pop3_uidl = strdup(mail->pop3_uidl);
	if (!mail->stream) {
		box_again(box, "a message without a file did not come");
		return;
	}
	int ret = mailbox_spool_open(box->mailbox, restore->guid, mail->received_date,
				     &restore->spool, &err);
	if (ret < 0)
		box_fail(box, ret, &err);
}

static int put_back(struct box *box, struct mailbox_txn *txn, struct import_restore *restore,
		    struct error *err)
{
	struct mail mail;
	int ret = mailbox_find(box->mailbox, import_current_uid(box, restore->uid), &mail, err);

	/* Expunged meanwhile: that wins. */
	if (ret == -ENOENT || (ret == 0 && strcmp(mail.guid, restore->guid) != 0)) {
		mailbox_spool_discard(&restore->spool);
		return 0;
	}
	mail.guid = restore->guid;
	return ret < 0 ? ret
		       : mailbox_append(txn, &restore->spool, &mail, restore->saved,
					(struct mail_pop3){restore->pop3_uidl, restore->pop3_order},
					err);
}

void import_restore_apply(struct box *box)
{
	struct import *import = &box->import;
	struct mailbox_txn *txn = NULL;
	struct error err = {0};
	bool foreign = false;
	int ret = 0;

	if (box->failed != 0 || import->restores_spooled == 0)
		return;
	ret = mailbox_begin(box->mailbox, &txn, &err);
	if (ret == 0) {
		import_note_foreign(box);
		for (size_t i = 0; ret == 0 && i < import->restore_count; i++) {
			if (import->restores[i].spool != NULL &&
			    &import->restores[i] != import->restoring)
				ret = put_back(box, txn, &import->restores[i], &err);
		}
	}
	if (ret == 0)
		ret = mailbox_commit(&txn, &foreign, &err);
	mailbox_abort(&txn);
	import->foreign |= foreign;
	if (ret < 0) {
		box_fail(box, ret, &err);
		return;
	}
	import->restores_spooled = 0;
}

void import_restore_free(struct import *import)
{
	for (size_t i = 0; i < import->restore_count; i++) {
		mailbox_spool_discard(&import->restores[i].spool);
		free(import->restores[i].pop3_uidl);
	}
	free(import->restores);
	import->restores = NULL;
	import->restoring = NULL;
	import->restore_count = import->restores_sent = 0;
	import->restores_next = import->restores_spooled = 0;
}
