/*
 * mail_home as a shape below mail_root, read in both directions: a user's name gives the home, a
 * directory gives the name. The shape is the part of mail_home behind mail_root, for example
 * "%d/%n", "%1n/%n/mail" or "%u".
 */
#ifndef DSYNCFS_MAIL_HOME_H
#define DSYNCFS_MAIL_HOME_H

#include "store/base/buf.h"
#include "store/base/error.h"

/* -EINVAL with the reason: not relative, a variable that is unknown, or no user's name could be
 * read back from it. */
int mail_home_check(const char *shape, struct error *err);
/* How many directories deep a home is. */
unsigned mail_home_depth(const char *shape);
/* "alice@example.org" -> "example.org/alice". -EINVAL: the name cannot be a user's here. */
int mail_home_from_name(const char *shape, const char *name, struct buf *home_rel,
			struct error *err);
/* "example.org/alice" -> "alice@example.org", malloc'ed. -EINVAL: no user's home. */
int mail_home_to_name(const char *shape, const char *home_rel, char **name_r);

#endif
