/*
 * How items are described to their encoder and decoder: one table of keys for each item type
 * (items_keys.c), in the order we send them, and layouts, which map the positions of a line to
 * keys.
 */
#ifndef DSYNCFS_SYNC_ITEMS_PRIVATE_H
#define DSYNCFS_SYNC_ITEMS_PRIVATE_H

#include "store/base/buf.h"
#include "sync/items.h"

#define ITEMS_MINOR	       5
#define ITEMS_POSITIONS_MAX    128    /* keys in a header line */
#define ITEMS_HEADERS_MAX      256    /* header lines */
#define ITEMS_SKIPPED_MAX      100000 /* unknown items in a row */
#define ITEMS_MAIL_GUID_MAX    1024
#define ITEMS_NAME_BYTES_MAX   4096
#define ITEMS_POSITION_UNKNOWN (-1)

enum key_kind {
	KEY_STR,
	KEY_MAIL_GUID, /* text without control characters, of bounded length */
	KEY_BYTES,     /* const char *, and size_t at second */
	KEY_ONE_BYTE,  /* text of exactly one byte */
	KEY_LETTER,    /* char in the struct */
	KEY_NAME,      /* mailbox name: parts on the wire, '/' in the struct */
	KEY_GUID,      /* struct guid */
	KEY_OPT_GUID,  /* struct guid, and bool at second */
	KEY_DEC32,
	KEY_DEC64,
	KEY_TIME, /* int64_t */
	KEY_HEX8,
	KEY_HEX64,
	KEY_BOOL,
	KEY_KEYWORDS, /* keywords, keyword_count and has_keyword_changes of struct item_change */
};

enum key_flag {
	KEY_REQUIRED = 1,  /* the peer must list and set it */
	KEY_ALWAYS = 2,	   /* numbers: sent even if 0 */
	KEY_EXTENSION = 4, /* PROTOCOL.md; not part of the header lines for a plain peer */
	KEY_NOT_ZERO = 8,  /* numbers: 0 is an error when set */
};

struct item_key {
	const char *name;
	enum key_kind kind;
	unsigned flags;
	size_t offset; /* in struct item */
	size_t second;
};

struct item_desc {
	char code;
	const char *name; /* for messages */
	unsigned min_minor;
	const struct item_key *keys;
	unsigned key_count;
};

extern const struct item_desc item_descs[ITEM_TYPE_COUNT];

struct item_layout {
	bool present;
	unsigned count;
	int8_t key_at[ITEMS_POSITIONS_MAX]; /* index into the desc's keys, or unknown */
};

struct items {
	struct stream *stream;
	char alt_char;
	bool extensions; /* we listed ours */
	bool peer_known; /* the peer's header lines were received */
	unsigned peer_minor;
	struct item_layout own[ITEM_TYPE_COUNT];
	struct item_layout peer[ITEM_TYPE_COUNT];
	uint32_t sent_change_uid, received_change_uid; /* C lists must ascend */
	bool line_pending; /* line holds one that items_receive() has to take first */
	struct buf line;   /* the received line, taken apart in place */
	struct buf name;   /* its mailbox name */
	struct buf out, scratch;
	struct item_keyword *keywords;
	size_t keywords_size;
};

int items_layout_own(struct item_layout *layout, enum item_type type, bool extensions);
/* fields: the header line without its code; changed. */
int items_layout_parse(struct item_layout *layout, enum item_type type, char *fields,
		       struct error *err);

/* Appends the line without LF to buf. */
int items_encode(struct items *items, const struct item *item, struct buf *line, struct error *err);
/* Takes the fields (a line without its code) apart in place. */
int items_decode(struct items *items, enum item_type type, char *fields, size_t len,
		 struct item *item_r, struct error *err);

#endif
