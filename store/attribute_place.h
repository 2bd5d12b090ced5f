/* Where a user's attributes are, by the settings mail_attribute_dict, sieve and sieve_dir; and the
 * attachments of dbox, by mail_attachment_dir. */
#ifndef DSYNCFS_ATTRIBUTE_PLACE_H
#define DSYNCFS_ATTRIBUTE_PLACE_H

#include "store/mail_user.h"

struct settings;

/* Fills attribute_file, sieve_dir and sieve_active of a user whose name and home are known. */
int attribute_place_find(const struct settings *set, struct mail_user *user, struct error *err);

#endif
