/*
 * Makes a mailbox out of a directory: cur, new, tmp, uidlist and index, where they are missing, and
 * makes uidlist and index agree (reference 1.5, 1.7).
 *
 * The uidlist decides: its UIDVALIDITY and UIDs stay, and an index that says otherwise is filled
 * anew from it. Only where the uidlist itself is lost do messages get new UIDs, and the mailbox a
 * new GUID, as with Dovecot: nothing else knows which file was which message.
 */
#include "store/maildir/maildir_private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/base/owned_file.h"
#include "store/index/index_files.h"

#define GUID_TEXT_MAX 4096
#define SETUP_TRIES   3

void maildir_index_options(const struct maildir *md, struct index_options *options_r)
{
	*options_r = (struct index_options){
		.name = INDEX_NAME_MAIL,
		.label = md->index_path,
		.lock_method = INDEX_LOCK_FCNTL,
	};
}

/* ---- directories ---- */

int maildir_make_subdirs(struct maildir *md, struct error *err)
{
	static const char *const names[] = {"cur", "new", "tmp"};

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		int rc = owned_dir_make(md->dirfd, names[i]);

		if (rc < 0)
			return error_errno(err, rc, "%s/%s", md->path, names[i]);
	}
	return 0;
}

static int open_side_dir(const struct maildir *md, const char *path, int *fd_r, struct error *err)
{
	if (strcmp(path, md->path) == 0) {
		*fd_r = md->dirfd;
		return 0;
	}
	*fd_r = owned_dir_open(path, true);
	if (*fd_r < 0)
		return error_errno(err, *fd_r, "%s", path);
	return 0;
}

int maildir_open_dirs(const struct mailbox_place *place, struct maildir **md_r, struct error *err)
{
	struct maildir *md = calloc(1, sizeof *md);
	int rc;

	*md_r = NULL;
	if (!md)
		return error_errno(err, -ENOMEM, "%s", place->mail);
	md->dirfd = md->control_fd = md->index_fd = -1;
	buf_init(&md->guid_text, GUID_TEXT_MAX);
	md->path = strdup(place->mail);
	md->control_path = strdup(place->control);
	md->index_path = strdup(place->index);
	if (!md->path || !md->control_path || !md->index_path) {
		rc = error_errno(err, -ENOMEM, "%s", place->mail);
		goto failed;
	}
	md->dirfd = owned_dir_open(md->path, false);
	if (md->dirfd < 0) {
		rc = error_errno(err, md->dirfd, "%s", md->path);
		goto failed;
	}
	rc = open_side_dir(md, md->control_path, &md->control_fd, err);
	if (rc == 0)
		rc = open_side_dir(md, md->index_path, &md->index_fd, err);
	if (rc < 0)
		goto failed;
	*md_r = md;
	return 0;
failed:
	maildir_close(&md->box);
	return rc;
}

/* ---- uidlist and index ---- */

bool maildir_needs_setup(const struct maildir *md)
{
	const struct uidlist_header *header;
	struct index_status status;

	if (!md->uidlist || !md->index)
		return true;
	header = uidlist_header(md->uidlist);
	index_status(md->index, &status);
	return header->version != 3 || guid_is_empty(&header->guid) ||
	       header->uid_validity != status.uid_validity;
}

/* What is there, under the lock. NULL: missing. */
static int reopen(struct maildir *md, struct error *err)
{
	struct index_options options;
	int rc;

	maildir_index_options(md, &options);
	index_close(&md->index);
	uidlist_close(&md->uidlist);
	rc = index_open(md->index_fd, &options, &md->index, err);
	if (rc < 0 && rc != -ENOENT)
		return rc;
	rc = uidlist_open(md->control_fd, md->control_path, &md->uidlist, err);
	return rc == -ENOENT ? 0 : rc;
}

static int make_uidlist(struct maildir *md, const struct mailbox_place *place, struct error *err)
{
	struct uidlist_header header = {.version = 3, .next_uid = 1};
	struct index_status status = {0};

	if (md->index) {
		index_status(md->index, &status);
		header.uid_validity = status.uid_validity;
		if (status.next_uid > 1)
			header.next_uid = status.next_uid;
	}
	if (header.uid_validity == 0) {
		int rc = place->uid_validity(place->ctx, &header.uid_validity, err);

		if (rc < 0)
			return rc;
	}
	guid_generate(&header.guid);
	if (status.messages > 0)
		log_warning("%s/" UIDLIST_NAME " is missing: %u messages get new UIDs from %u, and "
			    "the mailbox a new GUID",
			    md->control_path, status.messages, header.next_uid);
	return uidlist_create(md->control_fd, md->control_path, &header, err);
}

/* Version 1, or one without a GUID. */
static int upgrade_uidlist(struct maildir *md, struct error *err)
{
	struct uidlist_header header = *uidlist_header(md->uidlist);

	header.version = 3;
	if (guid_is_empty(&header.guid))
		guid_generate(&header.guid);
	return uidlist_rewrite(md->uidlist, &header, NULL, NULL, NULL, err);
}

/* An index that Dovecot has only just made. */
static int name_index(struct maildir *md, struct error *err)
{
	const struct uidlist_header *header = uidlist_header(md->uidlist);
	struct index_txn *txn;
	int rc = index_begin(md->index, -1, &txn, err);

	if (rc == 0) {
		index_set_uid_validity(txn, header->uid_validity, err);
		rc = index_commit(&txn, true, err);
	}
	return rc;
}

static int make_index(struct maildir *md, const struct dotlock *lock, bool uidlist_is_new,
		      struct error *err)
{
	const struct uidlist_header *header = uidlist_header(md->uidlist);
	struct index_create create = {.uid_validity = header->uid_validity,
				      .maker_died = dotlock_was_stale(lock)};
	struct index_options options;
	struct index_status status;
	int rc;

	maildir_index_options(md, &options);
	if (md->index) {
		bool same;

		index_status(md->index, &status);
		if (status.deleted)
			return error_set(err, -ESTALE, "%s is being deleted", md->path);
		if (status.uid_validity == 0 && status.messages == 0)
			return name_index(md, err);
		same = status.uid_validity == header->uid_validity;
		if (same && !(uidlist_is_new && status.messages > 0))
			return 0;
		if (!same)
			log_warning(
				"%s: UIDVALIDITY is %u in the uidlist and %u in the index, which "
				"is made anew",
				md->path, header->uid_validity, status.uid_validity);
		create.replace = true;
		/* Whoever knows a MODSEQ of before shall not take a later one for an earlier. */
		create.initial_modseq = status.highest_modseq + 1;
	}
	/* Lines of a list that was there before have UIDs from 1 on, which the index has to take.
	 */
	create.next_uid = uidlist_is_new ? header->next_uid : 1;
	rc = index_create(md->index_fd, &options, &create, err);
	/* Dovecot makes one before it takes the lock that we hold. */
	return rc == -EEXIST ? 0 : rc;
}

/* One step towards a uidlist and an index that agree, from what is there. */
static int setup_step(struct maildir *md, const struct mailbox_place *place,
		      const struct dotlock *lock, struct error *err)
{
	bool uidlist_is_new = !md->uidlist;
	int rc = 0;

	if (uidlist_is_new) {
		rc = make_uidlist(md, place, err);
		if (rc == 0)
			rc = uidlist_open(md->control_fd, md->control_path, &md->uidlist, err);
	} else if (uidlist_header(md->uidlist)->version != 3 ||
		   guid_is_empty(&uidlist_header(md->uidlist)->guid)) {
		rc = upgrade_uidlist(md, err);
	}
	if (rc == 0)
		rc = make_index(md, lock, uidlist_is_new, err);
	return rc < 0 ? rc : reopen(md, err);
}

int maildir_setup_locked(struct maildir *md, const struct mailbox_place *place,
			 struct dotlock *lock, struct error *err)
{
	bool changed;
	int rc = reopen(md, err);

	if (rc < 0 || !maildir_needs_setup(md))
		return rc; /* or somebody was faster */
	rc = maildir_make_subdirs(md, err);
	for (int i = 0; rc == 0 && maildir_needs_setup(md) && i < SETUP_TRIES; i++)
		rc = setup_step(md, place, lock, err);
	if (rc < 0)
		return rc;
	if (maildir_needs_setup(md))
		return error_set(err, -EUCLEAN,
				 "%s: uidlist or index did not stay as they were made", md->path);
	return maildir_scan_locked(md, lock, &changed, err);
}

int maildir_setup(struct maildir *md, const struct mailbox_place *place, struct error *err)
{
	struct dotlock *lock;
	int rc = dotlock_acquire(md->control_fd, md->control_path, UIDLIST_NAME,
				 DOTLOCK_TIMEOUT_MS_DEFAULT, &lock, err);

	if (rc < 0)
		return rc;
	rc = maildir_setup_locked(md, place, lock, err);
	dotlock_release(&lock);
	return rc;
}

/* ---- without opening it ---- */

int maildir_peek(const struct mailbox_place *place, struct mailbox_status *status_r,
		 struct error *err)
{
	AUTO_CLOSE int fd = owned_dir_open(place->control, false);
	struct uidlist_header header = {0};
	int rc;

	*status_r = (struct mailbox_status){0};
	if (fd < 0)
		return error_errno(err, fd, "%s", place->control);
	rc = uidlist_read_header(fd, place->control, &header, err);
	if (rc < 0)
		return rc;
	status_r->guid = header.guid;
	status_r->uid_validity = header.uid_validity;
	status_r->uid_next = header.next_uid;
	return 0;
}

int maildir_create(const struct mailbox_place *place, int control_fd, int index_fd,
		   const struct guid *guid, uint32_t uid_validity, struct error *err)
{
	const struct uidlist_header header = {
		.version = 3, .uid_validity = uid_validity, .next_uid = 1, .guid = *guid};
	const struct index_options options = {.label = place->name};
	const struct index_create create = {
		.uid_validity = uid_validity, .next_uid = 1, .maker_died = place->maker_died};
	int rc = uidlist_create(control_fd, place->name, &header, err);

	return rc < 0 ? rc : index_create(index_fd, &options, &create, err);
}
