/*
 * Stores written by Dovecot 2.3.19 and 2.4.1 are read exactly as Dovecot itself read them
 * (samples/NAME.expected.txt: the "mailbox status" and "fetch" sections of its own output).
 */
#include "tests/index/index_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "store/index/index_cache.h"
#include "store/index/index_format.h"
#include "store/index/list_index.h"
#include "store/mail.h"

static const struct {
	const char *name, *maildir, *dbox;
} mailboxes[] = {
	{"INBOX", "Maildir", "INBOX"},
	{"Archiv 2023", "Maildir/.Archiv 2023", "Archiv 2023"},
	{"Archiv 2023/Kid", "Maildir/.Archiv 2023.Kid", "Archiv 2023/Kid"},
	{"A&B", "Maildir/.A&-B", "A&-B"},
	{"Work", "Maildir/.Work", "Work"},
	{"Work/日本語", "Maildir/.Work.&ZeVnLIqe-", "Work/&ZeVnLIqe-"},
	{"Work/Ünïcode", "Maildir/.Work.&ANw-n&AO8-code", "Work/&ANw-n&AO8-code"},
	{"Entwürfe", "Maildir/.Entw&APw-rfe", "Entw&APw-rfe"},
};
#define MAILBOXES (sizeof(mailboxes) / sizeof(mailboxes[0]))

struct sample {
	const char *name;
	bool mdbox;
	struct index *index[MAILBOXES];
	uint32_t seen[MAILBOXES]; /* messages that the expected text has told about */
	int fds[MAILBOXES];
	unsigned statuses;
};

static const char *const system_flags[] = {"\\Answered", "\\Flagged", "\\Deleted", "\\Seen",
					   "\\Draft"};

static void open_mailboxes(const struct fixture *fx, struct sample *sample)
{
	for (size_t i = 0; i < MAILBOXES; i++) {
		struct index_options options = {.label = mailboxes[i].name, .read_only = true};
		struct error err = {0};
		char path[512];

		if (sample->mdbox)
			snprintf(path, sizeof(path), "%s/mdbox/mailboxes/%s/dbox-Mails", fx->dir,
				 mailboxes[i].dbox);
		else
			snprintf(path, sizeof(path), "%s/%s", fx->dir, mailboxes[i].maildir);
		sample->fds[i] = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (sample->fds[i] < 0)
			continue;
		must(index_open(sample->fds[i], &options, &sample->index[i], &err), &err);
	}
}

static size_t mailbox_number(const struct sample *sample, const char *name)
{
	for (size_t i = 0; i < MAILBOXES; i++) {
		if (strcmp(mailboxes[i].name, name) == 0) {
			assert_non_null(sample->index[i]);
			return i;
		}
	}
	fail_msg("%s: mailbox %s is not known to the test", sample->name, name);
	return 0;
}

/* messages uidnext uidvalidity unseen highestmodseq vsize guid */
static void check_status(struct sample *sample, char **fields)
{
	const struct index *index = sample->index[mailbox_number(sample, fields[0])];
	struct index_status status;
	struct index_record record;
	struct index_iter iter;
	struct index_ext ext;
	uint32_t unseen = 0;
	char guid[GUID_HEX_SIZE];

	index_status(index, &status);
	assert_int_equal(status.messages, strtoul(fields[1], NULL, 10));
	assert_int_equal(status.next_uid, strtoul(fields[2], NULL, 10));
	assert_int_equal(status.uid_validity, strtoul(fields[3], NULL, 10));
	assert_int_equal(status.highest_modseq, strtoull(fields[5], NULL, 10));
	index_iter_init(index, 0, &iter);
	while (index_iter_next(&iter, &record))
		unseen += (record.flags & MAIL_SEEN) == 0;
	assert_int_equal(unseen, strtoul(fields[4], NULL, 10));
	if (sample->mdbox) {
		struct guid bytes;

		must(index_ext_find(index, "mdbox-hdr", &ext), NULL);
		memcpy(bytes.bytes, (const uint8_t *)ext.hdr + 4, 16);
		assert_string_equal(guid_to_hex(&bytes, guid), fields[7]);
	}
	sample->statuses++;
}

static void take_out(char *list, const char *word)
{
	size_t len = strlen(word);

	for (char *at = list; (at = strstr(at, word)) != NULL; at++) {
		if ((at == list || at[-1] == ' ') && (at[len] == ' ' || at[len] == '\0')) {
			memset(at, ' ', len);
			return;
		}
	}
	fail_msg("\"%s\" is not expected in \"%s\"", word, list);
}

static void check_flags(const struct index *index, const struct index_record *record, char *list)
{
	const char *keywords[32];
	struct index_status status;
	unsigned count = index_record_keywords(index, record, keywords, 32);

	index_status(index, &status);
	if (record->uid >= status.first_recent_uid)
		take_out(list, "\\Recent");
	for (unsigned i = 0; i < 5; i++) {
		if ((record->flags & 1U << i) != 0)
			take_out(list, system_flags[i]);
	}
	for (unsigned i = 0; i < count; i++)
		take_out(list, keywords[i]);
	if (list[strspn(list, " ")] != '\0')
		fail_msg("uid %u: also expected: %s", record->uid, list);
}

/* uid guid flags modseq ... */
static void check_fetch(struct sample *sample, char **fields)
{
	size_t number = mailbox_number(sample, fields[0]);
	const struct index *index = sample->index[number];
	struct index_record record;

	must(index_find(index, (uint32_t)strtoul(fields[1], NULL, 10), &record), NULL);
	check_flags(index, &record, fields[3]);
	assert_int_equal(record.modseq, strtoull(fields[4], NULL, 10));
	if (sample->mdbox) {
		struct guid guid, expected;

		must(index_record_ext(index, &record, "guid", guid.bytes, 16), NULL);
		guid_from_message_guid(fields[2], &expected);
		assert_true(guid_equal(&guid, &expected));
	}
	sample->seen[number]++;
}

static void check_line(struct sample *sample, const char *section, char *line)
{
	char *fields[16] = {0}, *save = line;
	unsigned count = 0;

	while (count < 16 && (fields[count] = strsep(&save, "\t")) != NULL)
		count++;
	if (count < 8 || strcmp(fields[0], "mailbox") == 0)
		return;
	if (strstr(section, "doveadm mailbox status") != NULL)
		check_status(sample, fields);
	else if (strstr(section, "doveadm fetch (all messages)") != NULL)
		check_fetch(sample, fields);
}

static void check_expected_lines(struct sample *sample)
{
	char path[512], section[256] = "";
	struct buf text;
	char *line, *save;

	snprintf(path, sizeof(path), "%s/%s.expected.txt", TEST_SAMPLES, sample->name);
	read_bytes(path, &text);
	save = text.data;
	while ((line = strsep(&save, "\n")) != NULL) {
		if (strncmp(line, "=====", 5) == 0)
			snprintf(section, sizeof(section), "%s", line);
		else
			check_line(sample, section, line);
	}
	buf_free(&text);
	assert_true(sample->statuses > 0);
	for (size_t i = 0; i < MAILBOXES; i++) {
		struct index_status status;

		if (sample->index[i] == NULL)
			continue;
		index_status(sample->index[i], &status);
		assert_int_equal(sample->seen[i], status.messages);
	}
}

static void check_sample(const struct fixture *fx, const char *name)
{
	struct sample sample = {.name = name, .mdbox = strncmp(name, "mdbox", 5) == 0};

	print_message("%s\n", name);
	unpack_sample(fx, name);
	open_mailboxes(fx, &sample);
	check_expected_lines(&sample);
	for (size_t i = 0; i < MAILBOXES; i++) {
		index_close(&sample.index[i]);
		if (sample.fds[i] >= 0)
			close(sample.fds[i]);
	}
}

static void samples_maildir_log_only(void **state)
{
	check_sample(*state, "maildir-2.3.19-basic");
}

static void samples_maildir_log_only_of_2_4(void **state)
{
	check_sample(*state, "maildir-2.4.1-basic");
}

static void samples_maildir_rotated(void **state)
{
	check_sample(*state, "maildir-2.3.19-rotated");
}

static void samples_maildir_rotated_of_2_4(void **state)
{
	check_sample(*state, "maildir-2.4.1-rotated");
}

static void samples_mdbox_log_only(void **state)
{
	check_sample(*state, "mdbox-2.3.19-basic");
}

static void samples_mdbox_rotated(void **state)
{
	check_sample(*state, "mdbox-2.3.19-rotated");
}

static void samples_mdbox_rotated_of_2_4(void **state)
{
	check_sample(*state, "mdbox-2.4.1-rotated");
}

/* The saved dates that Dovecot's fetch put into the cache. */
static void saved_dates_of_a_sample(void **state)
{
	const struct fixture *fx = *state;
	struct index_options options = {.label = "INBOX", .read_only = true};
	struct index_record record;
	struct index_iter iter;
	struct index *index;
	struct error err = {0};
	unsigned found = 0;
	char path[512];
	int fd;

	unpack_sample(fx, "maildir-2.3.19-rotated");
	snprintf(path, sizeof(path), "%s/Maildir", fx->dir);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	must(index_open(fd, &options, &index, &err), &err);
	index_iter_init(index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		int64_t saved = 0;

		must(index_cache_get_save_date(index, &record, &saved), NULL);
		assert_int_equal(saved, 1795328830); /* 2026-11-22 06:27:10 */
		found++;
	}
	assert_int_equal(found, 5);
	index_close(&index);
	close(fd);
}

static void the_refresh_flag_is_set_once(void **state)
{
	const struct fixture *fx = *state;
	struct index_options options = {.name = INDEX_NAME_LIST, .label = "list"};
	struct index_position first, second;
	struct index *index;
	struct index_ext ext;
	struct error err = {0};
	char path[512];
	int fd;

	unpack_sample(fx, "maildir-2.3.19-basic");
	snprintf(path, sizeof(path), "%s/Maildir", fx->dir);
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	must(index_open(fd, &options, &index, &err), &err);
	must(index_ext_find(index, "list", &ext), NULL);
	assert_int_equal(*(const uint8_t *)ext.hdr, 0);
	must(list_index_set_refresh(fd, "list", INDEX_LOCK_FCNTL, 1000, &err), &err);
	must(index_refresh(index, &err), &err);
	must(index_ext_find(index, "list", &ext), NULL);
	assert_int_equal(*(const uint8_t *)ext.hdr, 1);
	index_position(index, &first);
	must(list_index_set_refresh(fd, "list", INDEX_LOCK_FCNTL, 1000, &err), &err);
	must(index_refresh(index, &err), &err);
	index_position(index, &second);
	assert_true(index_position_equal(&first, &second));
	index_close(&index);
	/* Nobody has listed anything yet: nothing to do. */
	must(list_index_set_refresh(fx->dirfd, "list", INDEX_LOCK_FCNTL, 1000, &err), &err);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(samples_maildir_log_only),	    TEST(samples_maildir_log_only_of_2_4),
		TEST(samples_maildir_rotated),	    TEST(samples_maildir_rotated_of_2_4),
		TEST(samples_mdbox_log_only),	    TEST(samples_mdbox_rotated),
		TEST(samples_mdbox_rotated_of_2_4), TEST(saved_dates_of_a_sample),
		TEST(the_refresh_flag_is_set_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
