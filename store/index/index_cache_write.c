/*
 * Writing saved dates into the cache (reference 5), below the log's lock and the cache's own.
 *
 * The records go to the end of the file first; only the transaction makes them visible. What a
 * failure leaves behind in the file is waste that Dovecot's next purge drops.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/index/index_cache.h"
#include "store/index/index_cache_file.h"

/* Best effort: whoever holds it longer is purging. */
#define CACHE_LOCK_MS	 2000
#define CACHE_FILE_MAX	 (1UL << 30)
#define FIELDS_BYTES_MAX (1U << 20)
#define RECORD_SIZE	 16 /* prev_offset, size, field, time */
/* About what a sync takes. */
#define SAVED_DATE_SLACK_S 10

static const char save_date_name[] = CACHE_SAVE_DATE; /* with its NUL */

static void put32(struct buf *buf, uint32_t value)
{
	uint8_t bytes[4];

	index_put32(bytes, value);
	buf_append(buf, bytes, sizeof(bytes));
}

static void pad4(struct buf *buf)
{
	static const uint8_t zeros[4];

	buf_append(buf, zeros, index_pad4(buf->len) - buf->len);
}

/* The list of old (NULL or empty: none), with date.save behind it. */
static int build_fields(const struct index_cache *old, struct buf *buf)
{
	const uint32_t count = old != NULL ? old->field_count : 0;
	const uint8_t *data =
		count > 0 ? (const uint8_t *)old->fields.data + CACHE_FIELDS_HDR : NULL;
	const size_t names = (size_t)count * 10;

	put32(buf, 0);
	put32(buf, 0); /* its size follows */
	put32(buf, count + 1);
	if (count > 0)
		buf_append(buf, data, (size_t)count * 4);
	put32(buf, (uint32_t)time(NULL)); /* last used */
	if (count > 0)
		buf_append(buf, data + (size_t)count * 4, (size_t)count * 4);
	put32(buf, 4); /* size */
	if (count > 0)
		buf_append(buf, data + (size_t)count * 8, count);
	buf_append_byte(buf, CACHE_TYPE_FIXED);
	if (count > 0)
		buf_append(buf, data + (size_t)count * 9, count);
	buf_append_byte(buf, CACHE_DECISION_YES);
	if (count > 0) {
		/* The names, without the padding behind them. */
		size_t len = old->fields.len - CACHE_FIELDS_HDR;
		size_t end = names;

		for (uint32_t i = 0; i < count; i++) {
			const uint8_t *nul = memchr(data + end, '\0', len - end);

			end = (size_t)(nul - data) + 1;
		}
		buf_append(buf, data + names, end - names);
	}
	buf_append(buf, save_date_name, sizeof(save_date_name));
	if (buf->failed != 0)
		return buf->failed;
	/* The padding is not part of the list. */
	index_put32((uint8_t *)buf->data + 4, (uint32_t)buf->len);
	pad4(buf);
	return buf->failed;
}

/* Everything is appended at a multiple of 4. */
static int cache_end(const struct index_cache *cache, uint32_t *end_r)
{
	struct stat st;

	if (fstat(cache->fd, &st) < 0)
		return -errno;
	if (st.st_size < CACHE_HDR_SIZE || (uint64_t)st.st_size > CACHE_FILE_MAX)
		return -EUCLEAN;
	*end_r = (uint32_t)index_pad4((size_t)st.st_size);
	return 0;
}

static int add_field(const struct index *index, struct index_cache *cache)
{
	AUTO_BUF struct buf list = BUF_INIT(FIELDS_BYTES_MAX);
	uint8_t pointer[4];
	uint32_t end = 0;
	int ret = build_fields(cache, &list);

	if (ret == 0)
		ret = cache_end(cache, &end);
	if (ret == 0)
		ret = file_pwrite_all(cache->fd, list.data, list.len, end);
	if (ret < 0)
		return ret;
	index_size_encode(end, pointer);
	ret = file_pwrite_all(cache->fd, pointer, sizeof(pointer),
			      cache->fields_offset != 0 ? (off_t)cache->fields_offset
							: CACHE_HDR_FIELDS);
	return ret < 0 ? ret : index_cache_read_fields(index, cache);
}

/* A field that nobody wants is dropped by the next purge. */
static int want_field(struct index_cache *cache)
{
	const size_t last_used = CACHE_FIELDS_HDR + (size_t)cache->save_date * 4;
	const size_t decision =
		CACHE_FIELDS_HDR + (size_t)cache->field_count * 9 + (size_t)cache->save_date;
	const uint8_t yes = CACHE_DECISION_YES;
	uint8_t now[4];
	int ret;

	if ((cache->fields.data[decision] & 0x7f) != 0)
		return 0;
	index_put32(now, (uint32_t)time(NULL));
	ret = file_pwrite_all(cache->fd, &yes, 1, (off_t)(cache->fields_offset + decision));
	if (ret == 0)
		ret = file_pwrite_all(cache->fd, now, sizeof(now),
				      (off_t)(cache->fields_offset + last_used));
	return ret;
}

/* A new cache with the one field, in the place of whatever is there. */
static int create_cache(const struct index *index, uint32_t old_seq, struct index_cache *cache)
{
	AUTO_BUF struct buf buf = BUF_INIT(FIELDS_BYTES_MAX);
	uint8_t hdr[CACHE_HDR_SIZE] = {0};
	uint32_t now = (uint32_t)time(NULL);
	char file[NAME_MAX + 1], tmp[NAME_MAX + 1];
	struct stat st;
	int ret;

	hdr[CACHE_HDR_MAJOR] = CACHE_MAJOR_VERSION;
	hdr[CACHE_HDR_OFFSET_SIZE] = 8;
	hdr[CACHE_HDR_MINOR] = CACHE_MINOR_VERSION;
	index_put32(hdr + CACHE_HDR_INDEXID, index->log.indexid);
	index_put32(hdr + CACHE_HDR_FILE_SEQ, now > old_seq ? now : old_seq + 1);
	index_size_encode(CACHE_HDR_SIZE, hdr + CACHE_HDR_FIELDS);
	ret = build_fields(NULL, &buf);
	if (ret < 0)
		return ret;
	index_file_name(index, ".cache", file, sizeof(file));
	index_file_name(index, ".cache.newlock", tmp, sizeof(tmp));
	unlinkat(index->dirfd, tmp, 0);
	memset(cache, 0, sizeof(*cache));
	buf_init(&cache->fields, FIELDS_BYTES_MAX);
	ret = index_file_create(index->dirfd, tmp, &cache->fd);
	if (ret < 0)
		return ret;
	/* It was opened for appending, where a position is ignored: this is what is wanted here. */
	ret = file_write_all(cache->fd, hdr, sizeof(hdr));
	if (ret == 0)
		ret = file_write_all(cache->fd, buf.data, buf.len);
	if (ret == 0 && renameat(index->dirfd, tmp, index->dirfd, file) < 0)
		ret = -errno;
	file_close(&cache->fd);
	if (ret < 0) {
		unlinkat(index->dirfd, tmp, 0);
		return ret;
	}
	cache->fd = openat(index->dirfd, file, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (cache->fd < 0)
		return -errno;
	if (fstat(cache->fd, &st) < 0)
		return -errno;
	cache->dev = st.st_dev;
	cache->ino = st.st_ino;
	return index_cache_read_fields(index, cache);
}

static int lock_cache(const struct index *index, struct index_cache *cache)
{
	char file[NAME_MAX + 1];
	struct stat st;
	int ret = index_lock_fd(index->lock_method, cache->fd, CACHE_LOCK_MS);

	if (ret < 0)
		return ret;
	index_file_name(index, ".cache", file, sizeof(file));
	if (fstatat(index->dirfd, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if (st.st_ino != cache->ino || st.st_dev != cache->dev)
		return -EAGAIN; /* purged in this moment: then not now */
	return index_cache_read_fields(index, cache);
}

/* Opens and locks a cache that has the field. */
static int prepare_cache(const struct index *index, struct index_cache *cache)
{
	struct index_ext ext = {0};
	int ret = index_cache_open(index, true, cache);

	index_ext_find(index, "cache", &ext);
	if (ret == -ENOENT || ret == -EUCLEAN)
		ret = create_cache(index, ext.reset_id, cache);
	if (ret == 0)
		ret = lock_cache(index, cache);
	if (ret == 0 && cache->save_date < 0)
		ret = add_field(index, cache);
	else if (ret == 0)
		ret = want_field(cache);
	return ret;
}

static uint32_t previous_offset(const struct index *index, const struct index_cache *cache,
				uint32_t uid)
{
	struct index_record record;
	struct index_ext ext;
	uint8_t value[4];

	if (index_find(index, uid, &record) < 0 || index_ext_find(index, "cache", &ext) < 0 ||
	    ext.reset_id != cache->file_seq)
		return 0;
	index_record_ext(index, &record, "cache", value, sizeof(value));
	return index_get32(value);
}

static int write_dates(const struct index *index, struct index_cache *cache,
		       const struct index_save_date *dates, size_t count, uint32_t *offsets)
{
	AUTO_BUF struct buf records = BUF_INIT(CACHE_FILE_MAX);
	uint32_t end = 0, records_added = 0, continued_added = 0;
	uint8_t counts[8];
	int ret = cache_end(cache, &end);

	for (size_t i = 0; ret == 0 && i < count; i++) {
		uint32_t previous = previous_offset(index, cache, dates[i].uid);

		offsets[i] = end + (uint32_t)records.len;
		put32(&records, previous);
		put32(&records, RECORD_SIZE);
		put32(&records, (uint32_t)cache->save_date);
		put32(&records, (uint32_t)dates[i].time);
		if (previous != 0)
			continued_added++;
		else
			records_added++;
		ret = records.failed;
	}
	if (ret == 0 && records.len > CACHE_FILE_MAX - end)
		ret = -EFBIG;
	if (ret == 0)
		ret = file_pwrite_all(cache->fd, records.data, records.len, end);
	if (ret < 0)
		return ret;
	index_put32(counts, index_get32(cache->hdr + CACHE_HDR_CONTINUED) + continued_added);
	index_put32(counts + 4, index_get32(cache->hdr + CACHE_HDR_RECORDS) + records_added);
	return file_pwrite_all(cache->fd, counts, sizeof(counts), CACHE_HDR_CONTINUED);
}

int index_cache_set_save_dates(struct index_txn *txn, const struct index_save_date *dates,
			       size_t count, struct error *err)
{
	struct index *index = index_txn_index(txn);
	struct index_ext_def def = {
		.name = "cache", .record_size = 4, .record_align = 4, .reset = true};
	struct index_cache cache;
	uint32_t *offsets;
	int ret;

	if (count == 0)
		return 0;
	offsets = calloc(count, sizeof(*offsets));
	if (offsets == NULL)
		return error_errno(err, -ENOMEM, "%s: saved dates", index_text(index));
	ret = prepare_cache(index, &cache);
	if (ret == 0)
		ret = write_dates(index, &cache, dates, count, offsets);
	def.reset_id = cache.file_seq;
	index_cache_close(&cache); /* and its lock */
	if (ret < 0)
		error_errno(err, ret, "%s/%s.cache: saved dates", index->label, index->name);
	for (size_t i = 0; ret == 0 && i < count; i++) {
		uint8_t value[4];

		index_put32(value, offsets[i]);
		ret = index_update_ext(txn, &def, dates[i].uid, value, err);
	}
	free(offsets);
	return ret;
}

/* ---- the dates of a transaction ---- */

int index_save_dates_add(struct index_save_dates *dates, uint32_t uid, int64_t saved)
{
	int64_t now = time(NULL);

	if (saved <= 0 || (saved > now - SAVED_DATE_SLACK_S && saved < now + SAVED_DATE_SLACK_S))
		return 0;
	if (dates->count == dates->room) {
		size_t room = dates->room ? dates->room * 2 : 16;
		struct index_save_date *grown = reallocarray(dates->dates, room, sizeof *grown);

		if (!grown)
			return -ENOMEM;
		dates->dates = grown;
		dates->room = room;
	}
	dates->dates[dates->count++] = (struct index_save_date){.uid = uid, .time = saved};
	return 0;
}

void index_save_dates_write(const struct index_save_dates *dates, struct index_txn *txn,
			    const char *what)
{
	struct error err;

	if (dates->count && index_cache_set_save_dates(txn, dates->dates, dates->count, &err) < 0)
		log_warning("%s: saved dates are not kept: %s", what, err.text);
}

void index_save_dates_free(struct index_save_dates *dates)
{
	free(dates->dates);
	*dates = (struct index_save_dates){0};
}
