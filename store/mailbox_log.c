/*
 * dovecot.mailbox.log: reading and appending (reference 6.2). See mailbox_log.h.
 *
 * Times are big endian, unlike everything else that Dovecot writes. A record that a crash cut short
 * would shift all that follow, so appending first cuts the file to whole records.
 */
#include "store/mailbox_log.h"

#include "store/base/crash_point.h"
#include "store/base/file.h"
#include "store/mail_user.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define RECORD_SIZE 24
/* Dovecot keeps both files at about 4 kB; more is somebody else's doing, and still read. */
#define LOG_SIZE_MAX ((size_t)4 * 1024 * 1024)

struct log_files {
	const char *name, *old_name;
	off_t rotate_size;
};

static const struct log_files dovecots = {"dovecot.mailbox.log", "dovecot.mailbox.log.2", 4096};
static const struct log_files kept = {"dsyncfs.mailbox.log", "dsyncfs.mailbox.log.2",
				      (off_t)20000 * RECORD_SIZE};

static void record_encode(const struct mailbox_log_record *record, uint8_t data_r[RECORD_SIZE])
{
	uint32_t stamp = htobe32((uint32_t)record->time);

	memset(data_r, 0, RECORD_SIZE);
	data_r[0] = (uint8_t)record->type;
	memcpy(data_r + 4, record->id.bytes, sizeof record->id.bytes);
	memcpy(data_r + 20, &stamp, sizeof stamp);
}

static bool record_decode(const uint8_t data[RECORD_SIZE], struct mailbox_log_record *record_r)
{
	uint32_t stamp;

	if (data[0] < MAILBOX_LOG_DELETE_MAILBOX || data[0] > MAILBOX_LOG_CREATE_DIRECTORY)
		return false;
	record_r->type = (enum mailbox_log_type)data[0];
	memcpy(record_r->id.bytes, data + 4, sizeof record_r->id.bytes);
	memcpy(&stamp, data + 20, sizeof stamp);
	record_r->time = be32toh(stamp);
	return true;
}

/* -ENOENT without an index root yet: then there is no log. */
static int open_root(const struct mail_user *user, int *dirfd_r, struct error *err)
{
	int fd = open(user->location.index, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0) {
		int code = -errno;

		return code == -ENOENT ? code
				       : error_errno(err, code, "user=%s: open(%s)", user->name,
						     user->location.index);
	}
	*dirfd_r = fd;
	return 0;
}

static int read_files(const struct mail_user *user, const struct log_files *files,
		      struct mailbox_log_record **records_r, size_t *count_r, struct error *err)
{
	const char *const names[] = {files->old_name, files->name};
	struct mailbox_log_record *records = NULL;
	AUTO_CLOSE int dirfd = -1;
	size_t count = 0;
	int rc;

	*records_r = NULL;
	*count_r = 0;
	rc = open_root(user, &dirfd, err);
	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	for (int i = 0; i < 2; i++) {
		AUTO_BUF struct buf data = BUF_INIT(LOG_SIZE_MAX);
		struct mailbox_log_record *grown;

		rc = file_read_at(dirfd, names[i], &data);
		if (rc == -ENOENT)
			continue;
		if (rc < 0) {
			free(records);
			return error_errno(err, rc, "user=%s: read(%s/%s)", user->name,
					   user->location.index, names[i]);
		}
		grown = realloc(records, (count + data.len / RECORD_SIZE + 1) * sizeof *records);
		if (!grown) {
			free(records);
			return error_set(err, -ENOMEM, "user=%s: out of memory", user->name);
		}
		records = grown;
		for (size_t pos = 0; pos + RECORD_SIZE <= data.len; pos += RECORD_SIZE) {
			if (record_decode((const uint8_t *)data.data + pos, &records[count]))
				count++;
		}
	}
	*records_r = records;
	*count_r = count;
	return 0;
}

int mailbox_log_read(const struct mail_user *user, struct mailbox_log_record **records_r,
		     size_t *count_r, struct error *err)
{
	return read_files(user, &dovecots, records_r, count_r, err);
}

int mailbox_log_read_kept(const struct mail_user *user, struct mailbox_log_record **records_r,
			  size_t *count_r, struct error *err)
{
	return read_files(user, &kept, records_r, count_r, err);
}

/* Opens the log for appending, rotated when it is full, cut to whole records. */
static int open_log(int dirfd, const struct log_files *files)
{
	struct stat st;
	int fd, code;

	for (;;) {
		fd = openat(dirfd, files->name,
			    O_WRONLY | O_APPEND | O_CREAT | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC,
			    0600);
		if (fd < 0)
			return -errno;
		if (fstat(fd, &st) < 0)
			break;
		if (st.st_size < files->rotate_size) {
			if (st.st_size % RECORD_SIZE != 0 &&
			    ftruncate(fd, st.st_size - st.st_size % RECORD_SIZE) < 0)
				break;
			return fd;
		}
		close(fd);
		if (renameat(dirfd, files->name, dirfd, files->old_name) < 0 && errno != ENOENT)
			return -errno;
	}
	code = -errno;
	close(fd);
	return code;
}

static int append(const struct mail_user *user, const struct log_files *files,
		  const struct mailbox_log_record *records, size_t count, struct error *err)
{
	AUTO_BUF struct buf data = BUF_INIT(LOG_SIZE_MAX);
	AUTO_CLOSE int dirfd = -1;
	AUTO_CLOSE int fd = -1;
	struct stat dir, st;
	int rc;

	rc = open_root(user, &dirfd, err);
	if (rc < 0)
		return rc == -ENOENT ? error_errno(err, rc, "user=%s: open(%s)", user->name,
						   user->location.index)
				     : rc;
	for (size_t i = 0; i < count; i++) {
		uint8_t record[RECORD_SIZE];

		record_encode(&records[i], record);
		buf_append(&data, record, sizeof record);
	}
	if (data.failed)
		return error_errno(err, data.failed, "user=%s: %s", user->name, files->name);
	fd = open_log(dirfd, files);
	if (fd < 0)
		return error_errno(err, fd, "user=%s: open(%s/%s)", user->name,
				   user->location.index, files->name);
	/* As every file of the store: the directory's owner and mode, as far as we may. */
	if (fstat(dirfd, &dir) == 0 && fstat(fd, &st) == 0) {
		if ((st.st_uid != dir.st_uid || st.st_gid != dir.st_gid) &&
		    fchown(fd, dir.st_uid, dir.st_gid) < 0 && errno != EPERM)
			return error_errno(err, -errno, "user=%s: fchown(%s/%s)", user->name,
					   user->location.index, files->name);
		if ((st.st_mode & 0777) != (dir.st_mode & 0666) && st.st_size == 0 &&
		    fchmod(fd, dir.st_mode & 0666) < 0 && errno != EPERM)
			return error_errno(err, -errno, "user=%s: fchmod(%s/%s)", user->name,
					   user->location.index, files->name);
	}
	rc = file_write_all(fd, data.data, data.len);
	crash_point("mailbox log: appended, not synced");
	if (rc == 0 && fdatasync(fd) < 0)
		rc = -errno;
	if (rc == 0)
		rc = file_sync_dir(dirfd, ".");
	if (rc < 0)
		return error_errno(err, rc, "user=%s: write(%s/%s)", user->name,
				   user->location.index, files->name);
	return 0;
}

int mailbox_log_append(const struct mail_user *user, const struct mailbox_log_record *records,
		       size_t count, struct error *err)
{
	return append(user, &dovecots, records, count, err);
}

static int keep(const struct mail_user *user, enum mailbox_log_type type,
		const struct guid *mailbox, int64_t time, struct error *err)
{
	const struct mailbox_log_record record = {.type = type, .id = *mailbox, .time = time};

	return append(user, &kept, &record, 1, err);
}

int mailbox_log_keep(const struct mail_user *user, const struct guid *mailbox, int64_t time,
		     struct error *err)
{
	return keep(user, MAILBOX_LOG_DELETE_MAILBOX, mailbox, time, err);
}

int mailbox_log_keep_alive(const struct mail_user *user, const struct guid *mailbox, int64_t time,
			   struct error *err)
{
	struct mailbox_log_record *records;
	bool deleted = false;
	size_t count;
	int rc = mailbox_log_read_kept(user, &records, &count, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < count; i++) {
		if (guid_equal(&records[i].id, mailbox))
			deleted = records[i].type == MAILBOX_LOG_DELETE_MAILBOX;
	}
	free(records);
	return deleted ? keep(user, MAILBOX_LOG_CREATE_DIRECTORY, mailbox, time, err) : 0;
}
