/*
 * Two brains against each other, the slave in a thread of its own, with hosts that keep their state
 * in memory.
 */
#ifndef DSYNCFS_TESTS_BRAIN_PAIR_H
#define DSYNCFS_TESTS_BRAIN_PAIR_H

#include "sync/box_cache.h"
#include "sync/brain.h"
#include "sync/stream.h"

#define NODE_STATES_MAX 256

/* One node's worker for one user. */
struct test_node {
	const struct mail_user *user;
	struct guid id;
	const char *hostname;
	bool busy;		   /* what begin answers */
	bool plain;		   /* does not introduce itself as dsyncfs */
	enum sync_way way;	   /* as master */
	int64_t now;		   /* what its clock says; 0: the system\'s */
	bool keeps;		   /* as master, one way */
	struct mail_filter filter; /* as master */
	bool allow_one_way;	   /* as slave */
	struct box_cache *cache;   /* NULL: mailboxes are opened for each session */
	uint32_t fill_from, block_uids;
	struct sync_mailbox_state states[NODE_STATES_MAX];
	size_t state_count;
	/* What a host that is killed finds of them. */
	struct sync_mailbox_state settled[NODE_STATES_MAX];
	size_t settled_count;
	unsigned saves, forgets;
	int settle_error; /* 0, or what host->settle gives */
	/* What the host has of expunges, and how often it was asked. */
	const struct sync_expunge *expunges;
	size_t expunge_count;
	unsigned expunge_asks;
	/* What the host knows of missing files: the events, or that it does not know. */
	const struct mail_event *removals;
	size_t removal_count;
	bool removals_unknown;
	bool cannot_explain; /* nobody tells it of removals */
};

struct session_results {
	int master_ret, slave_ret;
	struct sync_result master, slave;
	struct error master_err, slave_err;
	uint64_t bytes; /* both directions */
};

void test_node_init(struct test_node *node, const struct mail_user *user, const char *hostname);
/* Its states are durable now; they go back to what was. */
void test_node_settle(struct test_node *node);
void test_node_killed(struct test_node *node);
/* One side of a session, against whatever is at the other end. */
int run_node(struct test_node *node, struct stream *stream, enum sync_role role,
	     enum sync_type type, struct sync_result *result_r, struct error *err);
/* One session over a pair of streams, which stay open. */
void run_session_on(struct stream *a, struct stream *b, struct test_node *master,
		    struct test_node *slave, enum sync_type type, const struct sync_box *boxes,
		    size_t box_count, struct session_results *results_r);
/* One session on a connection of its own. */
void run_session(struct test_node *master, struct test_node *slave, enum sync_type type,
		 struct session_results *results_r);
/* As run_session, but the connection is cut once that many bytes have passed in one direction. */
void run_session_cut(struct test_node *master, struct test_node *slave, enum sync_type type,
		     bool to_slave, uint64_t cut_after, struct session_results *results_r);
/* What run_session_cut()'s connection changes a byte of, when it passes for the first time; NULL:
 * nothing. */
extern const char *test_damaged_text;
/* As often as somebody wants it; the number of sessions, or -1 when it has no end or fails. */
int run_until_done(struct test_node *master, struct test_node *slave, enum sync_type type,
		   struct session_results *results_r);

#endif
