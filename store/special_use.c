/* See special_use.h. */
#include "store/special_use.h"

#include <errno.h>
#include <string.h>
#include <strings.h>

int special_use_add(struct buf *lines, const char *attributes, const char *mailbox)
{
	if (strpbrk(attributes, "\t\n") || strpbrk(mailbox, "\t\n"))
		return -EINVAL;
	return buf_printf(lines, "%s\t%s\n", attributes, mailbox);
}

static bool is_listed(const char *attributes, size_t len, const char *wanted)
{
	const char *end = attributes + len;

	while (attributes < end) {
		size_t word = strcspn(attributes, " \t");

		if (word == strlen(wanted) && strncasecmp(attributes, wanted, word) == 0)
			return true;
		attributes += word + 1;
	}
	return false;
}

bool special_use_next(const char **pos, const char *attribute, struct buf *name)
{
	while (*pos && **pos) {
		const char *line = *pos;
		size_t attributes = strcspn(line, "\t"), len = strcspn(line, "\n");

		*pos = line + len + 1;
		if (is_listed(line, attributes, attribute)) {
			buf_append(name, line + attributes + 1, len - attributes - 1);
			return true;
		}
	}
	return false;
}
