/*
 * Sieve scripts as Pigeonhole keeps them: files in a directory, and the active one, to which a
 * symbolic link leads (its text relative to where it lies), or which is a file of its own.
 *
 * A script is written to <dir>/tmp and renamed. It gets the time that it has at the other end,
 * which says which of two is newer; its compiled form, which would be judged by that time, goes.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/attributes_private.h"
#include "store/base/file.h"

#define SUFFIX	     ".sieve"
#define SUFFIX_LEN   (sizeof SUFFIX - 1)
#define BINARY	     ".svbin"
#define TMP_DIR	     "tmp"
#define NAME_BYTES   (NAME_MAX - 16)
#define FILES_PREFIX (sizeof ATTRIBUTE_SIEVE_FILES - 1)

bool sieve_is_key(const char *key)
{
	return strncmp(key, ATTRIBUTE_SIEVE_FILES, FILES_PREFIX) == 0 ||
	       strcmp(key, ATTRIBUTE_SIEVE_ACTIVE) == 0;
}

static bool is_script_name(const char *name)
{
	return file_name_is_safe(name) && name[0] != '.' && strlen(name) <= NAME_BYTES;
}

static bool is_script_file(const char *file)
{
	size_t len = strlen(file);

	return len > SUFFIX_LEN && file[0] != '.' && strcmp(file + len - SUFFIX_LEN, SUFFIX) == 0;
}

/* ---- reading ---- */

static int add_script(int dir, const char *file, struct attribute_list *list)
{
	AUTO_BUF struct buf text = BUF_INIT(ATTRIBUTE_VALUE_MAX);
	AUTO_BUF struct buf key = BUF_INIT(ATTRIBUTE_KEY_MAX);
	struct attribute attribute = {.is_text = true};
	struct stat st;
	int rc;

	if (fstatat(dir, file, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return 0;
	rc = file_read_at(dir, file, &text);
	/* Gone again; or none that could be sent. */
	if (rc == -ENOENT || rc == -EMSGSIZE)
		return 0;
	if (rc < 0)
		return rc;
	buf_append_str(&key, ATTRIBUTE_SIEVE_FILES);
	buf_append(&key, file, strlen(file) - SUFFIX_LEN);
	if (key.failed)
		return 0;
	attribute.key = key.data;
	attribute.value = text.len ? text.data : key.data; /* of no length */
	attribute.len = text.len;
	attribute.last_change = st.st_mtime;
	return attributes_add(list, &attribute);
}

static int add_scripts(const char *path, struct attribute_list *list, struct error *err)
{
	AUTO_DIR DIR *dir = opendir(path);
	const struct dirent *entry;
	int rc = 0;

	if (!dir)
		return errno == ENOENT || errno == ENOTDIR
			       ? 0
			       : error_errno(err, -errno, "sieve scripts %s", path);
	while (rc == 0 && (entry = readdir(dir)) != NULL) {
		if (is_script_file(entry->d_name))
			rc = add_script(dirfd(dir), entry->d_name, list);
	}
	return rc < 0 ? error_errno(err, rc, "sieve scripts %s", path) : 0;
}

/* "L" and the name of the script that the link leads to. */
static int read_link(const char *active, struct buf *value)
{
	char target[PATH_MAX];
	ssize_t len = readlink(active, target, sizeof target - 1);
	const char *file;

	if (len < 0)
		return -errno;
	target[len] = '\0';
	file = strrchr(target, '/');
	file = file ? file + 1 : target;
	if (!is_script_file(file))
		return -ENOENT;
	buf_append_byte(value, 'L');
	return buf_append(value, file, strlen(file) - SUFFIX_LEN);
}

static int read_own_text(const char *active, struct buf *value)
{
	AUTO_CLOSE int fd = file_open_regular(AT_FDCWD, active, O_RDONLY);

	if (fd < 0)
		return fd;
	buf_append_byte(value, 'S');
	return file_read(fd, value);
}

static int add_active(const char *active, struct attribute_list *list, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(ATTRIBUTE_VALUE_MAX);
	char key[] = ATTRIBUTE_SIEVE_ACTIVE;
	struct attribute attribute = {.key = key};
	struct stat st;
	int rc = lstat(active, &st) < 0 ? -errno : 0;

	if (rc == 0 && S_ISLNK(st.st_mode))
		rc = read_link(active, &value);
	else if (rc == 0 && S_ISREG(st.st_mode))
		rc = read_own_text(active, &value);
	else if (rc == 0)
		rc = -ENOENT;
	if (rc == 0) {
		attribute.value = value.data;
		attribute.len = value.len;
		attribute.is_text = S_ISREG(st.st_mode);
		attribute.last_change = st.st_mtime;
		rc = attributes_add(list, &attribute);
	}
	return rc < 0 && rc != -ENOENT && rc != -ENOTDIR && rc != -EMSGSIZE
		       ? error_errno(err, rc, "active sieve script %s", active)
		       : 0;
}

int sieve_read(const struct mail_user *user, struct attribute_list *list, struct error *err)
{
	int rc = add_scripts(user->sieve_dir, list, err);

	return rc < 0 ? rc : add_active(user->sieve_active, list, err);
}

/* ---- writing ---- */

static int open_dir(const char *path, struct error *err)
{
	int fd;

	if (mkdir(path, 0700) < 0 && errno != EEXIST)
		return error_errno(err, -errno, "sieve scripts %s", path);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return error_errno(err, -errno, "sieve scripts %s", path);
	if (mkdirat(fd, TMP_DIR, 0700) < 0 && errno != EEXIST) {
		int rc = error_errno(err, -errno, "sieve scripts %s/" TMP_DIR, path);

		close(fd);
		return rc;
	}
	return fd;
}

static void temporary_name(char *name, size_t size)
{
	static unsigned counter;

	snprintf(name, size, TMP_DIR "/dsync.%d.%u", (int)getpid(), counter++);
}

/* A file below dir with this text and time, renamed to target (below target_dir). */
static int put_file(int dir, const char *text, size_t len, int64_t mtime, int target_dir,
		    const char *target)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_NOW}, {.tv_sec = mtime}};
	char name[64];
	AUTO_CLOSE int fd = -1;
	int rc;

	temporary_name(name, sizeof name);
	fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	rc = file_write_all(fd, text, len);
	if (rc == 0 && mtime > 0 && futimens(fd, times) < 0)
		rc = -errno;
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	if (rc == 0 && renameat(dir, name, target_dir, target) < 0)
		rc = -errno;
	if (rc < 0)
		(void)unlinkat(dir, name, 0);
	return rc;
}

static void drop_binary(int dir, const char *name)
{
	char file[NAME_MAX + 1];

	if (snprintf(file, sizeof file, "%s" BINARY, name) < (int)sizeof file)
		(void)unlinkat(dir, file, 0);
}

static int set_script(const struct mail_user *user, const struct attribute *attribute,
		      struct error *err)
{
	const char *name = attribute->key + FILES_PREFIX;
	char file[NAME_MAX + 1];
	AUTO_CLOSE int dir = -1;
	int rc;

	if (!is_script_name(name))
		return error_set(err, -EINVAL, "sieve script '%.100s': no such name can be", name);
	dir = open_dir(user->sieve_dir, err);
	if (dir < 0)
		return dir;
	snprintf(file, sizeof file, "%s" SUFFIX, name);
	if (attribute->value)
		rc = put_file(dir, attribute->value, attribute->len, attribute->last_change, dir,
			      file);
	else
		rc = unlinkat(dir, file, 0) < 0 && errno != ENOENT ? -errno : 0;
	drop_binary(dir, name);
	if (rc == 0)
		rc = file_sync_dir(dir, ".");
	return rc < 0 ? error_errno(err, rc, "sieve script %s/%s", user->sieve_dir, file) : 0;
}

/* The link's text: relative to where it lies, if the directory is below that. */
static int link_text(const struct mail_user *user, const char *name, char *text, size_t size)
{
	const char *slash = strrchr(user->sieve_active, '/');
	size_t len = slash ? (size_t)(slash - user->sieve_active) + 1 : 0;
	const char *dir = user->sieve_dir;

	if (strncmp(dir, user->sieve_active, len) == 0)
		dir += len;
	return snprintf(text, size, "%s/%s" SUFFIX, dir, name) < (int)size ? 0 : -ENAMETOOLONG;
}

static int set_link(const struct mail_user *user, int dir, const char *name)
{
	char text[PATH_MAX], temporary[64], file[NAME_MAX + 1];
	int rc;

	snprintf(file, sizeof file, "%s" SUFFIX, name);
	if (faccessat(dir, file, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
		return -errno;
	rc = link_text(user, name, text, sizeof text);
	if (rc < 0)
		return rc;
	temporary_name(temporary, sizeof temporary);
	if (symlinkat(text, dir, temporary) < 0)
		return -errno;
	if (renameat(dir, temporary, AT_FDCWD, user->sieve_active) < 0) {
		rc = -errno;
		(void)unlinkat(dir, temporary, 0);
	}
	return rc;
}

static int set_active(const struct mail_user *user, const struct attribute *attribute,
		      struct error *err)
{
	AUTO_CLOSE int dir = open_dir(user->sieve_dir, err);
	char name[NAME_MAX + 1];
	int rc;

	if (dir < 0)
		return dir;
	if (!attribute->value) {
		rc = unlink(user->sieve_active) < 0 && errno != ENOENT ? -errno : 0;
	} else if (attribute->len > 0 && attribute->value[0] == 'S') {
		rc = put_file(dir, attribute->value + 1, attribute->len - 1, attribute->last_change,
			      AT_FDCWD, user->sieve_active);
	} else if (attribute->len > 1 && attribute->value[0] == 'L' &&
		   attribute->len <= NAME_BYTES) {
		snprintf(name, sizeof name, "%.*s", (int)attribute->len - 1, attribute->value + 1);
		rc = strlen(name) == attribute->len - 1 && is_script_name(name)
			     ? set_link(user, dir, name)
			     : -EINVAL;
	} else {
		rc = -EINVAL;
	}
	return rc < 0 ? error_errno(err, rc, "active sieve script %s", user->sieve_active) : 0;
}

int sieve_set(const struct mail_user *user, const struct attribute *attribute, struct error *err)
{
	return strcmp(attribute->key, ATTRIBUTE_SIEVE_ACTIVE) == 0
		       ? set_active(user, attribute, err)
		       : set_script(user, attribute, err);
}
