/*
 * Making, replacing and rotating logs (reference 3.4), and deciding when that is due.
 */
#include "store/index/index_files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/owned_file.h"
#include "store/index/index_private.h"

#define SNAPSHOT_LOG_BYTES (128U << 10)
#define ROTATE_BYTES	   (1U << 20)
/* .newlock is a dotlock that becomes the log. It does not say whose it is. Its maker writes to it
 * at once; an empty one is what a mount leaves that died before it could tell the maker of it. */
#define NEWLOCK_STALE_SECS	 180
#define NEWLOCK_STALE_SOON_SECS	 8
#define NEWLOCK_STALE_KNOWN_SECS 2
#define NEWLOCK_WAIT_MS		 10000
#define NEWLOCK_POLL_MS		 20

/* Who else may have made a .newlock that is there. */
enum newlock_rival {
	NEWLOCK_BY_ANYBODY,
	NEWLOCK_BY_THE_DEAD,	/* most likely: the holder of another lock died */
	NEWLOCK_BY_NO_ROTATION, /* that needs the log's lock, which is ours */
};

int index_file_create(int dirfd, const char *name, int *fd_r)
{
	int fd = owned_file_create(dirfd, name, O_RDWR | O_APPEND | O_EXCL);

	*fd_r = fd < 0 ? -1 : fd;
	return fd < 0 ? fd : 0;
}

static bool newlock_is_stale(int dirfd, const char *name, enum newlock_rival rival)
{
	struct stat st;
	time_t stale = NEWLOCK_STALE_SECS;

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	if (rival == NEWLOCK_BY_THE_DEAD) /* or is it Dovecot's, who needs no other lock for it? */
		stale = NEWLOCK_STALE_KNOWN_SECS;
	else if (st.st_size == 0 || rival == NEWLOCK_BY_NO_ROTATION)
		stale = NEWLOCK_STALE_SOON_SECS;

	return st.st_mtime + stale < time(NULL) && st.st_ctime + stale < time(NULL);
}

/* Waits for another maker, and takes over from one that died. Under the log's lock there is next to
 * no waiting: others wait for that. label: the directory, for messages. */
static int newlock_create(int dirfd, const char *label, const char *name, enum newlock_rival rival,
			  int *fd_r, struct error *err)
{
	const struct timespec pause = {.tv_nsec = NEWLOCK_POLL_MS * 1000000L};
	int wait_ms = rival == NEWLOCK_BY_NO_ROTATION ? NEWLOCK_POLL_MS : NEWLOCK_WAIT_MS;
	int ret;

	for (int waited_ms = 0; waited_ms <= wait_ms; waited_ms += NEWLOCK_POLL_MS) {
		ret = index_file_create(dirfd, name, fd_r);
		if (ret == 0)
			return 0;
		if (ret != -EEXIST)
			return error_errno(err, ret, "%s/%s: create", label, name);
		if (newlock_is_stale(dirfd, name, rival)) {
			unlinkat(dirfd, name, 0);
			continue;
		}
		nanosleep(&pause, NULL);
	}
	return error_set(err, -EAGAIN,
			 "%s/%s: somebody is making a log, or died while he did (it is taken over "
			 "after %d s)",
			 label, name, NEWLOCK_STALE_SECS);
}

struct new_log {
	uint32_t indexid, file_seq, prev_file_seq, prev_file_offset;
	uint64_t initial_modseq;
	uint32_t uid_validity, next_uid; /* 0: no record */
	bool synced;
};

#define HEADER_RECORD_SIZE 16

static void put_header_record(struct buf *buf, uint16_t offset, uint32_t value)
{
	uint8_t record[HEADER_RECORD_SIZE];

	index_size_encode(sizeof(record), record);
	index_put32(record + 4, LOG_HEADER_UPDATE | LOG_EXTERNAL);
	index_put16(record + 8, offset);
	index_put16(record + 10, 4);
	index_put32(record + 12, value);
	buf_append(buf, record, sizeof(record));
}

static int new_log_write(int fd, const struct new_log *new_log)
{
	AUTO_BUF struct buf buf = BUF_INIT(256);
	uint8_t hdr[LOG_HDR_SIZE] = {LOG_MAJOR_VERSION, LOG_MINOR_VERSION};
	uint8_t boundary[LOG_BOUNDARY_SIZE];
	int ret;

	index_put16(hdr + LOG_HDR_OFF_HDR_SIZE, LOG_HDR_SIZE);
	index_put32(hdr + LOG_HDR_OFF_INDEXID, new_log->indexid);
	index_put32(hdr + LOG_HDR_OFF_SEQ, new_log->file_seq);
	index_put32(hdr + LOG_HDR_OFF_PREV_SEQ, new_log->prev_file_seq);
	index_put32(hdr + LOG_HDR_OFF_PREV_OFFSET, new_log->prev_file_offset);
	index_put32(hdr + LOG_HDR_OFF_CREATED, (uint32_t)time(NULL));
	index_put64(hdr + LOG_HDR_OFF_INITIAL_MODSEQ, new_log->initial_modseq);
	hdr[LOG_HDR_OFF_COMPAT] = INDEX_COMPAT_LITTLE_ENDIAN;
	buf_append(&buf, hdr, sizeof(hdr));
	if (new_log->uid_validity != 0 && new_log->next_uid > 1) {
		index_size_encode(sizeof(boundary), boundary);
		index_put32(boundary + 4, LOG_BOUNDARY | LOG_EXTERNAL);
		index_put32(boundary + 8, LOG_BOUNDARY_SIZE + 2 * HEADER_RECORD_SIZE);
		buf_append(&buf, boundary, sizeof(boundary));
	}
	if (new_log->uid_validity != 0)
		put_header_record(&buf, HDR_UID_VALIDITY, new_log->uid_validity);
	if (new_log->next_uid > 1)
		put_header_record(&buf, HDR_NEXT_UID, new_log->next_uid);
	if (new_log->synced)
		put_header_record(&buf, HDR_LOG_TAIL, (uint32_t)buf.len + HEADER_RECORD_SIZE);
	if (buf.failed != 0)
		return buf.failed;
	ret = file_write_all(fd, buf.data, buf.len);
	if (ret == 0 && fdatasync(fd) < 0)
		ret = -errno;
	return ret;
}

/* What is to be replaced: a sequence above all that exists, and the identity while it can be read.
 * A log that can be opened is locked until *fd_r is closed, so that nobody appends to what goes
 * away. */
static int replaced_identity(int dirfd, const struct index_options *options, const char *name,
			     struct new_log *new_log, struct index_log *log_r, struct error *err)
{
	const char *label = options->label != NULL ? options->label : "";
	struct index_snapshot snapshot;
	char file[NAME_MAX + 1];
	int ret;

	snprintf(file, sizeof(file), "%s.log", name);
	ret = index_log_open(dirfd, label, file, true, log_r, NULL);
	if (ret == 0) {
		if (log_r->writable && !options->locked) {
			ret = index_lock_fd(options->lock_method, log_r->fd, -1);
			if (ret < 0)
				return error_errno(err, ret, "%s: lock", log_r->name);
		}
		new_log->indexid = log_r->indexid;
		new_log->file_seq = log_r->file_seq + 1;
	}
	if (index_snapshot_open(dirfd, label, name, &snapshot, NULL) == 0) {
		uint32_t seq = index_get32(snapshot.data + HDR_LOG_SEQ);

		if (seq >= new_log->file_seq)
			new_log->file_seq = seq + 1;
		index_snapshot_close(&snapshot);
	}
	if (new_log->file_seq == 0)
		return error_set(err, -EOVERFLOW, "%s/%s.log: no file sequence is left", label,
				 name);
	return 0;
}

static void remove_replaced(int dirfd, const char *name)
{
	static const char *const suffixes[] = {"", ".log.2", ".backup"};
	char file[NAME_MAX + 1];

	for (size_t i = 0; i < sizeof(suffixes) / sizeof(suffixes[0]); i++) {
		snprintf(file, sizeof(file), "%s%s", name, suffixes[i]);
		unlinkat(dirfd, file, 0);
	}
}

static int create_locked(int dirfd, const struct index_options *options, const char *name,
			 const struct index_create *create, int fd, struct error *err)
{
	const char *label = options->label != NULL ? options->label : "";
	struct new_log new_log = {
		.indexid = (uint32_t)time(NULL),
		.file_seq = 2,
		.initial_modseq = create->initial_modseq > 0 ? create->initial_modseq : 1,
		.uid_validity = create->uid_validity,
		.next_uid = create->next_uid,
		.synced = create->synced,
	};
	struct index_log old = INDEX_LOG_INIT;
	char file[NAME_MAX + 1], newlock[NAME_MAX + 1];
	struct stat st;
	int ret = 0;

	snprintf(file, sizeof(file), "%s.log", name);
	snprintf(newlock, sizeof(newlock), "%s.log.newlock", name);
	if (create->replace) {
		ret = replaced_identity(dirfd, options, name, &new_log, &old, err);
	} else if (fstatat(dirfd, file, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		return error_set(err, -EEXIST, "%s/%s: exists already", label, file);
	}
	if (ret == 0) {
		ret = new_log_write(fd, &new_log);
		if (ret < 0)
			error_errno(err, ret, "%s/%s: write", label, newlock);
	}
	if (ret == 0 && renameat(dirfd, newlock, dirfd, file) < 0)
		ret = error_errno(err, -errno, "%s/%s: rename", label, file);
	if (ret == 0 && create->replace)
		remove_replaced(dirfd, name);
	if (ret == 0) {
		ret = file_sync_dir(dirfd, ".");
		if (ret < 0)
			error_errno(err, ret, "%s: fsync of the directory", label);
	}
	index_log_close(&old);
	return ret;
}

/* The new log gets the identity of what it replaces. */
static int take_identity(int dirfd, const char *log, const struct new_log *identity)
{
	AUTO_CLOSE int fd = openat(dirfd, log, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	uint8_t value[4];
	int ret;

	if (fd < 0)
		return -errno;
	index_put32(value, identity->indexid);
	ret = file_pwrite_all(fd, value, sizeof(value), LOG_HDR_OFF_INDEXID);
	index_put32(value, identity->file_seq);
	if (ret == 0)
		ret = file_pwrite_all(fd, value, sizeof(value), LOG_HDR_OFF_SEQ);
	if (ret == 0 && fdatasync(fd) < 0)
		ret = -errno;
	return ret;
}

static int adopt_locked(int dirfd, const struct index_options *options, const char *name,
			const char *from, struct error *err)
{
	const char *label = options->label != NULL ? options->label : "";
	struct new_log identity = {.indexid = (uint32_t)time(NULL), .file_seq = 2};
	struct index_log old = INDEX_LOG_INIT;
	char file[NAME_MAX + 1], log[NAME_MAX + 1];
	int ret = replaced_identity(dirfd, options, name, &identity, &old, err);

	snprintf(file, sizeof(file), "%s.log", name);
	snprintf(log, sizeof(log), "%s.log", from);
	if (ret == 0) {
		ret = take_identity(dirfd, log, &identity);
		if (ret == 0 && renameat(dirfd, log, dirfd, file) < 0)
			ret = -errno;
		if (ret == 0) {
			remove_replaced(dirfd, name);
			ret = file_sync_dir(dirfd, ".");
		}
		if (ret < 0)
			error_errno(err, ret, "%s/%s: being put in the place of %s", label, log,
				    file);
	}
	index_log_close(&old);
	return ret;
}

int index_adopt(int dirfd, const struct index_options *options, const char *from, struct error *err)
{
	const char *name = options->name != NULL ? options->name : INDEX_NAME_MAIL;
	const char *label = options->label != NULL ? options->label : "";
	char newlock[NAME_MAX + 1];
	int fd, ret;

	/* Nobody else makes a log meanwhile. */
	snprintf(newlock, sizeof(newlock), "%s.log.newlock", name);
	ret = newlock_create(dirfd, label, newlock, NEWLOCK_BY_ANYBODY, &fd, err);
	if (ret < 0)
		return ret;
	close(fd);
	ret = adopt_locked(dirfd, options, name, from, err);
	unlinkat(dirfd, newlock, 0);
	return ret;
}

void index_discard(int dirfd, const char *name)
{
	char log[NAME_MAX + 1];

	snprintf(log, sizeof(log), "%s.log", name);
	unlinkat(dirfd, log, 0);
}

int index_create(int dirfd, const struct index_options *options, const struct index_create *create,
		 struct error *err)
{
	const char *name = options->name != NULL ? options->name : INDEX_NAME_MAIL;
	const char *label = options->label != NULL ? options->label : "";
	char newlock[NAME_MAX + 1];
	struct stat mine, there;
	int fd, ret;

	snprintf(newlock, sizeof(newlock), "%s.log.newlock", name);
	ret = newlock_create(dirfd, label, newlock,
			     create->maker_died ? NEWLOCK_BY_THE_DEAD : NEWLOCK_BY_ANYBODY, &fd,
			     err);
	if (ret < 0)
		return ret;
	ret = create_locked(dirfd, options, name, create, fd, err);
	/* Gone by the rename, unless it failed; then it must not stay as a lock. */
	if (ret < 0 && fstat(fd, &mine) == 0 &&
	    fstatat(dirfd, newlock, &there, AT_SYMLINK_NOFOLLOW) == 0 &&
	    mine.st_ino == there.st_ino && mine.st_dev == there.st_dev)
		unlinkat(dirfd, newlock, 0);
	close(fd);
	return ret;
}

static int lock_for_files(struct index *index, int timeout_ms, struct error *err)
{
	struct index_status status;
	int ret;

	if (index->read_only)
		return error_set(err, -EROFS, "%s: opened for reading only", index_text(index));
	if (index->locked)
		return error_set(err, -EBUSY, "%s: a transaction is open", index_text(index));
	ret = index_lock(index, timeout_ms, err);
	if (ret < 0)
		return ret;
	index_status(index, &status);
	if (status.deleted)
		ret = error_set(err, -ESTALE, "%s: the mailbox is being deleted",
				index_text(index));
	else if (status.pending)
		ret = error_set(err, -EBUSY, "%s: requests are pending", index_text(index));
	if (ret < 0)
		index_unlock(index);
	return ret;
}

int index_write_snapshot(struct index *index, int timeout_ms, struct error *err)
{
	int ret = lock_for_files(index, timeout_ms, err);

	if (ret < 0)
		return ret;
	ret = index_snapshot_write(index, err);
	index_unlock(index);
	return ret;
}

/* Puts the new log in the old one's place. The old one stays as .log.2. */
static int rotate_names(const struct index *index, const char *newlock, struct error *err)
{
	char log[NAME_MAX + 1], older[NAME_MAX + 1];

	index_file_name(index, ".log", log, sizeof(log));
	index_file_name(index, ".log.2", older, sizeof(older));
	if (unlinkat(index->dirfd, older, 0) < 0 && errno != ENOENT)
		return error_errno(err, -errno, "%s.2: unlink", index_text(index));
	if (linkat(index->dirfd, log, index->dirfd, older, 0) < 0)
		return error_errno(err, -errno, "%s.2: link", index_text(index));
	if (renameat(index->dirfd, newlock, index->dirfd, log) < 0)
		return error_errno(err, -errno, "%s: rename", index_text(index));
	return 0;
}

static int rotate_locked(struct index *index, struct index_log *next_r, struct error *err)
{
	struct new_log new_log = {
		.indexid = index->log.indexid,
		.file_seq = index->log.file_seq + 1,
		.prev_file_seq = index->log.file_seq,
		.prev_file_offset = (uint32_t)index->state.offset,
		.initial_modseq = index->state.counter.modseq,
	};
	char newlock[NAME_MAX + 1];
	int fd, ret;

	index_file_name(index, ".log.newlock", newlock, sizeof(newlock));
	ret = newlock_create(index->dirfd, index->label, newlock, NEWLOCK_BY_NO_ROTATION, &fd, err);
	if (ret < 0)
		return ret;
	ret = new_log_write(fd, &new_log);
	close(fd);
	if (ret < 0)
		error_errno(err, ret, "%s.newlock: write", index_text(index));
	if (ret == 0)
		ret = index_log_open(index->dirfd, index->label, newlock, true, next_r, err);
	if (ret == 0) {
		/* Nobody knows it yet, so this does not wait. */
		ret = index_lock_fd(index->lock_method, next_r->fd, 0);
		if (ret < 0)
			error_errno(err, ret, "%s.newlock: lock", index_text(index));
		else
			ret = rotate_names(index, newlock, err);
	}
	if (ret < 0) {
		index_log_close(next_r);
		unlinkat(index->dirfd, newlock, 0);
	}
	return ret;
}

/* Whether the view can be had without .log.2, which a rotation removes. The snapshot after the last
 * rotation may have failed. */
static bool older_log_is_spare(const struct index *index)
{
	struct index_snapshot snapshot;
	bool spare;
	int ret = index_snapshot_open(index->dirfd, index->label, index->name, &snapshot, NULL);

	if (ret < 0) /* the first log begins with nothing */
		return ret == -ENOENT && index->log.prev_file_seq == 0;
	spare = index_get32(snapshot.data + HDR_LOG_SEQ) == index->log.file_seq;
	index_snapshot_close(&snapshot);
	return spare;
}

int index_rotate(struct index *index, int timeout_ms, struct error *err)
{
	struct index_log next = INDEX_LOG_INIT;
	int ret = lock_for_files(index, timeout_ms, err);

	if (ret < 0)
		return ret;
	if (index->log.file_seq == UINT32_MAX)
		ret = error_set(err, -EOVERFLOW, "%s: no file sequence is left", index_text(index));
	else if (!older_log_is_spare(index))
		ret = index_snapshot_write(index, err);
	if (ret == 0)
		ret = rotate_locked(index, &next, err);
	if (ret < 0) {
		index_unlock(index);
		return ret;
	}
	/* Closing the old one gives its lock up; the new one is locked until the snapshot is there.
	 */
	index_log_close(&index->log);
	snprintf(next.name, sizeof(next.name), "%s%s%s.log", index->label,
		 index->label[0] != '\0' ? "/" : "", index->name);
	index->log = next;
	index->state.offset = index->log.hdr_size;
	index->state.tail = index->log.hdr_size;
	index->state.pending_offset = 0;
	index_put32(index->state.hdr + HDR_LOG2_ROTATE_TIME, (uint32_t)time(NULL));
	ret = index_snapshot_write(index, err);
	index_unlock(index);
	return ret;
}

int index_housekeep(struct index *index, int timeout_ms, struct error *err)
{
	int ret = 0;

	if (!index->usable || index->read_only)
		return 0;
	if (index->state.offset > ROTATE_BYTES)
		ret = index_rotate(index, timeout_ms, err);
	else if (index->state.replayed > SNAPSHOT_LOG_BYTES)
		ret = index_write_snapshot(index, timeout_ms, err);
	/* Another time will do as well: it is busy, or somebody has to finish something first. */
	return ret == -EAGAIN || ret == -EBUSY || ret == -ESTALE ? 0 : ret;
}
