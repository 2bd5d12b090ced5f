/* See index_fixture.h. */
#include "tests/index/index_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"

int fixture_setup(void **state)
{
	struct fixture *fx = calloc(1, sizeof(*fx));
	const char *tmp = getenv("TMPDIR");

	if (fx == NULL)
		return -1;
	snprintf(fx->dir, sizeof(fx->dir), "%s/index-test.XXXXXX", tmp != NULL ? tmp : "/tmp");
	if (mkdtemp(fx->dir) == NULL)
		return -1;
	fx->dirfd = open(fx->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fx->dirfd < 0)
		return -1;
	fx->options.label = "box";
	*state = fx;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *fx = *state;

	shell("rm -rf '%s'", fx->dir);
	close(fx->dirfd);
	free(fx);
	return 0;
}

void must_at(int rc, const struct error *err, const char *what, const char *file, int line)
{
	if (rc < 0)
		print_error("%s: %d (%s)\n", what, rc, err != NULL ? err->text : "");
	_assert_true(rc >= 0, what, file, line);
}

void make_index(const struct fixture *fx, uint32_t next_uid, uint64_t initial_modseq)
{
	struct index_create create = {
		.uid_validity = 42, .next_uid = next_uid, .initial_modseq = initial_modseq};
	struct error err = {0};

	must(index_create(fx->dirfd, &fx->options, &create, &err), &err);
}

struct index *open_index(const struct fixture *fx)
{
	struct index *index = NULL;
	struct error err = {0};

	must(index_open(fx->dirfd, &fx->options, &index, &err), &err);
	return index;
}

struct index_txn *begin(struct index *index)
{
	struct index_txn *txn = NULL;
	struct error err = {0};

	must(index_begin(index, 5000, &txn, &err), &err);
	return txn;
}

void commit(struct index_txn **txn)
{
	struct error err = {0};

	must(index_commit(txn, false, &err), &err);
}

void append_uid(struct index *index, uint32_t uid, uint8_t flags)
{
	struct index_txn *txn = begin(index);
	struct error err = {0};

	must(index_append(txn, uid, flags, &err), &err);
	commit(&txn);
}

void set_flags(struct index *index, uint32_t uid, uint8_t add, uint8_t remove)
{
	struct index_txn *txn = begin(index);
	struct error err = {0};

	must(index_update_flags(txn, uid, add, remove, &err), &err);
	commit(&txn);
}

void set_keyword(struct index *index, uint32_t uid, const char *name, bool add)
{
	struct index_txn *txn = begin(index);
	struct error err = {0};

	must(index_update_keyword(txn, uid, name, add, &err), &err);
	commit(&txn);
}

void expunge_uid(struct index *index, uint32_t uid)
{
	struct index_txn *txn = begin(index);
	struct error err = {0};

	must(index_expunge(txn, uid, NULL, &err), &err);
	commit(&txn);
}

char *describe(const struct index *index, bool with_modseq)
{
	struct buf text = BUF_INIT(64 << 20);
	struct index_record record;
	struct index_iter iter;

	index_iter_init(index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		const char *names[64];
		unsigned count = index_record_keywords(index, &record, names, 64);

		buf_printf(&text, "%u %02x", record.uid, record.flags);
		if (with_modseq)
			buf_printf(&text, " %llu", (unsigned long long)record.modseq);
		for (unsigned i = 0; i < count && i < 64; i++)
			buf_printf(&text, " %s", names[i]);
		buf_append_byte(&text, '\n');
	}
	assert_int_equal(iter.failed, 0);
	assert_int_equal(text.failed, 0);
	return text.data != NULL ? text.data : strdup("");
}

void assert_described(const struct index *index, bool with_modseq, const char *expected)
{
	char *text = describe(index, with_modseq);

	assert_string_equal(text, expected);
	free(text);
}

uint64_t highest(const struct index *index)
{
	struct index_status status;

	index_status(index, &status);
	return status.highest_modseq;
}

uint64_t log_offset(const struct index *index)
{
	struct index_position position;

	index_position(index, &position);
	return position.offset;
}

void shell(const char *fmt, ...)
{
	char command[4096];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	if (system(command) != 0) // NOLINT(cert-env33-c): the commands are the tests' own
		fail_msg("command failed: %s", command);
}

char *shell_output(const char *fmt, ...)
{
	struct buf out = BUF_INIT(16 << 20);
	char command[4096], part[4096];
	va_list args;
	FILE *pipe;
	size_t n;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	pipe = popen(command, "r"); // NOLINT(cert-env33-c)
	assert_non_null(pipe);
	while ((n = fread(part, 1, sizeof(part), pipe)) > 0)
		buf_append(&out, part, n);
	if (pclose(pipe) != 0)
		fail_msg("command failed: %s\n%s", command, buf_str(&out));
	return out.data != NULL ? out.data : strdup("");
}

void read_bytes(const char *path, struct buf *buf_r)
{
	buf_init(buf_r, 64 << 20);
	assert_int_equal(file_read_at(AT_FDCWD, path, buf_r), 0);
}

void write_bytes(const char *path, const void *data, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(file_write_all(fd, data, len), 0);
	close(fd);
}

void append_bytes(const struct fixture *fx, const char *file, const void *data, size_t len)
{
	int fd = openat(fx->dirfd, file, O_WRONLY | O_APPEND | O_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(file_write_all(fd, data, len), 0);
	close(fd);
}

bool file_exists(const struct fixture *fx, const char *file)
{
	struct stat st;

	return fstatat(fx->dirfd, file, &st, AT_SYMLINK_NOFOLLOW) == 0;
}

void unpack_sample(const struct fixture *fx, const char *name)
{
	shell("tar xzf '%s/%s.tar.gz' -C '%s' --no-same-owner --strip-components=1", TEST_SAMPLES,
	      name, fx->dir);
}
