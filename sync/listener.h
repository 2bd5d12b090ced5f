/*
 * Where peers reach us: accepts connections on listen:doveadm_port, takes them through the doveadm
 * handshake, and hands those that proved themselves, with their command, to the replicator.
 *
 * Until then a connection is a stranger: it has some seconds and some kilobytes, there are at most
 * LISTENER_STRANGERS_MAX of them (the oldest gives way), and a wrong password is logged with its
 * address, some lines a minute at most. Where the port speaks TLS a relay (tls_relay.h) stands in
 * between.
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

/* Listens on every address of the settings, plainly or with TLS; without a port on none. -EINVAL: a
 * certificate or key that is of no use. */
int listener_new(struct event_base *base, const struct settings *set, struct replicator *replicator,
		 struct listener **listener_r, struct error *err);
/* Takes no more connections. Those that were handed on go on through it until it is freed. */
void listener_stop(struct listener *listener);
void listener_free(struct listener **listener);
/* Password and certificate may have changed (its file is read again); address, port and whether it
 * speaks TLS cannot without a restart. On failure nothing has changed. */
int listener_set_settings(struct listener *listener, const struct settings *set, struct error *err);

#endif
