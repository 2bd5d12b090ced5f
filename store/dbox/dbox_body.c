/*
 * The content of a message, uncompressed, with what its metadata tells. The saved date of mdbox is
 * in the index, that of sdbox in the cache, else the file's ctime (reference 4.3, 4.7).
 */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/body/decompress.h"

struct dbox_body {
	struct mail_body body;
	int fd;
	uint32_t uid;
	struct dbox_message message;
	struct decompress *in;
	struct dbox_attached *attached; /* NULL: it has no attachments elsewhere */
};

static int64_t saved_date(struct dbox *db, const struct index_record *record, int fd)
{
	uint8_t data[DBOX_MDBOX_RECORD] = {0};
	struct stat st;
	int64_t saved;

	if (db->multi) {
		index_record_ext(db->index, record, DBOX_EXT_MDBOX, data, sizeof data);
		return index_get32(data + 4);
	}
	if (index_cache_get_save_date(db->index, record, &saved) == 0)
		return saved;
	return fstat(fd, &st) == 0 ? st.st_ctim.tv_sec : 0;
}

static int open_attached(struct dbox *db, struct dbox_body *body, struct error *err)
{
	char suffix[DBOX_ATTACHMENT_SUFFIX_SIZE];
	struct dbox_attachments attachments;
	int rc = dbox_attachments_parse(body->message.metadata.other, &attachments);

	dbox_attachments_suffix_of(db, body->uid, suffix);
	if (rc < 0)
		rc = error_errno(err, rc == -EUCLEAN ? -EBADMSG : rc,
				 "%s: UID %u: where its attachments are cannot be read", db->path,
				 body->uid);
	else if (!db->attachments)
		rc = error_set(err, -EOPNOTSUPP,
			       "%s: UID %u has attachments in a directory of their own, and "
			       "mail_attachment_dir is not set",
			       db->path, body->uid);
	else
		rc = dbox_attached_open(db->attachments, suffix, &attachments, body->in,
					&body->attached, err);
	dbox_attachments_free(&attachments);
	return rc;
}

int dbox_body_open(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
		   struct mail_body_info *info_r, struct error *err)
{
	struct dbox *db = dbox_of(box);
	struct dbox_body *body = calloc(1, sizeof *body);
	struct index_record record;
	bool owned = false;
	int fd = -1, rc;

	*info_r = (struct mail_body_info){0};
	if (!body)
		return error_errno(err, -ENOMEM, "%s", db->path);
	body->body.box = box;
	body->fd = -1;
	body->uid = uid;
	rc = index_find(db->index, uid, &record);
	if (rc < 0)
		error_set(err, rc, "%s: no message with UID %u", db->path, uid);
	if (rc == 0)
		rc = dbox_message_of(db, &record, &body->message, &fd, &owned, err);
	if (rc == 0) {
		/* The storage goes on to other files. */
		body->fd = owned ? fd : fcntl(fd, F_DUPFD_CLOEXEC, 0);
		if (body->fd < 0)
			rc = error_errno(err, -errno, "%s", db->path);
	}
	if (rc == 0) {
		const struct dbox_metadata *metadata = &body->message.metadata;

		/* An uncompressed message may look compressed: Z says that it is. */
		rc = decompress_open(body->fd, body->message.body_offset, body->message.body_size,
				     metadata->physical_size == 0, &body->in);
		if (rc < 0)
			error_errno(err, rc, "%s: UID %u", db->path, uid);
		if (rc == 0 && metadata->external)
			rc = open_attached(db, body, err);
		info_r->received = metadata->received;
		info_r->saved = saved_date(db, &record, body->fd);
		info_r->pop3_uidl = metadata->pop3_uidl;
		info_r->pop3_order = metadata->pop3_order;
	}
	if (rc < 0) {
		dbox_body_close(&body->body);
		return rc;
	}
	body->body.may_break = body->attached || decompress_is_compressed(body->in);
	*body_r = &body->body;
	return 0;
}

ssize_t dbox_body_read(struct mail_body *base, void *data, size_t size, struct error *err)
{
	struct dbox_body *body = (struct dbox_body *)base;
	ssize_t n;

	if (body->attached) {
		n = dbox_attached_read(body->attached, data, size, err);
		if (n < 0)
			error_prefix(err, "%s: UID %u", dbox_of(base->box)->path, body->uid);
		return n;
	}
	n = decompress_read(body->in, data, size);
	return n < 0 ? error_errno(err, (int)n, "%s: UID %u", dbox_of(base->box)->path, body->uid)
		     : n;
}

void dbox_body_close(struct mail_body *base)
{
	struct dbox_body *body = (struct dbox_body *)base;

	dbox_attached_close(&body->attached);
	decompress_close(&body->in);
	file_close(&body->fd);
	dbox_message_free(&body->message);
	free(body);
}
