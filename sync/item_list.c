/*
 * Lists of changes between the store, the merge and the wire. See item_list.h.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "sync/item_list.h"

#define CHUNK_BYTES ((size_t)16 * 1024)

struct item_list_chunk {
	struct item_list_chunk *next;
	size_t used, size;
	char data[];
};

void item_list_init(struct item_list *list)
{
	memset(list, 0, sizeof(*list));
}

void item_list_free(struct item_list *list)
{
	while (list->chunks != NULL) {
		struct item_list_chunk *next = list->chunks->next;

		free(list->chunks);
		list->chunks = next;
	}
	free(list->items);
	item_list_init(list);
}

static void *list_alloc(struct item_list *list, size_t len)
{
	struct item_list_chunk *chunk = list->chunks;

	len = (len + 7) & ~(size_t)7;
	if (chunk == NULL || chunk->size - chunk->used < len) {
		size_t size = len > CHUNK_BYTES ? len : CHUNK_BYTES;

		chunk = malloc(sizeof(*chunk) + size);
		if (chunk == NULL)
			return NULL;
		chunk->next = list->chunks;
		chunk->used = 0;
		chunk->size = size;
		list->chunks = chunk;
		list->memory_bytes += sizeof(*chunk) + size;
	}
	void *ptr = chunk->data + chunk->used;
	chunk->used += len;
	return ptr;
}

char *item_list_strdup(struct item_list *list, const char *text)
{
	size_t size = strlen(text) + 1;
	char *copy = list_alloc(list, size);

	if (copy != NULL)
		memcpy(copy, text, size);
	return copy;
}

static struct merge_item *add_item(struct item_list *list)
{
	if (list->count == list->size) {
		size_t size = list->size != 0 ? list->size * 2 : 16;
		struct merge_item *bigger = realloc(list->items, size * sizeof(*list->items));

		if (bigger == NULL)
			return NULL;
		list->memory_bytes += (size - list->size) * sizeof(*list->items);
		list->items = bigger;
		list->size = size;
	}
	struct merge_item *item = &list->items[list->count++];
	memset(item, 0, sizeof(*item));
	return item;
}

static int name_cmp(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* A set under construction: at most `max` names. */
static const char **set_begin(struct item_list *list, struct keyword_set *set, size_t max)
{
	const char **names = max > 0 ? list_alloc(list, max * sizeof(*names)) : NULL;

	set->names = names;
	set->count = 0;
	return names;
}

static void set_finish(struct keyword_set *set, const char **names, unsigned count)
{
	unsigned kept = 0;

	if (count > 1)
		qsort(names, count, sizeof(*names), name_cmp);
	for (unsigned i = 0; i < count; i++) {
		if (kept == 0 || strcmp(names[kept - 1], names[i]) != 0)
			names[kept++] = names[i];
	}
	set->count = kept;
}

static int copy_set(struct item_list *list, struct keyword_set *set_r, struct keyword_set set)
{
	const char **names = set_begin(list, set_r, set.count);

	if (set.count == 0)
		return 0;
	if (names == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < set.count; i++) {
		names[i] = item_list_strdup(list, set.names[i]);
		if (names[i] == NULL)
			return -ENOMEM;
	}
	set_finish(set_r, names, set.count);
	return 0;
}

int item_list_add_mail(struct item_list *list, char type, const struct mail *mail,
		       const struct mailbox_change *change, const char *hdr_hash)
{
	struct merge_item *item = add_item(list);
	int ret;

	if (item == NULL)
		return -ENOMEM;
	item->type = type;
	item->uid = mail->uid;
	item->guid = item_list_strdup(list, mail->guid != NULL ? mail->guid : "");
	if (item->guid == NULL)
		return -ENOMEM;
	if (hdr_hash != NULL) {
		item->hdr_hash = item_list_strdup(list, hdr_hash);
		if (item->hdr_hash == NULL)
			return -ENOMEM;
	}
	item->flags.modseq = mail->modseq;
	item->flags.final = mail->flags | (mail->recent ? MAIL_RECENT : 0);
	ret = copy_set(list, &item->flags.final_keywords, mail->keywords);
	if (change == NULL || ret < 0)
		return ret;
	if (type == 's')
		item->appended = change->append_modseq;
	/* The wire allows a flag in one of the two only; what is there now counts as added. */
	item->flags.add = change->add_flags & MAIL_FLAGS_MASK;
	item->flags.remove = change->remove_flags & MAIL_FLAGS_MASK & ~item->flags.add;
	ret = copy_set(list, &item->flags.add_keywords, change->add_keywords);
	if (ret == 0)
		ret = copy_set(list, &item->flags.remove_keywords, change->remove_keywords);
	return ret;
}

int item_list_add_expunge(struct item_list *list, const struct mailbox_change *change)
{
	struct merge_item *item = add_item(list);

	if (item == NULL)
		return -ENOMEM;
	item->type = 'e';
	item->uid = change->uid;
	item->has_guid128 = change->has_guid;
	item->guid128 = change->guid;
	item->flags.modseq = change->modseq;
	item->appended = change->append_modseq;
	item->expunged = change->expunge_modseq;
	return 0;
}

int item_list_insert_absent(struct item_list *list, const struct merge_item *item)
{
	size_t low = 0, high = list->count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;

		if (list->items[mid].uid == item->uid)
			return 0;
		if (list->items[mid].uid < item->uid)
			low = mid + 1;
		else
			high = mid;
	}
	if (add_item(list) == NULL)
		return -ENOMEM;
	memmove(&list->items[low + 1], &list->items[low],
		(list->count - 1 - low) * sizeof(*list->items));
	list->items[low] = *item;
	list->items[low].absent = true;
	return 0;
}

static int take_keywords(struct item_list *list, struct merge_item *item,
			 const struct item_change *change)
{
	size_t max = change->keyword_count;
	const char **final = set_begin(list, &item->flags.final_keywords, max);
	const char **add = set_begin(list, &item->flags.add_keywords, max);
	const char **remove = set_begin(list, &item->flags.remove_keywords, max);
	unsigned finals = 0, adds = 0, removes = 0;

	if (max == 0)
		return 0;
	if (final == NULL || add == NULL || remove == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < max; i++) {
		const char *name = item_list_strdup(list, change->keywords[i].name);
		char op = change->keywords[i].op;

		if (name == NULL)
			return -ENOMEM;
		if (op == '=' || op == '&')
			final[finals++] = name;
		if (op == '+' || op == '&')
			add[adds++] = name;
		if (op == '-')
			remove[removes++] = name;
	}
	set_finish(&item->flags.final_keywords, final, finals);
	set_finish(&item->flags.add_keywords, add, adds);
	set_finish(&item->flags.remove_keywords, remove, removes);
	return 0;
}

int item_list_add_received(struct item_list *list, const struct item_change *change)
{
	struct merge_item *item = add_item(list);

	if (item == NULL)
		return -ENOMEM;
	item->type = change->type;
	item->uid = change->uid;
	if (change->type == 'e') {
		item->has_guid128 = change->guid != NULL && *change->guid != '\0' &&
				    guid_from_hex(change->guid, &item->guid128) == 0;
		item->flags.modseq = change->modseq;
		item->appended = change->appended;
		item->expunged = change->expunged;
		return 0;
	}
	if (change->guid != NULL) {
		item->guid = item_list_strdup(list, change->guid);
		if (item->guid == NULL)
			return -ENOMEM;
	}
	if (change->hdr_hash != NULL && *change->hdr_hash != '\0') {
		item->hdr_hash = item_list_strdup(list, change->hdr_hash);
		if (item->hdr_hash == NULL)
			return -ENOMEM;
	}
	if (change->from != NULL) {
		item->from = item_list_strdup(list, change->from);
		if (item->from == NULL)
			return -ENOMEM;
	}
	item->saved = change->saved;
	item->appended = change->appended;
	item->received = change->received_timestamp <= INT64_MAX
				 ? (int64_t)change->received_timestamp
				 : INT64_MAX;
	item->size = change->virtual_size;
	item->flags.modseq = change->modseq;
	item->flags.final = change->final_flags;
	item->flags.add = change->add_flags;
	item->flags.remove = change->remove_flags & ~change->add_flags;
	return take_keywords(list, item, change);
}

static bool set_has(struct keyword_set set, const char *name)
{
	return keyword_set_has(set, name);
}

static int put_word(struct item_keywords_scratch *scratch, size_t *count, char op, const char *name)
{
	if (*count == scratch->size) {
		size_t size = scratch->size != 0 ? scratch->size * 2 : 16;
		struct item_keyword *bigger =
			realloc(scratch->words, size * sizeof(*scratch->words));

		if (bigger == NULL)
			return -ENOMEM;
		scratch->words = bigger;
		scratch->size = size;
	}
	scratch->words[(*count)++] = (struct item_keyword){.op = op, .name = name};
	return 0;
}

static int put_keywords(const struct merge_flags *flags, struct item_keywords_scratch *scratch,
			struct item_change *change)
{
	size_t count = 0;
	int ret = 0;

	for (unsigned i = 0; i < flags->add_keywords.count && ret == 0; i++) {
		const char *name = flags->add_keywords.names[i];
		ret = put_word(scratch, &count, set_has(flags->final_keywords, name) ? '&' : '+',
			       name);
	}
	for (unsigned i = 0; i < flags->remove_keywords.count && ret == 0; i++) {
		const char *name = flags->remove_keywords.names[i];
		if (!set_has(flags->final_keywords, name))
			ret = put_word(scratch, &count, '-', name);
	}
	for (unsigned i = 0; i < flags->final_keywords.count && ret == 0; i++) {
		const char *name = flags->final_keywords.names[i];
		if (!set_has(flags->add_keywords, name))
			ret = put_word(scratch, &count, '=', name);
	}
	change->keywords = scratch->words;
	change->keyword_count = count;
	return ret;
}

int item_list_apply_keywords(struct item_list *list, struct keyword_set now,
			     struct keyword_set before, struct keyword_set wanted,
			     struct keyword_set *set_r)
{
	size_t max = (size_t)now.count + wanted.count;
	const char **names = set_begin(list, set_r, max);
	unsigned count = 0;

	if (max == 0)
		return 0;
	if (names == NULL)
		return -ENOMEM;
	for (unsigned i = 0; i < now.count; i++) {
		if (keyword_set_has(before, now.names[i]) && !keyword_set_has(wanted, now.names[i]))
			continue;
		names[count] = item_list_strdup(list, now.names[i]);
		if (names[count++] == NULL)
			return -ENOMEM;
	}
	for (unsigned i = 0; i < wanted.count; i++) {
		if (keyword_set_has(before, wanted.names[i]) ||
		    keyword_set_has(now, wanted.names[i]))
			continue;
		names[count] = item_list_strdup(list, wanted.names[i]);
		if (names[count++] == NULL)
			return -ENOMEM;
	}
	set_finish(set_r, names, count);
	return 0;
}

/* Dovecot 2.3.19 aborts at an 'e' without a date where one is asked for, and drops one with a date
 * that is not. */
static int64_t date_that_counts(const struct mail_filter *filter)
{
	return filter->since != 0 ? filter->since : filter->until;
}

int item_list_to_change(const struct merge_item *item, bool to_dovecot,
			const struct mail_filter *filter, struct item_keywords_scratch *scratch,
			char hex[GUID_HEX_SIZE], struct item_change *change_r)
{
	*change_r = (struct item_change){.type = item->type, .uid = item->uid};
	if (item->type == 'e') {
		if (item->has_guid128)
			change_r->guid = guid_to_hex(&item->guid128, hex);
		if (to_dovecot) {
			change_r->received_timestamp = (uint64_t)date_that_counts(filter);
			return 0;
		}
		change_r->modseq = item->flags.modseq;
		change_r->appended = item->appended;
		change_r->expunged = item->expunged != item->flags.modseq ? item->expunged : 0;
		return 0;
	}
	change_r->guid = item->guid != NULL ? item->guid : "";
	change_r->hdr_hash = item->hdr_hash;
	change_r->modseq = item->flags.modseq;
	change_r->add_flags = item->flags.add;
	change_r->remove_flags = item->flags.remove;
	change_r->final_flags = item->flags.final;
	if (!to_dovecot)
		change_r->final_flags &= (uint8_t)~MAIL_RECENT;
	change_r->from = item->from;
	change_r->saved = item->from != NULL ? item->saved : 0;
	/* Where it is not said the MODSEQ stands for it. */
	change_r->appended = item->appended != item->flags.modseq ? item->appended : 0;
	if (mail_filter_wants_date(filter))
		change_r->received_timestamp = item->received > 0 ? (uint64_t)item->received : 1;
	if (mail_filter_wants_size(filter))
		change_r->virtual_size = item->size;
	/* What Dovecot sends where no size limit is in effect. */
	else if (item->type == 's' && to_dovecot)
		change_r->virtual_size = UINT64_MAX;
	return put_keywords(&item->flags, scratch, change_r);
}
