/*
 * A file with all that went over a stream, line by line with time and direction, as Dovecot's
 * dsync writes it for -r: "<seconds>.<microseconds> I: <line>" for what came, O: for what went.
 *
 * It is for people who look for a fault: where it cannot be written that is said once, and the
 * session goes on without it.
 */
#ifndef DSYNCFS_SYNC_RAW_LOG_H
#define DSYNCFS_SYNC_RAW_LOG_H

#include <stddef.h>
#include "store/base/error.h"

struct raw_log;

enum raw_log_direction { RAW_LOG_IN, RAW_LOG_OUT };

/* What is in the file stays. Bodies of mail get into it: only its owner may read it. */
int raw_log_open(const char *path, struct raw_log **log_r, struct error *err);
/* log may be NULL. */
void raw_log_add(struct raw_log *log, enum raw_log_direction direction, const char *data,
		 size_t len);
void raw_log_close(struct raw_log **log);

#endif
