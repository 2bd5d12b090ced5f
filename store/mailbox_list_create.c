/*
 * Creating a mailbox, as Dovecot does it (reference 6.4, 7d). See mailbox_list.h.
 *
 * Under mailboxes.lock. A new mailbox appears complete: by one rename, or by its cur/ as the last
 * directory made.
 */
#include "store/mailbox_list.h"

#include "store/base/crash_point.h"
#include "store/base/file.h"
#include "store/list_lock.h"
#include "store/mail_user.h"
#include "store/mailbox_list_private.h"
#include "store/mailbox_log.h"
#include "store/mailbox_name.h"
#include "store/mailbox_private.h"
#include "store/maildir/dotlock.h"
#include "store/maildir/uidlist.h"
#include "store/uidvalidity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define IN_PLACE_TIMEOUT_MS 10000

static int sync_parent(const char *path)
{
	AUTO_FREE char *parent = strdup(path);
	char *slash = parent ? strrchr(parent, '/') : NULL;

	if (!slash)
		return -EINVAL;
	*slash = '\0';
	return file_sync_dir(AT_FDCWD, *parent ? parent : "/");
}

struct new_mailbox {
	const struct mail_user *user;
	const char *name;
	const struct mailbox_spot *spot;
	struct guid guid;
	uint32_t uid_validity;
};

static int write_metadata(const struct new_mailbox *new, int control, int index, struct error *err)
{
	return new->spot->format->create(&new->spot->place, control, index, &new->guid,
					 new->uid_validity, err);
}

/* Temporary directories must not begin with a dot, or Maildir++ would list them. */
static int temporary_name(char name_r[128])
{
	char host[64] = "localhost";
	uint32_t number;

	if (getrandom(&number, sizeof number, 0) != sizeof number)
		return -EIO;
	gethostname(host, sizeof host - 1);
	for (char *p = host; *p; p++) {
		if (*p == '/')
			*p = '_';
	}
	snprintf(name_r, 128, "temp.%s.%d.%08x", host, (int)getpid(), number);
	return 0;
}

/* The mail directory complete with everything that lies in it, under a temporary name in the root;
 * then one rename makes it a mailbox. */
static int create_by_rename(const struct new_mailbox *new, const struct mailbox_spot *paths,
			    struct error *err)
{
	const char *root = new->user->location.root;
	AUTO_CLOSE int rootfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_CLOSE int fd = -1;
	AUTO_CLOSE int control = -1;
	AUTO_CLOSE int index = -1;
	AUTO_CLOSE int marker = -1;
	char temporary[128];
	struct stat like;
	int rc;

	if (rootfd < 0 || fstat(rootfd, &like) < 0)
		return list_failed(err, new->user, new->name, -errno, "open", root);
	rc = temporary_name(temporary);
	if (rc == 0)
		rc = list_make_directory(rootfd, temporary, &like);
	if (rc < 0)
		return list_failed(err, new->user, new->name, rc, "mkdir", temporary);
	fd = openat(rootfd, temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = fd < 0 ? -errno : 0;
	if (rc == 0)
		rc = list_make_directory(fd, "cur", &like);
	if (rc == 0)
		rc = list_make_directory(fd, "new", &like);
	if (rc == 0)
		rc = list_make_directory(fd, "tmp", &like);
	if (rc < 0) {
		list_failed(err, new->user, new->name, rc, "mkdir", temporary);
		goto remove;
	}
	marker = openat(fd, "maildirfolder", O_WRONLY | O_CREAT | O_CLOEXEC, like.st_mode & 0666);
	if (marker >= 0 && fchown(marker, like.st_uid, like.st_gid) < 0 && errno != EPERM) {
		rc = list_failed(err, new->user, new->name, -errno, "fchown", "maildirfolder");
		goto remove;
	}
	control = strcmp(paths->control, paths->mail) == 0
			  ? dup(fd)
			  : open(paths->control, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	index = strcmp(paths->index, paths->mail) == 0
			? dup(fd)
			: open(paths->index, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (control < 0 || index < 0) {
		rc = list_failed(err, new->user, new->name, -errno, "open", paths->control);
		goto remove;
	}
	rc = write_metadata(new, control, index, err);
	if (rc < 0)
		goto remove;
	crash_point("mailbox list: made, not renamed");
	if (fsync(fd) < 0 || renameat(rootfd, temporary, AT_FDCWD, paths->mail) < 0) {
		rc = list_failed(err, new->user, new->name, -errno, "rename", paths->mail);
		goto remove;
	}
	rc = fsync(rootfd) < 0 ? list_failed(err, new->user, new->name, -errno, "fsync", root) : 0;
	return rc;
remove:
	file_remove_tree(rootfd, temporary);
	return rc;
}

/* "dbox-Mails" with an index in it, under a temporary name in the root; then one rename makes the
 * directory, which may exist already as a parent of others, a mailbox. Where INDEX= is elsewhere
 * the index is there before. */
static int create_dbox(const struct new_mailbox *new, const struct mailbox_spot *paths,
		       struct error *err)
{
	const char *root = new->user->location.root;
	AUTO_CLOSE int rootfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_CLOSE int fd = -1;
	AUTO_CLOSE int index = -1;
	char temporary[128];
	struct stat like;
	int rc;

	if (rootfd < 0 || fstat(rootfd, &like) < 0)
		return list_failed(err, new->user, new->name, -errno, "open", root);
	rc = temporary_name(temporary);
	if (rc == 0)
		rc = list_make_directory(rootfd, temporary, &like);
	if (rc < 0)
		return list_failed(err, new->user, new->name, rc, "mkdir", temporary);
	fd = openat(rootfd, temporary, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	index = fd < 0 ? -1
		: strcmp(paths->index, paths->mail) == 0
			? dup(fd)
			: open(paths->index, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	rc = index < 0 ? list_failed(err, new->user, new->name, -errno, "open", paths->index) : 0;
	if (rc == 0)
		rc = write_metadata(new, fd, index, err);
	if (rc == 0 && (fsync(fd) < 0 ||
			renameat2(rootfd, temporary, AT_FDCWD, paths->mail, RENAME_NOREPLACE) < 0))
		rc = list_failed(err, new->user, new->name, -errno, "rename", paths->mail);
	if (rc < 0) {
		file_remove_tree(rootfd, temporary);
		return rc;
	}
	rc = sync_parent(paths->mail);
	return rc < 0 ? list_failed(err, new->user, new->name, rc, "fsync", paths->mail) : 0;
}

/* INBOX and LAYOUT=fs: the directory may exist (the root itself, or a parent), so it is filled in
 * place, cur/ last. */
static int create_in_place(const struct new_mailbox *new, const struct mailbox_spot *paths,
			   struct error *err)
{
	AUTO_CLOSE int fd = open(paths->mail, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_CLOSE int control = open(paths->control, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_CLOSE int index = open(paths->index, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	static const char *const order[] = {"tmp", "new", "cur"};
	struct stat like;
	int rc;

	if (fd < 0 || control < 0 || index < 0 || fstat(fd, &like) < 0)
		return list_failed(err, new->user, new->name, -errno, "open", paths->mail);
	rc = write_metadata(new, control, index, err);
	if (rc < 0)
		return rc;
	for (int i = 0; i < 3; i++) {
		rc = list_make_directory(fd, order[i], &like);
		if (rc < 0 && rc != -EEXIST)
			return list_failed(err, new->user, new->name, rc, "mkdir", paths->mail);
	}
	if (fsync(fd) < 0)
		return list_failed(err, new->user, new->name, -errno, "fsync", paths->mail);
	rc = sync_parent(paths->mail);
	return rc < 0 ? list_failed(err, new->user, new->name, rc, "fsync", paths->mail) : 0;
}

/* A directory that is filled in place may just be made a mailbox by Dovecot, which writes its
 * uidlist under this lock. Both stay until the caller releases them. */
static int lock_in_place(const struct new_mailbox *new, struct mailbox_spot *paths, int *control_r,
			 struct dotlock **lock_r, struct error *err)
{
	int rc;

	*control_r = open(paths->control, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*control_r < 0)
		return list_failed(err, new->user, new->name, -errno, "open", paths->control);
	rc = dotlock_acquire(*control_r, paths->control, UIDLIST_NAME, IN_PLACE_TIMEOUT_MS, lock_r,
			     err);
	paths->place.maker_died = rc == 0 && dotlock_was_stale(*lock_r);
	return rc;
}

/* A mailbox is there when what makes it one is; leftovers of an earlier attempt in place are
 * cleared away.
 */
static int clear_leftovers(const struct new_mailbox *new, const struct mailbox_spot *paths,
			   struct error *err)
{
	static const char *const names[] = {
		UIDLIST_NAME,	     "dovecot-uidlist.tmp", "dovecot-keywords",	  "dovecot.index",
		"dovecot.index.log", "dovecot.index.log.2", "dovecot.index.cache"};
	const char *const directories[] = {paths->mail, paths->control, paths->index};

	if (mailbox_list_has(new->user, new->name))
		return error_set(err, -EEXIST, "user=%s mailbox=%s: exists already",
				 new->user->name, new->name);
	for (int i = 0; i < 3; i++) {
		AUTO_CLOSE int fd = open(directories[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		/* A mailbox of dbox appears with its directory. */
		for (size_t j = 0; fd >= 0 && j < sizeof names / sizeof *names; j++) {
			if (unlinkat(fd, names[j], 0) < 0 && errno != ENOENT)
				return list_failed(err, new->user, new->name, -errno, "unlink",
						   directories[i]);
		}
	}
	return 0;
}

/* The directories that have to be there before: the root, parents of LAYOUT=fs, CONTROL and INDEX.
 */
static int make_places(const struct new_mailbox *new, const struct mailbox_spot *paths,
		       bool in_place, struct error *err)
{
	const struct mail_location *location = &new->user->location;
	const char *home = new->user->home;
	struct mailbox_paths dirs;
	int rc = list_make_roots(new->user, new->name, err);

	if (rc < 0)
		return rc;
	rc = mailbox_dirs_get(location, new->name, &dirs);
	if (rc < 0)
		return list_failed(err, new->user, new->name, rc, "path", new->name);
	if (in_place && strcmp(dirs.mail, location->root) != 0 && !list_path_exists(dirs.mail)) {
		size_t len = strlen(location->root);
		const char *base =
			strncmp(dirs.mail, location->root, len) == 0 && dirs.mail[len] == '/'
				? location->root
				: home;

		rc = list_make_directories(base, dirs.mail);
		if (rc < 0)
			list_failed(err, new->user, new->name, rc, "mkdir", dirs.mail);
	}
	mailbox_paths_free(&dirs);
	if (rc < 0)
		return rc;
	if (strcmp(paths->control, paths->mail) != 0 && !list_path_exists(paths->control)) {
		rc = list_make_directories(location->control, paths->control);
		if (rc < 0)
			return list_failed(err, new->user, new->name, rc, "mkdir", paths->control);
	}
	if (strcmp(paths->index, paths->mail) != 0 && !list_path_exists(paths->index)) {
		rc = list_make_directories(location->index, paths->index);
		if (rc < 0)
			return list_failed(err, new->user, new->name, rc, "mkdir", paths->index);
	}
	return 0;
}

int mailbox_list_create(const struct mail_user *user, const char *name, const struct guid *guid,
			uint32_t uid_validity, struct error *err)
{
	struct new_mailbox new = {.user = user, .name = name, .uid_validity = uid_validity};
	bool dbox = user->location.driver != MAIL_DRIVER_MAILDIR;
	bool in_place = user->location.layout == MAIL_LAYOUT_FS || strcmp(name, "INBOX") == 0;
	AUTO_CLOSE int control = -1;
	struct dotlock *being_made = NULL;
	struct mailbox_spot spot;
	int lock = -1;
	int rc = list_check_name(user, name, err);

	if (rc < 0)
		return rc;
	if (guid)
		new.guid = *guid;
	else
		guid_generate(&new.guid);
	rc = mailbox_spot_get(user, name, &spot, err);
	if (rc < 0)
		return rc;
	new.spot = &spot;
	rc = make_places(&new, &spot, in_place, err);
	if (rc == 0)
		rc = list_lock(user, &lock, err);
	if (rc == 0 && in_place && !dbox)
		rc = lock_in_place(&new, &spot, &control, &being_made, err);
	if (rc == 0 && (in_place || !list_path_exists(spot.mail)))
		rc = clear_leftovers(&new, &spot, err);
	else if (rc == 0)
		rc = error_set(err, -EEXIST, "user=%s mailbox=%s: exists already", user->name,
			       name);
	if (rc == 0)
		rc = uid_validity ? uidvalidity_raise(user, uid_validity, err)
				  : uidvalidity_allocate(user, &new.uid_validity, err);
	if (rc == 0)
		rc = dbox	? create_dbox(&new, &spot, err)
		     : in_place ? create_in_place(&new, &spot, err)
				: create_by_rename(&new, &spot, err);
	if (rc == 0 && guid)
		rc = mailbox_log_keep_alive(user, guid, time(NULL), err);
	dotlock_release(&being_made);
	if (rc == 0)
		list_unlock_changed(user, &lock);
	else
		list_unlock(user, &lock);
	mailbox_spot_free(&spot);
	return rc;
}
