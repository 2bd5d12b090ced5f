/*
 * The replicator: from the journal's events to sessions with peers, and back.
 *
 * It reads what the mount saw, lets workers take that into the mailboxes, and whatever a peer does
 * not have by then is synced with it at once. Events are consumed when the mailboxes are caught up
 * and what is owed is in the durable queue, in one commit; a crash in between runs it again, which
 * changes nothing.
 *
 * Single-threaded, in one event loop; never touches the mount itself, never waits.
 */
#ifndef DSYNCFS_SYNC_REPLICATOR_H
#define DSYNCFS_SYNC_REPLICATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include "store/base/error.h"
#include "store/base/log.h"
#include "store/journal/peer_journal.h"
#include "store/settings.h"
#include "sync/doveadm_protocol.h"

struct event_base;
struct replicator;

/* Opens the peer journal in state_dir. set is the caller's and must outlive the replicator, or its
 * replacement by replicator_set_settings(). */
int replicator_new(struct event_base *base, const struct settings *set, enum log_target target,
		   enum log_level level, struct replicator **replicator_r, struct error *err);
/* Commits. Kills what workers are left. */
void replicator_free(struct replicator **replicator);

/* Takes new settings for what follows; the peers' list included. */
int replicator_set_settings(struct replicator *replicator, const struct settings *set,
			    struct error *err);

/* No new work; finished(ctx) is called when the running work is done, or after a while. */
void replicator_drain(struct replicator *replicator, void (*finished)(void *ctx), void *ctx);

/* A peer's connection whose password was right and which asks for a session: fd is the
 * replicator's from here on, whatever comes of it. */
void replicator_serve(struct replicator *replicator, int fd, const struct sockaddr_storage *address,
		      const struct doveadm_server *server, const struct doveadm_command *command,
		      const void *unread, size_t unread_len);

/* ---- for control ---- */

/* Queues users whose names match the mask (* and ?), with every peer. Returns how many, or a
 * negative errno. */
int replicator_replicate(struct replicator *replicator, const char *mask,
			 enum sync_priority priority, bool full);

/* A program of this machine says that it has changed the user's mail. Unknown users are none. */
void replicator_notice(struct replicator *replicator, const char *user,
		       enum sync_priority priority);
/* Calls done() once all peers have what the user has now, or that has failed; never from here.
 * Negative: it will not be. */
struct replicator_wait;
int replicator_wait_for_sync(struct replicator *replicator, const char *user,
			     void (*done)(void *ctx, bool ok), void *ctx,
			     struct replicator_wait **wait_r);
void replicator_wait_cancel(struct replicator_wait **wait);
/* Nothing is owed of this user any more, until its mail changes again. -ENOENT: unknown. */
int replicator_remove(struct replicator *replicator, const char *user);
/* Somebody else has synced the user, just now. */
void replicator_note_synced(struct replicator *replicator, const char *user, bool full);

struct replicator_peer_info {
	const char *address; /* as configured */
	const char *id;	     /* "" while unknown */
	bool up;
	int64_t since;	    /* UTC seconds, of up or down; 0: not tried yet */
	const char *reason; /* when down */
	unsigned users_queued;
	int64_t oldest_change; /* 0: none */
};
struct replicator_user_info {
	const char *user, *peer;
	const struct peer_user *standing;
	const char *store_reason; /* trouble with this node's mail; "" if none */
	unsigned events;	  /* not taken in yet */
	bool running;
	bool waits; /* for the time of its next try */
};
struct replicator_sync_info {
	const char *user, *peer;
	bool incoming;
	const char *type; /* "full", "normal", "incremental"; "-": not known */
	const char *what; /* "catching up", "connecting", "syncing", "idle connection" */
	int64_t since_ms; /* how long */
};
/* Each stops when the function returns false. */
void replicator_each_peer(const struct replicator *replicator,
			  bool (*each)(void *ctx, const struct replicator_peer_info *info),
			  void *ctx);
void replicator_each_user(const struct replicator *replicator, const char *mask,
			  bool (*each)(void *ctx, const struct replicator_user_info *info),
			  void *ctx);
void replicator_each_sync(const struct replicator *replicator,
			  bool (*each)(void *ctx, const struct replicator_sync_info *info),
			  void *ctx);
/* What keeps events from being read, or "" (dsyncfs has never run, ...). */
const char *replicator_journal_trouble(const struct replicator *replicator);

#endif
