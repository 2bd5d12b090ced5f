/*
 * A configuration for the Dovecot that is installed, 2.3 or 2.4, whose settings are written
 * differently and whose doveadm wants to be told when no userdb is to be asked.
 */
#ifndef DSYNCFS_TESTS_DOVECOT_CONFIG_H
#define DSYNCFS_TESTS_DOVECOT_CONFIG_H

#include <stdbool.h>

/* 2.4 or later. */
bool dovecot_is_24(void);

/* Writes into the directory root dovecot.conf, for the one user alice with this home, and a program
 * doveadm, which is Dovecot's with that configuration and for that user (the caller sets HOME,
 * USER and uid). Dovecot logs to root/dovecot.log and runs in root/run, which are the caller's to
 * make. location: as in 2.3, "maildir:~/Maildir:LAYOUT=fs". Returns 0 or a negative errno. */
int dovecot_config_write(const char *root, const char *home, const char *location, char separator);

#endif
