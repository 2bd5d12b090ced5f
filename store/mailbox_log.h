/*
 * dovecot.mailbox.log: when mailboxes were deleted and renamed, and subscriptions changed.
 *
 * 24-byte records in the index root, appended with O_APPEND and no lock, renamed to
 * dovecot.mailbox.log.2 at 4096 bytes. Readers see the old file, then the new one; a partial or
 * unknown record is skipped.
 */
#ifndef DSYNCFS_MAILBOX_LOG_H
#define DSYNCFS_MAILBOX_LOG_H

#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"

struct mail_user;

enum mailbox_log_type {
	MAILBOX_LOG_DELETE_MAILBOX = 1, /* id: the mailbox GUID; of all others: the name hash */
	MAILBOX_LOG_DELETE_DIRECTORY = 2,
	MAILBOX_LOG_RENAME = 3, /* of the new name */
	MAILBOX_LOG_SUBSCRIBE = 4,
	MAILBOX_LOG_UNSUBSCRIBE = 5,
	MAILBOX_LOG_CREATE_DIRECTORY = 6,
};

struct mailbox_log_record {
	enum mailbox_log_type type;
	struct guid id;
	int64_t time; /* UTC seconds */
};

/* All records, oldest first; malloc'ed. No log: none. */
int mailbox_log_read(const struct mail_user *user, struct mailbox_log_record **records_r,
		     size_t *count_r, struct error *err);

/* Durable when it returns. All records go in one write. */
int mailbox_log_append(const struct mail_user *user, const struct mailbox_log_record *records,
		       size_t count, struct error *err);

/*
 * A log of our own beside it, dsyncfs.mailbox.log, in the same format: deletions of mailboxes that
 * somebody saw. Dovecot's two files forget after some 340 records, and a peer that was away for
 * longer would bring the mailboxes back; this one forgets after 40,000.
 */
int mailbox_log_keep(const struct mail_user *user, const struct guid *mailbox, int64_t time,
		     struct error *err);
/* The mailbox is there again: what was kept of it before does not count any more. */
int mailbox_log_keep_alive(const struct mail_user *user, const struct guid *mailbox, int64_t time,
			   struct error *err);
/* As mailbox_log_read(). */
int mailbox_log_read_kept(const struct mail_user *user, struct mailbox_log_record **records_r,
			  size_t *count_r, struct error *err);

#endif
