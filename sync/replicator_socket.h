/*
 * Dovecot's replicator-doveadm socket in state_dir, so that a 2.3's `doveadm replicator
 * status|dsync-status|replicate|add|remove -a <state_dir>/replicator-doveadm` works on dsyncd.
 */
#ifndef DSYNCFS_SYNC_REPLICATOR_SOCKET_H
#define DSYNCFS_SYNC_REPLICATOR_SOCKET_H

#include "store/base/error.h"
#include "store/settings.h"

#define REPLICATOR_SOCKET "replicator-doveadm"

struct event_base;
struct replicator;
struct replicator_socket;

int replicator_socket_new(struct event_base *base, const struct settings *set,
			  struct replicator *replicator, struct replicator_socket **socket_r,
			  struct error *err);
void replicator_socket_free(struct replicator_socket **socket);

#endif
