/*
 * Attributes of a user's mailboxes: IMAP METADATA, and the Sieve scripts, which dsync knows as
 * attributes of INBOX.
 *
 *   METADATA   in the file of mail_attribute_dict (Dovecot's file dictionary: a key line, a value
 *              line), as priv/<mailbox GUID>/<key> and shared/<mailbox GUID>/<key>; written under
 * its dotlock as Dovecot does scripts    <sieve_dir>/<name>.sieve, and the active one: a symbolic
 * link to one of them, or a file of its own
 *
 * When something changed is in the mailbox's index log (mailbox_changes()); scripts have their
 * files' times, too.
 */
#ifndef DSYNCFS_ATTRIBUTES_H
#define DSYNCFS_ATTRIBUTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/mail_user.h"

#define ATTRIBUTE_KEY_MAX   1024
#define ATTRIBUTE_VALUE_MAX ((size_t)4 * 1024 * 1024)

#define ATTRIBUTE_SIEVE	      "vendor/vendor.dovecot/pvt/server/sieve/"
#define ATTRIBUTE_SIEVE_FILES ATTRIBUTE_SIEVE "files/"
#define ATTRIBUTE_SIEVE_ACTIVE                                                                     \
	ATTRIBUTE_SIEVE "default" /* "L<script name>" or "S<script text>"                          \
				   */

struct attribute {
	bool shared;
	char *key;
	char *value; /* not NUL-terminated */
	size_t len;
	bool is_text;	     /* a script: may be long */
	int64_t last_change; /* UTC seconds; 0: not known */
};

struct attribute_list {
	struct attribute *list; /* private ones first; scripts before which one is active */
	size_t count;
};

/* All that have a value. Where nothing can be kept, none. */
int attributes_read(const struct mail_user *user, const char *mailbox, const struct guid *guid,
		    struct attribute_list *list_r, struct error *err);
void attributes_free(struct attribute_list *list);

/* Durable when it returns 0. value NULL: removes it. -EOPNOTSUPP: there is no place for it here.
 * -EINVAL: no such attribute can be. */
int attributes_set(const struct mail_user *user, const char *mailbox, const struct guid *guid,
		   const struct attribute *attribute, struct error *err);

/* The mailbox has another GUID now: what was kept under the old one is under the new one, but for
 * what is there already. */
int attributes_move(const struct mail_user *user, const struct guid *old_guid,
		    const struct guid *new_guid, struct error *err);

#endif
