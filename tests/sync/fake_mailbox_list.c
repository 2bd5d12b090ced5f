/*
 * store/mailbox_list.h and store/list_moment.h over a fake account.
 */
#include "tests/sync/fake_store_private.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/list_moment.h"

static int subscription_at(const struct fake_account *account, const char *name)
{
	for (size_t i = 0; i < account->subscription_count; i++) {
		if (strcmp(account->subscriptions[i], name) == 0)
			return (int)i;
	}
	return -1;
}

static int node_cmp(const void *a, const void *b)
{
	return strcmp(((const struct mailbox_node *)a)->name,
		      ((const struct mailbox_node *)b)->name);
}

int mailbox_list_read(const struct mail_user *user, struct mailbox_tree *tree_r, bool *incomplete_r,
		      struct error *err)
{
	struct fake_account *account = fake_account_of(user);

	(void)err;
	memset(tree_r, 0, sizeof(*tree_r));
	*incomplete_r = false;
	tree_r->separator = '/';
	tree_r->nodes = calloc(account->box_count + account->subscription_count + 1,
			       sizeof(*tree_r->nodes));
	tree_r->deletions = calloc(account->deletion_count + 1, sizeof(*tree_r->deletions));
	assert(tree_r->nodes != NULL && tree_r->deletions != NULL);
	for (size_t i = 0; i < account->box_count; i++) {
		const struct fake_box *box = &account->boxes[i];
		int at = subscription_at(account, box->name);

		tree_r->nodes[tree_r->node_count++] = (struct mailbox_node){
			.name = strdup(box->name),
			.exists = true,
			.guid = box->status.guid,
			.uid_validity = box->status.uid_validity,
			.uid_next = box->status.uid_next,
			.last_renamed_or_created = box->renamed,
			.subscribed = at >= 0,
			.last_subscription_change = at >= 0 ? account->subscription_times[at] : 0,
		};
	}
	for (size_t i = 0; i < account->subscription_count; i++) {
		if (fake_find_box(account, account->subscriptions[i]) != NULL)
			continue;
		tree_r->nodes[tree_r->node_count++] = (struct mailbox_node){
			.name = strdup(account->subscriptions[i]),
			.subscribed = true,
			.last_subscription_change = account->subscription_times[i],
		};
	}
	qsort(tree_r->nodes, tree_r->node_count, sizeof(*tree_r->nodes), node_cmp);
	for (size_t i = 0; i < account->deletion_count; i++)
		tree_r->deletions[tree_r->deletion_count++] = account->deletions[i];
	return 0;
}

void mailbox_tree_free(struct mailbox_tree *tree)
{
	for (size_t i = 0; i < tree->node_count; i++)
		free(tree->nodes[i].name);
	free(tree->nodes);
	free(tree->deletions);
	memset(tree, 0, sizeof(*tree));
}

int mailbox_list_create(const struct mail_user *user, const char *name, const struct guid *guid,
			uint32_t uid_validity, struct error *err)
{
	if (fake_find_box(fake_account_of(user), name) != NULL)
		return error_set(err, -EEXIST, "mailbox %s exists", name);
	fake_add_box(fake_account_of(user), name, guid, uid_validity);
	return 0;
}

static void add_deletion(struct fake_account *account, const struct guid *guid)
{
	assert(account->deletion_count < 256);
	account->deletions[account->deletion_count++] = (struct mailbox_deletion){
		.kind = DELETED_MAILBOX, .guid = *guid, .time = ++*account->clock};
}

int mailbox_list_delete(const struct mail_user *user, const char *name, const struct guid *guid,
			struct error *err)
{
	struct fake_account *account = fake_account_of(user);
	struct fake_box *box = fake_find_box(account, name);

	if (box == NULL)
		return error_set(err, -ENOENT, "no mailbox %s", name);
	if (!guid_equal(&box->status.guid, guid))
		return error_set(err, -ESTALE, "mailbox %s has another GUID", name);
	free(box->mails);
	free(box->log);
	/* guid may point into the mailbox. */
	struct guid gone = box->status.guid;
	*box = account->boxes[--account->box_count];
	add_deletion(account, &gone);
	return 0;
}

int mailbox_list_rename(const struct mail_user *user, const char *from, const char *to,
			int64_t time, struct error *err)
{
	struct fake_account *account = fake_account_of(user);
	struct fake_box *box = fake_find_box(account, from);
	size_t len = strlen(from);

	if (fake_find_box(account, to) != NULL)
		return error_set(err, -EEXIST, "mailbox %s exists", to);
	if (box == NULL)
		return error_set(err, -ENOENT, "no mailbox %s", from);
	for (size_t i = 0; i < account->box_count; i++) {
		struct fake_box *child = &account->boxes[i];
		char name[300];

		if (strncmp(child->name, from, len) != 0 ||
		    (child->name[len] != '/' && child->name[len] != '\0'))
			continue;
		snprintf(name, sizeof(name), "%s%s", to, child->name + len);
		snprintf(child->name, sizeof(child->name), "%.127s", name);
	}
	box->renamed = time > 0 ? time : ++*account->clock;
	return 0;
}

int mailbox_list_subscribe(const struct mail_user *user, const char *name, bool subscribed,
			   struct error *err)
{
	struct fake_account *account = fake_account_of(user);
	int at = subscription_at(account, name);

	(void)err;
	if (subscribed && at < 0) {
		assert(account->subscription_count < 64);
		at = (int)account->subscription_count++;
		snprintf(account->subscriptions[at], 128, "%s", name);
		account->subscription_times[at] = ++*account->clock;
	} else if (!subscribed && at >= 0) {
		size_t last = --account->subscription_count;
		memmove(account->subscriptions[at], account->subscriptions[last], 128);
		account->subscription_times[at] = account->subscription_times[last];
	}
	return 0;
}

int mailbox_name_storable(const struct mail_user *user, const char *name, char alt_char,
			  char **name_r)
{
	(void)user;
	(void)alt_char;
	*name_r = strdup(name);
	return *name_r != NULL ? 0 : -ENOMEM;
}

/* Nobody but the test changes a list here. */
int list_moment_look(const struct mail_user *user, struct list_moment *moment_r, struct error *err)
{
	memset(moment_r, 0, sizeof *moment_r);
	return 0;
}

bool list_moment_lasts(const struct mail_user *user, const struct list_moment *moment)
{
	return true;
}

bool list_removed_just_now(const struct mail_user *user, const char *name)
{
	(void)user;
	(void)name;
	return false;
}

bool list_renamed_just_now(const struct mail_user *user, const char *name)
{
	(void)user;
	(void)name;
	return false;
}

int mailbox_list_add_kept(const struct mail_user *user, struct mailbox_tree *tree,
			  bool (*wanted)(void *ctx, const struct guid *guid), void *ctx,
			  struct error *err)
{
	return 0;
}
