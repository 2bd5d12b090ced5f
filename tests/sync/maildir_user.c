/* See maildir_user.h. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include "store/base/digest.h"
#include "store/base/file.h"
#include "store/mailbox_list.h"
#include "tests/sync/maildir_user.h"

static void must(int ret, const struct error *err, const char *what)
{
	if (ret >= 0)
		return;
	fprintf(stderr, "%s: %d %s\n", what, ret, err->text);
	abort();
}

void maildir_user_init(struct mail_user *user, const char *home)
{
	char path[1024];
	struct stat st;

	if (home == NULL || (mkdir(home, 0700) < 0 && errno != EEXIST) || stat(home, &st) < 0)
		abort();
	snprintf(path, sizeof(path), "%s/Maildir", home);
	*user = (struct mail_user){
		.name = strdup("alice"),
		.home = strdup(home),
		.home_rel = strdup(""),
		.uid = st.st_uid,
		.gid = st.st_gid,
		.location = {.driver = MAIL_DRIVER_MAILDIR,
			     .layout = MAIL_LAYOUT_MAILDIRPP,
			     .root = strdup(path),
			     .index = strdup(path),
			     .control = strdup(path),
			     .inbox = strdup(path)},
		.separator = '/',
	};
	static const char *const subdirs[] = {"", "/cur", "/new", "/tmp"};
	for (size_t i = 0; i < 4; i++) {
		char dir[1100];
		snprintf(dir, sizeof(dir), "%s%s", path, subdirs[i]);
		(void)mkdir(dir, 0700);
	}
}

void maildir_user_remove_root(const char *path)
{
	const char *slash = strrchr(path, '/');
	char parent[1024];

	if (slash == NULL)
		abort();
	snprintf(parent, sizeof(parent), "%.*s", (int)(slash - path), path);
	AUTO_CLOSE int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || file_remove_tree(fd, slash + 1) < 0)
		fprintf(stderr, "%s is left behind\n", path);
}

void maildir_user_free(struct mail_user *user)
{
	free(user->name);
	free(user->home);
	free(user->home_rel);
	free(user->location.root);
	free(user->location.index);
	free(user->location.control);
	free(user->location.inbox);
}

static void open_and_begin(const struct mail_user *user, const char *name, struct mailbox **box_r,
			   struct mailbox_txn **txn_r)
{
	struct error err = {0};

	must(mailbox_open(user, name, box_r, &err), &err, "open");
	must(mailbox_begin(*box_r, txn_r, &err), &err, "begin");
}

static void commit_and_close(struct mailbox **box, struct mailbox_txn **txn)
{
	struct error err = {0};

	must(mailbox_commit(txn, NULL, &err), &err, "commit");
	mailbox_close(box);
}

void maildir_user_deliver(const struct mail_user *user, const char *mailbox, const char *guid,
			  const char *body)
{
	struct mailbox *box;
	struct mailbox_txn *txn;
	struct mail_spool *spool;
	struct error err = {0};

	must(mailbox_open(user, mailbox, &box, &err), &err, "open");
	must(mailbox_spool_open(box, guid, 1700000000, &spool, &err), &err, "spool");
	must(mailbox_spool_write(spool, body, strlen(body), &err), &err, "spool");
	must(mailbox_begin(box, &txn, &err), &err, "begin");
	struct mail mail = {.uid = mailbox_status(box)->uid_next, .guid = guid};
	must(mailbox_append(txn, &spool, &mail, 0, (struct mail_pop3){0}, &err), &err, "append");
	commit_and_close(&box, &txn);
}

void maildir_user_flags(const struct mail_user *user, const char *mailbox, uint32_t uid,
			uint8_t flags, const char *keyword)
{
	struct mailbox *box;
	struct mailbox_txn *txn;
	struct error err = {0};
	struct keyword_set keywords = {.names = &keyword, .count = keyword != NULL ? 1 : 0};

	open_and_begin(user, mailbox, &box, &txn);
	must(mailbox_set_flags(txn, uid, flags, keywords, 0, &err), &err, "flags");
	commit_and_close(&box, &txn);
}

void maildir_user_expunge(const struct mail_user *user, const char *mailbox, uint32_t uid)
{
	struct mailbox *box;
	struct mailbox_txn *txn;
	struct error err = {0};

	open_and_begin(user, mailbox, &box, &txn);
	must(mailbox_expunge(txn, uid, &err), &err, "expunge");
	commit_and_close(&box, &txn);
}

static int take_uid(void *ctx, const struct mail *mail)
{
	uint32_t *left = ctx;

	if (*left == 0)
		return (int)mail->uid;
	(*left)--;
	return 0;
}

uint32_t maildir_user_uid(const struct mail_user *user, uint32_t position)
{
	struct mailbox *box;
	struct error err = {0};

	must(mailbox_open(user, "INBOX", &box, &err), &err, "open");
	int uid = mailbox_each(box, 1, UINT32_MAX, take_uid, &position, &err);
	mailbox_close(&box);
	return (uint32_t)uid;
}

struct dump {
	struct mailbox *box;
	struct buf *out;
	bool modseqs;
};

static void dump_body(struct dump *dump, uint32_t uid)
{
	struct buf text = BUF_INIT((size_t)64 << 20);
	struct mail_body *body;
	struct mail_body_info info;
	struct error err = {0};
	struct guid md5;
	char data[4096], hex[GUID_HEX_SIZE];
	ssize_t n;

	must(mailbox_body_open(dump->box, uid, &body, &info, &err), &err, "body");
	while ((n = mailbox_body_read(body, data, sizeof(data), &err)) > 0)
		buf_append(&text, data, (size_t)n);
	must((int)n, &err, "body");
	mailbox_body_close(&body);
	digest_md5(buf_str(&text), text.len, md5.bytes);
	buf_printf(dump->out, " %" PRId64 " %s", info.received, guid_to_hex(&md5, hex));
	buf_free(&text);
}

static int dump_mail(void *ctx, const struct mail *mail)
{
	struct dump *dump = ctx;

	buf_printf(dump->out, "  %u %s %x", mail->uid, mail->guid, mail->flags);
	for (unsigned i = 0; i < mail->keywords.count; i++)
		buf_printf(dump->out, " %s", mail->keywords.names[i]);
	if (dump->modseqs)
		buf_printf(dump->out, " modseq=%" PRIu64, mail->modseq);
	dump_body(dump, mail->uid);
	return buf_append_byte(dump->out, '\n');
}

static void dump_box(const struct mail_user *user, const char *name, bool modseqs, struct buf *out)
{
	struct dump dump = {.out = out, .modseqs = modseqs};
	struct error err = {0};
	char hex[GUID_HEX_SIZE];

	must(mailbox_open(user, name, &dump.box, &err), &err, "open");
	const struct mailbox_status *status = mailbox_status(dump.box);
	buf_printf(out, "%s guid=%s uid_validity=%u uid_next=%u messages=%u recent=%u", name,
		   guid_to_hex(&status->guid, hex), status->uid_validity, status->uid_next,
		   status->messages, status->first_recent_uid);
	if (modseqs)
		buf_printf(out, " highest_modseq=%" PRIu64, status->highest_modseq);
	buf_append_byte(out, '\n');
	must(mailbox_each(dump.box, 1, UINT32_MAX, dump_mail, &dump, &err), &err, "each");
	mailbox_close(&dump.box);
}

void maildir_user_dump(const struct mail_user *user, bool modseqs, struct buf *out)
{
	struct mailbox_tree tree;
	struct error err = {0};
	bool incomplete;

	buf_clear(out);
	must(mailbox_list_read(user, &tree, &incomplete, &err), &err, "list");
	for (size_t i = 0; i < tree.node_count; i++) {
		if (tree.nodes[i].subscribed)
			buf_printf(out, "subscribed %s\n", tree.nodes[i].name);
		if (tree.nodes[i].exists && !guid_is_empty(&tree.nodes[i].guid))
			dump_box(user, tree.nodes[i].name, modseqs, out);
	}
	mailbox_tree_free(&tree);
}
