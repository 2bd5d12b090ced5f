/*
 * A change of a mailbox: begin, end, and the list of what is to be done. The locks are taken in
 * their order: dovecot-uidlist.lock, then the index log's.
 *
 * The index part of each call goes to the index transaction at once, which only collects, too. What
 * is to be done to files and uidlist is kept as an operation, carried out by maildir_commit.c.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/index/index_files.h"

#define COMPLETE_BATCH 4096

/* ---- operations ---- */

static int make_room_for_ops(struct maildir_txn *txn, struct error *err)
{
	size_t room = txn->op_room ? txn->op_room * 2 : 16;
	struct maildir_op *ops = reallocarray(txn->ops, room, sizeof *ops);

	if (!ops)
		return error_errno(err, -ENOMEM, "%s", txn->md->path);
	txn->ops = ops;
	txn->op_room = room;
	return 0;
}

struct maildir_op *maildir_txn_add_op(struct maildir_txn *txn, enum maildir_op_kind kind,
				      uint32_t uid, struct error *err)
{
	if (txn->op_count == txn->op_room && make_room_for_ops(txn, err) < 0)
		return NULL;
	if (kind != MAILDIR_OP_RESTORE &&
	    uid_table_put(&txn->last_ops, uid, (uint32_t)txn->op_count + 1) < 0) {
		error_errno(err, -ENOMEM, "%s", txn->md->path);
		return NULL;
	}
	txn->ops[txn->op_count] = (struct maildir_op){.kind = kind, .uid = uid};
	return &txn->ops[txn->op_count++];
}

struct maildir_op *maildir_txn_find_op(struct maildir_txn *txn, uint32_t uid)
{
	uint32_t op = uid_table_get(&txn->last_ops, uid);

	return op ? &txn->ops[op - 1] : NULL;
}

int maildir_txn_drop_line(struct maildir_txn *txn, uint32_t uid, struct error *err)
{
	if (txn->drop_count == txn->drop_room) {
		size_t room = txn->drop_room ? txn->drop_room * 2 : 16;
		uint32_t *uids = reallocarray(txn->drop_uids, room, sizeof *uids);

		if (!uids)
			return error_errno(err, -ENOMEM, "%s", txn->md->path);
		txn->drop_uids = uids;
		txn->drop_room = room;
	}
	txn->drop_uids[txn->drop_count++] = uid;
	txn->rewrite = true;
	return 0;
}

int maildir_txn_take_uid(struct maildir_txn *txn, uint32_t uid, struct error *err)
{
	if (uid < txn->next_uid || uid > INDEX_UID_MAX)
		return error_set(err, -EINVAL,
				 "%s: UID %u cannot be given, the next possible one is %u",
				 txn->md->path, uid, txn->next_uid);
	txn->next_uid = uid + 1;
	return 0;
}

int maildir_txn_expunge_record(struct maildir_txn *txn, uint32_t uid, struct error *err)
{
	struct maildir *md = txn->md;
	struct uidlist_record line;
	struct guid guid;
	int rc = uidlist_find(md->uidlist, uid, &line, err);

	txn->sync = true;
	if (rc == -ENOENT)
		return index_expunge(txn->index_txn, uid, NULL, err);
	if (rc < 0)
		return rc;
	guid_from_message_guid(maildir_line_guid(md, &line), &guid);
	return index_expunge(txn->index_txn, uid, &guid, err);
}

static void op_free(struct maildir_op *op)
{
	if (op->spool)
		maildir_spool_discard(&op->spool->spool);
	mail_state_free(&op->state.mail);
	free(op->guid);
	free(op->base);
	free(op->fields);
	free(op->path);
}

/* ---- begin and end ---- */

int maildir_index_is_behind(const struct maildir *md, bool *behind_r, struct error *err)
{
	struct index_status status;
	struct uidlist_iter iter;
	struct uidlist_record line;
	int rc;

	*behind_r = false;
	index_status(md->index, &status);
	if (status.next_uid >= uidlist_header(md->uidlist)->next_uid)
		return 0;
	rc = uidlist_seek(md->uidlist, status.next_uid, &iter, err);
	if (rc == 0)
		rc = uidlist_next(&iter, &line, err);
	*behind_r = rc > 0;
	return rc < 0 ? rc : 0;
}

bool maildir_lacks_modseqs(const struct maildir *md)
{
	struct index_status status;

	index_status(md->index, &status);
	return !status.has_modseqs && status.messages > 0;
}

static int begin_index(struct maildir_txn *txn, struct error *err)
{
	struct maildir *md = txn->md;
	size_t size = uidlist_size(md->uidlist);
	bool replaced;
	int rc = index_begin(md->index, -1, &txn->index_txn, err);

	md->keywords_fresh = false;
	if (rc < 0)
		return rc;
	if (index_txn_foreign(txn->index_txn))
		txn->foreign = true;
	rc = uidlist_refresh(md->uidlist, &replaced, err);
	if (rc == -ENOENT)
		return error_set(err, -ESTALE, "%s/" UIDLIST_NAME " was removed", md->control_path);
	if (rc < 0)
		return rc;
	if (replaced || size != uidlist_size(md->uidlist))
		txn->foreign = true;
	if (maildir_needs_setup(md))
		return error_set(err, -ESTALE, "%s: uidlist or index were made anew", md->path);
	maildir_update_status(md);
	txn->next_uid = md->box.status.uid_next;
	if (uidlist_header(md->uidlist)->next_uid > txn->next_uid)
		txn->next_uid = uidlist_header(md->uidlist)->next_uid;
	return 0;
}

/* Whoever held the lock before died with its work half done: a file may be there that no line and
 * no record tells of. */
static int take_in_left_over(struct maildir_txn *txn, struct error *err)
{
	struct maildir *md = txn->md;

	return maildir_scan_locked(md, txn->lock, &txn->left_over, err);
}

int maildir_txn_begin(struct maildir *md, struct dotlock *lock, struct maildir_txn **txn_r,
		      struct error *err)
{
	struct maildir_txn *txn = calloc(1, sizeof *txn);
	int rc = 0;

	*txn_r = NULL;
	if (!txn)
		return error_errno(err, -ENOMEM, "%s", md->path);
	txn->txn.box = &md->box;
	txn->md = md;
	txn->lock = lock;
	txn->lock_is_callers = lock != NULL;
	if (!lock)
		rc = dotlock_acquire(md->control_fd, md->control_path, UIDLIST_NAME,
				     DOTLOCK_TIMEOUT_MS_DEFAULT, &txn->lock, err);
	if (rc == 0 && !lock && dotlock_was_stale(txn->lock))
		rc = take_in_left_over(txn, err);
	if (rc == 0)
		rc = begin_index(txn, err);
	if (rc < 0) {
		maildir_txn_free(txn);
		return rc;
	}
	*txn_r = txn;
	return 0;
}

void maildir_txn_free(struct maildir_txn *txn)
{
	index_abort(&txn->index_txn);
	if (!txn->lock_is_callers)
		dotlock_release(&txn->lock);
	for (size_t i = 0; i < txn->op_count; i++)
		op_free(&txn->ops[i]);
	free(txn->ops);
	uid_table_free(&txn->last_ops);
	free(txn->drop_uids);
	index_save_dates_free(&txn->dates);
	free(txn);
}

int maildir_begin(struct mailbox *box, struct mailbox_txn **txn_r, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct maildir_txn *txn = NULL;
	bool behind;
	int rc = maildir_spool_sync_all(md, err);

	if (rc < 0)
		return rc;
	rc = maildir_txn_begin(md, NULL, &txn, err);
	if (rc < 0)
		return rc;
	/* What the caller has seen and told of the mailbox lacked that. */
	if (txn->left_over)
		rc = error_set(err, -ESTALE,
			       "%s: what a process that died had left was taken in first",
			       md->path);
	if (rc == 0)
		rc = maildir_index_is_behind(md, &behind, err);
	if (rc == 0 && behind)
		rc = maildir_txn_complete_all(txn, err);
	if (rc < 0) {
		maildir_txn_free(txn);
		return rc;
	}
	*txn_r = &txn->txn;
	return 0;
}

void maildir_housekeep(struct maildir *md)
{
	struct error err;

	/* What fails is tried again after the next change. Until then the log stays and grows,
	 * which costs readers some time. */
	if (index_housekeep(md->index, 0, &err) < 0)
		log_warning("%s", err.text);
}

int maildir_commit(struct mailbox_txn *base, bool *foreign_r, struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);
	struct maildir *md = txn->md;
	int rc = maildir_txn_commit(txn, err);

	*foreign_r = txn->foreign;
	maildir_txn_free(txn);
	if (rc == 0)
		maildir_housekeep(md);
	return rc;
}

void maildir_abort(struct mailbox_txn *base)
{
	maildir_txn_free(maildir_txn_of(base));
}

/* ---- lines that the index does not know ---- */

static int complete_batch(struct maildir_txn *txn, struct uidlist_iter *iter, bool *end_r,
			  struct error *err)
{
	struct maildir *md = txn->md;
	AUTO_FREE struct maildir_wanted *wanted = calloc(COMPLETE_BATCH, sizeof *wanted);
	AUTO_FREE uint32_t *uids = calloc(COMPLETE_BATCH, sizeof *uids);
	struct uidlist_record line;
	size_t count = 0;
	int rc = 0;

	if (!wanted || !uids)
		return error_errno(err, -ENOMEM, "%s", md->path);
	while (count < COMPLETE_BATCH && (rc = uidlist_next(iter, &line, err)) > 0) {
		wanted[count] = (struct maildir_wanted){
			.base = line.base, .base_len = line.base_len, .recent = true};
		uids[count++] = line.uid;
	}
	*end_r = rc == 0;
	if (rc >= 0)
		rc = maildir_find_files(md, wanted, count, err);
	for (size_t i = 0; rc == 0 && i < count; i++) {
		struct maildir_name name;

		/* A line without a file means expunged. */
		if (wanted[i].path[0] && maildir_name_parse(wanted[i].path + 4, &name))
			rc = maildir_txn_complete(txn, uids[i], &name, err);
	}
	if (rc == 0 && count)
		rc = index_set_next_uid(txn->index_txn, uids[count - 1] + 1, err);
	return rc;
}

int maildir_txn_complete_all(struct maildir_txn *txn, struct error *err)
{
	struct maildir *md = txn->md;
	struct uidlist_iter iter;
	struct index_status status;
	bool end = false;
	int rc;

	/* A change of UIDs that was cut here left the old ones, too. */
	rc = maildir_txn_see_lines_lost(txn, err);
	index_status(md->index, &status);
	if (rc == 0)
		rc = uidlist_seek(md->uidlist, status.next_uid, &iter, err);
	while (rc == 0 && !end) {
		rc = complete_batch(txn, &iter, &end, err);
		if (rc == 0)
			rc = index_commit(&txn->index_txn, true, err);
		/* The uidlist stays as it is: we hold its lock. */
		if (rc == 0)
			rc = index_begin(md->index, -1, &txn->index_txn, err);
		dotlock_touch(txn->lock);
	}
	if (rc < 0)
		return rc;
	txn->foreign = true;
	maildir_update_status(md);
	txn->next_uid = md->box.status.uid_next;
	return 0;
}
