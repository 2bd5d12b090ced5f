/*
 * A sample store against what Dovecot said about it: tests/samples/NAME.expected.txt.
 */
#ifndef DSYNCFS_TESTS_SAMPLE_CHECK_H
#define DSYNCFS_TESTS_SAMPLE_CHECK_H

#include "tests/maildir/maildir_fixture.h"

/* Unpacks it into the home and compares every mailbox and message. */
void check_sample(struct fixture *fx, const char *sample);
/* Reading changes nothing: no file of the store is other than before. */
void check_unchanged(struct fixture *fx, const char *sample);

#endif
