/*
 * The storage of an mdbox user: storage/m.N with the messages of all mailboxes, and the map index
 * that says which message (by its map UID) is where and how many mailboxes refer to it (reference
 * 4.3).
 *
 * Used by one thread. Reading takes no lock. -EUCLEAN: map or files are damaged, the text says
 * where. -ENODEV: a file is missing, and so is the alternative storage, where it may be.
 */
#ifndef DSYNCFS_MDBOX_STORAGE_H
#define DSYNCFS_MDBOX_STORAGE_H

#include <stdbool.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/dbox/dbox_file.h"
#include "store/index/index.h"
#include "store/index/index_txn.h"

#define MDBOX_REF_MAX 32767

struct mdbox_storage {
	char *path, *index_path, *alt_path; /* alt_path NULL: no ALT= */
	char *attachments;		    /* dbox_attachment.h; NULL: none */
	int dirfd, index_fd;		    /* index_fd is dirfd where the paths are the same */
	int alt_fd;			    /* -1: none, or not there */
	struct index *map;
	uint32_t rotate_size, rotate_interval;
	bool preallocate;
	/* the file that was read last */
	uint32_t file_id; /* 0: none */
	int file_fd;
	char file_name[4300];
	int64_t recovered_s; /* when what dead writers left was looked for; 0: not yet */
	int64_t unmapped_s;  /* when mdbox_has_unmapped() has looked; 0: not yet */
	bool has_unmapped;
	bool map_is_new; /* map is that of mdbox_map_begin_new() */
};

/* With make, what is missing is made: directories, the map. Else -ENOENT. -EUCLEAN also where a
 * rebuild was begun and not finished. */
struct mdbox_paths {
	const char *path, *index_path, *alt_path;
	uint32_t rotate_size;	  /* 0: the default */
	uint32_t rotate_interval; /* seconds; 0: none */
	bool preallocate;	  /* new files, to their full size */
	const char *attachments;
};
int mdbox_storage_open(const struct mdbox_paths *paths, bool make, struct mdbox_storage **storage_r,
		       struct error *err);
/* As it is: a map that cannot be read is NULL. */
int mdbox_storage_open_damaged(const struct mdbox_paths *paths, struct mdbox_storage **storage_r,
			       struct error *err);
/* Instead of a damaged map: an empty one that nobody else sees, beside it, until mdbox_map_place()
 * puts it in its place with what it has got by then. Who is killed in between has changed nothing.
 * locked: the caller has the lock of the damaged one's log.
 */
int mdbox_map_begin_new(struct mdbox_storage *storage, uint32_t uid_validity, struct error *err);
int mdbox_map_place(struct mdbox_storage *storage, bool locked, struct error *err);
void mdbox_map_discard_new(struct mdbox_storage *storage);
void mdbox_storage_close(struct mdbox_storage **storage);
/* Which every mailbox says it belongs to. */
uint32_t mdbox_storage_uid_validity(const struct mdbox_storage *storage);

struct mdbox_entry {
	uint32_t map_uid, file_id, offset, size;
	uint16_t ref;
};
/* As the map's view has it. -ENOENT: no such map UID. */
int mdbox_map_find(const struct mdbox_storage *storage, uint32_t map_uid,
		   struct mdbox_entry *entry_r);
/* Its extensions are what they should be. */
bool mdbox_map_is_sound(const struct mdbox_storage *storage);
/* The entry of a record of a map, of the storage's. */
void mdbox_map_entry_of(const struct index *map, const struct index_record *record,
			struct mdbox_entry *entry_r);
void mdbox_map_entry(const struct mdbox_storage *storage, const struct index_record *record,
		     struct mdbox_entry *entry_r);

/* The message and the open file it is in (the storage's, until the next call). Looks at the map
 * again before it believes that something is damaged: a purge may have moved the message. */
int mdbox_message_open(struct mdbox_storage *storage, uint32_t map_uid,
		       struct dbox_message *message_r, int *fd_r, struct error *err);
/* Whether files have messages that the map does not know of, or does not know there (as looked for
 * within the last minute): a message that the map says is in a missing file may be one of them.
 * Reads the map and a little of each file. (mdbox_unmapped.c) */
bool mdbox_has_unmapped(struct mdbox_storage *storage);
/* Removes m.N wherever it is, durably. */
int mdbox_file_remove(const struct mdbox_storage *storage, uint32_t file_id);
/* "path/m.N"; in the alternative storage where it is only there. A descriptor or a negative errno.
 */
int mdbox_file_open(struct mdbox_storage *storage, uint32_t file_id, int flags, char *name_r,
		    size_t name_size);
void mdbox_file_name(uint32_t file_id, char name_r[16]);
/* 0: not the name of one. */
uint32_t mdbox_file_id(const char *name);

/* Locks the map and brings the view up to its end. -EUCLEAN when the last writer did not finish. */
int mdbox_map_begin(struct mdbox_storage *storage, struct index_txn **txn_r, struct error *err);
/* Changes of the map; external records, so the tail follows. */
int mdbox_map_add(struct index_txn *txn, const struct mdbox_entry *entry, struct error *err);
int mdbox_map_move(struct index_txn *txn, const struct mdbox_entry *entry, struct error *err);
int mdbox_map_set_ref(struct index_txn *txn, uint32_t map_uid, uint16_t ref, struct error *err);
int mdbox_map_refer(struct index_txn *txn, uint32_t map_uid, int32_t diff, struct error *err);
int mdbox_map_set_highest_file(struct index_txn *txn, uint32_t file_id, struct error *err);
int mdbox_map_set_rebuild_count(struct index_txn *txn, uint32_t count, struct error *err);
/* Each of the map UIDs (sorted here) has one reference less for each time that it is listed;
 * written, and the map stays locked. */
int mdbox_map_drop(struct mdbox_storage *storage, struct index_txn *txn, uint32_t *map_uids,
		   size_t count, struct error *err);
/* Where the last message that the map knows of a file ends; 0: it knows none. */
uint64_t mdbox_mapped_end(const struct mdbox_storage *storage, uint32_t file_id);
uint32_t mdbox_map_highest_file(const struct mdbox_storage *storage);
uint32_t mdbox_map_rebuild_count(const struct mdbox_storage *storage);
void mdbox_map_options(const struct mdbox_storage *storage, struct index_options *options_r);

/* ---- appending: under the map's lock (mdbox_append.c) ---- */

struct mdbox_append;
/* Messages are added one after the other to the ends of m.N files, old and new ones. */
int mdbox_append_begin(struct mdbox_storage *storage, struct index_txn *map_txn,
		       struct mdbox_append **append_r, struct error *err);
/* A file whose messages must not be added to (one that is being purged); before the first add. */
void mdbox_append_avoid(struct mdbox_append *append, uint32_t file_id);
/* In the alternative storage, which is there; before the first add. */
void mdbox_append_in_alt(struct mdbox_append *append);
/* Only new files, with numbers above this one; before the first add. */
void mdbox_append_only_new(struct mdbox_append *append, uint32_t highest);
/* body_fd: size bytes of body from body_offset on. entry_r: where it will be, without a map_uid. */
int mdbox_append_message(struct mdbox_append *append, int body_fd, uint64_t body_offset,
			 uint64_t body_size, const struct dbox_metadata *metadata,
			 struct mdbox_entry *entry_r, struct error *err);
/* The numbers of the files that mdbox_append_sync() will make; to be freed. */
int mdbox_append_list_new(const struct mdbox_append *append, uint32_t **files_r, size_t *count_r,
			  struct error *err);
/* Everything is in its files and durable; new files have their names, and the map transaction the
 * highest of them. The files stay locked until mdbox_append_end(). */
int mdbox_append_sync(struct mdbox_append *append, struct error *err);
/* committed: the map has it. Else files are cut back and new ones removed. */
void mdbox_append_end(struct mdbox_append **append, bool committed);

/* ---- who refers to what (mdbox_refs.c) ---- */

/* Calls each() with the index directory of every mailbox of the storage ("path", below
 * mailboxes/). */
typedef int mdbox_box_fn(void *ctx, int dirfd, const char *path, struct error *err);
int mdbox_each_box(const struct mdbox_storage *storage, mdbox_box_fn *each, void *ctx,
		   struct error *err);
/* How many messages of all mailboxes refer to each of the map UIDs (ascending). Fails where a
 * mailbox cannot be read: nothing may be concluded then. */
int mdbox_count_refs(const struct mdbox_storage *storage, const uint32_t *map_uids, size_t count,
		     uint32_t *refs_r, struct error *err);

/* ---- counts that are higher than there are references (mdbox_counts.c) ---- */

struct mdbox_counts {
	uint32_t *map_uids, *refs, *kept; /* refs: as counted; kept: what the map says */
	size_t count;
};
/* Looks twice, the second time under the map's lock: whoever was between its two transactions at
 * the first look holds that until it is done. *txn_r: has the lock; NULL where nothing is wrong.
 * counts_r is to be freed in any case. */
int mdbox_counts_too_high(struct mdbox_storage *storage, struct mdbox_counts *counts_r,
			  struct index_txn **txn_r, struct error *err);
void mdbox_counts_free(struct mdbox_counts *counts);
/* Logs, and returns, how many of them no mailbox has. */
uint32_t mdbox_counts_tell(const struct mdbox_storage *storage, const struct mdbox_counts *counts);

/* ---- writers that were killed (mdbox_recover.c) ---- */

/*
 * A change of a mailbox that changes references is two transactions, the map's and the mailbox's.
 * Their order sees to it that a writer killed in between leaves counts that are too high, never
 * too low: then no body is purged that is still referred to, but one that nobody has would stay,
 * and come back as a message when Dovecot rebuilds the storage. So an intent (dbox_intent.h) in the
 * storage says which map UIDs are being changed, until they are. It names the files, too, that get
 * their name before the map knows them, or lose it after the map has forgotten them.
 */
/* Before a change, at most once a minute: corrects the counts of what dead writers left, and
 * removes their files. */
int mdbox_recover(struct mdbox_storage *storage, struct error *err);

/* ---- rebuilds that were killed (mdbox_rebuild_mark.c) ---- */

bool mdbox_rebuild_is_unfinished(const struct mdbox_storage *storage);
/* One at a time. *mark_r is for mdbox_rebuild_unmark(). 1: there was one just now, and it is done.
 */
int mdbox_rebuild_mark(const struct mdbox_storage *storage, int *mark_r, struct error *err);
/* done false: whoever opens the storage next has to do it again. -1 is accepted. */
void mdbox_rebuild_unmark(const struct mdbox_storage *storage, int *mark, bool done);

/* ---- mdbox_purge.c ---- */

struct mdbox_purged {
	uint32_t files, messages, corrected; /* corrected: counts that were too high */
	uint32_t unclaimed;		     /* kept, though no mailbox has them */
	uint64_t bytes;			     /* of what is gone */
};
/* Removes what nobody refers to, as `doveadm purge` does, and beside it. A file that somebody is
 * appending to is left for the next time. */
int mdbox_purge(struct mdbox_storage *storage, struct mdbox_purged *purged_r, struct error *err);

#endif
