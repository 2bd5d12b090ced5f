/*
 * libFuzzer over an index: the input is cut into snapshot, older log and log, which are opened and
 * read through. Input: u16 length of the snapshot, u16 length of .log.2 (0: that file is missing),
 * the bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include "store/index/index.h"
#include "store/index/index_cache.h"
#include "store/index/index_changes.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct index_options options = {.label = "", .read_only = true, .once = true};
	struct index_changes changes;
	struct index_record record;
	struct index_iter iter;
	struct index *index;
	size_t snapshot, older;
	uint32_t previous = 0;
	int dirfd = fuzz_dir();

	if (size < 4)
		return 0;
	snapshot = index_get16(data);
	older = index_get16(data + 2);
	data += 4;
	size -= 4;
	snapshot = snapshot < size ? snapshot : size;
	older = older < size - snapshot ? older : size - snapshot;
	fuzz_put_file("dovecot.index", data, snapshot, snapshot > 0);
	fuzz_put_file("dovecot.index.log.2", data + snapshot, older, older > 0);
	fuzz_put_file("dovecot.index.log", data + snapshot + older, size - snapshot - older, true);
	if (index_open(dirfd, &options, &index, NULL) < 0)
		return 0;
	index_iter_init(index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		const char *names[16];
		uint8_t bytes[32];

		if (record.uid <= previous)
			abort();
		previous = record.uid;
		index_record_keywords(index, &record, names, 16);
		index_record_ext(index, &record, "cache", bytes, sizeof(bytes));
	}
	index_changes(index, 1, NULL, &changes, NULL);
	index_changes_free(&changes);
	index_close(&index);
	return 0;
}
