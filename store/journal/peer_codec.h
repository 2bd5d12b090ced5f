/*
 * The records of dsyncd's environment: bytes on disk, versioned, decoded with validation.
 *
 *   database   key                                          value
 *   meta       "consumed"                                   version 1, journal id, seq u64
 *   states     user NUL peer NUL mailbox guid               struct peer_mailbox_state
 *   mailboxes  user NUL SHA-1 of the directory              version 2, count u8 of the mailboxes
 * that it was before, guid, their guids, the directory (version 1: no count, none before) users
 * user NUL peer                                struct peer_user tombstones user NUL mailbox guid,
 * modseq u64 big        version 1, time i64 endian, uid u32 big endian, message guid marks user NUL
 * mailbox guid                        struct tombstone_mark
 *
 * Numbers in values are little endian. A value may grow at its end within a version: what is
 * missing is zero, what is unknown is ignored. Private to store/journal.
 */
#ifndef DSYNCFS_JOURNAL_PEER_CODEC_H
#define DSYNCFS_JOURNAL_PEER_CODEC_H

#include "store/journal/journal_codec.h"
#include "store/journal/peer_journal.h"

enum peer_db { PEER_META, PEER_STATES, PEER_MAILBOXES, PEER_USERS, PEER_TOMBSTONES, PEER_MARKS };
extern const struct lmdb_layout peer_layout;

#define PEER_KEY_MAX   511
#define PEER_USER_MAX  320 /* local part, @ and domain of RFC 5321 */
#define PEER_ID_MAX    127
#define PEER_VALUE_MAX (JOURNAL_STRING_MAX + 256)

struct peer_key {
	uint8_t bytes[PEER_KEY_MAX];
	size_t len;
};

/* user NUL, the front of all keys but meta's. -EINVAL: not a user name that fits. */
int peer_key_user(const char *user, struct peer_key *key_r);
/* Each of these appends to a key. -EINVAL: does not fit. */
int peer_key_add_peer(struct peer_key *key, const char *peer, bool with_nul);
void peer_key_add_guid(struct peer_key *key, const struct guid *guid);
void peer_key_add_dir(struct peer_key *key, const char *dir);
void peer_key_add_tombstone(struct peer_key *key, const struct tombstone *tombstone);

/* Splits the key of a users record; user_r PEER_USER_MAX + 1, peer_r PEER_ID_MAX + 1 bytes. */
int peer_key_split_user(const void *key, size_t len, char *user_r, char *peer_r);
/* The tail of a tombstone's key, behind the user. */
int peer_key_get_tombstone(const void *tail, size_t len, struct tombstone *tombstone_r);

void peer_state_encode(const struct peer_mailbox_state *state, struct buf *out);
int peer_state_decode(const void *value, size_t len, struct peer_mailbox_state *state_r);
void peer_user_encode(const struct peer_user *user, struct buf *out);
int peer_user_decode(const void *value, size_t len, struct peer_user *user_r);
int peer_place_encode(const char *dir, const struct peer_place *place, struct buf *out);
int peer_place_decode(const void *value, size_t len, const char *dir, struct peer_place *place_r);
void peer_tombstone_encode(const struct tombstone *tombstone, struct buf *out);
int peer_tombstone_decode(const void *value, size_t len, struct tombstone *tombstone_r);
void peer_mark_encode(const struct tombstone_mark *mark, struct buf *out);
/* But for the mailbox, which the key has. */
int peer_mark_decode(const void *value, size_t len, struct tombstone_mark *mark_r);

#endif
