/*
 * Messages of a mailbox as its index has them: what Maildir and dbox share in showing them and in
 * changing them.
 */
#ifndef DSYNCFS_INDEX_MAIL_H
#define DSYNCFS_INDEX_MAIL_H

#include "store/index/index_txn.h"
#include "store/mail.h"

/* The largest UID that a message is given: beyond it next_uid could not be told. */
#define INDEX_UID_MAX (UINT32_MAX - 2)

/* IMAP allows it, so the index takes it: 1 to 255 bytes, no NUL, control character, space or any of
 * (){%*"\]. */
bool index_keyword_is_valid(const char *name);

/* Flags and keywords of a message at some point of a transaction; the strings are its own. */
struct mail_state {
	uint8_t flags;
	char **keywords;
	unsigned keyword_count;
};

/* Copies flags and keywords, leaving out (with a warning) what cannot be stored. what: the
 * mailbox's directory, for messages. Free in any case. */
int mail_state_make(const char *what, uint32_t uid, uint8_t flags, struct keyword_set keywords,
		    struct mail_state *state_r, struct error *err);
int mail_state_of_record(const struct index *index, const char *what,
			 const struct index_record *record, struct mail_state *state_r,
			 struct error *err);
struct keyword_set mail_state_keywords(const struct mail_state *state);
bool mail_state_equal(const struct mail_state *a, const struct mail_state *b);
void mail_state_free(struct mail_state *state);
/* to becomes from, which is empty afterwards. */
void mail_state_move(struct mail_state *from, struct mail_state *to);

/* A new message: its record, keywords, modseq (0: the next), and whether it is recent. */
int index_mail_append(struct index_txn *txn, uint32_t uid, const struct mail_state *state,
		      bool recent, uint64_t modseq, struct error *err);
/* The way from one state to another. */
int index_mail_change(struct index_txn *txn, uint32_t uid, const struct mail_state *from,
		      const struct mail_state *to, struct error *err);
/* Of these values those that are higher than what there is; 0 leaves one. *next_uid: the least UID
 * for the transaction's next message, which follows uid_next. */
int index_mail_raise(struct index_txn *txn, uint32_t uid_next, uint32_t *next_uid,
		     uint64_t highest_modseq, uint32_t first_recent_uid, struct error *err);

/* Room for what the last struct mail points to. All zero: an empty one. */
struct mail_names {
	const char **names;
	unsigned room;
};
/* Fills mail_r; guid is kept as it is. */
int index_mail_fill(const struct index *index, const struct index_record *record, const char *guid,
		    struct mail_names *names, struct mail *mail_r, struct error *err);
void mail_names_free(struct mail_names *names);

#endif
