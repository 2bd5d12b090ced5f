/*
 * A table of all base names of a list, for lists that are asked again and again: the lines are not
 * sorted by name, and in a mailbox of a hundred thousand messages a pass over them costs more than
 * all the rest of catching up with one event.
 *
 * It holds a hash and the line's offset, 8 bytes, a third more slots than lines or up to as many
 * again. It is made after some passes over the whole list, goes along with appended lines, and is
 * dropped with the file.
 */
#include "store/maildir/uidlist_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/maildir/name_table.h"

#define PASSES_BEFORE 8	 /* what making the table costs, about */
#define LINE_BYTES    64 /* a guess to begin with */
#define LINES_MAX     ((size_t)4 << 20)

struct names_slot {
	uint32_t tag;
	uint32_t offset; /* of the line; 0: free, as the header is there */
};

struct uidlist_names {
	struct names_slot *slots;
	size_t mask, count;
	size_t end; /* of the lines that are in it */
};

void uidlist_names_free(struct uidlist *list)
{
	if (list->names)
		free(list->names->slots);
	free(list->names);
	list->names = NULL;
	list->passes = 0;
}

static int line_at(const struct uidlist *list, size_t offset, struct uidlist_record *record_r,
		   size_t *next_r, struct error *err)
{
	const char *start = list->map + offset;
	const char *lf;

	map_window_touch(list->window, offset);
	lf = memchr(start, '\n', list->end - offset);
	*record_r = (struct uidlist_record){0};
	*next_r = list->end;
	if (!lf ||
	    uidlist_parse_line(list->header.version, start, (size_t)(lf - start), record_r) < 0)
		return uidlist_bad_line(list, offset, "a line that cannot be read", err);
	*next_r = (size_t)(lf - list->map) + 1;
	return 0;
}

/* The slot of a name, or the free one where it belongs. */
static int find_slot(const struct uidlist *list, const char *base, size_t base_len,
		     struct names_slot **slot_r, struct uidlist_record *record_r, struct error *err)
{
	struct uidlist_names *names = list->names;
	uint64_t hash = name_hash(base, base_len);
	uint32_t tag = (uint32_t)(hash >> 32);

	for (size_t i = hash & names->mask;; i = (i + 1) & names->mask) {
		struct names_slot *slot = &names->slots[i];
		size_t next;
		int rc;

		*slot_r = slot;
		if (!slot->offset)
			return 0;
		if (slot->tag != tag)
			continue;
		rc = line_at(list, slot->offset, record_r, &next, err);
		if (rc < 0)
			return rc;
		if (record_r->base && record_r->base_len == base_len &&
		    memcmp(record_r->base, base, base_len) == 0)
			return 1;
	}
}

static int grow(struct uidlist_names *names, size_t bytes)
{
	size_t mask = names->mask ? names->mask * 2 + 1 : 4095;
	struct names_slot *slots;

	while (mask * 3 < 4 * (bytes / LINE_BYTES))
		mask = mask * 2 + 1;
	slots = calloc(mask + 1, sizeof *slots);
	if (!slots)
		return -ENOMEM;
	free(names->slots);
	/* The lines are put in again: a slot has only a part of its hash. */
	*names = (struct uidlist_names){.slots = slots, .mask = mask};
	return 0;
}

/* Puts the lines behind names->end in. 1: there is no room for more. */
static int add_lines(const struct uidlist *list, struct error *err)
{
	struct uidlist_names *names = list->names;

	if (names->end < list->body)
		names->end = list->body;
	while (names->end < list->end) {
		struct uidlist_record line, known;
		struct names_slot *slot = NULL;
		size_t next;
		int rc;

		if (names->count * 4 > names->mask * 3)
			return 1;
		rc = line_at(list, names->end, &line, &next, err);
		if (rc < 0)
			return rc;
		rc = find_slot(list, line.base, line.base_len, &slot, &known, err);
		if (rc < 0)
			return rc;
		/* Of two lines with one name the later counts. */
		names->count += rc == 0;
		*slot = (struct names_slot){
			.tag = (uint32_t)(name_hash(line.base, line.base_len) >> 32),
			.offset = (uint32_t)names->end};
		names->end = next;
	}
	return 0;
}

bool uidlist_names_ready(struct uidlist *list, struct error *err)
{
	int rc;

	if (!list->names && ++list->passes <= PASSES_BEFORE)
		return false;
	if (!list->names)
		list->names = calloc(1, sizeof *list->names);
	if (!list->names)
		return false;
	while ((rc = list->names->mask ? add_lines(list, err) : 1) == 1) {
		if (list->names->mask > 2 * LINES_MAX || grow(list->names, list->end) < 0)
			rc = -ENOMEM;
		if (rc < 0)
			break;
	}
	/* Too many lines, no memory, or a bad line, which the pass finds as well. */
	if (rc < 0)
		uidlist_names_free(list);
	return rc == 0;
}

int uidlist_names_find(const struct uidlist *list, struct uidlist_query *query, struct error *err)
{
	struct uidlist_record record;
	struct names_slot *slot;
	int rc = find_slot(list, query->base, query->base_len, &slot, &record, err);

	query->uid = rc == 1 ? record.uid : 0;
	return rc < 0 ? rc : 0;
}
