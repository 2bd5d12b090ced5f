/* What the parts of the uidlist share: the map, and how a line is read. */
#ifndef DSYNCFS_MAILDIR_UIDLIST_PRIVATE_H
#define DSYNCFS_MAILDIR_UIDLIST_PRIVATE_H

#include <sys/types.h>
#include "store/base/map_window.h"
#include "store/maildir/uidlist.h"

struct uidlist {
	int dirfd; /* not ours */
	int fd;
	char *what;
	const char *map; /* longer than the file, so that appended lines appear in it */
	size_t map_size;
	struct map_window *window; /* of the map; to be asked before lines are read */
	size_t size;		   /* of the file when last looked at */
	size_t body;		   /* where the first line after the header starts */
	size_t end;		   /* behind the last complete line */
	uint64_t generation;
	dev_t dev;
	ino_t ino;
	struct uidlist_header header;
	char header_tail[UIDLIST_FIELDS_MAX]; /* the header's other keys: " Pvalue Xvalue" */
	struct uidlist_names *names;	      /* uidlist_names.c; NULL: not made */
	unsigned passes;		      /* over the whole list, for want of it */
	bool keeps_before;
	struct uidlist *before; /* see uidlist_keep_before() */
};

/* Whether names can be looked up in the table; makes it when it is worth it. */
bool uidlist_names_ready(struct uidlist *list, struct error *err);
/* As uidlist_find_bases(), for one. */
int uidlist_names_find(const struct uidlist *list, struct uidlist_query *query, struct error *err);
void uidlist_names_free(struct uidlist *list);

/* The line [start, start + len) without its LF. 0 or -EUCLEAN. */
int uidlist_parse_line(unsigned version, const char *start, size_t len,
		       struct uidlist_record *record_r);
/* Fills header_r from the first line. tail may be NULL. 0 or -EUCLEAN. */
int uidlist_parse_header(const char *line, size_t len, struct uidlist_header *header_r, char *tail,
			 size_t tail_size);
/* Start of the line that contains offset (which is not beyond list->end). */
size_t uidlist_line_start(const struct uidlist *list, size_t offset);
/* -EUCLEAN, with the line in err. */
int uidlist_bad_line(const struct uidlist *list, size_t offset, const char *why, struct error *err);

#endif
