/* Dovecot's mail_location: read, or found by looking. See mail_location.h. */
#include "store/mail_location.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "store/base/digest.h"
#include "store/base/buf.h"
#include "store/base/file.h"

void mail_location_free(struct mail_location *location)
{
	free(location->root);
	free(location->index);
	free(location->control);
	free(location->inbox);
	free(location->volatile_dir);
	free(location->alt);
	free(location->attachments);
	memset(location, 0, sizeof *location);
}

/* The next part up to ':', where "::" is a ':' that belongs to it. False: none is left. */
static bool next_part(const char **text, struct buf *part)
{
	const char *p = *text;

	buf_clear(part);
	if (!p)
		return false;
	for (; *p; p++) {
		if (*p == ':') {
			p++;
			if (*p != ':') {
				*text = p;
				return true;
			}
		}
		buf_append_byte(part, (unsigned char)*p);
	}
	*text = NULL;
	return true;
}

/* An absolute path without '/' at its end, no part of which is "." or "..". malloc'ed. */
static int make_path(const char *what, const char *text, const char *home, char **path_r,
		     struct error *err)
{
	AUTO_BUF struct buf path = BUF_INIT(PATH_MAX);

	if (text[0] == '~' && (text[1] == '/' || text[1] == '\0')) {
		buf_append_str(&path, home);
		text++;
	}
	buf_append_str(&path, text);
	while (path.len > 1 && path.data[path.len - 1] == '/')
		path.data[--path.len] = '\0';
	if (path.failed)
		return error_set(err, -EINVAL, "%s: path too long", what);
	if (buf_str(&path)[0] != '/')
		return error_set(err, -EINVAL, "%s%s%s: not an absolute path ('~/' is the home)",
				 what, text[0] ? " " : "", text);
	for (const char *p = path.data; (p = strchr(p, '/')) != NULL;) {
		size_t len = strcspn(++p, "/");

		if (len > NAME_MAX)
			return error_set(err, -EINVAL, "%s: name in the path too long", what);
		if ((len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.'))
			return error_set(err, -EINVAL, "%s %s: '.' and '..' are not allowed", what,
					 path.data);
	}
	*path_r = strdup(path.data);
	return *path_r ? 0 : error_errno(err, -ENOMEM, "%s", what);
}

static int parse_driver(const char *driver, struct mail_location *location, struct error *err)
{
	static const struct {
		const char *name;
		enum mail_driver driver;
		enum mail_layout layout;
	} drivers[] = {{"maildir", MAIL_DRIVER_MAILDIR, MAIL_LAYOUT_MAILDIRPP},
		       {"mdbox", MAIL_DRIVER_MDBOX, MAIL_LAYOUT_FS},
		       {"sdbox", MAIL_DRIVER_SDBOX, MAIL_LAYOUT_FS},
		       {"dbox", MAIL_DRIVER_SDBOX, MAIL_LAYOUT_FS}};

	for (size_t i = 0; i < sizeof drivers / sizeof drivers[0]; i++) {
		if (strcasecmp(drivers[i].name, driver) == 0) {
			location->driver = drivers[i].driver;
			location->layout = drivers[i].layout;
			return 0;
		}
	}
	return error_set(err, -EINVAL,
			 "mail_location: %.32s: is not supported; maildir:, mdbox: and sdbox: are",
			 driver);
}

static int parse_layout(const char *value, struct mail_location *location, struct error *err)
{
	if (strcasecmp(value, "maildir++") == 0)
		location->layout = MAIL_LAYOUT_MAILDIRPP;
	else if (strcasecmp(value, "fs") == 0)
		location->layout = MAIL_LAYOUT_FS;
	else
		return error_set(err, -EINVAL, "mail_location: LAYOUT=%s is not Maildir++ or fs",
				 value);
	if (location->layout == MAIL_LAYOUT_MAILDIRPP && location->driver != MAIL_DRIVER_MAILDIR)
		return error_set(err, -EINVAL, "mail_location: LAYOUT=Maildir++ is for maildir:");
	return 0;
}

/* What changes nothing that we look at. */
static bool is_harmless(const char *key)
{
	static const char *const keys[] = {"ITERINDEX", "NO-NOSELECT", "NO-FS-VALIDATION",
					   "BROKENCHAR"};

	for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
		if (strcasecmp(keys[i], key) == 0)
			return true;
	}
	return false;
}

static int parse_option(char *part, const char *home, struct mail_location *location,
			struct error *err)
{
	char *value = strchr(part, '='), **path;
	char what[64];

	if (value)
		*value++ = '\0';
	snprintf(what, sizeof what, "mail_location: %.32s=", part);
	if (strcasecmp(part, "LAYOUT") == 0 && value)
		return parse_layout(value, location, err);
	if (strcasecmp(part, "UTF-8") == 0 && !value) {
		location->utf8 = true;
		return 0;
	}
	if (strcasecmp(part, "SUBSCRIPTIONS") == 0 && value && strcmp(value, "subscriptions") == 0)
		return 0;
	if (strcasecmp(part, "INDEX") == 0)
		path = &location->index;
	else if (strcasecmp(part, "CONTROL") == 0)
		path = &location->control;
	else if (strcasecmp(part, "INBOX") == 0)
		path = &location->inbox;
	else if (strcasecmp(part, "VOLATILEDIR") == 0)
		path = &location->volatile_dir;
	else if (strcasecmp(part, "ALT") == 0 && location->driver != MAIL_DRIVER_MAILDIR)
		path = &location->alt;
	else if (is_harmless(part))
		return 0;
	else
		return error_set(err, -EINVAL,
				 "mail_location: %s is not supported here (LAYOUT=, INDEX=, "
				 "CONTROL=, INBOX=, VOLATILEDIR=, UTF-8 and, for dbox, ALT= are)",
				 part);
	if (!value)
		return error_set(err, -EINVAL, "mail_location: %s needs a path", part);
	if (path == &location->index && strcasecmp(value, "MEMORY") == 0)
		return error_set(err, -EINVAL,
				 "mail_location: INDEX=MEMORY keeps no index to replicate from");
	free(*path);
	*path = NULL;
	return make_path(what, value, home, path, err);
}

static int fill_defaults(struct mail_location *location)
{
	if (!location->index)
		location->index = strdup(location->root);
	if (!location->control)
		location->control = strdup(location->root);
	if (!location->inbox && location->driver == MAIL_DRIVER_MAILDIR)
		location->inbox = strdup(location->root);
	if (!location->inbox) {
		size_t size = strlen(location->root) + sizeof "/mailboxes/INBOX";

		location->inbox = malloc(size);
		if (location->inbox)
			snprintf(location->inbox, size, "%s/mailboxes/INBOX", location->root);
	}
	return location->index && location->control && location->inbox ? 0 : -ENOMEM;
}

static int parse(const char *text, const char *home, struct mail_location *location,
		 struct error *err)
{
	AUTO_BUF struct buf part = BUF_INIT(PATH_MAX);
	int rc;

	next_part(&text, &part);
	rc = parse_driver(buf_str(&part), location, err);
	if (rc < 0)
		return rc;
	if (!next_part(&text, &part) || !part.len)
		return error_set(err, -EINVAL, "mail_location: path missing");
	rc = make_path("mail_location:", buf_str(&part), home, &location->root, err);
	while (rc == 0 && next_part(&text, &part)) {
		if (part.failed)
			rc = error_set(err, -EINVAL, "mail_location: option too long");
		else if (part.data && part.len)
			rc = parse_option(part.data, home, location, err);
	}
	if (rc == 0 && fill_defaults(location) < 0)
		rc = error_errno(err, -ENOMEM, "mail_location");
	return rc;
}

/* Several namespaces may have one volatile directory. */
void mail_location_set_prefix(struct mail_location *location, const char *prefix)
{
	uint8_t digest[DIGEST_SHA1_SIZE];

	if (!location->volatile_dir)
		return;
	digest_sha1(prefix, strlen(prefix), digest);
	digest_to_hex(digest, sizeof digest, location->volatile_suffix);
}

int mail_location_parse(const char *text, const char *home, struct mail_location *location_r,
			struct error *err)
{
	int rc;

	memset(location_r, 0, sizeof *location_r);
	rc = parse(text, home, location_r, err);
	if (rc < 0)
		mail_location_free(location_r);
	else
		mail_location_set_prefix(location_r, "");
	return rc;
}

static bool is_dir(const char *home, const char *name)
{
	char path[PATH_MAX];
	struct stat st;
	int len = snprintf(path, sizeof path, "%s/%s", home, name);

	return len > 0 && (size_t)len < sizeof path && lstat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int mail_location_detect(const char *home, struct mail_location *location_r, struct error *err)
{
	static const struct {
		const char *probe, *location;
	} probes[] = {
		{"Maildir/cur", "maildir:~/Maildir"},
		{"mdbox/mailboxes", "mdbox:~/mdbox"},
		{"sdbox/mailboxes", "sdbox:~/sdbox"},
		/* As Postfix's virtual(8) delivers. */
		{"cur", "maildir:~"},
		{"Maildir", "maildir:~/Maildir"},
		{"mdbox", "mdbox:~/mdbox"},
		{"sdbox", "sdbox:~/sdbox"},
	};

	memset(location_r, 0, sizeof *location_r);
	for (size_t i = 0; i < sizeof probes / sizeof probes[0]; i++) {
		if (is_dir(home, probes[i].probe))
			return mail_location_parse(probes[i].location, home, location_r, err);
	}
	return error_set(err, -ENOENT, "%s: no mail found (neither Maildir, mdbox nor sdbox)",
			 home);
}
