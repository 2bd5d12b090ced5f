/* Compressing bodies. See compress.h. */
#include "store/body/compress.h"

#include <bzlib.h>
#include <errno.h>
#include <lz4.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>
#include "store/base/file.h"

#define CHUNK	       65536 /* of LZ4, as Dovecot writes it; and what is read at a time */
#define OUT_SIZE       (2 * CHUNK)
#define LZ4_MAGIC      "Dovecot-LZ4\r\x2a\x9b\xc5"
#define LZ4_MAGIC_SIZE 15
#define GZIP_LEVEL     6
#define BZIP2_LEVEL    9

int compress_method_find(const char *name, enum compress_method *method_r)
{
	static const struct {
		const char *name;
		enum compress_method method;
	} names[] = {{"", COMPRESS_NONE},
		     {"gz", COMPRESS_GZIP},
		     {"bz2", COMPRESS_BZIP2},
		     {"zstd", COMPRESS_ZSTD},
		     {"lz4", COMPRESS_LZ4}};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (strcmp(names[i].name, name) == 0) {
			*method_r = names[i].method;
			return 0;
		}
	}
	return -EINVAL;
}

struct compress {
	int to;
	uint64_t at; /* where the next output goes */
	z_stream gzip;
	bz_stream bzip2;
	ZSTD_CStream *zstd;
	char in[CHUNK], out[OUT_SIZE];
};

static int put(struct compress *c, const void *data, size_t len)
{
	int rc = file_pwrite_all(c->to, data, len, (off_t)c->at);

	c->at += len;
	return rc;
}

static int start(struct compress *c, enum compress_method method)
{
	static const char lz4_head[LZ4_MAGIC_SIZE + 4] = LZ4_MAGIC "\0\1\0"; /* 65536, big endian */

	switch (method) {
	case COMPRESS_NONE:
		return -EINVAL;
	case COMPRESS_GZIP:
		return deflateInit2(&c->gzip, GZIP_LEVEL, Z_DEFLATED, MAX_WBITS + 16, 8,
				    Z_DEFAULT_STRATEGY) == Z_OK
			       ? 0
			       : -ENOMEM;
	case COMPRESS_BZIP2:
		return BZ2_bzCompressInit(&c->bzip2, BZIP2_LEVEL, 0, 0) == BZ_OK ? 0 : -ENOMEM;
	case COMPRESS_ZSTD:
		c->zstd = ZSTD_createCStream();
		return c->zstd ? 0 : -ENOMEM;
	case COMPRESS_LZ4:
		return put(c, lz4_head, sizeof lz4_head);
	}
	return -EINVAL;
}

static int step_gzip(struct compress *c, size_t len, bool last)
{
	int rc;

	c->gzip.next_in = (unsigned char *)c->in;
	c->gzip.avail_in = (unsigned)len;
	do {
		c->gzip.next_out = (unsigned char *)c->out;
		c->gzip.avail_out = OUT_SIZE;
		if (deflate(&c->gzip, last ? Z_FINISH : Z_NO_FLUSH) == Z_STREAM_ERROR)
			return -EIO;
		rc = put(c, c->out, OUT_SIZE - c->gzip.avail_out);
	} while (rc == 0 && c->gzip.avail_out == 0);
	return rc;
}

static int step_bzip2(struct compress *c, size_t len, bool last)
{
	int done, rc;

	c->bzip2.next_in = c->in;
	c->bzip2.avail_in = (unsigned)len;
	do {
		c->bzip2.next_out = c->out;
		c->bzip2.avail_out = OUT_SIZE;
		done = BZ2_bzCompress(&c->bzip2, last ? BZ_FINISH : BZ_RUN);
		if (done < 0)
			return -EIO;
		rc = put(c, c->out, OUT_SIZE - c->bzip2.avail_out);
	} while (rc == 0 && (last ? done != BZ_STREAM_END : c->bzip2.avail_in > 0));
	return rc;
}

static int step_zstd(struct compress *c, size_t len, bool last)
{
	ZSTD_inBuffer from = {.src = c->in, .size = len};
	size_t left;
	int rc;

	do {
		ZSTD_outBuffer to = {.dst = c->out, .size = OUT_SIZE};

		left = ZSTD_compressStream2(c->zstd, &to, &from,
					    last ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left))
			return -EIO;
		rc = put(c, c->out, to.pos);
	} while (rc == 0 && (last ? left != 0 : from.pos < from.size));
	return rc;
}

static int step_lz4(struct compress *c, size_t len)
{
	int packed;

	if (len == 0)
		return 0;
	packed = LZ4_compress_default(c->in, c->out + 4, (int)len, OUT_SIZE - 4);
	if (packed <= 0)
		return -EIO;
	for (int i = 0; i < 4; i++)
		c->out[i] = (char)(packed >> (24 - 8 * i));
	return put(c, c->out, (size_t)packed + 4);
}

static int step(struct compress *c, enum compress_method method, size_t len, bool last)
{
	switch (method) {
	case COMPRESS_NONE:
		break;
	case COMPRESS_GZIP:
		return step_gzip(c, len, last);
	case COMPRESS_BZIP2:
		return step_bzip2(c, len, last);
	case COMPRESS_ZSTD:
		return step_zstd(c, len, last);
	case COMPRESS_LZ4:
		return step_lz4(c, len);
	}
	return -EINVAL;
}

static void end(struct compress *c, enum compress_method method)
{
	if (method == COMPRESS_GZIP)
		deflateEnd(&c->gzip);
	if (method == COMPRESS_BZIP2)
		BZ2_bzCompressEnd(&c->bzip2);
	ZSTD_freeCStream(c->zstd);
	free(c);
}

int compress_copy(enum compress_method method, int from, uint64_t offset, uint64_t size, int to,
		  uint64_t to_offset, uint64_t *size_r)
{
	struct compress *c = calloc(1, sizeof *c);
	int rc;

	if (!c)
		return -ENOMEM;
	c->to = to;
	c->at = to_offset;
	rc = start(c, method);
	if (rc < 0) {
		free(c);
		return rc;
	}
	do {
		size_t part = size < CHUNK ? (size_t)size : CHUNK;

		rc = file_pread_all(from, c->in, part, (off_t)offset);
		offset += part;
		size -= part;
		if (rc == 0)
			rc = step(c, method, part, size == 0);
	} while (rc == 0 && size > 0);
	*size_r = c->at - to_offset;
	end(c, method);
	return rc;
}
