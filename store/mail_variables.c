/* Variables in mail_home and mail_location, and user names. See mail_variables.h. */
#include "store/mail_variables.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct variable {
	char letter;
	bool lower, upper, sized;
	int offset, width; /* of sized */
};

/* Digits after the '%', at most three: no path needs more. */
static int parse_number(const char **p, struct error *err)
{
	int value = 0;

	for (int digits = 0; isdigit((unsigned char)**p); digits++, (*p)++) {
		if (digits == 3)
			return error_set(err, -EINVAL, "number after %% is too large");
		value = value * 10 + (**p - '0');
	}
	return value;
}

static char long_name(const char *name, size_t len)
{
	static const struct {
		const char *name;
		char letter;
	} names[] = {{"user", 'u'}, {"username", 'n'},	    {"domain", 'd'},
		     {"home", 'h'}, {"user|username", 'n'}, {"user|domain", 'd'}};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (strlen(names[i].name) == len && memcmp(names[i].name, name, len) == 0)
			return names[i].letter;
	}
	return 0;
}

static void parse_case(const char **p, struct variable *var)
{
	for (; **p == 'L' || **p == 'U'; (*p)++) {
		var->lower = **p == 'L';
		var->upper = **p == 'U';
	}
}

/* At the character behind '%'; leaves *p behind the variable. */
static int parse_variable(const char **p, struct variable *var_r, struct error *err)
{
	const char *start = *p;
	int rc;

	memset(var_r, 0, sizeof *var_r);
	parse_case(p, var_r);
	if (isdigit((unsigned char)**p)) {
		var_r->sized = true;
		rc = parse_number(p, err);
		if (rc < 0)
			return rc;
		var_r->width = rc;
		if (**p == '.') {
			(*p)++;
			var_r->offset = var_r->width;
			rc = parse_number(p, err);
			if (rc < 0)
				return rc;
			var_r->width = rc;
		}
		parse_case(p, var_r);
	}
	if (**p == '{') {
		const char *close = strchr(*p, '}');

		var_r->letter = close ? long_name(*p + 1, (size_t)(close - *p - 1)) : 0;
		if (close)
			*p = close + 1;
	} else if (**p && strchr("undh", **p)) {
		var_r->letter = *(*p)++;
	}
	if (!var_r->letter)
		return error_set(
			err, -EINVAL,
			"%%%.16s: not a variable that is known here (%%u %%n %%d %%h, "
			"%%{user} %%{username} %%{domain} %%{home}, modifiers L, U, width)",
			start);
	return 0;
}

/* The variable's whole text. */
static int variable_text(const struct variable *var, const struct mail_variables *variables,
			 const char **text_r, size_t *len_r, struct error *err)
{
	const char *at = strchr(variables->user, '@');

	switch (var->letter) {
	case 'u':
		*text_r = variables->user;
		*len_r = strlen(variables->user);
		return 0;
	case 'n':
		*text_r = variables->user;
		*len_r = at ? (size_t)(at - variables->user) : strlen(variables->user);
		return 0;
	case 'd':
		*text_r = at ? at + 1 : "";
		*len_r = strlen(*text_r);
		return 0;
	default:
		if (!variables->home)
			return error_set(err, -EINVAL, "%%h (the home) is not known here");
		*text_r = variables->home;
		*len_r = strlen(variables->home);
		return 0;
	}
}

static int append_variable(const struct variable *var, const struct mail_variables *variables,
			   struct buf *out, struct error *err)
{
	const char *text = "";
	size_t len = 0;
	int rc = variable_text(var, variables, &text, &len, err);

	if (rc < 0)
		return rc;
	if (var->sized) {
		size_t offset = (size_t)var->offset < len ? (size_t)var->offset : len;

		text += offset;
		len -= offset;
		if ((size_t)var->width < len)
			len = (size_t)var->width;
	}
	for (size_t i = 0; i < len; i++) {
		unsigned char c = (unsigned char)text[i];

		/* ASCII only, as Dovecot. */
		if (var->lower && c >= 'A' && c <= 'Z')
			c |= 0x20;
		else if (var->upper && c >= 'a' && c <= 'z')
			c &= (unsigned char)~0x20;
		buf_append_byte(out, c);
	}
	return 0;
}

int mail_variables_expand(const char *text, const struct mail_variables *variables, struct buf *out,
			  struct error *err)
{
	for (const char *p = text; *p;) {
		struct variable var;
		int rc;

		if (*p != '%') {
			buf_append_byte(out, (unsigned char)*p++);
			continue;
		}
		if (p[1] == '%') {
			buf_append_byte(out, '%');
			p += 2;
			continue;
		}
		p++;
		rc = parse_variable(&p, &var, err);
		if (rc == 0)
			rc = append_variable(&var, variables, out, err);
		if (rc < 0)
			return rc;
	}
	return out->failed ? error_set(err, out->failed, "%s: too long with its variables", text)
			   : 0;
}

int mail_variables_check(const char *text, bool with_home, struct error *err)
{
	struct mail_variables variables = {.user = "user@example.org",
					   .home = with_home ? "/home" : NULL};
	struct buf out = BUF_INIT((size_t)64 << 10);
	int rc = mail_variables_expand(text, &variables, &out, err);

	buf_free(&out);
	return rc;
}

int mail_variables_next(const char **text, struct mail_variable_piece *piece_r, struct error *err)
{
	struct variable var;
	const char *p = *text;
	int rc;

	memset(piece_r, 0, sizeof *piece_r);
	if (*p == '\0')
		return 0;
	if (*p != '%' || p[1] == '%') {
		/* "%%" is a piece of its own: one character. */
		piece_r->literal = p;
		piece_r->len = *p == '%' ? 1 : strcspn(p, "%");
		*text = p + (*p == '%' ? 2 : piece_r->len);
		return 1;
	}
	p++;
	rc = parse_variable(&p, &var, err);
	if (rc < 0)
		return rc;
	piece_r->variable = var.letter;
	piece_r->whole = !var.sized;
	*text = p;
	return 1;
}

static bool part_is_safe(const char *part, size_t len)
{
	return len > 0 && part[0] != '.';
}

int mail_user_name_check(const char *user, struct error *err)
{
	size_t len = strnlen(user, MAIL_USER_NAME_MAX + 1);
	const char *at = strchr(user, '@');

	if (len == 0)
		return error_set(err, -EINVAL, "user name is empty");
	if (len > MAIL_USER_NAME_MAX)
		return error_set(err, -EINVAL, "user name is longer than %d bytes",
				 MAIL_USER_NAME_MAX);
	for (const char *p = user; *p; p++) {
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			return error_set(err, -EINVAL, "user name has a control character");
		if (*p == '/')
			return error_set(err, -EINVAL, "user %s: a name cannot have a '/'", user);
	}
	if (at && strchr(at + 1, '@'))
		return error_set(err, -EINVAL, "user %s: more than one '@'", user);
	if (!part_is_safe(user, at ? (size_t)(at - user) : len))
		return error_set(err, -EINVAL,
				 "user %s: the part before '@' is empty or starts with a '.'",
				 user);
	if (at && !part_is_safe(at + 1, strlen(at + 1)))
		return error_set(err, -EINVAL, "user %s: the domain is empty or starts with a '.'",
				 user);
	return 0;
}
