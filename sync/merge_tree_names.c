/*
 * The name that each mailbox has afterwards, on both sides.
 *
 * A mailbox that has two names takes the newer one. It follows its parent: what one side made below
 * a mailbox that the other renamed ends up below the new name. Two mailboxes that want one name: if
 * each side made one, they become one mailbox with the greater GUID; else the one that can go back
 * to its other name does, and only where that is taken too it gets "<name>-<part of its GUID>", at
 * once and for good. INBOX is INBOX.
 */
#include "sync/merge_tree_private.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uthash.h>

/* Renames that depend on each other deeper than this are not followed. */
#define FOLLOW_MAX 64

static bool is_single(const struct tree_entry *entry)
{
	return entry->node[0] == NULL || entry->node[1] == NULL;
}

/* A mailbox that is one side's INBOX and something else at the other is two: INBOX keeps the GUID,
 * the other one gets one that both sides can compute. */
static void split_inbox(struct tree_work *work, struct tree_entry *entry, int side)
{
	struct tree_entry *other = &work->entries[work->entry_count++];
	const struct mailbox_node *node = entry->node[side];
	char hex[GUID_HEX_SIZE];

	other->guid = entry->guid;
	other->node[side] = node;
	other->time[side] = entry->time[side];
	/* The hash of the old GUID: stable, and nobody else's. */
	guid_from_name(guid_to_hex(&entry->guid, hex), &other->final_guid);
	work->by_node[side][node - work->tree[side]->nodes] = other;
	entry->node[side] = NULL;
}

static void split_inboxes(struct tree_work *work)
{
	const size_t count = work->entry_count;

	for (size_t i = 0; i < count; i++) {
		struct tree_entry *entry = &work->entries[i];
		bool inbox[2];

		if (is_single(entry))
			continue;
		inbox[0] = tree_is_inbox(entry->node[0]->name);
		inbox[1] = tree_is_inbox(entry->node[1]->name);
		if (inbox[0] != inbox[1])
			split_inbox(work, entry, inbox[0] ? 1 : 0);
	}
}

void tree_passing_name(const struct guid *guid, char name_r[TREE_PASSING_NAME_SIZE])
{
	char hex[GUID_HEX_SIZE];

	snprintf(name_r, TREE_PASSING_NAME_SIZE, TREE_PASSING_PREFIX "%s", guid_to_hex(guid, hex));
}

bool tree_is_passing_name(const char *name)
{
	const size_t prefix = strlen(TREE_PASSING_PREFIX);

	return strncmp(name, TREE_PASSING_PREFIX, prefix) == 0 &&
	       strspn(name + prefix, "0123456789abcdef") == GUID_HEX_LEN;
}

/* Whose name of it counts. */
static int winner_side(const struct tree_work *work, const struct tree_entry *entry)
{
	const struct tree_entry *occupant;
	bool passing[2];
	int first;

	if (is_single(entry))
		return entry->node[0] != NULL ? 0 : 1;
	/* Left by a run that was cut off: the newest rename, but nobody's wish. */
	passing[0] = tree_is_passing_name(entry->node[0]->name);
	passing[1] = tree_is_passing_name(entry->node[1]->name);
	if (passing[0] != passing[1] && work->in->mode == MERGE_DSYNCFS)
		return passing[0] ? 1 : 0;
	if (entry->time[0] != entry->time[1])
		return entry->time[0] > entry->time[1] ? 0 : 1;
	/* The clocks cannot tell. Dovecot meets the lower name first, and there the lower GUID
	 * wins.
	 */
	first = strcmp(entry->node[0]->name, entry->node[1]->name) <= 0 ? 0 : 1;
	occupant = tree_entry_at(work, 1 - first, entry->node[first]->name);
	if (occupant == NULL || occupant->deleted || occupant == entry)
		return first;
	return guid_cmp(&entry->guid, &occupant->guid) < 0 ? first : 1 - first;
}

static int set_target(struct tree_work *work, struct tree_entry *entry, unsigned depth);

/* The name with the nearest parent mailbox's new name in place of the old. */
static int follow_parent(struct tree_work *work, struct tree_entry *entry, int side, unsigned depth)
{
	const char *name = entry->node[side]->name;
	char *path = strdup(name), *slash;
	int ret = path == NULL ? -ENOMEM : 0;

	while (ret == 0 && (slash = strrchr(path, '/')) != NULL) {
		struct tree_entry *parent;

		*slash = '\0';
		parent = tree_entry_at(work, side, path);
		if (parent == NULL || parent->deleted)
			continue;
		if (parent->visiting || tree_is_inbox(path) || depth == FOLLOW_MAX)
			break;
		ret = set_target(work, parent, depth + 1);
		if (ret == 0 && strcmp(parent->target, path) != 0 &&
		    asprintf(&entry->target, "%s%s", parent->target, name + strlen(path)) < 0) {
			entry->target = NULL;
			ret = -ENOMEM;
		}
		break;
	}
	free(path);
	return ret;
}

static int set_target(struct tree_work *work, struct tree_entry *entry, unsigned depth)
{
	int side, ret = 0;

	if (entry->deleted || entry->target != NULL)
		return 0;
	side = winner_side(work, entry);
	assert(entry->node[side] != NULL);
	if (!tree_is_inbox(entry->node[side]->name) &&
	    (is_single(entry) || strcmp(entry->node[0]->name, entry->node[1]->name) != 0)) {
		entry->visiting = true;
		ret = follow_parent(work, entry, side, depth);
		entry->visiting = false;
	}
	if (ret == 0 && entry->target == NULL) {
		entry->target = strdup(entry->node[side]->name);
		if (entry->target == NULL)
			ret = -ENOMEM;
	}
	return ret;
}

/* Who keeps a name that several want: first those who have no other. */
static int claim_rank(const struct tree_entry *entry)
{
	if (tree_is_inbox(entry->target))
		return 0;
	if (is_single(entry))
		return 2;
	return strcmp(entry->node[0]->name, entry->node[1]->name) == 0 ? 1 : 3;
}

int64_t tree_newest_time(const struct tree_entry *entry)
{
	return entry->time[0] > entry->time[1] ? entry->time[0] : entry->time[1];
}

static int claim_cmp(const void *a, const void *b)
{
	const struct tree_entry *x = *(struct tree_entry *const *)a;
	const struct tree_entry *y = *(struct tree_entry *const *)b;
	int ret = strcmp(x->target, y->target);

	if (ret == 0)
		ret = claim_rank(x) - claim_rank(y);
	if (ret == 0 && tree_newest_time(x) != tree_newest_time(y))
		ret = tree_newest_time(x) > tree_newest_time(y) ? -1 : 1;
	if (ret == 0)
		ret = guid_cmp(&x->guid, &y->guid);
	/* Halves of a split INBOX. */
	if (ret == 0)
		ret = (x->node[0] == NULL) - (y->node[0] == NULL);
	return ret;
}

struct claim {
	const char *name;
	UT_hash_handle hh;
};

struct claims {
	struct claim *list, *by_name;
	size_t count;
};

static void claims_add(struct claims *claims, const char *name)
{
	struct claim *claim = &claims->list[claims->count++];

	claim->name = name;
	HASH_ADD_KEYPTR(hh, claims->by_name, claim->name, strlen(claim->name), claim);
}

static bool claims_has(const struct claims *claims, const char *name)
{
	struct claim *claim;

	HASH_FIND(hh, claims->by_name, name, strlen(name), claim);
	return claim != NULL;
}

/* Both sides made a mailbox of this name: they become one. */
static bool merge_same_name(const struct tree_work *work, struct tree_entry *winner,
			    struct tree_entry *entry)
{
	if (winner->merged != NULL || !is_single(winner) || !is_single(entry) ||
	    (winner->node[0] != NULL) == (entry->node[0] != NULL))
		return false;
	winner->merged = entry;
	entry->merged = winner;
	bool winners = work->in->peer_stays ? winner->node[work->other] != NULL
					    : guid_cmp(&winner->final_guid, &entry->final_guid) > 0;

	if (winners)
		entry->final_guid = winner->final_guid;
	else
		winner->final_guid = entry->final_guid;
	return true;
}

static int replace_target(struct tree_entry *entry, char *name)
{
	if (name == NULL)
		return -ENOMEM;
	free(entry->target);
	entry->target = name;
	return 0;
}

/* Another name for one that lost the name it wanted. */
static int find_alternative(struct claims *claims, struct tree_entry *entry)
{
	static const int digits[] = {8, GUID_HEX_LEN};
	char hex[GUID_HEX_SIZE], *name = NULL;
	int ret = -ENOMEM;

	for (int side = 0; side < 2; side++) {
		if (entry->node[side] != NULL && !claims_has(claims, entry->node[side]->name)) {
			ret = replace_target(entry, strdup(entry->node[side]->name));
			if (ret == 0)
				claims_add(claims, entry->target);
			return ret;
		}
	}
	guid_to_hex(&entry->final_guid, hex);
	for (size_t i = 0; i < 2; i++) {
		free(name);
		if (asprintf(&name, "%s-%.*s", entry->target, digits[i], hex) < 0)
			return -ENOMEM;
		if (!claims_has(claims, name))
			break;
	}
	/* Somebody has even that: a name made to be in the way. Longer ones are free. */
	while (claims_has(claims, name)) {
		char *longer;

		if (asprintf(&longer, "%s-%s", name, hex) < 0) {
			free(name);
			return -ENOMEM;
		}
		free(name);
		name = longer;
	}
	ret = replace_target(entry, name);
	if (ret == 0)
		claims_add(claims, entry->target);
	return ret;
}

static int settle_claims(const struct tree_work *work, struct tree_entry **list, size_t count,
			 struct claims *claims)
{
	struct tree_entry *winner = NULL;
	int ret = 0;

	for (size_t i = 0; i < count; i++) {
		if (winner == NULL || strcmp(winner->target, list[i]->target) != 0) {
			winner = list[i];
			claims_add(claims, winner->target);
		} else if (!merge_same_name(work, winner, list[i])) {
			list[i]->lost = true;
		}
	}
	for (size_t i = 0; ret == 0 && i < count; i++) {
		if (list[i]->lost)
			ret = find_alternative(claims, list[i]);
	}
	return ret;
}

int merge_tree_names(struct tree_work *work)
{
	struct claims claims = {NULL, NULL, 0};
	struct tree_entry **list;
	size_t count = 0;
	int ret = 0;

	split_inboxes(work);
	for (size_t i = 0; ret == 0 && i < work->entry_count; i++)
		ret = set_target(work, &work->entries[i], 0);
	if (ret < 0)
		return ret;
	list = calloc(work->entry_count + 1, sizeof(struct tree_entry *));
	claims.list = calloc(work->entry_count + 1, sizeof(*claims.list));
	if (list == NULL || claims.list == NULL) {
		ret = -ENOMEM;
		goto out;
	}
	for (size_t i = 0; i < work->entry_count; i++) {
		if (!work->entries[i].deleted)
			list[count++] = &work->entries[i];
	}
	qsort(list, count, sizeof(struct tree_entry *), claim_cmp);
	ret = settle_claims(work, list, count, &claims);
out:
	HASH_CLEAR(hh, claims.by_name);
	free(claims.list);
	free(list);
	return ret;
}
