/*
 * Transactions: begin, collect, commit. What is collected becomes log records in index_txn_build.c.
 *
 * Commit applies the bytes to the view before it writes them: what our own parser does not accept
 * must not reach the file, where it would be corruption for everybody.
 */
#include "store/index/index_txn.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include "store/base/crash_point.h"
#include "store/base/file.h"
#include "store/index/index_mail.h"
#include "store/index/index_txn_private.h"

#define TXN_LIST_MAX (256UL << 20)

static int txn_fail(struct index_txn *txn, int code, struct error *err, const char *what,
		    uint32_t uid)
{
	struct error failure = {0};

	error_errno(&failure, code, "%s: %s (uid %" PRIu32 ")", index_text(txn->index), what, uid);
	if (txn->failed == 0) {
		txn->failed = code;
		txn->error = failure;
	}
	return error_set(err, code, "%s", failure.text);
}

static int txn_put(struct index_txn *txn, struct buf *list, const void *entry, size_t size,
		   uint32_t uid, struct error *err)
{
	if (buf_append(list, entry, size) < 0)
		return txn_fail(txn, list->failed, err, "a change cannot be kept", uid);
	return 0;
}

static void txn_free_lists(struct index_txn *txn)
{
	for (size_t i = 0; i < TXN_COUNT(txn, keyword_names, txn_keyword_name); i++)
		free(TXN_LIST(txn, keyword_names, txn_keyword_name)[i].name);
	for (size_t i = 0; i < TXN_COUNT(txn, exts, txn_ext); i++) {
		struct txn_ext *ext = &TXN_LIST(txn, exts, txn_ext)[i];

		free(ext->name);
		buf_free(&ext->headers);
		buf_free(&ext->records);
		buf_free(&ext->increments);
	}
	buf_free(&txn->appends);
	buf_free(&txn->flags);
	buf_free(&txn->keywords);
	buf_free(&txn->keyword_names);
	buf_free(&txn->expunges);
	buf_free(&txn->modseqs);
	buf_free(&txn->exts);
	buf_free(&txn->headers);
}

static void txn_free(struct index_txn *txn)
{
	if (txn == NULL)
		return;
	txn_free_lists(txn);
	free(txn);
}

static void txn_init(struct index_txn *txn, struct index *index)
{
	*txn = (struct index_txn){.index = index, .external = true};
	buf_init(&txn->appends, TXN_LIST_MAX);
	buf_init(&txn->flags, TXN_LIST_MAX);
	buf_init(&txn->keywords, TXN_LIST_MAX);
	buf_init(&txn->keyword_names, TXN_LIST_MAX);
	buf_init(&txn->expunges, TXN_LIST_MAX);
	buf_init(&txn->modseqs, TXN_LIST_MAX);
	buf_init(&txn->exts, TXN_LIST_MAX);
	buf_init(&txn->headers, TXN_LIST_MAX);
}

static int txn_begin(struct index *index, int timeout_ms, bool deleted, struct index_txn **txn_r,
		     struct error *err)
{
	struct index_position before, after;
	struct index_txn *txn;
	int ret;

	*txn_r = NULL;
	if (index->read_only)
		return error_set(err, -EROFS, "%s: opened for reading only", index_text(index));
	if (index->locked)
		return error_set(err, -EBUSY, "%s: a transaction is open already",
				 index_text(index));
	txn = calloc(1, sizeof(*txn));
	if (txn == NULL)
		return error_set(err, -ENOMEM, "%s: out of memory", index_text(index));
	txn_init(txn, index);
	index_position(index, &before);
	ret = index_lock(index, timeout_ms, err);
	if (ret < 0) {
		txn_free(txn);
		return ret;
	}
	index_position(index, &after);
	txn->foreign = !index_position_equal(&before, &after);
	if (index->state.deleted && !deleted) {
		index_unlock(index);
		txn_free(txn);
		return error_set(err, -ESTALE, "%s: the mailbox is being deleted",
				 index_text(index));
	}
	*txn_r = txn;
	return 0;
}

int index_begin(struct index *index, int timeout_ms, struct index_txn **txn_r, struct error *err)
{
	return txn_begin(index, timeout_ms, false, txn_r, err);
}

bool index_txn_foreign(const struct index_txn *txn)
{
	return txn->foreign;
}

struct index *index_txn_index(struct index_txn *txn)
{
	return txn->index;
}

void index_txn_internal(struct index_txn *txn)
{
	txn->external = false;
}

static bool txn_has_append(const struct index_txn *txn, uint32_t uid)
{
	const struct txn_append *appends = TXN_LIST(txn, appends, txn_append);
	size_t low = 0, high = TXN_COUNT(txn, appends, txn_append);

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (appends[middle].uid == uid)
			return true;
		if (appends[middle].uid < uid)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

static bool txn_has_message(const struct index_txn *txn, uint32_t uid)
{
	struct index_record record;

	return index_find(txn->index, uid, &record) == 0 || txn_has_append(txn, uid);
}

static uint32_t append_limit(const struct index_txn *txn)
{
	size_t count = TXN_COUNT(txn, appends, txn_append);

	if (count > 0)
		return TXN_LIST(txn, appends, txn_append)[count - 1].uid + 1;
	return index_get32(txn->index->state.hdr + HDR_NEXT_UID);
}

int index_append(struct index_txn *txn, uint32_t uid, uint8_t flags, struct error *err)
{
	struct txn_append append = {.uid = uid, .flags = flags};

	if (uid < append_limit(txn) || uid == UINT32_MAX)
		return txn_fail(txn, -EINVAL, err, "an append out of order", uid);
	return txn_put(txn, &txn->appends, &append, sizeof(append), uid, err);
}

int index_update_flags(struct index_txn *txn, uint32_t uid, uint8_t add, uint8_t remove,
		       struct error *err)
{
	struct txn_flags change = {.uid = uid, .add = add, .remove = remove};

	if ((add | remove) == 0 || !txn_has_message(txn, uid))
		return 0;
	change.order = (uint32_t)TXN_COUNT(txn, flags, txn_flags);
	if (((add | remove) & 0x1f) != 0)
		txn->flags_counted = true;
	return txn_put(txn, &txn->flags, &change, sizeof(change), uid, err);
}

static int txn_keyword_find(struct index_txn *txn, const char *name, uint32_t *pos_r)
{
	struct txn_keyword_name added = {0};
	size_t count = TXN_COUNT(txn, keyword_names, txn_keyword_name);

	for (size_t i = 0; i < count; i++) {
		if (strcasecmp(TXN_LIST(txn, keyword_names, txn_keyword_name)[i].name, name) == 0) {
			*pos_r = (uint32_t)i;
			return 0;
		}
	}
	added.name = strdup(name);
	if (added.name == NULL)
		return -ENOMEM;
	if (buf_append(&txn->keyword_names, &added, sizeof(added)) < 0) {
		free(added.name);
		return -ENOMEM;
	}
	*pos_r = (uint32_t)count;
	return 0;
}

int index_update_keyword(struct index_txn *txn, uint32_t uid, const char *name, bool add,
			 struct error *err)
{
	struct txn_keyword change = {.uid = uid, .add = add};
	struct txn_keyword_name *counts;
	int ret;

	if (!index_keyword_is_valid(name))
		return txn_fail(txn, -EINVAL, err, "a keyword that cannot be stored", uid);
	if (!txn_has_message(txn, uid))
		return 0;
	ret = txn_keyword_find(txn, name, &change.name);
	if (ret < 0)
		return txn_fail(txn, ret, err, "a keyword", uid);
	change.order = (uint32_t)TXN_COUNT(txn, keywords, txn_keyword);
	counts = &TXN_LIST(txn, keyword_names, txn_keyword_name)[change.name];
	if (add)
		counts->adds++;
	else
		counts->removes++;
	return txn_put(txn, &txn->keywords, &change, sizeof(change), uid, err);
}

int index_expunge(struct index_txn *txn, uint32_t uid, const struct guid *guid, struct error *err)
{
	struct txn_expunge expunge = {.uid = uid};

	if (!txn_has_message(txn, uid))
		return 0;
	if (guid != NULL)
		expunge.guid = *guid;
	return txn_put(txn, &txn->expunges, &expunge, sizeof(expunge), uid, err);
}

int index_bury(struct index_txn *txn, uint32_t uid, const struct guid *guid, struct error *err)
{
	struct txn_expunge expunge = {.uid = uid};

	if (txn_has_message(txn, uid))
		return error_set(err, -EEXIST, "%s: a message has UID %u", index_text(txn->index),
				 uid);
	if (uid == 0 || uid >= index_get32(txn->index->state.hdr + HDR_NEXT_UID))
		return error_set(err, -EINVAL, "%s: UID %u was not given out yet",
				 index_text(txn->index), uid);
	if (guid != NULL)
		expunge.guid = *guid;
	else
		guid_generate(&expunge.guid);
	return txn_put(txn, &txn->expunges, &expunge, sizeof(expunge), uid, err);
}

static int put_modseq(struct index_txn *txn, uint32_t uid, uint64_t modseq, bool exact,
		      struct error *err)
{
	struct txn_modseq change = {.uid = uid, .exact = exact, .modseq = modseq};

	if (modseq > INT64_MAX)
		return txn_fail(txn, -EINVAL, err, "a modseq beyond 63 bits", uid);
	if (uid != 0 && !txn_has_message(txn, uid))
		return 0;
	return txn_put(txn, &txn->modseqs, &change, sizeof(change), uid, err);
}

int index_update_modseq(struct index_txn *txn, uint32_t uid, uint64_t modseq, struct error *err)
{
	return put_modseq(txn, uid, modseq, false, err);
}

int index_correct_modseq(struct index_txn *txn, uint32_t uid, uint64_t modseq, struct error *err)
{
	return put_modseq(txn, uid, modseq, true, err);
}

int index_txn_expunge_cmp(const void *a, const void *b)
{
	const struct txn_expunge *x = a, *y = b;

	return x->uid < y->uid ? -1 : x->uid > y->uid;
}

static bool txn_expunges(const struct index_txn *txn, uint32_t uid)
{
	const struct txn_expunge wanted = {.uid = uid};
	size_t count = TXN_COUNT(txn, expunges, txn_expunge);

	return count > 0 && bsearch(&wanted, txn->expunges.data, count, sizeof(wanted),
				    index_txn_expunge_cmp) != NULL;
}

int index_switch_on_modseqs(struct index_txn *txn, struct error *err)
{
	struct index_record record;
	int ret = 0;

	if (txn->index->state.ext_modseq >= 0)
		return 0;
	if (txn->expunges.len > 0)
		qsort(txn->expunges.data, TXN_COUNT(txn, expunges, txn_expunge),
		      sizeof(struct txn_expunge), index_txn_expunge_cmp);
	for (uint32_t uid = 1; ret == 0 && index_find_from(txn->index, uid, &record) == 0;
	     uid = record.uid + 1)
		if (!txn_expunges(txn, record.uid))
			ret = index_update_modseq(txn, record.uid, 0, err);
	for (size_t i = 0; ret == 0 && i < TXN_COUNT(txn, appends, txn_append); i++)
		ret = index_update_modseq(txn, TXN_LIST(txn, appends, txn_append)[i].uid, 0, err);
	return ret;
}

uint64_t index_txn_bumps(const struct index_txn *txn)
{
	uint64_t bumps = 0;

	if (txn->appends.len > 0)
		bumps++;
	if (txn->flags_counted)
		bumps++;
	if (txn->expunges.len > 0 && txn->external)
		bumps++;
	for (size_t i = 0; i < TXN_COUNT(txn, keyword_names, txn_keyword_name); i++) {
		const struct txn_keyword_name *name =
			&TXN_LIST(txn, keyword_names, txn_keyword_name)[i];

		bumps += (name->adds > 0 ? 1 : 0) + (name->removes > 0 ? 1 : 0);
	}
	return bumps;
}

uint64_t index_txn_modseq(const struct index_txn *txn)
{
	return txn->index->state.counter.modseq + index_txn_bumps(txn);
}

uint32_t index_txn_next_uid(const struct index_txn *txn)
{
	uint32_t limit = append_limit(txn);

	return txn->next_uid > limit ? txn->next_uid : limit;
}

int index_set_uid_validity(struct index_txn *txn, uint32_t uid_validity, struct error *err)
{
	if (uid_validity == 0)
		return txn_fail(txn, -EINVAL, err, "a UIDVALIDITY of 0", 0);
	txn->uid_validity = uid_validity;
	return 0;
}

int index_set_next_uid(struct index_txn *txn, uint32_t next_uid, struct error *err)
{
	(void)err;
	if (next_uid > txn->next_uid)
		txn->next_uid = next_uid;
	return 0;
}

int index_set_first_recent_uid(struct index_txn *txn, uint32_t uid, struct error *err)
{
	(void)err;
	if (uid > txn->first_recent_uid)
		txn->first_recent_uid = uid;
	return 0;
}

int index_set_header(struct index_txn *txn, uint16_t offset, const void *data, uint16_t size,
		     struct error *err)
{
	uint8_t entry[4 + INDEX_HDR_SIZE] = {0};

	/* Layout, identity and log position are not for callers; uids have functions of their own.
	 */
	if (size == 0 || offset < HDR_FIRST_UNSEEN_LOWWATER || offset + size > INDEX_HDR_SIZE ||
	    (offset < HDR_LOG_HEAD + 4 && offset + size > HDR_LOG_SEQ))
		return txn_fail(txn, -EINVAL, err, "a header field that may not be set", offset);
	index_put16(entry, offset);
	index_put16(entry + 2, size);
	memcpy(entry + 4, data, size);
	return txn_put(txn, &txn->headers, entry, 4 + index_pad4(size), 0, err);
}

static int txn_ext_find(struct index_txn *txn, const struct index_ext_def *def,
			struct txn_ext **ext_r)
{
	struct txn_ext added = {.def = *def};
	size_t count = TXN_COUNT(txn, exts, txn_ext);

	for (size_t i = 0; i < count; i++) {
		struct txn_ext *ext = &TXN_LIST(txn, exts, txn_ext)[i];

		if (strcmp(ext->name, def->name) != 0)
			continue;
		if (ext->def.reset_id != def->reset_id || ext->def.record_size != def->record_size)
			return -EINVAL;
		if (def->hdr_size > ext->def.hdr_size)
			ext->def.hdr_size = def->hdr_size;
		*ext_r = ext;
		return 0;
	}
	if (*def->name == '\0' || strlen(def->name) > INDEX_EXT_NAME_MAX ||
	    strcmp(def->name, "keywords") == 0 || def->record_size > INDEX_EXT_RECORD_MAX ||
	    def->hdr_size > INDEX_EXT_HDR_MAX)
		return -EINVAL;
	added.name = strdup(def->name);
	if (added.name == NULL)
		return -ENOMEM;
	buf_init(&added.headers, TXN_LIST_MAX);
	buf_init(&added.records, TXN_LIST_MAX);
	buf_init(&added.increments, TXN_LIST_MAX);
	if (buf_append(&txn->exts, &added, sizeof(added)) < 0) {
		free(added.name);
		return -ENOMEM;
	}
	*ext_r = &TXN_LIST(txn, exts, txn_ext)[count];
	(*ext_r)->def.name = (*ext_r)->name;
	return 0;
}

int index_update_ext_hdr(struct index_txn *txn, const struct index_ext_def *def, uint32_t offset,
			 const void *data, uint32_t size, struct error *err)
{
	static const uint8_t zeros[4];
	struct txn_ext *ext;
	uint8_t entry[8];
	int ret = txn_ext_find(txn, def, &ext);

	if (ret == 0 && (offset > def->hdr_size || size > def->hdr_size - offset || size == 0))
		ret = -EINVAL;
	if (ret < 0)
		return txn_fail(txn, ret, err, "an extension's header", 0);
	if (offset > UINT16_MAX || size > UINT16_MAX)
		ext->wide = true;
	index_put32(entry, offset);
	index_put32(entry + 4, size);
	buf_append(&ext->headers, entry, sizeof(entry));
	buf_append(&ext->headers, data, size);
	return txn_put(txn, &ext->headers, zeros, index_pad4(size) - size, 0, err);
}

int index_update_ext(struct index_txn *txn, const struct index_ext_def *def, uint32_t uid,
		     const void *data, struct error *err)
{
	static const uint8_t zeros[4];
	struct txn_ext *ext;
	uint8_t entry[4];
	int ret = txn_ext_find(txn, def, &ext);

	if (ret == 0 && (def->record_size == 0 || uid == 0))
		ret = -EINVAL;
	if (ret < 0)
		return txn_fail(txn, ret, err, "an extension's record", uid);
	if (!txn_has_message(txn, uid))
		return 0;
	index_put32(entry, uid);
	buf_append(&ext->records, entry, sizeof(entry));
	buf_append(&ext->records, data, def->record_size);
	return txn_put(txn, &ext->records, zeros,
		       index_pad4(def->record_size) - (size_t)def->record_size, uid, err);
}

int index_inc_ext(struct index_txn *txn, const struct index_ext_def *def, uint32_t uid,
		  int32_t diff, struct error *err)
{
	struct txn_ext *ext;
	uint8_t entry[8];
	int ret = txn_ext_find(txn, def, &ext);

	if (ret == 0 && (uid == 0 || (def->record_size != 1 && def->record_size != 2 &&
				      def->record_size != 4 && def->record_size != 8)))
		ret = -EINVAL;
	if (ret < 0)
		return txn_fail(txn, ret, err, "an extension's addition", uid);
	if (!txn_has_message(txn, uid))
		return 0;
	index_put32(entry, uid);
	index_put32(entry + 4, (uint32_t)diff);
	return txn_put(txn, &ext->increments, entry, sizeof(entry), uid, err);
}

int index_set_deleted(struct index_txn *txn, struct error *err)
{
	(void)err;
	txn->deleted = true;
	return 0;
}

/* One write; on any failure the file is put back to its size. */
static int log_write(struct index *index, const struct buf *bytes, bool sync, uint64_t size,
		     struct error *err)
{
	ssize_t written;
	int ret = 0;

	do {
		written = write(index->log.fd, bytes->data, bytes->len);
	} while (written < 0 && errno == EINTR);
	crash_point("index log: appended, not synced");
	if (written < 0)
		ret = error_errno(err, -errno, "%s: write at offset %" PRIu64, index_text(index),
				  size);
	else if ((size_t)written != bytes->len)
		ret = error_set(err, -ENOSPC,
				"%s: write at offset %" PRIu64 ": only %zd of %zu bytes went in",
				index_text(index), size, written, bytes->len);
	else if (sync && fdatasync(index->log.fd) < 0)
		ret = error_errno(err, -errno, "%s: fdatasync", index_text(index));
	if (ret < 0 && ftruncate(index->log.fd, (off_t)size) < 0)
		error_prefix(err, "%s: cannot be cut back to offset %" PRIu64 " (%s)",
			     index_text(index), size, strerror(errno));
	return ret;
}

static int txn_write(struct index_txn *txn, bool sync, struct error *err)
{
	AUTO_BUF struct buf bytes = BUF_INIT(INDEX_LOG_RECORD_MAX);
	struct index *index = txn->index;
	const uint64_t size = index->state.offset;
	const struct index_log_counter counter = index->state.counter;
	int ret;

	if (txn->failed != 0)
		return error_set(err, txn->failed, "%s", txn->error.text);
	ret = index_txn_build(txn, &bytes);
	if (ret < 0)
		return error_errno(err, ret, "%s: building a transaction", index_text(index));
	if (bytes.len == 0)
		return 0;
	if (size + bytes.len > INDEX_LOG_FILE_MAX)
		return error_set(err, -EFBIG, "%s: %" PRIu64 " bytes; it has to be rotated",
				 index_text(index), size);
	ret = index_log_walk_memory(&index->log, (const uint8_t *)bytes.data, bytes.len,
				    &index->state.offset, &index->state.counter, index_apply_record,
				    index, err);
	if (ret == 0 && index->state.offset != size + bytes.len)
		ret = error_set(err, -EIO, "%s: a transaction of %zu bytes is not whole",
				index_text(index), bytes.len);
	if (ret == 0)
		ret = log_write(index, &bytes, sync, size, err);
	if (ret < 0) {
		/* The view shows what is not there: it has to be loaded again. */
		index->usable = false;
		index->state.offset = size;
		index->state.counter = counter;
		return ret;
	}
	index->state.replayed += bytes.len;
	return 0;
}

int index_commit(struct index_txn **txn, bool sync, struct error *err)
{
	struct index_txn *committing = *txn;
	int ret;

	*txn = NULL;
	ret = txn_write(committing, sync, err);
	index_unlock(committing->index);
	txn_free(committing);
	return ret;
}

int index_commit_part(struct index_txn *txn, bool sync, struct error *err)
{
	struct index *index = txn->index;
	const bool external = txn->external, foreign = txn->foreign;
	int ret = txn_write(txn, sync, err);

	txn_free_lists(txn);
	txn_init(txn, index);
	txn->external = external;
	txn->foreign = foreign;
	if (ret < 0)
		txn->failed = ret;
	return ret;
}

void index_abort(struct index_txn **txn)
{
	struct index_txn *aborting = *txn;

	*txn = NULL;
	if (aborting == NULL)
		return;
	index_unlock(aborting->index);
	txn_free(aborting);
}

int index_undelete(struct index *index, int timeout_ms, struct error *err)
{
	struct index_txn *txn;
	int ret = txn_begin(index, timeout_ms, true, &txn, err);

	if (ret < 0)
		return ret;
	txn->undeleted = index->state.deleted;
	return index_commit(&txn, true, err);
}
