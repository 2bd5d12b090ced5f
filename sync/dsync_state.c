/* The saved state of `dsync -s`. See dsync_state.h. */
#include "sync/dsync_state.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <openssl/evp.h>
#include <zlib.h>

#include "store/base/file.h"

#define HEADER_SIZE    4 /* version 1.0 */
#define CRC_SIZE       4
#define BOX_SIZE       44
#define OLD_BOX_SIZE   40 /* before there was a header */
#define TEXT_MAX       ((size_t)64 * 1024 * 1024)
#define BASE64_SIZE(n) (((n) + 2) / 3 * 4)

static uint32_t get32(const unsigned char *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static uint64_t get64(const unsigned char *p)
{
	return get32(p) | (uint64_t)get32(p + 4) << 32;
}

static void put32(struct buf *out, uint32_t value)
{
	for (unsigned i = 0; i < 4; i++)
		buf_append_byte(out, (unsigned char)(value >> 8 * i));
}

static void put64(struct buf *out, uint64_t value)
{
	put32(out, (uint32_t)value);
	put32(out, (uint32_t)(value >> 32));
}

/* ---- the list ---- */

static struct sync_mailbox_state *find(const struct sync_state *state, const struct guid *guid)
{
	for (size_t i = 0; i < state->count; i++) {
		if (guid_equal(&state->boxes[i].guid, guid))
			return &state->boxes[i];
	}
	return NULL;
}

int dsync_state_put(struct sync_state *state, const struct sync_mailbox_state *box)
{
	struct sync_mailbox_state *known = find(state, &box->guid), *grown;

	if (known) {
		*known = *box;
		return 0;
	}
	grown = realloc(state->boxes, (state->count + 1) * sizeof *grown);
	if (!grown)
		return -ENOMEM;
	state->boxes = grown;
	grown[state->count++] = *box;
	return 0;
}

void dsync_state_drop(struct sync_state *state, const struct guid *guid)
{
	struct sync_mailbox_state *box = find(state, guid);

	if (box)
		*box = state->boxes[--state->count];
}

int dsync_state_copy(const struct sync_state *state, struct sync_state *copy_r)
{
	*copy_r = (struct sync_state){.boxes = NULL};
	if (state->count == 0)
		return 0;
	copy_r->boxes = malloc(state->count * sizeof *copy_r->boxes);
	if (!copy_r->boxes)
		return -ENOMEM;
	memcpy(copy_r->boxes, state->boxes, state->count * sizeof *copy_r->boxes);
	copy_r->count = state->count;
	return 0;
}

/* ---- its text ---- */

static int decode_base64(const char *text, struct buf *out)
{
	size_t len = strlen(text), padding = 0;
	void *room;
	int n;

	if (len % 4 != 0 || len > TEXT_MAX)
		return -EINVAL;
	while (padding < 2 && padding < len && text[len - 1 - padding] == '=')
		padding++;
	if (strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/") !=
	    len - padding)
		return -EINVAL;
	room = buf_reserve(out, len / 4 * 3 + 1);
	if (!room)
		return -ENOMEM;
	n = EVP_DecodeBlock(room, (const unsigned char *)text, (int)len);
	if (n < (int)padding)
		return -EINVAL;
	buf_commit(out, (size_t)n - padding);
	return 0;
}

static int parse_boxes(const unsigned char *data, size_t count, struct sync_state *state)
{
	int rc = 0;

	for (size_t i = 0; i < count && rc == 0; i++, data += BOX_SIZE) {
		struct sync_mailbox_state box = {
			.uid_validity = get32(data + 16),
			.common_uid = get32(data + 20),
			.acked_modseq = get64(data + 24),
			.peer_modseq = get64(data + 24),
			.messages = get32(data + 40),
		};

		memcpy(box.guid.bytes, data, sizeof box.guid.bytes);
		rc = dsync_state_put(state, &box);
	}
	return rc;
}

int dsync_state_parse(const char *text, struct sync_state *state_r, struct error *err)
{
	AUTO_BUF struct buf data = BUF_INIT(TEXT_MAX);
	const unsigned char *bytes;
	size_t body;
	int rc = decode_base64(text, &data);

	*state_r = (struct sync_state){.boxes = NULL};
	if (rc < 0)
		return error_set(err, rc, "the saved state is no Base64");
	bytes = (const unsigned char *)data.data;
	if (data.len == 0 || (data.len == 4 && get32(bytes) == 0))
		return 0;
	if (data.len < HEADER_SIZE + CRC_SIZE ||
	    crc32(crc32(0, NULL, 0), bytes, (uInt)(data.len - CRC_SIZE)) !=
		    get32(bytes + data.len - CRC_SIZE))
		return error_set(err, -EINVAL, "the saved state is damaged");
	body = data.len - CRC_SIZE;
	if (body % OLD_BOX_SIZE == 0 && (body - HEADER_SIZE) % BOX_SIZE != 0)
		return 0;
	if (bytes[0] != 1 || (body - HEADER_SIZE) % BOX_SIZE != 0)
		return error_set(err, -EINVAL, "the saved state is of an unknown version");
	rc = parse_boxes(bytes + HEADER_SIZE, (body - HEADER_SIZE) / BOX_SIZE, state_r);
	if (rc < 0) {
		sync_state_free(state_r);
		return error_errno(err, rc, "saved state");
	}
	return 0;
}

int dsync_state_print(const struct sync_state *state, struct buf *out)
{
	AUTO_BUF struct buf data = BUF_INIT(TEXT_MAX);
	void *room;

	buf_append(&data, "\1\0\0", HEADER_SIZE);
	for (size_t i = 0; i < state->count; i++) {
		const struct sync_mailbox_state *box = &state->boxes[i];

		buf_append(&data, box->guid.bytes, sizeof box->guid.bytes);
		put32(&data, box->uid_validity);
		put32(&data, box->common_uid);
		/* One number for both ends: what the one that is behind has. */
		put64(&data,
		      box->acked_modseq < box->peer_modseq ? box->acked_modseq : box->peer_modseq);
		put64(&data, 0);
		put32(&data, box->messages);
	}
	if (data.failed)
		return data.failed;
	put32(&data,
	      (uint32_t)crc32(crc32(0, NULL, 0), (const unsigned char *)data.data, (uInt)data.len));
	room = data.failed ? NULL : buf_reserve(out, BASE64_SIZE(data.len) + 1);
	if (!room)
		return data.failed ? data.failed : out->failed;
	buf_commit(out,
		   (size_t)EVP_EncodeBlock(room, (const unsigned char *)data.data, (int)data.len));
	return 0;
}
