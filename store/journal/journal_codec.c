/* The records of dsyncfs's environment. See journal_codec.h. */
#include "store/journal/journal_codec.h"

#include <errno.h>
#include <string.h>

#define RECORD_VERSION 1
#define EVENT_HEADER   (1 + 1 + 4 + 8 + 4 * 2)
#define DIRTY_HEADER   (1 + 2 * 2)

void journal_put_u16(uint8_t *p, uint16_t value)
{
	p[0] = (uint8_t)value;
	p[1] = (uint8_t)(value >> 8);
}

void journal_put_u32(uint8_t *p, uint32_t value)
{
	journal_put_u16(p, (uint16_t)value);
	journal_put_u16(p + 2, (uint16_t)(value >> 16));
}

void journal_put_u64(uint8_t *p, uint64_t value)
{
	journal_put_u32(p, (uint32_t)value);
	journal_put_u32(p + 4, (uint32_t)(value >> 32));
}

uint16_t journal_get_u16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

uint32_t journal_get_u32(const uint8_t *p)
{
	return journal_get_u16(p) | (uint32_t)journal_get_u16(p + 2) << 16;
}

uint64_t journal_get_u64(const uint8_t *p)
{
	return journal_get_u32(p) | (uint64_t)journal_get_u32(p + 4) << 32;
}

void journal_seq_encode(uint64_t seq, uint8_t key_r[8])
{
	for (int i = 7; i >= 0; i--, seq >>= 8)
		key_r[i] = (uint8_t)seq;
}

int journal_seq_decode(const MDB_val *key, uint64_t *seq_r)
{
	const uint8_t *p = key->mv_data;
	uint64_t seq = 0;

	if (key->mv_size != 8)
		return -EBADMSG;
	for (int i = 0; i < 8; i++)
		seq = seq << 8 | p[i];
	*seq_r = seq;
	return seq ? 0 : -EBADMSG;
}

int journal_event_encode(const struct mail_event *event, struct buf *out)
{
	const char *const strings[4] = {event->home, event->dir, event->name, event->name2};
	uint8_t header[EVENT_HEADER];
	size_t lens[4];

	header[0] = RECORD_VERSION;
	header[1] = (uint8_t)event->kind;
	journal_put_u32(header + 2, event->origin);
	journal_put_u64(header + 6, (uint64_t)event->time);
	for (int i = 0; i < 4; i++) {
		lens[i] = strlen(strings[i]);
		if (lens[i] > JOURNAL_STRING_MAX)
			return -EMSGSIZE;
		journal_put_u16(header + 14 + 2 * i, (uint16_t)lens[i]);
	}
	buf_append(out, header, sizeof header);
	for (int i = 0; i < 4; i++)
		buf_append(out, strings[i], lens[i]);
	return out->failed;
}

/* The strings of a record must fill it exactly. */
static int check_strings(const uint8_t *lens, unsigned count, const MDB_val *value,
			 size_t header_len)
{
	size_t total = header_len;

	for (unsigned i = 0; i < count; i++) {
		size_t len = journal_get_u16(lens + 2 * i);

		if (len > JOURNAL_STRING_MAX)
			return -EBADMSG;
		total += len;
	}
	if (total != value->mv_size)
		return -EBADMSG;
	return memchr((const char *)value->mv_data + header_len, '\0', total - header_len)
		       ? -EBADMSG
		       : 0;
}

static int event_check(const MDB_val *value)
{
	const uint8_t *p = value->mv_data;

	if (value->mv_size < EVENT_HEADER || p[0] != RECORD_VERSION ||
	    p[1] < MAIL_EVENT_DELIVERED || p[1] > MAIL_EVENT_RESCAN_HOME)
		return -EBADMSG;
	return check_strings(p + 14, 4, value, EVENT_HEADER);
}

int journal_event_decode(const MDB_val *key, const MDB_val *value, struct mail_event *event_r,
			 size_t *offset_r, struct buf *strings)
{
	const uint8_t *p = value->mv_data, *text = p + EVENT_HEADER;
	uint64_t seq;

	if (journal_seq_decode(key, &seq) < 0 || event_check(value) < 0)
		return -EBADMSG;
	memset(event_r, 0, sizeof *event_r);
	event_r->seq = seq;
	event_r->kind = (enum mail_event_kind)p[1];
	event_r->origin = journal_get_u32(p + 2);
	event_r->time = (int64_t)journal_get_u64(p + 6);
	*offset_r = strings->len;
	for (int i = 0; i < 4; i++) {
		size_t len = journal_get_u16(p + 14 + 2 * i);

		buf_append(strings, text, len);
		buf_append_byte(strings, '\0');
		text += len;
	}
	return strings->failed;
}

void journal_event_point(struct mail_event *event, const char *strings)
{
	event->home = strings;
	event->dir = event->home + strlen(event->home) + 1;
	event->name = event->dir + strlen(event->dir) + 1;
	event->name2 = event->name + strlen(event->name) + 1;
}

void journal_dirty_key(const char *home, const char *dir, struct journal_key *key_r)
{
	char text[2 * JOURNAL_STRING_MAX + 1];
	size_t home_len = strnlen(home, JOURNAL_STRING_MAX);
	size_t dir_len = strnlen(dir, JOURNAL_STRING_MAX);

	memcpy(text, home, home_len);
	text[home_len] = '\0';
	memcpy(text + home_len + 1, dir, dir_len);
	digest_sha1(text, home_len + 1 + dir_len, key_r->bytes);
}

int journal_dirty_encode(const char *home, const char *dir, struct buf *out)
{
	size_t home_len = strlen(home), dir_len = strlen(dir);
	uint8_t header[DIRTY_HEADER];

	if (home_len > JOURNAL_STRING_MAX || dir_len > JOURNAL_STRING_MAX)
		return -EMSGSIZE;
	header[0] = RECORD_VERSION;
	journal_put_u16(header + 1, (uint16_t)home_len);
	journal_put_u16(header + 3, (uint16_t)dir_len);
	buf_append(out, header, sizeof header);
	buf_append(out, home, home_len);
	buf_append(out, dir, dir_len);
	return out->failed;
}

static int dirty_check(const MDB_val *value)
{
	const uint8_t *p = value->mv_data;

	if (value->mv_size < DIRTY_HEADER || p[0] != RECORD_VERSION)
		return -EBADMSG;
	return check_strings(p + 1, 2, value, DIRTY_HEADER);
}

int journal_dirty_decode(const MDB_val *value, char *home_r, char *dir_r)
{
	const uint8_t *p = value->mv_data;
	size_t home_len, dir_len;

	if (dirty_check(value) < 0)
		return -EBADMSG;
	home_len = journal_get_u16(p + 1);
	dir_len = journal_get_u16(p + 3);
	memcpy(home_r, p + DIRTY_HEADER, home_len);
	home_r[home_len] = '\0';
	memcpy(dir_r, p + DIRTY_HEADER + home_len, dir_len);
	dir_r[dir_len] = '\0';
	return 0;
}

int journal_stamp_encode(const char *home, const char *dir, const struct journal_stamp *stamp,
			 struct buf *out)
{
	buf_append(out, stamp->bytes, sizeof stamp->bytes);
	return journal_dirty_encode(home, dir, out);
}

int journal_stamp_decode(const MDB_val *value, char *home_r, char *dir_r,
			 struct journal_stamp *stamp_r)
{
	MDB_val rest;

	if (value->mv_size < sizeof stamp_r->bytes)
		return -EBADMSG;
	memcpy(stamp_r->bytes, value->mv_data, sizeof stamp_r->bytes);
	rest.mv_size = value->mv_size - sizeof stamp_r->bytes;
	rest.mv_data = (uint8_t *)value->mv_data + sizeof stamp_r->bytes;
	return journal_dirty_decode(&rest, home_r, dir_r);
}

int journal_id_decode(const MDB_val *value, struct guid *id_r)
{
	const uint8_t *p = value->mv_data;

	if (value->mv_size != 1 + sizeof id_r->bytes || p[0] != RECORD_VERSION)
		return -EBADMSG;
	memcpy(id_r->bytes, p + 1, sizeof id_r->bytes);
	return guid_is_empty(id_r) ? -EBADMSG : 0;
}

static bool record_check(unsigned db, const MDB_val *key, const MDB_val *value)
{
	struct guid id;
	uint64_t seq;

	switch (db) {
	case JOURNAL_META:
		return key->mv_size != 2 || memcmp(key->mv_data, "id", 2) != 0 ||
		       journal_id_decode(value, &id) == 0;
	case JOURNAL_EVENTS:
		return journal_seq_decode(key, &seq) == 0 && event_check(value) == 0;
	case JOURNAL_DIRTY:
		return key->mv_size == DIGEST_SHA1_SIZE && dirty_check(value) == 0;
	default:
		return true;
	}
}

const struct lmdb_layout journal_layout = {
	.names = {"meta", "events", "dirty", "stamps"},
	.check = record_check,
};
