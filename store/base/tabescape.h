/*
 * Tab escaping, as Dovecot's line protocols and the subscriptions file use it:
 * NUL, 0x01, TAB, LF, CR become 0x01 followed by 0 1 t n r.
 */
#ifndef DSYNCFS_BASE_TABESCAPE_H
#define DSYNCFS_BASE_TABESCAPE_H

#include <stddef.h>
#include "store/base/buf.h"

int tabescape_append(struct buf *buf, const char *data, size_t len);

/* Decodes in place and adds a NUL; returns the new length (never longer). 0x01 followed by anything
 * else gives that byte; a 0x01 at the very end is dropped. */
size_t tabunescape(char *data, size_t len);

#endif
