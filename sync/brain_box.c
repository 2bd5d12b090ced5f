/*
 * One mailbox: B in both directions, which state counts, skipping, S, and what is saved.
 *
 * Between two dsyncfs nodes each side says in B what its saved state is, and both use the smaller
 * common UID; a mailbox is skipped only when the numbers are equal and neither side owes the other
 * anything. With Dovecot the state is what went over the wire at the start of the session, and the
 * skip rule is Dovecot's, decided from the numbers in the two B items.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/crash_point.h"
#include "store/base/log.h"
#include "sync/brain_private.h"

static bool numbers_are_equal(const struct box *box)
{
	const struct item_mailbox *own = &box->own, *peer = &box->peer;

	return own->uid_validity == peer->uid_validity && own->uid_next == peer->uid_next &&
	       own->messages_count == peer->messages_count &&
	       own->highest_modseq == peer->highest_modseq &&
	       own->highest_pvt_modseq == peer->highest_pvt_modseq &&
	       own->first_recent_uid == peer->first_recent_uid;
}

/* Both sides must reach the same answer, so only what went over the wire counts. */
static bool box_is_skipped(const struct box *box)
{
	if (box->brain->type == SYNC_FULL || box->brain->wire_stateful || !numbers_are_equal(box))
		return false;
	if (brain_mode(box->brain) == MERGE_DOVECOT)
		return true;
	return box->own.common_uid == box->peer.common_uid && !box->own.owed && !box->peer.owed;
}

/* A Dovecot master skips on equal numbers alone, which hides one change on each side. We know
 * better from our saved state, and make the numbers differ. */
static int unequal_numbers(struct box *box, struct error *err)
{
	const struct sync_mailbox_state *saved = &box->saved;
	struct mailbox_txn *txn = NULL;
	bool settled = box->has_saved && saved->acked_modseq == box->status.highest_modseq &&
		       saved->peer_modseq == box->peer.highest_modseq &&
		       saved->common_uid + 1 == box->status.uid_next;

	if (brain_mode(box->brain) != MERGE_DOVECOT || box->brain->role != SYNC_SLAVE ||
	    box->brain->way != SYNC_BOTH_WAYS || settled || box->own.uid_next <= 1 ||
	    !box_is_skipped(box))
		return 0;
	int ret = mailbox_begin(box->mailbox, &txn, err);
	if (ret == 0)
		ret = mailbox_raise(txn, 0, box->status.highest_modseq + 1, 0, err);
	if (ret == 0)
		ret = mailbox_commit(&txn, NULL, err);
	mailbox_abort(&txn);
	if (ret < 0)
		return ret;
	box->status = *mailbox_status(box->mailbox);
	mailbox_changes_free(&box->changes);
	return box_prepare(box, err);
}

void box_fill_side(const struct box *box, bool own, struct merge_side *side_r)
{
	const struct item_mailbox *item = own ? &box->own : &box->peer;

	*side_r = (struct merge_side){
		.uid_validity = item->uid_validity,
		.uid_next = item->uid_next,
		.messages = item->messages_count,
		.first_recent_uid = item->first_recent_uid,
		.highest_modseq = item->highest_modseq,
		.acked_modseq = item->acked_modseq,
		.agreed_uid = item->agreed_uid,
		.reached_uid = item->reached_uid,
		.peer_modseq = item->peer_modseq,
		.have_guids = item->have_guids,
		.have_save_guids = item->have_save_guids,
		.have_only_guid128 = item->have_only_guid128,
	};
}

/* Both B items are known. */
static void agree_on_state(struct box *box)
{
	struct merge_side own, peer;

	if (brain_mode(box->brain) != MERGE_DSYNCFS)
		return;
	box_fill_side(box, true, &own);
	box_fill_side(box, false, &peer);
	box->common_uid =
		merge_mailbox_common_uid(&own, box->own.common_uid, &peer, box->peer.common_uid);
	box->stateful = box->common_uid > 0;
	log_debug("sync: state common_uid=%u own=%u peer=%u acked=%llu of=%llu "
		  "peer_acked=%llu of=%llu user=%s mailbox=%s",
		  box->common_uid, box->own.common_uid, box->peer.common_uid,
		  (unsigned long long)box->own.acked_modseq,
		  (unsigned long long)box->own.highest_modseq,
		  (unsigned long long)box->peer.acked_modseq,
		  (unsigned long long)box->peer.highest_modseq, box->brain->user->name, box->name);
}

static uint32_t reported_common_uid(const struct box *box)
{
	const struct import *import = &box->import;

	if (box->brain->way == SYNC_TO_PEER)
		return box->own.uid_next - 1;
	if (!import->planned || import->plan.need_full || box->failed != 0)
		return 0;
	if (import->stopped)
		return box->common_uid;
	if (import->unsettled_uid != 0 && import->unsettled_uid <= import->plan.common_uid)
		return import->unsettled_uid - 1;
	return import->plan.common_uid;
}

/* The peer may save what it is told now, and we may be killed before we do. */
static void note_reached(struct box *box, uint32_t uid)
{
	struct brain *brain = box->brain;
	struct sync_mailbox_state state = box->saved;

	if (brain->host->reached == NULL || brain_mode(brain) != MERGE_DSYNCFS ||
	    brain->way != SYNC_BOTH_WAYS || mail_filter_is_set(&brain->filter) ||
	    brain->check_only || box->again || !box->has_saved || state.common_uid == 0 ||
	    uid <= state.common_uid || uid <= state.reached_uid)
		return;
	state.reached_uid = uid;
	brain->host->reached(brain->host->ctx, &brain->peer, &state);
}

int box_send_state(struct box *box, struct error *err)
{
	bool need_full = box->import.planned && box->import.plan.need_full;
	/* What the peer has of us, or we of it. */
	uint64_t common_modseq = box->brain->way == SYNC_TO_PEER ? box->own.highest_modseq
								 : box->peer.highest_modseq;
	struct item item = {
		.type = ITEM_STATE,
		.state = {.mailbox_guid = box->own.mailbox_guid,
			  .last_uidvalidity = need_full ? 0 : box->own.uid_validity,
			  .last_common_uid = reported_common_uid(box),
			  .last_common_modseq = box->failed != 0 || need_full ? 0 : common_modseq,
			  .last_common_pvt_modseq = box->peer.highest_pvt_modseq,
			  .last_messages_count = mailbox_status(box->mailbox)->messages,
			  .changes_during_sync = box->failed != 0 || box->again,
			  .highest_modseq = mailbox_status(box->mailbox)->highest_modseq,
			  .fill_modseq = box->fill_modseq},
	};

	note_reached(box, item.state.last_common_uid);
	return items_send(box->brain->items, &item, err);
}

/* Own changes up to here are at the peer, durably. */
static uint64_t acked_modseq(const struct box *box)
{
	const struct import *import = &box->import;

	/* What somebody else wrote meanwhile, or what has to be carried over, is still owed: then
	 * our own writes are sent again with it, which changes nothing there. */
	if (!import->committed || import->foreign || import->plan.run_again)
		return box->status.highest_modseq;
	return mailbox_status(box->mailbox)->highest_modseq;
}

static void save_state(struct box *box)
{
	struct brain *brain = box->brain;
	const struct item_state *peer = &box->peer_state;
	const struct mailbox_status *status = mailbox_status(box->mailbox);
	uint32_t own_uid = reported_common_uid(box);
	struct sync_mailbox_state state = {
		.guid = box->own.mailbox_guid,
		.uid_validity = status->uid_validity,
		.common_uid = peer->last_common_uid < own_uid ? peer->last_common_uid : own_uid,
		.acked_modseq = acked_modseq(box),
		.peer_modseq = brain_mode(brain) == MERGE_DSYNCFS && peer->highest_modseq != 0
				       ? peer->highest_modseq
				       : box->peer.highest_modseq,
		.messages = status->messages,
	};

	crash_point("sync: before a state is saved");
	brain->host->save(brain->host->ctx, &brain->peer, &state);
	crash_point("sync: after a state was saved");
}

/* Nothing has happened to it. */
static bool is_check(const struct brain *brain)
{
	return brain->result->checked || brain_is_asked(brain);
}

static void tell_settled(const struct box *box)
{
	const struct sync_host *host = box->brain->host;
	const struct mailbox_status *status =
		box->import.committed ? mailbox_status(box->mailbox) : &box->status;

	if (host->mailbox_settled != NULL && !is_check(box->brain))
		host->mailbox_settled(host->ctx, box->name, box->import.foreign ? NULL : status);
}

static void finish_box(struct box *box)
{
	struct brain *brain = box->brain;
	unsigned sent = box->export.mails_sent, received = box->import.mails_received;

	brain->result->mailboxes++;
	brain->result->mails_sent += sent;
	brain->result->mails_received += received;
	if (brain->host->mailbox_done != NULL && !is_check(brain))
		brain->host->mailbox_done(brain->host->ctx, box->name, sent, received);
	if (box->failed != 0)
		return;
	tell_settled(box);
	if (box->peer_state.changes_during_sync)
		box_again(box, "it changed at the peer, or failed there");
	if (box->again)
		return;
	if (box->import.plan.run_again)
		brain_again(brain, box->name, "a message was put back");
	/* Of one with a filter the sides have not become equal. */
	if (brain->way == SYNC_BOTH_WAYS && !mail_filter_is_set(&brain->filter))
		save_state(box);
}

/* Own changes since the saved state are too few where both have not agreed on it: one of the
 * mailboxes may have gone back, and has a message again that was expunged before. */
static void drop_changes_since(struct box *box)
{
	if (brain_mode(box->brain) != MERGE_DSYNCFS || box->stateful || box->since == 0 ||
	    !box->has_changes)
		return;
	mailbox_changes_free(&box->changes);
	box->has_changes = false;
	box->since = 0;
}

static int list_and_exchange(struct box *box, struct error *err)
{
	struct error build_err = {0};
	bool reaches;

	drop_changes_since(box);
	int ret = box->has_changes ? 0 : box_load_changes(box, &reaches, &build_err);

	if (ret == 0)
		ret = export_build(box, &build_err);
	if (ret < 0) {
		item_list_free(&box->export.list);
		box_fail(box, ret, &build_err);
	}
	return box_exchange(box, err);
}

/* After both B items. */
static int sync_box(struct box *box, struct error *err)
{
	if (box_is_skipped(box)) {
		tell_settled(box);
		return 0;
	}
	agree_on_state(box);
	int ret = 0;
	if (fill_applies(box)) {
		ret = fill_run(box, err);
	} else {
		if (blocks_apply(box))
			ret = blocks_exchange(box, err);
		if (ret == 0)
			ret = list_and_exchange(box, err);
	}
	if (ret == 0)
		finish_box(box);
	return ret;
}

static int send_own_item(struct box *box, struct error *err)
{
	struct item item = {.type = ITEM_MAILBOX, .mailbox = box->own};

	item.mailbox.cache_fields = brain_mode(box->brain) == MERGE_DOVECOT ? "" : NULL;
	item.mailbox.name = box->brain->type == SYNC_BOXES && box->brain->role == SYNC_MASTER
				    ? box->name
				    : NULL;
	return items_send(box->brain->items, &item, err);
}

static void take_peer_item(struct box *box, const struct item_mailbox *item)
{
	box->peer = *item;
	box->peer.name = NULL;
	box->peer.cache_fields = NULL;
}

/* The peer does not have it, or cannot sync it now. */
static void peer_declined(struct box *box)
{
	struct brain *brain = box->brain;

	/* A source does not have it, and it stays here. */
	if (box->peer.mailbox_ignore && brain->keeps)
		return;
	if (box->peer.mailbox_ignore) {
		brain_again(brain, box->name, "the peer cannot sync it now");
		return;
	}
	if (brain->type == SYNC_BOXES) {
		brain->need_tree = true;
		brain_reason(brain, "mailbox %s: the peer does not have it", box->name);
		return;
	}
	/* A Dovecot may be unable to use it; to another node it was renamed after its list was
	 * read, and who forgets what was agreed on forgets whose absence means an expunge. */
	if (brain_mode(brain) != MERGE_DSYNCFS &&
	    brain_saved_state(brain, &box->own.mailbox_guid) != NULL)
		brain->host->forget(brain->host->ctx, &brain->peer, &box->own.mailbox_guid, false);
	brain_again(brain, box->name, "the peer does not have it, or cannot use the saved state");
}

static int count_one(void *ctx, const struct mail *mail)
{
	(void)mail;
	(*(uint32_t *)ctx)++;
	return 0;
}

/* A Dovecot deletes a mailbox that lacks a message of the source's below its UIDNEXT; an INBOX that
 * it cannot delete stays empty then, in every run. That there are fewer is all that B tells. */
static int check_dovecot_inbox(const struct box *box, struct error *err)
{
	struct brain *brain = box->brain;
	uint32_t count = 0;

	if (brain->way != SYNC_TO_PEER || brain->keeps || strcmp(box->name, "INBOX") != 0 ||
	    mail_filter_is_set(&brain->filter) || box->peer.uid_next <= 1 ||
	    items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs_program"))
		return 0;
	int ret = mailbox_each(box->mailbox, 1, box->peer.uid_next - 1, count_one, &count, err);
	if (ret == 0 && count > box->peer.messages_count)
		ret = error_set(err, -EOPNOTSUPP,
				"INBOX there has %u messages below its UIDNEXT %u and the source "
				"%u: a Dovecot would delete it; move it away to have it made anew",
				box->peer.messages_count, box->peer.uid_next, count);
	return ret;
}

static int announce_and_sync(struct box *box, struct error *err)
{
	struct brain *brain = box->brain;
	struct item reply;
	int ret = send_own_item(box, err);

	if (ret == 0)
		ret = items_receive_type(brain->items, ITEM_MAILBOX, false, &reply, err);
	if (ret < 0)
		return ret;
	if (!guid_equal(&reply.mailbox.mailbox_guid, &box->own.mailbox_guid)) {
		ret = error_set(err, -EPROTO, "answered another mailbox than %s", box->name);
		return stream_set_failed(brain->stream, ret, err);
	}
	take_peer_item(box, &reply.mailbox);
	if (box->peer.mailbox_lost || box->peer.mailbox_ignore) {
		peer_declined(box);
		return 0;
	}
	ret = check_dovecot_inbox(box, err);
	return ret < 0 ? ret : sync_box(box, err);
}

/* A mailbox that the master cannot open is not announced: the others go on. */
static void cannot_announce(struct box *box, int code, const struct error *err)
{
	struct brain *brain = box->brain;

	if (box->held) {
		brain_again(brain, box->name, err->text);
	} else if (code == -ERANGE) {
		brain->host->forget(brain->host->ctx, &brain->peer, &box->status.guid, false);
		brain_again(brain, box->name, "the saved state does not fit the mailbox");
	} else if (code == -ENOENT || code == -ESTALE) {
		/* Who listed it by its GUID has to look at the tree, or lists it again and again.
		 */
		brain->need_tree |= brain->type == SYNC_BOXES;
		brain_again(brain, box->name, "it is gone or was replaced");
	} else {
		box_fail(box, code, err);
	}
}

int box_sync_master(struct brain *brain, const char *name, const struct guid *guid,
		    struct error *err)
{
	struct error box_err = {0};
	struct box box;
	int ret = box_open(&box, brain, name, guid, &box_err);

	if (ret == 0)
		ret = box_prepare(&box, &box_err);
	if (ret < 0) {
		cannot_announce(&box, ret, &box_err);
		ret = 0;
	} else {
		ret = announce_and_sync(&box, err);
	}
	box_close(&box, ret);
	return ret;
}

/* "I do not have it" or, to a dsyncfs master, "not now". */
static int decline(struct brain *brain, const struct item_mailbox *announced, bool lost,
		   struct error *err)
{
	bool ignore = lost ? brain->keeps && brain->way == SYNC_TO_PEER
			   : brain_mode(brain) == MERGE_DSYNCFS;
	struct item item = {
		.type = ITEM_MAILBOX,
		.mailbox = {.mailbox_guid = announced->mailbox_guid,
			    .mailbox_lost = !ignore,
			    .mailbox_ignore = ignore,
			    .have_guids = true,
			    .have_save_guids = true},
	};

	return items_send(brain->items, &item, err);
}

static const char *name_of_guid(const struct brain *brain, const struct guid *guid)
{
	for (size_t i = 0; i < brain->tree.node_count; i++) {
		if (brain->tree.nodes[i].exists && guid_equal(&brain->tree.nodes[i].guid, guid))
			return brain->tree.nodes[i].name;
	}
	return NULL;
}

static int answer_and_sync(struct box *box, struct error *err)
{
	int ret = send_own_item(box, err);

	return ret < 0 ? ret : sync_box(box, err);
}

/* Why the slave cannot take part; what it answers follows from that. */
static bool cannot_answer(struct box *box, int code, const struct error *err)
{
	struct brain *brain = box->brain;

	if (box->held) {
		brain_again(brain, box->name, err->text);
		return false;
	}
	if (code == -ENOENT || code == -ESTALE)
		return true;
	if (code == -ERANGE) {
		brain->full_resync = true;
		brain_again(brain, box->name, "the saved state does not fit the mailbox");
		return true;
	}
	box_fail(box, code, err);
	return false;
}

int box_sync_slave(struct brain *brain, const struct item_mailbox *announced, struct error *err)
{
	struct error box_err = {0};
	/* Only the name that goes with this GUID here, or that a dsyncfs master says. */
	const char *name =
		brain->have_tree ? name_of_guid(brain, &announced->mailbox_guid) : announced->name;
	struct box box;

	if (name == NULL)
		return decline(brain, announced, true, err);
	struct item_mailbox peer = *announced;
	int ret = box_open(&box, brain, name, &announced->mailbox_guid, &box_err);
	if (ret == 0) {
		take_peer_item(&box, &peer);
		ret = box_prepare(&box, &box_err);
	}
	if (ret == 0)
		ret = unequal_numbers(&box, &box_err);
	if (ret < 0)
		ret = decline(brain, &peer, cannot_answer(&box, ret, &box_err), err);
	else
		ret = answer_and_sync(&box, err);
	box_close(&box, ret);
	return ret;
}
