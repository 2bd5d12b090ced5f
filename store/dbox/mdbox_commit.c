/*
 * Carrying out a transaction of an mdbox mailbox (reference 7a, 7c, 7e, 7g). The map and the
 * mailbox's index are locked.
 *
 *   1. bodies go to the ends of m.N, and are synced
 *   2. the map gets their records, and one reference more for each copy
 *   3. the mailbox's index gets its records
 *   4. the map loses the references of what was expunged
 *
 * In this order a count is never too low for longer than nobody can see it. An intent says which
 * counts may be too high until 4 is done.
 */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/dbox/dbox_intent.h"

static const struct index_ext_def mdbox_def = {
	.name = DBOX_EXT_MDBOX, .record_size = DBOX_MDBOX_RECORD, .record_align = 4};
static const struct index_ext_def guid_def = {
	.name = DBOX_EXT_GUID, .record_size = 16, .record_align = 1};

struct commit {
	struct dbox_txn *txn;
	struct mdbox_storage *storage;
	struct mdbox_append *append;
	uint32_t next_map_uid;
	bool map_changes;
	/* map UIDs, each as often as it is meant */
	uint32_t *added, *dropped, *touched; /* touched: both, and new ones */
	size_t added_count, dropped_count, touched_count;
};

static int init(struct commit *commit, struct dbox_txn *txn, struct error *err)
{
	struct index_status status;
	size_t room = txn->op_count ? txn->op_count : 1;

	*commit = (struct commit){.txn = txn, .storage = txn->db->storage};
	commit->added = calloc(room, sizeof *commit->added);
	commit->dropped = calloc(room, sizeof *commit->dropped);
	commit->touched = calloc(2 * room, sizeof *commit->touched);
	index_status(commit->storage->map, &status);
	commit->next_map_uid = status.next_uid;
	return commit->added && commit->dropped && commit->touched
		       ? 0
		       : error_errno(err, -ENOMEM, "%s", txn->db->path);
}

static void deinit(struct commit *commit)
{
	free(commit->added);
	free(commit->dropped);
	free(commit->touched);
}

/* ---- the mailbox's records ---- */

static int put_record(struct commit *commit, uint32_t uid, uint32_t map_uid, int64_t saved,
		      const struct guid *guid, struct error *err)
{
	struct index_txn *txn = commit->txn->index_txn;
	uint8_t record[DBOX_MDBOX_RECORD];
	int rc;

	index_put32(record, map_uid);
	index_put32(record + 4,
		    saved > 0 && saved <= UINT32_MAX ? (uint32_t)saved : (uint32_t)time(NULL));
	rc = index_update_ext(txn, &mdbox_def, uid, record, err);
	return rc < 0 ? rc : index_update_ext(txn, &guid_def, uid, guid->bytes, err);
}

/* ---- bodies ---- */

static int store_body(struct commit *commit, struct dbox_op *op, int fd, uint64_t offset,
		      uint64_t size, const struct dbox_metadata *metadata, struct error *err)
{
	int rc = 0;

	if (!commit->append)
		rc = mdbox_append_begin(commit->storage, commit->txn->map_txn, &commit->append,
					err);
	if (rc == 0)
		rc = mdbox_append_message(commit->append, fd, offset, size, metadata, &op->entry,
					  err);
	if (rc < 0)
		return rc;
	op->entry.map_uid = op->map_uid = commit->next_map_uid++;
	commit->touched[commit->touched_count++] = op->map_uid;
	commit->map_changes = true;
	return mdbox_map_add(commit->txn->map_txn, &op->entry, err);
}

static int store_spool(struct commit *commit, struct dbox_op *op, struct error *err)
{
	struct dbox_metadata metadata;
	struct guid guid;
	int rc;

	dbox_op_metadata(commit->txn, op, &metadata);
	rc = store_body(commit, op, dbox_spool_fd(op->spool), op->spool->offset, op->spool->size,
			&metadata, err);
	if (rc < 0)
		return rc;
	guid_from_message_guid(op->guid, &guid);
	return put_record(commit, op->uid, op->map_uid, op->saved, &guid, err);
}

static void drop(struct commit *commit, uint32_t map_uid)
{
	commit->dropped[commit->dropped_count++] = map_uid;
	commit->touched[commit->touched_count++] = map_uid;
}

/* ---- operations ---- */

static int do_copy(struct commit *commit, struct dbox_op *op, struct error *err)
{
	struct dbox *db = commit->txn->db;
	struct dbox_message message;
	struct index_record record;
	struct mdbox_entry entry;
	struct guid guid;
	bool owned;
	int fd, rc = index_find(db->index, op->source_uid, &record);

	if (rc < 0)
		return error_set(err, rc, "%s: no message with UID %u", db->path, op->source_uid);
	rc = dbox_message_of(db, &record, &message, &fd, &owned, err);
	if (rc < 0)
		return rc;
	op->map_uid = dbox_record_map_uid(db, &record);
	if ((op->guid && strcmp(op->guid, message.metadata.guid) != 0) ||
	    mdbox_map_find(commit->storage, op->map_uid, &entry) < 0 || entry.ref == 0 ||
	    (size_t)entry.ref + commit->added_count >= MDBOX_REF_MAX) {
		struct dbox_metadata metadata = message.metadata;

		if (op->guid)
			metadata.guid = op->guid;
		/* Its attachments would be removed with either. */
		rc = metadata.external
			     ? error_set(err, -EOPNOTSUPP,
					 "%s: UID %u has attachments in a directory of their own "
					 "and cannot get another GUID",
					 db->path, op->source_uid)
			     : store_body(commit, op, fd, message.body_offset, message.body_size,
					  &metadata, err);
	} else {
		commit->added[commit->added_count++] = op->map_uid;
		commit->touched[commit->touched_count++] = op->map_uid;
		commit->map_changes = true;
		rc = mdbox_map_refer(commit->txn->map_txn, op->map_uid, 1, err);
	}
	guid_from_message_guid(op->guid ? op->guid : message.metadata.guid, &guid);
	dbox_message_free(&message);
	return rc < 0 ? rc : put_record(commit, op->uid, op->map_uid, 0, &guid, err);
}

static int do_move(struct commit *commit, struct dbox_op *op, struct error *err)
{
	struct dbox *db = commit->txn->db;
	struct index_record record;
	uint8_t data[DBOX_MDBOX_RECORD] = {0};
	struct guid guid;

	if (index_find(db->index, op->source_uid, &record) < 0)
		return error_set(err, -ENOENT, "%s: no message with UID %u", db->path,
				 op->source_uid);
	index_record_ext(db->index, &record, DBOX_EXT_MDBOX, data, sizeof data);
	dbox_record_guid(db, &record, &guid);
	return put_record(commit, op->uid, index_get32(data), index_get32(data + 4), &guid, err);
}

static int do_restore(struct commit *commit, struct dbox_op *op, struct error *err)
{
	struct dbox *db = commit->txn->db;
	struct index_record record;
	int rc = index_find(db->index, op->uid, &record);
	uint32_t old;

	if (rc < 0)
		return error_set(err, rc, "%s: no message with UID %u", db->path, op->uid);
	old = dbox_record_map_uid(db, &record);
	rc = store_spool(commit, op, err);
	if (rc == 0 && old)
		drop(commit, old);
	if (rc == 0)
		log_notice("%s: the missing body of UID %u was put back", db->path, op->uid);
	return rc;
}

static int do_op(struct commit *commit, struct dbox_op *op, struct error *err)
{
	switch (op->kind) {
	case DBOX_OP_APPEND:
		return store_spool(commit, op, err);
	case DBOX_OP_RESTORE:
		return do_restore(commit, op, err);
	case DBOX_OP_COPY:
		return do_copy(commit, op, err);
	case DBOX_OP_MOVE_UID:
		return do_move(commit, op, err);
	case DBOX_OP_EXPUNGE:
		if (op->map_uid)
			drop(commit, op->map_uid);
		break;
	case DBOX_OP_STATE:
		break;
	}
	return 0;
}

/* ---- the map ---- */

/* The mailbox's index could not be written: what the map got for it is taken back. */
static void undo_map(struct commit *commit)
{
	struct error err;
	size_t count = commit->added_count;

	for (size_t i = 0; i < commit->txn->op_count; i++) {
		if (commit->txn->ops[i].entry.map_uid)
			count++;
	}
	if (!count)
		return;
	uint32_t *map_uids = calloc(count, sizeof *map_uids);

	count = 0;
	for (size_t i = 0; map_uids && i < commit->added_count; i++)
		map_uids[count++] = commit->added[i];
	for (size_t i = 0; map_uids && i < commit->txn->op_count; i++) {
		if (commit->txn->ops[i].entry.map_uid)
			map_uids[count++] = commit->txn->ops[i].entry.map_uid;
	}
	if (!map_uids ||
	    mdbox_map_drop(commit->storage, commit->txn->map_txn, map_uids, count, &err) < 0)
		log_warning("%s: references that nobody has stay until the next purge",
			    commit->storage->index_path);
	free(map_uids);
}

static int commit_indexes(struct commit *commit, bool *map_done, struct error *err)
{
	struct dbox_txn *txn = commit->txn;
	int rc = 0;

	if (commit->map_changes) {
		rc = index_commit_part(txn->map_txn, true, err);
		if (rc < 0)
			return rc;
		*map_done = true;
		DBOX_STEP("map");
	}
	rc = index_commit_part(txn->index_txn, txn->sync, err);
	if (rc < 0) {
		undo_map(commit);
		return rc;
	}
	DBOX_STEP("index");
	if (commit->dropped_count) {
		rc = mdbox_map_drop(commit->storage, txn->map_txn, commit->dropped,
				    commit->dropped_count, err);
		DBOX_STEP("dropped");
	}
	return rc;
}

/* What the two below are about to change. */
static int write_intent(const struct commit *commit, char **intent_r, struct error *err)
{
	AUTO_FREE uint32_t *files = NULL;
	struct dbox_intent intent = {.uid_validity = mdbox_storage_uid_validity(commit->storage),
				     .uids = commit->touched,
				     .count = commit->touched_count};
	int rc = commit->append
			 ? mdbox_append_list_new(commit->append, &files, &intent.file_count, err)
			 : 0;

	intent.files = files;
	return rc < 0 ? rc
		      : dbox_intent_write(commit->storage->dirfd, commit->storage->path, &intent,
					  intent_r, err);
}

int mdbox_commit(struct dbox_txn *txn, struct error *err)
{
	struct commit commit;
	char *intent = NULL;
	bool map_done = false;
	int rc = init(&commit, txn, err);

	for (size_t i = 0; rc == 0 && i < txn->op_count; i++)
		rc = do_op(&commit, &txn->ops[i], err);
	if (rc == 0)
		rc = dbox_note_pop3(txn, err);
	if (rc == 0 && commit.touched_count)
		rc = write_intent(&commit, &intent, err);
	if (rc == 0 && commit.append)
		rc = mdbox_append_sync(commit.append, err);
	if (rc == 0 && commit.append)
		DBOX_STEP("placed");
	if (rc == 0)
		rc = commit_indexes(&commit, &map_done, err);
	mdbox_append_end(&commit.append, map_done);
	dbox_intent_remove(commit.storage->dirfd, commit.storage->path, &intent);
	deinit(&commit);
	return rc;
}
