/* Write-ahead dirt: which mailboxes are in the journal's dirty set, as the mount knows it. See
 * dirty.h. */
#include "fs/dirty.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>
#include "fs/lead.h"
#include "fs/stamp.h"
#include "store/base/buf.h"
#include "store/base/clock.h"
#include "store/base/file.h"
#include "store/journal/journal.h"

/* More operations than there are threads cannot be in flight. */
#define RENAME_BUSY_MAX 64
/* home NUL dir NUL; each of a journal's may be PLACE_PATH_MAX long */
#define KEY_MAX (2 * (PLACE_PATH_MAX + 1))

struct dirty_box {
	UT_hash_handle hh;
	char *home, *dir; /* both in key: home, NUL, dir, NUL */
	size_t key_len;
	struct place *place; /* whose `dirty` points here, with a reference; NULL: nobody's */
	uint64_t ticket;
	bool durable, locked; /* atomic */
	unsigned in_flight;
	int64_t last_ms;
	char key[];
};

struct dirty {
	/* Held across journal_dirty_begin() and journal_clean(), which only queue, so that the
	   journal sees both in the order in which the bit changed. */
	pthread_mutex_t lock;
	struct dirty_box *boxes;
	struct places *places;
	struct journal *journal;
	int root_fd;
	bool keep_all;
};

int64_t dirty_now_ms(void)
{
	return clock_ms(CLOCK_MONOTONIC_COARSE);
}

struct dirty *dirty_create(struct places *places, struct journal *journal, int root_fd)
{
	struct dirty *dirty = calloc(1, sizeof *dirty);

	if (!dirty)
		return NULL;
	pthread_mutex_init(&dirty->lock, NULL);
	dirty->places = places;
	dirty->journal = journal;
	dirty->root_fd = root_fd;
	dirty->keep_all = true;
	return dirty;
}

static void detach_place(struct dirty *dirty, struct dirty_box *box)
{
	if (!box->place)
		return;
	box->place->dirty = NULL;
	place_unref(dirty->places, box->place);
	box->place = NULL;
}

void dirty_free(struct dirty **dirty)
{
	struct dirty_box *box, *next;

	if (!*dirty)
		return;
	HASH_ITER (hh, (*dirty)->boxes, box, next) {
		detach_place(*dirty, box);
		HASH_DEL((*dirty)->boxes, box);
		free(box);
	}
	pthread_mutex_destroy(&(*dirty)->lock);
	free(*dirty);
	*dirty = NULL;
}

static size_t make_key(const char *home, const char *dir, char key_r[KEY_MAX])
{
	size_t home_len = strlen(home) + 1, dir_len = strlen(dir) + 1;

	memcpy(key_r, home, home_len);
	memcpy(key_r + home_len, dir, dir_len);
	return home_len + dir_len;
}

bool dirty_has(struct dirty *dirty, const char *home, const char *dir)
{
	char key[KEY_MAX];
	size_t len = make_key(home, dir, key);
	const struct dirty_box *box;

	pthread_mutex_lock(&dirty->lock);
	HASH_FIND(hh, dirty->boxes, key, len, box);
	pthread_mutex_unlock(&dirty->lock);
	return box != NULL;
}

static struct dirty_box *find_or_add(struct dirty *dirty, const struct place_path *path)
{
	char key[KEY_MAX];
	size_t len = make_key(path->home, path->dir, key);
	struct dirty_box *box;

	HASH_FIND(hh, dirty->boxes, key, len, box);
	if (box)
		return box;
	box = calloc(1, sizeof *box + len);
	if (!box)
		return NULL;
	memcpy(box->key, key, len);
	box->key_len = len;
	box->home = box->key;
	box->dir = box->key + strlen(path->home) + 1;
	HASH_ADD_KEYPTR(hh, dirty->boxes, box->key, box->key_len, box);
	box->ticket = journal_dirty_begin(dirty->journal, box->home, box->dir);
	box->durable = box->ticket == 0;
	return box;
}

/* By the name of this moment: dirty_rename() comes after a rename, and detaches those that are
 * attached by an old name before it. */
static struct dirty_box *find_of_place(struct dirty *dirty, const struct place_path *path,
				       struct place *in)
{
	struct place_path now;
	struct dirty_box *box;

	place_locate(dirty->places, in, &now);
	if (now.role == path->role && now.box == path->box) {
		box = find_or_add(dirty, &now);
		if (box && !box->place) {
			place_ref(dirty->places, now.box);
			box->place = now.box;
			box->place->dirty = box;
		}
	} else {
		box = find_or_add(dirty, path);
	}
	place_release(dirty->places, &now);
	return box;
}

struct dirty_box *dirty_enter(struct dirty *dirty, const struct place_path *path, struct place *in)
{
	struct dirty_box *box;

	pthread_mutex_lock(&dirty->lock);
	box = in ? path->box->dirty : NULL;
	if (!box)
		box = in ? find_of_place(dirty, path, in) : find_or_add(dirty, path);
	if (box) {
		box->in_flight++;
		box->last_ms = dirty_now_ms();
	}
	pthread_mutex_unlock(&dirty->lock);
	return box;
}

bool dirty_is_durable(const struct dirty_box *box)
{
	return !box || __atomic_load_n(&box->durable, __ATOMIC_ACQUIRE);
}

void dirty_wait(struct dirty *dirty, struct dirty_box *box)
{
	if (dirty_is_durable(box))
		return;
	lead_yield();
	journal_wait(dirty->journal, box->ticket);
	__atomic_store_n(&box->durable, true, __ATOMIC_RELEASE);
}

void dirty_leave(struct dirty *dirty, struct dirty_box *box)
{
	if (!box)
		return;
	pthread_mutex_lock(&dirty->lock);
	box->in_flight--;
	box->last_ms = dirty_now_ms();
	pthread_mutex_unlock(&dirty->lock);
}

void dirty_set_locked(struct dirty_box *box, bool locked)
{
	if (box)
		__atomic_store_n(&box->locked, locked, __ATOMIC_RELAXED);
}

bool dirty_is_locked(const struct dirty_box *box)
{
	return box && __atomic_load_n(&box->locked, __ATOMIC_RELAXED);
}

void dirty_rename(struct dirty *dirty, const struct place *top, dirty_place_fn *each, void *ctx)
{
	struct place *busy[RENAME_BUSY_MAX];
	struct dirty_box *box, *next;
	unsigned count = 0;

	pthread_mutex_lock(&dirty->lock);
	HASH_ITER (hh, dirty->boxes, box, next) {
		if (!box->place || !place_is_below(dirty->places, box->place, top))
			continue;
		if (box->in_flight && count < RENAME_BUSY_MAX) {
			place_ref(dirty->places, box->place);
			busy[count++] = box->place;
		}
		detach_place(dirty, box);
	}
	pthread_mutex_unlock(&dirty->lock);
	for (unsigned i = 0; i < count; i++) {
		each(ctx, busy[i]);
		place_unref(dirty->places, busy[i]);
	}
}

void dirty_keep_all(struct dirty *dirty, bool keep)
{
	pthread_mutex_lock(&dirty->lock);
	dirty->keep_all = keep;
	pthread_mutex_unlock(&dirty->lock);
}

/* A copy of the keys of quiet mailboxes, each with its time before it. Returns how many boxes are
 * not quiet. */
static size_t find_quiet(struct dirty *dirty, int64_t now_ms, struct buf *quiet)
{
	struct dirty_box *box, *next;
	size_t left = 0;

	pthread_mutex_lock(&dirty->lock);
	HASH_ITER (hh, dirty->boxes, box, next) {
		if (dirty->keep_all || box->in_flight || now_ms - box->last_ms < DIRTY_QUIET_MS) {
			left++;
			continue;
		}
		buf_append(quiet, &box->last_ms, sizeof box->last_ms);
		buf_append(quiet, box->key, box->key_len);
	}
	pthread_mutex_unlock(&dirty->lock);
	return left;
}

/* Unless something has happened to it while its stamp was taken. */
static bool clean(struct dirty *dirty, const char *key, size_t key_len, int64_t last_ms,
		  const struct journal_stamp *stamp)
{
	struct dirty_box *box;
	bool still;

	pthread_mutex_lock(&dirty->lock);
	HASH_FIND(hh, dirty->boxes, key, key_len, box);
	still = box && !box->in_flight && box->last_ms == last_ms;
	if (still) {
		journal_clean(dirty->journal, box->home, box->dir, stamp);
		detach_place(dirty, box);
		HASH_DEL(dirty->boxes, box);
		free(box);
	}
	pthread_mutex_unlock(&dirty->lock);
	return still;
}

size_t dirty_sweep(struct dirty *dirty, int64_t now_ms)
{
	AUTO_BUF struct buf quiet = BUF_INIT(SIZE_MAX);
	size_t left = find_quiet(dirty, now_ms, &quiet);

	/* Without memory for all of them some wait for the next time. */
	for (const char *p = quiet.data, *end = p + quiet.len; p < end;) {
		const char *home = p + sizeof(int64_t), *dir = home + strlen(home) + 1;
		struct journal_stamp stamp;
		int64_t last_ms;
		bool stamped;

		memcpy(&last_ms, p, sizeof last_ms);
		p = dir + strlen(dir) + 1;
		stamped = dirty->root_fd >= 0 && stamp_take(dirty->root_fd, home, dir, &stamp) == 0;
		if (!clean(dirty, home, (size_t)(p - home), last_ms, stamped ? &stamp : NULL))
			left++;
	}
	return left;
}
