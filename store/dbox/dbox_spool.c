/*
 * Messages being received. Their bodies go one behind the other into one nameless file of the
 * mailbox (in the storage for mdbox, in dbox-Mails for sdbox), which the kernel forgets with the
 * last descriptor; a commit copies them to where they belong. A message that is written to after
 * another one was begun gets a file of its own.
 */
#include "store/dbox/dbox_private.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/owned_file.h"
#include "store/body/virtual_size.h"

/* Where the file system has no O_TMPFILE: a name that is gone at once. */
static int open_named(int dirfd)
{
	static unsigned counter;
	char name[128];
	int fd;

	snprintf(name, sizeof name, ".temp.dsyncfs-spool.%ld.%u", (long)getpid(),
		 __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED));
	fd = owned_file_create(dirfd, name, O_RDWR | O_EXCL);
	if (fd >= 0)
		unlinkat(dirfd, name, 0);
	return fd;
}

static int open_nameless(struct dbox *db, int *fd_r, struct error *err)
{
	int dirfd = db->dirfd;

	if (db->multi) {
		int rc = dbox_need_storage(db, true, err);

		if (rc < 0)
			return rc;
		dirfd = db->storage->dirfd;
	}
	*fd_r = openat(dirfd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (*fd_r < 0 && (errno == EOPNOTSUPP || errno == EISDIR || errno == ENOSYS))
		*fd_r = open_named(dirfd);
	else if (*fd_r < 0)
		*fd_r = -errno;
	return *fd_r < 0 ? error_errno(err, *fd_r, "%s: a temporary file",
				       db->multi ? db->storage->path : db->path)
			 : 0;
}

int dbox_spool_fd(const struct dbox_spool *spool)
{
	return spool->fd >= 0 ? spool->fd : spool->db->spool_fd;
}

int dbox_spool_open(struct mailbox *box, const char *guid, int64_t received,
		    struct mail_spool **spool_r, struct error *err)
{
	struct dbox *db = dbox_of(box);
	struct dbox_spool *spool;
	int rc = db->spool_fd < 0 ? open_nameless(db, &db->spool_fd, err) : 0;

	if (rc < 0) {
		db->spool_fd = -1;
		return rc;
	}
	spool = calloc(1, sizeof *spool);
	if (!spool)
		return error_errno(err, -ENOMEM, "%s", db->path);
	spool->spool.box = box;
	spool->db = db;
	spool->fd = -1;
	spool->offset = db->spool_end;
	spool->received = received;
	spool->next = db->spools;
	db->spools = spool;
	*spool_r = &spool->spool;
	return 0;
}

/* Another message has been written behind this one. */
static int move_out(struct dbox_spool *spool, struct error *err)
{
	struct dbox *db = spool->db;
	char part[65536];
	uint64_t done = 0;
	int fd, rc = open_nameless(db, &fd, err);

	while (rc == 0 && done < spool->size) {
		size_t len = spool->size - done < sizeof part ? (size_t)(spool->size - done)
							      : sizeof part;

		rc = file_pread_all(db->spool_fd, part, len, (off_t)(spool->offset + done));
		if (rc == 0)
			rc = file_pwrite_all(fd, part, len, (off_t)done);
		if (rc < 0) {
			close(fd);
			return error_errno(err, rc, "%s: a temporary file", db->path);
		}
		done += len;
	}
	if (rc == 0) {
		spool->fd = fd;
		spool->offset = 0;
	}
	return rc;
}

int dbox_spool_write(struct mail_spool *base, const void *data, size_t len, struct error *err)
{
	struct dbox_spool *spool = (struct dbox_spool *)base;
	struct dbox *db = spool->db;
	int rc = 0;

	if (spool->fd < 0 && spool->size > 0 && spool->offset + spool->size != db->spool_end)
		rc = move_out(spool, err);
	if (rc < 0)
		return rc;
	if (spool->fd < 0 && spool->size == 0)
		spool->offset = db->spool_end;
	rc = file_pwrite_all(dbox_spool_fd(spool), data, len, (off_t)(spool->offset + spool->size));
	if (rc < 0)
		return error_errno(err, rc, "%s: a temporary file: write", db->path);
	spool->size += len;
	spool->virtual_size += virtual_size_of(data, len, &spool->last_was_cr);
	if (spool->fd < 0)
		db->spool_end = spool->offset + spool->size;
	return 0;
}

void dbox_spool_discard(struct mail_spool *base)
{
	struct dbox_spool *spool = (struct dbox_spool *)base;
	struct dbox *db = spool->db;

	for (struct dbox_spool **pos = &db->spools; *pos; pos = &(*pos)->next) {
		if (*pos == spool) {
			*pos = spool->next;
			break;
		}
	}
	file_close(&spool->fd);
	free(spool);
	/* Nothing is in it any more. */
	if (!db->spools && db->spool_end > 0) {
		db->spool_end = 0;
		if (ftruncate(db->spool_fd, 0) < 0)
			file_close(&db->spool_fd);
	}
}

int dbox_spool_compress_all(struct dbox *db, struct error *err)
{
	if (db->save_compress == COMPRESS_NONE)
		return 0;
	for (struct dbox_spool *spool = db->spools; spool; spool = spool->next) {
		uint64_t size;
		int rc;

		if (spool->plain_size || spool->size == 0)
			continue;
		/* Behind everything in the shared file; its own is closed. */
		rc = compress_copy(db->save_compress, dbox_spool_fd(spool), spool->offset,
				   spool->size, db->spool_fd, db->spool_end, &size);
		if (rc < 0)
			return error_errno(err, rc, "%s: compressing a message", db->path);
		file_close(&spool->fd);
		spool->plain_size = spool->size;
		spool->offset = db->spool_end;
		spool->size = size;
		db->spool_end += size;
	}
	return 0;
}
