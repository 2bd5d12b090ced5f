/* Mounting and unmounting. See mount.h. */
#include "fs/mount.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>
#include "fs/origin.h"
#include "store/base/file.h"
#include "store/base/log.h"

#define MOVE_BENEATH 0x200 /* MOVE_MOUNT_BENEATH, which older headers lack */

int mount_point_resolve(const char *path, char **path_r, struct error *err)
{
	AUTO_FREE char *copy = strdup(path), *parent = NULL;
	const char *name;
	size_t len;
	char *slash;

	*path_r = realpath(path, NULL);
	if (*path_r)
		return 0;
	if (errno != ENOTCONN && errno != ECONNABORTED)
		return error_errno(err, -errno, "mount point %s", path);
	/* A dead mount: only the directory it is in can be asked. */
	if (!copy)
		return error_set(err, -ENOMEM, "mount point %s: out of memory", path);
	len = strlen(copy);
	while (len > 1 && copy[len - 1] == '/')
		copy[--len] = '\0';
	slash = strrchr(copy, '/');
	if (!slash) {
		parent = realpath(".", NULL);
		name = copy;
	} else {
		*slash = '\0';
		parent = realpath(slash == copy ? "/" : copy, NULL);
		name = slash + 1;
	}
	if (!parent)
		return error_errno(err, -errno, "mount point %s", path);
	if (asprintf(path_r, "%s/%s", strcmp(parent, "/") == 0 ? "" : parent, name) < 0) {
		*path_r = NULL;
		return error_set(err, -ENOMEM, "mount point %s: out of memory", path);
	}
	return 0;
}

/* Undoes mountinfo's octal escapes, in place. */
static void unescape(char *text)
{
	char *to = text;

	while (*text) {
		if (text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && text[2] && text[3]) {
			*to++ = (char)((text[1] - '0') << 6 | (text[2] - '0') << 3 |
				       (text[3] - '0'));
			text += 4;
		} else {
			*to++ = *text++;
		}
	}
	*to = '\0';
}

/* Whether the uppermost mount on the path is a dsyncfs. Negative errno on failure. */
static int is_dsyncfs_mount(const char *path, struct error *err)
{
	FILE *info = fopen("/proc/self/mountinfo", "re");
	AUTO_FREE char *line = NULL;
	size_t size = 0;
	int found = 0;

	if (!info)
		return error_errno(err, -errno, "/proc/self/mountinfo");
	while (getline(&line, &size, info) > 0) {
		char *point = line, *type, *end;

		/* id parent major:minor root mountpoint options [fields] - type source options */
		for (int field = 0; field < 4 && point; field++) {
			point = strchr(point, ' ');
			if (point)
				point++;
		}
		end = point ? strchr(point, ' ') : NULL;
		type = end ? strstr(end, " - ") : NULL;
		if (!type)
			continue;
		*end = '\0';
		unescape(point);
		/* Later lines lie above earlier ones. */
		if (strcmp(point, path) == 0)
			found = strncmp(type + 3, MOUNT_FSTYPE " ", sizeof MOUNT_FSTYPE) == 0;
	}
	fclose(info);
	return found;
}

int mount_is_dead(const char *path, struct error *err)
{
	char version[64];
	int rc = is_dsyncfs_mount(path, err);

	if (rc <= 0)
		return rc;
	if (getxattr(path, ORIGIN_VERSION_XATTR, version, sizeof version) >= 0)
		return error_set(err, -EBUSY, "%s: a dsyncfs is mounted there already", path);
	if (errno != ENOTCONN && errno != ECONNABORTED)
		return error_errno(err, -errno, "%s: the dsyncfs mounted there", path);
	return 1;
}

int mount_clear_dead(const char *path, struct error *err)
{
	int rc;

	while ((rc = mount_is_dead(path, err)) > 0) {
		log_notice("taking down the mount of a dsyncfs that died path=%s", path);
		if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return error_errno(err, -errno, "cannot unmount the dead mount %s", path);
	}
	return rc;
}

int mount_aside(const char *aside, int dev_fd, mode_t root_mode, unsigned long flags,
		const char *source, struct error *err)
{
	char options[128];

	mount_aside_end(aside);
	if (mkdir(aside, 0700) < 0)
		return error_errno(err, -errno, "cannot make %s", aside);
	snprintf(options, sizeof options,
		 "fd=%d,rootmode=%o,user_id=0,group_id=0,allow_other,default_permissions", dev_fd,
		 (unsigned)(root_mode & S_IFMT));
	if (mount(source, aside, MOUNT_FSTYPE, flags | MS_NOSUID | MS_NODEV, options) < 0)
		return error_errno(err, -errno, "cannot mount on %s", aside);
	return 0;
}

/* Puts the tree between the dead mount and what that covers, and takes the dead one away: nobody
 * sees the bare directory for a moment. Kernels before 6.5 cannot. */
static bool replace_dead(const char *tree, const char *path)
{
	AUTO_CLOSE int fd =
		(int)syscall(SYS_open_tree, AT_FDCWD, tree, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);

	if (fd < 0 || syscall(SYS_move_mount, fd, "", AT_FDCWD, path,
			      MOVE_MOUNT_F_EMPTY_PATH | MOVE_BENEATH) < 0)
		return false;
	if (umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
		log_error("cannot unmount the dead mount %s: %s", path, strerror(errno));
	return true;
}

int mount_bind(const char *aside, const char *tree_name, const char *path, struct error *err)
{
	AUTO_FREE char *tree = NULL;
	int dead;

	if (asprintf(&tree, "%s/%s", aside, tree_name) < 0) {
		tree = NULL;
		return error_set(err, -ENOMEM, "cannot mount on %s: out of memory", path);
	}
	dead = mount_is_dead(path, err);
	if (dead < 0)
		return dead;
	if (dead)
		log_notice("replacing the mount of a dsyncfs that died path=%s", path);
	/* Where a dead one cannot be replaced it is covered. */
	if ((!dead || !replace_dead(tree, path)) && mount(tree, path, NULL, MS_BIND, NULL) < 0)
		return error_errno(err, -errno, "cannot mount on %s", path);
	mount_aside_end(aside);
	return 0;
}

void mount_aside_end(const char *aside)
{
	while (umount2(aside, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		;
	if (rmdir(aside) < 0 && errno != ENOENT)
		log_warning("cannot remove path=%s: %s", aside, strerror(errno));
}

int mount_detach(const char *path, struct error *err)
{
	if (umount2(path, UMOUNT_NOFOLLOW) == 0)
		return 0;
	if (errno == EBUSY && umount2(path, MNT_DETACH | UMOUNT_NOFOLLOW) == 0)
		return 0;
	/* Somebody was faster. */
	if (errno == EINVAL || errno == ENOENT)
		return 0;
	return error_errno(err, -errno, "cannot unmount %s", path);
}
