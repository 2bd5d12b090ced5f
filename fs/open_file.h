/*
 * Files and directories that clients of the mount have open.
 *
 * A file handle (fi->fh) is this process's generation and an index, so that a successor tells a
 * predecessor's handles from its own and never touches a descriptor that only looks like one of
 * its.
 *
 * open_files_add() and open_files_remove() are thread-safe; open_file_get() takes no lock, since
 * the kernel sends no request for a handle before it has it, or after its release.
 */
#ifndef DSYNCFS_FS_OPEN_FILE_H
#define DSYNCFS_FS_OPEN_FILE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>
#include "fs/place.h"

struct open_files;

struct open_file {
	int fd; /* -1: a directory that nobody has read yet */
	bool used;

	/* A message made by open(2) directly in cur/ or new/: it is delivered when it is closed. */
	struct place *place;   /* its directory, with a reference; NULL: none such */
	struct dirty_box *box; /* its mailbox, which stays dirty until then */
	char *name;
	uint32_t origin;
	pid_t creator;
	bool told;		   /* a close was told already, when the file was like this: */
	off_t told_size;	   /* its size, */
	struct timespec told_time; /* and when it was written to */

	/* A directory's inode; of a file, the one among whose openers it is counted (0: none). */
	uint64_t nodeid;
	int backing_id; /* pass-through; 0: it is copied */

	/* Directories. */
	pthread_mutex_t lock; /* reads of one open directory come one at a time */
	char *entries;	      /* what getdents64 gave */
	size_t entries_len;
	size_t entries_pos;
	int64_t offset; /* of the entry at entries_pos */
	bool kept;	/* the kernel keeps what it lists: inode_listing_open() */
};

/* NULL when out of memory. */
struct open_files *open_files_create(void);
/* Closes what is open. */
void open_files_free(struct open_files **files);

/* Takes fd over. NULL: out of memory; fd stays the caller's. */
struct open_file *open_files_add(struct open_files *files, int fd, uint64_t *fh_r);
/* NULL: not a handle of this process. */
struct open_file *open_file_get(struct open_files *files, uint64_t fh);
/* Closes it. What place refers to must have been let go of. */
void open_files_remove(struct open_files *files, uint64_t fh);

/* Calls each() for every open file; for the end, when no request is served any more. */
void open_files_each(struct open_files *files, void (*each)(void *ctx, struct open_file *file),
		     void *ctx);

#endif
