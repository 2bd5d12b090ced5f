/* Reclaiming the room of expunged mail, where the format keeps it until then (mdbox). */
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

#endif
