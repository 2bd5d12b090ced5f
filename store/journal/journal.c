/* The journal, dsyncfs's side: opening, closing, and what serving threads call. The commit thread
 * is in journal_commit.c. See journal.h. */
#include "store/journal/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/clock.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/journal/journal_private.h"
#include "store/journal/removal_ring.h"
#include "store/journal/slot_file.h"

struct journal_limits journal_limits = {
	.queue_count = 50000,
	.queue_bytes = 16 << 20,
	.events_max = 200000,
	.evidence_max = 2000000,
};

/* ---- opening ---- */

static int open_dirs(struct journal *journal, const char *state_dir, struct error *err)
{
	AUTO_CLOSE int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int len = snprintf(journal->state_dir, sizeof journal->state_dir, "%s", state_dir);
	int rc;

	if (state_dir[0] != '/' || len >= (int)sizeof journal->state_dir - 32)
		return error_set(err, -EINVAL, "state_dir %s: not an absolute path", state_dir);
	journal->state_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (journal->state_fd < 0 && errno == ENOENT && root >= 0) {
		rc = file_mkdirs_beneath(root, state_dir + 1, 0755);
		if (rc < 0)
			return error_errno(err, rc, "state_dir %s: cannot make it", state_dir);
		journal->state_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	}
	if (journal->state_fd < 0)
		return error_errno(err, -errno, "state_dir %s", state_dir);
	if (mkdirat(journal->state_fd, "journal", 0700) < 0 && errno != EEXIST)
		return error_errno(err, -errno, "state_dir %s: cannot make journal/", state_dir);
	journal->dir_fd = openat(journal->state_fd, "journal",
				 O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (journal->dir_fd < 0)
		return error_errno(err, -errno, "%s/journal", state_dir);
	return 0;
}

/* Two writers would each believe the sequence to be theirs. */
static int take_lock(struct journal *journal, struct error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
	char text[64];
	int len;

	journal->lock_fd = openat(journal->dir_fd, JOURNAL_LOCK,
				  O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (journal->lock_fd < 0)
		return error_errno(err, -errno, "%s/journal/" JOURNAL_LOCK, journal->state_dir);
	if (fcntl(journal->lock_fd, F_OFD_SETLK, &lock) < 0) {
		ssize_t n = pread(journal->lock_fd, text, sizeof text - 1, 0);

		text[n > 0 ? n : 0] = '\0';
		text[strcspn(text, " ")] = '\0';
		return error_set(err, -EBUSY,
				 "%s/journal: another dsyncfs writes it (process %s); each mount "
				 "needs a state_dir of its own",
				 journal->state_dir, n > 0 ? text : "unknown");
	}
	len = snprintf(text, sizeof text, "%d %lld", (int)getpid(),
		       (long long)clock_ms(CLOCK_BOOTTIME));
	if (ftruncate(journal->lock_fd, 0) < 0 ||
	    pwrite(journal->lock_fd, text, (size_t)len, 0) < 0)
		log_debug("%s/journal/" JOURNAL_LOCK ": cannot write the process id: %s",
			  journal->state_dir, strerror(errno));
	return 0;
}

static struct journal_dirty *dirty_new(const char *home, const char *dir)
{
	size_t home_len = strlen(home), dir_len = strlen(dir);
	struct journal_dirty *dirty = calloc(1, sizeof *dirty + home_len + dir_len + 2);

	if (!dirty)
		return NULL;
	memcpy(dirty->home, home, home_len + 1);
	memcpy(dirty->home + home_len + 1, dir, dir_len + 1);
	dirty->dir = dirty->home + home_len + 1;
	journal_dirty_key(home, dir, &dirty->key);
	return dirty;
}

static int load_dirty(struct journal *journal, MDB_txn *txn)
{
	char home[JOURNAL_STRING_MAX + 1], dir[JOURNAL_STRING_MAX + 1];
	MDB_cursor *cursor;
	MDB_val key, value;
	int rc = mdb_cursor_open(txn, journal->env.dbi[JOURNAL_DIRTY], &cursor);

	if (rc)
		return rc;
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		struct journal_dirty *dirty;

		if (journal_dirty_decode(&value, home, dir) < 0) {
			rc = MDB_CORRUPTED;
			break;
		}
		dirty = dirty_new(home, dir);
		if (!dirty) {
			rc = ENOMEM;
			break;
		}
		dirty->of_last_run = true;
		HASH_ADD(hh, journal->dirty, key, sizeof dirty->key, dirty);
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

/* Into memory, where nothing that happens to the environment touches them. */
static int load_stamps(struct journal *journal, MDB_txn *txn)
{
	char home[JOURNAL_STRING_MAX + 1], dir[JOURNAL_STRING_MAX + 1];
	MDB_cursor *cursor;
	MDB_val key, value;
	int rc = mdb_cursor_open(txn, journal->env.dbi[JOURNAL_STAMPS], &cursor);

	if (rc)
		return rc;
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		struct journal_stamp stamp;

		if (journal_stamp_decode(&value, home, dir, &stamp) < 0) {
			rc = MDB_CORRUPTED;
			break;
		}
		buf_append(&journal->stamps, stamp.bytes, sizeof stamp.bytes);
		buf_append(&journal->stamps, home, strlen(home) + 1);
		buf_append(&journal->stamps, dir, strlen(dir) + 1);
	}
	mdb_cursor_close(cursor);
	if (journal->stamps.failed)
		return ENOMEM;
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int get_meta(struct journal *journal, MDB_txn *txn, const char *name, MDB_val *value_r)
{
	MDB_val key = {strlen(name), (void *)(uintptr_t)name};

	return mdb_get(txn, journal->env.dbi[JOURNAL_META], &key, value_r);
}

/* The last seq is kept apart from the events, which are pruned: it must not be used again. */
static int load_last_seq(struct journal *journal, MDB_txn *txn)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	MDB_stat st;
	int rc = mdb_stat(txn, journal->env.dbi[JOURNAL_EVENTS], &st);

	if (rc)
		return rc;
	journal->entries = st.ms_entries;
	rc = get_meta(journal, txn, "last_seq", &value);
	if (!rc && value.mv_size == 9)
		journal->last_seq = journal_get_u64((const uint8_t *)value.mv_data + 1);
	rc = mdb_cursor_open(txn, journal->env.dbi[JOURNAL_EVENTS], &cursor);
	if (rc)
		return rc;
	rc = mdb_cursor_get(cursor, &key, &value, MDB_LAST);
	if (!rc) {
		uint64_t seq;

		if (journal_seq_decode(&key, &seq) < 0)
			rc = MDB_CORRUPTED;
		else if (seq > journal->last_seq)
			journal->last_seq = seq;
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int load(struct journal *journal, bool *clean_r)
{
	MDB_txn *txn;
	MDB_val value;
	int rc = mdb_txn_begin(journal->env.env, NULL, MDB_RDONLY, &txn);

	if (rc)
		return rc;
	*clean_r = get_meta(journal, txn, "clean", &value) == 0 && value.mv_size == 2 &&
		   ((const uint8_t *)value.mv_data)[1] == 1;
	journal->id_is_new = get_meta(journal, txn, "id", &value) != 0 ||
			     journal_id_decode(&value, &journal->id) < 0;
	rc = load_last_seq(journal, txn);
	if (!rc)
		rc = load_dirty(journal, txn);
	if (!rc)
		rc = load_stamps(journal, txn);
	mdb_txn_abort(txn);
	return rc;
}

/* Marks the journal as in use. On a full disk it starts broken: the marker stands in. */
static int begin_run(struct journal *journal, struct error *err)
{
	static const uint8_t set = 1, unset = 0;
	MDB_txn *txn;
	int rc = mdb_txn_begin(journal->env.env, NULL, 0, &txn);

	if (!rc) {
		rc = journal_put_meta(journal, txn, false);
		if (rc)
			mdb_txn_abort(txn);
		else
			rc = mdb_txn_commit(txn);
	}
	if (!rc) {
		journal->id_is_new = false;
		rc = slot_write(journal->marker_fd, &unset, sizeof unset);
		if (rc < 0)
			return error_errno(err, rc, "%s/journal/%s", journal->state_dir,
					   JOURNAL_MARKER);
		return 0;
	}
	if (lmdb_is_damage(rc))
		return error_set(err, lmdb_errno(rc), "%s: %s", journal->env.dir, mdb_strerror(rc));
	log_error("%s: cannot be written: %s; everything is scanned at the next start unless this "
		  "ends",
		  journal->env.dir, mdb_strerror(rc));
	journal->broken = true;
	rc = slot_write(journal->marker_fd, &set, sizeof set);
	if (rc < 0)
		return error_errno(err, rc, "%s/journal/%s", journal->state_dir, JOURNAL_MARKER);
	return 0;
}

static int open_env(struct journal *journal, bool *clean_r, struct error *err)
{
	char dir[PATH_MAX];
	uint8_t marker[SLOT_PAYLOAD];
	bool fresh, scan_all;
	int rc;

	journal->marker_fd = slot_open(journal->dir_fd, JOURNAL_MARKER);
	if (journal->marker_fd < 0)
		return error_errno(err, journal->marker_fd, "%s/journal/%s", journal->state_dir,
				   JOURNAL_MARKER);
	scan_all = slot_read(journal->marker_fd, marker) < 0 || marker[0] != 0;
	snprintf(dir, sizeof dir, "%.*s/journal/fs", (int)sizeof dir - 16, journal->state_dir);
	rc = lmdb_env_open_writer(dir, &journal_layout, &journal->env, &fresh, err);
	if (rc < 0)
		return rc;
	rc = load(journal, clean_r);
	if (rc)
		return error_set(err, lmdb_errno(rc), "%s: %s", dir, mdb_strerror(rc));
	if (scan_all && !fresh)
		log_warning("%s: the last run could not write everything down: everything will be "
			    "scanned",
			    dir);
	if (scan_all || fresh || journal->id_is_new) {
		guid_generate(&journal->id);
		journal->id_is_new = true;
		*clean_r = false;
	}
	return begin_run(journal, err);
}

static int start_thread(struct journal *journal, struct error *err)
{
	pthread_condattr_t attr;
	sigset_t all, old;
	int rc;

	pthread_mutex_init(&journal->mutex, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&journal->work, &attr);
	pthread_cond_init(&journal->done, &attr);
	pthread_condattr_destroy(&attr);
	/* Signals are the main program's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&journal->thread, NULL, journal_commit_thread, journal);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return rc ? error_errno(err, -rc, "journal: cannot start a thread") : 0;
}

static void journal_release(struct journal *journal)
{
	struct journal_dirty *dirty, *next;

	lmdb_env_close(&journal->env);
	journal_queue_free(&journal->queue);
	buf_free(&journal->stamps);
	HASH_ITER (hh, journal->dirty, dirty, next) {
		HASH_DEL(journal->dirty, dirty);
		free(dirty);
	}
	removal_ring_close(&journal->removals);
	file_close(&journal->wake_fd);
	file_close(&journal->marker_fd);
	file_close(&journal->lock_fd);
	file_close(&journal->dir_fd);
	file_close(&journal->state_fd);
	free(journal);
}

int journal_open(const char *state_dir, struct journal **journal_r, bool *clean_r,
		 struct error *err)
{
	struct journal *journal = calloc(1, sizeof *journal);
	struct error ring_err;
	int rc;

	*journal_r = NULL;
	*clean_r = false;
	if (!journal)
		return error_errno(err, -ENOMEM, "journal");
	journal->state_fd = journal->dir_fd = journal->lock_fd = journal->marker_fd = -1;
	journal->wake_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	journal->stamps = (struct buf)BUF_INIT(SIZE_MAX);
	journal_queue_init(&journal->queue, journal_limits.queue_count, journal_limits.queue_bytes);
	rc = open_dirs(journal, state_dir, err);
	if (rc == 0)
		rc = take_lock(journal, err);
	if (rc == 0)
		rc = open_env(journal, clean_r, err);
	if (rc == 0)
		rc = start_thread(journal, err);
	if (rc == 0 &&
	    removal_ring_open(journal->dir_fd, *clean_r, &journal->removals, &ring_err) < 0)
		log_warning("a crash may hide removals of its last moments: %s/journal/%s",
			    state_dir, ring_err.text);
	if (rc < 0) {
		journal_release(journal);
		return rc;
	}
	journal->recovered = *clean_r;
	*journal_r = journal;
	return 0;
}

void journal_recovered(struct journal *journal)
{
	pthread_mutex_lock(&journal->mutex);
	journal->recovered = true;
	pthread_mutex_unlock(&journal->mutex);
}

void journal_close(struct journal **journal_p)
{
	struct journal *journal = *journal_p;

	*journal_p = NULL;
	if (!journal)
		return;
	pthread_mutex_lock(&journal->mutex);
	journal->stop = true;
	pthread_cond_signal(&journal->work);
	pthread_mutex_unlock(&journal->mutex);
	pthread_join(journal->thread, NULL);
	pthread_cond_destroy(&journal->work);
	pthread_cond_destroy(&journal->done);
	pthread_mutex_destroy(&journal->mutex);
	journal_release(journal);
}

/* ---- what serving threads call ---- */

void journal_renew(struct journal *journal)
{
	pthread_mutex_lock(&journal->mutex);
	journal->renew = journal->urgent = true;
	pthread_cond_signal(&journal->work);
	pthread_mutex_unlock(&journal->mutex);
}

/* Under the mutex. */
static void set_due(struct journal *journal, unsigned wait_ms)
{
	struct timespec due = journal_later(wait_ms);

	if (journal->urgent || (journal->has_due && !journal_is_before(&due, &journal->due)))
		return;
	journal->has_due = true;
	journal->due = due;
	pthread_cond_signal(&journal->work);
}

uint64_t journal_push(struct journal *journal, const struct mail_event *event, unsigned wait_ms)
{
	return journal_push_removal(journal, event, wait_ms, 0);
}

uint64_t journal_push_removal(struct journal *journal, const struct mail_event *event,
			      unsigned wait_ms, uint64_t removal)
{
	uint64_t ticket;

	pthread_mutex_lock(&journal->mutex);
	ticket = journal_queue_event(&journal->queue, event, journal->next_ticket + 1, removal);
	if (ticket > journal->next_ticket)
		journal->next_ticket = ticket;
	if (wait_ms > 0 && !journal->queue.lost_all) {
		set_due(journal, wait_ms);
	} else if (!journal->urgent) {
		journal->urgent = true;
		pthread_cond_signal(&journal->work);
	}
	pthread_mutex_unlock(&journal->mutex);
	return ticket;
}

static struct journal_dirty *find_dirty(struct journal *journal, const char *home, const char *dir)
{
	struct journal_dirty *dirty;
	struct journal_key key;

	journal_dirty_key(home, dir, &key);
	HASH_FIND(hh, journal->dirty, &key, sizeof key, dirty);
	return dirty;
}

/* Under the mutex. 0: nothing has to be waited for. */
static uint64_t dirty_begin(struct journal *journal, const char *home, const char *dir)
{
	struct journal_dirty *dirty = find_dirty(journal, home, dir);
	uint64_t ticket;

	if (dirty)
		return dirty->ticket > journal->durable_ticket ? dirty->ticket : 0;
	dirty = dirty_new(home, dir);
	ticket = journal->next_ticket + 1;
	if (!dirty || journal_queue_dirty(&journal->queue, home, dir, ticket) < 0) {
		/* No memory, or no mailbox's path: readers are told to scan everything. */
		free(dirty);
		journal->queue.lost_all = journal->urgent = true;
		pthread_cond_signal(&journal->work);
		return 0;
	}
	dirty->ticket = journal->next_ticket = ticket;
	HASH_ADD(hh, journal->dirty, key, sizeof dirty->key, dirty);
	if (!journal->urgent) {
		journal->urgent = true;
		pthread_cond_signal(&journal->work);
	}
	return ticket;
}

uint64_t journal_dirty_begin(struct journal *journal, const char *home, const char *dir)
{
	uint64_t ticket;

	pthread_mutex_lock(&journal->mutex);
	ticket = dirty_begin(journal, home, dir);
	if (journal->broken)
		ticket = 0;
	pthread_mutex_unlock(&journal->mutex);
	return ticket;
}

void journal_wait(struct journal *journal, uint64_t ticket)
{
	if (ticket == 0)
		return;
	pthread_mutex_lock(&journal->mutex);
	journal->waiters++;
	/* Nothing queued: it is being written. Urgent means that the thread knows of what is
	 * queued, so without anything it must not be said: the next to queue something would not
	 * wake it. */
	if (journal->durable_ticket < ticket && journal->queue.head && !journal->urgent) {
		journal->urgent = true;
		pthread_cond_signal(&journal->work);
	}
	while (journal->durable_ticket < ticket && !journal->broken && !journal->stop)
		pthread_cond_wait(&journal->done, &journal->mutex);
	journal->waiters--;
	pthread_mutex_unlock(&journal->mutex);
}

void journal_clean(struct journal *journal, const char *home, const char *dir,
		   const struct journal_stamp *stamp)
{
	struct journal_dirty *dirty;

	pthread_mutex_lock(&journal->mutex);
	dirty = find_dirty(journal, home, dir);
	/* It stays in the set when there is no memory: one scan more. Nobody waits for this, so it
	   waits for company. */
	if (journal_queue_clean(&journal->queue, home, dir, stamp) == 0) {
		if (dirty)
			HASH_DEL(journal->dirty, dirty);
		free(dirty);
		pthread_cond_signal(&journal->work);
	}
	pthread_mutex_unlock(&journal->mutex);
}

int journal_each_stamp(struct journal *journal, journal_stamp_fn *each, void *ctx)
{
	const char *end = journal->stamps.data + journal->stamps.len;
	int rc = 0;

	for (const char *p = journal->stamps.data; p < end && rc == 0;) {
		const struct journal_stamp *stamp = (const struct journal_stamp *)p;
		const char *home = p + sizeof *stamp, *dir = home + strlen(home) + 1;

		rc = each(ctx, home, dir, stamp);
		p = dir + strlen(dir) + 1;
	}
	buf_free(&journal->stamps);
	return rc;
}

uint64_t journal_removal_ahead(struct journal *journal, const struct mail_event *event)
{
	return removal_ring_put(journal->removals, event);
}

void journal_removal_failed(struct journal *journal, uint64_t removal)
{
	removal_ring_forget(journal->removals, removal);
}

void journal_each_removal(const struct journal *journal, journal_removal_fn *each, void *ctx)
{
	removal_ring_each(journal->removals, each, ctx);
}

int journal_each_dirty(struct journal *journal, journal_dirty_fn *each, void *ctx,
		       struct error *err)
{
	AUTO_BUF struct buf names = BUF_INIT(SIZE_MAX);
	struct journal_dirty *dirty, *next;
	int rc = 0;

	/* A copy, so that each() may call back. */
	pthread_mutex_lock(&journal->mutex);
	HASH_ITER (hh, journal->dirty, dirty, next) {
		if (!dirty->of_last_run)
			continue;
		buf_append(&names, dirty->home, strlen(dirty->home) + 1);
		buf_append(&names, dirty->dir, strlen(dirty->dir) + 1);
	}
	pthread_mutex_unlock(&journal->mutex);
	if (names.failed)
		return error_errno(err, names.failed, "journal: dirty mailboxes");
	for (const char *home = names.data, *end = home + names.len; home < end && rc == 0;) {
		const char *dir = home + strlen(home) + 1;

		rc = each(ctx, home, dir);
		home = dir + strlen(dir) + 1;
	}
	return rc;
}
