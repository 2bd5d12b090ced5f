/* Which messages may come into a mailbox. See mail_filter.h. */
#include "sync/mail_filter.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

#include "sync/merge_flags.h"

bool mail_filter_is_set(const struct mail_filter *filter)
{
	return mail_filter_wants_date(filter) || mail_filter_wants_size(filter) ||
	       filter->flag != NULL;
}

bool mail_filter_wants_date(const struct mail_filter *filter)
{
	return filter->since != 0 || filter->until != 0;
}

bool mail_filter_wants_size(const struct mail_filter *filter)
{
	return filter->max_size != 0;
}

/* 0: it is no system flag. */
static uint8_t system_flag(const char *name)
{
	static const struct {
		const char *name;
		uint8_t flag;
	} flags[] = {
		{"\\Answered", MAIL_ANSWERED}, {"\\Flagged", MAIL_FLAGGED},
		{"\\Deleted", MAIL_DELETED},   {"\\Seen", MAIL_SEEN},
		{"\\Draft", MAIL_DRAFT},
	};

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		if (strcasecmp(flags[i].name, name) == 0)
			return flags[i].flag;
	}
	return 0;
}

static bool flag_fits(const char *wanted, uint8_t flags, struct keyword_set keywords)
{
	bool without = wanted[0] == '-';
	const char *name = wanted + without;
	uint8_t flag = system_flag(name);
	bool has = flag != 0 ? (flags & flag) != 0 : keyword_set_has(keywords, name);

	return has != without;
}

bool mail_filter_takes(const struct mail_filter *filter, int64_t received, uint64_t size,
		       uint8_t flags, struct keyword_set keywords)
{
	return (filter->since == 0 || received >= filter->since) &&
	       (filter->until == 0 || received <= filter->until) &&
	       (filter->max_size == 0 || size <= filter->max_size) &&
	       (filter->flag == NULL || flag_fits(filter->flag, flags, keywords));
}

static int parse_date(const char *text, int64_t *time_r)
{
	static const char *const formats[] = {"%Y-%m-%d", "%d-%b-%Y"};

	for (size_t i = 0; i < sizeof(formats) / sizeof(formats[0]); i++) {
		struct tm tm = {.tm_isdst = -1};
		const char *end = strptime(text, formats[i], &tm);

		if (end == NULL || *end != '\0')
			continue;
		time_t at = mktime(&tm);
		if (at == (time_t)-1)
			return -EINVAL;
		*time_r = at;
		return 0;
	}
	return -EINVAL;
}

/* Any beginning of a unit's name, as Dovecot's settings have it; "m" and "mi" are minutes. */
static int64_t unit_secs(const char *text)
{
	static const struct {
		const char *name;
		int64_t secs;
	} units[] = {
		{"seconds", 1},	 {"minutes", 60}, {"mins", 60},
		{"hours", 3600}, {"days", 86400}, {"weeks", 7 * (int64_t)86400},
	};

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]) && *text != '\0'; i++) {
		if (strncasecmp(units[i].name, text, strlen(text)) == 0)
			return units[i].secs;
	}
	return 0;
}

int mail_filter_parse_time(const char *text, int64_t now, int64_t *time_r)
{
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	if (parse_date(text, time_r) == 0)
		return 0;
	errno = 0;
	long long number = strtoll(text, &end, 10);
	if (errno != 0)
		return -EINVAL;
	if (*end == '\0') {
		*time_r = number;
		return 0;
	}
	end += strspn(end, " ");
	int64_t secs = unit_secs(end);
	if (secs == 0 || number > now / secs)
		return -EINVAL;
	*time_r = now - number * secs;
	return 0;
}

int mail_filter_parse_size(const char *text, uint64_t *size_r)
{
	static const char units[] = "BKMGT";
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	unsigned long long number = strtoull(text, &end, 10);
	end += strspn(end, " ");
	if (errno != 0)
		return -EINVAL;
	if (*end != '\0') {
		const char *unit = strchr(units, toupper((unsigned char)*end));
		unsigned shift = unit != NULL ? (unsigned)(unit - units) * 10 : 0;

		/* "MB" and "MiB" are "M". */
		if (unit == NULL || number > UINT64_MAX >> shift ||
		    (end[1] != '\0' && strcasecmp(end + 1, "B") != 0 &&
		     strcasecmp(end + 1, "iB") != 0))
			return -EINVAL;
		number <<= shift;
	}
	*size_r = number;
	return 0;
}

const char *mail_filter_flag_fault(const char *text)
{
	const char *name = text + (text[0] == '-');

	if (name[0] == '\0')
		return "names no flag";
	if (name[0] == '\\' && system_flag(name) == 0)
		return "is no system flag that is kept";
	for (const char *p = name; *p != '\0'; p++) {
		if ((unsigned char)*p <= 0x20 || *p == 0x7f)
			return "has a space or control character";
	}
	return NULL;
}
