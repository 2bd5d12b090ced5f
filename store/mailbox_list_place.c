/*
 * What creating, renaming and deleting mailboxes have in common: directories with the owner and
 * mode of where they are made, and the word to running Dovecot sessions. See
 * mailbox_list_private.h.
 */
#include "store/mailbox_list_private.h"

#include "store/base/file.h"
#include "store/base/log.h"
#include "store/dbox/dbox_names.h"
#include "store/index/list_index.h"
#include "store/list_lock.h"
#include "store/mail_user.h"
#include "store/mailbox_name.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int list_failed(struct error *err, const struct mail_user *user, const char *name, int code,
		const char *call, const char *path)
{
	return error_errno(err, code, "user=%s mailbox=%s: %s(%s)", user->name, name, call, path);
}

/* Tells running Dovecot sessions to look at the directories again. The change itself is done: a
 * failure here is worth a warning, no more. -EAGAIN: the list index is busy. */
static int refresh_index(const struct mail_user *user, int timeout_ms)
{
	struct error problem = {0};
	AUTO_CLOSE int fd = open(user->location.index, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int rc;

	if (fd < 0)
		return 0;
	rc = list_index_set_refresh(fd, user->location.index, INDEX_LOCK_FCNTL, timeout_ms,
				    &problem);
	if (rc < 0 && (rc != -EAGAIN || timeout_ms == INDEX_LOCK_TIMEOUT_MS))
		log_warning("the list index was not refreshed: %s user=%s", problem.text,
			    user->name);
	return rc;
}

void list_refresh_index(const struct mail_user *user)
{
	(void)refresh_index(user, INDEX_LOCK_TIMEOUT_MS);
}

void list_unlock_changed(const struct mail_user *user, int *lock)
{
	int rc = refresh_index(user, INDEX_LOCK_SHORT_MS);

	list_unlock(user, lock);
	if (rc == -EAGAIN)
		list_refresh_index(user);
}

int list_check_name(const struct mail_user *user, const char *name, struct error *err)
{
	if (mailbox_name_is_valid(&user->location, name))
		return 0;
	return error_set(err, -EINVAL, "user=%s mailbox=%s: the name cannot be stored", user->name,
			 name);
}

int list_make_directory(int dirfd, const char *name, const struct stat *like)
{
	struct stat st;
	int code;
	AUTO_CLOSE int fd = -1;

	if (mkdirat(dirfd, name, like->st_mode & 0777) < 0)
		return -errno;
	fd = openat(dirfd, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if ((st.st_uid != like->st_uid || st.st_gid != like->st_gid) &&
	    fchown(fd, like->st_uid, like->st_gid) < 0 && errno != EPERM) {
		code = -errno;
		unlinkat(dirfd, name, AT_REMOVEDIR);
		return code;
	}
	if ((st.st_mode & 0777) != (like->st_mode & 0777) && fchmod(fd, like->st_mode & 0777) < 0 &&
	    errno != EPERM)
		return -errno;
	return 0;
}

/* Makes the directories of path that are missing below base, each like base. */
int list_make_directories(const char *base, const char *path)
{
	AUTO_CLOSE int fd = open(base, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_FREE char *rest = NULL;
	struct stat like;
	char *part;

	if (fd < 0 || fstat(fd, &like) < 0)
		return -errno;
	if (strncmp(path, base, strlen(base)) != 0 || path[strlen(base)] != '/')
		return -EINVAL;
	rest = strdup(path + strlen(base) + 1);
	if (!rest)
		return -ENOMEM;
	part = rest;
	for (;;) {
		char *slash = strchr(part, '/');
		int next, rc;

		if (slash)
			*slash = '\0';
		rc = list_make_directory(fd, part, &like);
		if (rc < 0 && rc != -EEXIST)
			return rc;
		if (!slash)
			return 0;
		next = openat(fd, part, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (next < 0)
			return -errno;
		close(fd);
		fd = next;
		part = slash + 1;
	}
}

bool list_path_exists(const char *path)
{
	struct stat st;

	return lstat(path, &st) == 0;
}

/* Root, CONTROL and INDEX: of a user who has no mail yet, none of them need be there. */
int list_make_roots(const struct mail_user *user, const char *name, struct error *err)
{
	const char *const directories[] = {user->location.root, user->location.control,
					   user->location.index};
	const size_t len = strlen(user->home);

	for (int i = 0; i < 3; i++) {
		int rc;

		if (list_path_exists(directories[i]))
			continue;
		rc = strncmp(directories[i], user->home, len) == 0 && directories[i][len] == '/'
			     ? list_make_directories(user->home, directories[i])
			     : (mkdir(directories[i], 0700) < 0 ? -errno : 0);
		if (rc < 0 && rc != -EEXIST)
			return list_failed(err, user, name, rc, "mkdir", directories[i]);
	}
	return 0;
}

/* ---- the alternative storage of sdbox ---- */

/* The mailbox's directory there. NULL in *path_r: there is none. */
static int alt_directory(const struct mail_user *user, const char *name, char **path_r)
{
	const struct mail_location *location = &user->location;
	char *storage;
	int rc;

	*path_r = NULL;
	if (!location->alt || location->driver != MAIL_DRIVER_SDBOX)
		return 0;
	rc = mailbox_name_to_storage(location, name, &storage);
	if (rc < 0)
		return rc;
	if (asprintf(path_r, "%s/%s%s", location->alt, mailbox_top_dir(location), storage) < 0) {
		*path_r = NULL;
		rc = -ENOMEM;
	}
	free(storage);
	return rc;
}

int list_move_alt(const struct mail_user *user, const char *from, const char *to, struct error *err)
{
	AUTO_FREE char *old = NULL;
	AUTO_FREE char *new = NULL;
	int rc = alt_directory(user, from, &old);

	if (rc == 0)
		rc = alt_directory(user, to, &new);
	if (rc == 0 && old && new &&list_path_exists(old)) {
		char *slash = strrchr(new, '/');

		*slash = '\0';
		rc = list_path_exists(new) ? 0 : list_make_directories(user->location.alt, new);
		*slash = '/';
		if (rc == 0 && rename(old, new) < 0)
			rc = -errno;
	}
	return rc < 0 ? list_failed(err, user, from, rc, "rename", new ? new : to) : 0;
}

int list_remove_alt(const struct mail_user *user, const char *name, struct error *err)
{
	AUTO_FREE char *path = NULL;
	int rc = alt_directory(user, name, &path);

	if (rc == 0 && path) {
		AUTO_CLOSE int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (fd >= 0)
			rc = file_remove_tree(fd, DBOX_MAIL_DIR);
	}
	return rc < 0 ? list_failed(err, user, name, rc, "remove", path ? path : name) : 0;
}
