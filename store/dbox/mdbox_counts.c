/* Reference counts that are higher than there are references. See mdbox_storage.h. */
#include "store/dbox/mdbox_storage.h"

#include <errno.h>
#include <stdlib.h>
#include "store/base/log.h"

void mdbox_counts_free(struct mdbox_counts *counts)
{
	free(counts->map_uids);
	free(counts->refs);
	free(counts->kept);
	*counts = (struct mdbox_counts){0};
}

/* Every map UID that the map says is referred to. */
static int list_referred(const struct mdbox_storage *storage, struct mdbox_counts *counts,
			 struct error *err)
{
	struct index_status status;
	struct index_record record;
	struct index_iter iter;

	index_status(storage->map, &status);
	counts->map_uids = calloc(status.messages + 1U, sizeof(uint32_t));
	counts->refs = calloc(status.messages + 1U, sizeof(uint32_t));
	counts->kept = calloc(status.messages + 1U, sizeof(uint32_t));
	if (!counts->map_uids || !counts->refs || !counts->kept)
		return error_errno(err, -ENOMEM, "%s", storage->path);
	index_iter_init(storage->map, 1, &iter);
	while (counts->count < status.messages && index_iter_next(&iter, &record)) {
		struct mdbox_entry entry;

		mdbox_map_entry(storage, &record, &entry);
		if (entry.ref > 0) {
			counts->kept[counts->count] = entry.ref;
			counts->map_uids[counts->count++] = entry.map_uid;
		}
	}
	return 0;
}

/* Leaves those whose count is higher than there are references, and still what it was. */
static void keep_wrong(const struct mdbox_storage *storage, struct mdbox_counts *counts)
{
	size_t wrong = 0;

	for (size_t i = 0; i < counts->count; i++) {
		struct mdbox_entry entry;

		if (counts->refs[i] >= counts->kept[i] ||
		    mdbox_map_find(storage, counts->map_uids[i], &entry) < 0 ||
		    entry.ref != counts->kept[i])
			continue;
		counts->map_uids[wrong] = counts->map_uids[i];
		counts->refs[wrong] = counts->refs[i];
		counts->kept[wrong++] = counts->kept[i];
	}
	counts->count = wrong;
}

static int count(const struct mdbox_storage *storage, struct mdbox_counts *counts,
		 struct error *err)
{
	int rc = mdbox_count_refs(storage, counts->map_uids, counts->count, counts->refs, err);

	if (rc == 0)
		keep_wrong(storage, counts);
	return rc;
}

int mdbox_counts_too_high(struct mdbox_storage *storage, struct mdbox_counts *counts_r,
			  struct index_txn **txn_r, struct error *err)
{
	int rc;

	*counts_r = (struct mdbox_counts){0};
	*txn_r = NULL;
	rc = list_referred(storage, counts_r, err);
	if (rc == 0)
		rc = count(storage, counts_r, err);
	if (rc < 0 || counts_r->count == 0)
		return rc;
	rc = mdbox_map_begin(storage, txn_r, err);
	if (rc == 0)
		rc = count(storage, counts_r, err);
	if (rc < 0)
		index_abort(txn_r);
	return rc;
}

uint32_t mdbox_counts_tell(const struct mdbox_storage *storage, const struct mdbox_counts *counts)
{
	uint32_t unclaimed = 0;

	for (size_t i = 0; i < counts->count; i++)
		unclaimed += counts->refs[i] == 0;
	if (unclaimed)
		log_warning("%s: no mailbox has %u messages that nobody expunged, as after a "
			    "mailbox's dovecot.index.log was cut short; they are kept (doveadm "
			    "force-resync puts them back into one)",
			    storage->path, unclaimed);
	return unclaimed;
}
