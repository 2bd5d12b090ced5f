/* A directory in memory for fuzzers of what reads files; removed when the process ends. */
#ifndef DSYNCFS_TESTS_FUZZ_DIR_H
#define DSYNCFS_TESTS_FUZZ_DIR_H

#include <stdbool.h>
#include <stddef.h>

/* The same descriptor at each call. */
int fuzz_dir(void);
/* The file has these bytes, or (present false) is not there. */
void fuzz_put_file(const char *name, const void *data, size_t len, bool present);

#endif
