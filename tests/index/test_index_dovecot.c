/*
 * Beside a real Dovecot: what we write it reads with the same values and without a word in its log,
 * and what it writes we read. Needs root (doveadm runs as an unprivileged user) and doveadm.
 */
#include "tests/index/index_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "store/index/index_cache.h"
#include "store/index/index_format.h"
#include "store/mail.h"
#include "tests/dovecot_config.h"

#define SKIPPED 77
#define UID	"65534"

struct dovecot {
	const struct fixture *fx;
	bool mdbox;
	char box[512]; /* the directory of INBOX's index */
	int fd, map_fd;
	struct index *index;
};

static const char *const system_flags[] = {"\\Answered", "\\Flagged", "\\Deleted", "\\Seen",
					   "\\Draft"};

/* ---- doveadm ---- */

/* What it says on stderr goes to where check_log() looks. */
static char *doveadm(const struct dovecot *dovecot, const char *args)
{
	return shell_output("cd '%s' && HOME='%s/home' USER=alice setpriv --reuid=" UID
			    " --regid=" UID " --clear-groups '%s/doveadm' 2>> '%s/dovecot.log' %s",
			    dovecot->fx->dir, dovecot->fx->dir, dovecot->fx->dir, dovecot->fx->dir,
			    args);
}

static void doveadm_do(const struct dovecot *dovecot, const char *args)
{
	free(doveadm(dovecot, args));
}

static void save_mail(const struct dovecot *dovecot, const char *subject)
{
	char args[512];

	snprintf(args, sizeof(args),
		 "save -m INBOX <<'END'\nFrom: alice@example.org\nSubject: %s\n\nHello.\nEND",
		 subject);
	doveadm_do(dovecot, args);
}

static void setup_dovecot(struct dovecot *dovecot, const struct fixture *fx, bool mdbox)
{
	char path[512];

	memset(dovecot, 0, sizeof(*dovecot));
	dovecot->fx = fx;
	dovecot->mdbox = mdbox;
	dovecot->map_fd = -1;
	snprintf(path, sizeof(path), "%s/home", fx->dir);
	assert_int_equal(dovecot_config_write(fx->dir, path,
					      mdbox ? "mdbox:~/mdbox" : "maildir:~/Maildir", '/'),
			 0);
	shell("mkdir '%s/home' '%s/run' && touch '%s/dovecot.log' && chown -R " UID ":" UID " '%s'",
	      fx->dir, fx->dir, fx->dir, fx->dir);
	save_mail(dovecot, "one");
	save_mail(dovecot, "two");
	save_mail(dovecot, "three");
	snprintf(dovecot->box, sizeof(dovecot->box), "%s/home/%s", fx->dir,
		 mdbox ? "mdbox/mailboxes/INBOX/dbox-Mails" : "Maildir");
	dovecot->fd = open(dovecot->box, O_PATH | O_DIRECTORY | O_CLOEXEC);
	assert_true(dovecot->fd >= 0);
	if (mdbox) {
		snprintf(path, sizeof(path), "%s/home/mdbox/storage", fx->dir);
		dovecot->map_fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
		assert_true(dovecot->map_fd >= 0);
	}
}

static void teardown_dovecot(struct dovecot *dovecot)
{
	index_close(&dovecot->index);
	close(dovecot->fd);
	if (dovecot->map_fd >= 0)
		close(dovecot->map_fd);
}

static void open_box(struct dovecot *dovecot)
{
	const struct index_options options = {.label = dovecot->box, .backup = dovecot->mdbox};
	struct error err = {0};

	index_close(&dovecot->index);
	must(index_open(dovecot->fd, &options, &dovecot->index, &err), &err);
}

static void check_log(const struct dovecot *dovecot)
{
	struct buf log;
	char path[512];

	snprintf(path, sizeof(path), "%s/dovecot.log", dovecot->fx->dir);
	read_bytes(path, &log);
	if (strstr(buf_str(&log), "Error") != NULL || strstr(buf_str(&log), "Warning") != NULL ||
	    strstr(buf_str(&log), "Panic") != NULL)
		fail_msg("Dovecot complained: %s", buf_str(&log));
	buf_free(&log);
}

/* ---- the same text from both ---- */

/* "uid TAB flags and keywords, sorted TAB modseq" */
static char *our_fetch(const struct dovecot *dovecot)
{
	struct buf text = BUF_INIT(1 << 20);
	struct index_record record;
	struct index_iter iter;

	index_iter_init(dovecot->index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		const char *names[32];
		unsigned count = index_record_keywords(dovecot->index, &record, names, 32);
		const char *space = "";

		buf_printf(&text, "%u\t", record.uid);
		for (unsigned i = 0; i < 5; i++) {
			if ((record.flags & 1U << i) == 0)
				continue;
			buf_printf(&text, "%s%s", space, system_flags[i]);
			space = " ";
		}
		for (unsigned i = 0; i < count; i++) {
			buf_printf(&text, "%s%s", space, names[i]);
			space = " ";
		}
		buf_printf(&text, "\t%llu\n", (unsigned long long)record.modseq);
	}
	return text.data != NULL ? text.data : strdup("");
}

static int compare_words(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Keywords behind the flags, in our order; without \Recent. */
static void put_flags(struct buf *text, char *list)
{
	const char *keywords[32], *space = "";
	unsigned count = 0;
	char *word;

	while ((word = strsep(&list, " ")) != NULL) {
		if (*word == '\0' || strcmp(word, "\\Recent") == 0)
			continue;
		if (*word != '\\') {
			keywords[count++] = word;
			continue;
		}
		buf_printf(text, "%s%s", space, word);
		space = " ";
	}
	if (count > 1)
		qsort(keywords, count, sizeof(*keywords), compare_words);
	for (unsigned i = 0; i < count; i++) {
		buf_printf(text, "%s%s", space, keywords[i]);
		space = " ";
	}
}

static char *their_fetch(const struct dovecot *dovecot)
{
	struct buf text = BUF_INIT(1 << 20);
	char *out = doveadm(dovecot, "-f tab fetch 'uid flags modseq' mailbox INBOX all");
	char *rest = out, *line;

	strsep(&rest, "\n"); /* the titles */
	while ((line = strsep(&rest, "\n")) != NULL && *line != '\0') {
		char *uid = strsep(&line, "\t"), *flags = strsep(&line, "\t");

		buf_printf(&text, "%s\t", uid);
		put_flags(&text, flags);
		buf_printf(&text, "\t%s\n", line);
	}
	free(out);
	return text.data != NULL ? text.data : strdup("");
}

static void check_same(struct dovecot *dovecot, const char *step)
{
	struct index_status status;
	struct error err = {0};
	char *theirs = their_fetch(dovecot), *out, *ours;
	char expected[256];

	print_message("%s\n", step);
	/* Dovecot may have written on the way, so we look after it. */
	if (dovecot->index == NULL)
		open_box(dovecot);
	must(index_refresh(dovecot->index, &err), &err);
	ours = our_fetch(dovecot);
	assert_string_equal(ours, theirs);
	free(ours);
	free(theirs);
	out = doveadm(dovecot,
		      "-f tab mailbox status 'messages uidnext uidvalidity highestmodseq' INBOX");
	must(index_refresh(dovecot->index, &err), &err);
	index_status(dovecot->index, &status);
	snprintf(expected, sizeof(expected),
		 "mailbox\tmessages\tuidnext\tuidvalidity\thighestmodseq\n"
		 "INBOX\t%u\t%u\t%u\t%llu\n",
		 status.messages, status.next_uid, status.uid_validity,
		 (unsigned long long)status.highest_modseq);
	assert_string_equal(out, expected);
	free(out);
	/* And opened anew. */
	ours = our_fetch(dovecot);
	open_box(dovecot);
	theirs = our_fetch(dovecot);
	assert_string_equal(ours, theirs);
	free(ours);
	free(theirs);
	check_log(dovecot);
}

/* ---- changes as a storage makes them ---- */

/* Renames cur/<base>:2,* of the message, since Dovecot would undo a change of the index alone. */
static void maildir_rename(const struct dovecot *dovecot, uint32_t uid, const char *letters)
{
	if (dovecot->mdbox)
		return;
	shell("cd '%s' && base=$(sed -n 's/^%u [^:]*:\\(.*\\)/\\1/p' dovecot-uidlist) && "
	      "old=$(ls -d new/\"$base\"* cur/\"$base\"* 2>/dev/null | head -n 1) && "
	      "if [ \"$old\" != \"cur/$base:2,%s\" ]; then mv \"$old\" \"cur/$base:2,%s\"; fi",
	      dovecot->box, uid, letters, letters);
}

static void map_add_reference(const struct dovecot *dovecot, uint32_t map_uid, int32_t diff)
{
	const struct index_options options = {.name = INDEX_NAME_MAP, .label = "storage"};
	const struct index_ext_def ref = {.name = "ref", .record_size = 2, .record_align = 2};
	struct index *map;
	struct index_txn *txn;
	struct error err = {0};

	must(index_open(dovecot->map_fd, &options, &map, &err), &err);
	txn = begin(map);
	must(index_inc_ext(txn, &ref, map_uid, diff, &err), &err);
	must(index_commit(&txn, true, &err), &err);
	index_close(&map);
}

/* mdbox: a copy by reference of the message uid 1. Maildir: a file of our own. */
static void append_message(struct dovecot *dovecot, uint32_t uid, uint64_t modseq)
{
	static const struct index_ext_def mdbox = {
		.name = "mdbox", .record_size = 8, .record_align = 4};
	static const struct index_ext_def guid_def = {
		.name = "guid", .record_size = 16, .record_align = 1};
	struct index_save_date saved = {.uid = uid, .time = 1675252801};
	struct index_record source;
	struct index_txn *txn;
	struct error err = {0};
	uint8_t place[8], guid[16];

	if (dovecot->mdbox) {
		must(index_find(dovecot->index, 1, &source), NULL);
		must(index_record_ext(dovecot->index, &source, "mdbox", place, 8), NULL);
		must(index_record_ext(dovecot->index, &source, "guid", guid, 16), NULL);
		map_add_reference(dovecot, index_get32(place), 1);
		index_put32(place + 4, 1675252801);
	} else {
		shell("cd '%s' && printf 'Subject: x\\n\\nHello.\\n' > cur/base%u,S=19,W=22:2,FS "
		      "&& "
		      "echo '%u :base%u,S=19,W=22' >> dovecot-uidlist && chown -R " UID ":" UID
		      " cur dovecot-uidlist",
		      dovecot->box, uid, uid, uid);
	}
	txn = begin(dovecot->index);
	must(index_append(txn, uid, MAIL_FLAGGED | MAIL_SEEN, &err), &err);
	if (dovecot->mdbox) {
		must(index_update_ext(txn, &mdbox, uid, place, &err), &err);
		must(index_update_ext(txn, &guid_def, uid, guid, &err), &err);
	} else {
		must(index_cache_set_save_dates(txn, &saved, 1, &err), &err);
	}
	if (modseq != 0)
		must(index_update_modseq(txn, uid, modseq, &err), &err);
	must(index_commit(&txn, true, &err), &err);
}

static void check_saved_date(const struct dovecot *dovecot, uint32_t uid)
{
	char args[256];
	char *out;

	snprintf(args, sizeof(args), "-f tab fetch date.saved mailbox INBOX uid %u", uid);
	out = doveadm(dovecot, args);
	assert_non_null(strstr(out, "2023-02-01"));
	free(out);
}

static void change_messages(struct dovecot *dovecot)
{
	struct index_txn *txn = begin(dovecot->index);
	struct error err = {0};

	maildir_rename(dovecot, 1, "FS");
	maildir_rename(dovecot, 2, "F");
	must(index_update_flags(txn, 1, MAIL_FLAGGED | MAIL_SEEN, 0, &err), &err);
	must(index_update_flags(txn, 2, MAIL_FLAGGED, 0, &err), &err);
	commit(&txn);
}

/* In Maildir keywords without a letter live in the index alone: see the maildir tests for letters.
 */
static void change_keywords(struct dovecot *dovecot, uint64_t modseq)
{
	struct index_txn *txn;
	struct error err = {0};

	if (!dovecot->mdbox)
		return;
	txn = begin(dovecot->index);
	must(index_update_keyword(txn, 1, "$Label1", true, &err), &err);
	must(index_update_keyword(txn, 3, "$Label1", true, &err), &err);
	must(index_update_keyword(txn, 3, "Work", true, &err), &err);
	must(index_update_modseq(txn, 3, modseq, &err), &err);
	commit(&txn);
	txn = begin(dovecot->index);
	must(index_update_keyword(txn, 3, "$Label1", false, &err), &err);
	commit(&txn);
}

static void expunge_message(struct dovecot *dovecot, uint32_t uid)
{
	struct index_record record;
	struct index_txn *txn;
	struct error err = {0};
	uint8_t place[8], guid_bytes[16];
	struct guid guid;

	must(index_find(dovecot->index, uid, &record), NULL);
	if (dovecot->mdbox) {
		must(index_record_ext(dovecot->index, &record, "mdbox", place, 8), NULL);
		must(index_record_ext(dovecot->index, &record, "guid", guid_bytes, 16), NULL);
		memcpy(guid.bytes, guid_bytes, 16);
		map_add_reference(dovecot, index_get32(place), -1);
	} else {
		shell("cd '%s' && base=$(sed -n 's/^%u [^:]*:\\(.*\\)/\\1/p' dovecot-uidlist) && "
		      "rm cur/\"$base\"*",
		      dovecot->box, uid);
	}
	txn = begin(dovecot->index);
	must(index_expunge(txn, uid, dovecot->mdbox ? &guid : NULL, &err), &err);
	must(index_update_modseq(txn, 0, highest(dovecot->index) + 50, &err), &err);
	must(index_commit(&txn, true, &err), &err);
}

static void leave_torn_tail(struct dovecot *dovecot)
{
	static const uint8_t cut[] = {0x80, 0x80, 0x80, 0x84, 2, 0, 0, 0x10, 200, 0, 0};
	char path[600];
	int fd;

	snprintf(path, sizeof(path), "%s/dovecot.index.log", dovecot->box);
	fd = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, cut, sizeof(cut)), sizeof(cut));
	close(fd);
}

static void run(const struct fixture *fx, bool mdbox)
{
	struct dovecot dovecot;
	struct error err = {0};
	uint64_t exact;

	setup_dovecot(&dovecot, fx, mdbox);
	open_box(&dovecot);
	/* Before anything has asked for modseqs, so that we are the one who switches them on. */
	exact = highest(dovecot.index) + 100;
	if (!mdbox)
		doveadm_do(&dovecot, "-f tab mailbox status messages INBOX");
	append_message(&dovecot, 10, exact);
	check_same(&dovecot, "append with an exact modseq");
	check_saved_date(&dovecot, 10);
	change_messages(&dovecot);
	check_same(&dovecot, "flags");
	change_keywords(&dovecot, highest(dovecot.index) + 20);
	check_same(&dovecot, "keywords with an exact modseq");
	expunge_message(&dovecot, 2);
	check_same(&dovecot, "expunge, raising the highest modseq");
	must(index_write_snapshot(dovecot.index, 1000, &err), &err);
	check_same(&dovecot, "snapshot");
	doveadm_do(&dovecot, "flags add '\\Answered Later' mailbox INBOX uid 3");
	check_same(&dovecot, "Dovecot goes on after our snapshot");
	must(index_rotate(dovecot.index, 1000, &err), &err);
	check_same(&dovecot, "rotation");
	save_mail(&dovecot, "four");
	doveadm_do(&dovecot, "expunge mailbox INBOX uid 3");
	check_same(&dovecot, "Dovecot goes on after our rotation");
	append_message(&dovecot, 20, 0);
	check_same(&dovecot, "append with the next modseq");
	check_saved_date(&dovecot, 20);
	leave_torn_tail(&dovecot);
	append_message(&dovecot, 21, 0);
	check_same(&dovecot, "append after a torn tail");
	must(index_rotate(dovecot.index, 1000, &err), &err);
	doveadm_do(&dovecot, "flags remove '\\Flagged' mailbox INBOX all");
	check_same(&dovecot, "second rotation");
	if (mdbox) {
		/* Asked for it, Dovecot rebuilds an mdbox in any case, warns that it does, and
		 * begins the index afresh. */
		doveadm_do(&dovecot, "force-resync INBOX 2>/dev/null");
		assert_int_equal(index_refresh(dovecot.index, &err), -ESTALE);
	} else {
		doveadm_do(&dovecot, "force-resync INBOX");
	}
	check_same(&dovecot, "nothing to repair");
	if (mdbox)
		doveadm_do(&dovecot, "purge");
	check_same(&dovecot, "nothing to purge wrongly");
	teardown_dovecot(&dovecot);
}

static void beside_dovecot_maildir(void **state)
{
	run(*state, false);
}

static void beside_dovecot_mdbox(void **state)
{
	run(*state, true);
}

/* Each of Dovecot's FETCH (CHANGEDSINCE) answers is what we tell. */
static void changes_are_those_of_dovecot(void **state)
{
	const struct fixture *fx = *state;
	struct dovecot dovecot;
	struct index_changes changes;
	struct index_record record;
	struct index_iter iter;
	struct error err = {0};

	setup_dovecot(&dovecot, fx, true);
	free(their_fetch(&dovecot)); /* switches modseqs on */
	open_box(&dovecot);
	for (unsigned round = 0; round < 6; round++) {
		char args[128];

		snprintf(args, sizeof(args), "flags %s '\\Seen Round%u' mailbox INBOX uid %u",
			 round % 2 == 0 ? "add" : "remove", round / 2, round % 3 + 1);
		doveadm_do(&dovecot, args);
		if (round == 3)
			save_mail(&dovecot, "later");
	}
	must(index_refresh(dovecot.index, &err), &err);
	index_iter_init(dovecot.index, 0, &iter);
	while (index_iter_next(&iter, &record)) {
		struct index_record other;
		struct index_iter others;
		size_t i = 0;

		must(index_changes(dovecot.index, record.modseq, NULL, &changes, &err), &err);
		index_iter_init(dovecot.index, 0, &others);
		while (index_iter_next(&others, &other)) {
			if (other.modseq <= record.modseq)
				continue;
			assert_true(i < changes.count);
			assert_int_equal(changes.change[i].uid, other.uid);
			assert_int_equal(changes.change[i].modseq, other.modseq);
			i++;
		}
		assert_int_equal(i, changes.count);
		index_changes_free(&changes);
	}
	check_same(&dovecot, "changes");
	teardown_dovecot(&dovecot);
}

/* A history without modseqs, of which a part may lie in a log that was rotated away. */
static void make_history(const struct dovecot *dovecot, unsigned rotations)
{
	static const char rotate[] = "-o mail_index_log_rotate_min_size=1 "
				     "-o mail_index_log_rotate_min_age=0s "
				     "-o mail_index_log_rotate_max_size=100 ";

	for (unsigned round = 0; round <= rotations; round++) {
		char args[512];

		snprintf(args, sizeof(args), "%sflags add '\\Seen' mailbox INBOX uid %u",
			 round > 0 ? rotate : "", 1 + round % 2);
		doveadm_do(dovecot, args);
		save_mail(dovecot, "more");
		snprintf(args, sizeof(args), "flags add 'Custom' mailbox INBOX uid %u", 3 + round);
		doveadm_do(dovecot, args);
	}
	doveadm_do(dovecot, "expunge mailbox INBOX uid 3");
}

/* Whoever asks for modseqs first: the messages of before have the same for both. */
static void modseqs_are_switched_on(void **state, bool mdbox, unsigned rotations, bool by_us)
{
	struct dovecot dovecot;
	struct index_status status;

	setup_dovecot(&dovecot, *state, mdbox);
	make_history(&dovecot, rotations);
	open_box(&dovecot);
	index_status(dovecot.index, &status);
	assert_false(status.has_modseqs);
	if (by_us)
		append_message(&dovecot, status.next_uid + 3, status.highest_modseq + 10);
	check_same(&dovecot, by_us ? "switched on by us" : "switched on by Dovecot");
	change_messages(&dovecot);
	check_same(&dovecot, "and on");
	teardown_dovecot(&dovecot);
}

#define SWITCH_ON(name, mdbox, rotations, by_us)                                                   \
	static void name(void **state)                                                             \
	{                                                                                          \
		modseqs_are_switched_on(state, mdbox, rotations, by_us);                           \
	}
SWITCH_ON(modseqs_by_us_in_a_young_log, true, 0, true)
SWITCH_ON(modseqs_by_dovecot_in_a_young_log, true, 0, false)
SWITCH_ON(modseqs_by_us_after_a_rotation, true, 1, true)
SWITCH_ON(modseqs_by_dovecot_after_a_rotation, true, 1, false)
SWITCH_ON(modseqs_by_us_after_two_rotations, true, 2, true)
SWITCH_ON(modseqs_by_dovecot_after_two_rotations, true, 2, false)
SWITCH_ON(modseqs_by_us_in_maildir, false, 2, true)
SWITCH_ON(modseqs_by_dovecot_in_maildir, false, 2, false)

/* The first uids of the last days are those that Dovecot would have written. */
static void the_days_first_uids_are_as_dovecots(void **state)
{
	static const unsigned ages[] = {0, 1, 2, 5, 8, 30};
	struct dovecot dovecot;
	uint8_t theirs[4 + HDR_DAYS * 4], first_stamp[4], nothing[4] = {0};

	setup_dovecot(&dovecot, *state, true);
	open_box(&dovecot);
	memcpy(first_stamp, index_header(dovecot.index) + HDR_DAY_STAMP, 4);
	assert_memory_not_equal(first_stamp, nothing, 4);
	for (size_t i = 0; i < sizeof(ages) / sizeof(ages[0]); i++) {
		uint32_t first = 1000 * (uint32_t)(i + 1);
		uint8_t days[4 + HDR_DAYS * 4];
		struct index_txn *txn = begin(dovecot.index);
		struct error err = {0};

		/* A mailbox that was last appended to some days ago, with 8 days before it. */
		index_put32(days, index_get32(first_stamp) - ages[i] * 86400);
		for (uint32_t day = 0; day < HDR_DAYS; day++)
			index_put32(days + 4 + (size_t)day * 4, first - day);
		must(index_set_next_uid(txn, first + 1, &err), &err);
		must(index_set_header(txn, HDR_DAY_STAMP, days, sizeof(days), &err), &err);
		commit(&txn);
		save_mail(&dovecot, "today");
		must(index_refresh(dovecot.index, &err), &err);
		memcpy(theirs, index_header(dovecot.index) + HDR_DAY_STAMP, sizeof(theirs));
		/* The same once more, by us. */
		txn = begin(dovecot.index);
		must(index_set_header(txn, HDR_DAY_STAMP, days, sizeof(days), &err), &err);
		commit(&txn);
		append_message(&dovecot, first + 10, 0);
		for (size_t field = 0; field < sizeof(theirs); field += 4) {
			uint32_t uid = index_get32(theirs + field);

			/* Ours is another message. */
			if (uid == first + 1)
				uid = first + 10;
			assert_int_equal(
				index_get32(index_header(dovecot.index) + HDR_DAY_STAMP + field),
				uid);
		}
	}
	check_log(&dovecot);
	teardown_dovecot(&dovecot);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(beside_dovecot_maildir),
		TEST(beside_dovecot_mdbox),
		TEST(changes_are_those_of_dovecot),
		TEST(the_days_first_uids_are_as_dovecots),
		TEST(modseqs_by_us_in_a_young_log),
		TEST(modseqs_by_dovecot_in_a_young_log),
		TEST(modseqs_by_us_after_a_rotation),
		TEST(modseqs_by_dovecot_after_a_rotation),
		TEST(modseqs_by_us_after_two_rotations),
		TEST(modseqs_by_dovecot_after_two_rotations),
		TEST(modseqs_by_us_in_maildir),
		TEST(modseqs_by_dovecot_in_maildir),
	};

	if (geteuid() != 0 || system("command -v doveadm >/dev/null && " // NOLINT(cert-env33-c)
				     "command -v setpriv >/dev/null") != 0) {
		fprintf(stderr, "skipped: needs root, doveadm and setpriv\n");
		return SKIPPED;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
