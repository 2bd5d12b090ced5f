/* Other processes of this machine. */
#ifndef DSYNCFS_PROCESS_H
#define DSYNCFS_PROCESS_H

#include <stdbool.h>
#include <sys/types.h>

/* Whether the process can still do anything. A zombie can not, and may stay for long where its
 * parent died too. True when it cannot be told. */
bool process_is_alive(pid_t pid);

#endif
