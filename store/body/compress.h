/*
 * Compressing message bodies as Dovecot's zlib and mail_compress plugins do; decompress.h reads
 * them.
 */
#ifndef DSYNCFS_BODY_COMPRESS_H
#define DSYNCFS_BODY_COMPRESS_H

#include <stdint.h>

enum compress_method {
	COMPRESS_NONE,
	COMPRESS_GZIP,
	COMPRESS_BZIP2,
	COMPRESS_ZSTD,
	COMPRESS_LZ4,
};

/* As Dovecot's zlib_save names them: gz, deflate's file form; bz2; zstd; lz4; "" is none. -EINVAL.
 */
int compress_method_find(const char *name, enum compress_method *method_r);

/* Reads size bytes of `from` at offset and writes their compressed form to `to` at to_offset.
 * Memory is bounded. 0 or a negative errno. */
int compress_copy(enum compress_method method, int from, uint64_t offset, uint64_t size, int to,
		  uint64_t to_offset, uint64_t *size_r);

#endif
