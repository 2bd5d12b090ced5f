/* New files and directories with the owner, group and mode of where they are made. See
 * owned_file.h. */
#include "store/base/owned_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"

int owned_file_create(int dirfd, const char *name, int flags)
{
	struct stat dir, st;
	int fd, code;

	if (fstat(dirfd, &dir) < 0)
		return -errno;
	fd = openat(dirfd, name, flags | O_CREAT | O_NOFOLLOW | O_CLOEXEC, dir.st_mode & 0666);
	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		goto failed;
	/* Only what differs costs a call; a group that we are no member of is left as it is, as
	 * Dovecot does. */
	if (st.st_gid != dir.st_gid && fchown(fd, (uid_t)-1, dir.st_gid) < 0 && errno != EPERM)
		goto failed;
	if (st.st_uid != dir.st_uid && fchown(fd, dir.st_uid, (gid_t)-1) < 0 && errno != EPERM)
		goto failed;
	if ((st.st_mode & 0777) != (dir.st_mode & 0666) && fchmod(fd, dir.st_mode & 0666) < 0 &&
	    errno != EPERM)
		goto failed;
	return fd;
failed:
	code = -errno;
	close(fd);
	if (flags & O_EXCL)
		unlinkat(dirfd, name, 0);
	return code;
}

static int open_dir(const char *path)
{
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? -errno : fd;
}

int owned_dir_make(int parent_fd, const char *name)
{
	struct stat parent, st;

	if (fstat(parent_fd, &parent) < 0)
		return -errno;
	if (mkdirat(parent_fd, name, parent.st_mode & 0777) < 0)
		return errno == EEXIST ? 0 : -errno;
	if (fstatat(parent_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	if ((st.st_uid != parent.st_uid || st.st_gid != parent.st_gid) &&
	    fchownat(parent_fd, name, parent.st_uid, parent.st_gid, AT_SYMLINK_NOFOLLOW) < 0 &&
	    errno != EPERM)
		return -errno;
	if ((st.st_mode & 0777) != (parent.st_mode & 0777) &&
	    fchmodat(parent_fd, name, parent.st_mode & 0777, 0) < 0 && errno != EPERM)
		return -errno;
	return 0;
}

int owned_dir_open(const char *path, bool make)
{
	AUTO_FREE char *copy = NULL;
	AUTO_CLOSE int parent = -1;
	char *slash;
	int fd = open_dir(path), rc;

	if (fd != -ENOENT || !make)
		return fd;
	copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	slash = strrchr(copy, '/');
	if (!slash || slash == copy)
		return -ENOENT;
	*slash = '\0';
	parent = owned_dir_open(copy, true);
	if (parent < 0)
		return parent;
	rc = owned_dir_make(parent, slash + 1);
	return rc < 0 ? rc : open_dir(path);
}
