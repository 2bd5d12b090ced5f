/*
 * dovecot-uidlist: which file has which UID, the mailbox's GUID and UIDVALIDITY.
 *
 * The file is mapped and only what is asked for is parsed: a look at the header and the last line
 * at open, a binary search by UID, a search from the end by base name. So the cost of the common
 * path does not grow with the mailbox, but damage is only found where one looks: -EUCLEAN, with the
 * line in the error. uidlist_check() looks everywhere.
 *
 * Reading takes no lock. Whoever calls uidlist_append() or uidlist_rewrite() holds
 * dovecot-uidlist.lock and has refreshed since.
 *
 * Pointers of a record point into the map: they are valid until the next refresh, append, rewrite
 * or close.
 */
#ifndef DSYNCFS_MAILDIR_UIDLIST_H
#define DSYNCFS_MAILDIR_UIDLIST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "store/base/buf.h"
#include "store/base/error.h"
#include "store/base/guid.h"

#define UIDLIST_NAME	   "dovecot-uidlist"
#define UIDLIST_TMP_NAME   "dovecot-uidlist.tmp"
#define UIDLIST_SIZE_MAX   ((size_t)1 << 31)
#define UIDLIST_FIELDS_MAX 1024 /* bytes of a header or of the fields of a line */

struct uidlist;

struct uidlist_header {
	unsigned version; /* 3, or 1 */
	uint32_t uid_validity;
	uint32_t next_uid; /* the greater of N and the last UID + 1 */
	struct guid guid;  /* empty: the file has none (version 1) */
};

struct uidlist_record {
	uint32_t uid;
	const char *base; /* not terminated */
	size_t base_len;
	const char *fields; /* "S123 W130 Gabc", without the spaces around; not terminated */
	size_t fields_len;
};

/* ---- for the mailbox list: no object needed ---- */

/* Reads the header and the last line of dovecot-uidlist in dirfd. -ENOENT: there is none. -EUCLEAN:
 * damaged. what: the directory's name, for messages. */
int uidlist_read_header(int dirfd, const char *what, struct uidlist_header *header_r,
			struct error *err);
/* Writes a new one without messages, synced; -EEXIST when there is one. For a directory that nobody
 * else sees yet, or under the lock. mode and owner: those of the directory (permission bits &
 * 0666).
 */
int uidlist_create(int dirfd, const char *what, const struct uidlist_header *header,
		   struct error *err);

/* ---- one mailbox's ---- */

/* dirfd has to stay open as long as the object. */
int uidlist_open(int dirfd, const char *what, struct uidlist **list_r, struct error *err);
void uidlist_close(struct uidlist **list);
/* One stat when nothing changed. replaced_r: it is another file now (read everything again).
 * -ENOENT: it is gone. */
int uidlist_refresh(struct uidlist *list, bool *replaced_r, struct error *err);
/* From now on, where the file is replaced by another, the one that was there now can still be read:
 * it tells which message a name was that the new one does not have any more. */
void uidlist_keep_before(struct uidlist *list);
/* The list's own; NULL: the file is the same, or what it was cannot be read any more. */
struct uidlist *uidlist_before(const struct uidlist *list);
const struct uidlist_header *uidlist_header(const struct uidlist *list);
size_t uidlist_size(const struct uidlist *list); /* bytes of complete lines */
/* Grows when the file is replaced by another; while it stays, lines are only added. */
uint64_t uidlist_generation(const struct uidlist *list);

/* 0, -ENOENT, -EUCLEAN. */
int uidlist_find(const struct uidlist *list, uint32_t uid, struct uidlist_record *record_r,
		 struct error *err);

/* Looks for many base names in one pass from the end; stops when all were found. A name's uid stays
 * 0 when the list does not have it. */
struct uidlist_query {
	const char *base;
	size_t base_len;
	uint32_t uid; /* set by the search; of two lines with one name, the later */
};
/* from: an offset of before (uidlist_size() then) behind which to look, while the generation is the
 * same; 0: everywhere. */
int uidlist_find_bases(struct uidlist *list, size_t from, struct uidlist_query *queries,
		       size_t count, struct error *err);

/* Iterates upwards from the first record with uid >= first_uid: uidlist_seek() sets the position,
 * uidlist_next() returns 1 with a record, 0 at the end, -EUCLEAN. UIDs must ascend. */
struct uidlist_iter {
	const struct uidlist *list;
	size_t offset;
	uint32_t last_uid;
};
int uidlist_seek(const struct uidlist *list, uint32_t first_uid, struct uidlist_iter *iter_r,
		 struct error *err);
int uidlist_next(struct uidlist_iter *iter, struct uidlist_record *record_r, struct error *err);
/* The line that an iterator's offset pointed to, while the generation is the same. */
int uidlist_at(const struct uidlist *list, size_t offset, struct uidlist_record *record_r,
	       struct error *err);

/* Reads every line. -EUCLEAN names the first bad one. */
int uidlist_check(const struct uidlist *list, struct error *err);

/* Value of one field; NULL if the record does not have it. Not terminated. */
const char *uidlist_field(const struct uidlist_record *record, char letter, size_t *len_r);
/* The message GUID: field G, else the base name. Not terminated. */
const char *uidlist_guid(const struct uidlist_record *record, size_t *len_r);

/* ---- writing, under the lock ---- */

/* Formats a line. fields may be "". -EINVAL for what would damage the list (LF, '/' or ':' in the
 * name, spaces or controls in the fields). */
int uidlist_format_line(struct buf *lines, uint32_t uid, const char *fields, size_t fields_len,
			const char *base, size_t base_len);
/* Appends whole lines (made by uidlist_format_line, ascending, first uid >= next_uid) with one
 * write and syncs. The list shows them afterwards. */
int uidlist_append(struct uidlist *list, const struct buf *lines, struct error *err);

/* Writes a new file with this header and renames it over the old one, synced. keep() is asked for
 * every line of the old file (NULL: all are kept); extra lines follow. Unknown header keys and
 * fields are kept. */
typedef bool uidlist_keep_fn(void *ctx, const struct uidlist_record *record);
int uidlist_rewrite(struct uidlist *list, const struct uidlist_header *header,
		    uidlist_keep_fn *keep, void *ctx, const struct buf *extra_lines,
		    struct error *err);
/* The same from lines alone, whatever was there before; for a directory without a readable one.
 * header_tail: further header keys (" P..."), or "". */
int uidlist_replace(int dirfd, const char *what, const struct uidlist_header *header,
		    const char *header_tail, const struct buf *lines, struct error *err);

/* Takes from a damaged file what can be read, and replaces it by that: UIDVALIDITY, GUID and next
 * UID stay where they were readable (else they come from fallback, whose fields are not 0), lines
 * that cannot be read are left out, of two lines with one UID the first stays, of two with one name
 * the one with the higher UID. dropped_r: how many were left out. Works without a file, too. */
int uidlist_salvage(int dirfd, const char *what, const struct uidlist_header *fallback,
		    size_t *dropped_r, struct error *err);

#endif
