/* The inode table's inside: shared by inode_table.c (slots), inode_dirs.c (the LRU of directory
 * descriptors) and inode_slot.c (what a slot says about its inode). For nobody else. */
#ifndef DSYNCFS_FS_INODE_PRIVATE_H
#define DSYNCFS_FS_INODE_PRIVATE_H

#include <assert.h>
#include <pthread.h>
#include "fs/inode_table.h"

#define TABLE_MAGIC	  0x64736673696e6f31ULL
#define SLOTS_MAX	  (1U << 26)
#define SLOTS_MIN	  (1U << 20)
#define HANDLE_INLINE_MAX 48   /* ext4 8, XFS 12 to 16, btrfs up to 40 */
#define HANDLE_NONE	  (-1) /* the key is (device, number), and fd holds the inode */
#define DIR_FDS_MIN	  64   /* more than all threads together hold */
#define BUCKETS_MIN	  4096

enum slot_flag {
	SLOT_DIR = 1,
	SLOT_PRIVS = 2, /* may have suid or sgid */
};

struct slot {
	uint64_t lookups; /* 0: free */
	struct place *place;
	uint32_t generation;
	uint32_t next; /* in its bucket, or in the free list */
	uint32_t hash;
	uint32_t dir_ref; /* its entry in the LRU; 0: none */
	int32_t fd;	  /* -1, or a descriptor that stays (the root, HANDLE_NONE, nameless) */
	int32_t handle_type;
	int32_t backing_id; /* while it is open and passed through; else 0 */
	uint32_t opens;	    /* counted where the kernel passes files through */
	uint8_t handle_len;
	uint8_t kind; /* enum place_file */
	uint8_t flags;
	bool listed;
	unsigned char handle[HANDLE_INLINE_MAX];
	uint32_t listers;    /* of a directory: open listings that the kernel caches */
	uint32_t changed_ms; /* when a name in it was last made or removed */
};
static_assert(sizeof(struct slot) <= 112, "a million inodes must stay cheap");

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
	struct slot *slots;
	struct table_header *header;
	size_t slots_max;
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
	int32_t type;
	uint8_t len;
	int fd; /* HANDLE_NONE: the descriptor that would hold the inode, else -1 */
	unsigned char bytes[HANDLE_INLINE_MAX];
};

/* With the lock held: NULL where the kernel does not know the nodeid. */
struct slot *inode_slot_of(struct inode_table *table, uint64_t nodeid);
/* Opens by the slot's handle. Negative errno. */
int inode_open_handle(struct inode_table *table, const struct slot *slot, int flags);

/* inode_dirs.c. With the lock held: the slot lets go of its entry in the LRU. */
void inode_dirs_drop(struct inode_table *table, struct slot *slot);
/* At the end. */
void inode_dirs_close(struct inode_table *table);

#endif
