/*
 * The observer: what an operation on the mount meant for mail.
 *
 * A handler says what it is about to do (observe_begin, observe_name), lets the dirty set know
 * (observe_ahead or observe_dirty), does it on the backing directory, and says that it succeeded
 * (one of the observe_* below), which pushes the events into the journal: a push is all it costs.
 * observe_end() in any case. What failed is not observed.
 *
 * It is format-free: any directory at or below a home that holds cur, new and tmp, or dbox-Mails,
 * is a mailbox directory, and any directory may hold indexes or lists. Files in tmp/, lock files,
 * caches and index snapshots are not mail.
 */
#ifndef DSYNCFS_FS_OBSERVE_H
#define DSYNCFS_FS_OBSERVE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "fs/dirty.h"
#include "fs/origin.h"
#include "fs/place.h"
#include "store/base/error.h"
#include "store/mail_event.h"

struct journal;

struct observer {
	struct places *places;
	struct dirty *dirty;
	struct origins *origins;
	struct journal *journal;
};

/* A name an operation concerns, with where it is. */
struct observed_name {
	struct place_path at; /* its directory */
	struct place *dir;
	const char *name;
	enum place_file kind;
	struct dirty_box *box;
};

/* One operation under way; on the handler's stack. */
struct observed {
	struct observer *observer;
	uint32_t origin;
	uint64_t removal; /* of names[0], told ahead; 0: it was not, or its event was pushed */
	unsigned count;
	struct observed_name names[2];
};

/* pid: the caller's, whose announced origin the events carry. */
void observe_begin(struct observed *op, struct observer *observer, pid_t pid);
/* The operation concerns `name` in the directory; the string stays the caller's. At most two. */
void observe_name(struct observed *op, struct place *dir, const char *name);
/* The operation concerns a file of that kind in the directory, by whatever name. */
void observe_file(struct observed *op, struct place *dir, enum place_file kind);
void observe_end(struct observed *op);

/* The name is a message's, or a file whose change is an event: observe_dirty() may block for it. */
bool observe_is_mail(const struct observed *op);
/* Starts to put the mailboxes of the names into the dirty set, and does not wait. For files made in
 * tmp/, and for the uidlist's lock. */
void observe_ahead(struct observed *op);
/* Puts the mailboxes of the names that are mail into the dirty set, and returns when they are. */
void observe_dirty(struct observed *op);
/* As observe_dirty, without waiting. False: they are on their way, and observe_dirty() would wait.
 */
bool observe_is_dirty(struct observed *op);

/* names[0] is about to be unlinked, or renamed to names[1] where there is one; nothing else holds
 * it up any more. */
void observe_removal_ahead(struct observed *op);
/* The directory names[0] is about to be removed. */
void observe_dir_removal_ahead(struct observed *op);

/* The directory is synced for a client: returns when what the client removed from it is durable in
 * the journal as well, the only evidence there is of it. */
void observe_sync(const struct observer *observer, const struct place *dir);

/* ---- what has been done ---- */

/* names[0] was made in one step: mknod, symlink, link. */
void observe_made(struct observed *op);
/* names[0] was made by open(2), and may be written to from now on. */
void observe_created(struct observed *op);
/* A file created by open(2) directly in cur/ or new/ was closed, or a watched one written. */
void observe_delivered(struct observed *op);
/* names[0] was written to, truncated, allocated. */
void observe_written(struct observed *op);
/* names[0] was unlinked. */
void observe_unlinked(struct observed *op);
/* names[0] became names[1], neither being a directory. replaced: names[1] was there, and another
 * file. */
void observe_renamed(struct observed *op, bool replaced);
/* names[0] and names[1] changed places, neither being a directory. */
void observe_exchanged(struct observed *op);
/* names[0] may have been written to by someone whose writes are not seen, or a program's delivery
 * was cut short: the mailbox has to be looked at. */
void observe_uncertain(struct observed *op);

/* A directory names[0] was made, or removed. */
void observe_dir_made(struct observed *op);
void observe_dir_removed(struct observed *op);
/* The directory names[0] became names[1]. place: its own, which is moved here, or NULL; dir_fd: of
 * the directory names[1] is in, to look what the renamed one holds. -ENOMEM: the place was not
 * moved. */
int observe_dir_renamed(struct observed *op, struct place *place, int dir_fd);
/* names[0] and names[1] changed places, and directories are among them. a: the place of what is
 * names[1] now, b: of names[0]; they are moved here; NULL: no directory, or not known. dir_fds: of
 * the directories that the names are in. -ENOMEM: not all were moved. */
int observe_dirs_exchanged(struct observed *op, struct place *a, struct place *b,
			   const int dir_fds[2]);

/* For observe_dir.c and observe_maildir.c: something was removed from the directory of names[i], or
 * a directory was renamed from or to it, with the ticket of that event. */
void observe_removed(const struct observed *op, unsigned i, uint64_t ticket);
/* For observe_dir.c: the mailbox that names[i] is in changes, as its stamp will tell; does not
 * wait. */
void observe_enter(struct observed *op, unsigned i);

/* After the start: mailboxes that do not look as their stamps say, since somebody wrote behind the
 * mount, are scanned. Once *ending, when nothing is served any more, only those are looked at that
 * were changed since: the others keep their stamps for the next start. Mailboxes leave the dirty
 * set from the return on. */
void observe_check_stamps(struct observer *observer, int root_fd, const bool *ending);
/* At start: what was dirty when the last mount died has to be scanned. clean: it did not die. */
int observe_recover(struct observer *observer, bool clean, struct error *err);

/* For the observe_*.c files: pushes one event of the operation. home and dir as in mail_event.h;
 * where a directory above may have been renamed since they were found, under places_names_lock().
 */
uint64_t observe_push(const struct observed *op, enum mail_event_kind kind, const char *home,
		      const char *dir, const char *name, const char *name2);
/* As observe_push, of the mailbox that names[i] is in, by the name that it has at this moment. The
 * event may wait for others as long (journal_push()). */
uint64_t observe_push_within(const struct observed *op, unsigned i, unsigned wait_ms,
			     enum mail_event_kind kind, const char *name, const char *name2);
/* As observe_push_within, the removal of the message names[0] that was told ahead. */
uint64_t observe_push_removed(struct observed *op, unsigned wait_ms, const char *name);
/* As observe_push, the removal of the directory names[0] that was told ahead. */
uint64_t observe_push_dir_removed(struct observed *op, const char *home, const char *dir);

#endif
