/*
 * The changes that store/mailbox.h offers, collected: append, copy, flags, expunge, UIDs, header
 * values.
 *
 * Several changes of one message in one transaction build on each other. Keywords get their letters
 * at once: a letter that is not used after an abort does no harm.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"

/* A call that failed after it had collected something: nothing of the transaction may be written.
 */
static int poison(struct maildir_txn *txn, int rc)
{
	if (rc < 0)
		txn->failed = rc;
	return rc;
}

/* ---- flags and keywords ---- */

static int collect_letters(void *ctx, const char *dir, const char *name,
			   const struct maildir_name *parsed)
{
	uint32_t *letters = ctx;

	*letters |= parsed->letters;
	return 0;
}

/* Without a keywords file letters may be in use whose keywords nobody knows any more. */
static int find_avoid_letters(struct maildir_txn *txn, struct error *err)
{
	int rc = 0;

	if (!txn->avoid_known && !txn->md->keywords.exists)
		rc = maildir_each_file(txn->md, collect_letters, &txn->avoid_letters, err);
	txn->avoid_known = true;
	return rc;
}

/* Finds the letters of the state's keywords. assign: those that have none get one, as far as there
 * are any; only for a message whose file will be named so. */
static int state_set_letters(struct maildir_txn *txn, struct maildir_state *state, bool assign,
			     struct error *err)
{
	struct maildir *md = txn->md;
	bool missing = false;
	int rc = maildir_need_keywords(md, err);

	for (unsigned i = 0; rc == 0 && i < state->mail.keyword_count; i++)
		missing = missing ||
			  maildir_keywords_find(&md->keywords, state->mail.keywords[i]) < 0;
	if (rc == 0 && missing && assign) {
		rc = find_avoid_letters(txn, err);
		if (rc == 0)
			rc = maildir_keywords_assign(
				&md->keywords, md->control_fd, md->control_path,
				(const char *const *)state->mail.keywords,
				state->mail.keyword_count, txn->avoid_letters, err);
	}
	for (unsigned i = 0; rc == 0 && i < state->mail.keyword_count; i++) {
		int letter = maildir_keywords_find(&md->keywords, state->mail.keywords[i]);

		if (letter >= 0)
			state->letters |= 1U << letter;
	}
	return rc;
}

/* Copies flags and keywords, leaving out what cannot be stored. */
static int state_make(struct maildir_txn *txn, uint32_t uid, uint8_t flags,
		      struct keyword_set keywords, bool assign, struct maildir_state *state_r,
		      struct error *err)
{
	int rc;

	state_r->letters = 0;
	rc = mail_state_make(txn->md->path, uid, flags, keywords, &state_r->mail, err);
	return rc < 0 || keywords.count == 0 ? rc : state_set_letters(txn, state_r, assign, err);
}

static int state_of_record(struct maildir_txn *txn, const struct index_record *record,
			   struct maildir_state *state_r, struct error *err)
{
	int rc;

	state_r->letters = 0;
	rc = mail_state_of_record(txn->md->index, txn->md->path, record, &state_r->mail, err);
	return rc < 0 || state_r->mail.keyword_count == 0
		       ? rc
		       : state_set_letters(txn, state_r, false, err);
}

/* What the message is at this point of the transaction, as a copy. op_r: the operation that said
 * so, NULL: the index does. record_r is only set when the message is in the index, under this UID
 * or the one that it had before. */
static int current_state(struct maildir_txn *txn, uint32_t uid, struct maildir_op **op_r,
			 struct index_record *record_r, struct maildir_state *state_r,
			 struct error *err)
{
	struct maildir_op *op = maildir_txn_find_op(txn, uid);
	bool moved = op && op->kind == MAILDIR_OP_MOVE_UID;

	*op_r = op;
	if (op && op->kind == MAILDIR_OP_UNLINK)
		return error_set(err, -ENOENT, "%s: UID %u was just expunged", txn->md->path, uid);
	if ((!op || op->kind == MAILDIR_OP_RENAME || moved) &&
	    index_find(txn->md->index, moved ? op->source_uid : uid, record_r) < 0)
		return error_set(err, -ENOENT, "%s: no message with UID %u", txn->md->path, uid);
	if (!op)
		return state_of_record(txn, record_r, state_r, err);
	return state_make(txn, uid, op->state.mail.flags, mail_state_keywords(&op->state.mail),
			  false, state_r, err);
}

/* ---- new messages ---- */

static int index_new_message(struct maildir_txn *txn, uint32_t uid,
			     const struct maildir_state *state, bool recent, uint64_t modseq,
			     struct error *err)
{
	txn->sync = true;
	return index_mail_append(txn->index_txn, uid, &state->mail, recent, modseq, err);
}

/* The one case where a UID may be below the next one: the message is known, its file is lost. */
static int append_restore(struct maildir_txn *txn, struct maildir_spool *spool,
			  const struct mail *mail, struct error *err)
{
	struct maildir *md = txn->md;
	struct maildir_op *op;
	struct index_record record;
	struct uidlist_record line;
	int rc;

	if (index_find(md->index, mail->uid, &record) < 0)
		return maildir_txn_take_uid(txn, mail->uid, err);
	rc = uidlist_find(md->uidlist, mail->uid, &line, err);
	if (rc < 0)
		return rc;
	if (strcmp(maildir_line_guid(md, &line), mail->guid) != 0)
		return error_set(err, -EEXIST, "%s: UID %u is another message (%s, not %s)",
				 md->path, mail->uid, buf_str(&md->guid_text), mail->guid);
	op = maildir_txn_add_op(txn, MAILDIR_OP_RESTORE, mail->uid, err);
	if (!op)
		return -ENOMEM;
	op->spool = spool;
	return 0;
}

/* The uidlist can hold it; what it cannot, RFC 1939 does not allow. */
static bool uidl_is_sound(const char *uidl)
{
	size_t len = uidl ? strlen(uidl) : 0;

	for (const char *p = uidl; p && *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return false;
	}
	return len > 0 && len <= UIDLIST_FIELDS_MAX / 2;
}

static int pop3_fields(struct maildir_op *op, struct mail_pop3 pop3, struct error *err)
{
	AUTO_BUF struct buf fields = BUF_INIT(UIDLIST_FIELDS_MAX);

	if (uidl_is_sound(pop3.uidl))
		buf_printf(&fields, "P%s", pop3.uidl);
	if (pop3.order)
		buf_printf(&fields, "%sO%u", fields.len ? " " : "", pop3.order);
	if (!fields.len)
		return 0;
	op->fields = strndup(buf_str(&fields), fields.len);
	return op->fields ? 0 : error_errno(err, -ENOMEM, "POP3 UIDL");
}

static int append_new(struct maildir_txn *txn, struct maildir_op *op, const struct mail *mail,
		      int64_t saved, struct mail_pop3 pop3, struct error *err)
{
	int rc = maildir_txn_take_uid(txn, mail->uid, err);

	op->recent = mail->recent;
	op->guid = strdup(mail->guid ? mail->guid : "");
	if (rc == 0 && !op->guid)
		rc = error_errno(err, -ENOMEM, "%s", txn->md->path);
	if (rc == 0)
		rc = state_make(txn, mail->uid, mail->flags, mail->keywords, true, &op->state, err);
	if (rc == 0)
		rc = pop3_fields(op, pop3, err);
	if (rc == 0)
		rc = index_save_dates_add(&txn->dates, mail->uid, saved);
	if (rc == 0)
		rc = index_new_message(txn, mail->uid, &op->state, mail->recent, mail->modseq, err);
	return rc;
}

int maildir_append(struct mailbox_txn *base, struct mail_spool **spool_ptr, const struct mail *mail,
		   int64_t saved, struct mail_pop3 pop3, struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);
	struct maildir_spool *spool = (struct maildir_spool *)*spool_ptr;
	struct maildir_op *op;

	/* The spool is ours from here on, also when this fails. */
	*spool_ptr = NULL;
	if (mail->uid < txn->next_uid) {
		int rc = append_restore(txn, spool, mail, err);

		if (rc < 0)
			maildir_spool_discard(&spool->spool);
		return rc;
	}
	op = maildir_txn_add_op(txn, MAILDIR_OP_APPEND, mail->uid, err);
	if (!op) {
		maildir_spool_discard(&spool->spool);
		return poison(txn, -ENOMEM);
	}
	op->spool = spool;
	return poison(txn, append_new(txn, op, mail, saved, pop3, err));
}

int maildir_copy(struct mailbox_txn *base, uint32_t source_uid, const struct mail *mail,
		 struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);
	struct maildir *md = txn->md;
	struct maildir_op *op;
	struct index_record record;
	struct uidlist_record line;
	int rc;

	if (index_find(md->index, source_uid, &record) < 0)
		return error_set(err, -ENOENT, "%s: no message with UID %u", md->path, source_uid);
	rc = uidlist_find(md->uidlist, source_uid, &line, err);
	if (rc == 0)
		rc = maildir_txn_take_uid(txn, mail->uid, err);
	if (rc < 0)
		return rc;
	op = maildir_txn_add_op(txn, MAILDIR_OP_COPY, mail->uid, err);
	if (!op)
		return poison(txn, -ENOMEM);
	op->source_uid = source_uid;
	op->recent = mail->recent;
	op->guid = strdup(mail->guid && *mail->guid ? mail->guid : maildir_line_guid(md, &line));
	if (!op->guid)
		return poison(txn, error_errno(err, -ENOMEM, "%s", md->path));
	rc = state_make(txn, mail->uid, mail->flags, mail->keywords, true, &op->state, err);
	if (rc == 0)
		rc = index_new_message(txn, mail->uid, &op->state, mail->recent, mail->modseq, err);
	return poison(txn, rc);
}

/* ---- changes ---- */

static void move_state(struct maildir_state *from, struct maildir_state *to)
{
	mail_state_move(&from->mail, &to->mail);
	to->letters = from->letters;
	from->letters = 0;
}

/* Keeps the new state where the next question finds it, and sees to it that the file gets the name:
 * that of the message itself, of the one it was before a change of UID, or the one that it will
 * have when it was appended here. Takes the state over. */
static int note_state(struct maildir_txn *txn, uint32_t uid, struct maildir_op *last,
		      struct maildir_state *state, bool name_changes, struct error *err)
{
	struct maildir_op *op = last;

	if (last && last->kind == MAILDIR_OP_MOVE_UID) {
		uint32_t file_uid = last->source_uid;
		struct maildir_state name = {.mail.flags = state->mail.flags,
					     .letters = state->letters};

		move_state(state, &last->state);
		op = maildir_txn_add_op(txn, MAILDIR_OP_RENAME, file_uid, err);
		if (!op)
			return -ENOMEM;
		op->state = name;
		op->moved_uid = uid;
		return 0;
	}
	if (!op && !name_changes)
		return 0;
	if (!op)
		op = maildir_txn_add_op(txn, MAILDIR_OP_RENAME, uid, err);
	if (!op)
		return -ENOMEM;
	move_state(state, &op->state);
	return 0;
}

int maildir_set_flags(struct mailbox_txn *base, uint32_t uid, uint8_t flags,
		      struct keyword_set keywords, uint64_t modseq, struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);
	struct maildir_state from = {0}, to = {0};
	struct index_record record = {0};
	struct maildir_op *last;
	bool dirty;
	int rc = current_state(txn, uid, &last, &record, &from, err);

	dirty = record.flags & INDEX_FLAG_DIRTY;
	if (rc == 0)
		rc = state_make(txn, uid, flags, keywords, true, &to, err);
	if (rc == 0)
		rc = index_mail_change(txn->index_txn, uid, &from.mail, &to.mail, err);
	/* The file will say the same. */
	if (rc == 0 && dirty)
		rc = index_update_flags(txn->index_txn, uid, 0, INDEX_FLAG_DIRTY, err);
	if (rc == 0 && modseq)
		rc = last || !mail_state_equal(&from.mail, &to.mail)
			     ? index_update_modseq(txn->index_txn, uid, modseq, err)
			     : index_correct_modseq(txn->index_txn, uid, modseq, err);
	if (rc == 0) {
		bool name_changes =
			dirty || from.mail.flags != to.mail.flags || from.letters != to.letters;

		rc = note_state(txn, uid, last, &to, name_changes, err);
	}
	mail_state_free(&from.mail);
	mail_state_free(&to.mail);
	return rc == -ENOENT ? rc : poison(txn, rc);
}

int maildir_expunge(struct mailbox_txn *base, uint32_t uid, struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);
	struct index_record record;

	if (index_find(txn->md->index, uid, &record) < 0)
		return error_set(err, -ENOENT, "%s: no message with UID %u", txn->md->path, uid);
	if (!maildir_txn_add_op(txn, MAILDIR_OP_UNLINK, uid, err))
		return poison(txn, -ENOMEM);
	return poison(txn, maildir_txn_expunge_record(txn, uid, err));
}

int maildir_bury(struct mailbox_txn *base, uint32_t uid, const struct guid *guid, struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);

	txn->sync = true;
	return index_bury(txn->index_txn, uid, guid, err);
}

int maildir_change_uid(struct mailbox_txn *base, uint32_t uid, uint32_t new_uid, uint64_t modseq,
		       struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);
	struct maildir_state state = {0};
	struct index_record record = {0};
	struct maildir_op *last, *op;
	bool recent = maildir_record_is_recent(txn->md, uid);
	int rc = current_state(txn, uid, &last, &record, &state, err);

	if (rc == 0 && last && last->kind != MAILDIR_OP_RENAME)
		rc = error_set(err, -EINVAL, "%s: UID %u is new in this transaction", txn->md->path,
			       uid);
	if (rc == 0)
		rc = maildir_txn_take_uid(txn, new_uid, err);
	if (rc == 0)
		rc = index_new_message(txn, new_uid, &state, recent, modseq, err);
	if (rc == 0 && last)
		last->moved_uid = new_uid;
	else if (rc == 0 && (record.flags & INDEX_FLAG_DIRTY))
		rc = index_update_flags(txn->index_txn, new_uid, INDEX_FLAG_DIRTY, 0, err);
	if (rc == 0)
		rc = maildir_txn_expunge_record(txn, uid, err);
	if (rc == 0)
		rc = maildir_txn_drop_line(txn, uid, err);
	op = rc == 0 ? maildir_txn_add_op(txn, MAILDIR_OP_MOVE_UID, new_uid, err) : NULL;
	if (!op) {
		mail_state_free(&state.mail);
		return rc == -ENOENT ? rc : poison(txn, rc < 0 ? rc : -ENOMEM);
	}
	op->source_uid = uid;
	op->state = state;
	return 0;
}

/* ---- header values ---- */

int maildir_set_uid_validity(struct mailbox_txn *base, uint32_t uid_validity, struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);

	if (uid_validity == txn->md->box.status.uid_validity)
		return 0;
	txn->uid_validity = uid_validity;
	txn->rewrite = true;
	return poison(txn, index_set_uid_validity(txn->index_txn, uid_validity, err));
}

int maildir_set_guid(struct mailbox_txn *base, const struct guid *guid, bool copied,
		     struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);

	if (guid_equal(guid, &txn->md->box.status.guid))
		return 0;
	txn->guid = *guid;
	txn->rewrite = true;
	return 0;
}

int maildir_raise(struct mailbox_txn *base, uint32_t uid_next, uint64_t highest_modseq,
		  uint32_t first_recent_uid, struct error *err)
{
	struct maildir_txn *txn = maildir_txn_of(base);

	return poison(txn, index_mail_raise(txn->index_txn, uid_next, &txn->next_uid,
					    highest_modseq, first_recent_uid, err));
}
