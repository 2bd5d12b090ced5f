/* The mount from start to end. See fs.h. */
#include "fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>
#include "fs/credentials.h"
#include "fs/mount.h"
#include "fs/ops.h"
#include "fs/session.h"
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/service.h"
#include "store/journal/journal.h"
#include "store/journal/store_id.h"

#define THREADS_DEFAULT 10
#define POOL_THREADS	8
#define DIR_FDS_MAX	2048
#define SWEEP_EVERY_MS	1000
#define TICK_MS		500
#define ARENAS_MAX	2

/* Everything that is to be released at the end, in the order in which it was made. */
struct mount_state {
	struct fs fs;
	struct session *session;
	struct journal *journal;
	bool journal_clean;
	bool owns_store; /* the backing directory is the one that state_dir belongs to */
	bool mounted;
	pthread_t stamps; /* compares them while the mount serves already */
	bool stamps_started, ending;
	char aside[PATH_MAX]; /* where the connection is mounted for a moment; see mount.h */
};

/* A quarter of the limit for directories leaves the rest to what clients have open. */
static unsigned raise_descriptor_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 0;
	if (limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
			getrlimit(RLIMIT_NOFILE, &limit);
	}
	return limit.rlim_cur / 4 < DIR_FDS_MAX ? (unsigned)(limit.rlim_cur / 4) : DIR_FDS_MAX;
}

static int open_source(const struct fs_options *options, struct fs *fs, struct error *err)
{
	struct statvfs st;

	fs->root_fd = open(options->source, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fs->root_fd < 0)
		return error_errno(err, -errno, "backing directory %s", options->source);
	if (fstatvfs(fs->root_fd, &st) == 0 && (st.f_flag & ST_RDONLY))
		log_error("the backing directory is read-only; mail can be read and not delivered "
			  "path=%s",
			  options->source);
	return 0;
}

static int make_parts(const struct fs_options *options, struct mount_state *m, struct error *err)
{
	struct fs *fs = &m->fs;
	unsigned threads = options->threads ? options->threads : THREADS_DEFAULT;
	unsigned dir_fds = raise_descriptor_limit();
	int rc = journal_open(options->state_dir, &m->journal, &m->journal_clean, err);

	if (rc < 0)
		return rc;
	rc = credentials_prepare(err);
	if (rc < 0)
		return rc;
	rc = inode_table_create(fs->root_fd, dir_fds, &fs->inodes, err);
	if (rc < 0)
		return rc;
	if (!inode_table_has_handles(fs->inodes))
		log_warning("the backing filesystem has no file handles: every file that is known "
			    "keeps a descriptor, of which there are few path=%s",
			    options->source);
	fs->places = places_create(options->home_depth);
	fs->files = open_files_create();
	/* Half of the threads may wait for a disk; the others serve what needs none. */
	fs->pool = io_pool_create(POOL_THREADS, threads / 2);
	fs->observer.journal = m->journal;
	fs->observer.places = fs->places;
	fs->observer.origins = origins_create();
	if (fs->places)
		fs->observer.dirty = dirty_create(fs->places, m->journal, fs->root_fd);
	if (!fs->files || !fs->pool || !fs->observer.origins || !fs->observer.dirty)
		return error_set(err, -ENOMEM, "out of memory");
	inode_set_place(fs->inodes, INODE_ROOT, place_root(fs->places), PLACE_FILE_OTHER);
	return 0;
}

/* The store id is renewed at each start and each clean stop; a disk that does not take it is no
 * reason to keep mail away. */
static void renew_store_id(const struct fs_options *options, const struct mount_state *m)
{
	struct error err;

	if (store_id_renew(options->state_dir, m->fs.root_fd, options->source, &err) < 0)
		log_warning("%s: a copy that takes the place of this directory could not be told "
			    "from it",
			    err.text);
}

static void own_store(const struct fs_options *options, struct mount_state *m, bool accepted)
{
	if (accepted) {
		log_notice("another store was accepted: everything is scanned path=%s",
			   options->source);
		journal_renew(m->journal);
	}
	renew_store_id(options, m);
	m->owns_store = true;
}

static int attach(const struct fs_options *options, struct mount_state *m, struct error *err)
{
	unsigned threads = options->threads ? options->threads : THREADS_DEFAULT;
	struct stat st;
	int dev_fd, rc;

	if (fstat(m->fs.root_fd, &st) < 0)
		return error_errno(err, -errno, "backing directory %s", options->source);
	if (snprintf(m->aside, sizeof m->aside, "%s/mount", options->state_dir) >=
	    (int)sizeof m->aside)
		return error_set(err, -ENAMETOOLONG, "state_dir %s", options->state_dir);
	dev_fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (dev_fd < 0)
		return error_errno(err, -errno, "/dev/fuse");
	rc = session_create(&m->fs, dev_fd, options->debug, &m->session, err);
	if (rc < 0)
		return rc;
	rc = mount_aside(m->aside, dev_fd, st.st_mode, options->mount_flags, options->fsname, err);
	if (rc == 0)
		rc = session_start(m->session, threads, err);
	if (rc == 0)
		rc = mount_bind(m->aside, FS_TREE_NAME, options->mount_point, err);
	m->mounted = rc == 0;
	if (rc < 0)
		mount_aside_end(m->aside);
	return rc;
}

static void *check_stamps(void *arg)
{
	struct mount_state *m = arg;

	observe_check_stamps(&m->fs.observer, m->fs.root_fd, &m->ending);
	return NULL;
}

/* Serves until told to end. */
static void wait_for_end(struct mount_state *m, const sigset_t *signals)
{
	const struct timespec tick = {.tv_nsec = TICK_MS * 1000000L};
	int64_t swept_ms = dirty_now_ms(), alive_ms = swept_ms;
	unsigned interval_ms = service_alive_interval_ms();

	for (;;) {
		int number = sigtimedwait(signals, NULL, &tick);
		int64_t now_ms = dirty_now_ms();

		if (number == SIGTERM || number == SIGINT)
			return;
		if (number == SESSION_ENDED_SIGNAL) {
			log_notice("unmounted by somebody else");
			return;
		}
		if (now_ms - swept_ms >= SWEEP_EVERY_MS) {
			dirty_sweep(m->fs.observer.dirty, now_ms);
			swept_ms = now_ms;
		}
		if (interval_ms && now_ms - alive_ms >= interval_ms) {
			service_alive();
			alive_ms = now_ms;
		}
	}
}

/* A dead mount there stays until the new one replaces it, unless the backing directory is below it.
 */
static int look_at_mount_point(const struct fs_options *options, struct error *err)
{
	size_t len = strlen(options->mount_point);
	int rc;

	if (strncmp(options->source, options->mount_point, len) == 0 &&
	    (options->source[len] == '/' || options->source[len] == '\0'))
		return mount_clear_dead(options->mount_point, err);
	rc = mount_is_dead(options->mount_point, err);
	return rc < 0 ? rc : 0;
}

static void detach(const struct fs_options *options)
{
	struct error err;

	if (mount_detach(options->mount_point, &err) < 0 ||
	    /* Another one may live there by now. */
	    (mount_clear_dead(options->mount_point, &err) < 0 && err.code != -EBUSY))
		log_error("%s", err.text);
}

/* The order matters: no new calls, then those that have begun, then what is known of the mailboxes,
 * then the journal. */
static void take_down(const struct fs_options *options, struct mount_state *m)
{
	if (m->mounted)
		detach(options);
	if (m->session)
		session_stop(m->session);
	io_pool_free(&m->fs.pool);
	if (m->fs.files && m->fs.observer.dirty)
		fs_close_deliveries(&m->fs);
	__atomic_store_n(&m->ending, true, __ATOMIC_RELEASE);
	if (m->stamps_started)
		pthread_join(m->stamps, NULL);
	if (m->mounted)
		dirty_sweep(m->fs.observer.dirty, dirty_now_ms() + 2 * DIRTY_QUIET_MS);
	open_files_free(&m->fs.files);
	session_free(&m->session);
	/* While the journal's lock keeps another dsyncfs from doing the same. */
	if (m->owns_store)
		renew_store_id(options, m);
	if (m->journal)
		journal_close(&m->journal);
	dirty_free(&m->fs.observer.dirty);
	origins_free(&m->fs.observer.origins);
	inode_table_free(&m->fs.inodes, m->fs.places);
	places_free(&m->fs.places);
	file_close(&m->fs.root_fd);
}

int fs_run(const struct fs_options *options, void (*ready)(void *ctx), void *ctx, struct error *err)
{
	struct mount_state m = {.fs.root_fd = -1};
	bool accepted = false;
	sigset_t signals;
	int rc;

	/* One for each thread would keep some hundred kilobytes for each, and requests need few
	 * blocks. */
	mallopt(M_ARENA_MAX, ARENAS_MAX);
	/* All threads inherit this; only wait_for_end() takes them. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SESSION_ENDED_SIGNAL);
	sigprocmask(SIG_BLOCK, &signals, NULL);
	signal(SIGPIPE, SIG_IGN);
	rc = look_at_mount_point(options, err);
	if (rc == 0)
		rc = open_source(options, &m.fs, err);
	/* Before the journal is opened, which is then as it was. */
	if (rc == 0)
		rc = store_id_check(options->state_dir, m.fs.root_fd, options->source, &accepted,
				    err);
	if (rc == 0)
		rc = make_parts(options, &m, err);
	if (rc == 0)
		own_store(options, &m, accepted);
	if (rc == 0)
		rc = observe_recover(&m.fs.observer, m.journal_clean, err);
	if (rc == 0)
		rc = attach(options, &m, err);
	if (rc == 0) {
		log_notice("mounted path=%s source=%s", options->mount_point, options->source);
		ready(ctx);
		service_ready();
		m.stamps_started = pthread_create(&m.stamps, NULL, check_stamps, &m) == 0;
		if (!m.stamps_started)
			check_stamps(&m);
		wait_for_end(&m, &signals);
		service_stopping();
		log_notice("unmounting path=%s", options->mount_point);
	}
	take_down(options, &m);
	return rc;
}
