/*
 * The control socket, state_dir/control: how dsyncctl asks dsyncd.
 *
 * A line protocol, fields separated by TAB and tab-escaped. Both sides first send
 *   VERSION <TAB> dsyncfs-control <TAB> 1
 * then the client sends one request and the server answers lines that begin with a letter, and last
 * "+" or "-<reason>", and closes:
 *   STATUS [mask]                     J trouble (with the mount's journal; "" if none)
 *                                     P address id up since users oldest reason
 *                                     U user peer priority full tree queued_since last_try
 *                                       last_success last_full failures reason store_reason events
 *                                       running; without a mask only users that are not in sync
 *   SYNCS                             S user peer incoming what ms
 *   REPLICATE priority flags mask     C count; flags: "f" for a full sync, or ""
 * Numbers are decimal, times UTC seconds (0: never), booleans 0 or 1.
 *
 * Only root may connect (mode 0600, and the kernel's word on the peer). What is bounded: clients,
 * their time, a request's line, an answer.
 */
#ifndef DSYNCFS_SYNC_CONTROL_H
#define DSYNCFS_SYNC_CONTROL_H

#include <stddef.h>
#include "store/base/buf.h"
#include "store/base/error.h"

#define CONTROL_SOCKET	   "control"
#define CONTROL_VERSION	   "VERSION\tdsyncfs-control\t1"
#define CONTROL_LINE_MAX   8192
#define CONTROL_ANSWER_MAX (32 * 1024 * 1024)
#define CONTROL_FIELDS_MAX 20

struct control;
struct event_base;
struct replicator;

/* ---- dsyncd ---- */

/* -EADDRINUSE: a dsyncd is running with this state_dir. */
int control_new(struct event_base *base, const char *state_dir, struct replicator *replicator,
		struct control **control_r, struct error *err);
void control_free(struct control **control);

/* ---- dsyncctl ---- */

/* Sends one request (fields, NULL-terminated) and calls each() for every line of the answer, with
 * its fields unescaped; field[0] is the letter. -ECONNREFUSED: dsyncd is not running. -EREMOTEIO:
 * it refused. */
typedef int control_line_fn(void *ctx, char *const *field, unsigned count);
int control_request(const char *state_dir, const char *const *request, control_line_fn *each,
		    void *ctx, struct error *err);

#endif
