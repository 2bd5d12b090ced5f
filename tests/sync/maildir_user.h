/* A user with a real Maildir below a temporary directory, for tests of whole sessions. */
#ifndef DSYNCFS_TESTS_MAILDIR_USER_H
#define DSYNCFS_TESTS_MAILDIR_USER_H

#include "store/base/buf.h"
#include "store/mail_user.h"
#include "store/mailbox.h"

/* home is made; the Maildir is home/Maildir. uid and gid are taken from it. */
void maildir_user_init(struct mail_user *user, const char *home);
void maildir_user_free(struct mail_user *user);
/* Removes the directory (an absolute path) that the homes are in. */
void maildir_user_remove_root(const char *path);

/* What programs do, through a transaction of its own. They fail the process when they fail. */
void maildir_user_deliver(const struct mail_user *user, const char *mailbox, const char *guid,
			  const char *body);
void maildir_user_flags(const struct mail_user *user, const char *mailbox, uint32_t uid,
			uint8_t flags, const char *keyword);
void maildir_user_expunge(const struct mail_user *user, const char *mailbox, uint32_t uid);

/* The UID of a message of the INBOX by its position, from 0; 0 if there is none. */
uint32_t maildir_user_uid(const struct mail_user *user, uint32_t position);

/* Everything a client can see, one line per mailbox and message. */
void maildir_user_dump(const struct mail_user *user, bool modseqs, struct buf *out);

#endif
