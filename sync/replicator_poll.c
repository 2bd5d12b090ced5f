/*
 * Peers that do not tell what happens there are asked: a Dovecot 2.4, which has no replicator, or a
 * 2.3 whose replicator does not call us. Every user once in replication_poll_interval, by a sync
 * that skips nothing on equal numbers; one that the peer's replicator began meanwhile counts.
 *
 * What is owed goes first. Only so many users are asked for at a time as there are connections, so
 * a long list of users costs the queue nothing.
 */
#include "sync/replicator_private.h"

#include <errno.h>
#include <time.h>
#include <utlist.h>

#define TICK_MS 250

static bool is_due(const struct replicator *r, const struct queue_user *user, unsigned peer,
		   int64_t now)
{
	const struct queue_entry *entry = &user->entries[peer];

	return !user->removed && !r->peers[peer].is_dsyncfs && r->up[peer] &&
	       !queue_entry_wants(entry) &&
	       now - entry->standing.last_try >= r->set->replication_poll_interval_secs;
}

static unsigned count_polls(const struct replicator *r)
{
	const struct queue_user *user;
	unsigned count = 0;

	DL_FOREACH (r->queue.active, user) {
		for (unsigned i = 0; i < r->queue.peer_count; i++)
			count += user->entries[i].poll;
	}
	return count;
}

static struct queue_user *after(const struct replicator *r, const struct queue_user *user)
{
	return user && user->hh_name.next ? user->hh_name.next : r->queue.by_name;
}

void replicator_poll_peers(struct replicator *r)
{
	unsigned limit = 2 * r->set->replication_max_conns, polls;
	struct queue_user *user = r->poll_from ? r->poll_from : r->queue.by_name;
	struct queue_user *first = user;
	int64_t now = time(NULL);
	bool any = false, added = false;

	for (unsigned i = 0; i < r->queue.peer_count; i++)
		any |= !r->peers[i].is_dsyncfs && r->up[i];
	if (!any || !user || r->draining || r->away)
		return;
	polls = count_polls(r);
	do {
		for (unsigned i = 0; i < r->queue.peer_count && polls < limit; i++) {
			if (!is_due(r, user, i, now))
				continue;
			queue_poll(&r->queue, user, i);
			polls++;
			added = true;
		}
		user = after(r, user);
	} while (user != first && polls < limit);
	r->poll_from = user;
	if (added)
		replicator_kick(r);
}

static void on_tick(evutil_socket_t fd, short what, void *ctx)
{
	replicator_poll_peers(ctx);
}

int replicator_init_poll(struct replicator *r)
{
	struct timeval tick = {.tv_usec = TICK_MS * 1000};

	r->peer_poll_timer = event_new(r->base, -1, EV_PERSIST, on_tick, r);
	return r->peer_poll_timer && event_add(r->peer_poll_timer, &tick) == 0 ? 0 : -ENOMEM;
}
