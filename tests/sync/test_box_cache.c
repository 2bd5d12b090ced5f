/* Mailboxes that stay open: the same object comes back, and shows what is so now. */
#include "tests/maildir/maildir_fixture.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "sync/box_cache.h"

#define BODY "Subject: x\n\nbody\n"

static struct mailbox *must_take(struct box_cache *cache, struct fixture *fx, const char *name)
{
	struct mailbox *box = NULL;
	struct error err = {0};

	must(box_cache_take(cache, &fx->user, name, &box, &err), &err);
	assert_non_null(box);
	return box;
}

static void make_folder(struct fixture *fx, const char *name)
{
	must_shell("mkdir -p '%s/.%s/cur' '%s/.%s/new' '%s/.%s/tmp'", fx->maildir, name,
		   fx->maildir, name, fx->maildir, name);
}

static void test_an_open_mailbox_comes_back_refreshed(void **state)
{
	struct fixture *fx = *state;
	struct box_cache cache = {0};
	struct mailbox *box, *again, *other;

	fixture_make_maildir(fx);
	box = again = must_take(&cache, fx, "INBOX");
	box_cache_put(&cache, &fx->user, &again);
	assert_null(again);
	other = must_open(fx, "INBOX");
	append_mail(other, &(struct new_mail){.guid = "1.a", .body = BODY});
	mailbox_close(&other);
	again = must_take(&cache, fx, "INBOX");
	assert_ptr_equal(again, box);
	assert_int_equal(mailbox_status(again)->messages, 1);
	assert_int_equal(cache.count, 0);

	/* Another user's INBOX is another mailbox. */
	box_cache_put(&cache, &fx->user, &again);
	struct mail_user stranger = fx->user;
	struct error err = {0};

	must(box_cache_take(&cache, &stranger, "INBOX", &other, &err), &err);
	assert_ptr_not_equal(other, box);
	box_cache_put(&cache, &stranger, &other);
	assert_int_equal(cache.count, 2);
	box_cache_forget(&cache, &fx->user, NULL);
	assert_int_equal(cache.count, 1);
	assert_ptr_equal(cache.kept[0].user, &stranger);
	box_cache_forget(&cache, &stranger, "INBOX");
	assert_int_equal(cache.count, 0);
}

static void test_what_took_its_place_is_opened(void **state)
{
	struct fixture *fx = *state;
	struct box_cache cache = {0};
	struct mailbox *box;
	struct error err = {0};
	struct guid guid;

	fixture_make_maildir(fx);
	make_folder(fx, "Work");
	box = must_take(&cache, fx, "Work");
	guid = mailbox_status(box)->guid;
	box_cache_put(&cache, &fx->user, &box);
	must_shell("mv '%s/.Work' '%s/.Away'", fx->maildir, fx->maildir);
	assert_int_equal(box_cache_take(&cache, &fx->user, "Work", &box, &err), -ENOENT);
	assert_null(box);
	assert_int_equal(cache.count, 0);
	box = must_take(&cache, fx, "Away");
	box_cache_put(&cache, &fx->user, &box);
	make_folder(fx, "Work");
	box = must_take(&cache, fx, "Work");
	assert_false(guid_equal(&guid, &mailbox_status(box)->guid));
	box_cache_put(&cache, &fx->user, &box);
	must_shell("rm -r '%s/.Away' && mv '%s/.Work' '%s/.Away'", fx->maildir, fx->maildir,
		   fx->maildir);
	box = must_take(&cache, fx, "Away");
	assert_false(guid_equal(&guid, &mailbox_status(box)->guid));
	mailbox_close(&box);
	box_cache_forget(&cache, &fx->user, NULL);
}

static void test_it_keeps_the_last_used(void **state)
{
	struct fixture *fx = *state;
	struct box_cache cache = {0};
	struct mailbox *box, *first;
	char name[32];

	fixture_make_maildir(fx);
	first = box = must_take(&cache, fx, "INBOX");
	box_cache_put(&cache, &fx->user, &box);
	for (int i = 0; i < BOX_CACHE_BOXES + 3; i++) {
		snprintf(name, sizeof name, "f%d", i);
		make_folder(fx, name);
		box = must_take(&cache, fx, name);
		box_cache_put(&cache, &fx->user, &box);
		box = must_take(&cache, fx, "INBOX");
		assert_ptr_equal(box, first);
		box_cache_put(&cache, &fx->user, &box);
	}
	assert_int_equal(cache.count, BOX_CACHE_BOXES);
	/* Taken twice, kept once. */
	box = must_take(&cache, fx, "INBOX");
	first = must_take(&cache, fx, "INBOX");
	assert_ptr_not_equal(box, first);
	box_cache_put(&cache, &fx->user, &box);
	box_cache_put(&cache, &fx->user, &first);
	assert_int_equal(cache.count, BOX_CACHE_BOXES);
	box_cache_forget(&cache, &fx->user, NULL);
	assert_int_equal(cache.count, 0);
}

#define UNIT(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		UNIT(test_an_open_mailbox_comes_back_refreshed),
		UNIT(test_what_took_its_place_is_opened),
		UNIT(test_it_keeps_the_last_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
