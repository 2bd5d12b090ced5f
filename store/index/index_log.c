/*
 * The log file: opening, and walking its records transaction by transaction.
 */
#include "store/index/index_log.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "store/base/file.h"
#include "store/index/index.h"
#include "store/index/index_format.h"
#include "store/index/index_log_record.h"

/* Most refreshes find one small transaction: that one fits on the stack. */
#define SMALL_WINDOW 4096
#define LARGE_WINDOW 65536

int index_log_damaged(const struct index_log *log, uint64_t offset, struct error *err,
		      const char *fmt, ...)
{
	char text[256];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	return error_set(err, -EUCLEAN, "%s: damaged at offset %" PRIu64 ": %s", log->name, offset,
			 text);
}

static int log_read_header(struct index_log *log, struct error *err)
{
	uint8_t hdr[LOG_HDR_SIZE] = {0};
	ssize_t got;

	do {
		got = pread(log->fd, hdr, sizeof(hdr), 0);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return error_errno(err, -errno, "%s: read", log->name);
	if (got < LOG_HDR_MIN_SIZE)
		return index_log_damaged(log, 0, err, "the file header is cut off at %zd bytes",
					 got);
	log->hdr_size = index_get16(hdr + LOG_HDR_OFF_HDR_SIZE);
	if (hdr[0] != LOG_MAJOR_VERSION)
		return index_log_damaged(log, 0, err, "major version %u is not known", hdr[0]);
	if (log->hdr_size < LOG_HDR_MIN_SIZE || log->hdr_size % 4 != 0)
		return index_log_damaged(log, 2, err, "a header size of %u", log->hdr_size);
	/* A short header has no modseq and no flags: the fields beyond it are not ours to read. */
	if (log->hdr_size < LOG_HDR_SIZE)
		memset(hdr + log->hdr_size, 0, LOG_HDR_SIZE - log->hdr_size);
	else if (got < LOG_HDR_SIZE)
		return index_log_damaged(log, 0, err, "the file header is cut off at %zd bytes",
					 got);
	if (log->hdr_size > LOG_HDR_OFF_COMPAT &&
	    (hdr[LOG_HDR_OFF_COMPAT] & INDEX_COMPAT_LITTLE_ENDIAN) == 0)
		return index_log_damaged(log, LOG_HDR_OFF_COMPAT, err,
					 "it was written by a big-endian machine");
	log->indexid = index_get32(hdr + LOG_HDR_OFF_INDEXID);
	log->file_seq = index_get32(hdr + LOG_HDR_OFF_SEQ);
	log->prev_file_seq = index_get32(hdr + LOG_HDR_OFF_PREV_SEQ);
	log->prev_file_offset = index_get32(hdr + LOG_HDR_OFF_PREV_OFFSET);
	log->created = index_get32(hdr + LOG_HDR_OFF_CREATED);
	log->initial_modseq = index_get64(hdr + LOG_HDR_OFF_INITIAL_MODSEQ);
	if (log->indexid == 0)
		return index_log_damaged(log, LOG_HDR_OFF_INDEXID, err,
					 "the log is marked as corrupted");
	if (log->initial_modseq > INT64_MAX)
		return index_log_damaged(log, LOG_HDR_OFF_INITIAL_MODSEQ, err,
					 "a modseq beyond 63 bits");
	if (log->file_seq == 0)
		return index_log_damaged(log, LOG_HDR_OFF_SEQ, err, "a file sequence of 0");
	return 0;
}

int index_log_open(int dirfd, const char *label, const char *file, bool writable,
		   struct index_log *log_r, struct error *err)
{
	const int flags = O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	struct index_log log = INDEX_LOG_INIT;
	struct stat st;
	int ret;

	snprintf(log.name, sizeof(log.name), "%s%s%s", label, *label != '\0' ? "/" : "", file);
	*log_r = log; /* a name to speak of, also when there is no file */
	if (writable) {
		log.fd = openat(dirfd, file, flags | O_RDWR | O_APPEND);
		log.writable = log.fd >= 0;
	}
	if (log.fd < 0 && (!writable || errno == EACCES || errno == EROFS || errno == EPERM))
		log.fd = openat(dirfd, file, flags | O_RDONLY);
	if (log.fd < 0) {
		if (errno == ENOENT)
			return -ENOENT;
		return error_errno(err, -errno, "%s: open", log.name);
	}
	if (fstat(log.fd, &st) < 0)
		ret = error_errno(err, -errno, "%s: fstat", log.name);
	else if (!S_ISREG(st.st_mode))
		ret = error_set(err, -EUCLEAN, "%s: not a regular file", log.name);
	else
		ret = log_read_header(&log, err);
	if (ret < 0) {
		file_close(&log.fd);
		return ret;
	}
	log.dev = st.st_dev;
	log.ino = st.st_ino;
	*log_r = log;
	return 0;
}

int index_log_check(const struct index_log *log, struct error *err)
{
	struct index_log now = *log;
	int ret = log_read_header(&now, err);

	if (ret == 0 && (now.indexid != log->indexid || now.file_seq != log->file_seq))
		ret = index_log_damaged(log, LOG_HDR_OFF_INDEXID, err, "the header is another's");
	return ret;
}

void index_log_close(struct index_log *log)
{
	file_close(&log->fd);
}

int index_log_size(const struct index_log *log, uint64_t *size_r, struct error *err)
{
	struct stat st;

	if (fstat(log->fd, &st) < 0)
		return error_errno(err, -errno, "%s: fstat", log->name);
	if ((uint64_t)st.st_size > INDEX_LOG_FILE_MAX)
		return error_set(err, -EUCLEAN, "%s: %lld bytes are more than a log can have",
				 log->name, (long long)st.st_size);
	*size_r = (uint64_t)st.st_size;
	return 0;
}

void index_log_counter_init(const struct index_log *log, struct index_log_counter *counter_r)
{
	counter_r->modseq = log->initial_modseq;
	counter_r->counting = log->initial_modseq != 0;
}

struct walk {
	const struct index_log *log;
	uint64_t *offset;
	uint64_t end;
	struct index_log_counter *counter;
	index_log_fn *fn;
	void *ctx;
	uint64_t transaction, transaction_end; /* 0: outside of one with a BOUNDARY */
	bool done;
};

/* What is incomplete may still be being written, but not in a transaction whose BOUNDARY says that
 * all of it is there. */
static int walk_incomplete(struct walk *walk, const char *what, struct error *err)
{
	walk->done = true;
	if (walk->transaction_end == 0)
		return 0;
	return index_log_damaged(walk->log, *walk->offset, err, "%s inside a transaction", what);
}

static int walk_boundary(struct walk *walk, uint32_t size, const uint8_t *payload,
			 struct error *err)
{
	uint32_t total;

	if (size != LOG_BOUNDARY_SIZE)
		return index_log_damaged(walk->log, *walk->offset, err,
					 "a boundary record of %u bytes", size);
	if (walk->transaction_end != 0)
		return index_log_damaged(walk->log, *walk->offset, err,
					 "a boundary inside a transaction");
	total = index_get32(payload);
	if (total < size || total % 4 != 0)
		return index_log_damaged(walk->log, *walk->offset, err, "a transaction of %u bytes",
					 total);
	if (total > walk->end - *walk->offset) {
		walk->done = true;
		return 0;
	}
	walk->transaction = *walk->offset;
	walk->transaction_end = *walk->offset + total;
	return 0;
}

static int walk_record(struct walk *walk, uint32_t type, const uint8_t *payload, uint32_t size,
		       struct error *err)
{
	struct index_log_record record = {
		.offset = *walk->offset,
		.external = (type & LOG_EXTERNAL) != 0,
		.data = payload,
		.size = size - LOG_RECORD_HDR,
		.transaction = walk->transaction_end != 0 ? walk->transaction : *walk->offset,
	};
	struct index_log_counter counter = *walk->counter;
	int ret;

	ret = index_log_record_check(walk->log, type, &record, err);
	if (ret < 0)
		return ret;
	index_log_record_count(&record, &counter);
	record.modseq = counter.modseq;
	ret = walk->fn(walk->ctx, &record, err);
	if (ret == 0)
		*walk->counter = counter;
	return ret;
}

/* Hands over the records that are complete in data, which are the log's bytes at *walk->offset.
 * need_r: how many bytes the next one wants, when data is too short for it. */
static int walk_window(struct walk *walk, const uint8_t *data, size_t avail, size_t *need_r,
		       struct error *err)
{
	int ret;

	*need_r = 0;
	while (!walk->done) {
		uint64_t left = walk->end - *walk->offset;
		uint32_t size, type;

		if (left < LOG_RECORD_HDR)
			return left == 0 ? walk_incomplete(walk, "the end", err)
					 : walk_incomplete(walk, "a cut-off record", err);
		if (avail < LOG_RECORD_HDR) {
			*need_r = LOG_RECORD_HDR;
			return 0;
		}
		size = index_size_decode(data);
		if (size == 0)
			return walk_incomplete(walk, "a record without a size", err);
		if (size <= LOG_RECORD_HDR)
			return index_log_damaged(walk->log, *walk->offset, err,
						 "a record of %u bytes", size);
		if (walk->transaction_end != 0 && size > walk->transaction_end - *walk->offset)
			return index_log_damaged(walk->log, *walk->offset, err,
						 "a record goes beyond its transaction");
		if (size > left)
			return walk_incomplete(walk, "a cut-off record", err);
		if (size > INDEX_LOG_RECORD_MAX)
			return index_log_damaged(walk->log, *walk->offset, err,
						 "a record of %u bytes", size);
		if (size > avail) {
			*need_r = size;
			return 0;
		}
		type = index_get32(data + 4);
		if ((type & LOG_KIND_MASK) == LOG_BOUNDARY) {
			ret = walk_boundary(walk, size, data + LOG_RECORD_HDR, err);
			if (walk->done)
				return ret;
		} else {
			ret = walk_record(walk, type, data + LOG_RECORD_HDR, size, err);
		}
		if (ret != 0)
			return ret;
		*walk->offset += size;
		data += size;
		avail -= size;
		if (*walk->offset == walk->transaction_end)
			walk->transaction_end = 0;
	}
	return 0;
}

int index_log_walk(const struct index_log *log, uint64_t *offset, uint64_t end,
		   struct index_log_counter *counter, index_log_fn *fn, void *ctx,
		   struct error *err)
{
	struct walk walk = {
		.log = log, .offset = offset, .end = end, .counter = counter, .fn = fn, .ctx = ctx};
	uint8_t small[SMALL_WINDOW];
	AUTO_FREE uint8_t *large = NULL;
	uint8_t *window = small;
	size_t window_size = sizeof(small), need = 0;
	int ret;

	while (!walk.done && *offset < end) {
		uint64_t left = end - *offset;
		size_t len;

		if (need > window_size || (left > window_size && window == small)) {
			uint8_t *grown;

			window_size = need > LARGE_WINDOW ? need : LARGE_WINDOW;
			grown = realloc(large, window_size);
			if (grown == NULL)
				return error_errno(err, -ENOMEM, "%s: %zu bytes", log->name,
						   window_size);
			large = grown;
			window = large;
		}
		len = left < window_size ? (size_t)left : window_size;
		ret = file_pread_all(log->fd, window, len, (off_t)*offset);
		if (ret == -ENODATA) /* it was cut off behind us: see what is there now */
			return index_log_damaged(log, *offset, err,
						 "the file was shortened while it was read");
		if (ret < 0)
			return error_errno(err, ret, "%s: read at offset %" PRIu64, log->name,
					   *offset);
		ret = walk_window(&walk, window, len, &need, err);
		if (ret != 0)
			return ret;
	}
	return 0;
}

int index_log_walk_memory(const struct index_log *log, const uint8_t *data, size_t size,
			  uint64_t *offset, struct index_log_counter *counter, index_log_fn *fn,
			  void *ctx, struct error *err)
{
	struct walk walk = {.log = log,
			    .offset = offset,
			    .end = *offset + size,
			    .counter = counter,
			    .fn = fn,
			    .ctx = ctx};
	size_t need;

	return walk_window(&walk, data, size, &need, err);
}
