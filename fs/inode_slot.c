/* What a slot of the inode table says about its inode: place, kind, suid bits, pass-through. See
 * inode_table.h. */
#include "fs/inode_private.h"

#include <sys/stat.h>
#include "store/base/clock.h"

struct place *inode_place(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;
	struct place *place;

	pthread_mutex_lock(&table->lock);
	slot = inode_slot_of(table, nodeid);
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
	slot = inode_slot_of(table, nodeid);
	set = slot && !slot->place;
	if (set) {
		slot->place = place;
		slot->kind = kind;
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
	slot = inode_slot_of(table, nodeid);
	if (slot) {
		old = slot->place;
		slot->place = place;
		slot->kind = kind;
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
	slot = inode_file_slot_of(table, nodeid);
	if (slot && slot->place) {
		place = slot->place;
		*kind_r = (enum place_file)slot->kind;
		place_ref(places, place);
	}
	pthread_mutex_unlock(&table->lock);
	return place;
}

enum place_file inode_kind(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;
	enum place_file kind;

	pthread_mutex_lock(&table->lock);
	slot = inode_slot_of(table, nodeid);
	kind = slot ? (enum place_file)slot->kind : PLACE_FILE_OTHER;
	pthread_mutex_unlock(&table->lock);
	return kind;
}

static bool has_flag(struct inode_table *table, uint64_t nodeid, enum slot_flag flag)
{
	struct slot *slot;
	bool has;

	pthread_mutex_lock(&table->lock);
	slot = inode_slot_of(table, nodeid);
	has = slot && (slot->flags & flag);
	pthread_mutex_unlock(&table->lock);
	return has;
}

bool inode_is_dir(struct inode_table *table, uint64_t nodeid)
{
	return has_flag(table, nodeid, SLOT_DIR);
}

bool inode_may_have_privs(struct inode_table *table, uint64_t nodeid)
{
	return has_flag(table, nodeid, SLOT_PRIVS);
}

void inode_note_mode(struct inode_table *table, uint64_t nodeid, mode_t mode)
{
	struct slot *slot;

	pthread_mutex_lock(&table->lock);
	slot = inode_slot_of(table, nodeid);
	if (slot && (mode & (S_ISUID | S_ISGID)))
		slot->flags |= SLOT_PRIVS;
	else if (slot)
		slot->flags &= ~(unsigned)SLOT_PRIVS;
	pthread_mutex_unlock(&table->lock);
}

/* Goes round in 49 days; then one listing is not kept. */
static uint32_t now_ms(void)
{
	return (uint32_t)clock_ms(CLOCK_MONOTONIC_COARSE);
}

bool inode_listing_open(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;
	bool may;

	pthread_mutex_lock(&table->lock);
	slot = inode_dir_slot_of(table, nodeid);
	may = slot && !(slot->flags & SLOT_LISTED) &&
	      now_ms() - slot->dir.changed_ms >= LISTING_QUIET_MS;
	if (may)
		slot->flags |= SLOT_LISTED;
	pthread_mutex_unlock(&table->lock);
	return may;
}

void inode_listing_close(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;

	pthread_mutex_lock(&table->lock);
	slot = inode_dir_slot_of(table, nodeid);
	if (slot)
		slot->flags &= ~(unsigned)SLOT_LISTED;
	pthread_mutex_unlock(&table->lock);
}

void inode_dir_changed(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;

	pthread_mutex_lock(&table->lock);
	slot = inode_dir_slot_of(table, nodeid);
	if (slot)
		slot->dir.changed_ms = now_ms();
	pthread_mutex_unlock(&table->lock);
}

int inode_backing_open(struct inode_table *table, uint64_t nodeid, inode_backing_fn *make,
		       void *ctx)
{
	struct slot *slot;
	int id = 0;

	pthread_mutex_lock(&table->lock);
	slot = inode_file_slot_of(table, nodeid);
	if (slot) {
		if (slot->file.opens == 0 && make && !(slot->flags & SLOT_PRIVS))
			id = make(ctx);
		if (slot->file.opens == 0)
			slot->file.backing_id = id > 0 ? id : 0;
		slot->file.opens++;
		id = slot->file.backing_id;
	}
	pthread_mutex_unlock(&table->lock);
	return id;
}

int inode_backing_release(struct inode_table *table, uint64_t nodeid)
{
	struct slot *slot;
	int id = 0;

	pthread_mutex_lock(&table->lock);
	slot = inode_file_slot_of(table, nodeid);
	if (slot && slot->file.opens)
		slot->file.opens--;
	if (slot && slot->file.opens == 0) {
		id = slot->file.backing_id;
		slot->file.backing_id = 0;
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
	stats_r->slot_bytes = table->slot_bytes;
	pthread_mutex_unlock(&table->lock);
}
