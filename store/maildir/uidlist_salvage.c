/*
 * What can be read of a damaged dovecot-uidlist. Dovecot throws such a file away and renumbers
 * every message; we keep what is sure, since UIDs and GUIDs are what replicas agree by.
 */
#include "store/maildir/uidlist_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/maildir/name_table.h"

struct salvage {
	struct uidlist_header header;
	char tail[UIDLIST_FIELDS_MAX];
	struct uidlist_record *lines;
	size_t count, room;
	size_t dropped;
};

/* Each key of the header on its own: one bad key does not cost the others. */
static void salvage_header(struct salvage *salvage, const char *line, size_t len)
{
	char text[UIDLIST_FIELDS_MAX], one[UIDLIST_FIELDS_MAX + 16];
	struct uidlist_header header;
	char *save = NULL;

	salvage->header.version = 3;
	if (uidlist_parse_header(line, len, &header, salvage->tail, sizeof salvage->tail) == 0) {
		salvage->header = header;
		return;
	}
	salvage->tail[0] = '\0';
	if (len >= sizeof text)
		len = sizeof text - 1;
	memcpy(text, line, len);
	text[len] = '\0';
	for (char *key = strtok_r(text, " ", &save); key; key = strtok_r(NULL, " ", &save)) {
		/* With what a header has to have, so that only this key decides. */
		snprintf(one, sizeof one, "3 V1 N1 %s", key);
		if (uidlist_parse_header(one, strlen(one), &header, NULL, 0) < 0)
			continue;
		if (*key == 'V')
			salvage->header.uid_validity = header.uid_validity;
		else if (*key == 'N')
			salvage->header.next_uid = header.next_uid;
		else if (*key == 'G')
			salvage->header.guid = header.guid;
	}
}

static int salvage_line(struct salvage *salvage, const char *line, size_t len)
{
	struct uidlist_record record;
	unsigned version = salvage->header.version;

	if (uidlist_parse_line(version, line, len, &record) < 0) {
		salvage->dropped++;
		return 0;
	}
	if (salvage->count == salvage->room) {
		size_t room = salvage->room ? salvage->room * 2 : 256;
		struct uidlist_record *lines = reallocarray(salvage->lines, room, sizeof *lines);

		if (!lines)
			return -ENOMEM;
		salvage->lines = lines;
		salvage->room = room;
	}
	salvage->lines[salvage->count++] = record;
	return 0;
}

static int line_cmp(const void *a, const void *b)
{
	const struct uidlist_record *line_a = a, *line_b = b;

	if (line_a->uid != line_b->uid)
		return line_a->uid < line_b->uid ? -1 : 1;
	/* As in the file: all point into one text. */
	return line_a->base < line_b->base ? -1 : line_a->base > line_b->base;
}

/* Sorts, and marks what is left out with UID 0. */
static int settle_lines(struct salvage *salvage)
{
	struct name_table names;
	uint32_t last_uid = 0;
	int rc;

	if (salvage->count)
		qsort(salvage->lines, salvage->count, sizeof *salvage->lines, line_cmp);
	for (size_t i = 0; i < salvage->count; i++) {
		struct uidlist_record *line = &salvage->lines[i];

		if (line->uid == last_uid) {
			line->uid = 0;
			salvage->dropped++;
		} else {
			last_uid = line->uid;
		}
	}
	if (salvage->header.next_uid <= last_uid)
		salvage->header.next_uid = last_uid + 1;
	rc = name_table_init(&names, salvage->count);
	for (size_t i = salvage->count; rc == 0 && i > 0; i--) {
		struct uidlist_record *line = &salvage->lines[i - 1];
		struct name_slot *slot;

		if (!line->uid)
			continue;
		slot = name_table_put(&names, line->base, line->base_len);
		if (!slot) {
			rc = -ENOMEM;
		} else if (slot->value) {
			line->uid = 0;
			salvage->dropped++;
		} else {
			slot->value = 1;
		}
	}
	name_table_free(&names);
	return rc;
}

static int format_lines(struct salvage *salvage, struct buf *lines)
{
	for (size_t i = 0; i < salvage->count; i++) {
		const struct uidlist_record *line = &salvage->lines[i];
		int rc;

		if (!line->uid)
			continue;
		rc = uidlist_format_line(lines, line->uid, line->fields, line->fields_len,
					 line->base, line->base_len);
		/* Fields that cannot be written are given up rather than the UID. */
		if (rc == -EINVAL)
			rc = uidlist_format_line(lines, line->uid, "", 0, line->base,
						 line->base_len);
		if (rc == -EINVAL)
			salvage->dropped++;
		else if (rc < 0)
			return rc;
	}
	return 0;
}

static int salvage_text(struct salvage *salvage, const char *text, size_t size)
{
	const char *p = text, *end = text + size;

	for (bool first = true; p < end; first = false) {
		const char *lf = memchr(p, '\n', (size_t)(end - p));
		int rc = 0;

		if (!lf)
			break; /* a part of a line is a writer that died */
		if (first)
			salvage_header(salvage, p, (size_t)(lf - p));
		/* A lost header may have left a line in the first place. */
		if (!first || (salvage->header.uid_validity == 0 && memchr(p, ':', lf - p)))
			rc = salvage_line(salvage, p, (size_t)(lf - p));
		if (rc < 0)
			return rc;
		p = lf + 1;
	}
	return 0;
}

int uidlist_salvage(int dirfd, const char *what, const struct uidlist_header *fallback,
		    size_t *dropped_r, struct error *err)
{
	AUTO_BUF struct buf text = BUF_INIT(UIDLIST_SIZE_MAX);
	AUTO_BUF struct buf lines = BUF_INIT(UIDLIST_SIZE_MAX);
	struct salvage salvage = {.header = {.version = 3}};
	int rc = file_read_at(dirfd, UIDLIST_NAME, &text);

	/* Not a file that could be read at all: as if there were none. */
	if (rc == -ENOENT || rc == -ELOOP || rc == -EISDIR || rc == -ENXIO) {
		buf_clear(&text);
		rc = 0;
	}
	if (rc == 0)
		rc = salvage_text(&salvage, buf_str(&text), text.len);
	if (rc == 0)
		rc = settle_lines(&salvage);
	if (rc == 0)
		rc = format_lines(&salvage, &lines);
	free(salvage.lines);
	if (rc < 0)
		return error_errno(err, rc, "%s/" UIDLIST_NAME, what);
	salvage.header.version = 3;
	if (salvage.header.uid_validity == 0)
		salvage.header.uid_validity = fallback->uid_validity;
	if (guid_is_empty(&salvage.header.guid))
		salvage.header.guid = fallback->guid;
	if (salvage.header.next_uid < fallback->next_uid)
		salvage.header.next_uid = fallback->next_uid;
	*dropped_r = salvage.dropped;
	return uidlist_replace(dirfd, what, &salvage.header, salvage.tail, &lines, err);
}
