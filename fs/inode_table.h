/*
 * The inodes that the kernel knows, as slots of a table: a nodeid is a slot's index.
 *
 * An inode is known by its file handle (which holds the backing inode's number and generation, so a
 * number used again is another inode), not by a descriptor: a million cached files cost no
 * descriptor. Directories keep an O_PATH descriptor in an LRU, since every operation on a name
 * needs one; files are opened by handle when they are opened. Where the backing filesystem has no
 * handles an inode is known by its number and keeps a descriptor; inode_table_has_handles() says
 * so. So is one whose handle is of another type or length than the root's.
 *
 * A slot is 32 bytes and the handle (8 bytes on ext4), its part of the buckets 2 to 4: a million
 * cached files are 40 MiB.
 *
 * The slots live in a memfd, so that a successor can take the table over; `place` is a pointer of
 * this process, which a successor makes again.
 *
 * Thread-safe. A slot that the kernel refers to (the subject of a request) does not go away while
 * the request is not answered, so its place may be used without a lock.
 */
#ifndef DSYNCFS_FS_INODE_TABLE_H
#define DSYNCFS_FS_INODE_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include "fs/place.h"
#include "store/base/error.h"

#define INODE_ROOT 1

struct inode_table;

struct inode_entry {
	uint64_t nodeid;
	uint64_t generation;
	struct stat stat;
};

/* root_fd stays the caller's. dir_fds_max: descriptors the LRU may keep, 64 to 65535. */
int inode_table_create(int root_fd, unsigned dir_fds_max, struct inode_table **table_r,
		       struct error *err);
/* Frees the table; places are let go of in `places`. */
void inode_table_free(struct inode_table **table, struct places *places);
bool inode_table_has_handles(const struct inode_table *table);

/* Looks `name` in the directory dir_fd up and counts a lookup. -EXDEV: it is on another filesystem.
 */
int inode_lookup(struct inode_table *table, int dir_fd, const char *name,
		 struct inode_entry *entry_r);
/* As inode_lookup for an open file of any kind (O_PATH too). */
int inode_lookup_fd(struct inode_table *table, int fd, struct inode_entry *entry_r);
/* The nodeid of `name` if the kernel knows it, without counting a lookup; 0: it does not, or there
 * is no such name. */
uint64_t inode_peek(struct inode_table *table, int dir_fd, const char *name);
/* The kernel forgets count lookups. Returns the slot's place, for the caller to let go of, when
 * that was the last one. (An inode that was looked up 4294967295 times is never forgotten.) */
struct place *inode_forget(struct inode_table *table, uint64_t nodeid, uint64_t count);

/* An O_PATH descriptor of a directory, the caller's to use until inode_dir_put(). Negative errno;
 * -ESTALE: it is gone. */
int inode_dir_get(struct inode_table *table, uint64_t nodeid, unsigned *ref_r);
void inode_dir_put(struct inode_table *table, unsigned ref);

/* A new descriptor of any inode; flags as open(2). Negative errno. */
int inode_open(struct inode_table *table, uint64_t nodeid, int flags);

/* fd: an O_PATH descriptor of an inode that has just lost a name. If it was the last one and the
 * kernel still knows the inode (somebody has it open, or is in it), the table takes the descriptor
 * over, and *fd is -1: nothing else keeps it until it is forgotten. */
void inode_keep(struct inode_table *table, int *fd);

/* The slot's place: of a directory its own, of a watched file its directory's. */
struct place *inode_place(struct inode_table *table, uint64_t nodeid);
/* Sets it unless there is one already (then false: the caller keeps its reference). */
bool inode_set_place(struct inode_table *table, uint64_t nodeid, struct place *place,
		     enum place_file kind);
/* Replaces place and kind; returns the former place for the caller to let go of. */
struct place *inode_replace_place(struct inode_table *table, uint64_t nodeid, struct place *place,
				  enum place_file kind);
/* Of a file that has a place: that, with a reference for the caller, and its kind. NULL: it has
 * none.
 */
struct place *inode_watch_get(struct inode_table *table, struct places *places, uint64_t nodeid,
			      enum place_file *kind_r);
enum place_file inode_kind(struct inode_table *table, uint64_t nodeid);
bool inode_is_dir(struct inode_table *table, uint64_t nodeid);

/* Whether the inode may have suid or sgid set, as the last attributes said. */
bool inode_may_have_privs(struct inode_table *table, uint64_t nodeid);
void inode_note_mode(struct inode_table *table, uint64_t nodeid, mode_t mode);

/* A directory is being opened: whether the kernel may keep what this opener lists, and give it what
 * is kept. What it keeps of two openers it puts together; and where one of two finds that what is
 * kept is old, the other goes on in the middle of what is new. A listing made of two moments lacks
 * a name that was changed between them: a mail that seems to be gone. So: only when nothing has
 * changed for LISTING_QUIET_MS, and one opener at a time; others are told by us. */
#define LISTING_QUIET_MS 1000
bool inode_listing_open(struct inode_table *table, uint64_t nodeid);
/* Such an opener has closed. */
void inode_listing_close(struct inode_table *table, uint64_t nodeid);
/* A name in the directory was made or removed. */
void inode_dir_changed(struct inode_table *table, uint64_t nodeid);

/* Pass-through: counts an opener of the file, and returns the backing id that all its openers
 * share, or 0: it is copied. The first opener decides for those that come while any is there, since
 * the kernel refuses to mix them: make() gives it an id, or none; NULL: it must be copied. A file
 * with suid or sgid is. */
typedef int inode_backing_fn(void *ctx);
int inode_backing_open(struct inode_table *table, uint64_t nodeid, inode_backing_fn *make,
		       void *ctx);
/* The opener is gone. Returns the id when it was the last one, for the caller to close; else 0. */
int inode_backing_release(struct inode_table *table, uint64_t nodeid);

struct inode_table_stats {
	uint64_t inodes;   /* known now */
	uint64_t slots;	   /* ever used */
	unsigned dir_fds;  /* descriptors in the LRU */
	size_t slot_bytes; /* of one slot */
};
void inode_table_stats(struct inode_table *table, struct inode_table_stats *stats_r);

#endif
