/* The journal, dsyncd's side. Keys and values are in peer_store.c, their form in peer_codec.c. See
 * peer_journal.h. */
#include "store/journal/peer_journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/base/log.h"
#include "store/journal/journal_private.h"
#include "store/journal/peer_store.h"
#include "store/journal/reached_table.h"
#include "store/journal/slot_file.h"

struct peer_journal {
	struct peer_store store;
	struct reached_table *reached; /* NULL: no room for it */
	int dir_fd, lock_fd, consumed_fd;
	struct guid node_id;
	/* The position that dsyncfs may prune to, published when it is durable here. */
	bool publish;
	struct guid consumed_id;
	uint64_t consumed_seq;
};

static int open_dir(struct peer_journal *journal, const char *state_dir, struct error *err)
{
	AUTO_CLOSE int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	AUTO_CLOSE int state_fd = -1;
	int rc;

	if (state_dir[0] != '/')
		return error_set(err, -EINVAL, "state_dir %s: not an absolute path", state_dir);
	if (root >= 0) {
		rc = file_mkdirs_beneath(root, state_dir + 1, 0755);
		/* Symbolic links on the way are the admin's; they need no making. */
		if (rc < 0 && rc != -ENOTDIR && rc != -ELOOP)
			return error_errno(err, rc, "state_dir %s: cannot make it", state_dir);
	}
	state_fd = open(state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (state_fd < 0)
		return error_errno(err, -errno, "state_dir %s", state_dir);
	if (mkdirat(state_fd, "journal", 0700) < 0 && errno != EEXIST)
		return error_errno(err, -errno, "state_dir %s: cannot make journal/", state_dir);
	journal->dir_fd =
		openat(state_fd, "journal", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (journal->dir_fd < 0)
		return error_errno(err, -errno, "%s/journal", state_dir);
	return 0;
}

static int take_lock(struct peer_journal *journal, const char *state_dir, struct error *err)
{
	struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};

	journal->lock_fd = openat(journal->dir_fd, "peer.lock",
				  O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (journal->lock_fd < 0)
		return error_errno(err, -errno, "%s/journal/peer.lock", state_dir);
	if (fcntl(journal->lock_fd, F_OFD_SETLK, &lock) < 0)
		return error_set(err, -EBUSY, "%s/journal: another dsyncd writes it", state_dir);
	return 0;
}

/* Kept beside the environment, which may be lost: peers know this node by it. */
static int load_node_id(struct peer_journal *journal, const char *state_dir, struct error *err)
{
	AUTO_CLOSE int fd = slot_open(journal->dir_fd, JOURNAL_NODE_ID);
	uint8_t payload[SLOT_PAYLOAD];
	int rc = fd < 0 ? fd : slot_read(fd, payload);

	if (rc < 0 && rc != -EBADMSG)
		return error_errno(err, rc, "%s/journal/%s", state_dir, JOURNAL_NODE_ID);
	if (rc == 0)
		memcpy(journal->node_id.bytes, payload, sizeof journal->node_id.bytes);
	else
		log_error("%s/journal/%s is damaged: this node gets a new id; peers will compare "
			  "everything with it once",
			  state_dir, JOURNAL_NODE_ID);
	if (!guid_is_empty(&journal->node_id))
		return 0;
	guid_generate(&journal->node_id);
	rc = slot_write(fd, journal->node_id.bytes, sizeof journal->node_id.bytes);
	return rc < 0 ? error_errno(err, rc, "%s/journal/%s", state_dir, JOURNAL_NODE_ID) : 0;
}

static void open_reached(struct peer_journal *journal, const char *state_dir)
{
	struct error err = {0};

	if (reached_table_open(journal->dir_fd, &journal->reached, &err) < 0)
		log_warning("%s/journal/%s; mail that is removed just before a crash may come back",
			    state_dir, err.text);
}

int peer_journal_open(const char *state_dir, struct peer_journal **journal_r, struct error *err)
{
	struct peer_journal *journal = calloc(1, sizeof *journal);
	char dir[PATH_MAX];
	int rc;

	*journal_r = NULL;
	if (!journal)
		return error_errno(err, -ENOMEM, "journal");
	journal->dir_fd = journal->lock_fd = journal->consumed_fd = -1;
	rc = open_dir(journal, state_dir, err);
	if (rc == 0)
		rc = take_lock(journal, state_dir, err);
	if (rc == 0)
		rc = load_node_id(journal, state_dir, err);
	if (rc == 0) {
		journal->consumed_fd = slot_open(journal->dir_fd, JOURNAL_CONSUMED);
		if (journal->consumed_fd < 0)
			rc = error_errno(err, journal->consumed_fd, "%s/journal/%s", state_dir,
					 JOURNAL_CONSUMED);
	}
	if (rc == 0) {
		rc = snprintf(dir, sizeof dir, "%s/journal/peer", state_dir);
		rc = rc < (int)sizeof dir
			     ? peer_store_open(&journal->store, dir, err)
			     : error_set(err, -ENAMETOOLONG, "state_dir %s: too long", state_dir);
	}
	if (rc < 0) {
		peer_journal_close(&journal);
		return rc;
	}
	open_reached(journal, state_dir);
	*journal_r = journal;
	return 0;
}

void peer_journal_close(struct peer_journal **journal_p)
{
	struct peer_journal *journal = *journal_p;

	*journal_p = NULL;
	if (!journal)
		return;
	peer_store_close(&journal->store);
	reached_table_close(&journal->reached);
	file_close(&journal->consumed_fd);
	file_close(&journal->lock_fd);
	file_close(&journal->dir_fd);
	free(journal);
}

const struct guid *peer_journal_node_id(const struct peer_journal *journal)
{
	return &journal->node_id;
}

int peer_journal_commit(struct peer_journal *journal, struct error *err)
{
	uint8_t payload[SLOT_PAYLOAD] = {0};
	int rc = peer_store_commit(&journal->store, err);

	if (rc < 0 || !journal->publish)
		return rc;
	/* Only now may dsyncfs forget the events. */
	memcpy(payload, journal->consumed_id.bytes, sizeof journal->consumed_id.bytes);
	journal_put_u64(payload + sizeof journal->consumed_id.bytes, journal->consumed_seq);
	rc = slot_write(journal->consumed_fd, payload, sizeof payload);
	if (rc < 0)
		return error_errno(err, rc, "journal/%s", JOURNAL_CONSUMED);
	journal->publish = false;
	return 0;
}

/* ---- dsyncfs's events ---- */

static const char consumed_key[] = "consumed";

int peer_journal_set_consumed(struct peer_journal *journal, const struct guid *journal_id,
			      uint64_t seq, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	uint8_t bytes[8];
	int rc;

	buf_append_byte(&value, 1);
	buf_append(&value, journal_id->bytes, sizeof journal_id->bytes);
	journal_put_u64(bytes, seq);
	buf_append(&value, bytes, sizeof bytes);
	rc = peer_store_put(&journal->store, PEER_META, consumed_key, strlen(consumed_key), &value,
			    err);
	journal->publish = true;
	journal->consumed_id = *journal_id;
	journal->consumed_seq = seq;
	return rc;
}

int peer_journal_get_consumed(struct peer_journal *journal, struct guid *journal_id_r,
			      uint64_t *seq_r, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	int rc = peer_store_get(&journal->store, PEER_META, consumed_key, strlen(consumed_key),
				&value, err);

	memset(journal_id_r, 0, sizeof *journal_id_r);
	*seq_r = 0;
	if (rc < 0)
		return rc == -ENOENT ? 0 : rc;
	if (value.len < 25 || value.data[0] != 1) {
		log_error("%s: position in dsyncfs's journal is damaged: everything is scanned",
			  journal->store.env.dir);
		return 0;
	}
	memcpy(journal_id_r->bytes, value.data + 1, sizeof journal_id_r->bytes);
	*seq_r = journal_get_u64((const uint8_t *)value.data + 17);
	return 0;
}

int peer_journal_read_consumed(const char *state_dir, struct guid *journal_id_r, uint64_t *seq_r,
			       struct error *err)
{
	AUTO_CLOSE int dir_fd = -1;
	uint8_t payload[SLOT_PAYLOAD];
	char path[PATH_MAX];
	int rc;

	snprintf(path, sizeof path, "%s/journal", state_dir);
	dir_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	rc = dir_fd < 0 ? -errno : slot_read_at(dir_fd, JOURNAL_CONSUMED, payload);
	if (rc < 0)
		return error_errno(err, rc, "%s/%s", path, JOURNAL_CONSUMED);
	memcpy(journal_id_r->bytes, payload, sizeof journal_id_r->bytes);
	*seq_r = journal_get_u64(payload + sizeof journal_id_r->bytes);
	if (guid_is_empty(journal_id_r))
		return error_set(err, -ENOENT, "%s/%s: nothing was consumed yet", path,
				 JOURNAL_CONSUMED);
	return 0;
}

/* ---- keys that start with a user ---- */

static int key_user(struct peer_key *key_r, const char *user, struct error *err)
{
	if (peer_key_user(user, key_r) < 0)
		return error_set(err, -EINVAL,
				 "user name %.*s%s: empty or too long for the journal", 64, user,
				 strlen(user) > 64 ? "..." : "");
	return 0;
}

static int key_user_peer(struct peer_key *key_r, const char *user, const char *peer, bool with_nul,
			 struct error *err)
{
	int rc = key_user(key_r, user, err);

	if (rc < 0)
		return rc;
	if (peer_key_add_peer(key_r, peer, with_nul) < 0)
		return error_set(err, -EINVAL, "peer id %.64s: empty or too long for the journal",
				 peer);
	return 0;
}

/* ---- mailbox states ---- */

int peer_journal_put_state(struct peer_journal *journal, const char *user, const char *peer,
			   const struct peer_mailbox_state *state, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_user_peer(&key, user, peer, true, err);

	if (rc < 0)
		return rc;
	if (guid_is_empty(&state->guid))
		return error_set(err, -EINVAL, "user %s: a mailbox without a GUID has no state",
				 user);
	peer_key_add_guid(&key, &state->guid);
	peer_state_encode(state, &value);
	return peer_store_put(&journal->store, PEER_STATES, key.bytes, key.len, &value, err);
}

int peer_journal_note_reached(struct peer_journal *journal, const char *user, const char *peer,
			      const struct peer_mailbox_state *state, struct error *err)
{
	const struct reached reached = {
		.acked_modseq = state->acked_modseq,
		.peer_modseq = state->peer_modseq,
		.uid_validity = state->uid_validity,
		.common_uid = state->common_uid,
		.uid = state->reached_uid,
	};
	struct peer_key key;
	int rc = key_user_peer(&key, user, peer, true, err);

	if (rc < 0)
		return rc;
	peer_key_add_guid(&key, &state->guid);
	reached_table_put(journal->reached, key.bytes, key.len, &reached);
	return 0;
}

/* What was told in a session that did not come to its end: of just this state. */
static void add_reached(const struct peer_journal *journal, const void *key, size_t key_len,
			struct peer_mailbox_state *state)
{
	struct reached reached;

	reached_table_get(journal->reached, key, key_len, &reached);
	if (reached.acked_modseq == state->acked_modseq &&
	    reached.peer_modseq == state->peer_modseq &&
	    reached.uid_validity == state->uid_validity &&
	    reached.common_uid == state->common_uid && reached.uid > state->common_uid)
		state->reached_uid = reached.uid;
}

int peer_journal_del_state(struct peer_journal *journal, const char *user, const char *peer,
			   const struct guid *guid, struct error *err)
{
	struct peer_key key;
	int rc = key_user_peer(&key, user, peer, true, err);

	if (rc < 0)
		return rc;
	peer_key_add_guid(&key, guid);
	reached_table_put(journal->reached, key.bytes, key.len, &(struct reached){0});
	return peer_store_del(&journal->store, PEER_STATES, key.bytes, key.len, err);
}

int peer_journal_get_state(struct peer_journal *journal, const char *user, const char *peer,
			   const struct guid *guid, struct peer_mailbox_state *state_r,
			   struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_user_peer(&key, user, peer, true, err);

	memset(state_r, 0, sizeof *state_r);
	if (rc < 0)
		return rc;
	peer_key_add_guid(&key, guid);
	rc = peer_store_get(&journal->store, PEER_STATES, key.bytes, key.len, &value, err);
	if (rc == 0 && peer_state_decode(value.data, value.len, state_r) < 0) {
		memset(state_r, 0, sizeof *state_r);
		rc = error_set(err, -ENOENT, "user %s: the state is damaged", user);
	}
	if (rc == 0)
		add_reached(journal, key.bytes, key.len, state_r);
	return rc;
}

struct each_key {
	struct peer_journal *journal;
	struct error *err;
};

static int del_this_state(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value,
			  size_t value_len)
{
	struct each_key *each = ctx;

	reached_table_put(each->journal->reached, key, key_len, &(struct reached){0});
	return peer_store_del(&each->journal->store, PEER_STATES, key, key_len, each->err);
}

int peer_journal_del_states(struct peer_journal *journal, const char *user, const char *peer,
			    struct error *err)
{
	struct each_key each = {journal, err};
	struct peer_key key;
	int rc = key_user_peer(&key, user, peer, true, err);

	if (rc < 0)
		return rc;
	return peer_store_each(&journal->store, PEER_STATES, key.bytes, key.len, del_this_state,
			       &each, err);
}

struct each_state {
	const struct peer_journal *journal;
	const char *user;
	peer_journal_state_fn *each;
	void *ctx;
};

static int give_state(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value,
		      size_t value_len)
{
	struct each_state *each = ctx;
	struct peer_mailbox_state state;

	/* Without a state the mailbox is compared completely. */
	if (peer_state_decode(value, value_len, &state) < 0) {
		log_warning("journal: a mailbox state is damaged and ignored user=%s", each->user);
		return 0;
	}
	add_reached(each->journal, key, key_len, &state);
	return each->each(each->ctx, &state);
}

int peer_journal_each_state(struct peer_journal *journal, const char *user, const char *peer,
			    peer_journal_state_fn *each_fn, void *ctx, struct error *err)
{
	struct each_state each = {journal, user, each_fn, ctx};
	struct peer_key key;
	int rc = key_user_peer(&key, user, peer, true, err);

	if (rc < 0)
		return rc;
	return peer_store_each(&journal->store, PEER_STATES, key.bytes, key.len, give_state, &each,
			       err);
}

/* ---- which mailbox a directory was ---- */

static int key_dir(struct peer_key *key_r, const char *user, const char *dir, struct error *err)
{
	int rc = key_user(key_r, user, err);

	if (rc == 0)
		peer_key_add_dir(key_r, dir);
	return rc;
}

int peer_journal_put_place(struct peer_journal *journal, const char *user, const char *dir,
			   const struct peer_place *place, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_dir(&key, user, dir, err);

	if (rc < 0)
		return rc;
	rc = peer_place_encode(dir, place, &value);
	if (rc < 0)
		return error_errno(err, rc, "user %s: directory %.64s", user, dir);
	return peer_store_put(&journal->store, PEER_MAILBOXES, key.bytes, key.len, &value, err);
}

int peer_journal_del_place(struct peer_journal *journal, const char *user, const char *dir,
			   struct error *err)
{
	struct peer_key key;
	int rc = key_dir(&key, user, dir, err);

	return rc < 0 ? rc
		      : peer_store_del(&journal->store, PEER_MAILBOXES, key.bytes, key.len, err);
}

int peer_journal_get_place(struct peer_journal *journal, const char *user, const char *dir,
			   struct peer_place *place_r, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_dir(&key, user, dir, err);

	memset(place_r, 0, sizeof *place_r);
	if (rc == 0)
		rc = peer_store_get(&journal->store, PEER_MAILBOXES, key.bytes, key.len, &value,
				    err);
	if (rc == 0 && peer_place_decode(value.data, value.len, dir, place_r) < 0) {
		memset(place_r, 0, sizeof *place_r);
		rc = error_set(err, -ENOENT, "user %s: directory %s: its record is damaged", user,
			       dir);
	}
	return rc;
}

/* ---- users ---- */

int peer_journal_get_user(struct peer_journal *journal, const char *user, const char *peer,
			  struct peer_user *user_r, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_user_peer(&key, user, peer, false, err);

	memset(user_r, 0, sizeof *user_r);
	if (rc == 0)
		rc = peer_store_get(&journal->store, PEER_USERS, key.bytes, key.len, &value, err);
	if (rc == 0 && peer_user_decode(value.data, value.len, user_r) < 0) {
		memset(user_r, 0, sizeof *user_r);
		rc = error_set(err, -ENOENT, "user %s: the record is damaged", user);
	}
	return rc;
}

int peer_journal_put_user(struct peer_journal *journal, const char *user, const char *peer,
			  const struct peer_user *peer_user, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_user_peer(&key, user, peer, false, err);

	if (rc < 0)
		return rc;
	peer_user_encode(peer_user, &value);
	return peer_store_put(&journal->store, PEER_USERS, key.bytes, key.len, &value, err);
}

struct each_user {
	peer_journal_user_fn *each;
	void *ctx;
};

static int give_user(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value,
		     size_t value_len)
{
	struct each_user *each = ctx;
	char user[PEER_USER_MAX + 1], peer[PEER_ID_MAX + 1];
	struct peer_user peer_user;

	if (peer_key_split_user(key, key_len, user, peer) < 0) {
		log_warning("journal: a user's record is damaged and ignored");
		return 0;
	}
	if (peer_user_decode(value, value_len, &peer_user) < 0) {
		/* What is owed to the peer is unknown: all of it. */
		log_warning("journal: record is damaged: full sync user=%s peer=%s", user, peer);
		memset(&peer_user, 0, sizeof peer_user);
		peer_user.priority = SYNC_PRIORITY_LOW;
		peer_user.want_full = peer_user.want_tree = true;
	}
	return each->each(each->ctx, user, peer, &peer_user);
}

int peer_journal_each_user(struct peer_journal *journal, peer_journal_user_fn *each_fn, void *ctx,
			   struct error *err)
{
	struct each_user each = {each_fn, ctx};

	return peer_store_each(&journal->store, PEER_USERS, "", 0, give_user, &each, err);
}

/* ---- tombstones ---- */

int peer_journal_put_tombstone(struct peer_journal *journal, const char *user,
			       const struct tombstone *tombstone, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_user(&key, user, err);

	if (rc < 0)
		return rc;
	peer_key_add_tombstone(&key, tombstone);
	peer_tombstone_encode(tombstone, &value);
	return peer_store_put(&journal->store, PEER_TOMBSTONES, key.bytes, key.len, &value, err);
}

struct each_tombstone {
	struct peer_journal *journal;
	const char *user;
	size_t user_len; /* with its NUL */
	peer_journal_tombstone_fn *each;
	void *ctx;
	uint64_t modseq; /* to prune up to */
	struct error *err;
};

static int decode_tombstone(const struct each_tombstone *each, const uint8_t *key, size_t key_len,
			    const uint8_t *value, size_t value_len, struct tombstone *tombstone_r)
{
	memset(tombstone_r, 0, sizeof *tombstone_r);
	if (key_len > each->user_len &&
	    peer_key_get_tombstone(key + each->user_len, key_len - each->user_len, tombstone_r) ==
		    0 &&
	    peer_tombstone_decode(value, value_len, tombstone_r) == 0)
		return 0;
	log_warning("journal: a tombstone is damaged and ignored user=%s", each->user);
	return -EBADMSG;
}

static int give_tombstone(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value,
			  size_t value_len)
{
	struct each_tombstone *each = ctx;
	struct tombstone tombstone;

	if (decode_tombstone(each, key, key_len, value, value_len, &tombstone) < 0)
		return 0;
	return each->each(each->ctx, &tombstone);
}

int peer_journal_each_tombstone(struct peer_journal *journal, const char *user,
				const struct guid *mailbox, peer_journal_tombstone_fn *each_fn,
				void *ctx, struct error *err)
{
	struct each_tombstone each = {.user = user, .each = each_fn, .ctx = ctx};
	struct peer_key key;
	int rc = key_user(&key, user, err);

	if (rc < 0)
		return rc;
	each.user_len = key.len;
	peer_key_add_guid(&key, mailbox);
	return peer_store_each(&journal->store, PEER_TOMBSTONES, key.bytes, key.len, give_tombstone,
			       &each, err);
}

/* In the order of modseq: the first one above it ends the walk. */
static int prune_tombstone(void *ctx, const uint8_t *key, size_t key_len, const uint8_t *value,
			   size_t value_len)
{
	struct each_tombstone *each = ctx;
	struct tombstone tombstone;

	if (decode_tombstone(each, key, key_len, value, value_len, &tombstone) == 0 &&
	    tombstone.modseq > each->modseq)
		return 1;
	return peer_store_del(&each->journal->store, PEER_TOMBSTONES, key, key_len, each->err);
}

int peer_journal_prune_tombstones(struct peer_journal *journal, const char *user,
				  const struct guid *mailbox, uint64_t modseq, struct error *err)
{
	struct each_tombstone each = {
		.journal = journal, .user = user, .modseq = modseq, .err = err};
	struct peer_key key;
	int rc = key_user(&key, user, err);

	if (rc < 0)
		return rc;
	each.user_len = key.len;
	peer_key_add_guid(&key, mailbox);
	rc = peer_store_each(&journal->store, PEER_TOMBSTONES, key.bytes, key.len, prune_tombstone,
			     &each, err);
	return rc < 0 ? rc : 0;
}

/* ---- up to where there are tombstones ---- */

static int key_mark(struct peer_key *key_r, const char *user, const struct guid *mailbox,
		    struct error *err)
{
	int rc = key_user(key_r, user, err);

	if (rc == 0)
		peer_key_add_guid(key_r, mailbox);
	return rc;
}

int peer_journal_put_tombstone_mark(struct peer_journal *journal, const char *user,
				    const struct tombstone_mark *mark, struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_mark(&key, user, &mark->mailbox, err);

	if (rc < 0)
		return rc;
	peer_mark_encode(mark, &value);
	return peer_store_put(&journal->store, PEER_MARKS, key.bytes, key.len, &value, err);
}

int peer_journal_get_tombstone_mark(struct peer_journal *journal, const char *user,
				    const struct guid *mailbox, struct tombstone_mark *mark_r,
				    struct error *err)
{
	AUTO_BUF struct buf value = BUF_INIT(PEER_VALUE_MAX);
	struct peer_key key;
	int rc = key_mark(&key, user, mailbox, err);

	memset(mark_r, 0, sizeof *mark_r);
	if (rc == 0)
		rc = peer_store_get(&journal->store, PEER_MARKS, key.bytes, key.len, &value, err);
	if (rc < 0)
		return rc;
	mark_r->mailbox = *mailbox;
	if (peer_mark_decode(value.data, value.len, mark_r) < 0) {
		char hex[GUID_HEX_SIZE];

		return error_set(err, -ENOENT, "user %s, mailbox %s: the mark is damaged", user,
				 guid_to_hex(mailbox, hex));
	}
	return 0;
}

int peer_journal_del_tombstones(struct peer_journal *journal, const char *user,
				const struct guid *mailbox, struct error *err)
{
	struct peer_key key;
	int rc = key_mark(&key, user, mailbox, err);

	if (rc == 0)
		rc = peer_journal_prune_tombstones(journal, user, mailbox, UINT64_MAX, err);
	return rc < 0 ? rc : peer_store_del(&journal->store, PEER_MARKS, key.bytes, key.len, err);
}
