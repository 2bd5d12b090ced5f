/*
 * The hash by which dsync knows a message whose store has no GUIDs (reference: dsync-protocol 5.3):
 * MD5 over some header fields, normalised by version. Only needed with peers that store mbox.
 */
#ifndef DSYNCFS_SYNC_HEADER_HASH_H
#define DSYNCFS_SYNC_HEADER_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include "store/base/buf.h"

#define HEADER_HASH_HEX_SIZE 33

enum header_hash_version { HEADER_HASH_V1 = 1, HEADER_HASH_V2 = 2, HEADER_HASH_V3 = 3 };

struct header_hash {
	struct buf head; /* what was fed, up to the empty line */
	size_t line_start;
	bool done;
};

void header_hash_init(struct header_hash *hash);
void header_hash_free(struct header_hash *hash);
/* Feeds the message from its start. Returns true when no more is needed. */
bool header_hash_update(struct header_hash *hash, const void *data, size_t len);
/* names: the field names each followed by a TAB ("Date\tMessage-ID\t"), as in H hashed_headers.
 * -EMSGSIZE: the header is larger than a header may be. */
int header_hash_finish(struct header_hash *hash, enum header_hash_version version,
		       const char *names, char hex_r[HEADER_HASH_HEX_SIZE]);

#endif
