/* Whether a TCP connection's other end still answers. */
#ifndef DSYNCFS_SYNC_LINK_CHECK_H
#define DSYNCFS_SYNC_LINK_CHECK_H

#include <stdbool.h>

/* How often to ask while one waits. */
#define LINK_CHECK_MS 1000
/* Without an acknowledgement for so long the link is cut. */
#define LINK_DEAD_MS 10000

/* Sent bytes, or probes of a full window, are unacknowledged since LINK_DEAD_MS. A peer that
 * acknowledges but does not read (its disk is slow) is alive, however long that takes;
 * TCP_USER_TIMEOUT would end that, too. False for what is no TCP connection. */
bool link_is_dead(int fd);

#endif
