/* An index in a temporary directory, and short ways to say what a test does to it. */
#ifndef DSYNCFS_TESTS_INDEX_FIXTURE_H
#define DSYNCFS_TESTS_INDEX_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "store/base/buf.h"
#include "store/index/index.h"
#include "store/index/index_changes.h"
#include "store/index/index_files.h"
#include "store/index/index_txn.h"

struct fixture {
	char dir[256];
	int dirfd;
	struct index_options options;
};

int fixture_setup(void **state);
int fixture_teardown(void **state);

#define must(call, err) must_at(call, err, #call, __FILE__, __LINE__)
void must_at(int rc, const struct error *err, const char *what, const char *file, int line);

/* An empty index: UIDVALIDITY 42, next uid and initial modseq as given. */
void make_index(const struct fixture *fx, uint32_t next_uid, uint64_t initial_modseq);
struct index *open_index(const struct fixture *fx);
struct index_txn *begin(struct index *index);
void commit(struct index_txn **txn);

/* One transaction each. */
void append_uid(struct index *index, uint32_t uid, uint8_t flags);
void set_flags(struct index *index, uint32_t uid, uint8_t add, uint8_t remove);
void set_keyword(struct index *index, uint32_t uid, const char *name, bool add);
void expunge_uid(struct index *index, uint32_t uid);

/* "uid flags-in-hex modseq keyword keyword\n" for each message; without the modseq where that is
 * false. malloc'ed. */
char *describe(const struct index *index, bool with_modseq);
void assert_described(const struct index *index, bool with_modseq, const char *expected);
uint64_t highest(const struct index *index);
uint64_t log_offset(const struct index *index);

/* Files of the fixture. */
void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
char *shell_output(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void read_bytes(const char *path, struct buf *buf_r);
void write_bytes(const char *path, const void *data, size_t len);
void append_bytes(const struct fixture *fx, const char *file, const void *data, size_t len);
bool file_exists(const struct fixture *fx, const char *file);
/* Unpacks tests/index/samples/NAME.tar.gz into the fixture's directory. */
void unpack_sample(const struct fixture *fx, const char *name);

#define TEST(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

#endif
