/*
 * The content of a message, uncompressed, with what its file tells: received date (mtime) and saved
 * date (cache, else ctime), and what the uidlist tells about POP3.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/index/index_cache.h"
#include "store/body/decompress.h"

#define OPEN_TRIES 5

struct maildir_body {
	struct mail_body body;
	int fd;
	char *path;
	struct decompress *in;
	char *pop3_uidl;
};

/* The file may be renamed between finding and opening it. */
static int open_file(struct maildir *md, const struct index_record *record,
		     char path_r[MAILDIR_PATH_MAX], struct error *err)
{
	struct maildir_wanted wanted;
	int rc = maildir_want_record(md, record, &wanted, err);

	for (int i = 0; rc == 0 && i < OPEN_TRIES; i++) {
		int fd;

		rc = maildir_find_files(md, &wanted, 1, err);
		if (rc < 0)
			return rc;
		if (!wanted.path[0])
			return error_set(err, -ENOENT, "%s: the file of UID %u (%.*s) is missing",
					 md->path, record->uid, (int)wanted.base_len, wanted.base);
		fd = openat(md->dirfd, wanted.path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
		memcpy(path_r, wanted.path, MAILDIR_PATH_MAX);
		if (fd >= 0)
			return fd;
		if (errno != ENOENT)
			return error_errno(err, -errno, "%s/%s", md->path, wanted.path);
		rc = 0;
	}
	if (rc < 0)
		return rc;
	return error_set(err, -EAGAIN, "%s: the file of UID %u is renamed all the time", md->path,
			 record->uid);
}

static int read_line_fields(struct maildir *md, uint32_t uid, struct maildir_body *body,
			    const struct stat *st, struct mail_body_info *info_r, bool *plain_r,
			    struct error *err)
{
	struct uidlist_record line;
	const char *value;
	uint64_t size;
	size_t len;
	int rc = uidlist_find(md->uidlist, uid, &line, err);

	if (rc < 0)
		return rc;
	/* An uncompressed message whose first bytes look compressed gives itself away by its size.
	 */
	*plain_r = maildir_name_size_field(line.base, line.base_len, 'S', &size) &&
		   size == (uint64_t)st->st_size;
	value = uidlist_field(&line, 'P', &len);
	if (value && len == 0) {
		value = line.base;
		len = line.base_len;
	}
	body->pop3_uidl = strndup(value ? value : "", len);
	if (!body->pop3_uidl)
		return error_errno(err, -ENOMEM, "%s", md->path);
	info_r->pop3_uidl = body->pop3_uidl;
	value = uidlist_field(&line, 'O', &len);
	for (; value && len && *value >= '0' && *value <= '9'; value++, len--)
		info_r->pop3_order = info_r->pop3_order * 10 + (uint32_t)(*value - '0');
	return 0;
}

int maildir_body_open(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
		      struct mail_body_info *info_r, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct maildir_body *body;
	struct index_record record;
	char path[MAILDIR_PATH_MAX];
	struct stat st;
	bool plain = false;
	int rc = index_find(md->index, uid, &record);

	*info_r = (struct mail_body_info){.pop3_uidl = ""};
	if (rc < 0)
		return error_set(err, rc, "%s: no message with UID %u", md->path, uid);
	body = calloc(1, sizeof *body);
	if (!body)
		return error_errno(err, -ENOMEM, "%s", md->path);
	body->body.box = box;
	body->fd = open_file(md, &record, path, err);
	rc = body->fd < 0 ? body->fd : 0;
	if (rc == 0 && asprintf(&body->path, "%s/%s", md->path, path) < 0) {
		body->path = NULL;
		rc = error_errno(err, -ENOMEM, "%s", md->path);
	}
	if (rc == 0 && fstat(body->fd, &st) < 0)
		rc = error_errno(err, -errno, "%s", body->path);
	if (rc == 0 && !S_ISREG(st.st_mode))
		rc = error_set(err, -EINVAL, "%s: not a regular file", body->path);
	if (rc == 0)
		rc = read_line_fields(md, uid, body, &st, info_r, &plain, err);
	if (rc == 0) {
		rc = decompress_open(body->fd, 0, DECOMPRESS_WHOLE, plain, &body->in);
		if (rc < 0)
			error_errno(err, rc, "%s", body->path);
	}
	if (rc < 0) {
		maildir_body_close(&body->body);
		return rc;
	}
	body->body.may_break = decompress_is_compressed(body->in);
	info_r->received = st.st_mtim.tv_sec;
	if (index_cache_get_save_date(md->index, &record, &info_r->saved) < 0)
		info_r->saved = st.st_ctim.tv_sec;
	*body_r = &body->body;
	return 0;
}

ssize_t maildir_body_read(struct mail_body *base, void *data, size_t size, struct error *err)
{
	struct maildir_body *body = (struct maildir_body *)base;
	ssize_t n = decompress_read(body->in, data, size);

	return n < 0 ? error_errno(err, (int)n, "%s", body->path) : n;
}

void maildir_body_close(struct mail_body *base)
{
	struct maildir_body *body = (struct maildir_body *)base;

	decompress_close(&body->in);
	file_close(&body->fd);
	free(body->path);
	free(body->pop3_uidl);
	free(body);
}
