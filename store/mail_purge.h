/* Mail that no mailbox has any more, where the format keeps it (mdbox): its room is reclaimed, or
 * it is told of. */
#ifndef DSYNCFS_MAIL_PURGE_H
#define DSYNCFS_MAIL_PURGE_H

#include <stdint.h>
#include "store/base/error.h"

struct mail_user;

struct mail_purged {
	uint32_t files, messages;
	uint32_t corrected; /* reference counts that were too high */
	uint32_t unclaimed; /* messages that no mailbox has, and nobody expunged: they are kept */
	uint64_t bytes;
};
/* Beside Dovecot and everybody else. Nothing to do (0) for Maildir and sdbox, or a user without
 * mail. -EUCLEAN: the storage is damaged, and has to be rebuilt first. */
int mail_purge(const struct mail_user *user, struct mail_purged *purged_r, struct error *err);
/* Counts, and logs, the messages that no mailbox has though nobody expunged them: all that shows of
 * an mdbox mailbox's index log that ends too early. They are not put back, since where Dovecot was
 * killed between its mailbox and its map an expunged one looks the same. Reads every index. */
int mail_look_for_unclaimed(const struct mail_user *user, uint32_t *count_r, struct error *err);

#endif
