/*
 * Carrying out a transaction of an sdbox mailbox (reference 4.7). The index is locked.
 *
 *   1. new files are written, synced and named u.UID; a message that gets another UID has its file
 *      under both names
 *   2. the index gets its records
 *   3. the files of expunged messages and old UIDs go
 *
 * A u.UID that the index does not know would come back as a message when Dovecot rebuilds the
 * mailbox. An intent says which there may be until 3 is done, so that the next writer removes what
 * one that was killed has left.
 */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"
#include "store/dbox/dbox_intent.h"

#define COPY_BYTES 65536

static int file_error(const struct dbox *db, uint32_t uid, int code, const char *what,
		      struct error *err)
{
	return error_errno(err, code, "%s/u.%u: %s", db->path, uid, what);
}

static int copy_bytes(int from, uint64_t offset, uint64_t size, int to)
{
	char data[COPY_BYTES];

	while (size) {
		size_t part = size < sizeof data ? (size_t)size : sizeof data;
		int rc = file_pread_all(from, data, part, (off_t)offset);

		if (rc == 0)
			rc = file_write_all(to, data, part);
		if (rc < 0)
			return rc;
		offset += part;
		size -= part;
	}
	return 0;
}

static int write_file(int to, int from, uint64_t offset, uint64_t size,
		      const struct dbox_metadata *metadata)
{
	AUTO_BUF struct buf text = BUF_INIT(DBOX_METADATA_MAX);
	int rc;

	dbox_file_header_build(&text, time(NULL));
	dbox_message_header_build(&text, size);
	rc = text.failed ? text.failed : file_write_all(to, text.data, text.len);
	if (rc == 0)
		rc = copy_bytes(from, offset, size, to);
	buf_clear(&text);
	if (rc == 0)
		rc = dbox_metadata_build(&text, metadata);
	if (rc == 0)
		rc = file_write_all(to, text.data, text.len);
	if (rc == 0 && fdatasync(to) < 0)
		rc = -errno;
	return rc;
}

/* A file of this name that is there is that of a lost message, which is put back. */
static int place_file(struct dbox *db, uint32_t uid, int from, uint64_t offset, uint64_t size,
		      const struct dbox_metadata *metadata, struct error *err)
{
	char temporary[128], name[16];
	AUTO_CLOSE int to = -1;
	int rc;

	sdbox_file_name(uid, name);
	dbox_temporary_name(temporary, sizeof temporary);
	to = owned_file_create(db->dirfd, temporary, O_RDWR | O_TRUNC);
	if (to < 0)
		return file_error(db, uid, to, "create", err);
	rc = write_file(to, from, offset, size, metadata);
	if (rc == 0 && renameat(db->dirfd, temporary, db->dirfd, name) < 0)
		rc = -errno;
	if (rc < 0) {
		unlinkat(db->dirfd, temporary, 0);
		return file_error(db, uid, rc, "write", err);
	}
	return 0;
}

static int place_spool(struct dbox_txn *txn, struct dbox_op *op, struct error *err)
{
	struct dbox_metadata metadata;

	dbox_op_metadata(txn, op, &metadata);
	return place_file(txn->db, op->uid, dbox_spool_fd(op->spool), op->spool->offset,
			  op->spool->size, &metadata, err);
}

/* Another name for the file of source_uid; in the alternative storage where that is. */
static int link_file(struct dbox *db, uint32_t source_uid, uint32_t uid, struct error *err)
{
	char from[4400], to[4400], name[16];
	int rc = sdbox_attachments_link(db, source_uid, uid, err);

	if (rc < 0)
		return rc;

	for (int i = 0; i < 2; i++) {
		const char *dir = i == 0 ? db->path : db->alt_path;

		if (!dir)
			break;
		sdbox_file_name(source_uid, name);
		snprintf(from, sizeof from, "%s/%s", dir, name);
		sdbox_file_name(uid, name);
		snprintf(to, sizeof to, "%s/%s", dir, name);
		if (link(from, to) == 0)
			return 0;
		if (errno != ENOENT)
			return file_error(db, uid, -errno, "link", err);
	}
	return file_error(db, source_uid, -ENOENT, "link", err);
}

static int place_copy(struct dbox_txn *txn, struct dbox_op *op, struct error *err)
{
	struct dbox *db = txn->db;
	struct dbox_message message;
	struct index_record record;
	bool owned;
	int fd, rc = index_find(db->index, op->source_uid, &record);

	if (rc < 0)
		return error_set(err, rc, "%s: no message with UID %u", db->path, op->source_uid);
	rc = dbox_message_of(db, &record, &message, &fd, &owned, err);
	if (rc < 0)
		return rc;
	if (!op->guid || strcmp(op->guid, message.metadata.guid) == 0) {
		rc = link_file(db, op->source_uid, op->uid, err);
	} else {
		struct dbox_metadata metadata = message.metadata;

		metadata.guid = op->guid;
		if (metadata.external)
			rc = sdbox_attachments_link(db, op->source_uid, op->uid, err);
		if (rc == 0)
			rc = place_file(db, op->uid, fd, message.body_offset, message.body_size,
					&metadata, err);
	}
	close(fd);
	dbox_message_free(&message);
	return rc;
}

static bool has_file(const struct dbox *db, uint32_t uid)
{
	char name[16];

	sdbox_file_name(uid, name);
	return faccessat(db->dirfd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Else a writer died in the middle of it. */
static bool has_message(struct dbox *db, uint32_t uid)
{
	const struct index_record record = {.uid = uid};
	struct dbox_message message;
	struct error why;
	bool owned;
	int fd, rc = dbox_message_of(db, &record, &message, &fd, &owned, &why);

	if (rc == 0 && owned)
		close(fd);
	if (rc == 0)
		dbox_message_free(&message);
	if (dbox_is_missing(db, rc))
		log_warning("%s/u.%" PRIu32 " is replaced, as no message can be read of it: %s",
			    db->path, uid, why.text);
	return !dbox_is_missing(db, rc);
}

/* A new UID whose file is there: a writer left it that died, or the index has lost a message. */
static int check_free(struct dbox *db, uint32_t uid, struct error *err)
{
	int rc;

	if (!has_file(db, uid))
		return 0;
	db->recovered_s = 0;
	rc = sdbox_recover(db, err);
	if (rc < 0 || !has_file(db, uid) || !has_message(db, uid))
		return rc;
	return error_set(err, -EUCLEAN, "%s/u.%" PRIu32 " is there, and the index does not know it",
			 db->path, uid);
}

static int place_op(struct dbox_txn *txn, struct dbox_op *op, struct error *err)
{
	bool is_new = op->kind == DBOX_OP_APPEND || op->kind == DBOX_OP_COPY ||
		      op->kind == DBOX_OP_MOVE_UID;
	int rc = is_new ? check_free(txn->db, op->uid, err) : 0;

	if (rc < 0)
		return rc;
	switch (op->kind) {
	case DBOX_OP_APPEND:
	case DBOX_OP_RESTORE:
		rc = place_spool(txn, op, err);
		break;
	case DBOX_OP_COPY:
		rc = place_copy(txn, op, err);
		break;
	case DBOX_OP_MOVE_UID:
		rc = link_file(txn->db, op->source_uid, op->uid, err);
		break;
	case DBOX_OP_EXPUNGE:
	case DBOX_OP_STATE:
		return 0;
	}
	op->placed = rc == 0;
	return rc;
}

static void remove_file(struct dbox *db, uint32_t uid)
{
	char name[16], alt[4400];

	sdbox_attachments_remove(db, uid);
	sdbox_file_name(uid, name);
	if (unlinkat(db->dirfd, name, 0) == 0)
		return;
	if (errno == ENOENT && db->alt_path) {
		snprintf(alt, sizeof alt, "%s/%s", db->alt_path, name);
		if (unlink(alt) == 0)
			return;
	}
	if (errno != ENOENT)
		log_warning("%s/%s: unlink: %s", db->path, name, strerror(errno));
}

static void undo(struct dbox_txn *txn)
{
	for (size_t i = 0; i < txn->op_count; i++) {
		if (txn->ops[i].placed && txn->ops[i].kind != DBOX_OP_RESTORE)
			remove_file(txn->db, txn->ops[i].uid);
	}
}

int sdbox_recover(struct dbox *db, struct error *err)
{
	struct dbox_leftovers left;
	int rc;

	if (db->recovered_s && dbox_now_s() - db->recovered_s < DBOX_LEFTOVERS_SECS)
		return 0;
	rc = dbox_leftovers_find(db->dirfd, db->path, db->box.status.uid_validity, &left, err);
	for (size_t i = 0; rc == 0 && i < left.uids.count; i++) {
		struct index_record record;

		if (index_find(db->index, left.uids.list[i], &record) == -ENOENT)
			remove_file(db, left.uids.list[i]);
	}
	if (rc == 0)
		dbox_leftovers_done(db->dirfd, &left);
	dbox_leftovers_free(&left);
	if (rc == 0)
		db->recovered_s = dbox_now_s();
	return rc;
}

/* Every UID whose file is made or removed. */
static int write_intent(const struct dbox_txn *txn, char **intent_r, struct error *err)
{
	AUTO_FREE uint32_t *uids = calloc(2 * txn->op_count + 1, sizeof *uids);
	struct dbox_intent intent = {.uid_validity = txn->db->box.status.uid_validity,
				     .uids = uids};

	*intent_r = NULL;
	if (!uids)
		return error_errno(err, -ENOMEM, "%s", txn->db->path);
	for (size_t i = 0; i < txn->op_count; i++) {
		const struct dbox_op *op = &txn->ops[i];

		if (op->kind != DBOX_OP_STATE && op->kind != DBOX_OP_RESTORE)
			uids[intent.count++] = op->uid;
		if (op->kind == DBOX_OP_MOVE_UID)
			uids[intent.count++] = op->source_uid;
	}
	return intent.count
		       ? dbox_intent_write(txn->db->dirfd, txn->db->path, &intent, intent_r, err)
		       : 0;
}

static int commit(struct dbox_txn *txn, struct error *err)
{
	struct dbox *db = txn->db;
	bool placed = false, removed = false;
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < txn->op_count; i++) {
		rc = place_op(txn, &txn->ops[i], err);
		placed = placed || txn->ops[i].placed;
	}
	if (rc == 0 && placed) {
		rc = file_sync_dir(db->dirfd, ".");
		if (rc < 0)
			error_errno(err, rc, "%s: fsync", db->path);
		DBOX_STEP("placed");
	}
	if (rc == 0)
		rc = dbox_note_pop3(txn, err);
	if (rc == 0)
		sdbox_attachments_rename_begin(txn);
	if (rc == 0) {
		index_save_dates_write(&txn->dates, txn->index_txn, db->path);
		rc = index_commit_part(txn->index_txn, txn->sync, err);
	}
	if (rc < 0) {
		sdbox_attachments_rename_end(txn, true);
		undo(txn);
		return rc;
	}
	DBOX_STEP("index");
	sdbox_attachments_rename_end(txn, false);
	for (size_t i = 0; i < txn->op_count; i++) {
		const struct dbox_op *op = &txn->ops[i];

		if (op->kind != DBOX_OP_EXPUNGE && op->kind != DBOX_OP_MOVE_UID)
			continue;
		remove_file(db, op->kind == DBOX_OP_EXPUNGE ? op->uid : op->source_uid);
		removed = true;
	}
	if (removed && file_sync_dir(db->dirfd, ".") < 0)
		log_warning("%s: fsync: %s", db->path, strerror(errno));
	return 0;
}

int sdbox_commit(struct dbox_txn *txn, struct error *err)
{
	char *intent;
	int rc = write_intent(txn, &intent, err);

	if (rc == 0)
		rc = commit(txn, err);
	dbox_intent_remove(txn->db->dirfd, txn->db->path, &intent);
	return rc;
}
