/* Which of two values of an attribute stays. See merge_attribute.h. */
#include "sync/merge_attribute.h"

#include <string.h>

/* Bytes, then length; no value is the least. */
static int compare_values(const struct merge_attribute *a, const struct merge_attribute *b)
{
	size_t len = a->len < b->len ? a->len : b->len;
	int cmp;

	if (!a->value || !b->value)
		return (a->value != NULL) - (b->value != NULL);
	cmp = memcmp(a->value, b->value, len);
	if (cmp != 0)
		return cmp;
	return a->len < b->len ? -1 : a->len > b->len;
}

bool merge_attribute_takes(const struct merge_attribute *own, const struct merge_attribute *peer,
			   bool stateful)
{
	int cmp = compare_values(own, peer);

	if (cmp == 0)
		return false;
	if (!own->known)
		return true;
	if (stateful && own->changed != peer->changed)
		return peer->changed;
	if (own->last_change != peer->last_change)
		return peer->last_change > own->last_change;
	if (own->modseq != peer->modseq)
		return peer->modseq > own->modseq;
	return cmp < 0;
}
