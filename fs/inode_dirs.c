/* The inode table's directory descriptors, the least recently used of which is closed for another.
 * See inode_table.h. */
#include "fs/inode_private.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

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
			inode_slot_at(table, table->dirs[ref].nodeid)->dir.ref = 0;
		dir_release(table, ref);
	}
	ref = table->dirs_free;
	table->dirs_free = table->dirs[ref].next;
	return ref;
}

void inode_dirs_drop(struct inode_table *table, struct slot *slot)
{
	if (!(slot->flags & SLOT_DIR) || !slot->dir.ref)
		return;
	table->dirs[slot->dir.ref].nodeid = 0;
	if (table->dirs[slot->dir.ref].refs == 0)
		dir_release(table, slot->dir.ref);
	slot->dir.ref = 0;
}

void inode_dirs_close(struct inode_table *table)
{
	for (unsigned i = 1; table->dirs && i <= table->dirs_used; i++) {
		if (table->dirs[i].fd > 0)
			close(table->dirs[i].fd);
	}
}

int inode_dir_get(struct inode_table *table, uint64_t nodeid, unsigned *ref_r)
{
	struct inode_key key;
	struct slot *slot;
	unsigned ref;
	int fd;

	*ref_r = 0;
	pthread_mutex_lock(&table->lock);
	slot = inode_slot_of(table, nodeid);
	if (!slot || slot->fd >= 0) {
		fd = slot ? slot->fd : -ESTALE;
		goto out;
	}
	if (!(slot->flags & SLOT_DIR)) {
		fd = -ENOTDIR;
		goto out;
	}
	if (!slot->dir.ref) {
		inode_slot_key(table, slot, &key);
		pthread_mutex_unlock(&table->lock);
		fd = inode_open_handle(table, &key, O_PATH | O_DIRECTORY);
		if (fd < 0)
			return fd;
		pthread_mutex_lock(&table->lock);
		if (slot->dir.ref) {
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
			slot->dir.ref = (uint16_t)ref;
		}
	}
	ref = slot->dir.ref;
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
