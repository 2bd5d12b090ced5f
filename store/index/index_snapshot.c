/*
 * The snapshot file: everything that its header claims is checked against its size here.
 */
#include "store/index/index_snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "store/base/file.h"
#include "store/index/index.h"
#include "store/index/index_format.h"

#define MAP_FROM_BYTES	65536
#define CHECK_ORDER_MAX 4096
#define SNAPSHOT_MAX	(8ULL << 30)
#define RESIDENT_MAX	((size_t)8 << 20)

static int snapshot_load(int fd, struct index_snapshot *snapshot, struct error *err)
{
	struct stat st;
	int ret;

	if (fstat(fd, &st) < 0)
		return error_errno(err, -errno, "%s: fstat", snapshot->name);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EUCLEAN, "%s: not a regular file", snapshot->name);
	if (st.st_size < INDEX_HDR_SIZE || (uint64_t)st.st_size > SNAPSHOT_MAX)
		return error_set(err, -EUCLEAN, "%s: damaged: its size is %lld", snapshot->name,
				 (long long)st.st_size);
	snapshot->size = (size_t)st.st_size;
	if (snapshot->size >= MAP_FROM_BYTES) {
		void *map = mmap(NULL, snapshot->size, PROT_READ, MAP_PRIVATE, fd, 0);

		if (map == MAP_FAILED)
			return error_errno(err, -errno, "%s: mmap", snapshot->name);
		snapshot->data = map;
		snapshot->mapped = true;
		snapshot->window = map_window_create(map, snapshot->size, RESIDENT_MAX);
		return 0;
	}
	snapshot->data = malloc(snapshot->size);
	if (snapshot->data == NULL)
		return error_errno(err, -ENOMEM, "%s", snapshot->name);
	ret = file_pread_all(fd, snapshot->data, snapshot->size, 0);
	if (ret < 0)
		return error_errno(err, ret, "%s: read", snapshot->name);
	return 0;
}

static int snapshot_damaged(const struct index_snapshot *snapshot, size_t offset, struct error *err,
			    const char *what, uint64_t value)
{
	return error_set(err, -EUCLEAN, "%s: damaged at offset %zu: %s %" PRIu64, snapshot->name,
			 offset, what, value);
}

static int snapshot_check_order(const struct index_snapshot *snapshot, struct error *err)
{
	uint32_t previous = 0;

	for (uint32_t pos = 0; pos < snapshot->count; pos++) {
		uint32_t uid = index_get32(index_snapshot_record(snapshot, pos));

		if (uid <= previous)
			return snapshot_damaged(snapshot,
						snapshot->header_size +
							(size_t)pos * snapshot->record_size,
						err, "a record out of order, with uid", uid);
		previous = uid;
	}
	return 0;
}

static int snapshot_check(struct index_snapshot *snapshot, struct error *err)
{
	const uint8_t *hdr = snapshot->data;
	uint32_t next_uid = index_get32(hdr + HDR_NEXT_UID);
	uint64_t needed;

	if (hdr[HDR_MAJOR] != INDEX_MAJOR_VERSION)
		return snapshot_damaged(snapshot, HDR_MAJOR, err, "major version", hdr[HDR_MAJOR]);
	snapshot->base_size = index_get16(hdr + HDR_BASE_SIZE);
	snapshot->header_size = index_get32(hdr + HDR_SIZE);
	snapshot->record_size = index_get32(hdr + HDR_RECORD_SIZE);
	snapshot->count = index_get32(hdr + HDR_MESSAGES);
	if (snapshot->base_size < INDEX_HDR_SIZE)
		return snapshot_damaged(snapshot, HDR_BASE_SIZE, err, "base header size",
					snapshot->base_size);
	if (snapshot->header_size < snapshot->base_size || snapshot->header_size > snapshot->size)
		return snapshot_damaged(snapshot, HDR_SIZE, err, "header size",
					snapshot->header_size);
	if (snapshot->record_size < INDEX_RECORD_MIN_SIZE ||
	    snapshot->record_size > INDEX_SNAPSHOT_RECORD_MAX)
		return snapshot_damaged(snapshot, HDR_RECORD_SIZE, err, "record size",
					snapshot->record_size);
	if ((hdr[HDR_COMPAT] & INDEX_COMPAT_LITTLE_ENDIAN) == 0)
		return snapshot_damaged(snapshot, HDR_COMPAT, err,
					"written by a big-endian machine: compat flags",
					hdr[HDR_COMPAT]);
	if (index_get32(hdr + HDR_INDEXID) == 0)
		return snapshot_damaged(snapshot, HDR_INDEXID, err, "indexid", 0);
	if ((index_get32(hdr + HDR_FLAGS) & INDEX_HDR_FLAG_CORRUPTED) != 0)
		return snapshot_damaged(snapshot, HDR_FLAGS, err, "marked as corrupted: flags",
					index_get32(hdr + HDR_FLAGS));
	needed = (uint64_t)snapshot->count * snapshot->record_size;
	if (needed > snapshot->size - snapshot->header_size)
		return snapshot_damaged(snapshot, HDR_MESSAGES, err,
					"the file is too short for a message count of",
					snapshot->count);
	if (next_uid == 0 || next_uid <= index_snapshot_last_uid(snapshot))
		return snapshot_damaged(snapshot, HDR_NEXT_UID, err,
					"not above the last message: next uid", next_uid);
	return snapshot->count <= CHECK_ORDER_MAX ? snapshot_check_order(snapshot, err) : 0;
}

int index_snapshot_open(int dirfd, const char *label, const char *file,
			struct index_snapshot *snapshot_r, struct error *err)
{
	struct index_snapshot snapshot = {0};
	AUTO_CLOSE int fd = -1;
	int ret;

	memset(snapshot_r, 0, sizeof(*snapshot_r));
	snprintf(snapshot.name, sizeof(snapshot.name), "%s%s%s", label, *label != '\0' ? "/" : "",
		 file);
	fd = openat(dirfd, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 && errno == ENOENT)
		return -ENOENT;
	if (fd < 0)
		return error_errno(err, -errno, "%s: open", snapshot.name);
	ret = snapshot_load(fd, &snapshot, err);
	if (ret == 0)
		ret = snapshot_check(&snapshot, err);
	if (ret < 0) {
		index_snapshot_close(&snapshot);
		return ret;
	}
	*snapshot_r = snapshot;
	return 0;
}

void index_snapshot_close(struct index_snapshot *snapshot)
{
	if (snapshot->mapped)
		munmap(snapshot->data, snapshot->size);
	else
		free(snapshot->data);
	map_window_free(&snapshot->window);
	memset(snapshot, 0, sizeof(*snapshot));
}

uint32_t index_snapshot_lower_bound(const struct index_snapshot *snapshot, uint32_t uid)
{
	uint32_t low = 0, high = snapshot->count;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (index_get32(index_snapshot_record(snapshot, middle)) < uid)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

const uint8_t *index_snapshot_find(const struct index_snapshot *snapshot, uint32_t uid)
{
	uint32_t pos = index_snapshot_lower_bound(snapshot, uid);
	const uint8_t *record;

	if (pos == snapshot->count)
		return NULL;
	record = index_snapshot_record(snapshot, pos);
	return index_get32(record) == uid ? record : NULL;
}

uint32_t index_snapshot_last_uid(const struct index_snapshot *snapshot)
{
	if (snapshot->count == 0)
		return 0;
	return index_get32(index_snapshot_record(snapshot, snapshot->count - 1));
}

int index_snapshot_next_ext(const struct index_snapshot *snapshot, size_t *pos,
			    struct index_snapshot_ext *ext_r, struct error *err)
{
	size_t offset = *pos == 0 ? index_pad8(snapshot->base_size) : *pos;
	const uint8_t *entry = snapshot->data + offset;
	size_t hdr_offset;

	if (offset >= snapshot->header_size)
		return 0;
	if (snapshot->header_size - offset < INDEX_EXT_ENTRY_SIZE)
		return snapshot_damaged(snapshot, offset, err,
					"an extension is cut off at header size",
					snapshot->header_size);
	ext_r->hdr_size = index_get32(entry);
	ext_r->reset_id = index_get32(entry + 4);
	ext_r->record_offset = index_get16(entry + 8);
	ext_r->record_size = index_get16(entry + 10);
	ext_r->record_align = index_get16(entry + 12);
	ext_r->name_size = index_get16(entry + 14);
	ext_r->name = entry + INDEX_EXT_ENTRY_SIZE;
	hdr_offset = offset + index_pad8(INDEX_EXT_ENTRY_SIZE + (size_t)ext_r->name_size);
	if (ext_r->name_size == 0 || ext_r->name_size > INDEX_EXT_NAME_MAX ||
	    hdr_offset > snapshot->header_size)
		return snapshot_damaged(snapshot, offset, err, "an extension's name size",
					ext_r->name_size);
	if (memchr(ext_r->name, '\0', ext_r->name_size) != NULL)
		return snapshot_damaged(snapshot, offset, err,
					"a NUL in an extension's name of size", ext_r->name_size);
	if (ext_r->hdr_size > INDEX_EXT_HDR_MAX ||
	    ext_r->hdr_size > snapshot->header_size - hdr_offset)
		return snapshot_damaged(snapshot, offset, err, "an extension's header size",
					ext_r->hdr_size);
	if (ext_r->record_size != 0 &&
	    (ext_r->record_size > INDEX_EXT_RECORD_MAX ||
	     ext_r->record_offset < INDEX_RECORD_MIN_SIZE ||
	     (uint32_t)ext_r->record_offset + ext_r->record_size > snapshot->record_size))
		return snapshot_damaged(snapshot, offset, err,
					"beyond the record: an extension's record size",
					ext_r->record_size);
	ext_r->hdr = snapshot->data + hdr_offset;
	*pos = hdr_offset + index_pad8(ext_r->hdr_size);
	return 1;
}
