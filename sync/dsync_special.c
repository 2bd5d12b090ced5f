/* Options of dsync that the settings have to say more of: namespaces, and mailboxes by what they
 * are for ("\Trash"). See dsync_options.h. */
#include "sync/dsync_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/file.h"
#include "store/base/tabescape.h"
#include "store/mail_user.h"
#include "store/settings.h"
#include "store/special_use.h"

#define NAME_BYTES_MAX 4096

/* ---- -n ---- */

static bool has_line(const char *lines, const char *text)
{
	size_t len = strlen(text);

	while (*lines != '\0') {
		size_t line = strcspn(lines, "\n");

		if (line == len && memcmp(lines, text, len) == 0)
			return true;
		lines += line + 1;
	}
	return false;
}

int dsync_options_namespaces(const struct dsync_options *options, const struct settings *set,
			     struct error *err)
{
	for (size_t i = 0; i < options->namespaces.count; i++) {
		const char *prefix = options->namespaces.word[i];

		if (strcmp(prefix, set->prefix) == 0)
			continue;
		if (has_line(set->other_prefixes, prefix))
			return error_set(err, -EOPNOTSUPP,
					 "-n %s: only the namespace of the INBOX is synced",
					 prefix);
		if (set->prefix[0] != '\0')
			return error_set(err, -EINVAL, "-n %s: there is no such namespace", prefix);
	}
	return 0;
}

/* ---- -m, -x ---- */

/* As patterns have it: the hierarchy's separator is '/'. */
static void to_pattern(const struct mail_user *user, struct buf *name)
{
	for (size_t i = 0; i < name->len; i++) {
		if (name->data[i] == user->separator)
			name->data[i] = '/';
	}
}

/* Moves pos as special_use_next() does. */
static bool next_name(const struct mail_user *user, const char **pos, const char *use,
		      struct buf *name)
{
	buf_clear(name);
	if (!special_use_next(pos, use, name))
		return false;
	to_pattern(user, name);
	return true;
}

static int resolve_excludes(struct dsync_options *options, const struct mail_user *user)
{
	AUTO_BUF struct buf name = BUF_INIT(NAME_BYTES_MAX);
	struct buf resolved = BUF_INIT(DSYNC_EXCLUDES_MAX);
	const char *p = options->excludes.len > 0 ? buf_str(&options->excludes) : "";
	int rc = 0;

	while (*p != '\0' && rc == 0) {
		size_t len = strcspn(p, "\t");
		AUTO_FREE char *pattern = strndup(p, len);
		const char *pos = user->special_uses;

		p += len + (p[len] == '\t');
		if (pattern == NULL)
			rc = -ENOMEM;
		else if (tabunescape(pattern, strlen(pattern)), pattern[0] != '\\')
			rc = dsync_excludes_append(&resolved, pattern);
		else
			while (rc == 0 && next_name(user, &pos, pattern, &name))
				rc = dsync_excludes_append(&resolved, buf_str(&name));
	}
	buf_free(&options->excludes);
	options->excludes = resolved;
	return rc;
}

static int add_box(struct dsync_options *options, struct dsync_words *boxes, const char *name)
{
	if (boxes->count == DSYNC_WORDS_MAX || options->name_count == DSYNC_WORDS_MAX)
		return -E2BIG;
	char *copy = strdup(name);

	if (copy == NULL)
		return -ENOMEM;
	options->names[options->name_count++] = copy;
	boxes->word[boxes->count++] = copy;
	return 0;
}

static int resolve_boxes(struct dsync_options *options, const struct mail_user *user,
			 struct error *err)
{
	AUTO_BUF struct buf name = BUF_INIT(NAME_BYTES_MAX);
	const struct dsync_words given = options->boxes;
	struct dsync_words *boxes = &options->boxes;
	int rc = 0;

	boxes->count = 0;
	for (size_t i = 0; i < given.count && rc == 0; i++) {
		const char *pos = user->special_uses;
		size_t before = boxes->count;

		if (given.word[i][0] != '\\') {
			if (boxes->count == DSYNC_WORDS_MAX)
				return -E2BIG;
			boxes->word[boxes->count++] = given.word[i];
			continue;
		}
		while (rc == 0 && next_name(user, &pos, given.word[i], &name))
			rc = add_box(options, boxes, buf_str(&name));
		if (rc == 0 && boxes->count == before)
			return error_set(err, -ENOENT,
					 "-m %s: the settings say that of no mailbox of user %s",
					 given.word[i], user->name);
	}
	return rc;
}

int dsync_options_special(struct dsync_options *options, const struct mail_user *user,
			  struct error *err)
{
	int rc = resolve_excludes(options, user);

	if (rc == 0)
		rc = resolve_boxes(options, user, err);
	return rc < 0 && rc != -ENOENT ? error_errno(err, rc, "-m and -x by a special use") : rc;
}
