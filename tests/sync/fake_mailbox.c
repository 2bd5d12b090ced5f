/*
 * store/mailbox.h over a fake account. MODSEQs: a transaction's changes without a wish share
 * HIGHESTMODSEQ + 1, one with a wish gets it if it is above what was there.
 */
#include "tests/sync/fake_store_private.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/attributes.h"

struct mailbox {
	struct fake_account *account;
	char name[128];
	struct fake_box view; /* a copy; log included */
	const char *keyword_names[FAKE_KEYWORDS_MAX];
	bool in_txn;
};

static struct fake_box *live_box(const struct mailbox *box)
{
	return fake_find_box(box->account, box->name);
}

static void *copy_array(const void *array, size_t count, size_t size)
{
	void *copy = malloc(count * size + 1);

	assert(copy != NULL);
	if (count > 0)
		memcpy(copy, array, count * size);
	return copy;
}

static void drop_view(struct mailbox *box)
{
	free(box->view.mails);
	free(box->view.log);
}

static void take_view(struct mailbox *box, const struct fake_box *live)
{
	drop_view(box);
	box->view = *live;
	box->view.mails = copy_array(live->mails, live->mail_count, sizeof(*live->mails));
	box->view.log = copy_array(live->log, live->log_count, sizeof(*live->log));
}

int mailbox_open(const struct mail_user *user, const char *name, struct mailbox **box_r,
		 struct error *err)
{
	struct fake_account *account = fake_account_of(user);
	struct fake_box *live = fake_find_box(account, name);

	account->open_count++;
	if (live == NULL || (account->hidden != NULL && strcmp(account->hidden, name) == 0))
		return error_set(err, -ENOENT, "no mailbox %s", name);
	if (live->damaged)
		return error_set(err, -EUCLEAN, "mailbox %s is damaged", name);
	struct mailbox *box = calloc(1, sizeof(*box));
	assert(box != NULL);
	box->account = account;
	snprintf(box->name, sizeof(box->name), "%s", name);
	take_view(box, live);
	*box_r = box;
	return 0;
}

void mailbox_close(struct mailbox **box)
{
	if (*box == NULL)
		return;
	drop_view(*box);
	free(*box);
	*box = NULL;
}

int mailbox_refresh(struct mailbox *box, struct error *err)
{
	const struct fake_box *live = live_box(box);

	if (live == NULL)
		return error_set(err, -ESTALE, "mailbox %s is gone", box->name);
	take_view(box, live);
	return 0;
}

const char *mailbox_name(const struct mailbox *box)
{
	return box->name;
}

const struct mailbox_status *mailbox_status(const struct mailbox *box)
{
	return &box->view.status;
}

static void fill_mail(struct mailbox *box, const struct fake_mail *from, struct mail *mail_r)
{
	box->account->mails_read++;
	for (unsigned i = 0; i < from->keywords.count; i++)
		box->keyword_names[i] = from->keywords.names[i];
	*mail_r = (struct mail){
		.uid = from->uid,
		.flags = from->flags,
		.modseq = from->modseq,
		.guid = from->guid,
		.recent = from->uid >= box->view.status.first_recent_uid,
		.keywords = {.names = box->keyword_names, .count = from->keywords.count},
	};
}

int mailbox_scan(struct mailbox *box, bool *changed_r, size_t *missing_r, struct error *err)
{
	*changed_r = false;
	*missing_r = 0;
	return 0;
}

int mailbox_explain_missing(struct mailbox *box, const struct mail_event *events, size_t count,
			    struct error *err)
{
	(void)box;
	(void)events;
	(void)count;
	(void)err;
	return 0;
}

int mailbox_has_removal(const struct mailbox *box, const struct mail_event *events, size_t count,
			const char *const *guids, size_t guid_count, struct error *err)
{
	(void)box;
	(void)events;
	(void)count;
	(void)guids;
	(void)guid_count;
	(void)err;
	return 0;
}

const uint32_t *mailbox_missing(const struct mailbox *box, size_t *count_r)
{
	*count_r = 0;
	return NULL;
}

int mailbox_settle(struct mailbox *box, struct error *err)
{
	return 0;
}

int mailbox_each(struct mailbox *box, uint32_t first_uid, uint32_t last_uid, mailbox_each_fn *each,
		 void *ctx, struct error *err)
{
	for (size_t i = 0; i < box->view.mail_count; i++) {
		const struct fake_mail *from = &box->view.mails[i];
		struct mail mail;

		if (from->uid < first_uid || from->uid > last_uid)
			continue;
		if (box->account->reads_left == 0)
			return error_set(err, -EIO, "mailbox %s cannot be read", box->view.name);
		box->account->reads_left -= box->account->reads_left > 0;
		fill_mail(box, from, &mail);
		int ret = each(ctx, &mail);
		if (ret != 0)
			return ret;
	}
	return 0;
}

int mailbox_find(struct mailbox *box, uint32_t uid, struct mail *mail_r, struct error *err)
{
	const struct fake_mail *mail = fake_find_mail(&box->view, uid);

	if (mail == NULL)
		return error_set(err, -ENOENT, "no message %u", uid);
	fill_mail(box, mail, mail_r);
	return 0;
}

/* What mailbox_changes() returns keeps its strings here. */
struct change_strings {
	struct fake_keywords add, remove;
	const char *add_names[FAKE_KEYWORDS_MAX], *remove_names[FAKE_KEYWORDS_MAX];
};

static void fold_change(struct mailbox_change *change, struct change_strings *strings,
			const struct fake_change *from)
{
	change->uid = from->uid;
	change->modseq = from->modseq;
	if (from->appended)
		change->append_modseq = from->modseq;
	if (from->expunged) {
		change->expunged = true;
		change->has_guid = true;
		change->guid = from->guid;
	}
	change->add_flags = (uint8_t)((change->add_flags & ~from->remove_flags) | from->add_flags);
	change->remove_flags =
		(uint8_t)((change->remove_flags & ~from->add_flags) | from->remove_flags);
	for (unsigned i = 0; i < from->add.count; i++) {
		fake_keyword_add(&strings->add, from->add.names[i]);
		fake_keyword_remove(&strings->remove, from->add.names[i]);
	}
	for (unsigned i = 0; i < from->remove.count; i++) {
		fake_keyword_add(&strings->remove, from->remove.names[i]);
		fake_keyword_remove(&strings->add, from->remove.names[i]);
	}
}

static void point_keywords(struct mailbox_change *change, struct change_strings *strings)
{
	for (unsigned i = 0; i < strings->add.count; i++)
		strings->add_names[i] = strings->add.names[i];
	for (unsigned i = 0; i < strings->remove.count; i++)
		strings->remove_names[i] = strings->remove.names[i];
	change->add_keywords =
		(struct keyword_set){.names = strings->add_names, .count = strings->add.count};
	change->remove_keywords = (struct keyword_set){.names = strings->remove_names,
						       .count = strings->remove.count};
}

/* It keeps none. */
int attributes_read(const struct mail_user *user, const char *mailbox, const struct guid *guid,
		    struct attribute_list *list_r, struct error *err)
{
	*list_r = (struct attribute_list){.list = NULL};
	return 0;
}

void attributes_free(struct attribute_list *list)
{
}

int attributes_set(const struct mail_user *user, const char *mailbox, const struct guid *guid,
		   const struct attribute *attribute, struct error *err)
{
	return error_set(err, -EOPNOTSUPP, "attributes are not kept");
}

int attributes_move(const struct mail_user *user, const struct guid *old_guid,
		    const struct guid *new_guid, struct error *err)
{
	return 0;
}

int mailbox_changes(struct mailbox *box, uint64_t since, struct mailbox_changes *changes_r,
		    struct error *err)
{
	const struct fake_box *view = &box->view;
	struct mailbox_change *changes = calloc(view->log_count + 1, sizeof(*changes));
	struct change_strings *strings = calloc(view->log_count + 1, sizeof(*strings));
	size_t count = 0;

	assert(changes != NULL && strings != NULL);
	for (uint32_t uid = 1; uid < view->status.uid_next; uid++) {
		bool found = false;

		for (size_t i = 0; i < view->log_count; i++) {
			if (view->log[i].uid != uid || view->log[i].modseq <= since ||
			    view->log[i].modseq <= view->log_start)
				continue;
			fold_change(&changes[count], &strings[count], &view->log[i]);
			found = true;
		}
		if (found) {
			point_keywords(&changes[count], &strings[count]);
			count++;
		}
	}
	*changes_r = (struct mailbox_changes){.change = changes, .count = count, .pool = strings};
	return since < view->log_start ? error_set(err, -ERANGE, "log is too short") : 0;
}

void mailbox_changes_free(struct mailbox_changes *changes)
{
	free(changes->change);
	free(changes->pool);
	memset(changes, 0, sizeof(*changes));
}

struct mail_body {
	const char *text;
};

int mailbox_body_open(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
		      struct mail_body_info *info_r, struct error *err)
{
	if (box->account->on_body != NULL) {
		box->account->on_body(box->account, box->name);
		take_view(box, live_box(box));
	}
	if (box->account->busy_bodies > 0) {
		box->account->busy_bodies--;
		return error_set(err, -EAGAIN, "renamed all the time");
	}
	/* The files are what they are now, whatever the view says. */
	struct fake_box *live = live_box(box);
	const struct fake_mail *seen = fake_find_mail(&box->view, uid);
	const struct fake_mail *mail = NULL;

	for (size_t i = 0; live != NULL && seen != NULL && i < live->mail_count; i++) {
		if (strcmp(live->mails[i].guid, seen->guid) == 0)
			mail = &live->mails[i];
	}
	if (mail == NULL)
		return error_set(err, -ENOENT, "no message %u", uid);
	*body_r = malloc(sizeof(**body_r));
	assert(*body_r != NULL);
	(*body_r)->text = mail->body;
	*info_r = (struct mail_body_info){.received = mail->received,
					  .saved = mail->saved,
					  .pop3_uidl = mail->pop3_uidl,
					  .pop3_order = mail->pop3_order};
	return 0;
}

int mailbox_body_open_whole(struct mailbox *box, uint32_t uid, struct mail_body **body_r,
			    struct mail_body_info *info_r, struct error *err)
{
	return mailbox_body_open(box, uid, body_r, info_r, err);
}

ssize_t mailbox_body_read(struct mail_body *body, void *data, size_t size, struct error *err)
{
	size_t len = strlen(body->text);

	(void)err;
	if (len > size)
		len = size;
	memcpy(data, body->text, len);
	body->text += len;
	return (ssize_t)len;
}

void mailbox_body_close(struct mail_body **body)
{
	free(*body);
	*body = NULL;
}

struct mail_spool {
	struct fake_account *account;
	int64_t received;
	char *text;
	size_t len;
};

int mailbox_spool_open(struct mailbox *box, const char *guid, int64_t received,
		       struct mail_spool **spool_r, struct error *err)
{
	(void)guid;
	(void)err;
	struct mail_spool *spool = calloc(1, sizeof(*spool));
	assert(spool != NULL);
	spool->account = box->account;
	spool->received = received;
	*spool_r = spool;
	return 0;
}

int mailbox_spool_write(struct mail_spool *spool, const void *data, size_t len, struct error *err)
{
	int64_t *left = &spool->account->spool_bytes_left;

	if (*left >= 0) {
		if (*left < (int64_t)len)
			return error_set(err, -ENOSPC, "no space for a message");
		*left -= (int64_t)len;
	}
	spool->text = realloc(spool->text, spool->len + len + 1);
	assert(spool->text != NULL);
	memcpy(spool->text + spool->len, data, len);
	spool->len += len;
	spool->text[spool->len] = '\0';
	return 0;
}

void mailbox_spool_discard(struct mail_spool **spool)
{
	if (*spool == NULL)
		return;
	free((*spool)->text);
	free(*spool);
	*spool = NULL;
}

/* Works on a copy that replaces the live mailbox on commit. */
struct mailbox_txn {
	struct mailbox *box;
	struct fake_box work;
	uint64_t next_modseq;
	bool foreign;
};

int mailbox_begin(struct mailbox *box, struct mailbox_txn **txn_r, struct error *err)
{
	struct fake_account *account = box->account;
	uint64_t seen = box->view.version;

	account->begin_count++;
	if (account->on_begin != NULL)
		account->on_begin(account, box->name);
	int ret = mailbox_refresh(box, err);
	if (ret < 0)
		return ret;
	struct mailbox_txn *txn = calloc(1, sizeof(*txn));
	assert(txn != NULL);
	txn->box = box;
	txn->foreign = box->view.version != seen;
	txn->work = box->view;
	/* One by one, so that fake_grow() finds what it expects. */
	txn->work.mail_count = 0;
	txn->work.mails = NULL;
	for (size_t i = 0; i < box->view.mail_count; i++)
		fake_insert_mail(&txn->work, &box->view.mails[i]);
	txn->work.log = NULL;
	txn->work.log_count = 0;
	for (size_t i = 0; i < box->view.log_count; i++)
		*fake_add_log(&txn->work, 0, 0) = box->view.log[i];
	txn->next_modseq = box->view.status.highest_modseq + 1;
	box->in_txn = true;
	*txn_r = txn;
	return 0;
}

static void set_keywords(struct fake_keywords *set, struct keyword_set from)
{
	set->count = 0;
	for (unsigned i = 0; i < from.count; i++)
		fake_keyword_add(set, from.names[i]);
}

static void raise_first_recent(struct fake_box *box, uint32_t uid)
{
	if (box->status.first_recent_uid < uid)
		box->status.first_recent_uid = uid;
}

static bool keywords_equal(const struct fake_keywords *a, const struct fake_keywords *b)
{
	for (unsigned i = 0; i < a->count; i++) {
		if (fake_keyword_at(b, a->names[i]) < 0)
			return false;
	}
	return a->count == b->count;
}

static int append(struct mailbox_txn *txn, struct fake_mail *mail, const struct mail *from,
		  struct error *err)
{
	struct fake_box *work = &txn->work;

	if (fake_find_mail(work, from->uid) != NULL || from->uid < work->status.uid_next)
		return error_set(err, -EEXIST, "uid %u is below uid_next %u", from->uid,
				 work->status.uid_next);
	mail->uid = from->uid;
	mail->flags = from->flags;
	mail->modseq = fake_take_modseq(work, txn->next_modseq, from->modseq);
	if (!from->recent)
		raise_first_recent(work, from->uid + 1);
	set_keywords(&mail->keywords, from->keywords);
	fake_add_log(work, mail->uid, txn->next_modseq)->appended = true;
	fake_insert_mail(work, mail);
	return 0;
}

int mailbox_append(struct mailbox_txn *txn, struct mail_spool **spool, const struct mail *mail,
		   int64_t saved, struct mail_pop3 pop3, struct error *err)
{
	struct fake_mail new_mail = {.received = (*spool)->received, .saved = saved};

	snprintf(new_mail.guid, sizeof(new_mail.guid), "%s", mail->guid);
	snprintf(new_mail.pop3_uidl, sizeof(new_mail.pop3_uidl), "%s", pop3.uidl);
	new_mail.pop3_order = pop3.order;
	new_mail.body =
		fake_keep_body(txn->box->account, (*spool)->text != NULL ? (*spool)->text : "");
	mailbox_spool_discard(spool);
	return append(txn, &new_mail, mail, err);
}

int mailbox_copy(struct mailbox_txn *txn, uint32_t source_uid, const struct mail *mail,
		 struct error *err)
{
	struct fake_mail *source = fake_find_mail(&txn->work, source_uid);

	if (source == NULL)
		return error_set(err, -ENOENT, "no message %u", source_uid);
	struct fake_mail copy = *source;
	return append(txn, &copy, mail, err);
}

int mailbox_set_flags(struct mailbox_txn *txn, uint32_t uid, uint8_t flags,
		      struct keyword_set keywords, uint64_t modseq, struct error *err)
{
	struct fake_mail *mail = fake_find_mail(&txn->work, uid);
	struct fake_keywords wanted = {0};

	if (mail == NULL)
		return error_set(err, -ENOENT, "no message %u", uid);
	set_keywords(&wanted, keywords);
	/* Nothing but a MODSEQ may also go down; one of a message that is new here may not. */
	if (mail->flags == flags && keywords_equal(&mail->keywords, &wanted) &&
	    uid < txn->box->view.status.uid_next) {
		if (modseq != 0)
			mail->modseq = modseq;
		if (txn->work.status.highest_modseq < modseq)
			txn->work.status.highest_modseq = modseq;
		return 0;
	}
	uint64_t taken = fake_take_modseq(&txn->work, txn->next_modseq, modseq);
	if (mail->flags != flags)
		fake_log_flags(&txn->work, mail, flags, taken);
	for (unsigned i = mail->keywords.count; i-- > 0;) {
		char name[24];

		memcpy(name, mail->keywords.names[i], sizeof(name));
		if (fake_keyword_at(&wanted, name) < 0)
			fake_log_keyword(&txn->work, mail, name, false, taken);
	}
	for (unsigned i = 0; i < wanted.count; i++) {
		if (fake_keyword_at(&mail->keywords, wanted.names[i]) < 0)
			fake_log_keyword(&txn->work, mail, wanted.names[i], true, taken);
	}
	mail->modseq = taken;
	return 0;
}

int mailbox_expunge(struct mailbox_txn *txn, uint32_t uid, struct error *err)
{
	struct fake_mail *mail = fake_find_mail(&txn->work, uid);

	if (mail == NULL)
		return error_set(err, -ENOENT, "no message %u", uid);
	fake_log_expunge(&txn->work, mail, fake_take_modseq(&txn->work, txn->next_modseq, 0));
	return 0;
}

int mailbox_bury(struct mailbox_txn *txn, uint32_t uid, const struct guid *guid, struct error *err)
{
	if (fake_find_mail(&txn->work, uid) != NULL)
		return error_set(err, -EEXIST, "a message has uid %u", uid);
	if (uid >= txn->box->view.status.uid_next)
		return error_set(err, -EINVAL, "uid %u was not given out", uid);
	struct fake_change *change =
		fake_add_log(&txn->work, uid, fake_take_modseq(&txn->work, txn->next_modseq, 0));
	change->expunged = true;
	if (guid != NULL)
		change->guid = *guid;
	else
		guid_generate(&change->guid);
	return 0;
}

int mailbox_change_uid(struct mailbox_txn *txn, uint32_t uid, uint32_t new_uid, uint64_t modseq,
		       struct error *err)
{
	struct fake_mail *mail = fake_find_mail(&txn->work, uid);

	if (mail == NULL)
		return error_set(err, -ENOENT, "no message %u", uid);
	if (new_uid < txn->work.status.uid_next)
		return error_set(err, -EEXIST, "uid %u is below uid_next", new_uid);
	struct fake_mail moved = *mail;
	if (uid < txn->box->view.status.first_recent_uid)
		raise_first_recent(&txn->work, new_uid + 1);
	fake_log_expunge(&txn->work, mail, fake_take_modseq(&txn->work, txn->next_modseq, 0));
	moved.uid = new_uid;
	moved.modseq = fake_take_modseq(&txn->work, txn->next_modseq, modseq);
	fake_add_log(&txn->work, new_uid, txn->next_modseq)->appended = true;
	fake_insert_mail(&txn->work, &moved);
	return 0;
}

int mailbox_set_uid_validity(struct mailbox_txn *txn, uint32_t uid_validity, struct error *err)
{
	(void)err;
	txn->work.status.uid_validity = uid_validity;
	return 0;
}

int mailbox_set_guid(struct mailbox_txn *txn, const struct guid *guid, bool copied,
		     struct error *err)
{
	(void)err;
	txn->work.status.guid = *guid;
	return 0;
}

int mailbox_raise(struct mailbox_txn *txn, uint32_t uid_next, uint64_t highest_modseq,
		  uint32_t first_recent_uid, struct error *err)
{
	struct mailbox_status *status = &txn->work.status;

	(void)err;
	if (status->uid_next < uid_next)
		status->uid_next = uid_next;
	if (status->highest_modseq < highest_modseq)
		status->highest_modseq = highest_modseq;
	if (status->first_recent_uid < first_recent_uid)
		status->first_recent_uid = first_recent_uid;
	return 0;
}

int mailbox_commit(struct mailbox_txn **_txn, bool *foreign_r, struct error *err)
{
	struct mailbox_txn *txn = *_txn;
	struct fake_box *live = live_box(txn->box);

	(void)err;
	struct fake_box old = *live;
	*live = txn->work;
	live->version++;
	take_view(txn->box, live);
	free(old.mails);
	free(old.log);
	if (foreign_r != NULL)
		*foreign_r = txn->foreign;
	txn->box->in_txn = false;
	free(txn);
	*_txn = NULL;
	return 0;
}

void mailbox_abort(struct mailbox_txn **txn)
{
	if (*txn == NULL)
		return;
	(*txn)->box->in_txn = false;
	free((*txn)->work.mails);
	free((*txn)->work.log);
	free(*txn);
	*txn = NULL;
}

int mailbox_rebuild(const struct mail_user *user, const char *name, struct error *err)
{
	struct fake_box *live = fake_find_box(fake_account_of(user), name);

	if (live == NULL)
		return error_set(err, -ENOENT, "no mailbox %s", name);
	fake_account_of(user)->rebuild_count++;
	live->damaged = false;
	return 0;
}
