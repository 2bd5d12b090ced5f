/*
 * A store in memory behind store/mailbox.h and store/mailbox_list.h, so that the brain can be run
 * against random histories and failures that a real store has seldom.
 *
 * One account is one user on one node. An account is used by one thread at a time. What a program
 * outside would do is done with the fake_*() functions; they log as Dovecot does.
 */
#ifndef DSYNCFS_TESTS_FAKE_STORE_H
#define DSYNCFS_TESTS_FAKE_STORE_H

#include <stdbool.h>
#include <stdint.h>
#include "store/mail_user.h"
#include "store/mailbox.h"
#include "store/mailbox_list.h"

#define FAKE_KEYWORDS_MAX 8

struct fake_keywords {
	unsigned count;
	char names[FAKE_KEYWORDS_MAX][24];
};

struct fake_mail {
	uint32_t uid;
	uint8_t flags;
	uint64_t modseq;
	char guid[64];
	struct fake_keywords keywords;
	const char *body; /* owned by the account, never changed */
	int64_t received, saved;
	char pop3_uidl[32];
	uint32_t pop3_order;
};

struct fake_change {
	uint32_t uid;
	uint64_t modseq;
	bool appended, expunged;
	struct guid guid;
	uint8_t add_flags, remove_flags;
	struct fake_keywords add, remove;
};

struct fake_box {
	char name[128];
	struct mailbox_status status;
	struct fake_mail *mails;
	size_t mail_count;
	struct fake_change *log;
	size_t log_count;
	uint64_t log_start; /* the log tells of modseqs above this */
	uint64_t version;   /* counts commits by anybody */
	bool damaged;	    /* open says -EUCLEAN until rebuilt */
	int64_t renamed;    /* in the mailbox log; 0: unknown */
};

struct fake_account {
	struct mail_user user;
	struct fake_box *boxes;
	size_t box_count;
	char subscriptions[64][128];
	int64_t subscription_times[64];
	size_t subscription_count;
	struct mailbox_deletion deletions[256];
	size_t deletion_count;
	void *bodies; /* list of owned bodies */
	/* Knobs. */
	int64_t *clock;
	int64_t spool_bytes_left; /* -1: unlimited; then spool writes are -ENOSPC */
	int64_t reads_left;	  /* -1: unlimited; then mailbox_each() is -EIO */
	unsigned busy_bodies;	  /* so many mailbox_body_open() to come are -EAGAIN */
	const char *hidden;	  /* a mailbox that is listed and cannot be opened: -ENOENT */
	/* Called when the transaction number begin_count is about to begin. */
	void (*on_begin)(struct fake_account *account, const char *mailbox);
	/* Called when a body is about to be read; the mailbox is refreshed then. */
	void (*on_body)(struct fake_account *account, const char *mailbox);
	/* Counters. */
	unsigned begin_count, open_count, rebuild_count;
	unsigned mails_read; /* records of messages looked at through the mailbox interface */
};

struct fake_account *fake_account_new(const char *name, int64_t *clock);
void fake_account_free(struct fake_account **account);

struct fake_box *fake_find_box(struct fake_account *account, const char *name);
struct fake_mail *fake_find_mail(struct fake_box *box, uint32_t uid);

/* Delivers; the UID is the next one. guid NULL: a new one. */
uint32_t fake_deliver(struct fake_account *account, struct fake_box *box, const char *guid,
		      const char *body);
void fake_flags(struct fake_box *box, uint32_t uid, uint8_t add, uint8_t remove);
void fake_keyword(struct fake_box *box, uint32_t uid, const char *name, bool add);
void fake_expunge(struct fake_box *box, uint32_t uid);

/* NULL when equal, else what differs (static storage). */
const char *fake_accounts_differ(const struct fake_account *a, const struct fake_account *b,
				 bool modseqs);

#endif
