/*
 * The accounts, what programs outside do to them, and how two of them differ. See fake_store.h.
 */
#include "tests/sync/fake_store_private.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

struct body {
	struct body *next;
	char text[];
};

/* ---- accounts ---- */

void *fake_grow(void *array, size_t count, size_t item_size)
{
	/* Powers of two from 8. */
	if (count != 0 && (count < 8 || (count & (count - 1)) != 0))
		return array;
	void *bigger = realloc(array, (count < 8 ? 8 : count * 2) * item_size);
	assert(bigger != NULL);
	return bigger;
}

struct fake_account *fake_account_of(const struct mail_user *user)
{
	return (struct fake_account *)user; /* its first member */
}

const char *fake_keep_body(struct fake_account *account, const char *text)
{
	struct body *body = malloc(sizeof(*body) + strlen(text) + 1);

	assert(body != NULL);
	memcpy(body->text, text, strlen(text) + 1);
	body->next = account->bodies;
	account->bodies = body;
	return body->text;
}

struct fake_box *fake_add_box(struct fake_account *account, const char *name,
			      const struct guid *guid, uint32_t uid_validity)
{
	account->boxes = fake_grow(account->boxes, account->box_count, sizeof(*account->boxes));
	struct fake_box *box = &account->boxes[account->box_count++];

	memset(box, 0, sizeof(*box));
	snprintf(box->name, sizeof(box->name), "%s", name);
	if (guid != NULL && !guid_is_empty(guid))
		box->status.guid = *guid;
	else
		guid_generate(&box->status.guid);
	box->status.uid_validity =
		uid_validity != 0 ? uid_validity : (uint32_t)(1000 + ++*account->clock);
	box->status.uid_next = 1;
	box->status.first_recent_uid = 1;
	box->status.highest_modseq = 1;
	return box;
}

struct fake_account *fake_account_new(const char *name, int64_t *clock)
{
	struct fake_account *account = calloc(1, sizeof(*account));

	assert(account != NULL);
	account->user.name = strdup(name);
	account->user.home = strdup("/nowhere");
	account->user.home_rel = strdup("nowhere");
	account->user.separator = '/';
	account->clock = clock;
	account->spool_bytes_left = -1;
	account->reads_left = -1;
	fake_add_box(account, "INBOX", NULL, 0);
	return account;
}

void fake_account_free(struct fake_account **_account)
{
	struct fake_account *account = *_account;

	*_account = NULL;
	for (size_t i = 0; i < account->box_count; i++) {
		free(account->boxes[i].mails);
		free(account->boxes[i].log);
	}
	for (struct body *body = account->bodies; body != NULL;) {
		struct body *next = body->next;
		free(body);
		body = next;
	}
	free(account->boxes);
	free(account->user.name);
	free(account->user.home);
	free(account->user.home_rel);
	free(account);
}

struct fake_box *fake_find_box(struct fake_account *account, const char *name)
{
	for (size_t i = 0; i < account->box_count; i++) {
		if (strcmp(account->boxes[i].name, name) == 0)
			return &account->boxes[i];
	}
	return NULL;
}

struct fake_mail *fake_find_mail(struct fake_box *box, uint32_t uid)
{
	for (size_t i = 0; i < box->mail_count; i++) {
		if (box->mails[i].uid == uid)
			return &box->mails[i];
	}
	return NULL;
}

/* ---- changes, logged ---- */

uint64_t fake_take_modseq(struct fake_box *box, uint64_t next, uint64_t wished)
{
	uint64_t modseq = wished > next ? wished : next;

	if (box->status.highest_modseq < modseq)
		box->status.highest_modseq = modseq;
	return modseq;
}

struct fake_change *fake_add_log(struct fake_box *box, uint32_t uid, uint64_t modseq)
{
	box->log = fake_grow(box->log, box->log_count, sizeof(*box->log));
	struct fake_change *change = &box->log[box->log_count++];

	*change = (struct fake_change){.uid = uid, .modseq = modseq};
	return change;
}

int fake_keyword_at(const struct fake_keywords *set, const char *name)
{
	for (unsigned i = 0; i < set->count; i++) {
		if (strcasecmp(set->names[i], name) == 0)
			return (int)i;
	}
	return -1;
}

void fake_keyword_add(struct fake_keywords *set, const char *name)
{
	if (fake_keyword_at(set, name) >= 0)
		return;
	assert(set->count < FAKE_KEYWORDS_MAX);
	unsigned at = set->count++;
	while (at > 0 && strcmp(set->names[at - 1], name) > 0) {
		memcpy(set->names[at], set->names[at - 1], sizeof(set->names[0]));
		at--;
	}
	snprintf(set->names[at], sizeof(set->names[at]), "%s", name);
}

void fake_keyword_remove(struct fake_keywords *set, const char *name)
{
	int at = fake_keyword_at(set, name);

	if (at < 0)
		return;
	set->count--;
	for (unsigned i = (unsigned)at; i < set->count; i++)
		memcpy(set->names[i], set->names[i + 1], sizeof(set->names[0]));
}

struct fake_mail *fake_insert_mail(struct fake_box *box, const struct fake_mail *mail)
{
	size_t at = box->mail_count;

	box->mails = fake_grow(box->mails, box->mail_count, sizeof(*box->mails));
	while (at > 0 && box->mails[at - 1].uid > mail->uid)
		at--;
	memmove(&box->mails[at + 1], &box->mails[at], (box->mail_count - at) * sizeof(*box->mails));
	box->mails[at] = *mail;
	box->mail_count++;
	box->status.messages = (uint32_t)box->mail_count;
	if (box->status.uid_next <= mail->uid)
		box->status.uid_next = mail->uid + 1;
	return &box->mails[at];
}

static void remove_mail(struct fake_box *box, struct fake_mail *mail)
{
	size_t at = (size_t)(mail - box->mails);

	memmove(mail, mail + 1, (box->mail_count - at - 1) * sizeof(*mail));
	box->mail_count--;
	box->status.messages = (uint32_t)box->mail_count;
}

uint32_t fake_deliver(struct fake_account *account, struct fake_box *box, const char *guid,
		      const char *body)
{
	struct fake_mail mail = {.uid = box->status.uid_next, .received = ++*account->clock};
	struct guid random;
	char hex[GUID_HEX_SIZE];

	guid_generate(&random);
	snprintf(mail.guid, sizeof(mail.guid), "%s",
		 guid != NULL ? guid : guid_to_hex(&random, hex));
	mail.saved = mail.received;
	mail.modseq = fake_take_modseq(box, box->status.highest_modseq + 1, 0);
	mail.body = fake_keep_body(account, body);
	fake_add_log(box, mail.uid, mail.modseq)->appended = true;
	fake_insert_mail(box, &mail);
	box->version++;
	return mail.uid;
}

void fake_log_flags(struct fake_box *box, struct fake_mail *mail, uint8_t flags, uint64_t modseq)
{
	struct fake_change *change = fake_add_log(box, mail->uid, modseq);

	change->add_flags = (uint8_t)(flags & ~mail->flags);
	change->remove_flags = (uint8_t)(mail->flags & ~flags);
	mail->flags = flags;
	mail->modseq = modseq;
}

void fake_flags(struct fake_box *box, uint32_t uid, uint8_t add, uint8_t remove)
{
	struct fake_mail *mail = fake_find_mail(box, uid);
	uint8_t flags = (uint8_t)((mail->flags | add) & ~remove);

	if (flags == mail->flags)
		return;
	fake_log_flags(box, mail, flags, fake_take_modseq(box, box->status.highest_modseq + 1, 0));
	box->version++;
}

void fake_log_keyword(struct fake_box *box, struct fake_mail *mail, const char *name, bool add,
		      uint64_t modseq)
{
	struct fake_change *change = fake_add_log(box, mail->uid, modseq);

	fake_keyword_add(add ? &change->add : &change->remove, name);
	if (add)
		fake_keyword_add(&mail->keywords, name);
	else
		fake_keyword_remove(&mail->keywords, name);
	mail->modseq = modseq;
}

void fake_keyword(struct fake_box *box, uint32_t uid, const char *name, bool add)
{
	struct fake_mail *mail = fake_find_mail(box, uid);

	if ((fake_keyword_at(&mail->keywords, name) >= 0) == add)
		return;
	fake_log_keyword(box, mail, name, add,
			 fake_take_modseq(box, box->status.highest_modseq + 1, 0));
	box->version++;
}

void fake_log_expunge(struct fake_box *box, struct fake_mail *mail, uint64_t modseq)
{
	struct fake_change *change = fake_add_log(box, mail->uid, modseq);

	change->expunged = true;
	guid_from_message_guid(mail->guid, &change->guid);
	remove_mail(box, mail);
}

void fake_expunge(struct fake_box *box, uint32_t uid)
{
	struct fake_mail *mail = fake_find_mail(box, uid);

	fake_log_expunge(box, mail, fake_take_modseq(box, box->status.highest_modseq + 1, 0));
	box->version++;
}

/* ---- comparing ---- */

static const char *mails_differ(const struct fake_box *a, const struct fake_box *b, bool modseqs)
{
	static _Thread_local char what[512];

	for (size_t i = 0; i < a->mail_count; i++) {
		const struct fake_mail *x = &a->mails[i], *y = &b->mails[i];

		if (x->uid != y->uid || strcmp(x->guid, y->guid) != 0 || x->flags != y->flags ||
		    (modseqs && x->modseq != y->modseq) || strcmp(x->body, y->body) != 0 ||
		    x->received != y->received || x->keywords.count != y->keywords.count) {
			snprintf(what, sizeof(what),
				 "%s: uid %u/%u guid %s/%s flags %x/%x modseq %lu/%lu", a->name,
				 x->uid, y->uid, x->guid, y->guid, x->flags, y->flags,
				 (unsigned long)x->modseq, (unsigned long)y->modseq);
			return what;
		}
		for (unsigned k = 0; k < x->keywords.count; k++) {
			if (strcasecmp(x->keywords.names[k], y->keywords.names[k]) != 0) {
				snprintf(what, sizeof(what), "%s: uid %u keywords", a->name,
					 x->uid);
				return what;
			}
		}
	}
	return NULL;
}

static const char *boxes_differ(const struct fake_box *a, const struct fake_box *b, bool modseqs)
{
	static _Thread_local char what[512];
	const struct mailbox_status *x = &a->status, *y = &b->status;

	if (!guid_equal(&x->guid, &y->guid) || x->uid_validity != y->uid_validity ||
	    x->messages != y->messages || x->uid_next != y->uid_next ||
	    x->first_recent_uid != y->first_recent_uid ||
	    (modseqs && x->highest_modseq != y->highest_modseq)) {
		snprintf(what, sizeof(what),
			 "%s: uid_validity %u/%u messages %u/%u uid_next %u/%u recent %u/%u modseq "
			 "%lu/%lu%s",
			 a->name, x->uid_validity, y->uid_validity, x->messages, y->messages,
			 x->uid_next, y->uid_next, x->first_recent_uid, y->first_recent_uid,
			 (unsigned long)x->highest_modseq, (unsigned long)y->highest_modseq,
			 guid_equal(&x->guid, &y->guid) ? "" : ", other GUID");
		return what;
	}
	return mails_differ(a, b, modseqs);
}

const char *fake_accounts_differ(const struct fake_account *a, const struct fake_account *b,
				 bool modseqs)
{
	static _Thread_local char what[512];

	for (size_t i = 0; i < a->box_count; i++) {
		const struct fake_box *other =
			fake_find_box(fake_account_of(&b->user), a->boxes[i].name);

		if (other == NULL) {
			snprintf(what, sizeof(what), "%s is only in one", a->boxes[i].name);
			return what;
		}
		const char *differ = boxes_differ(&a->boxes[i], other, modseqs);
		if (differ != NULL)
			return differ;
	}
	if (a->box_count != b->box_count)
		return "more mailboxes on one side";
	return NULL;
}
