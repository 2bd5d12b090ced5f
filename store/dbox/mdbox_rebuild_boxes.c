/* The mailboxes' half of a rebuild. See mdbox_rebuild.c. */
#include "store/dbox/mdbox_rebuild.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/base/log.h"
#include "store/index/index_changes.h"

static const struct index_ext_def mdbox_def = {
	.name = DBOX_EXT_MDBOX, .record_size = DBOX_MDBOX_RECORD, .record_align = 4};
static const struct index_ext_def guid_def = {
	.name = DBOX_EXT_GUID, .record_size = 16, .record_align = 1};

/* guid_r: which the message has from now on. */
static struct found *found_of(const struct rebuild *rebuild, const struct index *index,
			      const struct index_record *record, uint8_t data[DBOX_MDBOX_RECORD],
			      struct guid *guid_r)
{
	struct found *found;

	memset(data, 0, DBOX_MDBOX_RECORD);
	*guid_r = (struct guid){0};
	index_record_ext(index, record, DBOX_EXT_MDBOX, data, DBOX_MDBOX_RECORD);
	index_record_ext(index, record, DBOX_EXT_GUID, guid_r->bytes, sizeof guid_r->bytes);
	found = mdbox_rebuild_find(rebuild, guid_r, index_get32(data));
	if (found && (!found->nameless || guid_is_empty(guid_r)))
		*guid_r = found->guid;
	return found;
}

/* ---- counting ---- */

static int count_box(void *ctx, int dirfd, const char *path, struct error *err)
{
	const struct index_options options = {.label = path, .read_only = true, .salvage = true};
	struct rebuild *rebuild = ctx;
	struct index_record record;
	struct index_iter iter;
	struct index *index;
	int rc = index_open(dirfd, &options, &index, err);

	if (rc < 0)
		return rc == -ENOENT || rc == -EUCLEAN ? 0 : rc;
	index_iter_init(index, 1, &iter);
	while (index_iter_next(&iter, &record)) {
		uint8_t data[DBOX_MDBOX_RECORD];
		struct guid guid;
		struct found *found = found_of(rebuild, index, &record, data, &guid);

		if (found && found->entry.ref < MDBOX_REF_MAX)
			found->entry.ref++;
	}
	index_close(&index);
	return 0;
}

int mdbox_rebuild_count(struct rebuild *rebuild, struct error *err)
{
	int rc = mdbox_each_box(rebuild->storage, count_box, rebuild, err);

	for (size_t i = 0; rc == 0 && i < rebuild->count; i++) {
		struct found *found = &rebuild->found[i];
		/* Of several copies the mailboxes have the first. */
		bool again = i > 0 && guid_equal(&found->guid, &rebuild->found[i - 1].guid) &&
			     found->size == rebuild->found[i - 1].size;

		if (found->entry.ref > 0 || found->was_dead || again)
			continue;
		found->orphan = true;
		found->entry.ref = 1;
		rebuild->orphans++;
	}
	return rc;
}

/* ---- writing ---- */

struct box {
	struct rebuild *rebuild;
	struct index *index;
	const char *path, *name; /* name: as on disk */
};

static int put_record(struct index_txn *txn, uint32_t uid, const struct found *found,
		      const struct guid *guid, uint32_t saved, struct error *err)
{
	uint8_t data[DBOX_MDBOX_RECORD];
	int rc;

	index_put32(data, found->entry.map_uid);
	index_put32(data + 4, saved);
	rc = index_update_ext(txn, &mdbox_def, uid, data, err);
	return rc < 0 ? rc : index_update_ext(txn, &guid_def, uid, guid->bytes, err);
}

/* Records get their map UID; those of messages that are nowhere go. Nobody expunged them: the log
 * names a GUID that no message has, so that no replica takes it for one of its own. */
static int correct_records(const struct box *box, struct index_txn *txn, struct error *err)
{
	struct index_record record;
	struct index_iter iter;
	size_t lost = 0;
	int rc = 0;

	index_iter_init(box->index, 1, &iter);
	while (rc == 0 && index_iter_next(&iter, &record)) {
		uint8_t data[DBOX_MDBOX_RECORD];
		struct guid guid, nobodys;
		struct found *found = found_of(box->rebuild, box->index, &record, data, &guid);

		if (!found) {
			guid_generate(&nobodys);
			rc = index_expunge(txn, record.uid, &nobodys, err);
			log_warning("%s: the message of UID %u is in no file", box->path,
				    record.uid);
			lost++;
		} else if (found->entry.map_uid != index_get32(data)) {
			rc = put_record(txn, record.uid, found, &guid, index_get32(data + 4), err);
		}
	}
	if (lost)
		log_error("%s: %zu messages are lost", box->path, lost);
	return rc;
}

/* Records of an index that cannot be used any more. */
static int append_records(const struct box *box, const struct index *old, struct index_txn *txn,
			  struct error *err)
{
	struct index_record record;
	struct index_status status;
	struct index_iter iter;
	int rc = 0;

	index_iter_init(old, 1, &iter);
	while (rc == 0 && index_iter_next(&iter, &record)) {
		uint8_t data[DBOX_MDBOX_RECORD];
		struct guid guid;
		struct found *found = found_of(box->rebuild, old, &record, data, &guid);
		struct mail_state state = {0};

		if (!found)
			continue;
		rc = mail_state_of_record(old, box->path, &record, &state, err);
		if (rc == 0)
			rc = index_mail_append(txn, record.uid, &state, false, 0, err);
		if (rc == 0)
			rc = put_record(txn, record.uid, found, &guid, index_get32(data + 4), err);
		mail_state_free(&state);
	}
	index_status(old, &status);
	return rc < 0 ? rc : index_set_next_uid(txn, status.next_uid, err);
}

static int append_orphans(const struct box *box, struct index_txn *txn, struct error *err)
{
	const struct mail_state state = {0};
	uint32_t uid = index_txn_next_uid(txn), now = (uint32_t)time(NULL);
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < box->rebuild->count; i++) {
		struct found *found = &box->rebuild->found[i];

		if (!found->orphan || strcmp(found->mailbox, box->name) != 0)
			continue;
		found->orphan = false;
		rc = index_mail_append(txn, uid, &state, true, 0, err);
		if (rc == 0)
			rc = put_record(txn, uid++, found, &found->guid, now, err);
	}
	return rc;
}

static int belong_to_storage(const struct box *box, struct index_txn *txn, struct error *err)
{
	uint32_t uid_validity = mdbox_storage_uid_validity(box->rebuild->storage);
	struct index_ext ext;
	uint8_t value[4];

	if (index_ext_find(box->index, DBOX_EXT_MDBOX_HDR, &ext) == 0 && ext.hdr_size >= 4 &&
	    index_get32(ext.hdr) == uid_validity)
		return 0;
	index_put32(value, uid_validity);
	return index_update_ext_hdr(txn, dbox_hdr_def(true), 0, value, sizeof value, err);
}

/* "<index root>/mailboxes/Work/dbox-Mails" -> "Work" */
static char *name_of(const struct rebuild *rebuild, const char *path)
{
	const char *slash = strrchr(rebuild->storage->index_path, '/');
	size_t root =
		(size_t)(slash - rebuild->storage->index_path) + strlen("/" DBOX_MAILBOXES_DIR "/");
	size_t len = strlen(path), part = strlen("/" DBOX_MAIL_DIR);

	if (len < root)
		return NULL;
	path += root;
	len -= root;
	if (len > part && strcmp(path + len - part, "/" DBOX_MAIL_DIR) == 0)
		len -= part;
	return strndup(path, len);
}

static int write_index(const struct box *box, const struct index *old, struct error *err)
{
	struct index_txn *txn;
	int rc = index_begin(box->index, -1, &txn, err);

	if (rc < 0)
		return rc;
	rc = belong_to_storage(box, txn, err);
	if (rc == 0)
		rc = old ? append_records(box, old, txn, err) : correct_records(box, txn, err);
	if (rc == 0)
		rc = append_orphans(box, txn, err);
	if (rc == 0)
		rc = index_switch_on_modseqs(txn, err);
	if (rc == 0)
		return index_commit(&txn, true, err);
	index_abort(&txn);
	return rc;
}

static bool is_sound(const struct index *index)
{
	return index_ext_is_sound(index, DBOX_EXT_MDBOX, 0, DBOX_MDBOX_RECORD) &&
	       index_ext_is_sound(index, DBOX_EXT_GUID, 0, 16) &&
	       index_ext_is_sound(index, DBOX_EXT_MDBOX_HDR, DBOX_HDR_SIZE, 0) &&
	       index_ext_is_sound(index, "modseq", 16, 8);
}

static int write_box(void *ctx, int dirfd, const char *path, struct error *err)
{
	struct rebuild *rebuild = ctx;
	struct dbox db = {.multi = true, .index_path = (char *)path, .index_fd = dirfd};
	struct box box = {.rebuild = rebuild, .path = path};
	struct index_options options;
	struct index *old = NULL;
	char *name = name_of(rebuild, path);
	bool replaced = false;
	int rc;

	box.name = name ? name : "";
	dbox_index_options(&db, &options);
	rc = index_open(dirfd, &options, &db.index, err);
	if (rc == -ENOENT) {
		free(name);
		return 0;
	}
	if (rc == 0 && (!is_sound(db.index) || dbox_needs_setup(&db))) {
		index_close(&db.index);
		rc = error_set(err, -EUCLEAN, "%s: the index is not that of an mdbox mailbox",
			       path);
	}
	if (rc == 0) {
		rc = index_check_history(db.index, err);
		if (rc < 0)
			index_close(&db.index);
	}
	if (rc == -EUCLEAN) {
		log_warning("%s; the index is made anew from what can be read of it",
			    err ? err->text : path);
		rc = dbox_salvage_index(&db, &old, err);
		if (rc == 0) {
			replaced = true;
			rc = dbox_replace_begin(&db, rebuild->place, old,
						mdbox_storage_uid_validity(rebuild->storage), err);
		}
	}
	box.index = db.index;
	if (rc == 0)
		rc = write_index(&box, old, err);
	if (replaced) {
		int ended = dbox_replace_end(&db, rc == 0, rc == 0 ? err : NULL);

		if (rc == 0)
			rc = ended;
	}
	index_close(&old);
	index_close(&db.index);
	free(name);
	DBOX_STEP("rebuild: mailbox written");
	return rc == -ESTALE ? 0 : rc; /* being deleted */
}

/* The mailbox that they were first saved to is not there any more. */
static int send_to_inbox(struct rebuild *rebuild)
{
	size_t count = 0;

	for (size_t i = 0; i < rebuild->count; i++) {
		if (!rebuild->found[i].orphan)
			continue;
		rebuild->found[i].mailbox = "INBOX";
		count++;
	}
	return count > 0;
}

int mdbox_rebuild_boxes(struct rebuild *rebuild, struct error *err)
{
	int rc = mdbox_each_box(rebuild->storage, write_box, rebuild, err);

	if (rc == 0 && send_to_inbox(rebuild))
		rc = mdbox_each_box(rebuild->storage, write_box, rebuild, err);
	return rc;
}
