/* Extended attributes, ACLs among them, and the two that are the mount's own (origin.h). See ops.h.
 */
#include "fs/ops.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "store/base/file.h"

#define OWN_PREFIX "trusted.dsyncfs."

static bool is_own(const char *name)
{
	return strncmp(name, OWN_PREFIX, sizeof OWN_PREFIX - 1) == 0;
}

/* The path by which the attribute calls reach an inode: they take no O_PATH descriptor. Through it
 * a symbolic link is the link itself. */
struct fd_path {
	char text[64];
};

static struct fd_path fd_path(int fd)
{
	struct fd_path path;

	snprintf(path.text, sizeof path.text, "/proc/self/fd/%d", fd);
	return path;
}

static int set_own(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size)
{
	if (strcmp(name, ORIGIN_XATTR) != 0 || !fs_is_root(fs_of(req), ino))
		return -EPERM;
	return origins_announce(fs_of(req)->observer.origins, fuse_req_ctx(req)->pid, value, size);
}

void fs_setxattr(fuse_req_t req, fuse_ino_t ino, const char *name, const char *value, size_t size,
		 int flags)
{
	AUTO_CLOSE int fd = -1;
	int rc;

	if (is_own(name)) {
		fs_reply_err(req, "setxattr", set_own(req, ino, name, value, size));
		return;
	}
	fd = inode_open(fs_of(req)->inodes, ino, O_PATH);
	rc = fd;
	if (fd >= 0)
		rc = setxattr(fd_path(fd).text, name, value, size, flags) < 0 ? -errno : 0;
	fs_reply_err(req, "setxattr", rc);
}

static void reply_text(fuse_req_t req, const char *text, size_t size)
{
	size_t len = strlen(text);

	if (size == 0)
		fuse_reply_xattr(req, len);
	else if (size < len)
		fuse_reply_err(req, ERANGE);
	else
		fuse_reply_buf(req, text, len);
}

static void get_own(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	bool root = fs_is_root(fs_of(req), ino);
	char token[16];

	if (root && strcmp(name, ORIGIN_VERSION_XATTR) == 0) {
		reply_text(req, FS_VERSION, size);
	} else if (root && strcmp(name, ORIGIN_XATTR) == 0) {
		snprintf(token, sizeof token, "%u",
			 origins_find(fs_of(req)->observer.origins, fuse_req_ctx(req)->pid));
		reply_text(req, token, size);
	} else {
		fuse_reply_err(req, ENODATA);
	}
}

/* Answers with what get() gives for the inode: an attribute's value, or the list of names. */
static void reply_value(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	AUTO_CLOSE int fd = inode_open(fs_of(req)->inodes, ino, O_PATH);
	AUTO_FREE char *value = NULL;
	ssize_t len;

	if (fd < 0) {
		fs_reply_err(req, "getxattr", fd);
		return;
	}
	if (size) {
		value = malloc(size);
		if (!value) {
			fs_reply_err(req, "getxattr", -ENOMEM);
			return;
		}
	}
	len = name ? getxattr(fd_path(fd).text, name, value, size)
		   : listxattr(fd_path(fd).text, value, size);
	if (len < 0)
		fs_reply_err(req, "getxattr", -errno);
	else if (size == 0)
		fuse_reply_xattr(req, (size_t)len);
	else
		fuse_reply_buf(req, value, (size_t)len);
}

void fs_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	if (is_own(name))
		get_own(req, ino, name, size);
	else
		reply_value(req, ino, name, size);
}

void fs_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	reply_value(req, ino, NULL, size);
}

void fs_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	AUTO_CLOSE int fd = -1;
	int rc;

	if (is_own(name)) {
		fs_reply_err(req, "removexattr", -EPERM);
		return;
	}
	fd = inode_open(fs_of(req)->inodes, ino, O_PATH);
	rc = fd;
	if (fd >= 0)
		rc = removexattr(fd_path(fd).text, name) < 0 ? -errno : 0;
	fs_reply_err(req, "removexattr", rc);
}
