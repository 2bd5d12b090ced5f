/*
 * The commit thread: takes what the serving threads queued, writes it in one synced transaction,
 * wakes dsyncd, and starts over with what came in the meantime. All trouble with the disk ends
 * here: it is logged once, retried with back-off, and nobody waits for it. See journal.h.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include "store/base/crash_point.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/journal/journal_private.h"
#include "store/journal/removal_ring.h"
#include "store/journal/slot_file.h"

#define GROUP_MAX	   5000
#define CLEAN_DELAY_MS	   1000
#define BACKOFF_MS_MIN	   100
#define BACKOFF_MS_MAX	   5000
#define STOP_ATTEMPTS	   3
#define READER_CHECK_SECS  60
#define DAMAGES_BEFORE_NEW 2

struct timespec journal_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now;
}

struct timespec journal_later(unsigned ms)
{
	struct timespec when = journal_now();

	when.tv_sec += ms / 1000;
	when.tv_nsec += (long)(ms % 1000) * 1000000;
	if (when.tv_nsec >= 1000000000) {
		when.tv_sec++;
		when.tv_nsec -= 1000000000;
	}
	return when;
}

bool journal_is_before(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec < b->tv_sec || (a->tv_sec == b->tv_sec && a->tv_nsec < b->tv_nsec);
}

bool journal_is_past(const struct timespec *when)
{
	struct timespec now = journal_now();

	return !journal_is_before(&now, when);
}

static int put_meta(struct journal *journal, MDB_txn *txn, const char *name, const void *data,
		    size_t len)
{
	uint8_t value[32] = {1};
	MDB_val key = {strlen(name), (void *)(uintptr_t)name}, val = {len + 1, value};

	memcpy(value + 1, data, len);
	return mdb_put(txn, journal->env.dbi[JOURNAL_META], &key, &val, 0);
}

int journal_put_meta(struct journal *journal, MDB_txn *txn, bool clean)
{
	uint8_t seq[8], flag = clean;
	int rc;

	journal_put_u64(seq, journal->last_seq);
	rc = put_meta(journal, txn, "last_seq", seq, sizeof seq);
	if (!rc)
		rc = put_meta(journal, txn, "clean", &flag, sizeof flag);
	if (!rc && journal->id_is_new)
		rc = put_meta(journal, txn, "id", journal->id.bytes, sizeof journal->id.bytes);
	return rc;
}

/* ---- one group ---- */

static int put_event(struct journal *journal, MDB_txn *txn, struct mail_event *event,
		     struct buf *value)
{
	uint8_t seq[8];
	MDB_val key = {sizeof seq, seq}, val;

	buf_clear(value);
	if (journal_event_encode(event, value) < 0)
		return ENOMEM; /* lengths were checked when it was queued */
	/* Never taken back, not even when the commit fails: a seq is not used twice. */
	event->seq = ++journal->last_seq;
	journal_seq_encode(event->seq, seq);
	val.mv_size = value->len;
	val.mv_data = value->data;
	return mdb_put(txn, journal->env.dbi[JOURNAL_EVENTS], &key, &val, MDB_APPEND);
}

static int put_box(struct journal *journal, MDB_txn *txn, enum journal_db db, const char *home,
		   const char *dir, const struct buf *value)
{
	struct journal_key id;
	MDB_val key = {sizeof id, &id}, val = {value->len, value->data};

	journal_dirty_key(home, dir, &id);
	return mdb_put(txn, journal->env.dbi[db], &key, &val, 0);
}

static int del_box(struct journal *journal, MDB_txn *txn, enum journal_db db, const char *home,
		   const char *dir)
{
	struct journal_key id;
	MDB_val key = {sizeof id, &id};
	int rc;

	journal_dirty_key(home, dir, &id);
	rc = mdb_del(txn, journal->env.dbi[db], &key, NULL);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

static int put_dirty(struct journal *journal, MDB_txn *txn, const char *home, const char *dir,
		     struct buf *value)
{
	int rc;

	buf_clear(value);
	if (journal_dirty_encode(home, dir, value) < 0)
		return ENOMEM;
	rc = put_box(journal, txn, JOURNAL_DIRTY, home, dir, value);
	return rc ? rc : del_box(journal, txn, JOURNAL_STAMPS, home, dir);
}

static int put_clean(struct journal *journal, MDB_txn *txn, const struct journal_op *op,
		     struct buf *value)
{
	const char *home = op->event.home, *dir = op->event.dir;
	int rc = del_box(journal, txn, JOURNAL_DIRTY, home, dir);

	if (rc)
		return rc;
	if (!op->has_stamp)
		return del_box(journal, txn, JOURNAL_STAMPS, home, dir);
	buf_clear(value);
	if (journal_stamp_encode(home, dir, &op->stamp, value) < 0)
		return ENOMEM;
	return put_box(journal, txn, JOURNAL_STAMPS, home, dir, value);
}

static int put_ops(struct journal *journal, MDB_txn *txn, struct journal_op *ops)
{
	AUTO_BUF struct buf value = BUF_INIT(JOURNAL_EVENT_MAX);
	int rc = 0;

	for (struct journal_op *op = ops; op && !rc; op = op->next) {
		switch (op->kind) {
		case JOURNAL_OP_EVENT:
			rc = put_event(journal, txn, &op->event, &value);
			break;
		case JOURNAL_OP_DIRTY:
			rc = put_dirty(journal, txn, op->event.home, op->event.dir, &value);
			break;
		case JOURNAL_OP_CLEAN:
			rc = put_clean(journal, txn, op, &value);
			break;
		}
	}
	return rc;
}

/* LMDB's code. */
static int write_group(struct journal *journal, struct journal_op *ops, bool clean)
{
	uint64_t pruned_seq = journal->pruned_seq;
	MDB_txn *txn;
	MDB_stat st;
	int rc = mdb_txn_begin(journal->env.env, NULL, 0, &txn);

	if (rc)
		return rc;
	rc = put_ops(journal, txn, ops);
	if (!rc && journal->prune_to_seq > journal->pruned_seq)
		rc = journal_prune(journal, txn);
	if (!rc)
		rc = journal_put_meta(journal, txn, clean);
	if (!rc)
		rc = mdb_stat(txn, journal->env.dbi[JOURNAL_EVENTS], &st);
	if (rc)
		mdb_txn_abort(txn);
	else {
		crash_point("journal: before a commit");
		rc = mdb_txn_commit(txn);
		crash_point("journal: after a commit");
	}
	if (rc) {
		journal->pruned_seq = pruned_seq;
		return rc;
	}
	journal->entries = st.ms_entries;
	journal->id_is_new = false;
	return 0;
}

/* Nobody listening, or a full socket (then a wake-up is waiting there already), is fine. */
static void wake_dsyncd(struct journal *journal)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	int len = snprintf(to.sun_path, sizeof to.sun_path, "%s/%s", journal->state_dir,
			   JOURNAL_WAKE);

	/* A path that is too long for a socket goes by the descriptor. */
	if (len >= (int)sizeof to.sun_path)
		snprintf(to.sun_path, sizeof to.sun_path, "/proc/self/fd/%d/%s", journal->state_fd,
			 JOURNAL_WAKE);
	sendto(journal->wake_fd, "w", 1, MSG_DONTWAIT | MSG_NOSIGNAL, (struct sockaddr *)&to,
	       sizeof to);
}

/* ---- trouble ---- */

/* The environment that was made anew knows no dirty mailbox: all that are known go in again. */
static int put_all_dirty(struct journal *journal)
{
	AUTO_BUF struct buf value = BUF_INIT(JOURNAL_EVENT_MAX);
	struct journal_dirty *dirty, *next;
	MDB_txn *txn;
	int rc = mdb_txn_begin(journal->env.env, NULL, 0, &txn);

	if (rc)
		return rc;
	pthread_mutex_lock(&journal->mutex);
	HASH_ITER (hh, journal->dirty, dirty, next) {
		if (!rc)
			rc = put_dirty(journal, txn, dirty->home, dirty->dir, &value);
	}
	pthread_mutex_unlock(&journal->mutex);
	if (rc) {
		mdb_txn_abort(txn);
		return rc;
	}
	return mdb_txn_commit(txn);
}

/* Opens again, which looks for damage, moves a damaged environment aside and makes a new one.
 * damaged: LMDB has found some. */
static int reopen(struct journal *journal, bool damaged)
{
	char dir[PATH_MAX];
	struct error err = {0};
	bool fresh;
	int rc;

	snprintf(dir, sizeof dir, "%s", journal->env.dir);
	if (damaged && ++journal->damages >= DAMAGES_BEFORE_NEW) {
		/* It looks sound, but does not work. */
		rc = lmdb_env_discard(&journal->env, &err);
		if (rc < 0)
			log_error("%s", err.text);
	}
	lmdb_env_close(&journal->env);
	rc = lmdb_env_open_writer(dir, &journal_layout, &journal->env, &fresh, &err);
	if (rc < 0) {
		log_error("%s", err.text);
		return rc;
	}
	if (fresh) {
		guid_generate(&journal->id);
		journal->id_is_new = true;
		journal->pruned_seq = journal->prune_to_seq = 0;
		journal->entries = 0;
		return lmdb_errno(put_all_dirty(journal));
	}
	return 0;
}

/* Commits with what help there is. 0 or a negative errno; text_r: why. */
static int commit_group(struct journal *journal, struct journal_op *ops, bool clean,
			const char **text_r)
{
	int rc = 0;

	*text_r = "";
	for (int attempt = 0; attempt < 3; attempt++) {
		if (!journal->env.env && reopen(journal, false) < 0) {
			*text_r = "cannot be opened";
			return -EIO;
		}
		rc = write_group(journal, ops, clean);
		*text_r = rc ? mdb_strerror(rc) : "";
		if (!rc) {
			journal->damages = 0;
			return 0;
		}
		if (rc == MDB_MAP_FULL) {
			if (lmdb_env_grow(&journal->env) < 0)
				break;
		} else if (lmdb_is_damage(rc)) {
			/* A panic is what LMDB makes of a disk that failed it, which was told: it
			 * writes no more until it is opened again. */
			bool damaged = rc != MDB_PANIC;

			if (damaged)
				log_error("%s: %s", journal->env.dir, mdb_strerror(rc));
			rc = reopen(journal, damaged);
			if (rc < 0) {
				*text_r = strerror(-rc);
				return rc;
			}
		} else {
			break;
		}
	}
	return lmdb_errno(rc);
}

static void set_marker(struct journal *journal, bool on)
{
	uint8_t value = on;
	int rc = slot_write(journal->marker_fd, &value, sizeof value);

	if (rc < 0)
		log_error("%s/journal/%s: %s%s", journal->state_dir, JOURNAL_MARKER, strerror(-rc),
			  on ? "; a crash now would leave changes unseen: run a full sync after it"
			     : "");
}

/* ---- the thread ---- */

/* Under the mutex. Until there is something to write, or to forget, or to stop for. */
static void wait_for_work(struct journal *journal)
{
	struct timespec clean_at = journal_later(CLEAN_DELAY_MS);

	while (!journal->stop) {
		bool queued = journal->queue.head || journal->queue.lost_all || journal->renew;
		struct timespec *until = NULL;

		if (journal->broken)
			until = &journal->next_try;
		else if (queued && journal->urgent)
			return;
		else if (queued)
			until = journal->has_due && journal_is_before(&journal->due, &clean_at)
					? &journal->due
					: &clean_at;
		else if (journal->entries)
			until = &journal->next_prune;
		if (until && journal_is_past(until))
			return;
		if (until)
			pthread_cond_timedwait(&journal->work, &journal->mutex, until);
		else {
			pthread_cond_wait(&journal->work, &journal->mutex);
			clean_at = journal_later(CLEAN_DELAY_MS);
		}
	}
}

/* Under the mutex: ops are durable. */
static void group_done(struct journal *journal, struct journal_op *ops)
{
	for (const struct journal_op *op = ops; op; op = op->next) {
		if (op->ticket > journal->durable_ticket)
			journal->durable_ticket = op->ticket;
		removal_ring_forget(journal->removals, op->removal);
	}
	journal_queue_done(&journal->queue, ops);
	journal->failures = 0;
	if (journal->broken && !journal->queue.head && !journal->queue.lost_all &&
	    !journal->renew) {
		/* All that was promised meanwhile is durable now. A crash before the marker is
		   taken back costs a scan. */
		journal->broken = false;
		pthread_mutex_unlock(&journal->mutex);
		set_marker(journal, false);
		log_notice("%s: can be written again", journal->env.dir);
		pthread_mutex_lock(&journal->mutex);
	}
	if (journal->waiters)
		pthread_cond_broadcast(&journal->done);
}

/* Under the mutex. */
static void group_failed(struct journal *journal, struct journal_op *ops, int code,
			 const char *text)
{
	unsigned shift = journal->failures < 6 ? journal->failures : 6;
	unsigned ms = BACKOFF_MS_MIN << shift;

	journal_queue_put_back(&journal->queue, ops);
	journal->failures++;
	journal->next_try = journal_later(ms < BACKOFF_MS_MAX ? ms : BACKOFF_MS_MAX);
	if (!journal->broken) {
		/* The marker first: whoever waits goes on because of it. */
		pthread_mutex_unlock(&journal->mutex);
		set_marker(journal, true);
		log_error("%s: %s%s; mail goes on, and everything is scanned unless this ends",
			  journal->env.dir, text,
			  code == -ENOSPC ? " (make room on its disk)" : "");
		pthread_mutex_lock(&journal->mutex);
		journal->broken = true;
	}
	pthread_cond_broadcast(&journal->done);
}

static bool has_event(const struct journal_op *ops)
{
	for (; ops; ops = ops->next) {
		if (ops->kind == JOURNAL_OP_EVENT)
			return true;
	}
	return false;
}

/* Outside the mutex: what needs no hurry. */
static void housekeeping(struct journal *journal)
{
	time_t now = time(NULL);
	int rc, dead;

	if (journal->env.env && now >= journal->next_reader_check) {
		/* A killed reader's slot keeps old pages from being used again. */
		journal->next_reader_check = now + READER_CHECK_SECS;
		rc = mdb_reader_check(journal->env.env, &dead);
		if (rc)
			log_warning("%s: reader table: %s", journal->env.dir, mdb_strerror(rc));
		else if (dead)
			log_debug("%s: %d dead reader slots cleared", journal->env.dir, dead);
	}
	rc = journal->env.env ? journal_fold(journal) : 0;
	if (rc)
		log_warning("%s: folding old events: %s", journal->env.dir, mdb_strerror(rc));
}

/* Under the mutex, which it leaves while it writes. False: nothing more will be written. */
static bool run_group(struct journal *journal)
{
	struct journal_op *ops = journal_queue_take(&journal->queue, GROUP_MAX);
	bool last = journal->stop && !journal->queue.head, clean = last && journal->recovered;
	bool events = has_event(ops), lost, new_id, prune;
	const char *text = "";
	int rc = 0;

	lost = journal->queue.lost_all;
	new_id = lost || journal->renew;
	journal->queue.lost_all = journal->renew = false;
	journal->urgent = journal->queue.head != NULL;
	journal->has_due = false;
	pthread_mutex_unlock(&journal->mutex);

	if (lost)
		log_error("%s: events were lost: everything is scanned", journal->env.dir);
	if (new_id) {
		guid_generate(&journal->id);
		journal->id_is_new = true;
	}
	prune = journal_prune_is_due(journal);
	if (ops || new_id || prune || last || journal->broken)
		rc = commit_group(journal, ops, clean, &text);
	if (rc == 0 && (events || new_id))
		wake_dsyncd(journal);

	pthread_mutex_lock(&journal->mutex);
	if (rc < 0)
		group_failed(journal, ops, rc, text);
	else
		group_done(journal, ops);
	/* While it stops, a group that failed is tried a few times more. */
	if (rc < 0)
		return !journal->stop || journal->failures < STOP_ATTEMPTS;
	return !last;
}

void *journal_commit_thread(void *arg)
{
	struct journal *journal = arg;
	bool more = true;

	pthread_setname_np(pthread_self(), "journal");
	pthread_mutex_lock(&journal->mutex);
	while (more) {
		wait_for_work(journal);
		more = run_group(journal);
		if (!journal->stop && !journal->urgent) {
			pthread_mutex_unlock(&journal->mutex);
			housekeeping(journal);
			pthread_mutex_lock(&journal->mutex);
		}
	}
	pthread_cond_broadcast(&journal->done);
	pthread_mutex_unlock(&journal->mutex);
	return NULL;
}
