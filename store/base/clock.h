/* Times in milliseconds. */
#ifndef DSYNCFS_BASE_CLOCK_H
#define DSYNCFS_BASE_CLOCK_H

#include <stdint.h>
#include <time.h>

int64_t timespec_ms(struct timespec when);
/* What the clock says now; 0 where there is no such clock. */
int64_t clock_ms(clockid_t clock);

#endif
