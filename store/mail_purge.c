/* Purge of a user's mdbox storage. See mail_purge.h. */
#include "store/mail_purge.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "store/base/file.h"
#include "store/dbox/dbox_names.h"
#include "store/dbox/mdbox_storage.h"
#include "store/mail_user.h"

/* NULL: the user has none yet. */
static int open_storage(const struct mail_location *location, struct mdbox_storage **storage_r,
			struct error *err)
{
	AUTO_FREE char *path = NULL;
	AUTO_FREE char *index = NULL;
	AUTO_FREE char *alt = NULL;
	int rc;

	*storage_r = NULL;
	if (asprintf(&path, "%s/" DBOX_STORAGE_DIR, location->root) < 0)
		path = NULL;
	if (asprintf(&index, "%s/" DBOX_STORAGE_DIR, location->index) < 0)
		index = NULL;
	if (location->alt && asprintf(&alt, "%s/" DBOX_STORAGE_DIR, location->alt) < 0)
		alt = NULL;
	if (!path || !index || (location->alt && !alt))
		return error_errno(err, -ENOMEM, "%s", location->root);
	rc = mdbox_storage_open(&(struct mdbox_paths){path, index, alt, location->rotate_size,
						      location->rotate_interval,
						      location->preallocate, location->attachments},
				false, storage_r, err);
	return rc == -ENOENT ? 0 : rc;
}

static int purge(const struct mail_location *location, struct mail_purged *purged,
		 struct error *err)
{
	struct mdbox_storage *storage;
	struct mdbox_purged done;
	int rc = open_storage(location, &storage, err);

	if (rc < 0 || !storage)
		return rc;
	rc = mdbox_purge(storage, &done, err);
	mdbox_storage_close(&storage);
	/* Also what was done before, or in spite of, a failure. */
	*purged = (struct mail_purged){.files = done.files,
				       .messages = done.messages,
				       .corrected = done.corrected,
				       .unclaimed = done.unclaimed,
				       .bytes = done.bytes};
	return rc;
}

int mail_purge(const struct mail_user *user, struct mail_purged *purged_r, struct error *err)
{
	int rc;

	*purged_r = (struct mail_purged){0};
	if (user->location.driver != MAIL_DRIVER_MDBOX)
		return 0;
	rc = purge(&user->location, purged_r, err);
	if (rc < 0 && err)
		error_prefix(err, "user %s", user->name);
	return rc;
}

static int look_for_unclaimed(const struct mail_location *location, uint32_t *count_r,
			      struct error *err)
{
	struct mdbox_storage *storage;
	struct index_txn *txn = NULL;
	struct mdbox_counts counts;
	int rc = open_storage(location, &storage, err);

	if (rc < 0 || !storage)
		return rc;
	rc = mdbox_recover(storage, err);
	if (rc == 0) {
		rc = mdbox_counts_too_high(storage, &counts, &txn, err);
		index_abort(&txn);
		if (rc == 0)
			*count_r = mdbox_counts_tell(storage, &counts);
		mdbox_counts_free(&counts);
	}
	mdbox_storage_close(&storage);
	return rc;
}

int mail_look_for_unclaimed(const struct mail_user *user, uint32_t *count_r, struct error *err)
{
	int rc;

	*count_r = 0;
	if (user->location.driver != MAIL_DRIVER_MDBOX)
		return 0;
	rc = look_for_unclaimed(&user->location, count_r, err);
	if (rc < 0 && err)
		error_prefix(err, "user %s", user->name);
	return rc;
}
