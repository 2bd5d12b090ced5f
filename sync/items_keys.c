/*
 * The keys of each item in the order in which we send them, which is Dovecot 2.3's, with the
 * extensions of PROTOCOL.md at the end (reference: dsync-protocol, section 2).
 */
#include <errno.h>
#include <string.h>
#include "sync/items_private.h"

/* clang-format 14 and 19 differ about braces in macros. */
// clang-format off
#define KEY(member_, name_, kind_, flags_)                                                         \
	{.name = (name_), .kind = (kind_), .flags = (flags_),                                      \
	 .offset = offsetof(struct item, member_)}
#define KEY2(member_, second_, name_, kind_, flags_)                                               \
	{.name = (name_), .kind = (kind_), .flags = (flags_),                                      \
	 .offset = offsetof(struct item, member_), .second = offsetof(struct item, second_)}
// clang-format on

static const struct item_key handshake_keys[] = {
	KEY(handshake.hostname, "hostname", KEY_STR, KEY_REQUIRED),
	KEY(handshake.sync_ns_prefix, "sync_ns_prefix", KEY_STR, 0),
	KEY(handshake.sync_box, "sync_box", KEY_STR, 0),
	KEY2(handshake.sync_box_guid, handshake.has_sync_box_guid, "sync_box_guid", KEY_OPT_GUID,
	     0),
	KEY(handshake.sync_type, "sync_type", KEY_STR, 0),
	KEY(handshake.debug, "debug", KEY_BOOL, 0),
	KEY(handshake.sync_visible_namespaces, "sync_visible_namespaces", KEY_BOOL, 0),
	KEY(handshake.exclude_mailboxes, "exclude_mailboxes", KEY_STR, 0),
	KEY(handshake.send_mail_requests, "send_mail_requests", KEY_BOOL, 0),
	KEY(handshake.backup_send, "backup_send", KEY_BOOL, 0),
	KEY(handshake.backup_recv, "backup_recv", KEY_BOOL, 0),
	KEY(handshake.lock_timeout, "lock_timeout", KEY_DEC32, KEY_NOT_ZERO),
	KEY(handshake.no_mail_sync, "no_mail_sync", KEY_BOOL, 0),
	KEY(handshake.no_backup_overwrite, "no_backup_overwrite", KEY_BOOL, 0),
	KEY(handshake.purge_remote, "purge_remote", KEY_BOOL, 0),
	KEY(handshake.no_notify, "no_notify", KEY_BOOL, 0),
	KEY(handshake.sync_since_timestamp, "sync_since_timestamp", KEY_TIME, KEY_NOT_ZERO),
	KEY(handshake.sync_max_size, "sync_max_size", KEY_DEC64, KEY_NOT_ZERO),
	KEY(handshake.sync_flags, "sync_flags", KEY_STR, 0),
	KEY(handshake.sync_until_timestamp, "sync_until_timestamp", KEY_TIME, KEY_NOT_ZERO),
	KEY(handshake.virtual_all_box, "virtual_all_box", KEY_STR, 0),
	KEY(handshake.empty_hdr_workaround, "empty_hdr_workaround", KEY_BOOL, 0),
	KEY(handshake.import_commit_msgs_interval, "import_commit_msgs_interval", KEY_DEC32, 0),
	KEY(handshake.hashed_headers, "hashed_headers", KEY_STR, 0),
	KEY(handshake.alt_char, "alt_char", KEY_STR, 0),
	/* Listed by whatever is dsyncfs, introduced or not; the first is never set. */
	KEY(handshake.dsyncfs_program, "dsyncfs_program", KEY_BOOL, 0),
	KEY(handshake.dsyncfs_check, "dsyncfs_check", KEY_BOOL, 0),
	KEY(handshake.dsyncfs, "dsyncfs", KEY_STR, KEY_EXTENSION),
	KEY(handshake.dsyncfs_busy, "dsyncfs_busy", KEY_BOOL, KEY_EXTENSION),
	KEY(handshake.dsyncfs_boxes, "dsyncfs_boxes", KEY_BOOL, KEY_EXTENSION),
	KEY(handshake.dsyncfs_clock, "dsyncfs_clock", KEY_TIME, KEY_EXTENSION),
};

static const struct item_key state_keys[] = {
	KEY(state.mailbox_guid, "mailbox_guid", KEY_GUID, KEY_REQUIRED),
	KEY(state.last_uidvalidity, "last_uidvalidity", KEY_DEC32, KEY_REQUIRED),
	KEY(state.last_common_uid, "last_common_uid", KEY_DEC32, KEY_REQUIRED),
	KEY(state.last_common_modseq, "last_common_modseq", KEY_DEC64, KEY_REQUIRED),
	KEY(state.last_common_pvt_modseq, "last_common_pvt_modseq", KEY_DEC64, KEY_REQUIRED),
	KEY(state.last_messages_count, "last_messages_count", KEY_DEC32, KEY_ALWAYS),
	KEY(state.changes_during_sync, "changes_during_sync", KEY_BOOL, 0),
	KEY(state.highest_modseq, "highest_modseq", KEY_DEC64, KEY_EXTENSION),
	KEY(state.fill_modseq, "fill_modseq", KEY_DEC64, KEY_EXTENSION),
};

static const struct item_key node_keys[] = {
	KEY(node.name, "name", KEY_NAME, KEY_REQUIRED),
	KEY(node.existence, "existence", KEY_ONE_BYTE, KEY_REQUIRED),
	KEY2(node.mailbox_guid, node.has_guid, "mailbox_guid", KEY_OPT_GUID, 0),
	KEY(node.uid_validity, "uid_validity", KEY_DEC32, 0),
	KEY(node.uid_next, "uid_next", KEY_DEC32, 0),
	KEY(node.last_renamed_or_created, "last_renamed_or_created", KEY_TIME, 0),
	KEY(node.subscribed, "subscribed", KEY_BOOL, 0),
	KEY(node.last_subscription_change, "last_subscription_change", KEY_TIME, 0),
};

static const struct item_key deletes_keys[] = {
	KEY(deletes.hierarchy_sep, "hierarchy_sep", KEY_ONE_BYTE, KEY_REQUIRED),
	KEY(deletes.escape_char, "escape_char", KEY_STR, 0),
	KEY(deletes.mailboxes, "mailboxes", KEY_STR, 0),
	KEY(deletes.dirs, "dirs", KEY_STR, 0),
	KEY(deletes.unsubscribes, "unsubscribes", KEY_STR, 0),
	KEY(deletes.dsyncfs_untold, "dsyncfs_untold", KEY_BOOL, KEY_EXTENSION),
};

static const struct item_key mailbox_keys[] = {
	KEY(mailbox.mailbox_guid, "mailbox_guid", KEY_GUID, KEY_REQUIRED),
	KEY(mailbox.uid_validity, "uid_validity", KEY_DEC32, KEY_REQUIRED),
	KEY(mailbox.uid_next, "uid_next", KEY_DEC32, KEY_REQUIRED),
	KEY(mailbox.messages_count, "messages_count", KEY_DEC32, KEY_REQUIRED),
	KEY(mailbox.first_recent_uid, "first_recent_uid", KEY_DEC32, KEY_REQUIRED),
	KEY(mailbox.highest_modseq, "highest_modseq", KEY_DEC64, KEY_REQUIRED),
	KEY(mailbox.highest_pvt_modseq, "highest_pvt_modseq", KEY_DEC64, KEY_REQUIRED),
	KEY(mailbox.mailbox_lost, "mailbox_lost", KEY_BOOL, 0),
	KEY(mailbox.mailbox_ignore, "mailbox_ignore", KEY_BOOL, 0),
	KEY(mailbox.cache_fields, "cache_fields", KEY_STR, 0),
	KEY(mailbox.have_guids, "have_guids", KEY_BOOL, 0),
	KEY(mailbox.have_save_guids, "have_save_guids", KEY_BOOL, 0),
	KEY(mailbox.have_only_guid128, "have_only_guid128", KEY_BOOL, 0),
	KEY(mailbox.name, "name", KEY_NAME, KEY_EXTENSION),
	KEY(mailbox.common_uid, "common_uid", KEY_DEC32, KEY_EXTENSION),
	KEY(mailbox.acked_modseq, "acked_modseq", KEY_DEC64, KEY_EXTENSION),
	KEY(mailbox.peer_modseq, "peer_modseq", KEY_DEC64, KEY_EXTENSION),
	KEY(mailbox.agreed_uid, "agreed_uid", KEY_DEC32, KEY_EXTENSION),
	KEY(mailbox.reached_uid, "reached_uid", KEY_DEC32, KEY_EXTENSION),
	KEY(mailbox.owed, "owed", KEY_BOOL, KEY_EXTENSION),
	KEY(mailbox.fill_from, "fill_from", KEY_DEC32, KEY_EXTENSION),
	KEY(mailbox.block_uids, "block_uids", KEY_DEC32, KEY_EXTENSION),
};

static const struct item_key attribute_keys[] = {
	KEY(attribute.type, "type", KEY_LETTER, KEY_REQUIRED),
	KEY(attribute.key, "key", KEY_STR, KEY_REQUIRED),
	KEY2(attribute.value, attribute.value_len, "value", KEY_BYTES, 0),
	KEY(attribute.stream, "stream", KEY_BOOL, 0),
	KEY(attribute.deleted, "deleted", KEY_BOOL, 0),
	KEY(attribute.last_change, "last_change", KEY_TIME, 0),
	KEY(attribute.modseq, "modseq", KEY_DEC64, 0),
};

static const struct item_key change_keys[] = {
	KEY(change.type, "type", KEY_LETTER, KEY_REQUIRED),
	KEY(change.uid, "uid", KEY_DEC32, KEY_REQUIRED | KEY_NOT_ZERO),
	KEY(change.guid, "guid", KEY_MAIL_GUID, 0),
	KEY(change.hdr_hash, "hdr_hash", KEY_STR, 0),
	KEY(change.modseq, "modseq", KEY_DEC64, 0),
	KEY(change.pvt_modseq, "pvt_modseq", KEY_DEC64, 0),
	KEY(change.add_flags, "add_flags", KEY_HEX8, 0),
	KEY(change.remove_flags, "remove_flags", KEY_HEX8, 0),
	KEY(change.final_flags, "final_flags", KEY_HEX8, 0),
	KEY(change.keywords_reset, "keywords_reset", KEY_BOOL, 0),
	KEY(change.keywords, "keyword_changes", KEY_KEYWORDS, 0),
	KEY(change.received_timestamp, "received_timestamp", KEY_HEX64, 0),
	KEY(change.virtual_size, "virtual_size", KEY_HEX64, 0),
	KEY(change.from, "from", KEY_NAME, KEY_EXTENSION),
	KEY(change.saved, "saved", KEY_TIME, KEY_EXTENSION),
	KEY(change.appended, "appended", KEY_DEC64, KEY_EXTENSION),
	KEY(change.expunged, "expunged", KEY_DEC64, KEY_EXTENSION),
};

static const struct item_key request_keys[] = {
	KEY(request.guid, "guid", KEY_MAIL_GUID, 0),
	KEY(request.uid, "uid", KEY_DEC32, 0),
};

static const struct item_key mail_keys[] = {
	KEY(mail.guid, "guid", KEY_MAIL_GUID, 0),
	KEY(mail.uid, "uid", KEY_DEC32, 0),
	KEY(mail.pop3_uidl, "pop3_uidl", KEY_MAIL_GUID, 0),
	KEY(mail.pop3_order, "pop3_order", KEY_DEC32, 0),
	KEY(mail.received_date, "received_date", KEY_TIME, 0),
	KEY(mail.saved_date, "saved_date", KEY_TIME, 0),
	KEY(mail.stream, "stream", KEY_BOOL, 0),
	KEY(mail.body_digest, "body_digest", KEY_STR, KEY_EXTENSION),
};

static const struct item_key finish_keys[] = {
	KEY(finish.error, "error", KEY_STR, 0),
	KEY(finish.mail_error, "mail_error", KEY_DEC32, 0),
	KEY(finish.require_full_resync, "require_full_resync", KEY_BOOL, 0),
};

static const struct item_key cache_field_keys[] = {
	KEY(cache_field.name, "name", KEY_STR, KEY_REQUIRED),
	KEY(cache_field.decision, "decision", KEY_STR, KEY_REQUIRED),
	KEY(cache_field.last_used, "last_used", KEY_TIME, 0),
};

/* clang-format 14 and 19 differ about braces in macros. */
// clang-format off
#define DESC(code_, name_, minor_, keys_)                                                          \
	{.code = (code_), .name = (name_), .min_minor = (minor_), .keys = (keys_),                 \
	 .key_count = sizeof(keys_) / sizeof((keys_)[0])}
// clang-format on

/* In the order of the header lines. */
const struct item_desc item_descs[ITEM_TYPE_COUNT] = {
	[ITEM_HANDSHAKE] = DESC('H', "handshake", 0, handshake_keys),
	[ITEM_STATE] = DESC('S', "mailbox_state", 0, state_keys),
	[ITEM_NODE] = DESC('N', "mailbox_tree_node", 0, node_keys),
	[ITEM_DELETES] = DESC('D', "mailbox_deletes", 0, deletes_keys),
	[ITEM_MAILBOX] = DESC('B', "mailbox", 0, mailbox_keys),
	[ITEM_ATTRIBUTE] = DESC('A', "mailbox_attribute", 1, attribute_keys),
	[ITEM_CHANGE] = DESC('C', "mail_change", 0, change_keys),
	[ITEM_REQUEST] = DESC('R', "mail_request", 0, request_keys),
	[ITEM_MAIL] = DESC('M', "mail", 0, mail_keys),
	[ITEM_FINISH] = DESC('F', "finish", 3, finish_keys),
	[ITEM_CACHE_FIELD] = DESC('c', "mailbox_cache_field", 0, cache_field_keys),
};

int items_layout_own(struct item_layout *layout, enum item_type type, bool extensions)
{
	const struct item_desc *desc = &item_descs[type];

	*layout = (struct item_layout){.present = true};
	for (unsigned i = 0; i < desc->key_count; i++) {
		if (extensions || (desc->keys[i].flags & KEY_EXTENSION) == 0)
			layout->key_at[layout->count++] = (int8_t)i;
	}
	return 0;
}

static int find_key(const struct item_desc *desc, const char *name)
{
	for (unsigned i = 0; i < desc->key_count; i++) {
		if (strcmp(desc->keys[i].name, name) == 0)
			return (int)i;
	}
	return ITEMS_POSITION_UNKNOWN;
}

int items_layout_parse(struct item_layout *layout, enum item_type type, char *fields,
		       struct error *err)
{
	const struct item_desc *desc = &item_descs[type];
	uint64_t listed = 0;

	*layout = (struct item_layout){.present = true};
	for (char *key = fields; key != NULL;) {
		char *next = strchr(key, '\t');

		if (next != NULL)
			*next++ = '\0';
		if (layout->count == ITEMS_POSITIONS_MAX)
			return error_set(err, -EBADMSG,
					 "Remote sent invalid handshake for %s: more than %d keys",
					 desc->name, ITEMS_POSITIONS_MAX);
		int index = find_key(desc, key);
		if (index >= 0)
			listed |= UINT64_C(1) << index;
		layout->key_at[layout->count++] = (int8_t)index;
		key = next;
	}
	for (unsigned i = 0; i < desc->key_count; i++) {
		if ((desc->keys[i].flags & KEY_REQUIRED) != 0 && (listed & (UINT64_C(1) << i)) == 0)
			return error_set(err, -EBADMSG,
					 "Remote sent invalid handshake for %s: Header missing "
					 "required field %s",
					 desc->name, desc->keys[i].name);
	}
	return 0;
}
