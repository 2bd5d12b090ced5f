/* Prints the tombstones of a state_dir's peer journal, one a line: user, mailbox, uid, modseq,
 * message. Beside a running dsyncd, for scenarios. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include "store/journal/lmdb_env.h"
#include "store/journal/peer_codec.h"

static int print_all(MDB_txn *txn, MDB_dbi dbi)
{
	MDB_val key, value;
	MDB_cursor *cursor;
	int rc = mdb_cursor_open(txn, dbi, &cursor);

	while (rc == 0 && (rc = mdb_cursor_get(cursor, &key, &value, MDB_NEXT)) == 0) {
		const char *user = key.mv_data;
		size_t len = strlen(user) + 1;
		char mailbox[GUID_HEX_SIZE], message[GUID_HEX_SIZE];
		struct tombstone tombstone;

		if (peer_key_get_tombstone((const char *)key.mv_data + len, key.mv_size - len,
					   &tombstone) < 0)
			return MDB_CORRUPTED;
		printf("%s %s %u %" PRIu64 " %s\n", user, guid_to_hex(&tombstone.mailbox, mailbox),
		       tombstone.uid, tombstone.modseq, guid_to_hex(&tombstone.message, message));
	}
	mdb_cursor_close(cursor);
	return rc == MDB_NOTFOUND ? 0 : rc;
}

int main(int argc, char **argv)
{
	struct lmdb_env env;
	struct error err = {0};
	char dir[PATH_MAX];
	MDB_txn *txn;
	int rc;

	if (argc != 2)
		return 64;
	snprintf(dir, sizeof dir, "%s/journal/peer", argv[1]);
	if (lmdb_env_open_reader(dir, &peer_layout, &env, &err) < 0) {
		fprintf(stderr, "%s\n", err.text);
		return 1;
	}
	rc = mdb_txn_begin(env.env, NULL, MDB_RDONLY, &txn);
	if (rc == 0) {
		rc = print_all(txn, env.dbi[PEER_TOMBSTONES]);
		mdb_txn_abort(txn);
	}
	/* Gives the reader's slot back. */
	lmdb_env_close(&env);
	if (rc != 0)
		fprintf(stderr, "%s: %s\n", dir, mdb_strerror(rc));
	return rc != 0;
}
