/*
 * Files that a scan found and that have no UID yet: of very many the first, in the order in which
 * they get their UIDs. A mailbox may have a million; the next ones are found by another pass.
 */
#ifndef DSYNCFS_MAILDIR_NEW_FILES_H
#define DSYNCFS_MAILDIR_NEW_FILES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/buf.h"
#include "store/maildir/maildir_name.h"

struct new_file {
	size_t place; /* of the base name */
	uint32_t drop_uid;
	uint32_t letters;
	uint8_t flags;
};

struct new_files {
	size_t max; /* not more than twice as many are held */
	struct new_file *list;
	size_t count, room;
	struct buf names; /* bases, each with its NUL */
	char *last;	  /* the base up to which all have been taken; NULL: none has */
	bool full;	  /* none that comes behind list[max - 1] is wanted */
	bool more;	  /* some were left out */
};

void new_files_init(struct new_files *files, size_t max);
void new_files_free(struct new_files *files);

/* drop_uid: the caller's. Nothing is done with what was taken before. -ENOMEM, -EMSGSIZE. */
int new_files_add(struct new_files *files, const struct maildir_name *name, uint32_t drop_uid);
/* After a pass: the first `max` of them, sorted, of two with one base name the one that was added
 * first. */
int new_files_select(struct new_files *files);
/* The file at `i`; name_r is like that of maildir_name_parse(), and valid until the next call of
 * anything else. Returns its drop_uid. */
uint32_t new_files_get(const struct new_files *files, size_t i, struct maildir_name *name_r);
/* Those that were selected are done with. *more_r: there are others, for another pass. */
int new_files_next(struct new_files *files, bool *more_r);

#endif
