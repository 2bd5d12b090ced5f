/* Fuzzer of the settings file. What is read is printed, and must read back as the same. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/settings.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Other files are none of a fuzzer's business. */
static bool names_a_file(const uint8_t *data, size_t size)
{
	return size &&
	       (memchr(data, '<', size) != NULL || memmem(data, size, "include", 7) != NULL);
}

static void check_round_trip(const struct settings *set)
{
	struct buf first = BUF_INIT(1 << 20), second = BUF_INIT(1 << 20);
	struct settings *again = NULL;
	struct error err = {0};

	if (settings_print(set, true, false, &first) == 0) {
		if (settings_parse(buf_str(&first), first.len, "printed", SETTINGS_QUIET, &again,
				   &err) < 0 ||
		    settings_print(again, true, false, &second) < 0 ||
		    strcmp(buf_str(&first), buf_str(&second)) != 0) {
			fprintf(stderr, "%s\n--- first\n%s--- second\n%s", err.text,
				buf_str(&first), buf_str(&second));
			abort();
		}
	}
	settings_free(&again);
	buf_free(&first);
	buf_free(&second);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct settings *set = NULL;
	struct error err = {0};

	if (names_a_file(data, size))
		return 0;
	if (settings_parse((const char *)data, size, "fuzzed", SETTINGS_QUIET, &set, &err) == 0)
		check_round_trip(set);
	else if (err.text[0] == '\0')
		abort();
	settings_free(&set);
	return 0;
}
