/*
 * A mailbox of 5,000 mails (of dbox 300) that we, plain programs and a real Dovecot change in
 * turn, in a random order with a fixed seed: after every step both see the same UIDs, MODSEQs,
 * flags and keywords, and Dovecot has nothing to say in its log. DSYNCFS_TEST_SEED and
 * DSYNCFS_TEST_STEPS look further.
 *
 * Usage: test_maildir_dovecot_random [maildir | mdbox | sdbox]
 *
 * Needs root and Dovecot; skipped elsewhere.
 */
#include "tests/maildir/dovecot_fixture.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "store/base/file.h"
#include "store/index/index.h"
#include "store/index/index_files.h"
#include "store/mail_purge.h"
#include "store/mailbox_list.h"

#define BODY	   "Subject: x\n\nline one\nline two\n"
#define MAILS	   5000
#define DBOX_MAILS 300
#define STEPS	   16
#define PICKED_MAX 40

static const char *format = "maildir";

static bool is_dbox(void)
{
	return strcmp(format, "maildir") != 0;
}

struct walk {
	struct fixture *fx;
	struct mailbox *box;
	uint64_t seed;
	unsigned delivered;
	uint32_t *uids; /* of the messages that are there */
	size_t uid_count;
	const char *step; /* for messages */
};

static const char *const keyword_names[] = {"$Forwarded", "$Label1", "Custom", "Junk",
					    "NonJunk",	  "todo",    "x-a",    "x-b"};
#define KEYWORDS (sizeof keyword_names / sizeof keyword_names[0])

static unsigned roll(struct walk *walk, unsigned below)
{
	walk->seed = walk->seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned)(walk->seed >> 33) % below;
}

/* ---- both views ---- */

struct view {
	struct buf out;
	struct walk *walk;
};

static int view_mail(void *ctx, const struct mail *mail)
{
	static const char *const names[] = {"\\Answered", "\\Flagged", "\\Deleted", "\\Seen",
					    "\\Draft"};
	AUTO_BUF struct buf words = BUF_INIT(8192);
	struct view *view = ctx;

	view->walk->uids[view->walk->uid_count++] = mail->uid;
	buf_printf(&view->out, "%u %llu:", mail->uid, (unsigned long long)mail->modseq);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
		if (mail->flags & 1U << i)
			buf_printf(&words, "%s ", names[i]);
	}
	for (unsigned i = 0; i < mail->keywords.count; i++)
		buf_printf(&words, "%s ", mail->keywords.names[i]);
	if (words.data)
		append_sorted_words(&view->out, words.data);
	buf_append_byte(&view->out, '\n');
	return 0;
}

static char *own_view(struct walk *walk)
{
	struct view view = {.out = BUF_INIT(4 << 20), .walk = walk};
	struct error err = {0};

	walk->uid_count = 0;
	must(mailbox_refresh(walk->box, &err), &err);
	must(mailbox_each(walk->box, 1, UINT32_MAX, view_mail, &view, &err), &err);
	return view.out.data ? view.out.data : strdup("");
}

static char *dovecot_view(struct fixture *fx)
{
	char *text = doveadm(fx, "-f tab fetch 'uid modseq flags' mailbox INBOX ALL");
	struct buf out = BUF_INIT(4 << 20);
	char *save = NULL;

	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *uid = strsep(&line, "\t"), *modseq = strsep(&line, "\t");

		if (!line || strcmp(uid, "uid") == 0)
			continue;
		buf_printf(&out, "%s %s:", uid, modseq);
		append_sorted_words(&out, line);
		buf_append_byte(&out, '\n');
	}
	free(text);
	return out.data ? out.data : strdup("");
}

/* The first line that differs says more than two views of 5,000 lines. */
static void must_be_equal(const struct walk *walk, unsigned step, const char *own,
			  const char *theirs)
{
	while (*own && *own == *theirs) {
		size_t len = strcspn(own, "\n") + 1;

		if (strncmp(own, theirs, len) != 0)
			break;
		own += len;
		theirs += len;
	}
	if (strcmp(own, theirs) != 0)
		fail_msg("step %u (%s): we see \"%.*s\", Dovecot \"%.*s\"", step, walk->step,
			 (int)strcspn(own, "\n"), own, (int)strcspn(theirs, "\n"), theirs);
}

static void must_agree(struct walk *walk, unsigned step)
{
	char *own, *theirs = dovecot_view(walk->fx), *text, expected[200];
	const struct mailbox_status *status;

	own = own_view(walk);
	must_be_equal(walk, step, own, theirs);
	text = doveadm(walk->fx, "-f flow mailbox status 'messages uidnext uidvalidity "
				 "highestmodseq' INBOX");
	status = mailbox_status(walk->box);
	snprintf(expected, sizeof expected,
		 "INBOX messages=%u uidnext=%u uidvalidity=%u highestmodseq=%llu", status->messages,
		 status->uid_next, status->uid_validity,
		 (unsigned long long)status->highest_modseq);
	if (strncmp(text, expected, strlen(expected)) != 0)
		fail_msg("step %u (%s): we have %s, Dovecot %s", step, walk->step, expected, text);
	assert_no_complaints(walk->fx);
	free(own);
	free(theirs);
	free(text);
}

/* ---- random values ---- */

static size_t pick_uids(struct walk *walk, uint32_t uids_r[PICKED_MAX])
{
	size_t count = 1 + roll(walk, PICKED_MAX);

	for (size_t i = 0; i < count; i++)
		uids_r[i] = walk->uids[roll(walk, (unsigned)walk->uid_count)];
	return count;
}

static struct keyword_set pick_keywords(struct walk *walk, const char *names[KEYWORDS])
{
	struct keyword_set set = {.names = names};
	unsigned mask = roll(walk, 1U << KEYWORDS);

	mask &= roll(walk, 1U << KEYWORDS); /* few of them */
	for (unsigned i = 0; i < KEYWORDS; i++) {
		if (mask & 1U << i)
			names[set.count++] = keyword_names[i];
	}
	return set;
}

static char *uid_set(struct walk *walk)
{
	struct buf set = BUF_INIT(4096);
	uint32_t uids[PICKED_MAX];
	size_t count = pick_uids(walk, uids);

	for (size_t i = 0; i < count; i++) {
		buf_printf(&set, "%s%u", i ? "," : "", uids[i]);
		if (roll(walk, 8) == 0)
			buf_printf(&set, ":%u", uids[i] + roll(walk, 100));
	}
	return set.data;
}

/* ---- what we do ---- */

/* Under the lock: Dovecot may be at work at the same time. */
static bool is_there(struct walk *walk, uint32_t uid)
{
	struct error ignored;
	struct mail mail;

	return mailbox_find(walk->box, uid, &mail, &ignored) == 0;
}

static void we_set_flags(struct walk *walk)
{
	struct mailbox_txn *txn;
	struct error err = {0};
	uint32_t uids[PICKED_MAX];
	size_t count = pick_uids(walk, uids);

	must(mailbox_begin(walk->box, &txn, &err), &err);
	for (size_t i = 0; i < count; i++) {
		uint64_t highest = mailbox_status(walk->box)->highest_modseq;
		uint64_t modseq = roll(walk, 2) ? 0 : highest + roll(walk, 50);
		const char *names[KEYWORDS];

		if (!is_there(walk, uids[i]))
			continue;
		must(mailbox_set_flags(txn, uids[i], (uint8_t)roll(walk, 32),
				       pick_keywords(walk, names), modseq, &err),
		     &err);
	}
	must(mailbox_commit(&txn, NULL, &err), &err);
}

static void we_expunge(struct walk *walk)
{
	struct mailbox_txn *txn;
	struct error err = {0};
	uint32_t uids[PICKED_MAX];
	size_t count = pick_uids(walk, uids);

	must(mailbox_begin(walk->box, &txn, &err), &err);
	for (size_t i = 0; i < count; i++) {
		if (is_there(walk, uids[i]))
			must(mailbox_expunge(txn, uids[i], &err), &err);
	}
	if (roll(walk, 2))
		must(mailbox_raise(txn, 0, mailbox_status(walk->box)->highest_modseq + 30, 0, &err),
		     &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

static void we_append(struct walk *walk)
{
	unsigned count = 1 + roll(walk, 8);
	struct mail_spool *spools[8];
	struct new_mail mails[8];
	struct mailbox_txn *txn;
	struct error err = {0};
	char guids[8][40];

	for (unsigned i = 0; i < count; i++) {
		snprintf(guids[i], sizeof guids[i], "ours.%u", walk->delivered++);
		mails[i] = (struct new_mail){.guid = guids[i],
					     .body = BODY,
					     .flags = (uint8_t)roll(walk, 32),
					     .keywords = {keyword_names[roll(walk, KEYWORDS)]},
					     .recent = roll(walk, 2) == 0};
		if (roll(walk, 3) == 0)
			mails[i].saved = 1500000000 + roll(walk, 1000);
		if (roll(walk, 3) == 0)
			mails[i].modseq =
				mailbox_status(walk->box)->highest_modseq + roll(walk, 20);
		spools[i] = spool_mail(walk->box, &mails[i]);
	}
	must(mailbox_begin(walk->box, &txn, &err), &err);
	for (unsigned i = 0; i < count; i++)
		txn_append(txn, spools[i], &mails[i], mailbox_status(walk->box)->uid_next + 2 * i);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

static void we_move_and_copy(struct walk *walk)
{
	struct mailbox_txn *txn;
	struct error err = {0};
	uint32_t next, moved = walk->uids[roll(walk, (unsigned)walk->uid_count)];
	uint32_t copied = walk->uids[roll(walk, (unsigned)walk->uid_count)];
	char guid[40];

	snprintf(guid, sizeof guid, "copy.%u", walk->delivered++);
	must(mailbox_begin(walk->box, &txn, &err), &err);
	next = mailbox_status(walk->box)->uid_next;
	if (is_there(walk, copied))
		must(mailbox_copy(txn, copied,
				  &(struct mail){.uid = next, .guid = guid, .flags = MAIL_SEEN},
				  &err),
		     &err);
	if (is_there(walk, moved))
		must(mailbox_change_uid(txn, moved, next + 3, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

static void we_rotate(struct walk *walk)
{
	const struct index_options options = {.label = "rotation", .backup = is_dbox()};
	char path[500];
	AUTO_CLOSE int fd = -1;
	struct index *index;
	struct error err = {0};

	snprintf(path, sizeof path, "%s%s", walk->fx->user.location.inbox,
		 is_dbox() ? "/dbox-Mails" : "");
	fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);

	assert_true(fd >= 0);
	must(index_open(fd, &options, &index, &err), &err);
	if (roll(walk, 2))
		must(index_write_snapshot(index, 1000, &err), &err);
	else
		must(index_rotate(index, 1000, &err), &err);
	index_close(&index);
}

static void we_purge(struct walk *walk)
{
	struct mail_purged purged;
	struct error err = {0};

	must(mail_purge(&walk->fx->user, &purged, &err), &err);
	assert_int_equal(purged.corrected, 0);
}

static void we_open_again(struct walk *walk)
{
	mailbox_close(&walk->box);
	walk->box = must_open(walk->fx, "INBOX");
}

static void we_scan(struct walk *walk)
{
	struct error err = {0};
	size_t missing;
	bool changed;

	must(mailbox_scan(walk->box, &changed, &missing, &err), &err);
	assert_int_equal(missing, 0);
}

/* ---- what plain programs do, and we catch up ---- */

struct plain {
	struct walk *walk;
	struct mail_event events[16];
	char names[16][2][100];
	size_t count;
};

static void plain_deliver(struct plain *plain)
{
	char *name = plain->names[plain->count][0], path[512];

	snprintf(name, 100, "%u.M%uP1.plain", 1000000 + plain->walk->delivered,
		 plain->walk->delivered);
	plain->walk->delivered++;
	deliver(plain->walk->fx, "new", name, BODY);
	snprintf(path, sizeof path, "%s/new/%s", plain->walk->fx->maildir, name);
	assert_int_equal(chown(path, MAIL_UID, MAIL_UID), 0);
	plain->events[plain->count++] = event_delivered(name);
}

/* A file of cur/ gets other flags, or goes. */
static void plain_change(struct plain *plain, const char *name)
{
	char *from = plain->names[plain->count][0], *to = plain->names[plain->count][1];
	const char *flags[] = {"", "S", "FS", "RST", "D", "T"};
	char old[512], new[512];

	snprintf(from, 100, "%s", name);
	snprintf(old, sizeof old, "%s/cur/%s", plain->walk->fx->maildir, from);
	if (roll(plain->walk, 3) == 0) {
		assert_int_equal(unlink(old), 0);
		plain->events[plain->count++] = event_removed(from);
		return;
	}
	snprintf(to, 100, "%.*s:2,%s", (int)strcspn(name, ":"), name, flags[roll(plain->walk, 6)]);
	snprintf(new, sizeof new, "%s/cur/%s", plain->walk->fx->maildir, to);
	assert_int_equal(rename(old, new), 0);
	plain->events[plain->count++] = event_renamed(from, to);
}

static void plain_programs(struct walk *walk)
{
	struct plain plain = {.walk = walk};
	AUTO_DIR DIR *dir = NULL;
	struct dirent *entry;
	char path[400], *names[12];
	size_t count = 0;

	snprintf(path, sizeof path, "%s/cur", walk->fx->maildir);
	dir = opendir(path);
	assert_non_null(dir);
	while ((entry = readdir(dir)) != NULL && count < 12) {
		if (strstr(entry->d_name, ":2,") && roll(walk, MAILS / 20) == 0)
			names[count++] = strdup(entry->d_name);
	}
	for (size_t i = 0; i < count; i++) {
		plain_change(&plain, names[i]);
		free(names[i]);
	}
	for (unsigned i = roll(walk, 4); i > 0; i--)
		plain_deliver(&plain);
	/* Sometimes Dovecot is first, and we find it done. */
	if (roll(walk, 3) == 0) {
		usleep(1000);
		free(doveadm(walk->fx, "mailbox status all INBOX"));
	}
	catch_up(walk->box, plain.events, plain.count);
}

/* ---- what Dovecot does ---- */

static const char *some_flags(struct walk *walk, char flags_r[256])
{
	static const char *const names[] = {"\\Answered", "\\Flagged", "\\Deleted", "\\Seen",
					    "\\Draft"};
	unsigned mask = 1 + roll(walk, 31);
	const char *keywords[KEYWORDS];
	struct keyword_set set = pick_keywords(walk, keywords);
	size_t len = 0;

	for (unsigned i = 0; i < 5; i++) {
		if (mask & 1U << i)
			len += (size_t)snprintf(flags_r + len, 256 - len, "%s ", names[i]);
	}
	for (unsigned i = 0; i < set.count; i++)
		len += (size_t)snprintf(flags_r + len, 256 - len, "%s ", keywords[i]);
	flags_r[len - 1] = '\0';
	return flags_r;
}

static void dovecot_command(struct walk *walk, const char *options, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
static void dovecot_command(struct walk *walk, const char *options, const char *fmt, ...)
{
	char command[3000]; /* -D: what it does to the index, too */
	size_t len = (size_t)snprintf(command, sizeof command, "%s -D ", options);
	va_list args;

	va_start(args, fmt);
	vsnprintf(command + len, sizeof command - len, fmt, args);
	va_end(args);
	free(doveadm(walk->fx, command));
}

static void dovecot_flags(struct walk *walk, const char *options)
{
	static const char *const actions[] = {"add", "remove", "replace"};
	char flags[256], *set = uid_set(walk);

	dovecot_command(walk, options, "flags %s '%s' mailbox INBOX uid %s", actions[roll(walk, 3)],
			some_flags(walk, flags), set);
	free(set);
}

static void dovecot_sets_flags(struct walk *walk)
{
	dovecot_flags(walk, "");
}

static void dovecot_rotates(struct walk *walk)
{
	dovecot_flags(walk, "-o mail_index_log_rotate_min_size=1 "
			    "-o mail_index_log_rotate_min_age=0s "
			    "-o mail_index_log_rotate_max_size=100");
}

static void dovecot_writes_a_snapshot(struct walk *walk)
{
	dovecot_flags(walk, "-o mail_index_rewrite_min_log_bytes=1 "
			    "-o mail_index_rewrite_max_log_bytes=2");
}

static void dovecot_expunges(struct walk *walk)
{
	char *set = uid_set(walk);

	dovecot_command(walk, "", "expunge mailbox INBOX uid %s", set);
	free(set);
}

static void dovecot_saves(struct walk *walk)
{
	char path[400];

	snprintf(path, sizeof path, "%s/mail.txt", walk->fx->root);
	write_file(path, BODY, strlen(BODY));
	free(doveadm_with(walk->fx, path, "save -m INBOX"));
}

static void dovecot_purges(struct walk *walk)
{
	dovecot_command(walk, "", "purge");
}

/* It reads every file name, and finds what the index says. Of dbox it would rebuild everything,
 * with new MODSEQs. */
static void dovecot_resyncs(struct walk *walk)
{
	char *before, *after;

	if (is_dbox())
		return;
	before = own_view(walk);

	dovecot_command(walk, "", "force-resync INBOX");
	after = own_view(walk);
	must_be_equal(walk, 0, before, after);
	free(before);
	free(after);
}

static void imap_commands(struct walk *walk, const char *path)
{
	AUTO_BUF struct buf commands = BUF_INIT(16384);
	char flags[256];

	buf_append_str(&commands, "a SELECT INBOX (CONDSTORE)\r\n");
	for (int i = 0; i < 3; i++) {
		char *set = uid_set(walk);

		buf_printf(&commands, "b UID STORE %s %cFLAGS.SILENT (%s)\r\n", set,
			   roll(walk, 2) ? '+' : '-', some_flags(walk, flags));
		free(set);
	}
	if (roll(walk, 3) == 0)
		buf_append_str(&commands, "c UID EXPUNGE 1:300\r\n");
	buf_printf(&commands, "d APPEND INBOX (\\Seen Custom) {%zu+}\r\n%s\r\ne LOGOUT\r\n",
		   strlen(BODY), BODY);
	write_file(path, commands.data, commands.len);
}

static void dovecot_serves_imap(struct walk *walk)
{
	char path[400], *text;

	snprintf(path, sizeof path, "%s/imap.txt", walk->fx->root);
	imap_commands(walk, path);
	text = doveadm_with(walk->fx, path, "-D exec imap");
	assert_non_null(strstr(text, "d OK"));
	free(text);
}

/* ---- the walk ---- */

static const struct action {
	const char *name;
	void (*run)(struct walk *walk);
	unsigned weight;
} dbox_actions[] =
	{
		{"we purge", we_purge, 2},
		{"Dovecot purges", dovecot_purges, 2},
},
  actions[] = {
	  {"we set flags", we_set_flags, 6},
	  {"we expunge", we_expunge, 3},
	  {"we append", we_append, 4},
	  {"we move and copy", we_move_and_copy, 3},
	  {"we rotate", we_rotate, 2},
	  {"we open again", we_open_again, 2},
	  {"we scan", we_scan, 1},
	  {"plain programs", plain_programs, 5},
	  {"Dovecot sets flags", dovecot_sets_flags, 5},
	  {"Dovecot rotates", dovecot_rotates, 2},
	  {"Dovecot writes a snapshot", dovecot_writes_a_snapshot, 2},
	  {"Dovecot expunges", dovecot_expunges, 3},
	  {"Dovecot saves", dovecot_saves, 2},
	  {"Dovecot resyncs", dovecot_resyncs, 1},
	  {"Dovecot serves IMAP", dovecot_serves_imap, 4},
};

static void fill_dbox(struct walk *walk)
{
	struct error err = {0};

	must(mailbox_list_create(&walk->fx->user, "INBOX", NULL, 0, &err), &err);
	must_shell("chown -R %d:%d '%s'", MAIL_UID, MAIL_UID, walk->fx->home);
	walk->box = must_open(walk->fx, "INBOX");
	walk->step = "filling";
	while (walk->delivered < DBOX_MAILS)
		we_append(walk);
	dovecot_saves(walk);
}

static void fill_maildir(struct walk *walk)
{
	static const char *const flags[] = {"", "S", "FS", "Sa", "RSab", "b"};
	struct fixture *fx = walk->fx;
	char name[64], path[400];

	snprintf(path, sizeof path, "%s/dovecot-keywords", fx->maildir);
	write_file(path, "0 $Label1\n1 Custom\n", 19);
	for (unsigned i = 0; i < MAILS; i++) {
		bool fresh = roll(walk, 3) == 0;

		snprintf(name, sizeof name, "%u.M%uP1.plain%s%s", 1000000 + walk->delivered,
			 walk->delivered, fresh ? "" : ":2,", fresh ? "" : flags[roll(walk, 6)]);
		walk->delivered++;
		deliver(fx, fresh ? "new" : "cur", name, BODY);
		if (i == MAILS / 2) {
			must_shell("chown -R %d:%d '%s'", MAIL_UID, MAIL_UID, fx->maildir);
			free(doveadm(fx, "mailbox status all INBOX"));
			free(doveadm(fx, "flags add 'todo' mailbox INBOX uid 17:300"));
		}
	}
	must_shell("chown -R %d:%d '%s'", MAIL_UID, MAIL_UID, fx->maildir);
	walk->box = must_open(fx, "INBOX");
	walk->step = "first scan";
	we_scan(walk);
}

static void fill_mailbox(struct walk *walk)
{
	if (is_dbox())
		fill_dbox(walk);
	else
		fill_maildir(walk);
}

/* plain programs do nothing to dbox; there is something else to do instead. */
static const struct action *choose_action(struct walk *walk)
{
	const struct action *action = actions;
	unsigned all = 0, at;

	for (size_t i = 0; i < sizeof actions / sizeof actions[0]; i++)
		all += actions[i].weight;
	for (at = roll(walk, all); at >= action->weight; action++)
		at -= action->weight;
	if (is_dbox() && action->run == plain_programs)
		return &dbox_actions[strcmp(format, "mdbox") == 0 ? roll(walk, 2) : 1];
	return action;
}

static unsigned from_environment(const char *name, unsigned otherwise)
{
	const char *value = getenv(name);

	return value ? (unsigned)strtoul(value, NULL, 10) : otherwise;
}

static void test_a_random_walk(void **state)
{
	struct walk walk = {.fx = *state, .seed = from_environment("DSYNCFS_TEST_SEED", 1)};
	unsigned steps = from_environment("DSYNCFS_TEST_STEPS", STEPS);

	walk.uids = calloc(4 * MAILS + 20 * (size_t)steps, sizeof *walk.uids);
	assert_non_null(walk.uids);
	fill_mailbox(&walk);
	must_agree(&walk, 0);
	for (unsigned step = 1; step <= steps; step++) {
		const struct action *action = choose_action(&walk);

		walk.step = action->name;
		if (getenv("DSYNCFS_TEST_SEED"))
			print_message("%u %s\n", step, action->name);
		action->run(&walk);
		/* Before anything else has made it look at the files. */
		if (strncmp(action->name, "we ", 3) == 0 && roll(&walk, 3) == 0)
			dovecot_resyncs(&walk);
		must_agree(&walk, step);
	}
	walk.step = "last resync";
	dovecot_resyncs(&walk);
	must_agree(&walk, steps);
	/* Once more with all that Dovecot could say. */
	free(doveadm(walk.fx, "-D fetch 'uid modseq flags' mailbox INBOX ALL"));
	assert_no_complaints(walk.fx);
	mailbox_close(&walk.box);
	free(walk.uids);
}

/* Dovecot's sessions one after the other; each ends with a line, "1" if all went well. */
static FILE *start_sessions(struct walk *walk, unsigned count)
{
	struct fixture *fx = walk->fx;
	char path[400], command[2000];
	FILE *sessions;

	for (unsigned i = 0; i < count; i++) {
		snprintf(path, sizeof path, "%s/session.%u", fx->root, i);
		imap_commands(walk, path);
	}
	snprintf(command, sizeof command,
		 "cd '%s' && for session in '%s'/session.*; do cat $session | "
		 "setpriv --reuid=%d --regid=%d --clear-groups env HOME='%s' USER=alice TZ=UTC "
		 "'%s/doveadm' exec imap 2>> '%s/dovecot.log' | grep -c '^d OK'; "
		 "done",
		 fx->home, fx->root, MAIL_UID, MAIL_UID, fx->home, fx->root, fx->root);
	sessions = popen(command, "r"); // NOLINT(cert-env33-c)
	assert_non_null(sessions);
	return sessions;
}

/* Both at the same time: nothing is lost, and afterwards both see the same. */
static void test_at_once(void **state)
{
	static void (*const maildir_ours[])(struct walk *) = {we_set_flags, we_expunge, we_append,
							      we_move_and_copy, we_scan};
	static void (*const dbox_ours[])(struct walk *) = {we_set_flags, we_expunge, we_append,
							   we_move_and_copy, we_purge};
	void (*const *ours)(struct walk *) = is_dbox() ? dbox_ours : maildir_ours;
	struct walk walk = {.fx = *state, .seed = from_environment("DSYNCFS_TEST_SEED", 1)};
	unsigned sessions = from_environment("DSYNCFS_TEST_STEPS", STEPS) / 2, served = 0, done = 0;
	char line[100];
	FILE *output;

	walk.uids = calloc(4 * MAILS + 20 * (size_t)sessions, sizeof *walk.uids);
	assert_non_null(walk.uids);
	fill_mailbox(&walk);
	must_agree(&walk, 0);
	walk.step = "at once";
	output = start_sessions(&walk, sessions);
	do {
		struct pollfd waiting = {.fd = fileno(output), .events = POLLIN};

		ours[roll(&walk, 5)](&walk);
		done++;
		if (poll(&waiting, 1, 5) == 0)
			continue;
		if (!fgets(line, sizeof line, output))
			break;
		assert_string_equal(line, "1\n");
		served++;
	} while (served < sessions);
	assert_int_equal(pclose(output), 0);
	assert_int_equal(served, sessions);
	print_message("%u changes by us in %u sessions of Dovecot\n", done, served);
	must_agree(&walk, done);
	dovecot_resyncs(&walk);
	must_agree(&walk, done);
	mailbox_close(&walk.box);
	free(walk.uids);
}

static int setup(void **state)
{
	char location[64];
	int rc = dovecot_setup(state);

	if (rc == 0 && is_dbox()) {
		snprintf(location, sizeof location, "%s:~/%s", format, format);
		dovecot_set_location(*state, location, '/');
	}
	return rc;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_a_random_walk, setup, fixture_teardown),
		cmocka_unit_test_setup_teardown(test_at_once, setup, fixture_teardown),
	};

	if (argc > 1)
		format = argv[1];
	if (!dovecot_is_there()) {
		printf("skipped: needs root and Dovecot\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
