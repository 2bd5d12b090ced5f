/*
 * See merge_flags.h. The bit formula is the protocol's (dsync: flags and keywords of an existing
 * mail); keywords use it with one bit a name.
 */
#include "sync/merge_flags.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* One system flag set, or one keyword's membership, on both sides. */
struct bits {
	uint8_t own_final, own_add, own_remove;
	uint8_t peer_final, peer_add, peer_remove;
};

static uint8_t bits_merge(struct bits b, bool prefer_peer)
{
	uint8_t opposite, differ, add, del, own, peer;

	opposite = b.own_add & b.peer_remove;
	if (prefer_peer)
		b.own_add &= ~opposite;
	else
		b.peer_remove &= ~opposite;
	opposite = b.own_remove & b.peer_add;
	if (prefer_peer)
		b.own_remove &= ~opposite;
	else
		b.peer_add &= ~opposite;

	differ = b.own_final ^ b.peer_final;
	add = (b.own_add | b.peer_add) & differ;
	del = (b.own_remove | b.peer_remove) & differ;
	own = (b.own_final | add) & ~del;
	peer = (b.peer_final | add) & ~del;
	differ = own ^ peer;
	return (uint8_t)((own & ~differ) | ((prefer_peer ? peer : own) & differ));
}

/* A name in one of the six sets. */
struct mention {
	const char *name;
	uint8_t set; /* the bit below */
};

enum {
	OWN_FINAL = 1,
	OWN_ADD = 2,
	OWN_REMOVE = 4,
	PEER_FINAL = 8,
	PEER_ADD = 16,
	PEER_REMOVE = 32
};

static int mention_cmp(const void *a, const void *b)
{
	const struct mention *x = a, *y = b;
	int ret = strcasecmp(x->name, y->name);

	return ret != 0 ? ret : strcmp(x->name, y->name);
}

static int name_cmp(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static void mention_all(struct mention *list, size_t *count, struct keyword_set set, uint8_t bit)
{
	for (unsigned i = 0; i < set.count; i++)
		list[(*count)++] = (struct mention){.name = set.names[i], .set = bit};
}

static uint8_t bit_of(uint8_t sets, uint8_t bit)
{
	return (sets & bit) != 0 ? 1 : 0;
}

/* Whether the keyword that these sets mention is wanted. */
static bool keyword_merge(uint8_t sets, bool prefer_peer)
{
	struct bits b = {
		.own_final = bit_of(sets, OWN_FINAL),
		.own_add = bit_of(sets, OWN_ADD),
		.own_remove = bit_of(sets, OWN_REMOVE),
		.peer_final = bit_of(sets, PEER_FINAL),
		.peer_add = bit_of(sets, PEER_ADD),
		.peer_remove = bit_of(sets, PEER_REMOVE),
	};

	return (bits_merge(b, prefer_peer) & 1) != 0;
}

static bool set_identical(struct keyword_set a, struct keyword_set b)
{
	if (a.count != b.count)
		return false;
	for (unsigned i = 0; i < a.count; i++) {
		if (strcmp(a.names[i], b.names[i]) != 0)
			return false;
	}
	return true;
}

bool keyword_set_has(struct keyword_set set, const char *name)
{
	for (unsigned i = 0; i < set.count; i++) {
		if (strcasecmp(set.names[i], name) == 0)
			return true;
	}
	return false;
}

bool keyword_set_equal(struct keyword_set a, struct keyword_set b)
{
	if (set_identical(a, b))
		return true;
	for (unsigned i = 0; i < a.count; i++) {
		if (!keyword_set_has(b, a.names[i]))
			return false;
	}
	for (unsigned i = 0; i < b.count; i++) {
		if (!keyword_set_has(a, b.names[i]))
			return false;
	}
	return true;
}

static int keywords_merge(const struct merge_flags *own, const struct merge_flags *peer,
			  bool prefer_peer, struct merge_flags_result *result)
{
	size_t total = (size_t)own->final_keywords.count + own->add_keywords.count +
		       own->remove_keywords.count + peer->final_keywords.count +
		       peer->add_keywords.count + peer->remove_keywords.count;
	size_t count = 0, wanted = 0, end;
	struct mention *list;
	const char **names;

	/* The common case, and no name is mentioned at all in most of them. */
	if (set_identical(own->final_keywords, peer->final_keywords)) {
		result->keywords = own->final_keywords;
		return 0;
	}
	list = calloc(total, sizeof(*list));
	names = calloc(total, sizeof(*names));
	if (list == NULL || names == NULL) {
		free(list);
		free(names);
		return -ENOMEM;
	}
	mention_all(list, &count, own->final_keywords, OWN_FINAL);
	mention_all(list, &count, own->add_keywords, OWN_ADD);
	mention_all(list, &count, own->remove_keywords, OWN_REMOVE);
	mention_all(list, &count, peer->final_keywords, PEER_FINAL);
	mention_all(list, &count, peer->add_keywords, PEER_ADD);
	mention_all(list, &count, peer->remove_keywords, PEER_REMOVE);
	qsort(list, count, sizeof(*list), mention_cmp);

	for (size_t i = 0; i < count; i = end) {
		const char *spelled = NULL;
		uint8_t sets = 0;
		bool want;

		for (end = i; end < count && strcasecmp(list[end].name, list[i].name) == 0; end++) {
			sets |= list[end].set;
			if (spelled == NULL && (list[end].set & (OWN_FINAL | PEER_FINAL)) != 0)
				spelled = list[end].name;
		}
		want = keyword_merge(sets, prefer_peer);
		if (want != (bit_of(sets, OWN_FINAL) != 0))
			result->own_changed = true;
		if (want != (bit_of(sets, PEER_FINAL) != 0))
			result->peer_changed = true;
		if (want && spelled != NULL)
			names[wanted++] = spelled;
	}
	qsort(names, wanted, sizeof(*names), name_cmp);
	free(list);
	result->allocated = names;
	result->keywords = (struct keyword_set){.names = names, .count = (unsigned)wanted};
	return 0;
}

int merge_flags(enum merge_role own_role, const struct merge_flags *own,
		const struct merge_flags *peer, struct merge_flags_result *result_r)
{
	bool prefer_peer = own->modseq < peer->modseq ||
			   (own->modseq == peer->modseq && own_role == MERGE_SLAVE);
	struct bits b = {
		.own_final = own->final & MAIL_FLAGS_MASK,
		.own_add = own->add & MAIL_FLAGS_MASK,
		.own_remove = own->remove & MAIL_FLAGS_MASK,
		.peer_final = peer->final & MAIL_FLAGS_MASK,
		.peer_add = peer->add & MAIL_FLAGS_MASK,
		.peer_remove = peer->remove & MAIL_FLAGS_MASK,
	};

	memset(result_r, 0, sizeof(*result_r));
	result_r->flags = bits_merge(b, prefer_peer);
	result_r->own_changed = result_r->flags != b.own_final;
	result_r->peer_changed = result_r->flags != b.peer_final;
	return keywords_merge(own, peer, prefer_peer, result_r);
}
