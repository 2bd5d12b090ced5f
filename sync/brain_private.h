/*
 * What the parts of the brain share.
 *
 *   brain.c           the session: roles, order, outcome
 *   brain_handshake.c H, who the peer is, what both may say
 *   brain_clock.c     times of two clocks
 *   brain_names.c     mailbox names of a Dovecot
 *   brain_tree_send.c N and D to the peer
 *   brain_tree.c      the peer's, and carrying out merge_tree's actions
 *   brain_box_open.c  one mailbox: opened, what it says of itself, its failures
 *   brain_box.c       one mailbox: B, what state counts, S
 *   brain_evidence.c  one mailbox: its changes, of the log and of the tombstones
 *   brain_exchange.c  one mailbox: both directions of A C R M, side by side
 *   brain_blocks.c    one mailbox without a state: which parts are equal
 *   brain_moves.c     messages that come from another mailbox
 *   brain_fill.c      one mailbox: all of it into an empty one, as a stream
 *   box_attributes.c  one mailbox: A in both directions
 *   box_filter.c      one mailbox: what a filter leaves out of both lists
 *   export.c          own changes and bodies to the peer
 *   import.c          the peer's changes and bodies to us
 *   import_apply.c    carrying out merge_mailbox's actions
 *
 * A function that returns a negative errno has met the end of the session (the stream is broken, or
 * out of step). What concerns one mailbox only is recorded in its struct box, and the protocol goes
 * on.
 */
#ifndef DSYNCFS_SYNC_BRAIN_PRIVATE_H
#define DSYNCFS_SYNC_BRAIN_PRIVATE_H

#include "store/mail_user.h"
#include "store/mailbox.h"
#include "store/list_moment.h"
#include "store/mailbox_list.h"
#include "sync/box_attributes.h"
#include "sync/brain.h"
#include "sync/item_list.h"
#include "sync/items.h"
#include "sync/mail_filter.h"
#include "sync/merge_mailbox.h"
#include "sync/stream.h"

#define BRAIN_EXTENSION_VERSION 1
#define BRAIN_HASHED_HEADERS	"Date\tMessage-ID\t"
/* A peer may not fill our memory with items. */
#define BRAIN_LIST_BYTES_MAX ((size_t)512 * 1024 * 1024)
#define BRAIN_NODES_MAX	     ((size_t)200000)

/* Lives with the connection: a second session on it needs no header lines. */
struct brain_session {
	struct items *items;
	struct sync_peer peer;
	bool complete; /* one session has run to its end */
};

/* brain_moves.c: what mailboxes of this session have lost. */
struct moves {
	struct lost *lost; /* sorted by GUID */
	size_t count, size;
};

struct brain {
	struct stream *stream;
	struct items *items;
	struct brain_session *session;
	const struct mail_user *user;
	const struct sync_options *options;
	const struct sync_host *host;
	struct sync_result *result;
	enum sync_role role;
	enum sync_type type; /* what this session does, in both roles */
	enum sync_way way;
	bool keeps;	 /* one way: the destination keeps what it has (no_backup_overwrite) */
	bool check_only; /* nothing is changed here, by our options or by the master's wish */
	struct mail_filter filter;
	char *filter_flag; /* what it points to */
	struct sync_peer peer;

	struct sync_state state; /* with this peer, as the host knows it */
	/* Dovecot, sync_type s: the states that went over the wire, sorted by GUID. */
	bool wire_stateful;
	struct item_state *wire_states;
	size_t wire_state_count;

	bool send_requests;   /* R lists are used */
	char *hashed_headers; /* the names the header hash is made of */
	char alt_char;
	bool no_mail_sync;
	char *only_box; /* the master's sync_box: this mailbox only */
	bool has_only_guid;
	struct guid only_guid; /* the master's sync_box_guid */
	char *exclude;	       /* the master's exclude_mailboxes: TAB-separated, escaped */

	struct mailbox_tree tree; /* own, as it is after the tree phase */
	bool have_tree, tree_incomplete;

	struct moves moves;
	unsigned boxes_done, boxes_total;
	/* Of a master that goes by the tree: how much there is to do, in UIDs. */
	struct {
		uint32_t *of_node; /* for each of tree */
		uint64_t total, done, now;
	} work;
	struct list_moment tree_moment; /* not after the tree was read */
	bool untold;			/* the tree that was sent may not tell all */
	/* What both clocks said at the same moment, by the two H; 0: the peer's is not known. */
	int64_t own_clock, peer_clock;
	int64_t own_ahead; /* of the clock by which the trees were merged */

	bool again, need_tree, full_resync;
	int failed; /* the first mailbox that failed */
};

/* Remembers why the outcome is not SYNC_DONE; the first reason stays. */
void brain_reason(struct brain *brain, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A mailbox (or the tree) failed: logged, told to the caller and to the peer (F). */
void brain_failed(struct brain *brain, const char *mailbox, int code, const struct error *err);
void brain_again(struct brain *brain, const char *mailbox, const char *why);
const struct sync_mailbox_state *brain_saved_state(const struct brain *brain,
						   const struct guid *guid);
const struct item_state *brain_wire_state(const struct brain *brain, const struct guid *guid);
struct box;
/* The master only wants to know: nobody here is told what would be done. */
bool brain_is_asked(const struct brain *brain);
/* The tree is as it is synced: what it comes to, with the peer's. -ENOMEM. */
int brain_weigh(struct brain *brain, const struct mailbox_tree *peer);
/* A mail of the mailbox has been sent or received. */
void brain_progress(const struct box *box);
/* Does the peer tell, and want to be told, the digest of each body? */
bool brain_has_digests(const struct brain *brain);
/* Of a two-way session; also which of the two protocols is spoken. */
enum merge_mode brain_mode(const struct brain *brain);
enum merge_role brain_merge_role(const struct brain *brain);

/* brain_handshake.c. *busy_r: the session ends here, by agreement. */
int brain_handshake_master(struct brain *brain, bool *busy_r, struct error *err);
int brain_handshake_slave(struct brain *brain, bool *busy_r, struct error *err);
int brain_send_states(struct brain *brain, struct error *err);
int brain_receive_states(struct brain *brain, struct error *err);

/* brain_clock.c: both trees' times by one clock. */
void brain_set_clocks(struct brain *brain, struct mailbox_tree *own, struct mailbox_tree *peer);

/* brain_tree.c */
int brain_read_tree(struct brain *brain, struct error *err);
/* *ended_r: the peer closed in agreement before it sent anything (dsyncfs: it was busy itself). */
int brain_sync_tree(struct brain *brain, bool *ended_r, struct error *err);
bool brain_box_is_wanted(const struct brain *brain, const char *name, const struct guid *guid);

/* brain_tree_send.c. peer: its tree where it has to be known, else NULL. */
struct peer_tree;
int brain_send_tree(struct brain *brain, const struct peer_tree *peer, struct error *err);

struct box;

/* export.c */
struct export_request {
	uint32_t uid; /* own, as it was in the list */
	const char *guid;
	bool by_uid;
};

struct export
{
	struct item_list list; /* the own C list */
	size_t next_change;
	struct export_request *requests;
	size_t request_count, request_size, next_request;
	struct mail_body *body; /* being sent */
	struct digest_sum *sum; /* of it, with a peer that compares */
	struct item_keywords_scratch scratch;
	unsigned mails_sent;
};

/* Makes the own list, from the mailbox as it was opened. */
int export_build(struct box *box, struct error *err);
/* Each sends as much as the stream takes; 1: all of it and the end of the list is sent. */
int export_send_changes(struct box *box, struct error *err);
int export_send_mails(struct box *box, struct error *err);
int export_add_request(struct box *box, const struct item_request *request, struct error *err);
/* Without R lists: all messages of the list that are new to the peer. */
int export_request_all(struct box *box, struct error *err);
/* Or a list of the messages from first_uid on, so many of them; and what was sent is forgotten. */
int export_build_part(struct box *box, uint32_t first_uid, size_t count, struct error *err);
void export_end_part(struct export *export);
void export_free(struct export *export);

/* import.c */
struct import_request {
	size_t action; /* index of the plan's MERGE_APPEND */
	struct mail_spool *spool;
	int64_t saved;
	char *pop3_uidl;
	uint32_t pop3_order;
	bool received, missing;
};

/* A message of which only the body is missing here. */
struct import_restore {
	uint32_t uid;
	const char *guid; /* the own list's */
	struct mail_spool *spool;
	char *pop3_uidl;
	uint32_t pop3_order;
	int64_t saved;
	bool received;
};

/* Of a list what a filter lets the merge see; the strings are the list's. */
struct filtered_list {
	struct merge_item *items;
	size_t count;
};

struct import {
	struct item_list list;			    /* the peer's C list */
	struct item_list found;			    /* own messages that it names */
	struct filtered_list own_taken, peer_taken; /* with a filter */
	struct merge_mailbox_plan plan;
	bool planned;
	struct import_request *requests; /* in the order of the actions */
	size_t request_count, next_sent, next_expected;
	size_t receiving; /* the request whose body comes; SIZE_MAX: one that nobody wants */
	bool in_body;
	struct digest_sum *sum; /* of the body, with a peer that tells */
	bool awaits_digest;	/* the body is here, what it has to be is not */
	bool unasked;		/* bodies come without a request */
	size_t spooled_count;
	uint64_t spooled_bytes;

	/* import_restore.c */
	struct import_restore *restores;
	size_t restore_count, restores_sent, restores_next, restores_spooled;
	struct import_restore *restoring; /* whose body comes */

	/* import_apply.c */
	size_t applied;		/* actions carried out and committed */
	size_t applied_request; /* requests consumed by those */
	bool prepared, batched, committed;
	bool stopped;					   /* the plan does not fit any more */
	bool foreign;					   /* somebody else wrote in between */
	uint32_t expected_uid_next, expected_uid_validity; /* if nobody else did */
	uint64_t expected_modseq;
	/* The lowest UID that is not as the plan has it: its body did not come, or it got another
	 * MODSEQ since somebody wrote in between. 0: none. The next session looks from there on. */
	uint32_t unsettled_uid;
	unsigned mails_received;
};

int import_add_change(struct box *box, const struct item_change *change, struct error *err);
/* The peer's list is complete. */
int import_make_plan(struct box *box, struct error *err);
int import_send_requests(struct box *box, struct error *err);
int import_begin_mail(struct box *box, const struct item_mail *mail, struct error *err);
/* Takes what is there of the body. */
int import_receive_body(struct box *box, struct error *err);
void import_finish_mails(struct box *box);
/* The lists and the plan are forgotten, and others may follow; numbers stay. */
void import_end_part(struct box *box);

/* import_restore.c */
/* Whether the scan found no file of this own message. */
bool import_restore_wants(const struct box *box, uint32_t uid);
/* With both lists. */
int import_restore_plan(struct box *box, struct error *err);
int import_restore_send_requests(struct box *box, struct error *err);
/* NULL: it was not asked for to be put back. */
struct import_restore *import_restore_find(struct box *box, const struct item_mail *mail);
void import_restore_begin(struct box *box, struct import_restore *restore,
			  const struct item_mail *mail);
/* Puts back what has come. */
void import_restore_apply(struct box *box);
void import_restore_free(struct import *import);

/* What the plan has at this UID is not so after this session. */
void import_mark_unsettled(struct box *box, uint32_t uid);
/* The message that the plan has at this UID will not be there after this session. */
void import_mark_missing(struct box *box, uint32_t uid);
void import_free(struct import *import);
/* The UID that an own message of the list has by now. */
uint32_t import_current_uid(const struct box *box, uint32_t uid);

/* import_apply.c. Failures are the mailbox's: box_fail(). */
/* During the transfer: what has come is committed when it is enough for a batch. */
void import_apply_batch(struct box *box);
/* All of a plan that only appends, as a batch. */
void import_apply_part(struct box *box);
/* Messages with UIDs in a row that are to have the same MODSEQ. */
struct fill_modseq {
	uint32_t first_uid, last_uid;
	uint64_t modseq;
};
/* Under the locks: whether somebody else has written since the lists were made. */
void import_note_foreign(struct box *box);
/* Of those messages. Who has a higher one keeps it. */
void import_raise_modseqs(struct box *box, const struct fill_modseq *modseqs, size_t count);
void import_apply(struct box *box);

/* box_filter.c */
/* The own list is sent when the peer's is read. */
bool box_filter_waits(const struct box *box);
/* Of the own list's messages, what the filter asks for. */
int box_filter_own(struct box *box, struct error *err);
/* Both lists as the merge is to see them: own_taken, peer_taken. */
int box_filter_lists(struct box *box, struct error *err);
/* Drops what the plan made of those would do to messages that are not here. */
void box_filter_plan(struct box *box);

/* brain_moves.c */
#define MOVES_AT_ONCE 100
/* Of a session of listed mailboxes: what they lost, and which of them are to come last. */
void moves_prepare(struct brain *brain, bool last_r[]);
/* In the own list: what was in another mailbox before. */
void moves_mark(struct box *box);
/* Of what the plan wants: the bodies that are in another mailbox here. */
void moves_take(struct box *box);
void moves_free(struct moves *moves);

/* brain_blocks.c */
struct block;
struct blocks {
	struct block *list; /* ascending */
	size_t count, size;
	uint32_t uids; /* in a block */
};

/* What B says of it. */
uint32_t blocks_uids(const struct brain *brain);
/* After both B: are digests exchanged? */
bool blocks_apply(const struct box *box);
/* Both sides' digests. What of the own mailbox cannot be read is the mailbox's failure. */
int blocks_exchange(struct box *box, struct error *err);
/* The message is at both sides, the same in everything. False without an exchange. */
bool blocks_have(const struct blocks *blocks, uint32_t uid);
void blocks_free(struct blocks *blocks);

/* brain_box_open.c */
struct box {
	struct brain *brain;
	char *name;
	struct mailbox *mailbox;
	struct mailbox_status status; /* as the lists were made */
	struct guid guid;	      /* with check_only not always the one in status */
	bool has_saved;
	struct sync_mailbox_state saved; /* valid for this mailbox, else has_saved is false */
	struct mailbox_changes changes;
	bool has_changes; /* else they are loaded where a list is made */
	bool held;	  /* it cannot be synced now, though it is sound */
	struct box_attributes attributes;
	struct item_mailbox own, peer; /* the B items; strings are not kept */
	uint32_t common_uid;	       /* U0 */
	uint64_t since;		       /* own changes above this are sent */
	bool stateful;
	bool scanned; /* mailbox_missing() tells what is lost */
	struct blocks blocks;
	uint64_t fill_modseq; /* S says it */
	struct export export;
	struct import import;
	int failed; /* goes through the motions; nothing is applied or saved */
	bool again; /* S says changes_during_sync; nothing is saved */
	struct item_state peer_state;
};

/* Records a failure of this mailbox; the error is logged once. -EUCLEAN also has it rebuilt. */
void box_fail(struct box *box, int code, const struct error *err);
void box_again(struct box *box, const char *why);
/* guid NULL: whatever it has. -ESTALE: the name belongs to another mailbox. The box is to be closed
 * also after a failure. */
int box_open(struct box *box, struct brain *brain, const char *name, const struct guid *guid,
	     struct error *err);
/* ret: how the mailbox's part of the session ended. */
void box_close(struct box *box, int ret);
/* Its changes, its saved state and its B item. -ERANGE: the state that goes over the wire with a
 * Dovecot cannot be used here. */
int box_prepare(struct box *box, struct error *err);
/* The mailbox is deleted and made again, empty, as the peer's: its list is empty then. */
int box_make_anew(struct box *box, struct error *err);

/* brain_box.c */
/* The master announces a mailbox and syncs it. */
int box_sync_master(struct brain *brain, const char *name, const struct guid *guid,
		    struct error *err);
/* The slave answers the master's B. */
int box_sync_slave(struct brain *brain, const struct item_mailbox *announced, struct error *err);
void box_fill_side(const struct box *box, bool own, struct merge_side *side_r);

/* brain_evidence.c */
/* Fills box->changes with what happened since box->since. *reaches_r: the log tells all of it; else
 * the expunges are there, as far as anybody knows of them, but not all flag changes. */
int box_load_changes(struct box *box, bool *reaches_r, struct error *err);

/* brain_exchange.c */
int box_exchange(struct box *box, struct error *err);
/* The S of this side, once everything is durable here, and the peer's. */
int box_send_state(struct box *box, struct error *err);
int box_take_state(struct box *box, const struct item_state *state, struct error *err);

/* brain_fill.c */
/* What B says of it: 0 where it is not empty, or must stay so. */
uint32_t fill_from(const struct box *box);
/* After both B: is one side filled by the other? */
bool fill_applies(const struct box *box);
/* Instead of box_exchange(). */
int fill_run(struct box *box, struct error *err);

#endif
