<<<<<<< HEAD
/* libFuzzer over a dovecot-uidlist: read through, asked for names, written anew, and salvaged. */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/maildir/uidlist.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int dirfd_of_test(void)
{
	static int fd = -1;
	static char dir[] = "/dev/shm/fuzz-uidlist.XXXXXX";

	if (fd < 0 && mkdtemp(dir) != NULL)
		fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		abort();
	log_open("fuzz", LOG_TARGET_STDERR, LOG_LEVEL_ERROR);
	return fd;
}

static void read_through(struct uidlist *list)
{
	struct uidlist_query queries[2] = {{.base = "name", .base_len = 4},
					   {.base = "", .base_len = 0}};
	struct uidlist_record record;
	struct uidlist_iter iter;
	struct error err;
	size_t len;

	if (uidlist_seek(list, 0, &iter, &err) == 0) {
		while (uidlist_next(&iter, &record, &err) > 0) {
			queries[1] = (struct uidlist_query){.base = record.base,
							    .base_len = record.base_len};
			uidlist_guid(&record, &len);
			uidlist_field(&record, 'P', &len);
			uidlist_find(list, record.uid, &record, &err);
		}
	}
	for (int i = 0; i < 12; i++)
		uidlist_find_bases(list, 0, queries, 1 + i % 2, &err);
=======
/* Fuzzer of dovecot-uidlist: read in all ways, then salvaged; what is left must be a sound list. */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include "store/maildir/uidlist.h"
#include "tests/fuzz/fuzz_dir.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void read_list(int dirfd)
{
	struct uidlist_query query = {.base = "1795327365.M761032P3044.vm", .base_len = 26};
	struct uidlist *list = NULL;
	struct uidlist_record record;
	struct uidlist_iter iter;
	struct error err = {0};
	uint32_t previous = 0;
	size_t len;

	if (uidlist_open(dirfd, "fuzz", &list, &err) < 0)
		return;
	(void)uidlist_check(list, &err);
	(void)uidlist_find(list, 3, &record, &err);
	(void)uidlist_find_bases(list, 0, &query, 1, &err);
	if (uidlist_seek(list, 1, &iter, &err) == 0) {
		while (uidlist_next(&iter, &record, &err) > 0) {
			if (record.uid <= previous || record.base_len == 0)
				abort();
			previous = record.uid;
			(void)uidlist_guid(&record, &len);
		}
	}
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
	uidlist_close(&list);
>>>>>>> faults
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
<<<<<<< HEAD
	const struct uidlist_header fallback = {
		.version = 3, .uid_validity = 1, .next_uid = 1, .guid = {{1}}};
	int dirfd = dirfd_of_test(), fd;
	struct uidlist *list;
	struct error err;
	size_t dropped;

	fd = openat(dirfd, UIDLIST_NAME, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || file_write_all(fd, data, size) < 0)
		abort();
	close(fd);
	if (uidlist_open(dirfd, "fuzz", &list, &err) == 0) {
		read_through(list);
		uidlist_rewrite(list, uidlist_header(list), NULL, NULL, NULL, &err);
		uidlist_close(&list);
	}
	/* What is salvaged can be read. */
	if (uidlist_salvage(dirfd, "fuzz", &fallback, &dropped, &err) < 0 ||
	    uidlist_open(dirfd, "fuzz", &list, &err) < 0 || uidlist_check(list, &err) < 0)
		abort();
	read_through(list);
	uidlist_close(&list);
=======
	fuzz_put_file(UIDLIST_NAME, data, size, true);
	read_list(fuzz_dir());
	check_salvaged(fuzz_dir());
>>>>>>> faults
	return 0;
}
