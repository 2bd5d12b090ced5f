/*
 * Who has mail here, and where: found without a database, from the settings mail_root, mail_home,
 * mail_location, mail_uid and mail_gid.
 */
#ifndef DSYNCFS_MAIL_USER_H
#define DSYNCFS_MAIL_USER_H

#include <sys/types.h>
#include "store/base/error.h"
#include "store/mail_location.h"

struct settings;

struct mail_user {
	char *name;	/* "alice@example.org", or "alice" where mail_home has no %d */
	char *home;	/* absolute, below mail_root for users found there */
	char *home_rel; /* relative to mail_root, as in struct mail_event; "" when it is not below
			   it */
	uid_t uid;
	gid_t gid;
	struct mail_location location; /* absolute paths, variables expanded */
	char separator;		       /* of visible names */
	/* attribute_place.h; NULL: there is none. */
	char *attribute_file, *sieve_dir, *sieve_active;
	char *special_uses; /* special_use.h */
	bool as_it_is;	    /* a backup's source: what is damaged is not rebuilt */
};

/* -ENOENT: no such home. -EINVAL: the name cannot be a user's (it would leave mail_root, is empty,
 * ...). */
int mail_user_find(const struct settings *set, const char *name, struct mail_user **user_r,
		   struct error *err);
/* Makes the missing home for a user whom a peer has, as root, owned by mail_uid/mail_gid or by the
 * owner of the domain's directory. -EPERM where neither says who would own it. */
int mail_user_create(const struct settings *set, const char *name, struct mail_user **user_r,
		     struct error *err);
/* What the settings say about storing new messages, for a location found in another way. */
void mail_user_set_storing(const struct settings *set, struct mail_location *location);
void mail_user_free(struct mail_user **user);

/* "example.org/alice" -> "alice@example.org", by the shape of mail_home. malloc'ed; -EINVAL if no
 * user's. */
int mail_user_name_from_home(const struct settings *set, const char *home_rel, char **name_r);
/* Depth of a home below mail_root: how many path components mail_home has after it. */
unsigned mail_user_home_depth(const struct settings *set);

/* Calls each() with every user's name, in no order; stops at non-zero and returns that. */
typedef int mail_user_each_fn(void *ctx, const char *name);
int mail_user_each(const struct settings *set, mail_user_each_fn *each, void *ctx,
		   struct error *err);

#endif
