/*
 * Reading a message body that may be compressed as a whole, as Dovecot's zlib and mail_compress
 * plugins do: gzip, bzip2, zstd, or Dovecot's LZ4 framing (reference 1.3). Recognised by the first
 * bytes.
 *
 * Memory is bounded whatever the file says. -EBADMSG: the compressed data is damaged or ends early.
 */
#ifndef DSYNCFS_BODY_DECOMPRESS_H
#define DSYNCFS_BODY_DECOMPRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct decompress;

#define DECOMPRESS_WHOLE UINT64_MAX
/* Reads size bytes of fd from offset on (DECOMPRESS_WHOLE: up to the file's end), without moving
 * its position; fd stays the caller's and must outlive the object. plain: do not look for
 * compression. 0 or a negative errno. */
int decompress_open(int fd, uint64_t offset, uint64_t size, bool plain, struct decompress **in_r);
/* Whether it looked compressed. */
bool decompress_is_compressed(const struct decompress *in);
/* Bytes read, 0 at the end, or a negative errno. */
ssize_t decompress_read(struct decompress *in, void *data, size_t size);
void decompress_close(struct decompress **in);

#endif
