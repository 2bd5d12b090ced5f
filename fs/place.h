/*
 * What a name is for mail: computed from where its directory is, never from what a file holds.
 *
 * Every directory that the kernel knows has a place: a node with a name that points to its parent's
 * place. So renaming a directory moves everything below it in one step, and asking where something
 * is costs a walk of a few pointers. Places know homes (the directories home_depth levels below the
 * root), Maildir's cur, new and tmp and dbox's dbox-Mails; they know no mail locations: mapping a
 * directory to a mailbox is the store's.
 *
 * Thread-safe. After a hand-over to a successor places can be made again from the names that the
 * kernel has for the directories' handles, so they need not be in the inode table's memory.
 */
#ifndef DSYNCFS_FS_PLACE_H
#define DSYNCFS_FS_PLACE_H

#include <stdbool.h>
#include <stdint.h>

struct places;
struct dirty_box;

enum place_role {
	PLACE_ABOVE, /* above the homes */
	PLACE_DIR, /* a home, or a directory below one: may be a mailbox, hold indexes, anything */
	PLACE_CUR, /* cur/ of the mailbox directory `box` */
	PLACE_NEW, /* new/ */
	PLACE_TMP, /* tmp/ */
	PLACE_MAILS,  /* dbox-Mails/ of the dbox mailbox directory `box`: its index, messages of
			 sdbox */
	PLACE_INSIDE, /* below a cur, new, tmp or dbox-Mails, or deeper than a path can say: no mail
			 is looked for */
};

/* What a file is by its name and its directory's role. */
enum place_file {
	PLACE_FILE_OTHER,
	PLACE_FILE_MESSAGE,	 /* in cur/ or new/, not a dot file */
	PLACE_FILE_TMP,		 /* in tmp/ */
	PLACE_FILE_UIDLIST,	 /* dovecot-uidlist */
	PLACE_FILE_UIDLIST_LOCK, /* dovecot-uidlist.lock */
	PLACE_FILE_KEYWORDS,	 /* dovecot-keywords */
	PLACE_FILE_INDEX_LOG,	 /* dovecot.index.log, .log.2, .log.newlock */
	PLACE_FILE_OTHER_LOG,	 /* other dovecot*.index.log*: a log, and no mailbox's */
	PLACE_FILE_SUBSCRIPTIONS,
	PLACE_FILE_MAILBOX_LOG, /* dovecot.mailbox.log* */
	PLACE_FILE_SHARED, /* m.N of mdbox, and what will become one: several append to it, under
			      its lock */
};

struct place {
	struct place *parent; /* NULL: the root */
	char *name;
	unsigned refs;
	struct dirty_box *dirty;  /* owned and guarded by dirty.c; NULL: not known to be dirty */
	_Atomic uint64_t removal; /* observe.c's: the journal's ticket of the last removal from it,
				     or of a directory's rename from or to it */
};

#define PLACE_PATH_MAX 4096

/* Where something is, with a reference to the mailbox's place until place_release(). */
struct place_path {
	enum place_role role; /* of the directory asked about */
	struct place *box;    /* the directory itself, or for cur, new, tmp and dbox-Mails the one
				 they are in; NULL above homes and inside of those */
	unsigned depth;	      /* of the directory below its home; 0: the home itself */
	const char *home;     /* relative to the root, "example.org/alice"; above homes the
				 directory's own path */
	const char *dir;      /* of box, relative to the home; "" is the home itself */
	char text[PLACE_PATH_MAX];
};

/* NULL when out of memory. */
struct places *places_create(unsigned home_depth);
void places_free(struct places **places);
unsigned places_home_depth(const struct places *places);

/* The root's place; belongs to places. */
struct place *place_root(struct places *places);
/* A new place below parent, with one reference for the caller. NULL when out of memory. */
struct place *place_child(struct places *places, struct place *parent, const char *name);
void place_ref(struct places *places, struct place *place);
/* NULL is accepted. The last reference frees, and lets go of the parent. */
void place_unref(struct places *places, struct place *place);

/* Until places_names_unlock() no directory is renamed: where something is it stays. For the time of
 * a push, so that an event names what its mailbox is called at that position of the journal. */
void places_names_lock(struct places *places);
void places_names_unlock(struct places *places);
/* A directory's rename is taken in, and told, by one thread at a time and while nobody has locked
 * the names: not to be called by one who has. Nothing is to be waited for in between. */
void places_rename_begin(struct places *places);
void places_rename_end(struct places *places);

/* The directory was renamed. -ENOMEM leaves it as it was. */
int place_move(struct places *places, struct place *place, struct place *new_parent,
	       const char *new_name);
/* Two directories changed places (RENAME_EXCHANGE). */
void place_swap(struct places *places, struct place *a, struct place *b);
/* place is at or below top. */
bool place_is_below(struct places *places, const struct place *place, const struct place *top);

/* Where a directory is. */
void place_locate(struct places *places, struct place *place, struct place_path *path_r);
/* Where the directory `name` in parent is or would be, whether it has a place or not; box is that
 * of the parent (a mailbox's own place is not known here), so use it for the text only. */
void place_locate_child(struct places *places, struct place *parent, const char *name,
			struct place_path *path_r);
void place_release(struct places *places, struct place_path *path);

/* What the file `name` in a directory of this role is. */
enum place_file place_file_kind(enum place_role role, const char *name);
/* Appends to it must be seen one by one. */
bool place_file_is_log(enum place_file kind);
/* Its data never passes the mount by: because writes must be seen, or because writers exclude each
 * other by a lock that is the mount's. A process that outlives its mount holds a lock that nobody
 * else can see, and must not be able to write any more. */
bool place_file_is_ours(enum place_file kind);
/* A write to it is an event. */
bool place_file_is_watched(enum place_file kind);
/* The part of a mailbox whose making makes it one: cur, dbox-Mails. */
bool place_role_is_mailbox(enum place_role role);
/* cur, new, tmp, dbox-Mails */
bool place_role_is_part(enum place_role role);

#endif
