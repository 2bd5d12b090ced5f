/*
 * New files and directories that Dovecot can open: with the owner, group and permission bits of the
 * directory they are made in.
 */
#ifndef DSYNCFS_BASE_OWNED_FILE_H
#define DSYNCFS_BASE_OWNED_FILE_H

#include <stdbool.h>

/* Opens name below dirfd with O_CREAT and flags, never through a symbolic link. Permissions are the
 * directory's & 0666; owner and group follow the directory as far as we may. Returns the descriptor
 * or a negative errno. */
int owned_file_create(int dirfd, const char *name, int flags);
/* Makes a directory, or leaves the one that is there. */
int owned_dir_make(int dirfd, const char *name);
/* Opens an absolute path (O_PATH). make: with what is missing of it. A descriptor or a negative
 * errno. */
int owned_dir_open(const char *path, bool make);

#endif
