/* See list_moment.h. */
#include "store/list_moment.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/base/file.h"
#include "store/list_lock.h"
#include "store/mail_user.h"
#include "store/mailbox_name.h"

#define RECORD_WAIT_NS INT64_C(1000000000)
#define PAUSE_NS       2000000
#define UNTOLD_NS      INT64_C(2000000000)

/* Zeros when the file is not there. */
static int stat_in(const char *dir, const char *name, struct stat *st_r)
{
	AUTO_FREE char *path = NULL;

	memset(st_r, 0, sizeof *st_r);
	if (asprintf(&path, "%s/%s", dir, name) < 0) {
		path = NULL;
		return -ENOMEM;
	}
	return stat(path, st_r) < 0 && errno != ENOENT ? -errno : 0;
}

int list_moment_look(const struct mail_user *user, struct list_moment *moment_r, struct error *err)
{
	const struct mail_location *location = &user->location;
	int rc = stat_in(location->index, "dovecot.mailbox.log", &moment_r->log);

	if (rc == 0)
		rc = stat_in(location->control, "subscriptions", &moment_r->subscriptions);
	if (rc < 0)
		return error_errno(err, rc, "user=%s: mailbox log and subscriptions", user->name);
	return 0;
}

static int64_t nanoseconds(const struct timespec *ts)
{
	return (int64_t)ts->tv_sec * 1000000000 + ts->tv_nsec;
}

static bool is_within(int64_t time, int64_t duration)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return nanoseconds(&now) >= time && nanoseconds(&now) - time < duration;
}

/* The subscriptions were changed just now, and nothing says how. */
static bool record_is_to_come(const struct list_moment *moment)
{
	int64_t changed = nanoseconds(&moment->subscriptions.st_mtim);

	return changed > nanoseconds(&moment->log.st_mtim) && is_within(changed, RECORD_WAIT_NS);
}

int list_moment_wait(const struct mail_user *user, struct list_moment *moment_r, struct error *err)
{
	const struct timespec pause = {0, PAUSE_NS};
	int rc;

	for (;;) {
		rc = list_lock_wait(user, err);
		if (rc == 0)
			rc = list_moment_look(user, moment_r, err);
		if (rc < 0 || !record_is_to_come(moment_r))
			return rc;
		nanosleep(&pause, NULL);
	}
}

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size &&
	       nanoseconds(&a->st_mtim) == nanoseconds(&b->st_mtim);
}

bool list_moment_lasts(const struct mail_user *user, const struct list_moment *moment)
{
	struct list_moment now;
	struct error ignored;

	return !list_lock_is_held(user) && list_moment_look(user, &now, &ignored) == 0 &&
	       same_file(&moment->log, &now.log) &&
	       same_file(&moment->subscriptions, &now.subscriptions);
}

/* The directory that it lay in, or what is left of that one's path, was changed. */
bool list_removed_just_now(const struct mail_user *user, const char *name)
{
	struct mailbox_paths paths;
	bool just_now = false;
	char *slash;

	if (mailbox_paths_get(&user->location, name, &paths) < 0)
		return false;
	while ((slash = strrchr(paths.mail, '/')) != NULL && slash > paths.mail) {
		struct stat st;

		*slash = '\0';
		if (stat(paths.mail, &st) == 0) {
			just_now = is_within(nanoseconds(&st.st_mtim), UNTOLD_NS);
			break;
		}
	}
	mailbox_paths_free(&paths);
	return just_now;
}

/* A rename changes the directory's ctime and nothing else of it. */
bool list_renamed_just_now(const struct mail_user *user, const char *name)
{
	struct mailbox_paths paths;
	struct list_moment moment;
	struct error ignored;
	struct stat st;
	int64_t changed;
	int rc;

	if (mailbox_paths_get(&user->location, name, &paths) < 0)
		return false;
	rc = stat(paths.mail, &st);
	mailbox_paths_free(&paths);
	if (rc < 0 || list_moment_look(user, &moment, &ignored) < 0)
		return false;
	changed = nanoseconds(&st.st_ctim);
	return changed > nanoseconds(&st.st_mtim) && changed > nanoseconds(&moment.log.st_mtim) &&
	       is_within(changed, UNTOLD_NS);
}
