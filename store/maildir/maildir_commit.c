/*
 * Carrying out a change, in an order that survives being cut at any point (reference 7):
 *
 *   1. bodies are durable, then come into cur/ or new/; the directories are synced
 *      (cut here: files without UID, which catch-up adopts)
 *   2. the uidlist says which UIDs they have, synced
 *      (cut here: lines that the index does not know, which catch-up completes)
 *   3. flags are renamed, expunged files unlinked
 *      (cut here: names that differ from the index: catch-up records them; files that are missing:
 *      expunged again by whoever asked for it)
 *   4. the index log
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
#include "store/base/log.h"
#include "store/index/index_cache.h"
#include "store/maildir/name_table.h"

#define RENAME_TRIES  5
#define COMPARE_CHUNK 16384

/* ---- small file operations ---- */

/* 1: the same bytes, 0: not. */
static int same_content(int dirfd, const char *a, const char *b)
{
	AUTO_CLOSE int fd_a = openat(dirfd, a, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	AUTO_CLOSE int fd_b = openat(dirfd, b, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	char data_a[COMPARE_CHUNK], data_b[COMPARE_CHUNK];
	struct stat st_a, st_b;

	if (fd_a < 0 || fd_b < 0 || fstat(fd_a, &st_a) < 0 || fstat(fd_b, &st_b) < 0)
		return -errno;
	if (st_a.st_size != st_b.st_size)
		return 0;
	for (;;) {
		ssize_t n_a = file_read_some(fd_a, data_a, sizeof data_a);
		ssize_t n_b = file_read_some(fd_b, data_b, sizeof data_b);

		if (n_a < 0 || n_b < 0)
			return n_a < 0 ? (int)n_a : (int)n_b;
		if (n_a != n_b || memcmp(data_a, data_b, (size_t)n_a) != 0)
			return 0;
		if (n_a == 0)
			return 1;
	}
}

static int file_error(const struct maildir *md, int rc, const char *path, const char *what,
		      struct error *err)
{
	return error_errno(err, rc, "%s/%s: %s", md->path, path, what);
}

/* "new/<base>" or "cur/<base>:2,<flags>" */
static int build_path(const struct maildir *md, const struct maildir_op *op, const char *base,
		      char path_r[MAILDIR_PATH_MAX], struct error *err)
{
	char name[NAME_MAX + 1];
	int rc;

	if (op->recent && !op->state.mail.flags && op->state.mail.keyword_count == 0) {
		snprintf(path_r, MAILDIR_PATH_MAX, "new/%s", base);
		return 0;
	}
	rc = maildir_name_build(base, strlen(base), op->state.mail.flags, op->state.letters, NULL,
				name);
	if (rc < 0)
		return error_errno(err, rc, "%s: UID %u: a name from \"%s\"", md->path, op->uid,
				   base);
	snprintf(path_r, MAILDIR_PATH_MAX, "cur/%s", name);
	return 0;
}

static void note_dir(struct maildir_txn *txn, const char *path)
{
	if (strncmp(path, "new/", 4) == 0)
		txn->sync_new = true;
	else
		txn->sync_cur = true;
}

static int sync_dirs(struct maildir_txn *txn, struct error *err)
{
	struct maildir *md = txn->md;
	int rc = 0;

	if (txn->sync_new)
		rc = file_sync_dir(md->dirfd, "new");
	if (rc == 0 && txn->sync_cur)
		rc = file_sync_dir(md->dirfd, "cur");
	txn->sync_new = txn->sync_cur = false;
	return rc < 0 ? error_errno(err, rc, "%s: sync of cur/ and new/", md->path) : 0;
}

/* ---- base names of new messages ---- */

/* The GUID can be the file's name: it has no sizes, or the right ones. */
static bool guid_can_be_base(const struct maildir_op *op)
{
	size_t len = strlen(op->guid);
	uint64_t size;

	if (!maildir_name_guid_is_usable(op->guid))
		return false;
	if (maildir_name_size_field(op->guid, len, 'S', &size) && size != op->spool->size)
		return false;
	return !maildir_name_size_field(op->guid, len, 'W', &size) ||
	       size == op->spool->virtual_size;
}

static int own_base(struct maildir_op *op, uint64_t size, uint64_t virtual_size)
{
	char name[NAME_MAX + 1];

	free(op->base);
	maildir_name_generate(name);
	if (asprintf(&op->base, "%s,S=%llu,W=%llu", name, (unsigned long long)size,
		     (unsigned long long)virtual_size) < 0) {
		op->base = NULL;
		return -ENOMEM;
	}
	return 0;
}

/* Which GUIDs are names already: of a message that is there, or of one that is gone (then its line
 * has to go, too). */
static int choose_bases(struct maildir_txn *txn, struct error *err)
{
	struct maildir *md = txn->md;
	AUTO_FREE struct uidlist_query *queries = NULL;
	struct name_table taken;
	size_t count = 0;
	int rc = name_table_init(&taken, txn->op_count);

	queries = calloc(txn->op_count ? txn->op_count : 1, sizeof *queries);
	if (rc < 0 || !queries) {
		name_table_free(&taken);
		return error_errno(err, -ENOMEM, "%s", md->path);
	}
	for (size_t i = 0; i < txn->op_count; i++) {
		struct maildir_op *op = &txn->ops[i];
		struct name_slot *slot;

		if (op->kind != MAILDIR_OP_APPEND || !guid_can_be_base(op))
			continue;
		slot = name_table_put(&taken, op->guid, strlen(op->guid));
		if (!slot || slot->value)
			continue; /* a second one in this transaction */
		slot->value = (uint32_t)i + 1;
		queries[count++] =
			(struct uidlist_query){.base = op->guid, .base_len = strlen(op->guid)};
	}
	rc = uidlist_find_bases(md->uidlist, 0, queries, count, err);
	for (size_t i = 0; rc == 0 && i < count; i++) {
		struct name_slot *slot =
			name_table_get(&taken, queries[i].base, queries[i].base_len);
		struct maildir_op *op = &txn->ops[slot->value - 1];
		struct index_record record;

		if (queries[i].uid && index_find(md->index, queries[i].uid, &record) == 0)
			continue;
		op->base = strdup(op->guid);
		if (!op->base)
			rc = error_errno(err, -ENOMEM, "%s", md->path);
		else if (queries[i].uid)
			rc = maildir_txn_drop_line(txn, queries[i].uid, err);
	}
	name_table_free(&taken);
	for (size_t i = 0; rc == 0 && i < txn->op_count; i++) {
		struct maildir_op *op = &txn->ops[i];

		if (op->kind == MAILDIR_OP_APPEND && !op->base &&
		    own_base(op, op->spool->size, op->spool->virtual_size) < 0)
			rc = error_errno(err, -ENOMEM, "%s", md->path);
	}
	return rc;
}

/* ---- files come into their places ---- */

static int place_append(struct maildir_txn *txn, struct maildir_op *op, struct error *err)
{
	struct maildir *md = txn->md;
	char path[MAILDIR_PATH_MAX];
	bool reused = false;
	int rc = maildir_spool_sync(op->spool, err);

	if (rc == 0)
		rc = build_path(md, op, op->base, path, err);
	if (rc < 0)
		return rc;
	rc = file_rename_new(md->dirfd, op->spool->tmp_path, path);
	if (rc == -ENOENT) {
		rc = maildir_make_subdirs(md, err);
		if (rc == 0)
			rc = file_rename_new(md->dirfd, op->spool->tmp_path, path);
	}
	if (rc == -EEXIST) {
		/* Left by a commit that was cut, or another link to the same mail. */
		rc = same_content(md->dirfd, op->spool->tmp_path, path);
		reused = rc == 1;
		if (reused)
			rc = unlinkat(md->dirfd, op->spool->tmp_path, 0) < 0 ? -errno : 0;
		else if (rc == 0)
			rc = own_base(op, op->spool->size, op->spool->virtual_size);
		if (rc == 0 && !reused) {
			rc = build_path(md, op, op->base, path, err);
			if (rc == 0)
				rc = file_rename_new(md->dirfd, op->spool->tmp_path, path);
		}
	}
	if (rc < 0)
		return file_error(md, rc, path, "store", err);
	note_dir(txn, path);
	if (!reused) {
		op->path = strdup(path);
		if (!op->path)
			return error_errno(err, -ENOMEM, "%s", md->path);
	}
	return 0;
}

static int append_fields(const struct maildir_op *op, struct buf *fields)
{
	size_t len = strlen(op->base);
	uint64_t size;

	if (op->guid && *op->guid && strcmp(op->guid, op->base) != 0 && !strpbrk(op->guid, " \n"))
		buf_printf(fields, "G%s", op->guid);
	if (op->spool && !maildir_name_size_field(op->base, len, 'S', &size))
		buf_printf(fields, "%sS%llu", fields->len ? " " : "",
			   (unsigned long long)op->spool->size);
	if (op->spool && !maildir_name_size_field(op->base, len, 'W', &size))
		buf_printf(fields, "%sW%llu", fields->len ? " " : "",
			   (unsigned long long)op->spool->virtual_size);
	if (op->fields)
		buf_printf(fields, "%s%s", fields->len ? " " : "", op->fields);
	return fields->failed;
}

static int find_message(struct maildir *md, uint32_t uid, struct maildir_op *op, struct error *err)
{
	struct index_record record;
	int rc = index_find(md->index, uid, &record);

	if (rc < 0)
		return error_set(err, rc, "%s: no message with UID %u", md->path, uid);
	rc = maildir_want_record(md, &record, &op->wanted, err);
	if (rc < 0)
		return rc;
	/* The uidlist's map changes before the last use of the name. */
	op->base = strndup(op->wanted.base, op->wanted.base_len);
	if (!op->base)
		return error_errno(err, -ENOMEM, "%s", md->path);
	op->wanted.base = op->base;
	return 0;
}

/* One name that cannot be is no reason to carry nothing out, with each try: the index alone knows
 * the flags, and says that it does. */
static int keep_flags_in_index(struct maildir_txn *txn, const struct maildir_op *op,
			       struct error *err)
{
	uint32_t uid = op->moved_uid ? op->moved_uid : op->uid;

	log_warning("%s: the file name of UID %u is too long for its flags, which the index alone "
		    "knows now: %s",
		    txn->md->path, uid, op->base);
	return index_update_flags(txn->index_txn, uid, INDEX_FLAG_DIRTY, 0, err);
}

static int place_restore(struct maildir_txn *txn, struct maildir_op *op, struct error *err)
{
	struct maildir *md = txn->md;
	char name[NAME_MAX + 1], path[MAILDIR_PATH_MAX];
	int rc;

	if (op->wanted.path[0])
		return 0; /* it is there after all */
	rc = maildir_spool_sync(op->spool, err);
	if (rc < 0)
		return rc;
	rc = maildir_name_build(op->wanted.base, op->wanted.base_len, op->wanted.flags,
				op->wanted.letters, NULL, name);
	if (rc == -ENAMETOOLONG) {
		snprintf(name, sizeof name, "%s", op->wanted.base);
		rc = keep_flags_in_index(txn, op, err);
	}
	if (rc < 0)
		return error_errno(err, rc, "%s: UID %u", md->path, op->uid);
	snprintf(path, sizeof path, "cur/%s", name);
	rc = file_rename_new(md->dirfd, op->spool->tmp_path, path);
	if (rc == -EEXIST)
		return 0;
	if (rc < 0)
		return file_error(md, rc, path, "put back", err);
	log_notice("%s/%s: the missing file of UID %u was put back", md->path, path, op->uid);
	maildir_spool_forget(op->spool);
	op->spool = NULL;
	txn->sync_cur = true;
	return 0;
}

static int place_copy(struct maildir_txn *txn, struct maildir_op *op, struct error *err)
{
	struct maildir *md = txn->md;
	char path[MAILDIR_PATH_MAX];
	uint64_t size, virtual_size;
	char name[NAME_MAX + 1];
	int rc = find_message(md, op->source_uid, op, err);

	for (int i = 0; rc == 0 && i < RENAME_TRIES; i++) {
		rc = maildir_find_files(md, &op->wanted, 1, err);
		if (rc == 0 && !op->wanted.path[0])
			rc = error_set(err, -ENOENT, "%s: the file of UID %u is missing", md->path,
				       op->source_uid);
		if (rc < 0)
			return rc;
		if (i == 0) {
			/* The same sizes as the source has in its name. */
			bool sized = maildir_name_size_field(op->base, op->wanted.base_len, 'S',
							     &size) &&
				     maildir_name_size_field(op->base, op->wanted.base_len, 'W',
							     &virtual_size);

			maildir_name_generate(name);
			free(op->fields);
			op->fields = NULL;
			if (sized && asprintf(&op->fields, "%s,S=%llu,W=%llu", name,
					      (unsigned long long)size,
					      (unsigned long long)virtual_size) < 0)
				op->fields = NULL;
			else if (!sized)
				op->fields = strdup(name);
			if (!op->fields)
				return error_errno(err, -ENOMEM, "%s", md->path);
		}
		rc = build_path(md, op, op->fields, path, err);
		if (rc < 0)
			return rc;
		if (linkat(md->dirfd, op->wanted.path, md->dirfd, path, 0) == 0)
			break;
		if (errno != ENOENT || i + 1 == RENAME_TRIES)
			return file_error(md, -errno, path, "link", err);
	}
	if (rc < 0)
		return rc;
	/* The new name becomes the line's. */
	free(op->base);
	op->base = op->fields;
	op->fields = NULL;
	note_dir(txn, path);
	op->path = strdup(path);
	return op->path ? 0 : error_errno(err, -ENOMEM, "%s", md->path);
}

static int move_line(struct maildir *md, const struct maildir_op *op, struct buf *lines,
		     struct error *err)
{
	struct uidlist_record line;
	int rc = uidlist_find(md->uidlist, op->source_uid, &line, err);

	if (rc < 0)
		return rc;
	rc = uidlist_format_line(lines, op->uid, line.fields, line.fields_len, line.base,
				 line.base_len);
	return rc < 0 ? error_errno(err, rc, "%s: line of UID %u", md->control_path, op->source_uid)
		      : 0;
}

static int new_line(struct maildir *md, const struct maildir_op *op, struct buf *lines,
		    struct error *err)
{
	AUTO_BUF struct buf fields = BUF_INIT(UIDLIST_FIELDS_MAX);
	int rc = 0;

	if (op->kind == MAILDIR_OP_ADOPT)
		rc = op->fields ? buf_append_str(&fields, op->fields) : 0;
	else
		rc = append_fields(op, &fields);
	if (rc == 0)
		rc = uidlist_format_line(lines, op->uid, buf_str(&fields), fields.len, op->base,
					 strlen(op->base));
	return rc < 0 ? error_errno(err, rc, "%s: line of UID %u (%s)", md->control_path, op->uid,
				    op->base)
		      : 0;
}

static int place_op(struct maildir_txn *txn, struct maildir_op *op, struct buf *lines,
		    struct error *err)
{
	int rc = 0;

	switch (op->kind) {
	case MAILDIR_OP_APPEND:
		rc = place_append(txn, op, err);
		break;
	case MAILDIR_OP_COPY:
		rc = place_copy(txn, op, err);
		break;
	case MAILDIR_OP_RESTORE:
		return place_restore(txn, op, err);
	case MAILDIR_OP_MOVE_UID:
		return move_line(txn->md, op, lines, err);
	case MAILDIR_OP_RENAME:
	case MAILDIR_OP_UNLINK:
		rc = find_message(txn->md, op->uid, op, err);
		/* No line: nothing that a file could be found by. */
		return rc == -ENOENT ? 0 : rc;
	case MAILDIR_OP_ADOPT:
		break;
	}
	return rc < 0 ? rc : new_line(txn->md, op, lines, err);
}

static bool changes_file(const struct maildir_op *op)
{
	return op->kind == MAILDIR_OP_RENAME || op->kind == MAILDIR_OP_UNLINK;
}

static bool restores_file(const struct maildir_op *op)
{
	return op->kind == MAILDIR_OP_RESTORE;
}

/* Finds the files of all operations of a kind, in at most one pass. */
static int find_all(struct maildir_txn *txn, bool (*wants)(const struct maildir_op *op),
		    struct error *err)
{
	AUTO_FREE struct maildir_wanted *wanted = NULL;
	AUTO_FREE size_t *which = NULL;
	size_t count = 0;
	int rc;

	wanted = calloc(txn->op_count ? txn->op_count : 1, sizeof *wanted);
	which = calloc(txn->op_count ? txn->op_count : 1, sizeof *which);
	if (!wanted || !which)
		return error_errno(err, -ENOMEM, "%s", txn->md->path);
	for (size_t i = 0; i < txn->op_count; i++) {
		const struct maildir_op *op = &txn->ops[i];

		if (!wants(op) || !op->base)
			continue;
		wanted[count] = op->wanted;
		which[count++] = i;
	}
	if (count == 0)
		return 0;
	rc = maildir_find_files(txn->md, wanted, count, err);
	for (size_t i = 0; rc == 0 && i < count; i++)
		txn->ops[which[i]].wanted = wanted[i];
	return rc;
}

int maildir_commit_files(struct maildir_txn *txn, struct buf *lines, struct error *err)
{
	int rc = choose_bases(txn, err);

	for (size_t i = 0; rc == 0 && i < txn->op_count; i++) {
		if (restores_file(&txn->ops[i]))
			rc = find_message(txn->md, txn->ops[i].uid, &txn->ops[i], err);
	}
	if (rc == 0)
		rc = find_all(txn, restores_file, err);
	for (size_t i = 0; rc == 0 && i < txn->op_count; i++) {
		rc = place_op(txn, &txn->ops[i], lines, err);
		crash_point("maildir: a file placed");
		dotlock_touch(txn->lock);
	}
	if (rc == 0)
		rc = find_all(txn, changes_file, err);
	if (rc == 0)
		MAILDIR_STEP("placed");
	return rc < 0 ? rc : sync_dirs(txn, err);
}

void maildir_undo_files(struct maildir_txn *txn)
{
	struct maildir *md = txn->md;

	for (size_t i = 0; i < txn->op_count; i++) {
		const char *path = txn->ops[i].path;

		if (path && unlinkat(md->dirfd, path, 0) < 0)
			log_warning("%s/%s: could not be taken back: %s", md->path, path,
				    strerror(errno));
	}
}

/* ---- changes of files that are there ---- */

static int rename_flags(struct maildir *md, const struct maildir_op *op)
{
	struct maildir_name old;
	char name[NAME_MAX + 1], path[MAILDIR_PATH_MAX];
	int rc;

	if (!maildir_name_parse(op->wanted.path + 4, &old))
		return -EINVAL;
	rc = maildir_name_build(old.base, old.base_len, op->state.mail.flags, op->state.letters,
				&old, name);
	if (rc < 0)
		return rc;
	snprintf(path, sizeof path, "cur/%s", name);
	if (strcmp(path, op->wanted.path) == 0)
		return 0;
	return file_rename_new(md->dirfd, op->wanted.path, path);
}

static int change_file(struct maildir_txn *txn, struct maildir_op *op, struct error *err)
{
	struct maildir *md = txn->md;

	for (int i = 0; i < RENAME_TRIES; i++) {
		int rc;

		if (!op->wanted.path[0])
			break;
		if (op->kind == MAILDIR_OP_RENAME)
			rc = rename_flags(md, op);
		else
			rc = unlinkat(md->dirfd, op->wanted.path, 0) < 0 ? -errno : 0;
		if (rc == 0) {
			if (op->kind == MAILDIR_OP_UNLINK)
				note_dir(txn, op->wanted.path);
			return 0;
		}
		if (rc == -EEXIST) {
			log_warning("%s/%s: there is another file of this message, left as it is",
				    md->path, op->wanted.path);
			return 0;
		}
		if (rc == -ENAMETOOLONG)
			return keep_flags_in_index(txn, op, err);
		if (rc != -ENOENT)
			return file_error(md, rc, op->wanted.path,
					  op->kind == MAILDIR_OP_RENAME ? "rename" : "unlink", err);
		/* Renamed by somebody since. */
		rc = maildir_find_files(md, &op->wanted, 1, err);
		if (rc < 0)
			return rc;
	}
	log_debug("%s: UID %u has no file that could be changed", md->path, op->uid);
	return 0;
}

int maildir_commit_changes(struct maildir_txn *txn, struct error *err)
{
	int rc = 0;

	for (size_t i = 0; rc == 0 && i < txn->op_count; i++) {
		struct maildir_op *op = &txn->ops[i];

		if ((op->kind == MAILDIR_OP_RENAME || op->kind == MAILDIR_OP_UNLINK) && op->base)
			rc = change_file(txn, op, err);
		crash_point("maildir: a file changed");
		dotlock_touch(txn->lock);
	}
	if (rc == 0)
		MAILDIR_STEP("changed");
	/* An expunge that the log knows must not come undone by a power cut: the file would come
	 * back as a new message. */
	return rc < 0 ? rc : sync_dirs(txn, err);
}

/* ---- uidlist ---- */

static int uid_cmp(const void *a, const void *b)
{
	uint32_t uid_a = *(const uint32_t *)a, uid_b = *(const uint32_t *)b;

	return uid_a < uid_b ? -1 : uid_a > uid_b;
}

struct keep {
	const struct maildir_txn *txn;
	uint32_t next_uid;
};

/* Dropped are the lines asked for, and those of expunged messages. */
static bool keep_line(void *ctx, const struct uidlist_record *line)
{
	const struct keep *keep = ctx;
	const struct maildir_txn *txn = keep->txn;
	struct index_record record;

	if (txn->drop_count &&
	    bsearch(&line->uid, txn->drop_uids, txn->drop_count, sizeof *txn->drop_uids, uid_cmp))
		return false;
	return line->uid >= keep->next_uid || index_find(txn->md->index, line->uid, &record) == 0;
}

static int commit_uidlist(struct maildir_txn *txn, const struct buf *lines, struct error *err)
{
	struct maildir *md = txn->md;
	struct uidlist_header header = *uidlist_header(md->uidlist);
	struct keep keep = {.txn = txn};
	struct index_status status;

	if (!txn->rewrite)
		return lines->len || lines->failed ? uidlist_append(md->uidlist, lines, err) : 0;
	if (txn->uid_validity)
		header.uid_validity = txn->uid_validity;
	if (!guid_is_empty(&txn->guid))
		header.guid = txn->guid;
	if (txn->next_uid > header.next_uid)
		header.next_uid = txn->next_uid;
	index_status(md->index, &status);
	keep.next_uid = status.next_uid;
	if (txn->drop_count)
		qsort(txn->drop_uids, txn->drop_count, sizeof *txn->drop_uids, uid_cmp);
	return uidlist_rewrite(md->uidlist, &header, keep_line, &keep, lines, err);
}

/* ---- all of it ---- */

static void forget_spools(struct maildir_txn *txn)
{
	for (size_t i = 0; i < txn->op_count; i++) {
		struct maildir_op *op = &txn->ops[i];

		if (op->kind == MAILDIR_OP_APPEND && op->spool) {
			maildir_spool_forget(op->spool);
			op->spool = NULL;
		}
	}
}

int maildir_txn_commit(struct maildir_txn *txn, struct error *err)
{
	struct maildir *md = txn->md;
	AUTO_BUF struct buf lines = BUF_INIT(UIDLIST_SIZE_MAX);
	int rc;

	if (txn->failed < 0)
		return error_set(err, txn->failed, "%s: a change that failed cannot be carried out",
				 md->path);
	rc = maildir_commit_files(txn, &lines, err);
	if (rc == 0)
		rc = commit_uidlist(txn, &lines, err);
	if (rc < 0) {
		maildir_undo_files(txn);
		return rc;
	}
	MAILDIR_STEP("uidlist");
	forget_spools(txn);
	rc = maildir_commit_changes(txn, err);
	if (rc < 0)
		return rc;
	index_save_dates_write(&txn->dates, txn->index_txn, md->path);
	rc = index_switch_on_modseqs(txn->index_txn, err);
	if (rc == 0)
		rc = index_commit(&txn->index_txn, txn->sync, err);
	if (rc < 0)
		return rc;
	MAILDIR_STEP("index");
	maildir_update_status(md);
	return 0;
}
