/*
 * When the filesystem of the mail was mounted. Who was in the middle of something then has lost its
 * open files, and has given up: it could not even remove its locks.
 */
#ifndef DSYNCFS_BASE_MOUNTED_H
#define DSYNCFS_BASE_MOUNTED_H

#include <stdint.h>

/* Milliseconds since the epoch, of the process's clock. To be said by a process that has found it
 * out, before it opens any mailbox. */
void mounted_set(int64_t when);
/* 0, which is before everything: nobody has said it. */
int64_t mounted_at(void);

#endif
