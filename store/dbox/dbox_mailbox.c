/*
 * A dbox mailbox: open, refresh, status, and what messages it has. See store/mailbox.h.
 *
 * The index has all but the message's GUID as a string: that is in its metadata, so listing
 * messages reads a little of each. A message whose body cannot be read is left out, with a warning:
 * whoever replicates it puts it back.
 */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/digest.h"
#include "store/base/file.h"
#include "store/base/log.h"

#define OPEN_TRIES   5
#define OPEN_WAIT_US 20000

void (*dbox_test_step)(const char *step);

/* ---- open and close ---- */

void dbox_update_status(struct dbox *db)
{
	struct index_status status;
	struct guid guid;

	index_status(db->index, &status);
	dbox_index_guid(db->index, db->multi, &guid);
	db->box.status = (struct mailbox_status){
		.guid = guid,
		.uid_validity = status.uid_validity,
		.uid_next = status.next_uid,
		.messages = status.messages,
		.first_recent_uid = status.first_recent_uid,
		.highest_modseq = status.highest_modseq,
	};
}

static int open_index(struct dbox *db, struct error *err)
{
	struct index_options options;
	int rc;

	index_close(&db->index);
	dbox_index_options(db, &options);
	rc = index_open(db->index_fd, &options, &db->index, err);
	return rc == -ENOENT ? 0 : rc;
}

static int open_mailbox(const struct mailbox_place *place, bool multi, struct mailbox **box_r,
			struct error *err)
{
	struct dbox *db;
	bool waited = false;
	int rc = dbox_open_dirs(place, multi, &db, err);

	if (rc < 0)
		return rc;
	for (int i = 0; i < OPEN_TRIES; i++) {
		rc = open_index(db, err);
		/* A rotation or a rebuild by Dovecot looks like damage for a moment. */
		if (rc == -EUCLEAN && i + 1 < OPEN_TRIES) {
			usleep(OPEN_WAIT_US);
			continue;
		}
		if (rc < 0 || !dbox_needs_setup(db))
			break;
		if (!waited) {
			waited = true;
			rc = place->wait_for_creator(place->ctx, err);
			if (rc < 0)
				break;
			continue;
		}
		rc = dbox_setup(db, place, err);
		if (rc < 0 || !dbox_needs_setup(db))
			break;
		rc = error_set(err, -EUCLEAN, "%s: the index does not stay as it was made",
			       db->index_path);
	}
	if (rc < 0) {
		dbox_free(db);
		return rc;
	}
	dbox_update_status(db);
	*box_r = &db->box;
	return 0;
}

static int mdbox_open(const struct mailbox_place *place, struct mailbox **box_r, struct error *err)
{
	return open_mailbox(place, true, box_r, err);
}

static int sdbox_open(const struct mailbox_place *place, struct mailbox **box_r, struct error *err)
{
	return open_mailbox(place, false, box_r, err);
}

static void dbox_close(struct mailbox *box)
{
	dbox_free(dbox_of(box));
}

static int dbox_refresh(struct mailbox *box, struct error *err)
{
	struct dbox *db = dbox_of(box);
	struct stat path, dir;
	int rc;

	if (stat(db->path, &path) < 0 || fstat(db->dirfd, &dir) < 0)
		return error_errno(err, errno == ENOENT ? -ESTALE : -errno, "%s", db->path);
	if (path.st_ino != dir.st_ino || path.st_dev != dir.st_dev)
		return error_set(err, -ESTALE, "%s was replaced by another directory", db->path);
	rc = index_refresh(db->index, err);
	if (rc < 0)
		return rc == -ENOENT ? error_set(err, -ESTALE, "%s: the index was removed",
						 db->index_path)
				     : rc;
	if (dbox_needs_setup(db))
		return error_set(err, -ESTALE, "%s: the index was made anew", db->index_path);
	dbox_update_status(db);
	return 0;
}

static struct index *dbox_index(struct mailbox *box)
{
	return dbox_of(box)->index;
}

int dbox_need_storage(struct dbox *db, bool make, struct error *err)
{
	const struct mdbox_paths paths = {.path = db->storage_paths[0],
					  .index_path = db->storage_paths[1],
					  .alt_path = db->storage_paths[2],
					  .rotate_size = db->rotate_size,
					  .rotate_interval = db->rotate_interval,
					  .preallocate = db->preallocate,
					  .attachments = db->attachments};

	return db->storage ? 0 : mdbox_storage_open(&paths, make, &db->storage, err);
}

/* ---- messages ---- */

void sdbox_file_name(uint32_t uid, char name_r[16])
{
	snprintf(name_r, 16, "u.%" PRIu32, uid);
}

int sdbox_file_open(const struct dbox *db, uint32_t uid, char *name_r, size_t name_size)
{
	char file[16];
	int fd;

	sdbox_file_name(uid, file);
	snprintf(name_r, name_size, "%s/%s", db->path, file);
	fd = dbox_file_open(db->dirfd, file, O_RDONLY);
	if (fd == -ENOENT && db->alt_path) {
		snprintf(name_r, name_size, "%s/%s", db->alt_path, file);
		fd = dbox_file_open(AT_FDCWD, name_r, O_RDONLY);
		if (fd == -ENOENT)
			snprintf(name_r, name_size, "%s/%s", db->path, file);
	}
	return fd;
}

static int sdbox_message_of(struct dbox *db, uint32_t uid, struct dbox_message *message_r,
			    int *fd_r, struct error *err)
{
	struct dbox_file_header header;
	char name[4300];
	int rc;

	*fd_r = sdbox_file_open(db, uid, name, sizeof name);
	if (*fd_r == -ENOENT && db->alt_root && access(db->alt_root, F_OK) < 0)
		return error_set(
			err, -ENODEV,
			"%s is missing, and so is the alternative storage (not mounted?): %s", name,
			db->alt_root);
	if (*fd_r == -ENXIO)
		return error_set(err, -ENOENT, "%s is no file", name);
	if (*fd_r < 0)
		return error_errno(err, *fd_r, "%s", name);
	rc = dbox_file_header_read(*fd_r, name, &header, err);
	if (rc < 0)
		goto failed;
	rc = dbox_message_read(*fd_r, name, header.size, 0, message_r, err);
	if (rc < 0)
		goto failed;
	return 0;
failed:
	file_close(fd_r);
	return rc == -ENODATA ? -EUCLEAN : rc;
}

void dbox_attachments_suffix_of(const struct dbox *db, uint32_t uid,
				char suffix_r[DBOX_ATTACHMENT_SUFFIX_SIZE])
{
	if (db->multi)
		*suffix_r = '\0';
	else
		dbox_attachment_suffix(&db->box.status.guid, uid, suffix_r);
}

uint32_t dbox_record_map_uid(const struct dbox *db, const struct index_record *record)
{
	uint8_t data[DBOX_MDBOX_RECORD] = {0};

	index_record_ext(db->index, record, DBOX_EXT_MDBOX, data, sizeof data);
	return index_get32(data);
}

bool dbox_record_guid(const struct dbox *db, const struct index_record *record, struct guid *guid_r)
{
	*guid_r = (struct guid){0};
	return index_record_ext(db->index, record, DBOX_EXT_GUID, guid_r->bytes,
				sizeof guid_r->bytes) == 0 &&
	       !guid_is_empty(guid_r);
}

static int mdbox_message_of(struct dbox *db, const struct index_record *record,
			    struct dbox_message *message_r, int *fd_r, struct error *err)
{
	int rc = dbox_need_storage(db, false, err);
	struct guid guid, stored;

	if (rc == -ENOENT)
		return error_set(err, -ENOENT, "%s: the storage is missing", db->storage_paths[0]);
	if (rc < 0)
		return rc;
	rc = mdbox_message_open(db->storage, dbox_record_map_uid(db, record), message_r, fd_r, err);
	if (rc < 0)
		return rc;
	guid_from_message_guid(message_r->metadata.guid, &stored);
	if (*message_r->metadata.guid && dbox_record_guid(db, record, &guid) &&
	    !guid_equal(&guid, &stored)) {
		rc = error_set(err, -EUCLEAN,
			       "%s: damaged at offset %" PRIu64
			       ": the message there (%s) is not that of UID %u",
			       db->storage->file_name, message_r->offset, message_r->metadata.guid,
			       record->uid);
		dbox_message_free(message_r);
	}
	return rc;
}

/* Of what is in the file: the same wherever the message goes. */
static int guid_of_body(int fd, const struct dbox_message *message, struct guid *guid_r)
{
	struct digest_sum *sum = NULL;
	uint8_t sha1[DIGEST_SHA1_SIZE];
	uint64_t done = 0;
	char data[16384];
	int rc = digest_sum_begin(&sum);

	while (rc == 0 && done < message->body_size) {
		uint64_t left = message->body_size - done;
		size_t want = left < sizeof data ? (size_t)left : sizeof data;

		rc = file_pread_all(fd, data, want, (off_t)(message->body_offset + done));
		if (rc == 0)
			digest_sum_add(sum, data, want);
		done += want;
	}
	if (rc == 0) {
		digest_sum_end(sum, sha1);
		memcpy(guid_r->bytes, sha1, sizeof guid_r->bytes);
	}
	digest_sum_free(&sum);
	return rc;
}

/* A damaged message that has lost its GUID is a message all the same. The index of an mdbox mailbox
 * knows it. */
static int give_guid(struct dbox *db, const struct index_record *record, int fd,
		     struct dbox_message *message, struct error *err)
{
	char hex[GUID_HEX_SIZE];
	struct guid guid;
	char *text;
	int rc = 0;

	if (*message->metadata.guid)
		return 0;
	if (!db->multi || !dbox_record_guid(db, record, &guid))
		rc = guid_of_body(fd, message, &guid);
	if (rc < 0)
		return error_errno(err, rc, "%s: UID %u", db->path, record->uid);
	text = strdup(guid_to_hex(&guid, hex));
	if (!text)
		return error_errno(err, -ENOMEM, "%s: UID %u", db->path, record->uid);
	log_warning("%s: UID %u: the message has no GUID and gets %s", db->path, record->uid, text);
	free(message->metadata.guid);
	message->metadata.guid = text;
	return 0;
}

int dbox_message_of(struct dbox *db, const struct index_record *record,
		    struct dbox_message *message_r, int *fd_r, bool *owned_r, struct error *err)
{
	int rc;

	*fd_r = -1;
	*owned_r = !db->multi;
	rc = db->multi ? mdbox_message_of(db, record, message_r, fd_r, err)
		       : sdbox_message_of(db, record->uid, message_r, fd_r, err);
	if (rc < 0)
		return rc;
	rc = give_guid(db, record, *fd_r, message_r, err);
	if (rc < 0) {
		dbox_message_free(message_r);
		if (*owned_r)
			file_close(fd_r);
	}
	return rc;
}

bool dbox_is_missing(const struct dbox *db, int rc)
{
	return rc == -ENOENT || (rc == -EUCLEAN && !db->multi);
}

static int fill_mail(struct dbox *db, const struct index_record *record, struct mail *mail_r,
		     struct error *err)
{
	struct dbox_message message = {0};
	bool owned;
	int fd, rc = dbox_message_of(db, record, &message, &fd, &owned, err);

	if (rc < 0)
		return rc;
	if (owned)
		close(fd);
	free(db->guid_text);
	db->guid_text = message.metadata.guid;
	message.metadata.guid = NULL;
	dbox_message_free(&message);
	return index_mail_fill(db->index, record, db->guid_text, &db->names, mail_r, err);
}

static int dbox_find(struct mailbox *box, uint32_t uid, struct mail *mail_r, struct error *err)
{
	struct dbox *db = dbox_of(box);
	struct index_record record;
	int rc = index_find(db->index, uid, &record);

	if (rc == -ENOENT)
		return error_set(err, rc, "%s: no message with UID %u", db->path, uid);
	return fill_mail(db, &record, mail_r, err);
}

static int dbox_each(struct mailbox *box, uint32_t first_uid, uint32_t last_uid,
		     mailbox_each_fn *each, void *ctx, struct error *err)
{
	struct dbox *db = dbox_of(box);
	struct index_record record;
	struct index_iter records;
	struct mail mail;
	int rc;

	index_iter_init(db->index, first_uid, &records);
	while (index_iter_next(&records, &record) && record.uid <= last_uid) {
		struct error cause = {0};

		rc = fill_mail(db, &record, &mail, &cause);
		if (dbox_is_missing(db, rc)) {
			log_warning("UID %u has no message that can be read: %s", record.uid,
				    cause.text);
			continue;
		}
		if (rc < 0) {
			if (err)
				*err = cause;
			return rc;
		}
		rc = each(ctx, &mail);
		if (rc != 0)
			return rc;
	}
	return records.failed < 0 ? error_errno(err, records.failed, "%s", db->index_path) : 0;
}

/* ---- the formats ---- */

#define DBOX_FUNCTIONS                                                                             \
	.part = DBOX_MAIL_DIR, .close = dbox_close, .refresh = dbox_refresh, .each = dbox_each,    \
	.find = dbox_find, .index = dbox_index, .body_open = dbox_body_open,                       \
	.body_read = dbox_body_read, .body_close = dbox_body_close, .spool_open = dbox_spool_open, \
	.spool_write = dbox_spool_write, .spool_discard = dbox_spool_discard, .begin = dbox_begin, \
	.append = dbox_append, .copy = dbox_copy, .set_flags = dbox_set_flags,                     \
	.expunge = dbox_expunge, .bury = dbox_bury, .change_uid = dbox_change_uid,                 \
	.set_uid_validity = dbox_set_uid_validity, .set_guid = dbox_set_guid, .raise = dbox_raise, \
	.commit = dbox_commit, .abort = dbox_abort, .catch_up = dbox_catch_up, .scan = dbox_scan

const struct mailbox_format mailbox_format_mdbox = {
	DBOX_FUNCTIONS,
	.peek = mdbox_peek,
	.create = mdbox_create,
	.delete_begin = mdbox_delete_begin,
	.delete_end = mdbox_delete_end,
	.open = mdbox_open,
	.rebuild = mdbox_rebuild,
};
const struct mailbox_format mailbox_format_sdbox = {
	DBOX_FUNCTIONS,
	.peek = sdbox_peek,
	.create = sdbox_create,
	.delete_begin = sdbox_delete_begin,
	.delete_end = sdbox_delete_end,
	.open = sdbox_open,
	.rebuild = sdbox_rebuild,
};
