/*
 * What the parts of the Maildir format share.
 *
 *   maildir_mailbox  open, refresh, status, reading messages
 *   maildir_setup    makes what is missing: directories, uidlist, index
 *   maildir_file     where a message's file is
 *   maildir_body     a file's content, uncompressed
 *   maildir_spool    a message being received, in tmp/
 *   maildir_txn      a change: locks and operations. maildir_change collects what callers want,
 *                    maildir_see what was seen; maildir_commit carries it out
 *   maildir_catch_up, maildir_scan, maildir_rebuild
 *
 * What exists is decided by the index, whose records carry flags and keywords. The uidlist says
 * which file is which UID. A file's directory and flags are a consequence, and looked for.
 */
#ifndef DSYNCFS_MAILDIR_PRIVATE_H
#define DSYNCFS_MAILDIR_PRIVATE_H

#include <limits.h>
#include "store/base/crash_point.h"
#include "store/base/buf.h"
#include "store/base/uid_table.h"
#include "store/index/index_cache.h"
#include "store/index/index_mail.h"
#include "store/mailbox_private.h"
#include "store/maildir/dotlock.h"
#include "store/maildir/maildir_keywords.h"
#include "store/maildir/maildir_name.h"
#include "store/maildir/uidlist.h"

struct maildir_spool;

struct maildir {
	struct mailbox box;
	char *path, *control_path, *index_path;
	int dirfd;
	int control_fd, index_fd; /* dirfd itself where the paths are the same */
	struct uidlist *uidlist;
	struct index *index;
	struct maildir_keywords keywords; /* see maildir_need_keywords() */
	bool keywords_fresh;
	struct maildir_spool *spools; /* open ones */
	int64_t swept_ms; /* when tmp/ was looked through for what others left; 0: not yet */
	/* what the last struct mail points to */
	struct buf guid_text;
	struct mail_names keyword_names;
};

static inline struct maildir *maildir_of(struct mailbox *box)
{
	return (struct maildir *)box;
}

/* ---- maildir_mailbox.c ---- */

void maildir_update_status(struct maildir *md);
/* Refreshes index and uidlist without looking whether the directory was replaced. */
int maildir_refresh_files(struct maildir *md, bool *uidlist_changed_r, struct error *err);
/* Reads dovecot-keywords unless that was done since the last refresh. To be called before letters
 * are turned into keywords, or back. */
int maildir_need_keywords(struct maildir *md, struct error *err);
bool maildir_record_has_keywords(const struct index_record *record);
/* The letters of those of the record's keywords that have one. */
uint32_t maildir_record_letters(const struct maildir *md, const struct index_record *record);
bool maildir_record_is_recent(const struct maildir *md, uint32_t uid);
/* GUID of an existing or expunged line, as a string in md->guid_text. */
const char *maildir_line_guid(struct maildir *md, const struct uidlist_record *line);

int maildir_open(const struct mailbox_place *place, struct mailbox **box_r, struct error *err);
int maildir_peek(const struct mailbox_place *place, struct mailbox_status *status_r,
		 struct error *err);
int maildir_rename_begin(const struct mailbox_place *place, void **renaming_r, struct error *err);
void maildir_rename_end(void *renaming);
int maildir_create(const struct mailbox_place *place, int control_fd, int index_fd,
		   const struct guid *guid, uint32_t uid_validity, struct error *err);
void maildir_close(struct mailbox *box);
int maildir_refresh(struct mailbox *box, struct error *err);
int maildir_each(struct mailbox *box, uint32_t first_uid, uint32_t last_uid, mailbox_each_fn *each,
		 void *ctx, struct error *err);
int maildir_find(struct mailbox *box, uint32_t uid, struct mail *mail_r, struct error *err);
struct index *maildir_index(struct mailbox *box);
int maildir_expunged_guid(struct mailbox *box, uint32_t uid, struct guid *guid_r,
			  struct error *err);

/* ---- maildir_setup.c ---- */

/* Opens the directories (not uidlist and index). With make, missing CONTROL and INDEX directories
 * are made. */
int maildir_open_dirs(const struct mailbox_place *place, struct maildir **md_r, struct error *err);
/* cur, new and tmp, where they are missing. */
int maildir_make_subdirs(struct maildir *md, struct error *err);
/* Whether uidlist and index (NULL: missing) need maildir_setup(). */
bool maildir_needs_setup(const struct maildir *md);
/* Under the lock: makes uidlist and index agree with each other and with the files. */
int maildir_setup(struct maildir *md, const struct mailbox_place *place, struct error *err);
int maildir_setup_locked(struct maildir *md, const struct mailbox_place *place,
			 struct dotlock *lock, struct error *err);
void maildir_index_options(const struct maildir *md, struct index_options *options_r);

/* ---- maildir_file.c ---- */

#define MAILDIR_PATH_MAX (NAME_MAX + 8)

/* A message whose file is wanted. */
struct maildir_wanted {
	const char *base;
	size_t base_len;
	/* where to look first */
	uint8_t flags;
	uint32_t letters;
	bool recent;
	/* found: "cur/name" or "new/name"; "" when there is no such file */
	char path[MAILDIR_PATH_MAX];
};

/* Looks for files under the names that the index suggests, then in one pass through both
 * directories for those that were not there. An absence is only reported after a pass during which
 * nothing was renamed. */
int maildir_find_files(struct maildir *md, struct maildir_wanted *wanted, size_t count,
		       struct error *err);
/* The guesses alone: fills in the path if one is right. */
bool maildir_guess_file(struct maildir *md, struct maildir_wanted *wanted);
/* Tries every set of system flags, with the keywords that are known and without. */
bool maildir_probe_file(struct maildir *md, struct maildir_wanted *wanted);
/* The pass alone, for those without a path. */
int maildir_search_files(struct maildir *md, struct maildir_wanted *wanted, size_t count,
			 struct error *err);
/* Fills in what is known about a message of the index. -ENOENT: no line in the uidlist. */
int maildir_want_record(struct maildir *md, const struct index_record *record,
			struct maildir_wanted *wanted_r, struct error *err);
/* Calls each() for every message file of new/, then cur/; stops at non-zero. */
typedef int maildir_file_fn(void *ctx, const char *dir, const char *name,
			    const struct maildir_name *parsed);
int maildir_each_file(struct maildir *md, maildir_file_fn *each, void *ctx, struct error *err);

/* ---- maildir_body.c ---- */

int maildir_body_open(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
		      struct mail_body_info *info_r, struct error *err);
ssize_t maildir_body_read(struct mail_body *body, void *data, size_t size, struct error *err);
void maildir_body_close(struct mail_body *body);

/* ---- maildir_spool.c ---- */

struct maildir_spool {
	struct mail_spool spool;
	struct maildir *md;
	struct maildir_spool *next; /* of md->spools */
	int fd;
	char tmp_path[MAILDIR_PATH_MAX]; /* "tmp/name" */
	int64_t received;
	uint64_t size, virtual_size;
	bool last_was_cr;
	bool synced;
};

int maildir_spool_open(struct mailbox *box, const char *guid, int64_t received,
		       struct mail_spool **spool_r, struct error *err);
int maildir_spool_write(struct mail_spool *spool, const void *data, size_t len, struct error *err);
void maildir_spool_discard(struct mail_spool *spool);
/* Sets the received date and makes the body durable. */
int maildir_spool_sync(struct maildir_spool *spool, struct error *err);
/* Before the locks: whatever is complete need not be waited for while holding them. */
int maildir_spool_sync_all(struct maildir *md, struct error *err);
/* Removes from tmp/ what processes of ours left that have died. */
void maildir_spool_sweep(struct maildir *md);
/* The file was renamed or removed: frees the object only. */
void maildir_spool_forget(struct maildir_spool *spool);

/* ---- maildir_txn.c, maildir_change.c, maildir_see.c, maildir_commit.c ---- */

enum maildir_op_kind {
	MAILDIR_OP_APPEND,  /* a spooled message gets uid */
	MAILDIR_OP_RESTORE, /* a spooled message is the missing file of uid */
	MAILDIR_OP_COPY,    /* another link to the file of source_uid */
	MAILDIR_OP_RENAME,  /* the file gets flags and letters */
	MAILDIR_OP_UNLINK,
	MAILDIR_OP_MOVE_UID, /* the line of source_uid becomes that of uid */
	MAILDIR_OP_ADOPT,    /* a file that is there gets a line with uid */
};

/* What a message is after an operation. */
struct maildir_state {
	struct mail_state mail;
	uint32_t letters; /* of the keywords that have one */
};

struct maildir_op {
	enum maildir_op_kind kind;
	uint32_t uid, source_uid;
	uint32_t moved_uid;	    /* RENAME: the message's UID after MOVE_UID; 0: uid */
	struct maildir_state state; /* all but ADOPT, UNLINK, RESTORE */
	bool recent;
	struct maildir_spool *spool;  /* APPEND, RESTORE */
	char *guid;		      /* APPEND, COPY */
	char *base;		      /* ADOPT; others when it has been chosen */
	char *fields;		      /* of the new line; NULL: none */
	char *path;		      /* a file that is undone if the uidlist cannot be written */
	struct maildir_wanted wanted; /* the file that is there; base is op->base */
};

struct maildir_txn {
	struct mailbox_txn txn;
	struct maildir *md;
	struct dotlock *lock;
	bool lock_is_callers;
	struct index_txn *index_txn;
	bool foreign;
	bool left_over; /* a dead process's half done work was taken in first */
	int failed;	/* a call that had done a part of its work: nothing is committed any more */
	bool sync;	/* messages are added or removed */
	struct maildir_op *ops;
	size_t op_count, op_room;
	struct uid_table last_ops; /* the last operation of a UID, counted from 1 */
	uint32_t next_uid;	   /* the least that the next new message may have */
	uint32_t uid_validity;	   /* new one, or 0 */
	struct guid guid;	   /* new one, or empty */
	bool avoid_known;	   /* letters in use without a keyword */
	uint32_t avoid_letters;
	/* lines that a rewrite of the uidlist leaves out */
	uint32_t *drop_uids;
	size_t drop_count, drop_room;
	bool rewrite;
	bool sync_new, sync_cur; /* directories that changed */
	/* saved dates for the cache */
	struct index_save_dates dates;
};

static inline struct maildir_txn *maildir_txn_of(struct mailbox_txn *txn)
{
	return (struct maildir_txn *)txn;
}

/* lock: held already (stays held after commit and abort), or NULL. */
int maildir_txn_begin(struct maildir *md, struct dotlock *lock, struct maildir_txn **txn_r,
		      struct error *err);
int maildir_txn_commit(struct maildir_txn *txn, struct error *err);
void maildir_txn_free(
	struct maildir_txn *txn); /* releases the locks; what was not done is discarded */
struct maildir_op *maildir_txn_add_op(struct maildir_txn *txn, enum maildir_op_kind kind,
				      uint32_t uid, struct error *err);
/* The last operation that made the message with this UID or changed its state; NULL: none. */
struct maildir_op *maildir_txn_find_op(struct maildir_txn *txn, uint32_t uid);
/* The uidlist is rewritten, without this line. */
int maildir_txn_drop_line(struct maildir_txn *txn, uint32_t uid, struct error *err);
/* Checks that a new message may have this UID, and counts on. */
int maildir_txn_take_uid(struct maildir_txn *txn, uint32_t uid, struct error *err);
/* The index part of an expunge. */
int maildir_txn_expunge_record(struct maildir_txn *txn, uint32_t uid, struct error *err);
/* After a commit, without locks. */
void maildir_housekeep(struct maildir *md);
/* Files come into their places, and what is to be changed is found; fills the lines for the
 * uidlist. Undone by maildir_undo_files(). */
int maildir_commit_files(struct maildir_txn *txn, struct buf *lines, struct error *err);
void maildir_undo_files(struct maildir_txn *txn);
/* Flag renames and unlinks, which follow the uidlist. */
int maildir_commit_changes(struct maildir_txn *txn, struct error *err);
/* Appends what maildir_index_is_behind() says, in index transactions of its own. Whoever writes a
 * line holds the locks until the index has it: it is behind only after a change that was cut. */
int maildir_txn_complete_all(struct maildir_txn *txn, struct error *err);

/* For catch-up and scan, about files that are there already: */
/* A file without a line: the next UID, flags and keywords as its name says. drop_uid: a line of an
 * expunged message with this base, or 0. */
int maildir_txn_adopt(struct maildir_txn *txn, const struct maildir_name *name, uint32_t drop_uid,
		      struct error *err);
/* A line without an index record: appends that. uid >= the index's next_uid. */
int maildir_txn_complete(struct maildir_txn *txn, uint32_t uid, const struct maildir_name *name,
			 struct error *err);
/* The file's name says something else than the index: the file wins. changed_r: it did. */
int maildir_txn_see_name(struct maildir_txn *txn, const struct index_record *record,
			 const struct maildir_name *name, bool *changed_r, struct error *err);
/* The same question without a transaction. */
int maildir_name_differs(struct maildir *md, const struct index_record *record,
			 const struct maildir_name *name, bool *differs_r, struct error *err);
/* The file is gone, and that was seen. */
int maildir_txn_see_removed(struct maildir_txn *txn, uint32_t uid, struct error *err);
/* Records without a line go. Reads the whole list. */
int maildir_txn_see_lines_lost(struct maildir_txn *txn, struct error *err);
/* Records that a message was removed of which there is neither line nor record: its GUID, under the
 * UID that it had, or one that no message has (0: not known). */
int maildir_txn_record_removal(struct maildir_txn *txn, uint32_t uid, const struct guid *guid,
			       struct error *err);
/* Whether the uidlist has lines that the index has not seen. */
int maildir_index_is_behind(const struct maildir *md, bool *behind_r, struct error *err);
/* There are messages without a MODSEQ of their own: maildir_txn_commit() gives them one. */
bool maildir_lacks_modseqs(const struct maildir *md);

int maildir_begin(struct mailbox *box, struct mailbox_txn **txn_r, struct error *err);
int maildir_append(struct mailbox_txn *txn, struct mail_spool **spool, const struct mail *mail,
		   int64_t saved, struct mail_pop3 pop3, struct error *err);
int maildir_copy(struct mailbox_txn *txn, uint32_t source_uid, const struct mail *mail,
		 struct error *err);
int maildir_set_flags(struct mailbox_txn *txn, uint32_t uid, uint8_t flags,
		      struct keyword_set keywords, uint64_t modseq, struct error *err);
int maildir_expunge(struct mailbox_txn *txn, uint32_t uid, struct error *err);
int maildir_bury(struct mailbox_txn *txn, uint32_t uid, const struct guid *guid, struct error *err);
int maildir_change_uid(struct mailbox_txn *txn, uint32_t uid, uint32_t new_uid, uint64_t modseq,
		       struct error *err);
int maildir_set_uid_validity(struct mailbox_txn *txn, uint32_t uid_validity, struct error *err);
int maildir_set_guid(struct mailbox_txn *txn, const struct guid *guid, bool copied,
		     struct error *err);
int maildir_raise(struct mailbox_txn *txn, uint32_t uid_next, uint64_t highest_modseq,
		  uint32_t first_recent_uid, struct error *err);
int maildir_commit(struct mailbox_txn *txn, bool *foreign_r, struct error *err);
void maildir_abort(struct mailbox_txn *txn);

/* ---- maildir_catch_up.c, maildir_scan.c, maildir_rebuild.c ---- */

int maildir_catch_up(struct mailbox *box, const struct mail_event *events, size_t count,
		     bool *changed_r, struct error *err);
int maildir_scan(struct mailbox *box, bool *changed_r, struct error *err);
int maildir_explain_missing(struct mailbox *box, const struct mail_event *events, size_t count,
			    struct error *err);
int maildir_has_removal(const struct mailbox *box, const struct mail_event *events, size_t count,
			const char *const *guids, size_t guid_count, struct error *err);
int maildir_settle(struct mailbox *box, struct error *err);
/* With the lock held already, or NULL. */
int maildir_scan_locked(struct maildir *md, struct dotlock *lock, bool *changed_r,
			struct error *err);
int maildir_rebuild(const struct mailbox_place *place, struct error *err);

/* Lets tests end the process between two steps of a commit: called with the name of the step just
 * done. NULL otherwise. */
extern void (*maildir_test_step)(const char *step);
#define MAILDIR_STEP(name)                                                                         \
	do {                                                                                       \
		crash_point("maildir: " name);                                                     \
		if (maildir_test_step)                                                             \
			maildir_test_step(name);                                                   \
	} while (0)

#endif
