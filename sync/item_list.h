/*
 * One side's C list of one mailbox, as the merge takes it, with the strings it needs.
 *
 * Strings and keyword sets are copied into the list and freed with it. Keyword sets come out sorted
 * and without duplicates, whatever went in.
 */
#ifndef DSYNCFS_SYNC_ITEM_LIST_H
#define DSYNCFS_SYNC_ITEM_LIST_H

#include <stddef.h>
#include "store/mail.h"
#include "store/mailbox.h"
#include "sync/items.h"
#include "sync/mail_filter.h"
#include "sync/merge_mailbox.h"

struct item_list {
	struct merge_item *items;
	size_t count, size;
	size_t memory_bytes; /* of strings and items */
	struct item_list_chunk *chunks;
};

void item_list_init(struct item_list *list);
void item_list_free(struct item_list *list);

/* An own message: type 's' or 'f'. change (may be NULL): what the log says of it. */
int item_list_add_mail(struct item_list *list, char type, const struct mail *mail,
		       const struct mailbox_change *change, const char *hdr_hash);
/* An own expunge. */
int item_list_add_expunge(struct item_list *list, const struct mailbox_change *change);
/* What the peer sent. */
int item_list_add_received(struct item_list *list, const struct item_change *change);

/* Says that the peer's message is in the own mailbox as it is there: marked absent. Not where
 * something in the list has its UID. The item's strings must live as long as the list. -ENOMEM */
int item_list_insert_absent(struct item_list *list, const struct merge_item *item);

/* A copy that lives as long as the list; NULL when out of memory. */
char *item_list_strdup(struct item_list *list, const char *text);
/* `now` with what differs between `before` and `wanted` applied to it. Lives as long as the list.
 */
int item_list_apply_keywords(struct item_list *list, struct keyword_set now,
			     struct keyword_set before, struct keyword_set wanted,
			     struct keyword_set *set_r);

/* The C item that says this. To Dovecot it also has what only Dovecot cares for. filter: of the
 * session. scratch: room for the keywords, grown as needed; the item points into it, into hex (an
 * expunge's GUID) and into the list. */
struct item_keywords_scratch {
	struct item_keyword *words;
	size_t size;
};
int item_list_to_change(const struct merge_item *item, bool to_dovecot,
			const struct mail_filter *filter, struct item_keywords_scratch *scratch,
			char hex[GUID_HEX_SIZE], struct item_change *change_r);

#endif
