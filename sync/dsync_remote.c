/* The command that reaches another machine. See dsync_remote.h. */
#include "sync/dsync_remote.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/buf.h"
#include "store/base/file.h"

#define WORD_MAX 8192

int dsync_args_add(struct dsync_args *args, const char *text, size_t len, struct error *err)
{
	if (args->count == DSYNC_ARGS_MAX)
		return error_set(err, -EINVAL, "a command of more than %d words", DSYNC_ARGS_MAX);
	args->arg[args->count] = strndup(text, len);
	if (!args->arg[args->count])
		return error_errno(err, -ENOMEM, "command");
	args->count++;
	return 0;
}

void dsync_args_free(struct dsync_args *args)
{
	for (size_t i = 0; i < args->count; i++)
		free(args->arg[i]);
	args->count = 0;
	args->arg[0] = NULL;
}

/* ---- a template ---- */

static bool is_name(const char *text, size_t len, const char *name)
{
	return strlen(name) == len && strncmp(text, name, len) == 0;
}

/* One variable behind its '%': appends its value and returns how long the variable's name was;
 * 0: unknown. */
static size_t expand(const char *p, const struct dsync_remote *remote, struct buf *out)
{
	const char *name = p, *at = strrchr(remote->user, '@');
	size_t len = 1, used = 1;

	if (p[0] == '{') {
		name = p + 1;
		len = strcspn(name, "}");
		if (name[len] == '\0')
			return 0;
		used = len + 2;
	}
	if (is_name(name, len, "login"))
		buf_append_str(out, remote->login);
	else if (is_name(name, len, "host"))
		buf_append_str(out, remote->host);
	else if (is_name(name, len, "u") || is_name(name, len, "user"))
		buf_append_str(out, remote->user);
	else if (is_name(name, len, "n") || is_name(name, len, "username"))
		buf_append(out, remote->user,
			   at ? (size_t)(at - remote->user) : strlen(remote->user));
	else if (is_name(name, len, "d") || is_name(name, len, "domain"))
		buf_append_str(out, at ? at + 1 : "");
	else
		return 0;
	return used;
}

/* A word with its variables replaced. *dropped_r: it had some, and all are empty. */
static int expand_word(const char *word, size_t word_len, const struct dsync_remote *remote,
		       struct buf *out, bool *dropped_r, struct error *err)
{
	bool variables = false, values = false;

	buf_clear(out);
	for (const char *p = word, *end = word + word_len; p < end; p++) {
		size_t before = out->len, used;

		if (*p != '%' || p[1] == '%') {
			buf_append_byte(out, (unsigned char)*p);
			p += *p == '%';
			continue;
		}
		used = expand(p + 1, remote, out);
		if (used == 0 || p + used >= end)
			return error_set(err, -EINVAL,
					 "dsync_remote_cmd: unknown variable in '%.*s'",
					 (int)word_len, word);
		variables = true;
		values |= out->len > before;
		p += used;
	}
	*dropped_r = variables && !values;
	return out->failed ? error_set(err, -EINVAL, "dsync_remote_cmd is too long") : 0;
}

static int expand_template(const char *template, const struct dsync_remote *remote,
			   struct dsync_args *args, struct error *err)
{
	AUTO_BUF struct buf word = BUF_INIT(WORD_MAX);

	for (const char *p = template + strspn(template, " "); *p; p += strspn(p, " ")) {
		size_t len = strcspn(p, " ");
		bool dropped = false;
		int rc = expand_word(p, len, remote, &word, &dropped, err);

		if (rc == 0 && !dropped)
			rc = dsync_args_add(args, buf_str(&word), word.len, err);
		if (rc < 0)
			return rc;
		p += len;
	}
	return args->count > 0 ? 0 : error_set(err, -EINVAL, "dsync_remote_cmd is empty");
}

/* ---- without one ---- */

/* ssh hands one line to the shell there. */
static void append_quoted(struct buf *out, const char *text)
{
	buf_append_byte(out, '\'');
	for (; *text; text++) {
		if (*text == '\'')
			buf_append_str(out, "'\\''");
		else
			buf_append_byte(out, (unsigned char)*text);
	}
	buf_append_byte(out, '\'');
}

static int ssh_command(const struct dsync_remote *remote, struct dsync_args *args,
		       struct error *err)
{
	AUTO_BUF struct buf user = BUF_INIT(WORD_MAX);
	AUTO_BUF struct buf line = BUF_INIT((size_t)4 * WORD_MAX);
	int rc = dsync_args_add(args, "ssh", 3, err);

	if (rc == 0 && remote->login[0]) {
		rc = dsync_args_add(args, "-l", 2, err);
		if (rc == 0)
			rc = dsync_args_add(args, remote->login, strlen(remote->login), err);
	}
	if (remote->user[0]) {
		buf_append_str(&user, " -u ");
		append_quoted(&user, remote->user);
	}
	/* dsync may be ours or Dovecot 2.3's, which takes the same words; 2.4 has doveadm alone. */
	buf_printf(&line,
		   "if command -v dsync >/dev/null 2>&1; then exec dsync%s server; "
		   "else exec doveadm dsync-server%s; fi",
		   buf_str(&user), buf_str(&user));
	if (rc == 0 && (user.failed || line.failed))
		rc = error_set(err, -EINVAL, "the user's name is too long");
	if (rc == 0)
		rc = dsync_args_add(args, remote->host, strlen(remote->host), err);
	return rc < 0 ? rc : dsync_args_add(args, buf_str(&line), line.len, err);
}

int dsync_remote_args(const char *template, const struct dsync_remote *remote,
		      struct dsync_args *args, struct error *err)
{
	return template[0] ? expand_template(template, remote, args, err)
			   : ssh_command(remote, args, err);
}
