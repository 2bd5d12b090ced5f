/*
 * The attachments of sdbox messages: files of their own, whose names end in the mailbox's GUID and
 * the message's UID. So they get other names when either changes. Dovecot does not rename them
 * when it gives a mailbox another GUID, and does not find them any more; we do then, too (see
 * dbox_attachment.h), but leave them where they are.
 */
#include "store/dbox/dbox_private.h"

#include <unistd.h>
#include "store/base/log.h"

void sdbox_attachments_of(struct dbox *db, uint32_t uid, struct dbox_attachments *attachments_r)
{
	const struct index_record record = {.uid = uid};
	struct dbox_message message;
	struct error ignored;
	bool owned;
	int fd;

	*attachments_r = (struct dbox_attachments){0};
	if (!db->attachments || dbox_message_of(db, &record, &message, &fd, &owned, &ignored) < 0)
		return;
	close(fd);
	if (message.metadata.external &&
	    dbox_attachments_parse(message.metadata.other, attachments_r) < 0)
		log_warning("%s/u.%u: where its attachments are cannot be read", db->path, uid);
	dbox_message_free(&message);
}

/* from, to: UIDs with the mailbox's GUID. */
static int link_all(struct dbox *db, uint32_t uid, const struct guid *from_guid, uint32_t to_uid,
		    const struct guid *to_guid, struct error *err)
{
	char from[DBOX_ATTACHMENT_SUFFIX_SIZE], to[DBOX_ATTACHMENT_SUFFIX_SIZE];
	struct dbox_attachments attachments;
	int rc = 0;

	sdbox_attachments_of(db, uid, &attachments);
	if (attachments.count) {
		dbox_attachment_suffix(from_guid, uid, from);
		dbox_attachment_suffix(to_guid, to_uid, to);
		rc = dbox_attachments_link(db->attachments, &attachments, from, to, err);
	}
	dbox_attachments_free(&attachments);
	return rc;
}

static void remove_all(struct dbox *db, uint32_t uid, const struct guid *guid)
{
	char suffix[DBOX_ATTACHMENT_SUFFIX_SIZE];
	struct dbox_attachments attachments;

	sdbox_attachments_of(db, uid, &attachments);
	dbox_attachment_suffix(guid, uid, suffix);
	dbox_attachments_remove(db->attachments, &attachments, suffix);
	dbox_attachments_free(&attachments);
}

int sdbox_attachments_link(struct dbox *db, uint32_t source_uid, uint32_t uid, struct error *err)
{
	const struct guid *guid = &db->box.status.guid;

	return link_all(db, source_uid, guid, uid, guid, err);
}

void sdbox_attachments_remove(struct dbox *db, uint32_t uid)
{
	remove_all(db, uid, &db->box.status.guid);
}

void sdbox_attachments_recover(struct dbox *db, uint32_t uid)
{
	struct error err = {0};

	if (sdbox_attachments_link(db, uid, uid, &err) < 0)
		log_warning("%s: UID %u: its attachments: %s", db->path, uid, err.text);
}

/* ---- another GUID ---- */

typedef void each_uid_fn(struct dbox_txn *txn, uint32_t uid);

/* Every message that the mailbox has after the transaction: file and attachments of the others go
 * by their old names. */
static void each_remaining(struct dbox_txn *txn, each_uid_fn *each)
{
	struct index_record record;
	struct index_iter iter;

	index_iter_init(txn->db->index, 1, &iter);
	while (index_iter_next(&iter, &record)) {
		uint32_t op = uid_table_get(&txn->last_ops, record.uid);

		if (!op || txn->ops[op - 1].kind == DBOX_OP_STATE)
			each(txn, record.uid);
	}
	for (size_t i = 0; i < txn->op_count; i++) {
		if (txn->ops[i].placed)
			each(txn, txn->ops[i].uid);
	}
}

/* One whose attachments are not there is none the worse for it. */
static void name_anew(struct dbox_txn *txn, uint32_t uid)
{
	struct dbox *db = txn->db;
	struct error err = {0};

	if (link_all(db, uid, &db->box.status.guid, uid, &txn->new_guid, &err) < 0)
		log_warning("%s: UID %u: its attachments, with another GUID of the mailbox: %s",
			    db->path, uid, err.text);
}

static void drop_old_name(struct dbox_txn *txn, uint32_t uid)
{
	remove_all(txn->db, uid, &txn->db->box.status.guid);
}

static void drop_new_name(struct dbox_txn *txn, uint32_t uid)
{
	remove_all(txn->db, uid, &txn->new_guid);
}

void sdbox_attachments_rename_begin(struct dbox_txn *txn)
{
	if (txn->db->attachments && !guid_is_empty(&txn->new_guid))
		each_remaining(txn, name_anew);
}

void sdbox_attachments_rename_end(struct dbox_txn *txn, bool undo)
{
	if (!txn->db->attachments || guid_is_empty(&txn->new_guid))
		return;
	if (undo)
		each_remaining(txn, drop_new_name);
	else if (!txn->guid_copied)
		each_remaining(txn, drop_old_name);
}
