/*
 * What catch-up and scan record about files that are there, or gone: nothing is done to the files
 * themselves. The counterpart of maildir_change.c, where the index's word is carried out.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/log.h"

static int index_file(struct maildir_txn *txn, uint32_t uid, const struct maildir_name *name,
		      struct error *err)
{
	struct maildir *md = txn->md;
	int rc = index_append(txn->index_txn, uid, name->flags, err);

	txn->sync = true;
	if (rc < 0 || !name->letters)
		return rc;
	rc = maildir_need_keywords(md, err);
	for (unsigned i = 0; rc == 0 && i < MAILDIR_LETTERS; i++) {
		const char *keyword = md->keywords.names[i];

		if ((name->letters & 1U << i) && keyword && index_keyword_is_valid(keyword))
			rc = index_update_keyword(txn->index_txn, uid, keyword, true, err);
	}
	return rc;
}

int maildir_txn_adopt(struct maildir_txn *txn, const struct maildir_name *name, uint32_t drop_uid,
		      struct error *err)
{
	struct maildir *md = txn->md;
	struct uidlist_record line;
	struct maildir_op *op;
	uint32_t uid = txn->next_uid;
	int rc;

	if (memchr(name->base, '\n', name->base_len)) {
		log_warning("%s: a file whose name has a line break is not a message: \"%.*s\"",
			    md->path, (int)name->base_len, name->base);
		return 0;
	}
	log_debug("%s: UID %u is %.*s", md->path, uid, (int)name->base_len, name->base);
	rc = maildir_txn_take_uid(txn, uid, err);
	op = rc == 0 ? maildir_txn_add_op(txn, MAILDIR_OP_ADOPT, uid, err) : NULL;
	if (!op)
		return rc < 0 ? rc : -ENOMEM;
	op->base = strndup(name->base, name->base_len);
	if (!op->base)
		return error_errno(err, -ENOMEM, "%s", md->path);
	if (drop_uid) {
		/* The new line says what the old one said: it is the same message. */
		rc = uidlist_find(md->uidlist, drop_uid, &line, err);
		if (rc == 0 && line.fields_len) {
			op->fields = strndup(line.fields, line.fields_len);
			if (!op->fields)
				rc = error_errno(err, -ENOMEM, "%s", md->path);
		}
		if (rc == 0)
			rc = maildir_txn_drop_line(txn, drop_uid, err);
	}
	return rc < 0 ? rc : index_file(txn, uid, name, err);
}

int maildir_txn_record_removal(struct maildir_txn *txn, uint32_t uid, const struct guid *guid,
			       struct error *err)
{
	struct index_status status;
	struct index_record record;
	int rc;

	txn->sync = true;
	index_status(txn->md->index, &status);
	if (uid && uid < status.next_uid && index_find(txn->md->index, uid, &record) < 0)
		return index_bury(txn->index_txn, uid, guid, err);
	uid = txn->next_uid;
	rc = maildir_txn_take_uid(txn, uid, err);
	if (rc == 0)
		rc = index_append(txn->index_txn, uid, 0, err);
	if (rc == 0)
		rc = index_expunge(txn->index_txn, uid, guid, err);
	/* No line will say that the UID was given. */
	txn->rewrite = true;
	return rc;
}

int maildir_txn_complete(struct maildir_txn *txn, uint32_t uid, const struct maildir_name *name,
			 struct error *err)
{
	return index_file(txn, uid, name, err);
}

/* Letters that differ and whose keyword is known. */
static int letters_that_differ(struct maildir *md, const struct index_record *record,
			       const struct maildir_name *name, uint32_t *letters_r,
			       struct error *err)
{
	uint32_t known = 0;
	int rc;

	*letters_r = 0;
	if (!name->letters && !maildir_record_has_keywords(record))
		return 0;
	rc = maildir_need_keywords(md, err);
	if (rc < 0)
		return rc;
	for (unsigned i = 0; i < MAILDIR_LETTERS; i++) {
		if (md->keywords.names[i] && index_keyword_is_valid(md->keywords.names[i]))
			known |= 1U << i;
	}
	*letters_r = (name->letters ^ maildir_record_letters(md, record)) & known;
	return 0;
}

int maildir_name_differs(struct maildir *md, const struct index_record *record,
			 const struct maildir_name *name, bool *differs_r, struct error *err)
{
	uint32_t letters;
	int rc;

	*differs_r = false;
	if (record->flags & INDEX_FLAG_DIRTY)
		return 0;
	rc = letters_that_differ(md, record, name, &letters, err);
	*differs_r = rc == 0 && (letters || name->flags != (record->flags & MAIL_FLAGS_MASK));
	return rc;
}

int maildir_txn_see_name(struct maildir_txn *txn, const struct index_record *record,
			 const struct maildir_name *name, bool *changed_r, struct error *err)
{
	struct maildir *md = txn->md;
	uint8_t old_flags = record->flags & MAIL_FLAGS_MASK;
	uint32_t letters;
	int rc = maildir_name_differs(md, record, name, changed_r, err);

	if (rc < 0 || !*changed_r)
		return rc;
	rc = letters_that_differ(md, record, name, &letters, err);
	if (rc == 0 && name->flags != old_flags)
		rc = index_update_flags(txn->index_txn, record->uid,
					name->flags & (uint8_t)~old_flags,
					old_flags & (uint8_t)~name->flags, err);
	for (unsigned i = 0; rc == 0 && i < MAILDIR_LETTERS; i++) {
		if (letters & 1U << i)
			rc = index_update_keyword(txn->index_txn, record->uid,
						  md->keywords.names[i],
						  (name->letters & 1U << i) != 0, err);
	}
	return rc;
}

/*
 * Nothing says which messages they were. Either they got other UIDs, and that was cut between
 * uidlist and index; or their lines were lost, and the files are adopted under new UIDs. Only the
 * UIDs are gone, no message: the log names GUIDs that none has, for without one a replica would
 * take the UID's word for it and remove what it has under that.
 */
static int expunge_nobody(struct maildir_txn *txn, uint32_t uid, struct error *err)
{
	struct guid nobodys;

	guid_generate(&nobodys);
	txn->sync = true;
	return index_expunge(txn->index_txn, uid, &nobodys, err);
}

int maildir_txn_see_lines_lost(struct maildir_txn *txn, struct error *err)
{
	struct maildir *md = txn->md;
	struct uidlist_record line = {0};
	struct index_record record;
	struct uidlist_iter lines;
	struct index_iter records;
	size_t count = 0;
	bool end = false;
	int rc = uidlist_seek(md->uidlist, 0, &lines, err);

	index_iter_init(md->index, 1, &records);
	while (rc == 0 && index_iter_next(&records, &record)) {
		while (rc == 0 && !end && line.uid < record.uid) {
			rc = uidlist_next(&lines, &line, err);
			end = rc == 0;
			rc = rc > 0 ? 0 : rc;
		}
		if (rc == 0 && (end || line.uid != record.uid)) {
			rc = expunge_nobody(txn, record.uid, err);
			count++;
		}
	}
	if (rc == 0 && count)
		log_warning("%s: removed %zu index records that had no line in the uidlist",
			    md->path, count);
	return rc;
}

int maildir_txn_see_removed(struct maildir_txn *txn, uint32_t uid, struct error *err)
{
	log_debug("%s: UID %u was removed", txn->md->path, uid);
	return maildir_txn_expunge_record(txn, uid, err);
}
