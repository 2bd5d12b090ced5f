/* Whose mail the dsync command works on, and as whom it runs. */
#ifndef DSYNCFS_SYNC_DSYNC_USER_H
#define DSYNCFS_SYNC_DSYNC_USER_H

#include <stdbool.h>
#include "store/base/error.h"
#include "store/mail_user.h"
#include "store/settings.h"

/* name NULL: the caller, with the home of its environment. Else by the settings; a name that they
 * do not know may be a system user's; if nobody's, and create, root makes the home, as for a user
 * whom the other end has. Free with mail_user_free(). -ENOENT: no such user. */
int dsync_user_find(const struct settings *set, const char *name, bool create,
		    struct mail_user **user_r, struct error *err);
/* The same user with another mail location, variables replaced. */
int dsync_user_at(const struct mail_user *user, const char *location, struct mail_user **user_r,
		  struct error *err);
/* The same directory, by whatever name. */
bool dsync_user_same_root(const struct mail_user *a, const struct mail_user *b);
/* Makes the location's directory, and what is missing above it: a backup may be the first one. */
int dsync_user_make_root(const struct mail_user *user, struct error *err);
/* From here on this process is the user's, for good. -EPERM: it is not root, nor the user. */
int dsync_user_become(const struct mail_user *user, struct error *err);

#endif
