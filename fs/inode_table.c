/* The inode table: slots in a memfd, found by file handle, and the LRU of directory descriptors.
 * See inode_table.h. */
#include "fs/inode_table.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TABLE_MAGIC	  0x64736673696e6f31ULL
#define SLOTS_MAX	  (1U << 26)
#define SLOTS_MIN	  (1U << 20)
#define HANDLE_INLINE_MAX 48   /* ext4 8, XFS 12 to 16, btrfs up to 40 */
#define HANDLE_NONE	  (-1) /* the key is (device, number), and fd holds the inode */
#define DIR_FDS_MIN	  64   /* more than all threads together hold */
#define BUCKETS_MIN	  4096

enum slot_flag {
	SLOT_DIR = 1,
	SLOT_PRIVS = 2,	 /* may have suid or sgid */
	SLOT_COPIED = 4, /* not to be passed through */
};

struct slot {
	uint64_t lookups; /* 0: free */
	struct place *place;
	uint32_t generation;
	uint32_t next; /* in its bucket, or in the free list */
	uint32_t hash;
	uint32_t dir_ref; /* its entry in the LRU; 0: none */
	int32_t fd;	  /* -1, or a descriptor that stays (the root, HANDLE_NONE) */
	int32_t handle_type;
	int32_t backing_id; /* pass-through; 0: none */
	uint32_t backing_opens;
	uint8_t handle_len;
	uint8_t kind; /* enum place_file */
	uint8_t flags;
	uint8_t spare;
	unsigned char handle[HANDLE_INLINE_MAX];
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

/* The handle's bytes follow its struct. */
union handle_buf {
	struct file_handle handle;
	char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

static uint32_t key_hash(const struct inode_key *key)
{
	uint64_t hash = 1469598103934665603ULL ^ (uint32_t)key->type;

	for (unsigned i = 0; i < key->len; i++)
		hash = (hash ^ key->bytes[i]) * 1099511628211ULL;
	return (uint32_t)(hash ^ (hash >> 32));
}

static int map_slots(struct inode_table *table)
{
	table->memfd = memfd_create("dsyncfs-inodes", MFD_CLOEXEC);
	if (table->memfd < 0)
		return -errno;
	/* The memory is taken as slots are used; only address space is reserved. */
	for (size_t slots = SLOTS_MAX; slots >= SLOTS_MIN; slots /= 4) {
		size_t bytes = slots * sizeof(struct slot);
		void *map;

		if (ftruncate(table->memfd, (off_t)bytes) < 0)
			continue;
		map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			   table->memfd, 0);
		if (map == MAP_FAILED)
			continue;
		table->slots = map;
		table->slots_max = slots;
		return 0;
	}
	return -ENOMEM;
}

/* The handle of name below dir_fd, or of dir_fd itself for "". */
static int read_handle(struct inode_table *table, int dir_fd, const char *name,
		       struct inode_key *key_r)
{
	union handle_buf buf;
	int mount_id = -1;

	buf.handle.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(dir_fd, name, &buf.handle, &mount_id, name[0] ? 0 : AT_EMPTY_PATH) <
	    0)
		return -errno;
	if (mount_id != table->root_mount_id)
		return -EXDEV;
	if (buf.handle.handle_bytes > HANDLE_INLINE_MAX)
		return -EOPNOTSUPP;
	key_r->type = buf.handle.handle_type;
	key_r->len = (uint8_t)buf.handle.handle_bytes;
	key_r->fd = -1;
	memcpy(key_r->bytes, buf.room + sizeof buf.handle, buf.handle.handle_bytes);
	return 0;
}

static int probe_root(struct inode_table *table)
{
	union handle_buf buf;
	struct stat st;
	int fd;

	if (fstat(table->root_fd, &st) < 0)
		return -errno;
	table->root_dev = st.st_dev;
	buf.handle.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(table->root_fd, "", &buf.handle, &table->root_mount_id,
			      AT_EMPTY_PATH) < 0)
		return errno == EOPNOTSUPP || errno == EPERM || errno == ENOSYS ? 0 : -errno;
	if (buf.handle.handle_bytes > HANDLE_INLINE_MAX)
		return 0;
	/* A filesystem may give handles that it does not take, or not from us. */
	fd = open_by_handle_at(table->root_fd, &buf.handle, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return 0;
	close(fd);
	table->has_handles = true;
	return 0;
}

static void set_root_slot(struct inode_table *table)
{
	struct slot *root = &table->slots[INODE_ROOT];

	root->lookups = 1;
	root->fd = table->root_fd;
	root->flags = SLOT_DIR;
	root->handle_type = HANDLE_NONE;
	table->header->magic = TABLE_MAGIC;
	table->header->slot_bytes = sizeof(struct slot);
	table->header->used = INODE_ROOT + 1;
	table->header->count = 1;
}

int inode_table_create(int root_fd, unsigned dir_fds_max, struct inode_table **table_r,
		       struct error *err)
{
	struct inode_table *table = calloc(1, sizeof *table);
	int rc = -ENOMEM;

	*table_r = NULL;
	if (!table)
		return error_set(err, -ENOMEM, "inode table: out of memory");
	pthread_mutex_init(&table->lock, NULL);
	table->memfd = -1;
	table->root_fd = root_fd;
	table->dirs_max = dir_fds_max < DIR_FDS_MIN ? DIR_FDS_MIN : dir_fds_max;
	table->dirs = calloc(table->dirs_max + 1UL, sizeof *table->dirs);
	table->buckets = calloc(BUCKETS_MIN, sizeof *table->buckets);
	table->bucket_mask = BUCKETS_MIN - 1;
	if (table->dirs && table->buckets)
		rc = map_slots(table);
	if (rc == 0) {
		table->header = (struct table_header *)table->slots;
		rc = probe_root(table);
	}
	if (rc < 0) {
		inode_table_free(&table, NULL);
		return error_errno(err, rc, "inode table");
	}
	set_root_slot(table);
	*table_r = table;
	return 0;
}

void inode_table_free(struct inode_table **table, struct places *places)
{
	struct inode_table *t = *table;

	if (!t)
		return;
	for (unsigned i = 1; t->dirs && i <= t->dirs_used; i++) {
		if (t->dirs[i].fd > 0)
			close(t->dirs[i].fd);
	}
	for (uint32_t i = INODE_ROOT; t->header && i < t->header->used; i++) {
		struct slot *slot = &t->slots[i];

		if (slot->lookups == 0)
			continue;
		if (slot->fd >= 0 && i != INODE_ROOT)
			close(slot->fd);
		if (places && i != INODE_ROOT)
			place_unref(places, slot->place);
	}
	if (t->slots)
		munmap(t->slots, t->slots_max * sizeof(struct slot));
	if (t->memfd >= 0)
		close(t->memfd);
	free(t->dirs);
	free(t->buckets);
	pthread_mutex_destroy(&t->lock);
	free(t);
	*table = NULL;
}

bool inode_table_has_handles(const struct inode_table *table)
{
	return table->has_handles;
}

static struct slot *slot_of(struct inode_table *table, uint64_t nodeid)
{
	if (nodeid < INODE_ROOT || nodeid >= table->header->used || !table->slots[nodeid].lookups)
		return NULL;
	return &table->slots[nodeid];
}

static uint32_t find_locked(struct inode_table *table, const struct inode_key *key, uint32_t hash)
{
	uint32_t i = table->buckets[hash & table->bucket_mask];

	while (i) {
		const struct slot *slot = &table->slots[i];

		if (slot->hash == hash && slot->handle_type == key->type &&
		    slot->handle_len == key->len && memcmp(slot->handle, key->bytes, key->len) == 0)
			break;
		i = slot->next;
	}
	return i;
}

static void grow_buckets(struct inode_table *table)
{
	uint32_t size = (table->bucket_mask + 1) * 2;
	uint32_t *buckets = calloc(size, sizeof *buckets);

	if (!buckets)
		return; /* longer chains, no harm */
	for (uint32_t old = 0; old <= table->bucket_mask; old++) {
		uint32_t i = table->buckets[old];

		while (i) {
			struct slot *slot = &table->slots[i];
			uint32_t next = slot->next;

			slot->next = buckets[slot->hash & (size - 1)];
			buckets[slot->hash & (size - 1)] = i;
			i = next;
		}
	}
	free(table->buckets);
	table->buckets = buckets;
	table->bucket_mask = size - 1;
}

static uint32_t take_slot(struct inode_table *table)
{
	uint32_t i = table->header->free;

	if (i) {
		table->header->free = table->slots[i].next;
		return i;
	}
	if (table->header->used >= table->slots_max)
		return 0;
	return table->header->used++;
}

/* Finds or makes the slot and counts a lookup. Takes key->fd over. */
static int enter_key(struct inode_table *table, struct inode_key *key, struct inode_entry *entry_r)
{
	uint32_t hash = key_hash(key), i;
	struct slot *slot;

	pthread_mutex_lock(&table->lock);
	i = find_locked(table, key, hash);
	if (i) {
		slot = &table->slots[i];
		slot->lookups++;
		if (key->fd >= 0)
			close(key->fd);
	} else {
		i = take_slot(table);
		if (!i) {
			pthread_mutex_unlock(&table->lock);
			if (key->fd >= 0)
				close(key->fd);
			return -ENFILE;
		}
		if (table->header->count > table->bucket_mask)
			grow_buckets(table);
		slot = &table->slots[i];
		slot->generation++;
		slot->lookups = 1;
		slot->place = NULL;
		slot->hash = hash;
		slot->dir_ref = 0;
		slot->fd = key->fd;
		slot->handle_type = key->type;
		slot->handle_len = key->len;
		slot->backing_id = 0;
		slot->backing_opens = 0;
		slot->kind = PLACE_FILE_OTHER;
		slot->flags = S_ISDIR(entry_r->stat.st_mode) ? SLOT_DIR : 0;
		memcpy(slot->handle, key->bytes, key->len);
		slot->next = table->buckets[hash & table->bucket_mask];
		table->buckets[hash & table->bucket_mask] = i;
		table->header->count++;
	}
	if (entry_r->stat.st_mode & (S_ISUID | S_ISGID))
		slot->flags |= SLOT_PRIVS;
	entry_r->nodeid = i;
	entry_r->generation = slot->generation;
	pthread_mutex_unlock(&table->lock);
	return 0;
}

static void key_from_stat(const struct stat *st, int fd, struct inode_key *key_r)
{
	uint64_t words[2] = {(uint64_t)st->st_dev, (uint64_t)st->st_ino};

	key_r->type = HANDLE_NONE;
	key_r->len = sizeof words;
	key_r->fd = fd;
	memcpy(key_r->bytes, words, sizeof words);
}

static int lookup_without_handle(struct inode_table *table, int dir_fd, const char *name,
				 struct inode_entry *entry_r)
{
	struct inode_key key;
	int fd = name[0] ? openat(dir_fd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC)
			 : fcntl(dir_fd, F_DUPFD_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &entry_r->stat) < 0) {
		int rc = -errno;

		close(fd);
		return rc;
	}
	if (entry_r->stat.st_dev != table->root_dev) {
		close(fd);
		return -EXDEV;
	}
	key_from_stat(&entry_r->stat, fd, &key);
	return enter_key(table, &key, entry_r);
}

int inode_lookup(struct inode_table *table, int dir_fd, const char *name,
		 struct inode_entry *entry_r)
{
	struct inode_key key;
	int rc = -EOPNOTSUPP;

	if (table->has_handles)
		rc = read_handle(table, dir_fd, name, &key);
	if (rc == -EOPNOTSUPP || rc == -EOVERFLOW)
		return lookup_without_handle(table, dir_fd, name, entry_r);
	if (rc < 0)
		return rc;
	/* The kernel holds the directory's lock, so the name cannot change between the calls. */
	if (fstatat(dir_fd, name, &entry_r->stat,
		    AT_SYMLINK_NOFOLLOW | (name[0] ? 0 : AT_EMPTY_PATH)) < 0)
		return -errno;
	if (entry_r->stat.st_dev != table->root_dev)
		return -EXDEV;
	return enter_key(table, &key, entry_r);
}

int inode_lookup_fd(struct inode_table *table, int fd, struct inode_entry *entry_r)
{
	return inode_lookup(table, fd, "", entry_r);
}

uint64_t inode_peek(struct inode_table *table, int dir_fd, const char *name)
{
	struct inode_key key;
	uint64_t nodeid;
	int rc = -EOPNOTSUPP;

	if (table->has_handles)
		rc = read_handle(table, dir_fd, name, &key);
	if (rc == -EOPNOTSUPP || rc == -EOVERFLOW) {
		struct stat st;

		if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
			return 0;
		key_from_stat(&st, -1, &key);
	} else if (rc < 0) {
		return 0;
	}
	pthread_mutex_lock(&table->lock);
	nodeid = find_locked(table, &key, key_hash(&key));
	pthread_mutex_unlock(&table->lock);
	return nodeid;
}

/* ---- the LRU of directory descriptors ---- */

static void dir_unlink(struct inode_table *table, unsigned ref)
{
	struct dir_fd *entry = &table->dirs[ref];

	table->dirs[entry->prev].next = entry->next;
	table->dirs[entry->next].prev = entry->prev;
}

static void dir_push_front(struct inode_table *table, unsigned ref)
{
	struct dir_fd *head = &table->dirs[0], *entry = &table->dirs[ref];

	entry->prev = 0;
	entry->next = head->next;
	table->dirs[head->next].prev = ref;
	head->next = ref;
}

/* Takes the entry out of the ring and closes its descriptor. */
static void dir_release(struct inode_table *table, unsigned ref)
{
	struct dir_fd *entry = &table->dirs[ref];

	dir_unlink(table, ref);
	close(entry->fd);
	entry->fd = 0;
	entry->nodeid = 0;
	entry->next = table->dirs_free;
	table->dirs_free = ref;
}

/* An unused entry; the least recently used one is closed for it. 0: all are in use. */
static unsigned dir_take(struct inode_table *table)
{
	unsigned ref;

	if (!table->dirs_free && table->dirs_used < table->dirs_max)
		return ++table->dirs_used;
	if (!table->dirs_free) {
		ref = table->dirs[0].prev;
		while (ref && table->dirs[ref].refs)
			ref = table->dirs[ref].prev;
		if (!ref)
			return 0;
		if (table->dirs[ref].nodeid)
			table->slots[table->dirs[ref].nodeid].dir_ref = 0;
		dir_release(table, ref);
	}
	ref = table->dirs_free;
	table->dirs_free = table->dirs[ref].next;
	return ref;
}

static int open_handle(struct inode_table *table, const struct slot *slot, int flags)
{
	union handle_buf buf;
	int fd;

	buf.handle.handle_type = slot->handle_type;
	buf.handle.handle_bytes = slot->handle_len;
	memcpy(buf.room + sizeof buf.handle, slot->handle, slot->handle_len);
	fd = open_by_handle_at(table->root_fd, &buf.handle, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int inode_dir_get(struct inode_table *table, uint64_t nodeid, unsigned *ref_r)
{
	struct slot *slot, copy;
	unsigned ref;
	int fd;

	*ref_r = 0;
	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	if (!slot || slot->fd >= 0) {
		fd = slot ? slot->fd : -ESTALE;
		goto out;
	}
	if (!slot->dir_ref) {
		copy = *slot;
		pthread_mutex_unlock(&table->lock);
		fd = open_handle(table, &copy, O_PATH | O_DIRECTORY);
		if (fd < 0)
			return fd;
		pthread_mutex_lock(&table->lock);
		if (slot->dir_ref) {
			close(fd); /* another thread was as fast */
		} else {
			ref = dir_take(table);
			if (!ref) {
				close(fd);
				fd = -EMFILE;
				goto out;
			}
			table->dirs[ref] = (struct dir_fd){.nodeid = nodeid, .fd = fd};
			dir_push_front(table, ref);
			slot->dir_ref = ref;
		}
	}
	ref = slot->dir_ref;
	table->dirs[ref].refs++;
	if (table->dirs[0].next != ref) {
		dir_unlink(table, ref);
		dir_push_front(table, ref);
	}
	*ref_r = ref;
	fd = table->dirs[ref].fd;
out:
	pthread_mutex_unlock(&table->lock);
	return fd;
}

void inode_dir_put(struct inode_table *table, unsigned ref)
{
	if (!ref)
		return;
	pthread_mutex_lock(&table->lock);
	if (--table->dirs[ref].refs == 0 && table->dirs[ref].nodeid == 0)
		dir_release(table, ref);
	pthread_mutex_unlock(&table->lock);
}

struct place *inode_forget(struct inode_table *table, uint64_t nodeid, uint64_t count)
{
	struct place *place = NULL;
	struct slot *slot;
	uint32_t *link;

	if (nodeid == INODE_ROOT)
		return NULL;
	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	if (!slot || slot->lookups > count) {
		if (slot)
			slot->lookups -= count;
		goto out;
	}
	link = &table->buckets[slot->hash & table->bucket_mask];
	while (*link != nodeid)
		link = &table->slots[*link].next;
	*link = slot->next;
	if (slot->dir_ref) {
		table->dirs[slot->dir_ref].nodeid = 0;
		if (table->dirs[slot->dir_ref].refs == 0)
			dir_release(table, slot->dir_ref);
		slot->dir_ref = 0;
	}
	if (slot->fd >= 0)
		close(slot->fd);
	place = slot->place;
	slot->place = NULL;
	slot->fd = -1;
	slot->lookups = 0;
	slot->next = table->header->free;
	table->header->free = (uint32_t)nodeid;
	table->header->count--;
out:
	pthread_mutex_unlock(&table->lock);
	return place;
}

int inode_open(struct inode_table *table, uint64_t nodeid, int flags)
{
	struct slot *slot, copy;
	char path[64];
	int fd;

	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	if (slot)
		copy = *slot;
	pthread_mutex_unlock(&table->lock);
	if (!slot)
		return -ESTALE;
	if (copy.fd < 0)
		return open_handle(table, &copy, flags & ~O_NOFOLLOW);
	if (flags & O_PATH) {
		fd = fcntl(copy.fd, F_DUPFD_CLOEXEC, 0);
	} else {
		snprintf(path, sizeof path, "/proc/self/fd/%d", copy.fd);
		fd = open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC);
	}
	return fd < 0 ? -errno : fd;
}

/* ---- what a slot says about its inode ---- */

struct place *inode_place(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;
	struct place *place;

	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	place = slot ? slot->place : NULL;
	pthread_mutex_unlock(&table->lock);
	return place;
}

bool inode_set_place(struct inode_table *table, uint64_t nodeid, struct place *place,
		     enum place_file kind)
{
	struct slot *slot;
	bool set;

	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	set = slot && !slot->place;
	if (set) {
		slot->place = place;
		slot->kind = (uint8_t)kind;
	}
	pthread_mutex_unlock(&table->lock);
	return set;
}

struct place *inode_replace_place(struct inode_table *table, uint64_t nodeid, struct place *place,
				  enum place_file kind)
{
	struct place *old = place;
	struct slot *slot;

	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	if (slot) {
		old = slot->place;
		slot->place = place;
		slot->kind = (uint8_t)kind;
	}
	pthread_mutex_unlock(&table->lock);
	return old;
}

struct place *inode_watch_get(struct inode_table *table, struct places *places, uint64_t nodeid,
			      enum place_file *kind_r)
{
	struct place *place = NULL;
	struct slot *slot;

	*kind_r = PLACE_FILE_OTHER;
	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	if (slot && !(slot->flags & SLOT_DIR) && slot->place) {
		place = slot->place;
		*kind_r = (enum place_file)slot->kind;
		place_ref(places, place);
	}
	pthread_mutex_unlock(&table->lock);
	return place;
}

enum place_file inode_kind(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot = slot_of(table, nodeid);

	return slot ? (enum place_file)slot->kind : PLACE_FILE_OTHER;
}

bool inode_is_dir(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot = slot_of(table, nodeid);

	return slot && (slot->flags & SLOT_DIR);
}

bool inode_may_have_privs(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot = slot_of(table, nodeid);

	return slot && (slot->flags & SLOT_PRIVS);
}

void inode_note_mode(struct inode_table *table, uint64_t nodeid, mode_t mode)
{
	struct slot *slot;

	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	if (slot && (mode & (S_ISUID | S_ISGID)))
		slot->flags |= SLOT_PRIVS;
	else if (slot)
		slot->flags &= (uint8_t)~SLOT_PRIVS;
	pthread_mutex_unlock(&table->lock);
}

int inode_backing_open(struct inode_table *table, uint64_t nodeid, inode_backing_fn *make,
		       void *ctx)
{
	struct slot *slot;
	int id = 0;

	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	if (!slot || (slot->flags & SLOT_COPIED))
		goto out;
	if (slot->backing_id == 0) {
		/* Once some opener has it copied, it stays so: both at a time are refused. */
		id = slot->flags & SLOT_PRIVS ? 0 : make(ctx);
		if (id <= 0) {
			slot->flags |= SLOT_COPIED;
			id = 0;
			goto out;
		}
		slot->backing_id = id;
	}
	id = slot->backing_id;
	slot->backing_opens++;
out:
	pthread_mutex_unlock(&table->lock);
	return id;
}

int inode_backing_release(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;
	int id = 0;

	pthread_mutex_lock(&table->lock);
	slot = slot_of(table, nodeid);
	if (slot && slot->backing_opens && --slot->backing_opens == 0) {
		id = slot->backing_id;
		slot->backing_id = 0;
	}
	pthread_mutex_unlock(&table->lock);
	return id;
}

void inode_table_stats(struct inode_table *table, struct inode_table_stats *stats_r)
{
	pthread_mutex_lock(&table->lock);
	stats_r->inodes = table->header->count;
	stats_r->slots = table->header->used - 1;
	stats_r->dir_fds = 0;
	for (unsigned ref = table->dirs[0].next; ref; ref = table->dirs[ref].next)
		stats_r->dir_fds++;
	stats_r->slot_bytes = sizeof(struct slot);
	pthread_mutex_unlock(&table->lock);
}
