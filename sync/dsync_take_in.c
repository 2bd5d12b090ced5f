/* What programs did to a user's files. See dsync_take_in.h. */
#include "sync/dsync_take_in.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/log.h"
#include "store/mail_purge.h"
#include "store/mailbox.h"
#include "store/mailbox_list.h"

struct lost {
	struct mailbox *box;
	uint32_t *uids;
	size_t count, size;
	struct error *err;
};

static int note_lost(struct lost *lost, uint32_t uid)
{
	if (lost->count == lost->size)
		return error_set(lost->err, -EAGAIN, "%s: messages go away while we look",
				 mailbox_name(lost->box));
	lost->uids[lost->count++] = uid;
	return 0;
}

static int look_for_file(void *ctx, const struct mail *mail)
{
	struct lost *lost = ctx;
	struct mail_body_info info;
	struct mail_body *body = NULL;
	int rc = mailbox_body_open(lost->box, mail->uid, &body, &info, lost->err);

	mailbox_body_close(&body);
	return rc == -ENOENT ? note_lost(lost, mail->uid) : rc;
}

static int expunge_all(const struct lost *lost, struct error *err)
{
	struct mailbox_txn *txn = NULL;
	int rc = mailbox_begin(lost->box, &txn, err);

	for (size_t i = 0; rc == 0 && i < lost->count; i++) {
		rc = mailbox_expunge(txn, lost->uids[i], err);
		/* Somebody else has seen it meanwhile. */
		if (rc == -ENOENT)
			rc = 0;
	}
	if (rc == 0)
		rc = mailbox_commit(&txn, NULL, err);
	mailbox_abort(&txn);
	return rc;
}

/* The scan has looked twice, the second time under the locks: they are gone. */
static int expunge_lost(struct mailbox *box, size_t missing, struct error *err)
{
	struct lost lost = {.box = box, .size = missing, .err = err};
	int rc;

	if (missing >= mailbox_status(box)->messages) {
		log_warning("not one of the %zu messages has a file: none is taken for expunged "
			    "mailbox=%s",
			    missing, mailbox_name(box));
		return 0;
	}
	lost.uids = calloc(missing, sizeof *lost.uids);
	if (!lost.uids)
		return error_errno(err, -ENOMEM, "%s", mailbox_name(box));
	rc = mailbox_each(box, 1, UINT32_MAX, look_for_file, &lost, err);
	if (rc == 0)
		rc = expunge_all(&lost, err);
	free(lost.uids);
	return rc;
}

static int take_in_box(const struct mail_user *user, const char *name, struct error *err)
{
	struct mailbox *box = NULL;
	size_t missing = 0;
	bool changed;
	int rc = mailbox_open(user, name, &box, err);

	if (rc == -EUCLEAN && !user->as_it_is) {
		log_warning("%s: rebuilding it user=%s mailbox=%s", err->text, user->name, name);
		rc = mailbox_rebuild(user, name, err);
		if (rc == 0)
			rc = mailbox_open(user, name, &box, err);
	}
	if (rc == 0)
		rc = mailbox_scan(box, &changed, &missing, err);
	if (rc == 0 && missing > 0)
		rc = expunge_lost(box, missing, err);
	mailbox_close(&box);
	return rc;
}

int dsync_take_in(const struct mail_user *user, struct error *err)
{
	struct mailbox_tree tree;
	struct error unclaimed;
	uint32_t count;
	bool incomplete = false;
	int rc = mailbox_list_read(user, &tree, &incomplete, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < tree.node_count; i++) {
		struct error box_err = {0};

		if (tree.nodes[i].exists && !guid_is_empty(&tree.nodes[i].guid) &&
		    take_in_box(user, tree.nodes[i].name, &box_err) < 0)
			log_debug("%s", box_err.text);
	}
	mailbox_tree_free(&tree);
	if (mail_look_for_unclaimed(user, &count, &unclaimed) < 0)
		log_debug("%s", unclaimed.text);
	return 0;
}

/* ---- what came during a session ---- */

struct dsync_settled_box {
	char *name;
	bool changed;
	struct mailbox_status status;
};

void dsync_settled_add(struct dsync_settled *settled, const char *mailbox,
		       const struct mailbox_status *status)
{
	if (settled->count == settled->size) {
		size_t size = settled->size != 0 ? settled->size * 2 : 32;
		struct dsync_settled_box *bigger = realloc(settled->boxes, size * sizeof *bigger);

		if (!bigger) {
			settled->incomplete = true;
			return;
		}
		settled->boxes = bigger;
		settled->size = size;
	}
	struct dsync_settled_box *box = &settled->boxes[settled->count];

	*box = (struct dsync_settled_box){.name = strdup(mailbox), .changed = status == NULL};
	if (!box->name) {
		settled->incomplete = true;
		return;
	}
	if (status)
		box->status = *status;
	settled->count++;
}

/* What cannot be looked at was the session's to complain of, or is gone: that is a change. */
static bool has_changed(const struct dsync_settled_box *settled, const struct mail_user *user)
{
	struct mailbox *box = NULL;
	struct error err = {0};
	size_t missing = 0;
	bool found = false, changed = true;
	int rc = settled->changed ? 0 : mailbox_open(user, settled->name, &box, &err);

	if (settled->changed)
		return true;
	if (rc == 0)
		rc = mailbox_scan(box, &found, &missing, &err);
	if (rc == 0) {
		const struct mailbox_status *now = mailbox_status(box);

		changed = found || missing > 0 || now->uid_next != settled->status.uid_next ||
			  now->highest_modseq != settled->status.highest_modseq;
	}
	mailbox_close(&box);
	return changed;
}

const char *dsync_settled_changed(const struct dsync_settled *settled, const struct mail_user *user)
{
	for (size_t i = 0; i < settled->count; i++) {
		if (has_changed(&settled->boxes[i], user))
			return settled->boxes[i].name;
	}
	return NULL;
}

void dsync_settled_free(struct dsync_settled *settled)
{
	for (size_t i = 0; i < settled->count; i++)
		free(settled->boxes[i].name);
	free(settled->boxes);
	*settled = (struct dsync_settled){.boxes = NULL};
}
