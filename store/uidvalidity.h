/*
 * UIDVALIDITY values of a user, given out as Dovecot does: dovecot-uidvalidity and the empty
 * dovecot-uidvalidity.<8hex> in the control root. The rename of the latter decides who got a value,
 * so no lock is needed and none is taken; callers may hold any.
 */
#ifndef DSYNCFS_UIDVALIDITY_H
#define DSYNCFS_UIDVALIDITY_H

#include <stdint.h>
#include "store/base/error.h"

struct mail_user;

/* A value that was never given out in this store: larger than every one before. Makes the control
 * root and both files where they are missing. */
int uidvalidity_allocate(const struct mail_user *user, uint32_t *uid_validity_r, struct error *err);

/* A mailbox was given this value from outside: it and lower ones are never given out later. Values
 * above 0xfffffff0 leave the counter alone, so that a peer cannot exhaust it. */
int uidvalidity_raise(const struct mail_user *user, uint32_t uid_validity, struct error *err);

#endif
