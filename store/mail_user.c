/* Users: found by their homes, made where a peer has one that is missing here. See mail_user.h. */
#include "store/mail_user.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include "store/attribute_place.h"
#include "store/base/file.h"
#include "store/mail_home.h"
#include "store/mail_variables.h"
#include "store/settings.h"

#define NSS_BUFFER 16384

/* mail_home behind mail_root; settings are checked to have it there. */
static const char *home_shape(const struct settings *set)
{
	size_t len = strlen(set->mail_root);

	if (strncmp(set->mail_home, set->mail_root, len) != 0 || set->mail_home[len] != '/')
		return "%d/%n";
	return set->mail_home + len + 1;
}

unsigned mail_user_home_depth(const struct settings *set)
{
	return mail_home_depth(home_shape(set));
}

int mail_user_name_from_home(const struct settings *set, const char *home_rel, char **name_r)
{
	return mail_home_to_name(home_shape(set), home_rel, name_r);
}

void mail_user_free(struct mail_user **user)
{
	if (!*user)
		return;
	free((*user)->name);
	free((*user)->home);
	free((*user)->home_rel);
	free((*user)->attribute_file);
	free((*user)->sieve_dir);
	free((*user)->sieve_active);
	free((*user)->special_uses);
	mail_location_free(&(*user)->location);
	free(*user);
	*user = NULL;
}

/* ---- whose mail it is ---- */

static bool parse_id(const char *text, unsigned *id_r)
{
	char *end;
	unsigned long value;

	if (!isdigit((unsigned char)text[0]))
		return false;
	errno = 0;
	value = strtoul(text, &end, 10);
	*id_r = (unsigned)value;
	return !errno && *end == '\0' && value < UINT32_MAX;
}

static int lookup_uid(const char *text, uid_t *uid_r, gid_t *gid_r, struct error *err)
{
	char buffer[NSS_BUFFER];
	struct passwd entry, *found = NULL;
	unsigned id;
	int rc;

	if (parse_id(text, &id)) {
		*uid_r = id;
		return 0;
	}
	rc = getpwnam_r(text, &entry, buffer, sizeof buffer, &found);
	if (!found)
		return error_set(err, -EINVAL, "mail_uid = %s: %s", text,
				 rc ? strerror(rc) : "no such system user");
	*uid_r = found->pw_uid;
	*gid_r = found->pw_gid;
	return 0;
}

static int lookup_gid(const char *text, gid_t *gid_r, struct error *err)
{
	char buffer[NSS_BUFFER];
	struct group entry, *found = NULL;
	unsigned id;
	int rc;

	if (parse_id(text, &id)) {
		*gid_r = id;
		return 0;
	}
	rc = getgrnam_r(text, &entry, buffer, sizeof buffer, &found);
	if (!found)
		return error_set(err, -EINVAL, "mail_gid = %s: %s", text,
				 rc ? strerror(rc) : "no such system group");
	*gid_r = found->gr_gid;
	return 0;
}

/* owner: of the home, or of the directory it will be made in. */
static int set_owner(const struct settings *set, const struct stat *owner, struct mail_user *user,
		     struct error *err)
{
	int rc = 0;

	user->uid = owner->st_uid;
	user->gid = owner->st_gid;
	if (set->mail_uid[0])
		rc = lookup_uid(set->mail_uid, &user->uid, &user->gid, err);
	if (rc == 0 && set->mail_gid[0])
		rc = lookup_gid(set->mail_gid, &user->gid, err);
	if (rc == 0 && user->uid == 0 && !set->mail_uid[0])
		rc = error_set(err, -EPERM,
			       "user %s: %s belongs to root: give it to the user whose mail it is, "
			       "or set mail_uid",
			       user->name, user->home);
	return rc;
}

/* ---- finding ---- */

/* A ':' in a name must not end a path of mail_location. */
static int escape_colons(const char *text, struct buf *out)
{
	for (; *text; text++) {
		if (*text == ':')
			buf_append_byte(out, ':');
		buf_append_byte(out, (unsigned char)*text);
	}
	return out->failed;
}

void mail_user_set_storing(const struct settings *set, struct mail_location *location)
{
	/* The settings were checked when they were read. */
	if (compress_method_find(set->zlib_save, &location->save_compress) < 0)
		location->save_compress = COMPRESS_NONE;
	location->rotate_size = set->mdbox_rotate_size;
	location->rotate_interval = set->mdbox_rotate_interval;
	location->preallocate = set->mdbox_preallocate_space;
	mail_location_set_prefix(location, set->prefix);
}

static int set_location(const struct settings *set, struct mail_user *user, struct error *err)
{
	AUTO_BUF struct buf name = BUF_INIT(2 * MAIL_USER_NAME_MAX);
	AUTO_BUF struct buf home = BUF_INIT(2 * PATH_MAX);
	AUTO_BUF struct buf text = BUF_INIT(4 * PATH_MAX);
	struct mail_variables variables;
	int rc;

	if (!set->mail_location[0]) {
		rc = mail_location_detect(user->home, &user->location, err);
		/* A new user: what Dovecot and most others take. */
		if (rc == -ENOENT)
			rc = mail_location_parse("maildir:~/Maildir", user->home, &user->location,
						 err);
	} else {
		if (escape_colons(user->name, &name) < 0 || escape_colons(user->home, &home) < 0)
			return error_set(err, -EINVAL, "user %s: name too long", user->name);
		variables.user = buf_str(&name);
		variables.home = buf_str(&home);
		rc = mail_variables_expand(set->mail_location, &variables, &text, err);
		if (rc == 0)
			rc = mail_location_parse(buf_str(&text), user->home, &user->location, err);
	}
	if (rc < 0) {
		error_prefix(err, "user %s", user->name);
		return rc;
	}
	mail_user_set_storing(set, &user->location);
	user->separator = set->separator				   ? set->separator
			  : user->location.layout == MAIL_LAYOUT_MAILDIRPP ? '.'
									   : '/';
	user->special_uses = strdup(set->special_uses);
	if (!user->special_uses)
		return error_errno(err, -ENOMEM, "user %s", user->name);
	rc = attribute_place_find(set, user, err);
	if (rc < 0)
		error_prefix(err, "user %s", user->name);
	return rc;
}

/* Name, home and its place; no look at the disk. */
static int user_new(const struct settings *set, const char *name, struct mail_user **user_r,
		    struct error *err)
{
	AUTO_BUF struct buf home_rel = BUF_INIT(PATH_MAX - 1);
	const char *shape = home_shape(set);
	struct mail_user *user;
	size_t size;
	int rc = mail_home_from_name(shape, name, &home_rel, err);

	if (rc < 0)
		return rc;
	user = calloc(1, sizeof *user);
	if (!user)
		return error_errno(err, -ENOMEM, "user %s", name);
	*user_r = user;
	/* The name as the home says it: one user has one name. */
	rc = mail_home_to_name(shape, buf_str(&home_rel), &user->name);
	if (rc < 0)
		return error_set(err, rc, "user %s: no home by the shape of mail_home (%s)", name,
				 set->mail_home);
	size = strlen(set->mail_root) + home_rel.len + 2;
	user->home = malloc(size);
	user->home_rel = strdup(buf_str(&home_rel));
	if (!user->home || !user->home_rel)
		return error_errno(err, -ENOMEM, "user %s", name);
	snprintf(user->home, size, "%s/%s", set->mail_root, user->home_rel);
	return 0;
}

static int open_root(const struct settings *set, struct error *err)
{
	int fd = open(set->mail_root, O_PATH | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 ? error_errno(err, -errno == -ENOENT ? -ENODEV : -errno,
				    "mail_root %s (is it mounted?)", set->mail_root)
		      : fd;
}

/* Without following symbolic links below mail_root. */
static int stat_beneath(int root, const char *path, struct stat *st_r)
{
	int fd = file_open_beneath(root, path, O_PATH | O_DIRECTORY, 0);
	int rc;

	if (fd < 0)
		return fd;
	rc = fstat(fd, st_r) < 0 ? -errno : 0;
	close(fd);
	return rc;
}

static int find(const struct settings *set, struct mail_user *user, struct error *err)
{
	AUTO_CLOSE int root = open_root(set, err);
	struct stat st;
	int rc;

	if (root < 0)
		return root;
	rc = stat_beneath(root, user->home_rel, &st);
	if (rc < 0)
		return error_errno(err, rc, "user %s: home %s", user->name, user->home);
	rc = set_owner(set, &st, user, err);
	return rc < 0 ? rc : set_location(set, user, err);
}

int mail_user_find(const struct settings *set, const char *name, struct mail_user **user_r,
		   struct error *err)
{
	int rc;

	*user_r = NULL;
	rc = user_new(set, name, user_r, err);
	if (rc == 0)
		rc = find(set, *user_r, err);
	if (rc < 0)
		mail_user_free(user_r);
	return rc;
}

/* ---- making ---- */

/* The deepest directory on the way to the home that exists; "" is mail_root. */
static int find_ancestor(int root, const char *home_rel, char path_r[PATH_MAX], struct stat *st_r)
{
	snprintf(path_r, PATH_MAX, "%s", home_rel);
	for (;;) {
		int rc = path_r[0] ? stat_beneath(root, path_r, st_r)
				   : (fstat(root, st_r) < 0 ? -errno : 0);
		char *slash = strrchr(path_r, '/');

		if (rc != -ENOENT)
			return rc;
		if (slash)
			*slash = '\0';
		else
			path_r[0] = '\0';
	}
}

/* One directory, owned by the user. One that is root's and was left by a crash is given, too. */
/* As the owner's from the start, where the directory above is his: who logs in meanwhile must be
 * able to enter it. */
static int make_as_owner(int root, const char *path, mode_t mode, const struct mail_user *user)
{
	const int gid = setfsgid(user->gid), uid = setfsuid(user->uid);
	int rc = file_mkdirs_beneath(root, path, mode);

	setfsuid((uid_t)uid);
	setfsgid((gid_t)gid);
	return rc;
}

static int make_dir(int root, const char *path, mode_t mode, const struct mail_user *user)
{
	AUTO_CLOSE int fd = -1;
	struct stat st;
	int rc = make_as_owner(root, path, mode, user);

	if (rc == -EACCES || rc == -EPERM)
		rc = file_mkdirs_beneath(root, path, mode);
	if (rc < 0)
		return rc;
	fd = file_open_beneath(root, path, O_RDONLY | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (st.st_uid == 0 && user->uid != 0 && fchown(fd, user->uid, user->gid) < 0)
		return -errno;
	return fsync(fd) < 0 ? -errno : 0;
}

static int make_home(int root, const char *existing, const struct mail_user *user)
{
	size_t len = strlen(existing);
	char path[PATH_MAX];
	int rc = 0;

	snprintf(path, sizeof path, "%s", user->home_rel);
	while (rc == 0 && user->home_rel[len]) {
		len += strcspn(user->home_rel + len + (len > 0), "/") + (len > 0);
		path[len] = '\0';
		/* Others may have to pass through a domain's directory; a home is private. */
		rc = make_dir(root, path, user->home_rel[len] ? 0755 : 0700, user);
		path[len] = user->home_rel[len];
	}
	return rc;
}

static int create(const struct settings *set, struct mail_user *user, struct error *err)
{
	AUTO_CLOSE int root = open_root(set, err);
	AUTO_CLOSE int parent = -1;
	char existing[PATH_MAX];
	struct stat st;
	int rc;

	if (root < 0)
		return root;
	rc = find_ancestor(root, user->home_rel, existing, &st);
	if (rc < 0)
		return error_errno(err, rc, "user %s: home %s", user->name, user->home);
	if (!existing[0] && !set->mail_uid[0])
		return error_set(
			err, -EPERM,
			"user %s: home %s is missing, and neither mail_uid nor a directory "
			"of its domain says whose it would be",
			user->name, user->home);
	rc = set_owner(set, &st, user, err);
	if (rc < 0)
		return rc;
	rc = make_home(root, existing, user);
	if (rc == 0 && existing[0]) {
		parent = file_open_beneath(root, existing, O_RDONLY | O_DIRECTORY, 0);
		rc = parent < 0 ? parent : fsync(parent) < 0 ? -errno : 0;
	} else if (rc == 0) {
		rc = file_sync_dir(root, ".");
	}
	if (rc < 0)
		return error_errno(err, rc, "user %s: home %s cannot be made", user->name,
				   user->home);
	return set_location(set, user, err);
}

int mail_user_create(const struct settings *set, const char *name, struct mail_user **user_r,
		     struct error *err)
{
	int rc = mail_user_find(set, name, user_r, err);

	if (rc != -ENOENT && rc != -EPERM)
		return rc;
	rc = user_new(set, name, user_r, err);
	if (rc == 0)
		rc = create(set, *user_r, err);
	if (rc < 0)
		mail_user_free(user_r);
	return rc;
}

/* ---- all of them ---- */

struct walk {
	const char *shape;
	unsigned depth;
	mail_user_each_fn *each;
	void *ctx;
	struct error *err;
};

static int give_name(const struct walk *walk, const char *home_rel)
{
	AUTO_FREE char *name = NULL;

	/* A directory that is no user's is not an error: admins keep other things there. */
	if (mail_home_to_name(walk->shape, home_rel, &name) < 0)
		return 0;
	return walk->each(walk->ctx, name);
}

static bool may_be_on_the_way(int dir_fd, const struct dirent *entry)
{
	struct stat st;

	if (entry->d_name[0] == '.' || strcmp(entry->d_name, "lost+found") == 0)
		return false;
	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == DT_DIR;
	return fstatat(dir_fd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* Takes fd over. path: the directory's, relative to mail_root; room for what is below it. */
static int walk_dir(const struct walk *walk, int fd, char *path, unsigned level)
{
	AUTO_DIR DIR *dir = fdopendir(fd);
	size_t len = strlen(path);
	struct dirent *entry;
	int rc = 0;

	if (!dir) {
		rc = -errno;
		close(fd);
		return error_errno(walk->err, rc, "%s", path);
	}
	while (rc == 0 && (errno = 0, entry = readdir(dir)) != NULL) {
		int n, child;

		if (!may_be_on_the_way(dirfd(dir), entry))
			continue;
		n = snprintf(path + len, PATH_MAX - len, "%s%s", len ? "/" : "", entry->d_name);
		if (n < 0 || (size_t)n >= PATH_MAX - len)
			continue;
		if (level == walk->depth) {
			rc = give_name(walk, path);
		} else {
			child = openat(dirfd(dir), entry->d_name,
				       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
			/* Removed or changed meanwhile. */
			if (child < 0 && errno != ENOENT && errno != ENOTDIR && errno != ELOOP)
				rc = error_errno(walk->err, -errno, "%s", path);
			else if (child >= 0)
				rc = walk_dir(walk, child, path, level + 1);
		}
	}
	if (rc == 0 && errno)
		rc = error_errno(walk->err, -errno, "%s", path);
	path[len] = '\0';
	return rc;
}

int mail_user_each(const struct settings *set, mail_user_each_fn *each, void *ctx,
		   struct error *err)
{
	struct walk walk = {.shape = home_shape(set),
			    .depth = mail_user_home_depth(set),
			    .each = each,
			    .ctx = ctx,
			    .err = err};
	char path[PATH_MAX] = "";
	int fd = open(set->mail_root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return error_errno(err, -errno, "mail_root %s (is it mounted?)", set->mail_root);
	return walk_dir(&walk, fd, path, 1);
}
