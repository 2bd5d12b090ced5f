/*
 * The subscriptions file, versions 1 and 2 (reference 6.3). See subscriptions.h.
 *
 * The lock is the new file: subscriptions.lock is created exclusively, filled, and renamed over the
 * old one, which releases it. No pid is written into it, so it is stale when nothing happened to it
 * and to the file for 30 s, as Dovecot judges it.
 */
#include "store/subscriptions.h"

#include "store/base/crash_point.h"
#include "store/base/file.h"
#include "store/base/tabescape.h"
#include "store/mail_user.h"
#include "store/mailbox_name.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define SUBS_NAME     "subscriptions"
#define LOCK_NAME     "subscriptions.lock"
#define SUBS_SIZE_MAX ((size_t)16 * 1024 * 1024)
#define STALE_SECS    30
#define LOCK_WAIT_MS  45000
#define V2_HEADER     "V\t2\n\n"

/* One line of the file without its LF -> name; -EINVAL for one that is none of a mailbox. */
static int line_to_name(const struct mail_user *user, bool v2, const char *line, size_t len,
			char **name_r)
{
	AUTO_BUF struct buf storage = BUF_INIT(4 * MAILBOX_NAME_MAX);
	char separator = user->location.layout == MAIL_LAYOUT_MAILDIRPP ? '.' : '/';

	if (!v2) {
		buf_append(&storage, line, len);
	} else {
		for (size_t pos = 0; pos <= len;) {
			const char *tab = memchr(line + pos, '\t', len - pos);
			size_t part = tab ? (size_t)(tab - line) - pos : len - pos;
			size_t start = storage.len;

			if (buf_append(&storage, line + pos, part) < 0)
				return -EINVAL;
			storage.len = start + tabunescape(storage.data + start, part);
			pos += part + 1;
			if (tab)
				buf_append_byte(&storage, (unsigned char)separator);
		}
	}
	if (storage.failed || storage.len == 0 || memchr(storage.data, '\0', storage.len) != NULL)
		return -EINVAL;
	return mailbox_name_from_storage(&user->location, buf_str(&storage), name_r);
}

static int name_to_line(const struct mail_user *user, bool v2, const char *name, struct buf *out)
{
	char separator = user->location.layout == MAIL_LAYOUT_MAILDIRPP ? '.' : '/';
	AUTO_FREE char *storage = NULL;
	int rc = mailbox_name_to_storage(&user->location, name, &storage);

	if (rc < 0)
		return rc;
	if (!v2)
		return buf_append_str(out, storage);
	for (const char *part = storage;;) {
		const char *end = strchr(part, separator);
		size_t len = end ? (size_t)(end - part) : strlen(part);

		tabescape_append(out, part, len);
		if (!end)
			return out->failed;
		buf_append_byte(out, '\t');
		part = end + 1;
	}
}

/* Reads the file whole; a missing one is an empty version 2. *body_r: where the lines begin. */
static int read_file(const struct mail_user *user, int dirfd, struct buf *text, bool *v2_r,
		     size_t *body_r, struct error *err)
{
	int rc = file_read_at(dirfd, SUBS_NAME, text);

	if (rc < 0 && rc != -ENOENT)
		return error_errno(err, rc, "user=%s: read(%s/%s)", user->name,
				   user->location.control, SUBS_NAME);
	*v2_r = rc == -ENOENT || text->len == 0 ||
		(text->len >= 4 && memcmp(text->data, "V\t2\n", 4) == 0);
	*body_r = 0;
	if (*v2_r && text->len) {
		/* The header ends with an empty line. */
		const char *end = strstr(buf_str(text), "\n\n");

		*body_r = end ? (size_t)(end - text->data) + 2 : text->len;
	}
	return 0;
}

static int open_root(const struct mail_user *user, int *dirfd_r)
{
	int fd = open(user->location.control, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	*dirfd_r = fd;
	return 0;
}

/* Appends the name unless it is there; takes it over. */
static int names_add(struct subscriptions *subs, size_t *room, char *name)
{
	for (size_t i = 0; i < subs->count; i++) {
		if (strcmp(subs->names[i], name) == 0) {
			free(name);
			return 0;
		}
	}
	if (subs->count == *room) {
		size_t more = *room ? *room * 2 : 16;
		char **names = realloc(subs->names, more * sizeof *names);

		if (!names) {
			free(name);
			return -ENOMEM;
		}
		subs->names = names;
		*room = more;
	}
	subs->names[subs->count++] = name;
	return 0;
}

int subscriptions_read(const struct mail_user *user, struct subscriptions *subs_r,
		       struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(SUBS_SIZE_MAX);
	struct subscriptions subs = {NULL, 0};
	AUTO_CLOSE int dirfd = -1;
	size_t pos, room = 0;
	bool v2;
	int rc;

	*subs_r = subs;
	rc = open_root(user, &dirfd);
	if (rc == -ENOENT)
		return 0;
	if (rc < 0)
		return error_errno(err, rc, "user=%s: open(%s)", user->name,
				   user->location.control);
	rc = read_file(user, dirfd, &text, &v2, &pos, err);
	if (rc < 0)
		return rc;
	while (pos < text.len) {
		const char *lf = memchr(text.data + pos, '\n', text.len - pos);
		size_t len = lf ? (size_t)(lf - text.data) - pos : text.len - pos;
		char *name;

		rc = line_to_name(user, v2, text.data + pos, len, &name);
		if (rc == 0)
			rc = names_add(&subs, &room, name);
		if (rc == -ENOMEM) {
			subscriptions_free(&subs);
			return error_set(err, rc, "user=%s: out of memory", user->name);
		}
		pos += len + 1;
	}
	*subs_r = subs;
	return 0;
}

void subscriptions_free(struct subscriptions *subs)
{
	if (!subs)
		return;
	for (size_t i = 0; i < subs->count; i++)
		free(subs->names[i]);
	free(subs->names);
	*subs = (struct subscriptions){NULL, 0};
}

static int64_t newest_change(int dirfd, const char *name)
{
	struct stat st;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return 0;
	return st.st_ctime > st.st_mtime ? st.st_ctime : st.st_mtime;
}

/* Takes the lock; returns the descriptor of the new file. */
static int lock(int dirfd)
{
	struct timespec pause = {0, 2 * 1000 * 1000};
	struct stat dir;

	if (fstat(dirfd, &dir) < 0)
		return -errno;
	for (int waited_ms = 0; waited_ms < LOCK_WAIT_MS;) {
		int fd = openat(dirfd, LOCK_NAME,
				O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC,
				dir.st_mode & 0666);
		int64_t changed;

		if (fd >= 0) {
			/* As far as we may; the mode must not be narrowed by our umask. */
			if (fchown(fd, dir.st_uid, dir.st_gid) < 0 && errno != EPERM)
				goto failed;
			if (fchmod(fd, dir.st_mode & 0666) < 0 && errno != EPERM)
				goto failed;
			return fd;
		failed:;
			int code = -errno;

			close(fd);
			unlinkat(dirfd, LOCK_NAME, 0);
			return code;
		}
		if (errno != EEXIST)
			return -errno;
		changed = newest_change(dirfd, LOCK_NAME);
		if (changed && newest_change(dirfd, SUBS_NAME) > changed)
			changed = newest_change(dirfd, SUBS_NAME);
		if (changed && changed + STALE_SECS < time(NULL)) {
			unlinkat(dirfd, LOCK_NAME, 0);
			continue;
		}
		nanosleep(&pause, NULL);
		waited_ms += (int)(pause.tv_nsec / 1000000);
		if (pause.tv_nsec < 64 * 1000 * 1000)
			pause.tv_nsec *= 2;
	}
	return -EAGAIN;
}

/* The new content: every line but the name's, in their order, and the name's at the end if wanted.
 */
static int edit(const struct mail_user *user, const struct buf *text, bool v2, size_t body,
		const char *name, bool subscribed, bool *changed_r, struct buf *out)
{
	bool found = false;
	size_t pos = body;
	int rc;

	if (text->len == 0)
		buf_append_str(out, V2_HEADER);
	else
		buf_append(out, text->data, body);
	while (pos < text->len) {
		const char *lf = memchr(text->data + pos, '\n', text->len - pos);
		size_t len = lf ? (size_t)(lf - text->data) - pos : text->len - pos;
		char *other = NULL;
		bool same;

		rc = line_to_name(user, v2, text->data + pos, len, &other);
		if (rc == -ENOMEM)
			return rc;
		same = rc == 0 && strcmp(other, name) == 0;
		free(other);
		if (same)
			found = true;
		if (!same || subscribed) {
			buf_append(out, text->data + pos, len);
			buf_append_byte(out, '\n');
		}
		pos += len + 1;
	}
	*changed_r = found != subscribed;
	if (subscribed && !found) {
		rc = name_to_line(user, v2, name, out);
		if (rc < 0)
			return rc;
		buf_append_byte(out, '\n');
	}
	return out->failed;
}

int subscriptions_set(const struct mail_user *user, const char *name, bool subscribed,
		      bool *changed_r, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(SUBS_SIZE_MAX);
	AUTO_BUF struct buf out = BUF_INIT(SUBS_SIZE_MAX + 4 * MAILBOX_NAME_MAX);
	AUTO_CLOSE int dirfd = -1;
	AUTO_CLOSE int fd = -1;
	size_t body;
	bool v2;
	int rc;

	*changed_r = false;
	rc = open_root(user, &dirfd);
	if (rc < 0)
		return error_errno(err, rc, "user=%s: open(%s)", user->name,
				   user->location.control);
	fd = lock(dirfd);
	if (fd < 0)
		return error_errno(err, fd, "user=%s: lock(%s/%s)", user->name,
				   user->location.control, LOCK_NAME);
	rc = read_file(user, dirfd, &text, &v2, &body, err);
	if (rc < 0)
		goto unlock;
	rc = edit(user, &text, v2, body, name, subscribed, changed_r, &out);
	if (rc < 0) {
		error_errno(err, rc, "user=%s mailbox=%s: changing %s/%s", user->name, name,
			    user->location.control, SUBS_NAME);
		goto unlock;
	}
	if (!*changed_r)
		goto unlock;
	rc = file_write_all(fd, out.data, out.len);
	crash_point("subscriptions: written, not synced");
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	if (rc == 0 && renameat(dirfd, LOCK_NAME, dirfd, SUBS_NAME) < 0)
		rc = -errno;
	if (rc < 0) {
		*changed_r = false;
		error_errno(err, rc, "user=%s mailbox=%s: write(%s/%s)", user->name, name,
			    user->location.control, LOCK_NAME);
		goto unlock;
	}
	rc = file_sync_dir(dirfd, ".");
	if (rc < 0)
		error_errno(err, rc, "user=%s: fsync(%s)", user->name, user->location.control);
	return rc;
unlock:
	unlinkat(dirfd, LOCK_NAME, 0);
	return rc;
}
