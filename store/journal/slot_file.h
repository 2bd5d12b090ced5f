/*
 * A slot: 64 bytes of a file made in advance and overwritten in place, so that it can be written
 * when the disk is full, read by the other daemon without a lock, and outlives the LMDB
 * environments. Holds a magic, up to SLOT_PAYLOAD bytes and a checksum; a record that does not add
 * up is told from one that was never written.
 *
 * In state_dir/journal: "scan-everything" (the marker of design invariant 2), "consumed" (how far
 * dsyncd is), "node-id" and "store-id".
 */
#ifndef DSYNCFS_JOURNAL_SLOT_FILE_H
#define DSYNCFS_JOURNAL_SLOT_FILE_H

#include <stddef.h>
#include <stdint.h>

#define SLOT_PAYLOAD 36

/* Opens for writing, making the file with an all-zero payload (durable) where it is missing.
 * Returns the descriptor or a negative errno. */
int slot_open(int dirfd, const char *name);
/* Shorter payloads are filled up with zeros. Durable when it returns. */
int slot_write(int fd, const void *payload, size_t len);
/* -EBADMSG: the record is damaged. */
int slot_read(int fd, uint8_t payload_r[SLOT_PAYLOAD]);
/* Opens read-only, reads, closes; -ENOENT where there is none. */
int slot_read_at(int dirfd, const char *name, uint8_t payload_r[SLOT_PAYLOAD]);

#endif
