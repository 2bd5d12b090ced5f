/* Damage in an LMDB environment: all pages reachable, keys in order, counts right. See
 * lmdb_check.h. */
#include "store/journal/lmdb_check.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK_SECS_MAX 120
#define KEY_MAX	       511

/* Every record of a database: order, count, and whatever its owner wants to know. */
static bool db_is_sound(MDB_txn *txn, MDB_dbi dbi, unsigned db, lmdb_record_check_fn *check)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	MDB_stat st;
	unsigned char last[KEY_MAX];
	size_t count = 0, last_len = 0;
	int rc;

	if (mdb_stat(txn, dbi, &st) || mdb_cursor_open(txn, dbi, &cursor))
		return false;
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		int order;

		if (!key.mv_size || key.mv_size > sizeof last || ++count > st.ms_entries)
			return false;
		order = memcmp(last, key.mv_data, key.mv_size < last_len ? key.mv_size : last_len);
		if (last_len && (order > 0 || (order == 0 && key.mv_size <= last_len)))
			return false;
		memcpy(last, key.mv_data, key.mv_size);
		last_len = key.mv_size;
		if (check && !check(db, &key, &value))
			return false;
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND && count == st.ms_entries;
}

/* A page as it is in the file (LMDB 0.9): its number, two bytes, then what these say. */
#define PAGE_SIZE_MAX	 65536
#define PAGE_HEAD_SIZE	 16
#define PAGE_FLAGS_AT	 10
#define PAGE_LOWER_AT	 12 /* end of the array of where its nodes are */
#define PAGE_UPPER_AT	 14 /* beginning of the nodes */
#define PAGE_OVERFLOW_AT 12 /* in the place of both: how many pages it is */

enum page_flags { PAGE_BRANCH = 1, PAGE_LEAF = 2, PAGE_OVERFLOW = 4 };

static uint16_t page_get16(const unsigned char *page, size_t at)
{
	uint16_t value;

	memcpy(&value, page + at, sizeof value);
	return value;
}

/* Whether a node may be put into it, where it says that there is room. */
static bool nodes_are_sound(const unsigned char *page, size_t page_size)
{
	const size_t lower = page_get16(page, PAGE_LOWER_AT);
	const size_t upper = page_get16(page, PAGE_UPPER_AT);
	size_t first = page_size;

	if (lower < PAGE_HEAD_SIZE || lower % 2 != 0 || lower > upper || upper > page_size)
		return false;
	for (size_t at = PAGE_HEAD_SIZE; at < lower; at += 2) {
		const size_t node = page_get16(page, at);

		if (node < upper || node >= page_size)
			return false;
		if (node < first)
			first = node;
	}
	return upper == first;
}

/* Reading trusts the heads of pages less than writing does, which ends the process at a wrong one.
 * is_free: by number, up to last_pgno. */
static bool pages_are_sound(MDB_env *env, const unsigned char *is_free, size_t last_pgno)
{
	unsigned char page[PAGE_SIZE_MAX];
	MDB_stat st;
	int fd;

	if (mdb_env_stat(env, &st) || mdb_env_get_fd(env, &fd) || st.ms_psize < PAGE_HEAD_SIZE ||
	    st.ms_psize > sizeof page)
		return false;
	for (size_t pgno = 2; pgno <= last_pgno; pgno++) {
		uint32_t pages;
		size_t number;

		if (is_free[pgno])
			continue;
		if (pread(fd, page, st.ms_psize, (off_t)(pgno * st.ms_psize)) !=
		    (ssize_t)st.ms_psize)
			return false;
		memcpy(&number, page, sizeof number);
		if (number != pgno)
			return false;
		switch (page_get16(page, PAGE_FLAGS_AT)) {
		case PAGE_OVERFLOW:
			memcpy(&pages, page + PAGE_OVERFLOW_AT, sizeof pages);
			if (pages == 0 || pages > last_pgno - pgno + 1)
				return false;
			pgno += pages - 1;
			break;
		case PAGE_BRANCH:
		case PAGE_LEAF:
			if (!nodes_are_sound(page, st.ms_psize))
				return false;
			break;
		default:
			return false;
		}
	}
	return true;
}

/* The list of free pages is what the next write trusts most. is_free_r: by number, up to last_pgno.
 */
static bool free_list_is_sound(MDB_txn *txn, size_t last_pgno, unsigned char *is_free_r)
{
	MDB_cursor *cursor;
	MDB_val key, value;
	int rc;

	if (mdb_cursor_open(txn, 0, &cursor))
		return false;
	while ((rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		size_t n, pgno;

		if (key.mv_size != sizeof(size_t) || value.mv_size < sizeof n)
			return false;
		memcpy(&n, value.mv_data, sizeof n);
		if (n > value.mv_size / sizeof pgno - 1)
			return false;
		for (size_t i = 1; i <= n; i++) {
			memcpy(&pgno, (const char *)value.mv_data + i * sizeof pgno, sizeof pgno);
			if (pgno < 2 || pgno > last_pgno || is_free_r[pgno])
				return false;
			is_free_r[pgno] = 1;
		}
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND;
}

/* In the child. Nothing has to be released: it exits. */
static enum lmdb_check_result walk(const char *dir, const struct lmdb_layout *layout)
{
	MDB_env *env;
	MDB_txn *txn;
	MDB_envinfo info;
	unsigned char *is_free;
	/* Without the lock file: nobody else writes, and readers are not disturbed. */
	int rc = lmdb_env_create(dir, MDB_RDONLY | MDB_NOLOCK, &env);

	if (rc)
		return lmdb_is_damage(rc) ? LMDB_CHECK_DAMAGED : LMDB_CHECK_UNKNOWN;
	/* A file that was cut short shows by SIGBUS at the first page that is missing. Its length
	   proves nothing: pages at its end that were freed at once are never written. */
	rc = mdb_txn_begin(env, NULL, MDB_RDONLY, &txn);
	if (rc)
		return lmdb_is_damage(rc) ? LMDB_CHECK_DAMAGED : LMDB_CHECK_UNKNOWN;
	if (mdb_env_info(env, &info))
		return LMDB_CHECK_DAMAGED;
	is_free = calloc(info.me_last_pgno + 1, 1);
	if (!is_free)
		return LMDB_CHECK_UNKNOWN;
	if (!free_list_is_sound(txn, info.me_last_pgno, is_free) ||
	    !pages_are_sound(env, is_free, info.me_last_pgno))
		return LMDB_CHECK_DAMAGED;
	for (unsigned i = 0; i < LMDB_DBS_MAX && layout->names[i]; i++) {
		MDB_dbi dbi;

		rc = mdb_dbi_open(txn, layout->names[i], 0, &dbi);
		if (rc == MDB_NOTFOUND)
			continue; /* the writer was killed before it made this one */
		if (rc || !db_is_sound(txn, dbi, i, layout->check))
			return LMDB_CHECK_DAMAGED;
	}
	return LMDB_CHECK_OK;
}

static const int crash_signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGILL, SIGFPE};

static bool crashed(int sig)
{
	for (size_t i = 0; i < sizeof crash_signals / sizeof crash_signals[0]; i++) {
		if (crash_signals[i] == sig)
			return true;
	}
	return false;
}

enum lmdb_check_result lmdb_check(const char *dir, const struct lmdb_layout *layout)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return LMDB_CHECK_UNKNOWN;
	if (pid == 0) {
		int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
		sigset_t none;

		/* It may crash, and its complaints are no one's. */
		if (null >= 0)
			dup2(null, STDERR_FILENO);
		for (size_t i = 0; i < sizeof crash_signals / sizeof crash_signals[0]; i++)
			signal(crash_signals[i], SIG_DFL);
		signal(SIGALRM, SIG_DFL);
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		alarm(CHECK_SECS_MAX);
		_exit((int)walk(dir, layout));
	}
	while (waitpid(pid, &status, 0) < 0) {
		if (errno != EINTR)
			return LMDB_CHECK_UNKNOWN;
	}
	/* Killed for another reason (no memory, too slow a disk) says nothing about the file. */
	if (WIFSIGNALED(status))
		return crashed(WTERMSIG(status)) ? LMDB_CHECK_DAMAGED : LMDB_CHECK_UNKNOWN;
	switch (WEXITSTATUS(status)) {
	case LMDB_CHECK_OK:
		return LMDB_CHECK_OK;
	case LMDB_CHECK_UNKNOWN:
		return LMDB_CHECK_UNKNOWN;
	default:
		return LMDB_CHECK_DAMAGED;
	}
}
