/*
 * MERGE_DSYNCFS: MODSEQs that both sides can reach and that hide no change from a client.
 *
 * A message that is changed can get any MODSEQ above what was HIGHESTMODSEQ before. A log's counter
 * rises by one a record, so each side's number of records is bounded from what both know, and:
 *
 * Only one side changed (and no UID did), all of it above the other's HIGHESTMODSEQ: its MODSEQs
 * are copied. Else every changed message, the local ones too, gets one MODSEQ above both
 * HIGHESTMODSEQs and all records of both sides. So does one that is the same on both but for a
 * MODSEQ which a client of one side may have passed.
 *
 * Why no client misses anything: a side that takes a change gives it a MODSEQ above its own
 * HIGHESTMODSEQ (its own clients) and not below the one it has at the other side (clients coming
 * from there). Expunges are written last, at the final HIGHESTMODSEQ, which no client has seen; on
 * both sides (merge_mailbox_burials.c).
 */
#include "sync/merge_mailbox_private.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct keyword_use {
	const char *name;
	int direction; /* 0 added, 1 removed, 2 of an appended message */
};

struct keyword_uses {
	struct keyword_use *list;
	size_t count, size;
	struct keyword_set last; /* the last appended message's: most are the same */
};

/* What one side will write. */
struct records {
	bool flags, expunge, uid_change;
	size_t appends;
	struct keyword_uses keywords;
	uint64_t count; /* without the expunges */
};

static int use_keyword(struct keyword_uses *uses, const char *name, int direction)
{
	if (uses->count == uses->size) {
		size_t size = uses->size == 0 ? 64 : uses->size * 2;
		struct keyword_use *list = realloc(uses->list, size * sizeof(*list));

		if (list == NULL)
			return -ENOMEM;
		uses->list = list;
		uses->size = size;
	}
	uses->list[uses->count++] = (struct keyword_use){.name = name, .direction = direction};
	return 0;
}

/* Those of `set` that `without` does not have. */
static int use_keywords(struct keyword_uses *uses, struct keyword_set set,
			struct keyword_set without, int direction)
{
	for (unsigned i = 0; i < set.count; i++) {
		if (keyword_set_has(without, set.names[i]))
			continue;
		if (use_keyword(uses, set.names[i], direction) < 0)
			return -ENOMEM;
	}
	return 0;
}

static bool same_set(struct keyword_set a, struct keyword_set b)
{
	if (a.count != b.count)
		return false;
	for (unsigned i = 0; i < a.count; i++) {
		if (strcmp(a.names[i], b.names[i]) != 0)
			return false;
	}
	return true;
}

static int use_appended(struct keyword_uses *uses, struct keyword_set set)
{
	static const struct keyword_set none = {NULL, 0};

	if (same_set(set, uses->last))
		return 0;
	uses->last = set;
	return use_keywords(uses, set, none, 2);
}

static int count_flags(struct records *records, const struct merged *m, int side)
{
	static const struct keyword_set none = {NULL, 0};
	const struct merge_item *here = m->item[side], *there = m->item[1 - side];

	if (here != NULL) {
		records->flags |= ((m->flags ^ here->flags.final) & MAIL_FLAGS_MASK) != 0;
		if (use_keywords(&records->keywords, m->keywords, here->flags.final_keywords, 0) <
		    0)
			return -ENOMEM;
		return use_keywords(&records->keywords, here->flags.final_keywords, m->keywords, 1);
	}
	/* Not listed: it is as it was before the other side's changes. */
	records->flags |= ((there->flags.add | there->flags.remove) & MAIL_FLAGS_MASK) != 0;
	if (use_keywords(&records->keywords, there->flags.add_keywords, none, 0) < 0)
		return -ENOMEM;
	return use_keywords(&records->keywords, there->flags.remove_keywords, none, 1);
}

/* What the side has to write for this message. */
static int count_message(struct records *records, const struct merged *m, int side)
{
	if (m->gone) {
		records->expunge |= m->uid[side] != 0;
		return 0;
	}
	if (m->uid[side] == 0 || m->uid[side] != m->final_uid) {
		records->appends++;
		records->uid_change |= m->uid[side] != 0;
		if (use_appended(&records->keywords, m->keywords) < 0)
			return -ENOMEM;
	}
	return m->uid[side] != 0 && m->differs[side] ? count_flags(records, m, side) : 0;
}

static int use_cmp(const void *a, const void *b)
{
	const struct keyword_use *x = a, *y = b;

	return x->direction != y->direction ? x->direction - y->direction
					    : strcasecmp(x->name, y->name);
}

static uint64_t count_keywords(struct keyword_uses *uses, bool appended)
{
	uint64_t count = 0;

	for (size_t i = 0; i < uses->count; i++) {
		if ((uses->list[i].direction == 2) == appended &&
		    (i == 0 || use_cmp(&uses->list[i - 1], &uses->list[i]) != 0))
			count++;
	}
	return count;
}

static int count_records(const struct merge_work *work, int side, struct records *records)
{
	struct keyword_uses *uses = &records->keywords;
	uint64_t batches;

	for (size_t i = 0; i < work->merged_count; i++) {
		if (count_message(records, &work->merged[i], side) < 0)
			return -ENOMEM;
	}
	if (uses->count > 0)
		qsort(uses->list, uses->count, sizeof(*uses->list), use_cmp);
	batches = (records->appends + MERGE_APPEND_BATCH - 1) / MERGE_APPEND_BATCH;
	records->count = (records->flags ? 1 : 0) + count_keywords(uses, false) +
			 batches * (1 + count_keywords(uses, true)) + (records->uid_change ? 1 : 0);
	return 0;
}

static bool side_acts(const struct merged *m, int side)
{
	if (m->gone)
		return m->uid[side] != 0;
	return m->uid[side] != m->final_uid || m->differs[side];
}

static uint64_t max64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* MODSEQs may have moved between a side's B item and its list. */
static uint64_t side_highest(const struct merge_side *side)
{
	uint64_t highest = side->highest_modseq;

	for (size_t i = 0; i < side->item_count; i++)
		highest = max64(highest, side->items[i].flags.modseq);
	return highest;
}

static uint64_t known_modseq(const struct merged *m)
{
	uint64_t modseq = 0;

	for (int side = 0; side < 2; side++) {
		if (m->item[side] != NULL)
			modseq = max64(modseq, m->item[side]->flags.modseq);
	}
	return modseq;
}

/* The other side has it at a higher MODSEQ that this side's clients may have passed already: so it
 * is after a session in which only one side could carry the plan out. A client that went from one
 * to the other in between would never be told. */
static bool side_is_behind(const struct merged *m, int side, const uint64_t highest[2])
{
	return !m->gone && m->item[0] != NULL && m->item[1] != NULL &&
	       m->item[side]->flags.modseq < known_modseq(m) && known_modseq(m) <= highest[side];
}

static bool can_be_copied(const struct merge_work *work, const uint64_t highest[2],
			  const struct records records[2], const bool acts[2])
{
	if ((acts[0] && acts[1]) || records[0].uid_change || records[1].uid_change)
		return false;
	for (size_t i = 0; i < work->merged_count; i++) {
		const struct merged *m = &work->merged[i];

		for (int side = 0; side < 2; side++) {
			if (side_is_behind(m, side, highest) ||
			    (!m->gone && side_acts(m, side) && known_modseq(m) <= highest[side]))
				return false;
		}
	}
	return true;
}

/* The highest of both sides when all is written: last is that of the messages. */
static uint64_t final_modseq(const uint64_t highest[2], const struct records records[2],
			     const bool expunges[2], uint64_t last)
{
	uint64_t final = max64(max64(highest[0], highest[1]), last);

	for (int side = 0; side < 2; side++) {
		uint64_t before = highest[side] + records[side].count;

		/* Conservative: the last one need not be written on this side. */
		if (expunges[side])
			before = max64(before, last) + 1;
		final = max64(final, before);
	}
	return final;
}

/* A side whose log tells of all expunges at the final MODSEQ already has none to tell: so it is
 * where one record of one side is all that happened. */
static uint64_t final_modseq_with_burials(const struct merge_work *work, const uint64_t highest[2],
					  const struct records records[2], uint64_t last)
{
	bool expunges[2] = {records[0].expunge, records[1].expunge}, more;
	uint64_t final;

	do {
		more = false;
		final = final_modseq(highest, records, expunges, last);
		for (int side = 0; side < 2; side++) {
			if (!expunges[side] && merge_buries(work, side, final))
				expunges[side] = more = true;
		}
	} while (more);
	return final;
}

static void set_modseqs(struct merge_work *work, const uint64_t highest[2],
			const struct records records[2], const bool acts[2])
{
	const bool copied = can_be_copied(work, highest, records, acts);
	const uint64_t base = max64(highest[0], highest[1]);
	struct merge_mailbox_plan *plan = work->plan;
	uint64_t floor = 0, last = 0;

	if (!copied)
		floor = base + max64(records[0].count, records[1].count);
	for (size_t i = 0; i < work->merged_count; i++) {
		struct merged *m = &work->merged[i];

		if (m->gone)
			continue;
		m->modseq = known_modseq(m);
		if (side_acts(m, 0) || side_acts(m, 1) || side_is_behind(m, 0, highest) ||
		    side_is_behind(m, 1, highest))
			m->modseq = max64(m->modseq, floor);
		last = max64(last, m->modseq);
	}
	plan->highest_modseq = final_modseq_with_burials(work, highest, records, last);
	plan->expunge_modseq = plan->highest_modseq;
	/* A new UID comes with an expunge of the old one in the middle of the changes; a client
	 * that comes from the other side must not have seen a higher MODSEQ than that gets. */
	if (records[work->own].uid_change)
		plan->first_modseq = base;
}

int merge_modseqs(struct merge_work *work)
{
	struct records records[2] = {{0}};
	uint64_t highest[2];
	bool acts[2] = {false, false};
	int ret = 0;

	for (int side = 0; side < 2; side++) {
		highest[side] = side_highest(work->side[side]);
		if (ret == 0)
			ret = count_records(work, side, &records[side]);
	}
	for (size_t i = 0; i < work->merged_count; i++) {
		acts[0] |= side_acts(&work->merged[i], 0);
		acts[1] |= side_acts(&work->merged[i], 1);
	}
	if (ret == 0)
		set_modseqs(work, highest, records, acts);
	free(records[0].keywords.list);
	free(records[1].keywords.list);
	return ret;
}
