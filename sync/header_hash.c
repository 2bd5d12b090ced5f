/*
 * See header_hash.h. The header block is collected first (its size is bounded), then the wanted
 * fields are picked from it in message order, with their spelling and folding.
 */
#include <errno.h>
#include <string.h>
#include <strings.h>
#include "store/base/digest.h"
#include "store/base/file.h"
#include "store/base/guid.h"
#include "sync/header_hash.h"

#define HEAD_BYTES_MAX ((size_t)4 * 1024 * 1024)

void header_hash_init(struct header_hash *hash)
{
	*hash = (struct header_hash){.head = BUF_INIT(HEAD_BYTES_MAX)};
}

void header_hash_free(struct header_hash *hash)
{
	buf_free(&hash->head);
}

bool header_hash_update(struct header_hash *hash, const void *data, size_t len)
{
	if (hash->done || buf_append(&hash->head, data, len) < 0)
		return true;
	for (;;) {
		char *line = hash->head.data + hash->line_start;
		size_t left = hash->head.len - hash->line_start;
		char *lf = memchr(line, '\n', left);

		if (lf == NULL)
			return false;
		if (lf == line || (lf == line + 1 && *line == '\r')) {
			hash->head.len = hash->line_start;
			hash->done = true;
			return true;
		}
		hash->line_start += (size_t)(lf - line) + 1;
	}
}

static bool name_is_listed(const char *names, const char *name, size_t len)
{
	while (*names != '\0') {
		size_t listed = strcspn(names, "\t");

		if (listed == len && strncasecmp(names, name, len) == 0)
			return true;
		names += listed;
		if (*names == '\t')
			names++;
	}
	return false;
}

/* Is this line, which begins a field, of a listed name? */
static bool field_is_wanted(const char *names, const char *line, size_t len)
{
	const char *colon = memchr(line, ':', len);

	if (colon == NULL)
		return false;
	size_t name_len = (size_t)(colon - line);
	while (name_len > 0 && (line[name_len - 1] == ' ' || line[name_len - 1] == '\t'))
		name_len--;
	return name_is_listed(names, line, name_len);
}

static int pick_fields(const struct buf *head, const char *names, struct buf *picked)
{
	const char *p = buf_str(head), *end = p + head->len;
	bool wanted = false;

	while (p < end) {
		const char *lf = memchr(p, '\n', (size_t)(end - p));
		const char *stop = lf != NULL ? lf : end;
		size_t len = (size_t)(stop - p);

		if (*p != ' ' && *p != '\t')
			wanted = field_is_wanted(names, p, len);
		if (lf != NULL && len > 0 && p[len - 1] == '\r')
			len--;
		if (wanted) {
			(void)buf_append(picked, p, len);
			(void)buf_append_byte(picked, '\n');
		}
		p = lf != NULL ? lf + 1 : end;
	}
	return buf_append_byte(picked, '\n');
}

/* In place, since it never grows. */
static void normalise(struct buf *text, enum header_hash_version version)
{
	size_t out = 0;
	bool in_run = false;

	if (version == HEADER_HASH_V1)
		return;
	for (size_t i = 0; i < text->len; i++) {
		unsigned char c = (unsigned char)text->data[i];
		bool odd = (c < 0x20 && c != '\t' && c != '\n') || c >= 0x7f || c == '?';

		if (odd) {
			if (!in_run)
				text->data[out++] = '?';
			in_run = true;
			continue;
		}
		in_run = false;
		if (c == ' ' && version >= HEADER_HASH_V3)
			continue;
		text->data[out++] = (char)c;
	}
	text->len = out;
}

int header_hash_finish(struct header_hash *hash, enum header_hash_version version,
		       const char *names, char hex_r[HEADER_HASH_HEX_SIZE])
{
	AUTO_BUF struct buf picked = BUF_INIT(HEAD_BYTES_MAX + 1);
	struct guid md5;

	if (hash->head.failed < 0)
		return hash->head.failed;
	int ret = pick_fields(&hash->head, names, &picked);
	if (ret < 0)
		return ret;
	normalise(&picked, version);
	digest_md5(picked.data, picked.len, md5.bytes);
	guid_to_hex(&md5, hex_r);
	return 0;
}
