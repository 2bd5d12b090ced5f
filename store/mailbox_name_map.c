/*
 * Two ways to a mailbox name: from what a peer calls it (made storable), and from the directory
 * that an event names. See mailbox_list.h for both contracts.
 */
#include "store/mailbox_list.h"

#include "store/base/file.h"
#include "store/base/digest.h"
#include "store/dbox/dbox_names.h"
#include "store/mail_user.h"
#include "store/mailbox_name.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* Bytes of one part that are kept: leaves room for what modified UTF-7 makes of it. */
#define PART_BYTES_MAX 200

static size_t utf8_length_at(const char *text, size_t len)
{
	/* 1 to 4 bytes that are a valid character, else 0 */
	for (size_t n = 1; n <= 4 && n <= len; n++) {
		if (utf8_text_is_valid(text, n))
			return n;
	}
	return 0;
}

/* Appends one part with everything that the format cannot hold replaced. */
static void append_part(const struct mail_location *location, const char *part, size_t len,
			char alt_char, struct buf *out)
{
	size_t start = out->len;

	for (size_t i = 0; i < len;) {
		size_t n = utf8_length_at(part + i, len - i);
		bool bad = n == 0 || (part[i] == '.' && location->layout == MAIL_LAYOUT_MAILDIRPP);

		if (out->len - start + (n ? n : 1) > PART_BYTES_MAX)
			break;
		if (bad)
			buf_append_byte(out, (unsigned char)alt_char);
		else
			buf_append(out, part + i, n);
		i += n ? n : 1;
	}
}

/* The last resort: a name that says nothing but is always the same for the same original, so that
 * repeated syncs agree on it. */
static char *digest_name(const char *name)
{
	uint8_t sha1[DIGEST_SHA1_SIZE];
	struct guid guid;
	char *hex = malloc(GUID_HEX_SIZE);

	digest_sha1(name, strlen(name), sha1);
	memcpy(guid.bytes, sha1, sizeof guid.bytes);
	if (hex)
		guid_to_hex(&guid, hex);
	return hex;
}

int mailbox_name_storable(const struct mail_user *user, const char *name, char alt_char,
			  char **name_r)
{
	const struct mail_location *location = &user->location;
	struct buf out = BUF_INIT(MAILBOX_NAME_MAX);
	const char *part = name;

	/* As it is, if it can be; INBOX has one spelling. */
	if (mailbox_name_is_valid(location, name)) {
		*name_r = strdup(name);
		return *name_r ? 0 : -ENOMEM;
	}
	for (bool first = true;; first = false) {
		size_t len = strcspn(part, "/"), start;

		if (!first)
			buf_append_byte(&out, '/');
		start = out.len;
		if (first && len == 5 && strncasecmp(part, "INBOX", 5) == 0)
			buf_append_str(&out, "INBOX");
		else
			append_part(location, part, len, alt_char, &out);
		/* "", ".", "..", "~x", "cur": a character in front makes a name of its own of it.
		 */
		if (!out.failed) {
			AUTO_FREE char *alone = strdup(buf_str(&out) + start);

			if (alone && !mailbox_name_is_valid(location, alone) &&
			    strcmp(alone, "INBOX") != 0) {
				out.len = start;
				buf_append_byte(&out, (unsigned char)alt_char);
				buf_append_str(&out, alone);
			}
		}
		if (part[len] == '\0')
			break;
		part += len + 1;
	}
	if (!out.failed && mailbox_name_is_valid(location, buf_str(&out))) {
		*name_r = out.data;
		return 0;
	}
	buf_free(&out);
	*name_r = digest_name(name);
	return *name_r ? 0 : -ENOMEM;
}

/* The rest of path below root: "" for root itself, NULL where it is not below. */
static const char *below(const char *path, const char *root)
{
	size_t len = strlen(root);

	while (len && root[len - 1] == '/')
		len--;
	if (strncmp(path, root, len) != 0)
		return NULL;
	if (path[len] == '\0')
		return "";
	return path[len] == '/' ? path + len + 1 : NULL;
}

static int name_below(const struct mail_user *user, const char *path, const char *root,
		      char **name_r)
{
	const struct mail_location *location = &user->location;
	const char *rest = below(path, root), *top = mailbox_top_dir(location);
	int rc;

	if (!rest || strncmp(rest, top, strlen(top)) != 0)
		return -ENOENT;
	rest += strlen(top);
	if (*rest == '\0') {
		if (*top)
			return -ENOENT;
		/* The root itself is the inbox, unless INBOX= puts that elsewhere. */
		if (strcmp(root, location->root) == 0 &&
		    strcmp(location->inbox, location->root) != 0)
			return -ENOENT;
		*name_r = strdup("INBOX");
		return *name_r ? 0 : -ENOMEM;
	}
	if (location->layout == MAIL_LAYOUT_MAILDIRPP) {
		if (rest[0] != '.' || strchr(rest, '/') != NULL)
			return -ENOENT;
		rest++;
	}
	rc = mailbox_name_from_storage(location, rest, name_r);
	return rc == -EINVAL ? -ENOENT : rc;
}

int mailbox_name_from_dir(const struct mail_user *user, const char *dir, char **name_r)
{
	const struct mail_location *location = &user->location;
	const char *const roots[] = {location->root, location->control, location->index};
	AUTO_BUF struct buf path = BUF_INIT(65536);
	const size_t mails = strlen("/" DBOX_MAIL_DIR);

	*name_r = NULL;
	buf_append_str(&path, user->home);
	if (*dir) {
		buf_append_byte(&path, '/');
		buf_append_str(&path, dir);
	}
	if (path.failed)
		return -ENOENT;
	/* What makes a directory a mailbox, and holds its index. */
	if (location->driver != MAIL_DRIVER_MAILDIR && path.len > mails &&
	    strcmp(path.data + path.len - mails, "/" DBOX_MAIL_DIR) == 0) {
		path.len -= mails;
		path.data[path.len] = '\0';
	}
	if (strcmp(buf_str(&path), location->inbox) == 0) {
		*name_r = strdup("INBOX");
		return *name_r ? 0 : -ENOMEM;
	}
	for (int i = 0; i < 3; i++) {
		int rc = name_below(user, buf_str(&path), roots[i], name_r);

		if (rc != -ENOENT)
			return rc;
	}
	return -ENOENT;
}
