/*
 * A mailbox as we see it and as a real Dovecot does: UIDs, GUIDs, MODSEQs, dates, flags, status.
 */
#ifndef DSYNCFS_TESTS_DOVECOT_VIEW_H
#define DSYNCFS_TESTS_DOVECOT_VIEW_H

#include "tests/maildir/dovecot_fixture.h"

/* "uid guid modseq received: flags" of INBOX, a line each; malloc'ed. */
char *dovecot_view(struct fixture *fx);
char *own_view(struct mailbox *box);
/* Dovecot sees what we see, says nothing, and a forced resync does not change it. */
void assert_agrees(struct fixture *fx, struct mailbox *box);
/* Drops from its log what a forced resync of dbox says. */
void forget_rebuild(struct fixture *fx);
/* What an IMAP session answers to these commands. */
char *imap(struct fixture *fx, const char *commands);

#endif
