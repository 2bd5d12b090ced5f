/*
 * An sdbox mailbox whose index cannot be read is given a new one: from its files, and from what is
 * readable of the old index, which has GUID, UIDVALIDITY, flags and keywords.
 */
#include "store/dbox/dbox_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"

struct uids {
	uint32_t *list;
	size_t count, room;
	uint32_t highest; /* of all files, also those that are left out */
};

static int uid_cmp(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return x < y ? -1 : x > y;
}

static int add_uid(struct uids *uids, uint32_t uid)
{
	if (uids->count == uids->room) {
		size_t room = uids->room ? uids->room * 2 : 256;
		uint32_t *grown = reallocarray(uids->list, room, sizeof *grown);

		if (!grown)
			return -ENOMEM;
		uids->list = grown;
		uids->room = room;
	}
	uids->list[uids->count++] = uid;
	return 0;
}

/* "u.17"; 0: another file. */
static uint32_t uid_of(const char *name)
{
	unsigned long uid;
	char *end;

	if (strncmp(name, "u.", 2) != 0 || name[2] < '1' || name[2] > '9')
		return 0;
	uid = strtoul(name + 2, &end, 10);
	return *end == '\0' && uid <= INDEX_UID_MAX ? (uint32_t)uid : 0;
}

static int list_files(const char *path, struct uids *uids, struct error *err)
{
	AUTO_DIR DIR *dir = opendir(path);
	const struct dirent *entry;

	if (!dir)
		return errno == ENOENT ? 0 : error_errno(err, -errno, "%s", path);
	while ((errno = 0, entry = readdir(dir)) != NULL) {
		uint32_t uid = uid_of(entry->d_name);

		if (uid && add_uid(uids, uid) < 0)
			return error_errno(err, -ENOMEM, "%s", path);
	}
	return errno ? error_errno(err, -errno, "%s: readdir", path) : 0;
}

/* A UID that the index has not given out yet, and whose message can be read. 0: none. */
static int find_unknown(struct dbox *db, uint32_t *uid_r, struct error *err)
{
	struct uids uids = {0};
	struct index_status status;
	int rc = list_files(db->path, &uids, err);

	*uid_r = 0;
	index_status(db->index, &status);
	for (size_t i = 0; rc == 0 && *uid_r == 0 && i < uids.count; i++) {
		const struct index_record record = {.uid = uids.list[i]};
		struct dbox_message message;
		struct error ignored;
		bool owned;
		int fd;

		if (record.uid < status.next_uid ||
		    dbox_message_of(db, &record, &message, &fd, &owned, &ignored) < 0)
			continue;
		close(fd);
		dbox_message_free(&message);
		*uid_r = record.uid;
	}
	free(uids.list);
	return rc;
}

int sdbox_check_index(struct dbox *db, struct error *err)
{
	struct index_txn *txn;
	uint32_t uid;
	int rc = find_unknown(db, &uid, err);

	if (rc < 0 || uid == 0)
		return rc;
	/* Whoever is at work has its message in the index when we have the lock. */
	rc = index_begin(db->index, -1, &txn, err);
	if (rc < 0)
		return rc;
	dbox_update_status(db);
	db->recovered_s = 0;
	rc = sdbox_recover(db, err);
	if (rc == 0)
		rc = find_unknown(db, &uid, err);
	index_abort(&txn);
	if (rc == 0 && uid)
		rc = error_set(err, -EUCLEAN,
			       "%s/u.%" PRIu32 " is there, and the index ends before it", db->path,
			       uid);
	return rc;
}

/* The files whose message can be read. */
static int list_messages(struct dbox *db, struct uids *uids, struct error *err)
{
	size_t kept = 0;
	int rc = list_files(db->path, uids, err);

	if (rc == 0 && db->alt_path)
		rc = list_files(db->alt_path, uids, err);
	if (rc < 0)
		return rc;
	if (uids->count)
		qsort(uids->list, uids->count, sizeof *uids->list, uid_cmp);
	if (uids->count)
		uids->highest = uids->list[uids->count - 1];
	for (size_t i = 0; i < uids->count; i++) {
		const struct index_record record = {.uid = uids->list[i]};
		struct dbox_message message;
		struct error cause;
		bool owned;
		int fd;

		if (kept && uids->list[kept - 1] == record.uid)
			continue;
		rc = dbox_message_of(db, &record, &message, &fd, &owned, &cause);
		if (dbox_is_missing(db, rc)) {
			log_warning("left out: %s", cause.text);
			continue;
		}
		/* Nothing is lost of what cannot be read just now. */
		if (rc < 0) {
			if (err)
				*err = cause;
			return rc;
		}
		close(fd);
		dbox_message_free(&message);
		uids->list[kept++] = record.uid;
	}
	uids->count = kept;
	return 0;
}

static int append_messages(struct dbox *db, const struct index *old, const struct uids *uids,
			   struct error *err)
{
	struct index_txn *txn;
	struct index_status status = {0};
	int rc = index_begin(db->index, -1, &txn, err);

	if (rc < 0)
		return rc;
	if (old)
		index_status(old, &status);
	for (size_t i = 0; rc == 0 && i < uids->count; i++) {
		struct mail_state state = {0};
		struct index_record record;

		if (old && index_find(old, uids->list[i], &record) == 0)
			rc = mail_state_of_record(old, db->path, &record, &state, err);
		if (rc == 0)
			rc = index_mail_append(txn, uids->list[i], &state, false, 0, err);
		mail_state_free(&state);
	}
	if (rc == 0)
		rc = index_set_next_uid(txn, status.next_uid, err);
	/* A file that is left out is nobody's to be replaced. */
	if (rc == 0 && uids->highest >= status.next_uid && uids->highest < INDEX_UID_MAX)
		rc = index_set_next_uid(txn, uids->highest + 1, err);
	if (rc == 0)
		rc = index_switch_on_modseqs(txn, err);
	if (rc == 0)
		return index_commit(&txn, true, err);
	index_abort(&txn);
	return rc;
}

/* The old index may not have said what GUID the mailbox had. */
static void recover_attachments(struct dbox *db, const struct uids *uids)
{
	dbox_update_status(db);
	for (size_t i = 0; db->attachments && i < uids->count; i++)
		sdbox_attachments_recover(db, uids->list[i]);
}

static int rebuild(struct dbox *db, const struct mailbox_place *place, struct error *err)
{
	struct uids uids = {0};
	struct index *old = NULL;
	int rc = dbox_salvage_index(db, &old, err), ended;

	if (rc == 0)
		rc = list_messages(db, &uids, err);
	if (rc == 0) {
		rc = dbox_replace_begin(db, place, old, 0, err);
		if (rc == 0)
			rc = append_messages(db, old, &uids, err);
		if (rc == 0)
			recover_attachments(db, &uids);
		ended = dbox_replace_end(db, rc == 0, rc == 0 ? err : NULL);
		if (rc == 0)
			rc = ended;
	}
	if (rc == 0)
		log_warning("%s: the index was made anew from %zu messages", db->path, uids.count);
	index_close(&old);
	free(uids.list);
	return rc;
}

int sdbox_rebuild(const struct mailbox_place *place, struct error *err)
{
	struct dbox *db;
	int rc = dbox_open_dirs(place, false, &db, err);

	if (rc < 0)
		return rc;
	rc = rebuild(db, place, err);
	dbox_free(db);
	return rc;
}
