/*
 * What creating, renaming and deleting mailboxes have in common: directories with the owner and
 * mode of where they are made, and the word to running Dovecot sessions. See
 * mailbox_list_private.h.
 */
#include "store/mailbox_list_private.h"

#include "store/base/file.h"
#include "store/base/log.h"
#include "store/index/list_index.h"
#include "store/mail_user.h"
#include "store/mailbox_name.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int list_failed(struct error *err, const struct mail_user *user, const char *name, int code,
		const char *call, const char *path)
{
	return error_errno(err, code, "user=%s mailbox=%s: %s(%s)", user->name, name, call, path);
}

/* Tells running Dovecot sessions to look at the directories again. The change itself is done: a
 * failure here is worth a warning, no more. */
void list_refresh_index(const struct mail_user *user)
{
	struct error problem = {0};
	AUTO_CLOSE int fd = open(user->location.index, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return;
	if (list_index_set_refresh(fd, user->location.index, INDEX_LOCK_FCNTL,
				   INDEX_LOCK_TIMEOUT_MS, &problem) < 0)
		log_warning("the list index was not refreshed: %s user=%s", problem.text,
			    user->name);
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
