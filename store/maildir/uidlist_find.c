/*
 * Base names to UIDs: one pass over the lines from the end, since what one looks for is mostly new.
 *
 * The lines are not sorted by name, so a name that is not there costs a look at all of them: about
 * a millisecond for a hundred thousand. That is why all names of a catch-up share one pass, and why
 * there is a table for lists that stay open (uidlist_names.c).
 */
#include "store/maildir/uidlist_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/maildir/name_table.h"

struct backward {
	const struct uidlist *list;
	size_t begin; /* where to stop */
	size_t end;   /* of the part not yet seen */
};

static bool previous_line(struct backward *back, size_t *start_r, size_t *len_r)
{
	if (back->end <= back->begin)
		return false;
	*start_r = uidlist_line_start(back->list, back->end - 1);
	*len_r = back->end - 1 - *start_r;
	back->end = *start_r;
	return true;
}

static int find_one(struct backward *back, struct uidlist_query *query, struct error *err)
{
	const struct uidlist *list = back->list;
	struct uidlist_record record;
	size_t start, len;

	while (previous_line(back, &start, &len)) {
		/* A quick look at the end of the line; only what fits is parsed. A version 1 name
		 * may have flags behind it. */
		if (list->header.version != 1 &&
		    (len < query->base_len || memcmp(list->map + start + len - query->base_len,
						     query->base, query->base_len) != 0))
			continue;
		if (uidlist_parse_line(list->header.version, list->map + start, len, &record) < 0)
			return uidlist_bad_line(list, start, "a line that cannot be read", err);
		if (query->base_len == record.base_len &&
		    memcmp(query->base, record.base, record.base_len) == 0) {
			query->uid = record.uid;
			return 0;
		}
	}
	return 0;
}

static int find_many(struct backward *back, struct name_table *table, struct error *err)
{
	const struct uidlist *list = back->list;
	struct uidlist_record record;
	size_t start, len, missing = table->count;

	while (missing && previous_line(back, &start, &len)) {
		struct name_slot *slot;

		if (uidlist_parse_line(list->header.version, list->map + start, len, &record) < 0)
			return uidlist_bad_line(list, start, "a line that cannot be read", err);
		slot = name_table_get(table, record.base, record.base_len);
		if (slot && slot->value == 0) {
			slot->value = record.uid;
			missing--;
		}
	}
	return 0;
}

int uidlist_find_bases(struct uidlist *list, size_t from, struct uidlist_query *queries,
		       size_t count, struct error *err)
{
	struct backward back = {.list = list, .begin = list->body, .end = list->end};
	struct name_table table;
	int rc;

	if (from > back.begin)
		back.begin = from < list->end ? from : list->end;
	for (size_t i = 0; i < count; i++)
		queries[i].uid = 0;
	if (count == 0)
		return 0;
	/* Of what was added since there is little. */
	if (back.begin == list->body && uidlist_names_ready(list, err)) {
		for (size_t i = 0; i < count; i++) {
			rc = uidlist_names_find(list, &queries[i], err);
			if (rc < 0)
				return rc;
		}
		return 0;
	}
	if (count == 1)
		return find_one(&back, queries, err);
	rc = name_table_init(&table, count);
	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (!name_table_put(&table, queries[i].base, queries[i].base_len))
			rc = -ENOMEM;
	}
	if (rc < 0)
		error_errno(err, rc, "%s/" UIDLIST_NAME, list->what);
	else
		rc = find_many(&back, &table, err);
	for (size_t i = 0; rc == 0 && i < count; i++)
		queries[i].uid =
			name_table_get(&table, queries[i].base, queries[i].base_len)->value;
	name_table_free(&table);
	return rc;
}
