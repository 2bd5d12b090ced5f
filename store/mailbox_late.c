/*
 * Carries out the expunges that programs asked for by a UID which the message had no more
 * (store/index/index_late.h). See mailbox_private.h.
 */
#include <stdlib.h>
#include "store/base/log.h"
#include "store/index/index_late.h"
#include "store/mail_user.h"
#include "store/mailbox_private.h"

struct search {
	const struct guid *guid;
	uint32_t uid; /* 0: not there */
};

static int compare(void *ctx, const struct mail *mail)
{
	struct search *search = ctx;
	struct guid guid;

	guid_from_message_guid(mail->guid, &guid);
	if (!guid_equal(&guid, search->guid))
		return 0;
	search->uid = mail->uid;
	return 1;
}

static int carry_out(struct mailbox_txn *txn, const struct index_late_expunge *late, bool *done,
		     struct error *err)
{
	struct mailbox *box = txn->box;
	struct search search = {.guid = &late->guid};
	int rc = mailbox_each(box, late->first_uid, late->last_uid, compare, &search, err);

	if (rc < 0 || search.uid == 0)
		return rc < 0 ? rc : 0;
	rc = mailbox_expunge(txn, search.uid, err);
	if (rc == -ENOENT) /* asked for twice */
		return 0;
	if (rc < 0)
		return rc;
	*done = true;
	log_info("expunging, as was asked for while its UID was changed user=%s mailbox=%s uid=%u",
		 box->user->name, box->name, search.uid);
	return 0;
}

int mailbox_carry_out_late(struct mailbox *box, bool *changed_r, struct error *err)
{
	struct index *index = box->format->index(box);
	struct index_late_expunge *list;
	struct mailbox_txn *txn;
	bool done = false;
	size_t count;
	int rc;

	if (!index_has_late_expunges(index))
		return 0;
	rc = mailbox_begin(box, &txn, err);
	if (rc < 0)
		return rc;
	list = index_take_late_expunges(index, &count);
	for (size_t i = 0; rc == 0 && i < count; i++)
		rc = carry_out(txn, &list[i], &done, err);
	free(list);
	if (rc < 0 || !done)
		mailbox_abort(&txn);
	else
		rc = mailbox_commit(&txn, NULL, err);
	*changed_r = *changed_r || done;
	return rc;
}
