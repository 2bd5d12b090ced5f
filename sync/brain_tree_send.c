/*
 * The own mailbox tree to the peer: N and D.
 *
 * A Dovecot's tree is known by then, and each name is said in the form that becomes it there.
 */
#include <inttypes.h>
#include <string.h>
#include "store/base/file.h"
#include "sync/brain_names.h"
#include "sync/brain_private.h"

#define DELETES_BYTES_MAX ((size_t)64 * 1024 * 1024)
/* A name in which each character had to be escaped. */
#define SAID_BYTES_MAX (3 * 4096)

static int send_node(struct brain *brain, const struct peer_tree *peer,
		     const struct mailbox_node *node, struct error *err)
{
	AUTO_BUF struct buf said = BUF_INIT(SAID_BYTES_MAX);
	int ret = peer == NULL ? buf_append_str(&said, node->name)
			       : names_to_peer(&peer->names, &brain->tree, peer->tree, node->name,
					       &said);

	if (ret < 0)
		return error_errno(err, ret, "mailbox %s", node->name);
	bool selectable = node->exists && !guid_is_empty(&node->guid);
	/* A Dovecot makes mailboxes of directories: 2.3 in a Maildir++, 2.4 in an mdbox. As a
	 * parent it comes with what is below it. */
	bool exists =
		selectable || (node->exists &&
			       items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs_program"));
	struct item item = {
		.type = ITEM_NODE,
		.node = {.name = buf_str(&said),
			 .existence = exists ? "y" : "n",
			 .mailbox_guid = node->guid,
			 .has_guid = selectable,
			 .uid_validity = selectable ? node->uid_validity : 0,
			 .uid_next = selectable ? node->uid_next : 0,
			 .last_renamed_or_created = node->last_renamed_or_created,
			 .subscribed = node->subscribed,
			 .last_subscription_change = node->last_subscription_change},
	};

	return items_send(brain->items, &item, err);
}

static const char *list_or_null(const struct buf *list)
{
	return list->len > 0 ? buf_str(list) : NULL;
}

static void append_deletion(struct buf lists[3], const struct mailbox_deletion *deletion,
			    const struct guid *guid)
{
	struct buf *list = &lists[deletion->kind == DELETED_MAILBOX	? 0
				  : deletion->kind == DELETED_DIRECTORY ? 1
									: 2];
	char hex[GUID_HEX_SIZE];

	(void)buf_printf(list, "%s%s %" PRId64, list->len > 0 ? " " : "", guid_to_hex(guid, hex),
			 deletion->time);
}

/* Of what was deleted by name only the hash is known, made with our separator. Only a name that
 * the peer has matters to it, and of that we can make its own. all: else only of those whose hash
 * is another there. */
static void append_translated(struct buf lists[3], const struct mailbox_tree *own,
			      const struct peer_tree *peer, bool all)
{
	const char escape = peer->names.escape;

	for (size_t n = 0; n < peer->tree->node_count; n++) {
		const char *name = peer->tree->nodes[n].name;
		struct guid hash, peer_hash;

		if (!all && (escape == '\0' || strchr(name, escape) == NULL))
			continue;
		names_hash(name, own->separator, '\0', &hash);
		names_hash(name, peer->tree->separator, escape, &peer_hash);
		for (size_t i = 0; i < own->deletion_count; i++) {
			if (own->deletions[i].kind != DELETED_MAILBOX &&
			    guid_equal(&own->deletions[i].guid, &hash))
				append_deletion(lists, &own->deletions[i], &peer_hash);
		}
	}
}

/* peer: its tree where it is known already, else NULL. */
static int send_deletes(struct brain *brain, const struct peer_tree *peer, struct error *err)
{
	struct buf lists[3] = {BUF_INIT(DELETES_BYTES_MAX), BUF_INIT(DELETES_BYTES_MAX),
			       BUF_INIT(DELETES_BYTES_MAX)};
	bool translate = peer != NULL && peer->tree->separator != brain->tree.separator;
	char separator[2] = {translate ? peer->tree->separator : brain->tree.separator, '\0'};

	for (size_t i = 0; i < brain->tree.deletion_count; i++) {
		const struct mailbox_deletion *deletion = &brain->tree.deletions[i];

		if (!translate || deletion->kind == DELETED_MAILBOX)
			append_deletion(lists, deletion, &deletion->guid);
	}
	if (peer != NULL && brain->tree.deletion_count > 0)
		append_translated(lists, &brain->tree, peer, translate);
	struct item item = {
		.type = ITEM_DELETES,
		.deletes = {.hierarchy_sep = separator,
			    .escape_char = "",
			    .mailboxes = list_or_null(&lists[0]),
			    .dirs = list_or_null(&lists[1]),
			    .unsubscribes = list_or_null(&lists[2]),
			    .dsyncfs_untold = brain->untold},
	};
	int ret = items_send(brain->items, &item, err);
	for (unsigned i = 0; i < 3; i++)
		buf_free(&lists[i]);
	return ret;
}

int brain_send_tree(struct brain *brain, const struct peer_tree *peer, struct error *err)
{
	for (size_t i = 0; i < brain->tree.node_count; i++) {
		const struct mailbox_node *node = &brain->tree.nodes[i];

		if (!brain_box_is_wanted(brain, node->name, &node->guid))
			continue;
		int ret = send_node(brain, peer, node, err);
		if (ret < 0)
			return ret;
	}
	int ret = items_send_end(brain->items, err);
	if (ret == 0)
		ret = send_deletes(brain, peer, err);
	return ret;
}
