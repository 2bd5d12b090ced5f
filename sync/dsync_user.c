/* Whose mail the dsync command works on. See dsync_user.h. */
#include "sync/dsync_user.h"

#include <errno.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "store/attribute_place.h"
#include "store/base/buf.h"
#include "store/base/file.h"
#include "store/mail_variables.h"

#define NSS_BUFFER 16384

/* ---- making one ---- */

/* "::" is a ':' that ends no path of a location. */
static void append_colons_doubled(struct buf *out, const char *text)
{
	for (; *text; text++) {
		if (*text == ':')
			buf_append_byte(out, ':');
		buf_append_byte(out, (unsigned char)*text);
	}
}

static int set_location(struct mail_user *user, const char *template, struct error *err)
{
	AUTO_BUF struct buf name = BUF_INIT(2 * MAIL_USER_NAME_MAX);
	AUTO_BUF struct buf home = BUF_INIT(2 * PATH_MAX);
	AUTO_BUF struct buf text = BUF_INIT(4 * PATH_MAX);
	struct mail_variables variables;
	int rc;

	append_colons_doubled(&name, user->name);
	append_colons_doubled(&home, user->home);
	if (name.failed || home.failed)
		return error_set(err, -EINVAL, "user %s: name or home is too long", user->name);
	variables = (struct mail_variables){.user = buf_str(&name), .home = buf_str(&home)};
	rc = mail_variables_expand(template, &variables, &text, err);
	if (rc == 0)
		rc = mail_location_parse(buf_str(&text), user->home, &user->location, err);
	if (rc == 0)
		user->separator = user->location.layout == MAIL_LAYOUT_MAILDIRPP ? '.' : '/';
	return rc;
}

static int user_new(const char *name, const char *home, uid_t uid, gid_t gid,
		    struct mail_user **user_r, struct error *err)
{
	struct mail_user *user = calloc(1, sizeof *user);

	*user_r = user;
	if (!user)
		return error_errno(err, -ENOMEM, "user %s", name);
	user->name = strdup(name);
	user->home = strdup(home);
	user->home_rel = strdup("");
	user->uid = uid;
	user->gid = gid;
	return user->name && user->home && user->home_rel
		       ? 0
		       : error_errno(err, -ENOMEM, "user %s", name);
}

static int make_system_user(const struct settings *set, const char *name, const char *home,
			    uid_t uid, gid_t gid, struct mail_user **user_r, struct error *err)
{
	int rc = user_new(name, home, uid, gid, user_r, err);

	if (rc == 0 && set->mail_location[0]) {
		rc = set_location(*user_r, set->mail_location, err);
	} else if (rc == 0) {
		rc = mail_location_detect(home, &(*user_r)->location, err);
		/* What Dovecot and most others take. */
		if (rc == -ENOENT)
			rc = set_location(*user_r, "maildir:~/Maildir", err);
		(*user_r)->separator =
			(*user_r)->location.layout == MAIL_LAYOUT_MAILDIRPP ? '.' : '/';
	}
	if (rc == 0 && set->separator)
		(*user_r)->separator = set->separator;
	if (rc < 0)
		return rc;
	mail_user_set_storing(set, &(*user_r)->location);
	(*user_r)->special_uses = strdup(set->special_uses);
	if (!(*user_r)->special_uses)
		return error_errno(err, -ENOMEM, "user %s", name);
	return attribute_place_find(set, *user_r, err);
}

/* ---- finding one ---- */

static int find_caller(const struct settings *set, struct mail_user **user_r, struct error *err)
{
	const char *home = getenv("HOME");
	char buffer[NSS_BUFFER], uid_text[32];
	struct passwd entry, *found = NULL;

	(void)getpwuid_r(geteuid(), &entry, buffer, sizeof buffer, &found);
	snprintf(uid_text, sizeof uid_text, "uid-%u", (unsigned)geteuid());
	if (!home || home[0] != '/')
		home = found ? found->pw_dir : NULL;
	if (!home)
		return error_set(err, -ENOENT, "%s has no home: HOME is not set", uid_text);
	return make_system_user(set, found ? found->pw_name : uid_text, home, geteuid(), getegid(),
				user_r, err);
}

/* A system user whom the settings do not know: as Dovecot's `userdb { driver = passwd }`. 1: none.
 */
static int find_system_user(const struct settings *set, const char *name, struct mail_user **user_r,
			    struct error *err)
{
	char buffer[NSS_BUFFER];
	struct passwd entry, *found = NULL;

	if (mail_user_name_check(name, NULL) < 0 ||
	    getpwnam_r(name, &entry, buffer, sizeof buffer, &found) != 0 || !found)
		return 1;
	return make_system_user(set, name, found->pw_dir, found->pw_uid, found->pw_gid, user_r,
				err);
}

int dsync_user_find(const struct settings *set, const char *name, bool create,
		    struct mail_user **user_r, struct error *err)
{
	int rc;

	*user_r = NULL;
	if (!name) {
		rc = find_caller(set, user_r, err);
	} else {
		rc = mail_user_find(set, name, user_r, err);
		if (rc == -ENOENT || rc == -ENODEV || rc == -EINVAL) {
			int system_rc = find_system_user(set, name, user_r, err);

			rc = system_rc <= 0 ? system_rc : rc;
		}
		if (rc == -ENOENT && create && geteuid() == 0)
			rc = mail_user_create(set, name, user_r, err);
	}
	if (rc < 0)
		mail_user_free(user_r);
	return rc;
}

int dsync_user_at(const struct mail_user *user, const char *location, struct mail_user **user_r,
		  struct error *err)
{
	int rc = user_new(user->name, user->home, user->uid, user->gid, user_r, err);

	if (rc == 0)
		rc = set_location(*user_r, location, err);
	if (rc < 0) {
		mail_user_free(user_r);
		return rc;
	}
	(*user_r)->location.save_compress = user->location.save_compress;
	(*user_r)->location.rotate_size = user->location.rotate_size;
	(*user_r)->location.rotate_interval = user->location.rotate_interval;
	(*user_r)->location.preallocate = user->location.preallocate;
	if (user->location.attachments) {
		(*user_r)->location.attachments = strdup(user->location.attachments);
		if (!(*user_r)->location.attachments) {
			mail_user_free(user_r);
			return error_errno(err, -ENOMEM, "user %s", user->name);
		}
	}
	return 0;
}

bool dsync_user_same_root(const struct mail_user *a, const struct mail_user *b)
{
	struct stat x, y;

	return stat(a->location.root, &x) == 0 && stat(b->location.root, &y) == 0 &&
	       x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

int dsync_user_make_root(const struct mail_user *user, struct error *err)
{
	AUTO_FREE char *path = strdup(user->location.root);
	struct stat st;

	for (char *p = path; p && *p; p++) {
		char next = p[1];

		/* At the end of each name. */
		if (next != '/' && next != '\0')
			continue;
		p[1] = '\0';
		int rc = mkdir(path, 0700) == 0 ? 0 : -errno;

		/* One that is there may be refused with another reason than that. */
		if (rc < 0 && rc != -EEXIST && stat(path, &st) < 0)
			return error_errno(err, rc, "%s cannot be made", path);
		p[1] = next;
	}
	return path ? 0 : error_errno(err, -ENOMEM, "%s", user->location.root);
}

int dsync_user_become(const struct mail_user *user, struct error *err)
{
	if (geteuid() == user->uid)
		return 0;
	if (geteuid() != 0)
		return error_set(err, -EPERM,
				 "user %s: the mail belongs to uid %u: run as that user or as root",
				 user->name, (unsigned)user->uid);
	if (setgroups(1, &user->gid) < 0 || setresgid(user->gid, user->gid, user->gid) < 0 ||
	    setresuid(user->uid, user->uid, user->uid) < 0)
		return error_errno(err, -errno, "user %s: cannot become uid %u", user->name,
				   (unsigned)user->uid);
	/* For the commands that are started: ssh looks for its keys there. */
	if (setenv("HOME", user->home, 1) < 0 || setenv("USER", user->name, 1) < 0)
		return error_errno(err, -errno, "user %s: environment", user->name);
	if (access(".", X_OK) < 0 && chdir(user->home) < 0 && chdir("/") < 0)
		return error_errno(err, -errno, "user %s: %s", user->name, user->home);
	return 0;
}
