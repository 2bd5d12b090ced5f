/* dovecot-keywords. See maildir_keywords.h. */
#include "store/maildir/maildir_keywords.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"

#define KEYWORDS_SIZE_MAX  (64 * 1024)
#define KEYWORDS_LOCK_NAME MAILDIR_KEYWORDS_NAME ".lock"
#define LOCK_STALE_S	   3
#define LOCK_TRIES	   300
#define LOCK_WAIT_US	   20000

void maildir_keywords_free(struct maildir_keywords *keywords)
{
	for (unsigned i = 0; i < MAILDIR_LETTERS; i++)
		free(keywords->names[i]);
	*keywords = (struct maildir_keywords){0};
}

static bool name_is_storable(const char *name)
{
	if (!*name)
		return false;
	for (const char *p = name; *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f)
			return false;
	}
	return true;
}

/* "<index> <keyword>" */
static int parse_line(struct maildir_keywords *keywords, char *line)
{
	char *end;
	unsigned long index = strtoul(line, &end, 10);

	if (end == line || *end != ' ' || !name_is_storable(end + 1))
		return -EINVAL;
	/* Beyond the letters: kept by nobody; such keywords are in the index only. */
	if (index >= MAILDIR_LETTERS)
		return 0;
	if (keywords->names[index] || maildir_keywords_find(keywords, end + 1) >= 0)
		return -EINVAL;
	keywords->names[index] = strdup(end + 1);
	return keywords->names[index] ? 0 : -ENOMEM;
}

static int read_file(struct maildir_keywords *keywords, int fd, const char *what, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(KEYWORDS_SIZE_MAX);
	int rc = file_read(fd, &text);
	char *save = NULL;

	if (rc < 0)
		return error_errno(err, rc, "%s/" MAILDIR_KEYWORDS_NAME, what);
	if (!text.data)
		return 0;
	for (char *line = strtok_r(text.data, "\n", &save); line;
	     line = strtok_r(NULL, "\n", &save)) {
		rc = parse_line(keywords, line);
		if (rc == -ENOMEM)
			return error_errno(err, rc, "%s/" MAILDIR_KEYWORDS_NAME, what);
		if (rc < 0)
			log_warning("%s/" MAILDIR_KEYWORDS_NAME ": skipped the line \"%s\"", what,
				    line);
	}
	return 0;
}

int maildir_keywords_refresh(struct maildir_keywords *keywords, int control_fd, const char *what,
			     struct error *err)
{
	struct stat st;
	int rc;

	if (fstatat(control_fd, MAILDIR_KEYWORDS_NAME, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno != ENOENT)
			return error_errno(err, -errno, "%s/" MAILDIR_KEYWORDS_NAME, what);
		maildir_keywords_free(keywords);
		keywords->loaded = true;
		return 0;
	}
	if (keywords->loaded && keywords->exists && st.st_ino == keywords->ino &&
	    st.st_size == keywords->size && st.st_mtim.tv_sec == keywords->mtime.tv_sec &&
	    st.st_mtim.tv_nsec == keywords->mtime.tv_nsec)
		return 0;
	AUTO_CLOSE int fd = openat(control_fd, MAILDIR_KEYWORDS_NAME,
				   O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_errno(err, -errno, "%s/" MAILDIR_KEYWORDS_NAME, what);
	if (!S_ISREG(st.st_mode))
		return error_set(err, -EUCLEAN, "%s/" MAILDIR_KEYWORDS_NAME ": not a regular file",
				 what);
	maildir_keywords_free(keywords);
	rc = read_file(keywords, fd, what, err);
	if (rc < 0) {
		maildir_keywords_free(keywords);
		return rc;
	}
	keywords->exists = keywords->loaded = true;
	keywords->ino = st.st_ino;
	keywords->size = st.st_size;
	keywords->mtime = st.st_mtim;
	return 0;
}

int maildir_keywords_find(const struct maildir_keywords *keywords, const char *name)
{
	for (int i = 0; i < MAILDIR_LETTERS; i++) {
		if (keywords->names[i] && strcasecmp(keywords->names[i], name) == 0)
			return i;
	}
	return -1;
}

/* The lock file is the new content. Nobody writes it without dovecot-uidlist.lock, which we hold,
 * so one that is there was left by a process that died, or is about to be renamed by one whose lock
 * was taken for a dead one's. */
static int create_lock_file(int control_fd, const char *what)
{
	int fd = -EAGAIN;

	for (int i = 0; i < LOCK_TRIES; i++) {
		struct stat st;

		fd = owned_file_create(control_fd, KEYWORDS_LOCK_NAME, O_WRONLY | O_EXCL);
		if (fd != -EEXIST)
			return fd;
		if (fstatat(control_fd, KEYWORDS_LOCK_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
		    time(NULL) - st.st_mtime > LOCK_STALE_S) {
			log_warning("%s/" KEYWORDS_LOCK_NAME ": removed a stale lock", what);
			unlinkat(control_fd, KEYWORDS_LOCK_NAME, 0);
			continue;
		}
		usleep(LOCK_WAIT_US);
	}
	return -EAGAIN;
}

/* Dovecot notices a new file by its mtime in whole seconds, which therefore has to grow. */
static int raise_mtime(int fd, const struct maildir_keywords *keywords)
{
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {0}};
	struct stat st;

	if (!keywords->exists)
		return 0;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_mtim.tv_sec > keywords->mtime.tv_sec)
		return 0;
	times[1].tv_sec = keywords->mtime.tv_sec + 1;
	return futimens(fd, times) < 0 ? -errno : 0;
}

static int write_file(struct maildir_keywords *keywords, int control_fd, const char *what,
		      struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(KEYWORDS_SIZE_MAX);
	AUTO_CLOSE int fd = -1;
	struct stat st;
	int rc;

	for (unsigned i = 0; i < MAILDIR_LETTERS; i++) {
		if (keywords->names[i])
			buf_printf(&text, "%u %s\n", i, keywords->names[i]);
	}
	if (text.failed)
		return error_errno(err, text.failed, "%s/" MAILDIR_KEYWORDS_NAME, what);
	fd = create_lock_file(control_fd, what);
	if (fd < 0)
		return error_errno(err, fd, "%s/" KEYWORDS_LOCK_NAME, what);
	rc = file_write_all(fd, buf_str(&text), text.len);
	if (rc == 0)
		rc = raise_mtime(fd, keywords);
	if (rc == 0 && fsync(fd) < 0)
		rc = -errno;
	if (rc == 0 &&
	    renameat(control_fd, KEYWORDS_LOCK_NAME, control_fd, MAILDIR_KEYWORDS_NAME) < 0)
		rc = -errno;
	if (rc < 0) {
		unlinkat(control_fd, KEYWORDS_LOCK_NAME, 0);
		return error_errno(err, rc, "%s/" MAILDIR_KEYWORDS_NAME, what);
	}
	keywords->exists = fstat(fd, &st) == 0;
	if (keywords->exists) {
		keywords->ino = st.st_ino;
		keywords->size = st.st_size;
		keywords->mtime = st.st_mtim;
	}
	return 0;
}

int maildir_keywords_assign(struct maildir_keywords *keywords, int control_fd, const char *what,
			    const char *const *names, unsigned count, uint32_t avoid,
			    struct error *err)
{
	uint32_t added = 0;
	int rc;

	for (unsigned i = 0; i < count; i++) {
		unsigned letter = 0;

		if (!name_is_storable(names[i]) || maildir_keywords_find(keywords, names[i]) >= 0)
			continue;
		while (letter < MAILDIR_LETTERS &&
		       (keywords->names[letter] || avoid & 1U << letter))
			letter++;
		if (letter == MAILDIR_LETTERS)
			break;
		keywords->names[letter] = strdup(names[i]);
		if (!keywords->names[letter])
			return error_errno(err, -ENOMEM, "%s/" MAILDIR_KEYWORDS_NAME, what);
		added |= 1U << letter;
	}
	if (!added)
		return 0;
	rc = write_file(keywords, control_fd, what, err);
	/* What is not in the file has no letter. */
	for (unsigned i = 0; rc < 0 && i < MAILDIR_LETTERS; i++) {
		if (added & 1U << i) {
			free(keywords->names[i]);
			keywords->names[i] = NULL;
		}
	}
	return rc;
}
