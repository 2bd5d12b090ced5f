/* One message as every format shows it, and what the index log tells of it. */
#ifndef DSYNCFS_MAIL_H
#define DSYNCFS_MAIL_H

#include <stdbool.h>
#include <stdint.h>
#include "store/base/guid.h"

/* System flags; the bits are those of Dovecot's index records and of dsync's C items. */
enum mail_flag {
	MAIL_ANSWERED = 0x01,
	MAIL_FLAGGED = 0x02,
	MAIL_DELETED = 0x04,
	MAIL_SEEN = 0x08,
	MAIL_DRAFT = 0x10,
	MAIL_FLAGS_MASK = 0x1f,
	MAIL_RECENT = 0x20, /* on the wire only; derived from first_recent_uid, never stored */
};

/* A set of keywords, sorted by strcmp, no duplicates (keywords compare case-insensitively when
 * stored, so no two that differ only in case). The strings belong to whoever filled it. */
struct keyword_set {
	const char *const *names;
	unsigned count;
};

/* Pointers are valid until the next call on the mailbox that filled it. */
struct mail {
	uint32_t uid;
	uint8_t flags; /* enum mail_flag, without MAIL_RECENT */
	bool recent;
	uint64_t modseq;
	const char *guid; /* the message GUID as a string: any bytes but NUL, LF and space */
	struct keyword_set keywords;
};

/* What the index log tells about one message since a modseq. Flags and keywords: the last change of
 * each. New messages and messages that were only given a modseq have nothing but the uid. */
struct mailbox_change {
	uint32_t uid;
	uint64_t modseq;	/* of the last change */
	uint64_t append_modseq; /* the log's where it was added; 0: not since the modseq */
	bool expunged;
	bool has_guid; /* of an expunged one: guid is known */
	/* of an expunged one: the log's where it first tells of that, of what is above the modseq;
	 * 0: unknown */
	uint64_t expunge_modseq;
	struct guid guid; /* 128-bit form */
	uint8_t add_flags, remove_flags;
	struct keyword_set add_keywords, remove_keywords;
};

/* What the log tells about an attribute of the mailbox that was set or removed; the value is
 * elsewhere (attributes.h). */
struct mailbox_attribute {
	bool shared, removed;
	const char *key;
	int64_t time; /* UTC seconds */
	uint64_t modseq;
};

#endif
