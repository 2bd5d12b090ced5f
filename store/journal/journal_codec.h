/*
 * The records of dsyncfs's environment: bytes on disk, versioned, decoded with validation.
 *
 *   database   key                           value
 *   meta       "id"                          version 1, 16 bytes
 *              "clean"                       version 1, 0 or 1
 *              "last_seq"                    version 1, u64
 *   events     seq, u64 big endian           version 1, kind u8, origin u32, time i64,
 *                                            lengths u16 of home, dir, name, name2, the strings
 *   dirty      SHA-1 of home NUL dir         version 1, lengths u16 of home, dir, the strings
 *   stamps     SHA-1 of home NUL dir         20 bytes, then as dirty
 *
 * Numbers in values are little endian. Strings hold no NUL. Private to store/journal.
 */
#ifndef DSYNCFS_JOURNAL_CODEC_H
#define DSYNCFS_JOURNAL_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/buf.h"
#include "store/base/digest.h"
#include "store/base/guid.h"
#include "store/journal/journal.h"
#include "store/journal/lmdb_env.h"
#include "store/mail_event.h"

enum journal_db { JOURNAL_META, JOURNAL_EVENTS, JOURNAL_DIRTY, JOURNAL_STAMPS };
extern const struct lmdb_layout journal_layout;

/* Longest string of a record. A longer path is no mailbox's. */
#define JOURNAL_STRING_MAX 4096
#define JOURNAL_EVENT_MAX  (4 * JOURNAL_STRING_MAX + 64)

struct journal_key {
	uint8_t bytes[DIGEST_SHA1_SIZE];
};

void journal_put_u16(uint8_t *p, uint16_t value);
void journal_put_u32(uint8_t *p, uint32_t value);
void journal_put_u64(uint8_t *p, uint64_t value);
uint16_t journal_get_u16(const uint8_t *p);
uint32_t journal_get_u32(const uint8_t *p);
uint64_t journal_get_u64(const uint8_t *p);

void journal_seq_encode(uint64_t seq, uint8_t key_r[8]);
int journal_seq_decode(const MDB_val *key, uint64_t *seq_r);

/* Appends the value. -EMSGSIZE: a string is too long. */
int journal_event_encode(const struct mail_event *event, struct buf *out);
/* Appends the four strings, each with a NUL, to strings, and points event_r at them by offset: the
 * pointers are set when the buffer stops growing, see journal_event_point(). -EBADMSG: no event. */
int journal_event_decode(const MDB_val *key, const MDB_val *value, struct mail_event *event_r,
			 size_t *offset_r, struct buf *strings);
void journal_event_point(struct mail_event *event, const char *strings);

void journal_dirty_key(const char *home, const char *dir, struct journal_key *key_r);
int journal_dirty_encode(const char *home, const char *dir, struct buf *out);
/* home_r, dir_r: JOURNAL_STRING_MAX + 1 bytes each. */
int journal_dirty_decode(const MDB_val *value, char *home_r, char *dir_r);

/* As for dirty. */
int journal_stamp_encode(const char *home, const char *dir, const struct journal_stamp *stamp,
			 struct buf *out);
int journal_stamp_decode(const MDB_val *value, char *home_r, char *dir_r,
			 struct journal_stamp *stamp_r);

int journal_id_decode(const MDB_val *value, struct guid *id_r);

#endif
