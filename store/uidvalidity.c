/*
 * UIDVALIDITY values, given out as Dovecot does (reference 6.5). See uidvalidity.h.
 *
 * The name of the empty file dovecot-uidvalidity.<8hex> is the counter: whoever succeeds in
 * renaming it from v to v+1 owns v+1. The main file only says where to start looking.
 */
#include "store/uidvalidity.h"

#include "store/base/file.h"
#include "store/base/owned_file.h"
#include "store/mail_user.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define COUNTER_NAME "dovecot-uidvalidity"
#define RENAME_TRIES 10
/* Beyond this nothing is given out or taken from a peer: a few values are left for emergencies. */
#define UIDVALIDITY_LIMIT 0xfffffff0u

static void counter_file_name(uint32_t value, char name_r[32])
{
	snprintf(name_r, 32, COUNTER_NAME ".%08x", value);
}

/* "dovecot-uidvalidity.0123abcd" -> value; false for any other name. */
static bool parse_hex8(const char *text, uint32_t *value_r)
{
	uint32_t value = 0;

	for (int i = 0; i < 8; i++) {
		char c = text[i];

		if (c >= '0' && c <= '9')
			value = value << 4 | (uint32_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value << 4 | (uint32_t)(c - 'a' + 10);
		else
			return false;
	}
	*value_r = value;
	return true;
}

static bool parse_counter_file_name(const char *name, uint32_t *value_r)
{
	size_t prefix = strlen(COUNTER_NAME) + 1;

	return strncmp(name, COUNTER_NAME ".", prefix) == 0 && strlen(name) == prefix + 8 &&
	       parse_hex8(name + prefix, value_r);
}

/* What the main file says; false where it is missing or says nothing. */
static bool read_main(int dirfd, uint32_t *value_r)
{
	AUTO_BUF struct buf text = BUF_INIT(64);

	return file_read_at(dirfd, COUNTER_NAME, &text) == 0 && text.len >= 8 &&
	       parse_hex8(buf_str(&text), value_r);
}

/* Best effort: the counter file alone is enough. */
static void write_main(int dirfd, uint32_t value)
{
	char text[16];
	AUTO_CLOSE int fd = owned_file_create(dirfd, COUNTER_NAME, O_WRONLY | O_TRUNC);

	if (fd < 0)
		return;
	snprintf(text, sizeof text, "%08x", value);
	(void)file_write_all(fd, text, 8);
}

/* The highest counter file; lower ones, left by a crash, are removed. *value_r 0: there is none. */
static int scan(int dirfd, uint32_t *value_r)
{
	AUTO_DIR DIR *dir = NULL;
	int fd = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dirent *entry;
	uint32_t highest = 0;

	if (fd < 0)
		return -errno;
	dir = fdopendir(fd);
	if (!dir) {
		int code = -errno;

		close(fd);
		return code;
	}
	while ((errno = 0, entry = readdir(dir)) != NULL) {
		char old[32];
		uint32_t value;

		if (!parse_counter_file_name(entry->d_name, &value) || value == highest)
			continue;
		if (highest) {
			counter_file_name(value < highest ? value : highest, old);
			unlinkat(dirfd, old, 0);
		}
		if (value > highest)
			highest = value;
	}
	*value_r = highest;
	return errno ? -errno : 0;
}

static int create_counter_file(int dirfd, uint32_t value)
{
	AUTO_CLOSE int fd = -1;
	char name[32];

	counter_file_name(value, name);
	fd = owned_file_create(dirfd, name, O_RDWR | O_EXCL);
	if (fd < 0)
		return fd;
	/* As Dovecot's: nobody is to write into it. */
	return fchmod(fd, 0444) < 0 && errno != EPERM ? -errno : 0;
}

static int open_root(const struct mail_user *user, int *dirfd_r, struct error *err)
{
	int fd = open(user->location.control, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT) {
		/* Only the last component: the home itself is never made here. */
		if (mkdir(user->location.control, 0700) < 0 && errno != EEXIST)
			return error_errno(err, -errno, "user=%s: mkdir(%s)", user->name,
					   user->location.control);
		fd = open(user->location.control, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (fd < 0)
		return error_errno(err, -errno, "user=%s: open(%s)", user->name,
				   user->location.control);
	*dirfd_r = fd;
	return 0;
}

/* Renames the counter from `from` to `to`. -ENOENT: it was not at `from` (any more). */
static int move_counter(int dirfd, uint32_t from, uint32_t to)
{
	char old[32], new[32];

	counter_file_name(from, old);
	counter_file_name(to, new);
	return renameat(dirfd, old, dirfd, new) < 0 ? -errno : 0;
}

int uidvalidity_allocate(const struct mail_user *user, uint32_t *uid_validity_r, struct error *err)
{
	AUTO_CLOSE int dirfd = -1;
	uint32_t value;
	int rc = open_root(user, &dirfd, err);

	if (rc < 0)
		return rc;
	if (!read_main(dirfd, &value))
		value = 0;
	/* First from what the main file says, then from what the directory says. */
	for (int round = 0; round < 3; round++) {
		for (int i = 0; value != 0 && i < RENAME_TRIES; i++, value++) {
			if (value >= UIDVALIDITY_LIMIT)
				return error_set(err, -ERANGE,
						 "user=%s: %s/%s: all UIDVALIDITY values are used",
						 user->name, user->location.control, COUNTER_NAME);
			rc = move_counter(dirfd, value, value + 1);
			if (rc == 0) {
				write_main(dirfd, value + 1);
				*uid_validity_r = value + 1;
				return 0;
			}
			if (rc != -ENOENT)
				return error_errno(err, rc, "user=%s: rename(%s/%s.%08x)",
						   user->name, user->location.control, COUNTER_NAME,
						   value);
		}
		rc = scan(dirfd, &value);
		if (rc < 0)
			return error_errno(err, rc, "user=%s: readdir(%s)", user->name,
					   user->location.control);
		if (value == 0) {
			value = (uint32_t)time(NULL);
			rc = create_counter_file(dirfd, value);
			if (rc == 0) {
				write_main(dirfd, value);
				*uid_validity_r = value;
				return 0;
			}
			if (rc != -EEXIST)
				return error_errno(err, rc, "user=%s: create(%s/%s.%08x)",
						   user->name, user->location.control, COUNTER_NAME,
						   value);
			/* Somebody made it in this second: go on from there. */
		}
	}
	return error_set(
		err, -EAGAIN,
		"user=%s: %s/%s: no UIDVALIDITY could be allocated: it changes all the time",
		user->name, user->location.control, COUNTER_NAME);
}

int uidvalidity_raise(const struct mail_user *user, uint32_t uid_validity, struct error *err)
{
	AUTO_CLOSE int dirfd = -1;
	uint32_t value = 0;
	int rc;

	if (uid_validity >= UIDVALIDITY_LIMIT)
		return 0;
	rc = open_root(user, &dirfd, err);
	if (rc < 0)
		return rc;
	for (int i = 0; i < RENAME_TRIES; i++) {
		rc = scan(dirfd, &value);
		if (rc < 0)
			break;
		if (value >= uid_validity)
			return 0;
		rc = value ? move_counter(dirfd, value, uid_validity)
			   : create_counter_file(dirfd, uid_validity);
		if (rc == 0) {
			write_main(dirfd, uid_validity);
			return 0;
		}
		if (rc != -ENOENT && rc != -EEXIST)
			break;
	}
	return error_errno(err, rc, "user=%s: raising %s/%s to %u", user->name,
			   user->location.control, COUNTER_NAME, uid_validity);
}
