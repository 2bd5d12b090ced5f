/*
 * Dovecot's variables in mail_home and mail_location: %u user@domain, %n user, %d domain, %h home
 * (and %{user}, %{username}, %{domain}, %{home}), %%. Modifiers: L lower case, U upper case, a
 * width, or offset and width: %1n is the first character, %2.1n the third.
 *
 * And the rules that a user's name keeps, since it becomes a path.
 */
#ifndef DSYNCFS_MAIL_VARIABLES_H
#define DSYNCFS_MAIL_VARIABLES_H

#include <stdbool.h>

#include "store/base/buf.h"
#include "store/base/error.h"

#define MAIL_USER_NAME_MAX 320 /* local part, @ and domain of RFC 5321 */

struct mail_variables {
	const char *user; /* checked by mail_user_name_check() */
	const char *home; /* NULL: %h is an error */
};

/* Appends text with its variables replaced. -EINVAL: an unknown variable or modifier. */
int mail_variables_expand(const char *text, const struct mail_variables *variables, struct buf *out,
			  struct error *err);
/* Whether text has only variables that can be replaced. */
int mail_variables_check(const char *text, bool with_home, struct error *err);

/* -EINVAL with the reason: a name that is empty, too long, has control characters, a '/', or a part
 * that would be empty or start with a '.'. */
int mail_user_name_check(const char *user, struct error *err);

/* One piece of a text: literal, or one variable. For reading a template backwards. */
struct mail_variable_piece {
	char variable; /* 'u', 'n', 'd', 'h'; 0: literal */
	bool whole;    /* no width or offset: its text is all of the variable, but for the case */
	const char *literal;
	size_t len; /* of the literal */
};
/* Takes the next piece off *text. 0: done; 1: piece_r is filled. */
int mail_variables_next(const char **text, struct mail_variable_piece *piece_r, struct error *err);

#endif
