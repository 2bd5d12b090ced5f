/*
 * A journal that remembers instead of writing: stands in for store/journal where a test asks what
 * the observer said, and when it said that a mailbox is dirty.
 */
#ifndef DSYNCFS_TEST_JOURNAL_DOUBLE_H
#define DSYNCFS_TEST_JOURNAL_DOUBLE_H

#include <stddef.h>
#include "store/journal/journal.h"

/* Everything that was called, one line a call, since the last time:
 *   "DELIVERED home|dir|name|name2"  (and " origin=N" where there is one)
 *   "dirty home|dir", "wait home|dir", "clean home|dir"
 *   "renew"
 *   "ahead N home|dir|name" (a removal), "told N" (before its event), "failed N"
 * The text is valid until the next call. */
const char *journal_double_take(void);
/* Only the events. */
const char *journal_double_take_events(void);
/* The next removal is number 1 again. */
void journal_double_number_removals(void);
/* How long the last event may wait. */
unsigned journal_double_last_wait(void);
/* What journal_each_dirty() gives; NULL: nothing. */
extern const char *journal_double_dirty_home;
extern const char *journal_double_dirty_dir;
/* Whose stamp journal_each_stamp() gives; NULL: none. */
extern const char *journal_double_stamp_home;
extern const char *journal_double_stamp_dir;

#endif
