/* libFuzzer over a settings file: what is accepted is printed, and reads back as itself. */
#include <stdlib.h>
#include <string.h>
#include "store/base/log.h"
#include "store/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct buf first = BUF_INIT((size_t)1 << 22), again = BUF_INIT((size_t)1 << 22);
	struct settings *set, *copy;
	struct error err;

	log_open("fuzz", LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	/* An include would read what lies about. */
	if (memmem(data, size, "!include", 8) != NULL || memchr(data, '<', size) != NULL)
		return 0;
	if (settings_parse((const char *)data, size, "/nonexistent/fuzz", SETTINGS_QUIET, &set,
			   &err) < 0)
		return 0;
	if (settings_print(set, true, false, &first) < 0 ||
	    settings_parse(first.data, first.len, "printed", SETTINGS_QUIET, &copy, &err) < 0 ||
	    settings_print(copy, true, false, &again) < 0 ||
	    strcmp(buf_str(&first), buf_str(&again)) != 0)
		abort();
	settings_free(&copy);
	settings_free(&set);
	buf_free(&first);
	buf_free(&again);
	return 0;
}
