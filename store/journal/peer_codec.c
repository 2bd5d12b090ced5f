/* The records of dsyncd's environment. See peer_codec.h. */
#include "store/journal/peer_codec.h"

#include <errno.h>
#include <string.h>

#define RECORD_VERSION 1
#define STATE_SIZE     (1 + 16 + 4 + 4 + 8 + 8 + 4 + 8)
#define USER_HEADER    (1 + 1 + 1 + 4 * 8 + 4 + 2)
#define PLACE_VERSION  2
#define MARK_SIZE      (1 + 3 * 4 + 8)
#define TOMBSTONE_TAIL (16 + 8 + 4 + 16)

/* ---- keys ---- */

static void key_add(struct peer_key *key, const void *data, size_t len)
{
	memcpy(key->bytes + key->len, data, len);
	key->len += len;
}

static void key_add_be(struct peer_key *key, uint64_t value, int bytes)
{
	for (int shift = (bytes - 1) * 8; shift >= 0; shift -= 8)
		key->bytes[key->len++] = (uint8_t)(value >> shift);
}

static uint64_t get_be(const uint8_t *p, int bytes)
{
	uint64_t value = 0;

	for (int i = 0; i < bytes; i++)
		value = value << 8 | p[i];
	return value;
}

int peer_key_user(const char *user, struct peer_key *key_r)
{
	size_t len = strnlen(user, PEER_USER_MAX + 1);

	key_r->len = 0;
	if (len == 0 || len > PEER_USER_MAX)
		return -EINVAL;
	key_add(key_r, user, len + 1);
	return 0;
}

int peer_key_add_peer(struct peer_key *key, const char *peer, bool with_nul)
{
	size_t len = strnlen(peer, PEER_ID_MAX + 1);

	if (len == 0 || len > PEER_ID_MAX)
		return -EINVAL;
	key_add(key, peer, len + with_nul);
	return 0;
}

void peer_key_add_guid(struct peer_key *key, const struct guid *guid)
{
	key_add(key, guid->bytes, sizeof guid->bytes);
}

void peer_key_add_dir(struct peer_key *key, const char *dir)
{
	uint8_t sum[DIGEST_SHA1_SIZE];

	/* A path may be longer than a key. */
	digest_sha1(dir, strlen(dir), sum);
	key_add(key, sum, sizeof sum);
}

void peer_key_add_tombstone(struct peer_key *key, const struct tombstone *tombstone)
{
	peer_key_add_guid(key, &tombstone->mailbox);
	key_add_be(key, tombstone->modseq, 8);
	key_add_be(key, tombstone->uid, 4);
	peer_key_add_guid(key, &tombstone->message);
}

/* The length of the user in front of a key, without its NUL. */
static int key_user_len(const void *key, size_t len, size_t *user_len_r)
{
	const char *nul = memchr(key, '\0', len);

	if (!nul || nul == key || nul - (const char *)key > PEER_USER_MAX)
		return -EBADMSG;
	*user_len_r = (size_t)(nul - (const char *)key);
	return 0;
}

int peer_key_split_user(const void *key, size_t len, char *user_r, char *peer_r)
{
	size_t user_len, peer_len;

	if (key_user_len(key, len, &user_len) < 0)
		return -EBADMSG;
	peer_len = len - user_len - 1;
	if (peer_len == 0 || peer_len > PEER_ID_MAX ||
	    memchr((const char *)key + user_len + 1, '\0', peer_len))
		return -EBADMSG;
	memcpy(user_r, key, user_len + 1);
	memcpy(peer_r, (const char *)key + user_len + 1, peer_len);
	peer_r[peer_len] = '\0';
	return 0;
}

int peer_key_get_tombstone(const void *tail, size_t len, struct tombstone *tombstone_r)
{
	const uint8_t *p = tail;

	if (len != TOMBSTONE_TAIL)
		return -EBADMSG;
	memcpy(tombstone_r->mailbox.bytes, p, 16);
	tombstone_r->modseq = get_be(p + 16, 8);
	tombstone_r->uid = (uint32_t)get_be(p + 24, 4);
	memcpy(tombstone_r->message.bytes, p + 28, 16);
	return 0;
}

/* ---- values ---- */

/* Copies a record that may be shorter or longer than what we know, so that it can be decoded as if
 * it had our length. The first min_len bytes must be there. */
static int take(const void *value, size_t len, size_t min_len, uint8_t *bytes_r, size_t size)
{
	if (len < min_len || len == 0 || *(const uint8_t *)value != RECORD_VERSION)
		return -EBADMSG;
	memset(bytes_r, 0, size);
	memcpy(bytes_r, value, len < size ? len : size);
	return 0;
}

void peer_state_encode(const struct peer_mailbox_state *state, struct buf *out)
{
	uint8_t v[STATE_SIZE];

	v[0] = RECORD_VERSION;
	memcpy(v + 1, state->guid.bytes, 16);
	journal_put_u32(v + 17, state->uid_validity);
	journal_put_u32(v + 21, state->common_uid);
	journal_put_u64(v + 25, state->acked_modseq);
	journal_put_u64(v + 33, state->peer_modseq);
	journal_put_u32(v + 41, state->messages);
	journal_put_u64(v + 45, state->reserved_uid_owner);
	buf_append(out, v, sizeof v);
}

int peer_state_decode(const void *value, size_t len, struct peer_mailbox_state *state_r)
{
	uint8_t v[STATE_SIZE];

	if (take(value, len, 45, v, sizeof v) < 0)
		return -EBADMSG;
	memset(state_r, 0, sizeof *state_r);
	memcpy(state_r->guid.bytes, v + 1, 16);
	state_r->uid_validity = journal_get_u32(v + 17);
	state_r->common_uid = journal_get_u32(v + 21);
	state_r->acked_modseq = journal_get_u64(v + 25);
	state_r->peer_modseq = journal_get_u64(v + 33);
	state_r->messages = journal_get_u32(v + 41);
	state_r->reserved_uid_owner = journal_get_u64(v + 45);
	return guid_is_empty(&state_r->guid) ? -EBADMSG : 0;
}

void peer_user_encode(const struct peer_user *user, struct buf *out)
{
	size_t reason_len = strnlen(user->reason, sizeof user->reason - 1);
	uint8_t v[USER_HEADER];

	v[0] = RECORD_VERSION;
	v[1] = (uint8_t)user->priority;
	v[2] = (uint8_t)((user->want_full ? 1 : 0) | (user->want_tree ? 2 : 0));
	journal_put_u64(v + 3, (uint64_t)user->queued_since);
	journal_put_u64(v + 11, (uint64_t)user->last_try);
	journal_put_u64(v + 19, (uint64_t)user->last_success);
	journal_put_u64(v + 27, (uint64_t)user->last_full);
	journal_put_u32(v + 35, user->failures);
	journal_put_u16(v + 39, (uint16_t)reason_len);
	buf_append(out, v, sizeof v);
	buf_append(out, user->reason, reason_len);
}

int peer_user_decode(const void *value, size_t len, struct peer_user *user_r)
{
	uint8_t v[USER_HEADER];
	size_t reason_len;

	if (take(value, len, USER_HEADER, v, sizeof v) < 0)
		return -EBADMSG;
	memset(user_r, 0, sizeof *user_r);
	reason_len = journal_get_u16(v + 39);
	if (v[1] > SYNC_PRIORITY_SYNC || reason_len >= sizeof user_r->reason ||
	    reason_len > len - USER_HEADER)
		return -EBADMSG;
	user_r->priority = (enum sync_priority)v[1];
	user_r->want_full = v[2] & 1;
	user_r->want_tree = v[2] & 2;
	user_r->queued_since = (int64_t)journal_get_u64(v + 3);
	user_r->last_try = (int64_t)journal_get_u64(v + 11);
	user_r->last_success = (int64_t)journal_get_u64(v + 19);
	user_r->last_full = (int64_t)journal_get_u64(v + 27);
	user_r->failures = journal_get_u32(v + 35);
	memcpy(user_r->reason, (const uint8_t *)value + USER_HEADER, reason_len);
	return 0;
}

int peer_place_encode(const char *dir, const struct peer_place *place, struct buf *out)
{
	uint8_t v[2] = {PLACE_VERSION, (uint8_t)place->before_count};
	size_t dir_len = strlen(dir);

	if (dir_len > JOURNAL_STRING_MAX || place->before_count > PEER_PLACE_BEFORE_MAX)
		return -EINVAL;
	buf_append(out, v, sizeof v);
	buf_append(out, place->guid.bytes, sizeof place->guid.bytes);
	for (unsigned i = 0; i < place->before_count; i++)
		buf_append(out, place->before[i].bytes, sizeof place->before[i].bytes);
	buf_append(out, dir, dir_len);
	return out->failed;
}

int peer_place_decode(const void *value, size_t len, const char *dir, struct peer_place *place_r)
{
	const uint8_t *p = value, *end = p + len;

	memset(place_r, 0, sizeof *place_r);
	if (len < 2 || (*p != RECORD_VERSION && *p != PLACE_VERSION))
		return -EBADMSG;
	if (*p++ == PLACE_VERSION)
		place_r->before_count = *p++;
	if (place_r->before_count > PEER_PLACE_BEFORE_MAX ||
	    (size_t)(end - p) < (1 + place_r->before_count) * sizeof place_r->guid.bytes)
		return -EBADMSG;
	memcpy(place_r->guid.bytes, p, sizeof place_r->guid.bytes);
	p += sizeof place_r->guid.bytes;
	for (unsigned i = 0; i < place_r->before_count; i++) {
		memcpy(place_r->before[i].bytes, p, sizeof place_r->before[i].bytes);
		p += sizeof place_r->before[i].bytes;
	}
	if (dir && ((size_t)(end - p) != strlen(dir) || memcmp(p, dir, (size_t)(end - p)) != 0))
		return -EBADMSG;
	return guid_is_empty(&place_r->guid) ? -EBADMSG : 0;
}

void peer_tombstone_encode(const struct tombstone *tombstone, struct buf *out)
{
	uint8_t v[9] = {RECORD_VERSION};

	journal_put_u64(v + 1, (uint64_t)tombstone->time);
	buf_append(out, v, sizeof v);
}

int peer_tombstone_decode(const void *value, size_t len, struct tombstone *tombstone_r)
{
	const uint8_t *v = value;

	if (len < 9 || v[0] != RECORD_VERSION)
		return -EBADMSG;
	tombstone_r->time = (int64_t)journal_get_u64(v + 1);
	return 0;
}

void peer_mark_encode(const struct tombstone_mark *mark, struct buf *out)
{
	uint8_t v[MARK_SIZE] = {RECORD_VERSION};

	journal_put_u32(v + 1, mark->uid_validity);
	journal_put_u32(v + 5, mark->uid_next);
	journal_put_u32(v + 9, mark->messages);
	journal_put_u64(v + 13, mark->modseq);
	buf_append(out, v, sizeof v);
}

int peer_mark_decode(const void *value, size_t len, struct tombstone_mark *mark_r)
{
	uint8_t v[MARK_SIZE];

	if (take(value, len, MARK_SIZE, v, sizeof v) < 0)
		return -EBADMSG;
	mark_r->uid_validity = journal_get_u32(v + 1);
	mark_r->uid_next = journal_get_u32(v + 5);
	mark_r->messages = journal_get_u32(v + 9);
	mark_r->modseq = journal_get_u64(v + 13);
	return 0;
}

/* ---- what a damage check wants to know ---- */

static bool record_check(unsigned db, const MDB_val *key, const MDB_val *value)
{
	struct peer_mailbox_state state;
	struct tombstone tombstone;
	struct tombstone_mark mark;
	struct peer_user peer_user;
	struct peer_place place;
	char user[PEER_USER_MAX + 1], peer[PEER_ID_MAX + 1];
	size_t user_len;

	if (db == PEER_META)
		return true;
	if (key_user_len(key->mv_data, key->mv_size, &user_len) < 0)
		return false;
	switch (db) {
	case PEER_STATES:
		return peer_state_decode(value->mv_data, value->mv_size, &state) == 0;
	case PEER_MAILBOXES:
		return peer_place_decode(value->mv_data, value->mv_size, NULL, &place) == 0;
	case PEER_USERS:
		return peer_key_split_user(key->mv_data, key->mv_size, user, peer) == 0 &&
		       peer_user_decode(value->mv_data, value->mv_size, &peer_user) == 0;
	case PEER_TOMBSTONES:
		return peer_key_get_tombstone((const uint8_t *)key->mv_data + user_len + 1,
					      key->mv_size - user_len - 1, &tombstone) == 0 &&
		       peer_tombstone_decode(value->mv_data, value->mv_size, &tombstone) == 0;
	case PEER_MARKS:
		return key->mv_size - user_len - 1 == sizeof mark.mailbox.bytes &&
		       peer_mark_decode(value->mv_data, value->mv_size, &mark) == 0;
	default:
		return true;
	}
}

const struct lmdb_layout peer_layout = {
	.names = {"meta", "states", "mailboxes", "users", "tombstones", "marks"},
	.check = record_check,
};
