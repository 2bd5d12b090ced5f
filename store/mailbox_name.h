/*
 * Mailbox names and where they lie on disk.
 *
 *   name          "Work/日本語", "INBOX": hierarchy parts in UTF-8 joined by '/', as everywhere in
 *                 the store
 *   storage name  "Work.&ZeVnLIqe-" (Maildir++), "Work/&ZeVnLIqe-" (LAYOUT=fs): modified UTF-7, or
 *                 UTF-8 where the location says so
 *   vname         "Work.日本語": the parts joined by the namespace's separator, what users see and
 *                 what name hashes are made of
 *
 * Nothing here touches the file system. Every function takes any string a peer or a disk can hold;
 * what cannot be a mailbox is refused with -EINVAL, so a path built here never leaves the mail
 * root.
 */
#ifndef DSYNCFS_MAILBOX_NAME_H
#define DSYNCFS_MAILBOX_NAME_H

#include <stdbool.h>
#include <stddef.h>
#include "store/base/buf.h"
#include "store/base/guid.h"
#include "store/mail_location.h"

struct mail_user;

/* Longest name that is taken (bytes, with separators), and the deepest hierarchy: Dovecot's own. */
#define MAILBOX_NAME_MAX       4096
#define MAILBOX_NAME_PARTS_MAX 255

/* Modified UTF-7 (RFC 3501 5.1.3) to and from UTF-8. -EILSEQ for what is not valid and canonical:
 * then the name is none that an IMAP client could have made. */
int mutf7_encode(const char *utf8, size_t len, struct buf *out);
int mutf7_decode(const char *mutf7, size_t len, struct buf *out);
/* The whole string is valid UTF-8 (no overlong forms, no surrogates) without control characters. */
bool utf8_text_is_valid(const char *text, size_t len);

/* Whether the name can be stored as it is (not: whether it exists). */
bool mailbox_name_is_valid(const struct mail_location *location, const char *name);

/* malloc'ed. -EINVAL: cannot be stored, or is none of a mailbox ("INBOX" as a directory of
 * Maildir++ other than the inbox, "..DOVECOT-TRASHED", "cur"). */
int mailbox_name_to_storage(const struct mail_location *location, const char *name,
			    char **storage_r);
int mailbox_name_from_storage(const struct mail_location *location, const char *storage,
			      char **name_r);

/* The visible name for a separator, malloc'ed; NULL without memory. */
char *mailbox_name_visible(const char *name, char separator);
/* First 16 bytes of SHA-1 of the visible name. */
void mailbox_name_hash(const char *name, char separator, struct guid *guid_r);

/* Where a mailbox lies: absolute paths without a slash at the end. control and index equal mail
 * where the location has no CONTROL= or INDEX=. Free with mailbox_paths_free(). */
struct mailbox_paths {
	char *mail;    /* cur/, new/, tmp/; dbox: "dbox-Mails" itself */
	char *control; /* dovecot-uidlist, dovecot-keywords */
	char *index;   /* dovecot.index* */
};
int mailbox_paths_get(const struct mail_location *location, const char *name,
		      struct mailbox_paths *paths_r);
/* The directories that carry the mailbox's name, in which children may lie, too: those of a dbox
 * mailbox hold its "dbox-Mails", others are the same as above. */
int mailbox_dirs_get(const struct mail_location *location, const char *name,
		     struct mailbox_paths *paths_r);
/* Where top-level mailboxes are in a root. */
const char *mailbox_top_dir(const struct mail_location *location);
void mailbox_paths_free(struct mailbox_paths *paths);

#endif
