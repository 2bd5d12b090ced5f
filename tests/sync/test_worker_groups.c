/* Events by mailbox: what is of one directory and may be of one mailbox is taken in at once. */
#include "sync/worker_groups.h"

#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

static char name[] = "alice", home[] = "/home/alice";
static struct mail_user user = {.name = name, .home = home};

static struct worker_event event_of(enum mail_event_kind kind, const char *dir, uint8_t guid)
{
	return (struct worker_event){
		.event = {.kind = kind, .home = "", .dir = dir, .name = "1.a", .name2 = ""},
		.guid = {.bytes = {guid}},
	};
}

static void add_of(struct worker_groups *groups, enum mail_event_kind kind, const char *dir,
		   uint8_t guid, uint32_t origin)
{
	struct worker_event event = event_of(kind, dir, guid);

	event.event.origin = origin;
	assert_int_equal(worker_groups_add(groups, &user, &event), 0);
}

static void add(struct worker_groups *groups, enum mail_event_kind kind, const char *dir,
		uint8_t guid)
{
	add_of(groups, kind, dir, guid, 0);
}

/* dsyncd takes all of them for done when one group is: a removal would be none, and the mail be put
 * back, while it was waiting behind a group of the same mailbox. */
static void test_events_without_a_mailbox_join_the_others(void **state)
{
	struct worker_groups groups = {0};

	(void)state;
	add(&groups, MAIL_EVENT_TOUCHED, "Maildir/.Work", 0);
	add(&groups, MAIL_EVENT_REMOVED, "Maildir/.Work", 1);
	add(&groups, MAIL_EVENT_TOUCHED, "Maildir", 0);
	add(&groups, MAIL_EVENT_TOUCHED, "Maildir/.Work", 0);
	assert_int_equal(groups.count, 2);
	assert_int_equal(groups.list[0].count, 3);
	assert_int_equal(groups.list[0].guid.bytes[0], 1);
	assert_string_equal(groups.list[0].name, "Work");
	worker_groups_free(&groups);
}

static void test_two_mailboxes_of_one_directory_stay_two(void **state)
{
	struct worker_groups groups = {0};

	(void)state;
	add(&groups, MAIL_EVENT_REMOVED, "Maildir/.Work", 1);
	add(&groups, MAIL_EVENT_DELIVERED, "Maildir/.Work", 2);
	add(&groups, MAIL_EVENT_REMOVED, "Maildir/.Work", 1);
	assert_int_equal(groups.count, 2);
	assert_int_equal(groups.list[0].count, 2);
	assert_int_equal(groups.list[1].count, 1);
	worker_groups_free(&groups);
}

/* What else is scanned may have been renamed by a session, whose word of it is on its way. */
static void test_only_a_mount_that_was_not_there_has_not_seen_all(void **state)
{
	struct worker_groups groups = {0};

	(void)state;
	add(&groups, MAIL_EVENT_DIR_CREATED, "Maildir/.Made", 1);
	add_of(&groups, MAIL_EVENT_DIR_CREATED, "Maildir/.Sent", 1, 7);
	add_of(&groups, MAIL_EVENT_RESCAN, "Maildir/.Busy", 1, 7);
	add(&groups, MAIL_EVENT_RESCAN, "Maildir/.Lost", 1);
	assert_int_equal(groups.count, 4);
	for (size_t i = 0; i < groups.count; i++) {
		assert_true(groups.list[i].scan);
		assert_int_equal(groups.list[i].unseen, strcmp(groups.list[i].name, "Lost") == 0);
	}
	worker_groups_free(&groups);
}

static int setup(void **state)
{
	(void)state;
	return mail_location_parse("maildir:~/Maildir", user.home, &user.location, NULL);
}

static int teardown(void **state)
{
	(void)state;
	mail_location_free(&user.location);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_events_without_a_mailbox_join_the_others),
		cmocka_unit_test(test_two_mailboxes_of_one_directory_stay_two),
		cmocka_unit_test(test_only_a_mount_that_was_not_there_has_not_seen_all),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
