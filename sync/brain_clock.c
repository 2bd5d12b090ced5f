/*
 * Two nodes' clocks may be hours apart, and times decide between two renames of one mailbox, or a
 * subscription and its opposite. Each says in H what its clock says; the slave's times are then
 * taken as the master's clock would have said them. Both ends have both values and come to the
 * same.
 *
 * The two H are not of one moment, but of moments a second or so apart: clocks that agree that well
 * are taken as they are.
 */
#include <stdlib.h>
#include "sync/brain_private.h"

#define AGREE_SECS 5

static void shift_time(int64_t *when, int64_t by)
{
	/* Never to "unknown". */
	if (*when == 0)
		return;
	if (by < 0 && *when > INT64_MAX + by)
		*when = INT64_MAX;
	else
		*when = *when > by ? *when - by : 1;
}

static void shift_times(struct mailbox_tree *tree, int64_t by)
{
	for (size_t i = 0; i < tree->node_count; i++) {
		shift_time(&tree->nodes[i].last_renamed_or_created, by);
		shift_time(&tree->nodes[i].last_subscription_change, by);
	}
	for (size_t i = 0; i < tree->deletion_count; i++)
		shift_time(&tree->deletions[i].time, by);
}

/* What a peer says may be anything; and 0 is nothing said. */
static bool is_clock(int64_t secs)
{
	return secs > 0 && secs <= UINT32_MAX;
}

void brain_set_clocks(struct brain *brain, struct mailbox_tree *own, struct mailbox_tree *peer)
{
	bool slave = brain->role == SYNC_SLAVE;

	if (!is_clock(brain->own_clock) || !is_clock(brain->peer_clock))
		return;
	int64_t ahead =
		slave ? brain->own_clock - brain->peer_clock : brain->peer_clock - brain->own_clock;
	if (llabs(ahead) <= AGREE_SECS)
		return;
	shift_times(slave ? own : peer, ahead);
	if (slave)
		brain->own_ahead = ahead;
}
