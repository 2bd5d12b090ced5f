/*
 * The mailbox list beside a real Dovecot: what either of the two creates, renames, deletes and
 * subscribes, the other lists with the same GUID and UIDVALIDITY; in every layout.
 *
 * Usage: test_mailbox_list [all]      without all: half of the variants, in which each part of them
 * occurs
 *
 * Needs root (mail belongs to another uid) and Dovecot's doveadm; skipped elsewhere.
 */
#include "store/base/mounted.h"
#include "store/mailbox_list.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/index/index_txn.h"
#include "store/list_lock.h"
#include "store/mailbox_log.h"
#include "store/mailbox_name.h"
#include "store/subscriptions.h"
#include "store/uidvalidity.h"
#include "tests/maildir/dovecot_fixture.h"

/* What the tests are run with. */
struct variant {
	const char *location;
	char separator;
	bool only_all;
};

static const struct variant variants[] = {
	{"maildir:~/Maildir", '.', false},
	{"maildir:~/Maildir", '/', true},
	{"maildir:~/Maildir:UTF-8", '/', false},
	{"maildir:~/Maildir:LAYOUT=fs", '/', true},
	{"maildir:~/Maildir:INDEX=~/index:CONTROL=~/control:VOLATILEDIR=~/run/volatile", '/', true},
	{"maildir:~/Maildir:LAYOUT=fs:INDEX=~/index:CONTROL=~/control:VOLATILEDIR=~/run/volatile",
	 '/', false},
};

#define VARIANTS (sizeof variants / sizeof variants[0])

/* Names that look alike, in both alphabets and with both encodings' special characters. */
static const char *const names[] = {"Work",  "Work/2025", "Work/2025/Mai", "Work-1",
				    "Work1", "work",	  "Entwürfe",	   "日本語/ü & ö",
				    "A&B",   "A&-B",	  "Tom, Dick",	   "x/y/z",
				    "&AOQ-", "+a(b)*",	  "INBOX/sub",	   "sp ace/ ä"};

#define NAMES (sizeof names / sizeof names[0])

static int setup(void **state)
{
	const struct variant *variant = *state;
	struct fixture *fx;

	if (dovecot_setup(state) < 0)
		return -1;
	fx = *state;
	dovecot_set_location(fx, variant->location, variant->separator);
	return 0;
}

/* The store's own calls are made with the mail's uid, as the programs do. */
static void as_mail_user(void)
{
	assert_int_equal(setegid(MAIL_UID), 0);
	assert_int_equal(seteuid(MAIL_UID), 0);
}

static int as_root(int rc)
{
	assert_int_equal(seteuid(0), 0);
	assert_int_equal(setegid(0), 0);
	return rc;
}

static int try_create(struct fixture *fx, const char *name, const struct guid *guid,
		      uint32_t uid_validity)
{
	struct error err = {0};

	as_mail_user();
	return as_root(mailbox_list_create(&fx->user, name, guid, uid_validity, &err));
}

static void create(struct fixture *fx, const char *name)
{
	struct error err = {0};

	as_mail_user();
	must(as_root(mailbox_list_create(&fx->user, name, NULL, 0, &err)), &err);
}

static void delete_it(struct fixture *fx, const char *name, const struct guid *guid)
{
	struct error err = {0};

	as_mail_user();
	must(as_root(mailbox_list_delete(&fx->user, name, guid, &err)), &err);
}

static void rename_it(struct fixture *fx, const char *from, const char *to)
{
	struct error err = {0};

	as_mail_user();
	must(as_root(mailbox_list_rename(&fx->user, from, to, 0, &err)), &err);
}

static void subscribe(struct fixture *fx, const char *name, bool subscribed)
{
	struct error err = {0};

	as_mail_user();
	must(as_root(mailbox_list_subscribe(&fx->user, name, subscribed, &err)), &err);
}

static struct mailbox_tree read_tree(struct fixture *fx)
{
	struct mailbox_tree tree;
	struct error err = {0};
	bool incomplete = true;

	as_mail_user();
	must(as_root(mailbox_list_read(&fx->user, &tree, &incomplete, &err)), &err);
	assert_false(incomplete);
	for (size_t i = 1; i < tree.node_count; i++)
		assert_true(strcmp(tree.nodes[i - 1].name, tree.nodes[i].name) < 0);
	return tree;
}

static struct mailbox_node *node_of(struct mailbox_tree *tree, const char *name)
{
	for (size_t i = 0; i < tree->node_count; i++) {
		if (strcmp(tree->nodes[i].name, name) == 0)
			return &tree->nodes[i];
	}
	return NULL;
}

static struct guid guid_of(struct fixture *fx, const char *name)
{
	struct mailbox_tree tree = read_tree(fx);
	struct mailbox_node *node = node_of(&tree, name);
	struct guid guid;

	if (!node || !node->exists) {
		fail_msg("%s is not listed", name);
		abort();
	}
	guid = node->guid;
	mailbox_tree_free(&tree);
	return guid;
}

/* doveadm with one or two mailbox names, as users write them. */
static char *mailbox_command(struct fixture *fx, const char *command, const char *name,
			     const char *other)
{
	AUTO_FREE char *visible = mailbox_name_visible(name, fx->user.separator);
	AUTO_FREE char *second = other ? mailbox_name_visible(other, fx->user.separator) : NULL;
	char line[2048];

	snprintf(line, sizeof line, "mailbox %s '%s' %s%s%s", command, visible, second ? "'" : "",
		 second ? second : "", second ? "'" : "");
	return doveadm(fx, line);
}

static void dovecot_does(struct fixture *fx, const char *command, const char *name,
			 const char *other)
{
	free(mailbox_command(fx, command, name, other));
}

static int line_cmp(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

#define NO_MAILBOX "Failed to lookup mailbox status: Mailbox doesn't exist"

/* Sorted lines but for the header of doveadm -f tab. */
static char *sorted_lines(char *text)
{
	struct buf out = BUF_INIT(1 << 20);
	char *lines[256], *save = NULL;
	size_t count = 0;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "mailbox\t", 8) != 0 && !strstr(line, NO_MAILBOX) && count < 256)
			lines[count++] = line;
	}
	qsort(lines, count, sizeof *lines, line_cmp);
	for (size_t i = 0; i < count; i++)
		buf_printf(&out, "%s\n", lines[i]);
	return out.data ? out.data : strdup("");
}

enum view { MAILBOXES, SUBSCRIPTIONS };

/* A parent that is no mailbox makes doveadm say that it does not exist, and exit with 68. */
static char *dovecot_view(struct fixture *fx, enum view what)
{
	AUTO_FREE char *text =
		doveadm(fx, what == MAILBOXES ? "-f tab mailbox status 'uidvalidity guid' '*' 2>&1 "
						"|| test $? -eq 68"
					      : "mailbox list -s");

	return sorted_lines(text);
}

static char *own_view(struct fixture *fx, enum view what)
{
	AUTO_BUF struct buf out = BUF_INIT(1 << 20);
	struct mailbox_tree tree = read_tree(fx);
	char hex[GUID_HEX_SIZE];

	for (size_t i = 0; i < tree.node_count; i++) {
		const struct mailbox_node *node = &tree.nodes[i];
		AUTO_FREE char *visible = mailbox_name_visible(node->name, fx->user.separator);

		if (what == SUBSCRIPTIONS && node->subscribed)
			buf_printf(&out, "%s\n", visible);
		if (what == MAILBOXES && node->exists && !guid_is_empty(&node->guid))
			buf_printf(&out, "%s\t%u\t%s\n", visible, node->uid_validity,
				   guid_to_hex(&node->guid, hex));
	}
	mailbox_tree_free(&tree);
	return sorted_lines(out.data ? out.data : (char[]){""});
}

static void assert_same_view(struct fixture *fx)
{
	for (enum view what = MAILBOXES; what <= SUBSCRIPTIONS; what++) {
		AUTO_FREE char *theirs = dovecot_view(fx, what);
		AUTO_FREE char *ours = own_view(fx, what);

		assert_string_equal(ours, theirs);
	}
	assert_no_complaints(fx);
}

/* ---- create ---- */

static void dovecot_lists_what_we_create(void **state)
{
	struct fixture *fx = *state;
	struct guid guid;

	assert_same_view(fx);
	for (size_t i = 0; i < NAMES; i++)
		create(fx, names[i]);
	assert_same_view(fx);
	guid_generate(&guid);
	assert_int_equal(try_create(fx, "Given", &guid, 1700000123), 0);
	assert_int_equal(try_create(fx, "Given", &guid, 1700000123), -EEXIST);
	for (size_t i = 0; i < NAMES; i++)
		assert_int_equal(try_create(fx, names[i], NULL, 0), -EEXIST);
	{
		struct mailbox_tree tree = read_tree(fx);
		struct mailbox_node *node = node_of(&tree, "Given");

		assert_true(guid_equal(&node->guid, &guid));
		assert_int_equal(node->uid_validity, 1700000123);
		for (size_t i = 0; i < NAMES; i++)
			assert_true(node_of(&tree, names[i])->exists);
		mailbox_tree_free(&tree);
	}
	assert_same_view(fx);
}

static void we_list_what_dovecot_creates(void **state)
{
	struct fixture *fx = *state;

	for (size_t i = 0; i < NAMES; i++)
		dovecot_does(fx, "create", names[i], NULL);
	{
		struct mailbox_tree tree = read_tree(fx);

		for (size_t i = 0; i < NAMES; i++) {
			if (!node_of(&tree, names[i]))
				fail_msg("%s is not listed", names[i]);
		}
		mailbox_tree_free(&tree);
	}
	assert_same_view(fx);
}

static void uidvalidities_are_never_given_twice(void **state)
{
	struct fixture *fx = *state;
	uint32_t last = 0;
	static const char *const order[] = {"a", "b", "c", "d", "e", "f"};

	assert_int_equal(try_create(fx, "high", NULL, 2100000000), 0);
	for (size_t i = 0; i < 6; i++) {
		struct mailbox_tree tree;
		struct mailbox_node *node;

		if (i % 2)
			create(fx, order[i]);
		else
			dovecot_does(fx, "create", order[i], NULL);
		tree = read_tree(fx);
		node = node_of(&tree, order[i]);
		assert_non_null(node);
		assert_true(node->uid_validity > 2100000000 && node->uid_validity > last);
		last = node->uid_validity;
		mailbox_tree_free(&tree);
	}
	assert_same_view(fx);
}

/* ---- rename ---- */

static void make_family(struct fixture *fx)
{
	static const char *const family[] = {"Old",  "Old/ü", "Old/ü/x", "Old-1",
					     "Old1", "old",   "Older/a", "Plan"};

	for (size_t i = 0; i < sizeof family / sizeof *family; i++)
		create(fx, family[i]);
}

static void check_rename(struct fixture *fx, bool by_dovecot)
{
	struct guid parent, child, grandchild, similar;
	struct mailbox_tree tree;
	int64_t before = time(NULL);

	make_family(fx);
	parent = guid_of(fx, "Old");
	child = guid_of(fx, "Old/ü");
	grandchild = guid_of(fx, "Old/ü/x");
	similar = guid_of(fx, "Old-1");
	assert_same_view(fx);
	if (by_dovecot)
		dovecot_does(fx, "rename", "Old", "Plan/Neü");
	else
		rename_it(fx, "Old", "Plan/Neü");
	tree = read_tree(fx);
	assert_true(guid_equal(&node_of(&tree, "Plan/Neü")->guid, &parent));
	assert_true(guid_equal(&node_of(&tree, "Plan/Neü/ü")->guid, &child));
	assert_true(guid_equal(&node_of(&tree, "Plan/Neü/ü/x")->guid, &grandchild));
	assert_true(guid_equal(&node_of(&tree, "Old-1")->guid, &similar));
	assert_non_null(node_of(&tree, "Older/a"));
	assert_non_null(node_of(&tree, "Old1"));
	assert_null(node_of(&tree, "Old"));
	assert_null(node_of(&tree, "Old/ü"));
	assert_true(node_of(&tree, "Plan/Neü")->last_renamed_or_created >= before);
	assert_int_equal(tree.deletion_count, 0);
	mailbox_tree_free(&tree);
	assert_same_view(fx);
	/* And back by the other one. */
	if (by_dovecot)
		rename_it(fx, "Plan/Neü", "Old");
	else
		dovecot_does(fx, "rename", "Plan/Neü", "Old");
	parent = guid_of(fx, "Old/ü/x");
	assert_true(guid_equal(&parent, &grandchild));
	assert_same_view(fx);
}

static void dovecot_lists_what_we_rename(void **state)
{
	check_rename(*state, false);
}

static void we_list_what_dovecot_renames(void **state)
{
	check_rename(*state, true);
}

/* A program in the middle of a change: it holds the lock for a while, and runs the command before
 * it gives it up. Exits 1 if the directory gets another name meanwhile. */
static pid_t change_meanwhile(const char *control, const char *command)
{
	char lock[600], host[256], text[300];
	int ready[2];
	pid_t pid;

	snprintf(lock, sizeof lock, "%s/dovecot-uidlist.lock", control);
	assert_int_equal(gethostname(host, sizeof host), 0);
	assert_int_equal(pipe(ready), 0);
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		int fd = open(lock, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600), moved;

		snprintf(text, sizeof text, "%d:%s", (int)getpid(), host);
		if (fd < 0 || write(fd, text, strlen(text)) < 0 || write(ready[1], "", 1) != 1)
			_exit(2);
		usleep(300000);
		moved = access(lock, F_OK) < 0;
		if (system(command) != 0) // NOLINT(cert-env33-c)
			_exit(3);
		unlink(lock);
		_exit(moved);
	}
	assert_int_equal(read(ready[0], text, 1), 1);
	close(ready[0]);
	close(ready[1]);
	return pid;
}

static void a_rename_waits_for_a_change(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_paths before, after;
	char lock[600];
	struct error err = {0};
	int status;
	pid_t pid;

	must(as_root(mailbox_list_create(&fx->user, "Old", NULL, 0, &err)), &err);
	assert_int_equal(mailbox_paths_get(&fx->user.location, "Old", &before), 0);
	assert_int_equal(mailbox_paths_get(&fx->user.location, "New", &after), 0);
	pid = change_meanwhile(before.control, "true");
	rename_it(fx, "Old", "New");
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(access(before.control, F_OK), -1);
	snprintf(lock, sizeof lock, "%s/dovecot-uidlist.lock", after.control);
	assert_int_equal(access(after.control, F_OK), 0);
	assert_int_equal(access(lock, F_OK), -1);
	mailbox_paths_free(&before);
	mailbox_paths_free(&after);
}

static void a_rename_replaces_nothing(void **state)
{
	struct fixture *fx = *state;
	struct error err = {0};
	AUTO_FREE char *before = NULL;
	AUTO_FREE char *after = NULL;
	static const char *const pairs[][2] = {
		{"Old", "Plan"},  {"Old", "Old/ü/y"}, {"Old", "INBOX"},
		{"INBOX", "New"}, {"None", "New"},    {"Old", "Old"},
	};

	make_family(fx);
	create(fx, "Plan/ü");
	before = own_view(fx, MAILBOXES);
	for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
		as_mail_user();
		if (as_root(mailbox_list_rename(&fx->user, pairs[i][0], pairs[i][1], 0, &err)) >= 0)
			fail_msg("%s became %s", pairs[i][0], pairs[i][1]);
	}
	after = own_view(fx, MAILBOXES);
	assert_string_equal(before, after);
	assert_same_view(fx);
}

/* ---- delete ---- */

static bool was_deleted(const struct mailbox_tree *tree, enum mailbox_deletion_kind kind,
			const struct guid *guid, int64_t since)
{
	for (size_t i = 0; i < tree->deletion_count; i++) {
		if (tree->deletions[i].kind == kind && guid_equal(&tree->deletions[i].guid, guid) &&
		    tree->deletions[i].time >= since && tree->deletions[i].time <= time(NULL))
			return true;
	}
	return false;
}

static void check_delete(struct fixture *fx, bool by_dovecot)
{
	struct guid leaf, parent, other, hash;
	struct error err = {0};
	struct mailbox_tree tree;
	int64_t before = time(NULL);

	make_family(fx);
	leaf = guid_of(fx, "Plan");
	parent = guid_of(fx, "Old");
	other = guid_of(fx, "Old-1");
	assert_same_view(fx);
	as_mail_user();
	assert_int_equal(as_root(mailbox_list_delete(&fx->user, "Plan", &other, &err)), -ESTALE);
	if (by_dovecot) {
		dovecot_does(fx, "delete", "Plan", NULL);
		dovecot_does(fx, "delete", "Old", NULL);
	} else {
		delete_it(fx, "Plan", &leaf);
		delete_it(fx, "Old", &parent);
	}
	tree = read_tree(fx);
	assert_null(node_of(&tree, "Plan"));
	assert_true(!node_of(&tree, "Old") || guid_is_empty(&node_of(&tree, "Old")->guid));
	assert_non_null(node_of(&tree, "Old/ü"));
	assert_non_null(node_of(&tree, "Old-1"));
	assert_non_null(node_of(&tree, "Old1"));
	assert_true(was_deleted(&tree, DELETED_MAILBOX, &leaf, before));
	assert_true(was_deleted(&tree, DELETED_MAILBOX, &parent, before));
	mailbox_name_hash("Plan", fx->user.separator, &hash);
	assert_true(was_deleted(&tree, DELETED_DIRECTORY, &hash, before));
	mailbox_tree_free(&tree);
	assert_false(path_exists("%s/..DOVECOT-TRASHED", fx->maildir));
	assert_false(path_exists("%s/..DOVECOT-TrasH", fx->maildir));
	assert_same_view(fx);
	/* The name is free again, for another mailbox. */
	if (by_dovecot)
		create(fx, "Plan");
	else
		dovecot_does(fx, "create", "Plan", NULL);
	other = guid_of(fx, "Plan");
	assert_false(guid_equal(&other, &leaf));
	create(fx, "Old");
	assert_same_view(fx);
}

static void dovecot_lists_what_we_delete(void **state)
{
	check_delete(*state, false);
}

static void we_list_what_dovecot_deletes(void **state)
{
	check_delete(*state, true);
}

static void inbox_is_not_deleted(void **state)
{
	struct fixture *fx = *state;
	struct error err = {0};
	struct guid guid = guid_of(fx, "INBOX");

	as_mail_user();
	assert_int_equal(as_root(mailbox_list_delete(&fx->user, "INBOX", &guid, &err)), -EPERM);
	assert_same_view(fx);
}

/* ---- subscriptions and the log ---- */

static void both_subscribe(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_tree tree;
	int64_t before = time(NULL);
	struct guid hash;

	create(fx, "Work/ü & ö");
	subscribe(fx, "Work/ü & ö", true);
	subscribe(fx, "INBOX", true);
	/* Need not exist. */
	subscribe(fx, "None/at all", true);
	assert_same_view(fx);
	dovecot_does(fx, "subscribe", "Entwürfe/日本語", NULL);
	dovecot_does(fx, "unsubscribe", "None/at all", NULL);
	assert_same_view(fx);
	subscribe(fx, "Entwürfe/日本語", false);
	dovecot_does(fx, "unsubscribe", "Work/ü & ö", NULL);
	assert_same_view(fx);
	tree = read_tree(fx);
	assert_true(node_of(&tree, "INBOX")->subscribed);
	assert_true(node_of(&tree, "INBOX")->last_subscription_change >= before);
	assert_false(node_of(&tree, "Work/ü & ö")->subscribed);
	assert_true(node_of(&tree, "Work/ü & ö")->last_subscription_change >= before);
	mailbox_name_hash("None/at all", fx->user.separator, &hash);
	assert_true(was_deleted(&tree, DELETED_SUBSCRIPTION, &hash, before));
	mailbox_name_hash("Entwürfe/日本語", fx->user.separator, &hash);
	assert_true(was_deleted(&tree, DELETED_SUBSCRIPTION, &hash, before));
	mailbox_tree_free(&tree);
}

/* Written by Dovecot 1; its lines stay as they are, and so does the version. */
static void the_old_subscriptions_file_stays_one(void **state)
{
	struct fixture *fx = *state;
	AUTO_FREE char *text = NULL;
	char path[1024];
	const char sep = fx->user.location.layout == MAIL_LAYOUT_FS ? '/' : '.';

	must_shell("mkdir -p '%s' && printf 'Work%cSub\\nINBOX\\n' > '%s/subscriptions' && "
		   "chown -R %d '%s'",
		   fx->user.location.control, sep, fx->user.location.control, MAIL_UID,
		   fx->user.location.control);
	assert_same_view(fx);
	subscribe(fx, "Other/x", true);
	snprintf(path, sizeof path, "%s/subscriptions", fx->user.location.control);
	text = read_file(path);
	snprintf(path, sizeof path, "Work%cSub\nINBOX\nOther%cx\n", sep, sep);
	assert_string_equal(text, path);
	assert_same_view(fx);
	dovecot_does(fx, "unsubscribe", "Work/Sub", NULL);
	assert_same_view(fx);
}

/* The words of doveadm's dump of the log, from the record at offset on: "type id type id ...". */
static char *dump_log(struct fixture *fx, size_t offset)
{
	AUTO_BUF struct buf out = BUF_INIT(65536);
	AUTO_FREE char *text = NULL;
	char command[1024], *save = NULL;

	snprintf(command, sizeof command, "dump -t mailboxlog '%s/dovecot.mailbox.log'",
		 fx->user.location.index);
	text = doveadm(fx, command);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char type[64], id[64];
		size_t at;

		if (sscanf(line, "#%zu: %63s %63s", &at, type, id) == 3 && at >= offset)
			buf_printf(&out, "%s %s\n", type, id);
	}
	return out.data ? strdup(out.data) : strdup("");
}

/* The same things done by both, one after the other, leave the same records; only the GUID of the
 * deleted mailbox is another. */
static void the_log_is_as_dovecot_writes_it(void **state)
{
	struct fixture *fx = *state;
	AUTO_FREE char *theirs = NULL;
	AUTO_FREE char *ours = NULL;
	char their_guid[GUID_HEX_SIZE], our_guid[GUID_HEX_SIZE], *at;
	struct mailbox_log_record *records;
	struct error err = {0};
	struct guid guid;
	size_t count, size;

	dovecot_does(fx, "create", "Wörk", NULL);
	dovecot_does(fx, "subscribe", "Wörk", NULL);
	dovecot_does(fx, "unsubscribe", "Wörk", NULL);
	dovecot_does(fx, "rename", "Wörk", "Done/x");
	guid = guid_of(fx, "Done/x");
	guid_to_hex(&guid, their_guid);
	dovecot_does(fx, "delete", "Done/x", NULL);
	theirs = dump_log(fx, 0);
	must(mailbox_log_read(&fx->user, &records, &size, &err), &err);
	free(records);

	create(fx, "Wörk");
	subscribe(fx, "Wörk", true);
	subscribe(fx, "Wörk", false);
	rename_it(fx, "Wörk", "Done/x");
	guid = guid_of(fx, "Done/x");
	guid_to_hex(&guid, our_guid);
	delete_it(fx, "Done/x", &guid);
	ours = dump_log(fx, size * 24);
	must(mailbox_log_read(&fx->user, &records, &count, &err), &err);
	for (size_t i = 0; i < count; i++)
		assert_true(records[i].time <= time(NULL) && records[i].time > time(NULL) - 300);
	free(records);

	at = strstr(ours, our_guid);
	assert_non_null(at);
	memcpy(at, their_guid, GUID_HEX_LEN);
	assert_string_equal(ours, theirs);
	assert_same_view(fx);
}

static void the_log_is_rotated_and_read_whole(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_log_record *records;
	struct error err = {0};
	size_t count;

	for (int i = 0; i < 100; i++)
		subscribe(fx, "Work", i % 2 == 0);
	dovecot_does(fx, "subscribe", "Work", NULL);
	for (int i = 0; i < 100; i++)
		subscribe(fx, "Work", i % 2 == 1);
	assert_true(path_exists("%s/dovecot.mailbox.log.2", fx->user.location.index));
	must(mailbox_log_read(&fx->user, &records, &count, &err), &err);
	assert_int_equal(count, 201);
	assert_int_equal(records[100].type, MAILBOX_LOG_SUBSCRIBE);
	assert_int_equal(records[101].type, MAILBOX_LOG_UNSUBSCRIBE);
	free(records);
	assert_same_view(fx);
}

/* ---- what must not be ---- */

static void hostile_names_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"/",
		"/etc",
		"../x",
		"a/../../x",
		"..",
		".",
		"a//b",
		"a/",
		"~root",
		"a\nb",
		"b\x7f",
		"\xff\xfe",
		"a/./b",
		"inbox",
		"Inbox/x",
		"..DOVECOT-TRASHED/x/..",
		"\xc0\xaf/etc",
		"\xed\xa0\x80",
	};
	struct fixture *fx = *state;
	AUTO_FREE char *before = NULL;
	AUTO_FREE char *after = NULL;
	struct guid guid;

	create(fx, "Work");
	guid = guid_of(fx, "Work");
	before = shell_output("find '%s' ! -name 'dovecot.log' | sort", fx->root);
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		struct error err = {0};
		int rc[4];

		as_mail_user();
		rc[0] = mailbox_list_create(&fx->user, bad[i], NULL, 0, &err);
		rc[1] = mailbox_list_rename(&fx->user, "Work", bad[i], 0, &err);
		rc[2] = mailbox_list_subscribe(&fx->user, bad[i], true, &err);
		rc[3] = mailbox_list_delete(&fx->user, bad[i], &guid, &err);
		as_root(0);
		for (int j = 0; j < 4; j++) {
			if (rc[j] != -EINVAL)
				fail_msg("name %zu: call %d returned %d", i, j, rc[j]);
		}
	}
	after = shell_output("find '%s' ! -name 'dovecot.log' | sort", fx->root);
	assert_string_equal(before, after);
	assert_same_view(fx);
}

/* Directories that no client can have made, and links out of the store, are nobody's mailboxes. */
static void hostile_directories_are_not_listed(void **state)
{
	static const char *const maildirpp[] = {".&",	 ".&AGE-",	     ".a..b", "..x",
						"...",	 ".inbox",	     ".a/",   "x",
						".&ANw", "..DOVECOT-TRASHED"};
	static const char *const fs[] = {
		"&", "&AGE-", "inbox", "~x", "a/..DOVECOT-TrasH", "&ANw", "..DOVECOT-TrasH"};
	struct fixture *fx = *state;
	bool layout_fs = fx->user.location.layout == MAIL_LAYOUT_FS;
	const char *const *list = layout_fs ? fs : maildirpp;
	size_t count = layout_fs ? sizeof fs / sizeof *fs : sizeof maildirpp / sizeof *maildirpp;
	struct mailbox_tree tree;

	create(fx, "Work");
	for (size_t i = 0; i < count; i++)
		must_shell("mkdir -p '%s/%s/cur' && chown -R %d '%s'", fx->maildir, list[i],
			   MAIL_UID, fx->maildir);
	must_shell("mkdir -p '%s/out/cur' && ln -s '%s/out' '%s/%sLink'", fx->root, fx->root,
		   fx->maildir, layout_fs ? "" : ".");
	tree = read_tree(fx);
	for (size_t i = 0; i < tree.node_count; i++) {
		if (!mailbox_name_is_valid(&fx->user.location, tree.nodes[i].name))
			fail_msg("%s is listed", tree.nodes[i].name);
	}
	assert_null(node_of(&tree, "Link"));
	assert_null(node_of(&tree, "inbox"));
	assert_non_null(node_of(&tree, "Work"));
	mailbox_tree_free(&tree);
	assert_false(path_exists("%s/out/dovecot-uidlist", fx->root));
}

/* Nothing there: no root, no index, no control directory. */
static void an_empty_account(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_tree tree;

	must_shell("rm -r '%s'", fx->maildir);
	tree = read_tree(fx);
	assert_int_equal(tree.node_count, 0);
	assert_int_equal(tree.deletion_count, 0);
	mailbox_tree_free(&tree);
	assert_false(path_exists("%s", fx->maildir));
	subscribe(fx, "Work/ü", true);
	create(fx, "Work/ü");
	create(fx, "INBOX");
	assert_int_equal(try_create(fx, "INBOX", NULL, 0), -EEXIST);
	assert_same_view(fx);
	tree = read_tree(fx);
	assert_true(node_of(&tree, "INBOX")->exists);
	assert_true(node_of(&tree, "Work/ü")->exists);
	mailbox_tree_free(&tree);
}

static void mark_deleted(const char *directory)
{
	const struct index_options options = {.name = INDEX_NAME_MAIL, .label = "Work"};
	AUTO_CLOSE int fd = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct index_txn *txn;
	struct index *index;
	struct error err = {0};

	must(index_open(fd, &options, &index, &err), &err);
	must(index_begin(index, 1000, &txn, &err), &err);
	must(index_set_deleted(txn, &err), &err);
	must(index_commit(&txn, false, &err), &err);
	index_close(&index);
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static int open_lock_file(const struct fixture *fx)
{
	const struct mail_location *location = &fx->user.location;
	char path[500];
	int fd;

	snprintf(path, sizeof path, "%s/mailboxes.lock%s",
		 location->volatile_dir ? location->volatile_dir : location->index,
		 location->volatile_suffix);
	fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	return fd;
}

/* Marked and not renamed: who was at it died. The mailbox is one again, for Dovecot as well. */
static void a_deletion_that_was_broken_off(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_paths paths;
	struct mailbox_txn *change;
	struct mailbox *box;
	struct error err = {0};
	int lock = -1;

	create(fx, "Work");
	assert_int_equal(mailbox_paths_get(&fx->user.location, "Work", &paths), 0);
	mark_deleted(paths.index);
	as_mail_user();
	must(mailbox_open(&fx->user, "Work", &box, &err), &err);
	/* Not while somebody may be at it. */
	assert_int_equal(mailbox_begin(box, &change, &err), -ESTALE);
	must(mailbox_refresh(box, &err), &err);
	assert_int_equal(mailbox_begin(box, &change, &err), -ESTALE);
	must_shell("touch -d '1 minute ago' '%s/dovecot.index.log'", paths.index);
	must(list_lock(&fx->user, &lock, &err), &err);
	must(mailbox_refresh(box, &err), &err);
	assert_int_equal(mailbox_begin(box, &change, &err), -ESTALE);
	list_unlock(&fx->user, &lock);
	/* The dead one has left its lock's file. */
	close(open_lock_file(fx));
	must(mailbox_refresh(box, &err), &err);
	must(mailbox_begin(box, &change, &err), &err);
	mailbox_abort(&change);
	/* At once where whoever was at it has lost his mount. */
	mark_deleted(paths.index);
	usleep(20000);
	mounted_set(now_ms());
	must(mailbox_refresh(box, &err), &err);
	must(mailbox_begin(box, &change, &err), &err);
	mailbox_abort(&change);
	mounted_set(0);
	mailbox_close(&box);
	as_root(0);
	mailbox_paths_free(&paths);
	assert_same_view(fx);
	free(doveadm(fx, "-f tab mailbox status messages Work"));
}

static void expect_readable_and_no_more(struct fixture *fx)
{
	struct mailbox_txn *change;
	struct mailbox *box;
	struct error err = {0};

	as_mail_user();
	must(mailbox_open(&fx->user, "Work", &box, &err), &err);
	must(mailbox_refresh(box, &err), &err);
	assert_true(mailbox_begin(box, &change, &err) < 0);
	mailbox_close(&box);
	as_root(0);
}

static void expect_writable(struct fixture *fx)
{
	struct mailbox_txn *change;
	struct mailbox *box;
	struct error err = {0};

	as_mail_user();
	must(mailbox_open(&fx->user, "Work", &box, &err), &err);
	must(mailbox_begin(box, &change, &err), &err);
	mailbox_abort(&change);
	mailbox_close(&box);
	as_root(0);
}

/* The lock of the list cannot be made, or the log not be written: the mailbox can be read. */
static void a_deletion_that_cannot_be_taken_back_yet(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_paths paths;

	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("dsyncfs-test", fx->home, "tmpfs", MS_NOSUID | MS_NODEV,
		  "size=4m,nr_inodes=500") < 0)
		skip();
	must_shell("mkdir '%s' && chown -R %d:%d '%s'", fx->maildir, MAIL_UID, MAIL_UID, fx->home);
	create(fx, "Work");
	expect_writable(fx);
	assert_int_equal(mailbox_paths_get(&fx->user.location, "Work", &paths), 0);
	mark_deleted(paths.index);
	must_shell("touch -d '1 minute ago' '%s/dovecot.index.log'", paths.index);
	must_shell("cd '%s' && mkdir fill && i=0 && while true >fill/$((i += 1)); do :; done "
		   "2>/dev/null; rm -f '%s'/mailboxes.lock*",
		   fx->home,
		   fx->user.location.volatile_dir ? fx->user.location.volatile_dir
						  : fx->user.location.index);
	expect_readable_and_no_more(fx);
	must_shell("rm -r '%s/fill' && chmod 0400 '%s/dovecot.index.log'", fx->home, paths.index);
	expect_readable_and_no_more(fx);
	must_shell("chmod 0600 '%s/dovecot.index.log'", paths.index);
	expect_writable(fx);
	mailbox_paths_free(&paths);
	assert_int_equal(umount(fx->home), 0);
}

/* INBOX is what its first user makes it, also while we are about to. */
static void an_inbox_that_is_being_made(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_paths paths;
	struct guid guid;
	char command[2000], hex[GUID_HEX_SIZE];
	int status;
	pid_t pid;

	must_shell("rm -r '%s'", fx->maildir);
	create(fx, "Work");
	guid_generate(&guid);
	assert_int_equal(mailbox_paths_get(&fx->user.location, "INBOX", &paths), 0);
	snprintf(command, sizeof command,
		 "mkdir -p '%s/cur' '%s/new' '%s/tmp' && echo '3 V77 N1 G%s' >'%s/dovecot-uidlist' "
		 "&& "
		 "chown -R %d:%d '%s'",
		 paths.mail, paths.mail, paths.mail, guid_to_hex(&guid, hex), paths.control,
		 MAIL_UID, MAIL_UID, fx->home);
	must_shell("mkdir -p '%s' && chown -R %d:%d '%s'", paths.control, MAIL_UID, MAIL_UID,
		   fx->home);
	pid = change_meanwhile(paths.control, command);
	assert_int_equal(try_create(fx, "INBOX", NULL, 0), -EEXIST);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	must_shell("grep -q '^3 V77 N1 G%s$' '%s/dovecot-uidlist'", hex, paths.control);
	mailbox_paths_free(&paths);
	assert_same_view(fx);
}

/* What whoever was making it has left does not keep us waiting. */
static void an_inbox_whose_maker_died(void **state)
{
	struct fixture *fx = *state;
	struct mailbox_paths paths;
	time_t began;

	must_shell("rm -r '%s'", fx->maildir);
	create(fx, "Work");
	assert_int_equal(mailbox_paths_get(&fx->user.location, "INBOX", &paths), 0);
	must_shell(
		"mkdir -p '%s' '%s' && sleep 0 & dead=$! && wait && "
		"echo -n \"$dead:$(hostname)\" >'%s/dovecot-uidlist.lock' && "
		"echo begun >'%s/dovecot.index.log.newlock' && "
		"touch -d '10 seconds ago' '%s/dovecot.index.log.newlock' && chown -R %d:%d '%s'",
		paths.control, paths.index, paths.control, paths.index, paths.index, MAIL_UID,
		MAIL_UID, fx->home);
	began = time(NULL);
	create(fx, "INBOX");
	assert_true(time(NULL) - began < 8);
	mailbox_paths_free(&paths);
	assert_same_view(fx);
}

/* Dovecot waits for us. */
static void the_lock_excludes_dovecot(void **state)
{
	struct fixture *fx = *state;
	struct error err = {0};
	int lock = -1;

	create(fx, "Old");
	as_mail_user();
	must(list_lock(&fx->user, &lock, &err), &err);
	as_root(0);
	must_shell("(cd '%s' && setpriv --reuid=%d --regid=%d --clear-groups env HOME='%s' "
		   "USER=alice '%s/doveadm' mailbox rename Old New; "
		   "touch '%s/done') > '%s/run/out' 2>&1 &",
		   fx->home, MAIL_UID, MAIL_UID, fx->home, fx->root, fx->root, fx->root);
	usleep(300000);
	assert_false(path_exists("%s/done", fx->root));
	as_mail_user();
	list_unlock(&fx->user, &lock);
	as_root(0);
	for (int i = 0; i < 200 && !path_exists("%s/done", fx->root); i++)
		usleep(50000);
	assert_true(path_exists("%s/done", fx->root));
	guid_of(fx, "New");
	assert_same_view(fx);
}

struct test_case {
	const char *name;
	CMUnitTestFunction run;
};

/* clang-format 14 and 19 differ about braces in macros. */
// clang-format off
#define CASE(name) {#name, name}
// clang-format on

int main(int argc, char **argv)
{
	static const struct test_case cases[] = {
		CASE(dovecot_lists_what_we_create),
		CASE(we_list_what_dovecot_creates),
		CASE(uidvalidities_are_never_given_twice),
		CASE(dovecot_lists_what_we_rename),
		CASE(we_list_what_dovecot_renames),
		CASE(a_rename_waits_for_a_change),
		CASE(a_rename_replaces_nothing),
		CASE(dovecot_lists_what_we_delete),
		CASE(we_list_what_dovecot_deletes),
		CASE(inbox_is_not_deleted),
		CASE(both_subscribe),
		CASE(the_old_subscriptions_file_stays_one),
		CASE(the_log_is_as_dovecot_writes_it),
		CASE(the_log_is_rotated_and_read_whole),
		CASE(hostile_names_are_refused),
		CASE(hostile_directories_are_not_listed),
		CASE(an_empty_account),
		CASE(an_inbox_that_is_being_made),
		CASE(an_inbox_whose_maker_died),
		CASE(a_deletion_that_was_broken_off),
		CASE(a_deletion_that_cannot_be_taken_back_yet),
		CASE(the_lock_excludes_dovecot),
	};
	int failures = 0;

	if (!dovecot_is_there()) {
		print_message("no root or no Dovecot here: skipped\n");
		return 77;
	}
	for (size_t i = 0; i < VARIANTS; i++) {
		struct CMUnitTest tests[sizeof cases / sizeof cases[0]];
		char group[128];

		if (variants[i].only_all && (argc < 2 || strcmp(argv[1], "all") != 0))
			continue;
		for (size_t j = 0; j < sizeof cases / sizeof cases[0]; j++)
			tests[j] = (struct CMUnitTest){.name = cases[j].name,
						       .test_func = cases[j].run,
						       .setup_func = setup,
						       .teardown_func = fixture_teardown,
						       .initial_state = (void *)&variants[i]};
		snprintf(group, sizeof group, "%s separator=%c", variants[i].location,
			 variants[i].separator);
		print_message("%s\n", group);
		failures += cmocka_run_group_tests_name(group, tests, NULL, NULL);
	}
	return failures > 0;
}
