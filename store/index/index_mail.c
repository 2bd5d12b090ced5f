/* Messages as the index has them. See index_mail.h. */
#include "store/index/index_mail.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include "store/base/log.h"
#include "store/index/index_private.h"

#define KEYWORD_MAX	     255
#define MESSAGE_KEYWORDS_MAX 1024

bool index_keyword_is_valid(const char *name)
{
	size_t len = strlen(name);

	if (len == 0 || len > KEYWORD_MAX)
		return false;
	for (const char *p = name; *p; p++) {
		if ((unsigned char)*p <= ' ' || *p == 0x7f || strchr("(){%*\"\\]", *p))
			return false;
	}
	return true;
}

/* ---- a message's state ---- */

int mail_state_make(const char *what, uint32_t uid, uint8_t flags, struct keyword_set keywords,
		    struct mail_state *state_r, struct error *err)
{
	*state_r = (struct mail_state){.flags = flags & MAIL_FLAGS_MASK};
	if (keywords.count > MESSAGE_KEYWORDS_MAX)
		return error_set(err, -E2BIG, "%s: UID %u: %u keywords are too many", what, uid,
				 keywords.count);
	if (keywords.count == 0)
		return 0;
	state_r->keywords = calloc(keywords.count, sizeof *state_r->keywords);
	if (!state_r->keywords)
		return error_errno(err, -ENOMEM, "%s", what);
	for (unsigned i = 0; i < keywords.count; i++) {
		const char *name = keywords.names[i];

		if (!index_keyword_is_valid(name)) {
			log_warning("%s: UID %u: left out the keyword \"%.64s\", which IMAP does "
				    "not allow",
				    what, uid, name);
			continue;
		}
		state_r->keywords[state_r->keyword_count] = strdup(name);
		if (!state_r->keywords[state_r->keyword_count])
			return error_errno(err, -ENOMEM, "%s", what);
		state_r->keyword_count++;
	}
	return 0;
}

int mail_state_of_record(const struct index *index, const char *what,
			 const struct index_record *record, struct mail_state *state_r,
			 struct error *err)
{
	const char *names[MESSAGE_KEYWORDS_MAX];
	unsigned count = index_record_keywords(index, record, names, MESSAGE_KEYWORDS_MAX);
	struct keyword_set set = {.names = names, .count = count};

	*state_r = (struct mail_state){0};
	if (count > MESSAGE_KEYWORDS_MAX)
		return error_set(err, -E2BIG, "%s: UID %u has %u keywords", what, record->uid,
				 count);
	return mail_state_make(what, record->uid, record->flags, set, state_r, err);
}

struct keyword_set mail_state_keywords(const struct mail_state *state)
{
	return (struct keyword_set){.names = (const char *const *)state->keywords,
				    .count = state->keyword_count};
}

static bool state_has(const struct mail_state *state, const char *name)
{
	for (unsigned i = 0; i < state->keyword_count; i++) {
		if (strcasecmp(state->keywords[i], name) == 0)
			return true;
	}
	return false;
}

bool mail_state_equal(const struct mail_state *a, const struct mail_state *b)
{
	if (a->flags != b->flags || a->keyword_count != b->keyword_count)
		return false;
	for (unsigned i = 0; i < a->keyword_count; i++) {
		if (!state_has(b, a->keywords[i]))
			return false;
	}
	return true;
}

void mail_state_free(struct mail_state *state)
{
	for (unsigned i = 0; i < state->keyword_count; i++)
		free(state->keywords[i]);
	free(state->keywords);
	*state = (struct mail_state){0};
}

void mail_state_move(struct mail_state *from, struct mail_state *to)
{
	mail_state_free(to);
	*to = *from;
	*from = (struct mail_state){0};
}

/* ---- records ---- */

int index_mail_append(struct index_txn *txn, uint32_t uid, const struct mail_state *state,
		      bool recent, uint64_t modseq, struct error *err)
{
	int rc = index_append(txn, uid, state->flags, err);

	for (unsigned i = 0; rc == 0 && i < state->keyword_count; i++)
		rc = index_update_keyword(txn, uid, state->keywords[i], true, err);
	if (rc == 0 && modseq)
		rc = index_update_modseq(txn, uid, modseq, err);
	if (rc == 0 && !recent)
		rc = index_set_first_recent_uid(txn, uid + 1, err);
	return rc;
}

int index_mail_change(struct index_txn *txn, uint32_t uid, const struct mail_state *from,
		      const struct mail_state *to, struct error *err)
{
	uint8_t add = to->flags & (uint8_t)~from->flags;
	uint8_t remove = from->flags & (uint8_t)~to->flags;
	int rc = 0;

	if (add | remove)
		rc = index_update_flags(txn, uid, add, remove, err);
	for (unsigned i = 0; rc == 0 && i < to->keyword_count; i++) {
		if (!state_has(from, to->keywords[i]))
			rc = index_update_keyword(txn, uid, to->keywords[i], true, err);
	}
	for (unsigned i = 0; rc == 0 && i < from->keyword_count; i++) {
		if (!state_has(to, from->keywords[i]))
			rc = index_update_keyword(txn, uid, from->keywords[i], false, err);
	}
	return rc;
}

int index_mail_raise(struct index_txn *txn, uint32_t uid_next, uint32_t *next_uid,
		     uint64_t highest_modseq, uint32_t first_recent_uid, struct error *err)
{
	struct index_status status;
	int rc = 0;

	if (uid_next > INDEX_UID_MAX)
		return error_set(err, -ERANGE, "%s: next UID %" PRIu32,
				 index_text(index_txn_index(txn)), uid_next);
	if (uid_next > *next_uid) {
		rc = index_set_next_uid(txn, uid_next, err);
		*next_uid = uid_next;
	}
	index_status(index_txn_index(txn), &status);
	if (rc == 0 && highest_modseq > index_txn_modseq(txn))
		rc = index_update_modseq(txn, 0, highest_modseq, err);
	if (rc == 0 && first_recent_uid > status.first_recent_uid)
		rc = index_set_first_recent_uid(txn, first_recent_uid, err);
	return rc;
}

/* ---- showing ---- */

int index_mail_fill(const struct index *index, const struct index_record *record, const char *guid,
		    struct mail_names *names, struct mail *mail_r, struct error *err)
{
	unsigned count = index_record_keywords(index, record, names->names, names->room);
	struct index_status status;

	if (count > names->room) {
		const char **grown = reallocarray(names->names, count, sizeof *grown);

		if (!grown)
			return error_errno(err, -ENOMEM, "%s", index_text(index));
		names->names = grown;
		names->room = count;
		index_record_keywords(index, record, grown, count);
	}
	index_status(index, &status);
	*mail_r = (struct mail){
		.uid = record->uid,
		.flags = record->flags & MAIL_FLAGS_MASK,
		.recent = record->uid >= status.first_recent_uid,
		.modseq = record->modseq,
		.guid = guid,
		.keywords = {.names = names->names, .count = count},
	};
	return 0;
}

void mail_names_free(struct mail_names *names)
{
	free(names->names);
	*names = (struct mail_names){0};
}
