/*
 * The two sequences of one mailbox (reference: dsync-protocol 3.2), side by side:
 *
 *   sends  .  C* .  R* .  M* .  S          reads  A* .  C* .  R* .  M* .  S
 *
 * One way, the source sends no R and reads nothing but R and S, and the destination sends R and S.
 *
 * R is sent once the peer's C list is read, M once its R list is, S once both M lists are through
 * and what came is durable. Neither side waits for the other in between, so a large mailbox fills
 * both directions; the stream's queues stay small since each step stops when they are full.
 */
#include <errno.h>
#include <string.h>
#include "store/base/log.h"
#include "sync/brain_private.h"

enum phase {
	PHASE_ATTRIBUTES,
	PHASE_CHANGES,
	PHASE_REQUESTS,
	PHASE_MAILS,
	PHASE_STATE,
	PHASE_DONE
};

struct exchange {
	struct box *box;
	enum phase send, receive;
};

/* Does this session have the phase in a direction? gives: whoever sends in it has what the other
 * wants; takes: it wants what the other has. */
static bool has_phase(const struct exchange *exchange, enum phase phase, bool gives, bool takes)
{
	const struct brain *brain = exchange->box->brain;

	switch (phase) {
	case PHASE_ATTRIBUTES:
		return gives && items_peer_minor(brain->items) >= 1;
	case PHASE_CHANGES:
	case PHASE_MAILS:
		return gives;
	case PHASE_REQUESTS:
		return takes && brain->send_requests;
	default:
		return true;
	}
}

static enum phase next_sent(const struct exchange *exchange, enum phase phase)
{
	enum sync_way way = exchange->box->brain->way;

	while (!has_phase(exchange, phase, way != SYNC_FROM_PEER, way != SYNC_TO_PEER))
		phase = (enum phase)(phase + 1);
	return phase;
}

static enum phase next_received(const struct exchange *exchange, enum phase phase)
{
	enum sync_way way = exchange->box->brain->way;

	while (!has_phase(exchange, phase, way != SYNC_TO_PEER, way != SYNC_FROM_PEER))
		phase = (enum phase)(phase + 1);
	return phase;
}

/* May the next thing be sent yet? */
static bool may_send(const struct exchange *exchange)
{
	switch (exchange->send) {
	case PHASE_CHANGES:
		return !box_filter_waits(exchange->box) || exchange->receive > PHASE_CHANGES;
	case PHASE_REQUESTS:
		return exchange->receive > PHASE_CHANGES;
	case PHASE_MAILS:
		return exchange->receive > PHASE_REQUESTS || !exchange->box->brain->send_requests;
	case PHASE_STATE:
		return exchange->receive >= PHASE_STATE;
	case PHASE_DONE:
		return false;
	default:
		return true;
	}
}

static int send_state(struct exchange *exchange, struct error *err)
{
	struct box *box = exchange->box;
	/* The peer may be waiting for what is queued while we write to the disk. */
	int ret = stream_flush(box->brain->stream, err);

	if (ret < 0)
		return ret;
	box_attributes_apply(box);
	import_apply(box);
	ret = box_send_state(box, err);
	return ret < 0 ? ret : 1;
}

/* 1: the phase is complete. */
static int send_phase(struct exchange *exchange, struct error *err)
{
	switch (exchange->send) {
	case PHASE_ATTRIBUTES:
		return box_attributes_send(exchange->box, err);
	case PHASE_CHANGES:
		return export_send_changes(exchange->box, err);
	case PHASE_REQUESTS:
		return import_send_requests(exchange->box, err);
	case PHASE_MAILS:
		return export_send_mails(exchange->box, err);
	default:
		return send_state(exchange, err);
	}
}

/* Sends what can be sent. 1: something happened. */
static int send_step(struct exchange *exchange, struct error *err)
{
	int progress = 0;

	while (may_send(exchange) && stream_can_write(exchange->box->brain->stream)) {
		int ret = send_phase(exchange, err);
		if (ret < 0)
			return ret;
		progress = 1;
		if (ret == 0)
			break;
		exchange->send = next_sent(exchange, (enum phase)(exchange->send + 1));
	}
	return progress;
}

static int end_of_list(struct exchange *exchange, struct error *err)
{
	struct box *box = exchange->box;
	int ret = 0;

	switch (exchange->receive) {
	case PHASE_CHANGES:
		ret = import_make_plan(box, err);
		if (ret == 0 && !box->brain->send_requests)
			ret = export_request_all(box, err);
		break;
	case PHASE_MAILS:
		import_finish_mails(box);
		break;
	default:
		break;
	}
	exchange->receive = next_received(exchange, (enum phase)(exchange->receive + 1));
	return ret;
}

static enum item_type wanted_item(enum phase phase)
{
	static const enum item_type wanted[] = {
		[PHASE_ATTRIBUTES] = ITEM_ATTRIBUTE, [PHASE_CHANGES] = ITEM_CHANGE,
		[PHASE_REQUESTS] = ITEM_REQUEST,     [PHASE_MAILS] = ITEM_MAIL,
		[PHASE_STATE] = ITEM_STATE,
	};

	return wanted[phase];
}

int box_take_state(struct box *box, const struct item_state *state, struct error *err)
{
	if (!guid_equal(&state->mailbox_guid, &box->own.mailbox_guid)) {
		int ret = error_set(err, -EPROTO, "state of another mailbox instead of %s",
				    box->name);
		return stream_set_failed(box->brain->stream, ret, err);
	}
	box->peer_state = *state;
	return 0;
}

static int receive_item(struct exchange *exchange, struct error *err)
{
	struct box *box = exchange->box;
	struct item item;
	int ret = items_receive_type(box->brain->items, wanted_item(exchange->receive),
				     exchange->receive != PHASE_STATE, &item, err);

	if (ret < 0)
		return ret;
	switch (item.type) {
	case ITEM_END:
		return end_of_list(exchange, err);
	case ITEM_ATTRIBUTE:
		return box_attributes_receive(box, &item.attribute, err);
	case ITEM_CHANGE:
		return import_add_change(box, &item.change, err);
	case ITEM_REQUEST:
		return export_add_request(box, &item.request, err);
	case ITEM_MAIL:
		return import_begin_mail(box, &item.mail, err);
	default:
		exchange->receive = PHASE_DONE;
		return box_take_state(box, &item.state, err);
	}
}

static bool can_receive(const struct exchange *exchange)
{
	bool in_value = exchange->box->attributes.in_value || exchange->box->import.in_body;

	return exchange->receive != PHASE_DONE &&
	       stream_can_read(exchange->box->brain->stream, in_value);
}

/* Takes what has come. 1: something happened. */
static int receive_step(struct exchange *exchange, struct error *err)
{
	int progress = 0;

	while (can_receive(exchange)) {
		int ret;

		if (exchange->box->attributes.in_value)
			ret = box_attributes_receive_value(exchange->box, err);
		else if (exchange->box->import.in_body)
			ret = import_receive_body(exchange->box, err);
		else
			ret = receive_item(exchange, err);
		if (ret < 0)
			return ret;
		progress = 1;
	}
	return progress;
}

int box_exchange(struct box *box, struct error *err)
{
	struct exchange exchange = {.box = box};

	/* A source that is not asked reads no list either. */
	if (box->brain->way == SYNC_TO_PEER && !box->brain->send_requests) {
		int ret = export_request_all(box, err);
		if (ret < 0)
			return ret;
	}
	exchange.send = next_sent(&exchange, PHASE_ATTRIBUTES);
	exchange.receive = next_received(&exchange, PHASE_ATTRIBUTES);
	while (exchange.send != PHASE_DONE || exchange.receive != PHASE_DONE) {
		int sent = send_step(&exchange, err);
		if (sent < 0)
			return sent;
		int received = receive_step(&exchange, err);
		if (received < 0)
			return received;
		/* Without anything to do: until the peer reads or writes. */
		if (sent == 0 && received == 0) {
			int ret = stream_poll(box->brain->stream, err);
			if (ret < 0)
				return ret;
		}
	}
	return stream_flush(box->brain->stream, err);
}
