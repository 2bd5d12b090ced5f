/*
 * From a line's fields to a struct item. Everything is validated here; nothing a peer sends is
 * trusted to be of a length, a range or free of control characters.
 *
 * Fields are taken apart and unescaped in place, so an item's strings point into the line (names:
 * into items->name, since another character may have to stand for a part).
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/tabescape.h"
#include "sync/items_private.h"

#define NULL_MARK '\x02'

struct field {
	char *text; /* NULL: not set. NUL-terminated */
	size_t len;
};

static int bad_value(const struct item_desc *desc, const struct item_key *key, const char *what,
		     struct error *err)
{
	return error_set(err, -EBADMSG, "Remote sent invalid %s: key %s: %s", desc->name, key->name,
			 what);
}

/* Cuts the next field off *pos and unescapes it. */
static struct field next_field(char **pos, char *end)
{
	char *start = *pos;
	char *tab = memchr(start, '\t', (size_t)(end - start));
	char *stop = tab != NULL ? tab : end;
	struct field field = {.text = start, .len = (size_t)(stop - start)};

	*pos = tab != NULL ? tab + 1 : NULL;
	*stop = '\0';
	if (field.len > 0 && start[0] == NULL_MARK) {
		if (field.len == 1)
			return (struct field){NULL, 0};
		field.text++;
		field.len--;
	}
	field.len = tabunescape(field.text, field.len);
	return field;
}

static int parse_number(const char *text, int base, uint64_t max, uint64_t *value_r)
{
	uint64_t value = 0;

	if (*text == '\0')
		return -EBADMSG;
	for (; *text != '\0'; text++) {
		unsigned digit;
		if (*text >= '0' && *text <= '9')
			digit = (unsigned)(*text - '0');
		else if (base == 16 && isxdigit((unsigned char)*text))
			digit = (unsigned)(tolower((unsigned char)*text) - 'a') + 10;
		else
			return -EBADMSG;
		if (value > (max - digit) / (unsigned)base)
			return -EBADMSG;
		value = value * (unsigned)base + digit;
	}
	*value_r = value;
	return 0;
}

static bool has_control(const char *text)
{
	for (; *text != '\0'; text++) {
		if ((unsigned char)*text < 0x20 || *text == 0x7f)
			return true;
	}
	return false;
}

/* A part that no mailbox name of ours can hold gets other characters. */
static void append_name_part(struct items *items, char *part, size_t len)
{
	len = tabunescape(part, len);
	if (len == 0 || strcmp(part, ".") == 0 || strcmp(part, "..") == 0)
		(void)buf_append_byte(&items->name, (unsigned char)items->alt_char);
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)part[i];
		if (c < 0x20 || c == 0x7f || c == '/')
			c = (unsigned char)items->alt_char;
		(void)buf_append_byte(&items->name, c);
	}
}

static int decode_name(struct items *items, struct field field, const char **name_r)
{
	char *end = field.text + field.len;

	if (field.len == 0 || field.len > ITEMS_NAME_BYTES_MAX)
		return -EBADMSG;
	buf_clear(&items->name);
	for (char *part = field.text; part != NULL;) {
		char *tab = memchr(part, '\t', (size_t)(end - part));
		char *stop = tab != NULL ? tab : end;

		if (part != field.text)
			(void)buf_append_byte(&items->name, '/');
		*stop = '\0';
		append_name_part(items, part, (size_t)(stop - part));
		part = tab != NULL ? tab + 1 : NULL;
	}
	*name_r = buf_str(&items->name);
	return items->name.failed;
}

static int add_keyword(struct items *items, size_t *count, char op, const char *name)
{
	if (*count == items->keywords_size) {
		size_t size = items->keywords_size != 0 ? items->keywords_size * 2 : 16;
		struct item_keyword *bigger =
			realloc(items->keywords, size * sizeof(*items->keywords));
		if (bigger == NULL)
			return -ENOMEM;
		items->keywords = bigger;
		items->keywords_size = size;
	}
	items->keywords[(*count)++] = (struct item_keyword){.op = op, .name = name};
	return 0;
}

static int decode_keywords(struct items *items, struct field field, struct item_change *change)
{
	char *end = field.text + field.len;
	int ret = 0;

	change->has_keyword_changes = true;
	change->keyword_count = 0;
	if (field.len == 0)
		return 0;
	for (char *word = field.text; word != NULL && ret == 0;) {
		char *tab = memchr(word, '\t', (size_t)(end - word));
		char *stop = tab != NULL ? tab : end;

		*stop = '\0';
		size_t len = tabunescape(word, (size_t)(stop - word));
		if (len < 2 || strchr("+-=&", word[0]) == NULL || strlen(word) != len ||
		    has_control(word) || strchr(word, ' ') != NULL)
			return -EBADMSG;
		ret = add_keyword(items, &change->keyword_count, word[0], word + 1);
		word = tab != NULL ? tab + 1 : NULL;
	}
	change->keywords = items->keywords;
	return ret;
}

static int decode_unsigned(const struct item_key *key, const struct field *field, int base,
			   uint64_t max, uint64_t *value_r)
{
	int ret = parse_number(field->text, base, max, value_r);

	if (ret == 0 && *value_r == 0 && (key->flags & KEY_NOT_ZERO) != 0)
		return -EBADMSG;
	return ret;
}

static int decode_number(const struct item_key *key, const struct field *field, void *member)
{
	uint64_t value = 0;
	int ret;

	switch (key->kind) {
	case KEY_DEC32:
		ret = decode_unsigned(key, field, 10, UINT32_MAX, &value);
		*(uint32_t *)member = (uint32_t)value;
		return ret;
	case KEY_DEC64:
		ret = decode_unsigned(key, field, 10, UINT64_MAX, &value);
		*(uint64_t *)member = value;
		return ret;
	case KEY_HEX8:
		ret = decode_unsigned(key, field, 16, 0xff, &value);
		*(uint8_t *)member = (uint8_t)value;
		return ret;
	case KEY_HEX64:
		ret = decode_unsigned(key, field, 16, UINT64_MAX, &value);
		*(uint64_t *)member = value;
		return ret;
	default:
		/* KEY_TIME. Before 1970 is 0 with us: a mail's odd date must not end a session. */
		if (field->text[0] == '-') {
			ret = parse_number(field->text + 1, 10, INT64_MAX, &value);
			value = 0;
		} else {
			ret = parse_number(field->text, 10, INT64_MAX, &value);
		}
		*(int64_t *)member = (int64_t)value;
		return ret == 0 && value == 0 && (key->flags & KEY_NOT_ZERO) != 0 ? -EBADMSG : ret;
	}
}

static int decode_value(struct items *items, const struct item_key *key, struct field field,
			struct item *item)
{
	void *member = (char *)item + key->offset, *second = (char *)item + key->second;

	if (key->kind == KEY_BYTES) {
		*(const char **)member = field.text;
		*(size_t *)second = field.len;
		return 0;
	}
	if (strlen(field.text) != field.len)
		return -EBADMSG;
	switch (key->kind) {
	case KEY_BOOL:
		*(bool *)member = true;
		return 0;
	case KEY_ONE_BYTE:
		if (field.len != 1)
			return -EBADMSG;
		*(const char **)member = field.text;
		return 0;
	case KEY_LETTER:
		/* As Dovecot reads it: the first letter. */
		*(char *)member = field.text[0];
		return 0;
	case KEY_MAIL_GUID:
		if (field.len > ITEMS_MAIL_GUID_MAX || has_control(field.text))
			return -EBADMSG;
		*(const char **)member = field.text;
		return 0;
	case KEY_STR:
		*(const char **)member = field.text;
		return 0;
	case KEY_NAME:
		return decode_name(items, field, member);
	case KEY_OPT_GUID:
		*(bool *)second = true;
		return guid_from_hex(field.text, member);
	case KEY_GUID:
		return guid_from_hex(field.text, member);
	case KEY_KEYWORDS:
		return decode_keywords(items, field, &item->change);
	default:
		return decode_number(key, &field, member);
	}
}

/* What a single key cannot tell. */
static int check_item(struct items *items, const struct item *item, struct error *err)
{
	const struct item_change *change = &item->change;

	switch (item->type) {
	case ITEM_CHANGE:
		if (strchr("sfeb", change->type) == NULL || change->type == '\0')
			return error_set(err, -EBADMSG, "Remote sent invalid mail_change: type");
		if (change->uid <= items->received_change_uid)
			return error_set(err, -EBADMSG,
					 "Remote sent invalid mail_change: uid %u after %u",
					 change->uid, items->received_change_uid);
		items->received_change_uid = change->uid;
		return 0;
	case ITEM_NODE:
		if (strchr("ynd", item->node.existence[0]) == NULL)
			return error_set(err, -EBADMSG,
					 "Remote sent invalid mailbox_tree_node: existence");
		return 0;
	case ITEM_ATTRIBUTE:
		if (item->attribute.type != 'p' && item->attribute.type != 's')
			return error_set(err, -EBADMSG,
					 "Remote sent invalid mailbox_attribute: type");
		return 0;
	case ITEM_DELETES:
		if (item->deletes.escape_char != NULL && strlen(item->deletes.escape_char) > 1)
			return error_set(err, -EBADMSG,
					 "Remote sent invalid mailbox_deletes: escape_char");
		return 0;
	default:
		return 0;
	}
}

int items_decode(struct items *items, enum item_type type, char *fields, size_t len,
		 struct item *item_r, struct error *err)
{
	const struct item_desc *desc = &item_descs[type];
	const struct item_layout *layout = &items->peer[type];
	/* A line of nothing but its code has no field set, rather than an empty first one. */
	char *end = fields + len, *pos = len > 0 ? fields : NULL;
	uint64_t seen = 0;

	memset(item_r, 0, sizeof(*item_r));
	item_r->type = type;
	/* More fields than keys were listed: not ours to understand. */
	for (unsigned i = 0; i < layout->count && pos != NULL; i++) {
		struct field field = next_field(&pos, end);
		int8_t index = layout->key_at[i];

		if (index < 0 || field.text == NULL || (seen & (UINT64_C(1) << index)) != 0)
			continue;
		const struct item_key *key = &desc->keys[index];
		int ret = decode_value(items, key, field, item_r);
		if (ret == -ENOMEM)
			return error_errno(err, ret, "%s", desc->name);
		if (ret < 0)
			return bad_value(desc, key, "invalid value", err);
		seen |= UINT64_C(1) << index;
	}
	for (unsigned i = 0; i < desc->key_count; i++) {
		if ((desc->keys[i].flags & KEY_REQUIRED) != 0 && (seen & (UINT64_C(1) << i)) == 0)
			return bad_value(desc, &desc->keys[i], "missing", err);
	}
	return check_item(items, item_r, err);
}

int items_next_delete(const char **list, struct guid *guid_r, int64_t *time_r)
{
	const char *p = *list;
	char hex[GUID_HEX_SIZE], digits[24];
	uint64_t value;

	if (p == NULL)
		return 0;
	p += strspn(p, " ");
	if (*p == '\0')
		return 0;
	if (strcspn(p, " ") != GUID_HEX_LEN)
		return -EBADMSG;
	memcpy(hex, p, GUID_HEX_LEN);
	hex[GUID_HEX_LEN] = '\0';
	p += GUID_HEX_LEN;
	p += strspn(p, " ");
	size_t len = strcspn(p, " ");
	if (len == 0 || len >= sizeof(digits))
		return -EBADMSG;
	memcpy(digits, p, len);
	digits[len] = '\0';
	if (guid_from_hex(hex, guid_r) < 0 || parse_number(digits, 10, INT64_MAX, &value) < 0)
		return -EBADMSG;
	*time_r = (int64_t)value;
	*list = p + len;
	return 1;
}
