/*
 * dsyncctl purge: gives back the room of expunged mail in mdbox, as `doveadm purge` does, beside
 * Dovecot and without a running dsyncd.
 *
 * Each user's mail is worked on by a process with that user's uid.
 */
#include "tools/dsyncctl.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <sysexits.h>
#include <unistd.h>

#include "store/base/file.h"
#include "store/mail_purge.h"
#include "store/mail_user.h"
#include "sync/dsync_user.h"

struct purging {
	const struct settings *set;
	const char *mask;
	json_t *users; /* NULL: text */
	unsigned matched, failed;
};

struct answer {
	int rc;
	struct mail_purged purged;
	struct error err;
};

static void child(const struct mail_user *user, int to)
{
	struct answer answer = {0};

	answer.rc = dsync_user_become(user, &answer.err);
	if (answer.rc == 0)
		answer.rc = mail_purge(user, &answer.purged, &answer.err);
	_exit(file_write_all(to, &answer, sizeof answer) < 0 ? EX_IOERR : EX_OK);
}

static int purge_user(const struct mail_user *user, struct mail_purged *purged_r, struct error *err)
{
	struct answer answer = {0};
	int fds[2], status;
	ssize_t n;
	pid_t pid;

	if (pipe(fds) < 0)
		return error_errno(err, -errno, "user %s: pipe", user->name);
	pid = fork();
	if (pid < 0) {
		close(fds[0]);
		close(fds[1]);
		return error_errno(err, -errno, "user %s: fork", user->name);
	}
	if (pid == 0) {
		close(fds[0]);
		child(user, fds[1]);
	}
	close(fds[1]);
	n = read(fds[0], &answer, sizeof answer); /* less than a pipe's atomic write */
	close(fds[0]);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		continue;
	if (n != sizeof answer)
		return error_set(err, -EIO, "user %s: the purging process died", user->name);
	*purged_r = answer.purged;
	*err = answer.err;
	return answer.rc;
}

static void report(struct purging *purging, const struct mail_user *user,
		   const struct mail_purged *purged)
{
	if (purging->users)
		json_array_append_new(purging->users,
				      json_pack("{s:s, s:I, s:I, s:I, s:I, s:I}", "user",
						user->name, "files", (json_int_t)purged->files,
						"messages", (json_int_t)purged->messages, "bytes",
						(json_int_t)purged->bytes, "corrected",
						(json_int_t)purged->corrected, "unclaimed",
						(json_int_t)purged->unclaimed));
	else if (purged->files || purged->corrected || purged->unclaimed)
		printf("%s\t%u messages, %llu bytes in %u files%s%s\n", user->name,
		       purged->messages, (unsigned long long)purged->bytes, purged->files,
		       purged->corrected ? "; reference counts were corrected" : "",
		       purged->unclaimed ? "; messages that no mailbox has are kept" : "");
}

static int on_user(void *ctx, const char *name)
{
	struct purging *purging = ctx;
	struct mail_purged purged = {0};
	struct mail_user *user = NULL;
	struct error err = {0};
	int rc;

	if (fnmatch(purging->mask, name, 0) != 0)
		return 0;
	purging->matched++;
	rc = mail_user_find(purging->set, name, &user, &err);
	/* What is not yet written must not be written by the child, too. */
	fflush(stdout);
	if (rc == 0 && user->location.driver == MAIL_DRIVER_MDBOX)
		rc = purge_user(user, &purged, &err);
	if (rc < 0) {
		fprintf(stderr, "dsyncctl: %s\n", err.text);
		purging->failed++;
	} else {
		report(purging, user, &purged);
	}
	mail_user_free(&user);
	return 0;
}

int dsyncctl_purge(const struct dsyncctl *ctl, int argc, char **argv)
{
	struct purging purging = {.set = ctl->set, .mask = argc == 2 ? argv[1] : "*"};
	struct error err = {0};
	int rc;

	if (argc > 2) {
		fprintf(stderr, "usage: dsyncctl purge [usermask]\n");
		return EX_USAGE;
	}
	purging.users = ctl->json ? json_array() : NULL;
	rc = mail_user_each(ctl->set, on_user, &purging, &err);
	if (rc < 0) {
		json_decref(purging.users);
		return dsyncctl_fail(&err);
	}
	rc = ctl->json ? dsyncctl_print_json(json_pack("{s:o}", "users", purging.users)) : EX_OK;
	if (rc == EX_OK && purging.matched == 0 && argc == 2) {
		fprintf(stderr, "dsyncctl: no user matches %s\n", purging.mask);
		return EX_NOUSER;
	}
	return rc == EX_OK && purging.failed ? EX_DATAERR : rc;
}
