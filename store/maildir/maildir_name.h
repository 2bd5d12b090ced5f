/*
 * Names of message files: "<base>[:2,<flags>]" (reference 1.3). No I/O.
 *
 * Flags are upper-case letters, keywords a..z. What we do not know (other letters, a second set
 * after a comma, another kind of info) is kept when a name is built from an old one.
 */
#ifndef DSYNCFS_MAILDIR_NAME_H
#define DSYNCFS_MAILDIR_NAME_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MAILDIR_LETTERS 26

struct maildir_name {
	const char *base; /* points into the parsed name; not terminated */
	size_t base_len;
	bool has_info;	  /* ":2," was there */
	uint8_t flags;	  /* enum mail_flag */
	uint32_t letters; /* keyword letters, bit 0 is 'a' */
	const char *info; /* the flags as they are in the name, with what follows */
	size_t info_len;
};

/* False: a file of this name is not a message (it starts with '.' or ':'). */
bool maildir_name_parse(const char *file, struct maildir_name *name_r);

/* "<base>:2,<flags>" with the unknown letters and further sets of old (may be NULL). -ENAMETOOLONG.
 */
int maildir_name_build(const char *base, size_t base_len, uint8_t flags, uint32_t letters,
		       const struct maildir_name *old, char name_r[NAME_MAX + 1]);

/* The number of a ",S=<n>" or ",W=<n>" field. False: none, or not a number. */
bool maildir_name_size_field(const char *base, size_t base_len, char field, uint64_t *value_r);

/* A message GUID can be the base name of its file: what a replica names the file, so that both
 * nodes have the same names. */
bool maildir_name_guid_is_usable(const char *guid);

/* A base name that nobody used before: "<seconds>.M<usecs>P<pid>Q<counter>.<host>". */
void maildir_name_generate(char base_r[NAME_MAX + 1]);

/* The order in which files without UIDs get theirs: seconds, microseconds, the rest. As strcmp,
 * and 0 for the same name alone. */
int maildir_name_cmp(const char *a, const char *b);

#endif
