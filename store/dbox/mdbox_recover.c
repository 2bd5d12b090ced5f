/* Reference counts that a killed writer left too high. See mdbox_storage.h. */
#include "store/dbox/mdbox_storage.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/dbox/dbox_intent.h"

/* Under the map's lock: nobody adds or drops a reference meanwhile. */
static int correct_refs(struct mdbox_storage *storage, struct index_txn *txn,
			const struct dbox_leftovers *left, struct error *err)
{
	const struct dbox_numbers *uids = &left->uids;
	AUTO_FREE uint32_t *refs = calloc(uids->count ? uids->count : 1, sizeof *refs);
	size_t corrected = 0;
	int rc;

	if (!refs)
		return error_errno(err, -ENOMEM, "%s", storage->path);
	rc = mdbox_count_refs(storage, uids->list, uids->count, refs, err);
	for (size_t i = 0; rc == 0 && i < uids->count; i++) {
		struct mdbox_entry entry;

		if (mdbox_map_find(storage, uids->list[i], &entry) < 0 || entry.ref == refs[i] ||
		    refs[i] > MDBOX_REF_MAX)
			continue;
		rc = mdbox_map_set_ref(txn, entry.map_uid, (uint16_t)refs[i], err);
		corrected++;
	}
	if (rc == 0 && corrected)
		log_notice("%s: corrected %zu reference counts that a dead writer left",
			   storage->path, corrected);
	return rc;
}

/* New ones that the map never came to know, and old ones that it knows no more: a rebuild would
 * take what is in them for mail. */
static void remove_files(struct mdbox_storage *storage, const struct dbox_numbers *files)
{
	/* One that was made in a damaged one's place and never filled knows nothing of any. */
	if (mdbox_map_highest_file(storage) == 0)
		return;
	for (size_t i = 0; i < files->count; i++) {
		int rc;

		if (mdbox_mapped_end(storage, files->list[i]) > 0)
			continue;
		rc = mdbox_file_remove(storage, files->list[i]);
		if (rc == 0)
			log_notice("%s/m.%" PRIu32 ": removed, a dead writer left it, and the map "
				   "does not know it",
				   storage->path, files->list[i]);
		else if (rc != -ENOENT)
			log_warning("%s/m.%" PRIu32 ": unlink: %s", storage->path, files->list[i],
				    strerror(-rc));
	}
}

int mdbox_recover(struct mdbox_storage *storage, struct error *err)
{
	struct dbox_leftovers left;
	struct index_txn *txn = NULL;
	int rc;

	if (storage->recovered_s && dbox_now_s() - storage->recovered_s < DBOX_LEFTOVERS_SECS)
		return 0;
	rc = dbox_leftovers_find(storage->dirfd, storage->path, mdbox_storage_uid_validity(storage),
				 &left, err);
	if (rc == 0 && (left.uids.count || left.files.count)) {
		rc = mdbox_map_begin(storage, &txn, err);
		if (rc == 0)
			rc = correct_refs(storage, txn, &left, err);
		if (rc == 0)
			remove_files(storage, &left.files);
		if (rc == 0)
			rc = index_commit(&txn, true, err);
		else
			index_abort(&txn);
	}
	if (rc == 0)
		dbox_leftovers_done(storage->dirfd, &left);
	dbox_leftovers_free(&left);
	if (rc == 0)
		storage->recovered_s = dbox_now_s();
	return rc;
}
