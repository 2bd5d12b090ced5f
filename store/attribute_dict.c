/*
 * Dovecot's file dictionary: lines by two, a key and its value, both tab-escaped.
 *
 * A writer makes <file>.lock, writes the whole file anew into it and renames it onto the file.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "store/attributes_private.h"
#include "store/base/file.h"
#include "store/base/tabescape.h"

#define FILE_MAX_BYTES ((size_t)64 * 1024 * 1024)
#define LOCK_TRIES     1500 /* with LOCK_PAUSE_MS 30 s, as Dovecot waits */
#define LOCK_PAUSE_MS  20
#define LOCK_STALE_S   300

static int read_file(const char *path, struct buf *text, struct error *err)
{
	int rc = file_read_at(AT_FDCWD, path, text);

	/* Not written to yet, in a mailbox root that may not be there either. */
	if (rc == -ENOENT || rc == -ENOTDIR)
		return 0;
	return rc < 0 ? error_errno(err, rc, "attributes %s", path) : 0;
}

/* The next line without its LF; NULL: none is left. */
static char *next_line(char **text)
{
	char *line = *text, *lf = strchr(line, '\n');

	if (!lf)
		return NULL;
	*lf = '\0';
	*text = lf + 1;
	return line;
}

static void make_prefix(bool shared, const struct guid *guid, char *prefix, size_t size)
{
	char hex[GUID_HEX_SIZE];

	snprintf(prefix, size, "%s/%s/", shared ? "shared" : "priv", guid_to_hex(guid, hex));
}

int attribute_dict_read(const char *path, bool shared, const struct guid *guid,
			struct attribute_list *list, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(FILE_MAX_BYTES);
	char prefix[GUID_HEX_SIZE + 16], *at, *key, *value;
	int rc = read_file(path, &text, err);

	if (rc < 0 || text.len == 0)
		return rc;
	make_prefix(shared, guid, prefix, sizeof prefix);
	at = text.data;
	while (rc == 0 && (key = next_line(&at)) != NULL && (value = next_line(&at)) != NULL) {
		struct attribute attribute = {.shared = shared, .value = value};

		if (strncmp(key, prefix, strlen(prefix)) != 0)
			continue;
		attribute.key = key + strlen(prefix);
		tabunescape(attribute.key, strlen(attribute.key));
		attribute.len = tabunescape(value, strlen(value));
		rc = attributes_add(list, &attribute);
	}
	return rc < 0 ? error_errno(err, rc, "attributes %s", path) : 0;
}

/* ---- writing ---- */

/* A lock whose writer died. */
static void break_stale(const char *lock)
{
	struct stat st;

	if (lstat(lock, &st) == 0 && st.st_mtime + LOCK_STALE_S < time(NULL))
		(void)unlink(lock);
}

static int take_lock(const char *lock, int *fd_r, struct error *err)
{
	struct timespec pause = {.tv_nsec = LOCK_PAUSE_MS * 1000000L};

	for (unsigned i = 0; i < LOCK_TRIES; i++) {
		*fd_r = open(lock, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (*fd_r >= 0)
			return 0;
		if (errno != EEXIST)
			return error_errno(err, -errno, "%s", lock);
		break_stale(lock);
		nanosleep(&pause, NULL);
	}
	return error_set(err, -EAGAIN, "%s: somebody else holds it", lock);
}

static void append_lines(struct buf *out, const char *key, const struct attribute *attribute)
{
	buf_append_str(out, key);
	buf_append_byte(out, '\n');
	tabescape_append(out, attribute->value, attribute->len);
	buf_append_byte(out, '\n');
}

/* All lines but the key's, which come anew at the end. */
static int change_lines(struct buf *text, const char *key, const struct attribute *attribute,
			struct buf *out)
{
	char *at = text->len ? text->data : NULL, *old_key, *old_value;

	while (at && (old_key = next_line(&at)) != NULL && (old_value = next_line(&at)) != NULL) {
		if (strcmp(old_key, key) != 0)
			buf_printf(out, "%s\n%s\n", old_key, old_value);
	}
	if (attribute->value)
		append_lines(out, key, attribute);
	return out->failed;
}

static int write_locked(const char *path, const char *lock, int fd, const char *key,
			const struct attribute *attribute, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(FILE_MAX_BYTES);
	AUTO_BUF struct buf out = BUF_INIT(FILE_MAX_BYTES);
	int rc = read_file(path, &text, err);

	if (rc < 0)
		return rc;
	rc = change_lines(&text, key, attribute, &out);
	if (rc == 0)
		rc = file_write_all(fd, out.data, out.len);
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	if (rc == 0 && rename(lock, path) < 0)
		rc = -errno;
	return rc < 0 ? error_errno(err, rc, "attributes %s", path) : 0;
}

static int sync_parent(const char *path)
{
	char dir[PATH_MAX];
	char *slash;

	if (snprintf(dir, sizeof dir, "%s", path) >= (int)sizeof dir)
		return -ENAMETOOLONG;
	slash = strrchr(dir, '/');
	if (slash)
		*slash = '\0';
	return file_sync_dir(AT_FDCWD, slash && dir[0] ? dir : "/");
}

int attribute_dict_set(const char *path, const struct guid *guid, const struct attribute *attribute,
		       struct error *err)
{
	AUTO_BUF struct buf key = BUF_INIT((size_t)8 * ATTRIBUTE_KEY_MAX);
	char lock[PATH_MAX], prefix[GUID_HEX_SIZE + 16];
	AUTO_CLOSE int fd = -1;
	int rc;

	if (snprintf(lock, sizeof lock, "%s.lock", path) >= (int)sizeof lock)
		return error_set(err, -ENAMETOOLONG, "attributes %s", path);
	make_prefix(attribute->shared, guid, prefix, sizeof prefix);
	buf_append_str(&key, prefix);
	tabescape_append(&key, attribute->key, strlen(attribute->key));
	if (key.failed)
		return error_errno(err, key.failed, "attributes %s", path);
	rc = take_lock(lock, &fd, err);
	if (rc < 0)
		return rc;
	rc = write_locked(path, lock, fd, buf_str(&key), attribute, err);
	if (rc < 0) {
		(void)unlink(lock);
		return rc;
	}
	rc = sync_parent(path);
	return rc < 0 ? error_errno(err, rc, "attributes %s", path) : 0;
}
