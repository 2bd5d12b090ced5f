/* The first of very many files without a UID. See new_files.h. */
#include "store/maildir/new_files.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NAMES_BYTES_MAX ((size_t)1 << 30)

void new_files_init(struct new_files *files, size_t max)
{
	*files = (struct new_files){.max = max, .names = BUF_INIT(NAMES_BYTES_MAX)};
}

void new_files_free(struct new_files *files)
{
	free(files->list);
	free(files->last);
	buf_free(&files->names);
	new_files_init(files, files->max);
}

static const char *base_of(const struct new_files *files, size_t i)
{
	return files->names.data + files->list[i].place;
}

static int file_cmp(const void *a, const void *b, void *names)
{
	const struct new_file *file_a = a, *file_b = b;
	const char *text = names;
	int order = maildir_name_cmp(text + file_a->place, text + file_b->place);

	return order ? order : file_a->place < file_b->place ? -1 : file_a->place > file_b->place;
}

/* Sorts, and drops the second one of a base name: the same file, seen in new/ and then in cur/. */
static void sort(struct new_files *files)
{
	size_t kept = 0;

	if (files->count)
		qsort_r(files->list, files->count, sizeof *files->list, file_cmp,
			files->names.data);
	for (size_t i = 0; i < files->count; i++) {
		if (kept && strcmp(base_of(files, kept - 1), base_of(files, i)) == 0)
			continue;
		files->list[kept++] = files->list[i];
	}
	files->count = kept;
}

/* The first `max` stay, and their names. */
static int cut(struct new_files *files)
{
	struct buf names = BUF_INIT(NAMES_BYTES_MAX);

	sort(files);
	if (files->count > files->max) {
		files->count = files->max;
		files->more = files->full = true;
	}
	for (size_t i = 0; i < files->count; i++) {
		const char *base = base_of(files, i);
		size_t place = names.len;

		if (buf_append(&names, base, strlen(base) + 1) < 0) {
			int rc = names.failed;

			buf_free(&names);
			return rc;
		}
		files->list[i].place = place;
	}
	buf_free(&files->names);
	files->names = names;
	return 0;
}

static int make_room(struct new_files *files)
{
	size_t room = files->room ? files->room * 2 : 64;
	struct new_file *list;

	if (files->count >= 2 * files->max)
		return cut(files);
	if (files->count < files->room)
		return 0;
	if (room > 2 * files->max)
		room = 2 * files->max;
	list = reallocarray(files->list, room, sizeof *list);
	if (!list)
		return -ENOMEM;
	files->list = list;
	files->room = room;
	return 0;
}

static bool is_wanted(const struct new_files *files, const char *base)
{
	if (files->last && maildir_name_cmp(base, files->last) <= 0)
		return false;
	return !files->full || maildir_name_cmp(base, base_of(files, files->max - 1)) <= 0;
}

int new_files_add(struct new_files *files, const struct maildir_name *name, uint32_t drop_uid)
{
	char base[NAME_MAX + 1];
	int rc;

	if (name->base_len > NAME_MAX)
		return -ENAMETOOLONG;
	memcpy(base, name->base, name->base_len);
	base[name->base_len] = '\0';
	if (!is_wanted(files, base))
		return 0;
	rc = make_room(files);
	if (rc < 0)
		return rc;
	size_t place = files->names.len;
	if (buf_append(&files->names, base, name->base_len + 1) < 0)
		return files->names.failed;
	files->list[files->count++] = (struct new_file){.place = place,
							.drop_uid = drop_uid,
							.letters = name->letters,
							.flags = name->flags};
	return 0;
}

int new_files_select(struct new_files *files)
{
	return cut(files);
}

uint32_t new_files_get(const struct new_files *files, size_t i, struct maildir_name *name_r)
{
	const struct new_file *file = &files->list[i];

	*name_r = (struct maildir_name){.base = base_of(files, i),
					.base_len = strlen(base_of(files, i)),
					.flags = file->flags,
					.letters = file->letters};
	return file->drop_uid;
}

int new_files_next(struct new_files *files, bool *more_r)
{
	*more_r = files->more;
	if (files->count) {
		char *last = strdup(base_of(files, files->count - 1));

		if (!last)
			return -ENOMEM;
		free(files->last);
		files->last = last;
	}
	files->count = 0;
	files->full = files->more = false;
	buf_clear(&files->names);
	return 0;
}
