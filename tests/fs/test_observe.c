/* The observer: which events operations become, whose they are, and when a mailbox becomes dirty.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "fs/observe.h"
#include "store/base/file.h"
#include "tests/fs/journal_double.h"

/* Two homes with Maildirs, and the places of their directories. */
struct fixture {
	struct observer observer;
	struct place *domain, *alice, *bob;
	struct place *maildir, *cur, *new, *tmp; /* alice/Maildir */
	struct place *work, *work_cur;		 /* alice/Maildir/.Work */
	struct place *bob_new;			 /* bob/new: the home is the Maildir */
};

static struct place *child(struct fixture *f, struct place *parent, const char *name)
{
	struct place *place = place_child(f->observer.places, parent, name);

	assert_non_null(place);
	return place;
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof *f);

	f->observer.places = places_create(2);
	f->observer.origins = origins_create();
	f->observer.dirty = dirty_create(f->observer.places, NULL, -1);
	dirty_keep_all(f->observer.dirty, false);
	f->domain = child(f, place_root(f->observer.places), "example.org");
	f->alice = child(f, f->domain, "alice");
	f->bob = child(f, f->domain, "bob");
	f->maildir = child(f, f->alice, "Maildir");
	f->cur = child(f, f->maildir, "cur");
	f->new = child(f, f->maildir, "new");
	f->tmp = child(f, f->maildir, "tmp");
	f->work = child(f, f->maildir, ".Work");
	f->work_cur = child(f, f->work, "cur");
	f->bob_new = child(f, f->bob, "new");
	journal_double_take();
	*state = f;
	return 0;
}

static int teardown(void **state)
{
	struct fixture *f = *state;
	struct place *all[] = {f->bob_new, f->work_cur, f->work,  f->tmp, f->new,
			       f->cur,	   f->maildir,	f->alice, f->bob, f->domain};

	dirty_free(&f->observer.dirty);
	for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
		place_unref(f->observer.places, all[i]);
	origins_free(&f->observer.origins);
	places_free(&f->observer.places);
	free(f);
	return 0;
}

static void begin1(struct fixture *f, struct observed *op, struct place *dir, const char *name)
{
	observe_begin(op, &f->observer, getpid());
	observe_name(op, dir, name);
}

static const char *renamed(struct fixture *f, struct place *from, const char *name,
			   struct place *to, const char *new_name, bool replaced)
{
	struct observed op;

	begin1(f, &op, from, name);
	observe_name(&op, to, new_name);
	observe_dirty(&op);
	observe_renamed(&op, replaced);
	observe_end(&op);
	return journal_double_take_events();
}

static const char *unlinked(struct fixture *f, struct place *dir, const char *name)
{
	struct observed op;

	begin1(f, &op, dir, name);
	observe_dirty(&op);
	observe_unlinked(&op);
	observe_end(&op);
	return journal_double_take_events();
}

static const char *made(struct fixture *f, struct place *dir, const char *name)
{
	struct observed op;

	begin1(f, &op, dir, name);
	observe_ahead(&op);
	observe_dirty(&op);
	observe_made(&op);
	observe_end(&op);
	return journal_double_take_events();
}

#define HOME "example.org/alice"

static void delivery_by_rename(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(renamed(f, f->tmp, "1.a", f->new, "1.a", false),
			    "DELIVERED " HOME "|Maildir|1.a|\n");
	assert_string_equal(renamed(f, f->tmp, "1.a", f->cur, "1.a:2,S", false),
			    "DELIVERED " HOME "|Maildir|1.a:2,S|\n");
	assert_string_equal(renamed(f, f->domain, "x", f->bob_new, "2.b", false),
			    "DELIVERED example.org/bob||2.b|\n");
}

static void delivery_by_link_and_unlink(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(made(f, f->tmp, "1.a"), "");
	assert_string_equal(made(f, f->new, "1.a"), "DELIVERED " HOME "|Maildir|1.a|\n");
	assert_string_equal(unlinked(f, f->tmp, "1.a"), "");
}

static void flags_and_seen(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(renamed(f, f->cur, "1.a:2,", f->cur, "1.a:2,S", false),
			    "RENAMED " HOME "|Maildir|1.a:2,|1.a:2,S\n");
	assert_string_equal(renamed(f, f->new, "1.a", f->cur, "1.a:2,", false),
			    "RENAMED " HOME "|Maildir|1.a|1.a:2,\n");
}

static void expunge_and_replacing(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(unlinked(f, f->cur, "1.a:2,S"), "REMOVED " HOME "|Maildir|1.a:2,S|\n");
	assert_string_equal(renamed(f, f->cur, "1.a:2,", f->cur, "2.b:2,", true),
			    "REMOVED " HOME "|Maildir|2.b:2,|\n"
			    "RENAMED " HOME "|Maildir|1.a:2,|2.b:2,\n");
	assert_string_equal(renamed(f, f->tmp, "1.a", f->cur, "2.b:2,", true),
			    "REMOVED " HOME "|Maildir|2.b:2,|\n"
			    "DELIVERED " HOME "|Maildir|2.b:2,|\n");
	assert_string_equal(renamed(f, f->cur, "1.a:2,", f->tmp, "1.a", false),
			    "REMOVED " HOME "|Maildir|1.a:2,|\n");
}

/* What is told ahead is told by its own event, or taken back. */
static void removals_are_told_ahead(void **state)
{
	struct fixture *f = *state;
	struct observed op;

	unlinked(f, f->cur, "0"); /* dirty from here on */
	unlinked(f, f->work_cur, "0");
	journal_double_number_removals();
	begin1(f, &op, f->cur, "1.a:2,");
	observe_removal_ahead(&op);
	observe_unlinked(&op);
	observe_end(&op);
	assert_string_equal(journal_double_take(), "ahead 1 " HOME "|Maildir|1.a:2,\ntold 1\n"
						   "REMOVED " HOME "|Maildir|1.a:2,|\n");
	/* It fails. */
	begin1(f, &op, f->cur, "1.a:2,");
	observe_removal_ahead(&op);
	observe_end(&op);
	assert_string_equal(journal_double_take(), "ahead 2 " HOME "|Maildir|1.a:2,\nfailed 2\n");
	/* Of two removals only that of the name that goes. */
	begin1(f, &op, f->cur, "1.a:2,");
	observe_name(&op, f->work_cur, "2.b:2,");
	observe_removal_ahead(&op);
	observe_renamed(&op, true);
	observe_end(&op);
	assert_string_equal(journal_double_take(), "ahead 3 " HOME "|Maildir|1.a:2,\n"
						   "REMOVED " HOME "|Maildir/.Work|2.b:2,|\n"
						   "told 3\nREMOVED " HOME "|Maildir|1.a:2,|\n"
						   "DELIVERED " HOME "|Maildir/.Work|2.b:2,|\n");
	/* In one mailbox nothing is removed. */
	begin1(f, &op, f->cur, "1.a:2,");
	observe_name(&op, f->cur, "1.a:2,S");
	observe_removal_ahead(&op);
	observe_end(&op);
	assert_string_equal(journal_double_take(), "");
	begin1(f, &op, f->maildir, ".Work");
	observe_dir_removal_ahead(&op);
	observe_dir_removed(&op);
	observe_end(&op);
	assert_non_null(
		strstr(journal_double_take(), "told 4\nDIR_REMOVED " HOME "|Maildir/.Work"));
}

static void move_between_mailboxes(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(renamed(f, f->cur, "1.a:2,", f->work_cur, "1.a:2,", false),
			    "REMOVED " HOME "|Maildir|1.a:2,|\n"
			    "DELIVERED " HOME "|Maildir/.Work|1.a:2,|\n");
	assert_string_equal(renamed(f, f->new, "1.a", f->bob_new, "1.a", false),
			    "REMOVED " HOME "|Maildir|1.a|\n"
			    "DELIVERED example.org/bob||1.a|\n");
}

static const char *synced(struct fixture *f, const struct place *dir)
{
	journal_double_take();
	observe_sync(&f->observer, dir);
	return journal_double_take();
}

/* Who syncs the directory that a message was removed from has its removal in the journal as well;
 * deliveries wait for nothing. */
static void a_sync_waits_for_removals(void **state)
{
	struct fixture *f = *state;

	renamed(f, f->tmp, "1.a", f->new, "1.a", false);
	assert_string_equal(synced(f, f->new), "");
	renamed(f, f->new, "1.a", f->cur, "1.a:2,S", false);
	assert_string_equal(synced(f, f->cur), "");
	unlinked(f, f->cur, "1.a:2,S");
	assert_string_equal(synced(f, f->cur), "wait " HOME "|Maildir\n");
	assert_string_equal(synced(f, f->new), "");
	renamed(f, f->new, "2.a", f->work_cur, "2.a:2,", false);
	assert_string_equal(synced(f, f->new), "wait " HOME "|Maildir\n");
	assert_string_equal(synced(f, f->work_cur), "wait " HOME "|Maildir\n");
}

static void dot_files_are_no_mail(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(made(f, f->new, ".hidden"), "");
	assert_string_equal(unlinked(f, f->new, ".hidden"), "");
	assert_string_equal(renamed(f, f->new, ".hidden", f->new, "1.a", false),
			    "DELIVERED " HOME "|Maildir|1.a|\n");
}

/* While the uidlist's lock is held catch-up would wait, and so may the events. */
static void events_wait_for_the_lock(void **state)
{
	struct fixture *f = *state;
	struct observed op;

	renamed(f, f->tmp, "1.a", f->new, "1.a", false);
	assert_in_range(journal_double_last_wait(), 0, 2);

	begin1(f, &op, f->maildir, "dovecot-uidlist.lock");
	observe_ahead(&op);
	observe_created(&op);
	observe_end(&op);
	renamed(f, f->tmp, "2.a", f->new, "2.a", false);
	assert_in_range(journal_double_last_wait(), 10, 100);
	renamed(f, f->tmp, "2.a", f->work_cur, "2.a:2,", false);
	assert_in_range(journal_double_last_wait(), 0, 2);
	unlinked(f, f->maildir, "dovecot-uidlist.lock");
	assert_int_equal(journal_double_last_wait(), 0);
	renamed(f, f->new, "2.a", f->cur, "2.a:2,", false);
	assert_in_range(journal_double_last_wait(), 0, 2);

	/* Made by link, and renamed to what it guards. */
	begin1(f, &op, f->maildir, "dovecot-uidlist.lock");
	observe_dirty(&op);
	observe_made(&op);
	observe_end(&op);
	unlinked(f, f->cur, "2.a:2,");
	assert_in_range(journal_double_last_wait(), 10, 100);
	renamed(f, f->maildir, "dovecot-uidlist.lock", f->maildir, "dovecot-uidlist", true);
	assert_int_equal(journal_double_last_wait(), 0);
	unlinked(f, f->cur, "1.a:2,");
	assert_in_range(journal_double_last_wait(), 0, 2);
}

static void uidlist_and_keywords(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(renamed(f, f->maildir, "dovecot-uidlist.lock", f->maildir,
				    "dovecot-uidlist", false),
			    "TOUCHED " HOME "|Maildir||\n");
	assert_string_equal(unlinked(f, f->maildir, "dovecot-uidlist.lock"),
			    "TOUCHED " HOME "|Maildir||\n");
	assert_string_equal(
		renamed(f, f->work, "dovecot-keywords.tmp", f->work, "dovecot-keywords", false),
		"TOUCHED " HOME "|Maildir/.Work||\n");
	assert_string_equal(
		renamed(f, f->work, "dovecot.index.tmp", f->work, "dovecot.index", false), "");
}

static void lists(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(
		renamed(f, f->maildir, "subscriptions.tmp", f->maildir, "subscriptions", false),
		"LIST_TOUCHED " HOME "|Maildir||\n");
	assert_string_equal(unlinked(f, f->maildir, "subscriptions"),
			    "LIST_TOUCHED " HOME "|Maildir||\n");
}

static const char *written(struct fixture *f, struct place *dir, enum place_file kind)
{
	struct observed op;

	observe_begin(&op, &f->observer, 0);
	observe_file(&op, dir, kind);
	observe_dirty(&op);
	observe_written(&op);
	observe_end(&op);
	return journal_double_take_events();
}

static void logs_written(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(written(f, f->work, PLACE_FILE_INDEX_LOG),
			    "TOUCHED " HOME "|Maildir/.Work||\n");
	assert_string_equal(written(f, f->maildir, PLACE_FILE_MAILBOX_LOG),
			    "LIST_TOUCHED " HOME "|Maildir||\n");
	assert_string_equal(written(f, f->maildir, PLACE_FILE_OTHER_LOG), "");
}

static const char *dir_made(struct fixture *f, struct place *dir, const char *name)
{
	struct observed op;

	begin1(f, &op, dir, name);
	observe_dir_made(&op);
	observe_end(&op);
	return journal_double_take_events();
}

static const char *dir_removed(struct fixture *f, struct place *dir, const char *name)
{
	struct observed op;

	begin1(f, &op, dir, name);
	observe_dir_removed(&op);
	observe_end(&op);
	return journal_double_take_events();
}

static void mailboxes_made_and_removed(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(dir_made(f, f->maildir, ".Play"), "");
	assert_string_equal(dir_made(f, f->work, "new"), "");
	assert_string_equal(dir_made(f, f->work, "cur"), "DIR_CREATED " HOME "|Maildir/.Work||\n");
	assert_string_equal(dir_made(f, f->bob, "cur"), "DIR_CREATED example.org/bob|||\n");
	assert_string_equal(dir_removed(f, f->work, "cur"), "");
	assert_string_equal(dir_removed(f, f->maildir, ".Work"),
			    "DIR_REMOVED " HOME "|Maildir/.Work||\n");
	assert_string_equal(dir_removed(f, f->domain, "alice"), "RESCAN_HOME " HOME "|||\n");
}

static const char *dir_renamed(struct fixture *f, struct place *from, const char *name,
			       struct place *to, const char *new_name, int dir_fd)
{
	struct observed op;

	begin1(f, &op, from, name);
	observe_name(&op, to, new_name);
	observe_dir_renamed(&op, NULL, dir_fd);
	observe_end(&op);
	return journal_double_take_events();
}

/* Who syncs the directory of the mailboxes knows where they are: that is in the journal as well. */
static void a_sync_waits_for_renames_of_directories(void **state)
{
	struct fixture *f = *state;

	assert_string_equal(synced(f, f->maildir), "");
	dir_renamed(f, f->maildir, ".Work", f->maildir, ".Play", -1);
	assert_string_equal(synced(f, f->maildir), "wait " HOME "|Maildir/.Work\n");
	dir_removed(f, f->maildir, ".Play");
	assert_string_equal(synced(f, f->maildir), "wait " HOME "|Maildir/.Play\n");
	dir_renamed(f, f->work, "Sub", f->maildir, ".Sub", -1);
	assert_string_equal(synced(f, f->maildir), "wait " HOME "|Maildir/.Work/Sub\n");
	assert_string_equal(synced(f, f->work), "wait " HOME "|Maildir/.Work/Sub\n");
}

static void mailboxes_renamed(void **state)
{
	struct fixture *f = *state;
	char dir[] = "/tmp/test_observe.XXXXXX";
	int fd;

	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	assert_int_equal(mkdirat(fd, ".New", 0700), 0);
	assert_int_equal(mkdirat(fd, ".New/cur", 0700), 0);
	assert_int_equal(mkdirat(fd, "example.net", 0700), 0);
	assert_int_equal(mkdirat(fd, "example.net/carol", 0700), 0);
	assert_string_equal(dir_renamed(f, f->maildir, ".Work", f->maildir, ".Play", fd),
			    "DIR_RENAMED " HOME "|Maildir/.Work|Maildir/.Play|\n");
	/* From outside any home. */
	assert_string_equal(dir_renamed(f, f->domain, "x", f->maildir, ".New", fd),
			    "RESCAN_HOME example.org/x|||\n"
			    "DIR_CREATED " HOME "|Maildir/.New||\n"
			    "RESCAN_HOME " HOME "|||\n");
	/* To another home. */
	assert_string_equal(dir_renamed(f, f->maildir, ".Work", f->bob, ".New", fd),
			    "DIR_REMOVED " HOME "|Maildir/.Work||\n"
			    "RESCAN_HOME " HOME "|||\n"
			    "DIR_CREATED example.org/bob|.New||\n"
			    "RESCAN_HOME example.org/bob|||\n");
	/* A home. */
	assert_string_equal(dir_renamed(f, f->domain, "alice", f->domain, "alicia", fd),
			    "RESCAN_HOME " HOME "|||\nRESCAN_HOME example.org/alicia|||\n");
	/* Homes above. */
	assert_string_equal(dir_renamed(f, place_root(f->observer.places), "example.com",
					place_root(f->observer.places), "example.net", fd),
			    "RESCAN_HOME example.com/carol|||\nRESCAN_HOME example.net/carol|||\n");
	/* A mailbox loses, or gets, its cur. */
	assert_string_equal(dir_renamed(f, f->work, "cur", f->work, "old", fd),
			    "RESCAN " HOME "|Maildir/.Work||\n"
			    "RESCAN_HOME " HOME "|||\n");
	assert_string_equal(dir_renamed(f, f->work, "old", f->work, "cur", fd),
			    "DIR_REMOVED " HOME "|Maildir/.Work/old||\n"
			    "RESCAN_HOME " HOME "|||\n"
			    "RESCAN " HOME "|Maildir/.Work||\n"
			    "DIR_CREATED " HOME "|Maildir/.Work||\n");
	close(fd);
	assert_int_equal(file_remove_tree(AT_FDCWD, dir), -EINVAL);
	fd = open("/tmp", O_RDONLY | O_DIRECTORY);
	assert_int_equal(file_remove_tree(fd, dir + 5), 0);
	close(fd);
}

static int make_domains(char *dir)
{
	static const char *const names[] = {"example.net", "example.net/carol", "example.edu",
					    "example.edu/dave"};
	int fd;

	assert_non_null(mkdtemp(dir));
	fd = open(dir, O_RDONLY | O_DIRECTORY);
	for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
		assert_int_equal(mkdirat(fd, names[i], 0700), 0);
	return fd;
}

static void remove_domains(int fd, const char *dir)
{
	close(fd);
	fd = open("/tmp", O_RDONLY | O_DIRECTORY);
	assert_int_equal(file_remove_tree(fd, dir + strlen("/tmp/")), 0);
	close(fd);
}

/* Nothing that a start after a crash looks at would say that homes have other names. */
static void renames_of_homes_are_durable_when_answered(void **state)
{
	struct fixture *f = *state;
	struct place *root = place_root(f->observer.places);
	char dir[] = "/tmp/test_observe.XXXXXX";
	int fd = make_domains(dir);
	struct observed op;

	begin1(f, &op, f->domain, "alice");
	observe_name(&op, f->domain, "alicia");
	observe_dir_renamed(&op, NULL, fd);
	observe_end(&op);
	assert_string_equal(journal_double_take(), "dirty " HOME "|\n"
						   "wait " HOME "|\n"
						   "RESCAN_HOME " HOME "|||\n"
						   "dirty example.org/alicia|\n"
						   "wait example.org/alicia|\n"
						   "RESCAN_HOME example.org/alicia|||\n"
						   "wait example.org/alicia|\n");
	begin1(f, &op, root, "example.com");
	observe_name(&op, root, "example.net");
	observe_dir_renamed(&op, NULL, fd);
	observe_end(&op);
	assert_string_equal(journal_double_take(), "RESCAN_HOME example.com/carol|||\n"
						   "RESCAN_HOME example.net/carol|||\n"
						   "wait example.net/carol|\n");
	remove_domains(fd, dir);
}

static const char *exchanged(struct fixture *f, struct place *dir, const char *a, const char *b,
			     int dir_fd)
{
	struct observed op;

	journal_double_take();
	begin1(f, &op, dir, a);
	observe_name(&op, dir, b);
	observe_dirs_exchanged(&op, NULL, NULL, (const int[]){dir_fd, dir_fd});
	observe_end(&op);
	return journal_double_take();
}

static void directories_exchanged(void **state)
{
	struct fixture *f = *state;
	struct place *root = place_root(f->observer.places);
	char dir[] = "/tmp/test_observe.XXXXXX";
	int fd = make_domains(dir);

	assert_string_equal(exchanged(f, f->domain, "alice", "bob", fd),
			    "RESCAN_HOME " HOME "|||\n"
			    "RESCAN_HOME example.org/bob|||\n"
			    "dirty " HOME "|\n"
			    "wait " HOME "|\n"
			    "dirty example.org/bob|\n"
			    "wait example.org/bob|\n"
			    "wait example.org/bob|\n");
	assert_string_equal(exchanged(f, f->maildir, ".Work", ".Play", fd),
			    "RESCAN_HOME " HOME "|||\n"
			    "RESCAN_HOME " HOME "|||\n"
			    "dirty " HOME "|Maildir/.Work\n"
			    "wait " HOME "|Maildir/.Work\n"
			    "dirty " HOME "|Maildir/.Play\n"
			    "wait " HOME "|Maildir/.Play\n"
			    "wait " HOME "|\n");
	/* What each holds now was the other's. */
	assert_string_equal(exchanged(f, root, "example.net", "example.edu", fd),
			    "RESCAN_HOME example.edu/carol|||\n"
			    "RESCAN_HOME example.net/carol|||\n"
			    "RESCAN_HOME example.net/dave|||\n"
			    "RESCAN_HOME example.edu/dave|||\n"
			    "wait example.edu/dave|\n");
	remove_domains(fd, dir);
}

static void homes_that_cannot_be_listed_are_found_by_a_scan_of_everything(void **state)
{
	struct fixture *f = *state;
	struct place *root = place_root(f->observer.places);
	char dir[] = "/tmp/test_observe.XXXXXX";
	int fd = make_domains(dir);
	struct rlimit before, none;
	struct observed op;

	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = before;
	none.rlim_cur = (rlim_t)fd;
	begin1(f, &op, root, "example.com");
	observe_name(&op, root, "example.net");
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	observe_dir_renamed(&op, NULL, fd);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	observe_end(&op);
	assert_string_equal(journal_double_take(), "renew\n"
						   "RESCAN_HOME example.com|||\n"
						   "RESCAN_HOME example.net|||\n"
						   "wait example.net|\n");
	remove_domains(fd, dir);
}

static void dirt_comes_first_and_once(void **state)
{
	struct fixture *f = *state;
	struct observed op;

	/* A file in tmp/ starts the commit, and does not wait for it. */
	begin1(f, &op, f->tmp, "1.a");
	observe_ahead(&op);
	observe_dirty(&op);
	assert_string_equal(journal_double_take(), "dirty " HOME "|Maildir\n");
	observe_end(&op);
	/* The rename finds it begun, and waits. */
	begin1(f, &op, f->tmp, "1.a");
	observe_name(&op, f->new, "1.a");
	observe_dirty(&op);
	assert_string_equal(journal_double_take(), "wait " HOME "|Maildir\n");
	observe_renamed(&op, false);
	observe_end(&op);
	assert_string_equal(journal_double_take(), "DELIVERED " HOME "|Maildir|1.a|\n");
	/* The next one costs nothing. */
	begin1(f, &op, f->new, "1.a");
	observe_name(&op, f->cur, "1.a:2,S");
	observe_dirty(&op);
	assert_string_equal(journal_double_take(), "");
	observe_end(&op);
	/* Both mailboxes of a move, in one commit. */
	begin1(f, &op, f->work_cur, "2.b");
	observe_name(&op, f->bob_new, "2.b");
	observe_dirty(&op);
	assert_string_equal(journal_double_take(), "dirty " HOME "|Maildir/.Work\n"
						   "dirty example.org/bob|\n"
						   "wait " HOME "|Maildir/.Work\n"
						   "wait example.org/bob|\n");
	observe_end(&op);
}

static void quiet_mailboxes_leave_the_set(void **state)
{
	struct fixture *f = *state;
	struct observed op;
	int64_t now;

	begin1(f, &op, f->new, "1.a");
	observe_dirty(&op);
	now = dirty_now_ms();
	/* In flight, however long it takes. */
	assert_int_equal(dirty_sweep(f->observer.dirty, now + 60000), 1);
	observe_end(&op);
	assert_int_equal(dirty_sweep(f->observer.dirty, now + 1000), 1);
	journal_double_take();
	assert_int_equal(dirty_sweep(f->observer.dirty, now + 60000), 0);
	assert_string_equal(journal_double_take(), "clean " HOME "|Maildir\n");
	/* And is dirty again at the next change. */
	begin1(f, &op, f->new, "1.a");
	observe_dirty(&op);
	assert_string_equal(journal_double_take(),
			    "dirty " HOME "|Maildir\nwait " HOME "|Maildir\n");
	observe_end(&op);
}

static void renamed_mailbox_is_dirty_by_its_new_name(void **state)
{
	struct fixture *f = *state;
	struct observed op, inner;

	unlinked(f, f->work_cur, "1.a");
	/* One operation is in flight while the folder is renamed. */
	begin1(f, &inner, f->work_cur, "2.b");
	observe_dirty(&inner);
	journal_double_take();
	begin1(f, &op, f->maildir, ".Work");
	observe_name(&op, f->maildir, ".Play");
	observe_dir_renamed(&op, f->work, -1);
	observe_end(&op);
	/* So is the mailbox beside it, whose stamp counts the directories in it. */
	assert_string_equal(journal_double_take(),
			    "dirty " HOME "|Maildir\n"
			    "dirty " HOME "|Maildir/.Play\n"
			    "DIR_RENAMED " HOME "|Maildir/.Work|Maildir/.Play|\n"
			    "RESCAN " HOME "|Maildir/.Play||\n"
			    "wait " HOME "|Maildir/.Play\n");
	observe_end(&inner);
	assert_string_equal(unlinked(f, f->work_cur, "3.c"),
			    "REMOVED " HOME "|Maildir/.Play|3.c|\n");
	/* Both names leave the set. */
	assert_int_equal(dirty_sweep(f->observer.dirty, dirty_now_ms() + 60000), 0);
}

static void rename_work(struct fixture *f, const char *from, const char *to)
{
	struct observed op;

	begin1(f, &op, f->maildir, from);
	observe_name(&op, f->maildir, to);
	assert_int_equal(observe_dir_renamed(&op, f->work, -1), 0);
	observe_end(&op);
}

/* An event that follows the rename in the journal names what is there then. */
static void an_event_names_what_its_mailbox_is_called_by_then(void **state)
{
	struct fixture *f = *state;
	struct observed message, directory;

	begin1(f, &message, f->work_cur, "2.b");
	observe_dirty(&message);
	observe_removal_ahead(&message);
	begin1(f, &directory, f->work, "Sub");
	observe_dir_removal_ahead(&directory);
	rename_work(f, ".Work", ".Play");
	journal_double_take();
	observe_unlinked(&message);
	observe_end(&message);
	observe_dir_removed(&directory);
	observe_end(&directory);
	assert_string_equal(journal_double_take_events(),
			    "REMOVED " HOME "|Maildir/.Play|2.b|\n"
			    "DIR_REMOVED " HOME "|Maildir/.Play/Sub||\n");
}

/* What is entered after a rename, by an operation that began before it, is so by the new name. */
static void a_mailbox_becomes_dirty_by_the_name_it_has_by_then(void **state)
{
	struct fixture *f = *state;
	struct place *sub = child(f, f->work, "Sub"), *sub_cur = child(f, sub, "cur");
	struct observed op;

	begin1(f, &op, sub_cur, "2.b");
	rename_work(f, ".Work", ".Play");
	journal_double_take();
	observe_dirty(&op);
	assert_string_equal(journal_double_take(), "dirty " HOME "|Maildir/.Play/Sub\n"
						   "wait " HOME "|Maildir/.Play/Sub\n");
	observe_end(&op);
	begin1(f, &op, sub_cur, "3.c");
	observe_dirty(&op);
	assert_string_equal(journal_double_take(), "");
	observe_end(&op);
	place_unref(f->observer.places, sub_cur);
	place_unref(f->observer.places, sub);
}

/* Of dbox; by itself the place of this directory looks like a part of another mailbox. */
static void a_mailbox_called_cur_is_dirty_by_its_own_name(void **state)
{
	struct fixture *f = *state;
	struct place *box = child(f, f->maildir, "cur"), *mails = child(f, box, "dbox-Mails");
	struct observed op;

	for (unsigned i = 0; i < 2; i++) {
		begin1(f, &op, mails, "dovecot.index.log");
		observe_dirty(&op);
		assert_string_equal(journal_double_take(), i ? ""
							     : "dirty " HOME "|Maildir/cur\n"
							       "wait " HOME "|Maildir/cur\n");
		observe_end(&op);
	}
	place_unref(f->observer.places, mails);
	place_unref(f->observer.places, box);
}

static void origin_is_the_announcing_process(void **state)
{
	struct fixture *f = *state;
	struct origins *origins = f->observer.origins;

	assert_int_equal(origins_announce(origins, getpid(), "x", 1), -EINVAL);
	assert_int_equal(origins_announce(origins, getpid(), "", 0), -EINVAL);
	assert_int_equal(origins_announce(origins, getpid(), "4294967296", 10), -EINVAL);
	assert_int_equal(origins_announce(origins, 0, "1", 1), -EINVAL);
	assert_int_equal(origins_announce(origins, getpid(), "17", 2), 0);
	assert_int_equal(origins_find(origins, getpid()), 17);
	assert_int_equal(origins_find(origins, 1), 0);
	assert_string_equal(unlinked(f, f->cur, "1.a"),
			    "REMOVED " HOME "|Maildir|1.a| origin=17\n");
	assert_int_equal(origins_announce(origins, getpid(), "0", 1), 0);
	assert_string_equal(unlinked(f, f->cur, "1.a"), "REMOVED " HOME "|Maildir|1.a|\n");
}

static void origin_ends_with_its_process(void **state)
{
	struct fixture *f = *state;
	pid_t pid = fork();

	if (pid == 0) {
		pause();
		_exit(0);
	}
	assert_true(pid > 0);
	assert_int_equal(origins_announce(f->observer.origins, pid, "5", 1), 0);
	assert_int_equal(origins_find(f->observer.origins, pid), 5);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	assert_int_equal(origins_find(f->observer.origins, pid), 0);
}

static void dirty_mailboxes_of_a_crash_are_scanned(void **state)
{
	struct fixture *f = *state;
	struct error err;

	journal_double_dirty_home = "example.org/alice";
	journal_double_dirty_dir = "Maildir";
	assert_int_equal(observe_recover(&f->observer, false, &err), 0);
	assert_string_equal(journal_double_take_events(),
			    "RESCAN " HOME "|Maildir||\nLIST_TOUCHED " HOME "|Maildir||\n");
	assert_int_equal(observe_recover(&f->observer, true, &err), 0);
	assert_string_equal(journal_double_take_events(), "");
	journal_double_dirty_home = NULL;
	assert_int_equal(dirty_sweep(f->observer.dirty, dirty_now_ms() + 60000), 0);
}

static const char *stamps_checked(struct fixture *f, int root_fd, const char *dir)
{
	const bool ending = true;

	journal_double_stamp_home = HOME;
	journal_double_stamp_dir = dir;
	observe_check_stamps(&f->observer, root_fd, &ending);
	journal_double_stamp_home = NULL;
	return journal_double_take();
}

/* The end came before the look at what was written while nothing was mounted. */
static void what_was_not_looked_at_is_not_taken_for_seen(void **state)
{
	struct fixture *f = *state;
	char dir[] = "/tmp/test_observe.XXXXXX";
	int fd = make_domains(dir);

	assert_int_equal(file_mkdirs_beneath(fd, HOME "/Maildir/.Work", 0700), 0);
	dirty_keep_all(f->observer.dirty, true);
	unlinked(f, f->cur, "1.a");
	/* Its stamp would say that all of it was seen. */
	assert_int_equal(dirty_sweep(f->observer.dirty, dirty_now_ms() + 60000), 1);
	assert_string_equal(journal_double_take(), "");
	assert_string_equal(stamps_checked(f, fd, "Maildir/.Work"), "");
	assert_string_equal(stamps_checked(f, fd, "Maildir"), "RESCAN_HOME " HOME "|||\n");
	assert_int_equal(dirty_sweep(f->observer.dirty, dirty_now_ms() + 60000), 0);
	assert_string_equal(journal_double_take(), "clean " HOME "|Maildir\n");
	remove_domains(fd, dir);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(delivery_by_rename),
		TEST(delivery_by_link_and_unlink),
		TEST(flags_and_seen),
		TEST(expunge_and_replacing),
		TEST(removals_are_told_ahead),
		TEST(move_between_mailboxes),
		TEST(a_sync_waits_for_removals),
		TEST(a_sync_waits_for_renames_of_directories),
		TEST(dot_files_are_no_mail),
		TEST(events_wait_for_the_lock),
		TEST(uidlist_and_keywords),
		TEST(lists),
		TEST(logs_written),
		TEST(mailboxes_made_and_removed),
		TEST(mailboxes_renamed),
		TEST(renames_of_homes_are_durable_when_answered),
		TEST(directories_exchanged),
		TEST(homes_that_cannot_be_listed_are_found_by_a_scan_of_everything),
		TEST(dirt_comes_first_and_once),
		TEST(quiet_mailboxes_leave_the_set),
		TEST(renamed_mailbox_is_dirty_by_its_new_name),
		TEST(an_event_names_what_its_mailbox_is_called_by_then),
		TEST(a_mailbox_becomes_dirty_by_the_name_it_has_by_then),
		TEST(a_mailbox_called_cur_is_dirty_by_its_own_name),
		TEST(origin_is_the_announcing_process),
		TEST(origin_ends_with_its_process),
		TEST(dirty_mailboxes_of_a_crash_are_scanned),
		TEST(what_was_not_looked_at_is_not_taken_for_seen),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
