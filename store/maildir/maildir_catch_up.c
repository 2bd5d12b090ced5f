/*
 * Events become uidlist lines and index records (design, invariant 4).
 *
 * An event only says where to look. The events of one file are taken together; what counts is what
 * is true now, with one exception: that a file was seen to be removed is what makes its absence an
 * expunge. Dovecot, which finds a file missing, records that without saying which message it was;
 * then a peer that has the message under a UID that both have not agreed on yet could not tell.
 * Such a removal is recorded once more, with the GUID; where nothing tells any more which UID it
 * had, under one of its own.
 *
 * Mostly Dovecot has recorded everything, or is about to: it holds dovecot-uidlist.lock from before
 * a file appears until the index knows it. So a look is taken without any lock; if something seems
 * to be missing, whoever holds the lock is waited for and the look repeated; only then is the lock
 * taken.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/index/index_changes.h"
#include "store/index/index_files.h"
#include "store/maildir/name_table.h"

#define ROUNDS_MAX 5
/* To read so many names of a directory costs about as much as to try all names of one file. */
#define MESSAGES_PER_PROBE 4096
#define NO_FILE		   ".dsyncfs.none" /* a name that no file has */

/* What the events say about one base name. */
struct item {
	const char *base;
	size_t base_len;
	const char *present; /* the last name that was seen to appear; NULL: none */
	const char *removed; /* the name under which it was seen to go since; NULL: it was not */
	uint32_t uid;	     /* of the uidlist; 0: not in it */
	bool settled;	     /* under the lock; no further look */
	bool came_here;	     /* by a program on this node, since the last catch-up */
	bool left_here;	     /* removed by one */
	bool unrecorded;     /* nothing tells of its removal */
	uint32_t gone_uid;   /* that it had, as far as is known; 0 */
	struct guid guid;    /* without gone_uid: by its name. Empty: not looked for yet */
};

struct catch_up {
	struct maildir *md;
	struct item *items;
	size_t count;
	bool scan;
	/* how much of which uidlist the items' uids were looked for in */
	uint64_t generation;
	size_t searched;
	/* files that have to be searched for, under the lock */
	struct maildir_wanted *wanted;
	size_t *wanted_item;
	size_t wanted_count;
	bool wanted_pass; /* of one of them nothing is known but that it is not where it should be
			   */
};

/* ---- events to items ---- */

static struct item *item_of(struct catch_up *up, struct name_table *table, const char *file)
{
	struct maildir_name name;
	struct name_slot *slot;
	struct item *item;

	if (!maildir_name_parse(file, &name) || name.base_len > NAME_MAX)
		return NULL;
	slot = name_table_put(table, name.base, name.base_len);
	if (!slot)
		return NULL;
	if (!slot->value) {
		item = &up->items[up->count++];
		*item = (struct item){.base = name.base, .base_len = name.base_len};
		slot->value = (uint32_t)up->count;
	}
	return &up->items[slot->value - 1];
}

static void see_present(struct item *item, const char *file)
{
	if (!item)
		return;
	item->present = file;
	item->removed = NULL;
}

static void see_removed(struct item *item, const char *file)
{
	/* A file that got a second name and lost the first is still there. */
	if (item && (!item->present || strcmp(item->present, file) == 0))
		item->removed = file;
}

static void see_event(struct catch_up *up, struct name_table *table, const struct mail_event *event)
{
	struct item *from, *to;

	switch (event->kind) {
	case MAIL_EVENT_DELIVERED:
		to = item_of(up, table, event->name);
		if (to && event->origin == 0)
			to->came_here = true;
		see_present(to, event->name);
		break;
	case MAIL_EVENT_RENAMED:
		from = item_of(up, table, event->name);
		to = item_of(up, table, event->name2);
		if (from != to)
			see_removed(from, event->name);
		see_present(to, event->name2);
		break;
	case MAIL_EVENT_REMOVED:
		from = item_of(up, table, event->name);
		if (from && event->origin == 0)
			from->left_here = true;
		see_removed(from, event->name);
		break;
	case MAIL_EVENT_RESCAN:
	case MAIL_EVENT_RESCAN_HOME:
		up->scan = true;
		break;
	case MAIL_EVENT_TOUCHED:
	case MAIL_EVENT_DIR_CREATED:
	case MAIL_EVENT_DIR_RENAMED:
	case MAIL_EVENT_DIR_REMOVED:
	case MAIL_EVENT_LIST_TOUCHED:
		break;
	}
}

static int group_events(struct catch_up *up, const struct mail_event *events, size_t count,
			struct error *err)
{
	struct name_table table;

	/* A rename may name two files. */
	up->items = calloc(2 * count + 1, sizeof *up->items);
	up->wanted = calloc(2 * count + 1, sizeof *up->wanted);
	up->wanted_item = calloc(2 * count + 1, sizeof *up->wanted_item);
	if (!up->items || !up->wanted || !up->wanted_item || name_table_init(&table, count) < 0)
		return error_errno(err, -ENOMEM, "%s", up->md->path);
	for (size_t i = 0; i < count; i++)
		see_event(up, &table, &events[i]);
	name_table_free(&table);
	return 0;
}

/* ---- items to UIDs ---- */

static int look_up_uids(struct catch_up *up, struct error *err)
{
	struct uidlist *list = up->md->uidlist;
	bool same = up->generation == uidlist_generation(list);
	size_t from = same ? up->searched : 0, count = 0;
	AUTO_FREE struct uidlist_query *queries = NULL;
	AUTO_FREE size_t *which = NULL;
	int rc;

	if (up->count == 0 || (same && from == uidlist_size(list)))
		return 0;
	queries = calloc(up->count, sizeof *queries);
	which = calloc(up->count, sizeof *which);
	if (!queries || !which)
		return error_errno(err, -ENOMEM, "%s", up->md->path);
	for (size_t i = 0; i < up->count; i++) {
		which[count] = i;
		queries[count++] = (struct uidlist_query){.base = up->items[i].base,
							  .base_len = up->items[i].base_len};
	}
	rc = uidlist_find_bases(list, from, queries, count, err);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < count; i++) {
		/* Of two lines the later counts; an earlier result stays where no line was added.
		 */
		if (queries[i].uid || !same)
			up->items[which[i]].uid = queries[i].uid;
	}
	up->generation = uidlist_generation(list);
	up->searched = uidlist_size(list);
	return 0;
}

/* A message that is gone, line and record, and not by a worker, which would have recorded it. */
static bool may_be_unrecorded(const struct maildir *md, const struct item *item)
{
	struct index_record record;

	return item->removed && item->left_here && !item->settled &&
	       (!item->uid || index_find(md->index, item->uid, &record) < 0);
}

static void identify(struct maildir *md, const struct uidlist *list, uint32_t uid,
		     struct item *item)
{
	struct uidlist_record line;

	if (uid == 0 || uidlist_find(list, uid, &line, NULL) < 0)
		return;
	item->gone_uid = uid;
	guid_from_message_guid(maildir_line_guid(md, &line), &item->guid);
}

/* Which messages they were. A copy that Dovecot made has another's GUID, which only its line tells:
 * where that is gone, the list that was there before. Else a message has the name that its first
 * file had. */
static int identify_gone(struct catch_up *up, struct error *err)
{
	struct maildir *md = up->md;
	struct uidlist *before = uidlist_before(md->uidlist);
	AUTO_FREE struct uidlist_query *queries = calloc(up->count + 1, sizeof *queries);
	AUTO_FREE struct item **asked = calloc(up->count + 1, sizeof(struct item *));
	size_t count = 0;

	if (!queries || !asked)
		return error_errno(err, -ENOMEM, "%s", md->path);
	for (size_t i = 0; i < up->count; i++) {
		struct item *item = &up->items[i];

		if (!may_be_unrecorded(md, item) || item->gone_uid)
			continue;
		identify(md, md->uidlist, item->uid, item);
		asked[count] = item;
		if (!item->gone_uid)
			queries[count++] = (struct uidlist_query){.base = item->base,
								  .base_len = item->base_len};
	}
	/* One that cannot be read tells nothing. */
	if (before && count && uidlist_find_bases(before, 0, queries, count, NULL) < 0)
		before = NULL;
	for (size_t k = 0; k < count; k++) {
		char base[NAME_MAX + 1];

		if (before)
			identify(md, before, queries[k].uid, asked[k]);
		snprintf(base, sizeof base, "%.*s", (int)asked[k]->base_len, asked[k]->base);
		if (guid_is_empty(&asked[k]->guid))
			guid_from_message_guid(base, &asked[k]->guid);
	}
	return 0;
}

/* What came and went here without a UID was never told to anybody. With one it may have been: after
 * a crash events come again that were taken in before. */
static bool may_be_told(const struct item *item)
{
	return !item->came_here || item->gone_uid;
}

/* Which removals nothing tells of. Reads the log, but only where there is a candidate. */
static int find_unrecorded(struct catch_up *up, struct error *err)
{
	struct maildir *md = up->md;
	AUTO_FREE struct index_expunge_query *queries = NULL;
	size_t count = 0, k = 0;
	bool nameless;
	int rc;

	for (size_t i = 0; i < up->count; i++) {
		up->items[i].unrecorded = false;
		count += may_be_unrecorded(md, &up->items[i]);
	}
	if (count == 0)
		return 0;
	rc = identify_gone(up, err);
	if (rc < 0)
		return rc;
	queries = calloc(count, sizeof *queries);
	if (!queries)
		return error_errno(err, -ENOMEM, "%s", md->path);
	for (size_t i = 0; i < up->count; i++) {
		if (!may_be_unrecorded(md, &up->items[i]))
			continue;
		queries[k].uid = up->items[i].gone_uid;
		queries[k++].guid = up->items[i].guid;
	}
	rc = index_find_expunges(md->index, queries, count, &nameless, err);
	k = 0;
	for (size_t i = 0; rc == 0 && i < up->count; i++) {
		if (may_be_unrecorded(md, &up->items[i]))
			up->items[i].unrecorded =
				!queries[k++].known && (nameless || may_be_told(&up->items[i]));
	}
	return rc;
}

/* ---- looking ---- */

static bool file_exists(const struct maildir *md, const char *dir, const char *name)
{
	char path[MAILDIR_PATH_MAX];
	struct stat st;

	if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
		return false;
	return fstatat(md->dirfd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

/* Whether the file is still there under the name that was seen. */
static bool is_present(const struct maildir *md, const struct item *item)
{
	if (!item->present || item->removed)
		return false;
	if (strchr(item->present, ':'))
		return file_exists(md, "cur", item->present) ||
		       file_exists(md, "new", item->present);
	return file_exists(md, "new", item->present) || file_exists(md, "cur", item->present);
}

/* Is the file where the index would have it? */
static int is_where_expected(struct maildir *md, const struct index_record *record,
			     struct maildir_wanted *wanted_r, bool *expected_r, struct error *err)
{
	int rc = maildir_want_record(md, record, wanted_r, err);

	if (rc == 0)
		*expected_r = maildir_guess_file(md, wanted_r);
	return rc;
}

/* Whether the file went under the name that it had last: the one that was seen to appear, or the
 * one that the index knows. */
static int went_under_its_name(struct catch_up *up, const struct item *item,
			       const struct index_record *record, bool *went_r, struct error *err)
{
	struct maildir_name name;
	bool differs = true;
	int rc = 0;

	if (!item->present && maildir_name_parse(item->removed, &name))
		rc = maildir_name_differs(up->md, record, &name, &differs, err);
	*went_r = item->present || (!differs && !(record->flags & INDEX_FLAG_DIRTY));
	return rc;
}

/* A message of the index. need_r: something has to be written, or looked at under the lock. */
static int look_at_message(struct catch_up *up, size_t i, const struct index_record *record,
			   struct maildir_txn *txn, bool *need_r, struct error *err)
{
	struct maildir *md = up->md;
	struct item *item = &up->items[i];
	struct maildir_wanted wanted;
	struct maildir_name name;
	bool expected = false, changed, went;
	int rc;

	if (!item->removed && item->present) {
		maildir_name_parse(item->present, &name);
		rc = maildir_name_differs(md, record, &name, &changed, err);
		if (rc < 0 || !changed)
			return rc;
		/* A request that Dovecot has not carried out yet: there the index is right, and
		 * Dovecot settles the rest when it does. */
		if (index_has_request(md->index, record->uid))
			return 0;
		if (is_present(md, item)) {
			if (!txn) {
				*need_r = true;
				return 0;
			}
			return maildir_txn_see_name(txn, record, &name, &changed, err);
		}
	}
	/* Seen under a name that it does not have any more: a later event tells why. */
	if (!item->removed)
		return 0;
	rc = is_where_expected(md, record, &wanted, &expected, err);
	if (rc < 0 || expected)
		return rc;
	rc = went_under_its_name(up, item, record, &went, err);
	if (rc < 0)
		return rc;
	*need_r = true;
	up->wanted_pass = up->wanted_pass || !went;
	up->wanted[up->wanted_count] = wanted;
	up->wanted_item[up->wanted_count++] = i;
	return 0;
}

static int record_removal(struct maildir_txn *txn, const struct item *item, struct error *err)
{
	log_debug("%s: the removal of %.*s is recorded uid=%u", txn->md->path, (int)item->base_len,
		  item->base, item->gone_uid);
	return maildir_txn_record_removal(txn, item->gone_uid, &item->guid, err);
}

static int look_at_item(struct catch_up *up, size_t i, struct maildir_txn *txn, bool *need_r,
			struct error *err)
{
	struct maildir *md = up->md;
	struct item *item = &up->items[i];
	struct index_record record;
	struct index_status status;
	struct maildir_name name;

	if (item->settled)
		return 0;
	if (item->uid && index_find(md->index, item->uid, &record) == 0)
		return look_at_message(up, i, &record, txn, need_r, err);
	index_status(md->index, &status);
	if (item->unrecorded) {
		*need_r = true;
		item->settled = txn != NULL;
		return txn ? record_removal(txn, item, err) : 0;
	}
	/* A line that the index has yet to see: found by maildir_index_is_behind(). */
	if (item->uid >= status.next_uid || !is_present(md, item))
		return 0;
	/* A file without a line; or with that of a message that is gone, which is not to come
	 * back under its old UID. */
	*need_r = true;
	if (!txn)
		return 0;
	maildir_name_parse(item->present, &name);
	item->settled = true;
	if (item->uid)
		log_warning("%s: expunged message reappeared, giving it a new UID (old uid=%u, "
			    "file=%s)",
			    md->path, item->uid, item->present);
	return maildir_txn_adopt(txn, &name, item->uid, err);
}

/*
 * Under the lock: files that are not where they should be. Those that were seen to go under the
 * name they had are gone, unless somebody gives flags by link and unlink and the link is not told
 * here: to try the names that this may have given is cheaper than a pass through a large directory.
 */
static int find_wanted(struct catch_up *up, struct error *err)
{
	struct maildir *md = up->md;
	size_t worth = md->box.status.messages / MESSAGES_PER_PROBE;

	if (up->wanted_pass || up->wanted_count > worth)
		return maildir_search_files(md, up->wanted, up->wanted_count, err);
	for (size_t k = 0; k < up->wanted_count; k++)
		maildir_probe_file(md, &up->wanted[k]);
	return 0;
}

static int settle_wanted(struct catch_up *up, struct maildir_txn *txn, struct error *err)
{
	struct maildir *md = up->md;
	int rc = find_wanted(up, err);

	for (size_t k = 0; rc == 0 && k < up->wanted_count; k++) {
		struct item *item = &up->items[up->wanted_item[k]];
		struct index_record record;
		struct maildir_name name;
		bool changed;

		if (index_find(md->index, item->uid, &record) < 0)
			continue;
		if (up->wanted[k].path[0] && maildir_name_parse(up->wanted[k].path + 4, &name))
			rc = maildir_txn_see_name(txn, &record, &name, &changed, err);
		else if (!up->wanted[k].path[0])
			rc = maildir_txn_see_removed(txn, item->uid, err);
		item->settled = true;
	}
	return rc;
}

/* Without txn: is there anything to do? With it: does it. */
static int look(struct catch_up *up, struct maildir_txn *txn, bool *need_r, struct error *err)
{
	int rc = look_up_uids(up, err);

	*need_r = false;
	up->wanted_count = 0;
	up->wanted_pass = false;
	if (rc == 0 && !txn)
		rc = maildir_index_is_behind(up->md, need_r, err);
	if (rc == 0 && !txn && maildir_lacks_modseqs(up->md))
		*need_r = true;
	if (rc == 0)
		rc = find_unrecorded(up, err);
	for (size_t i = 0; rc == 0 && i < up->count && (txn || !*need_r); i++)
		rc = look_at_item(up, i, txn, need_r, err);
	if (rc == 0 && txn && up->wanted_count)
		rc = settle_wanted(up, txn, err);
	return rc;
}

static int look_again(struct catch_up *up, bool *need_r, struct error *err)
{
	bool changed;
	int rc = maildir_refresh_files(up->md, &changed, err);

	return rc < 0 ? rc : look(up, NULL, need_r, err);
}

/* ---- writing ---- */

static int write_locked(struct catch_up *up, bool *changed_r, struct error *err)
{
	struct maildir *md = up->md;
	struct maildir_txn *txn;
	struct index_position before, after;
	bool behind, need;
	int rc;

	rc = maildir_txn_begin(md, NULL, &txn, err);
	if (rc < 0)
		return rc;
	index_position(md->index, &before);
	rc = maildir_index_is_behind(md, &behind, err);
	if (rc == 0 && behind)
		rc = maildir_txn_complete_all(txn, err);
	if (rc == 0)
		rc = look(up, txn, &need, err);
	if (rc == 0)
		rc = maildir_txn_commit(txn, err);
	maildir_txn_free(txn);
	if (rc < 0)
		return rc;
	index_position(md->index, &after);
	if (!index_position_equal(&before, &after))
		*changed_r = true;
	maildir_housekeep(md);
	return 0;
}

static int catch_up_items(struct catch_up *up, bool *changed_r, struct error *err)
{
	struct maildir *md = up->md;
	bool need, waited;
	int rc = look(up, NULL, &need, err);

	for (int round = 0; rc == 0 && need && round < ROUNDS_MAX; round++) {
		rc = dotlock_wait(md->control_fd, md->control_path, UIDLIST_NAME,
				  DOTLOCK_TIMEOUT_MS_DEFAULT, &waited, err);
		if (rc == 0)
			rc = look_again(up, &need, err);
		if (rc < 0 || !need)
			break;
		rc = write_locked(up, changed_r, err);
		/* Somebody may have renamed a file after the last look at it. */
		if (rc == 0)
			rc = look_again(up, &need, err);
	}
	return rc;
}

/*
 * The mount tells of an unlink before the kernel hears that it is done, and until then the kernel
 * may still know the file. It holds the directory's lock meanwhile, for which a lookup of a name
 * that it does not know waits.
 */
static void await_removals(const struct catch_up *up)
{
	struct stat st;

	for (size_t i = 0; i < up->count; i++) {
		if (!up->items[i].removed)
			continue;
		(void)fstatat(up->md->dirfd, "cur/" NO_FILE, &st, AT_SYMLINK_NOFOLLOW);
		(void)fstatat(up->md->dirfd, "new/" NO_FILE, &st, AT_SYMLINK_NOFOLLOW);
		return;
	}
}

int maildir_catch_up(struct mailbox *box, const struct mail_event *events, size_t count,
		     bool *changed_r, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct catch_up up = {.md = md};
	int rc = maildir_refresh(box, err);

	if (rc == 0)
		rc = group_events(&up, events, count, err);
	if (rc == 0)
		await_removals(&up);
	if (rc == 0)
		rc = catch_up_items(&up, changed_r, err);
	if (rc == 0 && up.scan)
		rc = maildir_scan(box, changed_r, err);
	if (rc == 0)
		maildir_update_status(md);
	/* What happens from now on, later events tell. */
	uidlist_keep_before(md->uidlist);
	free(up.items);
	free(up.wanted);
	free(up.wanted_item);
	return rc;
}
