/*
 * Which of two values of a mailbox attribute stays (reference: dsync-protocol 6.2). Pure; both
 * sides call it and come to the same answer.
 */
#ifndef DSYNCFS_SYNC_MERGE_ATTRIBUTE_H
#define DSYNCFS_SYNC_MERGE_ATTRIBUTE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct merge_attribute {
	const char *value; /* NULL: removed, or never there */
	size_t len;
	bool known;	     /* it is there, or its removal is recorded */
	bool changed;	     /* since the last sync; false too where there was none */
	int64_t last_change; /* 0: not known */
	uint64_t modseq;     /* 0: not known */
};

/* stateful: there was a last sync, so `changed` tells something. */
bool merge_attribute_takes(const struct merge_attribute *own, const struct merge_attribute *peer,
			   bool stateful);

#endif
