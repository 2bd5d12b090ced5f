/* Both views compared. See dovecot_view.h. */
#include "tests/maildir/dovecot_view.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/base/buf.h"
#include "store/base/file.h"

/* "uid guid modseq received: flags" from lines of doveadm -f tab with these columns. */
static char *normalize_fetch(char *text)
{
	struct buf out = BUF_INIT(4 << 20);
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *uid = strsep(&line, "\t"), *guid = strsep(&line, "\t");
		char *modseq = strsep(&line, "\t"), *received = strsep(&line, "\t");

		if (!line || strcmp(uid, "uid") == 0)
			continue;
		buf_printf(&out, "%s %s %s %s:", uid, guid, modseq, received);
		append_sorted_words(&out, line);
		buf_append_byte(&out, '\n');
	}
	return out.data ? out.data : strdup("");
}

char *dovecot_view(struct fixture *fx)
{
	char *text = doveadm(fx, "-f tab fetch 'uid guid modseq date.received flags' mailbox INBOX "
				 "ALL");
	char *result = normalize_fetch(text);

	free(text);
	return result;
}

struct own_view {
	struct mailbox *box;
	struct buf out;
};

static int view_mail(void *ctx, const struct mail *mail)
{
	static const struct {
		uint8_t flag;
		const char *name;
	} names[] = {{MAIL_ANSWERED, "\\Answered"},
		     {MAIL_DELETED, "\\Deleted"},
		     {MAIL_DRAFT, "\\Draft"},
		     {MAIL_FLAGGED, "\\Flagged"},
		     {MAIL_SEEN, "\\Seen"}};
	struct own_view *view = ctx;
	AUTO_BUF struct buf words = BUF_INIT(8192);
	struct mail_body_info info;
	struct mail_body *body;
	struct error err = {0};
	char received[32];
	time_t time;
	struct tm tm;

	buf_printf(&view->out, "%u %s %llu ", mail->uid, mail->guid,
		   (unsigned long long)mail->modseq);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (mail->flags & names[i].flag)
			buf_printf(&words, "%s ", names[i].name);
	}
	for (unsigned i = 0; i < mail->keywords.count; i++)
		buf_printf(&words, "%s ", mail->keywords.names[i]);
	must(mailbox_body_open(view->box, mail->uid, &body, &info, &err), &err);
	mailbox_body_close(&body);
	time = (time_t)info.received;
	gmtime_r(&time, &tm);
	strftime(received, sizeof received, "%Y-%m-%d %H:%M:%S", &tm);
	buf_printf(&view->out, "%s:", received);
	if (words.data)
		append_sorted_words(&view->out, words.data);
	buf_append_byte(&view->out, '\n');
	return 0;
}

char *own_view(struct mailbox *box)
{
	struct own_view view = {.box = box, .out = BUF_INIT(4 << 20)};
	struct error err = {0};

	/* The view is there again after a rebuild by Dovecot, only not as it was. */
	if (mailbox_refresh(box, &err) == -ESTALE)
		err = (struct error){0};
	must(mailbox_refresh(box, &err), &err);
	must(mailbox_each(box, 1, UINT32_MAX, view_mail, &view, &err), &err);
	return view.out.data ? view.out.data : strdup("");
}

static void assert_status_agrees(struct fixture *fx, struct mailbox *box)
{
	char *text = doveadm(fx, "-f flow mailbox status 'messages uidnext uidvalidity "
				 "highestmodseq guid' INBOX");
	const struct mailbox_status *status = mailbox_status(box);
	char expected[300], hex[GUID_HEX_SIZE];

	snprintf(expected, sizeof expected,
		 "INBOX messages=%u uidnext=%u uidvalidity=%u highestmodseq=%llu guid=%s",
		 status->messages, status->uid_next, status->uid_validity,
		 (unsigned long long)status->highest_modseq, guid_to_hex(&status->guid, hex));
	text[strcspn(text, "\n")] = '\0';
	while (*text && text[strlen(text) - 1] == ' ')
		text[strlen(text) - 1] = '\0';
	assert_string_equal(text, expected);
	free(text);
}

/* Of dbox a forced resync is a rebuild of the storage: Dovecot says so, and gives new MODSEQs. */
static bool resync_is_rebuild(const struct fixture *fx)
{
	return fx->user.location.driver != MAIL_DRIVER_MAILDIR;
}

/* Every third word goes. */
static char *without_modseqs(const char *view)
{
	struct buf out = BUF_INIT(4 << 20);

	while (*view) {
		int line = (int)strcspn(view, "\n"), word = 0;

		for (int i = 0; i < line; i++) {
			word += view[i] == ' ';
			if (word != 2 || view[i] == ' ')
				buf_append_byte(&out, (unsigned char)view[i]);
		}
		buf_append_byte(&out, '\n');
		view += line + (view[line] == '\n');
	}
	return out.data ? out.data : strdup("");
}

static void assert_same_after_resync(struct fixture *fx, const char *before, const char *after)
{
	char *a, *b;

	if (!resync_is_rebuild(fx)) {
		assert_string_equal(before, after);
		return;
	}
	a = without_modseqs(before);
	b = without_modseqs(after);
	assert_string_equal(a, b);
	free(a);
	free(b);
}

void forget_rebuild(struct fixture *fx)
{
	if (resync_is_rebuild(fx))
		must_shell("sed -i -e '/: rebuilding indexes$/d' -e '/: Rebuild forced$/d' -e '/ "
			   "Rebuilding index$/d' "
			   "-e '/ fscking index file /d' -e '/: Recreated /d' '%s/dovecot.log'",
			   fx->root);
}

void assert_agrees(struct fixture *fx, struct mailbox *box)
{
	char *own = own_view(box), *theirs, *again;

	theirs = dovecot_view(fx);
	assert_string_equal(own, theirs);
	assert_status_agrees(fx, box);
	assert_no_complaints(fx);
	free(doveadm(fx, "force-resync INBOX"));
	forget_rebuild(fx);
	again = dovecot_view(fx);
	assert_same_after_resync(fx, theirs, again);
	assert_no_complaints(fx);
	free(own);
	free(theirs);
	free(again);
	own = own_view(box);
	theirs = dovecot_view(fx);
	assert_string_equal(own, theirs);
	assert_status_agrees(fx, box);
	free(own);
	free(theirs);
}

char *imap(struct fixture *fx, const char *commands)
{
	char path[400];

	snprintf(path, sizeof path, "%s/imap.txt", fx->root);
	write_file(path, commands, strlen(commands));
	return doveadm_with(fx, path, "exec imap");
}

void check_damage_before_the_snapshot(struct fixture *fx, const char *index_dir)
{
	struct mailbox_changes changes;
	struct error err = {0};
	struct mailbox *box;
	struct mail mail;

	free(doveadm(fx,
		     "-o mail_index_rewrite_min_log_bytes=1 -o mail_index_rewrite_max_log_bytes=2 "
		     "flags add '\\Flagged' mailbox INBOX uid 3"));
	must_shell("cd '%s' && test -s dovecot.index && "
		   "dd if=/dev/zero of=dovecot.index.log bs=1 seek=180 count=16 conv=notrunc "
		   "2>/dev/null",
		   index_dir);
	box = must_open(fx, "INBOX");
	assert_int_equal(mailbox_changes(box, 0, &changes, &err), -EUCLEAN);
	mailbox_close(&box);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	box = must_open(fx, "INBOX");
	/* The new log does not reach back that far, which is no damage. */
	assert_int_equal(mailbox_changes(box, 0, &changes, &err), -ERANGE);
	mailbox_changes_free(&changes);
	assert_int_equal(mailbox_status(box)->messages, 5);
	must(mailbox_find(box, 3, &mail, &err), &err);
	assert_true(mail.flags & MAIL_FLAGGED);
	mailbox_close(&box);
}
