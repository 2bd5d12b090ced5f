/* The format of m.N and u.UID: parsed, built, searched. See dbox_file.h. */
#include "store/dbox/dbox_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"

#define FILE_HEADER_MAX	   512
#define METADATA_MAGIC	   "\n\001\003\n"
#define METADATA_MAGIC_LEN 4
#define MESSAGE_MAGIC	   "\001\002"
#define MESSAGE_MAGIC_LEN  2
/* Enough for header, body and metadata of most mails in one read. */
#define READ_AHEAD     8192
#define METADATA_FIRST 512
#define SEARCH_CHUNK   65536

/* Digits up to `end`; false: none, or too many. */
static bool parse_hex(const char *text, const char *end, uint64_t *value_r)
{
	uint64_t value = 0;

	if (text == end || end - text > 16)
		return false;
	for (; text < end; text++) {
		unsigned digit;

		if (*text >= '0' && *text <= '9')
			digit = (unsigned)(*text - '0');
		else if (*text >= 'a' && *text <= 'f')
			digit = (unsigned)(*text - 'a') + 10;
		else if (*text >= 'A' && *text <= 'F')
			digit = (unsigned)(*text - 'A') + 10;
		else
			return false;
		value = value << 4 | digit;
	}
	*value_r = value;
	return true;
}

static bool parse_decimal(const char *text, const char *end, uint32_t *value_r)
{
	uint64_t value = 0;

	if (text == end || end - text > 10)
		return false;
	for (; text < end; text++) {
		if (*text < '0' || *text > '9')
			return false;
		value = value * 10 + (unsigned)(*text - '0');
	}
	if (value > UINT32_MAX)
		return false;
	*value_r = (uint32_t)value;
	return true;
}

/* ---- the first line ---- */

int dbox_file_header_parse(const char *data, size_t len, struct dbox_file_header *header_r)
{
	const char *end = memchr(data, '\n', len < FILE_HEADER_MAX ? len : FILE_HEADER_MAX);
	const char *word = data;
	uint64_t value;

	*header_r = (struct dbox_file_header){0};
	if (!end || end - data < 2 || data[0] != '2' || data[1] != ' ')
		return -EUCLEAN;
	for (word += 2; word < end;) {
		const char *stop = memchr(word, ' ', (size_t)(end - word));

		if (!stop)
			stop = end;
		if (*word == 'M') {
			if (!parse_hex(word + 1, stop, &value) ||
			    value < DBOX_MESSAGE_HEADER_SIZE || value > FILE_HEADER_MAX)
				return -EUCLEAN;
			header_r->message_header_size = (uint32_t)value;
		} else if (*word == 'C') {
			if (!parse_hex(word + 1, stop, &header_r->created))
				return -EUCLEAN;
		}
		word = stop < end ? stop + 1 : end;
	}
	header_r->size = (uint32_t)(end - data) + 1;
	return header_r->message_header_size ? 0 : -EUCLEAN;
}

int dbox_file_header_build(struct buf *out, int64_t created)
{
	return buf_printf(out, "2 M%x C%" PRIx64 "\n", DBOX_MESSAGE_HEADER_SIZE, (uint64_t)created);
}

int dbox_file_open(int dirfd, const char *name, int flags)
{
	int fd = file_open_regular(dirfd, name, flags);

	return fd == -EISDIR ? -ENXIO : fd;
}

int dbox_file_header_read(int fd, const char *what, struct dbox_file_header *header_r,
			  struct error *err)
{
	char data[FILE_HEADER_MAX];
	ssize_t n = file_pread_some(fd, data, sizeof data, 0);

	if (n < 0)
		return error_errno(err, (int)n, "%s: read", what);
	if (dbox_file_header_parse(data, (size_t)n, header_r) < 0)
		return error_set(err, -EUCLEAN, "%s: damaged at offset 0: not a dbox file", what);
	if (header_r->message_header_size != DBOX_MESSAGE_HEADER_SIZE)
		return error_set(err, -EOPNOTSUPP, "%s: message headers of %u bytes are not known",
				 what, header_r->message_header_size);
	return 0;
}

/* ---- messages ---- */

int dbox_message_header_parse(const char *data, size_t len, uint64_t *body_size_r)
{
	if (len < DBOX_MESSAGE_HEADER_SIZE || memcmp(data, MESSAGE_MAGIC, MESSAGE_MAGIC_LEN) != 0 ||
	    data[2] != 'N' || data[DBOX_MESSAGE_HEADER_SIZE - 1] != '\n')
		return -EUCLEAN;
	/* "\001\002N " and 8 bytes that were for another use, a space, the size. */
	if (!parse_hex(data + 13, data + 29, body_size_r) || *body_size_r > INT64_MAX)
		return -EUCLEAN;
	return 0;
}

int dbox_message_header_build(struct buf *out, uint64_t body_size)
{
	return buf_printf(out, MESSAGE_MAGIC "N %8s %016" PRIX64 "\n", "", body_size);
}

static int take_text(char **text, const char *value, const char *end)
{
	char *copy = strndup(value, (size_t)(end - value));

	if (!copy)
		return -ENOMEM;
	free(*text);
	*text = copy;
	return 0;
}

static int take_line(struct dbox_metadata *metadata, struct buf *other, const char *line,
		     const char *end)
{
	const char *value = line + 1;
	uint64_t number;

	/* None is written, and what holds one could not be kept. */
	if (memchr(line, '\0', (size_t)(end - line)))
		return -EUCLEAN;
	switch (*line) {
	case 'G':
		if (end - value > DBOX_GUID_MAX)
			return -EUCLEAN;
		return take_text(&metadata->guid, value, end);
	case 'B':
		return take_text(&metadata->mailbox, value, end);
	case 'P':
		return take_text(&metadata->pop3_uidl, value, end);
	case 'O':
		return parse_decimal(value, end, &metadata->pop3_order) ? 0 : -EUCLEAN;
	case 'R':
		if (!parse_hex(value, end, &number))
			return -EUCLEAN;
		metadata->received = (int64_t)number;
		return 0;
	case 'V':
		return parse_hex(value, end, &metadata->virtual_size) ? 0 : -EUCLEAN;
	case 'Z':
		return parse_hex(value, end, &metadata->physical_size) ? 0 : -EUCLEAN;
	case 'X':
		metadata->external = true;
		break;
	default:
		break;
	}
	return buf_append(other, line, (size_t)(end - line) + 1);
}

static int fill_texts(struct dbox_metadata *metadata, struct buf *other)
{
	char **const texts[] = {&metadata->guid, &metadata->mailbox, &metadata->pop3_uidl};

	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
		if (!*texts[i])
			*texts[i] = strdup("");
		if (!*texts[i])
			return -ENOMEM;
	}
	metadata->other = other->data ? other->data : strdup("");
	*other = (struct buf)BUF_INIT(DBOX_METADATA_MAX);
	return metadata->other ? 0 : -ENOMEM;
}

int dbox_metadata_parse(const char *data, size_t len, struct dbox_metadata *metadata_r,
			size_t *used_r)
{
	AUTO_BUF struct buf other = BUF_INIT(DBOX_METADATA_MAX);
	const char *line = data, *stop = data + len, *end;
	int rc = 0;

	*metadata_r = (struct dbox_metadata){0};
	for (;; line = end + 1) {
		end = line < stop ? memchr(line, '\n', (size_t)(stop - line)) : NULL;
		if (!end)
			return -EUCLEAN;
		if (end == line)
			break;
		rc = take_line(metadata_r, &other, line, end);
		if (rc < 0)
			return rc;
	}
	*used_r = (size_t)(end - data) + 1;
	return fill_texts(metadata_r, &other);
}

int dbox_metadata_build(struct buf *out, const struct dbox_metadata *metadata)
{
	buf_append(out, METADATA_MAGIC, METADATA_MAGIC_LEN);
	if (metadata->physical_size)
		buf_printf(out, "Z%" PRIx64 "\n", metadata->physical_size);
	buf_printf(out, "R%" PRIx64 "\nV%" PRIx64 "\n",
		   metadata->received > 0 ? (uint64_t)metadata->received : 0,
		   metadata->virtual_size);
	if (metadata->pop3_uidl && *metadata->pop3_uidl)
		buf_printf(out, "P%s\n", metadata->pop3_uidl);
	if (metadata->pop3_order)
		buf_printf(out, "O%u\n", metadata->pop3_order);
	if (metadata->guid && *metadata->guid)
		buf_printf(out, "G%s\n", metadata->guid);
	if (metadata->mailbox && *metadata->mailbox)
		buf_printf(out, "B%s\n", metadata->mailbox);
	if (metadata->other)
		buf_append_str(out, metadata->other);
	return buf_append_byte(out, '\n');
}

void dbox_metadata_free(struct dbox_metadata *metadata)
{
	free(metadata->guid);
	free(metadata->mailbox);
	free(metadata->pop3_uidl);
	free(metadata->other);
	*metadata = (struct dbox_metadata){0};
}

static int message_damaged(const char *what, uint64_t offset, const char *cause, struct error *err)
{
	return error_set(err, -EUCLEAN, "%s: damaged at offset %" PRIu64 ": %s", what, offset,
			 cause);
}

/* Parses the metadata at the message's body end. have: the file's bytes from the message's offset
 * on, as far as they were read. */
static int read_metadata(int fd, const char *what, const char *have, size_t have_len,
			 uint64_t limit, struct dbox_message *message, struct error *err)
{
	AUTO_FREE char *data = NULL;
	uint64_t at = message->body_offset + message->body_size;
	size_t want = METADATA_FIRST, used;

	for (;; want *= 4) {
		const char *from;
		ssize_t n;
		int rc;

		if (at - message->offset + METADATA_MAGIC_LEN < have_len &&
		    want == METADATA_FIRST) {
			from = have + (at - message->offset);
			n = (ssize_t)(have_len - (size_t)(at - message->offset));
		} else {
			char *grown = realloc(data, want);

			if (!grown)
				return error_errno(err, -ENOMEM, "%s", what);
			from = data = grown;
			n = file_pread_some(fd, data, want, at);
		}
		if (n < 0)
			return error_errno(err, (int)n, "%s: read at offset %" PRIu64, what, at);
		if (limit && (uint64_t)n > limit - at)
			n = (ssize_t)(limit - at);
		if (n < METADATA_MAGIC_LEN || memcmp(from, METADATA_MAGIC, METADATA_MAGIC_LEN) != 0)
			return message_damaged(what, at, "no metadata behind the message", err);
		dbox_metadata_free(&message->metadata);
		rc = dbox_metadata_parse(from + METADATA_MAGIC_LEN, (size_t)n - METADATA_MAGIC_LEN,
					 &message->metadata, &used);
		if (rc == -ENOMEM)
			return error_errno(err, rc, "%s", what);
		if (rc == 0) {
			message->end = at + METADATA_MAGIC_LEN + used;
			return 0;
		}
		if (want >= DBOX_METADATA_MAX)
			return message_damaged(what, at, "metadata that cannot be read", err);
	}
}

int dbox_message_read(int fd, const char *what, uint64_t offset, uint64_t size,
		      struct dbox_message *message_r, struct error *err)
{
	char data[READ_AHEAD];
	size_t want = size && size < sizeof data ? (size_t)size : sizeof data;
	ssize_t n = file_pread_some(fd, data, want, offset);
	struct stat st;
	int rc;

	*message_r = (struct dbox_message){.offset = offset};
	if (n < 0)
		return error_errno(err, (int)n, "%s: read at offset %" PRIu64, what, offset);
	if (n == 0)
		return error_set(err, -ENODATA, "%s: the file ends before offset %" PRIu64, what,
				 offset);
	if (dbox_message_header_parse(data, (size_t)n, &message_r->body_size) < 0)
		return message_damaged(what, offset, "no message begins here", err);
	if (fstat(fd, &st) < 0)
		return error_errno(err, -errno, "%s: stat", what);
	message_r->body_offset = offset + DBOX_MESSAGE_HEADER_SIZE;
	if (message_r->body_offset > (uint64_t)st.st_size ||
	    message_r->body_size > (uint64_t)st.st_size - message_r->body_offset)
		return message_damaged(what, offset, "the message ends behind the file", err);
	if (size && (size <= DBOX_MESSAGE_HEADER_SIZE ||
		     message_r->body_size > size - DBOX_MESSAGE_HEADER_SIZE))
		return message_damaged(what, offset, "the message is longer than the map says",
				       err);
	rc = read_metadata(fd, what, data, (size_t)n, size ? offset + size : 0, message_r, err);
	if (rc == 0 && size && message_r->end != offset + size)
		rc = message_damaged(what, offset, "the message is not as long as the map says",
				     err);
	if (rc < 0)
		dbox_message_free(message_r);
	return rc;
}

void dbox_message_free(struct dbox_message *message)
{
	dbox_metadata_free(&message->metadata);
}

/* ---- all of them ---- */

/* The next place at or behind offset where a message header could be. -ENODATA: none. */
static int find_message(int fd, uint64_t offset, uint64_t *found_r)
{
	AUTO_FREE char *data = malloc(SEARCH_CHUNK);

	if (!data)
		return -ENOMEM;
	for (;;) {
		ssize_t n = file_pread_some(fd, data, SEARCH_CHUNK, offset);
		const char *at = data;

		if (n < 0)
			return (int)n;
		if (n < DBOX_MESSAGE_HEADER_SIZE)
			return -ENODATA;
		while ((at = memmem(at, (size_t)(data + n - at), MESSAGE_MAGIC "N ",
				    MESSAGE_MAGIC_LEN + 2)) != NULL) {
			uint64_t size;

			if (data + n - at < DBOX_MESSAGE_HEADER_SIZE)
				break;
			if (dbox_message_header_parse(at, (size_t)(data + n - at), &size) == 0) {
				*found_r = offset + (uint64_t)(at - data);
				return 0;
			}
			at++;
		}
		offset += (uint64_t)n - (DBOX_MESSAGE_HEADER_SIZE - 1);
	}
}

int dbox_file_each(int fd, const char *what, dbox_message_fn *each, void *ctx, uint64_t *damaged_r,
		   struct error *err)
{
	struct dbox_file_header header;
	struct error ignored;
	uint64_t offset = 0, end_of_good = 0;
	struct stat st;
	int rc;

	*damaged_r = 0;
	if (fstat(fd, &st) < 0)
		return error_errno(err, -errno, "%s: stat", what);
	rc = dbox_file_header_read(fd, what, &header, err);
	if (rc == 0)
		offset = end_of_good = header.size;
	else if (rc != -EUCLEAN) /* a damaged first line costs no message */
		return rc;
	while (offset < (uint64_t)st.st_size) {
		struct dbox_message message;

		rc = dbox_message_read(fd, what, offset, 0, &message, &ignored);
		if (rc == -EUCLEAN) {
			rc = find_message(fd, offset + 1, &offset);
			if (rc == 0)
				continue;
		}
		if (rc == -ENODATA)
			break;
		if (rc < 0)
			return error_errno(err, rc, "%s: offset %" PRIu64, what, offset);
		*damaged_r += offset - end_of_good;
		offset = end_of_good = message.end;
		rc = each(ctx, &message);
		dbox_message_free(&message);
		if (rc != 0)
			return rc;
	}
	*damaged_r += (uint64_t)st.st_size - end_of_good;
	return 0;
}
