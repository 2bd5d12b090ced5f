/*
 * Mailboxes that stay open from one job or session to the next: opening one reads its index and its
 * uidlist, looking again at an open one costs a few calls of stat(2).
 *
 * Whoever takes a mailbox has it alone until it is put back or closed. Kept are the most recently
 * used ones, of all users that share the process, within bounds on their number and on the messages
 * in them.
 */
#ifndef DSYNCFS_SYNC_BOX_CACHE_H
#define DSYNCFS_SYNC_BOX_CACHE_H

#include "store/mailbox.h"

#define BOX_CACHE_BOXES	   16
#define BOX_CACHE_MESSAGES 500000

struct box_cache {
	/* The most recently used first. */
	struct {
		const struct mail_user *user;
		struct mailbox *box;
	} kept[BOX_CACHE_BOXES];
	unsigned count;
};

/* The mailbox, open and refreshed; as mailbox_open(). cache may be NULL. */
int box_cache_take(struct box_cache *cache, const struct mail_user *user, const char *name,
		   struct mailbox **box_r, struct error *err);
/* For a mailbox that is as good as a newly opened one: without spools, transactions, failures.
 * Without a cache it is closed. */
void box_cache_put(struct box_cache *cache, const struct mail_user *user, struct mailbox **box);
/* Closes the user's mailbox of that name, where it is kept; name NULL: all of the user's. */
void box_cache_forget(struct box_cache *cache, const struct mail_user *user, const char *name);

#endif
