/*
 * A Maildir mailbox: open, refresh, status, and what messages it has. See store/mailbox.h.
 *
 * The index is refreshed before the uidlist. A writer adds a line before the index record, so every
 * record of the view has its line in the list that is read after it; but for one that was expunged
 * and compacted away in between, which is then left out.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"

#define OPEN_TRIES   5
#define OPEN_WAIT_US 20000

const struct mailbox_format mailbox_format_maildir = {
	.part = "cur",
	.peek = maildir_peek,
	.create = maildir_create,
	.rename_begin = maildir_rename_begin,
	.rename_end = maildir_rename_end,
	.open = maildir_open,
	.rebuild = maildir_rebuild,
	.close = maildir_close,
	.refresh = maildir_refresh,
	.each = maildir_each,
	.find = maildir_find,
	.index = maildir_index,
	.expunged_guid = maildir_expunged_guid,
	.body_open = maildir_body_open,
	.body_read = maildir_body_read,
	.body_close = maildir_body_close,
	.spool_open = maildir_spool_open,
	.spool_write = maildir_spool_write,
	.spool_discard = maildir_spool_discard,
	.begin = maildir_begin,
	.append = maildir_append,
	.copy = maildir_copy,
	.set_flags = maildir_set_flags,
	.expunge = maildir_expunge,
	.bury = maildir_bury,
	.change_uid = maildir_change_uid,
	.set_uid_validity = maildir_set_uid_validity,
	.set_guid = maildir_set_guid,
	.raise = maildir_raise,
	.commit = maildir_commit,
	.abort = maildir_abort,
	.catch_up = maildir_catch_up,
	.scan = maildir_scan,
	.explain_missing = maildir_explain_missing,
	.has_removal = maildir_has_removal,
	.settle = maildir_settle,
};

void (*maildir_test_step)(const char *step);

/* ---- open and close ---- */

/*
 * Below UIDNEXT there is nothing but what the index lists: a replica relies on it. While Dovecot
 * saves, the uidlist already has a line that the index gets a moment later, and the UID of that
 * line is not below UIDNEXT yet.
 */
static uint32_t settled_uid_next(const struct maildir *md, uint32_t index_next_uid)
{
	uint32_t next_uid = uidlist_header(md->uidlist)->next_uid;
	struct error ignored;
	bool behind;

	if (next_uid <= index_next_uid)
		return index_next_uid;
	if (maildir_index_is_behind(md, &behind, &ignored) < 0 || behind)
		return index_next_uid;
	return next_uid;
}

void maildir_update_status(struct maildir *md)
{
	const struct uidlist_header *header = uidlist_header(md->uidlist);
	struct index_status status;

	index_status(md->index, &status);
	md->box.status = (struct mailbox_status){
		.guid = header->guid,
		.uid_validity = header->uid_validity,
		.uid_next = settled_uid_next(md, status.next_uid),
		.messages = status.messages,
		.first_recent_uid = status.first_recent_uid,
		.highest_modseq = status.highest_modseq,
	};
}

static int open_files(struct maildir *md, struct error *err)
{
	struct index_options options;
	int rc;

	index_close(&md->index);
	uidlist_close(&md->uidlist);
	maildir_index_options(md, &options);
	rc = index_open(md->index_fd, &options, &md->index, err);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	rc = uidlist_open(md->control_fd, md->control_path, &md->uidlist, err);
	return rc == -ENOENT ? 0 : rc;
}

int maildir_open(const struct mailbox_place *place, struct mailbox **box_r, struct error *err)
{
	struct maildir *md;
	bool waited = false;
	int rc = maildir_open_dirs(place, &md, err);

	if (rc < 0)
		return rc;
	for (int i = 0; i < OPEN_TRIES; i++) {
		rc = open_files(md, err);
		/* A rotation or a rebuild by Dovecot looks like damage for a moment. */
		if (rc == -EUCLEAN && i + 1 < OPEN_TRIES) {
			usleep(OPEN_WAIT_US);
			continue;
		}
		if (rc < 0 || !maildir_needs_setup(md))
			break;
		if (!waited) {
			waited = true;
			rc = place->wait_for_creator(place->ctx, err);
			if (rc < 0)
				break;
			continue;
		}
		rc = maildir_setup(md, place, err);
		if (rc < 0)
			break;
		if (!maildir_needs_setup(md))
			break;
		rc = error_set(err, -EUCLEAN, "%s: uidlist and index do not stay as they were made",
			       md->path);
	}
	if (rc < 0) {
		maildir_close(&md->box);
		return rc;
	}
	maildir_update_status(md);
	*box_r = &md->box;
	return 0;
}

void maildir_close(struct mailbox *box)
{
	struct maildir *md = maildir_of(box);

	while (md->spools)
		maildir_spool_discard(&md->spools->spool);
	index_close(&md->index);
	uidlist_close(&md->uidlist);
	maildir_keywords_free(&md->keywords);
	buf_free(&md->guid_text);
	mail_names_free(&md->keyword_names);
	if (md->control_fd >= 0 && md->control_fd != md->dirfd)
		close(md->control_fd);
	if (md->index_fd >= 0 && md->index_fd != md->dirfd && md->index_fd != md->control_fd)
		close(md->index_fd);
	file_close(&md->dirfd);
	free(md->path);
	free(md->control_path);
	free(md->index_path);
	free(md);
}

/* ---- refresh ---- */

int maildir_refresh_files(struct maildir *md, bool *uidlist_changed_r, struct error *err)
{
	size_t size = uidlist_size(md->uidlist);
	bool replaced;
	int rc;

	*uidlist_changed_r = false;
	md->keywords_fresh = false;
	rc = index_refresh(md->index, err);
	if (rc < 0)
		return rc == -ENOENT ? error_set(err, -ESTALE, "%s: the index was removed",
						 md->index_path)
				     : rc;
	rc = uidlist_refresh(md->uidlist, &replaced, err);
	/* Dovecot removes a list that it cannot read, and makes another mailbox of it. */
	if (rc == -ENOENT)
		return error_set(err, -ESTALE, "%s/" UIDLIST_NAME " was removed", md->control_path);
	if (rc < 0)
		return rc;
	*uidlist_changed_r = replaced || uidlist_size(md->uidlist) != size;
	if (maildir_needs_setup(md))
		return error_set(err, -ESTALE, "%s: uidlist or index were made anew", md->path);
	return 0;
}

int maildir_need_keywords(struct maildir *md, struct error *err)
{
	int rc = 0;

	/* Most messages have none, and a look-up of a file that is not there is never cached by the
	 * mount. */
	if (!md->keywords_fresh)
		rc = maildir_keywords_refresh(&md->keywords, md->control_fd, md->control_path, err);
	md->keywords_fresh = rc == 0;
	return rc;
}

bool maildir_record_has_keywords(const struct index_record *record)
{
	for (unsigned i = 0; i < record->keywords_size; i++) {
		if (record->keywords[i])
			return true;
	}
	return false;
}

int maildir_refresh(struct mailbox *box, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct stat path, dir;
	bool changed;
	int rc;

	if (stat(md->path, &path) < 0 || fstat(md->dirfd, &dir) < 0)
		return error_errno(err, errno == ENOENT ? -ESTALE : -errno, "%s", md->path);
	if (path.st_ino != dir.st_ino || path.st_dev != dir.st_dev)
		return error_set(err, -ESTALE, "%s was replaced by another directory", md->path);
	rc = maildir_refresh_files(md, &changed, err);
	if (rc < 0)
		return rc;
	maildir_update_status(md);
	return 0;
}

/* ---- messages ---- */

uint32_t maildir_record_letters(const struct maildir *md, const struct index_record *record)
{
	uint32_t letters = 0;

	for (unsigned i = 0; i < record->keywords_size * 8; i++) {
		const char *name;
		int letter;

		if (record->keywords[i / 8] == 0) {
			i |= 7;
			continue;
		}
		if (!(record->keywords[i / 8] & 1U << i % 8))
			continue;
		name = index_keyword_name(md->index, i);
		letter = name ? maildir_keywords_find(&md->keywords, name) : -1;
		if (letter >= 0)
			letters |= 1U << letter;
	}
	return letters;
}

bool maildir_record_is_recent(const struct maildir *md, uint32_t uid)
{
	struct index_status status;

	index_status(md->index, &status);
	return uid >= status.first_recent_uid;
}

const char *maildir_line_guid(struct maildir *md, const struct uidlist_record *line)
{
	size_t len;
	const char *guid = uidlist_guid(line, &len);

	buf_clear(&md->guid_text);
	buf_append(&md->guid_text, guid, len);
	return buf_str(&md->guid_text);
}

static int fill_mail(struct maildir *md, const struct index_record *record,
		     const struct uidlist_record *line, struct mail *mail_r, struct error *err)
{
	const char *guid = maildir_line_guid(md, line);

	if (md->guid_text.failed)
		return error_errno(err, md->guid_text.failed, "%s", md->path);
	return index_mail_fill(md->index, record, guid, &md->keyword_names, mail_r, err);
}

int maildir_find(struct mailbox *box, uint32_t uid, struct mail *mail_r, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct uidlist_record line;
	struct index_record record;
	int rc = index_find(md->index, uid, &record);

	if (rc == -ENOENT)
		return error_set(err, rc, "%s: no message with UID %u", md->path, uid);
	rc = uidlist_find(md->uidlist, uid, &line, err);
	return rc < 0 ? rc : fill_mail(md, &record, &line, mail_r, err);
}

/* Lines of expunged messages stay until the uidlist is written anew. */
int maildir_expunged_guid(struct mailbox *box, uint32_t uid, struct guid *guid_r, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct uidlist_record line;
	int rc = uidlist_find(md->uidlist, uid, &line, err);

	if (rc == 0)
		guid_from_message_guid(maildir_line_guid(md, &line), guid_r);
	return rc;
}

int maildir_each(struct mailbox *box, uint32_t first_uid, uint32_t last_uid, mailbox_each_fn *each,
		 void *ctx, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct uidlist_iter lines;
	struct index_iter records;
	struct index_record record;
	struct uidlist_record line = {0};
	struct mail mail;
	int rc;

	index_iter_init(md->index, first_uid, &records);
	if (!index_iter_next(&records, &record) || record.uid > last_uid)
		return 0;
	rc = uidlist_seek(md->uidlist, record.uid, &lines, err);
	if (rc < 0)
		return rc;
	do {
		while (line.uid < record.uid) {
			rc = uidlist_next(&lines, &line, err);
			if (rc < 0)
				return rc;
			if (rc == 0)
				return 0; /* the last records were expunged by now */
		}
		if (line.uid != record.uid)
			continue;
		rc = fill_mail(md, &record, &line, &mail, err);
		if (rc < 0)
			return rc;
		rc = each(ctx, &mail);
		if (rc != 0)
			return rc;
	} while (index_iter_next(&records, &record) && record.uid <= last_uid);
	return 0;
}

struct index *maildir_index(struct mailbox *box)
{
	return maildir_of(box)->index;
}
