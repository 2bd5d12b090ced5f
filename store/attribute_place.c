/* Where a user's attributes are, and attachments. See attribute_place.h. */
#include "store/attribute_place.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/buf.h"
#include "store/base/file.h"
#include "store/mail_variables.h"
#include "store/settings.h"

/* An absolute path, malloc'ed, of a template with variables or one in the home. */
static int expand(const struct mail_user *user, const char *template, size_t len, char **path_r,
		  struct error *err)
{
	struct mail_variables variables = {.user = user->name, .home = user->home};
	AUTO_BUF struct buf text = BUF_INIT(PATH_MAX), path = BUF_INIT(PATH_MAX);
	int rc;

	buf_append(&text, template, len);
	rc = mail_variables_expand(buf_str(&text), &variables, &path, err);
	if (rc < 0)
		return rc;
	buf_clear(&text);
	if (strncmp(buf_str(&path), "~/", 2) == 0)
		buf_printf(&text, "%s/%s", user->home, buf_str(&path) + 2);
	else if (buf_str(&path)[0] == '/')
		buf_append_str(&text, buf_str(&path));
	else
		buf_printf(&text, "%s/%s", user->home, buf_str(&path));
	while (text.len > 1 && text.data[text.len - 1] == '/')
		text.data[--text.len] = '\0';
	*path_r = text.failed ? NULL : strdup(buf_str(&text));
	return *path_r ? 0 : error_set(err, -EINVAL, "user %s: a path is too long", user->name);
}

static int expand_str(const struct mail_user *user, const char *template, char **path_r,
		      struct error *err)
{
	return expand(user, template, strlen(template), path_r, err);
}

/* "file:~/sieve;active=~/.dovecot.sieve", or the active script alone. */
static int find_sieve(const struct settings *set, struct mail_user *user, struct error *err)
{
	const char *dir = set->sieve_dir[0] ? set->sieve_dir : "~/sieve";
	const char *active = "~/.dovecot.sieve", *sieve = set->sieve, *option;
	size_t dir_len = strlen(dir), active_len = strlen(active);
	int rc;

	if (strncmp(sieve, "file:", 5) == 0) {
		dir = sieve + 5;
		dir_len = strcspn(dir, ";");
		option = strstr(dir + dir_len, ";active=");
		if (option) {
			active = option + strlen(";active=");
			active_len = strcspn(active, ";");
		}
	} else if (sieve[0] && !strchr(sieve, ':')) {
		active = sieve;
		active_len = strlen(sieve);
	} else if (sieve[0]) {
		return 0; /* a database */
	}
	rc = expand(user, dir, dir_len, &user->sieve_dir, err);
	return rc < 0 ? rc : expand(user, active, active_len, &user->sieve_active, err);
}

int attribute_place_find(const struct settings *set, struct mail_user *user, struct error *err)
{
	int rc = 0;

	if (strncmp(set->mail_attribute_dict, "file:", 5) == 0)
		rc = expand_str(user, set->mail_attribute_dict + 5, &user->attribute_file, err);
	if (rc == 0 && set->mail_attachment_dir[0])
		rc = expand_str(user, set->mail_attachment_dir, &user->location.attachments, err);
	return rc < 0 ? rc : find_sieve(set, user, err);
}
