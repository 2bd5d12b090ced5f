/* Storage directory, map and the files, read. See mdbox_storage.h. */
#include "store/dbox/mdbox_storage.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"
#include "store/index/index_files.h"

#define ROTATE_SIZE_DEFAULT (10U << 20)
#define OPEN_TRIES	    5
#define OPEN_WAIT_US	    20000
#define MOVES_MAX	    20

enum { MAP_FILE_ID = 0, MAP_OFFSET = 4, MAP_SIZE = 8, MAP_RECORD = 12, MAP_HDR = 8 };

static const struct index_ext_def map_def = {
	.name = "map", .hdr_size = MAP_HDR, .record_size = MAP_RECORD, .record_align = 4};
static const struct index_ext_def ref_def = {.name = "ref", .record_size = 2, .record_align = 2};

void mdbox_map_options(const struct mdbox_storage *storage, struct index_options *options_r)
{
	*options_r = (struct index_options){
		.name = INDEX_NAME_MAP,
		.label = storage->index_path,
		.lock_method = INDEX_LOCK_FCNTL,
		.backup = true,
		.keep_tail = true,
	};
}

/* ---- open and close ---- */

/* A new map. Dovecot takes the time for its UIDVALIDITY, too. */
static int make_map(struct mdbox_storage *storage, struct error *err)
{
	const struct index_create create = {
		.uid_validity = (uint32_t)time(NULL), .next_uid = 1, .synced = true};
	struct index_options options;
	int rc;

	mdbox_map_options(storage, &options);
	rc = index_create(storage->index_fd, &options, &create, err);
	return rc == -EEXIST ? 0 : rc;
}

/* A map is made before the first file is: who lost it has to look into the files. */
static bool has_files(const struct mdbox_storage *storage)
{
	const int dirs[] = {storage->dirfd, storage->alt_fd};
	bool found = false;

	for (size_t i = 0; !found && i < 2; i++) {
		int fd =
			dirs[i] < 0 ? -1 : openat(dirs[i], ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
		const struct dirent *entry;

		if (!dir)
			file_close(&fd);
		while (dir && !found && (entry = readdir(dir)) != NULL)
			found = mdbox_file_id(entry->d_name) != 0;
	}
	return found;
}

static int open_map(struct mdbox_storage *storage, bool make, struct error *err)
{
	struct index_options options;
	int rc = -ENOENT;

	mdbox_map_options(storage, &options);
	for (int i = 0; i < OPEN_TRIES; i++) {
		index_close(&storage->map);
		rc = index_open(storage->index_fd, &options, &storage->map, err);
		if (rc == -ENOENT && has_files(storage)) {
			rc = error_set(err, -EUCLEAN, "%s/%s: the map is missing",
				       storage->index_path, INDEX_NAME_MAP);
			usleep(OPEN_WAIT_US);
			continue;
		}
		if (rc == -ENOENT && make) {
			rc = make_map(storage, err);
			if (rc < 0)
				return rc;
			continue;
		}
		/* Between Dovecot's making the file and writing the first record into it. */
		if (rc == 0 && mdbox_storage_uid_validity(storage) == 0) {
			rc = error_set(err, -EUCLEAN, "%s/%s: the map has no UIDVALIDITY",
				       storage->index_path, INDEX_NAME_MAP);
			usleep(OPEN_WAIT_US);
			continue;
		}
		if (rc != -EUCLEAN)
			break;
		usleep(OPEN_WAIT_US);
	}
	return rc;
}

/* A map that Dovecot made and left before anything was put into it. */
static int name_map(struct mdbox_storage *storage, struct error *err)
{
	struct index_txn *txn;
	int rc = index_begin(storage->map, -1, &txn, err);

	if (rc < 0)
		return rc;
	if (mdbox_storage_uid_validity(storage) == 0)
		index_set_uid_validity(txn, (uint32_t)time(NULL), err);
	return index_commit(&txn, true, err);
}

static int open_dirs(struct mdbox_storage *storage, bool make, struct error *err)
{
	storage->dirfd = owned_dir_open(storage->path, make);
	if (storage->dirfd < 0)
		return error_errno(err, storage->dirfd, "%s", storage->path);
	if (strcmp(storage->path, storage->index_path) == 0)
		storage->index_fd = storage->dirfd;
	else
		storage->index_fd = owned_dir_open(storage->index_path, make);
	if (storage->index_fd < 0)
		return error_errno(err, storage->index_fd, "%s", storage->index_path);
	if (storage->alt_path) {
		storage->alt_fd = owned_dir_open(storage->alt_path, false);
		if (storage->alt_fd < 0 && storage->alt_fd != -ENOENT)
			return error_errno(err, storage->alt_fd, "%s", storage->alt_path);
	}
	return 0;
}

static int storage_new(const struct mdbox_paths *paths, bool make, struct mdbox_storage **storage_r,
		       struct error *err)
{
	struct mdbox_storage *storage = calloc(1, sizeof *storage);
	int rc = 0;

	*storage_r = NULL;
	if (!storage)
		return error_errno(err, -ENOMEM, "%s", paths->path);
	storage->dirfd = storage->index_fd = storage->alt_fd = storage->file_fd = -1;
	storage->rotate_size = paths->rotate_size ? paths->rotate_size : ROTATE_SIZE_DEFAULT;
	storage->rotate_interval = paths->rotate_interval;
	storage->preallocate = paths->preallocate;
	storage->path = strdup(paths->path);
	storage->index_path = strdup(paths->index_path);
	storage->alt_path = paths->alt_path ? strdup(paths->alt_path) : NULL;
	storage->attachments = paths->attachments ? strdup(paths->attachments) : NULL;
	if (!storage->path || !storage->index_path || (paths->alt_path && !storage->alt_path) ||
	    (paths->attachments && !storage->attachments))
		rc = error_errno(err, -ENOMEM, "%s", paths->path);
	if (rc == 0)
		rc = open_dirs(storage, make, err);
	if (rc < 0)
		mdbox_storage_close(&storage);
	*storage_r = storage;
	return rc;
}

int mdbox_storage_open(const struct mdbox_paths *paths, bool make, struct mdbox_storage **storage_r,
		       struct error *err)
{
	struct mdbox_storage *storage;
	int rc = storage_new(paths, make, &storage, err);

	*storage_r = NULL;
	if (rc < 0)
		return rc;
	if (mdbox_rebuild_is_unfinished(storage))
		rc = error_set(err, -EUCLEAN, "%s: being rebuilt was begun and not finished",
			       storage->path);
	else
		rc = open_map(storage, make, err);
	if (rc == -EUCLEAN && make && storage->map && mdbox_storage_uid_validity(storage) == 0)
		rc = name_map(storage, err);
	if (rc < 0)
		mdbox_storage_close(&storage);
	*storage_r = storage;
	return rc;
}

int mdbox_storage_open_damaged(const struct mdbox_paths *paths, struct mdbox_storage **storage_r,
			       struct error *err)
{
	int rc = storage_new(paths, true, storage_r, err);

	if (rc < 0)
		return rc;
	rc = open_map(*storage_r, false, err);
	if (rc == -EUCLEAN || rc == -ENOENT)
		index_close(&(*storage_r)->map);
	else if (rc < 0)
		mdbox_storage_close(storage_r);
	return rc == -EUCLEAN || rc == -ENOENT ? 0 : rc;
}

/* By the beginning of its name a mount knows the file as a log, whose appends it has to see. */
#define NEW_MAP INDEX_NAME_MAP ".log.new"

/* One at a time makes it (see mdbox_rebuild_mark()): what is there was left by one that was killed.
 */
int mdbox_map_begin_new(struct mdbox_storage *storage, uint32_t uid_validity, struct error *err)
{
	const struct index_create create = {
		.uid_validity = uid_validity, .next_uid = 1, .replace = true, .synced = true};
	struct index_options options;
	int rc;

	mdbox_map_options(storage, &options);
	options.name = NEW_MAP;
	index_close(&storage->map);
	index_discard(storage->index_fd, NEW_MAP);
	rc = index_create(storage->index_fd, &options, &create, err);
	if (rc == 0)
		rc = index_open(storage->index_fd, &options, &storage->map, err);
	storage->map_is_new = rc == 0;
	if (rc < 0)
		index_discard(storage->index_fd, NEW_MAP);
	return rc;
}

int mdbox_map_place(struct mdbox_storage *storage, bool locked, struct error *err)
{
	struct index_options options;
	int rc;

	mdbox_map_options(storage, &options);
	options.locked = locked;
	index_close(&storage->map);
	rc = index_adopt(storage->index_fd, &options, NEW_MAP, err);
	if (rc < 0)
		return rc;
	storage->map_is_new = false;
	return index_open(storage->index_fd, &options, &storage->map, err);
}

void mdbox_map_discard_new(struct mdbox_storage *storage)
{
	if (storage->map_is_new) {
		index_close(&storage->map);
		index_discard(storage->index_fd, NEW_MAP);
	}
	storage->map_is_new = false;
}

void mdbox_storage_close(struct mdbox_storage **storage_ptr)
{
	struct mdbox_storage *storage = *storage_ptr;

	*storage_ptr = NULL;
	if (!storage)
		return;
	index_close(&storage->map);
	if (storage->index_fd >= 0 && storage->index_fd != storage->dirfd)
		close(storage->index_fd);
	if (storage->dirfd >= 0)
		close(storage->dirfd);
	if (storage->alt_fd >= 0)
		close(storage->alt_fd);
	file_close(&storage->file_fd);
	free(storage->path);
	free(storage->index_path);
	free(storage->alt_path);
	free(storage->attachments);
	free(storage);
}

uint32_t mdbox_storage_uid_validity(const struct mdbox_storage *storage)
{
	struct index_status status;

	index_status(storage->map, &status);
	return status.uid_validity;
}

/* ---- the map, read ---- */

bool mdbox_map_is_sound(const struct mdbox_storage *storage)
{
	return index_ext_is_sound(storage->map, map_def.name, MAP_HDR, MAP_RECORD) &&
	       index_ext_is_sound(storage->map, ref_def.name, 0, ref_def.record_size);
}

void mdbox_map_entry(const struct mdbox_storage *storage, const struct index_record *record,
		     struct mdbox_entry *entry_r)
{
	mdbox_map_entry_of(storage->map, record, entry_r);
}

void mdbox_map_entry_of(const struct index *index, const struct index_record *record,
			struct mdbox_entry *entry_r)
{
	uint8_t map[MAP_RECORD] = {0}, ref[2] = {0};

	index_record_ext(index, record, map_def.name, map, sizeof map);
	index_record_ext(index, record, ref_def.name, ref, sizeof ref);
	*entry_r = (struct mdbox_entry){
		.map_uid = record->uid,
		.file_id = index_get32(map + MAP_FILE_ID),
		.offset = index_get32(map + MAP_OFFSET),
		.size = index_get32(map + MAP_SIZE),
		.ref = index_get16(ref),
	};
}

int mdbox_map_find(const struct mdbox_storage *storage, uint32_t map_uid,
		   struct mdbox_entry *entry_r)
{
	struct index_record record;
	int rc = index_find(storage->map, map_uid, &record);

	if (rc == 0)
		mdbox_map_entry(storage, &record, entry_r);
	return rc;
}

static uint32_t map_header(const struct mdbox_storage *storage, unsigned offset)
{
	struct index_ext ext;

	if (index_ext_find(storage->map, map_def.name, &ext) < 0 || ext.hdr_size < MAP_HDR)
		return 0;
	return index_get32((const uint8_t *)ext.hdr + offset);
}

uint32_t mdbox_map_highest_file(const struct mdbox_storage *storage)
{
	return map_header(storage, 0);
}

uint32_t mdbox_map_rebuild_count(const struct mdbox_storage *storage)
{
	return map_header(storage, 4);
}

/* ---- files ---- */

void mdbox_file_name(uint32_t file_id, char name_r[16])
{
	snprintf(name_r, 16, "m.%" PRIu32, file_id);
}

uint32_t mdbox_file_id(const char *name)
{
	unsigned long id;
	char *end;

	if (strncmp(name, "m.", 2) != 0 || name[2] < '1' || name[2] > '9')
		return 0;
	id = strtoul(name + 2, &end, 10);
	return *end == '\0' && id < UINT32_MAX ? (uint32_t)id : 0;
}

int mdbox_file_open(struct mdbox_storage *storage, uint32_t file_id, int flags, char *name_r,
		    size_t name_size)
{
	char file[16];
	int fd;

	mdbox_file_name(file_id, file);
	snprintf(name_r, name_size, "%s/%s", storage->path, file);
	fd = dbox_file_open(storage->dirfd, file, flags);
	if (fd != -ENOENT || !storage->alt_path)
		return fd;
	/* It may have been made, or mounted, since. */
	if (storage->alt_fd < 0)
		storage->alt_fd = owned_dir_open(storage->alt_path, false);
	if (storage->alt_fd >= 0) {
		fd = dbox_file_open(storage->alt_fd, file, flags);
		if (fd != -ENOENT)
			snprintf(name_r, name_size, "%s/%s", storage->alt_path, file);
	}
	return fd;
}

int mdbox_file_remove(const struct mdbox_storage *storage, uint32_t file_id)
{
	const int dirs[] = {storage->dirfd, storage->alt_fd};
	char name[16];
	int rc = -ENOENT;

	mdbox_file_name(file_id, name);
	for (size_t i = 0; rc == -ENOENT && i < 2 && dirs[i] >= 0; i++) {
		rc = unlinkat(dirs[i], name, 0) < 0 ? -errno : 0;
		if (rc == 0)
			rc = file_sync_dir(dirs[i], ".");
	}
	return rc;
}

static int use_file(struct mdbox_storage *storage, uint32_t file_id, struct error *err)
{
	if (storage->file_id == file_id && storage->file_fd >= 0)
		return 0;
	file_close(&storage->file_fd);
	storage->file_fd = mdbox_file_open(storage, file_id, O_RDONLY, storage->file_name,
					   sizeof storage->file_name);
	storage->file_id = file_id;
	if (storage->file_fd == -ENOENT && storage->alt_path && storage->alt_fd < 0)
		return error_set(
			err, -ENODEV,
			"%s is missing, and so is the alternative storage (not mounted?): %s",
			storage->file_name, storage->alt_path);
	if (storage->file_fd < 0)
		return error_errno(err, storage->file_fd, "%s", storage->file_name);
	return 0;
}

static int read_entry(struct mdbox_storage *storage, uint32_t map_uid,
		      struct dbox_message *message_r, struct error *err)
{
	struct mdbox_entry entry = {0};
	int rc = mdbox_map_find(storage, map_uid, &entry);

	if (rc < 0)
		return error_set(err, rc == -ENOENT ? -EUCLEAN : rc,
				 "%s/%s: no message with map UID %" PRIu32, storage->index_path,
				 INDEX_NAME_MAP, map_uid);
	if (entry.file_id == 0 || entry.size == 0)
		return error_set(err, -EUCLEAN, "%s/%s: map UID %" PRIu32 " says no place",
				 storage->index_path, INDEX_NAME_MAP, map_uid);
	rc = use_file(storage, entry.file_id, err);
	if (rc == -ENOENT || rc == -ENXIO)
		return error_set(err, -ENOENT, "%s %s (map UID %" PRIu32 ")", storage->file_name,
				 rc == -ENOENT ? "is missing" : "is no file", map_uid);
	if (rc < 0)
		return rc;
	rc = dbox_message_read(storage->file_fd, storage->file_name, entry.offset, entry.size,
			       message_r, err);
	return rc == -ENODATA ? -EUCLEAN : rc;
}

static bool same_place(const struct mdbox_entry *a, const struct mdbox_entry *b)
{
	return a->file_id == b->file_id && a->offset == b->offset && a->size == b->size;
}

int mdbox_message_open(struct mdbox_storage *storage, uint32_t map_uid,
		       struct dbox_message *message_r, int *fd_r, struct error *err)
{
	int rc = 0;

	/* Each purge may move it once more, also between the look at the map and the one at the
	 * file. Damage is what stays in its place. */
	for (int i = 0; i < MOVES_MAX; i++) {
		struct mdbox_entry before = {0}, after = {0};
		struct error refresh_err;
		bool known = mdbox_map_find(storage, map_uid, &before) == 0;

		rc = read_entry(storage, map_uid, message_r, err);
		if (rc != -EUCLEAN && rc != -ENODEV && rc != -ENOENT)
			break;
		/* An open file that a purge has removed would go on to be read. */
		file_close(&storage->file_fd);
		int refreshed = index_refresh(storage->map, &refresh_err);

		if (refreshed < 0 && refreshed != -ESTALE) {
			if (err)
				*err = refresh_err;
			return refreshed;
		}
		if (i > 0 && (mdbox_map_find(storage, map_uid, &after) == 0) == known &&
		    same_place(&before, &after))
			break;
	}
	if (rc == -ENOENT && mdbox_has_unmapped(storage))
		rc = error_set(err, -EUCLEAN,
			       "%s/%s: map UID %" PRIu32
			       " is said to be in a file that is missing, and there are messages "
			       "in others that the map does not know",
			       storage->index_path, INDEX_NAME_MAP, map_uid);
	*fd_r = storage->file_fd;
	return rc;
}

/* ---- the map, changed ---- */

int mdbox_map_begin(struct mdbox_storage *storage, struct index_txn **txn_r, struct error *err)
{
	int rc = index_begin(storage->map, -1, txn_r, err);

	if (rc < 0)
		return rc;
	if (!index_is_synced(storage->map)) {
		index_abort(txn_r);
		return error_set(err, -EUCLEAN,
				 "%s/%s.log: a writer died before it had finished; the storage has "
				 "to be rebuilt",
				 storage->index_path, INDEX_NAME_MAP);
	}
	if (mdbox_storage_uid_validity(storage) == 0) {
		index_abort(txn_r);
		return error_set(err, -EUCLEAN, "%s/%s: the map has no UIDVALIDITY",
				 storage->index_path, INDEX_NAME_MAP);
	}
	return 0;
}

int mdbox_map_move(struct index_txn *txn, const struct mdbox_entry *entry, struct error *err)
{
	uint8_t record[MAP_RECORD];

	index_put32(record + MAP_FILE_ID, entry->file_id);
	index_put32(record + MAP_OFFSET, entry->offset);
	index_put32(record + MAP_SIZE, entry->size);
	return index_update_ext(txn, &map_def, entry->map_uid, record, err);
}

int mdbox_map_set_ref(struct index_txn *txn, uint32_t map_uid, uint16_t ref, struct error *err)
{
	uint8_t record[2];

	index_put16(record, ref);
	return index_update_ext(txn, &ref_def, map_uid, record, err);
}

int mdbox_map_add(struct index_txn *txn, const struct mdbox_entry *entry, struct error *err)
{
	int rc = index_append(txn, entry->map_uid, 0, err);

	if (rc == 0)
		rc = mdbox_map_move(txn, entry, err);
	return rc < 0 ? rc : mdbox_map_set_ref(txn, entry->map_uid, entry->ref, err);
}

int mdbox_map_refer(struct index_txn *txn, uint32_t map_uid, int32_t diff, struct error *err)
{
	return index_inc_ext(txn, &ref_def, map_uid, diff, err);
}

int mdbox_map_set_highest_file(struct index_txn *txn, uint32_t file_id, struct error *err)
{
	uint8_t value[4];

	index_put32(value, file_id);
	return index_update_ext_hdr(txn, &map_def, 0, value, sizeof value, err);
}

int mdbox_map_set_rebuild_count(struct index_txn *txn, uint32_t count, struct error *err)
{
	uint8_t value[4];

	index_put32(value, count);
	return index_update_ext_hdr(txn, &map_def, 4, value, sizeof value, err);
}

static int uid_cmp(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

int mdbox_map_drop(struct mdbox_storage *storage, struct index_txn *txn, uint32_t *map_uids,
		   size_t count, struct error *err)
{
	int rc = 0;

	if (count)
		qsort(map_uids, count, sizeof *map_uids, uid_cmp);
	for (size_t i = 0; rc == 0 && i < count;) {
		struct mdbox_entry entry;
		size_t end = i + 1;

		while (end < count && map_uids[end] == map_uids[i])
			end++;
		if (mdbox_map_find(storage, map_uids[i], &entry) == 0 && entry.ref >= end - i)
			rc = mdbox_map_refer(txn, map_uids[i], -(int32_t)(end - i), err);
		else
			log_warning("%s/%s: map UID %" PRIu32 " has fewer references than messages",
				    storage->index_path, INDEX_NAME_MAP, map_uids[i]);
		i = end;
	}
	return rc < 0 ? rc : index_commit_part(txn, true, err);
}
