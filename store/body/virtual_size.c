/* See virtual_size.h. */
#include "store/body/virtual_size.h"

#include <string.h>

uint64_t virtual_size_of(const char *data, size_t len, bool *last_was_cr)
{
	const char *end = data + len;
	uint64_t size = len;

	for (const char *p = data; (p = memchr(p, '\n', (size_t)(end - p))) != NULL; p++) {
		if (p > data ? p[-1] != '\r' : !*last_was_cr)
			size++;
	}
	if (len)
		*last_was_cr = end[-1] == '\r';
	return size;
}
