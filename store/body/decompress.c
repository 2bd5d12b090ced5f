/* Reading compressed bodies. See decompress.h. */
#include "store/body/decompress.h"

#include <bzlib.h>
#include <errno.h>
#include <limits.h>
#include <lz4.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#define IN_SIZE		32768
#define LZ4_MAGIC	"Dovecot-LZ4\r\x2a\x9b\xc5"
#define LZ4_MAGIC_SIZE	15
#define LZ4_CHUNK_MAX	(1024 * 1024) /* Dovecot writes 64 kB */
#define ZSTD_WINDOW_MAX 27	      /* log2 of the memory that a frame may ask for */

enum decompress_kind { KIND_PLAIN, KIND_GZIP, KIND_BZIP2, KIND_ZSTD, KIND_LZ4 };

struct decompress {
	int fd;
	uint64_t at, left; /* of the file: where to read on, and how much of it is the body's */
	bool bounded;
	enum decompress_kind kind;
	uint8_t in[IN_SIZE];
	size_t in_pos, in_len;
	bool in_end; /* nothing more to read from fd */
	bool inside; /* within a compressed stream or frame: the file must not end here */
	z_stream gzip;
	bz_stream bzip2;
	bool bzip2_open;
	ZSTD_DStream *zstd;
	/* LZ4: one chunk */
	uint8_t *chunk, *packed;
	size_t chunk_max, packed_max, chunk_pos, chunk_len;
};

/* The next bytes of the body as they are in the file. */
static ssize_t read_file(struct decompress *in, void *data, size_t size)
{
	ssize_t n;

	if (size > in->left)
		size = (size_t)in->left;
	do {
		n = pread(in->fd, data, size, (off_t)in->at);
	} while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	/* A body whose length is known must be there. */
	if (n == 0 && size > 0 && in->bounded)
		return -EBADMSG;
	in->at += (uint64_t)n;
	in->left -= (uint64_t)n;
	return n;
}

/* Reads more behind what is there. 0 at the end of the file too. */
static int fill(struct decompress *in)
{
	ssize_t n;

	if (in->in_pos > 0) {
		memmove(in->in, in->in + in->in_pos, in->in_len - in->in_pos);
		in->in_len -= in->in_pos;
		in->in_pos = 0;
	}
	if (in->in_end || in->in_len == IN_SIZE)
		return 0;
	n = read_file(in, in->in + in->in_len, IN_SIZE - in->in_len);
	if (n < 0)
		return (int)n;
	in->in_len += (size_t)n;
	in->in_end = n == 0;
	return 0;
}

/* Makes at least want bytes available unless the file ends before. */
static int fill_at_least(struct decompress *in, size_t want)
{
	while (in->in_len - in->in_pos < want && !in->in_end) {
		int rc = fill(in);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static size_t available(const struct decompress *in)
{
	return in->in_len - in->in_pos;
}

static uint32_t get_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static enum decompress_kind detect(const struct decompress *in)
{
	const uint8_t *p = in->in + in->in_pos;
	size_t len = available(in);

	if (len >= 2 && p[0] == 0x1f && p[1] == 0x8b)
		return KIND_GZIP;
	if (len >= 3 && memcmp(p, "BZh", 3) == 0)
		return KIND_BZIP2;
	if (len >= 4 && memcmp(p, "\x28\xb5\x2f\xfd", 4) == 0)
		return KIND_ZSTD;
	if (len >= LZ4_MAGIC_SIZE && memcmp(p, LZ4_MAGIC, LZ4_MAGIC_SIZE) == 0)
		return KIND_LZ4;
	return KIND_PLAIN;
}

static int start_lz4(struct decompress *in)
{
	int rc = fill_at_least(in, LZ4_MAGIC_SIZE + 4);

	if (rc < 0)
		return rc;
	if (available(in) < LZ4_MAGIC_SIZE + 4)
		return -EBADMSG;
	in->chunk_max = get_be32(in->in + in->in_pos + LZ4_MAGIC_SIZE);
	in->in_pos += LZ4_MAGIC_SIZE + 4;
	if (in->chunk_max == 0 || in->chunk_max > LZ4_CHUNK_MAX)
		return -EBADMSG;
	in->packed_max = (size_t)LZ4_compressBound((int)in->chunk_max);
	in->chunk = malloc(in->chunk_max);
	in->packed = malloc(in->packed_max);
	return in->chunk && in->packed ? 0 : -ENOMEM;
}

static int start(struct decompress *in)
{
	switch (in->kind) {
	case KIND_PLAIN:
		return 0;
	case KIND_GZIP:
		return inflateInit2(&in->gzip, MAX_WBITS + 16) == Z_OK ? 0 : -ENOMEM;
	case KIND_BZIP2:
		return 0; /* at the first read */
	case KIND_ZSTD:
		in->zstd = ZSTD_createDStream();
		if (!in->zstd)
			return -ENOMEM;
		ZSTD_DCtx_setParameter(in->zstd, ZSTD_d_windowLogMax, ZSTD_WINDOW_MAX);
		return 0;
	case KIND_LZ4:
		return start_lz4(in);
	}
	return -EINVAL;
}

int decompress_open(int fd, uint64_t offset, uint64_t size, bool plain, struct decompress **in_r)
{
	struct decompress *in = calloc(1, sizeof *in);
	int rc = -ENOMEM;

	*in_r = NULL;
	if (!in)
		return rc;
	in->fd = fd;
	in->at = offset;
	in->left = size;
	in->bounded = size != DECOMPRESS_WHOLE;
	rc = fill_at_least(in, LZ4_MAGIC_SIZE);
	if (rc == 0) {
		in->kind = plain ? KIND_PLAIN : detect(in);
		rc = start(in);
	}
	if (rc < 0) {
		decompress_close(&in);
		return rc;
	}
	*in_r = in;
	return 0;
}

bool decompress_is_compressed(const struct decompress *in)
{
	return in->kind != KIND_PLAIN;
}

void decompress_close(struct decompress **in_ptr)
{
	struct decompress *in = *in_ptr;

	if (!in)
		return;
	*in_ptr = NULL;
	if (in->kind == KIND_GZIP)
		inflateEnd(&in->gzip);
	if (in->bzip2_open)
		BZ2_bzDecompressEnd(&in->bzip2);
	ZSTD_freeDStream(in->zstd);
	free(in->chunk);
	free(in->packed);
	free(in);
}

static ssize_t read_plain(struct decompress *in, void *data, size_t size)
{
	size_t have = available(in);

	if (have) {
		if (have > size)
			have = size;
		memcpy(data, in->in + in->in_pos, have);
		in->in_pos += have;
		return (ssize_t)have;
	}
	return read_file(in, data, size);
}

/* The three below take one step: use input, make output. *made_r: bytes written to data. Called
 * with input available. */

static int step_gzip(struct decompress *in, void *data, unsigned size, size_t *made_r)
{
	int rc;

	in->gzip.next_in = in->in + in->in_pos;
	in->gzip.avail_in = (unsigned)available(in);
	in->gzip.next_out = data;
	in->gzip.avail_out = size;
	rc = inflate(&in->gzip, Z_NO_FLUSH);
	in->in_pos = in->in_len - in->gzip.avail_in;
	*made_r = size - in->gzip.avail_out;
	in->inside = rc != Z_STREAM_END;
	if (rc == Z_STREAM_END)
		return inflateReset(&in->gzip) == Z_OK ? 0 : -EBADMSG;
	if (rc == Z_MEM_ERROR)
		return -ENOMEM;
	return rc == Z_OK || rc == Z_BUF_ERROR ? 0 : -EBADMSG;
}

static int step_bzip2(struct decompress *in, void *data, unsigned size, size_t *made_r)
{
	int rc;

	if (!in->bzip2_open) {
		in->bzip2 = (bz_stream){0};
		if (BZ2_bzDecompressInit(&in->bzip2, 0, 0) != BZ_OK)
			return -ENOMEM;
		in->bzip2_open = true;
	}
	in->bzip2.next_in = (char *)in->in + in->in_pos;
	in->bzip2.avail_in = (unsigned)available(in);
	in->bzip2.next_out = data;
	in->bzip2.avail_out = size;
	rc = BZ2_bzDecompress(&in->bzip2);
	in->in_pos = in->in_len - in->bzip2.avail_in;
	*made_r = size - in->bzip2.avail_out;
	in->inside = rc != BZ_STREAM_END;
	if (rc == BZ_STREAM_END) {
		BZ2_bzDecompressEnd(&in->bzip2);
		in->bzip2_open = false;
		return 0;
	}
	if (rc == BZ_MEM_ERROR)
		return -ENOMEM;
	return rc == BZ_OK ? 0 : -EBADMSG;
}

static int step_zstd(struct decompress *in, void *data, unsigned size, size_t *made_r)
{
	ZSTD_inBuffer from = {.src = in->in, .size = in->in_len, .pos = in->in_pos};
	ZSTD_outBuffer to = {.dst = data, .size = size};
	size_t rc = ZSTD_decompressStream(in->zstd, &to, &from);

	in->in_pos = from.pos;
	*made_r = to.pos;
	if (ZSTD_isError(rc))
		return -EBADMSG;
	in->inside = rc != 0;
	return 0;
}

static ssize_t read_stream(struct decompress *in, void *data, size_t size,
			   int (*step)(struct decompress *, void *, unsigned, size_t *))
{
	unsigned room = size > INT_MAX ? INT_MAX : (unsigned)size;

	for (;;) {
		size_t made = 0, before;
		int rc = fill_at_least(in, 1);

		if (rc < 0)
			return rc;
		before = available(in);
		/* Without input a step may still give what it holds back. */
		if (before == 0 && !in->inside)
			return 0;
		rc = step(in, data, room, &made);
		if (rc < 0)
			return rc;
		if (made > 0)
			return (ssize_t)made;
		if (before == 0)
			return -EBADMSG;
		if (available(in) == before) {
			/* Wants more than it has seen. */
			rc = fill(in);
			if (rc < 0)
				return rc;
			if (available(in) == before)
				return -EBADMSG;
		}
	}
}

/* Reads exactly len bytes of input, which may be more than the buffer holds. */
static int read_input(struct decompress *in, uint8_t *data, size_t len)
{
	while (len) {
		size_t have;
		int rc = fill_at_least(in, 1);

		if (rc < 0)
			return rc;
		have = available(in);
		if (have == 0)
			return -EBADMSG;
		if (have > len)
			have = len;
		memcpy(data, in->in + in->in_pos, have);
		in->in_pos += have;
		data += have;
		len -= have;
	}
	return 0;
}

static ssize_t read_lz4(struct decompress *in, void *data, size_t size)
{
	size_t have;

	while (in->chunk_pos == in->chunk_len) {
		uint8_t length[4];
		size_t packed;
		int rc = fill_at_least(in, 1), n;

		if (rc < 0)
			return rc;
		if (available(in) == 0)
			return 0;
		rc = read_input(in, length, sizeof length);
		if (rc < 0)
			return rc;
		packed = get_be32(length);
		if (packed == 0 || packed > in->packed_max)
			return -EBADMSG;
		rc = read_input(in, in->packed, packed);
		if (rc < 0)
			return rc;
		n = LZ4_decompress_safe((const char *)in->packed, (char *)in->chunk, (int)packed,
					(int)in->chunk_max);
		if (n < 0)
			return -EBADMSG;
		in->chunk_pos = 0;
		in->chunk_len = (size_t)n;
	}
	have = in->chunk_len - in->chunk_pos;
	if (have > size)
		have = size;
	memcpy(data, in->chunk + in->chunk_pos, have);
	in->chunk_pos += have;
	return (ssize_t)have;
}

ssize_t decompress_read(struct decompress *in, void *data, size_t size)
{
	if (size == 0)
		return 0;
	switch (in->kind) {
	case KIND_PLAIN:
		return read_plain(in, data, size);
	case KIND_GZIP:
		return read_stream(in, data, size, step_gzip);
	case KIND_BZIP2:
		return read_stream(in, data, size, step_bzip2);
	case KIND_ZSTD:
		return read_stream(in, data, size, step_zstd);
	case KIND_LZ4:
		return read_lz4(in, data, size);
	}
	return -EINVAL;
}
