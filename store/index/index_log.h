/*
 * dovecot.index.log as a file: header, and the records between two offsets.
 *
 * The parser promises its callers complete transactions only, each record's payload checked as far
 * as that is possible without the index state (lengths, uids not 0, ranges in order), and an offset
 * that is the end of the last complete transaction. What may still be being written (no size yet,
 * beyond the end of the file) ends the walk without an error; anything else that is wrong is
 * -EUCLEAN. Private to store/index/.
 */
#ifndef DSYNCFS_INDEX_LOG_H
#define DSYNCFS_INDEX_LOG_H

#include <stdbool.h>
#include <sys/types.h>
#include "store/base/buf.h"
#include "store/base/error.h"
#include "store/base/guid.h"

struct index_log {
	int fd; /* -1: not open */
	bool writable;
	dev_t dev;
	ino_t ino;
	uint16_t hdr_size;
	uint32_t indexid, file_seq;
	uint32_t prev_file_seq, prev_file_offset;
	uint32_t created;
	uint64_t initial_modseq;
	char name[512]; /* label and file name, for messages */
};

/* clang-format 14 and 19 differ about braces in macros. */
// clang-format off
#define INDEX_LOG_INIT {.fd = -1}
// clang-format on

/* Opens and reads the header. -ENOENT without a text. writable falls back to reading where the file
 * may not be written. */
int index_log_open(int dirfd, const char *label, const char *file, bool writable,
		   struct index_log *log_r, struct error *err);
void index_log_close(struct index_log *log);
/* -EUCLEAN: what was opened has been overwritten, or marked as corrupted, since. */
int index_log_recheck(const struct index_log *log, struct error *err);
/* Size now, bounded to what 32-bit offsets can say. */
int index_log_size(const struct index_log *log, uint64_t *size_r, struct error *err);

struct index_log_record {
	uint64_t offset; /* of its header, in the file */
	uint32_t kind;	 /* enum log_kind */
	bool external;
	const uint8_t *data; /* payload */
	uint32_t size;
	uint64_t modseq;      /* the counter after this record */
	uint64_t transaction; /* offset where its transaction begins */
};

/* The modseq counter that goes along (reference 3.7). */
struct index_log_counter {
	uint64_t modseq;
	bool counting; /* false: a very old log, nothing counts until modseq's intro */
};
void index_log_counter_init(const struct index_log *log, struct index_log_counter *counter_r);

/* Called for each record but BOUNDARY; non-zero stops the walk and is returned. */
typedef int index_log_fn(void *ctx, const struct index_log_record *record, struct error *err);

/* Walks from *offset (the start of a transaction) to at most end. On return, also of an error,
 * *offset and *counter are behind the last record that was handed over without failure. */
int index_log_walk(const struct index_log *log, uint64_t *offset, uint64_t end,
		   struct index_log_counter *counter, index_log_fn *fn, void *ctx,
		   struct error *err);
/* The same over bytes in memory that are (or will be) in the log at *offset. */
int index_log_walk_memory(const struct index_log *log, const uint8_t *data, size_t size,
			  uint64_t *offset, struct index_log_counter *counter, index_log_fn *fn,
			  void *ctx, struct error *err);

/* Parts of payloads. Each steps *pos through record->data, false at the end. */
struct index_log_range {
	uint32_t first, last;
	uint8_t add, remove; /* FLAG_UPDATE */
	bool counted;	     /* FLAG_UPDATE: gives the messages a new modseq */
};
/* EXPUNGE, FLAG_UPDATE, KEYWORD_RESET, KEYWORD_UPDATE */
bool index_log_next_range(const struct index_log_record *record, uint32_t *pos,
			  struct index_log_range *range_r);
struct index_log_keyword {
	bool add;
	const uint8_t *name; /* not NUL-terminated, no NUL inside */
	uint16_t name_size;
	uint32_t ranges_pos; /* where index_log_next_range() begins */
};
void index_log_get_keyword(const struct index_log_record *record,
			   struct index_log_keyword *keyword_r);
bool index_log_next_expunge_guid(const struct index_log_record *record, uint32_t *pos,
				 uint32_t *uid_r, struct guid *guid_r);
bool index_log_next_modseq(const struct index_log_record *record, uint32_t *pos, uint32_t *uid_r,
			   uint64_t *modseq_r);
struct index_log_attribute {
	bool shared, removed;
	const char *key; /* in the record */
	uint32_t time;
	uint32_t times_pos; /* the caller sets it to 0 before the first */
};
/* ATTRIBUTE_UPDATE: of a malformed one nothing. */
bool index_log_next_attribute(const struct index_log_record *record, uint32_t *pos,
			      struct index_log_attribute *attribute);
struct index_log_intro {
	uint32_t ext_id; /* UINT32_MAX: by name */
	uint32_t reset_id, hdr_size;
	uint16_t record_size, record_align, flags;
	const uint8_t *name;
	uint16_t name_size;
};
bool index_log_next_intro(const struct index_log_record *record, uint32_t *pos,
			  struct index_log_intro *intro_r);
/* HEADER_UPDATE, EXT_HDR_UPDATE, EXT_HDR_UPDATE32 */
bool index_log_next_header(const struct index_log_record *record, uint32_t *pos, uint32_t *offset_r,
			   uint32_t *size_r, const uint8_t **data_r);

/* "label/name: offset N: ...", as -EUCLEAN. */
int index_log_damaged(const struct index_log *log, uint64_t offset, struct error *err,
		      const char *fmt, ...) __attribute__((format(printf, 4, 5)));

#endif
