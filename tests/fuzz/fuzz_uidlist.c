/* Fuzzer of dovecot-uidlist: read in all ways, written anew, then salvaged; what is left must be a
 * sound list. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "store/maildir/uidlist.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_through(struct uidlist *list)
{
	struct uidlist_query queries[2] = {{.base = "1795327365.M761032P3044.vm", .base_len = 26},
					   {.base = "", .base_len = 0}};
	struct uidlist_record record;
	struct uidlist_iter iter;
	struct error err = {0};
	uint32_t previous = 0;
	size_t len;

	(void)uidlist_check(list, &err);
	(void)uidlist_find(list, 3, &record, &err);
	if (uidlist_seek(list, 1, &iter, &err) == 0) {
		while (uidlist_next(&iter, &record, &err) > 0) {
			if (record.uid <= previous || record.base_len == 0)
				abort();
			previous = record.uid;
			queries[1] = (struct uidlist_query){.base = record.base,
							    .base_len = record.base_len};
			(void)uidlist_guid(&record, &len);
			(void)uidlist_field(&record, 'P', &len);
			(void)uidlist_find(list, record.uid, &record, &err);
		}
	}
	for (unsigned i = 0; i < 12; i++)
		(void)uidlist_find_bases(list, 0, queries, 1 + i % 2, &err);
}

static void read_list(int dirfd)
{
	struct uidlist *list = NULL;
	struct error err = {0};

	if (uidlist_open(dirfd, "fuzz", &list, &err) < 0)
		return;
	read_through(list);
	(void)uidlist_rewrite(list, uidlist_header(list), NULL, NULL, NULL, &err);
	uidlist_close(&list);
}

static void check_salvaged(int dirfd)
{
	const struct uidlist_header fallback = {
		.version = 3,
		.uid_validity = 1,
		.next_uid = 1,
		.guid = {.bytes = {1}},
	};
	struct uidlist *list = NULL;
	struct error err = {0};
	size_t dropped;

	if (uidlist_salvage(dirfd, "fuzz", &fallback, &dropped, &err) < 0 ||
	    uidlist_open(dirfd, "fuzz", &list, &err) < 0 || uidlist_check(list, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		abort();
	}
	read_through(list);
	uidlist_close(&list);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_put_file(UIDLIST_NAME, data, size, true);
	read_list(fuzz_dir());
	check_salvaged(fuzz_dir());
	return 0;
}
