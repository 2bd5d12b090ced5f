/* The two places of attributes. See attributes.h. */
#ifndef DSYNCFS_ATTRIBUTES_PRIVATE_H
#define DSYNCFS_ATTRIBUTES_PRIVATE_H

#include "store/attributes.h"

/* Takes a copy. -EMSGSIZE, -ENOMEM. */
int attributes_add(struct attribute_list *list, const struct attribute *attribute);

/* The file of mail_attribute_dict. */
int attribute_dict_read(const char *path, bool shared, const struct guid *guid,
			struct attribute_list *list, struct error *err);
int attribute_dict_set(const char *path, const struct guid *guid, const struct attribute *attribute,
		       struct error *err);

/* Sieve scripts. */
bool sieve_is_key(const char *key);
int sieve_read(const struct mail_user *user, struct attribute_list *list, struct error *err);
int sieve_set(const struct mail_user *user, const struct attribute *attribute, struct error *err);

#endif
