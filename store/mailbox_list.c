/*
 * Reading a user's mailbox list: directories, subscriptions, and the past that the mailbox log
 * tells. See mailbox_list.h. Changing it is in mailbox_list_change.c.
 *
 * A tree that could not be read completely says so: what is missing from it was then not deleted.
 */
#include "store/mailbox_list.h"

#include "store/base/file.h"
#include "store/base/log.h"
#include "store/list_moment.h"
#include "store/mail_user.h"
#include "store/mailbox_log.h"
#include "store/mailbox_name.h"
#include "store/mailbox_private.h"
#include "store/subscriptions.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* More than this is no user's: the list of a store that somebody made to exhaust us. */
#define NODES_MAX 200000
/* Levels of LAYOUT=fs that are looked into. */
#define DEPTH_MAX  64
#define READ_TRIES 20

struct reader {
	const struct mail_user *user;
	struct mailbox_tree *tree;
	size_t room;
	bool incomplete;
	struct error *err;
};

static struct mailbox_node *add_node(struct reader *r, const char *name)
{
	struct mailbox_tree *tree = r->tree;
	struct mailbox_node *node;

	if (tree->node_count >= NODES_MAX) {
		error_set(r->err, -EOVERFLOW, "user=%s: more than %d mailboxes", r->user->name,
			  NODES_MAX);
		return NULL;
	}
	if (tree->node_count == r->room) {
		size_t room = r->room ? r->room * 2 : 32;
		struct mailbox_node *nodes = realloc(tree->nodes, room * sizeof *nodes);

		if (!nodes) {
			error_set(r->err, -ENOMEM, "user=%s: out of memory", r->user->name);
			return NULL;
		}
		tree->nodes = nodes;
		r->room = room;
	}
	node = &tree->nodes[tree->node_count];
	*node = (struct mailbox_node){.name = strdup(name)};
	if (!node->name) {
		error_set(r->err, -ENOMEM, "user=%s: out of memory", r->user->name);
		return NULL;
	}
	tree->node_count++;
	return node;
}

/* GUID, UIDVALIDITY and next UID of a mailbox; one without gets them by being opened. */
static int read_numbers(struct reader *r, struct mailbox_node *node, struct error *err)
{
	struct mailbox_status status = {0};
	struct mailbox_spot spot;
	struct mailbox *box;
	int rc = mailbox_spot_get(r->user, node->name, &spot, err);

	if (rc < 0)
		return rc;
	rc = spot.format->peek(&spot.place, &status, err);
	mailbox_spot_free(&spot);
	if (rc == 0 && !guid_is_empty(&status.guid)) {
		node->guid = status.guid;
		node->uid_validity = status.uid_validity;
		node->uid_next = status.uid_next;
		return 0;
	}
	if (rc < 0 && rc != -ENOENT && rc != -EUCLEAN)
		return rc;
	if (rc == -EUCLEAN && r->user->as_it_is)
		return rc;
	if (rc == -EUCLEAN) {
		log_warning("%s: rebuilding user=%s mailbox=%s", err->text, r->user->name,
			    node->name);
		rc = mailbox_rebuild(r->user, node->name, err);
		if (rc < 0)
			return rc;
	}
	rc = mailbox_open(r->user, node->name, &box, err);
	if (rc < 0)
		return rc;
	node->guid = mailbox_status(box)->guid;
	node->uid_validity = mailbox_status(box)->uid_validity;
	node->uid_next = mailbox_status(box)->uid_next;
	mailbox_close(&box);
	return 0;
}

static int add_mailbox(struct reader *r, const char *name)
{
	struct error problem = {0};
	struct mailbox_node *node = add_node(r, name);
	int rc;

	if (!node)
		return r->err ? r->err->code : -ENOMEM;
	node->exists = true;
	rc = read_numbers(r, node, &problem);
	if (rc == 0)
		return 0;
	/* Gone again meanwhile, or unreadable: either way it is not in this tree. */
	if (rc != -ENOENT) {
		log_error("mailbox left out of this sync: %s user=%s mailbox=%s", problem.text,
			  r->user->name, name);
		r->incomplete = true;
	}
	free(node->name);
	r->tree->node_count--;
	return 0;
}

static bool is_directory(int dirfd, const struct dirent *entry)
{
	struct stat st;

	if (entry->d_type != DT_UNKNOWN)
		return entry->d_type == DT_DIR;
	return fstatat(dirfd, entry->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

/* The directory holds what makes it a mailbox. */
static bool is_mailbox(const struct mail_user *user, int dirfd, const char *name)
{
	const char *part = mailbox_format_of(user)->part;
	struct stat st;
	AUTO_CLOSE int fd = openat(dirfd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

	return fd >= 0 && fstatat(fd, part, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISDIR(st.st_mode);
}

bool mailbox_list_has(const struct mail_user *user, const char *name)
{
	struct mailbox_paths dirs;
	bool has;

	if (mailbox_dirs_get(&user->location, name, &dirs) < 0)
		return false;
	has = is_mailbox(user, AT_FDCWD, dirs.mail);
	mailbox_paths_free(&dirs);
	return has;
}

static int open_directory(const struct mail_user *user, const char *path, DIR **dir_r,
			  struct error *err)
{
	*dir_r = opendir(path);
	if (*dir_r || errno == ENOENT)
		return 0;
	return error_errno(err, -errno, "user=%s: opendir(%s)", user->name, path);
}

/* Maildir++: every directory ".Name" of the root. */
static int read_maildirpp(struct reader *r)
{
	const char *root = r->user->location.root;
	AUTO_DIR DIR *dir = NULL;
	struct dirent *entry;
	int rc = open_directory(r->user, root, &dir, r->err);

	if (rc < 0 || !dir)
		return rc;
	while ((errno = 0, entry = readdir(dir)) != NULL) {
		AUTO_FREE char *name = NULL;

		if (entry->d_name[0] != '.' || !is_directory(dirfd(dir), entry))
			continue;
		/* "..", the trash directory, and names that no client could have made. */
		if (mailbox_name_from_storage(&r->user->location, entry->d_name + 1, &name) < 0 ||
		    strcmp(name, "INBOX") == 0)
			continue;
		rc = add_mailbox(r, name);
		if (rc < 0)
			return rc;
	}
	return errno ? error_errno(r->err, -errno, "user=%s: readdir(%s)", r->user->name, root) : 0;
}

/* LAYOUT=fs: a directory with cur/ (dbox: dbox-Mails/) is a mailbox, one without a mere parent. */
static int read_fs(struct reader *r, int parent, const char *storage, unsigned depth)
{
	AUTO_DIR DIR *dir = NULL;
	struct dirent *entry;
	int fd = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), rc;

	if (fd < 0)
		return error_errno(r->err, -errno, "user=%s: open(%s/%s)", r->user->name,
				   r->user->location.root, storage);
	dir = fdopendir(fd);
	if (!dir) {
		rc = error_errno(r->err, -errno, "user=%s: fdopendir", r->user->name);
		close(fd);
		return rc;
	}
	while ((errno = 0, entry = readdir(dir)) != NULL) {
		AUTO_FREE char *path = NULL;
		AUTO_FREE char *name = NULL;
		size_t size = strlen(storage) + strlen(entry->d_name) + 2;

		if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0 ||
		    !is_directory(fd, entry))
			continue;
		path = malloc(size);
		if (!path)
			return error_set(r->err, -ENOMEM, "user=%s: out of memory", r->user->name);
		snprintf(path, size, "%s%s%s", storage, *storage ? "/" : "", entry->d_name);
		if (mailbox_name_from_storage(&r->user->location, path, &name) < 0)
			continue;
		if (strcmp(name, "INBOX") != 0) {
			if (is_mailbox(r->user, fd, entry->d_name)) {
				rc = add_mailbox(r, name);
				if (rc < 0)
					return rc;
			} else {
				struct mailbox_node *node = add_node(r, name);

				if (!node)
					return r->err ? r->err->code : -ENOMEM;
				node->exists = true;
			}
		}
		if (depth < DEPTH_MAX) {
			AUTO_CLOSE int child = openat(
				fd, entry->d_name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

			if (child < 0) {
				if (errno == ENOENT)
					continue;
				return error_errno(r->err, -errno, "user=%s: open(%s/%s)",
						   r->user->name, r->user->location.root, path);
			}
			rc = read_fs(r, child, path, depth + 1);
			if (rc < 0)
				return rc;
		}
	}
	return errno ? error_errno(r->err, -errno, "user=%s: readdir(%s/%s)", r->user->name,
				   r->user->location.root, storage)
		     : 0;
}

static int read_directories(struct reader *r)
{
	const struct mail_location *location = &r->user->location;
	int rc = 0;

	if (is_mailbox(r->user, AT_FDCWD, location->inbox))
		rc = add_mailbox(r, "INBOX");
	if (rc < 0)
		return rc;
	if (location->layout == MAIL_LAYOUT_MAILDIRPP)
		return read_maildirpp(r);
	{
		AUTO_FREE char *path = NULL;
		AUTO_CLOSE int root = -1;

		if (asprintf(&path, "%s/%s", location->root, mailbox_top_dir(location)) < 0) {
			path = NULL;
			return error_set(r->err, -ENOMEM, "user=%s: out of memory", r->user->name);
		}
		root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

		if (root < 0)
			return errno == ENOENT ? 0
					       : error_errno(r->err, -errno, "user=%s: open(%s)",
							     r->user->name, location->root);
		return read_fs(r, root, "", 1);
	}
}

static int node_cmp(const void *a, const void *b)
{
	return strcmp(((const struct mailbox_node *)a)->name,
		      ((const struct mailbox_node *)b)->name);
}

static void sort_nodes(struct mailbox_tree *tree)
{
	/* qsort of an empty array may not be given NULL */
	if (tree->node_count > 0)
		qsort(tree->nodes, tree->node_count, sizeof *tree->nodes, node_cmp);
}

static struct mailbox_node *find_node(const struct mailbox_tree *tree, size_t sorted_count,
				      const char *name)
{
	struct mailbox_node key = {.name = (char *)name};

	/* bsearch of an empty array may not be given NULL */
	return sorted_count ? bsearch(&key, tree->nodes, sorted_count, sizeof key, node_cmp) : NULL;
}

static int read_subscriptions(struct reader *r)
{
	struct subscriptions subs;
	size_t sorted = r->tree->node_count;
	int rc = subscriptions_read(r->user, &subs, r->err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; i < subs.count && rc == 0; i++) {
		struct mailbox_node *node = find_node(r->tree, sorted, subs.names[i]);

		if (!node)
			node = add_node(r, subs.names[i]);
		if (node)
			node->subscribed = true;
		else
			rc = r->err ? r->err->code : -ENOMEM;
	}
	subscriptions_free(&subs);
	sort_nodes(r->tree);
	return rc;
}

/* Nodes by name hash and by GUID, for the records of the mailbox log. */
struct node_key {
	struct guid id;
	struct mailbox_node *node;
};

static int key_cmp(const void *a, const void *b)
{
	return guid_cmp(&((const struct node_key *)a)->id, &((const struct node_key *)b)->id);
}

static struct mailbox_node *find_key(const struct node_key *keys, size_t count,
				     const struct guid *id)
{
	struct node_key key = {.id = *id};
	struct node_key *found = count ? bsearch(&key, keys, count, sizeof key, key_cmp) : NULL;

	return found ? found->node : NULL;
}

/* Records of one deletion again and again: the later time counts. */
static void add_deletion(struct mailbox_tree *tree, enum mailbox_deletion_kind kind,
			 const struct mailbox_log_record *record)
{
	struct mailbox_deletion *deletion;

	for (size_t i = tree->deletion_count; i-- > 0;) {
		deletion = &tree->deletions[i];
		if (deletion->kind == kind && guid_equal(&deletion->guid, &record->id)) {
			deletion->time = record->time;
			return;
		}
	}
	deletion = &tree->deletions[tree->deletion_count++];
	*deletion =
		(struct mailbox_deletion){.kind = kind, .guid = record->id, .time = record->time};
}

static void apply_record(struct mailbox_tree *tree, const struct mailbox_log_record *record,
			 struct mailbox_node *by_guid, struct mailbox_node *by_name)
{
	switch (record->type) {
	case MAILBOX_LOG_DELETE_MAILBOX:
		if (!by_guid)
			add_deletion(tree, DELETED_MAILBOX, record);
		break;
	case MAILBOX_LOG_DELETE_DIRECTORY:
		if (!by_name || !by_name->exists)
			add_deletion(tree, DELETED_DIRECTORY, record);
		break;
	case MAILBOX_LOG_RENAME:
	case MAILBOX_LOG_CREATE_DIRECTORY:
		if (by_name)
			by_name->last_renamed_or_created = record->time;
		break;
	case MAILBOX_LOG_SUBSCRIBE:
		if (by_name)
			by_name->last_subscription_change = record->time;
		break;
	case MAILBOX_LOG_UNSUBSCRIBE:
		if (by_name)
			by_name->last_subscription_change = record->time;
		else
			add_deletion(tree, DELETED_SUBSCRIPTION, record);
		break;
	}
}

static int read_log(struct reader *r)
{
	struct mailbox_tree *tree = r->tree;
	AUTO_FREE struct mailbox_log_record *records = NULL;
	AUTO_FREE struct node_key *guids = NULL;
	AUTO_FREE struct node_key *names = NULL;
	size_t record_count, guid_count = 0;
	int rc = mailbox_log_read(r->user, &records, &record_count, r->err);

	if (rc < 0 || record_count == 0)
		return rc;
	guids = calloc(tree->node_count + 1, sizeof *guids);
	names = calloc(tree->node_count + 1, sizeof *names);
	tree->deletions = calloc(record_count, sizeof *tree->deletions);
	if (!guids || !names || !tree->deletions)
		return error_set(r->err, -ENOMEM, "user=%s: out of memory", r->user->name);
	for (size_t i = 0; i < tree->node_count; i++) {
		struct mailbox_node *node = &tree->nodes[i];

		mailbox_name_hash(node->name, tree->separator, &names[i].id);
		names[i].node = node;
		if (!guid_is_empty(&node->guid))
			guids[guid_count++] = (struct node_key){node->guid, node};
	}
	qsort(names, tree->node_count, sizeof *names, key_cmp);
	qsort(guids, guid_count, sizeof *guids, key_cmp);
	for (size_t i = 0; i < record_count; i++)
		apply_record(tree, &records[i], find_key(guids, guid_count, &records[i].id),
			     find_key(names, tree->node_count, &records[i].id));
	return 0;
}

/* A copied directory brings its GUID: two mailboxes cannot have one. */
static int give_new_guid(struct reader *r, struct mailbox_node *node)
{
	struct mailbox *box = NULL;
	struct mailbox_txn *txn = NULL;
	struct guid guid;
	int rc = mailbox_open(r->user, node->name, &box, r->err);

	if (rc < 0)
		return rc;
	guid_generate(&guid);
	rc = mailbox_begin(box, &txn, r->err);
	if (rc == 0)
		rc = mailbox_set_guid(txn, &guid, true, r->err);
	if (rc == 0)
		rc = mailbox_commit(&txn, NULL, r->err);
	else
		mailbox_abort(&txn);
	mailbox_close(&box);
	if (rc == 0) {
		log_warning("two mailboxes had the same GUID, one has a new one now: user=%s "
			    "mailbox=%s",
			    r->user->name, node->name);
		node->guid = guid;
	}
	return rc;
}

static int separate_guids(struct reader *r)
{
	struct mailbox_tree *tree = r->tree;
	AUTO_FREE struct node_key *keys = calloc(tree->node_count + 1, sizeof *keys);
	size_t count = 0;
	int rc = 0;

	if (!keys)
		return error_set(r->err, -ENOMEM, "user=%s: out of memory", r->user->name);
	for (size_t i = 0; i < tree->node_count; i++) {
		if (!guid_is_empty(&tree->nodes[i].guid))
			keys[count++] = (struct node_key){tree->nodes[i].guid, &tree->nodes[i]};
	}
	qsort(keys, count, sizeof *keys, key_cmp);
	for (size_t i = 1; i < count && rc == 0; i++) {
		struct mailbox_node *a = keys[i - 1].node, *b = keys[i].node;

		if (!guid_equal(&keys[i - 1].id, &keys[i].id))
			continue;
		/* The smaller name gets the new one (dsync 4.1), so that all agree on which. */
		if (strcmp(a->name, b->name) <= 0) {
			rc = give_new_guid(r, a);
		} else {
			rc = give_new_guid(r, b);
			keys[i] = keys[i - 1];
		}
	}
	return rc;
}

static int read_once(struct reader *r)
{
	struct mailbox_tree *tree = r->tree;
	int rc;

	*tree = (struct mailbox_tree){.separator = r->user->separator};
	r->room = 0;
	r->incomplete = false;
	rc = read_directories(r);
	if (rc == 0) {
		sort_nodes(tree);
		rc = separate_guids(r);
	}
	if (rc == 0)
		rc = read_subscriptions(r);
	if (rc == 0)
		rc = read_log(r);
	if (rc < 0)
		mailbox_tree_free(tree);
	return rc;
}

int mailbox_list_read(const struct mail_user *user, struct mailbox_tree *tree_r, bool *incomplete_r,
		      struct error *err)
{
	struct error own;
	struct reader r = {.user = user, .tree = tree_r, .err = err ? err : &own};

	*incomplete_r = false;
	for (int i = 0; i < READ_TRIES; i++) {
		struct list_moment moment;
		int rc = list_moment_wait(user, &moment, r.err);

		if (rc == 0)
			rc = read_once(&r);
		if (rc < 0)
			return rc;
		if (list_moment_lasts(user, &moment)) {
			*incomplete_r = r.incomplete;
			return 0;
		}
		mailbox_tree_free(tree_r);
	}
	return error_set(r.err, -EAGAIN, "user=%s: the list of mailboxes changes all the time",
			 user->name);
}

static bool tree_knows(const struct mailbox_tree *tree, const struct guid *guid)
{
	for (size_t i = 0; i < tree->node_count; i++) {
		if (tree->nodes[i].exists && guid_equal(&tree->nodes[i].guid, guid))
			return true;
	}
	for (size_t i = 0; i < tree->deletion_count; i++) {
		if (tree->deletions[i].kind == DELETED_MAILBOX &&
		    guid_equal(&tree->deletions[i].guid, guid))
			return true;
	}
	return false;
}

/* Does a later record speak of it? What it says counts. */
static bool is_outdated(const struct mailbox_log_record *records, size_t at, size_t count)
{
	for (size_t i = at + 1; i < count; i++) {
		if (guid_equal(&records[i].id, &records[at].id))
			return true;
	}
	return false;
}

static int add_kept(struct mailbox_tree *tree, const struct mailbox_log_record *record)
{
	struct mailbox_deletion *bigger =
		realloc(tree->deletions, (tree->deletion_count + 1) * sizeof *bigger);

	if (!bigger)
		return -ENOMEM;
	tree->deletions = bigger;
	bigger[tree->deletion_count++] = (struct mailbox_deletion){
		.kind = DELETED_MAILBOX, .guid = record->id, .time = record->time, .kept = true};
	return 0;
}

int mailbox_list_add_kept(const struct mail_user *user, struct mailbox_tree *tree,
			  bool (*wanted)(void *ctx, const struct guid *guid), void *ctx,
			  struct error *err)
{
	struct mailbox_log_record *records;
	size_t count;
	int rc = mailbox_log_read_kept(user, &records, &count, err);

	if (rc < 0)
		return rc;
	for (size_t i = 0; rc == 0 && i < count; i++) {
		if (records[i].type == MAILBOX_LOG_DELETE_MAILBOX && wanted(ctx, &records[i].id) &&
		    !tree_knows(tree, &records[i].id) && !is_outdated(records, i, count))
			rc = add_kept(tree, &records[i]);
	}
	free(records);
	return rc < 0 ? error_errno(err, rc, "user=%s: deleted mailboxes", user->name) : 0;
}

void mailbox_tree_free(struct mailbox_tree *tree)
{
	if (!tree)
		return;
	for (size_t i = 0; i < tree->node_count; i++)
		free(tree->nodes[i].name);
	free(tree->nodes);
	free(tree->deletions);
	*tree = (struct mailbox_tree){.separator = tree->separator};
}
