/*
 * Attachments in a directory of their own (mail_attachment_dir), which the metadata line X of a
 * message names:
 *
 *   X<start> <bytes> <options> <name> [<start> <bytes> <options> <name>]...
 *
 * start and bytes: where the attachment is in the whole message; options: "-" as it is in the file,
 * "B76" base64 of it in lines of 76 characters; name: below the directory. The body that is stored
 * with the message lacks these bytes. The file of an sdbox message has the name with a suffix, the
 * mailbox's GUID and the UID; it is found by the part before that where the mailbox has got another
 * GUID. "<directory>/hashes/<hash>" is another link to what "<hash>-<GUID>"
 * has, for as long as there is one.
 *
 * We read them, and remove them with their message; new messages are stored whole.
 */
#ifndef DSYNCFS_DBOX_ATTACHMENT_H
#define DSYNCFS_DBOX_ATTACHMENT_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "store/base/error.h"
#include "store/base/guid.h"
#include "store/body/decompress.h"

#define DBOX_ATTACHMENT_SUFFIX_SIZE (GUID_HEX_SIZE + 16)

struct dbox_attachment {
	uint64_t start, size;
	unsigned columns; /* of base64; 0: not encoded */
	char *name;
};
struct dbox_attachments {
	struct dbox_attachment *list; /* ascending, none in another */
	size_t count;
};

/* lines: metadata lines, of which those with X are looked at. -EUCLEAN without a text: not like
 * that, or a name that leads out of the directory. -EOPNOTSUPP: an option that is not known. Free
 * in any case. */
int dbox_attachments_parse(const char *lines, struct dbox_attachments *attachments_r);
void dbox_attachments_free(struct dbox_attachments *attachments);

/* "-<GUID>-<UID>" */
void dbox_attachment_suffix(const struct guid *mailbox, uint32_t uid,
			    char suffix_r[DBOX_ATTACHMENT_SUFFIX_SIZE]);
/* sdbox: another message has them, too. */
int dbox_attachments_link(const char *dir, const struct dbox_attachments *attachments,
			  const char *from_suffix, const char *to_suffix, struct error *err);
/* What cannot be removed is only logged. */
void dbox_attachments_remove(const char *dir, const struct dbox_attachments *attachments,
			     const char *suffix);

/* The whole message, from the stored rest and the attachments. Takes the attachments over; in and
 * dir stay the caller's. */
struct dbox_attached;
int dbox_attached_open(const char *dir, const char *suffix, struct dbox_attachments *attachments,
		       struct decompress *in, struct dbox_attached **attached_r, struct error *err);
/* Bytes read, 0 at the end. */
ssize_t dbox_attached_read(struct dbox_attached *attached, void *data, size_t size,
			   struct error *err);
void dbox_attached_close(struct dbox_attached **attached);

#endif
