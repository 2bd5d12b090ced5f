/*
 * A mailbox whose directories are renamed (store/mailbox_private.h, rename_begin).
 *
 * Dovecot gives a message its keywords' letters before it writes them to dovecot-keywords, and all
 * of it by paths, under dovecot-uidlist.lock (reference 1.4, 1.6). In a directory that gets another
 * name between the two the letter is one that nobody knows. So the lock is ours meanwhile; it goes
 * along with the directory.
 */
#include <errno.h>
#include <stdlib.h>
#include "store/base/file.h"
#include "store/base/owned_file.h"
#include "store/maildir/dotlock.h"
#include "store/maildir/maildir_private.h"

/* The list's lock is held, which others wait for. */
#define LOCK_TIMEOUT_MS 10000

struct renaming {
	int control_fd;
	struct dotlock *lock;
};

int maildir_rename_begin(const struct mailbox_place *place, void **renaming_r, struct error *err)
{
	struct renaming *renaming = calloc(1, sizeof *renaming);
	int rc;

	*renaming_r = NULL;
	if (!renaming)
		return error_errno(err, -ENOMEM, "%s", place->control);
	renaming->control_fd = owned_dir_open(place->control, false);
	rc = renaming->control_fd;
	if (rc < 0 && rc != -ENOENT)
		error_errno(err, rc, "%s", place->control);
	if (rc >= 0)
		rc = dotlock_acquire(renaming->control_fd, place->control, UIDLIST_NAME,
				     LOCK_TIMEOUT_MS, &renaming->lock, err);
	if (rc < 0) {
		file_close(&renaming->control_fd);
		free(renaming);
		/* It has none yet, or was moved before a crash. */
		return rc == -ENOENT ? 0 : rc;
	}
	*renaming_r = renaming;
	return 0;
}

void maildir_rename_end(void *ptr)
{
	struct renaming *renaming = ptr;

	dotlock_release(&renaming->lock);
	file_close(&renaming->control_fd);
	free(renaming);
}
