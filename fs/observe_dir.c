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
#include "fs/lead.h"
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

static uint64_t push_rescan_home(struct observed *op, const char *home)
{
	return observe_push(op, MAIL_EVENT_RESCAN_HOME, home, "", "", "");
}

/* What is waited for of two events; an equal one that is queued already may have come earlier. */
static uint64_t later(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* path: of the mailbox directory, or of a directory in one. Its new name is dirty in its own right,
 * so that a crash does not lose the event. */
static void dirty_text(struct observed *op, const struct place_path *path)
{
	struct dirty_box *box = dirty_enter(op->observer->dirty, path, NULL);

	dirty_wait(op->observer->dirty, box);
	dirty_leave(op->observer->dirty, box);
}

/* names[0] by the name that it has at this moment, unless it is something else by now than it was
 * at `was`. */
static uint64_t push_dir(struct observed *op, enum mail_event_kind kind,
			 const struct place_path *was)
{
	struct places *places = op->observer->places;
	const struct place_path *at = was;
	struct place_path now;
	uint64_t ticket;

	places_names_lock(places);
	locate_dir(op, 0, &now);
	if (now.role == was->role && in_home(&now) == in_home(was))
		at = &now;
	ticket = kind == MAIL_EVENT_DIR_REMOVED ? observe_push_dir_removed(op, at->home, at->dir)
						: push(op, kind, at);
	places_names_unlock(places);
	place_release(places, &now);
	return ticket;
}

void observe_dir_made(struct observed *op)
{
	struct place_path path;

	observe_enter(op, 0);
	locate_dir(op, 0, &path);
	if (place_role_is_mailbox(path.role)) {
		dirty_text(op, &path);
		push_dir(op, MAIL_EVENT_DIR_CREATED, &path);
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
		observe_removed(op, 0, push_dir(op, MAIL_EVENT_DIR_REMOVED, &path));
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

static uint64_t push_rescan_both(struct observed *op, const char *old_home, const char *new_home)
{
	uint64_t ticket = push_rescan_home(op, old_home);

	return later(ticket, push_rescan_home(op, new_home));
}

/* Which homes are below it is not known, so all are looked at. */
static uint64_t rescan_everything(struct observed *op, const char *old_path, const char *new_path,
				  int code)
{
	log_error("a renamed directory cannot be read: %s; everything is scanned old=%s new=%s",
		  strerror(code), old_path, new_path);
	journal_renew(op->observer->journal);
	/* The new id is durable with what is queued now. */
	return push_rescan_both(op, old_path, new_path);
}

/* A directory above the homes was renamed: every home below it has another name now. levels: how
 * far below it homes are. Returns the ticket of the last event. */
static uint64_t rescan_homes_below(struct observed *op, int dir_fd, const char *name,
				   const char *old_path, const char *new_path, unsigned levels)
{
	AUTO_DIR DIR *dir = NULL;
	const struct dirent *entry;
	uint64_t ticket = 0;
	int fd;

	if (levels == 0)
		return push_rescan_both(op, old_path, new_path);
	fd = openat(dir_fd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 && (errno == ENOTDIR || errno == ENOENT))
		return 0; /* no directory, so nobody's home */
	dir = fd < 0 ? NULL : fdopendir(fd);
	if (!dir) {
		ticket = rescan_everything(op, old_path, new_path, errno);
		file_close(&fd);
		return ticket;
	}
	for (errno = 0; (entry = readdir(dir)) != NULL; errno = 0) {
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
		ticket = later(ticket, rescan_homes_below(op, fd, entry->d_name, old_child,
							  new_child, levels - 1));
	}
	return errno ? later(ticket, rescan_everything(op, old_path, new_path, errno)) : ticket;
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

/* The directory `name` was old_path and is new_path; one of these is above the homes. */
static uint64_t homes_moved(struct observed *op, int dir_fd, const char *name,
			    const struct place_path *old_path, const struct place_path *new_path)
{
	unsigned levels = levels_to_home(op, new_path);

	if (old_path->role == PLACE_ABOVE && new_path->role == PLACE_ABOVE &&
	    levels == levels_to_home(op, old_path))
		return rescan_homes_below(op, dir_fd, name, old_path->home, new_path->home, levels);
	log_warning("a directory was moved to another level of the tree; homes in it are found by "
		    "the next full scan name=%s",
		    name);
	return 0;
}

/* One side of a rename that is no plain rename within a home. Returns the ticket of what was told
 * of it last. */
static uint64_t side_changed(struct observed *op, const struct place_path *path, bool appeared,
			     bool has_mailbox)
{
	uint64_t ticket = 0;

	if (place_role_is_part(path->role)) {
		dirty_text(op, path);
		ticket = push(op, MAIL_EVENT_RESCAN, path);
		if (appeared && place_role_is_mailbox(path->role))
			ticket = push(op, MAIL_EVENT_DIR_CREATED, path);
		else if (!appeared && path->role == PLACE_MAILS)
			ticket = push(op, MAIL_EVENT_DIR_REMOVED, path);
	} else if (path->role == PLACE_DIR) {
		dirty_text(op, path);
		if (in_home(path) && appeared && has_mailbox)
			ticket = push(op, MAIL_EVENT_DIR_CREATED, path);
		else if (in_home(path) && !appeared)
			ticket = push(op, MAIL_EVENT_DIR_REMOVED, path);
		ticket = later(ticket, push_rescan_home(op, path->home));
	}
	return ticket;
}

/* Nothing but these events says what a rename has moved out of a home, or into one. */
static void wait_for(const struct observed *op, uint64_t ticket)
{
	lead_yield();
	journal_wait(op->observer->journal, ticket);
}

/* An operation was under way in a mailbox while it, or a directory above it, was renamed: by its
 * new name it is not dirty yet. */
static void rescan_busy(void *ctx, struct place *place)
{
	struct observed *op = ctx;
	struct place_path path;

	place_locate(op->observer->places, place, &path);
	if (path.box)
		push(op, MAIL_EVENT_RESCAN, &path);
	place_release(op->observer->places, &path);
}

static bool within_home(const struct place_path *from, const struct place_path *to)
{
	return in_home(from) && in_home(to) && strcmp(from->home, to->home) == 0;
}

static int move_to(const struct observed *op, struct place *place, unsigned i)
{
	return place ? place_move(op->observer->places, place, op->names[i].dir, op->names[i].name)
		     : 0;
}

/* Directories above may be renamed as well: the order in which they move is the one in which they
 * are told. What happened to mail before is told before, by the old name, and the rest by the new.
 */
static int take_in_rename(struct observed *op, struct place *place, struct place_path *from_r,
			  struct place_path *to_r, struct dirty_box **box_r, uint64_t *ticket_r)
{
	struct places *places = op->observer->places;
	int rc;

	places_rename_begin(places);
	locate_dir(op, 0, from_r);
	locate_dir(op, 1, to_r);
	rc = move_to(op, place, 1);
	if (within_home(from_r, to_r)) {
		*box_r = dirty_enter(op->observer->dirty, to_r, NULL);
		*ticket_r = observe_push(op, MAIL_EVENT_DIR_RENAMED, from_r->home, from_r->dir,
					 to_r->dir, "");
	}
	places_rename_end(places);
	return rc;
}

int observe_dir_renamed(struct observed *op, struct place *place, int dir_fd)
{
	struct dirty *dirty = op->observer->dirty;
	struct dirty_box *box = NULL;
	struct place_path from, to;
	uint64_t ticket = 0;
	int rc;

	observe_enter(op, 0);
	observe_enter(op, 1);
	rc = take_in_rename(op, place, &from, &to, &box, &ticket);
	if (place)
		dirty_rename(dirty, place, rescan_busy, op);
	if (within_home(&from, &to)) {
		dirty_wait(dirty, box);
		dirty_leave(dirty, box);
		observe_removed(op, 0, ticket);
		observe_removed(op, 1, ticket);
		goto out;
	}
	if (from.role == PLACE_ABOVE || to.role == PLACE_ABOVE)
		ticket = homes_moved(op, dir_fd, op->names[1].name, &from, &to);
	ticket = later(ticket, side_changed(op, &from, false, false));
	ticket = later(ticket,
		       side_changed(op, &to, true, holds_mailbox(dir_fd, op->names[1].name)));
	wait_for(op, ticket);
out:
	place_release(op->observer->places, &from);
	place_release(op->observer->places, &to);
	return rc;
}

/* paths_r: what names[0] and names[1] are. */
static int take_in_exchange(struct observed *op, struct place *a, struct place *b,
			    struct place_path paths_r[2], uint64_t *ticket_r)
{
	int rc = 0, rc_b;

	places_rename_begin(op->observer->places);
	if (a && b) {
		place_swap(op->observer->places, a, b);
	} else {
		rc = move_to(op, a, 1);
		rc_b = move_to(op, b, 0);
		rc = rc < 0 ? rc : rc_b;
	}
	for (unsigned i = 0; i < 2; i++) {
		locate_dir(op, i, &paths_r[i]);
		if (paths_r[i].role != PLACE_ABOVE && paths_r[i].role != PLACE_INSIDE)
			*ticket_r = later(*ticket_r, push_rescan_home(op, paths_r[i].home));
	}
	places_rename_end(op->observer->places);
	return rc;
}

int observe_dirs_exchanged(struct observed *op, struct place *a, struct place *b,
			   const int dir_fds[2])
{
	struct place_path paths[2];
	uint64_t ticket = 0;
	int rc = take_in_exchange(op, a, b, paths, &ticket);

	if (a)
		dirty_rename(op->observer->dirty, a, rescan_busy, op);
	if (b)
		dirty_rename(op->observer->dirty, b, rescan_busy, op);
	for (unsigned i = 0; i < 2; i++) {
		if (place_role_is_part(paths[i].role) || paths[i].role == PLACE_DIR)
			dirty_text(op, &paths[i]);
		if (paths[0].role == PLACE_ABOVE || paths[1].role == PLACE_ABOVE)
			ticket = later(ticket, homes_moved(op, dir_fds[i], op->names[i].name,
							   &paths[!i], &paths[i]));
	}
	wait_for(op, ticket);
	place_release(op->observer->places, &paths[0]);
	place_release(op->observer->places, &paths[1]);
	return rc;
}
