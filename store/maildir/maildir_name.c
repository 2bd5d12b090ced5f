/* Names of message files. See maildir_name.h. */
#include "store/maildir/maildir_name.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include "store/mail.h"

#define GUID_BASE_MAX 200 /* leaves room for ":2," and every flag in a file name */

static const struct {
	char letter;
	uint8_t flag;
} flag_letters[] = {
	{'D', MAIL_DRAFT}, {'F', MAIL_FLAGGED}, {'R', MAIL_ANSWERED},
	{'S', MAIL_SEEN},  {'T', MAIL_DELETED},
};

#define FLAG_LETTER_COUNT (sizeof flag_letters / sizeof flag_letters[0])

static uint8_t letter_flag(char letter)
{
	for (size_t i = 0; i < FLAG_LETTER_COUNT; i++) {
		if (flag_letters[i].letter == letter)
			return flag_letters[i].flag;
	}
	return 0;
}

bool maildir_name_parse(const char *file, struct maildir_name *name_r)
{
	const char *info = strrchr(file, ':');

	*name_r = (struct maildir_name){.base = file, .base_len = strcspn(file, ":")};
	if (file[0] == '.' || name_r->base_len == 0)
		return false;
	if (!info || strncmp(info, ":2,", 3) != 0)
		return true;
	name_r->has_info = true;
	name_r->info = info + 3;
	name_r->info_len = strlen(name_r->info);
	for (const char *p = name_r->info; *p && *p != ','; p++) {
		if (*p >= 'a' && *p <= 'z')
			name_r->letters |= 1U << (*p - 'a');
		else
			name_r->flags |= letter_flag(*p);
	}
	return true;
}

int maildir_name_build(const char *base, size_t base_len, uint8_t flags, uint32_t letters,
		       const struct maildir_name *old, char name_r[NAME_MAX + 1])
{
	bool present[128] = {false};
	const char *rest = NULL;
	size_t rest_len = 0;
	char *out = name_r;

	for (size_t i = 0; i < FLAG_LETTER_COUNT; i++) {
		if (flags & flag_letters[i].flag)
			present[(unsigned char)flag_letters[i].letter] = true;
	}
	for (unsigned i = 0; i < MAILDIR_LETTERS; i++) {
		if (letters & 1U << i)
			present['a' + i] = true;
	}
	if (old && old->has_info) {
		rest = memchr(old->info, ',', old->info_len);
		rest_len = rest ? old->info_len - (size_t)(rest - old->info) : 0;
		for (size_t i = 0; i < old->info_len - rest_len; i++) {
			unsigned char c = (unsigned char)old->info[i];

			if (c > ' ' && c < 127 && (c < 'a' || c > 'z') && !letter_flag((char)c))
				present[c] = true;
		}
	}
	if (base_len + 3 + 96 + rest_len > NAME_MAX) {
		size_t count = 0;

		for (size_t c = 0; c < sizeof present; c++)
			count += present[c];
		if (base_len + 3 + count + rest_len > NAME_MAX)
			return -ENAMETOOLONG;
	}
	memcpy(out, base, base_len);
	out += base_len;
	memcpy(out, ":2,", 3);
	out += 3;
	for (size_t c = 0; c < sizeof present; c++) {
		if (present[c])
			*out++ = (char)c;
	}
	if (rest_len)
		memcpy(out, rest, rest_len);
	out[rest_len] = '\0';
	return 0;
}

bool maildir_name_size_field(const char *base, size_t base_len, char field, uint64_t *value_r)
{
	char key[3] = {',', field, '='};
	const char *end = base + base_len;
	const char *p = memmem(base, base_len, key, sizeof key);
	uint64_t value = 0;

	if (!p)
		return false;
	p += sizeof key;
	if (p == end || *p < '0' || *p > '9')
		return false;
	for (; p < end && *p >= '0' && *p <= '9'; p++) {
		if (value > UINT64_MAX / 10 - 1)
			return false;
		value = value * 10 + (uint64_t)(*p - '0');
	}
	*value_r = value;
	return p == end || *p == ',';
}

bool maildir_name_guid_is_usable(const char *guid)
{
	size_t len = strlen(guid);

	if (len == 0 || len > GUID_BASE_MAX || guid[0] == '.')
		return false;
	for (const char *p = guid; *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f || *p == '/' || *p == ':')
			return false;
	}
	return true;
}

void maildir_name_generate(char base_r[NAME_MAX + 1])
{
	static atomic_uint counter;
	char host[HOST_NAME_MAX + 1];
	struct timespec now;

	if (gethostname(host, sizeof host) < 0)
		snprintf(host, sizeof host, "localhost");
	host[sizeof host - 1] = '\0';
	for (char *p = host; *p; p++) {
		if (*p == '/' || *p == ':' || (unsigned char)*p <= ' ')
			*p = '_';
	}
	clock_gettime(CLOCK_REALTIME, &now);
	snprintf(base_r, NAME_MAX + 1, "%lld.M%ldP%dQ%u.%s", (long long)now.tv_sec,
		 now.tv_nsec / 1000, (int)getpid(), atomic_fetch_add(&counter, 1) + 1, host);
}

static uint64_t number_at(const char **pos)
{
	uint64_t value = 0;

	for (; **pos >= '0' && **pos <= '9'; (*pos)++) {
		if (value < UINT64_MAX / 20)
			value = value * 10 + (uint64_t)(**pos - '0');
	}
	return value;
}

int maildir_name_cmp(const char *a, const char *b)
{
	const char *whole_a = a, *whole_b = b;
	uint64_t number_a = number_at(&a), number_b = number_at(&b);
	int order;

	if (number_a != number_b)
		return number_a < number_b ? -1 : 1;
	if (a[0] == '.' && a[1] == 'M' && b[0] == '.' && b[1] == 'M') {
		a += 2;
		b += 2;
		number_a = number_at(&a);
		number_b = number_at(&b);
		if (number_a != number_b)
			return number_a < number_b ? -1 : 1;
	}
	order = strcmp(a, b);
	/* "7.x" and "007.x", and numbers of more digits than we hold. */
	return order != 0 ? order : strcmp(whole_a, whole_b);
}
