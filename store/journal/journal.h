/*
 * The journal, dsyncfs's side: what the filesystem saw. An LMDB environment in state_dir/journal/fs
 * that only dsyncfs writes and that dsyncd reads in short transactions.
 *
 * Kept: the events (by seq), the dirty set, the stamps of clean mailboxes, and the journal's id. A
 * new id tells a reader that its position means nothing any more: it starts at 0 and has every home
 * scanned. The id is new when the journal was made anew, and when events were lost (a crash on a
 * full disk, no memory); then the events that are still there keep their place, since removals
 * among them are evidence.
 *
 * Events up to the position that dsyncd publishes (peer_journal_commit()) are deleted. While dsyncd
 * is away for long, deliveries, renames and touches of one mailbox are folded into one
 * MAIL_EVENT_RESCAN; removals are kept.
 *
 * Writing: journal_push() puts an event into a bounded queue and returns; a thread of the journal's
 * own commits in groups, synced, and then wakes dsyncd with a datagram to state_dir/journal-wake
 * (nobody listening is fine). A queue that is full coalesces: events of one mailbox become one
 * MAIL_EVENT_RESCAN. A commit that fails (disk full, damage) is logged once, retried with back-off,
 * and never blocks or fails the caller; what could not be kept becomes MAIL_EVENT_RESCAN_HOME of
 * the homes concerned.
 *
 * A damaged environment is moved aside (fs.damaged.<time>) with an error in the log and made anew:
 * every home is then scanned, which nothing is lost by.
 *
 * Writer and reader are two processes: one process must not have both open (LMDB). Neither is open
 * across a fork whose child goes on without exec; open it after becoming a daemon.
 */
#ifndef DSYNCFS_JOURNAL_H
#define DSYNCFS_JOURNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/mail_event.h"

struct journal;

/* ---- dsyncfs: the one writer ---- */

/* Makes what is missing (directories 0700). clean_r: the last writer closed it with
 * journal_close(). -EBUSY: another process writes it. Works on a full disk, too: the marker then
 * stands in. */
int journal_open(const char *state_dir, struct journal **journal_r, bool *clean_r,
		 struct error *err);
/* What was observed so far does not hold for the mail that is there now: readers are told to scan
 * everything. */
void journal_renew(struct journal *journal);
/* All that a journal which was not clean gives of its last run (journal_each_dirty(),
 * journal_each_removal()) was taken up and pushed. */
void journal_recovered(struct journal *journal);
/* Commits what is queued, marks the journal clean, closes. One that was not clean when it was
 * opened stays so until journal_recovered(): a start that fails in between forgets nothing. */
void journal_close(struct journal **journal);

/* Takes copies of the strings; seq and time are set here. Never blocks beyond a mutex, never fails.
 * wait_ms: for so long the event may wait for others to be committed with it (a commit costs two
 * syncs); 0: not at all. What is committed first takes all that came before it along. Returns a
 * ticket for journal_wait(). */
uint64_t journal_push(struct journal *journal, const struct mail_event *event, unsigned wait_ms);
/* Returns when what the ticket was given for is durable, or at once when the disk does not take it
 * (the marker "scan everything" then stands in). Ticket 0 needs no wait. */
void journal_wait(struct journal *journal, uint64_t ticket);

/* A message or a folder is about to be removed: kind, home, dir and name as in the event that will
 * say so when it is done. Survives the end of this process at any moment, until that event is
 * durable; journal_each_removal() gives those of the last run, of which some may never have been
 * done. Costs a copy. Returns what to push the event with. */
uint64_t journal_removal_ahead(struct journal *journal, const struct mail_event *event);
/* As journal_push, of a removal that was told ahead. */
uint64_t journal_push_removal(struct journal *journal, const struct mail_event *event,
			      unsigned wait_ms, uint64_t removal);
/* It has not happened. */
void journal_removal_failed(struct journal *journal, uint64_t removal);
/* Each is to be pushed with its removal. */
typedef void journal_removal_fn(void *ctx, const struct mail_event *event, uint64_t removal);
void journal_each_removal(const struct journal *journal, journal_removal_fn *each, void *ctx);

/* Write-ahead dirt (design invariant 2). Starts the commit that puts (home, dir) into the dirty
 * set, unless it is there already, and returns a ticket for journal_wait() at once. */
uint64_t journal_dirty_begin(struct journal *journal, const char *home, const char *dir);
/* What a mailbox looked like when it left the dirty set. While it is clean it looks the same,
 * unless somebody wrote into the backing directory behind the mount. The bytes are the caller's. */
#define JOURNAL_STAMP_SIZE 20
struct journal_stamp {
	uint8_t bytes[JOURNAL_STAMP_SIZE];
};
/* The mailbox has been quiet and its events are durable: leaves the dirty set. Its stamp is kept
 * until it is dirty again; NULL: none is, nor one of before. */
void journal_clean(struct journal *journal, const char *home, const char *dir,
		   const struct journal_stamp *stamp);
/* Once, after the start: calls each() for every stamp of the last run. */
typedef int journal_stamp_fn(void *ctx, const char *home, const char *dir,
			     const struct journal_stamp *stamp);
int journal_each_stamp(struct journal *journal, journal_stamp_fn *each, void *ctx);
/* At start: calls each() for every mailbox that was dirty when the last writer died. */
typedef int journal_dirty_fn(void *ctx, const char *home, const char *dir);
int journal_each_dirty(struct journal *journal, journal_dirty_fn *each, void *ctx,
		       struct error *err);

/* Origins: tokens a worker announces for the changes it applies (mount attribute
 * trusted.dsyncfs.origin). Events carry them; they are plain numbers to the journal. */

/* ---- dsyncd: reads ---- */

/* Whether dsyncfs runs with this state_dir, so that its mail is where it should be. */
bool journal_has_writer(const char *state_dir);
/* When that dsyncfs began, by CLOCK_BOOTTIME in milliseconds: what programs had open in the mail
 * before then is lost to them. 0: unknown; -1: none runs. */
int64_t journal_writer_began(const char *state_dir);

struct journal_reader;
/* -ENOENT while dsyncfs has never run with this state_dir; try again later. Also the calls below
 * may fail for a moment while dsyncfs makes a damaged journal anew. */
int journal_reader_open(const char *state_dir, struct journal_reader **reader_r, struct error *err);
void journal_reader_close(struct journal_reader **reader);
/* Descriptor that becomes readable when dsyncfs committed (the bound datagram socket); -1 if it
 * could not be bound. journal_reader_drain() empties it. */
int journal_reader_wake_fd(const struct journal_reader *reader);
void journal_reader_drain(struct journal_reader *reader);
/* The journal's id, see above. Read it before each round of events. */
int journal_reader_id(struct journal_reader *reader, struct guid *id_r, struct error *err);
/* Up to max events with seq > after, in order. Each event's strings are valid until each() returns.
 */
typedef int journal_event_fn(void *ctx, const struct mail_event *event);
int journal_reader_each(struct journal_reader *reader, uint64_t after, size_t max,
			journal_event_fn *each, void *ctx, struct error *err);

#endif
