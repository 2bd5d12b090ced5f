/* A user with a Maildir in a temporary directory. See maildir_fixture.h. */
#include "tests/maildir/maildir_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "store/base/buf.h"
#include "store/base/file.h"

int fixture_setup(void **state)
{
	struct fixture *fx = calloc(1, sizeof *fx);
	const char *tmp = getenv("TMPDIR");

	if (!fx)
		return -1;
	snprintf(fx->root, sizeof fx->root, "%s/maildir-test.XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(fx->root))
		return -1;
	snprintf(fx->home, sizeof fx->home, "%s/home", fx->root);
	snprintf(fx->maildir, sizeof fx->maildir, "%s/Maildir", fx->home);
	if (mkdir(fx->home, 0700) < 0)
		return -1;
	fx->user = (struct mail_user){
		.name = strdup("alice@example.org"),
		.home = strdup(fx->home),
		.home_rel = strdup(""),
		.uid = getuid(),
		.gid = getgid(),
		.location = {.driver = MAIL_DRIVER_MAILDIR,
			     .layout = MAIL_LAYOUT_MAILDIRPP,
			     .root = strdup(fx->maildir),
			     .index = strdup(fx->maildir),
			     .control = strdup(fx->maildir),
			     .inbox = strdup(fx->maildir)},
		.separator = '/',
	};
	*state = fx;
	return 0;
}

int fixture_teardown(void **state)
{
	struct fixture *fx = *state;

	must_shell("rm -rf '%s'", fx->root);
	free(fx->user.name);
	free(fx->user.home);
	free(fx->user.home_rel);
	mail_location_free(&fx->user.location);
	free(fx);
	return 0;
}

void fixture_set_location(struct fixture *fx, const char *location)
{
	struct error err = {0};

	mail_location_free(&fx->user.location);
	must(mail_location_parse(location, fx->home, &fx->user.location, &err), &err);
}

void fixture_make_maildir(struct fixture *fx)
{
	must_shell("mkdir -p '%s/cur' '%s/new' '%s/tmp'", fx->maildir, fx->maildir, fx->maildir);
}

void fixture_unpack_sample(struct fixture *fx, const char *sample)
{
	must_shell("tar xzf '%s/%s.tar.gz' -C '%s' --strip-components=1", TEST_SAMPLES, sample,
		   fx->home);
}

void must_shell(const char *fmt, ...)
{
	char command[4096];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof command, fmt, args);
	va_end(args);
	if (system(command) != 0) // NOLINT(cert-env33-c): the commands are the tests' own
		fail_msg("command failed: %s", command);
}

char *shell_output(const char *fmt, ...)
{
	struct buf out = BUF_INIT(1 << 20);
	char command[4096], part[4096];
	va_list args;
	FILE *pipe;
	size_t n;

	va_start(args, fmt);
	vsnprintf(command, sizeof command, fmt, args);
	va_end(args);
	pipe = popen(command, "r"); // NOLINT(cert-env33-c)
	assert_non_null(pipe);
	while ((n = fread(part, 1, sizeof part, pipe)) > 0)
		buf_append(&out, part, n);
	if (pclose(pipe) != 0)
		fail_msg("command failed: %s\n%s", command, buf_str(&out));
	if (!out.data)
		return strdup("");
	return out.data;
}

void must_at(int rc, const struct error *err, const char *what, const char *file, int line)
{
	if (rc < 0)
		print_error("%s: %d (%s)\n", what, rc, err ? err->text : "");
	_assert_true(rc >= 0, what, file, line);
}

struct mailbox *must_open(struct fixture *fx, const char *name)
{
	struct mailbox *box = NULL;
	struct error err = {0};

	must(mailbox_open(&fx->user, name, &box, &err), &err);
	return box;
}

void write_file(const char *path, const char *text, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(file_write_all(fd, text, len), 0);
	close(fd);
}

char *read_file(const char *path)
{
	struct buf text = BUF_INIT(64 << 20);

	assert_int_equal(file_read_at(AT_FDCWD, path, &text), 0);
	return text.data ? text.data : strdup("");
}

bool path_exists(const char *fmt, ...)
{
	char path[1024];
	struct stat st;
	va_list args;

	va_start(args, fmt);
	vsnprintf(path, sizeof path, fmt, args);
	va_end(args);
	return lstat(path, &st) == 0;
}

struct file_stamp stamp_of(const struct fixture *fx, const char *file)
{
	char path[1024];
	struct stat st;

	snprintf(path, sizeof path, "%s/%s", fx->maildir, file);
	if (stat(path, &st) < 0)
		return (struct file_stamp){0};
	return (struct file_stamp){.inode = st.st_ino, .size = (uint64_t)st.st_size};
}

void deliver(struct fixture *fx, const char *dir, const char *name, const char *body)
{
	char tmp[1024], path[1024];

	snprintf(tmp, sizeof tmp, "%s/tmp/delivery", fx->maildir);
	snprintf(path, sizeof path, "%s/%s/%s", fx->maildir, dir, name);
	write_file(tmp, body, strlen(body));
	assert_int_equal(rename(tmp, path), 0);
}

static struct mail_event event(enum mail_event_kind kind, const char *name, const char *name2)
{
	return (struct mail_event){
		.kind = kind, .home = "", .dir = "Maildir", .name = name, .name2 = name2};
}

struct mail_event event_delivered(const char *name)
{
	return event(MAIL_EVENT_DELIVERED, name, "");
}

struct mail_event event_renamed(const char *from, const char *to)
{
	return event(MAIL_EVENT_RENAMED, from, to);
}

struct mail_event event_removed(const char *name)
{
	return event(MAIL_EVENT_REMOVED, name, "");
}

struct mail_event event_touched(void)
{
	return event(MAIL_EVENT_TOUCHED, "", "");
}

bool catch_up(struct mailbox *box, const struct mail_event *events, size_t count)
{
	struct error err = {0};
	bool changed = false;

	must(mailbox_catch_up(box, events, count, &changed, &err), &err);
	return changed;
}

struct mail_spool *spool_mail(struct mailbox *box, const struct new_mail *mail)
{
	struct mail_spool *spool;
	struct error err = {0};

	must(mailbox_spool_open(box, mail->guid ? mail->guid : "",
				mail->received ? mail->received : 1675252801, &spool, &err),
	     &err);
	must(mailbox_spool_write(spool, mail->body, strlen(mail->body), &err), &err);
	return spool;
}

void txn_append(struct mailbox_txn *txn, struct mail_spool *spool, const struct new_mail *mail,
		uint32_t uid)
{
	struct error err = {0};
	struct mail what = {.uid = uid,
			    .flags = mail->flags,
			    .recent = mail->recent,
			    .modseq = mail->modseq,
			    .guid = mail->guid ? mail->guid : "",
			    .keywords = {.names = mail->keywords}};

	while (what.keywords.count < 4 && mail->keywords[what.keywords.count])
		what.keywords.count++;
	must(mailbox_append(txn, &spool, &what, mail->saved, mail->pop3, &err), &err);
}

uint32_t append_mail(struct mailbox *box, const struct new_mail *mail)
{
	struct mail_spool *spool = spool_mail(box, mail);
	struct mailbox_txn *txn;
	struct error err = {0};
	uint32_t uid;

	must(mailbox_begin(box, &txn, &err), &err);
	uid = mail->uid ? mail->uid : mailbox_status(box)->uid_next;
	txn_append(txn, spool, mail, uid);
	must(mailbox_commit(&txn, NULL, &err), &err);
	return uid;
}

struct describe {
	struct buf text;
	bool with_modseq;
};

static int describe_mail(void *ctx, const struct mail *mail)
{
	struct describe *describe = ctx;
	static const struct {
		uint8_t flag;
		char letter;
	} letters[] = {{MAIL_DRAFT, 'D'},
		       {MAIL_FLAGGED, 'F'},
		       {MAIL_ANSWERED, 'R'},
		       {MAIL_SEEN, 'S'},
		       {MAIL_DELETED, 'T'}};

	buf_printf(&describe->text, "%u %s ", mail->uid, mail->guid);
	for (size_t i = 0; i < sizeof letters / sizeof letters[0]; i++) {
		if (mail->flags & letters[i].flag)
			buf_append_byte(&describe->text, (unsigned char)letters[i].letter);
	}
	for (unsigned i = 0; i < mail->keywords.count; i++)
		buf_printf(&describe->text, " %s", mail->keywords.names[i]);
	if (describe->with_modseq)
		buf_printf(&describe->text, " %llu", (unsigned long long)mail->modseq);
	buf_append_byte(&describe->text, '\n');
	return 0;
}

char *describe(struct mailbox *box, bool with_modseq)
{
	struct describe describe = {.text = BUF_INIT(64 << 20), .with_modseq = with_modseq};
	struct error err = {0};

	must(mailbox_each(box, 1, UINT32_MAX, describe_mail, &describe, &err), &err);
	assert_int_equal(describe.text.failed, 0);
	return describe.text.data ? describe.text.data : strdup("");
}

char *body_of(struct mailbox *box, uint32_t uid, struct mail_body_info *info_r)
{
	struct buf text = BUF_INIT(64 << 20);
	struct mail_body_info info;
	struct mail_body *body;
	struct error err = {0};
	static char pop3_uidl[256];
	char part[777];
	ssize_t n;

	must(mailbox_body_open(box, uid, &body, &info, &err), &err);
	if (info_r) {
		snprintf(pop3_uidl, sizeof pop3_uidl, "%s", info.pop3_uidl);
		*info_r = info;
		info_r->pop3_uidl = pop3_uidl;
	}
	while ((n = mailbox_body_read(body, part, sizeof part, &err)) > 0)
		buf_append(&text, part, (size_t)n);
	must((int)n, &err);
	mailbox_body_close(&body);
	return text.data ? text.data : strdup("");
}
