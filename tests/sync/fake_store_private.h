/*
 * What the parts of the store in memory share: fake_store.c, fake_mailbox.c, fake_mailbox_list.c.
 */
#ifndef DSYNCFS_TESTS_FAKE_STORE_PRIVATE_H
#define DSYNCFS_TESTS_FAKE_STORE_PRIVATE_H

#include "tests/sync/fake_store.h"

/* Room for one more behind count items. */
void *fake_grow(void *array, size_t count, size_t item_size);
struct fake_account *fake_account_of(const struct mail_user *user);
/* A copy that lives as long as the account. */
const char *fake_keep_body(struct fake_account *account, const char *text);
struct fake_box *fake_add_box(struct fake_account *account, const char *name,
			      const struct guid *guid, uint32_t uid_validity);

/* The MODSEQ of a change: next, or the one wished for where that is higher. Raises HIGHESTMODSEQ.
 */
uint64_t fake_take_modseq(struct fake_box *box, uint64_t next, uint64_t wished);

/* The position of the name in the set, or -1. */
int fake_keyword_at(const struct fake_keywords *set, const char *name);
void fake_keyword_add(struct fake_keywords *set, const char *name);
void fake_keyword_remove(struct fake_keywords *set, const char *name);

/* In UID order. */
struct fake_mail *fake_insert_mail(struct fake_box *box, const struct fake_mail *mail);

/* Changes of a message with their records in the log. */
struct fake_change *fake_add_log(struct fake_box *box, uint32_t uid, uint64_t modseq);
void fake_log_flags(struct fake_box *box, struct fake_mail *mail, uint8_t flags, uint64_t modseq);
void fake_log_keyword(struct fake_box *box, struct fake_mail *mail, const char *name, bool add,
		      uint64_t modseq);
void fake_log_expunge(struct fake_box *box, struct fake_mail *mail, uint64_t modseq);

#endif
