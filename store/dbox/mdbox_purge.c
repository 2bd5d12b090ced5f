/*
 * Purge (reference 4.5): a file with messages that nobody refers to is replaced by what others
 * still want of it, in the files that new messages go to.
 *
 * Before that, counts that are too high are put right: what a writer left that died between its two
 * transactions when nobody came by to read its intent. None becomes 0 by that: a message that
 * nobody expunged may be one that a damaged mailbox has lost, which a rebuild puts back.
 */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/dbox/dbox_intent.h"
#include "store/index/index_files.h"

static int uid_cmp(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

/* ---- counts ---- */

static int correct_counts(struct mdbox_storage *storage, struct mdbox_purged *purged,
			  struct error *err)
{
	struct index_txn *txn = NULL;
	struct mdbox_counts counts;
	int rc = mdbox_counts_too_high(storage, &counts, &txn, err);

	for (size_t i = 0; rc == 0 && i < counts.count; i++) {
		if (counts.refs[i] == 0)
			continue;
		rc = mdbox_map_set_ref(txn, counts.map_uids[i], (uint16_t)counts.refs[i], err);
		purged->corrected++;
	}
	if (txn && rc == 0)
		rc = index_commit(&txn, true, err);
	else
		index_abort(&txn);
	if (rc == 0)
		purged->unclaimed = mdbox_counts_tell(storage, &counts);
	mdbox_counts_free(&counts);
	return rc;
}

/* ---- one file ---- */

struct entries {
	struct mdbox_entry *list;
	size_t count, room;
	bool has_dead;
};

static int entry_cmp(const void *a, const void *b)
{
	const struct mdbox_entry *x = a, *y = b;

	return x->offset < y->offset ? -1 : x->offset > y->offset;
}

static int list_entries(const struct mdbox_storage *storage, uint32_t file_id,
			struct entries *entries, struct error *err)
{
	struct index_record record;
	struct index_iter iter;

	*entries = (struct entries){0};
	index_iter_init(storage->map, 1, &iter);
	while (index_iter_next(&iter, &record)) {
		struct mdbox_entry entry;

		mdbox_map_entry(storage, &record, &entry);
		if (entry.file_id != file_id)
			continue;
		if (entries->count == entries->room) {
			size_t room = entries->room ? entries->room * 2 : 64;
			struct mdbox_entry *grown =
				reallocarray(entries->list, room, sizeof *grown);

			if (!grown)
				return error_errno(err, -ENOMEM, "%s", storage->path);
			entries->list = grown;
			entries->room = room;
		}
		entries->has_dead = entries->has_dead || entry.ref == 0;
		entries->list[entries->count++] = entry;
	}
	if (entries->count)
		qsort(entries->list, entries->count, sizeof *entries->list, entry_cmp);
	return 0;
}

/* What lies between two messages that the map knows may be mail that it has lost: a rebuild finds
 * it. (Behind the last one it is what a writer left that died.) */
static int check_whole(int fd, const char *what, const struct entries *entries, struct error *err)
{
	struct dbox_file_header header;
	int rc = dbox_file_header_read(fd, what, &header, err);
	uint64_t end = header.size;

	for (size_t i = 0; rc == 0 && i < entries->count; i++) {
		if (entries->list[i].offset != end)
			rc = error_set(err, -EUCLEAN,
				       "%s: damaged at offset %" PRIu64
				       ": the map's next message is at %" PRIu32
				       "; the storage has to be rebuilt",
				       what, end, entries->list[i].offset);
		end = (uint64_t)entries->list[i].offset + entries->list[i].size;
	}
	return rc;
}

/* Of messages that go. */
struct orphans {
	struct dbox_attachments *list;
	size_t count;
};

static int note_attachments(const struct mdbox_storage *storage, int fd, const char *what,
			    const struct mdbox_entry *entry, struct orphans *orphans)
{
	struct dbox_message message;
	struct dbox_attachments *grown;
	struct error ignored;
	int rc = 0;

	if (!storage->attachments ||
	    dbox_message_read(fd, what, entry->offset, entry->size, &message, &ignored) < 0)
		return 0;
	if (message.metadata.external) {
		grown = reallocarray(orphans->list, orphans->count + 1, sizeof *grown);
		rc = grown ? 0 : -ENOMEM;
		if (grown) {
			orphans->list = grown;
			rc = dbox_attachments_parse(message.metadata.other,
						    &grown[orphans->count++]);
		}
	}
	dbox_message_free(&message);
	if (rc < 0 && rc != -ENOMEM)
		log_warning("%s: offset %" PRIu32 ": where its attachments are cannot be read",
			    what, entry->offset);
	return rc == -ENOMEM ? rc : 0;
}

static void free_orphans(const struct mdbox_storage *storage, struct orphans *orphans, bool remove)
{
	for (size_t i = 0; i < orphans->count; i++) {
		if (remove)
			dbox_attachments_remove(storage->attachments, &orphans->list[i], "");
		dbox_attachments_free(&orphans->list[i]);
	}
	free(orphans->list);
}

/* Moves what is wanted, forgets what is not. */
static int move_entries(struct mdbox_storage *storage, int fd, const char *what,
			const struct entries *entries, struct mdbox_append *append,
			struct index_txn *txn, struct mdbox_purged *purged, struct orphans *orphans,
			struct error *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < entries->count; i++) {
		const struct mdbox_entry *entry = &entries->list[i];
		struct dbox_message message;
		struct mdbox_entry moved;

		if (entry->ref == 0) {
			if (note_attachments(storage, fd, what, entry, orphans) < 0)
				return error_errno(err, -ENOMEM, "%s", what);
			rc = index_expunge(txn, entry->map_uid, NULL, err);
			purged->messages++;
			purged->bytes += entry->size;
			continue;
		}
		rc = dbox_message_read(fd, what, entry->offset, entry->size, &message, err);
		if (rc < 0)
			return rc;
		rc = mdbox_append_message(append, fd, message.body_offset, message.body_size,
					  &message.metadata, &moved, err);
		dbox_message_free(&message);
		moved.map_uid = entry->map_uid;
		if (rc == 0)
			rc = mdbox_map_move(txn, &moved, err);
	}
	return rc;
}

/* The files that are made, and the one that goes. */
static int write_intent(const struct mdbox_storage *storage, const struct mdbox_append *append,
			uint32_t file_id, char **intent_r, struct error *err)
{
	AUTO_FREE uint32_t *files = NULL;
	uint32_t *all;
	size_t count;
	int rc = mdbox_append_list_new(append, &files, &count, err);

	if (rc < 0)
		return rc;
	all = reallocarray(files, count + 1, sizeof *all);
	if (!all)
		return error_errno(err, -ENOMEM, "%s", storage->path);
	files = all;
	files[count++] = file_id;
	return dbox_intent_write(
		storage->dirfd, storage->path,
		&(struct dbox_intent){.uid_validity = mdbox_storage_uid_validity(storage),
				      .files = files,
				      .file_count = count},
		intent_r, err);
}

/* The file is locked. What others want of it stays in the storage that it is in. */
static int purge_locked(struct mdbox_storage *storage, uint32_t file_id, bool alt, int fd,
			const char *what, struct mdbox_purged *purged, struct error *err)
{
	struct mdbox_append *append = NULL;
	struct index_txn *txn = NULL;
	struct entries entries = {0};
	struct mdbox_purged done = {0};
	struct orphans orphans = {0};
	bool committed = false;
	char *intent = NULL;
	int rc = mdbox_map_begin(storage, &txn, err);

	if (rc == 0)
		rc = list_entries(storage, file_id, &entries, err);
	if (rc == 0 && entries.has_dead)
		rc = check_whole(fd, what, &entries, err);
	if (rc == 0 && entries.has_dead)
		rc = mdbox_append_begin(storage, txn, &append, err);
	if (rc == 0 && append) {
		mdbox_append_avoid(append, file_id);
		if (alt)
			mdbox_append_in_alt(append);
		rc = move_entries(storage, fd, what, &entries, append, txn, &done, &orphans, err);
		if (rc == 0)
			rc = write_intent(storage, append, file_id, &intent, err);
		if (rc == 0)
			rc = mdbox_append_sync(append, err);
		DBOX_STEP("purge placed");
		if (rc == 0)
			rc = index_commit_part(txn, true, err);
		committed = rc == 0;
		DBOX_STEP("purge map");
	}
	if (committed) {
		int removed = mdbox_file_remove(storage, file_id);

		if (removed < 0)
			log_warning("%s: unlink: %s", what, strerror(-removed));
		purged->files++;
		purged->messages += done.messages;
		purged->bytes += done.bytes;
	}
	free_orphans(storage, &orphans, committed);
	mdbox_append_end(&append, committed);
	dbox_intent_remove(storage->dirfd, storage->path, &intent);
	index_abort(&txn);
	free(entries.list);
	return rc;
}

static int purge_file(struct mdbox_storage *storage, uint32_t file_id, struct mdbox_purged *purged,
		      struct error *err)
{
	AUTO_CLOSE int fd = -1;
	char name[16], what[4300];
	struct stat st, path;
	bool alt;

	mdbox_file_name(file_id, name);
	fd = mdbox_file_open(storage, file_id, O_RDWR, what, sizeof what);
	if (fd < 0)
		/* Or in an alternative storage that is not there now. */
		return fd == -ENOENT ? 0 : error_errno(err, fd, "%s", what);
	alt = fstatat(storage->dirfd, name, &path, AT_SYMLINK_NOFOLLOW) < 0;
	if (flock(fd, LOCK_EX | LOCK_NB) < 0 || fstat(fd, &st) < 0 ||
	    fstatat(alt ? storage->alt_fd : storage->dirfd, name, &path, AT_SYMLINK_NOFOLLOW) < 0 ||
	    st.st_ino != path.st_ino || st.st_dev != path.st_dev)
		return 0;
	return purge_locked(storage, file_id, alt, fd, what, purged, err);
}

/* ---- all of them ---- */

static int list_files(const struct mdbox_storage *storage, uint32_t **ids_r, size_t *count_r,
		      struct error *err)
{
	struct index_status status;
	struct index_record record;
	struct index_iter iter;
	size_t count = 0, kept = 0;
	uint32_t *ids;

	index_status(storage->map, &status);
	ids = calloc(status.messages + 1U, sizeof *ids);
	if (!ids)
		return error_errno(err, -ENOMEM, "%s", storage->path);
	index_iter_init(storage->map, 1, &iter);
	while (count < status.messages && index_iter_next(&iter, &record)) {
		struct mdbox_entry entry;

		mdbox_map_entry(storage, &record, &entry);
		if (entry.ref == 0 && entry.file_id)
			ids[count++] = entry.file_id;
	}
	if (count)
		qsort(ids, count, sizeof *ids, uid_cmp);
	for (size_t i = 0; i < count; i++) {
		if (kept == 0 || ids[kept - 1] != ids[i])
			ids[kept++] = ids[i];
	}
	*ids_r = ids;
	*count_r = kept;
	return 0;
}

/* What purges that were killed were making in the alternative storage. */
static void remove_temporary(const struct mdbox_storage *storage)
{
	struct dbox_leftovers left;
	struct error err;

	if (dbox_leftovers_find(storage->alt_fd, storage->alt_path, 0, &left, &err) < 0)
		log_warning("%s", err.text);
	dbox_leftovers_free(&left);
}

int mdbox_purge(struct mdbox_storage *storage, struct mdbox_purged *purged_r, struct error *err)
{
	AUTO_FREE uint32_t *files = NULL;
	struct error problem;
	size_t count = 0;
	int damaged = 0, rc = mdbox_recover(storage, err);

	*purged_r = (struct mdbox_purged){0};
	/* What is referred to is only known where every mailbox can be read. */
	if (rc == 0 && correct_counts(storage, purged_r, &problem) < 0)
		log_warning("reference counts are not looked at: %s", problem.text);
	if (rc == 0 && storage->alt_fd >= 0)
		remove_temporary(storage);
	if (rc == 0)
		rc = list_files(storage, &files, &count, err);
	for (size_t i = 0; rc == 0 && i < count; i++) {
		rc = purge_file(storage, files[i], purged_r, damaged == 0 ? err : &problem);
		/* The others have nothing to do with it. */
		if (rc == -EUCLEAN) {
			if (damaged < 0)
				log_warning("%s", problem.text);
			damaged = rc;
			rc = 0;
		}
	}
	if (rc == 0 && index_housekeep(storage->map, 0, &problem) < 0)
		log_warning("%s", problem.text);
	return rc < 0 ? rc : damaged;
}
