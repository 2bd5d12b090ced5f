/*
 * The bytes of Dovecot's index files: constants, field offsets, the size encoding of the log.
 * Private to store/index/.
 */
#ifndef DSYNCFS_INDEX_FORMAT_H
#define DSYNCFS_INDEX_FORMAT_H

#include <stddef.h>
#include <stdint.h>

/* The snapshot's base header. */
enum {
	INDEX_MAJOR_VERSION = 7,
	INDEX_MINOR_VERSION = 3,
	INDEX_HDR_SIZE = 120,
	INDEX_RECORD_MIN_SIZE = 5,
	INDEX_COMPAT_LITTLE_ENDIAN = 1,

	HDR_MAJOR = 0,
	HDR_MINOR = 1,
	HDR_BASE_SIZE = 2,
	HDR_SIZE = 4,
	HDR_RECORD_SIZE = 8,
	HDR_COMPAT = 12,
	HDR_INDEXID = 16,
	HDR_FLAGS = 20,
	HDR_UID_VALIDITY = 24,
	HDR_NEXT_UID = 28,
	HDR_MESSAGES = 32,
	HDR_SEEN = 40,
	HDR_DELETED = 44,
	HDR_FIRST_RECENT_UID = 48,
	HDR_FIRST_UNSEEN_LOWWATER = 52,
	HDR_FIRST_DELETED_LOWWATER = 56,
	HDR_LOG_SEQ = 60,
	HDR_LOG_TAIL = 64,
	HDR_LOG_HEAD = 68,
	HDR_LOG2_ROTATE_TIME = 76,
	HDR_DAY_STAMP = 84,
	HDR_DAY_FIRST_UID = 88,
	HDR_DAYS = 8,
};
#define INDEX_HDR_FLAG_CORRUPTED 1
#define INDEX_HDR_FLAG_DIRTY	 2

/* An extension's entry in the snapshot's header, before its name. */
#define INDEX_EXT_ENTRY_SIZE 16

/* The log's file header. */
enum {
	LOG_MAJOR_VERSION = 1,
	LOG_MINOR_VERSION = 3,
	LOG_HDR_SIZE = 40,
	LOG_HDR_MIN_SIZE = 24,

	LOG_HDR_OFF_HDR_SIZE = 2,
	LOG_HDR_OFF_INDEXID = 4,
	LOG_HDR_OFF_SEQ = 8,
	LOG_HDR_OFF_PREV_SEQ = 12,
	LOG_HDR_OFF_PREV_OFFSET = 16,
	LOG_HDR_OFF_CREATED = 20,
	LOG_HDR_OFF_INITIAL_MODSEQ = 24,
	LOG_HDR_OFF_COMPAT = 32,
};

/* Records of the log. */
enum log_kind {
	LOG_EXPUNGE = 0x1,
	LOG_APPEND = 0x2,
	LOG_FLAG_UPDATE = 0x4,
	LOG_HEADER_UPDATE = 0x20,
	LOG_EXT_INTRO = 0x40,
	LOG_EXT_RESET = 0x80,
	LOG_EXT_HDR_UPDATE = 0x100,
	LOG_EXT_REC_UPDATE = 0x200,
	LOG_KEYWORD_UPDATE = 0x400,
	LOG_KEYWORD_RESET = 0x800,
	LOG_EXT_ATOMIC_INC = 0x1000,
	LOG_EXPUNGE_GUID = 0x2000,
	LOG_MODSEQ_UPDATE = 0x8000,
	LOG_EXT_HDR_UPDATE32 = 0x10000,
	LOG_INDEX_DELETED = 0x20000,
	LOG_INDEX_UNDELETED = 0x40000,
	LOG_BOUNDARY = 0x80000,
	LOG_ATTRIBUTE_UPDATE = 0x100000,
};
#define LOG_KIND_MASK	   0x0fffffffU
#define LOG_EXTERNAL	   0x10000000U
#define LOG_PROTECTION	   0xcd90U /* must be set with both expunge kinds */
#define LOG_RECORD_HDR	   8
#define LOG_BOUNDARY_SIZE  12
#define LOG_EXT_INTRO_SIZE 20 /* before the name */
#define LOG_EXT_NO_SHRINK  1
#define LOG_SIZE_MAX	   (1U << 30)

/* What we accept from a file, so that a hostile one cannot make us allocate without end. */
#define INDEX_LOG_RECORD_MAX	  (256U << 20)
#define INDEX_LOG_FILE_MAX	  0xfffffff0U /* offsets are 32 bits */
#define INDEX_EXT_MAX		  256U
#define INDEX_EXT_HDR_MAX	  (16U << 20)
#define INDEX_EXT_RECORD_MAX	  1024U
#define INDEX_EXT_NAME_MAX	  255U
#define INDEX_KEYWORD_MAX	  4096U
#define INDEX_KEYWORD_NAME_MAX	  4096U
#define INDEX_SNAPSHOT_RECORD_MAX 65536U

static inline size_t index_pad4(size_t size)
{
	return (size + 3) & ~(size_t)3;
}

static inline size_t index_pad8(size_t size)
{
	return (size + 7) & ~(size_t)7;
}

/* The size field of log records and the offsets of the cache: 7 bits a byte, big endian, divided by
 * four, each top bit set. Decoding gives 0 where a top bit is missing ("not written yet"). */
void index_size_encode(uint32_t size, uint8_t bytes_r[4]);
uint32_t index_size_decode(const uint8_t bytes[4]);

#endif
