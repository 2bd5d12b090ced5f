/*
 * From a struct item to its line, by our own key list.
 *
 * Also the guard of dsync-protocol 1.8: what would abort a real peer is refused here, whatever the
 * caller believes.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include "store/base/tabescape.h"
#include "store/mail.h"
#include "sync/items_private.h"

#define NULL_MARK '\x02'

static int refuse(const struct item_desc *desc, const char *why, struct error *err)
{
	return error_set(err, -EINVAL, "will not send %s: %s", desc->name, why);
}

static bool is_hex_guid(const char *text)
{
	struct guid guid;

	return guid_from_hex(text, &guid) == 0;
}

static int check_change(const struct item_desc *desc, const struct item_change *change,
			uint32_t previous_uid, struct error *err)
{
	if (change->type == '\0' || strchr("sfeb", change->type) == NULL)
		return refuse(desc, "unknown type", err);
	if (change->uid <= previous_uid)
		return refuse(desc, "UIDs do not increase", err);
	if ((change->add_flags & change->remove_flags) != 0)
		return refuse(desc, "a flag is added and removed", err);
	if (change->type == 'e') {
		if (change->guid != NULL && *change->guid != '\0' && !is_hex_guid(change->guid))
			return refuse(desc, "expunge with a GUID that is not 128 bits", err);
	} else if (change->guid == NULL) {
		return refuse(desc, "no GUID", err);
	}
	return 0;
}

static int check_item(const struct items *items, const struct item *item, struct error *err)
{
	const struct item_desc *desc = &item_descs[item->type];

	switch (item->type) {
	case ITEM_CHANGE:
		return check_change(desc, &item->change, items->sent_change_uid, err);
	case ITEM_ATTRIBUTE:
		if (item->attribute.value == NULL && !item->attribute.stream &&
		    !item->attribute.deleted)
			return refuse(desc, "neither value, stream nor deleted", err);
		return 0;
	case ITEM_NODE:
		if (item->node.name == NULL || *item->node.name == '\0')
			return refuse(desc, "empty name", err);
		return 0;
	case ITEM_DELETES:
		if (item->deletes.hierarchy_sep == NULL || strlen(item->deletes.hierarchy_sep) != 1)
			return refuse(desc, "hierarchy_sep", err);
		return 0;
	default:
		return 0;
	}
}

/* What follows is kept in scratch first where it has to be escaped a second time. */
static void encode_name(struct buf *scratch, const char *name)
{
	buf_clear(scratch);
	for (;;) {
		size_t len = strcspn(name, "/");

		(void)tabescape_append(scratch, name, len);
		name += len;
		if (*name == '\0')
			return;
		(void)buf_append_byte(scratch, '\t');
		name++;
	}
}

static void encode_keywords(struct buf *scratch, const struct item_change *change)
{
	buf_clear(scratch);
	for (size_t i = 0; i < change->keyword_count; i++) {
		const struct item_keyword *keyword = &change->keywords[i];

		if (i > 0)
			(void)buf_append_byte(scratch, '\t');
		(void)buf_append_byte(scratch, (unsigned char)keyword->op);
		(void)tabescape_append(scratch, keyword->name, strlen(keyword->name));
	}
}

static void put_bytes(struct buf *line, const char *data, size_t len)
{
	if (len > 0 && data[0] == NULL_MARK)
		(void)buf_append_byte(line, NULL_MARK);
	(void)tabescape_append(line, data, len);
}

static bool number_is_sent(const struct item_key *key, bool zero)
{
	return !zero || (key->flags & (KEY_ALWAYS | KEY_REQUIRED)) != 0;
}

/* Whether the key has a value to send. */
static bool is_set(const struct item_key *key, const struct item *item)
{
	const char *member = (const char *)item + key->offset;
	const char *second = (const char *)item + key->second;

	switch (key->kind) {
	case KEY_STR:
	case KEY_MAIL_GUID:
	case KEY_BYTES:
	case KEY_ONE_BYTE:
	case KEY_NAME:
		return *(const char *const *)member != NULL;
	case KEY_LETTER:
	case KEY_GUID:
		return true;
	case KEY_OPT_GUID:
		return *(const bool *)second;
	case KEY_BOOL:
		return *(const bool *)member;
	case KEY_DEC32:
		return number_is_sent(key, *(const uint32_t *)member == 0);
	case KEY_DEC64:
	case KEY_HEX64:
		return number_is_sent(key, *(const uint64_t *)member == 0);
	case KEY_TIME:
		return number_is_sent(key, *(const int64_t *)member <= 0);
	case KEY_HEX8:
		return number_is_sent(key, *(const uint8_t *)member == 0);
	case KEY_KEYWORDS:
		return item->change.has_keyword_changes || item->change.keyword_count > 0;
	}
	return false;
}

static void put_value(struct items *items, const struct item_key *key, const struct item *item,
		      struct buf *line)
{
	const char *member = (const char *)item + key->offset;
	char hex[GUID_HEX_SIZE];

	switch (key->kind) {
	case KEY_BYTES: {
		const char *second = (const char *)item + key->second;
		put_bytes(line, *(const char *const *)member, *(const size_t *)second);
		break;
	}
	case KEY_STR:
	case KEY_MAIL_GUID:
	case KEY_ONE_BYTE:
		put_bytes(line, *(const char *const *)member, strlen(*(const char *const *)member));
		break;
	case KEY_NAME:
		encode_name(&items->scratch, *(const char *const *)member);
		put_bytes(line, buf_str(&items->scratch), items->scratch.len);
		break;
	case KEY_KEYWORDS:
		encode_keywords(&items->scratch, &item->change);
		put_bytes(line, buf_str(&items->scratch), items->scratch.len);
		break;
	case KEY_LETTER:
		(void)buf_append_byte(line, (unsigned char)*member);
		break;
	case KEY_GUID:
	case KEY_OPT_GUID:
		(void)buf_append_str(line, guid_to_hex((const struct guid *)member, hex));
		break;
	case KEY_BOOL:
		break;
	case KEY_DEC32:
		(void)buf_printf(line, "%" PRIu32, *(const uint32_t *)member);
		break;
	case KEY_DEC64:
		(void)buf_printf(line, "%" PRIu64, *(const uint64_t *)member);
		break;
	case KEY_TIME:
		(void)buf_printf(line, "%" PRId64, *(const int64_t *)member);
		break;
	case KEY_HEX8:
		(void)buf_printf(line, "%x", *(const uint8_t *)member);
		break;
	case KEY_HEX64:
		(void)buf_printf(line, "%" PRIx64, *(const uint64_t *)member);
		break;
	}
}

/* In H the peer's lists are not known yet: an unknown key does not hurt there. */
static bool peer_takes(const struct items *items, enum item_type type, unsigned index)
{
	const struct item_layout *layout = &items->peer[type];

	if ((item_descs[type].keys[index].flags & KEY_EXTENSION) == 0)
		return true;
	if (!items->peer_known)
		return type == ITEM_HANDSHAKE;
	for (unsigned i = 0; i < layout->count; i++) {
		if (layout->key_at[i] == (int)index)
			return true;
	}
	return false;
}

int items_encode(struct items *items, const struct item *item, struct buf *line, struct error *err)
{
	const struct item_desc *desc = &item_descs[item->type];
	const struct item_layout *layout = &items->own[item->type];
	unsigned written = 0;
	int ret = check_item(items, item, err);

	if (ret < 0)
		return ret;
	(void)buf_append_byte(line, (unsigned char)desc->code);
	for (unsigned i = 0; i < layout->count; i++) {
		int8_t index = layout->key_at[i];

		if (index < 0 || !is_set(&desc->keys[index], item) ||
		    !peer_takes(items, item->type, (unsigned)index))
			continue;
		/* Unset fields are only spelled out once a set one follows. */
		for (; written < i; written++) {
			if (written > 0)
				(void)buf_append_byte(line, '\t');
			(void)buf_append_byte(line, NULL_MARK);
		}
		if (written > 0)
			(void)buf_append_byte(line, '\t');
		put_value(items, &desc->keys[index], item, line);
		written++;
	}
	if (items->scratch.failed < 0 || line->failed < 0)
		return error_errno(err, line->failed < 0 ? line->failed : items->scratch.failed,
				   "%s", desc->name);
	return 0;
}
