/*
 * Telling Dovecot that the mailbox list has to be read from the directories again (reference 6.1).
 */
#include "store/index/list_index.h"

#include <errno.h>
#include <sys/stat.h>
#include <fcntl.h>
#include "store/index/index_txn.h"

#define LIST_RECORD_SIZE  28
#define LIST_RECORD_ALIGN 4

/* The flag is looked at under the lock only: Dovecot, which holds it while it reads the
 * directories, may be about to clear it for a state from before the caller's change. */
static int set_flag(struct index *index, int timeout_ms, struct error *err)
{
	static const uint8_t set = 1;
	struct index_ext_def def = {
		.name = "list", .record_size = LIST_RECORD_SIZE, .record_align = LIST_RECORD_ALIGN};
	struct index_ext ext;
	struct index_txn *txn;
	int ret = index_begin(index, timeout_ms, &txn, err);

	if (ret < 0)
		return ret;
	if (index_ext_find(index, def.name, &ext) < 0 || ext.hdr_size == 0 ||
	    *(const uint8_t *)ext.hdr != 0) {
		index_abort(&txn);
		return 0;
	}
	def.hdr_size = ext.hdr_size;
	def.reset_id = ext.reset_id;
	index_update_ext_hdr(txn, &def, 0, &set, sizeof(set), err);
	return index_commit(&txn, false, err);
}

int list_index_set_refresh(int dirfd, const char *label, enum index_lock_method lock_method,
			   int timeout_ms, struct error *err)
{
	const struct index_options options = {
		.name = INDEX_NAME_LIST, .label = label, .lock_method = lock_method};
	struct index *index;
	struct stat st;
	int ret;

	if (fstatat(dirfd, INDEX_NAME_LIST ".log", &st, AT_SYMLINK_NOFOLLOW) < 0 && errno == ENOENT)
		return 0;
	ret = index_open(dirfd, &options, &index, err);
	if (ret < 0)
		return ret;
	ret = set_flag(index, timeout_ms, err);
	index_close(&index);
	/* A list index that is being removed is no longer trusted by anybody. */
	return ret == -ESTALE ? 0 : ret;
}
