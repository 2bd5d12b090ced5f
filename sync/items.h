/*
 * The items of the dsync protocol (reference: dsync-protocol, sections 1.3 and 2) and their text.
 *
 * An item is a plain struct; its strings are valid until the next items_receive_*() on the same
 * struct items. NULL means "not set", "" is "set and empty". Optional numbers are 0 when not set.
 * Positions are read through the peer's key lists: unknown keys and items are skipped, missing
 * required keys, malformed numbers, GUIDs and names are -EBADMSG with a message that names item
 * and key. What is sent is checked here against section 1.8: an input that would abort a real peer
 * is -EINVAL and is not sent.
 */
#ifndef DSYNCFS_SYNC_ITEMS_H
#define DSYNCFS_SYNC_ITEMS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"

struct stream;

enum item_type {
	ITEM_HANDSHAKE,
	ITEM_STATE,
	ITEM_NODE,
	ITEM_DELETES,
	ITEM_MAILBOX,
	ITEM_ATTRIBUTE,
	ITEM_CHANGE,
	ITEM_REQUEST,
	ITEM_MAIL,
	ITEM_FINISH,
	ITEM_CACHE_FIELD,
	ITEM_TYPE_COUNT,
	ITEM_END = ITEM_TYPE_COUNT, /* "." */
	ITEM_CLOSE,		    /* "X" */
};

/* H */
struct item_handshake {
	const char *hostname;
	const char *sync_ns_prefix; /* LF-separated */
	const char *sync_box;
	struct guid sync_box_guid;
	bool has_sync_box_guid;
	const char *sync_type; /* first letter counts: f c s */
	bool debug;
	bool sync_visible_namespaces;
	const char *exclude_mailboxes; /* list, inner escaping as received */
	bool send_mail_requests;
	bool backup_send, backup_recv;
	uint32_t lock_timeout;
	bool no_mail_sync;
	bool no_backup_overwrite;
	bool purge_remote;
	bool no_notify;
	int64_t sync_since_timestamp;
	uint64_t sync_max_size;
	const char *sync_flags;
	int64_t sync_until_timestamp;
	const char *virtual_all_box;
	bool empty_hdr_workaround;
	uint32_t import_commit_msgs_interval;
	const char *hashed_headers; /* each name followed by TAB; "" from a slave */
	const char *alt_char;
	/* extensions, see PROTOCOL.md */
	bool dsyncfs_program;
	bool dsyncfs_check;  /* the slave changes nothing */
	const char *dsyncfs; /* "<version> <node id>" */
	bool dsyncfs_busy;
	bool dsyncfs_boxes;    /* no tree phase */
	int64_t dsyncfs_clock; /* the sender's, UTC seconds */
};

/* S */
struct item_state {
	struct guid mailbox_guid;
	uint32_t last_uidvalidity;
	uint32_t last_common_uid;
	uint64_t last_common_modseq;
	uint64_t last_common_pvt_modseq;
	uint32_t last_messages_count;
	bool changes_during_sync;
	/* extensions */
	uint64_t highest_modseq;
	uint64_t fill_modseq; /* no message that was filled in has a lower one */
};

/* N */
struct item_node {
	const char *name;      /* parts joined by '/'; a received part that contained '/' or control
				  characters has the alternative character in their place */
	const char *existence; /* "y", "n", "d" */
	struct guid mailbox_guid;
	bool has_guid;
	uint32_t uid_validity, uid_next;
	int64_t last_renamed_or_created;
	bool subscribed;
	int64_t last_subscription_change;
};

/* D: the lists are kept as text; items_next_delete() takes them apart. */
struct item_deletes {
	const char *hierarchy_sep; /* one byte */
	const char *escape_char;   /* NULL, "" or one byte */
	const char *mailboxes;	   /* "<guid> <time> <guid> <time>..." */
	const char *dirs;
	const char *unsubscribes;
	bool dsyncfs_untold; /* mailboxes may be elsewhere by now, or gone */
};
/* Takes the next pair off *list (which may be NULL). 1: got one, 0: end, -EBADMSG. */
int items_next_delete(const char **list, struct guid *guid_r, int64_t *time_r);

/* B */
struct item_mailbox {
	struct guid mailbox_guid;
	uint32_t uid_validity, uid_next, messages_count, first_recent_uid;
	uint64_t highest_modseq, highest_pvt_modseq;
	bool mailbox_lost, mailbox_ignore;
	const char *cache_fields;
	bool have_guids, have_save_guids, have_only_guid128;
	/* extensions */
	const char *name; /* as in N, converted to '/' */
	uint32_t common_uid;
	bool owed; /* the sender has changes that its saved state does not say are at the peer */
	uint32_t fill_from; /* empty, and takes a mailbox of so many messages as a stream */
	/* Of the saved state: what the other side has heard of, and what of it has come. */
	uint64_t acked_modseq, peer_modseq;
	uint32_t agreed_uid;  /* its common UID, also where that is not to be compared from */
	uint32_t reached_uid; /* what the sender said in an S since, if that is higher */
	uint32_t block_uids;  /* without a state it lists what differs in blocks of so many UIDs */
};

/* A: value may hold any bytes. With `stream` the value follows: stream_read_value(). */
struct item_attribute {
	char type; /* 'p' or 's' */
	const char *key;
	const char *value;
	size_t value_len;
	bool stream, deleted;
	int64_t last_change;
	uint64_t modseq;
};

/* C */
struct item_keyword {
	char op; /* '+' '-' '=' '&' */
	const char *name;
};
struct item_change {
	char type; /* 's' 'f' 'e'; 'b' (extension): uid is a block's number, guid its digest */
	uint32_t uid;
	const char *guid;
	const char *hdr_hash;
	uint64_t modseq, pvt_modseq;
	uint8_t add_flags, remove_flags, final_flags; /* with MAIL_RECENT and private bits */
	bool keywords_reset;
	bool has_keyword_changes; /* the key was set, even if empty */
	const struct item_keyword *keywords;
	size_t keyword_count;
	uint64_t received_timestamp;
	uint64_t virtual_size;
	/* extension, of an 's': a mailbox that had a message of this GUID, and when it was saved
	 * in this one */
	const char *from;
	int64_t saved;
	uint64_t appended; /* extension, of an 's' or 'e': merge_item.appended */
	uint64_t expunged; /* extension, of an 'e': merge_item.expunged */
};

/* R */
struct item_request {
	const char *guid;
	uint32_t uid;
};

/* M: with `stream` the body follows: stream_read_value() or stream_write_value(). */
struct item_mail {
	const char *guid;
	uint32_t uid;
	const char *pop3_uidl;
	uint32_t pop3_order;
	int64_t received_date, saved_date;
	bool stream;
	/* extension: of the body before it, with nothing else set */
	const char *body_digest;
};

/* F */
struct item_finish {
	const char *error;
	uint32_t mail_error;
	bool require_full_resync;
};

/* c, inside B cache_fields */
struct item_cache_field {
	const char *name;
	const char *decision;
	int64_t last_used;
};

/* What was received: the type says which member. */
struct item {
	enum item_type type;
	union {
		struct item_handshake handshake;
		struct item_state state;
		struct item_node node;
		struct item_deletes deletes;
		struct item_mailbox mailbox;
		struct item_attribute attribute;
		struct item_change change;
		struct item_request request;
		struct item_mail mail;
		struct item_finish finish;
		struct item_cache_field cache_field;
	};
};

/* The two ends' key lists and minor versions on one connection. */
struct items;
struct items *items_new(struct stream *stream);
void items_free(struct items **items);

/* VERSION, header lines, ".". Without `extensions` the extension keys are left out of the lists. */
int items_send_header(struct items *items, bool extensions, struct error *err);
/* Reads the peer's up to and with the ".". When its minor is below 1 there are no A items. 1: the
 * peer's are known from an earlier session, and it begins with H: items_receive() gives it. */
int items_receive_header(struct items *items, struct error *err);
unsigned items_peer_minor(const struct items *items);
/* Whether the peer's header line for this item listed the key. */
bool items_peer_has_key(const struct items *items, enum item_type type, const char *key);

/* Sends one. Values of extension keys go only to a peer that listed them (but in H, which is sent
 * before we know). */
int items_send(struct items *items, const struct item *item, struct error *err);
int items_send_end(struct items *items, struct error *err);
int items_send_close(struct items *items, struct error *err);

/* Receives the next item that we know. ITEM_CLOSE is returned as such. */
int items_receive(struct items *items, struct item *item_r, struct error *err);
/* As items_receive; anything but `wanted` (or, if end_ok, ITEM_END) is -EPROTO; X is
 * -ECONNABORTED. */
int items_receive_type(struct items *items, enum item_type wanted, bool end_ok, struct item *item_r,
		       struct error *err);
/* Fails the stream because of this item. -EPROTO, or -ECONNABORTED when it says why the peer ends.
 */
int items_unexpected(struct items *items, const struct item *item, enum item_type wanted,
		     struct error *err);
/* To a dsyncfs node: the lines that end a session anywhere, and say why. Else -EOPNOTSUPP. */
int items_format_failure(struct items *items, const char *reason, char *line_r, size_t size);
/* Stands for what a part of a received mailbox name cannot hold. */
void items_set_alt_char(struct items *items, char alt_char);
struct stream *items_stream(struct items *items);
const char *items_type_name(enum item_type type);

#endif
