/* Open addressing, at most half full. See uid_table.h. */
#include "store/base/uid_table.h"

#include <errno.h>
#include <stdlib.h>

#define FIRST_ROOM 32

static struct uid_slot *slot_of(struct uid_slot *slots, size_t room, uint32_t uid)
{
	size_t i = uid * 2654435769U & (room - 1);

	while (slots[i].uid && slots[i].uid != uid)
		i = (i + 1) & (room - 1);
	return &slots[i];
}

static int grow(struct uid_table *table)
{
	size_t room = table->room ? table->room * 2 : FIRST_ROOM;
	struct uid_slot *slots = calloc(room, sizeof *slots);

	if (!slots)
		return -ENOMEM;
	for (size_t i = 0; i < table->room; i++) {
		if (table->slots[i].uid)
			*slot_of(slots, room, table->slots[i].uid) = table->slots[i];
	}
	free(table->slots);
	table->slots = slots;
	table->room = room;
	return 0;
}

int uid_table_put(struct uid_table *table, uint32_t uid, uint32_t value)
{
	struct uid_slot *slot;

	if (2 * (table->count + 1) > table->room && grow(table) < 0)
		return -ENOMEM;
	slot = slot_of(table->slots, table->room, uid);
	if (!slot->uid)
		table->count++;
	*slot = (struct uid_slot){.uid = uid, .value = value};
	return 0;
}

uint32_t uid_table_get(const struct uid_table *table, uint32_t uid)
{
	return table->room ? slot_of(table->slots, table->room, uid)->value : 0;
}

void uid_table_free(struct uid_table *table)
{
	free(table->slots);
	*table = (struct uid_table){0};
}
