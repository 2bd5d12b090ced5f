/*
 * Reading the cache: which fields it has, and the saved date of a message.
 *
 * Nothing in here is worth an error: what cannot be read is not known.
 */
#include "store/index/index_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "store/base/file.h"
#include "store/index/index_cache_file.h"

#define FIELDS_BYTES_MAX (1U << 20)
#define FIELDS_MAX	 4096U
#define FIELD_LISTS_MAX	 1000
#define RECORD_BYTES_MAX (1U << 20)
#define RECORD_CHAIN_MAX 1000

/* The list's own description must fit its size, and every name must end in it. */
static int fields_check(struct index_cache *cache)
{
	const uint8_t *data = (const uint8_t *)cache->fields.data;
	size_t len = cache->fields.len;
	uint32_t count = index_get32(data + 8);
	size_t names;

	if (count > FIELDS_MAX || CACHE_FIELDS_HDR + (size_t)count * 10 > len)
		return -EUCLEAN;
	names = CACHE_FIELDS_HDR + (size_t)count * 10;
	cache->field_count = count;
	cache->save_date = -1;
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *end = memchr(data + names, '\0', len - names);

		if (end == NULL)
			return -EUCLEAN;
		if (strcasecmp((const char *)data + names, CACHE_SAVE_DATE) == 0)
			cache->save_date = (int)i;
		names = (size_t)(end - data) + 1;
	}
	if (cache->save_date >= 0 && index_cache_field_size(cache, (uint32_t)cache->save_date) != 4)
		return -EUCLEAN;
	return 0;
}

uint32_t index_cache_field_size(const struct index_cache *cache, uint32_t field)
{
	const uint8_t *sizes = (const uint8_t *)cache->fields.data + CACHE_FIELDS_HDR +
			       (size_t)cache->field_count * 4;

	return index_get32(sizes + (size_t)field * 4);
}

int index_cache_read_fields(const struct index *index, struct index_cache *cache)
{
	uint8_t list[CACHE_FIELDS_HDR];
	uint32_t offset, size;
	void *room;
	int ret;

	ret = file_pread_all(cache->fd, cache->hdr, sizeof(cache->hdr), 0);
	if (ret < 0)
		return -EUCLEAN;
	cache->file_seq = index_get32(cache->hdr + CACHE_HDR_FILE_SEQ);
	if (cache->hdr[CACHE_HDR_MAJOR] != CACHE_MAJOR_VERSION ||
	    index_get32(cache->hdr + CACHE_HDR_INDEXID) != index->log.indexid)
		return -EUCLEAN;
	cache->fields_offset = 0;
	cache->field_count = 0;
	cache->save_date = -1;
	offset = index_size_decode(cache->hdr + CACHE_HDR_FIELDS);
	if (offset == 0)
		return 0;
	for (int lists = 0; lists < FIELD_LISTS_MAX; lists++) {
		uint32_t next;

		if (file_pread_all(cache->fd, list, sizeof(list), offset) < 0)
			return -EUCLEAN;
		next = index_size_decode(list);
		if (next == 0)
			break;
		if (next <= offset) /* lists are only ever appended */
			return -EUCLEAN;
		offset = next;
	}
	size = index_get32(list + 4);
	if (index_size_decode(list) != 0 || size < CACHE_FIELDS_HDR || size > FIELDS_BYTES_MAX)
		return -EUCLEAN;
	buf_clear(&cache->fields);
	room = buf_reserve(&cache->fields, size);
	if (room == NULL)
		return -ENOMEM;
	if (file_pread_all(cache->fd, room, size, offset) < 0)
		return -EUCLEAN;
	buf_commit(&cache->fields, size);
	cache->fields_offset = offset;
	return fields_check(cache);
}

int index_cache_open(const struct index *index, bool writable, struct index_cache *cache_r)
{
	struct index_ext ext;
	char file[NAME_MAX + 1];
	struct stat st;
	int ret;

	memset(cache_r, 0, sizeof(*cache_r));
	buf_init(&cache_r->fields, FIELDS_BYTES_MAX);
	index_file_name(index, ".cache", file, sizeof(file));
	cache_r->fd = openat(index->dirfd, file,
			     (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK |
				     O_NOCTTY);
	if (cache_r->fd < 0)
		return errno == ENOENT ? -ENOENT : -errno;
	ret = 0;
	if (fstat(cache_r->fd, &st) < 0 || !S_ISREG(st.st_mode))
		ret = -EUCLEAN;
	if (ret == 0)
		ret = index_cache_read_fields(index, cache_r);
	if (ret == 0 &&
	    (index_ext_find(index, "cache", &ext) < 0 || ext.reset_id != cache_r->file_seq))
		ret = -EUCLEAN;
	if (ret < 0) {
		index_cache_close(cache_r);
		return ret;
	}
	cache_r->dev = st.st_dev;
	cache_r->ino = st.st_ino;
	return 0;
}

void index_cache_close(struct index_cache *cache)
{
	file_close(&cache->fd);
	buf_free(&cache->fields);
}

/* 1: found. 0: not in this record. */
static int record_save_date(const struct index_cache *cache, const uint8_t *data, uint32_t size,
			    int64_t *time_r)
{
	uint32_t pos = 0;

	while (size - pos >= 4) {
		uint32_t field = index_get32(data + pos), field_size;

		pos += 4;
		if (field >= cache->field_count)
			return -EUCLEAN;
		field_size = index_cache_field_size(cache, field);
		if (field_size == CACHE_VARIABLE_SIZE) {
			if (size - pos < 4)
				return -EUCLEAN;
			field_size = index_get32(data + pos);
			pos += 4;
		}
		if (field_size > size - pos)
			return -EUCLEAN;
		if ((int)field == cache->save_date) {
			*time_r = index_get32(data + pos);
			return 1;
		}
		if (index_pad4(field_size) > size - pos)
			return 0;
		pos += (uint32_t)index_pad4(field_size);
	}
	return 0;
}

static int chain_save_date(const struct index_cache *cache, uint32_t offset, int64_t *time_r)
{
	AUTO_BUF struct buf record = BUF_INIT(RECORD_BYTES_MAX);

	for (int hops = 0; offset != 0 && hops < RECORD_CHAIN_MAX; hops++) {
		uint8_t hdr[CACHE_RECORD_HDR];
		uint32_t size;
		void *room;
		int ret;

		if (file_pread_all(cache->fd, hdr, sizeof(hdr), offset) < 0)
			return -EUCLEAN;
		size = index_get32(hdr + 4);
		if (size < CACHE_RECORD_HDR || size > RECORD_BYTES_MAX)
			return -EUCLEAN;
		size -= CACHE_RECORD_HDR;
		buf_clear(&record);
		room = buf_reserve(&record, size);
		if (room == NULL)
			return -ENOMEM;
		if (file_pread_all(cache->fd, room, size, (off_t)offset + CACHE_RECORD_HDR) < 0)
			return -EUCLEAN;
		ret = record_save_date(cache, room, size, time_r);
		if (ret != 0)
			return ret;
		offset = index_get32(hdr);
	}
	return 0;
}

/* The open cache of the index; opened (again) when the index has come to use another file. */
static struct index_cache *current_cache(struct index *index)
{
	struct index_cache *cache = index->cache;
	struct index_ext ext;

	if (index_ext_find(index, "cache", &ext) < 0)
		return NULL;
	if (cache != NULL && cache->fd >= 0 && cache->file_seq == ext.reset_id)
		return cache;
	if (cache == NULL) {
		cache = calloc(1, sizeof(*cache));
		if (cache == NULL)
			return NULL;
		index->cache = cache;
	} else {
		index_cache_close(cache);
	}
	return index_cache_open(index, false, cache) == 0 ? cache : NULL;
}

void index_cache_free(struct index *index)
{
	if (index->cache == NULL)
		return;
	index_cache_close(index->cache);
	free(index->cache);
	index->cache = NULL;
}

int index_cache_get_save_date(struct index *index, const struct index_record *record,
			      int64_t *time_r)
{
	struct index_cache *cache;
	uint8_t value[4];
	uint32_t offset;
	int ret;

	if (index_record_ext(index, record, "cache", value, sizeof(value)) < 0)
		return -ENOENT;
	offset = index_get32(value);
	cache = offset != 0 ? current_cache(index) : NULL;
	if (cache == NULL)
		return -ENOENT;
	ret = cache->save_date >= 0 ? chain_save_date(cache, offset, time_r) : -EUCLEAN;
	if (ret == -EUCLEAN && index_cache_read_fields(index, cache) == 0 && cache->save_date >= 0)
		ret = chain_save_date(cache, offset, time_r); /* a field was added since */
	return ret > 0 ? 0 : -ENOENT;
}
