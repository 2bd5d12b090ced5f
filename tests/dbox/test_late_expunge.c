/*
 * A program asks for an expunge by the UID that it knows, while the message gets another one: the
 * message goes all the same, in every format, and no other does.
 */
#include "tests/dbox/dbox_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "store/index/index.h"
#include "store/index/index_format.h"
#include "store/mail_location.h"

static struct mailbox *make(struct fixture *fx)
{
	if (fx->user.location.driver != MAIL_DRIVER_MAILDIR)
		return make_box(fx, "INBOX");
	fixture_make_maildir(fx);
	return must_open(fx, "INBOX");
}

static void assert_uids(struct mailbox *box, const char *expected)
{
	char *text = describe(box, false), uids[64] = "";

	for (const char *line = text; *line; line = strchr(line, '\n') + 1)
		snprintf(uids + strlen(uids), sizeof(uids) - strlen(uids), "%d ", atoi(line));
	assert_string_equal(uids, expected);
	free(text);
}

static void change_uid(struct mailbox *box, uint32_t uid, uint32_t new_uid)
{
	struct mailbox_txn *txn;
	struct error err = {0};

	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_change_uid(txn, uid, new_uid, 0, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
}

/* The record that Dovecot writes (reference 3.2), of a UID that it knows from before. NULL: it
 * knows no GUID. */
static void ask_for_expunge(struct fixture *fx, uint32_t uid, const char *message_guid)
{
	uint8_t record[LOG_RECORD_HDR + 20] = {0x80, 0x80, 0x80, 0x80 | sizeof(record) / 4};
	char *path = shell_output(
		"find '%s' -name dovecot.index.log -path '*%s*' | tr -d '\\n'", fx->home,
		fx->user.location.driver == MAIL_DRIVER_MAILDIR ? "Maildir" : "INBOX");
	FILE *file = fopen(path, "a");
	struct guid guid = {0};

	if (message_guid)
		guid_from_message_guid(message_guid, &guid);
	index_put32(record + 4, LOG_EXPUNGE_GUID | LOG_PROTECTION);
	index_put32(record + LOG_RECORD_HDR, uid);
	memcpy(record + LOG_RECORD_HDR + 4, guid.bytes, sizeof(guid.bytes));
	assert_non_null(file);
	assert_int_equal(fwrite(record, sizeof(record), 1, file), 1);
	assert_int_equal(fclose(file), 0);
	free(path);
}

static bool look(struct mailbox *box)
{
	struct mail_event event = event_touched();

	return catch_up(box, &event, 1);
}

static void append(struct mailbox *box, const char *guid)
{
	append_mail(box, &(struct new_mail){.guid = guid, .body = BODY});
}

/* Messages 1 and 2, "one" and "two", and who looks from here on knows them. */
static struct mailbox *make_with_two(struct fixture *fx)
{
	struct mailbox *box = make(fx);

	append(box, "one");
	append(box, "two");
	look(box);
	return box;
}

static void asked_for_after_the_change(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make(fx);

	append(box, "one");
	append(box, "two");
	append(box, "three");
	look(box);
	change_uid(box, 2, 7);
	ask_for_expunge(fx, 2, "two");
	assert_uids(box, "1 3 7 ");
	assert_true(look(box));
	assert_uids(box, "1 3 ");
	assert_false(look(box));
	mailbox_close(&box);
	/* Who opens it only now sees the same records of the log, and nothing to do. */
	box = must_open(fx, "INBOX");
	assert_false(look(box));
	assert_uids(box, "1 3 ");
	mailbox_close(&box);
}

/* Two programs at once, or a session that was cut off and its successor. */
static void asked_for_twice(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_with_two(fx);

	change_uid(box, 2, 7);
	ask_for_expunge(fx, 2, "two");
	ask_for_expunge(fx, 2, NULL);
	assert_true(look(box));
	assert_uids(box, "1 ");
	assert_false(look(box));
	mailbox_close(&box);
}

static void asked_for_before_the_change(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_with_two(fx);

	ask_for_expunge(fx, 2, "two");
	change_uid(box, 2, 7);
	mailbox_close(&box);
	box = must_open(fx, "INBOX");
	assert_true(look(box));
	assert_uids(box, "1 ");
	mailbox_close(&box);
}

/* Of another message, of one that went and came again, and of a UID that was changed twice. */
static void another_is_not_taken_for_it(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_with_two(fx);
	struct mailbox_txn *txn;
	struct error err = {0};

	change_uid(box, 2, 7);
	ask_for_expunge(fx, 2, "one");
	assert_false(look(box));
	assert_uids(box, "1 7 ");
	must(mailbox_begin(box, &txn, &err), &err);
	must(mailbox_expunge(txn, 7, &err), &err);
	must(mailbox_commit(&txn, NULL, &err), &err);
	append(box, "two");
	ask_for_expunge(fx, 2, "two");
	assert_false(look(box));
	assert_uids(box, "1 8 ");
	mailbox_close(&box);
}

static void the_uid_was_changed_twice(void **state)
{
	struct fixture *fx = *state;
	struct mailbox *box = make_with_two(fx);

	change_uid(box, 2, 7);
	change_uid(box, 7, 9);
	ask_for_expunge(fx, 2, NULL);
	assert_true(look(box));
	assert_uids(box, "1 ");
	mailbox_close(&box);
}

#define MAILDIR(name) cmocka_unit_test_setup_teardown(name, fixture_setup, fixture_teardown)
#define ALL(name)     MAILDIR(name), MDBOX(name), SDBOX(name)

int main(void)
{
	const struct CMUnitTest tests[] = {
		ALL(asked_for_after_the_change),  ALL(asked_for_twice),
		ALL(asked_for_before_the_change), ALL(another_is_not_taken_for_it),
		ALL(the_uid_was_changed_twice),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
