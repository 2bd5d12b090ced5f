/* One mailbox's attributes in a session. See box_attributes.h. */
#include "sync/box_attributes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/log.h"
#include "sync/brain_private.h"
#include "sync/merge_attribute.h"

#define RECEIVED_MAX	   10000
#define RECEIVED_BYTES_MAX ((size_t)64 * 1024 * 1024)
#define PIECE_BYTES	   65536

/* A failure is told; there are none then. */
static void load(struct box *box)
{
	struct error err = {0};

	if (box->attributes.loaded)
		return;
	box->attributes.loaded = true;
	buf_init(&box->attributes.value, ATTRIBUTE_VALUE_MAX);
	if (attributes_read(box->brain->user, box->name, &box->status.guid, &box->attributes.own,
			    &err) < 0)
		log_warning("%s user=%s mailbox=%s", err.text, box->brain->user->name, box->name);
}

void box_attributes_free(struct box_attributes *attributes)
{
	attributes_free(&attributes->own);
	for (size_t i = 0; i < attributes->received_count; i++) {
		free(attributes->received[i].attribute.key);
		free(attributes->received[i].attribute.value);
	}
	free(attributes->received);
	buf_free(&attributes->value);
	*attributes = (struct box_attributes){.received = NULL};
}

/* What the log says of it; NULL: nothing. */
static const struct mailbox_attribute *find_change(const struct box *box, bool shared,
						   const char *key)
{
	for (size_t i = 0; i < box->changes.attribute_count; i++) {
		const struct mailbox_attribute *change = &box->changes.attribute[i];

		if (change->shared == shared && strcmp(change->key, key) == 0)
			return change;
	}
	return NULL;
}

static const struct attribute *find_own(const struct box *box, bool shared, const char *key)
{
	const struct attribute_list *own = &box->attributes.own;

	for (size_t i = 0; i < own->count; i++) {
		if (own->list[i].shared == shared && strcmp(own->list[i].key, key) == 0)
			return &own->list[i];
	}
	return NULL;
}

/* ---- sending ---- */

static int send_value(struct box *box, const struct attribute *attribute, struct error *err)
{
	const struct mailbox_attribute *change =
		find_change(box, attribute->shared, attribute->key);
	struct stream *stream = box->brain->stream;
	struct item item = {
		.type = ITEM_ATTRIBUTE,
		.attribute = {.type = attribute->shared ? 's' : 'p',
			      .key = attribute->key,
			      .stream = attribute->is_text,
			      .last_change = attribute->last_change,
			      .modseq = change != NULL ? change->modseq : 0},
	};

	if (box->stateful && change == NULL)
		return 0;
	if (!attribute->is_text) {
		item.attribute.value = attribute->value;
		item.attribute.value_len = attribute->len;
	}
	int ret = items_send(box->brain->items, &item, err);
	if (ret == 0 && attribute->is_text) {
		ret = stream_write_value(stream, attribute->value, attribute->len, err);
		if (ret == 0)
			ret = stream_end_value(stream, err);
	}
	return ret;
}

static int send_removed(struct box *box, const struct mailbox_attribute *change, struct error *err)
{
	struct item item = {
		.type = ITEM_ATTRIBUTE,
		.attribute = {.type = change->shared ? 's' : 'p',
			      .key = change->key,
			      .deleted = true,
			      .last_change = change->time,
			      .modseq = change->modseq},
	};

	if (!change->removed || find_own(box, change->shared, change->key) != NULL)
		return 0;
	return items_send(box->brain->items, &item, err);
}

int box_attributes_send(struct box *box, struct error *err)
{
	struct box_attributes *attributes = &box->attributes;
	size_t removed = box->failed != 0 ? 0 : box->changes.attribute_count;
	size_t own;
	int ret = 0;

	/* Most sessions have nothing to do with them. */
	if (!box->stateful || removed != 0)
		load(box);
	own = box->failed != 0 ? 0 : attributes->own.count;

	for (; ret == 0 && attributes->next < own + removed; attributes->next++) {
		size_t at = attributes->next;

		if (!stream_can_write(box->brain->stream))
			return 0;
		ret = at < own ? send_value(box, &attributes->own.list[at], err)
			       : send_removed(box, &box->changes.attribute[at - own], err);
	}
	if (ret == 0)
		ret = items_send_end(box->brain->items, err);
	return ret < 0 ? ret : 1;
}

/* ---- receiving ---- */

static int keep_value(struct box *box, const char *data, size_t len)
{
	struct box_attributes *attributes = &box->attributes;
	struct received_attribute *last = &attributes->received[attributes->received_count - 1];

	attributes->received_bytes += len;
	if (last->dropped || attributes->received_bytes > RECEIVED_BYTES_MAX) {
		last->dropped = true;
		return 0;
	}
	last->attribute.value = malloc(len + 1);
	if (last->attribute.value == NULL)
		return -ENOMEM;
	if (len > 0)
		memcpy(last->attribute.value, data, len);
	last->attribute.len = len;
	return 0;
}

static struct received_attribute *add_received(struct box_attributes *attributes,
					       const struct item_attribute *item)
{
	struct received_attribute *grown =
		realloc(attributes->received, (attributes->received_count + 1) * sizeof(*grown));

	if (grown == NULL)
		return NULL;
	attributes->received = grown;
	grown += attributes->received_count;
	*grown = (struct received_attribute){
		.attribute = {.shared = item->type == 's',
			      .key = strdup(item->key),
			      .last_change = item->last_change,
			      .is_text = item->stream},
		.modseq = item->modseq,
	};
	if (grown->attribute.key == NULL)
		return NULL;
	attributes->received_bytes += strlen(item->key);
	attributes->received_count++;
	return grown;
}

int box_attributes_receive(struct box *box, const struct item_attribute *item, struct error *err)
{
	struct box_attributes *attributes = &box->attributes;
	int ret = 0;

	load(box);
	if (attributes->received_count == RECEIVED_MAX) {
		ret = error_set(err, -EMSGSIZE, "too many attributes of mailbox %s", box->name);
		return stream_set_failed(box->brain->stream, ret, err);
	}
	if (add_received(attributes, item) == NULL)
		ret = -ENOMEM;
	else if (item->stream)
		buf_clear(&attributes->value);
	else if (!item->deleted)
		ret = keep_value(box, item->value != NULL ? item->value : "", item->value_len);
	attributes->in_value = item->stream;
	if (ret < 0) {
		error_errno(err, ret, "attributes of mailbox %s", box->name);
		return stream_set_failed(box->brain->stream, ret, err);
	}
	return 0;
}

int box_attributes_receive_value(struct box *box, struct error *err)
{
	struct box_attributes *attributes = &box->attributes;
	struct received_attribute *last = &attributes->received[attributes->received_count - 1];
	char data[PIECE_BYTES];
	ssize_t n = stream_read_value(box->brain->stream, data, sizeof(data), err);

	if (n < 0)
		return (int)n;
	if (n > 0) {
		if (!last->dropped && buf_append(&attributes->value, data, (size_t)n) < 0)
			last->dropped = true;
		return 0;
	}
	attributes->in_value = false;
	int ret = keep_value(box, attributes->value.data, attributes->value.len);
	if (ret < 0) {
		error_errno(err, ret, "attributes of mailbox %s", box->name);
		return stream_set_failed(box->brain->stream, ret, err);
	}
	return 0;
}

/* ---- applying ---- */

static bool counts(const struct box *box, const struct received_attribute *received)
{
	const struct attribute *theirs = &received->attribute;
	const struct attribute *own = find_own(box, theirs->shared, theirs->key);
	const struct mailbox_attribute *change = find_change(box, theirs->shared, theirs->key);
	struct merge_attribute mine = {.known = own != NULL || change != NULL,
				       .changed = change != NULL && change->modseq > box->since};
	struct merge_attribute peer = {.known = true,
				       .value = theirs->value,
				       .len = theirs->len,
				       .changed = received->modseq > box->since,
				       .last_change = theirs->last_change,
				       .modseq = received->modseq};

	if (own != NULL) {
		mine.value = own->value;
		mine.len = own->len;
		mine.last_change = own->last_change;
	} else if (change != NULL) {
		mine.last_change = change->time;
	}
	if (change != NULL)
		mine.modseq = change->modseq;
	/* One way, the source is right. */
	if (box->brain->way == SYNC_FROM_PEER && !box->brain->keeps)
		mine.known = false;
	return merge_attribute_takes(&mine, &peer, box->stateful);
}

void box_attributes_apply(struct box *box)
{
	struct brain *brain = box->brain;

	for (size_t i = 0; i < box->attributes.received_count && box->failed == 0; i++) {
		const struct received_attribute *received = &box->attributes.received[i];
		struct error err = {0};

		if (received->dropped) {
			log_warning("attribute %.200s is too long user=%s mailbox=%s",
				    received->attribute.key, brain->user->name, box->name);
			continue;
		}
		if (!counts(box, received) || brain->check_only)
			continue;
		int ret = attributes_set(brain->user, box->name, &box->status.guid,
					 &received->attribute, &err);
		if (ret == 0)
			brain->result->changes_applied++;
		else
			log_at(ret == -EOPNOTSUPP ? LOG_LEVEL_DEBUG : LOG_LEVEL_WARNING,
			       "%s user=%s mailbox=%s", err.text, brain->user->name, box->name);
	}
}

static int receive_all(struct box *box, struct error *err)
{
	struct item item;

	for (;;) {
		int ret = items_receive_type(box->brain->items, ITEM_ATTRIBUTE, true, &item, err);

		if (ret < 0 || item.type == ITEM_END)
			return ret;
		ret = box_attributes_receive(box, &item.attribute, err);
		while (ret == 0 && box->attributes.in_value)
			ret = box_attributes_receive_value(box, err);
		if (ret < 0)
			return ret;
	}
}

int box_attributes_exchange(struct box *box, struct error *err)
{
	int ret = 0;

	while (ret == 0) {
		ret = box_attributes_send(box, err);
		/* The stream reads what the peer sends meanwhile. */
		if (ret == 0)
			ret = stream_flush(box->brain->stream, err);
	}
	if (ret > 0)
		ret = receive_all(box, err);
	if (ret == 0)
		box_attributes_apply(box);
	return ret;
}
