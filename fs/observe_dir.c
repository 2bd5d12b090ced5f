/* What operations on directories meant for mail: mailboxes made, renamed and removed, and homes
 * that came or went. See observe.h. */
#include "fs/observe.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/journal/journal.h"

/* Where the directory names[i] is, which has no place that could be asked. */
static void locate_dir(const struct observed *op, unsigned i, struct place_path *path_r)
{
	place_locate_child(op->observer->places, op->names[i].dir, op->names[i].name, path_r);
}

/* A directory that is or holds mailboxes: below a home, and not the parts of a mailbox. */
static bool in_home(const struct place_path *path)
{
	return path->role == PLACE_DIR && path->depth > 0;
}

static bool is_home(const struct place_path *path)
{
	return path->role == PLACE_DIR && path->depth == 0;
}

static uint64_t push(struct observed *op, enum mail_event_kind kind, const struct place_path *path)
{
	return observe_push(op, kind, path->home, path->dir, "", "");
}

static void push_rescan_home(struct observed *op, const char *home)
{
	observe_push(op, MAIL_EVENT_RESCAN_HOME, home, "", "", "");
}

/* path: of the mailbox directory, or of a directory in one. Its new name is dirty in its own right,
 * so that a crash does not lose the event. */
static void dirty_text(struct observed *op, const struct place_path *path)
{
	struct dirty_box *box = dirty_enter(op->observer->dirty, path, false);

	dirty_wait(op->observer->dirty, box);
	dirty_leave(op->observer->dirty, box);
}

void observe_dir_made(struct observed *op)
{
	struct place_path path;

	observe_enter(op, 0);
	locate_dir(op, 0, &path);
	if (place_role_is_mailbox(path.role)) {
		dirty_text(op, &path);
		push(op, MAIL_EVENT_DIR_CREATED, &path);
	}
	place_release(op->observer->places, &path);
}

void observe_dir_removal_ahead(struct observed *op)
{
	struct place_path path;

	locate_dir(op, 0, &path);
	if (in_home(&path))
		op->removal = journal_removal_ahead(
			op->observer->journal, &(struct mail_event){.kind = MAIL_EVENT_DIR_REMOVED,
								    .home = path.home,
								    .dir = path.dir,
								    .name = ""});
	place_release(op->observer->places, &path);
}

void observe_dir_removed(struct observed *op)
{
	struct place_path path;

	observe_enter(op, 0);
	locate_dir(op, 0, &path);
	if (in_home(&path) || path.role == PLACE_MAILS) {
		dirty_text(op, &path);
		observe_removed(op, 0,
				observe_push_removal(op, 0, MAIL_EVENT_DIR_REMOVED, path.home,
						     path.dir, ""));
	} else if (is_home(&path)) {
		push_rescan_home(op, path.home);
	}
	place_release(op->observer->places, &path);
}

static bool holds(int dir_fd, const char *name, const char *part)
{
	char path[NAME_MAX + sizeof "/dbox-Mails"];
	struct stat st;

	if (snprintf(path, sizeof path, "%s/%s", name, part) >= (int)sizeof path)
		return false;
	return fstatat(dir_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

static bool holds_mailbox(int dir_fd, const char *name)
{
	return holds(dir_fd, name, "cur") || holds(dir_fd, name, "dbox-Mails");
}

/* A directory above the homes was renamed: every home below it has another name now. levels: how
 * far below it homes are. */
static void rescan_homes_below(struct observed *op, int dir_fd, const char *name,
			       const char *old_path, const char *new_path, unsigned levels)
{
	AUTO_DIR DIR *dir = NULL;
	const struct dirent *entry;
	int fd;

	if (levels == 0) {
		push_rescan_home(op, old_path);
		push_rescan_home(op, new_path);
		return;
	}
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return; /* no directory, so nobody's home */
	dir = fdopendir(fd);
	if (!dir) {
		close(fd);
		return;
	}
	while ((entry = readdir(dir)) != NULL) {
		char old_child[PLACE_PATH_MAX], new_child[PLACE_PATH_MAX];

		if (!file_name_is_safe(entry->d_name))
			continue;
		if (entry->d_type != DT_DIR && entry->d_type != DT_UNKNOWN)
			continue;
		if (snprintf(old_child, sizeof old_child, "%s/%s", old_path, entry->d_name) >=
			    (int)sizeof old_child ||
		    snprintf(new_child, sizeof new_child, "%s/%s", new_path, entry->d_name) >=
			    (int)sizeof new_child)
			continue;
		rescan_homes_below(op, fd, entry->d_name, old_child, new_child, levels - 1);
	}
}

/* How far below the directory its homes are; 0 at and below a home. */
static unsigned levels_to_home(const struct observed *op, const struct place_path *path)
{
	unsigned levels = places_home_depth(op->observer->places);

	for (const char *p = path->home; *p; p++) {
		if (p == path->home || *p == '/')
			levels--;
	}
	return levels;
}

/* One side of a rename that is no plain rename within a home. */
static void side_changed(struct observed *op, const struct place_path *path, bool appeared,
			 bool has_mailbox)
{
	if (place_role_is_part(path->role)) {
		dirty_text(op, path);
		push(op, MAIL_EVENT_RESCAN, path);
		if (appeared && place_role_is_mailbox(path->role))
			push(op, MAIL_EVENT_DIR_CREATED, path);
		else if (!appeared && path->role == PLACE_MAILS)
			push(op, MAIL_EVENT_DIR_REMOVED, path);
	} else if (is_home(path)) {
		push_rescan_home(op, path->home);
	} else if (in_home(path)) {
		dirty_text(op, path);
		if (appeared && has_mailbox)
			push(op, MAIL_EVENT_DIR_CREATED, path);
		else if (!appeared)
			push(op, MAIL_EVENT_DIR_REMOVED, path);
		push_rescan_home(op, path->home);
	}
}

/* An operation was under way in a mailbox while it, or a directory above it, was renamed: its event
 * may name a path that is no more. */
static void rescan_busy(void *ctx, struct place *place)
{
	struct observed *op = ctx;
	struct place_path path;

	place_locate(op->observer->places, place, &path);
	if (path.box)
		push(op, MAIL_EVENT_RESCAN, &path);
	place_release(op->observer->places, &path);
}

void observe_dir_renamed(struct observed *op, struct place *place, int dir_fd)
{
	struct place_path from, to;

	observe_enter(op, 0);
	observe_enter(op, 1);
	locate_dir(op, 0, &from);
	locate_dir(op, 1, &to);
	if (in_home(&from) && in_home(&to) && strcmp(from.home, to.home) == 0) {
		uint64_t ticket;

		dirty_text(op, &to);
		ticket = observe_push(op, MAIL_EVENT_DIR_RENAMED, from.home, from.dir, to.dir, "");
		observe_removed(op, 0, ticket);
		observe_removed(op, 1, ticket);
		if (place)
			dirty_rename(op->observer->dirty, place, rescan_busy, op);
		goto out;
	}
	if (place)
		dirty_rename(op->observer->dirty, place, rescan_busy, op);
	if (from.role == PLACE_ABOVE && to.role == PLACE_ABOVE &&
	    levels_to_home(op, &from) == levels_to_home(op, &to)) {
		rescan_homes_below(op, dir_fd, op->names[1].name, from.home, to.home,
				   levels_to_home(op, &to));
	} else {
		if (from.role == PLACE_ABOVE || to.role == PLACE_ABOVE)
			log_warning("a directory was moved to another level of the tree; homes in "
				    "it are found by the next full scan name=%s",
				    op->names[1].name);
		side_changed(op, &from, false, false);
		side_changed(op, &to, true, holds_mailbox(dir_fd, op->names[1].name));
	}
out:
	place_release(op->observer->places, &from);
	place_release(op->observer->places, &to);
}

void observe_dirs_exchanged(struct observed *op, struct place *a, struct place *b)
{
	if (a)
		dirty_rename(op->observer->dirty, a, rescan_busy, op);
	if (b)
		dirty_rename(op->observer->dirty, b, rescan_busy, op);
	for (unsigned i = 0; i < 2; i++) {
		struct place_path path;

		locate_dir(op, i, &path);
		if (path.role != PLACE_ABOVE && path.role != PLACE_INSIDE)
			push_rescan_home(op, path.home);
		place_release(op->observer->places, &path);
	}
}
