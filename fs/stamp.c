/* What the directory of a clean mailbox looks like. See stamp.h. */
#include "fs/stamp.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include "fs/place.h"
#include "store/base/digest.h"
#include "store/base/file.h"

#define DIGEST_BYTES (JOURNAL_STAMP_SIZE - sizeof(uint32_t))

static const char *const names[] = {"new", "cur", "dovecot-uidlist", "dovecot.index.log"};
#define NAMES	  (sizeof names / sizeof names[0])
#define INDEX_LOG (NAMES - 1)

/* All fields have the same size, so that no padding is digested. */
struct look {
	uint64_t ino, size;
	int64_t mtime_s, mtime_ns, ctime_s, ctime_ns;
};

static int look_at(int dir_fd, const char *name, struct look *look_r)
{
	struct stat st;

	memset(look_r, 0, sizeof *look_r);
	if (fstatat(dir_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
	*look_r = (struct look){
		.ino = st.st_ino,
		.size = (uint64_t)st.st_size,
		.mtime_s = st.st_mtim.tv_sec,
		.mtime_ns = st.st_mtim.tv_nsec,
		.ctime_s = st.st_ctim.tv_sec,
		.ctime_ns = st.st_ctim.tv_nsec,
	};
	return 0;
}

int stamp_take(int root_fd, const char *home, const char *dir, struct journal_stamp *stamp_r)
{
	char path[2 * PLACE_PATH_MAX];
	uint8_t digest[DIGEST_SHA1_SIZE];
	struct look looks[NAMES];
	struct stat st;
	uint32_t dirs;
	AUTO_CLOSE int fd = -1;

	snprintf(path, sizeof path, "%s%s%s", home, home[0] && dir[0] ? "/" : "", dir);
	fd = path[0] ? file_open_beneath(root_fd, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0)
		     : openat(root_fd, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return path[0] ? fd : -errno;
	if (fstat(fd, &st) < 0)
		return -errno;
	for (size_t i = 0; i < NAMES; i++) {
		int rc = look_at(fd, names[i], &looks[i]);

		if (rc < 0)
			return rc;
	}
	/* A dbox mailbox has nothing but this. */
	if (looks[INDEX_LOG].ino == 0) {
		int rc = look_at(fd, "dbox-Mails/dovecot.index.log", &looks[INDEX_LOG]);

		if (rc < 0)
			return rc;
	}
	digest_sha1(looks, sizeof looks, digest);
	dirs = (uint32_t)st.st_nlink;
	memcpy(stamp_r->bytes, digest, DIGEST_BYTES);
	memcpy(stamp_r->bytes + DIGEST_BYTES, &dirs, sizeof dirs);
	return 0;
}

enum stamp_difference stamp_compare(const struct journal_stamp *a, const struct journal_stamp *b)
{
	if (memcmp(a->bytes + DIGEST_BYTES, b->bytes + DIGEST_BYTES,
		   sizeof a->bytes - DIGEST_BYTES) != 0)
		return STAMP_OTHER_DIRS;
	return memcmp(a->bytes, b->bytes, DIGEST_BYTES) != 0 ? STAMP_OTHER_MAIL : STAMP_SAME;
}
