/* See dbox_fixture.h. */
#include "tests/dbox/dbox_fixture.h"

#include <stdio.h>
#include <stdlib.h>
#include "store/mail_purge.h"
#include "store/mailbox_list.h"

int setup_mdbox(void **state)
{
	int rc = dovecot_setup(state);

	if (rc == 0)
		dovecot_set_location(*state, "mdbox:~/mdbox", '/');
	return rc;
}

int setup_sdbox(void **state)
{
	int rc = dovecot_setup(state);

	if (rc == 0)
		dovecot_set_location(*state, "sdbox:~/sdbox", '/');
	return rc;
}

bool is_mdbox(const struct fixture *fx)
{
	return fx->user.location.driver == MAIL_DRIVER_MDBOX;
}

void give_to_user(struct fixture *fx)
{
	must_shell("chown -R %d:%d '%s'", MAIL_UID, MAIL_UID, fx->home);
}

struct mailbox *make_box(struct fixture *fx, const char *name)
{
	struct error err = {0};

	must(mailbox_list_create(&fx->user, name, NULL, 0, &err), &err);
	give_to_user(fx);
	return must_open(fx, name);
}

void fill_with(struct mailbox *box, const char *prefix, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		char guid[32], body[100];

		snprintf(guid, sizeof guid, "%s.%u", prefix, i);
		snprintf(body, sizeof body, "Subject: %u\n\nbody of %u\n", i, i);
		append_mail(box, &(struct new_mail){.guid = guid,
						    .body = body,
						    .flags = i % 3 ? MAIL_SEEN : 0,
						    .keywords = {i % 2 ? "K" : "L"}});
	}
}

void fill(struct mailbox *box, unsigned count)
{
	fill_with(box, "mail", count);
}

void purge(struct fixture *fx, uint32_t messages, uint32_t corrected)
{
	struct mail_purged purged;
	struct error err = {0};

	must(mail_purge(&fx->user, &purged, &err), &err);
	assert_int_equal(purged.messages, messages);
	assert_int_equal(purged.corrected, corrected);
	give_to_user(fx);
}

void damage(struct fixture *fx, struct mailbox **box, const char *command)
{
	struct error err = {0};

	mailbox_close(box);
	must_shell("cd '%s' && %s", fx->home, command);
	must(mailbox_rebuild(&fx->user, "INBOX", &err), &err);
	give_to_user(fx);
	*box = must_open(fx, "INBOX");
}

struct mailbox *make_box_of_many_files(struct fixture *fx, unsigned messages)
{
	struct mailbox *box;

	fx->user.location.rotate_size = 1;
	box = make_box(fx, "INBOX");
	fill(box, messages);
	return box;
}

void assert_files(struct fixture *fx, const char *expected)
{
	char *text =
		shell_output("cd '%s/mdbox/storage' && ls -A | grep ^m | tr '\\n' ' '", fx->home);

	assert_string_equal(text, expected);
	free(text);
}
