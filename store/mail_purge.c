/* Purge of a user's mdbox storage. See mail_purge.h. */
#include "store/mail_purge.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "store/base/file.h"
#include "store/dbox/dbox_names.h"
#include "store/dbox/mdbox_storage.h"
#include "store/mail_user.h"

static int purge(const struct mail_location *location, struct mail_purged *purged,
		 struct error *err)
{
	AUTO_FREE char *path = NULL;
	AUTO_FREE char *index = NULL;
	AUTO_FREE char *alt = NULL;
	struct mdbox_storage *storage;
	struct mdbox_purged done;
	int rc;

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
				false, &storage, err);
	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
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
