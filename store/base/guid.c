/* 128-bit identifiers. See guid.h. */
#include "store/base/guid.h"
#include "store/base/digest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void guid_generate(struct guid *guid_r)
{
	do {
		if (getrandom(guid_r->bytes, sizeof guid_r->bytes, 0) != sizeof guid_r->bytes)
			abort();
	} while (guid_is_empty(guid_r));
}

bool guid_is_empty(const struct guid *guid)
{
	static const struct guid none;

	return memcmp(guid, &none, sizeof none) == 0;
}

bool guid_equal(const struct guid *a, const struct guid *b)
{
	return memcmp(a->bytes, b->bytes, sizeof a->bytes) == 0;
}

int guid_cmp(const struct guid *a, const struct guid *b)
{
	return memcmp(a->bytes, b->bytes, sizeof a->bytes);
}

const char *guid_to_hex(const struct guid *guid, char hex_r[GUID_HEX_SIZE])
{
	static const char digits[] = "0123456789abcdef";

	for (int i = 0; i < 16; i++) {
		hex_r[2 * i] = digits[guid->bytes[i] >> 4];
		hex_r[2 * i + 1] = digits[guid->bytes[i] & 15];
	}
	hex_r[GUID_HEX_LEN] = '\0';
	return hex_r;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int guid_from_hex(const char *hex, struct guid *guid_r)
{
	struct guid guid;

	for (int i = 0; i < 16; i++) {
		int high = hex_value(hex[2 * i]);
		int low = high < 0 ? -1 : hex_value(hex[2 * i + 1]);

		if (low < 0)
			return -EINVAL;
		guid.bytes[i] = (uint8_t)(high << 4 | low);
	}
	if (hex[GUID_HEX_LEN] != '\0')
		return -EINVAL;
	*guid_r = guid;
	return 0;
}

void guid_from_message_guid(const char *message_guid, struct guid *guid_r)
{
	uint8_t sha1[DIGEST_SHA1_SIZE];

	if (guid_from_hex(message_guid, guid_r) == 0)
		return;
	digest_sha1(message_guid, strlen(message_guid), sha1);
	memcpy(guid_r->bytes, sha1 + 4, sizeof guid_r->bytes);
}

void guid_from_name(const char *vname, struct guid *guid_r)
{
	uint8_t sha1[DIGEST_SHA1_SIZE];

	digest_sha1(vname, strlen(vname), sha1);
	memcpy(guid_r->bytes, sha1, sizeof guid_r->bytes);
}
