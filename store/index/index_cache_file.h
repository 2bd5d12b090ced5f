/*
 * dovecot.index.cache as a file: header and field list (reference 5). Private to store/index/.
 */
#ifndef DSYNCFS_INDEX_CACHE_FILE_H
#define DSYNCFS_INDEX_CACHE_FILE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/buf.h"
#include "store/index/index_private.h"

enum {
	CACHE_HDR_SIZE = 32,
	CACHE_HDR_MAJOR = 0,
	CACHE_HDR_OFFSET_SIZE = 1,
	CACHE_HDR_MINOR = 2,
	CACHE_HDR_INDEXID = 4,
	CACHE_HDR_FILE_SEQ = 8,
	CACHE_HDR_CONTINUED = 12,
	CACHE_HDR_RECORDS = 16,
	CACHE_HDR_FIELDS = 28,

	CACHE_MAJOR_VERSION = 1,
	CACHE_MINOR_VERSION = 1,

	CACHE_FIELDS_HDR = 12, /* next_offset, size, count */
	CACHE_RECORD_HDR = 8,  /* prev_offset, size */
	CACHE_TYPE_FIXED = 0,
	CACHE_DECISION_YES = 2,
};
#define CACHE_SAVE_DATE	    "date.save"
#define CACHE_VARIABLE_SIZE UINT32_MAX

struct index_cache {
	int fd; /* -1: none that is valid */
	dev_t dev;
	ino_t ino;
	uint32_t file_seq;
	uint8_t hdr[CACHE_HDR_SIZE];
	uint32_t fields_offset; /* of the last field list; 0: there is none */
	uint32_t field_count;
	struct buf fields; /* that list as it is in the file */
	int save_date;	   /* its number; -1: not there */
};

/* Opens the cache that belongs to the index as it is now. -ENOENT: there is none, -EUCLEAN: it is
 * damaged or belongs to another; neither with a text. */
int index_cache_open(const struct index *index, bool writable, struct index_cache *cache_r);
void index_cache_close(struct index_cache *cache);
/* Reads header and field list of the open file (again). */
int index_cache_read_fields(const struct index *index, struct index_cache *cache);
uint32_t index_cache_field_size(const struct index_cache *cache, uint32_t field);

#endif
