/*
 * One session from its first line to its last: the order of the phases in both roles, the outcome,
 * and the way out when something breaks.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/log.h"
#include "sync/brain_private.h"

#define MAIL_ERROR_TEMP	  1
#define FINISH_ITEM_MINOR 3

void sync_state_free(struct sync_state *state)
{
	free(state->boxes);
	memset(state, 0, sizeof(*state));
}

void brain_reason(struct brain *brain, const char *fmt, ...)
{
	va_list args;

	if (brain->result->reason[0] != '\0')
		return;
	va_start(args, fmt);
	// NOLINTNEXTLINE(clang-analyzer-valist.Uninitialized): clang 14 misses the va_start
	vsnprintf(brain->result->reason, sizeof(brain->result->reason), fmt, args);
	va_end(args);
}

void brain_failed(struct brain *brain, const char *mailbox, int code, const struct error *err)
{
	const char *text = err->text[0] != '\0' ? err->text : strerror(-code);

	log_error("sync: %s user=%s mailbox=%s peer=%s", text, brain->user->name, mailbox,
		  brain->peer.hostname);
	/* A failure is worth more than what made another session necessary. */
	if (brain->failed == 0)
		brain->result->reason[0] = '\0';
	brain_reason(brain, "mailbox %s: %s", mailbox, text);
	if (brain->failed == 0)
		brain->failed = code;
}

void brain_again(struct brain *brain, const char *mailbox, const char *why)
{
	brain->again = true;
	log_debug("sync: to be run again: %s user=%s mailbox=%s peer=%s", why, brain->user->name,
		  mailbox, brain->peer.hostname);
	brain_reason(brain, "mailbox %s: %s", mailbox, why);
}

const struct sync_mailbox_state *brain_saved_state(const struct brain *brain,
						   const struct guid *guid)
{
	size_t low = 0, high = brain->state.count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int cmp = guid_cmp(&brain->state.boxes[mid].guid, guid);

		if (cmp == 0)
			return &brain->state.boxes[mid];
		if (cmp < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

const struct item_state *brain_wire_state(const struct brain *brain, const struct guid *guid)
{
	size_t low = 0, high = brain->wire_state_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int cmp = guid_cmp(&brain->wire_states[mid].mailbox_guid, guid);

		if (cmp == 0)
			return &brain->wire_states[mid];
		if (cmp < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return NULL;
}

bool brain_is_asked(const struct brain *brain)
{
	return brain->check_only && !brain->options->check_only;
}

bool brain_has_digests(const struct brain *brain)
{
	return brain->peer.is_dsyncfs && items_peer_has_key(brain->items, ITEM_MAIL, "body_digest");
}

enum merge_mode brain_mode(const struct brain *brain)
{
	return brain->peer.is_dsyncfs ? MERGE_DSYNCFS : MERGE_DOVECOT;
}

enum merge_role brain_merge_role(const struct brain *brain)
{
	return brain->role == SYNC_MASTER ? MERGE_MASTER : MERGE_SLAVE;
}

/* ---- the connection's memory ---- */

static void session_free(void *ptr)
{
	struct brain_session *session = ptr;

	items_free(&session->items);
	free(session);
}

static int attach_session(struct brain *brain, struct error *err)
{
	struct brain_session *session = stream_session(brain->stream);

	if (session == NULL) {
		session = calloc(1, sizeof(*session));
		if (session != NULL)
			session->items = items_new(brain->stream);
		if (session == NULL || session->items == NULL) {
			free(session);
			return error_errno(err, -ENOMEM, "session");
		}
		stream_set_session(brain->stream, session, session_free);
	}
	brain->session = session;
	brain->items = session->items;
	items_set_alt_char(brain->items, brain->alt_char);
	return 0;
}

/* ---- master ---- */

static int sync_listed_boxes(struct brain *brain, struct error *err)
{
	const struct sync_options *options = brain->options;
	bool *last = calloc(options->box_count + 1, sizeof(*last));
	int ret = 0;

	if (last == NULL)
		return error_errno(err, -ENOMEM, "mailboxes");
	moves_prepare(brain, last);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < options->box_count && ret == 0; i++) {
			const struct sync_box *box = &options->boxes[i];

			if (last[i] == (round == 1))
				ret = box_sync_master(brain, box->name,
						      guid_is_empty(&box->guid) ? NULL : &box->guid,
						      err);
		}
	}
	free(last);
	return ret;
}

static bool is_synced(const struct brain *brain, const struct mailbox_node *node)
{
	return node->exists && !guid_is_empty(&node->guid) &&
	       brain_box_is_wanted(brain, node->name, &node->guid);
}

/* What its UIDs say, and one for looking at it. */
static uint32_t work_of(const struct mailbox_node *own, const struct mailbox_node *peer)
{
	uint32_t uid_next = own->uid_next;

	if (peer != NULL && peer->uid_next > uid_next)
		uid_next = peer->uid_next;
	return uid_next > 1 ? uid_next : 1;
}

static int by_name(const void *name, const void *node)
{
	return strcmp(name, ((const struct mailbox_node *)node)->name);
}

int brain_weigh(struct brain *brain, const struct mailbox_tree *peer)
{
	size_t count = brain->tree.node_count;

	brain->work.of_node = calloc(count + 1, sizeof(*brain->work.of_node));
	if (brain->work.of_node == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		const struct mailbox_node *node = &brain->tree.nodes[i];

		if (!is_synced(brain, node))
			continue;
		brain->work.of_node[i] =
			work_of(node, peer->node_count > 0
					      ? bsearch(node->name, peer->nodes, peer->node_count,
							sizeof(*peer->nodes), by_name)
					      : NULL);
		brain->work.total += brain->work.of_node[i];
		brain->boxes_total++;
	}
	return 0;
}

static size_t mails_to_move(const struct box *box)
{
	/* A fill is asked for in parts. */
	if (!fill_applies(box))
		return box->export.request_count + box->import.request_count;
	return box->own.messages_count > box->peer.messages_count ? box->own.messages_count
								  : box->peer.messages_count;
}

static void tell_progress(const struct brain *brain, size_t moved, uint64_t work)
{
	struct sync_progress progress = {
		.boxes_done = brain->boxes_done,
		.boxes_total = brain->boxes_total,
		.mails =
			brain->result->mails_sent + brain->result->mails_received + (unsigned)moved,
		.work_done = brain->work.done + work,
		.work_total = brain->work.total,
	};

	if (brain->host->progress != NULL)
		brain->host->progress(brain->host->ctx, &progress);
}

void brain_progress(const struct box *box)
{
	const struct brain *brain = box->brain;
	size_t moved = box->export.mails_sent + box->import.mails_received;
	size_t total = mails_to_move(box);

	/* What is moved twice, or more than was asked for, is no more work. */
	tell_progress(brain, moved,
		      total > 0 ? brain->work.now * (moved < total ? moved : total) / total : 0);
}

static int sync_node(struct brain *brain, size_t index, struct error *err)
{
	const struct mailbox_node *node = &brain->tree.nodes[index];

	brain->work.now = brain->work.of_node[index];
	int ret = box_sync_master(brain, node->name, &node->guid, err);
	brain->boxes_done++;
	brain->work.done += brain->work.now;
	tell_progress(brain, 0, 0);
	return ret;
}

static int sync_tree_boxes(struct brain *brain, struct error *err)
{
	int ret = 0;

	/* INBOX first: it is the one that a destination may not be able to take. */
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < brain->tree.node_count && ret == 0; i++) {
			const struct mailbox_node *node = &brain->tree.nodes[i];
			bool is_inbox = strcmp(node->name, "INBOX") == 0;

			if (is_synced(brain, node) && is_inbox == (round == 0))
				ret = sync_node(brain, i, err);
		}
	}
	return ret;
}

static void take_finish(struct brain *brain, const struct item_finish *finish)
{
	if (finish->require_full_resync) {
		/* The peer could not use the states: all of them are to be made anew. */
		for (size_t i = 0; i < brain->state.count; i++)
			brain->host->forget(brain->host->ctx, &brain->peer,
					    &brain->state.boxes[i].guid, false);
		brain_again(brain, "*", "the peer asks for a full sync");
	}
	if (finish->error != NULL && *finish->error != '\0') {
		struct error err;

		error_set(&err, -EREMOTEIO, "failed at %s: %.300s", brain->peer.hostname,
			  finish->error);
		brain_failed(brain, "*", -EREMOTEIO, &err);
	}
}

static int finish_master(struct brain *brain, struct error *err)
{
	struct item item;
	int ret = items_send_end(brain->items, err);

	if (ret == 0)
		ret = stream_flush(brain->stream, err);
	if (ret < 0 || items_peer_minor(brain->items) < FINISH_ITEM_MINOR)
		return ret;
	ret = items_receive_type(brain->items, ITEM_FINISH, false, &item, err);
	if (ret == 0)
		take_finish(brain, &item.finish);
	return ret;
}

static int run_master(struct brain *brain, bool *ended_r, struct error *err)
{
	int ret = brain_handshake_master(brain, ended_r, err);

	if (ret < 0 || *ended_r)
		return ret;
	if (brain->wire_stateful)
		ret = brain_send_states(brain, err);
	if (ret == 0 && brain->type != SYNC_BOXES && !brain->have_tree)
		ret = brain_read_tree(brain, err);
	if (ret == 0 && brain->type != SYNC_BOXES)
		ret = brain_sync_tree(brain, ended_r, err);
	if (ret == 0 && !brain->no_mail_sync)
		ret = brain->type == SYNC_BOXES ? sync_listed_boxes(brain, err)
						: sync_tree_boxes(brain, err);
	if (ret == 0)
		ret = finish_master(brain, err);
	return ret;
}

/* ---- slave ---- */

/* Answers each B until the end of the list. */
static int answer_boxes(struct brain *brain, bool *ended_r, struct error *err)
{
	for (bool first = true;; first = false) {
		struct item item;
		int ret = items_receive(brain->items, &item, err);

		if (ret < 0)
			return ret;
		if (item.type == ITEM_END)
			return 0;
		if (item.type == ITEM_CLOSE && first && brain->type == SYNC_BOXES) {
			*ended_r = true;
			return 0;
		}
		if (item.type != ITEM_MAILBOX)
			return items_unexpected(brain->items, &item, ITEM_MAILBOX, err);
		ret = box_sync_slave(brain, &item.mailbox, err);
		if (ret < 0)
			return ret;
	}
}

static int finish_slave(struct brain *brain, struct error *err)
{
	int ret = 0;

	if (items_peer_minor(brain->items) >= FINISH_ITEM_MINOR) {
		struct item item = {
			.type = ITEM_FINISH,
			.finish = {.error = brain->failed != 0 ? brain->result->reason : NULL,
				   .mail_error = brain->failed != 0 ? MAIL_ERROR_TEMP : 0,
				   .require_full_resync = brain->full_resync},
		};
		ret = items_send(brain->items, &item, err);
	}
	/* Between two dsyncfs nodes the connection goes on. */
	if (ret == 0 && !brain->peer.is_dsyncfs)
		ret = items_send_close(brain->items, err);
	return ret < 0 ? ret : stream_flush(brain->stream, err);
}

static int run_slave(struct brain *brain, bool *ended_r, struct error *err)
{
	int ret = brain_handshake_slave(brain, ended_r, err);

	if (ret < 0 || *ended_r)
		return ret;
	if (brain->wire_stateful)
		ret = brain_receive_states(brain, err);
	if (ret == 0 && brain->type != SYNC_BOXES)
		ret = brain_read_tree(brain, err);
	if (ret == 0 && brain->type != SYNC_BOXES)
		ret = brain_sync_tree(brain, ended_r, err);
	if (ret == 0 && !*ended_r)
		ret = answer_boxes(brain, ended_r, err);
	if (ret == 0 && !*ended_r)
		ret = finish_slave(brain, err);
	return ret;
}

/* ---- the end ---- */

/* Tells the peer that nothing more comes; to a dsyncfs node also why. */
static void give_up(struct brain *brain, int code, const struct error *err)
{
	char line[600];

	if (code == -ECONNABORTED)
		return;
	if (brain->items != NULL &&
	    items_format_failure(brain->items, err->text, line, sizeof(line)) == 0)
		stream_close_with(brain->stream, line);
	else
		stream_close_with(brain->stream, "X\n");
}

static int conclude(struct brain *brain, int ret, bool ended, struct error *err)
{
	struct sync_result *result = brain->result;

	if (ret < 0) {
		give_up(brain, ret, err);
		result->outcome = SYNC_FAILED;
		snprintf(result->reason, sizeof(result->reason), "%.500s", err->text);
		return ret;
	}
	if (brain->session != NULL)
		brain->session->complete = brain->peer.is_dsyncfs;
	if (ended) {
		result->outcome = SYNC_BUSY;
		brain_reason(brain, "the user is being synced already");
		return 0;
	}
	if (brain->failed != 0) {
		result->outcome = SYNC_FAILED;
		result->said = true;
		return error_set(err, brain->failed, "%s", result->reason);
	}
	result->outcome = brain->need_tree ? SYNC_NEED_TREE : brain->again ? SYNC_AGAIN : SYNC_DONE;
	return 0;
}

static void brain_free(struct brain *brain)
{
	sync_state_free(&brain->state);
	mailbox_tree_free(&brain->tree);
	free(brain->wire_states);
	free(brain->hashed_headers);
	free(brain->only_box);
	free(brain->exclude);
	free(brain->filter_flag);
	moves_free(&brain->moves);
	free(brain->work.of_node);
}

/* A slave learns it from the master. */
static int restrict_session(struct brain *brain, struct error *err)
{
	const struct sync_options *options = brain->options;

	brain->only_guid = options->only_guid;
	brain->has_only_guid = !guid_is_empty(&options->only_guid);
	if (options->only_box != NULL)
		brain->only_box = strdup(options->only_box);
	if (options->exclude != NULL)
		brain->exclude = strdup(options->exclude);
	if (options->filter != NULL)
		brain->filter = *options->filter;
	return (options->only_box != NULL && brain->only_box == NULL) ||
			       (options->exclude != NULL && brain->exclude == NULL)
		       ? error_errno(err, -ENOMEM, "session")
		       : 0;
}

int sync_run(struct stream *stream, const struct mail_user *user,
	     const struct sync_options *options, const struct sync_host *host,
	     struct sync_result *result_r, struct error *_err)
{
	struct error err = {0};
	struct brain brain = {
		.stream = stream,
		.user = user,
		.options = options,
		.host = host,
		.result = result_r,
		.role = options->role,
		.type = options->type,
		.way = options->way,
		.keeps = options->keeps,
		.check_only = options->check_only,
		.no_mail_sync = options->tree_only,
		.send_requests = true,
		.alt_char = options->alt_char != '\0' ? options->alt_char : '_',
	};
	bool ended = false;

	memset(result_r, 0, sizeof(*result_r));
	result_r->outcome = SYNC_FAILED;
	brain.hashed_headers = strdup(BRAIN_HASHED_HEADERS);
	int ret = brain.hashed_headers != NULL ? attach_session(&brain, &err)
					       : error_errno(&err, -ENOMEM, "session");
	if (ret == 0)
		ret = restrict_session(&brain, &err);
	if (ret == 0)
		ret = brain.role == SYNC_MASTER ? run_master(&brain, &ended, &err)
						: run_slave(&brain, &ended, &err);
	result_r->incomplete = brain.tree_incomplete;
	ret = conclude(&brain, ret, ended, &err);
	brain_free(&brain);
	if (ret < 0 && _err != NULL)
		*_err = err;
	return ret;
}
