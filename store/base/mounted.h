/*
 * When the filesystem of the mail was mounted. Who took a lock in it before then has lost its open
 * files since, the lock's among them, and could not remove it.
 */
#ifndef DSYNCFS_BASE_MOUNTED_H
#define DSYNCFS_BASE_MOUNTED_H

#include <time.h>

/* To be said by a process that has found it out, before it takes its first lock; of the process's
 * clock. */
void mounted_set(time_t when);
/* 0, which is before all locks: nobody has said it. */
time_t mounted_at(void);

#endif
