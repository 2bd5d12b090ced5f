/*
 * Reading dovecot-uidlist: the map, and looking things up in it. See uidlist.h.
 *
 * Dovecot appends to the file or replaces it, and never shortens it. So the map stays as it is
 * while the inode does, and is made longer than the file, for the lines to come.
 */
#include "store/maildir/uidlist_private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"

#define MAP_SPARE	 ((size_t)256 * 1024)
#define MAP_RESIDENT_MAX ((size_t)16 * 1024 * 1024)

int uidlist_bad_line(const struct uidlist *list, size_t offset, const char *why, struct error *err)
{
	size_t len = 0;

	while (offset + len < list->end && list->map[offset + len] != '\n' && len < 80)
		len++;
	return error_set(err, -EUCLEAN, "%s/" UIDLIST_NAME ": %s at byte %zu: \"%.*s\"", list->what,
			 why, offset, (int)len, list->map + offset);
}

size_t uidlist_line_start(const struct uidlist *list, size_t offset)
{
	const char *lf;

	if (offset <= list->body)
		return list->body;
	map_window_touch(list->window, offset);
	lf = memrchr(list->map + list->body, '\n', offset - list->body);
	return lf ? (size_t)(lf - list->map) + 1 : list->body;
}

static int parse_at(const struct uidlist *list, size_t offset, struct uidlist_record *record_r,
		    size_t *next_r, struct error *err)
{
	const char *start = list->map + offset;
	const char *lf;

	map_window_touch(list->window, offset);
	lf = memchr(start, '\n', list->end - offset);
	*record_r = (struct uidlist_record){0};
	/* There is one: list->end is behind an LF. But another process may write into the file. */
	if (!lf) {
		*next_r = list->end;
		return uidlist_bad_line(list, offset, "a line without an end", err);
	}
	*next_r = (size_t)(lf - list->map) + 1;
	if (uidlist_parse_line(list->header.version, start, (size_t)(lf - start), record_r) < 0)
		return uidlist_bad_line(list, offset, "a line that cannot be read", err);
	return 0;
}

static int map_file(struct uidlist *list, size_t size, struct error *err)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size_t map_size = (size + MAP_SPARE + page - 1) / page * page;
	void *map = mmap(NULL, map_size, PROT_READ, MAP_SHARED, list->fd, 0);

	if (map == MAP_FAILED)
		return error_errno(err, -errno, "%s/" UIDLIST_NAME ": mmap", list->what);
	if (list->map)
		munmap((void *)list->map, list->map_size);
	list->map = map;
	list->map_size = map_size;
	map_window_free(&list->window);
	list->window = map_window_create(map, map_size, MAP_RESIDENT_MAX);
	return 0;
}

static void unmap_file(struct uidlist *list)
{
	if (list->map)
		munmap((void *)list->map, list->map_size);
	map_window_free(&list->window);
	uidlist_names_free(list);
	list->map = NULL;
	list->map_size = list->size = list->body = list->end = 0;
	file_close(&list->fd);
}

static int read_header(struct uidlist *list, struct error *err)
{
	size_t look = list->size < UIDLIST_FIELDS_MAX ? list->size : UIDLIST_FIELDS_MAX;
	const char *lf = memchr(list->map, '\n', look);

	if (!lf || uidlist_parse_header(list->map, (size_t)(lf - list->map), &list->header,
					list->header_tail, sizeof list->header_tail) < 0)
		return error_set(err, -EUCLEAN, "%s/" UIDLIST_NAME ": a header that cannot be read",
				 list->what);
	list->body = list->end = (size_t)(lf - list->map) + 1;
	return 0;
}

/* Takes the bytes up to size into account: the last complete line gives the next UID. */
static int see_size(struct uidlist *list, size_t size, struct error *err)
{
	const char *lf;
	struct uidlist_record last;
	size_t next;
	int rc;

	if (size > UIDLIST_SIZE_MAX)
		return error_set(err, -EFBIG, "%s/" UIDLIST_NAME ": %zu bytes are too many",
				 list->what, size);
	if (size > list->map_size || !list->map) {
		rc = map_file(list, size, err);
		if (rc < 0)
			return rc;
	}
	assert(list->map);
	list->size = size;
	if (!list->body) {
		rc = read_header(list, err);
		if (rc < 0)
			return rc;
	}
	lf = memrchr(list->map + list->end, '\n', size - list->end);
	if (!lf)
		return 0;
	list->end = (size_t)(lf - list->map) + 1;
	rc = parse_at(list, uidlist_line_start(list, list->end - 1), &last, &next, err);
	if (rc < 0)
		return rc;
	if (last.uid >= list->header.next_uid)
		list->header.next_uid = last.uid + 1;
	return 0;
}

static int open_file(struct uidlist *list, struct error *err)
{
	struct stat st;
	int rc;

	unmap_file(list);
	list->generation++;
	list->fd =
		openat(list->dirfd, UIDLIST_NAME, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (list->fd < 0)
		return error_errno(err, -errno, "%s/" UIDLIST_NAME, list->what);
	if (fstat(list->fd, &st) < 0)
		return error_errno(err, -errno, "%s/" UIDLIST_NAME, list->what);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EUCLEAN, "%s/" UIDLIST_NAME ": not a regular file",
				 list->what);
	list->dev = st.st_dev;
	list->ino = st.st_ino;
	rc = see_size(list, (size_t)st.st_size, err);
	if (rc < 0)
		unmap_file(list);
	return rc;
}

int uidlist_open(int dirfd, const char *what, struct uidlist **list_r, struct error *err)
{
	struct uidlist *list = calloc(1, sizeof *list);
	int rc;

	*list_r = NULL;
	if (!list)
		return error_errno(err, -ENOMEM, "%s/" UIDLIST_NAME, what);
	list->dirfd = dirfd;
	list->fd = -1;
	list->what = strdup(what);
	rc = list->what ? open_file(list, err)
			: error_errno(err, -ENOMEM, "%s/" UIDLIST_NAME, what);
	if (rc < 0) {
		uidlist_close(&list);
		return rc;
	}
	*list_r = list;
	return 0;
}

void uidlist_close(struct uidlist **list)
{
	if (!*list)
		return;
	uidlist_close(&(*list)->before);
	unmap_file(*list);
	free((*list)->what);
	free(*list);
	*list = NULL;
}

/* Overwritten in place, which nobody does to a list that is whole. */
static bool has_another_header(const struct uidlist *list)
{
	struct uidlist_header now;

	return list->body && (list->map[list->body - 1] != '\n' ||
			      uidlist_parse_header(list->map, list->body - 1, &now, NULL, 0) < 0 ||
			      now.version != list->header.version ||
			      now.uid_validity != list->header.uid_validity ||
			      !guid_equal(&now.guid, &list->header.guid));
}

void uidlist_keep_before(struct uidlist *list)
{
	uidlist_close(&list->before);
	list->keeps_before = true;
}

struct uidlist *uidlist_before(const struct uidlist *list)
{
	return list->before;
}

/* Without memory for it there is none. */
static void set_aside(struct uidlist *list)
{
	struct uidlist *before = malloc(sizeof *before);
	char *what = strdup(list->what);

	if (!before || !what) {
		free(before);
		free(what);
		return;
	}
	*before = *list;
	before->what = what;
	before->keeps_before = false;
	list->before = before;
	list->fd = -1;
	list->map = NULL;
	list->window = NULL;
	list->names = NULL;
}

int uidlist_refresh(struct uidlist *list, bool *replaced_r, struct error *err)
{
	struct stat st;

	*replaced_r = false;
	if (fstatat(list->dirfd, UIDLIST_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return error_errno(err, -errno, "%s/" UIDLIST_NAME, list->what);
	if (list->fd >= 0 && st.st_ino == list->ino && st.st_dev == list->dev &&
	    (size_t)st.st_size >= list->size && !has_another_header(list)) {
		if ((size_t)st.st_size == list->size)
			return 0;
		return see_size(list, (size_t)st.st_size, err);
	}
	*replaced_r = true;
	/* What was overwritten in place is not what it was. */
	if (list->keeps_before && !list->before && list->fd >= 0 && list->end &&
	    (st.st_ino != list->ino || st.st_dev != list->dev))
		set_aside(list);
	return open_file(list, err);
}

const struct uidlist_header *uidlist_header(const struct uidlist *list)
{
	return &list->header;
}

size_t uidlist_size(const struct uidlist *list)
{
	return list->end;
}

uint64_t uidlist_generation(const struct uidlist *list)
{
	return list->generation;
}

/* Offset of the first line with a UID >= uid, by halving the bytes. */
static int lower_bound(const struct uidlist *list, uint32_t uid, size_t *offset_r,
		       struct error *err)
{
	size_t low = list->body, high = list->end;

	while (low < high) {
		size_t line = uidlist_line_start(list, low + (high - low) / 2), next;
		struct uidlist_record record;
		int rc = parse_at(list, line, &record, &next, err);

		if (rc < 0)
			return rc;
		if (record.uid < uid)
			low = next;
		else
			high = line;
	}
	*offset_r = low;
	return 0;
}

int uidlist_find(const struct uidlist *list, uint32_t uid, struct uidlist_record *record_r,
		 struct error *err)
{
	size_t offset, next;
	int rc = lower_bound(list, uid, &offset, err);

	if (rc < 0)
		return rc;
	if (offset < list->end) {
		rc = parse_at(list, offset, record_r, &next, err);
		if (rc < 0)
			return rc;
		if (record_r->uid == uid)
			return 0;
	}
	return error_set(err, -ENOENT, "%s/" UIDLIST_NAME ": no UID %u", list->what, uid);
}

int uidlist_seek(const struct uidlist *list, uint32_t first_uid, struct uidlist_iter *iter_r,
		 struct error *err)
{
	*iter_r = (struct uidlist_iter){.list = list};
	if (first_uid <= 1) {
		iter_r->offset = list->body;
		return 0;
	}
	return lower_bound(list, first_uid, &iter_r->offset, err);
}

int uidlist_next(struct uidlist_iter *iter, struct uidlist_record *record_r, struct error *err)
{
	size_t offset = iter->offset;
	int rc;

	if (offset >= iter->list->end)
		return 0;
	rc = parse_at(iter->list, offset, record_r, &iter->offset, err);
	if (rc < 0)
		return rc;
	if (record_r->uid <= iter->last_uid)
		return uidlist_bad_line(iter->list, offset, "a UID that does not ascend", err);
	iter->last_uid = record_r->uid;
	return 1;
}

int uidlist_at(const struct uidlist *list, size_t offset, struct uidlist_record *record_r,
	       struct error *err)
{
	size_t next;

	if (offset >= list->end)
		return uidlist_bad_line(list, list->end, "no line", err);
	return parse_at(list, offset, record_r, &next, err);
}

int uidlist_check(const struct uidlist *list, struct error *err)
{
	struct uidlist_iter iter = {.list = list, .offset = list->body};
	struct uidlist_record record;
	int rc;

	do {
		rc = uidlist_next(&iter, &record, err);
	} while (rc > 0);
	return rc;
}

int uidlist_read_header(int dirfd, const char *what, struct uidlist_header *header_r,
			struct error *err)
{
	struct uidlist *list;
	int rc = uidlist_open(dirfd, what, &list, err);

	if (rc < 0)
		return rc;
	*header_r = list->header;
	uidlist_close(&list);
	return 0;
}
