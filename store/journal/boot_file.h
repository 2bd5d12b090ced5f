/*
 * A mapped file of state_dir that counts as long as the machine runs: what was written to it is
 * there after a kill -9, at the cost of a memory copy, and worth nothing after a reboot, since the
 * disk has got of it what it liked.
 */
#ifndef DSYNCFS_JOURNAL_BOOT_FILE_H
#define DSYNCFS_JOURNAL_BOOT_FILE_H

#include <stddef.h>

/* At the file's beginning. */
struct boot_file {
	char magic[32]; /* with the version of what follows */
	char boot_id[64];
};

/* Maps size bytes, all of them allocated, header included; where the file is missing, of another
 * magic or another boot, all but the header is 0. Until munmap(). Negative errno. */
int boot_file_map(int dir_fd, const char *name, const char *magic, size_t size,
		  struct boot_file **file_r);
/* All but the header is 0 again. */
void boot_file_clear(struct boot_file *file, size_t size);

#endif
