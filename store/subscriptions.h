/*
 * The subscriptions file in the control root, versions 1 and 2. The version that is found is kept,
 * a new file is version 2; lines that are not understood are kept, too. It is changed under
 * subscriptions.lock, which is the new content and is renamed over the file.
 */
#ifndef DSYNCFS_SUBSCRIPTIONS_H
#define DSYNCFS_SUBSCRIPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include "store/base/error.h"

struct mail_user;

struct subscriptions {
	char **names; /* as in store/mailbox_list.h, in the order of the file, no duplicates */
	size_t count;
};

int subscriptions_read(const struct mail_user *user, struct subscriptions *subs_r,
		       struct error *err);
void subscriptions_free(struct subscriptions *subs);

/* Adds or removes one name. changed_r: false where it was so already, then nothing is written. */
int subscriptions_set(const struct mail_user *user, const char *name, bool subscribed,
		      bool *changed_r, struct error *err);

#endif
