/* The replicator's memory: what is owed to which peer, and whose turn it is. See queue.h. */
#include "sync/queue.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "sync/backoff.h"

/* ---- what is owed ---- */

static struct queue_box *find_box(const struct queue_entry *entry, const struct guid *guid)
{
	for (size_t i = 0; i < entry->box_count; i++) {
		if (guid_equal(&entry->boxes[i].guid, guid))
			return &entry->boxes[i];
	}
	return NULL;
}

static void drop_box(struct queue_entry *entry, struct queue_box *box)
{
	free(box->name);
	*box = entry->boxes[--entry->box_count];
}

static void drop_boxes(struct queue_entry *entry)
{
	while (entry->box_count)
		drop_box(entry, entry->boxes);
}

void queue_forget(struct queue_user *user, unsigned peer)
{
	struct queue_entry *entry = &user->entries[peer];

	drop_boxes(entry);
	entry->standing = (struct peer_user){.last_try = entry->standing.last_try};
	entry->not_before_ms = 0;
	entry->busy = entry->again = 0;
	entry->poll = false;
	entry->unsaved = true;
}

void queue_want(struct queue_user *user, unsigned peer, enum sync_priority priority, bool full,
		bool tree, int64_t now)
{
	struct queue_entry *entry = &user->entries[peer];
	struct peer_user *standing = &entry->standing;

	user->removed = false;
	if (priority > standing->priority) {
		standing->priority = priority;
		entry->unsaved = true;
	}
	if (full && !standing->want_full) {
		standing->want_full = true;
		entry->unsaved = true;
	}
	if (tree && !standing->want_tree) {
		standing->want_tree = true;
		entry->unsaved = true;
	}
	if (standing->queued_since == 0) {
		standing->queued_since = now;
		entry->unsaved = true;
	}
}

void queue_box_seen(struct queue_user *user, unsigned peer, const struct worker_box *box,
		    const struct peer_mailbox_state *state, int64_t now)
{
	struct queue_entry *entry = &user->entries[peer];
	struct queue_box *owed = find_box(entry, &box->guid);
	struct queue_box *grown;
	char *name;

	/* Lower numbers are those of a mailbox that has gone back: its state has to be forgotten
	 * before they have grown again. */
	if (state && state->uid_validity == box->uid_validity &&
	    box->highest_modseq == state->acked_modseq && box->uid_next == state->common_uid + 1) {
		if (owed)
			drop_box(entry, owed);
		return;
	}
	/* A mailbox that the peer was never told of needs the tree. */
	queue_want(user, peer, SYNC_PRIORITY_HIGH, false, !state, now);
	if (entry->standing.want_tree || entry->standing.want_full)
		return;
	if (!owed) {
		if (entry->box_count == WORKER_BOXES_MAX) {
			queue_want(user, peer, SYNC_PRIORITY_HIGH, false, true, now);
			return;
		}
		name = strdup(box->name);
		grown = name ? realloc(entry->boxes, (entry->box_count + 1) * sizeof *grown) : NULL;
		if (!grown) {
			free(name);
			queue_want(user, peer, SYNC_PRIORITY_HIGH, false, true, now);
			return;
		}
		entry->boxes = grown;
		owed = &grown[entry->box_count++];
		*owed = (struct queue_box){.guid = box->guid, .name = name};
	}
	owed->uid_validity = box->uid_validity;
	owed->uid_next = box->uid_next;
	owed->highest_modseq = box->highest_modseq;
}

void queue_box_acked(struct queue_user *user, unsigned peer, const struct sync_mailbox_state *state)
{
	struct queue_entry *entry = &user->entries[peer];
	struct queue_box *owed = find_box(entry, &state->guid);

	if (owed && owed->highest_modseq <= state->acked_modseq &&
	    owed->uid_next <= state->common_uid + 1)
		drop_box(entry, owed);
}

bool queue_entry_owes(const struct queue_entry *entry)
{
	return entry->standing.priority != SYNC_PRIORITY_NONE;
}

bool queue_entry_wants(const struct queue_entry *entry)
{
	return queue_entry_owes(entry) || entry->poll;
}

void queue_poll(struct queue *queue, struct queue_user *user, unsigned peer)
{
	user->entries[peer].poll = true;
	queue_user_update(queue, user);
}

void queue_entry_plan(const struct queue_entry *entry, bool peer_is_dsyncfs, struct worker_go *go_r)
{
	go_r->box_count = 0;
	if (entry->standing.want_full) {
		go_r->type = SYNC_FULL;
	} else if (entry->standing.want_tree || entry->box_count == 0 || !peer_is_dsyncfs) {
		go_r->type = SYNC_CHANGED;
	} else {
		go_r->type = SYNC_BOXES;
		for (size_t i = 0; i < entry->box_count; i++) {
			go_r->boxes[i].guid = entry->boxes[i].guid;
			go_r->boxes[i].name = entry->boxes[i].name;
		}
		go_r->box_count = entry->box_count;
	}
}

/* ---- scheduling ---- */

/* Whose turn it is among those found so far. */
struct choice {
	const struct queue_user *user;
	int peer;
	enum sync_priority priority;
	int64_t wait_ms;
};

static void wait_until(struct choice *choice, int64_t when_ms, int64_t now_ms)
{
	int64_t wait_ms = when_ms - now_ms;

	if (wait_ms < 0)
		wait_ms = 0;
	if (choice->wait_ms < 0 || wait_ms < choice->wait_ms)
		choice->wait_ms = wait_ms;
}

/* Local work: events to take in, files to compare. */
static bool store_is_due(const struct queue_user *user, const struct queue_clock *clock,
			 struct choice *choice)
{
	if (!user->fresh_count && !user->want_scan)
		return false;
	if (user->store_not_before_ms <= clock->now_ms)
		return true;
	wait_until(choice, user->store_not_before_ms, clock->now_ms);
	return false;
}

static int best_entry(const struct queue *queue, const struct queue_user *user, const bool *up,
		      const struct queue_clock *clock, struct choice *choice)
{
	int best = -1;

	if (user->slot != QUEUE_SLOT_FREE)
		return -1; /* Asked again when the session ends. */
	for (unsigned i = 0; i < queue->peer_count; i++) {
		const struct queue_entry *entry = &user->entries[i];

		if (!up[i] || !queue_entry_wants(entry))
			continue;
		if (entry->not_before_ms > clock->now_ms)
			wait_until(choice, entry->not_before_ms, clock->now_ms);
		else if (best < 0 ||
			 entry->standing.priority > user->entries[best].standing.priority)
			best = (int)i;
	}
	return best;
}

struct queue_user *queue_next(const struct queue *queue, const bool *up, bool connections,
			      const struct queue_clock *clock, int *peer_r, int64_t *wait_ms_r)
{
	struct choice choice = {.peer = -1, .wait_ms = -1};
	const struct queue_user *user;

	DL_FOREACH (queue->active, user) {
		enum sync_priority priority = SYNC_PRIORITY_NONE;
		bool store;
		int peer;

		if (user->job || user->finding)
			continue;
		store = store_is_due(user, clock, &choice);
		peer = connections ? best_entry(queue, user, up, clock, &choice) : -1;
		if (!store && peer < 0)
			continue;
		if (peer >= 0)
			priority = user->entries[peer].standing.priority;
		/* New mail is in a hurry, a scan is not. */
		if (store && user->fresh_count && priority < SYNC_PRIORITY_HIGH)
			priority = SYNC_PRIORITY_HIGH;
		if (choice.user && priority <= choice.priority)
			continue;
		/* New events go to whoever can be reached; the worker's findings are sent at once.
		 */
		for (unsigned i = 0; peer < 0 && connections && i < queue->peer_count; i++) {
			if (up[i] && user->entries[i].not_before_ms <= clock->now_ms &&
			    user->slot == QUEUE_SLOT_FREE)
				peer = (int)i;
		}
		choice.user = user;
		choice.peer = peer;
		choice.priority = priority;
		if (priority == SYNC_PRIORITY_SYNC)
			break;
	}
	*peer_r = choice.peer;
	*wait_ms_r = choice.user ? 0 : choice.wait_ms;
	return (struct queue_user *)choice.user;
}

static void set_reason(struct peer_user *standing, const char *reason)
{
	snprintf(standing->reason, sizeof standing->reason, "%s", reason);
}

void queue_sync_done(struct queue_user *user, unsigned peer, enum sync_type type,
		     const struct queue_clock *clock)
{
	struct queue_entry *entry = &user->entries[peer];
	struct peer_user *standing = &entry->standing;

	drop_boxes(entry);
	entry->poll = false;
	standing->priority = SYNC_PRIORITY_NONE;
	standing->queued_since = 0;
	standing->failures = 0;
	standing->reason[0] = '\0';
	standing->last_try = standing->last_success = clock->now;
	if (type != SYNC_BOXES)
		standing->want_tree = false;
	if (type == SYNC_FULL) {
		standing->want_full = false;
		standing->last_full = clock->now;
	}
	/* Asked for while this one ran. */
	if (standing->want_full || standing->want_tree) {
		standing->priority = SYNC_PRIORITY_LOW;
		standing->queued_since = clock->now;
	}
	entry->not_before_ms = 0;
	entry->busy = entry->again = 0;
	entry->unsaved = true;
}

void queue_sync_again(struct queue_user *user, unsigned peer, bool need_tree, const char *reason,
		      const struct queue_clock *clock)
{
	struct queue_entry *entry = &user->entries[peer];

	entry->standing.last_try = clock->now;
	entry->unsaved = true;
	queue_want(user, peer, SYNC_PRIORITY_LOW, false, need_tree, clock->now);
	entry->again++;
	entry->not_before_ms = 0;
	if (entry->again <= QUEUE_AGAIN_MAX)
		return;
	set_reason(&entry->standing, reason);
	entry->not_before_ms =
		clock->now_ms +
		backoff_pause_ms(BACKOFF_USER, entry->again - QUEUE_AGAIN_MAX, clock->chance);
}

void queue_sync_busy(struct queue_user *user, unsigned peer, const struct queue_clock *clock)
{
	struct queue_entry *entry = &user->entries[peer];

	entry->busy++;
	/* Short at first: most sessions take some milliseconds. Longer when it is a long one. */
	entry->not_before_ms =
		clock->now_ms + backoff_pause_ms(BACKOFF_BUSY, entry->busy / 8 + 1, clock->chance);
}

void queue_sync_failed(struct queue_user *user, unsigned peer, const char *reason,
		       const struct queue_clock *clock)
{
	struct queue_entry *entry = &user->entries[peer];

	queue_want(user, peer, SYNC_PRIORITY_LOW, false, false, clock->now);
	entry->poll = false;
	entry->standing.failures++;
	entry->standing.last_try = clock->now;
	set_reason(&entry->standing, reason);
	entry->not_before_ms =
		clock->now_ms +
		backoff_pause_ms(BACKOFF_USER, entry->standing.failures, clock->chance);
	entry->unsaved = true;
}

void queue_store_failed(struct queue_user *user, const char *reason,
			const struct queue_clock *clock)
{
	user->store_failures++;
	snprintf(user->store_reason, sizeof user->store_reason, "%s", reason);
	user->store_not_before_ms =
		clock->now_ms + backoff_pause_ms(BACKOFF_USER, user->store_failures, clock->chance);
}

void queue_peer_up(struct queue *queue, unsigned peer)
{
	struct queue_user *user;

	DL_FOREACH (queue->active, user)
		user->entries[peer].not_before_ms = 0;
}
