/*
 * Opening and following an index: which snapshot and which logs make up the state (reference 2.5).
 *
 * Everything here is lock-free. A rotation or a rebuild by somebody else may be caught half-way, so
 * what looks damaged is looked at again a few times before it is believed.
 */
#include "store/index/index.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include "store/base/clock.h"
#include "store/index/index_private.h"

#define LOAD_TRIES    5
#define LOAD_RETRY_MS 10

void index_file_name(const struct index *index, const char *suffix, char *name_r, size_t size)
{
	snprintf(name_r, size, "%s%s", index->name, suffix);
}

const char *index_text(const struct index *index)
{
	return index->log.name;
}

int index_replay(struct index *index, struct error *err)
{
	struct index_state *state = &index->state;
	const uint64_t from = state->offset;
	uint64_t end;
	int ret;

	/* A mailbox may stay open for long: nothing is read from, or appended to, what is not the
	   log any more. */
	ret = index_log_recheck(&index->log, err);
	if (ret < 0)
		return ret;
	ret = index_log_size(&index->log, &end, err);
	if (ret < 0)
		return ret;
	if (end < state->offset)
		return index_log_damaged(&index->log, end, err,
					 "the file ends before offset %" PRIu64, state->offset);
	if (end == state->offset)
		return 0;
	ret = index_log_walk(&index->log, &state->offset, end, &state->counter, index_apply_record,
			     index, err);
	state->replayed += state->offset - from;
	return ret;
}

/* Continues in a log from its first record. */
static void state_enter_log(struct index *index)
{
	struct index_state *state = &index->state;

	state->offset = index->log.hdr_size;
	state->tail = index->log.hdr_size;
	state->pending_offset = 0;
	index_late_enter_log(&state->late);
	index_log_counter_init(&index->log, &state->counter);
}

static int count_only(void *ctx, const struct index_log_record *record, struct error *err)
{
	(void)ctx;
	(void)record;
	(void)err;
	return 0;
}

/* The counter at the snapshot's head: from the modseq extension's header as far as that has it,
 * else counted from the start of the log. */
static int state_count_to(struct index *index, uint64_t head, struct error *err)
{
	struct index_state *state = &index->state;
	uint64_t offset = index->log.hdr_size;
	int ret;

	index_log_counter_init(&index->log, &state->counter);
	if (state->ext_modseq >= 0 && state->exts[state->ext_modseq].hdr_size >= 16) {
		const uint8_t *hdr = state->exts[state->ext_modseq].hdr;

		if (index_get32(hdr + 8) == index->log.file_seq && index_get32(hdr + 12) == head) {
			state->counter.modseq = index_get64(hdr);
			state->counter.counting = true;
			return 0;
		}
	}
	ret = index_log_walk(&index->log, &offset, head, &state->counter, count_only, NULL, err);
	if (ret == 0 && offset != head)
		ret = index_log_damaged(
			&index->log, offset, err,
			"the snapshot's head %" PRIu64 " is not the start of a record", head);
	return ret;
}

/* The snapshot ends in this log, at its head. */
static int state_enter_log_at_head(struct index *index, struct error *err)
{
	struct index_state *state = &index->state;
	uint64_t head = index_get32(state->hdr + HDR_LOG_HEAD);
	uint64_t end;
	int ret;

	ret = index_log_size(&index->log, &end, err);
	if (ret < 0)
		return ret;
	if (head < index->log.hdr_size || head > end)
		return index_log_damaged(&index->log, end, err,
					 "the snapshot's head is at %" PRIu64
					 ", but the file has only %" PRIu64 " bytes",
					 head, end);
	ret = state_count_to(index, head, err);
	if (ret < 0)
		return ret;
	state->offset = head;
	state->tail = index_get32(state->hdr + HDR_LOG_TAIL);
	/* What lies between was not read: it may hold requests until the tail has passed it. */
	state->pending_offset = state->tail < head ? head - 4 : 0;
	return 0;
}

/* Reads .log.2 to its end, then changes over to .log, which must continue it. */
static int state_replay_older(struct index *index, struct index_log *older, bool at_head,
			      struct error *err)
{
	struct index_log newest = index->log;
	int ret;

	index->log = *older;
	if (at_head) {
		ret = state_enter_log_at_head(index, err);
	} else {
		state_enter_log(index);
		ret = 0;
	}
	if (ret == 0)
		ret = index_replay(index, err);
	if (ret == 0 && newest.prev_file_offset != index->state.offset)
		ret = index_log_damaged(
			&newest, LOG_HDR_OFF_PREV_OFFSET, err,
			"it continues its predecessor at %u, which ends at %" PRIu64,
			newest.prev_file_offset, index->state.offset);
	index->log = newest;
	if (ret < 0)
		return ret;
	state_enter_log(index);
	return 0;
}

/* -ENOENT: there is no .log.2 that .log continues. */
static int open_older_log(const struct index *index, struct index_log *older_r, struct error *err)
{
	char file[NAME_MAX + 1];
	int ret;

	index_file_name(index, ".log.2", file, sizeof(file));
	ret = index_log_open(index->dirfd, index->label, file, false, older_r, err);
	if (ret < 0)
		return ret;
	if (older_r->file_seq == index->log.prev_file_seq && older_r->indexid == index->log.indexid)
		return 0;
	index_log_close(older_r);
	return -ENOENT;
}

/* The state at the first record that the snapshot (if any) does not have, in index->log. */
static int state_find_start(struct index *index, struct error *err)
{
	struct index_state *state = &index->state;
	struct index_log older = INDEX_LOG_INIT;
	const bool has_snapshot = state->snapshot.data != NULL;
	const uint32_t seq = index_get32(state->hdr + HDR_LOG_SEQ);
	int ret;

	if (has_snapshot && seq == index->log.file_seq)
		return state_enter_log_at_head(index, err);
	if (has_snapshot && seq > index->log.file_seq && index->log.prev_file_seq != 0)
		return index_log_damaged(&index->log, LOG_HDR_OFF_SEQ, err,
					 "file sequence %u, but the snapshot is of %u",
					 index->log.file_seq, seq);
	if (index->log.prev_file_seq == 0) {
		state_enter_log(index);
		state->tail = 0;
		return 0;
	}
	ret = open_older_log(index, &older, err);
	if (ret == 0 && (has_snapshot ? older.file_seq == seq : older.prev_file_seq == 0)) {
		ret = state_replay_older(index, &older, has_snapshot, err);
		index_log_close(&older);
		return ret;
	}
	if (ret == 0)
		index_log_close(&older);
	else if (ret != -ENOENT)
		return ret;
	if (has_snapshot && index->log.prev_file_seq == seq &&
	    index->log.prev_file_offset == index_get32(state->hdr + HDR_LOG_HEAD)) {
		state_enter_log(index);
		return 0;
	}
	return index_log_damaged(
		&index->log, LOG_HDR_OFF_PREV_SEQ, err,
		"it continues log %u, which is lost, and the snapshot does not have "
		"all of that",
		index->log.prev_file_seq);
}

static int load_snapshot(struct index *index, struct error *err)
{
	struct index_snapshot snapshot;
	struct error snapshot_err = {0};
	char file[NAME_MAX + 1];
	uint32_t indexid, seq;
	int ret;

	index_file_name(index, "", file, sizeof(file));
	index_state_set_empty(&index->state, index->log.indexid);
	ret = index_snapshot_open(index->dirfd, index->label, file, &snapshot, &snapshot_err);
	if (ret == -ENOENT)
		return 0;
	if (ret < 0) {
		/* A log that starts afresh needs none, so a damaged one does not matter. */
		if (ret == -EUCLEAN && index->log.prev_file_seq == 0)
			return 0;
		return error_set(err, ret, "%s", snapshot_err.text);
	}
	indexid = index_get32(snapshot.data + HDR_INDEXID);
	seq = index_get32(snapshot.data + HDR_LOG_SEQ);
	if (index->log.prev_file_seq == 0 && index->log.file_seq != seq) {
		index_snapshot_close(&snapshot); /* the index was reset since */
		return 0;
	}
	if (indexid != index->log.indexid) {
		ret = error_set(err, -EUCLEAN,
				"%s: damaged at offset %d: indexid %u, the log's is %u",
				snapshot.name, HDR_INDEXID, indexid, index->log.indexid);
		index_snapshot_close(&snapshot);
		return ret;
	}
	return index_state_set_snapshot(&index->state, &snapshot, err);
}

void index_enter_snapshot(struct index *index)
{
	struct index_state before = index->state, *state = &index->state;
	struct error err = {0};
	int ret;

	index_state_init(state);
	ret = load_snapshot(index, &err);
	if (ret < 0 || state->snapshot.data == NULL ||
	    index_get32(state->hdr + HDR_LOG_SEQ) != index->log.file_seq ||
	    index_get32(state->hdr + HDR_LOG_HEAD) != before.offset) {
		/* What is in memory is as good. */
		index_state_free(state);
		*state = before;
		return;
	}
	state->offset = before.offset;
	state->counter = before.counter;
	state->tail = before.tail;
	state->marks = before.marks;
	state->late = before.late;
	before.late = (struct index_late){0};
	state->deleted = before.deleted;
	index_state_free(&before);
}

static int index_load_once(struct index *index, struct error *err)
{
	char file[NAME_MAX + 1];
	int ret;

	index_file_name(index, ".log", file, sizeof(file));
	index_state_free(&index->state);
	index_log_close(&index->log);
	index->usable = false;
	/* Whatever fails from here on closes the log again: an open one is one that was loaded. */
	ret = index_log_open(index->dirfd, index->label, file, !index->read_only, &index->log, err);
	if (ret < 0)
		return ret;
	ret = load_snapshot(index, err);
	if (ret == 0)
		ret = state_find_start(index, err);
	if (ret == 0)
		ret = index_replay(index, err);
	if (ret == -EUCLEAN && index->salvage)
		ret = 0;
	index->usable = ret == 0;
	if (ret < 0)
		index_log_close(&index->log);
	return ret;
}

static int index_load(struct index *index, struct error *err)
{
	int ret = 0;

	for (int try = 0; try < LOAD_TRIES; try++) {
		struct timespec pause = {.tv_nsec = LOAD_RETRY_MS * 1000000L * try};

		if (try > 0)
			nanosleep(&pause, NULL);
		ret = index_load_once(index, err);
		if (ret != -EUCLEAN || index->once)
			break;
	}
	if (ret == -ENOENT)
		error_set(err, ret, "%s/%s.log: there is no index log", index->label, index->name);
	return ret;
}

int index_open(int dirfd, const struct index_options *options, struct index **index_r,
	       struct error *err)
{
	const char *name = options->name != NULL ? options->name : INDEX_NAME_MAIL;
	struct index *index;
	int ret;

	*index_r = NULL;
	index = calloc(1, sizeof(*index));
	if (index == NULL)
		return error_set(err, -ENOMEM, "out of memory");
	index_state_init(&index->state);
	index->log.fd = -1;
	index->dirfd = dirfd;
	index->lock_method = options->lock_method;
	index->read_only = options->read_only;
	index->backup = options->backup;
	index->once = options->once || options->salvage;
	index->salvage = options->salvage;
	index->keep_tail = options->keep_tail;
	index->name = strdup(name);
	index->label = strdup(options->label != NULL ? options->label : "");
	if (index->name == NULL || index->label == NULL)
		ret = error_set(err, -ENOMEM, "out of memory");
	else
		ret = index_load(index, err);
	if (ret < 0)
		index_close(&index);
	*index_r = index;
	return ret;
}

void index_close(struct index **index)
{
	struct index *closing = *index;

	*index = NULL;
	if (closing == NULL)
		return;
	index_cache_free(closing);
	index_state_free(&closing->state);
	index_log_close(&closing->log);
	free(closing->name);
	free(closing->label);
	free(closing);
}

/* The path names another file than the one that is open (or none). */
static int log_replaced(const struct index *index, bool *replaced_r, struct error *err)
{
	char file[NAME_MAX + 1];
	struct stat st;

	index_file_name(index, ".log", file, sizeof(file));
	if (fstatat(index->dirfd, file, &st, AT_SYMLINK_NOFOLLOW) < 0) {
		if (errno == ENOENT)
			return error_set(err, -ENOENT, "%s: the index log is gone",
					 index_text(index));
		return error_errno(err, -errno, "%s: stat", index_text(index));
	}
	*replaced_r = st.st_ino != index->log.ino || st.st_dev != index->log.dev;
	return 0;
}

/* Goes on in the new file where it continues the old one, which is read to its end already.
 * -EUCLEAN: it does not, everything has to be loaded again. */
static int index_follow_rotation(struct index *index, struct error *err)
{
	struct index_log next;
	char file[NAME_MAX + 1];
	int ret;

	index_file_name(index, ".log", file, sizeof(file));
	ret = index_log_open(index->dirfd, index->label, file, !index->read_only, &next, err);
	if (ret < 0)
		return ret;
	if (next.indexid != index->log.indexid || next.prev_file_seq != index->log.file_seq ||
	    next.prev_file_offset != index->state.offset) {
		index_log_close(&next);
		return error_set(err, -EUCLEAN, "%s: does not continue where the old one ended",
				 next.name);
	}
	index_log_close(&index->log);
	index->log = next;
	state_enter_log(index);
	return index_replay(index, err);
}

/* Loads everything again. -ESTALE: what the view showed is not an earlier state of what is there.
 */
static int index_reload(struct index *index, struct error *err)
{
	const struct index_position *known = &index->known;
	int ret;

	/* A load that fails leaves nothing open: then it is what was known before that one. */
	if (index->log.fd >= 0)
		index_position(index, &index->known);
	ret = index_load(index, err);
	if (ret < 0)
		return ret;
	if (index->log.indexid == known->indexid && index->state.counter.modseq >= known->modseq &&
	    (index->log.file_seq == known->file_seq || index->log.prev_file_seq != 0))
		return 0;
	return error_set(err, -ESTALE, "%s: the index was begun afresh", index_text(index));
}

int index_refresh(struct index *index, struct error *err)
{
	bool replaced = false;
	int ret;

	if (!index->usable)
		return index_reload(index, err);
	ret = index_replay(index, err);
	if (ret == 0)
		ret = log_replaced(index, &replaced, err);
	if (ret == 0 && replaced) {
		/* Between the first look and the replacement the old file may have grown. */
		ret = index_replay(index, err);
		if (ret == 0)
			ret = index_follow_rotation(index, err);
	}
	if (ret == -EUCLEAN && !index->locked)
		return index_reload(index, err);
	if (ret < 0 && ret != -ENOENT)
		index->usable = false;
	return ret;
}

void index_position(const struct index *index, struct index_position *position_r)
{
	*position_r = (struct index_position){
		.indexid = index->log.indexid,
		.file_seq = index->log.file_seq,
		.offset = index->state.offset,
		.modseq = index->state.counter.modseq,
	};
}

bool index_position_equal(const struct index_position *a, const struct index_position *b)
{
	return a->indexid == b->indexid && a->file_seq == b->file_seq && a->offset == b->offset;
}

void index_status(const struct index *index, struct index_status *status_r)
{
	const struct index_state *state = &index->state;

	*status_r = (struct index_status){
		.uid_validity = index_get32(state->hdr + HDR_UID_VALIDITY),
		.next_uid = index_get32(state->hdr + HDR_NEXT_UID),
		.first_recent_uid = index_get32(state->hdr + HDR_FIRST_RECENT_UID),
		.messages = state->messages,
		.highest_modseq = state->counter.modseq > 0 ? state->counter.modseq : 1,
		.has_modseqs = state->ext_modseq >= 0,
		.deleted = state->deleted,
		.pending = state->pending_offset != 0 && state->pending_offset >= state->tail,
	};
}

int64_t index_log_written(const struct index *index)
{
	struct stat st;

	if (fstat(index->log.fd, &st) < 0)
		return -errno;
	return timespec_ms(st.st_mtim);
}

bool index_is_synced(const struct index *index)
{
	return index->state.tail == index->state.offset ||
	       (index->state.tail < index->log.hdr_size &&
		index->state.offset == index->log.hdr_size);
}

const uint8_t *index_header(const struct index *index)
{
	return index->state.hdr;
}
