/*
 * Forgetting: events that dsyncd consumed are deleted; when dsyncd is away for long, events of one
 * mailbox are folded into one rescan, so that what is kept is bounded by the number of mailboxes.
 * What proves a removal is kept as long as it can be, since no scan finds it again. Runs on the
 * commit thread. See journal_private.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/journal/journal_private.h"
#include "store/journal/slot_file.h"

#define PRUNE_CHECK_MS	    1000
#define PRUNE_CHECK_IDLE_MS 10000
#define PRUNE_MAX	    2000
#define FOLD_CHUNK	    2000

/* ---- consumed events ---- */

bool journal_prune_is_due(struct journal *journal)
{
	uint8_t payload[SLOT_PAYLOAD];
	uint64_t seq;

	if (journal->prune_to_seq > journal->pruned_seq)
		return true;
	if (!journal->entries || !journal_is_past(&journal->next_prune))
		return false;
	journal->next_prune = journal_later(PRUNE_CHECK_IDLE_MS);
	/* dsyncd never ran, or another journal's position: nothing is consumed. */
	if (slot_read_at(journal->dir_fd, JOURNAL_CONSUMED, payload) < 0 ||
	    memcmp(payload, journal->id.bytes, sizeof journal->id.bytes) != 0)
		return false;
	seq = journal_get_u64(payload + sizeof journal->id.bytes);
	if (seq > journal->last_seq)
		seq = journal->last_seq;
	if (seq <= journal->pruned_seq)
		return false;
	journal->prune_to_seq = seq;
	journal->next_prune = journal_later(PRUNE_CHECK_MS);
	return true;
}

int journal_prune(struct journal *journal, MDB_txn *txn)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int rc = mdb_cursor_open(txn, journal->env.dbi[JOURNAL_EVENTS], &cursor);
	unsigned n;

	if (rc)
		return rc;
	for (n = 0; n < PRUNE_MAX; n++) {
		uint64_t seq;

		rc = mdb_cursor_get(cursor, &key, &value, MDB_FIRST);
		if (rc)
			break;
		if (journal_seq_decode(&key, &seq) < 0) {
			rc = MDB_CORRUPTED;
			break;
		}
		if (seq > journal->prune_to_seq)
			break;
		rc = mdb_cursor_del(cursor, 0);
		if (rc)
			break;
	}
	mdb_cursor_close(cursor);
	if (rc && rc != MDB_NOTFOUND)
		return rc;
	if (n < PRUNE_MAX)
		journal->pruned_seq = journal->prune_to_seq;
	else
		journal->next_prune = journal_now(); /* the rest with the next group */
	return 0;
}

/* ---- folding ---- */

/* Events fold into each other that are about one directory and of one class, with no rename in
 * between. Hashed as bytes: no padding. */
struct fold_key {
	struct journal_key dir;
	uint32_t kind;
	uint32_t epoch;
};
_Static_assert(sizeof(struct fold_key) == DIGEST_SHA1_SIZE + 8, "padding would be hashed");

/* The last foldable event of a mailbox, while a pass runs. */
struct fold_box {
	UT_hash_handle hh;
	struct fold_key key;
	uint64_t seq;
	uint32_t origin;
	enum mail_event_kind kind;
};

/* How many renames and removals of directories of a home a pass has met: before and after one, a
 * directory's name means different mailboxes. */
struct fold_home {
	UT_hash_handle hh;
	struct journal_key key;
	unsigned epoch;
};

struct fold {
	struct journal *journal;
	struct fold_box *boxes;
	struct fold_home *homes;
	bool evidence; /* fold that, too */
	uint64_t after;
	bool end;
};

static void fold_free(struct fold *fold)
{
	struct fold_box *box, *next_box;
	struct fold_home *home, *next_home;

	HASH_ITER (hh, fold->boxes, box, next_box) {
		HASH_DEL(fold->boxes, box);
		free(box);
	}
	HASH_ITER (hh, fold->homes, home, next_home) {
		HASH_DEL(fold->homes, home);
		free(home);
	}
}

static unsigned home_epoch(struct fold *fold, const struct mail_event *event)
{
	struct fold_home *home;
	struct journal_key key;

	journal_dirty_key(event->home, "", &key);
	HASH_FIND(hh, fold->homes, &key, sizeof key, home);
	return home ? home->epoch : 0;
}

static int bump_epoch(struct fold *fold, const struct mail_event *event)
{
	struct fold_home *home;
	struct journal_key key;

	journal_dirty_key(event->home, "", &key);
	HASH_FIND(hh, fold->homes, &key, sizeof key, home);
	if (!home) {
		home = calloc(1, sizeof *home);
		if (!home)
			return ENOMEM;
		home->key = key;
		HASH_ADD(hh, fold->homes, key, sizeof home->key, home);
	}
	home->epoch++;
	return 0;
}

static bool is_foldable(const struct fold *fold, enum mail_event_kind kind)
{
	switch (kind) {
	case MAIL_EVENT_DELIVERED:
	case MAIL_EVENT_RENAMED:
	case MAIL_EVENT_TOUCHED:
	case MAIL_EVENT_RESCAN:
	case MAIL_EVENT_LIST_TOUCHED:
	case MAIL_EVENT_RESCAN_HOME:
		return true;
	case MAIL_EVENT_REMOVED:
		return fold->evidence;
	default:
		return false;
	}
}

/* Those that fold into each other have the same class. */
static enum mail_event_kind fold_class(enum mail_event_kind kind)
{
	return kind == MAIL_EVENT_LIST_TOUCHED || kind == MAIL_EVENT_RESCAN_HOME
		       ? kind
		       : MAIL_EVENT_RESCAN;
}

static int find_box(struct fold *fold, const struct mail_event *event, struct fold_box **box_r)
{
	struct fold_key key = {.kind = (uint32_t)fold_class(event->kind),
			       .epoch = home_epoch(fold, event)};
	struct fold_box *box;

	journal_dirty_key(event->home, event->dir, &key.dir);
	HASH_FIND(hh, fold->boxes, &key, sizeof key, box);
	if (!box) {
		box = calloc(1, sizeof *box);
		if (!box)
			return ENOMEM;
		box->key = key;
		HASH_ADD(hh, fold->boxes, key, sizeof box->key, box);
	}
	*box_r = box;
	return 0;
}

/* The earlier event goes, the later one says what both did. */
static int fold_into(struct fold *fold, MDB_cursor *cursor, struct fold_box *box,
		     const struct mail_event *event)
{
	AUTO_BUF struct buf value = BUF_INIT(JOURNAL_EVENT_MAX);
	struct mail_event folded = *event;
	uint8_t seq[8];
	MDB_val key = {sizeof seq, seq}, val;
	int rc;

	if (fold_class(event->kind) == MAIL_EVENT_RESCAN && event->kind != box->kind)
		folded.kind = MAIL_EVENT_RESCAN;
	else if (event->kind != MAIL_EVENT_TOUCHED)
		folded.kind = fold_class(event->kind);
	folded.name = folded.name2 = "";
	if (folded.origin != box->origin)
		folded.origin = 0;
	if (journal_event_encode(&folded, &value) < 0)
		return ENOMEM;
	journal_seq_encode(event->seq, seq);
	val.mv_size = value.len;
	val.mv_data = value.data;
	rc = mdb_cursor_put(cursor, &key, &val, 0);
	if (rc)
		return rc;
	journal_seq_encode(box->seq, seq);
	rc = mdb_del(mdb_cursor_txn(cursor), fold->journal->env.dbi[JOURNAL_EVENTS], &key, NULL);
	box->kind = folded.kind;
	box->origin = folded.origin;
	return rc;
}

static int fold_event(struct fold *fold, MDB_cursor *cursor, const struct mail_event *event)
{
	struct fold_box *box;
	int rc;

	if (event->kind == MAIL_EVENT_DIR_RENAMED || event->kind == MAIL_EVENT_DIR_REMOVED)
		return bump_epoch(fold, event);
	if (!is_foldable(fold, event->kind))
		return 0;
	rc = find_box(fold, event, &box);
	if (rc)
		return rc;
	if (box->seq) {
		rc = fold_into(fold, cursor, box, event);
	} else {
		box->kind = event->kind;
		box->origin = event->origin;
	}
	box->seq = event->seq;
	return rc;
}

/* One transaction over the next FOLD_CHUNK events. */
static int fold_chunk(struct fold *fold)
{
	AUTO_BUF struct buf strings = BUF_INIT(JOURNAL_EVENT_MAX);
	MDB_cursor *cursor;
	MDB_txn *txn;
	MDB_val key, value;
	uint8_t seq[8];
	int rc = mdb_txn_begin(fold->journal->env.env, NULL, 0, &txn);

	if (rc)
		return rc;
	rc = mdb_cursor_open(txn, fold->journal->env.dbi[JOURNAL_EVENTS], &cursor);
	for (unsigned n = 0; !rc && n < FOLD_CHUNK; n++) {
		struct mail_event event;
		size_t offset;

		/* Looked up each time: the writes move what a cursor points at. */
		journal_seq_encode(fold->after + 1, seq);
		key.mv_size = sizeof seq;
		key.mv_data = seq;
		rc = mdb_cursor_get(cursor, &key, &value, MDB_SET_RANGE);
		if (rc)
			break;
		buf_clear(&strings);
		rc = journal_event_decode(&key, &value, &event, &offset, &strings) < 0
			     ? MDB_CORRUPTED
			     : 0;
		if (rc)
			break;
		journal_event_point(&event, strings.data + offset);
		fold->after = event.seq;
		rc = fold_event(fold, cursor, &event);
	}
	if (rc == MDB_NOTFOUND) {
		fold->end = true;
		rc = 0;
	}
	if (rc) {
		mdb_txn_abort(txn);
		return rc;
	}
	return mdb_txn_commit(txn);
}

/* Someone waits for the commit thread: the pass is given up, its work so far is kept. */
static bool is_wanted(struct journal *journal)
{
	bool wanted;

	pthread_mutex_lock(&journal->mutex);
	wanted = journal->urgent || journal->stop;
	pthread_mutex_unlock(&journal->mutex);
	return wanted;
}

int journal_fold(struct journal *journal)
{
	size_t slack = journal_limits.events_max / 8 + 1;
	struct fold fold = {.journal = journal};
	size_t before = journal->entries;
	MDB_txn *txn;
	MDB_stat st;
	int rc = 0;

	/* A pass that could not fold more is not repeated before something was added. */
	if (journal->entries <= journal_limits.events_max ||
	    journal->entries < journal->folded_entries + slack)
		return 0;
	fold.evidence = journal->entries > journal_limits.evidence_max;
	while (!rc && !fold.end) {
		rc = fold_chunk(&fold);
		/* While far too much is kept, others wait for a whole pass. */
		if (!rc && is_wanted(journal) && before < 2 * journal_limits.events_max)
			break;
	}
	fold_free(&fold);
	if (rc)
		return rc;
	rc = mdb_txn_begin(journal->env.env, NULL, MDB_RDONLY, &txn);
	if (rc)
		return rc;
	rc = mdb_stat(txn, journal->env.dbi[JOURNAL_EVENTS], &st);
	mdb_txn_abort(txn);
	if (rc)
		return rc;
	journal->entries = st.ms_entries;
	if (fold.end) {
		journal->folded_entries = journal->entries;
		log_notice("%s: dsyncd has not read its events for long: %zu events were folded "
			   "into %zu%s",
			   journal->env.dir, before, journal->entries,
			   fold.evidence ? ", removals among them" : "");
	}
	return 0;
}
