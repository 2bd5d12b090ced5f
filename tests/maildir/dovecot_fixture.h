/*
 * The fixture of maildir_fixture.h with a Dovecot that has the same user. Its mail belongs to
 * another uid, so root is needed.
 */
#ifndef DSYNCFS_TEST_DOVECOT_FIXTURE_H
#define DSYNCFS_TEST_DOVECOT_FIXTURE_H

#include "store/base/buf.h"
#include "tests/maildir/maildir_fixture.h"

#define MAIL_UID 65534

/* Root, doveadm and imap. */
bool dovecot_is_there(void);
/* The teardown is fixture_teardown(). */
int dovecot_setup(void **state);
/* Both get another mail location and separator. */
void dovecot_set_location(struct fixture *fx, const char *location, char separator);
/* What doveadm prints; malloc'ed. Whatever it says on stderr goes to where assert_no_complaints()
 * looks. */
char *doveadm(struct fixture *fx, const char *command);
/* With a file as its input, by a pipe. */
char *doveadm_with(struct fixture *fx, const char *input, const char *command);
void assert_no_complaints(struct fixture *fx);
/* Words in order, without \Recent, which belongs to a session. */
void append_sorted_words(struct buf *out, char *text);

#endif
