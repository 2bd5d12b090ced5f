/*
 * A Dovecot index family (dovecot.index, .log, .log.2) below one directory: what the messages of a
 * mailbox are now, by uid. The same family serves Maildir, mdbox, sdbox, the mdbox map and the list
 * index.
 *
 * An open index is a view: the state at index_open() or at the last index_refresh() (or commit, see
 * index_txn.h). It never changes behind the caller's back. Reading takes no lock. The snapshot is
 * mapped or read once and its records are not copied; only what the log has touched since is kept
 * beside it, so opening costs O(log since the snapshot) and a look-up O(log messages).
 *
 * Used by one thread. All functions return 0 or a negative errno and fill err. With a meaning of
 * their own:
 *   -ENOENT   no log (index_open), no such message (index_find), no such extension
 *   -EUCLEAN  the files are damaged; the text names file and offset
 *   -ESTALE   INDEX_DELETED was written: the mailbox is being deleted; or the files were replaced
 * by ones that start afresh (index_refresh: the view was loaded again and is valid) -EAGAIN   a
 * lock could not be had in time
 */
#ifndef DSYNCFS_INDEX_H
#define DSYNCFS_INDEX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"

#define INDEX_NAME_MAIL "dovecot.index"
#define INDEX_NAME_MAP	"dovecot.map.index"
#define INDEX_NAME_LIST "dovecot.list.index"

#define INDEX_LOCK_TIMEOUT_MS_DEFAULT 180000

/* Dovecot's lock_method; it cannot be detected, both have to use the same. */
enum index_lock_method { INDEX_LOCK_FCNTL, INDEX_LOCK_FLOCK };

struct index_options {
	const char *name;  /* prefix of the file names; NULL: INDEX_NAME_MAIL */
	const char *label; /* of the directory, for messages ("user=... mailbox=..." or a path) */
	enum index_lock_method lock_method;
	bool locked;	/* index_adopt(): the caller has what index_lock_log() gave */
	bool read_only; /* open the log read-only; index_begin() then fails with -EROFS */
	bool backup;	/* dbox: keep dovecot.index.backup when a snapshot is replaced */
	bool once;	/* nobody is writing: do not look again at what looks damaged */
	/* mdbox map: every transaction ends with the tail at its end. By itself the tail follows
	 * external records, but a process of Dovecot's that has seen the log rotated may not have
	 * it so. */
	bool keep_tail;
	/* For a rebuild, with read_only: the view shows what can be read before the damage. */
	bool salvage;
};

/* Bits of a record's flags beside enum mail_flag (store/mail.h). */
enum index_flag {
	INDEX_FLAG_BACKEND = 0x40, /* dbox: message is in alternative storage */
	INDEX_FLAG_DIRTY = 0x80,   /* Maildir: index is newer than the file name */
};

struct index;

/* dirfd is borrowed: it must stay open as long as the index. options are copied. */
int index_open(int dirfd, const struct index_options *options, struct index **index_r,
	       struct error *err);
void index_close(struct index **index);
/* Follows what others appended, also over a rotation. Two cheap system calls when nothing changed.
 * On any failure but -ESTALE the view is unusable until a later refresh succeeds. */
int index_refresh(struct index *index, struct error *err);

/* Where in the log a view stands. Kept by callers and compared: equal positions show equal states.
 * A position with the same indexid and file_seq and a smaller offset is an earlier state. */
struct index_position {
	uint32_t indexid;
	uint32_t file_seq;
	uint64_t offset;
	uint64_t modseq; /* HIGHESTMODSEQ there */
};
void index_position(const struct index *index, struct index_position *position_r);
bool index_position_equal(const struct index_position *a, const struct index_position *b);

struct index_status {
	uint32_t uid_validity; /* 0: not yet set */
	uint32_t next_uid;
	uint32_t first_recent_uid;
	uint32_t messages;
	uint64_t highest_modseq;
	bool has_modseqs; /* the modseq extension is there: messages have their own modseq */
	bool deleted;	  /* INDEX_DELETED: nothing may be written */
	bool pending;	  /* internal records (requests) wait for a sync of the storage (3.6) */
};
void index_status(const struct index *index, struct index_status *status_r);
/* Whether a change of this message is asked for and still to be carried out, or may be, since the
 * log cannot be read. Reads all of the log where anything is pending. */
bool index_has_request(const struct index *index, uint32_t uid);
/* When the log was last written to, by its file's mtime; UTC milliseconds. Negative errno. */
int64_t index_log_written(const struct index *index);

/* The log's tail is its end: nothing is said to wait for being carried out. Of the mdbox map, which
 * has nothing else to carry out, anything else is damage. */
bool index_is_synced(const struct index *index);

/* Keeps everybody from writing to an index that cannot be opened: a descriptor, whose closing
 * unlocks. -ENOENT: there is no log to lock. */
int index_lock_log(int dirfd, const struct index_options *options, struct error *err);

/* A message. Pointers are valid until the next refresh, commit or snapshot (index_files.h). */
struct index_record {
	uint32_t uid;
	uint8_t flags;	 /* enum mail_flag and enum index_flag */
	uint64_t modseq; /* without the modseq extension: the highest */
	const uint8_t
		*keywords; /* bit i%8 of byte i/8: has keyword i; may be NULL when size is 0 */
	unsigned keywords_size;
	const void *priv[2]; /* the view's own */
};

/* -ENOENT without a text when there is none. */
int index_find(const struct index *index, uint32_t uid, struct index_record *record_r);
/* The first message with a uid >= the given one. */
int index_find_from(const struct index *index, uint32_t uid, struct index_record *record_r);
/* Steps through the messages from a uid in ascending order, O(1) each. */
struct index_iter {
	const struct index *index;
	uint32_t snapshot_pos, appended_pos, last_uid;
	int failed; /* after the last record: -EUCLEAN if the snapshot's uids are out of order */
};
void index_iter_init(const struct index *index, uint32_t first_uid, struct index_iter *iter_r);
bool index_iter_next(struct index_iter *iter, struct index_record *record_r);

/* Keyword names by bit number, as first written. NULL beyond the count. */
unsigned index_keyword_count(const struct index *index);
const char *index_keyword_name(const struct index *index, unsigned keyword);
/* Case-insensitive. -ENOENT. */
int index_keyword_find(const struct index *index, const char *name, unsigned *keyword_r);
/* The names of a message's keywords, sorted by strcmp. names has room for max; returns the number
 * that the message has, which may be more than max (then names holds an arbitrary part). The
 * strings live until the next refresh or commit. */
unsigned index_record_keywords(const struct index *index, const struct index_record *record,
			       const char **names, unsigned max);

/* An extension by name ("mdbox", "guid", "cache", "maildir", "hdr-vsize", "mdbox-hdr", ...). */
struct index_ext {
	const char *name;
	uint32_t reset_id;
	uint32_t hdr_size;
	uint16_t record_size, record_align;
	const void *hdr; /* hdr_size bytes, unaligned; valid as long as those of a message */
};
int index_ext_find(const struct index *index, const char *name, struct index_ext *ext_r);
/* Copies the message's record of the extension into data; zeros beyond the extension's record size.
 * A message without one gives zeros. -ENOENT: no such extension. */
int index_record_ext(const struct index *index, const struct index_record *record, const char *name,
		     void *data, size_t size);

/* Whether data of this extension can be written with these sizes: it is not there yet, or as it
 * should be. */
bool index_ext_is_sound(const struct index *index, const char *name, uint32_t hdr_size,
			uint16_t record_size);

/* The raw base header, 120 bytes little endian (reference 2.1), for fields that status leaves out.
 */
const uint8_t *index_header(const struct index *index);

/* Little-endian access, for headers and extension data. */
uint16_t index_get16(const void *data);
uint32_t index_get32(const void *data);
uint64_t index_get64(const void *data);
void index_put16(void *data, uint16_t value);
void index_put32(void *data, uint32_t value);
void index_put64(void *data, uint64_t value);

#endif
