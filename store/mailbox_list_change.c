/*
 * Renaming and deleting mailboxes, as Dovecot does it (reference 6.4, 7d), and subscriptions. See
 * mailbox_list.h. Creating is in mailbox_list_create.c.
 *
 * All under mailboxes.lock. The order of steps makes each of them safe to be the last one: a
 * deletion is in the mailbox log before the mailbox goes (the record says nothing as long as the
 * GUID exists); of a rename in Maildir++ the children move first and the parent last, so that
 * repeating it completes it.
 */
#include "store/mailbox_list.h"

#include "store/base/crash_point.h"
#include "store/base/file.h"
#include "store/index/index_files.h"
#include "store/index/index_txn.h"
#include "store/list_lock.h"
#include "store/mail_user.h"
#include "store/mailbox.h"
#include "store/mailbox_list_private.h"
#include "store/mailbox_log.h"
#include "store/mailbox_name.h"
#include "store/mailbox_private.h"
#include "store/subscriptions.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define CLOCKS_AGREE_SECS 10

/* ---- delete ---- */

static int check_guid(const struct mail_user *user, const struct mailbox_spot *spot,
		      const struct guid *guid, struct error *err)
{
	struct mailbox_status status;
	int rc = spot->format->peek(&spot->place, &status, err);

	if (rc < 0)
		return rc;
	if (!guid_equal(&status.guid, guid))
		return error_set(err, -ESTALE, "user=%s mailbox=%s: is another mailbox now",
				 user->name, spot->place.name);
	return 0;
}

/* Sessions that have it open see that it is going. A mailbox without an index has none. */
static int mark_deleted(const struct mail_user *user, const char *name, const char *directory,
			struct error *err)
{
	const struct index_options options = {.label = name};
	AUTO_CLOSE int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct index_txn *txn = NULL;
	struct index *index = NULL;
	int rc;

	if (fd < 0)
		return errno == ENOENT ? 0
				       : list_failed(err, user, name, -errno, "open", directory);
	rc = index_open(fd, &options, &index, err);
	if (rc == 0)
		rc = index_begin(index, INDEX_LOCK_TIMEOUT_MS, &txn, err);
	if (rc == 0) {
		rc = index_set_deleted(txn, err);
		if (rc == 0)
			rc = index_commit(&txn, true, err);
		else
			index_abort(&txn);
	}
	index_close(&index);
	/* None, marked already by somebody who did not get further, or damaged: it goes all the
	 * same. */
	return rc == -ENOENT || rc == -ESTALE || rc == -EUCLEAN ? 0 : rc;
}

/* part: what makes the directory a mailbox. */
static bool has_child_directories(int fd, const char *part)
{
	AUTO_DIR DIR *dir = NULL;
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *entry;
	struct stat st;

	if (copy < 0)
		return true;
	dir = fdopendir(copy);
	if (!dir) {
		close(copy);
		return true;
	}
	while ((entry = readdir(dir)) != NULL) {
		const char *name = entry->d_name;

		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 || strcmp(name, part) == 0 ||
		    (strcmp(part, "cur") == 0 &&
		     (strcmp(name, "new") == 0 || strcmp(name, "tmp") == 0)))
			continue;
		if (fstatat(copy, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode))
			return true;
	}
	return false;
}

/* Moves a directory to the trash name of root, then removes it: gone at once for everybody. */
static int trash(const char *root, const char *trash_name, const char *path)
{
	AUTO_CLOSE int rootfd = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (rootfd < 0)
		return -errno;
	rc = file_remove_tree(rootfd, trash_name);
	if (rc < 0)
		return rc;
	crash_point("mailbox list: before a mailbox goes");
	if (renameat(AT_FDCWD, path, rootfd, trash_name) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fsync(rootfd) < 0)
		return -errno;
	return file_remove_tree(rootfd, trash_name);
}

/* LAYOUT=fs with children: only what belongs to this mailbox goes, the directory stays as their
 * parent. */
static int empty_directory(const char *path)
{
	AUTO_DIR DIR *dir = opendir(path);
	struct dirent *entry;
	int fd, rc;

	if (!dir)
		return errno == ENOENT ? 0 : -errno;
	fd = dirfd(dir);
	rc = file_remove_tree(fd, "cur");
	if (rc == 0)
		rc = file_remove_tree(fd, "new");
	if (rc == 0)
		rc = file_remove_tree(fd, "tmp");
	while (rc == 0 && (entry = readdir(dir)) != NULL) {
		if ((strncmp(entry->d_name, "dovecot", 7) == 0 ||
		     strcmp(entry->d_name, "maildirfolder") == 0) &&
		    unlinkat(fd, entry->d_name, 0) < 0 && errno != ENOENT && errno != EISDIR)
			rc = -errno;
	}
	return rc < 0 ? rc : (fsync(fd) < 0 ? -errno : 0);
}

/* What INDEX= has of a dbox mailbox with children. */
static int remove_index_files(int dirfd)
{
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc = 0;
	AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *entry;

	if (!dir) {
		rc = -errno;
		file_close(&fd);
		return rc;
	}
	while (rc == 0 && (entry = readdir(dir)) != NULL) {
		if (strncmp(entry->d_name, "dovecot.index", 13) == 0 &&
		    unlinkat(fd, entry->d_name, 0) < 0 && errno != ENOENT)
			rc = -errno;
	}
	return rc;
}

static int remove_directory(const struct mail_user *user, const char *root, const char *path)
{
	const char *name =
		user->location.layout == MAIL_LAYOUT_FS ? "..DOVECOT-TrasH" : "..DOVECOT-TRASHED";
	AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (user->location.layout == MAIL_LAYOUT_FS &&
	    has_child_directories(fd, mailbox_format_of(user)->part)) {
		AUTO_FREE char *mails = NULL;

		if (user->location.driver == MAIL_DRIVER_MAILDIR)
			return empty_directory(path);
		if (asprintf(&mails, "%s/%s", path, mailbox_format_of(user)->part) < 0) {
			mails = NULL;
			return -ENOMEM;
		}
		rc = trash(root, name, mails);
		return rc < 0 ? rc : remove_index_files(fd);
	}
	return trash(root, name, path);
}

static int remove_directories(const struct mail_user *user, const char *name, struct error *err)
{
	const struct mail_location *location = &user->location;
	struct mailbox_paths dirs;
	int rc = mailbox_dirs_get(location, name, &dirs);

	if (rc < 0)
		return list_failed(err, user, name, rc, "path", name);
	rc = remove_directory(user, location->root, dirs.mail);
	if (rc < 0)
		list_failed(err, user, name, rc, "remove", dirs.mail);
	if (rc == 0 && strcmp(dirs.control, dirs.mail) != 0) {
		rc = remove_directory(user, location->control, dirs.control);
		if (rc < 0)
			list_failed(err, user, name, rc, "remove", dirs.control);
	}
	if (rc == 0 && strcmp(dirs.index, dirs.mail) != 0) {
		rc = remove_directory(user, location->index, dirs.index);
		if (rc < 0)
			list_failed(err, user, name, rc, "remove", dirs.index);
	}
	if (rc == 0)
		rc = list_remove_alt(user, name, err);
	mailbox_paths_free(&dirs);
	return rc;
}

/* The two records that Dovecot writes for a deletion. */
static int log_deletion(const struct mail_user *user, const char *name, const struct guid *guid,
			int64_t time, struct error *err)
{
	struct mailbox_log_record records[2] = {
		{.type = MAILBOX_LOG_DELETE_MAILBOX, .id = *guid, .time = time},
		{.type = MAILBOX_LOG_DELETE_DIRECTORY, .time = time},
	};

	int rc = list_make_roots(user, name, err);

	mailbox_name_hash(name, user->separator, &records[1].id);
	return rc < 0 ? rc : mailbox_log_append(user, records, 2, err);
}

static int delete_locked(const struct mail_user *user, const struct mailbox_spot *spot,
			 const struct guid *guid, struct error *err)
{
	const char *name = spot->place.name;
	void *deletion = NULL;
	int rc = check_guid(user, spot, guid, err), end;

	if (rc == 0)
		rc = log_deletion(user, name, guid, time(NULL), err);
	if (rc == 0 && spot->format->delete_begin)
		rc = spot->format->delete_begin(&spot->place, &deletion, err);
	if (rc == 0)
		rc = mark_deleted(user, name, spot->index, err);
	if (rc == 0)
		rc = remove_directories(user, name, err);
	if (!deletion)
		return rc;
	end = spot->format->delete_end(deletion, rc == 0, rc == 0 ? err : NULL);
	return rc < 0 ? rc : end;
}

int mailbox_list_delete(const struct mail_user *user, const char *name, const struct guid *guid,
			struct error *err)
{
	struct mailbox_spot spot;
	int lock = -1;
	int rc = list_check_name(user, name, err);

	if (rc < 0)
		return rc;
	if (strcmp(name, "INBOX") == 0)
		return error_set(err, -EPERM, "user=%s mailbox=INBOX: cannot be deleted",
				 user->name);
	rc = mailbox_spot_get(user, name, &spot, err);
	if (rc < 0)
		return rc;
	rc = list_lock(user, &lock, err);
	if (rc == 0)
		rc = delete_locked(user, &spot, guid, err);
	if (rc == 0)
		list_unlock_changed(user, &lock);
	else
		list_unlock(user, &lock);
	mailbox_spot_free(&spot);
	return rc;
}

/* ---- rename ---- */

/* Renames one directory without replacing anything. Missing source: nothing to do. */
static int move_directory(const char *from, const char *to)
{
	if (strcmp(from, to) == 0)
		return 0;
	crash_point("mailbox list: before a rename");
	if (renameat2(AT_FDCWD, from, AT_FDCWD, to, RENAME_NOREPLACE) == 0)
		return 0;
	return errno == ENOENT && !list_path_exists(from) ? 0 : -errno;
}

static int move_directories(const struct mail_user *user, const char *from, const char *to,
			    struct error *err)
{
	struct mailbox_paths old, new;
	int rc = mailbox_dirs_get(&user->location, from, &old);

	if (rc < 0)
		return list_failed(err, user, from, rc, "path", from);
	rc = mailbox_dirs_get(&user->location, to, &new);
	if (rc < 0) {
		mailbox_paths_free(&old);
		return list_failed(err, user, to, rc, "path", to);
	}
	/* Dovecot finds uidlist and index where the mail is: they go first. */
	if (strcmp(old.control, old.mail) != 0)
		rc = move_directory(old.control, new.control);
	if (rc == 0 && strcmp(old.index, old.mail) != 0 && strcmp(old.index, old.control) != 0)
		rc = move_directory(old.index, new.index);
	if (rc == 0)
		rc = move_directory(old.mail, new.mail);
	if (rc < 0)
		list_failed(err, user, from, rc, "rename", new.mail);
	if (rc == 0)
		rc = list_move_alt(user, from, to, err);
	mailbox_paths_free(&old);
	mailbox_paths_free(&new);
	return rc;
}

static int move_mailbox(const struct mail_user *user, const char *from, const char *to,
			struct error *err)
{
	struct mailbox_spot spot;
	void *renaming = NULL;
	int rc = mailbox_spot_get(user, from, &spot, err);

	if (rc < 0)
		return rc;
	if (spot.format->rename_begin) {
		rc = spot.format->rename_begin(&spot.place, &renaming, err);
		if (rc < 0 && err)
			error_prefix(err, "user=%s mailbox=%s", user->name, from);
	}
	if (rc == 0)
		rc = move_directories(user, from, to, err);
	if (renaming)
		spot.format->rename_end(renaming);
	mailbox_spot_free(&spot);
	return rc;
}

/* Maildir++: every ".Old.x" becomes ".New.x". */
static int move_children(const struct mail_user *user, const char *from, const char *to,
			 struct error *err)
{
	AUTO_FREE char **names = NULL;
	AUTO_DIR DIR *dir = opendir(user->location.root);
	size_t count = 0, room = 0, len = strlen(from);
	struct dirent *entry;
	int rc = 0;

	if (!dir)
		return list_failed(err, user, from, -errno, "opendir", user->location.root);
	/* Collected first: what readdir shows while names change is anybody's guess. */
	while ((entry = readdir(dir)) != NULL) {
		char *name;

		if (entry->d_name[0] != '.' ||
		    mailbox_name_from_storage(&user->location, entry->d_name + 1, &name) < 0)
			continue;
		if (strncmp(name, from, len) != 0 || name[len] != '/') {
			free(name);
			continue;
		}
		if (count == room) {
			char **more = realloc(names, (room ? room * 2 : 16) * sizeof *names);

			if (!more) {
				free(name);
				rc = error_set(err, -ENOMEM, "user=%s: out of memory", user->name);
				break;
			}
			names = more;
			room = room ? room * 2 : 16;
		}
		names[count++] = name;
	}
	for (size_t i = 0; i < count; i++) {
		AUTO_FREE char *target = NULL;

		if (rc == 0 && asprintf(&target, "%s%s", to, names[i] + len) < 0) {
			target = NULL;
			rc = error_set(err, -ENOMEM, "user=%s: out of memory", user->name);
		}
		if (rc == 0)
			rc = list_check_name(user, target, err);
		if (rc == 0)
			rc = move_mailbox(user, names[i], target, err);
		free(names[i]);
	}
	return rc;
}

/* Directories of LAYOUT=fs that the new name lies in. */
static int make_parents(const struct mail_user *user, const char *to, struct error *err)
{
	AUTO_FREE char *parent = strdup(to);
	char *slash = parent ? strrchr(parent, '/') : NULL;
	struct mailbox_paths paths;
	int rc;

	if (!parent)
		return error_set(err, -ENOMEM, "user=%s: out of memory", user->name);
	if (!slash || user->location.layout != MAIL_LAYOUT_FS)
		return 0;
	*slash = '\0';
	rc = mailbox_dirs_get(&user->location, parent, &paths);
	if (rc < 0)
		return list_failed(err, user, parent, rc, "path", parent);
	rc = list_path_exists(paths.mail) ? 0
					  : list_make_directories(user->location.root, paths.mail);
	if (rc == 0 && !list_path_exists(paths.control))
		rc = list_make_directories(user->location.control, paths.control);
	if (rc == 0 && !list_path_exists(paths.index))
		rc = list_make_directories(user->location.index, paths.index);
	if (rc < 0)
		list_failed(err, user, parent, rc, "mkdir", paths.mail);
	mailbox_paths_free(&paths);
	return rc;
}

static int log_rename(const struct mail_user *user, const char *name, int64_t time,
		      struct error *err)
{
	struct mailbox_log_record record = {.type = MAILBOX_LOG_RENAME, .time = time};
	int rc = list_make_roots(user, name, err);

	mailbox_name_hash(name, user->separator, &record.id);
	return rc < 0 ? rc : mailbox_log_append(user, &record, 1, err);
}

/* The old name is there (in Maildir++ it moves last, so also when a rename is repeated), and the
 * new one is free: neither a mailbox nor, in Maildir++, the source's own child. */
static int check_rename(const struct mail_user *user, const char *from, const char *to,
			struct error *err)
{
	struct mailbox_paths paths;
	size_t len = strlen(from);
	int rc;

	if (strcmp(from, "INBOX") == 0 || strcmp(to, "INBOX") == 0)
		return error_set(err, -EPERM, "user=%s mailbox=%s: INBOX cannot be renamed (to %s)",
				 user->name, from, to);
	if (strncmp(to, from, len) == 0 && to[len] == '/')
		return error_set(err, -EINVAL, "user=%s mailbox=%s: cannot become its own child %s",
				 user->name, from, to);
	rc = mailbox_dirs_get(&user->location, from, &paths);
	if (rc < 0)
		return list_failed(err, user, from, rc, "path", from);
	if (!list_path_exists(paths.mail))
		rc = error_set(err, -ENOENT, "user=%s mailbox=%s: does not exist", user->name,
			       from);
	mailbox_paths_free(&paths);
	if (rc < 0)
		return rc;
	rc = mailbox_dirs_get(&user->location, to, &paths);
	if (rc < 0)
		return list_failed(err, user, to, rc, "path", to);
	if (list_path_exists(paths.mail))
		rc = error_set(err, -EEXIST, "user=%s mailbox=%s: exists already", user->name, to);
	mailbox_paths_free(&paths);
	return rc;
}

/* A clock may be ahead of ours by a little; what it says may be anything. */
static int64_t rename_time(int64_t when)
{
	const int64_t now = time(NULL);

	return when > 0 && when <= now + CLOCKS_AGREE_SECS ? when : now;
}

int mailbox_list_rename(const struct mail_user *user, const char *from, const char *to,
			int64_t when, struct error *err)
{
	int lock = -1;
	int rc = list_check_name(user, from, err);

	if (rc == 0)
		rc = list_check_name(user, to, err);
	if (rc < 0)
		return rc;
	rc = list_lock(user, &lock, err);
	if (rc == 0)
		rc = check_rename(user, from, to, err);
	if (rc == 0)
		rc = make_parents(user, to, err);
	if (rc == 0 && user->location.layout == MAIL_LAYOUT_MAILDIRPP)
		rc = move_children(user, from, to, err);
	if (rc == 0)
		rc = move_mailbox(user, from, to, err);
	if (rc == 0) {
		rc = file_sync_dir(AT_FDCWD, user->location.root);
		if (rc < 0)
			list_failed(err, user, from, rc, "fsync", user->location.root);
	}
	if (rc == 0) {
		crash_point("mailbox list: renamed, not logged");
		rc = log_rename(user, to, rename_time(when), err);
	}
	if (rc == 0)
		list_unlock_changed(user, &lock);
	else
		list_unlock(user, &lock);
	return rc;
}

/* ---- subscriptions, and what programs did ---- */

int mailbox_list_subscribe(const struct mail_user *user, const char *name, bool subscribed,
			   struct error *err)
{
	struct mailbox_log_record record = {.type = subscribed ? MAILBOX_LOG_SUBSCRIBE
							       : MAILBOX_LOG_UNSUBSCRIBE,
					    .time = time(NULL)};
	bool changed = false;
	int rc = list_check_name(user, name, err);

	if (rc == 0)
		rc = list_make_roots(user, name, err);
	if (rc == 0)
		rc = subscriptions_set(user, name, subscribed, &changed, err);
	if (rc < 0 || !changed)
		return rc;
	mailbox_name_hash(name, user->separator, &record.id);
	return mailbox_log_append(user, &record, 1, err);
}

/* Whether the log has this record already, not older than the time says (a second's grace: the
 * program and the log look at one clock at two moments). */
static int is_logged(const struct mail_user *user, enum mailbox_log_type type,
		     const struct guid *id, int64_t time, bool *logged_r, struct error *err)
{
	AUTO_FREE struct mailbox_log_record *records = NULL;
	size_t count;
	int rc = mailbox_log_read(user, &records, &count, err);

	*logged_r = false;
	for (size_t i = 0; rc == 0 && i < count && !*logged_r; i++)
		*logged_r = records[i].type == type && guid_equal(&records[i].id, id) &&
			    records[i].time + 1 >= time;
	return rc;
}

int mailbox_list_log_deleted(const struct mail_user *user, const char *name,
			     const struct guid *guid, int64_t time, struct error *err)
{
	bool logged;
	/* A mailbox GUID is deleted once: any record of it will do. */
	int rc = is_logged(user, MAILBOX_LOG_DELETE_MAILBOX, guid, 0, &logged, err);

	if (rc < 0 || logged)
		return rc;
	rc = log_deletion(user, name, guid, time, err);
	if (rc == 0)
		list_refresh_index(user);
	return rc;
}

/* When what has this name was last renamed or made, itself or with something above it; 0: not
 * known. */
static int newest_rename(const struct mail_user *user, const struct mailbox_log_record *records,
			 size_t count, const char *name, int64_t *time_r)
{
	AUTO_FREE char *path = strdup(name);
	char *slash = path;

	*time_r = 0;
	for (; path && slash; slash = strrchr(path, '/')) {
		struct guid id;
		int64_t own = 0;

		if (slash != path)
			*slash = '\0';
		mailbox_name_hash(path, user->separator, &id);
		for (size_t i = 0; i < count; i++) {
			if ((records[i].type == MAILBOX_LOG_RENAME ||
			     records[i].type == MAILBOX_LOG_CREATE_DIRECTORY) &&
			    guid_equal(&records[i].id, &id))
				own = records[i].time;
		}
		if (own > *time_r)
			*time_r = own;
	}
	return path ? 0 : -ENOMEM;
}

int mailbox_list_log_renamed(const struct mail_user *user, const char *from, const char *to,
			     int64_t time, struct error *err)
{
	AUTO_FREE struct mailbox_log_record *records = NULL;
	const int64_t now = rename_time(0);
	int64_t before = 0, logged = 0;
	size_t count;
	int rc = mailbox_log_read(user, &records, &count, err);

	if (rc < 0)
		return rc;
	rc = newest_rename(user, records, count, from, &before);
	if (rc == 0)
		rc = newest_rename(user, records, count, to, &logged);
	if (rc < 0)
		return error_set(err, rc, "user=%s: out of memory", user->name);
	/* A second's grace: the program and the log look at one clock at two moments. */
	if ((time == 0 || logged + 1 >= time) && logged > before + 1)
		return 0;
	if (time == 0)
		time = now;
	/* The other node has the old name by a record that may be a second off, too. */
	rc = log_rename(user, to, time > before + 2 ? time : before + 2, err);
	if (rc == 0)
		list_refresh_index(user);
	return rc;
}
