/* See dbox_attachment.h. */
#include "store/dbox/dbox_attachment.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"

#define ATTACHMENTS_MAX 10000
#define COLUMNS_MAX	(1U << 30)
#define PIECE_MAX	4096 /* of a line; whole groups of 4 */
#define HASHES_DIR	"hashes"

/* ---- what the metadata says ---- */

void dbox_attachments_free(struct dbox_attachments *attachments)
{
	for (size_t i = 0; i < attachments->count; i++)
		free(attachments->list[i].name);
	free(attachments->list);
	*attachments = (struct dbox_attachments){0};
}

static bool name_is_safe(const char *name)
{
	char part[NAME_MAX + 1];

	for (;; name++) {
		size_t len = strcspn(name, "/");

		if (len == 0 || len > NAME_MAX)
			return false;
		memcpy(part, name, len);
		part[len] = '\0';
		if (!file_name_is_safe(part))
			return false;
		name += len;
		if (*name == '\0')
			return true;
	}
}

/* A word up to the next space or the end. NULL: none is left. */
static char *next_word(char **text)
{
	char *word = *text, *end;

	if (!word || !*word)
		return NULL;
	end = strchr(word, ' ');
	*text = end ? end + 1 : NULL;
	if (end)
		*end = '\0';
	return word;
}

static bool parse_number(const char *word, uint64_t max, uint64_t *value_r)
{
	char *end;

	if (!word || *word < '0' || *word > '9')
		return false;
	errno = 0;
	*value_r = strtoull(word, &end, 10);
	return *end == '\0' && errno == 0 && *value_r <= max;
}

static int parse_options(const char *word, unsigned *columns_r)
{
	uint64_t columns;

	*columns_r = 0;
	if (strcmp(word, "-") == 0)
		return 0;
	if (*word != 'B' || !parse_number(word + 1, COLUMNS_MAX, &columns) || columns == 0 ||
	    columns % 4 != 0)
		return -EOPNOTSUPP;
	*columns_r = (unsigned)columns;
	return 0;
}

static int add(struct dbox_attachments *attachments, const struct dbox_attachment *attachment)
{
	const struct dbox_attachment *last =
		attachments->count ? &attachments->list[attachments->count - 1] : NULL;
	struct dbox_attachment *grown;

	if (attachments->count == ATTACHMENTS_MAX || attachment->size == 0 ||
	    (last && attachment->start < last->start + last->size))
		return -EUCLEAN;
	grown = reallocarray(attachments->list, attachments->count + 1, sizeof *grown);
	if (!grown)
		return -ENOMEM;
	attachments->list = grown;
	grown[attachments->count] = *attachment;
	grown[attachments->count].name = strdup(attachment->name);
	if (!grown[attachments->count].name)
		return -ENOMEM;
	attachments->count++;
	return 0;
}

static int parse_line(char *text, struct dbox_attachments *attachments)
{
	char *word;

	while ((word = next_word(&text)) != NULL) {
		struct dbox_attachment attachment = {0};
		const char *options;
		int rc;

		if (!parse_number(word, INT64_MAX / 2, &attachment.start) ||
		    !parse_number(next_word(&text), INT64_MAX / 2, &attachment.size))
			return -EUCLEAN;
		options = next_word(&text);
		attachment.name = next_word(&text);
		if (!options || !attachment.name || !name_is_safe(attachment.name))
			return -EUCLEAN;
		rc = parse_options(options, &attachment.columns);
		if (rc == 0)
			rc = add(attachments, &attachment);
		if (rc < 0)
			return rc;
	}
	return 0;
}

int dbox_attachments_parse(const char *lines, struct dbox_attachments *attachments_r)
{
	AUTO_FREE char *copy = strdup(lines);
	char *line, *save = NULL;
	int rc = copy ? 0 : -ENOMEM;

	*attachments_r = (struct dbox_attachments){0};
	for (line = copy ? strtok_r(copy, "\n", &save) : NULL; rc == 0 && line;
	     line = strtok_r(NULL, "\n", &save)) {
		if (*line == 'X')
			rc = parse_line(line + 1, attachments_r);
	}
	return rc;
}

/* ---- the files ---- */

void dbox_attachment_suffix(const struct guid *mailbox, uint32_t uid,
			    char suffix_r[DBOX_ATTACHMENT_SUFFIX_SIZE])
{
	char hex[GUID_HEX_SIZE];

	snprintf(suffix_r, DBOX_ATTACHMENT_SUFFIX_SIZE, "-%s-%" PRIu32, guid_to_hex(mailbox, hex),
		 uid);
}

static int make_path(const char *dir, const char *name, const char *suffix, char **path_r)
{
	if (asprintf(path_r, "%s/%s%s", dir, name, suffix) >= 0)
		return 0;
	*path_r = NULL;
	return -ENOMEM;
}

/* "-<GUID>-<UID>" */
static bool is_suffix(const char *text)
{
	char hex[GUID_HEX_SIZE];
	struct guid guid;
	size_t digits;

	if (strlen(text) < sizeof hex || *text != '-')
		return false;
	memcpy(hex, text + 1, sizeof hex - 1);
	hex[sizeof hex - 1] = '\0';
	text += sizeof hex;
	digits = *text == '-' ? strspn(text + 1, "0123456789") : 0;
	return digits > 0 && text[1 + digits] == '\0' && guid_from_hex(hex, &guid) == 0;
}

/* What the name of path (without its suffix) has with any suffix is the same: each was a link to it
 * when its message was a copy of the first one. -ENOENT: it has none. */
static int find_other_suffix(const char *path, char **found_r)
{
	const char *slash = strrchr(path, '/'), *name = slash + 1;
	AUTO_FREE char *parent = strndup(path, (size_t)(slash - path));
	AUTO_DIR DIR *dir = parent ? opendir(parent) : NULL;
	const struct dirent *entry;
	size_t len = strlen(name);

	*found_r = NULL;
	if (!dir)
		return parent ? -errno : -ENOMEM;
	while ((errno = 0, entry = readdir(dir)) != NULL) {
		if (strncmp(entry->d_name, name, len) == 0 && is_suffix(entry->d_name + len))
			return make_path(parent, entry->d_name, "", found_r);
	}
	return errno ? -errno : -ENOENT;
}

/* The attachment's file: with the suffix, or, for a mailbox that has got another GUID since, with
 * another one. No suffix (mdbox): there is one name. */
static int find_file(const char *dir, const char *name, const char *suffix, char **path_r)
{
	AUTO_FREE char *stem = NULL;
	char *other;
	int rc = make_path(dir, name, suffix, path_r);

	if (rc < 0 || *suffix == '\0' || access(*path_r, F_OK) == 0 || errno != ENOENT)
		return rc;
	rc = make_path(dir, name, "", &stem);
	if (rc < 0)
		return rc;
	rc = find_other_suffix(stem, &other);
	/* Whoever opens the name that it should have says that there is none. */
	if (!other)
		return rc == -ENOENT ? 0 : rc;
	free(*path_r);
	*path_r = other;
	return 0;
}

int dbox_attachments_link(const char *dir, const struct dbox_attachments *attachments,
			  const char *from_suffix, const char *to_suffix, struct error *err)
{
	for (size_t i = 0; i < attachments->count; i++) {
		const char *name = attachments->list[i].name;
		AUTO_FREE char *from = NULL;
		AUTO_FREE char *to = NULL;
		int rc = find_file(dir, name, from_suffix, &from);

		if (rc == 0)
			rc = make_path(dir, name, to_suffix, &to);
		if (rc == 0 && link(from, to) < 0 && errno != EEXIST)
			rc = -errno;
		if (rc < 0)
			return error_errno(err, rc, "%s/%s%s: link", dir, name, from_suffix);
	}
	return 0;
}

/* The link of the last one that had the content goes, too; and directories that are empty. */
static void remove_hash(char *path)
{
	char *slash = strrchr(path, '/'), *dash = strchr(slash, '-');
	AUTO_FREE char *hash = NULL;
	struct stat st;

	if (!dash || asprintf(&hash, "%.*s/" HASHES_DIR "/%.*s", (int)(slash - path), path,
			      (int)(dash - slash - 1), slash + 1) < 0) {
		hash = NULL;
		return;
	}
	if (stat(hash, &st) == 0 && st.st_nlink == 1)
		unlink(hash);
	*strrchr(hash, '/') = '\0';
	rmdir(hash);
	*slash = '\0';
	if (rmdir(path) == 0) {
		*strrchr(path, '/') = '\0';
		rmdir(path);
	}
}

void dbox_attachments_remove(const char *dir, const struct dbox_attachments *attachments,
			     const char *suffix)
{
	for (size_t i = 0; i < attachments->count; i++) {
		const char *name = attachments->list[i].name;
		AUTO_FREE char *path = NULL;

		if (make_path(dir, name, suffix, &path) < 0)
			continue;
		if (unlink(path) < 0) {
			if (errno != ENOENT)
				log_warning("%s: unlink: %s", path, strerror(errno));
			continue;
		}
		if (strchr(name, '/'))
			remove_hash(path);
	}
}

/* ---- the whole message ---- */

struct dbox_attached {
	const char *dir;
	char suffix[DBOX_ATTACHMENT_SUFFIX_SIZE];
	struct dbox_attachments attachments;
	struct decompress *in;
	size_t next; /* attachment */
	uint64_t at; /* in the whole message */
	/* of the attachment that is being read */
	int fd;
	uint64_t left;
	bool first_line;
	unsigned columns_left; /* of the line that has been begun */
	char piece[PIECE_MAX + 1];
	size_t piece_at, piece_len;
};

int dbox_attached_open(const char *dir, const char *suffix, struct dbox_attachments *attachments,
		       struct decompress *in, struct dbox_attached **attached_r, struct error *err)
{
	struct dbox_attached *attached = calloc(1, sizeof *attached);

	*attached_r = attached;
	if (!attached)
		return error_errno(err, -ENOMEM, "%s", dir);
	attached->dir = dir;
	attached->in = in;
	attached->fd = -1;
	snprintf(attached->suffix, sizeof attached->suffix, "%s", suffix);
	attached->attachments = *attachments;
	*attachments = (struct dbox_attachments){0};
	return 0;
}

void dbox_attached_close(struct dbox_attached **attached_ptr)
{
	struct dbox_attached *attached = *attached_ptr;

	*attached_ptr = NULL;
	if (!attached)
		return;
	file_close(&attached->fd);
	dbox_attachments_free(&attached->attachments);
	free(attached);
}

static int begin_attachment(struct dbox_attached *attached, struct error *err)
{
	const struct dbox_attachment *attachment = &attached->attachments.list[attached->next];
	AUTO_FREE char *path = NULL;
	struct stat st;
	int rc = find_file(attached->dir, attachment->name, attached->suffix, &path);

	if (rc < 0)
		return error_errno(err, rc, "%s", attached->dir);
	attached->fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (attached->fd < 0 || fstat(attached->fd, &st) < 0)
		return error_errno(err, errno == ENOENT ? -EBADMSG : -errno, "attachment %s: %s",
				   path, strerror(errno));
	attached->left = attachment->size;
	attached->first_line = true;
	attached->columns_left = 0;
	attached->piece_at = attached->piece_len = 0;
	return S_ISREG(st.st_mode) ? 0 : error_set(err, -EBADMSG, "attachment %s: no file", path);
}

static size_t encode(const unsigned char *from, size_t len, char *to)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	char *start = to;

	for (; len; from += 3) {
		size_t part = len < 3 ? len : 3;
		unsigned value = (unsigned)from[0] << 16 | (part > 1 ? (unsigned)from[1] << 8 : 0) |
				 (part > 2 ? from[2] : 0);

		*to++ = digits[value >> 18];
		*to++ = digits[value >> 12 & 63];
		*to++ = part > 1 ? digits[value >> 6 & 63] : '=';
		*to++ = part > 2 ? digits[value & 63] : '=';
		len -= part;
	}
	return (size_t)(to - start);
}

/* The next piece of base64, with the line break before it. */
static int fill_piece(struct dbox_attached *attached, unsigned columns)
{
	unsigned char raw[PIECE_MAX / 4 * 3];
	unsigned want;
	ssize_t n;

	if (attached->columns_left == 0)
		attached->columns_left = columns;
	want = attached->columns_left < PIECE_MAX ? attached->columns_left : PIECE_MAX;
	n = file_read_some(attached->fd, raw, want / 4 * 3);
	if (n <= 0)
		return (int)n;
	attached->piece_len = 0;
	attached->piece_at = 0;
	if (!attached->first_line && attached->columns_left == columns)
		attached->piece[attached->piece_len++] = '\n';
	attached->first_line = false;
	attached->columns_left -= want;
	attached->piece_len += encode(raw, (size_t)n, attached->piece + attached->piece_len);
	return 1;
}

static ssize_t read_attachment(struct dbox_attached *attached, void *data, size_t size)
{
	unsigned columns = attached->attachments.list[attached->next].columns;
	size_t have;

	if (size > attached->left)
		size = (size_t)attached->left;
	if (!columns)
		return file_read_some(attached->fd, data, size);
	if (attached->piece_at == attached->piece_len) {
		int rc = fill_piece(attached, columns);

		if (rc <= 0)
			return rc;
	}
	have = attached->piece_len - attached->piece_at;
	if (have > size)
		have = size;
	memcpy(data, attached->piece + attached->piece_at, have);
	attached->piece_at += have;
	return (ssize_t)have;
}

static int end_attachment(struct dbox_attached *attached, struct error *err)
{
	char more;
	bool longer = attached->piece_at < attached->piece_len ||
		      file_read_some(attached->fd, &more, 1) > 0;

	file_close(&attached->fd);
	if (longer)
		return error_set(err, -EBADMSG, "attachment %s/%s%s: longer than its message says",
				 attached->dir, attached->attachments.list[attached->next].name,
				 attached->suffix);
	attached->next++;
	return 0;
}

ssize_t dbox_attached_read(struct dbox_attached *attached, void *data, size_t size,
			   struct error *err)
{
	const struct dbox_attachment *next = NULL;
	ssize_t n;

	if (size == 0)
		return 0;
	if (attached->next < attached->attachments.count)
		next = &attached->attachments.list[attached->next];
	if (next && attached->at >= next->start) {
		int rc = attached->fd < 0 ? begin_attachment(attached, err) : 0;

		if (rc < 0)
			return rc;
		n = read_attachment(attached, data, size);
		if (n <= 0)
			return error_errno(err, n < 0 ? (int)n : -EBADMSG,
					   "attachment %s/%s%s: shorter than its message says",
					   attached->dir, next->name, attached->suffix);
		attached->at += (uint64_t)n;
		attached->left -= (uint64_t)n;
		rc = attached->left == 0 ? end_attachment(attached, err) : 0;
		return rc < 0 ? rc : n;
	}
	if (next && size > next->start - attached->at)
		size = (size_t)(next->start - attached->at);
	n = decompress_read(attached->in, data, size);
	if (n < 0 || (n == 0 && next))
		return error_errno(err, n < 0 ? (int)n : -EBADMSG,
				   "the message ends before its attachments");
	attached->at += (uint64_t)n;
	return n;
}
