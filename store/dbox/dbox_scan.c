/*
 * Catching up with what others did, and comparing all of a mailbox. With dbox the index log has
 * everything: nothing needs to be written down for it, but MODSEQs where Dovecot keeps none yet.
 */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>
#include "store/base/log.h"

/* Messages without a MODSEQ of their own get one. */
static int give_modseqs(struct dbox *db, bool *changed_r, struct error *err)
{
	struct index_status status;
	struct index_txn *txn;
	int rc;

	index_status(db->index, &status);
	if (status.has_modseqs || status.messages == 0)
		return 0;
	rc = index_begin(db->index, -1, &txn, err);
	if (rc < 0)
		return rc;
	rc = index_switch_on_modseqs(txn, err);
	if (rc < 0) {
		index_abort(&txn);
		return rc;
	}
	*changed_r = true;
	rc = index_commit(&txn, false, err);
	dbox_update_status(db);
	return rc;
}

int dbox_catch_up(struct mailbox *box, const struct mail_event *events, size_t count,
		  bool *changed_r, struct error *err)
{
	int rc = box->format->refresh(box, err);

	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (events[i].kind == MAIL_EVENT_RESCAN || events[i].kind == MAIL_EVENT_RESCAN_HOME)
			return dbox_scan(box, changed_r, err);
	}
	return rc < 0 ? rc : give_modseqs(dbox_of(box), changed_r, err);
}

static int find_missing(struct dbox *db, struct error *err)
{
	struct index_record record;
	struct index_iter iter;
	struct error cause;

	db->box.missing_count = 0;
	index_iter_init(db->index, 1, &iter);
	while (index_iter_next(&iter, &record)) {
		struct dbox_message message;
		bool owned;
		int fd, rc = dbox_message_of(db, &record, &message, &fd, &owned, &cause);

		if (dbox_is_missing(db, rc)) {
			log_warning("UID %u has no message that can be read: %s", record.uid,
				    cause.text);
			rc = mailbox_note_missing(&db->box, record.uid);
			if (rc < 0)
				return error_errno(err, rc, "%s", db->index_path);
			continue;
		}
		if (rc < 0) {
			if (err)
				*err = cause;
			return rc;
		}
		if (owned)
			close(fd);
		dbox_message_free(&message);
	}
	return iter.failed < 0 ? error_errno(err, iter.failed, "%s", db->index_path) : 0;
}

int dbox_scan(struct mailbox *box, bool *changed_r, struct error *err)
{
	struct dbox *db = dbox_of(box);
	int rc = box->format->refresh(box, err);

	if (rc == 0 && !db->multi)
		rc = sdbox_check_index(db, err);
	if (rc == 0)
		rc = find_missing(db, err);
	return rc < 0 ? rc : give_modseqs(db, changed_r, err);
}
