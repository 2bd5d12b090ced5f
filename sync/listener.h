/*
 * Where peers reach us: accepts connections on listen:doveadm_port, takes them through the doveadm
 * handshake, and hands those that proved themselves, with their command, to the replicator.
 *
 * Until then a connection is a stranger: it has some seconds and some kilobytes, there are at most
 * LISTENER_STRANGERS_MAX of them (the oldest gives way), and a wrong password is logged with its
 * address, some lines a minute at most.
 */
#ifndef DSYNCFS_SYNC_LISTENER_H
#define DSYNCFS_SYNC_LISTENER_H

#include "store/base/error.h"
#include "store/settings.h"

#define LISTENER_STRANGERS_MAX	200
#define LISTENER_HANDSHAKE_SECS 10

struct event_base;
struct listener;
struct replicator;

/* Listens on every address of the settings; without a port on none. */
int listener_new(struct event_base *base, const struct settings *set, struct replicator *replicator,
		 struct listener **listener_r, struct error *err);
void listener_free(struct listener **listener);
/* The password may have changed; address and port cannot without a restart. */
void listener_set_settings(struct listener *listener, const struct settings *set);

#endif
