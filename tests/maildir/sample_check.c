/* Sample stores read and compared. See sample_check.h. */
#include "tests/maildir/sample_check.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "store/base/buf.h"

static int word_cmp(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void sort_words(char *text, char *out, size_t size)
{
	char *words[64], *save = NULL;
	size_t count = 0;

	for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save)) {
		if (strcmp(word, "\\Recent") != 0 && count < 64)
			words[count++] = word;
	}
	qsort(words, count, sizeof *words, word_cmp);
	out[0] = '\0';
	for (size_t i = 0; i < count; i++) {
		size_t used = strlen(out);

		snprintf(out + used, size - used, "%s ", words[i]);
	}
}

static void flags_text(const struct mail *mail, char *out, size_t size)
{
	static const struct {
		uint8_t flag;
		const char *name;
	} names[] = {{MAIL_ANSWERED, "\\Answered"},
		     {MAIL_DELETED, "\\Deleted"},
		     {MAIL_DRAFT, "\\Draft"},
		     {MAIL_FLAGGED, "\\Flagged"},
		     {MAIL_SEEN, "\\Seen"}};
	struct buf words = BUF_INIT(8192);

	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (mail->flags & names[i].flag)
			buf_printf(&words, "%s ", names[i].name);
	}
	for (unsigned i = 0; i < mail->keywords.count; i++)
		buf_printf(&words, "%s ", mail->keywords.names[i]);
	if (words.data)
		sort_words(words.data, out, size);
	else
		out[0] = '\0';
	buf_free(&words);
}

static void check_status(struct fixture *fx, char *line)
{
	char *name = strsep(&line, "\t");
	struct mailbox *box = must_open(fx, name);
	const struct mailbox_status *status = mailbox_status(box);
	char text[200], hex[GUID_HEX_SIZE], expected[200];
	char *messages = strsep(&line, "\t"), *uidnext = strsep(&line, "\t");
	char *uidvalidity = strsep(&line, "\t"), *unseen = strsep(&line, "\t");
	char *highestmodseq = strsep(&line, "\t"), *vsize = strsep(&line, "\t");

	assert_non_null(unseen);
	assert_non_null(vsize);
	snprintf(expected, sizeof expected, "%s %s %s %s %s", messages, uidnext, uidvalidity,
		 highestmodseq, line);
	snprintf(text, sizeof text, "%u %u %u %llu %s", status->messages, status->uid_next,
		 status->uid_validity, (unsigned long long)status->highest_modseq,
		 guid_to_hex(&status->guid, hex));
	assert_string_equal(text, expected);
	mailbox_close(&box);
}

static void check_mail(struct fixture *fx, char *line)
{
	char *name = strsep(&line, "\t"), *uid = strsep(&line, "\t"), *guid = strsep(&line, "\t");
	char *flags = strsep(&line, "\t"), *modseq = strsep(&line, "\t");
	char *received = strsep(&line, "\t"), *saved = strsep(&line, "\t");
	char *physical = strsep(&line, "\t"), *body, number[32];
	char expected[1024], text[1024], date[32];
	struct mailbox *box = must_open(fx, name);
	struct mail_body_info info;
	struct mail mail;
	struct error err = {0};
	time_t time;
	struct tm tm;

	assert_non_null(saved);
	must(mailbox_find(box, (uint32_t)strtoul(uid, NULL, 10), &mail, &err), &err);
	assert_string_equal(mail.guid, guid);
	sort_words(flags, expected, sizeof expected);
	flags_text(&mail, text, sizeof text);
	assert_string_equal(text, expected);
	snprintf(number, sizeof number, "%llu", (unsigned long long)mail.modseq);
	assert_string_equal(number, modseq);
	body = body_of(box, mail.uid, &info);
	time = (time_t)info.received;
	gmtime_r(&time, &tm);
	strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
	assert_string_equal(date, received);
	/* The others' may be the file's ctime, which no archive keeps. */
	if (fx->user.location.driver == MAIL_DRIVER_MDBOX) {
		time = (time_t)info.saved;
		gmtime_r(&time, &tm);
		strftime(date, sizeof date, "%Y-%m-%d %H:%M:%S", &tm);
		assert_string_equal(date, saved);
	}
	snprintf(number, sizeof number, "%zu", strlen(body));
	assert_string_equal(number, physical);
	free(body);
	mailbox_close(&box);
}

void check_sample(struct fixture *fx, const char *sample)
{
	char path[600], *text, *save = NULL;
	void (*check)(struct fixture *, char *) = NULL;
	int checked = 0;

	fixture_unpack_sample(fx, sample);
	snprintf(path, sizeof path, "%s/%s.expected.txt", TEST_SAMPLES, sample);
	text = read_file(path);
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (strncmp(line, "=====", 5) == 0) {
			check = strstr(line, "mailbox status") ? check_status
				: strstr(line, "fetch (all")   ? check_mail
							       : NULL;
			continue;
		}
		if (!check || strncmp(line, "mailbox\t", 8) == 0)
			continue;
		check(fx, line);
		checked++;
	}
	assert_true(checked >= 5);
	free(text);
}

void check_unchanged(struct fixture *fx, const char *sample)
{
	char *before, *after;
	struct mailbox *box;
	struct mail_event touched = event_touched();
	struct error err = {0};
	size_t missing;
	bool changed;

	fixture_unpack_sample(fx, sample);
	before =
		shell_output("cd '%s' && find . -type f | sort | xargs -d '\\n' sha1sum", fx->home);
	box = must_open(fx, "INBOX");
	assert_false(catch_up(box, &touched, 1));
	must(mailbox_scan(box, &changed, &missing, &err), &err);
	assert_false(changed);
	assert_int_equal(missing, 0);
	mailbox_close(&box);
	after = shell_output("cd '%s' && find . -type f | sort | xargs -d '\\n' sha1sum", fx->home);
	assert_string_equal(before, after);
	free(before);
	free(after);
}
