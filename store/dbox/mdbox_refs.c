/* Who refers to which map UID: the indexes of all mailboxes. See mdbox_storage.h. */
#include "store/dbox/mdbox_storage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/dbox/dbox_names.h"

#define DEPTH_MAX 64

struct walk {
	mdbox_box_fn *each;
	void *ctx;
};

static int walk_directory(const struct walk *walk, int fd, const char *path, unsigned depth,
			  struct error *err);

static int walk_entry(const struct walk *walk, int parent, const char *path,
		      const struct dirent *entry, unsigned depth, struct error *err)
{
	AUTO_FREE char *below = NULL;
	AUTO_CLOSE int fd = -1;

	if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
	    (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN))
		return 0;
	fd = openat(parent, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT || errno == ENOTDIR || errno == ELOOP
			       ? 0
			       : error_errno(err, -errno, "%s/%s", path, entry->d_name);
	if (asprintf(&below, "%s/%s", path, entry->d_name) < 0) {
		below = NULL;
		return error_errno(err, -ENOMEM, "%s", path);
	}
	if (depth == DEPTH_MAX)
		return error_set(err, -ELOOP, "%s: too deep", below);
	return walk_directory(walk, fd, below, depth + 1, err);
}

/* A mailbox's index is in its "dbox-Mails", or with INDEX= in the directory of its name. */
static int walk_directory(const struct walk *walk, int fd, const char *path, unsigned depth,
			  struct error *err)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	AUTO_DIR DIR *dir = copy < 0 ? NULL : fdopendir(copy);
	const struct dirent *entry;

	if (!dir) {
		rc = error_errno(err, -errno, "%s", path);
		file_close(&copy);
		return rc;
	}
	if (faccessat(fd, INDEX_NAME_MAIL ".log", F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		rc = walk->each(walk->ctx, fd, path, err);
	while (rc == 0 && (errno = 0, entry = readdir(dir)) != NULL)
		rc = walk_entry(walk, fd, path, entry, depth, err);
	if (rc == 0 && errno)
		rc = error_errno(err, -errno, "%s: readdir", path);
	return rc;
}

int mdbox_each_box(const struct mdbox_storage *storage, mdbox_box_fn *each, void *ctx,
		   struct error *err)
{
	const struct walk walk = {.each = each, .ctx = ctx};
	const char *slash = strrchr(storage->index_path, '/');
	AUTO_FREE char *path = NULL;
	AUTO_CLOSE int fd = -1;

	if (!slash || asprintf(&path, "%.*s/" DBOX_MAILBOXES_DIR,
			       (int)(slash - storage->index_path), storage->index_path) < 0) {
		path = NULL;
		return error_errno(err, -ENOMEM, "%s", storage->index_path);
	}
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? 0 : error_errno(err, -errno, "%s", path);
	return walk_directory(&walk, fd, path, 0, err);
}

struct counting {
	const uint32_t *map_uids;
	size_t count;
	uint32_t *refs;
};

static int uid_cmp(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int count_box(void *ctx, int dirfd, const char *path, struct error *err)
{
	const struct index_options options = {.label = path, .read_only = true};
	struct counting *counting = ctx;
	struct index_record record;
	struct index_iter iter;
	struct index *index;
	int rc = index_open(dirfd, &options, &index, err);

	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	index_iter_init(index, 1, &iter);
	while (index_iter_next(&iter, &record)) {
		uint8_t data[DBOX_MDBOX_RECORD] = {0};
		const uint32_t *found;
		uint32_t map_uid;

		index_record_ext(index, &record, DBOX_EXT_MDBOX, data, sizeof data);
		map_uid = index_get32(data);
		found = bsearch(&map_uid, counting->map_uids, counting->count, sizeof *found,
				uid_cmp);
		if (found)
			counting->refs[found - counting->map_uids]++;
	}
	if (iter.failed)
		rc = error_errno(err, iter.failed, "%s", path);
	index_close(&index);
	return rc;
}

int mdbox_count_refs(const struct mdbox_storage *storage, const uint32_t *map_uids, size_t count,
		     uint32_t *refs_r, struct error *err)
{
	struct counting counting = {.map_uids = map_uids, .count = count, .refs = refs_r};

	memset(refs_r, 0, count * sizeof *refs_r);
	return count ? mdbox_each_box(storage, count_box, &counting, err) : 0;
}
