/*
 * Carrying out merge_mailbox's actions in transactions of the mailbox, in the steps that
 * merge_mailbox.h asks for. No wire traffic here.
 *
 * The plan was made from the mailbox as it was opened. If somebody has taken UIDs since which the
 * plan gives to messages, or has changed a message to which it gives another UID, nothing more is
 * applied: the next session merges what is there then. The peer knows by our S that it has to come
 * again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/crash_point.h"
#include "store/base/log.h"
#include "sync/brain_private.h"

#define BATCH_MAILS MERGE_APPEND_BATCH
#define BATCH_BYTES ((uint64_t)64 * 1024 * 1024)
/* MODSEQs in one transaction. */
#define RAISE_BATCH 10000

static bool gives_uid(const struct merge_action *action)
{
	return action->kind == MERGE_APPEND || action->kind == MERGE_COPY ||
	       action->kind == MERGE_CHANGE_UID;
}

/* Somebody took UIDs up to uid_next. Below the plan's UIDNEXT each of them is spoken for, by a
 * message that the plan appends or by one that came and went at the peer: with another one there
 * the sides would not agree on what is up to the common UID. */
static bool uids_were_taken(const struct import *import, uint32_t uid_next)
{
	return import->expected_uid_next < uid_next &&
	       import->expected_uid_next < import->plan.uid_next;
}

static bool has_state(const struct mail *now, uint8_t flags, struct keyword_set keywords)
{
	return ((now->flags ^ flags) & MAIL_FLAGS_MASK) == 0 &&
	       keyword_set_equal(now->keywords, keywords);
}

/* Somebody changed a message that is about to get another UID: the log has the change under the
 * old one, where the peer will not find the message any more. */
static bool moved_was_changed(struct box *box)
{
	const struct merge_mailbox_plan *plan = &box->import.plan;

	if (plan->uid_changes == 0)
		return false;
	for (size_t i = box->import.applied; i < plan->expunge_start; i++) {
		const struct merge_action *action = &plan->actions[i];
		struct mail now;

		if (action->kind != MERGE_CHANGE_UID || action->own == NULL)
			continue;
		/* Its flags may have been set by an action in an earlier transaction. */
		if (mailbox_find(box->mailbox, action->source_uid, &now, NULL) < 0 ||
		    (!has_state(&now, action->own->flags.final,
				action->own->flags.final_keywords) &&
		     !has_state(&now, action->flags, action->keywords)))
			return true;
	}
	return false;
}

/* Reading bodies may have refreshed the mailbox since its changes were listed: what the store calls
 * foreign then is only what came after that. */
void import_note_foreign(struct box *box)
{
	struct import *import = &box->import;
	const struct mailbox_status *status = mailbox_status(box->mailbox);

	if (status->highest_modseq != import->expected_modseq ||
	    status->uid_next != import->expected_uid_next)
		import->foreign = true;
}

/* -EAGAIN: the plan does not fit any more. */
static int check_plan_fits(struct box *box)
{
	struct import *import = &box->import;
	const struct mailbox_status *status = mailbox_status(box->mailbox);

	if (!guid_equal(&status->guid, &box->own.mailbox_guid) ||
	    status->uid_validity != import->expected_uid_validity || moved_was_changed(box))
		return -EAGAIN;
	import_note_foreign(box);
	return uids_were_taken(import, status->uid_next) ? -EAGAIN : 0;
}

static int stop(struct box *box, const char *why)
{
	box->import.stopped = true;
	box_again(box, why);
	return -EAGAIN;
}

/*
 * What comes from the peer may have been here, in a file that a mount left without a line when it
 * died, or with a line that Dovecot has dropped already with its file. If a program has just
 * removed it, only the mount tells that it is gone, and that is taken in first: it would be there
 * again.
 */
static int check_not_removed(struct box *box, size_t end, struct error *err)
{
	const struct sync_host *host = box->brain->host;
	const struct merge_mailbox_plan *plan = &box->import.plan;
	const size_t start = box->import.applied;
	const char **guids = NULL;
	size_t count = 0;
	int ret = 0;

	if (host->was_removed == NULL || plan->appends == 0 || start >= end)
		return 0;
	guids = calloc(end - start, sizeof(*guids));
	if (guids == NULL)
		return error_errno(err, -ENOMEM, "GUIDs of new messages");
	for (size_t i = start; i < end; i++) {
		const struct merge_action *action = &plan->actions[i];

		if (action->kind == MERGE_APPEND && action->guid != NULL)
			guids[count++] = action->guid;
	}
	if (count > 0)
		ret = host->was_removed(host->ctx, box->name, box->mailbox, guids, count, err);
	free(guids);
	return ret;
}

/* A transaction for the actions up to end. */
static int begin(struct box *box, size_t end, struct mailbox_txn **txn_r)
{
	struct error err = {0};
	int ret = mailbox_begin(box->mailbox, txn_r, &err);

	if (ret == 0)
		ret = check_not_removed(box, end, &err);
	if (ret < 0) {
		mailbox_abort(txn_r);
		box_fail(box, ret, &err);
		return ret;
	}
	if (ret > 0) {
		mailbox_abort(txn_r);
		return stop(box, "a message that the peer has was removed here just now");
	}
	ret = check_plan_fits(box);
	if (ret < 0) {
		mailbox_abort(txn_r);
		ret = stop(box, "it was changed here while the peer's changes were on their way");
	}
	return ret;
}

static int commit(struct box *box, struct mailbox_txn **txn)
{
	struct import *import = &box->import;
	struct error err = {0};
	bool foreign = false;
	int ret = mailbox_commit(txn, &foreign, &err);

	crash_point("sync: after a commit");

	if (ret < 0) {
		box_fail(box, ret, &err);
		return ret;
	}
	const struct mailbox_status *status = mailbox_status(box->mailbox);
	import->expected_uid_next = status->uid_next;
	import->expected_uid_validity = status->uid_validity;
	import->expected_modseq = status->highest_modseq;
	import->foreign |= foreign;
	import->committed = true;
	return 0;
}

static int append_mail(struct box *box, struct mailbox_txn *txn, const struct merge_action *action,
		       uint64_t modseq, struct error *err)
{
	struct import *import = &box->import;
	struct import_request *request = &import->requests[import->applied_request++];
	struct mail mail = {
		.uid = action->uid,
		.flags = action->flags & MAIL_FLAGS_MASK,
		.recent = action->uid >= import->plan.first_recent_uid,
		.modseq = modseq,
		.guid = action->guid != NULL ? action->guid : "",
		.keywords = action->keywords,
	};

	if (request->missing)
		return 0;
	return mailbox_append(txn, &request->spool, &mail, request->saved,
			      (struct mail_pop3){request->pop3_uidl, request->pop3_order}, err);
}

static int copy_mail(struct box *box, struct mailbox_txn *txn, const struct merge_action *action,
		     uint64_t modseq, struct error *err)
{
	struct mail mail = {
		.uid = action->uid,
		.flags = action->flags & MAIL_FLAGS_MASK,
		.recent = action->uid >= box->import.plan.first_recent_uid,
		.modseq = modseq,
		.guid = action->guid != NULL ? action->guid : "",
		.keywords = action->keywords,
	};

	return mailbox_copy(txn, action->source_uid, &mail, err);
}

/* The message may have been changed here since the plan was made: then only what the plan changes
 * of it is set, and its MODSEQ, which clients may know, does not go back: the next run has it. */
static int set_flags(struct box *box, struct mailbox_txn *txn, const struct merge_action *action,
		     uint64_t modseq, struct error *err)
{
	uint8_t flags = action->flags & MAIL_FLAGS_MASK;
	struct keyword_set keywords = action->keywords;

	if (action->own != NULL) {
		const struct merge_flags *before = &action->own->flags;
		uint8_t differ = (before->final ^ action->flags) & MAIL_FLAGS_MASK;
		struct mail now;
		int ret = mailbox_find(box->mailbox, action->uid, &now, err);

		if (ret < 0)
			return ret;
		if (now.modseq != before->modseq && now.modseq > modseq)
			modseq = 0;
		flags = (uint8_t)((now.flags & ~differ) | (action->flags & differ)) &
			MAIL_FLAGS_MASK;
		ret = item_list_apply_keywords(&box->import.found, now.keywords,
					       before->final_keywords, action->keywords, &keywords);
		if (ret < 0)
			return error_errno(err, ret, "keywords");
	}
	return mailbox_set_flags(txn, action->uid, flags, keywords, modseq, err);
}

static const char *action_name(enum merge_action_kind kind)
{
	static const char *const names[] = {
		[MERGE_SET_FLAGS] = "flags", [MERGE_APPEND] = "append",
		[MERGE_COPY] = "copy",	     [MERGE_CHANGE_UID] = "change UID",
		[MERGE_EXPUNGE] = "expunge", [MERGE_BURY] = "bury",
	};

	return names[kind];
}

static int apply_action(struct box *box, struct mailbox_txn *txn, const struct merge_action *action,
			bool in_batch)
{
	struct error err = {0};
	/* In a batch MODSEQs come at the end, for all of them. */
	uint64_t modseq = in_batch ? 0 : action->modseq;
	int ret = 0;

	log_debug("%s uid=%u source=%u peer=%u guid=%s mailbox=%s", action_name(action->kind),
		  action->uid, action->source_uid, action->peer_uid,
		  action->guid != NULL ? action->guid : "", box->name);
	switch (action->kind) {
	case MERGE_APPEND:
		ret = append_mail(box, txn, action, modseq, &err);
		break;
	case MERGE_COPY:
		ret = copy_mail(box, txn, action, modseq, &err);
		break;
	case MERGE_SET_FLAGS:
		ret = set_flags(box, txn, action, modseq, &err);
		break;
	case MERGE_CHANGE_UID:
		ret = mailbox_change_uid(txn, action->source_uid, action->uid, modseq, &err);
		break;
	case MERGE_EXPUNGE:
		ret = mailbox_expunge(txn, action->uid, &err);
		break;
	case MERGE_BURY:
		ret = mailbox_bury(txn, action->uid, action->told ? &action->guid128 : NULL, &err);
		break;
	}
	/* Expunged here meanwhile: the expunge wins, and is owed to the peer. A copy whose source
	 * has gone is not there: the next session brings the message. */
	if ((ret == -ENOENT && action->kind != MERGE_APPEND) ||
	    (ret == -EEXIST && action->kind == MERGE_BURY)) {
		box->import.foreign = true;
		if (action->kind == MERGE_COPY)
			import_mark_missing(box, action->uid);
		return 0;
	}
	if (ret < 0)
		box_fail(box, ret, &err);
	return ret;
}

static int apply_range(struct box *box, struct mailbox_txn *txn, size_t end, bool in_batch)
{
	int ret = 0;

	for (size_t i = box->import.applied; i < end && ret == 0; i++)
		ret = apply_action(box, txn, &box->import.plan.actions[i], in_batch);
	return ret;
}

/* A message that was appended in a batch gets its MODSEQ, or keeps a higher one where raise_only
 * says so. */
static int settle_modseq(struct box *box, struct mailbox_txn *txn, uint32_t uid, uint64_t modseq,
			 bool raise_only, struct error *err)
{
	struct keyword_set keywords;
	struct mail now;
	int ret = mailbox_find(box->mailbox, uid, &now, err);

	if (ret == -ENOENT || (ret == 0 && raise_only && now.modseq >= modseq))
		return 0;
	if (ret < 0)
		return ret;
	uint8_t flags = now.flags;
	ret = item_list_apply_keywords(&box->import.found, now.keywords, now.keywords, now.keywords,
				       &keywords);
	return ret < 0 ? error_errno(err, ret, "keywords")
		       : mailbox_set_flags(txn, uid, flags, keywords, modseq, err);
}

/* What was appended in batches gets its MODSEQ; where somebody else wrote in between, what is
 * higher may be theirs. */
static int settle_modseqs(struct box *box, struct mailbox_txn *txn, size_t end)
{
	struct error err = {0};
	int ret = 0;

	for (size_t i = 0; i < end && ret == 0; i++) {
		const struct merge_action *action = &box->import.plan.actions[i];

		if (action->modseq != 0)
			ret = settle_modseq(box, txn, action->uid, action->modseq,
					    box->import.foreign, &err);
	}
	if (ret < 0)
		box_fail(box, ret, &err);
	return ret;
}

static int raise_numbers(struct box *box, struct mailbox_txn *txn, uint32_t uid_next,
			 uint64_t highest_modseq, uint32_t first_recent_uid)
{
	struct error err = {0};
	int ret = mailbox_raise(txn, uid_next, highest_modseq, first_recent_uid, &err);

	if (ret < 0)
		box_fail(box, ret, &err);
	return ret;
}

static int raise_alone(struct box *box, uint32_t uid_next, uint64_t highest_modseq)
{
	struct mailbox_txn *txn = NULL;
	int ret = begin(box, 0, &txn);

	if (ret == 0)
		ret = raise_numbers(box, txn, uid_next, highest_modseq, 0);
	if (ret == 0)
		ret = commit(box, &txn);
	mailbox_abort(&txn);
	return ret;
}

static int adopt_uid_validity(struct box *box)
{
	struct mailbox_txn *txn = NULL;
	struct error err = {0};
	int ret = begin(box, 0, &txn);

	if (ret == 0) {
		ret = mailbox_set_uid_validity(txn, box->import.plan.uid_validity, &err);
		if (ret < 0)
			box_fail(box, ret, &err);
	}
	if (ret == 0)
		ret = commit(box, &txn);
	mailbox_abort(&txn);
	return ret;
}

/* Once, before the first action. */
static int prepare(struct box *box)
{
	struct import *import = &box->import;
	int ret = 0;

	if (import->prepared)
		return 0;
	import->prepared = true;
	if (import->plan.adopt_uid_validity)
		ret = adopt_uid_validity(box);
	if (ret == 0 && import->plan.first_modseq != 0)
		ret = raise_alone(box, 0, import->plan.first_modseq);
	return ret;
}

static int raise_to_plan(struct box *box, struct mailbox_txn *txn)
{
	const struct merge_mailbox_plan *plan = &box->import.plan;

	return raise_numbers(box, txn, plan->uid_next, plan->highest_modseq,
			     plan->first_recent_uid);
}

/* Everything up to the expunges, and the final numbers if there are none. */
static int apply_changes(struct box *box)
{
	struct import *import = &box->import;
	const struct merge_mailbox_plan *plan = &import->plan;
	bool last = plan->expunge_start == plan->action_count;
	size_t batched = import->applied;
	struct mailbox_txn *txn = NULL;

	if (!last && batched == plan->expunge_start && !import->batched)
		return 0;
	int ret = begin(box, plan->expunge_start, &txn);
	if (ret == 0)
		ret = apply_range(box, txn, plan->expunge_start, false);
	if (ret == 0 && import->batched)
		ret = settle_modseqs(box, txn, batched);
	if (ret == 0 && last)
		ret = raise_to_plan(box, txn);
	if (ret == 0)
		ret = commit(box, &txn);
	mailbox_abort(&txn);
	if (ret == 0)
		import->applied = plan->expunge_start;
	return ret;
}

static int apply_expunges(struct box *box)
{
	struct import *import = &box->import;
	const struct merge_mailbox_plan *plan = &import->plan;
	struct mailbox_txn *txn = NULL;
	int ret = 0;

	if (plan->expunge_start == plan->action_count)
		return 0;
	if (plan->expunge_modseq > 0 &&
	    (mailbox_status(box->mailbox)->highest_modseq < plan->expunge_modseq - 1 ||
	     (plan->burials > 0 && mailbox_status(box->mailbox)->uid_next < plan->uid_next)))
		ret = raise_alone(box, plan->burials > 0 ? plan->uid_next : 0,
				  plan->expunge_modseq - 1);
	if (ret == 0)
		ret = begin(box, plan->action_count, &txn);
	if (ret == 0)
		ret = apply_range(box, txn, plan->action_count, false);
	if (ret == 0)
		ret = raise_to_plan(box, txn);
	if (ret == 0)
		ret = commit(box, &txn);
	mailbox_abort(&txn);
	if (ret == 0)
		import->applied = plan->action_count;
	return ret;
}

static bool has_work(const struct box *box)
{
	const struct merge_mailbox_plan *plan = &box->import.plan;

	return plan->action_count > 0 || plan->adopt_uid_validity || plan->first_modseq != 0 ||
	       plan->uid_next > box->status.uid_next ||
	       plan->highest_modseq > box->status.highest_modseq ||
	       plan->first_recent_uid > box->status.first_recent_uid;
}

static bool may_apply(const struct box *box)
{
	return box->failed == 0 && box->import.planned && !box->import.plan.need_full &&
	       !box->import.stopped;
}

/* How many of the next actions have all they need. */
static size_t ready_end(const struct import *import)
{
	size_t request = import->applied_request, i = import->applied;

	for (; i < import->plan.expunge_start; i++) {
		if (import->plan.actions[i].kind != MERGE_APPEND)
			continue;
		const struct import_request *next = &import->requests[request++];
		if (!next->received || ((import->in_body || import->awaits_digest) &&
					import->receiving == request - 1))
			break;
	}
	return i;
}

/* The actions up to `end`, without their MODSEQs. */
static void apply_batch(struct box *box, size_t end)
{
	struct import *import = &box->import;
	struct mailbox_txn *txn = NULL;

	if (end == import->applied || prepare(box) < 0)
		return;
	int ret = begin(box, end, &txn);
	if (ret == 0)
		ret = apply_range(box, txn, end, true);
	if (ret == 0)
		ret = commit(box, &txn);
	mailbox_abort(&txn);
	if (ret < 0)
		return;
	import->batched = true;
	import->applied = end;
	import->spooled_count = 0;
	import->spooled_bytes = 0;
}

void import_apply_batch(struct box *box)
{
	struct import *import = &box->import;

	if (import->spooled_count < BATCH_MAILS && import->spooled_bytes < BATCH_BYTES)
		return;
	if (import->restores_spooled > 0) {
		import_restore_apply(box);
		import->spooled_count = 0;
		import->spooled_bytes = 0;
	} else if (may_apply(box)) {
		apply_batch(box, ready_end(import));
	}
}

void import_apply_part(struct box *box)
{
	if (may_apply(box))
		apply_batch(box, box->import.plan.expunge_start);
}

/* How far import_raise_modseqs() has come. */
struct raise {
	const struct fill_modseq *modseqs;
	size_t count, next;
	uint32_t uid; /* in modseqs[next] */
};

/* The messages of a batch; whatever somebody else wrote meanwhile: it is about single messages. */
static int raise_batch(struct box *box, struct mailbox_txn *txn, struct raise *raise,
		       struct error *err)
{
	int ret = 0;

	for (unsigned i = 0; i < RAISE_BATCH && raise->next < raise->count && ret == 0; i++) {
		const struct fill_modseq *row = &raise->modseqs[raise->next];

		if (raise->uid < row->first_uid)
			raise->uid = row->first_uid;
		ret = settle_modseq(box, txn, raise->uid, row->modseq, true, err);
		if (raise->uid == row->last_uid)
			raise->next++;
		raise->uid++;
	}
	return ret;
}

static int raise_some(struct box *box, struct raise *raise, struct error *err)
{
	struct import *import = &box->import;
	struct mailbox_txn *txn = NULL;
	bool foreign = false;
	int ret = mailbox_begin(box->mailbox, &txn, err);

	if (ret == 0 && !guid_equal(&mailbox_status(box->mailbox)->guid, &box->own.mailbox_guid))
		ret = error_set(err, -ESTALE, "mailbox %s has another GUID now", box->name);
	if (ret == 0)
		import_note_foreign(box);
	if (ret == 0)
		ret = raise_batch(box, txn, raise, err);
	if (ret == 0)
		ret = mailbox_commit(&txn, &foreign, err);
	mailbox_abort(&txn);
	item_list_free(&import->found);
	import->foreign |= foreign;
	if (ret == 0) {
		import->committed = true;
		import->expected_modseq = mailbox_status(box->mailbox)->highest_modseq;
	}
	return ret;
}

void import_raise_modseqs(struct box *box, const struct fill_modseq *modseqs, size_t count)
{
	struct raise raise = {.modseqs = modseqs, .count = count};
	struct error err = {0};

	while (raise.next < count && box->failed == 0) {
		int ret = raise_some(box, &raise, &err);

		if (ret < 0)
			box_fail(box, ret, &err);
		brain_progress(box);
	}
}

/* A MODSEQ that somebody else took meanwhile was not to be had any more. Changes of flags are in
 * the log and are sent again; a new message is not, if it is counted as common. */
static void check_modseqs(struct box *box)
{
	const struct import *import = &box->import;

	for (size_t i = 0; i < import->applied; i++) {
		const struct merge_action *action = &import->plan.actions[i];
		struct mail now;

		if (gives_uid(action) && action->modseq != 0 &&
		    mailbox_find(box->mailbox, action->uid, &now, NULL) == 0 &&
		    now.modseq != action->modseq)
			import_mark_unsettled(box, action->uid);
	}
}

void import_apply(struct box *box)
{
	struct import *import = &box->import;

	import_restore_apply(box);
	if (!may_apply(box) || !has_work(box))
		return;
	if (prepare(box) == 0 && apply_changes(box) == 0)
		(void)apply_expunges(box);
	if (import->foreign)
		check_modseqs(box);
	box->brain->result->changes_applied += (unsigned)import->applied;
}
