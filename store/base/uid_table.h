/*
 * A table from UIDs to numbers, for what a transaction has done to which message. UID 0 and the
 * number 0 are none.
 */
#ifndef DSYNCFS_BASE_UID_TABLE_H
#define DSYNCFS_BASE_UID_TABLE_H

#include <stddef.h>
#include <stdint.h>

struct uid_slot {
	uint32_t uid, value;
};

/* All zero: an empty one. */
struct uid_table {
	struct uid_slot *slots;
	size_t room, count; /* room: 0 or a power of two */
};

/* Sets or replaces. -ENOMEM leaves the table as it was. */
int uid_table_put(struct uid_table *table, uint32_t uid, uint32_t value);
/* 0: not there. */
uint32_t uid_table_get(const struct uid_table *table, uint32_t uid);
void uid_table_free(struct uid_table *table);

#endif
