/*
 * What a mailbox format implements, behind store/mailbox.h.
 *
 * A format's objects begin with the structs below. mailbox.c finds out where the mailbox lies,
 * calls the format and puts user and mailbox in front of its error texts; a format names files and
 * causes.
 */
#ifndef DSYNCFS_MAILBOX_PRIVATE_H
#define DSYNCFS_MAILBOX_PRIVATE_H

#include <errno.h>
#include <stdlib.h>
#include "store/mailbox.h"

struct index;
struct mail_location;
struct mailbox_format;

struct mailbox {
	const struct mailbox_format *format;
	const struct mail_user *user; /* outlives the mailbox */
	char *name;
	struct mailbox_status status; /* kept by the format */
	/* mailbox_missing() */
	uint32_t *missing;
	size_t missing_count, missing_room;
};

struct mailbox_txn {
	struct mailbox *box;
};

struct mail_spool {
	struct mailbox *box;
};

struct mail_body {
	struct mailbox *box;
	bool may_break; /* compressed, or in several files: damage may show halfway */
};

/* Where a mailbox lies. Valid only during the call. */
struct mailbox_place {
	const char *name;		    /* of the mailbox */
	const char *storage_name;	    /* as on disk */
	const char *mail, *control, *index; /* absolute directories */
	const struct mail_location *location;
	/* A UIDVALIDITY for a mailbox that has none. */
	int (*uid_validity)(void *ctx, uint32_t *uid_validity_r, struct error *err);
	/* Called before a mailbox gets the files that make it one: Dovecot, which may just be
	 * creating it, takes it for an older one of that name when it finds them. */
	int (*wait_for_creator)(void *ctx, struct error *err);
	void *ctx;
	/* Of create(): who was at it before has died, and left a lock that nobody else has. */
	bool maker_died;
};

/* The functions are those of store/mailbox.h. open allocates the format's struct; user, name and
 * format are filled in afterwards. close and the like get an object that exists and free it. */
struct mailbox_format {
	/* The directory that makes a directory a mailbox. */
	const char *part;
	/* GUID, UIDVALIDITY and next UID without opening it. -ENOENT: it has none yet. */
	int (*peek)(const struct mailbox_place *place, struct mailbox_status *status_r,
		    struct error *err);
	/* Writes the files of a new one without messages, in directories that nobody uses yet. */
	int (*create)(const struct mailbox_place *place, int control_fd, int index_fd,
		      const struct guid *guid, uint32_t uid_validity, struct error *err);
	/* Around the removal of its directories; NULL: nothing to do. The second is called with
	 * what the first returned in *deletion_r, which may be NULL. */
	int (*delete_begin)(const struct mailbox_place *place, void **deletion_r,
			    struct error *err);
	int (*delete_end)(void *deletion, bool deleted, struct error *err);
	/* Around the renaming of its directories: meanwhile no program changes what it knows by
	 * their names. NULL: nothing to do. *renaming_r: for the second, or NULL. */
	int (*rename_begin)(const struct mailbox_place *place, void **renaming_r,
			    struct error *err);
	void (*rename_end)(void *renaming);
	int (*open)(const struct mailbox_place *place, struct mailbox **box_r, struct error *err);
	int (*rebuild)(const struct mailbox_place *place, struct error *err);
	void (*close)(struct mailbox *box);
	int (*refresh)(struct mailbox *box, struct error *err);
	int (*each)(struct mailbox *box, uint32_t first_uid, uint32_t last_uid,
		    mailbox_each_fn *each, void *ctx, struct error *err);
	int (*find)(struct mailbox *box, uint32_t uid, struct mail *mail_r, struct error *err);
	/* Whose log tells about changes; the box keeps it. */
	struct index *(*index)(struct mailbox *box);
	/* Which message it was that has gone from this UID; -ENOENT: not known any more. NULL: the
	 * log names all of them. */
	int (*expunged_guid)(struct mailbox *box, uint32_t uid, struct guid *guid_r,
			     struct error *err);

	int (*body_open)(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
			 struct mail_body_info *info_r, struct error *err);
	ssize_t (*body_read)(struct mail_body *body, void *data, size_t size, struct error *err);
	void (*body_close)(struct mail_body *body);

	int (*spool_open)(struct mailbox *box, const char *guid, int64_t received,
			  struct mail_spool **spool_r, struct error *err);
	int (*spool_write)(struct mail_spool *spool, const void *data, size_t len,
			   struct error *err);
	void (*spool_discard)(struct mail_spool *spool);

	int (*begin)(struct mailbox *box, struct mailbox_txn **txn_r, struct error *err);
	int (*append)(struct mailbox_txn *txn, struct mail_spool **spool, const struct mail *mail,
		      int64_t saved, struct mail_pop3 pop3, struct error *err);
	int (*copy)(struct mailbox_txn *txn, uint32_t source_uid, const struct mail *mail,
		    struct error *err);
	int (*set_flags)(struct mailbox_txn *txn, uint32_t uid, uint8_t flags,
			 struct keyword_set keywords, uint64_t modseq, struct error *err);
	int (*expunge)(struct mailbox_txn *txn, uint32_t uid, struct error *err);
	int (*bury)(struct mailbox_txn *txn, uint32_t uid, const struct guid *guid,
		    struct error *err);
	int (*change_uid)(struct mailbox_txn *txn, uint32_t uid, uint32_t new_uid, uint64_t modseq,
			  struct error *err);
	int (*set_uid_validity)(struct mailbox_txn *txn, uint32_t uid_validity, struct error *err);
	int (*set_guid)(struct mailbox_txn *txn, const struct guid *guid, bool copied,
			struct error *err);
	int (*raise)(struct mailbox_txn *txn, uint32_t uid_next, uint64_t highest_modseq,
		     uint32_t first_recent_uid, struct error *err);
	int (*commit)(struct mailbox_txn *txn, bool *foreign_r, struct error *err);
	void (*abort)(struct mailbox_txn *txn);

	int (*catch_up)(struct mailbox *box, const struct mail_event *events, size_t count,
			bool *changed_r, struct error *err);
	/* Calls mailbox_note_missing(). */
	int (*scan)(struct mailbox *box, bool *changed_r, struct error *err);
	/* Calls mailbox_not_missing(). NULL: events tell of no files. */
	int (*explain_missing)(struct mailbox *box, const struct mail_event *events, size_t count,
			       struct error *err);
	/* NULL: events tell of no files. */
	int (*has_removal)(const struct mailbox *box, const struct mail_event *events, size_t count,
			   const char *const *guids, size_t guid_count, struct error *err);
	int (*settle)(struct mailbox *box, struct error *err); /* NULL: nothing is left */
};

extern const struct mailbox_format mailbox_format_maildir;
extern const struct mailbox_format mailbox_format_mdbox;
extern const struct mailbox_format mailbox_format_sdbox;

/* What is asked for in vain since a UID was changed (mailbox_late.c). */
int mailbox_carry_out_late(struct mailbox *box, bool *changed_r, struct error *err);

/* ---- store/mailbox.c, for the mailbox list ---- */

const struct mailbox_format *mailbox_format_of(const struct mail_user *user);
/* Where a mailbox lies; free with mailbox_spot_free(). */
struct mailbox_spot {
	const struct mailbox_format *format;
	char *mail, *control, *index, *storage_name;
	struct mailbox_place place;
};
int mailbox_spot_get(const struct mail_user *user, const char *name, struct mailbox_spot *spot_r,
		     struct error *err);
void mailbox_spot_free(struct mailbox_spot *spot);

/* A scan has found no file of this message. UIDs ascend. */
static inline int mailbox_note_missing(struct mailbox *box, uint32_t uid)
{
	if (box->missing_count == box->missing_room) {
		size_t room = box->missing_room ? box->missing_room * 2 : 16;
		uint32_t *uids = reallocarray(box->missing, room, sizeof *uids);

		if (!uids)
			return -ENOMEM;
		box->missing = uids;
		box->missing_room = room;
	}
	box->missing[box->missing_count++] = uid;
	return 0;
}

static inline void mailbox_not_missing(struct mailbox *box, uint32_t uid)
{
	size_t kept = 0;

	for (size_t i = 0; i < box->missing_count; i++) {
		if (box->missing[i] != uid)
			box->missing[kept++] = box->missing[i];
	}
	box->missing_count = kept;
}

#endif
