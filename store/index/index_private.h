/*
 * struct index and what the files of this folder do with it. Private to store/index/.
 */
#ifndef DSYNCFS_INDEX_PRIVATE_H
#define DSYNCFS_INDEX_PRIVATE_H

#include <limits.h>
#include "store/index/index.h"
#include "store/index/index_format.h"
#include "store/index/index_late.h"
#include "store/index/index_log.h"
#include "store/index/index_overlay.h"
#include "store/index/index_snapshot.h"

struct index_extension {
	char *name;
	uint32_t reset_id;
	uint8_t *hdr;
	uint32_t hdr_size;
	uint16_t record_size, record_align;
	/* Where the snapshot's records have it; size 0: they do not (any more). */
	uint16_t snapshot_offset, snapshot_size;
	/* Where the overlay's records have it; capacity 0: nowhere. */
	uint32_t overlay_offset, overlay_capacity;
};

/* Where transactions of the log begin, and the counter there: so that the changes since a modseq
 * can be read from near where they are. Some kilobytes apart; twice as far each time the room is
 * full. */
#define INDEX_MARKS_MAX 64
struct index_marks {
	uint32_t file_seq; /* of the log; of another one they mean nothing */
	unsigned count;
	uint32_t distance;
	struct {
		uint64_t offset, modseq;
	} mark[INDEX_MARKS_MAX];
};

/* index_late.c */
struct index_moved {
	uint32_t uid; /* that it had */
	struct index_late_expunge to;
};
struct index_request {
	uint32_t uid;
	struct guid guid; /* empty: not said */
};
struct index_late {
	struct index_moved *moved;	/* a ring: the last ones */
	struct index_request *requests; /* as well */
	size_t moved_next, request_next;
	struct index_late_expunge *found;
	size_t found_count;
	/* What the transaction appended; first_uid 0: nothing yet. */
	uint64_t transaction;
	uint32_t first_uid, last_uid;
};

/* What the log position means; lost and built anew when the files were replaced. */
struct index_state {
	struct index_snapshot snapshot;
	struct index_overlay overlay;
	uint8_t hdr[INDEX_HDR_SIZE];
	uint32_t messages;

	struct index_extension *exts;
	int ext_count;
	int ext_modseq, ext_keywords; /* -1: not there */
	int ext_current;	      /* of the log's last intro; -1: none */
	bool ext_ignored;	      /* its reset_id was another: what follows does not apply */
	uint16_t ext_record_size;     /* as the intro said */
	uint64_t modseq_floor;	      /* of messages whose modseq record is 0 */
	bool modseq_floor_open;	      /* the extension's first header may still set it */

	char **keywords;
	unsigned keyword_count;

	uint64_t offset; /* end of what is applied of `log` */
	struct index_log_counter counter;
	uint64_t tail;		 /* everything before is carried out on the mail files */
	uint64_t pending_offset; /* last internal request in this log; 0: none */
	uint64_t replayed;	 /* bytes of log since the snapshot */
	struct index_marks marks;
	struct index_late late;
	bool deleted;
};

struct index {
	int dirfd;
	char *name, *label;
	enum index_lock_method lock_method;
	bool read_only, backup, once, salvage, keep_tail;

	bool usable; /* false: a refresh failed, state is not consistent */
	bool locked;
	struct index_position known; /* where the view was before it was loaded again */
	struct index_log log;
	struct index_state state;
	struct index_cache *cache; /* opened when first asked for; NULL: not yet */
};

/* index_state.c: extensions, keywords, and finding records. */
void index_state_init(struct index_state *state);
void index_state_free(struct index_state *state);
/* The state that a log with prev_file_seq 0 starts from. */
void index_state_set_empty(struct index_state *state, uint32_t indexid);
/* Takes the snapshot over, also on failure. */
int index_state_set_snapshot(struct index_state *state, struct index_snapshot *snapshot,
			     struct error *err);
int index_state_ext_find(const struct index_state *state, const uint8_t *name, size_t name_size);
int index_state_ext_add(struct index_state *state, const uint8_t *name, size_t name_size);
int index_state_ext_resize(struct index_state *state, int ext, uint32_t hdr_size,
			   uint32_t record_size);
/* Its data in every record and its header become zeros. */
void index_state_ext_clear(struct index_state *state, int ext);
/* A new keyword where it is not known yet. */
int index_state_keyword(struct index_state *state, const uint8_t *name, size_t name_size,
			unsigned *keyword_r);
/* Where the message is: in the overlay, else in the snapshot, else both are NULL. */
void index_state_locate(const struct index_state *state, uint32_t uid, const uint8_t **snapshot_r,
			const uint8_t **overlay_r);
/* The extension's bytes in a located record; NULL and 0 where it has none. */
const uint8_t *index_state_ext_data(const struct index_state *state, int ext,
				    const uint8_t *snapshot_record, const uint8_t *overlay_record,
				    uint32_t *size_r);
/* The message's record in the overlay, to be changed; copied there if need be. NULL in *record_r:
 * no such message. -ENOMEM. */
int index_state_touch(struct index_state *state, uint32_t uid, uint8_t **record_r);
/* Calls fn with the overlay record of every message in the range. */
typedef void index_state_touch_fn(struct index_state *state, uint8_t *record, const void *ctx);
int index_state_touch_range(struct index_state *state, uint32_t first, uint32_t last,
			    index_state_touch_fn *fn, const void *ctx);
uint64_t index_state_modseq(const struct index_state *state, const uint8_t *snapshot_record,
			    const uint8_t *overlay_record);

/* index_state.c: the last mark whose modseq is not above the given one. False: there is none. */
bool index_state_mark(const struct index_state *state, uint32_t file_seq, uint64_t modseq,
		      uint64_t *offset_r, uint64_t *modseq_r);
/* Before the first record of a transaction is applied. */
void index_state_pass(struct index_state *state, uint32_t file_seq, uint64_t offset);

/* index_requests.c: it asks for a change, which is still to be carried out or was since. */
bool index_log_is_request(const struct index_log_record *record);

/* index_late.c: a record is applied. -ENOMEM. */
void index_late_see_append(struct index_late *late, const struct index_log_record *record,
			   uint32_t uid);
int index_late_see_expunge(struct index_late *late, const struct index_log_record *record,
			   uint32_t uid, const struct guid *guid);
int index_late_see_request(struct index_late *late, uint32_t uid, const struct guid *guid);
void index_late_enter_log(struct index_late *late);
void index_late_free(struct index_late *late);

/* index_apply.c: what one log record does to the state. An index_log_fn with a struct index. */
int index_apply_record(void *ctx, const struct index_log_record *record, struct error *err);

/* index.c */
/* A snapshot of just this state was written: the view goes on from it, and what the log did to
 * records before is not held in memory any more. */
void index_enter_snapshot(struct index *index);
/* Applies what the log has from state.offset on. */
int index_replay(struct index *index, struct error *err);
void index_file_name(const struct index *index, const char *suffix, char *name_r, size_t size);
/* "label/name", for messages. */
const char *index_text(const struct index *index);

/* index_lock.c */
/* Locks the log that the path names and follows it to its end; torn tails are cut off. */
int index_lock(struct index *index, int timeout_ms, struct error *err);
void index_unlock(struct index *index);
/* One descriptor, by the index's method, without the inode check. -EAGAIN. */
int index_lock_fd(enum index_lock_method method, int fd, int timeout_ms);

/* index_files.c: a new file with the directory's owner and mode; -EEXIST. */
int index_file_create(int dirfd, const char *name, int *fd_r);

/* index_cache.c */
void index_cache_free(struct index *index);

/* index_snapshot_write.c: under the lock, at the log's end, with nothing pending. Pointers into
 * records are not valid any more. */
int index_snapshot_write(struct index *index, struct error *err);

#endif
