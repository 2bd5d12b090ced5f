/* What the mailbox list wants of dbox: a look at a mailbox's numbers, its making and its end. */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"
#include "store/dbox/dbox_intent.h"
#include "store/index/index_files.h"
#include "store/mail_location.h"

static int peek(const struct mailbox_place *place, bool multi, struct mailbox_status *status_r,
		struct error *err)
{
	const struct index_options options = {.label = place->index, .read_only = true};
	AUTO_CLOSE int fd = owned_dir_open(place->index, false);
	struct index_status status;
	struct index *index;
	int rc;

	*status_r = (struct mailbox_status){0};
	if (fd < 0)
		return error_errno(err, fd, "%s", place->index);
	rc = index_open(fd, &options, &index, err);
	if (rc < 0)
		return rc;
	index_status(index, &status);
	dbox_index_guid(index, multi, &status_r->guid);
	status_r->uid_validity = status.uid_validity;
	status_r->uid_next = status.next_uid;
	if (status.uid_validity == 0)
		status_r->guid = (struct guid){0};
	index_close(&index);
	return 0;
}

int mdbox_peek(const struct mailbox_place *place, struct mailbox_status *status_r,
	       struct error *err)
{
	return peek(place, true, status_r, err);
}

int sdbox_peek(const struct mailbox_place *place, struct mailbox_status *status_r,
	       struct error *err)
{
	return peek(place, false, status_r, err);
}

static int create(const struct mailbox_place *place, bool multi, int index_fd,
		  const struct guid *guid, uint32_t uid_validity, struct error *err)
{
	const struct index_options options = {.label = place->index, .backup = true};
	const struct index_create new_index = {.next_uid = 1};
	uint32_t map_uid_validity = 0;
	struct index *index = NULL;
	int rc = 0;

	if (multi) {
		struct mdbox_storage *storage;

		rc = dbox_storage_of(place, true, &storage, err);
		if (rc < 0)
			return rc;
		map_uid_validity = mdbox_storage_uid_validity(storage);
		mdbox_storage_close(&storage);
	}
	rc = index_create(index_fd, &options, &new_index, err);
	if (rc == 0)
		rc = index_open(index_fd, &options, &index, err);
	if (rc == 0)
		rc = dbox_write_header(index, multi, map_uid_validity, guid, uid_validity, err);
	index_close(&index);
	return rc;
}

int mdbox_create(const struct mailbox_place *place, int control_fd, int index_fd,
		 const struct guid *guid, uint32_t uid_validity, struct error *err)
{
	return create(place, true, index_fd, guid, uid_validity, err);
}

int sdbox_create(const struct mailbox_place *place, int control_fd, int index_fd,
		 const struct guid *guid, uint32_t uid_validity, struct error *err)
{
	return create(place, false, index_fd, guid, uid_validity, err);
}

/* ---- a mailbox of mdbox goes: its references go after it ---- */

struct deletion {
	struct mdbox_storage *storage;
	struct index_txn *map_txn; /* the map stays locked */
	char *intent;
	uint32_t *map_uids;
	size_t count;
};

static void deletion_free(struct deletion *deletion)
{
	index_abort(&deletion->map_txn);
	if (deletion->storage)
		dbox_intent_remove(deletion->storage->dirfd, deletion->storage->path,
				   &deletion->intent);
	mdbox_storage_close(&deletion->storage);
	free(deletion->map_uids);
	free(deletion);
}

static int list_references(const struct mailbox_place *place, struct deletion *deletion,
			   struct error *err)
{
	const struct index_options options = {.label = place->index, .read_only = true};
	AUTO_CLOSE int fd = owned_dir_open(place->index, false);
	struct index_record record;
	struct index_status status;
	struct index_iter iter;
	struct index *index;
	int rc = fd < 0 ? error_errno(err, fd, "%s", place->index)
			: index_open(fd, &options, &index, err);

	/* None, or a damaged one: a purge finds what is not referred to. */
	if (rc == -ENOENT || rc == -EUCLEAN)
		return 0;
	if (rc < 0)
		return rc;
	index_status(index, &status);
	deletion->map_uids = calloc(status.messages ? status.messages : 1, sizeof(uint32_t));
	if (!deletion->map_uids)
		rc = error_errno(err, -ENOMEM, "%s", place->index);
	index_iter_init(index, 1, &iter);
	while (rc == 0 && deletion->count < status.messages && index_iter_next(&iter, &record)) {
		uint8_t data[DBOX_MDBOX_RECORD] = {0};

		index_record_ext(index, &record, DBOX_EXT_MDBOX, data, sizeof data);
		deletion->map_uids[deletion->count++] = index_get32(data);
	}
	index_close(&index);
	return rc;
}

int mdbox_delete_begin(const struct mailbox_place *place, void **deletion_r, struct error *err)
{
	struct deletion *deletion = calloc(1, sizeof *deletion);
	int rc;

	*deletion_r = NULL;
	if (!deletion)
		return error_errno(err, -ENOMEM, "%s", place->index);
	rc = dbox_storage_of(place, true, &deletion->storage, err);
	if (rc == 0)
		rc = mdbox_map_begin(deletion->storage, &deletion->map_txn, err);
	if (rc == 0)
		rc = list_references(place, deletion, err);
	if (rc == 0 && deletion->count) {
		const struct dbox_intent intent = {
			.uid_validity = mdbox_storage_uid_validity(deletion->storage),
			.uids = deletion->map_uids,
			.count = deletion->count};

		rc = dbox_intent_write(deletion->storage->dirfd, deletion->storage->path, &intent,
				       &deletion->intent, err);
	}
	if (rc < 0) {
		deletion_free(deletion);
		return rc;
	}
	*deletion_r = deletion;
	return 0;
}

int mdbox_delete_end(void *ptr, bool deleted, struct error *err)
{
	struct deletion *deletion = ptr;
	int rc = 0;

	if (deleted && deletion->count)
		rc = mdbox_map_drop(deletion->storage, deletion->map_txn, deletion->map_uids,
				    deletion->count, err);
	deletion_free(deletion);
	return rc;
}

/* ---- a mailbox of sdbox goes: its messages' attachments after it ---- */

struct attachment_deletion {
	char *dir;
	struct guid guid;
	struct message_attachments {
		uint32_t uid;
		struct dbox_attachments attachments;
	} * list;
	size_t count;
};

static int list_attachments(struct dbox *db, struct attachment_deletion *deletion,
			    struct error *err)
{
	struct index_record record;
	struct index_iter iter;

	index_iter_init(db->index, 1, &iter);
	while (index_iter_next(&iter, &record)) {
		struct message_attachments *grown, found = {.uid = record.uid};

		sdbox_attachments_of(db, record.uid, &found.attachments);
		if (!found.attachments.count)
			continue;
		grown = reallocarray(deletion->list, deletion->count + 1, sizeof *grown);
		if (!grown) {
			dbox_attachments_free(&found.attachments);
			return error_errno(err, -ENOMEM, "%s", db->path);
		}
		deletion->list = grown;
		grown[deletion->count++] = found;
	}
	return 0;
}

int sdbox_delete_begin(const struct mailbox_place *place, void **deletion_r, struct error *err)
{
	const struct index_options options = {.label = place->index, .read_only = true};
	struct attachment_deletion *deletion = NULL;
	struct error ignored;
	struct dbox *db;
	int rc = 0;

	*deletion_r = NULL;
	if (!place->location->attachments || dbox_open_dirs(place, false, &db, &ignored) < 0)
		return 0;
	/* What cannot be read has none that could be known. */
	if (index_open(db->index_fd, &options, &db->index, &ignored) == 0) {
		deletion = calloc(1, sizeof *deletion);
		if (deletion)
			deletion->dir = strdup(db->attachments);
		if (!deletion || !deletion->dir) {
			free(deletion);
			deletion = NULL;
			rc = error_errno(err, -ENOMEM, "%s", place->index);
		}
	}
	if (deletion) {
		dbox_index_guid(db->index, false, &deletion->guid);
		rc = list_attachments(db, deletion, err);
	}
	dbox_free(db);
	if (rc < 0 && deletion)
		sdbox_delete_end(deletion, false, NULL);
	else
		*deletion_r = deletion;
	return rc;
}

int sdbox_delete_end(void *ptr, bool deleted, struct error *err)
{
	struct attachment_deletion *deletion = ptr;

	for (size_t i = 0; i < deletion->count; i++) {
		char suffix[DBOX_ATTACHMENT_SUFFIX_SIZE];

		dbox_attachment_suffix(&deletion->guid, deletion->list[i].uid, suffix);
		if (deleted)
			dbox_attachments_remove(deletion->dir, &deletion->list[i].attachments,
						suffix);
		dbox_attachments_free(&deletion->list[i].attachments);
	}
	free(deletion->list);
	free(deletion->dir);
	free(deletion);
	return 0;
}
