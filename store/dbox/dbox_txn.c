/*
 * A change of a dbox mailbox: begin, what callers want, end. The locks are taken in their order:
 * the map's (mdbox), then the mailbox index's.
 *
 * The index part of each call goes to the index transaction at once, which only collects, too. What
 * is to be done to bodies and the map is kept as an operation, carried out by mdbox_commit.c and
 * sdbox_commit.c. Several changes of one message in one transaction build on each other.
 */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/index/index_files.h"

#define POP3_UIDL_MAX 512

/* A call that failed after it had collected something: nothing of the transaction may be written.
 */
static int poison(struct dbox_txn *txn, int rc)
{
	if (rc < 0)
		txn->failed = rc;
	return rc;
}

/* ---- operations ---- */

static struct dbox_op *add_op(struct dbox_txn *txn, enum dbox_op_kind kind, uint32_t uid,
			      struct error *err)
{
	if (txn->op_count == txn->op_room) {
		size_t room = txn->op_room ? txn->op_room * 2 : 16;
		struct dbox_op *ops = reallocarray(txn->ops, room, sizeof *ops);

		if (!ops)
			goto failed;
		txn->ops = ops;
		txn->op_room = room;
	}
	if (kind != DBOX_OP_RESTORE &&
	    uid_table_put(&txn->last_ops, uid, (uint32_t)txn->op_count + 1) < 0)
		goto failed;
	txn->ops[txn->op_count] = (struct dbox_op){.kind = kind, .uid = uid};
	return &txn->ops[txn->op_count++];
failed:
	error_errno(err, -ENOMEM, "%s", txn->db->path);
	return NULL;
}

static struct dbox_op *find_op(const struct dbox_txn *txn, uint32_t uid)
{
	uint32_t op = uid_table_get(&txn->last_ops, uid);

	return op ? &txn->ops[op - 1] : NULL;
}

static void op_free(struct dbox_op *op)
{
	if (op->spool)
		dbox_spool_discard(&op->spool->spool);
	mail_state_free(&op->state);
	dbox_message_free(&op->stored);
	free(op->guid);
	free(op->pop3_uidl);
}

static int take_uid(struct dbox_txn *txn, uint32_t uid, struct error *err)
{
	if (uid < txn->next_uid || uid > INDEX_UID_MAX)
		return error_set(err, -EINVAL,
				 "%s: UID %u cannot be given, the next possible one is %u",
				 txn->db->path, uid, txn->next_uid);
	txn->next_uid = uid + 1;
	return 0;
}

/* ---- begin and end ---- */

static void txn_free(struct dbox_txn *txn)
{
	index_abort(&txn->index_txn);
	index_abort(&txn->map_txn);
	for (size_t i = 0; i < txn->op_count; i++)
		op_free(&txn->ops[i]);
	free(txn->ops);
	uid_table_free(&txn->last_ops);
	index_save_dates_free(&txn->dates);
	free(txn);
}

static int begin_map(struct dbox_txn *txn, struct error *err)
{
	struct dbox *db = txn->db;
	struct error problem;
	int rc = dbox_need_storage(db, true, err);

	if (rc < 0)
		return rc;
	/* What a dead writer left wastes room, and can wait. */
	if (mdbox_recover(db->storage, &problem) < 0)
		log_warning("%s", problem.text);
	return mdbox_map_begin(db->storage, &txn->map_txn, err);
}

static int check_storage(const struct dbox *db, struct error *err)
{
	struct index_ext ext;
	uint32_t map_uid_validity = mdbox_storage_uid_validity(db->storage);

	if (index_ext_find(db->index, DBOX_EXT_MDBOX_HDR, &ext) == 0 && ext.hdr_size >= 4 &&
	    index_get32(ext.hdr) == map_uid_validity)
		return 0;
	return error_set(err, -EUCLEAN,
			 "%s: the mailbox belongs to another storage than %s (UIDVALIDITY %" PRIu32
			 ")",
			 db->index_path, db->storage->index_path, map_uid_validity);
}

static int begin(struct dbox_txn *txn, struct error *err)
{
	struct dbox *db = txn->db;
	struct error problem;
	int rc = db->multi ? begin_map(txn, err) : 0;

	if (rc == 0)
		rc = index_begin(db->index, -1, &txn->index_txn, err);
	if (rc < 0)
		return rc;
	txn->foreign = index_txn_foreign(txn->index_txn);
	if (dbox_needs_setup(db))
		return error_set(err, -ESTALE, "%s: the index was made anew", db->index_path);
	rc = db->multi ? check_storage(db, err) : 0;
	dbox_update_status(db);
	if (!db->multi && sdbox_recover(db, &problem) < 0)
		log_warning("%s", problem.text);
	txn->next_uid = db->box.status.uid_next;
	return rc;
}

int dbox_begin(struct mailbox *box, struct mailbox_txn **txn_r, struct error *err)
{
	struct dbox_txn *txn = calloc(1, sizeof *txn);
	int rc;

	if (!txn)
		return error_errno(err, -ENOMEM, "%s", dbox_of(box)->path);
	txn->txn.box = box;
	txn->db = dbox_of(box);
	rc = dbox_spool_compress_all(txn->db, err);
	if (rc == 0)
		rc = begin(txn, err);
	if (rc < 0) {
		txn_free(txn);
		return rc;
	}
	*txn_r = &txn->txn;
	return 0;
}

/* What fails is tried again after the next change. Until then the log stays and grows, which costs
 * readers some time. */
static void housekeep(struct index *index)
{
	struct error err;

	if (index_housekeep(index, 0, &err) < 0)
		log_warning("%s", err.text);
}

int dbox_commit(struct mailbox_txn *base, bool *foreign_r, struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);
	struct dbox *db = txn->db;
	int rc = 0;

	if (txn->failed < 0)
		rc = error_set(err, txn->failed, "%s: a change that failed cannot be carried out",
			       db->path);
	if (rc == 0)
		rc = index_switch_on_modseqs(txn->index_txn, err);
	if (rc == 0)
		rc = db->multi ? mdbox_commit(txn, err) : sdbox_commit(txn, err);
	if (rc == 0)
		dbox_update_status(db);
	*foreign_r = txn->foreign;
	txn_free(txn);
	if (rc == 0) {
		housekeep(db->index);
		if (db->storage)
			housekeep(db->storage->map);
	}
	return rc;
}

void dbox_abort(struct mailbox_txn *base)
{
	txn_free(dbox_txn_of(base));
}

/* ---- what a message is ---- */

/* At this point of the transaction, as a copy. op_r: the operation that said so last, NULL: the
 * index does. */
static int current_state(struct dbox_txn *txn, uint32_t uid, struct dbox_op **op_r,
			 struct mail_state *state_r, struct error *err)
{
	struct dbox *db = txn->db;
	struct dbox_op *op = find_op(txn, uid);
	struct index_record record;

	*op_r = op;
	if (op && (op->kind == DBOX_OP_EXPUNGE || op->uid != uid))
		return error_set(err, -ENOENT, "%s: UID %u was just expunged", db->path, uid);
	if (op)
		return mail_state_make(db->path, uid, op->state.flags,
				       mail_state_keywords(&op->state), state_r, err);
	if (index_find(db->index, uid, &record) < 0)
		return error_set(err, -ENOENT, "%s: no message with UID %u", db->path, uid);
	return mail_state_of_record(db->index, db->path, &record, state_r, err);
}

static int new_record(struct dbox_txn *txn, struct dbox_op *op, const struct mail *mail,
		      struct error *err)
{
	txn->sync = true;
	return index_mail_append(txn->index_txn, op->uid, &op->state, mail->recent, mail->modseq,
				 err);
}

/* ---- new messages ---- */

/* Metadata is lines. */
static int copy_text(char **copy_r, const char *text, size_t max)
{
	if (!text || !*text || strlen(text) > max || strpbrk(text, "\r\n"))
		return 0;
	*copy_r = strdup(text);
	return *copy_r ? 0 : -ENOMEM;
}

static int fill_new(struct dbox_txn *txn, struct dbox_op *op, const struct mail *mail,
		    int64_t saved, struct mail_pop3 pop3, struct error *err)
{
	struct guid guid;
	char hex[GUID_HEX_SIZE];
	int rc = copy_text(&op->guid, mail->guid, DBOX_GUID_MAX);

	op->saved = saved;
	if (rc == 0 && !op->guid) {
		guid_generate(&guid);
		op->guid = strdup(guid_to_hex(&guid, hex));
		rc = op->guid ? 0 : -ENOMEM;
	}
	if (rc == 0)
		rc = copy_text(&op->pop3_uidl, pop3.uidl, POP3_UIDL_MAX);
	op->pop3_order = pop3.order;
	return rc < 0 ? error_errno(err, rc, "%s", txn->db->path) : 0;
}

/* The one case where a UID may be below the next one: the message is known, its body is lost. */
static int append_restore(struct dbox_txn *txn, struct dbox_spool *spool, const struct mail *mail,
			  int64_t saved, struct mail_pop3 pop3, struct error *err)
{
	struct dbox *db = txn->db;
	struct dbox_message message = {0};
	struct index_record record;
	struct guid known, given;
	struct error ignored;
	struct dbox_op *op;
	bool owned, same;
	int fd, rc;

	if (index_find(db->index, mail->uid, &record) < 0)
		return take_uid(txn, mail->uid, err);
	guid_from_message_guid(mail->guid, &given);
	rc = dbox_message_of(db, &record, &message, &fd, &owned, &ignored);
	if (rc == 0 && owned)
		close(fd);
	same = rc == 0 ? strcmp(message.metadata.guid, mail->guid) == 0
	       : dbox_record_guid(db, &record, &known) ? guid_equal(&known, &given)
						       : true;
	dbox_message_free(&message);
	if (!same)
		return error_set(err, -EEXIST, "%s: UID %u is another message than %s", db->path,
				 mail->uid, mail->guid);
	if (rc == 0) {
		dbox_spool_discard(&spool->spool);
		return 0; /* it is there after all */
	}
	op = add_op(txn, DBOX_OP_RESTORE, mail->uid, err);
	if (!op)
		return -ENOMEM;
	op->spool = spool;
	return poison(txn, fill_new(txn, op, mail, saved, pop3, err));
}

int dbox_append(struct mailbox_txn *base, struct mail_spool **spool_ptr, const struct mail *mail,
		int64_t saved, struct mail_pop3 pop3, struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);
	struct dbox_spool *spool = (struct dbox_spool *)*spool_ptr;
	struct dbox_op *op;
	int rc;

	/* The spool is ours from here on, also when this fails. */
	*spool_ptr = NULL;
	if (mail->uid < txn->next_uid) {
		size_t ops = txn->op_count;

		rc = append_restore(txn, spool, mail, saved, pop3, err);
		if (rc < 0 && txn->op_count == ops)
			dbox_spool_discard(&spool->spool);
		return rc;
	}
	op = add_op(txn, DBOX_OP_APPEND, mail->uid, err);
	if (!op) {
		dbox_spool_discard(&spool->spool);
		return poison(txn, -ENOMEM);
	}
	op->spool = spool;
	rc = take_uid(txn, mail->uid, err);
	if (rc == 0)
		rc = fill_new(txn, op, mail, saved, pop3, err);
	if (rc == 0)
		rc = mail_state_make(txn->db->path, mail->uid, mail->flags, mail->keywords,
				     &op->state, err);
	if (rc == 0 && !txn->db->multi)
		rc = index_save_dates_add(&txn->dates, mail->uid, saved);
	if (rc == 0)
		rc = new_record(txn, op, mail, err);
	return poison(txn, rc);
}

int dbox_copy(struct mailbox_txn *base, uint32_t source_uid, const struct mail *mail,
	      struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);
	struct index_record record;
	struct dbox_op *op;
	int rc;

	if (index_find(txn->db->index, source_uid, &record) < 0)
		return error_set(err, -ENOENT, "%s: no message with UID %u", txn->db->path,
				 source_uid);
	rc = take_uid(txn, mail->uid, err);
	if (rc < 0)
		return rc;
	op = add_op(txn, DBOX_OP_COPY, mail->uid, err);
	if (!op)
		return poison(txn, -ENOMEM);
	op->source_uid = source_uid;
	if (copy_text(&op->guid, mail->guid, DBOX_GUID_MAX) < 0)
		return poison(txn, error_errno(err, -ENOMEM, "%s", txn->db->path));
	rc = mail_state_make(txn->db->path, mail->uid, mail->flags, mail->keywords, &op->state,
			     err);
	if (rc == 0)
		rc = new_record(txn, op, mail, err);
	return poison(txn, rc);
}

/* ---- changes ---- */

int dbox_set_flags(struct mailbox_txn *base, uint32_t uid, uint8_t flags,
		   struct keyword_set keywords, uint64_t modseq, struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);
	struct mail_state from = {0}, to = {0};
	struct dbox_op *last;
	int rc = current_state(txn, uid, &last, &from, err);

	if (rc == 0)
		rc = mail_state_make(txn->db->path, uid, flags, keywords, &to, err);
	if (rc == 0)
		rc = index_mail_change(txn->index_txn, uid, &from, &to, err);
	if (rc == 0 && modseq)
		rc = last || !mail_state_equal(&from, &to)
			     ? index_update_modseq(txn->index_txn, uid, modseq, err)
			     : index_correct_modseq(txn->index_txn, uid, modseq, err);
	if (rc == 0 && !last && !mail_state_equal(&from, &to)) {
		last = add_op(txn, DBOX_OP_STATE, uid, err);
		rc = last ? 0 : -ENOMEM;
	}
	if (rc == 0 && last)
		mail_state_move(&to, &last->state);
	mail_state_free(&from);
	mail_state_free(&to);
	return rc == -ENOENT ? rc : poison(txn, rc);
}

/* GUID for the log: the index has it, or the message's metadata; else none is given. */
static int expunge_record(struct dbox_txn *txn, const struct index_record *record,
			  struct error *err)
{
	struct dbox *db = txn->db;
	struct dbox_message message;
	struct error ignored;
	struct guid guid;
	bool owned, known = dbox_record_guid(db, record, &guid);
	int fd;

	txn->sync = true;
	if (!known && dbox_message_of(db, record, &message, &fd, &owned, &ignored) == 0) {
		if (owned)
			close(fd);
		guid_from_message_guid(message.metadata.guid, &guid);
		known = true;
		dbox_message_free(&message);
	}
	return index_expunge(txn->index_txn, record->uid, known ? &guid : NULL, err);
}

int dbox_expunge(struct mailbox_txn *base, uint32_t uid, struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);
	struct dbox_op *last = find_op(txn, uid), *op;
	struct index_record record;

	if (index_find(txn->db->index, uid, &record) < 0)
		return error_set(err, -ENOENT, "%s: no message with UID %u", txn->db->path, uid);
	if (last && (last->kind == DBOX_OP_EXPUNGE || last->uid != uid))
		return 0;
	op = add_op(txn, DBOX_OP_EXPUNGE, uid, err);
	if (!op)
		return poison(txn, -ENOMEM);
	op->map_uid = txn->db->multi ? dbox_record_map_uid(txn->db, &record) : 0;
	return poison(txn, expunge_record(txn, &record, err));
}

static bool is_lost(struct dbox *db, const struct index_record *record)
{
	struct dbox_message message;
	struct error ignored;
	bool owned;
	int fd, rc = dbox_message_of(db, record, &message, &fd, &owned, &ignored);

	if (rc == 0 && owned)
		close(fd);
	if (rc == 0)
		dbox_message_free(&message);
	return dbox_is_missing(db, rc);
}

/* Of a message that is lost the record goes. Nobody expunged that: it is not under its GUID, which
 * the message may have under another UID by now. */
static int bury_lost(struct dbox_txn *txn, const struct index_record *record,
		     const struct guid *guid, struct error *err)
{
	struct dbox_op *op = add_op(txn, DBOX_OP_EXPUNGE, record->uid, err);
	struct guid nobodys;

	if (!op)
		return poison(txn, -ENOMEM);
	op->map_uid = txn->db->multi ? dbox_record_map_uid(txn->db, record) : 0;
	guid_generate(&nobodys);
	return poison(txn, index_expunge(txn->index_txn, record->uid, guid ? guid : &nobodys, err));
}

int dbox_bury(struct mailbox_txn *base, uint32_t uid, const struct guid *guid, struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);
	struct index_record record;

	txn->sync = true;
	if (!find_op(txn, uid) && index_find(txn->db->index, uid, &record) == 0 &&
	    is_lost(txn->db, &record))
		return bury_lost(txn, &record, guid, err);
	return index_bury(txn->index_txn, uid, guid, err);
}

int dbox_change_uid(struct mailbox_txn *base, uint32_t uid, uint32_t new_uid, uint64_t modseq,
		    struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);
	struct mail_state state = {0};
	struct index_record record;
	struct dbox_op *last, *op = NULL;
	struct mail mail = {.modseq = modseq,
			    .recent = uid >= txn->db->box.status.first_recent_uid};
	int rc = current_state(txn, uid, &last, &state, err);

	if (rc == 0 && last && last->kind != DBOX_OP_STATE)
		rc = error_set(err, -EINVAL, "%s: UID %u is new in this transaction", txn->db->path,
			       uid);
	if (rc == 0)
		rc = take_uid(txn, new_uid, err);
	if (rc == 0 && index_find(txn->db->index, uid, &record) < 0)
		rc = error_set(err, -ENOENT, "%s: no message with UID %u", txn->db->path, uid);
	if (rc == 0)
		rc = expunge_record(txn, &record, err);
	if (rc == 0) {
		op = add_op(txn, DBOX_OP_MOVE_UID, new_uid, err);
		rc = op ? 0 : -ENOMEM;
	}
	/* The old UID is gone, for whatever follows in this transaction. */
	if (op && uid_table_put(&txn->last_ops, uid, (uint32_t)(op - txn->ops) + 1) < 0)
		rc = error_errno(err, -ENOMEM, "%s", txn->db->path);
	if (rc == 0 && op) {
		op->source_uid = uid;
		mail_state_move(&state, &op->state);
		rc = new_record(txn, op, &mail, err);
	}
	mail_state_free(&state);
	return rc == -ENOENT ? rc : poison(txn, rc);
}

/* ---- header values ---- */

int dbox_set_uid_validity(struct mailbox_txn *base, uint32_t uid_validity, struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);

	if (uid_validity == txn->db->box.status.uid_validity)
		return 0;
	txn->sync = true;
	return poison(txn, index_set_uid_validity(txn->index_txn, uid_validity, err));
}

int dbox_set_guid(struct mailbox_txn *base, const struct guid *guid, bool copied, struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);

	if (guid_equal(guid, &txn->db->box.status.guid))
		return 0;
	txn->new_guid = *guid;
	txn->guid_copied = copied;
	txn->sync = true;
	return poison(txn,
		      index_update_ext_hdr(txn->index_txn, dbox_hdr_def(txn->db->multi),
					   DBOX_HDR_GUID, guid->bytes, sizeof guid->bytes, err));
}

int dbox_raise(struct mailbox_txn *base, uint32_t uid_next, uint64_t highest_modseq,
	       uint32_t first_recent_uid, struct error *err)
{
	struct dbox_txn *txn = dbox_txn_of(base);

	return poison(txn, index_mail_raise(txn->index_txn, uid_next, &txn->next_uid,
					    highest_modseq, first_recent_uid, err));
}

/* ---- for both commits ---- */

void dbox_op_metadata(const struct dbox_txn *txn, const struct dbox_op *op,
		      struct dbox_metadata *metadata_r)
{
	*metadata_r = (struct dbox_metadata){
		.guid = op->guid,
		.mailbox = txn->db->multi ? txn->db->storage_name : NULL,
		.pop3_uidl = op->pop3_uidl,
		.pop3_order = op->pop3_order,
		.received = op->spool->received,
		.virtual_size = op->spool->virtual_size,
		.physical_size = op->spool->plain_size,
	};
}

int dbox_note_pop3(struct dbox_txn *txn, struct error *err)
{
	static const struct index_ext_def pop3_def = {.name = DBOX_EXT_POP3, .hdr_size = 4};
	const struct index_ext_def *def = dbox_hdr_def(txn->db->multi);
	struct index_ext ext;
	uint8_t flags = 0, add = 0, value[4];
	uint32_t known = 0, highest;
	int rc = 0;

	if (index_ext_find(txn->db->index, def->name, &ext) == 0 && ext.hdr_size > DBOX_HDR_FLAGS)
		flags = ((const uint8_t *)ext.hdr)[DBOX_HDR_FLAGS];
	if (index_ext_find(txn->db->index, pop3_def.name, &ext) == 0 && ext.hdr_size >= 4)
		known = index_get32(ext.hdr);
	highest = known;
	for (size_t i = 0; i < txn->op_count; i++) {
		const struct dbox_op *op = &txn->ops[i];
		/* What has one may come to be beyond those that do. */
		bool takes_along = (op->kind == DBOX_OP_COPY || op->kind == DBOX_OP_MOVE_UID) &&
				   op->source_uid <= known;

		if (op->pop3_uidl)
			add |= DBOX_HDR_HAS_POP3_UIDL;
		if (op->pop3_order)
			add |= DBOX_HDR_HAS_POP3_ORDER;
		/* Dovecot does not look for an order behind it, either. (And lowers it when it
		 * finds no UIDL there: an order alone does not last.) */
		if ((op->pop3_uidl || op->pop3_order || takes_along) && op->uid > highest)
			highest = op->uid;
	}
	if (add & ~flags) {
		flags |= add;
		rc = index_update_ext_hdr(txn->index_txn, def, DBOX_HDR_FLAGS, &flags, 1, err);
	}
	if (rc == 0 && highest > known) {
		index_put32(value, highest);
		rc = index_update_ext_hdr(txn->index_txn, &pop3_def, 0, value, sizeof value, err);
	}
	return rc;
}
