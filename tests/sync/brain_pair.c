/* See brain_pair.h. */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include "tests/sync/brain_pair.h"

#define SESSIONS_MAX 8

void test_node_init(struct test_node *node, const struct mail_user *user, const char *hostname)
{
	memset(node, 0, sizeof(*node));
	node->user = user;
	node->hostname = hostname;
	guid_generate(&node->id);
}

/* ---- the host ---- */

static int host_begin(void *ctx, const struct sync_peer *peer, enum sync_begin *answer_r,
		      struct sync_state *state_r, struct error *err)
{
	struct test_node *node = ctx;

	(void)peer;
	(void)err;
	*answer_r = node->busy ? SYNC_BEGIN_BUSY : SYNC_BEGIN_OK;
	state_r->boxes = malloc((node->state_count + 1) * sizeof(*state_r->boxes));
	assert(state_r->boxes != NULL);
	memcpy(state_r->boxes, node->states, node->state_count * sizeof(*state_r->boxes));
	state_r->count = node->state_count;
	return 0;
}

static struct sync_mailbox_state *find_state(struct test_node *node, const struct guid *guid)
{
	for (size_t i = 0; i < node->state_count; i++) {
		if (guid_equal(&node->states[i].guid, guid))
			return &node->states[i];
	}
	return NULL;
}

static int host_explain_missing(void *ctx, const char *name, struct mailbox *mailbox,
				struct error *err)
{
	const struct test_node *node = ctx;
	int ret = 0;

	(void)name;
	if (node->removal_count > 0)
		ret = mailbox_explain_missing(mailbox, node->removals, node->removal_count, err);
	return ret < 0 ? ret : node->removals_unknown;
}

static int host_was_removed(void *ctx, const char *name, struct mailbox *mailbox,
			    const char *const *guids, size_t count, struct error *err)
{
	const struct test_node *node = ctx;

	(void)name;
	if (node->removal_count == 0)
		return 0;
	return mailbox_has_removal(mailbox, node->removals, node->removal_count, guids, count, err);
}

static void host_save(void *ctx, const struct sync_peer *peer,
		      const struct sync_mailbox_state *state)
{
	struct test_node *node = ctx;
	struct sync_mailbox_state *known = find_state(node, &state->guid);

	(void)peer;
	if (known == NULL) {
		assert(node->state_count < NODE_STATES_MAX);
		known = &node->states[node->state_count++];
	}
	*known = *state;
	node->saves++;
}

/* What was told outlives a kill; of a state that does not it says nothing. */
static void host_reached(void *ctx, const struct sync_peer *peer,
			 const struct sync_mailbox_state *state)
{
	struct test_node *node = ctx;

	(void)peer;
	for (size_t i = 0; i < node->settled_count; i++) {
		struct sync_mailbox_state *settled = &node->settled[i];

		if (guid_equal(&settled->guid, &state->guid) &&
		    settled->acked_modseq == state->acked_modseq &&
		    settled->common_uid == state->common_uid)
			settled->reached_uid = state->reached_uid;
	}
}

static void host_forget(void *ctx, const struct sync_peer *peer, const struct guid *guid, bool gone)
{
	struct test_node *node = ctx;
	struct sync_mailbox_state *known = find_state(node, guid);

	(void)peer;
	node->forgets++;
	if (known != NULL)
		*known = node->states[--node->state_count];
}

void test_node_settle(struct test_node *node)
{
	memcpy(node->settled, node->states, sizeof(node->settled));
	node->settled_count = node->state_count;
}

void test_node_killed(struct test_node *node)
{
	memcpy(node->states, node->settled, sizeof(node->states));
	node->state_count = node->settled_count;
}

static int host_settle(void *ctx, struct error *err)
{
	struct test_node *node = ctx;

	if (node->settle_error < 0)
		return error_errno(err, node->settle_error, "journal");
	test_node_settle(node);
	return 0;
}

static int host_expunged(void *ctx, const struct guid *mailbox, struct sync_expunge **list_r,
			 size_t *count_r, struct error *err)
{
	struct test_node *node = ctx;

	(void)mailbox;
	(void)err;
	node->expunge_asks++;
	*count_r = node->expunge_count;
	*list_r = calloc(node->expunge_count + 1, sizeof(**list_r));
	assert(*list_r != NULL);
	if (node->expunge_count > 0)
		memcpy(*list_r, node->expunges, node->expunge_count * sizeof(**list_r));
	return 0;
}

/* ---- running ---- */

struct side {
	struct stream *stream;
	struct test_node *node;
	enum sync_role role;
	enum sync_type type;
	const struct sync_box *boxes;
	size_t box_count;
	int ret;
	struct sync_result result;
	struct error err;
};

static void *run_side(void *ptr)
{
	struct side *side = ptr;
	struct sync_host host = {.ctx = side->node,
				 .begin = host_begin,
				 .explain_missing =
					 side->node->cannot_explain ? NULL : host_explain_missing,
				 .was_removed = host_was_removed,
				 .save = host_save,
				 .reached = host_reached,
				 .forget = host_forget,
				 .settle = host_settle,
				 .expunged = host_expunged};
	struct sync_options options = {
		.role = side->role,
		.type = side->type,
		.boxes = side->boxes,
		.box_count = side->box_count,
		.hostname = side->node->hostname,
		.alt_char = '_',
		.cache = side->node->cache,
		.way = side->node->way,
		.allow_one_way = side->node->allow_one_way,
		.now = side->node->now,
		.keeps = side->node->keeps,
		.filter = &side->node->filter,
		.fill_from = side->node->fill_from,
		.block_uids = side->node->block_uids,
	};

	if (!side->node->plain)
		options.node_id = side->node->id;
	side->ret = sync_run(side->stream, side->node->user, &options, &host, &side->result,
			     &side->err);
	return NULL;
}

int run_node(struct test_node *node, struct stream *stream, enum sync_role role,
	     enum sync_type type, struct sync_result *result_r, struct error *err)
{
	struct side side = {.stream = stream, .node = node, .role = role, .type = type};

	run_side(&side);
	*result_r = side.result;
	*err = side.err;
	return side.ret;
}

/* The stream of a side that failed is closed at once, as its owner would. */
static void *run_and_close(void *ptr)
{
	struct side *side = ptr;

	run_side(side);
	if (side->ret < 0)
		stream_free(&side->stream);
	return NULL;
}

static void run_both(struct side *master, struct side *slave, struct session_results *results_r)
{
	pthread_t thread;

	memset(results_r, 0, sizeof(*results_r));
	int ret = pthread_create(&thread, NULL, run_and_close, slave);
	assert(ret == 0);
	run_and_close(master);
	pthread_join(thread, NULL);
	results_r->master_ret = master->ret;
	results_r->slave_ret = slave->ret;
	results_r->master = master->result;
	results_r->slave = slave->result;
	results_r->master_err = master->err;
	results_r->slave_err = slave->err;
	if (master->stream != NULL)
		results_r->bytes =
			stream_bytes_in(master->stream) + stream_bytes_out(master->stream);
}

static void make_sides(struct side *a, struct side *b, struct test_node *master,
		       struct test_node *slave, enum sync_type type)
{
	memset(a, 0, sizeof(*a));
	memset(b, 0, sizeof(*b));
	a->node = master;
	a->role = SYNC_MASTER;
	a->type = type;
	b->node = slave;
	b->role = SYNC_SLAVE;
}

void run_session_on(struct stream *a, struct stream *b, struct test_node *master,
		    struct test_node *slave, enum sync_type type, const struct sync_box *boxes,
		    size_t box_count, struct session_results *results_r)
{
	struct side x, y;
	uint64_t before = stream_bytes_in(a) + stream_bytes_out(a);

	make_sides(&x, &y, master, slave, type);
	x.stream = a;
	x.boxes = boxes;
	x.box_count = box_count;
	y.stream = b;
	run_both(&x, &y, results_r);
	results_r->bytes -= before;
}

static const struct stream_settings quick = {.timeout_secs = 20};

void run_session(struct test_node *master, struct test_node *slave, enum sync_type type,
		 struct session_results *results_r)
{
	struct side a, b;
	struct error err;

	make_sides(&a, &b, master, slave, type);
	int ret = stream_new_pair(&quick, &a.stream, &b.stream, &err);
	assert(ret == 0);
	run_both(&a, &b, results_r);
	stream_free(&a.stream);
	stream_free(&b.stream);
}

/* Passes bytes between two sockets until one direction has had enough. */
struct relay {
	int fds[2]; /* towards the master, towards the slave */
	bool to_slave;
	uint64_t cut_after;
};

const char *test_damaged_text;

static void damage(char *data, size_t len)
{
	char *found = test_damaged_text == NULL
			      ? NULL
			      : memmem(data, len, test_damaged_text, strlen(test_damaged_text));

	if (found == NULL)
		return;
	*found ^= 1;
	test_damaged_text = NULL;
}

/* False: the end. */
static bool relay_once(struct relay *relay, int from, uint64_t *left)
{
	char data[4096];
	size_t max = *left < sizeof(data) ? (size_t)*left : sizeof(data);
	ssize_t n = read(relay->fds[from], data, max);

	if (n <= 0)
		return false;
	*left -= (uint64_t)n;
	damage(data, (size_t)n);
	for (ssize_t done = 0; done < n;) {
		ssize_t sent =
			send(relay->fds[1 - from], data + done, (size_t)(n - done), MSG_NOSIGNAL);
		if (sent <= 0)
			return false;
		done += sent;
	}
	return *left > 0;
}

static void *relay_run(void *ptr)
{
	struct relay *relay = ptr;
	uint64_t left[2] = {UINT64_MAX, UINT64_MAX};
	bool open = relay->cut_after > 0;

	left[relay->to_slave ? 0 : 1] = relay->cut_after;
	while (open) {
		struct pollfd fds[2] = {{.fd = relay->fds[0], .events = POLLIN},
					{.fd = relay->fds[1], .events = POLLIN}};
		if (poll(fds, 2, 20000) <= 0)
			break;
		for (int i = 0; i < 2 && open; i++) {
			if (fds[i].revents != 0)
				open = relay_once(relay, i, &left[i]);
		}
	}
	close(relay->fds[0]);
	close(relay->fds[1]);
	return NULL;
}

void run_session_cut(struct test_node *master, struct test_node *slave, enum sync_type type,
		     bool to_slave, uint64_t cut_after, struct session_results *results_r)
{
	struct side a, b;
	struct error err;
	struct relay relay = {.to_slave = to_slave, .cut_after = cut_after};
	pthread_t thread;
	int x[2], y[2];

	make_sides(&a, &b, master, slave, type);
	int ret = socketpair(AF_UNIX, SOCK_STREAM, 0, x);
	assert(ret == 0);
	ret = socketpair(AF_UNIX, SOCK_STREAM, 0, y);
	assert(ret == 0);
	relay.fds[0] = x[1];
	relay.fds[1] = y[1];
	ret = stream_new(x[0], x[0], &quick, &a.stream, &err);
	assert(ret == 0);
	ret = stream_new(y[0], y[0], &quick, &b.stream, &err);
	assert(ret == 0);
	ret = pthread_create(&thread, NULL, relay_run, &relay);
	assert(ret == 0);
	run_both(&a, &b, results_r);
	stream_free(&a.stream);
	stream_free(&b.stream);
	pthread_join(thread, NULL);
}

int run_until_done(struct test_node *master, struct test_node *slave, enum sync_type type,
		   struct session_results *results_r)
{
	for (int i = 1; i <= SESSIONS_MAX; i++) {
		run_session(master, slave, type, results_r);
		if (results_r->master_ret < 0 || results_r->slave_ret < 0)
			return -1;
		if (results_r->master.outcome == SYNC_DONE && results_r->slave.outcome == SYNC_DONE)
			return i;
	}
	return -1;
}
