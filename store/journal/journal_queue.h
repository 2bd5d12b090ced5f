/*
 * The queue between whoever pushes and the commit thread: bounded, coalescing, in order. Not
 * locked; the journal's mutex is held by the caller. Private to store/journal.
 *
 * What a queue that is full gives up, in this order: single deliveries and renames (they become one
 * MAIL_EVENT_RESCAN of the mailbox), then the evidence of removals (one MAIL_EVENT_RESCAN_HOME of
 * the home), then everything (lost_all: the journal gets a new id, by which readers scan all).
 */
#ifndef DSYNCFS_JOURNAL_QUEUE_H
#define DSYNCFS_JOURNAL_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uthash.h>
#include "store/journal/journal.h"
#include "store/mail_event.h"

enum journal_op_kind { JOURNAL_OP_EVENT, JOURNAL_OP_DIRTY, JOURNAL_OP_CLEAN };

struct journal_op {
	struct journal_op *next;
	enum journal_op_kind kind;
	uint64_t ticket;	 /* done(): that is durable; 0: nobody waits */
	uint64_t removal;	 /* was told ahead; 0: none */
	struct mail_event event; /* its strings point into data */
	UT_hash_handle hh;	 /* in queue->merge; the key is the front of data */
	unsigned key_len;
	size_t size;
	bool has_stamp; /* JOURNAL_OP_CLEAN */
	struct journal_stamp stamp;
	char data[]; /* kind, home NUL dir NUL name NUL name2 NUL */
};

struct journal_queue {
	struct journal_op *head, **tail;
	struct journal_op *merge; /* queued events that a later, equal one adds nothing to */
	size_t count, bytes;	  /* including what was taken and is not done yet */
	size_t count_max, bytes_max;
	bool lost_all;
};

void journal_queue_init(struct journal_queue *queue, size_t count_max, size_t bytes_max);
void journal_queue_free(struct journal_queue *queue);

/* The event's time is set here. removal: it was told ahead (0: it was not). An equal one that waits
 * already may stand for it, and where there is no room a scan of everything does (lost_all).
 * Returns the ticket of what stands for it: the given one, or that of the equal one; 0: nothing
 * does. */
uint64_t journal_queue_event(struct journal_queue *queue, const struct mail_event *event,
			     uint64_t ticket, uint64_t removal);
/* The mailbox joins the dirty set, or leaves it with a stamp (NULL: none). -ENOMEM. */
int journal_queue_dirty(struct journal_queue *queue, const char *home, const char *dir,
			uint64_t ticket);
int journal_queue_clean(struct journal_queue *queue, const char *home, const char *dir,
			const struct journal_stamp *stamp);
/* The first max operations, as a list; to be given back to done() or put_back(). */
struct journal_op *journal_queue_take(struct journal_queue *queue, size_t max);
void journal_queue_done(struct journal_queue *queue, struct journal_op *ops);
void journal_queue_put_back(struct journal_queue *queue, struct journal_op *ops);

/* Whether the event proves a removal, which a scan cannot find again. */
bool journal_event_is_evidence(enum mail_event_kind kind);

#endif
