/*
 * The replicator's peers: who they are, whether they can be reached, and what they are known to
 * have.
 *
 * A peer is taken to be up until a connection fails. Then one probe at a time, by a helper, asks
 * for it; nobody else connects. The log has one line when it goes down and one when it is back.
 */
#include "sync/replicator_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "sync/backoff.h"

#define PROBE_MS      30000 /* names may have to be resolved */
#define STATES_A_USER 1000000

/* Where a node id is kept between two lives: under no user, as the "mailbox" of this directory. */
#define ID_USER	      "*peer"
#define UNSETTLED_MAX 256
#define STATE_ROOM    64 /* bytes of a state in a message, and some */

/* In a node id's place there: it is a Dovecot. */
static const struct guid dovecot_id = {.bytes = "no id: a Dovecot"};

/* ---- who they are ---- */

/* Origin tokens lie in the journal, so they must not depend on the order of the settings. */
static uint32_t token_of(const char *address)
{
	uint32_t token = backoff_spread(address, UINT32_MAX);

	return token ? token : 1;
}

static void on_probe_timer(evutil_socket_t fd, short what, void *ctx);

int replicator_init_peers(struct replicator *r, struct error *err)
{
	size_t count = r->set->peer_count;
	struct guid id;

	queue_init(&r->queue, (unsigned)count);
	r->peers = calloc(count + 1, sizeof *r->peers);
	r->up = calloc(count + 1, sizeof *r->up);
	if (!r->peers || !r->up)
		return error_errno(err, -ENOMEM, "dsyncd");
	for (size_t i = 0; i < count; i++) {
		struct replicator_peer *peer = &r->peers[i];
		struct peer_place place;

		peer->replicator = r;
		peer->address = strdup(r->set->peers[i].address);
		peer->timer = evtimer_new(r->base, on_probe_timer, peer);
		if (!peer->address || !peer->timer)
			return error_errno(err, -ENOMEM, "dsyncd");
		peer->token = token_of(peer->address);
		peer->up = r->up[i] = true;
		peer->host_known = tcp_address_parse(r->set->peers[i].host, &peer->host) == 0;
		peer->by_command = r->set->peers[i].transport == SETTINGS_TRANSPORT_REMOTE ||
				   r->set->peers[i].transport == SETTINGS_TRANSPORT_REMOTEPREFIX;
		peer->met = peer_journal_get_place(r->journal, ID_USER, peer->address, &place,
						   NULL) == 0;
		id = place.guid;
		peer->is_dsyncfs = peer->met && !guid_equal(&id, &dovecot_id);
		if (peer->is_dsyncfs)
			guid_to_hex(&id, peer->id);
		else
			snprintf(peer->id, sizeof peer->id, REPLICATOR_DOVECOT "%.150s",
				 peer->address);
	}
	return 0;
}

void replicator_free_peers(struct replicator *r)
{
	for (unsigned i = 0; r->peers && i < r->queue.peer_count; i++) {
		struct replicator_peer *peer = &r->peers[i];

		if (peer->prober)
			worker_kill(&peer->prober->worker);
		free(peer->prober);
		if (peer->timer)
			event_free(peer->timer);
		free(peer->address);
	}
	free(r->peers);
	free(r->up);
	r->peers = NULL;
	r->up = NULL;
}

void replicator_peer_id(const struct replicator *r, unsigned index, struct sync_peer *who)
{
	/* Its host name may be another one tomorrow, or that of several. */
	if (!who->is_dsyncfs)
		snprintf(who->id, sizeof who->id, REPLICATOR_DOVECOT "%.110s",
			 r->peers[index].address);
}

/* From a time when it had been there before. */
static void forget_states(struct replicator *r, const char *id)
{
	struct queue_user *user, *next;
	struct error err = {0};

	HASH_ITER (hh_name, r->queue.by_name, user, next) {
		if (peer_journal_del_states(r->journal, user->name, id, &err) < 0 &&
		    err.code != -ENOENT)
			log_error("%s", err.text);
	}
}

void replicator_peer_met(struct replicator *r, unsigned index, const struct sync_peer *who)
{
	struct replicator_peer *peer = &r->peers[index];
	struct error err = {0};
	struct guid id = dovecot_id;

	if (peer->met && strcmp(peer->id, who->id) == 0)
		return;
	/* It, or its state, is new: nobody knows what it has. */
	if (peer->met) {
		forget_states(r, who->id);
		log_notice("peer is another node than before: all users are queued for a full sync "
			   "peer=%s id=%s",
			   peer->address, who->id);
		replicator_want_all(r, (int)index);
	}
	snprintf(peer->id, sizeof peer->id, "%s", who->id);
	peer->is_dsyncfs = who->is_dsyncfs;
	peer->met = true;
	if ((!who->is_dsyncfs || guid_from_hex(who->id, &id) == 0) &&
	    peer_journal_put_place(r->journal, ID_USER, peer->address,
				   &(struct peer_place){.guid = id}, &err) < 0)
		log_error("%s", err.text);
	replicator_dirty(r);
}

void replicator_peer_host(struct replicator *r, unsigned index, const char *address_text)
{
	struct sockaddr_storage host;

	if (tcp_address_parse(address_text, &host) < 0)
		return;
	r->peers[index].host = host;
	r->peers[index].host_known = true;
}

int replicator_peer_by_id(const struct replicator *r, const char *id)
{
	for (unsigned i = 0; id[0] != '\0' && i < r->queue.peer_count; i++) {
		if (strcmp(r->peers[i].id, id) == 0)
			return (int)i;
	}
	return -1;
}

int replicator_peer_by_host(const struct replicator *r, const struct sockaddr_storage *host)
{
	int found = -1;

	for (unsigned i = 0; i < r->queue.peer_count; i++) {
		if (!r->peers[i].host_known || !tcp_address_same_host(&r->peers[i].host, host))
			continue;
		if (found >= 0)
			return -1; /* Two peers behind one address. */
		found = (int)i;
	}
	return found;
}

/* ---- whether they can be reached ---- */

static void schedule_probe(struct replicator_peer *peer)
{
	struct queue_clock clock = replicator_clock();
	uint32_t pause = backoff_pause_ms(BACKOFF_PEER, peer->failed + 1, clock.chance);
	struct timeval wait = {.tv_sec = pause / 1000,
			       .tv_usec = (suseconds_t)(pause % 1000) * 1000};

	event_add(peer->timer, &wait);
}

void replicator_peer_down(struct replicator *r, unsigned index, bool refused, const char *reason)
{
	struct replicator_peer *peer = &r->peers[index];

	/* Once, and again when it answers after all, but with a refusal. */
	if (peer->up || !peer->noticed || refused != peer->refused) {
		if (peer->up || !peer->noticed)
			peer->since = time(NULL);
		if (refused)
			log_error("peer cannot be used: %s peer=%s", reason, peer->address);
		else
			log_notice("peer is unreachable: %s peer=%s", reason, peer->address);
		peer->noticed = true;
		peer->refused = refused;
		peer->failed = 0;
	}
	/* Whom a user's sync tried in a probe's place. */
	if (peer->by_command && !peer->up && r->up[index])
		peer->failed++;
	snprintf(peer->reason, sizeof peer->reason, "%s", reason);
	peer->up = r->up[index] = false;
	if (!peer->prober && !evtimer_pending(peer->timer, NULL))
		schedule_probe(peer);
	replicator_look_at_waits(r, NULL);
}

void replicator_peer_up(struct replicator *r, unsigned index)
{
	struct replicator_peer *peer = &r->peers[index];

	if (peer->up) {
		if (peer->since == 0)
			peer->since = time(NULL);
		return;
	}
	log_notice("peer is back after %lld s peer=%s", (long long)(time(NULL) - peer->since),
		   peer->address);
	event_del(peer->timer);
	peer->up = r->up[index] = true;
	peer->noticed = false;
	peer->since = time(NULL);
	peer->reason[0] = '\0';
	peer->failed = 0;
	queue_peer_up(&r->queue, index);
	replicator_kick(r);
}

static void on_probe_timer(evutil_socket_t fd, short what, void *ctx)
{
	struct replicator_peer *peer = ctx;
	struct replicator *r = peer->replicator;
	struct worker_key key = {.kind = WORKER_HELPER};
	struct error err = {0};
	struct task *task;

	if (peer->up || peer->prober || r->draining)
		return;
	if (peer->by_command) {
		/* Only the mail's owner has the keys: the next sync finds out. */
		r->up[peer - r->peers] = true;
		queue_peer_up(&r->queue, (unsigned)(peer - r->peers));
		replicator_kick(r);
		return;
	}
	task = calloc(1, sizeof *task);
	if (!task) {
		schedule_probe(peer);
		return;
	}
	*task = (struct task){.kind = TASK_PROBE, .replicator = r};
	if (worker_pool_take(r->pool, &key, peer->address, task, &task->worker, &err) < 0) {
		log_error("%s", err.text);
		free(task);
		schedule_probe(peer);
		return;
	}
	peer->prober = task;
	worker_put_begin(&r->out, WORKER_PROBE);
	worker_put_str(&r->out, peer->address);
	worker_tell(task->worker, &r->out, -1);
	worker_expect_within(task->worker, PROBE_MS);
}

static unsigned probed_peer(const struct replicator *r, const struct task *task)
{
	unsigned i = 0;

	while (i < r->queue.peer_count && r->peers[i].prober != task)
		i++;
	return i;
}

void replicator_probe_message(struct task *task, struct worker_reader *reader)
{
	struct replicator *r = task->replicator;
	unsigned index = probed_peer(r, task);
	struct replicator_peer *peer = &r->peers[index];
	enum worker_failure failure;
	const char *address, *host, *text;

	address = worker_get_str(reader, WORKER_NAME_MAX);
	failure = (enum worker_failure)worker_get_u8(reader);
	host = worker_get_str(reader, TCP_ADDRESS_SIZE);
	text = worker_get_str(reader, ERROR_TEXT_MAX);
	if (reader->type != WORKER_PROBED || worker_get_end(reader) < 0 ||
	    strcmp(address, peer->address) != 0) {
		worker_kill(&task->worker);
		replicator_probe_gone(task, "a helper broke its protocol");
		return;
	}
	peer->prober = NULL;
	if (host[0] != '\0')
		replicator_peer_host(r, index, host);
	worker_release(&task->worker);
	free(task);
	if (failure == WORKER_FAILURE_NONE) {
		replicator_peer_up(r, index);
		return;
	}
	peer->failed++;
	replicator_peer_down(r, index, failure == WORKER_FAILURE_REFUSED, text);
}

void replicator_probe_gone(struct task *task, const char *why)
{
	struct replicator *r = task->replicator;
	struct replicator_peer *peer = &r->peers[probed_peer(r, task)];

	log_warning("probing the peer: %s peer=%s", why, peer->address);
	peer->prober = NULL;
	peer->failed++;
	schedule_probe(peer);
	free(task);
}

/* ---- what they have ---- */

static int add_state(void *ctx, const struct peer_mailbox_state *state)
{
	struct state_list *list = ctx;

	if (list->count == list->size) {
		size_t size = list->size ? list->size * 2 : 16;
		struct peer_mailbox_state *grown =
			size > STATES_A_USER ? NULL : realloc(list->states, size * sizeof *grown);

		if (!grown)
			return -ENOMEM;
		list->states = grown;
		list->size = size;
	}
	list->states[list->count++] = *state;
	return 0;
}

static int compare_states(const void *a, const void *b)
{
	return guid_cmp(&((const struct peer_mailbox_state *)a)->guid,
			&((const struct peer_mailbox_state *)b)->guid);
}

const struct peer_mailbox_state *state_list_find(struct replicator *r, struct state_list *list,
						 const char *user, const char *peer_id,
						 const struct guid *guid)
{
	struct peer_mailbox_state key = {.guid = *guid};
	struct error err = {0};

	if (!list->loaded) {
		list->loaded = true;
		if (peer_id[0] != '\0' &&
		    peer_journal_each_state(r->journal, user, peer_id, add_state, list, &err) < 0) {
			log_error("%s", err.text);
			list->count = 0; /* Nothing known: everything is compared. */
		}
		if (list->count)
			qsort(list->states, list->count, sizeof key, compare_states);
	}
	if (!list->count)
		return NULL;
	return bsearch(&key, list->states, list->count, sizeof key, compare_states);
}

void state_list_free(struct state_list *list)
{
	free(list->states);
	*list = (struct state_list){0};
}

/* ---- what jobs and sessions do alike ---- */

struct state_sender {
	struct replicator *r;
	struct worker *worker;
};

static int send_state(void *ctx, const struct peer_mailbox_state *state)
{
	struct state_sender *sender = ctx;
	struct buf *out = &sender->r->out;
	struct sync_mailbox_state sent = {
		.guid = state->guid,
		.uid_validity = state->uid_validity,
		.common_uid = state->common_uid,
		.acked_modseq = state->acked_modseq,
		.peer_modseq = state->peer_modseq,
		.messages = state->messages,
		.reached_uid = state->reached_uid,
	};

	if (out->len + STATE_ROOM > WORKER_MESSAGE_MAX) {
		worker_tell(sender->worker, out, -1);
		worker_put_begin(out, WORKER_STATES);
	}
	worker_put_state(out, &sent);
	return 0;
}

/* Mailboxes whose removals and flags the index does not have, since taking them in fails: the
 * peer's word about them would undo what happened here. */
static void send_unsettled(struct replicator *r, struct worker *worker,
			   const struct queue_user *user, uint64_t wait_seq)
{
	const char *dirs[UNSETTLED_MAX + 1];
	size_t count = queue_unsettled_dirs(user, wait_seq, dirs, UNSETTLED_MAX);
	bool all = count > UNSETTLED_MAX;

	if (count == 0)
		return;
	worker_put_begin(&r->out, WORKER_UNSETTLED);
	worker_put_u8(&r->out, all);
	for (size_t i = 0; !all && i < count; i++) {
		if (r->out.len + strlen(dirs[i]) + STATE_ROOM > WORKER_MESSAGE_MAX) {
			worker_tell(worker, &r->out, -1);
			worker_put_begin(&r->out, WORKER_UNSETTLED);
			worker_put_u8(&r->out, false);
		}
		worker_put_str(&r->out, dirs[i]);
	}
	worker_tell(worker, &r->out, -1);
}

struct removals_sender {
	struct replicator *r;
	struct worker *worker;
};

static void send_removal(void *ctx, const struct mail_event *event)
{
	const struct removals_sender *sender = ctx;

	replicator_put_event(sender->r, sender->worker, &(struct worker_event){.event = *event});
}

void replicator_send_removals(struct replicator *r, struct worker *worker,
			      const struct queue_user *user, struct worker_reader *reader)
{
	const char *dir = worker_get_str(reader, WORKER_NAME_MAX);
	struct removals_sender sender = {.r = r, .worker = worker};
	struct guid guid;
	bool known;

	worker_get_guid(reader, &guid);
	if (worker_get_end(reader) < 0)
		return;
	known = replicator_read_journal(r);
	replicator_begin_events(r);
	known = queue_each_removal(user, dir, &guid, send_removal, &sender) && known;
	worker_tell(worker, &r->out, -1);
	worker_put_begin(&r->out, WORKER_REMOVALS);
	worker_put_u8(&r->out, known);
	worker_tell(worker, &r->out, -1);
}

void replicator_send_tree_told(struct replicator *r, struct worker *worker,
			       const struct queue_user *user, struct worker_reader *reader)
{
	bool makes_again = worker_get_u8(reader) != 0;
	bool known;

	if (worker_get_end(reader) < 0)
		return;
	known = replicator_read_journal(r) && queue_tree_is_told(user);
	if (makes_again && tcp_now_ms() < user->replaced_until_ms)
		known = false;
	worker_put_begin(&r->out, WORKER_TREE_TOLD);
	worker_put_u8(&r->out, known);
	worker_tell(worker, &r->out, -1);
}

void replicator_send_settled(struct replicator *r, struct worker *worker)
{
	bool settled = replicator_commit(r) == 0;

	worker_put_begin(&r->out, WORKER_SETTLED);
	worker_put_u8(&r->out, settled);
	worker_tell(worker, &r->out, -1);
}

void replicator_send_states(struct replicator *r, struct worker *worker,
			    const struct queue_user *user, const char *peer_id, uint64_t wait_seq,
			    bool busy)
{
	struct state_sender sender = {.r = r, .worker = worker};
	struct error err = {0};

	if (!busy) {
		worker_put_begin(&r->out, WORKER_STATES);
		/* States that cannot be read are only missing: the sync compares more. */
		if (peer_journal_each_state(r->journal, user->name, peer_id, send_state, &sender,
					    &err) < 0)
			log_error("%s", err.text);
		worker_tell(worker, &r->out, -1);
		send_unsettled(r, worker, user, wait_seq);
	}
	worker_put_begin(&r->out, WORKER_BEGUN);
	worker_put_u8(&r->out, busy);
	worker_tell(worker, &r->out, -1);
}

static struct peer_mailbox_state to_keep(const struct sync_mailbox_state *state)
{
	return (struct peer_mailbox_state){
		.guid = state->guid,
		.uid_validity = state->uid_validity,
		.common_uid = state->common_uid,
		.acked_modseq = state->acked_modseq,
		.peer_modseq = state->peer_modseq,
		.messages = state->messages,
		.reached_uid = state->reached_uid,
	};
}

void replicator_note_reached(struct replicator *r, struct worker *worker,
			     const struct queue_user *user, const char *peer_id,
			     struct worker_reader *reader)
{
	struct sync_mailbox_state state;
	struct peer_mailbox_state kept;
	struct error err = {0};

	if (worker_get_state(reader, &state) < 0 || worker_get_end(reader) < 0)
		return;
	kept = to_keep(&state);
	if (peer_journal_note_reached(r->journal, user->name, peer_id, &kept, &err) < 0)
		log_error("%s", err.text);
	worker_put_begin(&r->out, WORKER_NOTED);
	worker_tell(worker, &r->out, -1);
}

void replicator_save_state(struct replicator *r, struct queue_user *user, const char *peer_id,
			   struct worker_reader *reader)
{
	int peer = replicator_peer_by_id(r, peer_id);
	struct sync_mailbox_state state;
	struct peer_mailbox_state kept;
	struct error err = {0};

	if (worker_get_state(reader, &state) < 0 || worker_get_end(reader) < 0)
		return;
	kept = to_keep(&state);
	if (peer_journal_put_state(r->journal, user->name, peer_id, &kept, &err) < 0)
		log_error("%s", err.text);
	else
		replicator_expunges_passed(r, user->name, &kept.guid);
	if (peer >= 0)
		queue_box_acked(user, (unsigned)peer, &state);
	replicator_dirty(r);
}

void replicator_forget_box(struct replicator *r, const char *user, const char *peer_id,
			   const struct guid *guid)
{
	struct error err = {0};

	if (peer_journal_del_state(r->journal, user, peer_id, guid, &err) < 0 &&
	    err.code != -ENOENT)
		log_error("%s", err.text);
	replicator_dirty(r);
}

void replicator_doubt_box(struct replicator *r, const char *user, const char *peer_id,
			  const struct guid *guid)
{
	struct peer_mailbox_state state;
	struct error err = {0};

	if (strncmp(peer_id, REPLICATOR_DOVECOT, strlen(REPLICATOR_DOVECOT)) == 0 ||
	    peer_journal_get_state(r->journal, user, peer_id, guid, &state, NULL) < 0) {
		replicator_forget_box(r, user, peer_id, guid);
		return;
	}
	state.common_uid = 0;
	if (peer_journal_put_state(r->journal, user, peer_id, &state, &err) < 0)
		log_error("%s", err.text);
	replicator_dirty(r);
}

void replicator_forget_state(struct replicator *r, struct queue_user *user, const char *peer_id,
			     struct worker_reader *reader)
{
	struct guid guid;
	bool gone;

	worker_get_guid(reader, &guid);
	gone = worker_get_u8(reader) != 0;
	if (worker_get_end(reader) < 0)
		return;
	if (gone)
		replicator_forget_expunges(r, user->name, &guid);
	replicator_forget_box(r, user->name, peer_id, &guid);
}
