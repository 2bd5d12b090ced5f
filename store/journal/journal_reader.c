/*
 * dsyncfs's journal as dsyncd reads it: in short transactions, copied out before anybody is called.
 * dsyncfs may move a damaged environment aside and make a new one at any time; each call looks
 * whether the file is still the one that is open. See journal.h.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/journal/journal_private.h"

/* One answer of journal_reader_each() holds at most this many bytes of names. */
#define READ_BYTES_MAX ((size_t)1 << 20)

struct journal_reader {
	char dir[PATH_MAX];
	struct lmdb_env env;
	int wake_fd;
};

/* The datagram socket that dsyncfs wakes us by. Without it everything works, by polling. */
static int bind_wake(const char *state_dir)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};
	int len = snprintf(addr.sun_path, sizeof addr.sun_path, "%s/%s", state_dir, JOURNAL_WAKE);
	AUTO_CLOSE int dir_fd = -1;
	int fd;

	if (len >= (int)sizeof addr.sun_path) {
		dir_fd = open(state_dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
		snprintf(addr.sun_path, sizeof addr.sun_path, "/proc/self/fd/%d/%s", dir_fd,
			 JOURNAL_WAKE);
	}
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -1;
	unlink(addr.sun_path); /* of a reader before us */
	if (bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0) {
		log_warning("%s/%s: cannot be bound: %s; changes are found by polling", state_dir,
			    JOURNAL_WAKE, strerror(errno));
		close(fd);
		return -1;
	}
	if (chmod(addr.sun_path, 0600) < 0)
		log_debug("%s: chmod: %s", addr.sun_path, strerror(errno));
	return fd;
}

int64_t journal_writer_began(const char *state_dir)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char path[PATH_MAX], text[64] = "";
	AUTO_CLOSE int fd = -1;
	long long began;

	if (snprintf(path, sizeof path, "%s/journal/" JOURNAL_LOCK, state_dir) >= (int)sizeof path)
		return -1;
	fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fcntl(fd, F_OFD_GETLK, &lock) < 0 || lock.l_type == F_UNLCK)
		return -1;
	if (pread(fd, text, sizeof text - 1, 0) < 0 || !strchr(text, ' '))
		return 0;
	began = strtoll(strchr(text, ' '), NULL, 10);
	return began > 0 ? began : 0;
}

bool journal_has_writer(const char *state_dir)
{
	return journal_writer_began(state_dir) >= 0;
}

int journal_reader_open(const char *state_dir, struct journal_reader **reader_r, struct error *err)
{
	struct journal_reader *reader = calloc(1, sizeof *reader);
	int rc;

	*reader_r = NULL;
	if (!reader)
		return error_errno(err, -ENOMEM, "journal");
	reader->wake_fd = -1;
	rc = snprintf(reader->dir, sizeof reader->dir, "%s/journal/fs", state_dir);
	rc = rc < (int)sizeof reader->dir
		     ? lmdb_env_open_reader(reader->dir, &journal_layout, &reader->env, err)
		     : error_set(err, -ENAMETOOLONG, "state_dir %s: too long", state_dir);
	if (rc < 0) {
		free(reader);
		return rc;
	}
	reader->wake_fd = bind_wake(state_dir);
	*reader_r = reader;
	return 0;
}

void journal_reader_close(struct journal_reader **reader)
{
	if (!*reader)
		return;
	lmdb_env_close(&(*reader)->env);
	file_close(&(*reader)->wake_fd);
	free(*reader);
	*reader = NULL;
}

int journal_reader_wake_fd(const struct journal_reader *reader)
{
	return reader->wake_fd;
}

void journal_reader_drain(struct journal_reader *reader)
{
	char byte[16];

	while (reader->wake_fd >= 0 && recv(reader->wake_fd, byte, sizeof byte, MSG_DONTWAIT) > 0)
		;
}

static int begin(struct journal_reader *reader, MDB_txn **txn_r, struct error *err)
{
	int rc;

	if (reader->env.env && lmdb_env_replaced(&reader->env))
		lmdb_env_close(&reader->env);
	for (int attempt = 0;; attempt++) {
		if (!reader->env.env) {
			rc = lmdb_env_open_reader(reader->dir, &journal_layout, &reader->env, err);
			if (rc < 0)
				return rc;
		}
		rc = mdb_txn_begin(reader->env.env, NULL, MDB_RDONLY, txn_r);
		if (!rc)
			return 0;
		if (attempt > 0)
			break;
		/* The writer doubled the map (MDB_MAP_RESIZED), or the lock file was cleared under
		   us: opening again sets either right. */
		lmdb_env_close(&reader->env);
	}
	return error_set(err, lmdb_errno(rc), "journal %s: %s", reader->dir, mdb_strerror(rc));
}

int journal_reader_id(struct journal_reader *reader, struct guid *id_r, struct error *err)
{
	char name[] = "id";
	MDB_val key = {strlen(name), name}, value;
	MDB_txn *txn;
	int rc = begin(reader, &txn, err);

	if (rc < 0)
		return rc;
	rc = mdb_get(txn, reader->env.dbi[JOURNAL_META], &key, &value);
	if (!rc && journal_id_decode(&value, id_r) < 0)
		rc = MDB_CORRUPTED;
	mdb_txn_abort(txn);
	if (rc)
		return error_set(err, lmdb_errno(rc), "journal %s: id: %s", reader->dir,
				 mdb_strerror(rc));
	return 0;
}

struct read_events {
	struct mail_event *events;
	size_t *offsets; /* of their strings */
	size_t count;
	struct buf strings;
};

static void read_events_free(struct read_events *read)
{
	free(read->events);
	free(read->offsets);
	buf_free(&read->strings);
}

/* LMDB's code. */
static int copy_events(struct journal_reader *reader, MDB_txn *txn, uint64_t after, size_t max,
		       struct read_events *read)
{
	uint8_t seq[8];
	MDB_val key = {sizeof seq, seq}, value;
	MDB_cursor *cursor;
	size_t size = 0;
	int rc = mdb_cursor_open(txn, reader->env.dbi[JOURNAL_EVENTS], &cursor);

	if (rc)
		return rc;
	journal_seq_encode(after + 1, seq);
	rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
	for (; !rc && read->count < max; rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) {
		if (read->count && read->strings.len + value.mv_size > READ_BYTES_MAX)
			break;
		if (read->count == size) {
			size_t want = size ? size * 2 : 64;
			struct mail_event *events =
				reallocarray(read->events, want, sizeof *events);
			size_t *offsets;

			if (events)
				read->events = events;
			offsets =
				events ? reallocarray(read->offsets, want, sizeof *offsets) : NULL;
			if (!offsets) {
				rc = ENOMEM;
				break;
			}
			read->offsets = offsets;
			size = want;
		}
		if (journal_event_decode(&key, &value, &read->events[read->count],
					 &read->offsets[read->count], &read->strings) < 0) {
			rc = read->strings.failed ? ENOMEM : MDB_CORRUPTED;
			break;
		}
		read->count++;
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int journal_reader_each(struct journal_reader *reader, uint64_t after, size_t max,
			journal_event_fn *each, void *ctx, struct error *err)
{
	struct read_events read = {.strings = BUF_INIT(READ_BYTES_MAX + 2 * JOURNAL_EVENT_MAX)};
	MDB_txn *txn;
	int rc;

	if (after == UINT64_MAX)
		return 0;
	rc = begin(reader, &txn, err);
	if (rc < 0)
		return rc;
	rc = copy_events(reader, txn, after, max, &read);
	mdb_txn_abort(txn);
	if (rc) {
		read_events_free(&read);
		return error_set(err, lmdb_errno(rc), "journal %s: events after %llu: %s",
				 reader->dir, (unsigned long long)after, mdb_strerror(rc));
	}
	for (size_t i = 0; i < read.count && rc == 0; i++) {
		journal_event_point(&read.events[i], read.strings.data + read.offsets[i]);
		rc = each(ctx, &read.events[i]);
	}
	read_events_free(&read);
	return rc;
}
