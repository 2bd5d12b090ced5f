/* What the two halves of a rebuild share: files and map, and the mailboxes. See mdbox_rebuild.c. */
#ifndef DSYNCFS_MDBOX_REBUILD_H
#define DSYNCFS_MDBOX_REBUILD_H

#include "store/dbox/dbox_private.h"

/* A message in a file. */
struct found {
	struct guid guid;
	struct mdbox_entry entry; /* map_uid 0: not in the map; ref as counted anew */
	const char *mailbox;	  /* B */
	uint32_t size;		  /* as it was found: copies have the same */
	int64_t received;
	bool alt;
	bool busy;     /* somebody is adding to its file */
	bool move;     /* out of its file */
	bool is_new;   /* not in the map */
	bool was_dead; /* the map said that nobody refers to it */
	bool orphan;   /* goes to its mailbox */
	bool nameless; /* it has lost its GUID: guid is a new one, and the map UID tells it */
};

struct broken {
	uint32_t file_id;
	bool alt;
	int fd; /* locked: nobody adds to it any more */
};

struct rebuild {
	const struct mailbox_place *place; /* of any mailbox of the storage */
	struct mdbox_storage *storage;
	int lock_fd;	     /* of a damaged map; else -1 */
	struct found *found; /* by GUID, of one GUID by place */
	size_t count, room;
	struct uid_table by_map_uid; /* position in found, counted from 1 */
	char **names;
	size_t name_count;
	struct broken *broken;
	size_t broken_count;
	uint32_t highest_file, rebuild_count, next_map_uid;
	size_t orphans;
};

/* The message that a record of a mailbox means; NULL: it is nowhere. */
struct found *mdbox_rebuild_find(const struct rebuild *rebuild, const struct guid *guid,
				 uint32_t map_uid);
int mdbox_rebuild_map(struct rebuild *rebuild, struct index_txn *txn, struct error *err);
void mdbox_rebuild_set_aside(const struct rebuild *rebuild);

/* ---- mdbox_rebuild_boxes.c ---- */

/* Counts the references, and decides about messages that nobody has. */
int mdbox_rebuild_count(struct rebuild *rebuild, struct error *err);
/* Writes every mailbox. */
int mdbox_rebuild_boxes(struct rebuild *rebuild, struct error *err);

#endif
