/* LMDB environments: open, close, move aside. lmdb_check.c looks for damage. See lmdb_env.h. */
#include "store/journal/lmdb_env.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/journal/lmdb_check.h"

/* Large and sparse from the start: growing later would disturb readers. */
#define MAP_SIZE_WANTED (sizeof(void *) > 4 ? (size_t)1 << 36 : (size_t)1 << 29)
#define MAP_SIZE_MIN	((size_t)1 << 24)
#define MAP_SIZE_MAX	(sizeof(void *) > 4 ? (size_t)1 << 40 : (size_t)1 << 30)
#define READERS_MAX	64
/* Damaged copies are kept for whoever wants to look, but not without end. */
#define DAMAGED_KEPT 4

int lmdb_errno(int rc)
{
	switch (rc) {
	case MDB_SUCCESS:
		return 0;
	case MDB_NOTFOUND:
		return -ENOENT;
	case MDB_MAP_FULL:
		return -ENOSPC;
	case MDB_TXN_FULL:
		return -E2BIG;
	case MDB_READERS_FULL:
	case MDB_MAP_RESIZED:
		return -EAGAIN;
	case MDB_BAD_VALSIZE:
		return -EINVAL;
	default:
		return rc > 0 ? -rc : -EUCLEAN;
	}
}

bool lmdb_is_damage(int rc)
{
	return lmdb_errno(rc) == -EUCLEAN;
}

int lmdb_env_create(const char *dir, unsigned flags, MDB_env **env_r)
{
	size_t size = MAP_SIZE_WANTED;

	/* A limit on address space (ulimit -v, a container) may refuse the large map. */
	for (;;) {
		MDB_env *env = NULL;
		int rc = mdb_env_create(&env);

		if (rc)
			return rc;
		rc = mdb_env_set_maxdbs(env, LMDB_DBS_MAX);
		if (!rc)
			rc = mdb_env_set_maxreaders(env, READERS_MAX);
		if (!rc)
			rc = mdb_env_set_mapsize(env, size);
		if (!rc)
			rc = mdb_env_open(env, dir, flags | MDB_NORDAHEAD, 0600);
		if (!rc) {
			*env_r = env;
			return 0;
		}
		mdb_env_close(env);
		if (rc != ENOMEM || size <= MAP_SIZE_MIN)
			return rc;
		size /= 2;
	}
}

/* How many damaged copies of base lie in parent. */
static unsigned count_damaged(const char *parent, const char *base)
{
	AUTO_DIR DIR *stream = opendir(parent);
	size_t base_len = strlen(base);
	struct dirent *entry;
	unsigned count = 0;

	if (!stream)
		return 0;
	while ((entry = readdir(stream)) != NULL)
		count += strncmp(entry->d_name, base, base_len) == 0 &&
			 strncmp(entry->d_name + base_len, ".damaged.", 9) == 0;
	return count;
}

static int move_aside(const char *dir, struct error *err)
{
	char parent[PATH_MAX], aside[PATH_MAX];
	const char *base = strrchr(dir, '/') + 1;

	snprintf(parent, sizeof parent, "%.*s", (int)(base - dir), dir);
	if (count_damaged(parent, base) >= DAMAGED_KEPT) {
		AUTO_CLOSE int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		int rc = fd < 0 ? -errno : file_remove_tree(fd, base);

		if (rc < 0)
			return error_errno(err, rc, "journal %s is damaged and cannot be removed",
					   dir);
		log_error("journal %s is damaged again: removed and made anew; everything will be "
			  "scanned (%d damaged copies lie beside it already)",
			  dir, DAMAGED_KEPT);
		return 0;
	}
	for (unsigned i = 0; i < 100; i++) {
		int len = snprintf(aside, sizeof aside, "%s.damaged.%lld", dir,
				   (long long)time(NULL) + i);

		if (len < 0 || (size_t)len >= sizeof aside)
			return error_set(err, -ENAMETOOLONG, "journal %s: path too long", dir);
		if (access(aside, F_OK) == 0)
			continue;
		if (rename(dir, aside) < 0)
			return error_errno(err, -errno,
					   "journal %s is damaged and cannot be moved to %s", dir,
					   aside);
		log_error("journal %s is damaged: moved to %s and made anew; everything will be "
			  "scanned",
			  dir, aside);
		return 0;
	}
	return error_set(err, -EEXIST, "journal %s is damaged and no name is free for the copy",
			 dir);
}

static int remember_file(struct lmdb_env *env)
{
	mdb_filehandle_t fd;
	struct stat st;
	int rc = mdb_env_get_fd(env->env, &fd);

	if (rc)
		return rc;
	if (fstat(fd, &st) < 0)
		return errno;
	env->dev = st.st_dev;
	env->ino = st.st_ino;
	return 0;
}

/* Opens the named databases; a reader finds fewer of them while the writer makes the first ones. */
static int open_dbs(struct lmdb_env *env, bool writer)
{
	MDB_txn *txn;
	int rc = mdb_txn_begin(env->env, NULL, writer ? 0 : MDB_RDONLY, &txn);

	if (rc)
		return rc;
	for (unsigned i = 0; i < LMDB_DBS_MAX && env->layout->names[i]; i++) {
		rc = mdb_dbi_open(txn, env->layout->names[i], writer ? MDB_CREATE : 0,
				  &env->dbi[i]);
		if (rc) {
			mdb_txn_abort(txn);
			return rc;
		}
	}
	return mdb_txn_commit(txn);
}

static int env_init(struct lmdb_env *env, const char *dir, const struct lmdb_layout *layout,
		    struct error *err)
{
	int len = snprintf(env->dir, sizeof env->dir, "%s", dir);

	env->layout = layout;
	env->env = NULL;
	if (len < 0 || (size_t)len >= sizeof env->dir || !strchr(dir, '/'))
		return error_set(err, -EINVAL, "journal %s: not a usable path", dir);
	return 0;
}

/* One attempt. LMDB's code. */
static int try_open(struct lmdb_env *env, bool writer)
{
	int rc = lmdb_env_create(env->dir, writer ? 0 : MDB_RDONLY, &env->env);

	if (rc)
		return rc;
	rc = remember_file(env);
	if (!rc)
		rc = open_dbs(env, writer);
	if (!rc && writer) {
		int dead;

		/* Slots of readers that were killed would keep old pages from being used again. */
		rc = mdb_reader_check(env->env, &dead);
	}
	if (rc)
		lmdb_env_close(env);
	return rc;
}

int lmdb_env_open_writer(const char *dir, const struct lmdb_layout *layout, struct lmdb_env *env_r,
			 bool *fresh_r, struct error *err)
{
	char data[PATH_MAX + 16];
	int rc = env_init(env_r, dir, layout, err);

	*fresh_r = false;
	if (rc < 0)
		return rc;
	snprintf(data, sizeof data, "%s/data.mdb", dir);
	for (int attempt = 0; attempt < 2; attempt++) {
		bool damaged = false;

		if (mkdir(dir, 0700) < 0 && errno != EEXIST)
			return error_errno(err, -errno, "journal %s: cannot make the directory",
					   dir);
		if (access(data, F_OK) < 0)
			*fresh_r = true;
		else
			damaged = lmdb_check(dir, layout) == LMDB_CHECK_DAMAGED;
		rc = damaged ? MDB_CORRUPTED : try_open(env_r, true);
		if (!rc)
			return 0;
		if (!lmdb_is_damage(rc) || attempt > 0)
			break;
		rc = move_aside(dir, err);
		if (rc < 0)
			return rc;
	}
	return error_set(err, lmdb_errno(rc), "journal %s: %s", dir, mdb_strerror(rc));
}

int lmdb_env_open_reader(const char *dir, const struct lmdb_layout *layout, struct lmdb_env *env_r,
			 struct error *err)
{
	int rc = env_init(env_r, dir, layout, err);

	if (rc < 0)
		return rc;
	rc = try_open(env_r, false);
	if (!rc)
		return 0;
	/* Its databases are missing only while the writer is just making it. */
	return error_set(err, rc == MDB_NOTFOUND ? -ENOENT : lmdb_errno(rc), "journal %s: %s", dir,
			 mdb_strerror(rc));
}

void lmdb_env_close(struct lmdb_env *env)
{
	if (env->env)
		mdb_env_close(env->env);
	env->env = NULL;
}

int lmdb_env_discard(struct lmdb_env *env, struct error *err)
{
	lmdb_env_close(env);
	return move_aside(env->dir, err);
}

bool lmdb_env_replaced(const struct lmdb_env *env)
{
	char data[PATH_MAX + 16];
	struct stat st;

	snprintf(data, sizeof data, "%s/data.mdb", env->dir);
	if (stat(data, &st) < 0)
		return errno == ENOENT;
	return st.st_dev != env->dev || st.st_ino != env->ino;
}

int lmdb_env_grow(struct lmdb_env *env)
{
	MDB_envinfo info;
	int rc = mdb_env_info(env->env, &info);

	if (rc)
		return lmdb_errno(rc);
	if (info.me_mapsize > MAP_SIZE_MAX / 2)
		return -ENOSPC;
	return lmdb_errno(mdb_env_set_mapsize(env->env, info.me_mapsize * 2));
}
