/*
 * Where a message's file is: under the name that the index suggests, or found by a pass through
 * new/ and cur/. See maildir_private.h.
 *
 * Other programs rename files whenever they like. readdir() may miss a file that is renamed
 * meanwhile, so an absence counts only after a pass during which cur/ did not change.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/maildir/name_table.h"

#define PASS_TRIES 10
#define TICK_MS	   10

static const char *const dirs[] = {"new", "cur"};

/* ---- reading the directories ---- */

static int each_file_of(struct maildir *md, const char *dir_name, maildir_file_fn *each, void *ctx,
			struct error *err)
{
	AUTO_DIR DIR *dir = NULL;
	struct maildir_name parsed;
	struct dirent *entry;
	int fd = openat(md->dirfd, dir_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return errno == ENOENT ? 0 : error_errno(err, -errno, "%s/%s", md->path, dir_name);
	dir = fdopendir(fd);
	if (!dir) {
		int code = -errno;

		close(fd);
		return error_errno(err, code, "%s/%s", md->path, dir_name);
	}
	while ((errno = 0, entry = readdir(dir)) != NULL) {
		int rc;

		if (entry->d_type == DT_DIR || !maildir_name_parse(entry->d_name, &parsed))
			continue;
		rc = each(ctx, dir_name, entry->d_name, &parsed);
		if (rc != 0)
			return rc;
	}
	return errno ? error_errno(err, -errno, "%s/%s", md->path, dir_name) : 0;
}

int maildir_each_file(struct maildir *md, maildir_file_fn *each, void *ctx, struct error *err)
{
	for (size_t i = 0; i < 2; i++) {
		int rc = each_file_of(md, dirs[i], each, ctx, err);

		if (rc != 0)
			return rc;
	}
	return 0;
}

/*
 * What is renamed while a directory is read may be missed. Only cur/ can hide a message in this
 * way: new/ is read before it, and who leaves new/ meanwhile is in cur/ before that is read.
 */
struct cur_stamp {
	struct timespec mtime;
	ino_t ino;
};

static struct cur_stamp get_stamp(const struct maildir *md)
{
	struct stat st;

	if (fstatat(md->dirfd, "cur", &st, AT_SYMLINK_NOFOLLOW) < 0)
		return (struct cur_stamp){0};
	return (struct cur_stamp){.mtime = st.st_mtim, .ino = st.st_ino};
}

/* Two changes within one tick of the clock have the same mtime. */
static void let_a_tick_pass(const struct cur_stamp *stamp)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	int64_t age_ms = ((int64_t)now.tv_sec - stamp->mtime.tv_sec) * 1000 +
			 (now.tv_nsec - stamp->mtime.tv_nsec) / 1000000;

	if (age_ms >= 0 && age_ms < TICK_MS)
		usleep(TICK_MS * 1000);
}

static bool stamps_equal(const struct cur_stamp *a, const struct cur_stamp *b)
{
	return a->ino == b->ino && a->mtime.tv_sec == b->mtime.tv_sec &&
	       a->mtime.tv_nsec == b->mtime.tv_nsec;
}

/* ---- the pass ---- */

struct search {
	struct name_table table; /* base -> index + 1 of the first that wants it */
	struct maildir_wanted *wanted;
	size_t open;
};

static int search_file(void *ctx, const char *dir, const char *name,
		       const struct maildir_name *parsed)
{
	struct search *search = ctx;
	struct name_slot *slot = name_table_get(&search->table, parsed->base, parsed->base_len);
	struct maildir_wanted *wanted;

	if (!slot)
		return 0;
	wanted = &search->wanted[slot->value - 1];
	if (!wanted->path[0])
		search->open--;
	/* A file that moves from new/ to cur/ may be seen in both: cur/, read later, is right. */
	snprintf(wanted->path, sizeof wanted->path, "%s/%s", dir, name);
	return 0;
}

static int search_begin(struct search *search, struct maildir_wanted *wanted, size_t count)
{
	int rc = name_table_init(&search->table, count);

	search->wanted = wanted;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		struct name_slot *slot;

		if (wanted[i].path[0])
			continue;
		slot = name_table_put(&search->table, wanted[i].base, wanted[i].base_len);
		if (!slot)
			rc = -ENOMEM;
		else if (!slot->value)
			slot->value = (uint32_t)i + 1;
	}
	search->open = search->table.count;
	return rc;
}

/* Others that want the same file. */
static void search_share(struct search *search, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct maildir_wanted *wanted = &search->wanted[i];
		struct name_slot *slot;

		if (wanted->path[0])
			continue;
		slot = name_table_get(&search->table, wanted->base, wanted->base_len);
		if (slot && slot->value != i + 1)
			memcpy(wanted->path, search->wanted[slot->value - 1].path,
			       sizeof wanted->path);
	}
}

int maildir_search_files(struct maildir *md, struct maildir_wanted *wanted, size_t count,
			 struct error *err)
{
	struct search search = {0};
	struct cur_stamp before, after;
	int rc = search_begin(&search, wanted, count);

	if (rc < 0)
		error_errno(err, rc, "%s", md->path);
	for (int i = 0; rc == 0 && search.open; i++) {
		if (i == PASS_TRIES) {
			rc = error_set(err, -EAGAIN,
				       "%s: files are renamed all the time; %zu were not found",
				       md->path, search.open);
			break;
		}
		before = get_stamp(md);
		let_a_tick_pass(&before);
		rc = maildir_each_file(md, search_file, &search, err);
		after = get_stamp(md);
		if (rc == 0 && stamps_equal(&before, &after))
			break;
	}
	if (rc == 0)
		search_share(&search, count);
	name_table_free(&search.table);
	return rc;
}

/* ---- guessing ---- */

static bool try_path(struct maildir *md, struct maildir_wanted *wanted, const char *dir,
		     const char *name)
{
	struct stat st;

	snprintf(wanted->path, sizeof wanted->path, "%s/%s", dir, name);
	if (fstatat(md->dirfd, wanted->path, &st, AT_SYMLINK_NOFOLLOW) == 0)
		return true;
	wanted->path[0] = '\0';
	return false;
}

bool maildir_guess_file(struct maildir *md, struct maildir_wanted *wanted)
{
	char plain[NAME_MAX + 1], flagged[NAME_MAX + 1];
	bool try_new = wanted->base_len <= NAME_MAX;
	bool try_cur = maildir_name_build(wanted->base, wanted->base_len, wanted->flags,
					  wanted->letters, NULL, flagged) == 0;
	bool new_first = wanted->recent && !wanted->flags && !wanted->letters;

	if (try_new) {
		memcpy(plain, wanted->base, wanted->base_len);
		plain[wanted->base_len] = '\0';
	}
	if (new_first && try_new && try_path(md, wanted, "new", plain))
		return true;
	if (try_cur && try_path(md, wanted, "cur", flagged))
		return true;
	return !new_first && try_new && try_path(md, wanted, "new", plain);
}

bool maildir_probe_file(struct maildir *md, struct maildir_wanted *wanted)
{
	uint32_t letters[] = {wanted->letters, 0};
	char name[NAME_MAX + 1];

	if (maildir_guess_file(md, wanted))
		return true;
	for (unsigned with = 0; with < (wanted->letters ? 2 : 1); with++) {
		for (unsigned flags = 0; flags <= MAIL_FLAGS_MASK; flags++) {
			if (maildir_name_build(wanted->base, wanted->base_len, (uint8_t)flags,
					       letters[with], NULL, name) == 0 &&
			    try_path(md, wanted, "cur", name))
				return true;
		}
	}
	return false;
}

int maildir_find_files(struct maildir *md, struct maildir_wanted *wanted, size_t count,
		       struct error *err)
{
	bool all = true;

	for (size_t i = 0; i < count; i++) {
		wanted[i].path[0] = '\0';
		if (!maildir_guess_file(md, &wanted[i]))
			all = false;
	}
	return all ? 0 : maildir_search_files(md, wanted, count, err);
}

int maildir_want_record(struct maildir *md, const struct index_record *record,
			struct maildir_wanted *wanted_r, struct error *err)
{
	struct uidlist_record line;
	int rc = uidlist_find(md->uidlist, record->uid, &line, err);

	if (rc == 0 && maildir_record_has_keywords(record))
		rc = maildir_need_keywords(md, err);
	if (rc < 0)
		return rc;
	*wanted_r = (struct maildir_wanted){
		.base = line.base,
		.base_len = line.base_len,
		.flags = record->flags & MAIL_FLAGS_MASK,
		.letters = maildir_record_letters(md, record),
		.recent = maildir_record_is_recent(md, record->uid),
	};
	return 0;
}
