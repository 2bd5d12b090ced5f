/* mdbox and sdbox beside a Dovecot: stores to begin with. */
#ifndef DSYNCFS_TESTS_DBOX_FIXTURE_H
#define DSYNCFS_TESTS_DBOX_FIXTURE_H

#include "tests/maildir/dovecot_view.h"

#define BODY "From: a@example.org\nSubject: x\n\nline one\nline two\n"

#define MDBOX(name) cmocka_unit_test_setup_teardown(name, setup_mdbox, fixture_teardown)
#define SDBOX(name) cmocka_unit_test_setup_teardown(name, setup_sdbox, fixture_teardown)

int setup_mdbox(void **state);
int setup_sdbox(void **state);
bool is_mdbox(const struct fixture *fx);
/* The test runs as root; a worker has the user's own uid. */
void give_to_user(struct fixture *fx);
struct mailbox *make_box(struct fixture *fx, const char *name);
void fill_with(struct mailbox *box, const char *prefix, unsigned count);
void fill(struct mailbox *box, unsigned count);
void purge(struct fixture *fx, uint32_t messages, uint32_t corrected);
void damage(struct fixture *fx, struct mailbox **box, const char *command);
/* Each message in a file of its own. */
struct mailbox *make_box_of_many_files(struct fixture *fx, unsigned messages);
void assert_files(struct fixture *fx, const char *expected);

#endif
