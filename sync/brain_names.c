/* Mailbox names on the wire to and from a Dovecot of 2.3.19 or later: see brain_names.h. */
#include "sync/brain_names.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/mailbox_name.h"

#define NAME_BYTES_MAX 4096
/* An escaped name is three times as long at most, and so is that one's. */
#define SAID_BYTES_MAX (3 * NAME_BYTES_MAX)

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Of an escape sequence; else -1. */
static int escaped_byte(const char *text, char escape)
{
	if (*text != escape || hex_digit(text[1]) < 0 || hex_digit(text[2]) < 0)
		return -1;
	return hex_digit(text[1]) * 16 + hex_digit(text[2]);
}

static bool has_sequence(const char *name, char escape)
{
	for (; escape != '\0' && (name = strchr(name, escape)) != NULL; name++) {
		if (escaped_byte(name, escape) >= 0)
			return true;
	}
	return false;
}

static bool tree_has_sequence(const struct mailbox_tree *tree, char escape)
{
	for (size_t i = 0; i < tree->node_count; i++) {
		if (has_sequence(tree->nodes[i].name, escape))
			return true;
	}
	return false;
}

static void append_escaped_char(struct buf *out, char c)
{
	static const char digits[] = "0123456789abcdef";

	(void)buf_append_byte(out, (unsigned char)digits[(unsigned char)c >> 4]);
	(void)buf_append_byte(out, (unsigned char)digits[(unsigned char)c & 15]);
}

/* Also where no sequence follows: it compares what it made of both names. */
static void append_escaped(struct buf *out, const char *name, char escape)
{
	for (; *name != '\0'; name++) {
		(void)buf_append_byte(out, (unsigned char)*name);
		if (*name == escape)
			append_escaped_char(out, escape);
	}
}

/* What the peer makes of the name when it unescapes it. False: nothing that a name here could be.
 */
static bool append_unescaped(struct buf *out, const char *name, char escape)
{
	size_t start = out->len;

	while (*name != '\0') {
		int c = escaped_byte(name, escape);

		if (c == 0 || c == '/')
			return false;
		(void)buf_append_byte(out, (unsigned char)(c > 0 ? c : *name));
		name += c > 0 ? 3 : 1;
	}
	return !out->failed && utf8_text_is_valid(buf_str(out) + start, out->len - start);
}

/* ---- what it says ---- */

/* An own name with escape sequences, and what the peer says for it. */
struct said_name {
	const struct mailbox_node *own;
	char *said;
};

static int by_guid(const void *a, const void *b)
{
	const struct said_name *x = a, *y = b;

	return guid_cmp(&x->own->guid, &y->own->guid);
}

static int by_said(const void *a, const void *b)
{
	const struct said_name *x = a, *y = b;

	return strcmp(x->said, y->said);
}

static void free_said(struct said_name *list, size_t count)
{
	for (size_t i = 0; list != NULL && i < count; i++)
		free(list[i].said);
	free(list);
}

/* Of mailboxes, sorted by GUID. */
static int list_said(const struct peer_names *names, const struct mailbox_tree *own,
		     struct said_name **list_r, size_t *count_r)
{
	struct said_name *list = calloc(own->node_count + 1, sizeof(*list));
	size_t count = 0;

	if (list == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < own->node_count; i++) {
		const struct mailbox_node *node = &own->nodes[i];
		AUTO_BUF struct buf said = BUF_INIT(SAID_BYTES_MAX);

		if (guid_is_empty(&node->guid) || !has_sequence(node->name, names->escape))
			continue;
		if (!append_unescaped(&said, node->name, names->escape))
			continue;
		list[count].own = node;
		list[count].said = strdup(buf_str(&said));
		if (list[count++].said == NULL) {
			free_said(list, count);
			return -ENOMEM;
		}
	}
	if (count > 0)
		qsort(list, count, sizeof(*list), by_guid);
	*list_r = list;
	*count_r = count;
	return 0;
}

/* A mailbox that 2.3 knows to have been renamed has the name that it says: its 2.3.19 says names as
 * they are. */
static bool is_said_for(const struct peer_names *names, const struct mailbox_node *node,
			const struct said_name *said)
{
	return strcmp(node->name, said->said) == 0 &&
	       (names->unescaped || node->last_renamed_or_created == 0);
}

/* Leaves those of the list that the peer says so, with their nodes renamed. */
static int rename_mailboxes(const struct peer_names *names, struct mailbox_tree *peer,
			    struct said_name *list, size_t *count)
{
	bool *used = calloc(*count + 1, sizeof(*used));
	size_t kept = 0;
	int ret = 0;

	if (used == NULL)
		return -ENOMEM;
	for (size_t i = 0; ret == 0 && i < peer->node_count; i++) {
		struct mailbox_node *node = &peer->nodes[i];
		const struct said_name key = {.own = node};
		const struct said_name *said =
			*count > 0 ? bsearch(&key, list, *count, sizeof(*list), by_guid) : NULL;

		if (said == NULL || !is_said_for(names, node, said))
			continue;
		char *name = strdup(said->own->name);
		if (name == NULL) {
			ret = -ENOMEM;
			break;
		}
		free(node->name);
		node->name = name;
		used[said - list] = true;
	}
	for (size_t i = 0; i < *count; i++) {
		if (used[i])
			list[kept++] = list[i];
		else
			free(list[i].said);
	}
	*count = kept;
	free(used);
	return ret;
}

/* The longest of its parents that is in the list, which is sorted by what is said. */
static const struct said_name *said_parent(char *name, const struct said_name *list, size_t count)
{
	for (char *slash = strrchr(name, '/'); slash != NULL;) {
		struct said_name key = {.said = name};

		*slash = '\0';
		const struct said_name *found = bsearch(&key, list, count, sizeof(*list), by_said);
		char *before = strrchr(name, '/');
		*slash = '/';
		if (found != NULL)
			return found;
		slash = before;
	}
	return NULL;
}

static bool own_has_guid(const struct mailbox_tree *own, const struct guid *guid)
{
	for (size_t i = 0; i < own->node_count; i++) {
		if (guid_equal(&own->nodes[i].guid, guid))
			return true;
	}
	return false;
}

/* What is new below a renamed one. What we have ourselves has its own name here. */
static int rename_children(const struct mailbox_tree *own, struct mailbox_tree *peer,
			   struct said_name *list, size_t count)
{
	qsort(list, count, sizeof(*list), by_said);
	for (size_t i = 0; i < peer->node_count; i++) {
		struct mailbox_node *node = &peer->nodes[i];
		const struct said_name *parent = said_parent(node->name, list, count);
		AUTO_BUF struct buf name = BUF_INIT(SAID_BYTES_MAX);

		if (parent == NULL || guid_is_empty(&node->guid) || own_has_guid(own, &node->guid))
			continue;
		(void)buf_append_str(&name, parent->own->name);
		(void)buf_append_str(&name, node->name + strlen(parent->said));
		char *copy = name.failed ? NULL : strdup(buf_str(&name));
		if (copy == NULL)
			return -ENOMEM;
		free(node->name);
		node->name = copy;
	}
	return 0;
}

int names_from_peer(struct peer_names *names, const struct mailbox_tree *own,
		    struct mailbox_tree *peer)
{
	struct said_name *list = NULL;
	size_t count = 0;

	/* One that says a sequence says its names as they are. */
	if (names->escape == '\0' || (!names->unescaped && tree_has_sequence(peer, names->escape)))
		return 0;
	int ret = list_said(names, own, &list, &count);
	if (ret < 0)
		return ret;
	ret = rename_mailboxes(names, peer, list, &count);
	names->unescaped |= count > 0;
	if (ret == 0 && count > 0)
		ret = rename_children(own, peer, list, count);
	free_said(list, count);
	return ret;
}

/* ---- what it is told ---- */

static bool has_name(const struct mailbox_tree *tree, const char *name)
{
	size_t low = 0, high = tree->node_count;

	while (low < high) {
		size_t mid = low + (high - low) / 2;
		int cmp = strcmp(tree->nodes[mid].name, name);

		if (cmp == 0)
			return true;
		if (cmp < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return false;
}

/* The mailbox, and what is below it here. */
static bool has_all_of(const struct mailbox_tree *peer, const struct mailbox_tree *own,
		       const char *name)
{
	size_t len = strlen(name);

	for (size_t i = 0; i < own->node_count; i++) {
		const char *other = own->nodes[i].name;

		if (strncmp(other, name, len) == 0 && (other[len] == '\0' || other[len] == '/') &&
		    own->nodes[i].exists && !has_name(peer, other))
			return false;
	}
	return has_name(peer, name);
}

/* The name as it is, to who says its names unescaped. */
static bool keeps_name(const struct mailbox_tree *own, const struct mailbox_tree *peer,
		       const char *name, char escape)
{
	AUTO_BUF struct buf unescaped = BUF_INIT(NAME_BYTES_MAX);

	return !append_unescaped(&unescaped, name, escape) || has_all_of(peer, own, name);
}

int names_to_peer(const struct peer_names *names, const struct mailbox_tree *own,
		  const struct mailbox_tree *peer, const char *name, struct buf *said_r)
{
	buf_clear(said_r);
	if (names->escape == '\0' || strchr(name, names->escape) == NULL ||
	    (names->unescaped && keeps_name(own, peer, name, names->escape)))
		return buf_append_str(said_r, name);
	append_escaped(said_r, name, names->escape);
	return said_r->failed;
}

void names_hash(const char *name, char separator, char escape, struct guid *guid_r)
{
	AUTO_BUF struct buf visible = BUF_INIT(SAID_BYTES_MAX);

	for (; *name != '\0'; name++) {
		if (*name == '/') {
			(void)buf_append_byte(&visible, (unsigned char)separator);
			continue;
		}
		if (escape == '\0' || (*name != separator && *name != escape)) {
			(void)buf_append_byte(&visible, (unsigned char)*name);
			continue;
		}
		(void)buf_append_byte(&visible, (unsigned char)escape);
		append_escaped_char(&visible, *name);
	}
	/* Nobody has a name that is too long. */
	if (visible.failed)
		buf_clear(&visible);
	guid_from_name(buf_str(&visible), guid_r);
}
