/*
 * dovecot-keywords: which letter in file names is which keyword (reference 1.6).
 *
 * At most 26 have a letter; the others live only in the index. Keywords compare without case. A
 * letter is never given to another keyword.
 */
#ifndef DSYNCFS_MAILDIR_KEYWORDS_H
#define DSYNCFS_MAILDIR_KEYWORDS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <time.h>
#include "store/base/error.h"
#include "store/maildir/maildir_name.h"

#define MAILDIR_KEYWORDS_NAME "dovecot-keywords"

struct maildir_keywords {
	char *names[MAILDIR_LETTERS]; /* NULL: the letter is free */
	bool exists;
	bool loaded;
	/* of the file that was read */
	ino_t ino;
	off_t size;
	struct timespec mtime;
};

/* Reads the file below the control directory when it changed since. A missing one has no keywords;
 * lines that cannot be read are skipped with a warning. what: the directory, for messages. */
int maildir_keywords_refresh(struct maildir_keywords *keywords, int control_fd, const char *what,
			     struct error *err);
void maildir_keywords_free(struct maildir_keywords *keywords);

/* Index of the letter, or -1. */
int maildir_keywords_find(const struct maildir_keywords *keywords, const char *name);

/* Under dovecot-uidlist.lock, after a refresh: gives letters to names that have none, as far as
 * there are free ones that are not in `avoid` (bits), and writes the file when it changed. Names
 * with controls or spaces get none. */
int maildir_keywords_assign(struct maildir_keywords *keywords, int control_fd, const char *what,
			    const char *const *names, unsigned count, uint32_t avoid,
			    struct error *err);

#endif
