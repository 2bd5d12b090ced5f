/* The inode table: slots in a memfd, found by file handle. See inode_table.h. */
#include "fs/inode_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* The handle's bytes follow its struct. */
union handle_buf {
	struct file_handle handle;
	char room[sizeof(struct file_handle) + MAX_HANDLE_SZ];
};

static unsigned key_len(const struct inode_table *table, bool by_number)
{
	return by_number ? (unsigned)sizeof(ino_t) : table->handle_len;
}

static uint32_t hash_key(const unsigned char *bytes, unsigned len)
{
	uint64_t hash = 1469598103934665603ULL;

	for (unsigned i = 0; i < len; i++)
		hash = (hash ^ bytes[i]) * 1099511628211ULL;
	return (uint32_t)(hash ^ (hash >> 32));
}

static uint32_t *key_bucket(const struct inode_table *table, const struct inode_key *key)
{
	return &table->buckets[hash_key(key->bytes, key_len(table, key->by_number)) &
			       table->bucket_mask];
}

static bool is_by_number(const struct slot *slot)
{
	return slot->flags & SLOT_BY_NUMBER;
}

static uint32_t slot_hash(const struct inode_table *table, const struct slot *slot)
{
	return hash_key(slot->handle, key_len(table, is_by_number(slot)));
}

static int map_slots(struct inode_table *table)
{
	table->memfd = memfd_create("dsyncfs-inodes", MFD_CLOEXEC);
	if (table->memfd < 0)
		return -errno;
	/* The memory is taken as slots are used; only address space is reserved. */
	for (size_t slots = SLOTS_MAX; slots >= SLOTS_MIN; slots /= 4) {
		size_t bytes = slots * table->slot_bytes;
		void *map;

		if (ftruncate(table->memfd, (off_t)bytes) < 0)
			continue;
		map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			   table->memfd, 0);
		if (map == MAP_FAILED)
			continue;
		table->slots = map;
		table->slots_max = slots;
		table->header = map;
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
	/* A slot has no room to say of what kind its handle is: they are as the root's. */
	if (buf.handle.handle_bytes != table->handle_len ||
	    buf.handle.handle_type != table->handle_type)
		return -EOPNOTSUPP;
	key_r->by_number = false;
	key_r->fd = -1;
	memcpy(key_r->bytes, buf.room + sizeof buf.handle, buf.handle.handle_bytes);
	return 0;
}

/* The table is made for handles as the root has one, or for inode numbers. */
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
	if (buf.handle.handle_bytes > HANDLE_LEN_MAX)
		return 0;
	/* A filesystem may give handles that it does not take, or not from us. */
	fd = open_by_handle_at(table->root_fd, &buf.handle, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return 0;
	close(fd);
	table->has_handles = true;
	table->handle_type = buf.handle.handle_type;
	table->handle_len = buf.handle.handle_bytes;
	return 0;
}

/* With room for a handle, or an inode's number. */
static size_t slot_size(const struct inode_table *table)
{
	size_t room = key_len(table, true);

	if (table->handle_len > room)
		room = (table->handle_len + 7) & ~7UL;
	return sizeof(struct slot) + room;
}

static void set_root_slot(struct inode_table *table)
{
	struct slot *root = inode_slot_at(table, INODE_ROOT);

	root->lookups = 1;
	root->fd = table->root_fd;
	root->flags = SLOT_DIR | SLOT_BY_NUMBER;
	table->header->magic = TABLE_MAGIC;
	table->header->slot_bytes = (uint32_t)table->slot_bytes;
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
	table->dirs_max = dir_fds_max < DIR_FDS_MIN	? DIR_FDS_MIN
			  : dir_fds_max > DIR_FDS_LIMIT ? DIR_FDS_LIMIT
							: dir_fds_max;
	table->dirs = calloc(table->dirs_max + 1UL, sizeof *table->dirs);
	table->buckets = calloc(BUCKETS_MIN, sizeof *table->buckets);
	table->bucket_mask = BUCKETS_MIN - 1;
	if (table->dirs && table->buckets)
		rc = probe_root(table);
	table->slot_bytes = slot_size(table);
	if (rc == 0)
		rc = map_slots(table);
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
	inode_dirs_close(t);
	for (uint32_t i = INODE_ROOT; t->header && i < t->header->used; i++) {
		struct slot *slot = inode_slot_at(t, i);

		if (slot->lookups == 0)
			continue;
		if (slot->fd >= 0 && i != INODE_ROOT)
			close(slot->fd);
		if (places && i != INODE_ROOT)
			place_unref(places, slot->place);
	}
	if (t->slots)
		munmap(t->slots, t->slots_max * t->slot_bytes);
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

struct slot *inode_slot_of(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;

	if (nodeid < INODE_ROOT || nodeid >= table->header->used)
		return NULL;
	slot = inode_slot_at(table, nodeid);
	return slot->lookups ? slot : NULL;
}

struct slot *inode_dir_slot_of(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot = inode_slot_of(table, nodeid);

	return slot && (slot->flags & SLOT_DIR) ? slot : NULL;
}

struct slot *inode_file_slot_of(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot = inode_slot_of(table, nodeid);

	return slot && !(slot->flags & SLOT_DIR) ? slot : NULL;
}

void inode_slot_key(const struct inode_table *table, const struct slot *slot,
		    struct inode_key *key_r)
{
	key_r->by_number = is_by_number(slot);
	key_r->fd = -1;
	memcpy(key_r->bytes, slot->handle, key_len(table, key_r->by_number));
}

static uint32_t find_locked(const struct inode_table *table, const struct inode_key *key)
{
	unsigned len = key_len(table, key->by_number);
	uint32_t i = *key_bucket(table, key);

	while (i) {
		const struct slot *slot = inode_slot_at(table, i);

		if (is_by_number(slot) == key->by_number &&
		    memcmp(slot->handle, key->bytes, len) == 0)
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
			struct slot *slot = inode_slot_at(table, i);
			uint32_t *bucket = &buckets[slot_hash(table, slot) & (size - 1)];
			uint32_t next = slot->next;

			slot->next = *bucket;
			*bucket = i;
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
		table->header->free = inode_slot_at(table, i)->next;
		return i;
	}
	if (table->header->used >= table->slots_max)
		return 0;
	return table->header->used++;
}

/* Takes key->fd over. Nothing is kept of an inode that the kernel did not know. */
static void fill_slot(struct inode_table *table, uint32_t i, const struct inode_key *key,
		      mode_t mode)
{
	struct slot *slot = inode_slot_at(table, i);
	uint32_t *bucket = key_bucket(table, key), generation = slot->generation + 1;

	memset(slot, 0, sizeof *slot);
	slot->lookups = 1;
	slot->generation = generation;
	slot->fd = key->fd;
	slot->flags = (S_ISDIR(mode) ? SLOT_DIR : 0) | (key->by_number ? SLOT_BY_NUMBER : 0);
	slot->kind = PLACE_FILE_OTHER;
	memcpy(slot->handle, key->bytes, key_len(table, key->by_number));
	slot->next = *bucket;
	*bucket = i;
}

/* Finds or makes the slot and counts a lookup. Takes key->fd over. */
static int enter_key(struct inode_table *table, struct inode_key *key, struct inode_entry *entry_r)
{
	struct slot *slot;
	uint32_t i;

	pthread_mutex_lock(&table->lock);
	i = find_locked(table, key);
	if (i) {
		slot = inode_slot_at(table, i);
		if (slot->lookups < LOOKUPS_MAX)
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
		if (table->header->count / CHAIN_MEAN_MAX > table->bucket_mask)
			grow_buckets(table);
		fill_slot(table, i, key, entry_r->stat.st_mode);
		table->header->count++;
	}
	slot = inode_slot_at(table, i);
	if (entry_r->stat.st_mode & (S_ISUID | S_ISGID))
		slot->flags |= SLOT_PRIVS;
	entry_r->nodeid = i;
	entry_r->generation = slot->generation;
	pthread_mutex_unlock(&table->lock);
	return 0;
}

/* The device is the root's. */
static void key_from_stat(const struct stat *st, int fd, struct inode_key *key_r)
{
	key_r->by_number = true;
	key_r->fd = fd;
	memcpy(key_r->bytes, &st->st_ino, sizeof st->st_ino);
}

static int lookup_without_handle(struct inode_table *table, int dir_fd, const char *name,
				 struct inode_entry *entry_r)
{
	struct inode_key key = {0};
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
	struct inode_key key = {0};
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
	struct inode_key key = {0};
	uint64_t nodeid;
	int rc = -EOPNOTSUPP;

	if (table->has_handles)
		rc = read_handle(table, dir_fd, name, &key);
	if (rc == -EOPNOTSUPP || rc == -EOVERFLOW) {
		struct stat st;

		if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		    st.st_dev != table->root_dev)
			return 0;
		key_from_stat(&st, -1, &key);
	} else if (rc < 0) {
		return 0;
	}
	pthread_mutex_lock(&table->lock);
	nodeid = find_locked(table, &key);
	pthread_mutex_unlock(&table->lock);
	return nodeid;
}

int inode_open_handle(struct inode_table *table, const struct inode_key *key, int flags)
{
	union handle_buf buf;
	int fd;

	buf.handle.handle_type = table->handle_type;
	buf.handle.handle_bytes = table->handle_len;
	memcpy(buf.room + sizeof buf.handle, key->bytes, table->handle_len);
	fd = open_by_handle_at(table->root_fd, &buf.handle, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

struct place *inode_forget(struct inode_table *table, uint64_t nodeid, uint64_t count)
{
	struct place *place = NULL;
	struct slot *slot;
	uint32_t *link;
	int fd = -1;

	if (nodeid == INODE_ROOT)
		return NULL;
	pthread_mutex_lock(&table->lock);
	slot = inode_slot_of(table, nodeid);
	if (!slot || slot->lookups == LOOKUPS_MAX)
		goto out;
	if (slot->lookups > count) {
		slot->lookups -= (uint32_t)count;
		goto out;
	}
	link = &table->buckets[slot_hash(table, slot) & table->bucket_mask];
	while (*link != nodeid)
		link = &inode_slot_at(table, *link)->next;
	*link = slot->next;
	inode_dirs_drop(table, slot);
	fd = slot->fd;
	place = slot->place;
	slot->place = NULL;
	slot->fd = -1;
	slot->lookups = 0;
	slot->next = table->header->free;
	table->header->free = (uint32_t)nodeid;
	table->header->count--;
out:
	pthread_mutex_unlock(&table->lock);
	/* Without the lock: this may be what frees the blocks of a removed file. */
	if (fd >= 0)
		close(fd);
	return place;
}

int inode_open(struct inode_table *table, uint64_t nodeid, int flags)
{
	struct inode_key key;
	struct slot *slot;
	char path[64];
	int held = -1, fd;

	pthread_mutex_lock(&table->lock);
	slot = inode_slot_of(table, nodeid);
	if (slot) {
		held = slot->fd;
		inode_slot_key(table, slot, &key);
	}
	pthread_mutex_unlock(&table->lock);
	if (!slot)
		return -ESTALE;
	if (held < 0)
		return inode_open_handle(table, &key, flags & ~O_NOFOLLOW);
	if (flags & O_PATH) {
		fd = fcntl(held, F_DUPFD_CLOEXEC, 0);
	} else {
		snprintf(path, sizeof path, "/proc/self/fd/%d", held);
		fd = open(path, (flags & ~O_NOFOLLOW) | O_CLOEXEC);
	}
	return fd < 0 ? -errno : fd;
}

void inode_keep(struct inode_table *table, int *fd)
{
	struct inode_key key = {0};
	struct slot *slot;
	struct stat st;
	uint32_t i;

	/* Another name still leads there. */
	if (fstat(*fd, &st) < 0 || (st.st_nlink && !S_ISDIR(st.st_mode)))
		return;
	if (!table->has_handles || read_handle(table, *fd, "", &key) < 0)
		return;
	pthread_mutex_lock(&table->lock);
	i = find_locked(table, &key);
	slot = i ? inode_slot_at(table, i) : NULL;
	if (slot && slot->fd < 0) {
		slot->fd = *fd;
		*fd = -1;
	}
	pthread_mutex_unlock(&table->lock);
}
