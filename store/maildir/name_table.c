/* Names to numbers, by open addressing. See name_table.h. */
#include "store/maildir/name_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

uint64_t name_hash(const char *name, size_t len)
{
	uint64_t hash = len * 0x9e3779b97f4a7c15U, word;

	for (; len >= sizeof word; name += sizeof word, len -= sizeof word) {
		memcpy(&word, name, sizeof word);
		hash = (hash ^ word) * 0xff51afd7ed558ccdU;
		hash ^= hash >> 32;
	}
	word = 0;
	memcpy(&word, name, len);
	hash = (hash ^ word) * 0xc4ceb9fe1a85ec53U;
	return hash ^ hash >> 29;
}

int name_table_init(struct name_table *table, size_t count)
{
	size_t mask = 15;

	while (mask < count * 2)
		mask = mask * 2 + 1;
	*table = (struct name_table){.mask = mask};
	table->slots = calloc(mask + 1, sizeof *table->slots);
	return table->slots ? 0 : -ENOMEM;
}

void name_table_free(struct name_table *table)
{
	free(table->slots);
	*table = (struct name_table){0};
}

static struct name_slot *find_slot(const struct name_table *table, const char *name, size_t len)
{
	size_t i = name_hash(name, len) & table->mask;

	while (table->slots[i].name &&
	       (table->slots[i].len != len || memcmp(table->slots[i].name, name, len) != 0))
		i = (i + 1) & table->mask;
	return &table->slots[i];
}

static int grow(struct name_table *table)
{
	struct name_table larger;
	int rc = name_table_init(&larger, (table->mask + 1) * 2);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i <= table->mask; i++) {
		if (table->slots[i].name)
			*find_slot(&larger, table->slots[i].name, table->slots[i].len) =
				table->slots[i];
	}
	larger.count = table->count;
	free(table->slots);
	*table = larger;
	return 0;
}

struct name_slot *name_table_put(struct name_table *table, const char *name, size_t len)
{
	struct name_slot *slot = find_slot(table, name, len);

	if (slot->name)
		return slot;
	if ((table->count + 1) * 2 > table->mask) {
		if (grow(table) < 0)
			return NULL;
		slot = find_slot(table, name, len);
	}
	*slot = (struct name_slot){.name = name, .len = (uint32_t)len};
	table->count++;
	return slot;
}

struct name_slot *name_table_get(const struct name_table *table, const char *name, size_t len)
{
	struct name_slot *slot = find_slot(table, name, len);

	return slot->name ? slot : NULL;
}
