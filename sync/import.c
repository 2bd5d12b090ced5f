/*
 * The peer's changes and bodies to us: its list, the plan that the merge makes of both lists, the
 * requests, and the bodies, spooled with no lock held. import_apply.c carries the plan out.
 *
 * A mailbox that has failed still reads everything that the protocol has in this place, and drops
 * it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/digest.h"
#include "store/base/log.h"
#include "sync/brain_private.h"

#define BODY_PIECE_BYTES 65536
#define NOT_WANTED	 SIZE_MAX

int import_add_change(struct box *box, const struct item_change *change, struct error *err)
{
	struct import *import = &box->import;

	if (box->failed != 0)
		return 0;
	if (change->type != 'e' && blocks_have(&box->blocks, change->uid)) {
		int code = error_set(err, -EPROTO, "lists UID %u of a block that is equal in %s",
				     change->uid, box->name);
		return stream_set_failed(box->brain->stream, code, err);
	}
	int ret = item_list_add_received(&import->list, change);
	if (ret == 0 && import->list.memory_bytes > BRAIN_LIST_BYTES_MAX)
		ret = -EMSGSIZE;
	if (ret < 0) {
		error_errno(err, ret, "mailbox %s: %zu changes", box->name, import->list.count);
		return stream_set_failed(box->brain->stream, ret, err);
	}
	return 0;
}

/* Does the own list say what is there of this message? */
static bool own_list_has(const struct item_list *own, size_t *at, uint32_t uid)
{
	while (*at < own->count && own->items[*at].uid < uid)
		(*at)++;
	return *at < own->count && own->items[*at].uid == uid && own->items[*at].type != 'e';
}

/* The merge wants to know the present state of what the peer changed below the common UID. */
static int find_named(struct box *box, struct error *err)
{
	const struct item_list *peer = &box->import.list;
	size_t at = 0;

	for (size_t i = 0; i < peer->count && peer->items[i].uid <= box->common_uid; i++) {
		struct mail mail;

		if (peer->items[i].type == 's' ||
		    own_list_has(&box->export.list, &at, peer->items[i].uid))
			continue;
		int ret = mailbox_find(box->mailbox, peer->items[i].uid, &mail, err);
		if (ret == -ENOENT)
			continue;
		if (ret == 0)
			ret = item_list_add_mail(&box->import.found, 's', &mail, NULL, NULL);
		if (ret == -ENOMEM)
			return error_errno(err, ret, "messages that the peer changed");
		if (ret < 0)
			return ret;
	}
	return 0;
}

/* Dovecot says little of expunges: does what it does not list count as one? Only while its mailbox
 * has not gone back since we saw it last. */
static bool absence_counts(const struct box *box)
{
	const struct sync_mailbox_state *saved = &box->saved;

	return box->has_saved && box->peer.uid_validity == saved->uid_validity &&
	       box->peer.uid_next > saved->common_uid &&
	       box->peer.highest_modseq >= saved->peer_modseq;
}

static int make_requests(struct import *import)
{
	const struct merge_mailbox_plan *plan = &import->plan;

	if (plan->appends == 0)
		return 0;
	import->requests = calloc(plan->action_count, sizeof(*import->requests));
	if (import->requests == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < plan->action_count; i++) {
		if (plan->actions[i].kind == MERGE_APPEND)
			import->requests[import->request_count++].action = i;
	}
	return 0;
}

static enum merge_mode import_mode(const struct box *box)
{
	const struct brain *brain = box->brain;

	if (brain->way != SYNC_FROM_PEER)
		return brain_mode(brain);
	if (!brain->keeps)
		return MERGE_BACKUP;
	/* What has no GUIDs (mbox) can only be compared by Dovecot's rules. */
	return box->peer.have_guids ? MERGE_ONCE : MERGE_DOVECOT;
}

static void fill_lists(const struct box *box, struct merge_mailbox_input *input)
{
	const struct import *import = &box->import;

	input->own.items = box->export.list.items;
	input->own.item_count = box->export.list.count;
	input->peer.items = import->list.items;
	input->peer.item_count = import->list.count;
	if (mail_filter_is_set(&box->brain->filter)) {
		input->own.items = import->own_taken.items;
		input->own.item_count = import->own_taken.count;
		input->peer.items = import->peer_taken.items;
		input->peer.item_count = import->peer_taken.count;
	}
	input->found = import->found.items;
	input->found_count = import->found.count;
}

static int merge_lists(struct box *box, struct error *err)
{
	bool filtered = mail_filter_is_set(&box->brain->filter);
	struct import *import = &box->import;
	struct merge_mailbox_input input = {
		.mode = import_mode(box),
		.role = brain_merge_role(box->brain),
		.common_uid = box->common_uid,
		.stateful = box->stateful,
		/* With a filter what is not listed may be left out, on either side. */
		.absence_counts = filtered ? box->stateful : absence_counts(box),
	};
	int ret = find_named(box, err);

	if (ret == 0 && filtered)
		ret = box_filter_lists(box, err);
	if (ret < 0)
		return ret;
	box_fill_side(box, true, &input.own);
	box_fill_side(box, false, &input.peer);
	fill_lists(box, &input);
	ret = merge_mailbox(&input, &import->plan, err);
	if (ret < 0)
		return ret;
	if (filtered)
		box_filter_plan(box);
	if (import->plan.need_new)
		return 0;
	import->planned = true;
	ret = make_requests(import);
	if (ret < 0)
		return error_errno(err, ret, "mail requests");
	return import_restore_plan(box, err);
}

static void free_taken(struct import *import)
{
	free(import->own_taken.items);
	free(import->peer_taken.items);
	import->own_taken = (struct filtered_list){.items = NULL};
	import->peer_taken = (struct filtered_list){.items = NULL};
}

/* A backup that cannot become the source's as it is: a folder is made anew, an INBOX stays what it
 * is. */
static int merge_anew(struct box *box, struct error *err)
{
	struct import *import = &box->import;
	uint32_t uid = import->plan.conflict_uid;

	if (strcmp(box->name, "INBOX") == 0)
		return error_set(
			err, -EOPNOTSUPP,
			"INBOX cannot become the source's, whose message with UID %u it "
			"cannot take below its UIDNEXT %u; nothing of it was changed. Move "
			"it away to have it made anew",
			uid, box->own.uid_next);
	if (box->brain->check_only)
		return 0;
	log_notice("it is made anew: the source's message with UID %u does not fit user=%s "
		   "mailbox=%s",
		   uid, box->brain->user->name, box->name);
	merge_mailbox_plan_free(&import->plan);
	free_taken(import);
	int ret = box_make_anew(box, err);
	if (ret == 0)
		ret = merge_lists(box, err);
	if (ret == 0 && import->plan.need_new)
		ret = error_set(err, -EPROTO, "the source's list does not fit an empty mailbox");
	return ret;
}

static void say_planned(const struct box *box)
{
	const struct merge_mailbox_plan *plan = &box->import.plan;
	const struct sync_host *host = box->brain->host;
	struct sync_planned planned = {
		.new_mails = plan->appends + plan->copies,
		.expunges = plan->expunges,
		.flag_changes = plan->flag_changes,
		.uid_changes = plan->uid_changes,
		.made_anew = plan->need_new,
	};

	if (host->mailbox_planned != NULL)
		host->mailbox_planned(host->ctx, box->name, &planned);
}

/* The state was wrong about what both have; without that everything is compared. What each side has
 * heard of is known all the same, and ties an expunge to a message that has another UID by now. */
static void doubt_state(struct box *box)
{
	const struct brain *brain = box->brain;
	struct sync_mailbox_state state = box->saved;

	state.common_uid = 0;
	if (brain_mode(brain) == MERGE_DSYNCFS && box->has_saved)
		brain->host->save(brain->host->ctx, &brain->peer, &state);
	else
		brain->host->forget(brain->host->ctx, &brain->peer, &box->own.mailbox_guid, false);
}

/* Only memory and the mailbox can fail here: the stream goes on either way. */
int import_make_plan(struct box *box, struct error *err)
{
	struct import *import = &box->import;
	struct error merge_err = {0};

	if (box->failed != 0)
		return 0;
	int ret = merge_lists(box, &merge_err);
	if (ret == 0 && import->plan.need_new)
		ret = merge_anew(box, &merge_err);
	if (ret < 0) {
		box_fail(box, ret, &merge_err);
		return 0;
	}
	if (box->brain->check_only) {
		say_planned(box);
		import->planned = false;
		import->request_count = 0;
		import_restore_free(import);
		return 0;
	}
	if (!import->plan.need_full && brain_mode(box->brain) == MERGE_DSYNCFS)
		moves_take(box);
	if (import->plan.need_full) {
		doubt_state(box);
		box_again(box, "the saved state does not fit the mailbox");
		import->request_count = 0;
		import_restore_free(import);
	}
	return 0;
}

int import_send_requests(struct box *box, struct error *err)
{
	struct import *import = &box->import;

	for (; box->failed == 0 && import->next_sent < import->request_count; import->next_sent++) {
		const struct merge_action *action =
			&import->plan.actions[import->requests[import->next_sent].action];
		bool has_guid = action->guid != NULL && *action->guid != '\0';

		/* It was here, in another mailbox. */
		if (import->requests[import->next_sent].received)
			continue;
		if (!stream_can_write(box->brain->stream))
			return 0;
		struct item item = {
			.type = ITEM_REQUEST,
			.request = {.guid = has_guid ? action->guid : NULL,
				    .uid = action->peer_uid},
		};
		int ret = items_send(box->brain->items, &item, err);
		if (ret < 0)
			return ret;
	}
	int ret = box->failed == 0 ? import_restore_send_requests(box, err) : 1;
	if (ret <= 0)
		return ret;
	ret = items_send_end(box->brain->items, err);
	return ret < 0 ? ret : 1;
}

static bool request_matches(const struct import *import, size_t index, const struct item_mail *mail)
{
	const struct merge_action *action = &import->plan.actions[import->requests[index].action];

	if (import->requests[index].received)
		return false;
	if (mail->guid != NULL && *mail->guid != '\0')
		return action->guid != NULL && strcmp(action->guid, mail->guid) == 0;
	return action->peer_uid == mail->uid;
}

/* Mails come in the order in which they were asked for, as a rule. */
static size_t find_request(struct import *import, const struct item_mail *mail)
{
	size_t count = import->request_count;

	for (size_t i = 0; i < count; i++) {
		size_t index = (import->next_expected + i) % count;

		if (request_matches(import, index, mail)) {
			import->next_expected = index + 1;
			return index;
		}
	}
	return NOT_WANTED;
}

void import_mark_unsettled(struct box *box, uint32_t uid)
{
	struct import *import = &box->import;

	if (import->unsettled_uid == 0 || uid < import->unsettled_uid)
		import->unsettled_uid = uid;
}

void import_mark_missing(struct box *box, uint32_t uid)
{
	import_mark_unsettled(box, uid);
	box_again(box, "a message did not come");
}

static void mark_missing(struct box *box, size_t index)
{
	struct import *import = &box->import;

	import->requests[index].missing = true;
	import_mark_missing(box, import->plan.actions[import->requests[index].action].uid);
}

static void finish_body(struct box *box);

/* A body that is not what was sent is left out: the next session brings it. */
static void drop_body(struct box *box)
{
	struct import *import = &box->import;
	struct import_restore *restore = import->restoring;
	size_t index = import->receiving;

	import->restoring = NULL;
	if (box->failed != 0 || (restore == NULL && index == NOT_WANTED))
		return;
	log_error("%s sent a message that came damaged user=%s mailbox=%s uid=%u",
		  stream_peer_name(box->brain->stream), box->brain->user->name, box->name,
		  restore != NULL ? restore->uid
				  : import->plan.actions[import->requests[index].action].uid);
	if (restore != NULL) {
		mailbox_spool_discard(&restore->spool);
		box_again(box, "a message that had no file came damaged");
	} else {
		mailbox_spool_discard(&import->requests[index].spool);
		mark_missing(box, index);
	}
}

/* What the peer says the body before it was. */
static int take_digest(struct box *box, const char *said, struct error *err)
{
	struct import *import = &box->import;
	uint8_t sha1[DIGEST_SHA1_SIZE];
	char hex[2 * DIGEST_SHA1_SIZE + 1];

	if (!import->awaits_digest) {
		int ret = error_set(err, -EPROTO, "a digest of no message in %s", box->name);
		return stream_set_failed(box->brain->stream, ret, err);
	}
	import->awaits_digest = false;
	digest_sum_end(import->sum, sha1);
	digest_to_hex(sha1, sizeof(sha1), hex);
	if (strcmp(hex, said) == 0)
		finish_body(box);
	else
		drop_body(box);
	return 0;
}

int import_begin_mail(struct box *box, const struct item_mail *mail, struct error *err)
{
	struct import *import = &box->import;

	if (mail->body_digest != NULL)
		return take_digest(box, mail->body_digest, err);
	if (import->awaits_digest) {
		int ret = error_set(err, -EPROTO, "no digest after a message in %s", box->name);
		return stream_set_failed(box->brain->stream, ret, err);
	}
	if (brain_has_digests(box->brain) && digest_sum_begin(&import->sum) < 0)
		return error_errno(err, -ENOMEM, "digest of a body");
	size_t index = box->failed == 0 ? find_request(import, mail) : NOT_WANTED;

	import->receiving = index;
	import->in_body = mail->stream;
	import->restoring = NULL;
	if (index == NOT_WANTED && box->failed == 0) {
		import->restoring = import_restore_find(box, mail);
		if (import->restoring != NULL) {
			import_restore_begin(box, import->restoring, mail);
			return 0;
		}
	}
	if (index == NOT_WANTED) {
		if (box->failed == 0 && box->brain->send_requests && !import->unasked)
			log_error("%s sent a mail that was not requested user=%s mailbox=%s "
				  "guid=%s",
				  stream_peer_name(box->brain->stream), box->brain->user->name,
				  box->name, mail->guid != NULL ? mail->guid : "");
		return 0;
	}
	struct import_request *request = &import->requests[index];
	request->received = true;
	request->saved = mail->saved_date;
	request->pop3_order = mail->pop3_order;
	if (!mail->stream) {
		mark_missing(box, index);
		return 0;
	}
	if (mail->pop3_uidl != NULL && *mail->pop3_uidl != '\0') {
		request->pop3_uidl = strdup(mail->pop3_uidl);
		if (request->pop3_uidl == NULL)
			return error_errno(err, -ENOMEM, "a mail's header");
	}
	const struct merge_action *action = &import->plan.actions[request->action];
	struct error spool_err = {0};
	int ret = mailbox_spool_open(box->mailbox, action->guid != NULL ? action->guid : "",
				     mail->received_date, &request->spool, &spool_err);
	if (ret < 0)
		box_fail(box, ret, &spool_err);
	return 0;
}

/* NULL: nobody wants it. */
static struct mail_spool **receiving_spool(struct import *import)
{
	if (import->restoring != NULL)
		return &import->restoring->spool;
	return import->receiving != NOT_WANTED ? &import->requests[import->receiving].spool : NULL;
}

static void finish_body(struct box *box)
{
	struct import *import = &box->import;

	if (box->failed != 0 || receiving_spool(import) == NULL)
		return;
	if (import->restoring != NULL)
		import->restores_spooled++;
	import->restoring = NULL;
	import->mails_received++;
	brain_progress(box);
	import->spooled_count++;
	import_apply_batch(box);
}

int import_receive_body(struct box *box, struct error *err)
{
	struct import *import = &box->import;
	static _Thread_local char data[BODY_PIECE_BYTES];

	while (import->in_body && stream_can_read(box->brain->stream, true)) {
		ssize_t n = stream_read_value(box->brain->stream, data, sizeof(data), err);

		if (n < 0)
			return (int)n;
		if (n == 0) {
			import->in_body = false;
			import->awaits_digest = brain_has_digests(box->brain);
			if (!import->awaits_digest)
				finish_body(box);
			break;
		}
		if (brain_has_digests(box->brain))
			digest_sum_add(import->sum, data, (size_t)n);
		struct mail_spool **spool = receiving_spool(import);
		if (box->failed != 0 || spool == NULL)
			continue;
		struct error spool_err = {0};
		int ret = mailbox_spool_write(*spool, data, (size_t)n, &spool_err);
		import->spooled_bytes += (uint64_t)n;
		if (ret < 0)
			box_fail(box, ret, &spool_err);
	}
	return 0;
}

void import_finish_mails(struct box *box)
{
	struct import *import = &box->import;

	if (import->awaits_digest)
		drop_body(box);
	import->awaits_digest = false;
	for (size_t i = 0; box->failed == 0 && i < import->request_count; i++) {
		if (!import->requests[i].received)
			mark_missing(box, i);
	}
}

uint32_t import_current_uid(const struct box *box, uint32_t uid)
{
	const struct import *import = &box->import;

	if (import->plan.uid_changes == 0)
		return uid;
	for (size_t i = 0; i < import->applied; i++) {
		const struct merge_action *action = &import->plan.actions[i];

		if (action->kind == MERGE_CHANGE_UID && action->source_uid == uid)
			return action->uid;
	}
	return uid;
}

static void free_requests(struct import *import)
{
	for (size_t i = 0; i < import->request_count; i++) {
		mailbox_spool_discard(&import->requests[i].spool);
		free(import->requests[i].pop3_uidl);
	}
	free(import->requests);
	import->requests = NULL;
	import->request_count = 0;
}

void import_end_part(struct box *box)
{
	struct import *import = &box->import;

	box->brain->result->changes_applied += (unsigned)import->applied;
	free_requests(import);
	import_restore_free(import);
	merge_mailbox_plan_free(&import->plan);
	free_taken(import);
	item_list_free(&import->list);
	item_list_free(&import->found);
	import->planned = false;
	import->next_expected = 0;
	import->applied = 0;
	import->applied_request = 0;
	import->batched = false;
}

void import_free(struct import *import)
{
	digest_sum_free(&import->sum);
	free_requests(import);
	import_restore_free(import);
	merge_mailbox_plan_free(&import->plan);
	free_taken(import);
	item_list_free(&import->list);
	item_list_free(&import->found);
	memset(import, 0, sizeof(*import));
}
