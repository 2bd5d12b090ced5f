/*
 * A hash table from names (of others: not copied, not terminated) to numbers. For base names, of
 * which a catch-up or a scan looks up many.
 */
#ifndef DSYNCFS_MAILDIR_NAME_TABLE_H
#define DSYNCFS_MAILDIR_NAME_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct name_slot {
	const char *name; /* NULL: free */
	uint32_t len;
	uint32_t value;
};

struct name_table {
	size_t mask; /* slots - 1 */
	size_t count;
	struct name_slot *slots;
};

/* Room for count names; it grows beyond that. -ENOMEM. */
int name_table_init(struct name_table *table, size_t count);
void name_table_free(struct name_table *table);
/* The slot of the name, made with value 0 if it was not there. NULL: out of memory. */
struct name_slot *name_table_put(struct name_table *table, const char *name, size_t len);
/* NULL: not there. */
struct name_slot *name_table_get(const struct name_table *table, const char *name, size_t len);

uint64_t name_hash(const char *name, size_t len);

#endif
