/* mail_home read in both directions. See mail_home.h. */
#include "store/mail_home.h"

#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include "store/mail_variables.h"

/* One directory of the shape: what it says about the name. */
struct component {
	struct buf before, after; /* literal text around the variable */
	char variable; /* the only one, whole; 0: none, or nothing that can be read back */
	bool readable;
};

static void component_free(struct component *component)
{
	buf_free(&component->before);
	buf_free(&component->after);
}

/* text: one component of the shape. */
static int component_parse(const char *text, struct component *component_r, struct error *err)
{
	struct mail_variable_piece piece;
	unsigned variables = 0;
	int rc;

	memset(component_r, 0, sizeof *component_r);
	buf_init(&component_r->before, NAME_MAX);
	buf_init(&component_r->after, NAME_MAX);
	component_r->readable = true;
	while ((rc = mail_variables_next(&text, &piece, err)) > 0) {
		if (!piece.variable) {
			buf_append(variables ? &component_r->after : &component_r->before,
				   piece.literal, piece.len);
			continue;
		}
		variables++;
		component_r->variable = piece.variable;
		if (!piece.whole || piece.variable == 'h')
			component_r->readable = false;
	}
	if (variables != 1)
		component_r->readable = false;
	if (rc == 0 && (component_r->before.failed || component_r->after.failed))
		rc = error_set(err, -EINVAL, "mail_home: name in the path too long");
	return rc;
}

static unsigned count_components(const char *path)
{
	unsigned count = 1;

	for (; *path; path++)
		count += *path == '/';
	return count;
}

unsigned mail_home_depth(const char *shape)
{
	return count_components(shape);
}

/* Copies the next component of a path. */
static int next_component(const char **path, char name_r[NAME_MAX + 1])
{
	size_t len = strcspn(*path, "/");

	if (len == 0 || len > NAME_MAX)
		return -EINVAL;
	memcpy(name_r, *path, len);
	name_r[len] = '\0';
	*path += len + ((*path)[len] == '/');
	return strcmp(name_r, ".") == 0 || strcmp(name_r, "..") == 0 ? -EINVAL : 0;
}

int mail_home_check(const char *shape, struct error *err)
{
	bool user = false, name = false;
	unsigned count = count_components(shape);
	const char *p = shape;
	int rc = mail_variables_check(shape, false, err);

	for (unsigned i = 0; rc == 0 && i < count; i++) {
		struct component component;
		char text[NAME_MAX + 1];

		if (next_component(&p, text) < 0)
			return error_set(err, -EINVAL,
					 "mail_home: %s: an empty name, '.' or '..' in the path",
					 shape);
		rc = component_parse(text, &component, err);
		if (rc == 0 && component.readable) {
			user |= component.variable == 'u';
			name |= component.variable == 'n';
		}
		component_free(&component);
	}
	if (rc == 0 && !user && !name)
		rc = error_set(err, -EINVAL,
			       "mail_home: %s: no directory of it is named by %%u or %%n alone, so "
			       "that users could not be told apart",
			       shape);
	return rc;
}

int mail_home_from_name(const char *shape, const char *name, struct buf *home_rel,
			struct error *err)
{
	struct mail_variables variables = {.user = name};
	const char *p, *expanded;
	char text[NAME_MAX + 1];
	unsigned count;
	int rc = mail_user_name_check(name, err);

	if (rc < 0)
		return rc;
	if (!strchr(name, '@') &&
	    (strstr(shape, "%d") || strstr(shape, "%Ld") || strstr(shape, "%{domain}")))
		return error_set(err, -EINVAL, "user %s: has no domain, and mail_home needs one",
				 name);
	rc = mail_variables_expand(shape, &variables, home_rel, err);
	if (rc < 0)
		return rc;
	/* Whatever the variables held: as deep as the shape, and no way out. */
	expanded = buf_str(home_rel);
	count = count_components(expanded);
	p = expanded;
	rc = count == count_components(shape) ? 0 : -EINVAL;
	for (unsigned i = 0; i < count && rc == 0; i++)
		rc = next_component(&p, text);
	return rc < 0 ? error_set(err, -EINVAL, "user %s: the home would be %s, which is no path",
				  name, expanded)
		      : 0;
}

/* The variable's part of a directory's name. malloc'ed; NULL: it does not fit the shape. */
static char *match(const struct component *component, const char *dir)
{
	size_t len = strlen(dir), before = component->before.len, after = component->after.len;

	if (len <= before + after || memcmp(dir, buf_str(&component->before), before) != 0 ||
	    memcmp(dir + len - after, buf_str(&component->after), after) != 0)
		return NULL;
	return strndup(dir + before, len - before - after);
}

struct name_parts {
	char *user, *name, *domain;
};

static void take_part(struct name_parts *parts, char variable, char *text)
{
	char **slot = variable == 'u'	? &parts->user
		      : variable == 'n' ? &parts->name
					: &parts->domain;

	free(*slot);
	*slot = text;
}

static int read_parts(const char *shape, const char *home_rel, struct name_parts *parts)
{
	unsigned count = count_components(shape);

	if (count_components(home_rel) != count)
		return -EINVAL;
	for (unsigned i = 0; i < count; i++) {
		char text[NAME_MAX + 1], dir[NAME_MAX + 1];
		struct component component;
		char *part = NULL;
		int rc = 0;

		if (next_component(&shape, text) < 0 || next_component(&home_rel, dir) < 0)
			return -EINVAL;
		if (component_parse(text, &component, NULL) < 0 ||
		    (component.readable && !(part = match(&component, dir))))
			rc = -EINVAL;
		else if (component.readable)
			take_part(parts, component.variable, part);
		component_free(&component);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int mail_home_to_name(const char *shape, const char *home_rel, char **name_r)
{
	struct buf name = BUF_INIT(MAIL_USER_NAME_MAX), home = BUF_INIT(PATH_MAX);
	struct name_parts parts = {0};
	int rc = read_parts(shape, home_rel, &parts);

	*name_r = NULL;
	if (rc == 0 && parts.user) {
		buf_append_str(&name, parts.user);
	} else if (rc == 0 && parts.name) {
		buf_append_str(&name, parts.name);
		if (parts.domain)
			buf_printf(&name, "@%s", parts.domain);
	}
	/* What the name gives must be this home: other letter case, or a hash directory that is
	   not its own, is another one. */
	if (rc == 0)
		rc = name.failed ? -EINVAL
				 : mail_home_from_name(shape, buf_str(&name), &home, NULL);
	if (rc == 0 && strcmp(buf_str(&home), home_rel) != 0)
		rc = -EINVAL;
	if (rc == 0) {
		*name_r = strdup(name.data);
		rc = *name_r ? 0 : -ENOMEM;
	}
	free(parts.user);
	free(parts.name);
	free(parts.domain);
	buf_free(&name);
	buf_free(&home);
	return rc < 0 && rc != -ENOMEM ? -EINVAL : rc;
}
