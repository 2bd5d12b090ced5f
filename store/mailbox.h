/*
 * A mailbox, whatever its format: Maildir, mdbox or sdbox (see mailbox_private.h for the functions
 * a format implements).
 *
 * A mailbox object is used by one thread. It takes no lock until mailbox_begin(). What it shows is
 * the state at open or at the last mailbox_refresh(). Nothing here scans the whole mailbox, but for
 * mailbox_scan() and mailbox_each() over a range the caller chose.
 *
 * All functions return 0 or a negative errno and fill err. Codes with a meaning of their own:
 *   -ENOENT   no such mailbox, or no such message
 *   -ESTALE   the mailbox is being deleted, or was replaced: open it again
 *   -EUCLEAN  uidlist or index are damaged; mailbox_rebuild() is the way out
 *   -EAGAIN   a lock could not be had in time
 */
#ifndef DSYNCFS_MAILBOX_H
#define DSYNCFS_MAILBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/mail.h"
#include "store/mail_event.h"

struct mail_user; /* store/mail_user.h */
struct mailbox;

struct mailbox_status {
	struct guid guid;
	uint32_t uid_validity;
	uint32_t uid_next;
	uint32_t messages;
	uint32_t first_recent_uid;
	uint64_t highest_modseq;
};

/* name: hierarchy parts in UTF-8 joined by '/', "INBOX" for the inbox. A mailbox whose directory
 * exists but which has no uidlist or index yet gets them here (GUID, UIDVALIDITY), under the locks.
 * The user has to outlive the mailbox. A deletion that was marked in the index log and broken off
 * is taken back, under mailboxes.lock, here and by mailbox_refresh(): half a minute after the log
 * was last written, and not while somebody holds that lock. */
int mailbox_open(const struct mail_user *user, const char *name, struct mailbox **box_r,
		 struct error *err);
void mailbox_close(struct mailbox **box);
/* Sees what others did since. Cheap when nothing changed (one fstat a file). */
int mailbox_refresh(struct mailbox *box, struct error *err);

const char *mailbox_name(const struct mailbox *box);
const struct mailbox_status *mailbox_status(const struct mailbox *box);

/* Calls each() for messages with first_uid <= uid <= last_uid in ascending order; stops when it
 * returns non-zero and returns that. */
typedef int mailbox_each_fn(void *ctx, const struct mail *mail);
int mailbox_each(struct mailbox *box, uint32_t first_uid, uint32_t last_uid, mailbox_each_fn *each,
		 void *ctx, struct error *err);
int mailbox_find(struct mailbox *box, uint32_t uid, struct mail *mail_r, struct error *err);

struct mailbox_changes {
	struct mailbox_change *change; /* ascending uid; malloc'ed, may be put in another's place */
	size_t count;
	struct mailbox_attribute *attribute; /* the last change of each */
	size_t attribute_count;
	void *pool; /* the store's own */
};

/* Changes with modseq > since. -ERANGE: the log does not reach back that far; then changes_r holds
 * what it does tell, and expunges may be missing from it. Free with mailbox_changes_free(). */
int mailbox_changes(struct mailbox *box, uint64_t since, struct mailbox_changes *changes_r,
		    struct error *err);
void mailbox_changes_free(struct mailbox_changes *changes);

/* The body of a message, uncompressed, as stored (LF or CRLF). */
struct mail_body;
struct mail_body_info {
	int64_t received; /* INTERNALDATE, UTC seconds */
	int64_t saved;
	const char *pop3_uidl; /* "" if none, or on failure; valid until the body is closed */
	uint32_t pop3_order;   /* 0 = none */
};
int mailbox_body_open(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
		      struct mail_body_info *info_r, struct error *err);
/* For who cannot take back what it passed on: what may be damaged halfway is read through first,
 * and fails here. */
int mailbox_body_open_whole(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
			    struct mail_body_info *info_r, struct error *err);
ssize_t mailbox_body_read(struct mail_body *body, void *data, size_t size,
			  struct error *err); /* 0 = end */
void mailbox_body_close(struct mail_body **body);

/* A message being received: written to the format's temporary place, no lock held. */
struct mail_spool;
int mailbox_spool_open(struct mailbox *box, const char *guid, int64_t received,
		       struct mail_spool **spool_r, struct error *err);
int mailbox_spool_write(struct mail_spool *spool, const void *data, size_t len, struct error *err);
/* Removes what was not committed. */
void mailbox_spool_discard(struct mail_spool **spool);

/*
 * A change of the mailbox. mailbox_begin() takes the locks in their order and refreshes; the status
 * after it is what the change is based on. (-ESTALE also where it had to settle the mailbox first.)
 * Then any of the calls below, then commit (durable when it returns: bodies, directories, uidlist,
 * log) or abort. No wire traffic while one is open. A modseq of 0 means "the next one". A wished
 * modseq that is not above HIGHESTMODSEQ becomes the next one; only mailbox_set_flags() that
 * changes neither flag nor keyword takes any, also a lower one.
 */
struct mailbox_txn;
int mailbox_begin(struct mailbox *box, struct mailbox_txn **txn_r, struct error *err);
/* What a message has of POP3. */
struct mail_pop3 {
	const char *uidl; /* "" or NULL: none */
	uint32_t order;	  /* 0: none */
};
/* uid >= uid_next of the status and of every earlier append; takes the spool over. saved 0: now.
 * When a message with this uid and guid is known but its file is missing, the file is put back. */
int mailbox_append(struct mailbox_txn *txn, struct mail_spool **spool, const struct mail *mail,
		   int64_t saved, struct mail_pop3 pop3, struct error *err);
/* Another instance of the message source_uid under a new uid, without its body travelling. */
int mailbox_copy(struct mailbox_txn *txn, uint32_t source_uid, const struct mail *mail,
		 struct error *err);
int mailbox_set_flags(struct mailbox_txn *txn, uint32_t uid, uint8_t flags,
		      struct keyword_set keywords, uint64_t modseq, struct error *err);
int mailbox_expunge(struct mailbox_txn *txn, uint32_t uid, struct error *err);
/* The log tells that a message with this UID was expunged, though none is here: clients that come
 * from another node know it. guid: of the message of whose expunge the log told before (empty: it
 * did not say which); NULL: it told of none, and will not be taken for evidence of one. -EEXIST: a
 * message has the UID; -EINVAL: it was not given out yet. */
int mailbox_bury(struct mailbox_txn *txn, uint32_t uid, const struct guid *guid, struct error *err);
int mailbox_change_uid(struct mailbox_txn *txn, uint32_t uid, uint32_t new_uid, uint64_t modseq,
		       struct error *err);
int mailbox_set_uid_validity(struct mailbox_txn *txn, uint32_t uid_validity, struct error *err);
/* copied: another mailbox has the old one and keeps what is stored under it. */
int mailbox_set_guid(struct mailbox_txn *txn, const struct guid *guid, bool copied,
		     struct error *err);
/* Raises, never lowers; 0 leaves a value. */
int mailbox_raise(struct mailbox_txn *txn, uint32_t uid_next, uint64_t highest_modseq,
		  uint32_t first_recent_uid, struct error *err);
/* Both release the locks and free the transaction, also on failure. After commit the mailbox's
 * status is the new one, and *foreign_r (may be NULL) says whether somebody else changed the
 * mailbox between its last refresh before mailbox_begin() and the locks. */
int mailbox_commit(struct mailbox_txn **txn, bool *foreign_r, struct error *err);
void mailbox_abort(struct mailbox_txn **txn);

/* Turns a mailbox's events into uidlist and index records, under the locks where anything has to be
 * written, without them where Dovecot recorded everything already. Costs O(events). While somebody
 * holds the uidlist lock it waits for its release. An expunge that a program asked for by the UID
 * that a message had before mailbox_change_uid() is carried out. changed_r: something was written.
 */
int mailbox_catch_up(struct mailbox *box, const struct mail_event *events, size_t count,
		     bool *changed_r, struct error *err);
/* Compares files, uidlist and index completely. New files get UIDs and changed names are recorded;
 * a missing file is only reported in missing_r (absence is never an expunge): its record stays.
 * Where files are missing their directories have been synced since: a mount has told of removals.
 */
int mailbox_scan(struct mailbox *box, bool *changed_r, size_t *missing_r, struct error *err);
/* Their UIDs, ascending, as the last mailbox_scan() of this object found them; the mailbox's, until
 * the next one. */
const uint32_t *mailbox_missing(const struct mailbox *box, size_t *count_r);
/* Takes from mailbox_missing() the messages of whose files these events tell: they were removed or
 * renamed, and are not lost. */
int mailbox_explain_missing(struct mailbox *box, const struct mail_event *events, size_t count,
			    struct error *err);
/* 1: one of these events tells that somebody removed the file of a message with one of these GUIDs.
 * 0: none does, or events do not tell of files here. -ENOMEM. */
int mailbox_has_removal(const struct mailbox *box, const struct mail_event *events, size_t count,
			const char *const *guids, size_t guid_count, struct error *err);
/* Where a process of this host died while it changed the mailbox, takes in what it left, which may
 * be a file that neither uidlist nor index know. To be called before the mailbox is told to a peer,
 * whose evidence about such a message would else be taken for done. Costs one look-up otherwise. */
int mailbox_settle(struct mailbox *box, struct error *err);
/* After -EUCLEAN: writes uidlist and index anew from the files and whatever is readable of the old
 * ones, keeping GUID, UIDVALIDITY and UIDs where they can be read. */
int mailbox_rebuild(const struct mail_user *user, const char *name, struct error *err);

#endif
