/* LOCATION2 of the dsync command. See dsync_location.h. */
#include "sync/dsync_location.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "store/base/buf.h"
#include "store/base/file.h"
#include "sync/dsync_remote.h"

#define TEXT_MAX 8192

void dsync_location_free(struct dsync_location *location)
{
	free(location->text);
	free(location->mail);
	free(location->host);
	free(location->user);
	for (char **arg = location->argv; arg && *arg; arg++)
		free(*arg);
	free(location->argv);
	memset(location, 0, sizeof *location);
}

/* The words become the location's; args is empty afterwards. */
static int keep_args(struct dsync_location *location, struct dsync_args *args, struct error *err)
{
	location->place = DSYNC_PLACE_COMMAND;
	location->argv = malloc((args->count + 1) * sizeof *location->argv);
	if (!location->argv)
		return error_errno(err, -ENOMEM, "command");
	memcpy(location->argv, args->arg, args->count * sizeof *location->argv);
	location->argv[args->count] = NULL;
	args->count = 0;
	return 0;
}

static int keep_str(char **kept, const char *text, struct error *err)
{
	free(*kept);
	*kept = strdup(text);
	return *kept ? 0 : error_errno(err, -ENOMEM, "LOCATION2");
}

/* ---- a command ---- */

/* One word of a line that a shell has not split; quotes and '\' as there. False: none is left. */
static int next_word(const char **line, struct buf *word, struct error *err)
{
	const char *p = *line + strspn(*line, " \t");
	char quote = '\0';

	buf_clear(word);
	if (*p == '\0')
		return 0;
	for (; *p && (quote || !strchr(" \t", *p)); p++) {
		if (quote && *p == quote) {
			quote = '\0';
		} else if (!quote && (*p == '\'' || *p == '"')) {
			quote = *p;
		} else {
			if (*p == '\\' && quote != '\'' && p[1])
				p++;
			buf_append_byte(word, (unsigned char)*p);
		}
	}
	*line = p;
	if (quote || word->failed)
		return error_set(err, -EINVAL, quote ? "a quote is not closed" : "too long");
	return 1;
}

static int split(const char *line, struct dsync_args *args, struct error *err)
{
	AUTO_BUF struct buf word = BUF_INIT(TEXT_MAX);
	int rc;

	while ((rc = next_word(&line, &word, err)) > 0) {
		rc = dsync_args_add(args, buf_str(&word), word.len, err);
		if (rc < 0)
			return rc;
	}
	return rc;
}

static const char *base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

/* Does the command say already that it is the other end? "server" may also be a host's name: it
 * counts at the end, or behind dsync. */
static bool has_verb(const struct dsync_args *args)
{
	bool dsync = false;

	for (size_t i = 0; i < args->count; i++) {
		if (strcmp(args->arg[i], "dsync-server") == 0)
			return true;
		if (strcmp(args->arg[i], "server") == 0 && (dsync || i + 1 == args->count))
			return true;
		dsync |= strcmp(base_name(args->arg[i]), "dsync") == 0;
	}
	return false;
}

/* doveadm has one word for it, dsync (ours, and Dovecot's of that name) takes both. */
static const char *verb_for(const struct dsync_args *args)
{
	for (size_t i = 0; i < args->count; i++) {
		if (strcmp(base_name(args->arg[i]), "doveadm") == 0)
			return "dsync-server";
	}
	return "server";
}

static int parse_command(char *const *words, size_t count, struct dsync_location *location,
			 struct error *err)
{
	struct dsync_args args = {.count = 0};
	int rc = 0;

	if (count == 1)
		rc = split(words[0], &args, err);
	for (size_t i = 0; count > 1 && i < count && rc == 0; i++)
		rc = dsync_args_add(&args, words[i], strlen(words[i]), err);
	if (rc == 0 && args.count == 0)
		rc = error_set(err, -EINVAL, "is empty");
	if (rc == 0 && !has_verb(&args)) {
		const char *verb = verb_for(&args);

		rc = dsync_args_add(&args, verb, strlen(verb), err);
	}
	if (rc == 0)
		rc = keep_args(location, &args, err);
	dsync_args_free(&args);
	return rc;
}

/* ---- another machine ---- */

static int parse_remote(const struct settings *set, const char *login, const char *host,
			struct dsync_location *location, struct error *err)
{
	const char *user = location->user ? location->user : "";
	struct dsync_remote remote = {
		.login = login,
		.host = host,
		/* Where the name goes in front of the stream, the wrapper there uses it. */
		.user = user,
	};
	struct dsync_args args = {.count = 0};
	int rc;

	if (host[0] == '-')
		return error_set(err, -EINVAL, "'%s' is no host name", host);
	rc = dsync_remote_args(set->dsync_remote_cmd, &remote, &args, err);
	if (rc == 0)
		rc = keep_args(location, &args, err);
	dsync_args_free(&args);
	return rc;
}

static int parse_peer(const char *text, const struct settings *set, struct dsync_location *location,
		      struct error *err)
{
	AUTO_BUF struct buf strings = BUF_INIT(TEXT_MAX);
	struct settings_peer_text peer;
	int rc = settings_parse_peer(text, &peer, &strings, err);

	if (rc < 0)
		return rc;
	switch (peer.transport) {
	case SETTINGS_TRANSPORT_TCP:
	case SETTINGS_TRANSPORT_TCPS:
		location->place = DSYNC_PLACE_TCP;
		location->tls = peer.transport == SETTINGS_TRANSPORT_TCPS;
		location->port = peer.port		  ? peer.port
				 : set->doveadm_peer_port ? set->doveadm_peer_port
							  : SETTINGS_DOVEADM_PORT;
		if (!location->user)
			return error_set(err, -EINVAL, "needs -u: whose mail it is there");
		if (!set->doveadm_password[0])
			return error_set(err, -EINVAL, "needs the setting doveadm_password");
		return keep_str(&location->host, strings.data + peer.host, err);
	case SETTINGS_TRANSPORT_REMOTEPREFIX:
		location->user_on_stdin = true;
		if (!location->user)
			return error_set(err, -EINVAL, "needs -u: whose mail it is there");
		break;
	case SETTINGS_TRANSPORT_REMOTE:
		break;
	}
	return parse_remote(set, strings.data + peer.login, strings.data + peer.host, location,
			    err);
}

/* "host" or "user@host", where the user is the one whose mail it is. */
static int parse_host(const char *text, const struct settings *set, struct dsync_location *location,
		      struct error *err)
{
	const char *at = strrchr(text, '@');
	AUTO_BUF struct buf peer = BUF_INIT(TEXT_MAX);

	if (at) {
		free(location->user);
		location->user = strndup(text, (size_t)(at - text));
		if (!location->user)
			return error_errno(err, -ENOMEM, "LOCATION2");
	}
	if (at == text)
		return error_set(err, -EINVAL, "has no user before '@'");
	buf_printf(&peer, "remote:%s", at ? at + 1 : text);
	return parse_peer(buf_str(&peer), set, location, err);
}

/* ---- all of them ---- */

/* "letters:", and what follows. NULL: no such thing. */
static const char *after_scheme(const char *text)
{
	const char *p = text;

	while (isalnum((unsigned char)*p))
		p++;
	return p > text && *p == ':' ? p + 1 : NULL;
}

static bool is_peer_scheme(const char *text)
{
	static const char *const schemes[] = {"tcp:", "tcps:", "remote:", "remoteprefix:"};

	for (size_t i = 0; i < sizeof schemes / sizeof schemes[0]; i++) {
		if (strncmp(text, schemes[i], strlen(schemes[i])) == 0)
			return true;
	}
	return false;
}

static int parse(char *const *words, size_t count, const struct settings *set,
		 struct dsync_location *location, struct error *err)
{
	if (count > 1 && (is_peer_scheme(words[0]) || after_scheme(words[0])))
		return error_set(err, -EINVAL, "'%.100s' behind it: options stand before LOCATION2",
				 words[1]);
	if (count > 1)
		return parse_command(words, count, location, err);
	if (is_peer_scheme(words[0]))
		return parse_peer(words[0], set, location, err);
	if (after_scheme(words[0])) {
		location->place = DSYNC_PLACE_LOCAL;
		return keep_str(&location->mail, words[0], err);
	}
	if (strpbrk(words[0], " /"))
		return parse_command(words, count, location, err);
	return parse_host(words[0], set, location, err);
}

int dsync_location_parse(char *const *words, size_t count, const struct settings *set,
			 const char *user, struct dsync_location *location_r, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(TEXT_MAX);
	int rc = 0;

	memset(location_r, 0, sizeof *location_r);
	for (size_t i = 0; i < count; i++)
		buf_printf(&text, "%s%s", i ? " " : "", words[i]);
	rc = keep_str(&location_r->text, buf_str(&text), err);
	if (rc == 0 && user)
		rc = keep_str(&location_r->user, user, err);
	if (rc == 0)
		rc = parse(words, count, set, location_r, err);
	if (rc < 0) {
		error_prefix(err, "LOCATION2 %.200s", buf_str(&text));
		dsync_location_free(location_r);
	}
	return rc;
}
