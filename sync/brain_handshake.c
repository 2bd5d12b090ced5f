/*
 * The start of a session: header lines, H, who the peer is, the host's answer, saved states.
 *
 * Both sides send their header lines at once, and there two dsyncfs nodes recognise each other. The
 * order of H differs: a Dovecot slave sends it at once, so a master waits for it and then knows
 * whose state it may use; a dsyncfs slave waits for the master's, since it asks whether the user is
 * free. In a later session on one connection both are known already, and H is the first line.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/base/log.h"
#include "sync/brain_private.h"

#define IMPORT_COMMIT_MSGS_INTERVAL 100
#define DSYNCFS_VALUE_SIZE	    (GUID_HEX_SIZE + 16)

static bool introduces_itself(const struct brain *brain)
{
	return !guid_is_empty(&brain->options->node_id);
}

static const char *dsyncfs_value(const struct brain *brain, char value[DSYNCFS_VALUE_SIZE])
{
	char hex[GUID_HEX_SIZE];

	if (!introduces_itself(brain))
		return NULL;
	snprintf(value, DSYNCFS_VALUE_SIZE, "%d %s", BRAIN_EXTENSION_VERSION,
		 guid_to_hex(&brain->options->node_id, hex));
	return value;
}

/* "<version> <node id>": any version from 1 on has what version 1 has. */
static bool parse_dsyncfs_value(const char *value, struct guid *node_id_r)
{
	unsigned version = 0;
	int len = 0;

	if (sscanf(value, "%9u %n", &version, &len) < 1 || version < 1 || len == 0)
		return false;
	return guid_from_hex(value + len, node_id_r) == 0;
}

static int64_t clock_now(const struct brain *brain)
{
	return brain->options->now != 0 ? brain->options->now : time(NULL);
}

static void take_peer(struct brain *brain, const struct item_handshake *handshake)
{
	struct sync_peer *peer = &brain->peer;
	struct guid node_id;
	char hex[GUID_HEX_SIZE];

	memset(peer, 0, sizeof(*peer));
	snprintf(peer->hostname, sizeof(peer->hostname), "%s", handshake->hostname);
	peer->is_dsyncfs = introduces_itself(brain) && handshake->dsyncfs != NULL &&
			   parse_dsyncfs_value(handshake->dsyncfs, &node_id);
	if (peer->is_dsyncfs)
		snprintf(peer->id, sizeof(peer->id), "%s", guid_to_hex(&node_id, hex));
	else
		snprintf(peer->id, sizeof(peer->id), "dovecot:%.119s", peer->hostname);
	brain->peer_clock = peer->is_dsyncfs ? handshake->dsyncfs_clock : 0;
	stream_set_peer_name(brain->stream, peer->hostname);
	brain->session->peer = *peer;
	brain->result->peer = *peer;
}

static int saved_state_cmp(const void *a, const void *b)
{
	const struct sync_mailbox_state *x = a, *y = b;

	return guid_cmp(&x->guid, &y->guid);
}

static int ask_host(struct brain *brain, bool *busy_r, struct error *err)
{
	enum sync_begin answer = SYNC_BEGIN_OK;
	int ret = brain->host->begin(brain->host->ctx, &brain->peer, &answer, &brain->state, err);

	if (ret < 0)
		return ret;
	*busy_r = answer == SYNC_BEGIN_BUSY;
	/* brain_saved_state() searches them. */
	if (brain->state.count > 0)
		qsort(brain->state.boxes, brain->state.count, sizeof(*brain->state.boxes),
		      saved_state_cmp);
	return 0;
}

static int receive_handshake(struct brain *brain, struct item *item_r, struct error *err)
{
	int ret = items_receive_type(brain->items, ITEM_HANDSHAKE, false, item_r, err);

	if (ret == 0)
		take_peer(brain, &item_r->handshake);
	return ret;
}

static int state_cmp(const void *a, const void *b)
{
	const struct item_state *x = a, *y = b;

	return guid_cmp(&x->mailbox_guid, &y->mailbox_guid);
}

/* brain_wire_state() searches them. */
static void sort_states(struct brain *brain)
{
	if (brain->wire_state_count > 0)
		qsort(brain->wire_states, brain->wire_state_count, sizeof(*brain->wire_states),
		      state_cmp);
}

/* ---- master ---- */

/* Of own mailboxes the states that still fit; the peer uses them from its S list. */
static int choose_states(struct brain *brain, struct error *err)
{
	int ret = brain->have_tree ? 0 : brain_read_tree(brain, err);

	if (ret < 0)
		return ret;
	brain->wire_states = calloc(brain->tree.node_count + 1, sizeof(*brain->wire_states));
	if (brain->wire_states == NULL)
		return error_errno(err, -ENOMEM, "saved states");
	for (size_t i = 0; i < brain->tree.node_count; i++) {
		const struct mailbox_node *node = &brain->tree.nodes[i];
		const struct sync_mailbox_state *saved = brain_saved_state(brain, &node->guid);

		if (!node->exists || saved == NULL || guid_is_empty(&node->guid) ||
		    saved->uid_validity != node->uid_validity ||
		    saved->common_uid >= node->uid_next)
			continue;
		brain->wire_states[brain->wire_state_count++] = (struct item_state){
			.mailbox_guid = saved->guid,
			.last_uidvalidity = saved->uid_validity,
			.last_common_uid = saved->common_uid,
			.last_common_modseq = saved->peer_modseq,
			.last_messages_count = saved->messages,
		};
	}
	sort_states(brain);
	return 0;
}

static int send_master_handshake(struct brain *brain, struct error *err)
{
	bool dovecot = !items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs");
	char alt_char[2] = {brain->alt_char, '\0'};
	char value[DSYNCFS_VALUE_SIZE];

	brain->own_clock = clock_now(brain);
	brain->result->checked = brain->options->check_peer &&
				 items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs_check");
	struct item item = {
		.type = ITEM_HANDSHAKE,
		.handshake = {.hostname = brain->options->hostname,
			      .dsyncfs_check = brain->result->checked,
			      .sync_type = brain->type == SYNC_FULL ? "f"
					   : brain->wire_stateful   ? "s"
								    : "c",
			      .sync_box = brain->only_box,
			      .sync_box_guid = brain->only_guid,
			      .has_sync_box_guid = brain->has_only_guid,
			      .exclude_mailboxes = brain->exclude,
			      .no_mail_sync = brain->no_mail_sync,
			      .purge_remote = brain->options->purge_peer && !brain->result->checked,
			      .send_mail_requests = true,
			      .backup_recv = brain->way == SYNC_TO_PEER,
			      .backup_send = brain->way == SYNC_FROM_PEER,
			      .no_backup_overwrite = brain->keeps,
			      .sync_since_timestamp = brain->filter.since,
			      .sync_until_timestamp = brain->filter.until,
			      .sync_max_size = brain->filter.max_size,
			      .sync_flags = brain->filter.flag,
			      .dsyncfs = dsyncfs_value(brain, value),
			      .dsyncfs_boxes = brain->type == SYNC_BOXES,
			      .dsyncfs_clock = dovecot ? 0 : brain->own_clock},
	};

	if (dovecot) {
		item.handshake.import_commit_msgs_interval = IMPORT_COMMIT_MSGS_INTERVAL;
		item.handshake.hashed_headers = BRAIN_HASHED_HEADERS;
		item.handshake.alt_char = alt_char;
	}
	int ret = items_send(brain->items, &item, err);
	return ret < 0 ? ret : stream_flush(brain->stream, err);
}

/* We are syncing this user ourselves. */
static int send_busy_close(struct brain *brain, struct error *err)
{
	int ret = items_send_close(brain->items, err);

	return ret < 0 ? ret : stream_flush(brain->stream, err);
}

/* A dsyncfs slave takes the X as the session's end; its N and D are on their way by then. */
static int end_busy_session(struct brain *brain, struct error *err)
{
	struct item item = {.type = ITEM_NODE};
	int ret = send_busy_close(brain, err);

	if (ret < 0 || brain->type == SYNC_BOXES)
		return ret;
	while (ret == 0 && item.type == ITEM_NODE)
		ret = items_receive_type(brain->items, ITEM_NODE, true, &item, err);
	return ret < 0 ? ret : items_receive_type(brain->items, ITEM_DELETES, false, &item, err);
}

static int handshake_with_dsyncfs(struct brain *brain, bool *busy_r, struct error *err)
{
	struct item item = {.type = ITEM_HANDSHAKE};
	int ret = send_master_handshake(brain, err);

	if (ret == 0)
		ret = receive_handshake(brain, &item, err);
	if (ret < 0)
		return ret;
	if (!brain->peer.is_dsyncfs) {
		ret = error_set(err, -EPROTO, "is a dsyncfs node by its header lines only");
		return stream_set_failed(brain->stream, ret, err);
	}
	*busy_r = item.handshake.dsyncfs_busy;
	if (*busy_r)
		return 0;
	ret = ask_host(brain, busy_r, err);
	if (ret == 0 && *busy_r)
		ret = end_busy_session(brain, err);
	return ret;
}

static int handshake_with_dovecot(struct brain *brain, bool *busy_r, struct error *err)
{
	struct item item;
	int ret = receive_handshake(brain, &item, err);

	if (ret == 0)
		ret = ask_host(brain, busy_r, err);
	if (ret < 0)
		return ret;
	if (*busy_r)
		return send_busy_close(brain, err);
	/* Type s with our states: the peer then skips nothing, and we neither. */
	if (brain->type == SYNC_BOXES)
		brain->type = SYNC_CHANGED;
	brain->wire_stateful = brain->type == SYNC_CHANGED;
	if (brain->wire_stateful)
		ret = choose_states(brain, err);
	return ret < 0 ? ret : send_master_handshake(brain, err);
}

int brain_handshake_master(struct brain *brain, bool *busy_r, struct error *err)
{
	int ret = 0;

	*busy_r = false;
	if (!brain->session->complete) {
		ret = items_send_header(brain->items, introduces_itself(brain), err);
		if (ret == 0)
			ret = items_receive_header(brain->items, err);
	}
	if (ret < 0)
		return ret;
	if (introduces_itself(brain) && items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs"))
		return handshake_with_dsyncfs(brain, busy_r, err);
	return handshake_with_dovecot(brain, busy_r, err);
}

int brain_send_states(struct brain *brain, struct error *err)
{
	for (size_t i = 0; i < brain->wire_state_count; i++) {
		struct item item = {.type = ITEM_STATE, .state = brain->wire_states[i]};
		int ret = items_send(brain->items, &item, err);

		if (ret < 0)
			return ret;
	}
	return items_send_end(brain->items, err);
}

/* ---- slave ---- */

static int refuse(struct brain *brain, const char *what, struct error *err)
{
	int ret = error_set(err, -EOPNOTSUPP, "asks for %s, which is not supported here", what);

	return stream_set_failed(brain->stream, ret, err);
}

static int take_type(struct brain *brain, const struct item_handshake *master, struct error *err)
{
	char letter = master->sync_type != NULL ? master->sync_type[0] : 'f';

	brain->wire_stateful = letter == 's';
	switch (letter) {
	case 'f':
		brain->type = SYNC_FULL;
		break;
	case 'c':
	case 's':
		brain->type = SYNC_CHANGED;
		break;
	default: {
		int ret = error_set(err, -EPROTO, "unknown sync_type '%.20s'", master->sync_type);
		return stream_set_failed(brain->stream, ret, err);
	}
	}
	if (master->dsyncfs_boxes && brain->peer.is_dsyncfs)
		brain->type = SYNC_BOXES;
	return 0;
}

static int copy_text(char **copy_r, const char *text)
{
	*copy_r = text != NULL ? strdup(text) : NULL;
	return text != NULL && *copy_r == NULL ? -ENOMEM : 0;
}

/* Each name in sync_ns_prefix ends with LF or the text; ours is the namespace with the empty
 * prefix. */
static bool has_other_namespace(const struct item_handshake *master)
{
	const char *prefixes = master->sync_ns_prefix;

	return prefixes != NULL && prefixes[strspn(prefixes, "\n")] != '\0';
}

/* backup_recv: we are the one that receives. */
static int take_way(struct brain *brain, const struct item_handshake *master, struct error *err)
{
	brain->way = SYNC_BOTH_WAYS;
	if (!master->backup_send && !master->backup_recv)
		return 0;
	if (!brain->options->allow_one_way || brain->peer.is_dsyncfs)
		return refuse(brain, "a one-way sync (backup)", err);
	if (master->backup_send && master->backup_recv)
		return refuse(brain, "a one-way sync in both directions", err);
	brain->keeps = master->no_backup_overwrite;
	brain->check_only |= master->dsyncfs_check && master->backup_recv;
	brain->way = master->backup_recv ? SYNC_FROM_PEER : SYNC_TO_PEER;
	return 0;
}

/* A Dovecot before 2.4.3 sends the date of -t in the place of the one of -e, which is lost then. */
static bool has_lost_until(const struct brain *brain, const struct item_handshake *master)
{
	return master->sync_until_timestamp != 0 &&
	       master->sync_until_timestamp == master->sync_since_timestamp &&
	       !items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs_program");
}

static int take_filter(struct brain *brain, const struct item_handshake *master, struct error *err)
{
	const char *fault =
		master->sync_flags != NULL ? mail_filter_flag_fault(master->sync_flags) : NULL;

	bool lost_until = has_lost_until(brain, master);

	/* A destination takes what its own -e lets it: a source can list more. */
	if (lost_until && brain->way != SYNC_TO_PEER)
		return refuse(
			brain,
			"-e, of which it says the date of -t (as a Dovecot before 2.4.3 does)",
			err);
	if (fault != NULL) {
		int ret = error_set(err, -EPROTO, "asks for -O '%.50s', which %s",
				    master->sync_flags, fault);
		return stream_set_failed(brain->stream, ret, err);
	}
	brain->filter = (struct mail_filter){
		.since = master->sync_since_timestamp,
		.until = lost_until ? 0 : master->sync_until_timestamp,
		.max_size = master->sync_max_size,
	};
	if (copy_text(&brain->filter_flag, master->sync_flags) < 0)
		return error_errno(err, -ENOMEM, "handshake");
	brain->filter.flag = brain->filter_flag;
	return 0;
}

static int take_options(struct brain *brain, const struct item_handshake *master, struct error *err)
{
	int ret;

	ret = take_way(brain, master, err);
	if (ret < 0)
		return ret;
	ret = take_filter(brain, master, err);
	if (ret < 0)
		return ret;
	if (has_other_namespace(master))
		return refuse(brain, "a namespace with a prefix", err);
	ret = take_type(brain, master, err);
	if (ret < 0)
		return ret;
	brain->send_requests = master->send_mail_requests;
	brain->no_mail_sync = master->no_mail_sync;
	brain->result->purge = master->purge_remote;
	brain->has_only_guid = master->has_sync_box_guid;
	brain->only_guid = master->sync_box_guid;
	if (master->alt_char != NULL && master->alt_char[0] > 0x20 && master->alt_char[0] < 0x7f &&
	    master->alt_char[0] != '/' && master->alt_char[0] != '.')
		brain->alt_char = master->alt_char[0];
	items_set_alt_char(brain->items, brain->alt_char);
	ret = copy_text(&brain->only_box, master->sync_box);
	if (ret == 0)
		ret = copy_text(&brain->exclude, master->exclude_mailboxes);
	if (ret == 0 && master->hashed_headers != NULL && *master->hashed_headers != '\0') {
		free(brain->hashed_headers);
		ret = copy_text(&brain->hashed_headers, master->hashed_headers);
	}
	return ret < 0 ? error_errno(err, ret, "handshake") : 0;
}

static int send_slave_handshake(struct brain *brain, bool dsyncfs, bool busy, struct error *err)
{
	char value[DSYNCFS_VALUE_SIZE];

	brain->own_clock = clock_now(brain);
	struct item item = {
		.type = ITEM_HANDSHAKE,
		.handshake = {.hostname = brain->options->hostname,
			      .hashed_headers = dsyncfs ? NULL : "",
			      .dsyncfs = dsyncfs ? dsyncfs_value(brain, value) : NULL,
			      .dsyncfs_busy = busy,
			      .dsyncfs_clock = dsyncfs ? brain->own_clock : 0},
	};
	int ret = items_send(brain->items, &item, err);

	return ret < 0 ? ret : stream_flush(brain->stream, err);
}

/* Header lines in both directions. */
static int exchange_headers(struct brain *brain, struct error *err)
{
	bool first = !brain->session->complete;
	int ret = 0;

	if (first)
		ret = items_send_header(brain->items, introduces_itself(brain), err);
	if (ret == 0)
		ret = items_receive_header(brain->items, err);
	/* A master that starts over although it need not is answered the same way. */
	if (ret == 0 && !first)
		ret = items_send_header(brain->items, introduces_itself(brain), err);
	return ret < 0 ? ret : 0;
}

int brain_handshake_slave(struct brain *brain, bool *busy_r, struct error *err)
{
	struct item item;
	int ret = exchange_headers(brain, err);

	*busy_r = false;
	if (ret < 0)
		return ret;
	bool dsyncfs = introduces_itself(brain) &&
		       items_peer_has_key(brain->items, ITEM_HANDSHAKE, "dsyncfs");
	if (!dsyncfs)
		ret = send_slave_handshake(brain, false, false, err);
	if (ret == 0)
		ret = receive_handshake(brain, &item, err);
	if (ret == 0 && dsyncfs && !brain->peer.is_dsyncfs)
		ret = refuse(brain, "a session without saying which dsyncfs node it is", err);
	if (ret == 0)
		ret = take_options(brain, &item.handshake, err);
	if (ret == 0)
		ret = ask_host(brain, busy_r, err);
	if (ret < 0)
		return ret;
	if (dsyncfs)
		return send_slave_handshake(brain, true, *busy_r, err);
	return *busy_r ? send_busy_close(brain, err) : 0;
}

int brain_receive_states(struct brain *brain, struct error *err)
{
	size_t size = 0;

	for (;;) {
		struct item item;
		int ret = items_receive_type(brain->items, ITEM_STATE, true, &item, err);

		if (ret < 0)
			return ret;
		if (item.type == ITEM_END)
			break;
		if (brain->wire_state_count >= BRAIN_NODES_MAX) {
			ret = error_set(err, -EMSGSIZE, "too many mailbox states");
			return stream_set_failed(brain->stream, ret, err);
		}
		if (brain->wire_state_count == size) {
			size = size != 0 ? size * 2 : 64;
			struct item_state *bigger =
				realloc(brain->wire_states, size * sizeof(*bigger));
			if (bigger == NULL)
				return error_errno(err, -ENOMEM, "mailbox states");
			brain->wire_states = bigger;
		}
		brain->wire_states[brain->wire_state_count++] = item.state;
	}
	sort_states(brain);
	return 0;
}
