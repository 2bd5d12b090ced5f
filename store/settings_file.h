/*
 * The syntax of Dovecot 2.3's settings files, without their meaning: lines, blocks, includes,
 * quotes, comments, continuation lines, $variables and <files. What each name means is the
 * handler's business.
 *
 *   name = value            a value runs to the end of the line, white space around it dropped
 *   name = "value"          or '...'; in "..." \" and \\ are escapes
 *   name = $other more      $other is the value that `other` has so far
 *   name = <path            the value is the file's content, or the path where the handler says so
 *   type [title] {          a block, to a line with only }
 *   !include path           globs are expanded, relative to this file; !include_try: may be missing
 *   # comment               also behind a value, outside quotes
 *   a line that ends in \   goes on in the next one
 *
 * Bounded: size of a file and of all of them, depth of blocks and includes. Every error names file
 * and line.
 */
#ifndef DSYNCFS_SETTINGS_FILE_H
#define DSYNCFS_SETTINGS_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include "store/base/error.h"

struct settings_place {
	const char *file;
	unsigned line;
};

/* A block and what it lies in. */
struct settings_block {
	const char *type;  /* "service" */
	const char *title; /* "doveadm"; "" where there is none */
	const struct settings_block *parent;
	unsigned depth;
};

/* block is NULL at top level. Each returns 0, or a negative errno and fills err (the place is put
 * in front of its text). */
struct settings_handler {
	void *ctx;
	int (*value)(void *ctx, const struct settings_block *block, const char *name,
		     const char *value, const struct settings_place *place, struct error *err);
	int (*begin)(void *ctx, const struct settings_block *block,
		     const struct settings_place *place, struct error *err);
	int (*end)(void *ctx, const struct settings_block *block,
		   const struct settings_place *place, struct error *err);
	/* The value of $name as seen from block. NULL: no such setting. */
	const char *(*lookup)(void *ctx, const struct settings_block *block, const char *name);
	/* The handler wants the path of `name = <path`, not the content. Its value() then gets the
	   path with '<' in front. */
	bool (*wants_path)(void *ctx, const struct settings_block *block, const char *name);
	void (*warn)(void *ctx, const struct settings_place *place, const char *text);
};

#define SETTINGS_FILE_MAX  ((size_t)1 << 20)
#define SETTINGS_TOTAL_MAX ((size_t)8 << 20)
#define SETTINGS_LINE_MAX  ((size_t)64 << 10)
#define SETTINGS_DEPTH_MAX 16

int settings_file_read(const char *path, const struct settings_handler *handler, struct error *err);
/* The same from memory; name stands for the file. */
int settings_text_read(const char *text, size_t len, const char *name,
		       const struct settings_handler *handler, struct error *err);

#endif
