/*
 * Mailbox names: which are valid, how they are written on disk, which paths they have. See
 * mailbox_name.h. Encoding itself is in mutf7.c.
 *
 * What Dovecot refuses is refused here, too (seen with 2.3.19): control characters, a leading '~',
 * empty parts, "." and ".."; in Maildir++ a '.' inside a part; with LAYOUT=fs the parts cur, new
 * and tmp. Beyond that, names of Dovecot's own files at the top of LAYOUT=fs.
 */
#include "store/mailbox_name.h"
#include "store/base/file.h"
#include "store/dbox/dbox_names.h"
#include "store/mail_user.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool has_prefix(const char *text, const char *prefix)
{
	return strncmp(text, prefix, strlen(prefix)) == 0;
}

/* Files and directories of Dovecot's own that a directory of LAYOUT=fs would collide with: in dbox,
 * which has its mailboxes below a directory of their own, only the one inside each. */
static bool is_reserved_fs(const struct mail_location *location, const char *part, size_t len,
			   bool first)
{
	static const char *const maildir[] = {"cur", "new", "tmp"};
	static const char *const top[] = {"subscriptions",   "subscriptions.lock", "mailboxes.lock",
					  "..DOVECOT-TrasH", "maildirfolder",	   "maildirsize"};
	static const char *const top_prefixes[] = {
		"dovecot-uidlist",    "dovecot-keywords",    "dovecot-uidvalidity", "dovecot.index",
		"dovecot.list.index", "dovecot.mailbox.log", "dsyncfs.mailbox.log"};

	if (location->driver != MAIL_DRIVER_MAILDIR)
		return len == strlen(DBOX_MAIL_DIR) && memcmp(part, DBOX_MAIL_DIR, len) == 0;
	for (size_t i = 0; i < sizeof maildir / sizeof *maildir; i++) {
		if (len == strlen(maildir[i]) && memcmp(part, maildir[i], len) == 0)
			return true;
	}
	if (!first)
		return false;
	for (size_t i = 0; i < sizeof top / sizeof *top; i++) {
		if (len == strlen(top[i]) && memcmp(part, top[i], len) == 0)
			return true;
	}
	for (size_t i = 0; i < sizeof top_prefixes / sizeof *top_prefixes; i++) {
		if (len >= strlen(top_prefixes[i]) && has_prefix(part, top_prefixes[i]))
			return true;
	}
	return false;
}

static bool part_is_valid(const struct mail_location *location, const char *part, size_t len,
			  bool first)
{
	if (len == 0 || (len == 1 && part[0] == '.') ||
	    (len == 2 && part[0] == '.' && part[1] == '.'))
		return false;
	if (!utf8_text_is_valid(part, len))
		return false;
	if (first && part[0] == '~')
		return false;
	if (location->layout == MAIL_LAYOUT_MAILDIRPP)
		return memchr(part, '.', len) == NULL;
	return !is_reserved_fs(location, part, len, first);
}

/* Appends the storage form of a valid part. */
static int part_encode(const struct mail_location *location, const char *part, size_t len,
		       struct buf *out)
{
	return location->utf8 ? buf_append(out, part, len) : mutf7_encode(part, len, out);
}

/* Builds the storage name; -EINVAL for a name that has none. */
static int encode(const struct mail_location *location, const char *name, struct buf *out)
{
	char separator = location->layout == MAIL_LAYOUT_MAILDIRPP ? '.' : '/';
	const char *part = name;
	unsigned parts = 0;

	if (strlen(name) > MAILBOX_NAME_MAX)
		return -EINVAL;
	for (;;) {
		size_t len = strcspn(part, "/"), start;
		int rc;

		parts++;
		if (parts > MAILBOX_NAME_PARTS_MAX ||
		    !part_is_valid(location, part, len, parts == 1))
			return -EINVAL;
		/* INBOX has one spelling here, whatever the disk or a client says. */
		if (parts == 1 && len == 5 && strncasecmp(part, "INBOX", 5) == 0 &&
		    memcmp(part, "INBOX", 5) != 0)
			return -EINVAL;
		if (parts > 1)
			buf_append_byte(out, (unsigned char)separator);
		start = out->len;
		rc = part_encode(location, part, len, out);
		if (rc < 0)
			return rc == -EILSEQ ? -EINVAL : rc;
		if (separator == '/' && out->len - start > NAME_MAX)
			return -EINVAL;
		if (part[len] == '\0')
			break;
		part += len + 1;
	}
	/* One directory name holds all of it, and a dot in front. */
	if (separator == '.' && out->len + 1 > NAME_MAX)
		return -EINVAL;
	return out->failed;
}

bool mailbox_name_is_valid(const struct mail_location *location, const char *name)
{
	AUTO_BUF struct buf storage = BUF_INIT(4 * MAILBOX_NAME_MAX);

	return encode(location, name, &storage) == 0;
}

int mailbox_name_to_storage(const struct mail_location *location, const char *name,
			    char **storage_r)
{
	struct buf storage = BUF_INIT(4 * MAILBOX_NAME_MAX);
	int rc = encode(location, name, &storage);

	if (rc < 0) {
		buf_free(&storage);
		return rc;
	}
	*storage_r = storage.data; /* taken over: never NULL, the name is not empty */
	return 0;
}

int mailbox_name_from_storage(const struct mail_location *location, const char *storage,
			      char **name_r)
{
	char separator = location->layout == MAIL_LAYOUT_MAILDIRPP ? '.' : '/';
	const char delimiters[] = {separator, '\0'};
	struct buf name = BUF_INIT(MAILBOX_NAME_MAX);
	struct buf again = BUF_INIT(4 * MAILBOX_NAME_MAX);
	const char *part = storage;
	int rc = 0;

	for (;;) {
		size_t len = strcspn(part, delimiters);

		if (name.len)
			buf_append_byte(&name, '/');
		/* A '/' of modified UTF-7's own would split the part in two. */
		if (memchr(part, '/', len) != NULL) {
			rc = -EINVAL;
			break;
		}
		rc = location->utf8 ? buf_append(&name, part, len) : mutf7_decode(part, len, &name);
		if (rc < 0 || part[len] == '\0')
			break;
		part += len + 1;
	}
	/* Valid, and the one storage name of this name: else two directories could be one mailbox.
	 */
	if (rc == 0)
		rc = encode(location, buf_str(&name), &again);
	if (rc == 0 && strcmp(buf_str(&again), storage) != 0)
		rc = -EINVAL;
	buf_free(&again);
	if (rc < 0) {
		buf_free(&name);
		return rc == -EILSEQ || rc == -EMSGSIZE ? -EINVAL : rc;
	}
	*name_r = name.data;
	return 0;
}

char *mailbox_name_visible(const char *name, char separator)
{
	char *visible = strdup(name);

	for (char *p = visible; p && (p = strchr(p, '/')) != NULL; p++)
		*p = separator;
	return visible;
}

void mailbox_name_hash(const char *name, char separator, struct guid *guid_r)
{
	char *visible = mailbox_name_visible(name, separator);

	if (!visible)
		abort();
	guid_from_name(visible, guid_r);
	free(visible);
}

const char *mailbox_top_dir(const struct mail_location *location)
{
	return location->driver == MAIL_DRIVER_MAILDIR ? "" : DBOX_MAILBOXES_DIR "/";
}

/* root + "/" + [dot] + storage + suffix */
static char *join(const struct mail_location *location, const char *root, const char *storage,
		  const char *suffix)
{
	const char *dot = location->layout == MAIL_LAYOUT_MAILDIRPP ? "." : "";
	char *path = NULL;

	return asprintf(&path, "%s/%s%s%s%s", root, mailbox_top_dir(location), dot, storage,
			suffix) < 0
		       ? NULL
		       : path;
}

static int get_paths(const struct mail_location *location, const char *name, const char *suffix,
		     struct mailbox_paths *paths_r)
{
	bool inbox = strcmp(name, "INBOX") == 0;
	char *storage = NULL;
	int rc = mailbox_name_to_storage(location, name, &storage);

	*paths_r = (struct mailbox_paths){NULL, NULL, NULL};
	if (rc < 0)
		return rc;
	if (!inbox)
		paths_r->mail = join(location, location->root, storage, suffix);
	else if (asprintf(&paths_r->mail, "%s%s", location->inbox, suffix) < 0)
		paths_r->mail = NULL;
	/* Without CONTROL= or INDEX= these files lie with the mail, also where INBOX= moves it. */
	paths_r->control = strcmp(location->control, location->root) == 0 ||
					   location->driver != MAIL_DRIVER_MAILDIR
				   ? (paths_r->mail ? strdup(paths_r->mail) : NULL)
				   : join(location, location->control, storage, suffix);
	paths_r->index = strcmp(location->index, location->root) == 0
				 ? (paths_r->mail ? strdup(paths_r->mail) : NULL)
				 : join(location, location->index, storage, "");
	free(storage);
	if (!paths_r->mail || !paths_r->control || !paths_r->index) {
		mailbox_paths_free(paths_r);
		return -ENOMEM;
	}
	return 0;
}

int mailbox_paths_get(const struct mail_location *location, const char *name,
		      struct mailbox_paths *paths_r)
{
	return get_paths(location, name,
			 location->driver == MAIL_DRIVER_MAILDIR ? "" : "/" DBOX_MAIL_DIR, paths_r);
}

int mailbox_dirs_get(const struct mail_location *location, const char *name,
		     struct mailbox_paths *paths_r)
{
	return get_paths(location, name, "", paths_r);
}

void mailbox_paths_free(struct mailbox_paths *paths)
{
	if (!paths)
		return;
	free(paths->mail);
	free(paths->control);
	free(paths->index);
	*paths = (struct mailbox_paths){NULL, NULL, NULL};
}
