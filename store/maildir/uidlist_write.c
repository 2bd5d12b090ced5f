/*
 * Writing dovecot-uidlist: appending lines to the file that is there, or a new one by way of
 * dovecot-uidlist.tmp. See uidlist.h. The caller holds dovecot-uidlist.lock.
 */
#include "store/maildir/uidlist_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/crash_point.h"
#include "store/base/file.h"
#include "store/base/owned_file.h"

#define WRITE_CHUNK ((size_t)256 * 1024)

int uidlist_append(struct uidlist *list, const struct buf *lines, struct error *err)
{
	AUTO_CLOSE int fd = openat(list->dirfd, UIDLIST_NAME,
				   O_WRONLY | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	struct stat st;
	bool replaced;
	int rc;

	if (lines->failed)
		return error_errno(err, lines->failed, "%s/" UIDLIST_NAME, list->what);
	if (lines->len == 0)
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, -errno, "%s/" UIDLIST_NAME, list->what);
	if (st.st_ino != list->ino || st.st_dev != list->dev || (size_t)st.st_size != list->size)
		return error_set(err, -ESTALE, "%s/" UIDLIST_NAME ": changed although it is locked",
				 list->what);
	/* A writer that died left a part of a line. Its message has no UID yet. */
	if (list->size > list->end && ftruncate(fd, (off_t)list->end) < 0)
		return error_errno(err, -errno, "%s/" UIDLIST_NAME ": truncate", list->what);
	list->size = list->end;
	rc = file_write_all(fd, lines->data, lines->len);
	crash_point("uidlist: appended, not synced");
	if (rc == 0 && fdatasync(fd) < 0)
		rc = -errno;
	if (rc < 0) {
		/* If this fails, too, the next writer finds a part of a line, or whole ones whose
		 * files wait for it. */
		int undo = ftruncate(fd, (off_t)list->end) < 0 ? errno : 0;

		return error_errno(err, rc, "%s/" UIDLIST_NAME ": append%s", list->what,
				   undo ? " (and it could not be undone)" : "");
	}
	return uidlist_refresh(list, &replaced, err);
}

/* A new file being written in pieces. */
struct new_list {
	int dirfd;
	int fd;
	const char *what;
	struct buf pending;
	struct error *err;
};

static int new_list_flush(struct new_list *out)
{
	int rc = out->pending.failed;

	if (rc == 0)
		rc = file_write_all(out->fd, out->pending.data, out->pending.len);
	if (rc < 0)
		return error_errno(out->err, rc, "%s/" UIDLIST_TMP_NAME ": write", out->what);
	buf_clear(&out->pending);
	return 0;
}

static int new_list_put(struct new_list *out, const char *data, size_t len)
{
	buf_append(&out->pending, data, len);
	return out->pending.len > WRITE_CHUNK || out->pending.failed ? new_list_flush(out) : 0;
}

static int new_list_put_lines(struct new_list *out, const struct buf *lines)
{
	if (!lines)
		return 0;
	if (lines->failed)
		return error_errno(out->err, lines->failed, "%s/" UIDLIST_NAME, out->what);
	return new_list_put(out, buf_str(lines), lines->len);
}

static int new_list_begin(struct new_list *out, const struct uidlist_header *header,
			  const char *header_tail)
{
	char hex[GUID_HEX_SIZE];

	/* Left by one that died: we hold the lock. It may be the list itself under a second name
	 * (file_rename_new()), so it is not written to. */
	unlinkat(out->dirfd, UIDLIST_TMP_NAME, 0);
	out->fd = owned_file_create(out->dirfd, UIDLIST_TMP_NAME, O_WRONLY | O_EXCL);
	if (out->fd < 0)
		return error_errno(out->err, out->fd, "%s/" UIDLIST_TMP_NAME, out->what);
	buf_printf(&out->pending, "3 V%u N%u G%s%s\n", header->uid_validity, header->next_uid,
		   guid_to_hex(&header->guid, hex), header_tail);
	return 0;
}

static int new_list_finish(struct new_list *out, bool replace)
{
	int rc = new_list_flush(out);

	if (rc < 0)
		return rc;
	crash_point("uidlist: written anew, not synced");
	if (fdatasync(out->fd) < 0)
		return error_errno(out->err, -errno, "%s/" UIDLIST_TMP_NAME ": sync", out->what);
	if (!replace)
		rc = file_rename_new(out->dirfd, UIDLIST_TMP_NAME, UIDLIST_NAME);
	else if (renameat(out->dirfd, UIDLIST_TMP_NAME, out->dirfd, UIDLIST_NAME) < 0)
		rc = -errno;
	if (rc < 0)
		return error_errno(out->err, rc, "%s/" UIDLIST_NAME, out->what);
	rc = file_sync_dir(out->dirfd, ".");
	if (rc < 0)
		return error_errno(out->err, rc, "%s: sync", out->what);
	return 0;
}

static void new_list_end(struct new_list *out, int rc)
{
	if (rc < 0 && out->fd >= 0)
		unlinkat(out->dirfd, UIDLIST_TMP_NAME, 0);
	file_close(&out->fd);
	buf_free(&out->pending);
}

static int write_new(int dirfd, const char *what, const struct uidlist_header *header,
		     const char *header_tail, const struct buf *lines, bool replace,
		     struct error *err)
{
	struct new_list out = {.dirfd = dirfd,
			       .fd = -1,
			       .what = what,
			       .pending = BUF_INIT(UIDLIST_SIZE_MAX),
			       .err = err};
	int rc = new_list_begin(&out, header, header_tail);

	if (rc == 0)
		rc = new_list_put_lines(&out, lines);
	if (rc == 0)
		rc = new_list_finish(&out, replace);
	new_list_end(&out, rc);
	return rc;
}

int uidlist_create(int dirfd, const char *what, const struct uidlist_header *header,
		   struct error *err)
{
	return write_new(dirfd, what, header, "", NULL, false, err);
}

int uidlist_replace(int dirfd, const char *what, const struct uidlist_header *header,
		    const char *header_tail, const struct buf *lines, struct error *err)
{
	return write_new(dirfd, what, header, header_tail, lines, true, err);
}

static int copy_kept_lines(const struct uidlist *list, struct new_list *out, uidlist_keep_fn *keep,
			   void *ctx)
{
	AUTO_BUF struct buf line = BUF_INIT(2 * UIDLIST_FIELDS_MAX);
	struct uidlist_iter iter;
	struct uidlist_record record;
	int rc = uidlist_seek(list, 0, &iter, out->err);

	if (rc < 0)
		return rc;
	while ((rc = uidlist_next(&iter, &record, out->err)) > 0) {
		if (keep && !keep(ctx, &record))
			continue;
		buf_clear(&line);
		rc = uidlist_format_line(&line, record.uid, record.fields, record.fields_len,
					 record.base, record.base_len);
		if (rc < 0)
			return error_set(out->err, -EUCLEAN,
					 "%s/" UIDLIST_NAME ": line of UID %u cannot be kept",
					 list->what, record.uid);
		rc = new_list_put(out, line.data, line.len);
		if (rc < 0)
			return rc;
	}
	return rc;
}

int uidlist_rewrite(struct uidlist *list, const struct uidlist_header *header,
		    uidlist_keep_fn *keep, void *ctx, const struct buf *extra_lines,
		    struct error *err)
{
	struct new_list out = {.dirfd = list->dirfd,
			       .fd = -1,
			       .what = list->what,
			       .pending = BUF_INIT(UIDLIST_SIZE_MAX),
			       .err = err};
	bool replaced;
	int rc = new_list_begin(&out, header, list->header_tail);

	if (rc == 0)
		rc = copy_kept_lines(list, &out, keep, ctx);
	if (rc == 0)
		rc = new_list_put_lines(&out, extra_lines);
	if (rc == 0)
		rc = new_list_finish(&out, true);
	new_list_end(&out, rc);
	return rc < 0 ? rc : uidlist_refresh(list, &replaced, err);
}
