/*
 * Adding messages to m.N (reference 4.4): an old file that has room, else a new one.
 *
 * The caller holds the map's lock, so that what the map says of a file is so. A file's own lock
 * comes before the map's in the order of locks; here it is only tried, and a file that somebody
 * else has is passed over. What is behind the last mapped message of a file that we have locked was
 * left by a writer that died: live ones keep the file's lock until the map has their messages. It
 * is cut off.
 */
#include "store/dbox/mdbox_storage.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"
#include "store/dbox/dbox_intent.h"

#define CANDIDATES_MAX 10
#define LOOK_BACK_MAX  2000
#define WRITE_BYTES    (256 * 1024)
#define NAME_TRIES     10000

struct target {
	int fd;
	uint32_t file_id;
	bool is_new, named;
	char temporary[128]; /* until it has its name */
	uint64_t old_size, end;
};

struct mdbox_append {
	struct mdbox_storage *storage;
	int dirfd; /* where the files are */
	const char *path;
	struct index_txn *map_txn;
	struct target *targets;
	size_t count, room;
	bool looked; /* for an old file */
	uint32_t avoid, highest;
	struct buf buf; /* of the last target, not written yet */
};

int mdbox_append_begin(struct mdbox_storage *storage, struct index_txn *map_txn,
		       struct mdbox_append **append_r, struct error *err)
{
	struct mdbox_append *append = calloc(1, sizeof *append);

	*append_r = append;
	if (!append)
		return error_errno(err, -ENOMEM, "%s", storage->path);
	append->storage = storage;
	append->dirfd = storage->dirfd;
	append->path = storage->path;
	append->map_txn = map_txn;
	append->highest = mdbox_map_highest_file(storage);
	buf_init(&append->buf, WRITE_BYTES + DBOX_METADATA_MAX);
	return 0;
}

void mdbox_append_avoid(struct mdbox_append *append, uint32_t file_id)
{
	append->avoid = file_id;
}

void mdbox_append_in_alt(struct mdbox_append *append)
{
	append->dirfd = append->storage->alt_fd;
	append->path = append->storage->alt_path;
}

void mdbox_append_only_new(struct mdbox_append *append, uint32_t highest)
{
	append->looked = true;
	append->highest = highest;
}

static int target_error(const struct mdbox_append *append, const struct target *target, int code,
			const char *what, struct error *err)
{
	return error_errno(err, code, "%s/m.%" PRIu32 ": %s", append->path, target->file_id, what);
}

static struct target *add_target(struct mdbox_append *append, const struct target *target)
{
	if (append->count == append->room) {
		size_t room = append->room ? append->room * 2 : 4;
		struct target *grown = reallocarray(append->targets, room, sizeof *grown);

		if (!grown)
			return NULL;
		append->targets = grown;
		append->room = room;
	}
	append->targets[append->count] = *target;
	return &append->targets[append->count++];
}

/* ---- old files ---- */

uint64_t mdbox_mapped_end(const struct mdbox_storage *storage, uint32_t file_id)
{
	struct index_record record;
	struct index_iter iter;
	uint64_t end = 0;

	index_iter_init(storage->map, 1, &iter);
	while (index_iter_next(&iter, &record)) {
		struct mdbox_entry entry;

		mdbox_map_entry(storage, &record, &entry);
		if (entry.file_id == file_id && (uint64_t)entry.offset + entry.size > end)
			end = (uint64_t)entry.offset + entry.size;
	}
	return end;
}

/* Days, hours or minutes, whichever the interval has, are counted as Dovecot does: by the local
 * clock, and the current one is the first. */
static bool is_too_old(const struct mdbox_storage *storage, uint64_t created)
{
	time_t now = time(NULL);
	struct tm local;
	uint32_t unit, since;

	if (!storage->rotate_interval || !localtime_r(&now, &local))
		return false;
	since = (uint32_t)local.tm_sec;
	unit = 60;
	if (storage->rotate_interval >= 3600) {
		since += 60 * (uint32_t)local.tm_min;
		unit = 3600;
	}
	if (storage->rotate_interval >= 86400) {
		since += 3600 * (uint32_t)local.tm_hour;
		unit = 86400;
	}
	if (storage->rotate_interval > unit)
		since += storage->rotate_interval - unit;
	return (int64_t)created < (int64_t)now - since;
}

/* -EAGAIN: not this one. entry: a message that is in it. */
static int try_file(struct mdbox_append *append, const struct mdbox_entry *entry, uint64_t size,
		    struct target *target_r, struct error *err)
{
	struct mdbox_storage *storage = append->storage;
	uint64_t end = (uint64_t)entry->offset + entry->size;
	char file[16], what[4300];
	struct dbox_file_header header;
	struct stat st, path;
	AUTO_CLOSE int fd = -1;

	mdbox_file_name(entry->file_id, file);
	snprintf(what, sizeof what, "%s/%s", append->path, file);
	fd = openat(append->dirfd, file, O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return -EAGAIN; /* in the other storage */
	if (flock(fd, LOCK_EX | LOCK_NB) < 0)
		return -EAGAIN;
	if (fstat(fd, &st) < 0 || fstatat(append->dirfd, file, &path, AT_SYMLINK_NOFOLLOW) < 0 ||
	    st.st_ino != path.st_ino || st.st_dev != path.st_dev || !S_ISREG(st.st_mode))
		return -EAGAIN;
	if ((uint64_t)st.st_size != end)
		end = mdbox_mapped_end(storage, entry->file_id);
	if ((uint64_t)st.st_size < end) {
		log_warning("%s: ends at %llu, the map has messages up to %" PRIu64
			    "; nothing is added to it",
			    what, (unsigned long long)st.st_size, end);
		return -EAGAIN;
	}
	if (end + size > storage->rotate_size)
		return -EAGAIN;
	if (dbox_file_header_read(fd, what, &header, err) < 0 ||
	    is_too_old(storage, header.created))
		return -EAGAIN;
	if ((uint64_t)st.st_size > end) {
		log_warning("%s: cutting off %" PRIu64 " bytes at offset %" PRIu64
			    " that a dead writer left",
			    what, (uint64_t)st.st_size - end, end);
		if (ftruncate(fd, (off_t)end) < 0)
			return error_errno(err, -errno, "%s: truncate to %" PRIu64, what, end);
	}
	*target_r =
		(struct target){.fd = fd, .file_id = entry->file_id, .old_size = end, .end = end};
	fd = -1;
	return 0;
}

static bool is_among(const uint32_t *ids, size_t count, uint32_t id)
{
	for (size_t i = 0; i < count; i++) {
		if (ids[i] == id)
			return true;
	}
	return false;
}

/* -ENOENT: no old file takes the message. */
static int find_old_file(struct mdbox_append *append, uint64_t size, struct target *target_r,
			 struct error *err)
{
	const struct mdbox_storage *storage = append->storage;
	uint32_t seen[CANDIDATES_MAX + 1];
	struct index_status status;
	size_t count = 0;
	uint32_t uid, last;

	seen[count++] = append->avoid;
	index_status(storage->map, &status);
	last = status.next_uid > LOOK_BACK_MAX ? status.next_uid - LOOK_BACK_MAX : 1;
	for (uid = status.next_uid; uid-- > last && count <= CANDIDATES_MAX;) {
		struct mdbox_entry entry;
		int rc;

		if (mdbox_map_find(storage, uid, &entry) < 0 || entry.file_id == 0 ||
		    is_among(seen, count, entry.file_id))
			continue;
		seen[count++] = entry.file_id;
		if ((uint64_t)entry.offset + entry.size + size > storage->rotate_size)
			continue;
		rc = try_file(append, &entry, size, target_r, err);
		if (rc != -EAGAIN)
			return rc;
	}
	return -ENOENT;
}

/* ---- new files ---- */

/* Its size stays what is in it. A filesystem that cannot do it, or has not as much room, may still
 * have room for the message. */
static void preallocate(const struct mdbox_append *append, const struct target *target)
{
	const struct mdbox_storage *storage = append->storage;

	if (storage->preallocate &&
	    fallocate(target->fd, FALLOC_FL_KEEP_SIZE, 0, storage->rotate_size) < 0 &&
	    errno != EOPNOTSUPP)
		log_warning("%s/%s: preallocating %u bytes: %s", append->path, target->temporary,
			    storage->rotate_size, strerror(errno));
}

static int make_file(struct mdbox_append *append, struct target *target_r, struct error *err)
{
	AUTO_BUF struct buf header = BUF_INIT(256);
	struct target *target = target_r;

	*target = (struct target){.is_new = true};
	dbox_temporary_name(target->temporary, sizeof target->temporary);
	target->fd = owned_file_create(append->dirfd, target->temporary, O_RDWR | O_EXCL);
	if (target->fd < 0)
		return error_errno(err, target->fd, "%s/%s: create", append->path,
				   target->temporary);
	/* Nobody knows it, so this does not wait. */
	flock(target->fd, LOCK_EX | LOCK_NB);
	target->file_id = ++append->highest;
	preallocate(append, target);
	dbox_file_header_build(&header, time(NULL));
	target->end = header.len;
	return buf_append(&append->buf, header.data, header.len);
}

/* A name that nothing has: an unmapped m.N of that number was left by a writer that died, and what
 * is in it is for a rebuild to look at. */
static int check_name(struct mdbox_append *append, struct target *target, struct error *err)
{
	for (int i = 0; i < NAME_TRIES; i++) {
		char name[4300];
		int fd = mdbox_file_open(append->storage, target->file_id, O_RDONLY, name,
					 sizeof name);

		if (fd == -ENOENT)
			return 0;
		if (fd >= 0)
			close(fd);
		log_warning("%s: is there, and the map does not know it; it is left as it is",
			    name);
		target->file_id = ++append->highest;
	}
	return error_set(err, -EEXIST, "%s: no free name for a new file", append->path);
}

static int flush(struct mdbox_append *append, struct error *err)
{
	struct target *target;
	uint64_t at;
	int rc;

	if (!append->targets || append->buf.len == 0)
		return append->buf.failed;
	target = &append->targets[append->count - 1];
	at = target->end - append->buf.len;
	rc = file_pwrite_all(target->fd, append->buf.data, append->buf.len, (off_t)at);
	buf_clear(&append->buf);
	return rc < 0 ? target_error(append, target, rc, "write", err) : 0;
}

static int next_target(struct mdbox_append *append, uint64_t size, struct error *err)
{
	struct target target = {.fd = -1};
	int rc = append->count ? flush(append, err) : 0;

	if (rc < 0)
		return rc;
	rc = append->looked ? -ENOENT : find_old_file(append, size, &target, err);
	append->looked = true;
	if (rc == -ENOENT) {
		rc = make_file(append, &target, err);
		if (rc == 0)
			rc = check_name(append, &target, err);
	}
	if (rc == 0 && !add_target(append, &target))
		rc = error_errno(err, -ENOMEM, "%s", append->path);
	if (rc < 0 && target.is_new && target.fd >= 0)
		unlinkat(append->dirfd, target.temporary, 0);
	if (rc < 0)
		file_close(&target.fd);
	return rc;
}

/* ---- messages ---- */

static int copy_body(struct mdbox_append *append, int fd, uint64_t offset, uint64_t size,
		     struct error *err)
{
	struct target *target = &append->targets[append->count - 1];

	while (size) {
		size_t part = size < WRITE_BYTES ? (size_t)size : WRITE_BYTES;
		char *room;
		int rc;

		if (append->buf.len + part > WRITE_BYTES) {
			rc = flush(append, err);
			if (rc < 0)
				return rc;
		}
		room = buf_reserve(&append->buf, part);
		if (!room)
			return target_error(append, target, append->buf.failed, "buffer", err);
		rc = file_pread_all(fd, room, part, (off_t)offset);
		if (rc < 0)
			return target_error(append, target, rc, "reading the message", err);
		buf_commit(&append->buf, part);
		target->end += part;
		offset += part;
		size -= part;
	}
	return 0;
}

int mdbox_append_message(struct mdbox_append *append, int body_fd, uint64_t body_offset,
			 uint64_t body_size, const struct dbox_metadata *metadata,
			 struct mdbox_entry *entry_r, struct error *err)
{
	AUTO_BUF struct buf tail = BUF_INIT(DBOX_METADATA_MAX);
	struct target *target = append->count ? &append->targets[append->count - 1] : NULL;
	uint64_t size;
	int rc = dbox_metadata_build(&tail, metadata);

	if (rc < 0)
		return error_errno(err, rc, "%s: metadata of a message", append->path);
	size = DBOX_MESSAGE_HEADER_SIZE + body_size + tail.len;
	if (size > UINT32_MAX / 2)
		return error_set(err, -EFBIG, "%s: a message of %" PRIu64 " bytes", append->path,
				 body_size);
	if (!target || target->end + size > append->storage->rotate_size) {
		rc = next_target(append, size, err);
		if (rc < 0)
			return rc;
		target = &append->targets[append->count - 1];
	}
	*entry_r = (struct mdbox_entry){.file_id = target->file_id,
					.offset = (uint32_t)target->end,
					.size = (uint32_t)size,
					.ref = 1};
	dbox_message_header_build(&append->buf, body_size);
	target->end += DBOX_MESSAGE_HEADER_SIZE;
	rc = copy_body(append, body_fd, body_offset, body_size, err);
	if (rc < 0)
		return rc;
	buf_append(&append->buf, tail.data, tail.len);
	target->end += tail.len;
	if (append->buf.failed)
		return target_error(append, target, append->buf.failed, "buffer", err);
	return append->buf.len >= WRITE_BYTES ? flush(append, err) : 0;
}

int mdbox_append_list_new(const struct mdbox_append *append, uint32_t **files_r, size_t *count_r,
			  struct error *err)
{
	uint32_t *files = append->count ? calloc(append->count, sizeof *files) : NULL;

	*files_r = files;
	*count_r = 0;
	if (append->count && !files)
		return error_errno(err, -ENOMEM, "%s", append->path);
	for (size_t i = 0; i < append->count; i++) {
		if (append->targets[i].is_new)
			files[(*count_r)++] = append->targets[i].file_id;
	}
	return 0;
}

int mdbox_append_sync(struct mdbox_append *append, struct error *err)
{
	bool renamed = false;
	int rc = append->count ? flush(append, err) : 0;

	for (size_t i = 0; rc == 0 && i < append->count; i++) {
		struct target *target = &append->targets[i];
		char name[16];

		if (fdatasync(target->fd) < 0)
			return target_error(append, target, -errno, "fdatasync", err);
		if (!target->is_new)
			continue;
		mdbox_file_name(target->file_id, name);
		if (renameat2(append->dirfd, target->temporary, append->dirfd, name,
			      RENAME_NOREPLACE) < 0)
			return target_error(append, target, -errno, "rename", err);
		target->named = renamed = true;
	}
	if (rc == 0 && renamed) {
		rc = file_sync_dir(append->dirfd, ".");
		if (rc < 0)
			return error_errno(err, rc, "%s: fsync", append->path);
		rc = mdbox_map_set_highest_file(append->map_txn, append->highest, err);
	}
	return rc;
}

static void undo(struct mdbox_append *append, struct target *target)
{
	char name[16];
	int rc;

	mdbox_file_name(target->file_id, name);
	if (!target->is_new)
		rc = ftruncate(target->fd, (off_t)target->old_size);
	else
		rc = unlinkat(append->dirfd, target->named ? name : target->temporary, 0);
	if (rc < 0)
		log_warning("%s/%s: what was added could not be taken back: %s", append->path, name,
			    strerror(errno));
}

void mdbox_append_end(struct mdbox_append **append_ptr, bool committed)
{
	struct mdbox_append *append = *append_ptr;

	*append_ptr = NULL;
	if (!append)
		return;
	for (size_t i = 0; i < append->count; i++) {
		if (!committed)
			undo(append, &append->targets[i]);
		close(append->targets[i].fd);
	}
	free(append->targets);
	buf_free(&append->buf);
	free(append);
}
