/*
 * 128-bit identifiers of mailboxes and messages (reference: Dovecot's store formats, conventions).
 * All-zero means "none".
 */
#ifndef DSYNCFS_BASE_GUID_H
#define DSYNCFS_BASE_GUID_H

#include <stdbool.h>
#include <stdint.h>

struct guid {
	uint8_t bytes[16];
};

#define GUID_HEX_LEN  32
#define GUID_HEX_SIZE (GUID_HEX_LEN + 1)

void guid_generate(struct guid *guid_r);
bool guid_is_empty(const struct guid *guid);
bool guid_equal(const struct guid *a, const struct guid *b);
int guid_cmp(const struct guid *a, const struct guid *b); /* bytewise, as memcmp */

/* 32 lower-case hex digits and NUL. Returns hex_r. */
const char *guid_to_hex(const struct guid *guid, char hex_r[GUID_HEX_SIZE]);
/* Exactly 32 hex digits, either case; else -EINVAL. */
int guid_from_hex(const char *hex, struct guid *guid_r);

/* The 128-bit form of a message GUID string: 32 hex digits are decoded, anything else becomes the
 * last 16 bytes of its SHA-1. */
void guid_from_message_guid(const char *message_guid, struct guid *guid_r);
/* The name hash of a mailbox: the first 16 bytes of SHA-1(full visible name in UTF-8). */
void guid_from_name(const char *vname, struct guid *guid_r);

#endif
