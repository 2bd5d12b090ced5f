/* New files with the owner, group and mode of their directory. See owned_file.h. */
#include "store/base/owned_file.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

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
