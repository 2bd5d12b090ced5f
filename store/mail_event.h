/*
 * What happened to mail: the events that the mount observes, the journal keeps and catch-up
 * consumes.
 *
 * The mount knows places, not formats: it names the home (relative to the mount's root, for example
 * "example.org/alice") and directories relative to that home ("Maildir/.Work",
 * "mdbox/mailboxes/Work"; "" is the home itself). The store maps a directory to a mailbox, since
 * only it knows the user's mail location.
 *
 * An event is a hint where to look plus evidence of what was seen (an unlink, a rmdir). Catch-up
 * reads the mailbox to learn what is true now; only an observed removal can make absence an
 * expunge.
 */
#ifndef DSYNCFS_MAIL_EVENT_H
#define DSYNCFS_MAIL_EVENT_H

#include <stdint.h>

enum mail_event_kind {
	/* A message file appeared in dir/new or dir/cur. name: its file name. */
	MAIL_EVENT_DELIVERED = 1,
	/* A message file changed its name inside one mailbox: flags, or new/ to cur/. name: old,
	   name2: new. */
	MAIL_EVENT_RENAMED = 2,
	/* A message file was unlinked, replaced, or moved out of the mailbox. name: its file name.
	 */
	MAIL_EVENT_REMOVED = 3,
	/* uidlist, keywords or index log of dir were written, or its uidlist lock was released. */
	MAIL_EVENT_TOUCHED = 4,
	/* The mailbox dir has to be scanned: events were lost or too many. */
	MAIL_EVENT_RESCAN = 5,
	/* A directory below the home appeared that is or may become a mailbox (its cur/ or its
	 * dbox-Mails/ was made). */
	MAIL_EVENT_DIR_CREATED = 6,
	/* A directory was renamed within the home. dir: old path, name: new path relative to the
	   home. */
	MAIL_EVENT_DIR_RENAMED = 7,
	/* A directory was removed. */
	MAIL_EVENT_DIR_REMOVED = 8,
	/* The subscriptions file or the mailbox log in dir was written or replaced. */
	MAIL_EVENT_LIST_TOUCHED = 9,
	/* The whole home has to be scanned. dir is "". */
	MAIL_EVENT_RESCAN_HOME = 10,
};

/* All strings are owned by whoever filled the struct; "" where a kind has no use for one, never
 * NULL. */
struct mail_event {
	uint64_t seq; /* position in the journal; assigned by it, strictly increasing, never reused
		       */
	int64_t time; /* UTC seconds, when it was observed */
	uint32_t origin; /* 0: a program on this node; else the token a worker announced (see
			    journal.h) */
	enum mail_event_kind kind;
	const char *home;
	const char *dir;
	const char *name;
	const char *name2;
};

#endif
