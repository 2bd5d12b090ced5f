/*
 * The directories of a dbox mailbox, and its index where that is missing or unfinished: GUID,
 * UIDVALIDITY, and for mdbox which storage it belongs to (reference 7d).
 */
#include "store/dbox/dbox_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"
#include "store/base/process.h"
#include "store/index/index_files.h"
#include "store/mail_location.h"

void dbox_index_options(const struct dbox *db, struct index_options *options_r)
{
	*options_r = (struct index_options){
		.name = INDEX_NAME_MAIL,
		.label = db->index_path,
		.lock_method = INDEX_LOCK_FCNTL,
		.backup = true,
	};
}

const struct index_ext_def *dbox_hdr_def(bool multi)
{
	static const struct index_ext_def defs[] = {
		{.name = DBOX_EXT_SDBOX_HDR, .hdr_size = DBOX_HDR_SIZE},
		{.name = DBOX_EXT_MDBOX_HDR, .hdr_size = DBOX_HDR_SIZE},
	};

	return &defs[multi];
}

void dbox_index_guid(const struct index *index, bool multi, struct guid *guid_r)
{
	struct index_ext ext;

	*guid_r = (struct guid){0};
	if (index_ext_find(index, dbox_hdr_def(multi)->name, &ext) == 0 &&
	    ext.hdr_size >= DBOX_HDR_GUID + sizeof guid_r->bytes)
		memcpy(guid_r->bytes, (const uint8_t *)ext.hdr + DBOX_HDR_GUID,
		       sizeof guid_r->bytes);
}

/* ---- directories ---- */

static char *join(const char *root, const char *name)
{
	char *path = NULL;

	return asprintf(&path, "%s/%s", root, name) < 0 ? NULL : path;
}

/* Of the storage, its index, and the alternative one or NULL. */
static int storage_paths_get(const struct mail_location *location, char *paths[3])
{
	paths[0] = join(location->root, DBOX_STORAGE_DIR);
	paths[1] = join(location->index, DBOX_STORAGE_DIR);
	paths[2] = location->alt ? join(location->alt, DBOX_STORAGE_DIR) : NULL;
	return paths[0] && paths[1] && (paths[2] || !location->alt) ? 0 : -ENOMEM;
}

static int fill_paths(struct dbox *db, const struct mailbox_place *place)
{
	const struct mail_location *location = place->location;

	db->path = strdup(place->mail);
	db->index_path = strdup(place->index);
	db->storage_name = strdup(place->storage_name);
	db->attachments = location->attachments ? strdup(location->attachments) : NULL;
	if (!db->path || !db->index_path || !db->storage_name ||
	    (location->attachments && !db->attachments))
		return -ENOMEM;
	if (!db->multi) {
		size_t root = strlen(location->root);

		if (!location->alt || strncmp(place->mail, location->root, root) != 0)
			return 0;
		db->alt_path = join(location->alt, place->mail + root + 1);
		db->alt_root = join(location->alt, DBOX_MAILBOXES_DIR);
		return db->alt_path && db->alt_root ? 0 : -ENOMEM;
	}
	return storage_paths_get(location, db->storage_paths);
}

static int storage_of(const struct mailbox_place *place, bool make, bool damaged,
		      struct mdbox_storage **storage_r, struct error *err)
{
	char *paths[3] = {NULL, NULL, NULL};
	int rc = storage_paths_get(place->location, paths);
	const struct mdbox_paths where = {paths[0],
					  paths[1],
					  paths[2],
					  place->location->rotate_size,
					  place->location->rotate_interval,
					  place->location->preallocate,
					  place->location->attachments};

	*storage_r = NULL;
	if (rc < 0)
		error_errno(err, rc, "%s", place->location->root);
	else if (damaged)
		rc = mdbox_storage_open_damaged(&where, storage_r, err);
	else
		rc = mdbox_storage_open(&where, make, storage_r, err);
	for (size_t i = 0; i < sizeof paths / sizeof paths[0]; i++)
		free(paths[i]);
	return rc;
}

int dbox_storage_of(const struct mailbox_place *place, bool make, struct mdbox_storage **storage_r,
		    struct error *err)
{
	return storage_of(place, make, false, storage_r, err);
}

int dbox_storage_of_damaged(const struct mailbox_place *place, struct mdbox_storage **storage_r,
			    struct error *err)
{
	return storage_of(place, true, true, storage_r, err);
}

int dbox_open_dirs(const struct mailbox_place *place, bool multi, struct dbox **db_r,
		   struct error *err)
{
	struct dbox *db = calloc(1, sizeof *db);
	int rc = 0;

	*db_r = NULL;
	if (!db)
		return error_errno(err, -ENOMEM, "%s", place->mail);
	db->multi = multi;
	db->save_compress = place->location->save_compress;
	db->rotate_size = place->location->rotate_size;
	db->rotate_interval = place->location->rotate_interval;
	db->preallocate = place->location->preallocate;
	db->dirfd = db->index_fd = db->spool_fd = -1;
	if (fill_paths(db, place) < 0)
		rc = error_errno(err, -ENOMEM, "%s", place->mail);
	if (rc == 0) {
		db->dirfd = owned_dir_open(db->path, false);
		if (db->dirfd < 0)
			rc = error_errno(err, db->dirfd, "%s", db->path);
	}
	if (rc == 0) {
		db->index_fd = strcmp(db->path, db->index_path) == 0
				       ? db->dirfd
				       : owned_dir_open(db->index_path, true);
		if (db->index_fd < 0)
			rc = error_errno(err, db->index_fd, "%s", db->index_path);
	}
	if (rc < 0)
		dbox_free(db);
	else
		*db_r = db;
	return rc;
}

void dbox_free(struct dbox *db)
{
	while (db->spools)
		dbox_spool_discard(&db->spools->spool);
	index_close(&db->index);
	mdbox_storage_close(&db->storage);
	if (db->index_fd >= 0 && db->index_fd != db->dirfd)
		close(db->index_fd);
	if (db->dirfd >= 0)
		close(db->dirfd);
	file_close(&db->spool_fd);
	mail_names_free(&db->names);
	free(db->guid_text);
	free(db->path);
	free(db->index_path);
	free(db->alt_path);
	free(db->alt_root);
	free(db->storage_name);
	free(db->attachments);
	for (size_t i = 0; i < sizeof db->storage_paths / sizeof db->storage_paths[0]; i++)
		free(db->storage_paths[i]);
	free(db);
}

/* ---- the index ---- */

bool dbox_needs_setup(const struct dbox *db)
{
	struct index_status status;
	struct guid guid;

	if (!db->index)
		return true;
	index_status(db->index, &status);
	dbox_index_guid(db->index, db->multi, &guid);
	return status.uid_validity == 0 || guid_is_empty(&guid);
}

int dbox_write_header(struct index *index, bool multi, uint32_t map_uid_validity,
		      const struct guid *guid, uint32_t uid_validity, struct error *err)
{
	static const struct index_ext_def pop3_def = {.name = DBOX_EXT_POP3, .hdr_size = 4};
	static const uint8_t no_pop3[4];
	uint8_t hdr[DBOX_HDR_SIZE] = {0};
	struct index_txn *txn;
	struct guid there;
	int rc = index_begin(index, -1, &txn, err);

	if (rc < 0)
		return rc;
	/* Somebody may have been faster with either. */
	dbox_index_guid(index, multi, &there);
	if (guid_is_empty(&there)) {
		index_put32(hdr, map_uid_validity);
		memcpy(hdr + DBOX_HDR_GUID, guid->bytes, sizeof guid->bytes);
		rc = index_update_ext_hdr(txn, dbox_hdr_def(multi), 0, hdr, sizeof hdr, err);
		if (rc == 0)
			rc = index_update_ext_hdr(txn, &pop3_def, 0, no_pop3, sizeof no_pop3, err);
	}
	if (rc == 0) {
		struct index_status status;

		index_status(index, &status);
		if (status.uid_validity == 0)
			rc = index_set_uid_validity(txn, uid_validity, err);
	}
	if (rc == 0)
		rc = index_commit(&txn, true, err);
	else
		index_abort(&txn);
	return rc;
}

int dbox_setup(struct dbox *db, const struct mailbox_place *place, struct error *err)
{
	struct index_options options;
	uint32_t uid_validity = 0, map_uid_validity = 0;
	struct guid guid;
	int rc = 0;

	if (db->multi) {
		rc = dbox_need_storage(db, true, err);
		if (rc < 0)
			return rc;
		map_uid_validity = mdbox_storage_uid_validity(db->storage);
	}
	dbox_index_options(db, &options);
	if (!db->index) {
		const struct index_create create = {.next_uid = 1};

		rc = index_create(db->index_fd, &options, &create, err);
		if (rc == 0 || rc == -EEXIST)
			rc = index_open(db->index_fd, &options, &db->index, err);
		if (rc < 0)
			return rc;
	}
	if (!dbox_needs_setup(db))
		return 0;
	rc = place->uid_validity(place->ctx, &uid_validity, err);
	if (rc < 0)
		return rc;
	guid_generate(&guid);
	return dbox_write_header(db->index, db->multi, map_uid_validity, &guid, uid_validity, err);
}

/* ---- in place of a damaged one ---- */

int dbox_salvage_index(const struct dbox *db, struct index **old_r, struct error *err)
{
	const struct index_options options = {
		.label = db->index_path, .read_only = true, .salvage = true};
	int rc = index_open(db->index_fd, &options, old_r, err);

	return rc == -ENOENT || rc == -EUCLEAN ? 0 : rc;
}

/* By the beginning of its name a mount knows the file as a log, whose appends it has to see: it
 * becomes the mailbox's. */
#define REPLACEMENT INDEX_NAME_MAIL ".log.rebuild-"

static void replacement_name(char name_r[64])
{
	snprintf(name_r, 64, REPLACEMENT "%ld", (long)getpid());
}

/* Of rebuilds that were killed. */
static void remove_old_replacements(const struct dbox *db)
{
	int fd = openat(db->index_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir) {
		file_close(&fd);
		return;
	}
	while ((entry = readdir(dir)) != NULL) {
		long pid;

		if (strncmp(entry->d_name, REPLACEMENT, strlen(REPLACEMENT)) != 0)
			continue;
		pid = strtol(entry->d_name + strlen(REPLACEMENT), NULL, 10);
		if (pid == getpid() || pid <= 0 || pid > INT_MAX || !process_is_alive((pid_t)pid))
			unlinkat(db->index_fd, entry->d_name, 0);
	}
}

int dbox_replace_begin(struct dbox *db, const struct mailbox_place *place, const struct index *old,
		       uint32_t map_uid_validity, struct error *err)
{
	struct index_create create = {.replace = true, .next_uid = 1};
	struct index_status status = {0};
	struct index_options options;
	struct guid guid = {0};
	char name[64];
	int rc = 0;

	if (old) {
		index_status(old, &status);
		dbox_index_guid(old, db->multi, &guid);
	}
	if (status.uid_validity == 0)
		rc = place->uid_validity(place->ctx, &status.uid_validity, err);
	if (guid_is_empty(&guid))
		guid_generate(&guid);
	/* HIGHESTMODSEQ must not go back, or clients and replicas would miss changes. What the
	 * damaged part of the log counted is not known: the seconds since 1970 are more. */
	create.initial_modseq = (uint64_t)time(NULL);
	if (status.highest_modseq >= create.initial_modseq)
		create.initial_modseq = status.highest_modseq + 1;
	remove_old_replacements(db);
	replacement_name(name);
	dbox_index_options(db, &options);
	options.name = name;
	index_close(&db->index);
	if (rc == 0)
		rc = index_create(db->index_fd, &options, &create, err);
	if (rc == 0)
		rc = index_open(db->index_fd, &options, &db->index, err);
	return rc < 0 ? rc
		      : dbox_write_header(db->index, db->multi, map_uid_validity, &guid,
					  status.uid_validity, err);
}

int dbox_replace_end(struct dbox *db, bool done, struct error *err)
{
	struct index_options options;
	char name[64];
	int rc = 0;

	replacement_name(name);
	dbox_index_options(db, &options);
	index_close(&db->index);
	if (done) {
		DBOX_STEP("rebuilt");
		rc = index_adopt(db->index_fd, &options, name, err);
	}
	if (!done || rc < 0)
		index_discard(db->index_fd, name);
	return rc;
}
