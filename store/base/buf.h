/*
 * A growable byte buffer with a hard maximum. The bytes are always followed by a NUL that does not
 * count, so text built in it can be used as a string. Appending beyond the maximum, or out of
 * memory, sets `failed` (-EMSGSIZE, -ENOMEM) and drops the data; callers may append many times and
 * check once at the end.
 */
#ifndef DSYNCFS_BASE_BUF_H
#define DSYNCFS_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct buf {
	char *data; /* NULL while empty and never grown; use buf_str() for a string */
	size_t len;
	size_t size; /* allocated */
	size_t max;
	int failed; /* 0 or a negative errno, sticky until buf_clear() */
};

/* clang-format 14 and 19 differ about braces in macros. */
// clang-format off
#define BUF_INIT(max_bytes) {.max = (max_bytes)}
// clang-format on

void buf_init(struct buf *buf, size_t max_bytes);
void buf_free(struct buf *buf);
void buf_clear(struct buf *buf); /* length 0, failed 0, memory kept */
int buf_append(struct buf *buf, const void *data, size_t len);
int buf_append_str(struct buf *buf, const char *str);
int buf_append_byte(struct buf *buf, unsigned char byte);
int buf_printf(struct buf *buf, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Makes room for len bytes at the end; the caller fills them and calls buf_commit(). NULL: see
 * failed. */
void *buf_reserve(struct buf *buf, size_t len);
void buf_commit(struct buf *buf, size_t len);
/* Drops len bytes at the front. */
void buf_consume(struct buf *buf, size_t len);
const char *buf_str(const struct buf *buf); /* never NULL */

#endif
