/*
 * Intents: what a writer is about to change in two steps, so that whoever comes after one that was
 * killed in between can put it right.
 *
 * An intent is a file ".temp.dsyncfs.<pid>.<number>.<host>" in the directory that is changed, with
 * a UIDVALIDITY and numbers (map UIDs of mdbox, UIDs of sdbox; "m." and the number of an mdbox
 * file), one a line. It is synced only where it names files: a kill does not lose it.
 */
#ifndef DSYNCFS_DBOX_INTENT_H
#define DSYNCFS_DBOX_INTENT_H

#include <stddef.h>
#include <stdint.h>
#include "store/base/buf.h"
#include "store/base/error.h"

/* A name that nobody has, in Dovecot's shape. */
void dbox_temporary_name(char *name_r, size_t size);

struct dbox_intent {
	uint32_t uid_validity;
	const uint32_t *uids;
	size_t count;
	/* mdbox: that are being made, or are about to be removed. */
	const uint32_t *files;
	size_t file_count;
};
/* path: the directory's, for messages. *intent_r is for dbox_intent_remove(). */
int dbox_intent_write(int dirfd, const char *path, const struct dbox_intent *intent,
		      char **intent_r, struct error *err);
/* Frees the name, too. NULL is accepted. */
void dbox_intent_remove(int dirfd, const char *path, char **intent);

/* Looking for what dead writers left costs a look at all names: it is done at the first change and
 * then this often. */
#define DBOX_LEFTOVERS_SECS 60
int64_t dbox_now_s(void);

/* What dead writers left. */
struct dbox_numbers {
	uint32_t *list; /* ascending, each once */
	size_t count, room;
};
struct dbox_leftovers {
	struct dbox_numbers uids, files; /* of this UIDVALIDITY */
	struct buf intents;		 /* names, each with its NUL */
};
/* Removes their other temporary files at once. Free in any case. */
int dbox_leftovers_find(int dirfd, const char *path, uint32_t uid_validity,
			struct dbox_leftovers *leftovers_r, struct error *err);
/* Everything has been put right: removes the intents. */
void dbox_leftovers_done(int dirfd, struct dbox_leftovers *leftovers);
void dbox_leftovers_free(struct dbox_leftovers *leftovers);

#endif
