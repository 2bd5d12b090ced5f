/*
 * Messages in the files that the map does not know of. See mdbox_storage.h.
 *
 * The map's messages of a file lie one behind the other, from its header on: what a gap or the end
 * has is unknown to it.
 */
#include "store/dbox/mdbox_storage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/dbox/dbox_intent.h"

#define LOOK_AGAIN_SECS 60

struct places {
	struct mdbox_entry *list; /* by file and offset */
	size_t count;
};

static int place_cmp(const void *a, const void *b)
{
	const struct mdbox_entry *x = a, *y = b;

	if (x->file_id != y->file_id)
		return x->file_id < y->file_id ? -1 : 1;
	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int list_places(const struct mdbox_storage *storage, struct places *places_r)
{
	struct index_status status;
	struct index_record record;
	struct index_iter iter;

	index_status(storage->map, &status);
	*places_r = (struct places){.list = calloc(status.messages + 1U, sizeof *places_r->list)};
	if (!places_r->list)
		return -ENOMEM;
	index_iter_init(storage->map, 1, &iter);
	while (places_r->count < status.messages && index_iter_next(&iter, &record))
		mdbox_map_entry(storage, &record, &places_r->list[places_r->count++]);
	qsort(places_r->list, places_r->count, sizeof *places_r->list, place_cmp);
	return 0;
}

/* The first of a file's. */
static size_t find_file(const struct places *places, uint32_t file_id)
{
	size_t low = 0, high = places->count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (places->list[middle].file_id < file_id)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool has_unknown(int dirfd, uint32_t file_id, const struct places *places)
{
	struct dbox_file_header header;
	struct dbox_message message;
	struct error ignored;
	char name[16];
	uint64_t end;
	bool found;

	mdbox_file_name(file_id, name);
	AUTO_CLOSE int fd = dbox_file_open(dirfd, name, O_RDONLY);

	if (fd < 0 || dbox_file_header_read(fd, name, &header, &ignored) < 0)
		return false;
	end = header.size;
	for (size_t i = find_file(places, file_id);
	     i < places->count && places->list[i].file_id == file_id; i++) {
		if (places->list[i].offset != end)
			return true;
		end += places->list[i].size;
	}
	/* Somebody is adding to it. */
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return false;
	found = dbox_message_read(fd, name, end, 0, &message, &ignored) == 0;
	if (found)
		dbox_message_free(&message);
	return found;
}

static int look(int dirfd, const struct places *places)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;
	int rc = -errno;

	if (!dir) {
		file_close(&fd);
		return rc;
	}
	while ((errno = 0, entry = readdir(dir)) != NULL) {
		uint32_t id = mdbox_file_id(entry->d_name);

		if (id && has_unknown(fd, id, places))
			return 1;
	}
	return -errno;
}

static int look_everywhere(const struct mdbox_storage *storage)
{
	struct places places;
	int rc = list_places(storage, &places);

	if (rc == 0)
		rc = look(storage->dirfd, &places);
	if (rc == 0 && storage->alt_fd >= 0)
		rc = look(storage->alt_fd, &places);
	free(places.list);
	return rc;
}

bool mdbox_has_unmapped(struct mdbox_storage *storage)
{
	struct error ignored;

	if (storage->unmapped_s && dbox_now_s() - storage->unmapped_s < LOOK_AGAIN_SECS)
		return storage->has_unmapped;
	storage->has_unmapped = look_everywhere(storage) > 0;
	/* Or it was added between the look at the map and the one at the file. */
	if (storage->has_unmapped && index_refresh(storage->map, &ignored) == 0)
		storage->has_unmapped = look_everywhere(storage) > 0;
	storage->unmapped_s = dbox_now_s();
	return storage->has_unmapped;
}
