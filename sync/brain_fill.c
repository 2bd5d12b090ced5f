/*
 * All of a mailbox into one that is empty, between two dsyncfs nodes (PROTOCOL.md: fill_from).
 *
 *   gives  A* . ( C* . M* . )* .  S   sends A* . , takes and applies, reads S, and sends its S
 *
 * Nothing has to be compared, so no list of the whole mailbox is needed on either side, and nothing
 * is asked for: messages come in parts, each with its list before its bodies. A part is committed
 * before the next is read.
 *
 * MODSEQs: each part's messages get the next one. A client may have seen that, so at the end each
 * message gets the one that it has at the giver or, where that is not above all that clients can
 * have seen, the first that is (fill_modseq in the taker's S); and the giver gives it the same.
 *
 * When the session ends early, or somebody writes into the mailbox meanwhile, what has come stays.
 * The next session compares (brain_blocks.c), and lists what is missing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "sync/brain_private.h"

#define FILL_FROM_DEFAULT 1000U
#define PART_MAILS	  MERGE_APPEND_BATCH

/* Of a mailbox that was taken in as files, long rows of messages have one MODSEQ. */
struct fill {
	struct box *box;
	struct fill_modseq *modseqs; /* of the messages that were taken, ascending */
	size_t count, size;
};

uint32_t fill_from(const struct box *box)
{
	const struct sync_options *options = box->brain->options;
	const struct mailbox_status *status = &box->status;

	if (box->brain->check_only || mail_filter_is_set(&box->brain->filter) ||
	    box->brain->way != SYNC_BOTH_WAYS || status->messages != 0 || status->uid_next != 1)
		return 0;
	return options->fill_from != 0 ? options->fill_from : FILL_FROM_DEFAULT;
}

static bool side_fills(const struct item_mailbox *giver, const struct item_mailbox *taker)
{
	return taker->fill_from != 0 && giver->fill_from == 0 &&
	       giver->messages_count >= taker->fill_from;
}

/* Both sides must reach the same answer, so only what went over the wire counts. */
bool fill_applies(const struct box *box)
{
	return side_fills(&box->own, &box->peer) || side_fills(&box->peer, &box->own);
}

/* Calls send() until all is sent. */
static int send_all(struct box *box, int (*send)(struct box *box, struct error *err),
		    struct error *err)
{
	for (;;) {
		int ret = send(box, err);

		if (ret == 0)
			ret = stream_poll(box->brain->stream, err);
		else
			return ret < 0 ? ret : 0;
		if (ret < 0)
			return ret;
	}
}

/* The messages from *first_uid on, which moves on. 1: there are more. */
static int give_part(struct box *box, uint32_t *first_uid, struct error *err)
{
	struct error build_err = {0};
	int ret = box->failed != 0 ? 0 : export_build_part(box, *first_uid, PART_MAILS, &build_err);

	if (ret < 0) {
		item_list_free(&box->export.list);
		box_fail(box, ret, &build_err);
	}
	ret = send_all(box, export_send_changes, err);
	const struct item_list *list = &box->export.list;
	if (ret < 0 || list->count == 0)
		return ret;
	*first_uid = list->items[list->count - 1].uid + 1;
	ret = export_request_all(box, err);
	if (ret == 0)
		ret = send_all(box, export_send_mails, err);
	export_end_part(&box->export);
	return ret < 0 ? ret : 1;
}

static int give(struct box *box, struct error *err)
{
	uint32_t first_uid = 1;
	int ret;

	do {
		ret = give_part(box, &first_uid, err);
	} while (ret > 0);
	return ret;
}

/* *count_r: messages in the list; the part may fail, and is read all the same. */
static int take_list(struct box *box, size_t *count_r, struct error *err)
{
	struct item item;

	for (*count_r = 0;; (*count_r)++) {
		int ret = items_receive_type(box->brain->items, ITEM_CHANGE, true, &item, err);

		if (ret < 0)
			return ret;
		if (item.type == ITEM_END)
			return import_make_plan(box, err);
		if (item.change.type != 's' || *count_r == PART_MAILS) {
			ret = error_set(err, -EPROTO, "%s in a part of %s",
					*count_r == PART_MAILS ? "too many messages"
							       : "something else than a message",
					box->name);
			return stream_set_failed(box->brain->stream, ret, err);
		}
		ret = import_add_change(box, &item.change, err);
		if (ret < 0)
			return ret;
	}
}

static int take_body(struct box *box, struct error *err)
{
	struct stream *stream = box->brain->stream;
	int ret = 0;

	while (ret == 0 && box->import.in_body) {
		if (stream_can_read(stream, true))
			ret = import_receive_body(box, err);
		else
			ret = stream_poll(stream, err);
	}
	return ret;
}

static int take_mails(struct box *box, struct error *err)
{
	struct item item;
	int ret;

	for (;;) {
		ret = items_receive_type(box->brain->items, ITEM_MAIL, true, &item, err);
		if (ret < 0 || item.type == ITEM_END)
			break;
		ret = import_begin_mail(box, &item.mail, err);
		if (ret == 0)
			ret = take_body(box, err);
		if (ret < 0)
			break;
	}
	if (ret == 0)
		import_finish_mails(box);
	return ret;
}

/* Every entry may have to be raised. -ENOMEM */
static int add_modseq(struct fill *fill, uint32_t uid, uint64_t modseq)
{
	if (fill->count > 0) {
		struct fill_modseq *last = &fill->modseqs[fill->count - 1];

		if (last->modseq == modseq && last->last_uid + 1 == uid) {
			last->last_uid = uid;
			return 0;
		}
	}
	if (fill->count == fill->size) {
		size_t size = fill->size != 0 ? fill->size * 2 : 64;
		struct fill_modseq *bigger = realloc(fill->modseqs, size * sizeof(*bigger));

		if (bigger == NULL)
			return -ENOMEM;
		fill->modseqs = bigger;
		fill->size = size;
	}
	fill->modseqs[fill->count++] =
		(struct fill_modseq){.first_uid = uid, .last_uid = uid, .modseq = modseq};
	return 0;
}

static int note_modseqs(struct fill *fill)
{
	const struct merge_mailbox_plan *plan = &fill->box->import.plan;
	int ret = 0;

	for (size_t i = 0; i < plan->action_count && ret == 0; i++) {
		const struct merge_action *action = &plan->actions[i];

		if (action->peer != NULL)
			ret = add_modseq(fill, action->uid, action->peer->flags.modseq);
	}
	return ret;
}

static void modseqs_failed(struct box *box, int code)
{
	struct error err = {0};

	error_errno(&err, code, "MODSEQs of mailbox %s", box->name);
	box_fail(box, code, &err);
}

static void apply_part(struct fill *fill)
{
	int ret = note_modseqs(fill);

	if (ret < 0)
		modseqs_failed(fill->box, ret);
	else
		import_apply_part(fill->box);
}

static int take_parts(struct fill *fill, struct error *err)
{
	struct box *box = fill->box;
	struct import *import = &box->import;

	import->unasked = true;
	for (;;) {
		size_t count;
		int ret = take_list(box, &count, err);

		if (ret < 0 || count == 0)
			return ret;
		uint32_t last_uid =
			import->list.count > 0 ? import->list.items[import->list.count - 1].uid : 0;
		ret = take_mails(box, err);
		if (ret < 0)
			return ret;
		if (box->failed == 0)
			apply_part(fill);
		import_end_part(box);
		/* The next part's have to be above it. */
		box->common_uid = last_uid;
	}
}

static int take(struct box *box, struct error *err)
{
	struct fill fill = {.box = box};
	int ret = take_parts(&fill, err);
	uint64_t floor = mailbox_status(box->mailbox)->highest_modseq + 1;

	for (size_t i = 0; i < fill.count; i++) {
		if (fill.modseqs[i].modseq < floor)
			fill.modseqs[i].modseq = floor;
	}
	/* Also of one that ends early: what is there need not be sent again. */
	import_raise_modseqs(box, fill.modseqs, fill.count);
	box->fill_modseq = floor;
	free(fill.modseqs);
	return ret;
}

static int note_low(void *ctx, const struct mail *mail)
{
	struct fill *fill = ctx;

	return mail->modseq < fill->box->peer_state.fill_modseq
		       ? add_modseq(fill, mail->uid, fill->box->peer_state.fill_modseq)
		       : 0;
}

/* What the taker could not take with its own MODSEQ. */
static void raise_given(struct box *box)
{
	struct fill fill = {.box = box};
	struct error err = {0};
	int ret = 0;

	if (box->peer_state.fill_modseq > MERGE_MODSEQ_MAX)
		ret = error_set(&err, -EPROTO, "the peer says an impossible MODSEQ of mailbox %s",
				box->name);
	if (ret == 0)
		ret = mailbox_each(box->mailbox, 1, box->status.uid_next - 1, note_low, &fill,
				   &err);

	if (ret == -ENOMEM)
		modseqs_failed(box, ret);
	else if (ret < 0)
		box_fail(box, ret, &err);
	else
		import_raise_modseqs(box, fill.modseqs, fill.count);
	free(fill.modseqs);
}

static int send_state(struct box *box, struct error *err)
{
	int ret = box_send_state(box, err);

	return ret < 0 ? ret : stream_flush(box->brain->stream, err);
}

static int receive_state(struct box *box, struct error *err)
{
	struct item item;
	int ret = items_receive_type(box->brain->items, ITEM_STATE, false, &item, err);

	return ret < 0 ? ret : box_take_state(box, &item.state, err);
}

static int run_giver(struct box *box, struct error *err)
{
	int ret = give(box, err);

	/* From two empty lists: the numbers that both end up with. */
	if (ret == 0)
		ret = import_make_plan(box, err);
	if (ret == 0)
		ret = send_state(box, err);
	if (ret == 0)
		ret = receive_state(box, err);
	if (ret == 0 && box->failed == 0 && !box->peer_state.changes_during_sync)
		raise_given(box);
	return ret;
}

static int run_taker(struct box *box, struct error *err)
{
	int ret = take(box, err);

	if (ret == 0)
		ret = receive_state(box, err);
	if (ret < 0)
		return ret;
	/* Where something is missing UIDNEXT stays below it, so that it keeps its UID when it
	 * comes. */
	if (!box->peer_state.changes_during_sync && !box->again)
		import_apply(box);
	return send_state(box, err);
}

int fill_run(struct box *box, struct error *err)
{
	int ret = box_attributes_exchange(box, err);

	if (ret < 0)
		return ret;
	return side_fills(&box->own, &box->peer) ? run_giver(box, err) : run_taker(box, err);
}
