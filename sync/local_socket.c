/* Sockets and a fifo in state_dir. See local_socket.h. */
#include "sync/local_socket.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <pwd.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "store/base/file.h"

#define BACKLOG	   128
#define NSS_BUFFER 16384

static bool parse_id(const char *text, unsigned *id_r)
{
	char *end;
	unsigned long value = strtoul(text, &end, 10);

	if (text[0] < '0' || text[0] > '9' || *end != '\0' || value >= UINT32_MAX)
		return false;
	*id_r = (unsigned)value;
	return true;
}

static int find_uid(const char *name, uid_t *uid_r, struct error *err)
{
	char buffer[NSS_BUFFER];
	struct passwd entry, *found = NULL;
	unsigned id;

	if (parse_id(name, &id)) {
		*uid_r = id;
		return 0;
	}
	if (getpwnam_r(name, &entry, buffer, sizeof buffer, &found) != 0 || !found)
		return error_set(err, -EINVAL, "there is no user %s", name);
	*uid_r = found->pw_uid;
	return 0;
}

static int find_gid(const char *name, gid_t *gid_r, struct error *err)
{
	char buffer[NSS_BUFFER];
	struct group entry, *found = NULL;
	unsigned id;

	if (parse_id(name, &id)) {
		*gid_r = id;
		return 0;
	}
	if (getgrnam_r(name, &entry, buffer, sizeof buffer, &found) != 0 || !found)
		return error_set(err, -EINVAL, "there is no group %s", name);
	*gid_r = found->gr_gid;
	return 0;
}

/* First whose it is, then who may: never the other way round. */
static int give_to(const char *path, const struct settings_socket *owner, struct error *err)
{
	uid_t uid = (uid_t)-1;
	gid_t gid = (gid_t)-1;
	int rc = 0;

	if (owner->user[0])
		rc = find_uid(owner->user, &uid, err);
	if (rc == 0 && owner->group[0])
		rc = find_gid(owner->group, &gid, err);
	if (rc == 0 && (owner->user[0] || owner->group[0]) && lchown(path, uid, gid) < 0)
		rc = error_errno(err, -errno, "owner");
	if (rc == 0 && chmod(path, owner->mode) < 0)
		rc = error_errno(err, -errno, "mode");
	if (rc < 0)
		error_prefix(err, "%s", path);
	return rc;
}

static int clear_path(const struct sockaddr_un *address, struct error *err)
{
	AUTO_CLOSE int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return error_errno(err, -errno, "socket %s", address->sun_path);
	if (connect(fd, (const struct sockaddr *)address, sizeof *address) == 0)
		return error_set(err, -EADDRINUSE, "a dsyncd is running already: it answers on %s",
				 address->sun_path);
	if (errno != ENOENT && unlink(address->sun_path) < 0)
		return error_errno(err, -errno, "cannot remove the old socket %s",
				   address->sun_path);
	return 0;
}

int local_socket_open(const char *path, const struct settings_socket *owner, int *fd_r,
		      struct error *err)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	AUTO_CLOSE int fd = -1;
	mode_t old_mask;
	int rc;

	if (strlen(path) >= sizeof address.sun_path)
		return error_set(err, -ENAMETOOLONG, "%s: too long for a socket's name", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	rc = clear_path(&address, err);
	if (rc < 0)
		return rc;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(err, -errno, "socket %s", path);
	old_mask = umask(0177);
	rc = bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, BACKLOG) < 0
		     ? -errno
		     : 0;
	umask(old_mask);
	if (rc < 0)
		return error_errno(err, rc, "socket %s", path);
	rc = give_to(path, owner, err);
	if (rc < 0) {
		unlink(path);
		return rc;
	}
	*fd_r = fd;
	fd = -1;
	return 0;
}

int local_fifo_open(const char *path, const struct settings_socket *owner, int *fd_r,
		    struct error *err)
{
	AUTO_CLOSE int fd = -1;
	struct stat st;
	int rc;

	if (mkfifo(path, 0600) < 0 && errno != EEXIST)
		return error_errno(err, -errno, "fifo %s", path);
	/* As a writer, too: without one a reader is told of an end again and again. */
	fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, -errno, "fifo %s", path);
	if (!S_ISFIFO(st.st_mode))
		return error_set(err, -EEXIST, "%s is there and is no fifo", path);
	rc = give_to(path, owner, err);
	if (rc < 0)
		return rc;
	*fd_r = fd;
	fd = -1;
	return 0;
}

int local_socket_admit(const char *dir, const struct settings_socket *const *owners, size_t count,
		       struct error *err)
{
	mode_t search = 0;
	struct stat st;

	for (size_t i = 0; i < count; i++) {
		bool shared = owners[i]->user[0] || owners[i]->group[0] || owners[i]->mode & 0077;

		/* Passing through is not reading: every file in it has a mode of its own. */
		if (shared)
			search = S_IXGRP | S_IXOTH;
	}
	if (stat(dir, &st) < 0)
		return error_errno(err, -errno, "%s", dir);
	if ((st.st_mode & search) == search)
		return 0;
	if (chmod(dir, (st.st_mode & 07777) | search) < 0)
		return error_errno(err, -errno, "%s: mode", dir);
	return 0;
}
