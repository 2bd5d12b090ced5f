/*
 * A mailbox whose uidlist or index cannot be read is written anew, from the files and from what is
 * readable of the old ones: GUID, UIDVALIDITY and UIDs stay where they can be read.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <time.h>
#include "store/base/log.h"
#include "store/index/index_changes.h"
#include "store/index/index_files.h"

/* Makes the uidlist readable, if it is not. */
static int rebuild_uidlist(struct maildir *md, const struct mailbox_place *place, struct error *err)
{
	struct uidlist_header fallback = {.version = 3, .next_uid = 1};
	struct index_status status = {0};
	struct uidlist *list = NULL;
	size_t dropped;
	int rc = uidlist_open(md->control_fd, md->control_path, &list, err);

	if (rc == 0)
		rc = uidlist_check(list, err);
	uidlist_close(&list);
	if (rc == 0 || (rc != -EUCLEAN && rc != -ENOENT))
		return rc;
	log_warning("%s: uidlist is written anew: %s", md->path, err ? err->text : "");
	if (md->index) {
		index_status(md->index, &status);
		fallback.uid_validity = status.uid_validity;
		if (status.next_uid)
			fallback.next_uid = status.next_uid;
	}
	guid_generate(&fallback.guid);
	if (fallback.uid_validity == 0) {
		rc = place->uid_validity(place->ctx, &fallback.uid_validity, err);
		if (rc < 0)
			return rc;
	}
	rc = uidlist_salvage(md->control_fd, md->control_path, &fallback, &dropped, err);
	if (rc == 0 && dropped)
		log_warning(
			"%s: %zu lines of the uidlist could not be kept; messages that are still "
			"there get new UIDs",
			md->path, dropped);
	return rc;
}

/* Makes the index readable, if it is not. Flags come from the file names then. */
static int rebuild_index(struct maildir *md, struct error *err)
{
	struct index_options options;
	struct index_create create = {.replace = true, .next_uid = 1};
	struct uidlist_header header;
	int rc;

	if (md->index)
		return 0;
	rc = uidlist_read_header(md->control_fd, md->control_path, &header, err);
	if (rc < 0)
		return rc;
	maildir_index_options(md, &options);
	create.uid_validity = header.uid_validity;
	/* HIGHESTMODSEQ is lost. It must not go back, or clients and replicas would miss changes:
	 * the seconds since 1970 are more than any mailbox has counted. */
	create.initial_modseq = (uint64_t)time(NULL);
	log_warning("%s: the index is made anew from the uidlist and the file names", md->path);
	return index_create(md->index_fd, &options, &create, err);
}

static int rebuild_locked(struct maildir *md, const struct mailbox_place *place, struct error *err)
{
	struct index_options options;
	int rc;

	maildir_index_options(md, &options);
	rc = index_open(md->index_fd, &options, &md->index, err);
	if (rc == 0) {
		rc = index_check_history(md->index, err);
		if (rc < 0)
			index_close(&md->index);
	}
	if (rc < 0 && rc != -ENOENT && rc != -EUCLEAN)
		return rc;
	if (rc == -EUCLEAN)
		log_warning("%s", err ? err->text : md->index_path);
	rc = rebuild_uidlist(md, place, err);
	return rc < 0 ? rc : rebuild_index(md, err);
}

static int settle(struct maildir *md, const struct mailbox_place *place, struct dotlock *lock,
		  struct error *err)
{
	bool changed;
	int rc = maildir_setup_locked(md, place, lock, err);

	return rc < 0 ? rc : maildir_scan_locked(md, lock, &changed, err);
}

int maildir_rebuild(const struct mailbox_place *place, struct error *err)
{
	struct maildir *md;
	struct dotlock *lock = NULL;
	struct error own = {0};
	int rc = maildir_open_dirs(place, &md, &own);

	if (rc == 0) {
		rc = dotlock_acquire(md->control_fd, md->control_path, UIDLIST_NAME,
				     DOTLOCK_TIMEOUT_MS_DEFAULT, &lock, &own);
		if (rc == 0)
			rc = maildir_make_subdirs(md, &own);
		if (rc == 0)
			rc = rebuild_locked(md, place, &own);
		/* Both can be read now; what still disagrees is settled as for any mailbox. */
		if (rc == 0)
			rc = settle(md, place, lock, &own);
		dotlock_release(&lock);
		maildir_close(&md->box);
	}
	if (rc < 0 && err)
		*err = own;
	return rc;
}
