/*
 * The format-neutral mailbox: finds the place and the format, and passes calls on. See mailbox.h.
 *
 * Puts "user ..., mailbox ..." in front of every error text, so that formats need not know either.
 */
#include "store/mailbox_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/clock.h"
#include "store/base/log.h"
#include "store/base/mounted.h"
#include "store/index/index_changes.h"
#include "store/index/index_txn.h"
#include "store/list_lock.h"
#include "store/mail_user.h"
#include "store/mailbox_name.h"
#include "store/uidvalidity.h"

#define BROKEN_DELETION_MS	30000
#define BROKEN_DELETION_LOCK_MS 5000

static int told(const struct mailbox *box, int rc, struct error *err)
{
	if (rc < 0 && err && err->code < 0)
		error_prefix(err, "user %s, mailbox %s", box->user->name, box->name);
	return rc;
}

const struct mailbox_format *mailbox_format_of(const struct mail_user *user)
{
	switch (user->location.driver) {
	case MAIL_DRIVER_MAILDIR:
		return &mailbox_format_maildir;
	case MAIL_DRIVER_MDBOX:
		return &mailbox_format_mdbox;
	case MAIL_DRIVER_SDBOX:
		break;
	}
	return &mailbox_format_sdbox;
}

static int allocate_uid_validity(void *ctx, uint32_t *uid_validity_r, struct error *err)
{
	return uidvalidity_allocate(ctx, uid_validity_r, err);
}

static int wait_for_creator(void *ctx, struct error *err)
{
	return list_lock_wait(ctx, err);
}

int mailbox_spot_get(const struct mail_user *user, const char *name, struct mailbox_spot *spot_r,
		     struct error *err)
{
	struct mailbox_paths paths = {NULL, NULL, NULL};
	int rc;

	*spot_r = (struct mailbox_spot){.format = mailbox_format_of(user)};
	rc = mailbox_paths_get(&user->location, name, &paths);
	if (rc == 0)
		rc = mailbox_name_to_storage(&user->location, name, &spot_r->storage_name);
	spot_r->mail = paths.mail;
	spot_r->control = paths.control;
	spot_r->index = paths.index;
	if (rc < 0) {
		mailbox_spot_free(spot_r);
		return error_errno(err, rc, "user %s, mailbox %s", user->name, name);
	}
	spot_r->place = (struct mailbox_place){
		.name = name,
		.storage_name = spot_r->storage_name,
		.mail = spot_r->mail,
		.control = spot_r->control,
		.index = spot_r->index,
		.location = &user->location,
		.uid_validity = allocate_uid_validity,
		.wait_for_creator = wait_for_creator,
		.ctx = (void *)user,
	};
	return 0;
}

void mailbox_spot_free(struct mailbox_spot *spot)
{
	free(spot->mail);
	free(spot->control);
	free(spot->index);
	free(spot->storage_name);
	*spot = (struct mailbox_spot){0};
}

static bool is_marked_deleted(struct mailbox *box)
{
	struct index_status status;

	index_status(box->format->index(box), &status);
	return status.deleted;
}

/* Another try will do as well: what was not written now costs nobody the mailbox. */
static bool may_wait(int rc)
{
	return rc == -EAGAIN || rc == -EROFS || rc == -EACCES || rc == -EPERM || rc == -ENOSPC ||
	       rc == -EDQUOT;
}

static int take_back_locked(struct mailbox *box, struct error *err)
{
	int rc = box->format->refresh(box, err);

	/* Another may have been as fast. */
	if (rc < 0 || !is_marked_deleted(box))
		return rc;
	rc = index_undelete(box->format->index(box), BROKEN_DELETION_LOCK_MS, err);
	if (rc == 0)
		log_notice("a deletion that was broken off is taken back user=%s mailbox=%s",
			   box->user->name, box->name);
	return rc;
}

/* A deletion that was marked in the log and not carried out: who was at it is dead, for he would
 * hold mailboxes.lock (the file alone says nothing: he has left it), which he may not have yet a
 * moment after the mark; or his mount died, and he has given up. Nothing was removed, and as long
 * as the mark is there nobody can write. Where we cannot either, it stays. */
static int take_back_deletion(struct mailbox *box, struct error *err)
{
	struct error own = {0};
	int64_t written;
	int lock = -1, rc;

	if (!is_marked_deleted(box) || box->user->as_it_is)
		return 0;
	written = index_log_written(box->format->index(box));
	if (written < 0)
		return error_errno(err, (int)written, "index log");
	if (written >= mounted_at() && written + BROKEN_DELETION_MS > clock_ms(CLOCK_REALTIME))
		return 0;
	rc = list_lock_try(box->user, &lock, &own);
	if (rc == 0)
		rc = take_back_locked(box, &own);
	list_unlock(box->user, &lock);
	if (may_wait(rc)) {
		log_debug("a deletion that was broken off cannot be taken back yet user=%s "
			  "mailbox=%s: %s",
			  box->user->name, box->name, own.text);
		return 0;
	}
	if (rc < 0 && err)
		*err = own;
	return rc;
}

int mailbox_open(const struct mail_user *user, const char *name, struct mailbox **box_r,
		 struct error *err)
{
	struct mailbox_spot spot;
	struct mailbox *box = NULL;
	int rc = mailbox_spot_get(user, name, &spot, err);

	*box_r = NULL;
	if (rc < 0)
		return rc;
	rc = spot.format->open(&spot.place, &box, err);
	mailbox_spot_free(&spot);
	if (rc < 0) {
		if (err)
			error_prefix(err, "user %s, mailbox %s", user->name, name);
		return rc;
	}
	box->format = mailbox_format_of(user);
	box->user = user;
	box->name = strdup(name);
	if (!box->name) {
		mailbox_close(&box);
		return error_errno(err, -ENOMEM, "user %s, mailbox %s", user->name, name);
	}
	rc = told(box, take_back_deletion(box, err), err);
	if (rc < 0) {
		mailbox_close(&box);
		return rc;
	}
	*box_r = box;
	return 0;
}

void mailbox_close(struct mailbox **box)
{
	if (!*box)
		return;
	free((*box)->name);
	free((*box)->missing);
	(*box)->format->close(*box);
	*box = NULL;
}

int mailbox_rebuild(const struct mail_user *user, const char *name, struct error *err)
{
	struct mailbox_spot spot;
	int rc = mailbox_spot_get(user, name, &spot, err);

	if (rc < 0)
		return rc;
	log_warning("rebuilding user=%s mailbox=%s", user->name, name);
	rc = spot.format->rebuild(&spot.place, err);
	mailbox_spot_free(&spot);
	if (rc < 0 && err)
		error_prefix(err, "user %s, mailbox %s: rebuild", user->name, name);
	return rc;
}

int mailbox_refresh(struct mailbox *box, struct error *err)
{
	int rc = box->format->refresh(box, err);

	if (rc == 0)
		rc = take_back_deletion(box, err);
	return told(box, rc, err);
}

const char *mailbox_name(const struct mailbox *box)
{
	return box->name;
}

const struct mailbox_status *mailbox_status(const struct mailbox *box)
{
	return &box->status;
}

int mailbox_each(struct mailbox *box, uint32_t first_uid, uint32_t last_uid, mailbox_each_fn *each,
		 void *ctx, struct error *err)
{
	struct error own = {0};
	int rc = box->format->each(box, first_uid, last_uid, each, ctx, &own);

	/* What each() returns is the caller's, and has no text of ours. */
	if (rc < 0 && own.code < 0) {
		told(box, rc, &own);
		if (err)
			*err = own;
	}
	return rc;
}

int mailbox_find(struct mailbox *box, uint32_t uid, struct mail *mail_r, struct error *err)
{
	return told(box, box->format->find(box, uid, mail_r, err), err);
}

static int list_changes(struct index *index, uint64_t since, struct mailbox_changes *changes_r,
			struct error *err)
{
	struct index_changes found;
	int rc = index_changes(index, since, NULL, &found, err);

	*changes_r = (struct mailbox_changes){
		.change = found.change,
		.count = found.count,
		.attribute = found.attribute,
		.attribute_count = found.attribute_count,
		.pool = found.pool,
	};
	return rc;
}

/* Dovecot's record of a message whose file it misses names none (reference section 11, 13). */
static int name_expunges(struct mailbox *box, struct mailbox_changes *changes, struct error *err)
{
	int rc = 0;

	for (size_t i = 0; box->format->expunged_guid && rc == 0 && i < changes->count; i++) {
		struct mailbox_change *change = &changes->change[i];

		if (!change->expunged || change->has_guid)
			continue;
		rc = box->format->expunged_guid(box, change->uid, &change->guid, err);
		change->has_guid = rc == 0;
		if (rc == -ENOENT)
			rc = 0;
	}
	return rc;
}

int mailbox_changes(struct mailbox *box, uint64_t since, struct mailbox_changes *changes_r,
		    struct error *err)
{
	int rc = list_changes(box->format->index(box), since, changes_r, err), named;

	if (rc < 0 && rc != -ERANGE)
		return told(box, rc, err);
	named = name_expunges(box, changes_r, err);
	if (named < 0) {
		mailbox_changes_free(changes_r);
		rc = named;
	}
	return told(box, rc, err);
}

int mailbox_body_open(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
		      struct mail_body_info *info_r, struct error *err)
{
	int rc = told(box, box->format->body_open(box, uid, body_r, info_r, err), err);

	/* Of a body that is no longer open. */
	if (rc < 0) {
		*body_r = NULL;
		*info_r = (struct mail_body_info){.pop3_uidl = ""};
	}
	return rc;
}

static int read_through(struct mail_body *body, struct error *err)
{
	char data[16384];
	ssize_t n;

	do
		n = mailbox_body_read(body, data, sizeof data, err);
	while (n > 0);
	return (int)n;
}

int mailbox_body_open_whole(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
			    struct mail_body_info *info_r, struct error *err)
{
	int rc = mailbox_body_open(box, uid, body_r, info_r, err);

	if (rc < 0 || !(*body_r)->may_break)
		return rc;
	rc = read_through(*body_r, err);
	mailbox_body_close(body_r);
	*info_r = (struct mail_body_info){.pop3_uidl = ""};
	return rc < 0 ? rc : mailbox_body_open(box, uid, body_r, info_r, err);
}

ssize_t mailbox_body_read(struct mail_body *body, void *data, size_t size, struct error *err)
{
	ssize_t n = body->box->format->body_read(body, data, size, err);

	return n < 0 ? told(body->box, (int)n, err) : n;
}

void mailbox_body_close(struct mail_body **body)
{
	if (*body)
		(*body)->box->format->body_close(*body);
	*body = NULL;
}

int mailbox_spool_open(struct mailbox *box, const char *guid, int64_t received,
		       struct mail_spool **spool_r, struct error *err)
{
	*spool_r = NULL;
	return told(box, box->format->spool_open(box, guid, received, spool_r, err), err);
}

int mailbox_spool_write(struct mail_spool *spool, const void *data, size_t len, struct error *err)
{
	return told(spool->box, spool->box->format->spool_write(spool, data, len, err), err);
}

void mailbox_spool_discard(struct mail_spool **spool)
{
	if (*spool)
		(*spool)->box->format->spool_discard(*spool);
	*spool = NULL;
}

int mailbox_begin(struct mailbox *box, struct mailbox_txn **txn_r, struct error *err)
{
	*txn_r = NULL;
	return told(box, box->format->begin(box, txn_r, err), err);
}

int mailbox_append(struct mailbox_txn *txn, struct mail_spool **spool, const struct mail *mail,
		   int64_t saved, struct mail_pop3 pop3, struct error *err)
{
	return told(txn->box, txn->box->format->append(txn, spool, mail, saved, pop3, err), err);
}

int mailbox_copy(struct mailbox_txn *txn, uint32_t source_uid, const struct mail *mail,
		 struct error *err)
{
	return told(txn->box, txn->box->format->copy(txn, source_uid, mail, err), err);
}

int mailbox_set_flags(struct mailbox_txn *txn, uint32_t uid, uint8_t flags,
		      struct keyword_set keywords, uint64_t modseq, struct error *err)
{
	return told(txn->box, txn->box->format->set_flags(txn, uid, flags, keywords, modseq, err),
		    err);
}

int mailbox_expunge(struct mailbox_txn *txn, uint32_t uid, struct error *err)
{
	return told(txn->box, txn->box->format->expunge(txn, uid, err), err);
}

int mailbox_bury(struct mailbox_txn *txn, uint32_t uid, const struct guid *guid, struct error *err)
{
	return told(txn->box, txn->box->format->bury(txn, uid, guid, err), err);
}

int mailbox_change_uid(struct mailbox_txn *txn, uint32_t uid, uint32_t new_uid, uint64_t modseq,
		       struct error *err)
{
	return told(txn->box, txn->box->format->change_uid(txn, uid, new_uid, modseq, err), err);
}

int mailbox_set_uid_validity(struct mailbox_txn *txn, uint32_t uid_validity, struct error *err)
{
	int rc;

	if (uid_validity == 0)
		return told(txn->box, error_set(err, -EINVAL, "a UIDVALIDITY of 0"), err);
	/* First, so that no other mailbox can be given the value meanwhile. */
	rc = uidvalidity_raise(txn->box->user, uid_validity, err);
	if (rc == 0)
		rc = txn->box->format->set_uid_validity(txn, uid_validity, err);
	return told(txn->box, rc, err);
}

int mailbox_set_guid(struct mailbox_txn *txn, const struct guid *guid, bool copied,
		     struct error *err)
{
	if (guid_is_empty(guid))
		return told(txn->box, error_set(err, -EINVAL, "an empty mailbox GUID"), err);
	return told(txn->box, txn->box->format->set_guid(txn, guid, copied, err), err);
}

int mailbox_raise(struct mailbox_txn *txn, uint32_t uid_next, uint64_t highest_modseq,
		  uint32_t first_recent_uid, struct error *err)
{
	return told(txn->box,
		    txn->box->format->raise(txn, uid_next, highest_modseq, first_recent_uid, err),
		    err);
}

int mailbox_commit(struct mailbox_txn **txn, bool *foreign_r, struct error *err)
{
	struct mailbox *box = (*txn)->box;
	bool foreign = false;
	int rc = box->format->commit(*txn, &foreign, err);

	*txn = NULL;
	if (foreign_r)
		*foreign_r = foreign;
	return told(box, rc, err);
}

void mailbox_abort(struct mailbox_txn **txn)
{
	if (*txn)
		(*txn)->box->format->abort(*txn);
	*txn = NULL;
}

int mailbox_catch_up(struct mailbox *box, const struct mail_event *events, size_t count,
		     bool *changed_r, struct error *err)
{
	int rc;

	*changed_r = false;
	rc = box->format->catch_up(box, events, count, changed_r, err);
	if (rc == 0)
		rc = mailbox_carry_out_late(box, changed_r, err);
	return told(box, rc, err);
}

int mailbox_scan(struct mailbox *box, bool *changed_r, size_t *missing_r, struct error *err)
{
	*changed_r = false;
	int rc;

	box->missing_count = 0;
	rc = box->format->scan(box, changed_r, err);
	if (rc == 0)
		rc = mailbox_carry_out_late(box, changed_r, err);
	*missing_r = rc == 0 ? box->missing_count : 0;
	return told(box, rc, err);
}

const uint32_t *mailbox_missing(const struct mailbox *box, size_t *count_r)
{
	*count_r = box->missing_count;
	return box->missing;
}

int mailbox_explain_missing(struct mailbox *box, const struct mail_event *events, size_t count,
			    struct error *err)
{
	if (box->missing_count == 0 || !box->format->explain_missing)
		return 0;
	return told(box, box->format->explain_missing(box, events, count, err), err);
}

int mailbox_has_removal(const struct mailbox *box, const struct mail_event *events, size_t count,
			const char *const *guids, size_t guid_count, struct error *err)
{
	if (!box->format->has_removal)
		return 0;
	return box->format->has_removal(box, events, count, guids, guid_count, err);
}

int mailbox_settle(struct mailbox *box, struct error *err)
{
	return box->format->settle ? told(box, box->format->settle(box, err), err) : 0;
}

/* What they point to is the index's, and hangs in the pool. */
void mailbox_changes_free(struct mailbox_changes *changes)
{
	struct index_changes found = {
		.change = changes->change, .attribute = changes->attribute, .pool = changes->pool};

	index_changes_free(&found);
	*changes = (struct mailbox_changes){0};
}
