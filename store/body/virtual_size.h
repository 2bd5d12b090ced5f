/* The size of a message as IMAP and POP3 show it: each line end counts as CR and LF. */
#ifndef DSYNCFS_BODY_VIRTUAL_SIZE_H
#define DSYNCFS_BODY_VIRTUAL_SIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of the next part of it. *last_was_cr is false before the first one. */
uint64_t virtual_size_of(const char *data, size_t len, bool *last_was_cr);

#endif
