/* Prints the events of a journal, for tests with real mounts: one line each,
 * "seq KIND origin home dir name name2", tab-separated.
 *
 *   journal_dump STATE_DIR [AFTER_SEQ]
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include "store/journal/journal.h"

static const char *const kind_names[] = {
	[MAIL_EVENT_DELIVERED] = "DELIVERED",
	[MAIL_EVENT_RENAMED] = "RENAMED",
	[MAIL_EVENT_REMOVED] = "REMOVED",
	[MAIL_EVENT_TOUCHED] = "TOUCHED",
	[MAIL_EVENT_RESCAN] = "RESCAN",
	[MAIL_EVENT_DIR_CREATED] = "DIR_CREATED",
	[MAIL_EVENT_DIR_RENAMED] = "DIR_RENAMED",
	[MAIL_EVENT_DIR_REMOVED] = "DIR_REMOVED",
	[MAIL_EVENT_LIST_TOUCHED] = "LIST_TOUCHED",
	[MAIL_EVENT_RESCAN_HOME] = "RESCAN_HOME",
};

static int print_event(void *ctx, const struct mail_event *event)
{
	printf("%" PRIu64 "\t%s\t%" PRIu32 "\t%s\t%s\t%s\t%s\n", event->seq,
	       kind_names[event->kind], event->origin, event->home, event->dir, event->name,
	       event->name2);
	return 0;
}

int main(int argc, char **argv)
{
	struct journal_reader *reader = NULL;
	struct error err = {0};
	uint64_t after = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;
	int rc = argc < 2 ? -EINVAL : journal_reader_open(argv[1], &reader, &err);

	if (rc == 0)
		rc = journal_reader_each(reader, after, SIZE_MAX, print_event, NULL, &err);
	if (rc < 0)
		fprintf(stderr, "journal_dump: %s\n", err.text);
	journal_reader_close(&reader);
	return rc < 0;
}
