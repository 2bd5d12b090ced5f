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
/* Damages the log of INBOX, which has messages 1 to 5, before what its snapshot covers. Opening the
 * mailbox reads the snapshot, and not what came before it; whoever asks what has changed does. It
 * is mended once, and flags stay. */
void check_damage_before_the_snapshot(struct fixture *fx, const char *index_dir);

#endif
