/*
 * What the parts of the two dbox formats share.
 *
 *   dbox_mailbox  open, refresh, status, reading messages
 *   dbox_setup    makes what is missing: directory, index, its GUID
 *   dbox_file     the format of m.N and u.UID
 *   dbox_body     a message's content, uncompressed
 *   dbox_spool    messages being received, in one nameless file
 *   dbox_txn      a change: locks, and what callers want, collected
 *   mdbox_commit, sdbox_commit   carry it out
 *   sdbox_attachments   files beside a message's own
 *   mdbox_storage, mdbox_append, mdbox_refs, mdbox_recover   the storage that mdbox mailboxes share
 *
 * What exists is decided by the index, whose records carry flags and keywords. An mdbox record says
 * which map UID has the body; an sdbox message is in the file that its UID names.
 */
#ifndef DSYNCFS_DBOX_PRIVATE_H
#define DSYNCFS_DBOX_PRIVATE_H

#include "store/base/buf.h"
#include "store/base/uid_table.h"
#include "store/body/compress.h"
#include "store/dbox/dbox_attachment.h"
#include "store/dbox/dbox_file.h"
#include "store/dbox/dbox_names.h"
#include "store/dbox/mdbox_storage.h"
#include "store/index/index_cache.h"
#include "store/index/index_mail.h"
#include "store/mailbox_private.h"

struct dbox_spool;

struct dbox {
	struct mailbox box;
	bool multi;		 /* mdbox */
	char *path, *index_path; /* of dbox-Mails; the second may be elsewhere (INDEX=) */
	char *alt_path;		 /* sdbox: of dbox-Mails in the alternative storage, or NULL */
	char *alt_root;		 /* which that is below */
	int dirfd, index_fd;	 /* index_fd is dirfd where the paths are the same */
	struct index *index;
	char *storage_paths[3];	       /* mdbox: see storage_paths_get() in dbox_setup.c */
	struct mdbox_storage *storage; /* see dbox_need_storage() */
	char *storage_name;	       /* of the mailbox, for new messages' metadata */
	enum compress_method save_compress;
	uint32_t rotate_size, rotate_interval;
	bool preallocate;
	char *attachments; /* the directory; NULL: none */
	struct dbox_spool *spools;
	int spool_fd; /* with the bodies of spools; -1: not made yet */
	uint64_t spool_end;
	int64_t recovered_s; /* sdbox: when what dead writers left was looked for; 0: not yet */
	/* what the last struct mail points to */
	char *guid_text;
	struct mail_names names;
};

static inline struct dbox *dbox_of(struct mailbox *box)
{
	return (struct dbox *)box;
}

/* ---- dbox_mailbox.c ---- */

void dbox_update_status(struct dbox *db);
/* Opens storage and map, unless they are. */
int dbox_need_storage(struct dbox *db, bool make, struct error *err);
/* The message's record, header and metadata (which have a GUID, whatever the file has), and the
 * open file: the caller closes *fd_r when *owned_r. -ENOENT: no such message, or no file. */
int dbox_message_of(struct dbox *db, const struct index_record *record,
		    struct dbox_message *message_r, int *fd_r, bool *owned_r, struct error *err);
/* What dbox_message_of() says of this message alone. An mdbox that is damaged is not: its messages
 * may be elsewhere, where a rebuild finds them. */
bool dbox_is_missing(const struct dbox *db, int rc);
uint32_t dbox_record_map_uid(const struct dbox *db, const struct index_record *record);
/* The GUID as the index knows it (mdbox). False: it does not. */
bool dbox_record_guid(const struct dbox *db, const struct index_record *record,
		      struct guid *guid_r);

/* What the names of a message's attachments end in. */
void dbox_attachments_suffix_of(const struct dbox *db, uint32_t uid,
				char suffix_r[DBOX_ATTACHMENT_SUFFIX_SIZE]);

/* ---- dbox_setup.c ---- */

int dbox_open_dirs(const struct mailbox_place *place, bool multi, struct dbox **db_r,
		   struct error *err);
void dbox_free(struct dbox *db);
void dbox_index_options(const struct dbox *db, struct index_options *options_r);
const struct index_ext_def *dbox_hdr_def(bool multi);
/* GUID of the mailbox; empty while the index does not say. */
void dbox_index_guid(const struct index *index, bool multi, struct guid *guid_r);
/* Whether the index (NULL: missing) needs dbox_setup(). */
bool dbox_needs_setup(const struct dbox *db);
int dbox_setup(struct dbox *db, const struct mailbox_place *place, struct error *err);
/* The storage that a mailbox at this place belongs to. */
int dbox_storage_of(const struct mailbox_place *place, bool make, struct mdbox_storage **storage_r,
		    struct error *err);
/* One whose map may not be readable. */
int dbox_storage_of_damaged(const struct mailbox_place *place, struct mdbox_storage **storage_r,
			    struct error *err);
/* Writes the header of a mailbox without one. */
int dbox_write_header(struct index *index, bool multi, uint32_t map_uid_validity,
		      const struct guid *guid, uint32_t uid_validity, struct error *err);

/* What can be read of a damaged index; NULL: nothing. */
int dbox_salvage_index(const struct dbox *db, struct index **old_r, struct error *err);
/* An empty index with the old one's GUID and UIDVALIDITY, where those are known. It is beside the
 * damaged one until dbox_replace_end(), which closes it: who is killed in between has changed
 * nothing. done false: it is removed. */
int dbox_replace_begin(struct dbox *db, const struct mailbox_place *place, const struct index *old,
		       uint32_t map_uid_validity, struct error *err);
int dbox_replace_end(struct dbox *db, bool done, struct error *err);

/* ---- dbox_list.c ---- */

int mdbox_peek(const struct mailbox_place *place, struct mailbox_status *status_r,
	       struct error *err);
int sdbox_peek(const struct mailbox_place *place, struct mailbox_status *status_r,
	       struct error *err);
int mdbox_create(const struct mailbox_place *place, int control_fd, int index_fd,
		 const struct guid *guid, uint32_t uid_validity, struct error *err);
int sdbox_create(const struct mailbox_place *place, int control_fd, int index_fd,
		 const struct guid *guid, uint32_t uid_validity, struct error *err);
int mdbox_delete_begin(const struct mailbox_place *place, void **deletion_r, struct error *err);
int mdbox_delete_end(void *deletion, bool deleted, struct error *err);
int sdbox_delete_begin(const struct mailbox_place *place, void **deletion_r, struct error *err);
int sdbox_delete_end(void *deletion, bool deleted, struct error *err);

/* ---- dbox_spool.c ---- */

/* Bodies lie one behind the other in the mailbox's spool file. */
struct dbox_spool {
	struct mail_spool spool;
	struct dbox *db;
	struct dbox_spool *next; /* of db->spools */
	int fd;			 /* of its own where another one was written meanwhile; -1 */
	uint64_t offset, size, virtual_size;
	uint64_t plain_size; /* 0: not compressed; else before that */
	int64_t received;
	bool last_was_cr;
};

int dbox_spool_open(struct mailbox *box, const char *guid, int64_t received,
		    struct mail_spool **spool_r, struct error *err);
int dbox_spool_write(struct mail_spool *spool, const void *data, size_t len, struct error *err);
void dbox_spool_discard(struct mail_spool *spool);
int dbox_spool_fd(const struct dbox_spool *spool);
/* Before the locks: compresses what is complete, where the settings say so. */
int dbox_spool_compress_all(struct dbox *db, struct error *err);

/* ---- dbox_body.c ---- */

int dbox_body_open(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
		   struct mail_body_info *info_r, struct error *err);
ssize_t dbox_body_read(struct mail_body *body, void *data, size_t size, struct error *err);
void dbox_body_close(struct mail_body *body);

/* ---- dbox_txn.c ---- */

enum dbox_op_kind {
	DBOX_OP_APPEND,	  /* a spooled message gets uid */
	DBOX_OP_RESTORE,  /* a spooled message is the missing body of uid */
	DBOX_OP_COPY,	  /* another instance of source_uid */
	DBOX_OP_MOVE_UID, /* source_uid becomes uid */
	DBOX_OP_EXPUNGE,
	DBOX_OP_STATE, /* flags and keywords only: nothing but the index changes */
};

struct dbox_op {
	enum dbox_op_kind kind;
	uint32_t uid, source_uid;
	struct mail_state state;  /* all but EXPUNGE and RESTORE */
	struct dbox_spool *spool; /* APPEND, RESTORE */
	char *guid, *pop3_uidl;	  /* APPEND, RESTORE; COPY: guid NULL means the source's */
	uint32_t pop3_order;
	int64_t saved;		    /* APPEND: 0 now */
	bool placed;		    /* sdbox: its file has been made */
	uint32_t map_uid;	    /* mdbox, of what it refers to */
	struct mdbox_entry entry;   /* mdbox, of a new body */
	struct dbox_message stored; /* sdbox COPY: what is stored anew; else empty */
};

struct dbox_txn {
	struct mailbox_txn txn;
	struct dbox *db;
	struct index_txn *index_txn;
	struct index_txn *map_txn; /* mdbox */
	bool foreign;
	struct guid new_guid; /* of the mailbox; empty: it keeps its own */
	bool guid_copied;     /* another mailbox has the old one */
	int failed; /* a call that had done a part of its work: nothing is committed any more */
	bool sync;  /* messages are added or removed */
	struct dbox_op *ops;
	size_t op_count, op_room;
	struct uid_table last_ops; /* the last operation of a UID, counted from 1 */
	uint32_t next_uid;	   /* the least that the next new message may have */
	struct index_save_dates dates;
};

static inline struct dbox_txn *dbox_txn_of(struct mailbox_txn *txn)
{
	return (struct dbox_txn *)txn;
}

int dbox_begin(struct mailbox *box, struct mailbox_txn **txn_r, struct error *err);
int dbox_append(struct mailbox_txn *txn, struct mail_spool **spool, const struct mail *mail,
		int64_t saved, struct mail_pop3 pop3, struct error *err);
int dbox_copy(struct mailbox_txn *txn, uint32_t source_uid, const struct mail *mail,
	      struct error *err);
int dbox_set_flags(struct mailbox_txn *txn, uint32_t uid, uint8_t flags,
		   struct keyword_set keywords, uint64_t modseq, struct error *err);
int dbox_expunge(struct mailbox_txn *txn, uint32_t uid, struct error *err);
int dbox_bury(struct mailbox_txn *txn, uint32_t uid, const struct guid *guid, struct error *err);
int dbox_change_uid(struct mailbox_txn *txn, uint32_t uid, uint32_t new_uid, uint64_t modseq,
		    struct error *err);
int dbox_set_uid_validity(struct mailbox_txn *txn, uint32_t uid_validity, struct error *err);
int dbox_set_guid(struct mailbox_txn *txn, const struct guid *guid, bool copied, struct error *err);
int dbox_raise(struct mailbox_txn *txn, uint32_t uid_next, uint64_t highest_modseq,
	       uint32_t first_recent_uid, struct error *err);
int dbox_commit(struct mailbox_txn *txn, bool *foreign_r, struct error *err);
void dbox_abort(struct mailbox_txn *txn);

/* mdbox_commit.c, sdbox_commit.c: bodies, map and index, durable. */
int mdbox_commit(struct dbox_txn *txn, struct error *err);
int sdbox_commit(struct dbox_txn *txn, struct error *err);
/* The metadata of a new message; its strings are borrowed. */
void dbox_op_metadata(const struct dbox_txn *txn, const struct dbox_op *op,
		      struct dbox_metadata *metadata_r);
/* The mailbox has a message with a POP3 UIDL, or a POP3 order. */
int dbox_note_pop3(struct dbox_txn *txn, struct error *err);

/* ---- sdbox ---- */

/* None where there are none, or none can be read. */
void sdbox_attachments_of(struct dbox *db, uint32_t uid, struct dbox_attachments *attachments_r);
/* Message uid has those of source_uid, too. */
int sdbox_attachments_link(struct dbox *db, uint32_t source_uid, uint32_t uid, struct error *err);
void sdbox_attachments_remove(struct dbox *db, uint32_t uid);
/* The mailbox gets txn->new_guid, which their names end in: they have both names before the index
 * knows it, and the new ones alone afterwards (undo: the old ones). */
void sdbox_attachments_rename_begin(struct dbox_txn *txn);
void sdbox_attachments_rename_end(struct dbox_txn *txn, bool undo);
/* In a mailbox that was made anew: they get the names that end in its GUID, whatever they had. */
void sdbox_attachments_recover(struct dbox *db, uint32_t uid);
/* Before the first change, under the index's lock: removes files that dead writers left. */
int sdbox_recover(struct dbox *db, struct error *err);

void sdbox_file_name(uint32_t uid, char name_r[16]);
/* A descriptor or a negative errno. */
int sdbox_file_open(const struct dbox *db, uint32_t uid, char *name_r, size_t name_size);

/* ---- dbox_scan.c, mdbox_rebuild.c, sdbox_rebuild.c ---- */

int dbox_catch_up(struct mailbox *box, const struct mail_event *events, size_t count,
		  bool *changed_r, struct error *err);
int dbox_scan(struct mailbox *box, bool *changed_r, struct error *err);
int mdbox_rebuild(const struct mailbox_place *place, struct error *err);
int sdbox_rebuild(const struct mailbox_place *place, struct error *err);
/* -EUCLEAN: there are messages of UIDs that the index has not given out yet: its log was cut short.
 */
int sdbox_check_index(struct dbox *db, struct error *err);

/* Lets tests end the process between two steps of a commit: called with the name of the step just
 * done. NULL otherwise. */
extern void (*dbox_test_step)(const char *step);
#define DBOX_STEP(name)                                                                            \
	do {                                                                                       \
		if (dbox_test_step)                                                                \
			dbox_test_step(name);                                                      \
	} while (0)

#endif
