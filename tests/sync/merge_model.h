/*
 * A mailbox in memory that keeps the store's rules (UIDs only rise, the log's counter rises by one
 * a record, a MODSEQ never falls), two of them with a saved state each, and a session between them.
 * For the tests of the mailbox merge.
 */
#ifndef DSYNCFS_TESTS_MERGE_MODEL_H
#define DSYNCFS_TESTS_MERGE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "sync/merge_mailbox.h"

#define MODEL_KEYWORDS	4
#define MODEL_GUIDS_MAX 4096

struct model_mail {
	uint32_t uid;
	unsigned guid; /* number of model_guid() */
	uint8_t flags;
	uint8_t keywords; /* bits */
	uint64_t modseq, append_modseq;
};

struct model_record {
	uint64_t modseq;
	uint32_t uid;
	unsigned guid;
	bool expunge;
	uint64_t append_modseq; /* of what was expunged */
	uint8_t add, remove, add_keywords, remove_keywords;
};

struct model_box {
	struct model_mail *mails; /* ascending UID */
	size_t count;
	struct model_record *log;
	size_t log_count;
	uint32_t uid_validity, uid_next, first_recent_uid;
	uint64_t highest_modseq;
};

struct model_state {
	bool valid;
	uint32_t common_uid;
	uint64_t acked_modseq, peer_modseq;
};

struct model {
	struct model_box box[2]; /* 0 master, 1 slave */
	struct model_state state[2];
	enum merge_mode mode;
	uint32_t random;
	bool dump; /* print plans */
};

/* What of a session happens. */
struct model_session {
	bool apply[2]; /* this side gets to apply */
	bool save[2];  /* and to save its state */
	/* Results. */
	uint32_t common_uid;
	bool need_full;
	size_t actions[2];
	size_t uid_changes, appends, expunges;
};

void model_init(struct model *model, enum merge_mode mode, uint32_t seed);
void model_free(struct model *model);
void model_box_copy(struct model_box *box_r, const struct model_box *from);
void model_box_free(struct model_box *box);

uint32_t model_random(struct model *model, uint32_t below);
const char *model_guid(unsigned guid);

/* What users and programs do; each is one log record, deliver of several mails too. */
void model_deliver(struct model_box *box, unsigned first_guid, unsigned count);
void model_set_flags(struct model_box *box, size_t index, uint8_t flags);
void model_set_keywords(struct model_box *box, size_t index, uint8_t keywords);
void model_expunge(struct model_box *box, size_t index);
struct model_mail *model_find(struct model_box *box, uint32_t uid);

/* Runs a session. Fails the test when a plan breaks a rule of the store. */
void model_sync(struct model *model, struct model_session *session);
/* A session in which everything works; again without state where it had to be. */
void model_sync_fully(struct model *model, struct model_session *session);
/* NULL, or in what the two boxes differ. */
const char *model_difference(const struct model *model);
void model_print(const struct model *model);

#endif
