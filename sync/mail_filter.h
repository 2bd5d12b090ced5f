/*
 * Which messages may come into a mailbox: dsync's -t, -e, -I and -O, and the keys of the handshake
 * that say them to the other end. Only what a side does not have is asked about: no message is
 * removed because of a filter.
 */
#ifndef DSYNCFS_SYNC_MAIL_FILTER_H
#define DSYNCFS_SYNC_MAIL_FILTER_H

#include <stdbool.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/mail.h"

struct mail_filter {
	int64_t since, until; /* INTERNALDATE, both inclusive; 0: any */
	uint64_t max_size;    /* of the message with CRLF as line ends; 0: any */
	const char *flag;     /* a flag or keyword, with a leading '-': without it; NULL: any */
};

bool mail_filter_is_set(const struct mail_filter *filter);
/* It asks for what a message's file alone tells. */
bool mail_filter_wants_date(const struct mail_filter *filter);
bool mail_filter_wants_size(const struct mail_filter *filter);
/* What it does not want need not be right. */
bool mail_filter_takes(const struct mail_filter *filter, int64_t received, uint64_t size,
		       uint8_t flags, struct keyword_set keywords);

/* As doveadm takes them: seconds since 1970, YYYY-MM-DD and DD-Mon-YYYY (local midnight), or a time
 * before now ("3 days", "7d"). -EINVAL */
int mail_filter_parse_time(const char *text, int64_t now, int64_t *time_r);
/* Bytes, with K, M, G or T for powers of 1024. -EINVAL */
int mail_filter_parse_size(const char *text, uint64_t *size_r);
/* NULL, or what is wrong with it. */
const char *mail_filter_flag_fault(const char *text);

#endif
