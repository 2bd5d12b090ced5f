/*
 * The text of dovecot-uidlist: header and lines, versions 3 and 1, and fields.
 *
 * No I/O. Takes any bytes; what it accepts has a UID that is neither 0 nor 0xffffffff and a base
 * name that is safe as a part of a file name.
 */
#include "store/maildir/uidlist_private.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* Reads a decimal number up to a space or the end. */
static int parse_number(const char **pos, const char *end, uint32_t *value_r)
{
	const char *p = *pos;
	uint64_t value = 0;

	if (p == end || *p < '0' || *p > '9')
		return -EUCLEAN;
	for (; p < end && *p >= '0' && *p <= '9'; p++) {
		value = value * 10 + (uint64_t)(*p - '0');
		if (value > UINT32_MAX)
			return -EUCLEAN;
	}
	if (p < end && *p != ' ')
		return -EUCLEAN;
	*pos = p;
	*value_r = (uint32_t)value;
	return 0;
}

static int parse_uid(const char **pos, const char *end, uint32_t *uid_r)
{
	if (parse_number(pos, end, uid_r) < 0 || *uid_r == 0 || *uid_r == UINT32_MAX)
		return -EUCLEAN;
	return 0;
}

static bool base_is_good(const char *base, size_t len)
{
	return len > 0 && len <= NAME_MAX && base[0] != '.' && memchr(base, '/', len) == NULL &&
	       memchr(base, '\0', len) == NULL;
}

int uidlist_parse_line(unsigned version, const char *start, size_t len,
		       struct uidlist_record *record_r)
{
	const char *p = start, *end = start + len;

	if (parse_uid(&p, end, &record_r->uid) < 0 || p == end)
		return -EUCLEAN;
	p++;
	record_r->fields = p;
	record_r->fields_len = 0;
	if (version == 1) {
		const char *info = memchr(p, ':', (size_t)(end - p));

		record_r->base = p;
		record_r->base_len = (size_t)((info ? info : end) - p);
		return base_is_good(p, record_r->base_len) ? 0 : -EUCLEAN;
	}
	while (p < end && *p != ':') {
		const char *space = memchr(p, ' ', (size_t)(end - p));

		if (!space)
			return -EUCLEAN;
		record_r->fields_len = (size_t)(space - record_r->fields);
		p = space + 1;
	}
	if (p == end)
		return -EUCLEAN;
	p++;
	record_r->base = p;
	record_r->base_len = (size_t)(end - p);
	return base_is_good(p, record_r->base_len) ? 0 : -EUCLEAN;
}

static int parse_header_key(const char *key, const char *end, struct uidlist_header *header,
			    bool *known_r)
{
	const char *value = key + 1;
	char hex[GUID_HEX_SIZE];

	*known_r = true;
	switch (*key) {
	case 'V':
		return parse_number(&value, end, &header->uid_validity);
	case 'N':
		return parse_number(&value, end, &header->next_uid);
	case 'G':
		if (end - value != GUID_HEX_LEN)
			return -EUCLEAN;
		memcpy(hex, value, GUID_HEX_LEN);
		hex[GUID_HEX_LEN] = '\0';
		return guid_from_hex(hex, &header->guid) < 0 ? -EUCLEAN : 0;
	default:
		*known_r = false;
		return 0;
	}
}

static int parse_header_v1(const char *p, const char *end, struct uidlist_header *header)
{
	if (p == end)
		return -EUCLEAN;
	p++;
	if (parse_number(&p, end, &header->uid_validity) < 0 || p == end)
		return -EUCLEAN;
	p++;
	return parse_number(&p, end, &header->next_uid);
}

int uidlist_parse_header(const char *line, size_t len, struct uidlist_header *header_r, char *tail,
			 size_t tail_size)
{
	const char *p = line, *end = line + len;
	size_t tail_len = 0;
	uint32_t version;

	*header_r = (struct uidlist_header){0};
	if (tail)
		tail[0] = '\0';
	if (parse_number(&p, end, &version) < 0 || (version != 3 && version != 1))
		return -EUCLEAN;
	header_r->version = version;
	if (version == 1) {
		if (parse_header_v1(p, end, header_r) < 0)
			return -EUCLEAN;
		p = end;
	}
	while (p < end) {
		const char *key = ++p; /* behind the space */
		bool known;

		p = memchr(key, ' ', (size_t)(end - key));
		if (!p)
			p = end;
		if (p == key)
			continue;
		if (parse_header_key(key, p, header_r, &known) < 0)
			return -EUCLEAN;
		if (known || !tail)
			continue;
		if (tail_len + (size_t)(p - key) + 2 > tail_size)
			return -EUCLEAN;
		tail[tail_len++] = ' ';
		memcpy(tail + tail_len, key, (size_t)(p - key));
		tail_len += (size_t)(p - key);
		tail[tail_len] = '\0';
	}
	return header_r->uid_validity && header_r->next_uid ? 0 : -EUCLEAN;
}

const char *uidlist_field(const struct uidlist_record *record, char letter, size_t *len_r)
{
	const char *p = record->fields, *end = record->fields + record->fields_len;

	while (p < end) {
		const char *space = memchr(p, ' ', (size_t)(end - p));

		if (!space)
			space = end;
		if (*p == letter) {
			*len_r = (size_t)(space - p - 1);
			return p + 1;
		}
		p = space < end ? space + 1 : end;
	}
	*len_r = 0;
	return NULL;
}

const char *uidlist_guid(const struct uidlist_record *record, size_t *len_r)
{
	const char *guid = uidlist_field(record, 'G', len_r);

	if (guid && *len_r > 0)
		return guid;
	*len_r = record->base_len;
	return record->base;
}

int uidlist_format_line(struct buf *lines, uint32_t uid, const char *fields, size_t fields_len,
			const char *base, size_t base_len)
{
	if (uid == 0 || uid == UINT32_MAX || !base_is_good(base, base_len) ||
	    fields_len > UIDLIST_FIELDS_MAX)
		return -EINVAL;
	if (memchr(base, '\n', base_len) || memchr(base, ':', base_len))
		return -EINVAL;
	for (size_t i = 0; i < fields_len; i++) {
		bool starts = i == 0 || fields[i - 1] == ' ';

		if ((unsigned char)fields[i] < 0x20 ||
		    (starts && (fields[i] < 'A' || fields[i] > 'Z')))
			return -EINVAL;
	}
	buf_printf(lines, "%u ", uid);
	if (fields_len) {
		buf_append(lines, fields, fields_len);
		buf_append_byte(lines, ' ');
	}
	buf_append_byte(lines, ':');
	buf_append(lines, base, base_len);
	buf_append_byte(lines, '\n');
	return lines->failed;
}
