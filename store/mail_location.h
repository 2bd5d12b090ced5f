/*
 * Dovecot's mail_location: "driver:path[:KEY=value]...".
 */
#ifndef DSYNCFS_MAIL_LOCATION_H
#define DSYNCFS_MAIL_LOCATION_H

#include <stdbool.h>
#include <stdint.h>
#include "store/base/error.h"
#include "store/body/compress.h"

enum mail_driver { MAIL_DRIVER_MAILDIR, MAIL_DRIVER_MDBOX, MAIL_DRIVER_SDBOX };
enum mail_layout { MAIL_LAYOUT_MAILDIRPP, MAIL_LAYOUT_FS };

/* Absolute paths; all malloc'ed, freed by mail_location_free(). */
struct mail_location {
	enum mail_driver driver;
	enum mail_layout layout;
	char *root;
	char *index;		  /* INDEX=; equals root when not given */
	char *control;		  /* CONTROL=; equals root when not given */
	char *inbox;		  /* INBOX=; equals root for Maildir when not given */
	char *volatile_dir;	  /* VOLATILEDIR=, where the list's lock is; NULL when not given */
	char volatile_suffix[41]; /* which of the namespaces' locks there; "" without it */
	char *alt; /* dbox: ALT=, where older messages may lie; NULL when not given */
	/* Not of the text: how new messages of dbox are stored. Both may be 0: as they are, and
	 * the format's default. */
	enum compress_method save_compress;
	uint32_t rotate_size;
	uint32_t rotate_interval; /* seconds; 0: files of any age are added to */
	bool preallocate;	  /* a new m.N gets rotate_size bytes of the disk at once */
	char *attachments;	  /* dbox: mail_attachment_dir; NULL: not set */
	bool utf8;		  /* directory names are UTF-8 instead of modified UTF-7 */
};

/* text with variables already expanded; '~/' means home. */
int mail_location_parse(const char *text, const char *home, struct mail_location *location_r,
			struct error *err);
/* Without a setting: what lies in the home (~/Maildir, ~/mdbox, ~/sdbox, or the home itself is a
 * Maildir). */
int mail_location_detect(const char *home, struct mail_location *location_r, struct error *err);
/* Of a namespace with another prefix than "". */
void mail_location_set_prefix(struct mail_location *location, const char *prefix);
void mail_location_free(struct mail_location *location);

#endif
