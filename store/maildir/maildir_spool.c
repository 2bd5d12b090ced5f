/*
 * A message being received: a file in tmp/ under a name of its own. The bytes are kept as they
 * come, LF or CRLF; both sizes that a file name may state are counted on the way (reference 1.3).
 */
#include "store/maildir/maildir_private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/clock.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/process.h"
#include "store/base/owned_file.h"
#include "store/body/virtual_size.h"

#define CREATE_TRIES   5
#define SWEEP_EVERY_MS 60000
#define SPOOL_PREFIX   "dsyncfs." /* then our pid, and a name as a delivery has it */

static int64_t now_ms(void)
{
	return clock_ms(CLOCK_MONOTONIC) + 1;
}

static bool is_left_over(const char *name)
{
	char *end;
	long pid;

	if (strncmp(name, SPOOL_PREFIX, strlen(SPOOL_PREFIX)) != 0)
		return false;
	pid = strtol(name + strlen(SPOOL_PREFIX), &end, 10);
	return *end == '.' && pid > 0 && pid <= INT_MAX && !process_is_alive((pid_t)pid);
}

/* Removes what a process that was killed left in tmp/. Dovecot does it after 36 hours, but there
 * need not be a Dovecot. */
static void sweep(struct maildir *md, int tmp_fd)
{
	int fd = openat(tmp_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_DIR DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir) {
		file_close(&fd);
		return;
	}
	while ((entry = readdir(dir)) != NULL) {
		if (is_left_over(entry->d_name) && unlinkat(tmp_fd, entry->d_name, 0) == 0)
			log_debug("%s/tmp: removed %s, which was left over", md->path,
				  entry->d_name);
	}
	md->swept_ms = now_ms();
}

void maildir_spool_sweep(struct maildir *md)
{
	AUTO_CLOSE int tmp_fd = openat(md->dirfd, "tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);

	if (tmp_fd >= 0)
		sweep(md, tmp_fd);
}

static int create_tmp(struct maildir_spool *spool, struct error *err)
{
	struct maildir *md = spool->md;
	AUTO_CLOSE int tmp_fd = openat(md->dirfd, "tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	char unique[NAME_MAX + 1], name[NAME_MAX + 1];

	if (tmp_fd < 0 && errno == ENOENT) {
		int rc = maildir_make_subdirs(md, err);

		if (rc < 0)
			return rc;
		tmp_fd = openat(md->dirfd, "tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	}
	if (tmp_fd < 0)
		return error_errno(err, -errno, "%s/tmp", md->path);
	if (md->swept_ms == 0 || now_ms() - md->swept_ms > SWEEP_EVERY_MS)
		sweep(md, tmp_fd);
	for (int i = 0; i < CREATE_TRIES; i++) {
		maildir_name_generate(unique);
		snprintf(name, sizeof name, SPOOL_PREFIX "%ld.%.200s", (long)getpid(), unique);
		spool->fd = owned_file_create(tmp_fd, name, O_RDWR | O_EXCL);
		if (spool->fd != -EEXIST)
			break;
	}
	snprintf(spool->tmp_path, sizeof spool->tmp_path, "tmp/%s", name);
	if (spool->fd < 0)
		return error_errno(err, spool->fd, "%s/%s", md->path, spool->tmp_path);
	return 0;
}

int maildir_spool_open(struct mailbox *box, const char *guid, int64_t received,
		       struct mail_spool **spool_r, struct error *err)
{
	struct maildir *md = maildir_of(box);
	struct maildir_spool *spool = calloc(1, sizeof *spool);
	int rc;

	if (!spool)
		return error_errno(err, -ENOMEM, "%s", md->path);
	spool->spool.box = box;
	spool->md = md;
	spool->received = received;
	rc = create_tmp(spool, err);
	if (rc < 0) {
		free(spool);
		return rc;
	}
	spool->next = md->spools;
	md->spools = spool;
	*spool_r = &spool->spool;
	return 0;
}

int maildir_spool_write(struct mail_spool *base, const void *data, size_t len, struct error *err)
{
	struct maildir_spool *spool = (struct maildir_spool *)base;
	int rc;

	if (spool->fd < 0) {
		spool->fd = openat(spool->md->dirfd, spool->tmp_path,
				   O_WRONLY | O_APPEND | O_NOFOLLOW | O_CLOEXEC);
		if (spool->fd < 0)
			return error_errno(err, -errno, "%s/%s", spool->md->path, spool->tmp_path);
	}
	rc = file_write_all(spool->fd, data, len);
	if (rc < 0)
		return error_errno(err, rc, "%s/%s: write", spool->md->path, spool->tmp_path);
	spool->size += len;
	spool->virtual_size += virtual_size_of(data, len, &spool->last_was_cr);
	spool->synced = false;
	return 0;
}

int maildir_spool_sync(struct maildir_spool *spool, struct error *err)
{
	struct timespec times[2] = {{.tv_sec = spool->received}, {.tv_sec = spool->received}};

	if (spool->synced)
		return 0;
	if (futimens(spool->fd, times) < 0)
		return error_errno(err, -errno, "%s/%s: set times", spool->md->path,
				   spool->tmp_path);
	if (fsync(spool->fd) < 0)
		return error_errno(err, -errno, "%s/%s: sync", spool->md->path, spool->tmp_path);
	/* Many messages may wait for one commit: only those being written hold a descriptor. */
	file_close(&spool->fd);
	spool->synced = true;
	return 0;
}

int maildir_spool_sync_all(struct maildir *md, struct error *err)
{
	for (struct maildir_spool *spool = md->spools; spool; spool = spool->next) {
		int rc = maildir_spool_sync(spool, err);

		if (rc < 0)
			return rc;
	}
	return 0;
}

void maildir_spool_forget(struct maildir_spool *spool)
{
	for (struct maildir_spool **pos = &spool->md->spools; *pos; pos = &(*pos)->next) {
		if (*pos == spool) {
			*pos = spool->next;
			break;
		}
	}
	file_close(&spool->fd);
	free(spool);
}

void maildir_spool_discard(struct mail_spool *base)
{
	struct maildir_spool *spool = (struct maildir_spool *)base;

	if (unlinkat(spool->md->dirfd, spool->tmp_path, 0) < 0 && errno != ENOENT)
		log_warning("%s/%s: unlink: %s", spool->md->path, spool->tmp_path, strerror(errno));
	maildir_spool_forget(spool);
}
