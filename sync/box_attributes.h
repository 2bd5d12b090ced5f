/*
 * One mailbox's attributes in a session (A items): METADATA, and with INBOX the Sieve scripts.
 *
 * With a state only those are sent that the index log says were changed since; without, all, and
 * what the log says was removed. What the peer does not mention stays: it may be that it keeps no
 * attributes. An attribute that cannot be set is told in the log, and fails nothing.
 */
#ifndef DSYNCFS_SYNC_BOX_ATTRIBUTES_H
#define DSYNCFS_SYNC_BOX_ATTRIBUTES_H

#include "store/attributes.h"
#include "store/base/buf.h"
#include "sync/items.h"

struct box;

struct received_attribute {
	struct attribute attribute; /* value NULL: removed */
	uint64_t modseq;
	bool dropped; /* longer than is taken */
};

struct box_attributes {
	bool loaded;
	struct attribute_list own; /* read when it is needed */
	size_t next;		   /* to be sent: own, then removed ones */
	struct received_attribute *received;
	size_t received_count;
	size_t received_bytes;
	bool in_value;
	struct buf value;
};

void box_attributes_free(struct box_attributes *attributes);
/* Sends as much as the stream takes; 1: all of it and the list's end. */
int box_attributes_send(struct box *box, struct error *err);
int box_attributes_receive(struct box *box, const struct item_attribute *item, struct error *err);
/* Takes what is there of a value. */
int box_attributes_receive_value(struct box *box, struct error *err);
/* What of the received counts is set. */
void box_attributes_apply(struct box *box);
/* All of it, one after the other, for a session that has no lists (brain_fill.c). */
int box_attributes_exchange(struct box *box, struct error *err);

#endif
