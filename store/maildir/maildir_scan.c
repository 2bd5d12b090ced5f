/*
 * The complete comparison of files, uidlist and index. Where nothing has to be recorded it takes no
 * lock; else it looks a second time under the locks and writes.
 *
 * Memory: 8 bytes a line of the uidlist, so that a million messages fit. Names are not kept, but
 * those of files without a UID: these get theirs in transactions of a bounded size, and where there
 * are very many, in several passes over the directories.
 *
 * A missing file is counted, not expunged: absence proves nothing here.
 */
#include "store/maildir/maildir_private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/index/index_files.h"
#include "store/maildir/name_table.h"
#include "store/maildir/new_files.h"

#define MISSING_BATCH 4096
#define ADOPT_BATCH   10000 /* in a transaction */
#define ADOPT_PASS    65536 /* found by one pass */

/* One line of the uidlist. */
struct scan_line {
	uint32_t tag;	      /* of the base name */
	uint32_t offset : 31; /* the list is not longer than UIDLIST_SIZE_MAX */
	uint32_t seen : 1;
};
static_assert(UIDLIST_SIZE_MAX <= 0x80000000U, "offsets of lines have 31 bits");

struct scan {
	struct maildir *md;
	struct dotlock *lock;	 /* held while there is a txn */
	struct maildir_txn *txn; /* NULL: only look */
	uint64_t generation;	 /* of the uidlist, whose lines these are */
	struct scan_line *lines; /* sorted by tag, then as in the list */
	size_t line_count;
	struct new_files new_files;
	size_t adopted;
	uint32_t next_uid; /* of the index */
	bool again;	   /* not the first pass */
	bool need;	   /* something has to be written */
	bool changed;
	size_t messages; /* in the index */
	size_t live;	 /* lines of those */
	struct error *err;
};

/* ---- the lines ---- */

static uint32_t name_tag(const char *base, size_t base_len)
{
	return (uint32_t)(name_hash(base, base_len) >> 32);
}

static int tag_cmp(const void *a, const void *b)
{
	const struct scan_line *line_a = a, *line_b = b;

	if (line_a->tag != line_b->tag)
		return line_a->tag < line_b->tag ? -1 : 1;
	return line_a->offset < line_b->offset ? -1 : line_a->offset > line_b->offset;
}

static int offset_cmp(const void *a, const void *b)
{
	const struct scan_line *line_a = a, *line_b = b;

	return line_a->offset < line_b->offset ? -1 : line_a->offset > line_b->offset;
}

static int read_lines(struct scan *scan)
{
	struct uidlist_iter iter;
	struct uidlist_record line;
	size_t room = 0, offset;
	int rc = uidlist_seek(scan->md->uidlist, 0, &iter, scan->err);

	scan->generation = uidlist_generation(scan->md->uidlist);
	while (rc == 0 && (offset = iter.offset, rc = uidlist_next(&iter, &line, scan->err)) > 0) {
		rc = 0;
		if (scan->line_count == room) {
			struct scan_line *lines;

			room = room ? room * 2 : 1024;
			lines = reallocarray(scan->lines, room, sizeof *lines);
			if (!lines)
				return error_errno(scan->err, -ENOMEM, "%s", scan->md->path);
			scan->lines = lines;
		}
		scan->lines[scan->line_count++] = (struct scan_line){
			.tag = name_tag(line.base, line.base_len), .offset = (uint32_t)offset};
	}
	if (rc < 0)
		return rc;
	if (scan->line_count)
		qsort(scan->lines, scan->line_count, sizeof *scan->lines, tag_cmp);
	return 0;
}

/* The line of a base name; of two the one with the higher UID. */
static int find_line(struct scan *scan, const struct maildir_name *name, struct scan_line **line_r,
		     uint32_t *uid_r)
{
	uint32_t tag = name_tag(name->base, name->base_len);
	size_t low = 0, high = scan->line_count;

	*line_r = NULL;
	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (scan->lines[mid].tag < tag)
			low = mid + 1;
		else
			high = mid;
	}
	for (; low < scan->line_count && scan->lines[low].tag == tag; low++) {
		struct uidlist_record line;
		int rc = uidlist_at(scan->md->uidlist, scan->lines[low].offset, &line, scan->err);

		if (rc < 0)
			return rc;
		if (line.base_len == name->base_len &&
		    memcmp(line.base, name->base, name->base_len) == 0) {
			*line_r = &scan->lines[low];
			*uid_r = line.uid;
		}
	}
	return 0;
}

/* ---- the files ---- */

static int add_new_file(struct scan *scan, const struct maildir_name *name, uint32_t drop_uid)
{
	int rc;

	/* Without a transaction it is enough to know that there is one. */
	scan->need = true;
	if (!scan->txn)
		return 0;
	rc = new_files_add(&scan->new_files, name, drop_uid);
	return rc < 0 ? error_errno(scan->err, rc, "%s: names of new files", scan->md->path) : 0;
}

static int see_known(struct scan *scan, const struct index_record *record,
		     const struct maildir_name *name)
{
	bool changed;
	int rc = maildir_name_differs(scan->md, record, name, &changed, scan->err);

	if (rc < 0 || !changed)
		return rc;
	/* A request that Dovecot has not carried out yet: there the index is right. */
	if (index_has_request(scan->md->index, record->uid))
		return 0;
	scan->need = true;
	if (!scan->txn)
		return 0;
	rc = maildir_txn_see_name(scan->txn, record, name, &changed, scan->err);
	if (changed)
		scan->changed = true;
	return rc;
}

static int scan_file(void *ctx, const char *dir, const char *file, const struct maildir_name *name)
{
	struct scan *scan = ctx;
	struct index_record record;
	struct scan_line *line;
	uint32_t uid = 0;
	int rc = find_line(scan, name, &line, &uid);
	bool live;

	if (scan->txn)
		dotlock_touch(scan->txn->lock);
	if (rc < 0)
		return rc;
	if (!line)
		return memchr(name->base, '\n', name->base_len) ? 0 : add_new_file(scan, name, 0);
	live = index_find(scan->md->index, uid, &record) == 0;
	if (!live && uid < scan->next_uid)
		return add_new_file(scan, name, uid);
	if (line->seen) {
		/* Renamed while we read, or two files with one base: Dovecot sorts that out. */
		if (!scan->again)
			log_debug("%s: base name twice: %s/%s", scan->md->path, dir, file);
		return 0;
	}
	line->seen = 1;
	/* A line that the index has not seen: in the order of UIDs, before the next scan. */
	if (!live) {
		scan->need = true;
		return 0;
	}
	scan->live++;
	return see_known(scan, &record, name);
}

/* What was adopted so far is recorded; the uidlist stays ours. Lines that go are left out when all
 * is done: till then it only grows. */
static int next_transaction(struct scan *scan)
{
	struct maildir_txn *done = scan->txn;
	uint32_t *drop_uids = done->drop_uids;
	size_t drop_count = done->drop_count, drop_room = done->drop_room;
	int rc;

	done->drop_uids = NULL;
	done->drop_count = done->drop_room = 0;
	done->rewrite = false;
	rc = maildir_txn_commit(done, scan->err);
	maildir_txn_free(done);
	scan->txn = NULL;
	if (rc < 0)
		goto failed;
	/* What the index has to hold in memory becomes a snapshot. */
	maildir_housekeep(scan->md);
	rc = maildir_txn_begin(scan->md, scan->lock, &scan->txn, scan->err);
	if (rc < 0)
		goto failed;
	if (uidlist_generation(scan->md->uidlist) != scan->generation) {
		rc = error_set(scan->err, -ESTALE,
			       "%s/" UIDLIST_NAME ": replaced although it is locked",
			       scan->md->control_path);
		goto failed;
	}
	scan->txn->drop_uids = drop_uids;
	scan->txn->drop_count = drop_count;
	scan->txn->drop_room = drop_room;
	scan->txn->rewrite = drop_count > 0;
	return 0;
failed:
	free(drop_uids);
	return rc;
}

static int adopt_selected(struct scan *scan)
{
	for (size_t i = 0; i < scan->new_files.count; i++) {
		struct maildir_name name;
		uint32_t drop_uid = new_files_get(&scan->new_files, i, &name);
		int rc;

		if (drop_uid)
			log_warning("%s: expunged message reappeared, giving it a new UID (old "
				    "uid=%u, file=%s)",
				    scan->md->path, drop_uid, name.base);
		rc = maildir_txn_adopt(scan->txn, &name, drop_uid, scan->err);
		if (rc == 0 && ++scan->adopted % ADOPT_BATCH == 0)
			rc = next_transaction(scan);
		if (rc < 0)
			return rc;
		scan->changed = true;
	}
	return 0;
}

static int adopt_new_files(struct scan *scan)
{
	bool more = true;

	for (;;) {
		int rc = new_files_select(&scan->new_files);

		if (rc < 0)
			return error_errno(scan->err, rc, "%s: names of new files", scan->md->path);
		rc = adopt_selected(scan);
		if (rc < 0)
			return rc;
		rc = new_files_next(&scan->new_files, &more);
		if (rc < 0)
			return error_errno(scan->err, rc, "%s: names of new files", scan->md->path);
		if (!more)
			return 0;
		scan->again = true;
		rc = maildir_each_file(scan->md, scan_file, scan, scan->err);
		if (rc < 0)
			return rc;
	}
}

/* ---- missing files ---- */

/*
 * Looks for the files of messages that no pass has shown, a second time. Who expunges removes the
 * file before the index says so, both under the locks: only there is a file missing.
 */
static int note_missing(struct scan *scan, struct maildir_wanted *wanted, uint32_t *uids,
			size_t count)
{
	int rc = maildir_find_files(scan->md, wanted, count, scan->err);

	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (wanted[i].path[0])
			continue;
		if (!scan->txn) {
			scan->need = true;
			break;
		}
		log_warning("%s: the file of UID %u (%.*s) is missing", scan->md->path, uids[i],
			    (int)wanted[i].base_len, wanted[i].base);
		rc = mailbox_note_missing(&scan->md->box, uids[i]);
		if (rc < 0)
			error_errno(scan->err, rc, "%s", scan->md->path);
	}
	return rc;
}

/* The lines that no file was seen of come first, in the order of the list. */
static size_t gather_unseen(struct scan *scan)
{
	size_t count = 0;

	for (size_t i = 0; i < scan->line_count; i++) {
		if (!scan->lines[i].seen)
			scan->lines[count++] = scan->lines[i];
	}
	if (count)
		qsort(scan->lines, count, sizeof *scan->lines, offset_cmp);
	return count;
}

static int find_missing(struct scan *scan)
{
	AUTO_FREE struct maildir_wanted *wanted = calloc(MISSING_BATCH, sizeof *wanted);
	AUTO_FREE uint32_t *uids = calloc(MISSING_BATCH, sizeof *uids);
	size_t count = 0, unseen = gather_unseen(scan);
	int rc = 0;

	if (!wanted || !uids)
		return error_errno(scan->err, -ENOMEM, "%s", scan->md->path);
	for (size_t i = 0; rc == 0 && i < unseen; i++) {
		struct uidlist_record line;
		struct index_record record;

		rc = uidlist_at(scan->md->uidlist, scan->lines[i].offset, &line, scan->err);
		if (rc < 0)
			return rc;
		if (index_find(scan->md->index, line.uid, &record) < 0)
			continue;
		scan->live++;
		rc = maildir_want_record(scan->md, &record, &wanted[count], scan->err);
		uids[count++] = record.uid;
		if (rc == 0 && count == MISSING_BATCH) {
			rc = note_missing(scan, wanted, uids, count);
			count = 0;
		}
	}
	return rc < 0 ? rc : note_missing(scan, wanted, uids, count);
}

int maildir_explain_missing(struct mailbox *box, const struct mail_event *events, size_t count,
			    struct error *err)
{
	AUTO_FREE struct uidlist_query *queries = calloc(count, sizeof *queries);
	struct maildir *md = maildir_of(box);
	size_t used = 0;
	int rc;

	if (!queries)
		return error_errno(err, -ENOMEM, "%s", md->path);
	for (size_t i = 0; i < count; i++) {
		struct maildir_name name;

		if (maildir_name_parse(events[i].name, &name))
			queries[used++] = (struct uidlist_query){.base = name.base,
								 .base_len = name.base_len};
	}
	rc = uidlist_find_bases(md->uidlist, 0, queries, used, err);
	for (size_t i = 0; rc == 0 && i < used; i++)
		mailbox_not_missing(box, queries[i].uid);
	return rc;
}

static int compare_guids(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Those whose GUID is the file's name, as nearly all: of others only a line would tell. */
int maildir_has_removal(const struct mailbox *box, const struct mail_event *events, size_t count,
			const char *const *guids, size_t guid_count, struct error *err)
{
	AUTO_FREE const char **sorted = calloc(guid_count + 1, sizeof *sorted);

	(void)box;
	if (!sorted)
		return error_errno(err, -ENOMEM, "removals");
	memcpy(sorted, guids, guid_count * sizeof *sorted);
	qsort(sorted, guid_count, sizeof *sorted, compare_guids);
	for (size_t i = 0; i < count; i++) {
		char base[NAME_MAX + 1];
		const char *key = base;
		struct maildir_name name;

		if (events[i].kind != MAIL_EVENT_REMOVED ||
		    !maildir_name_parse(events[i].name, &name) || name.base_len > NAME_MAX)
			continue;
		snprintf(base, sizeof base, "%.*s", (int)name.base_len, name.base);
		if (bsearch(&key, sorted, guid_count, sizeof *sorted, compare_guids))
			return 1;
	}
	return 0;
}

/* ---- the whole ---- */

static bool lacks_lines(const struct scan *scan)
{
	return scan->live < scan->messages;
}

/* A quarter of the lines are of expunged messages: as Dovecot does, they go. */
static bool wants_compaction(const struct scan *scan)
{
	return scan->line_count > 16 && scan->line_count * 3 / 4 >= scan->live;
}

static int run(struct scan *scan)
{
	struct index_status status;
	int rc = read_lines(scan);

	index_status(scan->md->index, &status);
	scan->next_uid = status.next_uid;
	scan->messages = status.messages;
	if (rc == 0)
		rc = maildir_each_file(scan->md, scan_file, scan, scan->err);
	if (rc == 0 && scan->txn)
		rc = adopt_new_files(scan);
	/* If it will be done again under the locks, the rest is left to that. */
	if (rc == 0 && (scan->txn || !scan->need))
		rc = find_missing(scan);
	if (rc == 0 && !scan->need)
		scan->need = lacks_lines(scan);
	return rc;
}

static void scan_free(struct scan *scan)
{
	new_files_free(&scan->new_files);
	free(scan->lines);
}

static int scan_and_write(struct scan *scan)
{
	struct maildir *md = scan->md;
	bool behind;
	int rc = maildir_txn_begin(md, scan->lock, &scan->txn, scan->err);

	if (rc < 0)
		return rc;
	rc = maildir_index_is_behind(md, &behind, scan->err);
	if (rc == 0 && behind) {
		rc = maildir_txn_complete_all(scan->txn, scan->err);
		scan->changed = true;
	}
	if (rc == 0)
		rc = run(scan);
	if (rc == 0 && lacks_lines(scan)) {
		rc = maildir_txn_see_lines_lost(scan->txn, scan->err);
		scan->changed = true;
	}
	if (rc == 0 && wants_compaction(scan))
		scan->txn->rewrite = true;
	scan->changed |= maildir_lacks_modseqs(md);
	if (rc == 0)
		rc = maildir_txn_commit(scan->txn, scan->err);
	if (scan->txn)
		maildir_txn_free(scan->txn);
	return rc;
}

/* A mount tells of what was removed before its directory is synced: who knows of no removal then
 * knows that a file is lost. */
static int sync_where_files_lack(struct maildir *md, struct error *err)
{
	static const char *const dirs[] = {"new", "cur"};

	for (size_t i = 0; md->box.missing_count > 0 && i < 2; i++) {
		int rc = file_sync_dir(md->dirfd, dirs[i]);

		if (rc < 0)
			return error_errno(err, rc, "%s/%s", md->path, dirs[i]);
	}
	return 0;
}

/* Many messages were added, of which the last snapshot has a part: whoever opens the mailbox next
 * need not read the others from the log. */
static void write_snapshot(struct maildir *md)
{
	struct error err;
	int rc = index_write_snapshot(md->index, 0, &err);

	if (rc < 0 && rc != -EAGAIN && rc != -EBUSY && rc != -ESTALE)
		log_warning("%s", err.text);
}

int maildir_scan_locked(struct maildir *md, struct dotlock *lock, bool *changed_r,
			struct error *err)
{
	struct scan scan = {.md = md, .lock = lock, .err = err};
	int rc = 0;

	new_files_init(&scan.new_files, ADOPT_PASS);
	md->box.missing_count = 0;
	if (!lock)
		rc = dotlock_acquire(md->control_fd, md->control_path, UIDLIST_NAME,
				     DOTLOCK_TIMEOUT_MS_DEFAULT, &scan.lock, err);
	if (rc == 0)
		rc = scan_and_write(&scan);
	if (!lock)
		dotlock_release(&scan.lock);
	scan_free(&scan);
	if (rc == 0)
		rc = sync_where_files_lack(md, err);
	if (rc < 0)
		return rc;
	if (scan.changed)
		*changed_r = true;
	if (scan.adopted >= ADOPT_BATCH)
		write_snapshot(md);
	else
		maildir_housekeep(md);
	return 0;
}

int maildir_scan(struct mailbox *box, bool *changed_r, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct scan scan = {.md = md, .err = err};
	bool behind = false, waited;
	int rc = maildir_refresh(box, err);

	maildir_spool_sweep(md);
	if (rc == 0)
		rc = maildir_index_is_behind(md, &behind, err);
	if (rc == 0 && !behind)
		rc = run(&scan);
	scan_free(&scan);
	if (rc < 0 ||
	    (!behind && !scan.need && !wants_compaction(&scan) && !maildir_lacks_modseqs(md)))
		return rc;
	rc = dotlock_wait(md->control_fd, md->control_path, UIDLIST_NAME,
			  DOTLOCK_TIMEOUT_MS_DEFAULT, &waited, err);
	return rc < 0 ? rc : maildir_scan_locked(md, NULL, changed_r, err);
}

int maildir_settle(struct mailbox *box, struct error *err)
{
	struct maildir *md = maildir_of(box);
	bool changed = false;

	if (!dotlock_is_abandoned(md->control_fd, UIDLIST_NAME))
		return 0;
	log_notice("%s: a process died while it changed the mailbox; looking at what it left",
		   md->path);
	return maildir_scan_locked(md, NULL, &changed, err);
}
