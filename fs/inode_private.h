/* The inode table's inside: shared by inode_table.c (slots), inode_dirs.c (the LRU of directory
 * descriptors) and inode_slot.c (what a slot says about its inode). For nobody else. */
#ifndef DSYNCFS_FS_INODE_PRIVATE_H
#define DSYNCFS_FS_INODE_PRIVATE_H

#include <assert.h>
#include <pthread.h>
#include "fs/inode_table.h"

#define TABLE_MAGIC    0x64736673696e6f32ULL
#define SLOTS_MAX      (1U << 26)
#define SLOTS_MIN      (1U << 20)
#define HANDLE_LEN_MAX 48 /* ext4 8, XFS 12, btrfs 20 */
#define DIR_FDS_MIN    64 /* more than all threads together hold */
#define DIR_FDS_LIMIT  UINT16_MAX
#define LOOKUPS_MAX    UINT32_MAX /* not counted any more: the inode stays */
#define BUCKETS_MIN    4096
#define CHAIN_MEAN_MAX 2 /* slots of a bucket, before there are twice as many buckets */

enum slot_flag {
	SLOT_DIR = 1,
	SLOT_PRIVS = 2,	    /* may have suid or sgid */
	SLOT_LISTED = 4,    /* a directory: an opener is there whose listing the kernel keeps */
	SLOT_BY_NUMBER = 8, /* the handle is the inode's number, and fd holds it */
};

/* There is one for every inode that the kernel caches, so each byte counts. The table gives the
 * handle the room that its filesystem's handles need (table->slot_bytes): inode_slot_at(), no
 * array. */
struct slot {
	struct place *place;
	uint32_t lookups; /* 0: free */
	uint32_t next;	  /* in its bucket, or in the free list */
	int32_t fd;	  /* -1, or a descriptor that stays (the root, SLOT_BY_NUMBER, nameless) */
	union {
		struct {
			uint16_t ref;	     /* its entry in the LRU; 0: none */
			uint32_t changed_ms; /* when a name in it was last made or removed */
		} dir;			     /* SLOT_DIR */
		struct {
			int32_t backing_id; /* while it is open and passed through; else 0 */
			uint32_t opens;	    /* counted where the kernel passes files through */
		} file;
	};
	uint32_t generation : 24; /* how often the slot was used */
	uint32_t kind : 4;	  /* enum place_file */
	uint32_t flags : 4;	  /* enum slot_flag */
	unsigned char handle[];
};
static_assert(sizeof(struct slot) == 32, "a million inodes must stay cheap");
static_assert(PLACE_FILE_SHARED < 16, "a slot has four bits for a kind");

/* In the memory of slot 0, which is no inode. */
struct table_header {
	uint64_t magic;
	uint32_t slot_bytes;
	uint32_t used; /* slots ever used, slot 0 included */
	uint32_t free; /* first free slot; 0: none */
	uint32_t count;
};
static_assert(sizeof(struct table_header) <= sizeof(struct slot), "the header has one slot's room");

struct dir_fd {
	uint64_t nodeid; /* 0: free, or forgotten while in use */
	int fd;
	unsigned refs;
	unsigned prev, next; /* entry 0 is the ring's head: next is the latest used */
};

struct inode_table {
	pthread_mutex_t lock;
	unsigned char *slots; /* inode_slot_at() */
	struct table_header *header;
	size_t slots_max;
	size_t slot_bytes; /* of one, with its handle */
	int handle_type;   /* of all handles, and so is their length */
	unsigned handle_len;
	int memfd;
	int root_fd;
	int root_mount_id;
	dev_t root_dev;
	bool has_handles;
	uint32_t *buckets;
	uint32_t bucket_mask;
	struct dir_fd *dirs;
	unsigned dirs_max; /* entries 1 to dirs_max */
	unsigned dirs_used;
	unsigned dirs_free; /* list by next; 0: none */
};

/* What an inode is known by. */
struct inode_key {
	bool by_number;
	int fd; /* by_number: the descriptor that would hold the inode, else -1 */
	unsigned char bytes[HANDLE_LEN_MAX];
};

static inline struct slot *inode_slot_at(const struct inode_table *table, uint64_t nodeid)
{
	return (struct slot *)(void *)(table->slots + nodeid * table->slot_bytes);
}

/* With the lock held: NULL where the kernel does not know the nodeid. */
struct slot *inode_slot_of(struct inode_table *table, uint64_t nodeid);
/* The same, and NULL where it is not a directory, or is one. */
struct slot *inode_dir_slot_of(struct inode_table *table, uint64_t nodeid);
struct slot *inode_file_slot_of(struct inode_table *table, uint64_t nodeid);
/* With the lock held: the key, for use without it. */
void inode_slot_key(const struct inode_table *table, const struct slot *slot,
		    struct inode_key *key_r);
/* Opens by handle. Negative errno. */
int inode_open_handle(struct inode_table *table, const struct inode_key *key, int flags);

/* inode_dirs.c. With the lock held: the slot lets go of its entry in the LRU. */
void inode_dirs_drop(struct inode_table *table, struct slot *slot);
/* At the end. */
void inode_dirs_close(struct inode_table *table);

#endif
